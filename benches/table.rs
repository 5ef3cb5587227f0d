//! Lookup tables: ns for a lookup by key, by number of keys; µs for an update, alone and in batches.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use plutino::dataflow::table::{self, Tables};
use plutino::definition::stream::Catalog;
use plutino::io::queue::{self, Change, Frame, FrameBatch, FrameSender, RowFrame, Signal};
use plutino::metrics::RuleMetrics;
use plutino::sql::parse_create;
use plutino::value::Value;
use timely::communication::Allocator;
use timely::communication::allocator::thread::Thread;
use timely::scheduling::Activator;
use timely::worker::Worker;

struct Bench {
    worker: Worker,
    tables: Tables,
    sender: FrameSender,
    signal: Signal,
    activator: Activator,
}

fn bench() -> Bench {
    let sql = "CREATE TABLE t () WITH (DATASOURCE=\"t\", TYPE=\"memory\", KIND=\"lookup\", KEY=\"id\")";
    let create = parse_create(sql).expect("the statement is correct");
    let def = Catalog::default().create(&create).expect("the table is correct");
    let allocator = Allocator::Thread(Thread::default());
    let mut config = timely::WorkerConfig::default();
    table::configure(&mut config);
    let worker = Worker::new(config, allocator, Some(Instant::now()));
    let mut tables = Tables::new(&worker, jiff::tz::TimeZone::UTC);
    let signal = Signal::new(0, crossbeam_channel::unbounded().0, Arc::default());
    let (sender, receiver) = queue::inbound(signal.clone());
    let activator = tables.create(def.schema(), receiver, Arc::new(RuleMetrics::default()));
    Bench { worker, tables, sender, signal, activator }
}

impl Bench {
    fn put(&mut self, rows: impl Iterator<Item = (i64, i64)>) {
        let frames = rows.map(|(id, v)| {
            let row = vec![("id".into(), Value::Int(id)), ("v".into(), Value::Int(v))];
            Frame::Row(Arc::new(RowFrame { topic: "t".into(), row, change: Change::Put, key: None }))
        });
        let batch = FrameBatch { frames: frames.collect(), origin: None, received: Instant::now() };
        self.sender.offer(batch, &self.signal).expect("the queue has space");
        self.activator.activate();
        let activations = self.worker.activations();
        while activations.borrow().empty_for() == Some(Duration::ZERO) {
            self.worker.step();
        }
    }
}

fn lookups(c: &mut Criterion) {
    let mut group = c.benchmark_group("lookup");
    for (name, keys, updates) in
        [("100 keys", 100, 100), ("100 keys, 1e6 updates", 100, 1_000_000), ("100,000 keys", 100_000, 100_000)]
    {
        let mut bench = bench();
        for start in (0..updates).step_by(256) {
            bench.put((start..updates.min(start + 256)).map(|v| (v % keys, v)));
        }
        let index = bench.tables.table("t").expect("the table is there").index(&["id".into()]);
        let mut key = 0;
        group.bench_function(name, |b| {
            b.iter(|| {
                key = (key + 7919) % keys;
                let mut found = 0;
                index.lookup(&[Value::Int(key)], &mut |row| found += row.len());
                black_box(found)
            });
        });
    }
    group.finish();
}

fn updates(c: &mut Criterion) {
    let mut group = c.benchmark_group("update");
    for (size, keys) in [(1i64, 1000), (16, 1000), (512, 1000), (1, 100_000), (512, 100_000)] {
        let mut bench = bench();
        for start in (0..keys).step_by(256) {
            bench.put((start..keys.min(start + 256)).map(|key| (key, 0)));
        }
        let mut next = 0;
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new(format!("{keys} keys, batch of"), size), |b| {
            b.iter(|| {
                bench.put((next..next + size).map(|v| (v % keys, v)));
                next += size;
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lookups, updates);
criterion_main!(benches);
