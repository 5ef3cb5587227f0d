//! Functions of the select list that make rows: `unnest` and `extract`.
//!
//! They only make the rows; other code combines these with the other columns and sends them.

use std::sync::Arc;

use super::error::EvalError;
use super::function::FunctionError;
use crate::value::json;
use crate::value::{Object, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SetReturning {
    /// unnest(array): a row for each element
    Unnest,
    /// extract(object): one row, with the keys as columns
    Extract,
}

/// What one of the rows adds to the other columns.
#[derive(Clone, Debug)]
pub enum SrfRow {
    /// columns, which replace others with the same name
    Columns(Arc<Object>),
    /// one value, for the column named by the alias or the function
    Value(Value),
}

impl std::fmt::Display for SetReturning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The most rows of one row: other rules wait while they are made.
const MOST_ROWS: usize = 1 << 18;

impl SetReturning {
    /// The function's name.
    pub fn name(self) -> &'static str {
        match self {
            SetReturning::Unnest => "unnest",
            SetReturning::Extract => "extract",
        }
    }

    /// The rows for this argument, in order; an empty array has none. Any other kind of argument, also null, is an
    /// error: nothing is sent for the row.
    pub fn rows(self, value: &Value) -> Result<Vec<SrfRow>, EvalError> {
        match (self, &*json::expand(value)) {
            (SetReturning::Unnest, Value::Array(elements)) if elements.len() > MOST_ROWS => {
                Err(self.refuses("unnest should use an array of at most 262144 elements"))
            }
            (SetReturning::Unnest, Value::Array(elements)) => Ok(elements.iter().map(SrfRow::of).collect()),
            (SetReturning::Extract, Value::Object(members)) => Ok(vec![SrfRow::Columns(members.clone())]),
            (SetReturning::Unnest, _) => Err(self.refuses("unnest should use array")),
            (SetReturning::Extract, _) => Err(self.refuses("extract should use map")),
        }
    }

    fn refuses(self, text: &'static str) -> EvalError {
        EvalError::Function { name: self.name(), error: Box::new(FunctionError::Domain(text.into())) }
    }
}

impl SrfRow {
    /// The row as one value; columns become an object.
    pub fn into_value(self) -> Value {
        match self {
            SrfRow::Columns(columns) => Value::Object(columns),
            SrfRow::Value(value) => value,
        }
    }

    fn of(element: &Value) -> SrfRow {
        match &*json::expand(element) {
            Value::Object(members) => SrfRow::Columns(members.clone()),
            // A missing element gives a row too.
            Value::Absent => SrfRow::Value(Value::Null),
            other => SrfRow::Value(other.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::cast;

    fn shown(rows: Result<Vec<SrfRow>, EvalError>) -> String {
        let shown = |row: &SrfRow| match row {
            SrfRow::Columns(members) => format!("columns {}", cast::text(&Value::Object(members.clone()))),
            SrfRow::Value(value) if value.is_null() => "null".to_owned(),
            SrfRow::Value(value) => cast::text(value).into_owned(),
        };
        rows.map_or_else(|error| error.to_string(), |rows| rows.iter().map(shown).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn made_rows() {
        use SetReturning::{Extract, Unnest};
        let json = |text: &str| Value::Json(text.into());
        let (no_array, no_object) =
            ("call func unnest error: unnest should use array", "call func extract error: extract should use map");
        for (code, value, expected) in [
            (Unnest, json(r#"[1, "x", [2], null]"#), "1; x; [2]; null"),
            (Unnest, json(r#"[{"x": 1, "y": 2}, 5, {}]"#), r#"columns {"x":1,"y":2}; 5; columns {}"#),
            (Unnest, Value::array([Value::Int(1), json(r#"{"p": 1}"#)]), r#"1; columns {"p":1}"#),
            (Unnest, json("[]"), ""),
            (Unnest, json(r#"{"x": 1}"#), no_array),
            (Unnest, Value::Int(5), no_array),
            (Unnest, Value::Null, no_array),
            (Unnest, Value::Absent, no_array),
            (Extract, json(r#"{"x": 1, "y": [2]}"#), r#"columns {"x":1,"y":[2]}"#),
            (Extract, Value::object([("x".into(), Value::Null)]), r#"columns {"x":null}"#),
            (Extract, json("{}"), "columns {}"),
            (Extract, json("[1]"), no_object),
            (Extract, Value::Int(5), no_object),
            (Extract, Value::Absent, no_object),
        ] {
            assert_eq!(shown(code.rows(&value)), expected, "{code:?} {value:?}");
        }
    }
}
