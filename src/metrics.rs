//! What is counted about a rule while it runs: written by one worker, read by the control plane at any time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;

/// Counters of one rule.
#[derive(Debug, Default)]
pub struct RuleMetrics {
    /// rows that the rule's stream brought
    pub rows_in: AtomicU64,
    /// messages handed to the sinks, counted once however many sinks there are
    pub messages_out: AtomicU64,
    /// rows and messages that an error took away
    pub errors: AtomicU64,
    /// rows behind the watermark, dropped
    pub late: AtomicU64,
    /// rows too far ahead of the clock, dropped
    pub future: AtomicU64,
    /// the watermark in ms since the epoch, of a rule in event time; 0 before the first
    watermark: AtomicI64,
    /// the rule's code panicked: it gets no more rows
    failed: AtomicBool,
    last_error: Mutex<Option<(SystemTime, String)>>,
    latency: Mutex<Option<Box<Histogram<u32>>>>,
}

/// How long messages took from being read to being handed to the sinks, since the rule's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// median, µs
    pub p50_us: u64,
    /// 99 of 100 are faster, µs
    pub p99_us: u64,
}

/// Latencies above this many µs count as this.
const LONGEST_US: u64 = 60_000_000;

impl RuleMetrics {
    /// Counts an error and keeps it as the last one.
    pub fn error(&self, text: impl Into<String>) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        *lock(&self.last_error) = Some((SystemTime::now(), text.into()));
    }

    /// Notes that the rule cannot go on.
    pub fn fail(&self, text: impl Into<String>) {
        self.error(text);
        self.failed.store(true, Ordering::Release);
    }

    /// Whether the rule cannot go on.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Notes how far a rule in event time has come, ms since the epoch.
    pub fn reaches(&self, watermark: i64) {
        self.watermark.store(watermark, Ordering::Relaxed);
    }

    /// How far a rule in event time has come; `None` before its first row.
    pub fn watermark(&self) -> Option<i64> {
        Some(self.watermark.load(Ordering::Relaxed)).filter(|watermark| *watermark != 0)
    }

    /// The last error with its time.
    pub fn last_error(&self) -> Option<(SystemTime, String)> {
        lock(&self.last_error).clone()
    }

    /// Counts `messages` that took `latency`.
    pub fn sent(&self, messages: u64, latency: Option<Duration>) {
        self.messages_out.fetch_add(messages, Ordering::Relaxed);
        let Some(latency) = latency else { return };
        let mut histogram = lock(&self.latency);
        if histogram.is_none() {
            // One digit keeps an idle rule small: about 3 KB, made with the first result.
            *histogram = Histogram::new_with_bounds(1, LONGEST_US, 1).ok().map(Box::new);
        }
        if let Some(histogram) = histogram.as_mut() {
            let micros = (latency.as_micros() as u64).clamp(1, LONGEST_US);
            histogram.saturating_record_n(micros, u32::try_from(messages).unwrap_or(u32::MAX));
        }
    }

    /// The latency so far; `None` before the first result.
    pub fn latency(&self) -> Option<Latency> {
        lock(&self.latency).as_ref().map(|histogram| Latency {
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
        })
    }
}

/// A panic elsewhere leaves counters usable.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
