//! The source of a stream and the sink of an action, by the configuration: rule files and the service go this way.

use serde_json::Map;

use crate::config::Config;
use crate::definition::connection::Selected;
use crate::definition::rule::{self, Action};
use crate::definition::stream::StreamDef;
use crate::engine::SinkAction;
use crate::io::connector::{self, ConnectorError, SourceSpec};
use crate::io::websocket::SettingsError;

/// All that is wrong with a source, and the warnings beside it.
pub type Faults = (Vec<Fault>, Vec<String>);

/// Why a source cannot be used.
pub struct Fault {
    /// the option of the statement that is to blame
    pub(super) option: &'static str,
    /// what is wrong
    pub message: String,
    pub(super) hint: Option<String>,
}

/// What a CONF_KEY means that nobody has defined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownKey {
    /// a mistake
    Refused,
    /// the default configuration, with a warning: what eKuiper's service does
    Default,
}

/// The sink of an action, with what else is to be said of it.
///
/// # Errors
/// [`ConnectorError`] for wrong properties, and for a named connection that is not there.
pub fn sink(action: &Action, config: &Config) -> Result<(SinkAction, Vec<String>), ConnectorError> {
    if let Some(reach) = &config.reach {
        reach.check(&action.props)?;
    }
    let selected = config.connections.of_sink(&action.kind, &action.props)?;
    let (spec, mut warnings) = connector::sink(&action.kind, &selected.props)?;
    warnings.extend(selected.warnings);
    Ok((SinkAction { spec, shape: action.shape.clone() }, warnings))
}

/// The source of a stream: the properties of its CONF_KEY under those of the named connection, where there is one,
/// under those of EXTRA.
///
/// # Errors
/// All that is wrong, and the warnings that stand beside it.
pub fn source(def: &StreamDef, config: &Config, unknown: UnknownKey) -> Result<(SourceSpec, Vec<String>), Faults> {
    let kind = if def.source.is_empty() { "websocket" } else { def.source.as_str() };
    let key = def.conf_key.as_deref();
    let mut told = Vec::new();
    let props = match (config.sources.properties(kind, key), key) {
        (Some(props), _) => props,
        (None, Some(key)) if unknown == UnknownKey::Default => {
            let known: Vec<&str> = config.sources.keys(kind).collect();
            let meant = rule::meant(key, &known).map(|hint| format!("; {hint}")).unwrap_or_default();
            told.push(format!("CONF_KEY {key} is not defined: the default configuration of {kind} is used{meant}"));
            config.sources.properties(kind, None).unwrap_or_default()
        }
        (None, _) if !connector::SOURCES.contains(&kind) => Map::new(),
        (None, key) => {
            let known: Vec<&str> = config.sources.keys(kind).collect();
            let key = key.unwrap_or_default();
            let hint = rule::meant(key, &known).unwrap_or_else(|| {
                format!("give it in etc/sources/{kind}.yaml, or here: \"sources\": {{\"{kind}\": {{\"{key}\": …}}}}")
            });
            let message = format!("CONF_KEY {key} is not defined");
            return Err((vec![Fault { option: "CONF_KEY", message, hint: Some(hint) }], Vec::new()));
        }
    };
    let fault = |error: ConnectorError| {
        let in_extra = |property: &str| def.extra.keys().any(|name| name.eq_ignore_ascii_case(property));
        let (option, hint) = match &error {
            ConnectorError::UnknownSource(_) => ("TYPE", rule::meant(kind, connector::SOURCES)),
            ConnectorError::Settings(SettingsError::Path { .. }) => ("DATASOURCE", None),
            _ if error.property().is_some_and(in_extra) => ("EXTRA", None),
            _ if key.is_some() => ("CONF_KEY", None),
            _ => ("DATASOURCE", None),
        };
        Fault { option, message: error.to_string(), hint }
    };
    let reached = config.reach.as_ref().map_or(Ok(()), |reach| {
        reach.check_text("DATASOURCE", &def.datasource)?;
        reach.check(&def.extra)
    });
    if let Err(error) = reached {
        return Err((vec![fault(error.into())], told));
    }
    let Selected { path, props, warnings } =
        match config.connections.of_source(kind, &def.datasource, props, &def.extra) {
            Ok(selected) => selected,
            Err(error) => return Err((vec![fault(error)], told)),
        };
    told.extend(warnings);
    let path = path.as_deref().unwrap_or(&def.datasource);
    match connector::source(kind, path, &props) {
        Ok((spec, warnings)) => {
            told.extend(warnings);
            Ok((spec, told))
        }
        Err(_) => {
            let (errors, warnings) = connector::source_faults(kind, path, &props);
            told.extend(warnings);
            Err((errors.into_iter().map(fault).collect(), told))
        }
    }
}
