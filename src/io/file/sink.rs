//! The `file` sink: its properties, and open sinks.
//!
//! Each sink writes on a separate thread, so that a slow disk holds up neither data nor other sinks. Messages wait in
//! an [`Outbox`]. While the disk is full or a folder is not writable, the sink tries again; messages that do not fit
//! into the outbox are dropped and counted.

use std::collections::HashSet;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value as Json};
use tokio::sync::oneshot;

use super::writer::Writer;
use crate::format::address::{Addressing, Part};
use crate::format::compress::Method;
use crate::format::sink_format::{OutputFormat, SinkFormat};
use crate::format::template::TemplateError;
use crate::io::LinkStatus;
use crate::io::batch_queue::QueueLimit;
use crate::io::outbox::Outbox;
use crate::io::queue::SinkHandle;
use crate::io::reach::{FileRoots, Reach, ReachError};
use crate::io::sink::{OpenSink, SinkSettings};
use crate::property::{self, Entry, Invalid, Property, Warning};
use crate::sync::locked;

/// The most folders and files in a path below the folder of a template. Without a limit, messages could make paths that
/// common tools cannot remove.
const DEPTH: usize = 16;

/// How long a thread may take to close its files when the sink ends.
const CLOSING: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, Default, PartialEq)]
pub struct FileSink {
    /// as written; with `{{ }}` each message has its own path
    pub(super) path: String,
    addressing: Option<Addressing>,
    pub(super) file_type: FileType,
    pub(super) rolling: Rolling,
    pub(super) compression: Option<Method>,
    /// whether each message begins with a line of names; only the first one in a file is written
    pub(super) header: bool,
    /// whether line ends inside a message can be replaced by blanks
    pub(super) one_line: bool,
    queue: QueueLimit,
}

/// The content of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum FileType {
    /// one message a line
    #[default]
    Lines,
    /// lines of values between delimiters
    Csv,
    /// a JSON list of messages
    Json,
}

/// When a new file begins, and how files are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rolling {
    /// the greatest age of a file
    pub interval: Option<Duration>,
    /// the most messages in a file; 0: no limit
    pub count: u64,
    /// the most bytes in a file; 0: no limit
    pub size: u64,
    pub pattern: NamePattern,
}

/// The place of the time in a file name, ms since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum NamePattern {
    /// only finished files have it, after the name
    #[default]
    None,
    /// before the name
    Prefix,
    /// after the name, before its extension
    Suffix,
}

type Row = Property<FileSink>;

const PROPERTIES: &[Row] = &[
    Row::text("path", |sink, path| sink.path = path.trim().to_owned())
        .of_sink()
        .doc("The file, below the data folder or one of `basic.fileRoots`. May be a [template](sinks.md#templates): the dot is the row with `sendSingle`, else the list of rows"),
    Row::choice("fileType", &["lines", "csv", "json"], |sink, file_type| {
        sink.file_type = match file_type {
            "csv" => FileType::Csv,
            "json" => FileType::Json,
            _ => FileType::Lines,
        };
    })
    .default("lines")
    .of_sink()
    .doc("`lines`: each message is a line. `csv`: the same, with `format: delimited`. `json`: the file is a list of the messages"),
    Row::duration("rollingInterval", |sink, age| sink.rolling.interval = Some(age).filter(|age| !age.is_zero()))
        .default("0")
        .of_sink()
        .doc("Start a new file after this time; `0`: no limit"),
    Row::whole("rollingCount", 0, u64::MAX, |sink, count| sink.rolling.count = count)
        .default("1000000")
        .of_sink()
        .doc("Most messages in a file; `0`: no limit"),
    Row::whole("rollingSize", 0, u64::MAX, |sink, size| sink.rolling.size = size)
        .default("0")
        .of_sink()
        .doc("Most bytes in a file, unless a single message is longer; `0`: no limit"),
    Row::choice("rollingNamePattern", &["none", "prefix", "suffix"], |sink, pattern| {
        sink.rolling.pattern = match pattern {
            "prefix" => NamePattern::Prefix,
            "suffix" => NamePattern::Suffix,
            _ => NamePattern::None,
        };
    })
    .default("none")
    .of_sink()
    .doc("Where the file name has the start time of the file, in ms since the epoch. `prefix`: `1700000000000-a.csv`. \
     `suffix`: `a-1700000000000.csv`. `none`: the file has the plain name, and is renamed as with `suffix` when the \
     next file starts"),
    Row::object("queue", &[
        Row::whole("messages", 1, usize::MAX as u64, |sink, messages| sink.queue.messages = messages as usize)
            .default("65536"),
        Row::whole("bytes", 1, usize::MAX as u64, |sink, bytes| sink.queue.bytes = bytes as usize).default("16777216"),
    ])
    .shorthand("messages")
    .of_sink()
    .doc("The queue limit; beyond it, the oldest messages are dropped"),
    Row::without_effect("checkInterval", property::Type::Duration { least: Duration::ZERO, most: Duration::MAX }),
    Row::without_effect("interval", property::Type::Duration { least: Duration::ZERO, most: Duration::MAX }),
];

/// A property that cannot be used.
#[derive(Debug, thiserror::Error)]
enum SinkError {
    #[error("path must be set: the name of a file such as results.jsonl")]
    NoPath,
    #[error("one of rollingInterval, rollingCount and rollingSize must be set")]
    NoRolling,
    #[error("path: {0}")]
    Template(TemplateError),
}

/// The properties of a sink.
pub fn entries() -> Vec<Entry> {
    property::entries(PROPERTIES)
}

impl SinkSettings for FileSink {
    fn kind(&self) -> &'static str {
        "file"
    }

    /// The format that `fileType` requires. Compression applies to the file, not to single messages.
    fn form(&mut self, mut format: SinkFormat, has_format: bool) -> Result<SinkFormat, String> {
        let header = matches!(format.format, OutputFormat::Delimited { header: true, .. });
        match self.file_type {
            FileType::Csv if !matches!(format.format, OutputFormat::Delimited { .. }) => {
                return Err("format must be delimited when fileType is csv".to_owned());
            }
            FileType::Json if has_format && format.format != OutputFormat::Json => {
                return Err("format must be json when fileType is json".to_owned());
            }
            _ => {}
        }
        if self.addressing.is_some() && format.send_single && format.gathers() {
            return Err(
                "a template in path gives each row its own file, so batches are not possible: leave out batchSize and \
                 lingerInterval, or sendSingle"
                    .to_owned(),
            );
        }
        self.compression = match format.compression.take() {
            method @ (None | Some(Method::Gzip | Method::Zstd)) => method,
            Some(_) => return Err("compression must be one of gzip, zstd".to_owned()),
        };
        self.header = header;
        self.one_line = format.format == OutputFormat::Json;
        format.to = self.addressing.clone();
        Ok(format)
    }

    /// Checks that the file, as far as its path is known before messages come, is in the allowed folders.
    fn check(&self, reach: &Reach) -> Result<(), ReachError> {
        if self.addressing.is_some() || reach.files.holds_below_data(Path::new(&self.path)) {
            return Ok(());
        }
        Err(ReachError::Outside { property: "path".to_owned(), file: self.path.clone() })
    }
}

impl FileSink {
    /// Checks a sink's properties.
    ///
    /// # Errors
    /// [`Invalid`]
    pub fn new(props: &Map<String, Json>) -> Result<(FileSink, Vec<Warning>), Invalid> {
        let (mut sink, mut found): (FileSink, _) = crate::io::properties::read(PROPERTIES, props);
        if sink.path.is_empty() && !found.has_fault("path") {
            found.refuse("path", SinkError::NoPath);
        }
        if sink.path.contains("{{") {
            match Part::new("path", &sink.path) {
                Ok(part) => sink.addressing = Some(Addressing { parts: vec![part], each_row: false }),
                Err(error) => found.refuse("path", SinkError::Template(error)),
            }
        }
        if (sink.rolling.interval, sink.rolling.count, sink.rolling.size) == (None, 0, 0) && found.faults.is_empty() {
            found.refuse("rollingCount", SinkError::NoRolling);
        }
        found.finish(sink)
    }

    /// Whether messages determine their files.
    pub fn is_addressed(&self) -> bool {
        self.addressing.is_some()
    }

    /// The folder before the template, with its slash; empty if there is none.
    pub(super) fn fixed_folder(&self) -> &str {
        let fixed = self.path.split("{{").next().unwrap_or_default();
        &fixed[..fixed.rfind('/').map_or(0, |slash| slash + 1)]
    }

    /// Whether a file name made from a message stays in the folder before the template, and not too deep in it.
    pub fn stays(&self, name: &str) -> bool {
        let folder = self.fixed_folder();
        let inner = name.strip_prefix(folder).unwrap_or(name);
        let leaves = |step: Component<'_>| match step {
            Component::ParentDir => true,
            Component::RootDir => folder.is_empty(),
            _ => false,
        };
        let mut steps = Path::new(inner).components();
        self.addressing.is_none() || (steps.clone().count() <= DEPTH && !steps.any(leaves))
    }
}

/// The files that the sinks of a process are writing, so that no two sinks write the same one.
#[derive(Clone, Debug, Default)]
pub struct FileWriters(Arc<Mutex<HashSet<PathBuf>>>);

/// A file that a sink writes. It is released when this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    writers: FileWriters,
    path: PathBuf,
}

impl Drop for Claim {
    fn drop(&mut self) {
        locked(&self.writers.0).remove(&self.path);
    }
}

impl FileWriters {
    /// Claims a file; `None` if another sink writes it.
    pub(super) fn claim(&self, path: &Path) -> Option<Claim> {
        let free = locked(&self.0).insert(path.to_owned());
        free.then(|| Claim { writers: self.clone(), path: path.to_owned() })
    }

    /// Opens a sink that writes in these folders.
    ///
    /// # Errors
    /// The system's error if the thread cannot be started.
    pub fn open(&self, sink: FileSink, files: FileRoots) -> io::Result<FileLink> {
        let outbox = Outbox::new(sink.queue);
        let address = format!("file:{}", sink.path);
        let (stop, stopped) = mpsc::channel();
        let (done, ended) = oneshot::channel();
        let writer = Writer::new(outbox.clone(), sink, files, self.clone(), stopped);
        std::thread::Builder::new().name("file sink".to_owned()).spawn(move || {
            writer.run();
            drop(done);
        })?;
        let closing = tokio::sync::Mutex::new(Some(Closing { stop, ended }));
        Ok(FileLink { outbox, address, closing })
    }
}

/// Ends a sink's thread, and reports when it has ended.
struct Closing {
    stop: mpsc::Sender<()>,
    ended: oneshot::Receiver<()>,
}

/// An open sink. After it is dropped, nothing more is written.
pub struct FileLink {
    outbox: Arc<Outbox>,
    address: String,
    closing: tokio::sync::Mutex<Option<Closing>>,
}

impl OpenSink for FileLink {
    fn outlet(&self) -> SinkHandle {
        SinkHandle::Messages(self.outbox.clone())
    }

    fn status(&self) -> LinkStatus {
        self.outbox.status(self.address.clone())
    }

    /// Also closes the files. What is left after `flush` is lost and counted.
    fn close(&self, flush: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.outbox.close();
            let Some(Closing { stop, ended }) = self.closing.lock().await.take() else { return };
            self.outbox.drain(tokio::time::Instant::now() + flush).await;
            self.outbox.clear();
            drop(stop);
            let _ = tokio::time::timeout(CLOSING, ended).await;
        })
    }
}

impl Drop for FileLink {
    fn drop(&mut self) {
        self.outbox.close();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_is_told() {
        for (props, expected) in [
            (json!({}), "path must be set"),
            (json!({"path": "{{"}), "path: template"),
            (json!({"path": "a", "fileType": "csv2"}), "expected lines, csv or json"),
            (
                json!({"path": "a", "rollingCount": 0}),
                "one of rollingInterval, rollingCount and rollingSize must be set",
            ),
            (json!({"path": "a", "rollingCount": -1}), "property rollingCount is -1"),
            (json!({"path": "a", "rollingNamePattern": "test"}), "expected none, prefix or suffix"),
            (json!({"path": "a", "checkInterval": -1}), "property checkInterval is -1"),
        ] {
            let error = FileSink::new(props.as_object().expect("an object")).expect_err("it is wrong").to_string();
            assert!(error.contains(expected), "{props}: {error}");
        }
        let form = |props: Json, shape: SinkFormat, has_format| {
            let (mut sink, _) = FileSink::new(props.as_object().expect("an object")).expect("right");
            sink.form(shape, has_format)
        };
        assert!(form(json!({"path": "a", "fileType": "csv"}), SinkFormat::lists(), false).is_err());
        let packed = |method| SinkFormat { compression: Some(method), ..SinkFormat::lists() };
        assert!(form(json!({"path": "a"}), packed(Method::Zlib), false).is_err());
        let shape = form(json!({"path": "{{.x}}"}), packed(Method::Gzip), false).expect("right");
        assert!(shape.compression.is_none() && shape.to.is_some());
    }
}
