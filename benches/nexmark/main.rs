//! NEXMark: the queries of the auction house that the rule language supports, in events per second and core.
//!
//! `cargo bench --bench nexmark -- [--only q5,q8] [--events 500000] [--rate 2000] [--rounds 3] [--seed 1] [--in-process
//! | --websockets]`. The rules are the files in this folder, as for `plutino run`. The first round of each query is
//! compared with a naive computation over the same events; a wrong result ends the run, slowness never does. See the
//! README in this folder.

#[allow(dead_code, reason = "shared with the throughput benchmark, which uses all of it")]
#[path = "../throughput/failure.rs"]
mod failure;
mod feed;
mod inprocess;
#[allow(dead_code, reason = "shared with the throughput benchmark, which uses all of it")]
#[path = "../throughput/process.rs"]
mod process;
mod query;
mod sockets;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use failure::{Failure, Outcome};
use feed::Feed;
use inprocess::Run;
use query::{QUERIES, Query};

/// Measures the queries of NEXMark.
#[derive(Parser)]
#[command(name = "nexmark")]
struct Options {
    /// Queries to run, separated by commas; without it, all
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Events of the feed, of all streams together
    #[arg(long, default_value_t = 500_000, value_parser = clap::value_parser!(u64).range(1_000..))]
    events: u64,
    /// Events of a second of event time: how much a window holds
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Rounds of each query; the table has the best
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Another seed is another feed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only without sockets
    #[arg(long, conflicts_with = "websockets")]
    in_process: bool,
    /// Only over websockets
    #[arg(long)]
    websockets: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
    /// Names of benchmarks, as `cargo bench NAME` gives them to all
    #[arg(hide = true)]
    names: Vec<String>,
}

/// The best of a query's rounds.
struct Line {
    query: &'static str,
    events: u64,
    messages: u64,
    in_process: Option<Duration>,
    websockets: Option<Duration>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let named = options.names.is_empty() || options.names.iter().any(|name| "nexmark".contains(name.as_str()));
    // `cargo test --benches` runs unoptimised builds, whose figures would say nothing.
    if !named || !(options.bench || !options.only.is_empty() || !cfg!(debug_assertions)) {
        return ExitCode::SUCCESS;
    }
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("nexmark: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Outcome<()> {
    let is = |query: &Query, only: &String| query.name.eq_ignore_ascii_case(only);
    if let Some(unknown) = options.only.iter().find(|only| !QUERIES.iter().any(|query| is(query, only))) {
        return Err(Failure::Usage(format!(
            "there is no query `{unknown}`: there are {}",
            QUERIES.iter().map(|query| query.name).collect::<Vec<_>>().join(", ")
        )));
    }
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/nexmark/rules");
    let feed = Feed::new(options.events, options.rate, options.seed);
    let wanted = |query: &&Query| options.only.is_empty() || options.only.iter().any(|only| is(query, only));
    let mut lines = Vec::new();
    for query in QUERIES.iter().filter(wanted) {
        lines.push(measure(query, &feed, &rules, options)?);
    }
    println!("{}", table(&lines));
    Ok(())
}

fn measure(query: &Query, feed: &Feed, rules: &Path, options: &Options) -> Outcome<Line> {
    let events = feed.count(query.streams);
    let mut line = Line { query: query.name, events, messages: 0, in_process: None, websockets: None };
    let batches = inprocess::batches(feed, query.streams);
    // The number of messages is needed over websockets, too.
    let rounds = if options.websockets { 1 } else { options.rounds };
    for round in 0..rounds {
        let run = inprocess::run(query, rules, &batches, round == 0)?;
        let run = checked(query, feed, run, round, "in process", &mut line.messages)?;
        line.in_process = Some(best(line.in_process, &run));
    }
    drop(batches);
    if options.websockets {
        line.in_process = None;
    }
    if !options.in_process {
        let chunks = sockets::frames(feed, query.streams);
        let expected = line.messages;
        for round in 0..options.rounds {
            let run = sockets::run(query, rules, feed, &chunks, expected, round == 0)?;
            let run = checked(query, feed, run, round, "over websockets", &mut line.messages)?;
            line.websockets = Some(best(line.websockets, &run));
        }
    }
    Ok(line)
}

/// Compares the rows of the first round with the naive result, and the number of messages of the others with it.
fn checked(query: &Query, feed: &Feed, run: Run, round: u32, how: &str, messages: &mut u64) -> Outcome<Run> {
    let mut run = run;
    let told = |text: String| Failure::Wrong(format!("{} {how}: the answer is wrong: {text}", query.name));
    if round == 0 {
        query::check(query, feed, std::mem::take(&mut run.rows)).map_err(told)?;
        *messages = run.messages;
    } else if run.messages != *messages && !query.by_clock {
        return Err(told(format!("{} messages instead of {}", run.messages, messages)));
    }
    let events = feed.count(query.streams) as f64;
    eprintln!(
        "{} {how}, round {}: {:.3} s CPU ({:.0} events/s per core), {:.3} s in all",
        query.name,
        round + 1,
        run.cpu.as_secs_f64(),
        events / run.cpu.as_secs_f64(),
        run.wall.as_secs_f64()
    );
    Ok(run)
}

fn best(before: Option<Duration>, run: &Run) -> Duration {
    before.map_or(run.cpu, |before| before.min(run.cpu))
}

fn table(lines: &[Line]) -> String {
    let mut text = String::from(
        "| query | events | result messages | in process, events/s per core | over websockets, events/s per core |\n\
         |---|---|---|---|---|",
    );
    for line in lines {
        let rate = |cpu: Option<Duration>| {
            cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{:.0}", line.events as f64 / cpu.as_secs_f64()))
        };
        text += &format!(
            "\n| {} | {} | {} | {} | {} |",
            line.query,
            line.events,
            line.messages,
            rate(line.in_process),
            rate(line.websockets)
        );
    }
    text
}
