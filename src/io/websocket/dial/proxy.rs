//! HTTP proxies: which one to use, and the tunnel through it (CONNECT).

use std::fmt;
use std::io;

use base64::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connect_checked;
use crate::io::egress::{Destination, Egress, EgressError, is_here};
use crate::io::websocket::config::bracketed;
use crate::io::websocket::socket::Socket;

/// The longest response of a proxy, bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// The property `proxy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum ProxyChoice {
    /// no proxy
    #[default]
    Direct,
    /// chosen by the environment: HTTPS_PROXY for wss, HTTP_PROXY for ws, otherwise ALL_PROXY; hosts in NO_PROXY are
    /// dialled directly
    Environment,
    /// this one
    Through(Proxy),
}

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Proxy {
    host: String,
    port: u16,
    /// `user:password`
    credentials: Option<String>,
}

/// Does not show credentials.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", bracketed(&self.host), self.port)
    }
}

impl ProxyChoice {
    /// Parses the property: `env`, or `http://user:password@host:port`; `None` for anything else.
    pub fn parse(text: &str) -> Option<ProxyChoice> {
        match text.trim() {
            "" => Some(ProxyChoice::Direct),
            env if env.eq_ignore_ascii_case("env") => Some(ProxyChoice::Environment),
            url => Proxy::parse(url).map(ProxyChoice::Through),
        }
    }

    /// The proxy to use for a peer.
    pub(super) fn of(&self, secure: bool, host: &str, variable: impl Fn(&str) -> Option<String>) -> Option<Proxy> {
        let variable = |name: &str| {
            let value = variable(name).or_else(|| variable(&name.to_ascii_lowercase()));
            value.filter(|value| !value.trim().is_empty())
        };
        match self {
            ProxyChoice::Direct => None,
            ProxyChoice::Through(proxy) => Some(proxy.clone()),
            ProxyChoice::Environment => {
                if variable("NO_PROXY").is_some_and(|list| is_excepted(host, &list)) {
                    return None;
                }
                let url = variable(if secure { "HTTPS_PROXY" } else { "HTTP_PROXY" }).or_else(|| variable("ALL_PROXY"));
                Proxy::parse(url?.trim())
            }
        }
    }
}

impl Proxy {
    fn parse(url: &str) -> Option<Proxy> {
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return None,
            None => url,
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, address) = match authority.rsplit_once('@') {
            Some((credentials, address)) => (Some(unescaped(credentials)?), address),
            None => (None, authority),
        };
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => {
                let (host, tail) = rest.split_once(']')?;
                (host, tail.strip_prefix(':'))
            }
            None => match address.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (address, None),
            },
        };
        let port = port.map_or(Some(80), |port| port.parse().ok().filter(|port| *port != 0))?;
        let fits = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._:".contains(c));
        fits.then(|| Proxy { host: host.to_owned(), port, credentials })
    }

    /// Checks its host, if that is an address; a name is checked when it is dialled.
    pub(in crate::io::websocket) fn check(&self, egress: &Egress) -> Result<(), EgressError> {
        egress.check_dial_host(self.destination(), true)
    }

    fn destination(&self) -> Destination<'_> {
        Destination { host: &self.host, port: self.port, written: true }
    }

    /// Opens a tunnel to a peer. Returns whether the proxy is on this machine. `egress` limits where the proxy may be;
    /// `None`: anywhere.
    ///
    /// # Errors
    /// The proxy is unreachable, or refuses.
    pub(super) async fn tunnel(&self, host: &str, port: u16, egress: Option<&Egress>) -> io::Result<(Socket, bool)> {
        let check = |address, own| {
            let anywhere = Ok(own || is_here(address));
            let checked = egress.map_or(anywhere, |egress| egress.check_dial(self.destination(), address, own, true));
            checked.map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))
        };
        let (mut stream, here) = connect_checked(&self.host, self.port, check).await?;
        stream.set_nodelay(true)?;
        let target = format!("{}:{port}", bracketed(host));
        let login = self.credentials.as_ref().map(|credentials| {
            let code = base64::engine::general_purpose::STANDARD.encode(credentials);
            format!("Proxy-Authorization: Basic {code}\r\n")
        });
        let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{}\r\n", login.unwrap_or_default());
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        // The peer may send first, so nothing after the head may be read.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > HEAD_BYTES {
                return Err(io::Error::other("the proxy's answer is too long"));
            }
            head.push(stream.read_u8().await?);
        }
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
        match status.and_then(|status| status.parse().ok()) {
            Some(200..=299) => Ok((Socket::new(stream), here)),
            Some(407) => Err(io::Error::other("the proxy requires other credentials (HTTP status 407)")),
            Some(status @ 100..=999u16) => Err(io::Error::other(format!("the proxy refuses: HTTP status {status}"))),
            _ => Err(io::Error::other("the proxy does not answer as an HTTP proxy")),
        }
    }
}

/// Whether a NO_PROXY list contains a host: `*`, the host, or a domain that contains it.
fn is_excepted(host: &str, list: &str) -> bool {
    let host = host.to_ascii_lowercase();
    list.split(',').map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty()).any(|entry| {
        let domain = entry.trim_start_matches('*').trim_start_matches('.');
        domain.is_empty() || host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    })
}

/// Decodes percent escapes in credentials.
fn unescaped(text: &str) -> Option<String> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_read() {
        for (text, expected) in [
            ("http://proxy:3128", Some(("proxy:3128", None))),
            ("http://me:p%40ss@proxy.example/", Some(("proxy.example:80", Some("me:p@ss")))),
            ("[::1]:8080", Some(("[::1]:8080", None))),
            ("socks5://proxy:1080", None),
            ("http://pro xy:1", None),
            ("http://proxy:port", None),
        ] {
            let proxy = Proxy::parse(text);
            let shown = proxy.as_ref().map(|proxy| (proxy.to_string(), proxy.credentials.clone()));
            let expected = expected.map(|(at, login)| (at.to_owned(), login.map(str::to_owned)));
            assert_eq!(shown, expected, "{text}");
        }
        let shown = format!("{:?}", ProxyChoice::parse("http://me:secret@proxy:1"));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn the_environment_chooses() {
        let known = |name: &str| match name {
            "https_proxy" => Some("http://secure:1".to_owned()),
            "HTTP_PROXY" => Some("plain:2".to_owned()),
            "NO_PROXY" => Some("localhost, .internal.example,10.0.0.7".to_owned()),
            _ => None,
        };
        for (secure, host, expected) in [
            (true, "feed.example", Some("secure:1")),
            (false, "feed.example", Some("plain:2")),
            (true, "LOCALHOST", None),
            (true, "a.internal.example", None),
            (true, "internal.example", None),
            (true, "notinternal.example", Some("secure:1")),
            (false, "10.0.0.7", None),
        ] {
            let proxy = ProxyChoice::Environment.of(secure, host, known).map(|proxy| proxy.to_string());
            assert_eq!(proxy.as_deref(), expected, "{host}");
        }
        assert_eq!(ProxyChoice::Direct.of(true, "x", known), None);
    }
}
