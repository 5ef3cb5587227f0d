//! The `sse` sink: clients that read events, as browsers and curl do.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;

use crate::process::serve::{Folder, LIMIT, Served};
use crate::process::{Client, next, send};

async fn serve(folder: &Folder, actions: Value) -> (Served, Client) {
    let served = folder.serve();
    let stream = json!({"sql": "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")"});
    served.asks("POST", "/streams", &stream).await.done();
    let rule = json!({"id": "r", "sql": "SELECT * FROM demo", "actions": actions});
    served.asks("POST", "/rules", &rule).await.done();
    let client = connect_async(served.data_url("/in")).await.expect("the path is there").0;
    (served, client)
}

struct Reader(BufReader<TcpStream>);

impl Reader {
    /// Requests a path; the head of the response.
    async fn open(served: &Served, path: &str, headers: &str) -> (Reader, String) {
        let mut socket = TcpStream::connect(("127.0.0.1", served.data_port)).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\n{headers}\r\n", served.data_port);
        socket.write_all(request.as_bytes()).await.expect("it is read");
        let mut reader = Reader(BufReader::new(socket));
        let mut head = String::new();
        loop {
            let line = reader.line().await;
            if line.is_empty() {
                return (reader, head);
            }
            head.push_str(&line);
            head.push('\n');
        }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(LIMIT, self.0.read_line(&mut line)).await.expect("a line comes").expect("the socket is whole");
        line.trim_end().to_owned()
    }

    /// The text of the next event.
    async fn event(&mut self) -> String {
        let mut lines = Vec::new();
        loop {
            match self.line().await {
                line if line.is_empty() && !lines.is_empty() => return lines.join("\n"),
                line => lines.extend(line.strip_prefix("data: ").map(str::to_owned)),
            }
        }
    }
}

#[tokio::test]
async fn readers_get_events_and_leave_when_they_like() {
    let folder = Folder::new("sse");
    let (served, mut client) = serve(&folder, json!([{"sse": {"path": "/feed", "sendSingle": true}}])).await;
    let origin = format!("origin: http://127.0.0.1:{}\r\naccept: text/event-stream\r\n", served.data_port);
    let (mut page, head) = Reader::open(&served, "/feed?x=1", &origin).await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
    assert!(head.contains("Access-Control-Allow-Origin: http://127.0.0.1:"), "{head}");
    let (mut script, _) = Reader::open(&served, "/feed", "").await;
    send(&mut client, "{\"n\":1}").await;
    send(&mut client, "{\"n\":2,\"t\":\"a\\nb\"}").await;
    for reader in [&mut page, &mut script] {
        assert_eq!(reader.event().await, "{\"n\":1}");
        assert_eq!(reader.event().await, "{\"n\":2,\"t\":\"a\\nb\"}");
    }
    drop(script);
    let began = Instant::now();
    loop {
        let status = served.asks("GET", "/rules/r/status", &Value::Null).await.json();
        if status["sink_sse_0_0_records_out_total"] == 2 && status["sink_sse_0_0_connection_status"] == 1 {
            break;
        }
        assert!(began.elapsed() < LIMIT, "{status:#}");
    }
    // A page of another origin is refused, as with websockets; so is a websocket handshake here.
    let (mut refused, head) = Reader::open(&served, "/feed", "origin: http://evil.example\r\n").await;
    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    let mut body = String::new();
    timeout(LIMIT, refused.0.read_to_string(&mut body)).await.expect("it ends").expect("in order");
    assert!(body.contains("source.httpServerOrigins"), "{body}");
    assert!(
        connect_async(served.data_url("/feed")).await.expect_err("no websocket is here").to_string().contains("400")
    );
    // The end of the rule is the end of the stream.
    served.asks("DELETE", "/rules/r", &Value::Null).await.done();
    let mut rest = Vec::new();
    timeout(LIMIT, page.0.read_to_end(&mut rest)).await.expect("it ends").expect("in order");
}

#[tokio::test]
async fn a_path_may_have_both_and_bad_properties_are_told() {
    let folder = Folder::new("sse-both");
    let both =
        json!([{"sse": {"path": "/both", "sendSingle": true}}, {"websocket": {"path": "/both", "sendSingle": true}}]);
    let (served, mut client) = serve(&folder, both).await;
    let mut socket = connect_async(served.data_url("/both")).await.expect("a websocket").0;
    let (mut reader, _) = Reader::open(&served, "/both", "accept: text/event-stream\r\n").await;
    send(&mut client, "{\"n\":1}").await;
    // Each sink sends to all clients of the path.
    for _ in 0..2 {
        assert_eq!(reader.event().await, "{\"n\":1}");
        assert_eq!(next(&mut socket).await, Some(json!({"n": 1})));
    }
    for (props, text) in [
        (json!({}), "websocket endpoint should start with /"),
        (json!({"path": "x"}), "websocket endpoint should start with /"),
        (json!({"path": "/x", "compression": "gzip"}), "events are text"),
        (json!({"path": "/x", "slowClient": "no"}), "expected dropOldest, disconnect or block"),
    ] {
        let rule = json!({"id": "no", "sql": "SELECT * FROM demo", "actions": [{"sse": props}]});
        let answer = served.asks("POST", "/rules", &rule).await;
        assert!(answer.status == 400 && answer.body.contains(text), "{}", answer.body);
    }
}

#[tokio::test]
async fn a_reader_that_reads_nothing_loses_the_oldest_and_is_counted() {
    let folder = Folder::new("sse-slow");
    let sink = json!([{"sse": {"path": "/feed", "sendSingle": true, "clientQueue": 10, "writeTimeout": "1h"}}]);
    let (served, mut client) = serve(&folder, sink).await;
    let (_silent, _) = Reader::open(&served, "/feed", "").await;
    let text = json!({"x": "x".repeat(100_000)}).to_string();
    let began = Instant::now();
    loop {
        send(&mut client, text.as_str()).await;
        let status = served.asks("GET", "/rules/r/status", &Value::Null).await.json();
        if status["sink_sse_0_0_dropped"]["slow client"].as_u64().unwrap_or_default() > 0 {
            break;
        }
        assert!(began.elapsed() < LIMIT, "{status:#}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
