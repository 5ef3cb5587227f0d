//! The rows of a scan table, which outlive the windows that they are joined with.

use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;

use super::index::Index;
use crate::dataflow::row::KeptRow;
use crate::dataflow::state::checkpoint::{CheckpointError, CheckpointReader, StateParts};
use crate::dataflow::state::quarter;
use crate::expr::Expr;
use crate::plan::physical::{Input, Join};
use crate::value::key::GroupKey;

/// The last rows of a scan table, by the key of its join.
pub struct ScanTable {
    pub(super) rows: VecDeque<Rc<KeptRow>>,
    retain: Option<usize>,
    /// `None`: the join compares more than columns of the table, so only joined rows have the key.
    pub(super) index: Option<Index>,
    /// The slots of the key, counted from the table's first slot.
    key_slots: SmallVec<[usize; 2]>,
}

impl ScanTable {
    /// An empty table, which is the right side of `join` if there is one. `retain`: the most rows that it keeps.
    pub fn new(input: &Input, join: Option<&Join>, retain: Option<usize>) -> ScanTable {
        let slot = |(_, right): &(Expr, Expr)| match right {
            Expr::Slot(slot) if input.slots.contains(slot) => Some(slot - input.slots.start),
            _ => None,
        };
        let key_slots: Option<SmallVec<_>> = join.and_then(|join| join.equal.iter().map(slot).collect());
        let index = key_slots.as_ref().map(|slots| Index::new(slots.len()));
        ScanTable { rows: VecDeque::new(), retain, index, key_slots: key_slots.unwrap_or_default() }
    }

    /// The rows, oldest first.
    pub fn rows(&self) -> impl Iterator<Item = &KeptRow> {
        self.rows.iter().map(|row| &**row)
    }

    /// Adds the rows to a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        to.put(&self.rows)
    }

    /// Restores the rows of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn restore(&mut self, from: &mut CheckpointReader<'_>) -> Result<(), CheckpointError> {
        let rows: Vec<KeptRow> = from.take()?;
        rows.into_iter().for_each(|row| self.push(row));
        Ok(())
    }

    /// Adds a row, and drops the oldest beyond the limit.
    pub fn push(&mut self, row: KeptRow) {
        if let Some(index) = &mut self.index {
            index.add(GroupKey::from_values(self.key_slots.iter().map(|&slot| &row.slots[slot])));
        }
        self.rows.push_back(Rc::new(row));
        while self.retain.is_some_and(|retain| self.rows.len() > retain) {
            self.forget_first();
        }
    }

    /// Drops the oldest quarter of the rows; returns how many.
    pub fn evict(&mut self) -> usize {
        let oldest = quarter(self.rows.len());
        (0..oldest).for_each(|_| self.forget_first());
        oldest
    }

    fn forget_first(&mut self) {
        let Some(row) = self.rows.pop_front() else { return };
        if let Some(index) = &mut self.index {
            index.remove_first(&GroupKey::from_values(self.key_slots.iter().map(|&slot| &row.slots[slot])));
        }
    }
}
