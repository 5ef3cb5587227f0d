//! Joined rows on their way to home: where the state of a rule is divided by the key of its joins, each thread joins
//! the rows of its keys, and home makes the results of all of them.

use std::rc::Rc;

use crate::dataflow::forward::Forward;
use crate::dataflow::row::KeptRow;
use crate::dataflow::window::{Groups, Partial};
use crate::value::Value;

/// The number of rows of one window that are sent together.
const TOGETHER: usize = 1024;

/// Joined rows of one window that are not sent yet.
pub(super) struct JoinedRows {
    home: Rc<Forward>,
    window: (i64, i64),
    rows: Vec<KeptRow>,
}

impl JoinedRows {
    pub fn new(home: Rc<Forward>) -> JoinedRows {
        JoinedRows { home, window: (0, 0), rows: Vec::new() }
    }

    /// Whether the thread should wait because too much is on its way.
    pub fn is_full(&self) -> bool {
        self.home.is_full()
    }

    /// Begins a window.
    pub fn begin(&mut self, start: i64, end: i64) {
        self.window = (start, end);
    }

    /// Adds a joined row.
    pub fn push(&mut self, time: i64, slots: &[Value]) {
        self.rows.push(KeptRow { time, input: 0, slots: slots.into() });
        if self.rows.len() >= TOGETHER {
            self.send(Groups::default());
        }
    }

    /// Ends the window. This is reported to home even if nothing was joined, since the window still has a result.
    pub fn end(&mut self, groups: Groups) {
        self.send(groups);
    }

    fn send(&mut self, groups: Groups) {
        let (start, end) = self.window;
        let joined = std::mem::take(&mut self.rows);
        let weight = (groups.len() + joined.len()).max(1);
        let (times, rows) = ((start, end.saturating_sub(1)), vec![1; groups.len()]);
        let partial = Partial { times, end, groups, rows, joined, ended: true, weight, ..Partial::default() };
        self.home.ship(vec![partial], None);
    }
}
