//! What the dataflow of a stateful rule asks of its operator: that of a rule, or that of a view.

use crate::plan::fingerprint::Fingerprint;

use super::queue::RuleQueue;
use super::row::RowBatch;
use super::state::checkpoint::CheckpointError;
use super::state::measure::StateSize;
use super::timers::Turn;

/// How far a rule's work is at the end of its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// all that can be done is done
    Done,
    /// there is more to do: others come first
    More,
    /// nothing to do until this time, ms since the epoch; there is work left
    WaitUntil(i64),
    /// the rule remembers more than it may: so many bytes
    StateFull(u64),
}

/// What stands at the end of a stateful rule's dataflow, and keeps its state.
pub trait Operate {
    /// Takes rows in.
    fn rows(&mut self, batch: RowBatch);

    /// Time has come to `frontier`; `None`: to its end.
    fn advance(&mut self, frontier: Option<i64>);

    /// Does what there is to do, for a turn.
    fn work(&mut self, turn: &mut Turn) -> Progress;

    /// Does all that there is to do.
    fn settle(&mut self);

    /// Forgets all that is remembered: the rule has failed.
    fn forget(&mut self);

    /// Grows with every change of the state.
    fn changes(&self) -> u64;

    /// The state, with that of its queue, as a checkpoint of this plan.
    ///
    /// # Errors
    /// [`CheckpointError`]
    fn save(&self, plan: &Fingerprint, queue: &RuleQueue) -> Result<Vec<u8>, CheckpointError>;

    /// Goes on with the state of a checkpoint of this plan. To be called before the first row.
    ///
    /// # Errors
    /// [`CheckpointError`]; operator and queue are as if nothing had been tried.
    fn restore(&mut self, checkpoint: &[u8], plan: &Fingerprint, queue: &RuleQueue) -> Result<(), CheckpointError>;

    /// How large the state is.
    fn size(&self, queue: &RuleQueue) -> StateSize;
}
