//! Property sets by key. Streams name those of sources with CONF_KEY, actions name those of sinks with `resourceId`.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use crate::definition::connection::{put, put_all};
use crate::definition::name::LongName;
use crate::io::connector;
use crate::text::document::{Document, Node, Problem, Value};

/// Property sets by kind of connector and key. The set `default` fills in what the others do not set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PropertySets {
    /// Sets from files, by kind, then by key.
    sets: BTreeMap<String, BTreeMap<String, Map<String, Json>>>,
    /// Sets made while the process runs. They replace those with the same key in `sets`.
    made: BTreeMap<String, BTreeMap<String, Map<String, Json>>>,
    overrides: Vec<Override>,
}

/// `WEBSOCKET__KEY__PROPERTY` of the environment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Override {
    pub kind: &'static str,
    /// The key in lower case.
    pub key: String,
    pub property: String,
    pub value: Json,
}

impl PropertySets {
    /// Replaces the sets that `node` contains: `{"websocket": {"KEY": {"addr": "…"}}}`.
    pub fn replace(&mut self, document: &Document, node: &Node, problems: &mut Vec<Problem>) {
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            let message = format!("sources is {}, expected an object of conf keys by source type", node.kind());
            problems.push(document.error(node.place, "", message));
        }
        for kind in node.members() {
            self.replace_kind(document, &kind.key, &kind.node, problems);
        }
    }

    pub(super) fn replace_kind(&mut self, document: &Document, kind: &str, node: &Node, problems: &mut Vec<Problem>) {
        if !connector::sources().contains(&kind) && !connector::sinks().contains(&kind) {
            let hint = Some("there is websocket".to_owned());
            problems.push(document.warning(node.place, "", format!("source type {kind} not found")).with_hint(hint));
        }
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            let message = format!("sources: {kind} is {}, expected an object of conf keys", node.kind());
            problems.push(document.error(node.place, "", message));
        }
        for member in node.members() {
            if let Err(error) = LongName::check(&member.key) {
                problems.push(document.error(member.place, "conf key", error.to_string()));
                continue;
            }
            match &member.node.value {
                Value::Map(_) | Value::Null => {
                    let set = member.node.json_members();
                    self.sets.entry(kind.to_owned()).or_default().insert(member.key.clone(), set);
                }
                _ => {
                    let message = format!("conf key {} is {}, expected an object", member.key, member.node.kind());
                    problems.push(document.error(member.node.place, "", message));
                }
            }
        }
    }

    /// The properties of this key over those of `default`; without a key, those of `default`. `None`: there is no such
    /// key.
    pub fn properties(&self, kind: &str, key: Option<&str>) -> Option<Map<String, Json>> {
        let key = key.filter(|key| !key.is_empty()).unwrap_or("default");
        let mut known = key == "default";
        let mut props = Map::new();
        for layer in ["default", key] {
            if let Some(set) = self.own(kind, layer) {
                known |= layer == key;
                put_all(&mut props, set);
            }
            if layer == key && key == "default" {
                break;
            }
        }
        for layer in ["default", key] {
            let here = |set: &&Override| set.kind == kind && set.key.eq_ignore_ascii_case(layer);
            for set in self.overrides.iter().filter(here) {
                known |= layer == key;
                put(&mut props, &set.property, set.value.clone());
            }
        }
        known.then_some(props)
    }

    /// The properties that this key sets itself, without those of `default`.
    pub fn own(&self, kind: &str, key: &str) -> Option<&Map<String, Json>> {
        [&self.made, &self.sets].into_iter().find_map(|sets| sets.get(kind)?.get(key))
    }

    /// Replaces the set with this key while the process runs; `None` restores the one from the files.
    pub fn overlay(&mut self, kind: &str, key: &str, props: Option<Map<String, Json>>) {
        let made = self.made.entry(kind.to_owned()).or_default();
        match props {
            Some(props) => drop(made.insert(key.to_owned(), props)),
            None => drop(made.remove(key)),
        }
    }

    /// Adds an override of the environment.
    pub(super) fn set_override(&mut self, set: Override) {
        self.overrides.push(set);
    }

    /// All sets by kind and key (in lower case), with the overrides of the environment. Each has only what it sets itself.
    pub(super) fn each(&self) -> BTreeMap<(String, String), Map<String, Json>> {
        let mut all: BTreeMap<(String, String), Map<String, Json>> = BTreeMap::new();
        for (kind, sets) in &self.sets {
            for (key, props) in sets {
                put_all(all.entry((kind.clone(), key.to_ascii_lowercase())).or_default(), props);
            }
        }
        for Override { kind, key, property, value } in &self.overrides {
            put(all.entry(((*kind).to_owned(), key.clone())).or_default(), property, value.clone());
        }
        all
    }

    /// The keys of a kind in the files.
    pub fn keys(&self, kind: &str) -> impl Iterator<Item = &str> {
        self.sets.get(kind).into_iter().flat_map(|sets| sets.keys().map(String::as_str))
    }
}
