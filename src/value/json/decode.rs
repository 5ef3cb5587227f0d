//! Decodes JSON text to values.

use std::borrow::Cow;
use std::sync::Arc;

use super::scan::only_blanks;
use super::skip::{self, blanks, byte};
use super::{DEPTH_LIMIT, JsonError, Problem};
use crate::value::{Object, Text, Value};

/// Decodes a whole text completely: the result contains no `Value::Json`.
pub fn parse(json: &str) -> Result<Value, JsonError> {
    let text = json.as_bytes();
    if u32::try_from(text.len()).is_err() {
        return Err(JsonError::new(0, Problem::TooLong));
    }
    let (value, end) = parse_value(json, blanks(text, 0), 0)?;
    only_blanks(text, end)?;
    Ok(value)
}

/// Decodes a valid piece of JSON, such as the text at a span of the scanner. Arrays and objects are kept as text
/// without looking inside. Invalid text gives an arbitrary value or `Null`.
#[inline]
pub fn value(json: &str) -> Value {
    match byte(json.as_bytes(), 0) {
        b'"' => Value::Text(text(json)),
        b'-' | b'0'..=b'9' => number(json),
        b't' => Value::Bool(true),
        b'f' => Value::Bool(false),
        b'{' | b'[' => Value::Json(json.into()),
        _ => Value::Null,
    }
}

/// Decodes a valid number: an exact `Int` if it is written as a whole number and fits 64 bits, otherwise the nearest
/// `Float`.
#[inline]
pub fn number(json: &str) -> Value {
    super::number::decode(json.as_bytes())
}

/// Decodes a valid string with its quotes.
#[inline]
pub fn text(json: &str) -> Text {
    let raw = json.get(1..json.len().saturating_sub(1)).unwrap_or_default();
    if skip::string_stop(raw.as_bytes(), 0) >= raw.len() { Text::new(raw) } else { unescape(raw) }
}

/// The same value with every `Value::Json` inside it decoded.
pub fn expand(value: &Value) -> Cow<'_, Value> {
    match value {
        // Only decoding makes `Value::Json`, from valid text.
        Value::Json(json) => Cow::Owned(parse(json).unwrap_or(Value::Null)),
        Value::Array(members) if members.iter().any(holds_json) => {
            Cow::Owned(Value::array(members.iter().map(|member| expand(member).into_owned())))
        }
        Value::Object(members) if members.values().any(holds_json) => {
            Cow::Owned(Value::object(members.iter().map(|(key, member)| (key.clone(), expand(member).into_owned()))))
        }
        _ => Cow::Borrowed(value),
    }
}

fn holds_json(value: &Value) -> bool {
    match value {
        Value::Json(_) => true,
        Value::Array(members) => members.iter().any(holds_json),
        Value::Object(members) => members.values().any(holds_json),
        _ => false,
    }
}

/// Decodes the value that starts at `at`, and returns where it ends. `depth` arrays and objects are open around it,
/// which bounds the recursion.
fn parse_value(json: &str, at: usize, depth: usize) -> Result<(Value, usize), JsonError> {
    let text = json.as_bytes();
    match byte(text, at) {
        b'[' => parse_array(json, at, depth + 1),
        b'{' => parse_object(json, at, depth + 1),
        _ => {
            let end = skip::value(text, at, depth)?;
            Ok((value(&json[at..end]), end))
        }
    }
}

fn parse_array(json: &str, at: usize, depth: usize) -> Result<(Value, usize), JsonError> {
    let text = json.as_bytes();
    if depth > DEPTH_LIMIT {
        return Err(JsonError::new(at, Problem::TooDeep));
    }
    let mut members = Vec::new();
    let mut at = blanks(text, at + 1);
    if byte(text, at) != b']' {
        loop {
            let (member, end) = parse_value(json, at, depth)?;
            members.push(member);
            at = blanks(text, end);
            match byte(text, at) {
                b',' => at = blanks(text, at + 1),
                b']' => break,
                _ => return Err(JsonError::new(at, Problem::CommaOrBracket)),
            }
        }
    }
    Ok((Value::Array(Arc::new(members)), at + 1))
}

fn parse_object(json: &str, at: usize, depth: usize) -> Result<(Value, usize), JsonError> {
    let text = json.as_bytes();
    if depth > DEPTH_LIMIT {
        return Err(JsonError::new(at, Problem::TooDeep));
    }
    let mut members = Object::new();
    let mut at = blanks(text, at + 1);
    if byte(text, at) != b'}' {
        loop {
            if byte(text, at) != b'"' {
                return Err(JsonError::new(at, Problem::Key));
            }
            let key_end = skip::string(text, at + 1)?;
            let key = self::text(&json[at..key_end]);
            let (member, end) = parse_value(json, skip::colon(text, key_end)?, depth)?;
            members.insert(key, member);
            at = blanks(text, end);
            match byte(text, at) {
                b',' => at = blanks(text, at + 1),
                b'}' => break,
                _ => return Err(JsonError::new(at, Problem::CommaOrBrace)),
            }
        }
    }
    Ok((Value::Object(Arc::new(members)), at + 1))
}

/// Resolves the escapes between the quotes of a valid string.
#[inline(never)]
pub(super) fn unescape(raw: &str) -> Text {
    let mut text = Text::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let escape = &rest[at..];
        let (character, length) = match escape.as_bytes().get(1) {
            Some(b'b') => ('\u{8}', 2),
            Some(b'f') => ('\u{c}', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'u') => unicode(escape),
            Some(other) => (*other as char, 2),
            None => (char::REPLACEMENT_CHARACTER, 1),
        };
        text.push(character);
        rest = escape.get(length..).unwrap_or_default();
    }
    text.push_str(rest);
    text
}

/// The character of a `\u` escape, or of two that form a surrogate pair, and the number of bytes used. An unpaired
/// surrogate becomes U+FFFD.
fn unicode(escape: &str) -> (char, usize) {
    let unit = |at: usize| escape.get(at..at + 4).and_then(|hex| u32::from_str_radix(hex, 16).ok());
    let Some(high) = unit(2) else { return (char::REPLACEMENT_CHARACTER, 6) };
    if (0xd800..0xdc00).contains(&high)
        && escape.get(6..8) == Some("\\u")
        && let Some(low @ 0xdc00..0xe000) = unit(8)
        && let Some(character) = char::from_u32(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00))
    {
        return (character, 12);
    }
    (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), 6)
}
