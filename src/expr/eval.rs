//! Evaluation of compiled expressions over the slots of a row.
//!
//! Values are borrowed from slots and constants if possible: comparing a field with a constant copies nothing. An
//! impossible operation is an error, and the row is dropped.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;

use super::error::{EvalError, described};
use super::function::{Args, Code, Function, FunctionError, Param, PreparedFn};
use super::ops::{arithmetic, compare_at, equal, negate};
use super::{Expr, LikePattern, Scope, access, like};
use crate::value::json;
use crate::value::operator::{BinaryOp, Comparison};
use crate::value::{Kind, Object, Text, Value};

const TRUE: &Value = &Value::Bool(true);
const FALSE: &Value = &Value::Bool(false);
const NULL: &Value = &Value::Null;

impl Expr {
    /// The value of the expression for this row.
    pub fn eval<'a>(&'a self, scope: &'a Scope<'_>) -> Result<Cow<'a, Value>, EvalError> {
        if let Some(value) = self.stored(scope) {
            return Ok(Cow::Borrowed(value));
        }
        match self {
            Expr::Binary { op, left, right, integral } => match op {
                BinaryOp::And => and(left, right, scope).map(boolean),
                BinaryOp::Or => or(left, right, scope).map(boolean),
                _ => match Comparison::of(*op) {
                    Some(comparison) => compared(left, comparison, right, scope).map(boolean),
                    None => computed(*op, left, right, *integral, scope).map(Cow::Owned),
                },
            },
            _ => self.eval_other(scope),
        }
    }

    /// The value of a constant or slot.
    #[inline(always)]
    fn stored<'a>(&'a self, scope: &'a Scope<'_>) -> Option<&'a Value> {
        match self {
            Expr::Constant(value) => Some(value),
            Expr::Slot(slot) => Some(scope.slot(*slot)),
            _ => None,
        }
    }

    /// Evaluates everything except binary operators. This is a separate function to keep their stack frame small.
    #[inline(never)]
    fn eval_other<'a>(&'a self, scope: &'a Scope<'_>) -> Result<Cow<'a, Value>, EvalError> {
        match self {
            Expr::Constant(_) | Expr::Slot(_) | Expr::Binary { .. } => self.eval(scope),
            Expr::Call { function, prepared, args } => call(function, prepared.as_deref(), args, scope).map(Cow::Owned),
            Expr::Member(object, name) => Ok(access::member(object.eval(scope)?, name)),
            Expr::Index(array, index) => access::element(array.eval(scope)?, &*index.eval(scope)?),
            Expr::Slice(array, from, to) => {
                let array = array.eval(scope)?;
                let from = from.as_ref().map(|from| from.eval(scope)).transpose()?;
                let to = to.as_ref().map(|to| to.eval(scope)).transpose()?;
                access::slice(&array, from.as_deref(), to.as_deref()).map(Cow::Owned)
            }
            Expr::Negate(operand) => negate(&*operand.eval(scope)?).map(Cow::Owned),
            Expr::Not(operand) => match &*operand.eval(scope)? {
                Value::Bool(b) => Ok(boolean(!b)),
                Value::Absent | Value::Null => Ok(Cow::Borrowed(NULL)),
                other => Err(EvalError::Operation(format!("NOT {}", described(other)).into())),
            },
            Expr::Between { operands, negated } => between(operands, *negated, scope).map(boolean),
            Expr::InList { expr, list, negated } => in_list(expr, list, *negated, scope).map(boolean),
            Expr::InArray { expr, array, negated } => in_array(expr, array, *negated, scope).map(boolean),
            Expr::Like { expr, pattern, negated } => matches(expr, pattern, *negated, scope).map(boolean),
            Expr::FirstPresent(exprs) => {
                for expr in exprs {
                    let value = expr.eval(scope)?;
                    if !matches!(*value, Value::Absent) {
                        return Ok(value);
                    }
                }
                Ok(Cow::Owned(Value::Absent))
            }
            Expr::Object { wholes, except, members } => object(wholes, except, members, scope).map(Cow::Owned),
            Expr::IsNull { expr, negated } => Ok(boolean(expr.eval(scope)?.is_null() != *negated)),
            Expr::Case { value, branches, otherwise } => {
                let value = value.as_ref().map(|value| value.eval(scope)).transpose()?;
                for (when, then) in branches {
                    let taken = match &value {
                        Some(value) => equal(value, &*when.eval(scope)?, scope.context),
                        None => when.test(scope)?,
                    };
                    if taken {
                        return then.eval(scope);
                    }
                }
                otherwise.as_ref().map_or(Ok(Cow::Borrowed(NULL)), |otherwise| otherwise.eval(scope))
            }
        }
    }

    /// Whether a condition holds for this row. Null is false; other values that are not boolean are errors.
    #[inline]
    pub fn test(&self, scope: &Scope<'_>) -> Result<bool, EvalError> {
        match self.truth(scope)? {
            Truth::Known(b) => Ok(b),
            Truth::Nothing => Ok(false),
            Truth::Other(value) => Err(EvalError::not_boolean(&value)),
        }
    }

    /// Evaluates an operand of AND, OR or a clause. A comparison does not make a `Value` for this.
    #[inline]
    fn truth<'a>(&'a self, scope: &'a Scope<'_>) -> Result<Truth<'a>, EvalError> {
        if let Expr::Binary { op, left, right, .. } = self {
            match op {
                BinaryOp::And => return and(left, right, scope).map(Truth::Known),
                BinaryOp::Or => return or(left, right, scope).map(Truth::Known),
                _ => {}
            }
            if let Some(comparison) = Comparison::of(*op) {
                return compared(left, comparison, right, scope).map(Truth::Known);
            }
        }
        let value = self.eval(scope)?;
        Ok(match &*value {
            Value::Bool(b) => Truth::Known(*b),
            Value::Absent | Value::Null => Truth::Nothing,
            _ => Truth::Other(value),
        })
    }
}

/// A value as a condition.
enum Truth<'a> {
    Known(bool),
    Nothing,
    Other(Cow<'a, Value>),
}

impl Scope<'_> {
    /// The value of a slot; absent if the row does not have the slot.
    #[inline]
    fn slot(&self, slot: usize) -> &Value {
        const ABSENT: &Value = &Value::Absent;
        self.slots.get(slot).unwrap_or(ABSENT)
    }
}

#[inline]
fn boolean<'a>(b: bool) -> Cow<'a, Value> {
    Cow::Borrowed(if b { TRUE } else { FALSE })
}

/// Compares two values; constants and slots are compared in place.
#[inline]
fn compared(left: &Expr, op: Comparison, right: &Expr, scope: &Scope<'_>) -> Result<bool, EvalError> {
    match (left.stored(scope), right.stored(scope)) {
        (Some(l), Some(r)) => compare_at(l, op, r, scope.context),
        (None, Some(r)) => compare_at(&*left.eval(scope)?, op, r, scope.context),
        _ => compare_at(&*left.eval(scope)?, op, &*right.eval(scope)?, scope.context),
    }
}

#[inline]
fn computed(op: BinaryOp, left: &Expr, right: &Expr, integral: bool, scope: &Scope<'_>) -> Result<Value, EvalError> {
    match (left.stored(scope), right.stored(scope)) {
        (Some(l), Some(r)) => arithmetic(op, l, r, integral),
        (None, Some(r)) => arithmetic(op, &*left.eval(scope)?, r, integral),
        (Some(l), None) => arithmetic(op, l, &*right.eval(scope)?, integral),
        _ => arithmetic(op, &*left.eval(scope)?, &*right.eval(scope)?, integral),
    }
}

/// `left AND right`: true if both are true; null counts as false. The right side is not evaluated if the left is false.
fn and(left: &Expr, right: &Expr, scope: &Scope<'_>) -> Result<bool, EvalError> {
    let l = match left.truth(scope)? {
        Truth::Known(false) => return Ok(false),
        Truth::Known(true) => Cow::Borrowed(TRUE),
        Truth::Nothing => Cow::Borrowed(NULL),
        Truth::Other(l) => l,
    };
    joined(l, "AND", right.truth(scope)?)
}

/// `left OR right`: true if one is true; null counts as false.
fn or(left: &Expr, right: &Expr, scope: &Scope<'_>) -> Result<bool, EvalError> {
    let l = match left.truth(scope)? {
        Truth::Known(true) => return Ok(true),
        Truth::Known(false) => Cow::Borrowed(FALSE),
        // null OR true is true, in either order.
        Truth::Nothing => match right.truth(scope)? {
            Truth::Known(r) => return Ok(r),
            Truth::Nothing | Truth::Other(_) => return Ok(false),
        },
        Truth::Other(l) => l,
    };
    joined(l, "OR", right.truth(scope)?)
}

/// The result of AND and OR if the left side does not decide it.
fn joined(left: Cow<'_, Value>, op: &str, right: Truth<'_>) -> Result<bool, EvalError> {
    match right {
        Truth::Nothing => Ok(false),
        _ if left.is_null() => Ok(false),
        Truth::Known(r) if matches!(*left, Value::Bool(_)) => Ok(r),
        Truth::Known(r) => Err(EvalError::operation(&left, op, &Value::Bool(r))),
        Truth::Other(r) => Err(EvalError::operation(&left, op, &r)),
    }
}

/// Both bounds are inclusive. If any part is null, BETWEEN and NOT BETWEEN are both false.
fn between(operands: &[Expr; 3], negated: bool, scope: &Scope<'_>) -> Result<bool, EvalError> {
    let [value, low, high] = operands;
    let (value, low, high) = (value.eval(scope)?, low.eval(scope)?, high.eval(scope)?);
    if value.is_null() || low.is_null() || high.is_null() {
        return Ok(false);
    }
    let above = compare_at(&value, Comparison::GreaterEqual, &low, scope.context)?;
    let below = compare_at(&value, Comparison::LessEqual, &high, scope.context)?;
    Ok((above && below) != negated)
}

/// For null, IN and NOT IN are both false.
fn in_list(expr: &Expr, list: &[Expr], negated: bool, scope: &Scope<'_>) -> Result<bool, EvalError> {
    let wanted = expr.eval(scope)?;
    if wanted.is_null() {
        return Ok(false);
    }
    for element in list {
        if equal(&wanted, &*element.eval(scope)?, scope.context) {
            return Ok(!negated);
        }
    }
    Ok(negated)
}

fn in_array(expr: &Expr, array: &Expr, negated: bool, scope: &Scope<'_>) -> Result<bool, EvalError> {
    let (wanted, array) = (expr.eval(scope)?, array.eval(scope)?);
    let found = match &*array {
        // A null array contains nothing, not even null.
        Value::Absent | Value::Null => false,
        _ if wanted.is_null() => return Ok(false),
        Value::Array(elements) => elements.iter().any(|element| equal(&wanted, element, scope.context)),
        Value::Json(text) if array.kind() == Kind::Array => {
            json::elements(text).any(|element| equal(&wanted, &json::value(element), scope.context))
        }
        other => return Err(EvalError::NotArray(described(other).into())),
    };
    Ok(found != negated)
}

/// For null, LIKE and NOT LIKE are both false; values other than text do not match.
fn matches(expr: &Expr, pattern: &LikePattern, negated: bool, scope: &Scope<'_>) -> Result<bool, EvalError> {
    let value = expr.eval(scope)?;
    let found = match pattern {
        LikePattern::Literal(pattern) => match &*value {
            Value::Absent | Value::Null => return Ok(false),
            Value::Text(text) => pattern.matches(text),
            _ => false,
        },
        LikePattern::Dynamic(pattern) => match (&*value, &*pattern.eval(scope)?) {
            (Value::Absent | Value::Null, _) | (_, Value::Absent | Value::Null) => return Ok(false),
            (Value::Text(text), Value::Text(pattern)) => like::matches(pattern, text),
            _ => false,
        },
    };
    Ok(found != negated)
}

fn call(
    function: &'static Function,
    prepared: Option<&PreparedFn>,
    args: &[Expr],
    scope: &Scope<'_>,
) -> Result<Value, EvalError> {
    let mut values = SmallVec::new();
    for (index, arg) in args.iter().enumerate() {
        let value = expanded(arg.eval(scope)?);
        // These functions take numbers of this kind as floats.
        values.push(match (&*value, function.signature.param(index)) {
            (Value::Unsigned(u), Some(Param::Number | Param::Int | Param::IntOrText)) => {
                Cow::Owned(Value::Float(*u as f64))
            }
            _ => value,
        });
    }
    let args = Args(values);
    if let Some(answer) = function.answer_for_null(&args) {
        return Ok(answer);
    }
    let answer = match (prepared, function.code) {
        (Some(prepared), _) => prepared(&args, scope.context),
        (None, Code::Scalar(code)) => code(&args, scope.context),
        // An unprepared call works without its literals, but is slower.
        (None, Code::Prepared(make)) => {
            let literals: SmallVec<[Option<&Value>; 4]> = args.iter().map(|_| None).collect();
            make(&literals).and_then(|prepared| prepared(&args, scope.context))
        }
        (None, Code::Aggregate(_)) => {
            Err(FunctionError::Domain("an aggregate is for the rows of a window, not for one".into()))
        }
        (None, Code::Analytic(_) | Code::SetReturning(_) | Code::RowNumber) => {
            Err(FunctionError::Domain("it does not depend on one row's values only".into()))
        }
    };
    answer.map_err(|error| EvalError::Function { name: function.name, error: Box::new(error) })
}

/// The value with JSON text decoded.
fn expanded(value: Cow<'_, Value>) -> Cow<'_, Value> {
    match value {
        Cow::Borrowed(value @ (Value::Json(_) | Value::Array(_) | Value::Object(_))) => json::expand(value),
        Cow::Owned(value @ (Value::Json(_) | Value::Array(_) | Value::Object(_))) => match json::expand(&value) {
            Cow::Owned(expanded) => Cow::Owned(expanded),
            Cow::Borrowed(_) => Cow::Owned(value),
        },
        other => other,
    }
}

/// A row as an object.
fn object(wholes: &[Expr], except: &[Text], members: &[(Text, Expr)], scope: &Scope<'_>) -> Result<Value, EvalError> {
    let mut object = Object::new();
    for whole in wholes {
        let value = whole.eval(scope)?;
        if let Value::Object(members) = &*json::expand(&value) {
            for (key, value) in members.iter().filter(|(key, _)| !except.contains(key)) {
                object.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    for (key, expr) in members {
        let value = expr.eval(scope)?;
        if !matches!(*value, Value::Absent) {
            object.entry(key.clone()).or_insert_with(|| value.into_owned());
        }
    }
    Ok(Value::Object(Arc::new(object)))
}
