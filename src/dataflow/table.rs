//! Lookup tables: the last row for each key, arranged so that rules find rows by any columns.
//!
//! A table lives on a worker from its creation to its end, whatever rules come and go, and all rules of the worker read
//! the same copy. It is a dataflow: `updates` takes what comes (rows by way of memory, or the messages of a file),
//! knows for each key the row it takes away, and gives the changes to a differential arrangement by the table's KEY. A
//! rule that joins on other columns asks for an [`Index`]: one more arrangement, made once for all rules that want
//! these columns, that imports the first one. Lookups read the arrangement's batches by cursor (a plain differential
//! join would keep the stream for ever).
//!
//! Timestamps are counts of what was taken in at once and not the clock, so a table without updates costs nothing.
//! After each such round the arrangements are compacted, logically and physically, to the present: nobody asks for the
//! past, and costs follow the number of rows and not that of updates.
//!
//! This module must not know what rules do with the rows.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::cursor::{Cursor, Navigable};
use differential_dataflow::trace::implementations::{ContainerChunker, ValBatcher, ValBuilder, ValSpine};
use differential_dataflow::trace::{BatchReader, ExertionLogic, TraceReader};
use jiff::tz::TimeZone;
use smallvec::SmallVec;
use timely::WorkerConfig;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::generic::operator::source;
use timely::scheduling::Activator;
use timely::worker::Worker;

use crate::definition::stream::StreamDef;
use crate::expr::group::GroupKey;
use crate::format::json;
use crate::format::schema::{self, Strict};
use crate::io::queue::{Change, Frame, FrameReceiver, Received, RowFrame};
use crate::metrics::RuleMetrics;
use crate::value::{Row, Text, Value};

use super::build::Installed;
use super::measure::{Meter, TableSize};

/// Batches that a table takes in before others get their turn.
const BATCHES_A_TURN: usize = 32;

/// Steps after which an index is used though it is behind: it catches up with the steps that follow.
const CATCH_UP_STEPS: usize = 10_000;

/// Merges that an idle arrangement does in one go, in rows.
const IDLE_MERGE: usize = 4096;

/// Rows that are looked at to say how large a table is.
const SAMPLE: u64 = 64;

/// What an index takes for a row beside the row itself: the key, the row's number and when it came, bytes.
const INDEXED: u64 = 96;

/// Lets the arrangements of a worker to be made merge their batches while nothing comes, so that lookups have few to
/// look through: while a merge is under way, and until the largest batch has most of the rows. Merging everything with
/// each update would cost as much as the table is large.
pub fn configure(config: &mut WorkerConfig) {
    let effort: ExertionLogic = Arc::new(|levels| {
        let rows: usize = levels.iter().map(|(_, _, rows)| rows).sum();
        let largest = levels.iter().map(|(_, _, rows)| *rows).max().unwrap_or(0);
        let merging = levels.iter().any(|(_, batches, _)| *batches > 1);
        (merging || (rows - largest) * 4 > largest).then_some(IDLE_MERGE)
    });
    config.set("differential/default_exert_logic".to_owned(), effort);
}

/// The tables of one worker.
pub struct Tables {
    worker: Worker,
    zone: TimeZone,
    tables: HashMap<Text, Rc<LookupTable>>,
}

/// A table on its worker.
pub struct LookupTable {
    def: Arc<StreamDef>,
    worker: RefCell<Worker>,
    updates: Rc<RefCell<Updates>>,
    /// the index by KEY comes first; without KEY it is by no column
    indexes: RefCell<Vec<Rc<Index>>>,
}

/// The rows of a table by the values of some columns.
pub struct Index {
    columns: Vec<Text>,
    trace: Rc<RefCell<RowTrace>>,
    /// how far the arrangement is
    reached: Rc<Cell<u64>>,
    dataflow: usize,
}

type RowTrace = TraceAgent<ValSpine<GroupKey, TableRow, u64, isize>>;

/// A change of an arrangement.
type Update = ((GroupKey, TableRow), u64, isize);

/// A row in the order of coming. Two are equal if they are the same row, whatever is in them.
#[derive(Clone, Debug)]
struct TableRow {
    number: u64,
    frame: Arc<RowFrame>,
}

/// What comes in.
struct Updates {
    def: Arc<StreamDef>,
    zone: TimeZone,
    frames: FrameReceiver,
    metrics: Arc<RuleMetrics>,
    /// by KEY, the row that is there: what the next row of this key takes away
    content: HashMap<GroupKey, TableRow>,
    /// of the next row
    number: u64,
}

/// A row that a table cannot take.
#[derive(Debug, thiserror::Error)]
enum TableError {
    #[error("table {table}: the row has no {key}, which is the table's KEY")]
    NoKey { table: Text, key: Text },
    #[error("table {table}: {error}")]
    Schema { table: Text, error: schema::SchemaError },
    #[error("table {table}: cannot parse JSON: {error}")]
    Json { table: Text, error: String },
    #[error("table {table}: a row is an object, this is a {found}")]
    NoObject { table: Text, found: String },
}

impl Tables {
    /// No tables, on this worker. DATETIME columns are read in `zone`.
    pub fn new(worker: &Worker, zone: TimeZone) -> Self {
        Tables { worker: worker.clone(), zone, tables: HashMap::new() }
    }

    /// Tables that begin from now on are in this zone.
    pub fn use_zone(&mut self, zone: TimeZone) {
        self.zone = zone;
    }

    /// Begins a table; `frames` bring its rows. The activator runs it when there are some. A table of the same name is
    /// replaced. Not to be called from inside of a dataflow.
    pub fn create(&mut self, def: Arc<StreamDef>, frames: FrameReceiver, metrics: Arc<RuleMetrics>) -> Activator {
        self.drop(&def.name);
        let updates =
            Updates { def: def.clone(), zone: self.zone.clone(), frames, metrics, content: HashMap::new(), number: 0 };
        let updates = Rc::new(RefCell::new(updates));
        let columns = Vec::from_iter(def.key.clone());
        let (primary, Installed { activator, .. }) = primary(&mut self.worker, &def.name, columns, updates.clone());
        let indexes = RefCell::new(vec![Rc::new(primary)]);
        let worker = RefCell::new(self.worker.clone());
        let table = LookupTable { def: def.clone(), worker, updates, indexes };
        self.tables.insert(def.name.clone(), Rc::new(table));
        activator
    }

    /// Ends a table. A rule that still holds it sees its last rows. Not to be called from inside of a dataflow.
    pub fn drop(&mut self, name: &str) {
        if let Some(table) = self.tables.remove(name) {
            // The importing dataflows before the imported one.
            for index in table.indexes.borrow().iter().rev() {
                self.worker.drop_dataflow(index.dataflow);
            }
        }
    }

    /// How large each is.
    pub fn sizes(&self) -> Vec<(Text, TableSize)> {
        self.tables.iter().map(|(name, table)| (name.clone(), table.size())).collect()
    }

    /// The table of this name.
    pub fn table(&self, name: &str) -> Option<&Rc<LookupTable>> {
        self.tables.get(name)
    }

    /// Ends the indexes that no rule holds any more: to be called when a rule has ended. Not from inside of a dataflow.
    pub fn sweep(&mut self) {
        for table in self.tables.values() {
            let mut position = 0;
            table.indexes.borrow_mut().retain(|index| {
                position += 1;
                let kept = position == 1 || Rc::strong_count(index) > 1;
                if !kept {
                    self.worker.drop_dataflow(index.dataflow);
                }
                kept
            });
        }
    }

    /// Whether no row waits to be taken in.
    pub fn is_idle(&self) -> bool {
        self.tables.values().all(|table| table.updates.borrow().frames.is_empty())
    }
}

impl LookupTable {
    /// Its definition.
    pub fn def(&self) -> &Arc<StreamDef> {
        &self.def
    }

    /// The index by these columns, made if there is none; it holds all rows that were taken in before. Not to be called
    /// from inside of a dataflow, neither while one is built nor while one runs.
    pub fn index(&self, columns: &[Text]) -> Rc<Index> {
        if let Some(index) = self.indexes.borrow().iter().find(|index| index.columns == columns) {
            return index.clone();
        }
        let primary = self.primary();
        let worker = &mut *self.worker.borrow_mut();
        let index = Rc::new(secondary(worker, &self.def.name, columns.to_vec(), &primary));
        self.indexes.borrow_mut().push(index.clone());
        for _ in 0..CATCH_UP_STEPS {
            if index.reached.get() >= primary.reached.get() {
                break;
            }
            worker.step();
        }
        index
    }

    /// Visits the rows whose `columns` are `key`, in the order in which they came. Fast by an [`Index`], which a rule
    /// asks for when it begins; without one all rows are read.
    pub fn lookup(&self, columns: &[Text], key: &[Value], visit: &mut dyn FnMut(&Row)) {
        if let Some(index) = self.indexes.borrow().iter().find(|index| index.columns == columns) {
            return index.lookup(key, visit);
        }
        let Some(wanted) = key_of(key.iter().map(Some)) else { return };
        self.rows(&mut |row| {
            if row_key(row, columns).as_ref() == Some(&wanted) {
                visit(row);
            }
        });
    }

    /// Visits all rows, in the order in which they came.
    pub fn rows(&self, visit: &mut dyn FnMut(&Row)) {
        let mut found = Found::new();
        self.primary().trace.borrow().map_batches(|batch| {
            let mut cursor = batch.cursor();
            while cursor.key_valid(batch) {
                gather(&mut cursor, batch, &mut found);
                cursor.step_key(batch);
            }
        });
        show(found, visit);
    }

    /// How large it is; only some of its rows are looked at.
    fn size(&self) -> TableSize {
        let (mut rows, mut seen, mut meter) = (0, 0, Meter::default());
        self.primary().trace.borrow().map_batches(|batch| {
            rows += batch.len() as u64;
            let mut cursor = batch.cursor();
            while seen < SAMPLE && cursor.key_valid(batch) {
                while let Some(row) = cursor.get_val(batch).filter(|_| seen < SAMPLE) {
                    meter.add(&row.frame.row);
                    seen += 1;
                    cursor.step_val(batch);
                }
                cursor.step_key(batch);
            }
        });
        if self.def.key.is_some() {
            // The arrangement may hold changes that are not put together yet.
            rows = self.updates.borrow().content.len() as u64;
        }
        let row = meter.bytes().checked_div(seen).unwrap_or(0);
        let indexes = self.indexes.borrow().len() as u64;
        TableSize { rows, bytes: rows * (row + INDEXED * indexes) }
    }

    fn primary(&self) -> Rc<Index> {
        self.indexes.borrow().first().expect("a table has its first index from the start").clone()
    }
}

impl Index {
    /// The columns.
    pub fn columns(&self) -> &[Text] {
        &self.columns
    }

    /// Visits the rows whose columns are `key`, in the order in which they came. Numbers are compared by value, whatever
    /// their form; null and absent are equal to nothing.
    pub fn lookup(&self, key: &[Value], visit: &mut dyn FnMut(&Row)) {
        let Some(key) = key_of(key.iter().map(Some)) else { return };
        let mut found = Found::new();
        self.trace.borrow().map_batches(|batch| {
            let mut cursor = batch.cursor();
            cursor.seek_key(batch, &key);
            if cursor.get_key(batch) == Some(&key) {
                gather(&mut cursor, batch, &mut found);
            }
        });
        show(found, visit);
    }
}

/// Rows with how often they came less how often they went.
type Found = SmallVec<[(TableRow, isize); 4]>;

/// Adds the rows of the cursor's key.
fn gather<B, C>(cursor: &mut C, batch: &B, found: &mut Found)
where
    C: for<'a> Cursor<Storage = B, Val<'a> = &'a TableRow, DiffGat<'a> = &'a isize>,
{
    while let Some(row) = cursor.get_val(batch) {
        let row = row.clone();
        let mut count = 0;
        cursor.map_times(batch, |_, diff| count += diff);
        found.push((row, count));
        cursor.step_val(batch);
    }
}

/// Visits those that are there.
fn show(mut found: Found, visit: &mut dyn FnMut(&Row)) {
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    for same in found.chunk_by(|(a, _), (b, _)| a == b) {
        if same.iter().map(|(_, count)| count).sum::<isize>() > 0 {
            visit(&same[0].0.frame.row);
        }
    }
}

/// The key that these values are; none if one of them is null.
fn key_of<'v>(values: impl Iterator<Item = Option<&'v Value>>) -> Option<GroupKey> {
    let mut key = GroupKey::default();
    for value in values {
        key.push(value.filter(|value| !value.is_null())?);
    }
    Some(key)
}

fn row_key(row: &Row, columns: &[Text]) -> Option<GroupKey> {
    key_of(columns.iter().map(|column| member(row, column)))
}

fn member<'r>(row: &'r Row, column: &Text) -> Option<&'r Value> {
    row.iter().find(|(name, _)| name == column).map(|(_, value)| value)
}

/// The dataflow of a table: `updates`, the arrangement by KEY, `compact`.
fn primary(worker: &mut Worker, name: &str, columns: Vec<Text>, updates: Rc<RefCell<Updates>>) -> (Index, Installed) {
    let dataflow = worker.next_dataflow_index();
    let mut activator = None;
    let by = columns.clone();
    let (trace, reached) = worker.dataflow_named::<u64, _, _>(name, |scope| {
        let changes = source::<_, CapacityContainerBuilder<Vec<Update>>, _, _>(scope, "updates", |capability, info| {
            let mine = scope.activator_for(info.address);
            activator = Some(mine.clone());
            let mut capability = capability;
            let mut changes = Vec::new();
            move |output| {
                let time = *capability.time();
                let more = updates.borrow_mut().take(&mut |row, diff| {
                    changes.extend(row_key(&row.frame.row, &by).map(|key| ((key, row), time, diff)));
                });
                if !changes.is_empty() {
                    output.session(&capability).give_iterator(changes.drain(..));
                    capability.downgrade(&(time + 1));
                }
                if more {
                    mine.activate();
                }
            }
        });
        compacted(arranged(changes))
    });
    let activator = activator.expect("the source's constructor has run");
    (Index { columns, trace, reached, dataflow }, Installed { dataflow, activator })
}

/// The dataflow of a further index: the arrangement of a table, arranged by other columns.
fn secondary(worker: &mut Worker, name: &str, columns: Vec<Text>, primary: &Index) -> Index {
    let dataflow = worker.next_dataflow_index();
    let by = columns.clone();
    let (trace, reached) = worker.dataflow_named::<u64, _, _>(name, |scope| {
        let rows = primary.trace.borrow_mut().import_named(scope, "rows");
        let keyed = rows.flat_map_ref(move |_, row| row_key(&row.frame.row, &by).map(|key| (key, row.clone())));
        compacted(arranged(keyed.inner))
    });
    Index { columns, trace, reached, dataflow }
}

fn arranged(changes: Stream<'_, u64, Vec<Update>>) -> Arranged<'_, RowTrace> {
    arrange_core::<
        _,
        _,
        ContainerChunker<Vec<Update>>,
        ValBatcher<GroupKey, TableRow, u64, isize>,
        ValBuilder<GroupKey, TableRow, u64, isize>,
        ValSpine<GroupKey, TableRow, u64, isize>,
    >(changes, Pipeline, "arrange")
}

/// Compacts an arrangement to the present, always. Gives its trace and how far it is.
fn compacted(arranged: Arranged<'_, RowTrace>) -> (Rc<RefCell<RowTrace>>, Rc<Cell<u64>>) {
    let trace = Rc::new(RefCell::new(arranged.trace));
    let reached = Rc::new(Cell::new(0));
    let (compacted, passed) = (trace.clone(), reached.clone());
    arranged.stream.sink(Pipeline, "compact", move |(input, frontier)| {
        input.for_each(|_time, batches| batches.clear());
        let frontier = frontier.frontier();
        let now = frontier.first().copied().unwrap_or(u64::MAX);
        if now > passed.replace(now) {
            let mut trace = compacted.borrow_mut();
            trace.set_logical_compaction(frontier);
            trace.set_physical_compaction(frontier);
        }
    });
    (trace, reached)
}

impl Updates {
    /// Takes in what waits, up to a bound; whether there is more.
    fn take(&mut self, change: &mut dyn FnMut(TableRow, isize)) -> bool {
        // Lowered before looking, so that a batch that comes while we look raises it again.
        self.frames.lower();
        for _ in 0..BATCHES_A_TURN {
            let Received::Batch(batch) = self.frames.receive() else { return false };
            for frame in &batch.frames {
                if let Err(error) = self.frame(frame, change) {
                    self.metrics.error(error.to_string());
                }
            }
        }
        true
    }

    fn frame(&mut self, frame: &Frame, change: &mut dyn FnMut(TableRow, isize)) -> Result<(), TableError> {
        let text = match frame {
            Frame::Row(frame) => {
                self.metrics.row();
                return self.update(frame.clone(), change);
            }
            Frame::Text(text) => text.as_str(),
            Frame::Binary(bytes) => std::str::from_utf8(bytes).map_err(|error| self.json(error))?,
        };
        let parsed = json::parse(text).map_err(|error| self.json(error))?;
        // All of a message is read before any of it counts.
        let rows: Vec<_> = match &parsed {
            Value::Array(elements) => elements.iter().map(|element| self.object(element)).collect::<Result<_, _>>()?,
            whole => vec![self.object(whole)?],
        };
        for row in rows {
            self.metrics.row();
            if let Err(error) = self.update(row, change) {
                self.metrics.error(error.to_string());
            }
        }
        Ok(())
    }

    fn object(&self, value: &Value) -> Result<Arc<RowFrame>, TableError> {
        let Value::Object(members) = value else {
            return Err(TableError::NoObject { table: self.name(), found: value.kind().to_string() });
        };
        let row = members.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Ok(Arc::new(RowFrame { topic: Text::default(), row, change: Change::Put, key: None }))
    }

    fn update(&mut self, frame: Arc<RowFrame>, change: &mut dyn FnMut(TableRow, isize)) -> Result<(), TableError> {
        let Some(column) = self.def.key.clone() else {
            // Every row is one of its own.
            if frame.change == Change::Put {
                let frame = self.typed(frame)?;
                let row = self.row(frame);
                change(row, 1);
            }
            return Ok(());
        };
        let no_key = || TableError::NoKey { table: self.def.name.clone(), key: column.clone() };
        match frame.change {
            Change::Delete => {
                let value = frame.key.as_ref().or_else(|| member(&frame.row, &column));
                let key = key_of(std::iter::once(value)).ok_or_else(no_key)?;
                if let Some(gone) = self.content.remove(&key) {
                    change(gone, -1);
                }
            }
            Change::Put => {
                let frame = self.typed(frame)?;
                let key = key_of(std::iter::once(member(&frame.row, &column))).ok_or_else(no_key)?;
                let row = self.row(frame);
                if let Some(gone) = self.content.insert(key, row.clone()) {
                    change(gone, -1);
                }
                change(row, 1);
            }
        }
        Ok(())
    }

    fn row(&mut self, frame: Arc<RowFrame>) -> TableRow {
        self.number += 1;
        TableRow { number: self.number, frame }
    }

    /// The row with the columns that the table has, of their types.
    fn typed(&self, frame: Arc<RowFrame>) -> Result<Arc<RowFrame>, TableError> {
        let Some(columns) = &self.def.columns else { return Ok(frame) };
        let mut row = Row::with_capacity(columns.len());
        for column in columns {
            let name = &column.name.name;
            let strict = || Strict { column: column.clone(), pattern: self.def.timestamp_format.clone() };
            let strict = self.def.strict.then(strict);
            let value = member(&frame.row, name).cloned();
            match schema::accept(name, Some(&column.ty), value, strict.as_ref(), &self.zone) {
                Ok(Value::Absent) => {}
                Ok(value) => row.push((name.clone(), value)),
                Err(error) => return Err(TableError::Schema { table: self.name(), error }),
            }
        }
        Ok(Arc::new(RowFrame { topic: frame.topic.clone(), row, change: frame.change, key: frame.key.clone() }))
    }

    fn name(&self) -> Text {
        self.def.name.clone()
    }

    fn json(&self, error: impl std::fmt::Display) -> TableError {
        TableError::Json { table: self.name(), error: error.to_string() }
    }
}

impl PartialEq for TableRow {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for TableRow {}

impl PartialOrd for TableRow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for TableRow {
    fn cmp(&self, other: &Self) -> Ordering {
        self.number.cmp(&other.number)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use timely::communication::Allocator;
    use timely::communication::allocator::thread::Thread;

    use super::*;
    use crate::definition::stream::Catalog;
    use crate::io::queue::{self, FrameBatch, FrameSender, Signal};
    use crate::sql::parse_create;

    /// A worker with a table.
    struct Bench {
        worker: Worker,
        tables: Tables,
        sender: FrameSender,
        signal: Signal,
        activator: Activator,
        metrics: Arc<RuleMetrics>,
    }

    fn bench(columns: &str, options: &str) -> Bench {
        let sql = format!("CREATE TABLE t ({columns}) WITH (DATASOURCE=\"t\", KIND=\"lookup\", {options})");
        let create = parse_create(&sql).expect("the statement is correct");
        let def = Catalog::default().create(&create).expect("the table is correct");
        let allocator = Allocator::Thread(Thread::default());
        let mut config = WorkerConfig::default();
        configure(&mut config);
        let worker = Worker::new(config, allocator, Some(Instant::now()));
        let mut tables = Tables::new(&worker, TimeZone::UTC);
        let signal = Signal::new(0, crossbeam_channel::unbounded().0, Arc::default());
        let (sender, receiver) = queue::inbound(signal.clone());
        let metrics = Arc::new(RuleMetrics::default());
        let activator = tables.create(def, receiver, metrics.clone());
        let mut bench = Bench { worker, tables, sender, signal, activator, metrics };
        bench.run();
        bench
    }

    impl Bench {
        fn table(&self) -> Rc<LookupTable> {
            self.tables.table("t").expect("the table is there").clone()
        }

        fn run(&mut self) {
            self.activator.activate();
            let activations = self.worker.activations();
            while activations.borrow().empty_for() == Some(Duration::ZERO) {
                self.worker.step();
            }
        }

        fn take(&mut self, frames: Vec<Frame>) {
            let batch = FrameBatch { frames, received: Instant::now() };
            self.sender.offer(batch, &self.signal).expect("the queue has space");
            self.run();
        }

        fn put(&mut self, rows: &[&str]) {
            let frames = rows.iter().map(|row| frame(row, Change::Put, None)).collect();
            self.take(frames);
        }

        fn errors(&self) -> (u64, Option<String>) {
            (self.metrics.errors(), self.metrics.last_error().map(|(_, error)| error))
        }
    }

    fn frame(row: &str, change: Change, key: Option<Value>) -> Frame {
        let Value::Object(members) = json::parse(row).expect("the row is JSON") else { panic!("no object") };
        let row = members.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Frame::Row(Arc::new(RowFrame { topic: "t".into(), row, change, key }))
    }

    fn shown(row: &Row) -> String {
        let mut out = Vec::new();
        json::write_value(&mut out, &Value::object(row.iter().cloned())).expect("the row can be written");
        String::from_utf8(out).expect("JSON is text")
    }

    fn found(index: &Index, key: &[Value]) -> Vec<String> {
        let mut rows = Vec::new();
        index.lookup(key, &mut |row| rows.push(shown(row)));
        rows
    }

    const MEMORY: &str = "TYPE=\"memory\", KEY=\"id\"";

    #[test]
    fn the_last_row_of_each_key_is_the_table() {
        let mut bench = bench("", MEMORY);
        let index = bench.table().index(&["id".into()]);
        bench.put(&[r#"{"id":1,"v":"a"}"#, r#"{"id":2,"v":"b"}"#, r#"{"id":1,"v":"c"}"#]);
        bench.put(&[r#"{"id":2.0,"v":"d"}"#, r#"{"id":"2","v":"e"}"#]);
        for (key, expected) in [
            (Value::Int(1), vec![r#"{"id":1,"v":"c"}"#]),
            (Value::Float(1.0), vec![r#"{"id":1,"v":"c"}"#]),
            (Value::Int(2), vec![r#"{"id":2,"v":"d"}"#]),
            (Value::from("2"), vec![r#"{"id":"2","v":"e"}"#]),
            (Value::Int(3), vec![]),
            (Value::Null, vec![]),
            (Value::Absent, vec![]),
        ] {
            assert_eq!(found(&index, std::slice::from_ref(&key)), expected, "{key:?}");
        }
        bench.take(vec![frame(r#"{"id":1}"#, Change::Delete, None), frame("{}", Change::Delete, Some(Value::Int(2)))]);
        bench.take(vec![frame(r#"{"id":7}"#, Change::Delete, None)]);
        assert_eq!(found(&index, &[Value::Int(1)]), Vec::<String>::new());
        assert_eq!(found(&index, &[Value::Int(2)]), Vec::<String>::new());
        let mut rows = Vec::new();
        bench.table().rows(&mut |row| rows.push(shown(row)));
        assert_eq!(rows, [r#"{"id":"2","v":"e"}"#]);
        assert_eq!(bench.errors(), (0, None));
    }

    #[test]
    fn rows_without_a_key_are_errors_of_their_own() {
        let mut bench = bench("", MEMORY);
        bench.put(&[r#"{"v":1}"#, r#"{"id":null}"#, r#"{"id":5}"#]);
        assert_eq!(bench.errors(), (2, Some("table t: the row has no id, which is the table's KEY".to_owned())));
        assert_eq!(found(&bench.table().index(&["id".into()]), &[Value::Int(5)]), [r#"{"id":5}"#]);
    }

    #[test]
    fn rules_share_indexes_by_any_columns() {
        let mut bench = bench("", MEMORY);
        bench.put(&[r#"{"id":1,"n":"p","m":1}"#, r#"{"id":2,"n":"p","m":2}"#, r#"{"id":3,"m":1}"#]);
        let table = bench.table();
        let columns: [Text; 2] = ["n".into(), "m".into()];
        let (by_n, by_both) = (table.index(&columns[..1]), table.index(&columns));
        assert!(Rc::ptr_eq(&by_n, &table.index(&columns[..1])));
        // Rows of before are there at once, later ones come; a row that changes its column moves.
        assert_eq!(found(&by_n, &["p".into()]), [r#"{"id":1,"n":"p","m":1}"#, r#"{"id":2,"n":"p","m":2}"#]);
        bench.put(&[r#"{"id":1,"n":"q","m":1}"#, r#"{"id":4,"n":"p","m":2.0}"#]);
        assert_eq!(found(&by_n, &["p".into()]), [r#"{"id":2,"n":"p","m":2}"#, r#"{"id":4,"n":"p","m":2}"#]);
        assert_eq!(found(&by_both, &["q".into(), Value::Float(1.0)]), [r#"{"id":1,"n":"q","m":1}"#]);
        assert_eq!(found(&by_both, &["q".into(), Value::Null]), Vec::<String>::new());
        // Without an index the same is found.
        let mut rows = Vec::new();
        table.lookup(&["m".into()], &[Value::Int(1)], &mut |row| rows.push(shown(row)));
        assert_eq!(rows, [r#"{"id":3,"m":1}"#, r#"{"id":1,"n":"q","m":1}"#]);
        // What no rule holds any more ends.
        drop(by_n);
        bench.tables.sweep();
        assert_eq!(bench.worker.installed_dataflows().len(), 2);
        bench.put(&[r#"{"id":9,"n":"z","m":9}"#]);
        assert_eq!(found(&by_both, &["z".into(), Value::Int(9)]).len(), 1);
        bench.tables.drop("t");
        bench.worker.step();
        assert_eq!(bench.worker.installed_dataflows().len(), 0);
        assert_eq!(found(&by_both, &["z".into(), Value::Int(9)]).len(), 1);
    }

    #[test]
    fn typed_tables_hold_their_columns() {
        let mut bench = bench("id BIGINT, v STRING", MEMORY);
        bench.put(&[r#"{"id":1.0,"v":5,"w":1}"#, r#"{"id":"x","v":"a"}"#, r#"{"id":2}"#]);
        let index = bench.table().index(&["id".into()]);
        assert_eq!(found(&index, &[Value::Int(1)]), [r#"{"id":1,"v":"5"}"#]);
        assert_eq!(found(&index, &[Value::Int(2)]), [r#"{"id":2}"#]);
        assert_eq!(bench.errors().0, 1);
    }

    #[test]
    fn messages_of_a_file_are_rows_too() {
        let mut bench = bench("", "TYPE=\"file\"");
        let text = |text: &'static str| Frame::Text(text.into());
        bench.take(vec![text(r#"[{"id":1},{"id":1,"v":2}]"#), text(r#" {"id":2}"#), text("[1]"), text("{")]);
        assert_eq!(bench.errors().0, 2);
        let index = bench.table().index(&["id".into()]);
        assert_eq!(found(&index, &[Value::Int(1)]), [r#"{"id":1}"#, r#"{"id":1,"v":2}"#]);
    }

    #[test]
    fn costs_follow_the_rows_and_not_the_updates() {
        let mut bench = bench("", MEMORY);
        let table = bench.table();
        let indexes = [table.index(&["id".into()]), table.index(&["n".into()])];
        let updates = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };
        let kept = |index: &Index| {
            let (mut batches, mut changes) = (0, 0);
            index.trace.borrow().map_batches(|batch| {
                batches += 1;
                changes += differential_dataflow::trace::BatchReader::len(batch);
            });
            (batches, changes)
        };
        let row = |id: i64, v: i64| {
            let row: Row =
                vec![("id".into(), Value::Int(id)), ("n".into(), Value::Int(id)), ("v".into(), Value::Int(v))];
            Frame::Row(Arc::new(RowFrame { topic: "t".into(), row, change: Change::Put, key: None }))
        };
        let mut most = (0, 0);
        // Rounds of one update and of many.
        for (round, start) in (0..updates).step_by(256).enumerate() {
            let size = if round % 2 == 0 { 256 } else { 1 };
            bench.take((start..start + size).map(|v| row(v % 100, v)).collect());
            for index in &indexes {
                let (batches, changes) = kept(index);
                most = (most.0.max(batches), most.1.max(changes));
            }
        }
        // 100 rows: few batches with the rows and what was not merged yet.
        assert!(most.0 <= 8 && most.1 <= 1_000, "{most:?}");
        for index in &indexes {
            assert_eq!(found(index, &[Value::Int(7)]).len(), 1);
        }
    }
}
