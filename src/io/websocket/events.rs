//! Clients that read an endpoint as server-sent events: browsers that cannot use websockets, or scripts with curl.
//!
//! Such a client is a peer like any other: it has a lane for each sink, with the same limits, policies and counts. It
//! only reads, and in another format.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::http::{HeaderMap, header};

use super::client_queue::{Farewell, Peer};
use super::connection::{Ending, FLUSH_BYTES};
use super::endpoint::Endpoint;
use super::lane::Flight;
use super::live::event_head;
use super::protocol::code;
use super::socket::Wire;
use super::totals::Cause;
use crate::io::events::add_event;

/// How often a silent stream sends a comment, so that proxies do not close it.
const ALIVE: Duration = Duration::from_secs(15);

/// Whether a request asks for another protocol, such as websocket.
pub(super) fn upgrades(headers: &HeaderMap) -> bool {
    headers.contains_key(header::UPGRADE)
}

/// Serves a client until it leaves or is disconnected. Runs on the data thread; the socket arrives detached. `origin`
/// is that of the page that reads, if there is one.
pub(super) async fn run(mut wire: Wire, endpoint: &Arc<Endpoint>, peer: &Arc<Peer>, origin: Option<&str>) -> Ending {
    if let Err(error) = wire.attach() {
        return Some(format!("{}: cannot move the socket: {error}", peer.address));
    }
    let limit = endpoint.terms().write_timeout;
    wire.set_write_timeout(limit);
    let mut farewell = peer.farewell.subscribe();
    let ended = tokio::select! {
        ended = serve(&mut wire, peer, origin) => Some(ended),
        farewell = farewell.wait_for(Option::is_some) => {
            let slow = farewell.is_ok_and(|farewell| matches!(*farewell, Some(Farewell { code: code::POLICY, .. })));
            if slow {
                peer.totals.count(Cause::SlowClient);
                return Some(format!("{}: disconnected: too slow", peer.address));
            }
            None
        }
    };
    match ended {
        Some(Ok(())) => None,
        None => {
            let _ = tokio::time::timeout(super::connection::CLOSE_TIMEOUT, wire.shutdown()).await;
            None
        }
        Some(Err(error)) if error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none() => {
            peer.totals.count(Cause::WriteTimeout);
            let limit = limit.unwrap_or_default().as_millis();
            Some(format!("{}: the peer read nothing for {limit} ms (writeTimeout)", peer.address))
        }
        Some(Err(error)) => {
            peer.totals.count(Cause::Broken);
            Some(format!("{}: {error}", peer.address))
        }
    }
}

async fn serve(wire: &mut Wire, peer: &Peer, origin: Option<&str>) -> io::Result<()> {
    wire.write_all(event_head(origin).as_bytes()).await?;
    wire.flush().await?;
    let (mut text, mut ignored) = (Vec::new(), [0; 256]);
    let mut flights: Vec<Flight> = Vec::new();
    loop {
        text.clear();
        while text.len() < FLUSH_BYTES
            && let Some(mut flight) = peer.next()
        {
            let (batch, start) = flight.rest();
            let mut count = 0;
            for message in batch.messages_from(start) {
                add_event(&mut text, message);
                count += 1;
                if text.len() >= FLUSH_BYTES {
                    break;
                }
            }
            flight.take(count);
            flights.push(flight);
        }
        if !flights.is_empty() {
            wire.write_all(&text).await?;
            wire.flush().await?;
            flights.drain(..).for_each(Flight::arrive);
            // A fast reader must not monopolise the thread.
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = peer.wake.notified() => {}
            () = tokio::time::sleep(ALIVE) => {
                wire.write_all(b":\n\n").await?;
                wire.flush().await?;
            }
            // Clients send nothing. Reading shows when they disconnect, even while there are no results.
            read = wire.read(&mut ignored) => if read? == 0 {
                return Ok(());
            },
        }
    }
}
