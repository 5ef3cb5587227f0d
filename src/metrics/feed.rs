//! Events of a stream's feed that are not errors, and their counts.

use serde::{Deserialize, Serialize};

/// Numbers of a feed's sequences that may still arrive (`gapWait`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenGaps {
    pub numbers: u64,
    /// All of them are missing from this time on, ms since the epoch.
    pub due: i64,
}

/// Unusual messages of a feed that are not errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedEvent {
    /// A message of another shape, which was skipped (`ON_MISMATCH`).
    Mismatched,
    /// A message that another connection has delivered before, which was dropped (`dedupKey`).
    Duplicate,
    /// A number missing in the feed's sequence (`gapSequence`).
    Missing,
    /// A number that has arrived before.
    Doubled,
    /// A number that arrived after a later one.
    Reordered,
    /// A message without the fields of `dedupKey`, or with a null in one.
    WithoutDedupKey,
    /// The same for `gapSequence`.
    WithoutGapSequence,
    /// The same for `gapKey`.
    WithoutGapKey,
}

/// Counts of each [`FeedEvent`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeedCounts(pub(super) [u64; FeedEvent::ALL.len()]);

impl FeedEvent {
    pub const ALL: [FeedEvent; 8] = [
        FeedEvent::Mismatched,
        FeedEvent::Duplicate,
        FeedEvent::Missing,
        FeedEvent::Doubled,
        FeedEvent::Reordered,
        FeedEvent::WithoutDedupKey,
        FeedEvent::WithoutGapSequence,
        FeedEvent::WithoutGapKey,
    ];

    /// The name in status and metrics.
    pub fn name(self) -> &'static str {
        match self {
            FeedEvent::Mismatched => "mismatched",
            FeedEvent::Duplicate => "duplicate",
            FeedEvent::Missing => "missing",
            FeedEvent::Doubled => "doubled",
            FeedEvent::Reordered => "reordered",
            FeedEvent::WithoutDedupKey => "without_dedup_key",
            FeedEvent::WithoutGapSequence => "without_gap_sequence",
            FeedEvent::WithoutGapKey => "without_gap_key",
        }
    }
}

impl FeedCounts {
    /// Events with counts above 0.
    pub fn each(&self) -> impl Iterator<Item = (FeedEvent, u64)> {
        FeedEvent::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }

    /// The sum of these and another process's counts.
    pub fn and(self, other: FeedCounts) -> FeedCounts {
        self.combine(other, u64::wrapping_add)
    }

    pub(super) fn combine(self, other: FeedCounts, with: fn(u64, u64) -> u64) -> FeedCounts {
        FeedCounts(std::array::from_fn(|event| with(self.0[event], other.0[event])))
    }
}
