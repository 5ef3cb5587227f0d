//! Connections of the API: accepts them, limits their number, and closes those that block the service.
//!
//! No client can keep others out. Accepting never waits: if there are too many connections, from one address or in
//! total, the one that has been idle longest is closed. A client that sends its request slowly can hold a connection
//! for [`HEAD_TIME`]; one that does not read its response, for [`SEND_TIME`]. A few file descriptors are reserved for
//! the API ([`SPARE`]), since the data server could use up all others. When the service ends, pending requests are
//! answered first.

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tower::ServiceExt;

use crate::sync::locked;

/// The time limit for the head of a request, for the next request of a connection, and for a TLS handshake.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// A client that does not read its response for this long is disconnected.
const SEND_TIME: Duration = Duration::from_secs(10);

/// The most connections; a further one replaces the one that has been idle longest.
const CONNECTIONS: usize = 512;

/// The most connections of one address.
const OF_ONE_ADDRESS: usize = 256;

/// The most connections beyond [`CONNECTIONS`] while replaced ones are closing; further ones are refused.
const ENDING: usize = 128;

/// The largest head of a request, bytes.
const HEAD_SIZE: usize = 64 << 10;

/// File descriptors reserved for the API.
const SPARE: usize = 16;

/// How long accepting pauses after an error that only time can resolve.
const PAUSE: Duration = Duration::from_millis(50);

/// An open connection.
struct Known {
    address: IpAddr,
    /// Whether a request is in progress.
    busy: Arc<AtomicBool>,
    /// Tells the connection to end.
    leaves: Arc<Notify>,
    leaving: bool,
}

/// Open connections by number, the oldest first.
#[derive(Default)]
struct Connections {
    known: BTreeMap<u64, Known>,
    next: u64,
}

impl Connections {
    /// Makes room for a connection from this address; `None` if there is none.
    fn enter(&mut self, address: IpAddr) -> Option<(u64, Arc<AtomicBool>, Arc<Notify>)> {
        let staying = |known: &Known| !known.leaving;
        let same = self.known.values().filter(|known| staying(known) && known.address == address).count();
        let all = self.known.values().filter(|known| staying(known)).count();
        if same >= OF_ONE_ADDRESS {
            self.send_away(|known| known.address == address)?;
        } else if all >= CONNECTIONS {
            self.send_away(|_| true)?;
        }
        if self.known.len() >= CONNECTIONS + ENDING {
            return None;
        }
        let (busy, leaves) = (Arc::new(AtomicBool::new(false)), Arc::new(Notify::new()));
        let number = self.next;
        self.next += 1;
        self.known.insert(number, Known { address, busy: busy.clone(), leaves: leaves.clone(), leaving: false });
        Some((number, busy, leaves))
    }

    /// Ends the oldest idle connection; `None` if all are busy.
    fn send_away(&mut self, of: impl Fn(&Known) -> bool) -> Option<()> {
        let idle = |known: &&mut Known| !known.leaving && !known.busy.load(Ordering::Relaxed) && of(known);
        let known = self.known.values_mut().find(idle)?;
        known.leaving = true;
        known.leaves.notify_one();
        Some(())
    }
}

/// A place among the connections, freed when dropped.
struct Place {
    number: u64,
    connections: Arc<Mutex<Connections>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.connections).known.remove(&self.number);
    }
}

/// File descriptors held in reserve until no others are left.
#[derive(Clone, Default)]
struct Spare(Arc<Mutex<Vec<File>>>);

impl Spare {
    /// Reserves descriptors, as far as possible. Called right after a connection has ended, before its descriptor is
    /// used for anything else.
    fn refill(&self) {
        let mut spare = locked(&self.0);
        while spare.len() < SPARE
            && let Ok(file) = File::open("/dev/null")
        {
            spare.push(file);
        }
    }

    /// Frees one reserved descriptor; returns whether there was one.
    fn give_up(&self) -> bool {
        locked(&self.0).pop().is_some()
    }
}

/// The TLS configuration of the API. A new one applies to new connections.
pub type Tls = watch::Receiver<Arc<ServerConfig>>;

/// Serves the connections of `listener`, with TLS if given, until `end` fires and running requests are answered.
pub async fn serve(listener: TcpListener, tls: Option<Tls>, app: Router, end: impl Future<Output = ()> + Send) {
    let connections = Arc::new(Mutex::new(Connections::default()));
    let (ending, _) = watch::channel(false);
    let spare = Spare::default();
    spare.refill();
    let mut end = std::pin::pin!(end);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Without free file descriptors, a reserved one is used.
                if is_out_of_descriptors(&error) && spare.give_up() {
                    continue;
                }
                if !is_of_client(&error) {
                    tracing::warn!(%error, "the API cannot accept a client");
                    tokio::time::sleep(PAUSE).await;
                }
                continue;
            }
        };
        let Some((number, busy, leaves)) = locked(&connections).enter(from.ip().to_canonical()) else {
            tracing::debug!(client = %from, "the API has no free connection for a client");
            continue;
        };
        let place = Place { number, connections: connections.clone() };
        let tls = tls.as_ref().map(|tls| tls.borrow().clone());
        let (app, ends, spare) = (app.clone(), ending.subscribe(), spare.clone());
        tokio::spawn(async move {
            let connection = Connection { app, busy, leaves, ends };
            match tls {
                None => connection.serve(stream, from).await,
                Some(tls) => connection.greet(TlsAcceptor::from(tls), stream, from).await,
            }
            spare.refill();
            drop(place);
        });
    }
    drop(listener);
    let _ = ending.send(true);
    ending.closed().await;
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Whether the client disconnected before it was accepted.
fn is_of_client(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(error.kind(), K::ConnectionAborted | K::ConnectionReset | K::ConnectionRefused | K::Interrupted)
}

/// An extension of each request that notifies endless responses when the API ends.
#[derive(Clone)]
pub struct Ending(watch::Receiver<bool>);

impl Ending {
    /// Returns when the API ends.
    pub async fn begun(&mut self) {
        // An error means that `serve` itself is gone, which has the same effect.
        let _ = self.0.wait_for(|ends| *ends).await;
    }
}

/// Returns when the API ends; never if `ending` is `None`.
pub async fn begun(ending: &mut Option<Ending>) {
    match ending {
        Some(ending) => ending.begun().await,
        None => std::future::pending().await,
    }
}

/// Serves one connection.
struct Connection {
    app: Router,
    busy: Arc<AtomicBool>,
    leaves: Arc<Notify>,
    ends: watch::Receiver<bool>,
}

impl Connection {
    async fn greet(self, tls: TlsAcceptor, stream: TcpStream, from: SocketAddr) {
        let leaves = self.leaves.clone();
        let greeted = tokio::select! {
            greeted = tokio::time::timeout(HEAD_TIME, tls.accept(stream)) => greeted,
            () = leaves.notified() => return,
        };
        match greeted {
            Ok(Ok(stream)) => self.serve(stream, from).await,
            Ok(Err(error)) => tracing::debug!(client = %from, %error, "TLS handshake of the API failed"),
            Err(_) => tracing::debug!(client = %from, "TLS handshake of the API took too long"),
        }
    }

    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, from: SocketAddr) {
        let Connection { app, busy, leaves, mut ends } = self;
        let answers = busy.clone();
        let ending = Ending(ends.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (app, busy) = (app.clone(), busy.clone());
            request.extensions_mut().insert(ending.clone());
            async move {
                busy.store(true, Ordering::Relaxed);
                let answered = app.oneshot(request.map(Body::new)).await;
                busy.store(false, Ordering::Relaxed);
                answered
            }
        });
        let mut server = http1::Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIME).max_buf_size(HEAD_SIZE);
        let io = TokioIo::new(Impatient::new(stream, SEND_TIME));
        let mut connection = std::pin::pin!(server.serve_connection(io, service));
        let ended = tokio::select! {
            ended = &mut connection => Some(ended),
            () = leaves.notified() => {
                if !answers.load(Ordering::Relaxed) {
                    // A partial request head would keep the connection open for long; closing it loses nothing.
                    return;
                }
                None
            }
            // An error means that `serve` itself is gone, which has the same effect.
            _ = ends.wait_for(|ends| *ends) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            None => {
                // A response in progress is sent first.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(client = %from, "a connection of the API ended: {error}");
        }
    }
}

/// A stream whose writes fail if the other side does not read for some time.
struct Impatient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    limit: Pin<Box<Sleep>>,
    waits: bool,
}

impl<S> Impatient<S> {
    fn new(stream: S, patience: Duration) -> Impatient<S> {
        Impatient { stream, patience, limit: Box::pin(tokio::time::sleep(patience)), waits: false }
    }

    /// The result of a write, or a timeout.
    fn limited<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waits = false;
            return written;
        }
        if !self.waits {
            self.waits = true;
            let until = Instant::now() + self.patience;
            self.limit.as_mut().reset(until);
        }
        ready!(self.limit.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, bytes)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limited(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.limited(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.limited(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.limited(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_idle_connection_makes_room() {
        let mut connections = Connections::default();
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        let busy = connections.enter(address(1)).expect("there is room").1;
        busy.store(true, Ordering::Relaxed);
        for _ in 1..OF_ONE_ADDRESS {
            connections.enter(address(1)).expect("there is room");
        }
        connections.enter(address(1)).expect("an idle one goes");
        let leaving = |connections: &Connections| -> Vec<u64> {
            connections.known.iter().filter(|(_, known)| known.leaving).map(|(number, _)| *number).collect()
        };
        assert_eq!(leaving(&connections), [1], "the first one is busy");
        for _ in 0..CONNECTIONS - OF_ONE_ADDRESS {
            connections.enter(address(2)).expect("others have room");
        }
        assert_eq!(leaving(&connections), [1]);
        connections.enter(address(3)).expect("an idle one goes");
        assert_eq!(leaving(&connections), [1, 2]);
    }

    #[test]
    fn without_an_idle_connection_there_is_no_room() {
        let mut connections = Connections::default();
        let address = IpAddr::from([10, 0, 0, 1]);
        for _ in 0..OF_ONE_ADDRESS {
            connections.enter(address).expect("there is room").1.store(true, Ordering::Relaxed);
        }
        assert!(connections.enter(address).is_none());
        assert!(connections.enter(IpAddr::from([10, 0, 0, 2])).is_some());
    }

    #[tokio::test]
    async fn an_answer_without_an_end_ends_with_the_api() {
        use axum::extract::Extension;
        use axum::routing::get;
        use futures_util::stream;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};

        let endless = |Extension(mut ending): Extension<Ending>| async move {
            let first = stream::iter([Ok::<_, io::Error>("first")]);
            let rest = stream::once(async move {
                ending.begun().await;
                Ok("last")
            });
            Body::from_stream(stream::StreamExt::chain(first, rest))
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (end, ends) = tokio::sync::oneshot::channel::<()>();
        let app = Router::new().route("/", get(endless));
        let served = tokio::spawn(serve(listener, None, app, async move { drop(ends.await) }));
        let mut client = TcpStream::connect(address).await.expect("it listens");
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("it reads");
        let mut answer = Vec::new();
        while !answer.ends_with(b"first\r\n") {
            assert!(client.read_buf(&mut answer).await.expect("it answers") > 0, "{answer:?}");
        }
        end.send(()).expect("it runs");
        client.read_to_end(&mut answer).await.expect("it answers");
        assert!(answer.ends_with(b"last\r\n0\r\n\r\n"), "{:?}", String::from_utf8_lossy(&answer));
        served.await.expect("it ends");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_left() {
        use tokio::io::AsyncWriteExt;

        let (ours, theirs) = tokio::io::duplex(64);
        let mut stream = Impatient::new(ours, Duration::from_millis(20));
        stream.write_all(&[0; 64]).await.expect("there is room");
        let failed = stream.write_all(&[0; 64]).await.expect_err("nobody reads");
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
    }
}
