//! The rows of a table, and their keys.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::dataflow::feed::{RowChange, Why};
use crate::io::queue::RowFrame;
use crate::value::key::GroupKey;
use crate::value::{Row, Text, Value};

/// A row, ordered by arrival. Two are equal if they are the same row, regardless of their content.
#[derive(Clone, Debug)]
pub(super) struct TableRow {
    pub(super) number: u64,
    pub(super) frame: Arc<RowFrame>,
}

impl TableRow {
    /// The row as a change: it is added or removed.
    pub(super) fn change(&self, comes: bool) -> RowChange {
        let frame = Some(self.frame.clone());
        let (old, new) = if comes { (None, frame) } else { (frame, None) };
        RowChange { id: self.number, old, new, why: Why::Removed }
    }
}

impl PartialEq for TableRow {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for TableRow {}

impl PartialOrd for TableRow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TableRow {
    fn cmp(&self, other: &Self) -> Ordering {
        self.number.cmp(&other.number)
    }
}

/// The key of these values; `None` if one of them is null.
pub(super) fn key_of<'v>(values: impl Iterator<Item = Option<&'v Value>>) -> Option<GroupKey> {
    let mut key = GroupKey::default();
    for value in values {
        key.push(value.filter(|value| !value.is_null())?);
    }
    Some(key)
}

pub(super) fn row_key(row: &Row, columns: &[Text]) -> Option<GroupKey> {
    key_of(columns.iter().map(|column| member(row, column)))
}

pub(super) fn member<'r>(row: &'r Row, column: &Text) -> Option<&'r Value> {
    row.iter().find(|(name, _)| name == column).map(|(_, value)| value)
}
