//! Reads a store and checks it, page by page, without changing its file.

use std::fs::File;
use std::path::Path;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable};

use super::overlay::{Overlay, guarded};
use super::record::{Total, named, opened};
use super::tables::{ALL, META, forget_states, is_old, migrate, total};
use super::{Damage, Records, StoreError, Target};

/// Memory for pages of the file, bytes. Everything is read only once, and the system keeps pages too, so more would gain
/// little.
pub(super) const CACHE: usize = 1 << 20;

/// What was read from a file.
#[derive(Default)]
pub(super) struct Read {
    pub records: Records,
    /// states, if they were requested
    pub states: Vec<(String, Vec<u8>)>,
    /// the keys of damaged states, if states were not requested: their rules can start with empty state
    pub lost_states: Vec<Vec<u8>>,
    pub damage: Vec<Damage>,
    /// the key that was read last
    reached: Vec<u8>,
    seen: Total,
}

/// Reads the file of a store that no process has open. The database that is returned holds changes, such as those of a
/// recovery, in memory.
///
/// # Errors
/// [`StoreError`] if it cannot be opened, or if it is damaged and nothing can be read.
pub(super) fn examined(path: &Path, with_states: bool) -> Result<(Database, Read), StoreError> {
    let (opened, is_recovered) = match found(path, with_states, false) {
        Err(error @ StoreError::Damaged { .. }) => (found(path, with_states, true).map_err(|_| error), true),
        opened => (opened, false),
    };
    let (mut database, mut read) = opened?;
    if is_recovered {
        read.damage.push(Damage::Recovered);
    }
    if !read.damage.is_empty() {
        return Ok((database, read));
    }
    // Without damaged states, nothing else may be damaged.
    let is_sound = guarded(|| forget_states(&database, &read.lost_states).is_ok()).unwrap_or(false)
        && matches!(guarded(|| database.check_integrity()), Some(Ok(true)));
    if !is_sound {
        read.damage.push(Damage::Pages);
        // The check may have gone back to an older commit.
        discard(database);
        database = opened_over(path, false)?;
    }
    Ok((database, read))
}

/// What can be read of a file; `recovers`: of an older commit, if there is no other way.
fn found(path: &Path, with_states: bool, recovers: bool) -> Result<(Database, Read), StoreError> {
    let database = opened_over(path, recovers)?;
    let read = read(&database, with_states);
    if read.damage.iter().any(|damage| matches!(damage, Damage::Unreadable(_))) && read.records == Records::default() {
        discard(database);
        return Err(StoreError::damaged(path, "its records cannot be read"));
    }
    Ok((database, read))
}

fn opened_over(path: &Path, recovers: bool) -> Result<Database, StoreError> {
    let unreadable = || StoreError::damaged(path, "its pages cannot be read");
    guarded(|| overlaid(path, recovers)).unwrap_or_else(|| Err(unreadable()))
}

/// Closes a database that may be damaged: the library writes when it closes.
pub(super) fn discard(database: Database) {
    guarded(|| drop(database));
}

/// Opens a file so that changes stay in memory, and converts it to this version.
fn overlaid(path: &Path, recovers: bool) -> Result<Database, StoreError> {
    let io = |error| StoreError::Io { path: path.to_owned(), error };
    let file = File::options().read(true).write(true).open(path).map_err(io)?;
    if file.metadata().map_err(io)?.len() == 0 {
        // The library would make a new database of it.
        return Err(StoreError::damaged(path, "it is empty"));
    }
    let overlay = Overlay::new(file).map_err(|error| refused(path, error))?;
    if recovers {
        overlay.recover().map_err(io)?;
    }
    let database = Database::builder().set_cache_size(CACHE).create_with_backend(overlay);
    let database = database.map_err(|error| refused(path, error))?;
    if is_old(&database) {
        migrate(&database).map_err(|error| StoreError::damaged(path, error))?;
    }
    Ok(database)
}

/// Why a file cannot be opened.
pub(super) fn refused(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() != std::io::ErrorKind::InvalidData => {
            StoreError::Io { path: path.to_owned(), error }
        }
        error => StoreError::damaged(path, error),
    }
}

/// Reads everything that is readable and reports the damage. States are checked, and returned if requested. All of it
/// is of one moment, even if the database is being written to.
pub(super) fn read(database: &Database, with_states: bool) -> Read {
    let mut found = Read::default();
    let moment = match guarded(|| database.begin_read()) {
        Some(Ok(moment)) => moment,
        failed => {
            let failed = failure(failed.map(|begun| begun.map(drop).map_err(redb::Error::from)));
            found.damage.extend(failed.map(Damage::Unreadable));
            return found;
        }
    };
    let forward = guarded(|| {
        let all = moment.open_table(ALL)?;
        for record in all.iter()? {
            let (key, stored) = record?;
            found.ordered(key.value(), true)?;
            found.add(key.value(), stored.value(), with_states);
        }
        Ok(())
    });
    let failed = failure(forward);
    if failed.is_some() {
        // What comes after the damaged page is read from the end.
        let last = std::mem::take(&mut found.reached);
        let backward = guarded(|| {
            let all = moment.open_table(ALL)?;
            for record in all.iter()?.rev() {
                let (key, stored) = record?;
                if key.value() <= last.as_slice() {
                    break;
                }
                found.ordered(key.value(), false)?;
                found.add(key.value(), stored.value(), with_states);
            }
            Ok(())
        });
        tracing::debug!(error = failure(backward), "read from the end of a damaged table");
    }
    let expected = guarded(|| total(&moment.open_table(META)?));
    let failed = failed.or_else(|| match expected {
        Some(Ok(expected)) => {
            let seen = found.seen;
            let is_sum_known = found.lost_states.is_empty();
            if (seen.count != expected.count || (is_sum_known && seen.sum != expected.sum)) && found.damage.is_empty() {
                found.damage.push(Damage::Missing { expected: expected.count, found: seen.count });
            }
            None
        }
        other => failure(other.map(|total| total.map(|_| ()))),
    });
    found.damage.extend(failed.map(Damage::Unreadable));
    found
}

/// Why reading has failed, if it has.
fn failure(read: Option<Result<(), redb::Error>>) -> Option<String> {
    match read {
        Some(Ok(())) => None,
        Some(Err(error)) => Some(error.to_string()),
        None => Some("their pages are damaged".to_owned()),
    }
}

impl Read {
    /// Checks that keys come in order: damaged pages may lead in a circle.
    fn ordered(&mut self, key: &[u8], rising: bool) -> Result<(), redb::Error> {
        let before = std::mem::replace(&mut self.reached, key.to_vec());
        let first = before.is_empty();
        match first || if rising { before.as_slice() < key } else { key < before.as_slice() } {
            true => Ok(()),
            false => Err(redb::Error::Corrupted("their order is damaged".to_owned())),
        }
    }

    fn add(&mut self, key: &[u8], stored: &[u8], with_states: bool) {
        self.seen.add(stored);
        let (target, name) = named(key);
        let text = |content: &[u8]| String::from_utf8(content.to_vec()).ok();
        match (target, opened(key, stored)) {
            (Some(Target::Record(kind)), Some(content)) if text(content).is_some() => {
                self.records.insert(kind, name, text(content).unwrap_or_default());
            }
            (Some(Target::State), Some(content)) => {
                if with_states {
                    self.states.push((name, content.to_vec()));
                }
            }
            (Some(Target::State), None) if !with_states => self.lost_states.push(key.to_vec()),
            (target, _) => {
                let what = target.map_or("record", Target::word);
                self.damage.push(Damage::Record { what, name });
            }
        }
    }
}
