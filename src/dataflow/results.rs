//! From a closed window to result rows: joins, WHERE, groups, HAVING, row numbers, ORDER BY, LIMIT, the select list.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::expr::function::CallContext;
use crate::expr::{EvalError, Scope};
use crate::metrics::Place;
use crate::plan::physical::{Input, OrderBy, Stateful, WindowSpec};
use crate::value::Value;
use crate::value::key::GroupKey;

use super::analytic::Memories;
use super::context::RuleContext;
use super::join::{Ask, Joined, ScanTable};
use super::output::Output;
use super::project::RowError;
use super::row::KeptRow;
use super::sort::{at, keys, number, sort, sorted};
use super::state::checkpoint::{CheckpointError, Reader, StateParts};
use super::window::{Arrival, Closed, Group, Groups, accumulate};

/// Makes the results of a rule.
pub struct Results {
    context: Rc<RuleContext>,
    output: Rc<RefCell<Output>>,
    /// a result row to work in
    slots: Vec<Value>,
    memories: Memories,
    /// result rows are projected as they are made: nothing needs to see all of them
    straight: bool,
}

/// Why a window's result was lost.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    /// a condition of a join
    #[error("run Join error: {0}")]
    Join(EvalError),
    /// WHERE
    #[error("run Where error: {0}")]
    Where(EvalError),
    /// HAVING
    #[error("run Having error: {0}")]
    Having(EvalError),
    /// ORDER BY
    #[error("run Order By error: {0}")]
    Order(EvalError),
    /// aggregates and the keys of groups
    #[error("run Select error: {0}")]
    Aggregate(EvalError),
    /// an analytic function over result rows
    #[error("run Select error: {0}")]
    Analytic(EvalError),
    /// anything else that is computed
    #[error("run Select error: {0}")]
    Eval(#[from] EvalError),
    /// a row that cannot be written
    #[error(transparent)]
    Row(#[from] RowError),
}

impl ResultError {
    /// The operator that it is of.
    fn place(&self) -> Place {
        match self {
            ResultError::Join(_) => Place::Join,
            ResultError::Where(_) => Place::Filter,
            ResultError::Aggregate(_) => Place::Aggregate,
            ResultError::Analytic(_) => Place::Analytic,
            ResultError::Having(_) => Place::Having,
            ResultError::Order(_) => Place::Order,
            ResultError::Eval(_) => Place::Project,
            ResultError::Row(error) => error.place(),
        }
    }
}

/// What joins need beside the window's rows.
pub struct Others<'a> {
    /// scan tables, by input
    pub tables: &'a HashMap<usize, ScanTable>,
    /// asks lookup tables
    pub ask: Ask<'a>,
}

impl Results {
    /// No results yet.
    pub fn new(plan: &Stateful, context: Rc<RuleContext>, output: Rc<RefCell<Output>>) -> Self {
        let straight =
            plan.numbers.is_empty() && plan.order.is_empty() && plan.result_steps.is_empty() && plan.rows_of.is_none();
        Results {
            context,
            output,
            slots: vec![Value::Absent; plan.result_slots()],
            memories: Memories::new(&plan.result_steps),
            straight,
        }
    }

    /// Adds the state to a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        self.memories.save(to)
    }

    /// Goes on with the state of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]; what is there is not to be used then.
    pub fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), CheckpointError> {
        self.memories.restore(from)
    }

    /// Makes the result of a window. An error loses the whole message of the window.
    pub fn window(&mut self, plan: &Stateful, inputs: &[Input], now: i64, closed: Closed, others: Others<'_>) {
        let Closed { start, end, content } = closed;
        if let Some(error) = content.failed {
            return self.output.borrow_mut().error(Place::Window, error);
        }
        let rule = self.context.clone();
        let context = rule.window(now, start, end);
        let rows = content.rows.into_iter();
        let result = self.results(plan, inputs, &context, rows, content.groups, others);
        self.finish(plan, result, end, true);
    }

    /// Makes the result of a row that is alone. Its slots may be taken.
    pub fn row(&mut self, plan: &Stateful, inputs: &[Input], arrival: &mut Arrival<'_>, others: Others<'_>) {
        match &arrival.passes {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return self.output.borrow_mut().error(Place::Filter, error),
        }
        let time = arrival.time;
        let result = if !plan.grouped && plan.joins.is_empty() && plan.aggregates.is_empty() {
            self.alone(plan, arrival)
        } else {
            let context = arrival.context;
            let mut groups = Groups::default();
            let mut rows = Vec::new();
            let added = if plan.incremental {
                accumulate(&mut groups, plan, &Scope { slots: arrival.row, context }, arrival.key)
            } else {
                rows.push(Rc::new(arrival.keep()));
                Ok(())
            };
            match added {
                Ok(()) => self.results(plan, inputs, context, rows.into_iter(), groups, others),
                Err(error) => Err(ResultError::Aggregate(error)),
            }
        };
        self.finish(plan, result, time, false);
    }

    /// A row that is a result row as it is.
    fn alone(&mut self, plan: &Stateful, arrival: &mut Arrival<'_>) -> Result<u64, ResultError> {
        for (slot, value) in self.slots.iter_mut().zip(arrival.row.iter_mut()) {
            *slot = std::mem::take(value);
        }
        let context = arrival.context;
        if !self.has(plan, context)? {
            return Ok(0);
        }
        if self.straight {
            return if plan.limit == Some(0) { Ok(0) } else { self.project(plan, context).map(|()| 1) };
        }
        let row = std::mem::take(&mut self.slots);
        let result = self.ordered(plan, vec![(context.event_time, row)], context);
        self.slots = vec![Value::Absent; plan.result_slots()];
        result
    }

    /// Ends the message, or counts the error that it is lost to.
    fn finish(&mut self, plan: &Stateful, result: Result<u64, ResultError>, time: i64, window: bool) {
        let mut output = self.output.borrow_mut();
        match result {
            Ok(rows) => {
                output.end_message();
                if plan.counts_hits && rows > 0 {
                    let mut hits = self.context.hits.get();
                    hits.rows += rows;
                    hits.row_time = time;
                    // Without a window each result is its own.
                    hits.windows += if window { 1 } else { rows };
                    hits.window_time = time;
                    self.context.hits.set(hits);
                }
            }
            Err(error) => output.error(error.place(), error),
        }
    }

    /// Makes the result rows and says how many there are.
    fn results(
        &mut self,
        plan: &Stateful,
        inputs: &[Input],
        context: &CallContext<'_>,
        rows: impl Iterator<Item = Rc<KeptRow>>,
        groups: Groups,
        others: Others<'_>,
    ) -> Result<u64, ResultError> {
        if plan.incremental {
            return self.of_groups(plan, context, groups);
        }
        if plan.joins.is_empty() {
            let mut row_slots = std::mem::take(&mut self.slots);
            let result = self.of_rows(plan, context, &mut row_slots, rows, |row, slots| {
                slots[inputs[0].slots.clone()].clone_from_slice(&row.slots);
                row.time
            });
            self.slots = row_slots;
            return result;
        }
        let mut wide = vec![Value::Absent; plan.result_slots()];
        let joined = Joined::new(inputs, &plan.joins, rows, others.tables, &mut wide, context, others.ask)
            .map_err(ResultError::Join)?;
        self.of_rows(plan, context, &mut wide, 0..joined.len(), |number, slots| joined.fill(*number, slots))
    }

    /// Result rows from the rows of a window. `fill` puts a row into slots and gives its time.
    fn of_rows<R>(
        &mut self,
        plan: &Stateful,
        context: &CallContext<'_>,
        slots: &mut Vec<Value>,
        rows: impl Iterator<Item = R>,
        fill: impl Fn(&R, &mut [Value]) -> i64,
    ) -> Result<u64, ResultError> {
        // Without GROUP BY, what aggregates make lists of sees the rows in the order of ORDER BY.
        let by_row: Vec<OrderBy> = if plan.grouped && plan.keys.is_empty() {
            plan.order.iter().filter(|key| reads_rows_only(key, plan)).cloned().collect()
        } else {
            Vec::new()
        };
        // Rows that only their groups need are not kept.
        let direct = plan.grouped && by_row.is_empty();
        // Of rows that are only ordered and cut, no more than those that are sent are copied.
        let wanted = plan.limit.and_then(|limit| usize::try_from(limit).ok()).filter(|_| only_ordered(plan));
        let mut groups = Groups::default();
        let mut key = GroupKey::default();
        let mut found = Vec::new();
        let (mut passed, mut order_keys) = (Vec::new(), Vec::new());
        let fill = |row: &R, slots: &mut [Value]| -> Result<i64, EvalError> {
            let time = fill(row, slots);
            let context = at(context, time);
            let first = plan.row_slots - plan.computed.len();
            for (index, computed) in plan.computed.iter().enumerate() {
                slots[first + index] = computed.eval(&Scope { slots, context: &context })?.into_owned();
            }
            Ok(time)
        };
        for row in rows {
            let time = fill(&row, slots)?;
            let context = at(context, time);
            if let Some(filter) = &plan.joined_filter
                && !filter.test(&Scope { slots, context: &context }).map_err(ResultError::Where)?
            {
                continue;
            }
            if direct {
                accumulate(&mut groups, plan, &Scope { slots, context: &context }, &mut key)
                    .map_err(ResultError::Aggregate)?;
            } else if wanted.is_some() {
                keys(time, slots, &plan.order, &context, &mut order_keys).map_err(ResultError::Order)?;
                passed.push(row);
            } else {
                found.push((time, slots.clone()));
            }
        }
        if wanted.is_some() {
            let places = sorted(&order_keys, &plan.order, wanted, context).map_err(ResultError::Order)?;
            for place in places {
                let time = fill(&passed[place as usize], slots)?;
                found.push((time, slots.clone()));
            }
        }
        if !direct && (plan.grouped || !plan.aggregates.is_empty()) {
            sort(&mut found, &by_row, None, context).map_err(ResultError::Order)?;
            for (time, row) in &found {
                accumulate(&mut groups, plan, &Scope { slots: row, context: &at(context, *time) }, &mut key)
                    .map_err(ResultError::Aggregate)?;
            }
        }
        if plan.grouped {
            self.slots.resize(plan.result_slots(), Value::Absent);
            return self.of_groups(plan, context, groups);
        }
        // Aggregates of HAVING are over the whole window.
        if let Some(group) = groups.values().next() {
            fill_aggregates(group, plan, slots).map_err(ResultError::Aggregate)?;
            let answers = &slots[plan.row_slots..plan.first_number()];
            found.iter_mut().for_each(|(_, row)| row[plan.row_slots..plan.first_number()].clone_from_slice(answers));
        }
        if let (Some(having), Some((_, first))) = (&plan.having, found.first())
            && !having.test(&Scope { slots: first, context }).map_err(ResultError::Having)?
        {
            return Ok(0);
        }
        self.ordered(plan, found, context)
    }

    /// Result rows from groups.
    fn of_groups(&mut self, plan: &Stateful, context: &CallContext<'_>, groups: Groups) -> Result<u64, ResultError> {
        let limit = plan.limit.unwrap_or(u64::MAX);
        let mut sent = 0;
        let mut found = Vec::new();
        for (_, mut group) in groups {
            for (&slot, value) in plan.kept_slots.iter().zip(&mut group.first) {
                self.slots[slot] = std::mem::take(value);
            }
            fill_aggregates(&group, plan, &mut self.slots).map_err(ResultError::Aggregate)?;
            if !self.has(plan, context)? {
                continue;
            }
            if !self.straight {
                let row = std::mem::replace(&mut self.slots, vec![Value::Absent; plan.result_slots()]);
                found.push((context.event_time, row));
            } else if sent < limit {
                self.project(plan, context)?;
                sent += 1;
            }
        }
        if self.straight { Ok(sent) } else { self.ordered(plan, found, context) }
    }

    /// Numbers, orders, cuts and projects result rows.
    fn ordered(
        &mut self,
        plan: &Stateful,
        mut rows: Vec<(i64, Vec<Value>)>,
        context: &CallContext<'_>,
    ) -> Result<u64, ResultError> {
        for (index, call) in plan.numbers.iter().enumerate() {
            number(&mut rows, call, plan.first_number() + index, context)?;
        }
        let limit = plan.limit.unwrap_or(u64::MAX);
        // A row may make none or several where it is unnested, so that all are needed in order.
        let wanted = usize::try_from(limit).ok().filter(|_| plan.rows_of.is_none());
        sort(&mut rows, &plan.order, wanted, context).map_err(ResultError::Order)?;
        let mut sent = 0;
        for (time, row) in rows {
            if sent >= limit {
                break;
            }
            self.slots = row;
            let mut context = context.clone();
            if !plan.grouped {
                context.event_time = time;
            }
            self.memories.run(&plan.result_steps, 0, &mut self.slots, &context).map_err(ResultError::Analytic)?;
            let Some(rows_of) = &plan.rows_of else {
                self.project(plan, &context)?;
                sent += 1;
                continue;
            };
            let value = rows_of.arg.eval(&Scope { slots: &self.slots, context: &context })?.into_owned();
            for element in rows_of.function.rows(&value)? {
                if sent >= limit {
                    break;
                }
                self.slots[plan.element()] = element.into_value();
                self.project(plan, &context)?;
                sent += 1;
                if matches!(plan.window, WindowSpec::Each) {
                    // Without a window each made row is a message.
                    self.output.borrow_mut().end_message();
                }
            }
        }
        self.slots.resize(plan.result_slots(), Value::Absent);
        Ok(sent)
    }

    /// HAVING.
    fn has(&self, plan: &Stateful, context: &CallContext<'_>) -> Result<bool, ResultError> {
        let scope = Scope { slots: &self.slots, context };
        plan.having.as_ref().map_or(Ok(true), |having| having.test(&scope)).map_err(ResultError::Having)
    }

    fn project(&mut self, plan: &Stateful, context: &CallContext<'_>) -> Result<(), ResultError> {
        let scope = Scope { slots: &self.slots, context };
        Ok(self.output.borrow_mut().row(&plan.projection, &scope, &|_| None)?)
    }
}

/// Whether rows are result rows as they are, once they are in order.
fn only_ordered(plan: &Stateful) -> bool {
    let made = plan.grouped || !plan.aggregates.is_empty() || !plan.numbers.is_empty() || plan.rows_of.is_some();
    !made && plan.having.is_none() && !plan.order.is_empty()
}

/// Whether a key of ORDER BY needs nothing that comes after grouping.
fn reads_rows_only(key: &OrderBy, plan: &Stateful) -> bool {
    key.expr.slots().into_iter().all(|slot| slot < plan.row_slots)
}

fn fill_aggregates(group: &Group, plan: &Stateful, slots: &mut [Value]) -> Result<(), EvalError> {
    for (index, accumulator) in group.accumulators.iter().enumerate() {
        slots[plan.row_slots + index] = accumulator.answer()?;
    }
    Ok(())
}
