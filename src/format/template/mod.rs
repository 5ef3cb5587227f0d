//! Templates of sinks: the language of Go's text/template with the functions of sprig that read no environment, over
//! the values of the rule language.
//!
//! Syntax and meaning: <https://pkg.go.dev/text/template>, functions: <https://masterminds.github.io/sprig/>. No
//! well-kept crate reads this language, and rules that run elsewhere must run here. A template is parsed once, when
//! its rule is made; running it never panics, and what it may do is bounded: steps, depth, bytes of output.
//!
//! This layer knows values only: no rows, sinks or sockets.

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

/// Why a template cannot be used. The text is that of Go, with the line.
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
    /// [`RunError`]; nothing of what was made before is kept.
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
    /// copied
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
    /// out of the innermost range
    Break,
    /// to the next element of the innermost range
    Continue,
}

/// Commands, each with the result of the one before as last argument.
#[derive(Clone, Debug)]
struct Pipe {
    /// variables that are set, and whether they are new
    sets: Vec<Text>,
    /// `:=` and not `=`
    declares: bool,
    commands: Vec<Vec<Operand>>,
    line: usize,
}

/// What a command is made of.
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
