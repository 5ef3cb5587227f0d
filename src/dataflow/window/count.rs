//! Windows of a number of rows (COUNTWINDOW): the last `length` rows, after every `interval` rows.
//!
//! Rows are gathered in slices whose number of rows divides both, so overlapping windows share them.

use crate::dataflow::state::checkpoint::{CheckpointError, CheckpointReader, StateParts};
use crate::expr::EvalError;
use crate::plan::physical::Stateful;

use super::content::{Arrival, Closed, ClosedWindows, Content, compares, merges_ahead};
use super::slices::{Slices, gcd};

/// Open windows.
pub struct Count {
    length: u64,
    interval: u64,
    /// rows of a slice
    slice: u64,
    /// whether slices must agree, see [`compares`]
    compares: bool,
    /// rows so far
    rows: u64,
    open: Content,
    closed: Slices,
}

impl Count {
    /// Windows of `length` rows every `interval` rows.
    pub fn new(length: u64, interval: u64, plan: &Stateful) -> Self {
        let slice = gcd(length.max(1), interval.max(1));
        let closed = Slices::new(merges_ahead(plan));
        let compares = compares(plan) && slice != length;
        Count { length, interval, slice, compares, rows: 0, open: Content::default(), closed }
    }

    /// Adds the state to a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        to.put(&(self.rows, &self.open))?;
        self.closed.save(to)
    }

    /// Restores the state of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]; the value must not be used then.
    pub fn restore(&mut self, from: &mut CheckpointReader<'_>) -> Result<(), CheckpointError> {
        (self.rows, self.open) = from.take()?;
        self.closed.restore(from)
    }

    /// The number of windows that have rows and wait for more.
    pub fn open(&self) -> u64 {
        // They end at multiples of the interval, and none has fewer rows than the length.
        let ends = |up_to: u64| up_to / self.interval.max(1);
        let last = (self.rows + self.length).saturating_sub(1);
        let over = self.rows.max(self.length.saturating_sub(1));
        if self.rows == 0 { 0 } else { ends(last).saturating_sub(ends(over)) }
    }

    /// Drops the oldest quarter of the groups or rows; returns how many.
    pub fn evict(&mut self) -> usize {
        self.open.evict() + self.closed.evict()
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The row is lost, but counts for the window.
    pub fn row(
        &mut self,
        plan: &Stateful,
        arrival: &mut Arrival<'_>,
        closed: &mut ClosedWindows,
    ) -> Result<(), EvalError> {
        let added = if self.compares {
            // The first window with this row.
            let end = (self.rows / self.interval + 1) * self.interval;
            let start = end.max(self.length) - self.length;
            self.open.add_beside(plan, arrival, self.closed.since(start as i64))
        } else {
            self.open.add(plan, arrival)
        };
        self.rows += 1;
        if !self.rows.is_multiple_of(self.slice) {
            return added;
        }
        let room = self.open.groups.len();
        let content = std::mem::replace(&mut self.open, Content::with_room(room));
        if self.slice == self.length {
            give(content, closed);
            return added;
        }
        // Slices are numbered by their first rows.
        let start = self.rows - self.slice;
        self.closed.push(start as i64, content);
        if self.rows.is_multiple_of(self.interval) && self.rows >= self.length {
            self.closed.drop_before((self.rows - self.length) as i64);
            give(self.closed.merged(), closed);
        }
        added
    }
}

fn give(content: Content, closed: &mut ClosedWindows) {
    if let Some((start, end)) = content.span {
        closed.push_back(Closed::new(start, end, content));
    }
}
