//! Rules where each thread has the state of some keys: the rows of a key have the same results as with one thread.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;

use serde_json::{Value as Json, json};

use super::spread::{THREADS, Threads, leaving};
use super::{Rule, catalog, plain};
use crate::dataflow::command::{Keeps, StateAnswer};
use crate::dataflow::state::checkpoint;
use crate::definition::rule::RuleOptions;
use crate::metrics::RuleMetrics;
use crate::plan::spread::{self, Spread};

/// How far rows may be behind others, ms.
const TOLERANCE: i64 = 5_000;

/// Results of different keys may change places.
fn unordered(options: RuleOptions) -> RuleOptions {
    RuleOptions { concurrency: NonZeroUsize::new(THREADS), ..options }
}

fn by_clock() -> RuleOptions {
    unordered(super::by_clock())
}

fn event_time(tolerance: i64) -> RuleOptions {
    unordered(super::event_time(tolerance))
}

/// Rules whose state is divided by key, each with the key.
const STATEMENTS: [(&str, &str); 6] = [
    ("k", "SELECT k, v, lag(v) OVER (PARTITION BY k) AS l FROM a"),
    (
        "k",
        "SELECT k, v, acc_sum(v) OVER (PARTITION BY k) AS s, latest(w, 7) OVER (PARTITION BY k WHEN v > 9) AS w FROM a",
    ),
    ("k", "SELECT k, v, lag(v) OVER (PARTITION BY w, k) AS l, acc_count(*) OVER (PARTITION BY k, m) AS n FROM a"),
    ("k, w", "SELECT k, v, w FROM a WHERE v > lag(v, 2, 0) OVER (PARTITION BY w, k)"),
    ("k", "SELECT k, v, had_changed(true, w) OVER (PARTITION BY k) AS h FROM a WHERE v % 3 = 0"),
    ("k", "SELECT k, v, acc_max(e) OVER (PARTITION BY k) AS m, unnest(x) AS e FROM a"),
];

fn key_of(sql: &str, options: &RuleOptions) -> Option<String> {
    let plan = crate::plan::plan(sql, options, &catalog()).unwrap_or_else(|error| panic!("{sql}: {error}"));
    match spread::of(&plan) {
        Spread::Exchange(key) => Some(key.to_string()),
        _ => None,
    }
}

fn late(metrics: &RuleMetrics) -> u64 {
    metrics.late.load(Ordering::Relaxed)
}

/// The rows of each key, in their order.
fn by_key(key: &str, rows: Vec<Json>) -> BTreeMap<String, Vec<Json>> {
    let mut keys = BTreeMap::<String, Vec<Json>>::new();
    for row in rows.into_iter().map(plain) {
        let parts: Vec<String> = key.split(", ").map(|part| row[part].to_string()).collect();
        keys.entry(parts.join(" ")).or_default().push(row);
    }
    keys
}

/// Rows of a few keys. Each key is sent from one thread only, so that its rows have an order.
fn rows(random: &mut fastrand::Rng, thread: usize, from: i64) -> Vec<Json> {
    let row = |random: &mut fastrand::Rng| {
        let k = random.i64(0..5) * THREADS as i64 + thread as i64;
        let w = if random.bool() { Json::Null } else { json!(1) };
        let x: Vec<i64> = (0..random.i64(0..3)).collect();
        json!({"k": k, "v": random.i64(0..20), "w": w, "m": random.bool(), "x": x, "ts": from + random.i64(0..4_000)})
    };
    (0..random.usize(1..40)).map(|_| row(random)).collect()
}

#[test]
fn results_keep_their_order_unless_the_rule_gives_it_up() {
    let window = "SELECT k, last_value(v, true) AS l FROM a GROUP BY k, TUMBLINGWINDOW(ss, 1)";
    for sql in STATEMENTS.into_iter().map(|(_, sql)| sql).chain([window]) {
        assert_eq!(key_of(sql, &super::event_time(TOLERANCE)), None, "{sql}");
    }
}

#[test]
fn each_key_has_the_results_of_one_thread() {
    let mut wrong = Vec::new();
    for options in [by_clock(), event_time(TOLERANCE)] {
        for (number, (key, sql)) in STATEMENTS.into_iter().enumerate() {
            assert_eq!(key_of(sql, &options).as_deref(), Some(key), "{sql}");
            let mut random = fastrand::Rng::with_seed(number as u64);
            let (threads, mut alone) = (Threads::new(sql, &options), Rule::new(sql, &options));
            alone.never_restart();
            for phase in 0..12 {
                for _ in 0..random.usize(1..12) {
                    let thread = random.usize(0..THREADS);
                    let rows = rows(&mut random, thread, phase * 3_000);
                    rows.iter().for_each(|row| alone.send("a", row));
                    threads.send(thread, rows);
                }
                threads.drain();
                alone.step();
            }
            threads.end();
            alone.end();
            let expected = alone.messages().concat();
            assert!(!expected.is_empty(), "{sql}");
            let (came, expected) = (by_key(key, threads.rows()), by_key(key, expected));
            let differs = expected.iter().find(|(key, rows)| came.get(*key) != Some(rows));
            let counts = |metrics: &RuleMetrics| (late(metrics), metrics.flow.counts());
            let (counted, right) = (counts(&threads.metrics), counts(&alone.metrics));
            if differs.is_some() || came.len() != expected.len() || counted != right {
                let event_time = options.event_time;
                wrong.push(format!("{sql}, event time: {event_time}: {counted:?} and {right:?}, {differs:?}"));
            }
            threads.stop();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Windows whose keys are divided, each with the key.
const WINDOWS: [(&str, &str); 6] = [
    (
        "k",
        "SELECT k, collect(v) AS l, last_value(v, true) AS z, median(v) AS m, window_end() AS e FROM a WHERE v != 3 \
         GROUP BY k, TUMBLINGWINDOW(ss, 2)",
    ),
    (
        "k",
        "SELECT k, w, first_value(v, true) AS f, count(*) AS n, window_start() AS b, window_end() AS e FROM a \
         GROUP BY k, HOPPINGWINDOW(ss, 6, 2) HAVING count(*) > 2",
    ),
    (
        "k, m",
        "SELECT k, m, collect(v) AS l, window_end() AS e FROM a GROUP BY m, k, TUMBLINGWINDOW(ss, 1) \
         ORDER BY k, m LIMIT 3",
    ),
    (
        "k",
        "SELECT k, count(*) AS n, sum(v) AS s, window_end() AS e FROM a WHERE v > lag(v, 1, 0) OVER (PARTITION BY k) \
         GROUP BY k, w, TUMBLINGWINDOW(ss, 2)",
    ),
    (
        "k",
        "SELECT k, collect(v) AS l, lag(count(*)) OVER (PARTITION BY k) AS p, window_end() AS e FROM a \
         WHERE had_changed(true, v) OVER (PARTITION BY k) GROUP BY k, TUMBLINGWINDOW(ss, 3)",
    ),
    (
        "k",
        "SELECT k, collect(v) AS l, count(*) AS n FROM a GROUP BY k, TUMBLINGWINDOW(ms, 500) \
         FILTER(WHERE v > latest(v, 0) OVER (PARTITION BY k WHEN v < 5))",
    ),
];

#[test]
fn windows_of_divided_keys_are_those_of_one_thread() {
    let message_of = |message: &Json| -> Vec<String> {
        let rows = message.as_array().expect("a list of rows").iter();
        let mut rows: Vec<String> = rows.map(|row| plain(row.clone()).to_string()).collect();
        rows.sort_unstable();
        rows
    };
    let mut wrong = Vec::new();
    for (number, (key, sql)) in WINDOWS.into_iter().enumerate() {
        for options in [by_clock(), event_time(TOLERANCE)] {
            if options.event_time || sql.contains("PARTITION BY k)") || sql.contains("FILTER") {
                assert_eq!(key_of(sql, &options).as_deref(), Some(key), "{sql}");
            }
            let stored = RuleOptions { qos: 1, ..options.clone() };
            assert_eq!(key_of(sql, &stored), None, "what is on its way is in no checkpoint: {sql}");
            let mut random = fastrand::Rng::with_seed(number as u64);
            let (threads, mut alone) = (Threads::new(sql, &options), Rule::new(sql, &options));
            alone.never_restart();
            alone.clock.store(threads.now(), Ordering::Relaxed);
            for phase in 0..12 {
                for _ in 0..random.usize(1..12) {
                    let thread = random.usize(0..THREADS);
                    let rows = rows(&mut random, thread, phase * 3_000);
                    rows.iter().for_each(|row| alone.send("a", row));
                    threads.send(thread, rows);
                }
                threads.drain();
                alone.step();
            }
            threads.end();
            alone.end();
            let came: Vec<Vec<String>> = threads.messages().iter().map(message_of).collect();
            let expected: Vec<Vec<String>> =
                alone.messages().into_iter().map(|rows| message_of(&Json::from(rows))).collect();
            assert!(!expected.is_empty(), "{sql}");
            let counts = |metrics: &RuleMetrics| (late(metrics), metrics.errors(), metrics.flow.counts());
            let (counted, right) = (counts(&threads.metrics), counts(&alone.metrics));
            if came != expected || counted != right {
                let differs = came.iter().zip(&expected).find(|(came, expected)| came != expected);
                wrong.push(format!(
                    "{sql}, event time: {}, {} and {} messages, {counted:?} and {right:?}, {differs:?}",
                    options.event_time,
                    came.len(),
                    expected.len()
                ));
            }
            threads.stop();
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Time is that of the thread that is furthest, also for owners of keys that get no rows.
#[test]
fn threads_without_rows_hold_no_window_back() {
    let sql = "SELECT k, collect(v) AS l FROM a GROUP BY k, TUMBLINGWINDOW(ss, 1)";
    let threads = Threads::new(sql, &event_time(0));
    threads.send(0, [json!({"k": 1, "v": 1, "ts": 100}), json!({"k": 1, "v": 2, "ts": 200})]);
    threads.drain();
    assert_eq!(threads.rows(), Vec::<Json>::new());
    threads.send(2, [json!({"k": 2, "v": 1, "ts": 5_000})]);
    threads.drain();
    assert_eq!(threads.rows(), [json!({"k": 1, "l": [1, 2]})]);
    threads.send(1, [json!({"k": 1, "v": 3, "ts": 300}), json!({"k": 1, "v": 4, "ts": 5_001})]);
    threads.drain();
    assert_eq!(threads.metrics.late.load(Ordering::Relaxed), 1);
    threads.send(0, (0..9).map(|k| json!({"k": k, "v": 5, "ts": 6_000 + k})));
    threads.end();
    assert_eq!(threads.rows().len(), 1 + 2 + 9);
    threads.stop();
}

#[test]
fn what_has_no_common_key_or_needs_one_order_is_gathered() {
    for sql in [
        "SELECT k, lag(v) AS l FROM a",
        "SELECT k, lag(v) OVER (PARTITION BY k) AS l, lag(w) AS m FROM a",
        "SELECT k, lag(v) OVER (PARTITION BY k) AS l, lag(w) OVER (PARTITION BY m) AS m FROM a",
        "SELECT k, lag(v) OVER (PARTITION BY k + 1) AS l FROM a",
        "SELECT k, count(*) AS n FROM a WHERE lag(v) OVER (PARTITION BY m) > 1 GROUP BY k, TUMBLINGWINDOW(ss, 1)",
        "SELECT k, count(*) AS n FROM a WHERE lag(v) OVER (PARTITION BY k) > 1 GROUP BY k, COUNTWINDOW(5)",
        "SELECT count(*) AS n FROM a WHERE lag(v) OVER (PARTITION BY k) > 1 GROUP BY TUMBLINGWINDOW(ss, 1)",
        "SELECT k, lag(v) OVER (PARTITION BY k) AS l FROM a WHERE last_hit_count() < 3",
        "SELECT k, lag(v) OVER (PARTITION BY k) AS l, delay(1, v) AS d FROM a",
        "SELECT a.k, lag(a.v) OVER (PARTITION BY a.k) AS l FROM a INNER JOIN last ON a.k = last.k",
    ] {
        assert_eq!(key_of(sql, &by_clock()), None, "{sql}");
    }
}

fn saved(answer: StateAnswer) -> Vec<u8> {
    answer.expect("it has state").expect("it can be written").bytes
}

/// The state moves from three threads to one, to three, and back to one.
#[test]
fn a_state_that_was_divided_goes_on_with_any_number_of_threads() {
    for options in [by_clock(), event_time(TOLERANCE)] {
        let sql = "SELECT k, v, acc_sum(v) OVER (PARTITION BY k) AS s FROM a";
        let mut random = fastrand::Rng::with_seed(5);
        let (mut came, mut state) = (Vec::new(), None);
        let mut model = Rule::new(sql, &options);
        model.never_restart();
        for phase in 0..6 {
            let rows: Vec<Vec<Json>> =
                (0..THREADS).map(|thread| rows(&mut random, thread, 10_000 + phase * 3_000)).collect();
            rows.iter().flatten().for_each(|row| model.send("a", row));
            model.step();
            if phase % 2 == 0 {
                let threads = Threads::beginning(sql, &options, Keeps::State(state.take()));
                rows.into_iter().enumerate().for_each(|(thread, rows)| threads.send(thread, rows));
                threads.drain();
                let states = threads.leave(leaving(1));
                assert_eq!(states.len(), THREADS);
                state = Some(checkpoint::join(states.into_iter().map(saved).collect()).expect("it is small"));
                came.extend(threads.rows());
                threads.stop();
            } else {
                let mut alone = Rule::new(sql, &options);
                alone.never_restart();
                alone.restore(&state.take().expect("of the threads before"));
                rows.iter().flatten().for_each(|row| alone.send("a", row));
                alone.step();
                state = Some(alone.checkpoint());
                came.extend(alone.messages().concat());
            }
        }
        // Rows that waited for their time at the end are in the state.
        let mut alone = Rule::new(sql, &options);
        alone.never_restart();
        alone.restore(&state.take().expect("of the last phase"));
        alone.end();
        came.extend(alone.messages().concat());
        model.end();
        assert_eq!(by_key("k", came), by_key("k", model.messages().concat()));
    }
}

#[test]
fn the_parts_of_a_state_have_one_limit() {
    let sql = "SELECT k, lag(v) OVER (PARTITION BY k) AS l FROM a";
    let limited = |evicts| RuleOptions { max_state_bytes: 300_000, evicts, ..by_clock() };
    for evicts in [false, true] {
        let threads = Threads::new(sql, &limited(evicts));
        for some in (0..60_000).collect::<Vec<i64>>().chunks(200) {
            threads.send((some[0] / 200) as usize % THREADS, some.iter().map(|k| json!({"k": k, "v": 1})));
        }
        threads.drain();
        assert_eq!(threads.metrics.has_failed(), !evicts);
        if evicts {
            // Each part was measured after its last 1,024 rows at most.
            let bytes: usize = threads.leave(leaving(1)).into_iter().map(|state| saved(state).len()).sum();
            assert!((1_000..300_000).contains(&bytes), "{bytes}");
        }
        threads.stop();
    }
}
