//! Rewrites the query of a view before it is planned like a rule's.

use super::error::ViewError;
use crate::expr::function::{self, Code};
use crate::plan::{PlanError, PlanErrorKind};
use crate::sql::ast::{BinaryOp, Call, Expr, ExprKind, Field, Ident, InSet, Literal, OrderKey, Over, Select};
use crate::text::span::Span;

/// `row_number() OVER (PARTITION BY … ORDER BY …) <= n` in WHERE: the first rows of each group.
#[derive(Clone, Debug, PartialEq)]
pub struct FirstOfEach {
    pub partition: Vec<Expr>,
    pub order: Vec<OrderKey>,
    pub rows: u64,
    pub span: Span,
}

/// Calls `see` for an expression and everything inside it, innermost first.
pub fn each_mut(expr: &mut Expr, see: &mut dyn FnMut(&mut Expr)) {
    match &mut expr.kind {
        ExprKind::Literal(_) | ExprKind::Null | ExprKind::Column(_) => {}
        ExprKind::Star(star) => star.replace.iter_mut().for_each(|(expr, _)| each_mut(expr, see)),
        ExprKind::Dot(inner, _) | ExprKind::Member(inner, _) | ExprKind::Unary(_, inner) => each_mut(inner, see),
        ExprKind::Index(left, right) | ExprKind::Binary(_, left, right) => {
            each_mut(left, see);
            each_mut(right, see);
        }
        ExprKind::Slice(array, from, to) => {
            each_mut(array, see);
            from.iter_mut().chain(to).for_each(|bound| each_mut(bound, see));
        }
        ExprKind::Between { expr, low, high, .. } => [expr, low, high].into_iter().for_each(|part| each_mut(part, see)),
        ExprKind::In { expr, set, .. } => {
            each_mut(expr, see);
            match set {
                InSet::List(list) => list.iter_mut().for_each(|element| each_mut(element, see)),
                InSet::Array(array) => each_mut(array, see),
            }
        }
        ExprKind::Like { expr, pattern, .. } => {
            each_mut(expr, see);
            each_mut(pattern, see);
        }
        ExprKind::IsNull { expr, .. } => each_mut(expr, see),
        ExprKind::Case { value, branches, otherwise } => {
            value.iter_mut().chain(otherwise).for_each(|part| each_mut(part, see));
            for (when, then) in branches {
                each_mut(when, see);
                each_mut(then, see);
            }
        }
        ExprKind::Call(call) => {
            call.args.iter_mut().for_each(|arg| each_mut(arg, see));
            call.filter.iter_mut().for_each(|filter| each_mut(filter, see));
            if let Some(Over { partition_by, order_by, when }) = &mut call.over {
                partition_by.iter_mut().for_each(|key| each_mut(key, see));
                order_by.iter_mut().for_each(|key| each_mut(&mut key.expr, see));
                when.iter_mut().for_each(|when| each_mut(when, see));
            }
        }
    }
    see(expr);
}

/// Calls `see` for all expressions of the select list, WHERE, GROUP BY, HAVING and ORDER BY.
pub fn each_of_select(select: &mut Select, see: &mut dyn FnMut(&mut Expr)) {
    for field in &mut select.fields {
        match field {
            Field::Expr { expr, .. } => each_mut(expr, see),
            Field::Star(star) => star.replace.iter_mut().for_each(|(expr, _)| each_mut(expr, see)),
        }
    }
    select.filter.iter_mut().chain(&mut select.group_by).chain(&mut select.having).for_each(|expr| each_mut(expr, see));
    select.order_by.iter_mut().for_each(|key| each_mut(&mut key.expr, see));
}

/// Whether an expression calls a function of this kind.
pub fn calls(expr: &Expr, kind: fn(&Code) -> bool) -> bool {
    let mut found = false;
    each_mut(&mut expr.clone(), &mut |part| {
        if let ExprKind::Call(call) = &part.kind {
            found |= function::lookup(&call.name.name).is_some_and(|function| kind(&function.code));
        }
    });
    found
}

/// Whether this is an aggregate.
pub fn is_aggregate(code: &Code) -> bool {
    matches!(code, Code::Aggregate(_))
}

/// Rewrites what only views have: `first_value(e)` and `last_value(e)` become the variants that count nulls, and
/// `FILTER (WHERE c)` makes the argument null for rows that fail the condition.
///
/// # Errors
/// An aggregate whose result depends on nulls has a FILTER.
pub fn in_words_of_rules(select: &mut Select) -> Result<(), PlanError> {
    let mut failed = None;
    each_of_select(select, &mut |expr| {
        let span = expr.span;
        let ExprKind::Call(call) = &mut expr.kind else { return };
        let is = |name: &str| call.name.name.eq_ignore_ascii_case(name);
        if (is("first_value") || is("last_value")) && call.args.len() == 1 {
            call.args.push(Expr { kind: ExprKind::Literal(Literal::Bool(false)), span });
        }
        if call.filter.is_some() {
            match filtered(call) {
                Ok(()) => {}
                Err(error) => {
                    failed.get_or_insert(PlanError::at(PlanErrorKind::View(error), span));
                }
            }
        }
    });
    failed.map_or(Ok(()), Err)
}

fn filtered(call: &mut Call) -> Result<(), ViewError> {
    const SKIP_NULLS: [&str; 12] = [
        "count",
        "sum",
        "avg",
        "min",
        "max",
        "median",
        "percentile",
        "percentile_cont",
        "percentile_disc",
        "stddev",
        "stddevs",
        "var",
    ];
    let name = call.name.name.to_ascii_lowercase();
    let ignores_null = matches!(call.args.get(1).map(|arg| &arg.kind), Some(ExprKind::Literal(Literal::Bool(true))));
    let skips = SKIP_NULLS.contains(&name.as_str())
        || name == "vars"
        || (name == "first_value" || name == "last_value") && ignores_null;
    let Some(first) = call.args.first_mut().filter(|_| skips) else {
        return Err(ViewError::Filter(call.name.name.to_string()));
    };
    let Some(condition) = call.filter.take() else { return Ok(()) };
    let span = first.span;
    if matches!(&first.kind, ExprKind::Star(star) if star.stream.is_none()) {
        first.kind = ExprKind::Literal(Literal::Int(1));
    }
    let then = std::mem::replace(first, Expr { kind: ExprKind::Null, span });
    first.kind = ExprKind::Case { value: None, branches: vec![(*condition, then)], otherwise: None };
    Ok(())
}

/// Removes the condition with row_number() from WHERE.
///
/// # Errors
/// The comparison does not limit the number of rows.
pub fn take_first_of_each(select: &mut Select) -> Result<Option<FirstOfEach>, PlanError> {
    let Some(filter) = select.filter.take() else { return Ok(None) };
    let (mut parts, mut rest, mut found) = (Vec::new(), Vec::new(), None);
    conjuncts(filter, &mut parts);
    for part in parts {
        if !mentions_row_number(&part) {
            rest.push(part);
            continue;
        }
        let span = part.span;
        match first_of_each(part) {
            Some(first) if found.is_none() => found = Some(first),
            _ => return Err(PlanError::at(PlanErrorKind::View(ViewError::RowNumber), span)),
        }
    }
    select.filter = rest.into_iter().reduce(|left, right| {
        let span = left.span.to(right.span);
        Expr { kind: ExprKind::Binary(BinaryOp::And, Box::new(left), Box::new(right)), span }
    });
    Ok(found)
}

fn conjuncts(expr: Expr, parts: &mut Vec<Expr>) {
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        match expr.kind {
            ExprKind::Binary(BinaryOp::And, left, right) => waiting.extend([*right, *left]),
            kind => parts.push(Expr { kind, span: expr.span }),
        }
    }
}

fn mentions_row_number(expr: &Expr) -> bool {
    calls(expr, |code| matches!(code, Code::RowNumber))
}

fn first_of_each(part: Expr) -> Option<FirstOfEach> {
    let span = part.span;
    let ExprKind::Binary(op, left, right) = part.kind else { return None };
    let (call, op, number) = match (left.kind, right.kind) {
        (ExprKind::Call(call), ExprKind::Literal(Literal::Int(number))) => (call, op, number),
        (ExprKind::Literal(Literal::Int(number)), ExprKind::Call(call)) => {
            let op = match op {
                BinaryOp::GreaterEqual => BinaryOp::LessEqual,
                BinaryOp::Greater => BinaryOp::Less,
                BinaryOp::Equal => op,
                _ => return None,
            };
            (call, op, number)
        }
        _ => return None,
    };
    let rows = match op {
        BinaryOp::LessEqual => number,
        BinaryOp::Less => number - 1,
        BinaryOp::Equal if number == 1 => 1,
        _ => return None,
    };
    let over = call.over.filter(|over| over.when.is_none() && !over.order_by.is_empty())?;
    let rows = u64::try_from(rows).ok().filter(|rows| *rows > 0)?;
    Some(FirstOfEach { partition: over.partition_by, order: over.order_by, rows, span })
}

/// A field that calls a function without arguments and has the function's name.
pub fn call_field(name: &'static str, span: Span) -> Field {
    let name = Ident { name: name.into(), span };
    let call = Call { name, args: Vec::new(), distinct: false, filter: None, over: None };
    Field::Expr { expr: Expr { kind: ExprKind::Call(call), span }, alias: None, invisible: false }
}
