//! The functions of templates: those of Go's text/template, sprig's, and `json`, `base64`, `prop`.
//!
//! One row for each function. Arguments are always expanded. A function that fails returns the reason; then the action
//! and the whole result are lost.

mod chance;
mod data;
mod date;
mod logic;
mod math;
mod text;

use std::collections::HashMap;
use std::sync::LazyLock;

use super::print;
use crate::value::{Object, Text, Value};

/// A function of templates.
pub struct Function {
    pub name: &'static str,
    /// the least and the greatest number of arguments
    args: (usize, usize),
    code: Code,
}

type Code = fn(&[Value]) -> Result<Value, String>;

/// Any number of arguments.
const MANY: usize = usize::MAX;

/// The functions that change the dictionary in a variable.
pub const CHANGING: &[&str] = &["set", "unset", "merge", "mergeOverwrite", "mustMerge", "mustMergeOverwrite"];

/// Other names of functions. A `must` variant reports errors where the plain one returns nothing; here both report
/// them.
const ALIASES: &[(&str, &str)] = &[
    ("mustCompact", "compact"),
    ("mustToPrettyJson", "toPrettyJson"),
    ("mustDeepCopy", "deepCopy"),
    ("mustAppend", "append"),
    ("mustPush", "push"),
    ("mustPrepend", "prepend"),
    ("mustFirst", "first"),
    ("mustRest", "rest"),
    ("mustLast", "last"),
    ("mustInitial", "initial"),
    ("mustReverse", "reverse"),
    ("mustUniq", "uniq"),
    ("mustWithout", "without"),
    ("mustHas", "has"),
    ("mustSlice", "slice"),
    ("mustChunk", "chunk"),
    ("mustRegexMatch", "regexMatch"),
    ("mustRegexFindAll", "regexFindAll"),
    ("mustRegexFind", "regexFind"),
    ("mustRegexReplaceAll", "regexReplaceAll"),
    ("mustRegexReplaceAllLiteral", "regexReplaceAllLiteral"),
    ("mustRegexSplit", "regexSplit"),
    ("mustToDate", "toDate"),
    ("mustDateModify", "dateModify"),
    ("must_date_modify", "dateModify"),
    ("date_modify", "dateModify"),
    ("date_in_zone", "dateInZone"),
    ("trimall", "trimAll"),
];

/// The most bytes that one call may produce.
const MAX_TEXT: usize = 1024 * 1024;
/// The most elements that one call may produce.
const MAX_ELEMENTS: usize = 100_000;

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Function {
    const fn new(name: &'static str, args: (usize, usize), code: Code) -> Function {
        Function { name, args, code }
    }

    /// Calls the function. The error describes what is wrong with the arguments.
    pub fn call(&self, args: &[Value]) -> Result<Value, String> {
        let (least, most) = self.args;
        if args.len() < least || args.len() > most {
            let want = if most == MANY { format!("at least {least}") } else { format!("{least}") };
            return Err(format!("wrong number of args for {}: want {want} got {}", self.name, args.len()));
        }
        (self.code)(args)
    }
}

/// The function with this name.
pub fn lookup(name: &str) -> Option<&'static Function> {
    static BY_NAME: LazyLock<HashMap<&'static str, &'static Function>> = LazyLock::new(|| {
        let mut all: HashMap<_, _> = FAMILIES.into_iter().flatten().map(|function| (function.name, function)).collect();
        for (alias, name) in ALIASES {
            if let Some(function) = all.get(name).copied() {
                all.insert(alias, function);
            }
        }
        all
    });
    BY_NAME.get(name).copied()
}

const FAMILIES: [&[Function]; 6] =
    [logic::FUNCTIONS, math::FUNCTIONS, text::FUNCTIONS, data::FUNCTIONS, date::FUNCTIONS, chance::FUNCTIONS];

#[cfg(test)]
pub fn all() -> impl Iterator<Item = &'static Function> {
    FAMILIES.into_iter().flatten()
}

/// Whether a value counts as true: every value except null, false, 0 and empty ones.
pub fn is_true(value: &Value) -> bool {
    match &*crate::format::json::expand(value) {
        Value::Absent | Value::Null => false,
        Value::Bool(b) => *b,
        Value::Int(i) => *i != 0,
        Value::Unsigned(_) => true,
        Value::Float(float) => *float != 0.0,
        Value::Text(text) => !text.is_empty(),
        Value::Bytes(bytes) => !bytes.is_empty(),
        Value::Array(elements) => !elements.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::DateTime(_) | Value::Json(_) => true,
    }
}

/// The argument as text: numbers and booleans are written out.
fn text(value: &Value) -> String {
    if value.is_null() { String::new() } else { print::text(value) }
}

/// The argument as a whole number; texts are parsed, and anything else is 0 (sprig's `toInt64`).
fn int(value: &Value) -> i64 {
    match value {
        Value::Int(i) => *i,
        Value::Unsigned(_) => i64::MAX,
        Value::Float(float) => *float as i64,
        Value::Bool(b) => i64::from(*b),
        Value::Text(text) => {
            let text = text.trim();
            text.parse().unwrap_or_else(|_| text.parse::<f64>().map_or(0, |float| float as i64))
        }
        _ => 0,
    }
}

/// The argument as a float; texts are parsed, and anything else is 0.
fn float(value: &Value) -> f64 {
    match value {
        Value::Int(i) => *i as f64,
        Value::Unsigned(u) => *u as f64,
        Value::Float(float) => *float,
        Value::Bool(b) => f64::from(u8::from(*b)),
        Value::Text(text) => text.trim().parse().unwrap_or(0.0),
        _ => 0.0,
    }
}

/// A size or position as an argument, at most `most`.
fn size(value: &Value, most: usize) -> usize {
    usize::try_from(int(value)).unwrap_or(0).min(most)
}

fn elements(value: &Value) -> Result<&[Value], String> {
    match value {
        Value::Array(elements) => Ok(elements),
        Value::Absent | Value::Null => Ok(&[]),
        other => Err(format!("cannot find a list in {}", print::type_name(other))),
    }
}

fn members(value: &Value) -> Result<&Object, String> {
    match value {
        Value::Object(members) => Ok(members),
        other => Err(format!("cannot find a map in {}", print::type_name(other))),
    }
}

fn list(values: impl IntoIterator<Item = Value>) -> Result<Value, String> {
    let values: Vec<Value> = values.into_iter().take(MAX_ELEMENTS + 1).collect();
    if values.len() > MAX_ELEMENTS { Err("the list is too long".to_owned()) } else { Ok(Value::array(values)) }
}

fn object(members: impl IntoIterator<Item = (Text, Value)>) -> Value {
    Value::object(members)
}

fn made(text: impl Into<String>) -> Result<Value, String> {
    let text = text.into();
    if text.len() > MAX_TEXT { Err("the text is too long".to_owned()) } else { Ok(Value::from(text)) }
}

/// Whether two values are equal, numbers by value.
fn same(left: &Value, right: &Value) -> bool {
    use crate::value::key::GroupKey;
    GroupKey::from_values([left]) == GroupKey::from_values([right])
}
