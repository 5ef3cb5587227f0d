//! Dials: from the settings of a client role to a websocket after its handshake.
//!
//! It tries addresses (`io::addresses`) that are allowed (`io::egress`), through a proxy if one is set (`proxy`), then
//! does TLS and the handshake (`handshake`), and repeats this if the peer redirects. All steps share the limit
//! `handshakeTimeout`. Other modules decide about waits between dials and about the use of the websocket.

mod handshake;
mod proxy;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};

use self::handshake::{Answer, HandshakeError, Refusal};
pub use self::proxy::ProxyChoice;
use super::config::{Role, Settings, bracketed};
use super::opening::OpeningError;
use super::socket::{Socket, Wire};
use crate::io::addresses;
use crate::io::backoff::retry_after;
use crate::io::egress::{Destination, Egress};
use crate::io::tls::{ClientTls, Identity};
use crate::text::secret::masked_url;

/// The most redirects that are followed.
const REDIRECTS: usize = 5;

/// Why a redirect with a hidden target is not followed.
const UNREACHABLE: &str = "its target cannot be reached, or basic.egressAllow does not let it be dialled";

/// Why dialling failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("cannot connect to {address} through the proxy {proxy}: {source}")]
    Proxy { address: String, proxy: String, source: io::Error },
    #[error("TLS with {address} failed: {source}{}", trust_advice(.source))]
    Tls { address: String, source: io::Error },
    #[error("{address} refuses the websocket: HTTP status {status}{}; {}", shown(.body), advice(*.status))]
    Status {
        address: String,
        status: u16,
        /// the start of the body
        body: String,
        /// the wait that the peer asks for
        retry_after: Option<Duration>,
    },
    #[error("{address} redirects{}, which is not followed: {why}", led_to(.target))]
    Redirect {
        address: String,
        /// empty: it is not shown
        target: String,
        why: &'static str,
    },
    #[error("{address} does not answer as a websocket server: {source}")]
    Handshake { address: String, source: HandshakeError },
    #[error("{address}: the answer to perMessageDeflate cannot be used: {wrong}")]
    Extensions { address: String, wrong: &'static str },
    #[error("{address} is not dialled: {source}")]
    Opening { address: String, source: OpeningError },
    #[error("{address} did not complete the handshake within {} ms (handshakeTimeout)", limit.as_millis())]
    Timeout { address: String, limit: Duration },
}

fn shown(body: &str) -> String {
    if body.is_empty() { String::new() } else { format!(": {body:?}") }
}

fn led_to(target: &str) -> String {
    if target.is_empty() { String::new() } else { format!(" to {target}") }
}

/// What to do if the peer's certificate is not trusted.
fn trust_advice(error: &io::Error) -> &'static str {
    use tokio_rustls::rustls::{CertificateError, Error};
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "; name its certificate, or that of its authority, in rootCaPath (--ca)"
        }
        _ => "",
    }
}

/// What to check if a peer refuses with this status.
fn advice(status: u16) -> &'static str {
    match status {
        401 | 403 => "check the credentials, such as those in headers, and the path",
        400 => "check the path, and whether it speaks TLS (wss)",
        429 | 503 => "it has too much to do: the next try waits for as long as it asks",
        _ => "check the path",
    }
}

impl DialError {
    /// How long to wait before the next dial, if `wait` is the wait so far: as long as the peer asks for, and longer if
    /// other credentials are needed, which do not appear by themselves.
    pub fn pause(&self, wait: Duration) -> Duration {
        const REFUSED: u32 = 10;
        const LONGEST_REFUSED: Duration = Duration::from_secs(300);
        match self {
            DialError::Status { status: 401 | 403, .. } => (wait * REFUSED).min(LONGEST_REFUSED).max(wait),
            DialError::Status { retry_after: Some(asked), .. } => wait.max(*asked),
            _ => wait,
        }
    }
}

/// A stream after its handshake, with the response's headers.
pub(super) type Dialled = (Wire, HeaderMap);

/// Whether users may set this header: it is valid, and not one of those that form the handshake.
pub(super) fn valid_header(name: &str, value: &str) -> bool {
    let ours = ["connection", "upgrade", "sec-websocket-key", "sec-websocket-version", "sec-websocket-extensions"];
    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { return false };
    !ours.contains(&name.as_str()) && HeaderValue::from_str(value).is_ok_and(|value| value.to_str().is_ok())
}

/// Dials once. `extensions` is the value of the header Sec-WebSocket-Extensions.
///
/// # Errors
/// [`DialError`]
pub(super) async fn dial(settings: &Settings, extensions: Option<&str>, egress: &Egress) -> Result<Dialled, DialError> {
    let limit = settings.handshake_timeout;
    match tokio::time::timeout(limit, follow(settings, extensions, egress)).await {
        Ok(dialled) => dialled,
        Err(_) => Err(DialError::Timeout { address: settings.address(), limit }),
    }
}

/// The destination of a handshake.
#[derive(Clone, Debug)]
struct Target {
    tls: Option<ClientTls>,
    host: String,
    port: u16,
    path: String,
    /// whether it is the host that the user named, which may get headers and the client certificate
    trusted: bool,
}

async fn follow(settings: &Settings, extensions: Option<&str>, egress: &Egress) -> Result<Dialled, DialError> {
    let Role::Client { host, port } = &settings.role else {
        let source = io::Error::from(io::ErrorKind::InvalidInput);
        return Err(DialError::Connect { address: settings.address(), source });
    };
    let (host, port, path) = (host.clone(), *port, settings.path.clone());
    let mut target = Target { tls: settings.tls.clone(), host, port, path, trusted: true };
    // Errors of the first target show the address as the user knows it.
    let mut address = settings.address();
    // Whether no other machine has redirected us.
    let mut from_here = true;
    // Whether a server that may be on this machine has redirected us: the target is part of its response, and is not
    // shown.
    let mut hidden = false;
    for _ in 0..=REDIRECTS {
        let reached = reach(&target, &settings.proxy, &address, egress, from_here).await;
        let Reached { wire, here, may_be_here } = reached.map_err(|error| match hidden {
            true => DialError::Redirect { address: settings.address(), target: String::new(), why: UNREACHABLE },
            false => error,
        })?;
        let failed = |source| DialError::Handshake { address: address.clone(), source };
        let request = request(settings, &target, extensions).map_err(failed)?;
        match handshake::upgrade(wire, request).await.map_err(failed)? {
            Answer::Accepted(wire, headers) => return Ok((wire, headers)),
            Answer::Refused(refusal) if is_redirect(&refusal) => {
                let to =
                    refusal.headers.get(header::LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
                let to = to.unwrap_or_default();
                hidden |= !egress.shows_answers(may_be_here);
                target = target.redirected(&to, settings).map_err(|why| DialError::Redirect {
                    address: address.clone(),
                    target: if hidden { String::new() } else { to },
                    why,
                })?;
                address = match hidden {
                    true => format!("{} (after a redirect)", settings.address()),
                    false => target.address(),
                };
                from_here &= here;
            }
            Answer::Refused(Refusal { status, headers, body }) => {
                let body = if egress.shows_answers(may_be_here) { body } else { String::new() };
                let retry_after = match status {
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => retry_after(&headers),
                    _ => None,
                };
                return Err(DialError::Status { address, status: status.as_u16(), body, retry_after });
            }
        }
    }
    let target = if hidden { String::new() } else { address };
    Err(DialError::Redirect { address: settings.address(), target, why: "there are more than 5 redirects" })
}

fn is_redirect(refusal: &Refusal) -> bool {
    matches!(refusal.status.as_u16(), 301 | 302 | 303 | 307 | 308) && refusal.headers.contains_key(header::LOCATION)
}

/// A connection to a target.
struct Reached {
    wire: Wire,
    /// it leads to this machine
    here: bool,
    /// whether it may lead to this machine: a proxy on this machine decides where it leads
    may_be_here: bool,
}

/// Opens the connection, with TLS if required. `from_here`: no other machine has redirected us.
async fn reach(
    target: &Target,
    choice: &ProxyChoice,
    address: &str,
    egress: &Egress,
    from_here: bool,
) -> Result<Reached, DialError> {
    let Target { tls, host, port, trusted: written, .. } = target;
    let to = Destination { host, port: *port, written: *written };
    let refused = |error| io::Error::new(io::ErrorKind::PermissionDenied, error);
    let proxy = choice.of(tls.is_some(), host, |name| std::env::var(name).ok());
    let (wire, here, may_be_here) = match &proxy {
        None => {
            let failed = |source| DialError::Connect { address: address.to_owned(), source };
            let check = |address, own| egress.check_dial(to, address, own, from_here).map_err(refused);
            let (stream, here) = connect_checked(host, *port, check).await.map_err(failed)?;
            // Without it, small messages would wait for acknowledgements.
            stream.set_nodelay(true).map_err(failed)?;
            (Socket::new(stream), here, here)
        }
        Some(proxy) => {
            let failed = |source| DialError::Proxy { address: address.to_owned(), proxy: proxy.to_string(), source };
            // The proxy resolves names.
            egress.check_dial_host(to, from_here).map_err(|error| failed(refused(error)))?;
            // The environment belongs to the operator.
            let guard = (*choice != ProxyChoice::Environment).then_some(egress);
            let (wire, proxy_here) = proxy.tunnel(host, *port, guard).await.map_err(failed)?;
            (wire, false, proxy_here)
        }
    };
    let Some(tls) = tls else { return Ok(Reached { wire: Wire::plain(wire), here, may_be_here }) };
    let failed = |source| DialError::Tls { address: address.to_owned(), source };
    let name = ServerName::try_from(host.clone())
        .map_err(|error| failed(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let stream = TlsConnector::from(tls.config.clone()).connect(name, wire).await.map_err(failed)?;
    Ok(Reached { wire: Wire::tls(TlsStream::Client(stream)), here, may_be_here })
}

/// Connects to a host at an address that passes `check`, and returns what `check` returned. Its second argument is
/// whether the address belongs to this machine.
async fn connect_checked(
    host: &str,
    port: u16,
    check: impl Fn(IpAddr, bool) -> io::Result<bool>,
) -> io::Result<(TcpStream, bool)> {
    let stream = addresses::connect_checked(host, port, |address| check(address, false).map(drop)).await?;
    // A connection from an address to itself leads to this machine, whatever the address is.
    let (here, there) = (stream.local_addr()?.ip(), stream.peer_addr()?.ip());
    let checked = check(there, here == there)?;
    Ok((stream, checked))
}

impl Target {
    fn address(&self) -> String {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}:{}{}", bracketed(&self.host), self.port, masked_url(&self.path))
    }

    /// The target of a redirect. The error is the reason why it is not followed.
    fn redirected(&self, location: &str, settings: &Settings) -> Result<Target, &'static str> {
        const BAD: &str = "the address cannot be read";
        let uri: Uri = location.parse().map_err(|_| BAD)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        if !path.starts_with('/') {
            return Err(BAD);
        }
        let Some(host) = uri.host() else { return Ok(Target { path, ..self.clone() }) };
        let secure = match uri.scheme_str() {
            None => self.tls.is_some(),
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            Some(_) => return Err("it is not a websocket address"),
        };
        if self.tls.is_some() && !secure {
            return Err("it would leave TLS");
        }
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let Role::Client { host: own, .. } = &settings.role else { return Err(BAD) };
        let trusted = self.trusted && host.eq_ignore_ascii_case(own);
        let tls = match (&settings.tls, secure) {
            (_, false) => None,
            (Some(tls), true) if trusted => Some(tls.clone()),
            (own, true) => {
                // The same authorities, but without the client certificate.
                let identity = own.as_ref().map(|tls| Identity::clone(&tls.identity)).unwrap_or_default();
                let stranger = Identity { certificate: None, key: None, ..identity };
                Some(ClientTls::new(Arc::new(stranger)).map_err(|_| "this system trusts no certificate authorities")?)
            }
        };
        Ok(Target { tls, host, port, path, trusted })
    }
}

/// Characters that must be escaped in a path.
const UNSAFE: &AsciiSet =
    &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'\\').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

fn request(settings: &Settings, target: &Target, extensions: Option<&str>) -> Result<Request, HandshakeError> {
    let http = |error| HandshakeError::Http(Box::new(error));
    let scheme = if target.tls.is_some() { "wss" } else { "ws" };
    let path = utf8_percent_encode(&target.path, UNSAFE);
    let address = format!("{scheme}://{}:{}{path}", bracketed(&target.host), target.port);
    let mut request = address.into_client_request().map_err(http)?;
    let headers = request.headers_mut();
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("plutino/", env!("CARGO_PKG_VERSION"))));
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| http(error.into()));
    if !settings.subprotocols.is_empty() {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value(&settings.subprotocols.join(", "))?);
    }
    if let Some(extensions) = extensions {
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, value(extensions)?);
    }
    // Another host does not get headers meant for the first one.
    for (name, text) in settings.headers.iter().filter(|_| target.trusted) {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|error| http(tokio_tungstenite::tungstenite::Error::HttpFormat(error.into())))?;
        if name == header::HOST || name == header::USER_AGENT {
            headers.insert(name, value(text)?);
        } else {
            headers.append(name, value(text)?);
        }
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn target(scheme: &str) -> (Target, Settings) {
        let props = json!({"addr": "feed.example", "scheme": scheme, "headers": {"Authorization": "Bearer t"}, "insecureSkipVerify": true});
        let settings = Settings::source("/a", props.as_object().expect("an object")).expect("it is right").0;
        let Role::Client { host, port } = settings.role.clone() else { panic!("a client role") };
        (Target { tls: settings.tls.clone(), host, port, path: "/a".to_owned(), trusted: true }, settings)
    }

    #[test]
    fn redirects_lead_to_the_same_scheme_or_a_safer_one() {
        for (scheme, location, expected) in [
            ("ws", "/b?x=1", Ok(("ws://feed.example:80/b?x=1", true))),
            ("ws", "wss://feed.example/b", Ok(("wss://feed.example:443/b", true))),
            ("ws", "https://other.example:8443", Ok(("wss://other.example:8443/", false))),
            ("wss", "http://feed.example/b", Err("it would leave TLS")),
            ("ws", "ftp://feed.example/b", Err("it is not a websocket address")),
            ("ws", "http://[::1", Err("the address cannot be read")),
        ] {
            let (from, settings) = target(scheme);
            let to = from.redirected(location, &settings);
            let shown = to.as_ref().map(|to| (to.address(), to.trusted)).map_err(|why| *why);
            assert_eq!(shown, expected.map(|(to, trusted)| (to.to_owned(), trusted)), "{location}");
        }
        // A host is not trusted again after a redirect, because the redirect may have changed the path.
        let (from, settings) = target("ws");
        let away = from.redirected("ws://other.example/", &settings).expect("it is followed");
        let back = away.redirected("ws://feed.example/", &settings).expect("it is followed");
        let shown = |target: &Target| {
            request(&settings, target, None).expect("a request").headers().contains_key("authorization")
        };
        assert_eq!((shown(&from), shown(&away), shown(&back)), (true, false, false));
    }

    #[tokio::test]
    async fn a_redirect_from_another_machine_does_not_lead_here() {
        use tokio::net::TcpListener;

        let proxy = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy_port = proxy.local_addr().expect("it is bound").port();
        let inner = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        inner.set_nonblocking(true).expect("it can be set");
        let inner_port = inner.local_addr().expect("it is bound").port();
        // A machine that redirects is behind the proxy.
        let (heads, mut asked) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            for to in ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]"] {
                let (mut socket, _) = proxy.accept().await.expect("it is dialled");
                heads.send(head(&mut socket).await).expect("the test goes on");
                socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("it is read");
                head(&mut socket).await;
                let answer = format!("HTTP/1.1 302 Found\r\nLocation: ws://{to}:{inner_port}/\r\n\r\n");
                socket.write_all(answer.as_bytes()).await.expect("it is read");
            }
        });
        let props = json!({"addr": "feed.example", "proxy": format!("http://127.0.0.1:{proxy_port}")});
        let settings = Settings::source("/a", props.as_object().expect("an object")).expect("it is right").0;
        for _ in 0..5 {
            let error = dial(&settings, None, &Egress::default()).await.map(drop).expect_err("it is refused");
            assert!(matches!(error, DialError::Redirect { .. }), "{error}");
            assert!(asked.recv().await.expect("the proxy is asked").starts_with("CONNECT feed.example:80 "));
        }
        assert!(asked.recv().await.is_none(), "the proxy is not asked for this machine");
        assert!(inner.accept().is_err(), "nothing on this machine is dialled");
    }

    async fn head(socket: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.expect("a head"));
        }
        String::from_utf8_lossy(&head).into_owned()
    }

    #[test]
    fn paths_are_escaped() {
        let (mut target, settings) = target("ws");
        target.path = "/größe/a b?x={\"a\":1}&y=%20".to_owned();
        let request = request(&settings, &target, None).expect("a request");
        let path = request.uri().path_and_query().map(|path| path.as_str().to_owned());
        assert_eq!(path.as_deref(), Some("/gr%C3%B6%C3%9Fe/a%20b?x=%7B%22a%22:1%7D&y=%20"));
    }

    #[test]
    fn waits_are_as_long_as_the_peer_asks() {
        let second = Duration::from_secs(1);
        let status = |status, retry_after| DialError::Status {
            address: String::new(),
            status,
            body: String::new(),
            retry_after,
        };
        assert_eq!(status(401, None).pause(second), 10 * second);
        assert_eq!(status(403, None).pause(200 * second), 300 * second);
        assert_eq!(status(503, Some(7 * second)).pause(second), 7 * second);
        assert_eq!(status(503, None).pause(second), second);
    }
}
