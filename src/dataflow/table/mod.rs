//! Lookup tables: the last row for each key, arranged so that rules find rows by any columns.
//!
//! A table lives on a worker from its creation to its end, whichever rules run, and all rules of the worker share one
//! copy. It is a dataflow: `updates` takes rows from memory topics, or the messages of a file, knows for each key the
//! row that is replaced, and passes the changes to a differential arrangement by the table's KEY. A rule that joins on
//! other columns requests an [`Index`]: one more arrangement, made once for all rules that need these columns, that
//! imports the first one. Lookups read the arrangement's batches by cursor (a plain differential join would keep the
//! stream for ever).
//!
//! Timestamps count rounds of input instead of following the clock, so a table without updates costs nothing. After
//! each round the arrangements are compacted, logically and physically, to the present: nobody needs the past, and
//! costs depend on the number of rows, not on the number of updates.
//!
//! This module does not know what rules do with the rows.

mod entry;
mod index;
#[cfg(test)]
mod tests;
mod updates;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use differential_dataflow::trace::cursor::{Cursor, Navigable};
use differential_dataflow::trace::{BatchReader, ExertionLogic, TraceReader};
use jiff::tz::TimeZone;
use timely::WorkerConfig;
use timely::scheduling::Activator;
use timely::worker::Worker;

use crate::definition::stream::StreamSchema;
use crate::io::queue::FrameReceiver;
use crate::metrics::RuleMetrics;
use crate::value::{Row, Text, Value};

use super::feed::{Inbox, RowChange};
use super::state::measure::{Meter, TableSize};

use entry::{key_of, row_key};
use index::{Found, each, gather, primary, secondary, show};
use updates::Updates;

pub use index::Index;

/// After this many steps, an index is used although it is behind; it catches up later.
const CATCH_UP_STEPS: usize = 10_000;

/// The number of rows that an idle arrangement merges at once.
const IDLE_MERGE: usize = 4096;

/// The number of rows that are measured to estimate the size of a table.
const SAMPLE: u64 = 64;

/// The overhead of an index for a row: key, number and time of the row, bytes.
const INDEXED: u64 = 96;

/// Makes the arrangements of a worker merge their batches while nothing arrives, so that lookups have few batches to
/// search: while a merge is in progress, and until the largest batch has most of the rows. Merging everything with each
/// update would cost time in proportion to the table.
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
    schema: Rc<StreamSchema>,
    worker: RefCell<Worker>,
    updates: Rc<RefCell<Updates>>,
    /// The index by KEY is first; without KEY it has no columns.
    indexes: RefCell<Vec<Rc<Index>>>,
}

impl Tables {
    /// Makes the tables of a worker, empty. DATETIME columns are read in `zone`.
    pub fn new(worker: &Worker, zone: TimeZone) -> Self {
        Tables { worker: worker.clone(), zone, tables: HashMap::new() }
    }

    /// Sets the time zone of tables that start from now on.
    pub fn use_zone(&mut self, zone: TimeZone) {
        self.zone = zone;
    }

    /// Starts a table; `frames` delivers its rows. The returned activator runs it when there are rows. A table with the
    /// same name is replaced. Must not be called inside a dataflow.
    pub fn create(&mut self, schema: StreamSchema, frames: FrameReceiver, metrics: Arc<RuleMetrics>) -> Activator {
        self.drop(&schema.name);
        let schema = Rc::new(schema);
        let updates = Updates::new(schema.clone(), self.zone.clone(), frames, metrics);
        let updates = Rc::new(RefCell::new(updates));
        let columns = Vec::from_iter(schema.key.clone());
        let (primary, activator) = primary(&mut self.worker, &schema.name, columns, updates.clone());
        let indexes = RefCell::new(vec![Rc::new(primary)]);
        let worker = RefCell::new(self.worker.clone());
        let name = schema.name.clone();
        self.tables.insert(name, Rc::new(LookupTable { schema, worker, updates, indexes }));
        activator
    }

    /// Ends a table. A rule that still uses it sees its last rows. Must not be called inside a dataflow.
    pub fn drop(&mut self, name: &str) {
        if let Some(table) = self.tables.remove(name) {
            // The importing dataflows before the imported one.
            for index in table.indexes.borrow().iter().rev() {
                self.worker.drop_dataflow(index.dataflow);
            }
        }
    }

    /// Drops all rows of a table when it runs next. It takes no more.
    pub fn empty(&self, name: &str) {
        let Some(table) = self.tables.get(name) else { return };
        let mut rows = Vec::new();
        each(table.found(), &mut |row| rows.push(row.clone()));
        table.updates.borrow_mut().empty(rows);
    }

    /// The size of each table.
    pub fn sizes(&self) -> Vec<(Text, TableSize)> {
        self.tables.iter().map(|(name, table)| (name.clone(), table.size())).collect()
    }

    pub fn table(&self, name: &str) -> Option<&Rc<LookupTable>> {
        self.tables.get(name)
    }

    /// Drops the indexes that no rule uses any more. Must be called after a rule has ended, and not inside a dataflow.
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

    /// Whether no rows are waiting.
    pub fn is_idle(&self) -> bool {
        self.tables.values().all(|table| table.updates.borrow().frames.is_empty())
    }
}

impl LookupTable {
    /// The index by these columns, created if it does not exist, with all rows taken so far. Must not be called inside
    /// a dataflow, neither while one is built nor while one runs.
    pub fn index(&self, columns: &[Text]) -> Rc<Index> {
        if let Some(index) = self.indexes.borrow().iter().find(|index| index.columns == columns) {
            return index.clone();
        }
        let primary = self.primary();
        let worker = &mut *self.worker.borrow_mut();
        let index = Rc::new(secondary(worker, &self.schema.name, columns.to_vec(), &primary));
        self.indexes.borrow_mut().push(index.clone());
        for _ in 0..CATCH_UP_STEPS {
            if index.reached.get() >= primary.reached.get() {
                break;
            }
            worker.step();
        }
        index
    }

    /// Visits the rows whose `columns` equal `key`, in the order of arrival. Fast with an [`Index`], which a rule
    /// requests when it starts; without one, all rows are read.
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

    /// Visits all rows, in the order of arrival.
    pub fn rows(&self, visit: &mut dyn FnMut(&Row)) {
        show(self.found(), visit);
    }

    /// The current rows; later changes go to `inbox`. Must be called when no rows that the table has taken are on their
    /// way.
    pub fn follow(&self, inbox: &Rc<Inbox>) -> Vec<RowChange> {
        let mut rows = Vec::new();
        each(self.found(), &mut |row| rows.push(row.change(true)));
        self.updates.borrow_mut().follow(inbox);
        rows
    }

    fn found(&self) -> Found {
        let mut found = Found::new();
        self.primary().trace.borrow().map_batches(|batch| {
            let mut cursor = batch.cursor();
            while cursor.key_valid(batch) {
                gather(&mut cursor, batch, &mut found);
                cursor.step_key(batch);
            }
        });
        found
    }

    /// The size of the table, extrapolated from some of its rows.
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
        if self.schema.key.is_some() {
            // The arrangement may hold changes that are not consolidated yet.
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
