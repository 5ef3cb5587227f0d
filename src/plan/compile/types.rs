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
        let wrong = || {
            let operation = format!("{} {op} {}", left.shown_type(), right.shown_type());
            self.mismatch(written, operation, hint_for(op, left.class(), right.class()))
        };
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
                self.mismatch(written, shown(&value.shown_type()), hint_to_get(wanted, class))
            }
            _ => Ok(()),
        }
    }

    fn mismatch(&self, written: &ast::Expr, operation: String, hint: &str) -> Result<()> {
        if self.open_cases > 0 {
            return Ok(());
        }
        let kind = PlanErrorKind::Types { written: written.to_string(), operation };
        Err(PlanError::at(kind, written.span).with_hint(hint.to_owned()))
    }
}

/// How to make an operator work over operands of these classes.
fn hint_for(op: BinaryOp, left: Option<Class>, right: Option<Class>) -> &'static str {
    let either = |wanted: &[Class]| [left, right].into_iter().flatten().any(|class| wanted.contains(&class));
    match op {
        BinaryOp::And | BinaryOp::Or => "both sides are conditions, such as x > 0",
        _ if either(&[Class::Array, Class::Struct]) => {
            "operators take single values: read a member of a struct with ->, an element of an array with [0]"
        }
        BinaryOp::Add if left == Some(Class::Text) && left == right => "concat(a, b) joins texts",
        _ if left == Some(Class::Bool) && left == right => {
            "booleans are compared by = and !=, and combined by AND and OR"
        }
        _ => "convert one side, as in cast(x, \"float\") or cast(x, \"string\")",
    }
}

/// How to get a value of the wanted class from one of the found class.
fn hint_to_get(wanted: Class, found: Class) -> &'static str {
    match (wanted, found) {
        (Class::Struct, Class::Text) => "-> reads a member of a struct: parse_json(x)->y, if the text is JSON",
        (Class::Struct, Class::Array) => "-> reads a member of a struct: x[0]->y reads that of an element",
        (Class::Struct, _) => "-> reads a member of a struct: declare the column as STRUCT(…)",
        (Class::Array, Class::Text) => "this needs an array: parse_json(x), if the text is JSON",
        (Class::Array, Class::Struct) => "this needs an array: a member of a struct is read with ->",
        (Class::Array, _) => "this needs an array: declare the column as ARRAY(…)",
        (Class::Bool, _) => "this needs a condition, such as x > 0",
        (Class::Number, _) => "this needs a number: convert the value, as in cast(x, \"float\")",
        (Class::Text, _) => "this needs text: convert the value, as in cast(x, \"string\")",
    }
}
