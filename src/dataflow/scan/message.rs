//! The current message of a stream, with its columns as far as they were read.
//!
//! A value is decoded when it is first read, and kept until the next message, because many rules read the same column.
//! This module knows nothing of rules.

use std::borrow::Cow;

use crate::dataflow::project::shown;
use crate::definition::stream::{Format, JsonArray, StreamSchema};
use crate::format::schema::{self, SchemaError, Strict};
use crate::io::queue::{Origin, RowFrame};
use crate::value::json::{self, ArrayPart, JsonError, RowScanner, Spans};
use crate::value::types::DataType;
use crate::value::{Text, Value};

use super::index::{Columns, Seen};

/// A column that at least one rule of the stream reads.
pub(super) struct StreamColumn {
    pub(super) key: Text,
    pub(super) ty: Option<DataType>,
    /// The scanner's number for it.
    pub(super) wanted: usize,
    /// set with STRICT_VALIDATION
    pub(super) strict: Option<Strict>,
    /// The number of inputs that read it; 0: the slot is free.
    pub(super) readers: usize,
}

/// A column of the current message.
pub(super) enum Cell {
    Unread,
    Read(Value),
    Failed(SchemaError),
}

/// The current message, with its columns as far as they were read.
pub(super) struct Message<'a> {
    pub(super) body: Body<'a>,
    pub(super) columns: &'a [StreamColumn],
    pub(super) cells: &'a mut [Cell],
    /// The connection of the message.
    pub(super) origin: Option<&'a Origin>,
    /// Missing numbers before it, with `gapSequence`.
    pub(super) gap: Option<u64>,
    pub(super) zone: &'a jiff::tz::TimeZone,
}

/// The form of a message.
#[derive(Clone, Copy)]
pub(super) enum Body<'a> {
    /// JSON: the text, the row in it (an object, or an array that no rule reads as a whole), and the positions of its
    /// columns.
    Text { text: &'a str, object: &'a str, spans: &'a Spans },
    /// Decoded.
    Row(&'a RowFrame),
}

impl<'a> Message<'a> {
    /// The value of one of the stream's columns.
    pub(super) fn value(&mut self, column: usize) -> Result<&Value, &SchemaError> {
        if matches!(self.cells[column], Cell::Unread) {
            let StreamColumn { key, ty, wanted, strict, .. } = &self.columns[column];
            let (ty, strict) = (ty.as_ref(), strict.as_ref());
            let value = match self.body {
                Body::Text { text, spans, .. } => {
                    schema::convert(key, ty, spans.span(*wanted).map(|span| &text[span]), strict, self.zone)
                }
                Body::Row(frame) => {
                    let value = frame.row.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
                    schema::accept(key, ty, value, strict, self.zone)
                }
            };
            self.cells[column] = match value {
                Ok(value) => Cell::Read(value),
                Err(error) => Cell::Failed(error),
            };
        }
        match &self.cells[column] {
            Cell::Read(value) => Ok(value),
            Cell::Failed(error) => Err(error),
            Cell::Unread => unreachable!("the cell was read above"),
        }
    }

    /// The JSON text of a column, if the message is text.
    pub(super) fn text(&self, column: usize) -> Option<&'a str> {
        match self.body {
            Body::Text { text, spans, .. } => spans.span(self.columns[column].wanted).map(|span| &text[span]),
            Body::Row(_) => None,
        }
    }

    /// The JSON text of the whole message, if it is text.
    pub(super) fn object(&self) -> Option<&'a str> {
        match self.body {
            Body::Text { object, .. } => Some(object),
            Body::Row(_) => None,
        }
    }

    /// The row as JSON text, for people.
    pub(super) fn shown(&self) -> Cow<'a, str> {
        match self.body {
            Body::Text { object, .. } => Cow::Borrowed(object),
            Body::Row(frame) => Cow::Owned(shown(&frame.row)),
        }
    }

    /// The whole message as a value.
    pub(super) fn whole(&self) -> Value {
        match self.body {
            Body::Text { object, .. } => Value::Json(object.into()),
            Body::Row(frame) => Value::object(frame.row.iter().cloned()),
        }
    }

    /// The result of `meta(*)`: everything except Plutino's own metadata of a connection, which eKuiper does not have.
    pub(super) fn meta_all(&self) -> Value {
        let Value::Object(known) = self.metadata() else { return Value::object([]) };
        let of_connection = |key: &Text| matches!(key.as_str(), "client" | "remote") || key.starts_with("header_");
        let public = known.iter().filter(|(key, _)| !of_connection(key));
        Value::object(public.map(|(key, value)| (key.clone(), value.clone())))
    }

    /// An object with the topic of the message; empty without one.
    fn topic(&self) -> Value {
        match self.body {
            Body::Row(frame) if !frame.topic.is_empty() => {
                Value::object([(Text::const_new("topic"), Value::Text(frame.topic.clone()))])
            }
            _ => Value::object([]),
        }
    }

    /// The metadata of the message: its topic if it came from memory, otherwise those of its connection.
    pub(super) fn metadata(&self) -> Value {
        let known = match (self.body, self.origin) {
            (Body::Text { .. }, Some(origin)) => origin.meta.clone(),
            (Body::Row(frame), Some(origin)) if frame.topic.is_empty() => origin.meta.clone(),
            _ => self.topic(),
        };
        let Some(gap) = self.gap else { return known };
        let members = match &known {
            Value::Object(members) => members.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            _ => Vec::new(),
        };
        let gap = (Text::const_new("gap"), Value::Int(i64::try_from(gap).unwrap_or(i64::MAX)));
        Value::object(members.into_iter().chain([gap]))
    }
}

impl Columns for Message<'_> {
    fn seen(&mut self, column: usize) -> Seen<'_> {
        self.value(column).map_or(Seen::Failed, Seen::Value)
    }
}

/// How STRICT_VALIDATION checks a column.
pub(super) fn strict(schema: &StreamSchema, key: &Text) -> Option<Strict> {
    let column = schema.columns.as_ref()?.iter().find(|column| column.name.name == *key)?.clone();
    Some(Strict { column, format: schema.timestamp_format.clone() })
}

/// The scanner of a stream with JSON_ARRAY="row": each message is an array and one row.
pub(super) struct ArrayRows {
    scanner: RowScanner,
    /// Whether the whole row is wanted as an object.
    whole: bool,
    object: String,
}

impl ArrayRows {
    /// A scanner that looks for no column yet; `None` for other streams.
    pub(super) fn new(schema: &StreamSchema) -> Option<ArrayRows> {
        (schema.json_array == JsonArray::Row && schema.format == Format::Json).then(|| ArrayRows {
            scanner: RowScanner::new([]),
            whole: false,
            object: String::new(),
        })
    }

    /// Sets the wanted columns, and whether the whole row is wanted.
    pub(super) fn look_for<'k>(&mut self, schema: &StreamSchema, keys: impl Iterator<Item = &'k Text>, whole: bool) {
        let part = |key: &Text| match &schema.columns {
            Some(columns) => {
                let position = columns.iter().position(|column| column.name.name == *key);
                position.map_or(ArrayPart::Nothing, ArrayPart::Element)
            }
            None if key == SELF => ArrayPart::Whole,
            None => ArrayPart::Nothing,
        };
        self.scanner = RowScanner::new(keys.map(part));
        self.whole = whole && schema.columns.is_none();
    }

    /// The row of a message.
    ///
    /// # Errors
    /// [`json::Problem::NotArray`] for another shape, and any other error in the text.
    pub(super) fn scan<'a>(&'a mut self, text: &'a str) -> Result<Body<'a>, JsonError> {
        let ArrayRows { scanner, whole, object } = self;
        let (array, spans) = scanner.scan(text)?;
        let row = &text[array];
        if !*whole {
            return Ok(Body::Text { text, object: row, spans });
        }
        object.clear();
        object.push_str("{\"self\":");
        object.push_str(row);
        object.push('}');
        Ok(Body::Text { text, object, spans })
    }
}

/// The column of a stream without declared columns: an array with JSON_ARRAY="row".
pub(super) const SELF: &str = "self";

/// Whether a message cannot be a row of the stream: JSON of another shape, or not JSON at all.
pub(super) fn is_mismatch(error: &JsonError) -> bool {
    matches!(error.problem, json::Problem::NotObject | json::Problem::NotArray)
}
