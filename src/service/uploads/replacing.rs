//! The uploads while an import replaces everything: whatever ends the process, all of the old files or all of the new ones
//! are there afterwards.
//!
//! Before the first new file comes, links to all old ones are put into a folder that bears the import's number. The
//! transaction of the import stores that number. So who finds the folder knows by the store which files are to stay. While
//! the folder is there, nobody else changes the files, and no other import begins: what is undone or deleted with the folder
//! belongs to its import alone.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::{UNDER_WAY, UploadError, Uploads, locked, sync, write};

/// How the names of folders begin that hold the files from before an import.
const BEFORE: &str = ".before-";

/// The names of the files that an import brings, in such a folder.
const NEW: &str = ".new";

impl Uploads {
    /// Ends what another import has left, as [`Uploads::open`] does, and remembers all files as they are. `new` are the
    /// names that the import brings.
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

    /// The import is stored: deletes the files that it does not bring.
    ///
    /// # Errors
    /// [`UploadError`]
    pub fn finish(&self, import: u64) -> Result<(), UploadError> {
        let before = self.before(import);
        let new = fs::read_to_string(before.join(NEW)).map_err(|error| self.failed(error))?;
        self.keep(&new.lines().map(str::to_owned).collect::<Vec<_>>())?;
        self.end(&before)
    }

    /// The import is not stored: puts the old files in the place of its own.
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

    /// Deletes the files from before an import, which has ended.
    fn end(&self, before: &Path) -> Result<(), UploadError> {
        // Half of the folder would say something else. What is left under the new name goes at the next start.
        let over = self.under_way();
        fs::rename(before, &over).map_err(|error| self.failed(error))?;
        let _ = fs::remove_dir_all(&over);
        Ok(())
    }

    /// Ends what a crash or an error has interrupted; `stored` is the number of the last import that is stored.
    ///
    /// # Errors
    /// [`UploadError`]: above all, what is stored is not known.
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

    /// The imports that have begun and not ended.
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

/// A second name for a file, where the file system has such, else a copy.
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

    /// Names and contents of all files of a folder of uploads that is opened when the import `stored` was the last one.
    fn files(data: &Path, stored: u64) -> Vec<(String, String)> {
        let uploads = Uploads::open(data, Some(stored));
        let left = fs::read_dir(uploads.folder()).expect("it is there").count();
        let texts = uploads.texts().expect("they can be read");
        assert_eq!(left, texts.len(), "nothing else is left");
        texts
    }

    #[test]
    fn an_import_brings_all_files_or_none() {
        let data = std::env::temp_dir().join(format!("plutino-replacing-{:x}", fastrand::u64(..)));
        fs::create_dir_all(&data).expect("a folder can be made");
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        let (old, new) = (pairs(&[("a", "1"), ("b", "2")]), pairs(&[("b", "3"), ("c", "4")]));
        let import = |number| {
            let uploads = Uploads::open(&data, Some(0));
            uploads.keep(&[]).expect("they go");
            old.iter().for_each(|(name, text)| drop(uploads.put(name, text.as_bytes()).expect("it is taken")));
            uploads.begin(Some(0), number, &["b".to_owned(), "c".to_owned()]).expect("it begins");
            new.iter().for_each(|(name, text)| drop(uploads.bring(name, text.as_bytes()).expect("it is taken")));
            uploads
        };
        // Killed before and after the commit.
        import(7);
        assert_eq!(files(&data, 6), old);
        import(8);
        assert_eq!(files(&data, 8), new);
        // Refused, and done.
        import(9).roll_back(9).expect("the old ones are there");
        assert_eq!(files(&data, 8), old);
        import(10).finish(10).expect("the new ones are there");
        assert_eq!(files(&data, 10), new);
        // Killed while it goes back.
        let uploads = import(11);
        fs::remove_file(uploads.folder().join("c")).expect("it is there");
        fs::remove_file(uploads.folder().join("b")).expect("it is there");
        assert_eq!(files(&data, 10), old);
        fs::remove_dir_all(&data).expect("it is there");
    }

    #[test]
    fn what_an_import_has_left_does_not_cost_the_files_of_the_next_one() {
        let data = std::env::temp_dir().join(format!("plutino-left-{:x}", fastrand::u64(..)));
        fs::create_dir_all(&data).expect("a folder can be made");
        let uploads = Uploads::open(&data, Some(0));
        uploads.put("a", b"1").expect("it is taken");
        uploads.begin(Some(0), 7, &["b".to_owned()]).expect("it begins");
        uploads.bring("b", b"2").expect("it is taken");
        // It is stored, but its end fails. The next import ends it first.
        assert!(matches!(uploads.begin(None, 8, &[]), Err(UploadError::Replacing)), "what is stored is not known");
        uploads.begin(Some(7), 8, &["c".to_owned()]).expect("it begins");
        uploads.bring("c", b"3").expect("it is taken");
        uploads.finish(8).expect("it ends");
        assert_eq!(files(&data, 8), [("c".to_owned(), "3".to_owned())]);
        fs::remove_dir_all(&data).expect("it is there");
    }

    #[test]
    fn what_an_import_replaces_nobody_else_changes() {
        let data = std::env::temp_dir().join(format!("plutino-alone-{:x}", fastrand::u64(..)));
        fs::create_dir_all(&data).expect("a folder can be made");
        let uploads = Uploads::open(&data, Some(0));
        uploads.put("a", b"1").expect("it is taken");
        uploads.begin(Some(0), 7, &["a".to_owned()]).expect("it begins");
        assert!(matches!(uploads.put("b", b"2"), Err(UploadError::Replacing)));
        assert!(matches!(uploads.delete("a"), Err(UploadError::Replacing)));
        uploads.finish(7).expect("it ends");
        uploads.put("b", b"2").expect("it is taken");
        uploads.delete("a").expect("it goes");
        assert_eq!(files(&data, 7), [("b".to_owned(), "2".to_owned())]);
        fs::remove_dir_all(&data).expect("it is there");
    }
}
