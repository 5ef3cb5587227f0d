//! Files as sources: a stream or table reads one completely when it opens.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value as Json};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::io::LinkStatus;
use crate::io::properties;
use crate::io::queue::{BATCH_BYTES, BATCH_FRAMES, Frame, FrameBatch, FrameSender};
use crate::io::reach::{FileRoots, is_outside, within};
use crate::io::source::{OpenSource, SourceSettings};
use crate::property::{self, Entry, Invalid, Property, Warning};

/// The longest file that is read, bytes.
pub const LARGEST: u64 = 256 * 1024 * 1024;

/// How long opening a source waits until its rows are read in. There is a limit, because a rule that blocks its streams
/// must not block its own start.
const LOADING: Duration = Duration::from_secs(2);

/// A file that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("DATASOURCE is the name of a file in the data folder: set it to a text such as lookup.json")]
    NoName,
    /// it does not exist; the text is eKuiper's
    #[error("file {file} not exist in the data folder {folder}: put it there, or name another folder with --data")]
    Missing { file: String, folder: String },
    #[error("cannot read {file}: {source}")]
    Read { file: String, source: io::Error },
    #[error("{0} is not in the data folder: put it there, or add its folder to basic.fileRoots")]
    Outside(String),
    /// larger than `LARGEST`
    #[error("{0} is larger than 256 MiB")]
    TooLarge(String),
    #[error("{0} is not UTF-8")]
    NoText(String),
}

/// A source's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileSource {
    /// relative to the data folder
    pub file: PathBuf,
    file_type: FileType,
    /// whether a rule is refused if the file does not exist
    must_exist: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum FileType {
    /// the file is one message
    #[default]
    Json,
    /// each line is a message
    Lines,
}

/// The property that says what a message is.
pub const FILE_TYPE: &str = "fileType";

type Row = Property<FileSource>;

const PROPERTIES: &[Row] = &[
    Row::text("path", |source, folder| source.file = folder.into())
        .of_source()
        .doc("Folder of the file, below the data folder"),
    Row::choice(FILE_TYPE, &["json", "lines", "csv"], |source, file_type| {
        source.file_type = if file_type == "json" { FileType::Json } else { FileType::Lines };
    })
    .default("json")
    .of_source()
    .doc("`json`: the file is one message, an object or a list of objects. `lines` and `csv`: each line is a message of the stream's FORMAT. With FORMAT `delimited` or `urlencoded`, the default is `lines`"),
];

/// The properties of a source.
pub fn entries() -> Vec<Entry> {
    property::entries(PROPERTIES)
}

impl SourceSettings for FileSource {
    fn skip_checks(&mut self) {
        self.must_exist = false;
    }
}

impl FileSource {
    /// Checks a source's properties; `name` is the stream's DATASOURCE.
    ///
    /// # Errors
    /// [`Invalid`]
    pub fn new(name: &str, props: &Map<String, Json>) -> Result<(FileSource, Vec<Warning>), Invalid> {
        let (mut source, mut found): (FileSource, _) = properties::read(PROPERTIES, props);
        if name.is_empty() {
            found.refuse("DATASOURCE", FileError::NoName);
        }
        source.file.push(name);
        source.must_exist = true;
        found.finish(source)
    }

    /// Checks that the file exists.
    ///
    /// # Errors
    /// [`FileError::Missing`], [`FileError::Outside`]
    pub async fn check(&self, files: &FileRoots) -> Result<(), FileError> {
        if !self.must_exist {
            return Ok(());
        }
        let (below, file) = (files.clone(), self.file.clone());
        let found = within(move || below.find_below_data(&file)).await.and_then(|found| found);
        found.map(drop).map_err(|source| self.error(files, source))
    }

    /// Reads the file. After it has begun, its messages go to `frames`.
    ///
    /// # Errors
    /// [`FileError`]
    pub async fn open(self, files: &FileRoots, frames: FrameSender) -> Result<FileReader, FileError> {
        let shown = self.file.display().to_string();
        let (files, source) = (files.clone(), self);
        let read = within(move || source.read(&files)).await;
        let batches = read.map_err(|source| FileError::Read { file: shown.clone(), source })??;
        let state = tokio::sync::Mutex::new(State::Waiting(batches, frames));
        Ok(FileReader { file: shown, messages: Arc::default(), state, since: SystemTime::now() })
    }

    fn read(&self, files: &FileRoots) -> Result<Vec<FrameBatch>, FileError> {
        let bytes = files.read_below_data(&self.file, LARGEST).map_err(|source| self.error(files, source))?;
        let text = Utf8Bytes::try_from(Bytes::from(bytes));
        Ok(self.batches(text.map_err(|_| FileError::NoText(self.file.display().to_string()))?))
    }

    /// Why the file cannot be found or read.
    fn error(&self, files: &FileRoots, source: io::Error) -> FileError {
        let file = self.file.display().to_string();
        match source.kind() {
            _ if is_outside(&source) => FileError::Outside(file),
            io::ErrorKind::NotFound => FileError::Missing { file, folder: files.data().display().to_string() },
            io::ErrorKind::FileTooLarge => FileError::TooLarge(file),
            _ => FileError::Read { file, source },
        }
    }

    fn batches(&self, text: Utf8Bytes) -> Vec<FrameBatch> {
        let received = Instant::now();
        if self.file_type == FileType::Json {
            return vec![FrameBatch { frames: vec![Frame::Text(text)], origin: None, received }];
        }
        let mut batches = Vec::new();
        let mut frames = Vec::new();
        let mut size = 0;
        for line in text.lines().filter(|line| !line.trim_ascii().is_empty()) {
            size += line.len();
            frames.push(Frame::Text(line.into()));
            if frames.len() == BATCH_FRAMES || size >= BATCH_BYTES {
                batches.push(FrameBatch { frames: std::mem::take(&mut frames), origin: None, received });
                size = 0;
            }
        }
        if !frames.is_empty() {
            batches.push(FrameBatch { frames, origin: None, received });
        }
        batches
    }
}

pub struct FileReader {
    file: String,
    messages: Arc<AtomicU64>,
    state: tokio::sync::Mutex<State>,
    since: SystemTime,
}

enum State {
    Waiting(Vec<FrameBatch>, FrameSender),
    Sending(JoinHandle<()>),
    Ended,
}

async fn send(batches: Vec<FrameBatch>, frames: FrameSender, sent: Arc<AtomicU64>) {
    for batch in batches {
        let rows = batch.frames.len() as u64;
        if frames.send(batch).await.is_err() {
            return;
        }
        sent.fetch_add(rows, Ordering::Relaxed);
    }
}

impl OpenSource for FileReader {
    fn status(&self) -> LinkStatus {
        LinkStatus {
            messages: self.messages.load(Ordering::Relaxed),
            ..LinkStatus::new(format!("file:{}", self.file), self.since)
        }
    }

    fn begin(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut state = self.state.lock().await;
            match std::mem::replace(&mut *state, State::Ended) {
                State::Waiting(batches, frames) => {
                    let mut task = tokio::spawn(send(batches, frames, self.messages.clone()));
                    let _ = tokio::time::timeout(LOADING, &mut task).await;
                    *state = State::Sending(task);
                }
                begun => *state = begun,
            }
        })
    }

    /// Waits until everything is delivered, unless that takes very long.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let mut state = self.state.lock().await;
            if let State::Sending(task) = &mut *state
                && !task.is_finished()
            {
                let _ = tokio::time::timeout(LOADING, task).await;
            } else if matches!(*state, State::Waiting(..)) {
                *state = State::Ended;
            }
        })
    }
}

/// Messages that are not delivered yet are dropped.
impl Drop for FileReader {
    fn drop(&mut self) {
        if let State::Sending(task) = self.state.get_mut() {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tempfile::TempDir;

    use super::*;
    use crate::io::queue::{self, Received, Signal};

    fn source(name: &str, props: Json) -> Result<FileSource, String> {
        let Json::Object(props) = props else { return Err("no object".to_owned()) };
        FileSource::new(name, &props).map(|(source, _)| source).map_err(|error| error.to_string())
    }

    /// A folder with `data` in it.
    struct Folder(TempDir);

    impl Folder {
        fn new() -> Folder {
            let folder = tempfile::tempdir().expect("a temporary folder");
            std::fs::create_dir_all(folder.path().join("data/sub")).expect("a folder can be made");
            Folder(folder)
        }

        fn write(&self, file: &str, text: &[u8]) {
            std::fs::write(self.0.path().join(file), text).expect("a file can be written");
        }

        async fn read(&self, source: FileSource) -> Result<Vec<String>, String> {
            let signal = Signal::new(0, crossbeam_channel::unbounded().0, Arc::default());
            let (sender, receiver) = queue::inbound(signal);
            let opened = source.open(&FileRoots::new(self.0.path().join("data")), sender).await;
            opened.map_err(|error| error.to_string())?.begin().await;
            let mut messages = Vec::new();
            while let Received::Batch(batch) = receiver.receive() {
                messages.extend(batch.frames.iter().map(|f| String::from_utf8_lossy(f.bytes()).into_owned()));
            }
            Ok(messages)
        }
    }

    #[tokio::test]
    async fn a_file_is_one_message_or_one_a_line() {
        let folder = Folder::new();
        folder.write("data/a.json", b"[{\"id\":1}]");
        folder.write("data/sub/b.jsonl", b"{\"id\":1}\r\n\n{\"id\":2}");
        let whole = source("a.json", json!({})).unwrap();
        assert_eq!(folder.read(whole).await.unwrap(), ["[{\"id\":1}]"]);
        let lines = source("b.jsonl", json!({"path": "sub", "filetype": "lines"})).unwrap();
        assert_eq!(folder.read(lines).await.unwrap(), ["{\"id\":1}", "{\"id\":2}"]);
    }

    #[tokio::test]
    async fn only_files_in_the_data_folder_are_read() {
        let folder = Folder::new();
        folder.write("secret.json", b"{}");
        folder.write("data/latin", b"\xff");
        let outside = folder.0.path().join("secret.json");
        #[cfg(unix)]
        std::os::unix::fs::symlink(&outside, folder.0.path().join("data/link")).expect("a link can be made");
        for (name, part) in [
            ("../secret.json", "is not in the data folder"),
            (outside.to_str().expect("the path is text"), "is not in the data folder"),
            #[cfg(unix)]
            ("link", "is not in the data folder"),
            ("nothing.json", "file nothing.json not exist in the data folder "),
            ("sub", "it is not a regular file"),
            ("latin", "is not UTF-8"),
        ] {
            let error = folder.read(source(name, json!({})).unwrap()).await.expect_err(name);
            assert!(error.contains(part), "{name}: {error}");
        }
        assert!(source("", json!({})).is_err());
        assert!(
            source("a", json!({"fileType": "xml"}))
                .unwrap_err()
                .contains("fileType is \"xml\", expected json, lines or csv")
        );
        assert!(source("a", json!({"path": 5})).is_err());
    }
}
