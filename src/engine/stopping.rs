//! Stops a rule: it reads no more, processes what was read, returns its state, and is removed.
//!
//! Its sinks continue to send to their clients in the background, up to the flush limit. What they lose is counted in
//! the rule's [`LastStatus`] and logged.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::dataflow::command::{Leaving, Letters, StateAnswer, StreamKey};
use crate::io::queue::{Backlog, SinkHandle};
use crate::io::sink::OpenSink;
use crate::io::source::OpenSource;
use crate::io::{UNPROCESSED, UNSENT, loss};
use futures_util::future::{FutureExt, join_all};
use tokio::sync::oneshot;

use super::{Engine, FLUSH, LastStatus, RunningRule, RunningStream, SETTLE, StreamId};

pub struct Stopped {
    /// The status at its end.
    pub last: Arc<LastStatus>,
    /// Its last state, if requested; `None` if there is none, or if it is already stored.
    pub saved: StateAnswer,
    /// The number of letters with rows that it sent to the process with its state.
    pub letters: u64,
}

impl Engine {
    /// Ends a rule; `None` if there is no such rule. Its windows are dropped unless `save` requests the state.
    pub async fn stop_rule(&self, id: &str, save: bool) -> Option<Stopped> {
        self.stop_rule_after(id, save, 0).await
    }

    /// As [`Engine::stop_rule`], after this many letters from other processes have arrived for it.
    pub async fn stop_rule_after(&self, id: &str, save: bool, letters: u64) -> Option<Stopped> {
        let (rule, alone, sources) = {
            let mut running = self.running();
            let rule = running.rules.remove(id)?;
            let sources = running.sources(&rule);
            let alone = running.leave(&rule.streams);
            (rule, alone, sources)
        };
        // A source that other rules read stays open: the rule leaves between two messages.
        let handing = alone.iter().filter_map(|(_, stream)| stream.source.as_ref()).map(|source| {
            source.detach();
            source.handed_over()
        });
        let _ = tokio::time::timeout(SETTLE, join_all(handing)).await;
        let ends: Vec<StreamKey> = alone.iter().map(|(_, stream)| stream.key).collect();
        let letters = Letters { near: 0, far: letters };
        let save = save.then(|| rule.kept.load(Ordering::Relaxed));
        let leaving = Leaving { rule: rule.key, settle: Vec::new(), ends, save, letters };
        let left = self.commands(rule.threads, rule.division.clone()).leave(leaving).await;
        self.wake(&rule.streams);
        let status = rule.status(id, sources);
        let sinks = rule.sinks.iter().map(|sink| sink.sink.clone()).enumerate().collect();
        let last = LastStatus::new(status, ended_sources(&rule, alone), sinks);
        self.close_in_time(last.clone(), left.elsewhere).await;
        Some(Stopped { last, saved: left.state, letters: left.letters })
    }

    /// Drops the messages kept for the peers of a rule that is gone.
    pub fn forget_rule(&self, id: &str) {
        self.connectors.spool().tidy(id, &[]);
    }

    /// Drops the messages kept for the peers of rules that are gone.
    pub fn retain_rules(&self, exists: impl Fn(&str) -> bool) {
        self.connectors.spool().retain(exists);
    }

    /// Wakes streams that waited for a sink that is gone now.
    pub(super) fn wake(&self, streams: &[StreamId]) {
        let running = self.running();
        let parts = streams.iter().filter_map(|id| running.streams.get(id)).flat_map(|stream| &stream.parts);
        parts.for_each(|part| part.signal.raise());
    }

    /// Closes the links of an ended rule: at once if they are idle, otherwise in the background. What they lose is
    /// logged. `elsewhere` ends when the other processes have ended the rule too: sinks that get results from there
    /// wait for it, if all processes end the rule together.
    pub(super) async fn close_in_time(&self, last: Arc<LastStatus>, mut elsewhere: Vec<oneshot::Receiver<()>>) {
        if !self.processes.end_together() {
            // The others may never end it.
            elsewhere.clear();
        }
        self.ledger.ends(last.clone());
        last.sinks.iter().for_each(|(_, sink)| sink.go_first());
        let listens = !elsewhere.is_empty();
        let sources = join_all(last.sources.iter().map(|(_, source, _)| source.leave()));
        let _ = tokio::time::timeout(SETTLE, sources).await;
        let waits = move |sink: &dyn OpenSink| listens && is_everywhere(sink);
        let idle = last.sinks.iter().filter(|(_, sink)| !waits(&**sink));
        join_all(idle.map(|(_, sink)| sink.leave_if_idle())).await;
        let closing = async move {
            let ended = async {
                if tokio::time::timeout(FLUSH, join_all(elsewhere)).await.is_err() {
                    tracing::warn!(rule = last.id(), "the last results of other processes have not arrived in time");
                }
            };
            let ended = ended.shared();
            let sources = join_all(last.sources.iter().map(|(_, source, _)| source.close()));
            let sinks = join_all(last.sinks.iter().map(|(_, sink)| {
                let ended = ended.clone();
                async move {
                    if waits(&**sink) {
                        ended.await;
                    }
                    sink.close(FLUSH).await;
                }
            }));
            tokio::join!(sources, sinks);
            last.closed.store(true, Ordering::Release);
            for (part, op, cause, count) in last.losses().iter() {
                if cause == UNSENT || cause == UNPROCESSED {
                    tracing::warn!(rule = last.id(), part, op, "{}", loss(cause, count));
                }
            }
        };
        self.closings.spawn_on(closing, &self.control);
    }
}

/// Whether the clients of a sink also get results from other processes.
fn is_everywhere(sink: &dyn OpenSink) -> bool {
    matches!(sink.outlet(), SinkHandle::Messages(outlet) if outlet.is_everywhere())
}

/// The sources that ended with a rule, each with its number in the rule.
pub(super) fn ended_sources(
    rule: &RunningRule,
    ended: Vec<(StreamId, RunningStream)>,
) -> Vec<(usize, Arc<dyn OpenSource>, Backlog)> {
    let number = |id: &StreamId| rule.streams.iter().position(|own| own == id);
    let last = |(id, stream): (StreamId, RunningStream)| {
        let backlog = stream.backlog();
        Some((number(&id)?, stream.source?, backlog))
    };
    ended.into_iter().filter_map(last).collect()
}
