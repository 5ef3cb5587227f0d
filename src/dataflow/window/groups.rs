//! The groups of a window: the kept slots of each group's first row, and an accumulator for each aggregate.
//!
//! All groups of a window share two vectors. A group needs no allocation of its own, because windows with many groups
//! come and go all the time.

use std::borrow::Cow;
use std::fmt;

use indexmap::IndexSet;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use crate::dataflow::row::KeyHasher;
use crate::expr::aggregate::Accumulator;
use crate::expr::{EvalError, Expr, Scope};
use crate::plan::physical::{AggregateCall, Stateful};
use crate::value::Value;
use crate::value::key::{GroupKey, KeyPart};

/// Groups by key, in the order of their first rows.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    keys: IndexSet<GroupKey, KeyHasher>,
    rows: GroupRows,
}

/// Groups without their keys, in order: everything that their result rows need.
#[derive(Clone, Debug, Default)]
pub struct GroupRows {
    len: usize,
    /// the kept slots of each group's first row, group by group
    first: Vec<Value>,
    /// group by group
    accumulators: Vec<Accumulator>,
}

impl Groups {
    /// No groups, with room for this many.
    pub fn with_room(groups: usize) -> Groups {
        Groups { keys: IndexSet::with_capacity_and_hasher(groups, KeyHasher::default()), rows: GroupRows::default() }
    }

    pub fn len(&self) -> usize {
        self.rows.len
    }

    pub fn is_empty(&self) -> bool {
        self.rows.len == 0
    }

    /// The number of a key's group.
    #[inline]
    pub fn find(&self, key: &[KeyPart]) -> Option<usize> {
        self.keys.get_index_of(key)
    }

    /// What the accumulators of a group hold.
    #[inline]
    pub fn state(&self, group: usize) -> &[Accumulator] {
        let calls = self.rows.calls();
        &self.rows.accumulators[group * calls..][..calls]
    }

    /// The accumulators of a group.
    #[inline]
    pub fn accumulators(&mut self, group: usize) -> &mut [Accumulator] {
        let calls = self.rows.calls();
        &mut self.rows.accumulators[group * calls..][..calls]
    }

    /// Adds a row to the accumulators of a group: to all of them, or to none if one cannot take it.
    ///
    /// # Errors
    /// An argument of an aggregate cannot be used.
    #[inline]
    pub fn add(&mut self, group: usize, plan: &Stateful, scope: &Scope<'_>) -> Result<(), EvalError> {
        let calls = plan.aggregates.len();
        add_all(&mut self.rows.accumulators[group * calls..][..calls], &plan.aggregates, scope)
    }

    /// Adds a group with this first row; returns its number. The key must not have a group yet.
    ///
    /// # Errors
    /// An argument of an aggregate cannot be used: there is no group.
    pub fn begin(&mut self, key: &GroupKey, plan: &Stateful, scope: &Scope<'_>) -> Result<usize, EvalError> {
        self.rows.make_room(self.keys.capacity(), plan.kept_slots.len(), plan.aggregates.len());
        self.rows.begin(plan, scope)?;
        Ok(self.keys.insert_full(key.clone()).0)
    }

    /// Merges later groups: their accumulators are added to those of the same keys, and new groups are appended. An
    /// error stays in the accumulator and is reported with its result.
    pub fn append(&mut self, later: &Groups) {
        if self.is_empty() {
            *self = later.clone();
            return;
        }
        for (key, first, accumulators) in later.iter() {
            match self.find(key.parts()) {
                None => self.push(key.clone(), first, accumulators),
                Some(group) => merge(self.accumulators(group), accumulators),
            }
        }
    }

    /// Appends a group.
    pub fn push(&mut self, key: GroupKey, first: &[Value], accumulators: &[Accumulator]) {
        self.keys.insert(key);
        self.rows.push(first.iter(), accumulators.iter().cloned());
    }

    /// The key, the kept slots of the first row, and the accumulators of each group, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&GroupKey, &[Value], &[Accumulator])> {
        let (kept, calls) = (self.rows.kept(), self.rows.calls());
        self.keys.iter().enumerate().map(move |(group, key)| {
            let first = &self.rows.first[group * kept..][..kept];
            (key, first, &self.rows.accumulators[group * calls..][..calls])
        })
    }

    /// Drops the first groups.
    pub fn drop_first(&mut self, groups: usize) {
        let groups = groups.min(self.len());
        let (kept, calls) = (self.rows.kept(), self.rows.calls());
        self.keys.drain(..groups);
        self.rows.first.drain(..groups * kept);
        self.rows.accumulators.drain(..groups * calls);
        self.rows.len -= groups;
    }

    /// The same without the keys.
    pub fn into_rows(self) -> GroupRows {
        self.rows
    }
}

impl GroupRows {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a group.
    pub fn push<'v>(
        &mut self,
        first: impl Iterator<Item = &'v Value>,
        accumulators: impl Iterator<Item = Accumulator>,
    ) {
        self.first.extend(first.cloned());
        self.accumulators.extend(accumulators);
        self.len += 1;
    }

    /// Writes the data of a group's result row into `slots`: the kept slots, which are taken, and the results of the
    /// aggregates.
    ///
    /// # Errors
    /// An aggregate has no result.
    pub fn fill(&mut self, group: usize, plan: &Stateful, slots: &mut [Value]) -> Result<(), EvalError> {
        let kept = self.kept();
        for (&slot, value) in plan.kept_slots.iter().zip(&mut self.first[group * kept..][..kept]) {
            slots[slot] = std::mem::take(value);
        }
        self.fill_answers(group, plan, slots)
    }

    /// Writes the results of a group's aggregates into `slots`.
    ///
    /// # Errors
    /// An aggregate has no result.
    pub fn fill_answers(&self, group: usize, plan: &Stateful, slots: &mut [Value]) -> Result<(), EvalError> {
        let calls = self.calls();
        let accumulators = &self.accumulators[group * calls..][..calls];
        for (slot, accumulator) in slots[plan.row_slots..].iter_mut().zip(accumulators) {
            *slot = accumulator.answer()?;
        }
        Ok(())
    }

    /// Adds a group with this first row.
    fn begin(&mut self, plan: &Stateful, scope: &Scope<'_>) -> Result<(), EvalError> {
        let at = self.accumulators.len();
        begin(&mut self.accumulators, &plan.aggregates);
        if let Err(error) = add_all(&mut self.accumulators[at..], &plan.aggregates, scope) {
            self.accumulators.truncate(at);
            return Err(error);
        }
        self.first.extend(plan.kept_slots.iter().map(|&slot| scope.slots[slot].clone()));
        self.len += 1;
        Ok(())
    }

    fn make_room(&mut self, groups: usize, kept: usize, calls: usize) {
        if self.len == 0 {
            self.first.reserve(groups * kept);
            self.accumulators.reserve(groups * calls);
        }
    }

    /// The number of slots that are kept of each group's first row.
    fn kept(&self) -> usize {
        self.first.len().checked_div(self.len).unwrap_or(0)
    }

    /// The number of accumulators of a group.
    #[inline]
    fn calls(&self) -> usize {
        self.accumulators.len().checked_div(self.len).unwrap_or(0)
    }
}

/// Adds an accumulator for each call, before its first row.
pub fn begin(accumulators: &mut Vec<Accumulator>, calls: &[AggregateCall]) {
    accumulators.extend(calls.iter().map(|call| Accumulator::new(call.aggregate, call.integral)));
}

/// Adds accumulators of later rows. An error stays in the accumulator.
pub fn merge(accumulators: &mut [Accumulator], later: &[Accumulator]) {
    for (mine, later) in accumulators.iter_mut().zip(later) {
        let _ = mine.merge(later);
    }
}

/// Checks whether all accumulators can be merged.
///
/// # Errors
/// The values of two of them cannot be compared.
pub fn agree(before: &[Accumulator], later: &[Accumulator]) -> Result<(), EvalError> {
    before.iter().zip(later).try_for_each(|(before, later)| before.check_merge(later))
}

/// Adds a row to the accumulators of these calls: to all of them, or to none if one does not accept it.
///
/// # Errors
/// An argument of an aggregate cannot be used.
#[inline]
pub fn add_all(accumulators: &mut [Accumulator], calls: &[AggregateCall], scope: &Scope<'_>) -> Result<(), EvalError> {
    // Arguments are usually columns: their values are read in place.
    if calls.iter().all(|call| matches!(call.arg, None | Some(Expr::Slot(_)))) {
        let column = |call: &AggregateCall| match call.arg {
            Some(Expr::Slot(slot)) => Some(&scope.slots[slot]),
            _ => None,
        };
        if calls.len() > 1 {
            calls.iter().zip(&*accumulators).try_for_each(|(call, accumulator)| accumulator.check(column(call)))?;
        }
        return calls.iter().zip(accumulators).try_for_each(|(call, accumulator)| accumulator.add(column(call)));
    }
    let mut values: SmallVec<[Option<Cow<'_, Value>>; 6]> = SmallVec::new();
    for (call, accumulator) in calls.iter().zip(&*accumulators) {
        let value = match &call.arg {
            None => None,
            Some(arg) => Some(arg.eval(scope)?),
        };
        accumulator.check(value.as_deref())?;
        values.push(value);
    }
    for (accumulator, value) in accumulators.iter_mut().zip(&values) {
        accumulator.add(value.as_deref())?;
    }
    Ok(())
}

/// A group in a checkpoint.
#[derive(Serialize)]
struct Written<'a> {
    first: &'a [Value],
    accumulators: &'a [Accumulator],
}

#[derive(Deserialize)]
struct Read {
    first: Vec<Value>,
    accumulators: Vec<Accumulator>,
}

impl Serialize for Groups {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.iter().map(|(key, first, accumulators)| (key, Written { first, accumulators })))
    }
}

impl<'de> Deserialize<'de> for Groups {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Groups, D::Error> {
        struct All;
        impl<'de> Visitor<'de> for All {
            type Value = Groups;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("groups by key")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Groups, A::Error> {
                let mut groups = Groups::default();
                while let Some((key, group)) = from.next_entry::<GroupKey, Read>()? {
                    let Read { first, accumulators } = group;
                    let alike = first.len() == groups.rows.kept() && accumulators.len() == groups.rows.calls();
                    if !(groups.is_empty() || alike) || groups.find(key.parts()).is_some() {
                        return Err(A::Error::custom("a group is not like the others"));
                    }
                    groups.push(key, &first, &accumulators);
                }
                Ok(groups)
            }
        }
        from.deserialize_map(All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::aggregate::Aggregate;

    /// A group for each number: the number is its key and the only slot that is kept, and `rows` rows were counted.
    fn groups(numbers: &[i64], rows: u64) -> Groups {
        let mut groups = Groups::with_room(numbers.len());
        for number in numbers {
            let mut count = Accumulator::new(Aggregate::Count, false);
            (0..rows).for_each(|_| count.add(None).unwrap());
            groups.push(GroupKey::from_values([&Value::Int(*number)]), &[Value::Int(*number)], &[count]);
        }
        groups
    }

    /// For each group: its number, as key and as slot, and its count.
    fn shown(groups: &Groups) -> Vec<String> {
        let group = |(number, (key, first, accumulators)): (usize, (&GroupKey, &[Value], &[Accumulator]))| {
            assert_eq!(groups.find(key.parts()), Some(number));
            let [count] = accumulators else { panic!("one for the only aggregate") };
            format!("{:?} {:?}", first, count.answer())
        };
        groups.iter().enumerate().map(group).collect()
    }

    #[test]
    fn later_groups_are_merged_by_key() {
        let mut all = Groups::default();
        all.append(&groups(&[1, 2], 1));
        all.append(&groups(&[3, 2], 2));
        assert_eq!(shown(&all), ["[Int(1)] Ok(Int(1))", "[Int(2)] Ok(Int(3))", "[Int(3)] Ok(Int(2))"]);
    }

    #[test]
    fn the_first_groups_can_be_dropped() {
        let mut all = groups(&[1, 2, 3], 1);
        all.drop_first(2);
        all.append(&groups(&[1], 5));
        assert_eq!(shown(&all), ["[Int(3)] Ok(Int(1))", "[Int(1)] Ok(Int(5))"]);
        all.drop_first(7);
        assert!(all.is_empty() && all.into_rows().is_empty());
    }

    #[test]
    fn groups_are_kept_in_checkpoints() {
        for numbers in [&[][..], &[7], &[7, 5, 6]] {
            let all = groups(numbers, 4);
            let bytes = postcard::to_allocvec(&all).unwrap();
            assert_eq!(shown(&postcard::from_bytes(&bytes).unwrap()), shown(&all));
        }
    }

    #[test]
    fn groups_of_several_shapes_are_refused() {
        let mut bytes = postcard::to_allocvec(&groups(&[7], 4)).unwrap();
        let mut other = Groups::default();
        other.push(GroupKey::from_values([&Value::Int(8)]), &[], &[]);
        bytes.extend(&postcard::to_allocvec(&other).unwrap()[1..]);
        // Two groups instead of one.
        bytes[0] = 2;
        assert!(postcard::from_bytes::<Groups>(&bytes).is_err());
    }
}
