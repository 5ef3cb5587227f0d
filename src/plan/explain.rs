//! Plans as text: first the logical plan, then the physical one.
//!
//! Each step is printed above the step that feeds it.

use std::fmt::Write;

use super::logical::{Logical, Output, OutputValue, SlotRef};
use super::physical::*;
use super::spread::Spread;
use crate::definition::stream::{RelationKind, StreamDef};
use crate::expr::Expr;
use crate::value::Value;
use crate::value::cast;

/// Both plans of a rule, and how it uses data threads.
pub fn explain(logical: &Logical, plan: &RulePlan, spread: Spread) -> String {
    let mut page = Page::default();
    page.line(0, "logical");
    explain_logical(logical, &mut page);
    page.line(0, "physical");
    explain_physical(plan, logical.window.is_some(), spread, &mut page);
    page.text
}

/// The parts of a plan that determine its state.
pub(super) fn state(body: &Stateful, inputs: &[Input]) -> String {
    let mut page = Page::default();
    page.line(0, spec(&body.window, &plain));
    explain_rows(body, &mut page, 0);
    body.result_steps.iter().for_each(|step| explain_step(step, &mut page, 0));
    inputs.iter().for_each(|input| explain_input(input, &mut page, 0));
    page.text
}

/// Indented lines.
#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn line(&mut self, depth: usize, line: impl AsRef<str>) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:width$}{}", "", line.as_ref(), width = depth * 2);
    }
}

fn explain_logical(logical: &Logical, page: &mut Page) {
    let name = |slot: &SlotRef| name(logical, *slot);
    let show = |expr: &Expr<SlotRef>| expr.display_with(&name).to_string();
    let value = |value: &OutputValue| match value {
        OutputValue::Alias(alias) => show(&logical.aliases[*alias].expr),
        OutputValue::Expr(expr) => show(expr),
    };
    let fields: Vec<String> = logical
        .fields
        .iter()
        .map(|field| match field {
            Output::Star { messages } => star(messages.first().map_or(&[], |message| &message.except)),
            Output::Field { name, plain: true, .. } => name.to_string(),
            Output::Field { name, value: v, .. } => format!("{} AS {name}", value(v)),
            Output::Spread { expr, .. } => show(expr),
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
    if !logical.order.is_empty() {
        step(format!("order by {}", order(&logical.order, &name)));
    }
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
    for (input, join) in logical.inputs.iter().skip(1).zip(&logical.joins).rev() {
        let on = join.on.as_ref().map(|on| format!(" on {}", show(on))).unwrap_or_default();
        step(format!("{} join {}{on}", join.kind.to_string().to_lowercase(), named_input(&input.stream, input.role)));
    }
    if let Some(window) = &logical.window {
        step(spec(window, &name));
    }
    if let Some(admit) = &logical.admit {
        step(format!("filter before the window {}", show(admit)));
    }
    step(named_input(&logical.inputs[0].stream, logical.inputs[0].role));
}

/// The name of a slot.
fn name(logical: &Logical, slot: SlotRef) -> String {
    let name_of = |slot: &SlotRef| name(logical, *slot);
    match slot {
        SlotRef::Column { input, column } => {
            let of_input = &logical.inputs[input];
            let name = source(&of_input.columns[column].source);
            if logical.inputs.len() == 1 { name } else { format!("{}.{name}", of_input.stream.name) }
        }
        SlotRef::Alias(alias) => logical.aliases[alias].name.to_string(),
        SlotRef::Aggregate(aggregate) => call(&logical.aggregates[aggregate], &name_of),
        SlotRef::Step(step) => analytic(&logical.steps[step].call, &name_of),
        SlotRef::Number(_) => "row_number()".to_owned(),
        SlotRef::ResultStep(step) => analytic(&logical.result_steps[step], &name_of),
        SlotRef::WindowAggregate(aggregate) => call(&logical.window_aggregates[aggregate], &name_of),
        SlotRef::Element => match &logical.elements {
            Some(elements) => {
                let rows = &elements.rows;
                format!("{}({})", rows.function, rows.arg.display_with(&name_of))
            }
            None => String::new(),
        },
    }
}

fn named_input(stream: &StreamDef, role: Role) -> String {
    let kind = match role {
        _ if stream.kind == RelationKind::View => "view",
        Role::Stream => "stream",
        Role::Table { .. } => "table",
        Role::Lookup => "lookup table",
    };
    format!("{kind} {}", stream.name)
}

fn explain_physical(plan: &RulePlan, windowed: bool, spread: Spread, page: &mut Page) {
    let mut depth = 1;
    match &plan.body {
        Body::Rows(projection) => {
            project(projection, page, depth);
            if !projection.sends {
                page.line(depth + 1, "nothing is sent");
            }
        }
        Body::Stateful(body) => {
            explain_results(body, page, depth);
            depth += 1;
            match &body.window {
                // The rows of a view without a window are never final.
                window if !windowed && !matches!(window, WindowSpec::Each) => page.line(depth, "all rows"),
                window => page.line(depth, spec(window, &plain)),
            }
            explain_rows(body, page, depth + 1);
        }
        Body::View(view) => explain_rows(&view.body, page, depth),
    }
    page.line(depth + 1, spread.to_string());
    for input in &plan.inputs {
        explain_input(input, page, depth + 1 + usize::from(input.role == Role::Stream));
    }
}

/// The name of a numbered slot.
fn plain(slot: &usize) -> String {
    format!("${slot}")
}

fn project(projection: &Projection, page: &mut Page, depth: usize) {
    page.line(depth, "project");
    for item in &projection.items {
        page.line(
            depth + 1,
            match item {
                Item::Star { messages } => {
                    let alike = |group: &[WholeMessage]| {
                        let slots: Vec<String> = group.iter().map(|message| plain(&message.slot)).collect();
                        format!("{} {}", slots.join(", "), star(&group[0].except))
                    };
                    let groups: Vec<String> =
                        messages.chunk_by(|left, right| left.except == right.except).map(alike).collect();
                    groups.join(", ")
                }
                Item::Field { name, expr, plain } => {
                    format!("{name} = {expr}{}", if *plain { ", null is sent" } else { "" })
                }
                Item::Spread { expr, .. } => format!("* = members of {expr}"),
                Item::Hidden { expr } => format!("{expr}, not sent"),
            },
        );
    }
}

/// The steps after a window closes, the last one first.
fn explain_results(body: &Stateful, page: &mut Page, depth: usize) {
    project(&body.projection, page, depth);
    if let Some(limit) = body.limit {
        page.line(depth + 1, format!("limit {limit}"));
    }
    if let Some(rows) = &body.rows_of {
        page.line(depth + 1, format!("${} = each of {}({})", body.element(), rows.function, rows.arg));
    }
    for step in &body.result_steps {
        explain_step(step, page, depth + 1);
    }
    if !body.order.is_empty() {
        page.line(depth + 1, format!("order by {}", order(&body.order, &plain)));
    }
    for (index, number) in body.numbers.iter().enumerate() {
        let mut over = Vec::new();
        if !number.partition.is_empty() {
            over.push(format!("partition by {}", exprs(&number.partition)));
        }
        if !number.order.is_empty() {
            over.push(format!("order by {}", order(&number.order, &plain)));
        }
        let over = if over.is_empty() { String::new() } else { format!(" over {}", over.join(" ")) };
        page.line(depth + 1, format!("${} = row_number{over}", body.first_number() + index));
    }
    if let Some(having) = &body.having {
        page.line(depth + 1, format!("having {having}"));
    }
}

/// The steps before a window closes.
fn explain_rows(body: &Stateful, page: &mut Page, depth: usize) {
    if let Some(admit) = &body.admit {
        page.line(depth, format!("before it: {}", filter(admit)));
    }
    if let Some(after) = &body.filter {
        page.line(depth, format!("its rows: {}", filter(after)));
    }
    for join in &body.joins {
        let mut on: Vec<String> = join.equal.iter().map(|(left, right)| format!("{left} = {right}")).collect();
        on.extend(join.rest.iter().map(ToString::to_string));
        let on = if on.is_empty() { String::new() } else { format!(" on {}", on.join(" AND ")) };
        page.line(depth, format!("{} join input {}{on}", join.kind.to_string().to_lowercase(), join.input));
    }
    for (index, computed) in body.computed.iter().enumerate() {
        page.line(depth, format!("${} = {computed}", body.first_computed() + index));
    }
    for (index, aggregate) in body.window_aggregates.iter().enumerate() {
        let text = call(aggregate, &plain);
        page.line(depth, format!("${} = {text} of the window", body.first_window_aggregate() + index));
    }
    if let Some(joined) = &body.joined_filter {
        page.line(depth, format!("filter {joined}"));
    }
    if body.grouped {
        let keys = exprs(&body.keys);
        page.line(depth, if keys.is_empty() { "one group".to_owned() } else { format!("keys {keys}") });
    }
    for (index, aggregate) in body.aggregates.iter().enumerate() {
        let text = call(aggregate, &plain);
        page.line(depth, format!("${} = {text}", body.row_slots + index));
    }
    if !body.kept_slots.is_empty() {
        let kept: Vec<String> = body.kept_slots.iter().map(plain).collect();
        page.line(depth, format!("keeps {}", kept.join(", ")));
    }
    for step in &body.steps {
        explain_step(step, page, depth);
    }
    if let Some(watermark) = body.event_time {
        let order = if body.ordered { "rows in order of time" } else { "rows in any order" };
        let idle = match (watermark.idle_timeout, body.joins.is_empty()) {
            (timeout, false) if timeout > 0 => format!(", a stream is idle after {timeout} ms"),
            _ => String::new(),
        };
        page.line(depth, format!("{order}{idle}"));
    }
}

fn explain_step(step: &Step, page: &mut Page, depth: usize) {
    let text = match &step.kind {
        StepKind::Compute(expr) => expr.to_string(),
        StepKind::Analytic(call) => analytic(call, &plain),
        StepKind::Elements(rows) => format!("each of {}({})", rows.function, rows.arg),
    };
    page.line(depth, format!("${} = {text}", step.slot));
}

fn explain_input(input: &Input, page: &mut Page, depth: usize) {
    let scan = &input.scan;
    let verb = if input.role == Role::Lookup { "look up" } else { "scan" };
    page.line(depth, format!("{verb} {}", input.stream.name));
    let slot = |index: usize| plain(&(input.slots.start + index));
    for (index, column) in scan.columns.iter().enumerate() {
        let ty = column.ty.as_ref().map(|ty| format!(": {ty}")).unwrap_or_default();
        page.line(depth + 1, format!("{} = {}{ty}", slot(index), source(&column.source)));
    }
    // Expressions of a scan number its slots from 0.
    let name = |index: &usize| slot(*index);
    for (index, expr) in scan.computed.iter().enumerate() {
        let when = if index < scan.computed_for_filter { ", before the filter" } else { "" };
        let slot = slot(scan.columns.len() + index);
        page.line(depth + 1, format!("{slot} = {}{when}", expr.display_with(&name)));
    }
    if let Some(conditions) = &scan.filter {
        page.line(depth + 1, filter_named(conditions, &name));
    }
    if let Some(event_time) = &scan.event_time {
        page.line(depth + 1, format!("event time {}, {} ms late", slot(event_time.slot), event_time.late_tolerance));
    }
}

fn filter(filter: &Filter) -> String {
    filter_named(filter, &plain)
}

fn filter_named(filter: &Filter, name: &dyn Fn(&usize) -> String) -> String {
    let constant = |value: &Value| Expr::Constant(value.clone());
    let test = |t: &Test| match &t.holds {
        Condition::Compare(op, value) => format!("test {} {} {}", name(&t.slot), op.sign(), constant(value)),
        Condition::IsOneOf(values) => {
            let values: Vec<String> = values.iter().map(|value| constant(value).to_string()).collect();
            format!("test {} IN ({})", name(&t.slot), values.join(", "))
        }
    };
    let mut parts: Vec<String> = filter.tests.iter().map(test).collect();
    parts.extend(filter.rest.iter().map(|rest| format!("filter {}", rest.display_with(name))));
    parts.join(", ")
}

fn exprs(exprs: &[Expr]) -> String {
    exprs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn order<S>(order: &[OrderBy<S>], name: &dyn Fn(&S) -> String) -> String {
    let key =
        |key: &OrderBy<S>| format!("{}{}", key.expr.display_with(name), if key.descending { " DESC" } else { "" });
    order.iter().map(key).collect::<Vec<_>>().join(", ")
}

fn analytic<S>(call: &AnalyticCall<S>, name: &dyn Fn(&S) -> String) -> String {
    let show =
        |exprs: &[Expr<S>]| exprs.iter().map(|e| e.display_with(name).to_string()).collect::<Vec<_>>().join(", ");
    let mut over = Vec::new();
    if !call.partition.is_empty() {
        over.push(format!("partition by {}", show(&call.partition)));
    }
    over.extend(call.when.iter().map(|when| format!("when {}", when.display_with(name))));
    let over = if over.is_empty() { String::new() } else { format!(" over {}", over.join(" ")) };
    format!("{}({}){over}", call.analytic, show(&call.args))
}

fn spec<S>(window: &WindowSpec<S>, name: &dyn Fn(&S) -> String) -> String {
    let show = |expr: &Expr<S>| expr.display_with(name).to_string();
    match window {
        WindowSpec::Each => "each row alone".to_owned(),
        WindowSpec::Hopping { unit, length, hop } if length == hop => format!("tumbling window of {length} {unit}"),
        WindowSpec::Hopping { unit, length, hop } => format!("hopping window of {length} {unit} every {hop}"),
        WindowSpec::Sliding { length, delay, when } => {
            let delay = if *delay > 0 { format!(" and {delay} ms after it") } else { String::new() };
            let when = when.as_ref().map(|when| format!(" when {}", show(when))).unwrap_or_default();
            format!("sliding window of {length} ms before a row{delay}{when}")
        }
        WindowSpec::Session { unit, max, timeout } => {
            format!("session window of at most {max} {unit}, ended by {timeout} ms without rows")
        }
        WindowSpec::Count { length, interval } => format!("count window of {length} every {interval}"),
        WindowSpec::State { begin, end, partition } => {
            let end = end.as_ref().map(|end| format!(" to {}", show(end))).unwrap_or_default();
            let keys: Vec<String> = partition.iter().map(show).collect();
            let partition = if keys.is_empty() { String::new() } else { format!(", for each {}", keys.join(", ")) };
            format!("state window from {}{end}{partition}", show(begin))
        }
    }
}

fn star(except: &[crate::value::Text]) -> String {
    if except.is_empty() { "*".to_owned() } else { format!("* except {}", except.join(", ")) }
}

fn source(source: &ColumnSource) -> String {
    match source {
        ColumnSource::Key(key) => key.to_string(),
        ColumnSource::Whole => "*".to_owned(),
        ColumnSource::Meta => "meta".to_owned(),
        ColumnSource::Topic => "meta(*)".to_owned(),
    }
}

fn call<S>(call: &AggregateCall<S>, names: &dyn Fn(&S) -> String) -> String {
    let arg = call.arg.as_ref().map_or("*".to_owned(), |arg| arg.display_with(names).to_string());
    let distinct = if call.aggregate.is_distinct() { "DISTINCT " } else { "" };
    let option = call.aggregate.option().map_or_else(String::new, |option| format!(", {}", cast::text(&option)));
    format!("{}({distinct}{arg}{option})", call.aggregate)
}
