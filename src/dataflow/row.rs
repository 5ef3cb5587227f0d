//! Rows on their way through a rule's dataflow.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::value::Value;

/// Hashes the keys of groups. Each map has its own seed. Keys are short: the standard library's hasher takes longer
/// than all aggregates of a row.
pub type KeyHasher = foldhash::fast::RandomState;

/// Rows of one width, flat: one vector of values for all rows, so that a row costs no allocation.
#[derive(Clone, Debug, Default)]
pub struct RowBatch {
    /// slots of a row; rows of inputs with fewer slots are filled up
    pub width: usize,
    /// the slots of all rows, one row after the other
    pub values: Vec<Value>,
    /// the rows' times, ms since the epoch
    pub times: Vec<i64>,
    /// which of the rule's inputs each row belongs to
    pub inputs: Vec<u16>,
    /// when the oldest of the rows was read
    pub received: Option<Instant>,
    /// the clock has stepped back before these rows: windows of the time before are over
    pub stepped_back: bool,
}

impl RowBatch {
    /// Adds rows of the same width behind these.
    pub fn append(&mut self, rows: RowBatch) {
        if self.times.is_empty() {
            *self = rows;
            return;
        }
        self.values.extend(rows.values);
        self.times.extend(rows.times);
        self.inputs.extend(rows.inputs);
    }

    /// Forgets all rows, and keeps the room for others.
    pub fn clear(&mut self) {
        self.values.clear();
        self.times.clear();
        self.inputs.clear();
        self.received = None;
    }

    /// Calls `see` with the time, input and slots of each row, in order; it may take the slots.
    pub fn each(&mut self, mut see: impl FnMut(i64, usize, &mut [Value])) {
        // A row without slots (count(*)) is an empty slice.
        for (row, (&time, &input)) in self.times.iter().zip(&self.inputs).enumerate() {
            see(time, usize::from(input), &mut self.values[row * self.width..][..self.width]);
        }
    }
}

/// A row that a window or a table keeps. Windows that overlap share it.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptRow {
    /// ms since the epoch
    pub time: i64,
    /// which of the rule's inputs it belongs to
    pub input: usize,
    /// the slots of that input
    pub slots: Box<[Value]>,
}
