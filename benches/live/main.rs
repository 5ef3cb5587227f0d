//! The cost of live views: CPU per message and delivery, memory per subscription and row, time for snapshots and for
//! reconnecting clients. See README.md in this folder.
//!
//! The real binary runs in a separate process; everything goes over its sockets. CPU time and memory of the process are
//! read from the system. A figure that misses its aim does not fail the run; a wrong result or a lost change ends it
//! with a code other than 0.

mod client;
#[path = "../throughput/failure.rs"]
mod failure;
#[path = "../throughput/process.rs"]
#[allow(dead_code)]
mod process;
#[path = "../throughput/relay.rs"]
#[allow(dead_code)]
mod relay;
#[path = "../service/client.rs"]
#[allow(dead_code)]
mod rest;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use client::{Seen, Socket, push_frame};
use failure::{Doing, Failure, Outcome, wrong};
use process::{Folder, Process, free_port};
use rest::Rest;
use serde_json::{Value, json};

/// Silence after which a round fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// The rows of the table, by the name that `--only` takes.
const ROWS: [&str; 10] = [
    "aggregate",
    "routed",
    "parameters",
    "fanout",
    "peers",
    "subscription",
    "snapshots",
    "stalled",
    "resumed",
    "state",
];

/// All clients of `fanout` and `peers` watch the same rows: how many clients, how often, how many rows each time.
const WATCHING: (u64, usize, usize) = (100, 500, 100);

#[derive(Clone)]
struct Options {
    binary: PathBuf,
    /// runs the peers that are written in Python
    python: PathBuf,
    only: Vec<String>,
    /// counts are divided by it, for a quick run
    smaller: usize,
}

struct Service {
    process: Process,
    _folder: Folder,
    rest: u16,
    data: u16,
}

impl Service {
    fn start(options: &Options, name: &str, statements: &[(&str, &str)]) -> Outcome<Service> {
        let folder = Folder::make(&format!("live-{name}"))?;
        let (rest, data) = (free_port()?, free_port()?);
        let etc = folder.path().join("etc");
        std::fs::create_dir_all(&etc).doing("making the folder of the configuration")?;
        let yaml =
            format!("basic:\n  restPort: {rest}\nsource:\n  httpServerIp: 127.0.0.1\n  httpServerPort: {data}\n");
        std::fs::write(etc.join("plutino.yaml"), yaml).doing("writing the configuration")?;
        let mut command = Command::new(&options.binary);
        command.arg("serve").arg("--etc").arg(&etc).arg("--data").arg(folder.path().join("data"));
        let process = Process::start("plutino", command, folder.path())?;
        let mut service = Service { process, _folder: folder, rest, data };
        let until = Instant::now() + Duration::from_secs(60);
        while service.call("GET", "/ping", "").is_err() {
            service.process.alive()?;
            if Instant::now() > until {
                return wrong("the API did not answer");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let stream = "CREATE STREAM telemetry (id BIGINT, site STRING, t FLOAT, sent BIGINT) \
                      WITH (TYPE=\"websocket\", DATASOURCE=\"/in\", FORMAT=\"json\")";
        service.call("POST", "/streams", &json!({ "sql": stream }).to_string())?;
        for (path, text) in statements {
            let body = if *path == "/views" { json!({ "sql": text }).to_string() } else { (*text).to_owned() };
            service.call("POST", path, &body)?;
        }
        Ok(service)
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Outcome<String> {
        Rest::connect(self.rest)?.call(method, path, body)
    }

    fn json(&self, path: &str) -> Outcome<Value> {
        let text = self.call("GET", path, "")?;
        serde_json::from_str(&text).map_err(|error| Failure::Wrong(format!("{path}: {error}: {text}")))
    }

    fn memory(&self) -> Outcome<f64> {
        Ok(self.process.memory()?.now as f64 * 1024.0)
    }

    /// Waits until a view has so many rows.
    async fn has_rows(&self, view: &str, rows: usize) -> Outcome<()> {
        let end = Instant::now() + PATIENCE;
        while self.json(&format!("/views/{view}/status"))?["rows"].as_u64() < Some(rows as u64) {
            if Instant::now() > end {
                return wrong(format!("view {view} does not get its {rows} rows"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits until the last row of `fleet` is that of a round.
    async fn has_newest(&self, round: usize) -> Outcome<()> {
        let end = Instant::now() + PATIENCE;
        while self.json("/views/fleet/rows?id=9999")?["rows"][0]["t"].as_f64() != Some(round as f64 + 0.5) {
            if Instant::now() > end {
                return wrong(format!("the last row of round {round} does not come"));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn feed(&self) -> Outcome<Socket> {
        Socket::connect(self.data, "/in").await
    }
}

const FLEET: &str = "CREATE VIEW fleet WITH (KEY=\"id\", RETAIN=\"60s\") AS SELECT id, site, t, sent FROM telemetry";

fn message(id: usize, t: usize, sent: u64) -> String {
    format!("{{\"id\":{id},\"site\":\"hall-{:02}\",\"t\":{t}.5,\"sent\":{sent},\"unit\":\"C\",\"ok\":true}}", id % 20)
}

fn messages(ids: impl Iterator<Item = usize>, t: usize, sent: u64) -> Vec<u8> {
    let mut frames = Vec::new();
    ids.for_each(|id| push_frame(&mut frames, &message(id, t, sent)));
    frames
}

/// Waits until a count has reached a number.
async fn until(count: &AtomicU64, number: u64, what: &str) -> Outcome<()> {
    let end = Instant::now() + PATIENCE;
    while count.load(Ordering::Relaxed) < number {
        if Instant::now() > end {
            return wrong(format!("{what}: {} of {number}", count.load(Ordering::Relaxed)));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Opens sockets that count messages until they are dropped with the runtime.
async fn watch(service: &Service, paths: impl Iterator<Item = String>, seen: &Arc<Seen>) -> Outcome<usize> {
    let mut opened = 0;
    for path in paths {
        let mut socket = Socket::connect(service.data, &path).await?;
        let seen = seen.clone();
        tokio::spawn(async move { socket.read(&seen, |_| false).await });
        opened += 1;
    }
    until(&seen.ready, opened as u64, "snapshots").await?;
    Ok(opened)
}

/// CPU µs per message while a view, or a rule with a window, accumulates and nobody watches.
async fn aggregate(options: &Options) -> Outcome<()> {
    let total = 1_000_000 / options.smaller;
    let view =
        "CREATE VIEW counts AS SELECT id, count(*) AS n, avg(t) AS mean, max(t) AS most FROM telemetry GROUP BY id";
    let rule = json!({"id": "counts", "sql": "SELECT id, count(*) AS n, avg(t) AS mean, max(t) AS most FROM telemetry \
                      GROUP BY id, TUMBLINGWINDOW(ss, 1)", "actions": [{"nop": {}}]})
    .to_string();
    let mut costs = Vec::new();
    for (name, path, text) in [("view", "/views", view), ("rule", "/rules", rule.as_str())] {
        let service = Service::start(options, name, &[(path, text)])?;
        let mut feed = service.feed().await?;
        let frames = messages((0..10_000).map(|number| number % 1_000), 20, 0);
        let before = service.process.cpu()?;
        for _ in 0..total / 10_000 {
            feed.send(&frames).await?;
        }
        let end = Instant::now() + PATIENCE;
        loop {
            let done = match name {
                "view" => service.json("/views/counts/rows?id=999")?["rows"][0]["n"].as_u64().unwrap_or(0) * 1_000,
                _ => service.json("/rules/counts/status")?["source_telemetry_0_records_in_total"].as_u64().unwrap_or(0),
            };
            if done as usize >= total / 10_000 * 10_000 {
                break;
            }
            if Instant::now() > end {
                return wrong(format!("{name}: {done} of {total} messages"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        costs.push((service.process.cpu()? - before).as_secs_f64() * 1e6 / total as f64);
    }
    print(
        "aggregate view, 1,000 keys, nobody watches",
        &format!("{:.3} µs a message, {:.2} × the rule", costs[0], costs[0] / costs[1]),
        "≤ 1.25 ×",
    );
    Ok(())
}

/// Deltas per second and core, and CPU µs per delta, of clients that each watch a key of `keys`; `changed` keys per
/// round.
async fn route(options: &Options, clients: usize, changed: usize, rounds: usize) -> Outcome<(f64, f64)> {
    let service = Service::start(options, "routed", &[("/views", FLEET)])?;
    let mut feed = service.feed().await?;
    feed.send(&messages(0..clients, 1, 0)).await?;
    let seen = Arc::new(Seen::new()?);
    watch(&service, (0..clients).map(|id| format!("/live/fleet?id={id}")), &seen).await?;
    let before = service.process.cpu()?;
    let mut sent = 0;
    for round in 0..rounds {
        let ids = (0..changed).map(|number| (round * changed + number) % clients);
        feed.send(&messages(ids, round + 2, 0)).await?;
        sent += changed;
        // Each change is a separate delta.
        until(&seen.rows, sent as u64, "deltas").await?;
    }
    let cpu = (service.process.cpu()? - before).as_secs_f64();
    let deltas = seen.deltas.load(Ordering::Relaxed) as f64;
    if options.only.is_empty() || options.only.iter().any(|only| only == "routed") && clients > 1_000 {
        // At half of the capacity of a core: one round at a time, at equal distances.
        let pause = Duration::from_secs_f64(2.0 * cpu / deltas * changed as f64);
        for round in 0..(Duration::from_secs(3).as_secs_f64() / pause.as_secs_f64()) as usize {
            let ids = (0..changed).map(|number| (round * changed + number) % clients);
            let now = seen.from.elapsed().as_micros() as u64;
            feed.send(&messages(ids, round + 9_000, now)).await?;
            tokio::time::sleep(pause).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let p99 = seen.latency.lock().map_or(0.0, |latency| latency.value_at_quantile(0.99) as f64 / 1_000.0);
    Ok((cpu * 1e6 / deltas, p99))
}

async fn routed(options: &Options) -> Outcome<()> {
    let clients = 10_000 / options.smaller;
    let (cpu, p99) = route(options, clients, clients / 100, 500).await?;
    let value = format!("{:.0} deltas/s and core, p99 {p99:.1} ms at half of that", 1e6 / cpu);
    print(&format!("routed deltas, {clients} clients, 1 % change a round"), &value, "≥ 100,000, ≤ 10 ms");
    Ok(())
}

async fn parameters(options: &Options) -> Outcome<()> {
    let clients = 10_000 / options.smaller;
    let quiet = Options { only: vec!["parameters".to_owned()], ..options.clone() };
    let (many, _) = route(&quiet, clients, 100, 500).await?;
    let (few, _) = route(&quiet, 100, 100, 500).await?;
    let value = format!("{many:.2} against {few:.2} µs, {:.2} ×", many / few);
    print(&format!("{clients} parameter values against 100, CPU a delivered change"), &value, "≤ 1.2 ×");
    Ok(())
}

/// CPU µs per row delivered to 100 clients: of a view, and of a rule.
async fn fanout(options: &Options) -> Outcome<()> {
    let rule = json!({"id": "out", "sql": "SELECT id, site, t, sent FROM telemetry",
                      "actions": [{"websocket": {"path": "/out", "sendSingle": true, "slowClient": "block"}}]})
    .to_string();
    let mut costs = Vec::new();
    for (name, path, text, watched) in
        [("view", "/views", FLEET, "/live/fleet"), ("rule", "/rules", rule.as_str(), "/out")]
    {
        let service = Service::start(options, name, &[(path, text)])?;
        costs.push(delivery(&service.process, service.data, watched, name == "view").await?);
    }
    let value = format!("{:.3} µs a row, {:.2} × the rule", costs[0], costs[0] / costs[1]);
    print("all of 100 clients watch one view", &value, "≤ 1.1 × W4's");
    Ok(())
}

/// CPU µs of a process for each row that it delivers to one of many clients of a path.
async fn delivery(process: &Process, port: u16, watched: &str, is_view: bool) -> Outcome<f64> {
    let mut feed = Socket::connect(port, "/in").await?;
    let (clients, rounds, changed) = WATCHING;
    let seen = Arc::new(Seen::new()?);
    let delivered = Arc::new(AtomicU64::default());
    for _ in 0..clients {
        let mut socket = Socket::connect(port, watched).await?;
        let (seen, delivered) = (seen.clone(), delivered.clone());
        tokio::spawn(async move {
            let count = |text: &[u8]| {
                let rows = memchr::memmem::find_iter(text, b"\"sent\":").count() as u64;
                delivered.fetch_add(rows, Ordering::Relaxed);
                false
            };
            socket.read(&seen, count).await
        });
    }
    if is_view {
        until(&seen.ready, clients, "snapshots").await?;
    }
    let before = process.cpu()?;
    for round in 0..rounds {
        feed.send(&messages(0..changed, round + 2, 0)).await?;
        until(&delivered, (round as u64 + 1) * changed as u64 * clients, "rows").await?;
    }
    let rows = delivered.load(Ordering::Relaxed) as f64;
    Ok((process.cpu()? - before).as_secs_f64() * 1e6 / rows)
}

/// The work of `fanout` by what one would use instead: a relay without state, and Perspective's Python server.
async fn peers(options: &Options) -> Outcome<()> {
    let folder = Folder::make("live-peers")?;
    let port = free_port()?;
    let mut command = Command::new(std::env::current_exe().doing("finding this program")?);
    command.args(["relay", relay::Kind::All.name(), &port.to_string()]);
    let mut process = Process::start("relay", command, folder.path())?;
    let until = Instant::now() + PATIENCE;
    while Socket::connect(port, "/in").await.is_err() {
        process.alive()?;
        if Instant::now() > until {
            return wrong("the relay does not listen");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let cost = delivery(&process, port, "/out", false).await?;
    print("the same by a raw relay, which has no state", &format!("{cost:.3} µs a row"), "–");
    drop(process);
    let (clients, rounds, changed) = WATCHING;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/live/perspective_peer.py");
    let counts = [clients.to_string(), (rounds / 10).to_string(), changed.to_string()];
    let output = Command::new(&options.python).arg(script).args(counts).output().doing("starting Python")?;
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(0) => {
            let told: Value =
                serde_json::from_str(&said).map_err(|error| Failure::Wrong(format!("{error}: {said}")))?;
            let cost = told["cpu"].as_f64().unwrap_or(0.0) * 1e6 / told["rows"].as_f64().unwrap_or(1.0);
            print("the same by Perspective's Python server", &format!("{cost:.2} µs a row"), "–");
        }
        Some(77) => print("the same by Perspective's Python server", &format!("skipped: {}", said.trim()), "–"),
        _ => return wrong(format!("Perspective: {}", String::from_utf8_lossy(&output.stderr))),
    }
    Ok(())
}

async fn subscription(options: &Options) -> Outcome<()> {
    let service = Service::start(options, "subscription", &[("/views", FLEET)])?;
    let mut feed = service.feed().await?;
    let total = 10_000;
    feed.send(&messages(0..total, 1, 0)).await?;
    service.has_rows("fleet", total).await?;
    let seen = Arc::new(Seen::new()?);
    let mut sockets = Vec::new();
    for _ in 0..total / 1_000 {
        sockets.push(Socket::connect(service.data, "/live").await?);
    }
    let before = service.memory()?;
    for (number, mut socket) in sockets.into_iter().enumerate() {
        for id in 0..1_000 {
            let mut frames = Vec::new();
            let id = number * 1_000 + id;
            push_frame(&mut frames, &format!("{{\"t\":\"subscribe\",\"view\":\"fleet\",\"params\":{{\"id\":{id}}}}}"));
            socket.send(&frames).await?;
        }
        let seen = seen.clone();
        tokio::spawn(async move { socket.read(&seen, |_| false).await });
    }
    until(&seen.ready, total as u64, "snapshots").await?;
    // Data kept for clients that connect at the same time is dropped within a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let each = (service.memory()? - before) / total as f64;
    print("a subscription beyond its socket", &format!("{each:.0} bytes"), "≤ 1 KiB");
    Ok(())
}

async fn snapshots(options: &Options) -> Outcome<()> {
    let service = Service::start(options, "snapshots", &[("/views", FLEET)])?;
    let (rows, clients) = (10_000, 2_048 / options.smaller);
    service.feed().await?.send(&messages(0..rows, 1, 0)).await?;
    service.has_rows("fleet", rows).await?;
    let seen = Arc::new(Seen::new()?);
    let mut connected = Vec::with_capacity(clients);
    for _ in 0..clients {
        connected.push(Socket::connect(service.data, "/live").await?);
    }
    let (before, began) = (service.memory()?, Instant::now());
    let connecting: Vec<_> = connected
        .into_iter()
        .map(|mut socket| {
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut frames = Vec::new();
                push_frame(&mut frames, "{\"t\":\"subscribe\",\"view\":\"fleet\"}");
                socket.send(&frames).await?;
                socket.read(&seen, |text| text.starts_with(b"{\"t\":\"ready\"")).await?;
                Ok::<Socket, Failure>(socket)
            })
        })
        .collect();
    let mut sockets = Vec::new();
    for task in connecting {
        sockets.push(task.await.map_err(|error| Failure::Wrong(error.to_string()))??);
    }
    let took = began.elapsed().as_secs_f64();
    let peak = service.process.memory()?.peak as f64 * 1024.0 - before;
    print(
        &format!("{clients} clients × a snapshot of {rows} rows"),
        &format!("{took:.1} s, {:.0} MB", peak / 1e6),
        "≤ 4 s, ≤ 64 MB",
    );
    Ok(())
}

/// Bytes by which the service grows while changes go by, and the deltas that a client gets which reads again after them.
async fn stall(options: &Options, total: usize, watched: bool) -> Outcome<(f64, u64)> {
    let service = Service::start(options, "stalled", &[("/views", FLEET)])?;
    let mut feed = service.feed().await?;
    let seen = Seen::new()?;
    // Its rows are larger than the socket buffers, so it is behind from the start.
    feed.send(&messages(0..10_000, 1, 0)).await?;
    service.has_rows("fleet", 10_000).await?;
    let mut socket = Socket::connect(service.data, if watched { "/live/fleet" } else { "/live" }).await?;
    if watched {
        socket.read(&seen, |text| text.starts_with(b"{\"t\":\"ready\"")).await?;
    }
    // What every feed needs is there before it counts.
    for round in 0..20 {
        feed.send(&messages(0..10_000, round + 2, 0)).await?;
    }
    service.has_newest(21).await?;
    let before = service.memory()?;
    for round in 0..total / 10_000 {
        feed.send(&messages(0..10_000, round + 22, 0)).await?;
    }
    let last = total / 10_000 + 21;
    service.has_newest(last).await?;
    let grown = service.memory()? - before;
    let before = seen.deltas.load(Ordering::Relaxed);
    if watched {
        let wanted = format!("\"t\":{last}.5");
        socket.read(&seen, |text| memchr::memmem::find(text, wanted.as_bytes()).is_some()).await?;
    }
    Ok((grown, seen.deltas.load(Ordering::Relaxed) - before))
}

async fn stalled(options: &Options) -> Outcome<()> {
    let total = 1_000_000 / options.smaller;
    let (without, _) = stall(options, total, false).await?;
    let (grown, deltas) = stall(options, total, true).await?;
    print(
        &format!("a client that stopped reading while {total} changes went by"),
        &format!("{grown:.0} bytes of growth ({without:.0} without it), then {deltas} deltas"),
        "0 bytes, 1 delta beyond what its socket held",
    );
    Ok(())
}

async fn resumed(options: &Options) -> Outcome<()> {
    let service = Service::start(options, "resumed", &[("/views", FLEET)])?;
    let mut feed = service.feed().await?;
    let clients = 1_000 / options.smaller;
    feed.send(&messages(0..1_000, 1, 0)).await?;
    let seen = Arc::new(Seen::new()?);
    let mut cursors = Vec::new();
    for id in 0..clients {
        let mut socket = Socket::connect(service.data, &format!("/live/fleet?id={id}")).await?;
        let ready = socket.read(&seen, |text| text.starts_with(b"{\"t\":\"ready\"")).await?.unwrap_or_default();
        let ready: Value = serde_json::from_slice(&ready).map_err(|error| Failure::Wrong(error.to_string()))?;
        cursors.push(ready["at"].as_str().unwrap_or_default().to_owned());
    }
    // All are disconnected; 10,000 changes a second for five seconds.
    for round in 0..50 {
        feed.send(&messages(0..1_000, round + 2, 0)).await?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (began, snapshots) = (Instant::now(), seen.snapshots.load(Ordering::Relaxed));
    let coming: Vec<_> = cursors
        .into_iter()
        .enumerate()
        .map(|(id, cursor)| {
            let (seen, port) = (seen.clone(), service.data);
            tokio::spawn(async move {
                let path = format!("/live/fleet?id={id}&_cursor={cursor}");
                let mut socket = Socket::connect(port, &path).await?;
                let newest = format!("\"t\":{}.5", 51);
                socket.read(&seen, |text| memchr::memmem::find(text, newest.as_bytes()).is_some()).await?;
                Ok::<Socket, Failure>(socket)
            })
        })
        .collect();
    for task in coming {
        task.await.map_err(|error| Failure::Wrong(error.to_string()))??;
    }
    let took = began.elapsed().as_secs_f64();
    let (back, more) = (seen.resumed.load(Ordering::Relaxed), seen.snapshots.load(Ordering::Relaxed) - snapshots);
    if back != clients as u64 || more > 0 {
        return wrong(format!("{back} of {clients} resumed, {more} snapshots"));
    }
    print(&format!("{clients} clients come back"), &format!("{took:.2} s, no snapshot"), "≤ 1 s, none");
    Ok(())
}

async fn state(options: &Options) -> Outcome<()> {
    let view = "CREATE VIEW numbers WITH (KEY=\"id\") AS SELECT id, t, sent FROM telemetry";
    let service = Service::start(options, "state", &[("/views", view)])?;
    let mut feed = service.feed().await?;
    let before = service.memory()?;
    let rows = 1_000_000 / options.smaller;
    for from in (0..rows).step_by(10_000) {
        feed.send(&messages(from..from + 10_000, 1, 123_456)).await?;
    }
    service.has_rows("numbers", rows).await?;
    let each = (service.memory()? - before) / rows as f64;
    print(&format!("state of a view with {rows} keys of three numbers"), &format!("{each:.0} bytes a row"), "≤ 250");
    Ok(())
}

fn print(name: &str, value: &str, aim: &str) {
    println!("| {name} | {value} | {aim} |");
}

fn options() -> Outcome<Options> {
    let mut options = Options {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_plutino")),
        python: PathBuf::from("python3"),
        only: Vec::new(),
        smaller: 1,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| Failure::Usage(format!("{argument} needs a value")));
        match argument.as_str() {
            "--bench" => {}
            "--binary" => options.binary = value()?.into(),
            "--python" => options.python = value()?.into(),
            "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
            "--smaller" => {
                options.smaller = value()?.parse().map_err(|_| Failure::Usage("--smaller is a number".to_owned()))?;
            }
            other => {
                return Err(Failure::Usage(format!("unknown argument {other}: --binary, --python, --only, --smaller")));
            }
        }
    }
    if let Some(unknown) = options.only.iter().find(|only| !ROWS.contains(&only.as_str())) {
        return Err(Failure::Usage(format!("unknown row {unknown}: {}", ROWS.join(", "))));
    }
    Ok(options)
}

async fn run(options: &Options) -> Outcome<()> {
    println!("| what | measured | aim |\n|---|---|---|");
    for row in ROWS.iter().filter(|row| options.only.is_empty() || options.only.iter().any(|only| only == *row)) {
        match *row {
            "aggregate" => aggregate(options).await?,
            "routed" => routed(options).await?,
            "parameters" => parameters(options).await?,
            "fanout" => fanout(options).await?,
            "peers" => peers(options).await?,
            "subscription" => subscription(options).await?,
            "snapshots" => snapshots(options).await?,
            "stalled" => stalled(options).await?,
            "resumed" => resumed(options).await?,
            _ => state(options).await?,
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = relay::asked(&arguments).unwrap_or_else(|| {
        let options = options()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing("starting tokio")?;
        runtime.block_on(run(&options))
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
