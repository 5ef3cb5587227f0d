//! Decides which requests the API accepts, by the headers that browsers send and pages cannot change.
//!
//! A browser on a machine that reaches the API lets any page that it shows send requests there. Three checks keep such
//! pages out:
//!
//! - `Host` must be a name of this service, so a foreign name that resolves to it (DNS rebinding) is refused
//! - a page's `Origin` must be the service's own or one of `basic.restOrigins`; `Sec-Fetch-Site` covers requests
//!   without an origin, such as those of images
//! - bodies sent by a browser must be JSON (or forms, for uploads): pages of other origins cannot send JSON without
//!   asking first
//!
//! Programs send neither `Origin` nor `Sec-Fetch-Site`, and pass. This is not authentication: see [`super::auth`].

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::ApiError;
use crate::config::Config;
use crate::service::Service;

const METHODS: [Method; 6] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD];
const HEADERS: [&str; 6] = ["accept", "accept-language", "content-type", "content-language", "origin", "authorization"];

/// The path that accepts forms.
const UPLOADS: &str = "/config/uploads";

/// The guarded API. The service's names and the allowed origins may change while it runs.
#[derive(Clone)]
pub struct Guarded {
    service: Service,
    scheme: &'static str,
}

/// The names of this service, and the origins of pages that may use it.
struct Guard {
    config: Arc<Config>,
    /// The scheme of the API itself.
    scheme: &'static str,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
enum Refused {
    #[error("the request needs exactly one header Host")]
    Hosts,
    #[error("there are no websockets here: connect to the data server at source.httpServerPort")]
    Websocket,
    #[error("the host {0:?} is not this service: add it to basic.restHosts")]
    Host(String),
    #[error("pages of {0:?} may not use this service: add the origin to basic.restOrigins")]
    Origin(String),
    #[error("this page's site is not allowed to use the service: add its origin to basic.restOrigins")]
    Site,
    #[error("a body that a browser sends must be application/json, or multipart/form-data for an upload")]
    ContentType,
}

impl Refused {
    fn status(&self) -> StatusCode {
        match self {
            Refused::Hosts | Refused::Websocket => StatusCode::BAD_REQUEST,
            Refused::Host(_) | Refused::Origin(_) | Refused::Site => StatusCode::FORBIDDEN,
            Refused::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

impl Guarded {
    /// The API of this service.
    pub fn new(service: &Service) -> Guarded {
        let scheme = if service.config().rest_tls.is_some() { "https" } else { "http" };
        Guarded { service: service.clone(), scheme }
    }

    /// The same without TLS, for the port of the metrics.
    pub fn plain(service: &Service) -> Guarded {
        Guarded { service: service.clone(), scheme: "http" }
    }

    fn guard(&self) -> Guard {
        Guard { config: self.service.config(), scheme: self.scheme }
    }
}

impl Guard {
    /// Checks a request; returns the origin of the page that sent it, if one did.
    fn check(&self, request: &Request) -> Result<Option<HeaderValue>, Refused> {
        let headers = request.headers();
        // Handshakes are GETs that a rule or a redirect can send here.
        let upgrades = headers.get_all(header::UPGRADE).iter();
        if upgrades
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.to_ascii_lowercase().contains("websocket"))
        {
            return Err(Refused::Websocket);
        }
        let host = self.host(request)?;
        let origin = self.origin(headers, host)?;
        let site = headers.get("sec-fetch-site");
        // Requests of a page with an allowed origin carry its origin.
        let own = site.is_none_or(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
        if origin.is_none() && !own {
            return Err(Refused::Site);
        }
        if (origin.is_some() || site.is_some()) && has_body(headers) && !is_json(request) {
            return Err(Refused::ContentType);
        }
        Ok(origin)
    }

    /// The requested host, if it is this service.
    fn host<'a>(&self, request: &'a Request) -> Result<&'a str, Refused> {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().map_err(|_| Refused::Hosts)?,
            // HTTP/1.0 has no hosts, and browsers do not use it.
            (None, _) if request.version() < Version::HTTP_11 => return Ok(""),
            _ => return Err(Refused::Hosts),
        };
        let in_target = request.uri().authority().map(|authority| authority.as_str());
        for host in std::iter::once(host).chain(in_target) {
            if !self.is_own(without_port(host)) {
                return Err(Refused::Host(host.chars().take(256).collect()));
            }
        }
        Ok(host)
    }

    fn is_own(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = address.parse::<IpAddr>() {
            let address = address.to_canonical();
            // If it listens on all addresses, any address is accepted: unlike a name, an address cannot be rebound.
            let own = self.config.rest.ip();
            if address.is_loopback() || address == own.to_canonical() || own.is_unspecified() {
                return true;
            }
        }
        host.eq_ignore_ascii_case("localhost")
            || self.config.rest_hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
    }

    fn origin(&self, headers: &HeaderMap, host: &str) -> Result<Option<HeaderValue>, Refused> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let Some(origin) = origins.next() else { return Ok(None) };
        let text = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let own = format!("{}://{}", self.scheme, host.to_ascii_lowercase());
        let known = text == own || self.config.rest_origins.contains(&text);
        if !known || origins.next().is_some() {
            return Err(Refused::Origin(text.chars().take(256).collect()));
        }
        Ok(Some(origin.clone()))
    }
}

/// The host of a `Host` header, without its port.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length.as_bytes() != b"0")
}

fn is_json(request: &Request) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
        || (request.uri().path() == UPLOADS && kind.eq_ignore_ascii_case("multipart/form-data"))
}

/// Passes allowed requests, answers preflights, and lets pages of allowed origins read the responses.
pub async fn guard(State(guarded): State<Guarded>, request: Request, next: Next) -> Response {
    let origin = match guarded.guard().check(&request) {
        Ok(origin) => origin,
        Err(refused) => {
            tracing::debug!(path = request.uri().path(), "a request was refused: {refused}");
            return ApiError::with_status(refused.status(), refused.to_string()).into_response();
        }
    };
    let mut answer = match (&origin, request.method() == Method::OPTIONS) {
        (Some(_), true) => preflight(request.headers()),
        // OPTIONS is allowed for every path.
        (None, true) => StatusCode::OK.into_response(),
        (_, false) => next.run(request).await,
    };
    if let Some(origin) = origin {
        let headers = answer.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("x-plutino-details"));
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    answer
}

fn preflight(headers: &HeaderMap) -> Response {
    let Some(method) = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).cloned() else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    if !METHODS.iter().any(|known| known.as_str().as_bytes() == method.as_bytes()) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    let asked = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).map(HeaderValue::to_str);
    let Ok(asked) = asked.transpose() else { return StatusCode::FORBIDDEN.into_response() };
    let asked = asked.unwrap_or_default().to_ascii_lowercase();
    let names: Vec<&str> = asked.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.iter().any(|name| !HEADERS.contains(name)) {
        return StatusCode::FORBIDDEN.into_response();
    }
    let mut answer = ([(header::ACCESS_CONTROL_ALLOW_METHODS, method)], ()).into_response();
    if let (Ok(names), false) = (HeaderValue::from_str(&names.join(",")), names.is_empty()) {
        answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use axum::body::Body;

    fn check(guard: &Guard, headers: &[(&str, &str)]) -> Result<bool, String> {
        let mut request = axum::http::Request::builder().method("POST").uri("/rules");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("the headers are valid");
        guard.check(&request).map(|origin| origin.is_some()).map_err(|refused| refused.to_string())
    }

    fn listening(address: &str, hosts: &[&str], origins: &[&str]) -> Guard {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let rest = SocketAddr::new(address.parse().expect("an address"), 9081);
        let (rest_hosts, rest_origins) = (owned(hosts), owned(origins));
        let config = Config { rest, rest_hosts, rest_origins, ..Config::default() };
        Guard { config: Arc::new(config), scheme: "http" }
    }

    #[test]
    fn hosts_are_those_of_the_service() {
        let local = listening("127.0.0.1", &["plutino.example"], &[]);
        for host in ["127.0.0.1:9081", "localhost", "LOCALHOST.:1", "[::1]:9081", "127.8.8.8", "Plutino.example:80"] {
            assert_eq!(check(&local, &[("host", host)]), Ok(false), "{host}");
        }
        for host in ["evil.example", "10.0.0.1:9081", "localhost.evil.example", "", "[::2]", "127.0.0.1.nip.io"] {
            assert!(check(&local, &[("host", host)]).unwrap_err().contains("basic.restHosts"), "{host}");
        }
        let everywhere = listening("0.0.0.0", &[], &[]);
        assert_eq!(check(&everywhere, &[("host", "10.0.0.1:9081")]), Ok(false));
        assert!(check(&everywhere, &[("host", "evil.example")]).is_err());
        for hosts in [&[][..], &[("host", "localhost"), ("host", "localhost")]] {
            assert!(check(&local, hosts).unwrap_err().contains("exactly one"), "{hosts:?}");
        }
    }

    #[test]
    fn pages_of_strangers_are_refused() {
        let guard = listening("127.0.0.1", &[], &["https://board.example"]);
        let host = ("host", "localhost:9081");
        let of = |more: &[(&str, &str)]| check(&guard, &[&[host], more].concat());
        for origin in ["http://localhost:9081", "https://board.example"] {
            assert_eq!(of(&[("origin", origin)]), Ok(true), "{origin}");
            assert_eq!(of(&[("origin", origin), ("sec-fetch-site", "cross-site")]), Ok(true), "{origin}");
        }
        for origin in ["http://evil.example", "http://localhost:3000", "https://localhost:9081", "null", ""] {
            assert!(of(&[("origin", origin)]).is_err(), "{origin}");
        }
        for (site, passes) in [("cross-site", false), ("same-site", false), ("same-origin", true), ("none", true)] {
            assert_eq!(of(&[("sec-fetch-site", site)]).is_ok(), passes, "{site}");
        }
    }

    #[test]
    fn there_are_no_websockets() {
        let guard = listening("127.0.0.1", &[], &[]);
        let of = |upgrade: &str| check(&guard, &[("host", "localhost"), ("upgrade", upgrade)]);
        assert!(of("WebSocket").unwrap_err().contains("no websockets here"));
        assert_eq!(of("h2c"), Ok(false));
    }

    #[test]
    fn browsers_send_json() {
        let guard = listening("127.0.0.1", &[], &[]);
        let of = |kind: &str, more: &[(&str, &str)]| {
            let head = [("host", "localhost"), ("content-length", "2"), ("content-type", kind)];
            check(&guard, &[&head, more].concat()).is_ok()
        };
        for browser in [("origin", "http://localhost"), ("sec-fetch-site", "same-origin")] {
            assert!(of("application/json; charset=utf-8", &[browser]));
            for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
                assert!(!of(kind, &[browser]), "{kind}");
            }
        }
        assert!(of("text/plain", &[]), "programs may send what they like");
    }
}
