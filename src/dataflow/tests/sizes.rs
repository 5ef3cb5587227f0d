//! The size of states: every kind of memory is measured, open windows are those that will be sent, and a measurement
//! changes nothing.

use serde_json::{Value as Json, json};

use super::{Rule, by_clock, event_time};

/// Rows of a rule in processing time, ms, and how many windows are open then.
type Moments = &'static [(i64, &'static [&'static str], u64)];

#[test]
fn open_windows_are_counted() {
    let cases: &[(&str, Moments)] = &[
        (
            "SELECT count(*) AS n FROM a GROUP BY TUMBLINGWINDOW(ms, 10)",
            &[(0, &[], 0), (3, &["x"], 1), (9, &["x", "y"], 1), (10, &[], 0), (25, &["x"], 1)],
        ),
        (
            "SELECT count(*) AS n FROM a GROUP BY HOPPINGWINDOW(ms, 30, 10)",
            &[(3, &["x"], 3), (12, &[], 2), (15, &["x"], 3), (38, &[], 1), (40, &[], 0)],
        ),
        ("SELECT count(*) AS n FROM a GROUP BY SLIDINGWINDOW(ms, 10, 5)", &[(1, &["x", "y"], 2), (6, &[], 0)]),
        ("SELECT count(*) AS n FROM a GROUP BY SLIDINGWINDOW(ms, 10)", &[(1, &["x"], 0)]),
        (
            "SELECT count(*) AS n FROM a GROUP BY SESSIONWINDOW(ms, 100, 10)",
            &[(1, &["x"], 1), (5, &["x"], 1), (20, &[], 0)],
        ),
        (
            "SELECT count(*) AS n FROM a GROUP BY COUNTWINDOW(3)",
            &[(1, &[], 0), (1, &["x"], 1), (2, &["x"], 1), (3, &["x"], 0)],
        ),
        // Rows 3 and 4 are in the window that ends with row 4 and in the next one.
        (
            "SELECT count(*) AS n FROM a GROUP BY COUNTWINDOW(4, 2)",
            &[(1, &["x"], 1), (2, &["x", "y"], 2), (3, &["x"], 1)],
        ),
        (
            "SELECT count(*) AS n FROM a GROUP BY STATEWINDOW(k = \"b\", k = \"e\") OVER (PARTITION BY p)",
            &[(1, &["x"], 0), (2, &["b"], 1), (3, &["x"], 1), (4, &["e"], 0)],
        ),
    ];
    for (sql, moments) in cases {
        let mut rule = Rule::new(sql, &by_clock());
        for (now, rows, open) in *moments {
            rule.clock_to(*now, false);
            for row in *rows {
                rule.send("a", json!({"k": row, "p": 1}));
                rule.step();
            }
            assert_eq!(rule.operator.size(&rule.queue).windows, Some(*open), "{sql} at {now}");
        }
    }
    let rule = Rule::new("SELECT lag(a) AS l FROM a", &by_clock());
    assert_eq!(rule.operator.size(&rule.queue).windows, None);
}

/// The bytes of a rule's state after `rows` rows with different keys.
fn after(sql: &str, rows: usize) -> u64 {
    let mut rule = Rule::new(sql, &event_time(1_000_000));
    for number in 0..rows {
        let row: Json = json!({"ts": number, "k": format!("k{number}"), "a": number, "b": "x".repeat(100), "c": 1.5});
        rule.send(if sql.contains("last") { "last" } else { "a" }, row);
        rule.step();
    }
    let before = rule.checkpoint();
    let size = rule.operator.size(&rule.queue);
    assert_eq!(rule.checkpoint(), before, "measuring changes nothing");
    size.bytes
}

#[test]
fn every_kind_of_memory_is_seen() {
    // Per row at least the size of its key and values, and not much more.
    for (sql, rows, least, most) in [
        ("SELECT k, sum(a) AS s FROM a GROUP BY k, COUNTWINDOW(100000)", 200, 30, 400),
        ("SELECT collect(b) AS l FROM a GROUP BY COUNTWINDOW(100000)", 200, 100, 250),
        ("SELECT k, collect(*) AS l FROM a GROUP BY k, COUNTWINDOW(100000)", 200, 150, 900),
        ("SELECT lag(b) OVER (PARTITION BY k) AS l FROM a", 200, 100, 400),
        ("SELECT k, count(*) AS n FROM a GROUP BY k, STATEWINDOW(a >= 0, a < 0) OVER (PARTITION BY k)", 200, 30, 900),
        // Rows that wait for the watermark.
        ("SELECT collect(b) AS l FROM a GROUP BY TUMBLINGWINDOW(ms, 10)", 200, 100, 400),
        // The table keeps three rows.
        ("SELECT a.c AS x, last.b AS y FROM a LEFT JOIN last ON a.k = last.k", 3, 100, 400),
    ] {
        let (idle, busy) = (after(sql, 0), after(sql, rows));
        assert!(idle < 1000, "{sql}: {idle} bytes without rows");
        let each = (busy - idle) / rows as u64;
        assert!((least..=most).contains(&each), "{sql}: {each} bytes a row");
    }
}
