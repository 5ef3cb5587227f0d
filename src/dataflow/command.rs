//! The control plane's commands to a data thread.
//!
//! Everything in a command is checked before it is sent, so a command cannot fail. Commands are plain data: this module
//! does not know how a worker executes them.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::definition::stream::StreamSchema;
use crate::io::queue::{FeedChecks, FrameReceiver};
use crate::metrics::RuleMetrics;
use crate::plan::physical::RulePlan;
use crate::value::Text;

use super::division::Division;
use super::encoding::Encoding;
use super::event_clock::EventClocks;
use super::row::ScannedRow;
use super::state::checkpoint::CheckpointError;
use super::state::measure::{StateSize, TableSize};

/// A stream's dataflow on its worker; also the slot of the stream's signal.
pub type StreamKey = usize;

/// A rule on its worker.
pub type RuleKey = u64;

/// A command to a worker.
pub enum Command {
    /// Starts a stream.
    AddStream {
        key: StreamKey,
        schema: StreamSchema,
        /// Checks of each message before any rule sees it.
        checks: FeedChecks,
        frames: FrameReceiver,
    },
    /// Makes indexes of views for a rule that is about to start.
    PrepareLookups {
        rule: RuleKey,
        /// Names of views, each with the columns that the rule compares.
        by: Vec<(Text, Vec<Text>)>,
        /// Completed when the indexes have all rows.
        done: oneshot::Sender<()>,
    },
    /// Starts a rule. It sees the messages that the stream takes from then on.
    AddRule(Box<NewRule>),
    /// Ends the scan of a rule whose state is divided: what its streams have received goes to the threads of its keys,
    /// then nothing more comes. The state stays until [`Command::DropRule`].
    EndScan {
        leaving: Leaving,
        /// Receives how many letters with rows this thread has sent to others.
        done: oneshot::Sender<u64>,
    },
    /// Makes a rule whose state is divided process all rows of its keys, and send the due parts of its windows home.
    SendHome {
        rule: RuleKey,
        /// Receives how many letters this thread has sent home.
        done: oneshot::Sender<u64>,
    },
    /// Ends a rule. The content of its windows is dropped, except for the returned state.
    DropRule {
        leaving: Leaving,
        /// Receives the state when the rule is gone.
        done: oneshot::Sender<Left>,
    },
    /// Requests the state of a rule.
    SaveRule {
        key: RuleKey,
        /// The state is not sent if it still has this mark.
        since: Mark,
        done: oneshot::Sender<StateAnswer>,
    },
    /// Measures the states of rules.
    MeasureRules {
        /// Only a few, because the thread does nothing else while it measures.
        keys: Vec<RuleKey>,
        /// Receives the sizes of those that exist and have state.
        done: oneshot::Sender<Vec<(RuleKey, StateSize)>>,
    },
    /// Asks for the rows of a rule's scan tables.
    ScannedRows {
        key: RuleKey,
        /// the most rows of each table, the newest
        limit: usize,
        /// receives the rows
        done: oneshot::Sender<Vec<ScannedRow>>,
    },
    /// Measures this worker's copies of lookup tables.
    MeasureTables(oneshot::Sender<Vec<(Text, TableSize)>>),
    /// Drops all rows of a lookup table because memory is short. The table takes no more rows.
    EmptyTable { slot: usize, name: Text },
    /// Starts this worker's copy of a lookup table.
    AddTable {
        /// The slot of its signal.
        slot: usize,
        schema: StreamSchema,
        frames: FrameReceiver,
        metrics: Arc<RuleMetrics>,
    },
    /// Ends a lookup table. Rules that still read it see its last rows.
    DropTable {
        /// The slot of its signal.
        slot: usize,
        name: Text,
    },
    /// Sets the time zone of streams, tables and rules that start from now on.
    UseZone(jiff::tz::TimeZone),
    /// Answers when everything that the streams have received is processed.
    Drain(oneshot::Sender<()>),
    /// As [`Command::Drain`], but the clock stands still: results that wait for others, and pausing rules, continue to
    /// wait.
    Settle(oneshot::Sender<()>),
    /// Ends the pauses of rules (`delay`), now and from now on: the process is ending.
    EndPauses,
    /// Answers with the number of rows that rules have read and not processed.
    CountUnprocessed(oneshot::Sender<u64>),
    /// Answers with the worker's next deadline, ms since the epoch.
    NextDeadline(oneshot::Sender<Option<i64>>),
    /// The rules get no more messages: when everything is processed, their open time windows close. Answers when that
    /// is done.
    EndOfInput {
        /// May include rules of other workers.
        rules: Arc<[RuleKey]>,
        done: oneshot::Sender<()>,
    },
    /// Ends the thread.
    Stop,
}

/// The number of changes of a rule's state since its start.
pub type Mark = u64;

#[derive(Clone, Debug)]
pub struct Saved {
    pub bytes: Vec<u8>,
    /// The changes up to this state.
    pub mark: Mark,
}

/// A rule's state; `None` if it has none, has no `qos`, has failed, or has not changed.
pub type StateAnswer = Option<Result<Saved, CheckpointError>>;

/// What a rule keeps across restarts.
#[derive(Debug, Default)]
pub enum Keeps {
    /// Nothing: each start begins with empty state.
    #[default]
    Nothing,
    /// Its state; there may be a checkpoint to continue from.
    State(Option<Vec<u8>>),
}

/// How a rule leaves: it processes what its streams have received, then ends.
pub struct Leaving {
    pub rule: RuleKey,
    /// Streams that other rules continue to read.
    pub settle: Vec<StreamKey>,
    pub ends: Vec<StreamKey>,
    /// Requests its state, unless the state still has this mark.
    pub save: Option<Mark>,
    /// The number of letters with rows that were sent to it; it waits for all of them.
    pub letters: Letters,
}

/// Numbers of letters with rows for a rule, by origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Letters {
    /// From other threads of this process.
    pub near: u64,
    /// From threads in other processes.
    pub far: u64,
}

/// The result of ending a rule on a thread.
#[derive(Debug, Default)]
pub struct Left {
    /// Its state, if requested.
    pub state: StateAnswer,
    /// How many letters with rows this thread has sent to where the state is.
    pub letters: u64,
    /// Completed when the other processes have left the rule too, and none of its results are on their way between
    /// them.
    pub elsewhere: Vec<oneshot::Receiver<()>>,
}

impl Left {
    /// Adds how the rule has left other threads, which had no state.
    #[must_use]
    pub fn with(mut self, others: Vec<Left>) -> Left {
        for other in others {
            self.letters += other.letters;
            self.elsewhere.extend(other.elsewhere);
        }
        self
    }
}

/// The part of a rule on one thread.
#[derive(Clone, Debug, Default)]
pub enum Part {
    /// The rule is on this thread only, or runs independently on each thread.
    #[default]
    Whole,
    /// The state is here; other threads send rows.
    Home(EventClocks),
    /// Only the scan is here; rows that pass it go to this worker.
    Scan(usize, EventClocks),
    /// The scan is here; rows that pass it go to the worker of their key, which may be this one.
    Exchange(Division, EventClocks),
}

/// A rule to start.
pub struct NewRule {
    pub key: RuleKey,
    /// The stream of each input; `None` for lookup tables.
    pub streams: Vec<Option<StreamKey>>,
    /// A separate slot for its deadlines.
    pub slot: usize,
    pub plan: RulePlan,
    pub id: String,
    pub encodings: Vec<Encoding>,
    /// The sinks for messages that fail.
    pub dead_letters: Vec<Encoding>,
    /// Errors of rows are sent to the sinks.
    pub send_error: bool,
    pub metrics: Arc<RuleMetrics>,
    pub keeps: Keeps,
    pub part: Part,
    /// When it was started, ms since the epoch.
    pub started: i64,
    /// The version that it replaces, whose state it continues from if that was requested.
    pub replaces: Option<Leaving>,
    /// Receives that version's state when the rule sees messages.
    pub done: oneshot::Sender<Left>,
}
