//! One open websocket, in one task on the data thread of its stream: reading, writing, pings and the end.
//!
//! Reading takes what is there without waiting and hands it over as one batch. While a stream's queue is full the
//! socket is not read: TCP slows the peer, and its pings too are answered only when reading goes on. Writing feeds all
//! that waits, then flushes once.
//!
//! What waits for the peer is bounded: a ping is read only when the pong of the one before it is out, so a peer that
//! sends pings and takes no pongs is not read on. A peer that takes no bytes for `writeTimeout` is dropped.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use futures_util::{Sink, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as WireFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::client_queue::{Farewell, Flight, Peer};
use super::config::Settings;
use super::disconnects::Cause;
use super::endpoint::Endpoint;
use super::socket::Wire;
use crate::io::queue::{BATCH_BYTES, BATCH_FRAMES, Frame};
use crate::sync::locked;

/// How long a peer may take to answer a close frame, or to take one.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How many bytes are fed before they are flushed and accounted.
const FLUSH_BYTES: usize = 256 * 1024;

/// How a connection ended: nothing to say, or an error for the status.
pub(super) type Ending = Option<String>;

/// The websocket over a wire whose handshake is done.
///
/// Made so, the read buffer has its full size from the start, and `BytesMut` makes as large ones after it. A buffer
/// that began as the rest of a handshake would be remembered as small: while messages wait for the engine, each
/// further one would be read for itself, with two system calls.
pub(super) async fn open(wire: Wire, role: Role, config: WebSocketConfig) -> WebSocketStream<Wire> {
    WebSocketStream::from_raw_socket(wire, role, Some(config)).await
}

/// Serves a connection until it ends. Runs on the data thread; the socket comes detached.
pub(super) async fn run(mut websocket: WebSocketStream<Wire>, endpoint: &Arc<Endpoint>, peer: &Arc<Peer>) -> Ending {
    if let Err(error) = websocket.get_mut().attach() {
        return Some(format!("{}: cannot move the socket: {error}", peer.address));
    }
    let terms = endpoint.terms();
    websocket.get_mut().set_write_timeout(terms.write_timeout);
    let socket = Socket { websocket: Mutex::new(websocket), owes_pong: AtomicBool::new(false) };
    let pulse = Pulse::new();
    let Verdict { code, cause, error } = {
        let mut reader = pin!(read(&socket, endpoint, &pulse));
        let mut farewell = peer.farewell.subscribe();
        let first = {
            let writer = pin!(write(&socket, &terms, peer));
            tokio::select! {
                end = &mut reader => First::Read(end),
                error = writer => First::Write(error),
                Ok(farewell) = farewell.wait_for(Option::is_some) => First::Farewell(*farewell),
                () = pulse.stops(terms.idle_timeout) => First::Silence,
            }
        };
        match first {
            First::Read(end) => end.verdict(&terms),
            First::Farewell(Some(Farewell { code, reason })) => {
                say_goodbye(&socket, code, reason).await;
                rest(reader, CLOSE_TIMEOUT, &pulse).await;
                let slow = (code == CloseCode::Policy).then(|| (Cause::SlowClient, format!("disconnected: {reason}")));
                let (cause, error) = slow.unzip();
                Verdict { code: None, cause, error }
            }
            First::Farewell(None) => Verdict::default(),
            First::Silence => {
                rest(reader, Duration::ZERO, &pulse).await;
                Verdict::new(Some(CloseCode::Away), Cause::IdleTimeout, "nothing heard for too long (idleTimeout)")
            }
            // The peer's close frame may be why writing failed: reading tells.
            First::Write(error) => match rest(reader, CLOSE_TIMEOUT, &pulse).await {
                Some(end) => end.verdict(&terms),
                None => ReadEnd::Broken(error).verdict(&terms),
            },
        }
    };
    if let Some(cause) = cause {
        peer.disconnects.count(cause);
    }
    if let Some(code) = code {
        let reason = if code == CloseCode::Away { "nothing heard" } else { "" };
        say_goodbye(&socket, code, reason).await;
        linger(socket.into_inner().get_mut()).await;
    }
    error.map(|error| format!("{}: {error}", peer.address))
}

/// What a connection's end comes to.
#[derive(Default)]
struct Verdict {
    /// still to be told to the peer
    code: Option<CloseCode>,
    /// what is counted
    cause: Option<Cause>,
    /// for the status
    error: Option<String>,
}

impl Verdict {
    fn new(code: Option<CloseCode>, cause: Cause, error: impl Into<String>) -> Verdict {
        Verdict { code, cause: Some(cause), error: Some(error.into()) }
    }
}

/// The websocket, for the reading and the writing of one task: the lock is never contended, and it is taken once for
/// all that one poll can read or write, not for each message.
struct Socket {
    websocket: Mutex<WebSocketStream<Wire>>,
    /// a pong is not out yet: nothing is read until it is
    owes_pong: AtomicBool,
}

impl Socket {
    fn into_inner(self) -> WebSocketStream<Wire> {
        self.websocket.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands over one message and waits until the kernel has it.
    async fn send(&self, message: Message) -> Result<(), Error> {
        let mut message = Some(message);
        self.feed(|| message.take()).await?;
        self.flush().await
    }

    /// Hands over messages until there is none. One is taken only when there is room for it.
    async fn feed(&self, mut next: impl FnMut() -> Option<Message>) -> Result<(), Error> {
        std::future::poll_fn(|cx| {
            let mut websocket = locked(&self.websocket);
            let mut websocket = Pin::new(&mut *websocket);
            loop {
                ready!(websocket.as_mut().poll_ready(cx))?;
                let Some(message) = next() else { return Poll::Ready(Ok(())) };
                websocket.as_mut().start_send(message)?;
            }
        })
        .await
    }

    /// Waits until the kernel has all that was handed over.
    async fn flush(&self) -> Result<(), Error> {
        std::future::poll_fn(|cx| Pin::new(&mut *locked(&self.websocket)).poll_flush(cx)).await
    }
}

/// Reads on for `limit` at the most; `None` if that does not bring the end. Only reading is limited: what was read is
/// handed over, however long the engine takes, since nobody would count it otherwise.
async fn rest(mut reader: Pin<&mut impl Future<Output = ReadEnd>>, limit: Duration, pulse: &Pulse) -> Option<ReadEnd> {
    if let Ok(end) = timeout(limit, reader.as_mut()).await {
        return Some(end);
    }
    pulse.over.store(true, Ordering::Relaxed);
    std::future::poll_fn(|cx| match reader.as_mut().poll(cx) {
        Poll::Ready(end) => Poll::Ready(Some(end)),
        Poll::Pending if pulse.busy.load(Ordering::Relaxed) => Poll::Pending,
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// What ended the normal life of a connection.
enum First {
    Read(ReadEnd),
    Write(Error),
    Farewell(Option<Farewell>),
    Silence,
}

/// How reading ended.
enum ReadEnd {
    /// by a close frame, which is answered
    Closed(Option<CloseFrame>),
    /// otherwise
    Broken(Error),
}

impl ReadEnd {
    fn verdict(self, terms: &Settings) -> Verdict {
        match self {
            ReadEnd::Closed(None) => Verdict::default(),
            ReadEnd::Closed(Some(frame)) => {
                let normal = matches!(frame.code, CloseCode::Normal | CloseCode::Away | CloseCode::Status);
                let error = (!normal).then(|| format!("closed by the peer: {} {}", frame.code, frame.reason));
                Verdict { error, ..Verdict::default() }
            }
            ReadEnd::Broken(Error::Io(error))
                if error.kind() == io::ErrorKind::TimedOut && terms.write_timeout.is_some() =>
            {
                let limit = terms.write_timeout.unwrap_or_default().as_millis();
                Verdict::new(None, Cause::WriteTimeout, format!("the peer took nothing for {limit} ms (writeTimeout)"))
            }
            ReadEnd::Broken(error) => {
                let (code, cause) = match &error {
                    Error::Utf8(_) => (Some(CloseCode::Invalid), Cause::Utf8),
                    Error::Capacity(_) => (Some(CloseCode::Size), Cause::MessageSize),
                    Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) | Error::Io(_) => {
                        (None, Cause::Broken)
                    }
                    _ => (Some(CloseCode::Protocol), Cause::Protocol),
                };
                Verdict::new(code, cause, error.to_string())
            }
        }
    }
}

/// Reads until the end.
async fn read(socket: &Socket, endpoint: &Endpoint, pulse: &Pulse) -> ReadEnd {
    let mut usual = 1;
    let mut close = None;
    loop {
        let mut frames = Vec::with_capacity(usual);
        let mut received = None;
        let closing = close.is_some();
        let gathering = gather(socket, &mut frames, &mut received, &mut close, pulse);
        // A peer that has said goodbye and keeps the connection open is not waited for.
        let gathered = if closing { timeout(CLOSE_TIMEOUT, gathering).await.ok() } else { Some(gathering.await) };
        let (full, end) = gathered.unwrap_or_else(|| (false, Some(ReadEnd::Closed(close.take().flatten()))));
        usual = frames.len().max(1);
        if let Some(received) = received {
            pulse.busy(true);
            endpoint.deliver(frames, received).await;
            pulse.busy(false);
        }
        if let Some(end) = end {
            return end;
        }
        if pulse.over.load(Ordering::Relaxed) {
            return ReadEnd::Closed(close.take().flatten());
        }
        if full {
            // More is there: the worker and the other sockets of this thread come first.
            tokio::task::yield_now().await;
        }
    }
}

/// Takes what is there, at least one message or a close frame. True if the batch is full; the end if reading is over.
async fn gather(
    socket: &Socket,
    frames: &mut Vec<Frame>,
    received: &mut Option<Instant>,
    close: &mut Option<Option<CloseFrame>>,
    pulse: &Pulse,
) -> (bool, Option<ReadEnd>) {
    let mut bytes = 0;
    std::future::poll_fn(|cx| {
        let mut websocket = locked(&socket.websocket);
        let mut websocket = Pin::new(&mut *websocket);
        loop {
            if frames.len() >= BATCH_FRAMES || bytes >= BATCH_BYTES {
                return Poll::Ready((true, None));
            }
            if socket.owes_pong.load(Ordering::Relaxed) {
                match websocket.as_mut().poll_flush(cx) {
                    Poll::Ready(Ok(())) => socket.owes_pong.store(false, Ordering::Relaxed),
                    Poll::Ready(Err(error)) => return Poll::Ready((false, Some(ReadEnd::Broken(error)))),
                    Poll::Pending if frames.is_empty() => return Poll::Pending,
                    Poll::Pending => return Poll::Ready((false, None)),
                }
            }
            let frame = match websocket.as_mut().poll_next(cx) {
                Poll::Pending if frames.is_empty() => return Poll::Pending,
                Poll::Pending => return Poll::Ready((false, None)),
                Poll::Ready(None) => return Poll::Ready((false, Some(ReadEnd::Closed(close.take().flatten())))),
                Poll::Ready(Some(Err(error))) => return Poll::Ready((false, Some(ReadEnd::Broken(error)))),
                Poll::Ready(Some(Ok(Message::Text(text)))) => Frame::Text(text),
                Poll::Ready(Some(Ok(Message::Binary(bytes)))) => Frame::Binary(bytes),
                Poll::Ready(Some(Ok(Message::Close(frame)))) => {
                    *close = Some(frame);
                    return Poll::Ready((false, None));
                }
                Poll::Ready(Some(Ok(message))) => {
                    socket.owes_pong.store(matches!(message, Message::Ping(_)), Ordering::Relaxed);
                    pulse.heard(Instant::now());
                    continue;
                }
            };
            if received.is_none() {
                let now = Instant::now();
                pulse.heard(now);
                *received = Some(now);
            }
            bytes += frame.bytes().len();
            frames.push(frame);
        }
    })
    .await
}

/// Writes what waits until that fails.
async fn write(socket: &Socket, terms: &Settings, peer: &Peer) -> Error {
    match write_on(socket, terms, peer).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn write_on(socket: &Socket, terms: &Settings, peer: &Peer) -> Result<std::convert::Infallible, Error> {
    let mut pings = terms.ping_interval.map(|every| {
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        pings
    });
    let mut flights: Vec<Flight> = Vec::new();
    loop {
        while let Some(message) = peer.next_first() {
            socket.send(Message::text(message)).await?;
        }
        let mut bytes = 0;
        while bytes < FLUSH_BYTES
            && let Some(flight) = peer.next()
        {
            flights.push(flight);
            let flight = flights.last_mut().expect("one was pushed");
            let code = OpCode::Data(if flight.text() { Data::Text } else { Data::Binary });
            // The place in the queue moves before the message is handed over: a message is never sent twice.
            socket.feed(|| Some(Message::Frame(WireFrame::message(flight.message()?, code, true)))).await?;
            bytes += flight.bytes();
        }
        if !flights.is_empty() {
            socket.flush().await?;
            flights.drain(..).for_each(Flight::arrive);
            // A reader that keeps up with us must not keep the thread.
            tokio::task::yield_now().await;
            continue;
        }
        let ping = async {
            match &mut pings {
                Some(pings) => pings.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = peer.wake.notified() => {}
            _ = ping => socket.send(Message::Ping(Bytes::new())).await?,
        }
    }
}

async fn say_goodbye(socket: &Socket, code: CloseCode, reason: &'static str) {
    let frame = CloseFrame { code, reason: reason.into() };
    // A peer that does not take the frame is cut off.
    let _ = timeout(CLOSE_TIMEOUT, socket.send(Message::Close(Some(frame)))).await;
}

/// Ends the sending side and reads on for a moment: closing a socket with unread bytes would tear the close frame
/// from the peer's hands.
pub(super) async fn linger(wire: &mut Wire) {
    let _ = timeout(CLOSE_TIMEOUT, async {
        let mut waste = vec![0; 8 * 1024];
        let _ = wire.shutdown().await;
        let mut budget = 64 * 1024 * 1024usize;
        while let Ok(count @ 1..) = wire.read(&mut waste).await {
            budget = budget.saturating_sub(count);
            if budget == 0 {
                break;
            }
        }
    })
    .await;
}

/// When a peer was last heard.
struct Pulse {
    start: Instant,
    /// ms after `start`
    heard: AtomicU64,
    /// the peer is not read because the engine is busy: it cannot be heard
    busy: AtomicBool,
    /// what is being handed over is the last
    over: AtomicBool,
}

impl Pulse {
    fn new() -> Pulse {
        Pulse {
            start: Instant::now(),
            heard: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    fn heard(&self, now: Instant) {
        self.heard.store((now - self.start).as_millis() as u64, Ordering::Relaxed);
    }

    fn busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    /// Ends when nothing was heard for `limit`.
    async fn stops(&self, limit: Option<Duration>) {
        let Some(limit) = limit else { return std::future::pending().await };
        loop {
            if self.busy.load(Ordering::Relaxed) {
                self.heard(Instant::now());
            }
            let last = Duration::from_millis(self.heard.load(Ordering::Relaxed));
            let left = (last + limit).saturating_sub(self.start.elapsed());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}
