//! Connectors: how messages come in and results go out.
//!
//! A connector knows sockets, files and the console, but neither SQL nor timely. It sees messages as bytes (or as rows,
//! in memory topics) and passes them on through [`queue`].

mod addresses;
mod backoff;
pub mod batch_queue;
pub mod capture;
pub mod connector;
pub mod egress;
pub mod environment;
pub mod events;
pub mod file;
pub mod inlet;
mod lock;
pub mod log;
pub mod memory;
pub mod mock;
pub mod nop;
pub mod outbox;
mod properties;
pub mod queue;
pub mod reach;
pub mod recording;
pub mod rest;
pub mod signatures;
pub mod sink;
pub mod source;
pub mod spool;
pub mod thread_queues;
pub mod tls;
mod tls_properties;
mod trust;
pub mod websocket;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// The cause of messages that clients had not received when their sink ended.
pub const UNSENT: &str = "not taken before the end";

/// The cause of messages that arrived at an endpoint while no rule read them.
pub const UNREAD: &str = "no reader";

/// The cause of messages that were read but not processed when their rules ended.
pub const UNPROCESSED: &str = "not processed before the end";

/// Makes a stranger's text safe for a terminal or log: control characters become escapes.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if character.is_control() { shown.extend(character.escape_default()) } else { shown.push(character) }
    }
    Cow::Owned(shown)
}

/// Whether a connector is connected to its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// A peer is connected; in a server role: the endpoint accepts clients.
    Connected,
    /// The peer is being dialled, or the next attempt is due later.
    Connecting,
    /// Ended.
    Disconnected,
}

impl LinkState {
    pub fn as_str(self) -> &'static str {
        match self {
            LinkState::Connected => "connected",
            LinkState::Connecting => "connecting",
            LinkState::Disconnected => "disconnected",
        }
    }
}

/// The cause under which messages without a receiver are counted. They are not errors: eKuiper counts them as sent.
pub const NO_CLIENT: &str = "no client";

/// The number of lost messages and the cause, for the status and the log.
pub fn loss(cause: &str, count: u64) -> String {
    format!("{count} message{} dropped: {cause}", if count == 1 { "" } else { "s" })
}

/// The count of dropped messages for [`LinkStatus::dropped`], with its cause.
fn dropped(cause: &'static str, count: &AtomicU64) -> Vec<(&'static str, u64)> {
    match count.load(Ordering::Relaxed) {
        0 => Vec::new(),
        count => vec![(cause, count)],
    }
}

/// The status of a source or sink.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// its address: `ws://host:port/path`, or `:port/path` in a server role
    pub address: String,
    pub state: LinkState,
    /// the time at which it entered this state
    pub since: SystemTime,
    /// connected clients in a server role; 0 or 1 in a client role
    pub peers: usize,
    /// the last error, with its time
    pub last_error: Option<(SystemTime, String)>,
    /// messages received, or delivered to peers (a broadcast to n clients counts n)
    pub messages: u64,
    /// their bytes
    pub bytes: u64,
    /// lost messages, by cause; causes without messages are left out
    pub dropped: Vec<(&'static str, u64)>,
    /// of a sink that sends requests or writes a file: the messages that it could not deliver since the last one that it
    /// could
    pub undelivered: u64,
    /// messages that wait, for all peers together
    pub queued: usize,
    /// messages stored for a peer until it has received them, even beyond the end of the process
    pub stored: usize,
    /// messages that a peer's socket has taken and that may still be lost with its connection
    pub unproven: u64,
    /// the history of its connections
    pub history: LinkHistory,
    /// in a client role: the status of each dialled address
    pub addresses: Vec<AddressStatus>,
}

/// The status of one address of a client role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressStatus {
    /// `ws://host:port/path`
    pub address: String,
    /// open connections
    pub connected: usize,
    /// connections that ended in any way
    pub closed: u64,
    /// dials that failed
    pub unreached: u64,
    /// why the last connection ended or failed
    pub last_error: Option<(SystemTime, String)>,
}

impl AddressStatus {
    fn new(address: &str) -> AddressStatus {
        AddressStatus { address: address.to_owned(), connected: 0, closed: 0, unreached: 0, last_error: None }
    }

    /// How often a connection ended or could not be opened.
    pub fn failures(&self) -> u64 {
        self.closed + self.unreached
    }

    /// The problem, for people: `closed 11 times, last: 1008 no hb`.
    pub fn trouble(&self) -> String {
        let times = |what: &str, count: u64| match count {
            0 => String::new(),
            1 => format!("{what} once, "),
            count => format!("{what} {count} times, "),
        };
        let (closed, unreached) = (times("closed", self.closed), times("not reached", self.unreached));
        let last = self.last_error.as_ref().map_or("", |(_, error)| error);
        let last = last.strip_prefix(&format!("{}: ", self.address)).unwrap_or(last);
        let last = last.strip_prefix("closed by the peer: ").unwrap_or(last);
        format!("{closed}{unreached}last: {last}")
    }
}

/// The history of an endpoint's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkHistory {
    /// connections opened
    pub connects: u64,
    /// connections that ended
    pub disconnects: u64,
    /// dials that failed, and connections that ended with an error
    pub failures: u64,
    /// when the last connection was opened
    pub connected: Option<SystemTime>,
    /// when the last one ended
    pub disconnected: Option<SystemTime>,
}

impl LinkHistory {
    /// Records an opened connection.
    pub fn connects(&mut self, now: SystemTime) {
        (self.connects, self.connected) = (self.connects + 1, Some(now));
    }

    /// Records an ended connection.
    pub fn disconnects(&mut self, now: SystemTime) {
        (self.disconnects, self.disconnected) = (self.disconnects + 1, Some(now));
    }
}

impl LinkStatus {
    /// Whether it is an endpoint of the data server.
    pub fn serves(&self) -> bool {
        self.address.starts_with(':')
    }

    /// The status of a link that is connected since `since` and has moved no message.
    pub fn new(address: impl Into<String>, since: SystemTime) -> LinkStatus {
        LinkStatus {
            address: address.into(),
            state: LinkState::Connected,
            since,
            peers: 0,
            last_error: None,
            messages: 0,
            bytes: 0,
            dropped: Vec::new(),
            undelivered: 0,
            queued: 0,
            stored: 0,
            unproven: 0,
            history: LinkHistory::default(),
            addresses: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn control_characters_of_strangers_are_shown() {
        for (text, shown) in [("plain ä", "plain ä"), ("\x1b[2Jx\n", "\\u{1b}[2Jx\\n"), ("\u{9b}1m", "\\u{9b}1m")] {
            assert_eq!(super::printable(text), shown);
        }
    }
}
