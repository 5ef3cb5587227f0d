//! Messages on their way from a source to a worker, and what their source reports about them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::value::field_path::FieldPath;
use crate::value::{Row, Text, Value};

/// A message as it arrived.
#[derive(Clone, Debug)]
pub enum Frame {
    /// A text message; its UTF-8 is valid.
    Text(Utf8Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A row of another rule, from a memory topic.
    Row(Arc<RowFrame>),
}

impl Frame {
    /// The message's bytes; a row has none.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Frame::Text(text) => text.as_bytes(),
            Frame::Binary(bytes) => bytes,
            Frame::Row(_) => &[],
        }
    }

    /// Whether reading it may take long.
    pub fn is_large(&self) -> bool {
        const LARGE: usize = 64 << 10;
        self.bytes().len() > LARGE
    }
}

/// A row of a rule. Values keep their types, because nothing is encoded between two rules.
#[derive(Clone, Debug, Default)]
pub struct RowFrame {
    /// the topic that it was written to
    pub topic: Text,
    /// its columns
    pub row: Row,
    /// its effect on a table
    pub change: Change,
    /// the value of the writer's keyField, which identifies the row of a table; `None`: the table's KEY does
    pub key: Option<Value>,
}

/// The effect of a row on a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// It becomes the row with its key, whether there was one or not: insert, update and upsert are the same.
    #[default]
    Put,
    /// The row with its key is removed.
    Delete,
}

/// The checks of a source's messages, made before any rule sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedChecks {
    /// `dedupKey`: a message is dropped if its key has occurred before
    pub dedup: Vec<FieldPath>,
    /// `gapKey`: identifies the message's sequence; empty: there is only one sequence
    pub gap_key: Vec<FieldPath>,
    /// `gapSequence`: the message's number in the sequence
    pub gap_sequence: Option<FieldPath>,
    /// `gapWait`: how late a number may come before it counts as missing
    pub gap_wait: Duration,
}

/// The metadata of one connection's messages: the object that `meta(…)` reads.
#[derive(Clone, Debug)]
pub struct Origin {
    pub meta: Value,
}

/// Messages that one socket delivered together, in order.
#[derive(Clone, Debug)]
pub struct FrameBatch {
    /// the messages
    pub frames: Vec<Frame>,
    /// their connection; `None`: unknown
    pub origin: Option<Arc<Origin>>,
    /// when the first of them was read, from which latencies are counted
    pub received: Instant,
}

/// The most messages that a socket task gathers into one batch.
pub const BATCH_FRAMES: usize = 512;

/// A socket task adds no more messages to a batch of this many bytes.
pub const BATCH_BYTES: usize = 256 * 1024;
