//! Expressions as text, for EXPLAIN and for messages; and what an expression reads.

use std::fmt;

use super::{Expr, LikePattern};
use crate::value::Value;
use crate::value::cast;

/// Names the slots in the text of an expression.
type Names<'a> = &'a dyn Fn(usize) -> String;

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.display_with(&|slot| format!("${slot}")).fmt(f)
    }
}

impl fmt::Debug for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Expr {
    /// The expression as text close to SQL, with `names` for its slots. Plain `Display` writes slots as `$0`.
    pub fn display_with<'a>(&'a self, names: &'a dyn Fn(usize) -> String) -> impl fmt::Display + 'a {
        Named { expr: self, names }
    }

    /// The slots that the expression reads, in ascending order, each once.
    pub fn slots(&self) -> Vec<usize> {
        let mut slots = Vec::new();
        self.visit(&mut |expr| {
            if let Expr::Slot(slot) = expr {
                slots.push(*slot);
            }
        });
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Shows this expression and all inside it to `see`, outer ones first.
    pub fn visit<'a>(&'a self, see: &mut dyn FnMut(&'a Expr)) {
        see(self);
        match self {
            Expr::Constant(_) | Expr::Slot(_) => {}
            Expr::Member(expr, _) | Expr::Negate(expr) | Expr::Not(expr) | Expr::IsNull { expr, .. } => expr.visit(see),
            Expr::Index(array, index) => {
                array.visit(see);
                index.visit(see);
            }
            Expr::Slice(array, from, to) => {
                array.visit(see);
                from.iter().chain(to).for_each(|bound| bound.visit(see));
            }
            Expr::Binary { left, right, .. } => {
                left.visit(see);
                right.visit(see);
            }
            Expr::Between { operands, .. } => operands.iter().for_each(|operand| operand.visit(see)),
            Expr::InList { expr, list, .. } => {
                expr.visit(see);
                list.iter().for_each(|element| element.visit(see));
            }
            Expr::InArray { expr, array, .. } => {
                expr.visit(see);
                array.visit(see);
            }
            Expr::Like { expr, pattern, .. } => {
                expr.visit(see);
                if let LikePattern::Dynamic(pattern) = pattern {
                    pattern.visit(see);
                }
            }
            Expr::Case { value, branches, otherwise } => {
                value.iter().for_each(|value| value.visit(see));
                for (when, then) in branches {
                    when.visit(see);
                    then.visit(see);
                }
                otherwise.iter().for_each(|otherwise| otherwise.visit(see));
            }
            Expr::FirstPresent(exprs) => exprs.iter().for_each(|expr| expr.visit(see)),
            Expr::Object { wholes, members } => {
                wholes.iter().for_each(|whole| whole.visit(see));
                members.iter().for_each(|(_, member)| member.visit(see));
            }
            Expr::Call { args, .. } => args.iter().for_each(|arg| arg.visit(see)),
        }
    }
}

struct Named<'a> {
    expr: &'a Expr,
    names: Names<'a>,
}

impl<'a> Named<'a> {
    fn of(&self, expr: &'a Expr) -> Named<'a> {
        Named { expr, names: self.names }
    }

    /// In parentheses where the expression is no single operand.
    fn operand(&self, expr: &'a Expr) -> Operand<'a> {
        Operand(self.of(expr))
    }

    fn list(&self, f: &mut fmt::Formatter<'_>, exprs: &'a [Expr]) -> fmt::Result {
        f.write_str("(")?;
        for (index, expr) in exprs.iter().enumerate() {
            write!(f, "{}{}", if index > 0 { ", " } else { "" }, self.of(expr))?;
        }
        f.write_str(")")
    }
}

struct Operand<'a>(Named<'a>);

impl fmt::Display for Operand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.expr {
            Expr::Constant(_)
            | Expr::Slot(_)
            | Expr::Member(..)
            | Expr::Index(..)
            | Expr::Slice(..)
            | Expr::Call { .. } => self.0.fmt(f),
            _ => write!(f, "({})", self.0),
        }
    }
}

fn not(negated: bool) -> &'static str {
    if negated { "NOT " } else { "" }
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expr {
            Expr::Constant(value) => constant(f, value),
            Expr::Slot(slot) => f.write_str(&(self.names)(*slot)),
            Expr::Member(object, name) => write!(f, "{}->{name}", self.operand(object)),
            Expr::Index(array, index) => write!(f, "{}[{}]", self.operand(array), self.of(index)),
            Expr::Slice(array, from, to) => {
                write!(f, "{}[", self.operand(array))?;
                from.iter().try_for_each(|from| self.of(from).fmt(f))?;
                f.write_str(":")?;
                to.iter().try_for_each(|to| self.of(to).fmt(f))?;
                f.write_str("]")
            }
            Expr::Negate(operand) => write!(f, "-{}", self.operand(operand)),
            Expr::Not(operand) => write!(f, "NOT {}", self.operand(operand)),
            Expr::Binary { op, left, right, .. } => write!(f, "{} {op} {}", self.operand(left), self.operand(right)),
            Expr::Between { operands, negated } => {
                let [value, low, high] = operands.as_ref();
                let (value, low, high) = (self.operand(value), self.operand(low), self.operand(high));
                write!(f, "{value} {}BETWEEN {low} AND {high}", not(*negated))
            }
            Expr::InList { expr, list, negated } => {
                write!(f, "{} {}IN ", self.operand(expr), not(*negated))?;
                self.list(f, list)
            }
            Expr::InArray { expr, array, negated } => {
                write!(f, "{} {}IN {}", self.operand(expr), not(*negated), self.operand(array))
            }
            Expr::Like { expr, pattern, negated } => {
                write!(f, "{} {}LIKE ", self.operand(expr), not(*negated))?;
                match pattern {
                    LikePattern::Literal(pattern) => write!(f, "{:?}", pattern.as_str()),
                    LikePattern::Dynamic(pattern) => self.operand(pattern).fmt(f),
                }
            }
            Expr::IsNull { expr, negated } => write!(f, "{} IS {}NULL", self.operand(expr), not(*negated)),
            Expr::Case { value, branches, otherwise } => {
                f.write_str("CASE ")?;
                value.iter().try_for_each(|value| write!(f, "{} ", self.of(value)))?;
                for (when, then) in branches {
                    write!(f, "WHEN {} THEN {} ", self.of(when), self.of(then))?;
                }
                otherwise.iter().try_for_each(|otherwise| write!(f, "ELSE {} ", self.of(otherwise)))?;
                f.write_str("END")
            }
            Expr::FirstPresent(exprs) => {
                f.write_str("first present of ")?;
                self.list(f, exprs)
            }
            Expr::Object { wholes, members } => {
                f.write_str("object of ")?;
                self.list(f, wholes)?;
                members.iter().try_for_each(|(name, member)| write!(f, ", {name}: {}", self.of(member)))
            }
            Expr::Call { function, args, .. } => {
                f.write_str(function.name)?;
                self.list(f, args)
            }
        }
    }
}

fn constant(f: &mut fmt::Formatter<'_>, value: &Value) -> fmt::Result {
    match value {
        Value::Absent | Value::Null => f.write_str("NULL"),
        Value::Text(text) => write!(f, "{:?}", text.as_str()),
        // A whole double must not look like a whole number: they divide differently.
        Value::Float(float) => write!(f, "{float:?}"),
        other => f.write_str(&cast::text(other)),
    }
}
