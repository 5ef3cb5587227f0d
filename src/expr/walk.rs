//! Walks over expressions: only [`Expr::each_part`] and [`Expr::map`] match every variant, and all other passes are
//! built on them. A new variant does not compile until both handle it.

use super::{Expr, LikePattern};

impl<S> Expr<S> {
    /// Calls a function for each direct part of this expression, left to right.
    pub fn each_part<'a>(&'a self, see: &mut dyn FnMut(&'a Expr<S>)) {
        match self {
            Expr::Constant(_) | Expr::Slot(_) => {}
            Expr::Member(expr, _) | Expr::Negate(expr) | Expr::Not(expr) | Expr::IsNull { expr, .. } => see(expr),
            Expr::Index(left, right)
            | Expr::Binary { left, right, .. }
            | Expr::InArray { expr: left, array: right, .. } => {
                see(left);
                see(right);
            }
            Expr::Slice(array, from, to) => {
                see(array);
                from.iter().chain(to).for_each(|bound| see(bound));
            }
            Expr::Between { operands, .. } => operands.iter().for_each(see),
            Expr::InList { expr, list, .. } => {
                see(expr);
                list.iter().for_each(see);
            }
            Expr::Like { expr, pattern, .. } => {
                see(expr);
                if let LikePattern::Dynamic(pattern) = pattern {
                    see(pattern);
                }
            }
            Expr::Case { value, branches, otherwise } => {
                value.iter().for_each(|value| see(value));
                for (when, then) in branches {
                    see(when);
                    see(then);
                }
                otherwise.iter().for_each(|otherwise| see(otherwise));
            }
            Expr::FirstPresent(exprs) => exprs.iter().for_each(see),
            Expr::Object { wholes, except: _, members } => {
                wholes.iter().for_each(&mut *see);
                members.iter().for_each(|(_, member)| see(member));
            }
            Expr::Call { args, .. } => args.iter().for_each(see),
        }
    }

    /// The same expression with each slot replaced by `slot`.
    pub fn map<T>(&self, slot: &mut dyn FnMut(&S) -> T) -> Expr<T> {
        match self {
            Expr::Constant(value) => Expr::Constant(value.clone()),
            Expr::Slot(read) => Expr::Slot(slot(read)),
            Expr::Member(object, name) => Expr::Member(boxed(object, slot), name.clone()),
            Expr::Index(array, index) => Expr::Index(boxed(array, slot), boxed(index, slot)),
            Expr::Slice(array, from, to) => {
                Expr::Slice(boxed(array, slot), optional(from.as_deref(), slot), optional(to.as_deref(), slot))
            }
            Expr::Negate(operand) => Expr::Negate(boxed(operand, slot)),
            Expr::Not(operand) => Expr::Not(boxed(operand, slot)),
            Expr::Binary { op, left, right, integral } => {
                let (left, right) = (boxed(left, slot), boxed(right, slot));
                Expr::Binary { op: *op, left, right, integral: *integral }
            }
            Expr::Between { operands, negated } => {
                let [value, low, high] = &**operands;
                let operands = Box::new([value.map(slot), low.map(slot), high.map(slot)]);
                Expr::Between { operands, negated: *negated }
            }
            Expr::InList { expr, list, negated } => {
                Expr::InList { expr: boxed(expr, slot), list: all(list, slot), negated: *negated }
            }
            Expr::InArray { expr, array, negated } => {
                Expr::InArray { expr: boxed(expr, slot), array: boxed(array, slot), negated: *negated }
            }
            Expr::Like { expr, pattern, negated } => {
                let expr = boxed(expr, slot);
                let pattern = match pattern {
                    LikePattern::Literal(pattern) => LikePattern::Literal(pattern.clone()),
                    LikePattern::Dynamic(pattern) => LikePattern::Dynamic(boxed(pattern, slot)),
                };
                Expr::Like { expr, pattern, negated: *negated }
            }
            Expr::IsNull { expr, negated } => Expr::IsNull { expr: boxed(expr, slot), negated: *negated },
            Expr::Case { value, branches, otherwise } => Expr::Case {
                value: optional(value.as_deref(), slot),
                branches: branches.iter().map(|(when, then)| (when.map(slot), then.map(slot))).collect(),
                otherwise: optional(otherwise.as_deref(), slot),
            },
            Expr::FirstPresent(exprs) => Expr::FirstPresent(all(exprs, slot)),
            Expr::Object { wholes, except, members } => Expr::Object {
                wholes: all(wholes, slot),
                except: except.clone(),
                members: members.iter().map(|(name, member)| (name.clone(), member.map(slot))).collect(),
            },
            Expr::Call { function, prepared, args } => {
                Expr::Call { function, prepared: prepared.clone(), args: all(args, slot) }
            }
        }
    }

    /// Calls a function for this expression and everything inside it, outermost first.
    pub fn visit<'a>(&'a self, see: &mut dyn FnMut(&'a Expr<S>)) {
        see(self);
        self.each_part(&mut |part| part.visit(see));
    }

    /// Whether `is` holds for this expression or one inside it.
    pub fn any(&self, is: &dyn Fn(&Expr<S>) -> bool) -> bool {
        let mut found = is(self);
        self.each_part(&mut |part| found = found || part.any(is));
        found
    }
}

impl<S: Copy + Ord> Expr<S> {
    /// The slots that the expression reads, ascending and without repetition.
    pub fn slots(&self) -> Vec<S> {
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
}

fn boxed<S, T>(expr: &Expr<S>, slot: &mut dyn FnMut(&S) -> T) -> Box<Expr<T>> {
    Box::new(expr.map(slot))
}

fn optional<S, T>(expr: Option<&Expr<S>>, slot: &mut dyn FnMut(&S) -> T) -> Option<Box<Expr<T>>> {
    expr.map(|expr| boxed(expr, slot))
}

fn all<S, T>(exprs: &[Expr<S>], slot: &mut dyn FnMut(&S) -> T) -> Vec<Expr<T>> {
    exprs.iter().map(|expr| expr.map(slot)).collect()
}
