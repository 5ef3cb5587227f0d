//! The sinks of the rule option deadLetter: they get each message that failed, with the error, the operator and the
//! time.
//!
//! A failed message becomes a row of four columns, and each row is a separate result. They are sent together with the
//! rule's results of the same batch.

use std::sync::Arc;
use std::time::SystemTime;

use crate::format::sink_format::{Batcher, Made, SinkFormat};
use crate::io::queue::{MessageBatch, Outlet, RowOutlet};
use crate::metrics::Place;
use crate::value::{Row, Text, Value};

/// The most rows that wait for the end of the batch.
const WAITING: usize = 512;

/// The sinks of one form.
pub struct Letterbox {
    /// the format of messages
    pub format: Arc<SinkFormat>,
    /// sinks that get messages
    pub outlets: Vec<Arc<dyn Outlet>>,
    /// sinks that get rows
    pub rows: Vec<Arc<dyn RowOutlet>>,
}

pub struct DeadLetters {
    boxes: Vec<(Letterbox, Batcher)>,
    waiting: Vec<Row>,
}

impl DeadLetters {
    /// Sends failed messages to these sinks.
    pub fn new(boxes: impl IntoIterator<Item = Letterbox>) -> Self {
        let with_batcher = |letterbox: Letterbox| {
            let batcher = Batcher::new(letterbox.format.clone());
            (letterbox, batcher)
        };
        DeadLetters { boxes: boxes.into_iter().map(with_batcher).collect(), waiting: Vec::new() }
    }

    /// Whether a sink may be full at times.
    pub fn may_wait(&self) -> bool {
        let waits = |letterbox: &Letterbox| {
            !letterbox.rows.is_empty() || letterbox.outlets.iter().any(|outlet| outlet.may_wait())
        };
        self.boxes.iter().any(|(letterbox, _)| waits(letterbox))
    }

    /// Whether all sinks take more.
    pub fn ready(&self) -> bool {
        let ready = |letterbox: &Letterbox| {
            letterbox.outlets.iter().all(|outlet| outlet.ready()) && letterbox.rows.iter().all(|outlet| outlet.ready())
        };
        self.boxes.iter().all(|(letterbox, _)| ready(letterbox))
    }

    /// Adds a failed message. JSON stays JSON, anything else becomes text.
    pub fn add(&mut self, place: Place, error: &str, message: Option<&str>) {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let is_json =
            |text: &&str| text.starts_with(['{', '[']) && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        let message = match message {
            None => Value::Null,
            Some(text) if is_json(&text) => Value::Json(text.into()),
            Some(text) => Value::Text(text.into()),
        };
        self.waiting.push(vec![
            (Text::const_new("error"), Value::Text(error.into())),
            (Text::const_new("operator"), Value::Text(place.as_str().into())),
            (Text::const_new("time"), Value::Int(i64::try_from(time).unwrap_or(i64::MAX))),
            (Text::const_new("message"), message),
        ]);
        if self.waiting.len() >= WAITING {
            self.hand_over();
        }
    }

    /// Sends the messages that have failed since the last call.
    pub fn hand_over(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let rows = std::mem::take(&mut self.waiting);
        for (letterbox, batcher) in &mut self.boxes {
            let (mut bytes, mut ends, mut targets, mut shaped) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            // A message that this sink's format cannot express has failed already, so this is not reported again.
            let mut take = |made| match made {
                Ok(Made::Rows(rows)) => shaped.extend(rows),
                Ok(Made::Message(message)) => {
                    bytes.extend_from_slice(&message);
                    ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                }
                Ok(Made::For(client, message)) => {
                    bytes.extend_from_slice(&message);
                    ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
                    targets.push(client);
                }
                Err(_) => {}
            };
            for row in &rows {
                batcher.rows(vec![row.clone()], 0, &mut take);
            }
            batcher.flush(&mut take);
            if !shaped.is_empty() {
                letterbox.rows.iter().for_each(|outlet| outlet.send(shaped.clone(), None, &mut |_| {}));
            }
            if !ends.is_empty() {
                let batch = MessageBatch::new(bytes.into(), ends, letterbox.format.is_text(), None);
                let batch = Arc::new(if targets.is_empty() { batch } else { batch.addressed(targets) });
                letterbox.outlets.iter().for_each(|outlet| outlet.send(&batch));
            }
        }
    }
}
