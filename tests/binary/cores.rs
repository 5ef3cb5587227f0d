//! Streams and rules on several data threads: the results are those of one thread, and no row is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, accept_async, connect_async};

use super::process::serve::{Folder, Served};
use super::process::{Client, LIMIT, Plutino, next, send, stream};

/// The number of connections that send messages.
const SENDERS: usize = 7;

/// Messages of each connection.
const MESSAGES: i64 = 300;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A service with this many data threads.
fn serve(folder: &Folder, workers: usize) -> Served {
    let mut command = folder.command();
    command.args(["--workers", &workers.to_string()]);
    Served::start(command)
}

fn rule(id: &str, sql: &str, options: Value) -> Value {
    let sink = json!({"websocket": {"path": format!("/{id}"), "sendSingle": true}});
    json!({"id": id, "sql": sql, "actions": [sink], "options": options})
}

/// The groups that a rule sends, by key.
async fn groups(receiver: &mut Client, count: usize) -> Vec<Value> {
    let mut rows = Vec::new();
    while rows.len() < count {
        rows.push(next(receiver).await.expect("a group"));
    }
    rows.sort_by_key(|row| row["k"].as_i64());
    rows
}

/// The message with the window that ends at `end`; its rows have the end as `e`.
async fn rows_of_window(output: &mut Socket, end: i64) -> Vec<Value> {
    let message = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let message = next(output).await.expect("the sink stays");
            let rows = message.as_array().expect("a list of rows");
            if rows.iter().any(|row| row["e"] == end) {
                return rows.clone();
            }
        }
    });
    message.await.expect("the window comes")
}

/// Sends 50 rows over each connection between updates of the rule, which are to lose none of the windows that follow.
async fn send_between_updates(
    served: &Served,
    senders: &mut [Socket],
    rounds: u64,
    row: Value,
    version: impl Fn(u64) -> Value,
) {
    for round in 1..=rounds {
        for sender in &mut *senders {
            for k in 0..50 {
                let mut row = row.clone();
                (row["k"], row["ts"]) = (json!(k), json!(round * 500));
                sender.feed(Message::text(row.to_string())).await.expect("the source stays");
            }
            sender.flush().await.expect("the source stays");
        }
        served.asks("PUT", "/rules/r", &version(100_000 + round)).await.done();
    }
}

#[tokio::test]
async fn windows_hold_the_rows_of_all_threads() {
    let event_time = json!({"isEventTime": true, "lateTolerance": "1h", "maxFutureSkew": 0});
    let by_event_time = "SELECT k, count(*) AS n, sum(v) AS s FROM cores_in GROUP BY k, TUMBLINGWINDOW(ss, 10)";
    let rules = json!({
        "streams": [
            stream("cores_in", "", ", TIMESTAMP=\"ts\""),
            stream("cores_other", "", ", TIMESTAMP=\"ts\""),
        ],
        "rules": [
            rule("groups", by_event_time, event_time.clone()),
            rule("alone", by_event_time, json!({"isEventTime": true, "lateTolerance": "1h", "concurrency": 1})),
            rule("two", by_event_time, json!({"isEventTime": true, "lateTolerance": "1h", "concurrency": 2})),
            rule(
                "lists",
                "SELECT k, array_cardinality(collect(v)) AS n, last_value(k, true) AS l FROM cores_in \
                 GROUP BY k, TUMBLINGWINDOW(ss, 10)",
                event_time.clone(),
            ),
            rule("copy", "SELECT v FROM cores_in WHERE v >= 0", json!({})),
            rule("counted", "SELECT acc_count(*) AS n FROM cores_in", json!({})),
            rule("others", "SELECT acc_count(*) AS n FROM cores_other", json!({})),
            rule(
                "join",
                "SELECT cores_in.k AS k, count(*) AS n FROM cores_in INNER JOIN cores_other ON cores_in.k = cores_other.k \
                 GROUP BY cores_in.k, TUMBLINGWINDOW(ss, 10)",
                event_time,
            ),
        ]
    });
    let plutino = Plutino::run("cores-windows", &rules, &["--workers", "3"]).await;
    let mut receivers = Vec::new();
    for id in ["groups", "alone", "two", "join", "lists"] {
        receivers.push(plutino.connect(&format!("/{id}")).await);
    }
    let mut copies = plutino.connect("/copy").await;
    let (mut counted, mut others_counted) = (plutino.connect("/counted").await, plutino.connect("/others").await);
    let (mut senders, mut others) = (Vec::new(), Vec::new());
    for _ in 0..SENDERS {
        senders.push(plutino.connect("/cores_in").await);
        others.push(plutino.connect("/cores_other").await);
    }
    for other in &mut others {
        send(other, json!({"k": 1, "ts": 1000}).to_string()).await;
    }
    for v in 0..MESSAGES {
        for sender in &mut senders {
            send(sender, json!({"k": v % 3, "v": v, "ts": v * 10}).to_string()).await;
        }
    }
    let sent = SENDERS * MESSAGES as usize;
    let mut sum = 0;
    for _ in 0..sent {
        sum += next(&mut copies).await.and_then(|row| row["v"].as_i64()).expect("a row");
    }
    assert_eq!(sum, SENDERS as i64 * (0..MESSAGES).sum::<i64>());
    // Rows that have reached one rule's state have reached that of the others, too.
    while next(&mut counted).await != Some(json!({"n": sent})) {}
    while next(&mut others_counted).await != Some(json!({"n": SENDERS})) {}
    // Time advances far beyond the window, on both streams.
    send(&mut senders[0], json!({"k": 0, "v": 0, "ts": 20_000_000}).to_string()).await;
    send(&mut others[0], json!({"k": 0, "ts": 20_000_000}).to_string()).await;
    let expected = |k: i64| {
        let values = (0..MESSAGES).filter(|v| v % 3 == k);
        json!({"k": k, "n": SENDERS * values.clone().count(), "s": SENDERS as i64 * values.sum::<i64>()})
    };
    let expected: Vec<Value> = (0..3).map(expected).collect();
    for receiver in &mut receivers[..3] {
        assert_eq!(groups(receiver, 3).await, expected);
    }
    let lists = (0..3).map(|k| json!({"k": k, "n": SENDERS * MESSAGES as usize / 3, "l": k}));
    assert_eq!(groups(&mut receivers[4], 3).await, lists.collect::<Vec<_>>());
    let joined = SENDERS * SENDERS * (MESSAGES as usize / 3);
    assert_eq!(next(&mut receivers[3]).await, Some(json!({"k": 1, "n": joined})));
}

#[tokio::test]
async fn updates_carry_the_state_with_the_rows_of_all_threads() {
    let folder = Folder::new("cores-updates");
    let served = serve(&folder, 3);
    let create = "CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")";
    served.asks("POST", "/streams", &json!({"sql": create})).await.done();
    let version = |limit: u64| {
        let sink = json!({"websocket": {"path": "/out", "sendSingle": true, "clientQueue": {"messages": limit}}});
        json!({"id": "r", "sql": "SELECT acc_count(*) AS n FROM demo", "options": {"qos": 1}, "actions": [sink]})
    };
    served.asks("POST", "/rules", &version(100_000)).await.done();
    let stop = Arc::new(AtomicBool::new(false));
    let mut producers = Vec::new();
    for _ in 0..4 {
        let (mut client, _) = connect_async(served.data_url("/in")).await.expect("the source is there");
        let stop = stop.clone();
        producers.push(tokio::spawn(async move {
            let mut sent = 0_u64;
            while !stop.load(Ordering::Acquire) {
                for _ in 0..20 {
                    client.feed(Message::text("{\"a\": 1}")).await.expect("the source stays");
                    sent += 1;
                }
                client.flush().await.expect("the source stays");
                sleep(Duration::from_millis(2)).await;
            }
            (sent, client)
        }));
    }
    for round in 1..=12 {
        served.asks("PUT", "/rules/r", &version(100_000 + round)).await.done();
    }
    let (mut last, _) = connect_async(served.data_url("/out")).await.expect("the sink is there");
    stop.store(true, Ordering::Release);
    let (mut sent, mut clients) = (0, Vec::new());
    for producer in producers {
        let (count, client) = producer.await.expect("the source stays");
        sent += count;
        clients.push(client);
    }
    // One more message gives the total, once all earlier ones have arrived.
    let mut seen = 0;
    while seen < sent {
        clients[0].send(Message::text("{\"a\": 1}")).await.expect("the source stays");
        sent += 1;
        let row = timeout(LIMIT, async {
            loop {
                let Message::Text(text) = last.next().await.expect("the sink stays").expect("a message") else {
                    continue;
                };
                let row: Value = serde_json::from_str(&text).expect("results are JSON");
                if row["n"].as_u64() >= Some(sent) {
                    return row;
                }
            }
        });
        seen = row.await.expect("every message is counted")["n"].as_u64().unwrap_or(0);
    }
    assert_eq!(seen, sent, "no message is counted twice");
}

/// The number of messages that a rule has counted by key.
async fn counted_by_key(receiver: &mut Socket, counts: &mut [u64], all: u64) {
    let counting = async {
        while counts.iter().sum::<u64>() < all {
            let Message::Text(text) = receiver.next().await.expect("the sink stays").expect("a message") else {
                continue;
            };
            let row: Value = serde_json::from_str(&text).expect("results are JSON");
            let key = row["k"].as_u64().expect("a key") as usize;
            counts[key] = counts[key].max(row["n"].as_u64().expect("a number"));
        }
    };
    tokio::time::timeout(Duration::from_secs(60), counting).await.expect("every message is counted");
    assert_eq!(counts.iter().sum::<u64>(), all, "no message is counted twice");
}

/// The rows of a key go to the thread that has its state. This holds during updates under load, and after restarts with
/// other numbers of threads.
#[tokio::test]
async fn updates_and_restarts_carry_a_state_that_threads_share_by_key() {
    const KEYS: u64 = 10;
    let folder = Folder::new("cores-by-key");
    let mut served = serve(&folder, 3);
    let create = "CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")";
    served.asks("POST", "/streams", &json!({"sql": create})).await.done();
    let version = |limit: u64, sql: &str| {
        let sink = json!({"websocket": {"path": "/out", "sendSingle": true, "clientQueue": {"messages": limit}}});
        json!({"id": "r", "sql": sql, "options": {"qos": 1, "concurrency": 3}, "actions": [sink]})
    };
    let sql = "SELECT k, acc_count(*) OVER (PARTITION BY k) AS n FROM demo";
    served.asks("POST", "/rules", &version(100_000, sql)).await.done();
    let status = served.asks("GET", "/rules/r/status?details", &json!(null)).await.json();
    assert_eq!(status["threads"]["plan"], "exchange by (k)");
    let stop = Arc::new(AtomicBool::new(false));
    let mut producers = Vec::new();
    for _ in 0..4 {
        let (mut client, _) = connect_async(served.data_url("/in")).await.expect("the source is there");
        let stop = stop.clone();
        producers.push(tokio::spawn(async move {
            let mut sent = 0_u64;
            while !stop.load(Ordering::Acquire) {
                for _ in 0..20 {
                    client.feed(Message::text(json!({"k": sent % KEYS}).to_string())).await.expect("the source stays");
                    sent += 1;
                }
                client.flush().await.expect("the source stays");
                sleep(Duration::from_millis(2)).await;
            }
            // Clients stay until the end: a connection that is reset may lose messages on their way.
            (sent, client)
        }));
    }
    for round in 1..=8 {
        served.asks("PUT", "/rules/r", &version(100_000 + round, sql)).await.done();
    }
    stop.store(true, Ordering::Release);
    let (mut sent, mut clients) = (0, Vec::new());
    for producer in producers {
        let (count, client) = producer.await.expect("the source stays");
        sent += count;
        clients.push(client);
    }
    for workers in [3, 2, 1, 3] {
        let (mut output, _) = connect_async(served.data_url("/out")).await.expect("the sink is there");
        let (mut input, _) = connect_async(served.data_url("/in")).await.expect("the source is there");
        for key in 0..KEYS {
            input.send(Message::text(json!({"k": key}).to_string())).await.expect("the source stays");
            sent += 1;
        }
        // Earlier messages may still be counted.
        let mut counts = [0; KEYS as usize];
        counted_by_key(&mut output, &mut counts, sent).await;
        served.terminate();
        served = serve(&folder, workers);
        served.asks("POST", "/rules/r/start", &json!(null)).await.done();
    }
}

/// A rule whose windows combine the keys of all threads is updated under load, and continues with new windows.
#[tokio::test]
async fn updates_of_windows_that_threads_share_by_key_lose_no_later_window() {
    let folder = Folder::new("cores-windows-by-key");
    let served = serve(&folder, 3);
    let create = "CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\", TIMESTAMP=\"ts\")";
    served.asks("POST", "/streams", &json!({"sql": create})).await.done();
    let version = |limit: u64| {
        let sink = json!({"websocket": {"path": "/out", "clientQueue": {"messages": limit}}});
        let sql = "SELECT k, collect(v) AS l, window_end() AS e FROM demo GROUP BY k, TUMBLINGWINDOW(ss, 1)";
        let options = json!({"isEventTime": true, "lateTolerance": 0, "maxFutureSkew": 0, "concurrency": 3});
        json!({"id": "r", "sql": sql, "options": options, "actions": [sink]})
    };
    served.asks("POST", "/rules", &version(100_000)).await.done();
    let status = served.asks("GET", "/rules/r/status?details", &json!(null)).await.json();
    assert_eq!(status["threads"]["plan"], "exchange by (k)");
    assert!(status["threads"]["home"].is_u64(), "{status}");
    let (mut output, _) = connect_async(served.data_url("/out")).await.expect("the sink is there");
    let mut senders = Vec::new();
    for _ in 0..4 {
        senders.push(connect_async(served.data_url("/in")).await.expect("the source is there").0);
    }
    send_between_updates(&served, &mut senders, 6, json!({"v": 1}), &version).await;
    for k in 0..8 {
        let row = json!({"k": k, "v": k, "ts": 1_000_000});
        senders[0].send(Message::text(row.to_string())).await.expect("the source stays");
    }
    senders[0]
        .send(Message::text(json!({"k": 0, "v": 0, "ts": 2_000_000}).to_string()))
        .await
        .expect("the source stays");
    let mut rows = rows_of_window(&mut output, 1_001_000).await;
    rows.sort_by_key(|row| row["k"].as_i64());
    assert_eq!(rows, (0..8).map(|k| json!({"k": k, "l": [k], "e": 1_001_000})).collect::<Vec<_>>());
}

/// Streams that are joined on all threads by key, while the rule is updated: the rows of a window meet whatever threads
/// have read them.
#[tokio::test]
async fn rows_of_all_threads_are_joined_by_key() {
    let folder = Folder::new("cores-joins");
    let served = serve(&folder, 3);
    for name in ["people", "sales"] {
        let with = format!("DATASOURCE=\"/{name}\", TYPE=\"websocket\", TIMESTAMP=\"ts\"");
        served.asks("POST", "/streams", &json!({"sql": format!("CREATE STREAM {name} () WITH ({with})")})).await.done();
    }
    let version = |limit: u64| {
        let sink = json!({"websocket": {"path": "/out", "clientQueue": {"messages": limit}}});
        let sql = "SELECT people.k, people.name, count(sales.v) AS n, window_end() AS e FROM people \
                   LEFT JOIN sales ON people.k = sales.k \
                   GROUP BY people.k, people.name, TUMBLINGWINDOW(ss, 1) ORDER BY people.k";
        let options = json!({"isEventTime": true, "lateTolerance": 0, "maxFutureSkew": 0, "concurrency": 3});
        json!({"id": "r", "sql": sql, "options": options, "actions": [sink]})
    };
    served.asks("POST", "/rules", &version(100_000)).await.done();
    let status = served.asks("GET", "/rules/r/status?details", &json!(null)).await.json();
    assert_eq!(status["threads"]["plan"], "exchange by (people.k = sales.k)");
    let (mut output, _) = connect_async(served.data_url("/out")).await.expect("the sink is there");
    let mut senders = Vec::new();
    for path in ["/people", "/sales", "/people", "/sales", "/people", "/sales"] {
        senders.push(connect_async(served.data_url(path)).await.expect("the source is there").0);
    }
    send_between_updates(&served, &mut senders, 4, json!({"name": "x", "v": 1}), &version).await;
    // One connection of each stream, so that no row is late.
    for (stream, sender) in senders.iter_mut().take(2).enumerate() {
        for k in (0..20).filter(|k| stream == 0 || k % 2 == 0) {
            let row = json!({"k": k, "name": format!("n{k}"), "v": k * 10, "ts": 1_000_000});
            sender.feed(Message::text(row.to_string())).await.expect("the source stays");
        }
        sender.feed(Message::text(json!({"k": 0, "ts": 2_000_000}).to_string())).await.expect("the source stays");
        sender.flush().await.expect("the source stays");
    }
    let joined = |k: i64| json!({"k": k, "name": format!("n{k}"), "n": 1 - k % 2, "e": 1_001_000});
    let rows = rows_of_window(&mut output, 1_001_000).await;
    assert_eq!(rows, (0..20).map(joined).collect::<Vec<_>>());
}

#[tokio::test]
async fn status_and_metrics_say_which_thread_does_what() {
    let folder = Folder::new("cores-status");
    let served = serve(&folder, 3);
    let create = "CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")";
    served.asks("POST", "/streams", &json!({"sql": create})).await.done();
    let window = "SELECT count(*) AS n FROM demo GROUP BY TUMBLINGWINDOW(hh, 10)";
    let rules = [
        ("first", window, json!({})),
        ("second", window, json!({})),
        ("third", "SELECT acc_count(*) AS n FROM demo", json!({})),
        ("keys", "SELECT acc_count(*) OVER (PARTITION BY v) AS n FROM demo", json!({"concurrency": 3})),
        ("copy", "SELECT v FROM demo", json!({})),
        ("alone", window, json!({"concurrency": 1})),
    ];
    for (id, sql, options) in &rules {
        let rule = json!({"id": id, "sql": sql, "options": options, "actions": [{"nop": {}}]});
        served.asks("POST", "/rules", &rule).await.done();
    }
    let served = &served;
    let status = |id: &str| {
        let path = format!("/rules/{id}/status?details");
        async move { served.asks("GET", &path, &json!(null)).await.json() }
    };
    let mut homes = Vec::new();
    for id in ["first", "second", "third"] {
        homes.push(status(id).await["threads"]["home"].as_u64());
    }
    homes.sort_unstable();
    assert_eq!(homes, [Some(0), Some(1), Some(2)], "each thread has the state of one");
    let mut clients = Vec::new();
    for _ in 0..3 {
        let (mut client, _) = connect_async(served.data_url("/in")).await.expect("the source is there");
        for _ in 0..5 {
            client.send(Message::text("{\"v\": 1}")).await.expect("the source stays");
        }
        clients.push(client);
    }
    let rows = json!((0..3).map(|thread| json!({"thread": thread, "rows": 5})).collect::<Vec<_>>());
    for (id, plan) in [
        ("first", "partial → final"),
        ("third", "gather on one worker: an analytic function remembers earlier rows"),
        ("keys", "exchange by (v)"),
        ("copy", "on every worker"),
    ] {
        let threads = timeout(LIMIT, async {
            loop {
                let threads = status(id).await["threads"].clone();
                if threads["rows"] == rows {
                    return threads;
                }
            }
        });
        let threads = threads.await.unwrap_or_else(|_| panic!("{id}: not all rows are counted"));
        assert_eq!(threads["plan"], plan);
        assert_eq!(threads["home"].is_null(), id == "copy" || id == "keys");
    }
    assert_eq!(status("alone").await["threads"]["plan"], "on one worker");
    let explained = served.asks("GET", "/rules/first/explain?details", &json!(null)).await.done();
    assert!(explained.contains("partial → final"), "{explained}");
    let metrics = served.asks("GET", "/metrics", &json!(null)).await.done();
    assert!(metrics.contains("plutino_rule_thread_rows_total{rule=\"first\",thread=\"2\"} 5"), "{metrics}");
}

#[tokio::test]
async fn a_source_may_dial_several_connections() {
    const CONNECTIONS: u64 = 3;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address").to_string();
    let feed = tokio::spawn(async move {
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            let (socket, _) = listener.accept().await.expect("it dials");
            open.push(accept_async(socket).await.expect("it speaks websocket"));
        }
        open
    });
    let rules = json!({
        "sources": {"websocket": {"dialled": {"addr": addr, "connections": CONNECTIONS}}},
        "streams": [stream("cores_dialled", "", ", CONF_KEY=\"dialled\"")],
        "rules": [rule("dialled", "SELECT acc_count(*) AS n FROM cores_dialled WHERE a = 1", json!({}))]
    });
    let plutino = Plutino::run("cores-dialled", &rules, &["--workers", "2"]).await;
    let mut receiver = plutino.connect("/dialled").await;
    // All are open at the same time, and each delivers a part.
    let mut open = feed.await.expect("no panic");
    for connection in &mut open {
        for _ in 0..10 {
            connection.send(Message::text("{\"a\": 1}")).await.expect("it reads");
        }
    }
    for n in 1..=CONNECTIONS * 10 {
        assert_eq!(next(&mut receiver).await, Some(json!({"n": n})));
    }
}
