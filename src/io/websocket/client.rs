//! The client role: dialling, and dialling again for as long as anybody uses the endpoint.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role as WireRole, WebSocketConfig};

use super::client_queue::Peer;
use super::config::{Role, Settings, bracketed};
use super::connection;
use super::endpoint::{Endpoint, Presence};
use super::socket::{Socket, Wire};
use crate::io::LinkState;

/// What to look at where a peer refuses with this status.
fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => "show it a token in the header Authorization",
        400 => "check the path, and whether it speaks TLS (wss)",
        _ => "check the path",
    }
}

/// Why a peer could not be reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// no TCP connection
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// whereto
        address: String,
        /// why
        source: io::Error,
    },
    /// no TLS
    #[error("TLS with {address} failed: {source}")]
    Tls {
        /// with whom
        address: String,
        /// why
        source: io::Error,
    },
    /// an answer, but not that of a websocket endpoint
    #[error("{address} refuses the websocket: HTTP status {status}; {}", advice(*.status))]
    Status {
        /// who
        address: String,
        /// its answer
        status: u16,
    },
    /// not a websocket server
    #[error("{address} does not answer as a websocket server: {source}")]
    Handshake {
        /// who
        address: String,
        /// how
        source: Box<Error>,
    },
    /// took longer than handshakeTimeout
    #[error("{address} did not complete the handshake within {} ms (handshakeTimeout)", limit.as_millis())]
    Timeout {
        /// who
        address: String,
        /// the limit
        limit: Duration,
    },
}

/// Whether a user may send such a header: it is well formed and not one of those that make the handshake.
pub(super) fn valid_header(name: &str, value: &str) -> bool {
    let ours = ["connection", "upgrade", "sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"];
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { return false };
    !ours.contains(&name.as_str()) && HeaderValue::from_str(value).is_ok_and(|value| value.to_str().is_ok())
}

/// Keeps `peer` of `endpoint` connected until the endpoint closes. Runs on the control runtime; connections live on
/// `data`.
pub(super) async fn keep(endpoint: Arc<Endpoint>, peer: Arc<Peer>, data: Handle, presence: Presence) {
    let mut closing = endpoint.closing.subscribe();
    let mut wait = endpoint.terms().reconnect.initial;
    loop {
        // Links may have come and gone since the last time.
        let terms = endpoint.terms();
        let waits = terms.reconnect;
        let dialled = tokio::select! {
            dialled = dial(&terms, endpoint.websocket(&terms)) => dialled,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        match dialled.and_then(|mut websocket| match websocket.get_mut().detach() {
            Ok(()) => Ok(websocket),
            Err(source) => Err(DialError::Connect { address: endpoint.settings.address(), source }),
        }) {
            Ok(websocket) => {
                let began = Instant::now();
                peer.farewell.send_replace(None);
                endpoint.opens(&peer);
                if *closing.borrow() {
                    peer.dismiss(CloseCode::Away, "the endpoint has ended");
                }
                endpoint.stands(LinkState::Connected);
                let (place, who) = (endpoint.clone(), peer.clone());
                let ending = data.spawn(async move { connection::run(websocket, &place, &who).await }).await;
                peer.hang_up();
                if !*closing.borrow() {
                    let ending = ending.unwrap_or_else(|error| {
                        let panic = "an error in this program ended the connection: please report it (--log error)";
                        Some(if error.is_panic() { panic } else { "its data thread has ended" }.to_owned())
                    });
                    endpoint.fails(ending.unwrap_or_else(|| "the peer closed the connection".to_owned()));
                }
                // A peer that closes at once is not dialled faster than one that refuses.
                if began.elapsed() > (2 * wait).max(Duration::from_secs(1)) {
                    wait = waits.initial;
                }
            }
            Err(error) => endpoint.fails(error.to_string()),
        }
        endpoint.stands(LinkState::Connecting);
        tokio::select! {
            () = tokio::time::sleep(jittered(wait, waits.jitter)) => {}
            _ = closing.wait_for(|closing| *closing) => break,
        }
        wait = (2 * wait).min(waits.max);
    }
    endpoint.stands(LinkState::Disconnected);
    endpoint.leave(&peer);
    drop(presence);
}

/// Dials once: TCP, TLS and HTTP within the handshake timeout.
pub(super) async fn dial(settings: &Settings, config: WebSocketConfig) -> Result<WebSocketStream<Wire>, DialError> {
    let limit = settings.handshake_timeout;
    match tokio::time::timeout(limit, connect(settings, config)).await {
        Ok(dialled) => dialled,
        Err(_) => Err(DialError::Timeout { address: settings.address(), limit }),
    }
}

async fn connect(settings: &Settings, config: WebSocketConfig) -> Result<WebSocketStream<Wire>, DialError> {
    let address = settings.address();
    let unreachable = |source| DialError::Connect { address: address.clone(), source };
    let Role::Client { host, port } = &settings.role else {
        return Err(unreachable(io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
    // Without it small messages wait for acknowledgements.
    stream.set_nodelay(true).map_err(unreachable)?;
    let socket = Socket::new(stream);
    let wire = match &settings.tls {
        None => Wire::plain(socket),
        Some(tls) => {
            let failed = |source| DialError::Tls { address: address.clone(), source };
            let name = ServerName::try_from(host.clone())
                .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
            let stream = TlsConnector::from(tls.config.clone()).connect(name, socket).await.map_err(failed)?;
            Wire::tls(TlsStream::Client(stream))
        }
    };
    let strange = |source: Error| match source {
        Error::Http(response) => DialError::Status { address: address.clone(), status: response.status().as_u16() },
        source => DialError::Handshake { address: address.clone(), source: Box::new(source) },
    };
    let request = request(settings, host, *port).map_err(strange)?;
    let offered = settings.subprotocols.first().cloned();
    let head = HeadReader { wire, head: Vec::new(), given: 0, end: None, offered };
    let (websocket, _) = tokio_tungstenite::client_async(request, head).await.map_err(strange)?;
    Ok(connection::open(websocket.into_inner().into_wire(), WireRole::Client, config).await)
}

/// Shows a handshake the head of the response, and keeps what comes behind it for the websocket.
struct HeadReader {
    wire: Wire,
    /// what was read
    head: Vec<u8>,
    /// how much of it the handshake has got
    given: usize,
    /// where the head ends, once that is known
    end: Option<usize>,
    /// the first subprotocol that was offered
    offered: Option<String>,
}

const END_OF_HEAD: &[u8] = b"\r\n\r\n";

impl HeadReader {
    /// A server may choose none of the subprotocols (RFC 6455, 4.2.2). The handshake behind us takes that for an error,
    /// so it is shown the choice of the first; nothing else looks at it.
    fn choose(&mut self) {
        const NAME: &str = "sec-websocket-protocol:";
        let (Some(end), Some(offered)) = (self.end, &self.offered) else { return };
        let head = String::from_utf8_lossy(&self.head[..end]);
        if head.lines().any(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME))) {
            return;
        }
        let line = format!("{NAME} {offered}\r\n");
        self.end = Some(end + line.len());
        self.head.splice(end - 2..end - 2, line.into_bytes());
    }

    fn into_wire(mut self) -> Wire {
        self.wire.put_back(self.head.split_off(self.given));
        self.wire
    }
}

impl AsyncRead for HeadReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            // The empty line is shown only whole: a line may have to go before it.
            let known = this.end.unwrap_or(this.head.len().saturating_sub(END_OF_HEAD.len() - 1));
            if this.given < known || this.end.is_some() {
                let count = (known - this.given).min(buf.remaining());
                buf.put_slice(&this.head[this.given..this.given + count]);
                this.given += count;
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [0; 1024];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.wire).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.head.extend_from_slice(read.filled());
            let end = this.head[this.given..].windows(END_OF_HEAD.len()).position(|four| four == END_OF_HEAD);
            this.end = end.map(|at| this.given + at + END_OF_HEAD.len());
            this.choose();
        }
    }
}

impl AsyncWrite for HeadReader {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().wire).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_shutdown(cx)
    }
}

fn request(settings: &Settings, host: &str, port: u16) -> Result<impl IntoClientRequest + Unpin + use<>, Error> {
    let scheme = if settings.tls.is_some() { "wss" } else { "ws" };
    let mut request = format!("{scheme}://{}:{port}{}", bracketed(host), settings.path).into_client_request()?;
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("plutino/", env!("CARGO_PKG_VERSION"))));
    if !settings.subprotocols.is_empty() {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(&settings.subprotocols.join(", "))?);
    }
    for (name, value) in &settings.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| Error::HttpFormat(error.into()))?;
        let value = HeaderValue::from_str(value)?;
        if name == header::HOST || name == header::USER_AGENT {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    Ok(request)
}

/// `wait`, up to the share `jitter` of it longer or shorter, so that many clients do not come back at once.
fn jittered(wait: Duration, jitter: f64) -> Duration {
    // The keys of a new hasher are random: chance enough for a wait.
    let chance = RandomState::new().hash_one(0u8) as f64 / u64::MAX as f64;
    wait.mul_f64((1.0 + jitter * (2.0 * chance - 1.0)).max(0.0))
}
