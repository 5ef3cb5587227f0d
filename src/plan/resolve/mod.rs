//! Resolves the names of a rule to columns, aliases and aggregates, and checks its clauses.

mod select_list;
mod sources;
mod window;

use self::select_list::{Stars, compile_aliases, is_plain, made_of_many, output_names, spread, star};
use self::sources::{check_sources, precedence, role, sources};
use self::window::{check_window, window_spec};
use super::compile::{self, Clause, Compiled, Compiler};
use super::error::{PlanError, PlanErrorKind};
use super::logical::{Alias, Expr, Logical, LogicalElements, LogicalInput, LogicalJoin, Output, OutputValue};
use super::physical::{ColumnSource, EventTime, Role, Watermark};
use crate::definition::rule::RuleOptions;
use crate::definition::stream::{Catalog, EventClock};
use crate::expr::function;
use crate::sql::ast::{self, ExprKind, Field, Select};
use crate::value::{Text, Value};

/// The member of a result with the metadata of its message, for `sendMetaToSink`.
const METADATA: &str = "__meta";

/// The most streams and tables of a rule: each schemaless one has a column for every name.
const MAX_SOURCES: usize = 64;

type Result<T, E = PlanError> = std::result::Result<T, E>;

/// Resolves a rule over the catalog. The error is the first one, together with all independent others.
pub fn resolve(select: &Select, options: &RuleOptions, catalog: &Catalog) -> Result<Logical> {
    if let Some(beyond) = select.joins.get(MAX_SOURCES - 1) {
        let kind = PlanErrorKind::TooManySources { found: 1 + select.joins.len(), most: MAX_SOURCES };
        return Err(PlanError::at(kind, beyond.source.name.span));
    }
    let mut errors = Vec::new();
    let sources = sources(select, options, catalog, &mut errors);
    let roles: Vec<Role> = sources.iter().enumerate().map(|(input, source)| role(&source.stream, input)).collect();
    // If a stream is missing, its kind is unknown, and so are the allowed combinations.
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
    // A key that calls an unknown function was probably meant to be a window, and is reported as such.
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
    let mut stars = Stars::default();
    let mut grouped = !select.group_by.is_empty();
    for (index, field) in select.fields.iter().enumerate() {
        match field {
            Field::Star(star) => {
                let aggregate = self::star(star, &names, &mut stars, &mut compiler, &mut fields);
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
                            // As in expressions, this error may follow from one in the arguments.
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

    stars.finish(&names, &mut fields);
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
    // With several streams, the slowest one holds back the watermark.
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
    if let Some(error) = PlanError::from_all(errors) {
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

fn condition(expr: Option<&ast::Expr>, clause: &'static str, compiler: &mut Compiler) -> Result<Option<Expr>> {
    let Some(expr) = expr else { return Ok(None) };
    let compiled = compiler.expr(expr, Clause::Rows(clause), None)?;
    let checked = compiler.check_condition(&compiled, expr, clause);
    if compiler.noted(checked).is_none() {
        return Ok(None);
    }
    Ok(Some(compiled).filter(|compiled| !is_always_true(compiled)).map(|compiled| compiled.expr))
}

fn having(expr: Option<&ast::Expr>, compiler: &mut Compiler) -> Result<Option<Expr>> {
    let Some(expr) = expr else { return Ok(None) };
    let compiled = compiler.expr(expr, Clause::Groups("HAVING"), None)?;
    if compiled.row {
        compiler.note(PlanError::at(PlanErrorKind::Having(expr.to_string()), expr.span));
    }
    let checked = compiler.check_condition(&compiled, expr, "HAVING");
    if compiler.noted(checked).is_none() {
        return Ok(None);
    }
    Ok(Some(compiled).filter(|compiled| !is_always_true(compiled)).map(|compiled| compiled.expr))
}

/// A condition that is always true is dropped.
fn is_always_true(compiled: &Compiled) -> bool {
    matches!(compiled.literal(), Some(Value::Bool(true)))
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
        max_future_skew: if stream.clock == EventClock::Data { 0 } else { options.max_future_skew },
        follows_wall: stream.clock == EventClock::Wall,
    }))
}
