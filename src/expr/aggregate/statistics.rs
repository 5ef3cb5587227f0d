//! Statistics of numbers: deviation and variance, which need constant memory, and median and percentiles, which keep
//! all numbers.

use serde::{Deserialize, Serialize};

use super::{Aggregate, Share, invalid};
use crate::expr::error::EvalError;
use crate::expr::ops::order_of_numbers;
use crate::value::Value;

/// Deviation or variance by Welford's method: one pass, and accurate even where a sum of squares would lose the
/// differences.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spread {
    aggregate: Aggregate,
    count: u64,
    mean: f64,
    /// the sum of the squared distances from the mean
    squares: f64,
}

impl Spread {
    pub(super) fn new(aggregate: Aggregate) -> Spread {
        Spread { aggregate, count: 0, mean: 0.0, squares: 0.0 }
    }

    pub(super) fn check(&self, value: &Value) -> Result<(), EvalError> {
        if value.is_null() || value.as_f64().is_some() { Ok(()) } else { Err(invalid(self.aggregate, value)) }
    }

    pub(super) fn add(&mut self, value: &Value) -> Result<(), EvalError> {
        if value.is_null() {
            return Ok(());
        }
        let number = value.as_f64().ok_or_else(|| invalid(self.aggregate, value))?;
        self.count += 1;
        let distance = number - self.mean;
        self.mean += distance / self.count as f64;
        self.squares += distance * (number - self.mean);
        Ok(())
    }

    pub(super) fn merge(&mut self, later: &Spread) {
        let (before, after) = (self.count as f64, later.count as f64);
        if later.count == 0 {
            return;
        }
        let distance = later.mean - self.mean;
        let count = before + after;
        self.count += later.count;
        self.mean += distance * (after / count);
        self.squares += later.squares + distance * distance * (before * after / count);
    }

    /// Null if there are no numbers, and for a sample also if there is only one.
    pub(super) fn answer(&self) -> Value {
        use Aggregate as A;
        let (is_sample, is_deviation) = match self.aggregate {
            A::Var => (false, false),
            A::VarSample => (true, false),
            A::Stddev => (false, true),
            A::StddevSample => (true, true),
            // They have other states.
            A::Count | A::CountDistinct | A::Sum | A::SumDistinct | A::Avg | A::AvgDistinct => return Value::Null,
            A::Min | A::Max | A::Median | A::PercentileCont(_) | A::PercentileDisc(_) => return Value::Null,
            A::Collect | A::CollectDistinct | A::CollectEnd { .. } | A::Merge => return Value::Null,
            A::FirstValue { .. } | A::LastValue { .. } | A::Deduplicate { .. } => return Value::Null,
        };
        let freedom = self.count.saturating_sub(u64::from(is_sample));
        if freedom == 0 {
            return Value::Null;
        }
        let variance = self.squares / freedom as f64;
        Value::Float(if is_deviation { variance.sqrt() } else { variance })
    }
}

/// All numbers, for aggregates that choose by rank.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ranked {
    aggregate: Aggregate,
    numbers: Vec<Value>,
}

impl Ranked {
    pub(super) fn new(aggregate: Aggregate) -> Ranked {
        Ranked { aggregate, numbers: Vec::new() }
    }

    pub(super) fn check(&self, value: &Value) -> Result<(), EvalError> {
        match value {
            Value::Absent | Value::Null | Value::Int(_) | Value::Unsigned(_) | Value::Float(_) => Ok(()),
            _ => Err(invalid(self.aggregate, value)),
        }
    }

    pub(super) fn add(&mut self, value: &Value) -> Result<(), EvalError> {
        match value {
            Value::Absent | Value::Null => {}
            Value::Int(_) | Value::Float(_) | Value::Unsigned(_) => self.numbers.push(value.clone()),
            _ => return Err(invalid(self.aggregate, value)),
        }
        Ok(())
    }

    pub(super) fn merge(&mut self, later: &Ranked) {
        self.numbers.extend_from_slice(&later.numbers);
    }

    pub(super) fn answer(&self) -> Value {
        of_ranks(self.aggregate, self.numbers.len(), |rank| self.number(rank))
    }

    /// The number at a rank, counted from 0, and the next number.
    fn number(&self, rank: usize) -> (Value, Option<Value>) {
        let mut numbers = self.numbers.clone();
        let (_, number, above) = numbers.select_nth_unstable_by(rank, order_of_numbers);
        (number.clone(), above.iter().min_by(|a, b| order_of_numbers(a, b)).cloned())
    }
}

/// The median or percentile of this many numbers. `number` returns the one at a rank, counted from 0, and the next one.
pub(super) fn of_ranks(aggregate: Aggregate, count: usize, number: impl Fn(usize) -> (Value, Option<Value>)) -> Value {
    if count == 0 {
        return Value::Null;
    }
    // A rank with a fraction is interpolated between two numbers.
    let between = |rank: f64| {
        let (low, next) = number(rank as usize);
        let part = rank.fract();
        let low = low.as_f64().unwrap_or_default();
        let high = next.and_then(|next| next.as_f64()).unwrap_or(low);
        // Weighted, because the difference of two floats can overflow.
        Value::Float(if part == 0.0 || low == high { low } else { low * (1.0 - part) + high * part })
    };
    use Aggregate as A;
    match aggregate {
        A::PercentileDisc(Share(share)) => {
            // 0.55 · 100 is slightly more than 55 in floats, which must not become rank 56.
            let rank = (share * count as f64 * (1.0 - 2.0 * f64::EPSILON)).ceil() as usize;
            number(rank.clamp(1, count) - 1).0
        }
        A::PercentileCont(Share(share)) => between(share * (count - 1) as f64),
        A::Median if count % 2 == 1 => number(count / 2).0,
        A::Median => between((count - 1) as f64 / 2.0),
        // They have other states.
        A::Count | A::CountDistinct | A::Sum | A::SumDistinct | A::Avg | A::AvgDistinct => Value::Null,
        A::Min | A::Max | A::Stddev | A::StddevSample | A::Var | A::VarSample => Value::Null,
        A::Collect | A::CollectDistinct | A::CollectEnd { .. } | A::Merge => Value::Null,
        A::FirstValue { .. } | A::LastValue { .. } | A::Deduplicate { .. } => Value::Null,
    }
}
