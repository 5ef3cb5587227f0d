//! Windows of one length that start at equal distances: adjacent (TUMBLINGWINDOW) or overlapping (HOPPINGWINDOW).
//!
//! A row goes into its slice, whose length divides both the windows' length and their distance; a window consists of
//! slices. Rows may come in any order as long as none is behind the frontier.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;

use crate::dataflow::state::checkpoint::{CheckpointError, CheckpointReader, StateParts};
use crate::dataflow::timers::Alarm;
use crate::expr::EvalError;
use crate::plan::physical::Stateful;
use crate::time::Alignment;
use crate::time::Unit;

use super::content::{Arrival, Closed, ClosedWindows, Content, Partial, compares, merges_ahead};
use super::slices::{Slices, slices_of};

/// Open windows.
pub struct Hopping {
    /// the bounds at which windows end
    hops: Alignment,
    slices: Alignment,
    length: u64,
    tumbling: bool,
    /// the length in ms, if no change of the zone's offset is in it
    span: i64,
    /// whether slices must agree, see [`compares`]
    compares: bool,
    /// slices that can still get rows, by start, with their ends
    open: BTreeMap<i64, (i64, Content)>,
    closed: Slices,
    /// the slice of the last row, because the next one usually falls into the same
    last: (i64, i64),
    /// the end of the first window that contains this slice
    last_window_end: i64,
    /// its start, where slices must agree
    last_window_start: i64,
    /// the end of the next window with rows
    next_end: Option<i64>,
    /// the number of groups in the slice that ended last
    groups: usize,
    alarm: Alarm,
}

impl Hopping {
    /// Windows of `length` units that begin every `hop` units.
    pub fn new(unit: Unit, length: u64, hop: u64, zone: &TimeZone, alarm: Alarm, plan: &Stateful) -> Self {
        Hopping {
            hops: Alignment::new(unit, hop, zone.clone()),
            slices: slices_of(unit, length, hop, zone),
            length,
            tumbling: length == hop,
            span: i64::try_from(length.saturating_mul(unit.millis())).unwrap_or(i64::MAX),
            compares: compares(plan) && length != hop,
            open: BTreeMap::new(),
            closed: Slices::new(merges_ahead(plan)),
            last: (0, 0),
            last_window_end: 0,
            last_window_start: 0,
            next_end: None,
            groups: 0,
            alarm,
        }
    }

    /// Adds the state to a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        to.put(&(&self.open, self.next_end))?;
        self.closed.save(to)
    }

    /// Restores the state of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]; the value must not be used then.
    pub fn restore(&mut self, from: &mut CheckpointReader<'_>) -> Result<(), CheckpointError> {
        let next_end: Option<i64>;
        (self.open, next_end) = from.take()?;
        self.closed.restore(from)?;
        // Also requests the alarm: a window that has ended in the meantime is closed at once.
        next_end.into_iter().for_each(|end| self.expect(end));
        Ok(())
    }

    /// Drops the oldest quarter of the groups or rows; returns how many.
    pub fn evict(&mut self) -> usize {
        let open = self.open.values_mut().map(|(_, content)| content.evict()).sum::<usize>();
        open + self.closed.evict()
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The row is lost.
    pub fn row(&mut self, plan: &Stateful, arrival: &mut Arrival<'_>) -> Result<(), EvalError> {
        // A row that does not pass has no effect here.
        if !arrival.passes {
            return Ok(());
        }
        let added = if self.compares {
            let mut content = self.take(arrival.time);
            let added = content.add_beside(plan, arrival, self.others());
            self.put(content);
            added
        } else {
            self.slice(arrival.time).add(plan, arrival)
        };
        self.expect(self.last_window_end);
        added
    }

    /// Merges rows of one slice that another thread has accumulated. Groups that cannot be merged are lost: `lose` gets
    /// the error, and the number of their rows.
    pub fn merge(&mut self, partial: Partial, lose: &mut dyn FnMut(EvalError, u32)) {
        // A window that has ended elsewhere is known by its end: windows may overlap.
        let time = if partial.ended { partial.times.1 } else { partial.times.0 };
        if self.compares {
            let mut content = self.take(time);
            content.merge(partial, self.others(), lose);
            self.put(content);
        } else {
            self.slice(time).merge(partial, std::iter::empty(), lose);
        }
        self.expect(self.last_window_end);
    }

    /// Takes the slice of a time out, so that it can be changed beside the other slices of its windows. It goes back with
    /// [`Hopping::put`].
    fn take(&mut self, time: i64) -> Content {
        std::mem::take(self.slice(time))
    }

    fn put(&mut self, content: Content) {
        if let Some((_, place)) = self.open.get_mut(&self.last.0) {
            *place = content;
        }
    }

    /// The slices of the windows that contain the last row's slice, without this one if it is taken out.
    fn others(&self) -> impl Iterator<Item = &Content> + Clone {
        let start = self.last_window_start;
        let end = self.last.0.saturating_add(self.span).max(start);
        self.closed.since(start).chain(self.open.range(start..end).map(|(_, (_, content))| content))
    }

    /// The slice of a time.
    fn slice(&mut self, time: i64) -> &mut Content {
        if time < self.last.0 || time >= self.last.1 {
            self.last = self.slices.bounds(time);
            self.last_window_end = if self.tumbling { self.last.1 } else { self.hops.bounds(time).1 };
            if self.compares {
                self.last_window_start = self.start(self.last_window_end);
            }
        }
        let (start, end) = self.last;
        let (_, content) = self.open.entry(start).or_insert_with(|| (end, Content::with_room(self.groups)));
        content
    }

    /// Adds the next windows that end at or before `frontier` to `closed`.
    pub fn advance(&mut self, frontier: Option<i64>, closed: &mut ClosedWindows) {
        while closed.is_empty()
            && let Some(end) = self.next_end
            && frontier.is_none_or(|frontier| end <= frontier)
        {
            while let Some(first) = self.open.first_entry()
                && first.get().0 <= end
            {
                let start = *first.key();
                let (_, content) = first.remove();
                self.groups = content.groups.len();
                if !self.tumbling {
                    self.closed.push(start, content);
                } else if !content.is_empty() {
                    // A zone's change of offset may cut a window short; it ends where the next one begins.
                    closed.push_back(Closed::new(content.ended.unwrap_or(start), end, content));
                }
            }
            if !self.tumbling {
                let start = self.start(end);
                self.closed.drop_before(start);
                let content = self.closed.merged();
                if !content.is_empty() {
                    closed.push_back(Closed::new(start, end, content));
                }
            }
            self.next_end = None;
            let first = self.open.first_key_value().map(|(start, _)| *start);
            let next = if self.closed.is_empty() { first } else { Some(end) };
            match next.map(|at| self.hops.bounds(at).1) {
                Some(next) if next > end => self.expect(next),
                // Nothing ends after the end of time.
                Some(_) => self.closed = Slices::new(self.closed.merges_ahead()),
                None => {}
            }
        }
    }

    /// Takes the slices that end at or before `frontier`; `None`: all of them.
    pub fn take_slices(&mut self, frontier: Option<i64>) -> Vec<Partial> {
        let mut taken = Vec::new();
        while let Some(first) = self.open.first_entry()
            && frontier.is_none_or(|frontier| first.get().0 <= frontier)
        {
            let (end, content) = first.remove();
            self.groups = content.groups.len();
            taken.extend(content.into_partial(end));
        }
        taken
    }

    /// The end of the slice that a time is in.
    pub fn slice_end(&self, time: i64) -> i64 {
        self.slices.bounds(time).1
    }

    /// The number of windows with rows that have not ended.
    pub fn open(&self) -> u64 {
        let Some(first) = self.next_end else { return 0 };
        if self.tumbling {
            return self.open.len() as u64;
        }
        // From the next one to end, to the last one that contains the last slice; a change of the zone's offset by an
        // hour does not matter here.
        let last = self.open.last_key_value().map(|(start, _)| *start).or_else(|| self.closed.last());
        let (begun, ended) = self.hops.bounds(first.saturating_sub(1));
        let hop = ended.abs_diff(begun).max(1);
        let length = first.saturating_sub(self.hops.before(first, self.length));
        let further = last.unwrap_or(first).saturating_add(length).saturating_sub(first);
        // Slices are dropped when the next window ends, even if no window contains them any more.
        u64::try_from(further).map_or(0, |further| further / hop + 1)
    }

    /// The start of the window that ends at `end`: a length earlier, or at the first slice after that if a change of
    /// the zone's offset has moved the slices.
    fn start(&self, end: i64) -> i64 {
        let start = self.hops.before(end, self.length);
        let (first, next) = self.slices.bounds(start);
        if first == start { start } else { next.min(end) }
    }

    /// The next window with rows ends at `end`.
    fn expect(&mut self, end: i64) {
        if self.next_end.is_none_or(|next| end < next) {
            self.next_end = Some(end);
            self.alarm.at(end);
        }
    }
}
