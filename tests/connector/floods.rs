//! Peers that send control frames without end and read nothing: what waits for them is bounded, in every role.

use std::time::Duration;

use plutino::io::websocket::Websockets;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::websocket::{LIMIT, hub, props, signal, sink, source, stream, try_client, until};

/// More than the kernel keeps for both directions of a loopback connection, and than may wait in the process.
const FLOOD: usize = 96 << 20;

/// Writes pings of 125 bytes until the other side drops the connection, and reads nothing; how many bytes it took.
async fn flood(peer: &mut TcpStream, masked: bool) -> usize {
    let mut ping = vec![0x89, if masked { 0x80 | 125 } else { 125 }];
    ping.extend_from_slice(&[0; 4][..if masked { 4 } else { 0 }]);
    ping.extend_from_slice(&[b'p'; 125]);
    let pings = ping.repeat(512);
    let mut sent = 0;
    while sent < FLOOD {
        match timeout(LIMIT, peer.write(&pings[sent % ping.len()..])).await.expect("the connection ends") {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
    sent
}

fn dropped(hub: &Websockets) -> u64 {
    hub.disconnects().into_iter().find(|(cause, _)| *cause == "write timeout").expect("it is a cause").1
}

#[tokio::test]
async fn a_client_that_sends_pings_and_reads_no_pongs_is_not_read_on_and_dropped() {
    for sinks in [false, true] {
        let hub = hub();
        let settings = json!({"path": "/x", "writeTimeout": "300ms"});
        let (frames, _stream) = stream();
        let _source =
            if sinks { None } else { Some(hub.open_source(source("/x", settings.clone()), 0, frames).await.unwrap()) };
        let _sink = if sinks { Some(hub.open_sink(sink(settings), 0, signal().0).await.unwrap()) } else { None };
        let mut client = try_client(hub.listening().unwrap(), "/x").await.unwrap();
        let sent = flood(client.get_mut(), true).await;
        assert!(sent < FLOOD, "the flood was taken in whole");
        until(|| dropped(&hub) == 1).await;
    }
}

#[tokio::test]
async fn a_server_that_sends_pings_and_reads_no_pongs_is_not_read_on_and_dropped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = json!({"addr": listener.local_addr().unwrap().to_string(), "path": "/x", "writeTimeout": "300ms"});
    let hub = hub();
    let (frames, _stream) = stream();
    let link = hub.open_source(source("/x", settings), 0, frames).await.unwrap();
    let mut server = tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap();
    let sent = flood(server.get_mut(), false).await;
    assert!(sent < FLOOD, "the flood was taken in whole");
    until(|| dropped(&hub) == 1).await;
    until(|| link.status().last_error.is_some_and(|(_, error)| error.contains("writeTimeout"))).await;
}

#[tokio::test]
async fn a_slow_reader_is_not_dropped_while_it_reads() {
    let hub = hub();
    let settings = json!({"path": "/x", "writeTimeout": "2s", "slowClient": "block"});
    let link = hub.open_sink(sink(settings), 0, signal().0).await.unwrap();
    let mut client = crate::websocket::client(hub.listening().unwrap(), "/x").await;
    until(|| link.status().peers == 1).await;
    let message = "x".repeat(1 << 20);
    for _ in 0..24 {
        link.outlet().send(&crate::websocket::batch(&[&message]));
    }
    for _ in 0..24 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(crate::websocket::text(&mut client).await.len(), message.len());
    }
    assert_eq!(dropped(&hub), 0);
}

#[test]
fn the_timeout_is_checked() {
    let wrong = props(json!({"path": "/x", "writeTimeout": "soon"}));
    let error = plutino::io::websocket::Settings::sink(&wrong).unwrap_err().to_string();
    assert!(error.contains("writeTimeout"), "{error}");
}
