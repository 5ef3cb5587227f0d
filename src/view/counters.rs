//! Counters of a view.

use super::frame::GapReason;

/// Counters that the view's operator writes with each cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OperatorStatus {
    /// rows removed by MAX_ROWS
    pub evicted: u64,
    /// rows removed by EXPIRE
    pub expired: u64,
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
    pub rate: ChangeRate,
}

/// Changes of rows a second.
#[derive(Clone, Debug, Default)]
pub struct ChangeRate {
    /// a number of changes, and the time when it was reached, ms
    from: Option<(u64, i64)>,
    /// the rate at the last full second
    pub per_second: u64,
}

impl ChangeRate {
    /// Records that there have been this many changes at `now`, ms.
    pub fn count(&mut self, changes: u64, now: i64) {
        let Some((before, from)) = self.from else {
            self.from = Some((changes, now));
            return;
        };
        let passed = u64::try_from(now - from).unwrap_or(0);
        if passed >= 1_000 || now < from {
            self.per_second = ((changes - before) * 1_000).checked_div(passed).unwrap_or(0);
            self.from = Some((changes, now));
        }
    }
}

impl Counters {
    pub fn changes(&self) -> u64 {
        self.inserts + self.updates + self.deletes
    }
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
