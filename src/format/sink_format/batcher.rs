//! Makes messages from rows: of each result by itself, or gathered into batches.

use std::sync::Arc;

use super::message::{Give, Made};
use super::{OutputFormat, SinkFormat};
use crate::value::{Row, Text, Value};

/// Makes messages from the rows of a rule's results.
#[derive(Debug)]
pub struct Batcher {
    format: Arc<SinkFormat>,
    /// Rows that wait for a batch.
    gathered: Vec<Row>,
    /// The latest time at which the batch is sent, ms since the epoch.
    due: Option<i64>,
}

/// The most rows that wait if only `lingerInterval` ends a batch.
pub(super) const MAX_GATHERED: usize = 100_000;

impl Batcher {
    pub fn new(format: Arc<SinkFormat>) -> Self {
        Batcher { format, gathered: Vec::new(), due: None }
    }

    /// Takes the rows of a result at `now`. Returns when [`Batcher::tick`] must be called, if a new batch has begun.
    pub fn rows(&mut self, rows: Vec<Row>, now: i64, give: Give<'_>) -> Option<i64> {
        if !self.format.gathers() {
            self.send(rows, give);
            return None;
        }
        let waited = self.due.is_some();
        for row in rows {
            if !(row.is_empty() && self.format.omit_if_empty) {
                self.gathered.push(row);
            }
            let most = if self.format.batch_size > 0 { self.format.batch_size } else { MAX_GATHERED };
            if self.gathered.len() >= most {
                self.flush(give);
            }
        }
        if self.format.linger == 0 || self.gathered.is_empty() || (waited && self.due.is_some()) {
            return None;
        }
        self.due = Some(now.saturating_add(self.format.linger));
        self.due
    }

    /// Sends the batch if it is due.
    pub fn tick(&mut self, now: i64, give: Give<'_>) {
        if self.due.is_some_and(|due| due <= now) {
            self.flush(give);
        }
    }

    pub fn flush(&mut self, give: Give<'_>) {
        self.due = None;
        let rows = std::mem::take(&mut self.gathered);
        if rows.is_empty() {
            return;
        }
        match &self.format.to {
            Some(to) => give(self.format.addressed(list(rows), to)),
            None => self.format.batch(rows, give),
        }
    }

    /// Sends the text of an error. With a template, or for a sink that takes rows, it is sent as the row `{"error":
    /// text}`.
    pub fn error(&mut self, text: &str, give: Give<'_>) {
        let row = vec![(Text::const_new("error"), Value::from(text))];
        if self.format.format == OutputFormat::Rows {
            return give(Ok(Made::Rows(vec![row])));
        }
        if self.format.template.is_none() {
            return give(self.format.packed(text.as_bytes().to_vec()));
        }
        if self.format.send_single { give(self.format.one(row)) } else { give(self.format.many(vec![row])) }
    }

    fn send(&self, rows: Vec<Row>, give: Give<'_>) {
        let format = &self.format;
        if format.send_single || format.to.as_ref().is_some_and(|to| to.each_row) {
            for row in rows {
                if !(row.is_empty() && format.omit_if_empty) {
                    give(match &format.to {
                        Some(to) => format.addressed(Value::object(row), to),
                        None => format.one(row),
                    });
                }
            }
        } else if !(rows.is_empty() || format.omit_if_empty && rows.iter().all(Vec::is_empty)) {
            give(match &format.to {
                Some(to) => format.addressed(list(rows), to),
                None => format.many(rows),
            });
        }
    }
}

fn list(rows: Vec<Row>) -> Value {
    Value::array(rows.into_iter().map(Value::object))
}
