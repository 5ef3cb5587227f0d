//! The rule language: text to tree and back.
//!
//! [`parse_statement`] and its siblings parse a text; the `Display` of every node in [`ast`] prints it, so that parsing
//! the printed text gives the same tree. This module does not know which streams, columns or functions exist.

pub mod ast;
mod error;
mod parser;
mod print;
mod token;

pub use error::{SyntaxError, SyntaxErrorKind};
pub use parser::{
    MAX_HEIGHT, MAX_LENGTH, MAX_NESTING, WINDOWS, is_create_view, parse_create, parse_expr, parse_select,
    parse_statement, parse_view,
};
