//! Changes of rows, and where those that follow them find these.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::io::queue::RowFrame;
use crate::value::{Row, Value, json};

/// A row that came, changed or left.
#[derive(Clone, Debug)]
pub struct RowChange {
    /// names the row among those that are there
    pub id: u64,
    /// what it was; `None`: it was not there
    pub old: Option<Arc<RowFrame>>,
    /// what it is; `None`: it is gone
    pub new: Option<Arc<RowFrame>>,
}

/// Changes that wait for a view over what has changed. It is emptied whenever the worker has no other work, so no more
/// waits than one turn brings.
#[derive(Debug)]
pub struct Inbox {
    changes: RefCell<Vec<RowChange>>,
    /// what was followed began anew
    ended: Cell<bool>,
    waits: Rc<Cell<bool>>,
}

impl Inbox {
    /// An empty one. `waits` is set where something waits.
    pub fn new(waits: Rc<Cell<bool>>) -> Inbox {
        Inbox { changes: RefCell::default(), ended: Cell::new(false), waits }
    }

    pub fn push(&self, change: RowChange) {
        if !self.ended.get() {
            self.changes.borrow_mut().push(change);
            self.waits.set(true);
        }
    }

    pub fn take(&self) -> Vec<RowChange> {
        std::mem::take(&mut self.changes.borrow_mut())
    }

    pub fn is_empty(&self) -> bool {
        self.changes.borrow().is_empty()
    }

    /// What was followed begins anew, and its rows have other numbers: nothing comes here any more.
    pub fn end(&self) {
        self.ended.set(true);
        self.changes.borrow_mut().clear();
    }
}

/// A change with its rows as values.
pub(super) fn parsed(entry: u32, old: Option<&[u8]>, new: Option<&[u8]>) -> RowChange {
    RowChange { id: u64::from(entry), old: old.map(row), new: new.map(row) }
}

fn row(json: &[u8]) -> Arc<RowFrame> {
    let text = String::from_utf8_lossy(json);
    // A view's rows were written by its operator as objects.
    let row: Row = match json::parse(&text) {
        Ok(Value::Object(members)) => members.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        _ => Row::new(),
    };
    Arc::new(RowFrame { row, ..RowFrame::default() })
}
