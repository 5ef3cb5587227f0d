//! What the rows and windows of one rule are evaluated with.

use std::cell::Cell;

use crate::expr::function::{CallContext, Hits};

/// The part of a rule's context that all its rows share.
#[derive(Clone, Debug)]
pub struct RuleContext {
    /// the rule's id
    pub id: String,
    /// when it started, ms since the epoch
    pub started: i64,
    /// the configured time zone
    pub zone: jiff::tz::TimeZone,
    /// how much the rule has sent so far
    pub hits: Cell<Hits>,
    /// how long delay() has asked the rule to pause, ms, until its operator sees it
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
