//! The store: everything that survives a restart, in one transactional file under `--data`.
//!
//! The store knows texts by kind and name, not their meaning. It is read once, when it is opened; afterwards the
//! catalog in memory answers queries, and the store only takes changes. States of rules are separate: they are large,
//! change often, and are read when a rule starts. One thread writes: it puts all waiting changes into one transaction,
//! so that many concurrent requests share one `fsync`. A change is answered when it is on disk.
//!
//! Every record has a checksum (`record`), and so has every page of the file. Both are checked when the store is opened
//! (`examine`), without changing the file (`overlay`). A damaged store is read-only: the damage is reported, the other
//! records are used, and nothing is written until somebody repairs the store (`repair`).
//!
//! The disk can be full for a while. Then changes are refused, and the file is opened again, as after a crash: it
//! contains everything written before and nothing of the failed change, and the next change is tried. Changes that an
//! operator needs in this situation ([`Change::urgent`]: a rule is stopped or deleted) are not refused: a file with
//! reserved space is deleted for them, and if that does not suffice, they are written as soon as there is room.

mod examine;
mod file;
mod overlay;
mod record;
mod repair;
mod tables;
mod writer;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use file::OpenFile;
pub use repair::{Checked, Repaired, check, repair};

/// The most changes that wait for the writer; then the callers wait.
const WAITING: usize = 1024;

/// What kind of thing a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RecordKind {
    /// a stream: its statement
    Stream,
    /// a table: its statement
    Table,
    /// a rule: its JSON text
    Rule,
    /// a conf key, named `sources/websocket/key`: its properties as JSON
    ConfKey,
    /// a named connection: its JSON text
    Connection,
    /// a view: its statement
    View,
}

impl RecordKind {
    const ALL: [RecordKind; 6] = [
        RecordKind::Stream,
        RecordKind::Table,
        RecordKind::Rule,
        RecordKind::ConfKey,
        RecordKind::Connection,
        RecordKind::View,
    ];

    /// The name for people.
    fn word(self) -> &'static str {
        match self {
            RecordKind::Stream => "stream",
            RecordKind::Table => "table",
            RecordKind::Rule => "rule",
            RecordKind::ConfKey => "conf key",
            RecordKind::Connection => "connection",
            RecordKind::View => "view",
        }
    }
}

/// What a change affects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Target {
    Record(RecordKind),
    /// the state of a rule
    State,
    /// the last import that replaced everything
    Import,
}

impl Target {
    fn word(self) -> &'static str {
        match self {
            Target::Record(kind) => kind.word(),
            Target::State => "state of the rule",
            Target::Import => "import",
        }
    }
}

/// One change of a record or a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    target: Target,
    name: String,
    /// the new content; `None`: it is removed
    becomes: Option<Vec<u8>>,
    urgent: bool,
}

impl Change {
    /// Sets the text of a record.
    pub fn put(kind: RecordKind, name: impl Into<String>, text: impl Into<String>) -> Change {
        let becomes = Some(text.into().into_bytes());
        Change { target: Target::Record(kind), name: name.into(), becomes, urgent: false }
    }

    /// Removes a record.
    pub fn remove(kind: RecordKind, name: impl Into<String>) -> Change {
        Change { target: Target::Record(kind), name: name.into(), becomes: None, urgent: false }
    }

    /// Sets the state of a rule.
    pub fn put_state(rule: impl Into<String>, state: Vec<u8>) -> Change {
        Change { target: Target::State, name: rule.into(), becomes: Some(state), urgent: false }
    }

    /// Removes the state of a rule.
    pub fn remove_state(rule: impl Into<String>) -> Change {
        Change { target: Target::State, name: rule.into(), becomes: None, urgent: false }
    }

    /// Records an import that replaced everything, together with files outside the store.
    pub fn import(number: u64) -> Change {
        let becomes = Some(number.to_le_bytes().to_vec());
        Change { target: Target::Import, name: String::new(), becomes, urgent: false }
    }

    /// Whether it affects the catalog that all processes of a cluster share.
    pub(super) fn is_shared(&self) -> bool {
        use RecordKind::{ConfKey, Connection, Stream, Table};
        matches!(self.target, Target::Record(Stream | Table | ConfKey | Connection))
    }

    /// The record and its text; `None` if the change is about a state, or if the content is not text.
    pub(super) fn into_record(self) -> Option<(RecordKind, String, Option<String>)> {
        let Target::Record(kind) = self.target else { return None };
        let text = self.becomes.map(String::from_utf8).transpose().ok()?;
        Some((kind, self.name, text))
    }

    /// Makes the change possible even on a full disk.
    #[must_use]
    pub fn urgent(self) -> Change {
        Change { urgent: true, ..self }
    }
}

/// All records of a store: texts by name, for each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records(BTreeMap<RecordKind, BTreeMap<String, String>>);

impl Records {
    /// The records of a kind, by name.
    pub fn of(&self, kind: RecordKind) -> impl Iterator<Item = (&str, &str)> {
        self.0.get(&kind).into_iter().flatten().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    fn insert(&mut self, kind: RecordKind, name: String, text: String) {
        self.0.entry(kind).or_default().insert(name, text);
    }
}

impl FromIterator<(RecordKind, String, String)> for Records {
    fn from_iter<T: IntoIterator<Item = (RecordKind, String, String)>>(all: T) -> Records {
        let mut records = Records::default();
        all.into_iter().for_each(|(kind, name, text)| records.insert(kind, name, text));
        records
    }
}

/// Damage in a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("the {what} {name} is damaged")]
    Record {
        /// the kind of the damaged item
        what: &'static str,
        /// its name, as far as it is readable
        name: String,
    },
    #[error("records are missing: {found} of {expected} are there, or their list is damaged")]
    Missing {
        /// how many there should be
        expected: u64,
        /// how many there are
        found: u64,
    },
    #[error("records cannot be read: {0}")]
    Unreadable(String),
    #[error("pages of its file are damaged")]
    Pages,
    #[error("the beginning of its file, or its last commit, is damaged: the last change may be missing")]
    Recovered,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the store {}: {error}", path.display())]
    Io {
        path: PathBuf,
        /// the cause
        error: std::io::Error,
    },
    #[error("the store {} is in use by another process", .0.display())]
    InUse(PathBuf),
    #[error("the store {} is damaged ({reason}). It was not changed: restore a backup, or move it away to start with an empty store", path.display())]
    Damaged {
        path: PathBuf,
        /// how it was noticed
        reason: String,
    },
    #[error("the store {} has version {found}, this Plutino knows up to {}. It was not changed: use a newer Plutino", path.display(), tables::VERSION)]
    Newer {
        path: PathBuf,
        /// the file's version
        found: u64,
    },
    #[error("cannot write to the store: {0}")]
    Write(String),
    #[error("the store is damaged ({0}), and read-only: stop the service and run `plutino store repair`")]
    ReadOnly(Damage),
    #[error("cannot write to the new store {}: {reason}", path.display())]
    New {
        path: PathBuf,
        /// the cause
        reason: String,
    },
    #[error("cannot read from the store: {0}")]
    Read(String),
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    fn damaged(path: &Path, reason: impl ToString) -> StoreError {
        StoreError::Damaged { path: path.to_owned(), reason: reason.to_string() }
    }
}

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// Changes that are written together or not at all.
struct Group {
    changes: Vec<Change>,
    answer: Answer,
}

tokio::task_local! {
    /// The changes of the transaction that this task is collecting.
    static GATHERED: RefCell<Vec<Change>>;
}

/// The open store.
pub struct Store {
    /// `None`: there is no store, so nothing can be written.
    file: Option<Arc<OpenFile>>,
    damage: Vec<Damage>,
    changes: Option<mpsc::Sender<Group>>,
    writer: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the store in this folder. Creates both if they are missing; if that fails, nothing is left behind.
    ///
    /// # Errors
    /// [`StoreError`]; a file that cannot be used is left as it is.
    pub fn open(folder: &Path) -> Result<(Store, Records), StoreError> {
        let (file, read) = OpenFile::open(folder)?;
        for damage in &read.damage {
            tracing::error!("the store: {damage}");
        }
        if !read.damage.is_empty() {
            tracing::error!("the store is read-only: stop the service and run `plutino store repair`");
        }
        let (changes, waiting) = mpsc::channel(WAITING);
        let file = Arc::new(file);
        let of_writer = file.clone();
        let writer = std::thread::Builder::new().name("store".to_owned());
        let writer = writer.spawn(move || writer::run(&of_writer, waiting));
        let writer = writer.map_err(|error| StoreError::Io { path: folder.to_owned(), error })?;
        let store = Store { file: Some(file), damage: read.damage, changes: Some(changes), writer: Some(writer) };
        Ok((store, read.records))
    }

    /// A service without a store: it is empty and refuses every change.
    pub fn absent() -> Store {
        Store { file: None, damage: Vec::new(), changes: None, writer: None }
    }

    pub fn is_absent(&self) -> bool {
        self.file.is_none()
    }

    /// The damage of the store; if there is any, the store is read-only.
    pub fn damage(&self) -> impl Iterator<Item = &Damage> {
        self.damage.iter().chain(self.file.as_ref().and_then(|file| file.spoilt()))
    }

    /// # Errors
    /// [`StoreError::ReadOnly`] if there is damage.
    fn expect_sound(&self) -> Result<(), StoreError> {
        self.damage().next().map_or(Ok(()), |damage| Err(StoreError::ReadOnly(damage.clone())))
    }

    /// The number of the last import that replaced everything; 0: there was none; `None`: it cannot be read.
    pub fn last_import(&self) -> Option<u64> {
        self.file.as_ref().map_or(Some(0), |file| file.last_import())
    }

    /// The ids of the rules that have a state.
    ///
    /// # Errors
    /// [`StoreError::Read`]
    pub fn states(&self) -> Result<Vec<String>, StoreError> {
        self.file.as_ref().map_or_else(|| Ok(Vec::new()), |file| file.states())
    }

    /// The state of a rule, read from disk.
    ///
    /// # Errors
    /// [`StoreError::Read`]
    pub async fn state(&self, rule: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(file) = self.file.clone() else { return Ok(None) };
        let rule = rule.to_owned();
        tokio::task::spawn_blocking(move || file.state(&rule)).await.map_err(|_| StoreError::Closed)?
    }

    /// Writes changes, all or none. When this returns they are on disk; inside [`Store::transaction`], when that
    /// returns.
    ///
    /// # Errors
    /// [`StoreError::Write`]; then nothing has changed.
    pub async fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.expect_sound()?;
        let mut changes = Some(changes);
        let gathers =
            |gathered: &RefCell<Vec<Change>>| gathered.borrow_mut().extend(changes.take().unwrap_or_default());
        if GATHERED.try_with(gathers).is_ok() {
            return Ok(());
        }
        self.commit(changes.unwrap_or_default()).await
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let (answer, written) = oneshot::channel();
        let writer = self.changes.as_ref().ok_or(StoreError::Closed)?;
        writer.send(Group { changes, answer }).await.map_err(|_| StoreError::Closed)?;
        written.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs work that writes many changes, and writes all of them at its end in one transaction: a crash leaves all or
    /// none. Tasks that the work spawns are not part of it.
    ///
    /// # Errors
    /// Errors of the work, and [`StoreError`]; then nothing is on disk.
    pub async fn transaction<T, E: From<StoreError>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        self.expect_sound()?;
        let gathered = GATHERED.scope(RefCell::default(), async {
            let done = work.await?;
            Ok::<_, E>((done, GATHERED.with(RefCell::take)))
        });
        let (done, changes) = gathered.await?;
        self.commit(changes).await?;
        Ok(done)
    }

    /// Runs work whose changes must not be written.
    pub async fn without_writing<T>(&self, work: impl Future<Output = T>) -> T {
        GATHERED.scope(RefCell::default(), work).await
    }

    /// A store file with everything that is stored now. The store can be changed in the meantime.
    ///
    /// # Errors
    /// [`StoreError::Read`], [`StoreError::New`]
    pub async fn backup(&self) -> Result<std::fs::File, StoreError> {
        let file = self.file.clone().ok_or(StoreError::Closed)?;
        tokio::task::spawn_blocking(move || file.copy()).await.map_err(|_| StoreError::Closed)?
    }
}

/// Writes all accepted changes first.
impl Drop for Store {
    fn drop(&mut self) {
        drop(self.changes.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

#[cfg(test)]
mod tests;
