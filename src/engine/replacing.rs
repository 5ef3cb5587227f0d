//! How a new version of a rule takes the place of the one that runs, between two messages.
//!
//! Both are open when the switch comes, so that no endpoint and no client goes. Where both read the same streams, one
//! command of the worker does it: every message is seen by one of the two. Where the streams differ, the endpoints that
//! the old version reads pause meanwhile (their sockets are not read), the old version runs what was read, and the new
//! one begins. An endpoint that a client with `slowClient: block` holds up cannot pause: then the switch does not wait,
//! and what the old version had not run by then is counted as lost.

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::dataflow::command::{Command, Keeps, Leaving, Mark, StateAnswer, StreamKey};
use crate::io::connector::{OpenSource, Pause};

use super::stopping::ended_sources;
use super::{Engine, EngineError, LastStatus, PreparedRule, SETTLE, StreamId};

/// A state is asked for though nothing has changed since the last time.
const ALWAYS: Mark = Mark::MAX;

/// The version of a rule that was replaced.
pub struct Replaced {
    /// how it stood
    pub last: Arc<LastStatus>,
    /// its last state, with which the new version went on if it remembers the same things; `None` where it keeps none
    pub saved: StateAnswer,
}

/// What the running version is, as far as its end is about it.
struct Old {
    key: u64,
    thread: usize,
    streams: Vec<StreamId>,
}

impl PreparedRule<'_> {
    /// Puts the rule in the place of the running one of its id, if there is one; `carry` says whether it goes on with
    /// that one's state.
    ///
    /// # Errors
    /// [`EngineError`] if a file cannot be read. Nothing of either version is left then.
    pub async fn replace(mut self, carry: bool) -> Result<Option<Replaced>, EngineError> {
        let engine = self.engine;
        let old = engine.running().rules.get(&self.id).map(|old| Old {
            key: old.key,
            thread: old.thread,
            streams: old.streams.clone(),
        });
        let Some(old) = old else { return self.start().await.map(|()| None) };
        let (left, pauses) = self.pause(&old).await;
        let (ends, shared) = engine.ends_with(&left);
        let saved = self.switch(&old, ends, shared, carry).await;
        let begun = self.begin().await;
        // The new version gets what comes from here on: its sources have begun.
        drop(pauses);
        let new = begun.is_ok().then(|| self.installed());
        let last = {
            let mut running = engine.running();
            let Some(rule) = running.rules.remove(&self.id) else { return Ok(None) };
            let sources = running.sources(&rule);
            let alone = running.leave(&rule.streams);
            let status = rule.status(&self.id, sources);
            let kept = |sink: &Arc<_>| new.iter().flat_map(|new| &new.sinks).any(|new| Arc::ptr_eq(&new.sink, sink));
            let sinks = rule.sinks.iter().map(|sink| sink.sink.clone()).enumerate();
            let sinks = sinks.filter(|(_, sink)| !kept(sink)).collect();
            let last = LastStatus::new(status, ended_sources(&rule, alone), sinks);
            if let Some(new) = new {
                running.starting.remove(&self.id);
                running.rules.insert(self.id.clone(), new);
            }
            last
        };
        engine.wake(&old.streams);
        engine.close_in_time(last.clone()).await;
        match begun {
            Ok(()) => Ok(Some(Replaced { last, saved })),
            Err(error) => {
                self.undo().await;
                Err(error)
            }
        }
    }

    /// Pauses what the old version reads and this one does not. Returns these streams, and what ends the pause.
    async fn pause(&self, old: &Old) -> (Vec<StreamId>, Vec<Pause>) {
        let left: Vec<StreamId> = old.streams.iter().filter(|id| !self.streams.contains(id)).cloned().collect();
        let sources: Vec<Arc<OpenSource>> = {
            let running = self.engine.running();
            left.iter().filter_map(|id| running.streams.get(id)?.source.clone()).collect()
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

    /// Takes the old version off its worker and lets this one run, on the same worker in one step.
    async fn switch(&mut self, old: &Old, ends: Vec<StreamKey>, settle: Vec<StreamKey>, carry: bool) -> StateAnswer {
        let save = (carry && matches!(self.keeps, Keeps::State(_))).then_some(ALWAYS);
        let leaving = Leaving { rule: old.key, settle, ends, save };
        if old.thread == self.thread {
            return self.run(Some(leaving)).await;
        }
        let (done, gone) = oneshot::channel();
        self.engine.threads[old.thread].command(Command::DropRule { leaving, done });
        let saved = gone.await.ok().flatten();
        if let (Keeps::State(state), Some(Ok(saved))) = (&mut self.keeps, &saved) {
            *state = Some(saved.bytes.clone());
        }
        self.run(None).await;
        saved
    }
}

impl Engine {
    /// Of streams that a rule leaves: those that end with it, whose sources hand nothing over from now on, and those that
    /// others read.
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
