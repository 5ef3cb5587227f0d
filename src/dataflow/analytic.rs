//! Analytic functions: values computed row by row, with memory of earlier rows.
//!
//! Each call in the rule's text has one memory for each of its partitions, as long as the rule runs.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use indexmap::IndexMap;
use smallvec::SmallVec;

use crate::expr::analytic::{Analytic, AnalyticState};
use crate::expr::function::CallContext;
use crate::expr::set_returning::SrfRow;
use crate::expr::{EvalError, Expr, Scope};
use crate::plan::physical::{AnalyticCall, Step, StepKind};
use crate::value::cast;
use crate::value::json;
use crate::value::key::GroupKey;
use crate::value::{Object, Text, Value};

use super::row::KeyHasher;
use super::state::checkpoint::{CheckpointError, CheckpointReader, StateParts, expect_len};
use super::state::quarter;

/// The rows that `unnest` makes from one row.
pub struct Elements {
    /// The slot of the element.
    pub slot: usize,
    /// The step that each row continues with.
    pub next: usize,
    pub values: VecDeque<Value>,
}

/// The memories of a list of steps.
pub struct Memories {
    /// For each step, one memory for each partition.
    of_steps: Vec<IndexMap<GroupKey, AnalyticState, KeyHasher>>,
}

impl Memories {
    pub fn new(steps: &[Step]) -> Self {
        Memories { of_steps: steps.iter().map(|_| IndexMap::default()).collect() }
    }

    /// Adds the state to a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        to.put(&self.of_steps)
    }

    /// Restores the state of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]; the value must not be used then.
    pub fn restore(&mut self, from: &mut CheckpointReader<'_>) -> Result<(), CheckpointError> {
        self.of_steps = expect_len(from.take()?, self.of_steps.len())?;
        Ok(())
    }

    /// Adds the memories of other partitions.
    pub fn absorb(&mut self, others: Memories) {
        self.of_steps.iter_mut().zip(others.of_steps).for_each(|(step, others)| step.extend(others));
    }

    /// Keeps the partitions for which `keep` is true; it is given the number of the step, and the partition.
    pub fn retain(&mut self, keep: impl Fn(usize, &GroupKey) -> bool) {
        let steps = self.of_steps.iter_mut().enumerate();
        steps.for_each(|(number, step)| step.retain(|partition, _| keep(number, partition)));
    }

    /// Drops the oldest quarter of each step's partitions; returns how many.
    pub fn evict(&mut self) -> usize {
        let evict = |memories: &mut IndexMap<GroupKey, AnalyticState, KeyHasher>| {
            let oldest = quarter(memories.len());
            memories.drain(..oldest);
            oldest
        };
        self.of_steps.iter_mut().map(evict).sum()
    }

    /// Runs the steps of an input for a row, in order, from number `from`, and writes the results into their slots. If
    /// a step makes several rows from one, the run ends there and the elements are returned: each continues after that
    /// step.
    ///
    /// # Errors
    /// The first error of an expression or function. The steps after it have not processed the row.
    pub fn run(
        &mut self,
        steps: &[Step],
        from: usize,
        input: usize,
        slots: &mut [Value],
        context: &CallContext<'_>,
    ) -> Result<Option<Elements>, EvalError> {
        let all = steps.iter().zip(&mut self.of_steps).enumerate().skip(from);
        for (number, (step, memories)) in all.filter(|(_, (step, _))| step.input == input) {
            let scope = Scope { slots, context };
            let value = match &step.kind {
                StepKind::Compute(expr) => expr.eval(&scope)?.into_owned(),
                StepKind::Analytic(call) => answer(call, memories, &scope)?,
                StepKind::Elements(rows) => {
                    let made = rows.function.rows(&*rows.arg.eval(&scope)?)?;
                    let values = made.into_iter().map(SrfRow::into_value).collect();
                    return Ok(Some(Elements { slot: step.slot, next: number + 1, values }));
                }
            };
            slots[step.slot] = value;
        }
        Ok(None)
    }
}

fn answer(
    call: &AnalyticCall,
    memories: &mut IndexMap<GroupKey, AnalyticState, KeyHasher>,
    scope: &Scope<'_>,
) -> Result<Value, EvalError> {
    let args = evaluated(&call.args, scope)?;
    let keys = evaluated(&call.partition, scope)?;
    // A condition that is not a boolean counts as true.
    let when = match &call.when {
        Some(when) => !matches!(*when.eval(scope)?, Value::Bool(false)),
        None => true,
    };
    let key = GroupKey::from_values(keys.iter().map(|key| key.as_ref()));
    let memory = memories.entry(key).or_insert_with(|| match call.over_rows {
        true => AnalyticState::over_rows(call.analytic),
        false => AnalyticState::new(call.analytic),
    });
    if call.analytic != Analytic::ChangedCols {
        return memory.next(&args, when);
    }
    let prefix = args.first().map_or(Cow::Borrowed(""), |prefix| cast::text(prefix));
    let ignore_null = matches!(args.get(1).map(AsRef::as_ref), Some(Value::Bool(true)));
    let mut columns: Vec<(Text, Cow<'_, Value>)> = Vec::new();
    for (name, value) in call.names.iter().zip(args.iter().skip(2)) {
        if name != "*" {
            columns.push((name.clone(), Cow::Borrowed(value.as_ref())));
            continue;
        }
        if let Value::Object(members) = &*json::expand(value) {
            columns.extend(members.iter().map(|(key, value)| (key.clone(), Cow::Owned(value.clone()))));
        }
    }
    let named =
        |(name, value): (Text, Value)| (if prefix.is_empty() { name } else { format!("{prefix}{name}").into() }, value);
    let changed: Object = memory.next_columns(ignore_null, &columns).into_iter().map(named).collect();
    Ok(Value::Object(Arc::new(changed)))
}

fn evaluated<'a>(exprs: &'a [Expr], scope: &'a Scope<'_>) -> Result<SmallVec<[Cow<'a, Value>; 4]>, EvalError> {
    exprs.iter().map(|expr| expr.eval(scope)).collect()
}
