//! Rules, running: the control plane's side of the data threads.
//!
//! The engine opens connectors, hands plans to workers and reads counters. A stream is opened with the first rule that
//! reads it and closed after the last. A rule begins when its sinks are open, and only then its sources hand messages
//! over. Websocket sources are opened first all the same, and wait: a sink may share their connection, and what comes on
//! it belongs to the stream.

mod ending;
mod measure;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::future::maybe_done;
use tokio::sync::{Mutex, oneshot, watch};

use crate::dataflow::command::{Command, Mark, NewRule, StateAnswer, StreamKey};
use crate::dataflow::output::Encoding;
use crate::dataflow::worker::DataThread;
use crate::definition::stream::StreamDef;
use crate::format::sink_format::SinkFormat;
use crate::io::connector::{ConnectorError, Connectors, OpenSink, OpenSource, SinkSpec, SourceSpec};
use crate::io::events::EventSink;
use crate::io::queue::{self, Backlog, Signal, WayOut};
use crate::io::reach::FileRoots;
use crate::io::websocket::{ConnectError, ServerSettings, Websockets};
use crate::io::{LinkStatus, UNSENT, loss};
use crate::metrics::{FeedCounts, Latency, RuleMetrics, Work};
use crate::plan::physical::{Body, Role, RulePlan};
use crate::sync::KeyedLock;
use crate::time::Clock;
use crate::value::Text;

pub use self::measure::{Measured, Waiting};
pub use crate::dataflow::command::{Keeps, Saved};
pub use crate::dataflow::state::checkpoint::CheckpointError;
pub use crate::dataflow::state::measure::{StateSize, TableSize};

/// How long sinks may take to send what waits when a rule ends.
const FLUSH: Duration = Duration::from_secs(5);

/// What an engine is started with.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// data threads
    pub workers: usize,
    /// the data server
    pub server: ServerSettings,
    /// the zone of windows and of dates
    pub zone: jiff::tz::TimeZone,
}

/// A rule to run.
pub struct RuleSpec {
    /// its id
    pub id: String,
    /// what runs
    pub plan: RulePlan,
    /// the source of each of the plan's inputs; none for lookup tables
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

/// How a lookup table stands.
#[derive(Clone, Debug)]
pub struct TableStatus {
    /// its name
    pub name: String,
    /// rows that came
    pub rows_in: u64,
    /// rows that could not be taken
    pub errors: u64,
    /// the last error
    pub last_error: Option<(SystemTime, String)>,
    /// its source
    pub source: LinkStatus,
}

/// One sink of a rule, with how it wants its results.
pub struct SinkAction {
    /// where to
    pub spec: SinkSpec,
    /// what its messages are like
    pub shape: SinkFormat,
}

/// Why something could not be started.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// threads
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
    /// the engine was told to end ([`Engine::refuse_rules`])
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

/// How a rule stands.
#[derive(Clone, Debug)]
pub struct RuleStatus {
    /// its id
    pub id: String,
    /// rows that its stream brought
    pub rows_in: u64,
    /// messages handed to its sinks
    pub rows_out: u64,
    /// rows and messages lost to errors
    pub errors: u64,
    /// messages that sinks dropped
    pub dropped: u64,
    /// rows behind the watermark
    pub late: u64,
    /// rows too far ahead of the clock
    pub future: u64,
    /// what its streams have noticed about their feeds
    pub feed: FeedCounts,
    /// up to where all rows of a rule in event time are there, ms since the epoch; `None` before the first
    pub watermark: Option<i64>,
    /// the last error
    pub last_error: Option<(SystemTime, String)>,
    /// what its operators have done
    pub work: Work,
    /// from socket to sink
    pub latency: Option<Latency>,
    /// its sources, with the names of their streams
    pub sources: Vec<(String, LinkStatus)>,
    /// its sinks
    pub sinks: Vec<LinkStatus>,
}

/// All that runs.
pub struct Engine {
    threads: Vec<DataThread>,
    connectors: Connectors,
    /// held for single steps, so that nobody who asks how things stand waits for a peer
    running: Mutex<Running>,
    gates: KeyedLock,
    slots: AtomicUsize,
    measured: measure::Last,
    /// a client has held the engine up for the flush limit while its input was ending
    stuck: AtomicBool,
    /// no rule is to start any more
    ending: watch::Sender<bool>,
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
    copies: Vec<(usize, OpenSource)>,
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
    /// of a scan table: its rule, for which its rows begin with the rule's start
    rule: Option<String>,
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
    source: Option<OpenSource>,
    /// what was read and not worked on
    backlog: Backlog,
    /// how the source stood when it was closed at the end of input
    ended: Option<LinkStatus>,
    rules: usize,
}

/// A stream on its way.
struct Opening {
    id: StreamId,
    key: StreamKey,
    signal: Signal,
    spec: SourceSpec,
    source: Option<OpenSource>,
}

struct RunningRule {
    key: u64,
    streams: Vec<StreamId>,
    thread: usize,
    metrics: Arc<RuleMetrics>,
    /// whether it remembers anything
    stateful: bool,
    sinks: Vec<OpenSink>,
    /// which of its states is kept; 0: the one that it began with
    kept: AtomicU64,
}

impl Engine {
    /// Starts the data threads. To be called on the control plane's runtime.
    ///
    /// # Errors
    /// [`EngineError::Thread`]
    pub fn start(settings: EngineSettings) -> Result<Engine, EngineError> {
        let threads = (0..settings.workers.max(1))
            .map(|index| DataThread::start(index, settings.zone.clone(), Clock::System))
            .collect::<Result<Vec<_>, _>>()?;
        let handles = threads.iter().map(|thread| thread.handle.clone()).collect();
        let connectors = Connectors::new(Websockets::new(settings.server, handles));
        Ok(Engine {
            threads,
            connectors,
            running: Mutex::default(),
            gates: KeyedLock::default(),
            slots: AtomicUsize::new(0),
            measured: measure::Last::default(),
            stuck: AtomicBool::new(false),
            ending: watch::Sender::new(false),
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

    /// No rule starts any more, nor a rule that is just waiting for its sinks: what it has opened is closed.
    pub fn refuse_rules(&self) {
        self.ending.send_replace(true);
    }

    /// Starts a rule. When this returns, its sinks are open and its stream takes messages.
    ///
    /// # Errors
    /// [`EngineError`]; nothing of the rule is left then.
    pub async fn start_rule(&self, rule: RuleSpec) -> Result<(), EngineError> {
        if *self.ending.borrow() {
            return Err(EngineError::Ending(rule.id));
        }
        let id = rule.id.clone();
        {
            let mut running = self.running.lock().await;
            if running.rules.contains_key(&id) || !running.starting.insert(id.clone()) {
                return Err(EngineError::Exists(id));
            }
        }
        let gates = self.gates.pass(rule.plan.inputs.iter().map(|input| &input.stream.name)).await;
        let opened = self.open_rule(rule).await;
        drop(gates);
        let mut running = self.running.lock().await;
        running.starting.remove(&id);
        running.rules.insert(id, opened?);
        Ok(())
    }

    /// Opens what a rule needs and hands it to its worker. The gates of its streams are the caller's.
    async fn open_rule(&self, rule: RuleSpec) -> Result<RunningRule, EngineError> {
        let running = self.running.lock().await;
        for input in rule.plan.inputs.iter().filter(|input| input.role == Role::Lookup) {
            if !running.tables.contains_key(&input.stream.name) {
                return Err(EngineError::NoTable { rule: rule.id, table: input.stream.name.to_string() });
            }
        }
        let thread = self.thread_of(&running, &rule.plan);
        let mut streams = Vec::new();
        // One signal for all that wakes a stream: its input lowers that one.
        let mut openings: Vec<Opening> = Vec::new();
        let mut signals = Vec::new();
        let mut keys = Vec::with_capacity(rule.sources.len());
        for (input, source) in rule.plan.inputs.iter().zip(rule.sources) {
            let Some(source) = source else {
                keys.push(None);
                continue;
            };
            let of_rule = matches!(input.role, Role::Table { .. }).then(|| rule.id.clone());
            let def = Definition(input.stream.clone());
            let id = StreamId { name: input.stream.name.clone(), def, thread, rule: of_rule };
            let known = running.streams.get(&id).map(|stream| (stream.key, stream.signal.clone()));
            let fresh = || openings.iter().find(|new| new.id == id).map(|new| (new.key, new.signal.clone()));
            let known = known.or_else(fresh);
            let (key, signal) = known.unwrap_or_else(|| {
                let key = self.slot();
                let signal = self.threads[thread].signal(key);
                openings.push(Opening { id: id.clone(), key, signal: signal.clone(), spec: source, source: None });
                (key, signal)
            });
            keys.push(Some(key));
            signals.push(signal);
            streams.push(id);
        }
        drop(running);
        let signal = signals.remove(0).with(signals);
        let worker = &self.threads[thread];
        let failed = |error| EngineError::Connector { rule: rule.id.clone(), error: Box::new(error) };

        // Tables first: their rows shall be there for the first rows of streams.
        openings.sort_by_key(|opening| opening.id.rule.is_none());
        let stateful = matches!(rule.plan.body, Body::Stateful(_));
        let mut senders = Vec::with_capacity(openings.len());
        let mut backlogs = Vec::with_capacity(openings.len());
        let mut receivers = Vec::with_capacity(openings.len());
        for opening in &openings {
            let (sender, receiver) = queue::inbound(opening.signal.clone());
            backlogs.push(sender.backlog());
            senders.push(sender);
            receivers.push(receiver);
        }
        let mut failure = None;
        for (opening, frames) in openings.iter_mut().zip(&senders) {
            if failure.is_none() && matches!(opening.spec, SourceSpec::Websocket(_)) {
                match self.connectors.open_source(opening.spec.clone(), thread, frames.clone()).await {
                    Ok(source) => opening.source = Some(source),
                    Err(error) => failure = Some(failed(error)),
                }
            }
        }

        let mut sinks = Vec::with_capacity(rule.sinks.len());
        let mut encodings: Vec<Encoding> = Vec::new();
        let mut ending = self.ending.subscribe();
        for action in rule.sinks {
            if failure.is_some() {
                break;
            }
            let sink = tokio::select! {
                biased;
                _ = ending.wait_for(|ending| *ending) => {
                    failure = Some(EngineError::Ending(rule.id.clone()));
                    break;
                }
                opened = self.connectors.open_sink(action.spec, thread, signal.clone()) => match opened {
                    Ok(sink) => sink,
                    Err(error) => {
                        failure = Some(failed(error));
                        break;
                    }
                },
            };
            let outlet = sink.outlet();
            let shape = match &outlet {
                WayOut::Messages(_) => action.shape.clone(),
                WayOut::Rows(_) => action.shape.of_rows(),
            };
            let index = encodings.iter().position(|known| *known.format == shape).unwrap_or_else(|| {
                encodings.push(Encoding { format: Arc::new(shape), outlets: Vec::new(), rows: Vec::new() });
                encodings.len() - 1
            });
            match outlet {
                WayOut::Messages(outlet) => encodings[index].outlets.push(outlet),
                WayOut::Rows(outlet) => encodings[index].rows.push(outlet),
            }
            sinks.push(sink);
        }
        if let Some(failure) = failure {
            // Nobody takes what the sources have: they do not wait for it.
            drop(receivers);
            close_opened(openings, sinks).await;
            return Err(failure);
        }

        for (opening, frames) in openings.iter().zip(receivers) {
            let def = opening.id.def.0.clone();
            worker.command(Command::AddStream { key: opening.key, schema: def.schema(), frames });
        }
        let key = self.slot() as u64;
        let metrics = Arc::new(RuleMetrics::default());
        let (done, begun) = oneshot::channel();
        worker.command(Command::AddRule(Box::new(NewRule {
            key,
            streams: keys,
            slot: self.slot(),
            plan: rule.plan,
            id: rule.id.clone(),
            encodings,
            send_error: rule.send_error,
            metrics: metrics.clone(),
            keeps: rule.keeps,
            done,
        })));
        let _ = begun.await;

        let mut failure = None;
        for (opening, frames) in openings.iter_mut().zip(senders) {
            if failure.is_none() && opening.source.is_none() {
                match self.connectors.open_source(opening.spec.clone(), thread, frames).await {
                    Ok(source) => opening.source = Some(source),
                    Err(error) => failure = Some(failed(error)),
                }
            }
        }
        if let Some(failure) = failure {
            self.drop_on(thread, key, None).await;
            openings.iter().for_each(|opening| worker.command(Command::DropStream(opening.key)));
            close_opened(openings, sinks).await;
            return Err(failure);
        }
        let mut running = self.running.lock().await;
        for (Opening { id, key, signal, source, .. }, backlog) in openings.into_iter().zip(backlogs) {
            source.iter().for_each(OpenSource::begin);
            running.streams.insert(id, RunningStream { key, signal, source, backlog, ended: None, rules: 0 });
        }
        for id in &streams {
            if let Some(stream) = running.streams.get_mut(id) {
                stream.rules += 1;
            }
        }
        Ok(RunningRule { key, streams, thread, metrics, stateful, sinks, kept: AtomicU64::new(0) })
    }

    /// Ends a rule; true if there was one. What its sinks hold is sent, what its windows hold is forgotten.
    pub async fn stop_rule(&self, id: &str) -> bool {
        let rule = self.running.lock().await.rules.remove(id);
        match rule {
            Some(rule) => {
                self.end_rule(id, rule, false).await;
                true
            }
            None => false,
        }
    }

    /// Ends a rule and gives its last state; `None` where there is nothing to keep that is not kept.
    pub async fn stop_and_save_rule(&self, id: &str) -> Option<Result<Saved, CheckpointError>> {
        let rule = self.running.lock().await.rules.remove(id)?;
        self.end_rule(id, rule, true).await
    }

    /// The state of a rule as it is now; `None` where there is nothing to keep that is not kept. Its thread stands still
    /// while the state is written.
    pub async fn save_rule(&self, id: &str) -> Option<Result<Saved, CheckpointError>> {
        let (thread, key, kept) = {
            let running = self.running.lock().await;
            let rule = running.rules.get(id)?;
            (rule.thread, rule.key, rule.kept.load(Ordering::Relaxed))
        };
        self.save_on(thread, key, kept).await
    }

    /// This state of a rule is kept: it is not given again while it does not change.
    pub async fn kept(&self, id: &str, saved: Mark) {
        if let Some(rule) = self.running.lock().await.rules.get(id) {
            rule.kept.store(saved, Ordering::Relaxed);
        }
    }

    async fn end_rule(&self, id: &str, rule: RunningRule, save: bool) -> StateAnswer {
        let gates = self.gates.pass(rule.streams.iter().map(|stream| &stream.name)).await;
        let save = save.then(|| rule.kept.load(Ordering::Relaxed));
        let saved = self.drop_on(rule.thread, rule.key, save).await;
        // A sink of this rule may have made its streams wait: nobody else would wake them before it is closed.
        {
            let running = self.running.lock().await;
            rule.streams.iter().filter_map(|id| running.streams.get(id)).for_each(|stream| stream.signal.raise());
        }
        self.leave_streams(&rule.streams).await;
        // Neither other rules nor those who ask how they stand wait for this rule's clients.
        drop(gates);
        let ends = rule.sinks.iter().map(|sink| sink.close(FLUSH));
        futures_util::future::join_all(ends).await;
        for sink in &rule.sinks {
            let LinkStatus { address, dropped, .. } = sink.status();
            if let Some((cause, count)) = dropped.iter().find(|(cause, _)| *cause == UNSENT) {
                tracing::warn!(rule = id, sink = address, "{}", loss(cause, *count));
            }
        }
        saved
    }

    /// Creates a lookup table: each data thread gets a copy. It takes rows from now on, and keeps them whatever rules
    /// start and stop.
    ///
    /// # Errors
    /// [`EngineError`]; nothing of the table is left then.
    pub async fn create_table(&self, table: TableSpec) -> Result<(), EngineError> {
        let mut running = self.running.lock().await;
        let name = table.def.name.clone();
        if running.tables.contains_key(&name) {
            return Err(EngineError::TableExists(name.to_string()));
        }
        let mut copies = Vec::with_capacity(self.threads.len());
        let mut first = None;
        for (thread, worker) in self.threads.iter().enumerate() {
            let slot = self.slot();
            let (sender, frames) = queue::inbound(worker.signal(slot));
            let metrics = Arc::new(RuleMetrics::default());
            first.get_or_insert_with(|| metrics.clone());
            worker.command(Command::AddTable { slot, schema: table.def.schema(), frames, metrics });
            match self.connectors.open_source(table.source.clone(), thread, sender).await {
                Ok(source) => {
                    source.begin();
                    copies.push((slot, source));
                }
                Err(error) => {
                    worker.command(Command::DropTable { slot, name: name.clone() });
                    self.drop_copies(&name, copies).await;
                    return Err(EngineError::Table { table: name.to_string(), error: Box::new(error) });
                }
            }
        }
        running.tables.insert(name, RunningTable { copies, metrics: first.unwrap_or_default() });
        Ok(())
    }

    /// Ends a lookup table; true if there was one. Rules that read it go on with its last rows.
    pub async fn drop_table(&self, name: &str) -> bool {
        let mut running = self.running.lock().await;
        let Some(table) = running.tables.shift_remove(name) else { return false };
        self.drop_copies(name, table.copies).await;
        true
    }

    /// How every lookup table stands, in the order of their creation.
    pub async fn tables(&self) -> Vec<TableStatus> {
        let running = self.running.lock().await;
        let status = |(name, table): (&Text, &RunningTable)| {
            let (_, source) = table.copies.first()?;
            Some(TableStatus {
                name: name.to_string(),
                rows_in: table.metrics.rows_in(),
                errors: table.metrics.errors(),
                last_error: table.metrics.last_error(),
                source: source.status(),
            })
        };
        running.tables.iter().filter_map(status).collect()
    }

    /// Ends the copies of a table on the first threads.
    async fn drop_copies(&self, name: &str, copies: Vec<(usize, OpenSource)>) {
        for (worker, (slot, source)) in self.threads.iter().zip(copies) {
            source.close().await;
            worker.command(Command::DropTable { slot, name: name.into() });
        }
    }

    /// The thread for a rule: where one of its streams is already, else one by the first stream's name.
    fn thread_of(&self, running: &Running, plan: &RulePlan) -> usize {
        let name = &plan.stream().name;
        let known = running.streams.keys().find(|id| id.name == *name && id.rule.is_none());
        known.map_or_else(|| (self.hasher.hash_one(name) % self.threads.len() as u64) as usize, |id| id.thread)
    }

    /// One reader less for each of these; closes the streams that no rule reads any more.
    async fn leave_streams(&self, streams: &[StreamId]) {
        for id in streams {
            let left = {
                let mut running = self.running.lock().await;
                let Some(stream) = running.streams.get_mut(id) else { continue };
                stream.rules = stream.rules.saturating_sub(1);
                if stream.rules > 0 {
                    continue;
                }
                running.streams.remove(id)
            };
            if let Some(mut stream) = left {
                let mut closing = pin!(maybe_done(async {
                    if let Some(source) = stream.source.take() {
                        source.close().await;
                    }
                }));
                // What was read is taken before the stream goes, but not for ever: others may hold its sockets up.
                let handed_over = tokio::time::timeout(FLUSH, closing.as_mut()).await.is_ok();
                self.threads[id.thread].command(Command::DropStream(stream.key));
                if !handed_over {
                    let _ = tokio::time::timeout(FLUSH, closing).await;
                }
            }
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

    /// Shows a sink's results as server-sent events under a path of the data server; gives where that listens.
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

    /// How every rule stands, in the order of their start.
    pub async fn status(&self) -> Vec<RuleStatus> {
        let running = self.running.lock().await;
        let mut rules: Vec<(&String, &RunningRule)> = running.rules.iter().collect();
        rules.sort_unstable_by_key(|(_, rule)| rule.key);
        rules.into_iter().map(|(id, rule)| rule.status(id, running.sources(rule))).collect()
    }

    /// How one rule stands; `None` if it does not run.
    pub async fn rule_status(&self, id: &str) -> Option<RuleStatus> {
        let running = self.running.lock().await;
        running.rules.get(id).map(|rule| rule.status(id, running.sources(rule)))
    }

    /// The rules whose code has failed: they get no more rows, and wait to be stopped.
    pub async fn failed(&self) -> Vec<String> {
        let running = self.running.lock().await;
        running.rules.iter().filter(|(_, rule)| rule.metrics.has_failed()).map(|(id, _)| id.clone()).collect()
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

    /// Takes a rule off its thread, and gives its state if it is not that of the mark.
    async fn drop_on(&self, thread: usize, key: u64, save: Option<Mark>) -> StateAnswer {
        let (done, gone) = oneshot::channel();
        self.threads[thread].command(Command::DropRule { key, save, done });
        gone.await.ok().flatten()
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
    /// How the sources of a rule stand, with the names of their streams.
    fn sources(&self, rule: &RunningRule) -> Vec<(String, LinkStatus)> {
        let source = |id: &StreamId| {
            let stream = self.streams.get(id)?;
            let status = stream.source.as_ref().map(OpenSource::status).or_else(|| stream.ended.clone())?;
            Some((id.name.to_string(), status))
        };
        rule.streams.iter().filter_map(source).collect()
    }
}

impl RunningRule {
    fn status(&self, id: &str, sources: Vec<(String, LinkStatus)>) -> RuleStatus {
        let sinks: Vec<LinkStatus> = self.sinks.iter().map(OpenSink::status).collect();
        let metrics = &self.metrics;
        RuleStatus {
            id: id.to_owned(),
            rows_in: metrics.rows_in(),
            rows_out: metrics.messages_out.load(Ordering::Relaxed),
            errors: metrics.errors(),
            dropped: sinks.iter().flat_map(|sink| &sink.dropped).map(|(_, count)| count).sum(),
            late: metrics.late.load(Ordering::Relaxed),
            future: metrics.future.load(Ordering::Relaxed),
            feed: metrics.feed(),
            watermark: metrics.watermark(),
            last_error: metrics.last_error(),
            work: metrics.work(),
            latency: metrics.latency(),
            sources,
            sinks,
        }
    }
}

/// Closes what was opened for a rule that does not start.
async fn close_opened(openings: Vec<Opening>, sinks: Vec<OpenSink>) {
    let sources = openings.into_iter().filter_map(|opening| opening.source).map(OpenSource::close);
    futures_util::future::join_all(sources).await;
    futures_util::future::join_all(sinks.iter().map(|sink| sink.close(FLUSH))).await;
}
