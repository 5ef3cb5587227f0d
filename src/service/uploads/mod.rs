//! Files uploaded over the API, in the folder `uploads` of the data folder.
//!
//! A name is a single path segment: it leads neither out of the folder nor into another one, and links are never
//! followed. A file exists completely or not at all, and it is on disk before its sender gets the response.

mod replacing;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::locked;

/// The largest file, bytes.
pub const LARGEST: usize = 16 << 20;

/// The most files.
pub const MOST: usize = 1000;

/// The most bytes of all files together.
pub const TOTAL: u64 = 256 << 20;

/// The longest name, bytes: the limit of file systems, less what is added while the file is being written.
const LONGEST: usize = 200;

/// The prefix of files and folders that are being written. No other name has it.
const UNDER_WAY: &str = ".upload-";

/// Why a file cannot be taken, listed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(
        "the name {0:?} is not a plain file name: use at most {LONGEST} bytes, without / \\ and control characters, and without a leading dot"
    )]
    Name(String),
    #[error("the file has {0} bytes, at most {LARGEST} are accepted: send a smaller one")]
    TooLarge(usize),
    #[error("there are {MOST} files already: delete one with DELETE /config/uploads/NAME, or replace one")]
    TooMany,
    #[error("all files together would exceed {TOTAL} bytes: delete some with DELETE /config/uploads/NAME")]
    Full,
    #[error("{0} is not found: GET /config/uploads has the names")]
    NotFound(String),
    #[error("an import is replacing all files: try again when it is done; if it has failed, restart the service")]
    Replacing,
    #[error("{0}")]
    Elsewhere(String),
    #[error("{} is not a folder: move away what is there; it must be a folder, not a link", .0.display())]
    NoFolder(PathBuf),
    #[error("{}: {error}: check the disk and who may write there", path.display())]
    Io {
        path: PathBuf,
        /// why
        error: io::Error,
    },
}

/// The folder of uploads. The first file creates it.
pub struct Uploads {
    folder: PathBuf,
    /// held while the folder changes
    changing: Mutex<()>,
}

impl Uploads {
    /// Opens the uploads of a data folder. Removes incomplete files that a crash left behind, and completes or undoes
    /// an interrupted import. Nobody else writes there, since the caller holds the folder's store. `stored` is the
    /// number of the last import in that store; `None`: it cannot be read.
    pub fn open(data: &Path, stored: Option<u64>) -> Uploads {
        let uploads = Uploads::at(data);
        if let Err(error) = uploads.sweep(stored) {
            // Readable files stay readable; writers get an error.
            tracing::warn!("incomplete uploads could not be removed: {error}");
        }
        uploads
    }

    /// The same without removing anything, since another process may use the folder.
    pub fn at(data: &Path) -> Uploads {
        // Returned paths must have the same meaning everywhere.
        let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
        Uploads { folder: data.join("uploads"), changing: Mutex::default() }
    }

    /// The folder of the files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The paths of all files, by name.
    ///
    /// # Errors
    /// [`UploadError`]
    pub fn list(&self) -> Result<Vec<PathBuf>, UploadError> {
        if !self.is_there()? {
            return Ok(Vec::new());
        }
        let names = self.names()?;
        Ok(names.into_iter().map(|name| self.folder.join(name)).collect())
    }

    /// Stores a file, in place of the one with this name; returns its path.
    ///
    /// # Errors
    /// [`UploadError`]; then the previous file is unchanged.
    pub fn put(&self, name: &str, content: &[u8]) -> Result<PathBuf, UploadError> {
        let _alone = locked(&self.changing);
        self.check_free()?;
        self.store(name, content)
    }

    /// The same for an import, which may replace all files ([`Uploads::begin`]).
    ///
    /// # Errors
    /// [`UploadError`]; then the previous file is unchanged.
    pub fn bring(&self, name: &str, content: &[u8]) -> Result<PathBuf, UploadError> {
        let _alone = locked(&self.changing);
        self.store(name, content)
    }

    fn store(&self, name: &str, content: &[u8]) -> Result<PathBuf, UploadError> {
        check(name)?;
        if content.len() > LARGEST {
            return Err(UploadError::TooLarge(content.len()));
        }
        self.make()?;
        let names = self.names()?;
        if names.len() >= MOST && !names.iter().any(|known| known == name) {
            return Err(UploadError::TooMany);
        }
        let size = |name: &String| fs::symlink_metadata(self.folder.join(name)).map_or(0, |there| there.len());
        let others: u64 = names.iter().filter(|known| *known != name).map(size).sum();
        if others + content.len() as u64 > TOTAL {
            return Err(UploadError::Full);
        }
        let path = self.folder.join(name);
        if fs::symlink_metadata(&path).is_ok_and(|there| !there.is_file()) {
            return Err(UploadError::Name(name.to_owned()));
        }
        let under_way = self.folder.join(format!("{UNDER_WAY}{:016x}", fastrand::u64(..)));
        let written = write(&under_way, content).and_then(|()| fs::rename(&under_way, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&under_way);
            return Err(UploadError::Io { path, error });
        }
        sync(&self.folder);
        Ok(path)
    }

    fn make(&self) -> Result<(), UploadError> {
        if self.is_there()? {
            return Ok(());
        }
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        made.map_err(|error| self.failed(error))
    }

    /// Deletes a file.
    ///
    /// # Errors
    /// [`UploadError`]
    pub fn delete(&self, name: &str) -> Result<(), UploadError> {
        check(name)?;
        let _alone = locked(&self.changing);
        self.check_free()?;
        let path = self.folder.join(name);
        if !self.is_there()? || !fs::symlink_metadata(&path).is_ok_and(|there| there.is_file()) {
            return Err(UploadError::NotFound(name.to_owned()));
        }
        fs::remove_file(&path).map_err(|error| UploadError::Io { path, error })
    }

    /// Deletes all files except those with these names.
    ///
    /// # Errors
    /// [`UploadError`]
    pub fn keep(&self, names: &[String]) -> Result<(), UploadError> {
        let _alone = locked(&self.changing);
        let kept = |path: &PathBuf| path.file_name().is_some_and(|file| names.iter().any(|name| file == name.as_str()));
        self.list()?
            .into_iter()
            .filter(|path| !kept(path))
            .try_for_each(|path| fs::remove_file(&path).map_err(|error| UploadError::Io { path, error }))
    }

    /// The names and contents of the files that are text.
    ///
    /// # Errors
    /// [`UploadError`]
    pub fn texts(&self) -> Result<Vec<(String, String)>, UploadError> {
        let mut texts = Vec::new();
        for path in self.list()? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            match fs::read_to_string(&path) {
                Ok(text) => texts.push((name.to_owned(), text)),
                Err(error) => tracing::warn!("the upload {name} is not exported: {error}"),
            }
        }
        Ok(texts)
    }

    fn sweep(&self, stored: Option<u64>) -> Result<(), UploadError> {
        if !self.is_there()? {
            return Ok(());
        }
        for entry in fs::read_dir(&self.folder).map_err(|error| self.failed(error))? {
            let entry = entry.map_err(|error| self.failed(error))?;
            if !entry.file_name().to_string_lossy().starts_with(UNDER_WAY) {
                continue;
            }
            let removed = match entry.file_type() {
                Ok(kind) if kind.is_file() => fs::remove_file(entry.path()),
                Ok(kind) if kind.is_dir() => fs::remove_dir_all(entry.path()),
                _ => Ok(()),
            };
            removed.map_err(|error| UploadError::Io { path: entry.path(), error })?;
        }
        self.recover(stored)
    }

    fn names(&self) -> Result<Vec<String>, UploadError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(|error| self.failed(error))? {
            let entry = entry.map_err(|error| self.failed(error))?;
            // The type of the entry itself; links are not followed.
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if let Ok(name) = entry.file_name().into_string()
                && is_file
                && check(&name).is_ok()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Whether the folder exists.
    ///
    /// # Errors
    /// The path is something else, such as a link to another folder.
    fn is_there(&self) -> Result<bool, UploadError> {
        match fs::symlink_metadata(&self.folder) {
            Ok(there) if there.is_dir() => Ok(true),
            Ok(_) => Err(UploadError::NoFolder(self.folder.clone())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, error: io::Error) -> UploadError {
        UploadError::Io { path: self.folder.clone(), error }
    }
}

fn check(name: &str) -> Result<(), UploadError> {
    let wrong = |c: char| matches!(c, '/' | '\\') || c.is_control();
    if name.is_empty() || name.len() > LONGEST || name.starts_with('.') || name.contains(wrong) {
        // A long name is cut, so that the response does not grow with it.
        return Err(UploadError::Name(name.chars().take(LONGEST).collect()));
    }
    Ok(())
}

/// Makes the names in a folder survive a power failure. If folders cannot be synced, nothing more can be done.
fn sync(folder: &Path) {
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_and_go() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let uploads = Uploads::open(data.path(), Some(0));
        assert!(uploads.list().unwrap().is_empty());
        let path = uploads.put("b.txt", b"one").unwrap();
        uploads.put("a b ä%2e.txt", b"").unwrap();
        assert_eq!(uploads.put("b.txt", b"two").unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let names = |paths: Vec<PathBuf>| -> Vec<String> {
            paths.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(uploads.list().unwrap()), ["a b ä%2e.txt", "b.txt"]);
        uploads.delete("b.txt").unwrap();
        assert!(matches!(uploads.delete("b.txt"), Err(UploadError::NotFound(_))));
        assert_eq!(uploads.list().unwrap().len(), 1);
        assert!(matches!(uploads.put("c", &vec![0; LARGEST + 1]), Err(UploadError::TooLarge(_))));
        // No incomplete files are left.
        assert_eq!(fs::read_dir(data.path().join("uploads")).unwrap().count(), 1);
    }

    #[test]
    fn what_a_crash_left_goes_at_the_start() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let uploads = Uploads::open(data.path(), Some(0));
        uploads.put("kept", b"x").unwrap();
        let folder = data.path().join("uploads");
        fs::write(folder.join(format!("{UNDER_WAY}0123456789abcdef")), b"half").unwrap();
        fs::write(folder.join(".of-others"), b"x").unwrap();
        fs::create_dir(folder.join(format!("{UNDER_WAY}folder"))).unwrap();
        let uploads = Uploads::open(data.path(), Some(0));
        assert_eq!(uploads.list().unwrap(), [folder.join("kept")]);
        let mut left: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".of-others", "kept"]);
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let io = io::Error::from(io::ErrorKind::PermissionDenied);
        let path = PathBuf::from("/data/uploads");
        for (error, says) in [
            (UploadError::Name("a/b".to_owned()), "use at most"),
            (UploadError::TooLarge(LARGEST + 1), "send a smaller one"),
            (UploadError::TooMany, "delete one"),
            (UploadError::Full, "delete some"),
            (UploadError::Replacing, "try again"),
            (UploadError::NotFound("x".to_owned()), "GET /config/uploads"),
            (UploadError::NoFolder(path.clone()), "move away"),
            (UploadError::Io { path, error: io }, "check the disk"),
        ] {
            assert!(error.to_string().contains(says), "{error}");
        }
    }

    #[test]
    fn names_stay_in_the_folder() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let uploads = Uploads::open(data.path(), Some(0));
        uploads.put("there", b"x").unwrap();
        let long = "x".repeat(LONGEST + 1);
        let names = [
            "",
            ".",
            "..",
            "../x",
            "a/../../x",
            "/etc/passwd",
            "a/b",
            "a\\b",
            "a\0b",
            "a\nb",
            ".hidden",
            long.as_str(),
        ];
        for name in names {
            assert!(matches!(uploads.put(name, b"x"), Err(UploadError::Name(_))), "{name:?}");
            assert!(matches!(uploads.delete(name), Err(UploadError::Name(_))), "{name:?}");
        }
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn links_lead_nowhere() {
        let data = tempfile::tempdir().expect("a temporary folder");
        let outside = tempfile::tempdir().expect("a temporary folder");
        let secret = outside.path().join("secret");
        fs::write(&secret, "kept").unwrap();
        let uploads = Uploads::open(data.path(), Some(0));
        uploads.put("file", b"x").unwrap();
        std::os::unix::fs::symlink(&secret, data.path().join("uploads/link")).unwrap();
        assert!(uploads.put("link", b"lost").is_err());
        assert!(uploads.delete("link").is_err());
        assert_eq!(uploads.list().unwrap().len(), 1);
        fs::remove_dir_all(data.path().join("uploads")).unwrap();
        std::os::unix::fs::symlink(outside.path(), data.path().join("uploads")).unwrap();
        assert!(matches!(uploads.put("secret", b"lost"), Err(UploadError::NoFolder(_))));
        assert!(matches!(uploads.delete("secret"), Err(UploadError::NoFolder(_))));
        assert!(uploads.list().is_err());
        assert_eq!(fs::read_to_string(&secret).unwrap(), "kept");
    }
}
