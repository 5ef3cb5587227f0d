//! Connections that several sources and sinks share, and named connections that exist without them.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use plutino::io::LinkState;
use plutino::io::queue::Received;
use plutino::io::sink::OpenSink;
use plutino::io::source::OpenSource;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::websocket::{LIMIT, batch, client, close_code, hub, signal, sink, source, stream, text, try_client, until};

#[tokio::test]
async fn a_prepared_source_keeps_messages_until_it_begins() {
    let hub = hub();
    let (frames, mut stream) = stream();
    let link = hub.prepare_source(source("/in", json!({})), 0, frames).await.unwrap();
    let mut client = client(hub.listening().unwrap(), "/in").await;
    for text in ["a", "b"] {
        client.send(text.into()).await.unwrap();
    }
    assert_eq!(link.status().messages, 0);
    assert!(matches!(stream.receiver.receive(), Received::Empty));
    link.begin().await;
    assert_eq!(stream.next().await, "a");
    assert_eq!(stream.next().await, "b");

    // A source that never begins can still be closed.
    let (frames, _stream) = self::stream();
    let idle = hub.prepare_source(source("/idle", json!({})), 0, frames).await.unwrap();
    let mut waiting = self::client(hub.listening().unwrap(), "/idle").await;
    waiting.send("x".into()).await.unwrap();
    let closing = tokio::spawn(async move { idle.close().await });
    assert_eq!(close_code(&mut waiting).await, CloseCode::Away);
    drop(waiting);
    timeout(LIMIT, closing).await.unwrap().unwrap();
}

#[tokio::test]
async fn links_with_different_on_open_messages_have_separate_connections() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let hub = hub();
    let wishes = |on_open: Value| json!({"addr": addr, "path": "/x", "onOpen": on_open, "reconnect": {"initial": 5}});
    let (frames, _stream) = stream();
    let one = hub.open_source(source("", wishes(json!(["a", "b"]))), 0, frames).await.unwrap();
    let mut peer = tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap();
    assert_eq!([text(&mut peer).await, text(&mut peer).await], ["a", "b"]);
    // A second link with the same messages shares the connection, and its results come after them.
    let two = hub.open_sink(sink(wishes(json!(["a", "b"]))), 0, signal().0).await.unwrap();
    two.messages().send(&batch(&["result"]));
    assert_eq!(text(&mut peer).await, "result");
    // A link with other messages has its own connection.
    let three = hub.open_sink(sink(wishes(json!(["b", "c"]))), 0, signal().0).await.unwrap();
    let mut other = tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap();
    assert_eq!([text(&mut other).await, text(&mut other).await], ["b", "c"]);
    three.close(Duration::ZERO).await;
    drop(other);
    // After a reconnect, the messages are sent again.
    drop(peer);
    let mut peer = tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap();
    assert_eq!([text(&mut peer).await, text(&mut peer).await], ["a", "b"]);
    // Messages that arrive after the source has closed have no reader and are counted.
    one.close().await;
    peer.send("unread".into()).await.unwrap();
    until(|| two.unread() == 1).await;
}

#[tokio::test]
async fn the_largest_message_limit_applies_on_a_shared_path() {
    let hub = hub();
    let _sink = hub.open_sink(sink(json!({"path": "/x", "maxMessageSize": 10})), 0, signal().0).await.unwrap();
    let (frames, mut stream) = stream();
    let _source = hub.open_source(source("/x", json!({"maxMessageSize": 100})), 0, frames).await.unwrap();
    let mut client = client(hub.listening().unwrap(), "/x").await;
    let message = "y".repeat(90);
    client.send(Message::text(message.clone())).await.unwrap();
    assert_eq!(stream.next().await, message);
}

#[tokio::test]
async fn a_server_may_choose_none_of_the_subprotocols() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let hub = hub();
    let (frames, mut stream) = stream();
    let offered = json!({"addr": addr, "subprotocols": ["v2", "v1"]});
    let link = hub.open_source(source("/x", offered), 0, frames).await.unwrap();
    // This server knows no subprotocols.
    let mut peer = tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap();
    peer.send("a".into()).await.unwrap();
    assert_eq!(stream.next().await, "a");
    assert_eq!(link.status().last_error.map(|(_, error)| error), None);
}

#[tokio::test]
async fn control_characters_in_a_close_reason_are_escaped() {
    let hub = hub();
    let (frames, _stream) = stream();
    let link = hub.open_source(source("/in", json!({})), 0, frames).await.unwrap();
    let mut client = client(hub.listening().unwrap(), "/in").await;
    let frame = CloseFrame { code: CloseCode::Error, reason: "\u{1b}[2J".into() };
    client.close(Some(frame)).await.unwrap();
    until(|| link.status().last_error.is_some()).await;
    let error = link.status().last_error.unwrap().1;
    assert!(error.ends_with("\\u{1b}[2J"), "{error}");
}

#[tokio::test]
async fn a_held_endpoint_stays_open_without_sources_and_sinks() {
    let hub = hub();
    let hold = hub.hold(source("/kept", json!({"connectionSelector": "kept"}))).await.unwrap();
    let address = hub.listening().unwrap();
    let mut early = client(address, "/kept").await;
    early.send(Message::text("nobody reads this")).await.unwrap();
    let (frames, mut stream) = stream();
    let link = hub.open_source(source("/kept", json!({"connectionSelector": "kept"})), 1, frames).await.unwrap();
    let other = hub.open_sink(sink(json!({"path": "/kept"})), 0, signal().0).await.unwrap();
    until(|| hold.uses() == 1).await;
    let [unnamed] = &hub.endpoints().await[..] else { panic!("one endpoint") };
    assert_eq!((unnamed.path.as_str(), unnamed.uses, unnamed.held), ("/kept", 1, false));
    early.send(Message::text("1")).await.unwrap();
    let first = stream.next().await;
    // The earlier message may have arrived while the source was being opened.
    assert!(first == "1" || stream.next().await == "1");
    other.messages().send(&batch(&["a"]));
    assert_eq!(text(&mut early).await, "a");
    link.close().await;
    other.close(Duration::ZERO).await;
    assert!(hub.endpoints().await.is_empty() && hub.has_path("/kept"));
    hold.close().await;
    assert_eq!(close_code(&mut early).await, CloseCode::Away);
    assert!(try_client(address, "/kept").await.is_err_and(|error| error.to_string().contains("404")));
    hub.end().await;
    assert!(hub.listening().is_none());
}

#[tokio::test]
async fn a_dialled_connection_can_be_held_and_shared() {
    let hub = hub();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = json!({"addr": listener.local_addr().unwrap().to_string(), "pingInterval": "1h"});
    let hold = hub.hold(source("/feed", peer.clone())).await.unwrap();
    let mut accepted = tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap();
    until(|| hold.status().state == LinkState::Connected).await;
    let (frames, mut stream) = stream();
    let link = hub.open_source(source("/feed", peer.clone()), 1, frames).await.unwrap();
    let written =
        hub.open_sink(sink(json!({"addr": peer["addr"], "path": "/feed", "checkConnection": true})), 0, signal().0);
    let written = written.await.unwrap();
    accepted.send(Message::text("1")).await.unwrap();
    assert_eq!(stream.next().await, "1");
    written.messages().send(&batch(&["a"]));
    assert_eq!(accepted.next().await.unwrap().unwrap(), Message::text("a"));
    link.close().await;
    written.close(Duration::ZERO).await;
    assert_eq!(hold.status().state, LinkState::Connected);
    let bye = tokio::spawn(async move { while let Some(Ok(_)) = accepted.next().await {} });
    hold.close().await;
    bye.await.unwrap();
    assert_eq!(hold.status().state, LinkState::Disconnected);
}
