//! What waits for clients: one queue, a lane, per sink and client, and the sink's policy when a lane is full.
//!
//! A lane holds references to the sink's shared batches, so a broadcast costs each client a pointer. How a batch comes
//! to the lanes is the business of `fan_out`. The byte limit
//! counts what a lane keeps alive: a batch counts whole until its last message is out. Messages count as waiting until
//! they are flushed to the socket; what was handed to the socket is never sent again, what was not is kept for the
//! client role's next connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio_tungstenite::tungstenite::http::HeaderMap;

use super::config::SlowClient;
use super::protocol::code;
use super::routes::{self, Segments};
use super::tally::{Loss, Tally};
use super::totals::Totals;
use super::unproven::Unproven;
use super::watch::Heard;
use crate::io::batch_queue::{BatchQueue, QueueLimit, Rest};
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
    /// whether a lane wants proofs
    proves: AtomicBool,
    /// the number of the last ping
    probed: AtomicU64,
    /// the number of the last one that was answered, or that will not be
    proven: AtomicU64,
}

/// An id that no other peer has: what a rule remembers over a restart must not name somebody else.
fn next_id() -> Text {
    static START: OnceLock<u32> = OnceLock::new();
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let start = START.get_or_init(|| fastrand::u32(..));
    Text::from(format!("{start:08x}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
}

/// What waits for one peer, of one sink.
pub(super) trait Lane: Send + Sync {
    /// Takes the next batch, and says whether more waits; if not, the lane is listed anew with the next.
    fn take(self: Arc<Self>) -> (Option<Flight>, bool);

    /// Accounts for a batch that was taken.
    fn land(self: Arc<Self>, landing: &Landing<'_>);

    /// Whether nothing waits.
    fn is_empty(&self) -> bool;

    /// The peer has left.
    fn close(&self);
}

/// A lane whose messages are kept until a pong proves that the peer has them.
pub(super) trait Proving: Lane {
    /// Whether messages were sent that are not proven.
    fn wants_proof(&self) -> bool;

    /// A ping with this number goes out, behind all that was sent.
    fn probe(&self, number: u64);

    /// The ping with this number is answered.
    fn prove(&self, number: u64);

    /// A connection begins.
    fn reconnects(self: Arc<Self>);
}

/// A sink as its endpoint sees it.
pub(super) trait PeerSink: Send + Sync {
    /// From now on `peer` gets what is sent.
    fn join(self: Arc<Self>, peer: &Arc<Peer>);

    /// `peer` gets nothing more but what waits for it.
    fn retire(&self, peer: &Arc<Peer>);

    /// Takes leave of all peers.
    fn end(&self);

    /// Holds each peer to what may wait for it while memory is short. Gives the peers with what still waits, in bytes.
    fn shorten(&self) -> Vec<(usize, Arc<Peer>)>;
}

/// The lanes of a peer: as many as there are sinks, and thousands of rules may send to one endpoint.
#[derive(Default)]
struct Lanes {
    all: Vec<Arc<dyn Lane>>,
    /// those among them that want proofs
    proving: Vec<Arc<dyn Proving>>,
    /// those in which something waits, each once, so that a busy one does not starve the others
    waiting: VecDeque<Arc<dyn Lane>>,
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
            proves: AtomicBool::new(false),
            probed: AtomicU64::new(0),
            proven: AtomicU64::new(0),
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
            let (flight, more) = lane.clone().take();
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
        let empty = || locked(&self.lanes).all.iter().all(|lane| lane.is_empty());
        let wait = async {
            while !empty() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let _ = tokio::time::timeout(limit, wait).await;
    }

    /// Adds a lane that wants proofs.
    pub fn add_proving<L: Proving + 'static>(&self, lane: &Arc<L>) {
        let mut lanes = locked(&self.lanes);
        lanes.all.push(lane.clone());
        lanes.proving.push(lane.clone());
        self.proves.store(true, Ordering::Release);
    }

    /// Takes a lane away.
    pub fn remove(&self, lane: &Arc<dyn Lane>) {
        let mut lanes = locked(&self.lanes);
        lanes.all.retain(|other| !is_same(other, lane));
        lanes.waiting.retain(|other| !is_same(other, lane));
        lanes.proving.retain(|other| !std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(lane)));
        self.proves.store(!lanes.proving.is_empty(), Ordering::Release);
    }

    /// Puts a lane among those in which something waits, and wakes the writer.
    pub fn list(&self, lane: Arc<dyn Lane>) {
        let mut lanes = locked(&self.lanes);
        if !lanes.left {
            lanes.waiting.push_back(lane);
        }
        drop(lanes);
        self.wake.notify_one();
    }

    /// A connection of a client role begins: what no pong has proven is sent again.
    pub fn reconnects(&self) {
        self.proven.store(self.probed.load(Ordering::Acquire), Ordering::Release);
        let proving = locked(&self.lanes).proving.clone();
        proving.into_iter().for_each(|lane| lane.reconnects());
    }

    /// Whether messages wait for a proof that nobody has asked for yet.
    pub fn wants_probe(&self) -> bool {
        self.proves.load(Ordering::Acquire)
            && self.probed.load(Ordering::Acquire) == self.proven.load(Ordering::Acquire)
            && locked(&self.lanes).proving.iter().any(|lane| lane.wants_proof())
    }

    /// The number for a ping that is sent now: its answer proves that the peer has read all that was flushed before.
    pub fn ask(&self) -> u64 {
        let number = locked(&self.unproven).ask();
        // A ping that is sent once more proves what it proved the first time.
        if self.probed.fetch_max(number, Ordering::AcqRel) < number {
            locked(&self.lanes).proving.iter().for_each(|lane| lane.probe(number));
        }
        number
    }

    /// A pong with this number came.
    pub fn answered(&self, number: u64) {
        let is_due = {
            let mut unproven = locked(&self.unproven);
            unproven.answered(number);
            unproven.is_due()
        };
        if is_due {
            // Much was sent meanwhile: the writer asks again.
            self.wake.notify_one();
        }
        if number > self.probed.load(Ordering::Acquire) || self.proven.fetch_max(number, Ordering::AcqRel) >= number {
            return;
        }
        if self.proves.load(Ordering::Acquire) {
            let proving = locked(&self.lanes).proving.clone();
            proving.iter().for_each(|lane| lane.prove(number));
            // More may have been sent since: the writer asks again.
            self.wake.notify_one();
        }
    }

    /// Gives up all that waits for it: it has left.
    pub fn leave(&self) {
        let lanes = std::mem::replace(&mut *locked(&self.lanes), Lanes { left: true, ..Lanes::default() });
        for lane in lanes.all {
            lane.close();
        }
    }
}

fn is_same(one: &Arc<dyn Lane>, other: &Arc<dyn Lane>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
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
    queue: BatchQueue,
    /// counted in the sink's `over`
    over: bool,
    /// it is among the waiting lanes of its peer, or about to be
    listed: bool,
    closed: bool,
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
        locked(&self.state).queue.messages()
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
        state.queue.push(batch);
        if state.queue.exceeds(limit) {
            match self.sink.policy {
                SlowClient::DropOldest if is_short => self.cut(&mut state),
                SlowClient::DropOldest => {
                    let lost = state.queue.drop_oldest(limit);
                    self.lose(lost, Loss::Slow);
                }
                // A lane with a single batch is not behind: the client had no chance to read it yet.
                SlowClient::Disconnect if state.queue.batches() > 1 || state.queue.messages() > batch.len() => {
                    let lost = state.queue.clear();
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
            // Not under the lane's lock: a peer locks in the other order.
            self.peer.list(self.clone());
        } else {
            self.peer.wake.notify_one();
        }
    }

    /// Holds it to what may wait while memory is short; gives the bytes that still do.
    pub fn shorten(&self) -> usize {
        let mut state = locked(&self.state);
        if self.sink.policy == SlowClient::DropOldest {
            self.cut(&mut state);
        }
        state.queue.bytes()
    }

    fn cut(&self, state: &mut LaneState) {
        let lost = state.queue.drop_oldest(self.sink.limit.short());
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

    /// Its sink has ended, and sends no more: its peer forgets it, and what waits is lost.
    pub fn end(&self) {
        locked(&self.peer.lanes).all.retain(|other| !std::ptr::addr_eq(Arc::as_ptr(other), self));
        self.close();
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

impl Lane for ClientQueue {
    fn take(self: Arc<Self>) -> (Option<Flight>, bool) {
        let mut state = locked(&self.state);
        let rest = state.queue.take();
        let more = !state.queue.is_empty();
        state.listed = more;
        drop(state);
        (rest.map(|rest| Flight::new(self, rest, 0)), more)
    }

    fn land(self: Arc<Self>, landing: &Landing<'_>) {
        let Landing { rest, out, bytes, flushed, .. } = *landing;
        let sink = &self.sink;
        if flushed {
            sink.flushed(out, bytes);
            locked(&self.peer.unproven).add(sink, out as u64);
        }
        let mut state = locked(&self.state);
        let back = !state.closed;
        let lost = state.queue.settle(rest.clone(), out, back);
        let fresh = out < rest.len() && back && !std::mem::replace(&mut state.listed, true);
        // Half the limit, so that the engine is not woken for every message of a client that reads steadily.
        let half = QueueLimit { messages: sink.limit.messages / 2, bytes: sink.limit.bytes / 2 };
        if state.over && !state.queue.exceeds(half) {
            self.relieve(&mut state);
        }
        drop(state);
        if fresh {
            self.peer.list(self.clone());
        }
        self.lose(lost, self.cause_of_end());
        if flushed {
            sink.remove(out);
        } else {
            self.lose(out, sink.unless_ended(Loss::Broken));
        }
    }

    fn is_empty(&self) -> bool {
        self.queued() == 0
    }

    fn close(&self) {
        let mut state = locked(&self.state);
        state.closed = true;
        let lost = state.queue.clear();
        self.relieve(&mut state);
        drop(state);
        self.lose(lost, self.cause_of_end());
    }
}

/// What became of a batch that was taken.
#[derive(Clone, Copy)]
pub(super) struct Landing<'f> {
    /// as it was taken
    pub rest: &'f Rest,
    /// what the lane named it by
    pub ticket: u64,
    /// how many of its messages went into the socket
    pub out: usize,
    /// their bytes
    pub bytes: usize,
    /// whether the kernel has them
    pub flushed: bool,
}

/// A batch on its way into a socket. Dropped, it is accounted: messages taken from it are out if they were flushed, and
/// lost otherwise (part of them may have reached the peer; they are not sent twice, unless they are kept); the others go
/// back.
pub(super) struct Flight {
    lane: Arc<dyn Lane>,
    /// as it was taken from the lane
    rest: Rest,
    ticket: u64,
    next: usize,
    bytes: usize,
    flushed: bool,
}

impl Flight {
    /// Of a lane, which knows it by its ticket.
    pub fn new(lane: Arc<dyn Lane>, rest: Rest, ticket: u64) -> Flight {
        Flight { lane, next: rest.next, rest, ticket, bytes: 0, flushed: false }
    }

    /// What was taken has been flushed.
    pub fn arrive(mut self) {
        self.flushed = true;
    }

    /// The batch, and its first message that was not taken.
    pub fn rest(&self) -> (&MessageBatch, usize) {
        (&self.rest.batch, self.next)
    }

    /// Takes the next `count` messages.
    pub fn take(&mut self, count: usize) {
        self.bytes += self.rest.batch.byte_len_of(self.next, count);
        self.next += count;
    }

    /// Bytes taken so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let out = self.next - self.rest.next;
        let landing = Landing { rest: &self.rest, ticket: self.ticket, out, bytes: self.bytes, flushed: self.flushed };
        self.lane.clone().land(&landing);
    }
}
