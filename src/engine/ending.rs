//! The end of input and the end of all: what was received is run, in the order of who reads whose results, and nobody
//! is waited for who takes nothing.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::future::maybe_done;

use crate::dataflow::command::Command;
use crate::io::connector::OpenSource;
use crate::io::queue::WayOut;

use super::{CheckpointError, Engine, FLUSH, RuleStatus, RunningRule, RunningStream, Saved, StreamId};

impl Engine {
    /// No more messages shall come: sources are closed, what was received is processed, and windows that time closes
    /// are closed as if it had passed. Returns when the results are with the sinks.
    ///
    /// A client that makes the engine wait and takes nothing is not waited for beyond the flush limit ([`Engine::stuck`]).
    pub async fn end_of_input(&self) {
        let ends = async {
            self.close_sources(OpenSource::is_outside).await;
            self.settle().await;
            // A rule that reads what others write comes after them.
            for rules in self.stages().await {
                self.ask(|done| Command::EndOfInput { rules: rules.clone(), done }).await;
                self.settle().await;
            }
            self.close_sources(|_| true).await;
        };
        tokio::select! {
            () = ends => {}
            () = self.stuck() => {}
        }
    }

    /// Returns when nothing has moved for the flush limit while a sink makes the engine wait for its client. A client
    /// that reads slowly is not stuck, nor is a worker that has much to do. Once found, it stays so.
    pub async fn stuck(&self) {
        let (mut moved, mut since) = (None, Instant::now());
        while !self.stuck.load(Ordering::Acquire) {
            let (progress, waits) = self.progress().await;
            if !waits || moved != Some(progress) {
                (moved, since) = (Some(progress), Instant::now());
            } else if since.elapsed() >= FLUSH {
                self.stuck.store(true, Ordering::Release);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether [`Engine::stuck`] has been found.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire)
    }

    /// A number that grows with every row and every message sent, and whether a sink makes the engine wait.
    async fn progress(&self) -> (u64, bool) {
        let running = self.running.lock().await;
        let (mut progress, mut waits) = (0, false);
        for rule in running.rules.values() {
            progress += rule.metrics.rows_in() + rule.metrics.messages_out.load(Ordering::Relaxed);
            for sink in &rule.sinks {
                progress += sink.status().messages;
                // Only a client can be stuck: what goes by way of memory goes to rules, and theirs are looked at too.
                if let WayOut::Messages(outlet) = sink.outlet() {
                    waits |= !outlet.ready();
                }
            }
        }
        (progress, waits)
    }

    /// Ends everything: sources are closed, what was received is processed, sinks send what waits and say goodbye.
    /// Gives how the rules stood at their very end; their links as they were before they were closed.
    pub async fn stop(self) -> Vec<RuleStatus> {
        self.end(false).await.0
    }

    /// The same, and gives the last states of the rules that keep theirs, where they are not kept yet.
    pub async fn stop_and_save(self) -> Vec<(String, Result<Saved, CheckpointError>)> {
        self.end(true).await.1
    }

    async fn end(self, save: bool) -> (Vec<RuleStatus>, Vec<(String, Result<Saved, CheckpointError>)>) {
        let mut states = Vec::new();
        let last = {
            // Rules go on reading each other's results until nothing is on its way.
            let mut reading = pin!(maybe_done(self.close_sources(OpenSource::is_outside)));
            let processed = async {
                reading.as_mut().await;
                self.settle().await;
            };
            // A sink that makes the engine wait for a client that never reads must not keep the process from ending:
            // with full queues not even reading ends before that client is gone.
            let limit = if self.stuck.load(Ordering::Acquire) { Duration::ZERO } else { FLUSH };
            let stuck = tokio::time::timeout(limit, processed).await.is_err();
            let mut last = self.status().await;
            let rules: Vec<RunningRule> = {
                let mut running = self.running.lock().await;
                let mut rules: Vec<RunningRule> = running.rules.drain().map(|(_, rule)| rule).collect();
                // In the order of `last`.
                rules.sort_unstable_by_key(|rule| rule.key);
                rules
            };
            // Before the sinks are closed: a window that ends meanwhile is rather sent twice than lost.
            if save && !stuck {
                states = self.save_all(&last, &rules).await;
            }
            let closing = rules.iter().flat_map(|rule| &rule.sinks).map(|sink| sink.close(FLUSH));
            futures_util::future::join_all(closing).await;
            if stuck {
                // Nobody holds the engine up any more: the senders get their close frames, and what they had sent is
                // counted.
                let rest = async {
                    reading.await;
                    self.settle().await;
                };
                let _ = tokio::time::timeout(FLUSH, rest).await;
                if save {
                    states = self.save_all(&last, &rules).await;
                }
            }
            for (status, rule) in last.iter_mut().zip(&rules) {
                let mut ended = rule.status(&status.id, std::mem::take(&mut status.sources));
                // The counts are those of the end; that the links have ended is no trouble.
                for (sink, before) in ended.sinks.iter_mut().zip(&status.sinks) {
                    (sink.state, sink.since, sink.peers) = (before.state, before.since, before.peers);
                }
                *status = ended;
            }
            last
        };
        for thread in self.threads {
            thread.stop();
        }
        (last, states)
    }

    /// The states of rules that have just been taken out of the list, with their statuses.
    async fn save_all(
        &self,
        last: &[RuleStatus],
        rules: &[RunningRule],
    ) -> Vec<(String, Result<Saved, CheckpointError>)> {
        let mut states = Vec::new();
        for (status, rule) in last.iter().zip(rules) {
            let saved = self.save_on(rule.thread, rule.key, rule.kept.load(Ordering::Relaxed)).await;
            states.extend(saved.map(|saved| (status.id.clone(), saved)));
        }
        states
    }

    /// Closes the sources of streams that `which` says.
    async fn close_sources(&self, which: impl Fn(&OpenSource) -> bool) {
        let sources: Vec<OpenSource> = {
            let mut running = self.running.lock().await;
            let take = |stream: &mut RunningStream| {
                let source = stream.source.take_if(|source| which(source))?;
                stream.ended = Some(source.status());
                Some(source)
            };
            running.streams.values_mut().filter_map(take).collect()
        };
        futures_util::future::join_all(sources.into_iter().map(OpenSource::close)).await;
    }

    /// Waits until all that was received has been run, also by the rules that read the results of others.
    async fn settle(&self) {
        let topics = &self.connectors.topics;
        loop {
            let (delivered, _) = topics.movement();
            self.ask(Command::Drain).await;
            if topics.movement() == (delivered, 0) {
                return;
            }
        }
    }

    /// The rules, those that write before those that read what they write. Rules of a cycle end together. To be called
    /// when the sources outside are closed.
    async fn stages(&self) -> Vec<Arc<[u64]>> {
        let topics = &self.connectors.topics;
        let running = self.running.lock().await;
        let keys = |rule: &RunningRule| -> Vec<usize> {
            rule.streams.iter().filter_map(|id| running.streams.get(id)).map(|stream| stream.key).collect()
        };
        let feeds = |from: &[usize], to: &[usize]| from.iter().any(|from| to.iter().any(|to| topics.feeds(*from, *to)));
        // Most rules read nothing from memory: they end first, all together.
        let in_memory = |id: &StreamId| running.streams.get(id).is_some_and(|stream| stream.source.is_some());
        let (left, first): (Vec<_>, Vec<_>) =
            running.rules.values().partition(|rule| rule.streams.iter().any(in_memory));
        let mut stages = vec![first.into_iter().map(|rule| rule.key).collect()];
        let mut left: Vec<(u64, Vec<usize>)> = left.into_iter().map(|rule| (rule.key, keys(rule))).collect();
        while !left.is_empty() {
            let waits = |own: &[usize]| left.iter().any(|(_, other)| feeds(other, own) && !feeds(own, other));
            let mut stage: Vec<bool> = left.iter().map(|(_, own)| !waits(own)).collect();
            if !stage.contains(&true) {
                stage.fill(true);
            }
            stages.push(left.iter().zip(&stage).filter(|(_, now)| **now).map(|((rule, _), _)| *rule).collect());
            let mut stage = stage.into_iter();
            left.retain(|_| !stage.next().unwrap_or(true));
        }
        stages
    }
}
