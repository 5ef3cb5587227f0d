//! A folder for the files of one test, deleted when dropped.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

pub struct Folder(pub TempDir);

impl Folder {
    /// The name is part of the path, to recognize a folder that a killed test has left.
    pub fn new(name: &str) -> Folder {
        let folder = tempfile::Builder::new().prefix(&format!("plutino-{name}-")).tempdir();
        Folder(folder.expect("a temporary folder"))
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, such as `etc/plutino.yaml`, and makes its folder.
    pub fn write(&self, name: &str, text: &(impl AsRef<[u8]> + ?Sized)) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("a folder can be made");
        std::fs::write(&path, text).expect("a file can be written");
        path
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("the file is there")
    }
}
