//! The select list: names of the result's members, aliases, stars, and calls that give several columns or rows.

use std::collections::{HashMap, HashSet};

use super::Result;
use crate::expr::analytic::Analytic;
use crate::expr::function::{self, Code, Function};
use crate::plan::compile::{Clause, Compiled, Compiler, Known, column_names, default_name};
use crate::plan::error::{PlanError, PlanErrorKind};
use crate::plan::logical::{Output, OutputValue, SlotRef};
use crate::plan::physical::WholeMessage;
use crate::sql::ast::{self, ExprKind, Field, Ident, Star};
use crate::text::span::Span;
use crate::value::Text;

/// The field's call, if the field returns several columns or rows.
pub(super) fn made_of_many(expr: &ast::Expr) -> Option<(&'static Function, &ast::Call)> {
    let ExprKind::Call(call) = &expr.kind else { return None };
    let function = function::lookup(&call.name.name)?;
    matches!(function.code, Code::SetReturning(_) | Code::Analytic(Analytic::ChangedCols)).then_some((function, call))
}

/// A field that returns several columns or rows, and whether it contains an aggregate.
pub(super) fn spread(
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
pub(super) struct Names {
    /// By field; `None` for stars.
    pub of_field: Vec<Option<Text>>,
    /// All names, including those of REPLACE.
    pub all: Vec<Text>,
}

pub(super) fn output_names(fields: &[Field], errors: &mut Vec<PlanError>) -> Names {
    let mut names = Names { of_field: Vec::new(), all: Vec::new() };
    let (mut seen, mut aliases) = (HashSet::new(), HashSet::new());
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

/// Whether a field is a column selected by its name.
pub(super) fn is_plain(expr: &ast::Expr, compiler: &Compiler) -> bool {
    match &expr.kind {
        ExprKind::Column(_) => true,
        ExprKind::Dot(left, _) => {
            matches!(&left.kind, ExprKind::Column(name) if compiler.qualified(name).is_some())
        }
        _ => false,
    }
}

/// Compiles the aliases, each after those that it needs. Returns the number of each by the index of its field.
pub(super) fn compile_aliases(fields: &[Field], compiler: &mut Compiler) -> Result<HashMap<usize, usize>> {
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
    // The number of aliases that each waits for, and the aliases that wait for it.
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
        // Expressions that read it cannot be checked.
        Some(index) => {
            compiler.note(PlanError::at(PlanErrorKind::AliasCycle, aliased[index].2.span));
            Err(PlanError::from_all(std::mem::take(&mut compiler.errors)).expect("one was just noted"))
        }
        None => Ok(of_field),
    }
}

/// What the stars of a select list show. If several show columns of the same name, the first one counts.
#[derive(Default)]
pub(super) struct Stars {
    /// Declared columns.
    shown: Vec<Text>,
    /// Messages of schemaless streams, each without the names in its star's EXCEPT.
    wholes: Vec<WholeMessage<SlotRef>>,
    /// The place of their members in the select list.
    place: usize,
}

impl Stars {
    /// Adds the members of complete messages, without what other fields show.
    pub(super) fn finish(mut self, names: &Names, fields: &mut Vec<Output>) {
        if self.wholes.is_empty() {
            return;
        }
        for whole in &mut self.wholes {
            let mut seen: HashSet<Text> = whole.except.iter().cloned().collect();
            let others = names.all.iter().chain(&self.shown).filter(|name| seen.insert((*name).clone()));
            whole.except.extend(others.cloned());
        }
        fields.insert(self.place, Output::Star { messages: self.wholes });
    }
}

/// Expands `*`. Returns whether its REPLACE contains an aggregate.
pub(super) fn star(
    star: &Star,
    names: &Names,
    stars: &mut Stars,
    compiler: &mut Compiler,
    fields: &mut Vec<Output>,
) -> Result<bool> {
    let inputs = match &star.stream {
        None => compiler.precedence.clone(),
        Some(stream) => vec![compiler.stream_named(&stream.name, stream.span)?],
    };
    let mut except: Vec<Text> = Vec::new();
    for Ident { name, .. } in &star.except {
        if !except.contains(name) {
            except.push(name.clone());
        }
    }
    // If streams have columns with the same name, the first stream's counts. Complete messages of schemaless streams
    // come last, without the declared columns of the others.
    let mut seen: HashSet<Text> = except.iter().chain(&names.all).chain(&stars.shown).cloned().collect();
    let first = stars.wholes.is_empty();
    for input in inputs {
        match compiler.sources[input].stream.clone().columns.as_deref() {
            None => stars.wholes.push(WholeMessage { slot: compiler.whole(input), except: except.clone() }),
            Some(columns) => {
                for column in columns {
                    let name = column.name.name.clone();
                    if seen.insert(name.clone()) {
                        let value = OutputValue::Expr(compiler.column_of(input, &name, star.span)?.expr);
                        stars.shown.push(name.clone());
                        fields.push(Output::Field { name, value, plain: true });
                    }
                }
            }
        }
    }
    if first {
        stars.place = fields.len();
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
