//! The websocket connector: sources and sinks, each as server and as client.
//!
//! [`Websockets`] is the hub. It keeps one endpoint for each path of the data server and one for each distinct
//! connection that is dialled, and lets sources and sinks share them. It lives on the control runtime; open sockets
//! live on data threads. It knows messages as bytes, never rows.

pub mod config;

mod client;
mod client_queue;
mod connection;
mod dial;
mod disconnects;
mod endpoint;
mod gate;
mod lease;
mod server;
mod socket;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_rustls::rustls::ServerConfig;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

pub use client_queue::ClientStatus;
pub use config::{Settings, SettingsError};
pub use dial::{DialError, ProxyChoice};
pub use lease::{CheckError, EndpointStatus, Lease};
pub use socket::Wire;

use crate::io::events::{EventPaths, EventSink};
use crate::io::queue::{FrameSender, Outlet, Signal};
use crate::io::tls::{self, Identity, TlsError};
use crate::io::{LinkState, LinkStatus};
use crate::sync::locked;
use client_queue::{Peer, SinkQueue};
use config::Role;
use disconnects::Disconnects;
use endpoint::{Endpoint, Link, Presence, Subscriber, Use};
use gate::{Gate, Refusals};
use server::{Door, Paths, Routes, Server};

/// How long a closing link waits for its peers' answers to the close frame; longer than one connection does.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// The data server's settings.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// address to listen on, `source.httpServerIp`
    pub ip: String,
    /// port, `source.httpServerPort`; 0: any free one
    pub port: u16,
    /// PEM files, `source.httpServerTls`
    pub tls: Option<ServerTls>,
    /// limit of a client's TLS and HTTP handshake together
    pub handshake_timeout: Duration,
    /// origins of web pages whose clients are let in, `source.httpServerOrigins`; none: all. Clients that name no
    /// origin are no web pages, and are not asked for one.
    pub origins: Vec<String>,
    /// tokens of which a client must show one, `source.httpServerTokens`; none: nobody is asked
    pub tokens: Vec<String>,
}

/// A server's PEM files.
#[derive(Clone, Debug, Default)]
pub struct ServerTls {
    /// certificate chain
    pub certfile: String,
    /// its key
    pub keyfile: String,
    /// authorities of which every client must show a certificate; none: nobody is asked
    pub client_ca_file: Option<String>,
}

impl ServerTls {
    /// What the files say; `names` are the settings that name them.
    ///
    /// # Errors
    /// [`TlsError`] with the setting and the file at fault.
    pub fn load(&self, names: tls::ServerNames) -> Result<Arc<ServerConfig>, TlsError> {
        tls::server(names, &self.certfile, &self.keyfile, self.client_ca_file.as_deref())
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        ServerSettings {
            ip: "0.0.0.0".into(),
            port: 10081,
            tls: None,
            handshake_timeout: Duration::from_secs(10),
            origins: Vec::new(),
            tokens: Vec::new(),
        }
    }
}

/// A link that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// the data server's port is taken
    #[error(
        "the data server cannot listen on {ip}:{port}: the port is in use by another process; stop that one, or set \
         source.httpServerPort (environment: KUIPER__SOURCE__HTTPSERVERPORT) to a free port"
    )]
    PortInUse {
        /// address
        ip: String,
        /// port
        port: u16,
    },
    /// the data server cannot listen for another reason
    #[error("the data server cannot listen on {ip}:{port}: {source}; check source.httpServerIp and httpServerPort")]
    Listen {
        /// address
        ip: String,
        /// port
        port: u16,
        /// why
        source: io::Error,
    },
    /// the data server's certificates
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// checkConnection, client role
    #[error("checkConnection: {0}")]
    Unreachable(String),
    /// checkConnection, server role
    #[error("checkConnection: no client is connected to the endpoint {0}")]
    NoClient(String),
}

/// Dials the peer of a client role once, without a hub: for tools that talk to an endpoint themselves.
///
/// # Errors
/// [`DialError`] if it does not answer as a websocket server within the handshake timeout.
pub async fn dial(settings: &Settings) -> Result<WebSocketStream<Wire>, DialError> {
    let limit = Some(settings.max_message_size);
    let config = WebSocketConfig::default().max_message_size(limit).max_frame_size(limit);
    client::dial(settings, config).await
}

/// What makes a dialled connection the same as another. What else its links say is brought together
/// ([`Endpoint::terms`]): a peer is to see one connection, not one for each way to say the same.
#[derive(Clone, PartialEq, Eq, Hash)]
struct DialKey {
    role: Role,
    path: String,
    tls: Option<Arc<Identity>>,
    headers: Vec<(String, String)>,
}

/// The hub of all websocket links. Clones share it.
#[derive(Clone)]
pub struct Websockets {
    hub: Arc<Hub>,
}

struct Hub {
    control: Handle,
    data: Arc<[Handle]>,
    settings: ServerSettings,
    routes: Routes,
    events: EventPaths,
    registry: tokio::sync::Mutex<Registry>,
    listening: Mutex<Option<SocketAddr>>,
    refused: Arc<Refusals>,
    disconnects: Arc<Disconnects>,
}

#[derive(Default)]
struct Registry {
    server: Option<Server>,
    dialled: HashMap<DialKey, Arc<Endpoint>>,
    /// links by endpoint address in memory: the endpoint ends with its last
    users: HashMap<usize, usize>,
}

impl Websockets {
    /// A hub whose sockets live on `data_threads`. The current runtime becomes the control runtime.
    ///
    /// # Panics
    /// If there is no data thread, or outside of a runtime.
    pub fn new(settings: ServerSettings, data_threads: Vec<Handle>) -> Self {
        assert!(!data_threads.is_empty(), "sockets need a data thread");
        let hub = Hub {
            control: Handle::current(),
            data: data_threads.into(),
            settings,
            routes: Routes::default(),
            events: EventPaths::default(),
            registry: tokio::sync::Mutex::default(),
            listening: Mutex::default(),
            refused: Arc::default(),
            disconnects: Arc::default(),
        };
        Websockets { hub: Arc::new(hub) }
    }

    /// Where the data server listens, while any link needs it.
    pub fn listening(&self) -> Option<SocketAddr> {
        *locked(&self.hub.listening)
    }

    /// Shows a sink's results as server-sent events under a path of the data server, in the place of a sink that was
    /// there; gives where the server listens.
    ///
    /// # Errors
    /// [`ConnectError`] if the data server cannot listen.
    pub async fn publish_events(&self, path: &str, sink: Arc<EventSink>) -> Result<SocketAddr, ConnectError> {
        let mut registry = self.hub.registry.lock().await;
        let address = match &registry.server {
            Some(server) => server.address,
            None => {
                let server = self.hub.listen().await?;
                registry.server.insert(server).address
            }
        };
        self.hub.events.insert(path, sink);
        Ok(address)
    }

    /// Ends the events of a sink.
    pub async fn end_events(&self, path: &str, sink: &Arc<EventSink>) {
        let mut registry = self.hub.registry.lock().await;
        self.hub.events.remove(path, sink);
        self.hub.end_server(&mut registry).await;
    }

    /// Handshakes of the data server that were refused, by cause.
    pub fn refused(&self) -> Vec<(&'static str, u64)> {
        self.hub.refused.counts()
    }

    /// Connections that ended otherwise than by a close frame of either side, by cause.
    pub fn disconnects(&self) -> Vec<(&'static str, u64)> {
        self.hub.disconnects.counts()
    }

    /// Opens a source: its messages go to `frames`, its sockets run on data thread `thread` (modulo their number; a
    /// shared endpoint stays where it is). In the server role the endpoint exists when this returns; in the client
    /// role it is dialled for as long as the link is open.
    ///
    /// # Errors
    /// [`ConnectError`] if the data server cannot listen.
    pub async fn open_source(
        &self,
        settings: Settings,
        thread: usize,
        frames: FrameSender,
    ) -> Result<SourceLink, ConnectError> {
        let link = self.prepare_source(settings, thread, frames).await?;
        link.begin();
        Ok(link)
    }

    /// As [`Websockets::open_source`], but nothing is handed over before [`SourceLink::begin`]: for a rule whose sinks
    /// are opened after its sources, so that no message of a connection that both share finds nobody. If the endpoint
    /// was made by this call, what comes until then waits (in the socket); otherwise it was never for this source.
    ///
    /// # Errors
    /// As [`Websockets::open_source`].
    pub async fn prepare_source(
        &self,
        settings: Settings,
        thread: usize,
        frames: FrameSender,
    ) -> Result<SourceLink, ConnectError> {
        let mut registry = self.hub.registry.lock().await;
        let (endpoint, fresh) = self.hub.endpoint(&mut registry, &settings, thread).await?;
        let link = endpoint.link(Use::Source, settings);
        let subscriber = Subscriber::new(frames);
        if fresh {
            endpoint.subscribe(&subscriber);
        }
        self.hub.publish(&mut registry, &endpoint, fresh);
        Ok(SourceLink {
            hub: self.hub.clone(),
            endpoint,
            link,
            subscriber,
            begun: AtomicBool::new(false),
            early: fresh,
        })
    }

    /// Opens a sink. `signal` is raised when an outlet with `slowClient: block` is ready again.
    ///
    /// # Errors
    /// [`ConnectError`] if the data server cannot listen, or if `checkConnection` is set and no connection is
    /// established (client role: within the handshake timeout).
    pub async fn open_sink(&self, settings: Settings, thread: usize, signal: Signal) -> Result<SinkLink, ConnectError> {
        let mut registry = self.hub.registry.lock().await;
        let check = settings.check_connection;
        if check && settings.role == Role::Server {
            let connected = locked(&self.hub.routes).get(settings.route()).is_some_and(|endpoint| endpoint.peers() > 0);
            if !connected {
                return Err(ConnectError::NoClient(settings.route().to_owned()));
            }
        }
        let queue = SinkQueue::new(settings.client_queue, settings.slow_client, signal);
        let limit = settings.handshake_timeout;
        let dials = settings.role != Role::Server;
        let (endpoint, fresh) = self.hub.endpoint(&mut registry, &settings, thread).await?;
        let wishes = endpoint.link(Use::Sink, settings);
        endpoint.add_sink(&queue);
        let mut standing = endpoint.standing.subscribe();
        let failures = standing.borrow().failures;
        self.hub.publish(&mut registry, &endpoint, fresh);
        drop(registry);
        let link = SinkLink { hub: self.hub.clone(), endpoint, link: wishes, queue, closed: AtomicBool::new(false) };
        if check && dials {
            let settled =
                standing.wait_for(|standing| standing.state == LinkState::Connected || standing.failures > failures);
            let settled = tokio::time::timeout(limit + Duration::from_secs(1), settled).await;
            // Only the answer is kept: the borrowed standing would lock out those who change it.
            let connected =
                settled.is_ok_and(|settled| settled.is_ok_and(|standing| standing.state == LinkState::Connected));
            if !connected {
                let reason = link.endpoint.last_error().map(|(_, error)| error);
                let reason =
                    reason.unwrap_or_else(|| format!("{} cannot be reached", link.endpoint.settings.address()));
                link.close(Duration::ZERO).await;
                return Err(ConnectError::Unreachable(reason));
            }
        }
        Ok(link)
    }
}

impl Hub {
    /// The endpoint for `settings`, and whether it is new. A new one is not yet known to anybody.
    async fn endpoint(
        self: &Arc<Self>,
        registry: &mut Registry,
        settings: &Settings,
        thread: usize,
    ) -> Result<(Arc<Endpoint>, bool), ConnectError> {
        let thread = thread % self.data.len();
        if settings.role == Role::Server {
            if let Some(endpoint) = locked(&self.routes).get(settings.route()).cloned() {
                return Ok((endpoint, false));
            }
            if registry.server.is_none() {
                registry.server = Some(self.listen().await?);
            }
            return Ok((Endpoint::new(settings.clone(), thread, LinkState::Connected), true));
        }
        if let Some(endpoint) = registry.dialled.get(&dial_key(settings)) {
            return Ok((endpoint.clone(), false));
        }
        Ok((Endpoint::new(settings.clone(), thread, LinkState::Connecting), true))
    }

    async fn listen(self: &Arc<Self>) -> Result<Server, ConnectError> {
        let ServerSettings { ip, port, tls, handshake_timeout, origins, tokens } = self.settings.clone();
        let tls: Option<Arc<ServerConfig>> = tls
            .map(|files| files.load(["httpServerTls.certfile", "httpServerTls.keyfile", "httpServerTls.clientCaFile"]))
            .transpose()?;
        let paths = Paths { routes: self.routes.clone(), events: self.events.clone() };
        let gate = Gate::new(origins, tokens, self.refused.clone());
        let door = Door { tls, gate, handshake_timeout, paths, disconnects: self.disconnects.clone() };
        let start = Server::start((ip.clone(), port), door, self.data.clone());
        let started = self.control.spawn(start).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let server = started.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ConnectError::PortInUse { ip, port },
            _ => ConnectError::Listen { ip, port, source },
        })?;
        tracing::info!("the data server is listening on {}", server.address);
        *locked(&self.listening) = Some(server.address);
        Ok(server)
    }

    /// Counts a link of `endpoint` and lets a fresh one meet its peers.
    fn publish(self: &Arc<Self>, registry: &mut Registry, endpoint: &Arc<Endpoint>, fresh: bool) {
        *registry.users.entry(Arc::as_ptr(endpoint) as usize).or_default() += 1;
        if !fresh {
            return;
        }
        if endpoint.settings.role == Role::Server {
            locked(&self.routes).insert(endpoint.settings.route().to_owned(), endpoint.clone());
            return;
        }
        registry.dialled.insert(dial_key(&endpoint.settings), endpoint.clone());
        let peer = Peer::new(endpoint.settings.address(), self.disconnects.clone());
        peer.hang_up();
        endpoint.join(&peer);
        let presence = Presence::new(endpoint);
        self.control.spawn(client::keep(endpoint.clone(), peer, self.data[endpoint.thread].clone(), presence));
    }

    /// Ends a link: the endpoint goes with its last, the server with its last endpoint, where `of_rule` says that a
    /// rule had the link. After a named connection it goes on listening: clients that come back are answered with 404.
    async fn release(self: &Arc<Self>, endpoint: &Arc<Endpoint>, of_rule: bool) {
        let mut registry = self.registry.lock().await;
        let users = registry.users.entry(Arc::as_ptr(endpoint) as usize).or_default();
        *users = users.saturating_sub(1);
        if *users > 0 {
            return;
        }
        registry.users.remove(&(Arc::as_ptr(endpoint) as usize));
        if endpoint.settings.role == Role::Server {
            locked(&self.routes).remove(endpoint.settings.route());
            endpoint.close();
            if of_rule {
                self.end_server(&mut registry).await;
            }
        } else {
            registry.dialled.remove(&dial_key(&endpoint.settings));
            endpoint.close();
        }
        drop(registry);
        let mut tasks = endpoint.tasks.subscribe();
        let _ = tokio::time::timeout(CLOSE_LIMIT, tasks.wait_for(|tasks| *tasks == 0)).await;
        endpoint.stands(LinkState::Disconnected);
    }

    /// Ends the data server if nobody needs it any more.
    async fn end_server(&self, registry: &mut Registry) {
        let needed = !locked(&self.routes).is_empty() || !self.events.is_empty();
        if !needed && let Some(server) = registry.server.take() {
            *locked(&self.listening) = None;
            server.stop().await;
        }
    }

    fn status(&self, endpoint: &Endpoint) -> LinkStatus {
        let standing = *endpoint.standing.borrow();
        let (address, peers) = match endpoint.settings.role {
            Role::Server => {
                let port = locked(&self.listening).map_or(self.settings.port, |address| address.port());
                (format!(":{port}{}", endpoint.settings.route()), endpoint.peers())
            }
            Role::Client { .. } => (endpoint.settings.address(), usize::from(standing.state == LinkState::Connected)),
        };
        LinkStatus {
            address,
            state: standing.state,
            since: standing.since,
            peers,
            last_error: endpoint.last_error(),
            messages: 0,
            bytes: 0,
            dropped: Vec::new(),
            queued: 0,
        }
    }
}

fn dial_key(settings: &Settings) -> DialKey {
    DialKey {
        role: settings.role.clone(),
        path: settings.path.clone(),
        tls: settings.tls.as_ref().map(|tls| tls.identity.clone()),
        headers: settings.headers.clone(),
    }
}

/// An open source. It must be closed; dropped, its endpoint stays.
pub struct SourceLink {
    hub: Arc<Hub>,
    endpoint: Arc<Endpoint>,
    link: Arc<Link>,
    subscriber: Arc<Subscriber>,
    /// set by [`SourceLink::begin`]
    begun: AtomicBool,
    /// it is subscribed since it was prepared
    early: bool,
}

impl SourceLink {
    /// Messages are handed over from now on. Called again, it does nothing.
    pub fn begin(&self) {
        if self.begun.swap(true, Ordering::AcqRel) {
            return;
        }
        self.subscriber.begin();
        if !self.early {
            self.endpoint.subscribe(&self.subscriber);
        }
    }

    /// How it stands.
    pub fn status(&self) -> LinkStatus {
        LinkStatus {
            messages: self.subscriber.messages.load(Ordering::Relaxed),
            bytes: self.subscriber.bytes.load(Ordering::Relaxed),
            ..self.hub.status(&self.endpoint)
        }
    }

    /// Stops reading: when this returns, what was read has been handed over (so the stream must still be drained, or
    /// have ended), and the clients have got a close frame (1001) if nobody else uses the endpoint.
    pub async fn close(self) {
        self.endpoint.unsubscribe(&self.subscriber).await;
        self.endpoint.unlink(&self.link);
        self.hub.release(&self.endpoint, true).await;
    }
}

/// An open sink. It must be closed; dropped, its endpoint stays.
pub struct SinkLink {
    hub: Arc<Hub>,
    endpoint: Arc<Endpoint>,
    link: Arc<Link>,
    queue: Arc<SinkQueue>,
    closed: AtomicBool,
}

impl SinkLink {
    /// The way in for results.
    pub fn outlet(&self) -> Arc<dyn Outlet> {
        self.queue.clone()
    }

    /// How it stands.
    pub fn status(&self) -> LinkStatus {
        LinkStatus {
            messages: self.queue.messages.load(Ordering::Relaxed),
            bytes: self.queue.bytes.load(Ordering::Relaxed),
            dropped: self.queue.dropped(),
            queued: self.queue.queued(),
            ..self.hub.status(&self.endpoint)
        }
    }

    /// Messages that its peers sent while no source shared the endpoint: nobody has read them.
    pub fn unread(&self) -> u64 {
        self.endpoint.unread.load(Ordering::Relaxed)
    }

    /// Its clients, each with what waits for it and what it lost.
    pub fn clients(&self) -> Vec<ClientStatus> {
        self.queue.clients()
    }

    /// Sends what waits, for up to `flush`, then ends the link: the clients get a close frame (1001) if nobody else
    /// uses the endpoint. Its counts can be read on.
    pub async fn close(&self, flush: Duration) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.queue.drain(tokio::time::Instant::now() + flush).await;
        self.endpoint.remove_sink(&self.queue);
        self.endpoint.unlink(&self.link);
        self.hub.release(&self.endpoint, true).await;
    }
}
