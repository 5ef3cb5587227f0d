//! Finds the source of a stream and the sink of an action by the configuration, for rule files and the service.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use crate::config::Config;
use crate::definition::connection::{Selected, put_all};
use crate::definition::rule::{self, Action, Part, RuleOptions};
use crate::definition::stream::{Format, StreamDef};
use crate::engine::SinkAction;
use crate::io::connector::{self, ConnectorError, SourceSpec};
use crate::io::file::FILE_TYPE;
use crate::property::{self, Invalid, Warning};
use crate::text::document::Document;
use crate::text::suggest;

pub type Faults = (Vec<Fault>, Vec<Warning>);

pub struct Fault {
    /// The wrong option of the statement.
    pub(super) option: &'static str,
    pub message: String,
    pub(super) hint: Option<String>,
    /// The wrong property.
    pub(super) of: Option<property::Fault>,
}

/// How to treat an undefined CONF_KEY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownKey {
    /// As an error.
    Refused,
    /// As the default configuration, with a warning, as eKuiper's service does.
    Default,
}

/// The sink of an action, and warnings.
///
/// # Errors
/// [`ConnectorError`] for wrong properties and for a missing named connection.
pub fn sink(action: &Action, config: &Config) -> Result<(SinkAction, Vec<Warning>), ConnectorError> {
    if let Some(reach) = &config.reach {
        reach.check(&action.written)?;
    }
    let (action, mut resource_warnings) = with_resource(action, config)?;
    let action = &action;
    let selected = config.connections.of_sink(&action.kind, &action.props)?;
    let (mut spec, mut warnings) = connector::sink(&action.kind, &selected.props)?;
    if let Some(reach) = &config.reach {
        spec.settings().check(reach)?;
        spec.settings_mut().limit_variables(&reach.variables);
    }
    let has_format = action.written.iter().any(|(name, value)| {
        name.eq_ignore_ascii_case("format") && value.as_str().is_some_and(|format| !format.is_empty())
    });
    let kind = spec.settings().kind();
    let formed = spec.settings_mut().form(action.format.clone(), has_format);
    let format = formed.map_err(|reason| ConnectorError::Form { kind, reason })?;
    warnings.extend(selected.warnings);
    warnings.append(&mut resource_warnings);
    Ok((SinkAction { spec, format: Arc::new(format), dead_letter: action.dead_letter }, warnings))
}

/// The property that names a set of properties which the sink builds on.
const RESOURCE: &str = "resourceId";

/// An action merged with the property set that it names.
fn with_resource<'a>(action: &'a Action, config: &Config) -> Result<(Cow<'a, Action>, Vec<Warning>), ConnectorError> {
    let is_resource = |name: &str| name.eq_ignore_ascii_case(RESOURCE);
    let Some(named) = action.written.iter().find(|(name, _)| is_resource(name)).map(|(_, value)| value) else {
        return Ok((Cow::Borrowed(action), Vec::new()));
    };
    let kind = action.kind.as_str();
    let key = named.as_str().unwrap_or_default();
    let mut warnings = Vec::new();
    let mut props = match config.sinks.own(kind, key) {
        Some(props) => props.clone(),
        None => {
            if !key.is_empty() {
                let known: Vec<&str> = config.sinks.keys(kind).collect();
                let meant = suggest::did_you_mean(key, known.iter().copied())
                    .map(|hint| format!("; {hint}"))
                    .unwrap_or_default();
                let message =
                    format!("{RESOURCE} {key} is not defined: only the sink's own properties are used{meant}");
                warnings.push(Warning::other(RESOURCE, message));
            }
            Map::new()
        }
    };
    let mut own = action.written.clone();
    own.retain(|name, _| !is_resource(name));
    put_all(&mut props, &own);
    // Read like any action, since some properties belong to every sink.
    let rule = json!({"id": "resource", "sql": "SELECT", "actions": [{kind: props}]});
    let (document, mut problems) = (Document::from_json("resource", &rule), Vec::new());
    let read = rule::parse(&document, &document.root, None, &RuleOptions::default(), &mut problems);
    let of_sink = problems.into_iter().find(|found| matches!(found.part, Part::Sink));
    let wrong = of_sink.map(|found| found.problem.message);
    match (wrong, read.and_then(|rule| rule.actions.into_iter().next())) {
        (None, Some(read)) => {
            Ok((Cow::Owned(Action { place: action.place, dead_letter: action.dead_letter, ..read }), warnings))
        }
        (wrong, _) => Err(ConnectorError::Resource { key: key.to_owned(), reason: wrong.unwrap_or_default() }),
    }
}

/// In a file of delimited values or forms, each line is a message. With a header, the whole file is: its first line names
/// the columns of all others.
fn choose_file_type(format: &Format, props: &mut Map<String, Json>) {
    let is_csv = |(name, value): (&String, &Json)| {
        name.eq_ignore_ascii_case(FILE_TYPE).then(|| value.as_str().is_some_and(|is| is.eq_ignore_ascii_case("csv")))
    };
    let written = props.iter().find_map(is_csv);
    let file_type = match (format, written) {
        (Format::Delimited { header: true, .. }, None | Some(true)) => "json",
        (Format::Delimited { .. } | Format::UrlEncoded, None) => "lines",
        _ => return,
    };
    props.retain(|name, _| !name.eq_ignore_ascii_case(FILE_TYPE));
    props.insert(FILE_TYPE.to_owned(), file_type.into());
}

/// The source of a stream. EXTRA overrides the named connection, which overrides the CONF_KEY.
///
/// # Errors
/// All faults, and the warnings.
pub fn source(def: &StreamDef, config: &Config, unknown: UnknownKey) -> Result<(SourceSpec, Vec<Warning>), Faults> {
    let kind = if def.source.is_empty() { "websocket" } else { def.source.as_str() };
    let key = def.conf_key.as_deref();
    let mut found = Vec::new();
    let props = match (config.sources.properties(kind, key), key) {
        (Some(props), _) => props,
        (None, Some(key)) if unknown == UnknownKey::Default => {
            let known: Vec<&str> = config.sources.keys(kind).collect();
            let meant =
                suggest::did_you_mean(key, known.iter().copied()).map(|hint| format!("; {hint}")).unwrap_or_default();
            let message = format!("CONF_KEY {key} is not defined: the default configuration of {kind} is used{meant}");
            found.push(Warning::other("", message));
            config.sources.properties(kind, None).unwrap_or_default()
        }
        (None, _) if !connector::sources().contains(&kind) => Map::new(),
        (None, key) => {
            let known: Vec<&str> = config.sources.keys(kind).collect();
            let key = key.unwrap_or_default();
            let hint = suggest::did_you_mean(key, known.iter().copied()).unwrap_or_else(|| {
                format!("give it in etc/sources/{kind}.yaml, or here: \"sources\": {{\"{kind}\": {{\"{key}\": …}}}}")
            });
            let message = format!("CONF_KEY {key} is not defined");
            return Err((vec![Fault { option: "CONF_KEY", message, hint: Some(hint), of: None }], Vec::new()));
        }
    };
    let of_property = |fault: property::Fault| {
        let in_extra = def.extra.keys().any(|name| name.eq_ignore_ascii_case(fault.top()));
        let option = match fault.top() {
            "DATASOURCE" => "DATASOURCE",
            _ if in_extra => "EXTRA",
            _ if key.is_some() => "CONF_KEY",
            _ => "DATASOURCE",
        };
        Fault { option, message: fault.to_string(), hint: fault.hint.clone(), of: Some(fault) }
    };
    let faults = |error: ConnectorError| match error {
        ConnectorError::Properties(Invalid { faults, warnings }) => {
            (faults.into_iter().map(of_property).collect(), warnings)
        }
        error => {
            let of = error.property().unwrap_or_default();
            let in_extra = def.extra.keys().any(|name| name.eq_ignore_ascii_case(of));
            let (option, hint) = match &error {
                ConnectorError::UnknownSource(_) => ("TYPE", suggest::did_you_mean(kind, connector::sources())),
                _ if in_extra => ("EXTRA", None),
                _ if key.is_some() => ("CONF_KEY", None),
                _ => ("DATASOURCE", None),
            };
            (vec![Fault { option, message: error.to_string(), hint, of: None }], Vec::new())
        }
    };
    let reached = config.reach.as_ref().map_or(Ok(()), |reach| {
        reach.check_text("DATASOURCE", &def.datasource)?;
        reach.check(&def.extra)
    });
    if let Err(error) = reached {
        return Err((faults(error.into()).0, found));
    }
    let Selected { path, mut props, warnings } =
        match config.connections.of_source(kind, &def.datasource, props, &def.extra) {
            Ok(selected) => selected,
            Err(error) => return Err((faults(error).0, found)),
        };
    found.extend(warnings);
    if kind == "file" {
        choose_file_type(&def.format, &mut props);
    }
    let path = path.as_deref().unwrap_or(&def.datasource);
    match connector::source(kind, path, &props) {
        Ok((mut spec, warnings)) => {
            found.extend(warnings);
            if let Some(reach) = &config.reach {
                if let Err(error) = spec.settings().check(reach) {
                    return Err((faults(error.into()).0, found));
                }
                spec.settings_mut().limit_variables(&reach.variables);
            }
            Ok((spec, found))
        }
        Err(error) => {
            let (faults, warnings) = faults(error);
            found.extend(warnings);
            Err((faults, found))
        }
    }
}
