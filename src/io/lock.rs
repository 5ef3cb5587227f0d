//! Locks on files that only one process may write at a time.
//!
//! The system releases a lock when its process ends in any way, so nothing needs to be cleaned up.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Opens a file and locks it until it is closed; `None` if another process has locked it. If the file system has no
/// locks, the file is opened without one.
///
/// # Errors
/// Those of the system.
pub(super) fn open_locked(path: &Path, options: &OpenOptions) -> io::Result<Option<File>> {
    loop {
        let file = options.open(path)?;
        if !try_lock(&file)? {
            return Ok(None);
        }
        // The previous owner may have renamed or removed it since it was opened.
        let own = file.metadata()?;
        match fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (own.dev(), own.ino()) => return Ok(Some(file)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
}

/// Locks an open file; `false` if another process has locked it.
///
/// # Errors
/// Those of the system.
pub(super) fn try_lock(file: &File) -> io::Result<bool> {
    let has_none =
        |error: &io::Error| error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(libc::ENOLCK);
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) if has_none(&error) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_renamed_is_not_the_one_that_was_asked_for() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (path, aside) = (folder.path().join("file"), folder.path().join("old"));
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let held = open_locked(&path, &options).expect("it opens").expect("it is free");
        assert!(open_locked(&path, &options).expect("it is taken").is_none());
        fs::rename(&path, &aside).expect("it can be renamed");
        assert!(open_locked(&path, &options).expect("another one opens").is_some());
        drop(held);
        assert!(open_locked(&aside, &options).expect("it opens").is_some());
    }
}
