//! sent = delivered + counted, whatever happens to the peers: killed, half-open, gone and back.
//!
//! A connection that breaks may lose what its peer had not read. Messages that no pong has proven are counted, so the
//! count is exact if the peer was quiet before, and otherwise an upper bound.
#![cfg(unix)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

use crate::losses::{client, lost, send, serve, sum_of_lost, until};
use crate::process::arrival;
use crate::process::serve::{Folder, LIMIT, Served};

/// Messages taken by sockets without a proof that they were read.
async fn unproven(served: &Served) -> u64 {
    let page = served.asks("GET", "/metrics", &Value::Null).await.body;
    let series = page.lines().filter(|line| line.starts_with("plutino_unproven_messages{"));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Reads `count` messages, and keeps answering pings until all of them are proven.
async fn read_proven<S>(viewer: &mut WebSocketStream<S>, count: u64, served: &Served)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut read = 0;
    let all = async {
        loop {
            let next = timeout(Duration::from_millis(100), viewer.next()).await;
            if let Ok(Some(Ok(Message::Text(_)))) = next {
                read += 1;
            }
            if read == count && next.is_err() && unproven(served).await == 0 {
                return;
            }
        }
    };
    timeout(LIMIT, all).await.expect("everything is proven");
    assert_eq!(read, count);
}

async fn a_killed_reader(workers: &str) {
    let folder = Folder::new("killed");
    let served =
        serve(&folder, &["--workers", workers], json!({"path": "/out", "sendSingle": true, "pingInterval": "300ms"}))
            .await;
    let mut sender = client(&served, "/in").await;
    let mut viewer = client(&served, "/out").await;
    send(&mut sender, 300, 10).await;
    read_proven(&mut viewer, 300, &served).await;
    assert_eq!(sum_of_lost(&served).await, 0);
    // These are in its socket, and it does not read them.
    send(&mut sender, 200, 10).await;
    until("they are in its hands", async || unproven(&served).await == 200).await;
    drop(viewer.into_inner());
    until("what it had not read is counted", async || lost(&served).await == [("connection broke".to_owned(), 200)])
        .await;
    let mut served = served;
    let ended = tokio::task::spawn_blocking(move || {
        assert!(served.terminate().success());
        served.says(&["stopped ", "delivered 300 messages", "lost 200 (200 connection broke)"])
    });
    ended.await.expect("it ends");
}

#[tokio::test]
async fn what_a_killed_reader_had_not_read_is_counted() {
    a_killed_reader("1").await;
}

#[tokio::test]
async fn with_three_data_threads_too() {
    a_killed_reader("3").await;
}

#[tokio::test]
async fn little_of_what_a_busy_reader_has_read_is_counted() {
    const SENT: u64 = 20_000;
    // Without an early ping, all of them would count.
    let folder = Folder::new("busy");
    let served =
        serve(&folder, &[], json!({"path": "/out", "sendSingle": true, "pingInterval": "1h", "idleTimeout": 0})).await;
    let (mut sender, mut viewer) = (client(&served, "/in").await, client(&served, "/out").await);
    let reading = tokio::spawn(async move {
        let mut read = 0;
        while read < SENT {
            let next = timeout(LIMIT, viewer.next()).await.expect("it comes").expect("it goes on");
            read += u64::from(next.expect("the socket is whole").is_text());
        }
        viewer
    });
    send(&mut sender, SENT, 10).await;
    let mut viewer = reading.await.expect("all is read");
    until("most are proven", async || {
        // Pings are answered while it reads.
        let _ = timeout(Duration::from_millis(20), viewer.next()).await;
        unproven(&served).await < 4096
    })
    .await;
    let left = unproven(&served).await;
    drop(viewer.into_inner());
    until("the client is gone", async || unproven(&served).await == 0).await;
    // Its last answer to a ping may have come in between.
    let counted = sum_of_lost(&served).await;
    assert!(counted <= left, "{counted} of {left}");
}

#[tokio::test]
async fn a_reader_that_leaves_in_order_has_lost_nothing() {
    let folder = Folder::new("left");
    let served = serve(&folder, &[], json!({"path": "/out", "sendSingle": true, "pingInterval": "300ms"})).await;
    let mut sender = client(&served, "/in").await;
    let mut viewer = client(&served, "/out").await;
    send(&mut sender, 50, 10).await;
    for _ in 0..50 {
        arrival(&mut viewer).await.expect("it goes on").expect("the socket is whole");
    }
    viewer.close(None).await.expect("it is open");
    while timeout(LIMIT, viewer.next()).await.expect("it ends").is_some_and(|next| next.is_ok()) {}
    until("it has left", async || {
        served.asks("GET", "/metrics", &Value::Null).await.body.contains("op=\"0\"} 0\n")
            && unproven(&served).await == 0
    })
    .await;
    assert_eq!(lost(&served).await, []);
}

/// A relay that forwards everything until it is cut, and then nothing, although it stays connected.
async fn relay(to: String, cut: Arc<AtomicBool>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.expect("somebody comes");
        let far = TcpStream::connect(to).await.expect("the service is there");
        let (near_reads, near_writes) = near.into_split();
        let (far_reads, far_writes) = far.into_split();
        let pass = async |mut from: tokio::net::tcp::OwnedReadHalf, mut into: tokio::net::tcp::OwnedWriteHalf| {
            let mut bytes = vec![0; 4096];
            while !cut.load(Ordering::Acquire) {
                let Ok(read) = timeout(Duration::from_millis(5), from.read(&mut bytes)).await else { continue };
                let Ok(count @ 1..) = read else { break };
                into.write_all(&bytes[..count]).await.expect("the other side is there");
            }
            // Neither side is notified.
            sleep(LIMIT).await;
            drop((from, into));
        };
        tokio::join!(pass(near_reads, far_writes), pass(far_reads, near_writes));
    });
    address
}

#[tokio::test]
async fn what_a_half_open_connection_swallows_is_counted() {
    let folder = Folder::new("half-open");
    let sink = json!({"path": "/out", "sendSingle": true, "pingInterval": "300ms", "idleTimeout": "10s"});
    let served = serve(&folder, &[], sink).await;
    let mut sender = client(&served, "/in").await;
    let cut = Arc::new(AtomicBool::new(false));
    let address = relay(format!("127.0.0.1:{}", served.data_port), cut.clone()).await;
    let wire = TcpStream::connect(address).await.expect("the relay is there");
    let (mut viewer, _) = client_async(format!("ws://{address}/out"), wire).await.expect("the path is there");
    send(&mut sender, 300, 10).await;
    read_proven(&mut viewer, 300, &served).await;
    cut.store(true, Ordering::Release);
    sleep(Duration::from_millis(20)).await;
    send(&mut sender, 150, 10).await;
    until("what it swallowed is counted", async || lost(&served).await == [("connection broke".to_owned(), 150)]).await;
}

/// A peer that is dialled: it reads this many messages, disconnects without a close frame, and comes back.
async fn peer_that_comes_and_goes(listener: TcpListener, each: u64, received: Arc<AtomicU64>, stays: Arc<AtomicBool>) {
    loop {
        let (wire, _) = listener.accept().await.expect("it is dialled");
        let Ok(mut peer) = accept_async(wire).await else { continue };
        let mut read = 0;
        while read < each || stays.load(Ordering::Acquire) {
            match peer.next().await {
                Some(Ok(Message::Text(_))) => {
                    read += 1;
                    received.fetch_add(1, Ordering::AcqRel);
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            }
        }
        drop(peer.into_inner());
    }
}

async fn returning_peers(workers: &str) {
    const SENT: u64 = 6000;
    let folder = Folder::new("returning");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    let sink = json!({"addr": address, "path": "/x", "sendSingle": true, "pingInterval": "300ms", "reconnect": {"initial": "10ms", "max": "20ms"}});
    let served = serve(&folder, &["--workers", workers], sink).await;
    let (received, stays) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let peer = tokio::spawn(peer_that_comes_and_goes(listener, 700, received.clone(), stays.clone()));
    let mut sender = client(&served, "/in").await;
    for part in 0..SENT / 100 {
        send(&mut sender, 100, 10).await;
        sleep(Duration::from_millis(5)).await;
        stays.store(part > SENT / 100 / 2, Ordering::Release);
    }
    until("each message was received or counted", async || {
        let seen = received.load(Ordering::Acquire);
        let lost = lost(&served).await;
        assert!(lost.iter().all(|(cause, _)| cause == "connection broke"), "{lost:?}");
        let broke: u64 = lost.iter().map(|(_, count)| count).sum();
        assert!(seen <= SENT, "{seen}");
        seen + broke >= SENT && unproven(&served).await == 0
    })
    .await;
    let broke = sum_of_lost(&served).await;
    let seen = received.load(Ordering::Acquire);
    // It may have read some of those that count as lost: only these are counted twice.
    assert!(seen + broke >= SENT && broke > 0 && seen <= SENT, "{seen} seen and {broke} counted of {SENT}");
    peer.abort();
}

#[tokio::test]
async fn peers_that_come_and_go_lose_nothing_uncounted() {
    returning_peers("1").await;
}

#[tokio::test]
async fn nor_with_three_data_threads() {
    returning_peers("3").await;
}

#[tokio::test]
async fn kill_9_of_the_service_loses_what_its_peers_do_not_have_and_no_more() {
    let folder = Folder::new("kill-feed");
    let served = serve(&folder, &[], json!({"path": "/out", "sendSingle": true, "pingInterval": "300ms"})).await;
    let mut sender = client(&served, "/in").await;
    let mut viewer = client(&served, "/out").await;
    send(&mut sender, 400, 10).await;
    read_proven(&mut viewer, 400, &served).await;
    let mut served = served;
    served.kill();
    // Everything up to then has arrived, and the end is reported.
    assert!(timeout(LIMIT, viewer.next()).await.expect("it ends").is_none_or(|next| next.is_err()));
    assert!(sender.send(Message::text("{}")).await.is_err() || sender.next().await.is_none_or(|next| next.is_err()));
}
