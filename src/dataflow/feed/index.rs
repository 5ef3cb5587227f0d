//! The current rows of a view indexed by some of their columns, for rules that look them up.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::dataflow::row::KeyHasher;
use crate::io::queue::RowFrame;
use crate::value::key::{GroupKey, KeyPart};
use crate::value::{Row, Text, Value};

use super::RowChange;

/// Rows by the values of some columns. It is filled in steps.
#[derive(Debug)]
pub struct RowIndex {
    columns: Vec<Text>,
    /// rows with numbers from this one on are not in it yet; `None`: all rows are in it
    next: Cell<Option<u32>>,
    rows: RefCell<HashMap<GroupKey, BTreeMap<u64, Arc<RowFrame>>, KeyHasher>>,
}

impl RowIndex {
    /// An index without rows.
    pub fn new(columns: Vec<Text>) -> RowIndex {
        RowIndex { columns, next: Cell::new(Some(0)), rows: RefCell::default() }
    }

    pub fn columns(&self) -> &[Text] {
        &self.columns
    }

    /// Visits the rows whose columns equal `key`. Numbers are compared by value regardless of their representation;
    /// null and absent equal nothing.
    pub fn lookup(&self, key: &[Value], visit: &mut dyn FnMut(&Row)) {
        let rows = self.rows.borrow();
        let found = rows.get(&GroupKey::from_values(key));
        found.into_iter().flat_map(BTreeMap::values).for_each(|frame| visit(&frame.row));
    }

    /// Whether all rows are in it.
    pub fn is_filled(&self) -> bool {
        self.next.get().is_none()
    }

    /// The number of the next row to add; `None`: all rows are in it.
    pub(super) fn next(&self) -> Option<u32> {
        self.next.get()
    }

    /// Adds rows of the view. Those from `next` on are still missing.
    pub(super) fn add(&self, rows: &[RowChange], next: Option<u32>) {
        rows.iter().for_each(|row| self.put(row));
        self.next.set(next);
    }

    /// Removes all rows, so that the index is filled again.
    pub(super) fn clear(&self) {
        self.rows.borrow_mut().clear();
        self.next.set(Some(0));
    }

    /// Takes a change. A row that is not in the index yet is added later, in its state by then.
    pub(super) fn change(&self, change: &RowChange) {
        if self.next.get().is_none_or(|next| change.id < u64::from(next)) {
            self.put(change);
        }
    }

    fn put(&self, change: &RowChange) {
        let mut rows = self.rows.borrow_mut();
        if let Some(key) = change.old.as_ref().and_then(|old| self.key(&old.row))
            && let Some(same) = rows.get_mut(&key)
        {
            same.remove(&change.id);
            if same.is_empty() {
                rows.remove(&key);
            }
        }
        if let Some(new) = &change.new
            && let Some(key) = self.key(&new.row)
        {
            rows.entry(key).or_default().insert(change.id, new.clone());
        }
    }

    /// The key of a row; `None` if one of its columns is null, since null equals nothing.
    fn key(&self, row: &Row) -> Option<GroupKey> {
        let mut key = GroupKey::default();
        for column in &self.columns {
            let value = row.iter().find(|(name, _)| name == column).map(|(_, value)| value);
            key.push(value.unwrap_or(&Value::Absent));
        }
        (!key.parts().contains(&KeyPart::Nothing)).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataflow::feed::Why;

    fn row(id: i64, site: Value) -> Option<Arc<RowFrame>> {
        let row = vec![("id".into(), Value::Int(id)), ("site".into(), site)];
        Some(Arc::new(RowFrame { row, ..RowFrame::default() }))
    }

    #[test]
    fn rows_are_found_by_what_they_are_now() {
        let index = RowIndex::new(vec!["site".into()]);
        index.add(&[], None);
        let found = |site: Value| {
            let mut ids = Vec::new();
            index.lookup(&[site], &mut |row| ids.push(row[0].1.as_f64()));
            ids
        };
        index.change(&RowChange { id: 5, old: None, new: row(1, Value::Int(7)), why: Why::Removed });
        index.change(&RowChange { id: 2, old: None, new: row(2, Value::Float(7.0)), why: Why::Removed });
        index.change(&RowChange { id: 3, old: None, new: row(3, Value::Null), why: Why::Removed });
        assert_eq!(found(Value::Int(7)), [Some(2.0), Some(1.0)]);
        assert!(found(Value::Null).is_empty());
        index.change(&RowChange { id: 5, old: row(1, Value::Int(7)), new: row(1, Value::Int(8)), why: Why::Removed });
        index.change(&RowChange { id: 2, old: row(2, Value::Float(7.0)), new: None, why: Why::Removed });
        assert_eq!(found(Value::Float(8.0)), [Some(1.0)]);
        assert!(found(Value::Int(7)).is_empty());
    }

    #[test]
    fn a_change_of_a_row_that_is_not_added_yet_waits_for_the_row() {
        let index = RowIndex::new(vec!["site".into()]);
        let change = |id, old, new| RowChange { id, old, new, why: Why::Removed };
        let count = |site| {
            let mut count = 0;
            index.lookup(&[Value::Int(site)], &mut |_| count += 1);
            count
        };
        index.add(&[change(0, None, row(1, Value::Int(7)))], Some(1));
        index.change(&change(5, row(2, Value::Int(7)), row(2, Value::Int(8))));
        index.change(&change(0, row(1, Value::Int(7)), row(1, Value::Int(8))));
        assert_eq!((count(7), count(8), index.is_filled()), (0, 1, false));
        index.add(&[change(5, None, row(2, Value::Int(8)))], None);
        assert_eq!((count(8), index.is_filled()), (2, true));
        index.change(&change(6, None, row(3, Value::Int(8))));
        assert_eq!(count(8), 3);
    }
}
