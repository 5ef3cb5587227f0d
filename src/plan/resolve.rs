//! What a rule means: its names resolved to columns, aliases and aggregates, its clauses checked.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::compile::{Clause, Compiled, Compiler, Known, column_names};
use super::error::{PlanError, PlanErrorKind};
use super::logical::{Alias, Logical, Output, OutputValue};
use super::physical::{ColumnSource, EventTime, WindowSpec};
use crate::catalog::{Catalog, StreamDef};
use crate::rule::RuleOptions;
use crate::sql::ast::{self, ExprKind, Field, Ident, Select, Source, Span, Star, Window, WindowKind};
use crate::value::{Text, Value};

type Result<T, E = PlanError> = std::result::Result<T, E>;

/// Resolves a rule over the streams of the catalog.
pub fn resolve(select: &Select, options: &RuleOptions, catalog: &Catalog) -> Result<Logical> {
    let stream = source(&select.from, catalog)?;
    for join in &select.joins {
        source(&join.source, catalog)?;
    }
    if stream.temporary && !options.temporary {
        let name = &select.from.name;
        return Err(PlanError::at(PlanErrorKind::TemporaryStream(name.name.to_string()), name.span));
    }
    refuse_what_is_not_there(select)?;
    let window = select.window.as_ref().map(window_spec).transpose()?;
    if let (Some(key), None) = (select.group_by.first(), &window) {
        return Err(PlanError::at(PlanErrorKind::GroupByWithoutWindow, key.span));
    }
    let names = output_names(&select.fields)?;

    let mut qualifiers = vec![select.from.name.name.clone()];
    qualifiers.extend(select.from.alias.iter().map(|alias| alias.name.clone()));
    let mut compiler = Compiler::new(stream.clone(), qualifiers);
    let alias_of_field = compile_aliases(&select.fields, &mut compiler)?;

    let mut fields = Vec::new();
    let mut grouped = !select.group_by.is_empty();
    for (index, field) in select.fields.iter().enumerate() {
        match field {
            Field::Star(star) => grouped |= self::star(star, &names, &mut compiler, &mut fields)?,
            Field::Expr { expr, invisible, .. } => {
                let (value, aggregate, plain) = match alias_of_field.get(&index) {
                    Some(&alias) => (OutputValue::Alias(alias), compiler.aliases[alias].value.aggregate, false),
                    None => {
                        let compiled = compiler.expr(expr, Clause::Result, None)?;
                        let plain = is_plain(expr, &compiler);
                        (OutputValue::Expr(compiled.expr), compiled.aggregate, plain)
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

    let filter = condition(select.filter.as_ref(), "WHERE", &mut compiler)?;
    let admit = condition(select.window.as_ref().and_then(|w| w.filter.as_ref()), "FILTER", &mut compiler)?;
    let mut keys = Vec::new();
    for key in &select.group_by {
        keys.push(compiler.expr(key, Clause::Rows("GROUP BY"), None)?.expr);
    }
    let having = having(select.having.as_ref(), &mut compiler)?;
    let event_time = event_time(options, &stream, &mut compiler)?;

    let aliases = compiler.aliases.into_iter();
    Ok(Logical {
        stream,
        columns: compiler.columns,
        aliases: aliases.map(|a| Alias { name: a.name, expr: a.value.expr, shared: a.shared }).collect(),
        fields,
        filter,
        window,
        admit,
        keys,
        aggregates: compiler.aggregates,
        grouped,
        having,
        limit: select.limit,
        event_time,
    })
}

fn source(source: &Source, catalog: &Catalog) -> Result<Arc<StreamDef>> {
    let name = &source.name;
    catalog.stream(&name.name).cloned().ok_or_else(|| {
        let error = PlanError::at(PlanErrorKind::UnknownStream(name.name.to_string()), name.span);
        error.meant(&name.name, catalog.streams().map(|stream| stream.name.as_str()))
    })
}

fn refuse_what_is_not_there(select: &Select) -> Result<()> {
    let not_yet = |what: &str, span: Span| Err(PlanError::at(PlanErrorKind::NotYet(what.to_owned()), span));
    if let Some(join) = select.joins.first() {
        return not_yet("JOIN", join.source.name.span);
    }
    if let Some(key) = select.order_by.first() {
        return not_yet("ORDER BY", key.expr.span);
    }
    if let Some(Window { over: Some(_), span, .. }) = &select.window {
        return not_yet("OVER after a window", *span);
    }
    Ok(())
}

fn window_spec(window: &Window) -> Result<WindowSpec> {
    let not_yet = |name: &str| Err(PlanError::at(PlanErrorKind::NotYet(name.to_owned()), window.span));
    match &window.kind {
        WindowKind::Tumbling { length: 0, .. } | WindowKind::Count { length: 0, .. } => {
            Err(PlanError::at(PlanErrorKind::EmptyWindow, window.span))
        }
        WindowKind::Count { interval: 0, .. } => Err(PlanError::at(PlanErrorKind::EmptyWindow, window.span)),
        WindowKind::Tumbling { unit, length } => Ok(WindowSpec::Tumbling { unit: *unit, length: *length }),
        WindowKind::Count { length, interval } => Ok(WindowSpec::Count { length: *length, interval: *interval }),
        WindowKind::Hopping { .. } => not_yet("HOPPINGWINDOW"),
        WindowKind::Sliding { .. } => not_yet("SLIDINGWINDOW"),
        WindowKind::Session { .. } => not_yet("SESSIONWINDOW"),
        WindowKind::State { .. } => not_yet("STATEWINDOW"),
    }
}

/// The names of the result's members.
struct Names {
    /// of each field; none for stars
    of_field: Vec<Option<Text>>,
    /// all, those of REPLACE too
    all: Vec<Text>,
}

fn output_names(fields: &[Field]) -> Result<Names> {
    let mut names = Names { of_field: Vec::new(), all: Vec::new() };
    let (mut seen, mut aliases, mut stars) = (HashSet::new(), HashSet::new(), 0);
    let mut unnamed = 0;
    for field in fields {
        if let Field::Expr { alias: Some(alias), .. } = field
            && !aliases.insert(alias.name.clone())
        {
            return Err(PlanError::at(PlanErrorKind::DuplicateAlias(alias.name.to_string()), alias.span));
        }
    }
    for field in fields {
        match field {
            Field::Expr { expr, alias, .. } => {
                let name = match alias {
                    Some(alias) => alias.name.clone(),
                    None => default_name(expr, &mut unnamed),
                };
                if !seen.insert(name.clone()) {
                    let span = alias.as_ref().map_or(expr.span, |alias| alias.span);
                    return Err(PlanError::at(PlanErrorKind::DuplicateField(name.to_string()), span));
                }
                names.of_field.push(Some(name.clone()));
                names.all.push(name);
            }
            Field::Star(star) => {
                stars += 1;
                if stars > 1 {
                    return Err(PlanError::at(PlanErrorKind::DuplicateField("*".to_owned()), star.span));
                }
                for (_, Ident { name, span }) in &star.replace {
                    if !seen.insert(name.clone()) {
                        return Err(PlanError::at(PlanErrorKind::DuplicateField(name.to_string()), *span));
                    }
                    names.all.push(name.clone());
                }
                names.of_field.push(None);
            }
        }
    }
    Ok(names)
}

fn default_name(expr: &ast::Expr, unnamed: &mut usize) -> Text {
    match &expr.kind {
        ExprKind::Column(name) => name.clone(),
        ExprKind::Dot(left, name) if matches!(left.kind, ExprKind::Column(_)) => name.name.clone(),
        ExprKind::Call(call) => call.name.name.to_ascii_lowercase(),
        _ => {
            *unnamed += 1;
            Text::from(format!("kuiper_field_{}", *unnamed - 1))
        }
    }
}

/// A field of the stream that is passed through by its name.
fn is_plain(expr: &ast::Expr, compiler: &Compiler) -> bool {
    match &expr.kind {
        ExprKind::Column(_) => true,
        ExprKind::Dot(left, _) => {
            matches!(&left.kind, ExprKind::Column(name) if compiler.qualifiers.contains(name))
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
            Field::Expr { expr, alias: Some(alias), .. } => Some((index, expr, alias)),
            _ => None,
        })
        .collect();
    let by_name: HashMap<&str, usize> =
        aliased.iter().enumerate().map(|(index, (_, _, alias))| (alias.name.as_str(), index)).collect();
    // How many others each waits for, and who waits for it.
    let mut waits: Vec<usize> = vec![0; aliased.len()];
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); aliased.len()];
    for (index, (_, expr, alias)) in aliased.iter().enumerate() {
        let needed: HashSet<usize> = column_names(expr, &compiler.qualifiers)
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
        let value = compiler.expr(expr, Clause::Result, Some(&alias.name))?;
        compiler.aliases_by_name.insert(alias.name.clone(), compiler.aliases.len());
        of_field.insert(field, compiler.aliases.len());
        compiler.aliases.push(Known { name: alias.name.clone(), value, shared: false });
        for &reader in &readers[index] {
            waits[reader] -= 1;
            if waits[reader] == 0 {
                ready.insert(reader);
            }
        }
    }
    match (0..aliased.len()).find(|index| waits[*index] > 0) {
        Some(index) => Err(PlanError::at(PlanErrorKind::AliasCycle, aliased[index].2.span)),
        None => Ok(of_field),
    }
}

/// Adds what `*` stands for, and says whether its REPLACE has an aggregate.
fn star(star: &Star, names: &Names, compiler: &mut Compiler, fields: &mut Vec<Output>) -> Result<bool> {
    if let Some(stream) = &star.stream
        && !compiler.qualifiers.contains(&stream.name)
    {
        let error = PlanError::at(PlanErrorKind::UnknownField(stream.name.to_string()), stream.span);
        return Err(error.meant(&stream.name, compiler.qualifiers.iter().map(Text::as_str)));
    }
    let mut except: Vec<Text> = Vec::new();
    let mut seen = HashSet::new();
    for name in star.except.iter().map(|ident| &ident.name).chain(&names.all) {
        if seen.insert(name) {
            except.push(name.clone());
        }
    }
    match compiler.stream.clone().columns.as_deref() {
        None => fields.push(Output::Star { slot: compiler.slot(ColumnSource::Whole, None), except }),
        Some(columns) => {
            for column in columns.iter().filter(|column| !seen.contains(&column.name.name)) {
                let name = column.name.name.clone();
                let value = OutputValue::Expr(compiler.column(&name, star.span)?.expr);
                fields.push(Output::Field { name, value, plain: true });
            }
        }
    }
    let mut aggregate = false;
    for (expr, ident) in &star.replace {
        let compiled = compiler.expr(expr, Clause::Result, Some(&ident.name))?;
        aggregate |= compiled.aggregate;
        let value = OutputValue::Expr(compiled.expr);
        fields.push(Output::Field { name: ident.name.clone(), value, plain: false });
    }
    Ok(aggregate)
}

fn condition(
    expr: Option<&ast::Expr>,
    clause: &'static str,
    compiler: &mut Compiler,
) -> Result<Option<crate::expr::Expr>> {
    let Some(expr) = expr else { return Ok(None) };
    let compiled = compiler.expr(expr, Clause::Rows(clause), None)?;
    Ok(useful(compiled, expr, clause)?.map(|compiled| compiled.expr))
}

fn having(expr: Option<&ast::Expr>, compiler: &mut Compiler) -> Result<Option<crate::expr::Expr>> {
    let Some(expr) = expr else { return Ok(None) };
    let compiled = compiler.expr(expr, Clause::Result, None)?;
    if compiled.row {
        return Err(PlanError::at(PlanErrorKind::Having(expr.to_string()), expr.span));
    }
    Ok(useful(compiled, expr, "HAVING")?.map(|compiled| compiled.expr))
}

/// Refuses a constant that is no condition, and drops one that is always true.
fn useful(compiled: Compiled, expr: &ast::Expr, clause: &'static str) -> Result<Option<Compiled>> {
    match compiled.literal() {
        Some(Value::Bool(true)) => Ok(None),
        None | Some(Value::Bool(false)) => Ok(Some(compiled)),
        Some(_) => Err(PlanError::at(PlanErrorKind::Condition { clause, found: expr.to_string() }, expr.span)),
    }
}

fn event_time(options: &RuleOptions, stream: &StreamDef, compiler: &mut Compiler) -> Result<Option<EventTime>> {
    if !options.event_time {
        return Ok(None);
    }
    let Some(name) = &stream.timestamp else { return Err(PlanError::new(PlanErrorKind::NoTimestamp, None)) };
    let ty = match &stream.columns {
        None => None,
        Some(columns) => match columns.iter().find(|column| column.name.name == *name) {
            Some(column) => Some(column.ty.clone()),
            None => return Err(PlanError::new(PlanErrorKind::UnknownTimestamp(name.to_string()), None)),
        },
    };
    let slot = compiler.slot(ColumnSource::Key(name.clone()), ty);
    Ok(Some(EventTime { slot, format: stream.timestamp_format.clone(), late_tolerance: options.late_tolerance }))
}
