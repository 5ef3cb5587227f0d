//! The interface between a dataflow with state and its operator: that of a rule, or that of a view.

use crate::plan::fingerprint::Fingerprint;

use super::batch::RowBatch;
use super::queue::RuleQueue;
use super::row::ScannedRow;
use super::state::checkpoint::CheckpointError;
use super::state::measure::StateSize;
use super::timers::Turn;

/// The work left at the end of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing is left.
    Done,
    /// More work is left, but others have their turn first.
    More,
    /// Work is left, but there is no room for its results: sinks are full, or too much is on its way home. The rule
    /// tries again at this time, ms since the epoch. Until then its rows wait, and so do its streams.
    WaitUntil(i64),
    /// The rule pauses until this time, ms since the epoch (`delay`). Streams do not wait for it.
    PauseUntil(i64),
    /// The state exceeds its limit: this many bytes.
    StateFull(u64),
}

/// The last operator of a stateful rule's dataflow. It owns the rule's state.
pub trait Operate {
    /// Takes rows.
    fn rows(&mut self, batch: RowBatch);

    /// Time has reached `frontier`; `None`: the end of time.
    fn advance(&mut self, frontier: Option<i64>);

    /// Works for one turn.
    fn work(&mut self, turn: &mut Turn) -> Progress;

    /// Works until nothing is left to do.
    fn settle(&mut self);

    /// Drops all state: the rule has failed.
    fn forget(&mut self);

    /// Grows with each change of the state.
    fn changes(&self) -> u64;

    /// The state of operator and queue, as a checkpoint of this plan.
    ///
    /// # Errors
    /// [`CheckpointError`]
    fn save(&self, plan: &Fingerprint, queue: &RuleQueue) -> Result<Vec<u8>, CheckpointError>;

    /// Restores a checkpoint of this plan. To be called before the first row.
    ///
    /// # Errors
    /// [`CheckpointError`]; then operator and queue are unchanged.
    fn restore(&mut self, checkpoint: &[u8], plan: &Fingerprint, queue: &RuleQueue) -> Result<(), CheckpointError>;

    /// The size of the state.
    fn size(&self, queue: &RuleQueue) -> StateSize;

    /// The number of rows that it was given and has not processed. Open windows are processed.
    fn unprocessed(&self) -> u64 {
        0
    }

    /// The rows of its scan tables, at most `limit` of each.
    fn scanned(&self, limit: usize) -> Vec<ScannedRow> {
        let _ = limit;
        Vec::new()
    }
}
