//! Rules whose threads accumulate rows themselves: the windows are those of one thread.

use std::sync::atomic::Ordering;

use serde_json::{Value as Json, json};

use super::spread::{HOME, THREADS, Threads};
use super::{Rule, by_clock, event_time, plain};
use crate::dataflow::command::{Command, Keeps, Leaving, Letters};

/// How far rows may be behind others, ms.
const TOLERANCE: i64 = 5_000;

/// Windows of all kinds that can be merged, each with the bounds of the window.
const STATEMENTS: [&str; 7] = [
    "SELECT k, count(*) AS n, sum(v) AS s, avg(v) AS a, min(v) AS lo, max(v) AS hi, window_end() AS e FROM a WHERE v > 1 \
     GROUP BY k, TUMBLINGWINDOW(ss, 2)",
    "SELECT k, stddev(v) AS d, stddevs(v) AS ds, var(v) AS r, vars(v) AS rs, window_end() AS e FROM a \
     GROUP BY k, HOPPINGWINDOW(ss, 6, 2) HAVING count(*) > 3",
    "SELECT count(DISTINCT v) AS c, sum(DISTINCT v) AS s, avg(DISTINCT v) AS a, median(v) AS m, \
     percentile_cont(v, 0.3) AS p, percentile_disc(v, 0.8) AS q, window_end() AS e FROM a \
     GROUP BY HOPPINGWINDOW(ss, 5, 3)",
    "SELECT k, count(*) AS n, window_start() AS b FROM a GROUP BY k, TUMBLINGWINDOW(ss, 3) ORDER BY n DESC, k LIMIT 3",
    "SELECT count(*) AS n, count(w) AS w, sum(v * 2) AS s, window_end() AS e FROM a GROUP BY HOPPINGWINDOW(ss, 3, 1)",
    "SELECT k % 3 AS m, max(v - k) AS hi, window_end() AS e FROM a GROUP BY m, HOPPINGWINDOW(ss, 4, 2) ORDER BY m",
    "SELECT k, sum(v) / count(*) AS mean, window_end() AS e FROM a WHERE k != 2 GROUP BY k, TUMBLINGWINDOW(ss, 2) \
     HAVING sum(v) > 20",
];

/// How many keys the rows of a phase have: few are accumulated, many are sent as they are.
#[derive(Clone, Copy, Debug)]
enum Keys {
    Few,
    Many,
    /// first few, then many, then few again
    Both,
}

impl Keys {
    fn in_phase(self, phase: i64) -> i64 {
        match self {
            Keys::Few => 4,
            Keys::Many => 100_000,
            Keys::Both => [4, 100_000, 4][phase as usize % 3],
        }
    }
}

/// Rows in a fixed order.
fn sorted(mut rows: Vec<Json>) -> Vec<Json> {
    rows = rows.into_iter().map(plain).collect();
    rows.sort_by_key(Json::to_string);
    rows
}

fn agrees(sql: &str, keys: Keys, seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let options = event_time(TOLERANCE);
    let threads = Threads::new(sql, &options);
    let mut alone = Rule::new(sql, &options);
    // The counts of its operators would be lost with a restart.
    alone.never_restart();
    let phases = 12;
    for phase in 0..phases {
        for _ in 0..random.usize(1..12) {
            let thread = random.usize(0..THREADS);
            let row = |random: &mut fastrand::Rng| {
                let ts = phase * 3_000 + random.i64(0..4_000);
                let k = random.i64(0..keys.in_phase(phase));
                let w = if random.bool() { Json::Null } else { json!(1) };
                json!({"k": k, "v": random.i64(0..20), "w": w, "ts": ts})
            };
            let rows: Vec<Json> = (0..random.usize(1..60)).map(|_| row(&mut random)).collect();
            rows.iter().for_each(|row| alone.send("a", row));
            threads.send(thread, rows);
        }
        threads.drain();
        alone.step();
        if phase > 8 {
            // All windows that would contain these have ended.
            let late = random.i64(1..5);
            let ended = phase * 3_000 - TOLERANCE - 3_000;
            let mut row = |_| json!({"k": 1, "v": 5, "ts": random.i64(100..ended)});
            let rows: Vec<Json> = (0..late).map(&mut row).collect();
            rows.iter().for_each(|row| alone.send("a", row));
            threads.send(random.usize(0..THREADS), rows);
        }
    }
    threads.end();
    alone.end();
    let expected = sorted(alone.messages().into_iter().flatten().collect());
    assert_eq!(sorted(threads.rows()), expected, "{sql} with {keys:?} keys, seed {seed}");
    assert!(matches!(keys, Keys::Many) || !expected.is_empty());
    let late = |metrics: &crate::metrics::RuleMetrics| metrics.late.load(Ordering::Relaxed);
    assert_eq!(late(&threads.metrics), late(&alone.metrics), "{sql} with {keys:?} keys, seed {seed}");
    assert_eq!(threads.metrics.work().flow.window_in, alone.metrics.work().flow.window_in);
    threads.stop();
}

#[test]
fn windows_are_those_of_one_thread() {
    for (number, sql) in STATEMENTS.iter().enumerate() {
        for keys in [Keys::Few, Keys::Many, Keys::Both] {
            agrees(sql, keys, number as u64);
        }
    }
    for seed in 100..120 {
        agrees(STATEMENTS[seed as usize % STATEMENTS.len()], Keys::Both, seed);
    }
}

#[test]
fn a_row_is_late_behind_those_of_its_thread_and_behind_the_end_of_its_window() {
    let threads =
        Threads::new("SELECT count(*) AS n, window_end() AS e FROM a GROUP BY TUMBLINGWINDOW(ss, 1)", &event_time(100));
    let send = |thread: usize, times: &[i64]| {
        threads.send(thread, times.iter().map(|ts| json!({"ts": ts})));
        threads.drain_and_wait();
        threads.metrics.late.load(Ordering::Relaxed)
    };
    assert_eq!(send(0, &[500, 400, 399]), 1, "399 is behind the watermark of its thread");
    assert_eq!(send(2, &[5_000]), 1);
    assert_eq!(send(0, &[600, 601]), 3, "their window has ended");
    assert_eq!(send(0, &[4_850]), 3, "its window has not");
    assert_eq!(send(HOME, &[4_850, 5_200, 5_050]), 4, "5050 is behind the watermark of its thread");
    threads.end();
    let rows = [json!({"n": 2, "e": 1_000}), json!({"n": 2, "e": 5_000}), json!({"n": 2, "e": 6_000})];
    assert_eq!(threads.rows(), rows);
    threads.stop();
}

#[test]
fn whether_a_row_is_late_does_not_depend_on_how_it_is_sent() {
    let sql = "SELECT k, count(*) AS n FROM a GROUP BY k, TUMBLINGWINDOW(ss, 1)";
    let threads = Threads::new(sql, &event_time(0));
    let send = |thread: usize, rows: Vec<(i64, i64)>| {
        threads.send(thread, rows.into_iter().map(|(ts, k)| json!({"ts": ts, "k": k})));
        threads.drain_and_wait();
        threads.metrics.late.load(Ordering::Relaxed)
    };
    // Each row is a group of its own: this thread sends the next rows as they are.
    send(0, (0..100).map(|k| (100, k)).collect());
    send(2, vec![(900, 0)]);
    assert_eq!(send(0, vec![(200, 0)]), 0, "its window has not ended");
    assert_eq!(send(0, vec![(199, 0)]), 1, "it is behind its thread");
    assert_eq!(send(HOME, vec![(500, 0), (499, 0)]), 2);
    send(2, vec![(1_500, 0)]);
    assert_eq!(send(0, vec![(999, 0)]), 3, "its window has ended");
    threads.stop();
}

#[test]
fn by_the_clock_the_rows_of_one_thread_stay_in_order() {
    let sql = "SELECT k, collect(v) AS all, last_value(v, true) AS last, first_value(v, true) AS first, w FROM a \
               GROUP BY k, TUMBLINGWINDOW(ss, 10)";
    let threads = Threads::new(sql, &by_clock());
    // Single rows are sent as they are, many are accumulated: both in one window.
    let mut sent = [0; THREADS];
    for turn in 0..200 {
        let thread = turn % THREADS;
        let count = [1, 40, 3][turn / 5 % 3];
        let rows = (0..count).map(|_| {
            sent[thread] += 1;
            json!({"k": "k", "v": [thread, sent[thread]], "w": [thread, sent[thread]]})
        });
        threads.send(thread, rows.collect::<Vec<_>>());
    }
    threads.end();
    let rows = threads.rows();
    assert_eq!(rows.len(), 1);
    let all = rows[0]["all"].as_array().expect("a list");
    for (thread, sent) in sent.into_iter().enumerate() {
        let of_thread = all.iter().filter(|row| row[0] == thread);
        assert!(of_thread.map(|row| &row[1]).eq(&(1..=sent).map(Json::from).collect::<Vec<_>>()), "thread {thread}");
    }
    assert_eq!(Some(&rows[0]["last"]), all.last());
    assert_eq!(Some(&rows[0]["first"]), all.first());
    assert_eq!(rows[0]["w"], rows[0]["first"], "a column is that of the first row");
    threads.stop();
}

#[test]
fn a_row_with_an_error_is_counted_once_wherever_it_comes() {
    let sql = "SELECT count(*) AS n, sum(v) AS s, min(m) AS m FROM a GROUP BY TUMBLINGWINDOW(ss, 10)";
    let threads = Threads::new(sql, &by_clock());
    let rows = |count: usize, v: Json, m: Json| vec![json!({"v": v, "m": m}); count];
    for thread in 0..THREADS {
        threads.send(thread, rows(5, json!(1), json!(7)));
        threads.send(thread, rows(3, json!("x"), json!(7)));
    }
    threads.drain();
    assert_eq!(threads.metrics.errors(), 9);
    // These could be compared with each other, but not with those of the other threads.
    threads.send(2, rows(4, json!(1), json!("text")));
    threads.end();
    assert_eq!(threads.metrics.errors(), 13);
    assert_eq!(threads.metrics.rows_in(), 28);
    assert_eq!(threads.rows(), [json!({"n": 15, "s": 15, "m": 7})]);
    threads.stop();
}

#[test]
fn a_value_that_cannot_be_compared_costs_no_other_row() {
    let sql = "SELECT count(*) AS n, min(v) AS lo, max(w) AS hi FROM a GROUP BY TUMBLINGWINDOW(ss, 10)";
    let threads = Threads::new(sql, &by_clock());
    let row = |v: Json| json!({"v": v, "w": 1});
    (0..THREADS).for_each(|thread| threads.send(thread, vec![row(json!(7)); 5]));
    threads.drain();
    for thread in 0..THREADS {
        let others = [json!("text"), json!([1]), json!("text")];
        let mixed = others.into_iter().flat_map(|other| [vec![row(other)], vec![row(json!(7)); 300]].concat());
        threads.send(thread, mixed.collect::<Vec<_>>());
    }
    threads.end();
    let n = THREADS * (5 + 900);
    assert_eq!(threads.rows(), [json!({"n": n, "lo": 7, "hi": 1})]);
    assert_eq!(threads.metrics.errors(), 3 * THREADS as u64);
    assert_eq!(threads.metrics.work().flow.window_in, (n + 3 * THREADS) as u64);
    threads.stop();
}

/// As in the windows of one thread, the value of an earlier slice counts, and the other one is lost.
#[test]
fn values_of_several_types_come_in_the_order_of_their_slices() {
    let sql = "SELECT k, max(v) AS m FROM a GROUP BY k, HOPPINGWINDOW(ss, 4, 2) ORDER BY k";
    let rows = [(1000, "a", json!(1)), (2000, "a", json!("y")), (3000, "a", json!(2)), (60_000, "b", json!(1))];
    let row = |(ts, k, v): (i64, &str, Json)| json!({"ts": ts, "k": k, "v": v});
    for thread in 0..THREADS {
        let threads = Threads::new(sql, &event_time(0));
        // All at once, so that the groups of both slices are sent together.
        threads.send(thread, rows.clone().map(row));
        threads.drain();
        let windows = [json!({"k": "a", "m": 1}), json!({"k": "a", "m": 2}), json!({"k": "a", "m": 2})];
        assert_eq!(threads.rows()[..3], windows, "rows of thread {thread}");
        assert_eq!(threads.metrics.errors(), 1);
        threads.stop();
    }
}

#[test]
fn a_new_version_goes_on_with_the_groups_of_all_threads() {
    let sql = "SELECT k, count(*) AS n FROM a GROUP BY k, TUMBLINGWINDOW(ss, 10)";
    let letters = Letters::default();
    let leaving = |rule: u64| Leaving { rule, settle: vec![0], ends: Vec::new(), save: Some(u64::MAX), letters };
    let threads = Threads::new(sql, &by_clock());
    for key in 2..8_u64 {
        for thread in 0..THREADS {
            for _ in 0..10 {
                threads.send(thread, (0..50).map(|v| json!({"k": v % 2})));
            }
        }
        // The sender does not wait for its letters: each row belongs to one version or the other.
        let saved = threads.begin(key, sql, &by_clock(), Keeps::State(None), Some(&|| leaving(key - 1)));
        assert!(matches!(saved, Some(Ok(_))), "the old version gives its state");
    }
    threads.drain();
    threads.ask(|done| Command::EndOfInput { rules: [7].into(), done });
    let n = 6 * THREADS * 250;
    assert_eq!(sorted(threads.rows()), [json!({"k": 0.0, "n": n as f64}), json!({"k": 1.0, "n": n as f64})]);
    threads.stop();
}
