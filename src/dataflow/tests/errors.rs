//! An error drops the smallest unit possible, a row or a group, and is counted once.

use serde_json::{Value as Json, json};

use super::{Rule, by_clock, event_time};
use crate::definition::rule::RuleOptions;

/// The results of a rule, and its number of errors, when these rows arrive every 10 ms.
fn run(sql: &str, options: &RuleOptions, rows: &[(&str, Json)]) -> (Vec<String>, u64) {
    let mut rule = Rule::new(sql, options);
    for (number, (stream, row)) in rows.iter().enumerate() {
        let at = number as i64 * 10;
        rule.clock_to(at, false);
        let mut row = row.clone();
        row["ts"] = at.into();
        rule.send(stream, row);
        rule.step();
    }
    if options.event_time {
        rule.end();
    } else {
        rule.clock_to(10_000, false);
    }
    (rule.texts(), rule.metrics.errors())
}

/// Rows of stream `a` with these values of `v`, in groups `k` 0 and 1 alternately.
fn rows(values: &[Json]) -> Vec<(&'static str, Json)> {
    let row = |(number, value): (usize, &Json)| ("a", json!({"k": number % 2, "v": value}));
    values.iter().enumerate().map(row).collect()
}

const WINDOWS: [&str; 6] = [
    "TUMBLINGWINDOW(ms, 1000)",
    "HOPPINGWINDOW(ms, 1000, 1000)",
    "SESSIONWINDOW(ms, 1000, 500)",
    "COUNTWINDOW(4)",
    "STATEWINDOW(n = 0, n = 3)",
    "SLIDINGWINDOW(ms, 1000) OVER (WHEN n = 3)",
];

/// Four rows, the third with a text among numbers.
fn four() -> Vec<(&'static str, Json)> {
    let row = |(n, v): (usize, Json)| ("a", json!({"n": n, "v": v}));
    [json!(1), json!(2), json!("x"), json!(4)].into_iter().enumerate().map(row).collect()
}

#[test]
fn an_error_of_where_costs_the_row_in_each_kind_of_window() {
    for window in WINDOWS {
        for select in ["sum(v) AS s", "sum(v) AS s, collect(v) AS l INVISIBLE"] {
            let sql = format!("SELECT {select} FROM a WHERE v > 1 GROUP BY {window}");
            let options = if window.starts_with("COUNT") { vec![by_clock()] } else { vec![by_clock(), event_time(0)] };
            for options in options {
                assert_eq!(run(&sql, &options, &four()), (vec![r#"[{"s":6}]"#.to_owned()], 1), "{sql}");
            }
        }
    }
}

#[test]
fn an_error_of_an_argument_costs_the_row_in_each_kind_of_window() {
    for window in WINDOWS {
        // The row counts in no aggregate, even if only one of them cannot take it.
        for select in ["count(*) AS c, sum(v) AS s", "sum(v) AS s, count(*) AS c, max(v + 1) AS m INVISIBLE"] {
            let sql = format!("SELECT {select} FROM a GROUP BY {window}");
            let (texts, errors) = run(&sql, &by_clock(), &four());
            let expected: Json = serde_json::from_str(&texts[0]).expect("a list");
            assert_eq!((texts.len(), &expected[0]["c"], &expected[0]["s"]), (1, &json!(3), &json!(7)), "{sql}");
            assert_eq!(errors, 1, "{sql}");
        }
    }
}

#[test]
fn an_error_of_filter_costs_the_row() {
    let sql = "SELECT count(*) AS c FROM a GROUP BY COUNTWINDOW(3) FILTER (WHERE v > 0)";
    assert_eq!(run(sql, &by_clock(), &four()), (vec![r#"[{"c":3}]"#.to_owned()], 1));
}

#[test]
fn an_error_of_a_group_costs_the_group() {
    let rows = rows(&[json!(0), json!(2), json!(0), json!(4)]);
    let expected = (vec![r#"[{"k":1,"x":2}]"#.to_owned()], 1);
    for sql in [
        "SELECT k, 12 / sum(v) AS x FROM a GROUP BY k, TUMBLINGWINDOW(ms, 1000)",
        "SELECT k, sum(v) - 4 AS x FROM a GROUP BY k, TUMBLINGWINDOW(ms, 1000) HAVING 12 / sum(v) > 0",
        "SELECT k, sum(v) - 4 AS x FROM a GROUP BY k, TUMBLINGWINDOW(ms, 1000) ORDER BY 12 / sum(v)",
        "SELECT k, sum(v) - 4 AS x FROM a GROUP BY k, TUMBLINGWINDOW(ms, 1000) ORDER BY 12 / sum(v) LIMIT 2",
        "SELECT k, sum(v) - 4 AS x FROM a GROUP BY k, COUNTWINDOW(4) HAVING 12 / sum(v) > 0",
    ] {
        assert_eq!(run(sql, &by_clock(), &rows), expected, "{sql}");
    }
}

#[test]
fn an_error_of_a_row_that_is_a_result_costs_the_row() {
    let rows = rows(&[json!(1), json!(2), json!("x"), json!(4)]);
    let expected = (vec![r#"[{"x":2},{"x":3},{"x":5}]"#.to_owned()], 1);
    for sql in [
        "SELECT v + 1 AS x FROM a GROUP BY TUMBLINGWINDOW(ms, 1000)",
        "SELECT v + 1 AS x FROM a GROUP BY TUMBLINGWINDOW(ms, 1000) ORDER BY v + 1",
        "SELECT v + 1 AS x FROM a GROUP BY TUMBLINGWINDOW(ms, 1000) ORDER BY v + 1 LIMIT 5",
    ] {
        assert_eq!(run(sql, &by_clock(), &rows), expected, "{sql}");
    }
}

#[test]
fn a_key_that_cannot_be_compared_with_most_costs_its_row() {
    for limit in ["", " LIMIT 10"] {
        let sql = format!("SELECT v FROM a GROUP BY TUMBLINGWINDOW(ms, 1000) ORDER BY v DESC{limit}");
        let given = rows(&[json!("x"), json!(2), json!(null), json!([1]), json!(3)]);
        let expected = (vec![r#"[{"v":3},{"v":2},{"v":null}]"#.to_owned()], 2);
        assert_eq!(run(&sql, &by_clock(), &given), expected, "{sql}");
    }
}

#[test]
fn keys_of_different_types_do_not_match_and_the_window_survives() {
    let given = [
        ("a", json!({"i": 1, "k": 7})),
        ("a", json!({"i": 2, "k": "x"})),
        ("a", json!({"i": 3, "k": [1]})),
        ("b", json!({"i": 4, "k": 7.0})),
        ("b", json!({"i": 5, "k": "7"})),
        ("b", json!({"i": 6, "k": {"x": 1}})),
    ];
    for (kind, expected) in [
        ("INNER", json!([[1, 4]])),
        ("LEFT", json!([[1, 4], [2, null], [3, null]])),
        ("RIGHT", json!([[1, 4], [null, 5], [null, 6]])),
        ("FULL", json!([[1, 4], [2, null], [3, null], [null, 5], [null, 6]])),
    ] {
        for options in [by_clock(), event_time(0)] {
            let sql = format!(
                "SELECT a.i AS l, b.i AS r FROM a {kind} JOIN b ON a.k = b.k GROUP BY TUMBLINGWINDOW(ms, 1000)"
            );
            let (texts, errors) = run(&sql, &options, &given);
            let rows: Vec<Json> = serde_json::from_str(&texts[0]).expect("a list");
            let pairs: Vec<Json> = rows.iter().map(|row| json!([row["l"], row["r"]])).collect();
            assert_eq!((Json::from(pairs), errors), (expected.clone(), 0), "{sql}");
        }
    }
}

#[test]
fn a_key_with_errors_is_counted_once() {
    let given = [
        ("a", json!({"i": 1, "k": 7, "m": 7})),
        ("a", json!({"i": 2, "k": "x", "m": "x"})),
        ("b", json!({"i": 3, "k": 7, "m": 7})),
        ("b", json!({"i": 4, "k": "y", "m": "y"})),
    ];
    for (kind, expected) in [("INNER", 1), ("LEFT", 2), ("RIGHT", 2), ("FULL", 3)] {
        let sql = format!(
            "SELECT a.i AS l, b.i AS r FROM a {kind} JOIN b ON a.k + 1 = b.k + 1 AND a.m + 1 = b.m + 1 \
             GROUP BY TUMBLINGWINDOW(ms, 1000)"
        );
        let (texts, errors) = run(&sql, &by_clock(), &given);
        let rows: Vec<Json> = serde_json::from_str(&texts[0]).expect("a list");
        // One for each of the two rows.
        assert_eq!((rows.len(), errors), (expected, 2), "{sql}: {texts:?}");
    }
}

#[test]
fn a_pair_whose_condition_has_an_error_does_not_match() {
    let given = [
        ("a", json!({"i": 1, "k": 7})),
        ("a", json!({"i": 2, "k": "x"})),
        ("b", json!({"i": 3, "k": 5})),
        ("b", json!({"i": 4, "k": 6})),
    ];
    for (kind, expected) in [("INNER", 2), ("LEFT", 3), ("RIGHT", 2), ("FULL", 3)] {
        let sql =
            format!("SELECT a.i AS l, b.i AS r FROM a {kind} JOIN b ON a.k > b.k GROUP BY TUMBLINGWINDOW(ms, 1000)");
        let (texts, errors) = run(&sql, &by_clock(), &given);
        let rows: Vec<Json> = serde_json::from_str(&texts[0]).expect("a list");
        assert_eq!(rows.len(), expected, "{sql}: {texts:?}");
        assert!((1..=2).contains(&errors), "{sql}: {errors}");
    }
}

#[test]
fn a_row_that_an_aggregate_of_where_refuses_is_lost_once() {
    // Which rows are refused depends on those before them: numbers after a text, texts after a number.
    let values = [json!(3), json!("x"), json!(1), json!("y"), json!(2)];
    let given = rows(&values);
    let sql = "SELECT v FROM a WHERE max(v) != 0 GROUP BY COUNTWINDOW(5)";
    assert_eq!(run(sql, &by_clock(), &given), (vec![r#"[{"v":3},{"v":1},{"v":2}]"#.to_owned()], 2));
    let joined: Vec<_> = given.into_iter().chain([("b", json!({"k": 0})), ("b", json!({"k": 0}))]).collect();
    let sql = "SELECT a.v AS v FROM a INNER JOIN b ON a.k = b.k OR a.k = 1 WHERE max(a.v) != 0 \
               GROUP BY TUMBLINGWINDOW(ms, 1000)";
    let (texts, errors) = run(sql, &by_clock(), &joined);
    let found: Vec<Json> = serde_json::from_str(&texts[0]).expect("a list");
    assert!(found.len() == 6 && found.iter().all(|row| row["v"].is_number()), "{texts:?}");
    assert_eq!(errors, 4);
}

#[test]
fn a_result_that_is_too_long_is_counted_and_not_cut() {
    // One row at the limit and a half: messages are complete or not sent.
    let mut rule = Rule::new("SELECT v FROM a GROUP BY COUNTWINDOW(2)", &by_clock());
    rule.limit_messages(100);
    for value in ["short", "also", &"long".repeat(40), "x", "short", "again"] {
        rule.send("a", json!({"v": value}));
        rule.step();
    }
    assert_eq!(rule.texts(), [r#"[{"v":"short"},{"v":"also"}]"#, r#"[{"v":"short"},{"v":"again"}]"#]);
    assert_eq!(rule.metrics.errors(), 1);
}
