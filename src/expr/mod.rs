//! Compiled expressions, which workers evaluate for each row.
//!
//! An [`Expr`] reads the slots of a row by number; `plan` has resolved names, types and aliases. This layer knows
//! values and functions, but no streams, windows, sockets or timely.

mod access;
pub mod aggregate;
pub mod analytic;
mod display;
mod error;
mod eval;
pub mod function;
pub mod like;
mod ops;
pub mod set_returning;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::Arc;

use crate::value::operator::BinaryOp;
use crate::value::{Text, Value};

use function::{CallContext, Function, PreparedFn};

pub use crate::value::key::{self as group, whole_float};
pub use crate::value::operator::Comparison;
pub use error::EvalError;
pub use ops::{compare, compare_at, order_of_numbers};

/// A compiled expression. Slots are numbers in a worker and references in the planner (`plan::logical`).
#[derive(Clone)]
pub enum Expr<S = usize> {
    Constant(Value),
    /// the value of a slot
    Slot(S),
    /// `e->name`
    Member(Box<Expr<S>>, Text),
    /// `e[index]`
    Index(Box<Expr<S>>, Box<Expr<S>>),
    /// `e[from:to]`
    Slice(Box<Expr<S>>, Option<Box<Expr<S>>>, Option<Box<Expr<S>>>),
    /// `-e`
    Negate(Box<Expr<S>>),
    /// `NOT e`
    Not(Box<Expr<S>>),
    /// arithmetic, bits, comparison, AND, OR
    Binary {
        /// operator
        op: BinaryOp,
        /// left operand
        left: Box<Expr<S>>,
        /// right operand
        right: Box<Expr<S>>,
        /// for `/`: integer division, rounded toward zero. False if an operand may be a JSON number of a schemaless
        /// stream: then both are divided as floats.
        integral: bool,
    },
    /// `e [NOT] BETWEEN low AND high`
    Between {
        /// e, low, high
        operands: Box<[Expr<S>; 3]>,
        /// with NOT
        negated: bool,
    },
    /// `e [NOT] IN (…)`
    InList {
        expr: Box<Expr<S>>,
        list: Vec<Expr<S>>,
        /// with NOT
        negated: bool,
    },
    /// `e [NOT] IN array`
    InArray {
        expr: Box<Expr<S>>,
        array: Box<Expr<S>>,
        /// with NOT
        negated: bool,
    },
    /// `e [NOT] LIKE pattern`
    Like {
        /// the text
        expr: Box<Expr<S>>,
        pattern: LikePattern<S>,
        /// with NOT
        negated: bool,
    },
    /// `e IS [NOT] NULL`
    IsNull {
        /// what is tested
        expr: Box<Expr<S>>,
        /// with NOT
        negated: bool,
    },
    Case {
        /// the operand that is compared with each WHEN; `None`: each WHEN is a condition
        value: Option<Box<Expr<S>>>,
        /// WHEN and THEN
        branches: Vec<(Expr<S>, Expr<S>)>,
        /// ELSE
        otherwise: Option<Box<Expr<S>>>,
    },
    /// the first value that is not absent: for a name that several schemaless streams can have
    FirstPresent(Vec<Expr<S>>),
    /// a row as an object: the members of complete messages (if keys are equal, the first counts), then single members
    /// that are not absent
    Object {
        /// objects
        wholes: Vec<Expr<S>>,
        /// keys that are left out of `wholes`
        except: Vec<Text>,
        /// single members
        members: Vec<(Text, Expr<S>)>,
    },
    /// a scalar function
    Call {
        /// its entry in the table
        function: &'static Function,
        /// the call prepared from its literals, if the function supports that
        prepared: Option<Arc<PreparedFn>>,
        /// arguments
        args: Vec<Expr<S>>,
    },
}

#[derive(Clone)]
pub enum LikePattern<S = usize> {
    /// a compiled literal
    Literal(Arc<like::Pattern>),
    /// known at run time
    Dynamic(Box<Expr<S>>),
}

/// The input of an expression.
pub struct Scope<'a> {
    /// slots of the row
    pub slots: &'a [Value],
    /// rule, time and window
    pub context: &'a CallContext<'a>,
}
