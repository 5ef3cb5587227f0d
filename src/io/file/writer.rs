//! The thread of a file sink: from messages to files, and again while the disk takes nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use indexmap::IndexMap;

use super::sink::{FileSink, FileWriters, NamePattern};
use super::target::{Opening, Paused, Target, is_writable};
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

/// How many closed files a sink goes on with. Beyond it, the next message for the one that was forgotten begins to count
/// anew.
const PAUSED: usize = 65_536;

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
    /// files that were closed since others were used
    paused: IndexMap<Text, Paused>,
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
        Writer { outbox, sink, files, writers, stopped, open: Vec::new(), paused: IndexMap::new() }
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

    /// Whether the folder of all files is there: if not, no message is to blame.
    fn has_place(&self) -> bool {
        let folder = self.sink.fixed_folder();
        folder.is_empty() || self.files.locate_for_results(Path::new(folder)).is_ok_and(|folder| folder.is_dir())
    }

    fn open_target(&self, name: &Path, paused: Option<&Paused>) -> io::Result<Opening> {
        let path: PathBuf = self.files.locate_for_results(name)?;
        if !is_writable(&path)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        Target::open(&path, &self.sink, &self.writers, paused)
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
        let old: Vec<Text> =
            self.paused.iter().filter(|(_, paused)| paused.is_old(&rolling)).map(|(name, _)| name.clone()).collect();
        for name in old {
            let Some(paused) = self.paused.swap_remove(&name) else { continue };
            // Files that have the time in their names are done as they are.
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
mod tests;
