//! Conversions between kinds of values: those of `cast`, and those that functions apply to their arguments.
//!
//! Arguments are read strictly (a whole number, a number); `cast` also reads text. Every value has a text form; few
//! have a number. No conversion panics, and none loses digits silently: a number that does not fit is an error.
//!
//! This module knows values and time zones, but neither functions nor rows.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use super::datetime_text;
use super::timestamp_format::TimestampFormat;
use crate::value::Value;

/// The value cannot be converted to the wanted type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot convert {found} to {target}")]
pub struct ConversionError {
    /// type and value, `string(abc)`; long values are cut
    pub found: String,
    /// the wanted type
    pub target: &'static str,
}

/// A type that `cast` converts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// bigint: a whole number of 64 bits
    Int,
    /// float: a double
    Float,
    /// string
    Text,
    /// boolean
    Bool,
    /// datetime
    DateTime,
    /// bytea: bytes
    Bytes,
}

impl Target {
    /// The type of this name, as rules write it: in lower case.
    pub fn named(name: &str) -> Option<Target> {
        Some(match name {
            "bigint" => Target::Int,
            "float" => Target::Float,
            "string" => Target::Text,
            "boolean" => Target::Bool,
            "datetime" => Target::DateTime,
            "bytea" => Target::Bytes,
            _ => return None,
        })
    }
}

/// Converts the value to the target type. Null and absent stay so. `zone` applies to times without a zone; `now` (ms
/// since the epoch) gives the date of a time without one.
pub fn cast(value: &Value, target: Target, zone: &TimeZone, now: i64) -> Result<Value, ConversionError> {
    if value.is_null() {
        return Ok(Value::Null);
    }
    match target {
        // An unsigned number is whole already.
        Target::Int if matches!(value, Value::Unsigned(_)) => Ok(value.clone()),
        Target::Int => to_int(value).map(Value::Int),
        Target::Float => to_float(value).map(Value::Float),
        Target::Text => Ok(Value::from(text(value).as_ref())),
        Target::Bool => to_bool(value).map(Value::Bool),
        Target::DateTime => to_datetime(value, zone, now).map(Value::DateTime),
        Target::Bytes => to_bytes(value),
    }
}

/// The whole number of an argument: a whole number, or a double without a fraction. Text is not read.
pub fn int(value: &Value) -> Result<i64, ConversionError> {
    match value {
        Value::Int(i) => Ok(*i),
        Value::Float(f) if f.fract() == 0.0 => cut(*f).ok_or_else(|| failed(value, "int")),
        _ => Err(failed(value, "int")),
    }
}

/// The number of an argument as a double. Text and booleans are not read.
pub fn float(value: &Value) -> Result<f64, ConversionError> {
    value.as_f64().ok_or_else(|| failed(value, "float"))
}

/// The text form of any value. Null and absent are empty text; numbers are decimal, with the fewest digits that give
/// the same number and never with an exponent; arrays and objects are JSON; times are RFC 3339; bytes are read as
/// UTF-8.
pub fn text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Absent | Value::Null => Cow::Borrowed(""),
        Value::Bool(true) => Cow::Borrowed("true"),
        Value::Bool(false) => Cow::Borrowed("false"),
        Value::Int(i) => Cow::Owned(i.to_string()),
        Value::Unsigned(u) => Cow::Owned(u.to_string()),
        Value::Float(f) => Cow::Owned(float_text(*f)),
        Value::Text(text) => Cow::Borrowed(text),
        Value::Json(json) => Cow::Borrowed(json),
        Value::Array(_) | Value::Object(_) => {
            let mut json = String::new();
            write_json(&mut json, value);
            Cow::Owned(json)
        }
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes),
        Value::DateTime(at) => Cow::Owned(rfc3339(at)),
    }
}

/// A whole number: doubles lose their fraction, text is decimal or has a prefix `0x`, `0o`, `0b`, a point in time is ms
/// since the epoch.
fn to_int(value: &Value) -> Result<i64, ConversionError> {
    let converted = match value {
        Value::Int(i) => Some(*i),
        Value::Float(f) => cut(*f),
        Value::Bool(b) => Some(i64::from(*b)),
        Value::Text(text) => int_of_text(text),
        Value::DateTime(at) => Some(at.timestamp().as_millisecond()),
        _ => None,
    };
    converted.ok_or_else(|| failed(value, "int"))
}

/// A double: text is read in decimal and exponent form, or has a prefix as for whole numbers, with any number of
/// digits; a point in time is ms since the epoch. Text of a number beyond the doubles is an error.
fn to_float(value: &Value) -> Result<f64, ConversionError> {
    let converted = match value {
        Value::Int(i) => Some(*i as f64),
        Value::Unsigned(u) => Some(*u as f64),
        Value::Float(f) => Some(*f),
        Value::Bool(b) => Some(f64::from(u8::from(*b))),
        Value::DateTime(at) => Some(at.timestamp().as_nanosecond() as f64 / 1e6),
        Value::Text(text) if prefixed(text).is_some() => float_of_digits(text),
        Value::Text(text) => {
            text.parse::<f64>().ok().filter(|f| f.is_finite() || !text.bytes().any(|byte| byte.is_ascii_digit()))
        }
        _ => None,
    };
    converted.ok_or_else(|| failed(value, "float"))
}

/// true or false: numbers are true unless 0.
fn to_bool(value: &Value) -> Result<bool, ConversionError> {
    match value {
        Value::Bool(b) => Ok(*b),
        Value::Int(i) => Ok(*i != 0),
        Value::Unsigned(_) => Ok(true),
        Value::Float(f) => Ok(*f != 0.0),
        Value::Text(text) => truth_of_text(text).ok_or_else(|| failed(value, "bool")),
        _ => Err(failed(value, "bool")),
    }
}

/// The boolean that a text represents, if any.
pub fn truth_of_text(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A point in time: a number is ms since the epoch (a fraction is cut off), text may have the formats of
/// [`datetime_text`].
pub fn to_datetime(value: &Value, zone: &TimeZone, now: i64) -> Result<Arc<Zoned>, ConversionError> {
    let millis = |millis: i64| Timestamp::from_millisecond(millis).ok().map(|at| at.to_zoned(zone.clone()));
    let converted = match value {
        Value::DateTime(at) => return Ok(at.clone()),
        Value::Int(i) => millis(*i),
        Value::Float(f) => cut(*f).and_then(millis),
        Value::Text(text) => datetime_text::parse(text, zone, now),
        _ => None,
    };
    converted.map(Arc::new).ok_or_else(|| failed(value, "datetime"))
}

/// As [`to_datetime`], by `format` if there is one. A text that does not match its pattern is read as by
/// [`to_datetime`].
pub fn to_datetime_by(
    format: Option<&TimestampFormat>,
    value: &Value,
    zone: &TimeZone,
    now: i64,
) -> Result<Arc<Zoned>, ConversionError> {
    let read = match (format, value) {
        (Some(TimestampFormat::Epoch(unit)), _) => {
            let at = unit.timestamp(value).map(|at| at.to_zoned(zone.clone()));
            return at.map(Arc::new).ok_or_else(|| failed(value, "datetime"));
        }
        (Some(TimestampFormat::Pattern(pattern)), Value::Text(text)) => pattern.parse(text, zone),
        _ => None,
    };
    read.map_or_else(|| to_datetime(value, zone, now), |at| Ok(Arc::new(at)))
}

/// Bytes: text is decoded from base64, or taken as it is if it is not base64.
fn to_bytes(value: &Value) -> Result<Value, ConversionError> {
    match value {
        Value::Bytes(_) => Ok(value.clone()),
        Value::Text(text) => Ok(Value::from(base64_bytes(text).unwrap_or_else(|_| text.as_bytes().to_vec()))),
        _ => Err(failed(value, "bytea")),
    }
}

/// Standard base64 that ignores the unused bits of the last digit: some encoders do not set them to zero.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// Decodes standard, padded base64. Line ends are skipped, since mail and PEM encoders insert them.
pub fn base64_bytes(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    if text.contains(['\r', '\n']) { BASE64.decode(text.replace(['\r', '\n'], "")) } else { BASE64.decode(text) }
}

/// The double without its fraction, if it fits 64 bits.
fn cut(f: f64) -> Option<i64> {
    // 2^63 is a double and too large by one; every smaller double fits after its fraction is cut off.
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    (-LIMIT..LIMIT).contains(&f).then_some(f as i64)
}

/// Parses a whole number. Leading zeros are ignored: `017` is 17.
fn int_of_text(text: &str) -> Option<i64> {
    let (negative, unsigned) = signed(text);
    let (radix, digits) = prefixed(text).unwrap_or((10, unsigned));
    // `from_str_radix` would accept a second sign.
    if !digits.chars().all(|digit| digit.is_digit(radix)) {
        return None;
    }
    let size = i128::from(u64::from_str_radix(digits, radix).ok()?);
    i64::try_from(if negative { -size } else { size }).ok()
}

/// Whether a number has a minus, and the number without its sign.
fn signed(text: &str) -> (bool, &str) {
    match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    }
}

/// The radix of a prefix, and the digits after it.
fn prefixed(text: &str) -> Option<(u32, &str)> {
    let (_, digits) = signed(text);
    let radix = match digits.get(..2)? {
        "0x" | "0X" => 16,
        "0o" | "0O" => 8,
        "0b" | "0B" => 2,
        _ => return None,
    };
    Some((radix, &digits[2..]))
}

/// Parses a double with a radix prefix: exact up to 53 bits, at most one bit off beyond.
fn float_of_digits(text: &str) -> Option<f64> {
    let (radix, digits) = prefixed(text)?;
    if digits.is_empty() {
        return None;
    }
    let mut number = 0.0;
    for digit in digits.chars() {
        number = number * f64::from(radix) + f64::from(digit.to_digit(radix)?);
    }
    let number = if signed(text).0 { -number } else { number };
    number.is_finite().then_some(number)
}

/// The number in decimal form without an exponent, with the fewest digits that give the same double.
pub fn float_text(f: f64) -> String {
    if f == f64::INFINITY {
        "+Inf".to_owned()
    } else if f == f64::NEG_INFINITY {
        "-Inf".to_owned()
    } else {
        f.to_string()
    }
}

/// RFC 3339 with the fewest fraction digits: `2023-11-14T22:13:20Z`, `2023-11-15T06:13:20.5+08:00`.
pub fn rfc3339(at: &Zoned) -> String {
    if at.offset() == Offset::UTC {
        at.timestamp().to_string()
    } else {
        at.timestamp().display_with_offset(at.offset()).to_string()
    }
}

/// Appends the JSON of a value. A number that JSON cannot write is null; absent members are left out.
fn write_json(json: &mut String, value: &Value) {
    match value {
        Value::Absent | Value::Null => json.push_str("null"),
        Value::Float(f) if !f.is_finite() => json.push_str("null"),
        Value::Float(f) if *f != 0.0 && !(1e-6..1e21).contains(&f.abs()) => {
            let _ = write!(json, "{f:e}");
        }
        Value::Bool(_) | Value::Int(_) | Value::Unsigned(_) | Value::Float(_) | Value::Json(_) => {
            json.push_str(&text(value))
        }
        Value::Text(text) => write_json_text(json, text),
        Value::Array(members) => {
            json.push('[');
            for (index, member) in members.iter().enumerate() {
                if index > 0 {
                    json.push(',');
                }
                write_json(json, member);
            }
            json.push(']');
        }
        Value::Object(members) => {
            json.push('{');
            let present = members.iter().filter(|(_, member)| !matches!(member, Value::Absent));
            for (index, (key, member)) in present.enumerate() {
                if index > 0 {
                    json.push(',');
                }
                write_json_text(json, key);
                json.push(':');
                write_json(json, member);
            }
            json.push('}');
        }
        Value::Bytes(bytes) => write_json_text(json, &STANDARD.encode(bytes.as_slice())),
        Value::DateTime(at) => write_json_text(json, &rfc3339(at)),
    }
}

/// Appends text as a JSON string.
fn write_json_text(json: &mut String, text: &str) {
    json.push_str(&serde_json::Value::from(text).to_string());
}

pub fn failed(value: &Value, target: &'static str) -> ConversionError {
    ConversionError { found: described(value), target }
}

/// Kind and value for messages, such as `string(abc)`; long values are cut.
pub fn described(value: &Value) -> String {
    const SHOWN: usize = 64;
    let text = text(value);
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}({}…)", value.kind(), &text[..end]),
        None => format!("{}({text})", value.kind()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_700_000_000_000;

    fn to(value: impl Into<Value>, target: Target) -> Option<String> {
        let cast = cast(&value.into(), target, &TimeZone::UTC, NOW).ok()?;
        let mut json = String::new();
        write_json(&mut json, &cast);
        Some(json)
    }

    #[test]
    fn text_to_whole_number() {
        for (text, whole) in [
            ("17", Some("17")),
            ("017", Some("17")),
            ("08", Some("8")),
            ("-3", Some("-3")),
            ("+3", Some("3")),
            ("0x1F", Some("31")),
            ("-0x10", Some("-16")),
            ("0b101", Some("5")),
            ("0o17", Some("15")),
            ("9223372036854775807", Some("9223372036854775807")),
            ("-9223372036854775808", Some("-9223372036854775808")),
            ("9223372036854775808", None),
            ("1.5", None),
            ("", None),
            ("-", None),
            ("0x", None),
            ("--1", None),
            (" 1", None),
            ("1_0", None),
            ("é", None),
        ] {
            assert_eq!(to(text, Target::Int).as_deref(), whole, "{text:?}");
        }
    }

    #[test]
    fn numbers_to_whole_numbers() {
        assert_eq!(to(1.9, Target::Int).as_deref(), Some("1"));
        assert_eq!(to(-1.9, Target::Int).as_deref(), Some("-1"));
        assert_eq!(to(1e30, Target::Int), None);
        assert_eq!(to(-1e30, Target::Int), None);
        assert_eq!(to(f64::NAN, Target::Int), None);
        assert_eq!(to(9_223_372_036_854_775_808.0, Target::Int), None);
        assert_eq!(to(-9_223_372_036_854_775_808.0, Target::Int).as_deref(), Some("-9223372036854775808"));
        assert_eq!(to(true, Target::Int).as_deref(), Some("1"));
    }

    #[test]
    fn strict_whole_numbers() {
        assert_eq!(int(&Value::Float(12.0)), Ok(12));
        assert!(int(&Value::Float(1.5)).is_err());
        assert!(int(&Value::Float(f64::INFINITY)).is_err());
        let message = int(&Value::from("abc")).map_err(|error| error.to_string());
        assert_eq!(message, Err("cannot convert string(abc) to int".to_owned()));
    }

    #[test]
    fn text_to_double() {
        for (text, float) in [
            ("1.5", Some("1.5")),
            (".5", Some("0.5")),
            ("5.", Some("5")),
            ("1e3", Some("1000")),
            ("NaN", Some("null")),
            ("inf", Some("null")),
            ("1e400", None),
            ("abc", None),
            ("", None),
            ("1.5 ", None),
        ] {
            assert_eq!(to(text, Target::Float).as_deref(), float, "{text:?}");
        }
        assert_eq!(to(9_007_199_254_740_993, Target::Float).as_deref(), Some("9007199254740992"));
    }

    #[test]
    fn any_value_to_text() {
        let object = Value::object([("k".into(), Value::Int(1)), ("é\"".into(), Value::array([Value::from("x")]))]);
        for (value, expected) in [
            (Value::Int(12), "12"),
            (Value::Float(1234567.0), "1234567"),
            (Value::Float(0.00001), "0.00001"),
            (Value::Float(1e21), "1000000000000000000000"),
            (Value::Float(f64::INFINITY), "+Inf"),
            (Value::Bool(true), "true"),
            (Value::Null, ""),
            (Value::array([Value::Int(1), Value::from("x"), Value::Float(1.5)]), r#"[1,"x",1.5]"#),
            (object, r#"{"k":1,"é\"":["x"]}"#),
            (Value::from(b"hi".to_vec()), "hi"),
            (Value::Json("[1]".into()), "[1]"),
        ] {
            assert_eq!(text(&value), expected);
        }
    }

    #[test]
    fn values_to_times() {
        for (value, expected) in [
            (Value::Int(0), Some("\"1970-01-01T00:00:00Z\"")),
            (Value::Float(1700000000123.9), Some("\"2023-11-14T22:13:20.123Z\"")),
            (Value::from("2024-02-29T12:34:56.5+08:00"), Some("\"2024-02-29T12:34:56.5+08:00\"")),
            (Value::Float(1e30), None),
            (Value::Int(i64::MAX), None),
            (Value::Bool(true), None),
            (Value::array([Value::Int(1)]), None),
        ] {
            assert_eq!(to(value, Target::DateTime).as_deref(), expected);
        }
    }

    #[test]
    fn text_to_bytes() {
        assert_eq!(to("aGVs\r\nbG8=", Target::Bytes).as_deref(), Some("\"aGVsbG8=\""));
        assert_eq!(to("not base64", Target::Bytes).as_deref(), Some("\"bm90IGJhc2U2NA==\""));
        assert_eq!(to(5, Target::Bytes), None);
    }

    proptest! {
        #[test]
        fn text_of_a_number_gives_the_number_back(bits: u64, i: i64) {
            let f = f64::from_bits(bits);
            prop_assume!(f.is_finite());
            let back = to_float(&Value::from(float_text(f))).map(f64::to_bits);
            prop_assert_eq!(back, Ok(f.to_bits()));
            prop_assert_eq!(to_int(&Value::from(i.to_string())), Ok(i));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            for target in [Target::Int, Target::Float, Target::Bool, Target::DateTime, Target::Bytes] {
                let _ = cast(&Value::from(text.as_str()), target, &TimeZone::UTC, NOW);
            }
        }
    }
}
