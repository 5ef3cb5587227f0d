//! Counts what passes the operators of a rule with state: rows into the window, closed windows, groups past HAVING.
//!
//! The operator counts locally and publishes its counts at the end of each turn, so that a row costs nothing more. If
//! several threads have parts of a rule's state, each adds what it has counted.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// The published counts.
#[derive(Debug, Default)]
pub struct Flow([AtomicU64; 7]);

/// Counts since the rule's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCounts {
    /// rows that reached WHERE, if it comes after the scan
    pub filter_in: u64,
    /// rows that passed WHERE
    pub filter_out: u64,
    /// rows that reached the window
    pub window_in: u64,
    /// closed windows
    pub windows: u64,
    /// groups, or result rows, that reached HAVING
    pub having_in: u64,
    /// groups, or result rows, that passed HAVING
    pub having_out: u64,
    /// result rows
    pub results: u64,
}

impl FlowCounts {
    /// Adds the counts of another process.
    pub fn add(&mut self, more: FlowCounts) {
        self.filter_in += more.filter_in;
        self.filter_out += more.filter_out;
        self.window_in += more.window_in;
        self.windows += more.windows;
        self.having_in += more.having_in;
        self.having_out += more.having_out;
        self.results += more.results;
    }

    fn all(&self) -> [u64; 7] {
        let FlowCounts { filter_in, filter_out, window_in, windows, having_in, having_out, results } = *self;
        [filter_in, filter_out, window_in, windows, having_in, having_out, results]
    }
}

impl Flow {
    /// Publishes the counts of a rule with a single counting thread.
    pub fn put(&self, counts: &FlowCounts) {
        self.0.iter().zip(counts.all()).for_each(|(place, count)| place.store(count, Ordering::Relaxed));
    }

    /// Adds the difference between a thread's counts and those that it has added before.
    pub fn add(&self, counts: &FlowCounts, before: &FlowCounts) {
        let counts = counts.all().into_iter().zip(before.all());
        for (place, (count, before)) in self.0.iter().zip(counts).filter(|(_, (count, before))| count != before) {
            // A count may decrease: see `Results::with_counts`. The addition wraps around.
            place.fetch_add(count.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    /// The counts at the end of the last turn.
    pub fn counts(&self) -> FlowCounts {
        let [filter_in, filter_out, window_in, windows, having_in, having_out, results] =
            std::array::from_fn(|place| self.0[place].load(Ordering::Relaxed));
        FlowCounts { filter_in, filter_out, window_in, windows, having_in, having_out, results }
    }
}
