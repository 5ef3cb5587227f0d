//! The data server: one listener for all endpoints in server roles.
//!
//! Handshakes run on the control runtime, limited in number ([`Admission`]), time and size, so that slow or invalid
//! clients cost little. Then the socket moves to a data thread (`threads`).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::{TlsAcceptor, TlsStream};
use tokio_tungstenite::tungstenite::handshake::machine::TryParse;
use tokio_tungstenite::tungstenite::handshake::server::{Request, create_response, write_response};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, Uri, header};

use super::access::Access;
use super::admission::{Admission, Seat};
use super::client_queue::Peer;
use super::connection::{self, refuse};
use super::endpoint::{Endpoint, Stay};
use super::events;
use super::gate::{Gate, Refusal, is_local};
use super::handover::{HandedOver, Passage};
use super::live;
use super::protocol::{Opened, Side, negotiate};
use super::routes::{self, Segments};
use super::socket::{Socket, Wire};
use super::threads::{SocketThreads, Spread};
use super::totals::Totals;
use crate::io::events::{EventPaths, Watcher};
use crate::sync::locked;
use crate::view::{Identity, Views};

/// The most connections that wait to be accepted; the system may allow fewer.
const BACKLOG: u32 = 4096;

/// The answer to a page whose origin is not allowed.
const ORIGIN_REFUSED: &str = "pages of this origin may not connect: add it to source.httpServerOrigins. Without that \
                              setting, the page must come from the host that it connects to, and a browser on this \
                              machine must name it by an address, localhost or its host name\n";

/// The longest head of a request, bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// The endpoints by path.
pub(super) type Routes = Arc<Mutex<HashMap<String, Arc<Endpoint>>>>;

/// What clients can request.
#[derive(Clone)]
pub(super) struct Paths {
    /// endpoints
    pub routes: Routes,
    /// results as events
    pub events: EventPaths,
    /// live views
    pub views: Arc<Views>,
    /// how their clients reach process 0, if the rows are there
    pub passage: Option<Passage>,
}

/// A client that has passed its handshake.
pub(super) enum Guest {
    /// at an endpoint
    Socket(Box<Opened<Wire>>, Stay, Seat),
    /// at an endpoint, to read events
    Reader(Wire, Stay, Option<String>, Seat),
    /// a reader of a trial's results
    Events(Wire, Watcher, Option<String>, Seat),
    /// a websocket client of live views
    Live(Box<Opened<Wire>>, Box<live::Asked>, Seat),
    /// a reader of live views, by server-sent events
    LiveEvents(Wire, Box<live::Asked>, Seat),
    /// at live views of process 0
    HandedOver(HandedOver, Passage, Seat),
}

/// What a data server requires of its clients, and the paths that it offers.
pub(super) struct Door {
    /// who may connect, and the server's certificate
    pub access: Mutex<Arc<Access>>,
    /// the limits of clients
    pub admission: Arc<Admission>,
    /// time limit for the TLS and HTTP handshakes together
    pub handshake_timeout: Duration,
    /// the paths
    pub paths: Paths,
    /// counts why connections ended
    pub totals: Arc<Totals>,
    /// how clients of live views are spread over the data threads
    pub live_clients: Spread,
}

impl Door {
    fn access(&self) -> Arc<Access> {
        locked(&self.access).clone()
    }
}

/// A running data server.
pub(super) struct Server {
    /// its address
    pub address: SocketAddr,
    pub door: Arc<Door>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Binds `address` and accepts clients until [`Server::stop`].
    ///
    /// # Errors
    /// The system's errors, such as an address in use.
    pub async fn start(address: (String, u16), door: Door, data: Arc<SocketThreads>) -> io::Result<Server> {
        let listener = listen(address).await?;
        let address = listener.local_addr()?;
        let stop = watch::Sender::new(false);
        let mut stopped = stop.subscribe();
        let door = Arc::new(door);
        let accepted = accept(listener, door.clone(), data);
        let task = tokio::spawn(async move {
            tokio::select! {
                never = accepted => match never {},
                _ = stopped.wait_for(|stop| *stop) => {}
            }
        });
        Ok(Server { address, door, stop, task })
    }

    /// Applies `access` to new clients.
    pub fn admit_by(&self, access: Access) {
        *locked(&self.door.access) = Arc::new(access);
    }

    /// Stops listening; the port is free when this returns.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.task.await;
    }
}

/// Binds the first of these addresses that can be bound.
async fn listen(address: (String, u16)) -> io::Result<TcpListener> {
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    for address in tokio::net::lookup_host(address).await? {
        let bind = || {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            #[cfg(unix)]
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)
        };
        match bind() {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn accept(listener: TcpListener, door: Arc<Door>, data: Arc<SocketThreads>) -> std::convert::Infallible {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // For example, no file descriptors are left: trying again at once would only use CPU.
                tracing::warn!(%error, "the data server cannot accept a client");
                door.admission.make_way();
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let mut arrival = door.admission.arrive(from.ip());
        let (door, data) = (door.clone(), data.clone());
        tokio::spawn(async move {
            let greeted = tokio::select! {
                greeted = tokio::time::timeout(door.handshake_timeout, greet(stream, from, &door, &data)) => greeted,
                () = arrival.evicted() => {
                    door.access().gate.refuses(Refusal::Handshakes);
                    return;
                }
            };
            drop(arrival);
            match greeted {
                Ok(Ok(Some(guest))) => attend(guest, from, &door, &data).await,
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::debug!(client = %from, %error, "handshake failed"),
                Err(_) => {
                    door.access().gate.refuses(Refusal::Time);
                    tracing::debug!(client = %from, "handshake took too long");
                }
            }
        });
    }
}

/// Serves a client after its handshake, usually in a task on a data thread.
pub(super) async fn attend(guest: Guest, from: SocketAddr, door: &Door, data: &SocketThreads) {
    match guest {
        Guest::Events(wire, watcher, origin, seat) => {
            if let Err(error) = watcher.serve(wire, origin.as_deref()).await {
                tracing::debug!(client = %from, %error, "a client of server-sent events has disconnected");
            }
            drop(seat);
        }
        Guest::Live(opened, asked, seat) => {
            let place = live::Place::new(data, &door.live_clients, seat);
            let thread = place.handle().clone();
            let (views, totals) = (door.paths.views.clone(), door.totals.clone());
            thread.spawn(live::serve(*opened, views, *asked, place, totals));
        }
        Guest::LiveEvents(wire, asked, seat) => {
            let place = live::Place::new(data, &door.live_clients, seat);
            let thread = place.handle().clone();
            thread.spawn(live::serve_events(wire, door.paths.views.clone(), *asked, place));
        }
        Guest::HandedOver(client, passage, seat) => {
            let place = live::Place::new(data, &door.live_clients, seat);
            let thread = place.handle().clone();
            thread.spawn(client.go(passage, place));
        }
        Guest::Reader(wire, stay, origin, seat) => {
            data.at(stay.peer.thread).handle.spawn(async move {
                let ended = events::run(wire, &stay.endpoint, &stay.peer, origin.as_deref()).await;
                ended.into_iter().for_each(|error| stay.endpoint.fails(error));
                drop(seat);
            });
        }
        Guest::Socket(opened, stay, seat) => {
            data.at(stay.peer.thread).handle.spawn(async move {
                let path = stay.endpoint.settings.path.as_str();
                tracing::debug!(client = %from, path, "a client is connected");
                let (ending, unanswered) = connection::run(*opened, &stay.endpoint, &stay.peer).await;
                ending.into_iter().for_each(|error| stay.endpoint.fails(error));
                tracing::debug!(client = %from, path, "a client has disconnected");
                // The endpoint may end before the client has read everything.
                drop(stay);
                if let Some(unanswered) = unanswered {
                    unanswered.until_read().await;
                }
                drop(seat);
            });
        }
    }
}

/// TLS and HTTP handshake. `None`: the client was answered and disconnected.
async fn greet(stream: TcpStream, from: SocketAddr, door: &Door, data: &SocketThreads) -> io::Result<Option<Guest>> {
    stream.set_nodelay(true)?;
    let is_local = is_local(from.ip(), stream.local_addr().ok().map(|to| to.ip()));
    let access = door.access();
    let gate = &access.gate;
    let mut wire = match &access.tls {
        None => Wire::plain(Socket::new(stream)),
        Some(tls) => {
            let mut first = [0];
            let plain = stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase();
            let socket = Socket::new(stream);
            if plain {
                let mut wire = Wire::plain(socket);
                gate.refuses(Refusal::Tls);
                refuse(&mut wire, "400 Bad Request", "this port requires TLS: use wss\n").await?;
                return Ok(None);
            }
            let greeted = TlsAcceptor::from(tls.clone()).accept(socket).await;
            Wire::tls(TlsStream::Server(greeted.inspect_err(|_| gate.refuses(Refusal::Tls))?))
        }
    };
    let Some(Head { bytes: head, end, asked, request }) = read_head(&mut wire, gate).await? else { return Ok(None) };
    // A client that is not admitted must not learn which paths exist. An unreadable request contains nothing that could
    // admit its client.
    let passes = match &request {
        Some(request) => gate.check(request.headers(), asked.query(), is_local),
        None if gate.is_open() => Ok(Identity::default()),
        None => Err(Refusal::Request),
    };
    let identity = match passes {
        Ok(identity) => identity,
        Err(refusal) => {
            gate.turns_away(refusal, asked.path(), &from);
            match refusal {
                Refusal::Token(_) => refuse(&mut wire, "401 Unauthorized", "missing or unknown token\n").await?,
                Refusal::Request => refuse(&mut wire, "400 Bad Request", "Bad Request\n").await?,
                _ => refuse(&mut wire, "403 Forbidden", ORIGIN_REFUSED).await?,
            }
            return Ok(None);
        }
    };
    let head = Head { bytes: head, end, asked, request };
    lead_in(wire, head, from, identity, door, data).await
}

/// The handshake of a client that another process hands over, after its checks there.
pub(super) async fn greet_handed(
    mut wire: Wire,
    from: SocketAddr,
    identity: Identity,
    door: &Door,
    data: &SocketThreads,
) -> io::Result<Option<Guest>> {
    let access = door.access();
    let Some(head) = read_head(&mut wire, &access.gate).await? else { return Ok(None) };
    lead_in(wire, head, from, identity, door, data).await
}

/// The head of a request.
struct Head {
    /// the bytes read: the head, and perhaps more
    bytes: Vec<u8>,
    /// where the head ends
    end: usize,
    asked: Uri,
    /// `None` if it cannot be read
    request: Option<Request>,
}

/// Reads the head of a request. `None`: the client was refused, or has disconnected.
async fn read_head(wire: &mut Wire, gate: &Gate) -> io::Result<Option<Head>> {
    let mut bytes = Vec::new();
    let end = loop {
        // The end of the head may be split between two reads.
        let seen = bytes.len().saturating_sub(3);
        if wire.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
        if let Some(place) = bytes[seen..].windows(4).position(|four| four == b"\r\n\r\n") {
            break seen + place + 4;
        }
        if bytes.len() > HEAD_BYTES {
            gate.refuses(Refusal::Request);
            refuse(wire, "431 Request Header Fields Too Large", "the request is too long\n").await?;
            return Ok(None);
        }
    };
    let Some(asked) = asked(&bytes) else {
        gate.refuses(Refusal::Request);
        refuse(wire, "400 Bad Request", "Bad Request\n").await?;
        return Ok(None);
    };
    let request = Request::try_parse(&bytes[..end]).ok().flatten().map(|(_, request)| request);
    Ok(Some(Head { bytes, end, asked, request }))
}

/// The rest of the handshake, after the checks: finds what the client requests.
async fn lead_in(
    mut wire: Wire,
    head: Head,
    from: SocketAddr,
    identity: Identity,
    door: &Door,
    data: &SocketThreads,
) -> io::Result<Option<Guest>> {
    let access = door.access();
    let gate = &access.gate;
    let Head { bytes: mut head, end, asked, request } = head;
    let found = routes::find(&locked(&door.paths.routes), asked.path());
    let view = live_view(&door.paths.views, asked.path());
    // The path of a view takes precedence over a pattern.
    let found = found.filter(|(_, segments)| segments.is_empty() || view.is_none());
    let Some((endpoint, segments)) = found else {
        if let (Some(_), Some(passage)) = (&view, &door.paths.passage) {
            let Some(seat) = seat(&mut wire, from, door).await? else { return Ok(None) };
            wire.detach()?;
            let client = HandedOver { wire, sent: head, from, identity };
            return Ok(Some(Guest::HandedOver(client, passage.clone(), seat)));
        }
        if let Some(view) = view {
            let asked = live::Asked {
                view,
                query: asked.query().unwrap_or_default().to_owned(),
                cursor: None,
                origin: None,
                identity,
                peer: from.to_string(),
            };
            let Some(seat) = seat(&mut wire, from, door).await? else { return Ok(None) };
            return greet_live(wire, gate, request.as_ref(), asked, head, end, seat).await;
        }
        if let Some(sink) = door.paths.events.find(asked.path()) {
            let Some(seat) = seat(&mut wire, from, door).await? else { return Ok(None) };
            let watcher = if head.starts_with(b"GET ") { sink.watch() } else { None };
            let Some(watcher) = watcher else {
                refuse(
                    &mut wire,
                    "503 Service Unavailable",
                    "this path has only server-sent events: read them with GET\n",
                )
                .await?;
                return Ok(None);
            };
            // The origin has passed the gate, so its page may read the results.
            let origin = request.as_ref().and_then(|request| request.headers().get(header::ORIGIN)?.to_str().ok());
            return Ok(Some(Guest::Events(wire, watcher, origin.map(str::to_owned), seat)));
        }
        gate.turns_away(Refusal::Path, asked.path(), &from);
        refuse(&mut wire, "404 Not Found", "404 page not found\n").await?;
        return Ok(None);
    };
    let (has_events, has_sockets) = endpoint.serves();
    if let Some(request) = request.as_ref().filter(|request| has_events && !events::upgrades(request.headers()))
        && head.starts_with(b"GET ")
    {
        let Some(seat) = seat(&mut wire, from, door).await? else { return Ok(None) };
        return greet_reader(wire, from, door, data, request, (endpoint, segments), seat).await;
    }
    let response = request.as_ref().filter(|_| has_sockets);
    let response = response.and_then(|request| Some((request, create_response(request).ok()?)));
    let Some((request, mut response)) = response else {
        gate.turns_away(Refusal::Request, asked.path(), &from);
        let text = match has_sockets {
            true => "Bad Request: this is a websocket endpoint\n",
            false => "Bad Request: this path has server-sent events: read them with GET\n",
        };
        refuse(&mut wire, "400 Bad Request", text).await?;
        return Ok(None);
    };
    let terms = endpoint.terms();
    if let Some(chosen) = subprotocol(&terms.subprotocols, request.headers()) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
    }
    let offers = request.headers().get_all(header::SEC_WEBSOCKET_EXTENSIONS);
    let offers = offers.into_iter().filter_map(|offer| offer.to_str().ok());
    let deflate = terms.per_message_deflate.and_then(|own| negotiate(offers, &own));
    let deflate = deflate.and_then(|(agreement, answer)| {
        response.headers_mut().insert(header::SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_str(&answer).ok()?);
        Some(agreement)
    });
    let Some(seat) = seat(&mut wire, from, door).await? else { return Ok(None) };
    let mut answer = Vec::new();
    write_response(&mut answer, &response).map_err(io::Error::other)?;
    // The peer joins before the response is sent: a client that knows it is connected gets everything from then on.
    let placement = endpoint.place(data);
    let (address, totals) = (from.to_string(), door.totals.clone());
    let peer = Peer::of_client(address, totals, placement.thread, &segments, Some(request.headers()));
    let Some(stay) = Stay::new(&endpoint, peer, placement) else {
        gate.turns_away(Refusal::Path, asked.path(), &from);
        refuse(&mut wire, "404 Not Found", "404 page not found\n").await?;
        return Ok(None);
    };
    wire.write_all(&answer).await?;
    wire.flush().await?;
    wire.detach()?;
    wire.put_back(head.split_off(end));
    Ok(Some(Guest::Socket(Box::new(Opened { wire, side: Side::Server, deflate }), stay, seat)))
}

/// The rest of the handshake of a client that reads an endpoint's events.
async fn greet_reader(
    mut wire: Wire,
    from: SocketAddr,
    door: &Door,
    data: &SocketThreads,
    request: &Request,
    (endpoint, segments): (Arc<Endpoint>, Segments),
    seat: Seat,
) -> io::Result<Option<Guest>> {
    let origin = request.headers().get(header::ORIGIN).and_then(|origin| origin.to_str().ok()).map(str::to_owned);
    let placement = endpoint.place(data);
    let (address, totals) = (from.to_string(), door.totals.clone());
    let peer = Peer::of_client(address, totals, placement.thread, &segments, Some(request.headers()));
    let Some(stay) = Stay::new(&endpoint, peer, placement) else {
        door.access().gate.refuses(Refusal::Path);
        refuse(&mut wire, "404 Not Found", "404 page not found\n").await?;
        return Ok(None);
    };
    wire.detach()?;
    Ok(Some(Guest::Reader(wire, stay, origin, seat)))
}

/// A seat for the client; `None` if there is none: then the client got an answer.
async fn seat(wire: &mut Wire, from: SocketAddr, door: &Door) -> io::Result<Option<Seat>> {
    match door.admission.seat(from.ip()) {
        Ok(seat) => Ok(Some(seat)),
        Err(refusal) => {
            door.access().gate.refuses(refusal);
            refuse(wire, "503 Service Unavailable", "too many clients are connected\n").await?;
            Ok(None)
        }
    }
}

/// The view at a path; `Some(None)` if clients choose views by messages.
fn live_view(views: &Views, path: &str) -> Option<Option<String>> {
    if path == live::PATH && !views.is_empty() {
        return Some(None);
    }
    views.at_path(path).map(|name| Some(name.to_string()))
}

/// The rest of the handshake of a client of live views.
async fn greet_live(
    mut wire: Wire,
    gate: &Gate,
    request: Option<&Request>,
    mut asked: live::Asked,
    mut head: Vec<u8>,
    end: usize,
    seat: Seat,
) -> io::Result<Option<Guest>> {
    if let Some(request) = request.filter(|request| live::wants_events(request.headers()))
        && asked.view.is_some()
    {
        let cursor = request.headers().get("last-event-id").and_then(|cursor| cursor.to_str().ok());
        let origin = request.headers().get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
        asked.origin = origin.map(str::to_owned);
        asked.cursor = cursor.filter(|cursor| !cursor.is_empty()).map(str::to_owned);
        wire.detach()?;
        return Ok(Some(Guest::LiveEvents(wire, Box::new(asked), seat)));
    }
    let response = request.and_then(|request| Some((request, create_response(request).ok()?)));
    let Some((request, mut response)) = response else {
        gate.refuses(Refusal::Request);
        let text = "Bad Request: connect by websocket, or GET a view's path with Accept: text/event-stream\n";
        refuse(&mut wire, "400 Bad Request", text).await?;
        return Ok(None);
    };
    if live::offers_subprotocol(request.headers()) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(live::SUBPROTOCOL));
    }
    let mut answer = Vec::new();
    write_response(&mut answer, &response).map_err(io::Error::other)?;
    wire.write_all(&answer).await?;
    wire.flush().await?;
    wire.detach()?;
    wire.put_back(head.split_off(end));
    let opened = Opened { wire, side: Side::Server, deflate: None };
    Ok(Some(Guest::Live(Box::new(opened), Box::new(asked), seat)))
}

/// The first of our subprotocols that the client offers.
fn subprotocol(ours: &[String], headers: &HeaderMap) -> Option<HeaderValue> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|offer| offer.to_str().ok());
    let offered: Vec<&str> = offers.flat_map(|offer| offer.split(',')).map(str::trim).collect();
    ours.iter().find(|name| offered.contains(&name.as_str())).and_then(|name| HeaderValue::from_str(name).ok())
}

/// The URI in the first line of a request.
fn asked(head: &[u8]) -> Option<Uri> {
    let line = head.split(|&byte| byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (_method, target, version) = (words.next()?, words.next()?, words.next()?);
    let uri: Uri = target.parse().ok()?;
    (version.starts_with("HTTP/1.") && words.next().is_none()).then_some(uri)
}
