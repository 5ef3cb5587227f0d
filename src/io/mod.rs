//! Connectors: how messages come in and results go out.
//!
//! A connector knows sockets, files and the console; it must not know SQL or timely. It sees messages as bytes (rows,
//! where they stay in memory) and hands them over through [`queue`].

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

/// The cause under which a sink counts what its clients had not taken when it ended.
pub const UNSENT: &str = "not taken before the end";

/// The cause under which an endpoint counts messages that came while no rule read them.
pub const UNREAD: &str = "no reader";

/// The cause under which a source counts messages that were read and that its rules had not run when they ended.
pub const UNPROCESSED: &str = "not processed before the end";

/// Text of a stranger for a terminal or a log: control characters are shown as escapes, so that they do nothing.
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

/// Whether a connector is in touch with its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// A peer is connected; of a server role: the endpoint accepts clients.
    Connected,
    /// The peer is being dialled, or waits for its next try.
    Connecting,
    /// Ended.
    Disconnected,
}

impl LinkState {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            LinkState::Connected => "connected",
            LinkState::Connecting => "connecting",
            LinkState::Disconnected => "disconnected",
        }
    }
}

/// The cause of messages that a sink had nobody to send to. They are dropped and counted, and yet no fault of anyone:
/// eKuiper counts them as sent.
pub const NO_CLIENT: &str = "no client";

/// How many messages were lost and why, as the status and the log say it.
pub fn loss(cause: &str, count: u64) -> String {
    format!("{count} message{} dropped: {cause}", if count == 1 { "" } else { "s" })
}

/// A count of dropped messages for [`LinkStatus::dropped`], under its cause.
fn dropped(cause: &'static str, count: &AtomicU64) -> Vec<(&'static str, u64)> {
    match count.load(Ordering::Relaxed) {
        0 => Vec::new(),
        count => vec![(cause, count)],
    }
}

/// How a source or sink stands: what it says in the status.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// where it is: `ws://host:port/path`, or `:port/path` of a server role
    pub address: String,
    pub state: LinkState,
    /// since when it is in this state
    pub since: SystemTime,
    /// clients of a server role that are connected now; 0 or 1 of a client role
    pub peers: usize,
    /// the last error, with its time
    pub last_error: Option<(SystemTime, String)>,
    /// messages that came in, or went out to peers (a broadcast to n clients counts n)
    pub messages: u64,
    /// their bytes
    pub bytes: u64,
    /// messages lost, by cause; causes that never happened are left out
    pub dropped: Vec<(&'static str, u64)>,
    /// messages waiting for a peer, of all peers
    pub queued: usize,
    /// messages that are kept for a peer until it is known to have them, over the end of the process, too
    pub stored: usize,
    /// messages that a peer's socket has taken and that may still be lost with its connection
    pub unproven: u64,
    /// what has become of its connections
    pub history: LinkHistory,
    /// of a client role: how it fares at each address that was dialled
    pub addresses: Vec<AddressStatus>,
}

/// How a client role fares at one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressStatus {
    /// `ws://host:port/path`
    pub address: String,
    /// open connections
    pub connected: usize,
    /// connections that ended, in whatever way
    pub closed: u64,
    /// dials that failed
    pub unreached: u64,
    /// why the last one ended or failed
    pub last_error: Option<(SystemTime, String)>,
}

impl AddressStatus {
    fn new(address: &str) -> AddressStatus {
        AddressStatus { address: address.to_owned(), connected: 0, closed: 0, unreached: 0, last_error: None }
    }

    /// How often a connection ended or could not be made.
    pub fn failures(&self) -> u64 {
        self.closed + self.unreached
    }

    /// What goes wrong, for people: `closed 11 times, last: 1008 no hb`.
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

/// What has become of the connections of an endpoint since it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkHistory {
    /// connections that were made
    pub connects: u64,
    /// connections that ended
    pub disconnects: u64,
    /// dials that failed, and connections that ended with an error
    pub failures: u64,
    /// when the last connection was made
    pub connected: Option<SystemTime>,
    /// when the last one ended
    pub disconnected: Option<SystemTime>,
}

impl LinkHistory {
    /// Notes a connection that was made.
    pub fn connects(&mut self, now: SystemTime) {
        (self.connects, self.connected) = (self.connects + 1, Some(now));
    }

    /// Notes a connection that ended.
    pub fn disconnects(&mut self, now: SystemTime) {
        (self.disconnects, self.disconnected) = (self.disconnects + 1, Some(now));
    }
}

impl LinkStatus {
    /// Whether it is an endpoint of the data server, to which clients come.
    pub fn serves(&self) -> bool {
        self.address.starts_with(':')
    }

    /// Of something in this process, in touch since `since`; nothing is counted yet.
    fn local(address: impl Into<String>, since: SystemTime) -> LinkStatus {
        LinkStatus {
            address: address.into(),
            state: LinkState::Connected,
            since,
            peers: 0,
            last_error: None,
            messages: 0,
            bytes: 0,
            dropped: Vec::new(),
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
