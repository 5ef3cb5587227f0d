//! Serves one open websocket in one task on the data thread of its stream: reading, writing, pings and the end.
//!
//! Reading takes what has arrived without waiting, and delivers it as one batch. While a stream's queue is full, the
//! socket is not read: TCP slows the peer, and its pings are answered only when reading continues. Writing frames the
//! waiting messages, up to [`FLUSH_BYTES`], and flushes them before it takes more.
//!
//! The data that waits for the peer is limited to those bytes, one pong, one ping and a close frame. A ping is read
//! only when the previous pong is being sent, so a peer that sends pings and reads no pongs is not read. A peer that
//! accepts no bytes for `writeTimeout` is dropped.
//!
//! Pings have numbers, so that an answer proves that everything sent before was read ([`Unproven`](super::unproven)).

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::client_queue::{Farewell, Peer};
use super::config::Settings;
use super::endpoint::Endpoint;
use super::lane::Flight;
use super::protocol::{Close, Intake, Opened, Read, ReadError, Stream, code};
use super::socket::Wire;
use super::totals::Cause;
use crate::sync::locked;

/// How long a peer may take to answer or accept a close frame.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a peer that has not answered a close frame in time may take to read what was sent before.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The number of bytes framed before they are flushed and accounted for; a larger message is sent alone.
pub(super) const FLUSH_BYTES: usize = 256 * 1024;

/// How long stored messages wait for others before a ping requests their proof.
const PROOF_DELAY: Duration = Duration::from_millis(10);

/// How a connection ended: `None`, or an error for the status.
pub(super) type Ending = Option<String>;

/// A connection that was ended by a close frame which its peer has not answered in time. The peer may still read: if
/// the socket were closed now, the peer's next pong would destroy everything that it has not read.
pub(super) struct Unanswered(Stream<Wire>);

impl Unanswered {
    /// Waits until the peer has read everything, for a limited time.
    pub async fn until_read(mut self) {
        let Unanswered(stream) = &mut self;
        let _ = timeout(UNREAD_TIMEOUT, async {
            if std::future::poll_fn(|cx| stream.poll_flush(cx)).await.is_ok() {
                linger(stream.wire(), UNREAD_TIMEOUT).await;
            }
        })
        .await;
    }
}

/// Serves a connection until it ends. Runs on the data thread; the socket arrives detached.
pub(super) async fn run(
    mut opened: Opened<Wire>,
    endpoint: &Arc<Endpoint>,
    peer: &Arc<Peer>,
) -> (Ending, Option<Unanswered>) {
    if let Err(error) = opened.wire.attach() {
        return (Some(format!("{}: cannot move the socket: {error}", peer.address)), None);
    }
    let terms = endpoint.terms();
    opened.wire.set_write_timeout(terms.write_timeout);
    let stream = Stream::new(opened, terms.max_message_size, terms.per_message_deflate.as_ref(), &peer.totals);
    let socket = Socket(Mutex::new(stream));
    let pulse = Pulse::new();
    locked(&peer.unproven).begin(terms.ping_interval.is_some());
    let Verdict { code, cause, error, broke, unanswered } = {
        let mut reader = pin!(read(&socket, endpoint, peer, &pulse));
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
                socket.say_goodbye(code, reason).await;
                let end = rest(reader, CLOSE_TIMEOUT, &pulse).await;
                let cause = match code {
                    code::POLICY => Some(Cause::SlowClient),
                    code::AGAIN => Some(Cause::Memory),
                    _ => None,
                };
                // A peer that ends the connection without an answer has read everything up to then. A peer that does
                // not answer in time has still to read what its kernel holds, unless it was too slow for that before.
                let broke = match &end {
                    Some(end) => matches!(end, ReadEnd::Broken(ReadError::Io(_))),
                    None => cause.is_some(),
                };
                let error = cause.map(|_| format!("disconnected: {reason}"));
                Verdict { code: None, cause, error, broke, unanswered: end.is_none() && cause.is_none() }
            }
            First::Farewell(None) => Verdict::default(),
            First::Silence => {
                rest(reader, Duration::ZERO, &pulse).await;
                Verdict::new(Some(code::AWAY), Cause::IdleTimeout, "silent for too long (idleTimeout)")
            }
            // The peer's close frame may be the reason why writing failed; reading shows it.
            First::Write(error) => match rest(reader, CLOSE_TIMEOUT, &pulse).await {
                Some(end) => end.verdict(&terms),
                None => ReadEnd::Broken(error.into()).verdict(&terms),
            },
        }
    };
    {
        let mut unproven = locked(&peer.unproven);
        if broke { unproven.lose() } else { unproven.forget() }
    }
    if let Some(cause) = cause {
        peer.totals.count(cause);
        // Logged each time, in both roles: such messages are lost until a setting is changed.
        if matches!(cause, Cause::MessageSize | Cause::Bomb)
            && let Some(error) = &error
        {
            tracing::warn!(endpoint = %endpoint.settings.address(), peer = peer.address, "connection closed: {error}");
        }
    }
    let ending = error.map(|error| format!("{}: {error}", peer.address));
    if let Some(code) = code {
        let reason = if code == code::AWAY { "silent for too long" } else { "" };
        socket.say_goodbye(code, reason).await;
        linger(socket.into_inner().wire(), CLOSE_TIMEOUT).await;
        return (ending, None);
    }
    (ending, unanswered.then(|| Unanswered(socket.into_inner())))
}

/// What the end of a connection means.
#[derive(Default)]
struct Verdict {
    /// the code that the peer must still be sent
    code: Option<u16>,
    /// the cause to count
    cause: Option<Cause>,
    /// the error for the status
    error: Option<String>,
    /// unproven messages count as lost
    broke: bool,
    /// the peer has not answered the close frame, and was not too slow before
    unanswered: bool,
}

impl Verdict {
    /// The verdict on a broken connection.
    fn new(code: Option<u16>, cause: Cause, error: impl Into<String>) -> Verdict {
        Verdict { code, cause: Some(cause), error: Some(error.into()), broke: true, unanswered: false }
    }
}

/// The websocket, shared by the reading and the writing half of one task. The lock is never contended, and is taken
/// once for everything that a poll can read or write, not for each message.
struct Socket(Mutex<Stream<Wire>>);

impl Socket {
    fn into_inner(self) -> Stream<Wire> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the kernel has everything that was pushed.
    async fn flush(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| locked(&self.0).poll_flush(cx)).await
    }

    /// Sends a ping whose answer proves that everything sent before was read.
    async fn ping(&self, peer: &Peer) -> io::Result<()> {
        let number = peer.ask();
        locked(&self.0).out.ping(number);
        self.flush().await
    }

    /// Sends a close frame. If the peer does not accept it, the connection is cut.
    async fn say_goodbye(&self, code: u16, reason: &'static str) {
        locked(&self.0).out.close(Some(code), reason);
        let _ = timeout(CLOSE_TIMEOUT, self.flush()).await;
    }

    /// Reads what has arrived, at least one message, or up to the end.
    async fn gather(&self, intake: &mut Intake, peer: &Peer, pulse: &Pulse) -> Read {
        std::future::poll_fn(|cx| {
            let read = locked(&self.0).poll_read(cx, intake);
            if let Some(number) = intake.pong.take() {
                peer.answered(number);
            }
            if let Some(heard) = intake.heard {
                pulse.heard(heard);
            }
            if read.is_pending() {
                // No message was complete: the latency of the next one counts from its last bytes.
                intake.heard = None;
            }
            read
        })
        .await
    }
}

/// Reads for at most `limit`; `None` if the end does not come. Only reading is limited: messages that were read are
/// delivered, however long the engine takes, because nobody would count them otherwise.
async fn rest(mut reader: Pin<&mut impl Future<Output = ReadEnd>>, limit: Duration, pulse: &Pulse) -> Option<ReadEnd> {
    if let Ok(end) = timeout(limit, reader.as_mut()).await {
        return Some(end);
    }
    pulse.over.store(true, Ordering::Relaxed);
    std::future::poll_fn(|cx| match reader.as_mut().poll(cx) {
        Poll::Ready(ReadEnd::Over) => Poll::Ready(None),
        Poll::Ready(end) => Poll::Ready(Some(end)),
        Poll::Pending if pulse.busy.load(Ordering::Relaxed) => Poll::Pending,
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// What ended the normal operation of a connection.
enum First {
    Read(ReadEnd),
    Write(io::Error),
    Farewell(Option<Farewell>),
    Silence,
}

enum ReadEnd {
    /// a close frame, which was answered
    Closed(Option<Close>),
    /// an error
    Broken(ReadError),
    /// it was given up
    Over,
}

impl ReadEnd {
    fn verdict(self, terms: &Settings) -> Verdict {
        match self {
            ReadEnd::Closed(None) | ReadEnd::Over => Verdict::default(),
            ReadEnd::Closed(Some(Close { code, reason })) => {
                let normal = matches!(code, 1000 | code::AWAY);
                let error = (!normal).then(|| format!("closed by the peer: {code} {reason}"));
                Verdict { error, ..Verdict::default() }
            }
            // The system's own errors have a number.
            ReadEnd::Broken(ReadError::Io(error))
                if error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none() =>
            {
                let limit = terms.write_timeout.unwrap_or_default().as_millis();
                Verdict::new(None, Cause::WriteTimeout, format!("the peer read nothing for {limit} ms (writeTimeout)"))
            }
            ReadEnd::Broken(error) => Verdict::new(error.code(), Cause::of(&error), error.to_string()),
        }
    }
}

/// Reads until the end.
async fn read(socket: &Socket, endpoint: &Endpoint, peer: &Peer, pulse: &Pulse) -> ReadEnd {
    let mut usual = 1;
    loop {
        let mut intake = Intake::with_capacity(usual);
        let read = socket.gather(&mut intake, peer, pulse).await;
        usual = intake.frames.len().max(1);
        if !intake.frames.is_empty() {
            pulse.busy(true);
            let received = intake.heard.unwrap_or_else(Instant::now);
            endpoint.deliver(peer, intake.frames, received).await;
            pulse.busy(false);
        }
        match read {
            Read::Closed(close) => {
                // The answer is waiting to be sent. A peer that does not accept it is not waited for.
                let _ = timeout(CLOSE_TIMEOUT, socket.flush()).await;
                return ReadEnd::Closed(close);
            }
            Read::Broken(error) => return ReadEnd::Broken(error),
            _ if pulse.over.load(Ordering::Relaxed) => return ReadEnd::Over,
            // There is more to read, but the worker and the other sockets of this thread come first.
            Read::Full => tokio::task::yield_now().await,
            Read::Taken => {}
        }
    }
}

/// Writes waiting messages until writing fails.
async fn write(socket: &Socket, terms: &Settings, peer: &Peer) -> io::Error {
    match write_on(socket, terms, peer).await {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

async fn write_on(socket: &Socket, terms: &Settings, peer: &Peer) -> io::Result<std::convert::Infallible> {
    let mut pings = terms.ping_interval.map(|every| {
        let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
        pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        pings
    });
    let mut pinged = Instant::now();
    let mut flights: Vec<Flight> = Vec::new();
    // When a ping is due to prove sent messages.
    let mut probe: Option<tokio::time::Instant> = None;
    loop {
        while let Some(message) = peer.next_first() {
            {
                let mut stream = locked(&socket.0);
                let frame = stream.encoder.text(&message);
                stream.out.push(frame);
            }
            socket.flush().await?;
        }
        // Anything pushed after a close frame is not sent, and must not count as sent.
        if locked(&socket.0).out.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if peer.wants_probe() {
            let now = tokio::time::Instant::now();
            if *probe.get_or_insert(now + PROOF_DELAY) <= now {
                probe = None;
                socket.ping(peer).await?;
            }
        } else {
            probe = None;
        }
        let is_due = locked(&peer.unproven).is_due();
        if is_due {
            socket.ping(peer).await?;
        }
        let mut bytes = 0;
        while bytes < FLUSH_BYTES
            && let Some(mut flight) = peer.next()
        {
            let stream = &mut *locked(&socket.0);
            let (batch, start) = flight.rest();
            let count = stream.encoder.encode(batch, start, FLUSH_BYTES - bytes, &mut stream.out);
            let is_whole = start + count == batch.len();
            flight.take(count);
            bytes += flight.bytes();
            flights.push(flight);
            // Frames are larger than their content, so the limit may cut a batch before `bytes` shows it. The rest of a
            // batch must be sent before anything else.
            if !is_whole {
                break;
            }
        }
        if !flights.is_empty() {
            socket.flush().await?;
            flights.drain(..).for_each(Flight::arrive);
            // A peer that always gets messages also gets pings.
            if let Some((every, pings)) = terms.ping_interval.zip(pings.as_mut())
                && pinged.elapsed() >= every
            {
                pings.reset();
                pinged = Instant::now();
                socket.ping(peer).await?;
            }
            // A fast reader must not monopolise the thread.
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
            () = due(probe) => {}
            _ = ping => {
                pinged = Instant::now();
                socket.ping(peer).await?;
            }
        }
    }
}

async fn due(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Answers a request with a status and a line of text, and ends the connection.
pub(super) async fn refuse(wire: &mut Wire, status: &str, text: &str) -> io::Result<()> {
    let challenge = if status.starts_with("401") { "WWW-Authenticate: Bearer\r\n" } else { "" };
    let answer = format!(
        "HTTP/1.1 {status}\r\n{challenge}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
        text.len()
    );
    wire.write_all(answer.as_bytes()).await?;
    wire.flush().await?;
    linger(wire, CLOSE_TIMEOUT).await;
    Ok(())
}

/// Closes the sending side and continues reading for at most `limit`: closing a socket with unread bytes would destroy
/// what is on its way to the peer, such as the close frame.
pub(super) async fn linger(wire: &mut Wire, limit: Duration) {
    let _ = timeout(limit, async {
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

/// When something from the peer last arrived.
struct Pulse {
    start: Instant,
    /// ms after `start`
    heard: AtomicU64,
    /// the engine is busy, so the peer is not read
    busy: AtomicBool,
    /// the last messages are being delivered
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

    /// Ends when nothing has arrived for `limit`.
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
