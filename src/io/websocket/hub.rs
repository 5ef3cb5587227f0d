//! The state of the hub: its endpoints by path and by connection, its data server, and the users of each endpoint.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::access::Access;
use super::admission::{self, Admission, Limits};
use super::client::{self, Addresses};
use super::client_queue::Peer;
use super::config::{AddressMode, Role};
use super::endpoint::{Endpoint, Presence, Use};
use super::gate::Refusals;
use super::server::{Door, Paths, Routes, Server};
use super::threads::{SocketThreads, Spread};
use super::totals::Totals;
use super::{ConnectError, Passage, ProxyChoice, ServerSettings, Settings};
use crate::io::egress::Egress;
use crate::io::events::EventPaths;
use crate::io::tls::Identity;
use crate::io::{LinkState, LinkStatus, UNREAD};
use crate::sync::locked;
use crate::view::Views;

/// How long a closing link waits for its peers' answers to the close frame; longer than one connection waits.
const CLOSE_LIMIT: Duration = Duration::from_secs(3);

/// The most addresses whose unread messages are counted separately; those of further addresses are counted together.
const UNREAD_ADDRESSES: usize = 1024;

/// The destination of a dialled connection, and the client's identity there. Links with the same key share a connection
/// if their own messages on it are the same ([`Endpoint::admits`]).
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct DialKey {
    role: Role,
    path: String,
    tls: Option<Arc<Identity>>,
    headers: Vec<(String, String)>,
    proxy: ProxyChoice,
    addresses: Vec<Role>,
    mode: AddressMode,
    connections: usize,
}

/// The hub that all clones of [`Websockets`](super::Websockets) share.
pub(super) struct Hub {
    pub(super) control: Handle,
    pub(super) data: Arc<SocketThreads>,
    /// how the clients of live views are spread over the data threads
    pub(super) live_clients: Spread,
    pub(super) settings: Mutex<ServerSettings>,
    /// the allowed addresses of peers; unset: those that an operator's rules may use
    pub(super) egress: OnceLock<Egress>,
    pub(super) routes: Routes,
    pub(super) events: EventPaths,
    pub(super) views: Arc<Views>,
    /// set if the rows of the views are in another process
    pub(super) passage: OnceLock<Passage>,
    pub(super) registry: tokio::sync::Mutex<Registry>,
    pub(super) listening: Mutex<Option<SocketAddr>>,
    pub(super) refused: Arc<Refusals>,
    /// messages that arrived while no rule read them, by the endpoint's address; they outlive the endpoint
    pub(super) unread: Mutex<BTreeMap<String, Arc<AtomicU64>>>,
    /// cancelled by [`Websockets::end`](super::Websockets::end): then unused endpoints do not stay
    pub(super) ended: CancellationToken,
    /// ended endpoints that wait for their peers' answers to the close frame
    pub(super) goodbyes: TaskTracker,
    pub(super) totals: Arc<Totals>,
}

#[derive(Default)]
pub(super) struct Registry {
    pub(super) server: Option<Server>,
    /// several for a key if their links send different messages
    pub(super) dialled: HashMap<DialKey, Vec<Arc<Endpoint>>>,
    /// the number of links by the endpoint's memory address: the endpoint ends with its last link
    pub(super) users: HashMap<usize, usize>,
}

impl Hub {
    pub(super) fn new(settings: ServerSettings, data_threads: Vec<Handle>, views: Arc<Views>) -> Hub {
        let data = SocketThreads::new(data_threads);
        let unfinished = settings.unfinished_bytes;
        Hub {
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
        }
    }

    /// The endpoint for `settings`, and whether it is new. A new one is not visible to others yet.
    pub(super) async fn endpoint(
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

    pub(super) fn egress(&self) -> Egress {
        self.egress.get().cloned().unwrap_or_else(|| Egress::default().trusting_rules())
    }

    pub(super) async fn listen(self: &Arc<Self>) -> Result<Server, ConnectError> {
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

    /// Counts a link of `endpoint`, and makes a new endpoint visible to its peers.
    pub(super) fn publish(self: &Arc<Self>, registry: &mut Registry, endpoint: &Arc<Endpoint>, fresh: bool) {
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

    /// Ends a link. The endpoint ends with its last link: at once, or, if clients are connected to the data server,
    /// when it was not used again for the linger time. An ended endpoint closes its connections; `goodbyes` ends when
    /// this is done.
    pub(super) async fn release(self: &Arc<Self>, endpoint: &Arc<Endpoint>, of_rule: bool) {
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

    /// Ends an unused endpoint. With the last one the server ends too, if `of_rule` says that a rule used the endpoint.
    /// After a named connection, the server continues to listen, and answers returning clients with 404.
    pub(super) async fn retire(self: &Arc<Self>, registry: &mut Registry, endpoint: &Arc<Endpoint>, of_rule: bool) {
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

    /// Waits for the peers' answers to the close frame.
    pub(super) async fn goodbye(&self, endpoint: &Endpoint) {
        let mut tasks = endpoint.tasks.subscribe();
        let _ = tokio::time::timeout(CLOSE_LIMIT, tasks.wait_for(|tasks| *tasks == 0)).await;
        endpoint.stands(LinkState::Disconnected);
    }

    /// Ends the data server if nothing needs it any more.
    pub(super) async fn end_server(&self, registry: &mut Registry) {
        let needed = !locked(&self.routes).is_empty() || !self.events.is_empty() || !self.views.is_empty();
        if !needed && let Some(server) = registry.server.take() {
            *locked(&self.listening) = None;
            server.stop().await;
        }
    }

    pub(super) fn status(&self, endpoint: &Endpoint) -> LinkStatus {
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
            state: standing.state,
            peers,
            last_error: endpoint.last_error(),
            history: standing.history,
            addresses: endpoint.history_by_address.all(),
            ..LinkStatus::new(address, standing.since)
        }
    }

    /// The number of messages that arrived while no rule read them, if there are any.
    pub(super) fn unread(&self, endpoint: &Endpoint) -> Vec<(&'static str, u64)> {
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
