//! The uploads during an import that replaces everything: however the process ends, either all old files or all new
//! ones are there afterwards.
//!
//! Before the first new file arrives, links to all old ones are put into a folder named with the import's number. The
//! import's transaction stores that number. So when the folder is found later, the store tells which files must stay.
//! While the folder exists, nobody else changes the files and no other import begins, so whatever is undone or deleted
//! with the folder belongs to its import.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{UNDER_WAY, UploadError, Uploads, locked, sync, write};

/// The prefix of folders that hold the files from before an import.
const BEFORE: &str = ".before-";

/// The file in such a folder that lists the files of the import.
const NEW: &str = ".new";

impl Uploads {
    /// Completes or undoes an unfinished import, as [`Uploads::open`] does, and links all current files. `new` are the
    /// names of the files that the import brings.
    ///
    /// # Errors
    /// [`UploadError`]
    pub fn begin(&self, stored: Option<u64>, import: u64, new: &[String]) -> Result<(), UploadError> {
        self.make()?;
        self.recover(stored)?;
        let _alone = locked(&self.changing);
        let unfinished = self.under_way();
        let remember = || {
            DirBuilder::new().mode(0o700).create(&unfinished)?;
            for path in self.list().map_err(io::Error::other)? {
                copy(&path, &unfinished.join(path.file_name().unwrap_or_default()))?;
            }
            write(&unfinished.join(NEW), new.join("\n").as_bytes())?;
            sync(&unfinished);
            fs::rename(&unfinished, self.before(import))
        };
        remember().map_err(|error| self.failed(error)).inspect_err(|_| drop(fs::remove_dir_all(&unfinished)))?;
        sync(&self.folder);
        Ok(())
    }

    /// Called when the import is stored: deletes the files that it did not bring.
    ///
    /// # Errors
    /// [`UploadError`]
    pub fn finish(&self, import: u64) -> Result<(), UploadError> {
        let before = self.before(import);
        let new = fs::read_to_string(before.join(NEW)).map_err(|error| self.failed(error))?;
        self.keep(&new.lines().map(str::to_owned).collect::<Vec<_>>())?;
        self.end(&before)
    }

    /// Called when the import is not stored: restores the old files.
    ///
    /// # Errors
    /// [`UploadError`]; it can be called again.
    pub fn roll_back(&self, import: u64) -> Result<(), UploadError> {
        let before = self.before(import);
        let mut old = Vec::new();
        for entry in fs::read_dir(&before).map_err(|error| self.failed(error))? {
            old.extend(entry.map_err(|error| self.failed(error))?.file_name().into_string());
        }
        self.keep(&old)?;
        let _alone = locked(&self.changing);
        for name in old.iter().filter(|name| *name != NEW) {
            let (from, to) = (before.join(name), self.folder.join(name));
            if is_same(&from, &to) {
                continue;
            }
            let under_way = self.under_way();
            let put = copy(&from, &under_way).and_then(|()| fs::rename(&under_way, &to));
            put.map_err(|error| UploadError::Io { path: to, error })?;
        }
        sync(&self.folder);
        self.end(&before)
    }

    /// Deletes the links to the files from before an import that has ended.
    fn end(&self, before: &Path) -> Result<(), UploadError> {
        // A partly deleted folder would be misread, so it is renamed first. If anything is left under the new name, the
        // next start removes it.
        let over = self.under_way();
        fs::rename(before, &over).map_err(|error| self.failed(error))?;
        let _ = fs::remove_dir_all(&over);
        Ok(())
    }

    /// Completes or undoes an import that a crash or error interrupted; `stored` is the number of the last stored
    /// import.
    ///
    /// # Errors
    /// [`UploadError`], for example if the number of the last stored import is unknown.
    pub(super) fn recover(&self, stored: Option<u64>) -> Result<(), UploadError> {
        for import in self.unended()? {
            if import == stored.ok_or(UploadError::Replacing)? {
                self.finish(import)?;
            } else {
                tracing::warn!("an import was interrupted: the uploads from before it are restored");
                self.roll_back(import)?;
            }
        }
        Ok(())
    }

    /// Refuses changes by others while an import replaces all files.
    pub(super) fn check_free(&self) -> Result<(), UploadError> {
        let free = !self.is_there()? || self.unended()?.is_empty();
        free.then_some(()).ok_or(UploadError::Replacing)
    }

    /// The imports that have begun but not ended.
    fn unended(&self) -> Result<Vec<u64>, UploadError> {
        let mut imports = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(|error| self.failed(error))? {
            imports.extend(number(&entry.map_err(|error| self.failed(error))?.file_name()));
        }
        Ok(imports)
    }

    fn before(&self, import: u64) -> PathBuf {
        self.folder.join(format!("{BEFORE}{import:016x}"))
    }

    fn under_way(&self) -> PathBuf {
        self.folder.join(format!("{UNDER_WAY}{:016x}", fastrand::u64(..)))
    }
}

fn number(name: &OsStr) -> Option<u64> {
    u64::from_str_radix(name.to_str()?.strip_prefix(BEFORE)?, 16).ok()
}

/// A hard link to a file if the file system supports it, otherwise a copy.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to).or_else(|_| write(to, &fs::read(from)?))
}

fn is_same(one: &Path, other: &Path) -> bool {
    let place = |path| fs::symlink_metadata(path).map(|there: fs::Metadata| (there.dev(), there.ino()));
    matches!((place(one), place(other)), (Ok(one), Ok(other)) if one == other)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names and contents of all files of an uploads folder that is opened when `stored` was the last import.
    fn files(data: &Path, stored: u64) -> Vec<(String, String)> {
        let uploads = Uploads::open(data, Some(stored));
        let left = fs::read_dir(uploads.folder()).expect("it is there").count();
        let texts = uploads.texts().expect("they can be read");
        assert_eq!(left, texts.len(), "nothing else is left");
        texts
    }

    #[test]
    fn an_import_brings_all_files_or_none() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let (old, new) = (pairs(&[("a", "1"), ("b", "2")]), pairs(&[("b", "3"), ("c", "4")]));
        let import = |number| {
            let uploads = Uploads::open(data.path(), Some(0));
            uploads.keep(&[]).expect("they go");
            old.iter().for_each(|(name, text)| drop(uploads.put(name, text.as_bytes()).expect("it is taken")));
            uploads.begin(Some(0), number, &["b".to_owned(), "c".to_owned()]).expect("it begins");
            new.iter().for_each(|(name, text)| drop(uploads.bring(name, text.as_bytes()).expect("it is taken")));
            uploads
        };
        // Killed before and after the commit.
        import(7);
        assert_eq!(files(data.path(), 6), old);
        import(8);
        assert_eq!(files(data.path(), 8), new);
        // Refused, then undone.
        import(9).roll_back(9).expect("the old ones are there");
        assert_eq!(files(data.path(), 8), old);
        import(10).finish(10).expect("the new ones are there");
        assert_eq!(files(data.path(), 10), new);
        // Killed while the import is undone.
        let uploads = import(11);
        fs::remove_file(uploads.folder().join("c")).expect("it is there");
        fs::remove_file(uploads.folder().join("b")).expect("it is there");
        assert_eq!(files(data.path(), 10), old);
    }

    #[test]
    fn what_an_import_has_left_does_not_cost_the_files_of_the_next_one() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let uploads = Uploads::open(data.path(), Some(0));
        uploads.put("a", b"1").expect("it is taken");
        uploads.begin(Some(0), 7, &["b".to_owned()]).expect("it begins");
        uploads.bring("b", b"2").expect("it is taken");
        // It is stored, but the cleanup fails. The next import completes it first.
        assert!(matches!(uploads.begin(None, 8, &[]), Err(UploadError::Replacing)), "what is stored is not known");
        uploads.begin(Some(7), 8, &["c".to_owned()]).expect("it begins");
        uploads.bring("c", b"3").expect("it is taken");
        uploads.finish(8).expect("it ends");
        assert_eq!(files(data.path(), 8), [("c".to_owned(), "3".to_owned())]);
    }

    #[test]
    fn what_an_import_replaces_nobody_else_changes() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let uploads = Uploads::open(data.path(), Some(0));
        uploads.put("a", b"1").expect("it is taken");
        uploads.begin(Some(0), 7, &["a".to_owned()]).expect("it begins");
        assert!(matches!(uploads.put("b", b"2"), Err(UploadError::Replacing)));
        assert!(matches!(uploads.delete("a"), Err(UploadError::Replacing)));
        uploads.finish(7).expect("it ends");
        uploads.put("b", b"2").expect("it is taken");
        uploads.delete("a").expect("it goes");
        assert_eq!(files(data.path(), 7), [("b".to_owned(), "2".to_owned())]);
    }
}
