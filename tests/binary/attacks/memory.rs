//! Clients that try to make the service use more memory than allowed.
#![cfg(target_os = "linux")]

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::durability::resident;
use crate::losses::{client, lost, until};
use crate::process::pair::Pair;
use crate::process::serve::{Folder, LIMIT, Served};

/// A number of the metrics; 0 if the series does not exist.
async fn metric(served: &Served, series: &str) -> u64 {
    let page = served.asks("GET", "/metrics", &Value::Null).await.body;
    page.lines().find_map(|line| line.strip_prefix(series)?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn slow_readers_give_way_before_the_budget_is_used_up() {
    const BUDGET: u64 = 200 << 20;
    let folder = Folder::new("budget");
    folder.write("etc/plutino.yaml", &format!("basic: {{maxMemory: {BUDGET}}}\n"));
    let served = folder.serve();
    let stream = json!({"sql": "CREATE STREAM s () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")"});
    served.asks("POST", "/streams", &stream).await.done();
    let queue = json!({"messages": 1_000_000, "bytes": 1 << 30});
    let sink = json!({"path": "/out", "sendSingle": true, "clientQueue": queue, "writeTimeout": "1h"});
    let rule = json!({"id": "r", "sql": "SELECT * FROM s", "actions": [{"websocket": sink}]});
    served.asks("POST", "/rules", &rule).await.done();
    let mut sender = client(&served, "/in").await;
    let mut lazy = client(&served, "/out").await;
    let text = json!({"x": "x".repeat(64 << 10)}).to_string();
    let mut most = 0;
    for _ in 0..400 {
        for _ in 0..16 {
            sender.send(Message::text(text.clone())).await.expect("the source is there");
        }
        most = most.max(resident(served.child.id()) << 10);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(most < BUDGET / 10 * 13, "{most} bytes");
    until("something gave way", async || metric(&served, "plutino_memory_acts_total{step=\"queues\"} ").await > 0)
        .await;
    until("it is counted", async || lost(&served).await.iter().any(|(cause, _)| cause == "memory is short")).await;
    // The rule continues: it has no state.
    assert_eq!(served.asks("GET", "/rules/r/status", &Value::Null).await.json()["status"], "running");
    let ended = async { while lazy.next().await.is_some_and(|next| next.is_ok()) {} };
    let _ = timeout(LIMIT.min(Duration::from_secs(5)), ended).await;
}

/// Sends rows with new keys until a rule, view or table is ended.
async fn fill(served: &Served) {
    const BUDGET: u64 = 200 << 20;
    let mut sender = client(served, "/in").await;
    let text = "x".repeat(100 << 10);
    let began = Instant::now();
    for n in 0.. {
        let row = json!({"k": format!("k{n}"), "x": text}).to_string();
        sender.send(Message::text(row)).await.expect("the source is there");
        if n % 20 == 0 && metric(served, "plutino_memory_acts_total{step=\"rules\"} ").await > 0 {
            return;
        }
        assert!(began.elapsed() < LIMIT, "nothing gives way");
        assert!(resident(served.child.id()) << 10 < BUDGET / 10 * 15, "memory grows beyond the budget");
    }
}

async fn serve_with_budget(folder: &Folder) -> Served {
    folder.write("etc/plutino.yaml", "basic: {maxMemory: 200MiB}\n");
    let served = folder.serve();
    let stream = json!({"sql": "CREATE STREAM s () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")"});
    served.asks("POST", "/streams", &stream).await.done();
    // A rule with next to no state.
    let rule = json!({"id": "small", "sql": "SELECT lag(k) AS l FROM s", "actions": [{"nop": {}}]});
    served.asks("POST", "/rules", &rule).await.done();
    served
}

async fn runs(served: &Served, rule: &str) -> bool {
    served.asks("GET", &format!("/rules/{rule}/status"), &Value::Null).await.json()["status"] == "running"
}

#[tokio::test]
async fn a_table_that_grows_gives_way_and_not_the_rules_beside_it() {
    let folder = Folder::new("budget-table");
    let served = serve_with_budget(&folder).await;
    let table = "CREATE TABLE t () WITH (DATASOURCE=\"rows\", TYPE=\"memory\", KIND=\"lookup\", KEY=\"k\")";
    served.asks("POST", "/tables", &json!({ "sql": table })).await.done();
    for (id, sql, sink) in [
        ("feeds", "SELECT k, x FROM s", json!({"memory": {"topic": "rows", "keyField": "k"}})),
        ("joins", "SELECT s.k FROM s INNER JOIN t ON s.k = t.k", json!({"nop": {}})),
    ] {
        let rule = json!({"id": id, "sql": sql, "actions": [sink]});
        served.asks("POST", "/rules", &rule).await.done();
    }
    fill(&served).await;
    until("the table is empty", async || metric(&served, "plutino_table_rows{table=\"t\"} ").await == 0).await;
    for rule in ["small", "feeds", "joins"] {
        assert!(runs(&served, rule).await, "{rule}");
    }
    assert_eq!(metric(&served, "plutino_memory_acts_total{step=\"rules\"} ").await, 1);
}

#[tokio::test]
async fn a_view_that_grows_gives_way_with_its_rows() {
    let folder = Folder::new("budget-view");
    let served = serve_with_budget(&folder).await;
    let view = "CREATE VIEW v WITH (KEY=\"k\") AS SELECT k, x FROM s";
    served.asks("POST", "/views", &json!({ "sql": view })).await.done();
    fill(&served).await;
    until("it says why", async || {
        served.asks("GET", "/views/v/status", &Value::Null).await.body.contains("memory was short")
    })
    .await;
    assert!(runs(&served, "small").await);
    // It can be created again.
    served.asks("PUT", "/views/v", &json!({ "sql": view })).await.done();
    assert!(!served.asks("GET", "/views/v/status", &Value::Null).await.body.contains("memory was short"));
}

#[tokio::test]
async fn a_view_gives_way_in_all_processes() {
    let pair = Pair::new("budget-processes");
    pair.folders[0].write("etc/plutino.yaml", "basic: {maxMemory: 200MiB}\n");
    let processes = pair.start().await;
    let stream = json!({"sql": "CREATE STREAM s () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")"});
    processes[0].asks("POST", "/streams", &stream).await.done();
    let view = "CREATE VIEW v WITH (KEY=\"k\") AS SELECT k, x FROM s";
    processes[0].asks("POST", "/views", &json!({ "sql": view })).await.done();
    let path = |process: usize| processes[process].data_url("/live/v");
    let watching = tokio_tungstenite::connect_async(path(1)).await;
    assert!(watching.is_ok());
    fill(&processes[0]).await;
    for process in [0, 1] {
        until("the view is gone", async || tokio_tungstenite::connect_async(path(process)).await.is_err()).await;
    }
    processes[0].asks("PUT", "/views/v", &json!({ "sql": view })).await.done();
    // Clients are refused until the system has the memory back.
    for process in [0, 1] {
        until("clients are let in", async || tokio_tungstenite::connect_async(path(process)).await.is_ok()).await;
    }
}
