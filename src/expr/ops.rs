//! The operators on values: arithmetic, bits, comparison.
//!
//! Null and absent give null, or false in comparisons. Values of different kinds are never converted but give an error:
//! the rule's author gets an error instead of wrong numbers.

use std::cmp::Ordering;

use jiff::tz::TimeZone;

use super::error::EvalError;
use super::function::CallContext;
use crate::value::Value;
use crate::value::datetime_text;
use crate::value::key::whole_float;
use crate::value::operator::{BinaryOp, Comparison};

const UTC: &TimeZone = &TimeZone::UTC;

/// Compares two values: numbers by value regardless of their representation, texts by code points, booleans for
/// equality only. Null and absent compare false with everything, even with `!=`. A datetime on the left is compared
/// with a datetime, ms since the epoch, or text; text without an offset is UTC here, [`compare_at`] uses the configured
/// zone. Other pairs are errors.
#[inline]
pub fn compare(left: &Value, op: Comparison, right: &Value) -> Result<bool, EvalError> {
    comparable(left, op, right, None).ok_or_else(|| EvalError::operation(left, op.sign(), right))
}

/// Like [`compare`], but text without an offset is in the configured zone.
#[inline]
pub fn compare_at(left: &Value, op: Comparison, right: &Value, context: &CallContext<'_>) -> Result<bool, EvalError> {
    comparable(left, op, right, Some(context)).ok_or_else(|| EvalError::operation(left, op.sign(), right))
}

/// Whether two values are equal; values that cannot be compared are different.
pub(super) fn equal(left: &Value, right: &Value, context: &CallContext<'_>) -> bool {
    comparable(left, Comparison::Equal, right, Some(context)).unwrap_or(false)
}

/// The result, or `None` if the kinds do not match.
#[inline]
fn comparable(left: &Value, op: Comparison, right: &Value, context: Option<&CallContext<'_>>) -> Option<bool> {
    match (left, right) {
        (Value::Int(l), Value::Int(r)) => Some(op.accepts(l.cmp(r))),
        (Value::Float(l), Value::Float(r)) => Some(op.accepts_floats(*l, *r)),
        (Value::Text(l), Value::Text(r)) => Some(match op {
            // Texts of different lengths differ; their bytes need not be compared.
            Comparison::Equal => l == r,
            Comparison::NotEqual => l != r,
            _ => op.accepts(l.as_str().cmp(r.as_str())),
        }),
        _ => comparable_others(left, op, right, context),
    }
}

/// Pairs other than two numbers of the same kind or two texts.
fn comparable_others(left: &Value, op: Comparison, right: &Value, context: Option<&CallContext<'_>>) -> Option<bool> {
    match (left, right) {
        (Value::Absent | Value::Null, _) | (_, Value::Absent | Value::Null) => Some(false),
        (Value::Int(l), Value::Float(r)) => Some(accepts_mixed(op, int_with_float(*l, *r))),
        (Value::Float(l), Value::Int(r)) => Some(accepts_mixed(op, int_with_float(*r, *l).map(Ordering::reverse))),
        (Value::Unsigned(_), Value::Int(_) | Value::Float(_) | Value::Unsigned(_))
        | (Value::Int(_) | Value::Float(_), Value::Unsigned(_)) => Some(accepts_mixed(op, unsigned_order(left, right))),
        (Value::Bool(l), Value::Bool(r)) if matches!(op, Comparison::Equal | Comparison::NotEqual) => {
            Some(op.accepts(l.cmp(r)))
        }
        (Value::DateTime(l), Value::DateTime(r)) => Some(op.accepts(l.timestamp().cmp(&r.timestamp()))),
        (Value::DateTime(l), Value::Int(ms)) => {
            Some(op.accepts(l.timestamp().as_nanosecond().cmp(&(i128::from(*ms) * 1_000_000))))
        }
        (Value::DateTime(l), Value::Float(ms)) => {
            // Fractions of a millisecond are ignored.
            Some(op.accepts_floats(l.timestamp().as_nanosecond() as f64, ms.trunc() * 1e6))
        }
        (Value::DateTime(l), Value::Text(text)) => {
            let (zone, now) = context.map_or((UTC, 0), |context| (context.zone, context.now));
            let r = datetime_text::parse(text, zone, now)?;
            Some(op.accepts(l.timestamp().cmp(&r.timestamp())))
        }
        // A field of a feed can be a list in one message and a word in the next: `m[1] != "hb"` distinguishes them.
        (
            Value::Json(_) | Value::Array(_) | Value::Object(_),
            Value::Text(_) | Value::Int(_) | Value::Unsigned(_) | Value::Float(_) | Value::Bool(_),
        )
        | (
            Value::Text(_) | Value::Int(_) | Value::Unsigned(_) | Value::Float(_) | Value::Bool(_),
            Value::Json(_) | Value::Array(_) | Value::Object(_),
        ) if matches!(op, Comparison::Equal | Comparison::NotEqual) => Some(op == Comparison::NotEqual),
        _ => None,
    }
}

fn accepts_mixed(op: Comparison, order: Option<Ordering>) -> bool {
    order.map_or(op == Comparison::NotEqual, |order| op.accepts(order))
}

/// The total order of two numbers for sorting: by value, NaN last. Other values count as equal.
pub fn order_of_numbers(left: &Value, right: &Value) -> Ordering {
    let nan = |value: &Value| matches!(value, Value::Float(f) if f.is_nan());
    let order = match (left, right) {
        (Value::Int(l), Value::Int(r)) => Some(l.cmp(r)),
        (Value::Float(l), Value::Float(r)) => l.partial_cmp(r),
        (Value::Int(l), Value::Float(r)) => int_with_float(*l, *r),
        (Value::Float(l), Value::Int(r)) => int_with_float(*r, *l).map(Ordering::reverse),
        _ => unsigned_order(left, right),
    };
    order.unwrap_or_else(|| nan(left).cmp(&nan(right)))
}

/// The order of two numbers of which at least one is unsigned; `None` with NaN, and for values that are not numbers.
fn unsigned_order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Unsigned(l), Value::Unsigned(r)) => Some(l.cmp(r)),
        (Value::Unsigned(_), Value::Int(_)) => Some(Ordering::Greater),
        (Value::Int(_), Value::Unsigned(_)) => Some(Ordering::Less),
        (Value::Unsigned(l), Value::Float(r)) => unsigned_with_float(*l, *r),
        (Value::Float(l), Value::Unsigned(r)) => unsigned_with_float(*r, *l).map(Ordering::reverse),
        _ => None,
    }
}

fn unsigned_with_float(unsigned: u64, float: f64) -> Option<Ordering> {
    const BEYOND: f64 = 18_446_744_073_709_551_616.0;
    if float.is_nan() {
        None
    } else if float >= BEYOND {
        Some(Ordering::Less)
    } else {
        // Floats of this size are whole; smaller ones become at most 2^63, which is less.
        Some(unsigned.cmp(&(float as u64)))
    }
}

/// The order of a whole number and a float by their exact values; `None` for NaN.
fn int_with_float(int: i64, float: f64) -> Option<Ordering> {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    /// Up to this number, every whole number is exact as a float.
    const EXACT: u64 = 1 << f64::MANTISSA_DIGITS;
    if int.unsigned_abs() <= EXACT {
        (int as f64).partial_cmp(&float)
    } else if float.is_nan() {
        None
    } else if float >= BEYOND {
        Some(Ordering::Less)
    } else if float < -BEYOND {
        Some(Ordering::Greater)
    } else {
        // In range, so the cast loses only the fraction, which decides if the whole parts are equal.
        let whole = float.trunc();
        Some(int.cmp(&(whole as i64)).then_with(|| whole.total_cmp(&float)))
    }
}

/// `left op right` for arithmetic and bit operators. With `integral`, whole numbers are divided as integers, rounded
/// toward zero, and a result beyond 64 bits is an error; without it, such a result is a float.
#[inline]
pub(super) fn arithmetic(op: BinaryOp, left: &Value, right: &Value, integral: bool) -> Result<Value, EvalError> {
    match (left, right) {
        (Value::Int(l), Value::Int(r)) => ints(op, *l, *r, integral),
        (Value::Float(l), Value::Float(r)) => floats(op, *l, *r, left, right),
        (Value::Int(l), Value::Float(r)) => floats(op, *l as f64, *r, left, right),
        (Value::Float(l), Value::Int(r)) => floats(op, *l, *r as f64, left, right),
        (Value::Absent | Value::Null, _) | (_, Value::Absent | Value::Null) => Ok(Value::Null),
        (Value::Unsigned(u), _) => arithmetic(op, &Value::Float(*u as f64), right, integral),
        (_, Value::Unsigned(u)) => arithmetic(op, left, &Value::Float(*u as f64), integral),
        (Value::Bool(l), Value::Bool(r)) => match op {
            BinaryOp::BitAnd => Ok(Value::Bool(l & r)),
            BinaryOp::BitOr => Ok(Value::Bool(l | r)),
            BinaryOp::BitXor => Ok(Value::Bool(l ^ r)),
            _ => Err(wrong(op, left, right)),
        },
        _ => Err(wrong(op, left, right)),
    }
}

#[inline]
fn ints(op: BinaryOp, l: i64, r: i64, integral: bool) -> Result<Value, EvalError> {
    let answer = match op {
        BinaryOp::Add => l.checked_add(r),
        BinaryOp::Subtract => l.checked_sub(r),
        BinaryOp::Multiply => l.checked_mul(r),
        BinaryOp::Divide | BinaryOp::Modulo if r == 0 => return Err(EvalError::DividedByZero),
        BinaryOp::Divide if !integral => return Ok(Value::Float(l as f64 / r as f64)),
        BinaryOp::Divide => l.checked_div(r),
        // The remainder by -1 is always 0, even where the quotient overflows.
        BinaryOp::Modulo => Some(l.wrapping_rem(r)),
        BinaryOp::BitAnd => Some(l & r),
        BinaryOp::BitOr => Some(l | r),
        BinaryOp::BitXor => Some(l ^ r),
        _ => return Err(wrong(op, &Value::Int(l), &Value::Int(r))),
    };
    match answer {
        Some(answer) => Ok(Value::Int(answer)),
        None if integral => Err(overflow(op, l, r)),
        // Numbers without a declared type become floats if they do not fit.
        None => floats(op, l as f64, r as f64, &Value::Int(l), &Value::Int(r)),
    }
}

#[inline]
fn floats(op: BinaryOp, l: f64, r: f64, left: &Value, right: &Value) -> Result<Value, EvalError> {
    Ok(Value::Float(match op {
        BinaryOp::Add => l + r,
        BinaryOp::Subtract => l - r,
        BinaryOp::Multiply => l * r,
        BinaryOp::Divide | BinaryOp::Modulo if r == 0.0 => return Err(EvalError::DividedByZero),
        BinaryOp::Divide => l / r,
        BinaryOp::Modulo => l % r,
        // Bit operators accept a float with a whole value.
        _ => {
            return match (whole(left), whole(right)) {
                (Some(l), Some(r)) => ints(op, l, r, false),
                _ => Err(wrong(op, left, right)),
            };
        }
    }))
}

/// The number as a whole number, if it fits 64 bits.
pub(super) fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Int(i) => Some(*i),
        Value::Float(f) => whole_float(*f),
        _ => None,
    }
}

/// `-value`.
pub(super) fn negate(value: &Value) -> Result<Value, EvalError> {
    match value {
        Value::Absent | Value::Null => Ok(Value::Null),
        Value::Int(i) => i.checked_neg().map(Value::Int).ok_or_else(|| EvalError::Overflow(format!("-({i})").into())),
        Value::Float(f) => Ok(Value::Float(-f)),
        Value::Unsigned(u) => Ok(Value::Float(-(*u as f64))),
        _ => Err(EvalError::Operation(format!("-{}", super::error::described(value)).into())),
    }
}

#[cold]
fn wrong(op: BinaryOp, left: &Value, right: &Value) -> EvalError {
    EvalError::operation(left, &op.to_string(), right)
}

#[cold]
fn overflow(op: BinaryOp, left: i64, right: i64) -> EvalError {
    EvalError::Overflow(format!("{left} {op} {right}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_and_doubles_have_the_order_of_their_exact_values() {
        const TWO_53: i64 = 1 << 53;
        for (int, float, order) in [
            (0, -0.0, Some(Ordering::Equal)),
            (0, -0.5, Some(Ordering::Greater)),
            (75, 75.5, Some(Ordering::Less)),
            (-75, -75.5, Some(Ordering::Greater)),
            (TWO_53, TWO_53 as f64, Some(Ordering::Equal)),
            (TWO_53 + 1, TWO_53 as f64, Some(Ordering::Greater)),
            (-TWO_53 - 1, -TWO_53 as f64, Some(Ordering::Less)),
            (TWO_53 + 1, 0.5, Some(Ordering::Greater)),
            (i64::MAX, 9_223_372_036_854_775_808.0, Some(Ordering::Less)),
            (i64::MIN, -9_223_372_036_854_775_808.0, Some(Ordering::Equal)),
            (1, f64::INFINITY, Some(Ordering::Less)),
            (i64::MIN, f64::NEG_INFINITY, Some(Ordering::Greater)),
            (1, f64::NAN, None),
            (i64::MAX, f64::NAN, None),
        ] {
            assert_eq!(int_with_float(int, float), order, "{int} {float}");
        }
    }
}
