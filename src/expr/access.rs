//! Members of objects, elements and slices of arrays.
//!
//! Values that are still text are looked into without decoding more than what is asked for.

use std::borrow::Cow;

use super::error::{EvalError, described};
use crate::codec::json;
use crate::value::{Kind, Value};

/// `object->name`; what is no object has no members.
pub(super) fn member<'a>(object: Cow<'a, Value>, name: &str) -> Cow<'a, Value> {
    match object {
        Cow::Borrowed(Value::Object(members)) => members.get(name).map_or(Cow::Owned(Value::Absent), Cow::Borrowed),
        other => Cow::Owned(json::member(&other, name)),
    }
}

/// `array[index]`, negative from the end.
pub(super) fn element<'a>(array: Cow<'a, Value>, index: &Value) -> Result<Cow<'a, Value>, EvalError> {
    if !checked_array(&array)? {
        return Ok(Cow::Owned(Value::Null));
    }
    let Some(index) = position(index)? else {
        return Ok(Cow::Owned(Value::Null));
    };
    let found = match &array {
        Cow::Borrowed(Value::Array(members)) => {
            place(index, members.len()).and_then(|at| members.get(at)).map(Cow::Borrowed)
        }
        Cow::Owned(Value::Array(members)) => {
            place(index, members.len()).and_then(|at| members.get(at)).cloned().map(Cow::Owned)
        }
        // No element of a JSON text is absent.
        text => match json::element(text, index) {
            Value::Absent => None,
            value => Some(Cow::Owned(value)),
        },
    };
    found.ok_or_else(|| EvalError::OutOfIndex { index, length: length(&array) })
}

/// `array[from:to]`: the elements from `from` up to, not including, `to`; both negative from the end. A slice whose
/// start is not before its end is empty.
pub(super) fn slice(array: &Value, from: Option<&Value>, to: Option<&Value>) -> Result<Value, EvalError> {
    if !checked_array(array)? {
        return Ok(Value::Null);
    }
    let length = length(array);
    // Where a bound stands: 0 to length.
    let bound = |value: Option<&Value>, default: usize| -> Result<Option<usize>, EvalError> {
        let Some(value) = value else { return Ok(Some(default)) };
        let Some(index) = position(value)? else { return Ok(None) };
        let at = if index < 0 { index.saturating_add_unsigned(length as u64) } else { index };
        match usize::try_from(at) {
            Ok(at) if at <= length => Ok(Some(at)),
            _ => Err(EvalError::OutOfIndex { index, length }),
        }
    };
    let (Some(from), Some(to)) = (bound(from, 0)?, bound(to, length)?) else {
        return Ok(Value::Null);
    };
    let count = to.saturating_sub(from);
    Ok(match array {
        Value::Json(text) => Value::array(json::elements(text).skip(from).take(count).map(json::value)),
        Value::Array(members) => Value::array(members.iter().skip(from).take(count).cloned()),
        _ => Value::Null,
    })
}

/// Whether this is an array (true) or nothing (false); other values have no elements.
fn checked_array(value: &Value) -> Result<bool, EvalError> {
    match value.kind() {
        Kind::Array => Ok(true),
        Kind::Null => Ok(false),
        _ => Err(EvalError::NotArray(described(value).into())),
    }
}

/// The index that a value is; a fraction is cut. None: no value.
fn position(index: &Value) -> Result<Option<i64>, EvalError> {
    match index {
        Value::Absent | Value::Null => Ok(None),
        Value::Int(index) => Ok(Some(*index)),
        // Beyond 64 bits the cast saturates, which is out of every array.
        Value::Float(index) if !index.is_nan() => Ok(Some(*index as i64)),
        _ => Err(EvalError::Index(described(index).into())),
    }
}

fn place(index: i64, length: usize) -> Option<usize> {
    if index < 0 {
        length.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)
    } else {
        usize::try_from(index).ok()
    }
}

/// How many elements an array has.
fn length(array: &Value) -> usize {
    match array {
        Value::Array(members) => members.len(),
        Value::Json(text) => json::elements(text).count(),
        _ => 0,
    }
}
