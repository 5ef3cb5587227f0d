//! Rows in a rule's dataflow.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::value::{Text, Value};

/// Hashes the keys of groups, with a seed for each map. Keys are short: the standard library's hasher would take longer
/// than all aggregates of a row.
pub type KeyHasher = foldhash::fast::RandomState;

/// Rows of one width in one vector of values, so that a row needs no allocation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RowBatch {
    /// Slots of a row; rows of inputs with fewer slots are padded.
    pub width: usize,
    /// The slots of all rows, row by row.
    pub values: Vec<Value>,
    /// ms since the epoch.
    pub times: Vec<i64>,
    /// The input of each row.
    pub inputs: Vec<u16>,
    /// When the oldest row was read. Another process has another clock, so it is not sent there.
    #[serde(skip)]
    pub received: Option<Instant>,
    /// The clock has stepped back before these rows: earlier windows are over.
    pub stepped_back: bool,
}

impl RowBatch {
    /// Adds a row of an input, taking its slots.
    pub fn push(&mut self, input: u16, time: i64, received: Instant, slots: &mut [Value]) {
        self.values.extend(slots.iter_mut().map(std::mem::take));
        let full = self.times.len() + 1;
        self.values.resize(full * self.width, Value::Absent);
        self.times.push(time);
        self.inputs.push(input);
        self.received.get_or_insert(received);
    }

    /// Appends rows of the same width.
    pub fn append(&mut self, rows: RowBatch) {
        if self.times.is_empty() {
            let received = self.received.or(rows.received);
            *self = RowBatch { received, ..rows };
            return;
        }
        self.received = self.received.or(rows.received);
        self.values.extend(rows.values);
        self.times.extend(rows.times);
        self.inputs.extend(rows.inputs);
    }

    /// Removes the rows with these numbers, which ascend.
    pub fn remove(&mut self, rows: &[usize]) {
        let mut going = rows.iter().copied().peekable();
        let mut kept = 0;
        for row in 0..self.times.len() {
            if going.next_if_eq(&row).is_some() {
                continue;
            }
            self.times.swap(kept, row);
            self.inputs.swap(kept, row);
            for slot in 0..self.width {
                self.values.swap(kept * self.width + slot, row * self.width + slot);
            }
            kept += 1;
        }
        self.times.truncate(kept);
        self.inputs.truncate(kept);
        self.values.truncate(kept * self.width);
    }

    /// Removes all rows, and keeps the allocation.
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
    /// The input that it belongs to.
    pub input: usize,
    /// The slots of that input.
    pub slots: Box<[Value]>,
}

/// A row of a scan table, for people who look at it.
#[derive(Clone, Debug)]
pub struct ScannedRow {
    /// the table
    pub table: Text,
    /// the columns that the rule reads, as an object
    pub content: Value,
}
