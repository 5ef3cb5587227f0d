//! Analytic functions, which remember earlier rows.
//!
//! An [`AnalyticState`] is the memory of one call in a rule within one partition. It is plain data, so it can be saved
//! in a checkpoint, and its size is bounded. It does not know streams, partitions or clauses: the caller decides which
//! rows it sees, in which order, and which state belongs to which partition. A row that fails leaves the state
//! unchanged.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::aggregate::{Accumulator, Aggregate};
use super::error::EvalError;
use super::function::FunctionError;
use crate::value::json;
use crate::value::key::KeyPart;
use crate::value::{Text, Value};

/// The largest offset of `lag`: the number of values kept for each partition.
pub const MAX_LAG: i64 = 100_000;
/// The most columns that one state remembers. Without a limit, messages with ever new keys would fill the memory. A
/// column beyond the limit counts as changed in every row that has it.
const MAX_COLUMNS: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Analytic {
    /// lag(e [, offset [, default [, ignoreNull]]]): the value some rows before
    Lag,
    /// latest(e [, default]): the last value that is not null
    Latest,
    /// changed_col(ignoreNull, e): e if it differs from the row before
    ChangedCol,
    /// had_changed(ignoreNull, e, …): whether any differs from the row before
    HadChanged,
    /// changed_cols(prefix, ignoreNull, e, …): the columns that differ from the row before
    ChangedCols,
    /// acc_sum(e [, begin, reset])
    AccSum,
    /// acc_count(e [, begin, reset]), acc_count(*)
    AccCount,
    /// acc_avg(e [, begin, reset])
    AccAvg,
    /// acc_max(e [, begin, reset])
    AccMax,
    /// acc_min(e [, begin, reset])
    AccMin,
}

/// The memory of one call in one partition.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AnalyticState {
    analytic: Analytic,
    memory: Memory,
}

type Columns = HashMap<Text, Value>;

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Memory {
    /// the values of the rows before, the newest last
    History(VecDeque<Value>),
    /// the value of each argument
    Values(Vec<Value>),
    /// the value of each column
    Columns(Columns),
    /// the values of the arguments except the last, `*`, and the values of the columns of `*`
    Row(Vec<Value>, Columns),
    Running(Running),
}

/// The running value of an `acc_` function.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Running {
    aggregate: Aggregate,
    gathered: Accumulator,
    /// For the form with begin and reset: whether rows count now.
    open: bool,
}

impl fmt::Display for Analytic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Analytic {
    /// The function's name.
    pub fn name(self) -> &'static str {
        match self {
            Analytic::Lag => "lag",
            Analytic::Latest => "latest",
            Analytic::ChangedCol => "changed_col",
            Analytic::HadChanged => "had_changed",
            Analytic::ChangedCols => "changed_cols",
            Analytic::AccSum => "acc_sum",
            Analytic::AccCount => "acc_count",
            Analytic::AccAvg => "acc_avg",
            Analytic::AccMax => "acc_max",
            Analytic::AccMin => "acc_min",
        }
    }

    /// The error of an argument of the wrong kind; `position` counts from 1.
    #[cold]
    fn wrong(self, position: usize, expected: &'static str, found: &Value) -> EvalError {
        let error = Box::new(FunctionError::Argument { position, expected, found: found.kind() });
        EvalError::Function { name: self.name(), error }
    }
}

impl AnalyticState {
    /// The state before the first row.
    pub fn new(analytic: Analytic) -> AnalyticState {
        let running = |aggregate| {
            // Sums beyond 64 bits continue as doubles: a sum over the whole life of a rule must not fail for ever.
            Memory::Running(Running { aggregate, gathered: Accumulator::new(aggregate, false), open: false })
        };
        let memory = match analytic {
            Analytic::Lag => Memory::History(VecDeque::new()),
            Analytic::Latest | Analytic::ChangedCol | Analytic::HadChanged => Memory::Values(Vec::new()),
            Analytic::ChangedCols => Memory::Columns(Columns::new()),
            Analytic::AccSum => running(Aggregate::Sum),
            Analytic::AccCount => running(Aggregate::Count),
            Analytic::AccAvg => running(Aggregate::Avg),
            Analytic::AccMax => running(Aggregate::Max),
            Analytic::AccMin => running(Aggregate::Min),
        };
        AnalyticState { analytic, memory }
    }

    /// The state of `had_changed(…, *)` before the first row. `*` must be the last argument. With ignore_null its
    /// columns are compared one by one, so that a missing column is no change; otherwise the row is compared as a
    /// whole. For other functions this is [`AnalyticState::new`].
    pub fn over_rows(analytic: Analytic) -> AnalyticState {
        match analytic {
            Analytic::HadChanged => AnalyticState { analytic, memory: Memory::Row(Vec::new(), Columns::new()) },
            other => AnalyticState::new(other),
        }
    }

    /// The result for the next row. `args` are the arguments of the call, with the row as an object for `*`; `when` is
    /// the condition of `OVER (WHEN …)`, true if there is none. If it is false the row is not remembered, and
    /// `had_changed` gives false, `changed_col` null, `lag` the value it will give for the next row, the others their
    /// current value.
    ///
    /// Arguments of the wrong kind are errors. `changed_cols` gives an object of the changed columns under the names
    /// `1`, `2` …; [`AnalyticState::next_columns`] takes names.
    pub fn next(&mut self, args: &[Cow<'_, Value>], when: bool) -> Result<Value, EvalError> {
        match &mut self.memory {
            Memory::History(history) => lag(history, args, when),
            Memory::Values(values) => match self.analytic {
                Analytic::Latest => Ok(latest(values, args, when)),
                Analytic::ChangedCol => changed_col(values, args, when),
                _ => had_changed(values, None, args, when),
            },
            Memory::Row(values, columns) => had_changed(values, Some(columns), args, when),
            Memory::Columns(_) if !when => Ok(Value::Null),
            Memory::Columns(_) => {
                let ignore_null = truth(self.analytic, args, 1)?;
                let columns: Vec<_> =
                    (1..).zip(args.iter().skip(2)).map(|(at, arg)| (number(at), Cow::Borrowed(&**arg))).collect();
                Ok(Value::object(self.next_columns(ignore_null, &columns)))
            }
            Memory::Running(running) => running.next(self.analytic, args, when),
        }
    }

    /// The columns of the next row that differ from the remembered ones of the same name, in order, without the prefix
    /// of `changed_cols`. With `ignore_null` a null neither differs nor is remembered. The names must be unique within
    /// the row. Functions other than `changed_cols` have no columns.
    pub fn next_columns(&mut self, ignore_null: bool, columns: &[(Text, Cow<'_, Value>)]) -> Vec<(Text, Value)> {
        let Memory::Columns(known) = &mut self.memory else { return Vec::new() };
        let mut changed = Vec::new();
        for (name, value) in columns {
            if differs(known, name, value, ignore_null) {
                // A column that disappeared is returned as null; absent would mean unchanged.
                let now = if value.is_null() { Value::Null } else { value.as_ref().clone() };
                changed.push((name.clone(), now));
            }
        }
        changed
    }
}

fn number(at: usize) -> Text {
    at.to_string().into()
}

/// The argument at `index`, counted from 0; absent if the call has fewer.
fn arg<'a>(args: &'a [Cow<'_, Value>], index: usize) -> &'a Value {
    const ABSENT: &Value = &Value::Absent;
    args.get(index).map_or(ABSENT, |arg| arg)
}

/// A boolean argument; null is false.
fn truth(analytic: Analytic, args: &[Cow<'_, Value>], index: usize) -> Result<bool, EvalError> {
    match arg(args, index) {
        Value::Bool(truth) => Ok(*truth),
        Value::Absent | Value::Null => Ok(false),
        other => Err(analytic.wrong(index + 1, "boolean", other)),
    }
}

/// Whether two values are equal: numbers by value, arrays and objects by content, null like absent.
fn same(before: &Value, now: &Value) -> bool {
    match (before, now) {
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Text(a), Value::Text(b)) => a == b,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        _ if before.kind() != now.kind() && before.as_f64().is_none() => false,
        _ => KeyPart::of(before) == KeyPart::of(now),
    }
}

/// Whether a column differs from the remembered value. The new value is remembered.
fn differs(known: &mut Columns, name: &Text, value: &Value, ignore_null: bool) -> bool {
    if ignore_null && value.is_null() {
        return false;
    }
    let room = known.len() < MAX_COLUMNS;
    match known.get_mut(name) {
        Some(before) if same(before, value) => return false,
        Some(before) => before.clone_from(value),
        // Absent before and now.
        None if value.is_null() => return false,
        None if room => {
            known.insert(name.clone(), value.clone());
        }
        None => {}
    }
    true
}

fn lag(history: &mut VecDeque<Value>, args: &[Cow<'_, Value>], when: bool) -> Result<Value, EvalError> {
    let value = arg(args, 0);
    let offset = match arg(args, 1) {
        _ if args.len() < 2 => 1,
        Value::Int(offset @ 0..=MAX_LAG) => *offset as usize,
        other => return Err(Analytic::Lag.wrong(2, "whole number from 0 to 100000", other)),
    };
    let ignore_null = args.len() < 4 || truth(Analytic::Lag, args, 3)?;
    if offset == 0 {
        return Ok(value.clone());
    }
    // The first row's default holds for all rows before it, even if later rows have another.
    let default = arg(args, 2);
    if history.is_empty() && !default.is_null() {
        history.resize(offset, default.clone());
    }
    let answer = match history.len().checked_sub(offset) {
        Some(at) => history[at].clone(),
        None => default.clone(),
    };
    if when && !(ignore_null && value.is_null()) {
        if history.len() >= offset {
            history.drain(..=history.len() - offset);
        }
        history.push_back(value.clone());
    }
    Ok(answer)
}

/// The remembered value at `index`; absent before the first row.
fn remembered(values: &mut Vec<Value>, index: usize) -> &mut Value {
    if values.len() <= index {
        values.resize(index + 1, Value::Absent);
    }
    &mut values[index]
}

fn latest(values: &mut Vec<Value>, args: &[Cow<'_, Value>], when: bool) -> Value {
    let last = remembered(values, 0);
    let value = arg(args, 0);
    if when && !value.is_null() {
        last.clone_from(value);
    }
    if last.is_null() { arg(args, 1).clone() } else { last.clone() }
}

fn changed_col(values: &mut Vec<Value>, args: &[Cow<'_, Value>], when: bool) -> Result<Value, EvalError> {
    let ignore_null = truth(Analytic::ChangedCol, args, 0)?;
    let (last, value) = (remembered(values, 0), arg(args, 1));
    if !when || (ignore_null && value.is_null()) || same(last, value) {
        return Ok(Value::Null);
    }
    last.clone_from(value);
    Ok(value.clone())
}

fn had_changed(
    values: &mut Vec<Value>,
    columns: Option<&mut Columns>,
    args: &[Cow<'_, Value>],
    when: bool,
) -> Result<Value, EvalError> {
    let ignore_null = truth(Analytic::HadChanged, args, 0)?;
    let mut changed = false;
    if !when {
        return Ok(Value::Bool(changed));
    }
    let mut compared = args.get(1..).unwrap_or_default();
    if ignore_null
        && let (Some(columns), Some((row, others))) = (columns, compared.split_last())
        && let Value::Object(members) = &*json::expand(row)
    {
        compared = others;
        for (name, value) in members.iter() {
            changed |= differs(columns, name, value, ignore_null);
        }
    }
    for (index, value) in compared.iter().enumerate() {
        let last = remembered(values, index);
        let ignored = ignore_null && value.is_null();
        if !ignored && !same(last, value) {
            last.clone_from(value);
            changed = true;
        }
    }
    Ok(Value::Bool(changed))
}

impl Running {
    fn next(&mut self, analytic: Analytic, args: &[Cow<'_, Value>], when: bool) -> Result<Value, EvalError> {
        let ranged = args.len() > 1;
        if !when {
            // Before the first row in a range, mean, maximum and minimum are 0, like sums.
            return self.answer(ranged).map(|answer| if answer.is_null() { Value::Int(0) } else { answer });
        }
        // All arguments are evaluated first, so that a row that fails changes nothing.
        let (begins, ends) =
            if ranged { (truth(analytic, args, 1)?, truth(analytic, args, 2)?) } else { (false, false) };
        let counts = !ranged || self.open || begins;
        let value = arg(args, 0);
        if counts && self.aggregate != Aggregate::Count && !value.is_null() && value.as_f64().is_none() {
            return Err(analytic.wrong(1, "number", value));
        }
        if !counts {
            return self.answer(ranged);
        }
        if ranged && !self.open {
            self.gathered = Accumulator::new(self.aggregate, false);
            self.open = true;
        }
        self.gathered.add(Some(value))?;
        let answer = self.answer(ranged);
        self.open &= !ends;
        answer
    }

    /// The current value: 0 outside the range from begin to reset, and for a sum or count of no values.
    fn answer(&self, ranged: bool) -> Result<Value, EvalError> {
        if ranged && !self.open {
            return Ok(Value::Int(0));
        }
        match self.gathered.answer()? {
            Value::Absent | Value::Null if self.aggregate == Aggregate::Sum => Ok(Value::Int(0)),
            answer => Ok(answer),
        }
    }
}
