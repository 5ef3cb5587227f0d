//! A process under test: started, observed through `/proc`, and stopped as by a service manager.
//!
//! CPU time and memory come from the operating system and not from the process, so that all candidates are measured the
//! same way. Linux only.

use crate::failure::{Doing, Outcome, wrong};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Length of the clock tick of `/proc/PID/stat`. Linux reports in hundredths of a second whatever its own clock does.
const TICK: Duration = Duration::from_millis(10);
/// How long a process may take to end after SIGTERM.
const STOPPING: Duration = Duration::from_secs(10);

/// A running process; killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    errors: PathBuf,
}

/// Memory of a process, in KiB.
pub struct Memory {
    /// Resident now.
    pub now: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

impl Process {
    /// Starts `command` with its stderr in a file of `folder`, to be shown if it fails.
    pub fn start(name: &str, mut command: Command, folder: &Path) -> Outcome<Process> {
        let errors = folder.join("stderr.log");
        let file = File::create(&errors).doing("making the file for a candidate's stderr")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        let child = command.spawn().doing(&format!("starting {name}"))?;
        Ok(Process { name: name.to_owned(), child, errors })
    }

    /// An error if the process has ended.
    pub fn alive(&mut self) -> Outcome<()> {
        match self.child.try_wait().doing("looking after a candidate")? {
            None => Ok(()),
            Some(status) => wrong(format!("{} ended early ({status}): {}", self.name, self.said())),
        }
    }

    /// What it wrote to stderr, at most the last 2,000 characters.
    pub fn said(&self) -> String {
        let text = fs::read_to_string(&self.errors).unwrap_or_default();
        let skip = text.chars().count().saturating_sub(2_000);
        text.trim().chars().skip(skip).collect()
    }

    /// CPU time, user and system, of the process since its start.
    ///
    /// The scheduler's count of each living thread is in nanoseconds but excludes ended threads; the process's own
    /// count includes them but is in ticks, rounded down. The larger of the two is the better one.
    pub fn cpu(&self) -> Outcome<Duration> {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let stat = fs::read_to_string(proc.join("stat")).doing("reading a candidate's CPU time")?;
        // The second field is the name in parentheses, which may itself hold spaces.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks: u32 = [11, 12].iter().filter_map(|&at| fields.get(at)?.parse::<u32>().ok()).sum();
        let mut threads = Duration::ZERO;
        for task in fs::read_dir(proc.join("task")).doing("listing a candidate's threads")?.flatten() {
            let line = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            threads += Duration::from_nanos(line.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0));
        }
        Ok(threads.max(TICK * ticks))
    }

    /// Resident memory now and at its peak.
    pub fn memory(&self) -> Outcome<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).doing("reading memory")?;
        let kib = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().next()?.parse().ok()
        };
        match (kib("VmRSS:"), kib("VmHWM:")) {
            (Some(now), Some(peak)) => Ok(Memory { now, peak }),
            _ => wrong(format!("{} has ended: {}", self.name, self.said())),
        }
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        // Fails only if the process has already ended, which is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM and waits for the end. `clean` says whether it must then exit with code 0.
    pub fn stop(mut self, clean: bool) -> Outcome<()> {
        self.alive()?;
        Command::new("kill").arg(self.child.id().to_string()).status().doing("sending SIGTERM with `kill`")?;
        let until = Instant::now() + STOPPING;
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().doing("waiting for a candidate's end")? {
                return match clean && !status.success() {
                    true => wrong(format!("{} did not stop cleanly ({status}): {}", self.name, self.said())),
                    false => Ok(()),
                };
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        wrong(format!("{} did not stop within {STOPPING:?} of SIGTERM: {}", self.name, self.said()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> Outcome<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).doing("looking for a free port")?;
    Ok(listener.local_addr().doing("looking for a free port")?.port())
}

/// An empty folder for one run of a candidate, removed at its end.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes the folder below the system's folder for temporary files.
    pub fn make(name: &str) -> Outcome<Folder> {
        let path = std::env::temp_dir().join(format!("plutino-throughput-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).doing("making a folder for temporary files")?;
        Ok(Folder(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Anything left is in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}
