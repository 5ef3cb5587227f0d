//! Clients of live views: their sockets, over which the frames of their sessions are sent.
//!
//! A client's task writes one frame at a time, and asks its session for the next one when the socket has taken it. It
//! does not read while a frame waits, so a client that reads nothing makes neither replies nor pongs pile up. A large
//! frame is not copied: all clients that wait for it share its bytes. [`crate::view`] handles the content of messages.
//!
//! Clients are spread over the data threads. A view that changes notifies all of its clients at once; those on another
//! thread are woken by mail (`threads`), so that one wake-up suffices for all of them.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio_tungstenite::tungstenite::http::{HeaderMap, header};

use super::admission::Seat;
use super::connection;
use super::protocol::{Intake, Opened, Read, ReadError, Stream};
use super::socket::Wire;
use super::threads::{Placement, SocketThread, SocketThreads, Spread};
use super::totals::Totals;
use crate::io::queue;
use crate::view::{Frame, Identity, Mailbox, Over, Session, Views};

/// The subprotocol, for clients that offer one.
pub const SUBPROTOCOL: &str = "plutino.live.v1";

/// The path at which clients subscribe by messages.
pub const PATH: &str = "/live";

/// A client that reads no byte for this long is disconnected; it may resume.
pub(super) const IDLE: Duration = Duration::from_secs(90);

/// The longest message from a client, bytes.
const MESSAGE: usize = 64 * 1024;

/// The size of the kernel's send buffer for a client, bytes.
const SEND_BUFFER: usize = 64 * 1024;

/// The number of frames that a client's task writes before other tasks of its thread run.
const FRAMES_A_TURN: usize = 16;

/// What a client requested.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// the view in the path; `None` at [`PATH`]
    pub view: Option<String>,
    pub query: String,
    /// `Last-Event-ID` of a client of events
    pub cursor: Option<String>,
    /// the origin of the client's page, which has passed the gate
    pub origin: Option<String>,
    pub identity: Identity,
    pub peer: String,
}

/// What a client occupies while it is served: a seat of the data server, and a place on a data thread.
pub(super) struct Place {
    thread: Arc<SocketThread>,
    _placement: Placement,
    _seat: Seat,
}

impl Place {
    /// A place on the thread with the fewest live clients.
    pub fn new(threads: &SocketThreads, among: &Spread, seat: Seat) -> Place {
        let placement = threads.place(among);
        Place { thread: threads.at(placement.thread).clone(), _placement: placement, _seat: seat }
    }

    /// Runs futures on that thread.
    pub fn handle(&self) -> &Handle {
        &self.thread.handle
    }
}

/// The waker for a mailbox, made once for a client's task.
struct MailWaker {
    thread: Arc<SocketThread>,
    made: Option<(Waker, Waker)>,
}

impl MailWaker {
    fn new(place: &Place) -> MailWaker {
        MailWaker { thread: place.thread.clone(), made: None }
    }

    fn of(&mut self, task: &Waker) -> &Waker {
        if !self.made.as_ref().is_some_and(|(known, _)| known.will_wake(task)) {
            self.made = None;
        }
        let thread = &self.thread;
        &self.made.get_or_insert_with(|| (task.clone(), thread.waker(task))).1
    }
}

/// Whether a request asks for server-sent events.
pub(super) fn wants_events(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let upgrades = headers.contains_key(header::UPGRADE);
    !upgrades && accepts.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with("text/event-stream"))
}

/// Whether a client offers the subprotocol.
pub(super) fn offers_subprotocol(headers: &HeaderMap) -> bool {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    offered.flat_map(|value| value.split(',')).any(|protocol| protocol.trim() == SUBPROTOCOL)
}

fn session(views: &Arc<Views>, asked: Asked) -> Session {
    let now = views.now();
    let mailbox = Arc::new(Mailbox::new(asked.peer));
    let mut session = Session::new(views.clone(), mailbox, asked.identity, now);
    if let Some(view) = asked.view {
        session.subscribe_url(&view, &asked.query, asked.cursor, now);
    } else if !asked.query.is_empty() {
        session.check_query(&asked.query);
    }
    session
}

/// Serves a websocket until it ends. Runs on a data thread; the socket arrives detached.
pub(super) async fn serve(
    mut opened: Opened<Wire>,
    views: Arc<Views>,
    asked: Asked,
    place: Place,
    totals: Arc<Totals>,
) {
    let peer = asked.peer.clone();
    if let Err(error) = opened.wire.attach() {
        tracing::debug!(client = peer, %error, "cannot move the socket of a live client");
        return;
    }
    opened.wire.limit_send_buffer(SEND_BUFFER);
    opened.wire.set_write_timeout(Some(IDLE));
    let stream = Stream::new(opened, MESSAGE, None, &totals);
    let waker = MailWaker::new(&place);
    let session = session(&views, asked);
    let mut client = Client { session, views, stream, flushing: false, has_closed: false, waker };
    let ended = std::future::poll_fn(|cx| client.poll(cx)).await;
    let Client { mut stream, session, .. } = client;
    drop(session);
    match ended {
        Ended::Closed => {}
        Ended::Broken(error) => tracing::debug!(client = peer, %error, "a client of a live view has disconnected"),
        Ended::Over(Over { code, reason }) => {
            stream.out.close(Some(code), reason);
            let flushed = std::future::poll_fn(|cx| stream.poll_flush(cx));
            let _ = tokio::time::timeout(connection::CLOSE_TIMEOUT, flushed).await;
            connection::linger(stream.wire(), connection::CLOSE_TIMEOUT).await;
        }
    }
    drop(place);
}

struct Client {
    session: Session,
    views: Arc<Views>,
    stream: Stream<Wire>,
    /// whether written frames are not completely in the kernel yet
    flushing: bool,
    /// the client's close frame has arrived
    has_closed: bool,
    waker: MailWaker,
}

enum Ended {
    /// the client sent a close frame
    Closed,
    Broken(ReadError),
    /// this side ends it
    Over(Over),
}

impl Client {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        let mut frames = 0;
        loop {
            if self.flushing {
                match self.stream.poll_flush(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Ended::Broken(error.into())),
                    Poll::Ready(Ok(())) => {
                        self.flushing = false;
                        self.session.mailbox().set_waiting(0);
                    }
                }
                continue;
            }
            if self.has_closed {
                return Poll::Ready(Ended::Closed);
            }
            if frames == FRAMES_A_TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let now = self.views.now();
            if let Some(frame) = self.session.next(now) {
                frames += 1;
                self.session.mailbox().set_waiting(frame.json.len());
                self.stream.encoder.message(frame.json, &mut self.stream.out);
                self.flushing = true;
                continue;
            }
            if let Some(over) = self.session.over() {
                return Poll::Ready(Ended::Over(over));
            }
            if self.session.takes_turns() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // One message at a time: further ones wait in the socket until the client has read the replies.
            let mut intake = Intake::for_one();
            match self.stream.poll_read(cx, &mut intake) {
                Poll::Ready(read) => {
                    intake.frames.iter().for_each(|message| self.receive(message, now));
                    match read {
                        Read::Full | Read::Taken => {}
                        Read::Closed(_) => (self.has_closed, self.flushing) = (true, true),
                        Read::Broken(ReadError::Size { .. }) => self.session.too_large(),
                        Read::Broken(error) => return Poll::Ready(broken(error)),
                    }
                }
                Poll::Pending if self.session.mailbox().is_empty(self.waker.of(cx.waker())) => return Poll::Pending,
                Poll::Pending => {}
            }
        }
    }

    fn receive(&mut self, message: &queue::Frame, now: i64) {
        match message {
            queue::Frame::Text(text) => self.session.receive(text, now),
            queue::Frame::Binary(_) | queue::Frame::Row(_) => self.session.receive_binary(),
        }
    }
}

/// The end of a connection that cannot be read; a client that broke the protocol gets a close frame with the reason.
fn broken(error: ReadError) -> Ended {
    match error.code() {
        Some(code) => Ended::Over(Over { code, reason: "" }),
        None => Ended::Broken(error),
    }
}

/// The head of the response to a client of events; the requesting page may read it.
pub(super) fn event_head(origin: Option<&str>) -> String {
    let allowed = origin.map(|origin| format!("Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n"));
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n{}X-Accel-Buffering: no\r\n\
         Connection: close\r\n\r\n",
        allowed.unwrap_or_default()
    )
}

/// Serves server-sent events until the client leaves or its subscription ends.
pub(super) async fn serve_events(mut wire: Wire, views: Arc<Views>, asked: Asked, place: Place) {
    let peer = asked.peer.clone();
    if let Err(error) = wire.attach() {
        tracing::debug!(client = peer, %error, "cannot move the socket of a live client");
        return;
    }
    wire.limit_send_buffer(SEND_BUFFER);
    wire.set_write_timeout(Some(IDLE));
    let head = event_head(asked.origin.as_deref());
    let mut session = session(&views, asked);
    let waker = MailWaker::new(&place);
    if let Err(error) = events(&mut wire, &head, &mut session, &views, waker).await {
        tracing::debug!(client = peer, %error, "a client of a live view has disconnected (server-sent events)");
    }
    drop(place);
}

async fn events(
    wire: &mut Wire,
    head: &str,
    session: &mut Session,
    views: &Views,
    mut waker: MailWaker,
) -> std::io::Result<()> {
    wire.write_all(head.as_bytes()).await?;
    let (mut text, mut ignored) = (Vec::new(), [0; 256]);
    loop {
        while let Some(frame) = session.next(views.now()) {
            text.clear();
            add_event(&mut text, &frame);
            session.mailbox().set_waiting(text.len());
            wire.write_all(&text).await?;
            wire.flush().await?;
            session.mailbox().set_waiting(0);
        }
        if session.over().is_some() || !session.is_subscribed() {
            return wire.shutdown().await;
        }
        if session.takes_turns() {
            tokio::task::yield_now().await;
            continue;
        }
        let mailbox = session.mailbox().clone();
        let mail =
            std::future::poll_fn(
                |cx| {
                    if mailbox.is_empty(waker.of(cx.waker())) { Poll::Pending } else { Poll::Ready(()) }
                },
            );
        tokio::select! {
            () = mail => {}
            // Clients of events send nothing. Reading shows when they disconnect.
            read = wire.read(&mut ignored) => if read? == 0 {
                return Ok(());
            },
        }
    }
}

/// Adds a frame as one event. Its JSON is one line.
fn add_event(events: &mut Vec<u8>, frame: &Frame) {
    if let Some(at) = &frame.at {
        events.extend_from_slice(b"id: ");
        events.extend_from_slice(at.as_bytes());
        events.push(b'\n');
    }
    events.extend_from_slice(b"data: ");
    events.extend_from_slice(&frame.json);
    events.extend_from_slice(b"\n\n");
}
