//! Opens a TCP connection to a host name, by Happy Eyeballs (RFC 8305).
//!
//! The addresses of both families are tried alternately, each a moment after the previous one, or at once if that one
//! has failed; the first connection wins. So a dead address, or a family without a route, costs a quarter of a second
//! and not the whole time limit. No crate offers this without an HTTP client around it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;

/// How long an attempt runs alone before the next one begins: the delay that RFC 8305 recommends.
const STAGGER: Duration = Duration::from_millis(250);

/// The most addresses of a name that are tried.
const MOST: usize = 16;

/// Connects to `host`, a name or an address. Only addresses that pass `check` are tried.
///
/// # Errors
/// The name has no address; or the error of `check`, if no address passes; or that of the last failed attempt.
pub(super) async fn connect_checked(
    host: &str,
    port: u16,
    check: impl Fn(IpAddr) -> io::Result<()>,
) -> io::Result<TcpStream> {
    let (mut passed, mut refused) = (Vec::new(), None);
    for address in find(host, port).await? {
        match check(address.ip()) {
            Ok(()) => passed.push(address),
            Err(error) => refused = Some(error),
        }
    }
    match refused.filter(|_| passed.is_empty()) {
        Some(error) => Err(error),
        None => race(passed, TcpStream::connect).await,
    }
}

/// The addresses of a host.
async fn find(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(match host.parse::<IpAddr>() {
        Ok(address) => vec![(address, port).into()],
        Err(_) => tokio::net::lookup_host((host, port)).await?.collect(),
    })
}

/// The first connection that succeeds.
async fn race<T, F: Future<Output = io::Result<T>>>(
    found: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut waiting = interleaved(found).into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    attempts.extend(waiting.next().map(&connect));
    while !attempts.is_empty() {
        let more = waiting.len() > 0;
        tokio::select! {
            Some(connected) = attempts.next() => match connected {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            },
            () = tokio::time::sleep(STAGGER), if more => {}
        }
        attempts.extend(waiting.next().map(&connect));
    }
    Err(last)
}

/// The addresses in the order of attempts: the families alternate, beginning with that of the first address.
fn interleaved(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = found.first().map(SocketAddr::is_ipv6) else { return found };
    let (preferred, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| address.is_ipv6() == first);
    let (mut preferred, mut other) = (preferred.into_iter(), other.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = [preferred.next(), other.next()];
        if pair.iter().all(Option::is_none) || ordered.len() >= MOST {
            return ordered;
        }
        ordered.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn addresses(all: &[&str]) -> Vec<SocketAddr> {
        all.iter().map(|address| address.parse().expect("an address")).collect()
    }

    /// The result for these addresses, and the attempts made.
    async fn tried(all: &[&str]) -> (Result<SocketAddr, String>, Vec<u16>) {
        let seen = Mutex::new(Vec::new());
        let connect = |address: SocketAddr| {
            seen.lock().expect("no panic").push(address.port());
            async move {
                match address.port() {
                    1 => std::future::pending().await,
                    2 => Err(io::Error::new(io::ErrorKind::ConnectionRefused, "refused")),
                    _ => Ok(address),
                }
            }
        };
        let connected = race(addresses(all), connect).await.map_err(|error| error.to_string());
        (connected, seen.into_inner().expect("no panic"))
    }

    #[tokio::test]
    async fn all_addresses_are_tried_and_a_dead_one_does_not_block() {
        // Port 1 does not answer, port 2 refuses.
        let (connected, ports) = tried(&["[::1]:1", "127.0.0.1:9"]).await;
        assert_eq!((connected, ports), (Ok("127.0.0.1:9".parse().expect("an address")), vec![1, 9]));
        let (connected, ports) = tried(&["127.0.0.1:2", "127.0.0.2:1", "127.0.0.3:2", "127.0.0.4:9"]).await;
        assert_eq!((connected.is_ok(), ports), (true, vec![2, 1, 2, 9]), "all are tried");
        assert_eq!(tried(&["127.0.0.1:2", "[::1]:2"]).await.0, Err("refused".to_owned()));
        assert_eq!(tried(&[]).await.0, Err("the name has no address".to_owned()));
    }

    #[test]
    fn families_take_turns() {
        let ordered = interleaved(addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "127.0.0.1:1"]));
        assert_eq!(ordered, addresses(&["[::1]:1", "127.0.0.1:1", "[::2]:1", "[::3]:1"]));
    }
}
