//! The operators of a rule with the numbers of rows that entered, left and were lost, for the details of one rule.
//!
//! The names are those of the status and the topology. The status shows eKuiper's counters, some of which are derived;
//! here each number is counted at its operator.

use std::sync::Arc;

use super::status::{Counters, RuleReport};
use super::topology::{Part, Topology};
use crate::metrics::{Failure, Point};

#[derive(Clone, Debug, PartialEq)]
pub struct OperatorReport {
    /// its name, such as `op_2_filter`
    pub name: String,
    /// its kind: source, decoder, filter, window, …, sink
    pub kind: String,
    /// rows or messages that entered
    pub records_in: u64,
    /// rows, windows, results or messages that left
    pub records_out: u64,
    /// those lost to an error
    pub errors: u64,
    /// the last errors with their causes, the oldest first
    pub recent: Vec<Arc<Failure>>,
    /// the point at which its rows can be tapped
    pub tap: Option<Point>,
    /// the operators after it
    pub to: Vec<String>,
}

/// The operators of a rule that has run at least once.
pub(super) fn operators(nodes: &Topology, report: &RuleReport) -> Vec<OperatorReport> {
    let Some(status) = &report.engine else { return Vec::new() };
    let (work, flow) = (&status.work, &status.work.flow);
    let counters = |name: &str| report.parts.iter().find(|(known, _)| known == name).map(|(_, counters)| counters);
    let operator = |(name, part, to): (&str, Part, Vec<&str>)| {
        let Counters { records_in, records_out, exceptions, recent, .. } = counters(name).cloned().unwrap_or_default();
        let kind = match part {
            Part::Source(_) => "source",
            Part::Decoder(_) => "decoder",
            Part::Operator { kind, .. } => kind,
            Part::Sending { .. } => name.rsplit('_').next().unwrap_or("encode"),
            Part::Sink(_) => "sink",
        };
        let (records_in, records_out) = match (kind, part) {
            ("filter", Part::Operator { scan: false, .. }) if nodes.stateful => (flow.filter_in, flow.filter_out),
            ("windowFilter", _) => (flow.filter_in, flow.window_in),
            ("watermark", _) => (work.passed + status.late + status.future, work.passed),
            ("window", _) => (flow.window_in, flow.windows),
            ("having", _) if nodes.stateful => (flow.having_in, flow.having_out),
            ("aggregate", _) if nodes.stateful && nodes.has("having") => (flow.window_in, flow.having_in),
            ("aggregate", _) if nodes.stateful => (flow.window_in, flow.results),
            ("order" | "windowFunc", _) if nodes.stateful => (flow.results, flow.results),
            ("project" | "projectset", _) if nodes.stateful => (flow.results, flow.results),
            _ => (records_in, records_out),
        };
        OperatorReport {
            name: name.to_owned(),
            kind: kind.to_owned(),
            records_in,
            records_out,
            errors: exceptions,
            recent,
            tap: Point::of(name),
            to: to.into_iter().map(str::to_owned).collect(),
        }
    };
    nodes.nodes().map(operator).collect()
}
