//! Rules that read the results of other rules, and tables, with the real binary and the library.

use std::process::{Command, Stdio};

use plutino::config::Config;
use plutino::engine::{Engine, EngineSettings};
use plutino::io::websocket::ServerSettings;
use plutino::pipeline;
use serde_json::{Value, json};

use crate::process::folder::Folder;

fn memory(name: &str, topic: &str) -> String {
    format!("CREATE STREAM {name} () WITH (DATASOURCE=\"{topic}\", TYPE=\"memory\")")
}

fn rule(id: &str, sql: &str, action: Value) -> Value {
    json!({"id": id, "sql": sql, "actions": [action]})
}

fn to(topic: &str) -> Value {
    json!({"memory": {"topic": topic}})
}

/// Runs rules over the messages of a feed to `demo` and gives the lines of the log sinks.
fn run(name: &str, streams: &[String], rules: &[Value], feed: &[String], workers: usize) -> Vec<String> {
    let folder = Folder::new(name);
    let mut streams = streams.to_vec();
    streams.push("CREATE STREAM demo () WITH (DATASOURCE=\"/demo\", TYPE=\"websocket\")".to_owned());
    let rules = folder.write("rules.json", &json!({"streams": streams, "rules": rules}).to_string());
    let feed = folder.write("feed.jsonl", &(feed.join("\n") + "\n"));
    let output = Command::new(env!("CARGO_BIN_EXE_plutino"))
        .arg("run")
        .arg(&rules)
        .args(["--feed", &format!("{}@demo", feed.display()), "--workers", &workers.to_string()])
        .env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1")
        .env("KUIPER__SOURCE__HTTPSERVERPORT", "0")
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    assert_eq!(told.matches("errors ").count(), told.matches("errors 0,").count(), "{told}\n{lines:?}");
    lines
}

fn messages(values: impl IntoIterator<Item = i64>) -> Vec<String> {
    values.into_iter().map(|a| format!("{{\"a\": {a}}}")).collect()
}

#[test]
fn rows_go_one_by_one_to_all_readers_of_a_topic() {
    let streams = [memory("temps", "home/+/temp"), memory("all", "home/#"), memory("other", "home")];
    let log = || json!({"log": {"sendSingle": true}});
    let rules = [
        rule("w", "SELECT a, \"bath\" AS room FROM demo GROUP BY COUNTWINDOW(2)", to("home/bath/temp")),
        rule("h", "SELECT a, \"hum\" AS room FROM demo WHERE a > 2", to("home/bath/hum")),
        rule("r1", "SELECT a, room, \"temps\" AS r FROM temps", log()),
        rule("r2", "SELECT *, \"all\" AS r FROM all", json!({"log": {}})),
        rule("r3", "SELECT * FROM other", log()),
    ];
    for workers in [1, 3] {
        let mut lines = run(&format!("readers-{workers}"), &streams, &rules, &messages(1..=4), workers);
        lines.sort();
        let mut expected: Vec<String> = (1..=4).map(|a| format!(r#"{{"a":{a},"room":"bath","r":"temps"}}"#)).collect();
        expected.extend((1..=4).map(|a| format!(r#"[{{"a":{a},"room":"bath","r":"all"}}]"#)));
        expected.extend((3..=4).map(|a| format!(r#"[{{"a":{a},"room":"hum","r":"all"}}]"#)));
        expected.sort();
        assert_eq!(lines, expected);
    }
}

#[test]
fn rows_take_the_form_that_their_sink_wants() {
    let one = "SELECT a, object_construct(\"x\", a) AS o FROM demo";
    let two = "SELECT a FROM demo GROUP BY COUNTWINDOW(2)";
    let cases = [
        (one, json!({"fields": ["a", "z"]}), &[r#"{"a":1,"z":null}"#, r#"{"a":2,"z":null}"#]),
        (one, json!({"excludeFields": ["o"], "format": "delimited"}), &[r#"{"a":1}"#, r#"{"a":2}"#]),
        (one, json!({"dataField": "o", "sendSingle": true}), &[r#"{"x":1}"#, r#"{"x":2}"#]),
        (one, json!({"dataTemplate": "{\"t\":{{.a}}}", "sendSingle": true}), &[r#"{"t":1}"#, r#"{"t":2}"#]),
        (two, json!({"dataTemplate": "[{\"n\":{{len .}}},{\"n\":0}]"}), &[r#"{"n":2}"#, r#"{"n":0}"#]),
        (two, json!({"batchSize": 2, "compression": "gzip"}), &[r#"{"a":1}"#, r#"{"a":2}"#]),
    ];
    let (mut streams, mut rules, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    for (number, (sql, mut props, rows)) in cases.into_iter().enumerate() {
        streams.push(memory(&format!("m{number}"), &format!("t{number}")));
        props["topic"] = format!("t{number}").into();
        rules.push(rule(&format!("w{number}"), sql, json!({"memory": props})));
        let sql = format!("SELECT {number} AS n, collect(*) AS l FROM m{number} GROUP BY COUNTWINDOW(2)");
        rules.push(rule(&format!("r{number}"), &sql, json!({"log": {"sendSingle": true}})));
        expected.push(format!("{{\"n\":{number},\"l\":[{}]}}", rows.join(",")));
    }
    let mut lines = run("forms", &streams, &rules, &messages(1..=2), 1);
    lines.sort();
    assert_eq!(lines, expected);
}

#[test]
fn rows_tell_their_topic() {
    let rules = [
        rule("w", "SELECT a FROM demo", to("home/bath")),
        rule(
            "r",
            "SELECT meta(topic) AS t, meta(m.nope) AS n, meta(*) AS m, count(*) AS c FROM m WHERE meta(m.topic) LIKE \"home/%\" \
             GROUP BY COUNTWINDOW(2)",
            json!({"log": {"sendSingle": true}}),
        ),
    ];
    let lines = run("topics", &[memory("m", "home/+")], &rules, &messages(1..=2), 1);
    assert_eq!(lines, [r#"{"t":"home/bath","m":{"topic":"home/bath"},"c":2}"#]);
}

#[test]
fn values_keep_their_types() {
    let sql = "SELECT a, cast(t, \"datetime\") AS t, encode(s, \"base64\") AS e, cast(s, \"bytea\") AS b FROM demo";
    let rules = [
        rule("w", sql, to("t")),
        rule(
            "r",
            "SELECT a, format_time(t, \"yyyy\") AS y, b, e, a / 2 AS half FROM m",
            json!({"log": {"sendSingle": true}}),
        ),
    ];
    let feed = [r#"{"a": 9007199254740993, "t": 1700000000000, "s": "hi"}"#.to_owned()];
    let lines = run("types", &[memory("m", "t")], &rules, &feed, 1);
    assert_eq!(lines.len(), 1);
    let row: Value = serde_json::from_str(&lines[0]).expect("the line is JSON");
    assert_eq!((&row["y"], &row["b"], &row["e"]), (&json!("2023"), &json!("aGk="), &json!("aGk=")));
    assert!(lines[0].contains("\"a\":9007199254740993"), "{lines:?}");
}

#[test]
fn at_the_end_windows_close_from_the_first_rule_to_the_last() {
    let streams = [memory("m1", "one"), memory("m2", "two")];
    let rules = [
        // The last comes first: the order of rules must not matter.
        rule("r3", "SELECT sum(s) AS s FROM m2 GROUP BY TUMBLINGWINDOW(hh, 1000)", json!({"log": {}})),
        rule("r2", "SELECT sum(a) AS s FROM m1 GROUP BY TUMBLINGWINDOW(hh, 1000)", to("two")),
        rule("r1", "SELECT a FROM demo GROUP BY TUMBLINGWINDOW(hh, 1000)", to("one")),
    ];
    assert_eq!(run("stages", &streams, &rules, &messages(1..=100), 2), [r#"[{"s":5050}]"#]);
}

#[test]
fn no_row_is_lost_between_rules() {
    let streams = [memory("m1", "one"), memory("m2", "two")];
    let rules = [
        rule("r1", "SELECT a FROM demo", to("one")),
        rule("r2", "SELECT a FROM m1 WHERE a % 2 = 0", to("two")),
        rule("r3", "SELECT count(*) AS c, sum(a) AS s FROM m2 GROUP BY TUMBLINGWINDOW(hh, 1000)", json!({"log": {}})),
    ];
    let count = 60_000i64;
    for workers in [1, 2] {
        let lines = run(&format!("many-{workers}"), &streams, &rules, &messages(1..=count), workers);
        let half = count / 2;
        assert_eq!(lines, [format!(r#"[{{"c":{half},"s":{}}}]"#, half * (half + 1))]);
    }
}

#[test]
fn a_cycle_of_rules_goes_round_until_it_is_done() {
    // Each row becomes two, until the depth is reached: far more rows than the queues between the rules hold.
    let streams = [memory("m1", "one"), memory("m2", "two")];
    let doubled = json!([{"memory": {"topic": "one"}}, {"memory": {"topic": "one"}}]);
    let rules = [
        rule("start", "SELECT a FROM demo", to("one")),
        rule("there", "SELECT a + 1 AS next FROM m1 WHERE a < 14", to("two")),
        json!({"id": "back", "sql": "SELECT next AS a FROM m2", "actions": doubled}),
        rule("end", "SELECT count(*) AS c FROM m1 WHERE a = 14 GROUP BY TUMBLINGWINDOW(hh, 1000)", json!({"log": {}})),
    ];
    assert_eq!(run("cycle", &streams, &rules, &messages([0]), 1), [r#"[{"c":16384}]"#]);
}

#[tokio::test]
async fn tables_take_what_rules_write_and_what_files_hold() {
    let folder = Folder::new("tables");
    folder.write(
        "rows.jsonl",
        "{\"id\": 1, \"v\": 1}\n{\"id\": 2}\n{\"id\": 1, \"op\": \"delete\"}\n{\"op\": \"x\", \"id\": 3}\n{}\n",
    );
    folder.write("table.json", r#"[{"id": 1}, {"id": 2}, {"id": 2}]"#);
    let rules = json!({
        "streams": ["CREATE STREAM rows () WITH (TYPE=\"file\", DATASOURCE=\"rows.jsonl\", EXTRA=\"{\\\"fileType\\\": \\\"lines\\\"}\")"],
        "tables": {
            "fed": "CREATE TABLE fed () WITH (TYPE=\"memory\", DATASOURCE=\"t\", KIND=\"lookup\", KEY=\"id\")",
            "read": "CREATE TABLE read () WITH (TYPE=\"file\", DATASOURCE=\"table.json\", KIND=\"lookup\", KEY=\"id\")",
        },
        "rules": [{"id": "r", "sql": "SELECT * FROM rows",
            "actions": [{"memory": {"topic": "t", "keyField": "id", "rowkindField": "op"}}]}],
    });
    let file = folder.write("rules.json", &rules.to_string());
    let planned = pipeline::load(&[file], &Config::default()).map_err(|problems| format!("{problems:?}")).unwrap();
    assert_eq!(planned.tables.len(), 2);

    let settings = EngineSettings {
        workers: 2,
        server: ServerSettings::default(),
        zone: jiff::tz::TimeZone::UTC,
        shutdown: Default::default(),
    };
    let engine = Engine::start(settings)
        .expect("threads can be started")
        .with_files(plutino::io::reach::FileRoots::new(folder.0.path().to_owned()));
    for table in planned.tables {
        let again = plutino::engine::TableSpec { def: table.spec.def.clone(), source: table.spec.source.clone() };
        engine.create_table(table.spec).await.expect("the table can be made");
        let error = engine.create_table(again).await.expect_err("it is there");
        assert!(error.to_string().ends_with("already exists"), "{error}");
    }
    for rule in planned.rules {
        engine.start_rule(rule.spec).await.expect("the rule can be started");
    }
    engine.end_of_input().await;
    let tables: Vec<_> = engine.tables().into_iter().map(|table| (table.name, table.rows_in, table.errors)).collect();
    assert_eq!(tables, [("fed".to_owned(), 3, 0), ("read".to_owned(), 3, 0)]);
    // The row with a wrong rowkind and the one without a key are errors of the rule that wrote them.
    let status = engine.status().await;
    assert_eq!((status[0].errors, status[0].sinks[0].messages, status[0].sinks[0].peers), (2, 3, 2));
    assert!(engine.drop_table("fed").await);
    assert!(!engine.drop_table("fed").await);
    assert_eq!(engine.tables().len(), 1);
    engine.stop(std::time::Duration::from_secs(10)).await;
}
