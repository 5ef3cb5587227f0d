//! A rule's status in eKuiper's terms: counters for each of its operators.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::millis;
use super::processes::{RuleLook, Share};
use super::topology::{Part, Topology};
use crate::engine::RuleStatus;
use crate::io::{LinkHistory, LinkState, LinkStatus, NO_CLIENT, UNREAD, loss};
use crate::metrics::{Failure, Losses, Place};

/// The state of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Does not run, and should not.
    Stopped,
    /// About to run.
    Starting,
    /// Runs.
    Running,
    /// About to stop.
    Stopping,
    /// Waits for its schedule.
    Scheduled,
    /// Failed.
    Failed,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Stopped => "stopped",
            Phase::Starting => "starting",
            Phase::Running => "running",
            Phase::Stopping => "stopping",
            Phase::Scheduled => "stopped: waiting for next schedule.",
            Phase::Failed => "stopped by error",
        }
    }
}

/// The status of a rule.
#[derive(Clone, Debug)]
pub struct RuleReport {
    pub phase: Phase,
    /// Why it is in this state; may be empty.
    pub message: String,
    /// The time of its last start, ms since the epoch; 0: never.
    pub last_start: i64,
    pub last_stop: i64,
    /// The time of its next start; 0: it has no schedule.
    pub next_start: i64,
    /// Counters of its operators by name; empty if it has never run.
    pub parts: Vec<(String, Counters)>,
    /// The engine's counts, current or final.
    pub engine: Option<RuleStatus>,
    /// How far the watermark is behind the clock, ms. Only in event time.
    pub watermark_lag: Option<i64>,
    /// Messages lost in all runs, by operator and cause.
    pub losses: Losses,
    /// Errors of all operators.
    pub exceptions: u64,
    pub last_exception: String,
    /// With several processes: each one's share of these counts.
    pub shares: Vec<Share>,
    /// Details from the other processes, with their numbers, if they were requested.
    pub looks: Vec<(usize, RuleLook)>,
}

impl RuleReport {
    /// Adds up the errors of all operators.
    pub(super) fn sum_up(&mut self) {
        self.exceptions = self.parts.iter().map(|(_, counters)| counters.exceptions).sum();
        let last = self.parts.iter().filter_map(|(_, counters)| counters.last_exception.as_ref()).max();
        self.last_exception = last.map(|(_, text)| text.clone()).unwrap_or_default();
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub records_in: u64,
    pub records_out: u64,
    pub processed: u64,
    /// The median, µs.
    pub latency_us: u64,
    pub queued: usize,
    /// The time of its last run, ms since the epoch; 0: never.
    pub last_invocation: i64,
    pub exceptions: u64,
    /// With its time.
    pub last_exception: Option<(i64, String)>,
    /// The last errors of an operator, the oldest first.
    pub recent: Vec<Arc<Failure>>,
    /// For sources and sinks.
    pub link: Option<Link>,
    /// For sources and sinks: messages lost in all runs of the rule, by cause.
    pub dropped: Vec<(&'static str, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// 1: connected, 0: connecting, -1: disconnected.
    pub state: i8,
    /// The time of the last connect, ms since the epoch; 0: never.
    pub connected: i64,
    /// The time of the last loss of the connection.
    pub disconnected: i64,
    pub message: String,
    /// The time of the last dial.
    pub tried: i64,
}

/// The counts of a rule's sources at its start, since sources count for all their rules.
#[derive(Clone, Debug, Default)]
pub(super) struct Baseline(Box<[SourceBase]>);

#[derive(Clone, Copy, Debug, Default)]
struct SourceBase {
    messages: u64,
    /// Failed dials, and connections that ended with an error.
    failures: u64,
}

impl Baseline {
    /// From the status of each source.
    pub fn of(sources: &[(String, LinkStatus)]) -> Baseline {
        let base = |link: &LinkStatus| SourceBase { messages: link.messages, failures: link.history.failures };
        Baseline(sources.iter().map(|(_, link)| base(link)).collect())
    }
}

/// The counters of each operator; `losses` are those of all runs of the rule.
pub(super) fn counters(
    nodes: &Topology,
    status: &RuleStatus,
    base: &Baseline,
    losses: &Losses,
    ended: bool,
) -> Vec<(String, Counters)> {
    let received = |source: usize| {
        let name = nodes.sources.get(source)?;
        let at = status.sources.iter().position(|(known, _)| *known == name.as_str())?;
        let (stream, link) = &status.sources[at];
        let base = base.0.get(at).copied().unwrap_or_default();
        let messages = link.messages.saturating_sub(base.messages);
        Some((messages, link.history.failures.saturating_sub(base.failures), stream, link))
    };
    let work = &status.work;
    // An error whose operator is not shown counts for the last operator.
    let shown = |place: Place| match name(place) {
        Some(name) => nodes.has(name),
        None => true,
    };
    let faults = |here: &dyn Fn(Place) -> bool| {
        let mine = || work.faults.iter().filter(|fault| here(fault.place));
        let last = mine().max_by_key(|fault| fault.time).map(|fault| (millis(fault.time), fault.text.clone()));
        let mut recent: Vec<Arc<Failure>> = mine().flat_map(|fault| fault.recent.iter().cloned()).collect();
        recent.sort_by_key(|failure| failure.time);
        (mine().map(|fault| fault.count).sum::<u64>(), last, recent)
    };
    let latency_us = status.latency.map_or(0, |latency| latency.p50_us);
    let passed = |records_in, records_out| Counters {
        records_in,
        records_out,
        processed: records_in,
        latency_us,
        ..Counters::default()
    };
    let part = |part: Part| match part {
        Part::Source(source) => {
            let Some((messages, failures, stream, link)) = received(source) else {
                return Counters { link: Some(Link::unknown(ended)), ..Counters::default() };
            };
            let last = link.last_error.as_ref().filter(|_| failures > 0);
            let mut dropped = losses.of("source", stream);
            dropped.extend(link.dropped.iter().filter(|(cause, _)| *cause == UNREAD));
            let mut now = of_link(link, ended);
            // An endpoint of the data server may have no clients.
            if now.state == 1 && link.serves() && link.peers == 0 {
                now.state = 0;
            }
            Counters {
                exceptions: failures,
                last_exception: last.map(|(time, text)| (millis(*time), text.clone())),
                link: Some(now),
                last_invocation: work.received,
                dropped,
                ..passed(messages, messages)
            }
        }
        Part::Decoder(source) => {
            let messages = received(source).map_or(0, |(messages, ..)| messages);
            let here = |place| source == 0 && place == Place::Decoder;
            let (errors, last_exception, recent) = faults(&here);
            Counters {
                exceptions: errors,
                last_exception,
                recent,
                last_invocation: if messages > 0 { work.received } else { 0 },
                ..passed(messages, messages.saturating_sub(errors))
            }
        }
        Part::Operator { kind: operator, scan: first, last } => {
            let here = |place| match name(place) {
                Some(name) if shown(place) => name == operator,
                _ => last && !matches!(place, Place::Decoder | Place::Encode),
            };
            let (exceptions, last_exception, recent) = faults(&here);
            // Operators after the scan's filter get the rows that passed it.
            let filters = nodes.filters();
            let records_in = if first || !filters { status.rows_in } else { work.passed };
            let out = match (first, last) {
                (true, _) => work.passed,
                (_, true) => status.rows_out,
                _ => records_in.saturating_sub(exceptions),
            };
            Counters {
                exceptions,
                last_exception,
                recent,
                last_invocation: match (first, last) {
                    (true, _) => work.received,
                    (_, true) => work.handed,
                    _ => work.worked,
                },
                ..passed(records_in, out)
            }
        }
        Part::Sending { sink, encodes } => {
            // Encoding errors are not counted by sink.
            let (exceptions, last_exception, recent) = faults(&|place| sink == 0 && encodes && place == Place::Encode);
            Counters {
                exceptions,
                last_exception,
                recent,
                last_invocation: work.handed,
                ..passed(status.rows_out, status.rows_out)
            }
        }
        Part::Sink(sink) => {
            let Some(link) = status.sinks.get(sink) else { return Counters::default() };
            // A sink without clients is not an error: eKuiper counts such messages as sent.
            let lost = || link.dropped.iter().filter(|(cause, _)| *cause != NO_CLIENT);
            let dropped: u64 = lost().map(|(_, count)| count).sum();
            let why = lost().max_by_key(|(_, count)| *count).map(|(cause, count)| loss(cause, *count));
            let last = link.last_error.as_ref().map(|(time, text)| (millis(*time), text.clone()));
            let link_now = of_link(link, ended);
            Counters {
                queued: link.queued + link.stored,
                last_invocation: work.handed,
                exceptions: dropped,
                last_exception: last.or_else(|| why.map(|why| (millis(link.since), why))),
                link: Some(link_now),
                dropped: losses.of("sink", &sink.to_string()),
                ..passed(status.rows_out, status.rows_out)
            }
        }
    };
    nodes.each().map(|(name, kind)| (name.to_owned(), part(kind))).collect()
}

/// The name of the operator to which these errors belong.
fn name(place: Place) -> Option<&'static str> {
    (!matches!(place, Place::Decoder | Place::Encode)).then(|| place.as_str())
}

impl Link {
    fn unknown(ended: bool) -> Link {
        let state = if ended { -1 } else { 0 };
        Link { state, connected: 0, disconnected: 0, message: String::new(), tried: 0 }
    }
}

fn of_link(link: &LinkStatus, ended: bool) -> Link {
    let history = &link.history;
    let (failed, message) =
        link.last_error.as_ref().map_or((0, String::new()), |(at, text)| (millis(*at), text.clone()));
    // A source or sink inside this process is connected as long as it is open.
    let local = !link.serves() && *history == LinkHistory::default() && link.state == LinkState::Connected;
    let connected = if local { millis(link.since) } else { history.connected.map_or(0, millis) };
    let state = match link.state {
        _ if ended => -1,
        LinkState::Connected => 1,
        // After a failed dial it is disconnected, and will be dialled again.
        LinkState::Connecting if message.is_empty() => 0,
        LinkState::Connecting | LinkState::Disconnected => -1,
    };
    Link {
        state,
        connected,
        disconnected: history.disconnected.map_or(0, millis).max(failed),
        message,
        tried: connected.max(failed),
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::metrics::Work;
    use crate::plan::spread::Spread;

    fn link(dropped: &[(&'static str, u64)]) -> LinkStatus {
        LinkStatus { dropped: dropped.to_vec(), ..LinkStatus::new(":1/out", SystemTime::now()) }
    }

    #[test]
    fn a_message_without_a_client_is_no_exception() {
        for (dropped, exceptions, last) in [
            (&[(NO_CLIENT, 7)][..], 0, None),
            (&[(NO_CLIENT, 7), ("slow client", 1)], 1, Some("1 message dropped: slow client")),
            (&[("client left", 3), ("slow client", 2)], 5, Some("3 messages dropped: client left")),
        ] {
            let nodes = Topology::of_log();
            let status = RuleStatus {
                id: "r".to_owned(),
                rows_in: 9,
                rows_out: 9,
                errors: 0,
                dropped: 0,
                late: 0,
                spread: Spread::Alone,
                home: None,
                future: 0,
                feed: Default::default(),
                watermark: None,
                last_error: None,
                oddities: Vec::new(),
                work: Work::default(),
                latency: None,
                sources: Vec::new(),
                sinks: vec![link(dropped)],
            };
            let parts = counters(&nodes, &status, &Baseline::default(), &status.losses(), false);
            let (_, sink) = parts.iter().find(|(name, _)| name.starts_with("sink_")).expect("a sink");
            assert_eq!((sink.exceptions, sink.dropped.as_slice()), (exceptions, dropped));
            assert_eq!(sink.last_exception.as_ref().map(|(_, text)| text.as_str()), last);
        }
    }
}
