//! The status of rules and tables, including rules that have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use crate::dataflow::command::RuleKey;
use crate::io::queue::Backlog;
use crate::io::sink::OpenSink;
use crate::io::source::OpenSource;
use crate::io::websocket::ClientStatus;
use crate::io::{LinkStatus, UNPROCESSED, UNREAD};
use crate::metrics::{
    FeedCounts, Latency, Losses, MessageReader, RuleMetrics, SeenFields, TAPS, TapReader, TapSettings, Work, record,
};
use crate::plan::spread::Spread;
use crate::value::Text;

use super::{Engine, Home, Running, RunningRule, RunningSink, RunningTable, StreamId};

/// The status of a rule.
#[derive(Clone, Debug)]
pub struct RuleStatus {
    pub id: String,
    pub rows_in: u64,
    /// Messages given to its sinks.
    pub rows_out: u64,
    /// Rows and messages lost to errors.
    pub errors: u64,
    /// Messages that its sinks dropped.
    pub dropped: u64,
    /// Rows behind the watermark.
    pub late: u64,
    /// How its work is spread over the data threads.
    pub spread: Spread,
    /// The thread of its state; `None` if it has none, has it on several threads, or has it in another process.
    pub home: Option<usize>,
    /// Rows too far ahead of the clock.
    pub future: u64,
    /// What its streams noticed about their feeds.
    pub feed: FeedCounts,
    /// The event time up to which all rows have arrived, ms since the epoch; `None` before the first row.
    pub watermark: Option<i64>,
    pub last_error: Option<(SystemTime, String)>,
    /// Suspicious things about its rows.
    pub oddities: Vec<String>,
    pub work: Work,
    /// The latency from socket to sink.
    pub latency: Option<Latency>,
    /// With the streams' names.
    pub sources: Vec<(String, LinkStatus)>,
    pub sinks: Vec<LinkStatus>,
}

impl RuleStatus {
    pub fn losses(&self) -> Losses {
        let mut losses = Losses::default();
        self.sources.iter().for_each(|(stream, link)| losses.of_source(stream, &own(link)));
        self.sinks.iter().enumerate().for_each(|(number, link)| losses.of_sink(number, &link.dropped));
        losses
    }
}

/// Why the rows of a rule cannot be tapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTapped {
    /// the rule does not run
    #[error("the rule does not run")]
    NotRunning,
    /// the limit of taps is reached
    #[error("{TAPS} taps of the rule are open already: end one of them")]
    TooMany,
}

/// Why the messages of a stream cannot be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRecorded {
    #[error("no running rule reads it, so it has no messages: start one")]
    NotRead,
    #[error("the limit of recordings is reached: end one of them")]
    TooMany,
}

/// The status of a lookup table.
#[derive(Clone, Debug)]
pub struct TableStatus {
    pub name: String,
    pub rows_in: u64,
    /// Rows that the table refused.
    pub errors: u64,
    pub last_error: Option<(SystemTime, String)>,
    pub source: LinkStatus,
}

/// The status of a rule at its end. Its sinks may still be sending, so the counts of its links can still grow for a
/// moment.
pub struct LastStatus {
    /// The states of the links are those before they were closed.
    status: RuleStatus,
    /// Sources that ended with the rule, by number.
    pub(super) sources: Vec<(usize, Arc<dyn OpenSource>, Backlog)>,
    /// Sinks that ended with the rule, by number.
    pub(super) sinks: Vec<(usize, Arc<dyn OpenSink>)>,
    pub(super) closed: AtomicBool,
}

impl LastStatus {
    /// Makes the status of a rule that was just removed from its worker. The counts of sources and sinks that continue
    /// without it are final.
    pub(super) fn new(
        status: RuleStatus,
        sources: Vec<(usize, Arc<dyn OpenSource>, Backlog)>,
        sinks: Vec<(usize, Arc<dyn OpenSink>)>,
    ) -> Arc<LastStatus> {
        Arc::new(LastStatus { status, sources, sinks, closed: AtomicBool::new(false) })
    }

    pub(super) fn id(&self) -> &str {
        &self.status.id
    }

    /// The status with the current counts of its links.
    pub fn now(&self) -> RuleStatus {
        let mut status = self.status.clone();
        for (number, source, backlog) in &self.sources {
            let Some((_, link)) = status.sources.get_mut(*number) else { continue };
            let now = source.status();
            // Messages that were delivered but not processed are lost with the stream.
            let lost = if source.is_outside() { now.messages.saturating_sub(backlog.taken()) } else { 0 };
            (link.messages, link.bytes, link.dropped) = (now.messages, now.bytes, now.dropped);
            if lost > 0 && self.closed.load(Ordering::Acquire) {
                link.dropped.push((UNPROCESSED, lost));
            }
        }
        for (number, sink) in &self.sinks {
            let Some(link) = status.sinks.get_mut(*number) else { continue };
            let now = sink.status();
            (link.messages, link.bytes, link.dropped) = (now.messages, now.bytes, now.dropped);
            (link.queued, link.stored, link.unproven) = (now.queued, now.stored, now.unproven);
        }
        status.dropped = dropped(&status.sinks);
        status
    }

    /// Whether the counts are final: everything is closed, so no connection can count another message.
    pub fn is_final(&self) -> bool {
        let settled = |(_, sink): &(usize, Arc<dyn OpenSink>)| {
            let status = sink.status();
            status.queued == 0 && status.unproven == 0
        };
        self.closed.load(Ordering::Acquire) && self.sinks.iter().all(settled)
    }

    /// The losses of the links that ended with the rule; the other links count their own.
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

    /// Messages delivered by the sinks that ended with the rule.
    pub fn delivered(&self) -> u64 {
        self.sinks.iter().map(|(_, sink)| sink.status().messages).sum()
    }
}

impl Engine {
    /// The status of every rule, in the order of their starts.
    pub async fn status(&self) -> Vec<RuleStatus> {
        self.running().status()
    }

    /// The status of one rule; `None` if it does not run.
    pub async fn rule_status(&self, id: &str) -> Option<RuleStatus> {
        let running = self.running();
        running.rules.get(id).map(|rule| rule.status(id, running.sources(rule)))
    }

    /// The status of each source of a rule, with its stream; empty if the rule does not run.
    pub fn sources_of(&self, id: &str) -> Vec<(String, LinkStatus)> {
        let running = self.running();
        running.rules.get(id).map(|rule| running.sources(rule)).unwrap_or_default()
    }

    /// Taps the rows of a rule.
    ///
    /// # Errors
    /// [`NotTapped`]
    pub fn tap(&self, id: &str, settings: &TapSettings) -> Result<TapReader, NotTapped> {
        let running = self.running();
        let rule = running.rules.get(id).ok_or(NotTapped::NotRunning)?;
        rule.metrics.tap(settings).ok_or(NotTapped::TooMany)
    }

    /// Records all messages of a stream.
    ///
    /// # Errors
    /// [`NotRecorded`]
    pub fn record_stream(&self, name: &str) -> Result<MessageReader, NotRecorded> {
        let running = self.running();
        let reads = |rule: &RunningRule| rule.streams.iter().any(|stream| stream.name == name);
        let streams = running.rules.values().filter(|rule| reads(rule)).map(|rule| rule.metrics.streams(name));
        // Rules that are limited to fewer threads read the stream separately; the reading on the most threads has all
        // messages.
        let streams = streams.max_by_key(Vec::len).filter(|streams| !streams.is_empty()).ok_or(NotRecorded::NotRead)?;
        record(&streams).ok_or(NotRecorded::TooMany)
    }

    /// The clients of a rule's sinks, each with the sink's number.
    pub fn clients(&self, id: &str) -> Vec<(usize, ClientStatus)> {
        let running = self.running();
        let sinks = running.rules.get(id).map(|rule| rule.sinks.clone()).unwrap_or_default();
        drop(running);
        let of = |(number, sink): (usize, &RunningSink)| -> Vec<(usize, ClientStatus)> {
            sink.sink.clients().into_iter().map(|client| (number, client)).collect()
        };
        sinks.iter().enumerate().flat_map(of).collect()
    }

    /// The fields seen in the messages of a rule's streams, by stream; empty if the rule does not run.
    pub fn seen(&self, id: &str) -> Vec<(Text, SeenFields)> {
        let running = self.running();
        running.rules.get(id).map(|rule| rule.metrics.seen()).unwrap_or_default()
    }

    /// The fields seen in the messages of a stream; `None` if no rule reads it.
    pub fn seen_of_stream(&self, name: &str) -> Option<SeenFields> {
        let metrics: Vec<Arc<RuleMetrics>> = {
            let running = self.running();
            let reads = |rule: &RunningRule| rule.streams.iter().any(|stream| stream.name == name);
            running.rules.values().filter(|rule| reads(rule)).map(|rule| rule.metrics.clone()).collect()
        };
        let all = metrics.iter().flat_map(|metrics| metrics.seen());
        all.filter(|(stream, _)| stream == name).map(|(_, seen)| seen).max_by_key(|seen| seen.messages)
    }

    /// Rules whose code has panicked, with their numbers. They get no more rows, and must be stopped.
    pub fn failed(&self) -> Vec<(String, RuleKey)> {
        let running = self.running();
        let failed = running.rules.iter().filter(|(_, rule)| rule.metrics.has_failed());
        failed.map(|(id, rule)| (id.clone(), rule.key)).collect()
    }

    /// Rules whose watermark is far ahead of the clock because a stream was wrongly taken for simulated; each is
    /// returned once.
    pub fn misled(&self) -> Vec<String> {
        let running = self.running();
        running.rules.iter().filter(|(_, rule)| rule.metrics.take_misled()).map(|(id, _)| id.clone()).collect()
    }

    /// The number of the running version of a rule, the same in all processes: see [`Engine::prepare_rule_as`].
    pub fn number_of(&self, id: &str) -> Option<RuleKey> {
        self.running().rules.get(id).map(|rule| rule.key)
    }

    /// The status of every lookup table, in the order of creation.
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
        let mut rules: Vec<(&String, &RunningRule)> = self.rules.iter().map(|(id, rule)| (id, &**rule)).collect();
        rules.sort_unstable_by_key(|(_, rule)| rule.key);
        rules.into_iter().map(|(id, rule)| rule.status(id, self.sources(rule))).collect()
    }

    /// The status of a rule's sources, with the names of their streams.
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
        let has_home = self.division.is_none() || self.has_windows_apart();
        RuleStatus {
            id: id.to_owned(),
            rows_in: metrics.rows_in(),
            rows_out: metrics.messages_out.load(Ordering::Relaxed),
            errors: metrics.errors(),
            dropped: dropped(&sinks),
            late: metrics.late.load(Ordering::Relaxed),
            spread: self.spread.clone(),
            home: self.home.as_ref().filter(|_| has_home).map(Home::thread),
            future: metrics.future.load(Ordering::Relaxed),
            feed: metrics.feed(),
            watermark: metrics.watermark(),
            last_error: metrics.last_error(),
            oddities: metrics.oddities(),
            work: metrics.work(),
            latency: metrics.latency(),
            sources,
            sinks,
        }
    }
}

/// What a source has lost for its rules. A message that arrived while no rule read the endpoint counts for the
/// endpoint, which many rules may share.
fn own(link: &LinkStatus) -> Vec<(&'static str, u64)> {
    link.dropped.iter().filter(|(cause, _)| *cause != UNREAD).copied().collect()
}

fn dropped(sinks: &[LinkStatus]) -> u64 {
    sinks.iter().flat_map(|sink| &sink.dropped).map(|(_, count)| count).sum()
}
