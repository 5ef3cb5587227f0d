//! Ways through a compiled expression.

use crate::expr::{Expr, LikePattern};

/// Calls `visit` with every slot that the expression reads, to be changed.
pub fn each_slot_mut(expr: &mut Expr, visit: &mut dyn FnMut(&mut usize)) {
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        match expr {
            Expr::Constant(_) => {}
            Expr::Slot(slot) => visit(slot),
            Expr::Member(e, _) | Expr::Negate(e) | Expr::Not(e) | Expr::IsNull { expr: e, .. } => waiting.push(e),
            Expr::Index(left, right)
            | Expr::Binary { left, right, .. }
            | Expr::InArray { expr: left, array: right, .. } => waiting.extend([&mut **left, &mut **right]),
            Expr::Slice(e, from, to) => {
                waiting.push(e);
                waiting.extend(from.as_deref_mut());
                waiting.extend(to.as_deref_mut());
            }
            Expr::Between { operands, .. } => waiting.extend(operands.iter_mut()),
            Expr::InList { expr, list, .. } => {
                waiting.push(expr);
                waiting.extend(list);
            }
            Expr::Like { expr, pattern, .. } => {
                waiting.push(expr);
                if let LikePattern::Dynamic(pattern) = pattern {
                    waiting.push(pattern);
                }
            }
            Expr::Case { value, branches, otherwise } => {
                waiting.extend(value.as_deref_mut());
                waiting.extend(branches.iter_mut().flat_map(|(when, then)| [when, then]));
                waiting.extend(otherwise.as_deref_mut());
            }
            Expr::FirstPresent(exprs) => waiting.extend(exprs),
            Expr::Object { wholes, members } => {
                waiting.extend(wholes);
                waiting.extend(members.iter_mut().map(|(_, member)| member));
            }
            Expr::Call { args, .. } => waiting.extend(args),
        }
    }
}
