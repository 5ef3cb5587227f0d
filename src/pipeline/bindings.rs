//! Sources and sinks that were bound before.
//!
//! Thousands of rules may read one stream and have equal sinks. Their properties are read once for each configuration,
//! and the rules share the result. Settings that depend on files, such as certificates, are read each time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::config::Config;
use crate::definition::rule::Action;
use crate::definition::stream::StreamDef;
use crate::engine::SinkAction;
use crate::io::connector::{ConnectorError, SourceSpec};
use crate::property::Warning;
use crate::sync::locked;
use crate::value::Text;

use super::bind::{self, Faults, UnknownKey};

/// The most sources, and the most sinks, that are remembered. Beyond that all are forgotten.
const KNOWN: usize = 256;

/// Sinks with longer properties are not remembered, bytes as JSON.
const LONGEST: usize = 4096;

/// A source or sink, and the warnings about its properties.
type Bound<T> = (T, Arc<[Warning]>);

/// Binds sources and sinks by one configuration.
pub struct Bindings {
    config: Arc<Config>,
    /// By the stream's name.
    sources: Mutex<HashMap<Text, StreamSource>>,
    sinks: Mutex<HashMap<SinkKey, Bound<SinkAction>>>,
}

/// The source of a stream with this very definition.
struct StreamSource {
    def: Arc<StreamDef>,
    bound: Bound<SourceSpec>,
}

/// Everything that a sink is bound by, apart from the configuration.
#[derive(PartialEq, Eq, Hash)]
struct SinkKey {
    kind: String,
    dead_letter: bool,
    /// As JSON: the order of properties may matter.
    properties: String,
}

impl SinkKey {
    /// `None` if the sink is not to be remembered.
    fn of(action: &Action) -> Option<SinkKey> {
        let properties = serde_json::to_string(&action.written).ok().filter(|json| json.len() <= LONGEST)?;
        Some(SinkKey { kind: action.kind.clone(), dead_letter: action.dead_letter, properties })
    }
}

impl Bindings {
    pub fn of(config: Arc<Config>) -> Bindings {
        Bindings { config, sources: Mutex::default(), sinks: Mutex::default() }
    }

    /// Whether they are by this very configuration.
    pub fn are_of(&self, config: &Arc<Config>) -> bool {
        Arc::ptr_eq(&self.config, config)
    }

    /// The source of a stream, and warnings, as the service binds it: an undefined CONF_KEY is only a warning.
    ///
    /// # Errors
    /// Those of [`bind::source`].
    pub fn source(&self, def: &Arc<StreamDef>) -> Result<Bound<SourceSpec>, Faults> {
        if let Some(known) = locked(&self.sources).get(&def.name)
            && Arc::ptr_eq(&known.def, def)
        {
            return Ok(known.bound.clone());
        }
        let (source, warnings) = bind::source(def, &self.config, UnknownKey::Default)?;
        let has_files = source.settings().has_files();
        let bound = (source, Arc::from(warnings));
        if !has_files {
            insert(
                &mut locked(&self.sources),
                def.name.clone(),
                StreamSource { def: def.clone(), bound: bound.clone() },
            );
        }
        Ok(bound)
    }

    /// The sink of an action, and warnings.
    ///
    /// # Errors
    /// Those of [`bind::sink`].
    pub fn sink(&self, action: &Action) -> Result<Bound<SinkAction>, ConnectorError> {
        let key = SinkKey::of(action);
        if let Some(key) = &key
            && let Some(known) = locked(&self.sinks).get(key)
        {
            return Ok(known.clone());
        }
        let (sink, warnings) = bind::sink(action, &self.config)?;
        let has_files = sink.spec.settings().has_files();
        let bound = (sink, Arc::from(warnings));
        if let Some(key) = key
            && !has_files
        {
            insert(&mut locked(&self.sinks), key, bound.clone());
        }
        Ok(bound)
    }
}

fn insert<K: std::hash::Hash + Eq, V>(known: &mut HashMap<K, V>, key: K, value: V) {
    if known.len() >= KNOWN {
        known.clear();
    }
    known.insert(key, value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::definition::rule::{self, RuleOptions};
    use crate::io::connector::SinkSpec;
    use crate::text::document::Document;

    fn action(props: &serde_json::Value) -> Action {
        let rule = json!({"id": "r", "sql": "SELECT 1", "actions": [{"websocket": props}]});
        let (document, mut problems) = (Document::from_json("rule", &rule), Vec::new());
        let rule = rule::parse(&document, &document.root, None, &RuleOptions::default(), &mut problems);
        rule.expect("it is a rule").actions.remove(0)
    }

    fn settings(bindings: &Bindings, props: &serde_json::Value) -> Arc<crate::io::websocket::Settings> {
        match bindings.sink(&action(props)).expect("it is valid").0.spec {
            SinkSpec::Websocket(settings) => settings,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn equal_sinks_are_shared_and_others_are_not() {
        let bindings = Bindings::of(Arc::new(Config::default()));
        let first = settings(&bindings, &json!({"path": "/a"}));
        assert!(Arc::ptr_eq(&first, &settings(&bindings, &json!({"path": "/a"}))));
        assert_eq!(settings(&bindings, &json!({"path": "/b"})).path, "/b");
        (0..2 * KNOWN).for_each(|number| drop(settings(&bindings, &json!({"path": format!("/{number}")}))));
        assert!(locked(&bindings.sinks).len() <= KNOWN);
    }

    #[test]
    fn sinks_that_depend_on_files_or_are_long_are_read_each_time() {
        let bindings = Bindings::of(Arc::new(Config::default()));
        for props in [
            json!({"addr": "localhost:1", "scheme": "wss", "path": "/a"}),
            json!({"addr": "localhost:1", "path": "/a", "onOpen": ["hello", {"file": "login.json"}]}),
            json!({"path": "/a", "dataTemplate": "x".repeat(LONGEST)}),
        ] {
            let first = settings(&bindings, &props);
            assert!(!Arc::ptr_eq(&first, &settings(&bindings, &props)), "{props}");
        }
    }

    #[test]
    fn wrong_properties_are_refused_each_time() {
        let bindings = Bindings::of(Arc::new(Config::default()));
        for _ in 0..2 {
            assert!(bindings.sink(&action(&json!({"path": "/a", "slowClient": "never"}))).is_err());
        }
    }
}
