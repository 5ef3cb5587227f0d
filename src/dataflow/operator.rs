//! The operator of a rule with state: rows in order, what they remember, windows, results.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::expr::{EvalError, Scope};
use crate::metrics::Place;
use crate::plan::fingerprint::Fingerprint;
use crate::plan::physical::{Column, ColumnSource, Filter, Input, Join, Role, Stateful, WindowSpec};
use crate::value::Value;
use crate::value::key::GroupKey;

use super::analytic::Memories;
use super::context::RuleContext;
use super::join::{Give, ScanTable};
use super::output::Output;
use super::queue::RuleQueue;
use super::results::{Others, Results};
use super::row::{KeptRow, RowBatch};
use super::state::checkpoint::{CheckpointError, Reader, StateParts, Writer};
use super::state::measure::{Meter, StateSize};
use super::table::Index;
use super::timers::{Alarm, WorkerClock};
use super::waiting::Waiting;
use super::window::{Arrival, Windows};

/// The state of a rule.
pub struct RuleOperator {
    plan: Stateful,
    inputs: Vec<Input>,
    context: Rc<RuleContext>,
    output: Rc<RefCell<Output>>,
    clock: Rc<WorkerClock>,
    waiting: Waiting,
    memories: Memories,
    windows: Windows,
    results: Results,
    tables: Tables,
    /// makes windows anew
    alarm: Alarm,
    /// how often the state has changed
    changes: u64,
    /// a row of one input to work in, as wide as those of the queue
    narrow: Vec<Value>,
    /// a joined row to work in
    wide: Vec<Value>,
    /// a key to work in
    key: GroupKey,
}

/// What is joined to the rows of streams.
struct Tables {
    /// scan tables, by input
    scanned: HashMap<usize, ScanTable>,
    /// lookup tables, by input
    lookups: HashMap<usize, Rc<Index>>,
}

/// Why a row was lost.
#[derive(Debug, thiserror::Error)]
enum RowLost {
    #[error("run Select error: {0}")]
    Step(EvalError),
    #[error("run Window Filter error: {0}")]
    Filter(EvalError),
}

impl RuleOperator {
    /// An operator without rows. `alarm` wakes the rule at the ends of windows, if it runs by the clock.
    pub fn new(
        plan: Stateful,
        inputs: Vec<Input>,
        lookups: HashMap<usize, Rc<Index>>,
        context: Rc<RuleContext>,
        output: Rc<RefCell<Output>>,
        clock: Rc<WorkerClock>,
        alarm: Alarm,
    ) -> Self {
        let width = inputs.iter().map(|input| input.scan.width()).max().unwrap_or(0);
        RuleOperator {
            waiting: Waiting::new(width),
            memories: Memories::new(&plan.steps),
            windows: Windows::new(&plan, &context.zone, alarm.clone()),
            results: Results::new(&plan, context.clone(), output.clone()),
            tables: Tables { scanned: scan_tables(&plan, &inputs), lookups },
            alarm,
            changes: 0,
            narrow: vec![Value::Absent; width],
            wide: vec![Value::Absent; plan.row_slots],
            key: GroupKey::default(),
            plan,
            inputs,
            context,
            output,
            clock,
        }
    }

    /// Grows with every change of the state.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The state, with that of its queue, as a checkpoint of this plan.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, plan: &Fingerprint, queue: &RuleQueue) -> Result<Vec<u8>, CheckpointError> {
        let mut to = Writer::new(plan);
        self.waiting.save(&mut to)?;
        self.rest(queue, &mut to)?;
        Ok(to.finish())
    }

    /// How large the state is.
    pub fn size(&self, queue: &RuleQueue) -> StateSize {
        let mut meter = Meter::default();
        // Measuring has no errors.
        let _ = self.rest(queue, &mut meter);
        self.waiting.measure(&mut meter);
        StateSize { bytes: meter.bytes(), windows: self.windows.open() }
    }

    /// All but the rows that wait: bringing these into order would take the longer the more there are.
    fn rest(&self, queue: &RuleQueue, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        self.memories.save(to)?;
        self.windows.save(to)?;
        self.results.save(to)?;
        let mut tables: Vec<_> = self.tables.scanned.iter().collect();
        tables.sort_unstable_by_key(|(input, _)| **input);
        for (_, table) in tables {
            table.save(to)?;
        }
        to.put(&self.context.hits.get())?;
        queue.save(to)
    }

    /// Goes on with the state of a checkpoint of this plan. To be called before the first row.
    ///
    /// # Errors
    /// [`CheckpointError`]; operator and queue are as if nothing had been tried.
    pub fn restore(&mut self, checkpoint: &[u8], plan: &Fingerprint, queue: &RuleQueue) -> Result<(), CheckpointError> {
        let from = Reader::open(checkpoint, plan)?;
        // Whatever is wrong with it, this thread has other rules to run.
        let taken = catch_unwind(AssertUnwindSafe(|| self.take_state(from, queue)));
        let restored = taken.unwrap_or(Err(CheckpointError::Damaged("what it holds makes no sense")));
        if restored.is_err() {
            self.waiting = Waiting::new(self.narrow.len());
            self.memories = Memories::new(&self.plan.steps);
            self.windows = Windows::new(&self.plan, &self.context.zone, self.alarm.clone());
            self.results = Results::new(&self.plan, self.context.clone(), self.output.clone());
            self.tables.scanned = scan_tables(&self.plan, &self.inputs);
            self.context.hits.take();
        }
        restored
    }

    fn take_state(&mut self, mut from: Reader<'_>, queue: &RuleQueue) -> Result<(), CheckpointError> {
        self.waiting.restore(&mut from, self.inputs.len())?;
        self.memories.restore(&mut from)?;
        self.windows.restore(&mut from)?;
        self.results.restore(&mut from)?;
        let mut tables: Vec<_> = self.tables.scanned.iter_mut().collect();
        tables.sort_unstable_by_key(|(input, _)| **input);
        for (_, table) in tables {
            table.restore(&mut from)?;
        }
        self.context.hits.set(from.take()?);
        queue.restore(from)
    }

    /// Takes rows in.
    pub fn rows(&mut self, mut batch: RowBatch) {
        self.output.borrow_mut().received(batch.received);
        let now = self.clock.now();
        self.changes += batch.times.len() as u64;
        batch.each(|time, input, slots| {
            if self.plan.ordered && self.inputs[input].role == Role::Stream {
                self.waiting.push(time, input, slots);
            } else {
                self.row(now, time, input, slots);
            }
        });
    }

    /// Time has come to `frontier`: rows up to it go on, windows that it closes are sent, in order; `None`: all.
    pub fn advance(&mut self, frontier: Option<i64>) {
        let now = self.clock.now();
        if let Some(watermark) = frontier.filter(|_| self.plan.event_time.is_some()) {
            self.output.borrow().metrics().reaches(watermark);
        }
        let mut slots = std::mem::take(&mut self.narrow);
        while let Some((time, input)) = self.waiting.pop(frontier, &mut slots) {
            self.changes += 1;
            self.row(now, time, input, &mut slots);
        }
        self.narrow = slots;
        self.close(now, frontier);
        self.output.borrow_mut().flush();
    }

    fn row(&mut self, now: i64, time: i64, input: usize, slots: &mut [Value]) {
        let range = self.inputs[input].slots.clone();
        let scanned = self.inputs[input].scan.width();
        let slots = &mut slots[..scanned.min(range.len())];
        if let Some(table) = self.tables.scanned.get_mut(&input) {
            let mut kept: Vec<Value> = slots.iter_mut().map(std::mem::take).collect();
            kept.resize(range.len(), Value::Absent);
            return table.push(KeptRow { time, input, slots: kept.into() });
        }
        if self.plan.ordered {
            self.close(now, Some(self.windows.before(time)));
        }
        // Where the row is all there is, it is worked on where it stands.
        let alone = self.inputs.len() == 1 && slots.len() == self.wide.len();
        let mut wide = std::mem::take(&mut self.wide);
        if !alone {
            for (place, value) in wide[range.clone()].iter_mut().zip(slots.iter_mut()) {
                *place = std::mem::take(value);
            }
        }
        let row = if alone { slots } else { wide.as_mut_slice() };
        let result = self.arrive(now, time, input, range.clone(), row);
        if !alone {
            wide[range].fill(Value::Absent);
        }
        self.wide = wide;
        if let Err(error) = result {
            let place = match error {
                RowLost::Step(_) => Place::Analytic,
                RowLost::Filter(_) => Place::Window,
            };
            self.output.borrow_mut().error(place, error);
        }
    }

    fn arrive(
        &mut self,
        now: i64,
        time: i64,
        input: usize,
        slots: std::ops::Range<usize>,
        row: &mut [Value],
    ) -> Result<(), RowLost> {
        let RuleOperator { plan, inputs, context, memories, windows, results, tables, key, .. } = self;
        let rule = context.clone();
        let context = rule.row(now, time);
        memories.run(&plan.steps, input, row, &context).map_err(RowLost::Step)?;
        let scope = Scope { slots: row, context: &context };
        if !passes(&plan.admit, &scope).map_err(RowLost::Filter)? {
            return Ok(());
        }
        let passes = passes(&plan.filter, &scope).map_err(|error| format!("run Where error: {error}"));
        let mut arrival = Arrival { time, input, row, slots, passes, context: &context, key };
        if matches!(plan.window, WindowSpec::Each) {
            let ask = |join: &Join, key: &[Value], give: Give<'_>| tables.ask(inputs, join, key, give);
            let others = Others { tables: &tables.scanned, ask: &ask };
            results.row(plan, inputs, &mut arrival, others);
        } else if matches!((&plan.window, &arrival.passes), (WindowSpec::Hopping { .. }, Err(_))) {
            // By the clock or in event time, a row without a truth belongs to no window.
            if let Err(error) = arrival.passes {
                self.output.borrow_mut().error(Place::Filter, error);
            }
        } else {
            windows.row(plan, arrival, &mut |closed| {
                let ask = |join: &Join, key: &[Value], give: Give<'_>| tables.ask(inputs, join, key, give);
                let others = Others { tables: &tables.scanned, ask: &ask };
                results.window(plan, inputs, now, closed, others);
            });
        }
        Ok(())
    }

    fn close(&mut self, now: i64, frontier: Option<i64>) {
        let RuleOperator { plan, inputs, output, windows, results, tables, changes, .. } = self;
        windows.advance(frontier, &mut |closed| {
            *changes += 1;
            output.borrow().metrics().works(now, 0);
            if plan.event_time.is_none() {
                // The result was due when the window ended.
                let late = u64::try_from(now.saturating_sub(closed.end)).unwrap_or(0);
                output.borrow_mut().received(Instant::now().checked_sub(Duration::from_millis(late)));
            }
            let ask = |join: &Join, key: &[Value], give: Give<'_>| tables.ask(inputs, join, key, give);
            let others = Others { tables: &tables.scanned, ask: &ask };
            results.window(plan, inputs, now, closed, others);
        });
    }
}

impl Tables {
    /// Gives the slots of the lookup table's rows with this key.
    fn ask(&self, inputs: &[Input], join: &Join, key: &[Value], give: Give<'_>) {
        let Some(index) = self.lookups.get(&join.input) else { return };
        let columns = &inputs[join.input].scan.columns;
        index.lookup(key, &mut |row| {
            let slot = |column: &Column| match &column.source {
                ColumnSource::Key(wanted) => {
                    row.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.clone()).unwrap_or_default()
                }
                ColumnSource::Whole => Value::object(row.iter().cloned()),
                ColumnSource::Meta => Value::object([]),
            };
            give(columns.iter().map(slot).collect());
        });
    }
}

/// The scan tables of a rule, by input.
fn scan_tables(plan: &Stateful, inputs: &[Input]) -> HashMap<usize, ScanTable> {
    let table = |(number, input): (usize, &Input)| match input.role {
        Role::Table { retain } => {
            let join = plan.joins.iter().find(|join| join.input == number);
            Some((number, ScanTable::new(input, join, retain)))
        }
        _ => None,
    };
    inputs.iter().enumerate().filter_map(table).collect()
}

fn passes(filter: &Option<Filter>, scope: &Scope<'_>) -> Result<bool, EvalError> {
    let Some(filter) = filter else { return Ok(true) };
    for test in &filter.tests {
        if !test.holds.test(&scope.slots[test.slot], scope.context)? {
            return Ok(false);
        }
    }
    filter.rest.as_ref().map_or(Ok(true), |rest| rest.test(scope))
}
