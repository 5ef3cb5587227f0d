//! From a closed window to result rows: joins, WHERE, groups, HAVING, row numbers, ORDER BY, LIMIT, the select list.
//!
//! A result is made in pieces: a window may have 100,000 groups and a join millions of rows, and other rules and sockets
//! get their turn between. [`Results::begin`] takes a window, [`Results::resume`] works on it until the turn is over.
//! Nobody sees half a result: its message is sent when it is whole.
//!
//! An error costs the smallest thing that it concerns, a row or a group, and is reported once.

use std::cell::RefCell;
use std::rc::Rc;
use std::vec;

use crate::expr::aggregate::Accumulator;
use crate::expr::function::CallContext;
use crate::expr::{EvalError, Scope};
use crate::metrics::Place;
use crate::plan::physical::{OrderBy, Stateful, WindowSpec};
use crate::value::Value;
use crate::value::key::GroupKey;

use super::analytic::Memories;
use super::context::RuleContext;
use super::join::{Joined, Others, Parts};
use super::output::Output;
use super::project::RowError;
use super::row::KeptRow;
use super::sort::{ResultRow, Sorter, at, number};
use super::state::checkpoint::{CheckpointError, Reader, StateParts};
use super::timers::Turn;
use super::window::{Arrival, Closed, Group, Groups, accumulate, add_all};

/// Makes the results of a rule.
pub struct Results {
    context: Rc<RuleContext>,
    output: Rc<RefCell<Output>>,
    /// a result row to work in
    slots: Vec<Value>,
    memories: Memories,
    /// what the rule asks of its rows
    way: Way,
    /// the result that is being made
    emission: Option<Emission>,
    /// rows that were sent
    sent: u64,
    key: GroupKey,
}

/// What the plan says about how results are made.
struct Way {
    /// result rows of groups are projected as they are made: nothing needs to see all of them
    straight: bool,
    /// and so are rows that are result rows as they are
    streams: bool,
    /// without GROUP BY, aggregates that make lists see the rows in the order of these
    by_row: Vec<OrderBy>,
    /// rows that only their groups need are not kept
    direct: bool,
    /// rows are result rows as they are, once they are in order: no more than those that are sent are copied
    wanted: Option<usize>,
    /// how many result rows are wanted of those that are put in order
    sorted: Option<usize>,
}

/// A result on its way.
struct Emission {
    now: i64,
    /// the window; none for a row that is alone
    bounds: Option<(i64, i64)>,
    /// the time of what is made of no single row
    time: i64,
    sent: u64,
    stage: Stage,
}

/// How far a result is.
enum Stage {
    /// rows are taken
    Rows(Source, Taken),
    /// groups become result rows
    Groups(indexmap::map::IntoIter<GroupKey, Group>, Vec<ResultRow>, Sorter<ResultRow>),
    /// result rows go out
    Results(vec::IntoIter<ResultRow>),
}

/// Where the rows of a window come from.
enum Source {
    Kept(vec::IntoIter<Rc<KeptRow>>),
    Joined(Box<Joined>),
}

/// What has become of the rows that were taken.
struct Taken {
    groups: Groups,
    found: Vec<ResultRow>,
    passed: Sorter<Passed>,
    /// the answers of the aggregates of WHERE
    of_window: Vec<Value>,
}

/// A row by which it can be made again.
enum Passed {
    Kept(Rc<KeptRow>),
    Joined(Parts),
}

/// Why a row or a group was lost.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
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

/// Takes errors of rows that are lost.
fn reporter(output: &Rc<RefCell<Output>>, place: Place, operator: &'static str) -> impl FnMut(EvalError) + use<> {
    let output = output.clone();
    move |error| output.borrow_mut().error(place, format_args!("run {operator} error: {error}"))
}

impl Results {
    /// No results yet.
    pub fn new(plan: &Stateful, context: Rc<RuleContext>, output: Rc<RefCell<Output>>) -> Self {
        Results {
            context,
            output,
            slots: vec![Value::Absent; plan.result_slots()],
            memories: Memories::new(&plan.result_steps),
            way: Way::of(plan),
            emission: None,
            sent: 0,
            key: GroupKey::default(),
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

    /// Forgets the oldest quarter of what functions remember, and says how many partitions they were.
    pub fn evict(&mut self) -> usize {
        self.memories.evict()
    }

    /// Whether a result is being made.
    pub fn is_emitting(&self) -> bool {
        self.emission.is_some()
    }

    /// Begins the result of a window.
    pub fn begin(&mut self, plan: &Stateful, now: i64, closed: Closed, others: &Others<'_>) {
        let Closed { start, end, content } = closed;
        let bounds = Some((start, end));
        self.start(plan, now, bounds, end, content.rows, content.groups, others);
    }

    /// Makes the result of a row that is alone, or begins to. Its slots may be taken.
    pub fn row(&mut self, plan: &Stateful, arrival: &mut Arrival<'_>, others: &Others<'_>) {
        if !arrival.passes {
            return;
        }
        let (now, time) = (arrival.context.now, arrival.time);
        if !plan.grouped && plan.joins.is_empty() && plan.aggregates.is_empty() {
            return self.alone(plan, arrival);
        }
        let (mut groups, mut rows) = (Groups::default(), Vec::new());
        if plan.incremental {
            let scope = Scope { slots: arrival.row, context: arrival.context };
            if let Err(error) = accumulate(&mut groups, plan, &scope, arrival.key) {
                return self.lose(ResultError::Aggregate(error));
            }
        } else {
            rows.push(Rc::new(arrival.keep()));
        }
        self.start(plan, now, None, time, rows, groups, others);
    }

    /// A row that is a result row as it is.
    fn alone(&mut self, plan: &Stateful, arrival: &mut Arrival<'_>) {
        for (slot, value) in self.slots.iter_mut().zip(arrival.row.iter_mut()) {
            *slot = std::mem::take(value);
        }
        let context = arrival.context;
        match self.has(plan, context) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return self.lose(error),
        }
        if self.way.straight {
            if plan.limit != Some(0) {
                let sent = u64::from(self.project(plan, &self.slots, context));
                self.finish(plan, sent, arrival.time, false);
            }
            return;
        }
        let row = std::mem::replace(&mut self.slots, vec![Value::Absent; plan.result_slots()]);
        let stage = self.ordered(plan, vec![(context.event_time, row)], Sorter::new(None), context);
        let (now, time) = (context.now, arrival.time);
        self.emission = Some(Emission { now, bounds: None, time, sent: 0, stage });
    }

    #[expect(clippy::too_many_arguments, reason = "a window in its parts")]
    fn start(
        &mut self,
        plan: &Stateful,
        now: i64,
        bounds: Option<(i64, i64)>,
        time: i64,
        rows: Vec<Rc<KeptRow>>,
        groups: Groups,
        others: &Others<'_>,
    ) {
        let stage = if plan.incremental {
            Stage::Groups(groups.into_iter(), Vec::new(), Sorter::new(self.way.sorted))
        } else {
            let of_window = self.window_answers(plan, now, bounds, time, &rows, others);
            let source = if plan.joins.is_empty() {
                Source::Kept(rows.into_iter())
            } else {
                let rule = self.context.clone();
                let context = context_of(&rule, now, bounds, time);
                let mut lost = reporter(&self.output, Place::Join, "Join");
                self.slots.fill(Value::Absent);
                let joined = Joined::new(rows.into_iter(), others, &mut self.slots, &context, &mut lost);
                Source::Joined(Box::new(joined))
            };
            let passed = Sorter::new(self.way.wanted);
            Stage::Rows(source, Taken { groups: Groups::default(), found: Vec::new(), passed, of_window })
        };
        self.emission = Some(Emission { now, bounds, time, sent: 0, stage });
    }

    /// The answers of the aggregates of WHERE, over all rows of the window before WHERE filters them. A row that one
    /// cannot take counts in none. This pass is made in one go.
    fn window_answers(
        &self,
        plan: &Stateful,
        now: i64,
        bounds: Option<(i64, i64)>,
        time: i64,
        rows: &[Rc<KeptRow>],
        others: &Others<'_>,
    ) -> Vec<Value> {
        let calls = &plan.window_aggregates;
        if calls.is_empty() {
            return Vec::new();
        }
        let rule = self.context.clone();
        let context = context_of(&rule, now, bounds, time);
        let mut lost = reporter(&self.output, Place::Filter, "Where");
        let mut answers: Vec<_> = calls.iter().map(|call| Accumulator::new(call.aggregate, call.integral)).collect();
        let mut slots = vec![Value::Absent; plan.result_slots()];
        let mut add = |time: i64, slots: &mut [Value]| {
            let context = at(&context, time);
            // What cannot be computed is reported when the row itself is taken.
            if compute(plan, slots, &context).is_ok()
                && let Err(error) = add_all(&mut answers, calls, &Scope { slots, context: &context })
            {
                lost(error);
            }
        };
        if plan.joins.is_empty() {
            for row in rows {
                slots[others.inputs[row.input].slots.clone()].clone_from_slice(&row.slots);
                add(row.time, &mut slots);
            }
        } else {
            // Errors of ON are reported when the rows are joined for the result.
            let mut joined = Joined::new(rows.iter().cloned(), others, &mut slots, &context, &mut |_| {});
            while joined.next(others, &mut slots, &context, &mut |_| {}, &mut |time, _, slots| add(time, slots)) {}
        }
        let mut lost = reporter(&self.output, Place::Filter, "Where");
        let answer = |accumulator: &Accumulator| {
            accumulator.answer().unwrap_or_else(|error| {
                lost(error);
                Value::Null
            })
        };
        answers.iter().map(answer).collect()
    }

    /// How many rows were sent since the rule's start, for LIMIT over the rows that one message makes.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Goes on with the result until the turn is over. True: it is done, and sent.
    pub fn resume(&mut self, plan: &Stateful, others: &Others<'_>, turn: &mut Turn) -> bool {
        let Some(mut emission) = self.emission.take() else { return true };
        let rule = self.context.clone();
        let context = context_of(&rule, emission.now, emission.bounds, emission.time);
        let limit = plan.limit.unwrap_or(u64::MAX);
        loop {
            let stage = match emission.stage {
                Stage::Rows(mut source, mut taken) => {
                    if !self.rows(plan, others, &context, &mut source, &mut taken, &mut emission.sent, turn) {
                        emission.stage = Stage::Rows(source, taken);
                        break;
                    }
                    self.taken(plan, others, &context, source, taken)
                }
                Stage::Groups(mut groups, mut found, mut sorter) => {
                    let mut whole = true;
                    for (_, group) in groups.by_ref() {
                        self.group(plan, &context, group, &mut found, &mut sorter, &mut emission.sent);
                        if self.is_over(turn, 1) {
                            whole = false;
                            break;
                        }
                    }
                    if !whole {
                        emission.stage = Stage::Groups(groups, found, sorter);
                        break;
                    }
                    self.ordered(plan, found, sorter, &context)
                }
                Stage::Results(mut rows) => {
                    let mut whole = true;
                    while emission.sent < limit
                        && let Some((time, row)) = rows.next()
                    {
                        self.result(plan, &context, time, row, limit, &mut emission.sent);
                        if self.is_over(turn, 1) {
                            whole = false;
                            break;
                        }
                    }
                    self.slots.resize(plan.result_slots(), Value::Absent);
                    if !whole {
                        emission.stage = Stage::Results(rows);
                        break;
                    }
                    self.finish(plan, emission.sent, emission.time, emission.bounds.is_some());
                    return true;
                }
            };
            emission.stage = stage;
        }
        self.emission = Some(emission);
        false
    }

    /// Takes rows until the turn is over; true: there are no more.
    #[expect(clippy::too_many_arguments, reason = "the parts of a stage")]
    fn rows(
        &mut self,
        plan: &Stateful,
        others: &Others<'_>,
        context: &CallContext<'_>,
        source: &mut Source,
        taken: &mut Taken,
        sent: &mut u64,
        turn: &mut Turn,
    ) -> bool {
        let limit = plan.limit.unwrap_or(u64::MAX);
        // Those that are sent are enough.
        let enough = |sent: u64, way: &Way| way.streams && sent >= limit;
        loop {
            if enough(*sent, &self.way) {
                return true;
            }
            let mut slots = std::mem::take(&mut self.slots);
            slots.resize(plan.result_slots(), Value::Absent);
            let steps = match source {
                Source::Kept(rows) => match rows.next() {
                    None => 0,
                    Some(row) => {
                        slots[others.inputs[row.input].slots.clone()].clone_from_slice(&row.slots);
                        let time = row.time;
                        self.take(plan, context, time, &mut slots, || Passed::Kept(row), taken, sent);
                        1
                    }
                },
                Source::Joined(joined) => {
                    let mut lost = reporter(&self.output, Place::Join, "Join");
                    let mut made = 1;
                    let more = joined.next(others, &mut slots, context, &mut lost, &mut |time, parts, slots| {
                        made += 1;
                        if !enough(*sent, &self.way) {
                            self.take(plan, context, time, slots, || Passed::Joined(parts.clone()), taken, sent);
                        }
                    });
                    if more { made } else { 0 }
                }
            };
            self.slots = slots;
            if steps == 0 {
                return true;
            }
            if self.is_over(turn, steps) {
                return false;
            }
        }
    }

    /// Takes one row, which stands in `slots`.
    #[expect(clippy::too_many_arguments, reason = "the parts of a stage")]
    fn take(
        &mut self,
        plan: &Stateful,
        context: &CallContext<'_>,
        time: i64,
        slots: &mut [Value],
        again: impl FnOnce() -> Passed,
        taken: &mut Taken,
        sent: &mut u64,
    ) {
        let result = self.try_take(plan, context, time, slots, again, taken, sent);
        if let Err(error) = result {
            self.lose(error);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a stage")]
    fn try_take(
        &mut self,
        plan: &Stateful,
        context: &CallContext<'_>,
        time: i64,
        slots: &mut [Value],
        again: impl FnOnce() -> Passed,
        taken: &mut Taken,
        sent: &mut u64,
    ) -> Result<(), ResultError> {
        let context = at(context, time);
        compute(plan, slots, &context)?;
        let first = plan.first_window_aggregate();
        slots[first..first + taken.of_window.len()].clone_from_slice(&taken.of_window);
        if let Some(filter) = &plan.joined_filter
            && !filter.test(&Scope { slots, context: &context }).map_err(ResultError::Where)?
        {
            return Ok(());
        }
        if self.way.direct {
            let scope = Scope { slots, context: &context };
            accumulate(&mut taken.groups, plan, &scope, &mut self.key).map_err(ResultError::Aggregate)
        } else if self.way.wanted.is_some() {
            let pushed = taken.passed.push(again(), time, slots, &plan.order, &context);
            pushed.map_err(ResultError::Order)
        } else if self.way.streams {
            *sent += u64::from(self.project(plan, slots, &context));
            Ok(())
        } else {
            taken.found.push((time, slots.to_vec()));
            Ok(())
        }
    }

    /// What follows when all rows were taken.
    fn taken(
        &mut self,
        plan: &Stateful,
        others: &Others<'_>,
        context: &CallContext<'_>,
        source: Source,
        taken: Taken,
    ) -> Stage {
        let Taken { mut groups, mut found, passed, of_window: _ } = taken;
        if self.way.wanted.is_some() {
            let mut lost = reporter(&self.output, Place::Order, "Order By");
            for again in passed.finish(&plan.order, context, &mut lost) {
                let mut slots = vec![Value::Absent; plan.result_slots()];
                let time = match (&again, &source) {
                    (Passed::Kept(row), _) => {
                        slots[others.inputs[row.input].slots.clone()].clone_from_slice(&row.slots);
                        row.time
                    }
                    (Passed::Joined(parts), Source::Joined(joined)) => {
                        joined.fill(parts, others, &mut slots);
                        joined.time(parts, others)
                    }
                    (Passed::Joined(_), Source::Kept(_)) => continue,
                };
                match compute(plan, &mut slots, &at(context, time)) {
                    Ok(()) => found.push((time, slots)),
                    Err(error) => self.lose(error),
                }
            }
            return Stage::Results(found.into_iter());
        }
        if !self.way.direct && (plan.grouped || !plan.aggregates.is_empty()) {
            let order = self.way.by_row.clone();
            if !order.is_empty() {
                found = self.sorted(found, &order, None, context);
            }
            for (time, row) in &found {
                let context = at(context, *time);
                let scope = Scope { slots: row, context: &context };
                if let Err(error) = accumulate(&mut groups, plan, &scope, &mut self.key) {
                    self.lose(ResultError::Aggregate(error));
                }
            }
        }
        if plan.grouped {
            return Stage::Groups(groups.into_iter(), Vec::new(), Sorter::new(self.way.sorted));
        }
        match self.window_has(plan, context, &groups, &mut found) {
            Ok(true) => self.ordered(plan, found, Sorter::new(self.way.sorted), context),
            Ok(false) => Stage::Results(Vec::new().into_iter()),
            Err(error) => {
                self.lose(error);
                Stage::Results(Vec::new().into_iter())
            }
        }
    }

    /// HAVING over rows that are no groups: it keeps or drops the whole window. Its aggregates are over the whole window.
    fn window_has(
        &self,
        plan: &Stateful,
        context: &CallContext<'_>,
        groups: &Groups,
        found: &mut [ResultRow],
    ) -> Result<bool, ResultError> {
        if let (Some(group), Some((_, first))) = (groups.values().next(), found.first_mut()) {
            fill_aggregates(group, plan, first).map_err(ResultError::Aggregate)?;
            let answers = first[plan.row_slots..plan.first_number()].to_vec();
            let fill = |row: &mut Vec<Value>| row[plan.row_slots..plan.first_number()].clone_from_slice(&answers);
            found.iter_mut().for_each(|(_, row)| fill(row));
        }
        match (&plan.having, found.first()) {
            (Some(having), Some((_, first))) => {
                having.test(&Scope { slots: first, context }).map_err(ResultError::Having)
            }
            _ => Ok(true),
        }
    }

    /// Makes the result row of a group.
    fn group(
        &mut self,
        plan: &Stateful,
        context: &CallContext<'_>,
        mut group: Group,
        found: &mut Vec<ResultRow>,
        sorter: &mut Sorter<ResultRow>,
        sent: &mut u64,
    ) {
        self.slots.resize(plan.result_slots(), Value::Absent);
        for (&slot, value) in plan.kept_slots.iter().zip(&mut group.first) {
            self.slots[slot] = std::mem::take(value);
        }
        let filled = fill_aggregates(&group, plan, &mut self.slots).map_err(ResultError::Aggregate);
        match filled.and_then(|()| self.has(plan, context)) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return self.lose(error),
        }
        if self.way.straight {
            if *sent < plan.limit.unwrap_or(u64::MAX) {
                *sent += u64::from(self.project(plan, &self.slots, context));
            }
            return;
        }
        let row = std::mem::replace(&mut self.slots, vec![Value::Absent; plan.result_slots()]);
        let time = context.event_time;
        if self.way.sorted.is_none() {
            found.push((time, row));
            return;
        }
        // The row is moved into the sorter, so its keys are read before.
        if let Err(error) = sorter.push_row(time, row, &plan.order, context) {
            self.lose(ResultError::Order(error));
        }
    }

    /// Numbers and orders result rows: those that were found, or those that the sorter has already.
    fn ordered(
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
            found = self.sorted(found, &plan.order, self.way.sorted, context);
        }
        sorted.append(&mut found);
        Stage::Results(sorted.into_iter())
    }

    fn sorted(
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

    /// Sends a result row, or those that it is multiplied to.
    fn result(
        &mut self,
        plan: &Stateful,
        context: &CallContext<'_>,
        time: i64,
        row: Vec<Value>,
        limit: u64,
        sent: &mut u64,
    ) {
        self.slots = row;
        let mut context = context.clone();
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

    /// HAVING.
    fn has(&self, plan: &Stateful, context: &CallContext<'_>) -> Result<bool, ResultError> {
        let scope = Scope { slots: &self.slots, context };
        plan.having.as_ref().map_or(Ok(true), |having| having.test(&scope)).map_err(ResultError::Having)
    }

    /// Adds a result row to the message; false: it is lost to an error.
    fn project(&self, plan: &Stateful, slots: &[Value], context: &CallContext<'_>) -> bool {
        let scope = Scope { slots, context };
        let added = self.output.borrow_mut().row(&plan.projection, &scope, &|_| None);
        let sent = added.is_ok();
        if let Err(error) = added {
            self.lose(ResultError::Row(error));
        }
        sent
    }

    fn lose(&self, error: ResultError) {
        self.output.borrow_mut().error(error.place(), error);
    }

    /// Whether others should get their turn: after so many more steps, or where sinks take no more.
    fn is_over(&self, turn: &mut Turn, steps: u32) -> bool {
        let mut output = self.output.borrow_mut();
        if output.overflows() {
            output.spill();
            if !turn.is_endless() && !output.ready() {
                return true;
            }
        }
        turn.spend(steps)
    }

    /// Ends the message.
    fn finish(&mut self, plan: &Stateful, rows: u64, time: i64, window: bool) {
        self.output.borrow_mut().end_message();
        self.sent += rows;
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
}

impl Way {
    fn of(plan: &Stateful) -> Way {
        let plain = plan.numbers.is_empty() && plan.result_steps.is_empty() && plan.rows_of.is_none();
        let straight = plain && plan.order.is_empty();
        let by_row: Vec<OrderBy> = if plan.grouped && plan.keys.is_empty() {
            plan.order.iter().filter(|key| reads_rows_only(key, plan)).cloned().collect()
        } else {
            Vec::new()
        };
        let limit = plan.limit.and_then(|limit| usize::try_from(limit).ok());
        // A row may make none or several where it is unnested, so that all are needed in order.
        let sorted = limit.filter(|_| !plan.order.is_empty() && plan.numbers.is_empty() && plan.rows_of.is_none());
        Way {
            straight,
            streams: straight && !plan.grouped && plan.aggregates.is_empty() && plan.having.is_none(),
            direct: plan.grouped && by_row.is_empty(),
            by_row,
            wanted: limit.filter(|_| only_ordered(plan)),
            sorted,
        }
    }
}

/// The context of a window, or of a row that is alone.
fn context_of(rule: &RuleContext, now: i64, bounds: Option<(i64, i64)>, time: i64) -> CallContext<'_> {
    match bounds {
        Some((start, end)) => rule.window(now, start, end),
        None => rule.row(now, time),
    }
}

/// Computes the values over joined rows that several expressions need.
fn compute(plan: &Stateful, slots: &mut [Value], context: &CallContext<'_>) -> Result<(), ResultError> {
    let first = plan.first_computed();
    for (index, computed) in plan.computed.iter().enumerate() {
        slots[first + index] = computed.eval(&Scope { slots, context })?.into_owned();
    }
    Ok(())
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
