//! Plans the joins of a rule: equalities of ON become keys, the rest of ON is tested on each pair.

use std::collections::BTreeSet;

use super::conditions::{conjunction, conjuncts};
use super::slots::Slots;
use super::stages::{Stage, Stages};
use crate::plan::error::{PlanError, PlanErrorKind};
use crate::plan::logical::{Expr, Logical, SlotRef};
use crate::plan::physical::{ColumnSource, Join, Role};
use crate::value::Text;
use crate::value::operator::BinaryOp;
use crate::value::types::DataType;

/// The joins, with their equalities separated from the rest of ON.
pub fn joins(logical: &Logical, stages: &Stages, slots: &Slots) -> Result<Vec<Join>, PlanError> {
    let mut joins = Vec::new();
    for (number, join) in logical.joins.iter().enumerate() {
        let input = number + 1;
        let mut parts = Vec::new();
        if let Some(on) = &join.on {
            conjuncts(on.clone(), &mut parts);
        }
        let (mut equal, mut columns, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest_aliases = BTreeSet::new();
        for part in parts {
            match equality(&part, input, logical, stages) {
                Some((left, right)) => {
                    columns.extend(column_name(&right, logical));
                    equal.push((slots.place(&left), slots.place(&right)));
                }
                None => {
                    joined_aliases_of(&part, logical, stages, &mut rest_aliases);
                    rest.push(slots.place(&part));
                }
            }
        }
        if logical.inputs[input].role == Role::Lookup {
            if equal.is_empty() {
                return Err(PlanError::at(PlanErrorKind::LookupEquality(join.text.clone()), join.span));
            }
        } else {
            columns.clear();
        }
        let value = |alias: usize| Some((slots.of_alias[alias]?, slots.place(&logical.aliases[alias].expr)));
        let computed = rest_aliases.into_iter().filter_map(value).collect();
        joins.push(Join { kind: join.kind, input, equal, columns, computed, rest: conjunction(rest) });
    }
    Ok(joins)
}

/// Adds the aliases over joined rows that an expression needs, directly or through others. Their order puts each after
/// those that it reads.
fn joined_aliases_of(expr: &Expr, logical: &Logical, stages: &Stages, found: &mut BTreeSet<usize>) {
    let mut waiting = expr.slots();
    while let Some(slot) = waiting.pop() {
        if let SlotRef::Alias(alias) = slot
            && stages.aliases[alias] == Stage::Joined
            && found.insert(alias)
        {
            waiting.extend(logical.aliases[alias].expr.slots());
        }
    }
}

/// Splits `left = right` into an expression over the inputs before `input`, and one over `input` alone. The right side
/// of a lookup is a column.
fn equality(part: &Expr, input: usize, logical: &Logical, stages: &Stages) -> Option<(Expr, Expr)> {
    let Expr::Binary { op: BinaryOp::Equal, left, right, .. } = part else { return None };
    let side = |expr: &Expr| {
        let reads = stages.reads(expr);
        if reads.joined || reads.inputs.is_empty() {
            None
        } else if reads.inputs.iter().all(|read| *read < input) {
            Some(true)
        } else if reads.inputs.iter().all(|read| *read == input) {
            Some(false)
        } else {
            None
        }
    };
    let (before, of_input) = match (side(left), side(right)) {
        (Some(true), Some(false)) => (left, right),
        (Some(false), Some(true)) => (right, left),
        _ => return None,
    };
    let lookup = logical.inputs[input].role == Role::Lookup;
    if lookup && column_name(of_input, logical).is_none() {
        return None;
    }
    // A datetime also equals texts and numbers, which no key can express.
    let datetime = |expr: &Expr| {
        expr.slots().into_iter().any(|slot| match slot {
            SlotRef::Column { input, column } => logical.inputs[input].columns[column].ty == Some(DataType::DateTime),
            _ => false,
        })
    };
    (lookup || !(datetime(before) || datetime(of_input))).then(|| ((**before).clone(), (**of_input).clone()))
}

/// The key of the column that an expression consists of.
fn column_name(expr: &Expr, logical: &Logical) -> Option<Text> {
    let Expr::Slot(SlotRef::Column { input, column }) = expr else { return None };
    match &logical.inputs[*input].columns[*column].source {
        ColumnSource::Key(key) => Some(key.clone()),
        ColumnSource::Whole | ColumnSource::Meta | ColumnSource::Topic => None,
    }
}
