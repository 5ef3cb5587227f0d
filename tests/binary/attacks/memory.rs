//! Clients that try to make the service use more memory than allowed.
#![cfg(target_os = "linux")]

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::durability::resident;
use crate::losses::{client, lost, until};
use crate::process::serve::{Folder, LIMIT};

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
    until("something gave way", async || {
        let page = served.asks("GET", "/metrics", &Value::Null).await.body;
        page.lines().any(|line| {
            let count = line.strip_prefix("plutino_memory_acts_total{step=\"queues\"} ");
            count.is_some_and(|count| count.parse::<u64>().is_ok_and(|count| count > 0))
        })
    })
    .await;
    until("it is counted", async || lost(&served).await.iter().any(|(cause, _)| cause == "memory is short")).await;
    // The rule continues: it has no state.
    assert_eq!(served.asks("GET", "/rules/r/status", &Value::Null).await.json()["status"], "running");
    let ended = async { while lazy.next().await.is_some_and(|next| next.is_ok()) {} };
    let _ = timeout(LIMIT.min(Duration::from_secs(5)), ended).await;
}
