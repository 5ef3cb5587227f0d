//! Errors of users and peers, with the real binary: a clear message, and no effect on anything else.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::process::folder::Folder;
use crate::process::{Client, LIMIT, Plutino, next, send, stream};

const STREAM: &str = r#"CREATE STREAM demo (price BIGINT) WITH (TYPE="websocket", DATASOURCE="/in")"#;

/// A folder with one rule file.
struct RuleFile(Folder);

impl RuleFile {
    fn new(name: &str, rules: &[u8]) -> RuleFile {
        let folder = Folder::new(name);
        folder.write("rules.json", rules);
        RuleFile(folder)
    }

    /// Runs the file, which must be refused; returns the output.
    async fn refused(&self, variables: &[(&str, &str)]) -> String {
        let run = Command::new(env!("CARGO_BIN_EXE_plutino"))
            .args(["run", "rules.json"])
            .current_dir(&self.0.0)
            .env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1")
            .env("KUIPER__SOURCE__HTTPSERVERPORT", "0")
            .envs(variables.iter().copied())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(LIMIT, run).await.expect("it ends").expect("it runs");
        let said = String::from_utf8(output.stderr).expect("stderr is text");
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "{said}");
        said
    }
}

fn rules(rules: Value) -> Vec<u8> {
    json!({"streams": [STREAM], "rules": rules}).to_string().into_bytes()
}

fn query(sql: &str) -> Vec<u8> {
    rules(json!([{"id": "r", "sql": sql, "actions": [{"log": {}}]}]))
}

fn sink(props: Value) -> Vec<u8> {
    rules(json!([{"id": "r", "sql": "SELECT price FROM demo", "actions": [{"websocket": props}]}]))
}

fn secure(name: &str, value: &str) -> Vec<u8> {
    sink(json!({"path": "/r", "addr": "127.0.0.1:9", "scheme": "wss", name: value}))
}

#[tokio::test]
async fn files_that_cannot_run_are_refused_in_their_place() {
    let valid = query("SELECT price FROM demo");
    let stream_of = |sql: &str| json!({"streams": [sql], "rules": []}).to_string().into_bytes();
    let cases: Vec<(&str, Vec<u8>, &[&str])> = vec![
        ("empty", b"".to_vec(), &["rules.json:1:1: error: ", "expected streams and rules"]),
        ("an empty list", b"[]".to_vec(), &["rules.json:1:1: error: the file holds no rules"]),
        ("number", b"5".to_vec(), &["rules.json:1:1: error: the file holds a number"]),
        ("cut off", valid[..valid.len() - 2].to_vec(), &["rules.json:1:", "neither JSON nor YAML"]),
        ("no text", b"\xff\xfe".to_vec(), &["the file is not UTF-8: byte 0"]),
        ("zeros", vec![0; 64], &["neither JSON nor YAML"]),
        ("deep", vec![b'['; 100_000], &["rules.json:1:", "recursion limit"]),
        ("no rules", stream_of(STREAM), &["there is no rule to run"]),
        ("rules of another type", rules(json!(5)), &["rules is a number, expected a list of rules"]),
        ("a rule of another type", rules(json!([5])), &["a rule is an object with id, sql and actions"]),
        ("no id", rules(json!([{"sql": "SELECT 1 FROM demo", "actions": [{"log": {}}]}])), &["Missing rule id."]),
        (
            "an empty id",
            rules(json!([{"id": "", "sql": "SELECT 1 FROM demo", "actions": [{"log": {}}]}])),
            &["Missing rule id."],
        ),
        ("no sql", rules(json!([{"id": "r", "actions": [{"log": {}}]}])), &["rule r: the rule has no sql"]),
        ("no actions", rules(json!([{"id": "r", "sql": "SELECT 1 FROM demo"}])), &["Missing rule actions."]),
        (
            "an unknown sink",
            rules(json!([{"id": "r", "sql": "SELECT 1 FROM demo", "actions": [{"websocet": {}}]}])),
            &["sink websocet is not defined", "did you mean websocket?"],
        ),
        (
            "an option of another type",
            rules(
                json!([{"id": "r", "sql": "SELECT 1 FROM demo", "actions": [{"log": {}}], "options": {"isEventTime": "maybe"}}]),
            ),
            &["option isEventTime is \"maybe\", expected true or false"],
        ),
        (
            "an unknown stream",
            query("SELECT price FROM dmeo"),
            &["1:19 | SELECT price FROM dmeo", "did you mean demo?"],
        ),
        ("an unknown column", query("SELECT pirce FROM demo"), &["unknown field pirce", "did you mean price?"]),
        (
            "an unknown function",
            query("SELECT uper(price) FROM demo"),
            &["function uper not found", "did you mean upper?"],
        ),
        ("no operand", query("SELECT price FROM demo WHERE price >"), &["1:37 | SELECT price", "expected expression"]),
        ("no statement", query("SELCT price FROM demo"), &["1:1 | SELCT", "did you mean SELECT?"]),
        ("an open text", query("SELECT 'price FROM demo"), &["a quote is missing"]),
        (
            "deep SQL",
            query(&format!("SELECT {}1{} FROM demo", "(".repeat(50_000), ")".repeat(50_000))),
            &["nested too deeply"],
        ),
        ("a huge number", query("SELECT 99999999999999999999 FROM demo"), &["a whole number has 64 bits"]),
        ("an empty window", query("SELECT count(*) FROM demo GROUP BY TUMBLINGWINDOW(ss, 0)"), &["greater than 0"]),
        (
            "an aggregate in WHERE",
            query("SELECT 1 FROM demo WHERE count(*) > 1"),
            &["Not allowed to call aggregate functions"],
        ),
        (
            "an unknown type of field",
            stream_of(r#"CREATE STREAM demo (a BIGNIT) WITH (DATASOURCE="/in")"#),
            &["found \"BIGNIT\"", "did you mean BIGINT?"],
        ),
        (
            "an unknown option of a stream",
            stream_of(r#"CREATE STREAM demo () WITH (DATASUORCE="/in")"#),
            &["found \"DATASUORCE\"", "did you mean DATASOURCE?"],
        ),
        (
            "an unknown conf key",
            stream_of(r#"CREATE STREAM demo () WITH (TYPE="websocket", DATASOURCE="/in", CONF_KEY="peer")"#),
            &["CONF_KEY peer is not defined", "etc/sources/websocket.yaml"],
        ),
        ("no path", sink(json!({})), &["websocket endpoint should start with /"]),
        ("a wrong port", sink(json!({"path": "/r", "addr": "h:99999"})), &["addr is \"h:99999\", expected host:port"]),
        ("a wrong scheme", sink(json!({"path": "/r", "addr": "h:9", "scheme": "http"})), &["expected ws or wss"]),
        (
            "a wrong policy",
            sink(json!({"path": "/r", "slowClient": "wait"})),
            &["expected dropOldest, disconnect or block"],
        ),
        ("no base64", secure("rootCARaw", "!!!"), &["property rootCARaw: not the base64 of a PEM text"]),
        ("no PEM", secure("rootCARaw", "aGVsbG8="), &["property rootCARaw: the text holds no certificate"]),
        (
            "no such file",
            secure("rootCaPath", "absent.pem"),
            &["property rootCaPath: cannot read absent.pem: No such file"],
        ),
        ("a wrong file", secure("rootCaPath", "rules.json"), &["property rootCaPath:", "no certificate"]),
        ("no key", secure("certificationPath", "rules.json"), &["certificationPath needs privateKeyPath"]),
        (
            "no client for checkConnection",
            sink(json!({"path": "/r", "checkConnection": true})),
            &["error: rule r: checkConnection: no client is connected"],
        ),
        (
            "no peer for checkConnection",
            sink(json!({"path": "/r", "addr": "127.0.0.1:9", "checkConnection": true})),
            &["error: rule r: checkConnection:", "127.0.0.1:9"],
        ),
    ];
    for (name, file, parts) in cases {
        let said = RuleFile::new("file", &file).refused(&[]).await;
        for part in parts {
            assert!(said.contains(part), "{name}: {part:?} in\n{said}");
        }
    }
}

#[tokio::test]
async fn a_data_server_without_its_certificate_does_not_start() {
    let folder = RuleFile::new("tls", &query("SELECT price FROM demo"));
    let (cert, key) = ("KUIPER__SOURCE__HTTPSERVERTLS__CERTFILE", "KUIPER__SOURCE__HTTPSERVERTLS__KEYFILE");
    let said = folder.refused(&[(cert, "absent.pem"), (key, "absent.key")]).await;
    assert!(said.contains("absent.pem: No such file"), "{said}");
    let said = folder.refused(&[(cert, "rules.json"), (key, "rules.json")]).await;
    assert!(said.contains("rules.json") && said.contains("no certificate"), "{said}");
    let said = folder.refused(&[(cert, "rules.json")]).await;
    assert!(said.contains("needs both certfile and keyfile"), "{said}");
}

/// A rule that must not be affected, and another that reads from `peer`.
fn beside(peer: Value) -> Value {
    json!({
        "sources": {"websocket": {"peer": peer}},
        "streams": [stream("strange", "", ", CONF_KEY=\"peer\""), stream("s", "", "")],
        "rules": [
            {"id": "reads", "sql": "SELECT * FROM strange", "actions": [{"nop": {}}]},
            {"id": "other", "sql": "SELECT n FROM s", "actions": [{"websocket": {"path": "/other", "sendSingle": true}}]},
        ],
    })
}

/// The rule `other` sends results.
async fn undisturbed(source: &mut Client, results: &mut Client) {
    send(source, r#"{"n":1}"#).await;
    assert_eq!(next(results).await, Some(json!({"n": 1})));
}

/// How long to count dials: 1.5 s, and until there are two, however busy the machine is.
fn left(begun: Instant, dials: u32) -> Duration {
    let all = if dials < 2 { LIMIT } else { Duration::from_millis(1500) };
    all.saturating_sub(begun.elapsed())
}

#[tokio::test]
async fn peers_that_are_no_websocket_servers_are_told_and_dialled_with_patience() {
    const HTTP: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    for (answer, reason) in [(HTTP, "HTTP status 200"), ("", "does not answer as a websocket server")] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let mut plutino = Plutino::run("strange", &beside(json!({"addr": address})), &[]).await;
        let (mut source, mut results) = (plutino.connect("/s").await, plutino.connect("/other").await);
        let begun = Instant::now();
        let mut dials = 0;
        while let Ok(accepted) = timeout(left(begun, dials), listener.accept()).await {
            let (mut socket, _) = accepted.expect("a connection");
            dials += 1;
            if !answer.is_empty() {
                let mut request = [0; 4096];
                let _ = socket.read(&mut request).await;
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        }
        // Waits of 100, 200, 400, 800 ms, plus or minus a fifth.
        assert!((2..=6).contains(&dials), "{dials} dials in 1.5 s");
        undisturbed(&mut source, &mut results).await;
        plutino.terminate();
        plutino.says_all(&[&address, "connecting", reason]).await;
        assert_eq!(plutino.exit_code().await, Some(0));
    }
}

#[tokio::test]
async fn a_peer_that_opens_and_closes_at_once_is_dialled_with_patience() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let mut plutino = Plutino::run("closes", &beside(json!({"addr": address})), &[]).await;
    let (mut source, mut results) = (plutino.connect("/s").await, plutino.connect("/other").await);
    let begun = Instant::now();
    let mut dials = 0;
    while let Ok(accepted) = timeout(left(begun, dials), listener.accept()).await {
        let websocket = tokio_tungstenite::accept_async(accepted.expect("a connection").0).await;
        let _ = websocket.expect("a handshake").close(None).await;
        dials += 1;
    }
    assert!((2..=6).contains(&dials), "{dials} dials in 1.5 s");
    undisturbed(&mut source, &mut results).await;
    plutino.terminate();
    plutino.says_all(&[&address, "connecting", "closed the connection"]).await;
    assert_eq!(plutino.exit_code().await, Some(0));
}

/// The code of the close frame; messages before it are skipped.
async fn close_code(client: &mut Client) -> CloseCode {
    loop {
        match timeout(LIMIT, client.next()).await.expect("it is closed").expect("with a frame").expect("a whole one") {
            Message::Close(frame) => return frame.expect("with a code").code,
            _ => continue,
        }
    }
}

#[tokio::test]
async fn frames_that_are_too_large_or_no_text_end_their_connection_alone() {
    let limited = json!({
        "sources": {"websocket": {"small": {"maxMessageSize": 1000}}},
        "streams": [stream("s", "", ", CONF_KEY=\"small\"")],
        "rules": [{"id": "r", "sql": "SELECT n FROM s", "actions": [{"websocket": {"path": "/other", "sendSingle": true}}]}],
    });
    let mut plutino = Plutino::run("frames", &limited, &[]).await;
    let (mut good, mut results) = (plutino.connect("/s").await, plutino.connect("/other").await);

    let mut large = plutino.connect("/s").await;
    send(&mut large, format!(r#"{{"n":"{}"}}"#, "x".repeat(5000))).await;
    assert_eq!(close_code(&mut large).await, CloseCode::Size);
    undisturbed(&mut good, &mut results).await;

    // A frame that announces 2^62 bytes: no memory is reserved for them.
    let mut raw = upgraded(plutino.port, "/s").await;
    let mut announced = vec![0x81, 0xff];
    announced.extend_from_slice(&(1u64 << 62).to_be_bytes());
    announced.extend_from_slice(&[0; 4]);
    raw.write_all(&announced).await.expect("it is open");
    assert_eq!(raw_close(&mut raw).await, u16::from(CloseCode::Size));
    undisturbed(&mut good, &mut results).await;

    // A text frame of two bytes that are not UTF-8, masked with zeros.
    let mut raw = upgraded(plutino.port, "/s").await;
    raw.write_all(&[0x81, 0x82, 0, 0, 0, 0, 0xff, 0xfe]).await.expect("it is open");
    assert_eq!(raw_close(&mut raw).await, u16::from(CloseCode::Invalid));
    undisturbed(&mut good, &mut results).await;

    // Not masked, although from a client.
    let mut raw = upgraded(plutino.port, "/s").await;
    raw.write_all(&[0x81, 0x02, b'{', b'}']).await.expect("it is open");
    assert_eq!(raw_close(&mut raw).await, u16::from(CloseCode::Protocol));
    undisturbed(&mut good, &mut results).await;
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}

/// A connection after its handshake, without a websocket library that would enforce the protocol.
async fn upgraded(port: u16, path: &str) -> TcpStream {
    let mut raw = TcpStream::connect(("127.0.0.1", port)).await.expect("the port is open");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    raw.write_all(request.as_bytes()).await.expect("it is open");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(LIMIT, raw.read_u8()).await.expect("it answers").expect("it is open"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    raw
}

/// The code of the next close frame.
async fn raw_close(raw: &mut TcpStream) -> u16 {
    let mut head = [0; 4];
    timeout(LIMIT, raw.read_exact(&mut head)).await.expect("it answers").expect("a frame");
    assert_eq!(head[0], 0x88, "a close frame");
    u16::from_be_bytes([head[2], head[3]])
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn thousands_of_connects_leave_no_descriptors() {
    let mut plutino = Plutino::run("connects", &beside(json!({})), &[]).await;
    let (mut source, mut results) = (plutino.connect("/s").await, plutino.connect("/other").await);
    undisturbed(&mut source, &mut results).await;
    let descriptors = format!("/proc/{}/fd", plutino.child.id().expect("it runs"));
    let open = || std::fs::read_dir(&descriptors).expect("it runs").count();
    let before = open();
    for round in 0..2000 {
        match round % 4 {
            // Closed with a close frame; without one; before the handshake; not connected at all.
            0 => {
                let _ = plutino.connect("/s").await.close(None).await;
            }
            1 => drop(plutino.connect("/other").await),
            2 => drop(TcpStream::connect(("127.0.0.1", plutino.port)).await.expect("the port is open")),
            _ => {
                let url = format!("ws://127.0.0.1:{}/nowhere", plutino.port);
                assert!(tokio_tungstenite::connect_async(url).await.is_err());
            }
        }
    }
    let patience = Instant::now() + LIMIT;
    while open() > before {
        assert!(Instant::now() < patience, "{} descriptors, {before} before", open());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    undisturbed(&mut source, &mut results).await;
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}
