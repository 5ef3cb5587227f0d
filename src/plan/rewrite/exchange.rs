//! Decides whether the state of a rule can be divided by key, so that each thread has the state of some keys.
//!
//! Rows of one key go to one thread, which sees them in their order. This works if everything that the rule remembers
//! belongs to a key that rows have when they are scanned: the memories of analytic functions for each row, or the
//! groups of a window. Windows that merge need no exchange: each thread accumulates its own rows.
//! Rows that are joined meet where the key is that of the join.
//!
//! Results of different keys, and groups in one result, then have no order, even for messages of one connection. So the
//! state is divided only if the rule permits that.

use std::collections::BTreeSet;

use super::super::physical::{ColumnSource, Input, Role, Stateful, StepKind, WindowSpec};
use crate::expr::Expr;
use crate::value::types::DataType;

/// The key by which the state is divided: for each input, the slots of its scan that make it. Empty: the state is not
/// divided. `unordered`: whether results of different keys may change places.
pub(super) fn keys(plan: &Stateful, inputs: &[Input], unordered: bool) -> Vec<Vec<usize>> {
    let one_place = Vec::new();
    // The rows of tables and views are on one thread.
    let is_elsewhere = |input: &Input| matches!(input.role, Role::Table { .. }) || input.stream.view.is_some();
    if !unordered || plan.counts_hits || inputs.iter().any(is_elsewhere) {
        return one_place;
    }
    if inputs.iter().filter(|input| input.role == Role::Stream).count() > 1 {
        return if joins_alone(plan) { join_keys(plan, inputs) } else { one_place };
    }
    let mut streams = inputs.iter().enumerate().filter(|(_, input)| input.role == Role::Stream);
    let Some((number, stream)) = streams.next() else { return one_place };
    let divides = match plan.window {
        WindowSpec::Each => plan.result_steps.is_empty(),
        // A checkpoint does not contain what is on its way between two threads.
        WindowSpec::Hopping { .. } => !plan.stored && !plan.merges && groups_alone(plan),
        _ => false,
    };
    if !divides {
        return one_place;
    }
    let scanned = stream.slots.start..stream.slots.start + stream.scan.width();
    let partition = |kind: &StepKind| match kind {
        StepKind::Analytic(call) => Some(columns(&call.partition)),
        StepKind::Compute(_) | StepKind::Elements(_) => None,
    };
    let partitions = plan.steps.iter().filter_map(|step| partition(&step.kind));
    let groups = matches!(plan.window, WindowSpec::Hopping { .. }).then(|| columns(&plan.keys));
    let common = partitions.chain(groups).reduce(|common, next| &common & &next).unwrap_or_default();
    let common: Vec<usize> = common.into_iter().filter(|slot| scanned.contains(slot)).collect();
    if common.is_empty() {
        return one_place;
    }
    let mut keys = vec![Vec::new(); inputs.len()];
    keys[number] = common.into_iter().map(|slot| slot - stream.slots.start).collect();
    keys
}

/// Whether the threads can join the rows of windows, so that one of them makes the results of the groups. In processing
/// time each thread would end windows at another moment. Without groups that thread would have to keep all joined rows,
/// which may be far more than the rows of the window.
fn joins_alone(plan: &Stateful) -> bool {
    let read = columns(&plan.keys);
    matches!(plan.window, WindowSpec::Hopping { .. })
        && plan.event_time.is_some()
        && !plan.stored
        && plan.steps.is_empty()
        && plan.window_aggregates.is_empty()
        && plan.aggregates.iter().all(|call| !call.aggregate.is_ordered())
        && plan.grouped
        // A group may have rows on several threads, and any of them may be its first row.
        && plan.kept_slots.iter().all(|slot| read.contains(slot))
}

/// The first key that consists of a column of each stream, which the joins compare for equality directly or through
/// other columns. Empty if there is none.
fn join_keys(plan: &Stateful, inputs: &[Input]) -> Vec<Vec<usize>> {
    let mut equal: Vec<BTreeSet<usize>> = Vec::new();
    for (left, right) in plan.joins.iter().flat_map(|join| &join.equal) {
        let (Expr::Slot(left), Expr::Slot(right)) = (left, right) else { continue };
        let mut both = BTreeSet::from([*left, *right]);
        equal.retain(|known| {
            let meets = !known.is_disjoint(&both);
            if meets {
                both.extend(known);
            }
            !meets
        });
        equal.push(both);
    }
    let key = |slots: &BTreeSet<usize>| -> Option<Vec<Vec<usize>>> {
        let of_input = |input: &Input| match input.role {
            Role::Stream => slots.iter().find_map(|slot| key_column(input, *slot)).map(|column| vec![column]),
            Role::Table { .. } | Role::Lookup => Some(Vec::new()),
        };
        inputs.iter().map(of_input).collect()
    };
    equal.iter().find_map(key).unwrap_or_default()
}

/// The column of an input's scan in this slot of a joined row, if equal values of it have the same hash. A point in
/// time also equals texts and numbers; rows in memory may have one in any column without a type.
fn key_column(input: &Input, slot: usize) -> Option<usize> {
    let place = slot.checked_sub(input.slots.start)?;
    let column = input.scan.columns.get(place)?;
    let may_be_time = match column.ty {
        None => input.stream.source == "memory",
        Some(DataType::DateTime) => true,
        Some(_) => false,
    };
    (matches!(column.source, ColumnSource::Key(_)) && !may_be_time).then_some(place)
}

/// Whether a window keeps nothing but its groups.
fn groups_alone(plan: &Stateful) -> bool {
    plan.incremental && plan.computed.is_empty() && plan.window_aggregates.is_empty()
}

/// The expressions that are just a slot: their values are the same wherever they are read.
fn columns(exprs: &[Expr]) -> BTreeSet<usize> {
    exprs.iter().filter_map(|expr| if let Expr::Slot(slot) = expr { Some(*slot) } else { None }).collect()
}
