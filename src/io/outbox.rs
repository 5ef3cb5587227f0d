//! The queue of a sink that sends at its own pace (requests, files), with its counts and state.
//!
//! The worker puts batches in and never waits. One sender takes them in order. Beyond the limits, the oldest messages
//! are dropped and counted, except those that the sender holds. With `enableCache`, messages wait in a store instead.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::batch_queue::{BatchQueue, QueueLimit, Rest};
use super::queue::{MessageBatch, Outlet, Signal};
use super::spool::{Held, Portion, Store, Wake};
use super::{LinkHistory, LinkState, LinkStatus, UNSENT, printable};
use crate::format::address::Address;
use crate::sync::locked;

/// The cause of messages dropped beyond the limits.
pub const FULL: &str = "queue full";

pub struct Outbox {
    limit: QueueLimit,
    state: Mutex<State>,
    /// the store of messages, and this outbox's number there
    store: Option<(Arc<Store>, u64)>,
    /// the store, until the sink ends
    held: Mutex<Option<Held>>,
    /// wakes a sender that is a task
    more: Notify,
    /// wakes a sender that is a thread
    arrived: Condvar,
    drained: Notify,
    messages: AtomicU64,
    bytes: AtomicU64,
    /// lost messages since the last one that was sent
    undelivered: AtomicU64,
    health: Mutex<Health>,
}

#[derive(Default)]
struct State {
    queue: BatchQueue,
    /// messages that the sender holds apart from their batches
    apart: usize,
    /// whether no more messages are accepted
    closed: bool,
}

impl State {
    fn waiting(&self) -> usize {
        self.queue.messages() + self.apart
    }
}

/// The state of the other end, and the lost messages.
struct Health {
    state: LinkState,
    since: SystemTime,
    last_error: Option<(SystemTime, String)>,
    history: LinkHistory,
    dropped: Vec<(&'static str, u64)>,
}

impl Outbox {
    /// An empty outbox. Until something is sent, it counts as connected.
    pub fn new(limit: QueueLimit) -> Arc<Outbox> {
        Arc::new(Outbox::over(limit, None))
    }

    /// An outbox whose messages are stored.
    pub(super) fn stored(held: Held, signal: Signal) -> Arc<Outbox> {
        let store = Arc::clone(&held);
        Arc::new_cyclic(|this: &Weak<Outbox>| {
            let owner = store.own(Arc::new(StoreWaker { outbox: this.clone(), signal }));
            let outbox = Outbox::over(QueueLimit::default(), Some((store, owner)));
            *locked(&outbox.held) = Some(held);
            outbox
        })
    }

    fn over(limit: QueueLimit, store: Option<(Arc<Store>, u64)>) -> Outbox {
        let health = Health {
            state: LinkState::Connected,
            since: SystemTime::now(),
            last_error: None,
            history: LinkHistory::default(),
            dropped: Vec::new(),
        };
        Outbox {
            limit,
            state: Mutex::default(),
            store,
            held: Mutex::default(),
            more: Notify::new(),
            arrived: Condvar::new(),
            drained: Notify::new(),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            undelivered: AtomicU64::new(0),
            health: Mutex::new(health),
        }
    }

    /// The store, if this outbox may take messages from it.
    fn own_store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref().filter(|(store, owner)| store.is_owned(*owner)).map(|(store, _)| store)
    }

    /// Takes the oldest batch, when there is one; `None` when the outbox is closed and empty.
    pub async fn next(self: &Arc<Self>) -> Option<Taken> {
        loop {
            let more = self.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            let closed = {
                let mut state = locked(&self.state);
                if let Some(rest) = state.queue.take_up_to(self.portion()) {
                    return Some(self.taken(rest, None));
                }
                state.closed
            };
            if let Some(store) = self.own_store() {
                if let Some(Portion { batch, next, number, resent }) = store.take(false) {
                    return Some(self.taken(Rest { batch, next }, Some((number, resent))));
                }
                // Messages may still be coming from the disk.
                if closed && store.queued() == 0 {
                    return None;
                }
            } else if closed {
                return None;
            }
            more.await;
        }
    }

    /// The same for a thread; waits at most `limit`.
    pub fn wait(self: &Arc<Self>, limit: Duration) -> Waited {
        let state = locked(&self.state);
        let idle = |state: &mut State| state.queue.is_empty() && !state.closed;
        let waited = self.arrived.wait_timeout_while(state, limit, idle);
        let (mut state, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        match state.queue.take_up_to(self.portion()) {
            Some(rest) => Waited::Batch(self.taken(rest, None)),
            None if state.closed => Waited::Ended,
            None => Waited::Nothing,
        }
    }

    /// The most messages that the sender gets at a time. Messages that it holds are not dropped, and count towards the
    /// limit.
    pub fn portion(&self) -> usize {
        (self.limit.messages / 8).clamp(1, 1024)
    }

    fn taken(self: &Arc<Self>, rest: Rest, kept: Option<(u64, bool)>) -> Taken {
        Taken { outbox: self.clone(), rest, done: AtomicUsize::new(0), apart: AtomicUsize::new(0), kept }
    }

    /// Accepts no more messages.
    pub fn close(&self) {
        locked(&self.state).closed = true;
        self.more.notify_waiters();
        self.arrived.notify_all();
    }

    /// Drops and counts waiting messages. Stored messages stay, except with `cleanCacheAtStop`.
    pub fn clear(&self) {
        let lost = locked(&self.state).queue.clear();
        self.lose(UNSENT, lost);
        self.drained.notify_waiters();
        if let Some(store) = self.own_store()
            && store.settings().clean_at_stop
        {
            store.clear();
        }
    }

    /// Ends the sink. When this returns, stored messages are on disk.
    pub(super) async fn release(&self) {
        if let Some((store, owner)) = &self.store {
            store.keep().await;
            let held = locked(&self.held).take();
            if let Some(held) = held {
                held.disown(*owner);
            }
        }
    }

    /// Waits until nothing waits and the sender holds nothing, at most until `deadline`.
    pub async fn drain(&self, deadline: Instant) {
        if let Some(store) = self.own_store() {
            // Stored messages need not wait for an unreachable server.
            if locked(&self.health).state == LinkState::Connected {
                store.drained(deadline.saturating_duration_since(Instant::now())).await;
            }
            return;
        }
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if self.queued() == 0 || tokio::time::timeout_at(deadline, drained).await.is_err() {
                return;
            }
        }
    }

    /// The number of messages that wait, including those that the sender holds.
    pub fn queued(&self) -> usize {
        locked(&self.state).waiting()
    }

    /// Counts a message that was sent; `kept` is its number if it is stored.
    fn count_sent(&self, kept: Option<u64>, bytes: usize) {
        self.undelivered.store(0, Ordering::Relaxed);
        match (kept, &self.store) {
            (Some(number), Some((store, _))) => {
                store.sent(bytes);
                store.finish(number, 1, 1);
            }
            _ => {
                self.messages.fetch_add(1, Ordering::Relaxed);
                self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            }
        }
    }

    /// Counts a message that is lost for this reason.
    fn count_lost(&self, kept: Option<u64>, cause: &'static str) {
        self.undelivered.fetch_add(1, Ordering::Relaxed);
        self.lose(cause, 1);
        if let (Some(number), Some((store, _))) = (kept, &self.store) {
            store.finish(number, 1, 0);
        }
    }

    /// Counts lost messages.
    pub fn lose(&self, cause: &'static str, messages: usize) {
        if messages == 0 {
            return;
        }
        let dropped = &mut locked(&self.health).dropped;
        match dropped.iter_mut().find(|(known, _)| *known == cause) {
            Some((_, count)) => *count += messages as u64,
            None => dropped.push((cause, messages as u64)),
        }
    }

    /// Records that the other end accepts messages.
    pub fn works(&self) {
        let mut health = locked(&self.health);
        let was_away = health.state != LinkState::Connected;
        if was_away || health.history.connected.is_none() {
            let now = SystemTime::now();
            health.history.connects(now);
            (health.state, health.since) = (LinkState::Connected, now);
        }
        drop(health);
        if let Some(store) = self.own_store().filter(|_| was_away) {
            store.turn();
        }
    }

    /// Records an error; `away`: the other end accepts nothing at the moment.
    pub fn fails(&self, error: &str, away: bool) {
        let now = SystemTime::now();
        let mut health = locked(&self.health);
        // The text may contain data from the other end, which must not control a terminal.
        health.last_error = Some((now, printable(error).into_owned()));
        health.history.failures += 1;
        if away && health.state == LinkState::Connected {
            health.history.disconnects(now);
            (health.state, health.since) = (LinkState::Connecting, now);
        }
    }

    /// The status at this address.
    pub fn status(&self, address: String) -> LinkStatus {
        let health = locked(&self.health);
        let mut status = LinkStatus {
            state: health.state,
            peers: usize::from(health.state == LinkState::Connected),
            last_error: health.last_error.clone(),
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            dropped: health.dropped.clone(),
            undelivered: self.undelivered.load(Ordering::Relaxed),
            queued: self.queued(),
            history: health.history,
            ..LinkStatus::new(address, health.since)
        };
        drop(health);
        // Messages that another sink has taken over are counted there.
        if let Some((store, owner)) = &self.store
            && (store.is_owned(*owner) || store.is_free())
        {
            store.describe(&mut status);
        }
        status
    }
}

/// Wakes the outbox when the store has something to send, and the rule when it may continue.
struct StoreWaker {
    outbox: Weak<Outbox>,
    signal: Signal,
}

impl Wake for StoreWaker {
    fn wake(&self) {
        if let Some(outbox) = self.outbox.upgrade() {
            outbox.more.notify_one();
        }
    }

    fn relieve(&self) {
        self.signal.raise();
    }
}

impl Outlet for Outbox {
    fn send(&self, batch: &Arc<MessageBatch>) {
        if batch.is_empty() {
            return;
        }
        if let Some((store, _)) = &self.store {
            return store.push(batch);
        }
        let mut state = locked(&self.state);
        if state.closed {
            drop(state);
            return self.lose(UNSENT, batch.len());
        }
        state.queue.push(batch);
        let lost = if state.queue.exceeds(self.limit) { state.queue.drop_oldest(self.limit) } else { 0 };
        drop(state);
        self.lose(FULL, lost);
        self.more.notify_one();
        self.arrived.notify_one();
    }

    fn ready(&self) -> bool {
        self.store.as_ref().is_none_or(|(store, _)| store.is_ready())
    }

    fn may_wait(&self) -> bool {
        self.store.is_some()
    }
}

/// The result of [`Outbox::wait`].
pub enum Waited {
    /// the oldest batch
    Batch(Taken),
    /// nothing at the moment
    Nothing,
    /// nothing, and there will be no more
    Ended,
}

/// A batch that the sender holds. Messages that are neither sent nor counted when it is dropped are counted as lost.
pub struct Taken {
    outbox: Arc<Outbox>,
    rest: Rest,
    /// messages that are sent or counted as lost
    done: AtomicUsize,
    /// messages that the sender holds apart
    apart: AtomicUsize,
    /// for stored messages: the number of the first one, and whether they were stored before the connection began
    kept: Option<(u64, bool)>,
}

impl Taken {
    pub fn len(&self) -> usize {
        self.rest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The message at `index`, with its address if it has one.
    ///
    /// # Panics
    /// If there is no such message.
    pub fn message(&self, index: usize) -> (Bytes, Option<&Address>) {
        let index = self.rest.next + index;
        (self.rest.batch.message(index), self.rest.batch.address(index))
    }

    /// The pause before each message (`resendInterval`).
    pub fn pause(&self) -> Duration {
        match (self.kept, &self.outbox.store) {
            (Some((_, true)), Some((store, _))) => store.settings().resend_interval,
            _ => Duration::ZERO,
        }
    }

    /// Keeps the message at `index` after the batch is dropped, for as long as the sender needs it. It no longer counts
    /// towards the limit of the outbox: the sender limits what it holds.
    pub fn hold(&self, index: usize) -> Single {
        if self.kept.is_none() {
            self.apart.fetch_add(1, Ordering::Relaxed);
            let mut state = locked(&self.outbox.state);
            state.queue.parts_with_one();
            state.apart += 1;
        }
        let kept = self.number(index);
        Single { outbox: self.outbox.clone(), bytes: self.message(index).0.len(), kept, is_done: false }
    }

    /// Records that the message at `index` was sent, with this number of bytes.
    pub fn sent(&self, index: usize, bytes: usize) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.outbox.count_sent(self.number(index), bytes);
    }

    /// Records that the message at `index` is lost for this reason.
    pub fn lost(&self, index: usize, cause: &'static str) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.outbox.count_lost(self.number(index), cause);
    }

    /// The number of the message at `index`, if it is stored.
    fn number(&self, index: usize) -> Option<u64> {
        self.kept.map(|(first, _)| first + index as u64)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        // Stored messages are not lost.
        if self.kept.is_some() {
            return;
        }
        let (done, apart) = (self.done.load(Ordering::Relaxed), self.apart.load(Ordering::Relaxed));
        let rest = Rest { next: self.rest.next + apart, ..self.rest.clone() };
        let mut state = locked(&self.outbox.state);
        let lost = state.queue.settle(rest, done, false);
        let empty = state.waiting() == 0;
        drop(state);
        self.outbox.lose(UNSENT, lost);
        if empty {
            self.outbox.drained.notify_waiters();
        }
    }
}

/// A message that the sender holds. It is counted as lost if it is dropped before it is sent or counted.
pub struct Single {
    outbox: Arc<Outbox>,
    /// its length
    bytes: usize,
    /// the number of a stored message
    kept: Option<u64>,
    is_done: bool,
}

impl Single {
    /// Records that it was sent.
    pub fn sent(mut self) {
        self.is_done = true;
        self.outbox.count_sent(self.kept, self.bytes);
    }

    /// Records that it is lost for this reason.
    pub fn lost(mut self, cause: &'static str) {
        self.is_done = true;
        self.outbox.count_lost(self.kept, cause);
    }
}

impl Drop for Single {
    fn drop(&mut self) {
        // Stored messages are not lost.
        if self.kept.is_some() {
            return;
        }
        let mut state = locked(&self.outbox.state);
        state.apart -= 1;
        let empty = state.waiting() == 0;
        drop(state);
        if !self.is_done {
            self.outbox.lose(UNSENT, 1);
        }
        if empty {
            self.outbox.drained.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(text: &'static str) -> Arc<MessageBatch> {
        let ends = (1..=text.len() as u32).collect();
        Arc::new(MessageBatch::new(Bytes::from_static(text.as_bytes()), ends, true, None))
    }

    fn outbox(messages: usize) -> Arc<Outbox> {
        Outbox::new(QueueLimit { messages, bytes: 1 << 20 })
    }

    #[tokio::test]
    async fn messages_are_sent_lost_or_left() {
        let outbox = outbox(4);
        outbox.send(&batch("abc"));
        let taken = outbox.next().await.expect("a part of the batch");
        outbox.send(&batch("def"));
        // Of six messages, two exceed the limit; the sender's stay.
        assert_eq!((taken.len(), outbox.queued()), (1, 4));
        taken.sent(0, 1);
        drop(taken);
        let taken = outbox.next().await.expect("the second batch");
        assert_eq!(taken.message(0).0, "d");
        taken.lost(0, "refused");
        drop(taken);
        outbox.close();
        let taken = outbox.next().await.expect("more of the second batch");
        taken.sent(0, 1);
        drop(taken);
        drop(outbox.next().await.expect("the last message"));
        assert!(outbox.next().await.is_none());
        outbox.send(&batch("g"));
        let status = outbox.status("x".to_owned());
        assert_eq!((status.messages, status.bytes, status.queued), (2, 2, 0));
        assert_eq!(status.dropped, [(FULL, 2), ("refused", 1), (UNSENT, 2)]);
    }

    #[tokio::test]
    async fn a_message_that_is_held_for_long_takes_no_room_from_others() {
        // Each batch has four messages, of which one is held.
        let outbox = Outbox::new(QueueLimit { messages: 32, bytes: 10 });
        let mut held = Vec::new();
        for _ in 0..20 {
            outbox.send(&batch("abcd"));
            let taken = outbox.next().await.expect("the batch");
            assert_eq!(taken.len(), 4);
            held.push(taken.hold(0));
            (1..4).for_each(|index| taken.sent(index, 1));
        }
        let status = outbox.status("x".to_owned());
        assert_eq!((status.messages, status.queued, status.dropped.len()), (60, 20, 0));
        held.pop().expect("a message").sent();
        held.pop().expect("a message").lost("refused");
        assert_eq!(outbox.queued(), 18);
        drop(held);
        outbox.drain(Instant::now() + Duration::from_secs(60)).await;
        let status = outbox.status("x".to_owned());
        assert_eq!((status.messages, status.bytes, status.queued), (61, 61, 0));
        assert_eq!(status.dropped, [("refused", 1), (UNSENT, 18)]);
    }

    #[test]
    fn a_thread_waits_for_batches() {
        let outbox = outbox(10);
        assert!(matches!(outbox.wait(Duration::ZERO), Waited::Nothing));
        let sender = outbox.clone();
        let sending = std::thread::spawn(move || sender.send(&batch("a")));
        assert!(matches!(outbox.wait(Duration::from_secs(60)), Waited::Batch(_)));
        sending.join().expect("it ends");
        outbox.close();
        assert!(matches!(outbox.wait(Duration::from_secs(60)), Waited::Ended));
    }

    #[test]
    fn the_other_end_comes_and_goes() {
        let outbox = outbox(1);
        outbox.works();
        outbox.fails("no route\u{1b}", true);
        let status = outbox.status("x".to_owned());
        assert_eq!((status.state, status.peers, status.history.failures), (LinkState::Connecting, 0, 1));
        assert_eq!(status.last_error.map(|(_, text)| text).as_deref(), Some("no route\\u{1b}"));
        outbox.works();
        let history = outbox.status("x".to_owned()).history;
        assert_eq!((history.connects, history.disconnects), (2, 1));
    }
}
