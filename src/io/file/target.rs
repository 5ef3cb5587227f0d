//! One file of a sink: opened, repaired after a kill, appended to, and ended.
//!
//! Messages wait in memory until [`Target::flush`]; then they are in the file as a whole or not at all. An uncompressed
//! file can be read at any time: a JSON list ends with its bracket after each flush. A compressed file is a sequence of
//! members, one for each flush, as gzip and zstd allow.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::mend;
use super::sink::{Claim, FileSink, FileType, FileWriters, NamePattern, Rolling};
use crate::format::compress::Method;
use crate::io::lock::{open_locked, try_lock};
use crate::io::log::add_line;

/// The result of opening a file.
pub(super) enum Opening {
    Open(Target),
    /// another writer, named by this text, is writing it
    Taken(&'static str),
}

/// Other writers, for errors.
const SINK: &str = "another sink";
const PROCESS: &str = "another process";

pub(super) struct Target {
    file: File,
    /// its current path
    path: PathBuf,
    /// its path without the time of its start
    name: PathBuf,
    _claim: Claim,
    began: Instant,
    /// the time of its start, ms since the epoch
    stamp: u128,
    form: Form,
    /// complete bytes in the file
    length: u64,
    /// bytes that the next flush adds
    waiting: Vec<u8>,
    /// messages in the file, and those that wait
    messages: u64,
}

/// A file that was closed before it was full or too old: the next message for it is appended.
#[derive(Debug)]
pub(super) struct Paused {
    path: PathBuf,
    began: Instant,
    stamp: u128,
    messages: u64,
}

impl Paused {
    /// Whether it is older than files may be.
    pub fn is_old(&self, rolling: &Rolling) -> bool {
        is_old(self.began, rolling)
    }
}

fn is_old(began: Instant, rolling: &Rolling) -> bool {
    rolling.interval.is_some_and(|age| began.elapsed() >= age)
}

/// How messages are written to a file.
#[derive(Clone, Copy, Debug)]
struct Form {
    file_type: FileType,
    compression: Option<Method>,
    header: bool,
    one_line: bool,
}

impl Target {
    /// Opens the file for `path`, which is below the allowed folders, and locks it, so that other processes do not
    /// write it. `paused`: the file that was used for this path before.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(path: &Path, sink: &FileSink, writers: &FileWriters, paused: Option<&Paused>) -> io::Result<Opening> {
        let Some(claim) = writers.claim(path) else { return Ok(Opening::Taken(SINK)) };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let form = Form {
            file_type: sink.file_type,
            compression: sink.compression,
            header: sink.header,
            one_line: sink.one_line,
        };
        let stamp = now();
        let named = sink.rolling.pattern != NamePattern::None;
        let resumed = match paused {
            // The file may have been removed meanwhile.
            Some(paused) if paused.path.try_exists()? => match open_locked(&paused.path, &options())? {
                Some(file) => Some((paused.path.clone(), file)),
                None => return Ok(Opening::Taken(PROCESS)),
            },
            _ => None,
        };
        let goes_on = paused.filter(|_| resumed.is_some());
        let opened = match resumed {
            Some(resumed) => Some(resumed),
            None if named => {
                // The last file may be torn. If another process has locked it, it is in use.
                if let Some(last) = newest(path, sink.rolling.pattern)?
                    && let Some(mut last) = open_locked(&last, &options())?
                {
                    form.mend(&mut last)?;
                }
                Some(fresh(path, sink.rolling.pattern, stamp)?)
            }
            None => open_locked(path, options().create(true))?.map(|file| (path.to_owned(), file)),
        };
        let Some((at, mut file)) = opened else { return Ok(Opening::Taken(PROCESS)) };
        // A compressed list cannot be continued.
        let packed_list = form.compression.is_some() && form.file_type == FileType::Json;
        let length = match form.mend(&mut file)? {
            Some(length) if length == 0 || !packed_list => length,
            known => {
                if known.is_none() {
                    tracing::warn!(file = %path.display(), "a file that cannot be appended to is renamed");
                }
                set_aside(path, stamp)?;
                match open_locked(path, options().create(true))? {
                    Some(new) => file = new,
                    None => return Ok(Opening::Taken(PROCESS)),
                }
                0
            }
        };
        let goes_on = goes_on.filter(|_| length > 0);
        Ok(Opening::Open(Target {
            file,
            path: at,
            name: path.to_owned(),
            _claim: claim,
            began: goes_on.map_or_else(Instant::now, |paused| paused.began),
            stamp: goes_on.map_or(stamp, |paused| paused.stamp),
            form,
            length,
            waiting: Vec::new(),
            messages: goes_on.map_or(0, |paused| paused.messages),
        }))
    }

    /// Whether a message of this size needs a new file.
    pub fn is_full(&self, rolling: &Rolling, bytes: usize) -> bool {
        // Plus the byte that ends or separates messages.
        let size = self.length + (self.waiting.len() + bytes + 1) as u64;
        (rolling.count > 0 && self.messages >= rolling.count)
            || (rolling.size > 0 && size > rolling.size && self.messages > 0)
            || self.is_old(rolling)
    }

    /// Whether it is older than files may be.
    pub fn is_old(&self, rolling: &Rolling) -> bool {
        is_old(self.began, rolling)
    }

    /// The time until it is too old.
    pub fn time_left(&self, rolling: &Rolling) -> Option<Duration> {
        rolling.interval.map(|age| age.saturating_sub(self.began.elapsed()))
    }

    /// Adds a message for the next flush.
    pub fn add(&mut self, message: &[u8]) {
        let first = self.length == 0 && self.waiting.is_empty();
        self.messages += 1;
        match self.form.file_type {
            FileType::Json => {
                self.waiting.push(if first { b'[' } else { b',' });
                // A repaired list may be empty: then no element precedes this one.
                if self.length == 1 && self.waiting.len() == 1 {
                    self.waiting.clear();
                }
                self.waiting.extend_from_slice(message);
            }
            FileType::Lines | FileType::Csv => {
                let message = match self.form.header && !first {
                    true => message.iter().position(|&byte| byte == b'\n').map_or(&[][..], |end| &message[end + 1..]),
                    false => message,
                };
                if self.form.one_line {
                    add_line(&mut self.waiting, message);
                } else if !message.is_empty() || !self.form.header {
                    self.waiting.extend_from_slice(message);
                    self.waiting.push(b'\n');
                }
            }
        }
    }

    /// The number of bytes that wait for a flush.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Writes the waiting bytes.
    ///
    /// # Errors
    /// Those of the system; then the file is unchanged, and a later flush may succeed.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let packed = match self.form.compression {
            Some(method) => Some(method.pack(&self.waiting).map_err(io::Error::other)?),
            None => None,
        };
        let bytes = packed.as_deref().unwrap_or(&self.waiting);
        self.file.seek(SeekFrom::Start(self.length))?;
        let ends = self.form.file_type == FileType::Json && self.form.compression.is_none();
        let written = self.file.write_all(bytes).and_then(|()| if ends { self.file.write_all(b"]") } else { Ok(()) });
        if let Err(error) = written {
            // There may be room later; until then, the file must stay complete.
            self.file.set_len(self.length)?;
            if ends && self.length > 0 {
                let _ = self.file.seek(SeekFrom::Start(self.length)).and_then(|_| self.file.write_all(b"]"));
            }
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// Closes the file, to which everything has been flushed. Returns what a later [`Target::open`] needs to append to
    /// it; `None` if the file cannot be continued, or is empty.
    ///
    /// # Errors
    /// Those of the system.
    pub fn pause(self, pattern: NamePattern) -> io::Result<Option<Paused>> {
        if self.form.compression.is_some() && self.form.file_type == FileType::Json {
            self.end(pattern, false)?;
            return Ok(None);
        }
        let Target { path, began, stamp, messages, length, .. } = self;
        Ok((length > 0).then_some(Paused { path, began, stamp, messages }))
    }

    /// Ends the file, after everything is flushed. `rolls`: a new file follows.
    ///
    /// # Errors
    /// Those of the system.
    pub fn end(mut self, pattern: NamePattern, rolls: bool) -> io::Result<()> {
        if let (Some(method), FileType::Json) = (self.form.compression, self.form.file_type) {
            let end = if self.length == 0 { b"[]".as_slice() } else { b"]" };
            self.file.seek(SeekFrom::Start(self.length))?;
            self.file.write_all(&method.pack(end).map_err(io::Error::other)?)?;
        }
        self.file.sync_data()?;
        if rolls && pattern == NamePattern::None && self.messages > 0 {
            set_aside(&self.name, self.stamp)?;
        }
        Ok(())
    }

    /// Discards the waiting bytes.
    pub fn discard(&mut self) {
        self.waiting.clear();
    }

    /// The file's current path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Form {
    /// Cuts off a torn end, and returns the remaining length. `None`: the file is of another kind, or is damaged before
    /// its end; then it is unchanged.
    fn mend(self, file: &mut File) -> io::Result<Option<u64>> {
        let length = file.metadata()?.len();
        if length == 0 {
            return Ok(Some(0));
        }
        if let Some(method) = self.compression {
            let Some(whole) = mend::members(file, method)? else { return Ok(None) };
            if whole < length {
                file.set_len(whole)?;
                if self.file_type == FileType::Json && whole > 0 {
                    // The end of the list is missing, so it is added for reading.
                    let end = method.pack(b"]").map_err(io::Error::other)?;
                    file.seek(SeekFrom::Start(whole))?;
                    file.write_all(&end)?;
                    return Ok(Some(whole + end.len() as u64));
                }
            }
            return Ok(Some(whole));
        }
        if mend::is_packed(file)? {
            return Ok(None);
        }
        if self.file_type == FileType::Json {
            let bad = || io::Error::new(io::ErrorKind::InvalidData, "it contains something other than a JSON list");
            let whole = mend::list(file)?.ok_or_else(bad)?;
            file.set_len(whole)?;
            file.seek(SeekFrom::Start(whole))?;
            file.write_all(b"]")?;
            return Ok(Some(whole));
        }
        let (whole, unended) = mend::lines(file, self.one_line)?;
        if length - whole > mend::LONGEST_LINE {
            return Ok(None);
        }
        if whole < length {
            file.set_len(whole)?;
        }
        if !unended {
            return Ok(Some(whole));
        }
        file.seek(SeekFrom::Start(whole))?;
        file.write_all(b"\n")?;
        Ok(Some(whole + 1))
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    // Does not wait for a pipe or device, which cannot hold results.
    options.read(true).write(true).mode(0o640).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    options
}

fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
}

/// The path of a file that began at `stamp`.
fn stamped(path: &Path, pattern: NamePattern, stamp: u128) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map(|extension| format!(".{}", extension.to_string_lossy())).unwrap_or_default();
    path.with_file_name(match pattern {
        NamePattern::Prefix => format!("{stamp}-{name}"),
        NamePattern::None | NamePattern::Suffix => format!("{stem}-{stamp}{extension}"),
    })
}

/// A new file with the time in its name.
fn fresh(path: &Path, pattern: NamePattern, stamp: u128) -> io::Result<(PathBuf, File)> {
    let mut stamp = stamp;
    loop {
        let at = stamped(path, pattern, stamp);
        match options().create_new(true).open(&at) {
            Ok(file) if try_lock(&file)? => return Ok((at, file)),
            Ok(_) => stamp += 1,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => stamp += 1,
            Err(error) => return Err(error),
        }
    }
}

/// Renames a finished file.
fn set_aside(path: &Path, stamp: u128) -> io::Result<()> {
    let mut stamp = stamp;
    while stamped(path, NamePattern::Suffix, stamp).try_exists()? {
        stamp += 1;
    }
    fs::rename(path, stamped(path, NamePattern::Suffix, stamp))
}

/// The last file made for this path, by the time in its name.
fn newest(path: &Path, pattern: NamePattern) -> io::Result<Option<PathBuf>> {
    const MARK: u128 = 0;
    let marked = stamped(path, pattern, MARK);
    let marked = marked.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // The parts of the name before and after the time.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (before, behind) = match pattern {
        NamePattern::Prefix => (String::new(), format!("-{name}")),
        _ => {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let before = format!("{stem}-");
            let behind = marked[before.len() + 1..].to_owned();
            (before, behind)
        }
    };
    let Some(folder) = path.parent() else { return Ok(None) };
    let mut newest: Option<(u128, PathBuf)> = None;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = entry.file_name().to_string_lossy().into_owned();
        let stamp = found.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(behind.as_str()));
        let Some(stamp) = stamp.and_then(|stamp| stamp.parse().ok()) else { continue };
        if entry.file_type()?.is_file() && newest.as_ref().is_none_or(|(known, _)| stamp > *known) {
            newest = Some((stamp, entry.path()));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Whether results can be written to a path: it is a regular file, or nothing yet.
pub(super) fn is_writable(path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.is_file()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}
