//! Updates and restarts of rules under load: nobody is disconnected, and every message is processed by one of the two
//! versions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::process::Client;
use crate::process::serve::{Folder, LIMIT, Served};

/// How far the producer may be ahead of the viewer: less than the size of a client's queue.
const AHEAD: u64 = 20_000;

/// A producer of `{"n": 0}`, `{"n": 1}` … and a viewer who must get each of them once and in order.
struct Flow {
    seen: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    producer: JoinHandle<u64>,
    viewer: JoinHandle<()>,
    /// tells the viewer to leave
    leave: oneshot::Sender<()>,
}

impl Flow {
    async fn start(served: &Served, from: &str, to: &str) -> Flow {
        let (mut sender, _) = connect_async(served.data_url(from)).await.expect("the source is there");
        let (mut receiver, _) = connect_async(served.data_url(to)).await.expect("the sink is there");
        let (seen, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (seen_by_producer, stopped) = (seen.clone(), stop.clone());
        let producer = tokio::spawn(async move {
            let mut sent = 0;
            while !stopped.load(Ordering::Acquire) {
                if sent < seen_by_producer.load(Ordering::Acquire) + AHEAD {
                    for _ in 0..100 {
                        sender.feed(Message::text(format!("{{\"n\": {sent}}}"))).await.expect("the source stays");
                        sent += 1;
                    }
                    sender.flush().await.expect("the source stays");
                }
                tokio::task::yield_now().await;
            }
            // It stays connected until everything is read.
            while seen_by_producer.load(Ordering::Acquire) < sent {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            sent
        });
        let seen_by_viewer = seen.clone();
        let (leave, mut told) = oneshot::channel();
        let viewer = tokio::spawn(async move {
            loop {
                let message = tokio::select! {
                    message = receiver.next() => message.expect("the sink stays"),
                    Ok(()) = &mut told => break,
                };
                let Message::Text(text) = message.expect("the sink stays") else { continue };
                let row: Value = serde_json::from_str(&text).expect("results are JSON");
                assert_eq!(row["n"], seen_by_viewer.load(Ordering::Acquire), "in order, each once");
                seen_by_viewer.fetch_add(1, Ordering::AcqRel);
            }
            // A close handshake shows the sink that everything was read.
            receiver.close(None).await.expect("the sink stays");
            while let Some(Ok(last)) = receiver.next().await {
                assert!(!last.is_text(), "a message too many: {last}");
            }
        });
        Flow { seen, stop, producer, viewer, leave }
    }

    /// Waits until `count` more messages have arrived.
    async fn goes_on(&self, count: u64) {
        let wanted = self.seen.load(Ordering::Acquire) + count;
        let more = async {
            while self.seen.load(Ordering::Acquire) < wanted {
                assert!(!self.viewer.is_finished() && !self.producer.is_finished(), "somebody was cut off");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LIMIT, more).await.expect("messages come");
    }

    /// Ends the producer, then the viewer, which disconnects cleanly; returns how many messages were sent, all of which
    /// were received.
    async fn ends(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        let sent = timeout(LIMIT, self.producer).await.expect("all is seen").expect("the source stays");
        self.leave.send(()).expect("the viewer is there");
        timeout(LIMIT, self.viewer).await.expect("it leaves").expect("it saw all in order");
        sent
    }
}

fn rule(stream: &str, filter: &str, sink: Value) -> Value {
    json!({"id": "r", "sql": format!("SELECT n FROM {stream} {filter}"), "actions": [{"websocket": sink}]})
}

async fn put(served: &Served, path: &str, body: &Value) -> String {
    served.asks("PUT", path, body).await.done()
}

async fn updates(workers: &str, rounds: usize) {
    let folder = Folder::new("updates");
    let mut command = folder.command();
    command.args(["--workers", workers]);
    let served = Served::start(command);
    for stream in ["a", "b"] {
        let sql = format!("CREATE STREAM {stream} () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")");
        served.asks("POST", "/streams", &json!({"sql": sql})).await.done();
    }
    let sink = json!({"path": "/out", "sendSingle": true, "writeTimeout": "1h", "idleTimeout": "1h"});
    served.asks("POST", "/rules", &rule("a", "", sink.clone())).await.done();
    // One that never reads: nobody waits for it.
    let (_lazy, _) = connect_async(served.data_url("/out")).await.expect("the sink is there");
    let flow = Flow::start(&served, "/in", "/out").await;
    flow.goes_on(100).await;
    for round in 0..rounds {
        match round % 6 {
            // The same, another filter, another stream on the same endpoint, and back.
            0 => put(&served, "/rules/r", &rule("a", "", sink.clone())).await,
            1 => put(&served, "/rules/r", &rule("a", "WHERE n >= 0", sink.clone())).await,
            2 => served.asks("POST", "/rules/r/restart", &Value::Null).await.done(),
            3 => put(&served, "/rules/r", &rule("b", "", sink.clone())).await,
            4 => put(&served, "/rules/r", &rule("b", "WHERE n > -1", sink.clone())).await,
            _ => {
                // A refused rule changes nothing.
                let refused = rule("a", "", json!({"path": "/nobody", "checkConnection": true}));
                assert_eq!(served.asks("PUT", "/rules/r", &refused).await.status, 400);
                String::new()
            }
        };
        flow.goes_on(50).await;
    }
    let sent = flow.ends().await;
    assert!(sent >= 3000, "{sent}");
    let status = served.asks("GET", "/rules/r/status", &Value::Null).await.json();
    let lost = status["lost"].as_object().expect("an object");
    // Only the one that never reads may have lost any.
    assert!(lost.keys().all(|cause| cause == "slow client"), "{lost:?}");
}

#[tokio::test]
async fn updates_and_restarts_cut_nobody_off_and_lose_nothing() {
    updates("1", 60).await;
}

#[tokio::test]
async fn so_it_is_with_three_data_threads() {
    updates("3", 60).await;
}

#[tokio::test]
async fn two_hundred_updates_are_noticed_by_nobody() {
    updates("1", 200).await;
}

/// Messages a second of the paced feed.
const PACE: u64 = 20_000;

/// Sends `{"n": 0}`, `{"n": 1}` … at a fixed rate, whoever receives them, until it is told to stop; returns how many.
fn paced(mut sender: Client, stop: Arc<AtomicBool>) -> JoinHandle<(u64, Client)> {
    tokio::spawn(async move {
        let (began, mut sent) = (tokio::time::Instant::now(), 0);
        while !stop.load(Ordering::Acquire) {
            let due = began.elapsed().as_millis() as u64 * PACE / 1000;
            while sent < due {
                sender.feed(Message::text(format!("{{\"n\": {sent}}}"))).await.expect("the source stays");
                sent += 1;
            }
            sender.flush().await.expect("the source stays");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        (sent, sender)
    })
}

#[tokio::test]
async fn at_20_000_messages_a_second_all_are_delivered_or_counted() {
    let folder = Folder::new("updates-paced");
    let served = folder.serve();
    let sql = "CREATE STREAM a () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")";
    served.asks("POST", "/streams", &json!({"sql": sql})).await.done();
    let sink = json!({"path": "/out", "sendSingle": true, "writeTimeout": "1h", "idleTimeout": "1h"});
    served.asks("POST", "/rules", &rule("a", "", sink.clone())).await.done();
    let (sender, _) = connect_async(served.data_url("/in")).await.expect("the source is there");
    let (mut receiver, _) = connect_async(served.data_url("/out")).await.expect("the sink is there");
    let (seen, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let count = seen.clone();
    let viewer = tokio::spawn(async move {
        let mut next = 0;
        while let Some(Ok(message)) = receiver.next().await {
            let Message::Text(text) = message else { continue };
            let row: Value = serde_json::from_str(&text).expect("results are JSON");
            let n = row["n"].as_u64().expect("n");
            assert!(n >= next, "in order: {n} after {next}");
            next = n + 1;
            count.fetch_add(1, Ordering::AcqRel);
        }
    });
    let began = tokio::time::Instant::now();
    let producer = paced(sender, stop.clone());
    for round in 0..200 {
        let filter = if round % 2 == 0 { "WHERE n >= 0" } else { "" };
        put(&served, "/rules/r", &rule("a", filter, sink.clone())).await;
    }
    // Updates may be fast: the feed continues for as long as ten seconds of it take.
    tokio::time::sleep(Duration::from_secs(10).saturating_sub(began.elapsed())).await;
    let enough = async {
        while seen.load(Ordering::Acquire) < 5 * PACE {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, enough).await.expect("messages go on");
    stop.store(true, Ordering::Release);
    let (sent, _sender) = timeout(LIMIT, producer).await.expect("it stops").expect("the source stays");
    let settled = async {
        loop {
            let status = served.asks("GET", "/rules/r/status", &Value::Null).await.json();
            let lost: u64 = status["lost"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
            let delivered = seen.load(Ordering::Acquire);
            assert!(delivered + lost <= sent, "{delivered} and {lost} of {sent}: {status:#}");
            if delivered + lost == sent {
                return;
            }
            assert!(!viewer.is_finished(), "the viewer stays");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, settled).await.expect("each message is delivered or counted");
}
