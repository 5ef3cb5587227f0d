//! The table of connectors: the engine opens every source and sink here, by kind and properties.
//!
//! Properties are checked first ([`SourceSpec`], [`SinkSpec`]): every mistake is reported before anything opens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::format::sink_format::SinkFormat;
use crate::io::LinkStatus;
use crate::io::capture::Capture;
use crate::io::egress::Egress;
use crate::io::events::EventSink;
use crate::io::file::{self, FileError, FileLink, FileReader, FileSink, FileSource, FileWriters};
use crate::io::inlet::{Inlet, InletReader};
use crate::io::log::{Console, LogSink};
use crate::io::memory::{self, MemoryReader, MemorySink, MemorySource, MemoryWriter, Topics};
use crate::io::mock::{MockReader, MockSource};
use crate::io::nop::Nop;
use crate::io::properties;
use crate::io::queue::{FeedChecks, Signal, WayOut};
use crate::io::reach::{FileRoots, Reach, ReachError, Variables};
use crate::io::rest::{self, RestClients, RestLink, RestSink};
use crate::io::spool::{CacheSettings, Held, Spool, StoreKey};
use crate::io::thread_queues::ThreadQueues;
pub use crate::io::websocket::Pause;
use crate::io::websocket::config;
use crate::io::websocket::{ConnectError, Settings, SinkLink, SourceLink, Websockets};
use crate::property::{Entry, Fault, Invalid, Property, Type, Warning, any_of};

/// The kinds of sources.
pub const SOURCES: &[&str] = &["websocket", "memory", "file"];

/// The kinds of sinks.
pub const SINKS: &[&str] = &["websocket", "memory", "rest", "file", "sse", "log", "nop"];

/// A connector that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    #[error("source type {0} not found: there are websocket, memory and file")]
    UnknownSource(String),
    #[error("sink {0} is not defined: there are {and}", and = all_of(SINKS))]
    UnknownSink(String),
    #[error("unknown connection type {0}: there is websocket")]
    UnknownConnection(String),
    #[error("connection {0} not existed: make it with POST /connections, or in etc/connections/connection.yaml")]
    NoConnection(String),
    /// wrong properties
    #[error(transparent)]
    Properties(#[from] Invalid),
    /// a file that cannot be read
    #[error(transparent)]
    File(#[from] FileError),
    /// a conf key of a sink whose properties are wrong
    #[error("conf key {key}: {reason}")]
    Resource {
        key: String,
        /// what is wrong
        reason: String,
    },
    /// properties of a sink that contradict the common ones
    #[error("sink {kind}: {reason}")]
    Form { kind: String, reason: String },
    /// the system refused to open it
    #[error("sink {kind}: {source}")]
    Open { kind: &'static str, source: std::io::Error },
    /// a property that reaches for what it must not
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// it does not open
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

fn all_of(names: &[&str]) -> String {
    any_of(names).replace(" or ", " and ")
}

/// A source whose properties are right.
#[derive(Clone, Debug)]
pub enum SourceSpec {
    Websocket(Box<Settings>),
    /// topics of other rules
    Memory(MemorySource),
    /// a file in the data folder
    File(FileSource),
    /// rows of a trial; no statement names it
    Mock(MockSource),
    /// messages that the process hands over itself; no statement names it
    Inlet(Inlet),
}

impl SourceSpec {
    /// Lets files that are read later name these variables alone: somebody else may have written them.
    pub fn limit_variables(&mut self, allowed: &Variables) {
        if let SourceSpec::Websocket(settings) = self {
            settings.limit_variables(allowed);
        }
    }

    /// What is to be checked of each message.
    pub fn checks(&self) -> FeedChecks {
        match self {
            SourceSpec::Websocket(settings) => settings.checks.clone(),
            SourceSpec::Inlet(inlet) => inlet.checks().clone(),
            _ => FeedChecks::default(),
        }
    }

    /// Whether each process of a cluster reads what comes to it; otherwise one reads for all.
    pub fn is_local(&self) -> bool {
        match self {
            SourceSpec::Websocket(settings) => settings.role == config::Role::Server,
            SourceSpec::Memory(_) | SourceSpec::Inlet(_) => true,
            SourceSpec::File(_) | SourceSpec::Mock(_) => false,
        }
    }

    /// Whether all data threads may read it, each what its sockets receive. Checks need all messages on one thread.
    pub fn may_spread(&self) -> bool {
        match self {
            SourceSpec::Websocket(settings) => settings.is_spread() && settings.checks == FeedChecks::default(),
            _ => false,
        }
    }
}

/// The page of documentation of all connectors, made from their tables.
pub fn reference() -> String {
    format!(
        "# Connectors\n\n\
         Generated from the connectors' property tables: `UPDATE_DOCS=1 cargo test --test source`.\n\n{}\n{}\n{}\n{}\n{}\n\
         ## log, nop\n\nSinks without properties: `log` writes each message as a line to stdout, `nop` only counts.\n",
        config::reference(),
        memory::reference(),
        file::reference(),
        rest::reference(),
        config::events_reference(),
    )
}

/// The properties of a kind of source or sink.
pub fn properties(kind: &str) -> Vec<Entry> {
    match kind {
        "websocket" => Settings::properties(),
        "memory" => memory::entries(),
        "file" => file::entries(),
        "rest" => rest::entries(),
        "sse" => Settings::event_properties(),
        _ => Vec::new(),
    }
}

/// Whether a kind of sink has a property of this name of its own.
pub fn has_property(kind: &str, name: &str) -> bool {
    properties(kind).iter().any(|entry| entry.about.names().any(|known| known.eq_ignore_ascii_case(name)))
}

/// A sink whose properties are right. Equal ones are the same sink to those who receive from it.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkSpec {
    Websocket(Box<Settings>),
    /// a topic for other rules
    Memory(MemorySink),
    /// requests
    Rest(Box<RestSink>),
    /// files
    File(FileSink),
    /// lines on stdout
    Log,
    /// nothing
    Nop,
    /// those who watch a trial; no rule names it
    Events(Arc<EventSink>),
    /// somebody in this process; no rule names it
    Capture(Arc<Capture>),
}

impl SinkSpec {
    /// The format of its messages, which its own properties may change; `has_format`: the user has set `format`.
    ///
    /// # Errors
    /// [`ConnectorError::Form`]
    pub fn form(&mut self, format: SinkFormat, has_format: bool) -> Result<SinkFormat, ConnectorError> {
        let formed = match self {
            SinkSpec::Rest(sink) => sink.form(format, has_format).map_err(|reason| ("rest", reason)),
            SinkSpec::File(sink) => sink.form(format, has_format).map_err(|reason| ("file", reason)),
            SinkSpec::Websocket(settings) if settings.events && !format.is_text() => {
                let reason = "events are text: leave out compression, and format binary";
                Err(("sse", reason.to_owned()))
            }
            _ => Ok(format),
        };
        formed.map_err(|(kind, reason)| ConnectorError::Form { kind: kind.to_owned(), reason })
    }

    /// The store that keeps its messages, if they are kept. `ordinal` is the number of sinks of the rule before it that send
    /// to the same place.
    pub fn store_key(&self, rule: &str, ordinal: usize) -> Option<StoreKey> {
        let (kind, address) = match self {
            SinkSpec::Websocket(settings) => settings.cache.map(|_| ("websocket", settings.address()))?,
            SinkSpec::Rest(sink) => sink.cache().map(|_| ("rest", sink.address()))?,
            _ => return None,
        };
        Some(StoreKey { rule: rule.to_owned(), kind, address, ordinal })
    }

    /// Checks that a rule which came over the network may send there.
    ///
    /// # Errors
    /// [`ReachError::Egress`]
    pub fn check(&self, reach: &Reach) -> Result<(), ReachError> {
        match self {
            SinkSpec::Rest(sink) => reach.check_egress("url", |egress| sink.check(egress)),
            SinkSpec::File(sink) if !sink.is_held(&reach.files) => {
                Err(ReachError::Outside { property: "path".to_owned(), file: sink.path().to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Lets files that are read later name these variables alone: somebody else may have written them.
    pub fn limit_variables(&mut self, allowed: &Variables) {
        if let SinkSpec::Websocket(settings) = self {
            settings.limit_variables(allowed);
        }
    }
}

/// Checks a source's properties; `path` is the stream's DATASOURCE, empty if the properties give it.
///
/// # Errors
/// [`ConnectorError`] for an unknown kind and for wrong properties.
pub fn source(
    kind: &str,
    path: &str,
    props: &Map<String, Value>,
) -> Result<(SourceSpec, Vec<Warning>), ConnectorError> {
    match kind {
        "websocket" => {
            let (settings, warnings) = Settings::source(path, props)?;
            Ok((SourceSpec::Websocket(Box::new(settings)), warnings))
        }
        "memory" => {
            let (settings, warnings) = MemorySource::new(path, props)?;
            Ok((SourceSpec::Memory(settings), warnings))
        }
        "file" => {
            let (settings, warnings) = FileSource::new(path, props)?;
            Ok((SourceSpec::File(settings), warnings))
        }
        _ => Err(ConnectorError::UnknownSource(kind.to_owned())),
    }
}

/// eKuiper's `nop` can write what it drops to its log.
const NOP: &[Property<()>] = &[Property::without_effect("log", Type::Flag)];

/// Checks the properties of a sink that has no settings.
fn plain(
    rows: &'static [Property<()>],
    props: &Map<String, Value>,
    sink: SinkSpec,
) -> Result<(SinkSpec, Vec<Warning>), ConnectorError> {
    let ((), found) = properties::read(rows, props);
    Ok(found.finish(sink)?)
}

/// Checks a sink's properties.
///
/// # Errors
/// As [`source`].
pub fn sink(kind: &str, props: &Map<String, Value>) -> Result<(SinkSpec, Vec<Warning>), ConnectorError> {
    match kind {
        "websocket" => {
            let (settings, warnings) = Settings::sink(props)?;
            Ok((SinkSpec::Websocket(Box::new(settings)), warnings))
        }
        "memory" => {
            let (settings, warnings) = MemorySink::new(props)?;
            Ok((SinkSpec::Memory(settings), warnings))
        }
        "sse" => {
            let (settings, warnings) = Settings::events(props)?;
            Ok((SinkSpec::Websocket(Box::new(settings)), warnings))
        }
        "rest" => {
            let (settings, warnings) = RestSink::new(props)?;
            Ok((SinkSpec::Rest(Box::new(settings)), warnings))
        }
        "file" => {
            let (settings, warnings) = FileSink::new(props)?;
            Ok((SinkSpec::File(settings), warnings))
        }
        "log" => plain(&[], props, SinkSpec::Log),
        "nop" => plain(NOP, props, SinkSpec::Nop),
        _ => Err(ConnectorError::UnknownSink(kind.to_owned())),
    }
}

/// What is wrong with properties of a source or named connection whatever stream uses them, values of another type or
/// out of range, and the warnings beside it.
pub fn set_faults(kind: &str, props: &Map<String, Value>) -> (Vec<Fault>, Vec<Warning>) {
    of_set(source(kind, if kind == "websocket" { "/" } else { "x" }, props))
}

/// The same for the properties of a sink.
pub fn sink_set_faults(kind: &str, props: &Map<String, Value>) -> (Vec<Fault>, Vec<Warning>) {
    of_set(sink(kind, props))
}

fn of_set<T>(checked: Result<(T, Vec<Warning>), ConnectorError>) -> (Vec<Fault>, Vec<Warning>) {
    match checked {
        Ok((_, warnings)) => (Vec::new(), warnings),
        Err(ConnectorError::Properties(Invalid { faults, warnings })) => {
            (faults.into_iter().filter(Fault::is_of_value).collect(), warnings)
        }
        Err(_) => (Vec::new(), Vec::new()),
    }
}

impl ConnectorError {
    /// The property at fault, where it is a single one.
    pub fn property(&self) -> Option<&str> {
        match self {
            ConnectorError::NoConnection(_) => Some("connectionSelector"),
            ConnectorError::Reach(error) => Some(error.property()),
            _ => None,
        }
    }
}

/// What all connectors of a process share.
#[derive(Clone)]
pub struct Connectors {
    /// the websocket hub
    pub websockets: Websockets,
    /// what rules say to each other
    pub topics: Topics,
    /// the files that statements may name
    files: FileRoots,
    /// the writer of the log sinks; `None`: stdout
    console: Option<Console>,
    /// which files are written
    writers: FileWriters,
    /// what sends requests
    rest: RestClients,
    /// where requests may go
    egress: Egress,
    /// what is kept for peers
    spool: Spool,
}

impl Connectors {
    /// Connectors over a websocket hub; log sinks write to stdout, files are read below `data`.
    pub fn new(websockets: Websockets) -> Self {
        Connectors {
            websockets,
            topics: Topics::default(),
            files: FileRoots::new(PathBuf::from("data")),
            console: None,
            writers: FileWriters::default(),
            rest: RestClients::default(),
            egress: Egress::default(),
            spool: Spool::new(Path::new("data")),
        }
    }

    /// Reads and writes files below other folders.
    pub fn with_files(self, files: FileRoots) -> Self {
        let spool = Spool::new(files.data());
        Connectors { files, spool, ..self }
    }

    /// Lets requests go elsewhere.
    pub fn with_egress(self, egress: Egress) -> Self {
        Connectors { egress, ..self }
    }

    /// Lets log sinks write elsewhere.
    pub fn with_console(self, console: Console) -> Self {
        Connectors { console: Some(console), ..self }
    }

    /// Opens a source. A websocket's hands nothing over before [`OpenSource::begin`]; see
    /// [`Websockets::prepare_source`].
    ///
    /// # Errors
    /// [`ConnectorError::Connect`]
    pub async fn open_source(
        &self,
        spec: SourceSpec,
        thread: usize,
        queues: ThreadQueues,
    ) -> Result<OpenSource, ConnectorError> {
        match spec {
            SourceSpec::Websocket(settings) => {
                Ok(OpenSource::Websocket(self.websockets.prepare_source(*settings, thread, queues).await?))
            }
            SourceSpec::Memory(source) => {
                Ok(OpenSource::Memory(self.topics.read(source, queues.first()), SystemTime::now()))
            }
            SourceSpec::File(source) => {
                Ok(OpenSource::File(source.open(&self.files, queues.first()).await?, SystemTime::now()))
            }
            SourceSpec::Mock(source) => Ok(OpenSource::Mock(source.open(queues.first()), SystemTime::now())),
            SourceSpec::Inlet(inlet) => Ok(OpenSource::Inlet(inlet.open(queues.first()), SystemTime::now())),
        }
    }

    /// Checks what a source needs before anything of its rule opens: that a file is there.
    ///
    /// # Errors
    /// [`ConnectorError::File`]
    pub async fn check_source(&self, spec: &SourceSpec) -> Result<(), ConnectorError> {
        match spec {
            SourceSpec::File(source) => Ok(source.check(&self.files).await?),
            _ => Ok(()),
        }
    }

    /// What is kept for peers that have not got it yet.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Opens a sink; see [`Websockets::open_sink`]. `signal` is raised when an outlet that was not ready is again. `store`
    /// names the store of one whose messages are kept ([`SinkSpec::store_key`]).
    ///
    /// # Errors
    /// [`ConnectorError::Connect`], [`ConnectorError::Open`]
    pub async fn open_sink(
        &self,
        spec: SinkSpec,
        thread: usize,
        signal: Signal,
        store: Option<StoreKey>,
    ) -> Result<OpenSink, ConnectorError> {
        match spec {
            SinkSpec::Websocket(settings) => {
                if let (Some(cache), Some(key)) = (settings.cache, store) {
                    let store = self.open_store(key, cache).await?;
                    return Ok(OpenSink::Websocket(self.websockets.open_stored_sink(*settings, thread, store).await?));
                }
                Ok(OpenSink::Websocket(self.websockets.open_sink(*settings, thread, signal).await?))
            }
            SinkSpec::Memory(sink) => Ok(OpenSink::Memory(self.topics.write(sink, signal), SystemTime::now())),
            SinkSpec::Rest(sink) => {
                let store = match (sink.cache(), store) {
                    (Some(cache), Some(key)) => Some(self.open_store(key, cache).await?),
                    _ => None,
                };
                let opened = self.rest.open(*sink, self.egress.clone(), store);
                Ok(OpenSink::Rest(opened.map_err(|source| ConnectorError::Open { kind: "rest", source })?))
            }
            SinkSpec::File(sink) => {
                let opened = self.writers.open(sink, self.files.clone());
                Ok(OpenSink::File(opened.map_err(|source| ConnectorError::Open { kind: "file", source })?))
            }
            SinkSpec::Log => {
                let console = self.console.clone().unwrap_or_else(Console::stdout);
                Ok(OpenSink::Log(console.open(signal), SystemTime::now()))
            }
            SinkSpec::Nop => Ok(OpenSink::Nop(Arc::default(), SystemTime::now())),
            SinkSpec::Events(sink) => Ok(OpenSink::Events(sink, SystemTime::now())),
            SinkSpec::Capture(sink) => Ok(OpenSink::Capture(sink, SystemTime::now())),
        }
    }
}

impl Connectors {
    /// Opens a store, which reads its log: with many messages this takes a moment.
    async fn open_store(&self, key: StoreKey, settings: CacheSettings) -> Result<Held, ConnectorError> {
        let (kind, spool) = (key.kind, self.spool.clone());
        let opened = tokio::task::spawn_blocking(move || spool.open(key, settings)).await;
        let opened = opened.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        opened.map_err(|source| ConnectorError::Open { kind, source })
    }
}

pub enum OpenSource {
    Websocket(SourceLink),
    /// topics, read since
    Memory(MemoryReader, SystemTime),
    /// a file, opened at
    File(FileReader, SystemTime),
    /// rows of a trial, begun at
    Mock(MockReader, SystemTime),
    /// messages of the process itself, since
    Inlet(InletReader, SystemTime),
}

impl OpenSource {
    /// Its rules are there: messages are handed over from now on.
    pub fn begin(&self) {
        if let OpenSource::Websocket(link) = self {
            link.begin();
        }
    }

    /// Whether its messages come from outside of the process.
    pub fn is_outside(&self) -> bool {
        !matches!(self, OpenSource::Memory(..))
    }

    /// How it stands.
    pub fn status(&self) -> LinkStatus {
        match self {
            OpenSource::Websocket(link) => link.status(),
            OpenSource::Memory(reader, since) => LinkStatus {
                messages: reader.messages(),
                ..LinkStatus::local(format!("memory:{}", reader.topic()), *since)
            },
            OpenSource::File(reader, since) => LinkStatus {
                messages: reader.messages(),
                ..LinkStatus::local(format!("file:{}", reader.file()), *since)
            },
            OpenSource::Mock(reader, since) => {
                LinkStatus { messages: reader.messages(), ..LinkStatus::local("mock", *since) }
            }
            OpenSource::Inlet(reader, since) => {
                LinkStatus { messages: reader.messages(), ..LinkStatus::local("inlet", *since) }
            }
        }
    }

    /// Reads nothing more for its rule; what is under way is still handed over.
    pub fn detach(&self) {
        match self {
            OpenSource::Websocket(link) => link.detach(),
            OpenSource::Memory(reader, _) => reader.close(),
            OpenSource::File(..) => {}
            OpenSource::Mock(reader, _) => reader.close(),
            OpenSource::Inlet(reader, _) => reader.close(),
        }
    }

    /// Waits until what was read is handed over. Never ends while the stream takes nothing.
    pub async fn handed_over(&self) {
        if let OpenSource::Websocket(link) = self {
            link.handed_over().await;
        }
    }

    /// Waits until what its endpoint has read is handed over, and keeps the endpoint from reading on; `None` if it has no
    /// endpoint.
    pub async fn pause(&self) -> Option<Pause> {
        match self {
            OpenSource::Websocket(link) => Some(link.pause().await),
            _ => None,
        }
    }

    /// Names its endpoint, which other sources may share.
    pub fn endpoint(&self) -> Option<usize> {
        match self {
            OpenSource::Websocket(link) => Some(link.endpoint()),
            _ => None,
        }
    }

    /// Stops reading as [`OpenSource::close`] does, but waits for no peer.
    pub async fn leave(&self) {
        match self {
            OpenSource::Websocket(link) => link.leave().await,
            _ => self.close().await,
        }
    }

    /// Stops reading; what was read has been handed over when this returns. Its status can be read on.
    pub async fn close(&self) {
        match self {
            OpenSource::Websocket(link) => link.close().await,
            OpenSource::File(reader, _) => reader.close().await,
            OpenSource::Memory(..) | OpenSource::Mock(..) | OpenSource::Inlet(..) => self.detach(),
        }
    }
}

pub enum OpenSink {
    Websocket(SinkLink),
    /// a topic, open since
    Memory(Arc<MemoryWriter>, SystemTime),
    /// requests
    Rest(RestLink),
    /// files
    File(FileLink),
    /// lines on stdout, open since
    Log(Arc<LogSink>, SystemTime),
    /// nothing, open since
    Nop(Arc<Nop>, SystemTime),
    /// those who watch a trial, since
    Events(Arc<EventSink>, SystemTime),
    /// somebody in this process, since
    Capture(Arc<Capture>, SystemTime),
}

impl OpenSink {
    /// The way in for results.
    pub fn outlet(&self) -> WayOut {
        match self {
            OpenSink::Websocket(link) => WayOut::Messages(link.outlet()),
            OpenSink::Memory(writer, _) => WayOut::Rows(writer.clone()),
            OpenSink::Rest(link) => WayOut::Messages(link.outlet()),
            OpenSink::File(link) => WayOut::Messages(link.outlet()),
            OpenSink::Log(sink, _) => WayOut::Messages(sink.clone()),
            OpenSink::Nop(sink, _) => WayOut::Messages(sink.clone()),
            OpenSink::Events(sink, _) => WayOut::Messages(sink.clone()),
            OpenSink::Capture(sink, _) => WayOut::Messages(sink.clone()),
        }
    }

    /// How it stands.
    pub fn status(&self) -> LinkStatus {
        let dropped = |cause, count| if count > 0 { vec![(cause, count)] } else { Vec::new() };
        match self {
            OpenSink::Websocket(link) => link.status(),
            OpenSink::Memory(writer, since) => {
                let (queued, peers) = writer.queued();
                LinkStatus {
                    peers,
                    messages: writer.messages(),
                    dropped: dropped("cycle full", writer.dropped()),
                    queued,
                    ..LinkStatus::local(format!("memory:{}", writer.topic()), *since)
                }
            }
            OpenSink::Rest(link) => link.status(),
            OpenSink::File(link) => link.status(),
            OpenSink::Log(sink, since) => LinkStatus {
                messages: sink.messages.load(Ordering::Relaxed),
                bytes: sink.bytes.load(Ordering::Relaxed),
                dropped: dropped("output closed", sink.dropped.load(Ordering::Relaxed)),
                queued: sink.queued(),
                ..LinkStatus::local("stdout", *since)
            },
            OpenSink::Nop(sink, since) => LinkStatus {
                messages: sink.messages.load(Ordering::Relaxed),
                bytes: sink.bytes.load(Ordering::Relaxed),
                ..LinkStatus::local("nop", *since)
            },
            OpenSink::Events(sink, since) => LinkStatus {
                peers: sink.clients(),
                messages: sink.messages.load(Ordering::Relaxed),
                bytes: sink.bytes.load(Ordering::Relaxed),
                dropped: dropped("slow client", sink.dropped.load(Ordering::Relaxed)),
                ..LinkStatus::local("events", *since)
            },
            OpenSink::Capture(sink, since) => LinkStatus {
                messages: sink.messages(),
                bytes: sink.bytes(),
                dropped: dropped("nobody takes them", sink.dropped()),
                ..LinkStatus::local("capture", *since)
            },
        }
    }

    /// Ends if nothing waits, without waiting for a peer. It must be closed all the same.
    pub async fn leave_if_idle(&self) {
        if let OpenSink::Websocket(link) = self {
            link.leave_if_idle().await;
        }
    }

    /// Sends what waits, for up to `flush`, and ends. Its status can be read on.
    pub async fn close(&self, flush: Duration) {
        match self {
            OpenSink::Websocket(link) => link.close(flush).await,
            OpenSink::Memory(writer, _) => writer.flush(flush).await,
            OpenSink::Rest(link) => link.close(flush).await,
            OpenSink::File(link) => link.close(flush).await,
            OpenSink::Log(sink, _) => sink.flush(flush).await,
            OpenSink::Nop(..) | OpenSink::Capture(..) => {}
            OpenSink::Events(sink, _) => sink.close(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_no_sink_reads_is_told() {
        for (kind, props, expected) in [
            ("log", json!({"sendSingle": true}), None),
            (
                "log",
                json!({"sendSingel": true}),
                Some("unknown property sendSingel is ignored: did you mean sendSingle?"),
            ),
            ("nop", json!({"log": true}), None),
            ("nop", json!({"zzz": 1}), Some("unknown property zzz is ignored")),
        ] {
            let props = props.as_object().expect("an object");
            let (_, warnings) = sink(kind, props).expect("these sinks take everything");
            assert_eq!(warnings.first().map(Warning::to_string).as_deref(), expected, "{kind} {props:?}");
        }
    }
}
