//! What waits for clients: one queue, a lane, per sink and client, and the sink's policy when a lane is full.
//!
//! A lane holds references to the sink's shared batches, so a broadcast costs each client a pointer. How a batch comes
//! to the lanes is the business of `fan_out`. The byte limit
//! counts what a lane keeps alive: a batch counts whole until its last message is out. Messages count as waiting until
//! they are flushed to the socket; what was handed to the socket is never sent again, what was not is kept for the
//! client role's next connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio_tungstenite::tungstenite::http::HeaderMap;

use super::config::{QueueLimit, SlowClient};
use super::protocol::code;
use super::routes::{self, Segments};
use super::tally::{Loss, Tally};
use super::totals::Totals;
use super::unproven::Unproven;
use super::watch::Heard;
use crate::io::queue::{MessageBatch, Origin};
use crate::memory::{self, Pressure};
use crate::sync::locked;
use crate::value::Text;

/// Why and with which code a client is sent away.
#[derive(Clone, Copy, Debug)]
pub(super) struct Farewell {
    /// close code
    pub code: u16,
    /// reason in the close frame
    pub reason: &'static str,
}

/// The other end of a connection; in a client role it outlives connections.
pub(super) struct Peer {
    /// where it is
    pub address: String,
    /// names it among all peers of this process, and of those before it
    pub id: Text,
    /// what rules are told of it
    pub origin: Arc<Origin>,
    /// when it was heard
    pub heard: Heard,
    /// since when it is known
    pub since: SystemTime,
    /// set to send it away
    pub farewell: watch::Sender<Option<Farewell>>,
    /// wakes its writer
    pub wake: Notify,
    /// where the end of its connections is counted
    pub totals: Arc<Totals>,
    /// the data thread of its connections
    pub thread: usize,
    /// messages of `onOpen` still to be sent on this connection, before all others; `None` while there is none
    first: Mutex<Option<VecDeque<String>>>,
    /// what its connection has taken without a proof that it was read
    pub unproven: Mutex<Unproven>,
    lanes: Mutex<Lanes>,
}

/// An id that no other peer has: what a rule remembers over a restart must not name somebody else.
fn next_id() -> Text {
    static START: OnceLock<u32> = OnceLock::new();
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let start = START.get_or_init(|| fastrand::u32(..));
    Text::from(format!("{start:08x}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
}

/// The lanes of a peer: as many as there are sinks, and thousands of rules may send to one endpoint.
#[derive(Default)]
struct Lanes {
    all: Vec<Arc<ClientQueue>>,
    /// those in which something waits, each once, so that a busy one does not starve the others
    waiting: VecDeque<Arc<ClientQueue>>,
    /// the peer has left: nothing waits any more
    left: bool,
}

impl Peer {
    /// A peer without lanes, which is connected.
    pub fn new(address: String, totals: Arc<Totals>, thread: usize) -> Arc<Peer> {
        Peer::of_client(address, totals, thread, &Segments::new(), None)
    }

    /// The same for a client of the data server, which has asked for a path with these headers.
    pub fn of_client(
        address: String,
        totals: Arc<Totals>,
        thread: usize,
        segments: &Segments,
        headers: Option<&HeaderMap>,
    ) -> Arc<Peer> {
        let id = next_id();
        Arc::new(Peer {
            origin: routes::origin(&id, &address, segments, headers),
            id,
            heard: Heard::default(),
            address,
            totals,
            thread,
            since: SystemTime::now(),
            farewell: watch::Sender::new(None),
            wake: Notify::new(),
            first: Mutex::new(Some(VecDeque::new())),
            unproven: Mutex::default(),
            lanes: Mutex::default(),
        })
    }

    /// Sends it away, if nobody did before.
    pub fn dismiss(&self, code: u16, reason: &'static str) {
        self.farewell.send_if_modified(|farewell| {
            let first = farewell.is_none();
            if first {
                *farewell = Some(Farewell { code, reason });
            }
            first
        });
    }

    /// Sends these too, before what waits. Without a connection they are dropped: the next one begins with all that is to
    /// be said then.
    pub fn say(&self, messages: &[String]) {
        if let Some(first) = &mut *locked(&self.first) {
            first.extend(messages.iter().cloned());
            self.wake.notify_one();
        }
    }

    /// What a new connection sends first.
    pub fn say_first(&self, messages: Vec<String>) {
        *locked(&self.first) = Some(messages.into());
    }

    /// There is no connection until the next [`Peer::say_first`].
    pub fn hang_up(&self) {
        *locked(&self.first) = None;
    }

    /// The next message of `onOpen`.
    pub fn next_first(&self) -> Option<String> {
        locked(&self.first).as_mut()?.pop_front()
    }

    /// The next batch to write, if one waits.
    pub fn next(&self) -> Option<Flight> {
        let mut lanes = locked(&self.lanes);
        loop {
            let lane = lanes.waiting.pop_front()?;
            let (flight, more) = lane.take();
            if more {
                lanes.waiting.push_back(lane);
            }
            if flight.is_some() {
                return flight;
            }
        }
    }

    /// Waits until nothing waits for it, but no longer than `limit`.
    pub async fn drained(&self, limit: Duration) {
        const LOOK: Duration = Duration::from_millis(5);
        let empty = || locked(&self.lanes).all.iter().all(|lane| locked(&lane.state).messages == 0);
        let wait = async {
            while !empty() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(limit, wait).await;
    }

    /// Gives up all that waits for it: it has left.
    pub fn leave(&self) {
        let lanes = std::mem::replace(&mut *locked(&self.lanes), Lanes { left: true, ..Lanes::default() });
        for lane in lanes.all {
            lane.close();
        }
    }
}

/// What waits for one client of one sink.
pub(super) struct ClientQueue {
    sink: Arc<Tally>,
    peer: Arc<Peer>,
    state: Mutex<LaneState>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct LaneState {
    entries: VecDeque<Entry>,
    /// messages that wait, those in flight included
    messages: usize,
    /// bytes that they keep alive
    bytes: usize,
    /// counted in the sink's `over`
    over: bool,
    /// it is among the waiting lanes of its peer, or about to be
    listed: bool,
    closed: bool,
}

/// The rest of a batch.
struct Entry {
    batch: Arc<MessageBatch>,
    next: usize,
}

impl ClientQueue {
    /// The lane of a peer for a sink that counts so. It is for the sink to send to it.
    pub fn open(peer: &Arc<Peer>, sink: &Arc<Tally>) -> Arc<ClientQueue> {
        let lane = Arc::new(ClientQueue {
            sink: sink.clone(),
            peer: peer.clone(),
            state: Mutex::default(),
            dropped: AtomicU64::new(0),
        });
        locked(&peer.lanes).all.push(lane.clone());
        lane
    }

    /// Whose it is.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// Messages that wait.
    pub fn queued(&self) -> usize {
        locked(&self.state).messages
    }

    /// Messages that it lost.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes a batch, which its sink has counted as waiting.
    pub fn push(self: &Arc<Self>, batch: &Arc<MessageBatch>) {
        let is_short = memory::level() >= Pressure::Queues;
        let limit = if is_short { self.sink.limit.short() } else { self.sink.limit };
        let mut state = locked(&self.state);
        if state.closed {
            // Its client has left, and the sink does not know yet.
            drop(state);
            self.lose(batch.len(), self.cause_of_end());
            return;
        }
        state.entries.push_back(Entry { batch: batch.clone(), next: 0 });
        state.messages += batch.len();
        state.bytes += batch.byte_len();
        if state.messages > limit.messages || state.bytes > limit.bytes {
            match self.sink.policy {
                SlowClient::DropOldest if is_short => self.cut(&mut state),
                SlowClient::DropOldest => {
                    let lost = state.drop_oldest(limit);
                    self.lose(lost, Loss::Slow);
                }
                // A lane with a single batch is not behind: the client had no chance to read it yet.
                SlowClient::Disconnect if state.entries.len() > 1 || state.messages > batch.len() => {
                    let lost = state.clear();
                    self.lose(lost, Loss::Slow);
                    self.peer.dismiss(code::POLICY, "too slow");
                }
                SlowClient::Disconnect => {}
                SlowClient::Block => {
                    if !std::mem::replace(&mut state.over, true) {
                        self.sink.holds_up();
                    }
                }
            }
        }
        let fresh = !std::mem::replace(&mut state.listed, true);
        drop(state);
        if fresh {
            self.list();
        }
        self.peer.wake.notify_one();
    }

    /// Puts it among the waiting lanes of its peer. Not under the lane's lock: a peer locks in the other order.
    fn list(self: &Arc<Self>) {
        let mut lanes = locked(&self.peer.lanes);
        if !lanes.left {
            lanes.waiting.push_back(self.clone());
        }
    }

    /// Holds it to what may wait while memory is short; gives the bytes that still do.
    pub fn shorten(&self) -> usize {
        let mut state = locked(&self.state);
        if self.sink.policy == SlowClient::DropOldest {
            self.cut(&mut state);
        }
        state.bytes
    }

    fn cut(&self, state: &mut LaneState) {
        let lost = state.drop_oldest(self.sink.limit.short());
        if lost > 0 {
            memory::count(Pressure::Queues);
            self.lose(lost, Loss::Memory);
        }
    }

    fn lose(&self, messages: usize, cause: Loss) {
        self.dropped.fetch_add(messages as u64, Ordering::Relaxed);
        self.sink.lose(cause, messages);
        self.sink.remove(messages);
    }

    /// Takes the next batch, and says whether more waits; if not, it has to be listed anew.
    fn take(self: &Arc<Self>) -> (Option<Flight>, bool) {
        let mut state = locked(&self.state);
        let entry = state.entries.pop_front();
        state.listed = !state.entries.is_empty();
        let flight = entry.map(|Entry { batch, next }| Flight {
            lane: self.clone(),
            batch,
            start: next,
            next,
            bytes: 0,
            flushed: false,
        });
        (flight, state.listed)
    }

    /// Its sink has ended, and sends no more: its peer forgets it, and what waits is lost.
    pub fn end(&self) {
        locked(&self.peer.lanes).all.retain(|other| !std::ptr::eq(&**other, self));
        self.close();
    }

    fn close(&self) {
        let mut state = locked(&self.state);
        state.closed = true;
        let lost = state.clear();
        self.relieve(&mut state);
        drop(state);
        self.lose(lost, self.cause_of_end());
    }

    /// Why it loses what waits when it closes.
    fn cause_of_end(&self) -> Loss {
        let sent_away = self.peer.farewell.borrow().is_some_and(|farewell| farewell.code == code::AGAIN);
        self.sink.unless_ended(if sent_away { Loss::Memory } else { Loss::Left })
    }

    /// Ends the state of being over the limit, if it holds.
    fn relieve(&self, state: &mut LaneState) {
        if std::mem::replace(&mut state.over, false) {
            self.sink.lets_go();
        }
    }
}

impl LaneState {
    /// Drops from the front until the limits hold; of the newest batch only what is over the limit of messages.
    fn drop_oldest(&mut self, limit: QueueLimit) -> usize {
        let mut lost = 0;
        loop {
            let excess = self.messages.saturating_sub(limit.messages);
            let newest = self.entries.len() == 1;
            let Some(front) = self.entries.front_mut() else { return lost };
            if excess == 0 && (newest || self.bytes <= limit.bytes) {
                return lost;
            }
            let left = front.batch.len() - front.next;
            if excess >= left || (self.bytes > limit.bytes && !newest) {
                self.bytes -= front.batch.byte_len();
                self.messages -= left;
                self.entries.pop_front();
                lost += left;
            } else {
                front.next += excess;
                self.messages -= excess;
                lost += excess;
            }
        }
    }

    /// Drops all but what is in flight.
    fn clear(&mut self) -> usize {
        let mut lost = 0;
        for entry in self.entries.drain(..) {
            let left = entry.batch.len() - entry.next;
            self.bytes -= entry.batch.byte_len();
            self.messages -= left;
            lost += left;
        }
        lost
    }
}

/// A batch on its way into a socket. Dropped, it is accounted: messages taken from it are out if they were flushed, and
/// lost otherwise (part of them may have reached the peer; they are not sent twice); the others go back.
pub(super) struct Flight {
    lane: Arc<ClientQueue>,
    batch: Arc<MessageBatch>,
    start: usize,
    next: usize,
    bytes: usize,
    flushed: bool,
}

impl Flight {
    /// What was taken has been flushed.
    pub fn arrive(mut self) {
        self.flushed = true;
    }

    /// The batch, and its first message that was not taken.
    pub fn rest(&self) -> (&MessageBatch, usize) {
        (&self.batch, self.next)
    }

    /// Takes the next `count` messages.
    pub fn take(&mut self, count: usize) {
        self.bytes += self.batch.byte_len_of(self.next, count);
        self.next += count;
    }

    /// Bytes taken so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let lane = &self.lane;
        let sink = &lane.sink;
        let out = self.next - self.start;
        let left = self.batch.len() - self.next;
        if self.flushed {
            sink.flushed(out, self.bytes);
            locked(&lane.peer.unproven).add(sink, out as u64);
        }
        let (mut lost, mut fresh) = (0, false);
        let mut state = locked(&lane.state);
        state.messages -= out;
        if left > 0 && !state.closed {
            state.entries.push_front(Entry { batch: self.batch.clone(), next: self.next });
            fresh = !std::mem::replace(&mut state.listed, true);
        } else {
            state.bytes -= self.batch.byte_len();
            state.messages -= left;
            lost = left;
        }
        // Half the limit, so that the engine is not woken for every message of a client that reads steadily.
        if state.over && state.messages <= sink.limit.messages / 2 && state.bytes <= sink.limit.bytes / 2 {
            lane.relieve(&mut state);
        }
        drop(state);
        if fresh {
            lane.list();
        }
        lane.lose(lost, lane.cause_of_end());
        if self.flushed {
            sink.remove(out);
        } else {
            lane.lose(out, sink.unless_ended(Loss::Broken));
        }
    }
}
