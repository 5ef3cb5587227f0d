//! Takes the rows of a window: WHERE, then groups, or the rows of the result.

use std::rc::Rc;

use super::error::{ResultError, reporter};
use super::strategy::Strategy;
use super::{Job, Moment, Passed, Results, Source, Stage, Taken, compute};
use crate::dataflow::join::{Joined, Others, Parts};
use crate::dataflow::row::KeptRow;
use crate::dataflow::sort::{ResultRow, Sorter, at};
use crate::dataflow::timers::Turn;
use crate::dataflow::window::{GroupRows, accumulate, add_all};
use crate::expr::Scope;
use crate::expr::aggregate::Accumulator;
use crate::expr::function::CallContext;
use crate::metrics::{Place, Point};
use crate::plan::physical::Stateful;
use crate::value::Value;

/// A row that may become a part of the result.
struct Candidate<'a> {
    time: i64,
    slots: &'a mut [Value],
    origin: Origin<'a>,
}

/// Where the slots of a row come from.
enum Origin<'a> {
    Kept(&'a Rc<KeptRow>),
    Joined(&'a Parts),
}

impl Origin<'_> {
    fn passed(&self) -> Passed {
        match self {
            Origin::Kept(row) => Passed::Kept(Rc::clone(row)),
            Origin::Joined(parts) => Passed::Joined((*parts).clone()),
        }
    }
}

impl Results {
    /// The results of the aggregates of WHERE, over all rows of the window before WHERE filters them. Rows that an
    /// aggregate does not accept are lost; if there are any, the second result is aggregates that see the rows again, in
    /// the same order, and refuse the same ones. This pass is not divided into turns.
    pub(super) fn window_answers(
        &self,
        plan: &Stateful,
        moment: Moment,
        rows: &[Rc<KeptRow>],
        others: &Others<'_>,
    ) -> (Vec<Value>, Option<Vec<Accumulator>>) {
        let calls = &plan.window_aggregates;
        if calls.is_empty() {
            return (Vec::new(), None);
        }
        let rule = self.context.clone();
        let context = moment.context(&rule);
        let mut lost = reporter(&self.output, Place::Filter, "Where");
        let empty = || calls.iter().map(|call| Accumulator::new(call.aggregate, call.integral)).collect::<Vec<_>>();
        let (mut answers, mut refuses) = (empty(), false);
        let mut slots = vec![Value::Absent; plan.result_slots()];
        let mut add = |time: i64, slots: &mut [Value]| {
            let context = at(&context, time);
            // Errors are reported when the row itself is taken.
            if compute(plan, slots, &context).is_ok()
                && let Err(error) = add_all(&mut answers, calls, &Scope { slots, context: &context })
            {
                lost(error);
                refuses = true;
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
        (answers.iter().map(answer).collect(), refuses.then(empty))
    }

    /// Takes rows until the turn is over; true: there are no more.
    pub(super) fn rows(
        &mut self,
        job: Job<'_>,
        source: &mut Source,
        taken: &mut Taken,
        sent: &mut u64,
        turn: &mut Turn,
    ) -> bool {
        let Job { plan, others, context } = job;
        let limit = plan.limit.unwrap_or(u64::MAX);
        // The limit is reached.
        let enough = |sent: u64, strategy: &Strategy| strategy.streams && sent >= limit;
        loop {
            if enough(*sent, &self.strategy) {
                return true;
            }
            let mut slots = std::mem::take(&mut self.slots);
            slots.resize(plan.result_slots(), Value::Absent);
            let steps = match source {
                Source::Kept(rows) => match rows.next() {
                    None => 0,
                    Some(row) => {
                        slots[others.inputs[row.input].slots.clone()].clone_from_slice(&row.slots);
                        let origin = Origin::Kept(&row);
                        self.take(job, Candidate { time: row.time, slots: &mut slots, origin }, taken, sent);
                        1
                    }
                },
                Source::Joined(joined) => {
                    let mut lost = reporter(&self.output, Place::Join, "Join");
                    let mut made = 1;
                    let more = joined.next(others, &mut slots, context, &mut lost, &mut |time, parts, slots| {
                        made += 1;
                        if !enough(*sent, &self.strategy) {
                            let origin = Origin::Joined(parts);
                            self.take(job, Candidate { time, slots, origin }, taken, sent);
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

    /// Takes a row, or reports the error that loses it.
    fn take(&mut self, job: Job<'_>, mut row: Candidate<'_>, taken: &mut Taken, sent: &mut u64) {
        if let Err(error) = self.try_take(job, &mut row, taken, sent) {
            self.lose_row(error, row.slots);
        }
    }

    fn try_take(
        &mut self,
        job: Job<'_>,
        row: &mut Candidate<'_>,
        taken: &mut Taken,
        sent: &mut u64,
    ) -> Result<(), ResultError> {
        let Job { plan, .. } = job;
        let Candidate { time, slots, origin } = row;
        let context = at(job.context, *time);
        compute(plan, slots, &context)?;
        if let Some(seen) = &mut taken.refusing
            && add_all(seen, &plan.window_aggregates, &Scope { slots, context: &context }).is_err()
        {
            return Ok(());
        }
        let first = plan.first_window_aggregate();
        slots[first..first + taken.of_window.len()].clone_from_slice(&taken.of_window);
        if let Some(filter) = &plan.joined_filter {
            self.flow.filter_in += 1;
            if !filter.test(&Scope { slots, context: &context }).map_err(ResultError::Where)? {
                return Ok(());
            }
            self.flow.filter_out += 1;
            self.output.borrow().tap(Point::Filter, slots);
        }
        if self.strategy.direct {
            let scope = Scope { slots, context: &context };
            accumulate(&mut taken.groups, plan, &scope, &mut self.key).map(|_| ()).map_err(ResultError::Aggregate)
        } else if self.strategy.wanted.is_some() {
            let pushed = taken.passed.push(origin.passed(), *time, slots, &plan.order, &context);
            pushed.map_err(ResultError::Order)
        } else if self.strategy.streams {
            *sent += u64::from(self.project(plan, slots, &context));
            Ok(())
        } else {
            taken.found.push((*time, slots.to_vec()));
            Ok(())
        }
    }

    /// The next stage, once all rows are taken.
    pub(super) fn taken(&mut self, job: Job<'_>, source: Source, taken: Taken) -> Stage {
        let Job { plan, others, context } = job;
        let Taken { mut groups, mut found, passed, .. } = taken;
        if self.strategy.wanted.is_some() {
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
        if !self.strategy.direct && (plan.grouped || !plan.aggregates.is_empty()) {
            let order = self.strategy.by_row.clone();
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
            return Stage::Groups(groups.into_rows(), 0, Vec::new(), Sorter::new(self.strategy.sorted));
        }
        match self.window_has(plan, context, &groups.into_rows(), &mut found) {
            Ok(true) => self.ordered(plan, found, Sorter::new(self.strategy.sorted), context),
            Ok(false) => Stage::Results(Vec::new().into_iter()),
            Err(error) => {
                self.lose(error);
                Stage::Results(Vec::new().into_iter())
            }
        }
    }

    /// HAVING without groups keeps or drops the whole window. Its aggregates are over the whole window.
    fn window_has(
        &mut self,
        plan: &Stateful,
        context: &CallContext<'_>,
        groups: &GroupRows,
        found: &mut [ResultRow],
    ) -> Result<bool, ResultError> {
        if let (false, Some((_, first))) = (groups.is_empty(), found.first_mut()) {
            groups.fill_answers(0, plan, first).map_err(ResultError::Aggregate)?;
            let answers = first[plan.row_slots..plan.first_number()].to_vec();
            let fill = |row: &mut Vec<Value>| row[plan.row_slots..plan.first_number()].clone_from_slice(&answers);
            found.iter_mut().for_each(|(_, row)| fill(row));
        }
        match (&plan.having, found.first()) {
            (Some(having), Some((_, first))) => {
                self.flow.having_in += 1;
                let has = having.test(&Scope { slots: first, context }).map_err(ResultError::Having)?;
                self.flow.having_out += u64::from(has);
                Ok(has)
            }
            _ => Ok(true),
        }
    }
}
