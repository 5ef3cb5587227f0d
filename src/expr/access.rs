//! Reads members of objects, and elements and slices of arrays.
//!
//! JSON that is still text is decoded only as far as needed.

use std::borrow::Cow;

use super::error::{EvalError, described};
use crate::value::json;
use crate::value::{Kind, Value};

/// `object->name`; absent if the left side is not an object.
pub(super) fn member<'a>(object: Cow<'a, Value>, name: &str) -> Cow<'a, Value> {
    match object {
        Cow::Borrowed(Value::Object(members)) => members.get(name).map_or(Cow::Owned(Value::Absent), Cow::Borrowed),
        other => Cow::Owned(json::member(&other, name)),
    }
}

/// `array[index]`; a negative index counts from the end. An index outside the array, or a value that is not an array,
/// gives absent and no error: messages of one feed differ, and rules distinguish them by which elements exist.
pub(super) fn element<'a>(array: Cow<'a, Value>, index: &Value) -> Result<Cow<'a, Value>, EvalError> {
    if index.is_null() {
        return Ok(Cow::Owned(Value::Null));
    }
    let index = position(index)?;
    let found = match &array {
        Cow::Borrowed(Value::Array(members)) => {
            place(index, members.len()).and_then(|at| members.get(at)).map(Cow::Borrowed)
        }
        Cow::Owned(Value::Array(members)) => {
            place(index, members.len()).and_then(|at| members.get(at)).cloned().map(Cow::Owned)
        }
        Cow::Borrowed(text @ Value::Json(_)) => Some(Cow::Owned(json::element(text, index))),
        Cow::Owned(text @ Value::Json(_)) => Some(Cow::Owned(json::element(text, index))),
        _ => None,
    };
    Ok(found.unwrap_or(Cow::Owned(Value::Null)))
}

/// `array[from:to]`: the elements from `from` up to, but not including, `to`; negative bounds count from the end. If
/// `from` is given, it must be the index of an element and not greater than `to`; equal bounds give an empty array. A
/// value that is not an array gives absent.
pub(super) fn slice(array: &Value, from: Option<&Value>, to: Option<&Value>) -> Result<Value, EvalError> {
    let (from, to) = (from.map(position).transpose()?, to.map(position).transpose()?);
    if array.kind() != Kind::Array {
        return Ok(Value::Null);
    }
    let length = length(array);
    // The bound counted from the start, 0 to `last`.
    let bound = |index: i64, last: Option<usize>| {
        let at = if index < 0 { index.saturating_add_unsigned(length as u64) } else { index };
        let inside = usize::try_from(at).ok().filter(|at| last.is_some_and(|last| *at <= last));
        inside.ok_or(EvalError::OutOfIndex { index, length })
    };
    let from = from.map_or(Ok(0), |from| bound(from, length.checked_sub(1)))?;
    let to = to.map_or(Ok(length), |to| bound(to, Some(length)))?;
    let Some(count) = to.checked_sub(from) else {
        return Err(EvalError::Slice { from, to });
    };
    Ok(match array {
        Value::Json(text) => Value::array(json::elements(text).skip(from).take(count).map(json::value)),
        Value::Array(members) => Value::array(members.iter().skip(from).take(count).cloned()),
        _ => Value::Null,
    })
}

/// The value as an index, without its fraction.
fn position(index: &Value) -> Result<i64, EvalError> {
    match index {
        Value::Int(index) => Ok(*index),
        // Beyond 64 bits the cast saturates; no array is that long.
        Value::Float(index) if !index.is_nan() => Ok(*index as i64),
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

fn length(array: &Value) -> usize {
    match array {
        Value::Array(members) => members.len(),
        Value::Json(text) => json::elements(text).count(),
        _ => 0,
    }
}
