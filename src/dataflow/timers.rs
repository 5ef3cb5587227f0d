//! The worker's clock, and the deadlines of its rules.
//!
//! All rules of a worker share one heap of deadlines. A deadline runs the rule's slot; what is due there, the rule
//! finds out itself.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;

use crate::time::Clock;

/// The worker's clock: it never goes back, so that rows of processing time are never late.
pub struct WorkerClock {
    clock: Clock,
    last: Cell<i64>,
}

impl WorkerClock {
    /// A clock that follows `clock`.
    pub fn new(clock: Clock) -> Self {
        WorkerClock { clock, last: Cell::new(i64::MIN) }
    }

    /// Now, ms since the epoch.
    pub fn now(&self) -> i64 {
        let now = self.clock.now().max(self.last.get());
        self.last.set(now);
        now
    }
}

/// The deadlines of all rules of a worker.
#[derive(Default)]
pub struct Timers {
    deadlines: RefCell<BinaryHeap<Reverse<(i64, usize)>>>,
}

impl Timers {
    /// Asks for `slot` to be run at `at`, ms since the epoch.
    pub fn request(&self, at: i64, slot: usize) {
        self.deadlines.borrow_mut().push(Reverse((at, slot)));
    }

    /// The next deadline.
    pub fn next(&self) -> Option<i64> {
        self.deadlines.borrow().peek().map(|Reverse((at, _))| *at)
    }

    /// Takes a slot whose deadline has come.
    pub fn due(&self, now: i64) -> Option<usize> {
        let mut deadlines = self.deadlines.borrow_mut();
        if deadlines.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            deadlines.pop().map(|Reverse((_, slot))| slot)
        } else {
            None
        }
    }
}

/// Wakes one rule.
#[derive(Clone)]
pub struct Alarm {
    timers: Option<(Rc<Timers>, usize)>,
}

impl Alarm {
    /// An alarm that runs a slot of the worker.
    pub fn new(timers: Rc<Timers>, slot: usize) -> Alarm {
        Alarm { timers: Some((timers, slot)) }
    }

    /// An alarm for a rule in event time, which the watermark moves: it never rings.
    pub fn silent() -> Alarm {
        Alarm { timers: None }
    }

    /// Asks for the rule to be run at `at`, ms since the epoch.
    pub fn at(&self, at: i64) {
        if let Some((timers, slot)) = &self.timers {
            timers.request(at, *slot);
        }
    }
}
