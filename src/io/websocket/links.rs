//! Sources and sinks: the links of an endpoint that read and write.
//!
//! A link that is dropped without being closed lets its endpoint go all the same; only nobody waits for it then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::ClientStatus;
use super::endpoint::{Pause, Subscriber};
use super::fan_out::SinkQueue;
use super::lease::Hold;
use crate::io::LinkStatus;
use crate::io::queue::Outlet;

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
    queue: Arc<SinkQueue>,
    closed: AtomicBool,
}

impl SinkLink {
    pub(super) fn new(hold: Hold, queue: Arc<SinkQueue>) -> SinkLink {
        SinkLink { hold, queue, closed: AtomicBool::new(false) }
    }

    /// The way in for results.
    pub fn outlet(&self) -> Arc<dyn Outlet> {
        self.queue.clone()
    }

    /// How it stands.
    pub fn status(&self) -> LinkStatus {
        LinkStatus {
            messages: self.queue.tally.delivered(),
            bytes: self.queue.tally.bytes.load(Ordering::Relaxed),
            dropped: self.queue.tally.lost(),
            queued: self.queue.tally.queued(),
            unproven: self.queue.tally.unproven.load(Ordering::Acquire),
            ..self.hold.status()
        }
    }

    /// Messages that its peers sent while no source shared the endpoint: nobody has read them.
    pub fn unread(&self) -> u64 {
        self.hold.endpoint.unread.load(Ordering::Relaxed)
    }

    /// Its clients, each with what waits for it and what it lost.
    pub fn clients(&self) -> Vec<ClientStatus> {
        self.queue.clients()
    }

    /// Ends the link if nothing waits, without waiting for a peer.
    pub async fn leave_if_idle(&self) {
        if self.queue.tally.queued() == 0 && !self.closed.swap(true, Ordering::AcqRel) {
            self.hold.endpoint.remove_sink(&self.queue);
            self.hold.release(true).await;
        }
    }

    /// Sends what waits, for up to `flush`, then ends the link: the clients get a close frame (1001) when nobody uses the
    /// endpoint any more. Its counts can be read on.
    pub async fn close(&self, flush: Duration) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.queue.settle();
        self.queue.tally.drain(tokio::time::Instant::now() + flush).await;
        self.hold.endpoint.remove_sink(&self.queue);
        self.hold.release(true).await;
        self.hold.goodbye().await;
    }
}

impl Drop for SinkLink {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Acquire) {
            self.hold.endpoint.remove_sink(&self.queue);
        }
    }
}
