//! A source at an endpoint, which receives the messages of its sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::io::queue::FrameBatch;
use crate::io::thread_queues::ThreadQueues;

/// A source's end of an endpoint.
pub(super) struct Subscriber {
    pub queues: ThreadQueues,
    /// false while its rule is starting: messages wait, and the sockets are not read
    begun: watch::Sender<bool>,
    /// number of delivered messages
    pub messages: AtomicU64,
    /// their bytes
    pub bytes: AtomicU64,
}

impl Subscriber {
    /// A source that delivers nothing before [`Subscriber::begin`].
    pub fn new(queues: ThreadQueues) -> Arc<Subscriber> {
        Arc::new(Subscriber {
            queues,
            begun: watch::Sender::new(false),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// Its rule runs: waiting messages are delivered.
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// Whether its rule runs.
    pub fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Waits for [`Subscriber::begin`].
    pub async fn begins(&self) {
        // The sender is part of `self`, so waiting ends only when the source begins.
        let _ = self.begun.subscribe().wait_for(|begun| *begun).await;
    }

    /// Delivers a batch that a socket of this thread has read.
    pub async fn deliver(&self, batch: FrameBatch, bytes: u64, thread: usize) {
        // Counted before delivery, so that whoever sees a result sees its message counted.
        self.messages.fetch_add(batch.frames.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // A stream may have ended before its link was closed.
        let _ = self.queues.of(thread).send(batch).await;
    }
}
