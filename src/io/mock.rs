//! A source of given rows, which a trial reads instead of its stream.
//!
//! They go into the stream's channel like messages of a socket, one at a time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::{self, BoxFuture};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::io::LinkStatus;
use crate::io::queue::{Frame, FrameBatch, FrameSender};
use crate::io::source::{OpenSource, SourceSettings};
use crate::sync::locked;

/// Rows for a stream.
#[derive(Clone, Debug)]
pub struct MockSource {
    /// the messages as JSON
    pub messages: Arc<[Utf8Bytes]>,
    /// time between two messages; a loop waits at least 1 ms
    pub interval: Duration,
    /// whether to start again after the last message
    pub repeat: bool,
}

/// The open source.
pub struct MockReader {
    messages: Arc<AtomicU64>,
    state: Mutex<State>,
    since: SystemTime,
}

enum State {
    Waiting(MockSource, FrameSender),
    Playing(JoinHandle<()>),
    Ended,
}

impl SourceSettings for MockSource {}

impl MockSource {
    /// Opens the source. It sends the first message when it begins, the others at their times.
    pub fn open(self, frames: FrameSender) -> MockReader {
        let state = Mutex::new(State::Waiting(self, frames));
        MockReader { messages: Arc::default(), state, since: SystemTime::now() }
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
        LinkStatus { messages: self.messages.load(Ordering::Relaxed), ..LinkStatus::new("mock", self.since) }
    }

    fn begin(&self) -> BoxFuture<'_, ()> {
        let mut state = locked(&self.state);
        *state = match std::mem::replace(&mut *state, State::Ended) {
            State::Waiting(source, frames) => State::Playing(tokio::spawn(source.play(frames, self.messages.clone()))),
            begun => begun,
        };
        Box::pin(future::ready(()))
    }

    /// Stops sending.
    fn detach(&self) {
        if let State::Playing(task) = std::mem::replace(&mut *locked(&self.state), State::Ended) {
            task.abort();
        }
    }
}

/// Messages that have not been sent are dropped.
impl Drop for MockReader {
    fn drop(&mut self) {
        self.detach();
    }
}
