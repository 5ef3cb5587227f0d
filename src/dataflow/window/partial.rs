//! Windows on a thread that does not have them: rows are accumulated by slice and group, until they are sent to the thread
//! that does. When a window ends is decided there alone.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use crate::expr::{EvalError, Scope};
use crate::plan::physical::{Stateful, WindowSpec};
use crate::time::Alignment;
use crate::value::key::GroupKey;

use super::content::{Groups, Partial, accumulate, merges_ahead};
use super::slices::slices_of;

/// The rows of a rule since they were last taken.
pub struct Partials {
    /// `None` by the clock: all rows are of the slice that is open when they arrive.
    slices: Option<Alignment>,
    /// whether groups have a bounded size
    small: bool,
    /// by the start of their slices
    open: BTreeMap<i64, Partial>,
    /// the slice of the last row: mostly the next one is of it, too
    last: (i64, i64),
    rows: usize,
    groups: usize,
    /// how many groups there were when they were last taken
    groups_before: usize,
    key: GroupKey,
}

impl Partials {
    /// For the windows of a plan, in this time zone.
    pub fn new(plan: &Stateful, zone: &TimeZone) -> Partials {
        let slices = match &plan.window {
            WindowSpec::Hopping { unit, length, hop } if plan.event_time.is_some() => {
                Some(slices_of(*unit, *length, *hop, zone))
            }
            _ => None,
        };
        Partials {
            // By the clock no time is outside of it.
            last: if slices.is_some() { (0, 0) } else { (i64::MIN, i64::MAX) },
            slices,
            small: merges_ahead(plan),
            open: BTreeMap::new(),
            rows: 0,
            groups: 0,
            groups_before: 0,
            key: GroupKey::default(),
        }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The row is lost.
    pub fn row(&mut self, plan: &Stateful, time: i64, scope: &Scope<'_>) -> Result<(), EvalError> {
        if (time < self.last.0 || time >= self.last.1)
            && let Some(slices) = &self.slices
        {
            self.last = slices.bounds(time);
        }
        let (start, end) = self.last;
        let partial = self.open.entry(start).or_insert_with(|| Partial {
            times: (time, time),
            end,
            groups: Groups::with_capacity_and_hasher(self.groups_before, Default::default()),
            ..Partial::default()
        });
        partial.seen += 1;
        partial.times = (partial.times.0.min(time), partial.times.1.max(time));
        let group = accumulate(&mut partial.groups, plan, scope, &mut self.key)?;
        match partial.rows.get_mut(group) {
            Some(rows) => *rows += 1,
            None => {
                partial.rows.push(1);
                self.groups += 1;
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// How many rows are in groups.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// What it takes to keep them, in rows.
    pub fn weight(&self) -> usize {
        if self.small { self.groups } else { self.rows }
    }

    /// Whether nothing has come.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Where the first slice ends that has rows.
    pub fn first_end(&self) -> Option<i64> {
        self.open.first_key_value().map(|(_, partial)| partial.end)
    }

    /// Takes what is there, in the order of the slices.
    pub fn take(&mut self) -> impl Iterator<Item = Partial> {
        self.groups_before = std::mem::take(&mut self.groups);
        self.rows = 0;
        let small = self.small;
        std::mem::take(&mut self.open).into_values().map(move |partial| {
            let weight = if small { partial.groups.len() } else { partial.len() as usize };
            Partial { weight: weight.max(1), ..partial }
        })
    }
}
