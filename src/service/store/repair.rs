//! A store that no service has open: what is wrong with it, and how it becomes whole again.
//!
//! A repair never writes into a damaged file. What can be read goes into a new one, which takes its place; the old one is
//! kept beside it.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::file::{FILE, Read, beside, damaged, open, read, write_new};
use super::{Damage, Records, StoreError};

/// What was found in a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// what can be read
    pub records: Records,
    /// how many states of rules can be read
    pub states: usize,
    /// what cannot
    pub damage: Vec<Damage>,
}

/// What a repair has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// what was found
    pub checked: Checked,
    /// where the damaged file is now; `None`: there was nothing to repair
    pub kept: Option<PathBuf>,
}

/// Reads the whole store in a folder, and says what is damaged.
///
/// # Errors
/// [`StoreError`] where it cannot be opened, or another process has it.
pub fn check(folder: &Path) -> Result<Checked, StoreError> {
    let Read { records, states, damage, .. } = whole(&folder.join(FILE))?;
    Ok(Checked { records, states: states.len(), damage })
}

/// Makes a damaged store whole: without what cannot be read.
///
/// # Errors
/// As those of [`check`], and [`StoreError::New`]; the store is as it was then.
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
    // The names, too, are on disk then; where folders cannot be synchronised, nothing more can be done.
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
    Ok(Repaired { checked, kept: Some(kept) })
}

fn whole(path: &Path) -> Result<Read, StoreError> {
    if !path.is_file() {
        let error = std::io::ErrorKind::NotFound.into();
        return Err(StoreError::Io { path: path.to_owned(), error });
    }
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let (database, _) = open(path, false)?;
        Ok(read(&database, true))
    }));
    opened.unwrap_or_else(|_| Err(damaged(path, "its pages cannot be read")))
}
