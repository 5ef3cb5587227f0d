//! The operator of a rule with state: it orders rows, runs analytic functions, fills windows and makes results.

mod divided;
mod state;
mod tables;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::expr::{EvalError, Scope};
use crate::metrics::{FlowCounts, Place, Point};
use crate::plan::fingerprint::Fingerprint;
use crate::plan::physical::{Filter, Input, Join, Role, Stateful, WindowSpec};
use crate::value::Value;
use crate::value::key::GroupKey;

use super::analytic::{Elements, Memories};
use super::batch::RowBatch;
use super::context::RuleContext;
use super::division::Division;
use super::forward::Forward;
use super::join::{Give, Others};
use super::lookup::Lookup;
use super::operate::{Operate, Progress};
use super::output::Output;
use super::queue::RuleQueue;
use super::results::Results;
use super::row::{KeptRow, ScannedRow};
use super::slots::SlotNames;
use super::state::checkpoint::CheckpointError;
use super::state::measure::StateSize;
use super::timers::{Alarm, Turn, WorkerClock};
use super::waiting::Waiting;
use super::window::{Arrival, Closed, ClosedWindows, Partial, Windows};
use divided::{Own, Shipping};
use tables::{Tables, scan_tables};

pub use divided::{at_home, joined_input};

/// How often a rule that waits for full sinks or for home checks them, ms.
const SINK_WAIT: i64 = 10;

/// The state of a rule. It works in turns ([`RuleOperator::work`]), so that neither a large result nor a pause stops
/// other rules. Between two turns its position is in `inbox`, `current`, `closed` and the results.
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
    /// Wakes the rule at the ends of windows in processing time.
    alarm: Alarm,
    /// The number of changes of the state.
    changes: u64,
    /// Rows whose order does not matter, and the number of them that were taken.
    inbox: (RowBatch, usize),
    /// The next row, in `narrow`.
    current: Option<(i64, usize)>,
    /// Closed windows without results so far.
    closed: ClosedWindows,
    /// The time reached; `None`: its end.
    frontier: Option<i64>,
    /// The end of a pause, ms since the epoch.
    paused_until: Option<i64>,
    /// The clock has stepped back: open windows must be sent, and new ones begin.
    stepping_back: bool,
    /// Rows since the last measurement.
    unmeasured: u32,
    /// Scratch: a row of one input, as wide as those of the queue.
    narrow: Vec<Value>,
    /// Scratch: a joined row.
    wide: Vec<Value>,
    /// Scratch: a key.
    key: GroupKey,
    /// The row whose elements continue one by one.
    unnested: Option<Unnested>,
    /// the counts of WHERE and of windows
    flow: FlowCounts,
    /// the part of `flow` that is in the metrics already
    reported: FlowCounts,
    /// Set where the state is divided by key.
    own: Option<Own>,
    /// Set where home makes the results of windows.
    shipping: Option<Shipping>,
}

/// A row that continues once for each of its elements.
struct Unnested {
    time: i64,
    input: usize,
    slots: std::ops::Range<usize>,
    row: Vec<Value>,
    elements: Elements,
    /// The rows sent before its first element.
    sent: u64,
}

impl Operate for RuleOperator {
    fn rows(&mut self, batch: RowBatch) {
        RuleOperator::rows(self, batch);
    }

    fn advance(&mut self, frontier: Option<i64>) {
        RuleOperator::advance(self, frontier);
    }

    fn work(&mut self, turn: &mut Turn) -> Progress {
        RuleOperator::work(self, turn)
    }

    fn settle(&mut self) {
        RuleOperator::settle(self);
    }

    fn forget(&mut self) {
        RuleOperator::forget(self);
    }

    fn changes(&self) -> u64 {
        RuleOperator::changes(self)
    }

    fn save(&self, plan: &Fingerprint, queue: &RuleQueue) -> Result<Vec<u8>, CheckpointError> {
        RuleOperator::save(self, plan, queue)
    }

    fn restore(&mut self, checkpoint: &[u8], plan: &Fingerprint, queue: &RuleQueue) -> Result<(), CheckpointError> {
        RuleOperator::restore(self, checkpoint, plan, queue)
    }

    fn size(&self, queue: &RuleQueue) -> StateSize {
        RuleOperator::size(self, queue)
    }

    fn unprocessed(&self) -> u64 {
        let (inbox, taken) = &self.inbox;
        let waiting = self.waiting.due(self.frontier.filter(|_| self.plan.ordered));
        (inbox.times.len() - taken + waiting + usize::from(self.current.is_some())) as u64
    }

    fn scanned(&self, limit: usize) -> Vec<ScannedRow> {
        RuleOperator::scanned(self, limit)
    }
}

impl RuleOperator {
    /// `alarm` wakes the rule at the ends of windows in processing time.
    pub fn new(
        plan: Stateful,
        inputs: Vec<Input>,
        lookups: HashMap<usize, Lookup>,
        context: Rc<RuleContext>,
        output: Rc<RefCell<Output>>,
        clock: Rc<WorkerClock>,
        alarm: Alarm,
    ) -> Self {
        let width = inputs.iter().map(|input| input.scan.width()).max().unwrap_or(0);
        output.borrow_mut().name_slots(SlotNames::of(&inputs));
        RuleOperator {
            waiting: Waiting::new(width),
            memories: Memories::new(&plan.steps),
            windows: Windows::new(&plan, &context.zone, alarm.clone()),
            results: Results::new(&plan, context.clone(), output.clone()),
            unnested: None,
            tables: Tables { scanned: scan_tables(&plan, &inputs), lookups },
            alarm,
            changes: 0,
            inbox: (RowBatch::of_width(width), 0),
            current: None,
            closed: ClosedWindows::new(),
            frontier: Some(i64::MIN),
            paused_until: None,
            stepping_back: false,
            unmeasured: 0,
            narrow: vec![Value::Absent; width],
            wide: vec![Value::Absent; plan.row_slots],
            key: GroupKey::default(),
            flow: FlowCounts::default(),
            reported: FlowCounts::default(),
            own: None,
            shipping: None,
            plan,
            inputs,
            context,
            output,
            clock,
        }
    }

    /// Keeps only the state of this owner's keys. `home` sends to the thread that makes the results of windows, if the
    /// rule has some.
    #[must_use]
    pub fn of_owner(self, division: Division, owner: usize, home: Option<Rc<Forward>>) -> Self {
        let shipping = home.map(|home| Shipping { home, reported: None });
        let mut owner = RuleOperator { own: Some(Own { division, owner: Some(owner) }), shipping, ..self };
        if owner.joins_for_home() {
            owner.plan = divided::at_owner(owner.plan);
            owner.results = owner.new_results();
        }
        owner
    }

    /// Whether windows end here, and the groups of their joined rows go home.
    fn joins_for_home(&self) -> bool {
        self.shipping.is_some() && !self.plan.joins.is_empty()
    }

    fn new_results(&self) -> Results {
        let results = Results::new(&self.plan, self.context.clone(), self.output.clone());
        match &self.shipping {
            Some(Shipping { home, .. }) if self.joins_for_home() => results.for_home(home.clone()),
            _ => results,
        }
    }

    /// Receives the slices of all owners of keys, and makes the results. The plan must be that of [`at_home`].
    #[must_use]
    pub fn of_home(self, division: Division) -> Self {
        RuleOperator { own: Some(Own { division, owner: None }), ..self }
    }

    pub fn rows(&mut self, mut batch: RowBatch) {
        self.output.borrow_mut().received(batch.received);
        self.changes += (batch.times.len() + batch.partials.len()) as u64;
        self.stepping_back |= batch.stepped_back;
        if !self.plan.ordered && self.tables.scanned.is_empty() {
            return self.inbox.0.append(batch);
        }
        batch.each(|time, input, slots| {
            if self.inputs[input].role == Role::Stream {
                self.waiting.push(time, input, slots);
            } else {
                self.table_row(time, input, slots);
            }
        });
    }

    /// Time has reached `frontier`: rows up to it continue, and windows that it closes are sent, in order; `None`: all.
    pub fn advance(&mut self, frontier: Option<i64>) {
        if let Some(watermark) = frontier.filter(|_| self.plan.event_time.is_some()) {
            self.output.borrow().metrics().reaches(watermark);
        }
        self.frontier = frontier;
    }

    /// Works until nothing is left, the turn is over, or the rule has to wait.
    pub fn work(&mut self, turn: &mut Turn) -> Progress {
        let now = self.clock.now();
        let pauses = !turn.is_endless() && !self.clock.pauses_end();
        if let Some(until) = self.paused_until.filter(|_| pauses)
            && now < until
        {
            return Progress::PauseUntil(until);
        }
        if self.paused_until.take().is_some() {
            let mut output = self.output.borrow_mut();
            output.hold(false);
            output.flush();
        }
        let progress = self.work_at(now, turn);
        let mut output = self.output.borrow_mut();
        output.flush();
        let flow = self.results.with_counts(self.flow);
        output.metrics().flow.add(&flow, &std::mem::replace(&mut self.reported, flow));
        progress
    }

    /// Works until nothing is left, without pauses: before a checkpoint, and at the end of input.
    pub fn settle(&mut self) {
        while !matches!(self.work(&mut Turn::endless()), Progress::Done | Progress::StateFull(_)) {}
    }

    fn work_at(&mut self, now: i64, turn: &mut Turn) -> Progress {
        loop {
            if self.results.is_emitting() {
                let RuleOperator { plan, inputs, results, tables, .. } = self;
                let ask = |join: &Join, key: &[Value], give: Give<'_>| tables.ask(inputs, join, key, give);
                let others = Others { inputs, joins: &plan.joins, tables: &tables.scanned, ask: &ask };
                if !results.resume(plan, &others, turn) {
                    return if results.has_room() { Progress::More } else { Progress::WaitUntil(now + SINK_WAIT) };
                }
            } else if let Some(closed) = self.closed.pop_front() {
                self.begin(now, closed);
                continue;
            } else if self.next_element(now) {
                if turn.spend(1) {
                    return Progress::More;
                }
            } else if self.stepping_back {
                match &self.shipping {
                    Some(shipping) => shipping.home.ship(self.windows.take_slices(None), None),
                    None => self.windows.advance(None, &mut self.closed),
                }
                if self.closed.is_empty() {
                    self.windows.restart(&self.plan, &self.context.zone, self.alarm.clone());
                    self.stepping_back = false;
                }
                continue;
            } else if let Some(partial) = self.inbox.0.pop_partial(self.inbox.1) {
                let groups = partial.groups.len() as u32;
                self.merge(partial);
                if let Some(full) = self.limit_state(groups) {
                    return full;
                }
                if turn.spend(groups) {
                    return Progress::More;
                }
            } else if let Some((time, input)) = self.next_row() {
                // Windows that end with the arrival of the row are sent first.
                let ends_windows = self.plan.ordered || self.plan.counts_hits || self.windows.rows_end_windows();
                if ends_windows && self.shipping.is_none() {
                    self.windows.advance(Some(self.windows.before(time)), &mut self.closed);
                    if !self.closed.is_empty() {
                        continue;
                    }
                }
                self.current = None;
                self.row(now, time, input);
                if let Some(full) = self.limit_state(1) {
                    return full;
                }
                if turn.spend(1) {
                    return Progress::More;
                }
            } else if self.shipping.is_some() {
                let full = self.shipping.as_ref().is_some_and(|shipping| shipping.home.is_full());
                if full && !turn.is_endless() {
                    return Progress::WaitUntil(now + SINK_WAIT);
                }
                if self.joins_for_home() {
                    self.windows.advance(self.frontier, &mut self.closed);
                    if !self.closed.is_empty() {
                        continue;
                    }
                }
                self.ship();
                return Progress::Done;
            } else {
                self.windows.advance(self.frontier, &mut self.closed);
                if self.closed.is_empty() {
                    return Progress::Done;
                }
                continue;
            }
            let pause = self.context.pause.take();
            if pause > 0 && !turn.is_endless() && !self.clock.pauses_end() {
                let until = now.saturating_add_unsigned(pause);
                self.paused_until = Some(until);
                // The row's result follows after the pause.
                self.output.borrow_mut().hold(true);
                return Progress::PauseUntil(until);
            }
        }
    }

    /// Sends the content of windows home. In event time: the slices that are over, and the time at which they end. By
    /// the clock: everything, because home decides when a window is over.
    fn ship(&mut self) {
        let RuleOperator { windows, shipping: Some(Shipping { home, reported }), frontier, plan, .. } = self else {
            return;
        };
        let Some(reached) = frontier.filter(|_| plan.event_time.is_some()) else {
            let slices = windows.take_slices(None);
            if !slices.is_empty() {
                home.ship(slices, None);
            }
            return;
        };
        if reached == i64::MIN || reported.is_some_and(|reported| reached < reported) {
            return;
        }
        *reported = windows.slice_end(reached);
        // Where rows are joined, what is left belongs to windows that have not ended.
        let slices = if plan.joins.is_empty() { windows.take_slices(Some(reached)) } else { Vec::new() };
        home.ship(slices, Some(reached));
    }

    /// The time and input of the next row; its slots are then in `narrow`.
    fn next_row(&mut self) -> Option<(i64, usize)> {
        if self.current.is_some() {
            return self.current;
        }
        let (inbox, taken) = &mut self.inbox;
        if let Some(&time) = inbox.times.get(*taken) {
            let slots = &mut inbox.values[*taken * inbox.width..][..inbox.width];
            self.narrow.iter_mut().zip(slots).for_each(|(narrow, slot)| *narrow = std::mem::take(slot));
            self.current = Some((time, usize::from(inbox.inputs[*taken])));
            *taken += 1;
            if *taken == inbox.times.len() {
                inbox.clear_rows();
                *taken = 0;
            }
        } else {
            self.current = self.waiting.pop(self.frontier.filter(|_| self.plan.ordered), &mut self.narrow);
            self.changes += u64::from(self.current.is_some());
        }
        self.current
    }

    /// Adds a row of a scan table to the table.
    fn table_row(&mut self, time: i64, input: usize, slots: &mut [Value]) {
        let range = self.inputs[input].slots.clone();
        let scanned = self.inputs[input].scan.width().min(range.len());
        if let Some(table) = self.tables.scanned.get_mut(&input) {
            let mut kept: Vec<Value> = slots[..scanned].iter_mut().map(std::mem::take).collect();
            kept.resize(range.len(), Value::Absent);
            table.push(KeptRow { time, input, slots: kept.into() });
        }
    }

    /// Adds the row in `narrow` to its window.
    fn row(&mut self, now: i64, time: i64, input: usize) {
        let range = self.inputs[input].slots.clone();
        let scanned = self.inputs[input].scan.width().min(range.len());
        let mut narrow = std::mem::take(&mut self.narrow);
        // A row alone is processed in place.
        let alone = self.inputs.len() == 1 && scanned == self.wide.len();
        if alone {
            self.arrive(now, time, input, range, &mut narrow[..scanned], 0);
        } else {
            let mut wide = std::mem::take(&mut self.wide);
            for (place, value) in wide[range.clone()].iter_mut().zip(&mut narrow[..scanned]) {
                *place = std::mem::take(value);
            }
            self.arrive(now, time, input, range.clone(), &mut wide, 0);
            wide[range].fill(Value::Absent);
            self.wide = wide;
        }
        self.narrow = narrow;
    }

    /// Runs the steps for a row from number `from` on. It then continues, once or once for each of its elements.
    fn arrive(
        &mut self,
        now: i64,
        time: i64,
        input: usize,
        slots: std::ops::Range<usize>,
        row: &mut [Value],
        from: usize,
    ) {
        let rule = self.context.clone();
        match self.memories.run(&self.plan.steps, from, input, row, &rule.row(now, time)) {
            Err(error) => {
                let text = format_args!("run Select error: {error}");
                self.output.borrow_mut().error_of_row(Place::Analytic, text, row);
            }
            Ok(None) => self.pass(now, time, input, slots, row),
            Ok(Some(elements)) => {
                let sent = self.results.sent();
                self.unnested = Some(Unnested { time, input, slots, row: row.to_vec(), elements, sent });
            }
        }
    }

    /// Continues with the next element's row; false: there are no more.
    fn next_element(&mut self, now: i64) -> bool {
        let Some(mut unnested) = self.unnested.take() else { return false };
        // Without a window, LIMIT counts the rows that one message makes.
        let limit = self.plan.limit.filter(|_| matches!(self.plan.window, WindowSpec::Each)).unwrap_or(u64::MAX);
        if self.results.sent() - unnested.sent >= limit {
            return false;
        }
        let Some(value) = unnested.elements.values.pop_front() else { return false };
        let Unnested { time, input, .. } = unnested;
        let (slots, from) = (unnested.slots.clone(), unnested.elements.next);
        let mut row = unnested.row.clone();
        row[unnested.elements.slot] = value;
        self.arrive(now, time, input, slots, &mut row, from);
        self.unnested = Some(unnested);
        true
    }

    fn pass(&mut self, now: i64, time: i64, input: usize, slots: std::ops::Range<usize>, row: &mut [Value]) {
        let RuleOperator { plan, inputs, context, output, windows, results, tables, closed, key, flow, .. } = self;
        let rule = context.clone();
        let context = rule.row(now, time);
        let lose = |place: Place, operator: &str, error: EvalError, row: &[Value]| {
            output.borrow_mut().error_of_row(place, format_args!("run {operator} error: {error}"), row);
        };
        flow.filter_in += 1;
        let scope = Scope { slots: row, context: &context };
        match Filter::passes(plan.admit.as_ref(), &scope) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return lose(Place::Window, "Window Filter", error, row),
        }
        // A row with an error does not pass, but counts in windows that count rows.
        let passes = Filter::passes(plan.filter.as_ref(), &scope).unwrap_or_else(|error| {
            lose(Place::Filter, "Where", error, row);
            false
        });
        if passes {
            flow.filter_out += 1;
            if plan.joined_filter.is_none() {
                output.borrow().tap(Point::Filter, row);
            }
        }
        let mut arrival = Arrival { time, input, row, slots, passes, context: &context, key };
        if matches!(plan.window, WindowSpec::Each) {
            let ask = |join: &Join, key: &[Value], give: Give<'_>| tables.ask(inputs, join, key, give);
            let others = Others { inputs, joins: &plan.joins, tables: &tables.scanned, ask: &ask };
            results.row(plan, &mut arrival, &others);
        } else {
            flow.window_in += 1;
            if let Err(error) = windows.row(plan, &mut arrival, closed) {
                lose(Place::Aggregate, "Select", error, arrival.row);
            }
        }
    }

    /// Adds rows that another thread has accumulated to their window. The scan has tested WHERE for them.
    fn merge(&mut self, partial: Partial) {
        let RuleOperator { output, windows, flow, .. } = self;
        flow.filter_in += partial.seen;
        flow.filter_out += partial.seen;
        flow.window_in += partial.seen;
        windows.merge(partial, &mut |error, rows| {
            let mut output = output.borrow_mut();
            (0..rows).for_each(|_| output.error(Place::Aggregate, format_args!("run Select error: {error}")));
        });
    }

    /// Starts the result of a window.
    fn begin(&mut self, now: i64, window: Closed) {
        let joins_for_home = self.joins_for_home();
        let RuleOperator { plan, inputs, output, results, tables, changes, flow, .. } = self;
        *changes += 1;
        // Home counts the window.
        if !joins_for_home {
            flow.windows += 1;
            let metrics = output.borrow().metrics().clone();
            metrics.works(now, 0);
            if metrics.taps.wants(Point::Window) {
                metrics.taps.offer(Point::Window, || window.shown());
            }
        }
        if plan.event_time.is_none() {
            // The result was due at the end of the window.
            let late = u64::try_from(now.saturating_sub(window.end)).unwrap_or(0);
            output.borrow_mut().received(Instant::now().checked_sub(Duration::from_millis(late)));
        }
        let ask = |join: &Join, key: &[Value], give: Give<'_>| tables.ask(inputs, join, key, give);
        let others = Others { inputs, joins: &plan.joins, tables: &tables.scanned, ask: &ask };
        results.begin(plan, now, window, &others);
    }
}
