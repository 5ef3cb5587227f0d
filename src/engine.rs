//! The engine: the control plane's side of the data threads.
//!
//! The engine opens connectors, sends plans to workers and reads counters. It opens a stream with the first rule that
//! reads it and closes it after the last. `opening` starts a rule, `together` starts several rules as one, `replacing`
//! replaces a running rule by a new version without a gap, `stopping` ends a rule, and `ending` ends all of them. The
//! engine knows neither files nor REST.
//!
//! One lock guards everything that runs. It is held for single steps and never across an await, so that a status
//! request never waits for a peer or a disk. A lock by name (`locks`) keeps two rules from opening the same stream at
//! once.

mod clock;
mod cluster;
mod ending;
mod homes;
mod measure;
mod memory;
mod opening;
mod replacing;
mod running;
mod status;
mod stopping;
mod tables;
mod together;
mod views;

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::cluster::Processes;
use crate::cluster::Part;
use crate::dataflow::cluster::Traffic;
use crate::dataflow::command::{Command, StreamKey};
use crate::dataflow::division::Division;
use crate::dataflow::worker::DataThread;
use crate::definition::stream::StreamDef;
use crate::format::sink_format::SinkFormat;
use crate::io::LinkStatus;
use crate::io::connector::{ConnectorError, Connectors, SinkSpec, SourceSpec};
use crate::io::egress::Egress;
use crate::io::events::EventSink;
use crate::io::queue::{Backlog, Signal};
use crate::io::reach::FileRoots;
use crate::io::sink::OpenSink;
use crate::io::source::OpenSource;
use crate::io::websocket::{ConnectError, ServerSettings, TurnedAway, Websockets};
use crate::metrics::RuleMetrics;
use crate::plan::physical::RulePlan;
use crate::plan::spread::Spread;
use crate::plan::view::Connected;
use crate::sync::{KeyedLock, Shared, locked};
use crate::time::Clock;
use crate::value::Text;
use crate::view::Views;
use homes::{Home, Homes};
use running::{Place, RuleThreads, joined};

pub use self::ending::{Ended, Totals};
pub use self::measure::{Measured, Waiting};
pub use self::memory::{PATROL, Relieved};
pub use self::opening::{PreparedRule, RuleHome};
pub use self::replacing::Replaced;
pub use self::status::{LastStatus, NotRecorded, NotTapped, RuleStatus, TableStatus};
pub use self::stopping::Stopped;
pub use self::tables::NotShown;
pub use self::together::Together;
pub use self::views::{view_id, view_of};
pub use crate::dataflow::command::{Keeps, Mark, Saved, StateAnswer};
pub use crate::dataflow::row::ScannedRow;
pub use crate::dataflow::state::checkpoint::CheckpointError;
pub use crate::dataflow::state::measure::{StateSize, TableSize};

/// How long a closed sink may continue to send what its clients have not received. No caller waits for it.
const FLUSH: Duration = Duration::from_secs(5);

/// How long a rule that ends or is replaced may take to process what its sources have read. Only a client with
/// `slowClient: block` that reads nothing makes it take this long.
const SETTLE: Duration = Duration::from_secs(1);

/// Settings of an engine.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    pub workers: usize,
    pub server: ServerSettings,
    /// The time zone of windows and dates.
    pub zone: jiff::tz::TimeZone,
    /// Cancelled when the process is about to end: no rule starts after that.
    pub shutdown: CancellationToken,
}

/// A rule to run.
pub struct RuleSpec {
    pub id: String,
    pub plan: RulePlan,
    /// The source of each input of the plan; `None` for lookup tables and views.
    pub sources: Vec<Option<SourceSpec>>,
    pub sinks: Vec<SinkAction>,
    /// Errors of rows are sent to the sinks.
    pub send_error: bool,
    /// What survives restarts.
    pub keeps: Keeps,
    /// other views that must share a data thread with the rule, besides those that it reads
    pub connected: Connected,
}

impl RuleSpec {
    /// The rule's streams with their sources.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &SourceSpec)> {
        let named = self.plan.inputs.iter().zip(&self.sources);
        named.filter_map(|(input, source)| Some((input.stream.name.as_str(), source.as_ref()?)))
    }
}

/// A lookup table to create.
pub struct TableSpec {
    pub def: Arc<StreamDef>,
    pub source: SourceSpec,
}

/// One sink of a rule, with the format of its messages. Equal sinks of many rules share their settings.
#[derive(Clone)]
pub struct SinkAction {
    pub spec: SinkSpec,
    pub format: Arc<SinkFormat>,
    /// It gets failed messages, and no results.
    pub dead_letter: bool,
}

/// Why something could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("cannot start a data thread: {0}")]
    Thread(#[from] std::io::Error),
    #[error("rule {0} already exists")]
    Exists(String),
    #[error("table {0} already exists")]
    TableExists(String),
    #[error("rule {rule}: lookup table {table} does not exist")]
    NoTable { rule: String, table: String },
    #[error("rule {rule}: view {view} does not exist")]
    NoView { rule: String, view: String },
    #[error("rule {rule}: the views that it reads are on different data threads")]
    Apart { rule: String },
    /// The source of a table cannot be opened.
    #[error("table {table}: {error}")]
    Table { table: String, error: Box<ConnectorError> },
    #[error("{what} is not possible with several processes (--hosts)")]
    Alone { what: String },
    #[error("view {view}: {why}")]
    View { view: String, why: String },
    /// The process is about to end ([`EngineSettings::shutdown`]).
    #[error("rule {0} is not started: the engine is shutting down")]
    Ending(String),
    #[error("rule {rule}: {error}")]
    Connector { rule: String, error: Box<ConnectorError> },
}

/// Runs rules, tables and views on data threads.
pub struct Engine {
    threads: Vec<DataThread>,
    /// Messages between data threads.
    traffic: Traffic,
    connectors: Connectors,
    views: Arc<Views>,
    running: Mutex<Running>,
    locks: KeyedLock,
    starts: together::Starts,
    slots: AtomicUsize,
    homes: Homes,
    /// The lists of streams of the running rules.
    lists: Shared<Vec<StreamId>>,
    measured: measure::Last,
    sizes: Mutex<memory::Sizes>,
    /// Set if a client has held up the engine for the flush limit at the end of input.
    stuck: AtomicBool,
    shutdown: CancellationToken,
    /// Sinks and sources of ended rules that are still sending or closing.
    closings: TaskTracker,
    ledger: Arc<ending::Ledger>,
    control: Handle,
    clock: Clock,
    /// The processes of the cluster; a single one without a cluster.
    processes: Processes,
}

#[derive(Default)]
struct Running {
    streams: HashMap<StreamId, RunningStream>,
    /// Unordered, so that removal is cheap.
    rules: HashMap<String, Box<RunningRule>>,
    /// Ids of rules that are starting.
    starting: HashSet<String>,
    /// In the order of creation.
    tables: indexmap::IndexMap<Text, RunningTable>,
}

struct RunningTable {
    /// Slot and source of the copy on each data thread.
    copies: Vec<(usize, Arc<dyn OpenSource>)>,
    /// The metrics of the first copy: all copies get the same rows.
    metrics: Arc<RuleMetrics>,
    /// Whether it was emptied because memory was short; then it takes no more rows.
    emptied: bool,
}

/// An instance of a stream. A stream that is read in different places is opened in each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct StreamId {
    name: Text,
    def: Definition,
    place: Place,
    /// scan tables: a number for each start of the rule, so that each start reads the table's rows from the beginning
    scan: Option<usize>,
}

/// The definition of a stream, compared by identity: a replaced definition makes another stream, even while rules still
/// read the old one.
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
    /// The same on all threads.
    key: StreamKey,
    /// One for each thread that reads the stream.
    parts: Vec<StreamPart>,
    /// `None` after the end of input, and if another process reads the stream.
    source: Option<Arc<dyn OpenSource>>,
    /// The status of the source when it was closed at the end of input.
    ended: Option<LinkStatus>,
    /// The number of rules that read it, including those that are starting.
    rules: usize,
}

/// A stream on one thread.
struct StreamPart {
    thread: usize,
    /// Wakes the input, for its sockets and for sinks that made it wait.
    signal: Signal,
    /// What was read and not yet processed.
    backlog: Backlog,
}

impl RunningStream {
    /// What was read and not yet processed, on all threads.
    fn backlog(&self) -> Backlog {
        Backlog::sum(self.parts.iter().map(|part| part.backlog.clone()))
    }
}

struct RunningRule {
    key: u64,
    /// Without repetition. Rules that read the same streams share the list.
    streams: Arc<Vec<StreamId>>,
    threads: RuleThreads,
    spread: Spread,
    metrics: Arc<RuleMetrics>,
    /// Where its state is, if it has any.
    home: Option<Home>,
    /// How its state is divided among the threads of this process, if it is.
    division: Option<Division>,
    sinks: Vec<RunningSink>,
    /// Whether it keeps its state (`qos`).
    keeps_state: bool,
    /// The number of the state that is on disk; 0: the initial one.
    kept: AtomicU64,
}

/// Where the state of a rule is, and which state is on disk.
struct StatePlace {
    key: u64,
    threads: Vec<usize>,
    kept: Mark,
}

impl RunningRule {
    /// Whether its home has the windows of a state that is divided by key.
    fn has_windows_apart(&self) -> bool {
        self.division.as_ref().is_some_and(|division| division.home().is_some())
    }

    fn state_place(&self) -> StatePlace {
        let threads = match &self.division {
            // Its owners are the threads of this process alone.
            Some(division) => {
                let first = self.threads.process * self.threads.readers.all();
                division.owners().iter().map(|worker| worker - first).collect()
            }
            None => vec![self.threads.home],
        };
        StatePlace { key: self.key, threads, kept: self.kept.load(Ordering::Relaxed) }
    }
}

/// A sink of a rule. The rule's next version takes it over with its queues if it has the same sink.
#[derive(Clone)]
struct RunningSink {
    spec: SinkSpec,
    sink: Arc<dyn OpenSink>,
}

impl Engine {
    /// Starts the data threads. Must be called on the control plane's runtime.
    ///
    /// # Errors
    /// [`EngineError::Thread`]
    pub fn start(settings: EngineSettings) -> Result<Engine, EngineError> {
        Engine::start_in(settings, Clock::System, None)
    }

    /// As [`Engine::start`], with this clock. [`Engine::move_clock`] moves a manual one.
    ///
    /// # Errors
    /// [`EngineError::Thread`]
    pub fn start_at(settings: EngineSettings, clock: Clock) -> Result<Engine, EngineError> {
        Engine::start_in(settings, clock, None)
    }

    /// As [`Engine::start`], as one process of a cluster.
    ///
    /// # Errors
    /// [`EngineError::Thread`]
    pub fn start_in_cluster(settings: EngineSettings, part: Part) -> Result<Engine, EngineError> {
        Engine::start_in(settings, Clock::System, Some(part))
    }

    fn start_in(settings: EngineSettings, clock: Clock, mut part: Option<Part>) -> Result<Engine, EngineError> {
        let views = Arc::new(
            Views::new(clock.clone()).sparing(|| crate::memory::pressure() >= crate::memory::Pressure::Clients),
        );
        tokio::spawn(views::tick(Arc::downgrade(&views)));
        let (workers, traffic) = (settings.workers.max(1), Traffic::default());
        let processes = part.as_ref().map_or_else(Processes::alone, Processes::of);
        let clients = part.as_mut().and_then(|part| part.clients.take());
        let threads = DataThread::start_all(workers, &settings.zone, &clock, &views, &traffic, part)?;
        let handles = threads.iter().map(|thread| thread.handle.clone()).collect();
        let websockets = Websockets::with_views(settings.server, handles, views.clone());
        clients.into_iter().for_each(|clients| views::lead_clients(&websockets, clients));
        let connectors = Connectors::new(websockets);
        Ok(Engine {
            homes: Homes::new(threads.len()),
            lists: Shared::default(),
            threads,
            traffic,
            connectors,
            views,
            running: Mutex::default(),
            locks: KeyedLock::default(),
            starts: together::Starts::default(),
            slots: AtomicUsize::new(0),
            measured: measure::Last::default(),
            sizes: Mutex::default(),
            stuck: AtomicBool::new(false),
            shutdown: settings.shutdown,
            closings: TaskTracker::new(),
            ledger: Arc::default(),
            control: Handle::current(),
            clock,
            processes,
        })
    }

    /// Reads files that statements name from these folders instead of `data`.
    pub fn with_files(self, files: FileRoots) -> Engine {
        Engine { connectors: self.connectors.with_files(files), ..self }
    }

    /// Lets sinks send requests to these addresses, instead of public ones only.
    pub fn with_egress(self, egress: Egress) -> Engine {
        Engine { connectors: self.connectors.with_egress(egress), ..self }
    }

    /// Sets the time zone of streams, tables and rules that start from now on.
    pub fn use_zone(&self, zone: &jiff::tz::TimeZone) {
        for thread in &self.threads {
            thread.command(Command::UseZone(zone.clone()));
        }
    }

    /// Returns the current state of a rule; `None` if it has no state, or if the state has not changed since it was
    /// last stored. The rule's thread pauses while it writes the state.
    pub async fn save_rule(&self, id: &str) -> Option<Result<Saved, CheckpointError>> {
        let place = {
            let running = self.running();
            let rule = running.rules.get(id)?;
            rule.state_place()
        };
        self.save(place).await
    }

    /// Records that this state is on disk, so that it is returned again only after a change.
    pub fn kept(&self, id: &str, saved: Mark) {
        if let Some(rule) = self.running().rules.get(id) {
            rule.kept.store(saved, Ordering::Relaxed);
        }
    }

    /// Refused handshakes of the data server, by cause.
    pub fn refused_handshakes(&self) -> Vec<(&'static str, u64)> {
        self.connectors.websockets.refused()
    }

    /// The last clients that the data server refused, with the paths that they requested.
    pub fn turned_away(&self) -> Vec<TurnedAway> {
        self.connectors.websockets.turned_away()
    }

    /// Websocket connections that did not close cleanly, by cause.
    pub fn disconnects(&self) -> Vec<(&'static str, u64)> {
        self.connectors.websockets.disconnects()
    }

    /// Bytes of large websocket messages that are not complete yet.
    pub fn unfinished_bytes(&self) -> usize {
        self.connectors.websockets.unfinished_bytes()
    }

    /// The hub of all websocket links.
    pub fn websockets(&self) -> Websockets {
        self.connectors.websockets.clone()
    }

    /// Publishes a sink's results as server-sent events under a path of the data server. Returns the server's address.
    ///
    /// # Errors
    /// [`ConnectError`] if it cannot listen.
    pub async fn publish_events(&self, path: &str, sink: Arc<EventSink>) -> Result<SocketAddr, ConnectError> {
        self.connectors.websockets.publish_events(path, sink).await
    }

    /// Stops publishing the server-sent events of a sink.
    pub async fn end_events(&self, path: &str, sink: &Arc<EventSink>) {
        self.connectors.websockets.end_events(path, sink).await;
    }

    /// The address of the data server, while it listens.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.connectors.websockets.listening()
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        locked(&self.running)
    }

    /// Sends a command to every worker and waits for all answers.
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

    /// The state at a place, unless it is on disk.
    async fn save(&self, place: StatePlace) -> StateAnswer {
        let StatePlace { key, threads, kept } = place;
        if let [home] = threads[..] {
            return self.save_on(home, key, kept).await;
        }
        // A part that has not changed is needed if another one has.
        let parts = threads.into_iter().map(|thread| self.save_on(thread, key, Mark::MAX));
        let saved = joined(futures_util::future::join_all(parts).await)?;
        (!matches!(&saved, Ok(saved) if saved.mark == kept)).then_some(saved)
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
    /// Removes one reader from each of these streams and returns the streams that have none left. These are no longer
    /// found: the next rule that reads one opens it again.
    fn leave(&mut self, streams: &[StreamId]) -> Vec<(StreamId, RunningStream)> {
        let leave = |id: &StreamId| {
            let stream = self.streams.get_mut(id)?;
            stream.rules = stream.rules.saturating_sub(1);
            if stream.rules == 0 { self.streams.remove_entry(id) } else { None }
        };
        streams.iter().filter_map(leave).collect()
    }
}
