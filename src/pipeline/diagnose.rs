//! Collects the errors in rules and statements, with places and hints, for rule files and for the service.
//!
//! Each function checks its part completely and adds all errors to `problems`, so that a user sees all of them at once.

use serde_json::Value as Json;

use super::bind::{self, Fault, UnknownKey};
use crate::config::Config;
use crate::definition::rule::{self, Part, Rule, RuleProblem};
use crate::definition::stream::{Catalog, CatalogError, CatalogErrorKind, RelationKind};
use crate::engine::SinkAction;
use crate::io::connector::{self, ConnectorError};
use crate::plan::{self, PlanError};
use crate::property::{Invalid, Warning};
use crate::sql::{self, SyntaxError, SyntaxErrorKind};
use crate::text::document::{Document, Node, Place, Problem, Severity, Value};
use crate::text::suggest;

/// The hint for a text that does not resemble CREATE STREAM.
const MADE: &str = "a stream is made by CREATE STREAM name (…) WITH (DATASOURCE=\"/path\", TYPE=\"websocket\")";

/// The longest rule text, bytes, whose errors get places: finding them in longer texts would delay other requests.
const LONGEST: usize = 1 << 20;

/// The problems of a refused rule or trial; empty if there are none. `sinks`: whether to check its sinks.
pub fn of_rule(text: &str, id: Option<&str>, sinks: bool, catalog: &Catalog, config: &Config) -> Vec<Problem> {
    let problems = everything_about(text, id, sinks, catalog, config);
    let refused = problems.iter().any(|problem| problem.severity == Severity::Error);
    if refused { problems } else { Vec::new() }
}

/// Warnings about an accepted rule and the streams that it reads.
pub fn warnings_of_rule(text: &str, id: Option<&str>, catalog: &Catalog, config: &Config) -> Vec<Problem> {
    let mut problems = everything_about(text, id, true, catalog, config);
    problems.retain(|problem| problem.severity == Severity::Warning);
    let rule = serde_json::from_str::<Json>(text).ok();
    let sql =
        rule.as_ref().and_then(|rule| rule.as_object()?.iter().find(|(name, _)| name.eq_ignore_ascii_case("sql")));
    let select = sql.and_then(|(_, sql)| sql::parse_select(sql.as_str()?).ok());
    let named =
        select.iter().flat_map(|select| std::iter::once(&select.from).chain(select.joins.iter().map(|j| &j.source)));
    for def in named.filter_map(|source| catalog.relation(&source.name.name)) {
        if let Ok((_, warnings)) = bind::source(def, config, UnknownKey::Default) {
            let subject = format!("stream {}", def.name);
            problems.extend(warnings.iter().map(|warning| {
                Problem::warning("rule", None, subject.as_str(), warning.message()).with_hint(warning.hint())
            }));
        }
    }
    problems
}

/// Warnings about an accepted CREATE VIEW.
pub fn warnings_of_view(text: &str, catalog: &Catalog) -> Vec<Problem> {
    let Ok(create) = sql::parse_view(text) else { return Vec::new() };
    let Ok(plan) = plan::view::plan_view(&create, catalog) else { return Vec::new() };
    let plan::physical::Body::View(view) = plan.body else { return Vec::new() };
    let subject = format!("view {}", create.name.name);
    view.warnings.iter().map(|text| Problem::warning("statement", None, subject.as_str(), text)).collect()
}

/// Warnings about an accepted CREATE STREAM or CREATE TABLE.
pub fn warnings_of_statement(text: &str, catalog: &Catalog, config: &Config) -> Vec<Problem> {
    let Ok(create) = sql::parse_create(text) else { return Vec::new() };
    let has = |name: &str| create.options.iter().any(|option| option.name == name && !option.value.is_empty());
    let mut catalog = catalog.clone();
    catalog.remove(&create.name.name);
    let Ok(def) = catalog.create(&create) else { return Vec::new() };
    let mut warnings = match bind::source(&def, config, UnknownKey::Default) {
        Ok((_, warnings)) => warnings.iter().map(Warning::to_string).collect(),
        Err((faults, warnings)) => {
            let texts = warnings.iter().map(Warning::to_string);
            faults.into_iter().map(|fault| fault.message).chain(texts).collect::<Vec<_>>()
        }
    };
    if !has("TYPE") && def.kind == RelationKind::Stream {
        warnings.push("it has no TYPE, so it is a websocket (in eKuiper it would be mqtt): set TYPE".to_owned());
    }
    if has("KEY") && matches!(def.kind, RelationKind::ScanTable { .. }) {
        warnings.push("KEY has no effect on a scan table: set KIND=\"lookup\" to find rows by it".to_owned());
    }
    let subject = format!("{} {}", if def.kind == RelationKind::Stream { "stream" } else { "table" }, def.name);
    warnings.into_iter().map(|text| Problem::warning("statement", None, subject.as_str(), text)).collect()
}

/// All problems in the text of a rule.
fn everything_about(text: &str, id: Option<&str>, sinks: bool, catalog: &Catalog, config: &Config) -> Vec<Problem> {
    let Ok(json) = serde_json::from_str::<Json>(text) else { return Vec::new() };
    let placed = if text.len() > LONGEST { None } else { Document::parse("rule", text.to_owned()).ok() };
    // Long texts, and JSON that is not YAML, have no places.
    let document = placed.unwrap_or_else(|| Document::from_json("rule", &json));
    let (root, mut found) = (&document.root, Vec::new());
    let rule = rule::parse(&document, root, id, &config.rule, &mut found);
    if !sinks {
        let matters = |part: &Part| !matches!(part, Part::Missing | Part::Sink);
        found.retain(|RuleProblem { part, problem }| problem.severity == Severity::Error && matters(part));
    }
    let mut problems: Vec<Problem> = found.into_iter().map(|found| found.problem).collect();
    if let Some(rule) = rule {
        let subject = format!("rule {}", rule.id);
        if sinks {
            self::sinks(&document, &rule, root, &subject, config, &mut problems);
        }
        if let Some(statement) = root.field("sql").filter(|_| !rule.sql.is_empty()) {
            match plan::plan(&rule.sql, &rule.options, catalog) {
                Ok(plan) => {
                    for input in &plan.inputs {
                        if let Err((faults, _)) = bind::source(&input.stream, config, UnknownKey::Default) {
                            let subject = format!("stream {}", input.stream.name);
                            problems.extend(faults.into_iter().map(|Fault { message, hint, .. }| {
                                Problem::error(&document.name, None, subject.as_str(), message).with_hint(hint)
                            }));
                        }
                    }
                }
                Err(error) => of_plan(&document, statement, &subject, &error, &mut problems),
            }
        }
    }
    problems.sort_by_key(|problem| problem.place);
    problems
}

/// The problems of a refused CREATE statement; empty if there are none. Does not check whether its name is taken.
pub fn of_statement(text: &str, catalog: &Catalog) -> Vec<Problem> {
    let document = Document::from_json("statement", &Json::from(text));
    let mut problems = Vec::new();
    match sql::parse_create(text) {
        Err(error) => of_create(&document, &document.root, "", &error, &mut problems),
        Ok(create) => {
            let mut catalog = catalog.clone();
            catalog.remove(&create.name.name);
            if let Err(errors) = catalog.create(&create) {
                of_definition(&document, &document.root, "", &errors, &mut problems);
            }
        }
    }
    problems
}

/// The problems of a refused CREATE VIEW; empty if there are none. Does not check whether its name is taken.
pub fn of_view(text: &str, catalog: &Catalog) -> Vec<Problem> {
    let document = Document::from_json("statement", &Json::from(text));
    let mut problems = Vec::new();
    match sql::parse_view(text) {
        Err(error) => of_create(&document, &document.root, "", &error, &mut problems),
        Ok(create) => {
            if let Err(error) = plan::view::plan_view(&create, catalog) {
                of_plan(&document, &document.root, "", &error, &mut problems);
            }
        }
    }
    problems
}

/// Adds the syntax errors of a CREATE statement.
pub fn of_create(document: &Document, node: &Node, subject: &str, error: &SyntaxError, problems: &mut Vec<Problem>) {
    for error in error.each() {
        let made = || matches!(error.kind, SyntaxErrorKind::NotStream { .. }).then(|| MADE.to_owned());
        let hint = error.hint().or_else(made);
        problems.push(document.sql_error(node, subject, error.to_string(), Some(error.span()), hint));
    }
}

/// Adds the errors in the definition of a stream or table.
pub fn of_definition(
    document: &Document,
    node: &Node,
    subject: &str,
    errors: &[CatalogError],
    problems: &mut Vec<Problem>,
) {
    for error in errors {
        let hint = match &error.kind {
            CatalogErrorKind::Exists { .. } => Some("each stream or table needs a name of its own".to_owned()),
            CatalogErrorKind::Option { option: "format", value } => {
                let formats = ["json", "delimited", "urlencoded", "binary"];
                suggest::did_you_mean(value, formats).or_else(|| Some(format!("there are {}", formats.join(", "))))
            }
            CatalogErrorKind::Option { option: "kind", value } => suggest::did_you_mean(value, ["lookup", "scan"])
                .or_else(|| Some("there are lookup and scan".to_owned())),
            _ => None,
        };
        problems.push(document.sql_error(node, subject, error.to_string(), Some(error.span), hint));
    }
}

/// Adds the errors in the SELECT of a rule.
pub fn of_plan(document: &Document, statement: &Node, subject: &str, error: &PlanError, problems: &mut Vec<Problem>) {
    for error in error.each() {
        problems.push(document.sql_error(statement, subject, error.to_string(), error.span(), error.hint()));
    }
}

/// The usable sinks of a rule; adds the errors and warnings of all sinks.
pub fn sinks(
    document: &Document,
    rule: &Rule,
    node: &Node,
    subject: &str,
    config: &Config,
    problems: &mut Vec<Problem>,
) -> Vec<SinkAction> {
    let mut sinks = Vec::new();
    for action in &rule.actions {
        let here = Node { value: Value::Null, place: action.place };
        let set = props_at(node, action.place).unwrap_or(&here);
        let prefix = format!("sink {}: ", action.kind);
        let warned = |warnings: Vec<Warning>| {
            let problem = |warning: Warning| warning.problem(document, set, subject, &prefix);
            warnings.into_iter().map(problem).collect::<Vec<_>>()
        };
        match bind::sink(action, config) {
            Ok((spec, warnings)) => {
                problems.extend(warned(warnings));
                sinks.push(spec);
            }
            Err(ConnectorError::Properties(Invalid { faults, warnings })) => {
                problems.extend(warned(warnings));
                problems.extend(faults.iter().map(|fault| fault.problem(document, set, subject, &prefix)));
            }
            Err(error @ ConnectorError::UnknownSink(_)) => {
                let hint = suggest::did_you_mean(&action.kind, connector::sinks());
                problems.push(document.error(action.place, subject, error.to_string()).with_hint(hint));
            }
            Err(error) => {
                let place = error.property().and_then(|name| set.field(name)).map(|node| node.place);
                problems.push(document.error(place.unwrap_or(action.place), subject, format!("{prefix}{error}")));
            }
        }
    }
    sinks
}

/// The properties of the action that stands at `place` in a rule.
fn props_at(rule: &Node, place: Place) -> Option<&Node> {
    let Value::List(entries) = &rule.field("actions")?.value else { return None };
    entries.iter().flat_map(Node::members).find(|member| member.place == place).map(|member| &member.node)
}
