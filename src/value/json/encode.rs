//! Encodes values as JSON text.
//!
//! Text is appended to a buffer that many results share, so a value that cannot be encoded leaves the buffer unchanged.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::skip;
use crate::value::Value;

/// Why a value cannot be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("JSON has no number for NaN and infinity")]
    NotFinite,
}

/// Appends the JSON text of a value; `Absent` is written as null. On an error the buffer is unchanged.
#[inline]
pub fn write_value(out: &mut Vec<u8>, value: &Value) -> Result<(), EncodeError> {
    let start = out.len();
    let result = write(out, value);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

/// Appends a key in quotes, without the colon.
#[inline]
pub fn write_key(out: &mut Vec<u8>, key: &str) {
    write_str(out, key);
}

/// Appends text in quotes. Only what JSON requires is escaped.
#[inline]
pub fn write_str(out: &mut Vec<u8>, text: &str) {
    let bytes = text.as_bytes();
    out.reserve(bytes.len() + 2);
    out.push(b'"');
    let mut done = 0;
    loop {
        let stop = skip::string_stop(bytes, done).min(bytes.len());
        out.extend_from_slice(&bytes[done..stop]);
        match bytes.get(stop) {
            None => break,
            Some(byte) => write_escape(out, *byte),
        }
        done = stop + 1;
    }
    out.push(b'"');
}

fn write(out: &mut Vec<u8>, value: &Value) -> Result<(), EncodeError> {
    match value {
        Value::Absent | Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Int(int) => out.extend_from_slice(itoa::Buffer::new().format(*int).as_bytes()),
        Value::Unsigned(int) => out.extend_from_slice(itoa::Buffer::new().format(*int).as_bytes()),
        Value::Float(float) => write_float(out, *float)?,
        Value::Text(text) => write_str(out, text),
        Value::Json(json) => out.extend_from_slice(json.as_bytes()),
        Value::Array(members) => {
            out.push(b'[');
            for (i, member) in members.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(out, member)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            for (i, (key, member)) in members.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write_key(out, key);
                out.push(b':');
                write(out, member)?;
            }
            out.push(b'}');
        }
        Value::Bytes(bytes) => write_base64(out, bytes),
        Value::DateTime(time) => write_time(out, time),
    }
    Ok(())
}

#[cold]
fn write_escape(out: &mut Vec<u8>, byte: u8) {
    match byte {
        b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        0x8 => out.extend_from_slice(b"\\b"),
        0xc => out.extend_from_slice(b"\\f"),
        _ => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(&[b'\\', b'u', b'0', b'0', HEX[byte as usize >> 4], HEX[byte as usize & 15]]);
        }
    }
}

/// Appends the shortest form that reads back as the same double. Whole numbers have no fraction; from 1e21 up and below
/// 1e-6 there is an exponent, as in Go and JavaScript.
fn write_float(out: &mut Vec<u8>, float: f64) -> Result<(), EncodeError> {
    if !float.is_finite() {
        return Err(EncodeError::NotFinite);
    }
    let mut buffer = zmij::Buffer::new();
    let written = buffer.format_finite(float);
    let Some((mantissa, exponent)) = written.split_once('e') else {
        out.extend_from_slice(written.strip_suffix(".0").unwrap_or(written).as_bytes());
        return Ok(());
    };
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-6..21).contains(&exponent) {
        out.extend_from_slice(mantissa.strip_suffix(".0").unwrap_or(mantissa).as_bytes());
        out.extend_from_slice(if exponent < 0 { b"e-" } else { b"e+" });
        out.extend_from_slice(itoa::Buffer::new().format(exponent.unsigned_abs()).as_bytes());
        return Ok(());
    }
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let fraction = if fraction == "0" { "" } else { fraction };
    out.extend_from_slice(sign.as_bytes());
    if exponent < 0 {
        out.extend_from_slice(b"0.");
        out.resize(out.len() + exponent.unsigned_abs() as usize - 1, b'0');
        out.extend_from_slice(whole.as_bytes());
        out.extend_from_slice(fraction.as_bytes());
    } else {
        // From 1e16 up the double has no fraction: only digits are written.
        out.extend_from_slice(whole.as_bytes());
        out.extend_from_slice(fraction.as_bytes());
        out.resize(out.len() + (exponent as usize).saturating_sub(fraction.len()), b'0');
    }
    Ok(())
}

fn write_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    // The buffer has exactly the needed length: four characters for every three bytes.
    let written = STANDARD.encode_slice(bytes, &mut out[start..]).unwrap_or_default();
    out.truncate(start + written);
    out.push(b'"');
}

/// Appends RFC 3339 with as many fraction digits as needed and the offset of the zone; `Z` for UTC.
fn write_time(out: &mut Vec<u8>, time: &jiff::Zoned) {
    let (date, clock) = (time.date(), time.time());
    out.push(b'"');
    if date.year() < 0 {
        out.push(b'-');
    }
    write_padded(out, date.year().unsigned_abs() as u32, 4);
    for (separator, part) in
        [(b'-', date.month()), (b'-', date.day()), (b'T', clock.hour()), (b':', clock.minute()), (b':', clock.second())]
    {
        out.push(separator);
        write_padded(out, part.unsigned_abs() as u32, 2);
    }
    let nanoseconds = clock.subsec_nanosecond().unsigned_abs();
    if nanoseconds > 0 {
        out.push(b'.');
        write_padded(out, nanoseconds, 9);
        while out.last() == Some(&b'0') {
            out.pop();
        }
    }
    let offset = time.offset().seconds();
    if offset == 0 {
        out.push(b'Z');
    } else {
        // RFC 3339 offsets have no seconds.
        let minutes = offset.unsigned_abs() / 60;
        out.push(if offset < 0 { b'-' } else { b'+' });
        write_padded(out, minutes / 60, 2);
        out.push(b':');
        write_padded(out, minutes % 60, 2);
    }
    out.push(b'"');
}

/// Appends a number, padded with zeros to `width` digits, at most 9.
fn write_padded(out: &mut Vec<u8>, number: u32, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(number);
    out.resize(out.len() + width.saturating_sub(digits.len()), b'0');
    out.extend_from_slice(digits.as_bytes());
}

/// Replaces every unpaired surrogate escape in valid JSON with `\ufffd`, which it decodes to: copied text must not pass
/// on what receivers refuse.
pub fn replace_unpaired(json: &mut [u8]) {
    // Most texts have no escapes, and most that have some have none of these.
    let Some(mut at) = memchr::memchr(b'\\', json) else { return };
    if memchr::memmem::find(&json[at..], b"\\u").is_none() {
        return;
    }
    while let Some(next) = memchr::memchr(b'\\', &json[at..]) {
        at += next;
        match (surrogate(&json[at..]), json.get(at + 6..).and_then(surrogate)) {
            (Some(Half::High), Some(Half::Low)) => at += 12,
            (Some(_), _) => {
                json[at..at + 6].copy_from_slice(b"\\ufffd");
                at += 6;
            }
            // Skip the backslash and the escaped character.
            (None, _) => at = (at + 2).min(json.len()),
        }
    }
}

/// The half of a surrogate pair.
enum Half {
    High,
    Low,
}

/// The half that the escape at the start stands for, if any.
fn surrogate(json: &[u8]) -> Option<Half> {
    let digits = json.get(..6)?.strip_prefix(b"\\u")?;
    let code = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    match code {
        0xd800..0xdc00 => Some(Half::High),
        0xdc00..0xe000 => Some(Half::Low),
        _ => None,
    }
}
