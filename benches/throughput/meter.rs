//! Instructions and system calls per message: figures that hardly depend on the machine and its load.
//!
//! A candidate runs under valgrind or strace, which count over its whole life. Two lives with different numbers of
//! messages differ in these messages only. The slow candidate finds more messages waiting at each read than it would
//! without the tool, so what it does once a batch counts for less than in life.

use crate::candidate::{Candidate, Programs};
use crate::failure::{Doing, Outcome, wrong};
use crate::load::Pace;
use crate::measure::{Stage, pace};
use crate::workload::{Block, Workload};
use clap::ValueEnum;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Messages of the first life; the second has [`MORE`] as many. Large messages: a tenth of it.
const MESSAGES: u64 = 20_000;
const MORE: u64 = 3;
/// The file of the tool in the candidate's folder.
const FILE: &str = "meter.out";

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, ValueEnum)]
pub enum Meter {
    /// Instructions in user space, of all threads (valgrind --tool=callgrind).
    Instructions,
    /// System calls of all threads (strace -c).
    Calls,
}

impl Meter {
    /// The command that runs `program` under the tool.
    pub fn command(self, program: impl AsRef<OsStr>, folder: &Path) -> Command {
        let file = folder.join(FILE);
        let mut command = match self {
            Meter::Instructions => {
                let mut command = Command::new("valgrind");
                command.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", file.display()));
                command
            }
            Meter::Calls => {
                let mut command = Command::new("strace");
                // With -D, signals reach the candidate and not strace.
                command.args(["-D", "-f", "-c", "-o"]).arg(file);
                command
            }
        };
        command.arg(program);
        command
    }

    /// The count of a candidate that has ended.
    pub fn read(self, folder: &Path) -> Outcome<u64> {
        let path = folder.join(FILE);
        // strace writes its table a moment after the candidate has ended.
        let until = Instant::now() + Duration::from_secs(2);
        let complete = || fs::read_to_string(&path).is_ok_and(|text| text.contains("total"));
        while !complete() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let text = fs::read_to_string(&path).doing("reading the file of the tool that counts")?;
        let count = match self {
            Meter::Instructions => {
                text.lines().find_map(|line| line.strip_prefix("totals:").or(line.strip_prefix("summary:")))
            }
            // The last line is: share, seconds, µs per call, calls, perhaps errors, `total`.
            Meter::Calls => text.lines().last().and_then(|line| line.split_whitespace().nth(3)),
        };
        match count.and_then(|count| count.trim().parse().ok()) {
            Some(count) => Ok(count),
            None => wrong(format!("the tool that counts has no total in its file: {text:.300}")),
        }
    }

    /// The heading of the column.
    pub fn title(self) -> &'static str {
        match self {
            Meter::Instructions => "instructions/msg",
            Meter::Calls => "system calls/msg",
        }
    }

    /// Digits after the point.
    pub fn digits(self) -> usize {
        match self {
            Meter::Instructions => 0,
            Meter::Calls => 3,
        }
    }

    /// How long a candidate may be silent between two results.
    pub fn quiet(self) -> Duration {
        Duration::from_secs(2)
    }
}

/// Counts for one candidate, per message.
pub fn per_message(
    meter: Meter,
    candidate: Candidate,
    workload: &Workload,
    block: &Block,
    programs: &Programs,
) -> Outcome<f64> {
    let mut counts = Vec::new();
    let few = if block.frame_length > 4096 { MESSAGES / 10 } else { MESSAGES / workload.receivers as u64 };
    for messages in [few, few * MORE] {
        let mut stage = Stage::set(candidate, workload, block, programs)?;
        let pace = workload.rate.map_or(Pace::Flood, pace);
        stage.round(workload, block, messages, pace)?;
        counts.push(stage.count(meter)?);
    }
    Ok((counts[1] as f64 - counts[0] as f64) / (few * (MORE - 1)) as f64)
}
