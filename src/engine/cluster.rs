//! Decides which process does what if several run the same rules.
//!
//! Each process decides by names alone, so all come to the same result without asking each other. The state of a rule
//! is in one process. A peer or a file is read by one process, so that no message comes twice.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;

use crate::cluster::{Membership, Part};
use crate::io::connector::SourceSpec;

use super::{Engine, EngineError};

/// The process with the rows of live views and the state of rules that read them.
pub(super) const LEADER: usize = 0;

/// The processes of a cluster; without a cluster, a single one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Processes {
    count: usize,
    own: usize,
    /// whether process 0 orders what the others do
    ordered: bool,
}

impl Processes {
    pub fn alone() -> Processes {
        Processes { count: 1, own: 0, ordered: false }
    }

    pub fn of(part: &Part) -> Processes {
        let Membership { hosts, process, .. } = &part.membership;
        Processes { count: hosts.len(), own: *process, ordered: part.ordered }
    }

    pub fn are_several(self) -> bool {
        self.count > 1
    }

    /// Whether all processes end a rule when one does.
    pub fn end_together(self) -> bool {
        self.ordered
    }

    /// Whether this process has this number.
    pub fn is_own(self, process: usize) -> bool {
        self.own == process
    }

    /// Chooses a process by a name; all processes choose the same.
    pub fn by(self, name: &str) -> usize {
        // The thread is chosen by the other half of the hash.
        ((hash(name) >> 32) % self.count as u64) as usize
    }
}

/// Chooses a thread by a name; all processes choose the same.
pub(super) fn thread_by(name: &str, threads: usize) -> usize {
    (hash(name) % (1 << 32) % threads as u64) as usize
}

/// A hash that is the same in every process.
pub(super) fn hash(name: &str) -> u64 {
    FixedState::default().hash_one(name)
}

impl Engine {
    /// The process with the state of a rule; `None` if the rule does not run.
    pub fn home_of(&self, id: &str) -> Option<usize> {
        self.running().rules.get(id).map(|rule| rule.threads.process)
    }

    /// Whether this process reads a source. `name` is the stream's.
    pub(super) fn reads(&self, name: &str, source: &SourceSpec) -> bool {
        source.settings().is_local() || self.processes.is_own(self.processes.by(name))
    }

    /// Refuses what works only in a single process.
    pub(super) fn needs_one_process(&self, what: impl FnOnce() -> String) -> Result<(), EngineError> {
        if self.processes.are_several() { Err(EngineError::Alone { what: what() }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spread_over_processes_and_threads() {
        let processes = Processes { count: 2, own: 1, ordered: false };
        let mut places = [[0; 3]; 2];
        for number in 0..600 {
            let name = format!("stream{number}");
            places[processes.by(&name)][thread_by(&name, 3)] += 1;
        }
        assert!(places.iter().flatten().all(|count| (60..140).contains(count)), "{places:?}");
        assert!(processes.are_several() && processes.is_own(1) && !Processes::alone().are_several());
    }
}
