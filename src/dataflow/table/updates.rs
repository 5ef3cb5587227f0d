//! The input of a table: rows from memory topics, or the messages of a file.

use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::definition::stream::{Format, StreamSchema};
use crate::format::schema::{self, Strict};
use crate::io::queue::{Change, Frame, FrameReceiver, Received, RowFrame};
use crate::metrics::RuleMetrics;
use crate::value::json;
use crate::value::key::GroupKey;
use crate::value::{Row, Text, Value};

use super::super::decode::{DecodeError, decode};
use super::entry::{TableRow, key_of, member};
use crate::dataflow::feed::Inbox;

/// The most batches that a table takes before others have a turn.
const BATCHES_A_TURN: usize = 32;

/// The input of a table.
pub(super) struct Updates {
    schema: Rc<StreamSchema>,
    zone: TimeZone,
    pub(super) frames: FrameReceiver,
    metrics: Arc<RuleMetrics>,
    /// The current row by KEY, which the next row with this key replaces.
    pub(super) content: HashMap<GroupKey, TableRow>,
    /// The number of the next row.
    number: u64,
    /// rows that leave when it runs next
    leaving: Vec<TableRow>,
    /// it takes no more rows: memory was short
    closed: bool,
    /// views that follow the rows
    followers: Vec<Weak<Inbox>>,
}

/// Why a table refuses a row.
#[derive(Debug, thiserror::Error)]
enum TableError {
    #[error("table {table}: the row has no {key}, which is the table's KEY")]
    NoKey { table: Text, key: Text },
    #[error("table {table}: {error}")]
    Schema { table: Text, error: schema::SchemaError },
    #[error("table {table}: {error}")]
    Format { table: Text, error: DecodeError },
    #[error("table {table}: cannot parse JSON: {error}")]
    Json { table: Text, error: String },
    #[error("table {table}: a row must be an object, found a {found}")]
    NoObject { table: Text, found: String },
    #[error("table {table}: memory was short, so it was emptied and takes no more rows: create it again")]
    Closed { table: Text },
}

impl Updates {
    pub(super) fn new(
        schema: Rc<StreamSchema>,
        zone: TimeZone,
        frames: FrameReceiver,
        metrics: Arc<RuleMetrics>,
    ) -> Updates {
        let (content, leaving, followers) = Default::default();
        Updates { schema, zone, frames, metrics, content, number: 0, leaving, closed: false, followers }
    }

    /// Takes waiting rows, up to a limit; returns whether there are more.
    pub(super) fn take(&mut self, change: &mut dyn FnMut(TableRow, isize)) -> bool {
        self.followers.retain(|inbox| inbox.strong_count() > 0);
        let followers: Vec<Rc<Inbox>> = self.followers.iter().filter_map(Weak::upgrade).collect();
        let change = &mut |row: TableRow, diff: isize| {
            followers.iter().for_each(|inbox| inbox.push(row.change(diff > 0)));
            change(row, diff);
        };
        self.leaving.drain(..).for_each(|row| change(row, -1));
        // The signal is lowered before the queue is read, so a batch that arrives meanwhile raises it again.
        self.frames.lower();
        for _ in 0..BATCHES_A_TURN {
            let Received::Batch(batch) = self.frames.receive() else { return false };
            for frame in &batch.frames {
                if let Err(error) = self.frame(frame, change) {
                    self.refuse(error);
                }
            }
        }
        true
    }

    /// Drops these rows, which are all that it has, and takes no more.
    pub(super) fn empty(&mut self, rows: Vec<TableRow>) {
        (self.leaving, self.closed) = (rows, true);
        self.content = HashMap::new();
    }

    /// From now on, changes also go to this inbox.
    pub(super) fn follow(&mut self, inbox: &Rc<Inbox>) {
        self.followers.push(Rc::downgrade(inbox));
    }

    fn frame(&mut self, frame: &Frame, change: &mut dyn FnMut(TableRow, isize)) -> Result<(), TableError> {
        if self.closed {
            return Err(TableError::Closed { table: self.name() });
        }
        let bytes = match frame {
            Frame::Row(frame) => {
                self.metrics.row();
                return self.update(frame.clone(), change);
            }
            other => other.bytes(),
        };
        // A message is read completely before any of its rows counts.
        for row in self.rows_of(bytes)? {
            self.metrics.row();
            if let Err(error) = self.update(row, change) {
                self.refuse(error);
            }
        }
        Ok(())
    }

    /// Counts an error. The log has the first one; the status of rules that join the table has the last one.
    fn refuse(&self, error: TableError) {
        if self.metrics.errors() == 0 {
            tracing::warn!("{error}");
        }
        self.metrics.error(error.to_string());
    }

    /// The rows of a message.
    fn rows_of(&self, bytes: &[u8]) -> Result<Vec<Arc<RowFrame>>, TableError> {
        if self.schema.format != Format::Json {
            let rows = decode(&self.schema, bytes, usize::MAX);
            let rows = rows.map_err(|error| TableError::Format { table: self.name(), error })?;
            return Ok(rows.into_iter().map(put).collect());
        }
        let text = std::str::from_utf8(bytes).map_err(|error| self.json(error))?;
        match &json::parse(text).map_err(|error| self.json(error))? {
            Value::Array(elements) => elements.iter().map(|element| self.object(element)).collect(),
            whole => Ok(vec![self.object(whole)?]),
        }
    }

    fn object(&self, value: &Value) -> Result<Arc<RowFrame>, TableError> {
        let Value::Object(members) = value else {
            return Err(TableError::NoObject { table: self.name(), found: value.kind().to_string() });
        };
        Ok(put(members.iter().map(|(name, value)| (name.clone(), value.clone())).collect()))
    }

    fn update(&mut self, frame: Arc<RowFrame>, change: &mut dyn FnMut(TableRow, isize)) -> Result<(), TableError> {
        let Some(column) = self.schema.key.clone() else {
            // Without KEY, every row is new.
            if frame.change == Change::Put {
                let frame = self.typed(frame)?;
                let row = self.row(frame);
                change(row, 1);
            }
            return Ok(());
        };
        let no_key = || TableError::NoKey { table: self.schema.name.clone(), key: column.clone() };
        match frame.change {
            Change::Delete => {
                let value = frame.key.as_ref().or_else(|| member(&frame.row, &column));
                let key = key_of(std::iter::once(value)).ok_or_else(no_key)?;
                if let Some(gone) = self.content.remove(&key) {
                    change(gone, -1);
                }
            }
            Change::Put => {
                let frame = self.typed(frame)?;
                let key = key_of(std::iter::once(member(&frame.row, &column))).ok_or_else(no_key)?;
                let row = self.row(frame);
                if let Some(gone) = self.content.insert(key, row.clone()) {
                    change(gone, -1);
                }
                change(row, 1);
            }
        }
        Ok(())
    }

    fn row(&mut self, frame: Arc<RowFrame>) -> TableRow {
        self.number += 1;
        TableRow { number: self.number, frame }
    }

    /// The row with the table's columns, converted to their types.
    fn typed(&self, frame: Arc<RowFrame>) -> Result<Arc<RowFrame>, TableError> {
        let Some(columns) = &self.schema.columns else { return Ok(frame) };
        let mut row = Row::with_capacity(columns.len());
        for column in columns {
            let name = &column.name.name;
            let strict = || Strict { column: column.clone(), format: self.schema.timestamp_format.clone() };
            let strict = self.schema.strict.then(strict);
            let value = member(&frame.row, name).cloned();
            match schema::accept(name, Some(&column.ty), value, strict.as_ref(), &self.zone) {
                Ok(Value::Absent) => {}
                Ok(value) => row.push((name.clone(), value)),
                Err(error) => return Err(TableError::Schema { table: self.name(), error }),
            }
        }
        Ok(Arc::new(RowFrame { topic: frame.topic.clone(), row, change: frame.change, key: frame.key.clone() }))
    }

    fn name(&self) -> Text {
        self.schema.name.clone()
    }

    fn json(&self, error: impl std::fmt::Display) -> TableError {
        TableError::Json { table: self.name(), error: error.to_string() }
    }
}

/// A row that replaces the one with its key.
fn put(row: Row) -> Arc<RowFrame> {
    Arc::new(RowFrame { topic: Text::default(), row, change: Change::Put, key: None })
}
