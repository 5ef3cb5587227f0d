//! Looking into arrays and objects that may still be text, one member at a time.
//!
//! An expression like `a->b[0]` reads one value out of a large one. Decoding all of it for that would cost more than
//! the rest of the rule, so these walk over the text and decode only what was asked for.

use super::decode;
use super::skip::{self, blanks, byte};
use crate::value::{Text, Value};

/// The member `key` of an object, `Absent` if it has none or the value is no object. Of duplicate keys the last counts.
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

/// The element at `index` of an array, counted from its end if negative; `Absent` if there is none or the value is no
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

/// The members of the valid text of an object in the order they are written: the raw key in its quotes, and the text of the
/// value. Duplicates are not removed. Nothing for other text.
pub fn members(object: &str) -> Members<'_> {
    Members { walk: Walk::new(object, b'{') }
}

/// The texts of the elements of the valid text of an array, in order. Nothing for other text.
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

/// A place between the members of an array or object: at the bracket or comma before one.
#[derive(Clone, Debug)]
struct Walk<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Walk<'a> {
    fn new(json: &'a str, bracket: u8) -> Self {
        let at = blanks(json.as_bytes(), 0);
        // The end of the text ends every walk.
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

    /// The value at `start`; the walk goes on behind it.
    fn value(&mut self, start: usize) -> Option<&'a str> {
        let text = self.json.as_bytes();
        let end = skip::value(text, start, 0).ok()?;
        self.at = blanks(text, end);
        Some(&self.json[start..end])
    }
}

/// Whether a raw key in its quotes is this key.
fn is_key(raw: &str, key: &str) -> bool {
    let inner = &raw[1..raw.len() - 1];
    inner == key || (inner.contains('\\') && decode::unescape(inner) == key)
}

/// The place that an index means among `length` elements.
fn place(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    usize::try_from(if index < 0 { index.checked_add(length)? } else { index }).ok()
}

/// The key that a raw key in its quotes stands for.
pub fn key(raw: &str) -> Text {
    decode::text(raw)
}
