//! How a rule uses several data threads: independently on each, with merged groups, with the state of some keys on
//! each, or with its rows on one.

use std::fmt;
use std::sync::Arc;

use super::physical::{Body, ColumnSource, Input, RulePlan, Stateful, StepKind, WindowSpec};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Each thread runs it on the messages of its own sockets.
    Everywhere,
    /// Each thread accumulates the messages of its own sockets; one thread merges the groups.
    Partial,
    /// Each thread has the state of some keys, and rows go to the thread of their key. The text names the key.
    Exchange(Arc<str>),
    /// Each thread scans, and one thread gets the rows.
    Gather(Reason),
    /// One thread does everything, as with the option `concurrency: 1`.
    Alone,
}

/// Why one thread gets the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    View,
    Connected,
    Joins,
    Hits,
    Pauses,
    Memory,
    Elements,
    Time,
    Rows,
    Around,
    Gaps,
    Count,
    State,
    Kept,
    Order,
}

/// How the rule with this plan is spread.
pub fn of(plan: &RulePlan) -> Spread {
    if plan.concurrency.is_some_and(|workers| workers.get() == 1) {
        return Spread::Alone;
    }
    if plan.inputs.iter().any(|input| input.stream.view.is_some()) {
        return Spread::Gather(Reason::Connected);
    }
    match &plan.body {
        Body::Rows(_) => Spread::Everywhere,
        Body::View(_) => Spread::Gather(Reason::View),
        Body::Stateful(body) if body.merges => Spread::Partial,
        Body::Stateful(body) if !body.exchange.is_empty() => Spread::Exchange(key(body, &plan.inputs).into()),
        Body::Stateful(body) => Spread::Gather(reason(body)),
    }
}

/// The columns of the key by which the state is divided; where rows are joined, of each stream.
fn key(body: &Stateful, inputs: &[Input]) -> String {
    let joined = body.exchange.iter().filter(|key| !key.is_empty()).count() > 1;
    let names = inputs.iter().zip(&body.exchange).flat_map(|(input, slots)| {
        slots.iter().map(|slot| match input.scan.columns.get(*slot).map(|column| &column.source) {
            Some(ColumnSource::Key(name)) if joined => format!("{}.{name}", input.stream.name),
            Some(ColumnSource::Key(name)) => name.to_string(),
            Some(ColumnSource::Whole) => input.stream.name.to_string(),
            Some(ColumnSource::Meta | ColumnSource::Topic) => "meta".to_owned(),
            None => format!("${}", input.slots.start + slot),
        })
    });
    names.collect::<Vec<_>>().join(if joined { " = " } else { ", " })
}

/// Why the groups of a rule cannot be merged.
fn reason(body: &Stateful) -> Reason {
    if !body.joins.is_empty() {
        return Reason::Joins;
    }
    if body.counts_hits {
        return Reason::Hits;
    }
    match body.window {
        WindowSpec::Sliding { .. } => return Reason::Around,
        WindowSpec::Session { .. } => return Reason::Gaps,
        WindowSpec::Count { .. } => return Reason::Count,
        WindowSpec::State { .. } => return Reason::State,
        WindowSpec::Each | WindowSpec::Hopping { .. } => {}
    }
    if body.steps.iter().any(|step| matches!(step.kind, StepKind::Analytic(_))) {
        return Reason::Memory;
    }
    match body.window {
        _ if body.steps.iter().any(|step| matches!(step.kind, StepKind::Elements(_))) => Reason::Elements,
        WindowSpec::Each if body.event_time.is_some() => Reason::Time,
        WindowSpec::Each => Reason::Rows,
        _ if !body.incremental => Reason::Kept,
        _ if body.ordered => Reason::Order,
        _ => Reason::Pauses,
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spread::Everywhere => f.write_str("on every worker"),
            Spread::Partial => f.write_str("partial → final"),
            Spread::Exchange(key) => write!(f, "exchange by ({key})"),
            Spread::Gather(reason) => write!(f, "gather on one worker: {reason}"),
            Spread::Alone => f.write_str("on one worker"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::View => "a view has its rows on one thread",
            Reason::Connected => "views, and what reads them, take a change in one step",
            Reason::Joins => "rows are joined",
            Reason::Hits => "it reads what it has sent before",
            Reason::Pauses => "delay() makes it pause",
            Reason::Memory => "an analytic function remembers earlier rows",
            Reason::Elements => "unnest() makes several rows of one before the window",
            Reason::Time => "rows wait for their time",
            Reason::Rows => "each row is a result of its own",
            Reason::Around => "a window is around each row",
            Reason::Gaps => "a gap between rows ends a window",
            Reason::Count => "rows are counted in their order",
            Reason::State => "a condition on rows begins and ends a window",
            Reason::Kept => "the window keeps its rows",
            Reason::Order => "the result depends on the order of rows",
        })
    }
}
