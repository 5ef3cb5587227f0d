//! Rules, running: the control plane's side of the data threads.
//!
//! The engine opens connectors, hands plans to workers and reads counters. A stream is opened with the first rule that
//! reads it and closed after the last. `opening` starts a rule, `replacing` puts a new version in its place without a
//! gap, `stopping` ends it, and `ending` ends everything. The engine knows neither files nor REST.
//!
//! What runs is behind one lock that is held for single steps and never while anything is waited for, so that nobody who
//! asks how rules stand waits for a peer or a disk. A lock by name (`gates`) makes sure that two rules never open the
//! same stream at once.

mod ending;
mod measure;
mod opening;
mod replacing;
mod status;
mod stopping;
mod tables;
mod views;

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::dataflow::command::{Command, Mark, StateAnswer, StreamKey};
use crate::dataflow::worker::DataThread;
use crate::definition::stream::StreamDef;
use crate::format::sink_format::SinkFormat;
use crate::io::LinkStatus;
use crate::io::connector::{ConnectorError, Connectors, OpenSink, OpenSource, SinkSpec, SourceSpec};
use crate::io::events::EventSink;
use crate::io::queue::{Backlog, FrameSender, Signal};
use crate::io::reach::FileRoots;
use crate::io::websocket::{ConnectError, ServerSettings, Websockets};
use crate::metrics::RuleMetrics;
use crate::plan::physical::RulePlan;
use crate::sync::{KeyedLock, locked};
use crate::time::Clock;
use crate::value::Text;
use crate::view::Views;

pub use self::ending::{Ended, Totals};
pub use self::measure::{Measured, Waiting};
pub use self::opening::PreparedRule;
pub use self::replacing::Replaced;
pub use self::status::{LastStatus, RuleStatus, TableStatus};
pub use self::stopping::Stopped;
pub use self::views::{view_id, view_of};
pub use crate::dataflow::command::{Keeps, Saved};
pub use crate::dataflow::state::checkpoint::CheckpointError;
pub use crate::dataflow::state::measure::{StateSize, TableSize};

/// How long a sink that is closed may go on sending what waits for its clients. Nobody waits for it.
const FLUSH: Duration = Duration::from_secs(5);

/// How long a rule that ends or is replaced may take to run what its sources have read. Only a client with
/// `slowClient: block` that reads nothing makes it take that long.
const SETTLE: Duration = Duration::from_secs(1);

/// What an engine is started with.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// number of data threads
    pub workers: usize,
    /// the data server
    pub server: ServerSettings,
    /// the zone of windows and of dates
    pub zone: jiff::tz::TimeZone,
    /// cancelled when the process is about to end: no rule starts any more
    pub shutdown: CancellationToken,
}

/// A rule to run.
pub struct RuleSpec {
    /// its id
    pub id: String,
    /// what runs
    pub plan: RulePlan,
    /// the source of each of the plan's inputs; `None` for lookup tables
    pub sources: Vec<Option<SourceSpec>>,
    /// its sinks
    pub sinks: Vec<SinkAction>,
    /// errors are sent to the sinks
    pub send_error: bool,
    /// what it remembers over restarts
    pub keeps: Keeps,
}

impl RuleSpec {
    /// The names of the rule's streams with their sources.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &SourceSpec)> {
        let named = self.plan.inputs.iter().zip(&self.sources);
        named.filter_map(|(input, source)| Some((input.stream.name.as_str(), source.as_ref()?)))
    }
}

/// A lookup table to create.
pub struct TableSpec {
    /// its definition
    pub def: Arc<StreamDef>,
    /// where its rows come from
    pub source: SourceSpec,
}

/// One sink of a rule, with how it wants its results.
pub struct SinkAction {
    pub spec: SinkSpec,
    pub format: SinkFormat,
}

/// Why something could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// the system gives no thread
    #[error("cannot start a data thread: {0}")]
    Thread(#[from] std::io::Error),
    /// the id is taken
    #[error("rule {0} already exists")]
    Exists(String),
    /// the name is taken
    #[error("table {0} already exists")]
    TableExists(String),
    /// a rule looks up a table that was not created
    #[error("rule {rule}: lookup table {table} is not there")]
    NoTable {
        /// the rule
        rule: String,
        /// the table
        table: String,
    },
    /// the source of a table does not open
    #[error("table {table}: {error}")]
    Table {
        /// the table
        table: String,
        /// why
        error: Box<ConnectorError>,
    },
    /// a view cannot be served
    #[error("view {view}: {why}")]
    View {
        /// the view
        view: String,
        /// why
        why: String,
    },
    /// the process is about to end ([`EngineSettings::shutdown`])
    #[error("rule {0} is not started: the engine ends")]
    Ending(String),
    /// a source or sink does not open
    #[error("rule {rule}: {error}")]
    Connector {
        /// the rule
        rule: String,
        /// why
        error: Box<ConnectorError>,
    },
}

/// All that runs.
pub struct Engine {
    threads: Vec<DataThread>,
    connectors: Connectors,
    views: Arc<Views>,
    running: Mutex<Running>,
    gates: KeyedLock,
    slots: AtomicUsize,
    measured: measure::Last,
    /// set once a client has held the engine up for the flush limit while its input was ending
    stuck: AtomicBool,
    shutdown: CancellationToken,
    /// sinks and sources of rules that have ended, and still send what waits or say goodbye
    closings: TaskTracker,
    ledger: Arc<ending::Ledger>,
    control: Handle,
    hasher: RandomState,
}

#[derive(Default)]
struct Running {
    streams: HashMap<StreamId, RunningStream>,
    /// in no order, so that one of many is taken out at once
    rules: HashMap<String, RunningRule>,
    /// ids of rules that are about to be among them
    starting: HashSet<String>,
    /// in the order of their creation
    tables: indexmap::IndexMap<Text, RunningTable>,
}

struct RunningTable {
    /// of each data thread's copy: its slot and its source
    copies: Vec<(usize, Arc<OpenSource>)>,
    /// of the first copy: all get the same rows
    metrics: Arc<RuleMetrics>,
}

/// Which instance of a stream it is. A rule and its streams live on one thread; a stream that rules of two threads
/// read is opened on both.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct StreamId {
    name: Text,
    def: Definition,
    thread: usize,
    /// of a scan table: a number of its own for each start of its rule, with which its rows begin
    scan: Option<usize>,
}

/// Which definition a stream has: one that was replaced is another stream, though its rules may go on reading it.
#[derive(Clone, Debug)]
struct Definition(Arc<StreamDef>);

impl PartialEq for Definition {
    fn eq(&self, other: &Definition) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Definition {}

impl Hash for Definition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        Arc::as_ptr(&self.0).hash(state);
    }
}

struct RunningStream {
    key: StreamKey,
    /// wakes the stream's input: for its sockets, and for sinks that made it wait
    signal: Signal,
    /// `None` before it is opened and after the end of input
    source: Option<Arc<OpenSource>>,
    /// what opens the source once a rule reads the stream, since nothing of it may be missed
    pending: Option<(SourceSpec, FrameSender)>,
    /// what was read and not worked on
    backlog: Backlog,
    /// how the source stood when it was closed at the end of input
    ended: Option<LinkStatus>,
    /// rules that read it, those that are being started included
    rules: usize,
}

struct RunningRule {
    key: u64,
    /// each once
    streams: Vec<StreamId>,
    thread: usize,
    metrics: Arc<RuleMetrics>,
    /// whether it remembers anything
    stateful: bool,
    sinks: Vec<RunningSink>,
    /// which of its states is on disk; 0: the one that it began with
    kept: AtomicU64,
}

/// A sink of a rule. The next version of the rule takes it over if it wants the same sink, with all that waits in it.
#[derive(Clone)]
struct RunningSink {
    spec: SinkSpec,
    sink: Arc<OpenSink>,
}

impl Engine {
    /// Starts the data threads. To be called on the control plane's runtime.
    ///
    /// # Errors
    /// [`EngineError::Thread`]
    pub fn start(settings: EngineSettings) -> Result<Engine, EngineError> {
        let views = Arc::new(Views::default());
        tokio::spawn(views::tick(Arc::downgrade(&views)));
        let threads = (0..settings.workers.max(1))
            .map(|index| DataThread::start(index, settings.zone.clone(), Clock::System, views.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        let handles = threads.iter().map(|thread| thread.handle.clone()).collect();
        let connectors = Connectors::new(Websockets::with_views(settings.server, handles, views.clone()));
        Ok(Engine {
            threads,
            connectors,
            views,
            running: Mutex::default(),
            gates: KeyedLock::default(),
            slots: AtomicUsize::new(0),
            measured: measure::Last::default(),
            stuck: AtomicBool::new(false),
            shutdown: settings.shutdown,
            closings: TaskTracker::new(),
            ledger: Arc::default(),
            control: Handle::current(),
            hasher: RandomState::new(),
        })
    }

    /// Reads the files that statements name below these folders, instead of `data`.
    pub fn with_files(self, files: FileRoots) -> Engine {
        Engine { connectors: self.connectors.with_files(files), ..self }
    }

    /// Streams, tables and rules that begin from now on are in this zone.
    pub fn use_zone(&self, zone: &jiff::tz::TimeZone) {
        for thread in &self.threads {
            thread.command(Command::UseZone(zone.clone()));
        }
    }

    /// Returns the state of a rule as it is now; `None` where there is nothing to keep that is not kept. Its thread
    /// stands still while the state is written.
    pub async fn save_rule(&self, id: &str) -> Option<Result<Saved, CheckpointError>> {
        let (thread, key, kept) = {
            let running = self.running();
            let rule = running.rules.get(id)?;
            (rule.thread, rule.key, rule.kept.load(Ordering::Relaxed))
        };
        self.save_on(thread, key, kept).await
    }

    /// Notes that this state of a rule is on disk: it is not given again while it does not change.
    pub fn kept(&self, id: &str, saved: Mark) {
        if let Some(rule) = self.running().rules.get(id) {
            rule.kept.store(saved, Ordering::Relaxed);
        }
    }

    /// Handshakes of the data server that were refused, by cause.
    pub fn refused_handshakes(&self) -> Vec<(&'static str, u64)> {
        self.connectors.websockets.refused()
    }

    /// Websocket connections that ended out of order, by cause.
    pub fn disconnects(&self) -> Vec<(&'static str, u64)> {
        self.connectors.websockets.disconnects()
    }

    /// The hub of all websocket links, for those that no rule has.
    pub fn websockets(&self) -> Websockets {
        self.connectors.websockets.clone()
    }

    /// Shows a sink's results as server-sent events under a path of the data server; returns where that listens.
    ///
    /// # Errors
    /// [`ConnectError`] if it cannot listen.
    pub async fn publish_events(&self, path: &str, sink: Arc<EventSink>) -> Result<SocketAddr, ConnectError> {
        self.connectors.websockets.publish_events(path, sink).await
    }

    /// Ends the events of a sink.
    pub async fn end_events(&self, path: &str, sink: &Arc<EventSink>) {
        self.connectors.websockets.end_events(path, sink).await;
    }

    /// Where the data server listens, while it does.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.connectors.websockets.listening()
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        locked(&self.running)
    }

    /// Asks every worker and waits for all answers.
    async fn ask(&self, command: impl Fn(oneshot::Sender<()>) -> Command) {
        let answers: Vec<_> = self
            .threads
            .iter()
            .map(|thread| {
                let (done, answer) = oneshot::channel();
                thread.command(command(done));
                answer
            })
            .collect();
        futures_util::future::join_all(answers).await;
    }

    async fn save_on(&self, thread: usize, key: u64, since: Mark) -> StateAnswer {
        let (done, saved) = oneshot::channel();
        self.threads[thread].command(Command::SaveRule { key, since, done });
        saved.await.ok().flatten()
    }

    fn slot(&self) -> usize {
        self.slots.fetch_add(1, Ordering::Relaxed)
    }
}

impl Running {
    /// One reader less for each of these streams. Returns those that no rule reads any more: nobody finds them from now
    /// on, and a rule that reads one of them next opens it anew.
    fn leave(&mut self, streams: &[StreamId]) -> Vec<(StreamId, RunningStream)> {
        let leave = |id: &StreamId| {
            let stream = self.streams.get_mut(id)?;
            stream.rules = stream.rules.saturating_sub(1);
            if stream.rules == 0 { self.streams.remove_entry(id) } else { None }
        };
        streams.iter().filter_map(leave).collect()
    }
}
