//! Templates of sinks: Go's text/template with sprig's functions, except those that read the environment.
//!
//! Syntax and meaning: <https://pkg.go.dev/text/template>, functions: <https://masterminds.github.io/sprig/>. No
//! well-kept crate reads this language, and existing rules must run unchanged. A template is parsed once, when its rule
//! is made. Running it never panics, and its steps, depth and output are limited.
//!
//! This layer knows only values: no rows, sinks or sockets.

mod eval;
mod functions;
mod parse;
mod print;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use crate::value::{Text, Value};

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template {
    body: Vec<Node>,
    /// Templates that it defines, by name.
    defined: HashMap<Text, Vec<Node>>,
}

/// Why a template cannot be parsed. The text is Go's, with the line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template: sink:{line}: {what}")]
pub struct TemplateError {
    /// From 1.
    pub line: usize,
    pub what: String,
}

/// Why a template failed for a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template: sink:{line}: {what}")]
pub struct RunError {
    /// From 1.
    pub line: usize,
    pub what: String,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`TemplateError`] with the place.
    pub fn new(text: &str) -> Result<Template, TemplateError> {
        parse::parse(text)
    }

    /// Runs the template over a value.
    ///
    /// # Errors
    /// [`RunError`]; then the output is discarded.
    pub fn run(&self, value: &Value) -> Result<String, RunError> {
        eval::run(self, value)
    }
}

/// A value as templates print it: `map[a:1]`, `[1 x]`.
pub fn printed(value: &Value) -> String {
    print::text(value)
}

/// A part of a template.
#[derive(Clone, Debug)]
enum Node {
    /// literal text
    Text(String),
    /// a pipeline, printed unless it only sets a variable
    Print(Pipe),
    /// if, else
    If(Pipe, Vec<Node>, Vec<Node>),
    /// with, else: the dot is the pipeline's value
    With(Pipe, Vec<Node>, Vec<Node>),
    /// range, else
    Range(Pipe, Vec<Node>, Vec<Node>),
    /// a defined template, run with a pipeline's value
    Call(Text, Option<Pipe>, usize),
    /// leaves the innermost range
    Break,
    /// continues with the next element of the innermost range
    Continue,
}

/// Commands; each gets the result of the previous one as its last argument.
#[derive(Clone, Debug)]
struct Pipe {
    /// variables that are set
    sets: Vec<Text>,
    /// `:=` instead of `=`: the variables are new
    declares: bool,
    commands: Vec<Vec<Operand>>,
    line: usize,
}

/// A part of a command.
#[derive(Clone, Debug)]
enum Operand {
    /// `.`
    Dot,
    /// a literal
    Value(Value),
    /// `$x`; `$` has no name
    Variable(Text),
    /// `(pipeline)`
    Pipe(Box<Pipe>),
    /// `x.a.b`
    Field(Box<Operand>, Vec<Text>),
    Function(&'static functions::Function),
}
