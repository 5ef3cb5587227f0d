//! A client that chooses the times of its rows.

use std::time::{Duration, SystemTime};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::losses::{client, until};
use crate::process::Client;
use crate::process::serve::Folder;

const DAY: i64 = 86_400_000;

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later");
    i64::try_from(since.as_millis()).expect("it fits")
}

async fn send(client: &mut Client, time: i64) {
    client.send(Message::text(json!({"ts": time}).to_string())).await.expect("the source is there");
}

#[tokio::test]
async fn rows_of_others_are_not_late_for_long_because_of_whoever_was_first() {
    let folder = Folder::new("first");
    let served = folder.serve();
    let sql = "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\", TIMESTAMP=\"ts\")";
    served.asks("POST", "/streams", &json!({ "sql": sql })).await.done();
    let sql = "SELECT window_start() AS begins FROM demo GROUP BY TUMBLINGWINDOW(ms, 10)";
    let options = json!({"isEventTime": true, "lateTolerance": 0, "qos": 1});
    let rule = json!({"id": "r", "sql": sql, "actions": [{"websocket": {"path": "/out"}}], "options": options});
    served.asks("POST", "/rules", &rule).await.done();
    let (mut first, mut viewer) = (client(&served, "/in").await, client(&served, "/out").await);
    until("the stream is taken for simulated", async || {
        send(&mut first, now() + DAY).await;
        served.has_said().contains("it is taken for simulated data")
    })
    .await;
    let mut honest = client(&served, "/in").await;
    until("a window of honest rows is sent", async || {
        send(&mut honest, now()).await;
        while let Ok(Some(Ok(message))) = timeout(Duration::from_millis(10), viewer.next()).await {
            let Ok(rows) = serde_json::from_slice::<Value>(&message.into_data()) else { continue };
            if rows[0]["begins"].as_i64().is_some_and(|begins| begins < now() + DAY / 2) {
                return true;
            }
        }
        false
    })
    .await;
    assert!(served.has_said().contains("it is restarted with empty state"), "{}", served.has_said());
    let status = served.asks("GET", "/rules/r/status", &Value::Null).await.json();
    assert_eq!(status["status"], "running", "{status:#}");
}
