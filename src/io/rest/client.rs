//! Sends one request: over a kept or new connection, through redirects, within its time limit.
//!
//! hyper-util's client keeps connections, and repeats requests that an old connection did not accept. This module
//! decides which address is dialled, since each address, including that of a redirect, must pass [`Egress`]. Headers
//! and the client certificate go only to the server that the sink names, not to redirect targets.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::tungstenite::http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};

use super::Origin;
use super::properties::{origin, uri};
use super::request::Prepared;
use crate::io::addresses::connect_checked;
use crate::io::backoff::retry_after;
use crate::io::egress::{Destination, Egress, EgressError};
use crate::io::tls::{ClientTls, Identity};

/// The most redirects that are followed.
const REDIRECTS: usize = 5;

/// How much of a response is read; a connection with a longer one is closed.
const ANSWER_BYTES: usize = 64 * 1024;

/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(60);

/// A server's final response.
#[derive(Debug)]
pub(super) struct Answer {
    pub status: StatusCode,
    /// the wait that it asks for
    pub retry_after: Option<Duration>,
    /// the start of the body
    pub body: Bytes,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error(transparent)]
    Egress(#[from] EgressError),
    #[error("no answer within {} ms (timeout)", .0.as_millis())]
    Timeout(Duration),
    #[error("{0}")]
    Network(String),
    #[error("the redirect to {0:?} is not followed: {1}")]
    Redirect(String, &'static str),
}

/// Sends the requests of one sink.
pub(super) struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    timeout: Duration,
}

impl HttpClient {
    /// A client for a sink whose requests all go to the server `written`, if there is one.
    pub fn new(written: Option<Origin>, tls: Option<ClientTls>, timeout: Duration, egress: Egress) -> HttpClient {
        let connector = Connector(Arc::new(Way { written, tls, egress }));
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        HttpClient { client, timeout }
    }

    /// Sends a request, and reads the response.
    ///
    /// # Errors
    /// [`SendError`]
    pub async fn send(&self, request: &Prepared) -> Result<Answer, SendError> {
        match tokio::time::timeout(self.timeout, self.follow(request.clone())).await {
            Ok(answered) => answered,
            Err(_) => Err(SendError::Timeout(self.timeout)),
        }
    }

    async fn follow(&self, mut request: Prepared) -> Result<Answer, SendError> {
        for _ in 0..=REDIRECTS {
            let answer = self.client.request(request.http()).await.map_err(failed)?;
            let location = answer.headers().get(header::LOCATION).filter(|_| redirects(answer.status()));
            let Some(location) = location else { return read(answer).await };
            let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
            let (status, _) = (answer.status(), read(answer).await?);
            request = request.redirected(&location, status).map_err(|why| SendError::Redirect(location, why))?;
        }
        Err(SendError::Redirect(request.uri.to_string(), "there are more than 5 redirects"))
    }
}

fn redirects(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

impl Prepared {
    fn http(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// The request after a redirect: the same, except that 303 says that the message has arrived, and asks for a GET.
    /// Browsers make a GET also of a POST that 301 or 302 redirects, and lose what it carried (RFC 9110, 15.4.2).
    fn redirected(self, location: &str, status: StatusCode) -> Result<Prepared, &'static str> {
        const BAD: &str = "the address cannot be read";
        let to = uri(location).ok_or(BAD)?;
        let to = match (to.scheme(), to.authority()) {
            (Some(_), Some(_)) => to,
            (None, None) if to.path().starts_with('/') => {
                let mut parts = self.uri.clone().into_parts();
                parts.path_and_query = to.path_and_query().cloned();
                Uri::from_parts(parts).map_err(|_| BAD)?
            }
            _ => return Err(BAD),
        };
        let next = origin(&to).ok_or("it is not an http:// or https:// address")?;
        if self.origin.secure && !next.secure {
            return Err("it would leave TLS");
        }
        let same = next.host.eq_ignore_ascii_case(&self.origin.host) && next.port == self.origin.port;
        let again = status != StatusCode::SEE_OTHER || matches!(self.method, Method::GET | Method::HEAD);
        let (method, body) = if again { (self.method, self.body) } else { (Method::GET, Bytes::new()) };
        let kept = |name: &header::HeaderName| {
            let of_body = [header::CONTENT_TYPE, header::CONTENT_ENCODING].contains(name);
            let ours = [header::USER_AGENT, header::ACCEPT].contains(name);
            if of_body { again } else { ours || same }
        };
        let headers: HeaderMap =
            self.headers.iter().filter(|(name, _)| kept(name)).map(|(n, v)| (n.clone(), v.clone())).collect();
        Ok(Prepared { method, uri: to, origin: next, headers, body })
    }
}

async fn read(answer: Response<Incoming>) -> Result<Answer, SendError> {
    let (head, mut body) = answer.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| SendError::Network(chain(&error)))?;
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(&data[..data.len().min(ANSWER_BYTES - bytes.len())]);
        }
        if bytes.len() == ANSWER_BYTES {
            break;
        }
    }
    Ok(Answer { status: head.status, retry_after: retry_after(&head.headers), body: bytes.freeze() })
}

fn failed(error: hyper_util::client::legacy::Error) -> SendError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(this) = cause {
        let inner = this.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(refused) = inner.and_then(|inner| inner.downcast_ref::<EgressError>()) {
            return refused.clone().into();
        }
        cause = this.source();
    }
    SendError::Network(chain(&error))
}

/// An error with its causes, without repetition.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(this) = cause {
        let more = this.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = this.source();
    }
    text
}

/// How servers are dialled.
struct Way {
    /// the server that the sink names
    written: Option<Origin>,
    tls: Option<ClientTls>,
    egress: Egress,
}

#[derive(Clone)]
struct Connector(Arc<Way>);

impl tower::Service<Uri> for Connector {
    type Response = Transport;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Transport>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let way = self.0.clone();
        Box::pin(async move { way.connect(&uri).await })
    }
}

impl Way {
    async fn connect(&self, uri: &Uri) -> io::Result<Transport> {
        let bad = || io::Error::new(io::ErrorKind::InvalidInput, "not an http:// or https:// address");
        let to = origin(uri).ok_or_else(bad)?;
        let written = self.written.as_ref().is_some_and(|own| own.host == to.host && own.port == to.port);
        let destination = Destination { host: &to.host, port: to.port, written };
        let check = |address, own| {
            let checked = self.egress.check(destination, address, own);
            checked.map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))
        };
        let stream = connect_checked(&to.host, to.port, |address| check(address, false)).await?;
        // A connection from an address to itself leads to this machine, whatever the address is.
        let (here, there) = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
        check(there, here == there)?;
        stream.set_nodelay(true)?;
        if !to.secure {
            return Ok(Transport::Plain(TokioIo::new(stream)));
        }
        let tls = self.tls_for(written).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let name = ServerName::try_from(to.host).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let stream = TlsConnector::from(tls.config.clone()).connect(name, stream).await?;
        Ok(Transport::Tls(Box::new(TokioIo::new(stream))))
    }

    /// The TLS for a server. Only the server that the sink names gets the client certificate, or any server if the sink
    /// names none.
    fn tls_for(&self, written: bool) -> Result<ClientTls, crate::io::tls::TlsError> {
        match &self.tls {
            Some(tls) if written || self.written.is_none() => Ok(tls.clone()),
            own => {
                let identity = own.as_ref().map(|tls| Identity::clone(&tls.identity)).unwrap_or_default();
                ClientTls::new(Arc::new(Identity { certificate: None, key: None, ..identity }))
            }
        }
    }
}

/// The byte stream under HTTP.
enum Transport {
    Plain(TokioIo<TcpStream>),
    Tls(Box<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>>),
}

/// A trait for both kinds of streams: HTTP does not depend on the kind.
trait Wire: Read + Write + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Wire for TokioIo<T> {}

impl Transport {
    fn wire(&mut self) -> Pin<&mut dyn Wire> {
        match self {
            Transport::Plain(wire) => Pin::new(wire),
            Transport::Tls(wire) => Pin::new(&mut **wire),
        }
    }
}

impl Connection for Transport {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Transport {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        self.wire().poll_read(cx, buf)
    }
}

impl Write for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.wire().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_tungstenite::tungstenite::http::HeaderValue;

    fn request(url: &str) -> Prepared {
        let uri: Uri = url.parse().expect("a URL");
        let mut headers = HeaderMap::new();
        for name in ["user-agent", "content-type", "authorization"] {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        let origin = origin(&uri).expect("a server");
        Prepared { method: Method::POST, uri, origin, headers, body: Bytes::from_static(b"x") }
    }

    #[test]
    fn redirects_keep_secrets_from_others() {
        for (from, to, status, expected) in [
            ("http://a/x?y", "/z", 307, Ok(("POST http://a/z", "user-agent,content-type,authorization"))),
            ("http://a/x", "/z", 302, Ok(("POST http://a/z", "user-agent,content-type,authorization"))),
            ("http://a/x", "https://a/x", 301, Ok(("POST https://a/x", "user-agent,content-type"))),
            ("http://a/x", "/z", 303, Ok(("GET http://a/z", "user-agent,authorization"))),
            ("http://a/x", "https://b:1/", 308, Ok(("POST https://b:1/", "user-agent,content-type"))),
            ("https://a/x", "http://a/", 307, Err("it would leave TLS")),
            ("http://a/x", "ftp://a/", 307, Err("it is not an http:// or https:// address")),
            ("http://a/x", "z", 307, Err("the address cannot be read")),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let next = request(from).redirected(to, status);
            let shown = next.map(|next| {
                let names: Vec<&str> = next.headers.keys().map(|name| name.as_str()).collect();
                assert_eq!(next.body.is_empty(), next.method == Method::GET, "a message goes along");
                (format!("{} {}", next.method, next.uri), names.join(","))
            });
            assert_eq!(shown, expected.map(|(line, names)| (line.to_owned(), names.to_owned())), "{to}");
        }
    }
}
