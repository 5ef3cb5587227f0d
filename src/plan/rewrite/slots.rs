//! Assigns a number to each slot.

use std::ops::Range;

use super::conditions::Placed;
use super::stages::{Stage, Stages};
use crate::expr::Expr;
use crate::plan::logical::{Logical, SlotRef};

/// The aliases that an input's scan computes, starting with those that its filter needs, and the number of those.
pub fn scan_aliases(logical: &Logical, stages: &Stages, input: usize, filter: &[Expr<SlotRef>]) -> (Vec<usize>, usize) {
    let mut needed = vec![false; logical.aliases.len()];
    let mut waiting = Vec::new();
    let note = |expr: &Expr<SlotRef>, waiting: &mut Vec<usize>| {
        waiting.extend(expr.slots().into_iter().filter_map(|slot| match slot {
            SlotRef::Alias(alias) => Some(alias),
            _ => None,
        }));
    };
    for expr in filter {
        note(expr, &mut waiting);
    }
    while let Some(alias) = waiting.pop() {
        if !std::mem::replace(&mut needed[alias], true) {
            note(&logical.aliases[alias].expr, &mut waiting);
        }
    }
    let here = |alias: &usize| logical.aliases[*alias].shared && stages.aliases[*alias] == Stage::Scan(input);
    let shared = || (0..logical.aliases.len()).filter(here);
    let mut order: Vec<usize> = shared().filter(|alias| needed[*alias]).collect();
    let for_filter = order.len();
    order.extend(shared().filter(|alias| !needed[*alias]));
    (order, for_filter)
}

/// The final slots.
pub struct Slots {
    /// For each input, the range of its rows' slots.
    pub inputs: Vec<Range<usize>>,
    pub of_alias: Vec<Option<usize>>,
    of_step: Vec<usize>,
    pub row_slots: usize,
    first_number: usize,
    pub first_result_step: usize,
    element: usize,
    first_window_aggregate: usize,
}

impl Slots {
    pub fn new(logical: &Logical, stages: &Stages, placed: &Placed) -> Slots {
        let mut of_alias = vec![None; logical.aliases.len()];
        let mut of_step = vec![0; logical.steps.len()];
        let mut inputs = Vec::new();
        let mut early_element = None;
        let mut next = 0;
        for (number, input) in logical.inputs.iter().enumerate() {
            let start = next;
            next += input.columns.len();
            let (order, _) = scan_aliases(logical, stages, number, &placed.scan[number]);
            for alias in order {
                of_alias[alias] = Some(next);
                next += 1;
            }
            for item in row_steps(logical, stages, number) {
                match item {
                    SlotRef::Alias(alias) => of_alias[alias] = Some(next),
                    SlotRef::Step(step) => of_step[step] = next,
                    SlotRef::Element => early_element = Some(next),
                    _ => {}
                }
                next += 1;
            }
            inputs.push(start..next);
        }
        for alias in joined_aliases(logical, stages) {
            of_alias[alias] = Some(next);
            next += 1;
        }
        let first_window_aggregate = next;
        next += logical.window_aggregates.len();
        let first_number = next + logical.aggregates.len();
        let first_result_step = first_number + logical.numbers.len();
        let element = early_element.unwrap_or(first_result_step + logical.result_steps.len());
        Slots {
            inputs,
            of_alias,
            of_step,
            row_slots: next,
            first_number,
            first_result_step,
            element,
            first_window_aggregate,
        }
    }

    /// Replaces slot references by slot numbers.
    pub fn place(&self, expr: &Expr<SlotRef>) -> Expr {
        self.place_from(expr, 0)
    }

    /// The same with slots numbered from `base`.
    pub fn place_from(&self, expr: &Expr<SlotRef>, base: usize) -> Expr {
        expr.map(&mut |slot| self.of(*slot) - base)
    }

    pub fn all(&self, exprs: &[Expr<SlotRef>]) -> Vec<Expr> {
        exprs.iter().map(|expr| self.place(expr)).collect()
    }

    /// Numbers each slot, for mapping a part of the plan.
    pub fn number(&self) -> impl FnMut(&SlotRef) -> usize {
        |slot| self.of(*slot)
    }

    /// The number of a slot.
    pub fn of(&self, slot: SlotRef) -> usize {
        match slot {
            SlotRef::Column { input, column } => self.inputs[input].start + column,
            SlotRef::Alias(alias) => self.of_alias[alias].expect("an alias that is read has a slot"),
            SlotRef::Aggregate(aggregate) => self.row_slots + aggregate,
            SlotRef::Step(step) => self.of_step[step],
            SlotRef::Number(number) => self.first_number + number,
            SlotRef::ResultStep(step) => self.first_result_step + step,
            SlotRef::Element => self.element,
            SlotRef::WindowAggregate(number) => self.first_window_aggregate + number,
        }
    }
}

/// The analytic calls over rows of an input, and the aliases that need them, each after what it needs.
pub fn row_steps(logical: &Logical, stages: &Stages, input: usize) -> Vec<SlotRef> {
    let mut items = Vec::new();
    let mut steps = logical.steps.iter().enumerate().peekable();
    for alias in 0..=logical.aliases.len() {
        while let Some((step, _)) = steps.next_if(|(_, step)| step.aliases <= alias) {
            if stages.steps[step] == input {
                items.push(SlotRef::Step(step));
            }
        }
        let unnested = logical.elements.as_ref().is_some_and(|elements| elements.aliases == alias);
        if unnested && stages.elements == Some(input) {
            items.push(SlotRef::Element);
        }
        if stages.aliases.get(alias) == Some(&Stage::Step(input)) && logical.aliases[alias].shared {
            items.push(SlotRef::Alias(alias));
        }
    }
    items
}

pub fn joined_aliases(logical: &Logical, stages: &Stages) -> impl Iterator<Item = usize> {
    (0..logical.aliases.len()).filter(|alias| logical.aliases[*alias].shared && stages.aliases[*alias] == Stage::Joined)
}
