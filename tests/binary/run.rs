//! The real binary over real sockets: behaviour with slow clients, disconnecting peers, unreadable messages, and at the
//! end of the process.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::process::folder::Folder;
use crate::process::serve::free_port;
use crate::process::{LIMIT, Plutino, arrival, next, send, stream};

#[tokio::test]
async fn a_consumer_that_must_get_everything_gets_it_and_a_signal_ends_all_cleanly() {
    const MESSAGES: u64 = 100_000;
    let rules = json!({
        "streams": [stream("s", "", "")],
        "rules": [
            // The first rule on the stream is not the one that waits: both wake the same input.
            {"id": "other", "sql": "SELECT * FROM s", "actions": [{"nop": {}}]},
            {"id": "all", "sql": "SELECT n, n * 2 AS twice, padding FROM s", "actions": [
                {"websocket": {"path": "/all", "sendSingle": true, "slowClient": "block", "clientQueue": 500}},
                {"websocket": {"path": "/some", "sendSingle": true, "clientQueue": 500}},
            ]},
        ],
    });
    let mut plutino = Plutino::run("block", &rules, &[]).await;
    let mut all = plutino.connect("/all").await;
    // Never reads: it loses messages, far more than the system's buffers hold, and affects nobody else.
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
        let row = next(&mut all).await.expect("it goes on");
        assert_eq!((&row["n"], &row["twice"]), (&json!(n), &json!(2 * n)));
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
    // The close is answered when everything before it has been read.
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

    // A column that does not convert is an error only of the rule that reads it.
    let mut typed = plutino.connect("/typed").await;
    send(&mut typed, r#"{"a":"no number","b":"one"}"#).await;
    send(&mut typed, r#"{"a":2,"b":"two"}"#).await;
    assert_eq!(next(&mut a).await, Some(json!({"a": 2})));
    assert_eq!(next(&mut b).await, Some(json!({"b": "one"})));
    assert_eq!(next(&mut b).await, Some(json!({"b": "two"})));

    // A client that breaks the protocol is disconnected; the others are not affected.
    let raw = TcpStream::connect(("127.0.0.1", plutino.port)).await.expect("the port is open");
    drop(raw);
    send(&mut typed, r#"{"a":3,"b":"three"}"#).await;
    assert_eq!(next(&mut a).await, Some(json!({"a": 3})));
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_peer_may_come_late_and_come_back() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
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
        // Disconnected without a close frame.
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
    // Something else may keep it busy for a moment; a busy loop never rests.
    let mut least = u64::MAX;
    for _ in 0..5 {
        let before = crate::process::cpu_ticks(pid);
        // The elapsed time is what is measured here.
        tokio::time::sleep(Duration::from_secs(2)).await;
        least = least.min(crate::process::cpu_ticks(pid) - before);
        if least <= 3 {
            break;
        }
    }
    assert!(least <= 3, "{least} ticks of CPU in two idle seconds");
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn rules_on_one_stream_do_not_disturb_each_other() {
    let sink = |path: &str| json!([{"websocket": {"path": path, "sendSingle": true}}]);
    let rules = json!({
        "streams": [stream("s", "a BIGINT, b STRING, g STRING", "")],
        "rules": [
            {"id": "plain", "sql": "SELECT b FROM s WHERE g = 'x'", "actions": sink("/plain")},
            {"id": "counted", "sql": "SELECT count(*) AS n FROM s GROUP BY COUNTWINDOW(3)", "actions": sink("/counted")},
            {"id": "timed", "sql": "SELECT count(*) AS n FROM s GROUP BY TUMBLINGWINDOW(ms, 200)",
             "actions": sink("/timed")},
            {"id": "told", "sql": "SELECT a FROM s", "actions": sink("/told"), "options": {"sendError": true}},
            {"id": "quiet", "sql": "SELECT a FROM s", "actions": sink("/quiet"), "options": {"sendError": false}},
        ],
    });
    let mut plutino = Plutino::run("several", &rules, &[]).await;
    let mut plain = plutino.connect("/plain").await;
    let mut counted = plutino.connect("/counted").await;
    let mut timed = plutino.connect("/timed").await;
    let (mut told, mut quiet) = (plutino.connect("/told").await, plutino.connect("/quiet").await);
    let mut source = plutino.connect("/s").await;
    send(&mut source, r#"{"a":1,"b":"one","g":"x"}"#).await;
    send(&mut source, r#"{"a":"no number","b":"two","g":"x"}"#).await;
    send(&mut source, r#"{"a":3,"b":"three","g":"last"}"#).await;
    assert_eq!(next(&mut plain).await, Some(json!({"b": "one"})));
    assert_eq!(next(&mut plain).await, Some(json!({"b": "two"})));
    assert_eq!(next(&mut counted).await, Some(json!({"n": 3})));
    // The window may have ended between the messages.
    let mut counted = 0;
    while counted < 3 {
        counted += next(&mut timed).await.and_then(|window| window["n"].as_u64()).expect("a count");
    }
    assert_eq!(next(&mut told).await, Some(json!({"a": 1})));
    // The error is plain text.
    let error = arrival(&mut told).await.expect("it is open").expect("a message");
    assert!(error.to_text().is_ok_and(|error| error.contains("a has wrong type")), "{error}");
    assert_eq!(next(&mut told).await, Some(json!({"a": 3})));
    assert_eq!(next(&mut quiet).await, Some(json!({"a": 1})));
    assert_eq!(next(&mut quiet).await, Some(json!({"a": 3})));
    plutino.terminate();
    plutino.says_all(&["plain: in 3", "errors 0"]).await;
    plutino.says_all(&["quiet: in", "errors 1"]).await;
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn event_time_takes_rows_out_of_order_and_counts_late_ones() {
    let rules = json!({
        "streams": [stream("s", "t BIGINT, v BIGINT", ", TIMESTAMP=\"t\"")],
        "rules": [{
            "id": "w",
            "sql": "SELECT sum(v) AS v, window_start() AS start FROM s GROUP BY TUMBLINGWINDOW(ss, 1)",
            "actions": [{"websocket": {"path": "/w", "sendSingle": true}}],
            "options": {"isEventTime": true, "lateTolerance": 500},
        }],
    });
    let mut plutino = Plutino::run("event", &rules, &[]).await;
    let mut windows = plutino.connect("/w").await;
    let mut source = plutino.connect("/s").await;
    // 1400 is behind 1800 but not late; at 2600 the first window is complete.
    for (t, v) in [(1000, 1), (1800, 2), (1400, 4), (2100, 8), (1999, 16), (2600, 32)] {
        send(&mut source, format!(r#"{{"t":{t},"v":{v}}}"#)).await;
    }
    assert_eq!(next(&mut windows).await, Some(json!({"v": 23, "start": 1000})));
    // Too late for its window, twice.
    for (t, v) in [(1500, 64), (1000, 128), (4000, 256)] {
        send(&mut source, format!(r#"{{"t":{t},"v":{v}}}"#)).await;
    }
    assert_eq!(next(&mut windows).await, Some(json!({"v": 40, "start": 2000})));
    plutino.terminate();
    plutino.says_all(&["w: in", "errors 0", "late 2"]).await;
    assert_eq!(plutino.exit_code().await, Some(0));
}

/// The next connection that is dialled.
async fn accept(listener: &TcpListener) -> tokio_tungstenite::WebSocketStream<TcpStream> {
    let (socket, _) = timeout(LIMIT, listener.accept()).await.expect("it dials").expect("a connection");
    tokio_tungstenite::accept_async(socket).await.expect("a handshake")
}

#[tokio::test]
async fn equal_paths_on_two_hosts_stay_apart_and_a_source_and_a_sink_share_a_connection() {
    let (one, two) = (TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await);
    let (one, two) = (one.expect("a free port"), two.expect("a free port"));
    let address = |listener: &TcpListener| listener.local_addr().expect("it is bound").to_string();
    let from = |name: &str| {
        format!(r#"CREATE STREAM {name} () WITH (TYPE="websocket", DATASOURCE="/feed", CONF_KEY="{name}")"#)
    };
    let back = json!({"path": "/feed", "addr": address(&one), "sendSingle": true});
    let rules = json!({
        "sources": {"websocket": {"one": {"addr": address(&one)}, "two": {"addr": address(&two)}}},
        "streams": [from("one"), from("two"), stream("s", "", "")],
        "rules": [
            {"id": "one", "sql": "SELECT n FROM one", "actions": [{"websocket": {"path": "/one", "sendSingle": true}}]},
            {"id": "two", "sql": "SELECT n FROM two", "actions": [{"websocket": {"path": "/two", "sendSingle": true}}]},
            {"id": "back", "sql": "SELECT n AS answer FROM one", "actions": [{"websocket": back}]},
            {"id": "listens", "sql": "SELECT * FROM s", "actions": [{"nop": {}}]},
        ],
    });
    let mut plutino = Plutino::run("hosts", &rules, &[]).await;
    let (mut first, mut second) = (accept(&one).await, accept(&two).await);
    let (mut results_one, mut results_two) = (plutino.connect("/one").await, plutino.connect("/two").await);
    for n in 0..3 {
        first.send(Message::text(format!(r#"{{"n":{n}}}"#))).await.expect("it is open");
        second.send(Message::text(format!(r#"{{"n":{}}}"#, n + 100))).await.expect("it is open");
    }
    for n in 0..3 {
        assert_eq!(next(&mut results_one).await, Some(json!({"n": n})));
        assert_eq!(next(&mut results_two).await, Some(json!({"n": n + 100})));
        // The sink answers on the connection that the source reads from.
        let answer = arrival(&mut first).await.expect("it is open").expect("a message");
        assert_eq!(answer.into_text().expect("text"), format!(r#"{{"answer":{n}}}"#));
    }
    plutino.terminate();
    assert_eq!(next(&mut results_one).await, None);
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_sink_keeps_results_until_its_peer_comes() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let target = json!({
        "path": "/to", "addr": address.to_string(), "sendSingle": true, "reconnect": {"initial": "20ms", "max": "50ms"},
    });
    let rules = json!({
        "streams": [stream("s", "", "")],
        "rules": [{"id": "r", "sql": "SELECT n FROM s", "actions": [
            {"websocket": target}, {"websocket": {"path": "/seen", "sendSingle": true}}]}],
    });
    let mut plutino = Plutino::run("sink", &rules, &[]).await;
    let (mut source, mut seen) = (plutino.connect("/s").await, plutino.connect("/seen").await);
    for n in 0..10 {
        send(&mut source, format!(r#"{{"n":{n}}}"#)).await;
        assert_eq!(next(&mut seen).await, Some(json!({"n": n})));
    }
    let listener = TcpListener::bind(address).await.expect("the port is still free");
    let mut peer = accept(&listener).await;
    for n in 0..10 {
        let result = arrival(&mut peer).await.expect("it is open").expect("a message");
        assert_eq!(result.into_text().expect("text"), format!(r#"{{"n":{n}}}"#));
    }
    // Closed with a close frame, and back. The connection that it leaves open is not waited for.
    peer.close(None).await.expect("it is open");
    let asked = std::time::Instant::now();
    let _left_open = peer;
    let mut peer = accept(&listener).await;
    assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
    send(&mut source, r#"{"n":10}"#).await;
    let result = arrival(&mut peer).await.expect("it is open").expect("a message");
    assert_eq!(result.into_text().expect("text"), r#"{"n":10}"#);
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_client_that_never_reads_does_not_hold_up_the_end() {
    let rules = json!({
        "streams": [stream("s", "", "")],
        "rules": [{"id": "r", "sql": "SELECT * FROM s", "actions": [
            {"websocket": {"path": "/r", "sendSingle": true, "slowClient": "block", "clientQueue": 10}}]}],
    });
    let mut plutino = Plutino::run("stuck", &rules, &[]).await;
    let _dead = plutino.connect("/r").await;
    let mut source = plutino.connect("/s").await;
    let padding = "x".repeat(10_000);
    // Until all buffers in between are full: a frame that is not taken within a second.
    let full = async {
        loop {
            let sent = source.send(Message::text(format!(r#"{{"p":"{padding}"}}"#)));
            if timeout(Duration::from_secs(1), sent).await.is_err() {
                break;
            }
        }
    };
    timeout(LIMIT, full).await.expect("the sender is held up");
    let asked = std::time::Instant::now();
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
    // Five seconds for the engine, five for the sinks, three for close frames.
    assert!(asked.elapsed() < Duration::from_secs(60), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn absent_folders_are_not_made() {
    let folder = Folder::new("empty");
    let (etc, data) = (folder.path("etc"), folder.path("data"));
    let rules = json!({
        "streams": [stream("s", "", "")],
        "rules": [{"id": "r", "sql": "SELECT n FROM s", "actions": [{"websocket": {"path": "/r", "sendSingle": true}}]}],
    });
    let folders = ["--etc", etc.to_str().expect("text"), "--data", data.to_str().expect("text")];
    let mut plutino = Plutino::run("folders", &rules, &folders).await;
    let (mut results, mut source) = (plutino.connect("/r").await, plutino.connect("/s").await);
    send(&mut source, r#"{"n":1}"#).await;
    assert_eq!(next(&mut results).await, Some(json!({"n": 1})));
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
    assert_eq!(std::fs::read_dir(&folder.0).expect("it is there").count(), 0);
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
    // Its next line never arrives: it is waiting when the peer disconnects.
    let _stdin = feed.stdin.take();
    let (socket, _) = timeout(LIMIT, listener.accept()).await.expect("it dials").expect("a connection");
    drop(tokio_tungstenite::accept_async(socket).await.expect("a handshake"));
    let output = timeout(LIMIT, feed.wait_with_output()).await.expect("it ends").expect("it can be waited for");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the peer ended the connection after 0 messages"), "{said}");
}

#[tokio::test]
async fn a_feed_ends_though_a_client_takes_nothing_and_says_what_was_not_taken() {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let listener = socket.listen(8).expect("it listens");
    let addr = listener.local_addr().expect("it is bound").to_string();
    // Completes the handshake and never reads.
    let dead = tokio::spawn(async move { (accept(&listener).await, std::future::pending::<()>().await) });
    // Little input, so that the feed reaches its end; much output.
    let wide: Vec<String> = (0..50).map(|n| format!("p AS p{n}")).collect();
    let rules = json!({
        "streams": [stream("s", "", "")],
        "rules": [{"id": "r", "sql": format!("SELECT {} FROM s", wide.join(", ")), "actions": [{"websocket":
            {"addr": addr, "path": "/r", "sendSingle": true, "slowClient": "block", "clientQueue": 10,
             "checkConnection": true}}]}],
    });
    let folder = Folder::new("feed");
    let line = format!("{{\"p\":\"{}\"}}\n", "x".repeat(10_000));
    let file = folder.write("feed.ndjson", &line.repeat(60));
    let mut plutino = Plutino::run("deadfeed", &rules, &["--feed", file.to_str().expect("text")]).await;
    let begun = std::time::Instant::now();
    plutino.says("r: in 60 ").await;
    plutino.says("lost (not taken before the end)").await;
    assert_eq!(plutino.exit_code().await, Some(0));
    assert!(begun.elapsed() < Duration::from_secs(90), "{:?}", begun.elapsed());
    dead.abort();
}

#[tokio::test]
async fn what_a_peer_says_at_once_reaches_the_rule_whose_sink_shares_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("it is bound").to_string();
    let rules = json!({
        "sources": {"websocket": {"peer": {"addr": addr}}},
        "streams": [stream("s", "", r#", CONF_KEY="peer""#)],
        "rules": [{"id": "r", "sql": "SELECT n FROM s", "actions": [
            // The first sink delays the start of the rule until it is connected.
            {"websocket": {"addr": addr, "path": "/s", "sendSingle": true, "checkConnection": true}},
            {"websocket": {"path": "/also"}},
        ]}],
    });
    let serves = async {
        let mut peer = accept(&listener).await;
        for n in 0..1000 {
            peer.feed(Message::text(format!(r#"{{"n":{n}}}"#))).await.expect("the socket is open");
        }
        peer.flush().await.expect("the socket is open");
        peer
    };
    let (mut plutino, mut peer) = tokio::join!(Plutino::run("duplex", &rules, &[]), serves);
    for n in 0..1000 {
        let message = arrival(&mut peer).await.expect("it is open").expect("a frame");
        assert_eq!(message.into_text().expect("text"), format!(r#"{{"n":{n}}}"#));
    }
    plutino.terminate();
    let end = arrival(&mut peer).await;
    assert!(matches!(end, Some(Ok(Message::Close(_)))), "{end:?}");
    drop(peer);
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn a_rule_that_took_its_data_for_simulated_restarts() {
    let rules = json!({
        "streams": [stream("s", "", ", TIMESTAMP=\"ts\"")],
        "rules": [{
            "id": "r", "sql": "SELECT v FROM s", "options": {"isEventTime": true, "lateTolerance": 0},
            "actions": [{"websocket": {"path": "/r", "sendSingle": true}}],
        }],
    });
    let mut plutino = Plutino::run("misled", &rules, &[]).await;
    let (mut r, mut s) = (plutino.connect("/r").await, plutino.connect("/s").await);
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time after 1970");
    let now = since.as_millis() as u64;
    let far = now + 365 * 86_400_000;
    plutino.rewrite(&json!("not rules"));
    for (v, ts) in [(1, far), (2, far), (3, far), (4, now), (5, now), (6, now)] {
        send(&mut s, json!({"v": v, "ts": ts}).to_string()).await;
    }
    let why = plutino.says("the watermark of rule r is far ahead of the clock").await;
    assert!(
        why.contains("it restarts when the rule files can be used again") && why.contains("the file holds"),
        "{why}"
    );
    plutino.rewrite(&rules);
    plutino.says("rule r is restarted with empty state").await;
    send(&mut s, json!({"v": 7, "ts": now + 1}).to_string()).await;
    loop {
        let row = next(&mut r).await.expect("the socket is open");
        if row["v"] == 7 {
            break;
        }
    }
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}
