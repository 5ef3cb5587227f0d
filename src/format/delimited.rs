//! Messages of values between delimiters: one row a line, no quotes, no trimming.
//!
//! The stream's columns name the values in order and give their types; without columns, they are texts named `col0`,
//! `col1`, ….

use crate::value::types::{ColumnDef, DataType};
use crate::value::{Row, Text, Value};

/// Decodes a message of one row. Values beyond the last column are dropped; missing ones are absent.
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

/// Decodes a message whose first line names the values. Empty lines are skipped.
pub fn decode_lines(text: &str, delimiter: &str, columns: Option<&[ColumnDef]>) -> Vec<Row> {
    let mut lines = text.lines();
    let names: Vec<Text> = lines.next().unwrap_or_default().split(delimiter).map(Text::from).collect();
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut row: Row = names.iter().cloned().zip(line.split(delimiter).map(Value::from)).collect();
            type_values(&mut row, columns);
            row
        })
        .collect()
}

/// Converts texts to the columns' types.
pub fn type_values(row: &mut Row, columns: Option<&[ColumnDef]>) {
    for (name, value) in row {
        let column = columns.and_then(|columns| columns.iter().find(|column| column.name.name == *name));
        if let (Some(column), Value::Text(text)) = (column, &*value) {
            *value = read(text, &column.ty);
        }
    }
}

/// Converts a text to a type; unchanged if it cannot be converted, so that the schema reports it. Empty text is absent,
/// except in text columns.
fn read(text: &str, ty: &DataType) -> Value {
    if text.is_empty() && !matches!(ty, DataType::String | DataType::Bytea) {
        return Value::Null;
    }
    let number = || text.trim().parse().ok().map(Value::Int);
    let value = match ty {
        // 1.0 and 1e3 are whole numbers too.
        DataType::BigInt => number().or_else(|| text.trim().parse().ok().map(Value::Float)),
        DataType::Float => text.trim().parse().ok().filter(|float: &f64| float.is_finite()).map(Value::Float),
        DataType::Array(_) | DataType::Struct(_) => crate::format::json::parse(text).ok(),
        DataType::DateTime => number(),
        DataType::Boolean | DataType::String | DataType::Bytea => None,
    };
    value.unwrap_or_else(|| Value::from(text))
}

/// Writes a line of values.
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
    use crate::format::json;
    use crate::sql;
    use proptest::prelude::*;

    fn columns(columns: &str) -> Vec<ColumnDef> {
        sql::parse_create(&format!("CREATE STREAM s ({columns}) WITH (TYPE=\"websocket\")")).unwrap().columns
    }

    fn shown(row: Row) -> String {
        let mut out = Vec::new();
        json::write_value(&mut out, &Value::object(row)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rows() {
        let row = decode("1;;x,y", ";", None);
        let names: Vec<_> = row.iter().map(|(name, value)| (name.as_str(), value.as_text().unwrap())).collect();
        assert_eq!(names, [("col0", "1"), ("col1", ""), ("col2", "x,y")]);
        assert_eq!(decode("", ",", None).len(), 1);
    }

    #[test]
    fn values_are_read_as_their_columns() {
        let all = columns("i BIGINT, f FLOAT, s STRING, b BOOLEAN, a ARRAY(BIGINT)");
        for (text, expected) in [
            ("7|2|9|true|[1,2]|more", r#"{"i":7,"f":2,"s":"9","b":"true","a":[1,2]}"#),
            ("1.0|x||", r#"{"i":1,"f":"x","s":"","b":null}"#),
            ("|NaN", r#"{"i":null,"f":"NaN"}"#),
        ] {
            assert_eq!(shown(decode(text, "|", Some(&all))), expected, "{text}");
        }
    }

    #[test]
    fn a_header_names_the_values_of_the_lines_behind_it() {
        let rows = decode_lines("s,i\r\nx,1\n\ny\n", ",", Some(&columns("i BIGINT, s STRING")));
        let rows: Vec<String> = rows.into_iter().map(shown).collect();
        assert_eq!(rows, [r#"{"s":"x","i":1}"#, r#"{"s":"y"}"#]);
        assert!(decode_lines("", ",", None).is_empty());
        assert!(decode_lines("a,b", ",", None).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "\\PC{0,40}", delimiter in "\\PC{1,2}") {
            let columns = columns("i BIGINT, f FLOAT, d DATETIME, b BYTEA, a ARRAY(STRUCT(x BIGINT))");
            for columns in [None, Some(columns.as_slice())] {
                shown(decode(&text, &delimiter, columns));
                decode_lines(&text, &delimiter, columns).into_iter().map(shown).for_each(drop);
            }
        }
    }
}
