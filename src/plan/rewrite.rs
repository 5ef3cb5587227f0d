//! From what a rule means to how it runs: conditions are pushed down to the scan, aliases get the slots in which they
//! are computed once, provisional slots become the final ones.

use std::collections::BTreeSet;

use super::logical::{AGGREGATES, ALIASES, Logical, Output, OutputValue};
use super::physical::*;
use super::walk::each_slot_mut;
use crate::expr::Expr;
use crate::rule::RuleOptions;
use crate::sql::ast::{BinaryOp, DataType};
use crate::value::Value;

/// The plan that a worker runs.
pub fn rewrite(logical: &Logical, options: &RuleOptions) -> RulePlan {
    // An aggregate without a window is over a row alone.
    let alone = logical.window.is_none() && (!logical.aggregates.is_empty() || logical.having.is_some());
    let window = match &logical.window {
        None if alone => Some(WindowSpec::Count { length: 1, interval: 1 }),
        window => window.clone(),
    };
    let placed = place_conditions(logical, alone);
    let (order, for_filter) = order_aliases(logical, &placed.scan);
    let slots = Slots::new(logical, &order);
    let scan = Scan {
        columns: logical.columns.clone(),
        computed: order.iter().map(|alias| slots.place(&logical.aliases[*alias].expr)).collect(),
        computed_for_filter: for_filter,
        filter: slots.filter(&placed.scan, &logical.columns),
        event_time: logical.event_time.clone(),
    };
    let projection = projection(logical, &slots, window.is_some());
    let body = match window {
        None => Body::Rows(projection),
        Some(window) => {
            let having = logical.having.as_ref().map(|having| slots.place(having));
            Body::Window(Box::new(WindowPlan {
                window,
                admit: slots.filter(&placed.admit, &logical.columns),
                filter: slots.filter(&placed.window, &logical.columns),
                keys: logical.keys.iter().map(|key| slots.place(key)).collect(),
                grouped: logical.grouped,
                aggregates: logical
                    .aggregates
                    .iter()
                    .map(|call| AggregateCall { arg: call.arg.as_ref().map(|arg| slots.place(arg)), ..call.clone() })
                    .collect(),
                row_slots: slots.row_slots,
                kept_slots: kept_slots(&projection, having.as_ref(), slots.row_slots),
                having,
                projection,
                limit: logical.limit,
            }))
        }
    };
    RulePlan { stream: logical.stream.clone(), scan, body, send_nil: options.send_nil }
}

/// Where conditions are tested: each place has a conjunction, in order.
#[derive(Default)]
struct Placed<'a> {
    scan: Vec<&'a Expr>,
    admit: Vec<&'a Expr>,
    window: Vec<&'a Expr>,
}

fn place_conditions(logical: &Logical, alone: bool) -> Placed<'_> {
    let mut placed = Placed::default();
    let counts = !alone && matches!(logical.window, Some(WindowSpec::Count { .. }));
    if let Some(admit) = &logical.admit {
        if counts { &mut placed.admit } else { &mut placed.scan }.push(admit);
    }
    if let Some(filter) = &logical.filter {
        let waits = counts || (logical.window.is_some() && asks_for_window(filter));
        if waits { &mut placed.window } else { &mut placed.scan }.push(filter);
    }
    placed
}

/// Whether a condition asks for the window's bounds, which the scan does not know.
fn asks_for_window(condition: &Expr) -> bool {
    let mut found = false;
    condition.visit(&mut |expr| {
        found |= matches!(expr, Expr::Call { function, .. } if function.name.starts_with("window_"));
    });
    found
}

/// The aliases that need a slot, first those that the filter needs, and how many those are.
fn order_aliases(logical: &Logical, filter: &[&Expr]) -> (Vec<usize>, usize) {
    let mut needed = vec![false; logical.aliases.len()];
    let mut waiting = Vec::new();
    let note = |expr: &Expr, waiting: &mut Vec<usize>| {
        let aliases = expr.slots().into_iter().filter(|slot| (ALIASES..AGGREGATES).contains(slot));
        waiting.extend(aliases.map(|slot| slot - ALIASES));
    };
    for expr in filter {
        note(expr, &mut waiting);
    }
    while let Some(alias) = waiting.pop() {
        if !std::mem::replace(&mut needed[alias], true) {
            note(&logical.aliases[alias].expr, &mut waiting);
        }
    }
    let shared = || (0..logical.aliases.len()).filter(|alias| logical.aliases[*alias].shared);
    let mut order: Vec<usize> = shared().filter(|alias| needed[*alias]).collect();
    let for_filter = order.len();
    order.extend(shared().filter(|alias| !needed[*alias]));
    (order, for_filter)
}

/// The final slots.
struct Slots {
    /// by alias
    of_alias: Vec<Option<usize>>,
    row_slots: usize,
}

impl Slots {
    fn new(logical: &Logical, order: &[usize]) -> Slots {
        let mut of_alias = vec![None; logical.aliases.len()];
        for (place, alias) in order.iter().enumerate() {
            of_alias[*alias] = Some(logical.columns.len() + place);
        }
        Slots { of_alias, row_slots: logical.columns.len() + order.len() }
    }

    fn place(&self, expr: &Expr) -> Expr {
        let mut expr = expr.clone();
        each_slot_mut(&mut expr, &mut |slot| {
            if *slot >= AGGREGATES {
                *slot = self.row_slots + (*slot - AGGREGATES);
            } else if *slot >= ALIASES {
                *slot = self.of_alias[*slot - ALIASES].expect("an alias that is read has a slot");
            }
        });
        expr
    }

    fn filter(&self, conditions: &[&Expr], columns: &[Column]) -> Option<Filter> {
        let mut parts = Vec::new();
        for condition in conditions {
            conjuncts(self.place(condition), &mut parts);
        }
        split(parts, columns)
    }
}

/// The parts of a conjunction in the order of evaluation.
fn conjuncts(expr: Expr, parts: &mut Vec<Expr>) {
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        match expr {
            Expr::Binary { op: BinaryOp::And, left, right, .. } => waiting.extend([*right, *left]),
            part => parts.push(part),
        }
    }
}

/// A filter of these conjuncts: those at the front that are tests, and the rest.
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

/// A conjunct as tests of a column against constants, where it is nothing else.
fn as_tests(part: &Expr, columns: &[Column]) -> Option<Vec<Test>> {
    match part {
        Expr::Binary { op, left, right, .. } => {
            let op = Comparison::of(*op)?;
            let (slot, op, constant) = match (&**left, &**right) {
                (Expr::Slot(slot), Expr::Constant(constant)) => (*slot, op, constant),
                (Expr::Constant(constant), Expr::Slot(slot)) => (*slot, flipped(op), constant),
                _ => return None,
            };
            let constant = testable(slot, constant, columns)?;
            Some(vec![Test { slot, op, constant }])
        }
        Expr::Between { operands, negated: false } => {
            let [Expr::Slot(slot), Expr::Constant(low), Expr::Constant(high)] = &**operands else { return None };
            if matches!(low, Value::Text(_)) != matches!(high, Value::Text(_)) {
                return None;
            }
            let low = testable(*slot, low, columns)?;
            let high = testable(*slot, high, columns)?;
            Some(vec![
                Test { slot: *slot, op: Comparison::GreaterEqual, constant: low },
                Test { slot: *slot, op: Comparison::LessEqual, constant: high },
            ])
        }
        _ => None,
    }
}

/// The constant, if a test of this slot against it is a comparison of numbers or texts. A point in time compares with
/// text in a way of its own, so columns of that type, and computed slots, which may hold one, are left out.
fn testable(slot: usize, constant: &Value, columns: &[Column]) -> Option<Value> {
    let column = columns.get(slot)?;
    let comparable = !matches!(column.ty, Some(DataType::DateTime)) && matches!(column.source, ColumnSource::Key(_));
    let constant = matches!(constant, Value::Int(_) | Value::Float(_) | Value::Text(_)).then_some(constant)?;
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

fn projection(logical: &Logical, slots: &Slots, windowed: bool) -> Projection {
    let value = |value: &OutputValue| match value {
        OutputValue::Expr(expr) => slots.place(expr),
        OutputValue::Alias(alias) => match slots.of_alias[*alias] {
            Some(slot) => Expr::Slot(slot),
            None => slots.place(&logical.aliases[*alias].expr),
        },
    };
    let mut items = Vec::new();
    for field in &logical.fields {
        match field {
            Output::Star { slot, except } => items.push(Item::Star { slot: *slot, except: except.clone() }),
            Output::Field { name, value: v, plain } => {
                items.push(Item::Field { name: name.clone(), expr: value(v), plain: *plain });
            }
            Output::Hidden(v) => match value(v) {
                // These cannot fail, or were computed before.
                Expr::Slot(_) | Expr::Constant(_) => {}
                expr => items.push(Item::Hidden { expr }),
            },
        }
    }
    Projection { items, sends: windowed || logical.limit != Some(0) }
}

fn kept_slots(projection: &Projection, having: Option<&Expr>, row_slots: usize) -> Vec<usize> {
    let mut kept = BTreeSet::new();
    let mut note = |expr: &Expr| kept.extend(expr.slots());
    having.into_iter().for_each(&mut note);
    for item in &projection.items {
        match item {
            Item::Star { slot, .. } => note(&Expr::Slot(*slot)),
            Item::Field { expr, .. } | Item::Hidden { expr } => note(expr),
        }
    }
    kept.into_iter().filter(|slot| *slot < row_slots).collect()
}
