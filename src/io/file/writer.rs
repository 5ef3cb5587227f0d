//! The thread of a file sink: writes messages to files, and tries again while the disk is full.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use indexmap::IndexMap;

use super::sink::{FileSink, FileWriters, NamePattern};
use super::target::{Opening, Paused, Target, is_writable};
use crate::io::outbox::{Outbox, Taken, Waited};
use crate::io::reach::{FileRoots, is_outside};
use crate::value::Text;

/// How often the thread checks the age of its files.
const TICK: Duration = Duration::from_secs(1);

/// How long messages of a compressed file wait for more, so that members do not get too small.
const LINGER: Duration = Duration::from_secs(1);

/// The number of bytes written at a time, and gathered for a member.
const CHUNK: usize = 256 * 1024;

/// The wait before the next attempt with a file.
const RETRY: Duration = Duration::from_millis(500);

/// The most files that a sink with templates has open. Beyond it, the least recently used one is closed.
const OPEN: usize = 64;

/// How many closed files a sink can continue. Beyond it, the oldest one is forgotten: its messages are counted from 0
/// again.
const PAUSED: usize = 65_536;

/// The cause of losing messages whose path is not allowed.
const OUTSIDE: &str = "path not allowed";
const INVALID: &str = "invalid path";
const TAKEN: &str = "file of another sink";
const REFUSED: &str = "file not writable";

/// Writes the messages of one sink to its files.
pub(super) struct Writer {
    outbox: Arc<Outbox>,
    sink: FileSink,
    files: FileRoots,
    writers: FileWriters,
    stopped: Receiver<()>,
    /// the most recently used one is last
    open: Vec<(Text, Target)>,
    /// files that were closed to make room for others
    paused: IndexMap<Text, Paused>,
}

/// The sink is closed: messages in hand are dropped.
struct Stopped;

/// A message in hand: its batch and its position there.
type Place = (usize, usize);

impl Writer {
    pub fn new(
        outbox: Arc<Outbox>,
        sink: FileSink,
        files: FileRoots,
        writers: FileWriters,
        stopped: Receiver<()>,
    ) -> Writer {
        Writer { outbox, sink, files, writers, stopped, open: Vec::new(), paused: IndexMap::new() }
    }

    /// Writes until the outbox is closed and empty, or the sink is stopped.
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

    /// The waiting messages, and whether there will be no more.
    fn gather(&self) -> (Vec<Taken>, bool) {
        let mut batches: Vec<Taken> = Vec::new();
        let (mut bytes, mut messages, mut until) = (0, 0, None);
        loop {
            let wait = match until {
                // Waits until the next file is due, if one is open.
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
            // Most of the queue stays in the outbox, which can drop its oldest messages.
            if bytes >= CHUNK || messages >= 4 * self.outbox.portion() {
                return (batches, false);
            }
        }
    }

    fn write(&mut self, batches: &[Taken]) -> Result<(), Stopped> {
        // Messages in the memory of a target.
        let mut added: Vec<Place> = Vec::new();
        let mut current: Option<Text> = None;
        for (batch, taken) in batches.iter().enumerate() {
            for index in 0..taken.len() {
                if self.is_stopped() {
                    // Written messages count as delivered, the others as lost.
                    self.flush(current, batches, &mut added)?;
                    return Err(Stopped);
                }
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

    /// Flushes the current file, and repeats this until it succeeds.
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

    /// Makes the file with this name the current one. Returns the cause if its messages are lost. If messages determine
    /// their files, one that cannot be opened does not hold up the others.
    fn have(&mut self, name: &Text) -> Result<Option<&'static str>, Stopped> {
        if let Some(at) = self.open.iter().position(|(known, _)| known == name) {
            let used = self.open.remove(at);
            self.open.push(used);
            return Ok(None);
        }
        if !self.sink.stays(name) {
            self.outbox.fails(&format!("{name} leaves the folder of the path's template, or is too deep in it"), false);
            return Ok(Some(INVALID));
        }
        if self.open.len() >= OPEN {
            let (name, target) = self.open.remove(0);
            self.pause(name, target);
        }
        loop {
            match self.open_target(Path::new(name.as_str()), self.paused.get(name)) {
                Ok(Opening::Open(target)) => {
                    self.paused.swap_remove(name);
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

    /// Whether the folder of all files exists: if it does not, the messages are not the cause.
    fn has_place(&self) -> bool {
        let folder = self.sink.fixed_folder();
        folder.is_empty() || self.files.locate_for_results(Path::new(folder)).is_ok_and(|folder| folder.is_dir())
    }

    fn open_target(&self, name: &Path, paused: Option<&Paused>) -> io::Result<Opening> {
        let path: PathBuf = self.files.locate_for_results(name)?;
        if !is_writable(&path)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        self.files.make_data_folder_of(&path)?;
        Target::open(&path, &self.sink, &self.writers, paused)
    }

    /// Ends the current file: a new one begins with the next message.
    fn roll(&mut self) {
        if let Some((_, target)) = self.open.pop() {
            self.end(target, true);
        }
    }

    /// Ends files that are too old. All messages are flushed before.
    fn end_old(&mut self) {
        let rolling = self.sink.rolling;
        for (_, target) in self.open.extract_if(.., |(_, target)| target.is_old(&rolling)).collect::<Vec<_>>() {
            self.end(target, true);
        }
        let old: Vec<Text> =
            self.paused.iter().filter(|(_, paused)| paused.is_old(&rolling)).map(|(name, _)| name.clone()).collect();
        for name in old {
            let Some(paused) = self.paused.swap_remove(&name) else { continue };
            // Files with the time in their names need no renaming.
            if rolling.pattern != NamePattern::None {
                continue;
            }
            match self.open_target(Path::new(name.as_str()), Some(&paused)) {
                Ok(Opening::Open(target)) => self.end(target, true),
                Ok(Opening::Taken(_)) => {}
                Err(error) => self.outbox.fails(&format!("cannot rename {name}: {error}"), false),
            }
        }
    }

    /// Closes a file that is neither full nor old.
    fn pause(&mut self, name: Text, target: Target) {
        match target.pause(self.sink.rolling.pattern) {
            Ok(Some(paused)) => {
                if self.paused.len() >= PAUSED {
                    self.paused.swap_remove_index(0);
                }
                self.paused.insert(name, paused);
            }
            Ok(None) => {}
            Err(error) => self.outbox.fails(&format!("cannot close a file: {error}"), false),
        }
    }

    fn end(&self, target: Target, rolls: bool) {
        if let Err(error) = target.end(self.sink.rolling.pattern, rolls) {
            self.outbox.fails(&format!("cannot close a file: {error}"), false);
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.try_recv() != Err(TryRecvError::Empty)
    }

    /// Reports an error, and waits for the next attempt.
    fn fails(&self, error: &str) -> Result<(), Stopped> {
        self.outbox.fails(error, true);
        match self.stopped.recv_timeout(RETRY) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(Stopped),
        }
    }
}

/// Whether an error comes from the disk or the process and not from one file, so that it may pass.
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
mod tests;
