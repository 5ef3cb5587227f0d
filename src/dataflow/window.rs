//! Windows: rows are gathered into accumulators and given away when the frontier passes the window's end.
//!
//! A window keeps an accumulator for each aggregate and group, and of a group's first row the slots that the result
//! reads; rows are kept only where the result is made of them. What is closed is forgotten. Both kinds of time work
//! alike: the frontier is the watermark, or the clock.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use indexmap::IndexMap;

use crate::expr::aggregate::Accumulator;
use crate::expr::group::GroupKey;
use crate::expr::{EvalError, Scope, compare};
use crate::plan::physical::{Filter, WindowPlan, WindowSpec};
use crate::time::Alignment;
use crate::value::Value;

use super::output::{Output, RuleContext};
use super::queue::RowBatch;
use super::worker::Timers;

/// The state of a rule's window operator.
pub struct WindowOperator {
    plan: WindowPlan,
    context: Rc<RuleContext>,
    output: Rc<RefCell<Output>>,
    windows: Windows,
    /// a result row's slots: those of a group's first row, then the answers of the aggregates
    slots: Vec<Value>,
}

enum Windows {
    /// side by side in time
    Tumbling {
        alignment: Alignment,
        /// by their start
        open: BTreeMap<i64, Open>,
        /// the bounds of the window that the last row fell into: mostly the next one does, too
        last: (i64, i64),
        /// who wakes the rule at a window's end, in processing time
        timers: Option<(Rc<Timers>, usize)>,
    },
    /// over rows as they come
    Count {
        length: u64,
        interval: u64,
        /// rows so far, modulo the interval
        phase: u64,
        open: VecDeque<Open>,
    },
}

/// A window that rows still come to.
struct Open {
    start: i64,
    end: i64,
    /// rows that were counted, whether they passed the filter or not
    count: u64,
    groups: IndexMap<GroupKey, Group>,
    /// all rows, where the result is made of them
    rows: RowBatch,
    /// the first error of a row: the window's result is lost to it
    failed: Option<String>,
}

struct Group {
    /// the kept slots of the group's first row
    first: Vec<Value>,
    accumulators: Vec<Accumulator>,
}

impl WindowOperator {
    /// An operator without rows. `timers` wakes the rule's slot at the ends of windows in processing time.
    pub fn new(
        plan: WindowPlan,
        context: Rc<RuleContext>,
        output: Rc<RefCell<Output>>,
        timers: Option<(Rc<Timers>, usize)>,
    ) -> Self {
        let windows = match plan.window {
            WindowSpec::Tumbling { unit, length } => Windows::Tumbling {
                alignment: Alignment::new(unit, length, context.zone.clone()),
                open: BTreeMap::new(),
                last: (0, 0),
                timers,
            },
            WindowSpec::Count { length, interval } => {
                Windows::Count { length: length.max(1), interval: interval.max(1), phase: 0, open: VecDeque::new() }
            }
        };
        let slots = vec![Value::Absent; plan.row_slots + plan.aggregates.len()];
        WindowOperator { plan, context, output, windows, slots }
    }

    /// Takes rows in.
    pub fn rows(&mut self, batch: &RowBatch) {
        for (time, row) in batch.rows() {
            if let Err(error) = self.row(time, row, batch.width) {
                self.output.borrow_mut().error(error);
            }
        }
    }

    /// Closes every window that ends at or before `frontier`, in order; `None`: all of them that time closes.
    pub fn advance(&mut self, frontier: Option<i64>) {
        while let Windows::Tumbling { open, .. } = &mut self.windows
            && let Some(first) = open.first_entry()
        {
            if frontier.is_some_and(|frontier| first.get().end > frontier) {
                break;
            }
            let window = first.remove();
            self.emit(window);
        }
        self.output.borrow_mut().flush();
    }

    /// Puts a row into its windows. An error that concerns a window is kept there; what is given back concerns the row.
    fn row(&mut self, time: i64, row: &[Value], width: usize) -> Result<(), WindowError> {
        let WindowOperator { plan, context, windows, .. } = self;
        let call = context.row(time, time);
        let scope = Scope { slots: row, context: &call };
        if !passes(&plan.admit, &scope).map_err(WindowError::Filter)? {
            return Ok(());
        }
        let passes = passes(&plan.filter, &scope).map_err(WindowError::Where);
        match windows {
            Windows::Tumbling { alignment, open, last, timers } => {
                if !passes? {
                    return Ok(());
                }
                if time < last.0 || time >= last.1 {
                    *last = alignment.bounds(time);
                }
                let (start, end) = *last;
                let window = open.entry(start).or_insert_with(|| {
                    if let Some((timers, slot)) = timers {
                        timers.request(end, *slot);
                    }
                    Open::new(start, end, width)
                });
                window.add(plan, time, row, &scope);
            }
            Windows::Count { length, interval, phase, open } => {
                // A window opens where it will be `length` rows long when the rows so far are a multiple of the
                // interval.
                if (*phase + *length) % *interval == 0 {
                    open.push_back(Open::new(time, time, width));
                }
                *phase = (*phase + 1) % *interval;
                for window in open.iter_mut() {
                    window.count += 1;
                    window.end = time;
                    match &passes {
                        Ok(true) => window.add(plan, time, row, &scope),
                        Ok(false) => {}
                        Err(error) => window.fail(error),
                    }
                }
                let full = open.front().is_some_and(|window| window.count >= *length);
                if full && let Some(window) = open.pop_front() {
                    self.emit(window);
                }
            }
        }
        Ok(())
    }

    /// Gives a window's result away. An error loses the whole message of the window.
    fn emit(&mut self, window: Open) {
        let WindowOperator { plan, context, output, slots, .. } = self;
        let mut output = output.borrow_mut();
        if let Some(error) = window.failed {
            return output.error(error);
        }
        let call = context.window(window.end, window.start, window.end);
        let mut left = plan.limit.unwrap_or(u64::MAX);
        let mut result = || -> Result<(), WindowError> {
            if plan.grouped {
                for group in window.groups.values() {
                    group.fill(plan, slots)?;
                    let scope = Scope { slots, context: &call };
                    if passes_having(plan, &scope)? && left > 0 {
                        left -= 1;
                        output.row(&plan.projection, &scope, &|_| None)?;
                    }
                }
                return Ok(());
            }
            if let Some(group) = window.groups.values().next() {
                group.fill(plan, slots)?;
            }
            if !passes_having(plan, &Scope { slots, context: &call })? {
                return Ok(());
            }
            for (time, row) in window.rows.rows().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                slots[..row.len()].clone_from_slice(row);
                let mut call = call.clone();
                call.event_time = time;
                output.row(&plan.projection, &Scope { slots, context: &call }, &|_| None)?;
            }
            Ok(())
        };
        match result() {
            Ok(()) => output.end_message(),
            Err(error) => output.error(error),
        }
    }
}

impl Open {
    fn new(start: i64, end: i64, width: usize) -> Self {
        Open {
            start,
            end,
            count: 0,
            groups: IndexMap::new(),
            rows: RowBatch { width, ..RowBatch::default() },
            failed: None,
        }
    }

    fn add(&mut self, plan: &WindowPlan, time: i64, row: &[Value], scope: &Scope<'_>) {
        if !plan.grouped {
            self.rows.values.extend_from_slice(row);
            self.rows.times.push(time);
            if plan.aggregates.is_empty() {
                return;
            }
        }
        if let Err(error) = self.accumulate(plan, row, scope) {
            self.fail(error);
        }
    }

    fn accumulate(&mut self, plan: &WindowPlan, row: &[Value], scope: &Scope<'_>) -> Result<(), WindowError> {
        let key = group_key(plan, scope)?;
        let group = self.groups.entry(key).or_insert_with(|| Group {
            first: plan.kept_slots.iter().map(|&slot| row[slot].clone()).collect(),
            accumulators: plan.aggregates.iter().map(|call| Accumulator::new(call.aggregate, call.integral)).collect(),
        });
        for (call, accumulator) in plan.aggregates.iter().zip(&mut group.accumulators) {
            match &call.arg {
                None => accumulator.add(None)?,
                Some(arg) => accumulator.add(Some(arg.eval(scope)?.as_ref()))?,
            }
        }
        Ok(())
    }

    fn fail(&mut self, error: impl std::fmt::Display) {
        self.failed.get_or_insert_with(|| error.to_string());
    }
}

impl Group {
    /// Puts the kept slots of the first row and the answers of the aggregates where the result reads them.
    fn fill(&self, plan: &WindowPlan, slots: &mut [Value]) -> Result<(), WindowError> {
        for (&slot, value) in plan.kept_slots.iter().zip(&self.first) {
            slots[slot] = value.clone();
        }
        for (index, accumulator) in self.accumulators.iter().enumerate() {
            slots[plan.row_slots + index] = accumulator.answer()?;
        }
        Ok(())
    }
}

/// Why a row or a window's result was lost.
#[derive(Debug, thiserror::Error)]
enum WindowError {
    #[error("run Window Filter error: {0}")]
    Filter(EvalError),
    #[error("run Where error: {0}")]
    Where(EvalError),
    #[error("run Having error: {0}")]
    Having(EvalError),
    #[error("run Select error: {0}")]
    Eval(#[from] EvalError),
    #[error(transparent)]
    Row(#[from] super::output::RowError),
}

fn group_key(plan: &WindowPlan, scope: &Scope<'_>) -> Result<GroupKey, EvalError> {
    let mut values = smallvec::SmallVec::<[_; 4]>::new();
    for key in &plan.keys {
        values.push(key.eval(scope)?);
    }
    Ok(GroupKey::from_values(values.iter().map(|value| value.as_ref())))
}

fn passes_having(plan: &WindowPlan, scope: &Scope<'_>) -> Result<bool, WindowError> {
    plan.having.as_ref().map_or(Ok(true), |having| having.test(scope)).map_err(WindowError::Having)
}

fn passes(filter: &Option<Filter>, scope: &Scope<'_>) -> Result<bool, EvalError> {
    let Some(filter) = filter else { return Ok(true) };
    for test in &filter.tests {
        if !compare(&scope.slots[test.slot], test.op, &test.constant)? {
            return Ok(false);
        }
    }
    filter.rest.as_ref().map_or(Ok(true), |rest| rest.test(scope))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::dataflow::output::Encoding;
    use crate::dataflow::queue::RuleQueue;
    use crate::expr::Expr;
    use crate::expr::aggregate::Aggregate;
    use crate::io::queue::{MessageBatch, Outlet};
    use crate::metrics::RuleMetrics;
    use crate::plan::physical::{AggregateCall, Item, Projection};
    use crate::sql::ast::Unit;

    /// A sink that keeps what it gets.
    #[derive(Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Outlet for Kept {
        fn send(&self, batch: &Arc<MessageBatch>) {
            let texts = batch.messages().map(|message| String::from_utf8(message.to_vec()).expect("results are text"));
            self.0.lock().expect("no panic while it is held").extend(texts);
        }
    }

    /// `SELECT k, count(*) AS n, sum(v) AS s … GROUP BY k, WINDOW`.
    fn operator(window: WindowSpec) -> (WindowOperator, Arc<Kept>) {
        let field = |name: &str, slot| Item::Field { name: name.into(), expr: Expr::Slot(slot), plain: false };
        let plan = WindowPlan {
            window,
            admit: None,
            filter: None,
            keys: vec![Expr::Slot(0)],
            grouped: true,
            aggregates: vec![
                AggregateCall { aggregate: Aggregate::Count, arg: None, integral: true },
                AggregateCall { aggregate: Aggregate::Sum, arg: Some(Expr::Slot(1)), integral: true },
            ],
            row_slots: 2,
            kept_slots: vec![0],
            having: None,
            projection: Projection { items: vec![field("k", 0), field("n", 2), field("s", 3)], sends: true },
            limit: None,
        };
        let kept = Arc::new(Kept::default());
        let encoding = Encoding { send_single: true, omit_if_empty: false, outlets: vec![kept.clone()] };
        let output = Output::new(vec![encoding], false, false, Arc::new(RuleMetrics::default()));
        let context =
            RuleContext { id: "r".into(), started: 0, zone: jiff::tz::TimeZone::UTC, hits: Default::default() };
        (WindowOperator::new(plan, Rc::new(context), Rc::new(RefCell::new(output)), None), kept)
    }

    fn batch(rows: &[(i64, i64, i64)]) -> RowBatch {
        let queue = RuleQueue::new(2);
        for &(time, key, value) in rows {
            queue.push(time, Instant::now(), &mut [Value::Int(key), Value::Int(value)]);
        }
        queue.take()
    }

    #[test]
    fn a_window_fires_when_the_frontier_reaches_its_end_and_not_before() {
        let (mut window, kept) = operator(WindowSpec::Tumbling { unit: Unit::Second, length: 1 });
        window.rows(&batch(&[(100, 1, 5), (999, 1, 6), (1000, 1, 7)]));
        window.advance(Some(999));
        assert!(kept.0.lock().unwrap().is_empty());
        window.advance(Some(1000));
        assert_eq!(*kept.0.lock().unwrap(), [r#"{"k":1,"n":2,"s":11}"#]);
        window.advance(None);
        assert_eq!(kept.0.lock().unwrap()[1], r#"{"k":1,"n":1,"s":7}"#);
    }

    #[test]
    fn an_error_of_a_row_loses_the_window_it_is_in_and_no_other() {
        let (mut window, kept) = operator(WindowSpec::Tumbling { unit: Unit::Second, length: 1 });
        let queue = RuleQueue::new(2);
        queue.push(1, Instant::now(), &mut [Value::Int(1), "x".into()]);
        queue.push(1500, Instant::now(), &mut [Value::Int(1), Value::Int(3)]);
        window.rows(&queue.take());
        window.advance(None);
        assert_eq!(*kept.0.lock().unwrap(), [r#"{"k":1,"n":1,"s":3}"#]);
        assert_eq!(window.output.borrow().metrics().last_error().map(|_| ()), Some(()));
    }

    #[test]
    fn count_windows_overlap_where_the_interval_is_shorter() {
        let (mut window, kept) = operator(WindowSpec::Count { length: 3, interval: 2 });
        window.rows(&batch(&[(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 1, 4), (5, 1, 5), (6, 1, 6)]));
        window.advance(Some(10));
        assert_eq!(*kept.0.lock().unwrap(), [r#"{"k":1,"n":3,"s":9}"#, r#"{"k":1,"n":3,"s":15}"#]);
    }

    proptest! {
        #[test]
        fn tumbling_windows_agree_with_a_naive_model(
            rows in prop::collection::vec((0i64..5_000, 0i64..4, -100i64..100), 0..200),
            length in 1u64..1_500,
        ) {
            let (mut window, kept) = operator(WindowSpec::Tumbling { unit: Unit::Millisecond, length });
            window.rows(&batch(&rows));
            window.advance(None);
            let mut model: BTreeMap<(i64, i64), (i64, i64)> = BTreeMap::new();
            for (time, key, value) in rows {
                let entry = model.entry((time / length as i64, key)).or_default();
                entry.0 += 1;
                entry.1 += value;
            }
            let mut expected: Vec<String> =
                model.iter().map(|((_, k), (n, s))| format!(r#"{{"k":{k},"n":{n},"s":{s}}}"#)).collect();
            let mut got = kept.0.lock().unwrap().clone();
            expected.sort();
            got.sort();
            prop_assert_eq!(got, expected);
        }

        #[test]
        fn count_windows_agree_with_a_naive_model(
            values in prop::collection::vec(-100i64..100, 0..60),
            length in 1u64..9,
            interval in 1u64..9,
        ) {
            let interval = interval.min(length);
            let (mut window, kept) = operator(WindowSpec::Count { length, interval });
            let rows: Vec<_> = values.iter().map(|&value| (0, 1, value)).collect();
            window.rows(&batch(&rows));
            window.advance(Some(0));
            let (length, interval) = (length as usize, interval as usize);
            let expected: Vec<String> = (length..=values.len())
                .filter(|end| end % interval == 0)
                .map(|end| {
                    let sum: i64 = values[end - length..end].iter().sum();
                    format!(r#"{{"k":1,"n":{length},"s":{sum}}}"#)
                })
                .collect();
            prop_assert_eq!(kept.0.lock().unwrap().clone(), expected);
        }
    }
}
