//! Sinks whose messages are stored until the peer is known to have read them.
//!
//! Websockets have no acknowledgements, but a pong can serve as one: a peer that answers a ping has read all messages
//! sent before that ping. Such a pong removes them from the store ([`Peer::prove`]). When a connection ends, unproven
//! messages are sent again on the next one, in order. A peer that loses its connection between reading and its pong
//! gets them twice.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::client_queue::{Peer, PeerSink};
use super::lane::{Flight, Landing, Lane, Proving};
use crate::io::LinkStatus;
use crate::io::batch_queue::Rest;
use crate::io::queue::{MessageBatch, Outlet, Signal};
use crate::io::spool::{Held, Portion, Store, Taken, Wake};
use crate::sync::locked;

/// The most unanswered pings of one lane.
const MARKS: usize = 16;

/// One sink, with the lane of its peer.
pub(super) struct StoredSink {
    store: Arc<Store>,
    /// set until it ends
    held: Mutex<Option<Held>>,
    /// its number in the store
    owner: u64,
    lane: Mutex<Option<Arc<StoredLane>>>,
}

/// Wakes the sink when the store has messages, and its rule when it may continue.
struct StoreWaker {
    sink: Weak<StoredSink>,
    rule: Signal,
}

impl Wake for StoreWaker {
    fn wake(&self) {
        let lane = self.sink.upgrade().and_then(|sink| locked(&sink.lane).clone());
        lane.into_iter().for_each(|lane| lane.list());
    }

    fn relieve(&self) {
        self.rule.raise();
    }
}

impl StoredSink {
    /// A sink without a peer. `rule` is raised when the store becomes ready again.
    pub fn new(held: Held, rule: Signal) -> Arc<StoredSink> {
        let store = Arc::clone(&held);
        Arc::new_cyclic(|this: &Weak<StoredSink>| {
            let owner = store.own(Arc::new(StoreWaker { sink: this.clone(), rule }));
            StoredSink { store, held: Mutex::new(Some(held)), owner, lane: Mutex::default() }
        })
    }

    /// The store of its messages.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Whether no other sink has replaced it.
    pub fn is_current(&self) -> bool {
        self.store.is_owned(self.owner)
    }

    /// Adds the store's counts to its status. Messages that another sink has taken over are counted there.
    pub fn describe(&self, status: &mut LinkStatus) {
        if self.is_current() || self.store.is_free() {
            self.store.describe(status);
        }
    }
}

impl Outlet for StoredSink {
    fn send(&self, batch: &Arc<MessageBatch>) {
        self.store.push(batch);
    }

    fn ready(&self) -> bool {
        self.store.is_ready()
    }
}

impl PeerSink for StoredSink {
    fn join(self: Arc<Self>, peer: &Arc<Peer>) {
        let lane = Arc::new(StoredLane {
            sink: self.clone(),
            peer: peer.clone(),
            listed: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            marks: Mutex::default(),
            resumes: Mutex::new(None),
            waiting: AtomicBool::new(false),
        });
        if let Some(old) = locked(&self.lane).replace(lane.clone()) {
            old.closed.store(true, Ordering::Release);
        }
        peer.add_proving(&lane);
        lane.reconnects();
    }

    fn retire(&self, peer: &Arc<Peer>) {
        let mut lane = locked(&self.lane);
        if let Some(old) = lane.take_if(|lane| Arc::ptr_eq(&lane.peer, peer)) {
            old.closed.store(true, Ordering::Release);
        }
    }

    /// It uses little memory, and loses nothing when memory is short.
    fn shorten(&self) -> Vec<(usize, Arc<Peer>)> {
        Vec::new()
    }

    fn end(&self) {
        let lane = locked(&self.lane).take();
        if let Some(lane) = lane {
            lane.closed.store(true, Ordering::Release);
            let peer = lane.peer.clone();
            peer.remove(&(lane as Arc<dyn Lane>));
        }
        let held = locked(&self.held).take();
        if let Some(held) = held {
            held.disown(self.owner);
        }
    }
}

/// The messages of the store for its peer.
struct StoredLane {
    sink: Arc<StoredSink>,
    peer: Arc<Peer>,
    /// whether it is among its peer's waiting lanes
    listed: AtomicBool,
    closed: AtomicBool,
    /// pings, each with what it proves
    marks: Mutex<VecDeque<(u64, Taken)>>,
    /// when the next message may be repeated
    resumes: Mutex<Option<Instant>>,
    /// whether a timer will list it then
    waiting: AtomicBool,
}

impl StoredLane {
    /// Adds it to its peer's waiting lanes.
    fn list(self: Arc<Self>) {
        if !self.listed.swap(true, Ordering::AcqRel) {
            let peer = self.peer.clone();
            peer.list(self);
        }
    }

    fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Acquire) && self.sink.is_current()
    }

    /// Whether late messages must wait; then the lane is listed again in time.
    fn pauses(self: &Arc<Self>, pause: Duration) -> bool {
        if pause.is_zero() {
            return false;
        }
        let Some(left) = locked(&self.resumes).map(|at| at.saturating_duration_since(Instant::now())) else {
            return false;
        };
        if left.is_zero() {
            return false;
        }
        if !self.waiting.swap(true, Ordering::AcqRel) {
            let lane = Arc::downgrade(self);
            tokio::spawn(async move {
                tokio::time::sleep(left).await;
                if let Some(lane) = lane.upgrade() {
                    lane.waiting.store(false, Ordering::Release);
                    lane.list();
                }
            });
        }
        true
    }

    fn flight(self: &Arc<Self>, portion: Portion, pause: Duration) -> Flight {
        let Portion { batch, next, number, resent } = portion;
        if !resent || pause.is_zero() {
            return Flight::new(self.clone(), Rest { batch, next }, number);
        }
        // One message at a time.
        let message = batch.message(next);
        let ends = vec![u32::try_from(message.len()).unwrap_or(u32::MAX)];
        let single = Arc::new(MessageBatch::new(message, ends, batch.text, batch.received));
        self.sink.store.back(number + 1);
        *locked(&self.resumes) = Some(Instant::now() + pause);
        Flight::new(self.clone(), Rest { batch: single, next: 0 }, number)
    }
}

impl Lane for StoredLane {
    fn take(self: Arc<Self>) -> (Option<Flight>, bool) {
        // Reset before the store is read, so that messages that arrive meanwhile list it again.
        self.listed.store(false, Ordering::Release);
        let pause = self.sink.store.settings().resend_interval;
        if !self.is_open() {
            return (None, false);
        }
        let Some(portion) = self.sink.store.take(self.pauses(pause)) else { return (None, false) };
        let flight = self.flight(portion, pause);
        let more = self.sink.store.has_more(self.pauses(pause)) && !self.listed.swap(true, Ordering::AcqRel);
        (Some(flight), more)
    }

    fn land(self: Arc<Self>, landing: &Landing<'_>) {
        if !self.is_open() {
            return;
        }
        let store = &self.sink.store;
        if !landing.flushed {
            return store.back(landing.ticket);
        }
        store.sent(landing.bytes);
        if landing.out < landing.rest.len() {
            store.back(landing.ticket + landing.out as u64);
            self.list();
        }
    }

    fn is_empty(&self) -> bool {
        !self.is_open() || self.sink.store.queued() == 0
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

impl Proving for StoredLane {
    fn wants_proof(&self) -> bool {
        self.is_open() && self.sink.store.has_unproven()
    }

    fn probe(&self, number: u64) {
        let mut marks = locked(&self.marks);
        if marks.len() == MARKS {
            marks.pop_back();
        }
        marks.push_back((number, self.sink.store.taken()));
    }

    fn prove(&self, number: u64) {
        let mut marks = locked(&self.marks);
        let mut proven = None;
        while marks.front().is_some_and(|(known, _)| *known <= number) {
            proven = marks.pop_front().map(|(_, taken)| taken);
        }
        drop(marks);
        if let Some(taken) = proven.filter(|_| self.is_open()) {
            self.sink.store.prove(&taken);
        }
    }

    fn reconnects(self: Arc<Self>) {
        locked(&self.marks).clear();
        if self.is_open() {
            self.sink.store.rewind();
            self.list();
        }
    }
}
