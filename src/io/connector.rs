//! The table of connectors: the engine opens every source and sink here, by kind and properties.
//!
//! Properties are checked first ([`SourceSpec`], [`SinkSpec`]), so that every mistake is told before anything opens.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::io::log::{Console, LogSink};
use crate::io::nop::Nop;
use crate::io::queue::{FrameSender, Outlet, Signal};
use crate::io::websocket::config::Warning;
use crate::io::websocket::{ConnectError, Settings, SettingsError, SinkLink, SourceLink, Websockets};
use crate::io::{LinkState, LinkStatus};

/// The kinds of sources.
pub const SOURCES: &[&str] = &["websocket"];

/// The kinds of sinks.
pub const SINKS: &[&str] = &["websocket", "log", "nop"];

/// A connector that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// no such source
    #[error("source type {0} not found: there is websocket")]
    UnknownSource(String),
    /// no such sink
    #[error("sink {0} is not defined: there are websocket, log and nop")]
    UnknownSink(String),
    /// wrong properties
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// it does not open
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// A source whose properties are right.
#[derive(Clone, Debug)]
pub enum SourceSpec {
    /// websocket
    Websocket(Box<Settings>),
}

/// A sink whose properties are right.
#[derive(Clone, Debug)]
pub enum SinkSpec {
    /// websocket
    Websocket(Box<Settings>),
    /// lines on stdout
    Log,
    /// nothing
    Nop,
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
        _ => Err(ConnectorError::UnknownSource(kind.to_owned())),
    }
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
        "log" => Ok((SinkSpec::Log, Vec::new())),
        "nop" => Ok((SinkSpec::Nop, Vec::new())),
        _ => Err(ConnectorError::UnknownSink(kind.to_owned())),
    }
}

/// What all connectors of a process share.
#[derive(Clone)]
pub struct Connectors {
    /// the websocket hub
    pub websockets: Websockets,
    /// the writer of the log sinks; `None`: stdout
    console: Option<Console>,
}

impl Connectors {
    /// Connectors over a websocket hub; log sinks write to stdout.
    pub fn new(websockets: Websockets) -> Self {
        Connectors { websockets, console: None }
    }

    /// Lets log sinks write elsewhere.
    pub fn with_console(self, console: Console) -> Self {
        Connectors { console: Some(console), ..self }
    }

    /// Opens a source; see [`Websockets::open_source`].
    ///
    /// # Errors
    /// [`ConnectorError::Connect`]
    pub async fn open_source(
        &self,
        spec: SourceSpec,
        thread: usize,
        frames: FrameSender,
    ) -> Result<OpenSource, ConnectorError> {
        match spec {
            SourceSpec::Websocket(settings) => {
                Ok(OpenSource::Websocket(self.websockets.open_source(*settings, thread, frames).await?))
            }
        }
    }

    /// Opens a sink; see [`Websockets::open_sink`]. `signal` is raised when an outlet that was not ready is again.
    ///
    /// # Errors
    /// [`ConnectorError::Connect`]
    pub async fn open_sink(&self, spec: SinkSpec, thread: usize, signal: Signal) -> Result<OpenSink, ConnectorError> {
        match spec {
            SinkSpec::Websocket(settings) => {
                Ok(OpenSink::Websocket(self.websockets.open_sink(*settings, thread, signal).await?))
            }
            SinkSpec::Log => {
                let console = self.console.clone().unwrap_or_else(Console::stdout);
                Ok(OpenSink::Log(console.open(signal), SystemTime::now()))
            }
            SinkSpec::Nop => Ok(OpenSink::Nop(Arc::default(), SystemTime::now())),
        }
    }
}

/// An open source.
pub enum OpenSource {
    /// websocket
    Websocket(SourceLink),
}

impl OpenSource {
    /// How it stands.
    pub fn status(&self) -> LinkStatus {
        match self {
            OpenSource::Websocket(link) => link.status(),
        }
    }

    /// Stops reading; what was read has been handed over when this returns.
    pub async fn close(self) {
        match self {
            OpenSource::Websocket(link) => link.close().await,
        }
    }
}

/// An open sink.
pub enum OpenSink {
    /// websocket
    Websocket(SinkLink),
    /// lines on stdout, open since
    Log(Arc<LogSink>, SystemTime),
    /// nothing, open since
    Nop(Arc<Nop>, SystemTime),
}

impl OpenSink {
    /// The way in for results.
    pub fn outlet(&self) -> Arc<dyn Outlet> {
        match self {
            OpenSink::Websocket(link) => link.outlet(),
            OpenSink::Log(sink, _) => sink.clone(),
            OpenSink::Nop(sink, _) => sink.clone(),
        }
    }

    /// How it stands.
    pub fn status(&self) -> LinkStatus {
        let local = |address: &str, since: SystemTime, messages: u64, bytes: u64| LinkStatus {
            address: address.to_owned(),
            state: LinkState::Connected,
            since,
            peers: 0,
            last_error: None,
            messages,
            bytes,
            dropped: Vec::new(),
            queued: 0,
        };
        match self {
            OpenSink::Websocket(link) => link.status(),
            OpenSink::Log(sink, since) => {
                let dropped = sink.dropped.load(Ordering::Relaxed);
                LinkStatus {
                    dropped: if dropped > 0 { vec![("output closed", dropped)] } else { Vec::new() },
                    queued: sink.queued(),
                    ..local("stdout", *since, sink.messages.load(Ordering::Relaxed), sink.bytes.load(Ordering::Relaxed))
                }
            }
            OpenSink::Nop(sink, since) => {
                local("nop", *since, sink.messages.load(Ordering::Relaxed), sink.bytes.load(Ordering::Relaxed))
            }
        }
    }

    /// Sends what waits, for up to `flush`, and ends. Its status can be read on.
    pub async fn close(&self, flush: Duration) {
        match self {
            OpenSink::Websocket(link) => link.close(flush).await,
            OpenSink::Log(sink, _) => sink.flush(flush).await,
            OpenSink::Nop(..) => {}
        }
    }
}
