//! The real binary over real sockets: what is under way when clients are slow, peers leave, messages are nonsense, and
//! the process is told to end.

mod process;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use process::{LIMIT, Plutino, next, send, stream};

#[tokio::test]
async fn a_consumer_that_must_get_everything_gets_it_and_a_signal_ends_all_cleanly() {
    const MESSAGES: u64 = 100_000;
    let rules = json!({
        "streams": [stream("s", "", "")],
        "rules": [
            // The first rule on the stream is not the one that waits: both wake the same input.
            {"id": "other", "sql": "SELECT * FROM s", "actions": [{"nop": {}}]},
            {"id": "all", "sql": "SELECT n, n * 2 AS twice FROM s", "actions": [
                {"websocket": {"path": "/all", "sendSingle": true, "slowClient": "block", "clientQueue": 500}},
                {"websocket": {"path": "/some", "sendSingle": true, "clientQueue": 500}},
            ]},
        ],
    });
    let mut plutino = Plutino::run("block", &rules, &[]).await;
    let mut all = plutino.connect("/all").await;
    // Never reads: it loses messages and disturbs nobody.
    let _dead = plutino.connect("/some").await;
    let mut source = plutino.connect("/s").await;
    let sender = tokio::spawn(async move {
        let padding = "x".repeat(200);
        for n in 0..MESSAGES {
            let message = Message::text(format!(r#"{{"n":{n},"padding":"{padding}"}}"#));
            source.feed(message).await.expect("the sender is slowed, not cut");
        }
        source.flush().await.expect("the sender is slowed, not cut");
        source
    });
    for n in 0..MESSAGES {
        assert_eq!(next(&mut all).await, Some(json!({"n": n, "twice": 2 * n})));
    }
    let _source = sender.await.expect("the sender ends");
    let status = plutino.says_all(&["all: in 100000", "errors 0"]).await;
    assert!(!status.contains("dropped 0,"), "the client that never reads has lost messages: {status}");
    plutino.terminate();
    assert_eq!(next(&mut all).await, None);
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn what_was_received_is_processed_before_the_end() {
    let rules = json!({
        "streams": [stream("s", "", "")],
        "rules": [{"id": "r", "sql": "SELECT n FROM s", "actions": [{"websocket": {"path": "/r", "sendSingle": true}}]}],
    });
    let mut plutino = Plutino::run("drain", &rules, &[]).await;
    let mut results = plutino.connect("/r").await;
    let mut source = plutino.connect("/s").await;
    for n in 0..5_000 {
        source.feed(Message::text(format!(r#"{{"n":{n}}}"#))).await.expect("the socket is open");
    }
    source.flush().await.expect("the socket is open");
    // The close is answered when all before it has been read.
    source.close(None).await.expect("the socket is open");
    while let Some(message) = timeout(LIMIT, source.next()).await.expect("the close is answered") {
        if message.is_err() {
            break;
        }
    }
    plutino.terminate();
    for n in 0..5_000 {
        assert_eq!(next(&mut results).await, Some(json!({"n": n})));
    }
    assert_eq!(next(&mut results).await, None);
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn nonsense_is_counted_and_harms_nothing() {
    let rules = json!({
        "streams": [stream("s", "", ""), stream("typed", "a BIGINT, b STRING", "")],
        "rules": [
            {"id": "r", "sql": "SELECT n FROM s", "actions": [{"websocket": {"path": "/r", "sendSingle": true}}]},
            {"id": "reads_a", "sql": "SELECT a FROM typed", "actions": [{"websocket": {"path": "/a", "sendSingle": true}}]},
            {"id": "reads_b", "sql": "SELECT b FROM typed", "actions": [{"websocket": {"path": "/b", "sendSingle": true}}]},
        ],
    });
    let mut plutino = Plutino::run("nonsense", &rules, &[]).await;
    let (mut r, mut a, mut b) = (plutino.connect("/r").await, plutino.connect("/a").await, plutino.connect("/b").await);
    let mut s = plutino.connect("/s").await;
    let deep = format!("{{\"n\":{}1{}}}", "[".repeat(10_000), "]".repeat(10_000));
    for text in ["", "nonsense", "5", "[1]", r#"{"n":1"#, r#"{"n":01}"#, deep.as_str()] {
        send(&mut s, text).await;
    }
    s.send(Message::binary(vec![0xff, 0xfe])).await.expect("the socket is open");
    s.send(Message::binary(br#"{"n":"binary"}"#.to_vec())).await.expect("the socket is open");
    send(&mut s, r#"[{"n":1},{"n":2}]"#).await;
    for n in [json!("binary"), json!(1), json!(2)] {
        assert_eq!(next(&mut r).await, Some(json!({"n": n})));
    }
    plutino.says_all(&["r: in 3", "errors 8"]).await;

    // A column that does not convert is the trouble of the rule that reads it.
    let mut typed = plutino.connect("/typed").await;
    send(&mut typed, r#"{"a":"no number","b":"one"}"#).await;
    send(&mut typed, r#"{"a":2,"b":"two"}"#).await;
    assert_eq!(next(&mut a).await, Some(json!({"a": 2})));
    assert_eq!(next(&mut b).await, Some(json!({"b": "one"})));
    assert_eq!(next(&mut b).await, Some(json!({"b": "two"})));

    // A client that breaks the protocol is sent away; the others do not notice.
    let raw = TcpStream::connect(("127.0.0.1", plutino.port)).await.expect("the port is open");
    drop(raw);
    send(&mut typed, r#"{"a":3,"b":"three"}"#).await;
    assert_eq!(next(&mut a).await, Some(json!({"a": 3})));
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_peer_may_come_late_and_come_back() {
    // Bound and let go: the peer is not there yet.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let reconnect = json!({"initial": "20ms", "max": "50ms"});
    let rules = json!({
        "sources": {"websocket": {"peer": {"addr": address.to_string(), "reconnect": reconnect}}},
        "streams": [stream("feed", "", ", CONF_KEY=\"peer\""), stream("s", "", "")],
        "rules": [
            {"id": "r", "sql": "SELECT n FROM feed", "actions": [{"websocket": {"path": "/r", "sendSingle": true}}]},
            {"id": "s", "sql": "SELECT n FROM s", "actions": [{"nop": {}}]},
        ],
    });
    let mut plutino = Plutino::run("late", &rules, &[]).await;
    let mut results = plutino.connect("/r").await;
    for round in 0..3 {
        let listener = TcpListener::bind(address).await.expect("the port is still free");
        let (socket, _) = timeout(LIMIT, listener.accept()).await.expect("it dials").expect("a connection");
        let mut peer = tokio_tungstenite::accept_async(socket).await.expect("a handshake");
        peer.send(Message::text(format!(r#"{{"n":{round}}}"#))).await.expect("the socket is open");
        assert_eq!(next(&mut results).await, Some(json!({"n": round})));
        // Gone without a word.
        drop(peer);
    }
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_idle_process_uses_no_cpu_and_windows_fire_by_the_clock() {
    let rules = json!({
        "streams": [stream("s", "", "")],
        "rules": [
            {"id": "w", "sql": "SELECT count(*) AS n FROM s GROUP BY TUMBLINGWINDOW(ms, 300)",
             "actions": [{"websocket": {"path": "/w"}}]},
            {"id": "c", "sql": "SELECT sum(v) AS v FROM s GROUP BY COUNTWINDOW(2)",
             "actions": [{"websocket": {"path": "/c"}}]},
        ],
    });
    let mut plutino = Plutino::run("idle", &rules, &["--workers", "2"]).await;
    let (mut window, mut count) = (plutino.connect("/w").await, plutino.connect("/c").await);
    let mut source = plutino.connect("/s").await;
    send(&mut source, r#"[{"v":1},{"v":2},{"v":4}]"#).await;
    assert_eq!(next(&mut count).await, Some(json!([{"v": 3}])));
    // No further input is needed.
    assert_eq!(next(&mut window).await, Some(json!([{"n": 3}])));
    let pid = plutino.child.id().expect("it runs");
    let before = process::cpu_ticks(pid);
    // The time is what is measured here.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = process::cpu_ticks(pid) - before;
    assert!(used <= 3, "{used} ticks of CPU in two idle seconds");
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_feed_says_that_its_peer_has_gone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("ws://{}/s", listener.local_addr().expect("it is bound"));
    let mut feed = tokio::process::Command::new(env!("CARGO_BIN_EXE_plutino"))
        .args(["feed", &url])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    // Its next line never comes: it waits when the peer goes.
    let _stdin = feed.stdin.take();
    let (socket, _) = timeout(LIMIT, listener.accept()).await.expect("it dials").expect("a connection");
    drop(tokio_tungstenite::accept_async(socket).await.expect("a handshake"));
    let output = timeout(LIMIT, feed.wait_with_output()).await.expect("it ends").expect("it can be waited for");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the peer ended the connection after 0 messages"), "{said}");
}
