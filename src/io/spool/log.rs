//! The log of one sink on disk: records of messages in segments, appended to at the end, forgotten from the front.
//!
//! Each record has a checksum. When the log is opened, an incomplete end is cut off. A damaged record costs the rest of
//! its segment, which is counted. A file beside the segments says up to where messages are done; it is written seldom, so
//! some messages may be sent again after a kill.
//!
//! Existing crates for commit logs are databases, unmaintained, or keep no bound on their size.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::format::address::Address;
use crate::io::queue::MessageBatch;

/// A segment of this size is followed by another one, bytes.
const SEGMENT: u64 = 8 << 20;

/// A finished last segment is removed from this size on, bytes; a smaller one is used further.
const WORN: u64 = 1 << 20;

/// The largest record, bytes: lengths above it are damage.
const LARGEST: u32 = 512 << 20;

/// Checksum, and the lengths of head and body.
const PREFIX: usize = 12;

/// The file that says how far messages are done with.
const DONE: &str = "done";

/// Messages with the number of the first one.
#[derive(Clone, Debug)]
pub(super) struct Lot {
    pub first: u64,
    pub batch: Arc<MessageBatch>,
}

impl Lot {
    /// The number behind its last message.
    pub fn end(&self) -> u64 {
        self.first + self.batch.len() as u64
    }
}

/// What a record says of its body.
#[derive(Serialize, Deserialize)]
struct Head {
    first: u64,
    text: bool,
    ends: Vec<u32>,
    addresses: Vec<Address>,
}

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
    /// something was written since the last sync
    unsynced: bool,
}

struct Segment {
    /// the number of its first message
    first: u64,
    path: PathBuf,
    length: u64,
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

impl Log {
    /// Opens the log in a folder, which need not exist.
    ///
    /// # Errors
    /// Those of the system.
    pub fn open(folder: &Path) -> io::Result<Log> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let done_file = options().create(true).open(folder.join(DONE))?;
        let done = read_done(&done_file);
        let mut segments: Vec<Segment> = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
            if let Some(first) = number.and_then(|number| u64::from_str_radix(number, 16).ok()) {
                segments.push(Segment { first, path: entry.path(), length: entry.metadata()?.len() });
            }
        }
        segments.sort_by_key(|segment| segment.first);
        let mut log = Log {
            folder: folder.to_owned(),
            segments: segments.into(),
            done_file,
            done,
            next: done,
            reader: None,
            unsynced: false,
        };
        log.mend()?;
        log.forget(done)?;
        if log.next <= done {
            for segment in log.segments.drain(..) {
                fs::remove_file(&segment.path)?;
            }
        }
        Ok(log)
    }

    /// Cuts off what is torn at the end, and finds the number of the next message.
    fn mend(&mut self) -> io::Result<()> {
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        let file = options().open(&last.path)?;
        let mut input = BufReader::new(&file);
        let (mut whole, mut next) = (0, last.first);
        while let Ok(Some((lot, size))) = read_record(&mut input) {
            whole += size;
            next = lot.end();
        }
        if whole < last.length {
            file.set_len(whole)?;
            last.length = whole;
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
        if self.segments.back().is_none_or(|last| last.length >= SEGMENT) {
            let path = self.folder.join(format!("{first:016x}.seg"));
            options().create(true).truncate(true).open(&path)?;
            self.segments.push_back(Segment { first, path, length: 0 });
        }
        let Some(last) = self.segments.back_mut() else { return Ok(()) };
        let file = options().open(&last.path)?;
        if let Err(error) = file.write_all_at(bytes, last.length) {
            // Room may come later; what is there stays whole.
            file.set_len(last.length)?;
            return Err(error);
        }
        last.length += bytes.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    /// Reads from message `from` on, at least one lot where there is one, up to about `most` messages.
    ///
    /// # Errors
    /// Those of the system.
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
                    input: BufReader::new(options().open(&segment.path)?),
                    next: segment.first,
                },
            };
            match read_record(&mut reader.input) {
                Ok(Some((lot, _))) => {
                    reader.next = lot.end();
                    if lot.end() > from {
                        messages += lot.batch.len();
                        from = lot.end();
                        page.lots.push(lot);
                    } else {
                        // It is looked for from the beginning of its segment.
                        from = self.seek(&mut reader, from, end, &mut page)?;
                    }
                    self.reader = Some(reader);
                }
                Ok(None) => from = end.max(from + 1),
                Err(_) => {
                    page.damaged += end.saturating_sub(from);
                    from = end.max(from + 1);
                }
            }
        }
        Ok(page)
    }

    /// Moves a reader to the record with message `from`; where reading goes on.
    fn seek(&self, reader: &mut Reader, from: u64, end: u64, page: &mut Page) -> io::Result<u64> {
        loop {
            let place = reader.input.stream_position()?;
            match read_record(&mut reader.input) {
                Ok(Some((lot, _))) if lot.end() <= from => reader.next = lot.end(),
                Ok(Some((lot, _))) => {
                    reader.input.seek(SeekFrom::Start(place))?;
                    let next = from.max(lot.first);
                    reader.next = next;
                    return Ok(next);
                }
                Ok(None) => return Ok(end.max(from + 1)),
                Err(_) => {
                    page.damaged += end.saturating_sub(from);
                    return Ok(end.max(from + 1));
                }
            }
        }
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
            fs::remove_file(&front.path)?;
            self.segments.pop_front();
            self.reader = None;
        }
        Ok(())
    }

    /// Lets what was appended outlive a loss of power.
    ///
    /// # Errors
    /// Those of the system.
    pub fn sync(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.unsynced)
            && let Some(last) = self.segments.back()
        {
            options().open(&last.path)?.sync_data()?;
        }
        Ok(())
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
        put_record(&mut bytes, lot);
        count += 1;
    }
    (bytes, count)
}

fn put_record(out: &mut Vec<u8>, lot: &Lot) {
    let batch = &lot.batch;
    let body = batch.bytes();
    let addresses = (0..batch.len()).filter_map(|index| batch.address(index).cloned()).collect();
    let head = Head { first: lot.first, text: batch.text, ends: batch.ends().to_vec(), addresses };
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    // Into a vector nothing can fail.
    let mut whole = postcard::to_extend(&head, std::mem::take(out)).unwrap_or_default();
    let head_length = whole.len() - start - PREFIX;
    whole.extend_from_slice(body);
    whole[start + 4..start + 8].copy_from_slice(&(head_length as u32).to_le_bytes());
    whole[start + 8..start + PREFIX].copy_from_slice(&(body.len() as u32).to_le_bytes());
    let sum = crc32fast::hash(&whole[start + 4..]);
    whole[start..start + 4].copy_from_slice(&sum.to_le_bytes());
    *out = whole;
}

/// The next record with its size; `None` at the end.
fn read_record(input: &mut impl Read) -> io::Result<Option<(Lot, u64)>> {
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    let mut prefix = [0; PREFIX];
    let mut there = 0;
    while there < PREFIX {
        match input.read(&mut prefix[there..])? {
            0 if there == 0 => return Ok(None),
            0 => return Err(damaged()),
            read => there += read,
        }
    }
    let number = |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
    let (sum, head_length, body_length) = (number(0), number(4), number(8));
    let size = u64::from(head_length) + u64::from(body_length);
    if head_length > LARGEST || body_length > LARGEST {
        return Err(damaged());
    }
    // Memory grows with what is there, not with what a damaged length says.
    let mut rest = Vec::new();
    input.take(size).read_to_end(&mut rest)?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&prefix[4..]);
    hasher.update(&rest);
    if rest.len() as u64 != size || hasher.finalize() != sum {
        return Err(damaged());
    }
    let rest = Bytes::from(rest);
    let head: Head = postcard::from_bytes(&rest[..head_length as usize]).map_err(|_| damaged())?;
    let body = rest.slice(head_length as usize..);
    let fits = head.ends.is_sorted() && head.ends.last().is_none_or(|&end| end as usize <= body.len());
    let addressed = head.addresses.is_empty() || head.addresses.len() == head.ends.len();
    if !fits || !addressed || head.ends.is_empty() {
        return Err(damaged());
    }
    let batch = MessageBatch::new(body, head.ends, head.text, None);
    let batch = if head.addresses.is_empty() { batch } else { batch.addressed(head.addresses) };
    Ok(Some((Lot { first: head.first, batch: Arc::new(batch) }, PREFIX as u64 + size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            Folder(std::env::temp_dir().join(format!("plutino-spool-{:x}", fastrand::u64(..))))
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
        let mut log = Log::open(&folder.0).expect("it opens");
        log.append(&[lot(0, &["a", "b"]), lot(2, &["c"])]).expect("appended");
        let addressed = lot(3, &["d"]);
        let batch = MessageBatch::clone(&addressed.batch).addressed(vec![Box::new(["to".into()])]);
        log.append(&[Lot { first: 3, batch: Arc::new(batch) }]).expect("appended");
        assert_eq!(texts(&log.read(0, 100).expect("read")), ["a", "b", "c", "d"]);
        // From the middle of a lot all of it is read.
        assert_eq!(texts(&log.read(1, 1).expect("read")), ["a", "b"]);
        assert_eq!(texts(&log.read(2, 100).expect("read")), ["c", "d"]);
        drop(log);
        let mut log = Log::open(&folder.0).expect("it opens");
        assert_eq!((log.done(), log.next()), (0, 4));
        let page = log.read(3, 1).expect("read");
        assert_eq!(
            (texts(&page), page.lots[0].batch.address(0).map(|to| to[0].clone())),
            (vec!["d".to_owned()], Some("to".into()))
        );
        log.forget(3).expect("forgotten");
        drop(log);
        let mut log = Log::open(&folder.0).expect("it opens");
        assert_eq!((log.done(), log.next()), (3, 4));
        log.forget(4).expect("forgotten");
        drop(log);
        assert_eq!(Log::open(&folder.0).expect("it opens").next(), 4);
        assert!(folder.segments().is_empty());
    }

    #[test]
    fn torn_records_are_cut_off_and_damaged_ones_counted() {
        let folder = Folder::new();
        let mut log = Log::open(&folder.0).expect("it opens");
        log.append(&[lot(0, &["a"]), lot(1, &["b"])]).expect("appended");
        drop(log);
        let path = folder.segments().pop().expect("a segment");
        let whole = fs::read(&path).expect("it is there");
        for cut in 1..whole.len() / 2 {
            fs::write(&path, &whole[..whole.len() - cut]).expect("written");
            let mut log = Log::open(&folder.0).expect("it opens");
            assert_eq!((log.next(), texts(&log.read(0, 9).expect("read"))), (1, vec!["a".to_owned()]), "{cut}");
        }
        fs::write(&path, &whole).expect("written");
        let mut log = Log::open(&folder.0).expect("it opens");
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
    fn segments_go_when_all_of_them_is_done() {
        let folder = Folder::new();
        let mut log = Log::open(&folder.0).expect("it opens");
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
