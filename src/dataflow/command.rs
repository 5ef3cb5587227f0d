//! What the control plane asks of a data thread.
//!
//! Everything in a command was checked before it is sent: a command cannot fail. It is plain data, so that this module
//! knows nothing of how a worker carries it out.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::definition::stream::StreamSchema;
use crate::io::queue::{FeedChecks, FrameReceiver};
use crate::metrics::RuleMetrics;
use crate::plan::physical::RulePlan;
use crate::value::Text;

use super::output::Encoding;
use super::state::checkpoint::CheckpointError;
use super::state::measure::{StateSize, TableSize};

/// Names a stream's dataflow on its worker; it is the slot of the stream's signal, too.
pub type StreamKey = usize;

/// Names a rule on its worker.
pub type RuleKey = u64;

/// One thing that the control plane asks of a worker.
pub enum Command {
    /// Begins a stream.
    AddStream {
        key: StreamKey,
        /// how its messages are read
        schema: StreamSchema,
        /// what is checked of each before any rule sees it
        checks: FeedChecks,
        /// where its messages come from
        frames: FrameReceiver,
    },
    /// Ends a stream whose rules have all ended.
    DropStream(StreamKey),
    /// Begins a rule. It sees the messages that the stream takes in from then on.
    AddRule(Box<NewRule>),
    /// Ends a rule; what its windows hold is forgotten, but for what is in the answer.
    DropRule {
        /// the rule and its streams
        leaving: Leaving,
        /// given its state when the rule is gone
        done: oneshot::Sender<StateAnswer>,
    },
    /// Asks for the state of a rule.
    SaveRule {
        key: RuleKey,
        /// not if it is still that of this mark
        since: Mark,
        /// given the state
        done: oneshot::Sender<StateAnswer>,
    },
    /// Asks how large the states of rules are.
    MeasureRules {
        /// the rules; so few that nobody waits long for the answer
        keys: Vec<RuleKey>,
        /// given the sizes of those that are there and have state
        done: oneshot::Sender<Vec<(RuleKey, StateSize)>>,
    },
    /// Asks how large this worker's copies of lookup tables are.
    MeasureTables(oneshot::Sender<Vec<(Text, TableSize)>>),
    /// Begins a lookup table: this worker's copy.
    AddTable {
        /// the slot of its signal
        slot: usize,
        /// how its messages are read
        schema: StreamSchema,
        /// where its rows come from
        frames: FrameReceiver,
        /// its counters
        metrics: Arc<RuleMetrics>,
    },
    /// Ends a lookup table. Rules that still read it see its last rows.
    DropTable {
        /// the slot of its signal
        slot: usize,
        name: Text,
    },
    /// Streams, tables and rules that begin from now on are in this zone.
    UseZone(jiff::tz::TimeZone),
    /// Answers when everything that was handed to the streams before has been run.
    Drain(oneshot::Sender<()>),
    /// No more messages will come to these rules: after what is there, their windows that time closes are closed. Answers
    /// when that is done.
    EndOfInput {
        /// rules, also of other workers
        rules: Arc<[RuleKey]>,
        /// told when it is done
        done: oneshot::Sender<()>,
    },
    /// Ends the thread.
    Stop,
}

/// Counts the changes of a rule's state since it began.
pub type Mark = u64;

/// The state of a rule at one moment.
#[derive(Clone, Debug)]
pub struct Saved {
    /// the checkpoint
    pub bytes: Vec<u8>,
    /// the changes up to then
    pub mark: Mark,
}

/// A rule's state; `None` where there is nothing (new) to keep: the rule has no state, does not keep it, has failed, or
/// nothing has changed.
pub type StateAnswer = Option<Result<Saved, CheckpointError>>;

/// Whether a rule keeps its state.
#[derive(Debug, Default)]
pub enum Keeps {
    /// it begins anew each time
    #[default]
    Nothing,
    /// it does, and there may be a checkpoint to go on with
    State(Option<Vec<u8>>),
}

/// How a rule goes: what its streams have received is run first, then it ends.
pub struct Leaving {
    pub rule: RuleKey,
    /// streams that others read on
    pub settle: Vec<StreamKey>,
    pub ends: Vec<StreamKey>,
    /// its state is asked for, unless it is still that of this mark
    pub save: Option<Mark>,
}

/// A rule to begin.
pub struct NewRule {
    pub key: RuleKey,
    /// the stream of each of its inputs; none for lookup tables
    pub streams: Vec<Option<StreamKey>>,
    /// a slot of its own, for its deadlines
    pub slot: usize,
    /// what runs
    pub plan: RulePlan,
    pub id: String,
    /// its sinks
    pub encodings: Vec<Encoding>,
    /// errors are sent to the sinks
    pub send_error: bool,
    /// its counters
    pub metrics: Arc<RuleMetrics>,
    /// what it remembers over restarts
    pub keeps: Keeps,
    /// the version whose place it takes, and with whose state it goes on if that was asked for
    pub replaces: Option<Leaving>,
    /// given the state of that version when the rule sees messages
    pub done: oneshot::Sender<StateAnswer>,
}
