//! An endpoint, where sources, sinks and peers meet.
//!
//! In a server role it is a path of the data server with any number of clients. In a client role it is one dialled
//! connection, with one peer that stays while connections come and go. It exists as long as any link uses it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::sync::{OwnedRwLockWriteGuard, RwLock, RwLockReadGuard, watch};

use super::address_history::AddressHistory;
use super::client_queue::{Peer, PeerSink};
use super::config::{Role, Settings};
use super::opening::Opening;
use super::protocol::code;
use super::subscriber::Subscriber;
use super::threads::{Placement, SocketThreads, Spread};
use crate::io::egress::Egress;
use crate::io::queue::{Frame, FrameBatch};
use crate::io::{LinkHistory, LinkState, UNREAD, loss, printable};
use crate::sync::locked;

/// The state of an endpoint.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub state: LinkState,
    pub since: SystemTime,
    /// failed dials and broken connections since the start
    pub failures: u64,
    /// the history of its connections
    pub history: LinkHistory,
}

/// Keeps an endpoint from delivering messages: its sockets are not read.
pub(super) struct Pause(#[allow(dead_code, reason = "its end is what matters")] OwnedRwLockWriteGuard<()>);

pub(super) struct Endpoint {
    /// the settings of the link that created it: its address. [`Endpoint::terms`] combines those of all links
    pub settings: Settings,
    /// the links, each with the number of links that want the same: thousands of rules may send to one endpoint
    links: Mutex<Vec<(Arc<Link>, usize)>>,
    /// the data thread of streams that only one thread reads, and in a client role of the connection
    pub thread: usize,
    /// in a client role: where the peer may be
    pub egress: Egress,
    /// how its clients are spread over the data threads
    clients: Spread,
    /// its state
    pub standing: watch::Sender<Standing>,
    /// set when nothing uses it any more
    pub closing: watch::Sender<bool>,
    /// the number of open sockets, plus one for the dialler of a client role
    pub tasks: watch::Sender<usize>,
    last_error: Mutex<Option<(SystemTime, String)>>,
    /// in a client role: the status of each address
    pub history_by_address: AddressHistory,
    subscribers: Mutex<Arc<Vec<Arc<Subscriber>>>>,
    /// locked for reading while a batch is delivered
    delivering: Arc<RwLock<()>>,
    members: Mutex<Members>,
    /// messages that arrived while no source could take them; endpoints with the same address share it
    pub unread: Arc<AtomicU64>,
    /// how many of them have been logged
    unread_logged: AtomicU64,
    /// how often it was taken into use: an unused endpoint is closed later unless this has grown
    pub uses: AtomicU64,
    /// in a client role: the number of open connections
    connected: AtomicUsize,
}

/// The purpose of a use of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// to keep it open
    Lease,
    /// to read
    Source,
    /// to write
    Sink,
}

/// One use of an endpoint, with its user's settings.
pub(super) struct Link {
    pub used: Use,
    pub settings: Settings,
}

impl Link {
    /// Whether it wants the same of a connection. Every setting is named here, so that a new one is decided on.
    fn wants(&self, used: Use, settings: &Settings) -> bool {
        let Settings {
            // They find the endpoint, so all its links have the same.
            role: _,
            path: _,
            shown_path: _,
            tls: _,
            headers: _,
            proxy: _,
            addresses: _,
            address_mode: _,
            connections: _,
            // They belong to one source or sink, not to the connection.
            checks: _,
            client_queue: _,
            slow_client: _,
            cache: _,
            check_connection: _,
            // `sends_like` compares them.
            on_open: _,
            keep_alive: _,
            subprotocols: _,
            events,
            connection,
            data_timeout,
            max_connection_age,
            overlap,
            ping_interval,
            idle_timeout,
            write_timeout,
            reconnect,
            handshake_timeout,
            max_message_size,
            per_message_deflate,
        } = &self.settings;
        self.used == used
            && self.settings.sends_like(settings)
            && *events == settings.events
            && *connection == settings.connection
            && *data_timeout == settings.data_timeout
            && *max_connection_age == settings.max_connection_age
            && *overlap == settings.overlap
            && *ping_interval == settings.ping_interval
            && *idle_timeout == settings.idle_timeout
            && *write_timeout == settings.write_timeout
            && *reconnect == settings.reconnect
            && *handshake_timeout == settings.handshake_timeout
            && *max_message_size == settings.max_message_size
            && *per_message_deflate == settings.per_message_deflate
    }
}

#[derive(Default)]
struct Members {
    peers: Vec<Arc<Peer>>,
    sinks: Vec<Arc<dyn PeerSink>>,
    closed: bool,
}

impl Endpoint {
    /// An endpoint without users.
    pub fn new(
        settings: Settings,
        thread: usize,
        clients: Spread,
        state: LinkState,
        unread: Arc<AtomicU64>,
        egress: Egress,
    ) -> Arc<Endpoint> {
        Arc::new(Endpoint {
            settings,
            links: Mutex::default(),
            thread,
            egress,
            clients,
            standing: watch::Sender::new(Standing {
                state,
                since: SystemTime::now(),
                failures: 0,
                history: LinkHistory::default(),
            }),
            closing: watch::Sender::new(false),
            tasks: watch::Sender::new(0),
            last_error: Mutex::default(),
            history_by_address: AddressHistory::default(),
            subscribers: Mutex::default(),
            delivering: Arc::default(),
            members: Mutex::default(),
            unread_logged: AtomicU64::new(unread.load(Ordering::Relaxed)),
            unread,
            uses: AtomicU64::new(0),
            connected: AtomicUsize::new(0),
        })
    }

    /// Adds a link. Messages of `onOpen` that no earlier link had are sent on an open connection now.
    pub fn link(&self, used: Use, settings: Settings) -> Arc<Link> {
        let mut links = locked(&self.links);
        if let Some((known, users)) = links.iter_mut().find(|(link, _)| link.wants(used, &settings)) {
            *users += 1;
            return known.clone();
        }
        let others = || links.iter().map(|(link, _)| &link.settings);
        let known: Vec<&Opening> = others().flat_map(|settings| &settings.on_open).collect();
        let fresh: Vec<&Opening> = settings.on_open.iter().filter(|opening| !known.contains(opening)).collect();
        // If a file cannot be read, the next dial reports the error.
        let fresh: Vec<String> = fresh.iter().filter_map(|opening| opening.messages().ok()).flatten().collect();
        for (property, differs) in [
            ("pingInterval", others().any(|other| other.ping_interval != settings.ping_interval)),
            ("idleTimeout", others().any(|other| other.idle_timeout != settings.idle_timeout)),
            ("writeTimeout", others().any(|other| other.write_timeout != settings.write_timeout)),
            ("reconnect", others().any(|other| other.reconnect != settings.reconnect)),
            ("handshakeTimeout", others().any(|other| other.handshake_timeout != settings.handshake_timeout)),
            ("maxMessageSize", others().any(|other| other.max_message_size != settings.max_message_size)),
        ] {
            if differs {
                let holds = match property {
                    "maxMessageSize" => "the largest",
                    _ if used == Use::Lease || links.iter().any(|(link, _)| link.used == Use::Lease) => {
                        "the connection's own"
                    }
                    _ => "the first source's",
                };
                tracing::warn!(
                    endpoint = %self.settings.address(),
                    "sources and sinks of one connection differ in {property}: {holds} holds, for connections from now on"
                );
            }
        }
        let link = Arc::new(Link { used, settings });
        links.push((link.clone(), 1));
        // The links are locked meanwhile, as in `opens`, so that each message is sent once on each connection.
        for peer in &locked(&self.members).peers {
            peer.say(&fresh);
        }
        link
    }

    /// Removes a link.
    pub fn unlink(&self, link: &Arc<Link>) {
        locked(&self.links).retain_mut(|(other, users)| {
            if Arc::ptr_eq(other, link) {
                *users -= 1;
            }
            *users > 0
        });
    }

    /// Its uses: the purpose of each, and its named connection.
    pub fn uses(&self) -> Vec<(Use, Option<Arc<str>>)> {
        let links = locked(&self.links);
        let uses = |(link, users): &(Arc<Link>, usize)| vec![(link.used, link.settings.connection.clone()); *users];
        links.iter().flat_map(uses).collect()
    }

    /// The combined settings of its links, for the next connection: those of the lease, otherwise of the first source,
    /// otherwise of the first sink; the largest limit of messages, and all subprotocols.
    pub fn terms(&self) -> Settings {
        let links = locked(&self.links);
        let first = |used| links.iter().find(|(link, _)| link.used == used);
        let socket = || links.iter().find(|(link, _)| !link.settings.events);
        let first = first(Use::Lease).or_else(|| first(Use::Source)).or_else(socket).or(links.first());
        let mut terms = first.map_or_else(|| self.settings.clone(), |(link, _)| link.settings.clone());
        for Link { settings, .. } in links.iter().map(|(link, _)| &**link) {
            terms.max_message_size = terms.max_message_size.max(settings.max_message_size);
            terms.keep_alive = terms.keep_alive.or_else(|| settings.keep_alive.clone());
            terms.data_timeout = terms.data_timeout.or(settings.data_timeout);
            if terms.max_connection_age.is_none() {
                (terms.max_connection_age, terms.overlap) = (settings.max_connection_age, settings.overlap);
            }
            for protocol in &settings.subprotocols {
                if !terms.subprotocols.contains(protocol) {
                    terms.subprotocols.push(protocol.clone());
                }
            }
        }
        terms
    }

    /// Whether clients may read events here, and whether they may connect with websockets.
    pub fn serves(&self) -> (bool, bool) {
        let links = locked(&self.links);
        let of = |events: bool| links.iter().any(|(link, _)| link.settings.events == events);
        // Without links, it keeps the kind of its last links.
        if links.is_empty() { (self.settings.events, !self.settings.events) } else { (of(true), of(false)) }
    }

    /// Whether a link can share the connection of a client role. Links with the same messages of their own share one,
    /// and so do sinks without such messages. Links with the same named connection always share it.
    pub fn admits(&self, used: Use, settings: &Settings) -> bool {
        let joins = |used: Use, settings: &Settings| used != Use::Source && settings.is_silent();
        locked(&self.links).iter().all(|(link, _)| {
            let own = &link.settings;
            let named = own.connection.is_some() && own.connection == settings.connection;
            named || joins(used, settings) || joins(link.used, own) || own.sends_like(settings)
        })
    }

    /// The messages that its links send first on a connection, each once.
    pub fn openings(&self) -> Vec<Opening> {
        let mut openings: Vec<Opening> = Vec::new();
        for opening in locked(&self.links).iter().flat_map(|(link, _)| &link.settings.on_open) {
            if !openings.contains(opening) {
                openings.push(opening.clone());
            }
        }
        openings
    }

    /// A connection of a client role begins: `peer` gets the messages of `onOpen` of all links, each once. `read` are
    /// those that were read before the dial; links may have been added since.
    pub fn opens(&self, peer: &Peer, read: Vec<(Opening, Vec<String>)>) {
        let links = locked(&self.links);
        let mut seen: Vec<&Opening> = Vec::new();
        let mut messages = Vec::new();
        for opening in links.iter().flat_map(|(link, _)| &link.settings.on_open) {
            if seen.contains(&opening) {
                continue;
            }
            seen.push(opening);
            match read.iter().find(|(known, _)| known == opening) {
                Some((_, read)) => messages.extend(read.iter().cloned()),
                None => messages.extend(opening.messages().unwrap_or_default()),
            }
        }
        peer.say_first(messages);
    }

    /// Records that a connection of a client role to this address is open.
    pub fn connects(&self, address: &str) {
        self.history_by_address.connects(address);
        self.connected.fetch_add(1, Ordering::AcqRel);
        self.stands(LinkState::Connected);
    }

    /// Records that a connection of a client role has ended; it is dialled again.
    pub fn disconnects(&self, address: &str) {
        self.history_by_address.disconnects(address);
        if self.connected.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.stands(LinkState::Connecting);
        }
    }

    /// Records why a connection of a client role has ended.
    pub fn is_closed(&self, address: &str, error: String) {
        self.history_by_address.is_closed(address, &printable(&error));
        self.fails(error);
    }

    /// Records why an address could not be dialled.
    pub fn is_unreached(&self, address: &str, error: String) {
        self.history_by_address.is_unreached(address, &printable(&error));
        self.fails(error);
    }

    /// Records that a client role stops dialling.
    pub fn ends(&self) {
        if self.connected.load(Ordering::Acquire) == 0 {
            self.stands(LinkState::Disconnected);
        }
    }

    /// Lets `next` replace a peer, which gets only the messages that already wait for it.
    pub fn succeeds(&self, old: &Arc<Peer>, next: &Arc<Peer>) {
        let mut members = locked(&self.members);
        for sink in &members.sinks {
            sink.retire(old);
            sink.clone().join(next);
        }
        members.peers.retain(|peer| !Arc::ptr_eq(peer, old));
        members.peers.push(next.clone());
        if members.closed {
            next.dismiss(code::AWAY, "the endpoint has ended");
        }
    }

    /// Adds a source.
    pub fn subscribe(&self, subscriber: &Arc<Subscriber>) {
        let mut subscribers = locked(&self.subscribers);
        *subscribers = Arc::new(subscribers.iter().chain([subscriber]).cloned().collect());
        drop(subscribers);
        self.log_unread();
    }

    /// Whether any source takes messages.
    pub fn is_read(&self) -> bool {
        locked(&self.subscribers).iter().any(|subscriber| subscriber.has_begun())
    }

    /// The sources, after each has begun, and a guard that delays [`Endpoint::pause`].
    ///
    /// No lock is held while it waits for a source: something that lets it begin may first need a pause.
    async fn begun_subscribers(&self) -> (RwLockReadGuard<'_, ()>, Arc<Vec<Arc<Subscriber>>>) {
        let unbegun = |subscribers: &[Arc<Subscriber>]| subscribers.iter().find(|one| !one.has_begun()).cloned();
        loop {
            let waits = unbegun(&locked(&self.subscribers));
            if let Some(subscriber) = waits {
                subscriber.begins().await;
                continue;
            }
            let delivering = self.delivering.read().await;
            let subscribers = locked(&self.subscribers).clone();
            // Others may have been added in the meantime.
            if unbegun(&subscribers).is_none() {
                return (delivering, subscribers);
            }
        }
    }

    /// Removes a source. Messages that are being delivered to it still arrive: see [`Endpoint::pause`].
    pub fn unsubscribe(&self, subscriber: &Arc<Subscriber>) {
        let mut subscribers = locked(&self.subscribers);
        let rest = subscribers.iter().filter(|other| !Arc::ptr_eq(other, subscriber)).cloned().collect();
        *subscribers = Arc::new(rest);
        drop(subscribers);
        // Messages must not wait for ever for a rule that does not start.
        subscriber.begin();
    }

    /// Waits until everything read is delivered; nothing more is until the result is dropped.
    pub async fn pause(&self) -> Pause {
        Pause(self.delivering.clone().write_owned().await)
    }

    /// Logs the number of unread messages since the last call.
    fn log_unread(&self) {
        let unread = self.unread.load(Ordering::Relaxed);
        let fresh = unread.saturating_sub(self.unread_logged.swap(unread, Ordering::Relaxed));
        if fresh > 0 {
            tracing::warn!(endpoint = %self.settings.address(), "{}", loss(UNREAD, fresh));
        }
    }

    /// Adds a sink: its messages go to all current peers from now on.
    pub fn add_sink(&self, sink: &Arc<dyn PeerSink>) {
        let mut members = locked(&self.members);
        for peer in &members.peers {
            sink.clone().join(peer);
        }
        members.sinks.push(sink.clone());
    }

    /// Removes a sink.
    pub fn remove_sink(&self, sink: &Arc<dyn PeerSink>) {
        let is_other = |other: &Arc<dyn PeerSink>| !std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(sink));
        locked(&self.members).sinks.retain(is_other);
        sink.end();
    }

    /// The current sinks.
    pub fn sinks(&self) -> Vec<Arc<dyn PeerSink>> {
        locked(&self.members).sinks.clone()
    }

    /// Adds a peer; false if the endpoint is closing.
    pub fn join(&self, peer: &Arc<Peer>) -> bool {
        let mut members = locked(&self.members);
        if members.closed {
            return false;
        }
        for sink in &members.sinks {
            sink.clone().join(peer);
        }
        members.peers.push(peer.clone());
        drop(members);
        if self.settings.role == Role::Server {
            self.standing.send_modify(|standing| standing.history.connects(SystemTime::now()));
        }
        true
    }

    /// Chooses a thread for a new client: the one with the fewest clients, but if the streams that read from here are
    /// on one thread, that thread, so that messages do not cross threads.
    pub fn place(&self, threads: &SocketThreads) -> Placement {
        let read = locked(&self.links).iter().any(|(link, _)| link.used == Use::Source);
        let spread = locked(&self.subscribers).iter().any(|subscriber| subscriber.queues.is_spread());
        if read && !spread { threads.place_at(self.thread, &self.clients) } else { threads.place(&self.clients) }
    }

    /// Removes a peer.
    pub fn leave(&self, peer: &Arc<Peer>) {
        let mut members = locked(&self.members);
        if let Some(place) = members.peers.iter().position(|other| Arc::ptr_eq(other, peer)) {
            members.peers.swap_remove(place);
        }
        for sink in &members.sinks {
            sink.retire(peer);
        }
        drop(members);
        if self.settings.role == Role::Server {
            self.standing.send_modify(|standing| standing.history.disconnects(SystemTime::now()));
        }
        peer.leave();
    }

    /// The number of peers.
    pub fn peers(&self) -> usize {
        locked(&self.members).peers.len()
    }

    /// Disconnects all peers with code 1001, and accepts no new ones.
    pub fn close(&self) {
        self.closing.send_replace(true);
        let peers = {
            let mut members = locked(&self.members);
            members.closed = true;
            members.peers.clone()
        };
        for peer in peers {
            peer.dismiss(code::AWAY, "the endpoint has ended");
        }
        self.log_unread();
    }

    /// Delivers messages to every source, and waits for the slowest.
    pub async fn deliver(&self, peer: &Peer, frames: Vec<Frame>, received: std::time::Instant) {
        let _hearing = peer.heard.begin();
        let (_delivering, subscribers) = self.begun_subscribers().await;
        let Some((last, others)) = subscribers.split_last() else {
            let before = self.unread.fetch_add(frames.len() as u64, Ordering::Relaxed);
            // At the end of the process, what peers still send has no reader any more.
            if before == self.unread_logged.load(Ordering::Relaxed) && !*self.closing.borrow() {
                tracing::warn!(
                    endpoint = %self.settings.address(),
                    "messages arrive and are ignored: no stream reads this endpoint"
                );
            }
            return;
        };
        let bytes = frames.iter().map(|frame| frame.bytes().len() as u64).sum();
        let batch = FrameBatch { frames, origin: Some(peer.origin.clone()), received };
        for subscriber in others {
            subscriber.deliver(batch.clone(), bytes, peer.thread).await;
        }
        last.deliver(batch, bytes, peer.thread).await;
    }

    /// Sets the state.
    pub fn stands(&self, state: LinkState) {
        self.standing.send_if_modified(|standing| {
            let changed = standing.state != state;
            if changed {
                let now = SystemTime::now();
                let dials = self.settings.role != Role::Server;
                match (standing.state, state) {
                    (_, LinkState::Connected) if dials => standing.history.connects(now),
                    (LinkState::Connected, _) if dials => standing.history.disconnects(now),
                    _ => {}
                }
                (standing.state, standing.since) = (state, now);
            }
            changed
        });
    }

    /// Records an error.
    pub fn fails(&self, error: String) {
        // The text may contain what the peer sent, which must not control a terminal.
        let error = printable(&error).into_owned();
        tracing::debug!(endpoint = %self.settings.address(), %error, "websocket");
        *locked(&self.last_error) = Some((SystemTime::now(), error));
        self.standing.send_modify(|standing| {
            standing.failures += 1;
            standing.history.failures += 1;
        });
    }

    pub fn last_error(&self) -> Option<(SystemTime, String)> {
        locked(&self.last_error).clone()
    }
}

/// Counts a task of an endpoint as long as it exists.
pub(super) struct Presence(Arc<Endpoint>);

impl Presence {
    /// Counts one more task.
    pub fn new(endpoint: &Arc<Endpoint>) -> Presence {
        endpoint.tasks.send_modify(|tasks| *tasks += 1);
        Presence(endpoint.clone())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.tasks.send_modify(|tasks| *tasks -= 1);
    }
}

/// A peer's stay at an endpoint. Dropping it removes the peer, however its task ends.
pub(super) struct Stay {
    pub endpoint: Arc<Endpoint>,
    pub peer: Arc<Peer>,
    _placement: Placement,
    _presence: Presence,
}

impl Stay {
    /// Adds `peer` on its thread; `None` if the endpoint is closing.
    pub fn new(endpoint: &Arc<Endpoint>, peer: Arc<Peer>, placement: Placement) -> Option<Stay> {
        let presence = Presence::new(endpoint);
        let stays = endpoint.join(&peer);
        stays.then(|| Stay { endpoint: endpoint.clone(), peer, _placement: placement, _presence: presence })
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        self.endpoint.leave(&self.peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_said_first_does_not_gather_while_nobody_hears_it() {
        let props = serde_json::json!({"addr": "127.0.0.1:1", "onOpen": "subscribe"});
        let settings = Settings::source("/p", props.as_object().unwrap()).unwrap().0;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let clients = SocketThreads::new(vec![runtime.handle().clone()]).spread();
        let endpoint =
            Endpoint::new(settings.clone(), 0, clients, LinkState::Connecting, Arc::default(), Egress::default());
        let peer = Peer::new("p".to_owned(), Arc::default(), 0);
        peer.hang_up();
        endpoint.join(&peer);
        // Rules come and go while the peer is unreachable.
        for _ in 0..100 {
            endpoint.unlink(&endpoint.link(Use::Source, settings.clone()));
        }
        let _link = endpoint.link(Use::Source, settings.clone());
        let sent = || std::iter::from_fn(|| peer.next_first()).count();
        assert_eq!(sent(), 0);
        endpoint.opens(&peer, Vec::new());
        assert_eq!(sent(), 1);
        let props = serde_json::json!({"addr": "127.0.0.1:1", "onOpen": "more"});
        endpoint.link(Use::Source, Settings::source("/p", props.as_object().unwrap()).unwrap().0);
        assert_eq!(sent(), 1, "the connection is open");
    }
}
