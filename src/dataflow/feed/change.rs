//! Changes of rows, and the queues in which readers receive them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::io::queue::RowFrame;
use crate::value::{Row, Value, json};

/// A row that was added, changed or removed.
#[derive(Clone, Debug)]
pub struct RowChange {
    /// the number of the row, unique among current rows
    pub id: u64,
    /// the old row; `None`: it did not exist
    pub old: Option<Arc<RowFrame>>,
    /// the new row; `None`: it was removed
    pub new: Option<Arc<RowFrame>>,
    /// why it was removed
    pub why: Why,
}

/// Why a row of a view was removed: `meta(why)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Why {
    /// No message came for too long, or its window ended too long ago (EXPIRE).
    Expired,
    /// There were too many rows (MAX_ROWS).
    Evicted,
    /// It no longer passes WHERE or HAVING.
    Filtered,
    /// For another reason: it is no longer among the first rows, or its sources are gone.
    #[default]
    Removed,
}

impl Why {
    pub const ALL: [Why; 4] = [Why::Expired, Why::Evicted, Why::Filtered, Why::Removed];

    /// The word that rules see.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Expired => "expired",
            Why::Evicted => "evicted",
            Why::Filtered => "filtered",
            Why::Removed => "removed",
        }
    }
}

/// Changes waiting for a view over the changed view. The worker empties it whenever it has no other work, so it holds
/// at most the changes of one turn.
#[derive(Debug)]
pub struct Inbox {
    changes: RefCell<Vec<RowChange>>,
    /// the view that is read was reset
    ended: Cell<bool>,
    waits: Rc<Cell<bool>>,
}

impl Inbox {
    /// An empty inbox. `waits` is set when something is added.
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

    /// Whether no more changes will arrive.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    pub fn is_empty(&self) -> bool {
        self.changes.borrow().is_empty()
    }

    /// The view that is read was reset, so its rows get new numbers: no more changes will arrive here.
    pub fn end(&self) {
        self.ended.set(true);
        self.changes.borrow_mut().clear();
    }
}

/// A change with parsed rows.
pub(super) fn parsed(entry: u32, old: Option<&[u8]>, new: Option<&[u8]>) -> RowChange {
    RowChange { id: u64::from(entry), old: old.map(row), new: new.map(row), why: Why::default() }
}

fn row(json: &[u8]) -> Arc<RowFrame> {
    let text = String::from_utf8_lossy(json);
    // A view's operator writes its rows as objects.
    let row: Row = match json::parse(&text) {
        Ok(Value::Object(members)) => members.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        _ => Row::new(),
    };
    Arc::new(RowFrame { row, ..RowFrame::default() })
}
