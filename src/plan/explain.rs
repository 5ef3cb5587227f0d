//! Plans as text.

use crate::expr::Expr;

/// An expression as text; equal texts mean equal expressions.
pub fn text(expr: &Expr) -> String {
    let mut out = String::new();
    write(expr, &mut out);
    out
}

fn write(expr: &Expr, out: &mut String) {
    use crate::expr::LikePattern;
    use std::fmt::Write;
    let list = |out: &mut String, head: &str, parts: &[&Expr]| {
        out.push_str(head);
        out.push('(');
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                out.push_str(", ");
            }
            write(part, out);
        }
        out.push(')');
    };
    // Writing into a text does not fail.
    match expr {
        Expr::Constant(value) => drop(write!(out, "{value:?}")),
        Expr::Slot(slot) => drop(write!(out, "#{slot}")),
        Expr::Member(left, name) => list(out, &format!("member {name:?}"), &[left]),
        Expr::Index(left, index) => list(out, "index", &[left, index]),
        Expr::Slice(left, from, to) => {
            list(out, "slice", &[left]);
            from.iter().for_each(|from| list(out, "from", &[from]));
            to.iter().for_each(|to| list(out, "to", &[to]));
        }
        Expr::Negate(e) => list(out, "-", &[e]),
        Expr::Not(e) => list(out, "NOT ", &[e]),
        Expr::Binary { op, left, right, integral } => {
            list(out, &format!("{op}{}", if *integral { "" } else { "." }), &[left, right]);
        }
        Expr::Between { operands, negated } => {
            list(out, &format!("between {negated}"), &operands.iter().collect::<Vec<_>>());
        }
        Expr::InList { expr, list: members, negated } => {
            let parts: Vec<&Expr> = std::iter::once(&**expr).chain(members).collect();
            list(out, &format!("in {negated}"), &parts);
        }
        Expr::InArray { expr, array, negated } => list(out, &format!("in array {negated}"), &[expr, array]),
        Expr::Like { expr, pattern, negated } => match pattern {
            LikePattern::Literal(text, _) => list(out, &format!("like {negated} {text:?}"), &[expr]),
            LikePattern::Dynamic(pattern) => list(out, &format!("like {negated}"), &[expr, pattern]),
        },
        Expr::IsNull { expr, negated } => list(out, &format!("null {negated}"), &[expr]),
        Expr::Case { value, branches, otherwise } => {
            out.push_str("case");
            value.iter().for_each(|value| list(out, "value", &[value]));
            branches.iter().for_each(|(when, then)| list(out, "when", &[when, then]));
            otherwise.iter().for_each(|otherwise| list(out, "else", &[otherwise]));
        }
        Expr::Call { function, args, .. } => list(out, function.name, &args.iter().collect::<Vec<_>>()),
    }
}
