//! Messages of values between delimiters: no quotes, no trimming, a line a row.
//!
//! The values are named by the stream's columns in order and read as their types; without columns they are texts
//! `col0`, `col1`, ….

use crate::sql::ast::{ColumnDef, DataType};
use crate::value::{Row, Text, Value};

/// The row of a message. Of more values than columns the last are dropped; missing ones are absent.
pub fn decode(text: &str, delimiter: &str, columns: Option<&[ColumnDef]>) -> Row {
    let values = text.split(delimiter);
    match columns {
        None => values.enumerate().map(|(index, value)| (Text::from(format!("col{index}")), value.into())).collect(),
        Some(columns) => columns
            .iter()
            .zip(values)
            .map(|(column, value)| (column.name.name.clone(), read(value, &column.ty)))
            .collect(),
    }
}

/// A text as a value of a type; as text where it is none, so that the schema tells of it.
fn read(text: &str, ty: &DataType) -> Value {
    let number = || text.trim().parse().ok().map(Value::Int);
    let value = match ty {
        DataType::BigInt => number(),
        DataType::Float => text.trim().parse().ok().filter(|float: &f64| float.is_finite()).map(Value::Float),
        DataType::Array(_) | DataType::Struct(_) => crate::codec::json::parse(text).ok(),
        DataType::DateTime => number(),
        DataType::Boolean | DataType::String | DataType::Bytea => None,
    };
    value.unwrap_or_else(|| Value::from(text))
}

/// A line of values.
pub fn encode<'v>(out: &mut Vec<u8>, values: impl IntoIterator<Item = &'v str>, delimiter: &str) {
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            out.extend_from_slice(delimiter.as_bytes());
        }
        out.extend_from_slice(value.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        let row = decode("1;;x,y", ";", None);
        let names: Vec<_> = row.iter().map(|(name, value)| (name.as_str(), value.as_text().unwrap())).collect();
        assert_eq!(names, [("col0", "1"), ("col1", ""), ("col2", "x,y")]);
        assert_eq!(decode("", ",", None).len(), 1);
    }
}
