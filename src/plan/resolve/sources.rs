//! The streams and tables that a rule reads.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::definition::rule::RuleOptions;
use crate::definition::stream::{Catalog, RelationKind, StreamDef};
use crate::plan::compile;
use crate::plan::error::{PlanError, PlanErrorKind};
use crate::plan::physical::Role;
use crate::plan::view::ViewError;
use crate::sql::ast::{JoinKind, Select, Source, WindowKind};
use crate::value::Text;

/// The sources of FROM and JOIN. A missing one is treated as a stream without a schema.
pub(super) fn sources(
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
        let stream = catalog.source(&name.name).cloned().unwrap_or_else(|| {
            PlanError::note(errors, || {
                if catalog.is_view(&name.name) {
                    let error = ViewError::Unknown(name.name.to_string());
                    return PlanError::at(PlanErrorKind::View(error), name.span);
                }
                let error = PlanError::at(PlanErrorKind::UnknownStream(name.name.to_string()), name.span);
                let relations = catalog.streams().chain(catalog.tables()).chain(catalog.views());
                error.suggest(&name.name, relations.map(|relation| relation.name.as_str()))
            });
            Arc::new(StreamDef::schemaless(name.name.clone()))
        });
        if stream.temporary && !options.temporary {
            PlanError::note(errors, || PlanError::at(PlanErrorKind::TemporaryStream(name.name.to_string()), name.span));
        }
        // If a stream is joined to itself, only its aliases name it.
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

/// The sources in the order in which they provide a name that several have: as written, but the side that a RIGHT JOIN
/// keeps comes before everything on its left.
pub(super) fn precedence(select: &Select) -> Vec<usize> {
    let mut order = vec![0];
    for (index, join) in (1..).zip(&select.joins) {
        order.insert(if join.kind == JoinKind::Right { 0 } else { order.len() }, index);
    }
    order
}

/// How a rule reads a stream, table or view as this input: FROM reads a view's changes, JOIN its current rows.
pub(super) fn role(stream: &StreamDef, input: usize) -> Role {
    match stream.kind {
        RelationKind::View if input == 0 => Role::Stream,
        RelationKind::View => Role::Lookup,
        RelationKind::Stream => Role::Stream,
        RelationKind::ScanTable { retain } => Role::Table { retain },
        RelationKind::LookupTable => Role::Lookup,
    }
}

/// Whether streams can be joined in this kind of window.
fn joins_streams(kind: &WindowKind) -> bool {
    match kind {
        WindowKind::State { .. } => false,
        WindowKind::Tumbling { .. }
        | WindowKind::Hopping { .. }
        | WindowKind::Sliding { .. }
        | WindowKind::Session { .. }
        | WindowKind::Count { .. } => true,
    }
}

/// Checks that the sources can be read together.
pub(super) fn check_sources(select: &Select, sources: &[compile::Source], roles: &[Role], errors: &mut Vec<PlanError>) {
    // A scan table may be first: then it is joined with the rows of streams.
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
        let joins = select.window.as_ref().is_some_and(|window| joins_streams(&window.kind));
        let others = roles[..=index].contains(&Role::Stream);
        if role == Role::Stream && !joins && others {
            PlanError::note(errors, || PlanError::at(PlanErrorKind::JoinWithoutWindow, join.source.name.span));
        }
        if role == Role::Lookup && !matches!(join.kind, JoinKind::Inner | JoinKind::Left) {
            let kind = PlanErrorKind::LookupJoin { kind: join.kind, table: name.to_string() };
            PlanError::note(errors, || PlanError::at(kind, join.source.name.span));
        }
    }
}
