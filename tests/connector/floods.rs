//! Peers that read nothing, and peers that send pings without end: the data waiting for them is bounded, in every role.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use plutino::io::sink::OpenSink;
use plutino::io::websocket::{SinkLink, Websockets};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::websocket::{LIMIT, batch, client, hub, props, signal, sink, source, stream, text, until};

fn dropped(hub: &Websockets) -> u64 {
    hub.disconnects().into_iter().find(|(cause, _)| *cause == "write timeout").expect("it is a cause").1
}

/// Writes more and more results until the peer, which reads nothing, is dropped.
async fn stall(hub: &Websockets, link: &SinkLink) {
    let message = "x".repeat(1 << 20);
    until(|| link.status().peers == 1).await;
    until(|| {
        link.messages().send(&batch(&[&message]));
        dropped(hub) == 1
    })
    .await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_dropped() {
    let hub = hub();
    let link = hub.open_sink(sink(json!({"path": "/x", "writeTimeout": "300ms"})), 0, signal().0).await.unwrap();
    let _client = client(hub.listening().unwrap(), "/x").await;
    stall(&hub, &link).await;
    until(|| link.clients().is_empty()).await;
}

#[tokio::test]
async fn a_server_that_reads_nothing_is_dropped_and_dialled_anew() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = json!({"addr": listener.local_addr().unwrap().to_string(), "path": "/x", "writeTimeout": "300ms"});
    let hub = hub();
    let link = hub.open_sink(sink(settings), 0, signal().0).await.unwrap();
    let _deaf = tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap();
    stall(&hub, &link).await;
    until(|| link.status().last_error.is_some_and(|(_, error)| error.contains("writeTimeout"))).await;
    let mut again = tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap();
    assert_eq!(text(&mut again).await.len(), 1 << 20);
}

/// Many pings arrive at once: the newest is answered, and the others cost nothing.
#[tokio::test]
async fn the_newest_of_many_pings_is_answered() {
    let hub = hub();
    let (frames, mut stream) = stream();
    let _link = hub.open_source(source("/x", json!({})), 0, frames).await.unwrap();
    let mut client = client(hub.listening().unwrap(), "/x").await;
    for n in 0..20_000 {
        client.feed(Message::Ping(n.to_string().into())).await.unwrap();
    }
    client.send("after".into()).await.unwrap();
    let mut answered = 0;
    while answered != 19_999 {
        let Message::Pong(payload) = timeout(LIMIT, client.next()).await.unwrap().unwrap().unwrap() else { continue };
        let pong: usize = std::str::from_utf8(&payload).unwrap().parse().unwrap();
        assert!(pong > answered || pong == 0);
        answered = pong;
    }
    assert_eq!(stream.next().await, "after");
}

#[tokio::test]
async fn a_slow_reader_is_not_dropped_while_it_reads() {
    let hub = hub();
    let settings = json!({"path": "/x", "writeTimeout": "5s", "slowClient": "block"});
    let link = hub.open_sink(sink(settings), 0, signal().0).await.unwrap();
    let mut client = client(hub.listening().unwrap(), "/x").await;
    until(|| link.status().peers == 1).await;
    let message = "x".repeat(1 << 20);
    for _ in 0..24 {
        link.messages().send(&batch(&[&message]));
    }
    for _ in 0..24 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        assert_eq!(text(&mut client).await.len(), message.len());
    }
    assert_eq!(dropped(&hub), 0);
}

#[test]
fn the_timeout_is_checked() {
    let wrong = props(json!({"path": "/x", "writeTimeout": "soon"}));
    let error = plutino::io::websocket::Settings::sink(&wrong).unwrap_err().to_string();
    assert!(error.contains("writeTimeout"), "{error}");
}
