//! A path to a value in a message: `data->T`, `self[3]`, `` `my key`->list[0] ``.
//!
//! Stream options and source properties name fields by such paths (TIMESTAMP, `dedupKey`, `gapKey`). A path begins with
//! a column, so the scan extracts only that column and follows the rest of the path in its JSON text.

use std::borrow::Cow;
use std::fmt;

use super::json;
use super::{Text, Value};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath {
    column: Text,
    steps: Box<[Step]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Member(Text),
    /// from 0; negative: from the end, -1 is the last
    Element(i64),
}

impl FieldPath {
    /// Parses a path. A text without `->` and `[` is the name of a column, whatever its characters. `None` if the text
    /// has one of them but is not a valid path.
    pub fn parse(text: &str) -> Option<FieldPath> {
        if !text.contains("->") && !text.contains('[') {
            let name = text.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')).unwrap_or(text);
            return (!name.is_empty()).then(|| FieldPath { column: name.into(), steps: Box::default() });
        }
        let (column, mut rest) = name(text)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(behind) = rest.strip_prefix("->") {
                let (member, behind) = name(behind)?;
                steps.push(Step::Member(member));
                rest = behind;
            } else {
                let (index, behind) = rest.strip_prefix('[')?.split_once(']')?;
                steps.push(Step::Element(index.trim().parse().ok()?));
                rest = behind.trim_start();
            }
        }
        Some(FieldPath { column, steps: steps.into() })
    }

    pub fn column(&self) -> &Text {
        &self.column
    }

    /// The value at the path in the value of its column; `Absent` if there is none.
    pub fn find<'v>(&self, column: &'v Value) -> Cow<'v, Value> {
        let mut found = Cow::Borrowed(column);
        for step in &self.steps {
            found = Cow::Owned(match step {
                Step::Member(key) => json::member(&found, key),
                Step::Element(index) => json::element(&found, *index),
            });
        }
        found
    }
}

/// Parses a name, plain or in backticks, and returns the rest.
fn name(text: &str) -> Option<(Text, &str)> {
    let text = text.trim_start();
    if let Some(quoted) = text.strip_prefix('`') {
        let (name, rest) = quoted.split_once('`')?;
        return (!name.is_empty()).then(|| (name.into(), rest.trim_start()));
    }
    let end = text.find("->").into_iter().chain(text.find('[')).min().unwrap_or(text.len());
    let name = text[..end].trim_end();
    let plain = !name.is_empty() && !name.contains(['`', ']', ' ']);
    plain.then(|| (name.into(), &text[end..]))
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.column)?;
        self.steps.iter().try_for_each(|step| match step {
            Step::Member(key) => write!(f, "->{key}"),
            Step::Element(index) => write!(f, "[{index}]"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found() {
        let message = json::parse(r#"{"data":{"T":7,"list":[1,[2,3]],"a b":{"c":4}},"n":5}"#).expect("JSON");
        for (path, expected) in [
            ("data->T", Value::Int(7)),
            (" data -> list [1] [-1]", Value::Int(3)),
            ("data->`a b`->c", Value::Int(4)),
            ("n", Value::Int(5)),
            ("data->T->x", Value::Absent),
            ("data->list[9]", Value::Absent),
            ("n[0]", Value::Absent),
        ] {
            let path = FieldPath::parse(path).expect("a path");
            let column = json::member(&message, path.column());
            assert_eq!(format!("{:?}", path.find(&column)), format!("{expected:?}"), "{path}");
        }
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for text in ["", "->a", "a->", "a[", "a[x]", "a[1]b", "a b->c", "`a->b", "a->[0]"] {
            assert_eq!(FieldPath::parse(text), None, "{text}");
        }
        for text in ["my-time", "a.b", "event time"] {
            assert_eq!(FieldPath::parse(text).expect("a name").column(), text);
        }
    }
}
