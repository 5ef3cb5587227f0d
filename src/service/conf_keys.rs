//! Conf keys set over the API: property sets of sources, sinks and connections, by type and key.
//!
//! They override those in the configuration's files. Rules read them when they start.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json, json};

use super::error::ServiceError;
use super::secrets::restored_props;
use super::store::{Change, RecordKind, Records};
use super::{Service, check_id, locked};
use crate::definition::name::LongName;
use crate::definition::rule::{self, RuleOptions};
use crate::io::connector;
use crate::property::{Fault, Warning};
use crate::text::document::Document;

/// The classes that have conf keys.
const CLASSES: [&str; 3] = ["sources", "sinks", "connections"];

/// Properties by `class/kind/key`.
pub(super) type ConfKeys = BTreeMap<String, Map<String, Json>>;

impl Service {
    /// The conf keys of a kind (`websocket`) in a class (`sources`), from files and from the API.
    ///
    /// # Errors
    /// [`ServiceError::ConfKey`] for an unknown kind.
    pub fn conf_keys(&self, class: &str, kind: &str) -> Result<Map<String, Json>, ServiceError> {
        check_kind(class, kind)?;
        let mut keys = Map::new();
        let config = self.config();
        let of_files = match class {
            "sources" => Some(&config.sources),
            "sinks" => Some(&config.sinks),
            _ => None,
        };
        for key in of_files.iter().flat_map(|sets| sets.keys(kind)) {
            let props = of_files.and_then(|sets| sets.own(kind, key)).cloned().unwrap_or_default();
            keys.insert(key.to_owned(), Json::Object(props));
        }
        keys.extend(self.made(class, kind));
        Ok(keys)
    }

    fn made(&self, class: &str, kind: &str) -> Map<String, Json> {
        let prefix = format!("{class}/{kind}/");
        let made = locked(&self.inner.conf_keys);
        let own = made.iter().filter_map(|(name, props)| Some((name.strip_prefix(&prefix)?, props)));
        own.map(|(key, props)| (key.to_owned(), Json::Object(props.clone()))).collect()
    }

    /// The conf keys of a class that were set over the API: JSON texts by kind.
    pub(super) fn conf_texts(&self, class: &str) -> BTreeMap<String, String> {
        let kinds: Vec<String> = {
            let made = locked(&self.inner.conf_keys);
            let of_class =
                made.keys().filter_map(|name| name.strip_prefix(class)?.strip_prefix('/')?.split('/').next());
            of_class.map(str::to_owned).collect()
        };
        kinds.into_iter().map(|kind| (kind.clone(), Json::Object(self.made(class, &kind)).to_string())).collect()
    }

    /// Creates or replaces a conf key. Unknown properties are logged.
    ///
    /// # Errors
    /// [`ServiceError`], also for properties whose values can never be valid; then nothing has changed.
    pub async fn put_conf_key(&self, class: &str, kind: &str, key: &str, props: Json) -> Result<(), ServiceError> {
        check_kind(class, kind)?;
        check_id(key).map_err(|error| ServiceError::ConfKey(format!("Invalid confKey: {error}")))?;
        let Json::Object(props) = props else {
            return Err(ServiceError::ConfKey(
                "Type conversion failed: a conf key is an object of properties".to_owned(),
            ));
        };
        let old = self.conf_keys(class, kind)?.get(key).and_then(Json::as_object).cloned();
        if old.is_none() {
            LongName::check(key).map_err(|error| ServiceError::ConfKey(format!("Invalid confKey: {error}")))?;
        }
        let props = restored_props(props, old.as_ref()).map_err(ServiceError::ConfKey)?;
        self.check_reach(&props).map_err(|error| ServiceError::ConfKey(error.to_string()))?;
        let (errors, warnings) = faults(class, kind, &props);
        if !errors.is_empty() {
            return Err(ServiceError::ConfKey(format!("Type conversion failed: {}", errors.join("; "))));
        }
        for warning in warnings {
            tracing::warn!(confkey = key, class, kind, "{warning}");
        }
        let _alone = self.inner.changing.lock().await;
        let name = format!("{class}/{kind}/{key}");
        let text = Json::Object(props.clone()).to_string();
        self.record(vec![Change::put(RecordKind::ConfKey, &name, text)]).await?;
        locked(&self.inner.conf_keys).insert(name, props.clone());
        self.apply(class, kind, key, Some(props));
        Ok(())
    }

    /// Warnings about the properties of a conf key.
    pub fn warnings_of_conf_key(&self, class: &str, kind: &str, props: &Map<String, Json>) -> Vec<String> {
        faults(class, kind, props).1.iter().map(Warning::to_string).collect()
    }

    /// Deletes a conf key; if a file also has it, that one applies again.
    ///
    /// # Errors
    /// [`ServiceError::NoConfKey`]
    pub async fn drop_conf_key(&self, class: &str, kind: &str, key: &str) -> Result<(), ServiceError> {
        check_kind(class, kind)?;
        check_id(key).map_err(|error| ServiceError::Import(format!("Invalid confKey: {error}")))?;
        let _alone = self.inner.changing.lock().await;
        let name = format!("{class}/{kind}/{key}");
        if !locked(&self.inner.conf_keys).contains_key(&name) {
            return Err(ServiceError::NoConfKey(format!("{kind}.{key}")));
        }
        self.record(vec![Change::remove(RecordKind::ConfKey, &name)]).await?;
        locked(&self.inner.conf_keys).remove(&name);
        self.apply(class, kind, key, None);
        Ok(())
    }

    pub(super) async fn reset_conf_keys(&self) -> Result<(), ServiceError> {
        let _alone = self.inner.changing.lock().await;
        let names: Vec<String> = locked(&self.inner.conf_keys).keys().cloned().collect();
        self.record(names.iter().map(|name| Change::remove(RecordKind::ConfKey, name)).collect()).await?;
        for name in names {
            locked(&self.inner.conf_keys).remove(&name);
            self.apply_named(&name, None);
        }
        Ok(())
    }

    /// The records that store them.
    pub(super) fn conf_key_records(&self) -> Vec<Change> {
        let made = locked(&self.inner.conf_keys);
        let text = |props: &Map<String, Json>| Json::Object(props.clone()).to_string();
        made.iter().map(|(name, props)| Change::put(RecordKind::ConfKey, name, text(props))).collect()
    }

    /// Applies a conf key that process 0 sets, or drops it. Returns its previous value.
    ///
    /// # Errors
    /// [`ServiceError::ConfKey`]; then nothing has changed.
    pub(super) fn follow_conf_key(&self, name: &str, text: Option<&str>) -> Result<Option<String>, ServiceError> {
        let props: Option<Map<String, Json>> = match text {
            Some(text) => Some(serde_json::from_str(text).map_err(|error| ServiceError::ConfKey(error.to_string()))?),
            None => None,
        };
        if let Some(props) = &props {
            self.check_reach(props).map_err(|error| ServiceError::ConfKey(error.to_string()))?;
        }
        let old = match props.clone() {
            Some(props) => locked(&self.inner.conf_keys).insert(name.to_owned(), props),
            None => locked(&self.inner.conf_keys).remove(name),
        };
        self.apply_named(name, props);
        Ok(old.map(|old| Json::Object(old).to_string()))
    }

    pub(super) fn restore_conf_keys(&self, records: &Records) {
        for (name, text) in records.of(RecordKind::ConfKey) {
            match serde_json::from_str::<Map<String, Json>>(text) {
                Ok(props) => {
                    locked(&self.inner.conf_keys).insert(name.to_owned(), props.clone());
                    // The allowed files and variables may have changed since the key was set.
                    match self.check_reach(&props) {
                        Ok(()) => self.apply_named(name, Some(props)),
                        Err(error) => tracing::error!("the stored conf key {name} cannot be used: {error}"),
                    }
                }
                Err(error) => tracing::error!("the stored conf key {name} cannot be used: {error}"),
            }
        }
    }

    fn apply_named(&self, name: &str, props: Option<Map<String, Json>>) {
        if let [class, kind, key] = name.splitn(3, '/').collect::<Vec<_>>()[..] {
            self.apply(class, kind, key, props);
        }
    }

    /// Applies a conf key of a source or sink to rules that start from now on; `None` restores the one from the files.
    fn apply(&self, class: &str, kind: &str, key: &str, props: Option<Map<String, Json>>) {
        let mut config = locked(&self.inner.config);
        match class {
            "sources" => Arc::make_mut(&mut config).sources.overlay(kind, key, props),
            "sinks" => Arc::make_mut(&mut config).sinks.overlay(kind, key, props),
            _ => {}
        }
    }
}

/// The errors of properties that apply to any rule, and the warnings.
fn faults(class: &str, kind: &str, props: &Map<String, Json>) -> (Vec<String>, Vec<Warning>) {
    let texts = |faults: Vec<Fault>| faults.iter().map(Fault::to_string).collect::<Vec<_>>();
    if class != "sinks" {
        let (faults, warnings) = connector::set_faults(kind, props);
        return (texts(faults), warnings);
    }
    // Read like the properties of an action, since some belong to every sink.
    let rule = json!({"id": "confkey", "sql": "SELECT", "actions": [{kind: props}]});
    let (document, mut problems) = (Document::from_json("confkey", &rule), Vec::new());
    let action = rule::parse(&document, &document.root, None, &RuleOptions::default(), &mut problems)
        .and_then(|rule| rule.actions.into_iter().next());
    let mut errors: Vec<String> = problems.into_iter().map(|found| found.problem.message).collect();
    let (faults, warnings) =
        action.map_or_else(Default::default, |action| connector::sink_set_faults(kind, &action.props));
    errors.extend(texts(faults));
    (errors, warnings)
}

fn check_kind(class: &str, kind: &str) -> Result<(), ServiceError> {
    let known = match class {
        "sources" => connector::sources().contains(&kind),
        "sinks" => connector::sinks().contains(&kind),
        _ => CLASSES.contains(&class) && kind == "websocket",
    };
    if known { Ok(()) } else { Err(ServiceError::ConfKey(format!("This plugin was not found:{class}.{kind}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_be_right_is_told() {
        for (class, kind, props, errors, warnings) in [
            ("sources", "websocket", json!({"addr": "h:1", "scheme": "wss"}), &[][..], &[][..]),
            (
                "sources",
                "websocket",
                json!({"certificationPath": "nosuch.pem", "scheme": "wss", "addr": "h:1"}),
                &[],
                &[],
            ),
            (
                "sources",
                "websocket",
                json!({"addr": 5, "pingInterval": "soon", "insecureSkipVerfy": true}),
                &["property addr is 5, expected host:port", "property pingInterval is \"soon\", expected"],
                &["unknown property insecureSkipVerfy is ignored: did you mean insecureSkipVerify?"],
            ),
            ("sources", "memory", json!({"topc": "x"}), &[], &["unknown property topc"]),
            (
                "connections",
                "websocket",
                json!({"scheme": "http"}),
                &["property scheme is \"http\", expected ws or wss"],
                &[],
            ),
            (
                "sinks",
                "websocket",
                json!({"sendSingle": 5, "batchSize": 10, "addr": [5], "pth": "/x"}),
                &[
                    "sink websocket: sendSingle is 5, expected true or false",
                    "property addr is [5], expected host:port",
                ],
                &["unknown property pth is ignored: did you mean path?"],
            ),
            ("sinks", "log", json!({}), &[], &[]),
        ] {
            let (wrong, warned) = faults(class, kind, props.as_object().unwrap());
            let warned: Vec<String> = warned.iter().map(Warning::to_string).collect();
            let agree = |found: &[String], expected: &[&str]| {
                found.len() == expected.len() && found.iter().zip(expected).all(|(found, text)| found.starts_with(text))
            };
            assert!(agree(&wrong, errors) && agree(&warned, warnings), "{class} {props}: {wrong:?} {warned:?}");
        }
    }
}
