//! The whole-process benchmark: the real binary over real sockets, compared with hand-written programs.
//!
//! `cargo bench --bench throughput -- [--only W1,W7@10k] [--rounds 5] [--messages 1000000] [--json FILE]
//! [--peer-kuiperd PATH] [--soak N] [--count instructions|calls]`. Every measurement is a process of its own; the candidates of a workload take turns
//! in each round, so that a machine whose speed changes is the same for all. Speed never fails a run; a wrong, missing or
//! surplus result does.

mod candidate;
mod failure;
mod kuiperd;
mod load;
mod measure;
mod meter;
mod process;
mod relay;
mod report;
mod workload;

use candidate::{Candidate, Programs};
use clap::Parser;
use failure::{Doing, Failure, Outcome};
use load::Pace;
use measure::{Stage, measure};
use meter::Meter;
use relay::Kind;
use report::{Report, Round, Series};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use workload::{Block, WORKLOADS, Workload};

/// How long an idle process is watched.
const IDLE: Duration = Duration::from_secs(10);
/// The name of the idle measurement in `--only`.
const IDLE_ID: &str = "idle";

/// Measures Plutino and hand-written relays
#[derive(Parser)]
#[command(name = "throughput")]
struct Options {
    /// Workloads to run, separated by commas: W1, W2, W3, W4, W7@1k, W7@10k, W8@field, W8@whole, idle; W7
    /// and W8 stand for both of theirs.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds of each candidate in each workload.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Messages of W1 in a round; the other workloads follow in proportion, but for those with a fixed rate.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1_000..))]
    messages: Option<u64>,
    /// Writes all figures of all rounds to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Adds an installed eKuiper, through its REST API.
    #[arg(long)]
    peer_kuiperd: Option<PathBuf>,
    /// Runs W1 with so many messages instead, and watches the memory.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1_000_000..))]
    soak: Option<u64>,
    /// Counts instructions or system calls per message instead, with valgrind or strace.
    #[arg(long)]
    count: Option<Meter>,
    /// Measures a baseline under Plutino's name, to try the benchmark itself.
    #[arg(long, hide = true)]
    stand_in: bool,
    /// What `cargo bench` adds.
    #[arg(long, hide = true)]
    bench: bool,
    /// Names of benchmarks, as `cargo bench NAME` gives them to all.
    #[arg(hide = true)]
    names: Vec<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = relay::asked(&arguments).unwrap_or_else(|| {
        let options = Options::parse();
        match options.wanted() {
            true => run(&options),
            false => Ok(()),
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("throughput: {failure}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    /// Whether this benchmark is meant: not if `cargo bench` names others, nor if `cargo test --benches` runs an
    /// unoptimised build whose figures would say nothing.
    fn wanted(&self) -> bool {
        let named = self.names.is_empty() || self.names.iter().any(|name| "throughput".contains(name.as_str()));
        let told = self.bench || self.soak.is_some() || !self.only.is_empty() || !cfg!(debug_assertions);
        named && told
    }

    /// Whether `--only` leaves a workload in: by its name, or by the part of it before the `@`.
    fn includes(&self, id: &str) -> bool {
        let family = id.split('@').next().unwrap_or(id);
        self.only.is_empty() || self.only.iter().any(|only| [id, family].iter().any(|id| id.eq_ignore_ascii_case(only)))
    }

    fn messages(&self, workload: &Workload) -> u64 {
        match (self.messages, workload.rate) {
            (Some(asked), None) => (workload.messages as f64 * asked as f64 / WORKLOADS[0].messages as f64) as u64,
            _ => workload.messages,
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    let known = |only: &String| {
        only.eq_ignore_ascii_case(IDLE_ID)
            || WORKLOADS.iter().any(|workload| {
                workload.id.eq_ignore_ascii_case(only)
                    || workload.id.split('@').any(|part| part.eq_ignore_ascii_case(only))
            })
    };
    if let Some(unknown) = options.only.iter().find(|only| !known(only)) {
        return Err(Failure::Usage(format!("there is no workload `{unknown}`: --help lists them")));
    }
    let programs = Programs { kuiperd: options.peer_kuiperd.clone(), stand_in: options.stand_in, meter: options.count };
    let mut report = Report::default();
    if options.stand_in {
        report.note("standIn", "`plutino` is a baseline here, under its name".to_owned(), json!(true), None);
    }
    if let Some(meter) = options.count {
        return count(meter, options, &programs);
    }
    if let Some(messages) = options.soak {
        soak(messages, &programs, &mut report)?;
    } else {
        for workload in WORKLOADS.iter().filter(|workload| options.includes(workload.id)) {
            report.add(workload, compare(workload, options, &programs)?);
        }
        if options.includes(IDLE_ID) {
            idle(&programs, &mut report)?;
        }
    }
    println!("{}", report.table());
    if let Some(path) = &options.json {
        std::fs::write(path, format!("{:#}\n", report.json())).doing("writing the JSON file")?;
    }
    Ok(())
}

/// All rounds of one workload, the candidates taking turns; who begins changes from round to round.
fn compare(workload: &'static Workload, options: &Options, programs: &Programs) -> Outcome<Vec<Series>> {
    let block = Block::of(workload);
    let peer = programs.kuiperd.as_ref().map(|_| Candidate::Kuiperd);
    let candidates = candidates(workload).chain(peer);
    let mut series: Vec<Series> = candidates.map(|candidate| Series { candidate, rounds: Vec::new() }).collect();
    let count = series.len();
    for round in 0..options.rounds as usize {
        for turn in 0..count {
            let one = &mut series[(round + turn) % count];
            let named = |failure| match failure {
                Failure::Wrong(text) => Failure::Wrong(format!("{}, {}: {text}", workload.id, one.candidate.name())),
                other => other,
            };
            let measured = measure(one.candidate, workload, &block, options.messages(workload), programs);
            let measured: Round = measured.map_err(named)?;
            eprintln!(
                "{} round {} {}: {:.0} messages/s, {:.3} µs CPU/message",
                workload.id,
                round + 1,
                one.candidate.name(),
                measured.rate,
                measured.cpu
            );
            one.rounds.push(measured);
        }
    }
    Ok(series)
}

/// The baselines of a workload, and Plutino.
fn candidates(workload: &Workload) -> impl Iterator<Item = Candidate> {
    workload.baselines.iter().map(|kind| Candidate::Relay(*kind)).chain([Candidate::Plutino])
}

/// A table of instructions or system calls per message.
fn count(meter: Meter, options: &Options, programs: &Programs) -> Outcome<()> {
    let mut rows = vec![["workload", "candidate", meter.title(), "ratio"].map(str::to_owned)];
    for workload in WORKLOADS.iter().filter(|workload| options.includes(workload.id)) {
        let block = Block::of(workload);
        let mut first = None;
        for candidate in candidates(workload) {
            let count = meter::per_message(meter, candidate, workload, &block, programs)?;
            let ratio = count / *first.get_or_insert(count);
            let count = format!("{count:.*}", meter.digits());
            rows.push([workload.id.to_owned(), candidate.name().to_owned(), count, format!("{ratio:.2}")]);
        }
    }
    println!("{}", report::aligned(&rows));
    Ok(())
}

/// CPU time and memory of processes that have a rule and clients and nothing to do, Plutino and a relay side by side.
fn idle(programs: &Programs, report: &mut Report) -> Outcome<()> {
    let workload = &WORKLOADS[0];
    let block = Block::of(workload);
    let ours = Stage::set(Candidate::Plutino, workload, &block, programs)?;
    let theirs = Stage::set(Candidate::Relay(Kind::Half), workload, &block, programs)?;
    let stages = [("plutino", ours), ("raw-relay", theirs)];
    let mut before = Vec::new();
    for (_, stage) in &stages {
        before.push(stage.running.process.cpu()?);
    }
    std::thread::sleep(IDLE);
    let mut figures = serde_json::Map::new();
    let mut words = Vec::new();
    let mut aim = None;
    for ((name, stage), before) in stages.into_iter().zip(before) {
        let share = (stage.running.process.cpu()? - before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
        let rss = stage.running.process.memory()?.now;
        let mib = rss as f64 / 1024.0;
        words.push(format!("{name} {mib:.1} MB resident, {share:.2} % CPU"));
        figures.insert(name.to_owned(), json!({ "rssKib": rss, "cpuPercent": share }));
        aim = aim.or(Some(("idle: resident memory ≤ 10 MB".to_owned(), format!("{mib:.1} MB"), mib <= 10.0)));
        stage.end()?;
    }
    let sentence = format!("idle for {} s with one rule and its clients: {}", IDLE.as_secs(), words.join("; "));
    report.note(IDLE_ID, sentence, json!(figures), aim);
    Ok(())
}

/// One long run of W1 that must not grow: the memory after each twentieth of the messages.
fn soak(messages: u64, programs: &Programs, report: &mut Report) -> Outcome<()> {
    let workload = &WORKLOADS[0];
    let block = Block::of(workload);
    let mut stage = Stage::set(Candidate::Plutino, workload, &block, programs)?;
    let mut samples = Vec::new();
    let begun = Instant::now();
    // Whole blocks, so that each part begins where the results are counted from.
    let part = (messages / 20).next_multiple_of(block.len());
    let mut sent = 0;
    while sent < messages {
        let round = stage.round(workload, &block, part, Pace::Flood)?;
        sent += round.messages;
        let memory = stage.running.process.memory()?;
        eprintln!("soak: {sent} messages, {} KiB resident, {:.3} µs CPU/message", memory.now, round.cpu);
        samples.push(memory.now);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let peak = stage.running.process.memory()?.peak;
    stage.end()?;
    // The first quarter is for buffers and queues to find their size.
    let settled = &samples[samples.len() / 4..];
    let grown = *settled.last().unwrap_or(&0) as f64 / *settled.first().unwrap_or(&1) as f64 - 1.0;
    let sentence = format!(
        "soak: {sent} messages in {seconds:.1} s; resident {:.1} MB at the end, peak {:.1} MB, {:+.1} % since the first quarter",
        *samples.last().unwrap_or(&0) as f64 / 1024.0,
        peak as f64 / 1024.0,
        grown * 100.0
    );
    let aim = ("soak: memory flat (≤ 5 % more)".to_owned(), format!("{:+.1} %", grown * 100.0), grown <= 0.05);
    report.note("soak", sentence, json!({ "messages": sent, "rssKib": samples, "peakRssKib": peak }), Some(aim));
    Ok(())
}
