//! Loads the configuration: files first, then the environment. Later layers override earlier ones.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::Config;
use super::settings::{Draft, SECTIONS};
use super::sources::Override;
use crate::definition::rule::RuleOptions;
use crate::io::connector;
use crate::io::websocket::Settings;
use crate::property::{self, Cause, Fault, Findings, Noun, Warning};
use crate::text::document::{Document, Node, Place, Problem, Severity, Value};
use crate::text::suggest;

/// eKuiper's sections that Plutino does not use, in lower case: they are ignored without a warning.
const FOREIGN_SECTIONS: &[&str] = &["sink", "store", "portable", "opentelemetry", "connection", "logger"];

/// Reads the folder `etc` and the environment. The second part of the result has the warnings.
///
/// # Errors
/// Every [`Problem`], both errors and warnings.
pub fn load(
    etc: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
    let mut loader = Loader { draft: Draft::default(), half_tls: Vec::new(), problems: Vec::new() };
    if let Some(main) = ["plutino.yaml", "kuiper.yaml"].iter().map(|name| etc.join(name)).find(|path| path.is_file()) {
        loader.file(&main, Loader::main_file);
    }
    let connector = etc.join("sources").join("websocket.yaml");
    if connector.is_file() {
        loader.file(&connector, Loader::connector_file);
    }
    for kind in connector::sinks() {
        let sinks = etc.join("sinks").join(format!("{kind}.yaml"));
        if sinks.is_file() {
            loader.sink_file(&sinks, kind);
        }
    }
    let connections = etc.join("connections").join("connection.yaml");
    if connections.is_file() {
        loader.file(&connections, |loader, document| {
            loader.draft.config.connections.read(document, &mut loader.problems);
        });
    }
    let mut variables: Vec<(String, String)> =
        environment.into_iter().filter(|(name, _)| name.contains("__")).collect();
    variables.sort();
    for prefix in ["KUIPER__", "PLUTINO__", "WEBSOCKET__"] {
        for (name, value) in &variables {
            if name.len() > prefix.len() && name.is_char_boundary(prefix.len()) {
                let (head, path) = name.split_at(prefix.len());
                if head.eq_ignore_ascii_case(prefix) {
                    loader.variable(name, prefix, path, value);
                }
            }
        }
    }
    loader.finish()
}

/// Where settings come from.
#[derive(Clone, Copy)]
enum Origin<'a> {
    /// A file, and its root node.
    File(&'a Document),
    /// An environment variable, as messages name it.
    Variable(&'a str),
}

impl Origin<'_> {
    fn fault(self, fault: &Fault) -> Problem {
        match self {
            Origin::File(document) => fault.problem(document, &document.root, "", ""),
            Origin::Variable(label) => Problem::error(label, None, "", fault.to_string()).with_hint(fault.hint.clone()),
        }
    }

    fn warning(self, warning: &Warning) -> Problem {
        match self {
            Origin::File(document) => warning.problem(document, &document.root, "", ""),
            Origin::Variable(label) => Problem::warning(label, None, "", warning.message()).with_hint(warning.hint()),
        }
    }
}

/// The settings that name a server's certificate and key.
const TLS: [(&str, &str); 2] = [("source", "httpServerTls"), ("basic", "restTls")];

/// The settings that restrict who may use the service. Without a value they would let everybody in, which is probably a
/// mistake in the file.
const ACCESS: [(&str, &str); 5] = [
    ("basic", "authentication"),
    ("basic", "restTls"),
    ("source", "httpServerTls"),
    ("source", "httpServerTokens"),
    ("source", "httpServerJwt"),
];

struct Loader {
    draft: Draft,
    /// For each setting of [`TLS`] that is set, the error to report if its certificate or key is still missing at the
    /// end.
    half_tls: Vec<(&'static str, Problem)>,
    problems: Vec<Problem>,
}

impl Loader {
    fn file(&mut self, path: &Path, read: fn(&mut Loader, &Document)) {
        self.draft.config.files.push(path.to_owned());
        match Document::read(path) {
            Ok(document) => match document.root.value {
                Value::Map(_) | Value::Null => read(self, &document),
                _ => {
                    let message = format!("the file holds {}, expected sections", document.root.kind());
                    self.problems.push(document.error(document.root.place, "", message));
                }
            },
            Err(problem) => self.problems.push(*problem),
        }
    }

    fn main_file(&mut self, document: &Document) {
        for section in document.root.members() {
            self.section(document, &section.key, &section.node, section.place);
        }
    }

    fn connector_file(&mut self, document: &Document) {
        let mut sets = document.root.clone();
        if let Value::Map(members) = &mut sets.value {
            members.retain(|member| {
                let server = member.key.eq_ignore_ascii_case("source");
                if server {
                    self.section(document, &member.key, &member.node, member.place);
                }
                !server
            });
        }
        self.draft.config.sources.replace_kind(document, "websocket", &sets, &mut self.problems);
        for set in sets.members() {
            self.check_set(document, &set.key, &set.node);
        }
    }

    /// Reads the property sets of one kind of sink.
    fn sink_file(&mut self, path: &Path, kind: &str) {
        self.draft.config.files.push(path.to_owned());
        match Document::read(path) {
            Ok(document) => {
                let root = document.root.clone();
                self.draft.config.sinks.replace_kind(&document, kind, &root, &mut self.problems);
            }
            Err(problem) => self.problems.push(*problem),
        }
    }

    /// Checks the properties of a conf key, and reports each problem at its place.
    fn check_set(&mut self, document: &Document, key: &str, set: &Node) {
        let (faults, warnings) = connector::set_faults("websocket", &set.json_members());
        let subject = format!("conf key {key}");
        self.problems.extend(faults.iter().map(|fault| fault.problem(document, set, &subject, "")));
        self.problems.extend(warnings.iter().map(|warning| warning.problem(document, set, &subject, "")));
    }

    /// One section of a file.
    fn section(&mut self, document: &Document, name: &str, node: &Node, place: Place) {
        match kind_of(name) {
            Section::Foreign => {}
            _ if node.is_null() => {}
            Section::Unknown(hint) => {
                let message = format!("unknown section {name} is ignored");
                self.problems.push(document.warning(place, "", message).with_hint(hint));
            }
            _ if !matches!(node.value, Value::Map(_)) => {
                let message = format!("section {name} is {}, expected an object", node.kind());
                self.problems.push(document.error(node.place, "", message));
            }
            Section::Rule => {
                let found = self.rule_options(&node.json_members());
                let subject = "section rule";
                self.problems.extend(found.faults.iter().map(|fault| fault.problem(document, node, subject, "")));
                self.problems.extend(found.warnings.iter().map(|odd| odd.problem(document, node, subject, "")));
            }
            Section::Settings => self.settings(name, node.json(), Origin::File(document)),
        }
    }

    /// Reads the default options of rules. Sinks belong to a rule, so `deadLetter` is not among them.
    fn rule_options(&mut self, values: &Map<String, Json>) -> Findings {
        let (options, mut found) = RuleOptions::read(values, &self.draft.config.rule);
        self.draft.config.rule = options;
        let names = |(name, value): (&String, &Json)| name.eq_ignore_ascii_case("deadLetter") && !value.is_null();
        if values.iter().any(names) && !found.has_fault("deadLetter") {
            found.refuse("deadLetter", "deadLetter has no default: write it in the options of each rule");
        }
        found
    }

    fn settings(&mut self, section: &str, values: Json, origin: Origin<'_>) {
        let values = Map::from_iter([(section.to_owned(), values)]);
        self.refuse_empty_access(section, &values[section], origin);
        let found = property::read(SECTIONS, Noun::Setting, &values, &mut self.draft);
        self.problems.extend(found.faults.iter().map(|fault| origin.fault(fault)));
        self.problems.extend(found.warnings.iter().map(|warning| origin.warning(warning)));
        for (of, name) in TLS.iter().filter(|(of, _)| of.eq_ignore_ascii_case(section)) {
            let files = values[section].as_object().into_iter().flatten();
            let files = files.filter(|(key, _)| key.eq_ignore_ascii_case(name));
            for (key, files) in files.filter_map(|(key, files)| Some((key, files.as_object()?))) {
                for (member, _) in files.iter().filter(|(_, file)| file.as_str().is_some_and(|file| !file.is_empty())) {
                    let error = format!("{of}.{name} needs both certfile and keyfile");
                    let property = format!("{section}.{key}.{member}");
                    let cause = Cause::Because(error.into());
                    let fault = Fault { noun: Noun::Setting, property, cause, hint: None };
                    self.half_tls.push((*name, origin.fault(&fault)));
                }
            }
        }
    }

    /// Refuses settings of [`ACCESS`] that have no value.
    fn refuse_empty_access(&mut self, section: &str, values: &Json, origin: Origin<'_>) {
        let is_access = |key: &str| {
            ACCESS.iter().any(|(of, name)| section.eq_ignore_ascii_case(of) && key.eq_ignore_ascii_case(name))
        };
        let empty = values.as_object().into_iter().flatten().filter(|(key, value)| value.is_null() && is_access(key));
        let faults = empty.map(|(key, _)| {
            let error = format!("{section}.{key} has no value: give it one, or remove it to let everybody in");
            let property = format!("{section}.{key}");
            origin.fault(&Fault { noun: Noun::Setting, property, cause: Cause::Because(error.into()), hint: None })
        });
        self.problems.extend(faults);
    }

    /// Applies a variable of the environment: `path` is what follows the prefix.
    fn variable(&mut self, name: &str, prefix: &str, path: &str, value: &str) {
        let parts: Vec<&str> = path.split("__").collect();
        if parts.iter().any(|part| part.is_empty()) {
            return;
        }
        let label = format!("environment variable {name}");
        let value = as_value(value);
        if prefix == "WEBSOCKET__" && !parts[0].eq_ignore_ascii_case("source") {
            return self.connector_variable(&label, &parts, value);
        }
        let (section, rest) = (parts[0].to_ascii_lowercase(), &parts[1..]);
        if rest.is_empty() {
            let hint = Some(format!("write {prefix}SECTION__SETTING"));
            self.problems.push(Problem::warning(&label, None, "", "names no setting").with_hint(hint));
            return;
        }
        let value = nested(rest, value);
        match kind_of(&section) {
            Section::Foreign => {}
            Section::Unknown(hint) => {
                let message = format!("unknown section {section} is ignored");
                self.problems.push(Problem::warning(&label, None, "", message).with_hint(hint));
            }
            Section::Rule => {
                let values = value.as_object().cloned().unwrap_or_default();
                let found = self.rule_options(&values);
                let origin = Origin::Variable(&label);
                let problems = found.faults.iter().map(|fault| origin.fault(fault));
                let problems = problems.chain(found.warnings.iter().map(|warning| origin.warning(warning)));
                let of_rule = |problem| Problem { subject: "section rule".to_owned(), ..problem };
                self.problems.extend(problems.map(of_rule));
            }
            Section::Settings => self.settings(&section, value, Origin::Variable(&label)),
        }
    }

    /// `WEBSOCKET__KEY__PROPERTY`: a property under a conf key of websocket sources.
    fn connector_variable(&mut self, label: &str, parts: &[&str], value: Json) {
        let [key, property, rest @ ..] = parts else {
            let hint = Some("write WEBSOCKET__KEY__PROPERTY".to_owned());
            self.problems.push(Problem::warning(label, None, "", "names no property").with_hint(hint));
            return;
        };
        let mut known = Settings::properties().into_iter().flat_map(|known| known.about.names());
        let property = known.find(|known| known.eq_ignore_ascii_case(property)).unwrap_or(property).to_owned();
        // A third part names a member of an object, such as a header.
        let value = nested(rest, value);
        let alone = Map::from_iter([(property.clone(), value.clone())]);
        for error in connector::set_faults("websocket", &alone).0 {
            self.problems.push(Problem::error(label, None, "", error.to_string()));
        }
        let key = key.to_ascii_lowercase();
        self.draft.config.sources.set_override(Override { kind: "websocket", key, property, value });
    }

    fn finish(mut self) -> Result<(Config, Vec<Problem>), Vec<Problem>> {
        let config = self.draft.finish();
        for (tls, name) in [(&config.server.tls, "httpServerTls"), (&config.rest_tls, "restTls")] {
            if tls.as_ref().is_some_and(|tls| tls.certfile.is_empty() || tls.keyfile.is_empty()) {
                let half = self.half_tls.iter().filter(|(of, _)| *of == name);
                self.problems.extend(half.map(|(_, problem)| problem.clone()));
            }
        }
        match self.problems.iter().any(|problem| problem.severity == Severity::Error) {
            true => Err(self.problems),
            false => Ok((config, self.problems)),
        }
    }
}

/// The kinds of sections in the main file.
enum Section {
    /// `basic` or `source`.
    Settings,
    Rule,
    /// A section of eKuiper that Plutino does not use.
    Foreign,
    /// An unknown section, with the nearest known name as a hint.
    Unknown(Option<String>),
}

fn kind_of(name: &str) -> Section {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "basic" | "source" => Section::Settings,
        "rule" => Section::Rule,
        lower if FOREIGN_SECTIONS.contains(&lower) => Section::Foreign,
        _ => Section::Unknown(suggest::did_you_mean(name, ["basic", "source", "rule", "sink", "store"])),
    }
}

/// Wraps a value in objects with these names.
fn nested(names: &[&str], value: Json) -> Json {
    names.iter().rev().fold(value, |value, name| Json::Object(Map::from_iter([((*name).to_owned(), value)])))
}

/// The value of a variable: JSON, a list `[a,b]`, or a single value.
fn as_value(text: &str) -> Json {
    let text = text.trim();
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => serde_json::from_str(text).unwrap_or_else(|_| {
            let parts = inner.split(',').map(str::trim).filter(|part| !part.is_empty());
            Json::Array(parts.map(single_value).collect())
        }),
        None => single_value(text),
    }
}

/// A number, boolean, object or text.
fn single_value(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|_| match text.to_ascii_lowercase().as_str() {
        "true" => Json::Bool(true),
        "false" => Json::Bool(false),
        _ => Json::String(text.to_owned()),
    })
}
