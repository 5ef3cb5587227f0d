//! The context in which the expressions of a rule are evaluated.

use std::cell::Cell;

use crate::expr::function::{CallContext, Hits};

/// The part that all rows of a rule share.
#[derive(Clone, Debug)]
pub struct RuleContext {
    pub id: String,
    /// ms since the epoch.
    pub started: i64,
    pub zone: jiff::tz::TimeZone,
    /// What the rule has sent so far.
    pub hits: Cell<Hits>,
    /// The pause that `delay()` has requested, ms, until the operator sees it.
    pub pause: Cell<u64>,
}

impl RuleContext {
    /// The context of a row with this time.
    pub fn row(&self, now: i64, event_time: i64) -> CallContext<'_> {
        CallContext {
            rule: &self.id,
            rule_started: self.started,
            now,
            event_time,
            window: None,
            zone: &self.zone,
            hits: self.hits.get(),
            pause: Some(&self.pause),
        }
    }

    /// The context of a window from `start` to `end`.
    pub fn window(&self, now: i64, start: i64, end: i64) -> CallContext<'_> {
        CallContext { window: Some((start, end)), ..self.row(now, end) }
    }
}
