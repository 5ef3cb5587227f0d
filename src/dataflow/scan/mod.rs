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

mod index;
mod member;
mod message;
mod ranges;
mod rule;
mod rules;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use smallvec::SmallVec;

use crate::definition::stream::{Format, StreamSchema};
use crate::format::schema::SchemaError;
use crate::io::queue::{Frame, FrameBatch, RowFrame};
use crate::plan::physical::{Column, ColumnSource, Scan as ScanPlan};
use crate::value::json::{Scanner, Wanted};
use crate::value::types::DataType;
use crate::value::{Text, Value};

use super::command::RuleKey;
use super::context::RuleContext;
use super::output::Output;

use message::{Body, Cell, Message, StreamColumn, decode, strict};
use rule::{Part, ScanRule, read_slots};
use rules::Rules;

pub use rule::Target;

/// The scan of one stream.
pub struct StreamScan {
    schema: StreamSchema,
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

impl StreamScan {
    /// The scan of a stream without rules.
    pub fn new(schema: StreamSchema, zone: jiff::tz::TimeZone) -> Self {
        StreamScan {
            schema,
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
            column.source != ColumnSource::Meta && column.ty.is_none() && !self.schema.strict
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
        match self.schema.compression.map(|method| method.unpack(frame.bytes())) {
            None => self.unpacked(frame, now, received),
            Some(Ok(bytes)) => self.unpacked(&Frame::Binary(bytes.into()), now, received),
            Some(Err(error)) => self.undecodable(format_args!("cannot unpack: {error}")),
        }
    }

    fn unpacked(&mut self, frame: &Frame, now: i64, received: Instant) {
        if self.schema.format != Format::Json {
            return match decode(&self.schema, frame) {
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
        let array = self.schema.columns.is_some() && text.trim_ascii_start().starts_with('[');
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
        // A message that cannot be scanned is reported where it is run.
        if scanned.is_err() || errors.iter().all(Option::is_none) {
            return Vec::new();
        }
        rules.skip_misfits(&errors)
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
