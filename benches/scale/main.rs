//! What more data threads cost, and how evenly they share the work.
//!
//! Eight senders bring messages to one stream of the real binary, which runs one rule. For each number of data threads
//! the benchmark reports the processor time of the whole process for each message, and the share of the busiest data
//! thread: 1.0 is the mean. Wall-clock time says little where senders and binary share few cores, so it is not reported.
//!
//! `cargo bench --bench scale`, or `cargo bench --bench scale -- 1 3` for other numbers of threads. Linux only.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

const SENDERS: usize = 8;
const MESSAGES: usize = 100_000;
/// Rows that a sender sends before it waits for its socket.
const BURST: usize = 100;
/// The process is done when it has taken no processor time for this long.
const QUIET: Duration = Duration::from_millis(500);

/// A rule to measure.
struct Workload {
    name: &'static str,
    sql: &'static str,
    options: fn() -> Value,
}

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "stateless: filter and project",
        sql: "SELECT k, v * 2 AS w FROM input WHERE v >= 5",
        options: || json!({}),
    },
    Workload {
        name: "tumbling window by key, event time",
        sql: "SELECT k, count(*) AS n, avg(v) AS a FROM input GROUP BY k, TUMBLINGWINDOW(ss, 10)",
        options: || json!({"isEventTime": true, "lateTolerance": "1h"}),
    },
    Workload {
        name: "the same with one row of ten",
        sql: "SELECT k, count(*) AS n, avg(v) AS a FROM input WHERE v = 3 GROUP BY k, TUMBLINGWINDOW(ss, 10)",
        options: || json!({"isEventTime": true, "lateTolerance": "1h"}),
    },
];

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let given: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let workers = if given.is_empty() { vec![1, 2, 4] } else { given };
    println!("{SENDERS} senders, {MESSAGES} messages each");
    println!("{:<38} {:>7} {:>12} {:>8} {:>14}", "", "threads", "CPU ns/msg", "ratio", "busiest/mean");
    for workload in WORKLOADS {
        let mut first = None;
        for &workers in &workers {
            let (cpu, share) = measure(workload, workers).await;
            let base = *first.get_or_insert(cpu);
            println!("{:<38} {workers:>7} {cpu:>12.0} {:>8.2} {share:>14.2}", workload.name, cpu / base);
        }
    }
}

/// Processor time for each message, ns, and the share of the busiest data thread.
async fn measure(workload: &Workload, workers: usize) -> (f64, f64) {
    let rules = json!({
        "streams": ["CREATE STREAM input () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\", TIMESTAMP=\"ts\")"],
        "rules": [{"id": "r", "sql": workload.sql, "options": (workload.options)(), "actions": [{"nop": {}}]}]
    });
    let path = std::env::temp_dir().join(format!("plutino-scale-{}.json", std::process::id()));
    fs::write(&path, rules.to_string()).expect("the temporary folder can be written");
    let (mut child, url) = start(&path, workers).await;
    let pid = child.id().expect("it runs");
    let mut senders = Vec::new();
    for _ in 0..SENDERS {
        senders.push(connect_async(&url).await.expect("it takes clients").0);
    }
    let before = (cpu_of(pid), threads(pid));
    let sending = senders.iter_mut().map(|sender| async move {
        for number in 0..MESSAGES {
            let text = format!("{{\"k\":\"sensor-{}\",\"v\":{},\"ts\":{number}}}", number % 1000, number % 10);
            sender.feed(Message::text(text)).await.expect("it reads");
            if number % BURST == 0 {
                sender.flush().await.expect("it reads");
            }
        }
        sender.flush().await.expect("it reads");
    });
    futures_util::future::join_all(sending).await;
    let mut last = cpu_of(pid);
    loop {
        tokio::time::sleep(QUIET).await;
        let now = cpu_of(pid);
        if now - last <= 1 {
            break;
        }
        last = now;
    }
    let (all, by_thread) = (cpu_of(pid) - before.0, threads(pid));
    let each: Vec<u64> = by_thread.iter().zip(&before.1).map(|(after, before)| after - before).collect();
    let mean = each.iter().sum::<u64>() as f64 / each.len() as f64;
    let busiest = each.iter().max().copied().unwrap_or_default() as f64;
    drop(senders);
    child.kill().await.expect("it can be ended");
    let _ = fs::remove_file(path);
    (all as f64 * TICK_NS / (SENDERS * MESSAGES) as f64, busiest / mean.max(1.0))
}

/// Starts the binary; gives the address of the stream.
async fn start(rules: &std::path::Path, workers: usize) -> (Child, String) {
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
            // What else it says is of no interest, and must not fill the pipe.
            tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
            return (child, format!("ws://{address}/in"));
        }
    }
    panic!("it does not listen");
}

/// Linux counts processor time in hundredths of a second.
const TICK_NS: f64 = 1e7;

/// Processor time of a process in ticks.
fn cpu_of(pid: u32) -> u64 {
    ticks(&format!("/proc/{pid}/stat"))
}

/// The same of each data thread.
fn threads(pid: u32) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("Linux says what threads there are").flatten();
    let mut threads: Vec<(String, u64)> = tasks
        .map(|task| task.path())
        .filter_map(|task| {
            let name = fs::read_to_string(task.join("comm")).ok()?;
            Some((name.trim().to_owned(), ticks(&task.join("stat").to_string_lossy())))
        })
        .filter(|(name, _)| name.starts_with("data-"))
        .collect();
    threads.sort();
    threads.into_iter().map(|(_, ticks)| ticks).collect()
}

fn ticks(path: &str) -> u64 {
    let stat = fs::read_to_string(path).expect("the process runs");
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}
