//! How rules and tables stand, also rules that have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use crate::io::connector::{OpenSink, OpenSource};
use crate::io::queue::Backlog;
use crate::io::{LinkStatus, UNPROCESSED, UNREAD};
use crate::metrics::{FeedCounts, Latency, Losses, Work};
use crate::value::Text;

use super::{Engine, Running, RunningRule, RunningTable, StreamId};

/// How a rule stands.
#[derive(Clone, Debug)]
pub struct RuleStatus {
    /// its id
    pub id: String,
    /// rows that its streams brought
    pub rows_in: u64,
    /// messages handed to its sinks
    pub rows_out: u64,
    /// rows and messages lost to errors
    pub errors: u64,
    /// messages that its sinks dropped
    pub dropped: u64,
    /// rows behind the watermark
    pub late: u64,
    /// rows too far ahead of the clock
    pub future: u64,
    /// what its streams have noticed about their feeds
    pub feed: FeedCounts,
    /// event time up to which all rows have come, ms since the epoch; `None` before the first
    pub watermark: Option<i64>,
    /// the last error
    pub last_error: Option<(SystemTime, String)>,
    /// what its operators have done
    pub work: Work,
    /// from socket to sink
    pub latency: Option<Latency>,
    /// its sources, with the names of their streams
    pub sources: Vec<(String, LinkStatus)>,
    /// its sinks
    pub sinks: Vec<LinkStatus>,
}

impl RuleStatus {
    /// What its sources and sinks have lost.
    pub fn losses(&self) -> Losses {
        let mut losses = Losses::default();
        self.sources.iter().for_each(|(stream, link)| losses.of_source(stream, &own(link)));
        self.sinks.iter().enumerate().for_each(|(number, link)| losses.of_sink(number, &link.dropped));
        losses
    }
}

/// How a lookup table stands.
#[derive(Clone, Debug)]
pub struct TableStatus {
    /// its name
    pub name: String,
    /// rows that came
    pub rows_in: u64,
    /// rows that could not be taken
    pub errors: u64,
    /// the last error
    pub last_error: Option<(SystemTime, String)>,
    /// its source
    pub source: LinkStatus,
}

/// How a rule stood when it ended. Its sinks may still be sending what waits for their clients, so that what they count
/// goes on for a moment.
pub struct LastStatus {
    /// with the states of its links as they were before they were closed
    status: RuleStatus,
    /// sources that ended with the rule, by their number
    pub(super) sources: Vec<(usize, Arc<OpenSource>, Backlog)>,
    /// sinks that ended with the rule, by their number
    pub(super) sinks: Vec<(usize, Arc<OpenSink>)>,
    pub(super) closed: AtomicBool,
}

impl LastStatus {
    /// Of a rule that has just been taken off its worker. Sources and sinks that go on without it count no further.
    pub(super) fn new(
        status: RuleStatus,
        sources: Vec<(usize, Arc<OpenSource>, Backlog)>,
        sinks: Vec<(usize, Arc<OpenSink>)>,
    ) -> Arc<LastStatus> {
        Arc::new(LastStatus { status, sources, sinks, closed: AtomicBool::new(false) })
    }

    /// The status with what its links have counted up to now.
    pub fn now(&self) -> RuleStatus {
        let mut status = self.status.clone();
        for (number, source, backlog) in &self.sources {
            let Some((_, link)) = status.sources.get_mut(*number) else { continue };
            let now = source.status();
            // What was handed over and not taken went with the stream.
            let lost = if source.is_outside() { now.messages.saturating_sub(backlog.taken()) } else { 0 };
            (link.messages, link.bytes, link.dropped) = (now.messages, now.bytes, now.dropped);
            if lost > 0 && self.closed.load(Ordering::Acquire) {
                link.dropped.push((UNPROCESSED, lost));
            }
        }
        for (number, sink) in &self.sinks {
            let Some(link) = status.sinks.get_mut(*number) else { continue };
            let now = sink.status();
            (link.messages, link.bytes, link.dropped, link.queued) = (now.messages, now.bytes, now.dropped, now.queued);
        }
        status.dropped = dropped(&status.sinks);
        status
    }

    /// Whether the counts are the last ones: everything is closed, and nothing is in the hands of a connection any more
    /// that would still count it as delivered or lost.
    pub fn is_final(&self) -> bool {
        self.closed.load(Ordering::Acquire) && self.sinks.iter().all(|(_, sink)| sink.status().queued == 0)
    }

    /// What the links have lost that ended with the rule; those that go on count themselves.
    pub fn losses(&self) -> Losses {
        let status = self.now();
        let mut losses = Losses::default();
        for (number, ..) in &self.sources {
            status.sources.get(*number).iter().for_each(|(stream, link)| losses.of_source(stream, &own(link)));
        }
        for (number, _) in &self.sinks {
            status.sinks.get(*number).iter().for_each(|link| losses.of_sink(*number, &link.dropped));
        }
        losses
    }

    /// Messages that the sinks delivered which ended with the rule.
    pub fn delivered(&self) -> u64 {
        self.sinks.iter().map(|(_, sink)| sink.status().messages).sum()
    }
}

impl Engine {
    /// How every rule stands, in the order of their start.
    pub async fn status(&self) -> Vec<RuleStatus> {
        self.running().status()
    }

    /// How one rule stands; `None` if it does not run.
    pub async fn rule_status(&self, id: &str) -> Option<RuleStatus> {
        let running = self.running();
        running.rules.get(id).map(|rule| rule.status(id, running.sources(rule)))
    }

    /// The rules whose code has failed: they get no more rows, and wait to be stopped.
    pub fn failed(&self) -> Vec<String> {
        let running = self.running();
        running.rules.iter().filter(|(_, rule)| rule.metrics.has_failed()).map(|(id, _)| id.clone()).collect()
    }

    /// How every lookup table stands, in the order of their creation.
    pub fn tables(&self) -> Vec<TableStatus> {
        let running = self.running();
        let status = |(name, table): (&Text, &RunningTable)| {
            let (_, source) = table.copies.first()?;
            Some(TableStatus {
                name: name.to_string(),
                rows_in: table.metrics.rows_in(),
                errors: table.metrics.errors(),
                last_error: table.metrics.last_error(),
                source: source.status(),
            })
        };
        running.tables.iter().filter_map(status).collect()
    }
}

impl Running {
    pub(super) fn status(&self) -> Vec<RuleStatus> {
        let mut rules: Vec<(&String, &RunningRule)> = self.rules.iter().collect();
        rules.sort_unstable_by_key(|(_, rule)| rule.key);
        rules.into_iter().map(|(id, rule)| rule.status(id, self.sources(rule))).collect()
    }

    /// How the sources of a rule stand, with the names of their streams.
    pub(super) fn sources(&self, rule: &RunningRule) -> Vec<(String, LinkStatus)> {
        let source = |id: &StreamId| {
            let stream = self.streams.get(id)?;
            let status = stream.source.as_ref().map(|source| source.status()).or_else(|| stream.ended.clone())?;
            Some((id.name.to_string(), status))
        };
        rule.streams.iter().filter_map(source).collect()
    }
}

impl RunningRule {
    pub(super) fn status(&self, id: &str, sources: Vec<(String, LinkStatus)>) -> RuleStatus {
        let sinks: Vec<LinkStatus> = self.sinks.iter().map(|sink| sink.sink.status()).collect();
        let metrics = &self.metrics;
        RuleStatus {
            id: id.to_owned(),
            rows_in: metrics.rows_in(),
            rows_out: metrics.messages_out.load(Ordering::Relaxed),
            errors: metrics.errors(),
            dropped: dropped(&sinks),
            late: metrics.late.load(Ordering::Relaxed),
            future: metrics.future.load(Ordering::Relaxed),
            feed: metrics.feed(),
            watermark: metrics.watermark(),
            last_error: metrics.last_error(),
            work: metrics.work(),
            latency: metrics.latency(),
            sources,
            sinks,
        }
    }
}

/// What a source has lost for its rules. What came while no rule read the endpoint is of the endpoint, which many rules
/// may share.
fn own(link: &LinkStatus) -> Vec<(&'static str, u64)> {
    link.dropped.iter().filter(|(cause, _)| *cause != UNREAD).copied().collect()
}

fn dropped(sinks: &[LinkStatus]) -> u64 {
    sinks.iter().flat_map(|sink| &sink.dropped).map(|(_, count)| count).sum()
}
