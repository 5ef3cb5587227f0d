//! Prints expressions, for EXPLAIN and for messages.

use std::fmt;

use super::{Expr, LikePattern};
use crate::value::Value;
use crate::value::cast;

/// Names the slots in the text of an expression.
type Names<'a, S> = &'a dyn Fn(&S) -> String;

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.display_with(&|slot| format!("${slot}")).fmt(f)
    }
}

impl<S: fmt::Debug> fmt::Debug for Expr<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.display_with(&|slot| format!("${slot:?}")))
    }
}

impl<S> Expr<S> {
    /// The expression as text close to SQL; `names` names its slots. Plain `Display` prints slots as `$0`.
    pub fn display_with<'a>(&'a self, names: &'a dyn Fn(&S) -> String) -> impl fmt::Display + 'a {
        Named { expr: self, names }
    }
}

struct Named<'a, S> {
    expr: &'a Expr<S>,
    names: Names<'a, S>,
}

impl<'a, S> Named<'a, S> {
    fn of(&self, expr: &'a Expr<S>) -> Named<'a, S> {
        Named { expr, names: self.names }
    }

    /// In parentheses unless the expression is a single operand.
    fn operand(&self, expr: &'a Expr<S>) -> Operand<'a, S> {
        Operand(self.of(expr))
    }

    fn list(&self, f: &mut fmt::Formatter<'_>, exprs: &'a [Expr<S>]) -> fmt::Result {
        f.write_str("(")?;
        for (index, expr) in exprs.iter().enumerate() {
            write!(f, "{}{}", if index > 0 { ", " } else { "" }, self.of(expr))?;
        }
        f.write_str(")")
    }
}

struct Operand<'a, S>(Named<'a, S>);

impl<S> fmt::Display for Operand<'_, S> {
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

impl<S> fmt::Display for Named<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expr {
            Expr::Constant(value) => constant(f, value),
            Expr::Slot(slot) => f.write_str(&(self.names)(slot)),
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
            Expr::Object { wholes, except, members } => {
                f.write_str("object of ")?;
                self.list(f, wholes)?;
                if !except.is_empty() {
                    write!(f, " without {}", except.join(", "))?;
                }
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
        // A float without a fraction must not look like a whole number: the two divide differently.
        Value::Float(float) => write!(f, "{float:?}"),
        other => f.write_str(&cast::text(other)),
    }
}
