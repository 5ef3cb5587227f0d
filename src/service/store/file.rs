//! The store's file: opens, reads and writes it through redb, which panics on some damaged pages.

use std::fs::{File, Permissions};
use std::io::Write;
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, TableError};

use super::record::{STATES, Total, key_of, named, opened, record_key, sealed, state_key};
use super::{Change, Damage, RecordKind, Records, StoreError, Target};

pub(super) const FILE: &str = "plutino.redb";

/// A file whose space is freed when the disk is full.
const RESERVE: &str = "reserve";

/// Its size, bytes: enough for some hundred transactions of a few pages each.
const RESERVED: usize = 2 << 20;

/// The version of the format. A file with a newer version is refused; one with version 1 is converted.
pub(super) const VERSION: u64 = 2;

/// Memory for pages of the file, bytes. Everything is read only once, so more would gain little.
const CACHE: usize = 4 << 20;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// The key in that table for the number of the last import that replaced everything.
const IMPORT: &str = "import";

/// All stored records, by [`record_key`] and [`state_key`].
const ALL: TableDefinition<&[u8], &[u8]> = TableDefinition::new("records");

/// In version 1: records without checksums, one table for each kind.
fn old_table(kind: RecordKind) -> TableDefinition<'static, &'static str, &'static str> {
    TableDefinition::new(match kind {
        RecordKind::Stream => "streams",
        RecordKind::Table => "tables",
        RecordKind::Rule => "rules",
        RecordKind::ConfKey => "conf_keys",
        RecordKind::Connection => "connections",
        RecordKind::View => "views",
    })
}

/// In version 1: states without checksums.
const OLD_STATES: TableDefinition<&str, &[u8]> = TableDefinition::new("states");

/// What was read from a file.
#[derive(Default)]
pub(super) struct Read {
    pub records: Records,
    /// states, if they were requested
    pub states: Vec<(String, Vec<u8>)>,
    /// the keys of damaged states, if states were not requested: their rules can start with empty state
    lost_states: Vec<Vec<u8>>,
    pub damage: Vec<Damage>,
}

/// Why changes were not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    #[error("{0}")]
    Full(String),
    #[error("{0}")]
    Other(String),
}

/// The open file.
pub(super) struct OpenFile {
    path: PathBuf,
    /// `None` if writing failed and the file cannot be opened again. Users of the database hold the lock, so that the
    /// file is never open twice.
    database: RwLock<Option<Database>>,
}

impl OpenFile {
    /// Opens the file in a folder and reads all records. Creates both if they are missing.
    ///
    /// # Errors
    /// [`StoreError`]; a file that cannot be used is left as it is, and if it cannot be created, nothing is left
    /// behind.
    pub fn open(folder: &Path) -> Result<(OpenFile, Read), StoreError> {
        let path = folder.join(FILE);
        let new = !path.exists();
        let made = if new { missing(folder) } else { Vec::new() };
        private_folder(folder).map_err(|error| StoreError::Io { path: folder.to_owned(), error })?;
        if !new {
            check_version(&path)?;
        }
        // A damaged page can make the library panic, which counts as damage.
        let opened = catch_unwind(AssertUnwindSafe(|| open(&path, new)));
        let opened = opened.unwrap_or_else(|_| Err(damaged(&path, "its pages cannot be read")));
        let (database, read) = opened.inspect_err(|_| {
            if new {
                let _ = std::fs::remove_file(&path);
                // From the innermost on; a folder with other content stays.
                made.iter().for_each(|folder| drop(std::fs::remove_dir(folder)));
            }
        })?;
        if read.damage.iter().any(|damage| matches!(damage, Damage::Unreadable(_)))
            && read.records == Records::default()
        {
            return Err(damaged(&path, "its records cannot be read"));
        }
        if read.damage.is_empty() && !read.lost_states.is_empty() {
            forget_states(&database, &read.lost_states).map_err(|error| damaged(&path, error))?;
        }
        let file = OpenFile { path, database: RwLock::new(Some(database)) };
        file.reserve();
        Ok((file, read))
    }

    fn reserve_path(&self) -> PathBuf {
        self.path.with_file_name(RESERVE)
    }

    /// Reserves space that can be freed later. If there is no room, there is no reserve.
    pub fn reserve(&self) {
        let path = self.reserve_path();
        if path.exists() {
            return;
        }
        let create = || {
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            // Written in full rather than just extended: a sparse file takes no space.
            file.write_all(&vec![b'.'; RESERVED])?;
            file.sync_all()
        };
        if create().is_err() {
            let _ = std::fs::remove_file(&path);
        }
    }

    /// Frees the reserved space for the next write.
    pub fn give_reserve_up(&self) {
        let _ = std::fs::remove_file(self.reserve_path());
    }

    /// The number of the last import that replaced everything; 0: there was none; `None`: it cannot be read.
    pub fn last_import(&self) -> Option<u64> {
        let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let meta = open.as_ref()?.begin_read().ok()?.open_table(META).ok()?;
        Some(meta.get(IMPORT).ok()?.map_or(0, |number| number.value()))
    }

    /// The ids of the rules that have a state.
    pub fn states(&self) -> Result<Vec<String>, StoreError> {
        self.look(|all| {
            let (from, to) = STATES;
            let states = all.range(&from[..]..&to[..])?;
            states.map(|state| Ok(named(state?.0.value()).1)).collect()
        })
    }

    pub fn state(&self, rule: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let key = state_key(rule);
        let state = self.look(|all| {
            let state = all.get(key.as_slice())?;
            Ok(state.map(|state| opened(&key, state.value()).map(<[u8]>::to_vec)))
        })?;
        match state {
            Some(None) => Err(StoreError::Read(format!("the state of the rule {rule} is damaged"))),
            state => Ok(state.flatten()),
        }
    }

    fn look<T: Default>(
        &self,
        read: impl FnOnce(&redb::ReadOnlyTable<&'static [u8], &'static [u8]>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let closed = || StoreError::Read("it could not be reopened after a failed write".to_owned());
        let database = open.as_ref().ok_or_else(closed)?;
        let read = || match database.begin_read()?.open_table(ALL) {
            Err(TableError::TableDoesNotExist(_)) => Ok(T::default()),
            table => read(&table?),
        };
        let found = catch_unwind(AssertUnwindSafe(read));
        let found = found.map_err(|_| StoreError::Read("its pages cannot be read".to_owned()))?;
        found.map_err(|error: redb::Error| StoreError::Read(error.to_string()))
    }

    /// Writes all changes or none.
    pub fn commit<'a>(&self, changes: impl Iterator<Item = &'a Change> + Clone) -> Result<(), CommitError> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.open_again()?;
        }
        let written = catch_unwind(AssertUnwindSafe(|| {
            let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
            open.as_ref().map(|database| commit(database, changes))
        }));
        let error = match written {
            Ok(Some(Ok(()))) => return Ok(()),
            Ok(Some(Err(error))) if is_full(&error) => CommitError::Full(error.to_string()),
            Ok(Some(Err(error))) => CommitError::Other(error.to_string()),
            Ok(None) | Err(_) => CommitError::Other("its pages cannot be read".to_owned()),
        };
        // After a failure, the library accepts no more changes.
        if let Err(error) = self.open_again() {
            tracing::error!("{error}");
        }
        Err(error)
    }

    /// Closes the file and opens it as it is on disk.
    fn open_again(&self) -> Result<(), CommitError> {
        let mut open = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Even if closing panics, the file is closed.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(open.take())));
        let opened = catch_unwind(AssertUnwindSafe(|| open_file(&self.path, false)));
        let opened = opened.unwrap_or_else(|_| Err(damaged(&self.path, "its pages cannot be read")));
        let opened = opened.map_err(|error| match &error {
            StoreError::Io { error: io, .. } if is_no_room(io.kind()) => CommitError::Full(error.to_string()),
            error => CommitError::Other(error.to_string()),
        });
        *open = Some(opened?);
        Ok(())
    }

    /// A consistent copy of everything that is stored: an unnamed file that disappears with its handle.
    pub fn copy(&self) -> Result<File, StoreError> {
        let path = beside(&self.path, "backup");
        self.backup(&path)?;
        let opened = File::open(&path);
        let _ = std::fs::remove_file(&path);
        opened.map_err(|error| StoreError::Io { path, error })
    }

    /// Writes a consistent copy of everything that is stored to a new file.
    pub fn backup(&self, to: &Path) -> Result<(), StoreError> {
        let read = {
            let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
            let database = open.as_ref().ok_or(StoreError::Closed)?;
            read(database, true)
        };
        match read.damage.into_iter().next() {
            Some(damage) => Err(StoreError::Read(damage.to_string())),
            None => write_new(to, &read.records, &read.states),
        }
    }
}

/// The library writes when it closes, and panics on some damaged pages; the service must end nevertheless.
impl Drop for OpenFile {
    fn drop(&mut self) {
        let open = self.database.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(open)));
    }
}

/// The missing folders on the way to this one, the innermost first.
fn missing(folder: &Path) -> Vec<PathBuf> {
    let there = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    folder.ancestors().take_while(there).map(Path::to_owned).collect()
}

/// Creates a folder that only its owner can access; changes the rights of an existing one.
fn private_folder(folder: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    if let Err(error) = keep_out(folder) {
        tracing::warn!("cannot restrict access to the data folder {}: {error}", folder.display());
    }
    Ok(())
}

/// Removes the rights of everybody but the owner.
fn keep_out(path: &Path) -> std::io::Result<()> {
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode & 0o700))
}

pub(super) fn damaged(path: &Path, reason: impl ToString) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}

fn is_full(error: &redb::Error) -> bool {
    matches!(error, redb::Error::Io(error) if is_no_room(error.kind()))
}

fn is_no_room(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind as K;
    matches!(kind, K::StorageFull | K::QuotaExceeded | K::FileTooLarge)
}

/// Checks the version on a read-only file, because opening it for writing may already change it.
fn check_version(path: &Path) -> Result<(), StoreError> {
    let found = catch_unwind(|| {
        let database = Database::builder().open_read_only(path).ok()?;
        version(database.begin_read().ok()?.open_table(META).ok()?)
    });
    match found {
        Ok(Some(found)) if found > VERSION => Err(StoreError::Newer { path: path.to_owned(), found }),
        // Other problems are reported when the file is opened.
        _ => Ok(()),
    }
}

fn version(meta: impl ReadableTable<&'static str, u64>) -> Option<u64> {
    meta.get("version").ok()?.map(|version| version.value())
}

/// Opens a file, converts it to this version, and reads its records.
pub(super) fn open(path: &Path, new: bool) -> Result<(Database, Read), StoreError> {
    let database = open_file(path, new)?;
    // The store contains secrets.
    if let Err(error) = keep_out(path) {
        tracing::warn!("cannot restrict access to the store {}: {error}", path.display());
    }
    if new {
        begin(&database).map_err(|error| StoreError::New { path: path.to_owned(), reason: error.to_string() })?;
    } else if is_old(&database) {
        migrate(&database).map_err(|error| damaged(path, error))?;
    }
    let read = read(&database, false);
    Ok((database, read))
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
    {
        let mut meta = change.open_table(META)?;
        meta.insert("version", VERSION)?;
        put_total(&mut meta, Total::default())?;
        change.open_table(ALL)?;
    }
    Ok(change.commit()?)
}

fn is_old(database: &Database) -> bool {
    let meta = || database.begin_read().ok()?.open_table(META).ok();
    meta().and_then(version) == Some(1)
}

/// Adds checksums to the records of version 1.
fn migrate(database: &Database) -> Result<(), redb::Error> {
    let change = database.begin_write()?;
    let mut total = Total::default();
    {
        let mut all = change.open_table(ALL)?;
        let mut put = |key: Vec<u8>, content: &[u8]| -> Result<(), redb::Error> {
            let stored = sealed(&key, content);
            total.add(&stored);
            all.insert(key.as_slice(), stored.as_slice())?;
            Ok(())
        };
        for kind in RecordKind::ALL {
            for record in change.open_table(old_table(kind))?.iter()? {
                let (name, text) = record?;
                put(record_key(kind, name.value()), text.value().as_bytes())?;
            }
        }
        for state in change.open_table(OLD_STATES)?.iter()? {
            let (rule, state) = state?;
            put(state_key(rule.value()), state.value())?;
        }
    }
    for kind in RecordKind::ALL {
        change.delete_table(old_table(kind))?;
    }
    change.delete_table(OLD_STATES)?;
    {
        let mut meta = change.open_table(META)?;
        meta.insert("version", VERSION)?;
        put_total(&mut meta, total)?;
    }
    Ok(change.commit()?)
}

fn put_total(meta: &mut redb::Table<'_, &'static str, u64>, total: Total) -> Result<(), redb::Error> {
    meta.insert("count", total.count)?;
    meta.insert("sum", total.sum)?;
    Ok(())
}

fn total(meta: &impl ReadableTable<&'static str, u64>) -> Result<Total, redb::Error> {
    let number = |name| Ok::<_, redb::Error>(meta.get(name)?.map_or(0, |number| number.value()));
    Ok(Total { count: number("count")?, sum: number("sum")? })
}

/// Reads everything that is readable and reports the damage. States are checked, and returned if requested.
pub(super) fn read(database: &Database, with_states: bool) -> Read {
    let mut found = Read::default();
    let mut seen = Total::default();
    let reading = catch_unwind(AssertUnwindSafe(|| {
        let transaction = database.begin_read()?;
        let all = transaction.open_table(ALL)?;
        for record in all.iter()? {
            let (key, stored) = record?;
            let (key, stored) = (key.value(), stored.value());
            seen.add(stored);
            let (target, name) = named(key);
            let text = |content: &[u8]| String::from_utf8(content.to_vec()).ok();
            match (target, opened(key, stored)) {
                (Some(Target::Record(kind)), Some(content)) if text(content).is_some() => {
                    found.records.insert(kind, name, text(content).unwrap_or_default());
                }
                (Some(Target::State), Some(content)) => {
                    if with_states {
                        found.states.push((name, content.to_vec()));
                    }
                }
                (Some(Target::State), None) if !with_states => found.lost_states.push(key.to_vec()),
                (target, _) => {
                    let what = target.map_or("record", Target::word);
                    found.damage.push(Damage::Record { what, name });
                }
            }
        }
        let expected = total(&transaction.open_table(META)?)?;
        let is_sum_known = found.lost_states.is_empty();
        if (seen.count != expected.count || (is_sum_known && seen.sum != expected.sum)) && found.damage.is_empty() {
            found.damage.push(Damage::Missing { expected: expected.count, found: seen.count });
        }
        Ok(())
    }));
    let failed = match reading {
        Ok(Ok(())) => None,
        Ok(Err(error)) => {
            let error: redb::Error = error;
            Some(error.to_string())
        }
        Err(_) => Some("their pages are damaged".to_owned()),
    };
    found.damage.extend(failed.map(Damage::Unreadable));
    found
}

/// Drops damaged states: their rules start with empty state.
fn forget_states(database: &Database, keys: &[Vec<u8>]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut all = transaction.open_table(ALL)?;
        for key in keys {
            tracing::warn!(rule = named(key).1, "the stored state is damaged; the rule starts with empty state");
            all.remove(key.as_slice())?;
        }
        let mut total = Total::default();
        for record in all.iter()? {
            total.add(record?.1.value());
        }
        put_total(&mut transaction.open_table(META)?, total)?;
    }
    Ok(transaction.commit()?)
}

fn commit<'a>(database: &Database, changes: impl Iterator<Item = &'a Change>) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut all = transaction.open_table(ALL)?;
        let mut meta = transaction.open_table(META)?;
        let mut total = total(&meta)?;
        for change in changes {
            let Some(key) = key_of(change) else {
                let number = change.becomes.as_deref().and_then(|bytes| bytes.try_into().ok());
                meta.insert(IMPORT, number.map_or(0, u64::from_le_bytes))?;
                continue;
            };
            let before = match &change.becomes {
                Some(content) => {
                    let stored = sealed(&key, content);
                    total.add(&stored);
                    all.insert(key.as_slice(), stored.as_slice())?
                }
                None => all.remove(key.as_slice())?,
            };
            if let Some(before) = before {
                total.remove(before.value());
            }
        }
        put_total(&mut meta, total)?;
    }
    Ok(transaction.commit()?)
}

/// Writes a new store with these records; if that fails, there is no file.
pub(super) fn write_new(path: &Path, records: &Records, states: &[(String, Vec<u8>)]) -> Result<(), StoreError> {
    let refused = |reason: String| StoreError::New { path: path.to_owned(), reason };
    let created = File::options().write(true).create_new(true).mode(0o600).open(path);
    created.map_err(|error| refused(error.to_string()))?;
    let write = || {
        let database = Database::create(path)?;
        begin(&database)?;
        let records =
            RecordKind::ALL.into_iter().flat_map(|kind| records.of(kind).map(move |(name, text)| (kind, name, text)));
        let changes = records.map(|(kind, name, text)| Change::put(kind, name, text));
        let states = states.iter().map(|(rule, state)| Change::put_state(rule, state.clone()));
        let changes: Vec<Change> = changes.chain(states).collect();
        commit(&database, changes.iter())
    };
    write().map_err(|error: redb::Error| {
        let _ = std::fs::remove_file(path);
        refused(error.to_string())
    })
}

/// A name beside a file that no other file has.
pub(super) fn beside(path: &Path, what: &str) -> PathBuf {
    let stamp = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!("{name}.{what}-{}", stamp.map_or(0, |stamp| stamp.as_millis())).deref())
}
