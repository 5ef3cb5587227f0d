//! What a row costs for every aggregate in every kind of window, and for what else a rule may hold: joins, analytic
//! functions, ORDER BY, unnest. Each case runs at two rates, so that a cost that grows with what is in the window shows.
//!
//! A number is nanoseconds a row in the best ten seconds of the rule's time, since other work on the machine only adds to
//! it. `×3.9` behind it says how much more that is than at a quarter of the rate; up to ×1.5 nothing is said. `>` stands
//! before a case that was given up after its time. `cargo bench --bench cliffs -- median` runs those whose names contain
//! the word; `--rate`, `--seconds` (of the rule's time) and `--budget` (seconds a case) change the load.

mod operator;

use std::time::{Duration, Instant};

use operator::Rule;
use plutino::dataflow::batch::RowBatch;
use plutino::expr::function;
use plutino::plan::physical::{ColumnSource, Input};
use plutino::value::Value;

/// Aggregates, each as a rule would call it. A table row of the functions that has no line here ends the bench.
const AGGREGATES: &[&str] = &[
    "avg(t)",
    "collect(t)",
    "collect(t)[0]",
    "collect(*)[0]->t",
    "cardinality(collect(t))",
    "collect(DISTINCT n % 100)",
    "count(*)",
    "count(DISTINCT n)",
    "deduplicate(n % 100, true)",
    "deduplicate(n, false)",
    "first_value(t, true)",
    "last_value(t, true)",
    "max(t)",
    "median(t)",
    "merge_agg(*)",
    "min(t)",
    "percentile_cont(t, 0.9)",
    "percentile_disc(t, 0.9)",
    "stddev(t)",
    "stddevs(t)",
    "sum(t)",
    "sum(DISTINCT n)",
    "var(t)",
    "vars(t)",
];

const WINDOWS: &[(&str, &str)] = &[
    ("tumbling 10 s", "TUMBLINGWINDOW(ss, 10)"),
    ("hopping 10 s / 1 s", "HOPPINGWINDOW(ss, 10, 1)"),
    ("sliding 10 s", "SLIDINGWINDOW(ss, 10)"),
    ("sliding, 1 row in 100", "SLIDINGWINDOW(ss, 10) OVER (WHEN n % 100 = 0)"),
    ("session", "SESSIONWINDOW(ss, 10, 1)"),
    ("count 10,000", "COUNTWINDOW(10000)"),
    ("count 10,000 / 100", "COUNTWINDOW(10000, 100)"),
    ("state", "STATEWINDOW(n % 10000 = 0, n % 10000 = 9999)"),
];

/// The seconds of the rule's time that are timed together: each window of the table closes in them.
const STEADY: usize = 10;

/// What is not an aggregate in a window: name, statement, rows a second on all streams together.
const OTHERS: &[(&str, &str, usize)] = &[
    ("lag", "SELECT lag(t) AS x FROM s", 2000),
    ("lag(t, 1000)", "SELECT lag(t, 1000) AS x FROM s", 2000),
    ("lag, each row its own partition", "SELECT lag(t) OVER (PARTITION BY n) AS x FROM s", 2000),
    ("latest", "SELECT latest(t) AS x FROM s", 2000),
    ("changed_col", "SELECT changed_col(true, t) AS x FROM s", 2000),
    ("changed_cols", "SELECT changed_cols(\"c_\", true, t, n) FROM s", 2000),
    ("had_changed", "SELECT t FROM s WHERE had_changed(true, t, device)", 2000),
    ("acc_avg", "SELECT acc_avg(t) AS x FROM s", 2000),
    ("acc_count", "SELECT acc_count(t) AS x FROM s", 2000),
    ("acc_max", "SELECT acc_max(t) AS x FROM s", 2000),
    ("acc_min", "SELECT acc_min(t) AS x FROM s", 2000),
    ("acc_sum", "SELECT acc_sum(t) AS x FROM s", 2000),
    ("row_number", "SELECT row_number() AS x, t FROM s GROUP BY TUMBLINGWINDOW(ss, 10)", 2000),
    ("inner join, tumbling 10 s", "SELECT s.t FROM s INNER JOIN r ON s.n = r.n GROUP BY TUMBLINGWINDOW(ss, 10)", 2000),
    ("left join, tumbling 10 s", "SELECT s.t FROM s LEFT JOIN r ON s.n = r.n GROUP BY TUMBLINGWINDOW(ss, 10)", 2000),
    ("right join, tumbling 10 s", "SELECT r.t FROM s RIGHT JOIN r ON s.n = r.n GROUP BY TUMBLINGWINDOW(ss, 10)", 2000),
    ("full join, tumbling 10 s", "SELECT s.t FROM s FULL JOIN r ON s.n = r.n GROUP BY TUMBLINGWINDOW(ss, 10)", 2000),
    (
        "inner join, hopping 10 s / 1 s",
        "SELECT s.t FROM s INNER JOIN r ON s.n = r.n GROUP BY HOPPINGWINDOW(ss, 10, 1)",
        2000,
    ),
    (
        "inner join, sliding 10 s",
        "SELECT count(*) FROM s INNER JOIN r ON s.n = r.n GROUP BY SLIDINGWINDOW(ss, 10)",
        2000,
    ),
    ("cross join, tumbling 1 s", "SELECT count(*) FROM s CROSS JOIN r GROUP BY TUMBLINGWINDOW(ss, 1)", 2000),
    ("100,000 groups, all", "SELECT n, max(t) AS m FROM s GROUP BY n, TUMBLINGWINDOW(ss, 10) ORDER BY m", 10_000),
    (
        "100,000 groups, ORDER BY LIMIT 10",
        "SELECT n, max(t) AS m FROM s GROUP BY n, TUMBLINGWINDOW(ss, 10) ORDER BY m LIMIT 10",
        10_000,
    ),
    (
        "100,000 rows, ORDER BY LIMIT 10",
        "SELECT n, t FROM s GROUP BY TUMBLINGWINDOW(ss, 10) ORDER BY t LIMIT 10",
        10_000,
    ),
    ("unnest of 10,000 elements", "SELECT unnest(list) AS x FROM s", 10),
];

struct Load {
    wanted: String,
    rate: Option<usize>,
    seconds: usize,
    budget: Duration,
}

fn main() {
    let load = load();
    every_aggregate_is_here();
    let mut head = String::from("| aggregate |");
    WINDOWS.iter().for_each(|(name, _)| head += &format!(" {name} |"));
    println!("{head}\n|---{}|", "|---".repeat(WINDOWS.len()));
    for aggregate in AGGREGATES.iter().filter(|name| name.contains(&load.wanted)) {
        let mut row = format!("| `{aggregate}` |");
        for (_, window) in WINDOWS {
            row += &cell(&load, &format!("SELECT {aggregate} AS x FROM s GROUP BY {window}"), 2000);
        }
        println!("{row}");
    }
    println!("\n| what | ns a row |\n|---|---|");
    for (name, sql, rate) in OTHERS.iter().filter(|(name, ..)| name.contains(&load.wanted)) {
        println!("| {name} |{}", cell(&load, sql, *rate));
    }
}

fn load() -> Load {
    let mut load = Load { wanted: String::new(), rate: None, seconds: 60, budget: Duration::from_secs(3) };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok()).expect("a number follows the option");
        match arg.as_str() {
            "--rate" => load.rate = Some(number()),
            "--seconds" => load.seconds = number(),
            "--budget" => load.budget = Duration::from_secs(number() as u64),
            _ => load.wanted = arg,
        }
    }
    load
}

/// A function that comes new into the table of the aggregates comes into this bench, too.
fn every_aggregate_is_here() {
    for function in function::all().filter(|function| function.family == function::Family::Aggregate) {
        let called = |call: &&&str| call.split('(').any(|part| part == function.name);
        assert!(AGGREGATES.iter().any(|call| called(&call)), "{} has no line in this bench", function.name);
    }
}

/// The cell of a table for a statement.
fn cell(load: &Load, sql: &str, rate: usize) -> String {
    let rate = load.rate.unwrap_or(rate);
    let (slow, _) = cost(load, sql, (rate / 4).max(1));
    let (fast, whole) = cost(load, sql, rate);
    let given_up = if whole { "" } else { ">" };
    match fast / slow {
        growth if growth > 1.5 => format!(" {given_up}{fast:.0} ×{growth:.1} |"),
        _ => format!(" {given_up}{fast:.0} |"),
    }
}

/// Nanoseconds a row in the best ten seconds of the rule's time after the first ten, and whether all rows have run.
fn cost(load: &Load, sql: &str, rate: usize) -> (f64, bool) {
    let mut rule = Rule::new(sql);
    let mut rows = 0;
    let mut seconds: Vec<Duration> = Vec::new();
    while seconds.len() < load.seconds && seconds.iter().sum::<Duration>() <= load.budget {
        let second = seconds.len();
        let mut batch = RowBatch::of_width(rule.width);
        for number in 0..rate {
            let input = number % rule.inputs.len();
            let time = second * 1000 + number * 1000 / rate;
            let mut slots = slots(&rule.inputs[input], rows / rule.inputs.len());
            batch.push(input as u16, time as i64, Instant::now(), &mut slots);
            rows += 1;
        }
        let begin = Instant::now();
        rule.run(batch, (second as i64 + 1) * 1000);
        seconds.push(begin.elapsed());
    }
    let per_row = |part: &[Duration]| part.iter().sum::<Duration>().as_nanos() as f64 / (part.len() * rate) as f64;
    let steady = seconds.chunks_exact(STEADY).skip(1).map(per_row).min_by(f64::total_cmp);
    (steady.unwrap_or_else(|| per_row(&seconds)), seconds.len() == load.seconds)
}

fn slots(input: &Input, row: usize) -> Vec<Value> {
    let value = |column: &ColumnSource| match column {
        ColumnSource::Key(key) => match key.as_str() {
            "device" => Value::from(format!("dev-{:06}", row % 1000)),
            "n" => Value::Int(row as i64),
            // In no order, and hardly ever the same.
            "t" => Value::Float((row * 7919 % 1_000_003) as f64 / 7.0),
            "list" => Value::array((0..10_000).map(Value::Int)),
            _ => Value::Absent,
        },
        _ => Value::Json(format!("{{\"device\":\"dev-{:06}\",\"n\":{row},\"t\":{row}.5}}", row % 1000).into()),
    };
    input.scan.columns.iter().map(|column| value(&column.source)).collect()
}
