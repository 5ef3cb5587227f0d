//! Aggregates that need all values, over rows of which the oldest are removed again, as in a sliding window. The values
//! are kept in order, so the cost of a row or of a result does not grow with the number of rows.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, VecDeque};

use foldhash::fast::RandomState;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::statistics::of_ranks;
use super::{Accumulator, Aggregate, Distinct, invalid};
use crate::expr::error::EvalError;
use crate::expr::ops::order_of_numbers;
use crate::value::Value;
use crate::value::key::KeyPart;

/// The values of one call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Moving {
    /// For median and percentiles.
    Ranked { aggregate: Aggregate, numbers: Sorted },
    /// For `count(DISTINCT x)`: the number of rows with each value.
    Different(HashMap<KeyPart, u64, RandomState>),
    /// For the other aggregates with DISTINCT, and for deduplicate. `integral`: see [`Accumulator::new`].
    Firsts { aggregate: Aggregate, integral: bool, firsts: Firsts },
}

impl Moving {
    /// No values; `None` for an aggregate that is not of this kind.
    pub fn new(aggregate: Aggregate, integral: bool) -> Option<Moving> {
        match aggregate {
            Aggregate::Median | Aggregate::PercentileCont(_) | Aggregate::PercentileDisc(_) => {
                Some(Moving::Ranked { aggregate, numbers: Sorted::default() })
            }
            Aggregate::CountDistinct => Some(Moving::Different(HashMap::default())),
            Aggregate::SumDistinct
            | Aggregate::AvgDistinct
            | Aggregate::CollectDistinct
            | Aggregate::Deduplicate { .. } => Some(Moving::Firsts { aggregate, integral, firsts: Firsts::default() }),
            _ => None,
        }
    }

    /// Checks whether it accepts a value.
    ///
    /// # Errors
    /// The aggregate does not accept values of this type.
    pub fn check(&self, value: &Value) -> Result<(), EvalError> {
        match self {
            Moving::Ranked { aggregate, .. }
            | Moving::Firsts { aggregate: aggregate @ (Aggregate::SumDistinct | Aggregate::AvgDistinct), .. }
                if !value.is_null() && value.as_f64().is_none() =>
            {
                Err(invalid(*aggregate, value))
            }
            _ => Ok(()),
        }
    }

    /// Adds a value that was checked. Null is ignored, except by `collect` and `deduplicate`.
    pub fn add(&mut self, value: &Value) {
        match self {
            Moving::Firsts { aggregate, firsts, .. } => {
                if let Some((key, shown)) = different(*aggregate, value) {
                    firsts.add(KeyPart::of(key), shown.clone());
                }
            }
            _ if value.is_null() => {}
            Moving::Ranked { numbers, .. } => numbers.insert(value.clone()),
            Moving::Different(values) => *values.entry(KeyPart::of(value)).or_default() += 1,
        }
    }

    /// Removes the oldest value, which must be passed as it was added.
    pub fn remove(&mut self, value: &Value) {
        match self {
            Moving::Firsts { aggregate, firsts, .. } => {
                if let Some((key, _)) = different(*aggregate, value) {
                    firsts.remove(&KeyPart::of(key));
                }
            }
            _ if value.is_null() => {}
            Moving::Ranked { numbers, .. } => numbers.remove(value),
            Moving::Different(values) => {
                let key = KeyPart::of(value);
                if let Some(times) = values.get_mut(&key) {
                    *times -= 1;
                    if *times == 0 {
                        values.remove(&key);
                        if has_much_room(values.capacity(), values.len()) {
                            values.shrink_to(2 * values.len());
                        }
                    }
                }
            }
        }
    }

    /// An accumulator of the current values.
    pub fn accumulated(&self) -> Accumulator {
        Accumulator::Known(match self {
            Moving::Ranked { aggregate, numbers } => {
                let number = |rank| (numbers.get(rank).cloned().unwrap_or_default(), numbers.get(rank + 1).cloned());
                of_ranks(*aggregate, numbers.len, number)
            }
            Moving::Different(values) => Value::whole(values.len() as u64),
            Moving::Firsts { aggregate: Aggregate::Deduplicate { all: false }, firsts, .. } => firsts.newest(),
            Moving::Firsts {
                aggregate: Aggregate::CollectDistinct | Aggregate::Deduplicate { .. }, firsts, ..
            } => Value::array(firsts.values().cloned()),
            Moving::Firsts { aggregate, integral, firsts } => {
                let mut all = Accumulator::new(aggregate.over_all(), *integral);
                for value in firsts.values() {
                    if let Err(error) = all.add(Some(value)) {
                        return Accumulator::Failed(error);
                    }
                }
                return all;
            }
        })
    }
}

/// The value of a row that counts once, and what the result shows of the row. `deduplicate` has both in one object.
fn different(aggregate: Aggregate, value: &Value) -> Option<(&Value, &Value)> {
    match (aggregate, value) {
        (Aggregate::Deduplicate { .. }, Value::Object(pair)) => {
            let part = |name| pair.get(name).unwrap_or(&Value::Absent);
            Some((part(Distinct::VALUE), part(Distinct::ROW)))
        }
        (Aggregate::Deduplicate { .. }, _) => None,
        _ => Some((value, value)),
    }
}

/// Different values, in the order of the oldest row of each.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Firsts {
    /// For each value the rows that have it, oldest first: their numbers, and what the result shows of them.
    rows: HashMap<KeyPart, VecDeque<(u64, Value)>, RandomState>,
    /// The oldest row of each value.
    oldest: BTreeMap<u64, Value>,
    /// the number of the next row
    next: u64,
}

impl Firsts {
    fn add(&mut self, key: KeyPart, shown: Value) {
        let rows = self.rows.entry(key).or_default();
        if rows.is_empty() {
            self.oldest.insert(self.next, shown.clone());
        }
        rows.push_back((self.next, shown));
        self.next += 1;
    }

    /// Removes the oldest row of a value.
    fn remove(&mut self, key: &KeyPart) {
        let Some(rows) = self.rows.get_mut(key) else { return };
        if let Some((number, _)) = rows.pop_front() {
            self.oldest.remove(&number);
        }
        match rows.front() {
            Some((number, shown)) => {
                self.oldest.insert(*number, shown.clone());
                if has_much_room(rows.capacity(), rows.len()) {
                    rows.shrink_to(2 * rows.len());
                }
            }
            None => _ = self.rows.remove(key),
        }
        if has_much_room(self.rows.capacity(), self.rows.len()) {
            self.rows.shrink_to(2 * self.rows.len());
        }
    }

    fn values(&self) -> impl Iterator<Item = &Value> {
        self.oldest.values()
    }

    /// The newest row; null if an older one has its value.
    fn newest(&self) -> Value {
        let newest = self.oldest.last_key_value().filter(|(number, _)| **number + 1 == self.next);
        newest.map_or(Value::Null, |(_, shown)| shown.clone())
    }
}

/// Numbers in order, in chunks of a bounded length.
#[derive(Clone, Debug, Default)]
pub struct Sorted {
    /// no chunk is empty
    chunks: Vec<Vec<Value>>,
    len: usize,
}

impl Sorted {
    /// The most numbers in a chunk. Inserting a number moves half of a chunk at most, and finding a rank walks over the
    /// lengths of all chunks.
    const CHUNK: usize = 512;

    /// A chunk with fewer numbers is merged with a neighbour if both together are not long.
    const SHORT: usize = Self::CHUNK / 4;

    fn insert(&mut self, number: Value) {
        self.len += 1;
        let (chunk, place) = self.find(&number);
        let Some(numbers) = self.chunks.get_mut(chunk) else {
            match self.chunks.last_mut() {
                None => self.chunks.push(vec![number]),
                // The number is greater than all others.
                Some(last) => {
                    last.push(number);
                    self.divide(self.chunks.len() - 1);
                }
            }
            return;
        };
        numbers.insert(place, number);
        self.divide(chunk);
    }

    fn remove(&mut self, number: &Value) {
        let (chunk, place) = self.find(number);
        let Some(numbers) = self.chunks.get_mut(chunk) else { return };
        if order(&numbers[place], number) == Ordering::Equal {
            numbers.remove(place);
            self.len -= 1;
            self.shrink(chunk);
        }
    }

    /// Joins a chunk that has become short with a neighbour, and frees the memory that it no longer needs: otherwise a
    /// few numbers could keep as many long chunks.
    fn shrink(&mut self, chunk: usize) {
        if self.chunks[chunk].len() >= Self::SHORT {
            return;
        }
        if self.chunks[chunk].is_empty() {
            self.chunks.remove(chunk);
        } else {
            let left = if chunk + 1 < self.chunks.len() { chunk } else { chunk.saturating_sub(1) };
            let both: usize = self.chunks[left..].iter().take(2).map(Vec::len).sum();
            if left + 1 < self.chunks.len() && both <= Self::CHUNK / 2 {
                let right = self.chunks.remove(left + 1);
                self.chunks[left].extend(right);
            }
            let numbers = &mut self.chunks[left];
            if has_much_room(numbers.capacity(), numbers.len()) {
                numbers.shrink_to(2 * numbers.len());
            }
        }
        if has_much_room(self.chunks.capacity(), self.chunks.len()) {
            self.chunks.shrink_to(2 * self.chunks.len());
        }
    }

    /// The number at a rank, counted from 0.
    fn get(&self, rank: usize) -> Option<&Value> {
        let mut rest = rank;
        for numbers in &self.chunks {
            match rest.checked_sub(numbers.len()) {
                None => return numbers.get(rest),
                Some(behind) => rest = behind,
            }
        }
        None
    }

    /// The chunk, and the place in it, of the first number that is not less than this one; past the last chunk if there
    /// is none.
    fn find(&self, number: &Value) -> (usize, usize) {
        let less = |known: &Value| order(known, number) == Ordering::Less;
        let chunk = self.chunks.partition_point(|numbers| numbers.last().is_some_and(less));
        (chunk, self.chunks.get(chunk).map_or(0, |numbers| numbers.partition_point(less)))
    }

    fn divide(&mut self, chunk: usize) {
        if self.chunks[chunk].len() > Self::CHUNK {
            let upper = self.chunks[chunk].split_off(Self::CHUNK / 2);
            self.chunks[chunk].shrink_to_fit();
            self.chunks.insert(chunk + 1, upper);
        }
    }
}

/// Whether a collection should shrink, because it has much more room than it uses. Afterwards it has twice the room
/// that it uses, so that it does not grow and shrink in turns.
fn has_much_room(capacity: usize, len: usize) -> bool {
    capacity > 4 * len.max(16)
}

/// The order of numbers. Equal numbers that are written differently have an order too, so that each is found again.
fn order(left: &Value, right: &Value) -> Ordering {
    let written = |number: &Value| match number {
        Value::Int(_) => (0, 0),
        Value::Unsigned(_) => (1, 0),
        Value::Float(float) => (2, float.to_bits()),
        _ => (3, 0),
    };
    order_of_numbers(left, right).then_with(|| written(left).cmp(&written(right)))
}

// Written as one list, regardless of its chunks.
impl Serialize for Sorted {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeSeq;
        let mut list = to.serialize_seq(Some(self.len))?;
        self.chunks.iter().flatten().try_for_each(|number| list.serialize_element(number))?;
        list.end()
    }
}

impl<'de> Deserialize<'de> for Sorted {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Sorted, D::Error> {
        let mut sorted = Sorted::default();
        Vec::deserialize(from)?.into_iter().for_each(|number| sorted.insert(number));
        Ok(sorted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::expr::aggregate::{Accumulator, Share};

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            (-40i64..40).prop_map(Value::Int),
            (-40i64..40).prop_map(|half| Value::Float(half as f64 / 2.0)),
            Just(Value::Null),
            Just(Value::Float(f64::NAN)),
            Just(Value::Unsigned(u64::MAX)),
        ]
    }

    /// A chunk runs empty while its neighbour is too long to be joined with it.
    #[test]
    fn numbers_that_rise_leave_in_their_order() {
        for rows in [1, 513, 600, 1000, 2000] {
            let mut sorted = Sorted::default();
            (0..rows).for_each(|number| sorted.insert(Value::Int(number)));
            for number in 0..rows {
                assert!(matches!(sorted.get(0), Some(Value::Int(least)) if *least == number));
                sorted.remove(&Value::Int(number));
                assert!(sorted.chunks.iter().all(|chunk| !chunk.is_empty()));
            }
            assert_eq!(sorted.len, 0);
        }
    }

    /// The numbers of a window that has many numbers at some times and few at others.
    #[test]
    fn memory_follows_the_number_of_values() {
        let mut random = fastrand::Rng::with_seed(1);
        let values: Vec<Value> = (0..100_000).map(|_| Value::Int(random.i64(..))).collect();
        for mut moving in [Aggregate::Median, Aggregate::CountDistinct].map(|of| Moving::new(of, false).unwrap()) {
            let room = |moving: &Moving| match moving {
                Moving::Ranked { numbers, .. } => {
                    numbers.chunks.capacity() + numbers.chunks.iter().map(Vec::capacity).sum::<usize>()
                }
                Moving::Different(values) => values.capacity(),
                Moving::Firsts { firsts, .. } => {
                    firsts.rows.capacity() + firsts.rows.values().map(VecDeque::capacity).sum::<usize>()
                }
            };
            values.iter().for_each(|value| moving.add(value));
            assert!(room(&moving) < 3 * values.len(), "{}", room(&moving));
            for (left, value) in (0..values.len()).rev().zip(&values) {
                moving.remove(value);
                assert!(room(&moving) <= 4 * left.max(16) + 100, "{left} values have room for {}", room(&moving));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// The different values of the last rows are those of an accumulator which has seen only these, in its order.
        #[test]
        fn different_values_follow_the_rows(values in prop::collection::vec(value(), 1..400), window in 1usize..100) {
            let pair = |value: &Value| {
                let row = Value::object([("of".into(), value.clone())]);
                Value::object([(Distinct::VALUE.into(), value.clone()), (Distinct::ROW.into(), row)])
            };
            for aggregate in [
                Aggregate::SumDistinct,
                Aggregate::AvgDistinct,
                Aggregate::CollectDistinct,
                Aggregate::Deduplicate { all: true },
                Aggregate::Deduplicate { all: false },
            ] {
                let pairs = matches!(aggregate, Aggregate::Deduplicate { .. });
                let values: Vec<Value> = values.iter().map(|value| if pairs { pair(value) } else { value.clone() }).collect();
                let mut moving = Moving::new(aggregate, false).unwrap();
                for (at, value) in values.iter().enumerate() {
                    moving.add(value);
                    if at >= window {
                        moving.remove(&values[at - window]);
                    }
                    let mut anew = Accumulator::new(aggregate, false);
                    for value in &values[(at + 1).saturating_sub(window)..=at] {
                        anew.add(Some(value)).unwrap();
                    }
                    let (moved, anew) = (moving.accumulated().answer(), anew.answer());
                    prop_assert_eq!(format!("{moved:?}"), format!("{anew:?}"), "{:?}", aggregate);
                }
                let bytes = postcard::to_allocvec(&moving).unwrap();
                let again: Moving = postcard::from_bytes(&bytes).unwrap();
                prop_assert_eq!(format!("{:?}", again.accumulated()), format!("{:?}", moving.accumulated()));
            }
        }

        /// The result after removals is that of an accumulator which has seen only the remaining rows.
        #[test]
        fn what_has_left_leaves_no_trace(values in prop::collection::vec(value(), 1..2000), window in 1usize..1200) {
            let half = Share::new(0.5).unwrap();
            for aggregate in [
                Aggregate::Median,
                Aggregate::PercentileCont(Share::new(0.9).unwrap()),
                Aggregate::PercentileDisc(half),
                Aggregate::CountDistinct,
            ] {
                let mut moving = Moving::new(aggregate, false).unwrap();
                for (at, value) in values.iter().enumerate() {
                    moving.add(value);
                    if at >= window {
                        moving.remove(&values[at - window]);
                    }
                    if at % 97 != 0 && at + 1 != values.len() {
                        continue;
                    }
                    let mut anew = Accumulator::new(aggregate, false);
                    for value in &values[(at + 1).saturating_sub(window)..=at] {
                        anew.add(Some(value)).unwrap();
                    }
                    let (moved, anew) = (moving.accumulated().answer().unwrap(), anew.answer().unwrap());
                    // It does not matter which of several equal numbers is shown.
                    let same = match (moved.as_f64(), anew.as_f64()) {
                        (Some(moved), Some(anew)) => moved == anew || moved.is_nan() && anew.is_nan(),
                        _ => moved.is_null() && anew.is_null(),
                    };
                    prop_assert!(same, "{aggregate:?} {moved:?} {anew:?}");
                }
                let bytes = postcard::to_allocvec(&moving).unwrap();
                let again: Moving = postcard::from_bytes(&bytes).unwrap();
                prop_assert_eq!(format!("{:?}", again.accumulated()), format!("{:?}", moving.accumulated()));
            }
        }
    }
}
