//! Tests of parser and printer together: what is accepted, what is refused and how, and that no text does harm.

use proptest::prelude::*;

use super::*;
use crate::sql::ast::*;

/// Reads a SELECT and prints it; what was printed must mean the same.
fn select(text: &str) -> String {
    let tree = parse_select(text).unwrap_or_else(|e| panic!("{text}: {e}\n{}", crate::sql::mark(text, e.span())));
    let printed = tree.to_string();
    assert_eq!(parse_select(&printed).as_ref(), Ok(&tree), "{printed}");
    printed
}

fn expr(text: &str) -> String {
    let tree = parse_expr(text).unwrap_or_else(|e| panic!("{text}: {e}\n{}", crate::sql::mark(text, e.span())));
    let printed = tree.to_string();
    assert_eq!(parse_expr(&printed).as_ref(), Ok(&tree), "{printed}");
    printed
}

#[test]
fn precedence_is_kept() {
    // Left: as written. Right: with the parentheses that precedence puts, where the printer needs none.
    for (text, grouped) in [
        ("a + b * c", "a + (b * c)"),
        ("a - b - c", "(a - b) - c"),
        ("a | b & c", "a | (b & c)"),
        ("a ^ b + c", "(a ^ b) + c"),
        ("a = 1 AND b = 2 OR c = 3", "((a = 1) AND (b = 2)) OR (c = 3)"),
        ("NOT a = 1 AND b", "(NOT (a = 1)) AND b"),
        ("NOT NOT a", "NOT (NOT a)"),
        ("a OR NOT b IN (1, 2)", "a OR (NOT (b IN (1, 2)))"),
        ("a BETWEEN b - 1 AND b + 1 AND c", "(a BETWEEN (b - 1) AND (b + 1)) AND c"),
        ("a NOT BETWEEN 0 AND b + 1", "a NOT BETWEEN 0 AND (b + 1)"),
        ("a + 1 NOT IN xs", "(a + 1) NOT IN xs"),
        ("a LIKE b + c IS NULL", "(a LIKE (b + c)) IS NULL"),
        ("a IS NOT NULL = TRUE", "(a IS NOT NULL) = TRUE"),
        ("-a * b", "(-a) * b"),
        ("-a->b[0]", "-((a->b)[0])"),
        ("a * o->x", "a * (o->x)"),
        ("a - -1", "a - (-1)"),
        ("- -a", "-(-a)"),
        ("+a", "+(a)"),
        ("a.b.c->d[1:2][-1][:2][1:]", "((((((a.b).c)->d)[1:2])[-1])[:2])[1:]"),
    ] {
        assert_eq!(parse_expr(text).unwrap(), parse_expr(grouped).unwrap(), "{text}");
        assert_eq!(expr(text), text);
        assert_eq!(expr(grouped), text);
    }
}
