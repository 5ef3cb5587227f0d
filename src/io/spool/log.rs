//! The log of one sink on disk: records of messages in segments, appended at the end and removed from the front.
//!
//! When the log is opened, an incomplete end is moved to a file with the ending `.torn`. Messages of a record that is
//! damaged, or that the disk cannot read, are counted; the file of its segment is kept with the ending `.damaged`. Both
//! files allow a manual recovery. Another file beside the segments records which messages are done; it is written
//! rarely, so some messages may be sent again after a kill. A lock keeps other processes out.
//!
//! Existing crates for commit logs are databases, are unmaintained, or do not limit their size.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use super::ranges::Ranges;
use super::record::Lot;
use super::segment::{Reader, Segment, options};
use crate::io::lock::open_locked;

/// A segment of this size is followed by a new one, bytes.
const SEGMENT: u64 = 8 << 20;

/// If all messages of the last segment are done, the segment is removed if it has at least this size, bytes; otherwise
/// it continues to be used.
const WORN: u64 = 1 << 20;

/// The most ranges of done messages that are written down.
pub(super) const HOLES: usize = 64;

/// The file that stores which messages are done.
const DONE: &str = "done";

/// The file that is locked while the log is open.
const LOCK: &str = "lock";

pub(super) struct Log {
    folder: PathBuf,
    /// the oldest one first
    segments: VecDeque<Segment>,
    done_file: File,
    /// the messages before this number are done
    done: u64,
    /// and these
    holes: Ranges,
    /// the number of the next message
    next: u64,
    reader: Option<Reader>,
    /// paths that were written since the last sync: segments, and the folder if a segment is new
    unsynced: Vec<PathBuf>,
    _lock: File,
}

/// The result of a read.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub lots: Vec<Lot>,
    /// messages lost in damaged records
    pub damaged: u64,
}

/// Locks the log in a folder, which must exist; `None` if it is already locked.
///
/// # Errors
/// Those of the system.
pub(super) fn lock(folder: &Path) -> io::Result<Option<File>> {
    open_locked(&folder.join(LOCK), options().create(true))
}

impl Log {
    /// Opens the log in a folder, which need not exist; `None` if it is already open elsewhere.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(folder: &Path) -> io::Result<Option<Log>> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let Some(lock) = lock(folder)? else { return Ok(None) };
        let done_file = options().create(true).open(folder.join(DONE))?;
        let (done, holes) = read_done(&done_file);
        let mut segments: Vec<Segment> = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            segments.extend(Segment::found(entry.path(), entry.metadata()?.len()));
        }
        segments.sort_by_key(|segment| segment.first);
        // Segments before the first one were removed because their messages are done.
        let done = segments.first().map_or(done, |segment| done.max(segment.first));
        let mut log = Log {
            folder: folder.to_owned(),
            segments: segments.into(),
            done_file,
            done,
            next: holes.iter().last().map_or(done, |(_, end)| done.max(end)),
            holes,
            reader: None,
            unsynced: Vec::new(),
            _lock: lock,
        };
        if let Some(last) = log.segments.back_mut() {
            log.next = log.next.max(last.mend()?);
        }
        log.forget(done, log.holes.clone())?;
        if log.next <= done {
            for segment in log.segments.drain(..) {
                segment.leave()?;
            }
        }
        Ok(Some(log))
    }

    /// The number of the first message that is not done.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// Done messages after [`Log::done`].
    pub fn holes(&self) -> &Ranges {
        &self.holes
    }

    /// The number of the next message.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Appends lots in order.
    ///
    /// # Errors
    /// Those of the system, with the number of lots that were appended; the others are not in the log.
    pub fn append(&mut self, lots: &[Lot]) -> Result<(), (usize, io::Error)> {
        let mut appended = 0;
        while appended < lots.len() {
            appended += self.write(&lots[appended..]).map_err(|error| (appended, error))?;
            self.next = self.next.max(lots[appended - 1].end());
        }
        Ok(())
    }

    /// Appends the first lots; returns how many.
    fn write(&mut self, lots: &[Lot]) -> io::Result<usize> {
        if self.segments.back().is_none_or(|last| last.length >= SEGMENT || last.damaged) {
            self.segments.push_back(Segment::create(&self.folder, lots[0].first)?);
            note(&mut self.unsynced, &self.folder);
        }
        let Some(last) = self.segments.back_mut() else { return Ok(0) };
        let written = last.append(lots, SEGMENT)?;
        note(&mut self.unsynced, &last.path);
        Ok(written)
    }

    /// Reads from message `from`, at least one lot if there is one, up to about `most` messages.
    ///
    /// # Errors
    /// Those of the system, which may be temporary.
    pub fn read(&mut self, from: u64, most: usize) -> io::Result<Page> {
        let mut page = Page::default();
        let mut messages = 0;
        let mut from = from;
        while messages < most && from < self.next {
            let Some(at) = self.segments.iter().rposition(|segment| segment.first <= from).or(
                // Messages before the first segment are gone.
                (!self.segments.is_empty()).then_some(0),
            ) else {
                break;
            };
            let end = self.segments.get(at + 1).map_or(self.next, |next| next.first);
            let segment = &mut self.segments[at];
            let known = self.reader.take().filter(|reader| reader.segment == segment.first && reader.next == from);
            let mut reader = match known {
                Some(reader) => reader,
                None => segment.reader()?,
            };
            let lot = segment.read(&mut reader, from)?;
            let reached = lot.as_ref().map_or(end, |lot| lot.first);
            if segment.damaged {
                page.damaged += reached.saturating_sub(from);
            }
            match lot {
                Some(lot) => {
                    messages += lot.batch.len();
                    from = lot.end();
                    page.lots.push(lot);
                    self.reader = Some(reader);
                }
                None => from = end.max(from + 1),
            }
        }
        Ok(page)
    }

    /// Marks the messages below `done`, and those in `holes`, as done, and removes segments without others.
    ///
    /// # Errors
    /// Those of the system.
    pub fn forget(&mut self, done: u64, holes: Ranges) -> io::Result<()> {
        let done = done.max(self.done);
        if done > self.done || holes != self.holes {
            self.done_file.write_all_at(&done_text(done, &holes), 0)?;
            self.next = self.next.max(done);
            (self.done, self.holes) = (done, holes);
        }
        let mut at = 0;
        while let Some(segment) = self.segments.get(at) {
            let is_over = match self.segments.get(at + 1) {
                Some(next) => next.first <= done || self.holes.covers(segment.first.max(done), next.first),
                None => self.next <= done && segment.length >= WORN,
            };
            if !is_over {
                at += 1;
                continue;
            }
            segment.leave()?;
            self.unsynced.retain(|path| *path != segment.path);
            self.segments.remove(at);
            self.reader = None;
        }
        Ok(())
    }

    /// Takes the paths that must be synced to survive a power failure. The caller syncs them, because the log can be
    /// used in the meantime.
    pub fn take_unsynced(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.unsynced)
    }

    /// Returns paths that could not be synced.
    pub fn give_back(&mut self, unsynced: &[PathBuf]) {
        self.unsynced.extend_from_slice(unsynced);
    }
}

/// Adds a path to those that must be synced.
fn note(unsynced: &mut Vec<PathBuf>, path: &Path) {
    if !unsynced.iter().any(|known| known == path) {
        unsynced.push(path.to_owned());
    }
}

/// The content of the file of done messages: the number below which all are done, then ranges after it. Each part has a
/// checksum.
fn done_text(done: u64, holes: &Ranges) -> Vec<u8> {
    let mut text = done.to_le_bytes().to_vec();
    text.extend_from_slice(&crc32fast::hash(&text).to_le_bytes());
    // Messages in further ranges are sent again after a restart.
    let ranges: Vec<(u64, u64)> = holes.iter().take(HOLES).collect();
    text.extend_from_slice(&(ranges.len() as u64).to_le_bytes());
    for (start, end) in ranges {
        text.extend_from_slice(&start.to_le_bytes());
        text.extend_from_slice(&end.to_le_bytes());
    }
    text.extend_from_slice(&crc32fast::hash(&text).to_le_bytes());
    text
}

/// Reads what [`done_text`] has written.
fn read_done(file: &File) -> (u64, Ranges) {
    let mut text = vec![0; 24 + 16 * HOLES];
    let read = file.read_at(&mut text, 0).unwrap_or_default();
    let number = |at: usize| text[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let is_whole = |end: usize| read >= end + 4 && crc32fast::hash(&text[..end]).to_le_bytes() == text[end..end + 4];
    let mut holes = Ranges::default();
    if !is_whole(8) {
        return (0, holes);
    }
    let ranges = usize::try_from(number(12)).unwrap_or(usize::MAX).min(HOLES);
    if is_whole(20 + 16 * ranges) {
        (0..ranges).for_each(|range| _ = holes.add(number(20 + 16 * range), number(28 + 16 * range)));
    }
    (number(0), holes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tempfile::TempDir;

    use super::*;
    use crate::io::queue::MessageBatch;
    use crate::io::spool::record::{self, PREFIX, Seal};

    struct Folder(TempDir);

    impl Folder {
        fn new() -> Folder {
            Folder(tempfile::tempdir().expect("a temporary folder"))
        }

        fn open(&self) -> Log {
            Log::open(self.0.path()).expect("it opens").expect("it is free")
        }

        fn segments(&self) -> Vec<PathBuf> {
            let entries = fs::read_dir(&self.0).expect("it is there").map(|entry| entry.expect("it is there").path());
            let mut segments: Vec<PathBuf> =
                entries.filter(|path| path.extension().is_some_and(|extension| extension == "seg")).collect();
            segments.sort();
            segments
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
        // Starting in the middle of a lot, the complete lot is read.
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
        log.forget(3, Ranges::default()).expect("forgotten");
        drop(log);
        let mut log = folder.open();
        assert_eq!((log.done(), log.next()), (3, 4));
        log.forget(4, Ranges::default()).expect("forgotten");
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
            let torn = fs::read(folder.0.path().join(format!("{:016x}.torn", 1))).expect("it is kept");
            assert_eq!(torn, whole[whole.len() / 2..whole.len() - cut], "{cut}");
        }
        fs::write(&path, &whole).expect("written");
        let mut log = folder.open();
        let mut bad = whole.clone();
        bad[PREFIX + 2] ^= 1;
        fs::write(&path, &bad).expect("written");
        let page = log.read(0, 9).expect("read");
        assert_eq!((texts(&page), page.damaged), (vec!["b".to_owned()], 1));
        // The file with the done messages has a checksum too.
        log.forget(1, Ranges::default()).expect("forgotten");
        fs::write(folder.0.path().join(DONE), [1; 12]).expect("written");
        assert_eq!(read_done(&File::open(folder.0.path().join(DONE)).expect("it is there")), (0, Ranges::default()));
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
        assert_eq!((texts(&page), page.damaged), (["a", "d", "e"].map(str::to_owned).to_vec(), 2));
        log.forget(4, Ranges::default()).expect("forgotten");
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
            assert!(page.damaged <= 2, "bit {bit}: only one record is lost");
            assert!(page.damaged > 0 && fs::read(&path).expect("it is there") == bad, "bit {bit}: nothing is cut");
        }
    }

    #[test]
    fn prefixes_in_messages_are_not_believed_beyond_what_is_there() {
        let old = Seal::default();
        let mut bytes = Vec::new();
        record::put(&mut bytes, &lot(u64::MAX - 9, &["a"]), old);
        bytes.insert(0, 0);
        assert_eq!(record::end_of_damage(&bytes, old, 7), 8);
        let near = u64::MAX - 8 - bytes.len() as u64;
        assert_eq!(record::end_of_damage(&bytes, old, near), u64::MAX - 8);
        assert_eq!(record::end_of_damage(&[], old, 7), 8);
    }

    #[test]
    fn damage_does_not_let_in_what_a_sender_forged() {
        let mut forged = b"x".to_vec();
        record::put(&mut forged, &lot(1, &["forged"]), Seal::default());
        let length = forged.len() as u32;
        let forger = || Arc::new(MessageBatch::new(forged.clone().into(), vec![length], false, None));
        for is_old in [false, true] {
            let folder = Folder::new();
            let mut log = folder.open();
            log.append(&[Lot { first: 0, batch: forger() }, lot(1, &["b"])]).expect("appended");
            drop(log);
            let path = folder.segments().pop().expect("a segment");
            let mut bytes = fs::read(&path).expect("it is there");
            let path = match is_old {
                true => {
                    bytes.clear();
                    record::put(&mut bytes, &Lot { first: 0, batch: forger() }, Seal::default());
                    record::put(&mut bytes, &lot(1, &["b"]), Seal::default());
                    fs::remove_file(&path).expect("it is there");
                    folder.0.path().join(format!("{:016x}.seg", 0))
                }
                false => path,
            };
            // The first prefix is damaged, so that its length says nothing.
            bytes[9] ^= 1;
            fs::write(&path, &bytes).expect("written");
            let mut log = folder.open();
            let page = log.read(0, 9).expect("read");
            let (expected, damaged) = if is_old { (vec![], log.next()) } else { (vec!["b".to_owned()], 1) };
            assert_eq!((texts(&page), page.damaged), (expected, damaged), "old {is_old}");
        }
    }

    #[test]
    fn segments_of_older_versions_are_read() {
        let folder = Folder::new();
        drop(folder.open());
        let mut bytes = Vec::new();
        let old = Seal::default();
        [lot(0, &["a"]), lot(1, &["b"]), lot(2, &["c"])].iter().for_each(|lot| record::put(&mut bytes, lot, old));
        let path = folder.0.path().join(format!("{:016x}.seg", 0));
        // The body of the second record is damaged, not its length.
        let second = bytes.len() / 3;
        bytes[second + PREFIX + 2] ^= 1;
        fs::write(&path, &bytes).expect("written");
        let mut log = folder.open();
        log.append(&[lot(3, &["d"])]).expect("appended");
        let page = log.read(0, 9).expect("read");
        assert_eq!((texts(&page), page.damaged), (["a", "c", "d"].map(str::to_owned).to_vec(), 1));
    }

    /// A file whose first byte always gives a read error.
    #[cfg(target_os = "linux")]
    const LOST: &str = "/proc/self/mem";

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_disk_does_not_give_back_is_counted_and_not_cut() {
        let folder = Folder::new();
        drop(folder.open());
        let path = folder.0.path().join(format!("{:016x}.seg", 7));
        std::os::unix::fs::symlink(LOST, &path).expect("a link can be made");
        let mut log = folder.open();
        // At least one message was in it.
        assert_eq!((log.done(), log.next()), (7, 8));
        log.append(&[lot(8, &["a"])]).expect("appended");
        let page = log.read(7, 9).expect("read");
        assert_eq!((texts(&page), page.damaged), (vec!["a".to_owned()], 1));
        log.forget(8, Ranges::default()).expect("forgotten");
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
        expected.insert(0, folder.0.path().to_owned());
        assert_eq!((files.len(), &files), (3, &expected), "the previous segment and the folder, too");
        assert!(log.take_unsynced().is_empty());
        log.give_back(&files);
        log.forget(1, Ranges::default()).expect("forgotten");
        assert_eq!(log.take_unsynced().len(), 2, "what is gone needs no sync");
    }

    #[test]
    fn a_log_has_one_owner() {
        let folder = Folder::new();
        let log = folder.open();
        assert!(Log::open(folder.0.path()).expect("it is there").is_none());
        drop(log);
        folder.open();
    }

    #[test]
    fn what_is_done_with_out_of_order_is_known_again() {
        let folder = Folder::new();
        let mut log = folder.open();
        let large = "x".repeat(SEGMENT as usize);
        (0..4).for_each(|n| log.append(&[lot(n, &[&large])]).expect("appended"));
        let mut holes = Ranges::default();
        holes.add(1, 3);
        // These messages were never written.
        holes.add(4, 9);
        log.forget(0, holes.clone()).expect("forgotten");
        assert_eq!(folder.segments().len(), 2);
        drop(log);
        let mut log = folder.open();
        assert_eq!((log.done(), log.next(), log.holes()), (0, 9, &holes));
        assert_eq!(log.read(0, 9).expect("read").lots.iter().map(|lot| lot.first).collect::<Vec<_>>(), [0, 3]);
        log.forget(9, Ranges::default()).expect("forgotten");
        drop(log);
        let mut done = fs::read(folder.0.path().join(DONE)).expect("it is there");
        // A file of an older version has no ranges, and the ranges of a damaged file may be invalid.
        for change in [0, 1] {
            done.truncate(done.len() - change);
            done[12] = 1;
            fs::write(folder.0.path().join(DONE), &done[..if change == 0 { 12 } else { done.len() }]).expect("written");
            assert_eq!(
                read_done(&File::open(folder.0.path().join(DONE)).expect("it is there")),
                (9, Ranges::default())
            );
        }
        assert_eq!(folder.open().next(), 9);
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
        log.forget(3, Ranges::default()).expect("forgotten");
        assert_eq!(folder.segments().len(), 2);
        assert_eq!(log.read(3, 9).expect("read").lots.len(), 3);
        log.forget(6, Ranges::default()).expect("forgotten");
        assert!(folder.segments().is_empty());
        log.append(&[lot(6, &["y"])]).expect("appended");
        assert_eq!(texts(&log.read(6, 1).expect("read")), ["y"]);
    }
}
