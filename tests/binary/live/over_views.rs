//! Views over views, joins, and rules that read views.

use serde_json::{Value, json};

use super::client::Live;
use crate::process::serve::Folder;
use crate::process::{Plutino, next, send, stream};

const FLEET: &str =
    "CREATE VIEW fleet WITH (KEY=\"id\", PARAMS=\"id,site\") AS SELECT id, site, t FROM telemetry WHERE t < 100";

async fn run(name: &str, streams: &[&str], views: &[&str], rules: &Value) -> Plutino {
    let streams: Vec<String> = streams.iter().map(|name| stream(name, "", "")).collect();
    Plutino::run(name, &json!({"streams": streams, "views": views, "rules": rules}), &[]).await
}

#[tokio::test]
async fn a_group_follows_rows_that_leave() {
    let views = [
        "CREATE VIEW sites AS SELECT site, count(*) AS n, sum(t) AS total, min(t) AS low, max(t) AS high, \
         count(*) FILTER (WHERE t > 10) AS hot, avg(t) AS mean FROM fleet GROUP BY site",
        "CREATE VIEW busy WITH (KEY=\"site\") AS SELECT site, n FROM sites WHERE n > 1",
        FLEET,
    ];
    let plutino = run("live-over-groups", &["telemetry"], &views, &json!([])).await;
    let mut feed = plutino.connect("/telemetry").await;
    let mut sites = Live::open(plutino.port, "/live/sites").await;
    let mut busy = Live::open(plutino.port, "/live/busy").await;
    for (id, site, t) in [(1, "a", 0.1), (2, "a", 0.2), (3, "a", 30.0), (4, "b", 5.0)] {
        send(&mut feed, json!({"id":id,"site":site,"t":t}).to_string()).await;
    }
    let row = json!({"site":"a","n":3,"total":30.3,"low":0.1,"high":30,"hot":1,"mean":10.1});
    sites.until_row(&json!(["a"]), &row).await;
    // The greatest moves to another site, the least is removed: neither leaves a trace.
    send(&mut feed, r#"{"id":3,"site":"b","t":30}"#).await;
    send(&mut feed, r#"{"id":1,"site":"a","t":100}"#).await;
    let row = json!({"site":"a","n":1,"total":0.2,"low":0.2,"high":0.2,"hot":0,"mean":0.2});
    sites.until_row(&json!(["a"]), &row).await;
    busy.until(|rows| rows.keys().cloned().collect::<Vec<_>>() == ["[\"b\"]"]).await;
    send(&mut feed, r#"{"id":2,"site":"b","t":1}"#).await;
    sites.until(|rows| rows.len() == 1 && rows["[\"b\"]"]["n"] == 3).await;
    // A text cannot be summed: only its row is dropped, and removing it leaves no trace.
    send(&mut feed, r#"{"id":9,"site":"b","t":-1}"#).await;
    sites.until(|rows| rows["[\"b\"]"]["n"] == 4).await;
    send(&mut feed, r#"{"id":9,"site":"c","t":-1}"#).await;
    sites.until(|rows| rows["[\"b\"]"]["n"] == 3 && rows["[\"c\"]"]["low"] == -1).await;
}

#[tokio::test]
async fn views_and_lookup_tables_are_joined() {
    let rules = json!({
        "streams": [stream("telemetry", "", ""), stream("places", "", "")],
        "tables": ["CREATE TABLE names (site STRING, name STRING) WITH (DATASOURCE=\"names\", TYPE=\"memory\", KIND=\"lookup\", KEY=\"site\")"],
        "views": [
            FLEET,
            "CREATE VIEW named WITH (KEY=\"id\", PARAMS=\"id,name\") AS \
             SELECT fleet.id, fleet.site, names.name FROM fleet LEFT JOIN names ON fleet.site = names.site",
            "CREATE VIEW pairs WITH (KEY=\"one,other\") AS SELECT a.id AS one, b.id AS other FROM fleet AS a \
             LEFT JOIN fleet AS b ON a.t = b.site",
        ],
        "rules": [{"id": "names", "sql": "SELECT site, name FROM places", "actions": [
            {"memory": {"topic": "names", "sendSingle": true, "rowkindField": "kind", "keyField": "site"}}
        ]}],
    });
    let plutino = Plutino::run("live-joins", &rules, &[]).await;
    let mut feed = plutino.connect("/telemetry").await;
    let mut places = plutino.connect("/places").await;
    let mut named = Live::open(plutino.port, "/live/named").await;
    let mut pairs = Live::open(plutino.port, "/live/pairs").await;
    send(&mut feed, r#"{"id":1,"site":"a","t":"x"}"#).await;
    send(&mut feed, r#"{"id":2,"site":"b","t":1}"#).await;
    named.until_row(&json!([2]), &json!({"id":2,"site":"b","name":null})).await;
    send(&mut places, r#"{"site":"b","name":"North"}"#).await;
    named.until_row(&json!([2]), &json!({"id":2,"site":"b","name":"North"})).await;
    let mut north = Live::open(plutino.port, "/live/named?name=North").await;
    assert_eq!(north.rows.len(), 1);
    send(&mut places, r#"{"site":"b","name":"South"}"#).await;
    named.until_row(&json!([2]), &json!({"id":2,"site":"b","name":"South"})).await;
    north.until(|rows| rows.is_empty()).await;
    send(&mut feed, r#"{"id":2,"site":"c","t":1}"#).await;
    named.until_row(&json!([2]), &json!({"id":2,"site":"c","name":null})).await;
    // A column of the key is null while there is no match.
    pairs.until_row(&json!([2, null]), &json!({"one":2,"other":null})).await;
    send(&mut feed, r#"{"id":3,"site":1,"t":7}"#).await;
    pairs.until_row(&json!([2, 3]), &json!({"one":2,"other":3})).await;
    pairs.until(|rows| !rows.contains_key("[2,null]") && rows.contains_key("[3,null]")).await;
    send(&mut feed, r#"{"id":3,"site":1,"t":100}"#).await;
    pairs.until(|rows| rows.keys().cloned().collect::<Vec<_>>() == ["[2,null]"]).await;
}

#[tokio::test]
async fn rules_read_and_join_views() {
    let websocket = |path: &str| json!([{"websocket": {"path": path, "sendSingle": true}}]);
    let rules = json!([
        {"id": "changes", "sql": "SELECT meta(op) AS op, meta(why) AS why, id, t FROM fleet", "actions": websocket("/changes")},
        {"id": "silent", "sql": "SELECT id, meta(*) AS meta FROM present WHERE meta(why) = \"expired\"", "actions": websocket("/silent")},
        {"id": "counts", "sql": "SELECT count(*) AS n FROM fleet GROUP BY COUNTWINDOW(3)", "actions": websocket("/counts")},
        {"id": "asks", "sql": "SELECT questions.q, fleet.t FROM questions LEFT JOIN fleet ON questions.id = fleet.id",
         "actions": websocket("/answers")},
    ]);
    let views =
        [FLEET, "CREATE VIEW present WITH (KEY=\"id\", EXPIRE=\"300ms\") AS SELECT id FROM telemetry WHERE t != 100"];
    let plutino = run("live-rules", &["telemetry", "questions"], &views, &rules).await;
    let mut feed = plutino.connect("/telemetry").await;
    let mut questions = plutino.connect("/questions").await;
    let mut changes = plutino.connect("/changes").await;
    let mut silent = plutino.connect("/silent").await;
    let mut counts = plutino.connect("/counts").await;
    let mut answers = plutino.connect("/answers").await;
    for (t, op, shown) in [(1, "insert", 1), (2, "update", 2), (100, "delete", 2), (3, "insert", 3)] {
        send(&mut feed, json!({"id":1,"t":t}).to_string()).await;
        let mut row = json!({"op":op,"id":1,"t":shown});
        if op == "delete" {
            row["why"] = "filtered".into();
        }
        assert_eq!(next(&mut changes).await, Some(row));
    }
    assert_eq!(next(&mut counts).await, Some(json!({"n":3})));
    assert_eq!(next(&mut silent).await, Some(json!({"id":1,"meta":{"op":"delete","why":"expired"}})));
    send(&mut questions, r#"{"q":"a","id":1.0}"#).await;
    assert_eq!(next(&mut answers).await, Some(json!({"q":"a","t":3})));
    send(&mut feed, r#"{"id":1,"t":4}"#).await;
    next(&mut changes).await;
    send(&mut questions, r#"{"q":"b","id":1}"#).await;
    assert_eq!(next(&mut answers).await, Some(json!({"q":"b","t":4})));
    send(&mut questions, r#"{"q":"c","id":2}"#).await;
    assert_eq!(next(&mut answers).await, Some(json!({"q":"c"})));
}

#[tokio::test]
async fn a_view_with_too_many_rows_stops() {
    let folder = Folder::new("live-over-full");
    let service = folder.serve();
    service.asks("POST", "/streams", &json!({"sql": stream("telemetry", "", "")})).await.done();
    let small = "CREATE VIEW small WITH (KEY=\"id\", MAX_ROWS=\"2\") AS SELECT id, t FROM fleet";
    for sql in [FLEET, small] {
        service.asks("POST", "/views", &json!({"sql": sql})).await.done();
    }
    let mut feed = tokio_tungstenite::connect_async(service.data_url("/telemetry")).await.unwrap().0;
    let mut live = Live::open(service.data_port, "/live/small").await;
    for id in 1..=3 {
        send(&mut feed, json!({"id":id,"t":id}).to_string()).await;
        if id < 3 {
            live.until(|rows| rows.len() == id).await;
        }
    }
    let stopped = loop {
        let status = service.asks("GET", "/views/small/status", &Value::Null).await.json();
        if !status["stopped"].is_null() {
            break status;
        }
    };
    assert!(stopped["stopped"].as_str().unwrap().contains("MAX_ROWS"), "{stopped}");
    assert_eq!(stopped["rows"], 2);
    let larger = small.replace("MAX_ROWS=\"2\"", "MAX_ROWS=\"20\"");
    service.asks("PUT", "/views/small", &json!({"sql": larger})).await.done();
    live.until(|rows| rows.len() == 3).await;
    let status = service.asks("GET", "/views/small/status", &Value::Null).await.json();
    assert!(status["stopped"].is_null(), "{status}");
}

#[tokio::test]
async fn a_service_keeps_what_reads_what() {
    let folder = Folder::new("live-over-service");
    let mut service = folder.serve_logging();
    service.asks("POST", "/streams", &json!({"sql": stream("telemetry", "", "")})).await.done();
    let kept = FLEET.replace("PARAMS=\"id,site\"", "PARAMS=\"id,site\", CHECKPOINT=\"50ms\"");
    // In the order of names the reader comes first.
    let counts = "CREATE VIEW counts AS SELECT site, count(*) AS n FROM fleet GROUP BY site";
    for sql in [kept.as_str(), counts] {
        service.asks("POST", "/views", &json!({"sql": sql})).await.done();
    }
    let rule = json!({"id": "r", "sql": "SELECT id FROM fleet", "actions": [{"nop": {}}]});
    service.asks("POST", "/rules", &rule).await.done();
    let mut feed = tokio_tungstenite::connect_async(service.data_url("/telemetry")).await.unwrap().0;
    let mut live = Live::open(service.data_port, "/live/counts").await;
    for id in 1..=4 {
        send(&mut feed, json!({"id":id,"site":if id < 3 { "a" } else { "b" },"t":id}).to_string()).await;
    }
    live.until(|rows| rows.len() == 2 && rows.values().all(|row| row["n"] == 2)).await;
    let used = service.asks("DELETE", "/views/fleet", &Value::Null).await;
    assert!(used.status == 400 && used.body.contains("counts") && used.body.contains("r,"), "{}", used.body);
    let circle = kept.replace("FROM telemetry", "FROM counts");
    let circle = service.asks("PUT", "/views/fleet", &json!({"sql": circle})).await;
    assert!(circle.status == 400 && circle.body.contains("fleet \u{2192} counts \u{2192} fleet"), "{}", circle.body);
    let without = kept.replace("id, site, t FROM", "id, t FROM").replace("PARAMS=\"id,site\"", "PARAMS=\"id\"");
    let without = service.asks("PUT", "/views/fleet", &json!({"sql": without})).await;
    assert!(without.status == 400 && without.body.contains("view counts reads it"), "{}", without.body);
    // Another query starts empty, and so does the view that reads it.
    let fewer = kept.replace("t < 100", "t < 99");
    service.asks("PUT", "/views/fleet", &json!({"sql": fewer})).await.done();
    while live.apply().await["t"] != "ready" {}
    assert!(live.rows.is_empty());
    // More than before: the log tells their checkpoint by the number of messages.
    for id in 1..=5 {
        send(&mut feed, json!({"id":id,"site":"a","t":id}).to_string()).await;
    }
    live.until(|rows| rows.get("[\"a\"]").is_some_and(|row| row["n"] == 5)).await;
    service.will_say(&["its state is on disk", "view:fleet", "changes=5"]).await;
    service.kill();
    drop(service);
    let service = folder.serve();
    let rows = service.asks("GET", "/views/counts/rows", &Value::Null).await.json();
    assert_eq!(rows["rows"], json!([{"site":"a","n":5}]), "{rows}");
    service.asks("DELETE", "/views/fleet?force=true", &Value::Null).await.done();
    assert_eq!(service.asks("GET", "/views/counts/rows", &Value::Null).await.json()["rows"], rows["rows"]);
    // It exists again: its readers follow it.
    service.asks("POST", "/views", &json!({"sql": FLEET})).await.done();
    let mut live = Live::open(service.data_port, "/live/counts").await;
    live.until(|rows| rows.is_empty()).await;
    let mut feed = tokio_tungstenite::connect_async(service.data_url("/telemetry")).await.unwrap().0;
    send(&mut feed, r#"{"id":1,"site":"z","t":1}"#).await;
    live.until_row(&json!(["z"]), &json!({"site":"z","n":1})).await;
}

#[tokio::test]
async fn what_is_odd_about_a_view_is_told_to_those_who_ask() {
    let folder = Folder::new("live-over-warnings");
    let service = folder.serve();
    service.asks("POST", "/streams", &json!({"sql": stream("telemetry", "", "")})).await.done();
    let claimed =
        "CREATE VIEW own WITH (KEY=\"id\", CLAIMS=\"site=sub\", EVENT_TIME=\"true\") AS SELECT id, site FROM telemetry";
    let created = service.asks("POST", "/views?details", &json!({"sql": claimed})).await;
    assert!(created.status == 201 && created.body.contains("EVENT_TIME has no effect"), "{}", created.body);
    let over = "CREATE VIEW all_of_it WITH (KEY=\"id\") AS SELECT id, site FROM own";
    let created = service.asks("POST", "/views?details", &json!({"sql": over})).await;
    assert!(
        created.status == 201 && created.body.contains("the CLAIMS of view own do not apply here"),
        "{}",
        created.body
    );
}

#[tokio::test]
async fn what_a_view_over_views_may_not_say_is_told() {
    let mut views =
        vec![FLEET.to_owned(), "CREATE VIEW sites WITH (KEY=\"site\") AS SELECT site, t FROM telemetry".to_owned()];
    let cases = [
        ("WITH (KEY=\"site\") AS SELECT site, t FROM fleet", "KEY must contain id of fleet"),
        (
            "WITH (KEY=\"id\") AS SELECT f.id FROM fleet AS f LEFT JOIN sites AS s ON f.t = s.t",
            "KEY must contain site of sites",
        ),
        (
            "WITH (KEY=\"id\") AS SELECT s.site, f.id FROM sites AS s LEFT JOIN fleet AS f ON f.site = s.site",
            "KEY must contain site of sites",
        ),
        (
            "AS SELECT site, last_value(t, true) AS t FROM fleet GROUP BY site",
            "last_value depends on the order of rows",
        ),
        ("AS SELECT site, collect(t) AS t FROM fleet GROUP BY site", "collect depends on the order of rows"),
        ("WITH (KEY=\"id\") AS SELECT id, lag(t) AS t FROM fleet", "depends on the rows that came before"),
        ("WITH (KEY=\"id\") AS SELECT id FROM fleet WHERE t < tstamp()", "tstamp() changes by itself"),
        ("WITH (KEY=\"id\", EXPIRE=\"5s\") AS SELECT id FROM fleet", "EXPIRE has no effect here"),
        ("WITH (KEY=\"id\", CHECKPOINT=\"5s\") AS SELECT id FROM fleet", "CHECKPOINT has no effect here"),
        ("AS SELECT count(*) AS n FROM fleet GROUP BY TUMBLINGWINDOW(ss, 1)", "its rows have no time"),
        ("AS SELECT site, t, count(*) AS n FROM fleet GROUP BY site", "t is selected beside groups"),
        ("WITH (KEY=\"id\") AS SELECT id, sight FROM fleet", "sight"),
        (
            "WITH (KEY=\"id\") AS SELECT id FROM fleet INNER JOIN sites ON fleet.site = sites.site AND fleet.t > 1",
            "ON of sites must be equalities",
        ),
        (
            "WITH (KEY=\"id\") AS SELECT telemetry.id FROM telemetry INNER JOIN fleet ON telemetry.id = fleet.id",
            "make a view of it first",
        ),
        ("WITH (KEY=\"id\") AS SELECT id FROM fleet FULL JOIN sites ON fleet.site = sites.site", "INNER or LEFT"),
        ("WITH (KEY=\"id\") AS SELECT id FROM v_self", "v_self"),
    ];
    views.extend(cases.iter().enumerate().map(|(number, (rest, _))| format!("CREATE VIEW v{number} {rest}")));
    views.push("CREATE VIEW x WITH (KEY=\"id\") AS SELECT id FROM y".to_owned());
    views.push("CREATE VIEW y WITH (KEY=\"id\") AS SELECT id FROM x".to_owned());
    let rules = json!({"streams": [stream("telemetry", "", "")], "views": views, "rules": []});
    let folder = Folder::new("mistakes");
    let path = folder.write("rules.json", &rules.to_string());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_plutino")).arg("check").arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{said}");
    for part in cases.iter().map(|(_, part)| *part).chain(["x \u{2192} y \u{2192} x", "y \u{2192} x \u{2192} y"]) {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}
