//! Sources and sinks: the links of an endpoint that read and write.
//!
//! Dropping a link without closing it also releases its endpoint, but does not wait for the endpoint's end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{self, BoxFuture};

use super::ClientStatus;
use super::client_queue::PeerSink;
use super::fan_out::SinkQueue;
use super::lease::Hold;
use super::stored::StoredSink;
use super::subscriber::Subscriber;
use crate::io::queue::{Outlet, SinkHandle};
use crate::io::sink::OpenSink;
use crate::io::source::{OpenSource, Pause};
use crate::io::{LinkState, LinkStatus};

/// An open source.
pub struct SourceLink {
    hold: Hold,
    subscriber: Arc<Subscriber>,
    /// set by [`SourceLink::begin`]
    begun: AtomicBool,
    /// whether it has been subscribed since it was prepared
    early: bool,
}

impl SourceLink {
    pub(super) fn new(hold: Hold, subscriber: Arc<Subscriber>, early: bool) -> SourceLink {
        SourceLink { hold, subscriber, begun: AtomicBool::new(false), early }
    }

    async fn unlink(&self) {
        self.detach();
        self.handed_over().await;
        self.hold.release(true).await;
    }
}

impl OpenSource for SourceLink {
    fn begin(&self) -> BoxFuture<'_, ()> {
        if !self.begun.swap(true, Ordering::AcqRel) {
            self.subscriber.begin();
            if !self.early {
                self.hold.endpoint.subscribe(&self.subscriber);
            }
        }
        Box::pin(future::ready(()))
    }

    fn detach(&self) {
        self.begun.store(true, Ordering::Release);
        self.hold.endpoint.unsubscribe(&self.subscriber);
    }

    fn handed_over(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { drop(self.hold.endpoint.pause().await) })
    }

    fn pause(&self) -> BoxFuture<'_, Option<Pause>> {
        Box::pin(async { Some(Box::new(self.hold.endpoint.pause().await) as Pause) })
    }

    fn endpoint(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.hold.endpoint) as usize)
    }

    /// Dropped messages arrived at its endpoint while no rule read them.
    fn status(&self) -> LinkStatus {
        LinkStatus {
            messages: self.subscriber.messages.load(Ordering::Relaxed),
            bytes: self.subscriber.bytes.load(Ordering::Relaxed),
            dropped: self.hold.hub.unread(&self.hold.endpoint),
            ..self.hold.status()
        }
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.unlink())
    }

    /// The stream must still be read, or have ended. Clients get a close frame (1001) when nothing uses the endpoint
    /// any more.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.unlink().await;
            self.hold.goodbye().await;
        })
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

/// Where a sink's messages wait.
pub(super) enum SinkEnd {
    /// in memory, for each client
    Queue(Arc<SinkQueue>),
    /// in a store, for its peer
    Stored(Arc<StoredSink>),
}

impl SinkEnd {
    /// The sink as its endpoint sees it.
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

    /// The outlet for results.
    pub fn messages(&self) -> Arc<dyn Outlet> {
        match &self.queue {
            SinkEnd::Queue(queue) => queue.clone(),
            SinkEnd::Stored(sink) => sink.clone(),
        }
    }

    /// Messages that peers sent while no source shared the endpoint.
    pub fn unread(&self) -> u64 {
        self.hold.endpoint.unread.load(Ordering::Relaxed)
    }

    async fn end(&self) {
        self.hold.endpoint.remove_sink(&self.queue.of_endpoint());
        self.hold.release(true).await;
    }
}

impl OpenSink for SinkLink {
    fn outlet(&self) -> SinkHandle {
        SinkHandle::Messages(self.messages())
    }

    fn status(&self) -> LinkStatus {
        let mut status = self.hold.status();
        match &self.queue {
            SinkEnd::Queue(queue) => {
                status.messages = queue.tally.delivered();
                status.bytes = queue.tally.bytes();
                status.dropped = queue.tally.lost();
                status.queued = queue.tally.queued();
                status.unproven = queue.tally.unproven();
            }
            SinkEnd::Stored(sink) => sink.describe(&mut status),
        }
        status
    }

    fn clients(&self) -> Vec<ClientStatus> {
        match &self.queue {
            SinkEnd::Queue(queue) => queue.clients(),
            SinkEnd::Stored(_) => Vec::new(),
        }
    }

    /// The next version of a sink with a store sends to the same store.
    fn go_first(&self) {
        if let SinkEnd::Queue(queue) = &self.queue {
            queue.go_first();
        }
    }

    fn leave_if_idle(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let idle = match &self.queue {
                SinkEnd::Queue(queue) => queue.tally.queued() == 0,
                SinkEnd::Stored(sink) => !sink.is_current() || sink.store().queued() == 0,
            };
            if idle && !self.closed.swap(true, Ordering::AcqRel) {
                self.end().await;
            }
        })
    }

    /// Clients get a close frame (1001) when nothing uses the endpoint any more. Messages stored for a peer stay,
    /// unless they must not outlive the rule.
    fn close(&self, flush: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.closed.swap(true, Ordering::AcqRel) {
                return;
            }
            match &self.queue {
                SinkEnd::Queue(queue) => queue.tally.drain(tokio::time::Instant::now() + flush).await,
                SinkEnd::Stored(sink) if sink.is_current() => {
                    // An unreachable peer need not be waited for.
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
        })
    }
}

impl Drop for SinkLink {
    fn drop(&mut self) {
        if !self.closed.load(Ordering::Acquire) {
            self.hold.endpoint.remove_sink(&self.queue.of_endpoint());
        }
    }
}
