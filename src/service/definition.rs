//! A posted rule: its text is parsed, checked and planned as in rule files.
//!
//! Errors have eKuiper's texts, and like eKuiper only the first one is reported.

use std::sync::Arc;

use serde_json::Value as Json;

use super::check_id;
use super::error::ServiceError;
use super::processes::Recipe;
use super::topology::{Target, Topology};
use crate::definition::connection::selector;
use crate::definition::rule::{self, Part, Rule, RuleOptions, RuleProblem};
use crate::definition::stream::{Catalog, RelationKind, StreamDef};
use crate::engine::{Keeps, RuleSpec, SinkAction};
use crate::io::connector::{ConnectorError, SourceSpec};
use crate::pipeline::{self, Bindings};
use crate::plan::physical::{Body, Role};
use crate::plan::view::Connected;
use crate::plan::{self, PlanError, PlanErrorKind};
use crate::property::{Cause, Fault, Noun};
use crate::sql::ast::Select;
use crate::sql::{self, SyntaxErrorKind};
use crate::text::document::{Document, Severity};
use crate::value::Text;

/// A parsed rule. Every start plans it again, against the current streams and settings.
#[derive(Clone, Debug)]
pub struct Definition {
    pub rule: Rule,
    /// its SQL as tree
    pub select: Arc<Select>,
    /// the member `version`; empty if not given
    pub version: String,
    /// the member `tags`
    pub tags: Option<Vec<String>>,
    /// the streams and tables that the SQL names
    pub reads: Vec<Text>,
    /// the named connections of its sinks
    pub selects: Vec<String>,
    /// the number of the action that contains each sink, dead letters aside: an action may contain several
    of_action: Box<[u32]>,
    /// warnings about parts that have no effect
    warnings: Vec<String>,
}

/// A rule that can start.
pub struct Planned {
    /// the engine's input
    pub spec: RuleSpec,
    /// the names of its parts
    pub nodes: Topology,
    /// the interval at which its state is stored, ms; `None`: it is not
    pub checkpoint_interval: Option<i64>,
    /// what other processes need to make the same plan
    pub(super) recipe: Recipe,
}

impl Planned {
    /// Lets the rule start even if `checkConnection` or a missing file would forbid it: it was accepted once, and after
    /// a restart no client can be connected yet.
    pub fn unchecked(mut self) -> Planned {
        for source in self.spec.sources.iter_mut().flatten() {
            source.settings_mut().skip_checks();
        }
        // Settings that are shared would be copied.
        for sink in self.spec.sinks.iter_mut().filter(|sink| sink.spec.settings().has_checks()) {
            sink.spec.settings_mut().skip_checks();
        }
        self.recipe.unchecked = true;
        self
    }
}

impl Definition {
    /// Parses a rule; `id` is the one in the request's path, if there is one.
    ///
    /// # Errors
    /// Usually [`ServiceError::RuleJson`].
    pub fn read(text: &str, id: Option<&str>, defaults: &RuleOptions) -> Result<Definition, ServiceError> {
        let json: Json = serde_json::from_str(text).map_err(|error| ServiceError::RuleJson(error.to_string()))?;
        Definition::of(json, id, defaults)
    }

    /// The same for a parsed body.
    ///
    /// # Errors
    /// As [`Definition::read`].
    pub fn of(json: Json, id: Option<&str>, defaults: &RuleOptions) -> Result<Definition, ServiceError> {
        let wrong = |message: &str| ServiceError::RuleJson(message.to_owned());
        let document = Document::from_json("rule", &json);
        let field = |name| document.root.field(name);
        let own = field("id").and_then(|node| node.text()).filter(|own| !own.is_empty());
        match (own, id) {
            (Some(own), Some(id)) if own != id => return Err(wrong("RuleId is not consistent with rule id.")),
            (None, None) => return Err(wrong("Missing rule id.")),
            _ => {}
        }
        check_id(own.or(id).unwrap_or_default()).map_err(|error| wrong(&error.to_string()))?;
        let name = own.or(id).unwrap_or_default();
        let empty =
            |node: &crate::text::document::Node| node.members().is_empty() && node.text().is_none_or(str::is_empty);
        if field("sql").is_none_or(empty) && field("graph").is_none_or(|graph| graph.members().is_empty()) {
            return Err(wrong(&format!("Rule {name} has neither sql nor graph.")));
        }
        if let Some(Json::Array(actions)) = member(&json, "actions") {
            let properties = actions.iter().filter_map(Json::as_object).flat_map(|action| action.values());
            if let Some(other) = properties.into_iter().find(|properties| !properties.is_object()) {
                let found = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
                return Err(ServiceError::Connector(format!(
                    "expect map[string]interface{{}} type for the action properties, but found {found}"
                )));
            }
        }
        if let Some(error) = wrong_type(name, &json) {
            return Err(error);
        }
        let mut problems = Vec::new();
        let rule = rule::parse(&document, &document.root, own.or(id), defaults, &mut problems);
        let (errors, warnings): (Vec<_>, Vec<_>) =
            problems.into_iter().partition(|found: &RuleProblem| found.problem.severity == Severity::Error);
        if let Some(RuleProblem { part, problem }) = errors.into_iter().next() {
            return Err(match part {
                Part::Sink => ServiceError::Connector(problem.message),
                Part::Option(fault) => option_error(name, &fault),
                Part::Rule | Part::Missing => ServiceError::RuleJson(problem.message),
            });
        }
        let text = |RuleProblem { problem, .. }| match problem.hint {
            Some(hint) => format!("{}: {hint}", problem.message),
            None => problem.message,
        };
        let warnings = warnings.into_iter().map(text).collect();
        let Some(rule) = rule else { return Err(wrong("the rule cannot be read")) };
        let select = sql::parse_select(&rule.sql).map_err(|error| plan_error(&rule.sql, error.into()))?;
        let reads = std::iter::once(&select.from).chain(select.joins.iter().map(|join| &join.source));
        let reads = reads.map(|source| source.name.name.clone()).collect();
        let version = match member(&json, "version") {
            None | Some(Json::Null) => String::new(),
            Some(Json::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let tags = match member(&json, "tags") {
            None | Some(Json::Null) => None,
            Some(tags) => Some(serde_json::from_value(tags.clone()).map_err(|_| wrong("tags is not a list of texts"))?),
        };
        let selects = rule.actions.iter().filter_map(|action| Some(selector(&action.props)?.to_owned())).collect();
        let actions = member(&json, "actions").and_then(Json::as_array).into_iter().flatten();
        let sinks = |action: &Json| action.as_object().map_or(0, serde_json::Map::len);
        let of_action = (0..).zip(actions).flat_map(|(number, action)| std::iter::repeat_n(number, sinks(action)));
        let of_action = of_action.collect();
        Ok(Definition { rule, select: Arc::new(select), version, tags, reads, selects, of_action, warnings })
    }

    /// Its display name; its id if it has none.
    pub fn name(&self) -> &str {
        if self.rule.name.is_empty() { &self.rule.id } else { &self.rule.name }
    }

    /// Logs what has no effect, such as a misspelt option: eKuiper accepts such rules.
    pub fn warn(&self) {
        for warning in &self.warnings {
            tracing::warn!(rule = self.rule.id, "{warning}");
        }
    }

    /// Plans it against these streams and settings.
    ///
    /// # Errors
    /// [`ServiceError`] for anything that is wrong with it.
    pub fn plan(&self, catalog: &Catalog, bindings: &Bindings) -> Result<Planned, ServiceError> {
        self.plan_with(catalog, bindings, |def| self.source(def, bindings))
    }

    /// The logical and the physical plan, and how the rule uses the data threads.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub fn explain(&self, catalog: &Catalog) -> Result<String, ServiceError> {
        let Rule { sql, options, .. } = &self.rule;
        plan::explain(sql, options, catalog).map_err(|error| plan_error(sql, error))
    }

    /// The sinks as written.
    fn targets(&self) -> Vec<Target<'_>> {
        let sinks = self.rule.actions.iter().filter(|sink| !sink.dead_letter).zip(&self.of_action);
        sinks.map(|(sink, &action)| Target { kind: &sink.kind, action, props: &sink.written }).collect()
    }

    /// The source of a stream by its statement and the configuration; warnings are logged.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub fn source(&self, def: &Arc<StreamDef>, bindings: &Bindings) -> Result<SourceSpec, ServiceError> {
        let (source, warnings) = bindings.source(def).map_err(fault_of)?;
        for warning in &*warnings {
            tracing::warn!(rule = self.rule.id, stream = %def.name, "{warning}");
        }
        Ok(source)
    }

    /// The same with other sources.
    ///
    /// # Errors
    /// As [`Definition::plan`].
    pub fn plan_with(
        &self,
        catalog: &Catalog,
        bindings: &Bindings,
        source: impl Fn(&Arc<StreamDef>) -> Result<SourceSpec, ServiceError>,
    ) -> Result<Planned, ServiceError> {
        let Rule { id, sql, options, actions, .. } = &self.rule;
        let select = &*self.select;
        let plan = plan::of_select(select, options, catalog).map_err(|error| plan_error(sql, error))?;
        let mut sources = Vec::with_capacity(plan.inputs.len());
        for input in &plan.inputs {
            let is_asked = input.role == Role::Lookup || input.stream.kind == RelationKind::View;
            sources.push(if is_asked { None } else { Some(source(&input.stream)?) });
        }
        let mut sinks: Vec<SinkAction> = Vec::with_capacity(actions.len());
        for action in actions {
            let (sink, warnings) = bindings.sink(action).map_err(|error| connector_error(&error))?;
            for warning in &*warnings {
                tracing::warn!(rule = id, sink = action.kind, "{warning}");
            }
            sinks.push(sink);
        }
        let nodes = Topology::of(&plan, select, &self.targets());
        let stateful = matches!(plan.body, Body::Stateful(_));
        let checkpoint_interval = (options.qos > 0 && stateful).then_some(options.checkpoint_interval);
        let keeps = if checkpoint_interval.is_some() { Keeps::State(None) } else { Keeps::Nothing };
        let (send_error, connected) = (options.send_error, Connected::default());
        let spec = RuleSpec { id: id.clone(), plan, sources, sinks, send_error, keeps, connected };
        Ok(Planned { spec, nodes, checkpoint_interval, recipe: Recipe::default() })
    }
}

/// The error for a member that should be text or boolean but is not. Values that rule files accept instead, such as
/// `"true"`, are refused: the service returns a rule as it was posted, and eKuiper could not read it.
fn wrong_type(rule: &str, json: &Json) -> Option<ServiceError> {
    const TEXTS: [&str; 3] = ["id", "name", "version"];
    const FLAGS: [&str; 2] = ["triggered", "temp"];
    const OPTIONS: [&str; 6] =
        ["debug", "isEventTime", "sendMetaToSink", "sendNilField", "sendError", "disableBufferFullDiscard"];
    let wrong = |json: &Json, names: &[&'static str], fits: fn(&Json) -> bool| {
        let value = |name: &str| member(json, name).filter(|value| !value.is_null() && !fits(value)).cloned();
        names.iter().find_map(|name| Some((*name, value(name)?)))
    };
    let of_rule = |(name, value), expected| ServiceError::RuleJson(format!("{name} is {value}, expected {expected}"));
    wrong(json, &TEXTS, Json::is_string)
        .map(|found| of_rule(found, "a text"))
        .or_else(|| wrong(json, &FLAGS, Json::is_boolean).map(|found| of_rule(found, "true or false")))
        .or_else(|| {
            let (name, value) = wrong(member(json, "options")?, &OPTIONS, Json::is_boolean)?;
            let cause = Cause::Value { value: value.to_string(), expected: "true or false".to_owned() };
            Some(option_error(rule, &Fault { noun: Noun::Option, property: name.to_owned(), cause, hint: None }))
        })
}

/// The error of an option in eKuiper's form: `invalidBufferLength:…`.
fn option_error(rule: &str, fault: &Fault) -> ServiceError {
    let option = fault.property.as_str();
    let negative = matches!(&fault.cause, Cause::Value { value, .. } if value.starts_with('-'));
    // For these, eKuiper only reports that they are too small.
    let small = match option {
        "bufferLength" => Some("invalidBufferLength:bufferLength"),
        "concurrency" => Some("invalidConcurrency:concurrency"),
        "lateTolerance" => Some("invalidLateTol:lateTol"),
        "restartStrategy.attempts" => Some("invalidRestartAttempts:restart attempts"),
        _ => None,
    };
    let message = match small.filter(|_| negative) {
        Some(small) => format!("{small} must be greater than 0."),
        // A problem of several options, such as those of a schedule.
        None if option.is_empty() => fault.to_string(),
        None => {
            let mut code = String::from("invalid");
            for part in option.replacen("restartStrategy.", "restart.", 1).split('.') {
                let mut letters = part.chars();
                code.extend(letters.next().map(|first| first.to_ascii_uppercase()));
                code.push_str(letters.as_str());
            }
            format!("{code}:{fault}")
        }
    };
    ServiceError::RuleJson(format!("Rule {rule} has invalid options: {message}"))
}

/// The member of this name, ignoring case.
fn member<'a>(json: &'a Json, name: &str) -> Option<&'a Json> {
    let members = json.as_object()?;
    members.get(name).or_else(|| members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

/// The error of the SQL. eKuiper finds some errors when it parses the rule, the others when it plans it.
fn plan_error(sql: &str, error: PlanError) -> ServiceError {
    if !error.is_of_parser() {
        return ServiceError::Plan(Box::new(error));
    }
    let not_select = matches!(&*error.kind, PlanErrorKind::Syntax(error) if error.kind == SyntaxErrorKind::NotSelect);
    ServiceError::RuleJson(if not_select {
        format!("SQL {sql} is not a select statement.")
    } else {
        format!("Parse SQL {sql} error: {error}.")
    })
}

/// Like eKuiper, reports only the first error.
fn connector_error(error: &ConnectorError) -> ServiceError {
    let text = match error {
        ConnectorError::Properties(refused) => refused.faults.first().map(ToString::to_string).unwrap_or_default(),
        error => error.to_string(),
    };
    ServiceError::Connector(bare(&text))
}

pub(super) fn fault_of((faults, _): pipeline::Faults) -> ServiceError {
    ServiceError::Connector(faults.first().map(|fault| bare(&fault.message)).unwrap_or_default())
}

/// eKuiper's part of the text, without Plutino's additions.
fn bare(text: &str) -> String {
    const MORE: [&str; 4] = [": set path, now", ": set DATASOURCE, now", ": there ", ": make it with "];
    let end = MORE.iter().filter_map(|more| text.find(more)).min();
    text[..end.unwrap_or(text.len())].to_owned()
}
