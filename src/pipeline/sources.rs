//! Checks the sources of the streams of rule files.

use std::sync::Arc;

use super::bind::{Fault, UnknownKey, source};
use super::streams::{Stream, subject_of};
use super::{Form, Loader};
use crate::sql::ast::Relation;
use crate::text::document::{Document, Node, Problem, Severity};

impl Loader {
    /// Checks the source of every stream. An error in a conf key is reported where the files set it.
    pub(super) fn open_sources(&mut self, documents: &[(Arc<Document>, Form)]) {
        let mut streams = std::mem::take(&mut self.streams);
        for (name, stream) in &mut streams {
            let relation = if stream.def.kind.is_table() { Relation::Table } else { Relation::Stream };
            let subject = subject_of(relation, name);
            let key = ConfKey::of(documents, stream);
            let (faults, warnings) = match source(&stream.def, &self.config, UnknownKey::Refused) {
                Ok((spec, warnings)) => {
                    self.sources.insert(name.clone(), spec);
                    (Vec::new(), warnings)
                }
                Err(wrong) => wrong,
            };
            for warning in &warnings {
                let problem = match key.as_ref().filter(|key| warning.property().is_some_and(|name| key.sets(name))) {
                    Some(key) => warning.problem(key.document, key.set, &key.subject, ""),
                    None => warning.problem(&stream.document, &stream.statement, &subject, ""),
                };
                self.report(problem);
            }
            for Fault { option, message, hint, of } in faults {
                let in_key = key.as_ref().zip(of).filter(|(key, of)| key.sets(of.top()));
                stream.faults.push(match in_key {
                    Some((key, of)) => of.problem(key.document, key.set, &key.subject, ""),
                    None => {
                        let span = stream.options.iter().rev().find(|o| o.name == option).map(|o| o.span);
                        stream.document.sql_error(&stream.statement, &subject, message, span, hint)
                    }
                });
            }
        }
        self.streams = streams;
    }

    /// Reports an unusable source as an error if a rule needs it, otherwise as a warning.
    pub(super) fn unused_sources(&mut self) {
        let mut faults: Vec<Problem> = Vec::new();
        for stream in self.streams.values_mut() {
            let severity = if stream.used { Severity::Error } else { Severity::Warning };
            faults.extend(stream.faults.drain(..).map(|fault| Problem { severity, ..fault }));
        }
        // If streams share a conf key, the more severe report counts.
        faults.sort_by_key(|fault| fault.severity != Severity::Error);
        faults.into_iter().for_each(|fault| self.report(fault));
    }

    /// Reports a problem only once if several streams have it.
    fn report(&mut self, problem: Problem) {
        let is_same = |known: &Problem| {
            (&known.file, known.place, &known.message) == (&problem.file, problem.place, &problem.message)
        };
        if !self.problems.iter().any(is_same) {
            self.problems.push(problem);
        }
    }
}

/// The properties that the files give the conf key of a stream.
struct ConfKey<'d> {
    document: &'d Document,
    set: &'d Node,
    subject: String,
    /// properties in the stream's EXTRA, which win
    extra: Vec<String>,
}

impl<'d> ConfKey<'d> {
    /// The conf key of a stream, from the last file that has it.
    fn of(documents: &'d [(Arc<Document>, Form)], stream: &Stream) -> Option<ConfKey<'d>> {
        let def = &stream.def;
        let kind = if def.source.is_empty() { "websocket" } else { def.source.as_str() };
        let key = def.conf_key.as_deref().filter(|key| !key.is_empty()).unwrap_or("default");
        let set = |document: &'d Document| {
            let kinds = document.root.field("sources")?;
            Some((document, &kinds.member(kind)?.node.member(key)?.node))
        };
        let sections = documents.iter().rev().filter(|(_, form)| *form == Form::Sections);
        let (document, set) = sections.map(|(document, _)| &**document).find_map(set)?;
        let extra = def.extra.keys().cloned().collect();
        Some(ConfKey { document, set, subject: format!("conf key {key}"), extra })
    }

    /// Whether this conf key sets the value of a property.
    fn sets(&self, property: &str) -> bool {
        let top = property.split('.').next().unwrap_or_default();
        self.set.members().iter().any(|member| member.key.eq_ignore_ascii_case(top))
            && !self.extra.iter().any(|name| name.eq_ignore_ascii_case(top))
    }
}
