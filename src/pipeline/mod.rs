//! Reads rule files: streams, tables, views, rules and source settings in one or several files become planned rules,
//! ready to start.
//!
//! A file has one of three forms: lists of streams and rules, eKuiper's ruleset (objects of both by name, where rules
//! can be JSON texts), or a single rule. All files are read before anything is reported, so that a user sees every
//! error at once. Reading opens nothing; [`start`] starts the result on an engine.

mod bind;
mod bindings;
mod change;
pub mod diagnose;
pub mod schema;
mod sources;
mod start;
mod streams;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::config::{Config, PropertySets};
use crate::definition::name::LongName;
use crate::definition::rule::{self, Rule, RuleOptions};
use crate::definition::stream::{Catalog, RelationKind};
use crate::engine::{Keeps, RuleSpec, TableSpec};
use crate::io::connector::SourceSpec;
use crate::plan::view::Connected;
use crate::plan::{self, PlanErrorKind};
use crate::sql;
use crate::text::document::{Document, Node, Place, Problem, Severity, Value};
use crate::text::suggest;

pub use self::bind::{Fault, Faults, UnknownKey, sink, source};
pub use self::bindings::Bindings;
pub use self::change::{Changes, Content, change, restart};
pub use self::start::start;
pub use self::views::PlannedView;

use self::streams::Stream;

/// The content of rule files.
pub struct Pipeline {
    pub catalog: Catalog,
    /// Sources of streams and tables, by name.
    pub sources: BTreeMap<String, SourceSpec>,
    /// Statements of streams and tables, by name.
    pub statements: BTreeMap<String, String>,
    /// The conf keys of sources, from the configuration and the files.
    pub conf_keys: PropertySets,
    pub tables: Vec<PlannedTable>,
    /// In the order of the files.
    pub views: Vec<PlannedView>,
    /// In the order of the files.
    pub rules: Vec<PlannedRule>,
    pub warnings: Vec<Problem>,
}

impl Pipeline {
    /// The specs of everything that reads streams.
    pub fn specs(&self) -> impl Iterator<Item = &RuleSpec> {
        let views = self.views.iter().map(|view| &view.spec);
        self.rules.iter().map(|rule| &rule.spec).chain(views)
    }

    /// Makes views keep their rows when a changed pipeline gives them other options. At its end, each of them then saves
    /// its state once more.
    pub fn keep_views(&mut self) {
        self.views.iter_mut().for_each(|view| view.spec.keeps = Keeps::State(None));
    }

    /// Replaces the sources of streams and tables before anything starts. `with` is called with each name.
    pub fn replace_sources(&mut self, mut with: impl FnMut(&str, &SourceSpec) -> Option<SourceSpec>) {
        let rules = self.rules.iter_mut().map(|rule| &mut rule.spec);
        for spec in rules.chain(self.views.iter_mut().map(|view| &mut view.spec)) {
            for (input, source) in spec.plan.inputs.iter().zip(&mut spec.sources) {
                let replaced = source.as_ref().and_then(|source| with(&input.stream.name, source));
                *source = replaced.or(source.take());
            }
        }
        for table in &mut self.tables {
            if let Some(source) = with(&table.spec.def.name, &table.spec.source) {
                table.spec.source = source;
            }
        }
    }
}

/// A lookup table that can be created.
pub struct PlannedTable {
    pub spec: TableSpec,
    file: String,
    place: Place,
}

impl PlannedTable {
    /// An error of this table when it is created.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::error(&self.file, Some(self.place), format!("table {}", self.spec.def.name), message)
    }
}

/// A rule that can start.
pub struct PlannedRule {
    pub spec: RuleSpec,
    pub sql: String,
    /// The rule as JSON, with its id.
    pub text: String,
    pub options: RuleOptions,
    pub file: String,
    /// Its place in the file.
    pub place: Place,
}

impl PlannedRule {
    /// An error of this rule when it starts.
    pub fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::error(&self.file, Some(self.place), format!("rule {}", self.spec.id), message)
    }
}

/// Reads rule files and plans their content.
///
/// # Errors
/// All [`Problem`]s of all files, errors and warnings.
pub fn load(files: &[PathBuf], config: &Config) -> Result<Pipeline, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut documents = Vec::new();
    for file in files {
        match Document::read(file) {
            Ok(document) => documents.push(document),
            Err(problem) => problems.push(*problem),
        }
    }
    let complete = problems.is_empty();
    build(documents, complete, config, problems)
}

/// Plans parsed documents; `complete` is false if a file could not be parsed.
fn build(
    documents: Vec<Document>,
    complete: bool,
    config: &Config,
    problems: Vec<Problem>,
) -> Result<Pipeline, Vec<Problem>> {
    let mut loader = Loader {
        config: config.clone(),
        catalog: Catalog::default(),
        streams: BTreeMap::new(),
        sources: BTreeMap::new(),
        broken: BTreeSet::new(),
        complete,
        ids: BTreeSet::new(),
        views: Vec::new(),
        rules: Vec::new(),
        waiting: 0,
        first: None,
        problems,
    };
    let documents: Vec<(Arc<Document>, Form)> = documents
        .into_iter()
        .filter_map(|document| loader.form(&document).map(|form| (Arc::new(document), form)))
        .collect();
    loader.first = documents.first().map(|(document, _)| (document.name.clone(), document.root.place));
    // Sources, then streams, then rules, over all files: each may depend on those of another file.
    for (document, form) in &documents {
        if *form == Form::Sections
            && let Some(sources) = document.root.field("sources")
        {
            loader.config.sources.replace(document, sources, &mut loader.problems);
        }
    }
    for (document, form) in &documents {
        if *form == Form::Sections {
            loader.read_streams(document);
        }
    }
    loader.open_sources(&documents);
    for (document, form) in &documents {
        if *form == Form::Sections {
            loader.name_views(document);
        }
    }
    let sections: Vec<&Arc<Document>> =
        documents.iter().filter(|(_, form)| *form == Form::Sections).map(|(document, _)| document).collect();
    loader.read_views(&sections);
    for (document, form) in &documents {
        loader.read_rules(document, *form);
    }
    loader.unused_sources();
    loader.finish()
}

/// The forms of a file.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// An object with streams, rules and sources.
    Sections,
    Rule,
    /// A list of rules.
    Rules,
}

/// The members of a file with sections.
const SECTIONS: &[&str] = &["streams", "tables", "views", "rules", "sources", "tests"];

/// The hint for an empty file.
const SHAPE: &str = "a rule file is {\"streams\": [\"CREATE STREAM …\"], \"rules\": [{\"id\": …}]}";

/// Members of eKuiper's data exports that mean nothing in a rule file.
pub const EXPORTED: &[&str] = &[
    "nativePlugins",
    "portablePlugins",
    "sourceConfig",
    "sinkConfig",
    "connectionConfig",
    "Service",
    "Schema",
    "uploads",
    "scripts",
];

struct Loader {
    config: Config,
    catalog: Catalog,
    streams: BTreeMap<String, Stream>,
    sources: BTreeMap<String, SourceSpec>,
    /// Streams with a wrong statement, so that rules that read them get no further error.
    broken: BTreeSet<String>,
    complete: bool,
    ids: BTreeSet<String>,
    views: Vec<PlannedView>,
    rules: Vec<PlannedRule>,
    /// Valid rules with `triggered: false`.
    waiting: usize,
    /// Where to report that there are no rules.
    first: Option<(String, Place)>,
    problems: Vec<Problem>,
}

impl Loader {
    fn form(&mut self, document: &Document) -> Option<Form> {
        let root = &document.root;
        match &root.value {
            Value::List(_) => return Some(Form::Rules),
            Value::Null if document.is_blank() => {
                let message = match document.text.trim().is_empty() {
                    true => "the file is empty, expected streams and rules, or a rule",
                    false => "the file has only comments, expected streams and rules, or a rule",
                };
                self.problems.push(document.error(root.place, "", message).with_hint(Some(SHAPE.to_owned())));
                return None;
            }
            Value::Map(_) => {}
            _ => {
                let message = format!("the file holds {}, expected streams and rules, or a rule", root.kind());
                self.problems.push(document.error(root.place, "", message).with_hint(Some(SHAPE.to_owned())));
                return None;
            }
        }
        if ["sql", "actions"].iter().any(|name| root.field(name).is_some()) {
            return Some(Form::Rule);
        }
        let mut sections = 0;
        for member in root.members() {
            let is = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(&member.key));
            let empty = member.node.is_null() || member.node.json() == Json::Object(Map::new());
            if is(SECTIONS) {
                // A file with nothing but tests is not a rule file.
                sections += usize::from(!is(&["tests"]));
            } else if is(EXPORTED) {
                if !empty {
                    let message = format!("{} is not supported yet and is ignored", member.key);
                    self.problems.push(document.warning(member.place, "", message));
                }
            } else {
                let hint = suggest::did_you_mean(&member.key, SECTIONS.iter().copied());
                let message = format!("unknown member {} is ignored", member.key);
                self.problems.push(document.warning(member.place, "", message).with_hint(hint));
            }
        }
        if sections == 0 {
            let message = "the file has neither streams nor rules";
            self.problems.push(document.error(root.place, "", message).with_hint(Some(SHAPE.to_owned())));
            return None;
        }
        Some(Form::Sections)
    }

    fn read_rules(&mut self, document: &Arc<Document>, form: Form) {
        let root = &document.root;
        let rules = match form {
            Form::Rule => return self.read_rule(document, None, root),
            Form::Rules => root,
            Form::Sections => match root.field("rules") {
                Some(rules) => rules,
                None => return,
            },
        };
        match &rules.value {
            Value::List(nodes) => {
                for node in nodes {
                    self.read_rule(document, None, node);
                }
            }
            Value::Map(members) if rules.field("sql").is_some_and(|sql| sql.text().is_some()) => {
                let hint = Some("rules is a list, or an object of rules by id".to_owned());
                let place = members.first().map_or(rules.place, |member| member.place);
                self.problems.push(document.error(place, "", "rules holds a single rule").with_hint(hint));
            }
            Value::Map(members) => {
                for member in members {
                    self.read_rule(document, Some(&member.key), &member.node);
                }
            }
            _ => {
                let message = format!("rules is {}, expected a list of rules", rules.kind());
                self.problems.push(document.error(rules.place, "", message));
            }
        }
    }

    fn read_rule(&mut self, document: &Arc<Document>, key: Option<&str>, node: &Node) {
        if node.text().is_some() {
            // eKuiper's rulesets hold each rule as a JSON text.
            match document.nested(node) {
                Ok(nested) => {
                    let nested = Arc::new(nested);
                    self.read_rule(&nested, key, &nested.root);
                }
                Err(problem) => {
                    let subject = key.map_or_else(|| "rule".to_owned(), |key| format!("rule {key}"));
                    self.problems.push(Problem { subject, ..*problem });
                }
            }
            return;
        }
        let before = self.errors();
        let mut found = Vec::new();
        let rule = rule::parse(document, node, key, &self.config.rule, &mut found);
        self.problems.extend(found.into_iter().map(|found| found.problem));
        let Some(rule) = rule else { return };
        if let Err(error) = LongName::check(&rule.id) {
            let place = node.field("id").map_or(node.place, |id| id.place);
            self.problems.push(document.error(place, "rule", error.to_string()));
            return;
        }
        let subject = if rule.id.is_empty() { "rule".to_owned() } else { format!("rule {}", rule.id) };
        if !rule.id.is_empty() && !self.ids.insert(rule.id.clone()) {
            let hint = Some("each rule needs an id of its own".to_owned());
            self.problems.push(document.error(node.place, &subject, "rule already exists").with_hint(hint));
        }
        let sinks = diagnose::sinks(document, &rule, node, &subject, &self.config, &mut self.problems);
        let Some(plan) = self.plan(document, &rule, node, &subject) else { return };
        if !rule.options.schedule.is_always() {
            let message =
                "cron, duration and cronDatetimeRange work in plutino serve only: plutino run starts rules at once";
            self.problems.push(document.error(node.place, &subject, message));
        }
        if rule.options.qos > 0 {
            let message = "option qos has no effect in plutino run: each run starts with empty state";
            self.problems.push(document.warning(node.place, &subject, message));
        }
        if !rule.triggered {
            self.waiting += 1;
            let message = "is not started, since triggered is false";
            self.problems.push(document.warning(node.place, subject, message));
            return;
        }
        let mut sources = Vec::with_capacity(plan.inputs.len());
        for input in &plan.inputs {
            if input.role == plan::physical::Role::Lookup || input.stream.kind == RelationKind::View {
                sources.push(None);
                continue;
            }
            let Some(source) = self.sources.get(input.stream.name.as_str()) else { return };
            sources.push(Some(source.clone()));
        }
        if self.errors() > before {
            return;
        }
        let mut text = node.json_members();
        text.insert("id".to_owned(), rule.id.as_str().into());
        let (send_error, keeps, connected) = (rule.options.send_error, Keeps::Nothing, Connected::default());
        let spec = RuleSpec { id: rule.id, plan, sources, sinks, send_error, keeps, connected };
        self.rules.push(PlannedRule {
            spec,
            sql: rule.sql,
            text: Json::Object(text).to_string(),
            options: rule.options,
            file: document.name.clone(),
            place: document.error(node.place, "", "").place.unwrap_or_default(),
        });
    }

    fn plan(
        &mut self,
        document: &Document,
        rule: &Rule,
        node: &Node,
        subject: &str,
    ) -> Option<plan::physical::RulePlan> {
        let statement = node.field("sql").filter(|_| !rule.sql.is_empty())?;
        if let Ok(select) = sql::parse_select(&rule.sql) {
            let names: Vec<&str> = std::iter::once(&select.from)
                .chain(select.joins.iter().map(|join| &join.source))
                .map(|source| source.name.name.as_str())
                .collect();
            for name in &names {
                if let Some(stream) = self.streams.get_mut(*name) {
                    stream.used = true;
                }
            }
            // Streams that are wrong, or in a file that cannot be read, are already reported.
            let known = |name: &&str| self.streams.contains_key(*name) || self.catalog.view(name).is_some();
            let missing = |name: &&&str| !known(name);
            if names.iter().filter(missing).any(|name| !self.complete || self.broken.contains(*name)) {
                return None;
            }
        }
        match plan::plan(&rule.sql, &rule.options, &self.catalog) {
            Ok(plan) => Some(plan),
            Err(error) => {
                // Errors of a stream are reported at its statement.
                for error in error.each() {
                    let problem = self.timestamp_problem(rule, subject, error).unwrap_or_else(|| {
                        document.sql_error(statement, subject, error.to_string(), error.span(), error.hint())
                    });
                    self.problems.push(problem);
                }
                None
            }
        }
    }

    /// An error of event time, reported at the statement of the stream, where it can be fixed.
    fn timestamp_problem(&self, rule: &Rule, subject: &str, error: &plan::PlanError) -> Option<Problem> {
        let select = sql::parse_select(&rule.sql).ok()?;
        let sources = std::iter::once(&select.from).chain(select.joins.iter().map(|join| &join.source));
        let mut streams = sources.filter_map(|source| self.streams.get(source.name.name.as_str()));
        let (stream, hint) = match &*error.kind {
            PlanErrorKind::NoTimestamp => {
                let stream = streams.find(|stream| stream.def.timestamp.is_none())?;
                let hint = "give the stream the option TIMESTAMP=\"the field with the event time\", or set the rule's \
                            isEventTime to false";
                (stream, Some(hint.to_owned()))
            }
            PlanErrorKind::UnknownTimestamp(name) => {
                let columns = |stream: &Stream| {
                    let columns = stream.def.columns.iter().flatten();
                    columns.map(|column| column.name.name.to_string()).collect::<Vec<_>>()
                };
                let stream = streams.find(|stream| {
                    stream.def.timestamp.as_ref().is_some_and(|path| path.column() == name.as_str())
                        && !columns(stream).contains(name)
                })?;
                let columns = columns(stream);
                let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
                (stream, suggest::did_you_mean(name, columns.iter().copied()))
            }
            _ => return None,
        };
        let span = stream.options.iter().rev().find(|option| option.name == "TIMESTAMP").map(|option| option.span);
        Some(stream.document.sql_error(&stream.statement, subject, error.to_string(), span, hint))
    }

    fn errors(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }

    fn finish(mut self) -> Result<Pipeline, Vec<Problem>> {
        if let Some((file, place)) =
            self.first.take().filter(|_| self.rules.is_empty() && self.views.is_empty() && self.errors() == 0)
        {
            let hint = match self.waiting {
                0 => {
                    "give it one: \"rules\": [{\"id\": \"rule1\", \"sql\": \"SELECT …\", \"actions\": [{\"log\": {}}]}]"
                }
                _ => "leave out \"triggered\": false, or set it to true",
            };
            let message = match self.waiting {
                0 => "the file holds no rules: there is no rule to run",
                _ => "no rule of the file starts: there is no rule to run",
            };
            self.problems.push(Problem::error(&file, Some(place), "", message).with_hint(Some(hint.to_owned())));
        }
        let refused = self.errors() > 0;
        self.problems.sort_by(|a, b| (&a.file, a.place).cmp(&(&b.file, b.place)));
        if refused {
            return Err(self.problems);
        }
        let Loader { config, catalog, streams, sources, mut views, rules, problems, .. } = self;
        views::connect(&mut views, &rules);
        let lookups = streams.values().filter(|stream| stream.def.kind == RelationKind::LookupTable);
        let table = |table: &Stream| {
            let def = table.def.clone();
            let source = sources.get(def.name.as_str())?.clone();
            let place = table.document.error(table.statement.place, "", "").place.unwrap_or_default();
            Some(PlannedTable { spec: TableSpec { def, source }, file: table.document.name.clone(), place })
        };
        let tables = lookups.filter_map(table).collect();
        let statement =
            |(name, stream): (&String, &Stream)| (name.clone(), stream.statement.text().unwrap_or_default().to_owned());
        let statements = streams.iter().map(statement).collect();
        let conf_keys = config.sources;
        Ok(Pipeline { catalog, sources, statements, conf_keys, tables, views, rules, warnings: problems })
    }
}

#[cfg(test)]
mod tests;
