//! Rules without windows in event time: rows wait until the watermark reaches their time and go on in its order.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::expr::Scope;
use crate::plan::physical::Projection;
use crate::value::Value;

use super::output::{Output, RuleContext};
use super::queue::RowBatch;

/// The state of the operator: rows that the watermark has not reached.
pub struct OrderOperator {
    projection: Projection,
    context: Rc<RuleContext>,
    output: Rc<RefCell<Output>>,
    /// by time, then by arrival
    waiting: BTreeMap<(i64, u64), Vec<Value>>,
    arrivals: u64,
}

impl OrderOperator {
    /// An operator without rows.
    pub fn new(projection: Projection, context: Rc<RuleContext>, output: Rc<RefCell<Output>>) -> Self {
        OrderOperator { projection, context, output, waiting: BTreeMap::new(), arrivals: 0 }
    }

    /// Takes rows in.
    pub fn rows(&mut self, batch: &RowBatch) {
        for (time, row) in batch.rows() {
            self.waiting.insert((time, self.arrivals), row.to_vec());
            self.arrivals += 1;
        }
    }

    /// Sends the rows up to `frontier`, inclusive; `None`: all.
    pub fn advance(&mut self, frontier: Option<i64>) {
        let mut output = self.output.borrow_mut();
        while let Some(first) = self.waiting.first_entry() {
            let (time, _) = *first.key();
            if frontier.is_some_and(|frontier| time > frontier) {
                break;
            }
            let slots = first.remove();
            let context = self.context.row(time, time);
            match output.row(&self.projection, &Scope { slots: &slots, context: &context }, &|_| None) {
                Ok(()) => output.end_message(),
                Err(error) => output.error(error),
            }
        }
        output.flush();
    }
}
