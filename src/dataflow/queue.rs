//! The queue between a stream's scan and the dataflow of a rule with state, both on one worker.
//!
//! Rows are kept column-free and flat: one vector of values for all rows, so that a row costs no allocation of its
//! own. The queue also carries the rule's watermark, which rows that do not pass the filter move too.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use timely::scheduling::Activator;

use crate::value::Value;

/// Rows of one width.
#[derive(Clone, Debug, Default)]
pub struct RowBatch {
    /// slots of a row
    pub width: usize,
    /// the rows' slots, one row after the other
    pub values: Vec<Value>,
    /// the rows' times, ms since the epoch
    pub times: Vec<i64>,
    /// when the oldest of the rows was read
    pub received: Option<Instant>,
}

impl RowBatch {
    /// The rows with their times, in order.
    pub fn rows(&self) -> impl Iterator<Item = (i64, &[Value])> {
        // A row without slots (count(*)) is an empty slice.
        self.times.iter().enumerate().map(|(row, &time)| (time, &self.values[row * self.width..][..self.width]))
    }
}

/// The queue of one rule. It is bounded by what one drain of the stream's input brings: the rule's dataflow takes all
/// of it before the stream takes more.
pub struct RuleQueue {
    batch: RefCell<RowBatch>,
    width: usize,
    watermark: Cell<i64>,
    /// what the rule's dataflow was told last
    told: Cell<i64>,
    ended: Cell<bool>,
    activator: RefCell<Option<Activator>>,
}

impl RuleQueue {
    /// An empty queue for rows of `width` slots.
    pub fn new(width: usize) -> Self {
        RuleQueue {
            batch: RefCell::new(RowBatch { width, ..RowBatch::default() }),
            width,
            watermark: Cell::new(i64::MIN),
            told: Cell::new(i64::MIN),
            ended: Cell::new(false),
            activator: RefCell::new(None),
        }
    }

    /// Sets who is told of new rows.
    pub fn connect(&self, activator: Activator) {
        *self.activator.borrow_mut() = Some(activator);
    }

    /// Adds a row, taking its slots.
    pub fn push(&self, time: i64, received: Instant, slots: &mut [Value]) {
        let mut batch = self.batch.borrow_mut();
        batch.values.extend(slots.iter_mut().map(std::mem::take));
        batch.times.push(time);
        batch.received.get_or_insert(received);
    }

    /// Moves the watermark behind a row's time. False: the row is late.
    pub fn advance(&self, time: i64, tolerance: i64) -> bool {
        let watermark = self.watermark.get();
        if time < watermark {
            return false;
        }
        self.watermark.set(watermark.max(time.saturating_sub(tolerance)));
        true
    }

    /// The watermark, ms since the epoch; `i64::MIN` before the first row.
    pub fn watermark(&self) -> i64 {
        self.watermark.get()
    }

    /// Tells the rule's dataflow if there is anything new.
    pub fn hand_over(&self) {
        if self.batch.borrow().times.is_empty() && self.told.get() == self.watermark.get() {
            return;
        }
        self.told.set(self.watermark.get());
        self.activate();
    }

    /// No more rows will come: windows that are open are closed.
    pub fn end(&self) {
        self.ended.set(true);
        self.activate();
    }

    /// Whether no more rows will come.
    pub fn ended(&self) -> bool {
        self.ended.get()
    }

    /// Takes the rows that wait.
    pub fn take(&self) -> RowBatch {
        let empty = RowBatch { width: self.width, ..RowBatch::default() };
        std::mem::replace(&mut *self.batch.borrow_mut(), empty)
    }

    fn activate(&self) {
        if let Some(activator) = &*self.activator.borrow() {
            activator.activate();
        }
    }
}
