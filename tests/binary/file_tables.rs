//! Tables that are files: their FORMAT, missing files, and a query of their rows.

use serde_json::{Value, json};
use tokio::time::timeout;

use futures_util::SinkExt;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::process::arrival;
use crate::process::serve::{Folder, LIMIT, Served};

async fn made(served: &Served, path: &str, sql: &str) {
    served.asks("POST", path, &json!({"sql": sql})).await.done();
}

async fn demo(served: &Served) {
    made(served, "/streams", "CREATE STREAM demo (id BIGINT) WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")").await;
}

#[tokio::test]
async fn a_lookup_table_reads_its_file_by_its_format() {
    let folder = Folder::new("formats");
    folder.write("data/parts.csv", "id,title\n1,cup\n2,pot\n");
    folder.write("data/parts.lines", "3;pan\n4;lid\n");
    let served = folder.serve();
    demo(&served).await;
    for (name, options) in [
        ("csv", "DATASOURCE=\"parts.csv\", FORMAT=\"delimited\", DELIMITER=\",\", EXTRA=\"{\\\"hasHeader\\\":true}\""),
        (
            "lines",
            "DATASOURCE=\"parts.lines\", FORMAT=\"delimited\", DELIMITER=\";\", EXTRA=\"{\\\"fileType\\\":\\\"lines\\\"}\"",
        ),
        ("plain", "DATASOURCE=\"parts.lines\", FORMAT=\"delimited\", DELIMITER=\";\""),
    ] {
        let sql = format!(
            "CREATE TABLE {name} (id BIGINT, title STRING) WITH (TYPE=\"file\", KIND=\"lookup\", KEY=\"id\", {options})"
        );
        made(&served, "/tables", &sql).await;
        let select = format!("SELECT demo.id, {name}.title FROM demo INNER JOIN {name} ON demo.id = {name}.id");
        let sink = json!({"websocket": {"path": format!("/{name}"), "sendSingle": true}});
        served.asks("POST", "/rules", &json!({"id": name, "sql": select, "actions": [sink]})).await.done();
    }
    let mut csv = connect_async(served.data_url("/csv")).await.expect("the sink is there").0;
    let mut lines = connect_async(served.data_url("/lines")).await.expect("the sink is there").0;
    let mut plain = connect_async(served.data_url("/plain")).await.expect("the sink is there").0;
    let mut sender = connect_async(served.data_url("/in")).await.expect("the source is there").0;
    for id in [2, 3] {
        sender.send(Message::text(json!({"id": id}).to_string())).await.expect("the source is there");
    }
    let pan = json!({"id": 3, "title": "pan"});
    for (viewer, row) in
        [(&mut csv, json!({"id": 2, "title": "pot"})), (&mut lines, pan.clone()), (&mut plain, pan.clone())]
    {
        let next = arrival(viewer).await.expect("it goes on").expect("it is whole");
        assert_eq!(serde_json::from_str::<Value>(next.to_text().expect("text")).expect("JSON"), row);
    }
}

#[tokio::test]
async fn a_lookup_table_says_what_it_cannot_read() {
    let folder = Folder::new("unreadable");
    folder.write("data/parts.json", "{\"id\": 1}\n{\"id\": 2}");
    folder.write("data/some.json", "[{\"id\": 1}, {\"id\": \"x\"}]");
    let served = folder.serve();
    demo(&served).await;
    for (table, file, said) in [
        ("parts", "parts.json", "unexpected text after the value"),
        ("some", "some.json", "id has wrong type:string, expect:bigint"),
    ] {
        let options = format!("TYPE=\"file\", KIND=\"lookup\", KEY=\"id\", DATASOURCE=\"{file}\"");
        made(&served, "/tables", &format!("CREATE TABLE {table} (id BIGINT) WITH ({options})")).await;
        let select = format!("SELECT demo.id FROM demo INNER JOIN {table} ON demo.id = {table}.id");
        served.asks("POST", "/rules", &json!({"id": table, "sql": select, "actions": [{"nop": {}}]})).await.done();
        let found = async {
            loop {
                let status = served.asks("GET", &format!("/rules/{table}/status"), &Value::Null).await.json();
                let last = status["diagnosis"].as_array().and_then(|found| found.last());
                // What keeps all rows away comes first.
                let is_later = status["diagnosis"][0]["cause"] == "noClient";
                if let Some(last) = last.filter(|last| is_later && last["cause"] == "unreadable") {
                    return last["message"].to_string();
                }
                tokio::task::yield_now().await;
            }
        };
        let message = timeout(LIMIT, found).await.expect("the status names the table");
        assert!(
            message.contains(&format!("{table}, which is joined, had 1 error")) && message.contains(said),
            "{message}"
        );
    }
    // One bad row is no reason once the others give results.
    let mut sender = connect_async(served.data_url("/in")).await.expect("the source is there").0;
    sender.send(Message::text(json!({"id": 1}).to_string())).await.expect("the source is there");
    let silent = async {
        loop {
            let status = served.asks("GET", "/rules/some/status", &Value::Null).await.json();
            if status["diagnosis"] == json!([]) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, silent).await.expect("nothing is found any more");
}

#[tokio::test]
async fn a_missing_file_refuses_the_rule() {
    let folder = Folder::new("missing-file");
    let served = folder.serve();
    demo(&served).await;
    let table = "CREATE TABLE parts (id BIGINT, title STRING) WITH (TYPE=\"file\", DATASOURCE=\"none.json\")";
    made(&served, "/tables", table).await;
    let rule = json!({"id": "r", "sql": "SELECT demo.id, title FROM demo INNER JOIN parts ON demo.id = parts.id", "actions": [{"nop": {}}]});
    let refused = served.asks("POST", "/rules", &rule).await;
    assert_eq!(refused.status, 400, "{}", refused.body);
    let body: Value = serde_json::from_str(&refused.body).expect("JSON");
    assert_eq!(body["error"], 2201, "{body}");
    assert!(body["message"].as_str().is_some_and(|text| text.contains("file none.json not exist")), "{body}");
    assert_eq!(served.asks("GET", "/rules", &Value::Null).await.json(), json!([]));
    // It is accepted once the file is there, and comes back after a restart, with or without it.
    folder.write("data/none.json", "[{\"id\": 1, \"title\": \"cup\"}]");
    served.asks("POST", "/rules", &rule).await.done();
    let mut served = served;
    served.kill();
    std::fs::remove_file(folder.path("data/none.json")).expect("it is there");
    let served = folder.serve();
    let states = tokio::task::spawn_blocking(move || served.states()).await.expect("it answers");
    assert!(states["r"].contains("stopped"), "{states:?}");
}

#[tokio::test]
async fn the_rows_of_scan_tables_are_shown() {
    let folder = Folder::new("scanned");
    folder.write("data/parts.json", "[{\"id\": 1, \"title\": \"cup\", \"more\": 5}, {\"id\": 2, \"title\": \"pot\"}]");
    let served = folder.serve();
    demo(&served).await;
    made(
        &served,
        "/tables",
        "CREATE TABLE parts (id BIGINT, title STRING) WITH (TYPE=\"file\", DATASOURCE=\"parts.json\")",
    )
    .await;
    let rule = |id: &str, sql: &str| json!({"id": id, "sql": sql, "actions": [{"nop": {}}]});
    let joined = "SELECT demo.id, title FROM demo INNER JOIN parts ON demo.id = parts.id";
    served.asks("POST", "/rules", &rule("a", joined)).await.done();
    served.asks("POST", "/rules", &rule("b", "SELECT id FROM demo")).await.done();
    let rows = served.asks("GET", "/rules/a/scantables", &Value::Null).await.json();
    let row = |id: i64, title: &str| json!({"emitter": "parts", "content": {"id": id, "title": title}});
    assert_eq!(rows, json!([row(1, "cup"), row(2, "pot")]));
    let none = served.asks("GET", "/rules/b/scantables", &Value::Null).await;
    assert_eq!(none.status, 400);
    assert!(none.body.contains("scan table error: join node is not found for b"), "{}", none.body);
}
