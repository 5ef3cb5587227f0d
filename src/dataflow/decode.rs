//! Decodes messages in other formats than JSON to rows, for the scan of streams and for lookup tables.

use crate::definition::stream::{Format, StreamSchema};
use crate::format::{delimited, urlencoded};
use crate::value::Row;

/// Why a message in another format than JSON cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// not UTF-8
    #[error("binary message is not UTF-8: {0}")]
    Utf8(#[from] std::str::Utf8Error),
    /// more values than a message may have
    #[error("a message has at most {MOST_VALUES} values")]
    Values,
    /// more rows than a message may have
    #[error("a message has at most {MOST_ROWS} rows: send it in parts")]
    Rows,
    /// an invalid escape
    #[error("cannot parse form: {0}")]
    Escape(#[from] urlencoded::EscapeError),
}

/// The most rows of a message from a socket: a thread runs nothing else while it reads a message.
pub const MOST_ROWS: usize = 1 << 17;

/// The most values of a row that no schema bounds.
const MOST_VALUES: usize = 1 << 16;

/// The rows of a message that is not JSON; `most` at the most.
///
/// # Errors
/// [`DecodeError`]
pub fn decode(schema: &StreamSchema, bytes: &[u8], most: usize) -> Result<Vec<Row>, DecodeError> {
    let text = || std::str::from_utf8(bytes);
    let exceeds = |text: &str, between: &str, most: usize| text.matches(between).nth(most).is_some();
    match &schema.format {
        Format::Binary { column } => Ok(vec![vec![(column.clone(), bytes.to_vec().into())]]),
        Format::Delimited { delimiter, header: true } => {
            let text = text()?;
            if text.lines().next().is_some_and(|names| exceeds(names, delimiter, MOST_VALUES)) {
                return Err(DecodeError::Values);
            }
            if text.lines().skip(1).filter(|line| !line.is_empty()).nth(most).is_some() {
                return Err(DecodeError::Rows);
            }
            Ok(delimited::decode_lines(text, delimiter, schema.columns.as_deref()))
        }
        Format::Delimited { delimiter, header: false } => {
            let text = text()?;
            if schema.columns.is_none() && exceeds(text, delimiter, MOST_VALUES) {
                return Err(DecodeError::Values);
            }
            Ok(vec![delimited::decode(text, delimiter, schema.columns.as_deref())])
        }
        Format::UrlEncoded => {
            if exceeds(text()?, "&", MOST_VALUES) {
                return Err(DecodeError::Values);
            }
            let mut row = urlencoded::decode(text()?)?;
            delimited::type_values(&mut row, schema.columns.as_deref());
            Ok(vec![row])
        }
        // Readers of JSON look only for the wanted members.
        Format::Json => Ok(Vec::new()),
    }
}
