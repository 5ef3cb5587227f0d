//! The websocket connector against real peers: roles, handshakes, bad input and errors; and helpers for the other
//! files.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use plutino::io::LinkState;
use plutino::io::events::EventSink;
use plutino::io::queue::{FrameReceiver, FrameSender, MessageBatch, Received, Signal, inbound};
use plutino::io::sink::OpenSink;
use plutino::io::source::OpenSource;
use plutino::io::websocket::{ConnectError, ServerSettings, ServerTls, Settings, Websockets};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame as WireFrame, FrameHeader};
use tokio_tungstenite::tungstenite::{Error, Message};

pub const LIMIT: Duration = Duration::from_secs(60);

/// A thread with its own runtime, like the data threads of the engine.
fn data_thread() -> tokio::runtime::Handle {
    let (give, take) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        give.send(runtime.handle().clone()).unwrap();
        runtime.block_on(std::future::pending::<()>());
    });
    take.recv().unwrap()
}

pub fn hub() -> Websockets {
    hub_with(|_| ())
}

pub fn hub_with(change: impl FnOnce(&mut ServerSettings)) -> Websockets {
    let mut settings = ServerSettings { ip: "127.0.0.1".into(), port: 0, ..ServerSettings::default() };
    change(&mut settings);
    Websockets::new(settings, vec![data_thread(), data_thread()])
}

/// The receiving end of a stream's queue.
pub struct Stream {
    pub receiver: FrameReceiver,
    wake: Arc<Notify>,
    waiting: std::collections::VecDeque<String>,
}

pub fn signal() -> (Signal, Arc<Notify>) {
    let (ready, _slots) = crossbeam_channel::unbounded();
    let wake = Arc::new(Notify::new());
    (Signal::new(0, ready, wake.clone()), wake)
}

pub fn stream() -> (FrameSender, Stream) {
    let (signal, wake) = signal();
    let (sender, receiver) = inbound(signal);
    (sender, Stream { receiver, wake, waiting: Default::default() })
}

impl Stream {
    pub async fn next(&mut self) -> String {
        timeout(LIMIT, async {
            loop {
                if let Some(text) = self.waiting.pop_front() {
                    return text;
                }
                let woken = self.wake.notified();
                self.receiver.lower();
                match self.receiver.receive() {
                    Received::Batch(batch) => self
                        .waiting
                        .extend(batch.frames.iter().map(|frame| String::from_utf8_lossy(frame.bytes()).into_owned())),
                    Received::Empty => woken.await,
                    Received::Ended => panic!("the stream has ended"),
                }
            }
        })
        .await
        .expect("a message comes")
    }
}

pub fn props(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

pub fn source(path: &str, value: Value) -> Settings {
    Settings::source(path, &props(value)).unwrap().0
}

pub fn sink(value: Value) -> Settings {
    Settings::sink(&props(value)).unwrap().0
}

pub fn batch(texts: &[&str]) -> Arc<MessageBatch> {
    let mut ends = Vec::new();
    let mut bytes = Vec::new();
    for text in texts {
        bytes.extend_from_slice(text.as_bytes());
        ends.push(bytes.len() as u32);
    }
    Arc::new(MessageBatch::new(Bytes::from(bytes), ends, true, None))
}

pub type Client = WebSocketStream<TcpStream>;

pub async fn try_client(addr: SocketAddr, path: &str) -> Result<Client, Error> {
    let stream = TcpStream::connect(addr).await?;
    Ok(tokio_tungstenite::client_async(format!("ws://{addr}{path}"), stream).await?.0)
}

pub async fn client(addr: SocketAddr, path: &str) -> Client {
    timeout(LIMIT, try_client(addr, path)).await.unwrap().unwrap()
}

pub async fn receive(client: &mut Client) -> Message {
    loop {
        match timeout(LIMIT, client.next()).await.expect("a message comes").expect("the connection is open").unwrap() {
            Message::Ping(_) | Message::Pong(_) => {}
            message => return message,
        }
    }
}

pub async fn text(client: &mut Client) -> String {
    receive(client).await.into_text().unwrap().to_string()
}

pub async fn close_code(client: &mut Client) -> CloseCode {
    loop {
        if let Message::Close(frame) = receive(client).await {
            return frame.expect("a close frame with a code").code;
        }
    }
}

/// Waits until another thread has made the condition true.
pub async fn until(mut holds: impl FnMut() -> bool) {
    timeout(LIMIT, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the condition becomes true");
}

#[tokio::test]
async fn a_server_source_takes_the_messages_of_all_clients() {
    let hub = hub();
    let (frames, mut stream) = stream();
    let link = hub.open_source(source("/in?x=1", json!({})), 0, frames).await.unwrap();
    let addr = hub.listening().unwrap();
    let mut one = client(addr, "/in").await;
    let mut two = client(addr, "/in?token=a").await;
    one.send("a".into()).await.unwrap();
    assert_eq!(stream.next().await, "a");
    two.send(Message::binary(&b"b"[..])).await.unwrap();
    assert_eq!(stream.next().await, "b");
    let status = link.status();
    assert_eq!((status.messages, status.bytes, status.peers, status.state), (2, 2, 2, LinkState::Connected));
    one.close(None).await.unwrap();
    until(|| link.status().peers == 1).await;
    let closing = tokio::spawn(async move { link.close().await });
    assert_eq!(close_code(&mut two).await, CloseCode::Away);
    while two.next().await.is_some() {}
    timeout(LIMIT, closing).await.unwrap().unwrap();
    assert!(hub.listening().is_none(), "the server stops after the last link");
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn a_server_sink_sends_to_all_clients_from_when_they_joined() {
    let hub = hub();
    let (signal, _) = signal();
    let link = hub.open_sink(sink(json!({"path": "/out"})), 1, signal).await.unwrap();
    let outlet = link.messages();
    outlet.send(&batch(&["lost"]));
    let addr = hub.listening().unwrap();
    let mut one = client(addr, "/out").await;
    outlet.send(&batch(&["a", "b"]));
    assert_eq!(text(&mut one).await, "a");
    assert_eq!(text(&mut one).await, "b");
    let mut two = client(addr, "/out").await;
    outlet.send(&batch(&["c"]));
    assert_eq!(text(&mut one).await, "c");
    assert_eq!(text(&mut two).await, "c");
    until(|| link.status().queued == 0).await;
    let status = link.status();
    assert_eq!((status.messages, status.bytes, status.dropped), (4, 4, vec![("no client", 1)]));
    outlet.send(&batch(&["last"]));
    let closing = tokio::spawn(async move { link.close(LIMIT).await });
    for client in [&mut one, &mut two] {
        assert_eq!(text(client).await, "last");
        assert_eq!(close_code(client).await, CloseCode::Away);
        while client.next().await.is_some() {}
    }
    timeout(LIMIT, closing).await.unwrap().unwrap();
}

#[tokio::test]
async fn source_and_sink_on_one_path_share_its_clients() {
    let hub = hub();
    let (frames, mut stream) = stream();
    let source_link = hub.open_source(source("/both", json!({})), 0, frames).await.unwrap();
    let sink_link = hub.open_sink(sink(json!({"path": "/both"})), 1, signal().0).await.unwrap();
    let mut client = client(hub.listening().unwrap(), "/both").await;
    client.send("in".into()).await.unwrap();
    assert_eq!(stream.next().await, "in");
    sink_link.messages().send(&batch(&["out"]));
    assert_eq!(text(&mut client).await, "out");
    // The path lives as long as any link uses it.
    source_link.close().await;
    sink_link.messages().send(&batch(&["still"]));
    assert_eq!(text(&mut client).await, "still");
}

#[tokio::test]
async fn a_client_link_dials_redials_and_keeps_what_waits() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let hub = hub();
    let common = json!({"addr": addr.to_string(), "path": "/x?q=1", "reconnect": {"initial": 5}, "onOpen": {"sub": 1}});
    let (frames, mut stream) = stream();
    let source_link = hub.open_source(source("", common.clone()), 0, frames).await.unwrap();
    let sink_link = hub.open_sink(sink(common), 0, signal().0).await.unwrap();
    let (first, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    let mut first = tokio_tungstenite::accept_async(first).await.unwrap();
    assert_eq!(text(&mut first).await, r#"{"sub":1}"#);
    first.send("a".into()).await.unwrap();
    assert_eq!(stream.next().await, "a");
    sink_link.messages().send(&batch(&["r1"]));
    assert_eq!(text(&mut first).await, "r1");
    assert_eq!(source_link.status().state, LinkState::Connected);
    drop(first);
    until(|| source_link.status().last_error.is_some()).await;
    sink_link.messages().send(&batch(&["r2"]));
    let (second, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
    let mut second = tokio_tungstenite::accept_async(second).await.unwrap();
    assert_eq!(text(&mut second).await, r#"{"sub":1}"#);
    assert_eq!(text(&mut second).await, "r2");
    source_link.close().await;
    let closing = tokio::spawn(async move { sink_link.close(LIMIT).await });
    assert_eq!(close_code(&mut second).await, CloseCode::Away);
    while second.next().await.is_some() {}
    drop(second);
    timeout(LIMIT, closing).await.unwrap().unwrap();
}

#[tokio::test]
async fn equal_paths_on_different_hosts_are_different_connections() {
    let hub = hub();
    let mut links = Vec::new();
    for n in 0..2 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (frames, stream) = stream();
        let addr = listener.local_addr().unwrap().to_string();
        let link = hub.open_source(source("/same", json!({"addr": addr})), 0, frames).await.unwrap();
        let mut peer = tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap();
        peer.send(n.to_string().into()).await.unwrap();
        links.push((link, stream, peer));
    }
    for (n, (_, stream, _)) in links.iter_mut().enumerate() {
        assert_eq!(stream.next().await, n.to_string());
    }
}

#[tokio::test]
async fn strange_peers_leave_a_client_link_connecting_with_the_reason() {
    let hub = hub();
    // Answers, but not as a websocket server; closes at once; listens no more.
    for answer in [Some("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Some("hello\r\n\r\n"), Some(""), None] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let peer = answer.map(|answer| {
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            })
        });
        let (frames, _stream) = stream();
        let link = hub.open_source(source("/x", json!({"addr": addr.to_string()})), 0, frames).await.unwrap();
        until(|| link.status().last_error.is_some()).await;
        let status = link.status();
        assert_eq!(status.state, LinkState::Connecting);
        assert!(status.last_error.unwrap().1.contains(&addr.to_string()));
        timeout(LIMIT, link.close()).await.unwrap();
        if let Some(peer) = peer {
            peer.abort();
        }
    }
}

#[tokio::test]
async fn check_connection_refuses_a_sink_without_a_peer() {
    let hub = hub();
    let server = json!({"path": "/c", "checkConnection": true});
    let refused = hub.open_sink(sink(server.clone()), 0, signal().0).await;
    assert!(matches!(refused, Err(ConnectError::NoClient(path)) if path == "/c"));
    let (frames, _stream) = stream();
    let _source = hub.open_source(source("/c", json!({})), 0, frames).await.unwrap();
    assert!(hub.open_sink(sink(server.clone()), 0, signal().0).await.is_err());
    let _client = client(hub.listening().unwrap(), "/c").await;
    hub.open_sink(sink(server), 0, signal().0).await.unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let dialled = json!({"path": "/c", "addr": addr.to_string(), "checkConnection": true});
    let accepting =
        tokio::spawn(async move { tokio_tungstenite::accept_async(listener.accept().await.unwrap().0).await.unwrap() });
    let link = hub.open_sink(sink(dialled.clone()), 0, signal().0).await.unwrap();
    drop(accepting.await.unwrap());
    timeout(LIMIT, link.close(Duration::ZERO)).await.unwrap();
    let refused = hub.open_sink(sink(dialled), 0, signal().0).await;
    assert!(matches!(refused, Err(ConnectError::Unreachable(_))));
}

#[tokio::test]
async fn http_requests_get_http_answers() {
    let hub = hub();
    let (frames, _stream) = stream();
    let _link = hub.open_source(source("/ws", json!({})), 0, frames).await.unwrap();
    let addr = hub.listening().unwrap();
    let long = format!("GET /ws HTTP/1.1\r\nX: {}\r\n", "x".repeat(20_000));
    for (request, status) in [
        ("GET /none HTTP/1.1\r\nHost: x\r\n\r\n", "404 Not Found"),
        ("GET /ws/ HTTP/1.1\r\nHost: x\r\n\r\n", "404 Not Found"),
        ("GET /WS HTTP/1.1\r\nHost: x\r\n\r\n", "404 Not Found"),
        ("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n", "400 Bad Request"),
        ("POST /ws HTTP/1.1\r\nHost: x\r\n\r\n", "400 Bad Request"),
        ("\u{1}\u{2}\r\n\r\n", "400 Bad Request"),
        (&long, "431 "),
    ] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(LIMIT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:.40}: {answer}");
    }
}

#[tokio::test]
async fn no_form_of_a_request_gets_past_the_gate() {
    let tokens = vec!["secret".to_owned()];
    let settings = ServerSettings { ip: "127.0.0.1".into(), port: 0, tokens, ..ServerSettings::default() };
    let hub = Websockets::new(settings, vec![data_thread()]);
    let addr = hub.publish_events("/events", EventSink::open()).await.unwrap();
    let (frames, _stream) = stream();
    let _link = hub.open_source(source("/ws", json!({})), 0, frames).await.unwrap();
    let headers = "X: y\r\n".repeat(200);
    for path in ["/events", "/ws", "/nowhere"] {
        for request in [
            format!("GET {path} HTTP/1.1\r\n\r\n"),
            format!("GET {path} HTTP/1.0\r\n\r\n"),
            format!("POST {path} HTTP/1.1\r\n\r\n"),
            format!("GET {path} HTTP/1.1\r\nno header\r\n\r\n"),
            format!("GET {path} HTTP/1.1\r\n{headers}\r\n"),
        ] {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            timeout(LIMIT, stream.read_exact(&mut answer)).await.unwrap().unwrap();
            let expected =
                if request.contains("HTTP/1.1\r\n\r\n") && request.starts_with("GET") { "401" } else { "400" };
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.ends_with(expected), "{request:.40}: {answer}");
        }
    }
}

#[tokio::test]
async fn bad_frames_close_their_connection_and_no_other() {
    let hub = hub();
    let (frames, mut stream) = stream();
    let link = hub.open_source(source("/in", json!({"maxMessageSize": 100})), 0, frames).await.unwrap();
    let addr = hub.listening().unwrap();
    let mut good = client(addr, "/in").await;
    let header = |opcode| FrameHeader { opcode, mask: Some([1, 2, 3, 4]), ..FrameHeader::default() };
    for (frame, code) in [
        (
            WireFrame::from_payload(header(OpCode::Data(Data::Text)), Bytes::from_static(&[0xff, 0xfe])),
            CloseCode::Invalid,
        ),
        (WireFrame::from_payload(header(OpCode::Data(Data::Text)), Bytes::from(vec![b'x'; 101])), CloseCode::Size),
        (WireFrame::from_payload(header(OpCode::Data(Data::Reserved(3))), Bytes::new()), CloseCode::Protocol),
    ] {
        let mut bad = client(addr, "/in").await;
        bad.send(Message::Frame(frame)).await.unwrap();
        assert_eq!(close_code(&mut bad).await, code);
        good.send("fine".into()).await.unwrap();
        assert_eq!(stream.next().await, "fine");
        until(|| link.status().last_error.is_some()).await;
    }
}

#[tokio::test]
async fn pings_are_answered_while_only_reading() {
    let hub = hub();
    let (frames, _stream) = stream();
    let _link = hub.open_source(source("/in", json!({})), 0, frames).await.unwrap();
    let mut client = client(hub.listening().unwrap(), "/in").await;
    client.send(Message::Ping(Bytes::from_static(b"p"))).await.unwrap();
    assert_eq!(timeout(LIMIT, client.next()).await.unwrap().unwrap().unwrap(), Message::Pong(Bytes::from_static(b"p")));
}

#[tokio::test]
async fn a_silent_peer_is_dropped() {
    let hub = hub();
    let (frames, _stream) = stream();
    let settings = source("/in", json!({"pingInterval": 5, "idleTimeout": 50}));
    let link = hub.open_source(settings, 0, frames).await.unwrap();
    // It is never polled again, so it answers no ping.
    let _silent = client(hub.listening().unwrap(), "/in").await;
    until(|| link.status().peers == 1 || link.status().last_error.is_some()).await;
    until(|| link.status().peers == 0).await;
    assert!(link.status().last_error.unwrap().1.contains("silent for too long"));
}

#[tokio::test]
async fn a_full_stream_slows_the_sender_and_loses_nothing() {
    let hub = hub();
    let (frames, mut stream) = stream();
    let _link = hub.open_source(source("/in", json!({})), 0, frames).await.unwrap();
    let mut client = client(hub.listening().unwrap(), "/in").await;
    let sending = tokio::spawn(async move {
        for n in 0..50_000 {
            client.feed(Message::text(format!("{n:0>200}"))).await.unwrap();
        }
        client.flush().await.unwrap();
        client
    });
    for n in 0..50_000 {
        assert_eq!(stream.next().await, format!("{n:0>200}"));
    }
    sending.await.unwrap();
}

#[tokio::test]
async fn a_flush_that_ends_within_a_batch_keeps_the_order() {
    let hub = hub();
    let link = hub.open_sink(sink(json!({"path": "/out"})), 0, signal().0).await.unwrap();
    let mut client = client(hub.listening().unwrap(), "/out").await;
    until(|| link.status().peers == 1).await;
    // Of the first batch the messages fit into a flush of 256 KiB, but their frames do not.
    let texts: Vec<String> = (0..12_010).map(|n| format!("{n:0>20}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    link.messages().send(&batch(&texts[..12_000]));
    link.messages().send(&batch(&texts[12_000..]));
    for expected in texts {
        assert_eq!(text(&mut client).await, expected);
    }
}

#[tokio::test]
async fn a_port_in_use_is_told_with_the_fix() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let settings = ServerSettings { ip: "127.0.0.1".into(), port, ..ServerSettings::default() };
    let hub = Websockets::new(settings, vec![data_thread()]);
    let (frames, _stream) = stream();
    let error = hub.open_source(source("/in", json!({})), 0, frames).await.err().unwrap();
    assert!(error.to_string().contains(&port.to_string()) && error.to_string().contains("httpServerPort"), "{error}");
    drop(taken);
    let (frames, _stream) = self::stream();
    hub.open_source(source("/in", json!({})), 0, frames).await.expect("once the port is free, it works");
}

#[tokio::test]
async fn wrong_server_certificates_name_property_and_file() {
    let tls =
        Some(ServerTls { certfile: "/no/such.pem".into(), keyfile: "/no/such.key".into(), ..ServerTls::default() });
    let settings = ServerSettings { ip: "127.0.0.1".into(), port: 0, tls, ..ServerSettings::default() };
    let hub = Websockets::new(settings, vec![data_thread()]);
    let (frames, _stream) = stream();
    let error = hub.open_source(source("/in", json!({})), 0, frames).await.err().unwrap().to_string();
    assert!(error.contains("certfile") && error.contains("/no/such.pem"), "{error}");
}

#[test]
fn wrong_properties_are_named() {
    let wss = |more: Value| {
        let mut all = props(json!({"path": "/x", "addr": "h:1", "scheme": "wss"}));
        all.extend(props(more));
        Value::Object(all)
    };
    let no_pem = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    for (value, expected) in [
        (json!({"path": "x"}), "should start with /"),
        (json!({}), "should start with /"),
        (json!({"path": "/x", "addr": 5}), "property addr is 5, expected host:port"),
        (json!({"path": "/x", "addr": "h:0"}), "expected host:port"),
        (json!({"path": "/x", "addr": "h:99999"}), "expected host:port"),
        (json!({"path": "/x", "addr": "a b:1"}), "expected host:port"),
        (json!({"path": "/x", "scheme": "http"}), "expected ws or wss"),
        (json!({"path": "/x", "pingInterval": "soon"}), "property pingInterval is \"soon\""),
        (json!({"path": "/x", "idleTimeout": -1}), "idleTimeout"),
        (json!({"path": "/x", "reconnect": {"jitter": 2}}), "reconnect.jitter"),
        (json!({"path": "/x", "slowClient": "wait"}), "dropOldest, disconnect or block"),
        (json!({"path": "/x", "clientQueue": {"messages": 0}}), "clientQueue.messages"),
        (json!({"path": "/x", "headers": {"A\n": "b"}}), "property headers"),
        (json!({"path": "/x", "mode": "both"}), "expected failover or mirror"),
        (json!({"path": "/x", "gapSequence": "a->"}), "property gapSequence"),
        (json!({"path": "/x", "keepAlive": {"every": "1s"}}), "keepAlive has no message"),
        (json!({"path": "/x", "keepAlive": {"message": 1}}), "property keepAlive.message"),
        (json!({"path": "/x", "onOpen": "${PLUTINO_NO_SUCH_VARIABLE}"}), "PLUTINO_NO_SUCH_VARIABLE"),
        (wss(json!({"rootCaPath": "/no/such.pem"})), "property rootCaPath: cannot read /no/such.pem"),
        (wss(json!({"rootCaPath": no_pem})), "holds no certificate"),
        (wss(json!({"rootCARaw": "-----BEGIN"})), "property rootCARaw: not the base64"),
        (wss(json!({"certficationRaw": "eA==", "insecureSkipVerify": true})), "needs privateKeyPath"),
    ] {
        let error = Settings::sink(&props(value)).expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn unknown_properties_are_warned_of() {
    let (_, warnings) =
        Settings::sink(&props(json!({"path": "/x", "adr": "h:1", "sendSingle": true, "zzzzzz": 1, "fields": []})))
            .unwrap();
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["unknown property adr is ignored: did you mean addr?", "unknown property zzzzzz is ignored"]);
    let (settings, warnings) = Settings::sink(&props(json!({"path": "/x", "address": "h:1"}))).unwrap();
    assert_eq!(settings.address(), "ws://h:1/x");
    assert_eq!(warnings.len(), 1);
}

#[tokio::test]
async fn thousands_of_connects_leave_nothing_behind() {
    let hub = hub();
    let (frames, mut stream) = stream();
    let link = hub.open_source(source("/in", json!({})), 0, frames).await.unwrap();
    let sink_link = hub.open_sink(sink(json!({"path": "/in"})), 0, signal().0).await.unwrap();
    let addr = hub.listening().unwrap();
    for round in 0..2000 {
        let mut client = client(addr, "/in").await;
        match round % 3 {
            0 => drop(client),
            1 => client.close(None).await.unwrap(),
            _ => {
                client.send("x".into()).await.unwrap();
                assert_eq!(stream.next().await, "x");
            }
        }
    }
    until(|| link.status().peers == 0).await;
    assert!(sink_link.clients().is_empty());
}
