//! The end of input, and the shutdown within a time limit.
//!
//! At the end of input, everything received is processed, writers before their readers. A client that stops reading
//! delays both only up to a limit: what it did not receive is counted.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use tokio::sync::oneshot;

use crate::dataflow::command::{Command, RuleKey};
use crate::dataflow::division::at_home;
use crate::io::queue::SinkHandle;
use crate::io::source::OpenSource;
use crate::io::{LinkStatus, UNPROCESSED, UNREAD, UNSENT};
use crate::sync::locked;

use super::{CheckpointError, Engine, FLUSH, LastStatus, RuleStatus, RunningRule, RunningStream, Saved, StreamId};

/// How long clients may take to answer the close frame.
const GOODBYE: Duration = Duration::from_millis(2100);

/// How long a data thread may take to end; then it is abandoned.
const JOIN: Duration = Duration::from_millis(300);

/// How long data threads may take to count what their rules have not processed.
const COUNT: Duration = Duration::from_millis(100);

/// The result of a shutdown.
pub struct Ended {
    /// The final status of the rules, with the states of their links before they were closed.
    pub rules: Vec<RuleStatus>,
    /// The last states of rules with `qos` that are not stored yet.
    pub states: Vec<(String, Result<Saved, CheckpointError>)>,
    pub totals: Totals,
}

/// Counts of all rules since the start of the process.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Messages that sinks delivered; a broadcast to n clients counts n.
    pub delivered: u64,
    /// Lost messages, by cause.
    pub lost: BTreeMap<&'static str, u64>,
    /// messages kept for peers that have not received them yet
    pub kept: u64,
}

impl Totals {
    pub fn add_losses<'a>(&mut self, dropped: impl IntoIterator<Item = &'a (&'static str, u64)>) {
        dropped.into_iter().for_each(|(cause, count)| *self.lost.entry(cause).or_default() += count);
    }

    fn add_last(&mut self, last: &LastStatus) {
        self.delivered += last.delivered();
        for (.., cause, count) in last.losses().iter() {
            self.add_losses([&(cause, count)]);
        }
    }

    fn add_sink(&mut self, link: &LinkStatus) {
        self.delivered += link.messages;
        self.kept += link.stored as u64;
        self.add_losses(&link.dropped);
    }
}

/// The counts of the links of ended rules.
#[derive(Default)]
pub(super) struct Ledger {
    closed: Mutex<Totals>,
    closing: Mutex<Vec<Arc<LastStatus>>>,
}

impl Ledger {
    pub(super) fn ends(&self, last: Arc<LastStatus>) {
        self.settle();
        locked(&self.closing).push(last);
    }

    /// Reduces rules whose counts are final to their counts.
    fn settle(&self) {
        let mut closing = locked(&self.closing);
        closing.extract_if(.., |last| last.is_final()).for_each(|last| locked(&self.closed).add_last(&last));
    }

    /// The current counts. Waiting messages count as lost.
    fn totals(&self) -> Totals {
        self.settle();
        let mut totals = locked(&self.closed).clone();
        for last in locked(&self.closing).iter() {
            totals.add_last(last);
            let waits: usize = last.now().sinks.iter().map(|sink| sink.queued).sum();
            totals.add_losses([&(UNSENT, waits as u64)]);
        }
        totals
    }
}

impl Engine {
    /// Ends the input: sources are closed, everything received is processed, and open time windows close as if their
    /// time had passed. Returns when the sinks have the results.
    ///
    /// A client that makes the engine wait and reads nothing delays this at most up to the flush limit
    /// ([`Engine::stuck`]).
    pub async fn end_of_input(&self) {
        let ends = async {
            self.close_sources(|source| source.is_outside()).await;
            self.settle().await;
            // Writers end before their readers.
            for rules in self.stages() {
                self.ask(|done| Command::EndOfInput { rules: rules.clone(), done }).await;
                self.settle().await;
                let windows = self.windows_apart(&rules);
                if !windows.is_empty() {
                    // By now they have received everything that the owners of the keys held.
                    self.ask(|done| Command::EndOfInput { rules: windows.clone(), done }).await;
                    self.settle().await;
                }
            }
            self.close_sources(|_| true).await;
        };
        tokio::select! {
            () = ends => {}
            () = self.stuck() => {}
        }
    }

    /// Returns when nothing has moved for the flush limit while a sink makes the engine wait for its client. Neither a
    /// client that reads slowly nor a busy worker is stuck. The result is permanent.
    pub async fn stuck(&self) {
        let (mut moved, mut since) = (None, Instant::now());
        while !self.stuck.load(Ordering::Acquire) {
            let (progress, waits) = self.progress();
            if !waits || moved != Some(progress) {
                (moved, since) = (Some(progress), Instant::now());
            } else if since.elapsed() >= FLUSH {
                self.stuck.store(true, Ordering::Release);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Whether [`Engine::stuck`] has ever returned.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire)
    }

    /// A number that grows with every row and every sent message, and whether a sink makes the engine wait.
    fn progress(&self) -> (u64, bool) {
        let running = self.running();
        let (mut progress, mut waits) = (0, false);
        for rule in running.rules.values() {
            progress += rule.metrics.rows_in() + rule.metrics.messages_out.load(Ordering::Relaxed);
            for sink in rule.sinks.iter().map(|sink| &sink.sink) {
                progress += sink.status().messages;
                // Only clients can be stuck: memory sinks write to rules, whose own sinks are checked too.
                if let SinkHandle::Messages(outlet) = sink.outlet() {
                    waits |= !outlet.ready();
                }
            }
        }
        (progress, waits)
    }

    /// Counts of the rules that have ended. Waiting messages count as lost.
    pub fn totals(&self) -> Totals {
        let mut totals = self.ledger.totals();
        let unread = self.connectors.websockets.unread();
        totals.add_losses([&(UNREAD, unread.iter().map(|(_, count)| count).sum())]);
        totals
    }

    /// Shuts down within `limit`: sources are closed, everything received is processed, sinks send waiting messages and
    /// close their connections, and the rest is counted as lost.
    pub async fn stop(self, limit: Duration) -> Ended {
        self.shutdown.cancel();
        self.closings.close();
        let began = tokio::time::Instant::now();
        // The last steps need their share of the time.
        let limit = limit.saturating_sub(COUNT + JOIN);
        let flush = limit.saturating_sub(GOODBYE).min(FLUSH);
        let settle = if self.is_stuck() { Duration::ZERO } else { flush / 2 };
        let sources = self.take_sources(|source| source.is_outside());
        sources.iter().for_each(|source| source.detach());
        self.threads.iter().for_each(|thread| thread.command(Command::EndPauses));
        let processed = async || {
            join_all(sources.iter().map(|source| source.handed_over())).await;
            // Rules read each other's results until nothing is in flight.
            self.settle().await;
        };
        // A client that never reads must not keep the process from ending.
        let mut settled = tokio::time::timeout_at(began + settle, processed()).await.is_ok();
        let (mut last, rules) = {
            let mut running = self.running();
            let last = running.status();
            let mut rules: Vec<RunningRule> = running.rules.drain().map(|(_, rule)| *rule).collect();
            // Sorted like `last`.
            rules.sort_unstable_by_key(|rule| rule.key);
            (last, rules)
        };
        // Before the sinks are closed: a window that ends in between is sent twice rather than lost.
        let until = began + limit.saturating_sub(GOODBYE);
        let mut states = if settled { self.save_all(&last, &rules, until).await } else { Vec::new() };
        let left = (began + flush).saturating_duration_since(tokio::time::Instant::now());
        let closing = async {
            let sinks = rules.iter().flat_map(|rule| &rule.sinks).map(|sink| sink.sink.close(left));
            tokio::join!(join_all(sources.iter().map(|source| source.close())), join_all(sinks));
        };
        let rest = async {
            if !settled {
                // After the sinks are closed, nothing holds up the engine, and sockets hand over what they have read.
                // A part of the time is reserved for the states; a thread may have many of them.
                settled = tokio::time::timeout_at(until, processed()).await.is_ok();
                states = self.save_all(&last, &rules, began + limit).await;
            }
        };
        let all = async {
            tokio::join!(closing, rest);
            self.closings.wait().await;
        };
        let in_time = tokio::time::timeout_at(began + limit, all).await.is_ok();
        let mut totals = self.totals();
        let late = states.iter().any(|(_, state)| matches!(state, Err(CheckpointError::Late)));
        // Otherwise all rows are processed, and counting them would take time.
        if !settled || late || !in_time {
            totals.add_losses([&(UNPROCESSED, self.unprocessed().await)]);
        }
        for (status, rule) in last.iter_mut().zip(&rules) {
            let mut ended = rule.status(&status.id, std::mem::take(&mut status.sources));
            // The counts are the final ones; the states of the links are those before they were closed.
            for (sink, before) in ended.sinks.iter_mut().zip(&status.sinks) {
                (sink.state, sink.since, sink.peers) = (before.state, before.since, before.peers);
                totals.add_sink(sink);
                totals.add_losses([&(UNSENT, sink.queued as u64)]);
            }
            *status = ended;
        }
        self.running()
            .streams
            .values()
            .for_each(|stream| totals.add_losses([&(UNPROCESSED, stream.backlog().messages())]));
        totals.lost.retain(|_, count| *count > 0);
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| thread.stop()));
        let _ = tokio::time::timeout(JOIN, joined).await;
        Ended { rules: last, states, totals }
    }

    /// Keeps the data threads busy until this is dropped.
    #[cfg(test)]
    pub(crate) fn occupy_threads(&self) -> crossbeam_channel::Sender<()> {
        let (busy, ends) = crossbeam_channel::bounded::<()>(0);
        let (begins, begun) = crossbeam_channel::bounded(self.threads.len());
        for thread in &self.threads {
            let (ends, begins) = (ends.clone(), begins.clone());
            thread.handle.spawn(async move {
                let _ = begins.send(());
                let _ = ends.recv();
            });
        }
        self.threads.iter().for_each(|_| _ = begun.recv());
        busy
    }

    /// The number of rows that rules have read and not processed. For a thread that does not answer, the number after
    /// its rules' last turns counts.
    pub(crate) async fn unprocessed(&self) -> u64 {
        let counts = self.threads.iter().map(|thread| {
            let (done, count) = oneshot::channel();
            thread.command(Command::CountUnprocessed(done));
            async move {
                let answer = tokio::time::timeout(COUNT, count).await.ok().and_then(Result::ok);
                answer.unwrap_or_else(|| thread.leftover())
            }
        });
        join_all(counts).await.iter().sum()
    }

    /// The states of rules that were just removed, with their statuses. States that their threads have not given by
    /// `until` are late.
    async fn save_all(
        &self,
        last: &[RuleStatus],
        rules: &[RunningRule],
        until: tokio::time::Instant,
    ) -> Vec<(String, Result<Saved, CheckpointError>)> {
        let mut states = Vec::new();
        for (status, rule) in last.iter().zip(rules).filter(|(_, rule)| rule.keeps_state) {
            let saved = tokio::time::timeout_at(until, self.save(rule.state_place())).await;
            let saved = saved.unwrap_or(Some(Err(CheckpointError::Late)));
            states.extend(saved.map(|saved| (status.id.clone(), saved)));
        }
        states
    }

    /// Removes these sources from their streams, which keep the sources' last status.
    fn take_sources(&self, which: impl Fn(&dyn OpenSource) -> bool) -> Vec<Arc<dyn OpenSource>> {
        let take = |stream: &mut RunningStream| {
            let source = stream.source.take_if(|source| which(&**source))?;
            stream.ended = Some(source.status());
            Some(source)
        };
        self.running().streams.values_mut().filter_map(take).collect()
    }

    /// Closes sources and waits until everything they have read is delivered.
    async fn close_sources(&self, which: impl Fn(&dyn OpenSource) -> bool) {
        let sources = self.take_sources(which);
        join_all(sources.iter().map(|source| source.close())).await;
    }

    /// Waits until everything received is processed, including by rules that read the results of others.
    async fn settle(&self) {
        self.settle_by(Command::Drain).await;
    }

    /// The same with this command.
    pub(super) async fn settle_by(&self, command: impl Fn(oneshot::Sender<()>) -> Command) {
        let topics = &self.connectors.topics;
        loop {
            let ((delivered, _), letters) = (topics.movement(), self.traffic.counts());
            self.ask(&command).await;
            // A letter on its way may have brought rows to a thread that had already answered.
            let quiet = letters.0 == letters.1 && letters == self.traffic.counts();
            if quiet && topics.movement() == (delivered, 0) {
                return;
            }
        }
    }

    /// The windows of those rules whose homes have them apart from the state of the keys.
    fn windows_apart(&self, rules: &[RuleKey]) -> Arc<[RuleKey]> {
        let running = self.running();
        let apart = running.rules.values().filter(|rule| rules.contains(&rule.key) && rule.has_windows_apart());
        apart.map(|rule| at_home(rule.key)).collect()
    }

    /// The rules in stages, writers before readers; rules in a cycle share a stage. Must be called after the outside
    /// sources are closed.
    fn stages(&self) -> Vec<Arc<[u64]>> {
        let topics = &self.connectors.topics;
        let running = self.running();
        let keys = |rule: &RunningRule| -> Vec<usize> {
            rule.streams.iter().filter_map(|id| running.streams.get(id)).map(|stream| stream.key).collect()
        };
        let feeds = |from: &[usize], to: &[usize]| from.iter().any(|from| to.iter().any(|to| topics.feeds(*from, *to)));
        // Most rules do not read from memory: they form the first stage.
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
