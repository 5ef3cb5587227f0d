//! The orders of process 0, the answers of the others, and their events.

use serde::{Deserialize, Serialize};

use super::super::store::Change;
use super::links::WireLinks;
use super::looks::{WireSeen, WireTurnedAway};
use super::report::PartReport;
use super::taps::{WireRows, WireTap};
use crate::engine::{CheckpointError, RuleHome, Saved, StateAnswer};

/// An order of process 0.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// The list of all existing rules: anything kept for other rules is dropped.
    Rules(Vec<String>),
    /// Changes of the catalog, all or none.
    Apply(Vec<Change>),
    /// From now on, the sources of starting rules wait for [`Order::BeginTogether`].
    StartTogether,
    /// Sources that have waited since [`Order::StartTogether`] begin.
    BeginTogether,
    /// Opens everything that a rule needs; [`Order::Begin`] or [`Order::Abandon`] follows.
    Prepare(Recipe),
    /// Starts the opened rule, in place of the running version.
    Begin(Begin),
    /// Closes what was opened for a rule.
    Abandon { id: String },
    /// Stops a rule.
    Stop {
        id: String,
        message: String,
        /// whether to return its state
        keep: bool,
        /// wait for this many letters of other processes first
        letters: u64,
    },
    /// Forgets a rule that was deleted.
    Forget { id: String },
    /// Returns the state of a rule, unless it is stored already.
    Save { id: String },
    /// The state with this mark is stored.
    Kept { id: String, mark: u64 },
    /// Reports on these rules, in this order; with `look`, in detail.
    Report { ids: Vec<String>, look: bool },
    /// Returns the fields in the messages of a stream.
    Seen(String),
    /// Returns the clients that were refused.
    TurnedAway,
    /// Returns the states of connections, and counts of the data server.
    Links,
    /// Counts the messages of the rules that have ended.
    Totals,
    /// Taps a rule or view, and sends the rows as [`Event::Tapped`].
    Tap(WireTap),
    /// Stores an uploaded file, or deletes the one of this name.
    Upload { name: String, content: Option<Vec<u8>> },
    /// Deletes all uploaded files but these.
    KeepUploads(Vec<String>),
    /// Sets the time zone of schedules and rules.
    UseZone(String),
}

/// The answer to an order.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    Done,
    /// Changes were applied; these undo them.
    Applied(Vec<Change>),
    /// A rule has begun or stopped; this describes the version that ran before.
    Left(Left),
    Saved(WireState),
    /// The reports on those rules that exist.
    Reports(Vec<Option<PartReport>>),
    Totals(WireTotals),
    Seen(Option<WireSeen>),
    TurnedAway(Vec<WireTurnedAway>),
    Links(WireLinks),
    Refused(Refusal),
}

/// What another process reports to process 0. The answer is whether process 0 wants more of the kind.
#[derive(Debug, Serialize, Deserialize)]
pub enum Event {
    /// The code of a rule has failed, in the version with this number.
    Failed { id: String, number: u64, error: String },
    /// The process with this number was asked to end.
    Ends(usize),
    /// Rows of a tap.
    Tapped(WireRows),
}

/// The data from which a process makes the same plan of a rule or view as process 0.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Recipe {
    pub id: String,
    /// The rule as posted, or the statement of the view.
    pub text: String,
    /// The statements of the streams and tables that it reads, directly or through views.
    pub statements: Vec<String>,
    /// The statements of the views that it reads, each after those that it reads itself.
    pub views: Vec<String>,
    /// It starts even if a file or peer is missing.
    pub unchecked: bool,
    /// Its number, the same in all processes.
    pub number: u64,
    /// The place of its state.
    pub home: RuleHome,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Begin {
    pub id: String,
    /// Whether it continues from the state of the running version.
    pub carry: bool,
    /// The number of letters from other processes that must arrive for that version first.
    pub letters: u64,
    /// The state to continue from otherwise.
    pub checkpoint: Option<Vec<u8>>,
}

/// The end of a version of a rule in a process.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Left {
    /// The number of letters with rows that it sent to the process with its state.
    pub letters: u64,
    /// Its last state.
    pub saved: WireState,
}

/// [`crate::engine::Totals`] as sent.
#[derive(Debug, Serialize, Deserialize)]
pub struct WireTotals {
    pub delivered: u64,
    pub lost: Vec<(String, u64)>,
    pub kept: u64,
}

/// The state of a rule as sent: its bytes and its mark, or why there is none.
pub type WireState = Option<Result<(Vec<u8>, u64), String>>;

/// Converts a state for sending.
pub fn to_wire(saved: StateAnswer) -> WireState {
    saved.map(|saved| saved.map(|saved| (saved.bytes, saved.mark)).map_err(|error| error.to_string()))
}

/// Converts a state that another process sent.
pub fn from_wire(saved: WireState) -> StateAnswer {
    saved.map(|saved| saved.map(|(bytes, mark)| Saved { bytes, mark }).map_err(CheckpointError::Elsewhere))
}

/// Why a rule cannot start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// The service is stopping.
    Stopping,
    /// It is refused; `connector`: because of a source or sink.
    Refused { text: String, connector: bool },
    /// It cannot start now, but perhaps later.
    Failed(String),
}

impl Refusal {
    /// The same, naming the process that refused.
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
