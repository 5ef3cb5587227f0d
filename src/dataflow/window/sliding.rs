//! Windows around rows (SLIDINGWINDOW): for each row, the rows up to a length before it, itself included, and up to a
//! delay after it.
//!
//! Rows arrive in order of time. If groups have small accumulators, each group keeps its rows' accumulators in two
//! stacks (see `slices`), so that the cost of a window does not depend on its number of rows. Medians, percentiles,
//! aggregates with DISTINCT and `deduplicate` can remove rows again ([`Moving`]). For other aggregates the rows are kept.

use std::borrow::Cow;
use std::collections::VecDeque;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::dataflow::row::KeyHasher;
use crate::dataflow::state::checkpoint::{CheckpointError, CheckpointReader, StateParts};
use crate::dataflow::state::quarter;
use crate::dataflow::timers::Alarm;
use crate::expr::aggregate::{Accumulator, Moving};
use crate::expr::{EvalError, Scope};
use crate::plan::physical::{AggregateCall, Stateful, WindowSpec};
use crate::value::Value;
use crate::value::key::GroupKey;

use super::content::{Arrival, Closed, ClosedWindows, Content, group_key};
use super::groups::{GroupRows, add_all, agree, begin, merge};

/// The aggregates of the rule, by how a group keeps the values of its rows.
struct Calls {
    /// Small accumulators, which are merged.
    merged: Vec<AggregateCall>,
    /// Those that can remove rows again.
    moving: Vec<AggregateCall>,
    /// For each aggregate of the rule whether it is one of `moving`.
    order: Vec<bool>,
    /// Whether there are no other aggregates, so that no rows are kept.
    all: bool,
}

/// Rows that later windows may contain.
pub struct Sliding {
    length: i64,
    delay: i64,
    calls: Calls,
    held: Held,
    /// windows without a delay wait for the other rows with the same time
    together: bool,
    /// times of rows whose windows wait for the delay, or for the rows with the same time
    waiting: VecDeque<i64>,
    alarm: Alarm,
}

#[derive(Serialize, Deserialize)]
enum Held {
    /// accumulators by group, and the group of each row, in order
    Groups(SlidingGroups),
    /// a content for each row: the row, or its accumulators
    Rows(VecDeque<(i64, Content)>),
}

#[derive(Default, Serialize, Deserialize)]
struct SlidingGroups {
    groups: IndexMap<GroupKey, SlidingGroup, KeyHasher>,
    /// the group of each row, oldest first
    rows: VecDeque<(i64, GroupKey)>,
}

/// The rows of one group in two stacks. Each row has one accumulator for each aggregate; those of all rows are in one
/// vector, so that a row needs no allocation.
#[derive(Default, Serialize, Deserialize)]
struct SlidingGroup {
    /// the kept slots of each row, oldest first
    first: VecDeque<Value>,
    /// the number of rows in each of the two stacks
    rows: (usize, usize),
    /// oldest last: the accumulators of each row merged with all later ones up to the newest of these
    front: Vec<Accumulator>,
    /// later ones, oldest first, unmerged
    back: Vec<Accumulator>,
    /// all of `back` merged
    back_merged: Vec<Accumulator>,
    /// one for each moving aggregate
    moving: Vec<Moving>,
    /// their arguments for each row, oldest first
    arguments: VecDeque<Value>,
}

impl Calls {
    fn of(plan: &Stateful) -> Calls {
        let moves = |call: &AggregateCall| Moving::new(call.aggregate, call.integral).is_some();
        let order: Vec<bool> = plan.aggregates.iter().map(moves).collect();
        let (moving, merged): (Vec<_>, Vec<_>) = plan.aggregates.iter().cloned().partition(moves);
        let all = plan.incremental && merged.iter().all(|call| call.aggregate.is_small());
        Calls { merged, moving, order, all }
    }
}

impl Sliding {
    /// Windows of `length` ms before a row and `delay` ms after it.
    pub fn new(length: i64, delay: i64, alarm: Alarm, plan: &Stateful) -> Self {
        let calls = Calls::of(plan);
        let held = match calls.all {
            true => Held::Groups(SlidingGroups::default()),
            false => Held::Rows(VecDeque::new()),
        };
        let together = delay == 0 && plan.event_time.is_some_and(|watermark| watermark.holds_back);
        Sliding { length, delay, calls, held, together, waiting: VecDeque::new(), alarm }
    }

    /// Adds the state to a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        to.put(&(&self.held, &self.waiting))
    }

    /// Restores the state of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]; the value must not be used then.
    pub fn restore(&mut self, from: &mut CheckpointReader<'_>) -> Result<(), CheckpointError> {
        let held: Held;
        (held, self.waiting) = from.take()?;
        if std::mem::discriminant(&held) != std::mem::discriminant(&self.held) {
            return Err(CheckpointError::Damaged("a part of it belongs to another plan"));
        }
        self.held = held;
        self.waiting.iter().for_each(|time| self.alarm.at(time.saturating_add(self.delay)));
        Ok(())
    }

    /// Drops the oldest quarter of the groups or rows; returns how many.
    pub fn evict(&mut self) -> usize {
        self.held.evict()
    }

    /// Adds a row. Without a delay its window is closed at once, or, if the watermark can stay behind the newest row,
    /// together with those of the other rows with the same time: each contains all of these.
    ///
    /// # Errors
    /// The row is dropped; its window exists.
    pub fn row(
        &mut self,
        plan: &Stateful,
        arrival: &mut Arrival<'_>,
        closed: &mut ClosedWindows,
    ) -> Result<(), EvalError> {
        let time = arrival.time;
        let fires = match &plan.window {
            WindowSpec::Sliding { when: Some(when), .. } => {
                let scope = Scope { slots: arrival.row, context: arrival.context };
                matches!(when.eval(&scope).as_deref(), Ok(Value::Bool(true)))
            }
            _ => true,
        };
        // Only rows within the window can conflict with a row.
        if self.waiting.is_empty() {
            self.held.drop_before(time.saturating_sub(self.length));
        }
        let added = self.held.add(plan, &self.calls, arrival);
        if self.delay > 0 || self.together {
            if fires {
                self.waiting.push_back(time);
                self.alarm.at(time.saturating_add(self.delay));
            }
        } else if fires {
            self.fire(time, closed);
        }
        added
    }

    /// The frontier that the arrival of a row with `time` implies: windows that wait for rows with the same time do not
    /// end with the first of them.
    pub fn before(&self, time: i64) -> i64 {
        if self.together { time.saturating_sub(1) } else { time }
    }

    /// Adds the next window whose delay has ended at `frontier` to `closed`.
    pub fn advance(&mut self, frontier: Option<i64>, closed: &mut ClosedWindows) {
        while closed.is_empty()
            && let Some(&time) = self.waiting.front()
            && frontier.is_none_or(|frontier| time.saturating_add(self.delay) <= frontier)
        {
            self.waiting.pop_front();
            self.fire(time, closed);
        }
    }

    /// The number of windows that wait for their delay.
    pub fn open(&self) -> u64 {
        self.waiting.len() as u64
    }

    fn fire(&mut self, time: i64, closed: &mut ClosedWindows) {
        let start = time.saturating_sub(self.length);
        self.held.drop_before(start);
        let end = time.saturating_add(self.delay);
        let window = match &self.held {
            Held::Rows(rows) => {
                let mut all = Content::default();
                rows.iter().for_each(|(_, content)| all.append(content));
                Closed::new(start, end, all)
            }
            Held::Groups(groups) => Closed { start, end, groups: groups.merged(&self.calls), rows: Vec::new() },
        };
        if !window.is_empty() {
            closed.push_back(window);
        }
    }
}

impl Held {
    fn add(&mut self, plan: &Stateful, calls: &Calls, arrival: &mut Arrival<'_>) -> Result<(), EvalError> {
        match self {
            Held::Rows(rows) => {
                let mut content = Content::default();
                content.add(plan, arrival)?;
                if !content.is_empty() {
                    rows.push_back((arrival.time, content));
                }
                Ok(())
            }
            Held::Groups(groups) => groups.add(plan, calls, arrival),
        }
    }

    fn drop_before(&mut self, start: i64) {
        match self {
            Held::Rows(rows) => {
                while rows.front().is_some_and(|(time, _)| *time < start) {
                    rows.pop_front();
                }
            }
            Held::Groups(groups) => groups.drop_before(start),
        }
    }

    fn evict(&mut self) -> usize {
        match self {
            Held::Rows(rows) => {
                let oldest = quarter(rows.len());
                rows.drain(..oldest);
                oldest
            }
            Held::Groups(SlidingGroups { groups, rows }) => {
                let oldest = quarter(groups.len());
                groups.drain(..oldest);
                rows.retain(|(_, key)| groups.contains_key(key));
                oldest
            }
        }
    }
}

impl SlidingGroups {
    fn add(&mut self, plan: &Stateful, calls: &Calls, arrival: &mut Arrival<'_>) -> Result<(), EvalError> {
        if !arrival.passes {
            return Ok(());
        }
        let scope = Scope { slots: arrival.row, context: arrival.context };
        let key = &mut *arrival.key;
        group_key(plan, &scope, key)?;
        match self.groups.get_mut(key.parts()) {
            Some(group) => group.push(plan, calls, &scope)?,
            None => {
                let mut group = SlidingGroup::default();
                group.push(plan, calls, &scope)?;
                self.groups.insert(key.clone(), group);
            }
        }
        self.rows.push_back((arrival.time, key.clone()));
        Ok(())
    }

    fn drop_before(&mut self, start: i64) {
        while self.rows.front().is_some_and(|(time, _)| *time < start) {
            let Some((_, key)) = self.rows.pop_front() else { break };
            if let Some(group) = self.groups.get_mut(&key) {
                group.pop();
                if group.is_empty() {
                    self.groups.swap_remove(&key);
                }
            }
        }
    }

    /// The current groups, each with its oldest row.
    fn merged(&self, calls: &Calls) -> GroupRows {
        let mut merged = GroupRows::default();
        self.groups.values().for_each(|group| group.merge_into(calls, &mut merged));
        merged
    }
}

impl SlidingGroup {
    /// Adds a row.
    ///
    /// # Errors
    /// An argument of an aggregate cannot be used, or the row cannot be combined with the existing ones, such as
    /// text with numbers in `min`: it is not added.
    fn push(&mut self, plan: &Stateful, calls: &Calls, scope: &Scope<'_>) -> Result<(), EvalError> {
        if self.moving.len() < calls.moving.len() {
            self.moving = calls.moving.iter().filter_map(|call| Moving::new(call.aggregate, call.integral)).collect();
        }
        let mut arguments: SmallVec<[Cow<'_, Value>; 4]> = SmallVec::new();
        for (call, moving) in calls.moving.iter().zip(&self.moving) {
            let argument = call.arg.as_ref().map_or(Ok(Cow::Owned(Value::Null)), |arg| arg.eval(scope))?;
            moving.check(&argument)?;
            arguments.push(argument);
        }
        let at = self.back.len();
        begin(&mut self.back, &calls.merged);
        let (before, row) = self.back.split_at_mut(at);
        let front: &[Accumulator] = if self.rows.0 > 0 { last(&self.front, row.len()) } else { &[] };
        let merged: &[Accumulator] = if before.is_empty() { &[] } else { &self.back_merged[..] };
        let added = add_all(row, &calls.merged, scope);
        if let Err(error) = added.and_then(|()| agree(front, row)).and_then(|()| agree(merged, row)) {
            self.back.truncate(at);
            return Err(error);
        }
        if at == 0 {
            self.back_merged.clear();
            self.back_merged.extend_from_slice(row);
        } else {
            merge(&mut self.back_merged, row);
        }
        for (moving, argument) in self.moving.iter_mut().zip(&arguments) {
            moving.add(argument);
        }
        self.arguments.extend(arguments.into_iter().map(Cow::into_owned));
        self.first.extend(plan.kept_slots.iter().map(|&slot| scope.slots[slot].clone()));
        self.rows.1 += 1;
        Ok(())
    }

    /// Removes the oldest row.
    fn pop(&mut self) {
        let (kept, arguments) = (self.kept(), self.moving.len().min(self.arguments.len()));
        if self.rows.0 == 0 {
            self.turn();
        }
        let calls = self.front.len().checked_div(self.rows.0).unwrap_or(0);
        self.front.truncate(self.front.len() - calls);
        self.first.drain(..kept);
        for (moving, argument) in self.moving.iter_mut().zip(self.arguments.drain(..arguments)) {
            moving.remove(&argument);
        }
        self.rows.0 = self.rows.0.saturating_sub(1);
    }

    /// Moves the rows at the back to the front.
    fn turn(&mut self) {
        let calls = self.back.len().checked_div(self.rows.1).unwrap_or(0);
        for row in (0..self.rows.1).rev() {
            let at = self.front.len();
            self.front.extend(self.back.drain(row * calls..));
            let (after, row) = self.front.split_at_mut(at);
            merge(row, last(after, calls));
        }
        self.rows = (self.rows.1, 0);
        self.back_merged.clear();
    }

    fn is_empty(&self) -> bool {
        self.rows == (0, 0)
    }

    /// The number of slots that are kept of each row.
    fn kept(&self) -> usize {
        self.first.len().checked_div(self.rows.0 + self.rows.1).unwrap_or(0)
    }

    fn merge_into(&self, calls: &Calls, groups: &mut GroupRows) {
        let (before, later) = match self.rows {
            (0, _) => (&self.back_merged[..], &[][..]),
            (rows, _) => (last(&self.front, self.front.len() / rows), &self.back_merged[..]),
        };
        let mut merged = before.iter().enumerate().map(|(call, before)| {
            let mut merged = before.clone();
            // An error stays in the accumulator and is reported with its result.
            let _ = later.get(call).map(|later| merged.merge(later));
            merged
        });
        let mut moving = self.moving.iter().map(Moving::accumulated);
        let next = |&moves: &bool| if moves { moving.next() } else { merged.next() };
        groups.push(self.first.iter().take(self.kept()), calls.order.iter().filter_map(next));
    }
}

/// The accumulators of the last row, if each row has this many; empty if there is no row.
fn last(rows: &[Accumulator], calls: usize) -> &[Accumulator] {
    &rows[rows.len().saturating_sub(calls)..]
}
