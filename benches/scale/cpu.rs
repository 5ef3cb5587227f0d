//! CPU time of a process and of its data threads, as reported by Linux.

use std::fs;
use std::path::Path;

/// Processor time in ns.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    /// Of all threads.
    pub all: u64,
    /// Of each data thread.
    pub threads: Vec<u64>,
}

impl Cpu {
    /// Until now; `process` is a number, or `self`.
    pub fn of(process: &str) -> Cpu {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("Linux says what threads there are").flatten();
        let mut times: Vec<(String, u64)> = tasks.filter_map(|task| time_of(&task.path())).collect();
        times.sort();
        let all = times.iter().map(|(_, time)| time).sum();
        let threads = times.into_iter().filter(|(name, _)| name.starts_with("data-")).map(|(_, time)| time).collect();
        Cpu { all, threads }
    }

    /// Since an earlier moment.
    pub fn since(&self, before: &Cpu) -> Cpu {
        let threads = self.threads.iter().zip(&before.threads).map(|(now, then)| now.saturating_sub(*then)).collect();
        Cpu { all: self.all.saturating_sub(before.all), threads }
    }

    /// The time of the busiest data thread; the mean of all is 1.
    pub fn busiest(&self) -> f64 {
        let mean = self.threads.iter().sum::<u64>() as f64 / self.threads.len().max(1) as f64;
        let busiest = self.threads.iter().max().copied().unwrap_or_default() as f64;
        busiest / mean.max(1.0)
    }
}

/// The name of a thread, and its time.
fn time_of(task: &Path) -> Option<(String, u64)> {
    let name = fs::read_to_string(task.join("comm")).ok()?;
    let times = fs::read_to_string(task.join("schedstat")).ok()?;
    Some((name.trim().to_owned(), times.split(' ').next()?.parse().ok()?))
}
