//! From what a rule means to how it runs: conditions are pushed down to the scan, aliases get the slots in which they
//! are computed once, provisional slots become the final ones.

use std::collections::BTreeSet;

use super::error::{PlanError, PlanErrorKind};
use super::logical::{Logical, LogicalStep, Output, OutputValue, SlotRef};
use super::physical::*;
use super::walk::each_slot_mut;
use crate::definition::rule::RuleOptions;
use crate::expr::Expr;
use crate::sql::ast::{BinaryOp, DataType, JoinKind};
use crate::value::{Text, Value};

/// The plan that a worker runs.
///
/// # Errors
/// What cannot run though every name in it is right: an analytic call over several streams, a lookup without a key.
pub fn rewrite(logical: &Logical, options: &RuleOptions) -> Result<RulePlan, PlanError> {
    let stages = Stages::new(logical)?;
    let placed = place_conditions(logical);
    let slots = Slots::new(logical, &stages);
    let inputs = inputs(logical, &stages, &placed, &slots);
    let send_nil = options.send_nil;
    if runs_in_scan(logical) {
        let projection = projection(logical, &slots, logical.limit != Some(0));
        return Ok(RulePlan { inputs, body: Body::Rows(projection), send_nil });
    }
    let body = Body::Stateful(Box::new(stateful(logical, &stages, placed, &slots)?));
    Ok(RulePlan { inputs, body, send_nil })
}

/// Whether each row is a result by itself, as soon as it is there.
fn runs_in_scan(logical: &Logical) -> bool {
    logical.window.is_none()
        && logical.joins.is_empty()
        && logical.aggregates.is_empty()
        && logical.having.is_none()
        && logical.steps.is_empty()
        && logical.result_steps.is_empty()
        && logical.numbers.is_empty()
        && logical.rows_of.is_none()
        && logical.watermark.is_none()
        && !counts_hits(logical)
}

/// Whether the rule asks for what it has sent before.
fn counts_hits(logical: &Logical) -> bool {
    let mut found = false;
    each_expr(logical, &mut |expr| {
        expr.visit(&mut |part| {
            found |= matches!(part, Expr::Call { function, .. } if HITS.contains(&function.name));
        });
    });
    found
}

/// The functions that ask for what was sent before.
const HITS: [&str; 4] = ["last_hit_count", "last_hit_time", "last_agg_hit_count", "last_agg_hit_time"];

/// Shows the expressions of all clauses.
fn each_expr<'a>(logical: &'a Logical, see: &mut dyn FnMut(&'a Expr)) {
    logical.aliases.iter().for_each(|alias| see(&alias.expr));
    for field in &logical.fields {
        match field {
            Output::Field { value: OutputValue::Expr(expr), .. }
            | Output::Hidden(OutputValue::Expr(expr))
            | Output::Spread { expr, .. } => see(expr),
            _ => {}
        }
    }
    logical.filter.iter().chain(&logical.admit).chain(&logical.having).chain(&logical.keys).for_each(&mut *see);
    logical.aggregates.iter().flat_map(|call| &call.arg).for_each(&mut *see);
    for LogicalStep { call, .. } in &logical.steps {
        call.args.iter().chain(&call.partition).chain(&call.when).for_each(&mut *see);
    }
}

/// When the value of an alias or an analytic call is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// computed by the scan of this input
    Scan(usize),
    /// computed for every row of this input, with memory
    Step(usize),
    /// computed for joined rows
    Joined,
}

/// The stages of all aliases and analytic calls, and what each reads.
struct Stages {
    aliases: Vec<Stage>,
    /// the input of each analytic call
    steps: Vec<usize>,
}

/// What an expression reads.
#[derive(Clone, Default)]
struct Reads {
    inputs: BTreeSet<usize>,
    /// the answer of an analytic call, or of an alias with one
    steps: bool,
    /// an alias over joined rows
    joined: bool,
}

impl Stages {
    fn new(logical: &Logical) -> Result<Stages, PlanError> {
        let mut stages = Stages { aliases: Vec::new(), steps: Vec::new() };
        let mut steps = logical.steps.iter().peekable();
        for number in 0..=logical.aliases.len() {
            while let Some(LogicalStep { call, span, .. }) = steps.next_if(|step| step.aliases <= number) {
                let mut reads = Reads::default();
                for expr in call.args.iter().chain(&call.partition).chain(&call.when) {
                    stages.note(expr, &mut reads);
                }
                let mut inputs = reads.inputs.iter();
                let input = inputs.next().copied().unwrap_or(0);
                if inputs.next().is_some() || reads.joined || logical.inputs[input].role != Role::Stream {
                    let kind = PlanErrorKind::AnalyticInputs(call.analytic.to_string());
                    return Err(PlanError::at(kind, *span));
                }
                stages.steps.push(input);
            }
            let Some(alias) = logical.aliases.get(number) else { break };
            let mut reads = Reads::default();
            stages.note(&alias.expr, &mut reads);
            let mut inputs = reads.inputs.iter();
            let stage = match (inputs.next(), inputs.next()) {
                _ if reads.joined => Stage::Joined,
                (None, _) if logical.inputs.len() > 1 => Stage::Joined,
                (first, None) => match (first.copied().unwrap_or(0), reads.steps) {
                    (input, _) if logical.inputs[input].role != Role::Stream => Stage::Joined,
                    (input, false) => Stage::Scan(input),
                    (input, true) => Stage::Step(input),
                },
                _ => Stage::Joined,
            };
            stages.aliases.push(stage);
        }
        Ok(stages)
    }

    fn note(&self, expr: &Expr, reads: &mut Reads) {
        for slot in expr.slots() {
            match SlotRef::of(slot) {
                SlotRef::Column { input, .. } => {
                    reads.inputs.insert(input);
                }
                SlotRef::Alias(alias) => match self.aliases[alias] {
                    Stage::Scan(input) => {
                        reads.inputs.insert(input);
                    }
                    Stage::Step(input) => {
                        reads.inputs.insert(input);
                        reads.steps = true;
                    }
                    Stage::Joined => reads.joined = true,
                },
                SlotRef::Step(step) => {
                    reads.inputs.insert(self.steps[step]);
                    reads.steps = true;
                }
                SlotRef::Aggregate(_) | SlotRef::Number(_) | SlotRef::ResultStep(_) | SlotRef::Element => {}
            }
        }
    }

    fn reads(&self, expr: &Expr) -> Reads {
        let mut reads = Reads::default();
        self.note(expr, &mut reads);
        reads
    }
}

/// Where conditions are tested: each place has a conjunction, in order.
#[derive(Default)]
struct Placed {
    /// by the scan of each input
    scan: Vec<Vec<Expr>>,
    admit: Vec<Expr>,
    /// over rows, before or in the window
    rows: Vec<Expr>,
    /// over joined rows, when the window is closed
    joined: Vec<Expr>,
}

fn place_conditions(logical: &Logical) -> Placed {
    let mut placed = Placed { scan: vec![Vec::new(); logical.inputs.len()], ..Placed::default() };
    let alone = logical.joins.is_empty() && logical.steps.is_empty();
    // Rows that do not pass WHERE count for these windows, or move their bounds.
    let counts = match &logical.window {
        Some(WindowSpec::Count { .. } | WindowSpec::Sliding { .. } | WindowSpec::State { .. }) => true,
        Some(WindowSpec::Session { .. }) => logical.watermark.is_some(),
        Some(WindowSpec::Each | WindowSpec::Hopping { .. }) | None => false,
    };
    if let Some(admit) = &logical.admit {
        if alone && !counts { &mut placed.scan[0] } else { &mut placed.admit }.push(admit.clone());
    }
    let Some(filter) = &logical.filter else { return placed };
    if logical.window.is_some() && asks_for_window(filter) {
        placed.joined.push(filter.clone());
    } else if !logical.joins.is_empty() {
        place_before_joins(filter, logical, counts, &mut placed);
    } else if alone && !counts && !counts_hits(logical) {
        placed.scan[0].push(filter.clone());
    } else {
        placed.rows.push(filter.clone());
    }
    placed
}

/// Conjuncts about one stream are tested before the joins where that changes no answer: on the left of joins that
/// keep or drop a left row as a whole, and on both sides of inner ones.
fn place_before_joins(filter: &Expr, logical: &Logical, counts: bool, placed: &mut Placed) {
    let mut parts = Vec::new();
    conjuncts(filter.clone(), &mut parts);
    let kinds = || logical.joins.iter().map(|join| join.kind);
    let left_stays = kinds().all(|kind| matches!(kind, JoinKind::Inner | JoinKind::Left | JoinKind::Cross));
    let all_inner = kinds().all(|kind| matches!(kind, JoinKind::Inner | JoinKind::Cross));
    for part in parts {
        let columns: BTreeSet<usize> = part
            .slots()
            .into_iter()
            .map(|slot| match SlotRef::of(slot) {
                SlotRef::Column { input, .. } => input,
                _ => usize::MAX,
            })
            .collect();
        let one = if columns.len() == 1 { columns.first().copied() } else { None };
        let pushed = one.filter(|input| {
            let commutes = if *input == 0 { left_stays } else { all_inner };
            let is_stream = logical.inputs.get(*input).is_some_and(|input| input.role == Role::Stream);
            commutes && is_stream && !counts && logical.steps.is_empty() && placed.joined.is_empty()
        });
        match pushed {
            Some(input) => placed.scan[input].push(part),
            None => placed.joined.push(part),
        }
    }
}

/// Whether a condition asks for the window's bounds, which rows do not know.
fn asks_for_window(condition: &Expr) -> bool {
    let mut found = false;
    condition.visit(&mut |expr| {
        found |= matches!(expr, Expr::Call { function, .. } if function.name.starts_with("window_"));
    });
    found
}

fn inputs(logical: &Logical, stages: &Stages, placed: &Placed, slots: &Slots) -> Vec<Input> {
    let mut inputs = Vec::with_capacity(logical.inputs.len());
    for (number, input) in logical.inputs.iter().enumerate() {
        let (order, for_filter) = scan_aliases(logical, stages, number, &placed.scan[number]);
        // A scan counts its slots from 0.
        let base = slots.inputs[number].start;
        let place = |expr: &Expr| slots.place_from(expr, base);
        let scan = Scan {
            columns: input.columns.clone(),
            computed: order.iter().map(|alias| place(&logical.aliases[*alias].expr)).collect(),
            computed_for_filter: for_filter,
            filter: filter_of(placed.scan[number].iter().map(place).collect(), &input.columns),
            event_time: input.event_time.clone(),
        };
        inputs.push(Input {
            stream: input.stream.clone(),
            role: input.role,
            scan,
            slots: slots.inputs[number].clone(),
        });
    }
    inputs
}

/// The aliases that the scan of an input computes, first those that its filter needs, and how many those are.
fn scan_aliases(logical: &Logical, stages: &Stages, input: usize, filter: &[Expr]) -> (Vec<usize>, usize) {
    let mut needed = vec![false; logical.aliases.len()];
    let mut waiting = Vec::new();
    let note = |expr: &Expr, waiting: &mut Vec<usize>| {
        waiting.extend(expr.slots().into_iter().filter_map(|slot| match SlotRef::of(slot) {
            SlotRef::Alias(alias) => Some(alias),
            _ => None,
        }));
    };
    for expr in filter {
        note(expr, &mut waiting);
    }
    while let Some(alias) = waiting.pop() {
        if !std::mem::replace(&mut needed[alias], true) {
            note(&logical.aliases[alias].expr, &mut waiting);
        }
    }
    let here = |alias: &usize| logical.aliases[*alias].shared && stages.aliases[*alias] == Stage::Scan(input);
    let shared = || (0..logical.aliases.len()).filter(here);
    let mut order: Vec<usize> = shared().filter(|alias| needed[*alias]).collect();
    let for_filter = order.len();
    order.extend(shared().filter(|alias| !needed[*alias]));
    (order, for_filter)
}

/// The final slots.
struct Slots {
    /// where the columns of each input begin, and where its rows end
    inputs: Vec<std::ops::Range<usize>>,
    of_alias: Vec<Option<usize>>,
    of_step: Vec<usize>,
    row_slots: usize,
    first_number: usize,
    first_result_step: usize,
    element: usize,
}

impl Slots {
    fn new(logical: &Logical, stages: &Stages) -> Slots {
        let mut of_alias = vec![None; logical.aliases.len()];
        let mut of_step = vec![0; logical.steps.len()];
        let mut inputs = Vec::new();
        let mut next = 0;
        let placed = place_conditions(logical);
        for (number, input) in logical.inputs.iter().enumerate() {
            let start = next;
            next += input.columns.len();
            let (order, _) = scan_aliases(logical, stages, number, &placed.scan[number]);
            for alias in order {
                of_alias[alias] = Some(next);
                next += 1;
            }
            for item in row_steps(logical, stages, number) {
                match item {
                    SlotRef::Alias(alias) => of_alias[alias] = Some(next),
                    SlotRef::Step(step) => of_step[step] = next,
                    _ => {}
                }
                next += 1;
            }
            inputs.push(start..next);
        }
        for alias in joined_aliases(logical, stages) {
            of_alias[alias] = Some(next);
            next += 1;
        }
        let first_number = next + logical.aggregates.len();
        let first_result_step = first_number + logical.numbers.len();
        let element = first_result_step + logical.result_steps.len();
        Slots { inputs, of_alias, of_step, row_slots: next, first_number, first_result_step, element }
    }

    fn place(&self, expr: &Expr) -> Expr {
        self.place_from(expr, 0)
    }

    /// With slots counted from `base`.
    fn place_from(&self, expr: &Expr, base: usize) -> Expr {
        let mut expr = expr.clone();
        each_slot_mut(&mut expr, &mut |slot| {
            *slot = self.of(*slot) - base;
        });
        expr
    }

    fn of(&self, slot: usize) -> usize {
        match SlotRef::of(slot) {
            SlotRef::Column { input, column } => self.inputs[input].start + column,
            SlotRef::Alias(alias) => self.of_alias[alias].expect("an alias that is read has a slot"),
            SlotRef::Aggregate(aggregate) => self.row_slots + aggregate,
            SlotRef::Step(step) => self.of_step[step],
            SlotRef::Number(number) => self.first_number + number,
            SlotRef::ResultStep(step) => self.first_result_step + step,
            SlotRef::Element => self.element,
        }
    }

    fn all(&self, exprs: &[Expr]) -> Vec<Expr> {
        exprs.iter().map(|expr| self.place(expr)).collect()
    }

    fn order(&self, order: &[OrderBy]) -> Vec<OrderBy> {
        order.iter().map(|key| OrderBy { expr: self.place(&key.expr), descending: key.descending }).collect()
    }

    fn call(&self, call: &AnalyticCall) -> AnalyticCall {
        AnalyticCall {
            analytic: call.analytic,
            args: self.all(&call.args),
            names: call.names.clone(),
            over_rows: call.over_rows,
            partition: self.all(&call.partition),
            when: call.when.as_ref().map(|when| self.place(when)),
        }
    }
}

/// The analytic calls over rows of an input, and the aliases that need them, each after what it needs.
fn row_steps(logical: &Logical, stages: &Stages, input: usize) -> Vec<SlotRef> {
    let mut items = Vec::new();
    let mut steps = logical.steps.iter().enumerate().peekable();
    for alias in 0..=logical.aliases.len() {
        while let Some((step, _)) = steps.next_if(|(_, step)| step.aliases <= alias) {
            if stages.steps[step] == input {
                items.push(SlotRef::Step(step));
            }
        }
        if stages.aliases.get(alias) == Some(&Stage::Step(input)) && logical.aliases[alias].shared {
            items.push(SlotRef::Alias(alias));
        }
    }
    items
}

fn joined_aliases(logical: &Logical, stages: &Stages) -> impl Iterator<Item = usize> {
    (0..logical.aliases.len()).filter(|alias| logical.aliases[*alias].shared && stages.aliases[*alias] == Stage::Joined)
}

/// All that is behind the scans.
fn stateful(logical: &Logical, stages: &Stages, placed: Placed, slots: &Slots) -> Result<Stateful, PlanError> {
    let mut steps = Vec::new();
    for input in 0..logical.inputs.len() {
        for item in row_steps(logical, stages, input) {
            let kind = match item {
                SlotRef::Alias(alias) => StepKind::Compute(slots.place(&logical.aliases[alias].expr)),
                SlotRef::Step(step) => StepKind::Analytic(slots.call(&logical.steps[step].call)),
                _ => continue,
            };
            steps.push(Step { input, slot: slots.of(item.slot()), kind });
        }
    }
    let result_steps = logical.result_steps.iter().enumerate().map(|(number, call)| Step {
        input: 0,
        slot: slots.first_result_step + number,
        kind: StepKind::Analytic(slots.call(call)),
    });
    // Tests of slots by number are for the scan; here a filter is an expression.
    let condition = |parts: &[Expr]| filter_of(slots.all(parts), &[]);
    let joined_filter = condition(&placed.joined).and_then(|filter| filter.rest);
    let projection = projection(logical, slots, true);
    let mut stateful = Stateful {
        event_time: logical.watermark,
        ordered: logical.watermark.is_some(),
        steps,
        admit: condition(&placed.admit),
        filter: condition(&placed.rows),
        window: window(logical, slots),
        joins: joins(logical, stages, slots)?,
        computed: joined_aliases(logical, stages).map(|alias| slots.place(&logical.aliases[alias].expr)).collect(),
        joined_filter,
        keys: slots.all(&logical.keys),
        grouped: logical.grouped,
        incremental: false,
        aggregates: logical
            .aggregates
            .iter()
            .map(|call| AggregateCall { arg: call.arg.as_ref().map(|arg| slots.place(arg)), ..call.clone() })
            .collect(),
        row_slots: slots.row_slots,
        kept_slots: Vec::new(),
        having: logical.having.as_ref().map(|having| slots.place(having)),
        numbers: logical
            .numbers
            .iter()
            .map(|number| RowNumber { partition: slots.all(&number.partition), order: slots.order(&number.order) })
            .collect(),
        order: slots.order(&logical.order),
        result_steps: result_steps.collect(),
        rows_of: logical.rows_of.as_ref().map(|rows| RowsOf { function: rows.function, arg: slots.place(&rows.arg) }),
        projection,
        limit: logical.limit,
        counts_hits: counts_hits(logical),
    };
    stateful.incremental = incremental(&stateful);
    stateful.kept_slots = kept_slots(&stateful);
    stateful.ordered &= !order_does_not_matter(&stateful);
    Ok(stateful)
}

fn window(logical: &Logical, slots: &Slots) -> WindowSpec {
    match &logical.window {
        None => WindowSpec::Each,
        Some(WindowSpec::Sliding { length, delay, when }) => {
            WindowSpec::Sliding { length: *length, delay: *delay, when: when.as_ref().map(|when| slots.place(when)) }
        }
        Some(WindowSpec::State { begin, end, partition }) => WindowSpec::State {
            begin: slots.place(begin),
            end: end.as_ref().map(|end| slots.place(end)),
            partition: slots.all(partition),
        },
        Some(window) => window.clone(),
    }
}

/// Whether each row can be added to its groups at once and forgotten: not where rows are joined or sorted before, nor
/// where the window's bounds are asked for.
fn incremental(plan: &Stateful) -> bool {
    let rows_are_sorted = !plan.order.is_empty() && plan.keys.is_empty();
    let late = plan.keys.iter().chain(plan.aggregates.iter().flat_map(|call| &call.arg)).any(asks_for_window);
    plan.grouped && plan.joins.is_empty() && plan.joined_filter.is_none() && !rows_are_sorted && !late
}

/// Whether the results are the same in whatever order the rows come.
fn order_does_not_matter(plan: &Stateful) -> bool {
    let keys: Vec<usize> =
        plan.keys.iter().filter_map(|key| if let Expr::Slot(slot) = key { Some(*slot) } else { None }).collect();
    matches!(plan.window, WindowSpec::Hopping { .. })
        && plan.steps.is_empty()
        && plan.incremental
        && plan.aggregates.iter().all(|call| !call.aggregate.is_ordered())
        && plan.kept_slots.iter().all(|slot| keys.contains(slot))
}

/// The joins, with the equalities of ON taken out.
fn joins(logical: &Logical, stages: &Stages, slots: &Slots) -> Result<Vec<Join>, PlanError> {
    let mut joins = Vec::new();
    for (number, join) in logical.joins.iter().enumerate() {
        let input = number + 1;
        let mut parts = Vec::new();
        if let Some(on) = &join.on {
            conjuncts(on.clone(), &mut parts);
        }
        let (mut equal, mut columns, mut rest) = (Vec::new(), Vec::new(), Vec::new());
        let mut rest_aliases = BTreeSet::new();
        for part in parts {
            match equality(&part, input, logical, stages) {
                Some((left, right)) => {
                    columns.extend(column_name(&right, logical));
                    equal.push((slots.place(&left), slots.place(&right)));
                }
                None => {
                    joined_aliases_of(&part, logical, stages, &mut rest_aliases);
                    rest.push(slots.place(&part));
                }
            }
        }
        if logical.inputs[input].role == Role::Lookup {
            if equal.is_empty() {
                return Err(PlanError::at(PlanErrorKind::LookupEquality(join.text.clone()), join.span));
            }
        } else {
            columns.clear();
        }
        let value = |alias: usize| Some((slots.of_alias[alias]?, slots.place(&logical.aliases[alias].expr)));
        let computed = rest_aliases.into_iter().filter_map(value).collect();
        joins.push(Join { kind: join.kind, input, equal, columns, computed, rest: conjunction(rest) });
    }
    Ok(joins)
}

/// Adds the aliases over joined rows that an expression needs, by itself or through others. They are numbered so that
/// each comes after those that it reads.
fn joined_aliases_of(expr: &Expr, logical: &Logical, stages: &Stages, found: &mut BTreeSet<usize>) {
    let mut waiting = expr.slots();
    while let Some(slot) = waiting.pop() {
        if let SlotRef::Alias(alias) = SlotRef::of(slot)
            && stages.aliases[alias] == Stage::Joined
            && found.insert(alias)
        {
            waiting.extend(logical.aliases[alias].expr.slots());
        }
    }
}

/// `left = right` as an expression over what is joined before `input`, and one over `input` alone. The right side of a
/// lookup is a column.
fn equality(part: &Expr, input: usize, logical: &Logical, stages: &Stages) -> Option<(Expr, Expr)> {
    let Expr::Binary { op: BinaryOp::Equal, left, right, .. } = part else { return None };
    let side = |expr: &Expr| {
        let reads = stages.reads(expr);
        if reads.joined || reads.inputs.is_empty() {
            None
        } else if reads.inputs.iter().all(|read| *read < input) {
            Some(true)
        } else if reads.inputs.iter().all(|read| *read == input) {
            Some(false)
        } else {
            None
        }
    };
    let (before, of_input) = match (side(left), side(right)) {
        (Some(true), Some(false)) => (left, right),
        (Some(false), Some(true)) => (right, left),
        _ => return None,
    };
    let lookup = logical.inputs[input].role == Role::Lookup;
    if lookup && column_name(of_input, logical).is_none() {
        return None;
    }
    // A point in time equals texts and numbers too, in a way that no key shows.
    let datetime = |expr: &Expr| {
        expr.slots().into_iter().any(|slot| match SlotRef::of(slot) {
            SlotRef::Column { input, column } => logical.inputs[input].columns[column].ty == Some(DataType::DateTime),
            _ => false,
        })
    };
    (lookup || !(datetime(before) || datetime(of_input))).then(|| ((**before).clone(), (**of_input).clone()))
}

/// The key of a column that an expression is.
fn column_name(expr: &Expr, logical: &Logical) -> Option<Text> {
    let Expr::Slot(slot) = expr else { return None };
    let SlotRef::Column { input, column } = SlotRef::of(*slot) else { return None };
    match &logical.inputs[input].columns[column].source {
        ColumnSource::Key(key) => Some(key.clone()),
        ColumnSource::Whole | ColumnSource::Meta => None,
    }
}

/// A filter of these conjuncts.
fn filter_of(conditions: Vec<Expr>, columns: &[Column]) -> Option<Filter> {
    let mut parts = Vec::new();
    for condition in conditions {
        conjuncts(condition, &mut parts);
    }
    split(parts, columns)
}

fn conjunction(parts: Vec<Expr>) -> Option<Expr> {
    split(parts, &[]).and_then(|filter| filter.rest)
}

/// The parts of a conjunction in the order of evaluation.
fn conjuncts(expr: Expr, parts: &mut Vec<Expr>) {
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        match expr {
            Expr::Binary { op: BinaryOp::And, left, right, .. } => waiting.extend([*right, *left]),
            part => parts.push(part),
        }
    }
}

/// A filter of these conjuncts: those at the front that are tests, and the rest.
fn split(parts: Vec<Expr>, columns: &[Column]) -> Option<Filter> {
    let mut tests = Vec::new();
    let mut rest: Option<Expr> = None;
    for part in parts {
        rest = match rest {
            None => match as_tests(&part, columns) {
                Some(found) => {
                    tests.extend(found);
                    None
                }
                None => Some(part),
            },
            Some(left) => {
                Some(Expr::Binary { op: BinaryOp::And, left: Box::new(left), right: Box::new(part), integral: true })
            }
        };
    }
    if tests.is_empty() && rest.is_none() { None } else { Some(Filter { tests, rest }) }
}

/// A conjunct as tests of a column against constants, where it is nothing else.
fn as_tests(part: &Expr, columns: &[Column]) -> Option<Vec<Test>> {
    match part {
        Expr::Binary { op, left, right, .. } => {
            let op = Comparison::of(*op)?;
            let (slot, op, constant) = match (&**left, &**right) {
                (Expr::Slot(slot), Expr::Constant(constant)) => (*slot, op, constant),
                (Expr::Constant(Value::Bool(_)), _) => return None,
                (Expr::Constant(constant), Expr::Slot(slot)) => (*slot, flipped(op), constant),
                _ => return None,
            };
            let constant = testable(slot, constant, columns)?;
            // Other comparisons of a boolean fail, which is left to the expression.
            let equality = matches!(op, Comparison::Equal | Comparison::NotEqual);
            if matches!(constant, Value::Bool(_)) && !equality {
                return None;
            }
            Some(vec![Test { slot, holds: Condition::Compare(op, constant) }])
        }
        Expr::Between { operands, negated: false } => {
            let [Expr::Slot(slot), Expr::Constant(low), Expr::Constant(high)] = &**operands else { return None };
            // Where one bound does not fit, BETWEEN fails whatever the other one says.
            let same = matches!(low, Value::Text(_)) == matches!(high, Value::Text(_));
            if !same || [low, high].iter().any(|bound| matches!(bound, Value::Bool(_))) {
                return None;
            }
            let low = testable(*slot, low, columns)?;
            let high = testable(*slot, high, columns)?;
            Some(vec![
                Test { slot: *slot, holds: Condition::Compare(Comparison::GreaterEqual, low) },
                Test { slot: *slot, holds: Condition::Compare(Comparison::LessEqual, high) },
            ])
        }
        Expr::InList { expr, list, negated: false } => {
            let Expr::Slot(slot) = **expr else { return None };
            let constant = |element: &Expr| match element {
                Expr::Constant(constant) => testable(slot, constant, columns),
                _ => None,
            };
            let constants = list.iter().map(constant).collect::<Option<_>>()?;
            Some(vec![Test { slot, holds: Condition::IsOneOf(constants) }])
        }
        _ => None,
    }
}

/// The constant, if a test of this slot against it is a comparison of numbers, texts or booleans. A point in time
/// compares with text in a way of its own, so columns of that type, and computed slots, which may hold one, are left out.
fn testable(slot: usize, constant: &Value, columns: &[Column]) -> Option<Value> {
    let column = columns.get(slot)?;
    let comparable = !matches!(column.ty, Some(DataType::DateTime)) && matches!(column.source, ColumnSource::Key(_));
    let constant =
        matches!(constant, Value::Int(_) | Value::Float(_) | Value::Text(_) | Value::Bool(_)).then_some(constant)?;
    comparable.then(|| constant.clone())
}

/// The comparison with its sides exchanged.
fn flipped(op: Comparison) -> Comparison {
    match op {
        Comparison::Equal => Comparison::Equal,
        Comparison::NotEqual => Comparison::NotEqual,
        Comparison::Less => Comparison::Greater,
        Comparison::LessEqual => Comparison::GreaterEqual,
        Comparison::Greater => Comparison::Less,
        Comparison::GreaterEqual => Comparison::LessEqual,
    }
}

fn projection(logical: &Logical, slots: &Slots, sends: bool) -> Projection {
    let value = |value: &OutputValue| match value {
        OutputValue::Expr(expr) => slots.place(expr),
        OutputValue::Alias(alias) => match slots.of_alias[*alias] {
            Some(slot) => Expr::Slot(slot),
            None => slots.place(&logical.aliases[*alias].expr),
        },
    };
    let mut items = Vec::new();
    for field in &logical.fields {
        match field {
            Output::Star { slots: wholes, except } => items.push(Item::Star {
                slots: wholes.iter().map(|slot| slots.of(*slot)).collect(),
                except: except.clone(),
            }),
            Output::Field { name, value: v, plain } => {
                items.push(Item::Field { name: name.clone(), expr: value(v), plain: *plain });
            }
            Output::Spread { expr, prefix, name } => {
                let (prefix, name) = (prefix.clone(), name.clone());
                items.push(Item::Spread { expr: slots.place(expr), prefix, name });
            }
            Output::Hidden(v) => match value(v) {
                // These cannot fail, or were computed before.
                Expr::Slot(_) | Expr::Constant(_) => {}
                expr => items.push(Item::Hidden { expr }),
            },
        }
    }
    Projection { items, sends }
}

/// The slots of a group's first row that are read after grouping.
fn kept_slots(plan: &Stateful) -> Vec<usize> {
    let mut kept = BTreeSet::new();
    let mut note = |expr: &Expr| kept.extend(expr.slots());
    plan.having.iter().for_each(&mut note);
    plan.order.iter().for_each(|key| note(&key.expr));
    for number in &plan.numbers {
        number.partition.iter().for_each(&mut note);
        number.order.iter().for_each(|key| note(&key.expr));
    }
    for step in &plan.result_steps {
        if let StepKind::Analytic(call) = &step.kind {
            call.args.iter().chain(&call.partition).chain(&call.when).for_each(&mut note);
        }
    }
    plan.rows_of.iter().for_each(|rows| note(&rows.arg));
    for item in &plan.projection.items {
        match item {
            Item::Star { slots, .. } => slots.iter().for_each(|slot| note(&Expr::Slot(*slot))),
            Item::Field { expr, .. } | Item::Hidden { expr } | Item::Spread { expr, .. } => note(expr),
        }
    }
    kept.into_iter().filter(|slot| *slot < plan.row_slots).collect()
}
