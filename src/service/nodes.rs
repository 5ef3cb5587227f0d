//! How the parts of a rule are called where eKuiper shows them: in its status, its topology and its plan.
//!
//! Plutino fuses what eKuiper runs one after the other, so that these names are a view of the plan: a status counts for
//! each of them what is known of it.

use crate::plan::physical::{Body, RulePlan, WindowSpec};
use crate::sql::ast::{Field, JoinKind, Select};
use crate::value::Text;

/// The parts of one rule, in the order of the flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nodes {
    /// the streams and tables
    pub sources: Box<[Text]>,
    /// what follows the decoders: filter, window, …, project
    pub operators: Box<[&'static str]>,
    /// kinds of the sinks
    pub sinks: Box<[Box<str>]>,
}

/// What a part does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// brings messages: which of the rule's sources
    Source(usize),
    /// decodes them
    Decoder(usize),
    /// works on rows: its kind, and whether it is the last one
    Operator(&'a str, bool),
    /// makes messages of results for a sink, or encodes them: which sink
    Sending(usize),
    /// sends
    Sink(usize),
}

impl Nodes {
    /// The parts of a plan with sinks of these kinds.
    pub fn of<'a>(plan: &RulePlan, sinks: impl Iterator<Item = &'a str>) -> Nodes {
        let mut operators = Vec::new();
        if plan.inputs.iter().any(|input| input.scan.filter.is_some()) {
            operators.push("filter");
        }
        if let Body::Stateful(stateful) = &plan.body {
            for (there, name) in [
                (!stateful.steps.is_empty(), "analytic"),
                (!matches!(stateful.window, WindowSpec::Each), "window"),
                (!stateful.joins.is_empty(), "join"),
                (stateful.filter.is_some() || stateful.joined_filter.is_some(), "filter"),
                (stateful.grouped, "aggregate"),
                (stateful.having.is_some(), "having"),
                (!stateful.order.is_empty(), "order"),
            ] {
                if there && !operators.contains(&name) {
                    operators.push(name);
                }
            }
        }
        operators.push("project");
        Nodes {
            sources: plan.inputs.iter().map(|input| input.stream.name.clone()).collect(),
            operators: operators.into(),
            sinks: sinks.map(Box::from).collect(),
        }
    }

    /// All parts with their names (`source_demo`, `op_2_decoder`, …), in order.
    pub fn each(&self) -> Vec<(String, Part<'_>)> {
        let mut parts = Vec::new();
        let mut number = 0;
        for (index, source) in self.sources.iter().enumerate() {
            number += 2;
            parts.push((format!("source_{source}"), Part::Source(index)));
            parts.push((format!("op_{number}_decoder"), Part::Decoder(index)));
        }
        for (index, operator) in self.operators.iter().enumerate() {
            number += 1;
            let last = index + 1 == self.operators.len();
            parts.push((format!("op_{number}_{operator}"), Part::Operator(operator, last)));
        }
        for (index, sink) in self.sinks.iter().enumerate() {
            parts.push((format!("op_{sink}_{index}_0_transform"), Part::Sending(index)));
            parts.push((format!("op_{sink}_{index}_1_encode"), Part::Sending(index)));
            parts.push((format!("sink_{sink}_{index}"), Part::Sink(index)));
        }
        parts
    }

    /// Which part hands on to which: names of the sources, then each part with those behind it.
    pub fn topology(&self) -> (Vec<String>, Vec<(String, Vec<String>)>) {
        let parts = self.each();
        let name = |wanted: &dyn Fn(&Part) -> bool| parts.iter().find(|(_, part)| wanted(part)).map(|(name, _)| name);
        let first = name(&|part| matches!(part, Part::Operator(..))).cloned();
        let sending: Vec<String> =
            (0..self.sinks.len()).filter_map(|sink| name(&|part| *part == Part::Sending(sink)).cloned()).collect();
        let mut edges = Vec::new();
        for (index, (from, part)) in parts.iter().enumerate() {
            let next = parts.get(index + 1).map(|(name, _)| name.clone());
            let to = match part {
                Part::Decoder(_) => first.iter().cloned().collect(),
                Part::Operator(_, true) => sending.clone(),
                Part::Sink(_) => continue,
                _ => next.into_iter().collect(),
            };
            edges.push((from.clone(), to));
        }
        let sources = self.sources.iter().map(|source| format!("source_{source}")).collect();
        (sources, edges)
    }
}

/// The plan of a statement as eKuiper shows it: a line of JSON for each part, the last one first, those before it
/// indented.
pub fn explain(select: &Select) -> String {
    let list =
        |items: Vec<String>| if items.is_empty() { "[ ]".to_owned() } else { format!("[ {} ]", items.join(", ")) };
    let shown = |field: &Field| match field {
        Field::Expr { expr, alias: Some(alias), .. } => format!("{expr} AS {alias}"),
        field => field.to_string(),
    };
    let mut parts = vec![("ProjectPlan", format!("Fields:{}", list(select.fields.iter().map(shown).collect())))];
    if !select.order_by.is_empty() {
        let keys = select.order_by.iter().map(ToString::to_string).collect();
        parts.push(("OrderPlan", format!("SortFields:{}", list(keys))));
    }
    if let Some(having) = &select.having {
        parts.push(("HavingPlan", format!("Condition:{{ {having} }}")));
    }
    if !select.group_by.is_empty() {
        let keys = select.group_by.iter().map(ToString::to_string).collect();
        parts.push(("AggregatePlan", format!("Dimension:{}", list(keys))));
    }
    if let Some(filter) = &select.filter {
        parts.push(("FilterPlan", format!("Condition:{{ {filter} }}")));
    }
    if !select.joins.is_empty() {
        let joins = select.joins.iter().map(|join| {
            let on = join.on.as_ref().filter(|_| join.kind != JoinKind::Cross);
            format!("{} {}{}", join.kind, join.source, on.map_or_else(String::new, |on| format!(" ON {on}")))
        });
        parts.push(("JoinPlan", format!("Joins:{}", list(joins.collect()))));
    }
    if let Some(window) = &select.window {
        parts.push(("WindowPlan", format!("{{ {window} }}")));
    }
    let mut lines = String::new();
    let mut line = |depth: usize, number: usize, op: &str, info: &str| {
        let part = serde_json::json!({"op": format!("{op}_{number}"), "info": info});
        lines.push_str(&"   ".repeat(depth));
        lines.push_str(&part.to_string());
        lines.push('\n');
    };
    for (number, (op, info)) in parts.iter().enumerate() {
        line(number, number, op, info);
    }
    let sources = std::iter::once(&select.from).chain(select.joins.iter().map(|join| &join.source));
    for (index, source) in sources.enumerate() {
        let info = format!("StreamName: {}", source.name.name);
        line(parts.len(), parts.len() + index, "DataSourcePlan", &info);
    }
    lines
}
