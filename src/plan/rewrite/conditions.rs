//! Decides where conditions are tested: they are pushed down to the scan if that changes no result. There they are
//! split into tests that the scan can index, and the rest.

use std::collections::BTreeSet;

use super::{asks_for_hits, counts_hits};
use crate::expr::Expr;
use crate::plan::logical::{Logical, SlotRef};
use crate::plan::physical::*;
use crate::value::Value;
use crate::value::operator::{BinaryOp, JoinKind};
use crate::value::types::DataType;

/// The conjuncts tested at each place, in order.
#[derive(Default)]
pub struct Placed {
    /// In the scan, by input.
    pub scan: Vec<Vec<Expr<SlotRef>>>,
    pub admit: Vec<Expr<SlotRef>>,
    /// On rows, before or in the window.
    pub rows: Vec<Expr<SlotRef>>,
    /// On joined rows, when the window closes.
    pub joined: Vec<Expr<SlotRef>>,
}

pub fn place_conditions(logical: &Logical) -> Placed {
    let mut placed = Placed { scan: vec![Vec::new(); logical.inputs.len()], ..Placed::default() };
    let alone = logical.joins.is_empty() && logical.steps.is_empty() && !unnests(logical);
    // For these windows, rows that fail WHERE still count or move the bounds.
    let counts = match &logical.window {
        Some(WindowSpec::Count { .. } | WindowSpec::Sliding { .. } | WindowSpec::State { .. }) => true,
        Some(WindowSpec::Session { .. }) => logical.watermark.is_some(),
        Some(WindowSpec::Each | WindowSpec::Hopping { .. }) | None => false,
    };
    if let Some(admit) = &logical.admit {
        // The scan processes a whole batch before the first result is sent.
        if alone && !counts && !asks_for_hits(admit) { &mut placed.scan[0] } else { &mut placed.admit }
            .push(admit.clone());
    }
    let Some(filter) = &logical.filter else { return placed };
    let late = asks_for_window(filter) || filter.any(&|part| matches!(part, Expr::Slot(SlotRef::WindowAggregate(_))));
    if logical.window.is_some() && late {
        placed.joined.push(filter.clone());
    } else if !logical.joins.is_empty() {
        place_before_joins(filter, logical, counts, &mut placed);
    } else if alone && !counts && !counts_hits(logical) {
        placed.scan[0].push(filter.clone());
    } else {
        placed.rows.push(filter.clone());
    }
    placed
}

/// Whether unnest multiplies rows before conditions are tested.
fn unnests(logical: &Logical) -> bool {
    logical.elements.as_ref().is_some_and(|elements| elements.before)
}

/// Moves conditions on a single stream before the joins if that changes no result: on the left of joins that keep or
/// drop a left row as a whole, and on both sides of inner joins.
fn place_before_joins(filter: &Expr<SlotRef>, logical: &Logical, counts: bool, placed: &mut Placed) {
    let mut parts = Vec::new();
    conjuncts(filter.clone(), &mut parts);
    let kinds = || logical.joins.iter().map(|join| join.kind);
    let left_stays = kinds().all(|kind| matches!(kind, JoinKind::Inner | JoinKind::Left | JoinKind::Cross));
    let all_inner = kinds().all(|kind| matches!(kind, JoinKind::Inner | JoinKind::Cross));
    for part in parts {
        let columns: BTreeSet<usize> = part
            .slots()
            .into_iter()
            .map(|slot| match slot {
                SlotRef::Column { input, .. } => input,
                _ => usize::MAX,
            })
            .collect();
        let one = if columns.len() == 1 { columns.first().copied() } else { None };
        let pushed = one.filter(|input| {
            let commutes = if *input == 0 { left_stays } else { all_inner };
            let is_stream = logical.inputs.get(*input).is_some_and(|input| input.role == Role::Stream);
            commutes
                && is_stream
                && !counts
                && !asks_for_hits(&part)
                && !unnests(logical)
                && logical.steps.is_empty()
                && placed.joined.is_empty()
        });
        match pushed {
            Some(input) => placed.scan[input].push(part),
            None => placed.joined.push(part),
        }
    }
}

/// Whether an expression reads the window's bounds, which rows do not have.
pub fn asks_for_window<S>(expr: &Expr<S>) -> bool {
    expr.any(&|part| matches!(part, Expr::Call { function, .. } if function.name.starts_with("window_")))
}

/// Makes a filter from these conjuncts.
pub fn filter_of(conditions: Vec<Expr>, columns: &[Column]) -> Option<Filter> {
    let mut parts = Vec::new();
    for condition in conditions {
        conjuncts(condition, &mut parts);
    }
    split(parts, columns)
}

pub fn conjunction(parts: Vec<Expr>) -> Option<Expr> {
    split(parts, &[]).and_then(|filter| filter.rest)
}

/// Splits a conjunction into its parts, in the order of evaluation.
pub fn conjuncts<S>(expr: Expr<S>, parts: &mut Vec<Expr<S>>) {
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        match expr {
            Expr::Binary { op: BinaryOp::And, left, right, .. } => waiting.extend([*right, *left]),
            part => parts.push(part),
        }
    }
}

/// Makes a filter from these conjuncts: the leading ones that are tests, and the rest.
fn split(parts: Vec<Expr>, columns: &[Column]) -> Option<Filter> {
    let mut tests = Vec::new();
    let mut rest: Option<Expr> = None;
    for part in parts {
        rest = match rest {
            None => match as_tests(&part, columns) {
                Some(found) => {
                    tests.extend(found);
                    None
                }
                None => Some(part),
            },
            Some(left) => {
                Some(Expr::Binary { op: BinaryOp::And, left: Box::new(left), right: Box::new(part), integral: true })
            }
        };
    }
    if tests.is_empty() && rest.is_none() { None } else { Some(Filter { tests, rest }) }
}

/// Converts a conjunct to tests of a column against constants, if it has this form.
fn as_tests(part: &Expr, columns: &[Column]) -> Option<Vec<Test>> {
    match part {
        Expr::Binary { op, left, right, .. } => {
            let op = Comparison::of(*op)?;
            let (slot, op, constant) = match (&**left, &**right) {
                (Expr::Slot(slot), Expr::Constant(constant)) => (*slot, op, constant),
                (Expr::Constant(Value::Bool(_)), _) => return None,
                (Expr::Constant(constant), Expr::Slot(slot)) => (*slot, flipped(op), constant),
                _ => return None,
            };
            let constant = testable(slot, constant, columns)?;
            // Other comparisons of a boolean fail; the expression reports that.
            let equality = matches!(op, Comparison::Equal | Comparison::NotEqual);
            if matches!(constant, Value::Bool(_)) && !equality {
                return None;
            }
            Some(vec![Test { slot, holds: Condition::Compare(op, constant) }])
        }
        Expr::Between { operands, negated: false } => {
            let [Expr::Slot(slot), Expr::Constant(low), Expr::Constant(high)] = &**operands else { return None };
            // If one bound has the wrong type, BETWEEN fails for any value.
            let same = matches!(low, Value::Text(_)) == matches!(high, Value::Text(_));
            if !same || [low, high].iter().any(|bound| matches!(bound, Value::Bool(_))) {
                return None;
            }
            let low = testable(*slot, low, columns)?;
            let high = testable(*slot, high, columns)?;
            Some(vec![
                Test { slot: *slot, holds: Condition::Compare(Comparison::GreaterEqual, low) },
                Test { slot: *slot, holds: Condition::Compare(Comparison::LessEqual, high) },
            ])
        }
        Expr::InList { expr, list, negated: false } => {
            let Expr::Slot(slot) = **expr else { return None };
            let constant = |element: &Expr| match element {
                Expr::Constant(constant) => testable(slot, constant, columns),
                _ => None,
            };
            let constants = list.iter().map(constant).collect::<Option<_>>()?;
            Some(vec![Test { slot, holds: Condition::IsOneOf(constants) }])
        }
        _ => None,
    }
}

/// The constant, if a test of this slot against it compares numbers, texts or booleans. Datetimes compare with text
/// differently, so datetime columns are excluded, and so are computed slots, which may hold one.
fn testable(slot: usize, constant: &Value, columns: &[Column]) -> Option<Value> {
    let column = columns.get(slot)?;
    let comparable = !matches!(column.ty, Some(DataType::DateTime)) && matches!(column.source, ColumnSource::Key(_));
    let constant =
        matches!(constant, Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Bool(_)).then_some(constant)?;
    comparable.then(|| constant.clone())
}

/// The comparison with its sides exchanged.
fn flipped(op: Comparison) -> Comparison {
    match op {
        Comparison::Equal => Comparison::Equal,
        Comparison::NotEqual => Comparison::NotEqual,
        Comparison::Less => Comparison::Greater,
        Comparison::LessEqual => Comparison::GreaterEqual,
        Comparison::Greater => Comparison::Less,
        Comparison::GreaterEqual => Comparison::LessEqual,
    }
}
