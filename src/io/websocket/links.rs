//! Sources and sinks: the links of an endpoint that read and write.
//!
//! A link that is dropped without being closed lets its endpoint go all the same; only nobody waits for it then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::ClientStatus;
use super::client_queue::PeerSink;
use super::endpoint::{Pause, Subscriber};
use super::fan_out::SinkQueue;
use super::lease::Hold;
use super::stored::StoredSink;
use crate::io::queue::Outlet;
use crate::io::{LinkState, LinkStatus};

/// An open source.
pub struct SourceLink {
    hold: Hold,
    subscriber: Arc<Subscriber>,
    /// set by [`SourceLink::begin`]
    begun: AtomicBool,
    /// it is subscribed since it was prepared
    early: bool,
}

impl SourceLink {
    pub(super) fn new(hold: Hold, subscriber: Arc<Subscriber>, early: bool) -> SourceLink {
        SourceLink { hold, subscriber, begun: AtomicBool::new(false), early }
    }

    /// Messages are handed over from now on. Called again, it does nothing.
    pub fn begin(&self) {
        if self.begun.swap(true, Ordering::AcqRel) {
            return;
        }
        self.subscriber.begin();
        if !self.early {
            self.hold.endpoint.subscribe(&self.subscriber);
        }
    }

    /// Nothing is handed over any more but what is under way: see [`SourceLink::handed_over`].
    pub fn detach(&self) {
        self.begun.store(true, Ordering::Release);
        self.hold.endpoint.unsubscribe(&self.subscriber);
    }

    /// Waits until what its endpoint has read is handed over. Never ends while the stream takes nothing.
    pub async fn handed_over(&self) {
        drop(self.hold.endpoint.pause().await);
    }

    /// Waits until what its endpoint has read is handed over, and keeps its sockets from being read until the answer is
    /// dropped.
    pub async fn pause(&self) -> Pause {
        self.hold.endpoint.pause().await
    }

    /// Names the endpoint.
    pub fn endpoint(&self) -> usize {
        Arc::as_ptr(&self.hold.endpoint) as usize
    }

    /// How it stands. What it has dropped came to its endpoint while no rule read it.
    pub fn status(&self) -> LinkStatus {
        LinkStatus {
            messages: self.subscriber.messages.load(Ordering::Relaxed),
            bytes: self.subscriber.bytes.load(Ordering::Relaxed),
            dropped: self.hold.hub.unread(&self.hold.endpoint),
            ..self.hold.status()
        }
    }

    /// Stops reading as [`SourceLink::close`] does, but waits for no peer.
    pub async fn leave(&self) {
        self.detach();
        self.handed_over().await;
        self.hold.release(true).await;
    }

    /// Stops reading: when this returns, what was read has been handed over (so the stream must still be drained, or
    /// have ended). Its clients get a close frame (1001) when nobody uses the endpoint any more. Its counts can be read on.
    pub async fn close(&self) {
        self.leave().await;
        self.hold.goodbye().await;
    }
}

impl Drop for SourceLink {
    fn drop(&mut self) {
        self.detach();
    }
}

/// An open sink.
pub struct SinkLink {
    hold: Hold,
    queue: SinkEnd,
    closed: AtomicBool,
}

/// Where the messages of a sink wait.
pub(super) enum SinkEnd {
    /// in memory, for each client
    Queue(Arc<SinkQueue>),
    /// in a store, for its peer
    Stored(Arc<StoredSink>),
}

impl SinkEnd {
    /// As its endpoint sees it.
    pub fn of_endpoint(&self) -> Arc<dyn PeerSink> {
        match self {
            SinkEnd::Queue(queue) => queue.clone(),
            SinkEnd::Stored(sink) => sink.clone(),
        }
    }
}

impl SinkLink {
    pub(super) fn new(hold: Hold, queue: SinkEnd) -> SinkLink {
        SinkLink { hold, queue, closed: AtomicBool::new(false) }
    }

    /// The way in for results.
    pub fn outlet(&self) -> Arc<dyn Outlet> {
        match &self.queue {
            SinkEnd::Queue(queue) => queue.clone(),
            SinkEnd::Stored(sink) => sink.clone(),
        }
    }

    /// How it stands.
    pub fn status(&self) -> LinkStatus {
        let mut status = self.hold.status();
        match &self.queue {
            SinkEnd::Queue(queue) => {
                status.messages = queue.tally.delivered();
                status.bytes = queue.tally.bytes.load(Ordering::Relaxed);
                status.dropped = queue.tally.lost();
                status.queued = queue.tally.queued();
                status.unproven = queue.tally.unproven.load(Ordering::Acquire);
            }
            SinkEnd::Stored(sink) => sink.describe(&mut status),
        }
        status
    }

    /// Messages that its peers sent while no source shared the endpoint: nobody has read them.
    pub fn unread(&self) -> u64 {
        self.hold.endpoint.unread.load(Ordering::Relaxed)
    }

    /// Its clients, each with what waits for it and what it lost.
    pub fn clients(&self) -> Vec<ClientStatus> {
        match &self.queue {
            SinkEnd::Queue(queue) => queue.clients(),
            SinkEnd::Stored(_) => Vec::new(),
        }
    }

    /// Ends the link if nothing waits, without waiting for a peer.
    pub async fn leave_if_idle(&self) {
        let idle = match &self.queue {
            SinkEnd::Queue(queue) => queue.tally.queued() == 0,
            SinkEnd::Stored(sink) => !sink.is_current() || sink.store().queued() == 0,
        };
        if idle && !self.closed.swap(true, Ordering::AcqRel) {
            self.end().await;
        }
    }

    /// Sends what waits, for up to `flush`, then ends the link: the clients get a close frame (1001) when nobody uses the
    /// endpoint any more. What is kept for a peer stays, unless it is not to outlive the rule. Its counts can be read on.
    pub async fn close(&self, flush: Duration) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        match &self.queue {
            SinkEnd::Queue(queue) => {
                queue.settle();
                queue.tally.drain(tokio::time::Instant::now() + flush).await;
            }
            SinkEnd::Stored(sink) if sink.is_current() => {
                // A peer that is away need not be waited for.
                if self.hold.status().state == LinkState::Connected {
                    sink.store().drained(flush).await;
                }
                if sink.is_current() && sink.store().settings().clean_at_stop {
                    sink.store().clear();
                }
                sink.store().keep().await;
            }
            SinkEnd::Stored(_) => {}
        }
        self.end().await;
        self.hold.goodbye().await;
    }

    async fn end(&self) {
        self.hold.endpoint.remove_sink(&self.queue.of_endpoint());
        self.hold.release(true).await;
    }
}

impl Drop for SinkLink {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Acquire) {
            self.hold.endpoint.remove_sink(&self.queue.of_endpoint());
        }
    }
}
