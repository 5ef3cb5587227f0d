//! What a rule means: its names resolved to columns, aliases and aggregates, its clauses checked.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::compile::{self, Clause, Compiled, Compiler, Known, column_names, default_name};
use super::error::{PlanError, PlanErrorKind};
use super::logical::{Alias, Expr, Logical, LogicalElements, LogicalInput, LogicalJoin, Output, OutputValue, SlotRef};
use super::physical::{ColumnSource, EventTime, Role, Watermark, WindowSpec};
use super::view::ViewError;
use crate::definition::rule::RuleOptions;
use crate::definition::stream::{Catalog, Kind, StreamDef};
use crate::expr::analytic::Analytic;
use crate::expr::function::{self, Code, Function};
use crate::sql::ast::{self, ExprKind, Field, Ident, JoinKind, Over, Select, Source, Star, Window, WindowKind};
use crate::text::span::Span;
use crate::time::Unit;
use crate::value::{Text, Value};

/// The member of a result that has the metadata of its message, where the rule's option sendMetaToSink asks for it.
const METADATA: &str = "__meta";

/// How many streams and tables a rule may read: of several without a schema, each has a column for every name.
const MAX_SOURCES: usize = 64;

type Result<T, E = PlanError> = std::result::Result<T, E>;

/// Resolves a rule over the streams of the catalog. The error is the first, with all others that do not follow from one.
pub fn resolve(select: &Select, options: &RuleOptions, catalog: &Catalog) -> Result<Logical> {
    if let Some(beyond) = select.joins.get(MAX_SOURCES - 1) {
        let kind = PlanErrorKind::TooManySources { found: 1 + select.joins.len(), most: MAX_SOURCES };
        return Err(PlanError::at(kind, beyond.source.name.span));
    }
    let mut errors = Vec::new();
    let sources = sources(select, options, catalog, &mut errors);
    let roles: Vec<Role> = sources.iter().map(|source| role(&source.stream)).collect();
    // What a stream is that is not there, and what goes with it, nobody knows.
    let all_known = errors.is_empty();
    if all_known {
        check_sources(select, &sources, &roles, &mut errors);
    }
    let mut compiler = Compiler::new(sources);
    compiler.errors = errors;
    compiler.precedence = precedence(select);
    let window_works = select.window.as_ref().is_none_or(|window| {
        let checked = check_window(window);
        compiler.noted(checked).is_some()
    });
    compiler.windowed = select.window.is_some();
    compiler.gathers = compiler.windowed || !select.joins.is_empty();
    // A key that calls what is not there was perhaps to be the window, and is told of as such.
    let is_unknown =
        |key: &ast::Expr| matches!(&key.kind, ExprKind::Call(call) if function::lookup(&call.name.name).is_none());
    if let (Some(key), None) = (select.group_by.first(), &select.window)
        && !select.group_by.iter().any(is_unknown)
    {
        compiler.note(PlanError::at(PlanErrorKind::GroupByWithoutWindow, key.span));
    }
    let mut names = output_names(&select.fields, &mut compiler.errors);
    if options.send_meta {
        names.all.push(Text::const_new(METADATA));
    }
    let alias_of_field = compile_aliases(&select.fields, &mut compiler)?;
    let window = match &select.window {
        Some(window) if window_works => {
            let window = window_spec(window, &mut compiler);
            compiler.noted(window)
        }
        _ => None,
    };

    let mut fields = Vec::new();
    let mut grouped = !select.group_by.is_empty();
    for (index, field) in select.fields.iter().enumerate() {
        match field {
            Field::Star(star) => {
                let aggregate = self::star(star, &names, &mut compiler, &mut fields);
                grouped |= compiler.noted(aggregate).unwrap_or_default();
            }
            Field::Expr { expr, invisible, .. } => {
                if let Some((function, call)) = made_of_many(expr) {
                    let name = names.of_field[index].clone().unwrap_or_default();
                    let before = compiler.errors.len();
                    let alias = alias_of_field.get(&index).map(|&alias| compiler.aliases[alias].value.clone());
                    let (item, aggregate) = match spread(function, call, expr.span, name, alias, &mut compiler) {
                        Ok(spread) => spread,
                        Err(error) => {
                            // As with expressions: it may follow from what is wrong in its arguments.
                            if compiler.errors.len() == before {
                                compiler.note(error);
                            }
                            continue;
                        }
                    };
                    grouped |= aggregate;
                    fields.push(match item {
                        Output::Spread { expr, .. } if *invisible => Output::Hidden(OutputValue::Expr(expr)),
                        item => item,
                    });
                    continue;
                }
                let (value, aggregate, plain) = match alias_of_field.get(&index) {
                    Some(&alias) => {
                        (OutputValue::Alias(alias), compiler.is_of_group(&compiler.aliases[alias].value), false)
                    }
                    None => {
                        let compiled = compiler.expr(expr, Clause::Result, None)?;
                        let plain = is_plain(expr, &compiler);
                        let aggregate = compiler.is_of_group(&compiled);
                        (OutputValue::Expr(compiled.expr), aggregate, plain)
                    }
                };
                grouped |= aggregate;
                fields.push(match &names.of_field[index] {
                    Some(name) if !invisible => Output::Field { name: name.clone(), value, plain },
                    _ => Output::Hidden(value),
                });
            }
        }
    }

    if options.send_meta {
        let value = OutputValue::Expr(compiler.topic(0).expr);
        fields.push(Output::Field { name: Text::const_new(METADATA), value, plain: false });
    }

    let filter = condition(select.filter.as_ref(), "WHERE", &mut compiler)?;
    let admit = condition(select.window.as_ref().and_then(|w| w.filter.as_ref()), "FILTER", &mut compiler)?;
    let mut joins = Vec::new();
    for join in &select.joins {
        let on = condition(join.on.as_ref(), "ON", &mut compiler)?;
        let span = join.on.as_ref().map_or(join.source.name.span, |on| on.span);
        let text = join.on.as_ref().map(ToString::to_string).unwrap_or_default();
        joins.push(LogicalJoin { kind: join.kind, on, text, span });
    }
    let mut keys = Vec::new();
    for key in &select.group_by {
        keys.push(compiler.expr(key, Clause::Rows("GROUP BY"), None)?.expr);
    }
    let having = having(select.having.as_ref(), &mut compiler)?;
    let order = if select.window.is_some() {
        compiler.order_by(&select.order_by, "ORDER BY")?
    } else {
        compiler.check_order(&select.order_by)?;
        Vec::new()
    };
    let mut event_times = Vec::with_capacity(roles.len());
    for (index, role) in roles.iter().enumerate() {
        let timed = *role == Role::Stream && all_known;
        let times = if timed { event_time(options, &mut compiler.sources[index]) } else { Ok(None) };
        event_times.push(compiler.noted(times).flatten());
    }
    // With several streams the slowest of them holds back the watermark.
    let holds_back = options.late_tolerance > 0 || roles.iter().filter(|role| **role == Role::Stream).count() > 1;
    let Compiler {
        sources,
        aliases,
        aggregates,
        window_aggregates,
        steps,
        result_steps,
        numbers,
        elements,
        errors,
        ..
    } = compiler;
    if let Some(error) = PlanError::of_all(errors) {
        return Err(error);
    }
    let inputs = sources.into_iter().zip(roles).zip(event_times).map(|((source, role), event_time)| LogicalInput {
        stream: source.stream,
        role,
        columns: source.columns,
        event_time,
    });
    Ok(Logical {
        inputs: inputs.collect(),
        joins,
        aliases: aliases.into_iter().map(|a| Alias { name: a.name, expr: a.value.expr, shared: a.shared }).collect(),
        fields,
        filter,
        window,
        admit,
        keys,
        aggregates,
        window_aggregates,
        grouped,
        having,
        order,
        steps,
        result_steps,
        numbers,
        elements: elements.map(|elements| LogicalElements {
            aliases: elements.aliases,
            rows: elements.rows,
            before: elements.before,
            span: elements.span,
        }),
        limit: select.limit,
        watermark: options.event_time.then_some(Watermark { idle_timeout: options.idle_timeout, holds_back }),
    })
}

/// The streams and tables of FROM and JOIN. One that is not there is taken for a stream without a schema.
fn sources(
    select: &Select,
    options: &RuleOptions,
    catalog: &Catalog,
    errors: &mut Vec<PlanError>,
) -> Vec<compile::Source> {
    let written: Vec<&Source> = std::iter::once(&select.from).chain(select.joins.iter().map(|j| &j.source)).collect();
    let mut times: HashMap<&Text, usize> = HashMap::new();
    written.iter().for_each(|source| *times.entry(&source.name.name).or_default() += 1);
    let mut sources: Vec<compile::Source> = Vec::with_capacity(written.len());
    let mut known: HashSet<Text> = HashSet::new();
    for source in &written {
        let name = &source.name;
        let stream = catalog.relation(&name.name).cloned().unwrap_or_else(|| {
            PlanError::note(errors, || {
                if catalog.is_view(&name.name) {
                    let error = ViewError::ReadByRule(name.name.to_string());
                    return PlanError::at(PlanErrorKind::View(error), name.span);
                }
                let error = PlanError::at(PlanErrorKind::UnknownStream(name.name.to_string()), name.span);
                let relations = catalog.streams().chain(catalog.tables());
                error.meant(&name.name, relations.map(|relation| relation.name.as_str()))
            });
            Arc::new(StreamDef::of_name(name.name.clone()))
        });
        if stream.temporary && !options.temporary {
            PlanError::note(errors, || PlanError::at(PlanErrorKind::TemporaryStream(name.name.to_string()), name.span));
        }
        // A stream that is joined to itself is known by its aliases only.
        let twice = times[&name.name] > 1;
        let mut qualifiers: Vec<Text> = source.alias.iter().map(|alias| alias.name.clone()).collect();
        if !twice || source.alias.is_none() {
            qualifiers.push(name.name.clone());
        }
        if let Some(taken) = qualifiers.iter().find(|qualifier| known.contains(*qualifier)) {
            PlanError::note(errors, || PlanError::at(PlanErrorKind::SameSource(taken.to_string()), name.span));
        }
        known.extend(qualifiers.iter().cloned());
        sources.push(compile::Source::new(stream, qualifiers));
    }
    sources
}

/// The sources in the order in which they give the value of a name that several have: as written, but the side that a
/// RIGHT JOIN keeps goes before all on its left.
fn precedence(select: &Select) -> Vec<usize> {
    let mut order = vec![0];
    for (index, join) in (1..).zip(&select.joins) {
        order.insert(if join.kind == JoinKind::Right { 0 } else { order.len() }, index);
    }
    order
}

/// What a stream or table is for a rule that reads it.
fn role(stream: &StreamDef) -> Role {
    match stream.kind {
        Kind::Stream => Role::Stream,
        Kind::ScanTable { retain } => Role::Table { retain },
        Kind::LookupTable => Role::Lookup,
    }
}

/// Checks that the sources can be read together.
fn check_sources(select: &Select, sources: &[compile::Source], roles: &[Role], errors: &mut Vec<PlanError>) {
    // A scan table may stand first: it is joined to what the streams bring.
    let first_works = match roles[0] {
        Role::Stream => true,
        Role::Table { .. } => roles.contains(&Role::Stream),
        Role::Lookup => false,
    };
    if !first_works {
        let span = select.window.as_ref().map_or(select.from.name.span, |window| window.span);
        PlanError::note(errors, || PlanError::at(PlanErrorKind::TableAlone, span));
    }
    for (index, join) in select.joins.iter().enumerate() {
        let (role, name) = (roles[index + 1], &sources[index + 1].stream.name);
        let timeless = matches!(&select.window, None | Some(Window { kind: WindowKind::State { .. }, .. }));
        let others = roles[..=index].contains(&Role::Stream);
        if role == Role::Stream && timeless && others {
            PlanError::note(errors, || PlanError::at(PlanErrorKind::JoinWithoutWindow, join.source.name.span));
        }
        if role == Role::Lookup && !matches!(join.kind, JoinKind::Inner | JoinKind::Left) {
            let kind = PlanErrorKind::LookupJoin { kind: join.kind, table: name.to_string() };
            PlanError::note(errors, || PlanError::at(kind, join.source.name.span));
        }
    }
}

/// Checks what of a window needs no names.
fn check_window(window: &Window) -> Result<()> {
    let at = |kind| Err(PlanError::at(kind, window.span));
    if window.kind.lengths().contains(&0) {
        return at(PlanErrorKind::EmptyWindow);
    }
    let refused = match (&window.kind, &window.over) {
        (_, None) => None,
        (WindowKind::Sliding { .. }, Some(over)) => (!over.partition_by.is_empty()).then_some("PARTITION BY"),
        (WindowKind::State { .. }, Some(over)) => over.when.is_some().then_some("WHEN"),
        (_, Some(_)) => Some("OVER"),
    };
    refused.map_or(Ok(()), |part| at(PlanErrorKind::WindowOver(part)))
}

/// The window with its conditions, which may read aliases and are about rows before they are gathered.
fn window_spec(window: &Window, compiler: &mut Compiler) -> Result<WindowSpec<SlotRef>> {
    let gathers = std::mem::replace(&mut compiler.gathers, false);
    compiler.in_window = true;
    let spec = window_conditions(window, compiler);
    compiler.in_window = false;
    compiler.gathers = gathers;
    spec
}

fn window_conditions(window: &Window, compiler: &mut Compiler) -> Result<WindowSpec<SlotRef>> {
    let over = window.over.as_ref();
    let mut row = |expr: &ast::Expr, clause| Ok(compiler.expr(expr, Clause::Rows(clause), None)?.expr);
    let millis = |unit: Unit, length: u64| i64::try_from(length.saturating_mul(unit.millis())).unwrap_or(i64::MAX / 4);
    let when = |row: &mut dyn FnMut(&ast::Expr, &'static str) -> Result<Expr>| match over {
        Some(Over { when: Some(when), .. }) => row(when, "OVER").map(Some),
        _ => Ok(None),
    };
    let spec = match &window.kind {
        WindowKind::Tumbling { unit, length } => WindowSpec::Hopping { unit: *unit, length: *length, hop: *length },
        WindowKind::Hopping { unit, length, hop } => WindowSpec::Hopping { unit: *unit, length: *length, hop: *hop },
        WindowKind::Sliding { unit, length, delay } => {
            WindowSpec::Sliding { length: millis(*unit, *length), delay: millis(*unit, *delay), when: when(&mut row)? }
        }
        WindowKind::Session { unit, max, timeout } => {
            WindowSpec::Session { unit: *unit, max: *max, timeout: millis(*unit, *timeout) }
        }
        WindowKind::Count { length, interval } => WindowSpec::Count { length: *length, interval: *interval },
        WindowKind::State { begin, end } => WindowSpec::State {
            begin: row(begin, "STATEWINDOW")?,
            end: end.as_ref().map(|end| row(end, "STATEWINDOW")).transpose()?,
            partition: over
                .iter()
                .flat_map(|over| &over.partition_by)
                .map(|key| row(key, "OVER"))
                .collect::<Result<_>>()?,
        },
    };
    Ok(spec)
}

/// The call of a field that gives several columns or rows, if it is one.
fn made_of_many(expr: &ast::Expr) -> Option<(&'static Function, &ast::Call)> {
    let ExprKind::Call(call) = &expr.kind else { return None };
    let function = function::lookup(&call.name.name)?;
    matches!(function.code, Code::SetReturning(_) | Code::Analytic(Analytic::ChangedCols)).then_some((function, call))
}

/// A field that gives several columns or rows, and whether it has an aggregate.
fn spread(
    function: &'static Function,
    call: &ast::Call,
    span: Span,
    name: Text,
    alias: Option<Compiled>,
    compiler: &mut Compiler,
) -> Result<(Output, bool)> {
    let (compiled, name) = match (function.code, alias) {
        (_, Some(element)) => (element, name),
        (Code::SetReturning(_), None) => (compiler.set_returning(function, call, span)?, name),
        _ => (compiler.changed_cols(function, call, span)?, Text::default()),
    };
    let aggregate = compiler.is_of_group(&compiled);
    Ok((Output::Spread { expr: compiled.expr, name }, aggregate))
}

/// The names of the result's members.
struct Names {
    /// of each field; none for stars
    of_field: Vec<Option<Text>>,
    /// all, those of REPLACE too
    all: Vec<Text>,
}

fn output_names(fields: &[Field], errors: &mut Vec<PlanError>) -> Names {
    let mut names = Names { of_field: Vec::new(), all: Vec::new() };
    let (mut seen, mut aliases, mut stars) = (HashSet::new(), HashSet::new(), 0);
    let mut unnamed = 0;
    for field in fields {
        if let Field::Expr { alias: Some(alias), .. } = field
            && !aliases.insert(alias.name.clone())
        {
            PlanError::note(errors, || {
                PlanError::at(PlanErrorKind::DuplicateAlias(alias.name.to_string()), alias.span)
            });
        }
    }
    for field in fields {
        match field {
            Field::Expr { expr, alias, .. } => {
                let changed_cols = made_of_many(expr).is_some_and(|(function, _)| function.name == "changed_cols");
                let name = match alias {
                    _ if changed_cols => {
                        names.of_field.push(None);
                        continue;
                    }
                    Some(alias) => alias.name.clone(),
                    None => default_name(expr, &mut unnamed),
                };
                let again = alias.as_ref().is_some_and(|alias| {
                    let is_alias = |kind: &PlanErrorKind| matches!(kind, PlanErrorKind::DuplicateAlias(_));
                    errors.iter().any(|error| {
                        is_alias(&error.kind) && error.span().map(|span| span.start) == Some(alias.span.start)
                    })
                });
                if !seen.insert(name.clone()) && !again {
                    let span = alias.as_ref().map_or(expr.span, |alias| alias.span);
                    PlanError::note(errors, || PlanError::at(PlanErrorKind::DuplicateField(name.to_string()), span));
                }
                names.of_field.push(Some(name.clone()));
                names.all.push(name);
            }
            Field::Star(star) => {
                stars += 1;
                if stars > 1 {
                    PlanError::note(errors, || PlanError::at(PlanErrorKind::DuplicateField("*".to_owned()), star.span));
                }
                for (_, Ident { name, span }) in &star.replace {
                    if !seen.insert(name.clone()) {
                        PlanError::note(errors, || {
                            PlanError::at(PlanErrorKind::DuplicateField(name.to_string()), *span)
                        });
                    }
                    names.all.push(name.clone());
                }
                names.of_field.push(None);
            }
        }
    }
    names
}

/// A field of the stream that is passed through by its name.
fn is_plain(expr: &ast::Expr, compiler: &Compiler) -> bool {
    match &expr.kind {
        ExprKind::Column(_) => true,
        ExprKind::Dot(left, _) => {
            matches!(&left.kind, ExprKind::Column(name) if compiler.qualified(name).is_some())
        }
        _ => false,
    }
}

/// Compiles the aliases, each after those that it needs, and gives the index of each by the index of its field.
fn compile_aliases(fields: &[Field], compiler: &mut Compiler) -> Result<HashMap<usize, usize>> {
    let aliased: Vec<(usize, &ast::Expr, &Ident)> = fields
        .iter()
        .enumerate()
        .filter_map(|(index, field)| match field {
            Field::Expr { expr, alias: Some(alias), .. } => match made_of_many(expr) {
                Some((function, _)) if matches!(function.code, Code::Analytic(_)) => None,
                _ => Some((index, expr, alias)),
            },
            _ => None,
        })
        .collect();
    let qualifiers: Vec<Text> = compiler.qualifiers().cloned().collect();
    let by_name: HashMap<&str, usize> =
        aliased.iter().enumerate().map(|(index, (_, _, alias))| (alias.name.as_str(), index)).collect();
    // How many others each waits for, and who waits for it.
    let mut waits: Vec<usize> = vec![0; aliased.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); aliased.len()];
    for (index, (_, expr, alias)) in aliased.iter().enumerate() {
        let needed: HashSet<usize> = column_names(expr, &qualifiers)
            .into_iter()
            .filter(|name| **name != alias.name)
            .filter_map(|name| by_name.get(name.as_str()).copied())
            .collect();
        waits[index] = needed.len();
        for other in needed {
            readers[other].push(index);
        }
    }
    let mut ready: std::collections::BTreeSet<usize> = (0..aliased.len()).filter(|i| waits[*i] == 0).collect();
    let mut of_field = HashMap::new();
    while let Some(index) = ready.pop_first() {
        let (field, expr, alias) = aliased[index];
        let value = match made_of_many(expr) {
            Some((function, call)) => {
                let before = compiler.errors.len();
                match compiler.set_returning(function, call, expr.span) {
                    Ok(element) => element,
                    Err(error) => {
                        if compiler.errors.len() == before {
                            compiler.note(error);
                        }
                        compiler.unknown_value()
                    }
                }
            }
            None => compiler.expr(expr, Clause::Result, Some(&alias.name))?,
        };
        compiler.aliases_by_name.insert(alias.name.clone(), compiler.aliases.len());
        of_field.insert(field, compiler.aliases.len());
        let written = value.aggregate.then(|| expr.clone());
        compiler.aliases.push(Known { name: alias.name.clone(), value, shared: false, written });
        for &reader in &readers[index] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    match (0..aliased.len()).find(|index| waits[*index] > 0) {
        // Nothing can be said of what reads them.
        Some(index) => {
            compiler.note(PlanError::at(PlanErrorKind::AliasCycle, aliased[index].2.span));
            Err(PlanError::of_all(std::mem::take(&mut compiler.errors)).expect("one was just noted"))
        }
        None => Ok(of_field),
    }
}

/// Adds what `*` stands for, and says whether its REPLACE has an aggregate.
fn star(star: &Star, names: &Names, compiler: &mut Compiler, fields: &mut Vec<Output>) -> Result<bool> {
    let inputs = match &star.stream {
        None => compiler.precedence.clone(),
        Some(stream) => match compiler.qualified(&stream.name) {
            Some(input) => vec![input],
            None => {
                let error = PlanError::at(PlanErrorKind::UnknownField(stream.name.to_string()), stream.span);
                return Err(error.meant(&stream.name, compiler.qualifiers().map(Text::as_str)));
            }
        },
    };
    let mut except: Vec<Text> = Vec::new();
    let mut seen = HashSet::new();
    for name in star.except.iter().map(|ident| &ident.name).chain(&names.all) {
        if seen.insert(name.clone()) {
            except.push(name.clone());
        }
    }
    // Of equal names the column of the stream that goes first counts. The whole messages of schemaless streams come last, without
    // what schemas declare.
    let mut wholes = Vec::new();
    for input in inputs {
        match compiler.sources[input].stream.clone().columns.as_deref() {
            None => wholes.push(compiler.whole(input)),
            Some(columns) => {
                for column in columns {
                    let name = column.name.name.clone();
                    if seen.insert(name.clone()) {
                        let value = OutputValue::Expr(compiler.column_of(input, &name, star.span)?.expr);
                        except.push(name.clone());
                        fields.push(Output::Field { name, value, plain: true });
                    }
                }
            }
        }
    }
    if !wholes.is_empty() {
        fields.push(Output::Star { slots: wholes, except });
    }
    let mut aggregate = false;
    for (expr, ident) in &star.replace {
        let compiled = compiler.expr(expr, Clause::Result, Some(&ident.name))?;
        aggregate |= compiler.is_of_group(&compiled);
        let value = OutputValue::Expr(compiled.expr);
        fields.push(Output::Field { name: ident.name.clone(), value, plain: false });
    }
    Ok(aggregate)
}

fn condition(expr: Option<&ast::Expr>, clause: &'static str, compiler: &mut Compiler) -> Result<Option<Expr>> {
    let Some(expr) = expr else { return Ok(None) };
    let compiled = compiler.expr(expr, Clause::Rows(clause), None)?;
    let checked = compiler.check_condition(&compiled, expr, clause);
    if compiler.noted(checked).is_none() {
        return Ok(None);
    }
    let useful = useful(compiled, expr, clause);
    Ok(compiler.noted(useful).flatten().map(|compiled| compiled.expr))
}

fn having(expr: Option<&ast::Expr>, compiler: &mut Compiler) -> Result<Option<Expr>> {
    let Some(expr) = expr else { return Ok(None) };
    let compiled = compiler.expr(expr, Clause::Groups("HAVING"), None)?;
    if compiled.row {
        compiler.note(PlanError::at(PlanErrorKind::Having(expr.to_string()), expr.span));
    }
    let useful = useful(compiled, expr, "HAVING");
    Ok(compiler.noted(useful).flatten().map(|compiled| compiled.expr))
}

/// Refuses a constant that is no condition, and drops one that is always true.
fn useful(compiled: Compiled, expr: &ast::Expr, clause: &'static str) -> Result<Option<Compiled>> {
    match compiled.literal() {
        Some(Value::Bool(true)) => Ok(None),
        None | Some(Value::Bool(false)) => Ok(Some(compiled)),
        Some(_) => Err(PlanError::at(PlanErrorKind::Condition { clause, found: expr.to_string() }, expr.span)),
    }
}

/// Event time of a stream; the slot is the number of its column.
fn event_time(options: &RuleOptions, source: &mut compile::Source) -> Result<Option<EventTime>> {
    if !options.event_time {
        return Ok(None);
    }
    let stream = source.stream.clone();
    let Some(path) = &stream.timestamp else { return Err(PlanError::new(PlanErrorKind::NoTimestamp, None)) };
    let name = path.column();
    let ty = match &stream.columns {
        None => None,
        Some(columns) => match columns.iter().find(|column| column.name.name == *name) {
            Some(column) => Some(column.ty.clone()),
            None => return Err(PlanError::new(PlanErrorKind::UnknownTimestamp(name.to_string()), None)),
        },
    };
    Ok(Some(EventTime {
        slot: source.column(ColumnSource::Key(name.clone()), ty),
        path: path.clone(),
        format: stream.timestamp_format.clone(),
        late_tolerance: options.late_tolerance,
        max_future_skew: if stream.own_clock { 0 } else { options.max_future_skew },
    }))
}
