//! The scan of a stream: each message is decoded once, for all rules on the stream.
//!
//! The scan holds, for every rule, its filter and, for rules without state, its projection. Only the columns that
//! rules read are looked for; a value is made only when an expression reads it, and a column that is passed through
//! untouched is copied as the text it came in. Rows for rules with state go into the rule's queue. Rules come and go
//! by changing the scan's table; the dataflow stays.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::catalog::{Format, StreamDef};
use crate::codec::json::{Scanner, Spans, Wanted};
use crate::codec::schema::{self, SchemaError, Strict};
use crate::codec::{delimited, urlencoded};
use crate::expr::{Expr, Scope, cast, compare};
use crate::io::queue::{Frame, FrameBatch, RowFrame};
use crate::metrics::RuleMetrics;
use crate::plan::physical::{ColumnSource, Item, Projection, Scan as ScanPlan};
use crate::sql::ast::DataType;
use crate::value::{Row, Text, Value};

use super::output::{Output, RuleContext};
use super::queue::RuleQueue;

/// Names a rule on its worker.
pub type RuleKey = u64;

/// Where rows that pass a rule's scan go.
pub enum Target {
    /// to the sinks at once
    Results(Projection),
    /// to the rule's dataflow, as rows of this input of the rule
    Queue(Rc<RuleQueue>, u16),
}

/// The scan of one stream.
pub struct StreamScan {
    def: Arc<StreamDef>,
    scanner: Scanner,
    /// the columns that any rule reads; the same key with two types is two columns
    columns: Vec<StreamColumn>,
    cells: Vec<Cell>,
    rules: Vec<ScanRule>,
    zone: jiff::tz::TimeZone,
}

struct StreamColumn {
    key: Text,
    ty: Option<DataType>,
    /// its place in what the scanner looks for
    wanted: usize,
    /// where the stream has STRICT_VALIDATION
    strict: Option<Strict>,
}

/// A column of the message at hand.
enum Cell {
    Unread,
    Read(Value),
    Failed(SchemaError),
}

/// A part of the message.
#[derive(Clone, Copy)]
enum Part {
    /// the stream's column with this number
    Column(usize),
    /// all of it
    Whole,
    /// what its source tells about it
    Meta,
}

struct ScanRule {
    key: RuleKey,
    plan: ScanPlan,
    context: Rc<RuleContext>,
    output: Rc<RefCell<Output>>,
    metrics: Arc<RuleMetrics>,
    target: Target,
    /// what each of the rule's slots is of the message
    sources: Vec<Part>,
    /// slots whose text may be copied to the result as it came
    copied: Vec<bool>,
    /// slots that the filter reads beyond its tests
    filter_slots: Vec<usize>,
    /// slots that what follows the filter reads as values
    row_slots: Vec<usize>,
    /// the row at hand
    slots: Vec<Value>,
    rows_in: u64,
    /// the message at hand is lost for this rule
    skips: bool,
    /// the rule's code panicked: it gets no more rows
    failed: bool,
}

impl StreamScan {
    /// The scan of a stream without rules.
    pub fn new(def: Arc<StreamDef>, zone: jiff::tz::TimeZone) -> Self {
        StreamScan {
            def,
            scanner: Scanner::new(Wanted::new([])),
            columns: Vec::new(),
            cells: Vec::new(),
            rules: Vec::new(),
            zone,
        }
    }

    /// Adds a rule; it gets the rows from the next message on.
    pub fn add(
        &mut self,
        key: RuleKey,
        plan: ScanPlan,
        context: Rc<RuleContext>,
        output: Rc<RefCell<Output>>,
        target: Target,
    ) {
        let metrics = output.borrow().metrics().clone();
        let width = plan.columns.len() + plan.computed.len();
        let untouched = |slot: usize| {
            let column = &plan.columns[slot];
            column.source != ColumnSource::Meta && column.ty.is_none() && !self.def.strict
        };
        let copied: Vec<bool> = match target {
            Target::Results(_) => (0..width).map(|slot| slot < plan.columns.len() && untouched(slot)).collect(),
            Target::Queue(..) => vec![false; width],
        };
        let (filter_slots, row_slots) = read_slots(&plan, &target, &copied);
        self.rules.push(ScanRule {
            key,
            plan,
            context,
            output,
            metrics,
            target,
            sources: Vec::new(),
            copied,
            filter_slots,
            row_slots,
            slots: vec![Value::Absent; width],
            rows_in: 0,
            skips: false,
            failed: false,
        });
        self.rebuild();
    }

    /// Takes a rule away.
    pub fn remove(&mut self, key: RuleKey) {
        self.rules.retain(|rule| rule.key != key);
        self.rebuild();
    }

    /// Whether every sink of every rule takes more results.
    pub fn ready(&self) -> bool {
        self.rules.iter().all(|rule| rule.failed || rule.output.borrow().ready())
    }

    /// Runs batches of messages through all rules. `now` is the arrival of their rows, ms since the epoch.
    pub fn run(&mut self, batches: &[FrameBatch], now: i64) {
        for batch in batches {
            for rule in self.rules.iter_mut().filter(|rule| matches!(rule.target, Target::Results(_))) {
                rule.output.borrow_mut().received(Some(batch.received));
            }
            for frame in &batch.frames {
                self.message(frame, now, batch.received);
            }
        }
        for rule in &mut self.rules {
            rule.metrics.rows_in.fetch_add(std::mem::take(&mut rule.rows_in), Ordering::Relaxed);
            match &rule.target {
                Target::Results(_) => rule.output.borrow_mut().flush(),
                Target::Queue(queue, _) => {
                    queue.hand_over();
                    // Errors of rows that went no further are sent now, where they are sent.
                    rule.output.borrow_mut().flush();
                }
            }
        }
    }

    fn message(&mut self, frame: &Frame, now: i64, received: Instant) {
        if let Frame::Row(row) = frame {
            return self.decoded(row, now, received);
        }
        match self.def.compression.map(|method| method.unpack(frame.bytes())) {
            None => self.unpacked(frame, now, received),
            Some(Ok(bytes)) => self.unpacked(&Frame::Binary(bytes.into()), now, received),
            Some(Err(error)) => self.undecodable(format_args!("cannot unpack: {error}")),
        }
    }

    fn unpacked(&mut self, frame: &Frame, now: i64, received: Instant) {
        if self.def.format != Format::Json {
            return match decode(&self.def, frame) {
                Ok(rows) => rows
                    .into_iter()
                    .for_each(|row| self.decoded(&RowFrame { row, ..RowFrame::default() }, now, received)),
                Err(error) => self.undecodable(format_args!("{error}")),
            };
        }
        let text = match frame {
            Frame::Row(_) => return,
            Frame::Text(text) => text.as_str(),
            Frame::Binary(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => text,
                Err(error) => return self.undecodable(format_args!("binary message is not UTF-8: {error}")),
            },
        };
        // A value that does not fit the schema loses the whole array that it stands in, for the rules that read it.
        let array = self.def.columns.is_some() && text.trim_ascii_start().starts_with('[');
        if array {
            self.check_array(text);
        }
        let StreamScan { scanner, columns, cells, rules, zone, .. } = self;
        let scanned = scanner.scan(text, |object, spans| {
            cells.iter_mut().for_each(|cell| *cell = Cell::Unread);
            let body = Body::Text { text, object: &text[object], spans };
            let mut message = Message { body, columns, cells, zone };
            for rule in rules.iter_mut().filter(|rule| !rule.failed && !rule.skips) {
                rule.rows_in += 1;
                rule.guarded(&mut message, now, received);
            }
        });
        for rule in rules.iter_mut() {
            rule.skips = false;
        }
        if let Err(error) = scanned {
            self.undecodable(format_args!("cannot parse JSON: {error}"));
        }
    }

    /// Runs a row that came decoded.
    fn decoded(&mut self, row: &RowFrame, now: i64, received: Instant) {
        let StreamScan { columns, cells, rules, zone, .. } = self;
        cells.iter_mut().for_each(|cell| *cell = Cell::Unread);
        let mut message = Message { body: Body::Row(row), columns, cells, zone };
        for rule in rules.iter_mut().filter(|rule| !rule.failed) {
            rule.rows_in += 1;
            rule.guarded(&mut message, now, received);
        }
    }

    /// Checks every object of an array against the columns of each rule, before any of its rows runs.
    fn check_array(&mut self, text: &str) {
        let StreamScan { scanner, columns, cells, rules, zone, .. } = self;
        let mut errors: Vec<Option<SchemaError>> = vec![None; columns.len()];
        let scanned = scanner.scan(text, |object, spans| {
            cells.iter_mut().for_each(|cell| *cell = Cell::Unread);
            let body = Body::Text { text, object: &text[object], spans };
            let mut message = Message { body, columns, cells, zone };
            for (column, error) in errors.iter_mut().enumerate().filter(|(_, error)| error.is_none()) {
                *error = message.value(column).err().cloned();
            }
        });
        for rule in rules.iter_mut() {
            let error = rule.sources.iter().find_map(|part| match part {
                Part::Column(column) => errors[*column].as_ref(),
                Part::Whole | Part::Meta => None,
            });
            rule.skips = error.is_some();
            // A message that cannot be scanned is told where it is run.
            if let (Some(error), Ok(_)) = (error, &scanned) {
                rule.output.borrow_mut().error(error);
            }
        }
    }

    fn undecodable(&mut self, error: std::fmt::Arguments<'_>) {
        for rule in self.rules.iter().filter(|rule| !rule.failed) {
            rule.output.borrow_mut().error(error);
        }
    }

    /// Makes the union of the rules' columns anew and tells each rule where its slots are in it.
    fn rebuild(&mut self) {
        let mut keys = indexmap::IndexSet::new();
        self.columns.clear();
        for rule in &mut self.rules {
            rule.sources = rule
                .plan
                .columns
                .iter()
                .map(|column| {
                    let key = match &column.source {
                        ColumnSource::Key(key) => key,
                        ColumnSource::Whole => return Part::Whole,
                        ColumnSource::Meta => return Part::Meta,
                    };
                    let known = self.columns.iter().position(|have| have.key == *key && have.ty == column.ty);
                    Part::Column(known.unwrap_or_else(|| {
                        let strict = self.def.strict.then(|| strict(&self.def, key)).flatten();
                        let (wanted, _) = keys.insert_full(key.clone());
                        self.columns.push(StreamColumn { key: key.clone(), ty: column.ty.clone(), wanted, strict });
                        self.columns.len() - 1
                    }))
                })
                .collect();
        }
        self.scanner = Scanner::new(Wanted::new(keys));
        self.cells.clear();
        self.cells.resize_with(self.columns.len(), || Cell::Unread);
    }
}

/// Why a message of another format than JSON cannot be read.
#[derive(Debug, thiserror::Error)]
enum DecodeError {
    #[error("binary message is not UTF-8: {0}")]
    Utf8(#[from] std::str::Utf8Error),
    #[error("cannot parse form: {0}")]
    Escape(#[from] urlencoded::EscapeError),
}

/// The rows of a message whose format has no need of a scanner.
fn decode(def: &StreamDef, frame: &Frame) -> Result<Vec<Row>, DecodeError> {
    let text = || std::str::from_utf8(frame.bytes());
    match &def.format {
        Format::Binary { column } => Ok(vec![vec![(column.clone(), frame.bytes().to_vec().into())]]),
        Format::Delimited { delimiter, header: true } => {
            Ok(delimited::decode_lines(text()?, delimiter, def.columns.as_deref()))
        }
        Format::Delimited { delimiter, header: false } => {
            Ok(vec![delimited::decode(text()?, delimiter, def.columns.as_deref())])
        }
        Format::UrlEncoded => {
            let mut row = urlencoded::decode(text()?)?;
            delimited::type_values(&mut row, def.columns.as_deref());
            Ok(vec![row])
        }
        // The scanner's, which finds the wanted members only.
        Format::Json => Ok(Vec::new()),
    }
}

fn strict(def: &StreamDef, key: &Text) -> Option<Strict> {
    let column = def.columns.as_ref()?.iter().find(|column| column.name.name == *key)?.clone();
    Some(Strict { column, pattern: def.timestamp_format.clone() })
}

/// The slots that the filter reads (beyond its tests), and those that what follows it reads as values.
fn read_slots(plan: &ScanPlan, target: &Target, copied: &[bool]) -> (Vec<usize>, Vec<usize>) {
    let columns = plan.columns.len();
    let (early, late) = plan.computed.split_at(plan.computed_for_filter);
    let mut filter: Vec<usize> = early.iter().flat_map(Expr::slots).collect();
    if let Some(rest) = plan.filter.as_ref().and_then(|filter| filter.rest.as_ref()) {
        filter.extend(rest.slots());
    }
    let mut row: Vec<usize> = late.iter().flat_map(Expr::slots).collect();
    match target {
        Target::Queue(..) => row.extend(0..columns),
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

/// The message at hand, with its columns as far as they were read.
struct Message<'a> {
    body: Body<'a>,
    columns: &'a [StreamColumn],
    cells: &'a mut [Cell],
    zone: &'a jiff::tz::TimeZone,
}

/// How a message came.
#[derive(Clone, Copy)]
enum Body<'a> {
    /// as JSON: the text, the object in it, and where the object's columns are in the text
    Text { text: &'a str, object: &'a str, spans: &'a Spans },
    /// decoded
    Row(&'a RowFrame),
}

impl<'a> Message<'a> {
    /// The value of one of the stream's columns.
    fn value(&mut self, column: usize) -> Result<&Value, &SchemaError> {
        if matches!(self.cells[column], Cell::Unread) {
            let StreamColumn { key, ty, wanted, strict } = &self.columns[column];
            let (ty, strict) = (ty.as_ref(), strict.as_ref());
            let value = match self.body {
                Body::Text { text, spans, .. } => {
                    schema::convert(key, ty, spans.span(*wanted).map(|span| &text[span]), strict, self.zone)
                }
                Body::Row(frame) => {
                    let value = frame.row.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone());
                    schema::accept(key, ty, value, strict, self.zone)
                }
            };
            self.cells[column] = match value {
                Ok(value) => Cell::Read(value),
                Err(error) => Cell::Failed(error),
            };
        }
        match &self.cells[column] {
            Cell::Read(value) => Ok(value),
            Cell::Failed(error) => Err(error),
            Cell::Unread => unreachable!("the cell was read above"),
        }
    }

    /// The JSON text of a column, where the message is text.
    fn text(&self, column: usize) -> Option<&'a str> {
        match self.body {
            Body::Text { text, spans, .. } => spans.span(self.columns[column].wanted).map(|span| &text[span]),
            Body::Row(_) => None,
        }
    }

    /// The JSON text of the whole message, where it is text.
    fn object(&self) -> Option<&'a str> {
        match self.body {
            Body::Text { object, .. } => Some(object),
            Body::Row(_) => None,
        }
    }

    /// The whole message as a value.
    fn whole(&self) -> Value {
        match self.body {
            Body::Text { object, .. } => Value::Json(object.into()),
            Body::Row(frame) => Value::object(frame.row.iter().cloned()),
        }
    }

    /// What the source tells about the message: memory its topic, others nothing.
    fn metadata(&self) -> Value {
        match self.body {
            Body::Row(frame) if !frame.topic.is_empty() => {
                Value::object([(Text::const_new("topic"), Value::Text(frame.topic.clone()))])
            }
            Body::Text { .. } | Body::Row(_) => Value::object([]),
        }
    }
}

/// Why a row went no further.
enum Stop {
    /// It did not pass, or is late.
    Quietly,
    /// An error, to be counted.
    Error(String),
}

impl From<&SchemaError> for Stop {
    fn from(error: &SchemaError) -> Self {
        Stop::Error(error.to_string())
    }
}

impl ScanRule {
    /// Runs the rule on a row. A panic in the rule's code ends this rule and no other.
    fn guarded(&mut self, message: &mut Message<'_>, now: i64, received: Instant) {
        match catch_unwind(AssertUnwindSafe(|| self.row(message, now, received))) {
            Ok(Ok(()) | Err(Stop::Quietly)) => {}
            Ok(Err(Stop::Error(error))) => self.output.borrow_mut().error(error),
            Err(_) => {
                self.failed = true;
                self.metrics.fail("internal error: the rule's code panicked; the rule is stopped");
            }
        }
    }

    fn row(&mut self, message: &mut Message<'_>, now: i64, received: Instant) -> Result<(), Stop> {
        let time = match &self.plan.event_time {
            None => now,
            Some(_) => self.event_time(message, now)?,
        };
        self.test(message)?;
        self.fill_for_filter(message)?;
        self.compute(0..self.plan.computed_for_filter, now, time)?;
        if let Some(rest) = self.plan.filter.as_ref().and_then(|filter| filter.rest.as_ref()) {
            let context = self.context.row(now, time);
            match rest.test(&Scope { slots: &self.slots, context: &context }) {
                Ok(true) => {}
                Ok(false) => return Err(Stop::Quietly),
                Err(error) => return Err(Stop::Error(format!("run Where error: {error}"))),
            }
        }
        if matches!(message.body, Body::Row(_)) {
            // There is no text that could be copied.
            for slot in 0..self.plan.columns.len() {
                self.fill(slot, message)?;
            }
        } else {
            for index in 0..self.row_slots.len() {
                self.fill(self.row_slots[index], message)?;
            }
        }
        self.compute(self.plan.computed_for_filter..self.plan.computed.len(), now, time)?;
        match &self.target {
            Target::Queue(queue, input) => {
                queue.push(*input, time, received, &mut self.slots);
                Ok(())
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
                output.row(projection, &scope, &raw).map_err(|error| Stop::Error(error.to_string()))?;
                output.end_message();
                Ok(())
            }
        }
    }

    /// The tests at the front of the filter.
    fn test(&self, message: &mut Message<'_>) -> Result<(), Stop> {
        let Some(filter) = &self.plan.filter else { return Ok(()) };
        for test in &filter.tests {
            let Part::Column(column) = self.sources[test.slot] else { continue };
            match compare(message.value(column)?, test.op, &test.constant) {
                Ok(true) => {}
                Ok(false) => return Err(Stop::Quietly),
                Err(error) => return Err(Stop::Error(format!("run Where error: {error}"))),
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
            Part::Column(column) => message.value(column)?.clone(),
        };
        Ok(())
    }

    fn compute(&mut self, which: std::ops::Range<usize>, now: i64, time: i64) -> Result<(), Stop> {
        for index in which {
            let context = self.context.row(now, time);
            let value = self.plan.computed[index]
                .eval(&Scope { slots: &self.slots, context: &context })
                .map_err(|error| Stop::Error(format!("run Select error: {error}")))?
                .into_owned();
            self.slots[self.plan.columns.len() + index] = value;
        }
        Ok(())
    }

    /// The row's time; the watermark follows it. A row behind the watermark is late.
    fn event_time(&mut self, message: &mut Message<'_>, now: i64) -> Result<i64, Stop> {
        let Some(event_time) = &self.plan.event_time else { return Ok(0) };
        let value = match self.sources[event_time.slot] {
            Part::Column(column) => message.value(column)?,
            Part::Whole | Part::Meta => &Value::Absent,
        };
        let time = match value {
            Value::Int(ms) => *ms,
            Value::Float(ms) => *ms as i64,
            Value::Text(_) | Value::DateTime(_) => {
                cast::to_datetime_by(event_time.format.as_ref(), value, &self.context.zone, 0)
                    .map_err(|error| Stop::Error(format!("timestamp: {error}")))?
                    .timestamp()
                    .as_millisecond()
            }
            _ => return Err(Stop::Error("the message has no usable timestamp".into())),
        };
        if event_time.max_future_skew > 0 && time > now.saturating_add(event_time.max_future_skew) {
            // One timestamp far ahead would make every row after it late.
            self.metrics.future.fetch_add(1, Ordering::Relaxed);
            return Err(Stop::Quietly);
        }
        let Target::Queue(queue, input) = &self.target else { return Ok(time) };
        if queue.advance(*input, time, event_time.late_tolerance, now) {
            return Ok(time);
        }
        self.metrics.late.fetch_add(1, Ordering::Relaxed);
        Err(Stop::Quietly)
    }
}
