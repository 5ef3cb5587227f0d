//! The cost of the service with many rules: CPU per message, memory per rule, rules created per second, time to start,
//! response times under load, and the cost of keeping messages for a peer. See README.md in this folder.
//!
//! The real binary runs in a separate process with a store on disk; everything goes over its sockets. CPU time and
//! memory of the process are read from the system. A figure that misses its aim does not fail the run; a wrong result
//! or a lost message ends it with a code other than 0.

mod client;
#[path = "../throughput/failure.rs"]
mod failure;
mod kept;
#[path = "../throughput/process.rs"]
#[allow(dead_code)]
mod process;

use client::{Rest, Socket, frame};
use failure::{Doing, Failure, Outcome, wrong};
use hdrhistogram::Histogram;
use process::{Folder, Process, free_port};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// Connections that create rules in parallel.
const CONNECTIONS: usize = 8;

const STREAM: &str =
    r#"{"sql": "CREATE STREAM telemetry () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\", FORMAT=\"json\")"}"#;

/// The options of the command line.
struct Options {
    binary: PathBuf,
    rules: usize,
    rounds: usize,
    only: Vec<String>,
}

/// A row of the table.
struct Figure {
    name: String,
    value: String,
    aim: &'static str,
}

/// The kinds of filters of the rules; each message matches one of them.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Number,
    Range,
    List,
    Mixed,
}

impl Kind {
    fn condition(self, rule: usize) -> String {
        match self {
            Kind::Text => format!(r#"device = \"dev-{rule:05}\""#),
            Kind::Number => format!("number = {rule}"),
            Kind::Range => format!("reading >= {rule} AND reading < {}", rule + 1),
            Kind::List => format!("number IN ({rule}, {})", rule + 1_000_000),
            Kind::Mixed => format!(r#"site = \"hall-07\" AND temperature > -50 AND device = \"dev-{rule:05}\""#),
        }
    }
}

/// The service under test.
struct Served {
    process: Process,
    folder: Folder,
    rest: u16,
    data: u16,
}

impl Served {
    fn start(options: &Options, name: &str) -> Outcome<Served> {
        let folder = Folder::make(&format!("service-{name}"))?;
        let (rest, data) = (free_port()?, free_port()?);
        let etc = folder.path().join("etc");
        std::fs::create_dir_all(&etc).doing("making the folder of the configuration")?;
        let yaml =
            format!("basic:\n  restPort: {rest}\nsource:\n  httpServerIp: 127.0.0.1\n  httpServerPort: {data}\n");
        std::fs::write(etc.join("plutino.yaml"), yaml).doing("writing the configuration")?;
        let process = Served::process(options, &folder)?;
        let mut served = Served { process, folder, rest, data };
        served.answers()?;
        Ok(served)
    }

    fn process(options: &Options, folder: &Folder) -> Outcome<Process> {
        let mut command = Command::new(&options.binary);
        command.arg("serve").arg("--etc").arg(folder.path().join("etc")).arg("--data").arg(folder.path().join("data"));
        Process::start("plutino", command, folder.path())
    }

    /// Waits for the API.
    fn answers(&mut self) -> Outcome<Rest> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(mut rest) = Rest::connect(self.rest)
                && rest.call("GET", "/ping", "").is_ok()
            {
                return Ok(rest);
            }
            self.process.alive()?;
            if Instant::now() > until {
                return wrong("the API did not answer");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Outcome<String> {
        Rest::connect(self.rest)?.call(method, path, body)
    }

    fn rss(&self) -> Outcome<f64> {
        Ok(self.process.memory()?.now as f64)
    }

    /// Calls for each number below `count`, over this many connections; returns calls per second.
    fn each(
        &self,
        connections: usize,
        count: usize,
        call: impl Fn(usize) -> (&'static str, String, String) + Sync,
    ) -> Outcome<f64> {
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let call = &call;
            let work = |connection: usize| {
                scope.spawn(move || {
                    let mut rest = Rest::connect(self.rest)?;
                    for number in (connection..count).step_by(connections) {
                        let (method, path, body) = call(number);
                        rest.call(method, &path, &body)?;
                    }
                    Outcome::Ok(())
                })
            };
            let threads: Vec<_> = (0..connections).map(work).collect();
            threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| wrong("a client panicked")))
        })?;
        Ok(count as f64 / begun.elapsed().as_secs_f64())
    }

    fn create(&self, connections: usize, count: usize, kind: Kind, sink: &str) -> Outcome<f64> {
        self.each(connections, count, |number| ("POST", "/rules".to_owned(), rule(number, kind, sink)))
    }
}

const NOP: &str = r#"{"nop": {}}"#;
const SOCKET: &str = r#"{"websocket": {"path": "/out", "sendSingle": true, "slowClient": "block"}}"#;

fn rule(number: usize, kind: Kind, sink: &str) -> String {
    let condition = kind.condition(number);
    format!(r#"{{"id": "rule-{number:05}", "sql": "SELECT * FROM telemetry WHERE {condition}", "actions": [{sink}]}}"#)
}

/// A message of about 200 bytes that matches the rule of this number.
fn message(rule: usize, number: usize) -> String {
    format!(
        r#"{{"device":"dev-{rule:05}","ts":{},"number":{rule},"reading":{rule}.5,"temperature":{}.25,"humidity":51.75,"status":"good","location":{{"lat":48.1372,"lon":11.5755}},"battery":87,"site":"hall-07"}}"#,
        1_760_000_000_000 + number as u64,
        20 + number % 60,
    )
}

/// Messages for `rules` rules in turn, as frames.
fn frames(rules: usize, count: usize) -> Vec<u8> {
    let mut frames = Vec::new();
    // A step that has no factor in common with usual numbers of rules, so that neighbours do not follow each other.
    (0..count).for_each(|number| frame(&message(number * 7919 % rules, number), &mut frames));
    frames
}

/// CPU and speed with `rules` rules of which each message matches one.
fn scan(options: &Options, rules: usize, kind: Kind, messages: usize) -> Outcome<(f64, f64)> {
    let mut served = Served::start(options, "scan")?;
    served.call("POST", "/streams", STREAM)?;
    served.create(CONNECTIONS, rules, kind, SOCKET)?;
    let mut receiver = Socket::connect(served.data, "/out")?;
    let mut sender = Socket::connect(served.data, "/in")?;
    // The receiver is ready when its first result has arrived.
    let block = frames(rules, 20_000);
    sender.send(&block)?;
    receiver.receive(20_000)?;
    let mut best = (f64::MAX, 0.0_f64);
    for _ in 0..options.rounds {
        let before = served.process.cpu()?;
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let sending = scope.spawn(|| (0..messages / 20_000).try_for_each(|_| sender.send(&block)));
            let received = receiver.receive((messages / 20_000 * 20_000) as u64);
            sending.join().unwrap_or_else(|_| wrong("the generator panicked")).and(received)
        })?;
        let rate = messages as f64 / begun.elapsed().as_secs_f64();
        let cpu = (served.process.cpu()? - before).as_secs_f64() * 1e6 / messages as f64;
        best = (best.0.min(cpu), best.1.max(rate));
    }
    served.process.alive()?;
    let rows = served.call("GET", "/rules/rule-00000/status", "")?;
    let expected =
        format!("\"op_3_filter_0_records_in_total\":{}", 20_000 + options.rounds * (messages / 20_000 * 20_000));
    if !rows.replace(": ", ":").contains(&expected) {
        return wrong(format!("a rule should have seen {expected} rows: {rows}"));
    }
    Ok(best)
}

/// Memory and speed of creation, and what remains after all rules were dropped, several times.
fn life(options: &Options, sink: &str, figures: &mut Vec<Figure>) -> Outcome<()> {
    let (served, rules) = (Served::start(options, "life")?, options.rules);
    served.call("POST", "/streams", STREAM)?;
    // One rule opens the stream and lets the process allocate what every process with a rule needs.
    served.call("POST", "/rules", &rule(99_999, Kind::Text, sink))?;
    let sink_name = if sink == NOP { "nop" } else { "websocket" };
    let before = served.rss()?;
    let mut left = Vec::new();
    for round in 0..3 {
        let connections = if round == 1 { 1 } else { CONNECTIONS };
        let cpu = served.process.cpu()?;
        let rate = served.create(connections, rules, Kind::Text, sink)?;
        let cpu = (served.process.cpu()? - cpu).as_secs_f64() * 1e6 / rules as f64;
        figures.push(Figure {
            name: format!("rules created a second, {connections} connections, {sink_name}"),
            value: format!("{rate:.0} ({cpu:.0} µs CPU each)"),
            aim: "≥ 2,000",
        });
        if round == 0 {
            let each = (served.rss()? - before) / rules as f64;
            figures.push(Figure {
                name: format!("memory of an idle rule, {sink_name}"),
                value: format!("{each:.1} KiB"),
                aim: "≤ 10 KB",
            });
            let memory = served.rss()?;
            for verb in ["stop", "start"] {
                let rate = served.each(CONNECTIONS, rules, |number| {
                    ("POST", format!("/rules/rule-{number:05}/{verb}"), String::new())
                })?;
                figures.push(Figure {
                    name: format!("rules {verb} a second, {sink_name}"),
                    value: format!("{rate:.0}"),
                    aim: "",
                });
            }
            figures.push(Figure {
                name: format!("memory after all were stopped and started, {sink_name}"),
                value: format!("{:+.1} MiB", (served.rss()? - memory) / 1024.0),
                aim: "",
            });
        }
        let rate =
            served.each(CONNECTIONS, rules, |number| ("DELETE", format!("/rules/rule-{number:05}"), String::new()))?;
        if round == 0 {
            figures.push(Figure {
                name: format!("rules dropped a second, {sink_name}"),
                value: format!("{rate:.0}"),
                aim: "",
            });
        }
        left.push(format!("{:.1}", (served.rss()? - before) / 1024.0));
    }
    figures.push(Figure {
        name: format!("memory left after each of three lives of all rules, {sink_name}"),
        value: format!("{} MiB", left.join(", ")),
        aim: "does not grow",
    });
    Ok(())
}

/// How long a start with stored rules takes until all of them run.
fn restart(options: &Options) -> Outcome<(f64, f64)> {
    let Served { process, folder, rest, data } = {
        let served = Served::start(options, "restart")?;
        served.call("POST", "/streams", STREAM)?;
        served.create(CONNECTIONS, options.rules, Kind::Text, SOCKET)?;
        served
    };
    process.stop(true)?;
    let begun = Instant::now();
    let process = Served::process(options, &folder)?;
    let mut served = Served { process, folder, rest, data };
    let mut rest = served.answers()?;
    let answered = begun.elapsed().as_secs_f64();
    // Rules start in the order of their names.
    let last = format!("/rules/rule-{:05}/status", options.rules - 1);
    while !rest.call("GET", &last, "")?.replace(": ", ":").contains("\"status\":\"running\"") {
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = begun.elapsed().as_secs_f64();
    let running = rest.call("GET", "/rules", "")?.matches("\"running\"").count();
    if running != options.rules {
        return wrong(format!("{running} of {} rules run", options.rules));
    }
    Ok((answered, took))
}

/// Latency of reads under load: percentiles in µs, and the messages per second.
fn reads(options: &Options, flow: u64) -> Outcome<(Histogram<u64>, f64)> {
    const READS: u32 = 2_000;
    const PAUSE: Duration = Duration::from_millis(2);
    let served = Served::start(options, "reads")?;
    served.call("POST", "/streams", STREAM)?;
    served.create(CONNECTIONS, 300, Kind::Text, NOP)?;
    let mut sender = Socket::connect(served.data, "/in")?;
    // A chunk every 5 ms.
    let chunk = frames(300, (flow / 200) as usize);
    let over = std::sync::atomic::AtomicBool::new(false);
    let mut rest = Rest::connect(served.rest)?;
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let begun = Instant::now();
            let mut chunks = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                sender.send(&chunk)?;
                chunks += 1;
                std::thread::sleep(
                    (begun + Duration::from_millis(5) * chunks).saturating_duration_since(Instant::now()),
                );
            }
            Outcome::Ok(f64::from(chunks) * (flow / 200) as f64 / begun.elapsed().as_secs_f64())
        });
        let mut latencies = Histogram::new(3).expect("three digits are allowed");
        let mut read = || {
            std::thread::sleep(Duration::from_millis(100));
            for number in 0..READS {
                let path = match number % 2 {
                    0 => "/rules/rule-00007",
                    _ => "/rules/rule-00007/status",
                };
                let begun = Instant::now();
                rest.call("GET", path, "")?;
                latencies.saturating_record(begun.elapsed().as_micros() as u64);
                std::thread::sleep(PAUSE);
            }
            Outcome::Ok(())
        };
        let done = read();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        let rate = sending.join().unwrap_or_else(|_| wrong("the generator panicked"))?;
        done.map(|()| (latencies, rate))
    })
}

fn options() -> Outcome<Options> {
    let mut options =
        Options { binary: env!("CARGO_BIN_EXE_plutino").into(), rules: 10_000, rounds: 3, only: Vec::new() };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| Failure::Usage(format!("{arg} needs a value")));
        let number = |text: String| text.parse().map_err(|_| Failure::Usage(format!("{text} is no number")));
        match arg.as_str() {
            "--bench" => {}
            "--binary" => options.binary = value()?.into(),
            "--rules" => options.rules = number(value()?)?,
            "--rounds" => options.rounds = number(value()?)?,
            "--only" => options.only = value()?.split(',').map(str::to_owned).collect(),
            _ => return Err(Failure::Usage(format!("unknown argument {arg}: see benches/service/README.md"))),
        }
    }
    Ok(options)
}

fn run() -> Outcome<()> {
    let options = options()?;
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let mut figures = Vec::new();
    let kinds = [
        ("=, texts", Kind::Text),
        ("=, numbers", Kind::Number),
        ("ranges", Kind::Range),
        ("IN", Kind::List),
        ("= behind two others", Kind::Mixed),
    ];
    for (rules, messages, aims) in [(300, 400_000, ["≤ 10 µs", ""]), (options.rules, 200_000, ["", "≥ 20,000/s"])]
    {
        if !wanted(if rules == 300 { "scan" } else { "many" }) {
            continue;
        }
        for (name, kind) in kinds {
            let (cpu, rate) = scan(&options, rules, kind, messages)?;
            let value = format!("{cpu:.2} µs CPU, {rate:.0}/s");
            let aim = if aims[0].is_empty() { aims[1] } else { aims[0] };
            figures.push(Figure { name: format!("a message, {rules} rules, one matches ({name})"), value, aim });
        }
    }
    if wanted("life") {
        life(&options, NOP, &mut figures)?;
        life(&options, SOCKET, &mut figures)?;
    }
    if wanted("restart") {
        let (answered, took) = restart(&options)?;
        let value = format!("{took:.2} s, answers after {answered:.2} s");
        figures.push(Figure { name: format!("start with {} stored rules", options.rules), value, aim: "≤ 5 s" });
    }
    if wanted("reads") {
        for flow in [0_u64, 100_000] {
            let (latencies, rate) = reads(&options, flow.max(200))?;
            let at = |quantile| latencies.value_at_quantile(quantile);
            let value = format!("p50 {} µs, p99 {} µs, p99.9 {} µs", at(0.5), at(0.99), at(0.999));
            figures.push(Figure { name: format!("a REST read at {rate:.0} messages/s"), value, aim: "p99 ≤ 1 ms" });
        }
    }
    if wanted("kept") {
        let (without, with) = kept::costs(&options)?;
        let value = format!("{:.2} × ({without:.2} and {with:.2} µs CPU)", with / without);
        figures.push(Figure { name: "a message to a peer, with enableCache".to_owned(), value, aim: "≤ 1.3 ×" });
    }
    println!("| what | figure | aim |\n|---|---|---|");
    for Figure { name, value, aim } in figures {
        println!("| {name} | {value} | {aim} |");
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}
