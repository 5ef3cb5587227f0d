//! Errors of expressions.
//!
//! The texts are eKuiper's, because people search for them and scripts match them. For the same reason values are shown
//! with Go's type names: `float64(5)`.

use std::fmt::Write;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::aggregate::Aggregate;
use super::function::FunctionError;
use crate::value::Value;
use crate::value::cast;

/// Why an expression failed for a row. The row is dropped, the rule continues.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The operator does not accept values of these kinds: `string(x) + int64(1)`.
    #[error("invalid operation {0}")]
    Operation(Box<str>),
    /// `/` or `%` by 0.
    #[error("divided by zero")]
    DividedByZero,
    /// A whole number beyond 64 bits; the text is the operation. `cast(x, "float")` computes with floats instead.
    #[error("integer overflow: {0} is beyond 64 bits, cast an operand to float to compute with doubles")]
    Overflow(Box<str>),
    /// A bound of a slice is outside of its array.
    #[error("out of index: {index} of {length}")]
    OutOfIndex {
        /// as written, negative from the end
        index: i64,
        /// the number of elements
        length: usize,
    },
    /// A slice that ends before it starts; both bounds count from the start.
    #[error("start cannot be greater than end. start:{from} end:{to}")]
    Slice {
        from: usize,
        /// the element after the last
        to: usize,
    },
    /// An index or a bound of a slice is not a number.
    #[error("the index {0} is not a number")]
    Index(Box<str>),
    /// `IN x` where x is not an array.
    #[error("{0} is not an array")]
    NotArray(Box<str>),
    #[error("invalid condition that returns non-bool value {0}")]
    NotBoolean(Box<str>),
    #[error("call func {name} error: {error}")]
    Function { name: &'static str, error: Box<FunctionError> },
    /// An aggregate does not accept this value.
    #[error("run {aggregate} function error: found invalid arg {found}")]
    Aggregate { aggregate: Aggregate, found: Box<str> },
    /// An error restored from a checkpoint, which has only its text.
    #[error("{0}")]
    Kept(Box<str>),
}

/// The most characters of a value that are shown.
const SHOWN: usize = 200;

/// Type and value in the form of Go: `string(x)`, `float64(5)`. Long values are cut.
pub(super) fn described(value: &Value) -> String {
    let name = match value {
        Value::Absent | Value::Null => return "<nil>(<nil>)".to_owned(),
        Value::Bool(_) => "bool",
        Value::Int(_) => "int64",
        Value::Unsigned(_) => "uint64",
        Value::Float(_) => "float64",
        Value::Text(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Json(json) if json.starts_with('[') => "[]interface {}",
        Value::Json(_) | Value::Object(_) => "map[string]interface {}",
        Value::Bytes(_) => "[]uint8",
        Value::DateTime(at) => {
            let shown = at.strftime("%Y-%m-%d %H:%M:%S %z %Z");
            return format!("time.Time({shown})");
        }
    };
    let mut out = String::new();
    let text = cast::text(value);
    let cut = text.char_indices().nth(SHOWN).map_or(&*text, |(end, _)| &text[..end]);
    let more = if cut.len() < text.len() { "…" } else { "" };
    // Writing to a String does not fail.
    let _ = write!(out, "{name}({cut}{more})");
    out
}

// A checkpoint keeps only the text of an error: nothing else is used.
impl Serialize for EvalError {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EvalError {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<EvalError, D::Error> {
        Box::deserialize(from).map(EvalError::Kept)
    }
}

impl EvalError {
    /// The error of an operator that does not accept these values.
    #[cold]
    pub(super) fn operation(left: &Value, op: &str, right: &Value) -> EvalError {
        EvalError::Operation(format!("{} {op} {}", described(left), described(right)).into())
    }

    /// The error of a condition that is not boolean.
    #[cold]
    pub(super) fn not_boolean(value: &Value) -> EvalError {
        EvalError::NotBoolean(described(value).into())
    }
}
