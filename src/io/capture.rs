//! A sink that keeps its messages in this process, for tests and for comparing two runs.
//!
//! It replaces the sink that a rule names, and results are encoded as for that sink. Between two calls of
//! [`Capture::take`] it keeps up to [`KEPT_BYTES`]; further messages are dropped and counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::io::queue::{MessageBatch, Outlet, SinkHandle};
use crate::io::sink::{LocalCounts, OpenSink, SinkSettings};
use crate::io::{LinkStatus, dropped};
use crate::sync::locked;

/// The most bytes that wait to be taken.
pub const KEPT_BYTES: usize = 1 << 30;

/// The messages of one sink.
#[derive(Debug)]
pub struct Capture {
    kept: Mutex<Kept>,
    taken: LocalCounts,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Kept {
    messages: Vec<Bytes>,
    bytes: usize,
}

/// Equal only to itself.
impl PartialEq for Capture {
    fn eq(&self, other: &Capture) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Default for Capture {
    fn default() -> Capture {
        Capture { kept: Mutex::default(), taken: LocalCounts::begin(), dropped: AtomicU64::new(0) }
    }
}

impl Capture {
    /// Takes the messages since the last call, in order.
    pub fn take(&self) -> Vec<Bytes> {
        std::mem::take(&mut *locked(&self.kept)).messages
    }

    /// The number of messages dropped because [`KEPT_BYTES`] were waiting.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl SinkSettings for Arc<Capture> {
    fn kind(&self) -> &'static str {
        ""
    }
}

impl OpenSink for Arc<Capture> {
    fn outlet(&self) -> SinkHandle {
        SinkHandle::Messages(self.clone())
    }

    fn status(&self) -> LinkStatus {
        LinkStatus { dropped: dropped("nobody takes them", &self.dropped), ..self.taken.status("capture") }
    }
}

impl Outlet for Capture {
    fn send(&self, batch: &Arc<MessageBatch>) {
        let mut kept = locked(&self.kept);
        if kept.bytes + batch.byte_len() > KEPT_BYTES {
            self.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
            return;
        }
        self.taken.add(batch);
        kept.bytes += batch.byte_len();
        kept.messages.extend(batch.messages());
    }

    fn may_wait(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_taken_once() {
        let capture = Arc::new(Capture::default());
        let batch = MessageBatch::new(Bytes::from_static(b"abc"), vec![1, 3], true, None);
        capture.send(&Arc::new(batch));
        assert_eq!(capture.take(), [&b"a"[..], b"bc"]);
        assert!(capture.take().is_empty());
        let status = capture.status();
        assert_eq!((status.messages, status.bytes, capture.dropped()), (2, 3, 0));
    }
}
