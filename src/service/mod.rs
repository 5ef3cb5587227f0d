//! The service behind `plutino serve`: it manages streams, tables, rules and views.
//!
//! A [`Service`] uses the engine, which runs rules, and the store, which keeps definitions. Every change is checked,
//! takes effect, and is on disk before the call returns; a failed change changes nothing. Methods return typed results
//! and [`ServiceError`]s. This module knows neither HTTP nor the command line.
//!
//! Changes of one rule happen one after the other (see `rules`), those of different rules concurrently. Changes of
//! streams and tables happen one after the other. The future of a method must be polled to completion: see `api`, which
//! spawns it.

mod checking;
mod checkpoints;
mod conf_keys;
mod connections;
mod definition;
mod diagnosis;
mod error;
mod operators;
mod processes;
mod relations;
mod reload;
mod rules;
mod schema;
mod secrets;
mod shown;
mod status;
mod store;
mod tasks;
mod timer;
mod topology;
mod transfer;
mod trial;
mod uploads;
mod views;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

pub use checking::CheckedStatement;
pub use connections::{CheckedEnd, ConnectionReport, ConnectionState};
pub use definition::{Definition, Planned};
pub use diagnosis::{Cause, Diagnosis};
pub use error::{Code, ServiceError};
pub use operators::OperatorReport;
pub use processes::{Share, SinkClient};
pub use relations::{Named, what};
pub use reload::{Reload, ReloadError};
pub use rules::{Bulk, RuleSummary};
pub use schema::ResultColumn;
pub use secrets::masked_statement;
pub use shown::EngineGuard;
pub use status::{Counters, Link, Phase, RuleReport};
pub use store::{Change, Checked, Damage, RecordKind, Records, Repaired, Store, StoreError, check, repair};
pub use tasks::{Task, TaskState};
pub use topology::Topology;
pub use transfer::{Everything, ImportSource, Imported, Ruleset};
pub use trial::TrialPort;
pub use uploads::{UploadError, Uploads};
pub use views::{ManagedView, ViewReport, ViewRows};

pub use crate::definition::stream::LOOKUP_SOURCES;

use crate::cluster::{ControlSocket, Membership, Part};
use crate::config::Config;
use crate::definition::stream::Catalog;
use crate::engine::{Engine, EngineError, EngineSettings, Measured, RuleStatus, Together, Totals, Waiting, view_of};
pub use crate::engine::{NotShown, ScannedRow};
use crate::io::egress::Egress;
use crate::io::reach::{self, FileRoots, Reach, ReachError};
use crate::pipeline::Bindings;
use crate::sync::{KeyedLock, Shared, locked};
use crate::time::Clock;
use checkpoints::Checkpoints;
use conf_keys::ConfKeys;
use connections::Kept;
use processes::Role;
use relations::Relations;
use rules::{Entry, ReadyRules};
use tasks::Tasks;
use timer::Timer;
use trial::Trial;

/// How long a request for the rows of scan tables waits for the data thread.
const SHOWING: Duration = Duration::from_secs(2);

/// Settings of a service.
pub struct ServiceSettings {
    pub config: Config,
    /// The folder of the store and of the files that statements name.
    pub data: PathBuf,
    /// The number of data threads.
    pub workers: usize,
    /// What this process needs in a cluster.
    pub cluster: Option<InCluster>,
}

/// A process in a cluster.
pub struct InCluster {
    pub part: Part,
    /// The links for orders: see [`crate::cluster::Cluster`].
    pub controls: Vec<ControlSocket>,
}

#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Rules that ran.
    pub rules: usize,
    /// Views that ran.
    pub views: usize,
    /// Those of the rules and views whose last states are on disk.
    pub states: usize,
    pub totals: Totals,
}

impl Summary {
    /// Counts a rule or view that has ended; `on_disk`: its last state is on disk.
    fn count(&mut self, id: &str, on_disk: bool) {
        match view_of(id) {
            Some(_) => self.views += 1,
            None => self.rules += 1,
        }
        self.states += usize::from(on_disk);
    }
}

/// Why a service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("cannot use the links between the processes: {0}")]
    Links(std::io::Error),
}

/// Manages streams, tables, rules and views. Clones share it.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    /// `None` once the service has stopped.
    engine: tokio::sync::RwLock<Option<Engine>>,
    store: Store,
    config: Mutex<Arc<Config>>,
    relations: Mutex<Relations>,
    /// Held while a stream or table changes.
    changing: tokio::sync::Mutex<()>,
    rules: Mutex<BTreeMap<String, Arc<Entry>>>,
    /// The names of the operators of rules that have run.
    topologies: Shared<Topology>,
    /// Sources and sinks by the current configuration, or by an earlier one.
    bindings: Mutex<Arc<Bindings>>,
    views: Mutex<BTreeMap<String, ManagedView>>,
    /// whether the attempt to start the stored views is complete
    views_begun: tokio::sync::watch::Sender<bool>,
    trials: Mutex<BTreeMap<String, Arc<Trial>>>,
    /// Held while a trial with this id is created, started or ended.
    trial_gates: KeyedLock,
    conf_keys: Mutex<ConfKeys>,
    connections: Mutex<Kept>,
    last_import: Mutex<Everything>,
    /// held during an import, so that two do not mix
    importing: tokio::sync::Mutex<()>,
    timer: Arc<Timer>,
    uploads: Uploads,
    tasks: Mutex<Tasks>,
    /// The exit code of the process, after its end was requested.
    ending: tokio::sync::watch::Sender<Option<u8>>,
    /// Cancelled when the service stops: no rule starts after that.
    shutdown: CancellationToken,
    checkpoints: Mutex<Checkpoints>,
    /// Set at the start.
    role: OnceLock<Role>,
    ready_rules: ReadyRules,
    /// the starts that process 0 holds together
    together: Mutex<Vec<Together>>,
    /// the clock for schedules and waits
    clock: Clock,
    began: Instant,
}

impl Service {
    /// Opens the store and starts the engine with the stored tables. Rules do not run before [`Service::resume`].
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn open(settings: ServiceSettings) -> Result<Service, StartError> {
        Service::open_by(settings, Clock::System).await
    }

    /// The same with another clock for schedules and waits.
    async fn open_by(settings: ServiceSettings, clock: Clock) -> Result<Service, StartError> {
        let ServiceSettings { mut config, data, workers, cluster } = settings;
        let process = cluster.as_ref().map_or(0, |cluster| cluster.part.membership.process);
        let follows = process > 0;
        let (files, egress) = bounds(&config, &data);
        config.reach = Some(Reach::new(files.clone(), &config.env_allow).with_egress(egress.clone()));
        let (store, records) = if follows { (Store::absent(), Records::default()) } else { Store::open(&data)? };
        let shutdown = CancellationToken::new();
        let settings = EngineSettings {
            workers,
            server: config.server.clone(),
            zone: config.zone.clone(),
            shutdown: shutdown.clone(),
        };
        let (links, engine) = match cluster {
            None => (None, Engine::start(settings)?),
            Some(InCluster { part, controls }) => {
                let membership = part.membership.clone();
                (Some((membership, controls)), Engine::start_in_cluster(settings, part)?)
            }
        };
        let uploads = if follows { Uploads::at(&data) } else { Uploads::open(&data, store.last_import()) };
        let engine = engine.with_files(files).with_egress(egress);
        let service = Service::assemble(engine, store, config, uploads, shutdown, clock);
        if follows {
            service.forget_connections_of_file();
        } else {
            service.restore(&records).await;
        }
        if let Some((membership, controls)) = links {
            service.join(&membership, controls)?;
            service.hand_over().await;
        }
        timer::keep(&service);
        Ok(service)
    }

    /// Starts to use the control links to the other processes.
    ///
    /// # Errors
    /// [`StartError::Links`]
    pub fn join(&self, membership: &Membership, controls: Vec<ControlSocket>) -> Result<(), StartError> {
        let role = Role::of(membership, controls, &Arc::downgrade(&self.inner)).map_err(StartError::Links)?;
        self.inner.role.get_or_init(|| role);
        Ok(())
    }

    /// A service without a catalog.
    fn assemble(
        engine: Engine,
        store: Store,
        config: Config,
        uploads: Uploads,
        shutdown: CancellationToken,
        clock: Clock,
    ) -> Service {
        let config = Arc::new(config);
        let inner = Inner {
            engine: tokio::sync::RwLock::new(Some(engine)),
            store,
            bindings: Mutex::new(Arc::new(Bindings::of(config.clone()))),
            topologies: Shared::default(),
            config: Mutex::new(config),
            relations: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            rules: Mutex::default(),
            views: Mutex::default(),
            views_begun: tokio::sync::watch::Sender::new(false),
            trials: Mutex::default(),
            trial_gates: KeyedLock::default(),
            conf_keys: Mutex::default(),
            connections: Mutex::default(),
            last_import: Mutex::default(),
            importing: tokio::sync::Mutex::default(),
            timer: Arc::default(),
            uploads,
            tasks: Mutex::default(),
            ending: tokio::sync::watch::Sender::new(None),
            shutdown,
            checkpoints: Mutex::default(),
            role: OnceLock::new(),
            ready_rules: ReadyRules::default(),
            together: Mutex::default(),
            clock,
            began: Instant::now(),
        };
        Service { inner: Arc::new(inner) }
    }

    /// Restores the catalog from the store. Whatever cannot be used any more is logged and stays in the store.
    async fn restore(&self, records: &Records) {
        self.restore_conf_keys(records);
        self.restore_connections(records).await;
        for kind in [RecordKind::Stream, RecordKind::Table] {
            for (name, sql) in records.of(kind) {
                let named = locked(&self.inner.relations).restore(sql);
                let opened = match named {
                    Ok(named) => self.open_table(&named).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = opened {
                    tracing::error!("the stored {name} cannot be used: {error}");
                }
            }
        }
        self.restore_views(records);
        self.restore_rules(records);
        self.restore_states(records).await;
        if let Some(engine) = self.inner.engine.read().await.as_ref() {
            engine.retain_rules(|id| locked(&self.inner.rules).contains_key(id));
        }
    }

    /// Stops all rules within `basic.gracefulShutdownTimeout`: see [`Service::stop_within`].
    pub async fn stop(&self) -> Summary {
        self.stop_within(self.config().shutdown_timeout).await
    }

    /// Stops all rules; accepted changes and states are on disk when this returns. Clients that stop reading do not
    /// delay it beyond `limit`. The stored state of a rule, running or stopped, does not change.
    pub async fn stop_within(&self, limit: Duration) -> Summary {
        let began = Instant::now();
        self.inner.shutdown.cancel();
        self.end_imports().await;
        self.end_trials().await;
        let Ok(mut engine) = tokio::time::timeout(limit / 2, self.inner.engine.write()).await else {
            tracing::warn!("a change takes too long: the process ends without stopping its rules");
            return Summary::default();
        };
        let engine = std::mem::take(&mut *engine);
        // A trial that was being created has no engine any more.
        self.end_trials().await;
        let Some(engine) = engine else { return Summary::default() };
        let left = limit.saturating_sub(began.elapsed());
        let mut summary = self.stop_with_others(&engine, left / 2).await;
        let websockets = engine.websockets();
        let left = limit.saturating_sub(began.elapsed());
        // Rules hold their endpoints until their last messages are sent.
        let released = async {
            let _ = tokio::time::timeout(left, async {
                websockets.end().await;
                self.release_connections().await;
            })
            .await;
        };
        let (ended, ()) = tokio::join!(engine.stop(left), released);
        let kept = ended.states.into_iter().filter(|(id, _)| view_of(id).is_none_or(|view| self.keeps_view(view)));
        let failed = self.keep_last(kept.collect()).await;
        for RuleStatus { id, .. } in &ended.rules {
            summary.count(id, self.is_on_disk(id) && !failed.contains(id));
        }
        summary.totals = ended.totals;
        self.add_totals_elsewhere(&mut summary.totals, limit.saturating_sub(began.elapsed())).await;
        summary
    }

    /// Stores a file ([`Uploads::put`]) and returns its path.
    ///
    /// # Errors
    /// [`UploadError`]
    pub async fn upload(&self, name: String, content: Vec<u8>) -> Result<PathBuf, UploadError> {
        let (file, copy) = (name.clone(), self.is_one_of_several().then(|| content.clone()));
        let path = self.with_uploads(move |uploads| uploads.put(&file, &content)).await?;
        if let Some(copy) = copy {
            self.upload_elsewhere(&name, Some(copy)).await?;
        }
        Ok(path)
    }

    /// Deletes a file ([`Uploads::delete`]).
    ///
    /// # Errors
    /// [`UploadError`]
    pub async fn delete_upload(&self, name: String) -> Result<(), UploadError> {
        let file = name.clone();
        self.with_uploads(move |uploads| uploads.delete(&file)).await?;
        self.upload_elsewhere(&name, None).await
    }

    /// Accesses uploaded files, on a thread that may wait for the disk.
    ///
    /// # Errors
    /// [`UploadError`]
    pub async fn with_uploads<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Uploads) -> Result<T, UploadError> + Send + 'static,
    ) -> Result<T, UploadError> {
        let service = self.clone();
        let done = reach::within(move || work(&service.inner.uploads)).await;
        done.unwrap_or_else(|error| Err(UploadError::Io { path: self.inner.uploads.folder().to_owned(), error }))
    }

    /// The same for an import that replaces all files: it waits without a limit, because each step must have ended
    /// before the next one.
    async fn replace_uploads<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Uploads) -> Result<T, UploadError> + Send + 'static,
    ) -> Result<T, UploadError> {
        let service = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&service.inner.uploads)).await;
        let failed = |error| UploadError::Io { path: self.inner.uploads.folder().to_owned(), error };
        done.unwrap_or_else(|error| Err(failed(std::io::Error::other(error))))
    }

    /// A copy of the store's current content, including secrets and states.
    ///
    /// # Errors
    /// [`ServiceError::Store`]
    pub async fn backup(&self) -> Result<std::fs::File, ServiceError> {
        Ok(self.inner.store.backup().await?)
    }

    /// The damage found in the store. While there is any, changes are refused.
    pub fn damage(&self) -> impl Iterator<Item = &Damage> {
        self.inner.store.damage()
    }

    /// Requests the end of the service and the process, with this exit code.
    pub fn ask_to_end(&self, code: u8) {
        self.inner.ending.send_replace(Some(code));
    }

    /// Waits until the end is requested; returns the exit code.
    pub async fn asked_to_end(&self) -> u8 {
        // The sender exists as long as this service.
        self.inner.ending.subscribe().wait_for(Option::is_some).await.ok().and_then(|code| *code).unwrap_or(0)
    }

    /// Sets the time zone of schedules and of rules that start from now on, until the process ends.
    ///
    /// # Errors
    /// [`ServiceError::Stopping`]
    pub async fn use_zone(&self, zone: jiff::tz::TimeZone) -> Result<(), ServiceError> {
        let engine = self.inner.engine.read().await;
        let engine = engine.as_ref().ok_or(ServiceError::Stopping)?;
        self.use_zone_elsewhere(&zone, &self.config().zone).await?;
        engine.use_zone(&zone);
        Arc::make_mut(&mut *locked(&self.inner.config)).zone = zone;
        Ok(())
    }

    /// Messages that arrived at endpoints while no rule read them, by address, since the start.
    pub async fn unread_messages(&self) -> Vec<(String, u64)> {
        self.inner.engine.read().await.as_ref().map(|engine| engine.websockets().unread()).unwrap_or_default()
    }

    /// Time since the start.
    pub fn up_time(&self) -> Duration {
        self.inner.began.elapsed()
    }

    /// The address of the data server, while it listens.
    pub async fn listening(&self) -> Option<SocketAddr> {
        self.inner.engine.read().await.as_ref()?.listening()
    }

    /// Refused handshakes of the data server since the start, by cause.
    pub async fn refused_handshakes(&self) -> Vec<(&'static str, u64)> {
        self.inner.engine.read().await.as_ref().map(Engine::refused_handshakes).unwrap_or_default()
    }

    /// Websocket connections that did not close cleanly since the start, by cause.
    pub async fn disconnects(&self) -> Vec<(&'static str, u64)> {
        self.inner.engine.read().await.as_ref().map(Engine::disconnects).unwrap_or_default()
    }

    /// Bytes of large websocket messages that are not complete yet.
    pub async fn unfinished_bytes(&self) -> usize {
        self.inner.engine.read().await.as_ref().map_or(0, Engine::unfinished_bytes)
    }

    /// Measures the states of rules and lookup tables; threads that do not answer within `limit` are left out.
    pub async fn measure(&self, limit: Duration) -> Arc<Measured> {
        match self.inner.engine.read().await.as_ref() {
            Some(engine) => engine.measure(limit).await,
            None => Arc::default(),
        }
    }

    /// The rows of a rule's scan tables.
    ///
    /// # Errors
    /// [`NotShown`]
    pub async fn scanned_rows(&self, id: &str) -> Result<Vec<ScannedRow>, NotShown> {
        match self.inner.engine.read().await.as_ref() {
            Some(engine) => engine.scanned_rows(id, SHOWING).await,
            None => Err(NotShown::NoTable),
        }
    }

    /// The messages that wait for the data threads, by stream and thread.
    pub async fn waiting(&self) -> Vec<Waiting> {
        match self.inner.engine.read().await.as_ref() {
            Some(engine) => engine.waiting(),
            None => Vec::new(),
        }
    }

    /// The current configuration.
    pub fn config(&self) -> Arc<Config> {
        locked(&self.inner.config).clone()
    }

    /// The sources and sinks of rules by the current configuration.
    fn bindings(&self) -> Arc<Bindings> {
        let config = self.config();
        let mut bindings = locked(&self.inner.bindings);
        if !bindings.are_of(&config) {
            *bindings = Arc::new(Bindings::of(config));
        }
        bindings.clone()
    }

    /// Checks the files and variables that properties from the API name.
    ///
    /// # Errors
    /// [`ReachError`]
    fn check_reach(&self, props: &serde_json::Map<String, serde_json::Value>) -> Result<(), ReachError> {
        self.config().reach.as_ref().map_or(Ok(()), |reach| reach.check(props))
    }

    fn role(&self) -> &Role {
        self.inner.role.get().unwrap_or(&Role::Alone)
    }

    /// Whether other processes run the same rules.
    fn is_one_of_several(&self) -> bool {
        !matches!(self.role(), Role::Alone)
    }

    /// Whether it takes orders from process 0.
    fn follows(&self) -> bool {
        matches!(self.role(), Role::Follows(_))
    }

    /// Refuses what works only in a single process.
    ///
    /// # Errors
    /// [`ServiceError::Alone`]
    fn needs_one_process(&self, what: &'static str) -> Result<(), ServiceError> {
        if self.is_one_of_several() { Err(ServiceError::Alone(what)) } else { Ok(()) }
    }

    /// The current catalog.
    pub fn catalog(&self) -> Arc<Catalog> {
        locked(&self.inner.relations).catalog.clone()
    }
}

/// The files and addresses that properties from the API may name.
fn bounds(config: &Config, data: &Path) -> (FileRoots, Egress) {
    let files = FileRoots::new(data.to_owned()).with(&config.file_roots);
    (files, Egress::new(&config.egress_allow).dialling_loopback(config.dial_loopback))
}

/// Checks an id: letters, digits, `-` and `_`.
///
/// # Errors
/// [`ServiceError::Id`], [`ServiceError::EmptyId`]
pub fn check_id(id: &str) -> Result<(), ServiceError> {
    if id.is_empty() {
        return Err(ServiceError::EmptyId);
    }
    if id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
        return Ok(());
    }
    // The error shows at most the beginning of a long id.
    let shown: String = id.chars().take(256).collect();
    Err(ServiceError::Id(shown))
}

/// Milliseconds since the epoch.
fn millis(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests;
