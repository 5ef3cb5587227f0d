//! The values that rows are made of.
//!
//! A [`Value`] is what one field of a message, one literal or one result of an expression is. It is small (24 bytes),
//! cheap to move, and cheap to clone: short text lives inside the value, arrays and objects are shared. It is `Send`,
//! because literals travel in plans from the control plane to the data threads.
//!
//! JSON text is a form of a value ([`Value::Json`]), so reading and writing it is here, in [`json`]; so are the types of
//! columns, casts, and the keys under which equal values meet. This module must not know where values come from or go
//! to, what a message is, or which functions and expressions there are.

pub mod cast;
pub mod datetime_pattern;
pub mod datetime_text;
pub mod field_path;
pub mod json;
pub mod key;
pub mod operator;
pub mod timestamp_format;
pub mod types;

use std::fmt;
use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

/// Text of a value or a key. Up to 24 bytes are kept without an allocation.
pub type Text = CompactString;

/// A JSON object: keys in the order of first appearance; of duplicate keys the last value counts.
pub type Object = indexmap::IndexMap<Text, Value>;

/// The columns of a row that travels decoded, with their names, in order. No name is there twice.
pub type Row = Vec<(Text, Value)>;

/// One value of the rule language.
///
/// `Absent` and `Null` behave alike in every expression; they differ only where a field is passed through by its name
/// (`SELECT a`): a null is written as null, an absent field is not written.
///
/// Serde writes the form of checkpoints, which tells all variants apart; [`json`] writes JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub enum Value {
    /// There is no value: the key is not in the message, or an expression had no answer.
    #[default]
    Absent,
    /// JSON null.
    Null,
    /// true or false.
    Bool(bool),
    /// A whole number of 64 bits with a sign, exact.
    Int(i64),
    /// A number with a fraction, an exponent, or beyond 64 bits.
    Float(f64),
    Text(Text),
    /// An array or object that has not been decoded yet: its JSON text, already validated. Only decoding makes
    /// these; [`json::expand`] turns one into `Array` or `Object`.
    Json(Box<str>),
    Array(Arc<Vec<Value>>),
    Object(Arc<Object>),
    /// Bytes (BYTEA); written to JSON as base64.
    Bytes(Arc<Vec<u8>>),
    /// A point in time with the zone it is shown in.
    DateTime(#[serde(with = "zoned")] Arc<jiff::Zoned>),
    /// A whole number from 2^63 to 2^64 − 1, exact where it is passed on and compared; arithmetic takes it as a double.
    /// Smaller ones are always `Int`: [`Value::whole`] makes either.
    Unsigned(u64),
}

/// The kind of a [`Value`], for messages and for checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// No value: absent or null.
    Null,
    /// true, false
    Bool,
    /// whole number
    Int,
    /// number with a fraction
    Float,
    Text,
    Array,
    Object,
    Bytes,
    /// point in time
    DateTime,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Null => "null",
            Kind::Bool => "boolean",
            Kind::Int => "bigint",
            Kind::Float => "float",
            Kind::Text => "string",
            Kind::Array => "array",
            Kind::Object => "struct",
            Kind::Bytes => "bytea",
            Kind::DateTime => "datetime",
        })
    }
}

impl Value {
    /// Whether this is no value: absent or null.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Absent | Value::Null)
    }

    /// The kind of this value. An array or object that is still JSON text is told by its first byte.
    pub fn kind(&self) -> Kind {
        match self {
            Value::Absent | Value::Null => Kind::Null,
            Value::Bool(_) => Kind::Bool,
            Value::Int(_) | Value::Unsigned(_) => Kind::Int,
            Value::Float(_) => Kind::Float,
            Value::Text(_) => Kind::Text,
            Value::Json(json) if json.starts_with('[') => Kind::Array,
            Value::Json(_) => Kind::Object,
            Value::Array(_) => Kind::Array,
            Value::Object(_) => Kind::Object,
            Value::Bytes(_) => Kind::Bytes,
            Value::DateTime(_) => Kind::DateTime,
        }
    }

    /// The number as a double, if this is a number.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Int(i) => Some(*i as f64),
            Value::Unsigned(u) => Some(*u as f64),
            Value::Float(f) => Some(*f),
            _ => None,
        }
    }

    /// A whole number that is not negative.
    pub fn whole(number: u64) -> Value {
        i64::try_from(number).map_or(Value::Unsigned(number), Value::Int)
    }

    /// The text, if this is text.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// An array value of these members.
    pub fn array(members: impl IntoIterator<Item = Value>) -> Value {
        Value::Array(Arc::new(members.into_iter().collect()))
    }

    /// An object value of these members; of duplicate keys the last counts.
    pub fn object(members: impl IntoIterator<Item = (Text, Value)>) -> Value {
        Value::Object(Arc::new(members.into_iter().collect()))
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Value::Bool(b)
    }
}

impl From<i64> for Value {
    fn from(i: i64) -> Self {
        Value::Int(i)
    }
}

impl From<f64> for Value {
    fn from(f: f64) -> Self {
        Value::Float(f)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text.into())
    }
}

impl From<Text> for Value {
    fn from(text: Text) -> Self {
        Value::Text(text)
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Value::Bytes(Arc::new(bytes))
    }
}

/// A point in time as nanoseconds and zone: text would cost ten times as much and lose zones without a name.
mod zoned {
    use std::sync::Arc;

    use jiff::tz::{Offset, TimeZone};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    enum Zone<'a> {
        Named(&'a str),
        /// Seconds east of Greenwich. A zone that has neither a name nor one offset stays at that of the moment.
        Fixed(i32),
    }

    pub fn serialize<S: Serializer>(at: &Arc<jiff::Zoned>, to: S) -> Result<S::Ok, S::Error> {
        let zone = match at.time_zone().iana_name() {
            Some(name) => Zone::Named(name),
            None => Zone::Fixed(at.offset().seconds()),
        };
        (at.timestamp().as_nanosecond(), zone).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<jiff::Zoned>, D::Error> {
        let (nanoseconds, zone) = <(i128, Zone<'_>)>::deserialize(from)?;
        let zone = match zone {
            Zone::Named(name) => TimeZone::get(name).map_err(D::Error::custom)?,
            Zone::Fixed(seconds) => Offset::from_seconds(seconds).map_err(D::Error::custom)?.to_time_zone(),
        };
        let at = jiff::Timestamp::from_nanosecond(nanoseconds).map_err(D::Error::custom)?;
        Ok(Arc::new(at.to_zoned(zone)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_small() {
        assert_eq!(size_of::<Value>(), 24);
    }
}
