//! Numbers: finds their end, and decodes them.

use super::block;
use super::{JsonError, Problem};
use crate::value::Value;

/// The end of the number that starts at `start`, at a digit or minus sign.
#[inline(always)]
pub(super) fn end(text: &[u8], start: usize) -> Result<usize, JsonError> {
    let first = start + (text.get(start) == Some(&b'-')) as usize;
    let digits = block::load(text, first).digits();
    let whole = (!digits).trailing_zeros() as usize;
    if whole == 0 || whole >= block::WIDTH - 1 || (whole > 1 && text[first] == b'0') {
        return long_end(text, first);
    }
    let mut end = first + whole;
    let mut next = text.get(end).copied().unwrap_or(0);
    if next == b'.' {
        let fraction = (!(digits >> (whole + 1))).trailing_zeros() as usize;
        if fraction == 0 || whole + 1 + fraction >= block::WIDTH {
            return long_end(text, first);
        }
        end += 1 + fraction;
        next = text.get(end).copied().unwrap_or(0);
    }
    if next | 0x20 == b'e' {
        return long_end(text, first);
    }
    Ok(end)
}

/// The same for numbers that are long, have an exponent, or are invalid. `first` is the position after the sign.
#[inline(never)]
fn long_end(text: &[u8], first: usize) -> Result<usize, JsonError> {
    let mut at = digits_end(text, first)?;
    let whole = at - first;
    if whole > 1 && text[first] == b'0' {
        return Err(JsonError::new(first, Problem::LeadingZero));
    }
    if text.get(at) == Some(&b'.') {
        at = digits_end(text, at + 1)?;
    }
    let mut exponent = 0u32;
    if let Some(b'e' | b'E') = text.get(at) {
        at += 1;
        let negative = text.get(at) == Some(&b'-');
        if let Some(b'+' | b'-') = text.get(at) {
            at += 1;
        }
        let end = digits_end(text, at)?;
        if !negative {
            for digit in &text[at..end] {
                exponent = exponent.saturating_mul(10).saturating_add((digit - b'0') as u32);
            }
        }
        at = end;
    }
    // Below 10^308 nothing overflows; beyond it, the exact value decides.
    if whole.saturating_add(exponent as usize) > 308 && !double(&text[first..at]).is_finite() {
        return Err(JsonError::new(first, Problem::OutOfRange));
    }
    Ok(at)
}

/// The end of a run of at least one digit.
fn digits_end(text: &[u8], start: usize) -> Result<usize, JsonError> {
    let count = text.get(start..).map_or(0, |rest| rest.iter().take_while(|byte| byte.is_ascii_digit()).count());
    if count == 0 {
        return Err(JsonError::new(start.min(text.len()), Problem::Digit));
    }
    Ok(start + count)
}

/// Decodes a valid number: `Int` or `Unsigned`, exact, if it is written as a whole number and fits 64 bits; otherwise
/// the nearest `Float`. `1.0`, `1e3` and `-0` are `Float`.
pub(super) fn decode(text: &[u8]) -> Value {
    let (negative, magnitude) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut mantissa = 0u64;
    let mut point = None;
    // 19 digits never overflow 64 bits.
    if magnitude.len() > 19 {
        return decode_long(text);
    }
    for (i, byte) in magnitude.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            mantissa = mantissa * 10 + digit as u64;
        } else if *byte == b'.' && point.is_none() {
            point = Some(i);
        } else {
            return Value::Float(double(text));
        }
    }
    match point {
        // Integers have no -0.
        None if negative && mantissa == 0 => Value::Float(-0.0),
        None if mantissa <= i64::MAX as u64 => Value::Int(if negative { -(mantissa as i64) } else { mantissa as i64 }),
        None => decode_long(text),
        Some(point) => {
            let places = magnitude.len() - point - 1;
            // Both are exact as doubles, so the division rounds only once, to the nearest double.
            if mantissa < 1 << 53 && places < POWERS_OF_TEN.len() {
                let float = mantissa as f64 / POWERS_OF_TEN[places];
                return Value::Float(if negative { -float } else { float });
            }
            Value::Float(double(text))
        }
    }
}

#[inline(never)]
fn decode_long(text: &[u8]) -> Value {
    let text_of_number = std::str::from_utf8(text).unwrap_or_default();
    let signed = text_of_number.parse().map(Value::Int);
    signed.or_else(|_| text_of_number.parse().map(Value::whole)).unwrap_or_else(|_| Value::Float(double(text)))
}

/// The nearest double; infinite if the number is out of range.
fn double(text: &[u8]) -> f64 {
    // The caller passes a valid number in ASCII.
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(f64::NAN)
}

/// The powers of ten that a double holds exactly.
const POWERS_OF_TEN: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];
