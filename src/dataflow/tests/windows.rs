//! Each kind of window against its definition.

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::{Rule, assert_same, by_clock, event_time, plain};

#[derive(Clone, Debug)]
struct Row {
    time: i64,
    key: Option<u8>,
    value: Option<i8>,
    /// passes WHERE
    passes: bool,
    /// passes FILTER
    admitted: bool,
    /// read by the conditions of windows
    flag: Option<u8>,
    /// the rule runs after it
    runs: bool,
    /// how many times the rule had run when the watermark passed it
    run: usize,
}

/// What is computed over a window.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ask {
    /// accumulators that stay small
    Sums,
    /// accumulators that keep values
    Lists,
    /// the rows themselves
    Rows,
}

#[derive(Clone, Debug)]
struct Query {
    ask: Ask,
    keyed: bool,
    filter: bool,
    admit: bool,
}

/// A window of the model.
struct Window {
    start: i64,
    end: i64,
    rows: Vec<Row>,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (
        -60i64..140,
        prop::option::weighted(0.9, 0u8..3),
        prop::option::weighted(0.8, -9i8..9),
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.9),
        prop::option::weighted(0.9, 0u8..3),
        any::<bool>(),
    );
    let row = row.prop_map(|(time, key, value, passes, admitted, flag, runs)| Row {
        time,
        key,
        value,
        passes,
        admitted,
        flag,
        runs,
        run: 0,
    });
    prop::collection::vec(row, 0..60)
}

/// Rows that come almost in order.
fn feed() -> impl Strategy<Value = Vec<Row>> {
    (rows(), 0i64..40).prop_map(|(mut rows, disorder)| {
        rows.sort_by_key(|row| {
            row.time + (row.time * 7919 + i64::from(row.flag.unwrap_or(5)) * 31).rem_euclid(disorder + 1)
        });
        rows
    })
}

fn query() -> impl Strategy<Value = Query> {
    let ask = prop::sample::select(vec![Ask::Sums, Ask::Lists, Ask::Rows]);
    (ask, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(ask, keyed, filter, admit)| Query {
        ask,
        keyed: keyed && ask != Ask::Rows,
        filter,
        admit,
    })
}

impl Row {
    fn json(&self) -> Json {
        json!({"ts": self.time, "k": self.key, "v": self.value, "w": i32::from(self.passes), "f": i32::from(self.admitted), "b": self.flag})
    }
}

impl Query {
    fn sql(&self, window: &str, over: &str) -> String {
        let sums = "count(*) AS n, count(v) AS c, sum(v) AS s, min(v) AS lo, max(v) AS hi, avg(v) AS m";
        let items = match self.ask {
            Ask::Sums => sums.to_owned(),
            Ask::Lists => format!("{sums}, collect(v) AS l, last_value(v, true) AS lv"),
            Ask::Rows => "k, v".to_owned(),
        };
        let (key, group) = if self.keyed { ("k, ", "k, ") } else { ("", "") };
        let filter = if self.filter { "WHERE w = 1 " } else { "" };
        let admit = if self.admit { " FILTER(WHERE f = 1)" } else { "" };
        format!(
            "SELECT {key}{items}, window_start() AS ws, window_end() AS we FROM a {filter}GROUP BY {group}{window}{admit}{over}"
        )
    }

    /// The message of a window; none: nothing is sent.
    fn message(&self, window: &Window) -> Option<Vec<Json>> {
        let bounds = |row: &mut Map<String, Json>| {
            row.insert("ws".into(), window.start.into());
            row.insert("we".into(), window.end.into());
        };
        let rows: Vec<&Row> = window.rows.iter().filter(|row| row.passes || !self.filter).collect();
        if rows.is_empty() {
            return None;
        }
        if self.ask == Ask::Rows {
            let object = |row: &&Row| {
                let mut object = Map::new();
                object.insert("k".into(), json!(row.key));
                object.insert("v".into(), json!(row.value));
                bounds(&mut object);
                plain(Json::Object(object))
            };
            return Some(rows.iter().map(object).collect());
        }
        let mut keys: Vec<Option<u8>> = rows.iter().map(|row| row.key.filter(|_| self.keyed)).collect();
        keys.sort();
        keys.dedup();
        let mut message = Vec::new();
        for key in keys {
            let group: Vec<&Row> = rows.iter().copied().filter(|row| !self.keyed || row.key == key).collect();
            let values: Vec<i64> = group.iter().filter_map(|row| row.value).map(i64::from).collect();
            let mut object = Map::new();
            if self.keyed {
                object.insert("k".into(), json!(key));
            }
            object.insert("n".into(), json!(group.len()));
            object.insert("c".into(), json!(values.len()));
            if !values.is_empty() {
                let sum: i64 = values.iter().sum();
                object.insert("s".into(), json!(sum));
                object.insert("lo".into(), json!(values.iter().min()));
                object.insert("hi".into(), json!(values.iter().max()));
                object.insert("m".into(), json!(sum as f64 / values.len() as f64));
            }
            if self.ask == Ask::Lists {
                object.insert("l".into(), group.iter().map(|row| json!(row.value)).collect());
                if let Some(last) = values.last() {
                    object.insert("lv".into(), json!(last));
                }
            }
            bounds(&mut object);
            message.push(plain(Json::Object(object)));
        }
        Some(message)
    }

    fn messages(&self, windows: &[Window]) -> Vec<Vec<Json>> {
        windows.iter().filter_map(|window| self.message(window)).collect()
    }
}

/// The messages of a rule; the order of groups is not checked.
fn sent(rule: &Rule, query: &Query) -> Vec<Vec<Json>> {
    let mut messages = rule.messages();
    if query.keyed {
        let key = |row: &Json| row["k"].as_f64().map_or(-1, |key| key as i64);
        messages.iter_mut().for_each(|rows| rows.sort_by_key(key));
    }
    messages
}

/// The rows that are not late, and the number of late ones.
fn in_time(rows: &[Row], tolerance: i64) -> (Vec<Row>, u64) {
    let mut watermark = i64::MIN;
    let (mut late, mut runs) = (0, 0);
    let mut kept: Vec<Row> = Vec::new();
    for row in rows {
        if row.time < watermark {
            late += 1;
        } else {
            watermark = watermark.max(row.time - tolerance);
            kept.push(Row { run: usize::MAX, ..row.clone() });
        }
        if row.runs {
            runs += 1;
            kept.iter_mut().filter(|row| row.run == usize::MAX && row.time <= watermark).for_each(|row| row.run = runs);
        }
    }
    kept.sort_by_key(|row| row.time);
    (kept, late)
}

/// Runs a rule in event time to the end of its input. `ends` gives the time at which each window is due: it must not be
/// sent before, and must be sent once the watermark reaches it.
fn in_event_time(query: &Query, sql: &str, rows: &[Row], tolerance: i64, model: impl Fn(&[Row]) -> Vec<(i64, Window)>) {
    let (kept, late) = in_time(rows, tolerance);
    let admitted: Vec<Row> = kept.into_iter().filter(|row| row.admitted || !query.admit).collect();
    let windows = model(&admitted);
    let due: Vec<i64> =
        windows.iter().filter(|(_, window)| query.message(window).is_some()).map(|(due, _)| *due).collect();
    let windows: Vec<Window> = windows.into_iter().map(|(_, window)| window).collect();
    let mut rule = Rule::new(sql, &event_time(tolerance));
    for row in rows {
        rule.send("a", row.json());
        if row.runs {
            rule.step();
            let watermark = rule.queue.watermark();
            // A row with exactly this time may still arrive, so windows that are due then may or may not be sent.
            let least = due.iter().filter(|due| **due < watermark).count();
            let most = due.iter().filter(|due| **due <= watermark).count();
            let sent = rule.texts().len();
            assert!(least <= sent && sent <= most, "{sql}: {sent} windows at {watermark}, not {least} to {most}");
        }
    }
    rule.end();
    assert_same(sql, &sent(&rule, query), &query.messages(&windows));
    assert_eq!(rule.metrics.late.load(std::sync::atomic::Ordering::Relaxed), late);
    assert_eq!(rule.errors(), None);
}

/// Runs a rule in processing time; the clock is read when a row arrives; deadlines are met or, if `tardy`, missed.
fn clocked(query: &Query, sql: &str, rows: &[Row], tardy: bool, windows: &[Window]) {
    let mut rule = Rule::new(sql, &by_clock());
    rule.clock_to(-1000, false);
    for row in rows {
        if !tardy || row.runs {
            rule.clock_to(row.time, tardy);
        } else {
            rule.clock.store(row.time, std::sync::atomic::Ordering::Relaxed);
        }
        rule.send("a", row.json());
        if row.runs {
            rule.step();
        }
    }
    rule.step();
    rule.clock_to(100_000, tardy);
    assert_same(sql, &sent(&rule, query), &query.messages(windows));
    assert_eq!(rule.errors(), None);
}

/// Rows in the order of the clock, without those that FILTER drops.
fn in_order(rows: &[Row], query: &Query) -> (Vec<Row>, Vec<Row>) {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|row| row.time);
    let admitted = rows.iter().filter(|row| row.admitted || !query.admit).cloned().collect();
    (rows, admitted)
}

fn hopping(rows: &[Row], length: i64, hop: i64) -> Vec<(i64, Window)> {
    let Some(last) = rows.iter().map(|row| row.time).max() else { return Vec::new() };
    let mut windows = Vec::new();
    let mut end = -200i64.div_euclid(hop) * hop;
    while end <= last + length + hop {
        let within = |row: &&Row| end - length <= row.time && row.time < end;
        let rows = rows.iter().filter(within).cloned().collect();
        windows.push((end, Window { start: end - length, end, rows }));
        end += hop;
    }
    windows
}

/// `together`: windows of rows with the same time contain all of these rows.
fn sliding(rows: &[Row], length: i64, delay: i64, together: bool, fires: impl Fn(&Row) -> bool) -> Vec<(i64, Window)> {
    let mut windows = Vec::new();
    for (number, row) in rows.iter().enumerate().filter(|(_, row)| fires(row)) {
        let (start, end) = (row.time - length, row.time + delay);
        let beside = |other: &Row| together && other.time == row.time && other.run == row.run;
        let within = |(other, row): &(usize, &Row)| {
            start <= row.time && if delay == 0 { *other <= number || beside(row) } else { row.time < end }
        };
        let rows = rows.iter().enumerate().filter(within).map(|(_, row)| row.clone()).collect();
        windows.push((end, Window { start, end, rows }));
    }
    windows
}

fn sessions(rows: &[Row], max: i64, timeout: i64) -> Vec<(i64, Window)> {
    let mut windows: Vec<(i64, Window)> = Vec::new();
    for row in rows {
        if let Some((due, window)) = windows.last_mut() {
            let last = window.rows.last().expect("a session has rows").time;
            let start = window.start;
            let cut = (start + max).div_euclid(max) * max + if start.rem_euclid(max) == 0 { 0 } else { max };
            if row.time <= last + timeout && row.time < cut {
                window.rows.push(row.clone());
                window.end = cut.min(row.time + timeout);
                *due = cut.min(row.time + timeout + 1);
                continue;
            }
        }
        let start = row.time;
        let cut = (start..).find(|tick| tick.rem_euclid(max) == 0 && tick - start >= max).expect("there are ticks");
        let window = Window { start, end: cut.min(start + timeout), rows: vec![row.clone()] };
        windows.push((cut.min(start + timeout + 1), window));
    }
    windows
}

/// The window of rows by their times.
fn spanning(rows: &[Row]) -> Window {
    let start = rows.first().expect("a window has rows").time;
    let end = rows.last().expect("a window has rows").time;
    Window { start, end, rows: rows.to_vec() }
}

fn counts(rows: &[Row], length: usize, interval: usize) -> Vec<(i64, Window)> {
    (length..=rows.len())
        .filter(|end| end % interval == 0)
        .map(|end| spanning(&rows[end - length..end]))
        .map(|window| (window.end, window))
        .collect()
}

fn states(rows: &[Row], two: bool, partitioned: bool) -> Vec<(i64, Window)> {
    let mut found: Vec<(usize, Window)> = Vec::new();
    let partition = |row: &Row| row.key.filter(|_| partitioned);
    let mut keys: Vec<_> = rows.iter().map(partition).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let mine: Vec<(usize, &Row)> = rows.iter().enumerate().filter(|(_, row)| partition(row) == key).collect();
        let mut open: Option<Vec<Row>> = None;
        for (number, row) in mine {
            let begins = row.flag == Some(1);
            match open.take() {
                None if begins => open = Some(vec![row.clone()]),
                None => {}
                Some(mut content) if two => {
                    content.push(row.clone());
                    if row.flag == Some(2) {
                        found.push((number, spanning(&content)));
                    } else {
                        open = Some(content);
                    }
                }
                Some(content) if begins => {
                    found.push((number, Window { end: row.time, ..spanning(&content) }));
                    open = Some(vec![row.clone()]);
                }
                Some(mut content) => {
                    content.push(row.clone());
                    open = Some(content);
                }
            }
        }
    }
    found.sort_by_key(|(number, _)| *number);
    found.into_iter().map(|(number, window)| (rows[number].time, window)).collect()
}

fn windows(windows: Vec<(i64, Window)>) -> Vec<Window> {
    windows.into_iter().map(|(_, window)| window).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn hopping_windows_hold_what_lies_between_their_bounds(
        query in query(), feed in feed(), tolerance in 0i64..40, length in 1i64..40, hop in 1i64..40, tumbling: bool, tardy: bool,
    ) {
        let length = if tumbling { hop } else { length };
        let window = if tumbling { format!("TUMBLINGWINDOW(ms, {length})") } else { format!("HOPPINGWINDOW(ms, {length}, {hop})") };
        let sql = query.sql(&window, "");
        in_event_time(&query, &sql, &feed, tolerance, |rows| hopping(rows, length, hop));
        let (rows, admitted) = in_order(&feed, &query);
        clocked(&query, &sql, &rows, tardy, &windows(hopping(&admitted, length, hop)));
    }

    #[test]
    fn sliding_windows_hold_what_lies_around_their_rows(
        query in query(), feed in feed(), tolerance in 0i64..40, length in 0i64..40, delay in prop::option::of(1i64..30), when: bool, tardy: bool,
    ) {
        let arguments = delay.map_or(format!("{length}"), |delay| format!("{length}, {delay}"));
        let sql = query.sql(&format!("SLIDINGWINDOW(ms, {arguments})"), if when { " OVER (WHEN b = 1)" } else { "" });
        let fires = |row: &Row| !when || row.flag == Some(1);
        let delay = delay.unwrap_or(0);
        in_event_time(&query, &sql, &feed, tolerance, |rows| sliding(rows, length, delay, tolerance > 0, fires));
        let (rows, admitted) = in_order(&feed, &query);
        clocked(&query, &sql, &rows, tardy, &windows(sliding(&admitted, length, delay, false, fires)));
    }

    #[test]
    fn sessions_end_at_pauses_and_at_ticks(
        query in query(), feed in feed(), tolerance in 0i64..40, max in 1i64..60, timeout in 1i64..20, tardy: bool,
    ) {
        let sql = query.sql(&format!("SESSIONWINDOW(ms, {max}, {timeout})"), "");
        in_event_time(&query, &sql, &feed, tolerance, |rows| sessions(rows, max, timeout));
        let (rows, admitted) = in_order(&feed, &query);
        // In processing time, rows that WHERE drops do not prolong a session.
        let admitted: Vec<Row> = admitted.into_iter().filter(|row| row.passes || !query.filter).collect();
        clocked(&query, &sql, &rows, tardy, &windows(sessions(&admitted, max, timeout)));
    }

    #[test]
    fn count_windows_hold_the_last_rows(query in query(), feed in feed(), length in 1usize..12, interval in 1usize..12, tardy: bool) {
        let interval = interval.min(length);
        let sql = query.sql(&format!("COUNTWINDOW({length}, {interval})"), "");
        let (rows, admitted) = in_order(&feed, &query);
        clocked(&query, &sql, &rows, tardy, &windows(counts(&admitted, length, interval)));
    }

    #[test]
    fn state_windows_lie_between_conditions(
        query in query(), feed in feed(), tolerance in 0i64..40, two: bool, partitioned: bool, tardy: bool,
    ) {
        let conditions = if two { "b = 1, b = 2" } else { "b = 1" };
        let over = if partitioned { " OVER (PARTITION BY k)" } else { "" };
        let sql = query.sql(&format!("STATEWINDOW({conditions})"), over);
        in_event_time(&query, &sql, &feed, tolerance, |rows| states(rows, two, partitioned));
        let (rows, admitted) = in_order(&feed, &query);
        clocked(&query, &sql, &rows, tardy, &windows(states(&admitted, two, partitioned)));
    }
}
