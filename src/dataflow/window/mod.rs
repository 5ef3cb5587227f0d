//! Windows: which rows belong together, and until when.
//!
//! Rows come in one by one, in the order that the rule needs; time comes in as a frontier, which is the watermark or
//! the clock, so both kinds of time work alike. The content of a window is a [`Content`]; a closed window is passed on
//! and forgotten. This module does not know what happens to it.

mod content;
mod count;
mod groups;
mod hopping;
mod partial;
mod session;
mod slices;
mod sliding;
mod state;

use crate::dataflow::state::checkpoint::{CheckpointError, CheckpointReader, StateParts};
use crate::expr::EvalError;
use crate::plan::physical::{Stateful, WindowSpec};

use super::timers::Alarm;

use content::Content;

pub use content::{Arrival, Closed, ClosedWindows, Partial, accumulate};
pub use groups::{GroupRows, Groups, add_all};
pub use partial::{Partials, slices_ahead};
pub use slices::gcd;

/// The open windows of a rule.
pub enum Windows {
    /// No windows: each row by itself.
    Each,
    /// Windows of one length, adjacent or overlapping.
    Hopping(hopping::Hopping),
    /// Windows around rows.
    Sliding(sliding::Sliding),
    /// Windows between gaps.
    Session(session::Session),
    /// Windows of a number of rows.
    Count(count::Count),
    /// Windows between conditions.
    State(state::State),
}

impl Windows {
    pub fn new(plan: &Stateful, zone: &jiff::tz::TimeZone, alarm: Alarm) -> Self {
        match &plan.window {
            WindowSpec::Each => Windows::Each,
            WindowSpec::Hopping { unit, length, hop } => {
                Windows::Hopping(hopping::Hopping::new(*unit, *length, *hop, zone, alarm, plan))
            }
            WindowSpec::Sliding { length, delay, .. } => {
                Windows::Sliding(sliding::Sliding::new(*length, *delay, alarm, plan))
            }
            WindowSpec::Session { unit, max, timeout } => {
                Windows::Session(session::Session::new(*unit, *max, *timeout, zone, alarm))
            }
            WindowSpec::Count { length, interval } => Windows::Count(count::Count::new(*length, *interval, plan)),
            WindowSpec::State { .. } => Windows::State(state::State::default()),
        }
    }

    /// Adds the state to a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        match self {
            Windows::Each => Ok(()),
            Windows::Hopping(windows) => windows.save(to),
            Windows::Sliding(windows) => windows.save(to),
            Windows::Session(windows) => windows.save(to),
            Windows::Count(windows) => windows.save(to),
            Windows::State(windows) => windows.save(to),
        }
    }

    /// Restores the state of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]; the value must not be used then.
    pub fn restore(&mut self, from: &mut CheckpointReader<'_>) -> Result<(), CheckpointError> {
        match self {
            Windows::Each => Ok(()),
            Windows::Hopping(windows) => windows.restore(from),
            Windows::Sliding(windows) => windows.restore(from),
            Windows::Session(windows) => windows.restore(from),
            Windows::Count(windows) => windows.restore(from),
            Windows::State(windows) => windows.restore(from),
        }
    }

    /// Adds a row, and adds the windows that the row itself closes to `closed`. Windows that are over before its time
    /// ([`Windows::before`]) must have been removed.
    ///
    /// # Errors
    /// The row cannot be added: it counts for the window, but is in no group.
    pub fn row(
        &mut self,
        plan: &Stateful,
        arrival: &mut Arrival<'_>,
        closed: &mut ClosedWindows,
    ) -> Result<(), EvalError> {
        match self {
            Windows::Each => {
                let mut content = Content::default();
                content.add(plan, arrival)?;
                closed.push_back(Closed::new(arrival.time, arrival.time, content));
                Ok(())
            }
            Windows::Hopping(windows) => windows.row(plan, arrival),
            Windows::Sliding(windows) => windows.row(plan, arrival, closed),
            Windows::Session(windows) => windows.row(plan, arrival),
            Windows::Count(windows) => windows.row(plan, arrival, closed),
            Windows::State(windows) => windows.row(plan, arrival, closed),
        }
    }

    /// Merges rows that another thread has accumulated; see [`hopping::Hopping::merge`].
    pub fn merge(&mut self, partial: Partial, lose: &mut dyn FnMut(EvalError, u32)) {
        match self {
            Windows::Hopping(windows) => windows.merge(partial, lose),
            // Rows of other windows are never accumulated elsewhere.
            Windows::Each | Windows::Sliding(_) | Windows::Session(_) | Windows::Count(_) | Windows::State(_) => {}
        }
    }

    /// Takes the slices that end at or before `frontier` (`None`: all), for the thread that makes results of them.
    pub fn take_slices(&mut self, frontier: Option<i64>) -> Vec<Partial> {
        match self {
            Windows::Hopping(windows) => windows.take_slices(frontier),
            // Other windows are not divided.
            Windows::Each | Windows::Sliding(_) | Windows::Session(_) | Windows::Count(_) | Windows::State(_) => {
                Vec::new()
            }
        }
    }

    /// The end of the slice that a time is in, if windows have slices.
    pub fn slice_end(&self, time: i64) -> Option<i64> {
        match self {
            Windows::Hopping(windows) => Some(windows.slice_end(time)),
            Windows::Each | Windows::Sliding(_) | Windows::Session(_) | Windows::Count(_) | Windows::State(_) => None,
        }
    }

    /// Whether the arrival of a row may end windows that it does not belong to, even if rows are not ordered.
    pub fn rows_end_windows(&self) -> bool {
        match self {
            Windows::Sliding(_) | Windows::Session(_) => true,
            Windows::Each | Windows::Hopping(_) | Windows::Count(_) | Windows::State(_) => false,
        }
    }

    /// The frontier implied by a row of `time`, where rows arrive in order.
    pub fn before(&self, time: i64) -> i64 {
        match self {
            Windows::Sliding(windows) => windows.before(time),
            Windows::Each | Windows::Hopping(_) | Windows::Session(_) | Windows::Count(_) | Windows::State(_) => time,
        }
    }

    /// The number of open windows with rows; `None` without windows. A sliding window is open from its row until its
    /// delay is over.
    pub fn open(&self) -> Option<u64> {
        match self {
            Windows::Each => None,
            Windows::Hopping(windows) => Some(windows.open()),
            Windows::Sliding(windows) => Some(windows.open()),
            Windows::Session(windows) => Some(windows.open()),
            Windows::Count(windows) => Some(windows.open()),
            Windows::State(windows) => Some(windows.open()),
        }
    }

    /// Drops the oldest quarter of the state; returns the number of groups and rows dropped.
    pub fn evict(&mut self) -> usize {
        match self {
            Windows::Each => 0,
            Windows::Hopping(windows) => windows.evict(),
            Windows::Sliding(windows) => windows.evict(),
            Windows::Session(windows) => windows.evict(),
            Windows::Count(windows) => windows.evict(),
            Windows::State(windows) => windows.evict(),
        }
    }

    /// Drops the rows of windows that time closes, because the clock has stepped back, and open windows were sent.
    /// Windows that rows close stay.
    pub fn restart(&mut self, plan: &Stateful, zone: &jiff::tz::TimeZone, alarm: Alarm) {
        match self {
            Windows::Hopping(_) | Windows::Sliding(_) | Windows::Session(_) => {
                *self = Windows::new(plan, zone, alarm);
            }
            Windows::Each | Windows::Count(_) | Windows::State(_) => {}
        }
    }

    /// Adds the next window that is over at `frontier` to `closed`, together with those that end at the same time;
    /// `None`: all that time closes. To be called until nothing is added: windows may be large, so they are processed
    /// one after the other.
    pub fn advance(&mut self, frontier: Option<i64>, closed: &mut ClosedWindows) {
        match self {
            Windows::Hopping(windows) => windows.advance(frontier, closed),
            Windows::Sliding(windows) => windows.advance(frontier, closed),
            Windows::Session(windows) => windows.advance(frontier, closed),
            // Rows close these windows, not time.
            Windows::Each | Windows::Count(_) | Windows::State(_) => {}
        }
    }
}
