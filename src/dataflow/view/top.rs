//! The first rows of a view in its order, while rows change: ORDER BY … LIMIT, and row_number() per group.
//!
//! All rows are kept in order, those within the limit separately from those beyond it, so that the next row is
//! available when one is removed. The order, the key and the last message refer to the same copy of a row.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use crate::plan::view::Top;
use crate::value::key::{GroupKey, KeyPart};
use crate::value::numbered::{HasKey, Numbered};
use crate::view::Touched;

use super::order::{compare, compare_keys};
use super::row::Made;
use crate::dataflow::row::KeyHasher;

/// A change before or after a top: the row of a key, or that it is removed.
pub type Change = (GroupKey, Option<Made>);

/// The first rows of each group.
pub struct TopRows {
    /// positions among the sort values of a row
    partition: Vec<usize>,
    order: Order,
    /// rows of a group
    most: usize,
    groups: HashMap<GroupKey, Group, KeyHasher>,
    rows: Numbered<Rc<Kept>>,
    touched: Touched,
}

/// Positions among the sort values of a row, and whether descending.
type Order = Rc<[(usize, bool)]>;

#[derive(Default)]
struct Group {
    /// the first rows
    within: BTreeSet<Rc<Kept>>,
    beyond: BTreeSet<Rc<Kept>>,
}

/// A row, which is ordered by its sort values and then by its key.
struct Kept {
    key: GroupKey,
    row: Made,
    order: Order,
}

impl HasKey for Rc<Kept> {
    type Key = [KeyPart];

    fn key(&self) -> &[KeyPart] {
        self.key.parts()
    }
}

impl Ord for Kept {
    fn cmp(&self, other: &Kept) -> Ordering {
        let place = |&(place, descending): &(usize, bool)| {
            let value = |kept: &Kept| kept.row.sort.get(place).cloned().unwrap_or(KeyPart::Nothing);
            match (self.row.sort.get(place), other.row.sort.get(place)) {
                (Some(a), Some(b)) => compare(a, b, descending),
                _ => compare(&value(self), &value(other), descending),
            }
        };
        let by_value = self.order.iter().map(place).find(|order| order.is_ne());
        by_value.unwrap_or_else(|| compare_keys(&self.key, &other.key))
    }
}

impl PartialOrd for Kept {
    fn partial_cmp(&self, other: &Kept) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Kept {
    fn eq(&self, other: &Kept) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Kept {}

impl TopRows {
    pub fn new(plan: Top) -> TopRows {
        TopRows {
            partition: plan.partition,
            order: plan.order.into(),
            most: plan.rows,
            groups: HashMap::default(),
            rows: Numbered::default(),
            touched: Touched::default(),
        }
    }

    /// Applies a change, and appends the resulting changes of the first rows, in order.
    pub fn change(&mut self, (key, row): Change, out: &mut Vec<Change>) {
        let old = self.rows.find(key.parts());
        let Some(row) = row else {
            if let Some(number) = old
                && let Some(old) = self.rows.remove(number)
            {
                self.touched.forget(number);
                self.leave(&old, out);
            }
            return;
        };
        let at = row.touched;
        let new = Rc::new(Kept { key, row, order: self.order.clone() });
        let number = match old {
            Some(number) => {
                let old = std::mem::replace(&mut self.rows[number], new.clone());
                if old == new && self.group_of(&old) == self.group_of(&new) {
                    self.stay(&new, out);
                } else {
                    self.leave(&old, out);
                    self.enter(&new, out);
                }
                number
            }
            None => {
                self.enter(&new, out);
                self.rows.insert(new)
            }
        };
        self.touched.touch(number, at);
    }

    /// The number of all rows, including those beyond the first.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// All rows, including those beyond the first, those with the oldest last message first.
    pub fn rows(&self) -> impl Iterator<Item = (&GroupKey, &Made)> {
        let kept = self.touched.iter().filter_map(|(number, _)| self.rows.get(number));
        kept.map(|kept| (&kept.key, &kept.row))
    }

    /// The row with the oldest last message: its key, and when the message came, ms.
    pub fn touched_first(&self) -> Option<(&GroupKey, i64)> {
        let (number, at) = self.touched.oldest()?;
        Some((&self.rows.get(number)?.key, at))
    }

    fn group_of(&self, kept: &Kept) -> GroupKey {
        let mut group = GroupKey::default();
        let parts = self.partition.iter().map(|place| kept.row.sort.get(*place).cloned());
        parts.for_each(|part| group.push_part(part.unwrap_or(KeyPart::Nothing)));
        group
    }

    /// A row has changed and keeps its place.
    fn stay(&mut self, new: &Rc<Kept>, out: &mut Vec<Change>) {
        let Some(group) = self.groups.get_mut(&self.group_of(new)) else { return };
        if group.within.contains(new) {
            group.within.replace(new.clone());
            out.push((new.key.clone(), Some(new.row.clone())));
        } else {
            group.beyond.replace(new.clone());
        }
    }

    fn leave(&mut self, old: &Kept, out: &mut Vec<Change>) {
        let key = self.group_of(old);
        let Some(group) = self.groups.get_mut(&key) else { return };
        if group.within.remove(old) {
            out.push((old.key.clone(), None));
            if let Some(next) = group.beyond.pop_first() {
                out.push((next.key.clone(), Some(next.row.clone())));
                group.within.insert(next);
            }
        } else {
            group.beyond.remove(old);
        }
        if group.within.is_empty() {
            self.groups.remove(&key);
        }
    }

    fn enter(&mut self, new: &Rc<Kept>, out: &mut Vec<Change>) {
        let group = self.groups.entry(self.group_of(new)).or_default();
        if group.within.len() >= self.most {
            match group.within.last() {
                Some(last) if new < last => {
                    if let Some(last) = group.within.pop_last() {
                        out.push((last.key.clone(), None));
                        group.beyond.insert(last);
                    }
                }
                _ => {
                    group.beyond.insert(new.clone());
                    return;
                }
            }
        }
        group.within.insert(new.clone());
        out.push((new.key.clone(), Some(new.row.clone())));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::value::Value;

    #[test]
    fn the_first_rows_follow_every_change() {
        let plan = Top { partition: vec![0], order: vec![(1, true)], rows: 3 };
        let mut top = TopRows::new(plan);
        let mut all: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        let mut held: BTreeMap<i64, Box<[u8]>> = BTreeMap::new();
        let mut random = fastrand::Rng::with_seed(5);
        let mut last: BTreeMap<i64, i64> = BTreeMap::new();
        let id = |key: &GroupKey| match key.parts() {
            [KeyPart::Int(id)] => *id,
            _ => unreachable!(),
        };
        for at in 0..5_000 {
            let key = random.i64(0..20);
            let row = random.bool().then(|| (random.i64(0..3), random.i64(0..6)));
            let made = row.map(|(group, value)| Made {
                json: format!("{group} {value}").into_bytes().into(),
                forms: Box::default(),
                sort: Box::new([KeyPart::Int(group), KeyPart::Int(value)]),
                touched: at,
            });
            match row {
                Some(row) => {
                    all.insert(key, row);
                    last.insert(key, at);
                }
                None => {
                    all.remove(&key);
                    last.remove(&key);
                }
            }
            let mut out = Vec::new();
            top.change((GroupKey::from_values([&Value::Int(key)]), made), &mut out);
            for (key, row) in out {
                match row {
                    Some(row) => held.insert(id(&key), row.json),
                    None => held.remove(&id(&key)),
                };
            }
            let mut wanted = BTreeMap::new();
            for group in 0..3 {
                let mut rows: Vec<_> = all.iter().filter(|(_, row)| row.0 == group).collect();
                rows.sort_by_key(|(key, row)| (-row.1, **key));
                wanted.extend(
                    rows.into_iter()
                        .take(3)
                        .map(|(key, row)| (*key, format!("{} {}", row.0, row.1).into_bytes().into_boxed_slice())),
                );
            }
            assert_eq!(held, wanted);
            let first = last.iter().min_by_key(|(_, at)| **at).map(|(key, at)| (*key, *at));
            assert_eq!(top.touched_first().map(|(key, at)| (id(key), at)), first);
            assert_eq!(top.rows().count(), all.len());
        }
    }
}
