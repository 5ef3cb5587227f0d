//! The real binary, with senders and clients over websockets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::SinkExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::cpu::Cpu;
use crate::workload::{CREATE, Workload};

pub const SENDERS: usize = 8;
pub const MESSAGES: usize = 100_000;

/// How many clients get all results of the fan-out.
pub const CLIENTS: usize = 64;

/// Messages of each sender of the fan-out. Half of them pass.
const TO_ALL: usize = 2_000;

/// Rows that a sender sends before it waits for its socket.
const BURST: usize = 100;

/// The process is idle when it has used hardly any CPU time for this long.
const QUIET: Duration = Duration::from_millis(300);

/// CPU time of an idle process in that time, ns.
const IDLE: u64 = 3_000_000;

/// The binary with some rules.
struct Running {
    child: Child,
    pid: String,
    /// host and port of its data server
    address: String,
    rules: PathBuf,
}

/// CPU time per message, ns, and the share of the busiest data thread.
pub async fn measure(workload: &Workload, workers: usize) -> (f64, f64) {
    let rule = json!({"id": "r", "sql": workload.sql, "options": workload.options(), "actions": [{"nop": {}}]});
    let running = Running::start(&rule, workers).await;
    let before = Cpu::of(&running.pid);
    running.send(MESSAGES, |sender, number| workload.row(sender, number)).await;
    let spent = running.quiet().await.since(&before);
    running.end().await;
    (spent.all as f64 / (SENDERS * MESSAGES) as f64, spent.busiest())
}

/// The same per delivery, for results that go to all clients.
pub async fn fan_out(workers: usize) -> (f64, f64) {
    // A slow client makes the binary wait, so that each message is delivered.
    let sink = json!({"websocket": {"path": "/out", "sendSingle": true, "slowClient": "block"}});
    let rule = json!({"id": "r", "sql": "SELECT * FROM input WHERE v >= 5", "options": {}, "actions": [sink]});
    let running = Running::start(&rule, workers).await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let (client, _) = connect_async(format!("ws://{}/out", running.address)).await.expect("it takes clients");
        // Received messages are not parsed.
        let mut socket = client.into_inner();
        clients.push(tokio::spawn(async move {
            let mut buffer = vec![0; 256 * 1024];
            while socket.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
        }));
    }
    let before = Cpu::of(&running.pid);
    let filler = "x".repeat(150);
    let row = |_: usize, number: usize| format!("{{\"v\":{},\"n\":{number},\"t\":\"{filler}\"}}", number % 10);
    running.send(TO_ALL, row).await;
    let spent = running.quiet().await.since(&before);
    running.end().await;
    join_all(clients).await;
    (spent.all as f64 / (SENDERS * TO_ALL / 2 * CLIENTS) as f64, spent.busiest())
}

impl Running {
    async fn start(rule: &Value, workers: usize) -> Running {
        let rules = std::env::temp_dir().join(format!("plutino-scale-{}.json", std::process::id()));
        let text = json!({"streams": [CREATE], "rules": [rule]}).to_string();
        fs::write(&rules, text).expect("the temporary folder can be written");
        let (child, address) = start(&rules, workers).await;
        let pid = child.id().expect("it runs").to_string();
        Running { child, pid, address, rules }
    }

    /// Each sender sends this many messages.
    async fn send(&self, messages: usize, row: impl Fn(usize, usize) -> String) {
        let mut senders = Vec::new();
        for _ in 0..SENDERS {
            senders.push(connect_async(format!("ws://{}/in", self.address)).await.expect("it takes clients").0);
        }
        let row = &row;
        let sending = senders.iter_mut().enumerate().map(|(sender, socket)| async move {
            for number in 0..messages {
                socket.feed(Message::text(row(sender, number))).await.expect("it reads");
                if number % BURST == 0 {
                    socket.flush().await.expect("it reads");
                }
            }
            socket.flush().await.expect("it reads");
        });
        join_all(sending).await;
        self.quiet().await;
    }

    /// Waits until everything has run.
    async fn quiet(&self) -> Cpu {
        let mut last = Cpu::of(&self.pid);
        loop {
            tokio::time::sleep(QUIET).await;
            let now = Cpu::of(&self.pid);
            if now.all - last.all <= IDLE {
                return now;
            }
            last = now;
        }
    }

    async fn end(mut self) {
        self.child.kill().await.expect("it can be ended");
        let _ = fs::remove_file(self.rules);
    }
}

/// Starts the binary; returns the address of its data server.
async fn start(rules: &Path, workers: usize) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_plutino"))
        .arg("run")
        .arg(rules)
        .args(["--workers", &workers.to_string()])
        .env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1")
        .env("KUIPER__SOURCE__HTTPSERVERPORT", "0")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let mut said = BufReader::new(child.stderr.take().expect("stderr is a pipe")).lines();
    while let Some(line) = said.next_line().await.expect("it says something") {
        if let Some(address) = line.split("listening on ").nth(1) {
            let address = address.split_whitespace().next().unwrap_or(address);
            let address = address.trim_start_matches("ws://").split('/').next().unwrap_or_default().to_owned();
            // Other output is discarded, so that the pipe does not fill.
            tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
            return (child, address);
        }
    }
    panic!("it does not listen");
}
