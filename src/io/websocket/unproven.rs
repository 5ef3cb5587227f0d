//! Messages that were handed to a peer's socket, and of which nothing proves yet that the peer has read them.
//!
//! A kernel takes messages and does not say what becomes of them: when a connection breaks, what is in its hands is gone,
//! and so is what the peer's system had taken and the peer had not read. A pong is a proof: a peer that answers a ping has
//! read everything before it. So when a connection breaks, what was sent since the last ping that was answered counts as
//! lost. It may have arrived: the count is an upper bound. A ping follows not only each `pingInterval` but also every
//! [`MANY`] messages, so that the bound is close for a busy peer, too. Without pings nothing can be proven, and nothing is
//! counted.
//!
//! This is plain data. It knows sinks as counters, and must not know sockets.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use foldhash::fast::RandomState;

use super::tally::Tally;

/// Of so many sinks messages may be unproven. Where there are more, those of sinks that have ended count as lost at once:
/// a peer that answers no ping must not keep them in memory.
const SINKS: usize = 256;

/// After so many messages a ping is due, if the last one is answered.
const MANY: u64 = 4096;

/// The unproven messages of one peer.
#[derive(Default)]
pub(super) struct Unproven {
    /// messages behind the last ping
    since: Counts,
    /// how many were sent behind it
    sent: u64,
    /// messages before it that were not proven when it was sent
    asked: Counts,
    /// the number of the last ping, if it is not answered
    ping: Option<u64>,
    next: u64,
    /// the connection has pings
    asks: bool,
}

/// Numbers of messages by sink, which the sink's address names.
type Counts = HashMap<usize, (Arc<Tally>, u64), RandomState>;

impl Unproven {
    /// A connection begins; `asks`: pings are sent on it. What an earlier one has left, by a panic, is lost.
    pub fn begin(&mut self, asks: bool) {
        self.lose();
        self.asks = asks;
    }

    /// `messages` of a sink were flushed.
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
                    sink.unproven.fetch_sub(*messages, Ordering::AcqRel);
                }
                !ended
            });
        }
        self.sent += messages;
        sink.unproven.fetch_add(messages, Ordering::AcqRel);
        self.since.entry(name).or_insert_with(|| (sink.clone(), 0)).1 += messages;
    }

    /// Whether so much was sent that a ping must not wait for its time.
    pub fn is_due(&self) -> bool {
        self.ping.is_none() && self.sent >= MANY
    }

    /// The number for the next ping. While a ping is unanswered its number is used again, so a late pong still counts.
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

    /// A pong with this number came.
    pub fn answered(&mut self, number: u64) {
        if self.ping == Some(number) {
            self.ping = None;
            settle(&mut self.asked, |_, _| {});
        }
    }

    /// The connection has ended in order.
    pub fn forget(&mut self) {
        settle(&mut self.asked, |_, _| {});
        settle(&mut self.since, |_, _| {});
        self.ping = None;
        self.sent = 0;
    }

    /// The connection broke.
    pub fn lose(&mut self) {
        settle(&mut self.asked, Tally::lose_unproven);
        settle(&mut self.since, Tally::lose_unproven);
        self.ping = None;
        self.sent = 0;
    }
}

/// Takes everything out of `counts`; `act` gets each sink with its messages first.
fn settle(counts: &mut Counts, act: impl Fn(&Tally, u64)) {
    for (_, (sink, messages)) in counts.drain() {
        act(&sink, messages);
        sink.unproven.fetch_sub(messages, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::queue::Signal;
    use crate::io::websocket::config::{QueueLimit, SlowClient};

    fn sink() -> Arc<Tally> {
        let signal = Signal::new(0, crossbeam_channel::unbounded().0, Arc::default());
        Arc::new(Tally::new(QueueLimit::default(), SlowClient::DropOldest, signal))
    }

    fn asking() -> Unproven {
        Unproven { asks: true, ..Unproven::default() }
    }

    fn unproven(sink: &Tally) -> u64 {
        sink.unproven.load(Ordering::Acquire)
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
