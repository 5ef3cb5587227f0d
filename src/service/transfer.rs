//! Complete configurations as JSON in eKuiper's form: export, and import over the existing one or in its place.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::connections::stored_connections;
use super::error::ServiceError;
use super::store::{Change, RecordKind, Records};
use super::{Service, Uploads, locked};
use crate::definition::connection::Connection;
use crate::io::reach;
use crate::pipeline::EXPORTED;
use crate::sql::ast::Relation;
use crate::text::document::Problem;

/// The largest file that can be imported, bytes.
const LARGEST: u64 = 256 << 20;

/// Streams, tables, views and rules by name: their statements, and rules as JSON texts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruleset {
    /// statements
    #[serde(default, deserialize_with = "or_none")]
    pub streams: BTreeMap<String, String>,
    /// statements
    #[serde(default, deserialize_with = "or_none")]
    pub tables: BTreeMap<String, String>,
    /// statements; eKuiper ignores them
    #[serde(default, deserialize_with = "or_none", skip_serializing_if = "BTreeMap::is_empty")]
    pub views: BTreeMap<String, String>,
    /// JSON texts
    #[serde(default, deserialize_with = "or_none")]
    pub rules: BTreeMap<String, String>,
}

/// Everything that the service manages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Everything {
    /// streams, tables, views, rules
    #[serde(flatten)]
    pub ruleset: Ruleset,
    /// always empty: Plutino has no native plugins
    #[serde(default, rename = "nativePlugins", deserialize_with = "or_none")]
    pub native_plugins: BTreeMap<String, String>,
    /// always empty: Plutino has no portable plugins
    #[serde(default, rename = "portablePlugins", deserialize_with = "or_none")]
    pub portable_plugins: BTreeMap<String, String>,
    /// conf keys of sources: JSON texts of keys with properties, by type
    #[serde(default, rename = "sourceConfig", deserialize_with = "or_none")]
    pub sources: BTreeMap<String, String>,
    /// conf keys of sinks
    #[serde(default, rename = "sinkConfig", deserialize_with = "or_none")]
    pub sinks: BTreeMap<String, String>,
    /// conf keys of connections
    #[serde(default, rename = "connectionConfig", deserialize_with = "or_none")]
    pub connections: BTreeMap<String, String>,
    /// always empty: Plutino has no services
    #[serde(default, rename = "Service", deserialize_with = "or_none")]
    pub services: BTreeMap<String, String>,
    #[serde(default, rename = "Schema", deserialize_with = "or_none")]
    pub schemas: BTreeMap<String, String>,
    /// uploaded files
    #[serde(default, deserialize_with = "or_none")]
    pub uploads: BTreeMap<String, String>,
    /// always empty: Plutino has no scripts
    #[serde(default, deserialize_with = "or_none")]
    pub scripts: BTreeMap<String, String>,
}

impl Everything {
    /// The content of a store, in the form of an export.
    pub fn stored(records: &Records) -> Everything {
        let texts = |kind| records.of(kind).map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
        let mut all = Everything {
            ruleset: Ruleset {
                streams: texts(RecordKind::Stream),
                tables: texts(RecordKind::Table),
                views: texts(RecordKind::View),
                rules: texts(RecordKind::Rule),
            },
            ..Everything::default()
        };
        let mut sets: BTreeMap<(&str, &str), Map<String, Json>> = BTreeMap::new();
        for (name, text) in records.of(RecordKind::ConfKey) {
            let parts: Vec<&str> = name.splitn(3, '/').collect();
            if let ([class, kind, key], Ok(props)) = (parts.as_slice(), serde_json::from_str(text)) {
                sets.entry((*class, *kind)).or_default().insert((*key).to_owned(), props);
            }
        }
        for ((class, kind), keys) in sets {
            let section = match class {
                "sources" => &mut all.sources,
                "sinks" => &mut all.sinks,
                _ => &mut all.connections,
            };
            section.insert(kind.to_owned(), Json::Object(keys).to_string());
        }
        for (kind, named) in stored_connections(records) {
            let keys = all.connections.get(&kind).and_then(|text| serde_json::from_str(text).ok());
            let mut keys: Map<String, Json> = keys.unwrap_or_default();
            keys.extend(named);
            all.connections.insert(kind, Json::Object(keys).to_string());
        }
        all
    }
}

/// The kinds and names of the conf keys that a rule's sinks use.
fn resources(rule: &str) -> Vec<(String, String)> {
    // Most rules use none, and parsing many rules would take long.
    if !rule.to_ascii_lowercase().contains("resourceid") {
        return Vec::new();
    }
    let rule: Json = serde_json::from_str(rule).unwrap_or_default();
    let actions = rule["actions"].as_array().into_iter().flatten().filter_map(Json::as_object).flatten();
    let named = actions.filter_map(|(kind, props)| {
        let (_, key) = props.as_object()?.iter().find(|(name, _)| name.eq_ignore_ascii_case("resourceId"))?;
        Some((kind.clone(), key.as_str()?.to_owned()))
    });
    named.collect()
}

/// Keeps only the used conf keys in these JSON texts by kind.
fn retain_keys(kinds: &mut BTreeMap<String, String>, used: &BTreeSet<(String, String)>) {
    kinds.retain(|kind, text| {
        let mut keys: Map<String, Json> = serde_json::from_str(text).unwrap_or_default();
        keys.retain(|key, _| used.contains(&(kind.clone(), key.clone())));
        *text = Json::Object(keys.clone()).to_string();
        !keys.is_empty()
    });
}

/// The members of a [`Ruleset`].
const RULESET: [&str; 4] = ["streams", "tables", "rules", "views"];

/// Whether [`Everything`] has this member.
fn is_section(name: &str) -> bool {
    RULESET.contains(&name) || EXPORTED.contains(&name)
}

/// Reads null as empty, as Go does.
fn or_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The result of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// number of imported streams
    pub streams: usize,
    /// number of imported tables
    pub tables: usize,
    /// number of imported rules
    pub rules: usize,
    /// what could not be imported, in the form of the import: error texts in place of definitions
    pub refused: Everything,
}

impl Imported {
    /// Whether everything was imported.
    pub fn is_whole(&self) -> bool {
        self.refused == Everything::default()
    }
}

/// The source of an import.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ImportSource {
    /// the configuration itself
    #[serde(default)]
    content: String,
    /// the path of a file that the service can read
    #[serde(default)]
    file: String,
}

impl ImportSource {
    /// Makes the source from a text, or from the path of a file.
    pub fn new(content: String, file: String) -> ImportSource {
        ImportSource { content, file }
    }
}

impl Service {
    /// The text of an import.
    ///
    /// # Errors
    /// [`ServiceError::Import`] if there is no source, if there are two, or if the file cannot be read.
    pub async fn import_text(&self, source: ImportSource) -> Result<String, ServiceError> {
        let wrong = |text: String| ServiceError::Import(text);
        let ImportSource { content, file } = source;
        match (content.is_empty(), file.is_empty()) {
            (true, true) => return Err(wrong("Invalid body: must specify content or file: bad request".to_owned())),
            (false, false) => {
                return Err(wrong("Invalid body: Cannot specify both content and file: bad request".to_owned()));
            }
            (false, true) => return Ok(content),
            (true, false) => {}
        }
        let path = file.strip_prefix("file://").unwrap_or(&file).to_owned();
        if path.contains("://") {
            return Err(wrong("fail to read file: only files of this machine can be imported".to_owned()));
        }
        let config = self.config();
        let Some(files) = config.reach.as_ref().map(|reach| reach.files.clone()) else {
            return Err(ServiceError::Stopping);
        };
        let named = PathBuf::from(&path);
        let bytes = reach::within(move || files.read(&named, LARGEST)).await.and_then(|read| read);
        let bytes = bytes.map_err(|error| {
            wrong(match error.kind() {
                io::ErrorKind::NotFound => format!("fail to read file {path}: open {path}: no such file or directory"),
                _ if reach::is_outside(&error) => format!(
                    "fail to read file {path}: it is outside of the data folder: add its folder to basic.fileRoots"
                ),
                _ => format!("fail to read file {path}: {error}"),
            })
        })?;
        String::from_utf8(bytes).map_err(|_| wrong(format!("fail to read file {path}: it is not UTF-8")))
    }

    /// Streams, tables, views and rules.
    pub fn export_ruleset(&self) -> Ruleset {
        let statements = |relation| {
            let named = self.relations(relation, None);
            named.into_iter().map(|named| (named.def.name.to_string(), named.sql.to_string())).collect()
        };
        let rules = self.rule_texts().into_iter();
        Ruleset {
            streams: statements(Relation::Stream),
            tables: statements(Relation::Table),
            views: self.view_statements(),
            rules: rules.map(|(id, text): (String, Arc<str>)| (id, text.to_string())).collect(),
        }
    }

    /// Exports everything, or what the rules in `only` need. Of the conf keys, it exports only the used ones.
    pub async fn export(&self, only: Option<&[String]>) -> Everything {
        let mut all = self.export_everything().await;
        if let Some(only) = only {
            all.ruleset.rules.retain(|id, _| only.contains(id));
            let read = self.with_read_by_views(self.read_by(only));
            let kinds = [&mut all.ruleset.streams, &mut all.ruleset.tables, &mut all.ruleset.views];
            kinds.into_iter().for_each(|kind| kind.retain(|name, _| read.iter().any(|read| read == name)));
        }
        let catalog = self.catalog();
        let relations = all.ruleset.streams.keys().chain(all.ruleset.tables.keys());
        let mut sources: BTreeSet<(String, String)> = BTreeSet::new();
        for def in relations.filter_map(|name| catalog.relation(name)) {
            let kind = if def.source.is_empty() { "websocket" } else { def.source.as_str() };
            // `default` is part of all other keys.
            for key in [def.conf_key.as_deref(), Some("default")].into_iter().flatten() {
                sources.insert((kind.to_owned(), key.to_owned()));
            }
        }
        retain_keys(&mut all.sources, &sources);
        let sinks = all.ruleset.rules.values().flat_map(|text| resources(text)).collect();
        retain_keys(&mut all.sinks, &sinks);
        all
    }

    /// Exports everything, used or not.
    async fn export_everything(&self) -> Everything {
        Everything {
            ruleset: self.export_ruleset(),
            sources: self.conf_texts("sources"),
            sinks: self.conf_texts("sinks"),
            connections: self.connection_config(),
            uploads: self.upload_texts().await,
            ..Everything::default()
        }
    }

    /// Imports streams, tables, views and rules; they replace those with the same names. The result lists what could not be
    /// imported; everything else was imported.
    pub async fn import_ruleset(&self, ruleset: Ruleset) -> Imported {
        let together = self.start_together().await;
        let imported = self.import_ruleset_unless(ruleset, &AtomicBool::new(false)).await;
        self.begin_together(together).await;
        imported
    }

    async fn import_ruleset_unless(&self, ruleset: Ruleset, cancelled: &AtomicBool) -> Imported {
        let on = || !cancelled.load(Ordering::Relaxed);
        let mut imported = Imported::default();
        let refused = &mut imported.refused.ruleset;
        for (name, sql) in ruleset.streams.into_iter().take_while(|_| on()) {
            match self.replace_relation(Relation::Stream, &name, &sql).await {
                Ok(_) => imported.streams += 1,
                Err(error) => drop(refused.streams.insert(name, error.to_string())),
            }
        }
        for (name, sql) in ruleset.tables.into_iter().take_while(|_| on()) {
            match self.replace_relation(Relation::Table, &name, &sql).await {
                Ok(_) => imported.tables += 1,
                Err(error) => drop(refused.tables.insert(name, error.to_string())),
            }
        }
        for (name, sql) in super::views::in_order_of_use(&ruleset.views).into_iter().take_while(|_| on()) {
            if let Err(error) = self.replace_view(name, sql).await {
                refused.views.insert(name.clone(), error.to_string());
            }
        }
        for (id, text) in ruleset.rules.into_iter().take_while(|_| on()) {
            match self.update_rule(&id, &text).await {
                Ok(()) => imported.rules += 1,
                Err(error) => drop(refused.rules.insert(id, error.to_string())),
            }
        }
        imported
    }

    /// Imports a complete configuration. Unless `partial` is set, everything else is deleted first.
    ///
    /// # Errors
    /// [`ServiceError::Import`] if the text is not a configuration; then nothing has changed.
    pub async fn import(&self, text: &str, partial: bool) -> Result<Imported, ServiceError> {
        self.import_unless(text, partial, &AtomicBool::new(false)).await
    }

    /// As [`Service::import`], but ends after the current item if it is cancelled: before anything was deleted, or if
    /// it is partial.
    ///
    /// # Errors
    /// As those of `import`.
    pub(super) async fn import_unless(
        &self,
        text: &str,
        partial: bool,
        cancelled: &AtomicBool,
    ) -> Result<Imported, ServiceError> {
        let wrong =
            |error: &dyn std::fmt::Display| ServiceError::Import(format!("configuration unmarshal with error {error}"));
        let mut all: Everything = serde_json::from_str(text).map_err(|error| wrong(&error))?;
        // Any other JSON would empty the catalog and import nothing.
        let members: BTreeMap<String, IgnoredAny> = serde_json::from_str(text).map_err(|error| wrong(&error))?;
        let unknown: Vec<&str> = members.keys().map(String::as_str).filter(|name| !is_section(name)).take(20).collect();
        if !unknown.is_empty() {
            if !members.keys().any(|name| is_section(name)) {
                let sections: Vec<&str> = RULESET.into_iter().chain(EXPORTED.iter().copied()).collect();
                return Err(wrong(&format!("this is not an export: it has none of {}", sections.join(", "))));
            }
            tracing::warn!(members = ?unknown, "an import has unknown members; they are ignored");
        }
        let _alone = self.inner.importing.lock().await;
        let hidden = self.restore_import(&mut all);
        let imported = match partial || cancelled.load(Ordering::Relaxed) {
            true => self.take_over(all, hidden, cancelled).await,
            false => self.replace_all(all, hidden).await?,
        };
        *locked(&self.inner.last_import) = imported.refused.clone();
        Ok(imported)
    }

    /// Replaces everything with a configuration, in one transaction: however the process ends, either all of the old or
    /// all of the new configuration is there afterwards, including uploads.
    async fn replace_all(&self, mut all: Everything, mut hidden: Everything) -> Result<Imported, ServiceError> {
        let before = Everything { uploads: BTreeMap::new(), ..self.export_everything().await };
        let number = fastrand::u64(1..);
        let uploads = std::mem::take(&mut all.uploads);
        let new: Vec<String> = uploads.keys().cloned().collect();
        let stored = self.inner.store.last_import();
        let begun = self.replace_uploads(move |uploads| uploads.begin(stored, number, &new)).await;
        begun.map_err(|error| ServiceError::Import(format!("the uploads cannot be kept for a failure: {error}")))?;
        // A partly imported configuration would be neither the old nor the new one.
        let never = AtomicBool::new(false);
        let replaced = self.inner.store.transaction(async {
            self.reset().await?;
            self.inner.store.write(vec![Change::import(number)]).await?;
            // Tables read the uploads when they open.
            self.bring_uploads(uploads, &mut hidden.uploads).await;
            Ok::<_, ServiceError>(self.take_over(all, hidden, &never).await)
        });
        match replaced.await {
            Ok(imported) => {
                if let Err(error) = self.replace_uploads(move |uploads| uploads.finish(number)).await {
                    tracing::error!(
                        "the import is stored, but the uploads from before it are not deleted: {error}; restart the service"
                    );
                }
                self.hand_uploads_over().await;
                Ok(imported)
            }
            Err(error) => {
                // The disk has the previous content, so memory must have the same.
                if let Err(error) = self.replace_uploads(move |uploads| uploads.roll_back(number)).await {
                    tracing::error!(
                        "the uploads from before the import are not restored: {error}; restart the service"
                    );
                }
                self.hand_uploads_over().await;
                let back = self.inner.store.without_writing(async {
                    self.reset().await?;
                    Ok::<_, ServiceError>(self.take_over(before, Everything::default(), &never).await)
                });
                match back.await {
                    Ok(back) if back.is_whole() => {}
                    back => {
                        tracing::error!(
                            ?back,
                            "the state before a failed import could not be restored completely: restart the service"
                        )
                    }
                }
                Err(error)
            }
        }
    }

    /// Stores the files of an import that replaces everything. Refused files are added to `refused` with the reason.
    async fn bring_uploads(&self, uploads: BTreeMap<String, String>, refused: &mut BTreeMap<String, String>) {
        for (name, content) in uploads {
            let (file, copy) = (name.clone(), self.is_one_of_several().then(|| content.clone().into_bytes()));
            let mut brought =
                self.replace_uploads(move |uploads| uploads.bring(&file, content.as_bytes())).await.map(drop);
            if let (Ok(()), Some(copy)) = (&brought, copy) {
                brought = self.upload_elsewhere(&name, Some(copy)).await;
            }
            if let Err(error) = brought {
                refused.insert(name, error.to_string());
            }
        }
    }

    /// Imports a configuration; its items replace those with the same names. Items that were refused before are in
    /// `refused`. The sources of new rules begin after all are attached.
    async fn take_over(&self, all: Everything, refused: Everything, cancelled: &AtomicBool) -> Imported {
        let together = self.start_together().await;
        let imported = self.take_over_all(all, refused, cancelled).await;
        self.begin_together(together).await;
        imported
    }

    async fn take_over_all(&self, all: Everything, mut refused: Everything, cancelled: &AtomicBool) -> Imported {
        let on = || !cancelled.load(Ordering::Relaxed);
        // Tables read the uploads when they open.
        for (name, content) in all.uploads.iter().take_while(|_| on()) {
            if let Err(error) = self.upload(name.clone(), content.clone().into_bytes()).await {
                refused.uploads.insert(name.clone(), error.to_string());
            }
        }
        for (class, kinds, failed) in [
            ("sources", &all.sources, &mut refused.sources),
            ("sinks", &all.sinks, &mut refused.sinks),
            ("connections", &all.connections, &mut refused.connections),
        ] {
            for (kind, text) in kinds.iter().take_while(|_| on()) {
                let imported = match class {
                    "connections" => self.import_connections(kind, text).await,
                    _ => self.import_conf_keys(class, kind, text).await,
                };
                if let Err(error) = imported {
                    failed.insert(kind.clone(), error.to_string());
                }
            }
        }
        for (there, failed, what) in [
            (&all.native_plugins, &mut refused.native_plugins, "native plugins"),
            (&all.portable_plugins, &mut refused.portable_plugins, "portable plugins"),
            (&all.services, &mut refused.services, "external services"),
            (&all.schemas, &mut refused.schemas, "schemas"),
            (&all.scripts, &mut refused.scripts, "scripts"),
        ] {
            failed.extend(there.keys().map(|name| (name.clone(), format!("{what} are not supported"))));
        }
        let mut imported = self.import_ruleset_unless(all.ruleset, cancelled).await;
        let Ruleset { streams, tables, views, rules } = std::mem::take(&mut imported.refused.ruleset);
        refused.ruleset.streams.extend(streams);
        refused.ruleset.tables.extend(tables);
        refused.ruleset.views.extend(views);
        refused.ruleset.rules.extend(rules);
        imported.refused = refused;
        imported
    }

    /// Warnings about the definitions in an accepted import.
    pub fn warnings_of_import(&self, text: &str) -> Vec<Problem> {
        serde_json::from_str(text).map(|all: Everything| self.warnings_of_ruleset(&all.ruleset)).unwrap_or_default()
    }

    /// Warnings about the definitions in an accepted rule set.
    pub fn warnings_of_ruleset(&self, ruleset: &Ruleset) -> Vec<Problem> {
        let Ruleset { streams, tables, views, rules } = ruleset;
        let of_relations = streams.values().chain(tables.values()).flat_map(|sql| self.warnings_of_statement(sql));
        let of_views = views.values().flat_map(|sql| self.warnings_of_view(sql));
        of_relations
            .chain(of_views)
            .chain(rules.iter().flat_map(|(id, text)| self.warnings_of_rule(text, Some(id))))
            .collect()
    }

    /// What the last import could not import.
    pub fn last_import(&self) -> Everything {
        locked(&self.inner.last_import).clone()
    }

    /// The uploaded files that are text. If one cannot be read, the others are exported nevertheless.
    async fn upload_texts(&self) -> BTreeMap<String, String> {
        let texts = self.with_uploads(Uploads::texts).await.unwrap_or_else(|error| {
            tracing::error!("the uploads are not exported: {error}");
            Vec::new()
        });
        texts.into_iter().collect()
    }

    async fn import_conf_keys(&self, class: &str, kind: &str, text: &str) -> Result<(), ServiceError> {
        let keys: Map<String, Json> = serde_json::from_str(text)
            .map_err(|error| ServiceError::ConfKey(format!("Type conversion failed:{error}")))?;
        for (key, props) in keys {
            self.put_conf_key(class, kind, &key, props).await?;
        }
        Ok(())
    }

    /// Named connections, and conf keys of connections without a connection of that name: JSON texts by kind. In
    /// eKuiper, both are the same.
    pub(super) fn connection_config(&self) -> BTreeMap<String, String> {
        let mut texts = self.conf_texts("connections");
        for (kind, named) in self.connection_texts() {
            let keys = texts.get(&kind).and_then(|text| serde_json::from_str::<Map<String, Json>>(text).ok());
            let mut all = keys.unwrap_or_default();
            all.extend(named);
            texts.insert(kind, Json::Object(all).to_string());
        }
        texts
    }

    /// Creates the connections of an export; incomplete ones become conf keys.
    async fn import_connections(&self, kind: &str, text: &str) -> Result<(), ServiceError> {
        let all: BTreeMap<String, Map<String, Json>> = serde_json::from_str(text)
            .map_err(|error| ServiceError::ConfKey(format!("Type conversion failed:{error}")))?;
        for (id, props) in all {
            let connection = Connection { kind: kind.to_owned(), props };
            match connection.settings(&id) {
                Ok(_) => self.import_connection(&id, connection).await?,
                Err(_) => self.put_conf_key("connections", kind, &id, Json::Object(connection.props)).await?,
            }
        }
        Ok(())
    }

    /// Deletes all rules, streams, tables, conf keys and connections.
    async fn reset(&self) -> Result<(), ServiceError> {
        for rule in self.rules() {
            match self.delete_rule(&rule.id).await {
                Ok(()) | Err(ServiceError::NoRuleToDrop(_)) => {}
                Err(error) => return Err(error),
            }
        }
        for view in self.views() {
            match self.drop_view(&view, true).await {
                Ok(()) | Err(ServiceError::NothingToDrop { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        for relation in [Relation::Stream, Relation::Table] {
            for named in self.relations(relation, None) {
                match self.drop_relation(relation, &named.def.name, true).await {
                    Ok(()) | Err(ServiceError::NothingToDrop { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.reset_conf_keys().await?;
        self.reset_connections().await?;
        Ok(())
    }
}
