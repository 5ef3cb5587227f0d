//! Sends a rule's results to the clients of other processes.
//!
//! A rule makes a result in one process, and any process may have clients of its sinks. So results for such sinks are
//! sent once to every other process: one worker there passes them to the sink, which knows its clients. They are sent
//! whether or not there are clients, so that a client gets everything from its connection on, and no process depends on
//! news about another's clients. A message without a receiver is lost after each process has answered that it has none.
//! Processes replace a rule one after the other, so results are addressed to a rule and a form of its results by name:
//! whichever version runs there passes them on.
//!
//! For each rule, `IN_FLIGHT` bytes may be on their way to a process; beyond that the rule's streams wait, as for a
//! client in this process with `slowClient: block`. A process confirms results when its sink accepts more.
//!
//! The processes also leave a rule one after the other. Each tells the others when it sends no more results, and those
//! that have left earlier listen until then (`worker/leaver.rs`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::quality::FixedState;
use timely::scheduling::Activator;

use crate::io::queue::MessageBatch;

use super::cluster::Post;
use super::command::RuleKey;
use super::encoding::{Elsewhere, Unheard};
use super::letters::{ResultBatch, ResultsTaken, RuleLetter};

/// The most bytes of a rule's results on their way to a process before the rule waits.
const IN_FLIGHT: usize = 8 << 20;

/// The cost of a letter besides its messages, bytes, so that small ones are limited too.
const OVERHEAD: usize = 64;

pub struct Relay {
    rule: RuleKey,
    name: u64,
    post: Post<RuleLetter>,
    processes: Box<[Remote]>,
    /// the number of the next batch
    next: Cell<u64>,
    /// batches with messages that no client here has received, in the order of their numbers
    unheard: RefCell<VecDeque<Sent>>,
    /// what waits for the relay: the inputs of the rule's streams, and the rule itself
    waiting: RefCell<Vec<Activator>>,
}

/// Another process.
struct Remote {
    /// the worker there that takes results from this one
    worker: usize,
    in_flight: Cell<usize>,
}

/// A batch for which other processes may have clients.
struct Sent {
    number: u64,
    batch: Arc<MessageBatch>,
    sinks: Vec<Unheard>,
    /// the number of processes that have not answered
    awaited: usize,
}

impl Relay {
    /// Sends a rule's results to these workers, one in each other process.
    pub fn new(rule: RuleKey, id: &str, post: Post<RuleLetter>, workers: impl Iterator<Item = usize>) -> Relay {
        let remote = |worker| Remote { worker, in_flight: Cell::new(0) };
        let name = FixedState::default().hash_one(id);
        let processes = workers.map(remote).collect();
        let (next, unheard, waiting) = Default::default();
        Relay { rule, name, post, processes, next, unheard, waiting }
    }

    /// Identifies the rule in the letters of all processes.
    pub fn name(&self) -> u64 {
        self.name
    }

    /// Sets what is woken when the relay is no longer full.
    pub fn wakes(&self, waiting: Vec<Activator>) {
        *self.waiting.borrow_mut() = waiting;
    }

    /// Whether the limit of results on their way is reached: then the rule should wait.
    fn is_full(&self) -> bool {
        self.processes.iter().any(|remote| remote.in_flight.get() >= IN_FLIGHT)
    }

    /// Tells the other processes that no more results will come. Returns their number.
    pub fn end(&self) -> usize {
        self.processes.iter().for_each(|remote| self.post.send(remote.worker, RuleLetter::ResultsEnd(self.rule)));
        self.processes.len()
    }

    /// Whether the other processes have taken all results.
    pub fn is_settled(&self) -> bool {
        self.processes.iter().all(|remote| remote.in_flight.get() == 0)
    }

    /// A worker has confirmed results.
    pub fn taken(&self, worker: usize, taken: &ResultsTaken) {
        let bytes = taken.bytes;
        self.is_answered(taken);
        let was_full = self.is_full();
        for remote in self.processes.iter().filter(|remote| remote.worker == worker) {
            remote.in_flight.set(remote.in_flight.get().saturating_sub(bytes));
        }
        if was_full && !self.is_full() {
            self.waiting.borrow().iter().for_each(Activator::activate);
        }
    }

    /// Adds the messages received by clients of another process; after the last answer, messages without a receiver are
    /// lost.
    fn is_answered(&self, taken: &ResultsTaken) {
        let mut unheard = self.unheard.borrow_mut();
        let Some(place) = unheard.iter().position(|sent| sent.number == taken.number) else { return };
        let sent = &mut unheard[place];
        for sink in &mut sent.sinks {
            sink.heard += taken.heard.get(sink.place).copied().unwrap_or(0);
        }
        sent.awaited -= 1;
        if sent.awaited == 0
            && let Some(Sent { batch, sinks, .. }) = unheard.remove(place)
        {
            for Unheard { outlet, heard, .. } in sinks {
                outlet.finds_nobody(&batch, batch.len().saturating_sub(heard));
            }
        }
    }
}

impl Elsewhere for Relay {
    fn send(&self, form: u64, batch: &Arc<MessageBatch>, unheard: Vec<Unheard>) {
        let number = self.next.replace(self.next.get() + 1);
        if !unheard.is_empty() {
            let (batch, awaited) = (batch.clone(), self.processes.len());
            self.unheard.borrow_mut().push_back(Sent { number, batch, sinks: unheard, awaited });
        }
        for remote in &self.processes {
            remote.in_flight.set(remote.in_flight.get() + cost(batch));
            let results = ResultBatch { rule: self.rule, number, name: self.name, form, batch: batch.clone() };
            self.post.send(remote.worker, RuleLetter::Results(results));
        }
    }

    fn ready(&self) -> bool {
        !self.is_full()
    }
}

/// The cost of a batch, bytes.
pub fn cost(batch: &MessageBatch) -> usize {
    batch.byte_len() + OVERHEAD
}
