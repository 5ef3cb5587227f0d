//! The status of a rule over all processes: each reports its own counts, and process 0 adds them.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::super::Service;
use super::super::error::ServiceError;
use super::super::status::{Counters, Link, RuleReport};
use super::looks::RuleLook;
use crate::engine::RuleStatus;
use crate::io::LinkStatus;
use crate::metrics::{FeedCounts, FlowCounts, InputWork, Losses, Work, known_cause};

/// The counts of a rule in one process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PartReport {
    counts: Counts,
    feed: FeedCounts,
    watermark: Option<i64>,
    work: PartWork,
    parts: Vec<(String, PartCounters)>,
    /// Source or sink, its name, the cause, and the number of lost messages.
    losses: Vec<(String, String, String, u64)>,
    sources: Vec<(String, PartLink)>,
    sinks: Vec<PartLink>,
    /// details, if they were requested
    pub look: Option<RuleLook>,
}

/// The counts of the link of a source or sink.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct PartLink {
    peers: usize,
    messages: u64,
    bytes: u64,
    queued: usize,
    stored: usize,
    undelivered: u64,
    dropped: Vec<(String, u64)>,
    last_error: Option<(SystemTime, String)>,
}

/// What the operators of a rule have let through: without it, the diagnosis would see rows vanish.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct PartWork {
    passed: u64,
    received: i64,
    worked: i64,
    handed: i64,
    flow: FlowCounts,
    /// of each stream its name, its rows, the messages that could not be read, and when the last one arrived
    inputs: Vec<(String, u64, u64, i64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub rows_in: u64,
    pub rows_out: u64,
    pub errors: u64,
    pub dropped: u64,
    pub late: u64,
    pub future: u64,
}

/// One process's share of a rule's counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    pub process: usize,
    pub host: String,
    /// `None`: the process did not answer in time, so the sums lack its counts.
    pub counts: Option<Counts>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct PartCounters {
    records_in: u64,
    records_out: u64,
    processed: u64,
    latency_us: u64,
    queued: usize,
    last_invocation: i64,
    exceptions: u64,
    last_exception: Option<(i64, String)>,
    link: Option<Link>,
    dropped: Vec<(String, u64)>,
}

impl Counts {
    fn of(status: &RuleStatus) -> Counts {
        let RuleStatus { rows_in, rows_out, errors, dropped, late, future, .. } = *status;
        Counts { rows_in, rows_out, errors, dropped, late, future }
    }
}

impl PartReport {
    pub fn of(report: &RuleReport) -> PartReport {
        let part = |(name, counters): &(String, Counters)| {
            let Counters {
                records_in, records_out, processed, latency_us, queued, last_invocation, exceptions, ..
            } = *counters;
            let dropped = counters.dropped.iter().map(|(cause, count)| ((*cause).to_owned(), *count));
            let counters = PartCounters {
                records_in,
                records_out,
                processed,
                latency_us,
                queued,
                last_invocation,
                exceptions,
                last_exception: counters.last_exception.clone(),
                link: counters.link.clone(),
                dropped: dropped.collect(),
            };
            (name.clone(), counters)
        };
        let lost = report.losses.iter();
        PartReport {
            parts: report.parts.iter().map(part).collect(),
            losses: lost.map(|(part, name, cause, count)| (part.into(), name.into(), cause.into(), count)).collect(),
            ..report.engine.as_ref().map(PartReport::from_status).unwrap_or_default()
        }
    }

    /// The engine's counts of a rule or view.
    pub fn from_status(status: &RuleStatus) -> PartReport {
        let source = |(stream, link): &(String, LinkStatus)| (stream.clone(), PartLink::of(link));
        PartReport {
            counts: Counts::of(status),
            feed: status.feed,
            watermark: status.watermark,
            work: PartWork::of(&status.work),
            sources: status.sources.iter().map(source).collect(),
            sinks: status.sinks.iter().map(PartLink::of).collect(),
            ..PartReport::default()
        }
    }

    /// The same with details.
    pub fn with_look(self, look: Option<RuleLook>) -> PartReport {
        PartReport { look, ..self }
    }

    /// Adds these counts to those of process 0's engine.
    pub fn add_to_engine(&self, engine: &mut RuleStatus) {
        let Counts { rows_in, rows_out, errors, dropped, late, future } = self.counts;
        engine.rows_in += rows_in;
        engine.rows_out += rows_out;
        engine.errors += errors;
        engine.dropped += dropped;
        engine.late += late;
        engine.future += future;
        engine.feed = engine.feed.and(self.feed);
        engine.watermark = engine.watermark.max(self.watermark);
        self.work.add_to(&mut engine.work);
        for (stream, more) in &self.sources {
            if let Some((_, link)) = engine.sources.iter_mut().find(|(known, _)| known == stream.as_str()) {
                more.add_to(link);
            }
        }
        for (link, more) in engine.sinks.iter_mut().zip(&self.sinks) {
            more.add_to(link);
        }
    }

    /// Adds these counts to those of process 0.
    fn add_to(self, report: &mut RuleReport) {
        report.engine.iter_mut().for_each(|engine| self.add_to_engine(engine));
        let mut losses = Losses::default();
        for (part, name, cause, count) in &self.losses {
            losses.add_named(part, name, cause, *count);
        }
        report.losses.merge(&losses);
        for (name, more) in self.parts {
            if let Some((_, counters)) = report.parts.iter_mut().find(|(known, _)| *known == name) {
                more.add_to(counters);
            }
        }
    }
}

impl PartWork {
    fn of(work: &Work) -> PartWork {
        let input = |input: &InputWork| (input.stream.to_string(), input.rows, input.errors, input.received);
        let Work { passed, received, worked, handed, flow, ref inputs, .. } = *work;
        PartWork { passed, received, worked, handed, flow, inputs: inputs.iter().map(input).collect() }
    }

    fn add_to(&self, work: &mut Work) {
        work.passed += self.passed;
        work.received = work.received.max(self.received);
        work.worked = work.worked.max(self.worked);
        work.handed = work.handed.max(self.handed);
        work.flow.add(self.flow);
        for (stream, rows, errors, received) in &self.inputs {
            if let Some(input) = work.inputs.iter_mut().find(|input| input.stream.as_str() == stream.as_str()) {
                input.rows += rows;
                input.errors += errors;
                input.received = input.received.max(*received);
            }
        }
    }
}

impl PartLink {
    fn of(link: &LinkStatus) -> PartLink {
        let LinkStatus { peers, messages, bytes, queued, stored, undelivered, .. } = *link;
        let dropped = link.dropped.iter().map(|(cause, count)| ((*cause).to_owned(), *count)).collect();
        let last_error = link.last_error.clone();
        PartLink { peers, messages, bytes, queued, stored, undelivered, dropped, last_error }
    }

    fn add_to(&self, link: &mut LinkStatus) {
        link.peers += self.peers;
        link.messages += self.messages;
        link.bytes += self.bytes;
        link.queued += self.queued;
        link.stored += self.stored;
        link.undelivered += self.undelivered;
        link.last_error = link.last_error.take().max(self.last_error.clone());
        for (cause, count) in &self.dropped {
            add_loss(&mut link.dropped, cause, *count);
        }
    }
}

/// Adds lost messages to the counts by cause.
fn add_loss(dropped: &mut Vec<(&'static str, u64)>, cause: &str, count: u64) {
    let cause = known_cause(cause);
    match dropped.iter_mut().find(|(known, _)| *known == cause) {
        Some((_, known)) => *known += count,
        None => dropped.push((cause, count)),
    }
}

impl PartCounters {
    fn add_to(self, counters: &mut Counters) {
        counters.records_in += self.records_in;
        counters.records_out += self.records_out;
        counters.processed += self.processed;
        counters.latency_us = counters.latency_us.max(self.latency_us);
        counters.queued += self.queued;
        counters.last_invocation = counters.last_invocation.max(self.last_invocation);
        counters.exceptions += self.exceptions;
        counters.last_exception = counters.last_exception.take().max(self.last_exception);
        if let (Some(own), Some(other)) = (&mut counters.link, self.link)
            && (other.state, other.connected) > (own.state, own.connected)
        {
            *own = other;
        }
        for (cause, count) in self.dropped {
            add_loss(&mut counters.dropped, &cause, count);
        }
    }
}

impl Service {
    /// The status of a rule over all processes.
    ///
    /// # Errors
    /// [`ServiceError::NoRuleStatus`]
    pub async fn rule_report(&self, id: &str) -> Result<RuleReport, ServiceError> {
        let mut reports = vec![(id.to_owned(), self.rule_status(id).await?)];
        self.add_shares(&mut reports, true).await;
        Ok(reports.remove(0).1)
    }

    /// The status of all rules over all processes, by id.
    pub async fn rule_reports(&self) -> Vec<(String, RuleReport)> {
        let mut reports = Vec::new();
        for rule in self.rules() {
            // It may have been deleted in between.
            if let Ok(report) = self.rule_status(&rule.id).await {
                reports.push((rule.id, report));
            }
        }
        self.add_shares(&mut reports, false).await;
        reports
    }

    /// Adds the counts of the other processes.
    async fn add_shares(&self, reports: &mut [(String, RuleReport)], look: bool) {
        let ids: Vec<String> = reports.iter().map(|(id, _)| id.clone()).collect();
        let Some(followers) = self.followers() else { return };
        let elsewhere = self.reports_elsewhere(&ids, look).await;
        for (_, report) in reports.iter_mut() {
            let counts = Some(report.engine.as_ref().map(Counts::of).unwrap_or_default());
            report.shares.push(Share { process: super::LEADER, host: followers.host.clone(), counts });
        }
        for (process, host, answer) in elsewhere {
            let silent = answer.is_none();
            let mut answer = answer.into_iter().flatten();
            for (_, report) in reports.iter_mut() {
                let mut part = answer.next().flatten().unwrap_or_default();
                report.looks.extend(part.look.take().map(|look| (process, look)));
                let counts = (!silent).then_some(part.counts);
                report.shares.push(Share { process, host: host.to_owned(), counts });
                part.add_to(report);
            }
        }
        for (_, report) in reports.iter_mut() {
            report.sum_up();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_processes_add_up() {
        let link =
            |state, connected| Some(Link { state, connected, disconnected: 0, message: String::new(), tried: 0 });
        let mut own = Counters { records_in: 3, queued: 1, dropped: vec![("slow client", 2)], ..Counters::default() };
        (own.link, own.last_exception) = (link(0, 0), Some((5, "early".to_owned())));
        let other = PartCounters {
            records_in: 4,
            exceptions: 1,
            last_exception: Some((7, "late".to_owned())),
            link: link(1, 9),
            dropped: vec![("slow client".to_owned(), 1), ("client left".to_owned(), 6)],
            ..PartCounters::default()
        };
        other.add_to(&mut own);
        assert_eq!((own.records_in, own.exceptions, own.queued), (7, 1, 1));
        assert_eq!(own.last_exception, Some((7, "late".to_owned())));
        assert_eq!(own.dropped, [("slow client", 3), ("client left", 6)]);
        assert_eq!(own.link, link(1, 9), "the process that is connected is shown");
    }
}
