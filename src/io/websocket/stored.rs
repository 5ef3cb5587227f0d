//! Sinks whose messages are kept until the peer is known to have them.
//!
//! Websockets have no acknowledgements, but a pong serves as one: when the peer answers a ping, its stack has read all
//! messages that were sent before that ping. Such a pong removes them from the store ([`Peer::prove`]). When a connection
//! ends, unproven messages are sent again on the next one, in order. A peer that lost its connection between reading and
//! its pong gets them twice.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use super::client_queue::{Flight, Landing, Lane, Peer, PeerSink, Proving};
use crate::io::LinkStatus;
use crate::io::batch_queue::Rest;
use crate::io::queue::{MessageBatch, Outlet, Signal};
use crate::io::spool::{Held, Portion, Store, Taken, Wake};
use crate::sync::locked;

/// The most pings of one lane that wait for their answers.
const MARKS: usize = 16;

/// One sink, with the lane of its peer.
pub(super) struct StoredSink {
    store: Arc<Store>,
    /// until it ends
    held: Mutex<Option<Held>>,
    /// names it to the store
    owner: u64,
    lane: Mutex<Option<Arc<StoredLane>>>,
}

/// The store tells a sink that there is something to send, and its rule that it may go on.
struct Bell {
    sink: Weak<StoredSink>,
    rule: Signal,
}

impl Wake for Bell {
    fn wake(&self) {
        let lane = self.sink.upgrade().and_then(|sink| locked(&sink.lane).clone());
        lane.into_iter().for_each(|lane| lane.list());
    }

    fn relieve(&self) {
        self.rule.raise();
    }
}

impl StoredSink {
    /// A sink without a peer. `rule` is raised when a store that was not ready is again.
    pub fn new(held: Held, rule: Signal) -> Arc<StoredSink> {
        let store = Arc::clone(&held);
        Arc::new_cyclic(|this: &Weak<StoredSink>| {
            let owner = store.own(Arc::new(Bell { sink: this.clone(), rule }));
            StoredSink { store, held: Mutex::new(Some(held)), owner, lane: Mutex::default() }
        })
    }

    /// What it keeps.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Whether no other sink has taken its place.
    pub fn is_current(&self) -> bool {
        self.store.is_owned(self.owner)
    }

    /// Adds what the store counts to its status. What another sink has taken over, that one counts.
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

    /// It holds little memory, and loses nothing of it for want of memory.
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

/// What waits for the peer.
struct StoredLane {
    sink: Arc<StoredSink>,
    peer: Arc<Peer>,
    /// it is among the waiting lanes of its peer
    listed: AtomicBool,
    closed: AtomicBool,
    /// pings, each with what it proves
    marks: Mutex<VecDeque<(u64, Taken)>>,
    /// when the next message may be sent again
    resumes: Mutex<Option<Instant>>,
    /// a timer lists it then
    waiting: AtomicBool,
}

impl StoredLane {
    /// Puts it among the waiting lanes of its peer.
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
        // One at a time.
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
        // Before it looks: what comes meanwhile lists it again.
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
