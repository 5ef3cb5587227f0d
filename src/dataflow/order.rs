//! Event time in order: rows wait until the watermark reaches their time and go on in its order. Rules without windows
//! do, and windows whose result depends on the order of their rows.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::expr::{Expr, Scope};
use crate::plan::physical::{Projection, WindowPlan, WindowSpec};
use crate::value::Value;

use super::output::{Output, RuleContext};
use super::queue::RowBatch;

/// Rows that the watermark has not reached.
#[derive(Default)]
pub struct InOrder {
    /// by time, then by arrival
    waiting: BTreeMap<(i64, u64), Vec<Value>>,
    arrivals: u64,
    width: usize,
}

impl InOrder {
    /// Whether a window's result depends on the order of its rows: sums and counts by key alone do not, and rows that
    /// come late are no reason to keep others waiting for them.
    pub fn matters(plan: &WindowPlan) -> bool {
        let of_key = |slot: &usize| plan.keys.iter().any(|key| matches!(key, Expr::Slot(key) if key == slot));
        !plan.grouped
            || !matches!(plan.window, WindowSpec::Tumbling { .. })
            || plan.aggregates.iter().any(|call| call.aggregate.is_ordered())
            || !plan.kept_slots.iter().all(of_key)
    }

    /// Takes rows in.
    pub fn put(&mut self, batch: &RowBatch) {
        self.width = batch.width;
        for (time, row) in batch.rows() {
            self.waiting.insert((time, self.arrivals), row.to_vec());
            self.arrivals += 1;
        }
    }

    /// The rows up to `frontier`, inclusive; `None`: all.
    pub fn take(&mut self, frontier: Option<i64>) -> RowBatch {
        let mut rows = RowBatch { width: self.width, ..RowBatch::default() };
        while let Some((time, row)) = self.next(frontier) {
            rows.times.push(time);
            rows.values.extend(row);
        }
        rows
    }

    /// The first of them, and its time.
    fn next(&mut self, frontier: Option<i64>) -> Option<(i64, Vec<Value>)> {
        let first = self.waiting.first_entry()?;
        let (time, _) = *first.key();
        frontier.is_none_or(|frontier| time <= frontier).then(|| (time, first.remove()))
    }
}

/// The state of a rule without a window.
pub struct OrderOperator {
    projection: Projection,
    context: Rc<RuleContext>,
    output: Rc<RefCell<Output>>,
    rows: InOrder,
}

impl OrderOperator {
    /// An operator without rows.
    pub fn new(projection: Projection, context: Rc<RuleContext>, output: Rc<RefCell<Output>>) -> Self {
        OrderOperator { projection, context, output, rows: InOrder::default() }
    }

    /// Takes rows in.
    pub fn rows(&mut self, batch: &RowBatch) {
        self.rows.put(batch);
    }

    /// Sends the rows up to `frontier`, inclusive; `None`: all.
    pub fn advance(&mut self, frontier: Option<i64>) {
        let mut output = self.output.borrow_mut();
        while let Some((time, slots)) = self.rows.next(frontier) {
            let context = self.context.row(time, time);
            match output.row(&self.projection, &Scope { slots: &slots, context: &context }, &|_| None) {
                Ok(()) => output.end_message(),
                Err(error) => output.error(error),
            }
        }
        output.flush();
    }
}
