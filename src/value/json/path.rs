//! Reads single members of arrays and objects that may still be text.
//!
//! An expression such as `a->b[0]` reads one value of a large one. Decoding all of it would cost more than the rest of
//! the rule, so these functions walk over the text and decode only the requested value.

use super::decode;
use super::skip::{self, blanks, byte};
use crate::value::{Text, Value};

/// The member `key` of an object; `Absent` if there is none, or if the value is not an object. Of duplicate keys the
/// last counts.
pub fn member(object: &Value, key: &str) -> Value {
    match object {
        Value::Object(members) => members.get(key).cloned().unwrap_or_default(),
        Value::Json(json) => members(json)
            .filter(|(raw, _)| is_key(raw, key))
            .last()
            .map_or(Value::Absent, |(_, text)| decode::value(text)),
        _ => Value::Absent,
    }
}

/// The element at `index` of an array, from its end if negative; `Absent` if there is none, or if the value is not an
/// array.
pub fn element(array: &Value, index: i64) -> Value {
    match array {
        Value::Array(members) => place(index, members.len()).and_then(|i| members.get(i)).cloned().unwrap_or_default(),
        Value::Json(json) => {
            let found = if index < 0 {
                place(index, elements(json).count()).and_then(|i| elements(json).nth(i))
            } else {
                usize::try_from(index).ok().and_then(|i| elements(json).nth(i))
            };
            found.map_or(Value::Absent, decode::value)
        }
        _ => Value::Absent,
    }
}

/// The members of an object's valid text in order: each raw key with its quotes, and the text of the value. Duplicates
/// are included. Empty for other text.
pub fn members(object: &str) -> Members<'_> {
    Members { walk: Walk::new(object, b'{') }
}

/// The texts of the elements of an array's valid text, in order. Empty for other text.
pub fn elements(array: &str) -> Elements<'_> {
    Elements { walk: Walk::new(array, b'[') }
}

/// See [`members`].
#[derive(Clone, Debug)]
pub struct Members<'a> {
    walk: Walk<'a>,
}

/// See [`elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    walk: Walk<'a>,
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.walk.start()?;
        let text = self.walk.json.as_bytes();
        if byte(text, start) != b'"' {
            return None;
        }
        let key_end = skip::string(text, start + 1).ok()?;
        let value = self.walk.value(skip::colon(text, key_end).ok()?)?;
        Some((&self.walk.json[start..key_end], value))
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.walk.start()?;
        self.walk.value(start)
    }
}

/// A position between the members of an array or object: the bracket or comma before one.
#[derive(Clone, Debug)]
struct Walk<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    fn new(json: &'a str, bracket: u8) -> Self {
        let at = blanks(json.as_bytes(), 0);
        // The end of the text ends the walk.
        Walk { json, at: if byte(json.as_bytes(), at) == bracket { at } else { json.len() } }
    }

    /// Where the next member starts.
    fn start(&self) -> Option<usize> {
        let text = self.json.as_bytes();
        match byte(text, self.at) {
            b'{' | b'[' | b',' => Some(blanks(text, self.at + 1)),
            _ => None,
        }
    }

    /// The value at `start`; moves on to the position after it.
    fn value(&mut self, start: usize) -> Option<&'a str> {
        let text = self.json.as_bytes();
        let end = skip::value(text, start, 0).ok()?;
        self.at = blanks(text, end);
        Some(&self.json[start..end])
    }
}

/// Whether a raw key with its quotes equals this key.
fn is_key(raw: &str, key: &str) -> bool {
    let inner = &raw[1..raw.len() - 1];
    inner == key || (inner.contains('\\') && decode::unescape(inner) == key)
}

/// The position that an index stands for among `length` elements.
fn place(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    usize::try_from(if index < 0 { index.checked_add(length)? } else { index }).ok()
}

/// Decodes a raw key with its quotes.
pub fn key(raw: &str) -> Text {
    decode::text(raw)
}
