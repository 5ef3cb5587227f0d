//! Checks and repairs a store that no service has open.
//!
//! A repair never writes to a damaged file. It writes everything readable to a new file, which replaces the damaged
//! one; the damaged one is kept beside it.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::examine::{Read, discard, examined};
use super::file::{FILE, beside, write_new};
use super::{Damage, Records, StoreError};

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// the readable records
    pub records: Records,
    /// the number of readable states of rules
    pub states: usize,
    /// what is not readable
    pub damage: Vec<Damage>,
}

/// The result of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// the result of the check before it
    pub checked: Checked,
    /// the path of the damaged file; `None`: there was nothing to repair
    pub kept: Option<PathBuf>,
}

/// Reads the whole store in a folder, and reports the damage.
///
/// # Errors
/// [`StoreError`] if it cannot be opened, or is open in another process.
pub fn check(folder: &Path) -> Result<Checked, StoreError> {
    let Read { records, states, damage, .. } = whole(&folder.join(FILE))?;
    Ok(Checked { records, states: states.len(), damage })
}

/// Repairs a damaged store, without its unreadable records.
///
/// # Errors
/// Those of [`check`], and [`StoreError::New`]; then the store is unchanged.
pub fn repair(folder: &Path) -> Result<Repaired, StoreError> {
    let path = folder.join(FILE);
    let Read { records, states, damage, .. } = whole(&path)?;
    let checked = Checked { records, states: states.len(), damage };
    if checked.damage.is_empty() {
        return Ok(Repaired { checked, kept: None });
    }
    let (new, kept) = (beside(&path, "new"), beside(&path, "damaged"));
    write_new(&new, &checked.records, &states)?;
    let moved = std::fs::rename(&path, &kept).and_then(|()| std::fs::rename(&new, &path));
    moved.map_err(|error| StoreError::Io { path, error })?;
    // Also syncs the names. If the folder cannot be synced, nothing more can be done.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(Repaired { checked, kept: Some(kept) })
}

fn whole(path: &Path) -> Result<Read, StoreError> {
    if !path.is_file() {
        let error = std::io::ErrorKind::NotFound.into();
        return Err(StoreError::Io { path: path.to_owned(), error });
    }
    let (database, read) = examined(path, true)?;
    discard(database);
    Ok(read)
}
