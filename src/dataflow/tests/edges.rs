//! Edge cases: extreme times and lengths, changes of the clock, late rows, errors of rows, many keys.

use std::sync::atomic::Ordering;

use jiff::tz::TimeZone;
use serde_json::{Value as Json, json};

use super::{Rule, by_clock, event_time};
use crate::definition::rule::RuleOptions;

fn ms(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().expect("a timestamp").as_millisecond()
}

#[test]
fn rows_between_windows_belong_to_none() {
    let sql =
        "SELECT collect(ts) AS l, window_start() AS ws, window_end() AS we FROM a GROUP BY HOPPINGWINDOW(ms, 3, 10)";
    let mut rule = Rule::new(sql, &event_time(0));
    for time in [0, 6, 7, 9, 10, 16, 25, 26, 38] {
        rule.send("a", json!({"ts": time}));
        rule.step();
    }
    rule.end();
    assert_eq!(rule.texts(), [r#"[{"l":[7,9],"ws":7,"we":10}]"#, r#"[{"l":[38],"ws":37,"we":40}]"#]);
}

#[test]
fn times_and_lengths_at_the_ends_of_the_scale_end_no_rule() {
    let longest = i64::MAX;
    let windows = [
        "TUMBLINGWINDOW(ms, 10)".to_owned(),
        format!("TUMBLINGWINDOW(dd, {longest})"),
        "TUMBLINGWINDOW(dd, 3)".to_owned(),
        "HOPPINGWINDOW(ss, 10, 5)".to_owned(),
        format!("HOPPINGWINDOW(hh, {longest}, {longest})"),
        format!("HOPPINGWINDOW(dd, {longest}, 4000000000000)"),
        format!("HOPPINGWINDOW(ms, 10, {longest})"),
        "SLIDINGWINDOW(ss, 10)".to_owned(),
        format!("SLIDINGWINDOW(dd, {longest}, {longest})"),
        "SESSIONWINDOW(ss, 10, 1)".to_owned(),
        format!("SESSIONWINDOW(dd, {longest}, {longest})"),
        format!("COUNTWINDOW({longest}, 7)"),
        "STATEWINDOW(true)".to_owned(),
    ];
    for window in windows {
        for (select, options) in [
            ("count(*) AS n", event_time(1000)),
            ("collect(v) AS n", event_time(i64::MAX)),
            ("v, window_start() AS ws", by_clock()),
        ] {
            let options = if window.starts_with("COUNT") { by_clock() } else { options };
            // A length that no plan accepts is refused when the rule is created, which is correct, too.
            let sql = format!("SELECT {select} FROM a GROUP BY {window}");
            if Rule::refused(&sql, &options) {
                continue;
            }
            for zone in [TimeZone::UTC, TimeZone::get("Europe/Berlin").expect("the zone")] {
                let mut rule = Rule::in_zone(&sql, &options, zone);
                for time in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX] {
                    rule.send("a", json!({"ts": time, "v": 1}));
                    rule.step();
                }
                rule.end();
                assert_eq!(rule.errors(), None, "{sql}");
            }
        }
    }
}

#[test]
fn days_and_hours_follow_the_zone() {
    let berlin = TimeZone::get("Europe/Berlin").expect("the zone");
    let sql = |window: &str| {
        format!("SELECT count(*) AS n, window_start() AS ws, window_end() AS we FROM a GROUP BY {window}")
    };
    // 31 March 2024 has 23 hours, 27 October 2024 has 25. A row in each hour.
    for (window, day, next, hours) in [
        ("TUMBLINGWINDOW(dd, 1)", "2024-03-30T23:00:00Z", "2024-03-31T22:00:00Z", 23),
        ("HOPPINGWINDOW(dd, 1, 1)", "2024-10-26T22:00:00Z", "2024-10-27T23:00:00Z", 25),
    ] {
        let mut rule = Rule::in_zone(&sql(window), &event_time(0), berlin.clone());
        for hour in -30..60 {
            rule.send("a", json!({"ts": ms(day) + hour * 3_600_000}));
        }
        rule.end();
        let expected = json!([{"n": hours, "ws": ms(day), "we": ms(next)}]).to_string();
        assert!(rule.texts().contains(&expected), "{expected}: {:?}", rule.texts());
    }
    // Two days every day: the window over the change.
    let mut rule = Rule::in_zone(&sql("HOPPINGWINDOW(dd, 2, 1)"), &event_time(0), berlin.clone());
    for hour in -30..60 {
        rule.send("a", json!({"ts": ms("2024-03-30T23:00:00Z") + hour * 3_600_000}));
    }
    rule.end();
    let two = json!([{"n": 47, "ws": ms("2024-03-29T23:00:00Z"), "we": ms("2024-03-31T22:00:00Z")}]).to_string();
    assert!(rule.texts().contains(&two), "{two}: {:?}", rule.texts());
}

/// The content of a hopping window matches its bounds, also across a change of the clock.
#[test]
fn hopping_windows_over_a_change_hold_what_their_bounds_say() {
    for (zone, change) in [
        ("Europe/Berlin", "2024-03-31T01:00:00Z"),
        ("Europe/Berlin", "2024-10-27T01:00:00Z"),
        ("Australia/Lord_Howe", "2024-04-06T15:00:00Z"),
    ] {
        let zone = TimeZone::get(zone).expect("the zone");
        for window in [
            "HOPPINGWINDOW(hh, 4, 2)",
            "HOPPINGWINDOW(mi, 90, 45)",
            "HOPPINGWINDOW(mi, 420, 140)",
            "TUMBLINGWINDOW(hh, 5)",
        ] {
            for ask in ["count(*) AS n", "count(*) AS n, collect(ts) AS l"] {
                let sql = format!("SELECT {ask}, window_start() AS ws, window_end() AS we FROM a GROUP BY {window}");
                let mut rule = Rule::in_zone(&sql, &event_time(0), zone.clone());
                let times: Vec<i64> = (-200..200).map(|step| ms(change) + step * 300_000).collect();
                for time in &times {
                    rule.send("a", json!({"ts": time}));
                    rule.step();
                }
                rule.end();
                let mut last = i64::MIN;
                for text in rule.texts() {
                    let message: Json = serde_json::from_str(&text).expect("a list");
                    let bound = |name: &str| message[0][name].as_i64().expect("a time");
                    let within = times.iter().filter(|time| (bound("ws")..bound("we")).contains(*time)).count();
                    assert_eq!(message[0]["n"], within, "{sql} {text}");
                    assert!(bound("we") > last, "{sql} {text}");
                    last = bound("we");
                }
                assert_eq!(rule.errors(), None);
            }
        }
    }
}

#[test]
fn late_rows_and_rows_of_the_future_are_counted() {
    let options = RuleOptions { max_future_skew: 10_000, ..event_time(100) };
    let mut rule = Rule::new("SELECT collect(ts) AS l FROM a GROUP BY TUMBLINGWINDOW(ss, 1)", &options);
    rule.clock_to(5_000, false);
    for time in [1000, 900, 899, 15_000, 15_001, i64::MAX, 14_899] {
        rule.send("a", json!({"ts": time}));
    }
    rule.end();
    assert_eq!(rule.texts(), [r#"[{"l":[900]}]"#, r#"[{"l":[1000]}]"#, r#"[{"l":[15000]}]"#]);
    assert_eq!(rule.metrics.late.load(Ordering::Relaxed), 2);
    assert_eq!(rule.metrics.future.load(Ordering::Relaxed), 2);
}

#[test]
fn first_rows_ahead_of_the_clock_exempt_no_stream_that_says_it_follows_it() {
    let options = RuleOptions { max_future_skew: 10_000, ..event_time(100) };
    for (stream, late, future) in [("a", 2, 0), ("w", 0, 3)] {
        let sql = format!("SELECT count(*) AS n FROM {stream} GROUP BY TUMBLINGWINDOW(ss, 1)");
        let mut rule = Rule::new(&sql, &options);
        rule.never_restart();
        rule.clock_to(5_000, false);
        for time in [900_000, 900_001, 900_002, 5_000, 5_001] {
            rule.send(stream, json!({"ts": time}));
        }
        rule.end();
        assert_eq!(rule.metrics.late.load(Ordering::Relaxed), late, "{stream}");
        assert_eq!(rule.metrics.future.load(Ordering::Relaxed), future, "{stream}");
    }
}

#[test]
fn rows_near_the_clock_show_that_a_stream_was_not_simulated() {
    let options = RuleOptions { max_future_skew: 10_000, ..event_time(0) };
    let sql = "SELECT collect(ts) AS l FROM a GROUP BY TUMBLINGWINDOW(ss, 1)";
    let mut rule = Rule::new(sql, &options);
    rule.never_restart();
    let send = |rule: &mut Rule, clock: i64, times: &[i64]| {
        rule.clock_to(clock, false);
        times.iter().for_each(|time| rule.send("a", json!({"ts": time})));
        rule.step();
        rule.texts()
    };
    let sent = [r#"[{"l":[900000,900001]}]"#];
    assert_eq!(send(&mut rule, 5_000, &[900_000, 900_001, 901_000]), sent);
    assert!(!rule.metrics.take_misled());
    // Honest rows are late.
    assert_eq!(send(&mut rule, 20_000, &[20_000, 20_001, 20_002]), sent);
    assert_eq!(rule.metrics.late.load(Ordering::Relaxed), 3);
    assert!(rule.metrics.take_misled() && !rule.metrics.take_misled());
}

#[test]
fn a_silent_stream_holds_a_join_back_until_it_is_idle() {
    let options = RuleOptions { idle_timeout: 500, ..event_time(0) };
    let sql = "SELECT a.v AS x, b.v AS y FROM a LEFT JOIN b ON a.k = b.k GROUP BY TUMBLINGWINDOW(ms, 100)";
    let mut rule = Rule::new(sql, &options);
    for (stream, time, value) in [("a", 10, 1), ("b", 20, 2), ("a", 150, 3), ("a", 250, 4)] {
        rule.send(stream, json!({"ts": time, "k": 1, "v": value}));
        rule.step();
    }
    assert_eq!(rule.texts(), [""; 0], "b may still bring rows of the first window");
    rule.clock_to(400, false);
    rule.send("a", json!({"ts": 260, "k": 1, "v": 5}));
    rule.clock_to(500, false);
    rule.step();
    assert_eq!(rule.texts(), [r#"[{"x":1,"y":2}]"#, r#"[{"x":3}]"#], "b has been silent for 500 ms");
    rule.send("b", json!({"ts": 240, "k": 1, "v": 6}));
    rule.send("b", json!({"ts": 280, "k": 1, "v": 7}));
    rule.send("a", json!({"ts": 400, "k": 1, "v": 8}));
    rule.step();
    assert_eq!(rule.texts().len(), 2, "b holds time back again");
    rule.send("b", json!({"ts": 300, "k": 1, "v": 9}));
    rule.step();
    assert_eq!(rule.texts()[2], r#"[{"x":4,"y":7},{"x":5,"y":7}]"#);
    assert_eq!(rule.metrics.late.load(Ordering::Relaxed), 1);
}

#[test]
fn an_error_of_a_row_costs_the_row_and_no_window() {
    let rows = |window: &str, select: &str, bad: usize, options: &RuleOptions| {
        let mut rule = Rule::new(&format!("SELECT {select} FROM a GROUP BY {window}"), options);
        for number in 0..8 {
            let value = if number == bad { json!("x") } else { json!(number) };
            rule.clock_to(number as i64 * 10, false);
            rule.send("a", json!({"ts": number * 10, "v": value, "b": number % 2}));
            rule.step();
        }
        if options.event_time {
            rule.end();
        } else {
            rule.clock_to(1000, false);
        }
        assert_eq!(rule.metrics.errors(), 1, "{window}");
        rule.texts()
    };
    for options in [by_clock(), event_time(0)] {
        for select in ["sum(v) AS s", "sum(v) AS s, collect(v) AS l INVISIBLE", "sum(v) AS s, median(v) AS m INVISIBLE"]
        {
            let sums = |window: &str, bad| rows(window, select, bad, &options).join(",");
            assert_eq!(sums("TUMBLINGWINDOW(ms, 20)", 3), r#"[{"s":1}],[{"s":2}],[{"s":9}],[{"s":13}]"#);
            assert_eq!(sums("HOPPINGWINDOW(ms, 40, 20)", 3), r#"[{"s":1}],[{"s":3}],[{"s":11}],[{"s":22}],[{"s":13}]"#);
            assert_eq!(
                sums("SLIDINGWINDOW(ms, 10)", 3),
                r#"[{"s":0}],[{"s":1}],[{"s":3}],[{"s":2}],[{"s":4}],[{"s":9}],[{"s":11}],[{"s":13}]"#
            );
            assert_eq!(sums("STATEWINDOW(b = 0, b = 1)", 3), r#"[{"s":1}],[{"s":2}],[{"s":9}],[{"s":13}]"#);
            if !options.event_time {
                assert_eq!(sums("COUNTWINDOW(2)", 3), r#"[{"s":1}],[{"s":2}],[{"s":9}],[{"s":13}]"#);
                assert_eq!(sums("COUNTWINDOW(4, 2)", 1), r#"[{"s":5}],[{"s":14}],[{"s":22}]"#);
            }
        }
    }
}

#[test]
fn thousands_of_partitions_have_windows_of_their_own() {
    let sql = "SELECT k, sum(v) AS s FROM a GROUP BY STATEWINDOW(b = 1, b = 2) OVER (PARTITION BY k)";
    let mut rule = Rule::new(sql, &by_clock());
    for (flag, value) in [(1, 1), (0, 10), (2, 100), (0, 1000)] {
        for key in 0..5000 {
            rule.send("a", json!({"k": format!("key {key}"), "b": flag, "v": value}));
        }
        rule.step();
    }
    let texts = rule.texts();
    assert_eq!(texts.len(), 5000);
    assert!(texts.iter().enumerate().all(|(key, text)| *text == format!(r#"[{{"k":"key {key}","s":111}}]"#)));
}

#[test]
fn rows_that_no_window_will_hold_are_forgotten() {
    // The condition never holds: rows older than the length can be in no window.
    let sql = "SELECT collect(v) AS l FROM a GROUP BY SLIDINGWINDOW(ms, 10, 5) OVER (WHEN b = 1)";
    let mut rule = Rule::new(sql, &by_clock());
    for time in 0..1000 {
        rule.clock_to(time, false);
        rule.send("a", json!({"v": time, "b": i32::from(time == 990)}));
        rule.step();
    }
    rule.clock_to(2000, false);
    assert_eq!(rule.texts(), ["[{\"l\":[980,981,982,983,984,985,986,987,988,989,990,991,992,993,994]}]"]);
}

#[test]
fn a_session_by_the_clock_asks_for_one_alarm_at_a_time() {
    let mut rule = Rule::new("SELECT count(*) AS n FROM a GROUP BY SESSIONWINDOW(ss, 3600, 50)", &by_clock());
    for time in 0..1000 {
        rule.clock_to(time, false);
        rule.send("a", json!({"v": 1}));
        rule.step();
    }
    let mut alarms = 0;
    while let Some(at) = rule.timers.next() {
        rule.clock.store(at.max(rule.now()), Ordering::Relaxed);
        rule.timers.due(at);
        rule.step();
        alarms += 1;
    }
    assert_eq!(rule.texts(), [r#"[{"n":1000}]"#]);
    assert!(alarms < 5, "{alarms} alarms were left");
}

#[test]
fn the_ends_of_a_list_are_those_of_the_list() {
    let rows = |select: &str, window: &str| {
        let mut rule = Rule::new(&format!("SELECT {select} FROM a GROUP BY k, {window}"), &by_clock());
        for (number, row) in
            [json!({"v": 1}), json!({"v": null}), json!({}), json!({"v": [4]}), json!({"v": "x"})].iter().enumerate()
        {
            rule.clock_to(number as i64 * 10, false);
            rule.send("a", row);
            rule.step();
        }
        rule.clock_to(1000, false);
        rule.texts()
    };
    for window in ["SLIDINGWINDOW(ms, 20)", "HOPPINGWINDOW(ms, 40, 20)", "TUMBLINGWINDOW(ms, 30)", "COUNTWINDOW(2)"] {
        let short = rows("collect(v)[0] AS f, collect(v)[-1] AS l", window);
        // A computed index has the whole list.
        let whole = rows("collect(v)[count(*) - count(*)] AS f, collect(v)[count(*) - 1] AS l", window);
        assert_eq!(short, whole, "{window}");
    }
}
