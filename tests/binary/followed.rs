//! `plutino run --watch` and `--console`: rule files that change under a running process, and the console of it.

use serde_json::{Value, json};

use crate::live::client::Live;
use crate::process::serve::{ask, free_port};
use crate::process::{Plutino, next, send, stream};

fn rule(id: &str, sql: &str) -> Value {
    let actions = json!([{"websocket": {"path": format!("/{id}"), "sendSingle": true}}]);
    json!({"id": id, "sql": sql, "actions": actions})
}

fn rules(rules: &[Value]) -> Value {
    json!({"streams": [stream("s", "", "")], "rules": rules})
}

#[tokio::test]
async fn rules_that_change_are_replaced_and_others_run_on() {
    let thrice = rule("thrice", "SELECT count(*) AS c FROM s GROUP BY COUNTWINDOW(3)");
    let first = rules(&[rule("a", "SELECT n FROM s"), thrice.clone()]);
    let mut plutino = Plutino::run("watch", &first, &["--watch"]).await;
    let (mut a, mut three) = (plutino.connect("/a").await, plutino.connect("/thrice").await);
    let mut s = plutino.connect("/s").await;
    send(&mut s, r#"{"n":1}"#).await;
    send(&mut s, r#"{"n":2}"#).await;
    assert_eq!([next(&mut a).await, next(&mut a).await], [Some(json!({"n": 1})), Some(json!({"n": 2}))]);

    plutino.rewrite(&rules(&[rule("a", "SELECT n * 10 AS n FROM s"), thrice.clone(), rule("b", "SELECT n FROM s")]));
    plutino.says("the rule files have changed: started b; replaced a").await;
    // The clients are still connected, and so is the window of the unchanged rule.
    let mut b = plutino.connect("/b").await;
    send(&mut s, r#"{"n":3}"#).await;
    assert_eq!(next(&mut a).await, Some(json!({"n": 30})));
    assert_eq!(next(&mut b).await, Some(json!({"n": 3})));
    assert_eq!(next(&mut three).await, Some(json!({"c": 3})));

    plutino.rewrite(&rules(&[rule("a", "SELECT nosuch(n) FROM s")]));
    plutino.says("function nosuch not found").await;
    plutino.says("the rules continue unchanged").await;
    send(&mut s, r#"{"n":4}"#).await;
    assert_eq!(next(&mut a).await, Some(json!({"n": 40})));
    assert_eq!(next(&mut b).await, Some(json!({"n": 4})));

    plutino.rewrite(&rules(&[rule("a", "SELECT n * 10 AS n FROM s"), thrice.clone()]));
    plutino.says("the rule files have changed: stopped b").await;
    assert_eq!(next(&mut b).await, None);

    // A changed declaration of a stream affects all rules that read it.
    let mut typed = rules(&[rule("a", "SELECT n * 10 AS n FROM s"), thrice]);
    typed["streams"] = json!([stream("s", "n BIGINT", "")]);
    plutino.rewrite(&typed);
    plutino.says("the rule files have changed: replaced a, thrice").await;
    send(&mut s, r#"{"n":5}"#).await;
    assert_eq!(next(&mut a).await, Some(json!({"n": 50})));
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_view_that_changes_is_replaced_with_what_reads_it() {
    let with = |fleet: &str, other: &str| {
        json!({
            "streams": [stream("s", "", "")],
            "views": [
                format!("CREATE VIEW fleet WITH (KEY=\"id\") AS SELECT id, {fleet} FROM s"),
                format!("CREATE VIEW hot WITH (KEY=\"id\") AS SELECT id, t FROM fleet WHERE t > 5"),
                format!("CREATE VIEW {other} WITH (KEY=\"id\") AS SELECT id FROM s"),
            ],
            "rules": [
                rule("thrice", "SELECT count(*) AS c FROM s GROUP BY COUNTWINDOW(3)"),
                rule("changes", "SELECT id, t FROM hot"),
            ],
        })
    };
    let mut plutino = Plutino::run("watch-view", &with("t", "other"), &["--watch"]).await;
    let (mut thrice, mut changes) = (plutino.connect("/thrice").await, plutino.connect("/changes").await);
    let mut s = plutino.connect("/s").await;
    send(&mut s, r#"{"id":1,"t":9}"#).await;
    send(&mut s, r#"{"id":2,"t":3}"#).await;
    assert_eq!(next(&mut changes).await, Some(json!({"id": 1, "t": 9})));

    plutino.rewrite(&with("t * 2 AS t", "another"));
    plutino.says("started view another; replaced view fleet, view hot, changes; stopped view other").await;
    // The clients are still connected, and so is the window of the unchanged rule.
    send(&mut s, r#"{"id":3,"t":4}"#).await;
    assert_eq!(next(&mut thrice).await, Some(json!({"c": 3})));
    loop {
        let change = next(&mut changes).await.expect("the socket is open");
        // The rows of the old view are removed first.
        if change["id"] == 3 {
            assert_eq!(change, json!({"id": 3, "t": 8}));
            break;
        }
    }
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_view_keeps_its_rows_when_its_options_change() {
    let with = |options: &str, column: &str| {
        let fleet = format!("CREATE VIEW fleet WITH (KEY=\"id\"{options}) AS SELECT id, {column} FROM s");
        let count =
            format!("CREATE VIEW count WITH (PARAMS=\"id\"{options}) AS SELECT id, count(*) AS n FROM s GROUP BY id");
        json!({"streams": [stream("s", "", "")], "views": [fleet, count], "rules": []})
    };
    let mut plutino = Plutino::run("watch-options", &with("", "t"), &["--watch"]).await;
    let mut s = plutino.connect("/s").await;
    let mut fleet = Live::open(plutino.port, "/live/fleet").await;
    let mut count = Live::open(plutino.port, "/live/count").await;
    send(&mut s, r#"{"id":1,"t":9}"#).await;
    fleet.until(|rows| rows.len() == 1).await;
    count.until(|rows| rows.len() == 1).await;
    plutino.rewrite(&with(", RETAIN=\"5m\"", "t"));
    plutino.says_all(&["replaced", "view count", "view fleet"]).await;
    send(&mut s, r#"{"id":2,"t":9}"#).await;
    send(&mut s, r#"{"id":1,"t":9}"#).await;
    fleet.until(|rows| rows.len() == 2).await;
    count.until(|rows| rows.get("[1]").is_some_and(|row| row["n"] == 2)).await;
    assert_eq!(Live::open(plutino.port, "/live/fleet").await.subscribed["retain"], 300_000);
    // Another query begins without rows.
    plutino.rewrite(&with(", RETAIN=\"5m\"", "t * 2 AS t"));
    plutino.says("replaced view fleet").await;
    assert!(Live::open(plutino.port, "/live/fleet").await.rows.is_empty());
    assert_eq!(Live::open(plutino.port, "/live/count").await.rows.len(), 2);
}

#[tokio::test]
async fn a_lookup_table_that_changes_lets_everything_start_anew() {
    let with = |key: &str| {
        let table =
            format!("CREATE TABLE t () WITH (TYPE=\"memory\", KIND=\"lookup\", DATASOURCE=\"t\", KEY=\"{key}\")");
        json!({"streams": [stream("s", "", "")], "tables": [table], "rules": [rule("a", "SELECT id FROM s")]})
    };
    let mut plutino = Plutino::run("watch-table", &with("id"), &["--watch"]).await;
    plutino.rewrite(&with("name"));
    plutino.says_all(&["everything starts again", "started a"]).await;
    // The data server had nothing to serve in between, and now listens on another free port.
    plutino.listens().await;
    let (mut s, mut a) = (plutino.connect("/s").await, plutino.connect("/a").await);
    send(&mut s, r#"{"id":1,"t":2}"#).await;
    assert_eq!(next(&mut a).await, Some(json!({"id": 1})));
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn the_console_of_a_run_shows_it_and_changes_nothing() {
    let port = free_port();
    let content = rules(&[rule("a", "SELECT n FROM s WHERE m > 1")]);
    let console = format!("--console={port}");
    let mut plutino = Plutino::run("console", &content, &["--watch", &console]).await;
    let at = format!("127.0.0.1:{port}");
    let request = async |method: &str, path: &str, body: &str| {
        let (at, method, path, body) = (at.clone(), method.to_owned(), path.to_owned(), body.to_owned());
        let asked = tokio::task::spawn_blocking(move || ask(&at, &method, &path, "", &body));
        let answer = asked.await.expect("a request ends").expect("it is answered");
        (answer.status, answer.body)
    };
    let get = async |path: &str| -> Value {
        let (status, body) = request("GET", path, "").await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    };
    assert_eq!(request("GET", "/console/", "").await.0, 200);
    assert_eq!(get("/streams").await, json!(["s"]));
    let mut s = plutino.connect("/s").await;
    send(&mut s, r#"{"n":1}"#).await;
    let status = loop {
        let status = get("/rules/a/status?details").await;
        if status["diagnosis"][0]["cause"] == "absentField" {
            break status;
        }
    };
    assert_eq!(status["status"], "running");
    let overview = get("/overview").await;
    assert_eq!((&overview["rules"][0]["in"], &overview["readOnly"]), (&json!(1), &json!(true)));
    assert_eq!(get("/rules/a").await["sql"], "SELECT n FROM s WHERE m > 1");
    let statement = json!({"sql": "SELECT nosuch(n) FROM s"}).to_string();
    assert!(request("POST", "/validate", &statement).await.1.contains("nosuch"));
    let other = rule("b", "SELECT n FROM s").to_string();
    for (method, path, body) in [
        ("POST", "/rules", &*other),
        ("PUT", "/rules/a", &other),
        ("DELETE", "/rules/a", ""),
        ("POST", "/rules/a/stop", ""),
        ("DELETE", "/streams/s", ""),
        ("POST", "/ruletest", &other),
        ("PATCH", "/configs", "{}"),
        ("GET", "/stop", ""),
        ("POST", "/stop", ""),
        ("GET", "/store/backup", ""),
    ] {
        let (status, said) = request(method, path, body).await;
        assert_eq!(status, 403, "{method} {path}: {said}");
        assert!(said.contains("change the rule file"), "{said}");
    }
    let batch = json!([{"method": "DELETE", "path": "/rules/a"}]).to_string();
    assert!(request("POST", "/batch/req", &batch).await.1.contains("403"));
    // Changes of the file are shown.
    plutino.rewrite(&rules(&[rule("b", "SELECT n FROM s")]));
    plutino.says("started b; stopped a").await;
    while get("/rules").await[0]["id"] != "b" {}
    assert_eq!(get("/rules/b/status").await["status"], "running");
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}
