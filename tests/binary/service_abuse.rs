//! The service under hostile requests, driven as a process: whatever is sent to its REST port, a rule keeps running,
//! nothing existing is lost, nothing outside of the data folder is changed, and the next request is answered as usual.

use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt, stream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::process::serve::{self, Answer, Folder, LIMIT};
use crate::process::{Client, next};

/// `plutino serve` in its own folder, with a rule that passes messages on.
struct Served {
    process: serve::Served,
    rest: String,
    folder: Folder,
    source: Client,
    sink: Client,
    sent: u64,
}

impl Served {
    async fn start(name: &str) -> Served {
        let folder = Folder::new(&format!("abuse-{name}"));
        let process = folder.serve();
        let rest = process.rest.clone();
        let stream = json!({"sql": "CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")"});
        assert_eq!(ask(&rest, "POST", "/streams", &stream.to_string()).await.status, 201);
        let rule = json!({
            "id": "steady", "sql": "SELECT n FROM demo",
            "actions": [{"websocket": {"path": "/out", "sendSingle": true}}],
        });
        let made = ask(&rest, "POST", "/rules", &rule.to_string()).await;
        assert_eq!(made.status, 201, "{}", made.body);
        let client = async |path: &str| {
            let (client, _) = connect_async(process.data_url(path)).await.expect("an endpoint");
            client
        };
        let (source, sink) = (client("/in").await, client("/out").await);
        let mut served = Served { process, rest, folder, source, sink, sent: 0 };
        served.runs().await;
        served
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        ask(&self.rest, method, path, body).await
    }

    /// Messages sent to the rule come out of it, in order and without a gap.
    async fn runs(&mut self) {
        for _ in 0..3 {
            self.sent += 1;
            self.source.send(Message::text(json!({"n": self.sent}).to_string())).await.expect("the source takes it");
        }
        for n in self.sent - 2..=self.sent {
            assert_eq!(next(&mut self.sink).await, Some(json!({"n": n})));
        }
    }

    /// Ends it over the API, as cleanly as a signal does.
    async fn end(mut self) {
        self.runs().await;
        let stopped = self.ask("POST", "/stop", "").await;
        assert_eq!((stopped.status, stopped.body.as_str()), (200, "stop success"));
        let status = self.process.ends();
        assert!(status.success(), "{status}");
    }
}

async fn ask(rest: &str, method: &str, path: &str, body: &str) -> Answer {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {rest}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    raw(rest, &[head.as_bytes(), body.as_bytes()].concat()).await.expect("an answer of HTTP")
}

/// Like that of the harness, for many at a time.
async fn raw(rest: &str, bytes: &[u8]) -> Option<Answer> {
    let exchange = async {
        let mut socket = TcpStream::connect(rest).await.expect("it listens");
        // It may close the connection before it has read everything.
        let _ = socket.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer).await;
        answer
    };
    serve::parse(&timeout(LIMIT, exchange).await.expect("the connection ends"))
}

/// Every route with a body, an id or a name, in methods that exist.
const ROUTES: &[(&str, &str)] = &[
    ("POST", "/streams"),
    ("PUT", "/streams/ID"),
    ("GET", "/streams/ID"),
    ("GET", "/streams/ID/schema"),
    ("DELETE", "/streams/ID"),
    ("POST", "/tables"),
    ("PUT", "/tables/ID"),
    ("DELETE", "/tables/ID"),
    ("POST", "/rules"),
    ("PUT", "/rules/ID"),
    ("GET", "/rules/ID"),
    ("DELETE", "/rules/ID"),
    ("POST", "/rules/ID/start"),
    ("POST", "/rules/ID/stop"),
    ("POST", "/rules/ID/restart"),
    ("GET", "/rules/ID/status"),
    ("GET", "/rules/ID/topo"),
    ("GET", "/rules/ID/explain"),
    ("GET", "/rules/ID/schema"),
    ("PUT", "/rules/ID/tags"),
    ("PUT", "/rules/ID/reset_state"),
    ("POST", "/rules/ID/trace/start"),
    ("POST", "/rules/validate"),
    ("POST", "/rules/bulkstart"),
    ("POST", "/ruleset/import"),
    ("POST", "/data/import"),
    ("POST", "/data/export"),
    ("POST", "/v2/data/import"),
    ("POST", "/async/data/import"),
    ("GET", "/async/task/ID"),
    ("PUT", "/metadata/sources/ID/confKeys/ID"),
    ("PUT", "/metadata/sources/websocket/confKeys/ID%20"),
    ("GET", "/metadata/sinks/ID"),
    ("PATCH", "/configs"),
    ("POST", "/config/uploads"),
    ("DELETE", "/config/uploads/ID"),
    ("POST", "/batch/req"),
    ("POST", "/schemas/protobuf"),
    ("POST", "/plugins/sources"),
    ("POST", "/services"),
];

#[tokio::test]
async fn bad_bodies_and_odd_ids_are_refused() {
    let mut served = Served::start("bodies").await;
    let deep = "[".repeat(100_000);
    let bodies = ["", "{", "null", "5", "\"x\"", "{\"sql\": 5, \"id\": 7, \"name\": []}", "\u{0}\u{1}", deep.as_str()];
    let long = "x".repeat(5000);
    let ids = [
        "nosuch",
        "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "..%2fsteady",
        "%00",
        "%ff%fe",
        "a%0d%0aset-cookie:%20x=1",
        "%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "x';DROP%20STREAM%20demo;--",
        "demo%20WITH",
        long.as_str(),
    ];
    for (method, route) in ROUTES {
        for (at, body) in bodies.iter().enumerate() {
            let id = ids[at % ids.len()];
            let answer = served.ask(method, &route.replace("ID", id), body).await;
            // Some routes ignore unknown members.
            let fine = body.starts_with("{\"") && (200..300).contains(&answer.status);
            assert!(
                fine || (400..500).contains(&answer.status),
                "{method} {route} {id} {at}: {} {}",
                answer.status,
                answer.body
            );
            assert!(!answer.headers.contains_key("set-cookie"));
            assert!(answer.body.len() < 20_000, "{method} {route}: an answer of {} bytes", answer.body.len());
        }
        for id in ids {
            let answer = served.ask(method, &route.replace("ID", id), "{}").await;
            assert!((200..500).contains(&answer.status), "{method} {route} {id}: {} {}", answer.status, answer.body);
            assert!(!answer.headers.contains_key("set-cookie"));
            // No response is a web page, whatever its content.
            let kind = answer.headers.get("content-type").cloned().unwrap_or_default();
            assert!(!kind.contains("html"), "{method} {route}: {kind}");
        }
    }
    assert_eq!(served.ask("GET", "/streams", "").await.body, "[\"demo\"]");
    served.runs().await;
    served.end().await;
}

#[tokio::test]
async fn wrong_methods_and_unknown_routes() {
    let served = Served::start("methods").await;
    for (method, path, status) in [
        ("DELETE", "/rules", 405),
        ("GET", "/configs", 405),
        ("POST", "/ping", 405),
        ("GET", "/batch/req", 405),
        ("PUT", "/config/uploads", 405),
        ("BREW", "/rules", 405),
        ("GET", "/nosuch", 404),
        ("GET", "/rules/steady/nosuch", 404),
        ("GET", "//rules", 301),
        ("GET", "/rules/../streams", 301),
        ("GET", "//\\elsewhere.org/x", 301),
    ] {
        let answer = served.ask(method, path, "").await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        if status == 301 {
            let target = &answer.headers["location"];
            assert!(target.starts_with('/') && !target[1..].starts_with(['/', '\\']), "{target}");
        }
    }
    served.end().await;
}

#[tokio::test]
async fn bodies_without_measure() {
    let mut served = Served::start("sizes").await;
    let large = "x".repeat((16 << 20) + 1);
    assert_eq!(served.ask("POST", "/rules", &large).await.status, 413);
    let head = |length: &str| format!("POST /rules HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
    // A declared size is trusted only when the bytes have arrived.
    let answer = raw(&served.rest, head("99999999999999").as_bytes()).await;
    assert_eq!(answer.expect("an answer").status, 413);
    for length in ["-1", "18446744073709551616", "1, 2", "x"] {
        let answer = raw(&served.rest, head(length).as_bytes()).await;
        assert!(answer.is_none_or(|answer| answer.status == 400), "{length}");
    }
    let headers = "x-filler: y\r\n".repeat(100_000);
    let answer = raw(&served.rest, format!("GET /ping HTTP/1.1\r\n{headers}\r\n").as_bytes()).await;
    assert!(answer.is_none_or(|answer| answer.status == 431 || answer.status == 400));
    served.runs().await;
    // Devices have no end.
    for path in ["/ruleset/import", "/data/import", "/async/data/import", "/config/uploads"] {
        let answer = served.ask("POST", path, "{\"name\": \"zero\", \"file\": \"/dev/zero\"}").await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
    }
    served.end().await;
}

#[tokio::test]
async fn what_is_no_http() {
    let mut served = Served::start("garbage").await;
    let mut noise = vec![0_u8; 4096];
    for seed in 0..200 {
        let mut random = fastrand::Rng::with_seed(seed);
        noise.iter_mut().for_each(|byte| *byte = random.u8(..));
        noise.extend_from_slice(b"\r\n\r\n");
        let answer = raw(&served.rest, &noise).await;
        assert!(answer.is_none_or(|answer| (400..506).contains(&answer.status)));
        noise.truncate(4096);
    }
    for text in [
        "GET / HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\r\n\r\n\r\n\r\nquit\r\n\r\n",
        "POST /rules HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        "POST /rules HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\ncontent-length: 4\r\n\r\nzzzz\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\r\n\r\n",
    ] {
        let answer = raw(&served.rest, text.as_bytes()).await;
        assert!(answer.is_none_or(|answer| (400..506).contains(&answer.status)), "{text:?}");
    }
    served.runs().await;
    served.end().await;
}

#[tokio::test]
async fn half_requests_hold_nobody_up() {
    let mut served = Served::start("slow").await;
    let mut slow = Vec::new();
    for at in 0..300 {
        let mut socket = TcpStream::connect(&served.rest).await.expect("it listens");
        let part: &[u8] = match at % 3 {
            0 => b"",
            1 => b"GET /rules HT",
            _ => b"POST /rules HTTP/1.1\r\nhost: localhost\r\nx-half: ",
        };
        socket.write_all(part).await.expect("it takes the beginning");
        slow.push(socket);
    }
    // Others are served meanwhile.
    assert_eq!(served.ask("GET", "/rules/steady", "").await.status, 200);
    served.runs().await;
    // A client that sends a byte now and then is disconnected like the silent ones.
    let mut dripping = TcpStream::connect(&served.rest).await.expect("it listens");
    let drips = async {
        let mut pulse = tokio::time::interval(Duration::from_millis(200));
        dripping.write_all(b"GET /ping HTTP/1.1\r\nx-slow: ").await.expect("it takes the beginning");
        let mut part = [0; 512];
        loop {
            tokio::select! {
                _ = pulse.tick() => if dripping.write_all(b"y").await.is_err() { break },
                read = dripping.read(&mut part) => if matches!(read, Ok(0) | Err(_)) { break },
            }
        }
    };
    timeout(LIMIT, drips).await.expect("a dripping request is ended");
    for mut socket in slow {
        let mut rest = Vec::new();
        let ended = timeout(LIMIT, socket.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a half request is ended");
    }
    served.end().await;
}

#[tokio::test]
async fn uploads_stay_in_their_folder() {
    let served = Served::start("uploads").await;
    let secret = served.folder.path("secret.txt");
    std::fs::write(&secret, "kept").expect("a file beside the data folder");
    let long = "n".repeat(5000);
    let names =
        ["../secret.txt", "../../x", "/etc/passwd", "a/b", "..", ".", "a\u{0}b", "a\\b", ".redb", long.as_str()];
    for name in names {
        let body = json!({"name": name, "content": "lost"}).to_string();
        let answer = served.ask("POST", "/config/uploads", &body).await;
        assert_eq!(answer.status, 400, "{name:?}: {}", answer.body);
        assert!(answer.body.contains("Upload error"), "{}", answer.body);
    }
    for name in ["%2e%2e%2fsecret.txt", "..%2f..%2fx", "%2fetc%2fpasswd", "%2e%2e%2fplutino.redb", "a%00b", "%2e%2e"] {
        let answer = served.ask("DELETE", &format!("/config/uploads/{name}"), "").await;
        assert_ne!(answer.status, 200, "{name}");
    }
    // A name with tags is only a name, and the response is not a web page.
    let body = json!({"name": "<b>x.txt", "content": "x"}).to_string();
    let answer = served.ask("POST", "/config/uploads", &body).await;
    assert_eq!(answer.status, 201);
    assert!(answer.body.ends_with("uploads/&lt;b&gt;x.txt"), "{}", answer.body);
    assert_eq!(std::fs::read_to_string(&secret).expect("the file is there"), "kept");
    let there = |path: &Path| -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(path)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(there(served.folder.0.path()), ["data", "etc", "secret.txt"]);
    assert_eq!(there(&served.folder.path("data/uploads")), ["<b>x.txt"]);
    // Many at a time with one name: one of them exists, complete.
    let puts = (0..64).map(|n| {
        let body = json!({"name": "one", "content": n.to_string().repeat(5000)}).to_string();
        let rest = served.rest.clone();
        async move { ask(&rest, "POST", "/config/uploads", &body).await.status }
    });
    let statuses: Vec<u16> = stream::iter(puts).buffer_unordered(32).collect().await;
    assert!(statuses.iter().all(|status| *status == 201), "{statuses:?}");
    let text = std::fs::read_to_string(served.folder.path("data/uploads/one")).expect("the file is there");
    assert!((0..64).any(|n| text == n.to_string().repeat(5000)));
    assert_eq!(there(&served.folder.path("data/uploads")), ["<b>x.txt", "one"]);
    served.end().await;
}

#[tokio::test]
async fn a_batch_is_bounded() {
    let served = Served::start("batch").await;
    let nested = json!([
        {"method": "POST", "path": "/batch/req", "body": "[]"},
        {"method": "POST", "path": "//batch/req", "body": "[]"},
        {"method": "GET", "path": "/batch/req?x=1"},
        {"method": "GET", "path": "http://elsewhere/rules"},
        {"method": "GET", "path": "/rules/steady"},
    ]);
    let answer = served.ask("POST", "/batch/req", &nested.to_string()).await;
    let answers: Vec<Value> = serde_json::from_str(&answer.body).expect("a list");
    let codes: Vec<u64> = answers.iter().filter_map(|answer| answer["code"].as_u64()).collect();
    assert_eq!(codes, [400, 404, 400, 400, 200], "{}", answer.body);
    let many = Value::Array(vec![json!({"method": "GET", "path": "/ping"}); 1001]);
    assert_eq!(served.ask("POST", "/batch/req", &many.to_string()).await.status, 400);
    served.end().await;
}

#[tokio::test]
async fn thousands_of_calls_on_one_rule() {
    let mut served = Served::start("storm").await;
    let rule = |n: usize| {
        let text = json!({
            "id": "storm", "sql": format!("SELECT n, {n} AS version FROM demo"), "actions": [{"nop": {}}],
        });
        text.to_string()
    };
    let calls = (0..3000_usize).map(|n| {
        let (rest, rule) = (served.rest.clone(), rule(n));
        async move {
            let (method, path, body) = match n % 7 {
                0 => ("POST", "/rules", rule),
                1 => ("PUT", "/rules/storm", rule),
                2 => ("POST", "/rules/storm/start", String::new()),
                3 => ("POST", "/rules/storm/stop", String::new()),
                4 => ("POST", "/rules/storm/restart", String::new()),
                5 => ("DELETE", "/rules/storm", String::new()),
                _ => ("GET", "/rules/storm/status", String::new()),
            };
            let answer = ask(&rest, method, path, &body).await;
            assert!((200..500).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
        }
    });
    timeout(3 * LIMIT, stream::iter(calls).buffer_unordered(100).for_each(|()| async {}))
        .await
        .expect("all are answered");
    served.runs().await;
    // The remaining rule can be brought to any state, and all responses agree.
    let made = served.ask("PUT", "/rules/storm", &rule(7)).await;
    assert_eq!(made.status, 200, "{}", made.body);
    assert_eq!(served.ask("POST", "/rules/storm/stop", "").await.status, 200);
    let status: Value = serde_json::from_str(&served.ask("GET", "/rules/storm/status", "").await.body).expect("JSON");
    assert_eq!(status["status"], "stopped");
    assert_eq!(served.ask("POST", "/rules/storm/start", "").await.status, 200);
    let status: Value = serde_json::from_str(&served.ask("GET", "/rules/storm/status", "").await.body).expect("JSON");
    assert_eq!(status["status"], "running");
    let shown: Value = serde_json::from_str(&served.ask("GET", "/rules/storm", "").await.body).expect("JSON");
    assert_eq!(shown["sql"], "SELECT n, 7 AS version FROM demo");
    assert_eq!(served.ask("DELETE", "/rules/storm", "").await.status, 200);
    assert_eq!(served.ask("GET", "/rules/storm/status", "").await.status, 404);
    let rules: Vec<Value> = serde_json::from_str(&served.ask("GET", "/rules", "").await.body).expect("JSON");
    assert_eq!(rules.len(), 1);
    served.end().await;
}
