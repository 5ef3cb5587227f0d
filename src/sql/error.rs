//! Errors in statements, with their places and hints.
//!
//! The messages use eKuiper's words, because scripts match them; place and hint are Plutino's. Callers put a prefix
//! before them (`Parse SQL … error: `).

use thiserror::Error;

use crate::text::span::Span;

/// The types of columns, as messages list them.
pub const TYPE_NAMES: [&str; 8] = ["BIGINT", "FLOAT", "STRING", "DATETIME", "BOOLEAN", "BYTEA", "ARRAY", "STRUCT"];

/// Why a text is not a statement: the first error, and further ones if the rest could be parsed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{kind}")]
pub struct SyntaxError {
    pub kind: SyntaxErrorKind,
    pub(super) span: Span,
    pub(super) hint: Option<String>,
    pub(super) others: Vec<SyntaxError>,
}

impl SyntaxError {
    /// The place in the statement's text, in bytes, ready for [`mark`](crate::text::span::mark).
    pub fn span(&self) -> Span {
        self.span
    }

    /// A suggestion, as a sentence.
    pub fn hint(&self) -> Option<String> {
        self.hint.clone()
    }

    /// This error and the others of the statement.
    pub fn each(&self) -> impl Iterator<Item = &SyntaxError> {
        std::iter::once(self).chain(&self.others)
    }
}

/// The kinds of errors. `found` is the word as messages show it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SyntaxErrorKind {
    #[error("found {found:?}, expected {expected}.")]
    Unexpected {
        /// the text at this place; `EOF` at the end
        found: String,
        /// what is allowed there
        expected: &'static str,
    },
    #[error("found {found:?}, invalid number value.")]
    Number {
        /// as written
        found: String,
    },
    /// The text does not begin with SELECT, though it may be another statement; see [`super::parse_select`].
    #[error("the statement is not a select statement.")]
    NotSelect,
    /// The text does not begin like any statement about streams or tables.
    #[error("Invalid stream statement: {text}")]
    NotStream {
        /// the whole text
        text: String,
    },
    /// The text is longer than [`super::MAX_LENGTH`] bytes.
    #[error("the statement has {length} bytes, at most {} are possible.", super::MAX_LENGTH)]
    TooLong {
        /// its length in bytes
        length: usize,
    },
    #[error("the statement is nested too deeply: at most {limit} levels are possible.")]
    TooDeep {
        /// [`super::MAX_NESTING`] or [`super::MAX_HEIGHT`]
        limit: usize,
    },
    #[error("found \"EOF\", expected stream name.")]
    NoStream,
    /// A character that is not allowed in names of streams and tables.
    #[error("id '{name}' contains invalid characters: only alphanumeric, hyphens and underscores are allowed")]
    BadStreamName { name: String },
    #[error("id cannot be empty")]
    EmptyStreamName,
    #[error("found {found:?}, a column of this name is already there.")]
    DuplicateColumn {
        /// its name
        found: String,
    },
    #[error("found {found:?}, expect valid stream field types({}).", TYPE_NAMES.join(" | "))]
    ColumnType {
        /// the text at this place
        found: String,
    },
    #[error("found {found:?}, unknown option keys({}).", super::ast::OPTION_NAMES[..super::ast::EKUIPER_OPTIONS].join("|"))]
    Option {
        /// the text at this place
        found: String,
    },
    #[error("found {found:?}, which is not an option of a view: the options are {}.", super::ast::VIEW_OPTIONS.join(", "))]
    ViewOption {
        /// the text at this place
        found: String,
    },
    #[error("found {found:?}, expect {expected}.")]
    OptionValue {
        /// the text at this place
        found: String,
        /// what is allowed there
        expected: String,
    },
    /// `CREATE STREAM (` and the like.
    #[error("found {found:?}, expect {expected}.")]
    Expect {
        /// the text at this place
        found: String,
        /// what is allowed there
        expected: &'static str,
    },
    /// `* AS x`
    #[error("alias is not supported for *")]
    StarAlias,
    /// `EXCEPT a`, `OVER ()` and the like.
    #[error("Found {found:?} after {after}, expect {expected}.")]
    After {
        /// the text at this place
        found: String,
        /// the word before
        after: &'static str,
        /// what is allowed there
        expected: &'static str,
    },
    /// `EXCEPT (5)` and the like.
    #[error("Found {found:?} in {clause}")]
    In {
        /// what stands there
        found: String,
        /// EXCEPT or REPLACE
        clause: &'static str,
    },
    /// `CROSS JOIN b ON …`
    #[error("On expression is not required for cross join type.")]
    CrossOn,
    #[error("limit should be integer")]
    Limit,
    #[error("limit should not be negative")]
    NegativeLimit,
    #[error("expect elements for IN expression, but found {found:?}, expected expression.")]
    EmptyIn {
        /// the text at this place
        found: String,
    },
    #[error("expect ) for IN expression, but got {found:?}")]
    UnclosedIn {
        /// the text at this place
        found: String,
    },
    #[error("expect AND expression after between but found {found}")]
    BetweenWithoutAnd {
        /// the text at this place
        found: String,
    },
    #[error("invalid CASE expression, {expected}")]
    Case { expected: &'static str },
    /// `[` without `]`.
    #[error("Unexpected token {found:?}. when parsing bracket expressions.")]
    Bracket {
        /// the last token inside
        found: String,
    },
    /// A call without `)`.
    #[error("found function call {name:?}, expected ), but with {found:?}.")]
    UnclosedCall {
        /// the function
        name: String,
        /// the text at this place
        found: String,
    },
    #[error("the window {name} can only be used in GROUP BY.")]
    WindowOutsideGroupBy {
        /// the function's name in lower case
        name: &'static str,
    },
    #[error("GROUP BY has two windows, only one is possible.")]
    TwoWindows,
    #[error("The arguments for {window} should be {expected}.")]
    WindowArguments {
        /// the window's name in lower case
        window: &'static str,
        /// the allowed numbers of arguments
        expected: &'static str,
    },
    #[error("The 1st argument for {window} is expecting timer literal expression. One value of [dd|hh|mi|ss|ms].")]
    WindowUnit {
        /// the window's name in lower case
        window: &'static str,
    },
    #[error("The {index} argument for {window} is expecting interger literal expression.")]
    WindowLength {
        /// the window's name in lower case
        window: &'static str,
        /// which argument, from 0
        index: usize,
    },
    #[error("The {index} argument for {window} should be greater than 0, and at most some hundred million years.")]
    WindowRange {
        /// the window's name in lower case
        window: &'static str,
        /// which argument, from 0
        index: usize,
    },
    #[error("Invalid parameter count.")]
    CountArguments,
    #[error("Invalid parameter value {value}.")]
    CountValue {
        /// as written
        value: String,
    },
    #[error("The second parameter value {interval} should be less than the first parameter {length}.")]
    CountInterval {
        /// rows from window to window
        interval: u64,
        /// rows of a window
        length: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::span::mark;

    fn marked(text: &str, part: &str) -> String {
        let start = text.find(part).unwrap();
        mark(text, Span { start: start as u32, end: (start + part.len()) as u32 })
    }

    #[test]
    fn places_are_marked() {
        assert_eq!(marked("SELECT a FORM demo", "FORM"), "1:10 | SELECT a FORM demo\n     |          ^^^^");
        assert_eq!(marked("SELECT ü,\n\tb FORM demo", "FORM"), "2:4 | \tb FORM demo\n    | \t  ^^^^");
        assert_eq!(mark("SELECT", Span { start: 6, end: 6 }), "1:7 | SELECT\n    |       ^");
        assert_eq!(mark("", Span { start: 9, end: 12 }), "1:1 | \n    | ^");
        let long = format!("SELECT {} FORM demo {}", "a, ".repeat(100), "x".repeat(200));
        let shown = marked(&long, "FORM");
        let lines: Vec<Vec<char>> = shown.lines().map(|l| l.chars().collect()).collect();
        let caret = lines[1].iter().position(|c| *c == '^').unwrap();
        assert_eq!(lines[0][caret..caret + 4], ['F', 'O', 'R', 'M']);
        assert!(lines[0].len() < 140);
    }
}
