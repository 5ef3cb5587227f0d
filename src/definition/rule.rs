//! Rules as users write them: JSON in eKuiper's form becomes typed rules.
//!
//! Every problem is reported with its place and the part of the rule. SQL stays text here; a sink is a kind with
//! properties.

pub mod options;

use serde_json::{Map, Value as Json};

use crate::format::sink_format::{self, SinkFormat};
use crate::io::connector;
use crate::property::{Cause, Entry, Fault, UNKNOWN};
use crate::text::document::{Document, Member, Node, Place, Problem, Value};
use crate::text::suggest;

pub use self::options::RuleOptions;

#[derive(Clone, Debug)]
pub struct Rule {
    pub id: String,
    /// A display name; empty if not given.
    pub name: String,
    pub sql: String,
    pub actions: Vec<Action>,
    pub options: RuleOptions,
    /// Whether the rule starts by itself.
    pub triggered: bool,
}

/// One sink of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// The kind of the sink.
    pub kind: String,
    /// The properties of this kind of sink, as written.
    pub props: Map<String, Json>,
    /// All properties, including those that every sink has.
    pub written: Map<String, Json>,
    /// The place of the kind in the document.
    pub place: Place,
    /// The format of its messages, from the properties that every sink has.
    pub format: SinkFormat,
    /// The sink comes from the option `deadLetter`: it gets failed messages and no results.
    pub dead_letter: bool,
}

/// An error or warning about a rule.
#[derive(Debug)]
pub struct RuleProblem {
    pub part: Part,
    pub problem: Problem,
}

/// The part of a rule that a problem is in.
#[derive(Debug)]
pub enum Part {
    /// Id, name, SQL, or an unknown member.
    Rule,
    /// The rule has no id or no actions. A trial needs neither.
    Missing,
    Sink,
    /// An option. The fault names no property if the problem lies in a combination.
    Option(Fault),
}

const MEMBERS: &[&str] =
    &["id", "name", "sql", "actions", "options", "triggered", "version", "tags", "temp", "graph", "description"];

/// The properties that all sinks have, as documentation.
pub fn sink_entries() -> Vec<Entry> {
    sink_format::entries()
}

/// Reads the rule in `node`. `key` is the rule's id where rules are the members of an object. `defaults` are the values
/// of options that the rule does not set. Missing and wrong parts stay empty, so that the rest is checked too; `None`
/// if the node is not an object.
pub fn parse(
    document: &Document,
    node: &Node,
    key: Option<&str>,
    defaults: &RuleOptions,
    problems: &mut Vec<RuleProblem>,
) -> Option<Rule> {
    let subject = key.map_or_else(|| "rule".to_owned(), |key| format!("rule {key}"));
    let mut reader = RuleReader { document, subject, problems };
    let Value::Map(members) = &node.value else {
        reader.error(
            node.place,
            format!("a rule is an object with id, sql and actions, this is {}", node.kind()),
            None,
        );
        return None;
    };
    let id = match node.field("id") {
        Some(id) => reader.text(id, "id"),
        None => key.map(str::to_owned),
    };
    match (&id, key) {
        (Some(id), Some(key)) if id != key => {
            reader.error(node.place, format!("RuleId is not consistent with rule id: the rule says {id:?}"), None);
        }
        _ if id.as_ref().map_or(node.field("id").is_none(), String::is_empty) => {
            let hint = "give the rule a name of its own: \"id\": \"rule1\"";
            reader.missing(node.place, "Missing rule id.", hint);
        }
        _ => {}
    }
    if let (Some(id), None) = (&id, key)
        && !id.is_empty()
    {
        reader.subject = format!("rule {id}");
    }
    let is_known = |member: &&Member| MEMBERS.iter().any(|known| known.eq_ignore_ascii_case(&member.key));
    let mut strange = members.iter().filter(|member| !is_known(member));
    for member in strange.by_ref().take(UNKNOWN) {
        let hint = suggest::did_you_mean(&member.key, MEMBERS.iter().copied());
        reader.warning(member.place, format!("unknown member {} is ignored", member.key), hint);
    }
    let more = strange.count();
    if more > 0 {
        reader.warning(node.place, format!("{more} more unknown members are ignored"), None);
    }
    if let Some(graph) = node.field("graph").filter(|graph| !graph.members().is_empty()) {
        let hint = Some("write the rule in SQL".to_owned());
        reader.error(graph.place, "rules as graphs are not supported yet", hint);
    }
    let sql = match node.field("sql") {
        Some(sql) => reader.text(sql, "sql").filter(|sql| {
            let empty = sql.trim().is_empty();
            if empty {
                reader.error(node.place, "the rule's sql is empty", None);
            }
            !empty
        }),
        None => {
            reader.error(node.place, "the rule has no sql", None);
            None
        }
    };
    let name = node.field("name").and_then(|name| reader.text(name, "name")).unwrap_or_default();
    let triggered = node.field("triggered").and_then(|node| reader.flag(node, "triggered")).unwrap_or(true);
    let mut actions = reader.actions(node);
    if let Some(dead_letter) = node.field("options").and_then(|options| options.field("deadLetter")) {
        actions.extend(reader.dead_letter(dead_letter));
    }
    let mut options = match node.field("options") {
        Some(node) => reader.options(node, defaults),
        None => defaults.clone(),
    };
    options.temporary = node.field("temp").and_then(|node| reader.flag(node, "temp")).unwrap_or(false);
    let (id, sql) = (id.unwrap_or_default(), sql.unwrap_or_default());
    Some(Rule { id, name, sql, actions, options, triggered })
}

/// Reads one rule and collects its problems.
struct RuleReader<'a> {
    document: &'a Document,
    subject: String,
    problems: &'a mut Vec<RuleProblem>,
}

impl RuleReader<'_> {
    fn error(&mut self, place: Place, message: impl Into<String>, hint: Option<String>) {
        let problem = self.document.error(place, &self.subject, message).with_hint(hint);
        self.problems.push(RuleProblem { part: Part::Rule, problem });
    }

    fn warning(&mut self, place: Place, message: impl Into<String>, hint: Option<String>) {
        let problem = self.document.warning(place, &self.subject, message).with_hint(hint);
        self.problems.push(RuleProblem { part: Part::Rule, problem });
    }

    fn missing(&mut self, place: Place, message: &str, hint: &str) {
        let problem = self.document.error(place, &self.subject, message).with_hint(Some(hint.to_owned()));
        self.problems.push(RuleProblem { part: Part::Missing, problem });
    }

    fn expected(&mut self, node: &Node, name: &str, expected: &str) {
        let mut is = node.json().to_string();
        if is.len() > 60 {
            is = node.kind().to_owned();
        }
        self.error(node.place, format!("{name} is {is}, expected {expected}"), None);
    }

    fn text(&mut self, node: &Node, name: &str) -> Option<String> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            // YAML reads an id such as 1 as a number.
            Value::Number(number) if name != "sql" => Some(number.to_string()),
            _ => {
                self.expected(node, name, "a text");
                None
            }
        }
    }

    fn flag(&mut self, node: &Node, name: &str) -> Option<bool> {
        match &node.value {
            Value::Bool(value) => Some(*value),
            Value::Text(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::Text(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => {
                self.expected(node, name, "true or false");
                None
            }
        }
    }

    fn actions(&mut self, rule: &Node) -> Vec<Action> {
        const HINT: &str = "give it at least one sink: \"actions\": [{\"log\": {}}]";
        let node = match rule.field("actions") {
            Some(node) => node,
            None => {
                self.missing(rule.place, "Missing rule actions.", HINT);
                return Vec::new();
            }
        };
        let entries = match &node.value {
            Value::List(entries) if !entries.is_empty() => entries,
            Value::List(_) => {
                self.missing(node.place, "Missing rule actions.", HINT);
                return Vec::new();
            }
            _ => {
                self.expected(node, "actions", "a list of sinks such as [{\"log\": {}}]");
                return Vec::new();
            }
        };
        self.listed(entries)
    }

    /// Reads the sinks of the option `deadLetter`. Whether it is a list is checked with the other options.
    fn dead_letter(&mut self, node: &Node) -> Vec<Action> {
        let Value::List(entries) = &node.value else { return Vec::new() };
        self.listed(entries).into_iter().map(|action| Action { dead_letter: true, ..action }).collect()
    }

    fn listed(&mut self, entries: &[Node]) -> Vec<Action> {
        let mut actions = Vec::new();
        for entry in entries {
            if entry.members().is_empty() {
                self.expected(entry, "an action", "an object with the sink's name, such as {\"log\": {}}");
            }
            let before = self.problems.len();
            for member in entry.members() {
                let kind = &member.key;
                match &member.node.value {
                    Value::Map(_) | Value::Null => actions.push(self.action(kind, member.place, &member.node)),
                    _ => self.expected(&member.node, &format!("sink {kind}"), "an object with its properties"),
                }
            }
            self.problems[before..].iter_mut().for_each(|problem| problem.part = Part::Sink);
        }
        // Rules are kept, and there may be thousands.
        actions.shrink_to_fit();
        actions
    }

    fn action(&mut self, kind: &str, place: Place, node: &Node) -> Action {
        let written = node.json_members();
        let (format, found) = sink_format::read(&written);
        for fault in &found.faults {
            // An error with its own text must match eKuiper's exactly.
            let prefix = match fault.cause {
                Cause::Because(_) => String::new(),
                _ => format!("sink {kind}: "),
            };
            let problem = fault.problem(self.document, node, &self.subject, &prefix);
            self.problems.push(RuleProblem { part: Part::Sink, problem });
        }
        // A kind of sink may redefine a property that every sink has.
        let own = written.iter().filter(|(name, _)| !sink_format::knows(name) || connector::has_property(kind, name));
        let props = own.map(|(name, value)| (name.clone(), value.clone())).collect();
        Action { kind: kind.to_owned(), props, written, place, format, dead_letter: false }
    }

    fn options(&mut self, node: &Node, defaults: &RuleOptions) -> RuleOptions {
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            self.expected(node, "options", "an object");
        }
        let (options, found) = RuleOptions::read(&node.json_members(), defaults);
        for warning in &found.warnings {
            let problem = warning.problem(self.document, node, &self.subject, "");
            self.problems.push(RuleProblem { part: Part::Rule, problem });
        }
        for fault in found.faults {
            let problem = fault.problem(self.document, node, &self.subject, "");
            self.problems.push(RuleProblem { part: Part::Option(fault), problem });
        }
        options
    }
}

#[cfg(test)]
mod tests;
