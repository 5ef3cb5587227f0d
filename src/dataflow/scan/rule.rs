//! One rule in a stream's scan: its filter, and what happens to the rows that pass.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::expr::{Expr, Scope};
use crate::format::schema::SchemaError;
use crate::metrics::{Place, Point, RuleMetrics};
use crate::plan::physical::{Item, Projection, Scan as ScanPlan, Test};
use crate::value::Value;

use crate::dataflow::command::RuleKey;
use crate::dataflow::context::RuleContext;
use crate::dataflow::event_clock::{LateBy, Verdict};
use crate::dataflow::exchange::Exchange;
use crate::dataflow::forward::Forward;
use crate::dataflow::output::Output;
use crate::dataflow::queue::RuleQueue;

use super::event_time;
use super::index::ColumnTest;
use super::message::{Body, Message};

/// The destination of rows that pass.
pub enum Target {
    /// To the sinks.
    Results(Projection),
    /// To the rule's dataflow, as rows of this input.
    Queue(Rc<RuleQueue>, u16),
    /// To the thread of the rule's state, as rows of this input.
    Forward(Rc<Forward>, u16),
    /// to the thread that has the state of the row's key, likewise
    Exchange(Rc<Exchange>, u16),
}

impl Target {
    /// Whether all columns are wanted as values.
    pub(super) fn takes_values(&self) -> bool {
        !matches!(self, Target::Results(_))
    }

    /// Whether the limit of waiting rows is reached: then the stream should wait.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Target::Results(_) => false,
            Target::Queue(queue, _) => queue.is_full() && !queue.overflows(),
            Target::Forward(forward, _) => forward.is_full(),
            Target::Exchange(exchange, _) => exchange.is_full(),
        }
    }

    /// Whether it must learn when the last waiting message has run, if it knows that messages wait; `event_time`: the
    /// rule is in event time.
    pub(super) fn waits_for_the_last(&self, event_time: bool) -> bool {
        match self {
            Target::Results(_) => false,
            // It puts the rows of several threads together.
            Target::Queue(queue, _) => event_time && queue.is_shared(),
            Target::Forward(forward, _) => event_time || forward.holds_rows(),
            Target::Exchange(exchange, _) => event_time || exchange.holds_rows(),
        }
    }

    /// Hands over everything up to `now`; `behind`: the stream has more messages.
    pub(super) fn hand_over(&self, now: i64, behind: bool) {
        match self {
            Target::Results(_) => {}
            Target::Queue(queue, input) => {
                queue.set_behind(*input, behind);
                queue.hand_over();
            }
            Target::Forward(forward, input) => forward.hand_over(*input, now, behind),
            Target::Exchange(exchange, input) => exchange.hand_over(*input, now, behind),
        }
    }

    /// Hands over what was held back for more messages.
    pub(super) fn flush(&self) {
        if let Target::Forward(forward, _) = self {
            forward.flush();
        }
    }
}

/// A part of the message.
#[derive(Clone, Copy)]
pub(super) enum Part {
    /// The stream's column with this number.
    Column(usize),
    Whole,
    /// The metadata of the message and of its connection.
    Meta,
    /// Its topic, as an object.
    Topic,
}

/// A rule on the stream.
pub(super) struct ScanRule {
    pub(super) key: RuleKey,
    pub(super) plan: ScanPlan,
    pub(super) context: Rc<RuleContext>,
    pub(super) output: Rc<RefCell<Output>>,
    pub(super) metrics: Arc<RuleMetrics>,
    pub(super) target: Target,
    /// The part of the message for each slot of the rule.
    pub(super) sources: Box<[Part]>,
    /// Slots whose text may be copied to the result.
    pub(super) copied: Box<[bool]>,
    /// Slots that the filter reads besides its tests.
    pub(super) filter_slots: Box<[usize]>,
    /// Slots that are read as values after the filter.
    pub(super) row_slots: Box<[usize]>,
    /// The current row.
    pub(super) slots: Box<[Value]>,
    /// Whether its sinks may make the stream wait.
    pub(super) may_wait: bool,
    /// Whether it is in the scan's list of written rules.
    pub(super) written: bool,
    /// Whether it is in the scan's list of touched rules.
    pub(super) touched: bool,
    /// The number of rows that passed its filter and are not in `metrics` yet.
    pub(super) passed: u64,
    /// Whether the current message is lost for this rule.
    pub(super) skips: bool,
    /// whether the rule's code panicked: then it gets no more rows
    pub(super) failed: bool,
    /// In event time: the columns that it reads and whose values may not fit their types.
    pub(super) typed: Box<[usize]>,
    /// The unit of its first timestamp was checked.
    pub(super) unit_checked: bool,
}

/// The slots that the filter reads besides its tests, and those that are read as values after it.
pub(super) fn read_slots(plan: &ScanPlan, target: &Target, copied: &[bool]) -> (Vec<usize>, Vec<usize>) {
    let columns = plan.columns.len();
    let (early, late) = plan.computed.split_at(plan.computed_for_filter);
    let mut filter: Vec<usize> = early.iter().flat_map(Expr::slots).collect();
    if let Some(rest) = plan.filter.as_ref().and_then(|filter| filter.rest.as_ref()) {
        filter.extend(rest.slots());
    }
    let mut row: Vec<usize> = late.iter().flat_map(Expr::slots).collect();
    match target {
        Target::Queue(..) | Target::Forward(..) | Target::Exchange(..) => row.extend(0..columns),
        Target::Results(projection) => {
            for item in &projection.items {
                match item {
                    Item::Star { .. } => {}
                    Item::Field { expr: Expr::Slot(slot), .. } if copied[*slot] => {}
                    Item::Field { expr, .. } | Item::Hidden { expr } | Item::Spread { expr, .. } => {
                        row.extend(expr.slots());
                    }
                }
            }
        }
    }
    for slots in [&mut filter, &mut row] {
        slots.sort_unstable();
        slots.dedup();
        slots.retain(|&slot| slot < columns);
    }
    row.retain(|slot| !filter.contains(slot));
    (filter, row)
}

/// Why a row was dropped.
enum Stop {
    /// It did not pass, or is late.
    Quietly,
    /// An error of an operator, to be counted.
    Error(Place, String),
}

impl From<&SchemaError> for Stop {
    fn from(error: &SchemaError) -> Self {
        Stop::Error(Place::Decoder, error.to_string())
    }
}

impl ScanRule {
    /// The tests at the start of its filter, if the index may decide by them.
    pub(super) fn tests(&self) -> Vec<ColumnTest<'_>> {
        // The watermark follows every row.
        let filter = self.plan.filter.as_ref().filter(|_| self.plan.event_time.is_none());
        let tests = filter.map_or(&[][..], |filter| &filter.tests);
        let test = |test: &'_ Test| match self.sources[test.slot] {
            Part::Column(column) => Some(column),
            Part::Whole | Part::Meta | Part::Topic => None,
        };
        tests.iter().map_while(|each| Some((test(each)?, &each.holds))).collect()
    }

    /// Runs the rule on a row; true if it has something to hand over. A panic in the rule's code ends only this rule.
    pub(super) fn guarded(&mut self, message: &mut Message<'_>, now: i64, received: Instant) -> bool {
        match catch_unwind(AssertUnwindSafe(|| self.row(message, now, received))) {
            Ok(Ok(())) => true,
            Ok(Err(Stop::Quietly)) => self.plan.event_time.is_some(),
            Ok(Err(Stop::Error(place, error))) => {
                let mut output = self.output.borrow_mut();
                if matches!(self.target, Target::Results(_)) {
                    output.received(Some(received));
                }
                output.error_of(place, error, Some(&message.shown()));
                true
            }
            Err(_) => {
                self.failed = true;
                self.metrics.fail("internal error: the rule's code panicked; the rule is stopped");
                false
            }
        }
    }

    fn row(&mut self, message: &mut Message<'_>, now: i64, received: Instant) -> Result<(), Stop> {
        let time = match &self.plan.event_time {
            None => now,
            Some(_) => self.event_time(message, now)?,
        };
        self.test(message, now, time)?;
        self.fill_for_filter(message)?;
        self.compute(0..self.plan.computed_for_filter, now, time, Place::Filter)?;
        if let Some(rest) = self.plan.filter.as_ref().and_then(|filter| filter.rest.as_ref()) {
            let context = self.context.row(now, time);
            match rest.test(&Scope { slots: &self.slots, context: &context }) {
                Ok(true) => {}
                Ok(false) => return Err(Stop::Quietly),
                Err(error) => return Err(Stop::Error(Place::Filter, format!("run Where error: {error}"))),
            }
        }
        if matches!(message.body, Body::Row(_)) {
            // There is no text to copy.
            for slot in 0..self.plan.columns.len() {
                self.fill(slot, message)?;
            }
        } else {
            for index in 0..self.row_slots.len() {
                self.fill(self.row_slots[index], message)?;
            }
        }
        self.passed += 1;
        if self.metrics.taps.wants(Point::Filter) && matches!(self.target, Target::Results(_)) {
            self.metrics.taps.offer(Point::Filter, || message.shown().into_owned());
        }
        self.compute(self.plan.computed_for_filter..self.plan.computed.len(), now, time, Place::Project)?;
        match &self.target {
            Target::Queue(queue, _) if queue.overflows() => Err(Stop::Error(
                Place::Window,
                "delay() holds the rule back: too many rows wait for it, and this one is dropped".into(),
            )),
            Target::Queue(queue, input) => {
                queue.push(*input, time, received, &mut self.slots);
                Ok(())
            }
            Target::Forward(forward, input) => {
                forward.push(*input, now, time, received, &mut self.slots);
                Ok(())
            }
            Target::Exchange(exchange, input) => {
                let event_time = self.plan.event_time.is_some();
                let pushed = exchange.push(*input, now, time, received, &mut self.slots, event_time);
                pushed.map_err(|late| self.is_late(late))
            }
            Target::Results(projection) => {
                let context = self.context.row(now, time);
                let scope = Scope { slots: &self.slots, context: &context };
                let (sources, copied) = (&self.sources, &self.copied);
                let raw = |slot: usize| match sources.get(slot) {
                    Some(Part::Whole) => message.object(),
                    Some(Part::Column(column)) if copied[slot] => message.text(*column),
                    _ => None,
                };
                let mut output = self.output.borrow_mut();
                output.received(Some(received));
                output.row(projection, &scope, &raw).map_err(|error| Stop::Error(error.place(), error.to_string()))?;
                output.end_message();
                Ok(())
            }
        }
    }

    /// The tests at the front of the filter.
    fn test(&self, message: &mut Message<'_>, now: i64, time: i64) -> Result<(), Stop> {
        let Some(filter) = &self.plan.filter else { return Ok(()) };
        let context = self.context.row(now, time);
        for test in &filter.tests {
            let Part::Column(column) = self.sources[test.slot] else { continue };
            match test.holds.test(message.value(column)?, &context) {
                Ok(true) => {}
                Ok(false) => return Err(Stop::Quietly),
                Err(error) => return Err(Stop::Error(Place::Filter, format!("run Where error: {error}"))),
            }
        }
        Ok(())
    }

    fn fill_for_filter(&mut self, message: &mut Message<'_>) -> Result<(), Stop> {
        for index in 0..self.filter_slots.len() {
            self.fill(self.filter_slots[index], message)?;
        }
        Ok(())
    }

    fn fill(&mut self, slot: usize, message: &mut Message<'_>) -> Result<(), Stop> {
        self.slots[slot] = match self.sources[slot] {
            Part::Whole => message.whole(),
            Part::Meta => message.metadata(),
            Part::Topic => message.meta_all(),
            Part::Column(column) => message.value(column)?.clone(),
        };
        Ok(())
    }

    fn compute(&mut self, which: std::ops::Range<usize>, now: i64, time: i64, place: Place) -> Result<(), Stop> {
        for index in which {
            let context = self.context.row(now, time);
            let value = self.plan.computed[index]
                .eval(&Scope { slots: &self.slots, context: &context })
                .map_err(|error| Stop::Error(place, format!("run Select error: {error}")))?
                .into_owned();
            self.slots[self.plan.columns.len() + index] = value;
        }
        Ok(())
    }

    /// The row's time; advances the watermark. A row behind the watermark is late. A row with a value that does not fit
    /// its column is refused and does not move the watermark.
    fn event_time(&mut self, message: &mut Message<'_>, now: i64) -> Result<i64, Stop> {
        let Some(event_time) = &self.plan.event_time else { return Ok(0) };
        let value = match self.sources[event_time.slot] {
            Part::Column(column) => message.value(column)?,
            Part::Whole | Part::Meta | Part::Topic => &Value::Absent,
        };
        let time = event_time::read(event_time, value, &self.context.zone, now)
            .map_err(|error| Stop::Error(Place::Decoder, error))?;
        if !std::mem::replace(&mut self.unit_checked, true)
            && let Some(unit) = event_time::other_unit(event_time, value)
        {
            self.metrics.looks_like(unit);
            let odd = format!(
                "the timestamps in {} look like {unit}, but are read as ms: set TIMESTAMP_FORMAT=\"{unit}\"",
                event_time.path
            );
            tracing::warn!(rule = self.context.id, "{odd}");
            self.metrics.odd(odd);
        }
        // A refused row must not move the watermark.
        for column in &self.typed {
            message.value(*column)?;
        }
        let skew = event_time.max_future_skew;
        if skew > 0 {
            let verdict = match &self.target {
                Target::Results(_) => return Ok(time),
                _ if event_time.follows_wall => Verdict::by_wall(time, now, skew),
                Target::Queue(queue, input) => queue.judge(*input, time, now, skew),
                Target::Forward(forward, input) => forward.judge(*input, time, now, skew),
                Target::Exchange(exchange, input) => exchange.judge(*input, time, now, skew),
            };
            match verdict {
                Verdict::Accept => {}
                Verdict::Simulated => tracing::warn!(
                    rule = self.context.id,
                    "the first rows of a stream are far ahead of the clock: it is taken for simulated data, and \
                     maxFutureSkew does not hold for it; write EVENT_CLOCK=\"data\" if it is, else \"wall\""
                ),
                Verdict::Misled => self.metrics.is_misled(),
                Verdict::Hold => return Ok(time),
                Verdict::Drop => {
                    // One timestamp far ahead would make all later rows late.
                    if self.metrics.future.fetch_add(1, Ordering::Relaxed) == 0 {
                        tracing::warn!(
                            rule = self.context.id,
                            ahead_ms = time.saturating_sub(now),
                            "a row is further ahead of the clock than maxFutureSkew and is dropped; further ones are \
                             counted"
                        );
                    }
                    return Err(Stop::Quietly);
                }
            }
        }
        let tolerance = event_time.late_tolerance;
        let in_time = match &self.target {
            Target::Results(_) => Ok(()),
            Target::Queue(queue, input) => queue.advance(*input, time, tolerance, now),
            Target::Forward(forward, input) => forward.advance(*input, time, tolerance),
            Target::Exchange(exchange, input) => {
                exchange.advance(*input, time, tolerance, now);
                Ok(())
            }
        };
        in_time.map(|()| time).map_err(|late| self.is_late(late))
    }

    fn is_late(&self, LateBy(late_by): LateBy) -> Stop {
        self.metrics.is_late(late_by);
        Stop::Quietly
    }
}
