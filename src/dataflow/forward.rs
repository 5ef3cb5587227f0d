//! Sends rows to a rule whose state is on another thread.
//!
//! It takes the place that the rule's queue has on the thread of the state. Rows that pass the scan are sent in batches,
//! together with everything that advances the watermark; the queue decides which rows are late. At most about
//! `IN_FLIGHT` rows are under way: beyond that the streams of this thread wait for the rule.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use timely::scheduling::Activator;

use crate::value::Value;

use super::cluster::Post;
use super::command::RuleKey;
use super::event_clock::{EventClocks, Verdict};
use super::letters::{Advance, ForwardedRows, RuleLetter};
use super::row::RowBatch;

/// How many rows of one rule and thread may be under way before the streams of the thread wait.
const IN_FLIGHT: usize = 32 * 1024;

/// See the module.
pub struct Forward {
    rule: RuleKey,
    /// The worker with its state.
    home: usize,
    post: Post<RuleLetter>,
    clocks: EventClocks,
    rows: RefCell<RowBatch>,
    width: usize,
    advances: RefCell<Vec<Advance>>,
    /// Of each input: the largest timestamp, less the tolerance.
    reached: Box<[Cell<i64>]>,
    /// Of each input: whether more messages waited when something was sent last.
    behind: Box<[Cell<bool>]>,
    in_flight: Cell<usize>,
    /// Letters sent.
    letters: Cell<u64>,
    /// It ends: the remaining rows are sent, however many are under way.
    leaving: Cell<bool>,
    /// Runs the inputs of the streams, which may wait for the rule.
    streams_waiting: RefCell<Vec<Activator>>,
}

impl Forward {
    /// Sends rows of `width` slots to a rule's state on worker `home`.
    pub fn new(rule: RuleKey, home: usize, post: Post<RuleLetter>, clocks: EventClocks, width: usize) -> Forward {
        Forward {
            rule,
            home,
            post,
            rows: RefCell::new(RowBatch { width, ..RowBatch::default() }),
            width,
            advances: RefCell::default(),
            reached: (0..clocks.inputs()).map(|_| Cell::new(i64::MIN)).collect(),
            behind: (0..clocks.inputs()).map(|_| Cell::new(false)).collect(),
            clocks,
            in_flight: Cell::new(0),
            letters: Cell::new(0),
            leaving: Cell::new(false),
            streams_waiting: RefCell::default(),
        }
    }

    /// Sets the inputs of the rule's streams.
    pub fn fed_by(&self, inputs: Vec<Activator>) {
        *self.streams_waiting.borrow_mut() = inputs;
    }

    /// What happens to a row; see [`EventClocks::judge`].
    pub fn judge(&self, input: u16, time: i64, now: i64, skew: i64) -> Verdict {
        self.clocks.judge(input, time, now, skew)
    }

    /// Advances the watermark by a row of an input, whether the row passes or not.
    pub fn advance(&self, input: u16, time: i64, tolerance: i64) {
        let known = &self.reached[usize::from(input)];
        let reached = time.saturating_sub(tolerance);
        if reached <= known.get() {
            return;
        }
        known.set(reached);
        let row = self.rows.borrow().times.len();
        let mut advances = self.advances.borrow_mut();
        match advances.last_mut() {
            Some(last) if (last.row, last.input) == (row, input) => last.reached = reached,
            _ => advances.push(Advance { row, input, reached }),
        }
    }

    /// Adds a row of an input, taking its slots.
    pub fn push(&self, input: u16, time: i64, received: Instant, slots: &mut [Value]) {
        self.rows.borrow_mut().push(input, time, received, slots);
    }

    /// Sends what the scan of an input has found; `behind`: more messages wait for it.
    pub fn hand_over(&self, input: u16, behind: bool) {
        let empty = self.rows.borrow().times.is_empty() && self.advances.borrow().is_empty();
        if self.behind[usize::from(input)].replace(behind) == behind && empty {
            return;
        }
        let rows = self.rows.replace(RowBatch { width: self.width, ..RowBatch::default() });
        self.in_flight.set(self.in_flight.get() + rows.times.len());
        self.letters.set(self.letters.get() + 1);
        let advances = self.advances.take();
        let letter = ForwardedRows { rule: self.rule, rows, advances, input, behind };
        self.post.send(self.home, RuleLetter::Rows(letter));
    }

    /// Whether so many rows are under way that the streams should wait.
    pub fn is_full(&self) -> bool {
        self.in_flight.get() >= IN_FLIGHT && !self.leaving.get()
    }

    /// This many rows were taken by the rule.
    pub fn taken(&self, rows: usize) {
        let was_full = self.is_full();
        self.in_flight.set(self.in_flight.get().saturating_sub(rows));
        if was_full && !self.is_full() {
            self.streams_waiting.borrow().iter().for_each(Activator::activate);
        }
    }

    /// The rule leaves this thread: from now on nothing waits.
    pub fn leave(&self) {
        self.leaving.set(true);
    }

    pub fn letters(&self) -> u64 {
        self.letters.get()
    }
}
