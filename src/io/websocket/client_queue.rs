//! The queues of clients: one lane for each sink and client, and the sink's policy when a lane is full.
//!
//! A lane refers to the sink's shared batches, so a broadcast costs each client a pointer. `fan_out` puts batches into
//! lanes. The byte limit counts the memory that a lane keeps alive: a batch counts completely until its last message
//! has left. Messages count as waiting until they are flushed to the socket. Messages given to the socket are never
//! sent again; the others are kept for the client role's next connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio_tungstenite::tungstenite::http::HeaderMap;

use super::config::SlowClient;
use super::lane::{Flight, Landing, Lane, Lanes, Proving};
use super::protocol::code;
use super::routes::{self, Segments};
use super::tally::{Loss, Tally};
use super::totals::Totals;
use super::unproven::Unproven;
use super::watch::Heard;
use crate::io::batch_queue::{BatchQueue, QueueLimit};
use crate::io::queue::{MessageBatch, Origin};
use crate::memory::{self, Pressure};
use crate::sync::locked;
use crate::value::Text;

/// The close code and reason with which a client is disconnected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Farewell {
    pub code: u16,
    pub reason: &'static str,
}

/// The other end of a connection. In a client role it outlives connections.
pub(super) struct Peer {
    /// its address
    pub address: String,
    /// identifies it among all peers of this process and of earlier ones
    pub id: Text,
    /// its metadata for rules
    pub origin: Arc<Origin>,
    /// when it last sent something
    pub heard: Heard,
    /// the time at which it was first known
    pub since: SystemTime,
    /// set to disconnect it
    pub farewell: watch::Sender<Option<Farewell>>,
    /// wakes its writer
    pub wake: Notify,
    /// where the ends of its connections are counted
    pub totals: Arc<Totals>,
    /// the data thread of its connections
    pub thread: usize,
    /// messages of `onOpen` that this connection must send before all others; `None` without a connection
    first: Mutex<Option<VecDeque<String>>>,
    /// messages on its connection that it has not proven to have read
    pub unproven: Mutex<Unproven>,
    lanes: Mutex<Lanes>,
    /// whether a lane needs proofs
    proves: AtomicBool,
    /// the number of the last ping
    probed: AtomicU64,
    /// the number of the last ping that was answered, or will not be
    proven: AtomicU64,
}

/// An id that no other peer has had: rules may remember it over restarts.
fn next_id() -> Text {
    static START: OnceLock<u32> = OnceLock::new();
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let start = START.get_or_init(|| fastrand::u32(..));
    Text::from(format!("{start:08x}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)))
}

/// A sink as its endpoint sees it.
pub(super) trait PeerSink: Send + Sync {
    /// Sends `peer` all messages from now on.
    fn join(self: Arc<Self>, peer: &Arc<Peer>);

    /// Sends `peer` only the messages that already wait for it.
    fn retire(&self, peer: &Arc<Peer>);

    /// Disconnects from all peers.
    fn end(&self);

    /// Limits each peer's waiting messages while memory is short. Returns the peers, each with the bytes that still
    /// wait.
    fn shorten(&self) -> Vec<(usize, Arc<Peer>)>;
}

impl Peer {
    /// A connected peer without lanes.
    pub fn new(address: String, totals: Arc<Totals>, thread: usize) -> Arc<Peer> {
        Peer::of_client(address, totals, thread, &Segments::new(), None)
    }

    /// The same for a client of the data server that has requested a path with these headers.
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
            unproven: Mutex::new(Unproven::on_thread(thread)),
            lanes: Mutex::default(),
            proves: AtomicBool::new(false),
            probed: AtomicU64::new(0),
            proven: AtomicU64::new(0),
        })
    }

    /// Disconnects it, unless this was already done.
    pub fn dismiss(&self, code: u16, reason: &'static str) {
        self.farewell.send_if_modified(|farewell| {
            let first = farewell.is_none();
            if first {
                *farewell = Some(Farewell { code, reason });
            }
            first
        });
    }

    /// Also sends these messages, before all waiting ones. Without a connection they are dropped, because the next
    /// connection sends all first messages.
    pub fn say(&self, messages: &[String]) {
        if let Some(first) = &mut *locked(&self.first) {
            first.extend(messages.iter().cloned());
            self.wake.notify_one();
        }
    }

    /// Sets the first messages of a new connection.
    pub fn say_first(&self, messages: Vec<String>) {
        *locked(&self.first) = Some(messages.into());
    }

    /// Records that there is no connection until the next call of [`Peer::say_first`].
    pub fn hang_up(&self) {
        *locked(&self.first) = None;
    }

    /// The next message of `onOpen`.
    pub fn next_first(&self) -> Option<String> {
        locked(&self.first).as_mut()?.pop_front()
    }

    /// The next batch to write, if there is one.
    pub fn next(&self) -> Option<Flight> {
        let mut lanes = locked(&self.lanes);
        loop {
            let lane = lanes.next()?;
            let (flight, more) = lane.clone().take();
            if more {
                lanes.list(lane);
            }
            if flight.is_some() {
                return flight;
            }
        }
    }

    /// Waits until nothing waits for it, at most for `limit`.
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

    /// Adds a lane that needs proofs.
    pub fn add_proving<L: Proving + 'static>(&self, lane: &Arc<L>) {
        let mut lanes = locked(&self.lanes);
        lanes.all.push(lane.clone());
        lanes.proving.push(lane.clone());
        self.proves.store(true, Ordering::Release);
    }

    /// Removes a lane.
    pub fn remove(&self, lane: &Arc<dyn Lane>) {
        let mut lanes = locked(&self.lanes);
        lanes.remove(lane);
        self.proves.store(!lanes.proving.is_empty(), Ordering::Release);
    }

    /// Adds a lane to those with waiting messages, and wakes the writer.
    pub fn list(&self, lane: Arc<dyn Lane>) {
        let mut lanes = locked(&self.lanes);
        if !lanes.left {
            lanes.list(lane);
        }
        drop(lanes);
        self.wake.notify_one();
    }

    /// A lane has got a place before others.
    pub fn move_up(&self, lane: &Arc<dyn Lane>) {
        locked(&self.lanes).move_up(lane);
    }

    /// A connection of a client role begins: unproven messages are sent again.
    pub fn reconnects(&self) {
        self.proven.store(self.probed.load(Ordering::Acquire), Ordering::Release);
        let proving = locked(&self.lanes).proving.clone();
        proving.into_iter().for_each(|lane| lane.reconnects());
    }

    /// Whether messages need a proof that was not requested yet.
    pub fn wants_probe(&self) -> bool {
        self.proves.load(Ordering::Acquire)
            && self.probed.load(Ordering::Acquire) == self.proven.load(Ordering::Acquire)
            && locked(&self.lanes).proving.iter().any(|lane| lane.wants_proof())
    }

    /// The number for a ping that is sent now. Its answer proves that the peer has read everything flushed before.
    pub fn ask(&self) -> u64 {
        let number = locked(&self.unproven).ask();
        // A repeated ping proves the same as the first one.
        if self.probed.fetch_max(number, Ordering::AcqRel) < number {
            locked(&self.lanes).proving.iter().for_each(|lane| lane.probe(number));
        }
        number
    }

    /// A pong with this number arrived.
    pub fn answered(&self, number: u64) {
        let is_due = {
            let mut unproven = locked(&self.unproven);
            unproven.answered(number);
            unproven.is_due()
        };
        if is_due {
            // Many messages were sent in the meantime: the writer sends another ping.
            self.wake.notify_one();
        }
        if number > self.probed.load(Ordering::Acquire) || self.proven.fetch_max(number, Ordering::AcqRel) >= number {
            return;
        }
        if self.proves.load(Ordering::Acquire) {
            let proving = locked(&self.lanes).proving.clone();
            proving.iter().for_each(|lane| lane.prove(number));
            // More may have been sent since: the writer sends another ping.
            self.wake.notify_one();
        }
    }

    /// Drops all waiting messages, because the peer has left.
    pub fn leave(&self) {
        let lanes = std::mem::replace(&mut *locked(&self.lanes), Lanes::left());
        for lane in lanes.all {
            lane.close();
        }
    }
}

/// The messages of one sink that wait for one client.
pub(super) struct ClientQueue {
    sink: Arc<Tally>,
    peer: Arc<Peer>,
    state: Mutex<LaneState>,
    dropped: AtomicU64,
}

#[derive(Default)]
struct LaneState {
    queue: BatchQueue,
    /// whether it is counted in the sink's `over`
    over: bool,
    /// whether it is among its peer's waiting lanes, or about to be
    listed: bool,
    closed: bool,
}

impl ClientQueue {
    /// A lane of a peer, whose sink counts in `sink`. The sink must send to it.
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

    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }

    /// The number of waiting messages.
    pub fn queued(&self) -> usize {
        locked(&self.state).queue.messages()
    }

    /// The number of lost messages.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Takes a batch, which its sink has already counted as waiting.
    pub fn push(self: &Arc<Self>, batch: &Arc<MessageBatch>) {
        let is_short = memory::level() >= Pressure::Queues;
        let limit = if is_short { self.sink.limit.short() } else { self.sink.limit };
        let mut state = locked(&self.state);
        if state.closed {
            // The client has disconnected, and the sink has not noticed yet.
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
                // A lane with a single batch is not late: the client had no chance to read it yet.
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
            // Not while the lane is locked, because a peer locks in the other order.
            self.peer.list(self.clone());
        } else {
            self.peer.wake.notify_one();
        }
    }

    /// Limits its waiting messages while memory is short; returns the bytes that still wait.
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
        self.sink.remove(self.peer.thread, messages);
    }

    /// Its sink has ended: its peer forgets it, and waiting messages are lost.
    pub fn end(&self) {
        locked(&self.peer.lanes).all.retain(|other| !std::ptr::addr_eq(Arc::as_ptr(other), self));
        self.close();
    }

    /// The cause of messages lost when it closes.
    fn cause_of_end(&self) -> Loss {
        let sent_away = self.peer.farewell.borrow().is_some_and(|farewell| farewell.code == code::AGAIN);
        self.sink.unless_ended(if sent_away { Loss::Memory } else { Loss::Left })
    }

    /// Ends the state of being over the limit, if it is over.
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
            sink.flushed(self.peer.thread, out, bytes);
            locked(&self.peer.unproven).add(sink, out as u64);
        }
        let mut state = locked(&self.state);
        let back = !state.closed;
        let lost = state.queue.settle(rest.clone(), out, back);
        let fresh = out < rest.len() && back && !std::mem::replace(&mut state.listed, true);
        // Half the limit, so that a client that reads steadily does not wake the engine for every message.
        let half = QueueLimit { messages: sink.limit.messages / 2, bytes: sink.limit.bytes / 2 };
        if state.over && !state.queue.exceeds(half) {
            self.relieve(&mut state);
        }
        drop(state);
        if fresh {
            self.peer.list(self.clone());
        }
        if lost > 0 {
            self.lose(lost, self.cause_of_end());
        }
        if flushed {
            sink.remove(self.peer.thread, out);
        } else {
            self.lose(out, sink.unless_ended(Loss::Broken));
        }
    }

    fn is_empty(&self) -> bool {
        self.queued() == 0
    }

    fn place(&self) -> Option<u64> {
        self.sink.place()
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
