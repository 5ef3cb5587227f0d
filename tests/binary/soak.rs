//! The soak test: for ten minutes peers die, rules are created and dropped, and clients stall. Memory, descriptors and
//! threads stay flat, and sent = delivered + counted.
//!
//! `cargo test --test binary soak -- --ignored --nocapture`; PLUTINO_SOAK_SECONDS makes it shorter.
#![cfg(target_os = "linux")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{accept_async, connect_async};

use crate::durability::resident;
use crate::losses::until;
use crate::process::serve::{Folder, LIMIT, Served};

/// The process figures that must stay flat.
#[derive(Clone, Copy, Debug)]
struct Usage {
    kib: u64,
    descriptors: usize,
    threads: usize,
}

fn usage(pid: u32) -> Usage {
    let entries = |folder: &str| std::fs::read_dir(format!("/proc/{pid}/{folder}")).map_or(0, Iterator::count);
    Usage { kib: resident(pid), descriptors: entries("fd"), threads: entries("task") }
}

/// The losses of a rule, and the messages that reached its endpoint while it did not run.
async fn lost(served: &Served, labels: &[&str]) -> Vec<(String, u64)> {
    let page = served.asks("GET", "/metrics", &Value::Null).await.body;
    let of_rule = |line: &&str| labels.iter().any(|label| line.contains(label));
    let series = page.lines().filter(|line| line.starts_with("plutino_dropped_messages_total{")).filter(of_rule);
    let read = |line: &str| {
        let cause = line.split("cause=\"").nth(1)?.split('"').next()?.to_owned();
        Some((cause, line.rsplit(' ').next()?.parse().ok()?))
    };
    series.filter_map(read).collect()
}

fn sum(lost: &[(String, u64)]) -> u64 {
    lost.iter().map(|(_, count)| count).sum()
}

/// Sends numbered messages until it is stopped; returns how many.
fn sender(url: String, stop: &Arc<AtomicBool>) -> JoinHandle<u64> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let (mut client, _) = connect_async(url).await.expect("the source is there");
        let mut sent = 0;
        while !stop.load(Ordering::Acquire) {
            for _ in 0..20 {
                client.feed(Message::text(json!({"n": sent, "k": sent % 50}).to_string())).await.expect("it stays");
                sent += 1;
            }
            client.flush().await.expect("it stays");
            sleep(Duration::from_millis(20)).await;
        }
        // Its messages are read before it disconnects.
        client.close(None).await.expect("it stays");
        while client.next().await.is_some_and(|next| next.is_ok()) {}
        sent
    })
}

/// Reads to the end and counts.
fn reader(url: String, seen: &Arc<AtomicU64>) -> JoinHandle<()> {
    let seen = seen.clone();
    tokio::spawn(async move {
        let (mut client, _) = connect_async(url).await.expect("the sink is there");
        while let Some(Ok(message)) = client.next().await {
            seen.fetch_add(u64::from(message.is_text()), Ordering::AcqRel);
        }
    })
}

/// A dialled peer that reads for a while, disconnects without a close frame, and comes back; at the end it stays.
fn peer(listener: TcpListener, seen: &Arc<AtomicU64>, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (seen, stop) = (seen.clone(), stop.clone());
    tokio::spawn(async move {
        loop {
            let Ok((wire, _)) = listener.accept().await else { return };
            let Ok(mut peer) = accept_async(wire).await else { continue };
            let dies = Instant::now() + Duration::from_millis(fastrand::u64(200..4000));
            while Instant::now() < dies || stop.load(Ordering::Acquire) {
                match timeout(Duration::from_millis(100), peer.next()).await {
                    Ok(Some(Ok(message))) => _ = seen.fetch_add(u64::from(message.is_text()), Ordering::AcqRel),
                    Ok(_) => break,
                    Err(_) => {}
                }
            }
        }
    })
}

/// Viewers that stall, die, and request paths that do not exist.
async fn chaos(served: &Served) {
    for _ in 0..3 {
        let Ok((mut viewer, _)) = connect_async(served.data_url("/chaos")).await else { continue };
        tokio::spawn(async move {
            if fastrand::bool() {
                sleep(Duration::from_millis(fastrand::u64(100..3000))).await;
            }
            for _ in 0..fastrand::u32(0..200) {
                if viewer.next().await.is_none_or(|next| next.is_err()) {
                    return;
                }
            }
            if fastrand::bool() { drop(viewer.into_inner()) } else { _ = viewer.close(None).await }
        });
    }
    let _ = connect_async(served.data_url("/nowhere")).await;
}

/// One round of user actions.
async fn round(served: &Served, number: u64) {
    let ask = async |method: &str, path: &str, body: Value| served.asks(method, path, &body).await.done();
    let steady = |sql: &str| json!({"id": "steady", "sql": sql, "actions": [{"websocket": {"path": "/steady", "sendSingle": true}}]});
    match number % 6 {
        0 => ask("POST", "/rules/steady/restart", Value::Null).await,
        1 => ask("PUT", "/rules/steady", steady("SELECT n FROM a")).await,
        2 => ask("POST", "/rules/steady/stop", Value::Null).await,
        3 => ask("POST", "/rules/steady/start", Value::Null).await,
        4 => ask("PUT", "/rules/steady", steady("SELECT * FROM a WHERE n >= 0")).await,
        _ => ask("POST", "/rules/returns/restart", Value::Null).await,
    };
    let sql = "SELECT k, count(*) AS c, avg(n) AS m FROM b GROUP BY k, TUMBLINGWINDOW(ss, 1)";
    let rule = json!({"id": "brief", "sql": sql, "actions": [{"websocket": {"path": "/brief"}}]});
    ask("POST", "/rules", rule).await;
    chaos(served).await;
    sleep(Duration::from_millis(fastrand::u64(100..400))).await;
    ask("DELETE", "/rules/brief", Value::Null).await;
}

#[tokio::test]
#[ignore = "takes ten minutes"]
async fn soak() {
    let seconds = std::env::var("PLUTINO_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(600);
    let folder = Folder::new("soak");
    folder.write("etc/plutino.yaml", "source: {endpointLinger: 120s}\n");
    let mut command = folder.command();
    command.args(["--workers", "2"]);
    let served = Served::start(command);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    for (name, path) in [("a", "/a"), ("b", "/b"), ("c", "/c")] {
        let sql = format!("CREATE STREAM {name} () WITH (TYPE=\"websocket\", DATASOURCE=\"{path}\")");
        served.asks("POST", "/streams", &json!({ "sql": sql })).await.done();
    }
    let away = json!({
        "addr": address, "path": "/x", "sendSingle": true, "pingInterval": "500ms",
        "reconnect": {"initial": "20ms", "max": "100ms"}, "clientQueue": {"messages": 1_000_000},
    });
    for (id, sql, sink) in [
        ("steady", "SELECT * FROM a", json!({"path": "/steady", "sendSingle": true})),
        ("chaos", "SELECT * FROM b", json!({"path": "/chaos", "sendSingle": true, "clientQueue": {"messages": 5000}})),
        ("returns", "SELECT * FROM c", away),
    ] {
        let rule = json!({"id": id, "sql": sql, "actions": [{"websocket": sink}]});
        served.asks("POST", "/rules", &rule).await.done();
    }
    let (stop, steady, returned) = (Arc::new(AtomicBool::new(false)), Arc::default(), Arc::default());
    let reads = reader(served.data_url("/steady"), &steady);
    let peer = peer(listener, &returned, &stop);
    sleep(Duration::from_millis(500)).await;
    let senders = ["/a", "/b", "/c"].map(|path| sender(served.data_url(path), &stop));

    let pid = served.child.id();
    let (begun, mut early, mut number) = (Instant::now(), None, 0);
    while begun.elapsed().as_secs() < seconds {
        round(&served, number).await;
        number += 1;
        assert!(!reads.is_finished(), "the steady viewer was cut off");
        if number % 50 == 0 {
            println!("{:>4} s: {number} rounds, {:?}", begun.elapsed().as_secs(), usage(pid));
        }
        if early.is_none() && begun.elapsed().as_secs() >= seconds / 5 {
            early = Some(usage(pid));
        }
    }
    served.asks("POST", "/rules/steady/start", &Value::Null).await.done();
    stop.store(true, Ordering::Release);
    let [a, b, c] = senders;
    let (a, b, c) = (a.await.expect("it ends"), b.await.expect("it ends"), c.await.expect("it ends"));
    println!("sent {a}, {b} and {c} messages in {number} rounds");

    let last = timeout(LIMIT, async {
        loop {
            let (seen, lost) = (steady.load(Ordering::Acquire), lost(&served, &["rule=\"steady\"", "op=\"/a\""]).await);
            if seen + sum(&lost) >= a {
                return (seen, lost);
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    let (seen, counted) = last.await.expect("sent = delivered + counted");
    println!("steady: {a} sent = {seen} delivered + {} counted: {counted:?}", sum(&counted));
    assert_eq!(seen + sum(&counted), a);
    until("what the peer lacks is counted", async || {
        returned.load(Ordering::Acquire) + sum(&lost(&served, &["rule=\"returns\"", "op=\"/c\""]).await) >= c
    })
    .await;
    let (got, counted) = (returned.load(Ordering::Acquire), lost(&served, &["rule=\"returns\"", "op=\"/c\""]).await);
    println!("returns: {c} sent, {got} delivered, {} counted: {counted:?}", sum(&counted));
    // Some that count as lost with a connection may have arrived.
    let broke: u64 = counted.iter().filter(|(cause, _)| cause == "connection broke").map(|(_, count)| count).sum();
    assert!(got + sum(&counted) - broke <= c);

    // Viewers that died are gone by then.
    sleep(Duration::from_secs(15)).await;
    let (early, late) = (early.expect("it was measured"), usage(pid));
    println!("early {early:?}, late {late:?}");
    assert!(late.kib < early.kib + early.kib / 4 + (16 << 10), "{early:?} {late:?}");
    assert!(late.descriptors <= early.descriptors + 10 && late.threads <= early.threads + 4, "{early:?} {late:?}");
    peer.abort();
    let mut served = served;
    let ended = tokio::task::spawn_blocking(move || {
        assert!(served.terminate().success());
        println!("{}", served.says(&["stopped ", "delivered "]));
    });
    ended.await.expect("it ends");
}
