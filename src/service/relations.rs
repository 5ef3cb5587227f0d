//! Streams and tables: their statements and definitions, by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::definition::{Definition, Planned};
use super::error::ServiceError;
use super::store::{Change, RecordKind};
use super::{Service, locked};
use crate::definition::name::LongName;
use crate::definition::stream::{Catalog, RelationKind, StreamDef};
use crate::definition::view::ViewShape;
use crate::engine::TableSpec;
use crate::pipeline::diagnose;
use crate::pipeline::{self, UnknownKey};
use crate::sql::ast::{CreateStream, Relation};
use crate::sql::parse_create;
use crate::text::document::Problem;
use crate::value::Text;

/// A stream or table, as created.
#[derive(Clone, Debug)]
pub struct Named {
    /// The statement as given.
    pub sql: Arc<str>,
    pub create: Arc<CreateStream>,
    pub def: Arc<StreamDef>,
}

/// All streams and tables.
#[derive(Debug, Default)]
pub(super) struct Relations {
    /// The catalog that rules are planned against. It is replaced as a whole, so that planning never waits.
    pub catalog: Arc<Catalog>,
    pub named: BTreeMap<String, Named>,
}

pub fn what(relation: Relation) -> &'static str {
    match relation {
        Relation::Stream => "stream",
        Relation::Table => "table",
    }
}

fn record(relation: Relation) -> RecordKind {
    match relation {
        Relation::Stream => RecordKind::Stream,
        Relation::Table => RecordKind::Table,
    }
}

impl Relations {
    /// Adds the definition of a statement, or replaces the one with its name.
    fn put(&mut self, sql: &str, create: CreateStream) -> Result<Named, ServiceError> {
        let catalog = Arc::make_mut(&mut self.catalog);
        let old = catalog.remove(&create.name.name);
        let def = match catalog.create(&create) {
            Ok(def) => def,
            Err(errors) => {
                if let Some(old) = old.and_then(|old| self.named.get(old.name.as_str())) {
                    // The old statement was accepted before, and its name is free again.
                    let _ = catalog.create(&old.create);
                }
                let first = errors.first().map(ToString::to_string);
                return Err(ServiceError::Statement(first.unwrap_or_default()));
            }
        };
        let named = Named { sql: sql.into(), create: Arc::new(create), def };
        self.named.insert(named.def.name.to_string(), named.clone());
        Ok(named)
    }

    pub(super) fn sql(&self, name: &str) -> Option<Arc<str>> {
        self.named.get(name).map(|named| named.sql.clone())
    }

    /// Reserves a name for a view that is not planned yet.
    pub(super) fn take_view(&mut self, name: &str) {
        Arc::make_mut(&mut self.catalog).add_view(name);
    }

    /// Sets the columns and key of a view, so that queries can read it.
    pub(super) fn define_view(&mut self, name: &str, shape: &Arc<ViewShape>) {
        Arc::make_mut(&mut self.catalog).define_view(name, shape);
    }

    pub(super) fn leave_view(&mut self, name: &str) {
        Arc::make_mut(&mut self.catalog).remove_view(name);
    }

    fn remove(&mut self, name: &str) {
        Arc::make_mut(&mut self.catalog).remove(name);
        self.named.remove(name);
    }

    /// The records that store them, tables after streams.
    pub(super) fn records(&self) -> Vec<Change> {
        let of = |relation| {
            let named = self.named.iter().filter(move |(_, named)| named.create.relation == relation);
            named.map(move |(name, named)| Change::put(record(relation), name, &*named.sql))
        };
        of(Relation::Stream).chain(of(Relation::Table)).collect()
    }

    /// The statements of those among `names` that exist.
    pub(super) fn statements(&self, names: &[Text]) -> Vec<String> {
        names.iter().filter_map(|name| Some(self.named.get(name.as_str())?.sql.to_string())).collect()
    }

    /// Adds the definitions in a rule's statements if they are new or changed. Returns the resulting catalog.
    ///
    /// # Errors
    /// [`ServiceError::Statement`]
    pub(super) fn with_statements(&mut self, statements: &[String]) -> Result<Arc<Catalog>, ServiceError> {
        for sql in statements {
            let create = parse(sql)?;
            if self.sql(&create.name.name).is_none_or(|known| *known != **sql) {
                self.put(sql, create)?;
            }
        }
        Ok(self.catalog.clone())
    }

    /// Parses a stored statement.
    ///
    /// # Errors
    /// [`ServiceError::Statement`]
    pub(super) fn restore(&mut self, sql: &str) -> Result<Named, ServiceError> {
        self.put(sql, parse(sql)?)
    }
}

/// The beginning of the error for a text that is not a statement about streams.
const NO_STATEMENT: &str = "Invalid stream statement";

fn parse(sql: &str) -> Result<CreateStream, ServiceError> {
    let create = parse_create(sql).map_err(|error| ServiceError::Statement(error.to_string()))?;
    let name = &create.name.name;
    // Names occur in URL paths, file names and responses, so characters with a meaning there are refused.
    if name.is_empty() || name.len() > 256 || name.chars().any(|c| c.is_control() || "/\\<>\"'%?#".contains(c)) {
        return Err(ServiceError::Statement(format!("{name:?} is not a name for a stream or table")));
    }
    Ok(create)
}

impl Service {
    /// The names of all streams or all tables, in alphabetical order; of tables optionally only one kind.
    pub fn relations(&self, relation: Relation, lookup: Option<bool>) -> Vec<Named> {
        let relations = locked(&self.inner.relations);
        let of_kind = |named: &&Named| match (named.def.kind, relation) {
            (RelationKind::Stream, relation) => relation == Relation::Stream,
            (_, Relation::Stream) => false,
            (kind, Relation::Table) => lookup.is_none_or(|lookup| lookup == (kind == RelationKind::LookupTable)),
        };
        relations.named.values().filter(of_kind).cloned().collect()
    }

    /// # Errors
    /// [`ServiceError::NoRelation`]
    pub fn relation(&self, relation: Relation, name: &str) -> Result<Named, ServiceError> {
        let named = locked(&self.inner.relations).named.get(name).cloned();
        let named = named.filter(|named| named.create.relation == relation);
        named.ok_or_else(|| ServiceError::NoRelation { what: what(relation), name: name.to_owned() })
    }

    /// Executes CREATE STREAM or CREATE TABLE.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub async fn create_relation(&self, sql: &str) -> Result<Named, ServiceError> {
        let create = parse(sql)?;
        let name = create.name.name.to_string();
        LongName::check(&name)?;
        // A new stream has no secrets to restore.
        self.restored_relation("", sql)?;
        let _alone = self.inner.changing.lock().await;
        if self.has_view(&name) {
            let message = format!("Create {} fails: view {name} already exists.", what(create.relation));
            return Err(ServiceError::Statement(message));
        }
        if locked(&self.inner.relations).named.contains_key(&name) {
            let message = format!("Create {} fails: Item {name} already exists.", what(create.relation));
            return Err(ServiceError::Statement(message));
        }
        let named = self.put_relation(sql, create, None).await?;
        // Views may have lost an earlier stream or table with this name.
        self.renew_views_over(&name).await;
        Ok(named)
    }

    /// All problems of a refused statement, as for rule files.
    pub fn problems_of_statement(&self, sql: &str) -> Vec<Problem> {
        diagnose::of_statement(sql, &self.catalog())
    }

    /// Warnings about an accepted statement.
    pub fn warnings_of_statement(&self, sql: &str) -> Vec<Problem> {
        diagnose::warnings_of_statement(sql, &self.catalog(), &self.config())
    }

    /// Replaces a stream or table, or creates it. Running rules that read it change to the new definition.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub async fn replace_relation(&self, relation: Relation, name: &str, sql: &str) -> Result<Named, ServiceError> {
        let sql = &*self.restored_relation(name, sql)?;
        let create = parse(sql).map_err(|error| match (relation, error) {
            (Relation::Table, ServiceError::Statement(text)) if text.starts_with(NO_STATEMENT) => {
                ServiceError::Statement(text.replacen("stream", "table", 1))
            }
            (_, error) => error,
        })?;
        if create.name.name != name || create.relation != relation {
            let message = format!("Replace {name} fails: the sql statement must update the {name} source.");
            return Err(ServiceError::Statement(message));
        }
        let temporary =
            create.options.iter().any(|option| option.name == "TEMP" && option.value.eq_ignore_ascii_case("true"));
        if temporary {
            return Err(ServiceError::Statement(format!("Replace {name} fails: cannot replace with temp option.")));
        }
        let alone = self.inner.changing.lock().await;
        let old = locked(&self.inner.relations).named.get(name).cloned();
        if old.is_none() {
            LongName::check(name)?;
        }
        if let Some(old) = &old {
            if old.create.relation != relation {
                let message = format!("Replace {name} fails: {name} is a {}.", what(old.create.relation));
                return Err(ServiceError::Statement(message));
            }
            check_version("source", name, version(&old.create), version(&create))?;
            // With SHARED running rules share one source, without it each has its own.
            if is_shared(&old.create) != is_shared(&create) {
                let message = format!("Replace {name} fails: cannot change the option SHARED.");
                return Err(ServiceError::Statement(message));
            }
        }
        let named = self.put_relation(sql, create, old).await?;
        self.renew_views_over(name).await;
        drop(alone);
        self.take_up(name).await;
        Ok(named)
    }

    /// Replaces a definition: first the engine's table, then the store.
    async fn put_relation(&self, sql: &str, create: CreateStream, old: Option<Named>) -> Result<Named, ServiceError> {
        let relation = create.relation;
        let name = create.name.name.to_string();
        let named = locked(&self.inner.relations).put(sql, create)?;
        let mut done = self.open_table(&named).await;
        if done.is_ok() {
            let change = Change::put(record(relation), &name, sql);
            done = self.record(vec![change]).await;
        }
        if let Err(error) = done {
            self.close_table(&named).await;
            match old {
                Some(old) => {
                    locked(&self.inner.relations).put(&old.sql, CreateStream::clone(&old.create))?;
                    self.open_table(&old).await?;
                }
                None => locked(&self.inner.relations).remove(&name),
            }
            return Err(error);
        }
        Ok(named)
    }

    /// Creates or replaces a lookup table in the engine.
    pub(super) async fn open_table(&self, named: &Named) -> Result<(), ServiceError> {
        if named.def.kind != RelationKind::LookupTable {
            return Ok(());
        }
        let source = pipeline::source(&named.def, &self.config(), UnknownKey::Default);
        let (source, warnings) = source.map_err(|(faults, _)| {
            let first = faults.into_iter().next().map(|fault| fault.message);
            ServiceError::Statement(first.unwrap_or_default())
        })?;
        for warning in warnings {
            tracing::warn!(table = %named.def.name, "{warning}");
        }
        self.close_table(named).await;
        let engine = self.inner.engine.read().await;
        let engine = engine.as_ref().ok_or(ServiceError::Stopping)?;
        let spec = TableSpec { def: named.def.clone(), source };
        engine.create_table(spec).await.map_err(|error| ServiceError::Statement(error.to_string()))
    }

    async fn close_table(&self, named: &Named) {
        if let (RelationKind::LookupTable, Some(engine)) = (named.def.kind, self.inner.engine.read().await.as_ref()) {
            engine.drop_table(&named.def.name).await;
        }
    }

    /// Applies a statement that process 0 sets, or drops what has this name. Returns the previous statement.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub(super) async fn follow_relation(&self, name: &str, sql: Option<&str>) -> Result<Option<String>, ServiceError> {
        let old = locked(&self.inner.relations).named.get(name).cloned();
        match (sql, &old) {
            (Some(sql), _) => drop(self.put_relation(sql, parse(sql)?, old.clone()).await?),
            (None, Some(old)) => {
                locked(&self.inner.relations).remove(name);
                self.close_table(old).await;
            }
            (None, None) => {}
        }
        Ok(old.map(|old| old.sql.to_string()))
    }

    /// Plans a rule against the current streams and settings.
    ///
    /// # Errors
    /// [`ServiceError`] for anything that is wrong with it.
    pub(super) fn plan(&self, definition: &Definition, text: &str) -> Result<Planned, ServiceError> {
        let planned = definition.plan(&self.catalog(), &self.bindings())?;
        let recipe = self.recipe(&definition.rule.id, text, definition.reads.clone());
        Ok(Planned { recipe, ..planned })
    }

    /// Drops a stream or table. Without `force`, this is refused if a rule reads it; rules that were stopped by hand do
    /// not count.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub async fn drop_relation(&self, relation: Relation, name: &str, force: bool) -> Result<(), ServiceError> {
        let _alone = self.inner.changing.lock().await;
        let what = what(relation);
        let nothing = || ServiceError::NothingToDrop { what, name: name.to_owned() };
        let named = self.relation(relation, name).map_err(|_| nothing())?;
        let mut rules = self.readers(name);
        rules.extend(self.views_over(name));
        if !force && !rules.is_empty() {
            // Scripts match the response text, so warnings cannot be added to it.
            tracing::info!("{what} {name} is not dropped: {} read it", rules.join(", "));
            return Err(ServiceError::Referenced { name: name.to_owned() });
        }
        self.record(vec![Change::remove(record(relation), name)]).await?;
        locked(&self.inner.relations).remove(name);
        self.close_table(&named).await;
        Ok(())
    }
}

fn is_shared(create: &CreateStream) -> bool {
    let option = create.options.iter().rev().find(|option| option.name == "SHARED");
    option.is_some_and(|option| option.value.eq_ignore_ascii_case("true"))
}

/// The option VERSION; empty if not given.
fn version(create: &CreateStream) -> &str {
    let option = create.options.iter().rev().find(|option| option.name == "VERSION");
    option.map_or("", |option| option.value.as_str())
}

/// Checks that a new version is greater, as text, than the old one, if there is one.
///
/// # Errors
/// [`ServiceError::Version`]
pub(super) fn check_version(what: &'static str, name: &str, old: &str, new: &str) -> Result<(), ServiceError> {
    if (old.is_empty() && new.is_empty()) || new > old {
        return Ok(());
    }
    Err(ServiceError::Version { what, name: name.to_owned(), old: old.to_owned(), new: new.to_owned() })
}
