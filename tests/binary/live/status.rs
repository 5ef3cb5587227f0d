//! The status of views: why one has no rows, what it has lost, and what happens to readers of dropped or replaced
//! definitions.

use std::process::Command;

use serde_json::{Value, json};
use tokio_tungstenite::connect_async;

use super::client::Live;
use crate::process::serve::{Folder, Served};
use crate::process::{Client, next, send, stream};

const FLEET: &str = "CREATE VIEW fleet WITH (KEY=\"id\") AS SELECT id, site, t FROM telemetry WHERE t < 100";
const COUNTS: &str = "CREATE VIEW counts AS SELECT site, count(*) AS n FROM fleet GROUP BY site";

async fn make(service: &Served, streams: &[&str], views: &[&str]) {
    for name in streams {
        service.asks("POST", "/streams", &json!({"sql": stream(name, "", "")})).await.done();
    }
    for view in views {
        service.asks("POST", "/views", &json!({"sql": view})).await.done();
    }
}

async fn client(service: &Served, path: &str) -> Client {
    connect_async(service.data_url(path)).await.expect("the path is there").0
}

/// A response once it is as expected.
async fn until(service: &Served, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    service.answer_when(path, path, wanted).await
}

/// The message of the first finding with this cause.
async fn finding(service: &Served, path: &str, cause: &str) -> String {
    let found = until(service, path, |status| status["diagnosis"][0]["cause"] == cause).await;
    found["diagnosis"][0]["message"].as_str().expect("a text").to_owned()
}

#[tokio::test]
async fn a_view_without_rows_says_why() {
    let folder = Folder::new("live-silent");
    let service = folder.serve();
    let hot = "CREATE VIEW hot WITH (KEY=\"id\") AS SELECT id, t FROM telemetry WHERE temperatur > 20";
    make(&service, &["telemetry"], &[FLEET, COUNTS, hot]).await;
    let text = finding(&service, "/views/hot/status", "noClient").await;
    assert!(text.contains("/telemetry"), "{text}");
    let text = finding(&service, "/views/counts/status", "noRows").await;
    assert!(text.contains("View fleet, which it reads, has no rows"), "{text}");
    let mut feed = client(&service, "/telemetry").await;
    finding(&service, "/views/hot/status", "noMessages").await;
    // A message that cannot be read is counted at once, and not only with the next readable one.
    send(&mut feed, "{broken").await;
    let status = until(&service, "/views/hot/status", |status| status["errors"] == 1).await;
    assert!(status["lastError"].is_string() && status["diagnosis"][0]["cause"] == "unreadable", "{status}");
    send(&mut feed, r#"{"id":1,"site":"a","temperature":30,"t":200}"#).await;
    let text = finding(&service, "/views/hot/status", "absentField").await;
    assert!(text.contains("temperatur ") && text.contains("did you mean temperature?"), "{text}");
    let text = finding(&service, "/views/fleet/status", "neverTrue").await;
    assert!(text.contains("t < 100") && text.contains("t = 200"), "{text}");
    let url = service.url("");
    let run = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_plutino")).args(arguments).args(["--url", &url]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let told = run(&["status", "hot"]);
    for part in ["view hot: running", "rows: 0", "last error:", "diagnosis:", "did you mean temperature?"] {
        assert!(told.contains(part), "{part} is not in:\n{told}");
    }
    let told = run(&["status"]);
    assert!(told.contains("VIEW") && told.contains("hot: filter: Field temperatur"), "{told}");
    send(&mut feed, r#"{"id":1,"site":"a","t":20}"#).await;
    until(&service, "/views/counts/status", |status| status["rows"] == 1 && status["diagnosis"] == json!([])).await;
    let overview = service.asks("GET", "/overview", &Value::Null).await.json();
    assert_eq!((&overview["views"][1]["name"], &overview["views"][1]["rows"]), (&json!("fleet"), &json!(1)));
    send(&mut feed, r#"{"id":1,"site":"a","t":200}"#).await;
    let text = finding(&service, "/views/fleet/status", "allLeft").await;
    assert!(text.contains("1 by a change") && text.contains("t < 100"), "{text}");
    let text = finding(&service, "/views/counts/status", "allLeft").await;
    assert!(text.contains("All rows have left: 1 by a change"), "{text}");
    // The rows from before another query have not left: the view began again.
    let other = FLEET.replace("t < 100", "t < 50");
    service.asks("PUT", "/views/fleet", &json!({"sql": other})).await.done();
    finding(&service, "/views/fleet/status", "noMessages").await;
    let text = finding(&service, "/views/counts/status", "noRows").await;
    assert!(text.contains("View fleet, which it reads, has no rows"), "{text}");
    service.asks("DELETE", "/views/fleet?force=true", &Value::Null).await.done();
    let status = until(&service, "/views/counts/status", |status| status["diagnosis"][0]["cause"] == "dropped").await;
    assert_eq!(status["diagnosis"].as_array().map(Vec::len), Some(1), "{status}");
}

#[tokio::test]
async fn the_rows_of_a_view_are_tapped() {
    let folder = Folder::new("live-tap");
    let service = folder.serve();
    make(&service, &["telemetry"], &[FLEET]).await;
    let refused = service.asks("GET", "/views/fleet/tap?op=sink", &Value::Null).await;
    assert!(refused.status == 400 && refused.body.contains("source, decode, project"), "{}", refused.body);
    let arguments = ["tap", "fleet:project", "--view", "--limit", "1", "--url", &service.url("")];
    let mut tap = tokio::process::Command::new(env!("CARGO_BIN_EXE_plutino"))
        .args(arguments)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = tokio::io::BufReader::new(tap.stderr.take().unwrap());
    let mut line = String::new();
    tokio::io::AsyncBufReadExt::read_line(&mut said, &mut line).await.unwrap();
    assert!(line.contains("tapping fleet:project"), "{line}");
    let mut feed = client(&service, "/telemetry").await;
    send(&mut feed, r#"{"id":1,"site":"a","t":200}"#).await;
    send(&mut feed, r#"{"id":1,"site":"a","t":20}"#).await;
    let output = tap.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "{\"id\":1,\"site\":\"a\",\"t\":20}\n");
}

#[tokio::test]
async fn what_reads_a_dropped_view_says_so_and_follows_it_again() {
    let folder = Folder::new("live-dropped");
    let mut service = folder.serve();
    make(&service, &["telemetry"], &[FLEET, COUNTS]).await;
    let rule = |id: &str| {
        let actions = json!([{"websocket": {"path": format!("/{id}"), "sendSingle": true}}]);
        json!({"id": id, "sql": "SELECT id, meta(op) AS op FROM fleet", "actions": actions})
    };
    service.asks("POST", "/rules", &rule("changes")).await.done();
    let mut feed = client(&service, "/telemetry").await;
    send(&mut feed, r#"{"id":1,"site":"a","t":1}"#).await;
    until(&service, "/views/counts/status", |status| status["rows"] == 1).await;
    service.asks("DELETE", "/views/fleet?force=true", &Value::Null).await.done();
    let status = service.asks("GET", "/views/counts/status", &Value::Null).await.json();
    assert!(status["stopped"].as_str().is_some_and(|why| why.contains("fleet was dropped")), "{status}");
    assert_eq!((&status["rows"], &status["diagnosis"][0]["cause"]), (&json!(1), &json!("dropped")));
    let status = service.asks("GET", "/rules/changes/status", &Value::Null).await.json();
    assert!(status["message"].as_str().is_some_and(|why| why.contains("fleet was dropped")), "{status}");
    assert_eq!(status["diagnosis"][0]["cause"], "dropped");
    // It exists again.
    make(&service, &[], &[FLEET]).await;
    let mut changes = client(&service, "/changes").await;
    send(&mut feed, r#"{"id":2,"site":"b","t":1}"#).await;
    assert_eq!(next(&mut changes).await, Some(json!({"id": 2, "op": "insert"})));
    let mut live = Live::open(service.data_port, "/live/counts").await;
    live.until(|rows| rows.len() == 1 && rows["[\"b\"]"]["n"] == 1).await;
    let status = service.asks("GET", "/rules/changes/status", &Value::Null).await.json();
    assert_eq!((&status["message"], &status["status"]), (&json!(""), &json!("running")), "{status}");
    // After a restart without it, its reader cannot start; both start when it is created.
    service.asks("DELETE", "/views/fleet?force=true", &Value::Null).await.done();
    service.kill();
    drop(service);
    let service = folder.serve();
    let status = until(&service, "/rules/changes/status", |status| status["status"] == "stopped by error").await;
    assert!(status["message"].as_str().is_some_and(|why| why.contains("fleet")), "{status}");
    let status = service.asks("GET", "/views/counts/status", &Value::Null).await.json();
    assert!(status["stopped"].as_str().is_some_and(|why| why.contains("fleet")), "{status}");
    assert_eq!(status["diagnosis"][0]["cause"], "notRunning");
    let refused = service.asks("GET", "/views/counts/rows", &Value::Null).await;
    assert!(refused.status == 400 && refused.body.contains("does not run"), "{}", refused.body);
    make(&service, &[], &[FLEET]).await;
    let mut changes = client(&service, "/changes").await;
    let mut live = Live::open(service.data_port, "/live/counts").await;
    let mut feed = client(&service, "/telemetry").await;
    send(&mut feed, r#"{"id":3,"site":"c","t":1}"#).await;
    assert_eq!(next(&mut changes).await, Some(json!({"id": 3, "op": "insert"})));
    live.until_row(&json!(["c"]), &json!({"site":"c","n":1})).await;
}

#[tokio::test]
async fn views_follow_what_is_replaced_below_them() {
    let folder = Folder::new("live-replaced");
    let service = folder.serve();
    make(&service, &["telemetry", "places", "halls"], &[FLEET]).await;
    let names = |topic: &str| {
        format!(
            "CREATE TABLE names (site STRING, name STRING) WITH (DATASOURCE=\"{topic}\", TYPE=\"memory\", \
             KIND=\"lookup\", KEY=\"site\")"
        )
    };
    service.asks("POST", "/tables", &json!({"sql": names("places")})).await.done();
    for topic in ["places", "halls"] {
        let memory = json!([{"memory": {"topic": topic, "sendSingle": true}}]);
        let rule = json!({"id": topic, "sql": format!("SELECT site, name FROM {topic}"), "actions": memory});
        service.asks("POST", "/rules", &rule).await.done();
    }
    let named = "CREATE VIEW named WITH (KEY=\"id\") AS SELECT fleet.id, names.name FROM fleet \
                 LEFT JOIN names ON fleet.site = names.site";
    let sums = "CREATE VIEW sums AS SELECT site, count(*) AS n FROM telemetry GROUP BY site";
    make(&service, &[], &[named, sums]).await;
    let mut feed = client(&service, "/telemetry").await;
    let mut places = client(&service, "/places").await;
    let mut halls = client(&service, "/halls").await;
    let mut live = Live::open(service.data_port, "/live/named").await;
    send(&mut feed, r#"{"id":1,"site":"a","t":1}"#).await;
    send(&mut places, r#"{"site":"a","name":"North"}"#).await;
    live.until_row(&json!([1]), &json!({"id":1,"name":"North"})).await;
    // The rows of the new table differ: the view is computed again, and follows them.
    service.asks("PUT", "/tables/names", &json!({"sql": names("halls")})).await.done();
    live.until_row(&json!([1]), &json!({"id":1,"name":null})).await;
    send(&mut halls, r#"{"site":"a","name":"Hall 1"}"#).await;
    live.until_row(&json!([1]), &json!({"id":1,"name":"Hall 1"})).await;
    // A stream at another path: the counts stay.
    let mut counts = Live::open(service.data_port, "/live/sums").await;
    counts.until_row(&json!(["a"]), &json!({"site":"a","n":1})).await;
    let moved = stream("telemetry", "", "").replace("/telemetry", "/elsewhere");
    service.asks("PUT", "/streams/telemetry", &json!({"sql": moved})).await.done();
    let mut elsewhere = client(&service, "/elsewhere").await;
    send(&mut elsewhere, r#"{"id":2,"site":"a","t":1}"#).await;
    counts.until_row(&json!(["a"]), &json!({"site":"a","n":2})).await;
    live.until_row(&json!([2]), &json!({"id":2,"name":"Hall 1"})).await;
}
