//! Accumulates the rows of a rule on a thread that does not have its state, so that groups are sent instead of rows.
//!
//! If nearly each row is a separate group, accumulating would only double the work. The last groups show this; then
//! rows are sent as they are for a while.

use std::cell::RefCell;
use std::rc::Rc;

use crate::expr::Scope;
use crate::metrics::{Place, Point};
use crate::plan::physical::Stateful;
use crate::value::Value;

use super::batch::RowBatch;
use super::context::RuleContext;
use super::output::Output;
use super::window::Partials;

/// How long rows may wait for others, ms.
const LONGEST: u64 = 10;

/// The same in event time, for a rule whose state is not stored. The reported watermark may lag by as much.
const LONGEST_IN_EVENT_TIME: u64 = 1_000;

/// The most groups that wait; if groups grow with their rows, the most rows.
const MOST: usize = 4 * 1024;

/// How many batches are sent as rows before groups are tried again: the first number, then twice as many each time, up
/// to the second number.
const AS_ROWS: (u32, u32) = (4, 256);

pub struct Combiner {
    plan: Stateful,
    context: Rc<RuleContext>,
    /// The output that reports errors.
    output: Rc<RefCell<Output>>,
    partials: Partials,
    /// Since when anything waits, ms since the epoch.
    since: Option<i64>,
    /// How many more batches are sent as rows.
    as_rows: u32,
    /// How many batches were sent as rows the last time.
    patience: u32,
}

impl Combiner {
    /// A combiner for a rule with this plan, which must [merge](Stateful::merges).
    pub fn new(plan: Stateful, context: Rc<RuleContext>, output: Rc<RefCell<Output>>) -> Combiner {
        let partials = Partials::new(&plan, &context.zone);
        Combiner { plan, context, output, partials, since: None, as_rows: 0, patience: 0 }
    }

    /// Whether rows are accumulated at the moment; otherwise they are sent as rows.
    pub fn accumulates(&self) -> bool {
        self.as_rows == 0
    }

    /// Adds a row that has passed the scan at `now`.
    pub fn row(&mut self, now: i64, time: i64, slots: &[Value]) {
        let context = self.context.row(now, time);
        self.output.borrow().tap(Point::Filter, slots);
        if let Err(error) = self.partials.row(&self.plan, time, &Scope { slots, context: &context }) {
            let text = format_args!("run Select error: {error}");
            self.output.borrow_mut().error_of_row(Place::Aggregate, text, slots);
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.partials.is_empty()
    }

    /// Whether the groups may wait for more rows at `now`, when event time has reached `reached`.
    pub fn may_wait(&mut self, now: i64, reached: i64) -> bool {
        let since = *self.since.get_or_insert(now);
        let in_event_time = self.plan.event_time.is_some() && !self.plan.stored;
        let longest = if in_event_time { LONGEST_IN_EVENT_TIME } else { LONGEST };
        self.accumulates()
            && self.partials.weight() < MOST
            && self.partials.first_end().is_none_or(|end| end > reached)
            && now.abs_diff(since) < longest
    }

    /// Moves the groups to `rows`, and decides how the next rows are sent.
    pub fn take(&mut self, rows: &mut RowBatch) {
        self.since = None;
        if self.as_rows > 0 {
            self.as_rows -= 1;
            return;
        }
        if self.partials.groups() * 2 > self.partials.rows() {
            self.patience = (self.patience * 2).clamp(AS_ROWS.0, AS_ROWS.1);
            self.as_rows = self.patience;
        } else if !self.partials.is_empty() {
            self.patience = 0;
        }
        self.partials.take().for_each(|partial| rows.push_partial(partial));
    }
}
