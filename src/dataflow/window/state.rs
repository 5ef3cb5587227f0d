//! Windows between conditions (STATEWINDOW): from a row where the first holds to the next one where the second does,
//! both included; with one condition, from a row where it holds to just before the next such row. Rows between windows
//! are dropped. Each partition has its own window.

use indexmap::IndexMap;

use crate::dataflow::row::KeyHasher;
use crate::dataflow::state::checkpoint::{CheckpointError, CheckpointReader, StateParts};
use crate::dataflow::state::quarter;
use crate::expr::{EvalError, Expr, Scope};
use crate::plan::physical::{Stateful, WindowSpec};
use crate::value::Value;
use crate::value::key::GroupKey;

use super::content::{Arrival, Closed, ClosedWindows, Content};

/// The open windows by partition.
#[derive(Default)]
pub struct State {
    open: IndexMap<GroupKey, Content, KeyHasher>,
}

impl State {
    /// Adds the state to a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        to.put(&self.open)
    }

    /// Restores the state of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]; the value must not be used then.
    pub fn restore(&mut self, from: &mut CheckpointReader<'_>) -> Result<(), CheckpointError> {
        self.open = from.take()?;
        Ok(())
    }

    /// The number of open windows, at most one for each partition.
    pub fn open(&self) -> u64 {
        self.open.len() as u64
    }

    /// Drops the oldest quarter of the windows, or of the content of the only one; returns how many.
    pub fn evict(&mut self) -> usize {
        if self.open.len() == 1 {
            return self.open.values_mut().map(Content::evict).sum();
        }
        let windows = quarter(self.open.len());
        self.open.drain(..windows);
        windows
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The row is dropped, but opens or closes its window.
    pub fn row(
        &mut self,
        plan: &Stateful,
        arrival: &mut Arrival<'_>,
        closed: &mut ClosedWindows,
    ) -> Result<(), EvalError> {
        let WindowSpec::State { begin, end, partition } = &plan.window else { return Ok(()) };
        let mut added = Ok(());
        let scope = Scope { slots: arrival.row, context: arrival.context };
        let mut key = std::mem::take(arrival.key);
        key.clear();
        for expr in partition {
            // A key that cannot be computed is a partition of its own.
            key.push(&expr.eval(&scope).unwrap_or_default());
        }
        let begins = holds(begin, &scope);
        let ends = end.as_ref().map(|end| holds(end, &scope));
        match (self.open.get_mut(key.parts()), ends) {
            (None, _) if !begins => {}
            (None, _) => {
                let mut content = Content::default();
                added = content.add(plan, arrival);
                self.open.insert(key.clone(), content);
            }
            // One condition: the next start ends the window before it.
            (Some(content), None) if begins => {
                let mut next = Content::default();
                added = next.add(plan, arrival);
                let end = arrival.time;
                give(std::mem::replace(content, next), end, closed);
            }
            (Some(content), ends) => {
                added = content.add(plan, arrival);
                if ends == Some(true)
                    && let Some(content) = self.open.swap_remove(key.parts())
                {
                    give(content, arrival.time, closed);
                }
            }
        }
        *arrival.key = key;
        added
    }
}

/// Whether a condition is true; other values and errors count as false.
fn holds(condition: &Expr, scope: &Scope<'_>) -> bool {
    matches!(condition.eval(scope).as_deref(), Ok(Value::Bool(true)))
}

/// Returns a window that a row with time `end` has closed.
fn give(content: Content, end: i64, closed: &mut ClosedWindows) {
    if let Some((start, _)) = content.span
        && !content.is_empty()
    {
        closed.push_back(Closed::new(start, end, content));
    }
}
