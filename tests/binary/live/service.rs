//! Views of a service: REST, command line, restarts.

use std::process::Command;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Live, frame};
use crate::process::serve::{Folder, LIMIT, Served};
use crate::process::stream;

const FLEET: &str = "CREATE VIEW fleet WITH (KEY=\"id\", PARAMS=\"id,site\") AS SELECT id, site, t FROM telemetry";

async fn begin(service: &Served) {
    service.asks("POST", "/streams", &json!({"sql": stream("telemetry", "", "")})).await.done();
    let created = service.asks("POST", "/views", &json!({"sql": FLEET})).await;
    assert_eq!((created.status, created.body.as_str()), (201, "View fleet is created.\n"));
}

async fn feed(service: &Served, messages: &[Value]) {
    let mut feed = connect_async(service.data_url("/telemetry")).await.expect("the stream takes clients").0;
    for message in messages {
        feed.send(Message::text(message.to_string())).await.unwrap();
    }
    feed.close(None).await.unwrap();
}

async fn rows(service: &Served, path: &str, count: usize) -> Vec<Value> {
    loop {
        let answer = service.asks("GET", path, &Value::Null).await;
        if answer.status == 404 {
            // A service that has just started starts its views.
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            continue;
        }
        let answer = answer.json();
        let rows = answer["rows"].as_array().expect("rows").clone();
        assert!(answer["at"].is_string() && answer["ts"].is_i64(), "{answer}");
        if rows.len() >= count {
            return rows;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn rest_manages_views() {
    let folder = Folder::new("live-rest");
    let service = folder.serve();
    begin(&service).await;
    assert_eq!(service.asks("GET", "/views", &Value::Null).await.json(), json!(["fleet"]));
    let described = service.asks("GET", "/views/fleet", &Value::Null).await.json();
    assert_eq!((&described["key"], &described["params"]), (&json!(["id"]), &json!(["id", "site"])));
    assert_eq!((&described["path"], &described["sql"]), (&json!("/live/fleet"), &json!(FLEET)));
    for (sql, told) in [
        (FLEET, "already exists"),
        ("CREATE VIEW telemetry WITH (KEY=\"id\") AS SELECT id FROM telemetry", "already exists"),
        ("CREATE VIEW v AS SELECT id FROM telemetry", "needs a KEY"),
        ("CREATE VIEW v WITH (KEY=\"id\") AS SELECT id FROM nosuch", "nosuch"),
        ("CREATE VIEW v WITH (KEY=\"id\", PATH=\"/live/fleet\") AS SELECT id FROM telemetry", "PATH"),
        ("CREATE STREAM x () WITH ()", "CREATE VIEW"),
    ] {
        let refused = service.asks("POST", "/views", &json!({"sql": sql})).await;
        assert!(refused.status == 400 && refused.body.contains(told), "{sql}: {} {}", refused.status, refused.body);
    }
    let taken = service.asks("POST", "/streams", &json!({"sql": stream("fleet", "", "")})).await;
    assert_eq!(taken.status, 400, "{}", taken.body);
    let used = service.asks("DELETE", "/streams/telemetry", &Value::Null).await;
    assert_eq!(used.status, 400, "{}", used.body);
    assert_eq!(service.asks("GET", "/views/none", &Value::Null).await.status, 404);
    assert_eq!(service.asks("GET", "/views/none/status", &Value::Null).await.status, 404);

    let messages =
        [json!({"id":1,"site":"a","t":1}), json!({"id":2,"site":"b","t":1}), json!({"id":1,"site":"a","t":2})];
    feed(&service, &messages).await;
    let mut live = Live::open(service.data_port, "/live/fleet?site=a").await;
    live.until(|rows| rows.get("[1]").is_some_and(|row| row["t"] == 2)).await;
    rows(&service, "/views/fleet/rows", 2).await;
    assert_eq!(rows(&service, "/views/fleet/rows?id=1", 1).await, [json!({"id":1,"site":"a","t":2})]);
    assert_eq!(rows(&service, "/views/fleet/rows?_limit=1", 1).await.len(), 1);
    assert_eq!(service.asks("GET", "/views/fleet/rows?t=1", &Value::Null).await.status, 400);
    let status = service.asks("GET", "/views/fleet/status", &Value::Null).await.json();
    for (name, value) in [("rows", 2), ("inserts", 2), ("subscriptions", 1), ("cohorts", 1), ("clients", 1)] {
        assert_eq!(status[name], value, "{status}");
    }
    let clients = service.asks("GET", "/views/fleet/clients", &Value::Null).await.json();
    assert_eq!((&clients[0]["params"], &clients[0]["lagChanges"]), (&json!({"site":"a"}), &json!(0)));
    let metrics = service.asks("GET", "/metrics", &Value::Null).await.done();
    assert!(metrics.contains("plutino_view_rows{view=\"fleet\"} 2"), "{metrics}");

    // Options keep the rows; another query starts empty.
    let more = FLEET.replace("PARAMS=\"id,site\"", "PARAMS=\"id,site\", RETAIN=\"5s\"");
    service.asks("PUT", "/views/fleet", &json!({"sql": more})).await.done();
    assert_eq!(rows(&service, "/views/fleet/rows", 2).await.len(), 2);
    feed(&service, &[json!({"id":3,"site":"a","t":1})]).await;
    live.until(|rows| rows.len() == 2).await;
    let other = FLEET.replace("t FROM", "t + 1 AS t FROM");
    service.asks("PUT", "/views/fleet", &json!({"sql": other})).await.done();
    let mut kinds = Vec::new();
    while kinds.last() != Some(&json!("ready")) {
        let message = live.apply_change().await;
        if message["t"] == "gap" {
            assert_eq!(message["why"], "changed");
        }
        kinds.push(message["t"].clone());
    }
    assert_eq!(kinds, ["gap", "subscribed", "snapshot", "ready"]);
    assert!(live.rows.is_empty());
    let without = other.replace("PARAMS=\"id,site\"", "PARAMS=\"id\"");
    service.asks("PUT", "/views/fleet", &json!({"sql": without})).await.done();
    assert_eq!(live.apply_change().await, json!({"t":"unsubscribed","s":live.s,"why":"dropped"}));
    let mut live = Live::open(service.data_port, "/live/fleet").await;
    let dropped = service.asks("DELETE", "/views/fleet", &Value::Null).await.done();
    assert_eq!(dropped, "View fleet is dropped.\n");
    assert_eq!(live.apply_change().await["why"], "dropped");
    assert_eq!(service.asks("DELETE", "/views/fleet", &Value::Null).await.status, 404);
}

#[tokio::test]
async fn state_is_there_again_after_a_kill() {
    let folder = Folder::new("live-restart");
    let mut service = folder.serve_logging();
    service.asks("POST", "/streams", &json!({"sql": stream("telemetry", "", "")})).await.done();
    for sql in [
        "CREATE VIEW kept WITH (KEY=\"id\", CHECKPOINT=\"50ms\") AS SELECT id, t FROM telemetry",
        "CREATE VIEW counts WITH (CHECKPOINT=\"50ms\") AS SELECT id, count(*) AS n FROM telemetry GROUP BY id",
        "CREATE VIEW top WITH (KEY=\"id\", CHECKPOINT=\"50ms\") AS SELECT id, t FROM telemetry ORDER BY t LIMIT 1",
        "CREATE VIEW fresh WITH (KEY=\"id\") AS SELECT id, t FROM telemetry",
    ] {
        service.asks("POST", "/views", &json!({"sql": sql})).await.done();
    }
    feed(&service, &[json!({"id":1,"t":1}), json!({"id":2,"t":2}), json!({"id":1,"t":3})]).await;
    rows(&service, "/views/fresh/rows", 2).await;
    let live = Live::open(service.data_port, "/live/kept").await;
    let cursor = live.cursor.clone().unwrap();
    let parts = |view: &str| ["its state is on disk".to_owned(), format!("view:{view}"), "changes=3".to_owned()];
    let is_kept =
        |view: &str| service.has_said().lines().any(|line| parts(view).iter().all(|part| line.contains(part)));
    let began = std::time::Instant::now();
    while !["kept", "counts", "top"].into_iter().all(is_kept) {
        assert!(began.elapsed() < LIMIT, "{}", service.has_said());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    service.kill();
    drop(service);
    let service = folder.serve();
    assert_eq!(rows(&service, "/views/kept/rows", 2).await.len(), 2);
    assert_eq!(rows(&service, "/views/counts/rows?id=1", 1).await, [json!({"id":1,"n":2})]);
    assert_eq!(rows(&service, "/views/top/rows", 1).await, [json!({"id":2,"t":2})]);
    assert!(rows(&service, "/views/fresh/rows", 0).await.is_empty());
    let mut socket = super::client::connect(service.data_port, &format!("/live/kept?_cursor={cursor}")).await;
    assert_eq!(frame(&mut socket).await.unwrap()["resumed"], false);
    assert_eq!(frame(&mut socket).await.unwrap()["why"], "restart");
    feed(&service, &[json!({"id":1,"t":9})]).await;
    while rows(&service, "/views/counts/rows?id=1", 1).await != [json!({"id":1,"n":3})] {
        tokio::task::yield_now().await;
    }
    // The row beyond the first was kept, too.
    feed(&service, &[json!({"id":2,"t":99})]).await;
    while rows(&service, "/views/top/rows", 1).await != [json!({"id":1,"t":9})] {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn views_are_exported_and_imported() {
    let folder = Folder::new("live-export");
    let service = folder.serve();
    begin(&service).await;
    let exported = service.asks("GET", "/data/export", &Value::Null).await.json();
    assert_eq!(exported["views"], json!({"fleet": FLEET}));
    service.asks("DELETE", "/views/fleet", &Value::Null).await.done();
    service.asks("POST", "/data/import", &json!({"content": exported.to_string()})).await.done();
    assert_eq!(service.asks("GET", "/views", &Value::Null).await.json(), json!(["fleet"]));
}

#[tokio::test]
async fn rules_that_read_views_are_exported_and_imported_with_them() {
    let folder = Folder::new("live-ruleset");
    let mut service = folder.serve();
    begin(&service).await;
    for view in [
        "CREATE VIEW a_sites AS SELECT site, count(*) AS n FROM fleet GROUP BY site",
        "CREATE VIEW other WITH (KEY=\"id\") AS SELECT id FROM telemetry",
    ] {
        service.asks("POST", "/views", &json!({"sql": view})).await.done();
    }
    let rule = json!({"id": "r", "sql": "SELECT n FROM a_sites", "actions": [{"nop": {}}]});
    service.asks("POST", "/rules", &rule).await.done();
    let names = |exported: &Value| {
        let views = exported["views"].as_object().expect("it has views").keys().cloned().collect::<Vec<_>>();
        (views, exported["streams"].as_object().expect("it has streams").len())
    };
    let all = service.asks("GET", "/data/export", &Value::Null).await.json();
    let of_rule = service.asks("POST", "/data/export", &json!(["r"])).await.json();
    assert_eq!(names(&of_rule), (vec!["a_sites".to_owned(), "fleet".to_owned()], 1));
    let ruleset = service.asks("POST", "/ruleset/export", &Value::Null).await.json();
    assert_eq!(names(&ruleset), names(&all));
    let yaml = service.asks("GET", "/v2/data/export", &Value::Null).await.done();
    for (path, content) in [
        ("/data/import", all.to_string()),
        ("/data/import", of_rule.to_string()),
        ("/ruleset/import", ruleset.to_string()),
        ("/v2/data/import", yaml),
    ] {
        let folder = Folder::new("live-ruleset-into");
        let into = folder.serve();
        into.asks("POST", path, &json!({"content": content})).await.done();
        let views = into.asks("GET", "/views", &Value::Null).await.json();
        assert!(views.as_array().is_some_and(|views| views.contains(&json!("a_sites"))), "{path}: {views}");
        assert_eq!(into.asks("GET", "/rules/r/status", &Value::Null).await.json()["status"], "running", "{path}");
    }
    // What is in a store is exported without the service, too.
    service.terminate();
    let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
    let written = command.args(["store", "export", "out.json"]).current_dir(&folder.0).output().unwrap();
    assert!(written.status.success(), "{written:?}");
    let stored = std::fs::read(folder.path("out.json")).expect("the file is there");
    let stored: Value = serde_json::from_slice(&stored).expect("an export is JSON");
    assert_eq!(names(&stored), names(&all));
}

#[tokio::test]
async fn watch_prints_rows_and_changes() {
    let folder = Folder::new("live-watch");
    let service = folder.serve();
    begin(&service).await;
    feed(&service, &[json!({"id":1,"site":"a","t":1}), json!({"id":2,"site":"b","t":1})]).await;
    rows(&service, "/views/fleet/rows", 2).await;
    let plutino = || {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_plutino"));
        command.arg("watch").env("KUIPER__SOURCE__HTTPSERVERPORT", service.data_port.to_string());
        command
    };
    let once = |arguments: Vec<String>| {
        let mut command = plutino();
        async move { command.args(arguments).output().await.expect("the binary starts") }
    };
    let by_name = once(vec!["fleet".to_owned(), "site=a".to_owned(), "--once".to_owned()]).await;
    let line: Value = serde_json::from_slice(&by_name.stdout).expect("a line of JSON");
    assert_eq!((&line["op"], &line["row"]), (&json!("insert"), &json!({"id":1,"site":"a","t":1})));
    let by_url = once(vec![service.data_url("/live/fleet"), "--once".to_owned()]).await;
    assert_eq!(String::from_utf8_lossy(&by_url.stdout).lines().count(), 2);
    let mut by_service = tokio::process::Command::new(env!("CARGO_BIN_EXE_plutino"));
    let by_service = by_service.args(["watch", "fleet", "--once"]).env("PLUTINO_URL", service.url(""));
    let by_service = by_service.output().await.expect("the binary starts");
    assert_eq!(String::from_utf8_lossy(&by_service.stdout).lines().count(), 2, "{by_service:?}");
    let wrong = once(vec!["fleet".to_owned(), "t=a".to_owned()]).await;
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("unknown_param"));
    // It continues with each change.
    let mut watching = plutino()
        .args(["fleet", "id=1"])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(watching.stdout.take().unwrap()));
    assert!(lines.next_line().await.unwrap().unwrap().contains("insert"));
    feed(&service, &[json!({"id":1,"site":"c","t":5})]).await;
    let line: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!((&line["op"], &line["row"]["t"]), (&json!("update"), &json!(5)));
}

#[tokio::test]
async fn the_command_line_manages_views() {
    let folder = Folder::new("live-cli");
    let service = folder.serve();
    service.asks("POST", "/streams", &json!({"sql": stream("telemetry", "", "")})).await.done();
    let url = service.url("");
    let run = |arguments: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_plutino")).args(arguments).args(["--url", &url]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(run(&["show", "views"]), (true, "No view definitions are found.\n".to_owned()));
    let fleet = FLEET.strip_prefix("CREATE VIEW ").unwrap();
    assert_eq!(run(&["create", "view", fleet]), (true, "View fleet is created.\n".to_owned()));
    assert_eq!(run(&["show", "views"]), (true, "fleet\n".to_owned()));
    let (_, described) = run(&["describe", "view", "fleet"]);
    assert!(described.contains("KEY: id") && described.contains("PATH: /live/fleet"), "{described}");
    let (_, status) = run(&["getstatus", "view", "fleet"]);
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["rows"], 0);
    assert_eq!(run(&["drop", "view", "fleet"]), (true, "View fleet is dropped.\n".to_owned()));
    assert!(!run(&["drop", "view", "fleet"]).0);
}
