//! Rules where each thread has the state of some keys: the rows of a key have the same results as with one thread.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;

use serde_json::{Value as Json, json};

use super::spread::{HOME, THREADS, Threads, leaving};
use super::{Rule, catalog, plain};
use crate::dataflow::command::{Keeps, StateAnswer};
use crate::dataflow::division::Division;
use crate::dataflow::state::checkpoint;
use crate::definition::rule::RuleOptions;
use crate::metrics::RuleMetrics;
use crate::plan::spread::{self, Spread};
use crate::value::Value;

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

/// Runs a statement on several threads, and on one beside them, with the same rows. `shape` may change the rows before
/// they are sent, and names their stream.
fn beside_one_thread(
    seed: usize,
    sql: &str,
    options: &RuleOptions,
    shape: impl Fn(&mut fastrand::Rng, &mut [Json]) -> &'static str,
) -> (Threads, Rule) {
    let mut random = fastrand::Rng::with_seed(seed as u64);
    let (threads, mut alone) = (Threads::new(sql, options), Rule::new(sql, options));
    alone.never_restart();
    alone.clock.store(threads.now(), Ordering::Relaxed);
    for phase in 0..12 {
        for _ in 0..random.usize(1..12) {
            let thread = random.usize(0..THREADS);
            let mut rows = rows(&mut random, thread, phase * 3_000);
            let stream = shape(&mut random, &mut rows);
            rows.iter().for_each(|row| alone.send(stream, row));
            threads.send_to(thread, stream, rows);
        }
        threads.drain();
        alone.step();
    }
    threads.end();
    alone.end();
    (threads, alone)
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
            let (threads, alone) = beside_one_thread(number, sql, &options, |_, _| "a");
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
    let mut wrong = Vec::new();
    for (number, (key, sql)) in WINDOWS.into_iter().enumerate() {
        for options in [by_clock(), event_time(TOLERANCE)] {
            if options.event_time || sql.contains("PARTITION BY k)") || sql.contains("FILTER") {
                assert_eq!(key_of(sql, &options).as_deref(), Some(key), "{sql}");
            }
            let stored = RuleOptions { qos: 1, ..options.clone() };
            assert_eq!(key_of(sql, &stored), None, "what is on its way is in no checkpoint: {sql}");
            let (threads, alone) = beside_one_thread(number, sql, &options, |_, _| "a");
            let came = sorted_rows(threads.messages());
            let expected = sorted_rows(alone.messages().into_iter().map(Json::from));
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

/// Joins whose rows are divided by key, each with the key.
const JOINS: [(&str, &str); 9] = [
    (
        "a.k = b.k",
        "SELECT a.k, a.v AS l, b.v AS r, count(*) AS n FROM a INNER JOIN b ON a.k = b.k \
         GROUP BY a.k, a.v, b.v, TUMBLINGWINDOW(ss, 2)",
    ),
    (
        "a.k = b.k",
        "SELECT a.k AS x, b.k AS y, sum(a.v) AS l, sum(b.v) AS r, l + r AS s FROM a FULL JOIN b \
         ON b.k = a.k AND a.v < b.v GROUP BY a.k, b.k, TUMBLINGWINDOW(ss, 2) HAVING count(*) > 2",
    ),
    (
        "a.k = b.k",
        "SELECT a.k, a.v AS l, b.v AS r, a.v - b.v AS d, count(*) AS n, window_end() AS e FROM a \
         INNER JOIN b ON a.k = b.k WHERE a.v - b.v > 2 GROUP BY a.k, a.v, b.v, TUMBLINGWINDOW(ss, 3) \
         ORDER BY a.k, l DESC, r DESC LIMIT 4",
    ),
    (
        "a.k = b.k",
        "SELECT a.k, count(*) AS n, sum(b.v) AS s, window_start() AS t FROM a LEFT JOIN b ON a.k = b.k WHERE a.v != 7 \
         GROUP BY a.k, TUMBLINGWINDOW(ss, 2) HAVING count(*) > 1",
    ),
    (
        "a.k = b.k",
        "SELECT count(*) AS n, max(a.v + b.v) AS m FROM a INNER JOIN b ON a.k = b.k WHERE a.v > b.v + 17 \
         GROUP BY TUMBLINGWINDOW(ms, 500)",
    ),
    (
        "a.k = b.k",
        "SELECT a.m, median(b.v) AS d, count(*) AS n FROM a RIGHT JOIN b ON a.k = b.k AND a.w = b.w \
         GROUP BY a.m, TUMBLINGWINDOW(ss, 2) ORDER BY n DESC, a.m LIMIT 1",
    ),
    (
        "a.k = b.k",
        "SELECT a.k, b.v, count(*) AS n, window_start() AS s, window_end() AS e FROM a \
         LEFT JOIN b ON a.k = b.k AND a.v > b.v WHERE a.v > 12 GROUP BY a.k, b.v, HOPPINGWINDOW(ss, 5, 2)",
    ),
    (
        "a.k = b.k",
        "SELECT b.m, count(*) AS n, window_start() AS s FROM a INNER JOIN b ON a.k = b.k \
         GROUP BY b.m, HOPPINGWINDOW(ss, 3, 1)",
    ),
    (
        "a.k = a.k",
        "SELECT x.k, sum(y.v) AS s FROM a AS x INNER JOIN a AS y ON x.k = y.k GROUP BY x.k, TUMBLINGWINDOW(ss, 1)",
    ),
];

/// The rows of each message, sorted.
fn sorted_rows(messages: impl IntoIterator<Item = Json>) -> Vec<Vec<String>> {
    let sorted = |message: Json| {
        let rows = message.as_array().expect("a list of rows").iter();
        let mut rows: Vec<String> = rows.map(|row| plain(row.clone()).to_string()).collect();
        rows.sort_unstable();
        rows
    };
    messages.into_iter().map(sorted).collect()
}

#[test]
fn rows_are_joined_by_the_threads_of_their_keys() {
    let options = event_time(TOLERANCE);
    let mut wrong = Vec::new();
    for (number, (key, sql)) in JOINS.into_iter().enumerate() {
        assert_eq!(key_of(sql, &options).as_deref(), Some(key), "{sql}");
        let shape = |random: &mut fastrand::Rng, rows: &mut [Json]| {
            for row in rows.iter_mut().filter(|_| random.u8(..8) == 0) {
                row["k"] = Json::Null;
            }
            ["a", "b"][random.usize(0..2)]
        };
        let (threads, alone) = beside_one_thread(number, sql, &options, shape);
        let came = sorted_rows(threads.messages());
        let expected = sorted_rows(alone.messages().into_iter().map(Json::from));
        assert!(expected.iter().any(|rows| !rows.is_empty()), "{sql}");
        let counts = |metrics: &RuleMetrics| (late(metrics), metrics.errors(), metrics.flow.counts().windows);
        let (counted, right) = (counts(&threads.metrics), counts(&alone.metrics));
        if came != expected || counted != right {
            let differs = came.iter().zip(&expected).find(|(came, expected)| came != expected);
            let (came, expected) = (came.len(), expected.len());
            wrong.push(format!("{sql}: {came} and {expected} messages, {counted:?} and {right:?}, {differs:?}"));
        }
        threads.stop();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn joins_without_a_common_key_without_groups_or_with_an_order_are_gathered() {
    let inner = "FROM a INNER JOIN b ON a.k = b.k";
    let window = "GROUP BY TUMBLINGWINDOW(ss, 2)";
    for sql in [
        format!("SELECT count(*) AS n FROM a INNER JOIN b ON a.k = b.k + 1 {window}"),
        format!("SELECT count(*) AS n FROM a INNER JOIN b ON a.k > b.k {window}"),
        format!("SELECT count(*) AS n FROM a CROSS JOIN b {window}"),
        format!("SELECT count(*) AS n FROM a INNER JOIN b ON a.k = b.k INNER JOIN c ON b.v = c.v {window}"),
        format!("SELECT count(*) AS n {inner} GROUP BY COUNTWINDOW(5)"),
        format!("SELECT a.k, a.v, count(*) AS n {inner} GROUP BY a.k, TUMBLINGWINDOW(ss, 2)"),
        format!("SELECT a.k, collect(b.v) AS l {inner} GROUP BY a.k, TUMBLINGWINDOW(ss, 2)"),
        format!("SELECT count(*) AS n {inner} WHERE lag(a.v) OVER (PARTITION BY a.k) > 1 {window}"),
        // One thread would keep all joined rows.
        format!("SELECT a.k {inner} {window}"),
        format!("SELECT a.k, b.v {inner} WHERE a.v > b.v {window} HAVING count(*) > 2 ORDER BY a.k LIMIT 3"),
        format!("SELECT a.k {inner} GROUP BY HOPPINGWINDOW(ss, 5, 2)"),
    ] {
        assert_eq!(key_of(&sql, &event_time(TOLERANCE)), None, "{sql}");
    }
    let sql = format!("SELECT count(*) AS n {inner} {window}");
    assert_eq!(key_of(&sql, &event_time(TOLERANCE)).as_deref(), Some("a.k = b.k"));
    assert_eq!(key_of(&sql, &by_clock()), None, "each thread would end windows at another moment");
    assert_eq!(key_of(&sql, &super::event_time(TOLERANCE)), None, "results keep their order");
    let stored = RuleOptions { qos: 1, ..event_time(TOLERANCE) };
    assert_eq!(key_of(&sql, &stored), None, "groups on their way are not stored");
    let three = format!("SELECT count(*) AS n FROM a LEFT JOIN b ON a.k = b.k LEFT JOIN c ON b.k = c.v {window}");
    assert_eq!(key_of(&three, &event_time(TOLERANCE)).as_deref(), Some("a.k = b.k = c.v"));
}

/// Home waits for a full sink, so an owner of keys waits for home, and its rows with it. When the rule ends, everything
/// that its streams have received is read.
#[test]
fn rows_wait_for_home_and_are_read_when_the_rule_ends() {
    let sql = "SELECT k, count(*) AS n, last_value(v, true) AS l FROM a GROUP BY k, TUMBLINGWINDOW(ss, 1)";
    let (threads, sink) = Threads::with_full_sink(sql, &event_time(0));
    // The keys of one owner, whose rows come to its own thread.
    let division = Division::new(0..THREADS, Some(HOME));
    let keys: Vec<i64> = (0..).filter(|k| division.owner_of(&[Value::Int(*k)], &[0]) == 0).take(10_000).collect();
    let mut sent = 0;
    let mut send = |rows: usize, time: i64, text: &str| {
        let rows: Vec<Json> =
            (0..rows).map(|row| json!({"k": keys[row % keys.len()], "v": text, "ts": time})).collect();
        rows.chunks(500).for_each(|some| threads.send(0, some.to_vec()));
        sent += rows.len() as u64;
        threads.have_read(sent);
        sent
    };
    // The result of the first window is too long to be held back, so home waits for the sink.
    send(10_000, 1_000, &"x".repeat(1_000));
    send(1, 2_000, "");
    threads.settle();
    // More than may be on its way home: the owner takes some rows, and no more until home takes them.
    (2..=5).for_each(|time| _ = send(10_000, time * 1_000, ""));
    send(1, 6_000, "");
    threads.settle();
    send(500, 6_000, "");
    threads.settle();
    // The owner reads as many rows as its queue holds; the rest stays in the stream.
    let read = send(33_000, 6_000, "");
    (0..10).for_each(|_| threads.send(0, (0..500).map(|row| json!({"k": keys[row], "v": "", "ts": 6_000}))));
    threads.end_scans(1);
    assert_eq!(threads.metrics.rows_in(), read + 5_000);
    threads.empty(&sink);
    threads.end();
    let counted: i64 = threads.messages().iter().filter_map(|row| row["n"].as_i64()).sum();
    assert_eq!((counted as u64, late(&threads.metrics)), (read + 5_000, 0));
    assert_eq!(threads.metrics.errors(), 0, "{:?}", threads.metrics.last_error());
    threads.stop();
}

/// Time is that of the thread that is furthest ahead, also for owners of keys that get no rows.
#[test]
fn threads_without_rows_hold_no_window_back() {
    let sql = "SELECT k, collect(v) AS l FROM a GROUP BY k, TUMBLINGWINDOW(ss, 1)";
    let threads = Threads::new(sql, &event_time(0));
    threads.send(0, [json!({"k": 1, "v": 1, "ts": 100}), json!({"k": 1, "v": 2, "ts": 200})]);
    threads.drain();
    assert_eq!(threads.rows(), Vec::<Json>::new());
    threads.send(2, [json!({"k": 2, "v": 1, "ts": 5_000})]);
    threads.drain_and_wait();
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
fn threads_that_run_ahead_of_each_other_make_no_row_late() {
    for sql in [
        "SELECT k, count(*) AS n FROM a GROUP BY k, TUMBLINGWINDOW(ss, 1)",
        "SELECT k, collect(v) AS l FROM a GROUP BY k, TUMBLINGWINDOW(ss, 1)",
        "SELECT count(*) AS n, last_value(v, true) AS l FROM a GROUP BY TUMBLINGWINDOW(ss, 1)",
    ] {
        let threads = Threads::new(sql, &event_time(0));
        let rows = |from: i64, count: i64| (from..from + count).map(|v| json!({"k": v % 3, "v": v, "ts": v * 100}));
        (0..THREADS).for_each(|thread| threads.send(thread, rows(1, 1)));
        threads.drain();
        for turn in 0..10 {
            // Each thread runs through ten seconds before the next one has anything to read.
            for thread in 0..THREADS {
                threads.send(thread, rows(2 + turn * 100, 100));
                threads.drain();
            }
        }
        threads.end();
        assert_eq!(threads.metrics.late.load(Ordering::Relaxed), 0, "{sql}");
        threads.stop();
    }
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

/// If the state exceeds its limit, a part within its share drops nothing.
#[test]
fn a_part_of_a_state_drops_nothing_below_its_share() {
    let sql = "SELECT k, lag(v) OVER (PARTITION BY k) AS l FROM a";
    let options = RuleOptions { max_state_bytes: 600_000, evicts: true, ..by_clock() };
    let division = Division::new(0..THREADS, None);
    let mut rule = Rule::new(sql, &options).of_owner(division.clone(), 0);
    division.measured(Some(1), 1_000_000);
    let mut fill = |rows: std::ops::Range<i64>| {
        rows.clone().for_each(|k| rule.send("a", json!({"k": k, "v": 1})));
        rule.step();
        rule.operator.size(&rule.queue).bytes
    };
    let few = fill(0..1_100);
    assert!((90_000..200_000).contains(&few), "{few}");
    let many = fill(1_100..20_000);
    assert!((110_000..310_000).contains(&many), "it drops down to its share: {many}");
    division.measured(Some(1), 10_000);
    let free = fill(20_000..24_000);
    assert!(free > 350_000, "what others do not need is free: {free}");
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
