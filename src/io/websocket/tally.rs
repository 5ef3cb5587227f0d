//! The limits and counts of a sink, shared by all of its clients' lanes.
//!
//! What changes with each batch of a client is counted for each data thread, apart in memory: otherwise each batch that one
//! thread sends would take the counts, and the limits beside them, out of the other threads' caches.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::config::{QueueLimit, SlowClient};
use crate::io::queue::Signal;
use crate::io::{NO_CLIENT, UNSENT};

/// Why messages were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// a lane was full
    Slow,
    /// no client was connected
    NoClient,
    /// the client left before it received them
    Left,
    /// the connection broke while they were being sent
    Broken,
    /// they were addressed to a client that is not connected
    Unknown,
    /// the sink ended before they were sent
    Unsent,
    /// memory was short: their queue was shortened, or their client disconnected
    Memory,
}

impl Loss {
    const ALL: [(Loss, &str); 7] = [
        (Loss::Slow, "slow client"),
        (Loss::NoClient, NO_CLIENT),
        (Loss::Left, "client left"),
        (Loss::Broken, "connection broke"),
        (Loss::Unknown, "unknown client"),
        (Loss::Unsent, UNSENT),
        (Loss::Memory, "memory is short"),
    ];
}

pub(super) struct Tally {
    /// the limit of each lane
    pub limit: QueueLimit,
    /// what to do when a lane is full
    pub policy: SlowClient,
    signal: Signal,
    /// the number of lanes over the limit, with policy `block`
    over: AtomicUsize,
    /// by data thread
    counts: Box<[Counts]>,
    /// notified when nothing waits any more on a thread
    drained: Notify,
    /// flushed messages that a broken connection may have lost
    lost_unproven: AtomicU64,
    lost: [AtomicU64; Loss::ALL.len()],
    /// the place of its lanes among those that go first; 0: they take turns with others
    place: AtomicU64,
    ended: AtomicBool,
}

/// The counts of the clients on one data thread. Two cache lines, since processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Counts {
    /// messages in all lanes, and on the way to them
    queued: AtomicUsize,
    /// messages flushed to clients
    messages: AtomicU64,
    /// their bytes
    bytes: AtomicU64,
    /// those of them that no pong has proven to be read
    unproven: AtomicU64,
}

impl Tally {
    /// The tally of a sink without clients, which will be on so many threads. `signal` is raised when the sink becomes
    /// ready again.
    pub fn new(limit: QueueLimit, policy: SlowClient, signal: Signal, threads: usize) -> Tally {
        Tally {
            limit,
            policy,
            signal,
            over: AtomicUsize::new(0),
            counts: (0..threads.max(1)).map(|_| Counts::default()).collect(),
            drained: Notify::new(),
            lost_unproven: AtomicU64::new(0),
            lost: Default::default(),
            place: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    /// Puts its lanes before all others, behind those that were put there earlier. Returns false if they are there
    /// already.
    pub fn go_first(&self) -> bool {
        static PLACES: AtomicU64 = AtomicU64::new(1);
        let place = PLACES.fetch_add(1, Ordering::Relaxed);
        self.place.compare_exchange(0, place, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The place of its lanes, if they go first.
    pub fn place(&self) -> Option<u64> {
        Some(self.place.load(Ordering::Acquire)).filter(|place| *place > 0)
    }

    /// Whether no lane blocks the engine.
    pub fn is_ready(&self) -> bool {
        self.over.load(Ordering::Acquire) == 0
    }

    /// Records that a lane over the limit blocks the engine.
    pub fn holds_up(&self) {
        self.over.fetch_add(1, Ordering::AcqRel);
    }

    /// Records that a lane no longer blocks the engine.
    pub fn lets_go(&self) {
        if self.over.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.signal.raise();
        }
    }

    /// The number of messages that wait for clients.
    pub fn queued(&self) -> usize {
        self.counts.iter().map(|counts| counts.queued.load(Ordering::Acquire)).sum()
    }

    /// The counts of the clients on a thread.
    fn on(&self, thread: usize) -> &Counts {
        &self.counts[thread % self.counts.len()]
    }

    /// Adds waiting messages of clients on a thread. Must be called before a lane gets them, because its client may write
    /// at once.
    pub fn add(&self, thread: usize, messages: usize) {
        self.on(thread).queued.fetch_add(messages, Ordering::AcqRel);
    }

    /// Subtracts messages of clients on a thread that no longer wait.
    pub fn remove(&self, thread: usize, messages: usize) {
        if messages > 0 && self.on(thread).queued.fetch_sub(messages, Ordering::AcqRel) == messages {
            self.drained.notify_waiters();
        }
    }

    /// Waits until nothing is queued, at most until `deadline`.
    pub async fn drain(&self, deadline: Instant) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if self.queued() == 0 || tokio::time::timeout_at(deadline, drained).await.is_err() {
                return;
            }
        }
    }

    /// The sink ends: messages lost from now on count as not taken in time.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// This cause, unless the sink has ended.
    pub fn unless_ended(&self, cause: Loss) -> Loss {
        if self.has_ended() { Loss::Unsent } else { cause }
    }

    /// Whether the sink has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Counts flushed messages of clients on a thread, and their bytes.
    pub fn flushed(&self, thread: usize, messages: usize, bytes: usize) {
        let counts = self.on(thread);
        counts.messages.fetch_add(messages as u64, Ordering::AcqRel);
        counts.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The bytes of flushed messages.
    pub fn bytes(&self) -> u64 {
        self.counts.iter().map(|counts| counts.bytes.load(Ordering::Relaxed)).sum()
    }

    /// Adds flushed messages of clients on a thread that no pong has proven to be read.
    pub fn add_unproven(&self, thread: usize, messages: u64) {
        self.on(thread).unproven.fetch_add(messages, Ordering::AcqRel);
    }

    /// Subtracts messages that are proven to be read, or lost.
    pub fn remove_unproven(&self, thread: usize, messages: u64) {
        self.on(thread).unproven.fetch_sub(messages, Ordering::AcqRel);
    }

    /// The flushed messages that no pong has proven to be read.
    pub fn unproven(&self) -> u64 {
        self.counts.iter().map(|counts| counts.unproven.load(Ordering::Acquire)).sum()
    }

    /// The number of delivered messages: flushed to clients, and not lost with a broken connection.
    pub fn delivered(&self) -> u64 {
        let lost = self.lost_unproven.load(Ordering::Acquire);
        let messages: u64 = self.counts.iter().map(|counts| counts.messages.load(Ordering::Acquire)).sum();
        messages.saturating_sub(lost)
    }

    /// Counts flushed messages as lost with their connection.
    pub fn lose_unproven(&self, messages: u64) {
        self.lost_unproven.fetch_add(messages, Ordering::AcqRel);
        self.lost[Loss::Broken as usize].fetch_add(messages, Ordering::Relaxed);
    }

    /// Counts lost messages.
    pub fn lose(&self, cause: Loss, messages: usize) {
        self.lost[cause as usize].fetch_add(messages as u64, Ordering::Relaxed);
    }

    /// Lost messages by cause.
    pub fn lost(&self) -> Vec<(&'static str, u64)> {
        let counts = Loss::ALL.iter().map(|(cause, name)| (*name, self.lost[*cause as usize].load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_sink_is_drained_when_nothing_waits_on_any_thread() {
        let signal = Signal::new(0, crossbeam_channel::unbounded().0, std::sync::Arc::new(Notify::new()));
        let tally = std::sync::Arc::new(Tally::new(QueueLimit::default(), SlowClient::DropOldest, signal, 2));
        tally.add(0, 3);
        tally.add(1, 4);
        let far = Instant::now() + std::time::Duration::from_secs(60);
        let drained = tokio::spawn({
            let tally = tally.clone();
            async move { tally.drain(far).await }
        });
        tokio::task::yield_now().await;
        tally.remove(0, 3);
        tokio::task::yield_now().await;
        assert!(!drained.is_finished() && tally.queued() == 4);
        tally.remove(1, 4);
        drained.await.expect("no panic");
        assert!(tally.queued() == 0 && Instant::now() < far);
        tally.flushed(0, 3, 30);
        tally.flushed(1, 4, 40);
        tally.add_unproven(1, 4);
        assert_eq!((tally.delivered(), tally.bytes(), tally.unproven()), (7, 70, 4));
    }

    #[test]
    fn causes_stand_in_the_order_of_their_counts() {
        for (place, (cause, _)) in Loss::ALL.iter().enumerate() {
            assert_eq!(*cause as usize, place);
        }
    }
}
