//! JSON: decodes messages to values, and encodes values.
//!
//! Most messages are read once, and most of their fields never. So reading is split: [`Scanner`] validates a whole
//! message and records where the wanted values are, in one pass and without allocating; [`value`] decodes one of them
//! when an expression asks for it. Arrays and objects stay text (`Value::Json`) until something looks inside
//! ([`member`], [`element`]) or needs all of it ([`expand`]).
//!
//! Reading is strict RFC 8259. Beyond the grammar: nesting deeper than [`DEPTH_LIMIT`] and numbers beyond the range of
//! a double are errors; of duplicate keys the last counts; an unpaired surrogate escape (`\ud800`) reads as U+FFFD,
//! since no text can hold it.
//!
//! This module does not know streams, schemas or rules: its callers convert values to the types of columns.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
mod container;
mod decode;
mod encode;
#[cfg(target_arch = "x86_64")]
mod group;
mod known;
mod layout;
mod list;
#[cfg(any(target_arch = "x86_64", test))]
mod nesting;
mod number;
mod path;
mod row;
mod scan;
mod shape;
mod skip;
#[cfg(test)]
mod tests;

pub use decode::{expand, number, parse, text, value};
pub use encode::{EncodeError, replace_unpaired, write_key, write_str, write_value};
pub use path::{Elements, Members, element, elements, key, member, members};
pub use row::{ArrayPart, RowScanner};
pub use scan::{Scanner, Spans, Wanted};

/// The greatest nesting of arrays and objects. It bounds the stack that decoding needs.
pub const DEPTH_LIMIT: usize = 512;

/// Why a text is refused as JSON, and where. The offset counts bytes from the start of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid JSON at byte {offset}: {problem}")]
pub struct JsonError {
    /// Where reading stopped, in bytes from the start of the text; the text's length if it ends too early.
    pub offset: u32,
    pub problem: Problem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A message is neither an object nor an array of objects.
    #[error("only an object or an array of objects is supported")]
    NotObject,
    /// A message is not an array, though its stream expects arrays as rows.
    #[error("expected an array, since the stream has JSON_ARRAY=\"row\"")]
    NotArray,
    #[error("expected a value")]
    Value,
    #[error("expected a key in double quotes")]
    Key,
    #[error("expected a colon after the key")]
    Colon,
    /// A member of an object is followed by neither.
    #[error("expected a comma or a closing brace")]
    CommaOrBrace,
    /// An element of an array is followed by neither.
    #[error("expected a comma or a closing bracket")]
    CommaOrBracket,
    #[error("expected a digit")]
    Digit,
    #[error("a number must not start with a zero that other digits follow")]
    LeadingZero,
    #[error("the number is beyond the range of a double")]
    OutOfRange,
    #[error("unknown escape in a string; a backslash itself is written as two")]
    Escape,
    /// `\u` without four hexadecimal digits.
    #[error("expected four hexadecimal digits after \\u")]
    Hex,
    /// A line break, tab or other control character inside a string.
    #[error("control characters in a string must be escaped")]
    Control,
    #[error("the closing quote of a string is missing")]
    Unterminated,
    /// More than [`DEPTH_LIMIT`] nested arrays and objects.
    #[error("nested too deeply, the limit is 512")]
    TooDeep,
    #[error("unexpected text after the value")]
    Trailing,
    #[error("longer than 4 GiB")]
    TooLong,
    #[error("more rows than a message may have: send it in parts")]
    TooMany,
}

impl JsonError {
    #[cold]
    fn new(offset: usize, problem: Problem) -> Self {
        // Texts whose offsets do not fit are refused before reading starts.
        JsonError { offset: u32::try_from(offset).unwrap_or(u32::MAX), problem }
    }
}
