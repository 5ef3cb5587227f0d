//! A source of given rows, which a trial reads instead of its stream.
//!
//! They go into the channel of the stream like messages of a socket, one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::io::LinkStatus;
use crate::io::queue::{Frame, FrameBatch, FrameSender};
use crate::io::source::{OpenSource, SourceSettings};

/// Rows for a stream.
#[derive(Clone, Debug)]
pub struct MockSource {
    /// the messages as JSON
    pub messages: Arc<[Utf8Bytes]>,
    /// time between two messages; a loop waits at least 1 ms
    pub interval: Duration,
    /// start again after the last one
    pub repeat: bool,
}

/// The running source.
pub struct MockReader {
    messages: Arc<AtomicU64>,
    task: JoinHandle<()>,
    since: SystemTime,
}

impl SourceSettings for MockSource {}

impl MockSource {
    /// Sends the first message now and the others at their times.
    pub fn open(self, frames: FrameSender) -> MockReader {
        let messages = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(self.play(frames, messages.clone()));
        MockReader { messages, task, since: SystemTime::now() }
    }

    async fn play(self, frames: FrameSender, count: Arc<AtomicU64>) {
        let interval = if self.repeat { self.interval.max(Duration::from_millis(1)) } else { self.interval };
        loop {
            for message in &*self.messages {
                let batch =
                    FrameBatch { frames: vec![Frame::Text(message.clone())], origin: None, received: Instant::now() };
                if frames.send(batch).await.is_err() {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                if !interval.is_zero() {
                    tokio::time::sleep(interval).await;
                }
            }
            if !self.repeat || self.messages.is_empty() {
                return;
            }
        }
    }
}

impl OpenSource for MockReader {
    fn status(&self) -> LinkStatus {
        LinkStatus { messages: self.messages.load(Ordering::Relaxed), ..LinkStatus::local("mock", self.since) }
    }

    /// Stops sending.
    fn detach(&self) {
        self.task.abort();
    }
}

/// Messages that were not sent yet are dropped.
impl Drop for MockReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}
