//! Counters of a rule: written by one worker, read by the control plane at any time.
//!
//! Events that concern all rules of a stream, such as a row or an undecodable message, are counted once, at the stream
//! ([`StreamMetrics`]), so that their cost does not grow with the number of rules. A rule's count is its own plus what
//! its streams have counted since it joined them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use smallvec::SmallVec;

use crate::sync::locked;

/// Counters of one rule.
#[derive(Debug, Default)]
pub struct RuleMetrics {
    /// Rows counted here and not at a stream; wraps below 0 if a stream counts rows that the rule never saw.
    rows_in: AtomicU64,
    /// Messages handed to the sinks, once however many sinks there are.
    pub messages_out: AtomicU64,
    /// rows that passed the scan's filter
    passed: AtomicU64,
    /// When the rule last had rows, ms since the epoch; 0: never.
    worked: AtomicI64,
    /// When it last handed over results, likewise.
    handed: AtomicI64,
    /// rows and messages lost to an error of this rule alone
    errors: AtomicU64,
    /// rows behind the watermark, dropped
    pub late: AtomicU64,
    /// rows too far ahead of the clock, dropped
    pub future: AtomicU64,
    /// the watermark in ms since the epoch, of a rule in event time; 0 before the first
    watermark: AtomicI64,
    /// The rule's code panicked: it gets no more rows.
    failed: AtomicBool,
    /// errors by operator; nothing is allocated before the first
    faults: Mutex<Vec<Fault>>,
    latency: Mutex<Option<Box<Histogram<u32>>>>,
    /// What looks wrong about its rows, though none is lost for it.
    oddities: Mutex<Vec<String>>,
    /// Feed events of streams that it has left.
    feed: Mutex<FeedCounts>,
    /// The streams that it reads.
    shares: Mutex<SmallVec<[Share; 1]>>,
}

/// Operators in which an error can lose a row or a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A message cannot be read, or a value does not fit its column.
    Decoder,
    Filter,
    /// analytic functions
    Analytic,
    /// What a window computes of its rows, and its FILTER.
    Window,
    /// conditions of joins
    Join,
    /// Results of aggregates.
    Aggregate,
    Having,
    Order,
    /// The select list, and everything without an operator of its own.
    Project,
    /// Encoding of results.
    Encode,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub place: Place,
    pub count: u64,
    pub time: SystemTime,
    pub text: String,
}

/// Counters of a rule's operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// rows that passed the scan's filter
    pub passed: u64,
    /// When its streams last received anything, ms since the epoch; 0: never.
    pub received: i64,
    /// When the rule last had rows, likewise.
    pub worked: i64,
    /// when it last handed results over, likewise
    pub handed: i64,
    /// errors by operator
    pub faults: Vec<Fault>,
}

/// An error and when it was.
type LastError = (SystemTime, String);

/// What a stream counts for all of its rules: written by one worker.
#[derive(Debug, Default)]
pub struct StreamMetrics {
    rows: AtomicU64,
    errors: AtomicU64,
    /// When anything last arrived, ms since the epoch.
    received: AtomicI64,
    last_error: Mutex<Option<LastError>>,
    feed: [AtomicU64; FeedEvent::ALL.len()],
}

/// Oddities in the messages of a feed that are not errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedEvent {
    /// A message of another shape, skipped (`ON_MISMATCH`).
    Mismatched,
    /// A message that another connection has delivered already, dropped (`dedupKey`).
    Duplicate,
    /// A missing number of the feed's sequence (`gapSequence`).
    Missing,
    /// A number that occurred before.
    Doubled,
    /// A number after a later one.
    Reordered,
}

/// Counts of each [`FeedEvent`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FeedCounts([u64; FeedEvent::ALL.len()]);

impl FeedEvent {
    pub const ALL: [FeedEvent; 5] =
        [FeedEvent::Mismatched, FeedEvent::Duplicate, FeedEvent::Missing, FeedEvent::Doubled, FeedEvent::Reordered];

    /// The name in status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            FeedEvent::Mismatched => "mismatched",
            FeedEvent::Duplicate => "duplicate",
            FeedEvent::Missing => "missing",
            FeedEvent::Doubled => "doubled",
            FeedEvent::Reordered => "reordered",
        }
    }
}

impl FeedCounts {
    /// Events with counts above 0.
    pub fn each(&self) -> impl Iterator<Item = (FeedEvent, u64)> {
        FeedEvent::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }

    fn combine(self, other: FeedCounts, with: fn(u64, u64) -> u64) -> FeedCounts {
        FeedCounts(std::array::from_fn(|event| with(self.0[event], other.0[event])))
    }
}

/// The share of a stream's counts that belongs to a rule.
#[derive(Debug)]
struct Share {
    stream: Arc<StreamMetrics>,
    /// The stream's rows when the rule joined.
    rows: u64,
    /// The stream's errors then; `None`: they are reported to the rule one by one.
    errors: Option<u64>,
    /// The stream's feed counts then.
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

    fn last_error(&self) -> Option<LastError> {
        if self.errors() > 0 { locked(&self.stream.last_error).clone() } else { None }
    }
}

impl StreamMetrics {
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

    fn feed(&self) -> FeedCounts {
        FeedCounts(std::array::from_fn(|event| self.feed[event].load(Ordering::Relaxed)))
    }

    /// Counts a message that is lost for every rule.
    pub fn error(&self, text: String) {
        *locked(&self.last_error) = Some((SystemTime::now(), text));
        self.errors.fetch_add(1, Ordering::AcqRel);
    }
}

/// Time from reading a message to handing over its results, since the rule's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Latency {
    /// median, µs
    pub p50_us: u64,
    /// 99th percentile, µs.
    pub p99_us: u64,
    /// Results up to each of [`LATENCY_BOUNDS`], cumulative.
    pub buckets: [u64; LATENCY_BOUNDS.len()],
    /// All results.
    pub count: u64,
    /// The sum of their latencies, µs.
    pub sum_us: u64,
}

/// Upper bounds of the latency buckets, µs: 10 µs to 5 s, each twice the one before.
pub const LATENCY_BOUNDS: [u64; 20] = {
    let mut bounds = [10; 20];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = bounds[at - 1] * 2;
        at += 1;
    }
    bounds
};

/// Longer latencies count as this one, µs.
const LONGEST_US: u64 = 60_000_000;

impl RuleMetrics {
    /// Joins a stream: its counts from now on belong to this rule too, its errors only with `errors`. To be called by
    /// the stream's worker.
    pub fn join(&self, stream: &Arc<StreamMetrics>, errors: bool) {
        let rows = stream.rows.load(Ordering::Acquire);
        let errors = errors.then(|| stream.errors.load(Ordering::Acquire));
        locked(&self.shares).push(Share { stream: stream.clone(), rows, errors, feed: stream.feed() });
    }

    /// Leaves a stream: later counts do not concern this rule; earlier ones stay.
    pub fn leave(&self, stream: &Arc<StreamMetrics>) {
        let mut shares = locked(&self.shares);
        let Some(at) = shares.iter().position(|share| Arc::ptr_eq(&share.stream, stream)) else { return };
        let share = shares.remove(at);
        self.rows_in.fetch_add(share.rows(), Ordering::Relaxed);
        let errors = share.errors();
        self.errors.fetch_add(errors, Ordering::Relaxed);
        let mut left = locked(&self.feed);
        *left = left.combine(share.feed(), u64::wrapping_add);
        let Some((time, text)) = share.last_error() else { return };
        add(&mut locked(&self.faults), Place::Decoder, errors, time, text);
    }

    /// Counts a row of the rule itself.
    pub fn row(&self) {
        self.rows_in.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts rows of its streams that this rule never saw.
    pub fn without_rows(&self, rows: u64) {
        self.rows_in.fetch_sub(rows, Ordering::Relaxed);
    }

    pub fn rows_in(&self) -> u64 {
        let shares = locked(&self.shares);
        shares.iter().map(Share::rows).fold(self.rows_in.load(Ordering::Relaxed), u64::wrapping_add)
    }

    /// Feed events of its streams.
    pub fn feed(&self) -> FeedCounts {
        let shares = locked(&self.shares);
        shares.iter().map(Share::feed).fold(*locked(&self.feed), |sum, share| sum.combine(share, u64::wrapping_add))
    }

    /// Rows and messages lost to errors.
    pub fn errors(&self) -> u64 {
        let shares = locked(&self.shares);
        shares.iter().map(Share::errors).fold(self.errors.load(Ordering::Relaxed), u64::wrapping_add)
    }

    /// Counts an error without an operator, and keeps it as the last one.
    pub fn error(&self, text: impl Into<String>) {
        self.error_at(Place::Project, text);
    }

    /// Counts an error of an operator and keeps it as its last one.
    pub fn error_at(&self, place: Place, text: impl Into<String>) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        add(&mut locked(&self.faults), place, 1, SystemTime::now(), text.into());
    }

    /// Records that there were rows at `now`, ms since the epoch, `passed` of which are new: once a batch.
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
        let mut faults = locked(&self.faults).clone();
        for share in shares.iter() {
            let (count, Some((time, text))) = (share.errors(), share.last_error()) else { continue };
            add(&mut faults, Place::Decoder, count, time, text);
        }
        Work {
            passed: self.passed.load(Ordering::Relaxed),
            received: brought.map(|share| share.stream.received.load(Ordering::Relaxed)).fold(worked, i64::max),
            worked,
            handed: self.handed.load(Ordering::Relaxed),
            faults,
        }
    }

    /// Notes something that looks wrong about the rows, once for each of the few things that are looked for.
    pub fn odd(&self, text: String) {
        locked(&self.oddities).push(text);
    }

    /// What looks wrong about the rows.
    pub fn oddities(&self) -> Vec<String> {
        locked(&self.oddities).clone()
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
        let faults = locked(&self.faults);
        let own = faults.iter().max_by_key(|fault| fault.time).map(|fault| (fault.time, fault.text.clone()));
        shares.iter().map(Share::last_error).fold(own, later)
    }

    pub fn sent(&self, messages: u64, latency: Option<Duration>) {
        self.messages_out.fetch_add(messages, Ordering::Relaxed);
        // The time of the batch: the clock is not read again.
        self.handed.store(self.worked.load(Ordering::Relaxed), Ordering::Relaxed);
        let Some(latency) = latency else { return };
        let mut histogram = locked(&self.latency);
        if histogram.is_none() {
            // One significant digit keeps a rule small: about 3 KB, allocated with the first result.
            *histogram = Histogram::new_with_bounds(1, LONGEST_US, 1).ok().map(Box::new);
        }
        if let Some(histogram) = histogram.as_mut() {
            let micros = (latency.as_micros() as u64).clamp(1, LONGEST_US);
            histogram.saturating_record_n(micros, u32::try_from(messages).unwrap_or(u32::MAX));
        }
    }

    /// The latency so far; `None` before the first result.
    pub fn latency(&self) -> Option<Latency> {
        locked(&self.latency).as_ref().map(|histogram| {
            let (mut buckets, mut count, mut sum_us) = ([0; LATENCY_BOUNDS.len()], 0, 0_u64);
            for cell in histogram.iter_recorded() {
                let (value, results) = (cell.value_iterated_to(), cell.count_since_last_iteration());
                count += results;
                sum_us = sum_us.saturating_add(value.saturating_mul(results));
                let first = LATENCY_BOUNDS.partition_point(|bound| *bound < value);
                buckets[first..].iter_mut().for_each(|bucket| *bucket += results);
            }
            let (p50_us, p99_us) = (histogram.value_at_quantile(0.5), histogram.value_at_quantile(0.99));
            Latency { p50_us, p99_us, buckets, count, sum_us }
        })
    }
}

/// Adds errors of an operator; this was the last one.
fn add(faults: &mut Vec<Fault>, place: Place, count: u64, time: SystemTime, text: String) {
    match faults.iter_mut().find(|fault| fault.place == place) {
        Some(fault) => {
            fault.count += count;
            if time >= fault.time {
                (fault.time, fault.text) = (time, text);
            }
        }
        None => faults.push(Fault { place, count, time, text }),
    }
}

/// The later of two errors.
fn later(one: Option<LastError>, other: Option<LastError>) -> Option<LastError> {
    let time = |error: &Option<LastError>| error.as_ref().map(|(time, _)| *time);
    if time(&other) > time(&one) { other } else { one }
}

/// Messages that a rule has lost, by source or sink and cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses(BTreeMap<(&'static str, String, &'static str), u64>);

impl Losses {
    pub fn of_source(&mut self, stream: &str, dropped: &[(&'static str, u64)]) {
        dropped.iter().for_each(|(cause, count)| self.add("source", stream, cause, *count));
    }

    pub fn of_sink(&mut self, number: usize, dropped: &[(&'static str, u64)]) {
        dropped.iter().for_each(|(cause, count)| self.add("sink", &number.to_string(), cause, *count));
    }

    /// Adds other losses.
    pub fn merge(&mut self, other: &Losses) {
        other.iter().for_each(|(part, name, cause, count)| self.add(part, name, cause, count));
    }

    /// The counts: source or sink, the name of the stream or the number of the sink, the cause, and how many.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str, &'static str, u64)> {
        self.0.iter().map(|((part, name, cause), count)| (*part, name.as_str(), *cause, *count))
    }

    /// The counts of one source or sink by cause.
    pub fn of(&self, part: &str, name: &str) -> Vec<(&'static str, u64)> {
        let mine = self.iter().filter(|(of, its, ..)| *of == part && *its == name);
        mine.map(|(.., cause, count)| (cause, count)).collect()
    }

    /// The counts by cause.
    pub fn by_cause(&self) -> BTreeMap<&'static str, u64> {
        let mut causes = BTreeMap::new();
        self.0.iter().for_each(|((.., cause), count)| *causes.entry(*cause).or_default() += count);
        causes
    }

    fn add(&mut self, part: &'static str, name: &str, cause: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry((part, name.to_owned(), cause)).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_kept_by_operator_also_those_of_a_stream_that_was_left() {
        let (rule, stream) = (RuleMetrics::default(), Arc::new(StreamMetrics::default()));
        stream.error("before the rule".to_owned());
        rule.join(&stream, true);
        rule.error_at(Place::Having, "first");
        rule.error_at(Place::Having, "second");
        stream.rows(3);
        stream.received(7);
        stream.error("no JSON".to_owned());
        let faults = |work: Work| -> Vec<(Place, u64, String)> {
            work.faults.into_iter().map(|fault| (fault.place, fault.count, fault.text)).collect()
        };
        let wanted = [(Place::Having, 2, "second".to_owned()), (Place::Decoder, 1, "no JSON".to_owned())];
        assert_eq!(faults(rule.work()), wanted);
        assert_eq!(rule.work().received, 7);
        rule.leave(&stream);
        stream.error("after it".to_owned());
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
