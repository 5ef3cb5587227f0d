//! A message at hand: how it came, and its columns as far as they were read.
//!
//! A value is made when it is first asked for and kept until the next message, since many rules read the same column.
//! Of rules this module knows nothing.

use crate::definition::stream::{Format, StreamSchema};
use crate::format::schema::{self, SchemaError, Strict};
use crate::format::{delimited, urlencoded};
use crate::io::queue::{Frame, RowFrame};
use crate::value::json::Spans;
use crate::value::types::DataType;
use crate::value::{Row, Text, Value};

use super::index::{Columns, Seen};

/// A column that any rule of the stream reads.
pub(super) struct StreamColumn {
    pub(super) key: Text,
    pub(super) ty: Option<DataType>,
    /// its place in what the scanner looks for
    pub(super) wanted: usize,
    /// where the stream has STRICT_VALIDATION
    pub(super) strict: Option<Strict>,
    /// how many inputs of rules read it
    pub(super) readers: usize,
}

/// A column of the message at hand.
pub(super) enum Cell {
    Unread,
    Read(Value),
    Failed(SchemaError),
}

/// The message at hand, with its columns as far as they were read.
pub(super) struct Message<'a> {
    pub(super) body: Body<'a>,
    pub(super) columns: &'a [StreamColumn],
    pub(super) cells: &'a mut [Cell],
    pub(super) zone: &'a jiff::tz::TimeZone,
}

/// How a message came.
#[derive(Clone, Copy)]
pub(super) enum Body<'a> {
    /// as JSON: the text, the object in it, and where the object's columns are in the text
    Text { text: &'a str, object: &'a str, spans: &'a Spans },
    /// decoded
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

    /// The JSON text of a column, where the message is text.
    pub(super) fn text(&self, column: usize) -> Option<&'a str> {
        match self.body {
            Body::Text { text, spans, .. } => spans.span(self.columns[column].wanted).map(|span| &text[span]),
            Body::Row(_) => None,
        }
    }

    /// The JSON text of the whole message, where it is text.
    pub(super) fn object(&self) -> Option<&'a str> {
        match self.body {
            Body::Text { object, .. } => Some(object),
            Body::Row(_) => None,
        }
    }

    /// The whole message as a value.
    pub(super) fn whole(&self) -> Value {
        match self.body {
            Body::Text { object, .. } => Value::Json(object.into()),
            Body::Row(frame) => Value::object(frame.row.iter().cloned()),
        }
    }

    /// What the source tells about the message: memory its topic, others nothing.
    pub(super) fn metadata(&self) -> Value {
        match self.body {
            Body::Row(frame) if !frame.topic.is_empty() => {
                Value::object([(Text::const_new("topic"), Value::Text(frame.topic.clone()))])
            }
            Body::Text { .. } | Body::Row(_) => Value::object([]),
        }
    }
}

impl Columns for Message<'_> {
    fn seen(&mut self, column: usize) -> Seen<'_> {
        self.value(column).map_or(Seen::Failed, Seen::Value)
    }
}

/// Why a message of another format than JSON cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("binary message is not UTF-8: {0}")]
    Utf8(#[from] std::str::Utf8Error),
    #[error("cannot parse form: {0}")]
    Escape(#[from] urlencoded::EscapeError),
}

/// The rows of a message whose format has no need of a scanner.
pub(super) fn decode(schema: &StreamSchema, frame: &Frame) -> Result<Vec<Row>, DecodeError> {
    let text = || std::str::from_utf8(frame.bytes());
    match &schema.format {
        Format::Binary { column } => Ok(vec![vec![(column.clone(), frame.bytes().to_vec().into())]]),
        Format::Delimited { delimiter, header: true } => {
            Ok(delimited::decode_lines(text()?, delimiter, schema.columns.as_deref()))
        }
        Format::Delimited { delimiter, header: false } => {
            Ok(vec![delimited::decode(text()?, delimiter, schema.columns.as_deref())])
        }
        Format::UrlEncoded => {
            let mut row = urlencoded::decode(text()?)?;
            delimited::type_values(&mut row, schema.columns.as_deref());
            Ok(vec![row])
        }
        // The scanner's, which finds the wanted members only.
        Format::Json => Ok(Vec::new()),
    }
}

/// How a column is checked where the stream has STRICT_VALIDATION.
pub(super) fn strict(schema: &StreamSchema, key: &Text) -> Option<Strict> {
    let column = schema.columns.as_ref()?.iter().find(|column| column.name.name == *key)?.clone();
    Some(Strict { column, pattern: schema.timestamp_format.clone() })
}
