use std::time::{Duration, Instant};

use timely::communication::Allocator;
use timely::communication::allocator::thread::Thread;

use super::*;
use crate::definition::stream::Catalog;
use crate::io::queue::{self, Change, Frame, FrameBatch, FrameSender, RowFrame, Signal};
use crate::sql::parse_create;
use crate::value::json;

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
    let activator = tables.create(def.schema(), receiver, metrics.clone());
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
        let batch = FrameBatch { frames, origin: None, received: Instant::now() };
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
    // Existing rows are there at once, later ones follow; a row whose column changes moves.
    assert_eq!(found(&by_n, &["p".into()]), [r#"{"id":1,"n":"p","m":1}"#, r#"{"id":2,"n":"p","m":2}"#]);
    bench.put(&[r#"{"id":1,"n":"q","m":1}"#, r#"{"id":4,"n":"p","m":2.0}"#]);
    assert_eq!(found(&by_n, &["p".into()]), [r#"{"id":2,"n":"p","m":2}"#, r#"{"id":4,"n":"p","m":2}"#]);
    assert_eq!(found(&by_both, &["q".into(), Value::Float(1.0)]), [r#"{"id":1,"n":"q","m":1}"#]);
    assert_eq!(found(&by_both, &["q".into(), Value::Null]), Vec::<String>::new());
    // Without an index the result is the same.
    let mut rows = Vec::new();
    table.lookup(&["m".into()], &[Value::Int(1)], &mut |row| rows.push(shown(row)));
    assert_eq!(rows, [r#"{"id":3,"m":1}"#, r#"{"id":1,"n":"q","m":1}"#]);
    // Indexes that no rule holds any more end.
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
        let row: Row = vec![("id".into(), Value::Int(id)), ("n".into(), Value::Int(id)), ("v".into(), Value::Int(v))];
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
    // 100 rows: few batches, with the rows and what was not merged yet.
    assert!(most.0 <= 8 && most.1 <= 1_000, "{most:?}");
    for index in &indexes {
        assert_eq!(found(index, &[Value::Int(7)]).len(), 1);
    }
}
