//! Makes result rows of a closed window: joins, WHERE, groups, HAVING, row numbers, ORDER BY, LIMIT, the select list.
//!
//! A result is made in pieces: a window may have 100,000 groups and a join millions of rows, and other rules and
//! sockets need their turns. [`Results::begin`] takes a window, [`Results::resume`] works on it until the turn is over.
//! A message is sent only when it is complete.
//!
//! An error loses only the row or group that it affects, and is reported once.

mod emit;
mod error;
mod strategy;
mod take;

use std::cell::RefCell;
use std::rc::Rc;
use std::vec;

use self::error::{ResultError, reporter};
use self::strategy::Strategy;
use super::analytic::Memories;
use super::context::RuleContext;
use super::forward::Forward;
use super::join::{Joined, Others, Parts};
use super::output::Output;
use super::row::KeptRow;
use super::sort::{ResultRow, Sorter};
use super::state::checkpoint::{CheckpointError, CheckpointReader, StateParts};
use super::timers::Turn;
use super::window::{Arrival, Closed, GroupRows, Groups, Partial, accumulate};
use crate::expr::Scope;
use crate::expr::aggregate::Accumulator;
use crate::expr::function::CallContext;
use crate::metrics::{FlowCounts, Place};
use crate::plan::physical::Stateful;
use crate::value::Value;
use crate::value::key::GroupKey;

/// Makes the results of a rule.
pub struct Results {
    context: Rc<RuleContext>,
    output: Rc<RefCell<Output>>,
    /// Scratch: a result row.
    slots: Vec<Value>,
    memories: Memories,
    strategy: Strategy,
    /// The result in progress.
    emission: Option<Emission>,
    /// Rows sent so far.
    sent: u64,
    /// The counts of HAVING, and of WHERE over joined rows.
    flow: FlowCounts,
    key: GroupKey,
    /// Set if another thread makes the results of groups of joined rows.
    home: Option<Rc<Forward>>,
}

/// A result in progress.
struct Emission {
    moment: Moment,
    sent: u64,
    stage: Stage,
}

/// The window or row that a result is made of, and when. Times are in milliseconds.
#[derive(Clone, Copy)]
struct Moment {
    now: i64,
    /// The window; `None` for a single row.
    bounds: Option<(i64, i64)>,
    /// The time of result rows that are made from several rows.
    time: i64,
}

impl Moment {
    fn context(self, rule: &RuleContext) -> CallContext<'_> {
        match self.bounds {
            Some((start, end)) => rule.window(self.now, start, end),
            None => rule.row(self.now, self.time),
        }
    }
}

/// What all stages of a result read.
#[derive(Clone, Copy)]
struct Job<'a> {
    plan: &'a Stateful,
    others: &'a Others<'a>,
    context: &'a CallContext<'a>,
}

/// The stage of a result.
enum Stage {
    Rows(Source, Taken),
    /// Groups become result rows, from this one on.
    Groups(GroupRows, usize, Vec<ResultRow>, Sorter<ResultRow>),
    /// Result rows are sent.
    Results(vec::IntoIter<ResultRow>),
}

/// The source of a window's rows.
enum Source {
    Kept(vec::IntoIter<Rc<KeptRow>>),
    Joined(Box<Joined>),
}

/// What the taken rows have become so far.
struct Taken {
    groups: Groups,
    found: Vec<ResultRow>,
    passed: Sorter<Passed>,
    /// The results of the aggregates of WHERE.
    of_window: Vec<Value>,
    /// The aggregates of WHERE over the rows so far, if one has refused rows of the window: the rows that it refuses
    /// again are lost.
    refusing: Option<Vec<Accumulator>>,
}

/// A reference to a row, from which it can be restored.
enum Passed {
    Kept(Rc<KeptRow>),
    Joined(Parts),
}

impl Results {
    pub fn new(plan: &Stateful, context: Rc<RuleContext>, output: Rc<RefCell<Output>>) -> Self {
        Results {
            context,
            output,
            slots: vec![Value::Absent; plan.result_slots()],
            memories: Memories::new(&plan.result_steps),
            strategy: Strategy::of(plan),
            emission: None,
            sent: 0,
            flow: FlowCounts::default(),
            key: GroupKey::default(),
            home: None,
        }
    }

    /// Sends the groups of joined rows to the thread that makes the results. The plan must come from `at_owner`.
    #[must_use]
    pub fn for_home(self, home: Rc<Forward>) -> Results {
        Results { home: Some(home), ..self }
    }

    /// Whether the sinks, or home, take more.
    pub fn has_room(&self) -> bool {
        self.output.borrow().ready() && self.home.as_ref().is_none_or(|home| !home.is_full())
    }

    /// The counts of the earlier operators, combined with those of results.
    pub fn with_counts(&self, before: FlowCounts) -> FlowCounts {
        let FlowCounts { having_in, having_out, results, .. } = self.flow;
        // Of two WHERE steps, the one over joined rows is shown.
        let (filter_in, filter_out) = match self.flow.filter_in {
            0 => (before.filter_in, before.filter_out),
            rows => (rows, self.flow.filter_out),
        };
        FlowCounts { filter_in, filter_out, having_in, having_out, results, ..before }
    }

    /// Adds the state to a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        self.memories.save(to)
    }

    /// Restores the state of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]; the value must not be used then.
    pub fn restore(&mut self, from: &mut CheckpointReader<'_>) -> Result<(), CheckpointError> {
        self.memories.restore(from)
    }

    /// Drops the oldest quarter of the functions' memories; returns the number of partitions dropped.
    pub fn evict(&mut self) -> usize {
        self.memories.evict()
    }

    /// Whether a result is being made.
    pub fn is_emitting(&self) -> bool {
        self.emission.is_some()
    }

    /// Starts the result of a window.
    pub fn begin(&mut self, plan: &Stateful, now: i64, closed: Closed, others: &Others<'_>) {
        let Closed { start, end, groups, rows } = closed;
        self.start(plan, Moment { now, bounds: Some((start, end)), time: end }, rows, groups, others);
    }

    /// Makes the result of a single row, or starts to. Its slots may be taken.
    pub fn row(&mut self, plan: &Stateful, arrival: &mut Arrival<'_>, others: &Others<'_>) {
        if !arrival.passes {
            return;
        }
        let moment = Moment { now: arrival.context.now, bounds: None, time: arrival.time };
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
        self.start(plan, moment, rows, groups.into_rows(), others);
    }

    /// Processes a row that is already a result row.
    fn alone(&mut self, plan: &Stateful, arrival: &mut Arrival<'_>) {
        for (slot, value) in self.slots.iter_mut().zip(arrival.row.iter_mut()) {
            *slot = std::mem::take(value);
        }
        let context = arrival.context;
        match self.has(plan, context) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return self.lose_row(error, &self.slots),
        }
        if self.strategy.straight {
            if plan.limit != Some(0) {
                let sent = u64::from(self.project(plan, &self.slots, context));
                self.finish(plan, sent, arrival.time, false);
            }
            return;
        }
        let row = std::mem::replace(&mut self.slots, vec![Value::Absent; plan.result_slots()]);
        let stage = self.ordered(plan, vec![(context.event_time, row)], Sorter::new(None), context);
        let moment = Moment { now: context.now, bounds: None, time: arrival.time };
        self.emission = Some(Emission { moment, sent: 0, stage });
    }

    fn start(
        &mut self,
        plan: &Stateful,
        moment: Moment,
        rows: Vec<Rc<KeptRow>>,
        groups: GroupRows,
        others: &Others<'_>,
    ) {
        let stage = if plan.incremental {
            Stage::Groups(groups, 0, Vec::new(), Sorter::new(self.strategy.sorted))
        } else {
            let (of_window, refusing) = self.window_answers(plan, moment, &rows, others);
            let source = if plan.joins.is_empty() {
                Source::Kept(rows.into_iter())
            } else {
                let rule = self.context.clone();
                let context = moment.context(&rule);
                let mut lost = reporter(&self.output, Place::Join, "Join");
                self.slots.fill(Value::Absent);
                let joined = Joined::new(rows.into_iter(), others, &mut self.slots, &context, &mut lost);
                Source::Joined(Box::new(joined))
            };
            let passed = Sorter::new(self.strategy.wanted);
            let groups = Groups::default();
            Stage::Rows(source, Taken { groups, found: Vec::new(), passed, of_window, refusing })
        };
        self.emission = Some(Emission { moment, sent: 0, stage });
    }

    /// Rows sent since the rule's start, for LIMIT over the rows of one message.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Continues the result until the turn is over. True: it is complete and sent.
    pub fn resume(&mut self, plan: &Stateful, others: &Others<'_>, turn: &mut Turn) -> bool {
        let Some(mut emission) = self.emission.take() else { return true };
        let rule = self.context.clone();
        let context = emission.moment.context(&rule);
        let job = Job { plan, others, context: &context };
        let limit = plan.limit.unwrap_or(u64::MAX);
        loop {
            let stage = match emission.stage {
                Stage::Rows(mut source, mut taken) => {
                    if !self.rows(job, &mut source, &mut taken, &mut emission.sent, turn) {
                        emission.stage = Stage::Rows(source, taken);
                        break;
                    }
                    if let (Some(home), Some((start, end))) = (&self.home, emission.moment.bounds) {
                        // Home gets a letter even if nothing was joined: the window has a result then, too.
                        home.ship(vec![Partial::of_window(start, end, taken.groups)], None);
                        return true;
                    }
                    self.taken(job, source, taken)
                }
                Stage::Groups(mut groups, mut next, mut found, mut sorter) => {
                    let mut whole = true;
                    while next < groups.len() {
                        self.group(job, &mut groups, next, &mut found, &mut sorter, &mut emission.sent);
                        next += 1;
                        if self.is_over(turn, 1) {
                            whole = false;
                            break;
                        }
                    }
                    if !whole {
                        emission.stage = Stage::Groups(groups, next, found, sorter);
                        break;
                    }
                    self.ordered(plan, found, sorter, &context)
                }
                Stage::Results(mut rows) => {
                    let mut whole = true;
                    while emission.sent < limit
                        && let Some((time, row)) = rows.next()
                    {
                        self.result(job, time, row, &mut emission.sent);
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
                    let Moment { time, bounds, .. } = emission.moment;
                    self.finish(plan, emission.sent, time, bounds.is_some());
                    return true;
                }
            };
            emission.stage = stage;
        }
        self.emission = Some(emission);
        false
    }

    /// HAVING.
    fn has(&mut self, plan: &Stateful, context: &CallContext<'_>) -> Result<bool, ResultError> {
        let Some(having) = &plan.having else { return Ok(true) };
        let scope = Scope { slots: &self.slots, context };
        self.flow.having_in += 1;
        let has = having.test(&scope).map_err(ResultError::Having)?;
        self.flow.having_out += u64::from(has);
        Ok(has)
    }

    /// Adds a result row to the message; false: it is lost to an error.
    fn project(&self, plan: &Stateful, slots: &[Value], context: &CallContext<'_>) -> bool {
        let scope = Scope { slots, context };
        let added = self.output.borrow_mut().row(&plan.projection, &scope, &|_| None);
        let sent = added.is_ok();
        if let Err(error) = added {
            self.lose_row(ResultError::Row(error), slots);
        }
        sent
    }

    fn lose(&self, error: ResultError) {
        self.output.borrow_mut().error(error.place(), error);
    }

    fn lose_row(&self, error: ResultError, slots: &[Value]) {
        self.output.borrow_mut().error_of_row(error.place(), error, slots);
    }

    /// Whether the turn is over: after this many more steps, or if sinks or home are full.
    fn is_over(&self, turn: &mut Turn, steps: u32) -> bool {
        if self.home.as_ref().is_some_and(|home| home.is_full()) && !turn.is_endless() {
            return true;
        }
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
        self.flow.results += rows;
        if plan.counts_hits && rows > 0 {
            let mut hits = self.context.hits.get();
            hits.rows += rows;
            hits.row_time = time;
            // Without a window each row is a result.
            hits.windows += if window { 1 } else { rows };
            hits.window_time = time;
            self.context.hits.set(hits);
        }
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
