//! The measured programs, and how each is started for a workload.

use crate::failure::{Doing, Outcome, wrong};
use crate::kuiperd;
use crate::load::{Connection, connect};
use crate::meter::Meter;
use crate::process::{Folder, Process, free_port};
use crate::relay::Kind;
use crate::workload::{Answer, Workload};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The time limit for a candidate's endpoints to be available.
const STARTING: Duration = Duration::from_secs(60);

/// A measured program.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Candidate {
    /// The binary of this package.
    Plutino,
    /// A hand-written baseline.
    Relay(Kind),
    /// An installed eKuiper.
    Kuiperd,
}

impl Candidate {
    /// The name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Candidate::Plutino => "plutino",
            Candidate::Relay(kind) => kind.name(),
            Candidate::Kuiperd => "kuiperd",
        }
    }
}

/// The programs that are not part of the benchmark.
#[derive(Default)]
pub struct Programs {
    /// An installed `kuiperd`.
    pub kuiperd: Option<PathBuf>,
    /// Runs the workload's best baseline under Plutino's name, to test the benchmark itself.
    pub stand_in: bool,
    /// Runs Plutino and the relays under a tool that counts.
    pub meter: Option<Meter>,
}

impl Programs {
    /// The command that starts a program.
    fn command(&self, program: impl AsRef<OsStr>, folder: &Path) -> Command {
        match self.meter {
            Some(meter) => meter.command(program, folder),
            None => Command::new(program),
        }
    }
}

/// A running candidate, with its rule.
pub struct Running {
    /// The process.
    pub process: Process,
    /// The port of its websocket endpoints.
    pub port: u16,
    /// Whether it must end with code 0 on SIGTERM. The relays have no handler for it.
    pub ends_cleanly: bool,
    folder: Folder,
}

impl Running {
    /// Starts a candidate with the rule of a workload.
    pub fn start(candidate: Candidate, workload: &Workload, programs: &Programs) -> Outcome<Running> {
        let folder = Folder::make(candidate.name())?;
        let port = free_port()?;
        let mut ends_cleanly = false;
        let process = match (candidate, &programs.kuiperd) {
            (Candidate::Relay(kind), _) => relay(kind, port, folder.path(), programs)?,
            (Candidate::Plutino, _) if programs.stand_in => {
                let last = *workload.baselines.last().expect("each workload has a baseline");
                relay(last, port, folder.path(), programs)?
            }
            (Candidate::Plutino, _) => {
                ends_cleanly = true;
                plutino(workload, port, folder.path(), programs)?
            }
            (Candidate::Kuiperd, Some(path)) => kuiperd::start(path, workload, port, folder.path())?,
            (Candidate::Kuiperd, None) => return wrong("no kuiperd was given"),
        };
        Ok(Running { process, port, ends_cleanly, folder })
    }

    /// Connects to an endpoint as soon as it exists.
    pub fn connect(&mut self, path: &str) -> Outcome<Connection> {
        let until = Instant::now() + STARTING;
        while Instant::now() < until {
            self.process.alive()?;
            if let Some(connection) = connect(self.port, path)? {
                return Ok(connection);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        wrong(format!("no websocket at {path} within {STARTING:?}: {}", self.process.said()))
    }

    /// Ends it.
    pub fn stop(self) -> Outcome<()> {
        self.process.stop(self.ends_cleanly)
    }

    /// Ends it, and returns what the tool has counted under which it runs.
    pub fn count(self, meter: Meter) -> Outcome<u64> {
        self.process.stop(self.ends_cleanly)?;
        meter.read(self.folder.path())
    }
}

/// The stream that all rules read.
pub const STREAM: &str = r#"CREATE STREAM telemetry () WITH (TYPE="websocket", DATASOURCE="/in", FORMAT="json")"#;

/// The rule of a workload. Windows are sent as arrays of rows, everything else as one object per message.
pub fn rule(workload: &Workload, sink: Value) -> Value {
    let mut sink = sink;
    sink["path"] = json!("/out");
    sink["sendSingle"] = json!(workload.answer != Answer::Groups);
    json!({ "id": "throughput", "sql": workload.sql, "actions": [{ "websocket": sink }] })
}

/// Plutino with a rule file. The relays wait for a slow receiver, and every result is counted here, so its sink is also
/// set to wait; by default it would drop the oldest messages of a slow client.
fn plutino(workload: &Workload, port: u16, folder: &Path, programs: &Programs) -> Outcome<Process> {
    let rule = rule(workload, json!({ "slowClient": "block" }));
    let file = json!({ "streams": { "telemetry": STREAM }, "tables": {}, "rules": { "throughput": rule } });
    let path = folder.join("rules.json");
    fs::write(&path, file.to_string()).doing("writing the rule file")?;
    let mut command = programs.command(env!("CARGO_BIN_EXE_plutino"), folder);
    command.arg("run").arg(&path).arg("--quiet").current_dir(folder);
    command.env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1").env("KUIPER__SOURCE__HTTPSERVERPORT", port.to_string());
    Process::start("plutino", command, folder)
}

fn relay(kind: Kind, port: u16, folder: &Path, programs: &Programs) -> Outcome<Process> {
    let mut command = programs.command(std::env::current_exe().doing("looking for the benchmark itself")?, folder);
    command.args(["relay", kind.name(), &port.to_string()]);
    Process::start(kind.name(), command, folder)
}
