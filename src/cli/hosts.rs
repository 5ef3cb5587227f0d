//! `--hosts`: this process is one of several that run the same rules.
//!
//! A lost process takes a part of the state with it. The others report it and end with exit code 4, so that a
//! supervisor starts all of them again: at once if the process died, in the ordinary way if it ended intentionally.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use tokio::sync::watch;

use super::{Failure, Interrupts, end_at_once, say};
use crate::cluster::{self, Cluster, ClusterError, Introduction, Loss, Lost, Membership, Part, Term};
use crate::config::{Config, fingerprint};

/// The exit code of a process whose cluster has lost another one.
pub const LOST: u8 = 4;

#[derive(Args)]
pub struct Hosts {
    /// Run as one of several processes with the same rules: the addresses where each of them listens for the others, in
    /// the order of their numbers. See docs/scaling.md
    #[arg(long, value_name = "HOST:PORT,HOST:PORT…", requires = "process")]
    hosts: Option<String>,
    /// The number of this process in --hosts; the first is 0
    #[arg(long, value_name = "I", requires = "hosts")]
    process: Option<usize>,
    /// Allow listening for the other processes on a public address. Links between processes are neither encrypted nor
    /// authenticated
    #[arg(long, requires = "hosts")]
    allow_public: bool,
}

/// This process after it has connected to all others.
pub struct Joined {
    pub cluster: Cluster,
    pub part: Part,
    /// which process has ended intentionally, if any, in words
    ended: watch::Receiver<Option<String>>,
}

impl Joined {
    /// Waits until another process has ended intentionally, and returns the error to end with.
    pub async fn left(ended: &mut Option<watch::Receiver<Option<String>>>) -> Failure {
        if let Some(ended) = ended
            && let Ok(left) = ended.wait_for(Option::is_some).await
            && let Some(left) = &*left
        {
            return Failure::Lost(left.clone());
        }
        std::future::pending().await
    }

    /// Reports when another process has ended intentionally.
    pub fn ended(&self) -> watch::Receiver<Option<String>> {
        self.ended.clone()
    }
}

impl Hosts {
    /// The processes of the cluster; `None` without `--hosts`.
    pub fn membership(&self, workers: u16) -> Result<Option<Membership>, Failure> {
        let (Some(hosts), Some(process)) = (&self.hosts, self.process) else { return Ok(None) };
        let membership = Membership::new(hosts, process, usize::from(workers));
        membership.map(Some).map_err(|error| Failure::Usage(error.to_string()))
    }

    /// Connects to all other processes, however long this takes; `None`: a signal has ended the wait. If another process
    /// ends in order later, the error says so and continues with `ended`.
    pub async fn join(
        &self,
        membership: Membership,
        introduction: Introduction,
        ended: &'static str,
        interrupts: &mut Interrupts,
    ) -> Result<Option<Joined>, Failure> {
        let refused = |error: ClusterError| Failure::Refused(error.to_string());
        let links = tokio::select! {
            links = cluster::connect(membership, introduction, self.allow_public, say_with_time) => links.map_err(refused)?,
            () = interrupts.next() => return Ok(None),
        };
        let (tell, left) = watch::channel(None);
        let lost = move |lost: Lost| {
            if lost.how == Loss::Ended {
                tell.send_replace(Some(format!("{lost}{ended} This process ends too; start all processes again.")));
            } else {
                say(&format!("plutino: {lost}, and its state is lost. This process ends; restart all processes."));
                end_at_once(i32::from(LOST));
            }
        };
        let (cluster, part) = cluster::start(links, lost).map_err(|error| refused(error.into()))?;
        Ok(Some(Joined { cluster, part, ended: left }))
    }
}

/// The address of the REST API for other machines. If it listens on all addresses, that of this process.
pub fn reachable(rest: SocketAddr, membership: &Membership) -> String {
    match membership.host().rsplit_once(':') {
        Some((host, _)) if rest.ip().is_unspecified() => format!("{host}:{}", rest.port()),
        _ => rest.to_string(),
    }
}

/// Prints a repeated message with the current time.
fn say_with_time(text: &str) {
    say(&format!("{} {text}", Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ")));
}

/// The settings that all processes must share, with the verb. Addresses and logs may differ.
pub fn terms(verb: &str, config: &Config) -> Vec<Term> {
    let verb = ("the verb (run or serve)".to_owned(), verb.to_owned());
    let settings = std::iter::once(verb).chain(config.shared());
    settings.map(|(name, value)| Term { name, value }).collect()
}

/// The rule files, by the start of their digests in the order of the command line: `sha256sum` shows which one differs.
pub fn term_of_files(files: &[PathBuf]) -> Result<Term, Failure> {
    let mut digests = Vec::new();
    for file in files {
        let read = std::fs::read(file);
        let content = read.map_err(|error| Failure::Refused(format!("{}: {error}", file.display())))?;
        digests.push(fingerprint(&content));
    }
    Ok(Term { name: "the rule files".to_owned(), value: format!("sha256 {}", digests.join(" and ")) })
}
