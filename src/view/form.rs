//! Text forms for comparing part columns, and the values of parameters.
//!
//! A number has its shortest form, so 7, 7.0 and "7" have the same one. Null has none.

use std::cmp::Ordering;

use serde_json::Value as Json;

use super::description::ColumnType;
use crate::value::json;
use crate::value::key::KeyPart;
use crate::value::{Text, Value};

/// The form of a value; `None` is null.
pub type Form = Option<Text>;

/// An array or object in a key or parameter column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an array or object cannot be a KEY or parameter value")]
pub struct NotScalar;

/// The form of a value.
///
/// # Errors
/// [`NotScalar`]
fn form(value: &Value) -> Result<Form, NotScalar> {
    form_of_part(&KeyPart::of(value))
}

/// The form of a part of a key.
///
/// # Errors
/// [`NotScalar`]
fn form_of_part(part: &KeyPart) -> Result<Form, NotScalar> {
    Ok(Some(match part {
        KeyPart::Nothing => return Ok(None),
        KeyPart::Bool(true) => Text::const_new("true"),
        KeyPart::Bool(false) => Text::const_new("false"),
        KeyPart::Int(int) => itoa::Buffer::new().format(*int).into(),
        KeyPart::Unsigned(int) => itoa::Buffer::new().format(*int).into(),
        KeyPart::Text(text) => text.clone(),
        KeyPart::Float(_) | KeyPart::Bytes(_) | KeyPart::DateTime(_) => {
            let mut text = Vec::new();
            write_part(&mut text, part);
            String::from_utf8_lossy(&text).trim_matches('"').into()
        }
        KeyPart::Array(_) | KeyPart::Object(_) => return Err(NotScalar),
    }))
}

/// The form of a part in a column of this type. Messages have times as text or as milliseconds: equal times have one
/// form.
///
/// # Errors
/// [`NotScalar`]
pub fn form_in_column(ty: ColumnType, part: &KeyPart) -> Result<Form, NotScalar> {
    let time = match (ty, part) {
        (ColumnType::Datetime, KeyPart::Text(text)) => text.parse::<jiff::Timestamp>().ok(),
        (ColumnType::Datetime, KeyPart::Int(ms)) => jiff::Timestamp::from_millisecond(*ms).ok(),
        _ => None,
    };
    time.map_or_else(|| form_of_part(part), |time| Ok(Some(time.to_string().into())))
}

/// Appends a part as JSON: whole numbers without a fraction, times in UTC.
pub fn write_part(out: &mut Vec<u8>, part: &KeyPart) {
    let value = match part {
        KeyPart::Nothing => Value::Null,
        KeyPart::Bool(bool) => Value::Bool(*bool),
        KeyPart::Int(int) => Value::Int(*int),
        KeyPart::Unsigned(int) => Value::Unsigned(*int),
        KeyPart::Float(bits) => Value::Float(f64::from_bits(*bits)),
        KeyPart::Text(text) => return json::write_str(out, text),
        KeyPart::Bytes(bytes) => Value::Bytes(bytes.clone()),
        KeyPart::DateTime(at) => return json::write_str(out, &at.to_string()),
        // These do not occur in keys.
        KeyPart::Array(_) | KeyPart::Object(_) => Value::Null,
    };
    // NaN and infinity do not exist in JSON and become null.
    if json::write_value(out, &value).is_err() {
        out.extend_from_slice(b"null");
    }
}

/// A value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct ParamValue {
    pub form: Form,
    /// the typed value, for the client
    pub json: Json,
}

impl ParamValue {
    /// Parses a value of this type; `None` if it is invalid.
    pub fn read(ty: ColumnType, sent: &Json) -> Option<ParamValue> {
        let typed = match (ty, sent) {
            (_, Json::Null) => Json::Null,
            (_, Json::Array(_) | Json::Object(_)) => return None,
            (ColumnType::Bigint, Json::Number(number)) => whole(number)?,
            (ColumnType::Bigint, Json::String(text)) => {
                let number: serde_json::Number = text.trim().parse().ok()?;
                whole(&number)?
            }
            (ColumnType::Float, Json::Number(number)) => shortest(number),
            (ColumnType::Float, Json::String(text)) => shortest(&text.trim().parse().ok()?),
            (ColumnType::Boolean, Json::Bool(bool)) => Json::Bool(*bool),
            (ColumnType::Boolean, Json::String(text)) => match text.as_str() {
                "true" => Json::Bool(true),
                "false" => Json::Bool(false),
                _ => return None,
            },
            (ColumnType::Datetime, Json::String(text)) => {
                let ms = || jiff::Timestamp::from_millisecond(text.trim().parse().ok()?).ok();
                let at = text.parse::<jiff::Timestamp>().ok().or_else(ms)?;
                Json::String(at.to_string())
            }
            (ColumnType::Datetime, Json::Number(number)) => {
                let at = jiff::Timestamp::from_millisecond(number.as_i64()?).ok()?;
                Json::String(at.to_string())
            }
            (ColumnType::String | ColumnType::Bytea, Json::String(_)) => sent.clone(),
            (ColumnType::String, Json::Number(number)) => Json::String(number.to_string()),
            (ColumnType::Any, Json::Number(number)) => shortest(number),
            (ColumnType::Any, sent) => sent.clone(),
            _ => return None,
        };
        let form = match &typed {
            Json::Null => None,
            Json::String(text) => Some(text.as_str().into()),
            Json::Number(number) => form(&number_value(number)).ok()?,
            other => Some(other.to_string().into()),
        };
        Some(ParamValue { form, json: typed })
    }

    /// The order of the values of a parameter: null, booleans, numbers, text.
    pub fn order(&self, other: &ParamValue) -> Ordering {
        let rank = |json: &Json| match json {
            Json::Null => 0,
            Json::Bool(_) => 1,
            Json::Number(_) => 2,
            _ => 3,
        };
        let numbers = || self.json.as_f64()?.partial_cmp(&other.json.as_f64()?);
        rank(&self.json)
            .cmp(&rank(&other.json))
            .then_with(|| numbers().unwrap_or(Ordering::Equal))
            .then_with(|| self.form.cmp(&other.form))
    }
}

/// A number of a client as rows have it.
fn number_value(number: &serde_json::Number) -> Value {
    let whole = number.as_i64().map(Value::Int).or_else(|| number.as_u64().map(Value::Unsigned));
    whole.unwrap_or_else(|| Value::Float(number.as_f64().unwrap_or(f64::NAN)))
}

/// A whole number as an integer.
fn whole(number: &serde_json::Number) -> Option<Json> {
    match shortest(number) {
        Json::Number(number) if number.is_i64() || number.is_u64() => Some(Json::Number(number)),
        _ => None,
    }
}

/// A number without a redundant fraction.
fn shortest(number: &serde_json::Number) -> Json {
    if let Some(float) = number.as_f64().filter(|_| number.is_f64())
        && float.fract() == 0.0
        && (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&float)
    {
        return Json::from(float as i64);
    }
    Json::Number(number.clone())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_have_one_form_however_they_are_written() {
        let forms = [Value::Int(7), Value::Float(7.0), Value::from("7")].map(|value| form(&value));
        assert!(forms.iter().all(|form| *form == Ok(Some("7".into()))), "{forms:?}");
        assert_eq!(form(&Value::Float(0.25)), Ok(Some("0.25".into())));
        assert_eq!(form(&Value::Absent), Ok(None));
        assert_eq!(form(&Value::array([])), Err(NotScalar));
        for sent in [json!(7), json!(7.0), json!("7")] {
            assert_eq!(ParamValue::read(ColumnType::Any, &sent).unwrap().form.as_deref(), Some("7"));
        }
        for float in [1e21, 1e-6, 1e-9, 9_223_372_036_854_775_808.0, 0.1, -2.5e300] {
            let sent = ParamValue::read(ColumnType::Float, &json!(float)).unwrap().form;
            assert_eq!(Ok(sent), form(&Value::Float(float)), "{float}");
        }
    }

    #[test]
    fn values_are_read_as_the_columns_type() {
        for (ty, sent, read) in [
            (ColumnType::Bigint, json!("7"), Some(json!(7))),
            (ColumnType::Bigint, json!(7.0), Some(json!(7))),
            (ColumnType::Bigint, json!("7.5"), None),
            (ColumnType::Bigint, json!("abc"), None),
            (ColumnType::Bigint, json!(true), None),
            (ColumnType::Bigint, json!([7]), None),
            (ColumnType::Bigint, json!(null), Some(json!(null))),
            (ColumnType::Float, json!("2.50"), Some(json!(2.5))),
            (ColumnType::Float, json!("2"), Some(json!(2))),
            (ColumnType::Boolean, json!("true"), Some(json!(true))),
            (ColumnType::Boolean, json!(1), None),
            (ColumnType::String, json!("n1"), Some(json!("n1"))),
            (ColumnType::Datetime, json!("1767225600000"), Some(json!("2026-01-01T00:00:00Z"))),
            (ColumnType::Datetime, json!(1_767_225_600_000_i64), Some(json!("2026-01-01T00:00:00Z"))),
            (ColumnType::Datetime, json!("yesterday"), None),
            (ColumnType::Datetime, json!("2026-01-01T01:00:00+01:00"), Some(json!("2026-01-01T00:00:00Z"))),
        ] {
            assert_eq!(ParamValue::read(ty, &sent).map(|value| value.json), read, "{ty} {sent}");
        }
    }

    #[test]
    fn equal_times_have_one_form() {
        let noon = KeyPart::of(&Value::from("2026-01-01T00:00:00Z"));
        for same in [Value::from("2026-01-01T01:00:00+01:00"), Value::Int(1_767_225_600_000)] {
            let forms = [&noon, &KeyPart::of(&same)].map(|part| form_in_column(ColumnType::Datetime, part));
            assert_eq!(forms[0], forms[1], "{same:?}");
        }
        assert_eq!(form_in_column(ColumnType::Datetime, &KeyPart::of(&Value::from("soon"))), Ok(Some("soon".into())));
        assert_eq!(form_in_column(ColumnType::Any, &KeyPart::Int(5)), Ok(Some("5".into())));
    }
}
