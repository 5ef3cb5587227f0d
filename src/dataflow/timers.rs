//! The worker's clock, and the deadlines of its rules.
//!
//! All rules of a worker share one heap of deadlines. A deadline runs the rule's slot; the rule then finds out what is
//! due.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::time::{Clock, STEP, count_step};

/// The length of a turn: how long a rule works before other rules and sockets run.
const TURN: Duration = Duration::from_millis(10);

/// The number of steps between two looks at the clock.
const STEPS: u32 = 64;

/// The turn of a rule. The rule works until the turn is over, and continues in the next one.
pub struct Turn {
    /// `None`: the turn never ends.
    over_at: Option<Instant>,
    steps: u32,
}

impl Turn {
    pub fn begin() -> Turn {
        Turn { over_at: Some(Instant::now() + TURN), steps: 0 }
    }

    /// A turn without end: for checkpoints, and at the end of a rule.
    pub fn endless() -> Turn {
        Turn { over_at: None, steps: 0 }
    }

    /// Whether the turn never ends.
    pub fn is_endless(&self) -> bool {
        self.over_at.is_none()
    }

    /// Whether the turn is over. Reads the clock.
    pub fn is_over(&self) -> bool {
        self.over_at.is_some_and(|at| Instant::now() >= at)
    }

    /// Counts steps; true: the turn is over.
    #[inline]
    pub fn spend(&mut self, steps: u32) -> bool {
        self.steps += steps;
        if self.steps < STEPS {
            return false;
        }
        self.steps = 0;
        self.is_over()
    }
}

/// The worker's clock.
///
/// The time of day ([`WorkerClock::now`]) goes back only if the system's clock steps back by more than a second,
/// compared with the monotonic clock. After a smaller correction it stands still until the clock has caught up. Ticks
/// ([`WorkerClock::tick`]) never go back: the dataflow's progress is measured in ticks.
pub struct WorkerClock {
    clock: Clock,
    /// The time of day at the last reading.
    last: Cell<i64>,
    /// The monotonic clock at that reading.
    read: Cell<i64>,
    /// The sum of all steps back, ms.
    back: Cell<i64>,
    /// Whether rules no longer pause.
    pauses_end: Cell<bool>,
}

impl WorkerClock {
    /// A clock that follows `clock`.
    pub fn new(clock: Clock) -> Self {
        let (last, read) = (Cell::new(clock.now()), Cell::new(clock.monotonic()));
        WorkerClock { clock, last, read, back: Cell::new(0), pauses_end: Cell::new(false) }
    }

    /// Now, ms since the epoch.
    pub fn now(&self) -> i64 {
        let (wall, monotonic) = (self.clock.now(), self.clock.monotonic());
        let last = self.last.get();
        let expected = last.saturating_add(monotonic.saturating_sub(self.read.get()).max(0));
        self.read.set(monotonic);
        let ahead = wall.saturating_sub(expected);
        if ahead.saturating_abs() > STEP && count_step(wall, monotonic) {
            tracing::warn!(by_ms = ahead, "the system clock has jumped; if it went back, open windows are sent");
        }
        let now = if ahead < -STEP {
            self.back.set(self.back.get().saturating_add(last.saturating_sub(wall).max(0)));
            wall
        } else {
            wall.max(last)
        };
        self.last.set(now);
        now
    }

    /// Ends the pauses of rules (`delay`), now and from now on: the process is ending.
    pub fn end_pauses(&self) {
        self.pauses_end.set(true);
    }

    /// Whether rules no longer pause.
    pub fn pauses_end(&self) -> bool {
        self.pauses_end.get()
    }

    /// Whether the time changes only when it is set.
    pub fn is_manual(&self) -> bool {
        self.clock.is_manual()
    }

    /// The current tick. It never goes back, whatever the clock does.
    pub fn tick(&self) -> i64 {
        self.now().saturating_add(self.back.get())
    }

    /// The time of day of a tick, by the current clock.
    pub fn time_of(&self, tick: i64) -> i64 {
        tick.saturating_sub(self.back.get())
    }

    /// The sum of all steps back since the start, ms. If it changes, the clock has stepped.
    pub fn stepped_back(&self) -> i64 {
        self.back.get()
    }
}

/// The deadlines of all rules of a worker.
#[derive(Default)]
pub struct Timers {
    deadlines: RefCell<BinaryHeap<Reverse<(i64, usize)>>>,
}

impl Timers {
    /// Schedules `slot` at `at`, ms since the epoch.
    pub fn request(&self, at: i64, slot: usize) {
        self.deadlines.borrow_mut().push(Reverse((at, slot)));
    }

    /// Moves deadlines after a step back of the clock, ms, so that no wait gets longer.
    pub fn step_back(&self, by: i64) {
        let moved = self.deadlines.take().into_iter().map(|Reverse((at, slot))| Reverse((at.saturating_sub(by), slot)));
        self.deadlines.replace(moved.collect());
    }

    /// The next deadline.
    pub fn next(&self) -> Option<i64> {
        self.deadlines.borrow().peek().map(|Reverse((at, _))| *at)
    }

    /// Takes a slot that is due.
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
    pub fn new(timers: Rc<Timers>, slot: usize) -> Alarm {
        Alarm { timers: Some((timers, slot)) }
    }

    /// An alarm that never rings, for a rule in event time, which follows the watermark.
    pub fn silent() -> Alarm {
        Alarm { timers: None }
    }

    /// Runs the rule at `at`, ms since the epoch.
    pub fn at(&self, at: i64) {
        if let Some((timers, slot)) = &self.timers {
            timers.request(at, *slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;

    #[test]
    fn only_a_step_turns_the_clock_back() {
        let (wall, monotonic) = (Arc::new(AtomicI64::new(50_000)), Arc::new(AtomicI64::new(7)));
        let clock = WorkerClock::new(Clock::Stepping { wall: wall.clone(), monotonic: monotonic.clone() });
        let set = |at: i64, by: i64| {
            wall.store(at, Ordering::Relaxed);
            monotonic.fetch_add(by, Ordering::Relaxed);
            (clock.now(), clock.tick())
        };
        assert_eq!(set(50_010, 10), (50_010, 50_010));
        // After a small correction it stands still.
        assert_eq!(set(49_500, 10), (50_010, 50_010));
        assert_eq!(set(50_020, 520), (50_020, 50_020));
        // After a step back, ticks continue from where they are.
        assert_eq!(set(40_000, 10), (40_000, 50_020));
        assert_eq!(set(40_500, 500), (40_500, 50_520));
        assert_eq!(clock.time_of(50_520), 40_500);
        // After a step ahead, the skipped time has passed.
        assert_eq!(set(90_000, 10), (90_000, 100_020));
        assert_eq!(clock.stepped_back(), 10_020);
    }

    #[test]
    fn deadlines_move_with_a_step_back() {
        let timers = Timers::default();
        timers.request(5_000, 1);
        timers.request(9_000, 2);
        timers.step_back(4_000);
        assert_eq!((timers.due(1_000), timers.next()), (Some(1), Some(5_000)));
    }
}
