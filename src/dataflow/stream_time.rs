//! The progress of an input of a rule in event time, over the threads that read it.
//!
//! The input's time follows the thread that is furthest ahead. Threads that are further behind hold it back for a
//! moment only, since their messages may not have arrived yet ([`WAIT`]); without that, threads that read a recording
//! as fast as they can would make each other's rows late. Afterwards, a thread without messages holds nothing back. A
//! thread with waiting messages holds time back to the last row that it has seen. A thread that may hold accumulated
//! rows holds time back to the end of their slice, and is asked for them when the other threads have passed that.

use std::cell::Cell;

/// How long time waits for threads that are behind, ms; up to twice as long, since it is measured in steps.
const WAIT: i64 = 50;

/// The time of one input. Times are ms since the epoch; `i64::MIN`: nothing was seen.
pub struct StreamTime {
    threads: Box<[ThreadTime]>,
    /// When the last row arrived, by the clock.
    pub seen: Cell<i64>,
    /// Whether the input moves the watermark; tables do not.
    pub counts: bool,
    /// If set, time follows the thread among these that is furthest behind.
    least_of: Option<Box<[usize]>>,
    trail: Cell<Trail>,
}

/// Where the thread that is furthest ahead was a moment ago.
#[derive(Clone, Copy)]
struct Trail {
    /// Where it was when `newer` was noted before: time waits for nobody up to here.
    older: i64,
    newer: i64,
    /// When `newer` was noted, by the clock.
    at: i64,
}

/// The progress of one thread with an input.
struct ThreadTime {
    /// The largest timestamp, less the tolerance.
    reached: Cell<i64>,
    /// Whether messages wait there.
    behind: Cell<bool>,
    /// Set while it may hold rows: time must not go beyond this without asking it.
    holds: Cell<Option<i64>>,
    /// Whether it was asked for what it holds, and has not answered.
    asked: Cell<bool>,
}

impl StreamTime {
    pub fn new(threads: usize, counts: bool, now: i64) -> StreamTime {
        let thread = || ThreadTime {
            reached: Cell::new(i64::MIN),
            behind: Cell::new(false),
            holds: Cell::new(None),
            asked: Cell::new(false),
        };
        let threads = (0..threads).map(|_| thread()).collect();
        let trail = Cell::new(Trail { older: i64::MIN, newer: i64::MIN, at: i64::MIN });
        StreamTime { threads, seen: Cell::new(now), counts, least_of: None, trail }
    }

    /// The same for this many threads.
    #[must_use]
    pub fn over(&self, threads: usize) -> StreamTime {
        StreamTime::new(threads, self.counts, self.seen.get())
    }

    /// Makes time follow the thread among these that is furthest behind.
    pub fn follow_slowest_of(&mut self, threads: &[usize]) {
        self.least_of = Some(threads.into());
    }

    /// The time of the input.
    pub fn reached(&self) -> i64 {
        if let [alone] = &*self.threads {
            return alone.reached.get();
        }
        if let Some(threads) = &self.least_of {
            let reached = threads.iter().map(|thread| self.reached_on(*thread));
            return reached.min().unwrap_or(i64::MIN);
        }
        let waits_until = self.trail.get().older;
        let limit = |thread: &ThreadTime| match (thread.behind.get(), thread.holds.get()) {
            (true, _) => thread.reached.get(),
            (false, Some(holds)) => holds,
            (false, None) => thread.reached.get().max(waits_until),
        };
        let begun = self.threads.iter().filter(|thread| thread.reached.get() > i64::MIN);
        begun.map(limit).fold(self.furthest(), i64::min)
    }

    /// Notes where the thread that is furthest ahead is `now`.
    pub fn note(&self, now: i64) {
        let trail = self.trail.get();
        if self.threads.len() > 1 && !(0..WAIT).contains(&now.saturating_sub(trail.at)) {
            self.trail.set(Trail { older: trail.newer, newer: self.furthest(), at: now });
        }
    }

    /// When time may go on although no message arrives.
    pub fn next_change(&self) -> Option<i64> {
        let Trail { older, at, .. } = self.trail.get();
        let waits = self.threads.len() > 1 && self.least_of.is_none() && older < self.furthest();
        (waits && self.reached() < self.furthest()).then(|| at.saturating_add(WAIT))
    }

    /// The time of the thread that is furthest ahead.
    fn furthest(&self) -> i64 {
        self.threads.iter().map(|thread| thread.reached.get()).max().unwrap_or(i64::MIN)
    }

    /// The time of a thread.
    pub fn reached_on(&self, thread: usize) -> i64 {
        self.threads[thread].reached.get()
    }

    /// Advances the time of a thread, unless it is ahead already; returns whether it is.
    pub fn reach(&self, thread: usize, reached: i64) -> bool {
        let known = &self.threads[thread].reached;
        let goes_on = reached > known.get();
        if goes_on {
            known.set(reached);
        }
        goes_on
    }

    /// Sets the time of a thread.
    pub fn set_reached(&self, thread: usize, reached: i64) {
        self.threads[thread].reached.set(reached);
    }

    /// Sets whether more messages wait on a thread.
    pub fn set_behind(&self, thread: usize, behind: bool) {
        self.threads[thread].behind.set(behind);
    }

    /// Records what a thread has reported to hold: time must not go beyond this without asking it.
    pub fn set_held(&self, thread: usize, holds: Option<i64>) {
        self.threads[thread].holds.set(holds);
        self.threads[thread].asked.set(false);
    }

    /// The threads to ask for what they hold, each once until it has answered.
    pub fn to_ask(&self) -> impl Iterator<Item = usize> {
        let passed = self.trail.get().older;
        let asks = move |thread: &ThreadTime| {
            thread.holds.get().is_some_and(|holds| holds < passed) && !thread.asked.replace(true)
        };
        self.threads.iter().enumerate().filter(move |(_, thread)| asks(thread)).map(|(number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets so much time pass that it waits for nobody.
    fn wait(stream: &StreamTime, now: &mut i64) {
        for _ in 0..2 {
            *now += WAIT;
            stream.note(*now);
        }
    }

    #[test]
    fn time_waits_a_moment_for_a_thread_that_is_behind() {
        let (stream, mut now) = (StreamTime::new(3, true, 0), 0);
        stream.reach(1, 3_000);
        stream.note(now);
        assert_eq!((stream.reached(), stream.next_change()), (3_000, None), "the others have not begun");
        stream.reach(2, 5_000);
        stream.note(now + WAIT - 1);
        assert_eq!((stream.reached(), stream.next_change()), (3_000, Some(WAIT)));
        stream.note(now + WAIT);
        assert_eq!((stream.reached(), stream.next_change()), (3_000, Some(2 * WAIT)));
        stream.reach(1, 4_000);
        assert_eq!(stream.reached(), 4_000);
        wait(&stream, &mut now);
        assert_eq!((stream.reached(), stream.next_change()), (5_000, None));
        stream.reach(2, 6_000);
        now -= 3_600_000;
        wait(&stream, &mut now);
        assert_eq!(stream.reached(), 6_000, "the clock has stepped back");
    }

    #[test]
    fn a_thread_that_may_hold_rows_is_asked_for_them_once_the_others_have_passed_their_slice() {
        let (stream, mut now) = (StreamTime::new(3, true, 0), 0);
        stream.reach(1, 3_000);
        stream.set_held(1, Some(9_999));
        stream.reach(2, 5_000);
        wait(&stream, &mut now);
        assert_eq!((stream.reached(), stream.to_ask().count()), (5_000, 0), "the slice goes on");
        stream.reach(2, 12_000);
        assert_eq!((stream.reached(), stream.to_ask().count()), (9_999, 0), "it may end the slice itself");
        wait(&stream, &mut now);
        assert_eq!(stream.reached(), 9_999);
        assert_eq!(stream.to_ask().collect::<Vec<_>>(), [1]);
        assert_eq!(stream.to_ask().count(), 0, "it was asked");
        stream.set_held(1, None);
        assert_eq!(stream.reached(), 12_000);
        stream.set_behind(1, true);
        assert_eq!(stream.reached(), 3_000, "it has more messages");
    }

    #[test]
    fn time_may_be_that_of_the_thread_that_is_furthest_behind() {
        let mut stream = StreamTime::new(4, true, 0);
        stream.follow_slowest_of(&[1, 3]);
        assert!(stream.reach(1, 7));
        assert_eq!(stream.reached(), i64::MIN, "thread 3 has reported nothing");
        assert!(stream.reach(3, 5) && !stream.reach(3, 4));
        assert_eq!(stream.reached(), 5);
    }
}
