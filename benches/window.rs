//! What a row costs in a window: 1,000 groups, three aggregates, all the way from the rule's SQL.

use std::cell::RefCell;
use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use plutino::catalog::Catalog;
use plutino::dataflow::operator::RuleOperator;
use plutino::dataflow::output::{Output, RuleContext};
use plutino::dataflow::queue::{RowBatch, RuleQueue};
use plutino::dataflow::worker::WorkerClock;
use plutino::metrics::RuleMetrics;
use plutino::plan::physical::{Body, ColumnSource};
use plutino::rule::RuleOptions;
use plutino::time::Clock;
use plutino::value::Value;

const ROWS: i64 = 10_000;

fn windows(c: &mut Criterion) {
    let mut group = c.benchmark_group("window");
    group.throughput(Throughput::Elements(ROWS as u64));
    for (name, window) in [("tumbling", "TUMBLINGWINDOW(ss, 1)"), ("count", "COUNTWINDOW(1000)")] {
        let sql = format!("SELECT device, avg(t) AS a, max(t) AS m, count(*) AS n FROM s GROUP BY device, {window}");
        let (mut operator, batch) = operator(&sql);
        group.bench_function(name, |b| {
            b.iter(|| {
                operator.rows(black_box(batch.clone()));
                operator.advance(None);
            });
        });
    }
    group.finish();
}

fn operator(sql: &str) -> (RuleOperator, RowBatch) {
    let mut catalog = Catalog::default();
    let create = plutino::sql::parse_create("CREATE STREAM s () WITH (TYPE=\"websocket\", DATASOURCE=\"/s\")");
    catalog.create(&create.expect("the statement is right")).expect("the name is free");
    let plan = plutino::plan::plan(sql, &RuleOptions::default(), &catalog).expect("the rule is right");
    let Body::Stateful(body) = plan.body else { panic!("the rule has a window") };
    let scan = &plan.inputs[0].scan;
    let queue = RuleQueue::new(scan.columns.len(), [true], 0, 0);
    for row in 0..ROWS {
        let mut slots: Vec<Value> = scan
            .columns
            .iter()
            .map(|column| match &column.source {
                ColumnSource::Key(key) if key == "device" => Value::from(format!("dev-{:04}", row % 1000)),
                _ => Value::Float(row as f64 / 7.0),
            })
            .collect();
        queue.push(0, row / 10, Instant::now(), &mut slots);
    }
    let context =
        RuleContext { id: "bench".into(), started: 0, zone: jiff::tz::TimeZone::UTC, hits: Default::default() };
    let output = Output::new(Vec::new(), false, false, Arc::new(RuleMetrics::default()));
    let output = Rc::new(RefCell::new(output));
    let clock = Rc::new(WorkerClock::new(Clock::System));
    (RuleOperator::new(*body, plan.inputs, Default::default(), Rc::new(context), output, clock, None), queue.take())
}

criterion_group!(benches, windows);
criterion_main!(benches);
