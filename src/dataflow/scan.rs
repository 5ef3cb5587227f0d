//! The scan of a stream: each message is decoded once, for all rules on the stream.
//!
//! The scan holds, for every rule, its filter and, for rules without state, its projection. Only the columns that
//! rules read are looked for; a value is made only when an expression reads it, and a column that is passed through
//! untouched is copied as the text it came in. Rows for rules with state go into the rule's queue. Rules come and go
//! by changing the scan's table; the dataflow stays.
//!
//! What a message costs follows the rules that it concerns and not those that are there: an index (`index`) finds the
//! rules whose filters are worth running, rows are counted once for all, and only outputs that were written to are
//! flushed and asked whether they take more. What a rule costs that comes or goes does not grow with the others either.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use smallvec::SmallVec;

use crate::definition::stream::{Format, StreamDef};
use crate::expr::{Expr, Scope};
use crate::format::json::{Scanner, Wanted};
use crate::format::schema::SchemaError;
use crate::io::queue::{Frame, FrameBatch, RowFrame};
use crate::metrics::{Place, RuleMetrics, StreamMetrics};
use crate::plan::physical::{Column, ColumnSource, Item, Projection, Scan as ScanPlan, Test};
use crate::sql::ast::DataType;
use crate::value::cast;
use crate::value::{Text, Value};

use super::index::{ColumnTest, Member, Members, RuleIndex};
use super::message::{Body, Cell, Message, StreamColumn, decode, strict};
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
    /// the scanner does not look for what the columns are now
    stale: bool,
    /// the columns that any rule reads; the same key with two types is two columns
    columns: Vec<StreamColumn>,
    /// the columns of each key
    columns_of: HashMap<Text, SmallVec<[usize; 1]>>,
    /// columns that no rule reads any more
    free_columns: Vec<usize>,
    cells: Vec<Cell>,
    rules: Rules,
    zone: jiff::tz::TimeZone,
}

/// The rules of a stream.
#[derive(Default)]
struct Rules {
    /// by place
    table: Vec<Option<Box<ScanRule>>>,
    free: Vec<u32>,
    /// the places of a rule: one for each of its inputs that are this stream
    places: HashMap<RuleKey, SmallVec<[Member; 1]>>,
    next_age: u32,
    all: Members,
    index: RuleIndex,
    /// rules to which errors of the stream are told one by one, since they send them
    tellers: Members,
    /// rules without state whose sinks may make the stream wait, and were written to since they were last ready
    written: Vec<u32>,
    /// rules that may make the stream wait, and write at other times than when a message comes
    watched: Members,
    /// rules that have something to hand over
    touched: Vec<Member>,
    /// the rules that the message at hand can concern
    found: Vec<Member>,
    metrics: Arc<StreamMetrics>,
    /// rows that are not in `metrics` yet
    rows: u64,
}

/// Up to so many rules all filters are run: an index would cost more.
const FEW: usize = 4;

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
    sources: Box<[Part]>,
    /// slots whose text may be copied to the result as it came
    copied: Box<[bool]>,
    /// slots that the filter reads beyond its tests
    filter_slots: Box<[usize]>,
    /// slots that what follows the filter reads as values
    row_slots: Box<[usize]>,
    /// the row at hand
    slots: Box<[Value]>,
    /// its sinks may make the stream wait
    may_wait: bool,
    /// it is among [`Rules::written`]
    written: bool,
    /// it is among [`Rules::touched`]
    touched: bool,
    /// rows that passed its filter and are not in `metrics` yet
    passed: u64,
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
            stale: false,
            columns: Vec::new(),
            columns_of: HashMap::new(),
            free_columns: Vec::new(),
            cells: Vec::new(),
            rules: Rules::default(),
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
        let width = plan.width();
        let untouched = |slot: usize| {
            let column = &plan.columns[slot];
            column.source != ColumnSource::Meta && column.ty.is_none() && !self.def.strict
        };
        let copied: Vec<bool> = match target {
            Target::Results(_) => (0..width).map(|slot| slot < plan.columns.len() && untouched(slot)).collect(),
            Target::Queue(..) => vec![false; width],
        };
        let (filter_slots, row_slots) = read_slots(&plan, &target, &copied);
        let part = |column: &Column| match &column.source {
            ColumnSource::Key(key) => Part::Column(self.enter_column(key, &column.ty)),
            ColumnSource::Whole => Part::Whole,
            ColumnSource::Meta => Part::Meta,
        };
        let sources = plan.columns.iter().map(part).collect();
        let may_wait = output.borrow().may_wait();
        self.rules.insert(ScanRule {
            key,
            plan,
            context,
            output,
            metrics,
            target,
            sources,
            copied: copied.into(),
            filter_slots: filter_slots.into(),
            row_slots: row_slots.into(),
            slots: vec![Value::Absent; width].into(),
            may_wait,
            written: false,
            touched: false,
            passed: 0,
            skips: false,
            failed: false,
        });
    }

    /// Takes a rule away.
    pub fn remove(&mut self, key: RuleKey) {
        for part in self.rules.remove(key) {
            if let Part::Column(column) = part {
                self.leave_column(column);
            }
        }
    }

    /// Whether every sink of every rule takes more results.
    pub fn ready(&mut self) -> bool {
        self.rules.ready()
    }

    /// Runs batches of messages through all rules. `now` is the arrival of their rows, ms since the epoch.
    pub fn run(&mut self, batches: &[FrameBatch], now: i64) {
        if self.stale {
            self.look_anew();
        }
        for batch in batches {
            for frame in &batch.frames {
                self.message(frame, now, batch.received);
            }
        }
        self.rules.hand_over(now);
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
        let skipping = if array { self.check_array(text) } else { Vec::new() };
        let StreamScan { scanner, columns, cells, rules, zone, .. } = self;
        let scanned = scanner.scan(text, |object, spans| {
            cells.iter_mut().for_each(|cell| *cell = Cell::Unread);
            let body = Body::Text { text, object: &text[object], spans };
            rules.row(&mut Message { body, columns, cells, zone }, now, received);
        });
        match scanned {
            Ok(rows) if !skipping.is_empty() => rules.end_skipping(skipping, rows),
            Ok(_) => {}
            Err(error) => self.undecodable(format_args!("cannot parse JSON: {error}")),
        }
    }

    /// Runs a row that came decoded.
    fn decoded(&mut self, row: &RowFrame, now: i64, received: Instant) {
        let StreamScan { columns, cells, rules, zone, .. } = self;
        cells.iter_mut().for_each(|cell| *cell = Cell::Unread);
        rules.row(&mut Message { body: Body::Row(row), columns, cells, zone }, now, received);
    }

    /// Checks every object of an array against the columns of each rule, before any of its rows runs. Gives the rules
    /// that skip it.
    fn check_array(&mut self, text: &str) -> Vec<u32> {
        let StreamScan { scanner, columns, cells, rules, zone, .. } = self;
        let mut errors: Vec<Option<SchemaError>> = vec![None; columns.len()];
        let scanned = scanner.scan(text, |object, spans| {
            cells.iter_mut().for_each(|cell| *cell = Cell::Unread);
            let body = Body::Text { text, object: &text[object], spans };
            let mut message = Message { body, columns, cells, zone };
            for (column, error) in errors.iter_mut().enumerate().filter(|(_, error)| error.is_none()) {
                if message.columns[column].readers > 0 {
                    *error = message.value(column).err().cloned();
                }
            }
        });
        // A message that cannot be scanned is told where it is run.
        if scanned.is_err() || errors.iter().all(Option::is_none) {
            return Vec::new();
        }
        let mut skipping = Vec::new();
        for member in rules.all.all() {
            let Some(rule) = rules.table[member.place as usize].as_deref_mut() else { continue };
            let error = rule.sources.iter().find_map(|part| match part {
                Part::Column(column) => errors[*column].as_ref(),
                Part::Whole | Part::Meta => None,
            });
            if let Some(error) = error
                && !rule.failed
            {
                rule.skips = true;
                rule.output.borrow_mut().error(Place::Decoder, error);
                skipping.push(member.place);
                touch(&mut rules.touched, *member, rule);
            }
        }
        skipping
    }

    fn undecodable(&mut self, error: std::fmt::Arguments<'_>) {
        self.rules.lose(error);
    }

    /// The column with this key and type, for one more reader.
    fn enter_column(&mut self, key: &Text, ty: &Option<DataType>) -> usize {
        let of_key = self.columns_of.entry(key.clone()).or_default();
        if let Some(known) = of_key.iter().find(|column| self.columns[**column].ty == *ty) {
            self.columns[*known].readers += 1;
            return *known;
        }
        let strict = self.def.strict.then(|| strict(&self.def, key)).flatten();
        let new = StreamColumn { key: key.clone(), ty: ty.clone(), wanted: usize::MAX, strict, readers: 1 };
        self.stale = true;
        let column = match self.free_columns.pop() {
            Some(free) => {
                self.columns[free] = new;
                free
            }
            None => {
                self.columns.push(new);
                self.cells.push(Cell::Unread);
                self.columns.len() - 1
            }
        };
        of_key.push(column);
        column
    }

    fn leave_column(&mut self, column: usize) {
        let left = &mut self.columns[column];
        left.readers -= 1;
        if left.readers > 0 {
            return;
        }
        self.stale = true;
        self.free_columns.push(column);
        if let Some(of_key) = self.columns_of.get_mut(&left.key) {
            of_key.retain(|known| *known != column);
            if of_key.is_empty() {
                self.columns_of.remove(&left.key);
            }
        }
    }

    /// Tells the scanner what the columns are. Not with each rule, since many may come between two messages.
    fn look_anew(&mut self) {
        let mut keys = indexmap::IndexSet::new();
        for column in &mut self.columns {
            column.wanted = if column.readers > 0 { keys.insert_full(column.key.clone()).0 } else { usize::MAX };
        }
        self.scanner = Scanner::new(Wanted::new(keys));
        self.stale = false;
    }
}

impl Rules {
    fn insert(&mut self, rule: ScanRule) {
        let place = self.free.pop().unwrap_or(self.table.len() as u32);
        let member = Member { age: self.next_age, place };
        self.next_age = self.next_age.wrapping_add(1);
        self.all.insert(member);
        self.index.insert(member, &rule.tests());
        self.places.entry(rule.key).or_default().push(member);
        let (tells, gathers) = (rule.output.borrow().tells_errors(), rule.output.borrow().gathers());
        if tells {
            self.tellers.insert(member);
        }
        if rule.may_wait && (gathers || matches!(rule.target, Target::Queue(..))) {
            self.watched.insert(member);
        }
        rule.metrics.join(&self.metrics, !tells);
        match self.table.get_mut(place as usize) {
            Some(free) => *free = Some(Box::new(rule)),
            None => self.table.push(Some(Box::new(rule))),
        }
    }

    /// Takes a rule out; gives what it read.
    fn remove(&mut self, key: RuleKey) -> Vec<Part> {
        let mut read = Vec::new();
        for member in self.places.remove(&key).unwrap_or_default() {
            self.all.remove(member);
            self.index.remove(member);
            self.tellers.remove(member);
            self.watched.remove(member);
            self.written.retain(|place| *place != member.place);
            self.free.push(member.place);
            if let Some(rule) = self.table[member.place as usize].take() {
                rule.metrics.leave(&self.metrics);
                read.extend_from_slice(&rule.sources);
            }
        }
        read
    }

    /// Runs the rules that a row can concern, the oldest first.
    fn row(&mut self, message: &mut Message<'_>, now: i64, received: Instant) {
        let Rules { table, all, index, found, touched, metrics, rows, .. } = self;
        *rows += 1;
        let members = if all.all().len() > FEW {
            index.find(message, found);
            found.as_slice()
        } else {
            all.all()
        };
        for member in members {
            let Some(rule) = table[member.place as usize].as_deref_mut() else { continue };
            if rule.failed || rule.skips {
                continue;
            }
            if rule.guarded(message, now, received) {
                touch(touched, *member, rule);
            }
            if rule.failed {
                // It has seen this row, and sees no more.
                metrics.rows(std::mem::take(rows));
                rule.metrics.leave(metrics);
            }
        }
    }

    /// Counts a message that is lost for all rules.
    fn lose(&mut self, error: std::fmt::Arguments<'_>) {
        for member in self.tellers.all() {
            let Some(rule) = self.table[member.place as usize].as_deref_mut() else { continue };
            if !rule.failed {
                rule.output.borrow_mut().error(Place::Decoder, error);
                touch(&mut self.touched, *member, rule);
            }
        }
        self.metrics.error(error.to_string());
    }

    /// Ends what [`StreamScan::check_array`] began for a message of so many rows.
    fn end_skipping(&mut self, places: Vec<u32>, rows: usize) {
        for place in places {
            if let Some(rule) = self.table[place as usize].as_deref_mut() {
                rule.skips = false;
                rule.metrics.without_rows(rows as u64);
            }
        }
    }

    /// Hands over what the rules have made of the messages.
    fn hand_over(&mut self, now: i64) {
        self.metrics.rows(std::mem::take(&mut self.rows));
        self.metrics.received(now);
        self.touched.sort_unstable();
        for Member { place, .. } in self.touched.drain(..) {
            let Some(rule) = self.table[place as usize].as_deref_mut() else { continue };
            rule.touched = false;
            rule.metrics.works(now, std::mem::take(&mut rule.passed));
            if let Target::Queue(queue, _) = &rule.target {
                queue.hand_over();
            }
            // Of a rule with state, errors of rows that went no further are sent now, where they are sent.
            rule.output.borrow_mut().flush();
            if rule.may_wait && !rule.written {
                rule.written = true;
                self.written.push(place);
            }
        }
    }

    fn ready(&mut self) -> bool {
        let table = &mut self.table;
        self.written.retain(|place| {
            let Some(rule) = table[*place as usize].as_deref_mut() else { return false };
            rule.written = !rule.failed && !rule.output.borrow().ready();
            rule.written
        });
        let ready = |member: &Member| {
            table[member.place as usize].as_deref().is_none_or(|rule| rule.failed || rule.output.borrow().ready())
        };
        self.written.is_empty() && self.watched.all().iter().all(ready)
    }
}

/// Notes that a rule has something to hand over.
fn touch(touched: &mut Vec<Member>, member: Member, rule: &mut ScanRule) {
    if !rule.touched {
        rule.touched = true;
        touched.push(member);
    }
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

/// Why a row went no further.
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
    /// The tests at the front of its filter, where the index may decide by them.
    fn tests(&self) -> Vec<ColumnTest<'_>> {
        // The watermark follows every row.
        let filter = self.plan.filter.as_ref().filter(|_| self.plan.event_time.is_none());
        let tests = filter.map_or(&[][..], |filter| &filter.tests);
        let test = |test: &'_ Test| match self.sources[test.slot] {
            Part::Column(column) => Some(column),
            Part::Whole | Part::Meta => None,
        };
        tests.iter().map_while(|each| Some((test(each)?, &each.holds))).collect()
    }

    /// Runs the rule on a row; true if it has something to hand over. A panic in the rule's code ends this rule and no
    /// other.
    fn guarded(&mut self, message: &mut Message<'_>, now: i64, received: Instant) -> bool {
        match catch_unwind(AssertUnwindSafe(|| self.row(message, now, received))) {
            Ok(Ok(())) => true,
            Ok(Err(Stop::Quietly)) => self.plan.event_time.is_some(),
            Ok(Err(Stop::Error(place, error))) => {
                let mut output = self.output.borrow_mut();
                if matches!(self.target, Target::Results(_)) {
                    output.received(Some(received));
                }
                output.error(place, error);
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
            // There is no text that could be copied.
            for slot in 0..self.plan.columns.len() {
                self.fill(slot, message)?;
            }
        } else {
            for index in 0..self.row_slots.len() {
                self.fill(self.row_slots[index], message)?;
            }
        }
        self.passed += 1;
        self.compute(self.plan.computed_for_filter..self.plan.computed.len(), now, time, Place::Project)?;
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
                cast::to_datetime_by(event_time.format.as_ref(), value, &self.context.zone, now)
                    .map_err(|error| Stop::Error(Place::Decoder, format!("timestamp: {error}")))?
                    .timestamp()
                    .as_millisecond()
            }
            _ => return Err(Stop::Error(Place::Decoder, "the message has no usable timestamp".into())),
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
