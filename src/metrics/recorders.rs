//! Recordings: readers that get every message of a stream as it arrived.
//!
//! Unlike a tap, a recorder gets all messages completely. It never slows the stream: messages that its reader does not
//! take in time are lost and counted ([`MessageReader::lost`]). It ends with its reader or with the stream.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use super::StreamMetrics;
use crate::sync::locked;
use crate::value::Value;

/// The most messages, and bytes, that wait for a reader; further ones are lost.
const WAITING: usize = 8192;
const WAITING_BYTES: usize = 16 << 20;

/// The most readers of one stream.
const READERS: usize = 4;

#[derive(Clone, Debug)]
pub struct StreamMessage {
    /// when it arrived, ms since the epoch
    pub at: i64,
    /// whether it is a binary message
    pub binary: bool,
    pub bytes: Vec<u8>,
    /// the metadata of its connection: an object
    pub meta: Option<Value>,
}

/// The readers of a stream's messages, on one data thread.
#[derive(Debug, Default)]
pub struct Recorders {
    any: AtomicBool,
    all: Mutex<Vec<Arc<Recorder>>>,
}

#[derive(Debug)]
struct Recorder {
    messages: mpsc::Sender<StreamMessage>,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
}

/// The receiving end of a recording.
#[derive(Debug)]
pub struct MessageReader {
    messages: mpsc::Receiver<StreamMessage>,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicU64>,
}

/// Starts recording a stream, which may be read on several data threads; `None`: it has too many readers already, or
/// nothing reads it.
pub fn record(streams: &[Arc<StreamMetrics>]) -> Option<MessageReader> {
    let full = |stream: &Arc<StreamMetrics>| locked(&stream.recorders.all).len() >= READERS;
    streams.iter().for_each(|stream| stream.recorders.tidy());
    if streams.is_empty() || streams.iter().any(full) {
        return None;
    }
    let (sender, messages) = mpsc::channel(WAITING);
    let (waiting, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
    let recorder = Arc::new(Recorder { messages: sender, waiting: waiting.clone(), lost: lost.clone() });
    for stream in streams {
        locked(&stream.recorders.all).push(recorder.clone());
        stream.recorders.any.store(true, Ordering::Relaxed);
    }
    Some(MessageReader { messages, waiting, lost })
}

impl MessageReader {
    /// The next message; `None` when the stream is no longer read.
    pub async fn next(&mut self) -> Option<StreamMessage> {
        let message = self.messages.recv().await?;
        self.waiting.fetch_sub(message.bytes.len(), Ordering::Relaxed);
        Some(message)
    }

    /// The number of messages lost so far because they were not taken in time.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Recorders {
    /// Whether there is any reader.
    #[inline]
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Passes a message to all readers.
    pub fn came(&self, at: i64, binary: bool, bytes: &[u8], meta: Option<&Value>) {
        let mut ended = false;
        for recorder in locked(&self.all).iter() {
            ended |= recorder.messages.is_closed();
            if recorder.waiting.load(Ordering::Relaxed).saturating_add(bytes.len()) > WAITING_BYTES {
                recorder.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            recorder.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
            let message = StreamMessage { at, binary, bytes: bytes.to_vec(), meta: meta.cloned() };
            if recorder.messages.try_send(message).is_err() {
                recorder.waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
                recorder.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        if ended {
            self.tidy();
        }
    }

    /// Removes readers that have ended.
    fn tidy(&self) {
        let mut all = locked(&self.all);
        all.retain(|recorder| !recorder.messages.is_closed());
        self.any.store(!all.is_empty(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_are_whole_and_those_that_find_no_room_are_counted() {
        let streams: Vec<Arc<StreamMetrics>> = (0..2).map(|_| Arc::new(StreamMetrics::new("s".into(), 0))).collect();
        assert!(!streams[0].recorders.any());
        let mut reader = record(&streams).expect("there is room");
        streams[0].recorders.came(1, false, b"one", None);
        streams[1].recorders.came(2, true, &[0xff; 10], None);
        let message = |at, binary, bytes: &[u8]| Some((at, binary, bytes.to_vec()));
        let parts = |message: Option<StreamMessage>| message.map(|message| (message.at, message.binary, message.bytes));
        assert_eq!(parts(reader.next().await), message(1, false, b"one"));
        assert_eq!(parts(reader.next().await), message(2, true, &[0xff; 10]));
        let large = vec![b'x'; WAITING_BYTES / 2 + 1];
        (0..3).for_each(|_| streams[0].recorders.came(3, false, &large, None));
        assert_eq!(reader.lost(), 2);
        assert_eq!(parts(reader.next().await), message(3, false, &large));
        streams[0].recorders.came(4, false, &large, None);
        assert_eq!((parts(reader.next().await), reader.lost()), (message(4, false, &large), 2));
        drop(reader);
        streams[0].recorders.came(5, false, b"nobody", None);
        assert!(!streams[0].recorders.any());
    }

    #[tokio::test]
    async fn a_reader_ends_with_the_stream() {
        let streams = vec![Arc::new(StreamMetrics::default())];
        let mut readers: Vec<MessageReader> = (0..READERS).filter_map(|_| record(&streams)).collect();
        assert!(record(&streams).is_none(), "there are readers enough");
        drop(streams);
        assert!(readers[0].next().await.is_none());
        assert!(record(&[]).is_none());
    }
}
