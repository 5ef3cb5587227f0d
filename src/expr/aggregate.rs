//! Aggregates, computed row by row: a window keeps one [`Accumulator`] for each aggregate call and group. It keeps the
//! rows themselves only if an aggregate needs all of them.
//!
//! An accumulator is plain data. It can be merged with the accumulator of later rows, so a window can be made of
//! slices.

mod kept;
mod moving;
mod statistics;
#[cfg(test)]
mod tests;

use std::fmt;

pub use kept::{Distinct, End, First, Last, List, Merged, Values};
pub use moving::Moving;
pub use statistics::{Ranked, Spread};

use serde::{Deserialize, Serialize};

use super::error::{EvalError, described};
use super::ops::compare;
use crate::value::Value;
use crate::value::operator::Comparison;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// collect(e), collect(*): the values in order
    Collect,
    /// `collect(e)[0]`, `collect(e)[-1]`: only the first or the last value is kept
    CollectEnd {
        /// the last value instead of the first
        last: bool,
    },
    /// merge_agg(e), merge_agg(*): all objects merged into one
    Merge,
    /// last_value(e, filled), last_value(*, filled)
    LastValue {
        /// whether nulls are skipped
        filled: bool,
    },
    /// first_value(e, filled), first_value(*, filled)
    FirstValue {
        /// whether nulls are skipped
        filled: bool,
    },
    /// count(DISTINCT e)
    CountDistinct,
    /// sum(DISTINCT e)
    SumDistinct,
    /// avg(DISTINCT e)
    AvgDistinct,
    /// collect(DISTINCT e)
    CollectDistinct,
    /// deduplicate(e, all)
    Deduplicate {
        /// the first row of every value; otherwise only the last row, if its value is new
        all: bool,
    },
    /// median(e)
    Median,
    /// percentile_cont(e, share): interpolated
    PercentileCont(Share),
    /// percentile_disc(e, share): the number at that rank
    PercentileDisc(Share),
    /// stddev(e) of the population
    Stddev,
    /// stddevs(e) of a sample
    StddevSample,
    /// var(e) of the population
    Var,
    /// vars(e) of a sample
    VarSample,
}

/// A fraction of the numbers, from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share(f64);

// A share is never NaN, so equality is total.
impl Eq for Share {}

impl Share {
    /// A placeholder for the table of functions.
    pub const NONE: Share = Share(0.0);

    pub fn new(share: f64) -> Option<Share> {
        (0.0..=1.0).contains(&share).then_some(Share(share))
    }
}

impl Aggregate {
    /// Sets the option of the aggregate from the second argument of a call, if that is a literal. Literals of other
    /// types change nothing: the check of the function's row refuses such calls.
    pub fn with(self, option: Option<&Value>) -> Aggregate {
        match (self, option) {
            (Aggregate::LastValue { .. }, Some(Value::Bool(filled))) => Aggregate::LastValue { filled: *filled },
            (Aggregate::FirstValue { .. }, Some(Value::Bool(filled))) => Aggregate::FirstValue { filled: *filled },
            (Aggregate::Deduplicate { .. }, Some(Value::Bool(all))) => Aggregate::Deduplicate { all: *all },
            (Aggregate::PercentileCont(none), Some(number)) => {
                Aggregate::PercentileCont(number.as_f64().and_then(Share::new).unwrap_or(none))
            }
            (Aggregate::PercentileDisc(none), Some(number)) => {
                Aggregate::PercentileDisc(number.as_f64().and_then(Share::new).unwrap_or(none))
            }
            (other, _) => other,
        }
    }

    /// The option set by [`Aggregate::with`].
    pub fn option(self) -> Option<Value> {
        match self {
            Aggregate::LastValue { filled: option }
            | Aggregate::FirstValue { filled: option }
            | Aggregate::Deduplicate { all: option } => Some(Value::Bool(option)),
            Aggregate::PercentileCont(Share(share)) | Aggregate::PercentileDisc(Share(share)) => {
                Some(Value::Float(share))
            }
            _ => None,
        }
    }

    /// The same aggregate with DISTINCT, if the language has it.
    pub fn distinct(self) -> Option<Aggregate> {
        Some(match self {
            Aggregate::Count => Aggregate::CountDistinct,
            Aggregate::Sum => Aggregate::SumDistinct,
            Aggregate::Avg => Aggregate::AvgDistinct,
            Aggregate::Collect => Aggregate::CollectDistinct,
            _ => return None,
        })
    }

    pub fn is_distinct(self) -> bool {
        self != self.over_all()
    }

    /// The same aggregate without DISTINCT.
    fn over_all(self) -> Aggregate {
        match self {
            Aggregate::CountDistinct => Aggregate::Count,
            Aggregate::SumDistinct => Aggregate::Sum,
            Aggregate::AvgDistinct => Aggregate::Avg,
            Aggregate::CollectDistinct => Aggregate::Collect,
            other => other,
        }
    }

    /// Whether the result depends on the order of the rows.
    pub fn is_ordered(self) -> bool {
        use Aggregate as A;
        match self {
            A::Collect | A::CollectDistinct | A::CollectEnd { .. } | A::Merge => true,
            A::FirstValue { .. } | A::LastValue { .. } | A::Deduplicate { .. } => true,
            A::Count | A::CountDistinct | A::Sum | A::SumDistinct | A::Avg | A::AvgDistinct => false,
            A::Min | A::Max | A::Median | A::PercentileCont(_) | A::PercentileDisc(_) => false,
            A::Stddev | A::StddevSample | A::Var | A::VarSample => false,
        }
    }

    /// Whether its state has a bounded size.
    pub fn is_small(self) -> bool {
        use Aggregate as A;
        match self {
            A::Collect | A::CollectDistinct | A::Merge | A::Deduplicate { .. } | A::Median => false,
            A::PercentileCont(_) | A::PercentileDisc(_) => false,
            A::CountDistinct | A::SumDistinct | A::AvgDistinct => false,
            A::Count | A::Sum | A::Avg | A::Min | A::Max => true,
            A::CollectEnd { .. } | A::FirstValue { .. } | A::LastValue { .. } => true,
            A::Stddev | A::StddevSample | A::Var | A::VarSample => true,
        }
    }

    /// Whether `*` may be its argument.
    pub fn takes_rows(self) -> bool {
        use Aggregate::{Collect, CollectEnd, Count, FirstValue, LastValue, Merge};
        matches!(self, Count | Collect | CollectEnd { .. } | Merge | FirstValue { .. } | LastValue { .. })
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.over_all() {
            Aggregate::Count | Aggregate::CountDistinct => "count",
            Aggregate::Sum | Aggregate::SumDistinct => "sum",
            Aggregate::Avg | Aggregate::AvgDistinct => "avg",
            Aggregate::Min => "min",
            Aggregate::Max => "max",
            Aggregate::Collect | Aggregate::CollectDistinct => "collect",
            Aggregate::CollectEnd { last: false } => "collect[0]",
            Aggregate::CollectEnd { last: true } => "collect[-1]",
            Aggregate::Merge => "merge_agg",
            Aggregate::FirstValue { .. } => "first_value",
            Aggregate::LastValue { .. } => "last_value",
            Aggregate::Deduplicate { .. } => "deduplicate",
            Aggregate::Median => "median",
            Aggregate::PercentileCont(_) => "percentile_cont",
            Aggregate::PercentileDisc(_) => "percentile_disc",
            Aggregate::Stddev => "stddev",
            Aggregate::StddevSample => "stddevs",
            Aggregate::Var => "var",
            Aggregate::VarSample => "vars",
        })
    }
}

/// The state of one aggregate over the rows so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Accumulator {
    /// rows, or rows with a value
    Count(u64),
    Numbers(Numbers),
    Extreme(Extreme),
    Spread(Spread),
    /// all numbers, for median and percentiles
    Ranked(Ranked),
    List(List),
    End(End),
    Merged(Merged),
    Last(Last),
    /// deduplicate
    Distinct(Box<Distinct>),
    First(First),
    /// the aggregates with DISTINCT
    Values(Box<Values>),
    /// The answer is known: the values are kept elsewhere ([`Moving`]).
    Known(Value),
    /// Merging failed, because the values of two slices cannot be compared. The whole group gets the error: no result
    /// is better than a wrong one.
    Failed(EvalError),
}

/// Sum and count of numbers. Whole numbers are summed exactly and separately from doubles.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Numbers {
    /// whether this is sum or avg
    aggregate: Aggregate,
    /// whether a sum beyond 64 bits is an error, see [`Accumulator::new`]
    integral: bool,
    count: u64,
    /// sum of the whole numbers; it has room for 2^63 rows of 64 bits
    whole: i128,
    /// sum of the doubles
    float: f64,
    /// whether there were doubles
    mixed: bool,
}

/// The least or greatest value so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Extreme {
    /// whether this is min or max
    aggregate: Aggregate,
    /// absent before the first row
    value: Value,
}

impl Accumulator {
    /// The state before the first row. `integral`: whole numbers come from a BIGINT column or a literal and not from
    /// JSON, so a sum beyond 64 bits is an error instead of a float.
    pub fn new(aggregate: Aggregate, integral: bool) -> Accumulator {
        match aggregate {
            Aggregate::Count => Accumulator::Count(0),
            Aggregate::Sum | Aggregate::Avg => {
                Accumulator::Numbers(Numbers { aggregate, integral, count: 0, whole: 0, float: 0.0, mixed: false })
            }
            Aggregate::Min | Aggregate::Max => Accumulator::Extreme(Extreme { aggregate, value: Value::Absent }),
            Aggregate::Stddev | Aggregate::StddevSample | Aggregate::Var | Aggregate::VarSample => {
                Accumulator::Spread(Spread::new(aggregate))
            }
            Aggregate::Median | Aggregate::PercentileCont(_) | Aggregate::PercentileDisc(_) => {
                Accumulator::Ranked(Ranked::new(aggregate))
            }
            Aggregate::Collect => Accumulator::List(List::default()),
            Aggregate::CollectEnd { last } => Accumulator::End(End::new(last)),
            Aggregate::Merge => Accumulator::Merged(Merged::default()),
            Aggregate::FirstValue { filled } => Accumulator::First(First::new(filled)),
            Aggregate::LastValue { filled } => Accumulator::Last(Last::new(filled)),
            Aggregate::CountDistinct | Aggregate::SumDistinct | Aggregate::AvgDistinct | Aggregate::CollectDistinct => {
                Accumulator::Values(Box::new(Values::new(aggregate.over_all(), integral)))
            }
            Aggregate::Deduplicate { all } => Accumulator::Distinct(Box::new(Distinct::new(all))),
        }
    }

    /// The state of `sum` or `avg` after numbers that were summed elsewhere: their count, the sum of the whole numbers,
    /// the sum of the floats, and whether there were floats.
    pub fn of_numbers(
        aggregate: Aggregate,
        integral: bool,
        count: u64,
        whole: i128,
        float: f64,
        mixed: bool,
    ) -> Accumulator {
        Accumulator::Numbers(Numbers { aggregate, integral, count, whole, float, mixed })
    }

    /// Checks whether [`Accumulator::add`] accepts this value.
    ///
    /// # Errors
    /// The aggregate does not accept values of this type.
    #[inline]
    pub fn check(&self, value: Option<&Value>) -> Result<(), EvalError> {
        match (self, value) {
            (Accumulator::Count(_), _) | (_, None) => Ok(()),
            (Accumulator::Numbers(Numbers { aggregate, .. }), Some(value)) => match value {
                Value::Int(_) | Value::Float(_) | Value::Unsigned(_) | Value::Absent | Value::Null => Ok(()),
                _ => Err(invalid(*aggregate, value)),
            },
            (Accumulator::Values(values), Some(value)) => values.check(value),
            (Accumulator::Extreme(extreme), Some(value)) => extreme.check(value),
            (Accumulator::Spread(spread), Some(value)) => spread.check(value),
            (Accumulator::Ranked(ranked), Some(value)) => ranked.check(value),
            (Accumulator::Failed(error), _) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Whether the next value decides with which values later ones are compared.
    #[inline]
    pub fn is_undecided(&self) -> bool {
        matches!(self, Accumulator::Extreme(extreme) if matches!(extreme.value, Value::Absent))
    }

    /// Checks whether [`Accumulator::merge`] accepts this accumulator.
    ///
    /// # Errors
    /// The values of the two cannot be compared.
    pub fn check_merge(&self, later: &Accumulator) -> Result<(), EvalError> {
        match (self, later) {
            (Accumulator::Failed(error), _) | (_, Accumulator::Failed(error)) => Err(error.clone()),
            (Accumulator::Extreme(extreme), Accumulator::Extreme(more)) => extreme.check(&more.value),
            _ => Ok(()),
        }
    }

    /// Adds the argument's value for one row: `None` for `count(*)`, and the row as an object for other aggregates of
    /// `*`. Nulls are ignored except by lists, first and last values, and deduplicate.
    ///
    /// # Errors
    /// Those of [`Accumulator::check`]; then the accumulator is unchanged.
    #[inline]
    pub fn add(&mut self, value: Option<&Value>) -> Result<(), EvalError> {
        match (&mut *self, value) {
            (Accumulator::Count(count), value) => {
                *count += u64::from(value.is_none_or(|value| !value.is_null()));
                Ok(())
            }
            (Accumulator::Numbers(numbers), Some(value)) => numbers.add(value),
            (Accumulator::Extreme(extreme), Some(value)) => extreme.add(value),
            (Accumulator::Failed(error), _) => Err(error.clone()),
            (kept, Some(value)) => kept.add_other(value),
            (_, None) => Ok(()),
        }
    }

    /// The rarer aggregates, in a separate function to keep the common path small.
    fn add_other(&mut self, value: &Value) -> Result<(), EvalError> {
        match self {
            Accumulator::Spread(spread) => return spread.add(value),
            Accumulator::Ranked(ranked) => return ranked.add(value),
            Accumulator::List(list) => list.add(value),
            Accumulator::End(end) => end.add(value),
            Accumulator::Merged(merged) => merged.add(value),
            Accumulator::Last(last) => last.add(value),
            Accumulator::Distinct(distinct) => distinct.add(value),
            Accumulator::First(first) => first.add(value),
            Accumulator::Values(values) => return values.add(value),
            _ => {}
        }
        Ok(())
    }

    /// Adds the state of another accumulator of the same call that has seen later rows. After an error, this
    /// accumulator stays failed.
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
            (kept, later) => {
                kept.merge_other(later);
                Ok(())
            }
        };
        merged.inspect_err(|error| *self = Accumulator::Failed(error.clone()))
    }

    fn merge_other(&mut self, later: &Accumulator) {
        match (self, later) {
            (Accumulator::Spread(spread), Accumulator::Spread(more)) => spread.merge(more),
            (Accumulator::Ranked(ranked), Accumulator::Ranked(more)) => ranked.merge(more),
            (Accumulator::List(list), Accumulator::List(more)) => list.merge(more),
            (Accumulator::End(end), Accumulator::End(more)) => end.merge(more),
            (Accumulator::Merged(merged), Accumulator::Merged(more)) => merged.merge(more),
            (Accumulator::Last(last), Accumulator::Last(more)) => last.merge(more),
            (Accumulator::Distinct(distinct), Accumulator::Distinct(more)) => distinct.merge(more),
            (Accumulator::First(first), Accumulator::First(more)) => first.merge(more),
            (Accumulator::Values(values), Accumulator::Values(more)) => values.merge(more),
            // Accumulators of different calls are never merged.
            _ => {}
        }
    }

    /// The result for the rows so far; null if nothing was aggregated.
    ///
    /// # Errors
    /// A sum beyond 64 bits, or slices that cannot be compared.
    pub fn answer(&self) -> Result<Value, EvalError> {
        match self {
            Accumulator::Count(count) => Ok(Value::Int(i64::try_from(*count).unwrap_or(i64::MAX))),
            Accumulator::Numbers(numbers) => numbers.answer(),
            Accumulator::Extreme(extreme) => Ok(extreme.value.clone()),
            Accumulator::Spread(spread) => Ok(spread.answer()),
            Accumulator::Ranked(ranked) => Ok(ranked.answer()),
            Accumulator::List(list) => Ok(list.answer()),
            Accumulator::End(end) => Ok(end.answer()),
            Accumulator::Merged(merged) => Ok(merged.answer()),
            Accumulator::Last(last) => Ok(last.answer()),
            Accumulator::Distinct(distinct) => Ok(distinct.answer()),
            Accumulator::First(first) => Ok(first.answer()),
            Accumulator::Values(values) => values.answer(),
            Accumulator::Known(answer) => Ok(answer.clone()),
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
            Value::Unsigned(u) => {
                self.float += *u as f64;
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
    /// Whether the value can be compared with the current one.
    #[inline]
    fn check(&self, value: &Value) -> Result<(), EvalError> {
        use Value::{Absent, DateTime, Float, Int, Null, Text, Unsigned};
        match (&self.value, value) {
            (_, Absent | Null)
            | (Absent, Int(_) | Float(_) | Unsigned(_) | Text(_) | DateTime(_))
            | (Int(_) | Float(_) | Unsigned(_), Int(_) | Float(_) | Unsigned(_))
            | (Text(_), Text(_))
            | (DateTime(_), DateTime(_)) => Ok(()),
            _ => Err(invalid(self.aggregate, value)),
        }
    }

    #[inline]
    fn add(&mut self, value: &Value) -> Result<(), EvalError> {
        let op = if self.aggregate == Aggregate::Min { Comparison::Less } else { Comparison::Greater };
        self.check(value)?;
        let better = match (&self.value, value) {
            (_, Value::Absent | Value::Null) => false,
            (Value::Absent, _) => true,
            (known, value) => compare(value, op, known)?,
        };
        if better {
            self.value = value.clone();
        }
        Ok(())
    }
}

#[cold]
fn invalid(aggregate: Aggregate, value: &Value) -> EvalError {
    EvalError::Aggregate { aggregate, found: described(value).into() }
}
