//! Finds the end of strings and values, and validates them.
//!
//! Nothing is allocated. Nesting is stored as one bit a level, so depth costs neither stack nor heap.
//!
//! Functions take the whole text and a position in it, and return the position after what they read.

use super::{DEPTH_LIMIT, JsonError, Problem, block, container, list, number};

/// The byte at `at`, or zero past the end: zero is valid nowhere outside strings, so the end needs no separate check.
#[inline(always)]
pub(super) fn byte(text: &[u8], at: usize) -> u8 {
    text.get(at).copied().unwrap_or(0)
}

/// The next place that is not white space.
#[inline(always)]
pub(super) fn blanks(text: &[u8], at: usize) -> usize {
    if byte(text, at) > b' ' { at } else { long_blanks(text, at) }
}

#[inline(never)]
fn long_blanks(text: &[u8], mut at: usize) -> usize {
    while let b' ' | b'\n' | b'\t' | b'\r' = byte(text, at) {
        at += 1;
    }
    at
}

/// The position after the closing quote of a string; `at` is the position after its opening quote.
#[inline(always)]
pub(super) fn string(text: &[u8], mut at: usize) -> Result<usize, JsonError> {
    let mut stops = block::load(text, at).stops();
    if stops == 0 {
        at += block::WIDTH;
        stops = block::load(text, at).stops();
        if stops == 0 {
            return long_string(text, at + block::WIDTH);
        }
    }
    let end = at + stops.trailing_zeros() as usize;
    if byte(text, end) == b'"' { Ok(end + 1) } else { long_string(text, end) }
}

#[inline(never)]
fn long_string(text: &[u8], mut at: usize) -> Result<usize, JsonError> {
    loop {
        at = string_stop(text, at);
        match text.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at = escape(text, at)?,
            Some(_) => return Err(JsonError::new(at, Problem::Control)),
            None => return Err(JsonError::new(text.len(), Problem::Unterminated)),
        }
    }
}

/// The next quote, backslash or control character in a string, or the end of the text.
#[inline(always)]
pub(super) fn string_stop(text: &[u8], mut at: usize) -> usize {
    loop {
        let stops = block::load(text, at).stops();
        if stops != 0 {
            return at + stops.trailing_zeros() as usize;
        }
        at += block::WIDTH;
    }
}

/// The position after the escape whose backslash is at `at`.
pub(super) fn escape(text: &[u8], at: usize) -> Result<usize, JsonError> {
    match byte(text, at + 1) {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(at + 2),
        b'u' => match text.get(at + 2..at + 6) {
            Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => Ok(at + 6),
            _ => Err(JsonError::new(at, Problem::Hex)),
        },
        _ if at + 1 >= text.len() => Err(JsonError::new(text.len(), Problem::Unterminated)),
        _ => Err(JsonError::new(at, Problem::Escape)),
    }
}

/// The position after the value that starts at `at`; white space before it is already skipped. `depth` arrays and
/// objects are open around it.
#[inline(always)]
pub(super) fn value(text: &[u8], at: usize, depth: usize) -> Result<usize, JsonError> {
    match byte(text, at) {
        b'"' => string(text, at + 1),
        b'-' | b'0'..=b'9' => number::end(text, at),
        b'{' | b'[' => nested(text, at, depth),
        _ => literal(text, at),
    }
}

/// The position after true, false or null.
#[inline(always)]
pub(super) fn literal(text: &[u8], at: usize) -> Result<usize, JsonError> {
    match text.get(at..).and_then(|rest| rest.first_chunk::<4>()) {
        Some(b"true" | b"null") => Ok(at + 4),
        Some(b"fals") if byte(text, at + 4) == b'e' => Ok(at + 5),
        _ => Err(JsonError::new(at.min(text.len()), Problem::Value)),
    }
}

/// The start of a member's value, after key, colon and white space. A key is expected at `at`.
#[inline(always)]
pub(super) fn key(text: &[u8], at: usize) -> Result<usize, JsonError> {
    if byte(text, at) != b'"' {
        return Err(JsonError::new(at.min(text.len()), Problem::Key));
    }
    colon(text, string(text, at + 1)?)
}

/// The position after the colon that follows a key, and after white space on both sides of it.
#[inline(always)]
pub(super) fn colon(text: &[u8], at: usize) -> Result<usize, JsonError> {
    let at = blanks(text, at);
    if byte(text, at) != b':' {
        return Err(JsonError::new(at.min(text.len()), Problem::Colon));
    }
    Ok(blanks(text, at + 1))
}

/// The position after the array or object that starts at `at`. `outer` arrays and objects are open around it.
#[inline(never)]
fn nested(text: &[u8], at: usize, outer: usize) -> Result<usize, JsonError> {
    if text.len() - at >= list::LARGE
        && byte(text, at) == b'['
        && let Some(end) = list::end(text, at, outer)
    {
        return Ok(end);
    }
    if text.len() - at >= container::LARGE
        && let Some(end) = container::end(text, at, outer)
    {
        return Ok(end);
    }
    tokens(text, at, outer)
}

/// The same, token by token.
pub(super) fn tokens(text: &[u8], mut at: usize, outer: usize) -> Result<usize, JsonError> {
    let mut open = Open::new();
    loop {
        // A value starts here.
        match byte(text, at) {
            b'"' => at = string(text, at + 1)?,
            b'-' | b'0'..=b'9' => at = number::end(text, at)?,
            b'[' => {
                open.push(false, outer, at)?;
                at = blanks(text, at + 1);
                if byte(text, at) != b']' {
                    continue;
                }
                at += 1;
                open.pop();
            }
            b'{' => {
                open.push(true, outer, at)?;
                at = blanks(text, at + 1);
                if byte(text, at) != b'}' {
                    at = key(text, at)?;
                    continue;
                }
                at += 1;
                open.pop();
            }
            _ => at = literal(text, at)?,
        }
        // A value ended here.
        loop {
            if open.depth == 0 {
                return Ok(at);
            }
            at = blanks(text, at);
            match (byte(text, at), open.object) {
                (b',', false) => {
                    at = blanks(text, at + 1);
                    break;
                }
                (b',', true) => {
                    at = key(text, blanks(text, at + 1))?;
                    break;
                }
                (b']', false) | (b'}', true) => {
                    at += 1;
                    open.pop();
                }
                (_, false) => return Err(JsonError::new(at.min(text.len()), Problem::CommaOrBracket)),
                (_, true) => return Err(JsonError::new(at.min(text.len()), Problem::CommaOrBrace)),
            }
        }
    }
}

/// The open arrays and objects, the innermost last.
#[derive(Clone)]
pub(super) struct Open {
    /// Their number.
    pub(super) depth: usize,
    /// Whether the innermost one is an object.
    pub(super) object: bool,
    /// The same for those around it, one bit each.
    outer: [u64; DEPTH_LIMIT / 64],
}

impl Open {
    pub(super) fn new() -> Self {
        Open { depth: 0, object: false, outer: [0; DEPTH_LIMIT / 64] }
    }

    /// Opens one more, at the position `at`; `outer` more are open around all of these.
    #[inline(always)]
    pub(super) fn push(&mut self, object: bool, outer: usize, at: usize) -> Result<(), JsonError> {
        if self.depth + outer >= DEPTH_LIMIT {
            return Err(JsonError::new(at, Problem::TooDeep));
        }
        let (word, bit) = (self.depth / 64, self.depth % 64);
        self.outer[word] = self.outer[word] & !(1 << bit) | (self.object as u64) << bit;
        self.depth += 1;
        self.object = object;
        Ok(())
    }

    #[inline(always)]
    pub(super) fn pop(&mut self) {
        self.depth -= 1;
        self.object = self.outer[self.depth / 64] >> (self.depth % 64) & 1 == 1;
    }
}
