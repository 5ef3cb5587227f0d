//! Converts values to the types of declared columns.
//!
//! A column that cannot be converted is an error only for the rules that read it.

use std::sync::Arc;

use jiff::tz::TimeZone;

use crate::format::json;
use crate::value::cast;
use crate::value::timestamp_format::TimestampFormat;
use crate::value::types::{ColumnDef, DataType, Literal};
use crate::value::{Object, Text, Value};

/// A value that does not fit its column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    #[error("{column} has wrong type:{found}, expect:{expected}")]
    Type {
        column: Text,
        /// Type and value.
        found: String,
        /// The declared type.
        expected: String,
    },
    /// STRICT_VALIDATION: the column is missing or null.
    #[error("error in preprocessor: field {0} is not found")]
    Missing(Text),
}

/// What STRICT_VALIDATION needs to convert a column.
#[derive(Clone, Debug)]
pub struct Strict {
    pub column: ColumnDef,
    /// Used for DATETIME columns.
    pub format: Option<TimestampFormat>,
}

/// Converts a column whose JSON text is `text` (`None`: the key is absent).
///
/// `strict` is set if the stream has STRICT_VALIDATION: then the column must be present (or have a DEFAULT), and
/// DATETIME columns become points in time in `zone`.
///
/// # Errors
/// [`SchemaError`]
pub fn convert(
    column: &Text,
    ty: Option<&DataType>,
    text: Option<&str>,
    strict: Option<&Strict>,
    zone: &TimeZone,
) -> Result<Value, SchemaError> {
    accept(column, ty, text.map(json::value), strict, zone)
}

/// As [`convert`], for a decoded value.
///
/// # Errors
/// [`SchemaError`]
pub fn accept(
    column: &Text,
    ty: Option<&DataType>,
    value: Option<Value>,
    strict: Option<&Strict>,
    zone: &TimeZone,
) -> Result<Value, SchemaError> {
    let value = match value {
        None | Some(Value::Absent) => {
            return match strict {
                None => Ok(Value::Absent),
                Some(Strict { column: ColumnDef { ty, default: Some(literal), .. }, .. }) => Ok(default(ty, literal)),
                Some(_) => Err(SchemaError::Missing(column.clone())),
            };
        }
        Some(value) => value,
    };
    let Some(ty) = ty else { return Ok(value) };
    if value.is_null() {
        return if strict.is_some() { Err(SchemaError::Missing(column.clone())) } else { Ok(Value::Null) };
    }
    fit(ty, value, strict, zone).map_err(|misfit| match misfit {
        Misfit::Type(found) => SchemaError::Type {
            column: column.clone(),
            found: match found {
                // A whole number that is too large for BIGINT.
                Value::Unsigned(_) => "unsigned bigint".to_owned(),
                found => found.kind().to_string(),
            },
            expected: ty.to_string().to_lowercase(),
        },
        Misfit::Missing(member) => SchemaError::Missing(format!("{column}.{member}").into()),
    })
}

/// Why a value does not fit its type.
enum Misfit {
    /// The value, or a part of it, has another type.
    Type(Value),
    /// A member of a struct is missing, under STRICT_VALIDATION.
    Missing(Text),
}

/// The value of a column's DEFAULT, converted to the column's type if possible: `FLOAT DEFAULT 1` is 1.0, and `STRING
/// DEFAULT true` is text.
pub fn default(ty: &DataType, literal: &Literal) -> Value {
    let value = match literal {
        Literal::Int(i) => Value::Int(*i),
        Literal::Unsigned(u) => Value::whole(*u),
        Literal::Float(f) => Value::Float(*f),
        Literal::Text(text) => Value::Text(text.clone()),
        Literal::Bool(b) => Value::Bool(*b),
    };
    match (ty, &value) {
        (DataType::String, _) => Value::Text(cast::text(&value).as_ref().into()),
        _ => fit(ty, value.clone(), None, &TimeZone::UTC).unwrap_or(value),
    }
}

/// The value as `ty`, or why it does not fit.
fn fit(ty: &DataType, value: Value, strict: Option<&Strict>, zone: &TimeZone) -> Result<Value, Misfit> {
    if value.is_null() {
        // The caller reports null members of structs by name; this is an element of an array.
        return if strict.is_some() { Err(Misfit::Type(value)) } else { Ok(Value::Null) };
    }
    match (ty, &value) {
        (DataType::BigInt, Value::Int(_)) | (DataType::Float, Value::Float(_)) => Ok(value),
        // The smallest integer arrives as an integer. A double of this value was written with digits that 64 bits
        // cannot hold.
        (DataType::BigInt, Value::Float(f)) if *f <= i64::MIN as f64 => Err(Misfit::Type(value)),
        (DataType::BigInt, Value::Float(_)) => cast::int(&value).map(Value::Int).map_err(|_| Misfit::Type(value)),
        (DataType::Float, Value::Int(i)) => Ok(Value::Float(*i as f64)),
        (DataType::Float, Value::Unsigned(u)) => Ok(Value::Float(*u as f64)),
        (DataType::String, Value::Text(_)) => Ok(value),
        (DataType::String, Value::Int(_) | Value::Unsigned(_) | Value::Float(_)) => {
            Ok(Value::Text(cast::text(&value).as_ref().into()))
        }
        (DataType::Boolean, Value::Bool(_)) => Ok(value),
        (DataType::Boolean, Value::Int(i)) => Ok(Value::Bool(*i != 0)),
        (DataType::Boolean, Value::Unsigned(_)) => Ok(Value::Bool(true)),
        (DataType::Boolean, Value::Float(f)) => Ok(Value::Bool(*f != 0.0)),
        (DataType::Boolean, Value::Text(text)) => {
            cast::truth_of_text(text).map(Value::Bool).ok_or_else(|| Misfit::Type(value.clone()))
        }
        (DataType::DateTime, Value::Int(_) | Value::Float(_) | Value::Text(_)) if strict.is_some() => {
            let format = strict.and_then(|strict| strict.format.as_ref());
            // A time without a date is today's.
            let now = jiff::Timestamp::now().as_millisecond();
            cast::to_datetime_by(format, &value, zone, now).map(Value::DateTime).map_err(|_| Misfit::Type(value))
        }
        (DataType::DateTime, Value::Int(_) | Value::Float(_) | Value::Text(_)) => Ok(value),
        (DataType::DateTime, Value::DateTime(_)) | (DataType::Bytea, Value::Bytes(_)) => Ok(value),
        (DataType::Array(of), Value::Array(members)) => {
            let members: Result<Vec<Value>, Misfit> =
                members.iter().map(|member| fit(of, member.clone(), strict, zone)).collect();
            members.map(Value::array)
        }
        (DataType::Bytea, Value::Text(text)) => {
            cast::base64_bytes(text).map(Value::from).map_err(|_| Misfit::Type(value))
        }
        (DataType::Array(of), Value::Json(text)) if text.starts_with('[') => {
            let members: Result<Vec<Value>, Misfit> =
                json::elements(text).map(|member| fit(of, json::value(member), strict, zone)).collect();
            members.map(Value::array)
        }
        (DataType::Struct(columns), Value::Json(text)) if text.starts_with('{') => {
            let members = json::members(text).map(|(key, member)| (json::key(key), json::value(member)));
            structure(columns, members, strict, zone)
        }
        (DataType::Struct(columns), Value::Object(members)) => {
            let members = members.iter().map(|(key, member)| (key.clone(), member.clone()));
            structure(columns, members, strict, zone)
        }
        _ => Err(Misfit::Type(value)),
    }
}

/// The members of an object that a STRUCT declares, converted to their types.
fn structure(
    columns: &[ColumnDef],
    members: impl Iterator<Item = (Text, Value)>,
    strict: Option<&Strict>,
    zone: &TimeZone,
) -> Result<Value, Misfit> {
    let mut object = Object::with_capacity(columns.len());
    for (key, member) in members {
        if let Some(column) = columns.iter().find(|column| column.name.name == key) {
            let member = if member.is_null() { Value::Null } else { fit(&column.ty, member, strict, zone)? };
            object.insert(key, member);
        }
    }
    if strict.is_some() {
        for column in columns {
            let name = &column.name.name;
            match (object.get(name).is_none_or(Value::is_null), &column.default) {
                (false, _) => {}
                (true, Some(literal)) if !object.contains_key(name) => {
                    object.insert(name.clone(), default(&column.ty, literal));
                }
                (true, _) => return Err(Misfit::Missing(name.clone())),
            }
        }
    }
    Ok(Value::Object(Arc::new(object)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql;

    fn column(ty: &str, text: &str) -> Result<String, String> {
        let create = sql::parse_create(&format!("CREATE STREAM s (a {ty}) WITH (TYPE=\"websocket\")")).unwrap();
        let ty = &create.columns[0].ty;
        let value = convert(&"a".into(), Some(ty), Some(text), None, &TimeZone::UTC).map_err(|e| e.to_string())?;
        let mut out = Vec::new();
        json::write_value(&mut out, &value).unwrap();
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn columns_convert_as_the_schema_says() {
        let table = [
            ("BIGINT", "9007199254740993", "9007199254740993"),
            ("BIGINT", "1e3", "1000"),
            ("FLOAT", "2", "2"),
            ("STRING", "123456789", "\"123456789\""),
            ("STRING", "\"x\"", "\"x\""),
            ("BOOLEAN", "0", "false"),
            ("BOOLEAN", "\"t\"", "true"),
            ("DATETIME", "\"2024-01-01\"", "\"2024-01-01\""),
            ("BYTEA", "\"aGk=\"", "\"aGk=\""),
            ("ARRAY(BIGINT)", "[1, null, 2.0]", "[1,null,2]"),
            ("STRUCT(x BIGINT, y STRING)", "{\"y\": 5, \"z\": 1, \"x\": 2}", "{\"y\":\"5\",\"x\":2}"),
            ("BIGINT", "null", "null"),
        ];
        for (ty, text, expected) in table {
            assert_eq!(column(ty, text).as_deref(), Ok(expected), "{ty} {text}");
        }
    }

    #[test]
    fn strict_columns_are_there_and_read_by_the_format_of_the_stream() {
        for (ty, text, expected) in [
            ("STRUCT(x BIGINT, y STRING)", "{\"x\": 1}", Err("error in preprocessor: field a.y is not found")),
            (
                "STRUCT(x BIGINT, y STRING)",
                "{\"x\": null, \"y\": \"v\"}",
                Err("error in preprocessor: field a.x is not found"),
            ),
            ("STRUCT(x BIGINT, y STRING)", "{\"x\": 1, \"y\": \"v\"}", Ok("{\"x\":1,\"y\":\"v\"}")),
            ("ARRAY(STRUCT(x BIGINT))", "[{}]", Err("error in preprocessor: field a.x is not found")),
            ("DATETIME", "\"14.11.2023\"", Ok("\"2023-11-14T00:00:00Z\"")),
            ("DATETIME", "\"2023-11-14 01:02\"", Ok("\"2023-11-14T01:02:00Z\"")),
            ("BIGINT", "null", Err("error in preprocessor: field a is not found")),
        ] {
            let create = sql::parse_create(&format!("CREATE STREAM s (a {ty}) WITH (TYPE=\"websocket\")")).unwrap();
            let strict = Strict { column: create.columns[0].clone(), format: TimestampFormat::new("dd.MM.yyyy") };
            let value = convert(&"a".into(), Some(&strict.column.ty), Some(text), Some(&strict), &TimeZone::UTC);
            let value = value.map_err(|error| error.to_string()).map(|value| {
                let mut out = Vec::new();
                json::write_value(&mut out, &value).unwrap();
                String::from_utf8(out).unwrap()
            });
            assert_eq!(value.as_deref().map_err(String::as_str), expected, "{ty} {text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        assert_eq!(column("BIGINT", "\"x\""), Err("a has wrong type:string, expect:bigint".into()));
        assert_eq!(column("BIGINT", "1.5"), Err("a has wrong type:float, expect:bigint".into()));
        assert!(column("STRING", "true").is_err());
        assert!(column("ARRAY(BIGINT)", "[\"x\"]").is_err());
        assert!(column("BYTEA", "\"%%\"").is_err());
    }
}
