//! The log of one sink on disk: records of messages in segments, appended to at the end, forgotten from the front.
//!
//! When the log is opened, an incomplete end is moved to a file with the ending `.torn`. A record that is damaged, or that
//! the disk does not give back, costs the rest of its segment, which is counted; the file is kept with the ending
//! `.damaged`. Both files are for those who want to save more of it. Another file beside the segments says up to where
//! messages are done; it is written seldom, so some messages may be sent again after a kill. A lock keeps other processes
//! out.
//!
//! Existing crates for commit logs are databases, unmaintained, or keep no bound on their size.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::record::{self, Lot, Unreadable};
use crate::io::lock::open_locked;

/// A segment of this size is followed by another one, bytes.
const SEGMENT: u64 = 8 << 20;

/// A finished last segment is removed from this size on, bytes; a smaller one is used further.
const WORN: u64 = 1 << 20;

/// The file that says how far messages are done with.
const DONE: &str = "done";

/// The file that is locked while somebody has the log.
const LOCK: &str = "lock";

/// See the module.
pub(super) struct Log {
    folder: PathBuf,
    /// the oldest first
    segments: VecDeque<Segment>,
    done_file: File,
    /// messages below are done with
    done: u64,
    /// the number of the next message
    next: u64,
    reader: Option<Reader>,
    /// what was written since it was last synced: segments, and the folder if there is a new one
    unsynced: Vec<PathBuf>,
    _lock: File,
}

struct Segment {
    /// the number of its first message
    first: u64,
    path: PathBuf,
    length: u64,
    /// a part cannot be read: nothing is appended, and the file is kept when its messages are done with
    damaged: bool,
}

/// Where reading goes on.
struct Reader {
    /// the first message of its segment
    segment: u64,
    input: BufReader<File>,
    /// the message that comes next
    next: u64,
}

/// What was read.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub lots: Vec<Lot>,
    /// messages that damaged records have cost
    pub damaged: u64,
}

/// Locks the log of a folder, which must exist; `None` while somebody has it.
///
/// # Errors
/// Those of the system.
pub(super) fn lock(folder: &Path) -> io::Result<Option<File>> {
    open_locked(&folder.join(LOCK), options().create(true))
}

impl Log {
    /// Opens the log in a folder, which need not exist; `None` while somebody else has it.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(folder: &Path) -> io::Result<Option<Log>> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let Some(lock) = lock(folder)? else { return Ok(None) };
        let done_file = options().create(true).open(folder.join(DONE))?;
        let done = read_done(&done_file);
        let mut segments: Vec<Segment> = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
            if let Some(first) = number.and_then(|number| u64::from_str_radix(number, 16).ok()) {
                let length = entry.metadata()?.len();
                segments.push(Segment { first, path: entry.path(), length, damaged: false });
            }
        }
        segments.sort_by_key(|segment| segment.first);
        // Segments before the first one were removed because they were done with.
        let done = segments.first().map_or(done, |segment| done.max(segment.first));
        let mut log = Log {
            folder: folder.to_owned(),
            segments: segments.into(),
            done_file,
            done,
            next: done,
            reader: None,
            unsynced: Vec::new(),
            _lock: lock,
        };
        log.mend()?;
        log.forget(done)?;
        if log.next <= done {
            for segment in log.segments.drain(..) {
                segment.leave()?;
            }
        }
        Ok(Some(log))
    }

    /// Moves away what is torn at the end, and finds the number of the next message.
    fn mend(&mut self) -> io::Result<()> {
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        let mut input = BufReader::new(File::open(&last.path)?);
        let (mut whole, mut next) = (0, last.first);
        let wrong = loop {
            match record::read(&mut input) {
                Ok(Some((lot, size))) => (whole, next) = (whole + size, lot.end()),
                Ok(None) => break None,
                Err(wrong) => break Some(wrong),
            }
        };
        match wrong {
            None => {}
            Some(wrong) if wrong.may_pass() => return Err(wrong.into()),
            // What was never whole is not counted.
            Some(Unreadable::Torn) if last.cut(whole, next).is_ok() => {}
            Some(wrong) => {
                last.spoil(&wrong);
                // What the disk does not give back says nothing: one message is counted.
                next = record::end_of_damage(&last.bytes_from(whole).unwrap_or_default(), next);
            }
        }
        self.next = self.next.max(next);
        Ok(())
    }

    /// Messages from here on are not done with.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The number of the next message.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Appends lots, in their order.
    ///
    /// # Errors
    /// Those of the system. How many of the lots are in the log stands beside the error; the others are not in it.
    pub fn append(&mut self, lots: &[Lot]) -> Result<(), (usize, io::Error)> {
        let mut appended = 0;
        while appended < lots.len() {
            let (bytes, count) = records(&lots[appended..]);
            self.write(lots[appended].first, &bytes).map_err(|error| (appended, error))?;
            appended += count;
            self.next = self.next.max(lots[appended - 1].end());
        }
        Ok(())
    }

    fn write(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        if self.segments.back().is_none_or(|last| last.length >= SEGMENT || last.damaged) {
            let path = self.folder.join(format!("{first:016x}.seg"));
            options().create(true).truncate(true).open(&path)?;
            self.segments.push_back(Segment { first, path, length: 0, damaged: false });
            note(&mut self.unsynced, &self.folder);
        }
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        let file = options().open(&last.path)?;
        if let Err(error) = file.write_all_at(bytes, last.length) {
            // Room may come later; what is there stays whole.
            file.set_len(last.length)?;
            return Err(error);
        }
        last.length += bytes.len() as u64;
        note(&mut self.unsynced, &last.path);
        Ok(())
    }

    /// Reads from message `from` on, at least one lot where there is one, up to about `most` messages.
    ///
    /// # Errors
    /// Those of the system that may pass.
    pub fn read(&mut self, from: u64, most: usize) -> io::Result<Page> {
        let mut page = Page::default();
        let mut messages = 0;
        let mut from = from;
        while messages < most && from < self.next {
            let Some(at) = self.segments.iter().rposition(|segment| segment.first <= from).or(
                // What is before the first segment is gone.
                (!self.segments.is_empty()).then_some(0),
            ) else {
                break;
            };
            let segment = &self.segments[at];
            let end = self.segments.get(at + 1).map_or(self.next, |next| next.first);
            let known = self.reader.take().filter(|reader| reader.segment == segment.first && reader.next == from);
            let mut reader = match known {
                Some(reader) => reader,
                None => Reader {
                    segment: segment.first,
                    input: BufReader::new(File::open(&segment.path)?),
                    next: segment.first,
                },
            };
            match read_from(&mut reader, from) {
                Ok(Some(lot)) => {
                    messages += lot.batch.len();
                    from = lot.end();
                    page.lots.push(lot);
                    self.reader = Some(reader);
                }
                Ok(None) => from = end.max(from + 1),
                Err(wrong) if wrong.may_pass() => return Err(wrong.into()),
                Err(wrong) => {
                    self.segments[at].spoil(&wrong);
                    page.damaged += end.saturating_sub(from);
                    from = end.max(from + 1);
                }
            }
        }
        Ok(page)
    }

    /// Messages below `done` are done with: segments without others are removed.
    ///
    /// # Errors
    /// Those of the system.
    pub fn forget(&mut self, done: u64) -> io::Result<()> {
        if done > self.done {
            let mut text = done.to_le_bytes().to_vec();
            text.extend_from_slice(&crc32fast::hash(&done.to_le_bytes()).to_le_bytes());
            self.done_file.write_all_at(&text, 0)?;
            self.done = done;
            self.next = self.next.max(done);
        }
        while let Some(front) = self.segments.front() {
            let end = self.segments.get(1).map(|next| next.first);
            let over = match end {
                Some(end) => end <= done,
                None => self.next <= done && front.length >= WORN,
            };
            if !over {
                return Ok(());
            }
            front.leave()?;
            self.unsynced.retain(|path| *path != front.path);
            self.segments.pop_front();
            self.reader = None;
        }
        Ok(())
    }

    /// What has to be synced so that it outlives a loss of power: the caller does it, since the log can be used meanwhile.
    pub fn take_unsynced(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.unsynced)
    }

    /// These could not be synced.
    pub fn give_back(&mut self, unsynced: &[PathBuf]) {
        self.unsynced.extend_from_slice(unsynced);
    }
}

impl Segment {
    fn bytes_from(&self, at: u64) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Moves its torn end, from byte `whole` and message `next` on, to a file of its own.
    fn cut(&mut self, whole: u64, next: u64) -> io::Result<()> {
        let torn = self.path.with_file_name(format!("{next:016x}.torn"));
        let end = self.bytes_from(whole)?;
        options().create(true).truncate(true).open(&torn)?.write_all_at(&end, 0)?;
        options().open(&self.path)?.set_len(whole)?;
        self.length = whole;
        let torn = torn.display();
        tracing::warn!(
            "the last messages that are kept for a peer were not completely written: they are moved to {torn}"
        );
        Ok(())
    }

    /// Notes that a part of it cannot be read.
    fn spoil(&mut self, wrong: &Unreadable) {
        if !std::mem::replace(&mut self.damaged, true) {
            let file = self.path.with_extension("damaged");
            let file = file.display();
            tracing::error!("messages that are kept for a peer cannot be read: {wrong}; their file is kept as {file}");
        }
    }

    /// Takes the file away from the log.
    fn leave(&self) -> io::Result<()> {
        if self.damaged {
            return fs::rename(&self.path, self.path.with_extension("damaged"));
        }
        fs::remove_file(&self.path)
    }
}

/// Reads on in a segment, to the first lot that holds `from` or a later message.
fn read_from(reader: &mut Reader, from: u64) -> Result<Option<Lot>, Unreadable> {
    while let Some((lot, _)) = record::read(&mut reader.input)? {
        reader.next = lot.end();
        if lot.end() > from {
            return Ok(Some(lot));
        }
    }
    Ok(None)
}

/// Adds a path to those that are to be synced.
fn note(unsynced: &mut Vec<PathBuf>, path: &Path) {
    if !unsynced.iter().any(|known| known == path) {
        unsynced.push(path.to_owned());
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn read_done(file: &File) -> u64 {
    let mut text = [0; 12];
    let read = file.read_exact_at(&mut text, 0);
    let (number, sum) = text.split_at(8);
    let whole = read.is_ok() && crc32fast::hash(number).to_le_bytes() == sum;
    if whole { u64::from_le_bytes(number.try_into().unwrap_or_default()) } else { 0 }
}

/// The bytes of the first lots, up to about a segment; how many lots they are.
fn records(lots: &[Lot]) -> (Vec<u8>, usize) {
    let mut bytes = Vec::new();
    let mut count = 0;
    for lot in lots {
        if !bytes.is_empty() && bytes.len() as u64 >= SEGMENT {
            break;
        }
        record::put(&mut bytes, lot);
        count += 1;
    }
    (bytes, count)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::io::queue::MessageBatch;
    use crate::io::spool::record::PREFIX;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            Folder(std::env::temp_dir().join(format!("plutino-spool-{:x}", fastrand::u64(..))))
        }

        fn open(&self) -> Log {
            Log::open(&self.0).expect("it opens").expect("it is free")
        }

        fn segments(&self) -> Vec<PathBuf> {
            let entries = fs::read_dir(&self.0).expect("it is there").map(|entry| entry.expect("it is there").path());
            let mut segments: Vec<PathBuf> =
                entries.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect();
            segments.sort();
            segments
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn lot(first: u64, messages: &[&str]) -> Lot {
        let mut ends = Vec::new();
        let mut bytes = Vec::new();
        for message in messages {
            bytes.extend_from_slice(message.as_bytes());
            ends.push(bytes.len() as u32);
        }
        Lot { first, batch: Arc::new(MessageBatch::new(bytes.into(), ends, true, None)) }
    }

    fn texts(page: &Page) -> Vec<String> {
        let texts =
            |lot: &Lot| lot.batch.messages().map(|m| String::from_utf8_lossy(&m).into_owned()).collect::<Vec<_>>();
        page.lots.iter().flat_map(texts).collect()
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let folder = Folder::new();
        let mut log = folder.open();
        log.append(&[lot(0, &["a", "b"]), lot(2, &["c"])]).expect("appended");
        let addressed = lot(3, &["d"]);
        let batch = MessageBatch::clone(&addressed.batch).addressed(vec![Box::new(["to".into()])]);
        log.append(&[Lot { first: 3, batch: Arc::new(batch) }]).expect("appended");
        assert_eq!(texts(&log.read(0, 100).expect("read")), ["a", "b", "c", "d"]);
        // From the middle of a lot all of it is read.
        assert_eq!(texts(&log.read(1, 1).expect("read")), ["a", "b"]);
        assert_eq!(texts(&log.read(2, 100).expect("read")), ["c", "d"]);
        drop(log);
        let mut log = folder.open();
        assert_eq!((log.done(), log.next()), (0, 4));
        let page = log.read(3, 1).expect("read");
        assert_eq!(
            (texts(&page), page.lots[0].batch.address(0).map(|to| to[0].clone())),
            (vec!["d".to_owned()], Some("to".into()))
        );
        log.forget(3).expect("forgotten");
        drop(log);
        let mut log = folder.open();
        assert_eq!((log.done(), log.next()), (3, 4));
        log.forget(4).expect("forgotten");
        drop(log);
        assert_eq!(folder.open().next(), 4);
        assert!(folder.segments().is_empty());
    }

    #[test]
    fn torn_records_are_cut_off_and_damaged_ones_counted() {
        let folder = Folder::new();
        let mut log = folder.open();
        log.append(&[lot(0, &["a"]), lot(1, &["b"])]).expect("appended");
        drop(log);
        let path = folder.segments().pop().expect("a segment");
        let whole = fs::read(&path).expect("it is there");
        for cut in 1..whole.len() / 2 {
            fs::write(&path, &whole[..whole.len() - cut]).expect("written");
            let mut log = folder.open();
            assert_eq!((log.next(), texts(&log.read(0, 9).expect("read"))), (1, vec!["a".to_owned()]), "{cut}");
            let torn = fs::read(folder.0.join(format!("{:016x}.torn", 1))).expect("it is kept");
            assert_eq!(torn, whole[whole.len() / 2..whole.len() - cut], "{cut}");
        }
        fs::write(&path, &whole).expect("written");
        let mut log = folder.open();
        let mut bad = whole.clone();
        bad[PREFIX + 2] ^= 1;
        fs::write(&path, &bad).expect("written");
        let page = log.read(0, 9).expect("read");
        assert_eq!((page.lots.len(), page.damaged), (0, 2));
        // How far messages are done with is read with its checksum, too.
        log.forget(1).expect("forgotten");
        fs::write(folder.0.join(DONE), [1; 12]).expect("written");
        assert_eq!(read_done(&File::open(folder.0.join(DONE)).expect("it is there")), 0);
    }

    #[test]
    fn damage_is_no_torn_end() {
        let folder = Folder::new();
        let mut log = folder.open();
        log.append(&[lot(0, &["a"]), lot(1, &["b", "c"]), lot(3, &["d"])]).expect("appended");
        drop(log);
        let path = folder.segments().pop().expect("a segment");
        let mut bad = fs::read(&path).expect("it is there");
        let second = bad.len() / 3 + PREFIX + 2;
        bad[second] ^= 1;
        fs::write(&path, &bad).expect("written");
        let mut log = folder.open();
        assert_eq!((log.next(), fs::read(&path).expect("it is there")), (4, bad.clone()), "nothing is cut");
        log.append(&[lot(4, &["e"])]).expect("appended");
        let page = log.read(0, 9).expect("read");
        assert_eq!((texts(&page), page.damaged), (vec!["a".to_owned(), "e".to_owned()], 3));
        log.forget(4).expect("forgotten");
        assert_eq!(fs::read(path.with_extension("damaged")).expect("it is kept"), bad);
        drop(log);
        assert_eq!(folder.open().next(), 5);
    }

    #[test]
    fn no_flipped_bit_loses_messages_without_counting_them() {
        let folder = Folder::new();
        let mut log = folder.open();
        log.append(&[lot(0, &["a", "b"]), lot(2, &["c"]), lot(3, &["d"])]).expect("appended");
        drop(log);
        let path = folder.segments().pop().expect("a segment");
        let good = fs::read(&path).expect("it is there");
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bad).expect("written");
            let mut log = folder.open();
            let page = log.read(0, 9).expect("read");
            assert_eq!((log.next(), texts(&page).len() as u64 + page.damaged), (4, 4), "bit {bit}");
            assert!(page.damaged > 0 && fs::read(&path).expect("it is there") == bad, "bit {bit}: nothing is cut");
        }
    }

    #[test]
    fn prefixes_in_messages_are_not_believed_beyond_what_is_there() {
        let mut bytes = Vec::new();
        let forged = lot(u64::MAX - 9, &["a"]);
        record::put(&mut bytes, &forged);
        bytes.insert(0, 0);
        assert_eq!(record::end_of_damage(&bytes, 7), 8);
        let near = u64::MAX - 8 - bytes.len() as u64;
        assert_eq!(record::end_of_damage(&bytes, near), u64::MAX - 8);
        assert_eq!(record::end_of_damage(&[], 7), 8);
    }

    /// A file whose first byte the system does not give back, whoever asks.
    #[cfg(target_os = "linux")]
    const LOST: &str = "/proc/self/mem";

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_disk_does_not_give_back_is_counted_and_not_cut() {
        let folder = Folder::new();
        drop(folder.open());
        let path = folder.0.join(format!("{:016x}.seg", 7));
        std::os::unix::fs::symlink(LOST, &path).expect("a link can be made");
        let mut log = folder.open();
        // At least one message was in it.
        assert_eq!((log.done(), log.next()), (7, 8));
        log.append(&[lot(8, &["a"])]).expect("appended");
        let page = log.read(7, 9).expect("read");
        assert_eq!((texts(&page), page.damaged), (vec!["a".to_owned()], 1));
        log.forget(8).expect("forgotten");
        assert_eq!(fs::read_link(path.with_extension("damaged")).expect("it is kept"), Path::new(LOST));
    }

    #[test]
    fn all_that_was_written_is_synced() {
        let folder = Folder::new();
        let mut log = folder.open();
        let large = "x".repeat(SEGMENT as usize);
        log.append(&[lot(0, &[&large]), lot(1, &["a"])]).expect("appended");
        let mut files = log.take_unsynced();
        files.sort();
        let mut expected = folder.segments();
        expected.insert(0, folder.0.clone());
        assert_eq!((files.len(), &files), (3, &expected), "the previous segment and the folder, too");
        assert!(log.take_unsynced().is_empty());
        log.give_back(&files);
        log.forget(1).expect("forgotten");
        assert_eq!(log.take_unsynced().len(), 2, "what is gone needs no sync");
    }

    #[test]
    fn a_log_has_one_owner() {
        let folder = Folder::new();
        let log = folder.open();
        assert!(Log::open(&folder.0).expect("it is there").is_none());
        drop(log);
        folder.open();
    }

    #[test]
    fn segments_go_when_all_of_them_is_done() {
        let folder = Folder::new();
        let mut log = folder.open();
        let large = "x".repeat(SEGMENT as usize / 2 + 1);
        for n in 0..6 {
            log.append(&[lot(n, &[&large])]).expect("appended");
        }
        assert_eq!(folder.segments().len(), 3);
        log.forget(3).expect("forgotten");
        assert_eq!(folder.segments().len(), 2);
        assert_eq!(log.read(3, 9).expect("read").lots.len(), 3);
        log.forget(6).expect("forgotten");
        assert!(folder.segments().is_empty());
        log.append(&[lot(6, &["y"])]).expect("appended");
        assert_eq!(texts(&log.read(6, 1).expect("read")), ["y"]);
    }
}
