//! The queue between a stream's scan and the dataflow of a rule with state, both on one worker.
//!
//! Rows are flat: one vector of values for all rows, so that a row needs no allocation. The queue also carries the
//! rule's watermark, which rows that do not pass the filter advance too: the least, over the rule's streams, of the
//! largest timestamp seen, less the tolerance.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use timely::scheduling::Activator;

use crate::value::Value;

use super::row::RowBatch;
use super::state::checkpoint::{CheckpointError, CheckpointReader, StateParts, expect_len};

/// At this many rows the streams of a rule wait until it has taken them.
const FULL: usize = 32 * 1024;

/// The queue of one rule. Usually the rule's dataflow takes all rows before the streams bring more. A busy rule takes
/// none; at `FULL` rows its streams wait too.
pub struct RuleQueue {
    batch: RefCell<RowBatch>,
    width: usize,
    streams: Vec<StreamTime>,
    idle_timeout: i64,
    watermark: Cell<i64>,
    /// The last watermark given to the rule's dataflow.
    told: Cell<i64>,
    ended: Cell<bool>,
    /// The number of changes of the watermark and its inputs.
    changes: Cell<u64>,
    activator: RefCell<Option<Activator>>,
    /// Runs the inputs of the streams, which may wait for the rule.
    streams_waiting: RefCell<Vec<Activator>>,
    /// The rule has work left besides new rows.
    busy: Cell<bool>,
    /// The rule pauses (`delay`): its streams do not wait for it.
    paused: Cell<bool>,
}

/// The progress of an input in event time.
struct StreamTime {
    /// The largest timestamp, less the tolerance; `i64::MIN` before the first.
    reached: Cell<i64>,
    /// When the last row arrived, by the clock.
    seen: Cell<i64>,
    /// Whether it moves the watermark; tables do not.
    counts: bool,
    clock: Cell<EventClock>,
}

/// The first rows of a stream that must all be far ahead of the clock for its data to count as simulated.
const FIRST_ROWS: u8 = 3;

/// Which clock the times of a stream's rows follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EventClock {
    /// This many rows came, all of them far ahead of the worker's clock.
    Unknown(u8),
    /// The worker's: a row far ahead of it is wrong.
    Wall,
    /// Their own.
    Data,
}

/// What happens to a row in event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The watermark follows it.
    Accept,
    /// The watermark follows it, and from now on the stream's times are taken as they are: its first rows were all far
    /// ahead of the clock.
    Simulated,
    /// It waits for its time. The watermark does not follow it, since it may be wrong.
    Hold,
    /// It is too far ahead of the clock.
    Drop,
}

impl RuleQueue {
    /// A queue for rows of `width` slots. `streams` says of each input whether it moves the watermark. An input that is
    /// silent for `idle_timeout` ms (0: for ever) from `now` on does not hold the watermark back.
    pub fn new(width: usize, streams: impl IntoIterator<Item = bool>, idle_timeout: i64, now: i64) -> Self {
        let clock = || Cell::new(EventClock::Unknown(0));
        let stream = |counts| StreamTime { reached: Cell::new(i64::MIN), seen: Cell::new(now), counts, clock: clock() };
        RuleQueue {
            batch: RefCell::new(RowBatch { width, ..RowBatch::default() }),
            width,
            streams: streams.into_iter().map(stream).collect(),
            idle_timeout,
            watermark: Cell::new(i64::MIN),
            told: Cell::new(i64::MIN),
            ended: Cell::new(false),
            changes: Cell::new(0),
            activator: RefCell::new(None),
            streams_waiting: RefCell::default(),
            busy: Cell::new(false),
            paused: Cell::new(false),
        }
    }

    /// Sets what new rows activate.
    pub fn connect(&self, activator: Activator) {
        *self.activator.borrow_mut() = Some(activator);
    }

    pub fn fed_by(&self, inputs: Vec<Activator>) {
        *self.streams_waiting.borrow_mut() = inputs;
    }

    /// Whether so many rows wait that the streams must wait too.
    pub fn is_full(&self) -> bool {
        self.batch.borrow().times.len() >= FULL
    }

    /// Whether the rule has work left besides new rows.
    pub fn is_busy(&self) -> bool {
        self.busy.get()
    }

    /// Whether the rule waits only for the clock.
    pub fn is_paused(&self) -> bool {
        self.paused.get()
    }

    /// Sets whether the rule has work left, and whether it pauses.
    pub fn set_busy(&self, busy: bool, paused: bool) {
        self.busy.set(busy);
        self.paused.set(paused);
    }

    /// Whether the queue of a pausing rule is full: further rows are dropped.
    pub fn overflows(&self) -> bool {
        self.paused.get() && self.is_full()
    }

    /// Adds a row of an input, taking its slots.
    pub fn push(&self, input: u16, time: i64, received: Instant, slots: &mut [Value]) {
        let mut batch = self.batch.borrow_mut();
        batch.values.extend(slots.iter_mut().map(std::mem::take));
        let full = batch.times.len() + 1;
        batch.values.resize(full * self.width, Value::Absent);
        batch.times.push(time);
        batch.inputs.push(input);
        batch.received.get_or_insert(received);
    }

    /// Advances the watermark by a row of an input that arrived at `now`. False: the row is late.
    pub fn advance(&self, input: u16, time: i64, tolerance: i64, now: i64) -> bool {
        let stream = &self.streams[usize::from(input)];
        stream.seen.set(now);
        if time < self.watermark.get() {
            return false;
        }
        let reached = time.saturating_sub(tolerance);
        if reached > stream.reached.get() {
            stream.reached.set(reached);
            self.changes.set(self.changes.get() + 1);
        }
        self.refresh(now);
        true
    }

    /// Restarts the idle time of all streams at `now`: the clock has stepped.
    pub fn restart_idle(&self, now: i64) {
        self.streams.iter().for_each(|stream| stream.seen.set(now));
    }

    /// What happens to a row with this time, if rows further ahead of the clock than `skew` ms are wrong.
    pub fn judge(&self, input: u16, time: i64, now: i64, skew: i64) -> Verdict {
        let stream = &self.streams[usize::from(input)];
        let ahead = time > now.saturating_add(skew);
        let (verdict, clock) = match (stream.clock.get(), ahead) {
            (EventClock::Data, _) => (Verdict::Accept, EventClock::Data),
            (EventClock::Wall, true) => (Verdict::Drop, EventClock::Wall),
            (EventClock::Wall | EventClock::Unknown(_), false) => (Verdict::Accept, EventClock::Wall),
            (EventClock::Unknown(before), true) if before + 1 >= FIRST_ROWS => (Verdict::Simulated, EventClock::Data),
            (EventClock::Unknown(before), true) => (Verdict::Hold, EventClock::Unknown(before + 1)),
        };
        stream.clock.set(clock);
        verdict
    }

    /// Updates which streams are idle at `now`; returns when that may change next.
    pub fn refresh(&self, now: i64) -> Option<i64> {
        let mut least = i64::MAX;
        let mut next: Option<i64> = None;
        for stream in self.streams.iter().filter(|stream| stream.counts) {
            let idle_at = stream.seen.get().saturating_add(self.idle_timeout);
            let alone = self.streams.len() == 1;
            if self.idle_timeout > 0 && !alone {
                if idle_at <= now {
                    continue;
                }
                next = Some(next.map_or(idle_at, |next| next.min(idle_at)));
            }
            least = least.min(stream.reached.get());
        }
        // If all streams are idle, time stands still.
        if least != i64::MAX && least > self.watermark.get() {
            self.watermark.set(least);
            self.changes.set(self.changes.get() + 1);
        }
        next
    }

    /// Grows with each change of the checkpointed state.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Adds the watermark to a checkpoint. Rows do not wait here where a checkpoint is made.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        let reached: Vec<i64> = self.streams.iter().map(|stream| stream.reached.get()).collect();
        to.put(&(self.watermark.get(), reached))
    }

    /// Goes on with the watermark of a checkpoint, which is the last in it. Streams count as if they had brought something just now.
    ///
    /// # Errors
    /// [`CheckpointError`]; nothing has changed then.
    pub fn restore(&self, mut from: CheckpointReader<'_>) -> Result<(), CheckpointError> {
        let (watermark, reached): (i64, Vec<i64>) = from.take()?;
        let reached = expect_len(reached, self.streams.len())?;
        from.finish()?;
        self.watermark.set(watermark);
        self.streams.iter().zip(reached).for_each(|(stream, reached)| stream.reached.set(reached));
        Ok(())
    }

    /// ms since the epoch; `i64::MIN` before the first row.
    pub fn watermark(&self) -> i64 {
        self.watermark.get()
    }

    /// Activates the rule's dataflow if there is anything new.
    pub fn hand_over(&self) {
        if self.batch.borrow().times.is_empty() && self.told.get() == self.watermark.get() {
            return;
        }
        self.told.set(self.watermark.get());
        self.activate();
    }

    /// Ends the input: open windows close.
    pub fn end(&self) {
        self.ended.set(true);
        self.activate();
    }

    /// Whether the input has ended.
    pub fn ended(&self) -> bool {
        self.ended.get()
    }

    /// Takes the waiting rows.
    pub fn take(&self) -> RowBatch {
        let was_full = self.is_full();
        let empty = RowBatch { width: self.width, ..RowBatch::default() };
        let rows = std::mem::replace(&mut *self.batch.borrow_mut(), empty);
        if was_full {
            self.streams_waiting.borrow().iter().for_each(Activator::activate);
        }
        rows
    }

    /// Runs the rule's dataflow.
    pub fn activate(&self) {
        if let Some(activator) = &*self.activator.borrow() {
            activator.activate();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_is_the_least_over_the_streams() {
        let queue = RuleQueue::new(0, [true, true, false], 0, 0);
        assert!(queue.advance(0, 5000, 1000, 0));
        assert_eq!(queue.watermark(), i64::MIN);
        assert!(queue.advance(1, 3000, 1000, 0));
        assert_eq!(queue.watermark(), 2000);
        assert!(!queue.advance(0, 1999, 1000, 0), "behind the watermark");
        assert!(queue.advance(1, 9000, 1000, 0));
        assert_eq!(queue.watermark(), 4000);
    }

    #[test]
    fn an_idle_stream_does_not_hold_the_watermark_back() {
        let queue = RuleQueue::new(0, [true, true], 100, 0);
        assert!(queue.advance(0, 5000, 0, 50));
        assert_eq!(queue.refresh(60), Some(100));
        assert_eq!(queue.watermark(), i64::MIN);
        assert_eq!(queue.refresh(100), Some(150));
        assert_eq!(queue.watermark(), 5000, "the second stream has been silent for 100 ms");
        assert!(!queue.advance(1, 4000, 0, 120), "it comes back late");
        assert!(queue.advance(1, 6000, 0, 130));
        assert_eq!(queue.watermark(), 5000, "it holds the watermark again");
    }

    #[test]
    fn one_row_far_ahead_is_wrong_and_a_stream_that_begins_so_is_simulated() {
        let judge = |rows: &[i64]| -> Vec<Verdict> {
            let queue = RuleQueue::new(0, [true], 0, 0);
            rows.iter().map(|time| queue.judge(0, *time, 1_000_000, 1000)).collect()
        };
        use Verdict::{Accept, Drop, Hold, Simulated};
        assert_eq!(judge(&[1_000_500, 9_000_000, 1_001_000, 1_001_001]), [Accept, Drop, Accept, Drop]);
        assert_eq!(judge(&[9_000_000, 1_000_000, 9_000_001]), [Hold, Accept, Drop]);
        assert_eq!(judge(&[9_000_000, 9_000_001, 8_000_000, 9_999_999, 5]), [Hold, Hold, Simulated, Accept, Accept]);
        // Old data is never ahead of the clock.
        assert_eq!(judge(&[1, 500_000, 999_999, 2_000_000]), [Accept, Accept, Accept, Drop]);
    }
}
