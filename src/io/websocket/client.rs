//! The client role: keeps a connection to the peer as long as a link uses the endpoint.
//!
//! After a failed dial or the end of a connection, it dials again, after waits that grow (`reconnect`) and that respect
//! what the peer asks for. With several addresses, the next one is dialled at once (`failover`), or each has its own
//! connection (`mirror`). A connection that reaches `maxConnectionAge` is replaced by a new one before it ends. `dial`
//! opens connections, `connection` serves them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch::Receiver;
use tokio::task::{JoinError, JoinHandle};
use tokio_tungstenite::tungstenite::http::header;

use super::client_queue::Peer;
use super::config::{Role, Settings};
use super::connection;
use super::dial::{self, DialError};
use super::endpoint::{Endpoint, Presence};
use super::opening::Opening;
use super::protocol::{Opened, Side, accepted, code, offer};
use super::socket::Wire;
use super::watch::{Due, watch};
use crate::io::backoff::jittered;
use crate::io::egress::Egress;

/// The addresses that one task dials.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    all: Vec<Role>,
    /// the index of the next one
    turn: usize,
}

impl Addresses {
    /// These addresses in turn, beginning with the first.
    pub fn new(all: Vec<Role>) -> Addresses {
        Addresses { all, turn: 0 }
    }

    /// The settings with the current address.
    fn settings(&self, terms: &Settings) -> Settings {
        match self.all.get(self.turn) {
            Some(role) => Settings { role: role.clone(), ..terms.clone() },
            None => terms.clone(),
        }
    }

    /// The first address, for people.
    pub fn first(&self, settings: &Settings) -> String {
        self.settings(settings).address()
    }

    /// Moves on to the next address. True if all have been tried.
    fn pass(&mut self) -> bool {
        self.turn += 1;
        if self.turn >= self.all.len() {
            self.turn = 0;
        }
        self.turn == 0
    }
}

/// Keeps a peer of `endpoint` connected until the endpoint closes. Runs on the control runtime; connections live on
/// `data`.
pub(super) async fn keep(
    endpoint: Arc<Endpoint>,
    mut peer: Arc<Peer>,
    mut addresses: Addresses,
    data: Handle,
    presence: Presence,
) {
    let mut closing = endpoint.closing.subscribe();
    let mut wait = endpoint.terms().reconnect.initial;
    loop {
        // Links may have come and gone since the last dial.
        let terms = endpoint.terms();
        let waits = terms.reconnect;
        let pause;
        let settings = addresses.settings(&terms);
        let address = settings.address();
        let opened = tokio::select! {
            opened = open(&endpoint, &settings) => opened,
            _ = closing.wait_for(|closing| *closing) => break,
        };
        match opened {
            Ok(opened) => {
                let began = Instant::now();
                peer.farewell.send_replace(None);
                let connection = Connection::start(&endpoint, &peer, opened, &data);
                if *closing.borrow() {
                    peer.dismiss(code::AWAY, "the endpoint has ended");
                }
                endpoint.connects(&address);
                let ending = Serving { endpoint: &endpoint, terms: &terms, addresses: &addresses, data: &data }
                    .until_end(&mut peer, connection)
                    .await;
                endpoint.disconnects(&address);
                if !*closing.borrow() {
                    let ending = ending.unwrap_or_else(|| "the peer closed the connection".to_owned());
                    endpoint.is_closed(&address, ending);
                }
                // A peer that closes at once is dialled no faster than one that refuses.
                if began.elapsed() > (2 * wait).max(Duration::from_secs(1)) {
                    wait = waits.initial;
                }
                pause = wait;
            }
            Err(error) => {
                pause = error.pause(wait);
                endpoint.is_unreached(&address, error.to_string());
            }
        }
        // If another address is left, it is dialled at once.
        if !addresses.pass() {
            continue;
        }
        if pauses(&mut closing, jittered(pause, waits.jitter)).await {
            break;
        }
        wait = (2 * wait).min(waits.max);
    }
    endpoint.leave(&peer);
    endpoint.ends();
    drop(presence);
}

/// Waits; true if the endpoint closes in the meantime.
async fn pauses(closing: &mut Receiver<bool>, wait: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(wait) => false,
        _ = closing.wait_for(|closing| *closing) => true,
    }
}

/// An open websocket, and the messages to send first.
struct Ready {
    opened: Opened<Wire>,
    first: Vec<(Opening, Vec<String>)>,
}

/// Dials, and reads the messages to send first.
async fn open(endpoint: &Endpoint, settings: &Settings) -> Result<Ready, DialError> {
    let address = || settings.address();
    let openings = endpoint.openings();
    let read = tokio::task::spawn_blocking(move || {
        let read = |opening: Opening| opening.messages().map(|messages| (opening, messages));
        openings.into_iter().map(read).collect::<Result<Vec<_>, _>>()
    });
    let first = match read.await {
        Ok(Ok(first)) => first,
        Ok(Err(source)) => return Err(DialError::Opening { address: address(), source }),
        Err(error) => return Err(DialError::Connect { address: address(), source: error.into() }),
    };
    let mut opened = dial(settings, &endpoint.egress).await?;
    opened.wire.detach().map_err(|source| DialError::Connect { address: address(), source })?;
    Ok(Ready { opened, first })
}

/// Dials once, if the address is allowed.
pub(super) async fn dial(settings: &Settings, egress: &Egress) -> Result<Opened<Wire>, DialError> {
    let own = settings.per_message_deflate;
    let (wire, headers) = dial::dial(settings, own.as_ref().map(offer).as_deref(), egress).await?;
    let answers = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS).into_iter();
    let answers = answers.filter_map(|answer| answer.to_str().ok());
    let deflate = own.map_or(Ok(None), |own| accepted(answers, &own));
    let deflate = deflate.map_err(|wrong| DialError::Extensions { address: settings.address(), wrong })?;
    Ok(Opened { wire, side: Side::Client, deflate })
}

/// A connection that runs on its data thread.
struct Connection {
    task: JoinHandle<Option<String>>,
    opened: Instant,
}

impl Connection {
    fn start(endpoint: &Arc<Endpoint>, peer: &Arc<Peer>, ready: Ready, data: &Handle) -> Connection {
        peer.heard.reset();
        peer.reconnects();
        endpoint.opens(peer, ready.first);
        let (place, who) = (endpoint.clone(), peer.clone());
        let task = data.spawn(async move {
            let (ending, unanswered) = connection::run(ready.opened, &place, &who).await;
            unanswered.into_iter().for_each(|unanswered| drop(tokio::spawn(unanswered.until_read())));
            ending
        });
        Connection { task, opened: Instant::now() }
    }
}

/// Why a connection ended; `None`: the peer closed it.
fn ending(ended: Result<Option<String>, JoinError>) -> Option<String> {
    ended.unwrap_or_else(|error| {
        let panic = "an error in this program ended the connection: please report it (--log error)";
        Some(if error.is_panic() { panic } else { "its data thread has ended" }.to_owned())
    })
}

/// The data that serving connections needs.
struct Serving<'s> {
    endpoint: &'s Arc<Endpoint>,
    terms: &'s Settings,
    addresses: &'s Addresses,
    data: &'s Handle,
}

impl Serving<'_> {
    /// Serves a connection and its replacements, until one ends in another way.
    async fn until_end(&self, peer: &mut Arc<Peer>, mut connection: Connection) -> Option<String> {
        loop {
            let due = tokio::select! {
                ended = &mut connection.task => {
                    peer.hang_up();
                    return ending(ended);
                }
                due = watch(peer, self.terms, connection.opened) => due,
            };
            match due {
                Due::Silent => {
                    peer.dismiss(code::AWAY, "no message came");
                    let _ = connection.task.await;
                    peer.hang_up();
                    let limit = self.terms.data_timeout.unwrap_or_default().as_millis();
                    return Some(format!("no message came for {limit} ms (dataTimeout)"));
                }
                Due::Old => {
                    if let Some(next) = self.successor().await {
                        let next_peer = Peer::new(peer.address.clone(), peer.totals.clone(), peer.thread);
                        let next = Connection::start(self.endpoint, &next_peer, next, self.data);
                        // Both deliver messages for a while, because the new one may still be subscribing.
                        let ended = tokio::select! {
                            () = tokio::time::sleep(self.terms.overlap) => false,
                            _ = &mut connection.task => true,
                        };
                        let old_peer = std::mem::replace(peer, next_peer);
                        let old = std::mem::replace(&mut connection, next);
                        self.retire(peer, old_peer, (!ended).then_some(old));
                    } else {
                        // The old connection still works, so the next attempt comes later.
                        connection.opened = Instant::now();
                    }
                }
            }
        }
    }

    /// A connection to replace an old one.
    async fn successor(&self) -> Option<Ready> {
        match open(self.endpoint, &self.addresses.settings(self.terms)).await {
            Ok(opened) => Some(opened),
            Err(error) => {
                self.endpoint.fails(format!("the connection stays beyond maxConnectionAge: {error}"));
                None
            }
        }
    }

    /// Lets `peer` replace an old one, whose connection sends its waiting messages and ends.
    fn retire(&self, peer: &Arc<Peer>, old_peer: Arc<Peer>, old: Option<Connection>) {
        self.endpoint.succeeds(&old_peer, peer);
        let (endpoint, presence) = (self.endpoint.clone(), Presence::new(self.endpoint));
        tokio::spawn(async move {
            if let Some(old) = old {
                old_peer.drained(connection::CLOSE_TIMEOUT).await;
                old_peer.dismiss(code::NORMAL, "replaced by a new connection");
                let _ = old.task.await;
            }
            endpoint.leave(&old_peer);
            drop(presence);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_turns() {
        let role = |port| Role::Client { host: "h".to_owned(), port };
        let mut addresses = Addresses::new(vec![role(1), role(2)]);
        let dialled = |addresses: &Addresses| match addresses.settings(&Settings::default()).role {
            Role::Client { port, .. } => port,
            Role::Server => 0,
        };
        let turns: Vec<(u16, bool)> = (0..4).map(|_| (dialled(&addresses), addresses.pass())).collect();
        assert_eq!(turns, [(1, false), (2, true), (1, false), (2, true)]);
        assert!(Addresses::new(vec![role(1)]).pass(), "a single address is waited for");
    }
}
