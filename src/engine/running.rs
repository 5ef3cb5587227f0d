//! A rule on its threads: it begins, is replaced and leaves on all of them together.
//!
//! A rule without state runs independently on every thread that reads its streams. The state of a rule is on one
//! thread, its home; the others scan and send rows home. Such a rule leaves the other threads first; home then waits
//! for the rows that they have sent, so that none is lost or counted twice.
//!
//! A state that is divided by key is on all threads of the rule. They end their scans first. Once all rows have arrived
//! at the threads of their keys, each thread gives up its part of the state. Home waits for everything that they have
//! sent by then.
//!
//! With several processes, home is in one of them. In the others, all threads of the rule scan and send rows there.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::dataflow::command::{
    Command, Keeps, Leaving, Left, Letters, Mark, NewRule, Part, RuleKey, Saved, StateAnswer, StreamKey,
};
use crate::dataflow::division::{Division, at_home};
use crate::dataflow::encoding::Encoding;
use crate::dataflow::event_clock::EventClocks;
use crate::dataflow::state::checkpoint;
use crate::dataflow::worker::Commands;
use crate::metrics::RuleMetrics;
use crate::plan::physical::{Body, RulePlan, WindowSpec};

use super::{Engine, PreparedRule};

/// The threads that read a stream: consecutive ones, where the first follows the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Place {
    first: usize,
    count: usize,
    /// the number of threads in the process
    of: usize,
}

impl Place {
    /// One thread, which reads the messages of all sockets.
    pub fn alone(thread: usize, of: usize) -> Place {
        Place { first: thread, count: 1, of }
    }

    /// `count` threads from `home` on; each reads the messages of its own sockets. If these are all threads, rules with
    /// different homes share the stream.
    pub fn with(home: usize, count: usize, of: usize) -> Place {
        if count >= of { Place { first: 0, count: of, of } } else { Place { first: home, count: count.max(1), of } }
    }

    /// Whether this thread is among them.
    pub fn contains(self, thread: usize) -> bool {
        self.of > 0 && (thread + self.of - self.first) % self.of < self.count
    }

    /// The number of threads.
    pub fn all(self) -> usize {
        self.of
    }

    /// The thread, if there is only one.
    pub fn only(self) -> Option<usize> {
        (self.count == 1).then_some(self.first)
    }
}

/// The threads of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct RuleThreads {
    /// the thread with its state; it also reads the streams that only one thread reads
    pub home: usize,
    /// the process with its state; in other processes, `home` is the same thread number
    pub process: usize,
    /// the threads that read its other streams, including home
    pub readers: Place,
}

impl RuleThreads {
    /// Whether the rule, or a part of it, is on this thread.
    pub fn contains(self, thread: usize) -> bool {
        self.home == thread || self.readers.contains(thread)
    }

    /// Whether it is on several threads.
    pub fn is_spread(self) -> bool {
        self.readers.only().is_none()
    }
}

/// The connections to the threads of a rule, for the time of a change.
pub(super) struct RuleCommands {
    home: Commands,
    others: Vec<Commands>,
    /// Whether the state is in this process.
    has_state: bool,
    /// How the state is divided here, if it is.
    division: Option<Division>,
}

impl RuleCommands {
    /// Removes a rule, and streams that end with it, from all threads. Returns its state, or the number of letters sent
    /// to the process with its state.
    pub async fn leave(self, leaving: Leaving) -> Left {
        if let Some(division) = &self.division {
            let scans = self.all().map(|thread| end_scan(thread, without_state(&leaving)));
            let near = join_all(scans).await.into_iter().sum();
            division.have_come(near, leaving.letters.far).await;
            let sent = self.all().map(|thread| send_home(thread, leaving.rule));
            let near = join_all(sent).await.into_iter().sum();
            self.drop_windows(&leaving, Letters { near, far: 0 }).await;
            return self.drop_parts(&leaving).await;
        }
        let others = self.others.iter().map(|thread| drop_rule(thread, without_state(&leaving)));
        let others = join_all(others).await;
        let leaving = if self.has_state { after(&others, leaving) } else { without_state(&leaving) };
        drop_rule(&self.home, leaving).await.with(others)
    }

    /// The same for a rule that may not have begun on all threads. Its rows are not waited for.
    pub async fn undo(self, leaving: Leaving) {
        if self.division.is_some() {
            self.drop_windows(&leaving, Letters::default()).await;
            self.drop_parts(&without_state(&leaving)).await;
        } else {
            self.leave(leaving).await;
        }
    }

    fn all(&self) -> impl Iterator<Item = &Commands> {
        std::iter::once(&self.home).chain(&self.others)
    }

    /// Removes the windows of a divided state from home, once this many letters have arrived for them.
    async fn drop_windows(&self, leaving: &Leaving, letters: Letters) {
        if self.division.as_ref().is_some_and(|division| division.home().is_some()) {
            let (settle, ends) = Default::default();
            let leaving = Leaving { rule: at_home(leaving.rule), settle, ends, save: None, letters };
            drop_rule(&self.home, leaving).await;
        }
    }

    /// Removes the parts of a divided state from all threads.
    async fn drop_parts(&self, leaving: &Leaving) -> Left {
        // If one part has changed, the unchanged ones are needed too.
        let save = leaving.save.map(|_| Mark::MAX);
        let parts = self.all().map(|thread| drop_rule(thread, Leaving { save, ..without_state(leaving) }));
        let mut parts = join_all(parts).await;
        let states = parts.iter_mut().map(|part| part.state.take()).collect();
        let state = joined(states).filter(|saved| !matches!(saved, Ok(saved) if Some(saved.mark) == leaving.save));
        Left { state, ..Left::default() }.with(parts)
    }
}

/// The whole state that consists of these parts; `None` if no part has a state.
pub(super) fn joined(parts: Vec<StateAnswer>) -> StateAnswer {
    let parts: Result<Vec<Saved>, _> = parts.into_iter().flatten().collect();
    match parts {
        Ok(parts) if parts.is_empty() => None,
        Ok(parts) => {
            let mark = parts.iter().map(|part| part.mark).sum();
            let bytes = checkpoint::join(parts.into_iter().map(|part| part.bytes).collect());
            Some(bytes.map(|bytes| Saved { bytes, mark }))
        }
        Err(error) => Some(Err(error)),
    }
}

/// The request to the thread with the state, which waits for what the others have sent.
fn after(others: &[Left], leaving: Leaving) -> Leaving {
    let near = others.iter().map(|left| left.letters).sum();
    Leaving { letters: Letters { near, ..leaving.letters }, ..leaving }
}

/// The request to a thread without the rule's state.
pub(super) fn without_state(leaving: &Leaving) -> Leaving {
    let Leaving { rule, settle, ends, .. } = leaving;
    Leaving { rule: *rule, settle: settle.clone(), ends: ends.clone(), save: None, letters: Letters::default() }
}

/// Ends the scan of a rule on a thread; returns how many letters with rows the thread has sent.
async fn end_scan(thread: &Commands, leaving: Leaving) -> u64 {
    let (done, ended) = oneshot::channel();
    thread.send(Command::EndScan { leaving, done });
    ended.await.unwrap_or_default()
}

/// Makes a thread send home what is due of its part of a rule; returns how many letters it has sent.
async fn send_home(thread: &Commands, rule: RuleKey) -> u64 {
    let (done, sent) = oneshot::channel();
    thread.send(Command::SendHome { rule, done });
    sent.await.unwrap_or_default()
}

/// Removes a rule from a thread.
pub(super) async fn drop_rule(thread: &Commands, leaving: Leaving) -> Left {
    let (done, gone) = oneshot::channel();
    thread.send(Command::DropRule { leaving, done });
    gone.await.unwrap_or_default()
}

impl Engine {
    /// Connects to these threads. `division`: how the state of the rule is divided among them, if it is.
    pub(super) fn commands(&self, threads: RuleThreads, division: Option<Division>) -> RuleCommands {
        let others = self.threads.iter().enumerate();
        let others = others.filter(|(thread, _)| *thread != threads.home && threads.contains(*thread));
        RuleCommands {
            home: self.threads[threads.home].commands(),
            others: others.map(|(_, thread)| thread.commands()).collect(),
            has_state: self.processes.is_own(threads.process),
            division,
        }
    }
}

impl<'e> PreparedRule<'e> {
    /// Starts the rule on its workers.
    pub(super) async fn run(&mut self) {
        let Some((parts, keeps)) = self.parts() else { return };
        let others: Vec<usize> = parts.others().filter(|thread| parts.threads.contains(*thread)).collect();
        // Each part of a divided state restores its own keys.
        let of_others: Vec<Keeps> = others.iter().map(|_| parts.kept_beside_home(&keeps)).collect();
        // Home first: it must be there when the first rows come from others.
        parts.begin(parts.threads.home, keeps, None).await;
        join_all(others.into_iter().zip(of_others).map(|(thread, keeps)| parts.begin(thread, keeps, None))).await;
    }

    /// Starts the rule in place of a version with the same home, in one step on each worker. Returns how that version
    /// has left.
    pub(super) async fn run_instead(&mut self, old: RuleThreads, leaving: Leaving) -> Left {
        let Some((parts, keeps)) = self.parts() else { return Left::default() };
        // Home last: by then it is known how many letters it has to wait for. Rows of the new version wait there.
        let (parts, leaving) = (&parts, &leaving);
        let replace = |thread: usize| async move {
            let nothing = Keeps::Nothing;
            match (parts.threads.contains(thread), old.contains(thread)) {
                (true, true) => parts.begin(thread, nothing, Some(without_state(leaving))).await,
                (true, false) => parts.begin(thread, nothing, None).await,
                (false, true) => drop_rule(&parts.engine.threads[thread].commands(), without_state(leaving)).await,
                (false, false) => Left::default(),
            }
        };
        let others = join_all(parts.others().map(replace)).await;
        let at_home = without_state(leaving);
        let has_state = parts.engine.processes.is_own(old.process);
        let leaving = if has_state {
            after(&others, Leaving { save: leaving.save, letters: leaving.letters, ..at_home })
        } else {
            at_home
        };
        parts.begin(parts.threads.home, keeps, Some(leaving)).await.with(others)
    }

    /// The parts of the rule for its threads, and what the engine keeps about its state.
    fn parts(&mut self) -> Option<(RuleParts<'e>, Keeps)> {
        let plan = self.plan.take()?;
        let exchange = self.divides(&plan);
        let own = self.engine.processes.is_own(self.threads.process);
        self.division = exchange.clone().filter(|_| own);
        let parts = RuleParts {
            engine: self.engine,
            threads: self.threads,
            exchange,
            key: self.number,
            slot: self.engine.slot(),
            streams: self.keys.clone(),
            clocks: EventClocks::new(plan.inputs.len()),
            plan,
            id: self.id.clone(),
            encodings: std::mem::take(&mut self.encodings),
            dead_letters: std::mem::take(&mut self.dead_letters),
            send_error: self.send_error,
            metrics: self.metrics.clone(),
            started: self.engine.now(),
        };
        Some((parts, std::mem::take(&mut self.keeps)))
    }

    /// Whether its state will be divided among threads of this process.
    pub(super) fn is_divided(&self) -> bool {
        let own = self.engine.processes.is_own(self.threads.process);
        own && self.plan.as_ref().is_some_and(|plan| self.divides(plan).is_some())
    }

    /// The threads of this process that share its state by key; `None` if the state is on one thread, or in another
    /// process.
    fn divides(&self, plan: &RulePlan) -> Option<Division> {
        let Body::Stateful(body) = &plan.body else { return None };
        let all = self.engine.threads.len();
        let first = self.threads.process * all;
        let owners: Vec<usize> = (0..all).filter(|thread| self.threads.contains(*thread)).collect();
        let divides = !body.exchange.is_empty() && owners.len() > 1;
        let home = (!matches!(body.window, WindowSpec::Each)).then_some(first + self.threads.home);
        divides.then(|| Division::new(owners.into_iter().map(|thread| first + thread), home))
    }
}

/// A rule that begins on its threads.
struct RuleParts<'e> {
    engine: &'e Engine,
    threads: RuleThreads,
    /// how its state is divided, if it is
    exchange: Option<Division>,
    key: u64,
    slot: usize,
    streams: Vec<Option<StreamKey>>,
    clocks: EventClocks,
    plan: RulePlan,
    id: String,
    encodings: Vec<Encoding>,
    dead_letters: Vec<Encoding>,
    send_error: bool,
    metrics: Arc<RuleMetrics>,
    started: i64,
}

impl RuleParts<'_> {
    /// What another thread keeps if home keeps this.
    fn kept_beside_home(&self, keeps: &Keeps) -> Keeps {
        match keeps {
            Keeps::State(state) if self.exchange.is_some() => Keeps::State(state.clone()),
            _ => Keeps::Nothing,
        }
    }

    /// All its threads except home.
    fn others(&self) -> impl Iterator<Item = usize> {
        let home = self.threads.home;
        (0..self.engine.threads.len()).filter(move |thread| *thread != home)
    }

    /// Starts the part of a thread, in place of a version that leaves. Returns how that version has left.
    async fn begin(&self, thread: usize, keeps: Keeps, replaces: Option<Leaving>) -> Left {
        let (done, begun) = oneshot::channel();
        self.engine.threads[thread].command(Command::AddRule(Box::new(NewRule {
            key: self.key,
            streams: self.streams.clone(),
            slot: self.slot,
            plan: self.plan.clone(),
            id: self.id.clone(),
            encodings: self.encodings.clone(),
            dead_letters: self.dead_letters.clone(),
            send_error: self.send_error,
            metrics: self.metrics.clone(),
            keeps,
            part: self.part(thread),
            started: self.started,
            replaces,
            done,
        })));
        begun.await.unwrap_or_default()
    }

    fn part(&self, thread: usize) -> Part {
        if let Some(division) = &self.exchange {
            return Part::Exchange(division.clone(), self.clocks.clone());
        }
        let RuleThreads { home, process, .. } = self.threads;
        let (processes, spread) = (self.engine.processes, self.threads.is_spread());
        match &self.plan.body {
            Body::Stateful(_) | Body::View(_) if spread || processes.are_several() => {
                if thread == home && processes.is_own(process) {
                    return Part::Home(self.clocks.clone());
                }
                let worker = process * self.engine.threads.len() + home;
                Part::Scan(worker, self.clocks.clone())
            }
            _ => Part::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_follow_each_other_round_the_end() {
        let threads = |place: Place| (0..4).filter(|thread| place.contains(*thread)).collect::<Vec<_>>();
        assert_eq!(threads(Place::alone(2, 4)), [2]);
        assert_eq!(threads(Place::with(3, 2, 4)), [0, 3]);
        assert_eq!(threads(Place::with(3, 9, 4)), [0, 1, 2, 3]);
        assert_eq!(Place::with(3, 4, 4), Place::with(1, 4, 4), "rules of all homes share it");
        assert_eq!(Place::with(3, 1, 4), Place::alone(3, 4));
    }
}
