//! The figures of a run, as a table and as JSON.
//!
//! Ratios are computed round by round, since the rounds of a run share the state of the machine, and the median of them
//! is shown with the minimum and maximum. A missed aim is reported and is not a failure.

use crate::candidate::Candidate;
use crate::workload::{Limit, Workload};
use serde_json::{Value, json};
use std::fs;

/// The figures of one round of one candidate.
#[derive(Debug, Clone)]
pub struct Round {
    /// Messages sent.
    pub messages: u64,
    /// Messages a second, from the first one sent to the last result.
    pub rate: f64,
    /// CPU time of the process under test per message, in microseconds.
    pub cpu: f64,
    /// p50, p99 and p99.9 of the latency, in microseconds, where it was measured.
    pub latency: Option<[f64; 3]>,
    /// How late the generator was at p50 and p99, in microseconds; a part of the latency.
    pub lateness: Option<[f64; 2]>,
    /// Peak resident memory of the process under test, in KiB.
    pub peak: u64,
}

/// All rounds of one candidate in one workload.
pub struct Series {
    /// The candidate.
    pub candidate: Candidate,
    /// Its rounds, in order.
    pub rounds: Vec<Round>,
}

/// A median with the least and greatest value.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    /// The middle value; of two the mean.
    pub median: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
}

impl Spread {
    /// Of values, at least one.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (least, greatest) = (*values.first()?, *values.last()?);
        let median = (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0;
        Some(Spread { median, least, greatest })
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.least, "max": self.greatest })
    }
}

/// The measured workloads, and the idle and soak findings.
#[derive(Default)]
pub struct Report {
    workloads: Vec<(&'static Workload, Vec<Series>)>,
    notes: Vec<String>,
    extra: serde_json::Map<String, Value>,
    aims: Vec<(String, String, bool)>,
}

const HEAD: [&str; 9] = [
    "workload",
    "candidate",
    "messages/s",
    "CPU µs/msg",
    "ratio (min–max)",
    "p50 µs",
    "p99 µs",
    "p99.9 µs",
    "peak RSS MB",
];

impl Report {
    /// Adds a workload.
    pub fn add(&mut self, workload: &'static Workload, series: Vec<Series>) {
        for aim in workload.aims {
            let (Some(ours), Some(theirs)) =
                (find(&series, Candidate::Plutino), find(&series, Candidate::Relay(aim.against)))
            else {
                continue;
            };
            let (what, value, limit) = match aim.limit {
                Limit::CpuTimes(limit) => ("CPU as a multiple of", ratio(ours, theirs, |r| Some(r.cpu)), limit),
                Limit::MedianPlusMicros(limit) => ("p50 in µs above", difference(ours, theirs), limit),
            };
            if let Some(Spread { median, .. }) = value {
                let aim = format!("{}: {what} {} ≤ {limit}", workload.id, aim.against.name());
                self.aims.push((aim, format!("{median:.2}"), median <= limit));
            }
        }
        self.workloads.push((workload, series));
    }

    /// Adds a finding that is not a workload: a sentence, its figures for the JSON, and optionally an aim with its
    /// value.
    pub fn note(&mut self, name: &str, sentence: String, figures: Value, aim: Option<(String, String, bool)>) {
        self.notes.push(sentence);
        self.extra.insert(name.to_owned(), figures);
        self.aims.extend(aim);
    }

    /// The table, as Markdown with aligned columns.
    pub fn table(&self) -> String {
        let mut rows = vec![HEAD.map(str::to_owned)];
        for (workload, series) in &self.workloads {
            for one in series {
                rows.push(row(workload, one, find(series, Candidate::Relay(workload.baselines[0]))));
            }
        }
        let mut out = String::new();
        if rows.len() > 1 {
            out += &aligned(&rows);
            out.push('\n');
            for (workload, series) in &self.workloads {
                let rounds = series.first().map_or(0, |one| one.rounds.len());
                out += &format!("{}: {}, {rounds} rounds\n", workload.id, workload.title);
            }
            out += "Medians; CPU is that of the process under test, the ratio that of CPU to the workload's first row, \
                    round by round.\n";
        }
        for note in &self.notes {
            out += &format!("{note}\n");
        }
        if !self.aims.is_empty() {
            out.push('\n');
            let mut rows = vec![["aim".to_owned(), "measured".to_owned(), String::new()]];
            for (aim, measured, met) in &self.aims {
                rows.push([aim.clone(), measured.clone(), if *met { "met" } else { "missed" }.to_owned()]);
            }
            out += &aligned(&rows);
        }
        out
    }

    /// Everything, each round included.
    pub fn json(&self) -> Value {
        let workloads: Vec<Value> = self
            .workloads
            .iter()
            .map(|(workload, series)| {
                let base = find(series, Candidate::Relay(workload.baselines[0]));
                let candidates: Vec<Value> = series.iter().map(|one| candidate_json(one, base)).collect();
                json!({ "id": workload.id, "title": workload.title, "sql": workload.sql,
                        "receivers": workload.receivers, "candidates": candidates })
            })
            .collect();
        let aims: Vec<Value> = self
            .aims
            .iter()
            .map(|(aim, measured, met)| json!({ "aim": aim, "measured": measured, "met": met }))
            .collect();
        json!({ "machine": machine(), "workloads": workloads, "aims": aims, "more": self.extra })
    }
}

fn find(series: &[Series], candidate: Candidate) -> Option<&Series> {
    series.iter().find(|one| one.candidate == candidate)
}

/// Ratio of a measure, round by round.
fn ratio(ours: &Series, theirs: &Series, measure: impl Fn(&Round) -> Option<f64>) -> Option<Spread> {
    let pairs = ours.rounds.iter().zip(&theirs.rounds);
    Spread::of(pairs.filter_map(|(ours, theirs)| Some(measure(ours)? / measure(theirs)?)))
}

/// Difference of the median latencies, round by round.
fn difference(ours: &Series, theirs: &Series) -> Option<Spread> {
    let pairs = ours.rounds.iter().zip(&theirs.rounds);
    Spread::of(pairs.filter_map(|(ours, theirs)| Some(ours.latency?[0] - theirs.latency?[0])))
}

fn row(workload: &Workload, one: &Series, base: Option<&Series>) -> [String; 9] {
    let median = |measure: &dyn Fn(&Round) -> Option<f64>| Spread::of(one.rounds.iter().filter_map(measure));
    let show = |spread: Option<Spread>, digits: usize| {
        spread.map_or("–".to_owned(), |spread| format!("{:.digits$}", spread.median))
    };
    let rate = median(&|round| Some(round.rate)).map_or("–".to_owned(), |rate| thousands(rate.median));
    let ratio = base.and_then(|base| ratio(one, base, |round| Some(round.cpu)));
    let ratio = ratio.map_or("–".to_owned(), |r| format!("{:.2} ({:.2}–{:.2})", r.median, r.least, r.greatest));
    let latency = |at: usize| show(median(&|round| Some(round.latency?[at])), 0);
    [
        workload.id.to_owned(),
        one.candidate.name().to_owned(),
        rate,
        show(median(&|round| Some(round.cpu)), 2),
        ratio,
        latency(0),
        latency(1),
        latency(2),
        show(median(&|round| Some(round.peak as f64 / 1024.0)), 1),
    ]
}

fn candidate_json(one: &Series, base: Option<&Series>) -> Value {
    let spread = |measure: &dyn Fn(&Round) -> Option<f64>| {
        Spread::of(one.rounds.iter().filter_map(measure)).map_or(Value::Null, Spread::json)
    };
    let rounds: Vec<Value> = one
        .rounds
        .iter()
        .map(|round| {
            json!({ "messages": round.messages, "messagesPerSecond": round.rate, "cpuMicrosPerMessage": round.cpu,
                    "latencyMicros": round.latency, "generatorLatenessMicros": round.lateness, "peakRssKib": round.peak })
        })
        .collect();
    json!({
        "name": one.candidate.name(),
        "messagesPerSecond": spread(&|round| Some(round.rate)),
        "cpuMicrosPerMessage": spread(&|round| Some(round.cpu)),
        "cpuRatio": base.and_then(|base| ratio(one, base, |r| Some(r.cpu))).map_or(Value::Null, Spread::json),
        "p50Micros": spread(&|round| Some(round.latency?[0])),
        "p99Micros": spread(&|round| Some(round.latency?[1])),
        "p999Micros": spread(&|round| Some(round.latency?[2])),
        "peakRssKib": spread(&|round| Some(round.peak as f64)),
        "rounds": rounds,
    })
}

/// The machine, as far as it can be identified.
fn machine() -> Value {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    json!({ "cpu": model.map(str::trim), "cores": cores, "kernel": kernel.trim() })
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Writes rows, the first of them the header, as a Markdown table: the first two columns left-aligned, the others
/// right-aligned.
pub fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let mut out = String::new();
    let widths: Vec<usize> =
        (0..N).map(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0)).collect();
    for (line, row) in rows.iter().enumerate() {
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            match at < 2 {
                true => out += &format!("| {cell:<width$} "),
                false => out += &format!("| {cell:>width$} "),
            }
        }
        out += "|\n";
        if line == 0 {
            for (at, width) in widths.iter().enumerate() {
                let line = "-".repeat(width + 1);
                out += &if at < 2 { format!("|{line}-") } else { format!("|{line}:") };
            }
            out += "|\n";
        }
    }
    out
}
