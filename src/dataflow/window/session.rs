//! Windows between pauses (SESSIONWINDOW): rows without a gap longer than the timeout. A session is cut at the first
//! tick at which it has the greatest length. Ticks come at intervals of the greatest length, aligned to the clock.

use jiff::tz::TimeZone;

use crate::dataflow::state::checkpoint::{CheckpointError, CheckpointReader, StateParts};
use crate::dataflow::timers::Alarm;
use crate::expr::EvalError;
use crate::plan::physical::Stateful;
use crate::time::Alignment;
use crate::time::Unit;

use super::content::{Arrival, Closed, ClosedWindows, Content};

/// The open session.
pub struct Session {
    ticks: Alignment,
    timeout: i64,
    content: Content,
    /// the latest time at which the session is cut
    cut: i64,
    alarm: Alarm,
    /// when the alarm rings next; only one alarm at a time, so that alarms do not grow with the rows
    rings: Option<i64>,
}

impl Session {
    /// Sessions that end after `timeout` ms without rows, and are cut at ticks every `max` units.
    pub fn new(unit: Unit, max: u64, timeout: i64, zone: &TimeZone, alarm: Alarm) -> Self {
        let ticks = Alignment::new(unit, max, zone.clone());
        Session { ticks, timeout, content: Content::default(), cut: i64::MAX, alarm, rings: None }
    }

    /// Adds the state to a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        to.put(&(&self.content, self.cut))
    }

    /// Restores the state of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]; the value must not be used then.
    pub fn restore(&mut self, from: &mut CheckpointReader<'_>) -> Result<(), CheckpointError> {
        (self.content, self.cut) = from.take()?;
        self.ring();
        Ok(())
    }

    /// The number of open sessions, at most one.
    pub fn open(&self) -> u64 {
        u64::from(self.content.span.is_some())
    }

    /// Drops the oldest quarter of the groups or rows; returns how many.
    pub fn evict(&mut self) -> usize {
        self.content.evict()
    }

    /// Adds a row. Rows come in order of time, and a session that is over before the row has been removed.
    ///
    /// # Errors
    /// The row is lost, but keeps the session open.
    pub fn row(&mut self, plan: &Stateful, arrival: &mut Arrival<'_>) -> Result<(), EvalError> {
        let time = arrival.time;
        if self.content.span.is_none() {
            // The first tick at least one length after the first row.
            let (start, end) = self.ticks.bounds(time);
            self.cut = if start == time { end } else { self.ticks.bounds(end).1 };
        }
        let added = self.content.add(plan, arrival);
        if self.rings.is_none() {
            self.ring();
        }
        added
    }

    /// Adds the session to `closed` if it is over at `frontier`.
    pub fn advance(&mut self, frontier: Option<i64>, closed: &mut ClosedWindows) {
        self.close(frontier, closed);
        if self.rings.is_some_and(|at| frontier.is_none_or(|frontier| at <= frontier)) {
            self.rings = None;
            self.ring();
        }
    }

    /// Asks to be woken when the session is over, if no more rows come.
    fn ring(&mut self) {
        if let Some((_, last)) = self.content.span {
            let at = last.saturating_add(self.timeout).saturating_add(1).min(self.cut);
            self.alarm.at(at);
            self.rings = Some(at);
        }
    }

    fn close(&mut self, frontier: Option<i64>, closed: &mut ClosedWindows) {
        let Some((start, last)) = self.content.span else { return };
        let pause = last.saturating_add(self.timeout);
        let end = match frontier {
            None => pause.min(self.cut),
            Some(frontier) if frontier > pause => pause.min(self.cut),
            Some(frontier) if frontier >= self.cut => self.cut,
            Some(_) => return,
        };
        let content = std::mem::take(&mut self.content);
        if !content.is_empty() {
            closed.push_back(Closed::new(start, end, content));
        }
    }
}
