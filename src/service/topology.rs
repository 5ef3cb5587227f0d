//! The names of a rule's parts as eKuiper shows them in the status, the topology and the plan.
//!
//! Plutino fuses operators that eKuiper runs one after the other, so these names are a view of the plan: the status
//! shows for each of them what is counted. The operators, and the places of conditions, are those that eKuiper makes
//! from the same statement.

use serde_json::{Map, Value as Json};
use smallvec::SmallVec;

use crate::plan::physical::{Body, Input, Role, RulePlan, StepKind};
use crate::sql::ast::{BinaryOp, Expr, ExprKind, Field, InSet, JoinKind, Select, WindowKind};
use crate::value::Text;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Topology {
    /// the streams and tables that are read; lookup tables are queried instead
    pub sources: Box<[Text]>,
    /// whether the rule has state
    pub stateful: bool,
    parts: Box<[Node]>,
}

/// One part with its name (`source_demo`, `op_2_decoder`, …), and the parts after it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Node {
    name: Text,
    part: Part,
    to: SmallVec<[u32; 2]>,
}

/// The task of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// delivers messages; the number of the rule's source
    Source(usize),
    /// decodes them
    Decoder(usize),
    /// works on rows
    Operator {
        kind: &'static str,
        /// whether it filters the rows of one source
        scan: bool,
        /// whether results come from it
        last: bool,
    },
    /// converts results to messages for a sink
    Sending {
        sink: usize,
        /// whether it encodes them
        encodes: bool,
    },
    /// sends
    Sink(usize),
}

/// A sink as written in the rule.
pub(super) struct Target<'a> {
    pub kind: &'a str,
    /// the number of the rule's action that contains it
    pub action: u32,
    /// its properties
    pub props: &'a Map<String, Json>,
}

impl Topology {
    /// A rule with a single log sink.
    #[cfg(test)]
    pub(super) fn of_log() -> Topology {
        let node = |name: &str, part, to: &[u32]| Node { name: name.into(), part, to: to.into() };
        let parts = [
            node("op_1_encode", Part::Sending { sink: 0, encodes: true }, &[1]),
            node("sink_log_0", Part::Sink(0), &[]),
        ];
        Topology { sources: Box::new([]), stateful: false, parts: parts.into() }
    }

    /// The parts of a plan, made from its statement and the rule's sinks.
    pub(super) fn of(plan: &RulePlan, select: &Select, targets: &[Target]) -> Topology {
        let read = || plan.inputs.iter().enumerate().filter(|(_, input)| input.role != Role::Lookup);
        let event_time = plan.inputs.iter().any(|input| input.scan.event_time.is_some());
        let conditions = Conditions::of(plan, select, event_time);
        let mut flow = Flow::default();
        let (mut streams, mut tables) = (Vec::new(), Vec::new());
        for (source, (at, input)) in read().enumerate() {
            let end = flow.read(source, input, event_time, conditions.pushed[at]);
            if input.role == Role::Stream { streams.push(end) } else { tables.push(end) }
        }
        flow.ends = streams;
        if event_time {
            flow.operator("watermark");
        }
        if is_analytic(plan) {
            flow.operator("analytic");
        }
        if select.window.is_some() {
            if conditions.window {
                flow.operator("windowFilter");
                // Both are one operator of the plan and have the same number.
                flow.number -= 1;
            }
            flow.operator("window");
        }
        let read_joins = read().count() > 1;
        if !tables.is_empty() {
            flow.ends.extend(tables);
            flow.operator("join_aligner");
        }
        if read_joins {
            flow.operator("join");
        }
        for lookup in plan.inputs.iter().filter(|input| input.role == Role::Lookup) {
            flow.number += 1;
            flow.add(format!("op_{}", lookup.stream.name), operator("lookup"));
        }
        let stateful = match &plan.body {
            Body::Stateful(stateful) => Some(stateful),
            Body::Rows(_) | Body::View(_) => None,
        };
        for (there, kind) in [
            (conditions.late, "filter"),
            (!select.group_by.is_empty(), "aggregate"),
            (select.having.is_some(), "having"),
            (stateful.is_some_and(|stateful| !stateful.numbers.is_empty()), "windowFunc"),
            (!select.order_by.is_empty(), "order"),
            (true, "project"),
            (stateful.is_some_and(|stateful| stateful.rows_of.is_some()), "projectset"),
        ] {
            if there {
                flow.operator(kind);
            }
        }
        if let Some(Node { part: Part::Operator { last, .. }, .. }) = flow.parts.last_mut() {
            *last = true;
        }
        let results = flow.ends.clone();
        for (sink, target) in targets.iter().enumerate() {
            flow.ends.clone_from(&results);
            flow.send(sink, target);
        }
        let sources = read().map(|(_, input)| input.stream.name.clone()).collect();
        Topology { sources, stateful: stateful.is_some(), parts: flow.parts.into() }
    }

    /// All parts in order, with their names and the names of the parts after them.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, Part, Vec<&str>)> {
        let name = |&to: &u32| self.parts[to as usize].name.as_str();
        self.parts.iter().map(move |node| (node.name.as_str(), node.part, node.to.iter().map(name).collect()))
    }

    /// All parts with their names, in order.
    pub fn each(&self) -> impl Iterator<Item = (&str, Part)> {
        self.parts.iter().map(|node| (node.name.as_str(), node.part))
    }

    /// Whether there is an operator of this kind.
    pub fn has(&self, wanted: &str) -> bool {
        self.parts.iter().any(|node| matches!(node.part, Part::Operator { kind, .. } if kind == wanted))
    }

    /// Whether rows of a source pass a filter before anything else.
    pub fn filters(&self) -> bool {
        self.parts.iter().any(|node| matches!(node.part, Part::Operator { scan: true, .. }))
    }

    /// The names of the sources, then each part with those after it.
    pub fn topology(&self) -> (Vec<String>, Vec<(String, Vec<String>)>) {
        let edges = self.parts.iter().filter(|node| !matches!(node.part, Part::Sink(_)));
        let edges = edges.map(|node| {
            let to = node.to.iter().map(|&to| self.parts[to as usize].name.to_string()).collect();
            (node.name.to_string(), to)
        });
        (self.sources.iter().map(|source| format!("source_{source}")).collect(), edges.collect())
    }

    /// The plan of the statement as eKuiper shows it: a line of JSON for each part, the last one first, the parts
    /// before it indented.
    pub fn explain(&self, select: &Select) -> String {
        let mut lines = Lines::default();
        let mut filters = vec![false; self.sources.len()];
        let (mut source, mut common) = (0, Vec::new());
        for node in &*self.parts {
            match node.part {
                Part::Source(at) => source = at,
                Part::Operator { scan: true, .. } => filters[source] = true,
                Part::Operator { kind: "preprocessor" | "windowFilter", .. } => {}
                Part::Operator { kind, .. } => common.push((kind, node.name.strip_prefix("op_").unwrap_or_default())),
                _ => {}
            }
        }
        for (kind, name) in common.iter().rev() {
            lines.put(plan_name(kind), &info(kind, name, select));
        }
        let depth = lines.depth;
        for (source, filter) in self.sources.iter().zip(filters) {
            lines.depth = depth;
            if filter {
                lines.put("FilterPlan", &info("filter", "", select));
            }
            lines.put("DataSourcePlan", &format!("StreamName: {source}"));
        }
        lines.text
    }
}

/// The lines of a plan.
#[derive(Default)]
struct Lines {
    text: String,
    depth: usize,
    number: usize,
}

impl Lines {
    fn put(&mut self, op: &str, info: &str) {
        let part = serde_json::json!({"op": format!("{op}_{}", self.number), "info": info});
        self.text.push_str(&"   ".repeat(self.depth));
        self.text.push_str(&part.to_string());
        self.text.push('\n');
        self.depth += 1;
        self.number += 1;
    }
}

fn plan_name(kind: &str) -> &'static str {
    match kind {
        "watermark" => "WatermarkPlan",
        "analytic" => "AnalyticFuncsPlan",
        "window" => "WindowPlan",
        "join_aligner" => "JoinAlignPlan",
        "join" => "JoinPlan",
        "lookup" => "LookupPlan",
        "filter" => "FilterPlan",
        "aggregate" => "AggregatePlan",
        "having" => "HavingPlan",
        "windowFunc" => "WindowFuncPlan",
        "order" => "OrderPlan",
        "projectset" => "ProjectSetPlan",
        _ => "ProjectPlan",
    }
}

/// The plan's description of an operator: the clause that it executes.
fn info(kind: &str, name: &str, select: &Select) -> String {
    let list =
        |items: Vec<String>| if items.is_empty() { "[ ]".to_owned() } else { format!("[ {} ]", items.join(", ")) };
    let shown = |field: &Field| match field {
        Field::Expr { expr, alias: Some(alias), .. } => format!("{expr} AS {alias}"),
        field => field.to_string(),
    };
    let condition = |of: Option<&Expr>| of.map_or_else(String::new, |of| format!("Condition:{{ {of} }}"));
    match kind {
        "project" => format!("Fields:{}", list(select.fields.iter().map(shown).collect())),
        "order" => format!("SortFields:{}", list(select.order_by.iter().map(ToString::to_string).collect())),
        "having" => condition(select.having.as_ref()),
        "aggregate" => format!("Dimension:{}", list(select.group_by.iter().map(ToString::to_string).collect())),
        "filter" => {
            let window = select.window.as_ref().and_then(|window| window.filter.as_ref());
            condition(select.filter.as_ref().or(window))
        }
        "join" => {
            let joins = select.joins.iter().map(|join| {
                let on = join.on.as_ref().filter(|_| join.kind != JoinKind::Cross);
                format!("{} {}{}", join.kind, join.source, on.map_or_else(String::new, |on| format!(" ON {on}")))
            });
            format!("Joins:{}", list(joins.collect()))
        }
        "lookup" => {
            let join = select.joins.iter().find(|join| join.source.name.name.as_str() == name);
            join.map_or_else(String::new, |join| {
                let on = join.on.as_ref().map_or_else(String::new, |on| format!(" ON {on}"));
                format!("Join:{{ {} {}{on} }}", join.kind, join.source)
            })
        }
        "window" => select.window.as_ref().map_or_else(String::new, |window| format!("{{ {window} }}")),
        _ => String::new(),
    }
}

/// The parts under construction.
#[derive(Default)]
struct Flow {
    parts: Vec<Node>,
    number: usize,
    /// the parts after which the next one comes
    ends: Vec<usize>,
}

impl Flow {
    fn add(&mut self, name: String, part: Part) -> usize {
        let at = self.parts.len();
        for end in self.ends.drain(..) {
            self.parts[end].to.push(at as u32);
        }
        self.parts.push(Node { name: name.into(), part, to: SmallVec::new() });
        self.ends.push(at);
        at
    }

    fn numbered(&mut self, kind: &str, part: Part) -> usize {
        self.number += 1;
        self.add(format!("op_{}_{kind}", self.number), part)
    }

    fn operator(&mut self, kind: &'static str) {
        self.numbered(kind, operator(kind));
    }

    /// Adds a source and the parts that process only its rows; returns the last of these.
    fn read(&mut self, source: usize, input: &Input, event_time: bool, filter: bool) -> usize {
        let def = &input.stream;
        self.ends.clear();
        self.number += 1;
        let mut end = self.add(format!("source_{}", def.name), Part::Source(source));
        // Parts that all rules of a shared stream have in common are named after the stream.
        let own = if def.shared { format!("{}_", def.name) } else { String::new() };
        let mut step = |flow: &mut Flow, kind: &str, part: Part| {
            flow.number += 1;
            end = flow.add(format!("op_{own}{}_{kind}", flow.number), part);
        };
        // Rows from memory need no decoding.
        if def.source.as_str() != "memory" {
            step(self, "decoder", Part::Decoder(source));
        }
        let timed = event_time && def.timestamp.is_some();
        if timed || (def.strict && def.columns.is_some()) {
            step(self, "preprocessor", operator("preprocessor"));
        }
        if filter {
            end = self.numbered("filter", Part::Operator { kind: "filter", scan: true, last: false });
        }
        end
    }

    fn send(&mut self, sink: usize, target: &Target) {
        let Target { kind, action, .. } = target;
        for (index, step) in target.steps().enumerate() {
            let encodes = matches!(step, "encode" | "batchWriter");
            self.add(format!("op_{kind}_{action}_{index}_{step}"), Part::Sending { sink, encodes });
        }
        self.add(format!("sink_{kind}_{action}"), Part::Sink(sink));
    }
}

fn operator(kind: &'static str) -> Part {
    Part::Operator { kind, scan: false, last: false }
}

impl Target<'_> {
    /// The steps of results on their way to the sink.
    fn steps(&self) -> impl Iterator<Item = &'static str> {
        let some = |name| match self.props.get(name) {
            Some(Json::Number(number)) => number.as_f64().is_some_and(|number| number > 0.0),
            Some(Json::String(text)) => !text.is_empty(),
            Some(Json::Bool(on)) => *on,
            _ => false,
        };
        let batches = some("batchSize") || some("lingerInterval");
        let memory = self.kind == "memory";
        [
            (batches, "batch"),
            (true, "transform"),
            (batches && !memory, "batchWriter"),
            (!batches && !memory, "encode"),
            (some("compression") && !memory, "compress"),
            (some("encryption") && !memory, "encrypt"),
            (some("enableCache"), "cache"),
        ]
        .into_iter()
        .filter(|(there, _)| *there)
        .map(|(_, step)| step)
    }
}

fn is_analytic(plan: &RulePlan) -> bool {
    let Body::Stateful(stateful) = &plan.body else { return false };
    stateful.steps.iter().any(|step| matches!(step.kind, StepKind::Analytic(_)))
}

/// Whether rows that fail the condition are also part of the window.
fn keeps_failing_rows(kind: &WindowKind) -> bool {
    match kind {
        WindowKind::Count { .. } | WindowKind::Sliding { .. } => true,
        WindowKind::Tumbling { .. }
        | WindowKind::Hopping { .. }
        | WindowKind::Session { .. }
        | WindowKind::State { .. } => false,
    }
}

/// Where the conditions of a statement are tested.
struct Conditions {
    /// for each input: before anything else
    pushed: Vec<bool>,
    /// before the window
    window: bool,
    /// after the joins
    late: bool,
}

impl Conditions {
    fn of(plan: &RulePlan, select: &Select, event_time: bool) -> Conditions {
        let window = select.window.as_ref();
        let behind = event_time || window.is_some_and(|window| keeps_failing_rows(&window.kind));
        let analytic = is_analytic(plan);
        let door = window.and_then(|window| window.filter.as_ref());
        let mut all = Conditions { pushed: vec![false; plan.inputs.len()], window: false, late: false };
        let mut late = Vec::new();
        if let Some(door) = door {
            if behind || analytic { all.window = true } else { split(door, &mut late) }
        }
        match &select.filter {
            Some(_) if analytic && window.is_some() && !behind => all.window = true,
            Some(filter) => split(filter, &mut late),
            None => {}
        }
        if !behind && !analytic {
            late.retain(|condition| match sole(condition, plan, select) {
                Some(at) if plan.inputs[at].role == Role::Stream => {
                    all.pushed[at] = true;
                    false
                }
                _ => true,
            });
        }
        // For an inner join, conditions on its rows can be tested earlier.
        let read = |at: &usize| plan.inputs[*at].role != Role::Lookup;
        let joins: Vec<_> = select.joins.iter().enumerate().filter(|(at, _)| read(&(at + 1))).collect();
        let inner = joins.iter().all(|(_, join)| matches!(join.kind, JoinKind::Inner | JoinKind::Cross));
        let joined = !joins.is_empty() && joins.len() == select.joins.len() && inner;
        all.late = !late.is_empty() && !joined;
        all
    }
}

/// Splits a conjunction.
fn split<'a>(expr: &'a Expr, into: &mut Vec<&'a Expr>) {
    match &expr.kind {
        ExprKind::Binary(BinaryOp::And, left, right) => {
            split(left, into);
            split(right, into);
        }
        _ => into.push(expr),
    }
}

/// The only input that a condition reads, if there is one.
fn sole(condition: &Expr, plan: &RulePlan, select: &Select) -> Option<usize> {
    if select.joins.is_empty() {
        return Some(0);
    }
    let sources: Vec<_> = std::iter::once(&select.from).chain(select.joins.iter().map(|join| &join.source)).collect();
    let mut found = Vec::new();
    each_name(condition, &mut |stream, column| {
        let of = |at: &usize| match stream {
            Some(stream) => {
                let source = sources[*at];
                source.name.name == *stream || source.alias.as_ref().is_some_and(|alias| alias.name == *stream)
            }
            None => {
                let columns = plan.inputs[*at].stream.columns.as_deref().unwrap_or_default();
                columns.iter().any(|known| known.name.name == *column)
            }
        };
        found.push((0..sources.len().min(plan.inputs.len())).find(of));
    });
    let first = *found.first()?;
    first.filter(|_| found.iter().all(|at| *at == first))
}

/// Calls `see` with every column in an expression, with its stream if it is named. Keys of `meta` are not columns.
pub(super) fn each_name<'a>(expr: &'a Expr, see: &mut dyn FnMut(Option<&'a Text>, &'a Text)) {
    let mut all = |exprs: &mut dyn Iterator<Item = &'a Expr>| exprs.for_each(|expr| each_name(expr, see));
    match &expr.kind {
        ExprKind::Literal(_) | ExprKind::Null => {}
        ExprKind::Star(star) => all(&mut star.replace.iter().map(|(expr, _)| expr)),
        ExprKind::Column(name) => see(None, name),
        ExprKind::Dot(of, name) => match &of.kind {
            ExprKind::Column(stream) => see(Some(stream), &name.name),
            _ => each_name(of, see),
        },
        ExprKind::Member(of, _) | ExprKind::Unary(_, of) | ExprKind::IsNull { expr: of, .. } => each_name(of, see),
        ExprKind::Index(left, right) | ExprKind::Binary(_, left, right) => all(&mut [&**left, right].into_iter()),
        ExprKind::Like { expr, pattern, .. } => all(&mut [&**expr, pattern].into_iter()),
        ExprKind::Slice(of, from, to) => {
            all(&mut std::iter::once(&**of).chain(from.as_deref()).chain(to.as_deref()));
        }
        ExprKind::Between { expr, low, high, .. } => all(&mut [&**expr, low, high].into_iter()),
        ExprKind::In { expr, set, .. } => {
            each_name(expr, see);
            match set {
                InSet::List(items) => items.iter().for_each(|item| each_name(item, see)),
                InSet::Array(array) => each_name(array, see),
            }
        }
        ExprKind::Case { value, branches, otherwise } => {
            let branches = branches.iter().flat_map(|(when, then)| [when, then]);
            all(&mut value.as_deref().into_iter().chain(branches).chain(otherwise.as_deref()));
        }
        ExprKind::Call(call) if call.name.name.eq_ignore_ascii_case("meta") => {}
        ExprKind::Call(call) => all(&mut call.args.iter().chain(call.filter.as_deref())),
    }
}
