//! Keys of groups.
//!
//! Values of different types are different groups, with these exceptions: numbers are compared by value, so 1 and 1.0
//! are one group, and null and absent are one. Arrays and objects are compared by content, objects regardless of the
//! order of their keys. A key is a tuple of parts and never joined text, so different tuples never collide.

use std::borrow::Borrow;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use super::{Text, Value, json};

/// The key of one group: a part for each expression of GROUP BY. Keys of one or two numbers or texts up to 24 bytes
/// need no allocation. A map of keys can also be queried with a slice of parts. The order of keys is for sorted stores;
/// it is not the order of the language.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey(SmallVec<[KeyPart; 2]>);

/// One part of a key, in a form in which equal values are equal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KeyPart {
    /// null or absent
    Nothing,
    /// true or false
    Bool(bool),
    /// a whole number of 64 bits, however it was written
    Int(i64),
    /// the bits of any other number; all NaN are one
    Float(u64),
    Text(Text),
    Array(Box<[KeyPart]>),
    /// an object, sorted by key
    Object(Box<[(Text, KeyPart)]>),
    Bytes(Arc<Vec<u8>>),
    /// a point in time, regardless of its zone
    DateTime(#[serde(with = "moment")] jiff::Timestamp),
    /// a whole number from 2^63 to 2^64 − 1, however it was written
    Unsigned(u64),
}

impl GroupKey {
    /// The key of these values, in the order of GROUP BY.
    pub fn from_values<'v>(values: impl IntoIterator<Item = &'v Value>) -> GroupKey {
        GroupKey(values.into_iter().map(KeyPart::of).collect())
    }

    /// Replaces the parts. Refilling one key for each row finds the row's group without an allocation.
    pub fn refill<'v>(&mut self, values: impl IntoIterator<Item = &'v Value>) {
        self.0.clear();
        self.0.extend(values.into_iter().map(KeyPart::of));
    }

    /// Removes all parts, before the calls of [`GroupKey::push`] for another row.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds the next part.
    #[inline]
    pub fn push(&mut self, value: &Value) {
        self.0.push(KeyPart::of(value));
    }

    /// Adds a part.
    pub fn push_part(&mut self, part: KeyPart) {
        self.0.push(part);
    }

    pub fn parts(&self) -> &[KeyPart] {
        &self.0
    }
}

// Written as a list, however the parts are stored.
impl Serialize for GroupKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.parts().serialize(to)
    }
}

impl<'de> Deserialize<'de> for GroupKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<GroupKey, D::Error> {
        Ok(GroupKey(Vec::deserialize(from)?.into_iter().collect()))
    }
}

/// A timestamp as nanoseconds.
mod moment {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(at: &jiff::Timestamp, to: S) -> Result<S::Ok, S::Error> {
        at.as_nanosecond().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<jiff::Timestamp, D::Error> {
        jiff::Timestamp::from_nanosecond(i128::deserialize(from)?).map_err(D::Error::custom)
    }
}

impl Borrow<[KeyPart]> for GroupKey {
    fn borrow(&self) -> &[KeyPart] {
        &self.0
    }
}

impl KeyPart {
    /// Converts a value to a part.
    #[inline]
    pub fn of(value: &Value) -> KeyPart {
        match value {
            Value::Absent | Value::Null => KeyPart::Nothing,
            Value::Bool(b) => KeyPart::Bool(*b),
            Value::Int(i) => KeyPart::Int(*i),
            Value::Float(f) => match whole_float(*f) {
                Some(int) => KeyPart::Int(int),
                None if f.is_nan() => KeyPart::Float(f64::NAN.to_bits()),
                None if is_unsigned(*f) => KeyPart::Unsigned(*f as u64),
                None => KeyPart::Float(f.to_bits()),
            },
            Value::Unsigned(u) => KeyPart::Unsigned(*u),
            Value::Text(text) => KeyPart::Text(text.clone()),
            Value::DateTime(at) => KeyPart::DateTime(at.timestamp()),
            Value::Bytes(bytes) => KeyPart::Bytes(bytes.clone()),
            Value::Json(_) | Value::Array(_) | Value::Object(_) => KeyPart::of_nested(value),
        }
    }

    fn of_nested(value: &Value) -> KeyPart {
        match value {
            Value::Json(_) => match &*json::expand(value) {
                // An expanded value is never text again.
                Value::Json(_) => KeyPart::Nothing,
                expanded => KeyPart::of(expanded),
            },
            Value::Array(elements) => KeyPart::Array(elements.iter().map(KeyPart::of).collect()),
            Value::Object(members) => {
                let mut parts: Vec<_> = members.iter().map(|(key, value)| (key.clone(), KeyPart::of(value))).collect();
                parts.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
                KeyPart::Object(parts.into())
            }
            other => KeyPart::of(other),
        }
    }
}

/// The whole number of 64 bits that equals the double, if there is one.
#[inline]
pub fn whole_float(f: f64) -> Option<i64> {
    let int = f as i64;
    // 2^63 becomes the largest number when cut to 64 bits, and must not be confused with it.
    (int as f64 == f && int != i64::MAX).then_some(int)
}

/// Whether a double is a whole number from 2^63 to 2^64 − 1. All doubles between are whole.
fn is_unsigned(f: f64) -> bool {
    const FIRST: f64 = 9_223_372_036_854_775_808.0;
    (FIRST..2.0 * FIRST).contains(&f)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn json(text: &str) -> Value {
        Value::Json(text.into())
    }

    #[test]
    fn a_part_is_small() {
        assert_eq!(size_of::<KeyPart>(), 24);
    }

    #[test]
    fn equal_values_are_one_group() {
        for (a, b, same) in [
            (Value::Int(1), Value::Float(1.0), true),
            (Value::Float(0.0), Value::Float(-0.0), true),
            (Value::Float(f64::NAN), Value::Float(-f64::NAN), true),
            (Value::Int(i64::MAX), Value::Float(9_223_372_036_854_775_808.0), false),
            (Value::Int(i64::MIN), Value::Float(-9_223_372_036_854_775_808.0), true),
            (Value::Int((1 << 53) + 1), Value::Float(9_007_199_254_740_992.0), false),
            (Value::Unsigned(1 << 63), Value::Float(9_223_372_036_854_775_808.0), true),
            (Value::Unsigned((1 << 63) + 1), Value::Float(9_223_372_036_854_775_808.0), false),
            (Value::Unsigned(u64::MAX), Value::Unsigned(u64::MAX - 1), false),
            (Value::Float(1.5), Value::Float(1.5), true),
            (Value::Int(1), Value::from("1"), false),
            (Value::Null, Value::Absent, true),
            (Value::Null, Value::from("<nil>"), false),
            (Value::Null, Value::from(""), false),
            (Value::Bool(true), Value::from("true"), false),
            (Value::Bool(true), Value::Int(1), false),
            (json("[1, 2]"), Value::array([Value::Int(1), Value::Float(2.0)]), true),
            (json("[1, 2]"), json("[2, 1]"), false),
            (json(r#"{"a": 1, "b": [null]}"#), json(r#"{"b":[null],"a":1.0}"#), true),
            (json(r#"{"a": 1}"#), json(r#"{"a": "1"}"#), false),
            (json("{}"), json("[]"), false),
            (Value::from(vec![1]), Value::from(vec![1]), true),
        ] {
            let (left, right) = (GroupKey::from_values([&a]), GroupKey::from_values([&b]));
            assert_eq!(left == right, same, "{a:?} {b:?}");
        }
    }

    #[test]
    fn keys_are_tuples() {
        let key = |texts: [&str; 2]| GroupKey::from_values(&texts.map(Value::from));
        assert_ne!(key(["a,b", "c"]), key(["a", "b,c"]));
        assert_ne!(key(["a", ""]), key(["", "a"]));
    }

    #[test]
    fn a_refilled_key_and_its_parts_find_the_group() {
        let values = [Value::from("AAPL"), Value::Float(2.0)];
        let groups = HashMap::from([(GroupKey::from_values(&values), 7)]);
        let mut key = GroupKey::default();
        key.refill(&[Value::from("AAPL"), Value::Int(2)]);
        assert_eq!(groups.get(&key), Some(&7));
        assert_eq!(groups.get(key.parts()), Some(&7));
    }
}
