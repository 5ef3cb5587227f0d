//! Makes and sends result rows: HAVING, row numbers, ORDER BY, LIMIT, the select list.

use super::error::{ResultError, reporter};
use super::{Job, Results, Stage};
use crate::dataflow::sort::{ResultRow, Sorter, number};
use crate::dataflow::window::GroupRows;
use crate::expr::Scope;
use crate::expr::function::CallContext;
use crate::metrics::Place;
use crate::plan::physical::{OrderBy, Stateful, WindowSpec};
use crate::value::Value;

impl Results {
    /// Makes the result row of a group, which is taken.
    pub(super) fn group(
        &mut self,
        job: Job<'_>,
        groups: &mut GroupRows,
        group: usize,
        found: &mut Vec<ResultRow>,
        sorter: &mut Sorter<ResultRow>,
        sent: &mut u64,
    ) {
        let Job { plan, context, .. } = job;
        self.slots.resize(plan.result_slots(), Value::Absent);
        let filled = groups.fill(group, plan, &mut self.slots).map_err(ResultError::Aggregate);
        match filled.and_then(|()| self.has(plan, context)) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return self.lose_row(error, &self.slots),
        }
        if self.strategy.straight {
            if *sent < plan.limit.unwrap_or(u64::MAX) {
                *sent += u64::from(self.project(plan, &self.slots, context));
            }
            return;
        }
        let row = std::mem::replace(&mut self.slots, vec![Value::Absent; plan.result_slots()]);
        let time = context.event_time;
        if self.strategy.sorted.is_none() {
            found.push((time, row));
            return;
        }
        // The row is moved into the sorter, so its keys are read first.
        if let Err(error) = sorter.push_row(time, row, &plan.order, context) {
            self.lose(ResultError::Order(error));
        }
    }

    /// Numbers and sorts result rows: those found, or those in the sorter.
    pub(super) fn ordered(
        &mut self,
        plan: &Stateful,
        mut found: Vec<ResultRow>,
        sorter: Sorter<ResultRow>,
        context: &CallContext<'_>,
    ) -> Stage {
        let mut lost = reporter(&self.output, Place::Order, "Order By");
        let mut sorted = sorter.finish(&plan.order, context, &mut lost);
        for (index, call) in plan.numbers.iter().enumerate() {
            number(&mut found, call, plan.first_number() + index, context, &mut lost);
        }
        if !plan.order.is_empty() && !found.is_empty() {
            found = self.sorted(found, &plan.order, self.strategy.sorted, context);
        }
        sorted.append(&mut found);
        Stage::Results(sorted.into_iter())
    }

    pub(super) fn sorted(
        &self,
        rows: Vec<ResultRow>,
        order: &[OrderBy],
        wanted: Option<usize>,
        context: &CallContext<'_>,
    ) -> Vec<ResultRow> {
        let mut lost = reporter(&self.output, Place::Order, "Order By");
        let mut sorter = Sorter::new(wanted);
        for (time, row) in rows {
            if let Err(error) = sorter.push_row(time, row, order, context) {
                lost(error);
            }
        }
        sorter.finish(order, context, &mut lost)
    }

    /// Sends a result row, or the rows that unnesting makes from it.
    pub(super) fn result(&mut self, job: Job<'_>, time: i64, row: Vec<Value>, sent: &mut u64) {
        let plan = job.plan;
        let limit = plan.limit.unwrap_or(u64::MAX);
        self.slots = row;
        let mut context = job.context.clone();
        if !plan.grouped {
            context.event_time = time;
        }
        if let Err(error) = self.memories.run(&plan.result_steps, 0, 0, &mut self.slots, &context) {
            return self.lose(ResultError::Analytic(error));
        }
        let Some(rows_of) = &plan.rows_of else {
            *sent += u64::from(self.project(plan, &self.slots, &context));
            return;
        };
        let scope = Scope { slots: &self.slots, context: &context };
        let elements = rows_of.arg.eval(&scope).map(|value| value.into_owned()).and_then(|value| {
            let elements = rows_of.function.rows(&value)?;
            Ok(elements.into_iter().map(|element| element.into_value()).collect::<Vec<_>>())
        });
        let elements = match elements {
            Ok(elements) => elements,
            Err(error) => return self.lose(ResultError::Eval(error)),
        };
        for element in elements {
            if *sent >= limit {
                break;
            }
            self.slots[plan.element()] = element;
            *sent += u64::from(self.project(plan, &self.slots, &context));
            if matches!(plan.window, WindowSpec::Each) {
                // Without a window each made row is a message.
                self.output.borrow_mut().end_message();
            }
        }
    }
}
