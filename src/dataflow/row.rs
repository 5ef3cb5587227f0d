//! Rows that a rule's dataflow stores.

use serde::{Deserialize, Serialize};

use crate::value::{Text, Value};

/// Hashes group keys, with a seed for each map. Keys are short: the standard library's hasher would take longer than
/// all aggregates of a row.
pub type KeyHasher = foldhash::fast::RandomState;

/// A row that a window or table stores. Overlapping windows share it.
#[derive(Debug, Serialize, Deserialize)]
pub struct KeptRow {
    /// ms since the epoch
    pub time: i64,
    /// The input that it belongs to.
    pub input: usize,
    /// The slots of that input.
    pub slots: Box<[Value]>,
}

/// A row of a scan table, for people.
#[derive(Clone, Debug)]
pub struct ScannedRow {
    /// the table
    pub table: Text,
    /// the columns that the rule reads, as an object
    pub content: Value,
}
