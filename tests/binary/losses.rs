//! Messages are delivered or counted by cause: with clients that read nothing, disconnected peers, rules that stop and
//! start, and at the end of the service.
#![cfg(unix)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::process::arrival;
use crate::process::serve::{Folder, LIMIT, Served};

pub type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub async fn serve(folder: &Folder, arguments: &[&str], sink: Value) -> Served {
    // Paths stay open, however slow the machine is.
    folder.write("etc/plutino.yaml", "source: {endpointLinger: 120s}\n");
    let mut command = folder.command();
    command.args(arguments);
    let served = Served::start(command);
    let stream = json!({"sql": "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")"});
    served.asks("POST", "/streams", &stream).await.done();
    let rule = json!({"id": "r", "sql": "SELECT * FROM demo", "actions": [{"websocket": sink}]});
    served.asks("POST", "/rules", &rule).await.done();
    served
}

pub async fn client(served: &Served, path: &str) -> Client {
    connect_async(served.data_url(path)).await.expect("the path is there").0
}

/// Sends messages of this many bytes.
pub async fn send(client: &mut Client, count: u64, bytes: usize) {
    for n in 0..count {
        let text = json!({"n": n, "x": "x".repeat(bytes)}).to_string();
        client.send(Message::text(text)).await.expect("the source is there");
    }
}

/// Reads to the end; returns how many messages arrived.
async fn read_all(mut client: Client) -> u64 {
    let mut count = 0;
    while let Some(Ok(message)) = timeout(LIMIT, client.next()).await.expect("it ends") {
        count += u64::from(matches!(message, Message::Text(_)));
    }
    count
}

/// Lost messages by cause, of all rules and endpoints.
pub async fn lost(served: &Served) -> Vec<(String, u64)> {
    let page = served.asks("GET", "/metrics", &Value::Null).await.body;
    let series = page.lines().filter(|line| line.starts_with("plutino_dropped_messages_total{"));
    let count = |line: &str| {
        let cause = line.split("cause=\"").nth(1)?.split('"').next()?;
        Some((cause.to_owned(), line.rsplit(' ').next()?.parse().ok()?))
    };
    series.map(|line| count(line).expect("a count with its cause")).collect()
}

pub async fn sum_of_lost(served: &Served) -> u64 {
    lost(served).await.iter().map(|(_, count)| count).sum()
}

/// Waits until a condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < LIMIT, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The numbers after `delivered` and `lost` in the last line.
fn summary(served: &Served) -> (u64, u64, String) {
    let line = served.says(&["stopped ", "delivered "]);
    let number = |word: &str| {
        let rest = line.split(word).nth(1).expect("the word is there");
        rest.split([' ', '(', ')']).find_map(|part| part.parse().ok()).expect("a number")
    };
    (number("delivered "), number("lost "), line.clone())
}

#[tokio::test]
async fn what_no_rule_reads_is_counted_at_its_endpoint() {
    let folder = Folder::new("unread");
    let served = serve(&folder, &[], json!({"path": "/out", "sendSingle": true})).await;
    let (mut sender, mut viewer) = (client(&served, "/in").await, client(&served, "/out").await);
    send(&mut sender, 10, 1).await;
    for _ in 0..10 {
        arrival(&mut viewer).await.expect("it goes on").expect("the socket is whole");
    }
    served.asks("POST", "/rules/r/stop", &Value::Null).await.done();
    send(&mut sender, 25, 1).await;
    until("what nobody reads is counted", async || lost(&served).await == [("no reader".to_owned(), 25)]).await;
    let status = served.asks("GET", "/rules/r/status", &Value::Null).await.json();
    assert_eq!(status["source_demo_0_dropped"], json!({"no reader": 25}), "{status}");
    served.asks("POST", "/rules/r/start", &Value::Null).await.done();
    // Both clients are still connected.
    send(&mut sender, 1, 1).await;
    arrival(&mut viewer).await.expect("it goes on").expect("the socket is whole");
    let mut served = served;
    let ended = tokio::task::spawn_blocking(move || {
        assert!(served.terminate().success());
        summary(&served)
    });
    let (delivered, lost, line) = ended.await.expect("it ends");
    assert_eq!((delivered, lost), (11, 25), "{line}");
}

#[tokio::test]
async fn a_stop_waits_for_no_client_and_counts_what_it_did_not_take() {
    const SENT: u64 = 1000;
    let folder = Folder::new("stopped");
    let served = serve(&folder, &[], json!({"path": "/out", "sendSingle": true, "writeTimeout": "1h"})).await;
    let (mut sender, viewer) = (client(&served, "/in").await, client(&served, "/out").await);
    send(&mut sender, SENT, 16 * 1024).await;
    until("all is processed", async || {
        let status = served.asks("GET", "/rules/r/status", &Value::Null).await.json();
        status["op_2_project_0_records_out_total"] == SENT || status["sink_websocket_0_0_records_in_total"] == SENT
    })
    .await;
    served.asks("POST", "/rules/r/stop", &Value::Null).await.done();
    until("the client has not taken all", async || {
        lost(&served).await.iter().any(|(cause, _)| cause == "not taken before the end")
    })
    .await;
    until("the status shows all that is counted", async || {
        let status = served.asks("GET", "/rules/r/status", &Value::Null).await.json();
        let shown: u64 = status["lost"].as_object().expect("an object").values().filter_map(Value::as_u64).sum();
        shown == sum_of_lost(&served).await
    })
    .await;
    served.will_say(&["WARN", "not taken before the end", "rule=\"r\""]).await;
    served.asks("DELETE", "/rules/r", &Value::Null).await.done();
    let mut served = served;
    let reading = tokio::spawn(read_all(viewer));
    let ended = tokio::task::spawn_blocking(move || {
        assert!(served.terminate().success());
        summary(&served)
    });
    let (delivered, lost, line) = ended.await.expect("it ends");
    assert_eq!(delivered + lost, SENT, "{line}");
    // Messages in the kernel's buffers arrive; those in flight when the time was over may have arrived, too.
    assert!(reading.await.expect("it is read") >= delivered);
}

#[tokio::test]
async fn sigterm_counts_what_a_client_that_reads_nothing_leaves_behind() {
    const SENT: u64 = 2000;
    let folder = Folder::new("sigterm");
    let served = serve(&folder, &[], json!({"path": "/out", "sendSingle": true})).await;
    let (mut sender, viewer) = (client(&served, "/in").await, client(&served, "/out").await);
    send(&mut sender, SENT, 16 * 1024).await;
    let mut served = served;
    let ended = tokio::task::spawn_blocking(move || {
        assert!(served.terminate().success());
        summary(&served)
    });
    let (delivered, lost, line) = ended.await.expect("it ends");
    let received = read_all(viewer).await;
    assert!(lost > 0 && received >= delivered, "{received} of: {line}");
    assert!(delivered + lost <= SENT, "{line}");
}

#[tokio::test]
async fn sigterm_loses_nothing_that_a_pausing_rule_has_read() {
    const SENT: u64 = 50;
    let folder = Folder::new("pausing");
    let served = serve(&folder, &[], json!({"path": "/out", "sendSingle": true})).await;
    let rule = json!({
        "id": "r", "sql": "SELECT delay(10000, n) AS n FROM demo",
        "actions": [{"websocket": {"path": "/out", "sendSingle": true}}],
    });
    served.asks("PUT", "/rules/r", &rule).await.done();
    let (mut sender, viewer) = (client(&served, "/in").await, client(&served, "/out").await);
    send(&mut sender, SENT, 1).await;
    until("all is read", async || {
        let status = served.asks("GET", "/rules/r/status", &Value::Null).await.json();
        status["source_demo_0_records_in_total"] == SENT
    })
    .await;
    let reading = tokio::spawn(read_all(viewer));
    let mut served = served;
    let ended = tokio::task::spawn_blocking(move || {
        assert!(served.terminate().success());
        summary(&served)
    });
    let (delivered, lost, line) = ended.await.expect("it ends");
    assert_eq!((delivered, lost), (SENT, 0), "{line}");
    assert_eq!(reading.await.expect("it is read"), SENT);
}

#[tokio::test]
async fn sigterm_with_an_absent_peer_that_blocks_the_rule_ends_and_counts() {
    const SENT: u64 = 1000;
    let folder = Folder::new("absent");
    let sink = json!({
        "addr": "127.0.0.1:1", "path": "/away", "sendSingle": true, "slowClient": "block",
        "clientQueue": {"messages": 10},
    });
    let served = serve(&folder, &[], sink).await;
    let mut sender = client(&served, "/in").await;
    send(&mut sender, SENT, 1).await;
    let reading = tokio::spawn(read_all(sender));
    let mut served = served;
    let ended = tokio::task::spawn_blocking(move || {
        assert!(served.terminate().success());
        summary(&served)
    });
    let (delivered, lost, line) = ended.await.expect("it ends");
    assert_eq!((delivered, lost), (0, SENT), "{line}");
    reading.await.expect("the producer is let go");
}

#[tokio::test]
async fn the_status_of_a_source_tells_what_became_of_its_connections() {
    let folder = Folder::new("links");
    let served = folder.serve();
    let key = json!({"maxMessageSize": 64});
    served.asks("PUT", "/metadata/sources/websocket/confKeys/small", &key).await.done();
    let stream = "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\", CONF_KEY=\"small\")";
    served.asks("POST", "/streams", &json!({ "sql": stream })).await.done();
    let rule = json!({"id": "r", "sql": "SELECT * FROM demo", "actions": [{"nop": {}}]});
    served.asks("POST", "/rules", &rule).await.done();
    let status = async || served.asks("GET", "/rules/r/status", &Value::Null).await.json();
    let before = status().await;
    assert_eq!(before["source_demo_0_connection_status"], 0, "nobody has come: {before}");
    assert_eq!(before["source_demo_0_connection_last_connected_time"], 0, "{before}");
    for round in 1..=2 {
        let mut sender = client(&served, "/in").await;
        sender.send(Message::text("x".repeat(65))).await.expect("the source is there");
        read_all(sender).await;
        until("the error is counted", async || status().await["source_demo_0_exceptions_total"] == round).await;
        served.will_say(&["WARN", "maxMessageSize (64)"]).await;
    }
    let after = status().await;
    let number = |name: &str| after[format!("source_demo_0_{name}")].as_i64().expect("a number");
    assert_eq!(number("connection_status"), 0, "{after}");
    assert!(number("connection_last_connected_time") > 0, "{after}");
    assert!(number("connection_last_disconnected_time") >= number("connection_last_connected_time"), "{after}");
    served.asks("POST", "/rules/r/stop", &Value::Null).await.done();
    let stopped = status().await;
    for name in ["connection_last_connected_time", "connection_last_disconnected_time", "exceptions_total"] {
        let name = format!("source_demo_0_{name}");
        assert_eq!(stopped[&name], after[&name], "{name}");
    }
}

async fn churn(workers: &str) {
    let folder = Folder::new("churn");
    let sink = json!({"path": "/out", "sendSingle": true});
    let served = serve(&folder, &["--workers", workers], sink.clone()).await;
    let (mut sender, mut viewer) = (client(&served, "/in").await, client(&served, "/out").await);
    let (seen, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let producer = tokio::spawn(async move {
        let mut sent = 0;
        while !stopped.load(Ordering::Acquire) {
            for _ in 0..100 {
                sender.feed(Message::text(format!("{{\"n\": {sent}}}"))).await.expect("the source stays");
                sent += 1;
            }
            sender.flush().await.expect("the source stays");
            sleep(Duration::from_millis(5)).await;
        }
        (sent, sender)
    });
    let seen_by_viewer = seen.clone();
    let reader = tokio::spawn(async move {
        let mut last = None;
        while let Some(message) = viewer.next().await {
            let Message::Text(text) = message.expect("the sink stays") else { continue };
            let row: Value = serde_json::from_str(&text).expect("results are JSON");
            let n = row["n"].as_u64();
            assert!(n > last, "{n:?} after {last:?}");
            last = n;
            seen_by_viewer.fetch_add(1, Ordering::AcqRel);
        }
    });
    for round in 0..24 {
        let ask = async |method: &str, path: &str, body: Value| served.asks(method, path, &body).await.done();
        match round % 4 {
            0 => ask("POST", "/rules/r/restart", Value::Null).await,
            1 => ask("POST", "/rules/r/stop", Value::Null).await,
            2 => ask("POST", "/rules/r/start", Value::Null).await,
            _ => {
                let rule = json!({"id": "r", "sql": "SELECT n FROM demo", "actions": [{"websocket": sink}]});
                ask("PUT", "/rules/r", rule).await
            }
        };
        sleep(Duration::from_millis(10)).await;
    }
    stop.store(true, Ordering::Release);
    let (sent, _sender): (u64, _) = producer.await.expect("the source stays");
    until("sent = delivered + counted", async || {
        assert!(!reader.is_finished(), "the viewer was cut off");
        let counted = sum_of_lost(&served).await;
        let seen = seen.load(Ordering::Acquire);
        assert!(seen + counted <= sent, "{seen} seen and {counted} counted of {sent}");
        seen + counted == sent
    })
    .await;
    reader.abort();
}

#[tokio::test]
async fn stops_starts_updates_and_restarts_lose_nothing_uncounted() {
    churn("1").await;
}

#[tokio::test]
async fn nor_do_they_with_three_data_threads() {
    churn("3").await;
}
