//! What the operators of a rule with state let through: how many rows reach the window, how many windows close, how many
//! groups HAVING lets pass.
//!
//! The operator counts for itself and puts its counts here at the end of each turn, so that a row costs nothing more.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counts, as others read them.
#[derive(Debug, Default)]
pub struct Flow([AtomicU64; 7]);

/// What was let through since the rule's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// rows that came to WHERE, where it stands behind the scan
    pub filter_in: u64,
    /// rows that it let pass
    pub filter_out: u64,
    /// rows that came to the window
    pub window_in: u64,
    /// windows that have closed
    pub windows: u64,
    /// groups, or result rows, that came to HAVING
    pub having_in: u64,
    /// those that it let pass
    pub having_out: u64,
    /// result rows
    pub results: u64,
}

impl Flow {
    /// Puts the counts where others see them.
    pub fn put(&self, counts: &FlowCounts) {
        let FlowCounts { filter_in, filter_out, window_in, windows, having_in, having_out, results } = *counts;
        let all = [filter_in, filter_out, window_in, windows, having_in, having_out, results];
        self.0.iter().zip(all).for_each(|(place, count)| place.store(count, Ordering::Relaxed));
    }

    /// The counts of the last turn's end.
    pub fn counts(&self) -> FlowCounts {
        let [filter_in, filter_out, window_in, windows, having_in, having_out, results] =
            std::array::from_fn(|place| self.0[place].load(Ordering::Relaxed));
        FlowCounts { filter_in, filter_out, window_in, windows, having_in, having_out, results }
    }
}
