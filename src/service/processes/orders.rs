//! What process 0 orders, what the others answer, and what they tell.

use serde::{Deserialize, Serialize};

use super::super::store::Change;
use super::report::PartReport;
use crate::engine::{CheckpointError, Saved, StateAnswer};

/// An order of process 0.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// These are all rules that exist: what is kept for others is dropped.
    Rules(Vec<String>),
    /// Changes of the catalog, all or none.
    Apply(Vec<Change>),
    /// Sources of rules that begin from now on wait for [`Order::BeginTogether`].
    StartTogether,
    /// What has waited since [`Order::StartTogether`] begins.
    BeginTogether,
    /// Opens everything that a rule needs; [`Order::Begin`] or [`Order::Abandon`] follows.
    Prepare(Recipe),
    /// Runs the rule that was opened, in place of the running version.
    Begin(Begin),
    /// Closes what was opened for a rule.
    Abandon { id: String },
    /// Stops a rule.
    Stop {
        id: String,
        message: String,
        /// its state is wanted
        keep: bool,
        /// so many letters of other processes come before
        letters: u64,
    },
    /// Forgets a rule that was deleted.
    Forget { id: String },
    /// Returns the state of a rule, unless it is stored already.
    Save { id: String },
    /// This state of a rule is stored.
    Kept { id: String, mark: u64 },
    /// Reports on rules, in this order.
    Report(Vec<String>),
    /// Counts the messages of the rules that have ended.
    Totals,
    /// Sets the time zone of schedules and rules.
    UseZone(String),
}

/// The answer to an order.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    /// Changes were applied; these undo them.
    Applied(Vec<Change>),
    /// A rule has begun, or has stopped: this is how the version that ran has left.
    Left(Left),
    Saved(WireState),
    /// Of those rules that are there.
    Reports(Vec<Option<PartReport>>),
    Totals(WireTotals),
    Refused(Refusal),
}

/// What another process tells process 0.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    /// Code of the version with this number of a rule has failed.
    Failed { id: String, number: u64, error: String },
    /// This process is told to end.
    Ends(usize),
}

/// Everything that a process needs to plan a rule as process 0 has planned it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Recipe {
    pub id: String,
    /// The rule as it was posted.
    pub text: String,
    /// The statements of the streams and tables that it names.
    pub statements: Vec<String>,
    /// A missing file or peer does not keep it from starting.
    pub unchecked: bool,
    /// Its number, the same in all processes.
    pub number: u64,
}

/// How a rule begins.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Begin {
    pub id: String,
    /// It continues from the state of the running version.
    pub carry: bool,
    /// So many letters of other processes come for that version.
    pub letters: u64,
    /// What it continues from otherwise.
    pub checkpoint: Option<Vec<u8>>,
}

/// How a version of a rule has left a process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Left {
    /// Letters with rows that it has sent to the process with its state.
    pub letters: u64,
    /// Its last state.
    pub saved: WireState,
}

/// [`crate::engine::Totals`] as they are sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct WireTotals {
    pub delivered: u64,
    pub lost: Vec<(String, u64)>,
    pub kept: u64,
}

/// The state of a rule as it is sent: its bytes and its mark, or why there is none.
pub type WireState = Option<Result<(Vec<u8>, u64), String>>;

/// Prepares a state for another process.
pub fn to_wire(saved: StateAnswer) -> WireState {
    saved.map(|saved| saved.map(|saved| (saved.bytes, saved.mark)).map_err(|error| error.to_string()))
}

/// The state that another process has sent.
pub fn of_wire(saved: WireState) -> StateAnswer {
    saved.map(|saved| saved.map(|(bytes, mark)| Saved { bytes, mark }).map_err(CheckpointError::Elsewhere))
}

/// Why a rule cannot start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The service stops.
    Stopping,
    /// It is refused; `connector`: because of a source or sink.
    Refused { text: String, connector: bool },
    /// It may start later.
    Failed(String),
}

impl Refusal {
    /// The same with the process that says it.
    pub fn of_process(self, process: usize, host: &str) -> Refusal {
        let named = |text: String| format!("process {process} ({host}): {text}");
        match self {
            Refusal::Stopping => Refusal::Stopping,
            Refusal::Refused { text, connector } => Refusal::Refused { text: named(text), connector },
            Refusal::Failed(text) => Refusal::Failed(named(text)),
        }
    }

    pub fn text(self) -> String {
        match self {
            Refusal::Stopping => "the service is stopping".to_owned(),
            Refusal::Refused { text, .. } | Refusal::Failed(text) => text,
        }
    }
}
