//! Messages given to a peer's socket that the peer is not yet known to have read.
//!
//! A kernel does not report what happens to messages: when a connection breaks, those in its buffers are lost, and so
//! are those that the peer's system had received and the peer had not read. A pong is a proof: a peer that answers a
//! ping has read everything before it. So when a connection breaks, everything sent since the last answered ping counts
//! as lost. Some of it may have arrived, so the count is an upper bound. A ping is sent not only each `pingInterval`
//! but also after every [`MANY`] messages, so that the bound is close for a busy peer too. Without pings nothing can be
//! proven, and nothing is counted.
//!
//! This is plain data. It knows sinks as counters, and no sockets.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::tally::Tally;

/// The most sinks with unproven messages. If there are more, those of ended sinks count as lost at once, so that a peer
/// that answers no pings does not keep them in memory.
const SINKS: usize = 256;

/// After this many messages a ping is due, if the last one is answered.
const MANY: u64 = 4096;

/// The unproven messages of one peer.
#[derive(Default)]
pub(super) struct Unproven {
    /// messages after the last ping
    since: Counts,
    /// the number of messages sent after it
    sent: u64,
    /// messages before it that were unproven when it was sent
    asked: Counts,
    /// the number of the last ping, if it is unanswered
    ping: Option<u64>,
    next: u64,
    /// whether the connection uses pings
    asks: bool,
    /// the data thread of the peer
    thread: usize,
}

/// Numbers of messages by sink, identified by its memory address.
type Counts = HashMap<usize, (Arc<Tally>, u64), RandomState>;

impl Unproven {
    /// Of a peer on this data thread.
    pub fn on_thread(thread: usize) -> Unproven {
        Unproven { thread, ..Unproven::default() }
    }

    /// A connection begins; `asks`: it uses pings. Messages left from an earlier one, after a panic, are lost.
    pub fn begin(&mut self, asks: bool) {
        self.lose();
        self.asks = asks;
    }

    /// Counts flushed messages of a sink.
    pub fn add(&mut self, sink: &Arc<Tally>, messages: u64) {
        if !self.asks {
            return;
        }
        let name = Arc::as_ptr(sink) as usize;
        if self.since.len() >= SINKS && !self.since.contains_key(&name) {
            self.since.retain(|_, (sink, messages)| {
                let ended = sink.has_ended();
                if ended {
                    sink.lose_unproven(*messages);
                    sink.remove_unproven(self.thread, *messages);
                }
                !ended
            });
        }
        self.sent += messages;
        sink.add_unproven(self.thread, messages);
        self.since.entry(name).or_insert_with(|| (sink.clone(), 0)).1 += messages;
    }

    /// Whether a ping is due before its time, because many messages were sent.
    pub fn is_due(&self) -> bool {
        self.ping.is_none() && self.sent >= MANY
    }

    /// The number for the next ping. While a ping is unanswered its number is reused, so a late pong still counts.
    pub fn ask(&mut self) -> u64 {
        if let Some(ping) = self.ping {
            return ping;
        }
        self.next += 1;
        self.ping = Some(self.next);
        self.asked = std::mem::take(&mut self.since);
        self.sent = 0;
        self.next
    }

    /// A pong with this number arrived.
    pub fn answered(&mut self, number: u64) {
        if self.ping == Some(number) {
            self.ping = None;
            settle(&mut self.asked, self.thread, |_, _| {});
        }
    }

    /// The connection has closed cleanly.
    pub fn forget(&mut self) {
        settle(&mut self.asked, self.thread, |_, _| {});
        settle(&mut self.since, self.thread, |_, _| {});
        self.ping = None;
        self.sent = 0;
    }

    /// The connection broke.
    pub fn lose(&mut self) {
        settle(&mut self.asked, self.thread, Tally::lose_unproven);
        settle(&mut self.since, self.thread, Tally::lose_unproven);
        self.ping = None;
        self.sent = 0;
    }
}

/// Removes everything from `counts` of a thread, after calling `act` with each sink and its messages.
fn settle(counts: &mut Counts, thread: usize, act: impl Fn(&Tally, u64)) {
    for (_, (sink, messages)) in counts.drain() {
        act(&sink, messages);
        sink.remove_unproven(thread, messages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::queue::Signal;
    use crate::io::websocket::config::{QueueLimit, SlowClient};

    fn sink() -> Arc<Tally> {
        let signal = Signal::new(0, crossbeam_channel::unbounded().0, Arc::default());
        Arc::new(Tally::new(QueueLimit::default(), SlowClient::DropOldest, signal, 1))
    }

    fn asking() -> Unproven {
        Unproven { asks: true, ..Unproven::default() }
    }

    fn unproven(sink: &Tally) -> u64 {
        sink.unproven()
    }

    #[test]
    fn a_pong_proves_what_was_sent_before_its_ping() {
        let (mut peer, sink) = (asking(), sink());
        peer.add(&sink, 3);
        let ping = peer.ask();
        peer.add(&sink, 2);
        assert_eq!(peer.ask(), ping, "the same is asked again");
        peer.answered(ping + 1);
        assert_eq!(unproven(&sink), 5, "an answer to nothing proves nothing");
        peer.answered(ping);
        assert_eq!(unproven(&sink), 2);
        peer.answered(ping);
        peer.lose();
        assert_eq!((unproven(&sink), sink.lost()), (0, vec![("connection broke", 2)]));
    }

    #[test]
    fn many_messages_want_a_ping_once_the_last_is_answered() {
        let (mut peer, sink) = (asking(), sink());
        peer.add(&sink, MANY - 1);
        assert!(!peer.is_due());
        peer.add(&sink, 1);
        assert!(peer.is_due());
        let ping = peer.ask();
        peer.add(&sink, MANY);
        assert!(!peer.is_due(), "one ping is under way");
        peer.answered(ping);
        assert!(peer.is_due());
        peer.lose();
        assert!(!peer.is_due());
    }

    #[test]
    fn what_ended_in_order_is_not_lost() {
        let (mut peer, sink) = (asking(), sink());
        peer.add(&sink, 3);
        peer.ask();
        peer.add(&sink, 4);
        peer.forget();
        assert_eq!((unproven(&sink), sink.lost()), (0, vec![]));
    }

    #[test]
    fn sinks_that_come_and_go_do_not_gather() {
        let mut peer = asking();
        for _ in 0..2 * SINKS {
            let sink = sink();
            peer.add(&sink, 1);
            sink.end();
        }
        assert!(peer.since.len() <= SINKS);
    }

    #[test]
    fn without_pings_nothing_is_counted() {
        let (mut peer, sink) = (Unproven::default(), sink());
        peer.begin(false);
        peer.add(&sink, 3);
        peer.lose();
        assert_eq!(sink.lost(), vec![]);
    }
}
