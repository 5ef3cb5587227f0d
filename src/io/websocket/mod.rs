//! The websocket connector: sources and sinks, each as server and as client.
//!
//! [`Websockets`] is the hub. It keeps one endpoint for each path of the data server and one for each distinct
//! connection that is dialled, and lets sources and sinks share them. It lives on the control runtime; open sockets
//! live on data threads. It knows messages as bytes, never rows.

pub mod config;

mod access;
mod address_history;
mod admission;
mod client;
mod client_queue;
mod connection;
mod dial;
mod endpoint;
mod error;
mod events;
mod fan_out;
mod gate;
mod handover;
mod hub;
mod jwt;
mod lane;
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

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role as WireRole, WebSocketConfig};

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

use crate::io::LinkState;
use crate::io::egress::Egress;
use crate::io::events::EventSink;
use crate::io::queue::Signal;
use crate::io::sink::OpenSink;
use crate::io::source::OpenSource;
use crate::io::spool::Held;
use crate::io::thread_queues::ThreadQueues;
use crate::sync::locked;
use crate::view::Views;
use config::Role;
use endpoint::Use;
use fan_out::SinkQueue;
use hub::Hub;
use lease::Hold;
use links::SinkEnd;
use stored::StoredSink;
use subscriber::Subscriber;

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

/// The hub of all websocket links. Clones share it.
#[derive(Clone)]
pub struct Websockets {
    hub: Arc<Hub>,
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
        Websockets { hub: Arc::new(Hub::new(settings, data_threads, views)) }
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
            // Only the result is kept, because borrowing the state would block writers.
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
