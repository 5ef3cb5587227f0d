//! Finds type errors that are certain when a rule is planned: operators over declared columns and literals of the wrong
//! types.
//!
//! Only certain types count. A DATETIME column without STRICT_VALIDATION may hold text or numbers, the result of a
//! function may depend on its arguments, and a branch of CASE may never be reached: such errors are left to the rows.

use super::{Compiled, Compiler, Result, Type};
use crate::plan::error::{PlanError, PlanErrorKind};
use crate::sql::ast::{self, BinaryOp, DataType};
use crate::value::Value;

/// The classes of types that operators distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Number,
    Text,
    Bool,
    Array,
    Struct,
}

impl Compiled {
    /// The class of its values, if it is certain.
    pub(super) fn class(&self) -> Option<Class> {
        match &self.ty {
            Type::Known(DataType::BigInt | DataType::Float) if self.declared => Some(Class::Number),
            Type::Known(DataType::String) if self.declared => Some(Class::Text),
            Type::Known(DataType::Boolean) if self.declared => Some(Class::Bool),
            Type::Known(DataType::Array(_)) if self.declared => Some(Class::Array),
            Type::Known(DataType::Struct(_)) if self.declared => Some(Class::Struct),
            _ => None,
        }
    }

    /// The declared type, for messages.
    fn shown_type(&self) -> String {
        match &self.ty {
            Type::Known(ty) => ty.to_string(),
            Type::Any => "any".to_owned(),
        }
    }
}

impl Compiler {
    /// Refuses an operator whose operands have the wrong types.
    pub(super) fn check_binary(
        &self,
        op: BinaryOp,
        left: &Compiled,
        right: &Compiled,
        written: &ast::Expr,
    ) -> Result<()> {
        use BinaryOp::*;
        let wrong = || self.mismatch(written, format!("{} {op} {}", left.shown_type(), right.shown_type()));
        if left.literal().is_some() && right.literal().is_some() {
            return Ok(());
        }
        if matches!(op, And | Or) {
            let no_condition =
                |side: &Compiled| side.literal().is_none() && side.class().is_some_and(|class| class != Class::Bool);
            return if no_condition(left) || no_condition(right) { wrong() } else { Ok(()) };
        }
        let (Some(left_class), Some(right_class)) = (left.class(), right.class()) else { return Ok(()) };
        // A list or object differs from every single value.
        let is_single = |class| !matches!(class, Class::Array | Class::Struct);
        if matches!(op, Equal | NotEqual) && is_single(left_class) != is_single(right_class) {
            return Ok(());
        }
        let works = left_class == right_class
            && match op {
                Multiply | Divide | Modulo | Add | Subtract => left_class == Class::Number,
                BitAnd | BitOr | BitXor => matches!(left_class, Class::Number | Class::Bool),
                Equal | NotEqual => matches!(left_class, Class::Number | Class::Text | Class::Bool),
                Less | LessEqual | Greater | GreaterEqual => matches!(left_class, Class::Number | Class::Text),
                And | Or => true,
            };
        if works { Ok(()) } else { wrong() }
    }

    /// Refuses a condition that is never a boolean: a literal, a declared column or an operator of another type.
    pub fn check_condition(&self, value: &Compiled, written: &ast::Expr, clause: &'static str) -> Result<()> {
        let never = match value.literal() {
            Some(literal) => !matches!(literal, Value::Bool(_)),
            None => value.class().is_some_and(|class| class != Class::Bool),
        };
        if !never {
            return Ok(());
        }
        let kind = PlanErrorKind::Condition { clause, found: written.to_string() };
        Err(PlanError::at(kind, written.span))
    }

    /// Refuses a value of another class than `wanted`. `shown` is the operation for the message, with `{}` in place of
    /// the type.
    pub(super) fn check_class(
        &self,
        value: &Compiled,
        wanted: Class,
        written: &ast::Expr,
        shown: impl FnOnce(&str) -> String,
    ) -> Result<()> {
        match value.class() {
            Some(class) if class != wanted && value.literal().is_none() => {
                self.mismatch(written, shown(&value.shown_type()))
            }
            _ => Ok(()),
        }
    }

    fn mismatch(&self, written: &ast::Expr, operation: String) -> Result<()> {
        if self.open_cases > 0 {
            return Ok(());
        }
        let kind = PlanErrorKind::Types { written: written.to_string(), operation };
        Err(PlanError::at(kind, written.span))
    }
}
