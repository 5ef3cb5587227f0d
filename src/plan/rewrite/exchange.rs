//! Whether the state of a rule can be divided by key, so that each thread has that of some keys.
//!
//! Rows of one key go to one thread, which sees them in their order. That is enough where all that is remembered of rows is
//! remembered by a key that they have when they are scanned: by analytic functions for each row, or by groups of a
//! window. Windows that merge need no exchange: there each thread accumulates what it has.
//!
//! Results of different keys, and groups in one result, have no order then, also for messages of one connection. So the
//! state is divided only if the rule permits that.

use std::collections::BTreeSet;

use super::super::physical::{Input, Role, Stateful, StepKind, WindowSpec};
use crate::expr::Expr;

/// The key by which the state is divided: for each input, the slots of its scan that make it. Empty: the state has one
/// place. `unordered`: whether results of different keys may change places.
pub(super) fn keys(plan: &Stateful, inputs: &[Input], unordered: bool) -> Vec<Vec<usize>> {
    let one_place = Vec::new();
    let mut streams = inputs.iter().enumerate().filter(|(_, input)| input.role == Role::Stream);
    let (Some((number, stream)), None) = (streams.next(), streams.next()) else { return one_place };
    let others_are_tables = inputs.iter().all(|input| !matches!(input.role, Role::Table { .. }));
    let divides = match plan.window {
        WindowSpec::Each => plan.result_steps.is_empty(),
        // What is on its way between two threads is in no checkpoint.
        WindowSpec::Hopping { .. } => !plan.stored && !plan.merges && groups_alone(plan),
        _ => false,
    };
    if !unordered || !divides || !others_are_tables || plan.counts_hits {
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

/// Whether the groups of a window are all that it keeps.
fn groups_alone(plan: &Stateful) -> bool {
    plan.incremental && plan.computed.is_empty() && plan.window_aggregates.is_empty()
}

/// The expressions that are just a slot: their values are the same wherever they are read.
fn columns(exprs: &[Expr]) -> BTreeSet<usize> {
    exprs.iter().filter_map(|expr| if let Expr::Slot(slot) = expr { Some(*slot) } else { None }).collect()
}
