//! Accumulates the rows of a rule on a thread that does not have its state, so that groups travel instead of rows.
//!
//! Where nearly each row is a group of its own, this would only be work done twice. What came last shows it: then rows
//! travel as they are for a while.

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

/// So many groups at most wait; where groups grow with their rows, so many rows.
const MOST: usize = 4 * 1024;

/// How many times rows are sent as they are before groups are tried again: so many at first, twice as many each time, up
/// to the second number.
const AS_ROWS: (u32, u32) = (4, 256);

/// See the module.
pub struct Combiner {
    plan: Stateful,
    context: Rc<RuleContext>,
    /// Where errors go.
    output: Rc<RefCell<Output>>,
    partials: Partials,
    /// Since when something waits, ms since the epoch.
    since: Option<i64>,
    /// How many times rows still go as they are.
    as_rows: u32,
    /// How many times they went so when groups were tried last.
    patience: u32,
}

impl Combiner {
    /// For the rows of a rule with this plan, which must be one that [merges](Stateful::merges).
    pub fn new(plan: Stateful, context: Rc<RuleContext>, output: Rc<RefCell<Output>>) -> Combiner {
        let partials = Partials::new(&plan, &context.zone);
        Combiner { plan, context, output, partials, since: None, as_rows: 0, patience: 0 }
    }

    /// Whether rows are accumulated now; otherwise they go as they are.
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

    /// Whether nothing has come.
    pub fn is_empty(&self) -> bool {
        self.partials.is_empty()
    }

    /// Whether what is there may wait for more rows at `now`, where event time has come to `reached`.
    pub fn may_wait(&mut self, now: i64, reached: i64) -> bool {
        let since = *self.since.get_or_insert(now);
        self.accumulates()
            && self.partials.weight() < MOST
            && self.partials.first_end().is_none_or(|end| end > reached)
            && now.abs_diff(since) < LONGEST
    }

    /// Puts what is there into `rows`, and chooses how the next rows go.
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
