//! The store's file: opens, reads and writes it through redb, which panics on some damaged pages.

use std::fs::{File, Permissions};
use std::io::Write;
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{OnceLock, PoisonError, RwLock};

use redb::{Database, ReadableDatabase, TableError};

use super::examine::{CACHE, Read, discard, examined, read, refused};
use super::overlay::guarded;
use super::record::{STATES, named, opened, state_key};
use super::tables::{ALL, IMPORT, META, VERSION, begin, commit, forget_states, is_old, migrate, version};
use super::{Change, Damage, RecordKind, Records, StoreError};

pub(super) const FILE: &str = "plutino.redb";

/// A file whose space is freed when the disk is full.
const RESERVE: &str = "reserve";

/// Its size, bytes: enough for some hundred transactions of a few pages each.
const RESERVED: usize = 2 << 20;

/// Why changes were not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    #[error("{0}")]
    Full(String),
    #[error("{0}")]
    Damaged(Damage),
    #[error("{0}")]
    Other(String),
}

/// The open file.
pub(super) struct OpenFile {
    path: PathBuf,
    /// `None` if writing failed and the file cannot be opened again. Users of the database hold the lock, so that the
    /// file is never open twice.
    database: RwLock<Option<Database>>,
    /// the damage that was noticed since it was opened
    spoilt: OnceLock<Damage>,
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
        let opened = if new { create(&path).map(|database| (database, Read::default())) } else { open(&path) };
        let (database, read) = opened.inspect_err(|_| {
            if new {
                let _ = std::fs::remove_file(&path);
                // From the innermost on; a folder with other content stays.
                made.iter().for_each(|folder| drop(std::fs::remove_dir(folder)));
            }
        })?;
        let file = OpenFile { path, database: RwLock::new(Some(database)), spoilt: OnceLock::new() };
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
            // The file is written in full, not just extended, because a sparse file takes no space.
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
        let read = || {
            let meta = open.as_ref()?.begin_read().ok()?.open_table(META).ok()?;
            Some(meta.get(IMPORT).ok()?.map_or(0, |number| number.value()))
        };
        guarded(read).flatten()
    }

    /// The damage that was noticed since it was opened.
    pub fn spoilt(&self) -> Option<&Damage> {
        self.spoilt.get()
    }

    /// Damage was noticed: from now on nothing is written.
    fn spoils(&self) -> Damage {
        let damage = self.spoilt.get_or_init(|| {
            tracing::error!(
                "the store: {}: it is read-only: stop the service and run `plutino store repair`",
                Damage::Pages
            );
            Damage::Pages
        });
        damage.clone()
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
        let found = guarded(read).ok_or_else(|| StoreError::Read(self.spoils().to_string()))?;
        found.map_err(|error: redb::Error| StoreError::Read(error.to_string()))
    }

    /// Writes all changes or none.
    pub fn commit<'a>(&self, changes: impl Iterator<Item = &'a Change> + Clone) -> Result<(), CommitError> {
        if let Some(damage) = self.spoilt() {
            return Err(CommitError::Damaged(damage.clone()));
        }
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.open_again()?;
        }
        let written = guarded(|| {
            let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
            open.as_ref().map(|database| commit(database, changes))
        });
        let error = match written {
            Some(Some(Ok(()))) => return Ok(()),
            Some(Some(Err(error))) if is_full(&error) => CommitError::Full(error.to_string()),
            None | Some(Some(Err(redb::Error::Corrupted(_)))) => CommitError::Damaged(self.spoils()),
            Some(Some(Err(error))) => CommitError::Other(error.to_string()),
            Some(None) => CommitError::Other("it could not be reopened after a failed write".to_owned()),
        };
        // After a failure, the library accepts no more changes.
        if let Err(error) = self.open_again() {
            tracing::error!("{error}");
        }
        Err(error)
    }

    /// Closes the file and opens it as it is on disk. If that is damaged, it is only read from then on.
    fn open_again(&self) -> Result<(), CommitError> {
        let mut open = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // Even if closing panics, the file is closed.
        open.take().into_iter().for_each(discard);
        let opened = match self.spoilt() {
            None => {
                guarded(|| open_file(&self.path)).unwrap_or_else(|| Err(StoreError::damaged(&self.path, Damage::Pages)))
            }
            Some(_) => examined(&self.path, false).map(|(database, _)| database),
        };
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
        open.into_iter().for_each(discard);
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

/// Removes the rights of everybody except the owner.
fn keep_out(path: &Path) -> std::io::Result<()> {
    let mode = std::fs::metadata(path)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode & 0o700))
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
    let found = guarded(|| {
        let database = Database::builder().open_read_only(path).ok()?;
        version(database.begin_read().ok()?.open_table(META).ok()?)
    });
    match found {
        Some(Some(found)) if found > VERSION => Err(StoreError::Newer { path: path.to_owned(), found }),
        // Other problems are reported when the file is opened.
        _ => Ok(()),
    }
}

/// Opens an existing file and reads its records. A damaged one is only read.
fn open(path: &Path) -> Result<(Database, Read), StoreError> {
    let (examined, read) = examined(path, false)?;
    if !read.damage.is_empty() {
        return Ok((examined, read));
    }
    discard(examined);
    let opened = guarded(|| {
        let database = open_file(path)?;
        private_store(path);
        if is_old(&database) {
            migrate(&database).map_err(|error| StoreError::damaged(path, error))?;
        }
        forget_states(&database, &read.lost_states).map_err(|error| StoreError::damaged(path, error))?;
        Ok(database)
    });
    let database = opened.unwrap_or_else(|| Err(StoreError::damaged(path, Damage::Pages)))?;
    for key in &read.lost_states {
        tracing::warn!(rule = named(key).1, "the stored state is damaged; the rule starts with empty state");
    }
    Ok((database, read))
}

fn open_file(path: &Path) -> Result<Database, StoreError> {
    Database::builder().set_cache_size(CACHE).open(path).map_err(|error| refused(path, error))
}

/// Creates an empty store.
fn create(path: &Path) -> Result<Database, StoreError> {
    let database = Database::builder().set_cache_size(CACHE).create(path).map_err(|error| refused(path, error))?;
    private_store(path);
    begin(&database).map_err(|error| StoreError::New { path: path.to_owned(), reason: error.to_string() })?;
    Ok(database)
}

/// The store contains secrets.
fn private_store(path: &Path) {
    if let Err(error) = keep_out(path) {
        tracing::warn!("cannot restrict access to the store {}: {error}", path.display());
    }
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

/// A path beside a file that no other file has.
pub(super) fn beside(path: &Path, what: &str) -> PathBuf {
    let stamp = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!("{name}.{what}-{}", stamp.map_or(0, |stamp| stamp.as_millis())).deref())
}
