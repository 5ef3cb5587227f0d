//! Decides who may use the data server: web pages from known origins, and clients with a token.
//!
//! A browser sends the origin of its page and cannot be made to lie, which keeps foreign pages from using a viewer's
//! network (RFC 6455, 10.2). Any other client can send any origin, so it needs a token, or a certificate with TLS. A
//! token is in the header `Authorization: Bearer …`, or, because pages cannot set headers, in the query as
//! `access_token=…` (RFC 6750, 2.1 and 2.3). Refusals are counted by cause.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use tokio_tungstenite::tungstenite::http::{HeaderMap, header};

use super::jwt::{self, JwtKeys, TokenFault};
use crate::io::printable;
use crate::sync::locked;
use crate::view::Identity;

/// Refused handshakes.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    origin: AtomicU64,
    token: AtomicU64,
    path: AtomicU64,
    request: AtomicU64,
    tls: AtomicU64,
    time: AtomicU64,
    handshakes: AtomicU64,
    connections: AtomicU64,
    address: AtomicU64,
    /// the last ones with a known path
    turned_away: Mutex<VecDeque<TurnedAway>>,
}

/// Clients that were refused at one path for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnedAway {
    /// the requested path
    pub path: String,
    /// the cause, as in the counts
    pub cause: &'static str,
    /// their number
    pub count: u64,
    /// the last one's address
    pub peer: String,
    /// why the last one was refused, where its cause leaves this open
    pub reason: &'static str,
    /// the time of the last one
    pub time: SystemTime,
}

/// The number of paths remembered, and the most bytes of each.
const PATHS: usize = 32;
const PATH_BYTES: usize = 256;

/// Why a handshake is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// a page from an origin that is not on the list
    Origin,
    /// a token that is not accepted
    Token(TokenFault),
    /// no endpoint has this path
    Path,
    /// not a websocket request
    Request,
    /// the TLS handshake failed
    Tls,
    /// it took too long
    Time,
    /// too many handshakes at the same time
    Handshakes,
    /// too many clients are connected
    Connections,
    /// too many clients from its address are connected
    Address,
}

/// The lists that decide about a client.
pub(super) struct Gate {
    origins: Vec<String>,
    /// the hashes of the tokens: comparing them takes a time that reveals nothing about the tokens
    tokens: Vec<[u8; 32]>,
    jwt: Option<JwtKeys>,
    refusals: Arc<Refusals>,
}

impl Refusal {
    /// The name in the counts.
    fn name(self) -> &'static str {
        match self {
            Refusal::Origin => "origin",
            Refusal::Token(_) => "token",
            Refusal::Path => "path",
            Refusal::Request => "request",
            Refusal::Tls => "tls",
            Refusal::Time => "timeout",
            Refusal::Handshakes => "handshakes",
            Refusal::Connections => "connections",
            Refusal::Address => "connections of an address",
        }
    }

    /// The reason, where the cause leaves it open. It is for the operator, and not for the client.
    fn reason(self) -> &'static str {
        match self {
            Refusal::Token(fault) => fault.as_str(),
            _ => "",
        }
    }
}

impl Refusals {
    fn count(&self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::Origin => &self.origin,
            Refusal::Token(_) => &self.token,
            Refusal::Path => &self.path,
            Refusal::Request => &self.request,
            Refusal::Tls => &self.tls,
            Refusal::Time => &self.time,
            Refusal::Handshakes => &self.handshakes,
            Refusal::Connections => &self.connections,
            Refusal::Address => &self.address,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Remembers a refusal with its path; returns how often it has occurred.
    fn remember(&self, refusal: Refusal, path: &str, peer: &SocketAddr) -> u64 {
        let path: String = path.chars().take(PATH_BYTES).collect();
        let cause = refusal.name();
        let mut all = locked(&self.turned_away);
        let known = all.iter().position(|known| known.path == path && known.cause == cause);
        let before = known.and_then(|at| all.remove(at)).map_or(0, |known| known.count);
        if all.len() >= PATHS {
            all.pop_front();
        }
        let (reason, peer, time) = (refusal.reason(), peer.to_string(), SystemTime::now());
        all.push_back(TurnedAway { path, cause, count: before + 1, peer, reason, time });
        before + 1
    }

    /// The last refusals with a known path, the newest last.
    pub(super) fn turned_away(&self) -> Vec<TurnedAway> {
        locked(&self.turned_away).iter().cloned().collect()
    }

    /// All counts, by cause.
    pub(super) fn counts(&self) -> Vec<(&'static str, u64)> {
        [
            (Refusal::Origin, &self.origin),
            (Refusal::Token(TokenFault::Missing), &self.token),
            (Refusal::Path, &self.path),
            (Refusal::Request, &self.request),
            (Refusal::Tls, &self.tls),
            (Refusal::Time, &self.time),
            (Refusal::Handshakes, &self.handshakes),
            (Refusal::Connections, &self.connections),
            (Refusal::Address, &self.address),
        ]
        .map(|(cause, count)| (cause.name(), count.load(Ordering::Relaxed)))
        .into()
    }
}

impl Gate {
    /// A gate with these lists. Without tokens and keys, no token is needed; without origins, pages from the same host
    /// may connect, from any port.
    pub(super) fn new(
        mut origins: Vec<String>,
        tokens: Vec<String>,
        jwt: Option<JwtKeys>,
        refusals: Arc<Refusals>,
    ) -> Gate {
        origins.iter_mut().for_each(|origin| *origin = origin.trim_end_matches('/').to_ascii_lowercase());
        Gate { origins, tokens: tokens.iter().map(|token| hash(token)).collect(), jwt, refusals }
    }

    /// Counts a refusal.
    pub(super) fn refuses(&self, refusal: Refusal) {
        self.refusals.count(refusal);
    }

    /// Counts the refusal of a client that requested a path, and logs it: repeated ones at one path less and less
    /// often.
    pub(super) fn turns_away(&self, refusal: Refusal, path: &str, peer: &SocketAddr) {
        self.refuses(refusal);
        let count = self.refusals.remember(refusal, path, peer);
        if count.is_power_of_two() {
            let (path, cause, reason) = (printable(path), refusal.name(), refusal.reason());
            let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            tracing::info!(path = &*path, cause, client = %peer, count, "a handshake was refused{why}");
        }
    }

    /// Whether anybody may connect.
    pub(super) fn is_open(&self) -> bool {
        self.origins.is_empty() && self.tokens.is_empty() && self.jwt.is_none()
    }

    /// Whether a request may pass, and the sender's identity, as far as the token shows it. `is_local`: the client is on
    /// this machine.
    pub(super) fn check(&self, headers: &HeaderMap, query: Option<&str>, is_local: bool) -> Result<Identity, Refusal> {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        if let Some(origin) = origins.next() {
            let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
            let passes = match self.origins.is_empty() {
                true => is_same_host(&origin, headers, is_local),
                false => self.origins.iter().any(|known| known == "*" || *known == origin),
            };
            if !passes || origins.next().is_some() {
                return Err(Refusal::Origin);
            }
        }
        if self.tokens.is_empty() && self.jwt.is_none() {
            return Ok(Identity::default());
        }
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.split_once(' '));
        let shown =
            shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token.trim().into());
        let shown = shown.or_else(|| {
            let mut fields = form_urlencoded::parse(query?.as_bytes());
            fields.find(|(name, _)| name == "access_token" || name == "_token").map(|(_, token)| token.into_owned())
        });
        let Some(token) = shown else { return Err(Refusal::Token(TokenFault::Missing)) };
        let hashed = hash(&token);
        // All are compared, so that the time does not reveal which one matches.
        let known = self.tokens.iter().fold(false, |known, token| known | (*token == hashed));
        if known {
            return Ok(Identity::default());
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let Some(keys) = &self.jwt else { return Err(Refusal::Token(TokenFault::Unknown)) };
        let claims = keys.check(&token, now).map_err(Refusal::Token)?;
        Ok(Identity { expires: jwt::expires(&claims), claims: Some(claims) })
    }
}

/// Whether a client is on this machine: its address is that of the loopback interface, or the one of this machine that
/// it has connected to.
pub(super) fn is_local(from: IpAddr, to: Option<IpAddr>) -> bool {
    let from = from.to_canonical();
    from.is_loopback() || to.is_some_and(|to| to.to_canonical() == from)
}

/// Whether a page comes from the host that its request names. A browser on this machine (`local`) must use a name of
/// the machine: a foreign name may lead here too (DNS rebinding).
fn is_same_host(origin: &str, headers: &HeaderMap, local: bool) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) else { return false };
    let name = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name.to_ascii_lowercase(),
        _ => host.to_ascii_lowercase(),
    };
    let page = origin.split_once("://").map(|(_, host)| name(host));
    page.is_some_and(|page| !page.is_empty() && page == name(host) && (!local || is_this_machine(&page)))
}

/// Whether a host is an address, or a name of this machine.
fn is_this_machine(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    // An address cannot be rebound.
    if address.parse::<IpAddr>().is_ok() || host == "localhost" || host.ends_with(".localhost") {
        return true;
    }
    let own = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = host.strip_suffix(".local").unwrap_or(host);
    !own.trim().is_empty() && name.eq_ignore_ascii_case(own.trim())
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_say_who_passes() {
        let gate = |origins: &[&str], tokens: &[&str]| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            Gate::new(owned(origins), owned(tokens), None, Arc::default())
        };
        let none: &[(header::HeaderName, &str)] = &[];
        let origin = |value| [(header::ORIGIN, value)];
        let bearer = |value| [(header::AUTHORIZATION, value)];
        let check = |gate: &Gate, headers: &[(header::HeaderName, &str)], query: Option<&str>| {
            let mut all = HeaderMap::new();
            headers.iter().for_each(|(name, value)| _ = all.append(name, value.parse().unwrap()));
            let headers = all;
            gate.check(&headers, query, false).map(|_| ())
        };
        let open = gate(&[], &[]);
        let at = |host, page| [(header::HOST, host), (header::ORIGIN, page)];
        assert_eq!(check(&open, none, None), Ok(()));
        assert_eq!(check(&open, &at("Board.example:10081", "http://board.example:8080"), None), Ok(()));
        assert_eq!(check(&open, &at("board.example", "https://evil.example"), None), Err(Refusal::Origin));
        assert_eq!(check(&open, &at("board.example", "null"), None), Err(Refusal::Origin));
        assert_eq!(check(&gate(&["*"], &[]), &origin("https://evil.example"), None), Ok(()));
        let pages = gate(&["https://Board.example/"], &[]);
        assert_eq!(check(&pages, none, None), Ok(()), "a client that is not a page has no origin");
        assert_eq!(check(&pages, &origin("https://board.example"), None), Ok(()));
        assert_eq!(check(&pages, &origin("https://board.example.evil.example"), None), Err(Refusal::Origin));
        assert_eq!(check(&pages, &origin("null"), None), Err(Refusal::Origin));
        assert_eq!(check(&gate(&["*"], &[]), &origin("null"), None), Ok(()));
        let twice = [(header::ORIGIN, "https://board.example"), (header::ORIGIN, "https://evil.example")];
        assert_eq!(check(&pages, &twice, None), Err(Refusal::Origin));
        // A name that leads to this machine need not be its own.
        for (host, passes) in [
            ("evil.example:10081", false),
            ("localhost:10081", true),
            ("board.localhost", true),
            ("127.0.0.1:10081", true),
            ("[::1]:10081", true),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            headers.insert(header::ORIGIN, format!("http://{host}").parse().unwrap());
            for (from, to) in [
                ("127.0.0.1", "127.0.0.1"),
                ("::1", "::1"),
                ("::ffff:127.0.0.1", "::1"),
                ("10.0.0.2", "::ffff:10.0.0.2"),
            ] {
                let local = is_local(from.parse().unwrap(), to.parse().ok());
                assert_eq!(open.check(&headers, None, local).is_ok(), passes, "{host} {from}");
            }
            assert!(!is_local("10.0.0.2".parse().unwrap(), "10.0.0.3".parse().ok()), "another machine");
        }
        let secret = gate(&[], &["one", "two words"]);
        let (missing, unknown) = (Err(Refusal::Token(TokenFault::Missing)), Err(Refusal::Token(TokenFault::Unknown)));
        assert_eq!(check(&secret, none, None), missing);
        assert_eq!(check(&secret, &bearer("Bearer one"), None), Ok(()));
        assert_eq!(check(&secret, &bearer("bearer  one"), None), Ok(()));
        assert_eq!(check(&secret, &bearer("Basic one"), None), missing);
        assert_eq!(check(&secret, &bearer("Bearer on"), None), unknown);
        assert_eq!(check(&secret, none, Some("a=1&access_token=two%20words")), Ok(()));
        assert_eq!(check(&secret, none, Some("access_token=")), unknown);
    }
}
