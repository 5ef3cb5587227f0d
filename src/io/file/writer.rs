//! The thread of a file sink: from messages to files, and again while the disk takes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::sink::{FileSink, FileWriters};
use super::target::{Opening, Target, is_writable};
use crate::io::outbox::{Outbox, Taken, Waited};
use crate::io::reach::{FileRoots, is_outside};
use crate::value::Text;

/// How often the thread looks at the age of its files.
const TICK: Duration = Duration::from_secs(1);

/// How long messages of a compressed file wait for others, so that members are not too small.
const LINGER: Duration = Duration::from_secs(1);

/// How much is written at a time, and gathered for a member, bytes.
const CHUNK: usize = 256 * 1024;

/// The wait before a file is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How many files a sink has open, where templates name them. Beyond it, the one that was used least recently is closed.
const OPEN: usize = 64;

/// Why messages are lost that name their file themselves.
const OUTSIDE: &str = "path not allowed";
const INVALID: &str = "invalid path";
const TAKEN: &str = "file of another sink";
const REFUSED: &str = "file not writable";

/// See the module.
pub(super) struct Writer {
    outbox: Arc<Outbox>,
    sink: FileSink,
    files: FileRoots,
    writers: FileWriters,
    stopped: Receiver<()>,
    /// the one that was used last is at the end
    open: Vec<(Text, Target)>,
}

/// The sink is closed: what is in hand is given up.
struct Stopped;

/// A message in hand: the batch and its place in it.
type Place = (usize, usize);

impl Writer {
    pub fn new(
        outbox: Arc<Outbox>,
        sink: FileSink,
        files: FileRoots,
        writers: FileWriters,
        stopped: Receiver<()>,
    ) -> Writer {
        Writer { outbox, sink, files, writers, stopped, open: Vec::new() }
    }

    /// Writes until the outbox is closed and empty, or the sink is given up.
    pub fn run(mut self) {
        loop {
            let (batches, ended) = self.gather();
            if self.write(&batches).is_err() {
                break;
            }
            drop(batches);
            self.end_old();
            if ended {
                break;
            }
        }
        for (_, mut target) in std::mem::take(&mut self.open) {
            if let Err(error) = target.flush().and_then(|()| target.end(self.sink.rolling.pattern, false)) {
                self.outbox.fails(&format!("cannot close a file: {error}"), false);
            }
        }
    }

    /// What waits, and whether nothing more will come.
    fn gather(&self) -> (Vec<Taken>, bool) {
        let mut batches: Vec<Taken> = Vec::new();
        let (mut bytes, mut messages, mut until) = (0, 0, None);
        loop {
            let wait = match until {
                // Until the next file is due, where one is open.
                None => self
                    .open
                    .iter()
                    .filter_map(|(_, target)| target.time_left(&self.sink.rolling))
                    .fold(TICK, Duration::min),
                Some(until) => Instant::saturating_duration_since(&until, Instant::now()),
            };
            match self.outbox.wait(wait) {
                Waited::Batch(taken) => {
                    bytes += (0..taken.len()).map(|index| taken.message(index).0.len()).sum::<usize>();
                    messages += taken.len();
                    batches.push(taken);
                    let linger = if self.sink.compression.is_some() { LINGER } else { Duration::ZERO };
                    until.get_or_insert_with(|| Instant::now() + linger);
                }
                Waited::Nothing => return (batches, false),
                Waited::Ended => return (batches, true),
            }
            // Most of the queue stays where its oldest messages can be dropped.
            if bytes >= CHUNK || messages >= 4 * self.outbox.portion() {
                return (batches, false);
            }
        }
    }

    fn write(&mut self, batches: &[Taken]) -> Result<(), Stopped> {
        // Messages that are in the memory of a target.
        let mut added: Vec<Place> = Vec::new();
        let mut current: Option<Text> = None;
        for (batch, taken) in batches.iter().enumerate() {
            for index in 0..taken.len() {
                let (message, address) = taken.message(index);
                let name = address.and_then(|address| address.first()).cloned();
                let name = name.unwrap_or_else(|| Text::from(self.sink.path.as_str()));
                let rolling = self.sink.rolling;
                if current.as_ref().is_some_and(|current| *current != name) {
                    self.flush(current.take(), batches, &mut added)?;
                }
                if current.is_none()
                    && let Some(cause) = self.have(&name)?
                {
                    taken.lost(index, cause);
                    continue;
                }
                let Some((_, target)) = self.open.last_mut() else { return Err(Stopped) };
                if target.is_full(&rolling, message.len()) {
                    self.flush(Some(name.clone()), batches, &mut added)?;
                    self.roll();
                    if let Some(cause) = self.have(&name)? {
                        taken.lost(index, cause);
                        current = None;
                        continue;
                    }
                }
                let Some((_, target)) = self.open.last_mut() else { return Err(Stopped) };
                target.add(&message);
                added.push((batch, index));
                let full = target.waiting() >= CHUNK;
                current = Some(name);
                if full {
                    self.flush(current.clone(), batches, &mut added)?;
                }
            }
        }
        self.flush(current, batches, &mut added)
    }

    /// Writes what the file that is in use has in memory, as often as it takes.
    fn flush(&mut self, name: Option<Text>, batches: &[Taken], added: &mut Vec<Place>) -> Result<(), Stopped> {
        if name.is_none() || added.is_empty() {
            return Ok(());
        }
        loop {
            let Some((_, target)) = self.open.last_mut() else { return Err(Stopped) };
            match target.flush() {
                Ok(()) => break,
                Err(error) => {
                    let text = format!("cannot write to {}: {error}", target.path().display());
                    if self.sink.is_addressed() && !may_pass(&error) {
                        target.discard();
                        self.outbox.fails(&text, false);
                        added.drain(..).for_each(|(batch, index)| batches[batch].lost(index, REFUSED));
                        return Ok(());
                    }
                    self.fails(&text)?;
                }
            }
        }
        self.outbox.works();
        for (batch, index) in added.drain(..) {
            batches[batch].sent(index, batches[batch].message(index).0.len());
        }
        Ok(())
    }

    /// Makes the file of this name the one in use. The answer says why its messages are lost, if they are. Where messages
    /// name their files, one that cannot be opened does not hold up the others.
    fn have(&mut self, name: &Text) -> Result<Option<&'static str>, Stopped> {
        if let Some(at) = self.open.iter().position(|(known, _)| known == name) {
            let used = self.open.remove(at);
            self.open.push(used);
            return Ok(None);
        }
        if !self.sink.stays(name) {
            self.outbox.fails(&format!("{name} leaves the folder of the path's template"), false);
            return Ok(Some(INVALID));
        }
        if self.open.len() >= OPEN {
            let (_, target) = self.open.remove(0);
            self.end(target, false);
        }
        loop {
            match self.open_target(Path::new(name.as_str())) {
                Ok(Opening::Open(target)) => {
                    self.open.push((name.clone(), target));
                    return Ok(None);
                }
                Ok(Opening::Taken(by)) if self.sink.is_addressed() => {
                    self.outbox.fails(&format!("{name} is written by {by}"), false);
                    return Ok(Some(TAKEN));
                }
                Ok(Opening::Taken(by)) => self.fails(&format!("{name} is written by {by}"))?,
                Err(error) if is_outside(&error) => {
                    let hint = "put it below the data folder, or add its folder to basic.fileRoots";
                    self.outbox.fails(&format!("{name} is not in the data folder: {hint}"), false);
                    return Ok(Some(OUTSIDE));
                }
                Err(error) if self.sink.is_addressed() && !may_pass(&error) && self.has_place() => {
                    self.outbox.fails(&format!("cannot open {name}: {error}"), false);
                    return Ok(Some(if names_no_file(&error) { INVALID } else { REFUSED }));
                }
                Err(error) => self.fails(&format!("cannot open {name}: {error}"))?,
            }
        }
    }

    /// Whether the folder of all files is there: if not, no message is to blame.
    fn has_place(&self) -> bool {
        let folder = self.sink.fixed_folder();
        folder.is_empty() || self.files.locate_for_results(Path::new(folder)).is_ok_and(|folder| folder.is_dir())
    }

    fn open_target(&self, name: &Path) -> io::Result<Opening> {
        let path: PathBuf = self.files.locate_for_results(name)?;
        if !is_writable(&path)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Target::open(&path, &self.sink, &self.writers)
    }

    /// Ends the file in use: the next one begins with the next message.
    fn roll(&mut self) {
        if let Some((_, target)) = self.open.pop() {
            self.end(target, true);
        }
    }

    /// Ends files that are too old. All that was added is flushed.
    fn end_old(&mut self) {
        let rolling = self.sink.rolling;
        for (_, target) in self.open.extract_if(.., |(_, target)| target.is_old(&rolling)).collect::<Vec<_>>() {
            self.end(target, true);
        }
    }

    fn end(&self, target: Target, rolls: bool) {
        if let Err(error) = target.end(self.sink.rolling.pattern, rolls) {
            self.outbox.fails(&format!("cannot close a file: {error}"), false);
        }
    }

    /// Notes an error, and waits until the next try.
    fn fails(&self, error: &str) -> Result<(), Stopped> {
        self.outbox.fails(error, true);
        match self.stopped.recv_timeout(RETRY) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(Stopped),
        }
    }
}

/// Whether an error is the disk's or the process's, not that of one file: it may pass.
fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem)
        || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Whether a file cannot be opened because of its name.
fn names_no_file(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, IsADirectory, NotADirectory};
    matches!(error.kind(), InvalidFilename | InvalidInput | IsADirectory | NotADirectory)
}

#[cfg(test)]
mod tests {
    use crate::io::sink::SinkSettings;
    use std::sync::mpsc;

    use bytes::Bytes;
    use serde_json::{Value as Json, json};

    use super::*;
    use crate::format::address::Address;
    use crate::format::compress::Method;
    use crate::format::sink_format::{OutputFormat, SinkFormat};
    use crate::io::batch_queue::QueueLimit;
    use crate::io::queue::{MessageBatch, Outlet};

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            let folder = std::env::temp_dir().join(format!("plutino-files-{:x}", fastrand::u64(..)));
            std::fs::create_dir_all(&folder).expect("a folder can be made");
            Folder(folder)
        }

        /// The names of the files in it, with their texts.
        fn files(&self) -> Vec<(String, String)> {
            let entries = std::fs::read_dir(&self.0).expect("it is there").map(|entry| entry.expect("it is there"));
            let mut files: Vec<(String, String)> = entries
                .map(|entry| (entry.file_name().to_string_lossy().into_owned(), text_of(&entry.path())))
                .collect();
            files.sort();
            files
        }

        /// Writes messages, with their paths where they have one, and closes the sink; what it counts.
        fn write(&self, props: Json, shape: SinkFormat, messages: &[(&str, &str)]) -> crate::io::LinkStatus {
            let (mut sink, _) = FileSink::new(props.as_object().expect("an object")).expect("right");
            let shape = sink.form(shape, true).expect("right");
            let outbox = Outbox::new(QueueLimit { messages: 1000, bytes: 1 << 20 });
            for (path, message) in messages {
                let bytes = Bytes::copy_from_slice(message.as_bytes());
                let batch = MessageBatch::new(bytes, vec![message.len() as u32], true, None);
                let address: Address = Box::new([Text::from(*path)]);
                outbox.send(&Arc::new(if shape.to.is_some() { batch.addressed(vec![address]) } else { batch }));
            }
            outbox.close();
            let (_stop, stopped) = mpsc::channel();
            let files = FileRoots::new(self.0.clone());
            Writer::new(outbox.clone(), sink, files, FileWriters::default(), stopped).run();
            outbox.status(String::new())
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn text_of(path: &Path) -> String {
        std::fs::read_to_string(path).expect("it is text")
    }

    fn csv() -> SinkFormat {
        SinkFormat { format: OutputFormat::Delimited { delimiter: ",".into(), header: true }, ..SinkFormat::lists() }
    }

    #[test]
    fn files_go_on_where_they_were() {
        let folder = Folder::new();
        let plain = [("", "{\"a\":1}"), ("", "{\"a\":\n2}")];
        folder.write(json!({"path": "l"}), SinkFormat::lists(), &plain);
        std::fs::write(folder.0.join("l"), text_of(&folder.0.join("l")) + "{\"a\"").expect("it can be written");
        folder.write(json!({"path": "l"}), SinkFormat::lists(), &plain[..1]);
        for _ in 0..2 {
            folder.write(json!({"path": "j", "fileType": "json"}), SinkFormat::lists(), &plain[..1]);
            folder.write(json!({"path": "c", "fileType": "csv"}), csv(), &[("", "a,b\n1,2"), ("", "a,b\n3,4\n5,6")]);
        }
        let expected = [
            ("c", "a,b\n1,2\n3,4\n5,6\n1,2\n3,4\n5,6\n"),
            ("j", "[{\"a\":1},{\"a\":1}]"),
            ("l", "{\"a\":1}\n{\"a\": 2}\n{\"a\":1}\n"),
        ];
        assert_eq!(folder.files(), expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
    }

    #[test]
    fn files_roll_by_count_and_size() {
        let five = ["1", "2", "3", "4", "5"].map(|n| ("", n));
        for (props, texts) in [
            (
                json!({"path": "a.x", "rollingCount": 2, "rollingNamePattern": "suffix"}),
                vec!["1\n2\n", "3\n4\n", "5\n"],
            ),
            (
                json!({"path": "a.x", "rollingCount": 2, "rollingNamePattern": "prefix"}),
                vec!["1\n2\n", "3\n4\n", "5\n"],
            ),
            (json!({"path": "a.x", "rollingSize": 5, "rollingCount": 0}), vec!["1\n2\n", "3\n4\n", "5\n"]),
            (json!({"path": "a.x", "rollingCount": 5, "fileType": "json"}), vec!["[1,2,3,4,5]"]),
        ] {
            let folder = Folder::new();
            let status = folder.write(props.clone(), SinkFormat::lists(), &five);
            assert_eq!((status.messages, status.dropped.len()), (5, 0));
            let files = folder.files();
            let found: Vec<&str> = files.iter().map(|(_, text)| text.as_str()).collect();
            let mut sorted = found.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, texts, "{props}");
            let named = |name: &str| match props["rollingNamePattern"].as_str() {
                Some("prefix") => name.ends_with("-a.x"),
                Some("suffix") => name.starts_with("a-") && name.ends_with(".x"),
                _ => name == "a.x" || name.starts_with("a-"),
            };
            assert!(files.iter().all(|(name, _)| named(name)), "{files:?}");
        }
    }

    #[test]
    fn compressed_files_are_read_as_one() {
        for (method, file_type, expected) in [
            (Method::Gzip, "lines", "1\n2\n1\n2\n"),
            (Method::Zstd, "lines", "1\n2\n1\n2\n"),
            (Method::Gzip, "json", "[1,2]"),
        ] {
            let folder = Folder::new();
            for _ in 0..2 {
                let shape = SinkFormat { compression: Some(method), ..SinkFormat::lists() };
                folder.write(json!({"path": "a", "fileType": file_type}), shape, &[("", "1"), ("", "2")]);
            }
            let bytes = std::fs::read(folder.0.join("a")).expect("it is there");
            // Members of zstd are unpacked one by one.
            let text = match method {
                Method::Gzip => String::from_utf8(method.unpack(&bytes).expect("it is whole")).expect("text"),
                _ => {
                    let (mut text, mut rest) = (String::new(), bytes.as_slice());
                    while !rest.is_empty() {
                        let mut decoder = ruzstd::decoding::StreamingDecoder::new(&mut rest).expect("a member");
                        io::Read::read_to_string(&mut decoder, &mut text).expect("it is whole");
                    }
                    text
                }
            };
            assert_eq!(text, expected, "{method:?} {file_type}");
        }
    }

    #[test]
    fn messages_name_their_files() {
        let folder = Folder::new();
        let messages =
            [("a", "1"), ("b/c", "2"), ("a", "3"), ("../out", "4"), ("plutino.redb", "5"), ("uploads/x", "6")];
        let status = folder.write(json!({"path": "{{.p}}"}), SinkFormat::lists(), &messages);
        assert_eq!((status.messages, status.dropped), (3, vec![(INVALID, 1), (OUTSIDE, 2)]));
        assert_eq!(text_of(&folder.0.join("a")), "1\n3\n");
        assert_eq!(text_of(&folder.0.join("b/c")), "2\n");
        assert!(status.last_error.expect("an error").1.contains("basic.fileRoots"));
    }

    #[test]
    fn a_name_that_is_none_holds_up_no_other() {
        let folder = Folder::new();
        std::fs::create_dir_all(folder.0.join("out/folder")).expect("a folder can be made");
        let long = format!("out/{}", "x".repeat(300));
        let names = [long.as_str(), "out/a\0b", "out/.", "out/folder", "out/a/../b", "out/../c", "out/a", "out/a/b"];
        let messages = names.map(|name| (name, "1"));
        let status = folder.write(json!({"path": "out/{{.p}}"}), SinkFormat::lists(), &messages);
        assert_eq!((status.messages, status.dropped), (1, vec![(INVALID, 7)]));
        assert_eq!(text_of(&folder.0.join("out/a")), "1\n");
        let sink = |path: &str| FileSink::new(json!({"path": path}).as_object().expect("an object")).expect("right").0;
        for (path, name, stays) in [
            ("{{.p}}", "a/b", true),
            ("{{.p}}", "/etc/a", false),
            ("../a/b-{{.p}}.c", "../a/b-x.c", true),
            ("../a/b-{{.p}}.c", "../a/b-/../../x.c", false),
            ("/a/{{.p}}", "/a//b", true),
            ("../a", "../a", true),
        ] {
            assert_eq!(sink(path).stays(name), stays, "{path} {name}");
        }
    }

    #[test]
    fn a_file_of_another_kind_is_kept() {
        let (packed, plain) = (Method::Gzip.pack(b"old\n").expect("packed"), b"old\n".to_vec());
        for (old, compression) in [(&plain, Some(Method::Gzip)), (&plain, Some(Method::Zstd)), (&packed, None)] {
            let folder = Folder::new();
            std::fs::write(folder.0.join("a.x"), old).expect("it can be written");
            let shape = SinkFormat { compression, ..SinkFormat::lists() };
            let status = folder.write(json!({"path": "a.x"}), shape, &[("", "1")]);
            assert_eq!(status.messages, 1);
            let entries = std::fs::read_dir(&folder.0).expect("it is there").map(|entry| entry.expect("it is there"));
            let found: Vec<Vec<u8>> = entries.map(|entry| std::fs::read(entry.path()).expect("it is there")).collect();
            assert!(found.len() == 2 && found.contains(old), "{compression:?}");
        }
    }

    #[test]
    fn two_sinks_do_not_write_one_file() {
        let folder = Folder::new();
        let path = folder.0.join("a");
        let writers = FileWriters::default();
        let (sink, _) = FileSink::new(json!({"path": "a"}).as_object().expect("an object")).expect("right");
        // Another process has writers of its own.
        for (others, by) in [(writers.clone(), "another sink"), (FileWriters::default(), "another process")] {
            let open = |writers| match Target::open(&path, &sink, writers).expect("it can be opened") {
                Opening::Open(target) => Ok(target),
                Opening::Taken(by) => Err(by),
            };
            let first = open(&writers);
            assert!(first.is_ok());
            assert_eq!(open(&others).err(), Some(by));
            drop(first);
            assert!(open(&others).is_ok());
        }
    }

    #[test]
    fn a_file_of_another_process_is_not_mended() {
        let folder = Folder::new();
        let props = json!({"path": "a", "rollingNamePattern": "suffix"});
        folder.write(props.clone(), SinkFormat::lists(), &[("", "1")]);
        let (name, _) = folder.files().pop().expect("a file");
        let torn = "1\n{\"half\"";
        std::fs::write(folder.0.join(&name), torn).expect("it can be written");
        let other = std::fs::File::open(folder.0.join(&name)).expect("it is there");
        other.lock().expect("it can be locked");
        folder.write(props.clone(), SinkFormat::lists(), &[("", "2")]);
        assert_eq!(text_of(&folder.0.join(&name)), torn);
    }
}
