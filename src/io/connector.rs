//! The table of connectors. The engine opens every source and sink through it, by kind and properties.
//!
//! Properties are checked first ([`SourceSpec`], [`SinkSpec`]), so every error is reported before anything opens. What
//! all sources and sinks have in common is in [`super::source`] and [`super::sink`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::io::capture::Capture;
use crate::io::egress::Egress;
use crate::io::events::EventSink;
use crate::io::file::{self, FileError, FileSink, FileSource, FileWriters};
use crate::io::inlet::Inlet;
use crate::io::log::{Console, ConsoleSink};
use crate::io::memory::{self, MemorySink, MemorySource, Topics};
use crate::io::mock::MockSource;
use crate::io::nop::{self, NopSink};
use crate::io::properties;
use crate::io::queue::Signal;
use crate::io::reach::{FileRoots, ReachError};
use crate::io::rest::{self, RestClients, RestSink};
use crate::io::sink::{OpenSink, SinkSettings};
use crate::io::source::{OpenSource, SourceSettings};
use crate::io::spool::{CacheSettings, Held, Spool, StoreKey};
use crate::io::thread_queues::ThreadQueues;
use crate::io::websocket::config;
use crate::io::websocket::{ConnectError, Settings, Websockets};
use crate::property::{Entry, Fault, Invalid, Warning, any_of};

/// A kind of source.
pub struct SourceKind {
    /// TYPE of a stream.
    name: &'static str,
    /// Checks properties; the text is the stream's DATASOURCE, or empty if the properties name the place.
    check: fn(&str, &Map<String, Value>) -> Checked<SourceSpec>,
    entries: fn() -> Vec<Entry>,
    /// Its chapter in docs/connectors.md; a sink with the same name has the same.
    chapter: fn() -> String,
}

/// A kind of sink.
pub struct SinkKind {
    /// The kind in rules.
    name: &'static str,
    check: fn(&Map<String, Value>) -> Checked<SinkSpec>,
    entries: fn() -> Vec<Entry>,
    /// Its chapter in docs/connectors.md.
    chapter: fn() -> String,
}

type Checked<T> = Result<(T, Vec<Warning>), Invalid>;

const SOURCES: &[SourceKind] = &[
    SourceKind {
        name: "websocket",
        check: |path, props| {
            Ok(spec(Settings::source(path, props)?, |settings| SourceSpec::Websocket(settings.into())))
        },
        entries: Settings::properties,
        chapter: config::reference,
    },
    SourceKind {
        name: "memory",
        check: |topic, props| Ok(spec(MemorySource::new(topic, props)?, SourceSpec::Memory)),
        entries: memory::entries,
        chapter: memory::reference,
    },
    SourceKind {
        name: "file",
        check: |name, props| Ok(spec(FileSource::new(name, props)?, SourceSpec::File)),
        entries: file::entries,
        chapter: file::reference,
    },
];

const SINKS: &[SinkKind] = &[
    SinkKind {
        name: "websocket",
        check: |props| Ok(spec(Settings::sink(props)?, |settings| SinkSpec::Websocket(settings.into()))),
        entries: Settings::properties,
        chapter: config::reference,
    },
    SinkKind {
        name: "memory",
        check: |props| Ok(spec(MemorySink::new(props)?, SinkSpec::Memory)),
        entries: memory::entries,
        chapter: memory::reference,
    },
    SinkKind {
        name: "rest",
        check: |props| Ok(spec(RestSink::new(props)?, |sink| SinkSpec::Rest(sink.into()))),
        entries: rest::entries,
        chapter: rest::reference,
    },
    SinkKind {
        name: "file",
        check: |props| Ok(spec(FileSink::new(props)?, SinkSpec::File)),
        entries: file::entries,
        chapter: file::reference,
    },
    SinkKind {
        name: "sse",
        check: |props| Ok(spec(Settings::events(props)?, |settings| SinkSpec::Websocket(settings.into()))),
        entries: Settings::event_properties,
        chapter: config::events_reference,
    },
    SinkKind {
        name: "log",
        check: |props| properties::read::<()>(&[], props).1.finish(SinkSpec::Log(ConsoleSink)),
        entries: Vec::new,
        chapter: || "## log\n\nA sink that writes each message as a line to stdout. It has no properties.\n".to_owned(),
    },
    SinkKind {
        name: "nop",
        check: |props| properties::read(nop::PROPERTIES, props).1.finish(SinkSpec::Nop(NopSink)),
        entries: Vec::new,
        chapter: || "## nop\n\nA sink that counts messages and discards them. It has no properties.\n".to_owned(),
    },
];

fn spec<S, T>((settings, warnings): (S, Vec<Warning>), of: impl FnOnce(S) -> T) -> (T, Vec<Warning>) {
    (of(settings), warnings)
}

/// The names of the kinds of sources.
pub fn sources() -> Vec<&'static str> {
    SOURCES.iter().map(|kind| kind.name).collect()
}

/// The names of the kinds of sinks.
pub fn sinks() -> Vec<&'static str> {
    SINKS.iter().map(|kind| kind.name).collect()
}

/// A source with valid properties.
#[derive(Clone, Debug)]
pub enum SourceSpec {
    Websocket(Box<Settings>),
    /// topics of other rules
    Memory(MemorySource),
    /// a file in the data folder
    File(FileSource),
    /// the rows of a trial; statements cannot name it
    Mock(MockSource),
    /// messages that this process delivers itself; statements cannot name it
    Inlet(Inlet),
}

impl SourceSpec {
    pub fn settings(&self) -> &dyn SourceSettings {
        match self {
            SourceSpec::Websocket(settings) => &**settings,
            SourceSpec::Memory(source) => source,
            SourceSpec::File(source) => source,
            SourceSpec::Mock(source) => source,
            SourceSpec::Inlet(source) => source,
        }
    }

    pub fn settings_mut(&mut self) -> &mut dyn SourceSettings {
        match self {
            SourceSpec::Websocket(settings) => &mut **settings,
            SourceSpec::Memory(source) => source,
            SourceSpec::File(source) => source,
            SourceSpec::Mock(source) => source,
            SourceSpec::Inlet(source) => source,
        }
    }
}

/// A sink with valid properties. For receivers, equal ones are the same sink.
#[derive(Clone, Debug, PartialEq)]
pub enum SinkSpec {
    /// also for server-sent events
    Websocket(Arc<Settings>),
    /// a topic for other rules
    Memory(MemorySink),
    /// HTTP requests
    Rest(Arc<RestSink>),
    File(FileSink),
    /// lines on stdout
    Log(ConsoleSink),
    Nop(NopSink),
    /// the viewers of a trial; rules cannot name it
    Events(Arc<EventSink>),
    /// a test in this process; rules cannot name it
    Capture(Arc<Capture>),
}

impl SinkSpec {
    pub fn settings(&self) -> &dyn SinkSettings {
        match self {
            SinkSpec::Websocket(settings) => &**settings,
            SinkSpec::Memory(sink) => sink,
            SinkSpec::Rest(sink) => &**sink,
            SinkSpec::File(sink) => sink,
            SinkSpec::Log(sink) => sink,
            SinkSpec::Nop(sink) => sink,
            SinkSpec::Events(sink) => sink,
            SinkSpec::Capture(sink) => sink,
        }
    }

    /// Copies settings that are shared.
    pub fn settings_mut(&mut self) -> &mut dyn SinkSettings {
        match self {
            SinkSpec::Websocket(settings) => Arc::<Settings>::make_mut(settings),
            SinkSpec::Memory(sink) => sink,
            SinkSpec::Rest(sink) => Arc::<RestSink>::make_mut(sink),
            SinkSpec::File(sink) => sink,
            SinkSpec::Log(sink) => sink,
            SinkSpec::Nop(sink) => sink,
            SinkSpec::Events(sink) => sink,
            SinkSpec::Capture(sink) => sink,
        }
    }

    /// The key of the store for its messages, if they are stored. `ordinal` is the number of earlier sinks of the rule
    /// with the same destination.
    pub fn store_key(&self, rule: &str, ordinal: usize) -> Option<StoreKey> {
        let settings = self.settings();
        let (_, address) = settings.cache()?;
        Some(StoreKey { rule: rule.to_owned(), kind: settings.kind(), address, ordinal })
    }
}

/// A connector that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    #[error("source type {0} not found: there are {and}", and = all_of(&sources()))]
    UnknownSource(String),
    #[error("sink {0} is not defined: there are {and}", and = all_of(&sinks()))]
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
    /// a conf key of a sink with wrong properties
    #[error("conf key {key}: {reason}")]
    Resource { key: String, reason: String },
    /// properties of a sink that contradict those of every sink
    #[error("sink {kind}: {reason}")]
    Form { kind: &'static str, reason: String },
    /// the system refused to open it
    #[error("sink {kind}: {source}")]
    Open { kind: &'static str, source: std::io::Error },
    /// a property that names something forbidden
    #[error(transparent)]
    Reach(#[from] ReachError),
    /// it cannot be opened
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

fn all_of(names: &[&str]) -> String {
    any_of(names).replace(" or ", " and ")
}

impl ConnectorError {
    /// The wrong property, if it is a single one.
    pub fn property(&self) -> Option<&str> {
        match self {
            ConnectorError::NoConnection(_) => Some("connectionSelector"),
            ConnectorError::Reach(error) => Some(error.property()),
            _ => None,
        }
    }
}

/// The reference page of all connectors, generated from their tables.
pub fn reference() -> String {
    let of_sources = SOURCES.iter().filter(|source| !sinks().contains(&source.name)).map(|source| source.chapter);
    let chapters: Vec<String> =
        SINKS.iter().map(|sink| sink.chapter).chain(of_sources).map(|chapter| chapter()).collect();
    format!(
        "# Connectors\n\n\
         Generated from the connectors' property tables: `UPDATE_DOCS=1 cargo test --test source`.\n\n{}",
        chapters.join("\n")
    )
}

/// The properties of a kind of source or sink, at both ends.
pub fn properties(kind: &str) -> Vec<Entry> {
    let of_source = SOURCES.iter().find(|known| known.name == kind).map(|kind| kind.entries);
    let of_sink = || SINKS.iter().find(|known| known.name == kind).map(|kind| kind.entries);
    of_source.or_else(of_sink).map_or_else(Vec::new, |entries| entries())
}

/// Whether a kind of sink itself has a property with this name.
pub fn has_property(kind: &str, name: &str) -> bool {
    properties(kind).iter().any(|entry| entry.about.names().any(|known| known.eq_ignore_ascii_case(name)))
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
    let known = SOURCES.iter().find(|known| known.name == kind);
    let known = known.ok_or_else(|| ConnectorError::UnknownSource(kind.to_owned()))?;
    Ok((known.check)(path, props)?)
}

/// Checks a sink's properties.
///
/// # Errors
/// As [`source`].
pub fn sink(kind: &str, props: &Map<String, Value>) -> Result<(SinkSpec, Vec<Warning>), ConnectorError> {
    let known = SINKS.iter().find(|known| known.name == kind);
    let known = known.ok_or_else(|| ConnectorError::UnknownSink(kind.to_owned()))?;
    Ok((known.check)(props)?)
}

/// The errors of a property set that hold for every stream, wrong types and values out of range, and its warnings. For
/// sources and named connections.
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

/// Everything that the connectors of a process share.
#[derive(Clone)]
pub struct Connectors {
    pub websockets: Websockets,
    /// memory topics, over which rules exchange rows
    pub topics: Topics,
    /// the files that statements may name
    files: FileRoots,
    /// the writer of the log sinks; `None`: stdout
    console: Option<Console>,
    /// the files that are being written
    writers: FileWriters,
    /// the sender of HTTP requests
    rest: RestClients,
    /// the allowed destinations of requests
    egress: Egress,
    /// the stores of messages for peers
    spool: Spool,
}

impl Connectors {
    /// Connectors over a websocket hub. Log sinks write to stdout, files are read in `data`.
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

    /// Uses other folders for files.
    pub fn with_files(self, files: FileRoots) -> Self {
        let spool = Spool::new(files.data());
        Connectors { files, spool, ..self }
    }

    /// Sets the allowed destinations of requests and websockets.
    pub fn with_egress(self, egress: Egress) -> Self {
        self.websockets.limit_dials(egress.clone());
        Connectors { egress, ..self }
    }

    /// Makes log sinks write elsewhere.
    pub fn with_console(self, console: Console) -> Self {
        Connectors { console: Some(console), ..self }
    }

    /// Opens a source. It delivers nothing before [`OpenSource::begin`].
    ///
    /// # Errors
    /// [`ConnectorError::Connect`], [`ConnectorError::File`]
    pub async fn open_source(
        &self,
        spec: SourceSpec,
        thread: usize,
        queues: ThreadQueues,
    ) -> Result<Box<dyn OpenSource>, ConnectorError> {
        Ok(match spec {
            SourceSpec::Websocket(settings) => {
                Box::new(self.websockets.prepare_source(*settings, thread, queues).await?)
            }
            SourceSpec::Memory(source) => Box::new(self.topics.read(source, queues.first())),
            SourceSpec::File(source) => Box::new(source.open(&self.files, queues.first()).await?),
            SourceSpec::Mock(source) => Box::new(source.open(queues.first())),
            SourceSpec::Inlet(inlet) => Box::new(inlet.open(queues.first())),
        })
    }

    /// Checks what a source needs before anything of its rule opens, for example that a file exists.
    ///
    /// # Errors
    /// [`ConnectorError::File`]
    pub async fn check_source(&self, spec: &SourceSpec) -> Result<(), ConnectorError> {
        match spec {
            SourceSpec::File(source) => Ok(source.check(&self.files).await?),
            _ => Ok(()),
        }
    }

    /// The messages that are stored for peers.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Opens a sink; see [`Websockets::open_sink`]. `signal` is raised when an outlet that was not ready is ready
    /// again. `store` is the key of its store, if messages are stored ([`SinkSpec::store_key`]).
    ///
    /// # Errors
    /// [`ConnectorError::Connect`], [`ConnectorError::Open`]
    pub async fn open_sink(
        &self,
        spec: SinkSpec,
        thread: usize,
        signal: Signal,
        store: Option<StoreKey>,
    ) -> Result<Box<dyn OpenSink>, ConnectorError> {
        let kind = spec.settings().kind();
        let unopened = |source| ConnectorError::Open { kind, source };
        let store = match (spec.settings().cache(), store) {
            (Some((cache, _)), Some(key)) => Some(self.open_store(key, cache).await.map_err(unopened)?),
            _ => None,
        };
        Ok(match spec {
            SinkSpec::Websocket(settings) => Box::new(match store {
                Some(store) => {
                    self.websockets.open_stored_sink(Arc::unwrap_or_clone(settings), thread, signal, store).await?
                }
                None => self.websockets.open_sink(Arc::unwrap_or_clone(settings), thread, signal).await?,
            }),
            SinkSpec::Memory(sink) => Box::new(self.topics.write(sink, signal)),
            SinkSpec::Rest(sink) => {
                let store = store.map(|store| (store, signal));
                Box::new(self.rest.open(Arc::unwrap_or_clone(sink), self.egress.clone(), store).map_err(unopened)?)
            }
            SinkSpec::File(sink) => Box::new(self.writers.open(sink, self.files.clone()).map_err(unopened)?),
            SinkSpec::Log(_) => Box::new(self.console.clone().unwrap_or_else(Console::stdout).open(signal)),
            SinkSpec::Nop(sink) => Box::new(sink.open()),
            SinkSpec::Events(sink) => Box::new(sink),
            SinkSpec::Capture(sink) => Box::new(sink),
        })
    }

    /// Opens a store, which reads its log: with many messages this takes a moment.
    async fn open_store(&self, key: StoreKey, settings: CacheSettings) -> std::io::Result<Held> {
        let spool = self.spool.clone();
        let opened = tokio::task::spawn_blocking(move || spool.open(key, settings)).await;
        opened.unwrap_or_else(|error| Err(std::io::Error::other(error)))
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
