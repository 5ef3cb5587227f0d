//! A source at an endpoint: where the messages of its sockets go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use crate::io::queue::FrameBatch;
use crate::io::thread_queues::ThreadQueues;

/// A source's end of an endpoint.
pub(super) struct Subscriber {
    pub queues: ThreadQueues,
    /// false while its rule is being started: what comes waits, and the sockets are not read on
    begun: watch::Sender<bool>,
    /// messages handed over
    pub messages: AtomicU64,
    /// their bytes
    pub bytes: AtomicU64,
}

impl Subscriber {
    /// A source that hands nothing over before [`Subscriber::begin`].
    pub fn new(queues: ThreadQueues) -> Arc<Subscriber> {
        Arc::new(Subscriber {
            queues,
            begun: watch::Sender::new(false),
            messages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// Its rule is there: what has waited goes on.
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// Whether its rule is there.
    pub fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Waits for [`Subscriber::begin`].
    pub async fn begins(&self) {
        // The sender lives in `self`, so that waiting ends only by beginning.
        let _ = self.begun.subscribe().wait_for(|begun| *begun).await;
    }

    /// Hands a batch over that a socket of this thread has read.
    pub async fn deliver(&self, batch: FrameBatch, bytes: u64, thread: usize) {
        // Counted before they are handed over: whoever sees a result sees its message counted.
        self.messages.fetch_add(batch.frames.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        // A stream that has ended without closing its link no longer wants them.
        let _ = self.queues.of(thread).send(batch).await;
    }
}
