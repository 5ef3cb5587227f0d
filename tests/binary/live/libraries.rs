//! The client libraries of `clients/` against the binary.
//!
//! Where Python's or Node's websocket package is missing, its test says that it is skipped; with PLUTINO_REQUIRE_PEERS=1
//! it fails instead.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::process::{LIMIT, Plutino, send, stream};

/// A library that prints its rows after each change.
struct Library {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Library {
    fn start(program: &str, script: &str, plutino: &Plutino, view: &str, params: &str) -> Library {
        let url = format!("ws://127.0.0.1:{}/live", plutino.port);
        let mut child = Command::new(program)
            .args([script, &url, view, params])
            .current_dir("tests/peers")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the library starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Library { lines, _child: child }
    }

    /// Reads until the rows are these.
    async fn until(&mut self, rows: &Value) {
        let mut last = String::new();
        let reached = timeout(LIMIT, async {
            while let Ok(Some(line)) = self.lines.next_line().await {
                if serde_json::from_str::<Value>(&line).expect("rows are JSON") == *rows {
                    return true;
                }
                last = line;
            }
            false
        });
        assert!(reached.await.unwrap_or(false), "the library never had {rows}, but last {last}");
    }
}

fn is_missing(program: &str, probe: &[&str]) -> bool {
    let found =
        std::process::Command::new(program).args(probe).stderr(Stdio::null()).current_dir("tests/peers").status();
    let missing = !found.is_ok_and(|status| status.success());
    if missing {
        assert!(std::env::var("PLUTINO_REQUIRE_PEERS").as_deref() != Ok("1"), "{program} or its library is missing");
        eprintln!("skipped: {program} or its websocket library is missing");
    }
    missing
}

async fn follows_its_part(name: &str, program: &str, script: &str) {
    let views = [
        "CREATE VIEW fleet WITH (KEY=\"id\", PARAMS=\"id,site\") AS SELECT id, site, t FROM telemetry",
        "CREATE VIEW hottest WITH (KEY=\"id\") AS SELECT id, t FROM telemetry ORDER BY t DESC LIMIT 2",
    ];
    let streams = [stream("telemetry", "id BIGINT, site STRING, t FLOAT", "")];
    let plutino = Plutino::run(name, &json!({"streams": streams, "views": views, "rules": []}), &[]).await;
    let mut feed = plutino.connect("/telemetry").await;
    let mut part = Library::start(program, script, &plutino, "fleet", r#"{"site": "n1"}"#);
    part.until(&json!([])).await;
    send(&mut feed, r#"{"id": 1, "site": "n1", "t": 10.5}"#).await;
    part.until(&json!([{"id": 1, "site": "n1", "t": 10.5}])).await;
    send(&mut feed, r#"{"id": 2, "site": "n2", "t": 30.5}"#).await;
    send(&mut feed, r#"{"id": 1, "site": "n1", "t": 20.5}"#).await;
    part.until(&json!([{"id": 1, "site": "n1", "t": 20.5}])).await;
    let mut ordered = Library::start(program, script, &plutino, "hottest", "{}");
    ordered.until(&json!([{"id": 2, "t": 30.5}, {"id": 1, "t": 20.5}])).await;
    // It moves to another part, and a third row pushes one out of the first two.
    send(&mut feed, r#"{"id": 1, "site": "n2", "t": 40.5}"#).await;
    part.until(&json!([])).await;
    ordered.until(&json!([{"id": 1, "t": 40.5}, {"id": 2, "t": 30.5}])).await;
    send(&mut feed, r#"{"id": 3, "site": "n2", "t": 35.5}"#).await;
    ordered.until(&json!([{"id": 1, "t": 40.5}, {"id": 3, "t": 35.5}])).await;
}

#[tokio::test]
async fn python() {
    if !is_missing("python3", &["-c", "import websockets.asyncio.client"]) {
        follows_its_part("live-python", "python3", "live.py").await;
    }
}

#[tokio::test]
async fn javascript() {
    if !is_missing("node", &["-e", "require('ws')"]) {
        follows_its_part("live-node", "node", "live.mjs").await;
    }
}
