//! The arrangements of a table, and lookups in them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::TraceReader;
use differential_dataflow::trace::cursor::{Cursor, Navigable};
use differential_dataflow::trace::implementations::{ContainerChunker, ValBatcher, ValBuilder, ValSpine};
use smallvec::SmallVec;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::Operator;
use timely::dataflow::operators::generic::operator::source;
use timely::scheduling::Activator;
use timely::worker::Worker;

use crate::value::key::GroupKey;
use crate::value::{Row, Text, Value};

use super::entry::{TableRow, key_of, row_key};
use super::updates::Updates;

/// The rows of a table by the values of some columns.
pub struct Index {
    pub(super) columns: Vec<Text>,
    pub(super) trace: Rc<RefCell<RowTrace>>,
    /// the time that the arrangement has reached
    pub(super) reached: Rc<Cell<u64>>,
    pub(super) dataflow: usize,
}

pub(super) type RowTrace = TraceAgent<ValSpine<GroupKey, TableRow, u64, isize>>;

/// A change of an arrangement.
type Update = ((GroupKey, TableRow), u64, isize);

impl Index {
    pub fn columns(&self) -> &[Text] {
        &self.columns
    }

    /// Visits the rows whose columns equal `key`, in the order of arrival. Numbers are compared by value, regardless of
    /// their representation; null and absent equal nothing.
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

/// Rows, each with the number of its insertions less that of its removals.
pub(super) type Found = SmallVec<[(TableRow, isize); 4]>;

/// Adds the rows with the cursor's key.
pub(super) fn gather<B, C>(cursor: &mut C, batch: &B, found: &mut Found)
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

/// Visits the rows that exist.
pub(super) fn show(found: Found, visit: &mut dyn FnMut(&Row)) {
    each(found, &mut |row| visit(&row.frame.row));
}

/// Visits the rows that exist, with their numbers.
pub(super) fn each(mut found: Found, visit: &mut dyn FnMut(&TableRow)) {
    found.sort_by(|(a, _), (b, _)| a.cmp(b));
    for same in found.chunk_by(|(a, _), (b, _)| a == b) {
        if same.iter().map(|(_, count)| count).sum::<isize>() > 0 {
            visit(&same[0].0);
        }
    }
}

/// The dataflow of a table: `updates`, the arrangement by KEY, `compact`.
pub(super) fn primary(
    worker: &mut Worker,
    name: &str,
    columns: Vec<Text>,
    updates: Rc<RefCell<Updates>>,
) -> (Index, Activator) {
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
    (Index { columns, trace, reached, dataflow }, activator)
}

/// The dataflow of a further index: the table's arrangement, arranged by other columns.
pub(super) fn secondary(worker: &mut Worker, name: &str, columns: Vec<Text>, primary: &Index) -> Index {
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

/// Compacts an arrangement to the present at all times. Returns its trace, and the time that it has reached.
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
