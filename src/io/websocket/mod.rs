//! The websocket connector: sources and sinks, each as server and as client.
//!
//! [`Websockets`] is the hub. It keeps one endpoint for each path of the data server and one for each distinct
//! connection that is dialled, and lets sources and sinks share them. It lives on the control runtime; open sockets
//! live on data threads. It knows messages as bytes, never rows.

pub mod config;

mod access;
mod admission;
mod client;
mod client_queue;
mod connection;
mod dial;
mod endpoint;
mod error;
mod events;
mod fan_out;
mod fares;
mod gate;
mod handover;
mod jwt;
mod lease;
mod links;
mod live;
mod opening;
mod properties;
mod protocol;
mod reception;
mod routes;
mod server;
mod server_settings;
mod shed;
mod socket;
mod stored;
mod subscriber;
mod tally;
mod threads;
mod totals;
mod unproven;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role as WireRole, WebSocketConfig};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use access::Access;
pub use config::Settings;
pub use dial::{DialError, ProxyChoice};
pub use error::ConnectError;
pub use fan_out::ClientStatus;
pub use gate::TurnedAway;
pub use handover::Passage;
pub use jwt::{JwtError, JwtSettings};
pub use lease::{CheckError, EndpointStatus, Lease};
pub use links::{SinkLink, SourceLink};
pub use server_settings::{ServerSettings, ServerTls};
pub use socket::Wire;

use crate::io::egress::Egress;
use crate::io::events::{EventPaths, EventSink};
use crate::io::queue::Signal;
use crate::io::sink::OpenSink;
use crate::io::source::OpenSource;
use crate::io::spool::Held;
use crate::io::thread_queues::ThreadQueues;
use crate::io::tls::Identity;
use crate::io::{LinkState, LinkStatus, UNREAD};
use crate::sync::locked;
use crate::view::Views;
use admission::{Admission, Limits};
use client::Addresses;
use client_queue::Peer;
use config::{AddressMode, Role};
use endpoint::{Endpoint, Presence, Use};
use fan_out::SinkQueue;
use gate::Refusals;
use lease::Hold;
use links::SinkEnd;
use server::{Door, Paths, Routes, Server};
use stored::StoredSink;
use subscriber::Subscriber;
use threads::{SocketThreads, Spread};
use totals::Totals;

/// How long a closing link waits for its peers' answers to the close frame; longer than one connection waits.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// The most addresses whose unread messages are counted separately; those of further addresses are counted together.
const UNREAD_ADDRESSES: usize = 1024;

/// Dials the peer of a client role once, without a hub: for tools that use an endpoint directly.
///
/// # Errors
/// [`DialError`] if it does not answer as a websocket server within the handshake timeout.
pub async fn dial(settings: &Settings) -> Result<WebSocketStream<Wire>, DialError> {
    dial_within(settings, &Egress::default().trusting_rules()).await
}

async fn dial_within(settings: &Settings, egress: &Egress) -> Result<WebSocketStream<Wire>, DialError> {
    let limit = Some(settings.max_message_size);
    let config = WebSocketConfig::default().max_message_size(limit).max_frame_size(limit);
    let plain = Settings { per_message_deflate: None, ..settings.clone() };
    let opened = client::dial(&plain, egress).await?;
    Ok(WebSocketStream::from_raw_socket(opened.wire, WireRole::Client, Some(config)).await)
}

/// The destination of a dialled connection, and the client's identity there. Links with the same key share a connection
/// if their own messages on it are the same ([`Endpoint::admits`]).
#[derive(Clone, PartialEq, Eq, Hash)]
struct DialKey {
    role: Role,
    path: String,
    tls: Option<Arc<Identity>>,
    headers: Vec<(String, String)>,
    proxy: ProxyChoice,
    addresses: Vec<Role>,
    mode: AddressMode,
    connections: usize,
}

/// The hub of all websocket links. Clones share it.
#[derive(Clone)]
pub struct Websockets {
    hub: Arc<Hub>,
}

struct Hub {
    control: Handle,
    data: Arc<SocketThreads>,
    /// how clients of live views are spread over them
    live_clients: Spread,
    settings: Mutex<ServerSettings>,
    /// where peers may be; unset: where rules of an operator may send
    egress: OnceLock<Egress>,
    routes: Routes,
    events: EventPaths,
    views: Arc<Views>,
    /// set where the rows of the views are in another process
    passage: OnceLock<Passage>,
    registry: tokio::sync::Mutex<Registry>,
    listening: Mutex<Option<SocketAddr>>,
    refused: Arc<Refusals>,
    /// messages that came while no rule read them, by the endpoint's address; they outlive the endpoint
    unread: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    /// cancelled by [`Websockets::end`]: endpoints without a user do not stay
    ended: CancellationToken,
    /// endpoints that have ended and wait for their peers' answers to the close frame
    goodbyes: TaskTracker,
    totals: Arc<Totals>,
}

#[derive(Default)]
struct Registry {
    server: Option<Server>,
    /// several for a key where their links say different things
    dialled: HashMap<DialKey, Vec<Arc<Endpoint>>>,
    /// links by endpoint address in memory: the endpoint ends with its last
    users: HashMap<usize, usize>,
}

impl Websockets {
    /// A hub whose sockets are on `data_threads`. The current runtime becomes the control runtime.
    ///
    /// # Panics
    /// If there is no data thread, or outside a runtime.
    pub fn new(settings: ServerSettings, data_threads: Vec<Handle>) -> Self {
        Websockets::with_views(settings, data_threads, Arc::default())
    }

    /// A hub whose data server also serves live views.
    ///
    /// # Panics
    /// As [`Websockets::new`].
    pub fn with_views(settings: ServerSettings, data_threads: Vec<Handle>, views: Arc<Views>) -> Self {
        let data = SocketThreads::new(data_threads);
        let unfinished = settings.unfinished_bytes;
        let hub = Hub {
            control: Handle::current(),
            live_clients: data.spread(),
            data: Arc::new(data),
            settings: Mutex::new(settings),
            egress: OnceLock::new(),
            routes: Routes::default(),
            events: EventPaths::default(),
            views,
            passage: OnceLock::new(),
            registry: tokio::sync::Mutex::default(),
            listening: Mutex::default(),
            refused: Arc::default(),
            unread: Mutex::default(),
            ended: CancellationToken::new(),
            goodbyes: TaskTracker::new(),
            totals: Arc::new(Totals::new(unfinished)),
        };
        Websockets { hub: Arc::new(hub) }
    }

    /// Sets the allowed addresses of peers, once and before anything is opened.
    pub fn limit_dials(&self, egress: Egress) {
        let _ = self.hub.egress.set(egress);
    }

    /// The data server's address, while any link needs it.
    pub fn listening(&self) -> Option<SocketAddr> {
        *locked(&self.hub.listening)
    }

    /// Publishes a sink's results as server-sent events under a path of the data server, in place of an earlier sink
    /// there. Returns the server's address.
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

    /// Runs the data server while there are views. Returns its address.
    ///
    /// # Errors
    /// [`ConnectError`] if it cannot listen.
    pub async fn serve_views(&self) -> Result<SocketAddr, ConnectError> {
        let mut registry = self.hub.registry.lock().await;
        if let Some(server) = &registry.server {
            return Ok(server.address);
        }
        let server = self.hub.listen().await?;
        Ok(registry.server.insert(server).address)
    }

    /// A view was dropped: the data server ends if nothing needs it.
    pub async fn left_view(&self) {
        let mut registry = self.hub.registry.lock().await;
        self.hub.end_server(&mut registry).await;
    }

    /// Stops publishing the events of a sink.
    pub async fn end_events(&self, path: &str, sink: &Arc<EventSink>) {
        let mut registry = self.hub.registry.lock().await;
        self.hub.events.remove(path, sink);
        self.hub.end_server(&mut registry).await;
    }

    /// Loads everything that the settings say about access: certificates, origins, tokens and keys. Nothing changes
    /// before [`Websockets::admit_by`].
    ///
    /// # Errors
    /// [`ConnectError::Tls`], [`ConnectError::Jwt`]
    pub fn load_access(&self, settings: &ServerSettings) -> Result<Access, ConnectError> {
        Access::load(settings, self.hub.refused.clone())
    }

    /// Applies `access` to new clients, including those of a data server that begins to listen later.
    pub async fn admit_by(&self, access: Access) {
        // A server that is about to listen either has the old settings and is registered by now, or gets the new ones.
        let registry = self.hub.registry.lock().await;
        let ServerSettings { tls, origins, tokens, jwt, .. } = access.settings.clone();
        let mut settings = locked(&self.hub.settings);
        *settings = ServerSettings { tls, origins, tokens, jwt, ..settings.clone() };
        drop(settings);
        if let Some(server) = &registry.server {
            server.admit_by(access);
        }
    }

    /// Messages that arrived at endpoints while no rule read them, by address, since the start.
    pub fn unread(&self) -> Vec<(String, u64)> {
        let unread = locked(&self.hub.unread);
        let counts = unread.iter().map(|(address, count)| (address.clone(), count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Refused handshakes of the data server, by cause.
    pub fn refused(&self) -> Vec<(&'static str, u64)> {
        self.hub.refused.counts()
    }

    /// The last clients that the data server refused, with the paths that they requested.
    pub fn turned_away(&self) -> Vec<TurnedAway> {
        self.hub.refused.turned_away()
    }

    /// Connections that ended without a close frame from either side, by cause.
    pub fn disconnects(&self) -> Vec<(&'static str, u64)> {
        self.hub.totals.disconnects()
    }

    /// Bytes of large messages that are not complete yet, in all connections.
    pub fn unfinished_bytes(&self) -> usize {
        self.hub.totals.unfinished_bytes()
    }

    /// Opens a source: its messages go to `queues`. If one data thread reads them, its sockets are on `thread` (modulo
    /// their number; a shared endpoint and its clients stay where they are), otherwise on all. In the server role, the
    /// endpoint exists when this returns; in the client role, it is dialled as long as the link is open.
    ///
    /// # Errors
    /// [`ConnectError`] if the data server cannot listen.
    pub async fn open_source(
        &self,
        settings: Settings,
        thread: usize,
        queues: impl Into<ThreadQueues>,
    ) -> Result<SourceLink, ConnectError> {
        let link = self.prepare_source(settings, thread, queues).await?;
        link.begin().await;
        Ok(link)
    }

    /// As [`Websockets::open_source`], but nothing is delivered before [`SourceLink::begin`]. A rule's sinks are opened
    /// after its sources, and no message on a connection that both share may be missed. Until then messages wait (in
    /// the socket), unless another source already reads the endpoint: that one is not held up.
    ///
    /// # Errors
    /// As [`Websockets::open_source`].
    pub async fn prepare_source(
        &self,
        settings: Settings,
        thread: usize,
        queues: impl Into<ThreadQueues>,
    ) -> Result<SourceLink, ConnectError> {
        let mut registry = self.hub.registry.lock().await;
        let (endpoint, fresh) = self.hub.endpoint(&mut registry, Use::Source, &settings, thread).await?;
        let link = endpoint.link(Use::Source, settings);
        let subscriber = Subscriber::new(queues.into());
        let early = !endpoint.is_read();
        if early {
            endpoint.subscribe(&subscriber);
        }
        self.hub.publish(&mut registry, &endpoint, fresh);
        Ok(SourceLink::new(Hold::new(self.hub.clone(), endpoint, link), subscriber, early))
    }

    /// Opens a sink. `signal` is raised when an outlet with `slowClient: block` is ready again.
    ///
    /// # Errors
    /// [`ConnectError`] if the data server cannot listen, or if `checkConnection` is set and no connection is
    /// established (client role: within the handshake timeout).
    pub async fn open_sink(&self, settings: Settings, thread: usize, signal: Signal) -> Result<SinkLink, ConnectError> {
        let queue = SinkQueue::new(&settings, signal, &self.hub.data);
        self.open_end(settings, thread, SinkEnd::Queue(queue)).await
    }

    /// Opens a sink of a client role whose messages are stored.
    ///
    /// # Errors
    /// As [`Websockets::open_sink`].
    pub(in crate::io) async fn open_stored_sink(
        &self,
        settings: Settings,
        thread: usize,
        signal: Signal,
        store: Held,
    ) -> Result<SinkLink, ConnectError> {
        self.open_end(settings, thread, SinkEnd::Stored(StoredSink::new(store, signal))).await
    }

    async fn open_end(&self, settings: Settings, thread: usize, queue: SinkEnd) -> Result<SinkLink, ConnectError> {
        let mut registry = self.hub.registry.lock().await;
        let check = settings.check_connection;
        if check && settings.role == Role::Server {
            let connected = locked(&self.hub.routes).get(settings.route()).is_some_and(|endpoint| endpoint.peers() > 0);
            if !connected {
                return Err(ConnectError::NoClient(settings.route().to_owned()));
            }
        }
        let limit = settings.handshake_timeout;
        let dials = settings.role != Role::Server;
        let (endpoint, fresh) = self.hub.endpoint(&mut registry, Use::Sink, &settings, thread).await?;
        let wishes = endpoint.link(Use::Sink, settings);
        endpoint.add_sink(&queue.of_endpoint());
        let mut standing = endpoint.standing.subscribe();
        let failures = standing.borrow().failures;
        self.hub.publish(&mut registry, &endpoint, fresh);
        drop(registry);
        let link = SinkLink::new(Hold::new(self.hub.clone(), endpoint.clone(), wishes), queue);
        if check && dials {
            let settled =
                standing.wait_for(|standing| standing.state == LinkState::Connected || standing.failures > failures);
            let settled = tokio::time::timeout(limit + Duration::from_secs(1), settled).await;
            // Only the result is kept, because borrowing the state would block those who change it.
            let connected =
                settled.is_ok_and(|settled| settled.is_ok_and(|standing| standing.state == LinkState::Connected));
            if !connected {
                let reason = endpoint.last_error().map(|(_, error)| error);
                let reason = reason.unwrap_or_else(|| format!("{} cannot be reached", endpoint.settings.address()));
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
        used: Use,
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
            return Ok((self.new_endpoint(settings, thread, LinkState::Connected), true));
        }
        let known = registry.dialled.get(&dial_key(settings)).into_iter().flatten();
        if let Some(endpoint) = known.into_iter().find(|endpoint| endpoint.admits(used, settings)) {
            return Ok((endpoint.clone(), false));
        }
        Ok((self.new_endpoint(settings, thread, LinkState::Connecting), true))
    }

    /// An endpoint without users. It continues the count of unread messages of an earlier one with its address.
    fn new_endpoint(&self, settings: &Settings, thread: usize, state: LinkState) -> Arc<Endpoint> {
        let mut unread = locked(&self.unread);
        if unread.len() >= UNREAD_ADDRESSES {
            unread.retain(|_, count| Arc::strong_count(count) > 1 || count.load(Ordering::Relaxed) > 0);
        }
        let address = match unread.len() {
            0..UNREAD_ADDRESSES => settings.address(),
            _ => "other".to_owned(),
        };
        let count = unread.entry(address).or_default().clone();
        Endpoint::new(settings.clone(), thread, self.data.spread(), state, count, self.egress())
    }

    fn egress(&self) -> Egress {
        self.egress.get().cloned().unwrap_or_else(|| Egress::default().trusting_rules())
    }

    async fn listen(self: &Arc<Self>) -> Result<Server, ConnectError> {
        let settings = locked(&self.settings).clone();
        let access = Access::load(&settings, self.refused.clone())?;
        let ServerSettings { ip, port, handshake_timeout, max_connections, max_connections_per_ip, .. } = settings;
        let limits = Limits::new(max_connections, max_connections_per_ip, admission::descriptors());
        let (routes, events, views) = (self.routes.clone(), self.events.clone(), self.views.clone());
        let paths = Paths { routes, events, views, passage: self.passage.get().cloned() };
        let admission = Admission::new(limits);
        let (totals, live_clients) = (self.totals.clone(), self.live_clients.clone());
        let access = Mutex::new(Arc::new(access));
        let door = Door { access, admission, handshake_timeout, paths, totals, live_clients };
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
        endpoint.uses.fetch_add(1, Ordering::AcqRel);
        if !fresh {
            return;
        }
        if endpoint.settings.role == Role::Server {
            locked(&self.routes).insert(endpoint.settings.route().to_owned(), endpoint.clone());
            return;
        }
        registry.dialled.entry(dial_key(&endpoint.settings)).or_default().push(endpoint.clone());
        let all = &endpoint.settings.addresses;
        let keepers = match endpoint.settings.address_mode {
            AddressMode::Failover => vec![all.clone()],
            AddressMode::Mirror => all.iter().map(|address| vec![address.clone()]).collect(),
        };
        let each = endpoint.settings.connections.max(1);
        let keepers = keepers.into_iter().flat_map(|addresses| std::iter::repeat_n(addresses, each));
        for (number, addresses) in keepers.enumerate() {
            // The first one is on the endpoint's own thread, the others on the following threads.
            let thread = if each > 1 { (endpoint.thread + number) % self.data.len() } else { endpoint.thread };
            let addresses = Addresses::new(addresses);
            let peer = Peer::new(addresses.first(&endpoint.settings), self.totals.clone(), thread);
            peer.hang_up();
            endpoint.join(&peer);
            let (data, presence) = (self.data.at(thread).handle.clone(), Presence::new(endpoint));
            self.control.spawn(client::keep(endpoint.clone(), peer, addresses, data, presence));
        }
    }

    /// Ends a link. The endpoint goes with its last: at once, or, where clients are connected to the data server, when
    /// nothing has used it again for the linger time.
    /// What has ended says goodbye to its peers: whoever wants that waits for `goodbyes`.
    async fn release(self: &Arc<Self>, endpoint: &Arc<Endpoint>, of_rule: bool) {
        let mut registry = self.registry.lock().await;
        let users = registry.users.entry(Arc::as_ptr(endpoint) as usize).or_default();
        *users = users.saturating_sub(1);
        if *users > 0 {
            return;
        }
        registry.users.remove(&(Arc::as_ptr(endpoint) as usize));
        let linger = locked(&self.settings).linger;
        if endpoint.settings.role != Role::Server
            || linger.is_zero()
            || endpoint.peers() == 0
            || self.ended.is_cancelled()
        {
            return self.retire(&mut registry, endpoint, of_rule).await;
        }
        let (hub, endpoint, uses) = (self.clone(), endpoint.clone(), endpoint.uses.load(Ordering::Acquire));
        self.control.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(linger) => {}
                () = hub.ended.cancelled() => {}
            }
            let mut registry = hub.registry.lock().await;
            if endpoint.uses.load(Ordering::Acquire) == uses {
                hub.retire(&mut registry, &endpoint, of_rule).await;
            }
        });
    }

    /// Ends an endpoint that nobody uses, and with the last one the server, where `of_rule` says that a rule had it: after
    /// a named connection the server goes on listening, and clients that come back are answered with 404.
    async fn retire(self: &Arc<Self>, registry: &mut Registry, endpoint: &Arc<Endpoint>, of_rule: bool) {
        if endpoint.settings.role == Role::Server {
            locked(&self.routes).remove(endpoint.settings.route());
            endpoint.close();
            if of_rule {
                self.end_server(registry).await;
            }
        } else {
            let key = dial_key(&endpoint.settings);
            if let Some(same) = registry.dialled.get_mut(&key) {
                same.retain(|other| !Arc::ptr_eq(other, endpoint));
                if same.is_empty() {
                    registry.dialled.remove(&key);
                }
            }
            endpoint.close();
        }
        let (hub, endpoint) = (self.clone(), endpoint.clone());
        self.goodbyes.spawn_on(async move { hub.goodbye(&endpoint).await }, &self.control);
    }

    /// Waits for the answers of the peers to the close frame.
    async fn goodbye(&self, endpoint: &Endpoint) {
        let mut tasks = endpoint.tasks.subscribe();
        let _ = tokio::time::timeout(CLOSE_LIMIT, tasks.wait_for(|tasks| *tasks == 0)).await;
        endpoint.stands(LinkState::Disconnected);
    }

    /// Ends the data server if nobody needs it any more.
    async fn end_server(&self, registry: &mut Registry) {
        let needed = !locked(&self.routes).is_empty() || !self.events.is_empty() || !self.views.is_empty();
        if !needed && let Some(server) = registry.server.take() {
            *locked(&self.listening) = None;
            server.stop().await;
        }
    }

    fn status(&self, endpoint: &Endpoint) -> LinkStatus {
        let standing = *endpoint.standing.borrow();
        let (address, peers) = match endpoint.settings.role {
            Role::Server => {
                let port =
                    locked(&self.listening).map_or_else(|| locked(&self.settings).port, |address| address.port());
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
            stored: 0,
            unproven: 0,
            history: standing.history,
            addresses: endpoint.fares.all(),
        }
    }

    /// Messages that came while no rule read them, where there are such.
    fn unread(&self, endpoint: &Endpoint) -> Vec<(&'static str, u64)> {
        let count = endpoint.unread.load(Ordering::Relaxed);
        if count > 0 { vec![(UNREAD, count)] } else { Vec::new() }
    }
}

fn dial_key(settings: &Settings) -> DialKey {
    DialKey {
        role: settings.role.clone(),
        path: settings.path.clone(),
        tls: settings.tls.as_ref().map(|tls| tls.identity.clone()),
        headers: settings.headers.clone(),
        proxy: settings.proxy.clone(),
        addresses: settings.addresses.clone(),
        mode: settings.address_mode,
        connections: settings.connections.max(1),
    }
}
