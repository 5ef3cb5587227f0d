//! Compiled expressions: what a worker evaluates for each row.
//!
//! An [`Expr`] reads the slots of a row by number; names, types of columns and aliases were resolved by `plan`. This
//! layer knows values and functions; it must not know streams, windows, sockets or timely.

mod access;
pub mod aggregate;
pub mod analytic;
mod display;
mod error;
mod eval;
pub mod function;
pub mod group;
pub mod like;
mod ops;
pub mod pattern;
pub mod set_returning;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::sql::ast::BinaryOp;
use crate::value::{Text, Value};

use function::{CallContext, Function, PreparedFn};

pub use error::EvalError;
pub use ops::{Comparison, compare, compare_at, order_of_numbers, whole_float};

/// A compiled expression.
#[derive(Clone)]
pub enum Expr {
    /// a constant
    Constant(Value),
    /// the value of a slot
    Slot(usize),
    /// `e->name`
    Member(Box<Expr>, Text),
    /// `e[index]`
    Index(Box<Expr>, Box<Expr>),
    /// `e[from:to]`
    Slice(Box<Expr>, Option<Box<Expr>>, Option<Box<Expr>>),
    /// `-e`
    Negate(Box<Expr>),
    /// `NOT e`
    Not(Box<Expr>),
    /// arithmetic, bits, comparison, AND, OR
    Binary {
        /// operator
        op: BinaryOp,
        /// left operand
        left: Box<Expr>,
        /// right operand
        right: Box<Expr>,
        /// of `/`: whole numbers divide as whole numbers, cut toward zero. False where an operand is a JSON number of
        /// a schemaless stream, which divides as a double.
        integral: bool,
    },
    /// `e [NOT] BETWEEN low AND high`
    Between {
        /// operands: e, low, high
        operands: Box<[Expr; 3]>,
        /// NOT
        negated: bool,
    },
    /// `e [NOT] IN (…)`
    InList {
        /// what is looked for
        expr: Box<Expr>,
        /// where
        list: Vec<Expr>,
        /// NOT
        negated: bool,
    },
    /// `e [NOT] IN array`
    InArray {
        /// what is looked for
        expr: Box<Expr>,
        /// where
        array: Box<Expr>,
        /// NOT
        negated: bool,
    },
    /// `e [NOT] LIKE pattern`
    Like {
        /// the text
        expr: Box<Expr>,
        /// the pattern
        pattern: LikePattern,
        /// NOT
        negated: bool,
    },
    /// `e IS [NOT] NULL`
    IsNull {
        /// what is tested
        expr: Box<Expr>,
        /// NOT
        negated: bool,
    },
    /// CASE
    Case {
        /// compared with each WHEN; none: each WHEN is a condition
        value: Option<Box<Expr>>,
        /// WHEN and THEN
        branches: Vec<(Expr, Expr)>,
        /// ELSE
        otherwise: Option<Box<Expr>>,
    },
    /// the first that is not absent: a name that several schemaless streams may have
    FirstPresent(Vec<Expr>),
    /// a row as an object: the members of whole messages, the first of equal keys, then single members that are not
    /// absent
    Object {
        /// objects
        wholes: Vec<Expr>,
        /// single members
        members: Vec<(Text, Expr)>,
    },
    /// a scalar function
    Call {
        /// its row
        function: &'static Function,
        /// made for this call from its literal arguments, where the function wants that
        prepared: Option<Arc<PreparedFn>>,
        /// arguments
        args: Vec<Expr>,
    },
}

/// The pattern of LIKE.
#[derive(Clone)]
pub enum LikePattern {
    /// a literal, prepared
    Literal(Arc<like::Pattern>),
    /// known at run time
    Dynamic(Box<Expr>),
}

/// What an expression is evaluated over.
pub struct Scope<'a> {
    /// the row's slots
    pub slots: &'a [Value],
    /// rule, time and window
    pub context: &'a CallContext<'a>,
}
