//! Plans as text, for people: first what the rule means, then what a worker does.
//!
//! Each step stands above the one that it takes its rows from.

use std::fmt::Write;

use super::logical::{AGGREGATES, ALIASES, Logical, Output, OutputValue};
use super::physical::*;
use crate::expr::{Expr, cast};
use crate::value::Value;

/// Both plans of a rule.
pub fn explain(logical: &Logical, plan: &RulePlan) -> String {
    let mut page = Page::default();
    page.line(0, "logical");
    explain_logical(logical, &mut page);
    page.line(0, "physical");
    explain_physical(plan, &mut page);
    page.text
}

/// A text of indented lines.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, depth: usize, line: impl AsRef<str>) {
        // Writing into a text does not fail.
        let _ = writeln!(self.text, "{:width$}{}", "", line.as_ref(), width = depth * 2);
    }
}

fn explain_logical(logical: &Logical, page: &mut Page) {
    let name = |slot: usize| match slot {
        AGGREGATES.. => call(&logical.aggregates[slot - AGGREGATES], &|slot| column_or_alias(logical, slot)),
        _ => column_or_alias(logical, slot),
    };
    let show = |expr: &Expr| expr.display_with(&name).to_string();
    let value = |value: &OutputValue| match value {
        OutputValue::Alias(alias) => show(&logical.aliases[*alias].expr),
        OutputValue::Expr(expr) => show(expr),
    };
    let fields: Vec<String> = logical
        .fields
        .iter()
        .map(|field| match field {
            Output::Star { except, .. } => star(except),
            Output::Field { name, plain: true, .. } => name.to_string(),
            Output::Field { name, value: v, .. } => format!("{} AS {name}", value(v)),
            Output::Hidden(v) => format!("{} INVISIBLE", value(v)),
        })
        .collect();
    let mut depth = 1;
    let mut step = |line: String| {
        page.line(depth, line);
        depth += 1;
    };
    if let Some(limit) = logical.limit {
        step(format!("limit {limit}"));
    }
    step(format!("project {}", fields.join(", ")));
    if let Some(having) = &logical.having {
        step(format!("having {}", show(having)));
    }
    if logical.grouped {
        let keys: Vec<String> = logical.keys.iter().map(show).collect();
        step(if keys.is_empty() { "aggregate".to_owned() } else { format!("group by {}", keys.join(", ")) });
    }
    if let Some(filter) = &logical.filter {
        step(format!("filter {}", show(filter)));
    }
    if let Some(window) = &logical.window {
        step(spec(window));
    }
    if let Some(admit) = &logical.admit {
        step(format!("filter before the window {}", show(admit)));
    }
    step(format!("stream {}", logical.stream.name));
}

fn column_or_alias(logical: &Logical, slot: usize) -> String {
    match slot {
        ALIASES.. => logical.aliases[slot - ALIASES].name.to_string(),
        _ => source(&logical.columns[slot].source),
    }
}

fn explain_physical(plan: &RulePlan, page: &mut Page) {
    let mut depth = 1;
    match &plan.body {
        Body::Rows(projection) => {
            project(projection, page, depth);
            if !projection.sends {
                page.line(depth + 1, "nothing is sent");
            }
        }
        Body::Window(window) => {
            project(&window.projection, page, depth);
            if let Some(limit) = window.limit {
                page.line(depth + 1, format!("limit {limit}"));
            }
            if let Some(having) = &window.having {
                page.line(depth + 1, format!("having {having}"));
            }
            depth += 1;
            page.line(depth, spec(&window.window));
            explain_window(window, page, depth + 1);
        }
    }
    explain_scan(plan, page, depth + 1);
}

fn project(projection: &Projection, page: &mut Page, depth: usize) {
    page.line(depth, "project");
    for item in &projection.items {
        page.line(
            depth + 1,
            match item {
                Item::Star { slot, except } => format!("${slot} {}", star(except)),
                Item::Field { name, expr, plain } => {
                    format!("{name} = {expr}{}", if *plain { ", null is sent" } else { "" })
                }
                Item::Hidden { expr } => format!("{expr}, not sent"),
            },
        );
    }
}

fn explain_window(window: &WindowPlan, page: &mut Page, depth: usize) {
    if let Some(admit) = &window.admit {
        page.line(depth, format!("before it: {}", filter(admit)));
    }
    if let Some(after) = &window.filter {
        page.line(depth, format!("its rows: {}", filter(after)));
    }
    if window.grouped {
        let keys: Vec<String> = window.keys.iter().map(Expr::to_string).collect();
        page.line(depth, if keys.is_empty() { "one group".to_owned() } else { format!("keys {}", keys.join(", ")) });
    }
    for (index, aggregate) in window.aggregates.iter().enumerate() {
        let text = call(aggregate, &|slot| format!("${slot}"));
        page.line(depth, format!("${} = {text}", window.row_slots + index));
    }
    if !window.kept_slots.is_empty() {
        let kept: Vec<String> = window.kept_slots.iter().map(|slot| format!("${slot}")).collect();
        page.line(depth, format!("keeps {}", kept.join(", ")));
    }
}

fn explain_scan(plan: &RulePlan, page: &mut Page, depth: usize) {
    let scan = &plan.scan;
    page.line(depth, format!("scan {}", plan.stream.name));
    for (slot, column) in scan.columns.iter().enumerate() {
        let ty = column.ty.as_ref().map(|ty| format!(": {ty}")).unwrap_or_default();
        page.line(depth + 1, format!("${slot} = {}{ty}", source(&column.source)));
    }
    for (index, expr) in scan.computed.iter().enumerate() {
        let when = if index < scan.computed_for_filter { ", before the filter" } else { "" };
        page.line(depth + 1, format!("${} = {expr}{when}", scan.columns.len() + index));
    }
    if let Some(conditions) = &scan.filter {
        page.line(depth + 1, filter(conditions));
    }
    if let Some(event_time) = &scan.event_time {
        page.line(depth + 1, format!("event time ${}, {} ms late", event_time.slot, event_time.late_tolerance));
    }
}

fn filter(filter: &Filter) -> String {
    let constant = |value: &Value| Expr::Constant(value.clone());
    let mut parts: Vec<String> =
        filter.tests.iter().map(|t| format!("test ${} {} {}", t.slot, t.op.sign(), constant(&t.constant))).collect();
    parts.extend(filter.rest.iter().map(|rest| format!("filter {rest}")));
    parts.join(", ")
}

fn spec(window: &WindowSpec) -> String {
    match window {
        WindowSpec::Tumbling { unit, length } => format!("tumbling window of {length} {unit}"),
        WindowSpec::Count { length, interval } => format!("count window of {length} every {interval}"),
    }
}

fn star(except: &[crate::value::Text]) -> String {
    if except.is_empty() { "*".to_owned() } else { format!("* except {}", except.join(", ")) }
}

fn source(source: &ColumnSource) -> String {
    match source {
        ColumnSource::Key(key) => key.to_string(),
        ColumnSource::Whole => "*".to_owned(),
    }
}

fn call(call: &AggregateCall, names: &dyn Fn(usize) -> String) -> String {
    let arg = call.arg.as_ref().map_or("*".to_owned(), |arg| arg.display_with(names).to_string());
    let option = call.aggregate.option().map_or_else(String::new, |option| format!(", {}", cast::text(&option)));
    format!("{}({arg}{option})", call.aggregate)
}
