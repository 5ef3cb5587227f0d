//! Clients of the data server that occupy connections, and clients of the REST API that do not read.
//!
//! The long form of the flood, 10,000 silent connections, is ignored in ordinary runs:
//! `cargo test --test binary ten_thousand -- --ignored` with `ulimit -n 25000`.
#![cfg(target_os = "linux")]

use std::io::{Read, Write};
use std::net::TcpStream as Blocking;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::durability::resident;
use crate::losses::until;
use crate::process::serve::{Folder, LIMIT, Served};

/// A service with a sink that clients can connect to.
async fn served(folder: &Folder, source: &str) -> Served {
    folder.write("etc/plutino.yaml", &format!("source: {source}\n"));
    let served = folder.serve();
    let stream = json!({"sql": "CREATE STREAM s () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")"});
    served.asks("POST", "/streams", &stream).await.done();
    let rule = json!({"id": "r", "sql": "SELECT * FROM s", "actions": [{"websocket": {"path": "/out"}}]});
    served.asks("POST", "/rules", &rule).await.done();
    served
}

/// Requests a websocket from this local address; the socket and the status of the response.
async fn ask(served: &Served, from: [u8; 4]) -> (TcpStream, u16) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("the address is this machine's");
    let connected = socket.connect(([127, 0, 0, 1], served.data_port).into());
    let mut wire = timeout(LIMIT, connected).await.expect("it is accepted").expect("it is accepted");
    let request = "GET /out HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    wire.write_all(request.as_bytes()).await.expect("it is read");
    let mut answer = [0; 12];
    timeout(LIMIT, wire.read_exact(&mut answer)).await.expect("it answers").expect("it answers");
    let status = std::str::from_utf8(&answer[9..]).expect("a status").parse().expect("a status");
    (wire, status)
}

async fn refused(served: &Served, cause: &str) -> u64 {
    let page = served.asks("GET", "/metrics", &Value::Null).await.body;
    let name = format!("plutino_refused_handshakes_total{{cause=\"{cause}\"}} ");
    page.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn the_configuration_limits_clients_in_total_and_of_one_address() {
    let folder = Folder::new("limits");
    let served = served(&folder, "{maxConnections: 3, maxConnectionsPerIp: 2}").await;
    let mut seats = Vec::new();
    for (from, expected) in [(1, 101), (1, 101), (1, 503), (2, 101), (2, 503), (3, 503)] {
        let (wire, status) = ask(&served, [127, 0, 0, from]).await;
        assert_eq!(status, expected, "from 127.0.0.{from}");
        if status == 101 {
            seats.push(wire);
        }
    }
    assert_eq!(refused(&served, "connections of an address").await, 1);
    assert_eq!(refused(&served, "connections").await, 2);
    // A released connection can be used again.
    drop(seats.pop());
    until("the place is free", async || ask(&served, [127, 0, 0, 3]).await.1 == 101).await;
}

/// Opens this many silent connections; returns how long well-behaved clients wait meanwhile, from the shortest time on.
async fn flood(connections: usize) -> Vec<Duration> {
    let folder = Folder::new("flood");
    let served = served(&folder, "{}").await;
    let port = served.data_port;
    let (made, all) = (std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)), connections);
    let counted = made.clone();
    let flooding = std::thread::spawn(move || {
        let mut silent = Vec::with_capacity(all);
        for _ in 0..all {
            silent.extend(Blocking::connect(("127.0.0.1", port)));
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        silent
    });
    let mut waits = Vec::new();
    while made.load(std::sync::atomic::Ordering::Relaxed) < all || waits.len() < 5 {
        let begun = Instant::now();
        let (wire, status) = ask(&served, [127, 0, 0, 2]).await;
        assert_eq!(status, 101);
        waits.push(begun.elapsed());
        drop(wire);
    }
    assert_eq!(served.asks("GET", "/ping", &Value::Null).await.status, 200);
    drop(flooding.join().expect("it ends"));
    waits.sort_unstable();
    waits
}

#[tokio::test]
async fn silent_connections_keep_no_good_client_out() {
    let waits = flood(1500).await;
    // Alone it takes milliseconds. The machine may be busy with other tests, but not for most of them.
    assert!(waits[waits.len() / 2] < Duration::from_secs(8), "{waits:?}");
}

#[tokio::test]
#[ignore = "needs 25,000 descriptors and the machine for itself"]
async fn ten_thousand_silent_connections_delay_a_good_client_by_less_than_a_second() {
    let longest = flood(10_000).await.pop().unwrap_or_default();
    println!("a good client waited {longest:?} at the most");
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}

#[tokio::test]
async fn rest_clients_that_do_not_read_take_no_memory() {
    let folder = Folder::new("unread-lists");
    let served = served(&folder, "{}").await;
    // A list of about a megabyte.
    for number in 0..20 {
        let name = "x".repeat(50_000);
        let rule =
            json!({"id": format!("r{number}"), "name": name, "sql": "SELECT * FROM s", "actions": [{"nop": {}}]});
        served.asks("POST", "/rules", &rule).await.done();
    }
    let before = resident(served.child.id());
    let mut unread = Vec::new();
    for _ in 0..512 {
        let Ok(mut socket) = Blocking::connect(&served.rest) else { continue };
        let _ = socket.write_all(b"GET /rules HTTP/1.1\r\nHost: localhost\r\n\r\n");
        unread.push(socket);
    }
    until("others are answered", async || served.asks("GET", "/ping", &Value::Null).await.status == 200).await;
    let grown = resident(served.child.id()).saturating_sub(before);
    assert!(grown < 200 << 10, "memory grew by {grown} KiB");
    // A client that does not read for 10 s is disconnected, and others are served.
    until("the list is answered", async || served.asks("GET", "/rules", &Value::Null).await.status == 200).await;
    for mut socket in unread {
        let _ = socket.set_read_timeout(Some(Duration::from_millis(1)));
        let _ = socket.read(&mut [0; 16]);
    }
}
