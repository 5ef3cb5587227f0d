//! Counters of a view.

use super::frame::GapReason;

/// Counters of the operator, which it writes with each cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorStatus {
    /// rows removed by MAX_ROWS
    pub evicted: u64,
    /// rows removed by EXPIRE
    pub expired: u64,
    /// messages behind the watermark
    pub late: u64,
    /// rows and messages lost to errors
    pub errors: u64,
    pub last_error: Option<String>,
    /// bytes of accumulators and similar state
    pub bytes: usize,
    /// why the view has stopped
    pub stopped: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Counters {
    pub cuts: u64,
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub resumed: u64,
    pub gaps_expired: u64,
    pub gaps_changed: u64,
    pub gaps_restart: u64,
    pub deltas: u64,
    pub merged: u64,
    pub snapshot_rows: u64,
}

impl Counters {
    pub fn gap(&mut self, why: GapReason) {
        match why {
            GapReason::Expired => self.gaps_expired += 1,
            GapReason::Changed => self.gaps_changed += 1,
            GapReason::Restart => self.gaps_restart += 1,
        }
    }
}
