//! The latency of results, from the socket to the sinks.

use std::time::Duration;

use hdrhistogram::Histogram;

/// How long messages took from being read to being given to the sinks, since the rule's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Latency {
    /// median, µs
    pub p50_us: u64,
    /// 99th percentile, µs
    pub p99_us: u64,
    /// the number of results up to each of [`LATENCY_BOUNDS`], cumulative
    pub buckets: [u64; LATENCY_BOUNDS.len()],
    /// the number of all results
    pub count: u64,
    /// the sum of their latencies, µs
    pub sum_us: u64,
}

/// The upper bounds of the latency's buckets, µs: 10 µs to 5 s, each twice the previous one.
pub const LATENCY_BOUNDS: [u64; 20] = {
    let mut bounds = [10; 20];
    let mut at = 1;
    while at < bounds.len() {
        bounds[at] = bounds[at - 1] * 2;
        at += 1;
    }
    bounds
};

/// Longer latencies count as this many µs.
const LONGEST_US: u64 = 60_000_000;

/// Latencies of one rule. Allocates nothing before the first.
#[derive(Debug, Default)]
pub(super) struct Latencies(Option<Box<Histogram<u32>>>);

impl Latencies {
    /// Counts `messages` that took `latency`.
    pub fn record(&mut self, messages: u64, latency: Duration) {
        if self.0.is_none() {
            // One digit keeps an idle rule small: about 3 KB, made with the first result.
            self.0 = Histogram::new_with_bounds(1, LONGEST_US, 1).ok().map(Box::new);
        }
        if let Some(histogram) = self.0.as_mut() {
            let micros = (latency.as_micros() as u64).clamp(1, LONGEST_US);
            histogram.saturating_record_n(micros, u32::try_from(messages).unwrap_or(u32::MAX));
        }
    }

    /// The latency so far; `None` before the first result.
    pub fn latency(&self) -> Option<Latency> {
        self.0.as_ref().map(|histogram| {
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
