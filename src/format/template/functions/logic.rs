//! Comparison, choice and printing: text/template's own functions, and sprig's defaults.

use std::cmp::Ordering;

use super::{Function, MANY, elements, is_true, made, print, same, text};
use crate::value::Value;

pub const FUNCTIONS: &[Function] = &[
    // The evaluator runs `and` and `or`; it stops at the first argument that decides.
    Function::new("and", (1, MANY), |args| Ok(args[args.len() - 1].clone())),
    Function::new("or", (1, MANY), |args| Ok(args[args.len() - 1].clone())),
    Function::new("not", (1, 1), |args| Ok(Value::Bool(!is_true(&args[0])))),
    Function::new("eq", (2, MANY), |args| {
        for other in &args[1..] {
            if equal(&args[0], other)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }),
    Function::new("ne", (2, 2), |args| Ok(Value::Bool(!equal(&args[0], &args[1])?))),
    Function::new("lt", (2, 2), |args| Ok(Value::Bool(order(args)? == Ordering::Less))),
    Function::new("le", (2, 2), |args| Ok(Value::Bool(order(args)? != Ordering::Greater))),
    Function::new("gt", (2, 2), |args| Ok(Value::Bool(order(args)? == Ordering::Greater))),
    Function::new("ge", (2, 2), |args| Ok(Value::Bool(order(args)? != Ordering::Less))),
    Function::new("len", (1, 1), |args| match &args[0] {
        Value::Text(text) => Ok(Value::Int(text.len() as i64)),
        Value::Array(elements) => Ok(Value::Int(elements.len() as i64)),
        Value::Object(members) => Ok(Value::Int(members.len() as i64)),
        Value::Bytes(bytes) => Ok(Value::Int(bytes.len() as i64)),
        Value::Absent | Value::Null => Err("len of nil pointer".to_owned()),
        other => Err(format!("len of type {}", print::type_name(other))),
    }),
    Function::new("index", (1, MANY), |args| {
        let mut value = args[0].clone();
        for key in &args[1..] {
            value = index(&value, key)?;
        }
        Ok(value)
    }),
    Function::new("slice", (1, 4), slice),
    Function::new("print", (0, MANY), |args| made(spaced(args, false))),
    Function::new("println", (0, MANY), |args| made(spaced(args, true) + "\n")),
    Function::new("printf", (1, MANY), |args| made(print::printf(&text(&args[0]), &args[1..]))),
    Function::new("html", (1, MANY), |args| made(escaped_html(&spaced(args, false)))),
    Function::new("js", (1, MANY), |args| made(escaped_js(&spaced(args, false)))),
    Function::new("urlquery", (1, MANY), |args| {
        made(form_urlencoded::byte_serialize(spaced(args, false).as_bytes()).collect::<String>())
    }),
    Function::new("call", (1, MANY), |args| Err(format!("non-function of type {}", print::type_name(&args[0])))),
    Function::new("default", (1, 2), |args| Ok(args.get(1).filter(|value| is_true(value)).unwrap_or(&args[0]).clone())),
    Function::new("empty", (1, 1), |args| Ok(Value::Bool(!is_true(&args[0])))),
    Function::new("coalesce", (0, MANY), |args| {
        Ok(args.iter().find(|value| is_true(value)).cloned().unwrap_or(Value::Null))
    }),
    Function::new("all", (0, MANY), |args| Ok(Value::Bool(args.iter().all(is_true)))),
    Function::new("any", (0, MANY), |args| Ok(Value::Bool(args.iter().any(is_true)))),
    Function::new("ternary", (3, 3), |args| Ok(args[usize::from(!is_true(&args[2]))].clone())),
    Function::new("fail", (1, 1), |args| Err(text(&args[0]))),
    Function::new("kindOf", (1, 1), |args| made(kind(&args[0]))),
    Function::new("kindIs", (2, 2), |args| Ok(Value::Bool(text(&args[0]) == kind(&args[1])))),
    Function::new("typeOf", (1, 1), |args| made(print::type_name(&args[0]))),
    Function::new("typeIs", (2, 2), |args| Ok(Value::Bool(text(&args[0]) == print::type_name(&args[1])))),
    Function::new("typeIsLike", (2, 2), |args| {
        let (want, is) = (text(&args[0]), print::type_name(&args[1]));
        Ok(Value::Bool(want == is || want.trim_start_matches('*') == is))
    }),
    Function::new("deepEqual", (2, 2), |args| Ok(Value::Bool(same(&args[0], &args[1])))),
];

/// text/template's equality: both of one kind, numbers by value.
fn equal(left: &Value, right: &Value) -> Result<bool, String> {
    match (left, right) {
        (Value::Absent | Value::Null, _) | (_, Value::Absent | Value::Null) => Ok(left.is_null() && right.is_null()),
        (left, right) if left.is_number() && right.is_number() => Ok(same(left, right)),
        (Value::Text(_), Value::Text(_))
        | (Value::Bool(_), Value::Bool(_))
        | (Value::DateTime(_), Value::DateTime(_)) => Ok(same(left, right)),
        (Value::Array(_) | Value::Object(_), _) | (_, Value::Array(_) | Value::Object(_)) => {
            Err("non-comparable type".to_owned())
        }
        _ => Err("incompatible types for comparison".to_owned()),
    }
}

fn order(args: &[Value]) -> Result<Ordering, String> {
    match (&args[0], &args[1]) {
        (Value::Int(left), Value::Int(right)) => Ok(left.cmp(right)),
        (Value::Text(left), Value::Text(right)) => Ok(left.cmp(right)),
        (Value::DateTime(left), Value::DateTime(right)) => Ok(left.cmp(right)),
        (Value::Unsigned(left), Value::Unsigned(right)) => Ok(left.cmp(right)),
        (Value::Unsigned(_), Value::Int(_)) => Ok(Ordering::Greater),
        (Value::Int(_), Value::Unsigned(_)) => Ok(Ordering::Less),
        (left, right) if left.is_number() && right.is_number() => {
            let (left, right) = (super::float(left), super::float(right));
            Ok(left.partial_cmp(&right).unwrap_or(Ordering::Less))
        }
        (left, right) if [left, right].iter().all(|side| side.is_number() || matches!(side, Value::Text(_))) => {
            Err("incompatible types for comparison".to_owned())
        }
        _ => Err("invalid type for comparison".to_owned()),
    }
}

fn index(value: &Value, key: &Value) -> Result<Value, String> {
    let value = crate::format::json::expand(value);
    match (&*value, key) {
        (Value::Object(members), Value::Text(key)) => Ok(members.get(key).cloned().unwrap_or_default()),
        (Value::Object(_), other) => Err(format!("value has type {}; should be string", print::type_name(other))),
        (Value::Array(elements), Value::Int(at)) => {
            let element = usize::try_from(*at).ok().and_then(|at| elements.get(at));
            element.cloned().ok_or_else(|| format!("index out of range: {at}"))
        }
        // A JSON number without a fraction is a whole number.
        (Value::Array(_), Value::Float(at)) if at.fract() == 0.0 => index(&value, &Value::Int(*at as i64)),
        (Value::Text(text), Value::Int(at)) => {
            let byte = usize::try_from(*at).ok().and_then(|at| text.as_bytes().get(at));
            byte.map(|byte| Value::Int(i64::from(*byte))).ok_or_else(|| format!("index out of range: {at}"))
        }
        (Value::Array(_) | Value::Text(_), other) => {
            Err(format!("cannot index slice/array with type {}", print::type_name(other)))
        }
        (Value::Absent | Value::Null, _) => Err("index of untyped nil".to_owned()),
        (other, _) => Err(format!("can't index item of type {}", print::type_name(other))),
    }
}

/// `slice x 1 2`; sprig reads lists in the same way.
fn slice(args: &[Value]) -> Result<Value, String> {
    let bound = |index: usize, length: usize, default: usize| match args.get(index) {
        None => Ok(default),
        Some(value) => usize::try_from(super::int(value))
            .ok()
            .filter(|at| *at <= length)
            .ok_or_else(|| format!("index out of range: {}", super::int(value))),
    };
    match &args[0] {
        Value::Text(text) => {
            let (from, to) = (bound(1, text.len(), 0)?, bound(2, text.len(), text.len())?);
            text.get(from..to).map(Value::from).ok_or_else(|| format!("invalid slice index: {from} > {to}"))
        }
        list => {
            let elements = elements(list)?;
            let (from, to) = (bound(1, elements.len(), 0)?, bound(2, elements.len(), elements.len())?);
            let part = elements.get(from..to).ok_or_else(|| format!("invalid slice index: {from} > {to}"))?;
            Ok(Value::array(part.iter().cloned()))
        }
    }
}

/// The arguments as Go prints them, with a blank between all, or only between two that are both not text.
fn spaced(args: &[Value], all: bool) -> String {
    let mut out = String::new();
    for (index, arg) in args.iter().enumerate() {
        let texts = |index: usize| matches!(args[index], Value::Text(_));
        if index > 0 && (all || !texts(index) && !texts(index - 1)) {
            out.push(' ');
        }
        out.push_str(&print::text(arg));
    }
    out
}

fn escaped_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn escaped_js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
        Value::Absent | Value::Null => "invalid",
        other => print::type_name(other),
    }
}
