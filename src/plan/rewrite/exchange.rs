//! Whether the state of a rule can be divided by key, so that each thread has that of some keys.
//!
//! Rows of one key go to one thread, which sees them in their order. That is enough where each row is a result of its own
//! and all that is remembered of earlier rows is remembered by a key that the rows have when they are scanned.

use std::collections::BTreeSet;

use super::super::physical::{Input, Role, Stateful, StepKind, WindowSpec};
use crate::expr::Expr;

/// The key by which the state is divided: for each input, the slots of its scan that make it. Empty: the state has one
/// place.
pub(super) fn keys(plan: &Stateful, inputs: &[Input]) -> Vec<Vec<usize>> {
    let one_place = Vec::new();
    let mut streams = inputs.iter().enumerate().filter(|(_, input)| input.role == Role::Stream);
    let (Some((number, stream)), None) = (streams.next(), streams.next()) else { return one_place };
    let others_are_tables = inputs.iter().all(|input| !matches!(input.role, Role::Table { .. }));
    let each_row = matches!(plan.window, WindowSpec::Each) && plan.result_steps.is_empty();
    if !each_row || !others_are_tables || plan.counts_hits {
        return one_place;
    }
    let scanned = stream.slots.start..stream.slots.start + stream.scan.width();
    let partition = |kind: &StepKind| match kind {
        StepKind::Analytic(call) => Some(columns(&call.partition).collect::<BTreeSet<usize>>()),
        StepKind::Compute(_) | StepKind::Elements(_) => None,
    };
    let common = plan.steps.iter().filter_map(|step| partition(&step.kind)).reduce(|common, next| &common & &next);
    let common: Vec<usize> = common.unwrap_or_default().into_iter().filter(|slot| scanned.contains(slot)).collect();
    if common.is_empty() {
        return one_place;
    }
    let mut keys = vec![Vec::new(); inputs.len()];
    keys[number] = common.into_iter().map(|slot| slot - stream.slots.start).collect();
    keys
}

/// The expressions that are just a slot: their values are the same wherever they are read.
fn columns(exprs: &[Expr]) -> impl Iterator<Item = usize> {
    exprs.iter().filter_map(|expr| if let Expr::Slot(slot) = expr { Some(*slot) } else { None })
}
