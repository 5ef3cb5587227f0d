//! What survives a restart, in one transactional file under `--data`.
//!
//! The store knows texts by kind and name, not what they mean. All is read once, when it is opened; afterwards the
//! catalog in memory answers, and the store only takes changes. The states of rules are apart: they are large, change
//! often, and are read when a rule starts. One thread writes: it takes all changes that wait into
//! one transaction, so that many requests at a time share one `fsync`. A change is answered when it is on disk.
//!
//! A disk can be full for a while. What could not be written is refused, and the file is opened anew, as after a crash:
//! what was on disk before is there, nothing of the failed change is, and the next change is tried again.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;

use redb::{Database, DatabaseError, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use tokio::sync::{mpsc, oneshot};

/// The file's name in the data folder.
const FILE: &str = "plutino.redb";
/// The form of the records. A file of a newer version is refused.
const VERSION: u64 = 1;
/// How many changes one transaction takes at most.
const GROUP: usize = 4096;
/// How many changes can wait for the writer; then those who ask wait, too.
const WAITING: usize = 1024;
/// Memory for pages of the file, bytes: all is read once, so that little is gained by more.
const CACHE: usize = 4 << 20;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// The states of rules by their ids.
const STATES: TableDefinition<&str, &[u8]> = TableDefinition::new("states");

/// What kind of thing a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
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
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Stream, Kind::Table, Kind::Rule, Kind::ConfKey, Kind::Connection];

    fn table(self) -> TableDefinition<'static, &'static str, &'static str> {
        TableDefinition::new(match self {
            Kind::Stream => "streams",
            Kind::Table => "tables",
            Kind::Rule => "rules",
            Kind::ConfKey => "conf_keys",
            Kind::Connection => "connections",
        })
    }
}

/// One change of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    name: String,
    becomes: Becomes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Becomes {
    /// this text, or nothing
    Record(Kind, Option<String>),
    /// the state of this rule, or none
    State(Option<Vec<u8>>),
}

impl Change {
    /// The record has this text from now on.
    pub fn put(kind: Kind, name: impl Into<String>, text: impl Into<String>) -> Change {
        Change { name: name.into(), becomes: Becomes::Record(kind, Some(text.into())) }
    }

    /// The record is gone.
    pub fn remove(kind: Kind, name: impl Into<String>) -> Change {
        Change { name: name.into(), becomes: Becomes::Record(kind, None) }
    }

    /// The rule has this state from now on.
    pub fn put_state(rule: impl Into<String>, state: Vec<u8>) -> Change {
        Change { name: rule.into(), becomes: Becomes::State(Some(state)) }
    }

    /// The rule has no state.
    pub fn remove_state(rule: impl Into<String>) -> Change {
        Change { name: rule.into(), becomes: Becomes::State(None) }
    }
}

/// All records of a store: texts by name, for each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records(BTreeMap<Kind, BTreeMap<String, String>>);

impl Records {
    /// The records of a kind, by name.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = (&str, &str)> {
        self.0.get(&kind).into_iter().flatten().map(|(name, text)| (name.as_str(), text.as_str()))
    }
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// the folder or file
    #[error("cannot open the store {}: {error}", path.display())]
    Io {
        /// which
        path: PathBuf,
        /// why
        error: std::io::Error,
    },
    /// another process
    #[error("the store {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// what is in it cannot be read
    #[error("the store {} is damaged ({reason}). It was left as it is: put back a copy of it, or move it away to begin anew", path.display())]
    Damaged {
        /// which
        path: PathBuf,
        /// how it was seen
        reason: String,
    },
    /// of a later Plutino
    #[error("the store {} has version {found}, this Plutino knows up to {VERSION}. It was left as it is: use a newer Plutino", path.display())]
    Newer {
        /// which
        path: PathBuf,
        /// its version
        found: u64,
    },
    /// a change could not be written
    #[error("cannot write to the store: {0}")]
    Write(String),
    /// it cannot be created
    #[error("cannot write to the new store {}: {reason}", path.display())]
    New {
        /// which
        path: PathBuf,
        /// why
        reason: String,
    },
    /// something cannot be read
    #[error("cannot read from the store: {0}")]
    Read(String),
    /// the store was closed
    #[error("the store is closed")]
    Closed,
}

type Answer = oneshot::Sender<Result<(), String>>;
type Group = (Vec<Change>, Answer);

/// The file, as it is open at the time.
struct OpenFile {
    path: PathBuf,
    /// `None` after a failure to write, while the file cannot be opened again either. Who uses the database holds the
    /// lock, so that a file is never open twice.
    database: RwLock<Option<Database>>,
}

/// The open store.
pub struct Store {
    file: Arc<OpenFile>,
    changes: Option<mpsc::Sender<Group>>,
    writer: Option<JoinHandle<()>>,
}

impl Store {
    /// Opens the store in this folder; makes both where they are missing.
    ///
    /// # Errors
    /// [`StoreError`]; a file that cannot be used is left as it is.
    pub fn open(folder: &Path) -> Result<(Store, Records), StoreError> {
        let path = folder.join(FILE);
        private_folder(folder).map_err(|error| StoreError::Io { path: folder.to_owned(), error })?;
        if path.exists() {
            check_version(&path)?;
        }
        // A damaged page can make the library panic, which is then the same news.
        let opened = catch_unwind(AssertUnwindSafe(|| open(&path)));
        let (database, records) = opened.unwrap_or_else(|_| Err(damaged(&path, "its pages cannot be read")))?;
        let (changes, waiting) = mpsc::channel(WAITING);
        let file = Arc::new(OpenFile { path: path.clone(), database: RwLock::new(Some(database)) });
        let of_writer = file.clone();
        let writer = std::thread::Builder::new().name("store".to_owned()).spawn(move || write(&of_writer, waiting));
        let writer = writer.map_err(|error| StoreError::Io { path, error })?;
        Ok((Store { file, changes: Some(changes), writer: Some(writer) }, records))
    }

    /// The rules that have a state, by id.
    ///
    /// # Errors
    /// [`StoreError::Read`]
    pub fn states(&self) -> Result<Vec<String>, StoreError> {
        self.file.look(|states| states.iter()?.map(|state| Ok(state?.0.value().to_owned())).collect())
    }

    /// The state of a rule, read from disk.
    ///
    /// # Errors
    /// [`StoreError::Read`]
    pub async fn state(&self, rule: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let (file, rule) = (self.file.clone(), rule.to_owned());
        let read = move || file.look(|states| Ok(states.get(rule.as_str())?.map(|state| state.value().to_vec())));
        tokio::task::spawn_blocking(read).await.map_err(|_| StoreError::Closed)?
    }

    /// Writes changes, all or none. When this returns they are on disk.
    ///
    /// # Errors
    /// [`StoreError::Write`]: nothing has changed then.
    pub async fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let (answer, written) = oneshot::channel();
        let writer = self.changes.as_ref().ok_or(StoreError::Closed)?;
        writer.send((changes, answer)).await.map_err(|_| StoreError::Closed)?;
        written.await.map_err(|_| StoreError::Closed)?.map_err(StoreError::Write)
    }
}

/// All that was accepted is written first.
impl Drop for Store {
    fn drop(&mut self) {
        drop(self.changes.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

impl OpenFile {
    fn look<T: Default>(
        &self,
        read: impl FnOnce(&ReadOnlyTable<&'static str, &'static [u8]>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let closed = || StoreError::Read("it could not be opened again after it could not be written".to_owned());
        let database = open.as_ref().ok_or_else(closed)?;
        let read = || match database.begin_read()?.open_table(STATES) {
            Err(TableError::TableDoesNotExist(_)) => Ok(T::default()),
            table => read(&table?),
        };
        // As when it is opened: a damaged page can make the library panic.
        let found = catch_unwind(AssertUnwindSafe(read));
        let found = found.map_err(|_| StoreError::Read("its pages cannot be read".to_owned()))?;
        found.map_err(|error: redb::Error| StoreError::Read(error.to_string()))
    }

    /// Writes all of this, or nothing.
    fn commit(&self, groups: &[Group]) -> Result<(), String> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.open_again()?;
        }
        let written = catch_unwind(AssertUnwindSafe(|| {
            let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
            open.as_ref().map(|database| commit(database, groups))
        }));
        let written = match written {
            Ok(Some(Ok(()))) => return Ok(()),
            Ok(Some(Err(error))) => error.to_string(),
            Ok(None) | Err(_) => "its pages cannot be read".to_owned(),
        };
        // The library takes no more changes after one that failed.
        if let Err(error) = self.open_again() {
            tracing::error!("{error}");
        }
        Err(written)
    }

    /// Closes the file and opens it as it is on disk.
    fn open_again(&self) -> Result<(), String> {
        let mut open = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // A closing that panics has closed it all the same.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(open.take())));
        let opened = catch_unwind(AssertUnwindSafe(|| open_file(&self.path, false)));
        let opened = opened.unwrap_or_else(|_| Err(damaged(&self.path, "its pages cannot be read")));
        *open = Some(opened.map_err(|error| error.to_string())?);
        Ok(())
    }
}

fn damaged(path: &Path, reason: impl ToString) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}

/// Looks at the version without the right to write, since opening a file to write may already change it.
fn check_version(path: &Path) -> Result<(), StoreError> {
    let found = catch_unwind(|| {
        let database = Database::builder().open_read_only(path).ok()?;
        let meta = database.begin_read().ok()?.open_table(META).ok()?;
        Some(meta.get("version").ok()??.value())
    });
    match found {
        Ok(Some(found)) if found > VERSION => Err(StoreError::Newer { path: path.to_owned(), found }),
        // What else is wrong with it shows when it is opened.
        _ => Ok(()),
    }
}

fn open(path: &Path) -> Result<(Database, Records), StoreError> {
    let new = !path.exists();
    let database = open_file(path, new)?;
    // What is stored has secrets in it.
    if let Err(error) = std::fs::set_permissions(path, Permissions::from_mode(0o600)) {
        tracing::warn!("others may read the store {}: {error}", path.display());
    }
    if new {
        begin(&database).map_err(|error| StoreError::New { path: path.to_owned(), reason: error.to_string() })?;
    }
    let records = read(&database).map_err(|error| damaged(path, error))?;
    Ok((database, records))
}

/// Makes a folder that only its owner may look into; one that is there becomes so.
fn private_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if let Err(error) = std::fs::set_permissions(folder, Permissions::from_mode(0o700)) {
        tracing::warn!("others may look into the data folder {}: {error}", folder.display());
    }
    Ok(())
}

fn open_file(path: &Path, new: bool) -> Result<Database, StoreError> {
    let io = |error| StoreError::Io { path: path.to_owned(), error };
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    let database = if new { builder.create(path) } else { builder.open(path) };
    database.map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() != std::io::ErrorKind::InvalidData => {
            io(error)
        }
        error => damaged(path, error),
    })
}

/// Writes the version into a new store.
fn begin(database: &Database) -> Result<(), redb::Error> {
    let change = database.begin_write()?;
    change.open_table(META)?.insert("version", VERSION)?;
    Ok(change.commit()?)
}

fn read(database: &Database) -> Result<Records, redb::Error> {
    let transaction = database.begin_read()?;
    let mut records = Records::default();
    for kind in Kind::ALL {
        let table = match transaction.open_table(kind.table()) {
            Err(TableError::TableDoesNotExist(_)) => continue,
            table => table?,
        };
        let of_kind = records.0.entry(kind).or_default();
        for record in table.iter()? {
            let (name, text) = record?;
            of_kind.insert(name.value().to_owned(), text.value().to_owned());
        }
    }
    Ok(records)
}

/// The writer's thread: until nobody can ask any more.
fn write(file: &OpenFile, mut waiting: mpsc::Receiver<Group>) {
    while let Some(first) = waiting.blocking_recv() {
        let mut groups = vec![first];
        while groups.len() < GROUP
            && let Ok(group) = waiting.try_recv()
        {
            groups.push(group);
        }
        let written = file.commit(&groups);
        if let Err(error) = &written {
            tracing::error!("cannot write to the store: {error}");
        }
        for (_, answer) in groups {
            let _ = answer.send(written.clone());
        }
    }
}

fn commit(database: &Database, groups: &[Group]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    let changes = || groups.iter().flat_map(|(changes, _)| changes);
    // Changes of one record are of one kind, so their order stays. A table is opened once for all of them.
    for kind in Kind::ALL {
        let of_kind = changes().filter_map(|change| match &change.becomes {
            Becomes::Record(of, text) if *of == kind => Some((change.name.as_str(), text)),
            _ => None,
        });
        let mut of_kind = of_kind.peekable();
        if of_kind.peek().is_none() {
            continue;
        }
        let mut table = transaction.open_table(kind.table())?;
        for (name, text) in of_kind {
            match text {
                Some(text) => drop(table.insert(name, text.as_str())?),
                None => drop(table.remove(name)?),
            }
        }
    }
    for change in changes() {
        match &change.becomes {
            Becomes::State(Some(state)) => {
                drop(transaction.open_table(STATES)?.insert(change.name.as_str(), state.as_slice())?);
            }
            Becomes::State(None) => drop(transaction.open_table(STATES)?.remove(change.name.as_str())?),
            Becomes::Record(..) => {}
        }
    }
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempdir::Folder {
        tempdir::Folder::new("store")
    }

    fn opened(folder: &Path) -> Result<Records, String> {
        Store::open(folder).map(|(_, records)| records).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn what_was_written_is_there_again() {
        let folder = folder();
        let (store, records) = Store::open(&folder.path).unwrap();
        assert_eq!(records, Records::default());
        store.write(vec![Change::put(Kind::Stream, "a", "A"), Change::put(Kind::Rule, "r", "1")]).await.unwrap();
        store.write(vec![Change::put(Kind::Rule, "r", "2"), Change::remove(Kind::Stream, "a")]).await.unwrap();
        assert!(Store::open(&folder.path).is_err_and(|error| error.to_string().contains("in use by another process")));
        drop(store);
        let records = opened(&folder.path).unwrap();
        assert_eq!(records.of(Kind::Rule).collect::<Vec<_>>(), [("r", "2")]);
        assert_eq!(records.of(Kind::Stream).count(), 0);
    }

    #[tokio::test]
    async fn states_are_read_when_they_are_asked_for() {
        let folder = folder();
        let (store, _) = Store::open(&folder.path).unwrap();
        assert_eq!((store.states().unwrap(), store.state("r").await.unwrap()), (Vec::new(), None));
        store.write(vec![Change::put_state("r", vec![1; 100_000]), Change::put_state("s", vec![2])]).await.unwrap();
        drop(store);
        let (store, records) = Store::open(&folder.path).unwrap();
        assert_eq!(records, Records::default());
        assert_eq!(store.states().unwrap(), ["r", "s"]);
        assert_eq!(store.state("r").await.unwrap(), Some(vec![1; 100_000]));
        store.write(vec![Change::remove_state("r")]).await.unwrap();
        assert_eq!((store.states().unwrap(), store.state("r").await.unwrap()), (vec!["s".to_owned()], None));
    }

    #[tokio::test]
    async fn many_at_a_time_share_a_transaction() {
        let folder = folder();
        let (store, _) = Store::open(&folder.path).unwrap();
        let writes = (0..500).map(|i| store.write(vec![Change::put(Kind::Rule, i.to_string(), "{}")]));
        for written in futures_util::future::join_all(writes).await {
            written.unwrap();
        }
        drop(store);
        assert_eq!(opened(&folder.path).unwrap().of(Kind::Rule).count(), 500);
    }

    #[tokio::test]
    async fn a_damaged_store_is_refused_and_left_as_it_is() {
        let folder = folder();
        let (store, _) = Store::open(&folder.path).unwrap();
        store.write(vec![Change::put(Kind::Rule, "r", "x".repeat(10_000))]).await.unwrap();
        drop(store);
        let file = folder.path.join(FILE);
        let whole = std::fs::read(&file).unwrap();
        for damage in [&b"no database at all"[..], &whole[..whole.len() / 2], &[0; 8192]] {
            std::fs::write(&file, damage).unwrap();
            let error = opened(&folder.path).unwrap_err();
            assert!(error.contains("is damaged"), "{error}");
            assert_eq!(std::fs::read(&file).unwrap(), damage);
        }
        std::fs::write(&file, whole).unwrap();
        assert_eq!(opened(&folder.path).unwrap().of(Kind::Rule).count(), 1);
    }

    #[test]
    fn a_newer_store_is_refused() {
        let folder = folder();
        std::fs::create_dir_all(&folder.path).unwrap();
        let database = Database::create(folder.path.join(FILE)).unwrap();
        let change = database.begin_write().unwrap();
        change.open_table(META).unwrap().insert("version", VERSION + 1).unwrap();
        change.commit().unwrap();
        drop(database);
        let before = std::fs::read(folder.path.join(FILE)).unwrap();
        let error = opened(&folder.path).unwrap_err();
        assert!(error.contains("has version 2, this Plutino knows up to 1"), "{error}");
        assert_eq!(std::fs::read(folder.path.join(FILE)).unwrap(), before);
    }

    /// A folder that goes with its value.
    mod tempdir {
        use std::path::PathBuf;

        pub struct Folder {
            pub path: PathBuf,
        }

        impl Folder {
            pub fn new(name: &str) -> Folder {
                let unique = format!("plutino-{name}-{}-{:x}", std::process::id(), fastrand::u64(..));
                Folder { path: std::env::temp_dir().join(unique) }
            }
        }

        impl Drop for Folder {
            fn drop(&mut self) {
                let _ = std::fs::remove_dir_all(&self.path);
            }
        }
    }
}
