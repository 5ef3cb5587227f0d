//! The content of a window: accumulators for each group, or the rows themselves if the result needs them.

use std::collections::VecDeque;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::dataflow::row::KeptRow;
use crate::dataflow::state::quarter;
use crate::expr::aggregate::{Accumulator, Aggregate};
use crate::expr::function::CallContext;
use crate::expr::{EvalError, Scope};
use crate::plan::physical::{AggregateCall, Stateful};
use crate::value::Value;
use crate::value::key::GroupKey;

use super::groups::{GroupRows, Groups, add_all, agree, begin, merge};

/// A closed window.
#[derive(Debug)]
pub struct Closed {
    /// Its start, ms since the epoch. For windows over rows: the time of the first row.
    pub start: i64,
    /// Its end, exclusive. For windows over rows: the time of the row that closed it.
    pub end: i64,
    /// Its groups, if the plan is incremental.
    pub groups: GroupRows,
    /// Its rows in order, if it is not.
    pub rows: Vec<Rc<KeptRow>>,
}

impl Closed {
    /// The window from `start` to `end` with this content.
    pub fn new(start: i64, end: i64, content: Content) -> Closed {
        Closed { start, end, groups: content.groups.into_rows(), rows: content.rows }
    }

    /// Whether there is nothing to make a result of.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.groups.is_empty()
    }

    /// A description as JSON.
    pub fn shown(&self) -> String {
        let Closed { start, end, rows, groups } = self;
        format!("{{\"window_start\":{start},\"window_end\":{end},\"rows\":{},\"groups\":{}}}", rows.len(), groups.len())
    }
}

/// Closed windows, in order; processing one may take several turns.
pub type ClosedWindows = VecDeque<Closed>;

/// A row that arrives at a window.
pub struct Arrival<'a> {
    /// ms since the epoch
    pub time: i64,
    /// The input of the row.
    pub input: usize,
    /// A joined row in which only this input's slots are filled; the window may take them.
    pub row: &'a mut [Value],
    /// The slots of this input within it.
    pub slots: std::ops::Range<usize>,
    /// Whether it passes WHERE; other rows may still count for the window.
    pub passes: bool,
    pub context: &'a CallContext<'a>,
    /// Scratch space for keys: a reused key finds its group without an allocation.
    pub key: &'a mut GroupKey,
}

/// The content of a window or slice.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Content {
    /// Times of the first and last counted row, whether it passed or not.
    pub span: Option<(i64, i64)>,
    /// Groups in the order of their first rows, if the plan is incremental.
    pub groups: Groups,
    /// Rows in order, if it is not.
    pub rows: Vec<Rc<KeptRow>>,
    /// The start of the window, if other threads have ended it: then it has a result even if nothing is in it. Not stored,
    /// since such windows are not.
    #[serde(skip)]
    pub ended: Option<i64>,
}

/// Rows of one slice that a thread has accumulated for the thread of the rule's state.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Partial {
    /// Times of its first and last row.
    pub times: (i64, i64),
    /// The end of its slice, exclusive. In processing time, its slice is the one that is open when it arrives.
    pub end: i64,
    pub groups: Groups,
    /// The number of rows of each group.
    pub rows: Vec<u32>,
    /// Set if it is of a window that the thread has ended: then the times are the bounds of the window.
    pub ended: bool,
    /// The number of rows, including those lost to errors.
    pub seen: u64,
    /// Its weight in rows: the number of its groups, or of its rows if groups grow with them.
    pub weight: usize,
}

impl Partial {
    /// The groups of a window that the thread has ended.
    pub fn of_window(start: i64, end: i64, groups: Groups) -> Partial {
        let (times, rows, weight) = ((start, end.saturating_sub(1)), vec![1; groups.len()], groups.len().max(1));
        Partial { times, end, groups, rows, ended: true, weight, ..Partial::default() }
    }

    /// The number of rows in its groups.
    pub fn len(&self) -> u64 {
        self.rows.iter().copied().map(u64::from).sum()
    }
}

impl Content {
    /// Empty content with room for this many groups: a window usually has as many as the one before.
    pub fn with_room(groups: usize) -> Self {
        Content { groups: Groups::with_room(groups), ..Content::default() }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The row cannot be added: it is lost, and the content is unchanged.
    pub fn add(&mut self, plan: &Stateful, arrival: &mut Arrival<'_>) -> Result<(), EvalError> {
        self.add_beside(plan, arrival, std::iter::empty())
    }

    /// Adds a row to a slice. `others`: the slices that are in windows with this one, if [`compares`].
    ///
    /// # Errors
    /// The row cannot be added, or does not go together with its group in another slice: it is lost.
    pub fn add_beside<'c>(
        &mut self,
        plan: &Stateful,
        arrival: &mut Arrival<'_>,
        others: impl Iterator<Item = &'c Content>,
    ) -> Result<(), EvalError> {
        self.count(arrival.time);
        if !arrival.passes {
            return Ok(());
        }
        if !plan.incremental {
            self.rows.push(Rc::new(arrival.keep()));
            return Ok(());
        }
        let scope = Scope { slots: arrival.row, context: arrival.context };
        let others = others.map(|content| &content.groups);
        accumulate_beside(&mut self.groups, plan, &scope, arrival.key, others).map(|_| ())
    }

    /// Counts a row at this time.
    pub fn count(&mut self, time: i64) {
        let (first, last) = self.span.unwrap_or((time, time));
        self.span = Some((first.min(time), last.max(time)));
    }

    /// Merges later content.
    pub fn append(&mut self, later: &Content) {
        if let Some((first, last)) = later.span {
            self.count(first);
            self.count(last);
        }
        self.rows.extend(later.rows.iter().cloned());
        self.groups.append(&later.groups);
    }

    /// Merges groups that were accumulated elsewhere. Those that cannot be merged, or do not go together with `others`,
    /// as in [`Content::add_beside`], are lost: `lose` gets the error, and the number of their rows.
    pub fn merge<'c>(
        &mut self,
        partial: Partial,
        others: impl Iterator<Item = &'c Content> + Clone,
        lose: &mut dyn FnMut(EvalError, u32),
    ) {
        let Partial { times: (first, last), groups, rows, ended, .. } = partial;
        self.count(first);
        self.count(last);
        self.ended = self.ended.or(ended.then_some(first));
        if self.groups.is_empty() && others.clone().next().is_none() {
            self.groups = groups;
            return;
        }
        for ((key, first, accumulators), rows) in groups.iter().zip(rows) {
            let beside = others.clone().try_for_each(|content| match content.groups.find(key.parts()) {
                Some(group) => agree(content.groups.state(group), accumulators),
                None => Ok(()),
            });
            if let Err(error) = beside {
                lose(error, rows);
                continue;
            }
            match self.groups.find(key.parts()) {
                None => self.groups.push(key.clone(), first, accumulators),
                Some(group) => {
                    let mine = self.groups.accumulators(group);
                    match agree(mine, accumulators) {
                        Ok(()) => merge(mine, accumulators),
                        Err(error) => lose(error, rows),
                    }
                }
            }
        }
    }

    /// The same for another thread: the rows of a slice that ends at `end`; `None` if there are none. The rows count as
    /// seen already.
    pub fn into_partial(self, end: i64) -> Option<Partial> {
        let Content { span, groups, .. } = self;
        let times = span?;
        // The number of rows of each group is unknown here; a group that cannot be merged counts as one.
        let (rows, weight) = (vec![1; groups.len()], groups.len().max(1));
        Some(Partial { times, end, groups, rows, weight, ..Partial::default() })
    }

    /// Drops the oldest quarter of the groups or rows, at least one; returns their number.
    pub fn evict(&mut self) -> usize {
        let groups = quarter(self.groups.len());
        self.groups.drop_first(groups);
        let rows = quarter(self.rows.len());
        self.rows.drain(..rows);
        groups + rows
    }

    /// Whether there is nothing for a result.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.groups.is_empty() && self.ended.is_none()
    }
}

impl Arrival<'_> {
    /// The row to keep. Its slots are taken.
    pub fn keep(&mut self) -> KeptRow {
        let slots = self.row[self.slots.clone()].iter_mut().map(std::mem::take).collect();
        KeptRow { time: self.time, input: self.input, slots }
    }
}

/// Adds a row to its group; returns the number of the group. `key` is scratch.
///
/// # Errors
/// The key or an argument of an aggregate cannot be used: the row is in no group.
pub fn accumulate(
    groups: &mut Groups,
    plan: &Stateful,
    scope: &Scope<'_>,
    key: &mut GroupKey,
) -> Result<usize, EvalError> {
    accumulate_beside(groups, plan, scope, key, std::iter::empty())
}

/// Adds a row to its group, unless its values cannot be compared with those of the same group in `others`.
fn accumulate_beside<'g>(
    groups: &mut Groups,
    plan: &Stateful,
    scope: &Scope<'_>,
    key: &mut GroupKey,
    others: impl Iterator<Item = &'g Groups>,
) -> Result<usize, EvalError> {
    let found = if plan.keys.is_empty() {
        key.clear();
        if groups.is_empty() { None } else { Some(0) }
    } else {
        group_key(plan, scope, key)?;
        groups.find(key.parts())
    };
    let alone = others.size_hint().1 == Some(0);
    if !alone && found.is_none_or(|group| groups.state(group).iter().any(Accumulator::is_undecided)) {
        goes_with(plan, scope, key, others)?;
    }
    match found {
        Some(group) => {
            groups.add(group, plan, scope)?;
            Ok(group)
        }
        None => groups.begin(key, plan, scope),
    }
}

/// Checks whether the values of a row can be compared with those of its group elsewhere.
///
/// # Errors
/// They cannot, or an argument of an aggregate cannot be used.
fn goes_with<'g>(
    plan: &Stateful,
    scope: &Scope<'_>,
    key: &GroupKey,
    others: impl Iterator<Item = &'g Groups>,
) -> Result<(), EvalError> {
    let mut row = Vec::new();
    for groups in others {
        let Some(group) = groups.find(key.parts()) else { continue };
        if row.is_empty() {
            begin(&mut row, &plan.aggregates);
            add_all(&mut row, &plan.aggregates, scope)?;
        }
        agree(groups.state(group), &row)?;
    }
    Ok(())
}

/// Sets `key` to the key of a row's group.
///
/// # Errors
/// A key has no value.
pub fn group_key(plan: &Stateful, scope: &Scope<'_>, key: &mut GroupKey) -> Result<(), EvalError> {
    key.clear();
    for expr in &plan.keys {
        key.push(&*expr.eval(scope)?);
    }
    Ok(())
}

/// Whether values of several types may meet in a min or max, which compares those of one type only. Slices that come
/// together in a window must agree about it.
pub fn compares(plan: &Stateful) -> bool {
    let varies = |call: &AggregateCall| matches!(call.aggregate, Aggregate::Min | Aggregate::Max) && !call.integral;
    plan.incremental && plan.aggregates.iter().any(varies)
}

/// Whether the content of windows is small, however many rows they have, so that it may be merged ahead of time.
pub fn merges_ahead(plan: &Stateful) -> bool {
    plan.incremental && plan.aggregates.iter().all(|call| call.aggregate.is_small())
}
