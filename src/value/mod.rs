//! The values that rows are made of.
//!
//! A [`Value`] is a field of a message, a literal, or the result of an expression. It is small (24 bytes), cheap to
//! move, and cheap to clone: short text is stored inline, arrays and objects are shared. It is `Send`, because literals
//! travel in plans from the control plane to the data threads.
//!
//! JSON text is one form of a value ([`Value::Json`]), so JSON is read and written here, in [`json`]. The types of
//! columns, casts and group keys are here too. This module does not know where values come from or go to, what a
//! message is, or which functions and expressions there are.

pub mod cast;
pub mod datetime_pattern;
pub mod datetime_text;
pub mod field_path;
pub mod json;
pub mod key;
pub mod numbered;
pub mod operator;
pub mod timestamp_format;
pub mod types;

use std::fmt;
use std::sync::Arc;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

/// Text of a value or a key. Up to 24 bytes are kept without an allocation.
pub type Text = CompactString;

/// A JSON object: keys in the order of their first appearance; of duplicate keys the last value counts.
pub type Object = indexmap::IndexMap<Text, Value>;

/// The columns of a decoded row with their names, in order. Names are unique.
pub type Row = Vec<(Text, Value)>;

/// One value of the rule language.
///
/// `Absent` and `Null` behave alike in every expression; they differ only where a field is passed through by its name
/// (`SELECT a`): a null is written as null, an absent field is not written.
///
/// Serde uses the format of checkpoints, which keeps all variants apart; [`json`] writes JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub enum Value {
    /// No value: the message does not have the key, or an expression has no result.
    #[default]
    Absent,
    /// JSON null.
    Null,
    /// true or false.
    Bool(bool),
    /// A whole number of 64 bits with a sign, exact.
    Int(i64),
    /// A number with a fraction or an exponent, or beyond 64 bits.
    Float(f64),
    Text(Text),
    /// An array or object that has not been decoded yet: its valid JSON text. Only decoding makes these;
    /// [`json::expand`] turns one into `Array` or `Object`.
    Json(Box<str>),
    Array(Arc<Vec<Value>>),
    Object(Arc<Object>),
    /// Bytes (BYTEA); written to JSON as base64.
    Bytes(Arc<Vec<u8>>),
    /// A point in time with the zone it is shown in.
    DateTime(#[serde(with = "zoned")] Arc<jiff::Zoned>),
    /// A whole number from 2^63 to 2^64 − 1. It is copied and compared exactly; arithmetic uses the nearest double.
    /// Smaller numbers are always `Int`: [`Value::whole`] chooses the variant.
    Unsigned(u64),
}

/// The kind of a [`Value`], for messages and for checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// null or absent
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
    /// Whether this is null or absent.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Absent | Value::Null)
    }

    /// The kind of this value. The first byte tells whether JSON text is an array or an object.
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

    pub fn is_number(&self) -> bool {
        matches!(self, Value::Int(_) | Value::Unsigned(_) | Value::Float(_))
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

    /// Makes a value of a whole number that is not negative.
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

    /// Subtracts the weight of the value and of everything inside it from `left`; false if `left` is too small, and
    /// then the rest is not visited. Values may share parts, so a walk can take far longer than their memory suggests.
    pub fn spend(&self, left: &mut usize, weight: &impl Fn(&Value) -> usize) -> bool {
        let Some(rest) = left.checked_sub(weight(self)) else { return false };
        *left = rest;
        match self {
            Value::Array(elements) => elements.iter().all(|element| element.spend(left, weight)),
            Value::Object(members) => members.values().all(|member| member.spend(left, weight)),
            _ => true,
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

/// A point in time as nanoseconds and zone: text would take ten times as long and lose zones without a name.
mod zoned {
    use std::sync::Arc;

    use jiff::tz::{Offset, TimeZone};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    enum Zone<'a> {
        Named(&'a str),
        /// Seconds east of Greenwich. A zone that has neither a name nor a fixed offset keeps its offset at this
        /// moment.
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
