//! A source whose messages this process delivers itself, for tests and recordings.
//!
//! An [`Inlet`] replaces the source that a statement names. The stream reads from it through the same channel as from a
//! socket, so the rest of the engine sees no difference. If there are several readers (each rule on a scan table has
//! its own), each gets every message.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use futures_util::future::{self, BoxFuture};

use crate::io::LinkStatus;
use crate::io::queue::{FeedChecks, FrameBatch, FrameSender};
use crate::io::source::{OpenSource, SourceSettings};
use crate::sync::locked;

/// The input for the streams of one name. Clones share it.
#[derive(Clone, Default)]
pub struct Inlet {
    readers: Arc<Mutex<Vec<(u64, FrameSender)>>>,
    next: Arc<AtomicU64>,
    handed: Arc<AtomicU64>,
    /// the checks of the replaced source
    checks: FeedChecks,
}

/// A stream that reads an inlet, until this is closed or dropped.
pub struct InletReader {
    inlet: Inlet,
    id: u64,
    /// set until it begins
    frames: Mutex<Option<FrameSender>>,
    since: SystemTime,
}

impl SourceSettings for Inlet {
    fn checks(&self) -> FeedChecks {
        self.checks.clone()
    }

    fn is_local(&self) -> bool {
        true
    }
}

impl Inlet {
    /// An inlet whose messages are checked like those of the replaced source.
    pub fn new(checks: FeedChecks) -> Inlet {
        Inlet { checks, ..Inlet::default() }
    }

    /// Sends a batch to every reader, and waits while a queue is full. Returns the number of readers that got it.
    pub async fn send(&self, batch: FrameBatch) -> usize {
        let readers: Vec<FrameSender> = locked(&self.readers).iter().map(|(_, sender)| sender.clone()).collect();
        let messages = batch.frames.len() as u64;
        let mut taken = 0;
        for reader in readers {
            // An ended reader gets nothing.
            taken += usize::from(reader.send(batch.clone()).await.is_ok());
        }
        if taken > 0 {
            self.handed.fetch_add(messages, Ordering::Relaxed);
        }
        taken
    }

    /// A stream that reads it, once it begins.
    pub fn open(self, frames: FrameSender) -> InletReader {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        InletReader { inlet: self, id, frames: Mutex::new(Some(frames)), since: SystemTime::now() }
    }
}

impl OpenSource for InletReader {
    fn status(&self) -> LinkStatus {
        LinkStatus { messages: self.inlet.handed.load(Ordering::Relaxed), ..LinkStatus::new("inlet", self.since) }
    }

    fn begin(&self) -> BoxFuture<'_, ()> {
        if let Some(frames) = locked(&self.frames).take() {
            locked(&self.inlet.readers).push((self.id, frames));
        }
        Box::pin(future::ready(()))
    }

    fn detach(&self) {
        locked(&self.frames).take();
        locked(&self.inlet.readers).retain(|(id, _)| *id != self.id);
    }
}

impl Drop for InletReader {
    fn drop(&mut self) {
        self.detach();
    }
}

impl fmt::Debug for Inlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Inlet")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::io::queue::{self, Frame, Received, Signal};

    #[tokio::test]
    async fn every_reader_gets_every_message_until_it_closes() {
        let inlet = Inlet::default();
        let queue = || queue::inbound(Signal::new(0, crossbeam_channel::unbounded().0, Arc::default()));
        let ((first, reads_first), (second, reads_second)) = (queue(), queue());
        let (first, second) = (inlet.clone().open(first), inlet.clone().open(second));
        let batch = || FrameBatch { frames: vec![Frame::Text("{}".into())], origin: None, received: Instant::now() };
        assert_eq!(inlet.send(batch()).await, 0, "none has begun");
        futures_util::join!(first.begin(), second.begin());
        assert_eq!(inlet.send(batch()).await, 2);
        first.detach();
        assert_eq!(inlet.send(batch()).await, 1);
        drop(second);
        assert_eq!(inlet.send(batch()).await, 0);
        let count = |reader: &queue::FrameReceiver| {
            std::iter::from_fn(|| matches!(reader.receive(), Received::Batch(_)).then_some(())).count()
        };
        assert_eq!((count(&reads_first), count(&reads_second)), (1, 2));
        assert_eq!(first.status().messages, 2);
    }
}
