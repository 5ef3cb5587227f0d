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
    /// Rows that the receiver has sent were taken: it may send as many more.
    Taken { rule: RuleKey, rows: usize },
    /// Asks for the rows that the receiver may hold. Time stands still for the sender until the receiver has sent them,
    /// or has answered that it holds none.
    Ask(RuleKey),
    /// Results for the clients of the receiver's process.
    Results(ResultBatch),
    /// Results that the receiver has sent were taken: it may send as many more bytes.
    ResultsTaken(ResultsTaken),
    /// The sender has left this version of a rule, and sends no more results for it.
    ResultsEnd(RuleKey),
}

/// Results of a rule, made in another process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResultBatch {
    /// The version of the rule that made them.
    pub rule: RuleKey,
    /// The number of the batch in that version.
    pub number: u64,
    /// The rule, regardless of the version that the receiver runs.
    pub name: u64,
    /// The form of the results.
    pub form: u64,
    pub batch: Arc<MessageBatch>,
}

/// The answer to results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResultsTaken {
    pub rule: RuleKey,
    pub number: u64,
    pub bytes: usize,
    /// The number of messages that a client here has received, for each sink of the form; empty if the rule does not
    /// run here.
    pub heard: Vec<usize>,
}

/// Rows of one thread that have passed the scan of a rule, and the progress of event time there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ForwardedRows {
    pub rule: RuleKey,
    pub rows: RowBatch,
    /// What advances the watermark, in order, including rows that did not pass.
    pub advances: Vec<Advance>,
    /// The input whose scan has sent them.
    pub input: u16,
    /// Whether more messages for it wait on the sender's thread.
    pub behind: bool,
    /// From now on the sender may hold rows whose slices end after its time, until it is asked for them. Meanwhile it
    /// reports neither its progress within a slice nor whether messages wait.
    pub holds: bool,
}

/// Progress of an input in event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Advance {
    /// The number of the row that follows it.
    pub row: usize,
    pub input: u16,
    /// The largest timestamp, less the tolerance.
    pub reached: i64,
}
