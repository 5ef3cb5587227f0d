//! Further properties of checkpoints: they contain every kind of memory, and those of another plan are refused.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::{Restarts, Rule, by_clock, event_time};
use crate::dataflow::state::checkpoint::CheckpointError;
use crate::definition::rule::RuleOptions;

/// Rules with different kinds of state. Rows have `ts`, `k`, `a`, `b` and `c`.
const RULES: &[&str] = &[
    "SELECT lag(a) AS l, lag(b, 3, \"none\", false) AS m FROM a",
    "SELECT latest(a, 7) AS l, latest(b) OVER (PARTITION BY k) AS m FROM a",
    "SELECT changed_col(true, b) AS c, had_changed(false, a, b) AS h, had_changed(true, *) AS s FROM a",
    "SELECT changed_cols(\"x_\", true, a, b), changed_cols(\"y_\", false, *) FROM a",
    "SELECT acc_sum(c) AS s, acc_avg(c) AS m, acc_count(*) AS n, acc_count(b) AS d FROM a",
    "SELECT acc_max(c, k = 0, k = 1) AS hi, acc_min(c) OVER (PARTITION BY k, b WHEN c > 1) AS lo FROM a",
    "SELECT c, last_hit_count() AS n FROM a WHERE lag(c) > 1",
    "SELECT last_agg_hit_count() AS n, count(*) AS m, sum(c) AS s FROM a GROUP BY COUNTWINDOW(4, 2)",
    "SELECT k, collect(a) AS l, last_value(b, true) AS v, merge_agg(*) AS o FROM a GROUP BY k, COUNTWINDOW(5)",
    "SELECT collect(*) AS l, deduplicate(b, true) AS d, deduplicate(k, false) AS e FROM a GROUP BY COUNTWINDOW(5, 3)",
    "SELECT median(c) AS m, percentile_cont(c, 0.3) AS p, percentile_disc(c, 0.7) AS q FROM a GROUP BY COUNTWINDOW(6)",
    "SELECT stddev(c) AS s, vars(c) AS v, min(b) AS lo, max(c) AS hi FROM a GROUP BY SLIDINGWINDOW(ms, 40)",
    "SELECT b, count(*) AS n, sum(c) AS s, avg(a) AS m FROM a GROUP BY b, HOPPINGWINDOW(ms, 60, 20)",
    "SELECT a, b, row_number() OVER (ORDER BY c) AS n FROM a GROUP BY TUMBLINGWINDOW(ms, 50)",
    "SELECT k, count(*) AS n FROM a GROUP BY k, SESSIONWINDOW(ms, 100, 10)",
    "SELECT k, collect(b) AS l FROM a GROUP BY STATEWINDOW(k = 0, k = 2) OVER (PARTITION BY b)",
    "SELECT a.c AS x, b.c AS y FROM a INNER JOIN b ON a.k = b.k GROUP BY TUMBLINGWINDOW(ms, 50)",
    "SELECT a.c AS x, last.a AS y FROM a LEFT JOIN last ON a.k = last.k",
    "SELECT sum(c) AS s, lag(sum(c)) OVER (PARTITION BY k) AS p, k FROM a GROUP BY k, TUMBLINGWINDOW(ms, 30)",
    "SELECT * FROM a",
];

/// Values of all JSON types, and absent ones.
fn cell() -> impl Strategy<Value = Option<Json>> {
    let one = prop_oneof![
        3 => (0i64..4).prop_map(Json::from),
        1 => prop::sample::select(vec![i64::MAX, i64::MIN, 1 << 53]).prop_map(Json::from),
        2 => prop::sample::select(vec![0.1, -0.0, 1e300, 2.0]).prop_map(Json::from),
        2 => prop::sample::select(vec!["", "x", "é", "a text that is longer than what is kept in place"]).prop_map(Json::from),
        1 => any::<bool>().prop_map(Json::from),
        1 => Just(Json::Null),
        1 => Just(json!([1, {"n": [null, 1.50]}])),
        1 => Just(json!({"deep": {"er": "x"}, "n": 9007199254740993i64})),
    ];
    prop::option::weighted(0.9, one)
}

/// A row and its stream; whether the rule runs after it.
fn rows() -> impl Strategy<Value = Vec<(&'static str, Json, bool)>> {
    let stream = prop::sample::select(vec!["a", "a", "a", "b", "last"]);
    let row = (stream, 0i64..150, 0u8..3, cell(), cell(), -5i64..5, any::<bool>());
    let row = row.prop_map(|(stream, disorder, k, a, b, c, runs)| {
        let mut row = json!({"ts": disorder, "k": k, "c": c});
        a.into_iter().for_each(|a| row["a"] = a);
        b.into_iter().for_each(|b| row["b"] = b);
        (stream, row, runs)
    });
    prop::collection::vec(row, 0..40).prop_map(|mut rows| {
        // Time advances, with some disorder.
        for (number, (_, row, _)) in rows.iter_mut().enumerate() {
            row["ts"] = json!(number as i64 * 10 + row["ts"].as_i64().unwrap_or(0) % 40);
        }
        rows
    })
}

/// The results of a rule, and the errors that it counts.
fn answers(sql: &str, options: &RuleOptions, rows: &[(&str, Json, bool)], restarts: Restarts) -> (Vec<String>, u64) {
    let mut rule = Rule::new(sql, options);
    rule.restarts = restarts;
    for (number, (stream, row, runs)) in rows.iter().enumerate() {
        rule.send(stream, row);
        if *runs {
            rule.step();
            rule.clock_to(number as i64 * 10, false);
        }
    }
    rule.end();
    (rule.texts(), rule.metrics.errors())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_restart_does_not_show(rule in 0..RULES.len(), rows in rows(), by_time: bool, seed: u64) {
        let sql = RULES[rule];
        let options = if by_time { event_time(15) } else { by_clock() };
        prop_assume!(!Rule::refused(sql, &options) && Rule::has_state(sql, &options));
        let never = answers(sql, &options, &rows, Restarts::Never);
        prop_assert_eq!(&answers(sql, &options, &rows, Restarts::AtEachStep), &never, "{}", sql);
        prop_assert_eq!(&answers(sql, &options, &rows, Restarts::Sometimes(seed)), &never, "{}", sql);
    }
}

/// A checkpoint with some bytes after its header changed, and a correct checksum.
fn forged(mut checkpoint: Vec<u8>, damages: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    const HEAD: usize = 4 + 2 + 16;
    let end = checkpoint.len() - 4;
    if end > HEAD {
        for (at, byte) in damages {
            checkpoint[HEAD + at.index(end - HEAD)] = *byte;
        }
    }
    checkpoint.truncate(end);
    let checksum = crc32fast::hash(&checkpoint);
    checkpoint.extend(checksum.to_le_bytes());
    checkpoint
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(100) })]

    /// A checkpoint by a faulty Plutino is refused, or harms only its rule, whose code a worker runs as here.
    #[test]
    fn no_checkpoint_harms_its_thread(
        rule in 0..RULES.len(),
        rows in rows(),
        by_time: bool,
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let sql = RULES[rule];
        let options = if by_time { event_time(15) } else { by_clock() };
        prop_assume!(!Rule::refused(sql, &options) && Rule::has_state(sql, &options));
        let mut old = Rule::new(sql, &options);
        old.restarts = Restarts::Never;
        let (before, after) = rows.split_at(rows.len() / 2);
        for (stream, row, runs) in before {
            old.send(stream, row);
            if *runs {
                old.step();
            }
        }
        old.step();
        let mut new = Rule::new(sql, &options);
        new.restarts = Restarts::Never;
        if new.operator.restore(&forged(old.checkpoint(), &damages), &new.fingerprint, &new.queue).is_ok() {
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for (number, (stream, row, runs)) in after.iter().enumerate() {
                    new.send(stream, row);
                    if *runs {
                        new.step();
                        new.clock_to(number as i64 * 10, false);
                    }
                }
                let _ = new.operator.save(&new.fingerprint, &new.queue);
                new.end();
            }));
        }
    }
}

#[test]
fn the_rules_are_right() {
    let right = |sql: &&&str| !Rule::refused(sql, &by_clock()) && !Rule::refused(sql, &event_time(15));
    let wrong: Vec<_> = RULES.iter().filter(|sql| !right(sql)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_window_that_ended_while_the_rule_was_away_is_sent_when_it_is_back() {
    for sql in [
        "SELECT count(*) AS n FROM a GROUP BY TUMBLINGWINDOW(ms, 100)",
        "SELECT count(*) AS n FROM a GROUP BY SESSIONWINDOW(ms, 1000, 100)",
        "SELECT count(*) AS n FROM a GROUP BY SLIDINGWINDOW(ms, 100, 100)",
    ] {
        let mut rule = Rule::new(sql, &by_clock());
        rule.restarts = Restarts::Never;
        rule.clock_to(10, false);
        rule.send("a", json!({}));
        rule.step();
        let checkpoint = rule.checkpoint();
        rule.clock.store(5000, std::sync::atomic::Ordering::Relaxed);
        rule.restart();
        assert_eq!(rule.texts().len(), 0, "{sql}");
        assert_eq!(rule.timers.next().map(|at| at < 5000), Some(true), "{sql}: it is to be woken at once");
        rule.clock_to(5000, true);
        assert_eq!(rule.texts(), [r#"[{"n":1}]"#], "{sql}");
        assert_ne!(rule.checkpoint(), checkpoint);
    }
}

#[test]
fn a_row_lost_to_an_error_counts_for_its_window_after_a_restart() {
    let sql = "SELECT sum(a) AS s, k FROM a GROUP BY k, COUNTWINDOW(2)";
    let mut rule = Rule::new(sql, &by_clock());
    rule.restarts = Restarts::AtEachStep;
    for a in [json!("no number"), json!(1)] {
        rule.send("a", json!({"k": 1, "a": a}));
        rule.step();
    }
    assert_eq!(rule.texts(), [r#"[{"s":1,"k":1}]"#]);
    let error = rule.errors().expect("it is counted");
    assert!(error.contains("run sum function error: found invalid arg string(no number)"), "{error}");
}

#[test]
fn late_rows_are_late_after_a_restart() {
    let mut rule = Rule::new("SELECT c FROM a", &event_time(0));
    rule.restarts = Restarts::AtEachStep;
    for (ts, c) in [(5000, 1), (3000, 2), (6000, 3)] {
        rule.send("a", json!({"ts": ts, "c": c}));
        rule.step();
    }
    assert_eq!(rule.texts(), [r#"[{"c":1}]"#, r#"[{"c":3}]"#]);
    assert_eq!(rule.metrics.late.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[test]
fn what_has_not_changed_is_known() {
    let mut rule = Rule::new("SELECT sum(c) AS s FROM a WHERE c > 0 GROUP BY TUMBLINGWINDOW(ms, 100)", &event_time(0));
    rule.restarts = Restarts::Never;
    let changes = |rule: &Rule| rule.operator.changes() + rule.queue.changes();
    let mut last = changes(&rule);
    assert_eq!(last, 0);
    for (row, changed) in [
        (json!({"ts": 10, "c": 1}), true),
        (json!({"ts": 10, "c": 1}), true),
        // Only the watermark advances.
        (json!({"ts": 20, "c": -1}), true),
        (json!({"ts": 20, "c": -1}), false),
        (json!({"ts": 5, "c": 1}), false),
    ] {
        rule.send("a", &row);
        rule.step();
        assert_eq!(changes(&rule) != last, changed, "{row}");
        last = changes(&rule);
    }
}

#[test]
fn state_is_for_plans_that_remember_alike() {
    let of = |sql: &str, options: &RuleOptions| Rule::new(sql, options).fingerprint;
    let sql = "SELECT k, sum(c) AS s FROM a WHERE c > 0 GROUP BY k, TUMBLINGWINDOW(ms, 100)";
    let plan = of(sql, &by_clock());
    for same in [
        sql,
        "SELECT k, sum(c) AS total FROM a WHERE c > 0 GROUP BY k, TUMBLINGWINDOW(ms, 100)",
        "SELECT k, sum(c) AS s FROM a WHERE c > 0 GROUP BY k, TUMBLINGWINDOW(ms, 100) HAVING sum(c) > 1 ORDER BY s LIMIT 3",
    ] {
        assert_eq!(of(same, &by_clock()), plan, "{same}");
    }
    for other in [
        "SELECT k, sum(c) AS s FROM a WHERE c > 1 GROUP BY k, TUMBLINGWINDOW(ms, 100)",
        "SELECT k, sum(c) AS s FROM b WHERE c > 0 GROUP BY k, TUMBLINGWINDOW(ms, 100)",
        "SELECT k, sum(b) AS s FROM a WHERE c > 0 GROUP BY k, TUMBLINGWINDOW(ms, 100)",
        "SELECT k, avg(c) AS s FROM a WHERE c > 0 GROUP BY k, TUMBLINGWINDOW(ms, 100)",
        "SELECT sum(c) AS s FROM a WHERE c > 0 GROUP BY TUMBLINGWINDOW(ms, 100)",
        "SELECT k, sum(c) AS s FROM a WHERE c > 0 GROUP BY k, TUMBLINGWINDOW(ms, 101)",
        "SELECT k, sum(c) AS s FROM a WHERE c > 0 GROUP BY k, SLIDINGWINDOW(ms, 100)",
        "SELECT k, sum(c) AS s, lag(c) AS l FROM a WHERE c > 0 GROUP BY k, TUMBLINGWINDOW(ms, 100)",
    ] {
        assert_ne!(of(other, &by_clock()), plan, "{other}");
    }
    assert_ne!(of(sql, &event_time(0)), plan);
    assert_ne!(of(sql, &event_time(0)), of(sql, &event_time(1)));
    let zone = jiff::tz::TimeZone::get("Asia/Shanghai").unwrap();
    assert_ne!(Rule::in_zone(sql, &by_clock(), zone).fingerprint, plan);
    let columns = |names: &str| of(&format!("SELECT changed_cols(\"\", true, {names}) FROM a"), &by_clock());
    assert_ne!(columns("a, b"), columns("b, a"));
}

#[test]
fn a_checkpoint_that_cannot_be_used_leaves_nothing_behind() {
    let sql = "SELECT lag(c) AS l, last_hit_count() AS n FROM a";
    let mut old = Rule::new(sql, &event_time(0));
    old.restarts = Restarts::Never;
    old.send("a", json!({"ts": 5000, "c": 1}));
    old.step();
    // The same bytes under the name of plans with other parts.
    for other in [
        "SELECT lag(c) AS l, lag(c, 2) AS m FROM a",
        "SELECT count(*) AS n FROM a GROUP BY SLIDINGWINDOW(ms, 10)",
        "SELECT count(*) AS n, c FROM a GROUP BY c, TUMBLINGWINDOW(ms, 10)",
        "SELECT a.c AS x, b.c AS y FROM a INNER JOIN b ON a.c = b.c GROUP BY TUMBLINGWINDOW(ms, 10)",
    ] {
        let mut new = Rule::new(other, &event_time(0));
        new.restarts = Restarts::Never;
        let refused = new.operator.restore(&old.checkpoint(), &new.fingerprint, &new.queue);
        assert_eq!(refused, Err(CheckpointError::OtherPlan), "{other}");
        let forged = old.operator.save(&new.fingerprint, &old.queue).unwrap();
        let refused = new.operator.restore(&forged, &new.fingerprint, &new.queue);
        assert!(matches!(refused, Err(CheckpointError::Damaged(_))), "{other}: {refused:?}");
        assert_eq!(new.checkpoint(), Rule::new(other, &event_time(0)).checkpoint(), "{other}");
    }
}
