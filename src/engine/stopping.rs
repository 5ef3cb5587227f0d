//! How a rule stops: nothing more is read for it, what was read is run, its state is given away, and it is gone.
//!
//! Its sinks go on sending what waits for their clients for up to the flush limit. Nobody waits for that: what they lose
//! is counted in the rule's [`LastStatus`], and said in the log.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use crate::dataflow::command::{Command, Leaving, StateAnswer, StreamKey};
use crate::io::connector::OpenSource;
use crate::io::queue::Backlog;
use crate::io::{UNPROCESSED, UNSENT, loss};

use super::{Engine, FLUSH, LastStatus, RunningRule, RunningStream, SETTLE, StreamId};

/// A rule that has ended.
pub struct Stopped {
    /// how it stood
    pub last: Arc<LastStatus>,
    /// its last state, if it was asked for; `None` where there is nothing to keep that is not kept
    pub saved: StateAnswer,
}

impl Engine {
    /// Ends a rule; `None` if there is none. What its windows hold is forgotten unless `save` asks for its state.
    pub async fn stop_rule(&self, id: &str, save: bool) -> Option<Stopped> {
        let (rule, alone, sources) = {
            let mut running = self.running();
            let rule = running.rules.remove(id)?;
            let sources = running.sources(&rule);
            let alone = running.leave(&rule.streams);
            (rule, alone, sources)
        };
        // A source that others read goes on: the rule leaves between two messages.
        let handing = alone.iter().filter_map(|(_, stream)| stream.source.as_ref()).map(|source| {
            source.detach();
            source.handed_over()
        });
        let _ = tokio::time::timeout(SETTLE, join_all(handing)).await;
        let ends: Vec<StreamKey> = alone.iter().map(|(_, stream)| stream.key).collect();
        let save = save.then(|| rule.kept.load(Ordering::Relaxed));
        let leaving = Leaving { rule: rule.key, settle: Vec::new(), ends, save };
        let (done, gone) = oneshot::channel();
        self.threads[rule.thread].command(Command::DropRule { leaving, done });
        let saved = gone.await.ok().flatten();
        self.wake(&rule.streams);
        let status = rule.status(id, sources);
        let sinks = rule.sinks.iter().map(|sink| sink.sink.clone()).enumerate().collect();
        let last = LastStatus::new(status, ended_sources(&rule, alone), sinks);
        self.close_in_time(last.clone()).await;
        Some(Stopped { last, saved })
    }

    /// Wakes streams that a sink may have made wait which is gone: nobody else would.
    pub(super) fn wake(&self, streams: &[StreamId]) {
        let running = self.running();
        streams.iter().filter_map(|id| running.streams.get(id)).for_each(|stream| stream.signal.raise());
    }

    /// Closes the links of a rule that has ended: those that need nobody for it now, the others in their time. The log
    /// says what they have lost by then.
    pub(super) async fn close_in_time(&self, last: Arc<LastStatus>) {
        self.ledger.ends(last.clone());
        let sources = join_all(last.sources.iter().map(|(_, source, _)| source.leave()));
        let _ = tokio::time::timeout(SETTLE, sources).await;
        join_all(last.sinks.iter().map(|(_, sink)| sink.leave_if_idle())).await;
        let closing = async move {
            let sources = join_all(last.sources.iter().map(|(_, source, _)| source.close()));
            let sinks = join_all(last.sinks.iter().map(|(_, sink)| sink.close(FLUSH)));
            tokio::join!(sources, sinks);
            last.closed.store(true, Ordering::Release);
            let status = last.now();
            for (part, op, cause, count) in last.losses().iter() {
                if cause == UNSENT || cause == UNPROCESSED {
                    tracing::warn!(rule = status.id, part, op, "{}", loss(cause, count));
                }
            }
        };
        self.closings.spawn_on(closing, &self.control);
    }
}

/// The sources that ended with a rule, by their number among the rule's sources.
pub(super) fn ended_sources(
    rule: &RunningRule,
    ended: Vec<(StreamId, RunningStream)>,
) -> Vec<(usize, Arc<OpenSource>, Backlog)> {
    let number = |id: &StreamId| rule.streams.iter().position(|own| own == id);
    ended.into_iter().filter_map(|(id, stream)| Some((number(&id)?, stream.source?, stream.backlog))).collect()
}
