//! What a window holds: accumulators for each group, or the rows themselves where the result is made of them.

use std::rc::Rc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::dataflow::row::{KeptRow, KeyHasher};
use crate::expr::aggregate::Accumulator;
use crate::expr::function::CallContext;
use crate::expr::{EvalError, Scope};
use crate::plan::physical::Stateful;
use crate::value::Value;
use crate::value::key::GroupKey;

/// A window whose time has come.
#[derive(Debug)]
pub struct Closed {
    /// Where it begins, ms since the epoch. For windows over rows: the time of its first row.
    pub start: i64,
    /// Where it ends, exclusive. For windows over rows: the time of the row that closed it.
    pub end: i64,
    /// what is in it
    pub content: Content,
}

/// Takes closed windows.
pub type Emit<'a> = &'a mut dyn FnMut(Closed);

/// A row on its way into a window.
pub struct Arrival<'a> {
    /// ms since the epoch
    pub time: i64,
    /// which of the rule's inputs it is of
    pub input: usize,
    /// a joined row in which only this input's slots are filled; the window may take them
    pub row: &'a mut [Value],
    /// where this input's slots are in it
    pub slots: std::ops::Range<usize>,
    /// whether WHERE lets it pass; a row that does not may still count for the window
    pub passes: Result<bool, String>,
    /// what it is evaluated with
    pub context: &'a CallContext<'a>,
    /// a key to make keys in: one that is refilled finds its group without an allocation
    pub key: &'a mut GroupKey,
}

/// The content of a window, or of a slice of one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Content {
    /// times of the first and the last row that counted, whether it passed or not
    pub span: Option<(i64, i64)>,
    /// the groups in the order of their first rows, where the plan is incremental
    pub groups: Groups,
    /// the rows in order, where it is not
    pub rows: Vec<Rc<KeptRow>>,
    /// the first error of a row: the window's result is lost to it
    pub failed: Option<String>,
}

/// Groups by key, in the order of their first rows.
pub type Groups = IndexMap<GroupKey, Group, KeyHasher>;

/// One group.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Group {
    /// the kept slots of the group's first row
    pub first: Vec<Value>,
    /// one for each aggregate
    pub accumulators: Vec<Accumulator>,
}

impl Content {
    /// Takes a row in. An error of the row is kept: it concerns the window.
    pub fn add(&mut self, plan: &Stateful, arrival: &mut Arrival<'_>) {
        self.count(arrival.time);
        match &arrival.passes {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return self.fail(error),
        }
        if !plan.incremental {
            self.rows.push(Rc::new(arrival.keep()));
            return;
        }
        let scope = Scope { slots: arrival.row, context: arrival.context };
        if let Err(error) = accumulate(&mut self.groups, plan, &scope, arrival.key) {
            self.fail(error);
        }
    }

    /// Notes the time of a row that counts.
    pub fn count(&mut self, time: i64) {
        let (first, last) = self.span.unwrap_or((time, time));
        self.span = Some((first.min(time), last.max(time)));
    }

    /// Keeps the first error.
    pub fn fail(&mut self, error: impl std::fmt::Display) {
        self.failed.get_or_insert_with(|| format!("run Select error: {error}"));
    }

    /// Takes in what came after this.
    pub fn append(&mut self, later: &Content) {
        if let Some((first, last)) = later.span {
            self.count(first);
            self.count(last);
        }
        self.rows.extend(later.rows.iter().cloned());
        for (key, group) in &later.groups {
            match self.groups.get_mut(key) {
                None => {
                    self.groups.insert(key.clone(), group.clone());
                }
                // An error stays in the accumulator and is told with its answer.
                Some(mine) => mine.append(&group.accumulators),
            }
        }
        if let Some(error) = &later.failed {
            self.failed.get_or_insert_with(|| error.clone());
        }
    }

    /// Whether there is nothing to make a result of.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.groups.is_empty() && self.failed.is_none()
    }
}

impl Group {
    /// Takes in what came later.
    pub fn append(&mut self, later: &[Accumulator]) {
        for (mine, later) in self.accumulators.iter_mut().zip(later) {
            let _ = mine.merge(later);
        }
    }
}

impl Arrival<'_> {
    /// The row as it is kept. Its slots are taken.
    pub fn keep(&mut self) -> KeptRow {
        let slots = self.row[self.slots.clone()].iter_mut().map(std::mem::take).collect();
        KeptRow { time: self.time, input: self.input, slots }
    }
}

/// Adds a row to its group. `key` is a key to work in.
pub fn accumulate(
    groups: &mut Groups,
    plan: &Stateful,
    scope: &Scope<'_>,
    key: &mut GroupKey,
) -> Result<(), EvalError> {
    let found = if plan.keys.is_empty() {
        key.clear();
        if groups.is_empty() { None } else { Some(0) }
    } else {
        group_key(plan, scope, key)?;
        groups.get_index_of(key.parts())
    };
    let group = match found {
        Some(index) => &mut groups[index],
        None => groups.entry(key.clone()).or_insert_with(|| new_group(plan, scope)),
    };
    add_to(&mut group.accumulators, plan, scope)
}

/// Makes `key` the key of a row's group.
pub fn group_key(plan: &Stateful, scope: &Scope<'_>, key: &mut GroupKey) -> Result<(), EvalError> {
    key.clear();
    for expr in &plan.keys {
        key.push(&*expr.eval(scope)?);
    }
    Ok(())
}

/// A group whose first row this is, before the row is added.
pub fn new_group(plan: &Stateful, scope: &Scope<'_>) -> Group {
    Group {
        first: plan.kept_slots.iter().map(|&slot| scope.slots[slot].clone()).collect(),
        accumulators: plan.aggregates.iter().map(|call| Accumulator::new(call.aggregate, call.integral)).collect(),
    }
}

/// Adds a row to the accumulators of its group.
pub fn add_to(accumulators: &mut [Accumulator], plan: &Stateful, scope: &Scope<'_>) -> Result<(), EvalError> {
    for (call, accumulator) in plan.aggregates.iter().zip(accumulators) {
        match &call.arg {
            None => accumulator.add(None)?,
            Some(arg) => accumulator.add(Some(arg.eval(scope)?.as_ref()))?,
        }
    }
    Ok(())
}

/// Whether the contents of windows are small whatever is in them, so that they may be merged before they are needed.
pub fn merges_ahead(plan: &Stateful) -> bool {
    plan.incremental && plan.aggregates.iter().all(|call| call.aggregate.is_small())
}
