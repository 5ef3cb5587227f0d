//! The queue between the scans of a rule's streams and the rule's dataflow, on the thread of the rule's state.
//!
//! All rows share one vector of values, so that a row needs no allocation. The queue also carries the rule's watermark:
//! the minimum over the rule's streams of the largest timestamp seen, less the tolerance. Rows that do not pass the
//! filter advance it too.
//!
//! Other threads send the rows that they have scanned as letters (`forward`), each with everything that has advanced
//! the watermark before it. `stream_time` describes how waiting messages on a thread affect the time of its stream.
//!
//! A row is late if it is behind the watermark, whichever thread it comes from. If threads accumulate rows, only the
//! slices of the rows are known here. Then a row is late if it is behind what its own thread has seen, or if its slice
//! has ended. The accumulating thread checks the former; accumulated rows are dropped as a whole if their slice has
//! ended.

use std::cell::{Cell, RefCell};
use std::time::Instant;

use timely::scheduling::Activator;

use crate::time::Alignment;
use crate::value::Value;

use super::batch::RowBatch;
use super::cluster::Post;
use super::command::RuleKey;
use super::event_clock::{EventClocks, LateBy, Verdict};
use super::letters::{Advance, ForwardedRows, RuleLetter};
use super::state::checkpoint::{CheckpointError, CheckpointReader, StateParts, expect_len};
use super::stream_time::StreamTime;
use super::window::Partial;

/// With this many rows, the streams of a rule wait until it has taken them.
const FULL: usize = 32 * 1024;

/// Once this many rows of another thread were taken, the thread is notified; each notification is a letter.
const UNCONFIRMED: usize = 4 * 1024;

/// The queue of one rule. Usually the rule's dataflow takes all rows before the streams bring more. A busy rule takes
/// none; at `FULL` rows its streams wait too.
pub struct RuleQueue {
    batch: RefCell<RowBatch>,
    width: usize,
    streams: Vec<StreamTime>,
    clocks: EventClocks,
    idle_timeout: i64,
    watermark: Cell<i64>,
    /// The last watermark that the rule's dataflow got.
    delivered: Cell<i64>,
    ended: Cell<bool>,
    /// When the rule's dataflow looks at the watermark again, by the clock.
    next_look: Cell<i64>,
    /// The number of changes of the watermark and its inputs.
    changes: Cell<u64>,
    activator: RefCell<Option<Activator>>,
    /// Wake the inputs of the streams, which may wait for the rule.
    streams_waiting: RefCell<Vec<Activator>>,
    activity: Cell<Activity>,
    /// The rule is ending: its streams do not wait for it.
    leaving: Cell<bool>,
    /// Set if other threads send rows.
    senders: Option<Senders>,
    /// Set if they accumulate rows by these slices, in event time.
    slices: Option<Alignment>,
}

/// What a rule does between two turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// It has no work left besides new rows.
    #[default]
    Idle,
    /// It has work left.
    Busy,
    /// It has work left, and waits until its results have room: its streams wait too.
    Waiting,
    /// It pauses (`delay`): its streams do not wait.
    Pausing,
}

/// The other threads that send rows of a rule.
struct Senders {
    rule: RuleKey,
    /// The number of this thread's worker.
    own: usize,
    post: Post<RuleLetter>,
    /// For each thread, the number of its rows that have arrived and are not confirmed yet.
    unconfirmed: RefCell<Box<[usize]>>,
}

/// The lost rows of another thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Behind the watermark.
    pub late: u64,
    /// How far the last of them is behind it, ms.
    pub late_by: i64,
    /// The rule pauses, and too many rows wait.
    pub dropped: u64,
}

impl RuleQueue {
    /// A queue for rows of `width` slots. `streams` says for each input whether it moves the watermark. An input that
    /// is silent for `idle_timeout` ms (0: for ever) after `now` does not hold the watermark back.
    pub fn new(width: usize, streams: impl IntoIterator<Item = bool>, idle_timeout: i64, now: i64) -> Self {
        let streams: Vec<StreamTime> = streams.into_iter().map(|counts| StreamTime::new(1, counts, now)).collect();
        RuleQueue {
            batch: RefCell::new(RowBatch::of_width(width)),
            width,
            clocks: EventClocks::new(streams.len()),
            streams,
            idle_timeout,
            watermark: Cell::new(i64::MIN),
            delivered: Cell::new(i64::MIN),
            ended: Cell::new(false),
            next_look: Cell::new(i64::MIN),
            changes: Cell::new(0),
            activator: RefCell::new(None),
            streams_waiting: RefCell::default(),
            activity: Cell::default(),
            leaving: Cell::new(false),
            senders: None,
            slices: None,
        }
    }

    /// Also takes rows from the other workers of a cluster of `workers`.
    #[must_use]
    pub fn gathering(mut self, rule: RuleKey, clocks: EventClocks, post: Post<RuleLetter>, workers: usize) -> Self {
        self.streams.iter_mut().for_each(|stream| *stream = stream.over(workers));
        self.clocks = clocks;
        self.senders =
            Some(Senders { rule, own: post.index(), post, unconfirmed: RefCell::new(vec![0; workers].into()) });
        self
    }

    /// The other workers accumulate rows by these slices, in event time.
    #[must_use]
    pub fn by_slices(self, slices: Option<Alignment>) -> Self {
        RuleQueue { slices, ..self }
    }

    /// These workers send accumulated rows once their own time has come, so time follows the worker that is furthest
    /// behind.
    #[must_use]
    pub fn by_slowest_of(mut self, workers: &[usize]) -> Self {
        self.streams.iter_mut().for_each(|stream| stream.follow_slowest_of(workers));
        self
    }

    /// Whether other threads also send rows.
    pub fn is_shared(&self) -> bool {
        self.senders.is_some()
    }

    /// Sets what new rows activate.
    pub fn connect(&self, activator: Activator) {
        *self.activator.borrow_mut() = Some(activator);
    }

    pub fn fed_by(&self, inputs: Vec<Activator>) {
        *self.streams_waiting.borrow_mut() = inputs;
    }

    /// Whether the limit of waiting rows is reached: then the streams must wait too.
    pub fn is_full(&self) -> bool {
        self.batch.borrow().weight() >= FULL && !self.leaving.get()
    }

    /// The rule leaves this thread: it takes everything that its streams have received, without a limit.
    pub fn leave(&self) {
        self.leaving.set(true);
    }

    /// Whether the rule has work left besides new rows.
    pub fn is_busy(&self) -> bool {
        self.activity.get() != Activity::Idle
    }

    /// Whether the rule continues as soon as it has its turn.
    pub fn is_working(&self) -> bool {
        self.activity.get() == Activity::Busy
    }

    pub fn set_activity(&self, activity: Activity) {
        self.activity.set(activity);
    }

    /// Whether the queue of a pausing rule is full: further rows are dropped.
    pub fn overflows(&self) -> bool {
        self.activity.get() == Activity::Pausing && self.is_full()
    }

    /// Adds a row of an input, taking its slots.
    pub fn push(&self, input: u16, time: i64, received: Instant, slots: &mut [Value]) {
        self.batch.borrow_mut().push(input, time, received, slots);
    }

    /// Advances the watermark by a row of an input that arrived at `now`.
    ///
    /// # Errors
    /// The row is late.
    pub fn advance(&self, input: u16, time: i64, tolerance: i64, now: i64) -> Result<(), LateBy> {
        self.streams[usize::from(input)].seen.set(now);
        self.expect_in_time(input, time)?;
        self.move_on(input, time, tolerance, now);
        Ok(())
    }

    /// The same for a row that may come from another worker.
    pub fn move_on(&self, input: u16, time: i64, tolerance: i64, now: i64) {
        let stream = &self.streams[usize::from(input)];
        stream.seen.set(now);
        self.reach(stream, self.own(), time.saturating_sub(tolerance));
        self.refresh(now);
    }

    /// Whether a row of this thread is in time.
    ///
    /// # Errors
    /// The row is late.
    pub fn expect_in_time(&self, input: u16, time: i64) -> Result<(), LateBy> {
        self.judge_time(&self.streams[usize::from(input)], self.own(), time)
    }

    /// The number of this thread among those that send rows.
    fn own(&self) -> usize {
        self.senders.as_ref().map_or(0, |senders| senders.own)
    }

    /// Whether a row of a thread is in time; see the module's description.
    fn judge_time(&self, stream: &StreamTime, thread: usize, time: i64) -> Result<(), LateBy> {
        let (watermark, reached) = (self.watermark.get(), stream.reached_on(thread));
        let limit = match &self.slices {
            None => watermark,
            Some(_) if time < reached => reached,
            Some(slices) if time < watermark && slices.bounds(time).1 <= watermark => watermark,
            Some(_) => return Ok(()),
        };
        if time < limit { Err(LateBy(limit.saturating_sub(time))) } else { Ok(()) }
    }

    fn reach(&self, stream: &StreamTime, thread: usize, reached: i64) {
        if stream.reach(thread, reached) {
            self.changes.set(self.changes.get() + 1);
        }
    }

    /// Takes rows that another thread has scanned and that arrived at `now`. In processing time this is also their
    /// time, because the windows at the time of their scan may be over.
    pub fn accept(&self, from: usize, letter: ForwardedRows, now: i64, event_time: bool) -> Refused {
        let ForwardedRows { mut rows, advances, input, behind, holds, .. } = letter;
        let mut refused = Refused::default();
        if event_time {
            let sent = rows.weight();
            let stream = &self.streams[usize::from(input)];
            // What the thread may hold from now on comes after these rows.
            stream.set_behind(from, true);
            (refused.late, refused.late_by) = self.remove_late(from, &mut rows, &advances, now);
            let slice_end = |slices: &Alignment| slices.bounds(stream.reached_on(from)).1.saturating_sub(1);
            stream.set_held(from, self.slices.as_ref().filter(|_| holds).map(slice_end));
            stream.set_behind(from, behind);
            self.refresh(now);
            // Late rows are not waiting here, so their sender may continue at once.
            self.confirm(from, sent - rows.weight());
        } else {
            rows.arrive_at(now);
        }
        let weight = rows.weight();
        // A rule whose rows are accumulated elsewhere does not pause.
        if self.overflows() {
            refused.dropped = rows.times.len() as u64;
            self.confirm(from, weight);
            return refused;
        }
        self.batch.borrow_mut().append(rows);
        if let Some(senders) = &self.senders {
            senders.unconfirmed.borrow_mut()[from] += weight;
        }
        refused
    }

    /// Advances the watermark as the other thread's rows do, and removes late rows. Returns their number, and how far
    /// the last one was behind, ms.
    fn remove_late(&self, from: usize, rows: &mut RowBatch, advances: &[Advance], now: i64) -> (u64, i64) {
        let (mut late_count, mut late_by) = self.remove_late_partials(rows);
        let mut advances = advances.iter().peekable();
        let mut late: Vec<usize> = Vec::new();
        for row in 0..=rows.times.len() {
            while let Some(advance) = advances.next_if(|advance| advance.row <= row) {
                let stream = &self.streams[usize::from(advance.input)];
                stream.seen.set(now);
                self.reach(stream, from, advance.reached);
                self.refresh(now);
            }
            if let Some(time) = rows.times.get(row) {
                let stream = &self.streams[usize::from(rows.inputs[row])];
                stream.seen.set(now);
                if let Err(LateBy(by)) = self.judge_time(stream, from, *time) {
                    late.push(row);
                    late_by = late_by.max(by);
                }
            }
        }
        if !late.is_empty() {
            rows.remove(&late);
        }
        late_count += late.len() as u64;
        (late_count, late_by)
    }

    /// Removes accumulated rows whose slice is over; returns the same numbers.
    fn remove_late_partials(&self, rows: &mut RowBatch) -> (u64, i64) {
        let watermark = self.watermark.get();
        let late = |partial: &Partial| partial.end <= watermark;
        let (mut count, mut late_by) = (0, 0);
        for (_, partial) in rows.partials.iter().filter(|(_, partial)| late(partial)) {
            count += partial.len();
            late_by = late_by.max(watermark.saturating_sub(partial.times.0));
        }
        if count > 0 {
            rows.retain_partials(|partial| !late(partial));
        }
        (count, late_by)
    }

    /// Confirms to a thread that this many of its rows were taken.
    fn confirm(&self, thread: usize, rows: usize) {
        if let Some(senders) = &self.senders
            && rows > 0
        {
            senders.post.send(thread, RuleLetter::Taken { rule: senders.rule, rows });
        }
    }

    /// Sets whether more messages for an input are waiting on this thread.
    pub fn set_behind(&self, input: u16, behind: bool) {
        if let Some(Senders { own, .. }) = self.senders {
            self.streams[usize::from(input)].set_behind(own, behind);
        }
    }

    /// Restarts the idle time of all streams at `now`: the clock has stepped.
    pub fn restart_idle(&self, now: i64) {
        self.next_look.set(i64::MIN);
        self.streams.iter().for_each(|stream| stream.seen.set(now));
    }

    /// What happens to a row; see [`EventClocks::judge`].
    pub fn judge(&self, input: u16, time: i64, now: i64, skew: i64) -> Verdict {
        self.clocks.judge(input, time, now, skew)
    }

    /// Updates the watermark at `now`, and which streams are idle; returns when that may change next.
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
            stream.note(now);
            least = least.min(stream.reached());
            if self.slices.is_some() {
                self.ask(stream);
            }
        }
        // If all streams are idle, the watermark does not advance.
        if least != i64::MAX && least > self.watermark.get() {
            self.watermark.set(least);
            self.changes.set(self.changes.get() + 1);
        }
        next
    }

    /// When the watermark must be looked at again although no message arrives, since it waits for a thread; each time
    /// once.
    pub fn take_look(&self, now: i64) -> Option<i64> {
        let next = self.next_change().filter(|_| self.next_look.get() <= now)?;
        self.next_look.set(next);
        Some(next)
    }

    fn next_change(&self) -> Option<i64> {
        self.streams.iter().filter(|stream| stream.counts).filter_map(StreamTime::next_change).min()
    }

    /// Asks the threads that hold back the time of a stream for what they hold.
    fn ask(&self, stream: &StreamTime) {
        if let Some(Senders { rule, post, .. }) = &self.senders {
            stream.to_ask().for_each(|thread| post.send(thread, RuleLetter::Ask(*rule)));
        }
    }

    /// Grows with each change of the checkpointed state.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Adds the watermark to a checkpoint. When a checkpoint is made, no rows are waiting here.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        let reached: Vec<i64> = self.streams.iter().map(StreamTime::reached).collect();
        to.put(&(self.watermark.get(), reached))
    }

    /// Continues with the watermark of a checkpoint, which is the last part in it. Streams count as active now.
    ///
    /// # Errors
    /// [`CheckpointError`]; then nothing has changed.
    pub fn restore(&self, from: CheckpointReader<'_>) -> Result<(), CheckpointError> {
        self.restore_with(from, |_, restored| restored)
    }

    /// The same with the checkpoint of another part of the state: the watermark is the smaller one.
    ///
    /// # Errors
    /// As [`RuleQueue::restore`].
    pub fn restore_more(&self, from: CheckpointReader<'_>) -> Result<(), CheckpointError> {
        self.restore_with(from, i64::min)
    }

    fn restore_with(&self, mut from: CheckpointReader<'_>, both: fn(i64, i64) -> i64) -> Result<(), CheckpointError> {
        let (watermark, reached): (i64, Vec<i64>) = from.take()?;
        let reached = expect_len(reached, self.streams.len())?;
        from.finish()?;
        let own = self.own();
        self.watermark.set(both(self.watermark.get(), watermark));
        for (stream, reached) in self.streams.iter().zip(reached) {
            stream.set_reached(own, both(stream.reached_on(own), reached));
        }
        Ok(())
    }

    /// ms since the epoch; `i64::MIN` before the first row.
    pub fn watermark(&self) -> i64 {
        self.watermark.get()
    }

    /// Activates the rule's dataflow if there is anything new, or if nobody else will look at the watermark again.
    pub fn hand_over(&self) {
        let is_known = self.delivered.get() == self.watermark.get();
        if is_known && self.batch.borrow().is_empty() && self.next_change().is_none_or(|at| at <= self.next_look.get())
        {
            return;
        }
        self.delivered.set(self.watermark.get());
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
        let rows = self.batch.replace(RowBatch::of_width(self.width));
        if was_full {
            self.streams_waiting.borrow().iter().for_each(Activator::activate);
        }
        if let Some(senders) = &self.senders {
            for (thread, unconfirmed) in senders.unconfirmed.borrow_mut().iter_mut().enumerate() {
                if *unconfirmed >= UNCONFIRMED {
                    self.confirm(thread, std::mem::take(unconfirmed));
                }
            }
        }
        rows
    }

    /// The number of rows that the rule has not taken.
    pub fn waiting(&self) -> usize {
        self.batch.borrow().times.len()
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
    use super::super::cluster;
    use super::*;

    #[test]
    fn the_watermark_is_the_least_over_the_streams() {
        let queue = RuleQueue::new(0, [true, true, false], 0, 0);
        assert!(queue.advance(0, 5000, 1000, 0).is_ok());
        assert_eq!(queue.watermark(), i64::MIN);
        assert!(queue.advance(1, 3000, 1000, 0).is_ok());
        assert_eq!(queue.watermark(), 2000);
        assert!(queue.advance(0, 1999, 1000, 0).is_err(), "behind the watermark");
        assert!(queue.advance(1, 9000, 1000, 0).is_ok());
        assert_eq!(queue.watermark(), 4000);
    }

    #[test]
    fn an_idle_stream_does_not_hold_the_watermark_back() {
        let queue = RuleQueue::new(0, [true, true], 100, 0);
        assert!(queue.advance(0, 5000, 0, 50).is_ok());
        assert_eq!(queue.refresh(60), Some(100));
        assert_eq!(queue.watermark(), i64::MIN);
        assert_eq!(queue.refresh(100), Some(150));
        assert_eq!(queue.watermark(), 5000, "the second stream has been silent for 100 ms");
        assert!(queue.advance(1, 4000, 0, 120).is_err(), "it comes back late");
        assert!(queue.advance(1, 6000, 0, 130).is_ok());
        assert_eq!(queue.watermark(), 5000, "it holds the watermark again");
    }

    /// A queue on the first of three threads.
    fn shared(streams: usize) -> RuleQueue {
        let seat = cluster::of_process(vec![Default::default()], &Default::default()).pop().expect("a seat");
        let post = cluster::SharedWorker::take(seat).post().clone();
        let queue = RuleQueue::new(1, vec![true; streams], 0, 0);
        queue.gathering(7, EventClocks::new(streams), post, 3)
    }

    fn rows(input: u16, times: &[i64], behind: bool) -> ForwardedRows {
        let mut rows = RowBatch::of_width(1);
        times.iter().for_each(|time| rows.push(input, *time, Instant::now(), &mut [Value::Int(*time)]));
        let advance = |(row, time): (usize, &i64)| Advance { row, input, reached: *time };
        let mut advances: Vec<Advance> = times.iter().enumerate().map(advance).collect();
        advances.dedup_by(|next, last| next.reached <= last.reached);
        ForwardedRows { rule: 7, rows, advances, input, behind, holds: false }
    }

    #[test]
    fn a_thread_with_messages_waiting_holds_the_watermark_back_and_an_idle_one_for_a_moment() {
        let queue = shared(1);
        assert_eq!(queue.accept(1, rows(0, &[5000], false), 0, true).late, 0);
        assert_eq!(queue.watermark(), 5000, "the other threads have none");
        queue.accept(2, rows(0, &[6000], true), 0, true);
        queue.accept(1, rows(0, &[9000], false), 0, true);
        assert_eq!(queue.watermark(), 6000, "thread 2 is behind");
        assert_eq!(queue.accept(2, rows(0, &[6001, 5999, 7000], true), 0, true).late, 1);
        assert_eq!(queue.watermark(), 7000);
        queue.set_behind(0, true);
        assert!(queue.advance(0, 7500, 0, 0).is_ok());
        queue.accept(2, rows(0, &[8000], false), 0, true);
        assert_eq!(queue.watermark(), 7500, "this thread is behind");
        queue.set_behind(0, false);
        queue.refresh(0);
        assert_eq!(queue.watermark(), 7500, "its next message may be on its way");
        let look = queue.take_look(0).expect("time waits");
        assert_eq!(queue.take_look(0), None, "the next look is known");
        queue.refresh(look);
        let look = queue.take_look(look).expect("time waits");
        queue.refresh(look);
        assert_eq!((queue.watermark(), queue.take_look(look)), (9000, None));
        assert_eq!(queue.take().times, [5000, 6000, 9000, 6001, 7000, 8000]);
    }

    #[test]
    fn the_watermark_is_the_least_over_the_streams_whatever_threads_read_them() {
        let queue = shared(2);
        queue.accept(1, rows(0, &[5000], false), 0, true);
        assert_eq!(queue.watermark(), i64::MIN);
        queue.accept(2, rows(1, &[3000, 2000], false), 0, true);
        assert_eq!(queue.watermark(), 3000);
        assert_eq!(queue.take().times, [5000, 3000], "the last row is late");
    }

    #[test]
    fn by_the_clock_rows_are_of_the_time_when_they_come() {
        let queue = shared(1);
        queue.accept(1, rows(0, &[10, 20], false), 15, false);
        assert_eq!(queue.take().times, [15, 20]);
    }

    #[test]
    fn a_rule_that_pauses_drops_rows_of_other_threads_too() {
        let queue = shared(1);
        queue.set_activity(Activity::Pausing);
        let many = vec![1; FULL];
        assert_eq!(queue.accept(1, rows(0, &many, false), 0, false), Refused::default());
        assert_eq!(queue.accept(2, rows(0, &[1, 2], false), 0, false), Refused { dropped: 2, ..Refused::default() });
    }
}
