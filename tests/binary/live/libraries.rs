//! The client libraries of `clients/` against the binary.
//!
//! If Python's or Node's websocket package is missing, its test is skipped with a message; with PLUTINO_REQUIRE_PEERS=1
//! it fails instead. Without Go, the test of that client is always skipped.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::model::{CASES, is_in, message, params};
use crate::process::{LIMIT, Plutino, send, stream};

/// A program over a library: it prints the rows after each change.
struct Program {
    program: String,
    script: Option<&'static str>,
}

/// One subscription of a program.
struct Library {
    lines: Lines<BufReader<ChildStdout>>,
    /// the rows of the last line
    rows: Value,
    _child: Child,
}

impl Program {
    fn of_script(program: &str, script: &'static str) -> Program {
        Program { program: program.to_owned(), script: Some(script) }
    }

    fn start(&self, port: u16, view: &str, params: &str) -> Library {
        let url = format!("ws://127.0.0.1:{port}/live");
        let mut child = Command::new(&self.program)
            .args(self.script)
            .args([&url, view, params])
            .current_dir("tests/peers")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the library starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Library { lines, rows: Value::Null, _child: child }
    }
}

impl Library {
    /// Reads until the rows satisfy the condition.
    async fn until(&mut self, wanted: impl Fn(&Value) -> bool) {
        let reached = timeout(LIMIT, async {
            while !wanted(&self.rows) {
                let Ok(Some(line)) = self.lines.next_line().await else { return false };
                self.rows = serde_json::from_str(&line).expect("rows are JSON");
            }
            true
        });
        assert!(reached.await.unwrap_or(false), "the library never had the rows, but last {}", self.rows);
    }

    async fn until_rows(&mut self, rows: &Value) {
        self.until(|now| now == rows).await;
    }
}

/// A relay to a port that can be cut.
struct Cutter {
    port: u16,
    open: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Cutter {
    async fn start(to: u16) -> Cutter {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it has one").port();
        let open: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let opened = open.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let way = tokio::spawn(async move {
                    let mut server = TcpStream::connect(("127.0.0.1", to)).await?;
                    tokio::io::copy_bidirectional(&mut client, &mut server).await
                });
                opened.lock().unwrap().push(way.abort_handle());
            }
        });
        Cutter { port, open }
    }

    fn cut(&self) {
        self.open.lock().unwrap().drain(..).for_each(|way| way.abort());
    }
}

fn is_missing(program: &str, probe: &[&str]) -> bool {
    let found = std::process::Command::new(program)
        .args(probe)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("tests/peers")
        .status();
    let missing = !found.is_ok_and(|status| status.success());
    if missing {
        assert!(std::env::var("PLUTINO_REQUIRE_PEERS").as_deref() != Ok("1"), "{program} or its library is missing");
        eprintln!("skipped: {program} or its websocket library is missing");
    }
    missing
}

/// Random messages while connections are cut: in the end every library has the rows of a simple model.
async fn holds_its_part(name: &str, program: &Program, seed: u64) {
    let views: Vec<&str> = CASES.iter().map(|case| case.sql).collect();
    let rules = json!({"streams": [stream("s", "", ", TIMESTAMP=\"ts\"")], "views": views, "rules": []});
    let plutino = Plutino::run(name, &rules, &[]).await;
    let way = Cutter::start(plutino.port).await;
    let mut feed = plutino.connect("/s").await;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut messages = Vec::new();
    let mut libraries = Vec::new();
    for case in CASES {
        let query = case.queries[random.usize(0..case.queries.len())];
        libraries.push((case, query, program.start(way.port, case.name, &json!(params(query)).to_string())));
    }
    for round in 0..32 {
        for _ in 0..random.usize(1..12) {
            let message = message(&mut random);
            send(&mut feed, message.to_string()).await;
            messages.push(message);
        }
        if random.u8(0..4) == 0 {
            way.cut();
        }
        if round % 8 == 7 {
            for (case, query, library) in &mut libraries {
                let mut wanted = (case.rows)(&messages);
                wanted.retain(|_, row| is_in(query, row));
                let wanted = in_any_order(wanted.into_values());
                library
                    .until(|rows| rows.as_array().is_some_and(|rows| in_any_order(rows.iter().cloned()) == wanted))
                    .await;
            }
        }
    }
}

/// The texts of rows, regardless of the order of rows and members.
fn in_any_order(rows: impl Iterator<Item = Value>) -> Vec<String> {
    let text = |row: Value| {
        let members: BTreeMap<&String, &Value> = row.as_object().into_iter().flatten().collect();
        json!(members).to_string()
    };
    let mut rows: Vec<String> = rows.map(text).collect();
    rows.sort_unstable();
    rows
}

async fn follows_its_part(name: &str, program: &Program) {
    let views = [
        "CREATE VIEW fleet WITH (KEY=\"id\", PARAMS=\"id,site\") AS SELECT id, site, t FROM telemetry",
        "CREATE VIEW hottest WITH (KEY=\"id\") AS SELECT id, t FROM telemetry ORDER BY t DESC LIMIT 2",
    ];
    let streams = [stream("telemetry", "id BIGINT, site STRING, t FLOAT", "")];
    let plutino = Plutino::run(name, &json!({"streams": streams, "views": views, "rules": []}), &[]).await;
    let mut feed = plutino.connect("/telemetry").await;
    let mut part = program.start(plutino.port, "fleet", r#"{"site": "n1"}"#);
    part.until_rows(&json!([])).await;
    send(&mut feed, r#"{"id": 1, "site": "n1", "t": 10.5}"#).await;
    part.until_rows(&json!([{"id": 1, "site": "n1", "t": 10.5}])).await;
    send(&mut feed, r#"{"id": 2, "site": "n2", "t": 30.5}"#).await;
    send(&mut feed, r#"{"id": 1, "site": "n1", "t": 20.5}"#).await;
    part.until_rows(&json!([{"id": 1, "site": "n1", "t": 20.5}])).await;
    let mut ordered = program.start(plutino.port, "hottest", "{}");
    ordered.until_rows(&json!([{"id": 2, "t": 30.5}, {"id": 1, "t": 20.5}])).await;
    // It moves to another part, and a third row displaces one of the first two.
    send(&mut feed, r#"{"id": 1, "site": "n2", "t": 40.5}"#).await;
    part.until_rows(&json!([])).await;
    ordered.until_rows(&json!([{"id": 1, "t": 40.5}, {"id": 2, "t": 30.5}])).await;
    send(&mut feed, r#"{"id": 3, "site": "n2", "t": 35.5}"#).await;
    ordered.until_rows(&json!([{"id": 1, "t": 40.5}, {"id": 3, "t": 35.5}])).await;
}

#[tokio::test]
async fn python() {
    if !is_missing("python3", &["-c", "import websockets.asyncio.client"]) {
        let program = Program::of_script("python3", "live.py");
        follows_its_part("live-python", &program).await;
        holds_its_part("live-python-model", &program, 21).await;
    }
}

#[tokio::test]
async fn javascript() {
    if !is_missing("node", &["-e", "require('ws')"]) {
        let program = Program::of_script("node", "live.mjs");
        follows_its_part("live-node", &program).await;
        holds_its_part("live-node-model", &program, 22).await;
    }
}

/// A client that was written from the protocol's page only.
#[tokio::test]
async fn go() {
    if !std::process::Command::new("go").arg("version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: Go is missing");
        return;
    }
    let program = format!("{}/plutino-live-go", env!("CARGO_TARGET_TMPDIR"));
    let built = std::process::Command::new("go")
        .args(["build", "-o", &program, "./example"])
        .envs([("GOTOOLCHAIN", "local"), ("GOPROXY", "off"), ("GOFLAGS", "-mod=mod")])
        .current_dir("clients/go")
        .output()
        .expect("go runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let program = Program { program, script: None };
    follows_its_part("live-go", &program).await;
    holds_its_part("live-go-model", &program, 23).await;
}
