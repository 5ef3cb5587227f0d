//! The letters between the threads of a rule: rows on their way to its state, results on their way to clients of other
//! processes, and permission to send more.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::io::queue::MessageBatch;

use super::batch::RowBatch;
use super::command::RuleKey;

/// A letter about a rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum RuleLetter {
    /// Rows for a rule whose state is on the receiver's thread.
    Rows(ForwardedRows),
    /// Rows that the receiver of this letter had sent were taken: it may send as many more.
    Taken { rule: RuleKey, rows: usize },
    /// Results for the clients of the receiver's process.
    Results(ResultBatch),
    /// Results that the receiver of this letter had sent were taken: it may send as many bytes more.
    ResultsTaken(ResultsTaken),
    /// The sender has left this version of a rule, and sends no more results of it.
    ResultsEnd(RuleKey),
}

/// Results of a rule, made in another process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResultBatch {
    /// The version of the rule that has made them.
    pub rule: RuleKey,
    /// Which batch of that version.
    pub number: u64,
    /// The rule, whichever version of it the receiver runs.
    pub name: u64,
    /// Which form of results it is.
    pub form: u64,
    pub batch: Arc<MessageBatch>,
}

/// The answer to results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResultsTaken {
    pub rule: RuleKey,
    pub number: u64,
    pub bytes: usize,
    /// How many messages have found a client here, by sink of the form; empty if the rule does not run here.
    pub heard: Vec<usize>,
}

/// Rows of one thread that have passed the scan of a rule, and how far event time has come there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForwardedRows {
    pub rule: RuleKey,
    pub rows: RowBatch,
    /// What advances the watermark, in order, including rows that did not pass.
    pub advances: Vec<Advance>,
    /// The input whose scan has sent this.
    pub input: u16,
    /// More messages for it wait on the sender's thread.
    pub behind: bool,
}

/// Progress of an input in event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advance {
    /// It comes before the row with this number.
    pub row: usize,
    pub input: u16,
    /// The largest timestamp, less the tolerance.
    pub reached: i64,
}
