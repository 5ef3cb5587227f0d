//! Aggregates that need all values, over rows of which the oldest leave again, as those of a sliding window do. What they
//! know of the values is kept in order, so that neither a row nor an answer takes longer the more rows there are.

use std::cmp::Ordering;
use std::collections::HashMap;

use foldhash::fast::RandomState;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::statistics::of_ranks;
use super::{Aggregate, invalid};
use crate::expr::error::EvalError;
use crate::expr::ops::order_of_numbers;
use crate::value::Value;
use crate::value::key::KeyPart;

/// The values of one call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Moving {
    /// For median and percentiles.
    Ranked { aggregate: Aggregate, numbers: Sorted },
    /// For `count(DISTINCT x)`: how often each value is there.
    Different(HashMap<KeyPart, u64, RandomState>),
}

impl Moving {
    /// No values; `None` for an aggregate that is not of this kind.
    pub fn new(aggregate: Aggregate) -> Option<Moving> {
        match aggregate {
            Aggregate::Median | Aggregate::PercentileCont(_) | Aggregate::PercentileDisc(_) => {
                Some(Moving::Ranked { aggregate, numbers: Sorted::default() })
            }
            Aggregate::CountDistinct => Some(Moving::Different(HashMap::default())),
            _ => None,
        }
    }

    /// Whether it takes a value.
    ///
    /// # Errors
    /// The value has a type that the aggregate does not take.
    pub fn check(&self, value: &Value) -> Result<(), EvalError> {
        match self {
            Moving::Ranked { aggregate, .. } if !value.is_null() && value.as_f64().is_none() => {
                Err(invalid(*aggregate, value))
            }
            _ => Ok(()),
        }
    }

    /// Adds a value that was checked; null counts as none.
    pub fn add(&mut self, value: &Value) {
        match self {
            _ if value.is_null() => {}
            Moving::Ranked { numbers, .. } => numbers.insert(value.clone()),
            Moving::Different(values) => *values.entry(KeyPart::of(value)).or_default() += 1,
        }
    }

    /// Removes a value that was added.
    pub fn remove(&mut self, value: &Value) {
        match self {
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

    /// The result for the values that are there.
    pub fn answer(&self) -> Value {
        match self {
            Moving::Ranked { aggregate, numbers } => {
                let number = |rank| (numbers.get(rank).cloned().unwrap_or_default(), numbers.get(rank + 1).cloned());
                of_ranks(*aggregate, numbers.len, number)
            }
            Moving::Different(values) => Value::whole(values.len() as u64),
        }
    }
}

/// Numbers in order, in chunks of a bounded length.
#[derive(Clone, Debug, Default)]
pub struct Sorted {
    /// none is empty
    chunks: Vec<Vec<Value>>,
    len: usize,
}

impl Sorted {
    /// The longest chunk. To insert a number moves half of one, and to find a rank walks over their lengths.
    const CHUNK: usize = 512;

    /// A chunk with fewer numbers is joined with a neighbour if both together are not long.
    const SHORT: usize = Self::CHUNK / 4;

    fn insert(&mut self, number: Value) {
        self.len += 1;
        let (chunk, place) = self.find(&number);
        let Some(numbers) = self.chunks.get_mut(chunk) else {
            match self.chunks.last_mut() {
                None => self.chunks.push(vec![number]),
                // It is greater than all.
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
            if has_much_room(self.chunks.capacity(), self.chunks.len()) {
                self.chunks.shrink_to(2 * self.chunks.len());
            }
            return;
        }
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

    /// The chunk and the place in it of the first number that is not less; behind the last chunk if there is none.
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

/// Whether a collection has so much more room than it uses that it should shrink. Afterwards it has twice what it uses, so
/// that it does not grow and shrink in turns.
fn has_much_room(capacity: usize, len: usize) -> bool {
    capacity > 4 * len.max(16)
}

/// The order of numbers; equal numbers that are written differently have an order, too, so that each is found again.
fn order(left: &Value, right: &Value) -> Ordering {
    let written = |number: &Value| match number {
        Value::Int(_) => (0, 0),
        Value::Unsigned(_) => (1, 0),
        Value::Float(float) => (2, float.to_bits()),
        _ => (3, 0),
    };
    order_of_numbers(left, right).then_with(|| written(left).cmp(&written(right)))
}

// As a list, whatever its chunks are.
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

    /// The numbers of a window that moves over many and over few of them.
    #[test]
    fn memory_follows_the_number_of_values() {
        let mut random = fastrand::Rng::with_seed(1);
        let values: Vec<Value> = (0..100_000).map(|_| Value::Int(random.i64(..))).collect();
        for mut moving in [Aggregate::Median, Aggregate::CountDistinct].map(|of| Moving::new(of).unwrap()) {
            let room = |moving: &Moving| match moving {
                Moving::Ranked { numbers, .. } => {
                    numbers.chunks.capacity() + numbers.chunks.iter().map(Vec::capacity).sum::<usize>()
                }
                Moving::Different(values) => values.capacity(),
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

        /// The answer for the last rows is that of an accumulator which has seen only these.
        #[test]
        fn what_has_left_leaves_no_trace(values in prop::collection::vec(value(), 1..2000), window in 1usize..1200) {
            let half = Share::new(0.5).unwrap();
            for aggregate in [
                Aggregate::Median,
                Aggregate::PercentileCont(Share::new(0.9).unwrap()),
                Aggregate::PercentileDisc(half),
                Aggregate::CountDistinct,
            ] {
                let mut moving = Moving::new(aggregate).unwrap();
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
                    let (moved, anew) = (moving.answer(), anew.answer().unwrap());
                    // Of equal numbers it does not matter which one is shown.
                    let same = match (moved.as_f64(), anew.as_f64()) {
                        (Some(moved), Some(anew)) => moved == anew || moved.is_nan() && anew.is_nan(),
                        _ => moved.is_null() && anew.is_null(),
                    };
                    prop_assert!(same, "{aggregate:?} {moved:?} {anew:?}");
                }
                let bytes = postcard::to_allocvec(&moving).unwrap();
                let again: Moving = postcard::from_bytes(&bytes).unwrap();
                prop_assert_eq!(format!("{:?}", again.answer()), format!("{:?}", moving.answer()));
            }
        }
    }
}
