//! Recordings of feeds: files that store each message with the time of its arrival, its connection, and whether it was
//! text.
//!
//! A recording is lines of JSON, so that it can be searched and cut with the usual tools. The first line identifies it
//! as a recording. A file whose name ends in `.zst` is compressed: a sequence of zstd frames, so that a recording that
//! was cut off is readable up to its last frame. A line or frame that was cut off is the end, with a warning. The
//! metadata of a connection (`meta`) is in its first message.
//!
//! ```text
//! {"plutino":"recording","version":1,"of":"wss://feed.example/ws"}
//! {"at":1760000000123,"connection":1,"text":"{\"price\":120}","meta":{"client":"c1"}}
//! {"at":1760000000125,"connection":2,"binary":"AAEC"}
//! ```
//!
//! This module does not know where messages come from or go to.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use crate::format::compress::Method;
use crate::io::queue::{Frame, Origin};
use crate::text::secret::masked_url;
use crate::value::{Text, Value, json};

/// The start of every recording.
const MARK: &str = "{\"plutino\":\"recording\"";

/// The number of bytes of lines that are compressed together.
const CHUNK: usize = 256 * 1024;

/// The longest line, bytes.
const LONGEST: u64 = 128 << 20;

/// One message of a recording.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// When it arrived, ms since the epoch.
    pub at: i64,
    /// The number of its connection.
    pub connection: u64,
    pub frame: Frame,
    /// The metadata of the connection. [`Reader::read`] returns it with each message; in the file, only the first
    /// message of a connection has it.
    pub origin: Option<Arc<Origin>>,
}

#[derive(Serialize)]
struct Header<'a> {
    plutino: &'static str,
    version: u8,
    of: &'a str,
}

#[derive(Default, Serialize, Deserialize)]
struct Line {
    at: i64,
    #[serde(default)]
    connection: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binary: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    meta: Option<Map<String, Json>>,
}

impl Line {
    /// `None`: rows of memory topics are not messages.
    fn of(message: &Recorded) -> Option<Line> {
        let Recorded { at, connection, frame, origin } = message;
        let meta = origin.as_deref().and_then(members);
        let line = Line { at: *at, connection: *connection, meta, ..Line::default() };
        Some(match frame {
            Frame::Text(text) => Line { text: Some(text.as_str().to_owned()), ..line },
            Frame::Binary(bytes) => Line { binary: Some(BASE64_STANDARD.encode(bytes)), ..line },
            Frame::Row(_) => return None,
        })
    }

    fn message(self) -> Result<Recorded, String> {
        let frame = match (self.text, self.binary) {
            (Some(text), None) => Frame::Text(text.into()),
            (None, Some(binary)) => {
                Frame::Binary(Bytes::from(BASE64_STANDARD.decode(binary).map_err(|error| error.to_string())?))
            }
            _ => return Err("a message has either text or binary".to_owned()),
        };
        let meta = self.meta.and_then(|meta| json::parse(&Json::Object(meta).to_string()).ok());
        let origin = meta.map(|meta| Arc::new(Origin { meta }));
        Ok(Recorded { at: self.at, connection: self.connection, frame, origin })
    }
}

/// The metadata of a connection, as JSON.
fn members(origin: &Origin) -> Option<Map<String, Json>> {
    let mut text = Vec::new();
    json::write_value(&mut text, &origin.meta).ok()?;
    serde_json::from_slice(&text).ok()
}

/// A message as a line of a recording, without the line end; empty for a row.
pub fn line(message: &Recorded) -> String {
    Line::of(message).and_then(|line| serde_json::to_string(&line).ok()).unwrap_or_default()
}

/// Parses a message from a line of a recording; `None`: it is invalid.
pub fn message(line: &str) -> Option<Recorded> {
    serde_json::from_str::<Line>(line).ok()?.message().ok()
}

/// Writes a recording.
pub struct Writer {
    out: Box<dyn Write + Send>,
    compresses: bool,
    /// Lines that wait for compression.
    waiting: Vec<u8>,
}

impl Writer {
    /// Starts a recording of `of` in a new file. Secrets in `of` are masked.
    ///
    /// # Errors
    /// [`io::Error`] if the file exists already, unless it is a pipe or device, or cannot be written.
    pub fn create(path: &Path, of: &str) -> io::Result<Writer> {
        let file = match File::create_new(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !path.is_file() => File::create(path)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(io::Error::new(error.kind(), "it exists already: name another file, or remove it"));
            }
            file => file?,
        };
        let out = BufWriter::new(file);
        let mut writer = Writer { out: Box::new(out), compresses: is_zstd(path), waiting: Vec::new() };
        writer.line(&Header { plutino: "recording", version: 1, of: &masked_url(of) })?;
        Ok(writer)
    }

    /// Adds a message.
    ///
    /// # Errors
    /// [`io::Error`]
    pub fn add(&mut self, message: &Recorded) -> io::Result<()> {
        match Line::of(message) {
            Some(line) => self.line(&line),
            None => Ok(()),
        }
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.waiting, line)?;
        self.waiting.push(b'\n');
        if self.waiting.len() >= CHUNK { self.hand_over() } else { Ok(()) }
    }

    /// Writes the waiting lines.
    ///
    /// # Errors
    /// [`io::Error`]
    pub fn flush(&mut self) -> io::Result<()> {
        self.hand_over()?;
        self.out.flush()
    }

    fn hand_over(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        match self.compresses {
            true => self.out.write_all(&Method::Zstd.pack(&self.waiting).map_err(io::Error::other)?)?,
            false => self.out.write_all(&self.waiting)?,
        }
        self.waiting.clear();
        Ok(())
    }
}

/// Reads a recording message by message.
pub struct Reader {
    input: Box<dyn BufRead + Send>,
    line: Vec<u8>,
    number: u64,
    /// The metadata of each connection.
    origins: HashMap<u64, Arc<Origin>>,
    /// Whether the recording is incomplete.
    torn: bool,
}

impl Reader {
    /// Opens a recording; `None` if the file is not one.
    ///
    /// # Errors
    /// [`io::Error`] if the file cannot be read.
    pub fn open(path: &Path) -> io::Result<Option<Reader>> {
        let file = BufReader::new(File::open(path)?);
        let input: Box<dyn BufRead + Send> = match is_zstd(path) {
            true => Box::new(BufReader::new(Frames::new(file))),
            false => Box::new(file),
        };
        let mut reader = Reader { input, line: Vec::new(), number: 0, origins: HashMap::new(), torn: false };
        // Reads only enough to recognise a recording: another file may have no line break at all.
        let mut begin = Vec::new();
        (&mut reader.input).take(MARK.len() as u64).read_to_end(&mut begin)?;
        if begin != MARK.as_bytes() {
            return Ok(None);
        }
        reader.next_line()?;
        Ok(Some(reader))
    }

    /// The next message; `None` at the end, also if the recording is incomplete.
    ///
    /// # Errors
    /// [`io::Error`], also for an invalid line.
    pub fn read(&mut self) -> io::Result<Option<Recorded>> {
        loop {
            if !self.next_line()? {
                return Ok(None);
            }
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            let line: Line = match serde_json::from_slice(&self.line) {
                Ok(line) => line,
                Err(_) if !self.line.ends_with(b"\n") => {
                    self.tear();
                    return Ok(None);
                }
                Err(error) => return Err(self.wrong(&error)),
            };
            let mut message = line.message().map_err(|why| self.wrong(&why))?;
            message.origin = Some(self.origin(message.connection, message.origin));
            return Ok(Some(message));
        }
    }

    /// The metadata of a connection, updated by that of its message. In a recording without metadata, it is the number
    /// of the connection.
    fn origin(&mut self, connection: u64, own: Option<Arc<Origin>>) -> Arc<Origin> {
        if let Some(own) = own {
            self.origins.insert(connection, own);
        }
        let numbered = || {
            let name = Value::Text(Text::from(connection.to_string()));
            Arc::new(Origin { meta: Value::object([(Text::const_new("client"), name)]) })
        };
        self.origins.entry(connection).or_insert_with(numbered).clone()
    }

    fn next_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        self.number += 1;
        if self.torn {
            return Ok(false);
        }
        let read = match (&mut self.input).take(LONGEST).read_until(b'\n', &mut self.line) {
            Ok(read) => read as u64,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.tear();
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        if read == LONGEST {
            return Err(self.wrong(&format!("it is longer than {LONGEST} bytes")));
        }
        Ok(read > 0)
    }

    fn tear(&mut self) {
        self.torn = true;
        tracing::warn!("the recording was cut off in line {}, which is left out", self.number);
    }

    fn wrong(&self, why: &dyn std::fmt::Display) -> io::Error {
        let message = format!("line {} of the recording cannot be read: {why}", self.number);
        io::Error::new(io::ErrorKind::InvalidData, message)
    }
}

/// Whether a file is compressed, by its name.
fn is_zstd(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zst"))
}

/// Decompresses a sequence of zstd frames. An incomplete frame gives [`io::ErrorKind::UnexpectedEof`].
struct Frames<R: BufRead> {
    /// Set between two frames.
    source: Option<Ending<R>>,
    /// Set inside a frame.
    decoder: Option<StreamingDecoder<Ending<R>, FrameDecoder>>,
    ended: Arc<AtomicBool>,
}

impl<R: BufRead> Frames<R> {
    fn new(source: R) -> Frames<R> {
        let ended = Arc::new(AtomicBool::new(false));
        Frames { source: Some(Ending { source, ended: ended.clone() }), decoder: None, ended }
    }

    /// The decoder's error: it needed more bytes than there are, or found invalid ones.
    fn failed(&self, error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
        match self.ended.load(Ordering::Relaxed) {
            true => io::Error::new(io::ErrorKind::UnexpectedEof, "it was cut off"),
            false => io::Error::other(error),
        }
    }
}

/// A source that records when it has ended.
struct Ending<R> {
    source: R,
    ended: Arc<AtomicBool>,
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        if read == 0 && !buffer.is_empty() {
            self.ended.store(true, Ordering::Relaxed);
        }
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Ending<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.source.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.source.consume(amount);
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(decoder) = &mut self.decoder {
                let read = match decoder.read(buffer) {
                    Ok(read) => read,
                    Err(error) => return Err(self.failed(error)),
                };
                if read > 0 {
                    return Ok(read);
                }
                self.source = self.decoder.take().map(StreamingDecoder::into_inner);
            }
            let Some(source) = &mut self.source else { return Ok(0) };
            if source.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let Some(source) = self.source.take() else { return Ok(0) };
            self.decoder = Some(StreamingDecoder::new(source).map_err(|error| self.failed(error))?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for name in ["plain.ndjson", "packed.ndjson.zst"] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join(name);
            let frames = [Frame::Text("{\"a\":\n1}".into()), Frame::Binary(Bytes::from_static(&[0, 255]))];
            let mut writer = Writer::create(&path, "ws://x").expect("it can be written");
            for number in 0..1000u64 {
                let frame = frames[number as usize % 2].clone();
                let meta = Value::object([(Text::const_new("client"), Value::from(format!("c{number}").as_str()))]);
                let origin = (number % 3 == 0).then(|| Arc::new(Origin { meta }));
                writer
                    .add(&Recorded { at: number as i64, connection: number / 2, frame, origin })
                    .expect("it is added");
                if number % 300 == 0 {
                    writer.flush().expect("it is written");
                }
            }
            writer.flush().expect("it is written");
            let mut reader = Reader::open(&path).expect("it can be read").expect("it is a recording");
            for number in 0..1000u64 {
                let message = reader.read().expect("it can be read").expect("there is one");
                let expected = &frames[number as usize % 2];
                let is_text = matches!((&message.frame, expected), (Frame::Text(_), Frame::Text(_)));
                assert_eq!((message.at, message.connection), (number as i64, number / 2));
                // A message without metadata has that of the previous message on its connection.
                let expected_client = match number {
                    _ if number % 3 == 0 => format!("c{number}"),
                    _ if number % 2 == 1 && number % 3 == 1 => format!("c{}", number - 1),
                    _ => (number / 2).to_string(),
                };
                let meta = members(&message.origin.expect("it is known")).expect("an object");
                assert_eq!(meta["client"], expected_client);
                assert_eq!((message.frame.bytes(), is_text), (expected.bytes(), number % 2 == 0));
            }
            assert!(reader.read().expect("it ends").is_none());
        }
    }

    #[test]
    fn a_recording_that_was_cut_off_ends_there() {
        for name in ["plain.ndjson", "packed.ndjson.zst"] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join(name);
            let mut writer = Writer::create(&path, "ws://user:word@x/?token=t0").expect("it can be written");
            assert!(Writer::create(&path, "").is_err_and(|error| error.to_string().contains("exists already")));
            for number in 0..10i64 {
                let frame = Frame::Text(format!("{{\"a\":{number}}}").into());
                writer.add(&Recorded { at: number, connection: 1, frame, origin: None }).expect("it is added");
                writer.flush().expect("it is written");
            }
            let whole = std::fs::read(&path).expect("it is there");
            let of = String::from_utf8_lossy(&whole);
            assert!(!of.contains("word") && !of.contains("t0"), "{of}");
            let mut most = 0;
            for cut in whole.len() / 2..whole.len() {
                std::fs::write(&path, &whole[..cut]).expect("it can be written");
                let mut reader = Reader::open(&path).expect("it can be read").expect("it is a recording");
                let mut messages = 0;
                while let Some(message) = reader.read().expect("it can be read") {
                    assert_eq!(message.at, messages);
                    messages += 1;
                }
                assert!(messages >= most && reader.read().is_ok_and(|message| message.is_none()), "{cut}");
                most = messages;
            }
            assert!(most >= 9, "{most}");
        }
    }

    #[test]
    fn other_files_are_no_recordings() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("other");
        for (text, message) in [
            ("", None),
            ("{\"a\":1}\n", None),
            (
                "{\"plutino\":\"recording\",\"version\":1}\n{\"at\":1}\n",
                Some("line 2 of the recording cannot be read: a message"),
            ),
            (
                "{\"plutino\":\"recording\",\"version\":1}\n\nx\n",
                Some("line 3 of the recording cannot be read: expected value"),
            ),
        ] {
            std::fs::write(&path, text).expect("it can be written");
            let found = Reader::open(&path).expect("it can be read").map(|mut reader| reader.read().err());
            let found = found.map(|error| error.expect("it is wrong").to_string());
            assert_eq!(found.is_some(), message.is_some(), "{text}");
            assert!(found.unwrap_or_default().starts_with(message.unwrap_or_default()), "{text}");
        }
    }
}
