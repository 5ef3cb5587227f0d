//! Store and forward: messages that a peer has not received are stored while it is away, across lost connections and
//! kills of the sender.
#![cfg(unix)]

use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::process::http::HttpServer;
use crate::process::serve::{Folder, LIMIT, Served, free_port};
use crate::process::{Client, Plutino, send, stream};

type Peer = WebSocketStream<TcpStream>;

/// The sink of a rule that sends to a peer.
fn to_peer(port: u16, more: Value) -> Value {
    let mut props = json!({
        "addr": format!("127.0.0.1:{port}"), "path": "/up", "sendSingle": true, "enableCache": true,
        "reconnect": {"initial": "100ms", "max": "200ms"},
    });
    if let (Value::Object(props), Value::Object(more)) = (&mut props, more) {
        props.extend(more);
    }
    json!({"websocket": props})
}

/// Waits until a message is in a file below `folder`.
async fn is_on_disk(folder: &Path, message: &str) {
    fn holds(folder: &Path, message: &[u8]) -> bool {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.into_iter().any(|path| match path.is_dir() {
            true => holds(&path, message),
            false => std::fs::read(path).unwrap_or_default().windows(message.len()).any(|bytes| bytes == message),
        })
    }
    let began = Instant::now();
    while !holds(folder, message.as_bytes()) {
        assert!(began.elapsed() < LIMIT, "{message} is not on disk");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn rule(served: &Served, action: Value) {
    let stream = json!({"sql": "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")"});
    served.asks("POST", "/streams", &stream).await.done();
    let rule = json!({"id": "r", "sql": "SELECT n FROM demo", "actions": [action]});
    served.asks("POST", "/rules", &rule).await.done();
}

async fn send_numbers(client: &mut Client, numbers: std::ops::Range<i64>) {
    for n in numbers {
        send(client, json!({"n": n}).to_string()).await;
    }
}

fn kept(status: &Value, kind: &str) -> i64 {
    status[format!("sink_{kind}_0_0_buffer_length")].as_i64().unwrap_or(-1)
}

async fn listen(port: u16) -> TcpListener {
    let began = Instant::now();
    loop {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => return listener,
            Err(error) => assert!(began.elapsed() < LIMIT, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn accept(listener: &TcpListener) -> Peer {
    let (socket, _) = timeout(LIMIT, listener.accept()).await.expect("it is dialled").expect("a socket");
    tokio_tungstenite::accept_async(socket).await.expect("a websocket")
}

/// Reads this many messages. Pings are answered meanwhile.
async fn read(peer: &mut Peer, count: usize) -> Vec<i64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        let message = timeout(LIMIT, peer.next()).await.expect("a message comes").expect("it goes on");
        if let Message::Text(text) = message.expect("the socket is whole") {
            numbers.push(serde_json::from_str::<Value>(&text).expect("JSON")["n"].as_i64().expect("n"));
        }
    }
    numbers
}

/// Reads this many messages as they are.
async fn texts(peer: &mut Peer, count: usize) -> Vec<String> {
    let mut texts = Vec::new();
    while texts.len() < count {
        let message = timeout(LIMIT, peer.next()).await.expect("a message comes").expect("it goes on");
        if let Message::Text(text) = message.expect("the socket is whole") {
            texts.push(text.to_string());
        }
    }
    texts
}

/// Answers pings until the task is dropped.
fn answer(mut peer: Peer) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { while let Some(Ok(_)) = peer.next().await {} })
}

#[tokio::test]
async fn a_peer_that_was_away_gets_all_even_after_a_kill() {
    let folder = Folder::new("store-kill");
    let port = free_port();
    let mut served = folder.serve();
    rule(&served, to_peer(port, json!({}))).await;
    let mut client = served.connect("/in").await;
    send_numbers(&mut client, 0..3000).await;
    served.status_when("all are kept", |status| kept(status, "websocket") == 3000).await;
    is_on_disk(&folder.path("data/cache"), "{\"n\":2999}").await;
    served.kill();
    let served = folder.serve();
    let mut client = served.connect("/in").await;
    send_numbers(&mut client, 3000..3100).await;
    served.status_when("what was kept is there", |status| kept(status, "websocket") == 3100).await;
    let listener = listen(port).await;
    let mut peer = accept(&listener).await;
    assert_eq!(read(&mut peer, 3100).await, (0..3100).collect::<Vec<_>>());
    let answering = answer(peer);
    let done = served.status_when("all is proven", |status| kept(status, "websocket") == 0).await;
    assert_eq!(done["sink_websocket_0_0_dropped"], json!({}), "{done:#}");
    answering.abort();
}

#[tokio::test]
async fn what_a_cut_connection_has_not_proven_comes_again_in_order() {
    let folder = Folder::new("store-cuts");
    let served = folder.serve();
    let listener = listen(0).await;
    let port = listener.local_addr().expect("it is bound").port();
    rule(&served, to_peer(port, json!({}))).await;
    let mut client = served.connect("/in").await;
    let sending = tokio::spawn(async move {
        for n in 0..4000 {
            send(&mut client, json!({"n": n}).to_string()).await;
            if n % 100 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        client
    });
    let (mut next, mut cuts) = (0, 0);
    while next < 4000 {
        let mut peer = accept(&listener).await;
        let mut numbers = read(&mut peer, 300).await;
        // The first connections are dropped in the middle, without a close frame.
        while cuts >= 8 && numbers.last() != Some(&3999) {
            numbers.extend(read(&mut peer, 1).await);
        }
        assert!(numbers[0] <= next, "nothing is left out: {} after {next}", numbers[0]);
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "they are in order");
        next = next.max(numbers[numbers.len() - 1] + 1);
        cuts += 1;
        if next >= 4000 {
            answer(peer);
            break;
        }
        socket2::SockRef::from(peer.get_ref()).set_linger(Some(Duration::ZERO)).expect("a reset");
        drop(peer);
    }
    let _client = sending.await.expect("all are sent");
    let done = served.status_when("all is proven", |status| kept(status, "websocket") == 0).await;
    assert_eq!(done["sink_websocket_0_0_dropped"], json!({}), "{done:#}");
    assert!(cuts > 4, "{cuts}");
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_has_nothing_proven() {
    let folder = Folder::new("store-silent");
    let served = folder.serve();
    let listener = listen(0).await;
    let port = listener.local_addr().expect("it is bound").port();
    rule(&served, to_peer(port, json!({}))).await;
    let mut client = served.connect("/in").await;
    let silent = accept(&listener).await;
    send_numbers(&mut client, 0..50).await;
    served.status_when("all are kept", |status| kept(status, "websocket") == 50).await;
    // The peer reads nothing, so that no ping is answered.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(kept(&served.status_when("a status", |_| true).await, "websocket"), 50);
    drop(silent);
    let mut peer = accept(&listener).await;
    assert_eq!(read(&mut peer, 50).await, (0..50).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_oldest_go_beyond_the_limit_and_all_goes_with_the_rule() {
    let folder = Folder::new("store-full");
    let port = free_port();
    let served = folder.serve();
    let small = json!({"memoryCacheThreshold": 10, "maxDiskCache": 20, "bufferPageSize": 10});
    rule(&served, to_peer(port, small)).await;
    let mut client = served.connect("/in").await;
    send_numbers(&mut client, 0..100).await;
    served
        .status_when("the oldest are dropped", |status| {
            status["sink_websocket_0_0_dropped"]["cache full"] == 70 && kept(status, "websocket") == 30
        })
        .await;
    served.asks("POST", "/rules/r/stop", &Value::Null).await.done();
    served.asks("POST", "/rules/r/start", &Value::Null).await.done();
    let listener = listen(port).await;
    let mut peer = accept(&listener).await;
    assert_eq!(read(&mut peer, 30).await, (70..100).collect::<Vec<_>>());
    answer(peer);
    served.status_when("all is proven", |status| kept(status, "websocket") == 0).await;
    assert!(folder.path("data/cache/r").exists());
    served.asks("DELETE", "/rules/r", &Value::Null).await.done();
    let began = Instant::now();
    while folder.path("data/cache/r").exists() {
        assert!(began.elapsed() < LIMIT, "nothing is kept for a rule that is gone");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (props, text) in [
        (
            json!({"memoryCacheThreshold": 7, "bufferPageSize": 3}),
            "memoryCacheThreshold must be a multiple of bufferPageSize",
        ),
        (json!({"maxDiskCache": 6}), "maxDiskCache must be greater than bufferPageSize"),
        (json!({"enableCache": 5}), "enableCache is 5, expected true or false"),
    ] {
        let rule = json!({"id": "no", "sql": "SELECT n FROM demo", "actions": [to_peer(port, props)]});
        let answer = served.asks("POST", "/rules", &rule).await;
        assert!(answer.status == 400 && answer.body.contains(text), "{}", answer.body);
    }
}

#[tokio::test]
async fn an_orderly_end_and_an_update_keep_what_waits() {
    let folder = Folder::new("store-end");
    let port = free_port();
    let mut served = folder.serve();
    rule(&served, to_peer(port, json!({}))).await;
    let mut client = served.connect("/in").await;
    send_numbers(&mut client, 0..10).await;
    served.status_when("all are kept", |status| kept(status, "websocket") == 10).await;
    let changed = json!({"sql": "SELECT n FROM demo", "actions": [to_peer(port, json!({"writeTimeout": "20s"}))]});
    served.asks("PUT", "/rules/r", &changed).await.done();
    send_numbers(&mut client, 10..20).await;
    served.status_when("the new version goes on with it", |status| kept(status, "websocket") == 20).await;
    let served = tokio::task::spawn_blocking(move || {
        assert!(served.terminate().success());
        let line = served.says(&["stopped ", "delivered "]);
        assert!(line.contains("kept 20 messages for peers") && line.ends_with("lost 0"), "{line}");
        served
    });
    drop(served.await.expect("it ends"));
    let served = folder.serve();
    let listener = listen(port).await;
    let mut peer = accept(&listener).await;
    assert_eq!(read(&mut peer, 20).await, (0..20).collect::<Vec<_>>());
    answer(peer);
    served.status_when("all is proven", |status| kept(status, "websocket") == 0).await;
}

#[tokio::test]
async fn requests_that_no_server_took_are_sent_after_a_kill() {
    let folder = Folder::new("store-rest");
    folder.write("etc/plutino.yaml", "basic: {egressAllow: [localhost]}\n");
    let port = free_port();
    let mut served = folder.serve();
    let props = json!({
        "url": format!("http://127.0.0.1:{port}/{{{{.n}}}}"), "method": "post", "sendSingle": true, "enableCache": true,
        "retry": {"max": "200ms"},
    });
    rule(&served, json!({"rest": props})).await;
    let mut client = served.connect("/in").await;
    send_numbers(&mut client, 0..200).await;
    served.status_when("all are kept", |status| kept(status, "rest") == 200).await;
    is_on_disk(&folder.path("data/cache"), "{\"n\":199}").await;
    served.kill();
    let served = folder.serve();
    let server = HttpServer::at(&format!("127.0.0.1:{port}"), |request| match request.path.as_str() {
        "/7" => (400, String::new(), String::new()),
        _ => (200, String::new(), String::new()),
    });
    let requests = server.wait_for(200);
    let paths: Vec<String> = requests.iter().map(|request| request.path.clone()).collect();
    assert_eq!(paths, (0..200).map(|n| format!("/{n}")).collect::<Vec<_>>());
    let done = served.status_when("all are done with", |status| kept(status, "rest") == 0).await;
    assert_eq!(done["sink_rest_0_0_dropped"], json!({"refused": 1}), "{done:#}");
}

#[tokio::test]
async fn rule_files_keep_messages_below_their_data_folder() {
    let folder = Folder::new("store-run");
    let port = free_port();
    let data = folder.path("data");
    let rules = json!({
        "streams": [stream("s", "", "")],
        "rules": [{"id": "up", "sql": "SELECT n FROM s", "actions": [to_peer(port, json!({}))]}],
    });
    let arguments = ["--data", data.to_str().expect("text")];
    let mut plutino = Plutino::run("store", &rules, &arguments).await;
    let mut client = plutino.connect("/s").await;
    send_numbers(&mut client, 0..25).await;
    is_on_disk(&data.join("cache/up"), "{\"n\":24}").await;
    plutino.child.kill().await.expect("it runs");
    let listener = listen(port).await;
    let _plutino = Plutino::run("store", &rules, &arguments).await;
    let mut peer = accept(&listener).await;
    assert_eq!(read(&mut peer, 25).await, (0..25).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_second_process_is_kept_out() {
    let folder = Folder::new("store-twice");
    let served = folder.serve();
    let action = to_peer(free_port(), json!({}));
    rule(&served, action.clone()).await;
    let rules = json!({
        "streams": [stream("s", "", "")],
        "rules": [{"id": "r", "sql": "SELECT n FROM s", "actions": [action]}],
    });
    folder.write("rules.json", &rules.to_string());
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_plutino"));
    command.args(["run", "rules.json", "--data", "data"]).current_dir(&folder.0);
    command.env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1").env("KUIPER__SOURCE__HTTPSERVERPORT", "0");
    let output = timeout(LIMIT, command.output()).await.expect("it ends").expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("cache/r/websocket-"), "{said}");
    assert!(said.contains("is in use by another process"), "{said}");
}

#[tokio::test]
async fn a_burst_beyond_the_queue_is_kept_and_marked_when_it_is_sent() {
    let folder = Folder::new("store-burst");
    let port = free_port();
    let served = folder.serve();
    let props = json!({"clientQueue": {"messages": 64, "bytes": 4096}, "resendIndicatorField": "again"});
    rule(&served, to_peer(port, props)).await;
    let mut client = served.connect("/in").await;
    let burst = (0..20_000).map(|n| Ok(Message::text(json!({"n": n}).to_string())));
    client.send_all(&mut futures_util::stream::iter(burst)).await.expect("the source takes them");
    let all = served.status_when("all are kept", |status| kept(status, "websocket") == 20_000).await;
    assert_eq!(all["sink_websocket_0_0_dropped"], json!({}), "{all:#}");
    let listener = listen(port).await;
    let mut peer = accept(&listener).await;
    for n in 0..20_000 {
        let message = loop {
            let message = timeout(LIMIT, peer.next()).await.expect("a message comes").expect("it goes on");
            if let Message::Text(text) = message.expect("the socket is whole") {
                break text.to_string();
            }
        };
        assert_eq!(message, format!("{{\"n\":{n},\"again\":true}}"));
    }
    // Later messages are not late.
    send_numbers(&mut client, 0..1).await;
    let fresh = timeout(LIMIT, async {
        loop {
            if let Some(Ok(Message::Text(text))) = peer.next().await {
                break text;
            }
        }
    });
    assert_eq!(fresh.await.expect("a message comes").as_str(), "{\"n\":0}");
    for (props, text) in [
        (json!({"resendPriority": 0.5}), "resendPriority is 0.5, expected -1, 0 or 1"),
        (json!({"resendPriority": 2}), "resendPriority is 2, expected a number from -1 to 1"),
        (json!({"resendIndicatorField": "again", "format": "delimited"}), "resendIndicatorField needs JSON messages"),
    ] {
        let rule = json!({"id": "no", "sql": "SELECT n FROM demo", "actions": [to_peer(port, props)]});
        let answer = served.asks("POST", "/rules", &rule).await;
        assert!(answer.status == 400 && answer.body.contains(text), "{}", answer.body);
    }
}

#[tokio::test]
async fn newer_messages_need_not_wait_for_kept_ones() {
    let folder = Folder::new("store-alter");
    let port = free_port();
    let served = folder.serve();
    let props = |pause: &str| {
        let resend = json!({"resendAlterQueue": true, "resendPriority": -1, "resendInterval": pause, "resendIndicatorField": "late"});
        to_peer(port, resend)
    };
    rule(&served, props("1h")).await;
    let mut client = served.connect("/in").await;
    send_numbers(&mut client, 0..20).await;
    served.status_when("all are kept", |status| kept(status, "websocket") == 20).await;
    let listener = listen(port).await;
    let mut peer = accept(&listener).await;
    assert_eq!(texts(&mut peer, 1).await, ["{\"n\":0,\"late\":true}"]);
    send_numbers(&mut client, 100..150).await;
    let expected: Vec<String> = (100..150).map(|n| format!("{{\"n\":{n}}}")).collect();
    assert_eq!(texts(&mut peer, 50).await, expected);
    // Received messages are proven although older messages wait.
    let answering = answer(peer);
    served.status_when("newer ones are proven", |status| kept(status, "websocket") == 19).await;
    answering.abort();
    let changed = json!({"sql": "SELECT n FROM demo", "actions": [props("0")]});
    served.asks("PUT", "/rules/r", &changed).await.done();
    let mut peer = accept(&listener).await;
    let expected: Vec<String> = (1..20).map(|n| format!("{{\"n\":{n},\"late\":true}}")).collect();
    assert_eq!(texts(&mut peer, 19).await, expected);
    answer(peer);
    let done = served.status_when("all is proven", |status| kept(status, "websocket") == 0).await;
    assert_eq!(done["sink_websocket_0_0_dropped"], json!({}), "{done:#}");
}
