//! The greeting of two processes, which checks that they are compatible.
//!
//! A greeting is one JSON document after its length. The dialing process greets first; the other compares the two, and
//! replies with its own greeting or with the reason for its refusal, so both report a difference. A refused process
//! learns nothing else.

use serde::{Deserialize, Serialize};

use super::{ClusterError, Membership};

/// A value that must be the same in all processes of a cluster, besides version, hosts and workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// its description in errors
    pub name: String,
    /// the value of this process
    pub value: String,
}

/// What a process reports about itself when it joins.
#[derive(Clone, Debug, Default)]
pub struct Introduction {
    pub terms: Vec<Term>,
    /// It takes orders from process 0, or is process 0 and gives them.
    pub control: bool,
    /// The URL of its REST API, if the other processes redirect requests there.
    pub rest: Option<String>,
}

/// The purpose of a connection between two processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// data between workers
    Data,
    Heartbeat,
    /// orders of process 0
    Control,
    /// a client of another process, for process 0 to serve
    Client,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Greeting {
    pub version: String,
    hosts: Vec<String>,
    pub process: usize,
    workers: usize,
    pub purpose: Purpose,
    terms: Vec<Term>,
    pub rest: Option<String>,
}

/// The reply to a greeting.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// the greeting of the other process
    Greeting(Greeting),
    /// refused, with the reason
    Refused(String),
}

impl Greeting {
    /// The greeting of this process.
    pub fn new(membership: &Membership, introduction: &Introduction, purpose: Purpose) -> Greeting {
        Greeting {
            // Rows are exchanged in the byte order of the machine.
            version: format!("{} ({})", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH),
            hosts: membership.hosts.clone(),
            process: membership.process,
            workers: membership.workers,
            purpose,
            terms: introduction.terms.clone(),
            rest: introduction.rest.clone(),
        }
    }

    /// Checks that the other process is compatible.
    ///
    /// # Errors
    /// [`ClusterError::Differs`] with the first difference.
    pub fn fits(&self, theirs: &Greeting) -> Result<(), ClusterError> {
        let differs = |what: &str, ours: String, theirs_value: String| ClusterError::Differs {
            peer: theirs.process,
            host: self.hosts.get(theirs.process).cloned().unwrap_or_else(|| "unknown".to_owned()),
            what: what.to_owned(),
            ours,
            theirs: theirs_value,
        };
        if self.version != theirs.version {
            return Err(differs("its version", self.version.clone(), theirs.version.clone()));
        }
        if self.hosts != theirs.hosts {
            return Err(differs("--hosts", self.hosts.join(","), theirs.hosts.join(",")));
        }
        if self.workers != theirs.workers {
            return Err(differs("--workers", self.workers.to_string(), theirs.workers.to_string()));
        }
        let value = |terms: &[Term], name: &str| {
            let found = terms.iter().find(|term| term.name == name);
            found.map_or_else(|| "none".to_owned(), |term| term.value.clone())
        };
        for Term { name, .. } in self.terms.iter().chain(&theirs.terms) {
            let (ours, theirs) = (value(&self.terms, name), value(&theirs.terms, name));
            if ours != theirs {
                return Err(differs(name, ours, theirs));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_differ_say_in_what() {
        let term = |value: &str| Term { name: "the rule files".to_owned(), value: value.to_owned() };
        let greeting = |hosts: &str, process, workers, value| {
            let membership = Membership::new(hosts, process, workers).expect("it is right");
            let introduction = Introduction { terms: vec![term(value)], ..Introduction::default() };
            Greeting::new(&membership, &introduction, Purpose::Data)
        };
        let ours = greeting("a:1,b:2", 0, 2, "x");
        assert!(ours.fits(&greeting("a:1,b:2", 1, 2, "x")).is_ok());
        let says = |theirs: Greeting| ours.fits(&theirs).expect_err("they differ").to_string();
        assert_eq!(
            says(greeting("a:1,c:2", 1, 2, "x")),
            "process 1 (b:2) differs in --hosts: it has a:1,c:2, this one has a:1,b:2; all need the same"
        );
        assert_eq!(
            says(greeting("a:1,b:2", 1, 3, "x")),
            "process 1 (b:2) differs in --workers: it has 3, this one has 2; all need the same"
        );
        assert_eq!(
            says(greeting("a:1,b:2", 1, 2, "y")),
            "process 1 (b:2) differs in the rule files: it has y, this one has x; all need the same"
        );
        let older = Greeting { version: "0.0.1 (x86_64)".to_owned(), ..greeting("a:1,b:2", 1, 2, "x") };
        assert!(says(older).contains("differs in its version: it has 0.0.1 (x86_64), this one has "));
        let without = Greeting { terms: Vec::new(), ..greeting("a:1,b:2", 1, 2, "x") };
        assert!(says(without).contains("it has none, this one has x"));
    }
}
