//! Counters of a rule: a worker writes them, the control plane reads them at any time.
//!
//! Events that concern all rules of a stream, such as a row or an undecodable message, are counted once, at the stream
//! ([`StreamMetrics`]), so that their cost does not grow with the number of rules. A rule's count is its own plus what
//! its streams have counted since it joined them.

mod faults;
mod feed;
mod flow;
mod latency;
mod losses;
mod recorders;
mod seen;
mod tap;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use smallvec::SmallVec;

pub use faults::{Failure, Fault, Place};
pub use feed::{FeedCounts, FeedEvent, OpenGaps};
pub use flow::{Flow, FlowCounts};
pub use latency::{LATENCY_BOUNDS, Latency};
pub use losses::{Losses, known_cause};
pub use recorders::{MessageReader, Recorders, StreamMessage, record};
pub use seen::{Sampler, Seen, SeenField, SeenFields, add_seen, known_type};
pub use tap::{Point, TAPS, TapReader, TapSettings, TapWriter, TappedRow, Taps};

use crate::sync::locked;
use crate::value::Text;
use faults::{add, keep};
use latency::Latencies;
use tap::Tap;

#[derive(Debug, Default)]
pub struct RuleMetrics {
    /// The rule's id, for the log.
    id: String,
    /// Rows that are counted here and not at a stream; wraps below 0 if a stream counts rows that the rule never saw.
    rows_in: AtomicU64,
    /// Messages given to the sinks; a message counts once, however many sinks there are.
    pub messages_out: AtomicU64,
    /// rows that passed the scan's filter
    passed: AtomicU64,
    /// When the rule last had rows, ms since the epoch; 0: never.
    worked: AtomicI64,
    /// When it last gave results to its sinks, in the same form.
    handed: AtomicI64,
    /// rows and messages lost to errors of this rule only
    errors: AtomicU64,
    /// rows behind the watermark, which were dropped
    pub late: AtomicU64,
    /// rows too far ahead of the clock, which were dropped
    pub future: AtomicU64,
    /// the watermark of a rule in event time, ms since the epoch; 0 before the first row
    watermark: AtomicI64,
    /// The rule's code has panicked: it gets no more rows.
    failed: AtomicBool,
    /// A stream was wrongly taken for simulated: its watermark is far ahead of the clock.
    misled: AtomicBool,
    latency: Mutex<Latencies>,
    /// what the operators of a rule with state have let through
    pub flow: Flow,
    /// taps of its rows
    pub taps: Taps,
    /// how far the most recent late row was behind the watermark, ms
    late_by: AtomicI64,
    /// `None` while there is nothing: most rules never have any of this.
    rare: Mutex<Option<Box<Rare>>>,
    /// The streams that it reads, with its share of their counts.
    shares: Mutex<SmallVec<[Share; 1]>>,
}

/// What few rules have.
#[derive(Debug, Default)]
struct Rare {
    /// errors by operator
    faults: Vec<Fault>,
    /// the probable unit of its timestamps, if they are read in another
    unit: Option<&'static str>,
    /// Suspicious facts about its rows that cause no loss.
    oddities: Vec<String>,
    /// Feed events of streams that it no longer reads.
    feed: FeedCounts,
}

/// A snapshot of the work of a rule's operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub passed: u64,
    /// When its streams last received anything, ms since the epoch; 0: never.
    pub received: i64,
    /// When the rule last had rows, in the same form.
    pub worked: i64,
    /// when it last gave results to its sinks, in the same form
    pub handed: i64,
    /// errors by operator
    pub faults: Vec<Fault>,
    /// what the operators of a rule with state have let through
    pub flow: FlowCounts,
    /// the probable unit of timestamps, if they are read in another
    pub unit: Option<&'static str>,
    /// how far the most recent late row was behind the watermark, ms
    pub late_by: i64,
    pub inputs: Vec<InputWork>,
    /// the rows of its streams by the data thread that read them, in the order of the threads
    pub threads: Vec<(usize, u64)>,
}

/// The messages and rows that a rule got from one of its streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputWork {
    pub stream: Text,
    /// rows since the rule joined it
    pub rows: u64,
    /// messages since then that could not be read
    pub errors: u64,
    /// when a message last arrived, ms since the epoch; 0: never
    pub received: i64,
}

/// The time of an error, and its text.
type LastError = (SystemTime, String);

/// What a stream counts for all of its rules; one worker writes it.
#[derive(Debug, Default)]
pub struct StreamMetrics {
    name: Text,
    thread: usize,
    rows: AtomicU64,
    errors: AtomicU64,
    /// When anything last arrived, ms since the epoch.
    received: AtomicI64,
    /// the last errors, each with the number of errors before it
    recent: Mutex<VecDeque<(u64, Arc<Failure>)>>,
    seen: Mutex<Seen>,
    /// taps of its messages
    pub taps: Taps,
    /// recorders of its messages
    pub recorders: Recorders,
    feed: [AtomicU64; FeedEvent::ALL.len()],
    gaps: Mutex<OpenGaps>,
    /// Suspicious facts about its messages.
    oddities: Mutex<Vec<String>>,
}

/// The share of a stream's counts that belongs to a rule.
#[derive(Debug)]
struct Share {
    stream: Arc<StreamMetrics>,
    /// The stream's rows when the rule joined.
    rows: u64,
    /// The stream's errors when the rule joined; `None`: errors are reported to the rule one by one.
    errors: Option<u64>,
    /// The stream's feed counts when the rule joined.
    feed: FeedCounts,
}

impl Share {
    fn rows(&self) -> u64 {
        self.stream.rows.load(Ordering::Acquire).wrapping_sub(self.rows)
    }

    fn errors(&self) -> u64 {
        self.errors.map_or(0, |before| self.stream.errors.load(Ordering::Acquire).wrapping_sub(before))
    }

    fn feed(&self) -> FeedCounts {
        self.stream.feed().combine(self.feed, u64::wrapping_sub)
    }

    /// The last errors since the rule joined.
    fn recent(&self) -> Vec<Arc<Failure>> {
        let Some(before) = self.errors else { return Vec::new() };
        let recent = locked(&self.stream.recent);
        recent.iter().filter(|(number, _)| *number >= before).map(|(_, failure)| failure.clone()).collect()
    }

    fn last_error(&self) -> Option<LastError> {
        self.recent().pop().map(|last| (last.time, last.text.clone()))
    }
}

impl StreamMetrics {
    /// The metrics of a stream on this data thread, all zero.
    pub fn new(name: Text, thread: usize) -> StreamMetrics {
        StreamMetrics { name, thread, ..StreamMetrics::default() }
    }

    /// Examines a message, if the [`Sampler`] wants it.
    pub fn look(&self, look: impl FnOnce(&mut Seen)) {
        look(&mut locked(&self.seen));
    }

    /// Counts rows.
    pub fn rows(&self, rows: u64) {
        self.rows.fetch_add(rows, Ordering::AcqRel);
    }

    /// Records a batch at `now`, ms since the epoch.
    pub fn received(&self, now: i64) {
        self.received.store(now, Ordering::Relaxed);
    }

    /// Counts an event of the feed.
    pub fn count(&self, event: FeedEvent, times: u64) {
        self.feed[event as usize].fetch_add(times, Ordering::Relaxed);
    }

    /// Notes a suspicious fact about the messages. Each of the few kinds is noted once.
    pub fn odd(&self, text: String) {
        tracing::warn!(stream = %self.name, "{text}");
        let mut oddities = locked(&self.oddities);
        if !oddities.contains(&text) {
            oddities.push(text);
        }
    }

    /// Counts missing numbers, and sets those that may still arrive. Once these are due they count as missing too, even
    /// if no message follows.
    pub fn missing(&self, numbers: u64, open: OpenGaps) {
        let mut gaps = locked(&self.gaps);
        self.count(FeedEvent::Missing, numbers);
        *gaps = open;
    }

    fn feed(&self) -> FeedCounts {
        let gaps = locked(&self.gaps);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let overdue = if i128::from(gaps.due) <= now as i128 { gaps.numbers } else { 0 };
        FeedCounts(std::array::from_fn(|event| {
            let counted = self.feed[event].load(Ordering::Relaxed);
            if event == FeedEvent::Missing as usize { counted.wrapping_add(overdue) } else { counted }
        }))
    }

    /// Counts a message that is lost for every rule.
    pub fn error(&self, text: String, message: Option<&str>) {
        let number = self.errors.load(Ordering::Acquire);
        keep(&mut locked(&self.recent), (number, Failure::new(text, message)));
        self.errors.fetch_add(1, Ordering::AcqRel);
    }
}

impl RuleMetrics {
    /// The metrics of a rule, all zero.
    pub fn new(id: &str) -> RuleMetrics {
        RuleMetrics { id: id.to_owned(), ..RuleMetrics::default() }
    }

    /// Joins a stream: its counts from now on also belong to this rule, its errors only with `errors`. Must be called
    /// by the stream's worker.
    pub fn join(&self, stream: &Arc<StreamMetrics>, errors: bool) {
        let rows = stream.rows.load(Ordering::Acquire);
        let errors = errors.then(|| stream.errors.load(Ordering::Acquire));
        locked(&self.shares).push(Share { stream: stream.clone(), rows, errors, feed: stream.feed() });
    }

    /// Leaves a stream: later counts do not belong to this rule; earlier ones stay.
    pub fn leave(&self, stream: &Arc<StreamMetrics>) {
        let mut shares = locked(&self.shares);
        let Some(at) = shares.iter().position(|share| Arc::ptr_eq(&share.stream, stream)) else { return };
        let share = shares.remove(at);
        self.rows_in.fetch_add(share.rows(), Ordering::Relaxed);
        let errors = share.errors();
        self.errors.fetch_add(errors, Ordering::Relaxed);
        let (feed, recent) = (share.feed(), share.recent());
        if errors > 0 || feed != FeedCounts::default() {
            self.rarely(|rare| {
                rare.feed = rare.feed.combine(feed, u64::wrapping_add);
                add(&mut rare.faults, Place::Decoder, errors, &recent);
            });
        }
    }

    fn rarely<T>(&self, change: impl FnOnce(&mut Rare) -> T) -> T {
        change(locked(&self.rare).get_or_insert_with(Box::default))
    }

    /// Counts a row at the rule itself.
    pub fn row(&self) {
        self.rows_in.fetch_add(1, Ordering::Relaxed);
    }

    /// Subtracts rows of its streams that this rule never saw.
    pub fn without_rows(&self, rows: u64) {
        self.rows_in.fetch_sub(rows, Ordering::Relaxed);
    }

    pub fn rows_in(&self) -> u64 {
        let shares = locked(&self.shares);
        shares.iter().map(Share::rows).fold(self.rows_in.load(Ordering::Relaxed), u64::wrapping_add)
    }

    /// Feed events of its streams, counted since it joined them.
    pub fn feed(&self) -> FeedCounts {
        let shares = locked(&self.shares);
        let left = locked(&self.rare).as_ref().map(|rare| rare.feed).unwrap_or_default();
        shares.iter().map(Share::feed).fold(left, |sum, share| sum.combine(share, u64::wrapping_add))
    }

    /// Rows and messages lost to errors.
    pub fn errors(&self) -> u64 {
        let shares = locked(&self.shares);
        shares.iter().map(Share::errors).fold(self.errors.load(Ordering::Relaxed), u64::wrapping_add)
    }

    /// Counts an error outside any operator, and keeps it as the last one.
    pub fn error(&self, text: impl Into<String>) {
        self.error_at(Place::Project, text);
    }

    /// Counts an error of an operator and keeps it as the operator's last one.
    pub fn error_at(&self, place: Place, text: impl Into<String>) {
        self.error_of(place, text, None);
    }

    /// The same, with the message or row that caused the error.
    pub fn error_of(&self, place: Place, text: impl Into<String>, message: Option<&str>) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let failure = Failure::new(text.into(), message);
        let count = self.rarely(|rare| add(&mut rare.faults, place, 1, std::slice::from_ref(&failure)));
        let (rule, operator, error) = (self.id.as_str(), place.as_str(), failure.text.as_str());
        // If a rule fails on every row, errors are logged less and less often.
        if count.is_power_of_two() {
            tracing::info!(rule, operator, count, error, "an error of a rule");
        }
        tracing::debug!(
            rule,
            operator,
            error,
            message = failure.message.as_deref().unwrap_or_default(),
            "a row is lost"
        );
    }

    /// Counts a late row, which is dropped; `by`: how far it is behind the watermark, ms.
    pub fn is_late(&self, by: i64) {
        self.are_late(1, by);
    }

    /// Counts late rows, which are dropped; `by`: how far the last of them is behind the watermark, ms.
    pub fn are_late(&self, rows: u64, by: i64) {
        self.late.fetch_add(rows, Ordering::Relaxed);
        self.late_by.fetch_max(by, Ordering::Relaxed);
    }

    /// Notes the probable unit of timestamps.
    pub fn looks_like(&self, unit: &'static str) {
        self.rarely(|rare| rare.unit = Some(unit));
    }

    /// Opens a tap of its rows; `None`: there are too many already.
    pub fn tap(&self, settings: &TapSettings) -> Option<TapReader> {
        let (tap, reader) = Tap::open(settings);
        if !self.taps.add(&tap) {
            return None;
        }
        if settings.points.iter().any(|point| point.is_of_stream()) {
            locked(&self.shares).iter().for_each(|share| share.stream.taps.lend(&tap));
        }
        Some(reader)
    }

    /// The metrics of its streams with this name, one for each data thread that reads it.
    pub fn streams(&self, name: &str) -> Vec<Arc<StreamMetrics>> {
        let shares = locked(&self.shares);
        shares.iter().map(|share| &share.stream).filter(|stream| stream.name == name).cloned().collect()
    }

    /// The fields seen in its streams' messages, by stream: those of all data threads that read it.
    pub fn seen(&self) -> Vec<(Text, SeenFields)> {
        let mut streams: Vec<Arc<StreamMetrics>> = Vec::new();
        for Share { stream, .. } in locked(&self.shares).iter() {
            // The rule may read a stream twice.
            if !streams.iter().any(|known| Arc::ptr_eq(known, stream)) {
                streams.push(stream.clone());
            }
        }
        let mut all = Vec::new();
        for stream in streams {
            add_seen(&mut all, &stream.name, locked(&stream.seen).fields());
        }
        all
    }

    /// Records a batch with rows at `now`, ms since the epoch; `passed` of them passed the filter.
    pub fn works(&self, now: i64, passed: u64) {
        self.worked.store(now, Ordering::Relaxed);
        if passed > 0 {
            self.passed.fetch_add(passed, Ordering::Relaxed);
        }
    }

    pub fn work(&self) -> Work {
        let shares = locked(&self.shares);
        let brought = shares.iter().filter(|share| share.rows() > 0 || share.errors() > 0);
        let worked = self.worked.load(Ordering::Relaxed);
        let (mut faults, unit) = match &*locked(&self.rare) {
            Some(rare) => (rare.faults.clone(), rare.unit),
            None => Default::default(),
        };
        for share in shares.iter() {
            add(&mut faults, Place::Decoder, share.errors(), &share.recent());
        }
        let (mut inputs, mut threads): (Vec<InputWork>, BTreeMap<usize, u64>) = Default::default();
        for (number, share) in shares.iter().enumerate() {
            let (stream, rows) = (&share.stream, share.rows());
            // A stream that the rule reads twice counts its rows once.
            if shares[..number].iter().any(|before| Arc::ptr_eq(&before.stream, stream)) {
                continue;
            }
            *threads.entry(stream.thread).or_default() += rows;
            let at = inputs.iter().position(|known| known.stream == stream.name).unwrap_or_else(|| {
                inputs.push(InputWork { stream: stream.name.clone(), ..InputWork::default() });
                inputs.len() - 1
            });
            let input = &mut inputs[at];
            input.rows += rows;
            input.errors += share.errors();
            input.received = input.received.max(stream.received.load(Ordering::Relaxed));
        }
        Work {
            passed: self.passed.load(Ordering::Relaxed),
            received: brought.map(|share| share.stream.received.load(Ordering::Relaxed)).fold(worked, i64::max),
            worked,
            handed: self.handed.load(Ordering::Relaxed),
            faults,
            flow: self.flow.counts(),
            unit,
            late_by: self.late_by.load(Ordering::Relaxed),
            inputs,
            threads: threads.into_iter().collect(),
        }
    }

    /// Notes a suspicious fact about the rows. Each of the few kinds is noted once.
    pub fn odd(&self, text: String) {
        self.rarely(|rare| rare.oddities.push(text));
    }

    /// Suspicious facts about the rows and about the messages of its streams.
    pub fn oddities(&self) -> Vec<String> {
        let shares = locked(&self.shares);
        let of_streams = shares.iter().flat_map(|share| locked(&share.stream.oddities).clone());
        let own = locked(&self.rare).as_ref().map(|rare| rare.oddities.clone()).unwrap_or_default();
        own.into_iter().chain(of_streams).collect()
    }

    /// A stream was wrongly taken for simulated, so that rows with right times are late: only a restart with empty state
    /// helps.
    pub fn is_misled(&self) {
        self.misled.store(true, Ordering::Release);
        tracing::warn!(
            rule = self.id,
            "a stream that was taken for simulated has rows near the clock: write EVENT_CLOCK=\"wall\""
        );
    }

    /// Whether its data was wrongly taken for simulated; true only once.
    pub fn take_misled(&self) -> bool {
        self.misled.load(Ordering::Acquire) && self.misled.swap(false, Ordering::AcqRel)
    }

    /// Marks the rule as failed.
    pub fn fail(&self, text: impl Into<String>) {
        self.error(text);
        self.failed.store(true, Ordering::Release);
    }

    /// Whether the rule has failed.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Sets the watermark of a rule in event time, ms since the epoch.
    pub fn reaches(&self, watermark: i64) {
        self.watermark.store(watermark, Ordering::Relaxed);
    }

    /// The watermark of a rule in event time; `None` before its first row.
    pub fn watermark(&self) -> Option<i64> {
        Some(self.watermark.load(Ordering::Relaxed)).filter(|watermark| *watermark != 0)
    }

    pub fn last_error(&self) -> Option<(SystemTime, String)> {
        let shares = locked(&self.shares);
        let rare = locked(&self.rare);
        let faults = rare.iter().flat_map(|rare| &rare.faults);
        let own = faults.max_by_key(|fault| fault.time).map(|fault| (fault.time, fault.text.clone()));
        shares.iter().map(Share::last_error).fold(own, later)
    }

    pub fn sent(&self, messages: u64, latency: Option<Duration>) {
        self.messages_out.fetch_add(messages, Ordering::Relaxed);
        // The batch's time, so that the clock is not read again.
        self.handed.store(self.worked.load(Ordering::Relaxed), Ordering::Relaxed);
        if let Some(latency) = latency {
            locked(&self.latency).record(messages, latency);
        }
    }

    /// The latency so far; `None` before the first result.
    pub fn latency(&self) -> Option<Latency> {
        locked(&self.latency).latency()
    }
}

/// The later of two errors.
fn later(one: Option<LastError>, other: Option<LastError>) -> Option<LastError> {
    let time = |error: &Option<LastError>| error.as_ref().map(|(time, _)| *time);
    if time(&other) > time(&one) { other } else { one }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_kept_by_operator_also_those_of_a_stream_that_was_left() {
        let (rule, stream) = (RuleMetrics::default(), Arc::new(StreamMetrics::default()));
        stream.error("before the rule".to_owned(), None);
        rule.join(&stream, true);
        rule.error_at(Place::Having, "first");
        rule.error_at(Place::Having, "second");
        stream.rows(3);
        stream.received(7);
        stream.error("no JSON".to_owned(), Some("{"));
        let faults = |work: Work| -> Vec<(Place, u64, String)> {
            work.faults.into_iter().map(|fault| (fault.place, fault.count, fault.text)).collect()
        };
        let wanted = [(Place::Having, 2, "second".to_owned()), (Place::Decoder, 1, "no JSON".to_owned())];
        assert_eq!(faults(rule.work()), wanted);
        assert_eq!(rule.work().received, 7);
        rule.leave(&stream);
        stream.error("after it".to_owned(), None);
        assert_eq!(faults(rule.work()), wanted);
        assert_eq!((rule.errors(), rule.rows_in()), (3, 3));
        assert_eq!(rule.last_error().map(|(_, text)| text), Some("no JSON".to_owned()));
    }

    #[test]
    fn results_are_handed_over_at_the_time_of_their_batch() {
        let rule = RuleMetrics::default();
        assert_eq!(rule.work(), Work::default());
        rule.works(5, 2);
        rule.sent(1, None);
        rule.works(9, 0);
        let work = rule.work();
        assert_eq!((work.passed, work.worked, work.handed), (2, 9, 5));
    }
}
