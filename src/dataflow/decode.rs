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
    /// an invalid escape
    #[error("cannot parse form: {0}")]
    Escape(#[from] urlencoded::EscapeError),
}

/// The rows of a message that is not JSON.
///
/// # Errors
/// [`DecodeError`]
pub fn decode(schema: &StreamSchema, bytes: &[u8]) -> Result<Vec<Row>, DecodeError> {
    let text = || std::str::from_utf8(bytes);
    match &schema.format {
        Format::Binary { column } => Ok(vec![vec![(column.clone(), bytes.to_vec().into())]]),
        Format::Delimited { delimiter, header: true } => {
            Ok(delimited::decode_lines(text()?, delimiter, schema.columns.as_deref()))
        }
        Format::Delimited { delimiter, header: false } => {
            Ok(vec![delimited::decode(text()?, delimiter, schema.columns.as_deref())])
        }
        Format::UrlEncoded => {
            let mut row = urlencoded::decode(text()?)?;
            delimited::type_values(&mut row, schema.columns.as_deref());
            Ok(vec![row])
        }
        // Readers of JSON look only for the wanted members.
        Format::Json => Ok(Vec::new()),
    }
}
