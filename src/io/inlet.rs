//! A source whose messages the process itself hands over, one by one: those of a test, or of a recording.
//!
//! An [`Inlet`] stands in place of the source that a statement names. The stream reads from it as from a socket, through
//! the same channel, so that nothing behind the channel knows the difference. Several readers (rules on scan tables,
//! which have a source each) get every message.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::io::queue::{FeedChecks, FrameBatch, FrameSender};
use crate::sync::locked;

/// The way into the streams of one name. Clones share it.
#[derive(Clone, Default)]
pub struct Inlet {
    readers: Arc<Mutex<Vec<(u64, FrameSender)>>>,
    next: Arc<AtomicU64>,
    handed: Arc<AtomicU64>,
    /// what the source that it stands for asks to be checked
    checks: FeedChecks,
}

/// One stream that reads an inlet; dropped or closed, it reads no more.
pub struct InletReader {
    inlet: Inlet,
    id: u64,
}

impl Inlet {
    /// An inlet whose messages are checked as those of the source that it stands for.
    pub fn new(checks: FeedChecks) -> Inlet {
        Inlet { checks, ..Inlet::default() }
    }

    /// What is checked of each message.
    pub fn checks(&self) -> &FeedChecks {
        &self.checks
    }

    /// Hands a batch to every reader, waiting while a queue is full. Returns how many readers took it.
    pub async fn send(&self, batch: FrameBatch) -> usize {
        let readers: Vec<FrameSender> = locked(&self.readers).iter().map(|(_, sender)| sender.clone()).collect();
        let messages = batch.frames.len() as u64;
        let mut taken = 0;
        for reader in readers {
            // A reader that has ended since takes nothing.
            taken += usize::from(reader.send(batch.clone()).await.is_ok());
        }
        if taken > 0 {
            self.handed.fetch_add(messages, Ordering::Relaxed);
        }
        taken
    }

    /// Lets a stream read.
    pub fn open(self, frames: FrameSender) -> InletReader {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        locked(&self.readers).push((id, frames));
        InletReader { inlet: self, id }
    }
}

impl InletReader {
    /// Reads nothing more.
    pub fn close(&self) {
        locked(&self.inlet.readers).retain(|(id, _)| *id != self.id);
    }

    /// Messages that were handed over.
    pub fn messages(&self) -> u64 {
        self.inlet.handed.load(Ordering::Relaxed)
    }
}

impl Drop for InletReader {
    fn drop(&mut self) {
        self.close();
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
        assert_eq!(inlet.send(batch()).await, 2);
        first.close();
        assert_eq!(inlet.send(batch()).await, 1);
        drop(second);
        assert_eq!(inlet.send(batch()).await, 0);
        let count = |reader: &queue::FrameReceiver| {
            std::iter::from_fn(|| matches!(reader.receive(), Received::Batch(_)).then_some(())).count()
        };
        assert_eq!((count(&reads_first), count(&reads_second)), (1, 2));
        assert_eq!(first.messages(), 2);
    }
}
