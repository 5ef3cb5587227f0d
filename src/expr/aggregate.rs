//! Aggregates as incremental accumulators: a window keeps one [`Accumulator`] for each aggregate call and group, never
//! the rows.

use std::fmt;

use super::error::{EvalError, described};
use super::ops::{Comparison, compare};
use crate::value::Value;

/// Which aggregate a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aggregate {
    /// count(*), count(e): rows, or rows where e is not null
    Count,
    /// sum(e)
    Sum,
    /// avg(e)
    Avg,
    /// min(e)
    Min,
    /// max(e)
    Max,
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Aggregate::Count => "count",
            Aggregate::Sum => "sum",
            Aggregate::Avg => "avg",
            Aggregate::Min => "min",
            Aggregate::Max => "max",
        })
    }
}

/// The state of one aggregate over the rows so far.
#[derive(Clone, Debug)]
pub enum Accumulator {
    /// rows, or rows with a value
    Count(u64),
    /// sum or mean of numbers
    Numbers(Numbers),
    /// least or greatest value
    Extreme(Extreme),
    /// The first error. It stands for the whole group: a wrong sum is worse than none.
    Failed(EvalError),
}

/// Sum and count of numbers. Whole numbers are summed exactly and apart from doubles.
#[derive(Clone, Debug)]
pub struct Numbers {
    /// sum or avg
    aggregate: Aggregate,
    /// whether the sum must be a whole number of the language
    integral: bool,
    /// numbers so far
    count: u64,
    /// sum of the whole numbers; 2^63 rows of 64 bits fit
    whole: i128,
    /// sum of the others
    float: f64,
    /// whether there were others
    mixed: bool,
}

/// The least or greatest value so far.
#[derive(Clone, Debug)]
pub struct Extreme {
    /// min or max
    aggregate: Aggregate,
    /// the value; absent before the first
    value: Value,
}

impl Accumulator {
    /// The state before the first row. `integral`: whole numbers are of a BIGINT column or literal, and not just
    /// JSON numbers, so that a sum beyond 64 bits is an error and not a double.
    pub fn new(aggregate: Aggregate, integral: bool) -> Accumulator {
        match aggregate {
            Aggregate::Count => Accumulator::Count(0),
            Aggregate::Sum | Aggregate::Avg => {
                Accumulator::Numbers(Numbers { aggregate, integral, count: 0, whole: 0, float: 0.0, mixed: false })
            }
            Aggregate::Min | Aggregate::Max => Accumulator::Extreme(Extreme { aggregate, value: Value::Absent }),
        }
    }

    /// Takes the argument's value for one more row; none for `count(*)`. Nulls are left out. After an error the
    /// accumulator stays failed.
    #[inline]
    pub fn add(&mut self, value: Option<&Value>) -> Result<(), EvalError> {
        let added = match (&mut *self, value) {
            (Accumulator::Count(count), value) => {
                *count += u64::from(value.is_none_or(|value| !value.is_null()));
                return Ok(());
            }
            (Accumulator::Numbers(numbers), Some(value)) => numbers.add(value),
            (Accumulator::Extreme(extreme), Some(value)) => extreme.add(value),
            (Accumulator::Failed(error), _) => return Err(error.clone()),
            (_, None) => return Ok(()),
        };
        added.inspect_err(|error| *self = Accumulator::Failed(error.clone()))
    }

    /// Takes what another accumulator of the same call has gathered of later rows.
    pub fn merge(&mut self, later: &Accumulator) -> Result<(), EvalError> {
        let merged = match (&mut *self, later) {
            (Accumulator::Failed(error), _) => return Err(error.clone()),
            (_, Accumulator::Failed(error)) => Err(error.clone()),
            (Accumulator::Count(count), Accumulator::Count(more)) => {
                *count += more;
                Ok(())
            }
            (Accumulator::Numbers(numbers), Accumulator::Numbers(more)) => {
                numbers.count += more.count;
                numbers.whole += more.whole;
                numbers.float += more.float;
                numbers.mixed |= more.mixed;
                Ok(())
            }
            (Accumulator::Extreme(extreme), Accumulator::Extreme(more)) => extreme.add(&more.value),
            // Accumulators of different calls have nothing to say to each other.
            _ => Ok(()),
        };
        merged.inspect_err(|error| *self = Accumulator::Failed(error.clone()))
    }

    /// The aggregate of the rows so far; no value where there were none to aggregate. Errors are the first of `add`,
    /// or a sum beyond 64 bits.
    pub fn answer(&self) -> Result<Value, EvalError> {
        match self {
            Accumulator::Count(count) => Ok(Value::Int(i64::try_from(*count).unwrap_or(i64::MAX))),
            Accumulator::Numbers(numbers) => numbers.answer(),
            Accumulator::Extreme(extreme) => Ok(extreme.value.clone()),
            Accumulator::Failed(error) => Err(error.clone()),
        }
    }
}

impl Numbers {
    #[inline]
    fn add(&mut self, value: &Value) -> Result<(), EvalError> {
        match value {
            Value::Int(i) => self.whole += i128::from(*i),
            Value::Float(f) => {
                self.float += f;
                self.mixed = true;
            }
            Value::Absent | Value::Null => return Ok(()),
            _ => return Err(invalid(self.aggregate, value)),
        }
        self.count += 1;
        Ok(())
    }

    fn answer(&self) -> Result<Value, EvalError> {
        if self.count == 0 {
            return Ok(Value::Null);
        }
        let total = || self.whole as f64 + self.float;
        if self.aggregate == Aggregate::Avg {
            return Ok(Value::Float(total() / self.count as f64));
        }
        if self.mixed {
            return Ok(Value::Float(total()));
        }
        match i64::try_from(self.whole) {
            Ok(sum) => Ok(Value::Int(sum)),
            Err(_) if self.integral => Err(EvalError::Overflow(format!("the sum {}", self.whole).into())),
            Err(_) => Ok(Value::Float(total())),
        }
    }
}

impl Extreme {
    #[inline]
    fn add(&mut self, value: &Value) -> Result<(), EvalError> {
        let op = if self.aggregate == Aggregate::Min { Comparison::Less } else { Comparison::Greater };
        match (&self.value, value) {
            (_, Value::Absent | Value::Null) => return Ok(()),
            (Value::Absent, Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::DateTime(_)) => {}
            (Value::Int(_) | Value::Float(_), Value::Int(_) | Value::Float(_))
            | (Value::Text(_), Value::Text(_))
            | (Value::DateTime(_), Value::DateTime(_)) => {
                if !compare(value, op, &self.value)? {
                    return Ok(());
                }
            }
            _ => return Err(invalid(self.aggregate, value)),
        }
        self.value = value.clone();
        Ok(())
    }
}

#[cold]
fn invalid(aggregate: Aggregate, value: &Value) -> EvalError {
    EvalError::Aggregate { aggregate, found: described(value).into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn over(aggregate: Aggregate, integral: bool, values: &[Value]) -> Result<Value, EvalError> {
        let mut accumulator = Accumulator::new(aggregate, integral);
        for value in values {
            let _ = accumulator.add(Some(value));
        }
        accumulator.answer()
    }

    fn shown(answer: Result<Value, EvalError>) -> String {
        answer.map_or_else(|error| error.to_string(), |value| format!("{value:?}"))
    }

    #[test]
    fn answers() {
        use Aggregate::{Avg, Count, Max, Min, Sum};
        let int = Value::Int;
        let text = |text: &str| Value::from(text);
        for (aggregate, values, expected) in [
            (Count, vec![int(1), Value::Null, Value::Absent, Value::Bool(false), text("")], "Int(3)"),
            (Count, vec![Value::Null], "Int(0)"),
            (Sum, vec![], "Null"),
            (Sum, vec![Value::Null], "Null"),
            (Sum, vec![int(1), Value::Null, int(2)], "Int(3)"),
            (Sum, vec![int(1), Value::Float(0.5)], "Float(1.5)"),
            (Sum, vec![int(i64::MAX), int(1), int(-1)], "Int(9223372036854775807)"),
            (Sum, vec![text("x"), int(1)], "run sum function error: found invalid arg string(x)"),
            (Sum, vec![int(1), Value::Bool(true)], "run sum function error: found invalid arg bool(true)"),
            (Avg, vec![int(1), int(2), int(2)], "Float(1.6666666666666667)"),
            (Avg, vec![int(2), Value::Null], "Float(2.0)"),
            (Avg, vec![Value::Null], "Null"),
            (Avg, vec![text("x")], "run avg function error: found invalid arg string(x)"),
            (Min, vec![int(3), Value::Float(2.5), Value::Null], "Float(2.5)"),
            (Max, vec![int(3), Value::Float(2.5)], "Int(3)"),
            (Max, vec![text("z"), text("é"), text("Z")], "Text(\"é\")"),
            (Min, vec![text("b"), text("B")], "Text(\"B\")"),
            (Min, vec![], "Absent"),
            (Min, vec![int(1), text("x")], "run min function error: found invalid arg string(x)"),
            (Max, vec![Value::Bool(true)], "run max function error: found invalid arg bool(true)"),
        ] {
            assert_eq!(shown(over(aggregate, true, &values)), expected, "{aggregate} {values:?}");
        }
        let beyond = [int(i64::MAX), int(1)];
        assert!(shown(over(Sum, true, &beyond)).starts_with("integer overflow: the sum 9223372036854775808 "));
        assert_eq!(shown(over(Sum, false, &beyond)), "Float(9.223372036854776e18)");
        let mut rows = Accumulator::new(Count, true);
        for _ in 0..2 {
            assert_eq!(rows.add(None), Ok(()));
        }
        assert_eq!(shown(rows.answer()), "Int(2)");
    }

    proptest! {
        #[test]
        fn as_the_whole(numbers in proptest::collection::vec(any::<i32>(), 1..40), cut in 0usize..40) {
            let values: Vec<Value> = numbers.iter().map(|n| Value::Int(i64::from(*n))).collect();
            let sum: i64 = numbers.iter().map(|n| i64::from(*n)).sum();
            let min = numbers.iter().copied().min().unwrap_or_default();
            for (aggregate, expected) in [
                (Aggregate::Count, Value::Int(numbers.len() as i64)),
                (Aggregate::Sum, Value::Int(sum)),
                (Aggregate::Avg, Value::Float(sum as f64 / numbers.len() as f64)),
                (Aggregate::Min, Value::Int(i64::from(min))),
            ] {
                let expected = shown(Ok(expected));
                prop_assert_eq!(&shown(over(aggregate, true, &values)), &expected);
                // Two parts merged are the whole.
                let (before, after) = values.split_at(cut.min(values.len()));
                let mut parts = [before, after].map(|part| {
                    let mut accumulator = Accumulator::new(aggregate, true);
                    part.iter().for_each(|value| drop(accumulator.add(Some(value))));
                    accumulator
                });
                let [first, second] = &mut parts;
                prop_assert_eq!(first.merge(second), Ok(()));
                prop_assert_eq!(&shown(first.answer()), &expected);
            }
        }
    }
}
