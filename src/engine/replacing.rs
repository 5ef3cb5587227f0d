//! Replaces a running rule by a new version, between two messages.
//!
//! Both versions are open during the switch, so that no endpoint closes and no client is disconnected. If both read the
//! same streams, one command to the worker switches: exactly one version sees each message. If the streams differ, the
//! new version has its state on another thread, or one of them has it divided by key, the endpoints of the old version
//! pause (their sockets are not read), the old version processes what was read, and the new one begins. If a client
//! with `slowClient: block` holds up an endpoint, it cannot pause: then the switch does not wait, and what the old
//! version has not processed is counted as lost.

use std::collections::HashSet;
use std::sync::Arc;

use crate::dataflow::command::{Keeps, Leaving, Left, Letters, Mark, StateAnswer, StreamKey};
use crate::dataflow::division::Division;
use crate::io::sink::OpenSink;
use crate::io::source::{OpenSource, Pause};
use futures_util::future::join_all;

use super::running::RuleThreads;
use super::stopping::ended_sources;
use super::together::Begin;
use super::{Engine, EngineError, LastStatus, PreparedRule, RunningRule, SETTLE, StreamId};

/// Requests a state even if nothing has changed.
const ALWAYS: Mark = Mark::MAX;

/// The replaced version of a rule, after its end.
pub struct Replaced {
    /// The status at its end.
    pub last: Arc<LastStatus>,
    /// Its last state; `None` if it has none. The new version has continued from it if both have the same kind of
    /// state.
    pub saved: StateAnswer,
    /// The number of letters with rows that it sent to the process with its state.
    pub letters: u64,
}

/// The data of the running version that is needed to end it.
struct Old {
    key: u64,
    threads: RuleThreads,
    division: Option<Division>,
    streams: Arc<Vec<StreamId>>,
    /// those that the new version has not taken over, each with its number
    sinks: Vec<(usize, Arc<dyn OpenSink>)>,
}

impl PreparedRule<'_> {
    /// Replaces the running rule with the same id, if there is one. With `carry`, the new version continues from that
    /// rule's state.
    ///
    /// # Errors
    /// [`EngineError::Exists`] if a rule with its id has just started; this one is closed again then.
    pub async fn replace(self, carry: bool) -> Result<Option<Replaced>, EngineError> {
        self.replace_after(carry, 0).await
    }

    /// As [`PreparedRule::replace`], after this many letters from other processes have arrived for the running rule.
    ///
    /// # Errors
    /// As [`PreparedRule::replace`].
    pub async fn replace_after(mut self, carry: bool, letters: u64) -> Result<Option<Replaced>, EngineError> {
        let engine = self.engine;
        let old = engine.running().rules.get(&self.id).map(|old| Old {
            key: old.key,
            threads: old.threads,
            division: old.division.clone(),
            streams: old.streams.clone(),
            sinks: self.not_taken_over(old),
        });
        let Some(old) = old else { return self.start().await.map(|()| None) };
        let (left, pauses) = self.pause(&old).await;
        let (ends, mut shared) = engine.ends_with(&left);
        if self.moves(&old) {
            shared.extend(self.keys.iter().flatten());
        }
        let save = (carry && matches!(self.keeps, Keeps::State(_))).then_some(ALWAYS);
        old.sinks.iter().for_each(|(_, sink)| sink.go_first());
        let letters = Letters { near: 0, far: letters };
        let left = self.switch(&old, Leaving { rule: old.key, settle: shared, ends, save, letters }).await;
        Begin::all(self.sources()).await;
        // The sources of the new version have begun, so it receives everything from here on.
        drop(pauses);
        let new = self.installed();
        let last = {
            let mut running = engine.running();
            let Some(rule) = running.rules.remove(&self.id) else { return Ok(None) };
            let sources = running.sources(&rule);
            let alone = running.leave(&rule.streams);
            let status = rule.status(&self.id, sources);
            let last = LastStatus::new(status, ended_sources(&rule, alone), old.sinks);
            running.starting.remove(&self.id);
            running.rules.insert(self.id.clone(), Box::new(new));
            last
        };
        engine.wake(&old.streams);
        engine.close_in_time(last.clone(), left.elsewhere).await;
        Ok(Some(Replaced { last, saved: left.state, letters: left.letters }))
    }

    /// The sinks of the old version that end with it, each with its number.
    fn not_taken_over(&self, old: &RunningRule) -> Vec<(usize, Arc<dyn OpenSink>)> {
        let taken = |sink: &Arc<_>| self.sinks.iter().any(|own| Arc::ptr_eq(&own.sink, sink));
        let sinks = old.sinks.iter().map(|sink| sink.sink.clone()).enumerate();
        sinks.filter(|(_, sink)| !taken(sink)).collect()
    }

    /// Whether this version has its state on other threads of this process than the old one, or one of them has it
    /// divided.
    fn moves(&self, old: &Old) -> bool {
        let divided = old.division.is_some() || self.is_divided();
        old.threads.process == self.threads.process && (old.threads.home != self.threads.home || divided)
    }

    /// Pauses the streams that only the old version reads, or all if the state moves to another thread. Returns those
    /// that only the old version reads, and guards that end the pause.
    async fn pause(&self, old: &Old) -> (Vec<StreamId>, Vec<Pause>) {
        let is_left = |id: &&StreamId| !self.streams.contains(id);
        let left: Vec<StreamId> = old.streams.iter().filter(is_left).cloned().collect();
        let sources: Vec<Arc<dyn OpenSource>> = {
            let running = self.engine.running();
            let paused = old.streams.iter().filter(|id| self.moves(old) || is_left(id));
            paused.filter_map(|id| running.streams.get(id)?.source.clone()).collect()
        };
        let mut endpoints = HashSet::new();
        let once = sources.iter().filter(|source| source.endpoint().is_some_and(|endpoint| endpoints.insert(endpoint)));
        let paused = tokio::time::timeout(SETTLE, join_all(once.map(|source| source.pause()))).await;
        let pauses = paused.unwrap_or_else(|_| {
            tracing::warn!(
                rule = self.id,
                "a client that blocks the rule reads nothing: messages may be lost by its update"
            );
            Vec::new()
        });
        (left, pauses.into_iter().flatten().collect())
    }

    /// Removes the old version from its workers and starts this one, in one step on each worker.
    async fn switch(&mut self, old: &Old, leaving: Leaving) -> Left {
        let stays = (old.threads.home, old.threads.process) == (self.threads.home, self.threads.process);
        if stays && old.division.is_none() && !self.is_divided() {
            return self.run_instead(old.threads, leaving).await;
        }
        let left = self.engine.commands(old.threads, old.division.clone()).leave(leaving).await;
        if let Some(Ok(saved)) = &left.state {
            self.continue_from(saved.bytes.clone());
        }
        self.run().await;
        left
    }
}

impl Engine {
    /// Divides the streams of an ending rule into those that end with it and those that others read. The sources of the
    /// former stop delivering.
    fn ends_with(&self, left: &[StreamId]) -> (Vec<StreamKey>, Vec<StreamKey>) {
        let running = self.running();
        let (mut ends, mut shared) = (Vec::new(), Vec::new());
        for stream in left.iter().filter_map(|id| running.streams.get(id)) {
            if stream.rules > 1 {
                shared.push(stream.key);
            } else {
                stream.source.iter().for_each(|source| source.detach());
                ends.push(stream.key);
            }
        }
        (ends, shared)
    }
}
