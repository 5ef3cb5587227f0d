//! The worker's clock, and the deadlines of its rules.
//!
//! All rules of a worker share one heap of deadlines. A deadline runs the rule's slot; what is due there, the rule
//! finds out itself.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::time::Clock;

/// How long a rule works before other rules and sockets get their turn.
const TURN: Duration = Duration::from_millis(10);

/// Steps of a rule between two looks at the clock.
const STEPS: u32 = 64;

/// The turn of a rule: it works until the turn is over, and goes on with the next one.
pub struct Turn {
    /// none: it works until all is done
    over_at: Option<Instant>,
    steps: u32,
}

impl Turn {
    /// A turn that begins now.
    pub fn begin() -> Turn {
        Turn { over_at: Some(Instant::now() + TURN), steps: 0 }
    }

    /// A turn that lasts until all is done: for checkpoints, and at the end of a rule.
    pub fn endless() -> Turn {
        Turn { over_at: None, steps: 0 }
    }

    /// Whether the turn never ends.
    pub fn is_endless(&self) -> bool {
        self.over_at.is_none()
    }

    /// Notes so many steps; true: the turn is over.
    #[inline]
    pub fn spend(&mut self, steps: u32) -> bool {
        self.steps += steps;
        if self.steps < STEPS {
            return false;
        }
        self.steps = 0;
        self.over_at.is_some_and(|at| Instant::now() >= at)
    }
}

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
