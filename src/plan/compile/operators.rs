//! Compiles operators, members, indexes, conditions and CASE from their parts, with their types.

use std::sync::Arc;

use super::types::Class;
use super::{Compiled, Compiler, Parts, Result, Scope, Type};
use crate::expr::aggregate::Aggregate;
use crate::expr::function::{self, Code};
use crate::expr::{Comparison, LikePattern, like};
use crate::plan::error::{PlanError, PlanErrorKind};
use crate::plan::logical::Expr;
use crate::sql::ast::{self, BinaryOp, DataType, ExprKind, Ident, InSet, Literal, UnaryOp};
use crate::value::Value;

impl Compiler {
    pub(super) fn member(
        &mut self,
        left: &ast::Expr,
        member: &Ident,
        written: &ast::Expr,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        let left = self.expr(left, clause, own)?;
        self.check_class(&left, Class::Struct, written, |ty| format!("{ty}->{}", member.name))?;
        let ty = match &left.ty {
            Type::Known(DataType::Struct(members)) => members
                .iter()
                .find(|column| column.name.name == member.name)
                .map_or(Type::Any, |column| Type::Known(column.ty.clone())),
            _ => Type::Any,
        };
        let mut parts = Parts::new();
        let left = parts.boxed(left);
        parts.node(Expr::Member(left, member.name.clone()), ty)
    }

    pub(super) fn index(
        &mut self,
        left: &ast::Expr,
        index: &ast::Expr,
        written: &ast::Expr,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        // A group has at least one row, so a list of its values has a first and a last element.
        if let (ExprKind::Call(call), Some(last)) = (&left.kind, end(index))
            && let Some(function) = function::lookup(&call.name.name)
            && !call.distinct
            && matches!(function.code, Code::Aggregate(Aggregate::Collect))
        {
            let end = Aggregate::CollectEnd { last };
            let mut compiled = self.aggregate(end, function, call, left.span, (clause, own))?;
            compiled.ty = Type::Any;
            return Ok(compiled);
        }
        let left = self.expr(left, clause, own)?;
        let index = self.expr(index, clause, own)?;
        self.check_class(&left, Class::Array, written, |ty| format!("{ty}[…]"))?;
        self.check_class(&index, Class::Number, written, |ty| format!("…[{ty}]"))?;
        let ty = match &left.ty {
            Type::Known(DataType::Array(element)) => Type::Known((**element).clone()),
            _ => Type::Any,
        };
        let mut parts = Parts::new();
        let (left, index) = (parts.boxed(left), parts.boxed(index));
        parts.node(Expr::Index(left, index), ty)
    }

    pub(super) fn slice(
        &mut self,
        left: &ast::Expr,
        from: Option<&ast::Expr>,
        to: Option<&ast::Expr>,
        written: &ast::Expr,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        let left = self.expr(left, clause, own)?;
        self.check_class(&left, Class::Array, written, |ty| format!("{ty}[…:…]"))?;
        let from = from.map(|from| self.expr(from, clause, own)).transpose()?;
        let to = to.map(|to| self.expr(to, clause, own)).transpose()?;
        let bound = |bound: &Option<Compiled>| match bound.as_ref().and_then(Compiled::literal) {
            Some(Value::Int(bound)) => Some(*bound),
            _ => None,
        };
        // Counted from the end, the first element depends on the array's length.
        let first = if from.is_none() { Some(0) } else { bound(&from) };
        if let (Some(from), Some(to)) = (first, bound(&to))
            && from >= 0
            && to >= 0
            && from >= to
        {
            return Err(PlanError::at(PlanErrorKind::Slice, written.span));
        }
        let ty = left.ty.clone();
        let mut parts = Parts::new();
        let left = parts.boxed(left);
        let from = from.map(|from| parts.boxed(from));
        let to = to.map(|to| parts.boxed(to));
        parts.node(Expr::Slice(left, from, to), ty)
    }

    pub(super) fn unary(
        &mut self,
        op: UnaryOp,
        operand: &ast::Expr,
        written: &ast::Expr,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        let operand = self.expr(operand, clause, own)?;
        match op {
            UnaryOp::Minus => self.check_class(&operand, Class::Number, written, |ty| format!("-{ty}"))?,
            UnaryOp::Plus => self.check_class(&operand, Class::Number, written, |ty| format!("+{ty}"))?,
            UnaryOp::Not => self.check_class(&operand, Class::Bool, written, |ty| format!("NOT {ty}"))?,
        }
        let mut parts = Parts::new();
        match (op, operand.literal()) {
            (UnaryOp::Minus, Some(Value::Int(i))) if *i != i64::MIN => Ok(Compiled::constant(Value::Int(-i))),
            (UnaryOp::Minus, Some(Value::Float(f))) => Ok(Compiled::constant(Value::Float(-f))),
            (UnaryOp::Plus, Some(Value::Int(_) | Value::Float(_))) => Ok(operand),
            (UnaryOp::Not, Some(Value::Bool(b))) => Ok(Compiled::constant(Value::Bool(!b))),
            (UnaryOp::Minus, _) => {
                let ty = operand.ty.clone();
                let operand = parts.boxed(operand);
                parts.node(Expr::Negate(operand), ty)
            }
            // A plus checks that the operand is a number and changes nothing, like two minus signs.
            (UnaryOp::Plus, _) => {
                let ty = operand.ty.clone();
                let operand = parts.boxed(operand);
                parts.height += 1;
                parts.node(Expr::Negate(Box::new(Expr::Negate(operand))), ty)
            }
            (UnaryOp::Not, _) => {
                let operand = parts.boxed(operand);
                parts.node(Expr::Not(operand), Type::BOOL)
            }
        }
    }

    pub(super) fn binary(
        &mut self,
        op: BinaryOp,
        left: &ast::Expr,
        right: &ast::Expr,
        written: &ast::Expr,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        let left = self.expr(left, clause, own)?;
        let right = self.expr(right, clause, own)?;
        self.check_binary(op, &left, &right, written)?;
        let typed = left.ty != Type::Any && right.ty != Type::Any;
        // A function that returns floats may return one as a whole number, but the result is still a float.
        let fractional = left.ty == Type::FLOAT || right.ty == Type::FLOAT;
        let integral = (typed || self.integers) && !fractional;
        let ty = match op {
            _ if is_logical(op) => Type::BOOL,
            _ if !typed => Type::Any,
            _ if fractional => Type::FLOAT,
            _ => left.ty.clone(),
        };
        let mut parts = Parts::new();
        let (left, right) = (parts.boxed(left), parts.boxed(right));
        parts.node(Expr::Binary { op, left, right, integral }, ty)
    }

    pub(super) fn between(
        &mut self,
        operands: [&ast::Expr; 3],
        negated: bool,
        written: &ast::Expr,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        let mut parts = Parts::new();
        let [expr, low, high] = operands;
        let expr = self.expr(expr, clause, own)?;
        let low = self.expr(low, clause, own)?;
        let high = self.expr(high, clause, own)?;
        self.check_binary(BinaryOp::GreaterEqual, &expr, &low, written)?;
        self.check_binary(BinaryOp::LessEqual, &expr, &high, written)?;
        let (expr, low, high) = (parts.take(expr), parts.take(low), parts.take(high));
        parts.node(Expr::Between { operands: Box::new([expr, low, high]), negated }, Type::BOOL)
    }

    pub(super) fn is_in(
        &mut self,
        expr: &ast::Expr,
        negated: bool,
        set: &InSet,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        let mut parts = Parts::new();
        let expr = parts.boxed(self.expr(expr, clause, own)?);
        match set {
            InSet::List(members) => {
                let mut list = Vec::with_capacity(members.len());
                for member in members {
                    list.push(parts.take(self.expr(member, clause, own)?));
                }
                parts.node(Expr::InList { expr, list, negated }, Type::BOOL)
            }
            InSet::Array(array) => {
                let list = self.expr(array, clause, own)?;
                self.check_class(&list, Class::Array, array, |ty| format!("IN {ty}"))?;
                let array = parts.boxed(list);
                parts.node(Expr::InArray { expr, array, negated }, Type::BOOL)
            }
        }
    }

    pub(super) fn like(
        &mut self,
        expr: &ast::Expr,
        negated: bool,
        written: &ast::Expr,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        let mut parts = Parts::new();
        let expr = parts.boxed(self.expr(expr, clause, own)?);
        let compiled = self.expr(written, clause, own)?;
        let pattern = match compiled.literal() {
            Some(Value::Text(text)) => LikePattern::Literal(Arc::new(like::Pattern::new(text))),
            Some(Value::Null) => LikePattern::Dynamic(parts.boxed(compiled)),
            Some(_) => return Err(PlanError::at(PlanErrorKind::Pattern(written.to_string()), written.span)),
            None => LikePattern::Dynamic(parts.boxed(compiled)),
        };
        parts.node(Expr::Like { expr, pattern, negated }, Type::BOOL)
    }

    pub(super) fn is_null(&mut self, expr: &ast::Expr, negated: bool, (clause, own): Scope) -> Result<Compiled> {
        let mut parts = Parts::new();
        let expr = parts.boxed(self.expr(expr, clause, own)?);
        parts.node(Expr::IsNull { expr, negated }, Type::BOOL)
    }

    pub(super) fn case(
        &mut self,
        value: Option<&ast::Expr>,
        branches: &[(ast::Expr, ast::Expr)],
        otherwise: Option<&ast::Expr>,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        let mut parts = Parts::new();
        let value = match value {
            Some(value) => Some(parts.boxed(self.expr(value, clause, own)?)),
            None => None,
        };
        let mut ty = None;
        let mut taken = Vec::with_capacity(branches.len());
        for (written, then) in branches {
            let when = self.expr(written, clause, own)?;
            let never = match (when.literal(), when.class()) {
                (Some(Value::Bool(_) | Value::Absent | Value::Null), _) => false,
                (Some(_), _) => true,
                (None, class) => class.is_some_and(|class| class != Class::Bool),
            };
            if value.is_none() && never {
                return Err(PlanError::at(PlanErrorKind::CaseCondition, written.span));
            }
            let when = parts.take(when);
            self.open_cases += 1;
            let then = self.expr(then, clause, own);
            self.open_cases -= 1;
            let then = then?;
            merge(&mut ty, &then.ty);
            taken.push((when, parts.take(then)));
        }
        let otherwise = match otherwise {
            Some(otherwise) => {
                self.open_cases += 1;
                let otherwise = self.expr(otherwise, clause, own);
                self.open_cases -= 1;
                let otherwise = otherwise?;
                merge(&mut ty, &otherwise.ty);
                Some(parts.boxed(otherwise))
            }
            None => None,
        };
        parts.declared = false;
        parts.node(Expr::Case { value, branches: taken, otherwise }, ty.unwrap_or(Type::Any))
    }
}

/// The type of a value that is one of several: unknown if one of them is.
fn merge(ty: &mut Option<Type>, other: &Type) {
    match ty {
        None => *ty = Some(other.clone()),
        Some(Type::Any) => {}
        Some(_) if *other == Type::Any => *ty = Some(Type::Any),
        Some(_) => {}
    }
}

/// Whether the operator returns a boolean.
pub(super) fn is_logical(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::And | BinaryOp::Or) || Comparison::of(op).is_some()
}

/// Whether an index is that of the first element (false) or of the last one (true).
fn end(index: &ast::Expr) -> Option<bool> {
    match &index.kind {
        ExprKind::Literal(Literal::Int(0)) => Some(false),
        ExprKind::Literal(Literal::Int(-1)) => Some(true),
        ExprKind::Unary(UnaryOp::Minus, inner) => (inner.kind == ExprKind::Literal(Literal::Int(1))).then_some(true),
        _ => None,
    }
}
