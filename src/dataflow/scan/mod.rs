//! The scan of a stream: each message is decoded once, for all rules on the stream.
//!
//! The scan holds, for every rule, its filter and, for rules without state, its projection. Only the columns that rules
//! read are looked for. A value is decoded only when an expression reads it, and a column that is passed through
//! unchanged is copied as text. Rows for rules with state go into the rule's queue. Rules come and go by changing the
//! scan's table; the dataflow stays.
//!
//! The cost of a message grows with the rules that it may match, not with all rules: an index (`index`) finds the rules
//! whose filters must run, rows are counted once for all rules, and only outputs that were written to are flushed and
//! asked whether they accept more. The cost of adding or removing a rule does not depend on the number of other rules.

mod event_time;
mod feed;
mod index;
mod member;
mod message;
mod ranges;
mod rule;
mod rules;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::definition::stream::{Format, Framing, OnMismatch, StreamSchema};
use crate::format::schema::SchemaError;
use crate::io::queue::{FeedChecks, Frame, FrameBatch, RowFrame};
use crate::plan::physical::{Column, ColumnSource, Scan as ScanPlan};
use crate::value::json::{Scanner, Wanted};
use crate::value::types::DataType;
use crate::value::{Text, Value};

use super::command::RuleKey;
use super::context::RuleContext;
use super::decode::{DecodeError, MOST_ROWS, decode};
use super::output::Output;
use super::timers::Turn;

use feed::{Feed, Located, Start};
use message::{ArrayRows, Body, Cell, Message, SELF, StreamColumn, is_mismatch, strict};
use rule::{Part, ScanRule, read_slots};
use rules::{Arrival, Rules};

pub use rule::Target;

pub struct StreamScan {
    schema: StreamSchema,
    scanner: Scanner,
    /// Replaces `scanner`, with JSON_ARRAY="row".
    array_rows: Option<ArrayRows>,
    /// The number of rules' slots that hold the whole message.
    wholes: usize,
    /// The source's checks of each message.
    feed: Option<Box<Feed>>,
    /// With ON_MISMATCH="skip", the declared columns: a message that does not fit them is skipped.
    fitting: Box<[usize]>,
    /// Whether the wanted columns have changed since the scanner last got them.
    stale: bool,
    /// Columns that any rule reads; the same key with two types is two columns.
    columns: Vec<StreamColumn>,
    /// The columns of each key.
    columns_of: HashMap<Text, SmallVec<[usize; 1]>>,
    /// Columns that no rule reads any more.
    free_columns: Vec<usize>,
    cells: Vec<Cell>,
    rules: Rules,
    /// Whether more messages wait after the current ones.
    behind: bool,
    zone: jiff::tz::TimeZone,
}

impl StreamScan {
    /// The scan of a stream without rules.
    pub fn new(schema: StreamSchema, zone: jiff::tz::TimeZone) -> Self {
        let rules = Rules::of_stream(schema.name.clone(), 0);
        let mut scan = StreamScan {
            array_rows: ArrayRows::new(&schema),
            schema,
            scanner: Scanner::new(Wanted::new([])),
            wholes: 0,
            feed: None,
            fitting: Box::default(),
            stale: false,
            columns: Vec::new(),
            columns_of: HashMap::new(),
            free_columns: Vec::new(),
            cells: Vec::new(),
            rules,
            behind: false,
            zone,
        };
        scan.fitting_columns();
        scan
    }

    /// Sets the data thread; the default is the first one.
    #[must_use]
    pub fn on_thread(self, thread: usize) -> Self {
        let rules = Rules::of_stream(self.schema.name.clone(), thread);
        StreamScan { rules, ..self }
    }

    /// Sets the source's checks of each message.
    #[must_use]
    pub fn checking(mut self, checks: FeedChecks) -> Self {
        let feed = Feed::new(checks, |path| {
            let start = match self.is_whole(path.column()) {
                true => Start::Whole,
                false => Start::Column(self.enter_column(path.column(), &None)),
            };
            Located { path, start }
        });
        self.feed = feed.map(Box::new);
        self
    }

    /// Whether a name at the start of a path stands for the message: `self`, unless it is a column.
    fn is_whole(&self, name: &Text) -> bool {
        let is_column = match &self.schema.columns {
            Some(columns) => columns.iter().any(|column| column.name.name == *name),
            None => self.array_rows.is_some(),
        };
        name == SELF && !is_column
    }

    /// The declared columns that each message must fit.
    fn fitting_columns(&mut self) {
        if self.schema.on_mismatch == OnMismatch::Skip {
            let columns = self.schema.columns.clone();
            let declared = columns.iter().flat_map(|columns| columns.iter());
            self.fitting =
                declared.map(|column| self.enter_column(&column.name.name, &Some(column.ty.clone()))).collect();
        }
    }

    /// Adds a rule; it gets rows from the next message on.
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
            !matches!(column.source, ColumnSource::Meta | ColumnSource::Topic)
                && column.ty.is_none()
                && !self.schema.strict
        };
        let copied: Vec<bool> = match target {
            Target::Results(_) => (0..width).map(|slot| slot < plan.columns.len() && untouched(slot)).collect(),
            Target::Queue(..) | Target::Forward(..) | Target::Exchange(..) => vec![false; width],
        };
        let (filter_slots, row_slots) = read_slots(&plan, &target, &copied);
        let part = |column: &Column| match &column.source {
            ColumnSource::Key(key) => Part::Column(self.enter_column(key, &column.ty)),
            ColumnSource::Whole => {
                self.wholes += 1;
                self.stale = true;
                Part::Whole
            }
            ColumnSource::Meta => Part::Meta,
            ColumnSource::Topic => Part::Topic,
        };
        let sources: Box<[Part]> = plan.columns.iter().map(part).collect();
        let typed = if plan.event_time.is_some() { self.typed_columns(&sources) } else { Box::default() };
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
            typed,
            unit_checked: false,
        });
    }

    /// The columns among these whose values may not fit their types.
    fn typed_columns(&self, sources: &[Part]) -> Box<[usize]> {
        let typed = |part: &Part| match part {
            Part::Column(column) => {
                let StreamColumn { ty, strict, .. } = &self.columns[*column];
                (ty.is_some() || strict.is_some()).then_some(*column)
            }
            Part::Whole | Part::Meta | Part::Topic => None,
        };
        sources.iter().filter_map(typed).collect()
    }

    /// Removes a rule.
    pub fn remove(&mut self, key: RuleKey) {
        for part in self.rules.remove(key) {
            match part {
                Part::Column(column) => self.leave_column(column),
                Part::Whole => {
                    self.wholes -= 1;
                    self.stale = true;
                }
                Part::Meta | Part::Topic => {}
            }
        }
    }

    /// Whether every sink of every rule accepts more results. If not, rules get what was held back for more messages.
    pub fn ready(&mut self) -> bool {
        let ready = self.rules.ready();
        if !ready {
            self.rules.flush();
        }
        ready
    }

    /// Sets whether more messages wait after those that run next.
    pub fn set_behind(&mut self, behind: bool) {
        self.behind = behind;
    }

    /// Runs batches of messages through all rules. `now` is their time of arrival, ms since the epoch.
    pub fn run(&mut self, batches: &[FrameBatch], now: i64) {
        self.begin(now);
        batches.iter().for_each(|batch| _ = self.batch(batch, now, &Turn::endless()));
        self.rules.hand_over(now, self.behind);
    }

    /// The same until the turn is over: what is left stays in `batches`. The clock is read after messages that may take
    /// long: large ones, and compressed ones, which may become large.
    pub fn run_for(&mut self, batches: &mut Vec<FrameBatch>, now: i64, turn: &Turn) {
        self.begin(now);
        let mut finished = 0;
        while let Some(batch) = batches.get_mut(finished) {
            let ran = self.batch(batch, now, turn);
            if ran < batch.frames.len() {
                batch.frames.drain(..ran);
                break;
            }
            finished += 1;
        }
        batches.drain(..finished);
        self.rules.hand_over(now, self.behind || !batches.is_empty());
    }

    fn begin(&mut self, now: i64) {
        if self.stale {
            self.look_anew();
        }
        self.rules.begin(now);
    }

    /// Runs the messages of a batch until the turn is over; returns how many.
    fn batch(&mut self, batch: &FrameBatch, now: i64, turn: &Turn) -> usize {
        let is_compressed = self.schema.compression.is_some();
        for (index, frame) in batch.frames.iter().enumerate() {
            self.message(frame, Arrival { now, received: batch.received, origin: batch.origin.as_deref() });
            if (is_compressed || frame.is_large()) && turn.is_over() {
                return index + 1;
            }
        }
        batch.frames.len()
    }

    fn message(&mut self, frame: &Frame, arrival: Arrival<'_>) {
        if let Frame::Row(row) = frame {
            return self.decoded(row, arrival);
        }
        self.rules.came(frame.bytes(), matches!(frame, Frame::Binary(_)), &arrival);
        match self.schema.compression.map(|method| method.unpack(frame.bytes())) {
            None => match frame {
                Frame::Text(text) => self.framed(text.as_bytes(), Some(text), arrival),
                _ => self.framed(frame.bytes(), None, arrival),
            },
            Some(Ok(bytes)) => self.framed(&bytes, None, arrival),
            Some(Err(error)) => self.undecodable(format_args!("cannot unpack: {error}"), None),
        }
    }

    /// The most rows that a message may have. A message from a socket may come from a stranger.
    fn most_rows(arrival: Arrival<'_>) -> usize {
        if arrival.origin.is_some() { MOST_ROWS } else { usize::MAX }
    }

    /// Splits a frame into messages; `text` is the same as `bytes` if that is known to be UTF-8.
    fn framed(&mut self, bytes: &[u8], text: Option<&str>, arrival: Arrival<'_>) {
        if self.schema.framing == Framing::Lines
            && bytes.iter().filter(|byte| **byte == b'\n').nth(Self::most_rows(arrival)).is_some()
        {
            return self.undecodable(format_args!("{}", DecodeError::Rows), None);
        }
        match (self.schema.framing, text) {
            (Framing::Message, Some(text)) => self.text(text, arrival),
            (Framing::Message, None) => self.bytes(bytes, arrival),
            (Framing::Lines, Some(text)) => {
                text.lines().filter(|line| !line.trim().is_empty()).for_each(|line| self.text(line, arrival));
            }
            (Framing::Lines, None) => {
                let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
                lines.for_each(|line| self.bytes(line, arrival));
            }
        }
    }

    fn bytes(&mut self, bytes: &[u8], arrival: Arrival<'_>) {
        if self.schema.format != Format::Json {
            return self.decoded_by_format(bytes, arrival);
        }
        match simdutf8::compat::from_utf8(bytes) {
            Ok(text) => self.text(text, arrival),
            Err(error) => {
                let shown = String::from_utf8_lossy(bytes);
                self.undecodable(format_args!("binary message is not UTF-8: {error}"), Some(&shown));
            }
        }
    }

    fn decoded_by_format(&mut self, bytes: &[u8], arrival: Arrival<'_>) {
        match decode(&self.schema, bytes, Self::most_rows(arrival)) {
            Ok(rows) => {
                rows.into_iter().for_each(|row| self.decoded(&RowFrame { row, ..RowFrame::default() }, arrival))
            }
            Err(error) => self.undecodable(format_args!("{error}"), Some(&String::from_utf8_lossy(bytes))),
        }
    }

    fn text(&mut self, text: &str, arrival: Arrival<'_>) {
        if self.schema.format != Format::Json {
            return self.decoded_by_format(text.as_bytes(), arrival);
        }
        self.scanner.limit(Self::most_rows(arrival));
        // A value that does not fit the schema loses its whole array for the rules that read it, unless it is skipped.
        let array = self.array_rows.is_none()
            && self.schema.columns.is_some()
            && self.fitting.is_empty()
            && text.trim_ascii_start().starts_with('[');
        let skipping = if array { self.check_array(text) } else { Vec::new() };
        let StreamScan { scanner, array_rows, columns, cells, rules, zone, feed, fitting, .. } = self;
        let mut row = |body: Body<'_>| {
            cells.iter_mut().for_each(|cell| *cell = Cell::Unread);
            let message = Message { body, columns, cells, origin: arrival.origin, gap: None, zone };
            rules.fitting(message, fitting, feed.as_deref_mut(), arrival);
        };
        let scanned = match array_rows {
            Some(array_rows) => array_rows.scan(text).map(|body| {
                row(body);
                1
            }),
            None => scanner.scan(text, |object, spans| row(Body::Text { text, object: &text[object], spans })),
        };
        match scanned {
            Ok(rows) if !skipping.is_empty() => rules.end_skipping(skipping, rows),
            Ok(_) => {}
            Err(error) if self.schema.on_mismatch == OnMismatch::Skip && is_mismatch(&error) => {
                rules.mismatched();
            }
            Err(error) => self.undecodable(format_args!("cannot parse JSON: {error}"), Some(text)),
        }
    }

    /// Runs a decoded row.
    fn decoded(&mut self, row: &RowFrame, arrival: Arrival<'_>) {
        let StreamScan { columns, cells, rules, zone, feed, fitting, .. } = self;
        cells.iter_mut().for_each(|cell| *cell = Cell::Unread);
        let message = Message { body: Body::Row(row), columns, cells, origin: arrival.origin, gap: None, zone };
        rules.fitting(message, fitting, feed.as_deref_mut(), arrival);
    }

    /// Checks every object of an array against the columns of each rule before any of its rows runs. Returns the rules
    /// that skip the array.
    fn check_array(&mut self, text: &str) -> Vec<u32> {
        let StreamScan { scanner, columns, cells, rules, zone, .. } = self;
        let mut errors: Vec<Option<SchemaError>> = vec![None; columns.len()];
        let scanned = scanner.scan(text, |object, spans| {
            cells.iter_mut().for_each(|cell| *cell = Cell::Unread);
            let body = Body::Text { text, object: &text[object], spans };
            let mut message = Message { body, columns, cells, origin: None, gap: None, zone };
            for (column, error) in errors.iter_mut().enumerate().filter(|(_, error)| error.is_none()) {
                if message.columns[column].readers > 0 {
                    *error = message.value(column).err().cloned();
                }
            }
        });
        // A message that cannot be scanned is reported when it runs.
        if scanned.is_err() || errors.iter().all(Option::is_none) {
            return Vec::new();
        }
        rules.skip_misfits(&errors, text)
    }

    fn undecodable(&mut self, error: std::fmt::Arguments<'_>, message: Option<&str>) {
        self.rules.lose(error, message);
    }

    /// The column with this key and type; counts one more reader.
    fn enter_column(&mut self, key: &Text, ty: &Option<DataType>) -> usize {
        let of_key = self.columns_of.entry(key.clone()).or_default();
        if let Some(known) = of_key.iter().find(|column| self.columns[**column].ty == *ty) {
            self.columns[*known].readers += 1;
            return *known;
        }
        let strict = self.schema.strict.then(|| strict(&self.schema, key)).flatten();
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

    /// Tells the scanner the wanted columns. This is not done with each rule, because many may be added between two
    /// messages.
    fn look_anew(&mut self) {
        let mut keys = indexmap::IndexSet::new();
        for column in &mut self.columns {
            column.wanted = if column.readers > 0 { keys.insert_full(column.key.clone()).0 } else { usize::MAX };
        }
        if let Some(array_rows) = &mut self.array_rows {
            array_rows.look_for(&self.schema, keys.iter(), self.wholes > 0);
        }
        self.scanner = Scanner::new(Wanted::new(keys));
        self.stale = false;
    }
}
