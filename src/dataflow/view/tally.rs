//! Aggregates over rows that can be removed.
//!
//! A count is decremented. A sum is exact, whole numbers in 128 bits and doubles as non-overlapping numbers (after
//! Shewchuk), so a removed value leaves no trace: the sum is the same as that of a new group of the remaining values.
//! All other aggregates keep their values in order with their counts: minimum and maximum are at the ends, and
//! aggregates of all values (percentiles, deviations, DISTINCT) are computed when a row is made.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::expr::EvalError;
use crate::expr::aggregate::{Accumulator, Aggregate};
use crate::plan::physical::AggregateCall;
use crate::value::Value;
use crate::value::key::KeyPart;

use super::order::Ordered;

/// The state of one aggregate call for a group.
#[derive(Debug)]
pub struct Tally {
    aggregate: Aggregate,
    integral: bool,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Count(u64),
    Numbers(Numbers),
    Values(BTreeMap<Ordered, (Value, u64)>),
}

/// Numbers that were added and not removed again.
#[derive(Debug, Default)]
struct Numbers {
    count: u64,
    whole: i128,
    /// the number of floats
    others: u64,
    sum: ExactSum,
    /// doubles that cannot be subtracted from a sum again, by their bits, with the number of each: infinite ones, or so
    /// large that sums could overflow
    odd: BTreeMap<u64, u64>,
}

impl Tally {
    pub fn new(call: &AggregateCall) -> Tally {
        let kept = match call.aggregate {
            Aggregate::Count => Kept::Count(0),
            Aggregate::Sum | Aggregate::Avg => Kept::Numbers(Numbers::default()),
            _ => Kept::Values(BTreeMap::new()),
        };
        Tally { aggregate: call.aggregate, integral: call.integral, kept }
    }

    /// Whether the aggregate accepts this value; `None` stands for `*`. The answer depends only on the value.
    ///
    /// # Errors
    /// The aggregate does not accept values of this type.
    pub fn check(&self, value: Option<&Value>) -> Result<(), EvalError> {
        match self.kept {
            Kept::Count(_) => Ok(()),
            _ => Accumulator::new(self.aggregate, self.integral).check(value),
        }
    }

    /// Adds a checked value.
    pub fn add(&mut self, value: Option<&Value>) {
        match &mut self.kept {
            Kept::Count(count) => *count += u64::from(value.is_none_or(|value| !value.is_null())),
            Kept::Numbers(numbers) => value.into_iter().for_each(|value| numbers.change(value, true)),
            Kept::Values(values) => {
                if let Some(value) = value.filter(|value| !value.is_null()) {
                    values.entry(Ordered(KeyPart::of(value))).or_insert_with(|| (value.clone(), 0)).1 += 1;
                }
            }
        }
    }

    /// Removes a value that was added.
    pub fn remove(&mut self, value: Option<&Value>) {
        match &mut self.kept {
            Kept::Count(count) => *count -= u64::from(value.is_none_or(|value| !value.is_null())),
            Kept::Numbers(numbers) => value.into_iter().for_each(|value| numbers.change(value, false)),
            Kept::Values(values) => {
                let Some(value) = value.filter(|value| !value.is_null()) else { return };
                let part = Ordered(KeyPart::of(value));
                if let Some((_, times)) = values.get_mut(&part) {
                    *times -= 1;
                    if *times == 0 {
                        values.remove(&part);
                    }
                }
            }
        }
    }

    /// The aggregate of the remaining values.
    ///
    /// # Errors
    /// A sum beyond 64 bits, or values that cannot be compared.
    pub fn answer(&self) -> Result<Value, EvalError> {
        let mut all = Accumulator::new(self.aggregate, self.integral);
        match &self.kept {
            Kept::Count(count) => return Ok(Value::Int(i64::try_from(*count).unwrap_or(i64::MAX))),
            Kept::Numbers(numbers) => {
                let Numbers { count, whole, others, .. } = *numbers;
                return Accumulator::of_numbers(
                    self.aggregate,
                    self.integral,
                    count,
                    whole,
                    numbers.float(),
                    others > 0,
                )
                .answer();
            }
            Kept::Values(values) => {
                let ends = matches!(self.aggregate, Aggregate::Min | Aggregate::Max);
                if ends {
                    // Values of one kind are adjacent: if the first and the last can be compared, all can.
                    for (value, _) in values.values().next().into_iter().chain(values.values().next_back()) {
                        all.add(Some(value))?;
                    }
                } else {
                    let times = |times: u64| if self.aggregate.is_distinct() { 1 } else { times };
                    for (value, found) in values.values() {
                        (0..times(*found)).try_for_each(|_| all.add(Some(value)))?;
                    }
                }
            }
        }
        all.answer()
    }
}

impl Numbers {
    fn change(&mut self, value: &Value, comes: bool) {
        let number = match value {
            Value::Int(whole) => {
                let whole = i128::from(*whole);
                self.whole += if comes { whole } else { -whole };
                return self.count(comes);
            }
            Value::Float(float) => *float,
            Value::Unsigned(unsigned) => *unsigned as f64,
            _ => return,
        };
        self.count(comes);
        self.others = if comes { self.others + 1 } else { self.others - 1 };
        // With fewer than 2^20 rows of this size no sum overflows.
        if number.abs() < 2f64.powi(1000) {
            return self.sum.add(if comes { number } else { -number });
        }
        let times = self.odd.entry(number.to_bits()).or_default();
        *times = if comes { *times + 1 } else { times.saturating_sub(1) };
        if *times == 0 {
            self.odd.remove(&number.to_bits());
        }
    }

    fn count(&mut self, comes: bool) {
        self.count = if comes { self.count + 1 } else { self.count - 1 };
    }

    fn float(&self) -> f64 {
        let odd = self.odd.iter().map(|(bits, times)| f64::from_bits(*bits) * *times as f64);
        self.sum.value() + odd.sum::<f64>()
    }
}

/// A sum of doubles without rounding: non-overlapping parts, the smallest first.
#[derive(Debug, Default)]
struct ExactSum(SmallVec<[f64; 2]>);

impl ExactSum {
    fn add(&mut self, number: f64) {
        let mut high = number;
        let mut kept = 0;
        for place in 0..self.0.len() {
            let mut part = self.0[place];
            if high.abs() < part.abs() {
                std::mem::swap(&mut high, &mut part);
            }
            let sum = high + part;
            let lost = part - (sum - high);
            if lost != 0.0 {
                self.0[kept] = lost;
                kept += 1;
            }
            high = sum;
        }
        self.0.truncate(kept);
        if high != 0.0 {
            self.0.push(high);
        }
    }

    /// The double nearest to the sum.
    fn value(&self) -> f64 {
        let mut parts = self.0.iter().rev();
        let mut high = parts.next().copied().unwrap_or(0.0);
        let mut lost = 0.0;
        for part in parts.by_ref() {
            let sum = high + part;
            lost = part - (sum - high);
            high = sum;
            if lost != 0.0 {
                break;
            }
        }
        // Exactly between two floats, the smaller parts decide.
        if let Some(below) = parts.next()
            && (lost < 0.0) == (*below < 0.0)
            && lost != 0.0
        {
            let twice = lost * 2.0;
            let sum = high + twice;
            if twice == sum - high {
                high = sum;
            }
        }
        high
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGGREGATES: [Aggregate; 9] = [
        Aggregate::Count,
        Aggregate::Sum,
        Aggregate::Avg,
        Aggregate::Min,
        Aggregate::Max,
        Aggregate::CountDistinct,
        Aggregate::SumDistinct,
        Aggregate::Median,
        Aggregate::Stddev,
    ];

    fn tally(aggregate: Aggregate) -> Tally {
        Tally::new(&AggregateCall { aggregate, arg: None, integral: false })
    }

    #[test]
    fn what_left_leaves_nothing_behind() {
        let mut random = fastrand::Rng::with_seed(3);
        for aggregate in AGGREGATES {
            let (mut tally, mut there) = (tally(aggregate), Vec::new());
            for _ in 0..2_000 {
                if there.is_empty() || random.u8(0..5) > 1 {
                    // Halves and quarters are exact in any order of summation.
                    let value = match random.u8(0..4) {
                        0 => Value::Null,
                        1 => Value::Int(random.i64(-5..5)),
                        _ => Value::Float(random.i64(-9..9) as f64 / 4.0),
                    };
                    tally.add(Some(&value));
                    there.push(value);
                } else {
                    let value = there.swap_remove(random.usize(..there.len()));
                    tally.remove(Some(&value));
                }
                let mut anew = Accumulator::new(aggregate, false);
                there.iter().for_each(|value| anew.add(Some(value)).unwrap());
                let number = |value: Value| value.as_f64();
                let (found, wanted) = (number(tally.answer().unwrap()), number(anew.answer().unwrap()));
                let close = |(found, wanted): (f64, f64)| (found - wanted).abs() <= 1e-9 * wanted.abs().max(1.0);
                assert!(found == wanted || found.zip(wanted).is_some_and(close), "{aggregate}: {found:?} {wanted:?}");
            }
        }
    }

    #[test]
    fn sums_of_doubles_do_not_drift() {
        let mut sum = tally(Aggregate::Sum);
        let numbers = [1e100, 0.1, -1e100, 1e-30, 0.2, 3.3, 1e16, 1.0];
        numbers.iter().for_each(|number| sum.add(Some(&Value::Float(*number))));
        numbers[..6].iter().for_each(|number| sum.remove(Some(&Value::Float(*number))));
        assert_eq!(sum.answer().unwrap().as_f64(), Some(1e16 + 1.0));
        sum.remove(Some(&Value::Float(1e16)));
        assert_eq!(sum.answer().unwrap().as_f64(), Some(1.0));
        sum.add(Some(&Value::Float(f64::INFINITY)));
        sum.remove(Some(&Value::Float(f64::INFINITY)));
        assert_eq!(sum.answer().unwrap().as_f64(), Some(1.0));
    }

    #[test]
    fn the_odd_one_out_is_an_error_while_it_is_there() {
        let mut max = tally(Aggregate::Max);
        max.add(Some(&Value::Int(7)));
        max.add(Some(&Value::from("a")));
        assert!(max.answer().is_err());
        max.remove(Some(&Value::from("a")));
        assert_eq!(max.answer().unwrap().as_f64(), Some(7.0));
        assert!(tally(Aggregate::Sum).check(Some(&Value::from("a"))).is_err());
    }
}
