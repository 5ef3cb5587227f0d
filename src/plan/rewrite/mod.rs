//! Turns the logical plan into the physical one: conditions are pushed down to the scan, shared aliases get slots, and
//! slots get numbers.
//!
//! `stages` decides when each value is computed, `conditions` where each condition is tested, `slots` where each value
//! is stored, `joins` what is compared, `exchange` by which key threads may divide the state. This file puts the plan
//! together.

mod conditions;
mod exchange;
mod joins;
mod slots;
mod stages;

use std::collections::BTreeSet;

use super::error::PlanError;
use super::logical::{Logical, Output, OutputValue, SlotRef};
use super::physical::*;
use crate::definition::rule::RuleOptions;
use crate::expr::Expr;

use conditions::{Placed, asks_for_window, filter_of, place_conditions};
use joins::joins;
use slots::{Slots, joined_aliases, row_steps, scan_aliases};
use stages::Stages;

/// The plan that a worker runs.
///
/// # Errors
/// A plan that cannot run although its names are correct: an analytic call over several streams, a lookup without a
/// key.
pub fn rewrite(logical: &Logical, options: &RuleOptions) -> Result<RulePlan, PlanError> {
    let stages = Stages::new(logical)?;
    let placed = place_conditions(logical);
    let slots = Slots::new(logical, &stages, &placed);
    let inputs = inputs(logical, &stages, &placed, &slots);
    let (send_nil, concurrency) = (options.send_nil, options.concurrency);
    if runs_in_scan(logical) {
        let projection = projection(logical, &slots, logical.limit != Some(0));
        return Ok(RulePlan { inputs, body: Body::Rows(projection), send_nil, concurrency });
    }
    let mut body = stateful(logical, &stages, placed, &slots)?;
    body.stored = options.qos > 0;
    if !pauses(logical) {
        let unordered = concurrency.is_some_and(|workers| workers.get() > 1);
        body.exchange = exchange::keys(&body, &inputs, unordered);
    }
    body.state_limit =
        (options.max_state_bytes > 0).then_some(StateLimit { bytes: options.max_state_bytes, evicts: options.evicts });
    let body = Body::Stateful(Box::new(body));
    Ok(RulePlan { inputs, body, send_nil, concurrency })
}

/// Whether each row is a result by itself.
fn runs_in_scan(logical: &Logical) -> bool {
    logical.window.is_none()
        && logical.joins.is_empty()
        && logical.aggregates.is_empty()
        && logical.having.is_none()
        && logical.steps.is_empty()
        && logical.result_steps.is_empty()
        && logical.numbers.is_empty()
        && logical.elements.is_none()
        && logical.watermark.is_none()
        && !counts_hits(logical)
        && !pauses(logical)
}

/// Whether the rule reads what it has sent so far.
fn counts_hits(logical: &Logical) -> bool {
    let mut found = false;
    logical.each_expr(&mut |expr| found |= asks_for_hits(expr));
    found
}

/// Whether the rule calls `delay()`: only an operator of its own can pause.
fn pauses(logical: &Logical) -> bool {
    let mut found = false;
    logical.each_expr(&mut |expr| {
        found |= expr.any(&|part| matches!(part, Expr::Call { function, .. } if function.name == "delay"));
    });
    found
}

/// Whether an expression reads what was sent so far.
fn asks_for_hits<S>(expr: &Expr<S>) -> bool {
    expr.any(&|part| matches!(part, Expr::Call { function, .. } if HITS.contains(&function.name)))
}

/// The functions that read what was sent so far.
const HITS: [&str; 4] = ["last_hit_count", "last_hit_time", "last_agg_hit_count", "last_agg_hit_time"];

fn inputs(logical: &Logical, stages: &Stages, placed: &Placed, slots: &Slots) -> Vec<Input> {
    let mut inputs = Vec::with_capacity(logical.inputs.len());
    for (number, input) in logical.inputs.iter().enumerate() {
        let (order, for_filter) = scan_aliases(logical, stages, number, &placed.scan[number]);
        // A scan numbers its slots from 0.
        let base = slots.inputs[number].start;
        let place = |expr: &Expr<SlotRef>| slots.place_from(expr, base);
        let scan = Scan {
            columns: input.columns.clone(),
            computed: order.iter().map(|alias| place(&logical.aliases[*alias].expr)).collect(),
            computed_for_filter: for_filter,
            filter: filter_of(placed.scan[number].iter().map(place).collect(), &input.columns),
            event_time: input.event_time.clone(),
        };
        inputs.push(Input {
            stream: input.stream.clone(),
            role: input.role,
            scan,
            slots: slots.inputs[number].clone(),
        });
    }
    inputs
}

/// Everything after the scans.
fn stateful(logical: &Logical, stages: &Stages, placed: Placed, slots: &Slots) -> Result<Stateful, PlanError> {
    let mut steps = Vec::new();
    for input in 0..logical.inputs.len() {
        for item in row_steps(logical, stages, input) {
            let kind = match item {
                SlotRef::Element => match &logical.elements {
                    Some(elements) => StepKind::Elements(elements.rows.map(&mut slots.number())),
                    None => continue,
                },
                SlotRef::Alias(alias) => StepKind::Compute(slots.place(&logical.aliases[alias].expr)),
                SlotRef::Step(step) => StepKind::Analytic(logical.steps[step].call.map(&mut slots.number())),
                _ => continue,
            };
            steps.push(Step { input, slot: slots.of(item), kind });
        }
    }
    let result_steps = logical.result_steps.iter().enumerate().map(|(number, call)| Step {
        input: 0,
        slot: slots.first_result_step + number,
        kind: StepKind::Analytic(call.map(&mut slots.number())),
    });
    // Only the scan tests slots by number; here a filter is an expression.
    let condition = |parts: &[Expr<SlotRef>]| filter_of(slots.all(parts), &[]);
    let joined_filter = condition(&placed.joined).and_then(|filter| filter.rest);
    let projection = projection(logical, slots, true);
    let mut stateful = Stateful {
        event_time: logical.watermark,
        ordered: logical.watermark.is_some(),
        steps,
        admit: condition(&placed.admit),
        filter: condition(&placed.rows),
        window: logical.window.as_ref().map_or(WindowSpec::Each, |window| window.map(&mut slots.number())),
        joins: joins(logical, stages, slots)?,
        computed: joined_aliases(logical, stages).map(|alias| slots.place(&logical.aliases[alias].expr)).collect(),
        joined_filter,
        keys: slots.all(&logical.keys),
        grouped: logical.grouped,
        incremental: false,
        merges: false,
        exchange: Vec::new(),
        aggregates: logical.aggregates.iter().map(|call| call.map(&mut slots.number())).collect(),
        window_aggregates: logical.window_aggregates.iter().map(|call| call.map(&mut slots.number())).collect(),
        row_slots: slots.row_slots,
        kept_slots: Vec::new(),
        having: logical.having.as_ref().map(|having| slots.place(having)),
        numbers: logical.numbers.iter().map(|number| number.map(&mut slots.number())).collect(),
        order: logical.order.iter().map(|key| key.map(&mut slots.number())).collect(),
        result_steps: result_steps.collect(),
        rows_of: late_elements(logical).map(|rows| rows.map(&mut slots.number())),
        projection,
        limit: logical.limit,
        counts_hits: counts_hits(logical),
        state_limit: None,
        stored: false,
    };
    stateful.incremental = incremental(&stateful);
    stateful.kept_slots = kept_slots(&stateful);
    stateful.ordered &= !order_does_not_matter(&stateful);
    stateful.merges = merges(&stateful) && !pauses(logical);
    Ok(stateful)
}

/// The set-returning call, if it runs over result rows.
fn late_elements(logical: &Logical) -> Option<&RowsOf<SlotRef>> {
    logical.elements.as_ref().filter(|elements| !elements.before).map(|elements| &elements.rows)
}

/// Whether each row can be added to its groups at once and dropped: not if rows are joined or sorted first, or if the
/// window's bounds are read.
fn incremental(plan: &Stateful) -> bool {
    let rows_are_sorted = !plan.order.is_empty() && plan.keys.is_empty();
    let late = plan.keys.iter().chain(plan.aggregates.iter().flat_map(|call| &call.arg)).any(asks_for_window);
    plan.grouped && plan.joins.is_empty() && plan.joined_filter.is_none() && !rows_are_sorted && !late
}

/// Whether the results do not depend on the order of rows.
fn order_does_not_matter(plan: &Stateful) -> bool {
    let keys: Vec<usize> =
        plan.keys.iter().filter_map(|key| if let Expr::Slot(slot) = key { Some(*slot) } else { None }).collect();
    plan.window.depends_on_times_only()
        && plan.steps.is_empty()
        // What was sent so far depends on which windows have closed when a row is processed.
        && !plan.counts_hits
        && plan.incremental
        && plan.aggregates.iter().all(|call| !call.aggregate.is_ordered())
        && plan.kept_slots.iter().all(|slot| keys.contains(slot))
}

/// Whether the rows of a window can be accumulated in parts that are merged later. In processing time the parts are
/// merged in the order in which they arrive, so the rows of one connection stay in order.
fn merges(plan: &Stateful) -> bool {
    // Then the scan tests all conditions.
    let scanned = plan.steps.is_empty() && plan.admit.is_none() && plan.filter.is_none();
    let alone = plan.joins.is_empty() && plan.computed.is_empty() && plan.window_aggregates.is_empty();
    plan.window.depends_on_times_only() && plan.incremental && !plan.ordered && !plan.counts_hits && scanned && alone
}

fn projection(logical: &Logical, slots: &Slots, sends: bool) -> Projection {
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
            Output::Star { messages } => {
                let placed = messages
                    .iter()
                    .map(|message| WholeMessage { slot: slots.of(message.slot), except: message.except.clone() });
                items.push(Item::Star { messages: placed.collect() });
            }
            Output::Field { name, value: v, plain } => {
                items.push(Item::Field { name: name.clone(), expr: value(v), plain: *plain });
            }
            Output::Spread { expr, name } => {
                items.push(Item::Spread { expr: slots.place(expr), name: name.clone() });
            }
            Output::Hidden(v) => match value(v) {
                // These cannot fail, or were computed before.
                Expr::Slot(_) | Expr::Constant(_) => {}
                expr => items.push(Item::Hidden { expr }),
            },
        }
    }
    Projection { items, sends }
}

/// The slots of a group's first row that are read after grouping.
fn kept_slots(plan: &Stateful) -> Vec<usize> {
    let mut kept = BTreeSet::new();
    let mut note = |expr: &Expr| kept.extend(expr.slots());
    plan.having.iter().for_each(&mut note);
    plan.order.iter().for_each(|key| note(&key.expr));
    plan.numbers.iter().for_each(|number| number.each_expr(&mut note));
    for step in &plan.result_steps {
        match &step.kind {
            StepKind::Analytic(call) => call.each_expr(&mut note),
            StepKind::Compute(expr) | StepKind::Elements(RowsOf { arg: expr, .. }) => note(expr),
        }
    }
    plan.rows_of.iter().for_each(|rows| note(&rows.arg));
    for item in &plan.projection.items {
        match item {
            Item::Star { messages } => messages.iter().for_each(|message| note(&Expr::Slot(message.slot))),
            Item::Field { expr, .. } | Item::Hidden { expr } | Item::Spread { expr, .. } => note(expr),
        }
    }
    kept.into_iter().filter(|slot| *slot < plan.row_slots).collect()
}
