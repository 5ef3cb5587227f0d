//! The cost of a row in each kind of window, and in a join: the rule is planned from its SQL, and there is no decoding
//! and no sink. The state is steady: time advances from batch to batch, and windows close as usual.
//!
//! The minimum of many batches counts, since other work on the machine only adds to it; the median shows how much.
//! `cargo bench --bench window -- hopping` runs those whose names contain the word.

mod operator;

use std::time::Instant;

use operator::Rule;
use plutino::dataflow::batch::RowBatch;
use plutino::plan::physical::{ColumnSource, Input};
use plutino::value::Value;

/// One measurement.
struct Case {
    name: &'static str,
    /// what follows FROM, with the columns `device`, `t` and `n`
    from: &'static str,
    groups: usize,
    /// rows of a batch
    rows: usize,
    /// rows of a second of the rule's time
    rate: usize,
    /// batches before it is measured: as many as fill the window
    warm: usize,
}

const SELECT: &str = "SELECT s.device, avg(s.t) AS a, max(s.t) AS m, count(*) AS c FROM";

const CASES: &[Case] = &[
    case("tumbling", "s GROUP BY device, TUMBLINGWINDOW(ss, 1)", 1000, 10_000),
    case("tumbling, one group", "s GROUP BY TUMBLINGWINDOW(ss, 1)", 1000, 10_000),
    case("tumbling, 100,000 groups", "s GROUP BY device, TUMBLINGWINDOW(ss, 60)", 100_000, 10_000),
    case("hopping 60 s / 5 s", "s GROUP BY device, HOPPINGWINDOW(ss, 60, 5)", 1000, 10_000),
    case("hopping 60 s / 1 s", "s GROUP BY device, HOPPINGWINDOW(ss, 60, 1)", 1000, 10_000),
    case("hopping 3600 s / 1 s", "s GROUP BY device, HOPPINGWINDOW(ss, 3600, 1)", 1000, 10_000),
    Case { warm: 2, ..case("sliding 10 s, each row", "s GROUP BY device, SLIDINGWINDOW(ss, 10)", 10, 100) },
    Case { warm: 15, ..case("sliding 1000 s, each row", "s GROUP BY device, SLIDINGWINDOW(ss, 1000)", 10, 100) },
    case(
        "sliding 10 s, 1 row of 1000",
        "s GROUP BY device, SLIDINGWINDOW(ss, 10) OVER (WHEN n % 1000 = 0)",
        1000,
        1000,
    ),
    case("session", "s GROUP BY device, SESSIONWINDOW(ss, 10, 1)", 1000, 10_000),
    case("count 1000", "s GROUP BY device, COUNTWINDOW(1000)", 1000, 10_000),
    case("count 1000 / 100", "s GROUP BY device, COUNTWINDOW(1000, 100)", 100, 10_000),
    case("state", "s GROUP BY device, STATEWINDOW(n % 1000 = 0, n % 1000 = 999)", 1000, 10_000),
    case(
        "state, 1000 partitions",
        "s GROUP BY STATEWINDOW(n % 7 = 0, n % 7 = 6) OVER (PARTITION BY device)",
        1000,
        10_000,
    ),
    case(
        "join of two",
        "s INNER JOIN r ON s.device = r.device GROUP BY s.device, TUMBLINGWINDOW(ss, 1)",
        10_000,
        10_000,
    ),
];

const fn case(name: &'static str, from: &'static str, groups: usize, rate: usize) -> Case {
    Case { name, from, groups, rows: 10_000, rate, warm: 70 }
}

fn main() {
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    for case in CASES.iter().filter(|case| case.name.contains(&wanted)) {
        let (least, median) = measure(case);
        println!("{:28} {least:6.0} ns/row (median {median:.0})", case.name);
    }
    if "memory".contains(&wanted) {
        let groups = 1_000_000;
        let before = resident();
        let mut bench =
            Bench::new(&Case { rows: groups, ..case("", "s GROUP BY device, TUMBLINGWINDOW(dd, 1)", groups, groups) });
        let batch = bench.next();
        bench.rule.run(batch, 0);
        println!("an open group of 3 aggregates: {} bytes", (resident() - before - bench.bytes()) / groups);
    }
}

/// Nanoseconds per row: the minimum and the median of batches.
fn measure(case: &Case) -> (f64, f64) {
    let mut bench = Bench::new(case);
    for _ in 0..case.warm {
        bench.run();
    }
    let mut times: Vec<f64> = (0..50).map(|_| bench.run() / case.rows as f64).collect();
    times.sort_by(f64::total_cmp);
    (times[0], times[times.len() / 2])
}

/// A rule and what comes in.
struct Bench {
    rule: Rule,
    batch: RowBatch,
    /// the time span of a batch, ms
    span: i64,
    at: i64,
}

impl Bench {
    fn new(case: &Case) -> Bench {
        let rule = Rule::new(&format!("{SELECT} {}", case.from));
        let mut batch = RowBatch::of_width(rule.width);
        for row in 0..case.rows {
            let input = row % rule.inputs.len();
            // Each device occurs on each stream.
            let device = row / rule.inputs.len() % case.groups;
            let mut slots = slots(&rule.inputs[input], device, row);
            batch.push(input as u16, (row * 1000 / case.rate) as i64, Instant::now(), &mut slots);
        }
        Bench { rule, batch, span: (case.rows * 1000 / case.rate) as i64, at: 0 }
    }

    /// The next batch.
    fn next(&mut self) -> RowBatch {
        let mut batch = self.batch.clone();
        batch.times.iter_mut().for_each(|time| *time += self.at);
        self.at += self.span;
        batch
    }

    /// Runs the next batch; returns the nanoseconds that it took.
    fn run(&mut self) -> f64 {
        let batch = self.next();
        let begin = Instant::now();
        self.rule.run(batch, self.at);
        begin.elapsed().as_nanos() as f64
    }

    /// The memory of the batch itself.
    fn bytes(&self) -> usize {
        self.batch.values.capacity() * size_of::<Value>() + self.batch.times.capacity() * 10
    }
}

fn slots(input: &Input, device: usize, row: usize) -> Vec<Value> {
    let value = |column: &ColumnSource| match column {
        ColumnSource::Key(key) if key == "device" => Value::from(format!("dev-{device:06}")),
        ColumnSource::Key(key) if key == "n" => Value::Int(row as i64),
        _ => Value::Float(row as f64 / 7.0),
    };
    input.scan.columns.iter().map(|column| value(&column.source)).collect()
}

/// Memory of this process, bytes; 0 if the system does not report it.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}
