//! Windows on a thread that does not have the rule's state: rows are accumulated by slice and group until they are sent
//! to the thread with the state. Only that thread decides when a window ends.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use crate::expr::{EvalError, Scope};
use crate::plan::physical::{Stateful, WindowSpec};
use crate::time::Alignment;
use crate::value::key::GroupKey;

use super::content::{Partial, accumulate, merges_ahead};
use super::groups::Groups;
use super::slices::slices_of;

/// The rows of a rule since they were last taken.
pub struct Partials {
    /// `None` in processing time: all rows belong to the slice that is open when they arrive.
    slices: Option<Alignment>,
    /// whether groups have a bounded size
    small: bool,
    /// by the start of their slices
    open: BTreeMap<i64, Partial>,
    /// partials of open slices whose rows cannot be merged with later ones, by the start of their slices
    apart: BTreeMap<i64, Vec<Partial>>,
    /// the slice of the last row, because the next one usually falls into the same
    last: (i64, i64),
    rows: usize,
    groups: usize,
    /// the most groups of one partial when they were last taken
    most_before: usize,
    key: GroupKey,
}

impl Partials {
    /// For the windows of a plan, in this time zone.
    pub fn new(plan: &Stateful, zone: &TimeZone) -> Partials {
        let slices = slices_ahead(plan, zone);
        Partials {
            // In processing time every time is inside it.
            last: if slices.is_some() { (0, 0) } else { (i64::MIN, i64::MAX) },
            slices,
            small: merges_ahead(plan),
            open: BTreeMap::new(),
            apart: BTreeMap::new(),
            rows: 0,
            groups: 0,
            most_before: 0,
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
        let partial = self.open.entry(start).or_insert_with(|| begin(time, end, self.most_before));
        let added = match accumulate(&mut partial.groups, plan, scope, &mut self.key) {
            // It may only be incompatible with the rows before it. Home decides which of them count.
            Err(_) if !partial.groups.is_empty() => {
                let mut alone = begin(time, end, 1);
                let added = accumulate(&mut alone.groups, plan, scope, &mut self.key);
                if added.is_ok() {
                    self.apart.entry(start).or_default().push(std::mem::replace(partial, alone));
                }
                added
            }
            added => added,
        };
        partial.seen += 1;
        partial.times = (partial.times.0.min(time), partial.times.1.max(time));
        let group = added?;
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

    /// The number of rows in groups.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The number of groups.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// The weight of everything, in rows.
    pub fn weight(&self) -> usize {
        if self.small { self.groups } else { self.rows }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The end of the first slice that has rows.
    pub fn first_end(&self) -> Option<i64> {
        self.open.first_key_value().map(|(_, partial)| partial.end)
    }

    /// Takes everything, the slices in order, and the partials of each: where values of several types meet, home keeps
    /// those that come first.
    pub fn take(&mut self) -> impl Iterator<Item = Partial> {
        (self.rows, self.groups, self.most_before) = (0, 0, 0);
        let Partials { small, open, apart, most_before, .. } = self;
        let slices = std::mem::take(open).into_iter();
        let all = slices.flat_map(|(start, last)| apart.remove(&start).unwrap_or_default().into_iter().chain([last]));
        all.map(|partial| {
            *most_before = partial.groups.len().max(*most_before);
            let weight = if *small { partial.groups.len() } else { partial.len() as usize };
            Partial { weight: weight.max(1), ..partial }
        })
    }
}

/// The slices by which rows of a plan that [merges](Stateful::merges) are accumulated; `None` in processing time.
pub fn slices_ahead(plan: &Stateful, zone: &TimeZone) -> Option<Alignment> {
    match &plan.window {
        WindowSpec::Hopping { unit, length, hop } if plan.event_time.is_some() => {
            Some(slices_of(*unit, *length, *hop, zone))
        }
        _ => None,
    }
}

/// A partial with room for this many groups, in the slice that ends at `end`; its first row has this time.
fn begin(time: i64, end: i64, room: usize) -> Partial {
    Partial { times: (time, time), end, groups: Groups::with_room(room), ..Partial::default() }
}
