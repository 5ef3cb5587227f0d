//! Creates, changes, checks and deletes named connections and endpoints.
//!
//! A connection holds its endpoint in the websocket hub from its creation on, whether or not a rule uses it: in the
//! client role it is dialled until it connects, in the server role its path accepts clients. Rules find it by id in the
//! configuration when they are planned ([`crate::definition::connection`]); one that rules refer to cannot be deleted.
//! An endpoint that was opened without a name (`/connection/websocket`) is held in the same way, under the id
//! `$$ws/PATH`.
//!
//! Each entry of `connection.yaml` is imported once: its record has a hash of the entry. If a connection was created or
//! replaced over the API, changes of its entry do not affect it; a deleted one stays deleted until its entry changes.

mod report;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};

use self::report::{is_named, unnamed};
use super::error::ServiceError;
use super::secrets::restored_props;
use super::store::{Change, RecordKind, Records};
use super::{Service, check_id, locked};
use crate::definition::connection::{Connection, FileEntry, KINDS, selector};
use crate::definition::name::LongName;
use crate::definition::stream::LOOKUP_SOURCES;
use crate::io::source::SourceSettings;
use crate::io::websocket::{CheckError, DialError, Lease, Settings};
use crate::property::Warning;
use crate::text::document::Problem;

pub use self::report::{ConnectionReport, ConnectionState};

/// The prefix of the ids of endpoints without a name; the path follows.
const UNNAMED: &str = "$$ws/";

/// The end that a connectivity check is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckedEnd {
    Source,
    Sink,
    /// The source of a lookup table.
    Lookup,
}

/// The kept connections.
#[derive(Default)]
pub(super) struct Kept {
    live: BTreeMap<String, Live>,
    /// Deleted connections of `connection.yaml`, with the hash of their entry.
    gone: BTreeMap<String, String>,
}

/// A connection that is held.
#[derive(Clone)]
struct Live {
    connection: Connection,
    /// The endpoint, or why it could not be opened.
    hold: Result<Arc<Lease>, String>,
    origin: Origin,
}

/// How a connection came to exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Origin {
    /// It was created or changed over the API.
    made: bool,
    /// The hash of its entry in the file, if it has one.
    file: Option<String>,
}

/// A connection in the store.
#[derive(Serialize, Deserialize)]
struct Record {
    #[serde(default)]
    typ: String,
    #[serde(default)]
    props: Map<String, Json>,
    #[serde(default)]
    made: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    /// It was deleted: the entry in the file must not restore it.
    #[serde(default)]
    gone: bool,
}

impl Record {
    fn of(connection: &Connection, origin: &Origin) -> String {
        let Connection { kind, props } = connection.clone();
        let record = Record { typ: kind, props, made: origin.made, file: origin.file.clone(), gone: false };
        json!(record).to_string()
    }

    fn gone(seen: &str) -> String {
        let seen = Some(seen.to_owned());
        json!(Record { typ: String::new(), props: Map::new(), made: false, file: seen, gone: true }).to_string()
    }
}

impl Service {
    /// Creates a named connection, which holds its endpoint from then on.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub async fn create_connection(&self, id: &str, kind: &str, props: Map<String, Json>) -> Result<(), ServiceError> {
        LongName::check(id)?;
        let connection = self.checked_connection(id, kind, props)?;
        let _alone = self.inner.changing.lock().await;
        if locked(&self.inner.connections).live.contains_key(id) {
            return Err(ServiceError::ConnectionExists(id.to_owned()));
        }
        self.put(id, connection).await
    }

    /// A connection with its masked secrets restored, if it is valid and names nothing forbidden.
    fn checked_connection(&self, id: &str, kind: &str, props: Map<String, Json>) -> Result<Connection, ServiceError> {
        check_id(id)?;
        let old = locked(&self.inner.connections).live.get(id).map(|live| live.connection.props.clone());
        let props = restored_props(props, old.as_ref()).map_err(ServiceError::Connection)?;
        let connection = connection(kind, props)?;
        self.check_reach(&connection.props).map_err(|error| ServiceError::Connection(error.to_string()))?;
        Ok(connection)
    }

    /// Warnings about the properties of an accepted connection.
    pub fn warnings_of_connection(&self, id: &str, kind: &str, props: &Map<String, Json>) -> Vec<Problem> {
        let connection = Connection { kind: kind.to_owned(), props: props.clone() };
        let warnings = connection.settings(id).map(|(_, warnings)| warnings).unwrap_or_default();
        let subject = format!("connection {id}");
        let problem = |warning: &Warning| {
            Problem::warning("connection", None, subject.as_str(), warning.message()).with_hint(warning.hint())
        };
        warnings.iter().map(problem).collect()
    }

    /// Replaces a named connection. Refused if rules refer to it: they would continue with the old one.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub async fn update_connection(&self, id: &str, kind: &str, props: Map<String, Json>) -> Result<(), ServiceError> {
        let connection = self.checked_connection(id, kind, props)?;
        let _alone = self.inner.changing.lock().await;
        if !locked(&self.inner.connections).live.contains_key(id) {
            return Err(ServiceError::NoConnection(id.to_owned()));
        }
        self.replace(id, connection).await
    }

    /// Creates or replaces a named connection.
    ///
    /// # Errors
    /// As [`Service::update_connection`].
    pub(super) async fn import_connection(&self, id: &str, connection: Connection) -> Result<(), ServiceError> {
        check_id(id)?;
        self.check_reach(&connection.props).map_err(|error| ServiceError::Connection(error.to_string()))?;
        let _alone = self.inner.changing.lock().await;
        let known = locked(&self.inner.connections).live.get(id).map(|live| live.connection.clone());
        match known {
            Some(known) if known == connection => Ok(()),
            Some(_) => self.replace(id, connection).await,
            None => {
                LongName::check(id)?;
                self.put(id, connection).await
            }
        }
    }

    async fn replace(&self, id: &str, connection: Connection) -> Result<(), ServiceError> {
        let users = self.users(id);
        if !users.is_empty() {
            return Err(ServiceError::ConnectionUsed { id: id.to_owned(), rules: users.join(" ") });
        }
        self.put(id, connection).await
    }

    /// Adds a connection or replaces the one with its id: first its endpoint, then its record.
    async fn put(&self, id: &str, connection: Connection) -> Result<(), ServiceError> {
        let hold = self.hold(id, &connection).await?;
        let (old, seen) = {
            let kept = locked(&self.inner.connections);
            let old = kept.live.get(id).cloned();
            let seen = old.as_ref().and_then(|old| old.origin.file.clone()).or_else(|| kept.gone.get(id).cloned());
            (old, seen)
        };
        let origin = Origin { made: true, file: seen };
        let change = Change::put(RecordKind::Connection, id, Record::of(&connection, &origin));
        if let Err(error) = self.record(vec![change]).await {
            hold.close().await;
            return Err(error);
        }
        Self::tell_warnings(id, &connection);
        self.insert(id, Live { connection, hold: Ok(hold), origin });
        if let Some(Live { hold: Ok(old), .. }) = old {
            old.close().await;
        }
        Ok(())
    }

    /// Makes it visible to rules that are planned from now on.
    fn insert(&self, id: &str, live: Live) {
        if is_named(id) {
            Arc::make_mut(&mut locked(&self.inner.config)).connections.put(id, live.connection.clone());
        }
        let mut kept = locked(&self.inner.connections);
        kept.gone.remove(id);
        kept.live.insert(id.to_owned(), live);
    }

    /// Logs the warnings of a connection once, not at each retry of its endpoint.
    fn tell_warnings(id: &str, connection: &Connection) {
        for warning in connection.settings(id).into_iter().flat_map(|(_, warnings)| warnings) {
            tracing::warn!(connection = id, "{warning}");
        }
    }

    async fn hold(&self, id: &str, connection: &Connection) -> Result<Arc<Lease>, ServiceError> {
        let refused = |error: &dyn std::fmt::Display| ServiceError::Connection(error.to_string());
        let (settings, _) = connection.settings(id).map_err(|error| refused(&error))?;
        let mut settings = if is_named(id) { settings } else { Settings { connection: None, ..settings } };
        if let Some(reach) = &self.config().reach {
            SourceSettings::check(&settings, reach).map_err(|error| refused(&error))?;
            SourceSettings::limit_variables(&mut settings, &reach.variables);
        }
        let engine = self.inner.engine.read().await;
        let websockets = engine.as_ref().ok_or(ServiceError::Stopping)?.websockets();
        websockets.hold(settings).await.map(Arc::new).map_err(|error| refused(&error))
    }

    /// Deletes a named connection: its clients get a close frame. Refused if rules refer to it. A missing one counts as
    /// deleted.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub async fn delete_connection(&self, id: &str) -> Result<(), ServiceError> {
        check_id(id)?;
        let _alone = self.inner.changing.lock().await;
        self.take_away(id).await
    }

    async fn take_away(&self, id: &str) -> Result<(), ServiceError> {
        let Some(live) = locked(&self.inner.connections).live.get(id).cloned() else { return Ok(()) };
        let mut users = if is_named(id) { self.users(id) } else { Vec::new() };
        if is_named(id) && users.is_empty() {
            // From here on no rule finds it; now check for rules that have just found it.
            Arc::make_mut(&mut locked(&self.inner.config)).connections.remove(id);
            users = self.users(id);
        }
        let change = match &live.origin.file {
            Some(seen) => Change::put(RecordKind::Connection, id, Record::gone(seen)),
            None => Change::remove(RecordKind::Connection, id),
        };
        let stays = match users.is_empty() {
            true => self.record(vec![change]).await.err(),
            false => Some(ServiceError::ConnectionUsed { id: id.to_owned(), rules: users.join(" ") }),
        };
        if let Some(error) = stays {
            self.insert(id, live);
            return Err(error);
        }
        {
            let mut kept = locked(&self.inner.connections);
            kept.live.remove(id);
            if let Some(seen) = live.origin.file {
                kept.gone.insert(id.to_owned(), seen);
            }
        }
        if let Ok(hold) = live.hold {
            hold.close().await;
        }
        Ok(())
    }

    /// Deletes all connections and endpoints.
    pub(super) async fn reset_connections(&self) -> Result<(), ServiceError> {
        let _alone = self.inner.changing.lock().await;
        let ids: Vec<String> = locked(&self.inner.connections).live.keys().cloned().collect();
        for id in ids {
            self.take_away(&id).await?;
        }
        Ok(())
    }

    /// The rules and lookup tables that refer to a connection. Rules that were stopped by hand do not count.
    fn users(&self, id: &str) -> Vec<String> {
        let (catalog, config) = (self.catalog(), self.config());
        let by_stream = |name: &str| {
            let Some(def) = catalog.relation(name) else { return false };
            let kind = if def.source.is_empty() { "websocket" } else { def.source.as_str() };
            let own = config.sources.properties(kind, def.conf_key.as_deref());
            let props = own.or_else(|| config.sources.properties(kind, None)).unwrap_or_default();
            selector(&def.extra).or_else(|| selector(&props)) == Some(id)
        };
        let mut users = self.rules_with(|reads, selects| {
            selects.iter().any(|selected| selected == id) || reads.iter().any(|name| by_stream(name))
        });
        let tables = self.relations(crate::sql::ast::Relation::Table, Some(true));
        users.extend(tables.iter().map(|table| table.def.name.to_string()).filter(|name| by_stream(name)));
        if users.is_empty()
            && let Some(Live { hold: Ok(hold), .. }) = locked(&self.inner.connections).live.get(id)
            && hold.uses() > 0
        {
            // The conf key has changed since the rule started; the rule uses the connection until it restarts.
            users.push("a rule that has not been restarted since its conf key changed".to_owned());
        }
        users
    }

    /// All named connections by id; with `all`, also the endpoints without a name.
    pub async fn connections(&self, all: bool) -> Vec<ConnectionReport> {
        let named = {
            let kept = locked(&self.inner.connections);
            let reports = kept.live.iter().filter(|(id, _)| is_named(id));
            reports.map(|(id, live)| live.report(id)).collect::<Vec<_>>()
        };
        if !all {
            return named;
        }
        let endpoints = match self.inner.engine.read().await.as_ref() {
            Some(engine) => engine.websockets().endpoints().await,
            None => Vec::new(),
        };
        named.into_iter().chain(endpoints.into_iter().map(unnamed)).collect()
    }

    /// # Errors
    /// [`ServiceError::NoConnection`]
    pub fn connection(&self, id: &str) -> Result<ConnectionReport, ServiceError> {
        check_id(id)?;
        let kept = locked(&self.inner.connections);
        let live = kept.live.get(id).ok_or_else(|| ServiceError::NoConnection(id.to_owned()))?;
        Ok(live.report(id))
    }

    /// The properties of the named connections: JSON texts of ids with properties, by kind.
    pub(super) fn connection_texts(&self) -> BTreeMap<String, Map<String, Json>> {
        let mut kinds: BTreeMap<String, Map<String, Json>> = BTreeMap::new();
        let kept = locked(&self.inner.connections);
        for (id, live) in kept.live.iter().filter(|(id, _)| is_named(id)) {
            let props = Json::Object(live.connection.props.clone());
            kinds.entry(live.connection.kind.clone()).or_default().insert(id.clone(), props);
        }
        kinds
    }

    /// Lets clients connect to this path of the data server, whether or not a rule uses it; this survives restarts.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub async fn open_endpoint(&self, path: &str) -> Result<(), ServiceError> {
        let _alone = self.inner.changing.lock().await;
        let id = format!("{UNNAMED}{path}");
        if locked(&self.inner.connections).live.contains_key(&id) {
            return Ok(());
        }
        let props = Map::from_iter([("datasource".to_owned(), Json::from(path))]);
        self.put(&id, Connection { kind: KINDS[0].to_owned(), props }).await
    }

    /// Undoes [`Service::open_endpoint`]. The path stays open while a rule uses it.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub async fn close_endpoint(&self, path: &str) -> Result<(), ServiceError> {
        let _alone = self.inner.changing.lock().await;
        self.take_away(&format!("{UNNAMED}{path}")).await
    }

    /// Whether clients can connect to this path of the data server.
    pub async fn has_endpoint(&self, path: &str) -> bool {
        self.inner.engine.read().await.as_ref().is_some_and(|engine| engine.websockets().has_path(path))
    }

    /// Checks whether a source or sink with these properties can connect: in the client role the peer is dialled, in
    /// the server role the data server must listen. Without a path, only the peer is checked.
    ///
    /// # Errors
    /// [`ServiceError::Connection`] with the reason.
    pub async fn check_connection(
        &self,
        end: CheckedEnd,
        kind: &str,
        props: Map<String, Json>,
    ) -> Result<(), ServiceError> {
        let refused = |error: &dyn std::fmt::Display| ServiceError::Connection(error.to_string());
        let lookup = matches!(end, CheckedEnd::Lookup);
        if !KINDS.contains(&kind) {
            let what = match end {
                CheckedEnd::Source => "source",
                CheckedEnd::Sink => "sink",
                CheckedEnd::Lookup => "lookup source",
            };
            let unknown = lookup && !LOOKUP_SOURCES.contains(&kind);
            return Err(ServiceError::Connection(match unknown {
                true => format!("lookup source type {kind} not found"),
                false => format!("{what} {kind} doesn't support ping connection"),
            }));
        }
        self.check_reach(&props).map_err(|error| refused(&error))?;
        let config = self.config();
        let selected = match end {
            CheckedEnd::Sink => config.connections.of_sink(kind, &props),
            _ => config.connections.of_source(kind, "", props, &Map::new()),
        };
        let mut asked = Connection { kind: kind.to_owned(), props: selected.map_err(|error| refused(&error))?.props };
        let has_path = asked.path().is_some();
        if !has_path {
            crate::definition::connection::put(&mut asked.props, "path", Json::from("/"));
        }
        let (settings, _) = Settings::sink(&asked.props).map_err(|error| refused(&error))?;
        let websockets = {
            let engine = self.inner.engine.read().await;
            engine.as_ref().ok_or(ServiceError::Stopping)?.websockets()
        };
        match websockets.check(&settings).await {
            // The peer answers, and the check is not about its path.
            Err(CheckError::Dial(DialError::Status { .. })) if !has_path => Ok(()),
            checked => checked.map_err(|error| refused(&error)),
        }
    }

    /// The records that store the connections.
    pub(super) fn connection_records(&self) -> Vec<Change> {
        let kept = locked(&self.inner.connections);
        let record = |(id, live): (&String, &Live)| {
            Change::put(RecordKind::Connection, id, Record::of(&live.connection, &live.origin))
        };
        kept.live.iter().map(record).collect()
    }

    /// Applies a connection that process 0 sets, or drops it. Returns its previous record.
    ///
    /// # Errors
    /// [`ServiceError`]; then nothing has changed.
    pub(super) async fn follow_connection(&self, id: &str, text: Option<&str>) -> Result<Option<String>, ServiceError> {
        let old = locked(&self.inner.connections).live.get(id).cloned();
        let record = text.map(serde_json::from_str::<Record>).transpose();
        match record.map_err(|error| ServiceError::Connection(error.to_string()))? {
            Some(Record { typ, props, gone: false, .. }) => {
                self.check_reach(&props).map_err(|error| ServiceError::Connection(error.to_string()))?;
                self.put(id, Connection { kind: typ, props }).await?;
            }
            Some(_) | None => self.take_away(id).await?,
        }
        Ok(old.map(|old| Record::of(&old.connection, &old.origin)))
    }

    /// Forgets the connections of this process's file: rules use those that process 0 sets.
    pub(super) fn forget_connections_of_file(&self) {
        let entries = self.config().connections.file().to_vec();
        for entry in entries {
            Arc::make_mut(&mut locked(&self.inner.config)).connections.remove(&entry.id);
        }
    }

    /// Restores the stored connections, imports new entries of `connection.yaml`, and opens their endpoints.
    pub(super) async fn restore_connections(&self, records: &Records) {
        let mut live: BTreeMap<String, (Connection, Origin)> = BTreeMap::new();
        let mut gone: BTreeMap<String, String> = BTreeMap::new();
        for (id, text) in records.of(RecordKind::Connection) {
            match serde_json::from_str::<Record>(text) {
                Ok(Record { gone: true, file, .. }) => gone.extend(file.map(|seen| (id.to_owned(), seen))),
                Ok(Record { typ, props, made, file, .. }) => {
                    live.insert(id.to_owned(), (Connection { kind: typ, props }, Origin { made, file }));
                }
                Err(error) => tracing::error!("the stored connection {id} cannot be used: {error}"),
            }
        }
        let entries = self.config().connections.file().to_vec();
        let changes: Vec<Change> = entries.iter().filter_map(|entry| take_over(entry, &mut live, &mut gone)).collect();
        // A damaged store takes no changes; this was logged before.
        let stores = !changes.is_empty() && self.damage().next().is_none();
        if stores && let Err(error) = self.inner.store.write(changes).await {
            tracing::error!("the connections of connection.yaml could not be stored: {error}");
        }
        // Rules use the stored connections instead of those in the file.
        for entry in &entries {
            Arc::make_mut(&mut locked(&self.inner.config)).connections.remove(&entry.id);
        }
        locked(&self.inner.connections).gone = gone;
        for (id, (connection, origin)) in live {
            // The allowed files and variables may have changed since the connection was set.
            let reached = if origin.made { self.check_reach(&connection.props) } else { Ok(()) };
            let hold = match reached {
                Ok(()) => self.hold(&id, &connection).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            Self::tell_warnings(&id, &connection);
            if let Err(error) = &hold {
                tracing::error!("the connection {id} cannot be opened: {error}");
            }
            self.insert(&id, Live { connection, hold, origin });
        }
    }

    /// Retries endpoints that could not be opened, for example because a port was in use.
    pub(super) async fn hold_missing(&self) {
        let missing: Vec<String> = {
            let kept = locked(&self.inner.connections);
            kept.live.iter().filter(|(_, live)| live.hold.is_err()).map(|(id, _)| id.clone()).collect()
        };
        // If connections are being changed, the next round does it.
        let Ok(_alone) = self.inner.changing.try_lock() else { return };
        for id in missing {
            let Some(live) = locked(&self.inner.connections).live.get(&id).cloned() else { continue };
            let reached = !live.origin.made || self.check_reach(&live.connection.props).is_ok();
            if live.hold.is_err()
                && reached
                && let Ok(hold) = self.hold(&id, &live.connection).await
            {
                self.insert(&id, Live { hold: Ok(hold), ..live });
            }
        }
    }

    /// Releases all endpoints.
    pub(super) async fn release_connections(&self) {
        let holds: Vec<Arc<Lease>> = {
            let kept = locked(&self.inner.connections);
            kept.live.values().filter_map(|live| live.hold.clone().ok()).collect()
        };
        futures_util::future::join_all(holds.iter().map(|hold| hold.close())).await;
    }
}

/// The named connections in a store: properties by id, by kind.
pub(super) fn stored_connections(records: &Records) -> BTreeMap<String, Map<String, Json>> {
    let mut kinds: BTreeMap<String, Map<String, Json>> = BTreeMap::new();
    for (id, text) in records.of(RecordKind::Connection).filter(|(id, _)| is_named(id)) {
        if let Ok(Record { typ, props, gone: false, .. }) = serde_json::from_str::<Record>(text) {
            kinds.entry(typ).or_default().insert(id.to_owned(), Json::Object(props));
        }
    }
    kinds
}

/// Imports an entry of the file if it is new. Returns the record to store.
fn take_over(
    entry: &FileEntry,
    live: &mut BTreeMap<String, (Connection, Origin)>,
    gone: &mut BTreeMap<String, String>,
) -> Option<Change> {
    let FileEntry { id, connection, delete } = entry;
    let seen = digest(entry);
    let known = live.get(id).map(|(_, origin)| origin);
    let last = known.and_then(|origin| origin.file.as_ref()).or(gone.get(id));
    if last == Some(&seen) {
        return None;
    }
    if *delete {
        live.remove(id);
        gone.insert(id.clone(), seen.clone());
        return Some(Change::put(RecordKind::Connection, id, Record::gone(&seen)));
    }
    if known.is_some_and(|origin| origin.made) {
        tracing::warn!(
            "the connection {id} was set over the API and stays as it is: connection.yaml has a different one"
        );
        return None;
    }
    gone.remove(id);
    let origin = Origin { made: false, file: Some(seen) };
    let change = Change::put(RecordKind::Connection, id, Record::of(connection, &origin));
    live.insert(id.clone(), (connection.clone(), origin));
    Some(change)
}

/// The hash of an entry.
fn digest(entry: &FileEntry) -> String {
    let FileEntry { connection: Connection { kind, props }, delete, .. } = entry;
    let hash = Sha256::digest(json!([kind, props, delete]).to_string());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn connection(kind: &str, props: Map<String, Json>) -> Result<Connection, ServiceError> {
    if kind.is_empty() {
        return Err(ServiceError::ConnectionUndefined);
    }
    let known = KINDS.iter().find(|known| known.eq_ignore_ascii_case(kind));
    Ok(Connection { kind: known.map_or(kind, |known| known).to_owned(), props })
}

impl Live {
    fn report(&self, id: &str) -> ConnectionReport {
        ConnectionReport::of(id, &self.connection, &self.hold)
    }
}

#[cfg(test)]
mod tests;
