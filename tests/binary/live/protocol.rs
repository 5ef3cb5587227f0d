//! Each frame, each error and each way to connect, over real sockets.

use std::io::{Read, Write};
use std::net::TcpStream;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{connect_async, tungstenite};

use super::client::{Live, connect, frame, say};
use crate::process::serve::Folder;
use crate::process::{Client, Plutino, send, stream};

const FLEET: &str = "CREATE VIEW fleet WITH (KEY=\"deviceId\", PARAMS=\"deviceId,site\", RETAIN=\"60s\") AS \
                     SELECT deviceId, site, t FROM telemetry";

async fn fleet(name: &str, workers: &str) -> (Plutino, Client) {
    let streams = [stream("telemetry", "deviceId BIGINT, site STRING, t BIGINT", "")];
    let rules = json!({"streams": streams, "views": [FLEET], "rules": []});
    let plutino = Plutino::run(name, &rules, &["--workers", workers]).await;
    let feed = plutino.connect("/telemetry").await;
    (plutino, feed)
}

async fn error(socket: &mut Client) -> Value {
    let error = frame(socket).await.expect("an error is told");
    assert_eq!(error["t"], "error", "{error}");
    assert!(!error["message"].as_str().expect("a text").is_empty());
    error["code"].clone()
}

#[tokio::test]
async fn a_client_subscribes_by_messages_to_several_parts() {
    let (plutino, mut feed) = fleet("live-messages", "3").await;
    send(&mut feed, r#"{"deviceId":1,"site":"n1","t":1}"#).await;
    let mut all = Live::open(plutino.port, "/live/fleet").await;
    all.until(|rows| rows.len() == 1).await;
    let mut socket = connect(plutino.port, "/live").await;
    say(&mut socket, &json!({"t":"subscribe","id":"a","view":"fleet","params":{"site":["n2","n1"]},"every":0})).await;
    let subscribed = frame(&mut socket).await.unwrap();
    let columns =
        json!([{"name":"deviceId","type":"bigint"},{"name":"site","type":"string"},{"name":"t","type":"bigint"}]);
    let s = subscribed["s"].clone();
    let expected = json!({"t":"subscribed","id":"a","s":s,"view":"fleet","key":["deviceId"],"columns":columns,
        "params":{"site":["n1","n2"]},"every":0,"retain":60000,"resumed":false});
    assert_eq!(subscribed, expected);
    assert_eq!(frame(&mut socket).await.unwrap(), json!({"t":"snapshot","s":s}));
    let row = json!({"deviceId":1,"site":"n1","t":1});
    assert_eq!(frame(&mut socket).await.unwrap(), json!({"t":"rows","s":s,"rows":[row]}));
    let ready = frame(&mut socket).await.unwrap();
    assert_eq!((&ready["t"], &ready["count"]), (&json!("ready"), &json!(1)));
    send(&mut feed, r#"{"deviceId":1,"site":"n3","t":2}"#).await;
    let delta = frame(&mut socket).await.unwrap();
    assert_eq!((&delta["prev"], &delta["delete"]), (&ready["at"], &json!([{"deviceId":1}])));
    assert!(delta.get("insert").is_none() && delta.get("update").is_none() && delta.get("merged").is_none());
    // The same subscription again is refused, another is not.
    say(&mut socket, &json!({"t":"subscribe","id":"b","view":"fleet","params":{"site":["n1","n2"]}})).await;
    assert_eq!(error(&mut socket).await, "duplicate");
    say(&mut socket, &json!({"t":"subscribe","id":7,"view":"fleet","params":{"deviceId":"1"},"every":20})).await;
    let other = frame(&mut socket).await.unwrap();
    assert_eq!((&other["params"], &other["every"], &other["id"]), (&json!({"deviceId":1}), &json!(50), &json!(7)));
    while frame(&mut socket).await.unwrap()["t"] != "ready" {}
    say(&mut socket, &json!({"t":"unsubscribe","s":other["s"]})).await;
    assert_eq!(frame(&mut socket).await.unwrap(), json!({"t":"unsubscribed","s":other["s"],"why":"asked"}));
    say(&mut socket, &json!({"t":"unsubscribe","s":other["s"]})).await;
    assert_eq!(error(&mut socket).await, "not_subscribed");
}

#[tokio::test]
async fn each_refusal_has_its_code() {
    let (plutino, _feed) = fleet("live-errors", "1").await;
    let mut socket = connect(plutino.port, "/live").await;
    let many: Vec<usize> = (0..1_001).collect();
    for (message, code) in [
        (json!("x"), "bad_message"),
        (json!({"t":"hello"}), "bad_message"),
        (json!({"t":"subscribe","view":"fleet","what":1}), "bad_message"),
        (json!({"t":"subscribe","view":"fleets"}), "unknown_view"),
        (json!({"t":"subscribe","view":"fleet","params":{"t":1}}), "unknown_param"),
        (json!({"t":"subscribe","view":"fleet","params":{"deviceId":"abc"}}), "bad_param"),
        (json!({"t":"subscribe","view":"fleet","params":{"deviceId":many}}), "too_many_values"),
        (json!({"t":"unsubscribe","s":1}), "not_subscribed"),
    ] {
        say(&mut socket, &message).await;
        assert_eq!(error(&mut socket).await, code, "{message}");
    }
    say(&mut socket, &json!({"t":"unsubscribe","id":"u","s":1})).await;
    assert_eq!(frame(&mut socket).await.unwrap()["id"], "u");
    socket.send(Message::text("[".repeat(60_000))).await.unwrap();
    assert_eq!(error(&mut socket).await, "bad_message");
    socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    assert_eq!(error(&mut socket).await, "bad_message");
    for device in 0..1_000 {
        say(&mut socket, &json!({"t":"subscribe","view":"fleet","params":{"deviceId":device}})).await;
        while frame(&mut socket).await.unwrap()["t"] != "ready" {}
    }
    say(&mut socket, &json!({"t":"subscribe","view":"fleet"})).await;
    assert_eq!(error(&mut socket).await, "too_many_subscriptions");
    socket.send(Message::text("x".repeat(65 * 1024))).await.unwrap();
    assert_eq!(error(&mut socket).await, "too_large");
    assert_eq!(frame(&mut socket).await, None);
    // In the URL, too.
    for (path, code) in [
        ("/live/fleet?t=1", "unknown_param"),
        ("/live/fleet?deviceId=abc", "bad_param"),
        ("/live/fleet?_every=often", "bad_param"),
        ("/live/fleet?_unknown=1", "unknown_param"),
    ] {
        let mut socket = connect(plutino.port, path).await;
        assert_eq!(error(&mut socket).await, code, "{path}");
    }
    let missing = connect_async(format!("ws://127.0.0.1:{}/live/other", plutino.port)).await;
    assert!(matches!(missing, Err(tungstenite::Error::Http(answer)) if answer.status() == 404));
}

#[tokio::test]
async fn the_subprotocol_is_chosen_where_it_is_offered() {
    let (plutino, _feed) = fleet("live-subprotocol", "1").await;
    let mut request = format!("ws://127.0.0.1:{}/live/fleet", plutino.port).into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "other, plutino.live.v1".parse().unwrap());
    let (_, response) = connect_async(request).await.unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "plutino.live.v1");
}

#[tokio::test]
async fn a_client_that_was_away_goes_on() {
    let (plutino, mut feed) = fleet("live-resume", "1").await;
    let path = "/live/fleet?site=n1";
    send(&mut feed, r#"{"deviceId":1,"site":"n1","t":1}"#).await;
    send(&mut feed, r#"{"deviceId":2,"site":"n1","t":1}"#).await;
    let mut away = Live::open(plutino.port, path).await;
    away.until(|rows| rows.len() == 2).await;
    let mut here = Live::open(plutino.port, path).await;
    assert_eq!(here.s, away.s, "one number for the same part");
    away.socket.close(None).await.unwrap();
    for (device, site, t) in [(1, "n2", 2), (3, "n1", 1), (2, "n1", 5)] {
        send(&mut feed, json!({"deviceId":device,"site":site,"t":t}).to_string()).await;
    }
    here.until(|rows| rows.len() == 2 && rows["[2]"]["t"] == 5).await;
    let mut back = away.resume(plutino.port, path).await;
    assert_eq!(back.subscribed["resumed"], true);
    let delta = back.apply().await;
    assert_eq!(delta["t"], "delta");
    assert_eq!(back.rows, here.rows);
    // The cursor of another view, the cursor of an earlier run, and no cursor.
    let cursor = back.cursor.clone().unwrap();
    let (epoch, sequence) = cursor.rsplit_once('.').unwrap();
    for (path, cursor, why) in [
        ("/live/fleet?site=n2", cursor.clone(), "changed"),
        (path, format!("zzzzzz{}.{sequence}", &epoch[6..]), "restart"),
        (path, "nonsense".to_owned(), "restart"),
    ] {
        let mut socket = connect(plutino.port, &format!("{path}&_cursor={cursor}")).await;
        let subscribed = frame(&mut socket).await.unwrap();
        assert_eq!(subscribed["resumed"], false);
        let gap = frame(&mut socket).await.unwrap();
        assert_eq!(gap, json!({"t":"gap","s":subscribed["s"],"from":cursor,"why":why}));
        assert_eq!(frame(&mut socket).await.unwrap()["t"], "snapshot");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_gets_one_delta() {
    let (plutino, mut feed) = fleet("live-stalled", "1").await;
    let mut stalled = Live::open(plutino.port, "/live/fleet").await;
    let mut reading = Live::open(plutino.port, "/live/fleet").await;
    // Far more than sockets hold; all rows have the same length.
    let site = "s".repeat(2_000);
    for t in 0..20_000u32 {
        feed.feed(Message::text(json!({"deviceId":t % 50,"site":site,"t":t}).to_string())).await.unwrap();
        if t % 100 == 0 {
            feed.flush().await.unwrap();
            // The other client keeps reading.
            let poll = tokio::time::timeout(std::time::Duration::from_millis(1), reading.apply()).await;
            drop(poll);
        }
    }
    feed.flush().await.unwrap();
    let last =
        |rows: &std::collections::BTreeMap<String, Value>| rows.get("[49]").is_some_and(|row| row["t"] == 19_999);
    let mut frames = 0;
    let mut merged = 0;
    while !last(&stalled.rows) {
        let delta = stalled.apply().await;
        merged = merged.max(delta["merged"].as_u64().unwrap_or(0));
        frames += 1;
    }
    // The content of both kernel buffers, then the merged changes.
    assert!(frames < 1_000, "{frames}");
    assert!(merged > 1);
    assert_eq!(stalled.rows.len(), 50);
}

#[tokio::test]
async fn a_rate_folds_what_comes_between() {
    let (plutino, mut feed) = fleet("live-every", "1").await;
    let mut slow = Live::open(plutino.port, "/live/fleet?_every=300").await;
    assert_eq!(slow.subscribed["every"], 500);
    let mut fast = Live::open(plutino.port, "/live/fleet").await;
    let began = std::time::Instant::now();
    for t in 0..300 {
        send(&mut feed, json!({"deviceId":t % 3,"t":t}).to_string()).await;
        fast.until(|rows| rows.get(&format!("[{}]", t % 3)).is_some_and(|row| row["t"] == t)).await;
    }
    let mut deltas = 0;
    while slow.rows.get("[2]").is_none_or(|row| row["t"] != 299) {
        deltas += u32::from(slow.apply().await["t"] == "delta");
    }
    // At most one every 500 ms.
    let most = began.elapsed().as_millis() / 500 + 2;
    assert!(u128::from(deltas) <= most && deltas < 300, "{deltas} of {most}");
    assert_eq!(slow.rows, fast.rows);
}

#[tokio::test]
async fn a_large_answer_comes_in_pieces() {
    let (plutino, mut feed) = fleet("live-large", "1").await;
    let site = "s".repeat(1_000);
    for device in 0..3_000 {
        feed.feed(Message::text(json!({"deviceId":device,"site":site,"t":0}).to_string())).await.unwrap();
    }
    feed.flush().await.unwrap();
    let mut probe = Live::open(plutino.port, "/live/fleet?deviceId=2999").await;
    probe.until(|rows| rows.len() == 1).await;
    let mut socket = connect(plutino.port, "/live/fleet").await;
    let mut kinds = Vec::new();
    let mut last = Value::Null;
    let mut rows = 0;
    while last["t"] != "delta" || last.get("at").is_none() {
        last = frame(&mut socket).await.unwrap();
        rows += last["rows"].as_array().map_or(0, Vec::len);
        if kinds.last() != Some(&last["t"]) {
            kinds.push(last["t"].clone());
        }
        if last["t"] == "ready" {
            assert_eq!((&last["more"], &last["count"], last.get("at")), (&json!(true), &json!(3_000), None));
        }
    }
    assert_eq!(kinds, ["subscribed", "snapshot", "rows", "ready", "delta"]);
    assert_eq!(rows, 3_000);
    assert!(last.get("more").is_none() && last.get("insert").is_none(), "{last}");
}

/// The text that a client of server-sent events reads, up to this part.
fn events(port: u16, path: &str, headers: &str, until: &str) -> String {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(crate::process::LIMIT)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n{headers}\r\n");
    socket.write_all(request.as_bytes()).unwrap();
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    while !text.contains(until) || !text.ends_with("\n\n") {
        let count = socket.read(&mut bytes).unwrap();
        assert!(count > 0, "it ended: {text}");
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    text
}

#[tokio::test]
async fn server_sent_events_are_the_same_frames() {
    let (plutino, mut feed) = fleet("live-events", "1").await;
    let port = plutino.port;
    send(&mut feed, r#"{"deviceId":1,"site":"n1","t":1}"#).await;
    let mut live = Live::open(port, "/live/fleet?site=n1").await;
    live.until(|rows| rows.len() == 1).await;
    let read = move |headers: String, until: &'static str| {
        tokio::task::spawn_blocking(move || events(port, "/live/fleet?site=n1", &headers, until))
    };
    let text = read(String::new(), "\"t\":\"ready\"").await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n") && text.contains("Content-Type: text/event-stream"), "{text}");
    for part in ["\"t\":\"hello\"", "\"t\":\"subscribed\"", "\"t\":\"snapshot\"", "\"t\":\"rows\""] {
        assert!(text.contains(part), "{text}");
    }
    let id = text.lines().rev().find_map(|line| line.strip_prefix("id: ")).expect("ready has an id").to_owned();
    send(&mut feed, r#"{"deviceId":1,"site":"n1","t":2}"#).await;
    live.until(|rows| rows["[1]"]["t"] == 2).await;
    let text = read(format!("Last-Event-ID: {id}\r\n"), "\"t\":\"delta\"").await.unwrap();
    assert!(text.contains("\"resumed\":true") && !text.contains("snapshot"), "{text}");
    assert!(text.contains(r#""update":[{"deviceId":1,"site":"n1","t":2}]"#), "{text}");
}

#[tokio::test]
async fn a_token_chooses_the_part() {
    let folder = Folder::new("live-jwt");
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys");
    folder.write(
        "etc/plutino.yaml",
        &format!(
            "source:\n  httpServerTokens: [secret]\n  httpServerJwt:\n    keys: [\"{keys}/issuer.pub\"]\n    \
             audience: board\n    issuer: me\n"
        ),
    );
    let service = folder.serve();
    service.asks("POST", "/streams", &json!({"sql": stream("telemetry", "", "")})).await.done();
    let view = "CREATE VIEW mine WITH (KEY=\"id\", CLAIMS=\"owner=sub\") AS SELECT id, owner FROM telemetry";
    service.asks("POST", "/views", &json!({"sql": view})).await.done();
    let url = |path: &str| format!("{}{path}", service.data_url(""));
    let refused = connect_async(url("/live/mine")).await;
    assert!(matches!(refused, Err(tungstenite::Error::Http(answer)) if answer.status() == 401));
    let mut feed = connect_async(url("/telemetry?access_token=secret")).await.unwrap().0;
    for (id, owner) in [(1, "ann"), (2, "bob"), (3, "7")] {
        feed.send(Message::text(json!({"id":id,"owner":owner}).to_string())).await.unwrap();
    }
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let token = |claims: Value| {
        let mut all = json!({"aud":"board","iss":"me","exp":now() + 3_600});
        claims.as_object().unwrap().iter().for_each(|(name, value)| all[name] = value.clone());
        crate::secure::signed(all)
    };
    for wrong in [
        token(json!({"aud":"other"})),
        token(json!({"iss":"other"})),
        token(json!({"exp":now() - 10})),
        "a.b.c".to_owned(),
    ] {
        let refused = connect_async(url(&format!("/live/mine?_token={wrong}"))).await;
        assert!(matches!(refused, Err(tungstenite::Error::Http(answer)) if answer.status() == 401));
    }
    while service.asks("GET", "/views/mine/rows", &Value::Null).await.json()["rows"].as_array().unwrap().len() < 3 {
        tokio::task::yield_now().await;
    }
    let mut expired = None;
    for (claims, rows) in [
        (json!({"sub":"ann"}), Some(1)),
        (json!({"sub":7}), Some(1)),
        (json!({"sub":["ann","bob"]}), Some(2)),
        (json!({"sub":[]}), Some(0)),
        (json!({"sub":null}), None),
        (json!({}), None),
        (json!({"sub":"ann","soon":true}), Some(1)),
    ] {
        let mut claims = claims;
        if claims["soon"] == true {
            claims["exp"] = json!(now() + 10);
        }
        let (mut socket, _) =
            connect_async(url(&format!("/live/mine?_token={}", token(claims.clone())))).await.unwrap();
        assert_eq!(frame(&mut socket).await.unwrap()["t"], "hello");
        let first = frame(&mut socket).await.unwrap();
        let Some(rows) = rows else {
            assert_eq!((&first["t"], &first["code"]), (&json!("error"), &json!("forbidden")), "{claims}");
            continue;
        };
        let ready = loop {
            let frame = frame(&mut socket).await.unwrap();
            if frame["t"] == "ready" {
                break frame;
            }
        };
        assert_eq!(ready["count"], rows, "{claims}");
        expired = Some((socket, first["s"].clone()));
    }
    let (mut socket, s) = expired.unwrap();
    loop {
        let told = frame(&mut socket).await.unwrap();
        if told["t"] == "unsubscribed" {
            assert_eq!(told, json!({"t":"unsubscribed","s":s,"why":"expired"}));
            break;
        }
    }
    // A static token carries no claims.
    let mut plain = connect_async(url("/live/mine?_token=secret")).await.unwrap().0;
    plain.next().await.unwrap().unwrap();
    assert_eq!(error(&mut plain).await, "forbidden");
}

#[tokio::test]
async fn a_pattern_of_paths_does_not_hide_a_view() {
    let streams = [
        stream("telemetry", "", ""),
        "CREATE STREAM anything () WITH (TYPE=\"websocket\", DATASOURCE=\"/{part}/{id}\")".to_owned(),
    ];
    let views = ["CREATE VIEW fleet WITH (KEY=\"id\") AS SELECT id FROM telemetry"];
    let rules = json!([{"id": "all", "sql": "SELECT * FROM anything", "actions": [{"nop": {}}]}]);
    let plutino = Plutino::run("live-pattern", &json!({"streams": streams, "views": views, "rules": rules}), &[]).await;
    let mut feed = plutino.connect("/telemetry").await;
    let _other = plutino.connect("/live/other").await;
    let mut live = Live::open(plutino.port, "/live/fleet").await;
    send(&mut feed, r#"{"id":1}"#).await;
    live.until(|rows| rows.len() == 1).await;
}
