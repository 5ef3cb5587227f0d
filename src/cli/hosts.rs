//! `--hosts`: this process is one of several that run the same rules.
//!
//! A lost process takes a part of the state with it. The others report it and end with exit code 4, so that a
//! supervisor starts all of them again: at once if the process died, in the ordinary way if it ended intentionally.

use std::path::PathBuf;

use clap::Args;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{Failure, Interrupts, end_at_once, say};
use crate::cluster::{self, Cluster, ClusterError, Introduction, Loss, Lost, Membership, Part, Term};
use crate::config::Config;

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
    /// the process that has ended intentionally, if any
    ended: watch::Receiver<Option<Lost>>,
}

impl Joined {
    /// Waits until another process has ended intentionally, and returns the error to end with.
    pub async fn left(ended: &mut Option<watch::Receiver<Option<Lost>>>) -> Failure {
        if let Some(ended) = ended
            && let Ok(lost) = ended.wait_for(Option::is_some).await
            && let Some(lost) = &*lost
        {
            return Failure::Lost(words(lost));
        }
        std::future::pending().await
    }

    /// Reports when another process has ended intentionally.
    pub fn ended(&self) -> watch::Receiver<Option<Lost>> {
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

    /// Connects to all other processes, however long this takes; `None`: a signal has ended the wait.
    pub async fn join(
        &self,
        membership: Membership,
        introduction: Introduction,
        interrupts: &mut Interrupts,
    ) -> Result<Option<Joined>, Failure> {
        let refused = |error: ClusterError| Failure::Refused(error.to_string());
        let links = tokio::select! {
            links = cluster::connect(membership, introduction, self.allow_public, say_with_time) => links.map_err(refused)?,
            () = interrupts.next() => return Ok(None),
        };
        let (tell, ended) = watch::channel(None);
        let lost = move |lost: Lost| {
            if lost.how == Loss::Ended {
                tell.send_replace(Some(lost));
            } else {
                say(&format!("plutino: {}", words(&lost)));
                end_at_once(i32::from(LOST));
            }
        };
        let (cluster, part) = cluster::start(links, lost).map_err(|error| refused(error.into()))?;
        Ok(Some(Joined { cluster, part, ended }))
    }
}

/// Prints a repeated message with the current time.
fn say_with_time(text: &str) {
    say(&format!("{} {text}", Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ")));
}

fn words(lost: &Lost) -> String {
    format!("{lost}, and its state is lost. This process ends; restart all processes.")
}

/// The parts of the configuration that all processes must share. Addresses and logs may differ.
pub fn terms(verb: &str, config: &Config) -> Vec<Term> {
    let zone = config.zone.iana_name().map_or_else(|| format!("{:?}", config.zone), str::to_owned);
    let settings = format!("{:?} {:?} {:?} {:?}", config.rule, config.sources, config.sinks, config.connections);
    vec![
        Term { name: "the verb (run or serve)".to_owned(), value: verb.to_owned() },
        Term { name: "basic.timezone".to_owned(), value: zone },
        Term {
            name: "the rule options, conf keys and connections in etc".to_owned(),
            value: digest([settings.as_bytes()]),
        },
    ]
}

/// The rule files, by the start of their digests in the order of the command line: `sha256sum` shows which one differs.
pub fn term_of_files(files: &[PathBuf]) -> Result<Term, Failure> {
    let mut digests = Vec::new();
    for file in files {
        let read = std::fs::read(file);
        let content = read.map_err(|error| Failure::Refused(format!("{}: {error}", file.display())))?;
        digests.push(shown(Sha256::digest(&content)));
    }
    Ok(Term { name: "the rule files".to_owned(), value: format!("sha256 {}", digests.join(" and ")) })
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
        hasher.update([0]);
    }
    shown(hasher.finalize())
}

/// The start of a digest: enough to tell texts apart, and short enough to compare by eye.
fn shown(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_differ_where_it_matters() {
        let mut config = Config::default();
        let before = terms("run", &config);
        config.rest.set_port(1);
        config.server.port = 2;
        assert_eq!(terms("run", &config), before, "each process has ports of its own");
        config.rule.qos = 1;
        assert_ne!(terms("run", &config), before);
        assert_eq!(digest([&b"a"[..], b"b"]).len(), 12);
        assert_ne!(digest([&b"a"[..], b"b"]), digest([&b"ab"[..]]));
    }
}
