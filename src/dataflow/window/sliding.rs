//! Windows around rows (SLIDINGWINDOW): for each row, the rows up to a length before it, itself included, and up to a
//! delay after it.
//!
//! Rows arrive in order of time. If groups have small accumulators, each group keeps its rows' accumulators in two
//! stacks (see `slices`), so that the cost of a window does not depend on its number of rows; otherwise the rows are
//! kept.

use std::collections::VecDeque;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::dataflow::row::KeyHasher;
use crate::dataflow::state::checkpoint::{CheckpointError, CheckpointReader, StateParts};
use crate::dataflow::state::quarter;
use crate::dataflow::timers::Alarm;
use crate::expr::aggregate::Accumulator;
use crate::expr::{EvalError, Scope};
use crate::plan::physical::{Stateful, WindowSpec};
use crate::value::Value;
use crate::value::key::GroupKey;

use super::content::{Arrival, Closed, ClosedWindows, Content, Group, agree, group_key, merges_ahead, new_group};

/// Rows that later windows may contain.
pub struct Sliding {
    length: i64,
    delay: i64,
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

/// The rows of one group in two stacks.
#[derive(Default, Serialize, Deserialize)]
struct SlidingGroup {
    /// oldest last: the accumulators of each row merged with all later ones up to the newest of these
    front: Vec<Group>,
    /// later ones, oldest first, unmerged
    back: Vec<Group>,
    /// all of `back` merged
    back_merged: Vec<Accumulator>,
}

impl Sliding {
    /// Windows of `length` ms before a row and `delay` ms after it.
    pub fn new(length: i64, delay: i64, alarm: Alarm, plan: &Stateful) -> Self {
        let held =
            if merges_ahead(plan) { Held::Groups(SlidingGroups::default()) } else { Held::Rows(VecDeque::new()) };
        let together = delay == 0 && plan.event_time.is_some_and(|watermark| watermark.holds_back);
        Sliding { length, delay, held, together, waiting: VecDeque::new(), alarm }
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
            return Err(CheckpointError::Damaged("a part of it is of another plan"));
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
        let added = self.held.add(plan, arrival);
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

    /// How many windows wait for their delay.
    pub fn open(&self) -> u64 {
        self.waiting.len() as u64
    }

    fn fire(&mut self, time: i64, closed: &mut ClosedWindows) {
        let start = time.saturating_sub(self.length);
        self.held.drop_before(start);
        let content = self.held.content();
        if !content.is_empty() {
            closed.push_back(Closed { start, end: time.saturating_add(self.delay), content });
        }
    }
}

impl Held {
    fn add(&mut self, plan: &Stateful, arrival: &mut Arrival<'_>) -> Result<(), EvalError> {
        match self {
            Held::Rows(rows) => {
                let mut content = Content::default();
                content.add(plan, arrival)?;
                if !content.is_empty() {
                    rows.push_back((arrival.time, content));
                }
                Ok(())
            }
            Held::Groups(groups) => groups.add(plan, arrival),
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

    /// Everything that is held.
    fn content(&self) -> Content {
        match self {
            Held::Rows(rows) => {
                let mut all = Content::default();
                rows.iter().for_each(|(_, content)| all.append(content));
                all
            }
            Held::Groups(groups) => groups.content(),
        }
    }
}

impl SlidingGroups {
    fn add(&mut self, plan: &Stateful, arrival: &mut Arrival<'_>) -> Result<(), EvalError> {
        if !arrival.passes {
            return Ok(());
        }
        let scope = Scope { slots: arrival.row, context: arrival.context };
        let key = &mut *arrival.key;
        group_key(plan, &scope, key)?;
        let row = new_group(plan, &scope)?;
        match self.groups.get_mut(key.parts()) {
            Some(group) => group.push(row)?,
            None => self.groups.entry(key.clone()).or_default().push(row)?,
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

    fn content(&self) -> Content {
        let mut content = Content::default();
        for (key, group) in &self.groups {
            content.groups.insert(key.clone(), group.merged());
        }
        content
    }
}

impl SlidingGroup {
    /// Adds a row.
    ///
    /// # Errors
    /// The row cannot be combined with the existing ones, such as text with numbers in `min`: it is not added.
    fn push(&mut self, row: Group) -> Result<(), EvalError> {
        if let Some(front) = self.front.last() {
            agree(&front.accumulators, &row.accumulators)?;
        }
        if self.back.is_empty() {
            self.back_merged = row.accumulators.clone();
        } else {
            agree(&self.back_merged, &row.accumulators)?;
            for (merged, new) in self.back_merged.iter_mut().zip(&row.accumulators) {
                merged.merge(new)?;
            }
        }
        self.back.push(row);
        Ok(())
    }

    /// Removes the oldest row.
    fn pop(&mut self) {
        if self.front.is_empty() {
            while let Some(mut row) = self.back.pop() {
                if let Some(after) = self.front.last() {
                    row.append(&after.accumulators);
                }
                self.front.push(row);
            }
            self.back_merged = Vec::new();
        }
        self.front.pop();
    }

    fn is_empty(&self) -> bool {
        self.front.is_empty() && self.back.is_empty()
    }

    fn merged(&self) -> Group {
        match (self.front.last(), self.back.first()) {
            (Some(front), None) => front.clone(),
            (Some(front), Some(_)) => {
                let mut merged = front.clone();
                merged.append(&self.back_merged);
                merged
            }
            (None, Some(first)) => Group { first: first.first.clone(), accumulators: self.back_merged.clone() },
            (None, None) => Group::default(),
        }
    }
}
