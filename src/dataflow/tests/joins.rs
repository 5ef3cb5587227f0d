//! Joins against nested loops, ORDER BY and row_number() against a naive sort.

use std::cmp::Ordering;

use proptest::prelude::*;
use serde_json::{Map, Value as Json, json};

use super::{Rule, assert_same, by_clock, event_time, plain};

#[derive(Clone, Debug)]
struct Row {
    time: i64,
    stream: usize,
    id: usize,
    key: Option<i8>,
    value: i8,
}

const STREAMS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Inner,
    Left,
    Right,
    Full,
    Cross,
}

/// A condition of a join of the existing streams, the first of which is `a`, with `right`.
#[derive(Clone, Copy, Debug)]
enum On {
    Keys,
    KeysAndMore,
    More,
    Sum,
    Mixed,
}

#[derive(Clone, Copy, Debug)]
enum Where {
    Nothing,
    Left,
    Right,
    Both,
    Either,
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    let row = (0i64..100, 0usize..3, prop::option::weighted(0.8, 0i8..4), -3i8..4);
    prop::collection::vec(row, 0..50).prop_map(|rows| {
        let numbered = rows.into_iter().enumerate();
        numbered.map(|(id, (time, stream, key, value))| Row { time, stream, id, key, value }).collect()
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Inner, Kind::Left, Kind::Right, Kind::Full, Kind::Cross])
}

fn on() -> impl Strategy<Value = On> {
    prop::sample::select(vec![On::Keys, On::KeysAndMore, On::More, On::Sum, On::Mixed])
}

impl Kind {
    fn sql(self) -> &'static str {
        match self {
            Kind::Inner => "INNER",
            Kind::Left => "LEFT",
            Kind::Right => "RIGHT",
            Kind::Full => "FULL",
            Kind::Cross => "CROSS",
        }
    }
}

impl On {
    fn sql(self, right: &str) -> String {
        match self {
            On::Keys => format!("a.k = {right}.k"),
            On::KeysAndMore => format!("{right}.k = a.k AND a.v < {right}.v"),
            On::More => format!("a.v < {right}.v"),
            On::Sum => format!("a.k + 1 = {right}.k AND a.v = {right}.v"),
            On::Mixed => format!("a.k = {right}.k OR a.v = {right}.v"),
        }
    }

    fn holds(self, left: Option<&Row>, right: &Row) -> bool {
        let Some(left) = left else { return false };
        let keys = left.key.is_some() && left.key == right.key;
        match self {
            On::Keys => keys,
            On::KeysAndMore => keys && left.value < right.value,
            On::More => left.value < right.value,
            On::Sum => {
                left.key.map(|key| key + 1).is_some_and(|key| right.key == Some(key)) && left.value == right.value
            }
            On::Mixed => keys || left.value == right.value,
        }
    }
}

impl Where {
    fn sql(self) -> &'static str {
        match self {
            Where::Nothing => "",
            Where::Left => "WHERE a.v > 0 ",
            Where::Right => "WHERE b.v > 0 ",
            Where::Both => "WHERE a.v > 0 AND b.v > 0 ",
            Where::Either => "WHERE a.v > 0 OR b.v > 0 ",
        }
    }

    fn holds(self, joined: &[Option<Row>]) -> bool {
        let positive = |input: usize| joined[input].as_ref().is_some_and(|row| row.value > 0);
        match self {
            Where::Nothing => true,
            Where::Left => positive(0),
            Where::Right => positive(1),
            Where::Both => positive(0) && positive(1),
            Where::Either => positive(0) || positive(1),
        }
    }
}

/// The joined rows, with one more stream.
fn join(left: Vec<Vec<Option<Row>>>, right: &[&Row], kind: Kind, on: On) -> Vec<Vec<Option<Row>>> {
    let holds = |left: &[Option<Row>], right: &Row| kind == Kind::Cross || on.holds(left[0].as_ref(), right);
    let pair = |left: &[Option<Row>], right: Option<&Row>| {
        let mut joined = left.to_vec();
        joined.push(right.cloned());
        joined
    };
    let nothing = vec![None; left.first().map_or(1, Vec::len)];
    let mut joined = Vec::new();
    if kind == Kind::Right {
        for row in right {
            let before = joined.len();
            joined.extend(left.iter().filter(|left| holds(left, row)).map(|left| pair(left, Some(row))));
            if joined.len() == before {
                joined.push(pair(&nothing, Some(row)));
            }
        }
        return joined;
    }
    for left in &left {
        let before = joined.len();
        joined.extend(right.iter().filter(|row| holds(left, row)).map(|row| pair(left, Some(row))));
        if joined.len() == before && matches!(kind, Kind::Left | Kind::Full) {
            joined.push(pair(left, None));
        }
    }
    if kind == Kind::Full {
        let alone = right.iter().filter(|row| !left.iter().any(|left| holds(left, row)));
        joined.extend(alone.map(|row| pair(&nothing, Some(row))));
    }
    joined
}

/// The messages of windows of 20 ms over rows in order of time.
fn joined(rows: &[Row], streams: &[usize], joins: &[(Kind, On)], filter: Where) -> Vec<Vec<Json>> {
    let mut messages = Vec::new();
    for window in 0..5 {
        let of = |stream: usize| -> Vec<&Row> {
            rows.iter().filter(|row| row.stream == stream && row.time / 20 == window).collect()
        };
        let mut there: Vec<Vec<Option<Row>>> = of(streams[0]).into_iter().map(|row| vec![Some(row.clone())]).collect();
        for ((kind, on), stream) in joins.iter().zip(&streams[1..]) {
            // If there are no rows, the model must still know how many streams it has joined.
            let empty = there.is_empty();
            there = join(there, &of(*stream), *kind, *on);
            if empty {
                let width = 1 + streams[1..].iter().position(|other| other == stream).unwrap_or(0) + 1;
                there.iter_mut().for_each(|joined| {
                    let last = joined.pop().unwrap_or_default();
                    joined.resize(width - 1, None);
                    joined.push(last);
                });
            }
        }
        let message: Vec<Json> = there
            .iter()
            .filter(|joined| filter.holds(joined))
            .map(|joined| {
                let ids = joined.iter().zip(["i0", "i1", "i2"]);
                let object: Map<String, Json> =
                    ids.filter_map(|(row, name)| Some((name.to_owned(), json!(row.as_ref()?.id)))).collect();
                plain(Json::Object(object))
            })
            .collect();
        if !message.is_empty() {
            messages.push(message);
        }
    }
    messages
}

fn run(sql: &str, rows: &[Row], in_event_time: bool, expected: &[Vec<Json>]) {
    let mut rule = Rule::new(sql, &if in_event_time { event_time(1000) } else { by_clock() });
    for row in rows {
        if !in_event_time {
            rule.clock_to(row.time, false);
        }
        rule.send(STREAMS[row.stream], json!({"ts": row.time, "id": row.id, "k": row.key, "v": row.value}));
        rule.step();
    }
    if in_event_time {
        rule.end();
    } else {
        rule.clock_to(1000, false);
    }
    assert_same(sql, &rule.messages(), expected);
    assert_eq!(rule.errors(), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn joins_are_nested_loops(
        rows in rows(), first in (kind(), on()), second in prop::option::of((kind(), on())), in_event_time: bool,
        filter in prop::sample::select(vec![Where::Nothing, Where::Left, Where::Right, Where::Both, Where::Either]),
    ) {
        let joins: Vec<(Kind, On)> = [Some(first), second].into_iter().flatten().collect();
        let mut sql = "SELECT a.id AS i0, b.id AS i1".to_owned();
        if second.is_some() {
            sql.push_str(", c.id AS i2");
        }
        sql.push_str(" FROM a");
        for ((kind, on), right) in joins.iter().zip(["b", "c"]) {
            let on = if *kind == Kind::Cross { String::new() } else { format!(" ON {}", on.sql(right)) };
            sql.push_str(&format!(" {} JOIN {right}{on}", kind.sql()));
        }
        sql.push_str(&format!(" {}GROUP BY TUMBLINGWINDOW(ms, 20)", filter.sql()));
        let mut ordered = rows.clone();
        ordered.sort_by_key(|row| row.time);
        let expected = joined(&ordered, &[0, 1, 2], &joins, filter);
        run(&sql, if in_event_time { &rows } else { &ordered }, in_event_time, &expected);
    }

    #[test]
    fn a_stream_joins_itself(rows in rows(), kind in kind(), on in on(), in_event_time: bool) {
        let condition = if kind == Kind::Cross { String::new() } else { format!("ON {} ", on.sql("y")) };
        let condition = condition.replace("a.", "x.");
        let sql = format!("SELECT x.id AS i0, y.id AS i1 FROM a AS x {} JOIN a AS y {condition}GROUP BY TUMBLINGWINDOW(ms, 20)", kind.sql());
        let mut ordered = rows.clone();
        ordered.sort_by_key(|row| row.time);
        let expected = joined(&ordered, &[0, 0], &[(kind, on)], Where::Nothing);
        run(&sql, if in_event_time { &rows } else { &ordered }, in_event_time, &expected);
    }

    #[test]
    fn rows_meet_the_last_rows_of_a_table(rows in rows(), kind in kind(), on in on()) {
        let condition = if kind == Kind::Cross { String::new() } else { format!(" ON {}", on.sql("last")) };
        let sql = format!("SELECT a.id AS i0, last.id AS i1 FROM a {} JOIN last{condition}", kind.sql());
        let mut rule = Rule::new(&sql, &by_clock());
        let mut table: Vec<&Row> = Vec::new();
        let mut expected = Vec::new();
        for row in &rows {
            let message = json!({"id": row.id, "k": row.key, "v": row.value});
            if row.stream == 0 {
                rule.send("a", message);
                let there = join(vec![vec![Some(row.clone())]], &table, kind, on);
                let object = |joined: &Vec<Option<Row>>| {
                    let ids = joined.iter().zip(["i0", "i1"]);
                    plain(ids.filter_map(|(row, name)| Some((name, row.as_ref()?.id))).collect())
                };
                expected.extend(Some(there.iter().map(object).collect::<Vec<Json>>()).filter(|rows| !rows.is_empty()));
            } else {
                rule.send("last", message);
                table.push(row);
                table.drain(..table.len().saturating_sub(3));
            }
            rule.step();
        }
        assert_same(&sql, &rule.messages(), &expected);
    }

    #[test]
    fn rows_are_numbered_then_sorted_then_cut(rows in rows(), down: bool, down_too: bool, limit in prop::option::of(0usize..8)) {
        let direction = |down| if down { "DESC" } else { "ASC" };
        let cut = limit.map_or(String::new(), |limit| format!(" LIMIT {limit}"));
        let sql = format!(
            "SELECT id, row_number() AS n, row_number() OVER (PARTITION BY v ORDER BY k {}) AS p FROM a GROUP BY COUNTWINDOW(5) ORDER BY k {}, v {}{cut}",
            direction(down_too), direction(down), direction(down_too),
        );
        let rows: Vec<Row> = rows.into_iter().filter(|row| row.stream == 0).collect();
        let by_key = |left: &Row, right: &Row, down: bool| match (left.key, right.key) {
            (None, None) => Ordering::Equal,
            (None, _) => Ordering::Greater,
            (_, None) => Ordering::Less,
            (Some(left), Some(right)) if down => right.cmp(&left),
            (Some(left), Some(right)) => left.cmp(&right),
        };
        let mut expected = Vec::new();
        for window in rows.chunks_exact(5) {
            let mut of_values: Vec<(usize, &Row)> = window.iter().enumerate().collect();
            of_values.sort_by(|(_, left), (_, right)| left.value.cmp(&right.value).then(by_key(left, right, down_too)));
            let place = |at: usize, row: &Row| {
                let mut same = of_values.iter().filter(|(_, other)| other.value == row.value);
                same.position(|(other, _)| *other == at).expect("it is there") + 1
            };
            let mut numbered: Vec<(usize, usize, &Row)> =
                window.iter().enumerate().map(|(at, row)| (at + 1, place(at, row), row)).collect();
            numbered.sort_by(|(_, _, left), (_, _, right)| {
                let by_value = left.value.cmp(&right.value);
                by_key(left, right, down).then(if down_too { by_value.reverse() } else { by_value })
            });
            numbered.truncate(limit.unwrap_or(5));
            if !numbered.is_empty() {
                let object = |(n, p, row): &(usize, usize, &Row)| plain(json!({"id": row.id, "n": n, "p": p}));
                expected.push(numbered.iter().map(object).collect());
            }
        }
        run(&sql, &rows, false, &expected);
    }

    #[test]
    fn groups_are_sorted_by_their_sums(rows in rows(), down: bool, limit in prop::option::of(1usize..4)) {
        let cut = limit.map_or(String::new(), |limit| format!(" LIMIT {limit}"));
        let direction = if down { "DESC" } else { "ASC" };
        let sql = format!("SELECT v, sum(id) AS s, row_number() AS n FROM a GROUP BY v, TUMBLINGWINDOW(ms, 100) HAVING s > 3 ORDER BY s {direction}, v DESC{cut}");
        let mut rows: Vec<Row> = rows.into_iter().filter(|row| row.stream == 0).collect();
        rows.sort_by_key(|row| row.time);
        let mut sums: Vec<(i8, usize)> = Vec::new();
        for row in &rows {
            match sums.iter_mut().find(|(value, _)| *value == row.value) {
                Some((_, sum)) => *sum += row.id,
                None => sums.push((row.value, row.id)),
            }
        }
        let mut sums: Vec<(usize, (i8, usize))> = sums.into_iter().filter(|(_, sum)| *sum > 3).enumerate().collect();
        sums.sort_by(|(_, (left_value, left)), (_, (right_value, right))| {
            if down { right.cmp(left) } else { left.cmp(right) }.then(right_value.cmp(left_value))
        });
        sums.truncate(limit.unwrap_or(usize::MAX));
        let message: Vec<Json> = sums.iter().map(|(number, (value, sum))| plain(json!({"v": value, "s": sum, "n": number + 1}))).collect();
        run(&sql, &rows, false, &if message.is_empty() { Vec::new() } else { vec![message] });
    }

    #[test]
    fn values_that_cannot_be_ordered_cost_their_rows_and_make_no_panic(values in prop::collection::vec((0u8..7, -50i8..50), 0..300)) {
        let mut rule = Rule::new("SELECT v FROM a GROUP BY TUMBLINGWINDOW(ms, 100) ORDER BY v, w DESC", &by_clock());
        for (kind, value) in &values {
            let v = match kind {
                0 => json!(format!("{value}")),
                1 => json!(f64::from(*value) / 8.0),
                2 => Json::Null,
                3 => json!([value]),
                6 => json!({"a": value}),
                4 => json!(*value > 0),
                _ => json!(value),
            };
            rule.send("a", json!({"v": v, "w": value}));
        }
        rule.step();
        rule.clock_to(100, false);
    }
}

/// A key of another type does not match, and has no other effect.
#[test]
fn a_key_of_another_kind_does_not_match() {
    let mut rule = Rule::new("SELECT a.id AS i0, last.id AS i1 FROM a INNER JOIN last ON a.k = last.k", &by_clock());
    let mut send = |stream: &str, message: Json| {
        rule.send(stream, message);
        rule.step();
        (rule.texts().len(), rule.metrics.errors())
    };
    send("last", json!({"id": 1, "k": "text"}));
    send("last", json!({"id": 2, "k": 7}));
    assert_eq!(send("a", json!({"id": 3, "k": 7})), (1, 0));
    send("last", json!({"id": 4, "k": 8}));
    send("last", json!({"id": 5, "k": null}));
    assert_eq!(send("a", json!({"id": 6, "k": 7})), (2, 0));
}
