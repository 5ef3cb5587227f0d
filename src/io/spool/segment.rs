//! One file of a log: records one after the other.
//!
//! Damage affects only its own record: reading continues with the next complete record. Senders choose the content of
//! messages, and may put forged records into them. So the checksums depend on the segment's [`Seal`], which senders do
//! not know.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::record::{self, Lot, Seal, Unreadable};

/// The number of bytes that a disk loses at a time.
const PAGE: u64 = 4096;

/// After this many lost pages, the rest of a file is not read: each attempt may take seconds.
const LOST_PAGES: u32 = 16;

/// One file of a log.
pub(super) struct Segment {
    /// the number of its first message
    pub first: u64,
    pub path: PathBuf,
    /// bytes
    pub length: u64,
    /// whether a part cannot be read: then nothing is appended, and the file is kept when its messages are done
    pub damaged: bool,
    seal: Seal,
}

/// Where reading continues in a segment.
pub(super) struct Reader {
    /// the number of the first message of the segment
    pub segment: u64,
    /// the number of the next message
    pub next: u64,
    input: BufReader<File>,
    /// the position of the next record, bytes
    at: u64,
}

impl Segment {
    /// Creates a segment in a folder.
    ///
    /// # Errors
    /// Those of the system.
    pub fn create(folder: &Path, first: u64) -> io::Result<Segment> {
        let seal = Seal::random();
        let path = folder.join(format!("{first:016x}-{seal}.seg"));
        options().create(true).truncate(true).open(&path)?;
        Ok(Segment { first, path, length: 0, damaged: false, seal })
    }

    /// The segment in a file of this length; `None` if the file's name is not that of a segment.
    pub fn found(path: PathBuf, length: u64) -> Option<Segment> {
        let name = path.file_name()?.to_str()?.strip_suffix(".seg")?;
        // A segment without a seal is of an older version.
        let (first, seal) = match name.split_once('-') {
            Some((first, seal)) => (first, Seal::parse(seal)?),
            None => (name, Seal::default()),
        };
        let first = u64::from_str_radix(first, 16).ok()?;
        Some(Segment { first, path, length, damaged: false, seal })
    }

    /// Appends the records of the first lots, up to about `most` bytes; returns the number of lots.
    ///
    /// # Errors
    /// Those of the system. Then nothing is appended.
    pub fn append(&mut self, lots: &[Lot], most: u64) -> io::Result<usize> {
        let mut bytes = Vec::new();
        let mut count = 0;
        for lot in lots {
            if !bytes.is_empty() && bytes.len() as u64 >= most {
                break;
            }
            record::put(&mut bytes, lot, self.seal);
            count += 1;
        }
        let file = options().open(&self.path)?;
        if let Err(error) = file.write_all_at(&bytes, self.length) {
            // There may be room later; until then, the file must stay complete.
            file.set_len(self.length)?;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(count)
    }

    /// A reader at the beginning.
    ///
    /// # Errors
    /// Those of the system.
    pub fn reader(&self) -> io::Result<Reader> {
        let input = BufReader::new(File::open(&self.path)?);
        Ok(Reader { segment: self.first, next: self.first, input, at: 0 })
    }

    /// Reads up to the first lot that has message `from` or a later one; `None` at the end. Damaged records are
    /// skipped.
    ///
    /// # Errors
    /// Temporary errors of the system.
    pub fn read(&mut self, reader: &mut Reader, from: u64) -> io::Result<Option<Lot>> {
        loop {
            match reader.read(self.seal) {
                Ok(Some(lot)) if lot.end() > from => return Ok(Some(lot)),
                Ok(Some(_)) => {}
                Ok(None) => return Ok(None),
                Err(wrong) if wrong.may_pass() => return Err(wrong.into()),
                Err(wrong) => {
                    self.spoil(&wrong);
                    let rest = self.bytes_from(reader.at).unwrap_or_default();
                    let Some(skipped) = record::next_whole(&rest, self.seal, reader.next) else { return Ok(None) };
                    reader.seek(reader.at + skipped as u64)?;
                }
            }
        }
    }

    /// Reads the whole segment, moves a torn end to a separate file, and returns the number after its last message.
    ///
    /// # Errors
    /// Temporary errors of the system.
    pub fn mend(&mut self) -> io::Result<u64> {
        let mut reader = self.reader()?;
        loop {
            match reader.read(self.seal) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(reader.next),
                Err(wrong) if wrong.may_pass() => return Err(wrong.into()),
                // Incomplete records are not counted.
                Err(Unreadable::Torn) if !self.damaged && self.cut(reader.at, reader.next).is_ok() => {
                    return Ok(reader.next);
                }
                Err(wrong) => {
                    self.spoil(&wrong);
                    let rest = self.bytes_from(reader.at).unwrap_or_default();
                    match record::next_whole(&rest, self.seal, reader.next) {
                        Some(skipped) => reader.seek(reader.at + skipped as u64)?,
                        // Bytes that the disk cannot read show nothing: one message is counted.
                        None => return Ok(record::end_of_damage(&rest, self.seal, reader.next)),
                    }
                }
            }
        }
    }

    /// The bytes from `at` on. Bytes that the disk cannot read are zeros.
    fn bytes_from(&self, at: u64) -> io::Result<Vec<u8>> {
        let file = File::open(&self.path)?;
        let (mut bytes, mut lost) = (Vec::new(), 0);
        let mut page = vec![0; PAGE as usize];
        let mut at = at;
        while at < self.length {
            // Reads to the next boundary of a page, so that a lost page does not affect others.
            let wanted = (PAGE - at % PAGE).min(self.length - at) as usize;
            let read = match file.read_at(&mut page[..wanted], at) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) if lost < LOST_PAGES => {
                    lost += 1;
                    page[..wanted].fill(0);
                    wanted
                }
                Err(error) => return Err(error),
            };
            bytes.extend_from_slice(&page[..read]);
            at += read as u64;
        }
        Ok(bytes)
    }

    /// Moves a torn end, which starts at byte `whole` with message `next`, to a separate file.
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

    /// Records that a part of the segment is unreadable.
    fn spoil(&mut self, wrong: &Unreadable) {
        if !std::mem::replace(&mut self.damaged, true) {
            let file = self.path.with_extension("damaged");
            let file = file.display();
            tracing::error!("messages that are kept for a peer cannot be read: {wrong}; their file is kept as {file}");
        }
    }

    /// Removes the file from the log, or renames it if it is damaged.
    ///
    /// # Errors
    /// Those of the system.
    pub fn leave(&self) -> io::Result<()> {
        if self.damaged {
            return fs::rename(&self.path, self.path.with_extension("damaged"));
        }
        fs::remove_file(&self.path)
    }
}

impl Reader {
    /// The lot of the next record; `None` at the end. After an error, the position is unchanged.
    fn read(&mut self, seal: Seal) -> Result<Option<Lot>, Unreadable> {
        let Some((lot, size)) = record::read(&mut self.input, seal)? else { return Ok(None) };
        self.at += size;
        self.next = lot.end();
        Ok(Some(lot))
    }

    fn seek(&mut self, at: u64) -> io::Result<()> {
        self.input.seek(SeekFrom::Start(at))?;
        self.at = at;
        Ok(())
    }
}

/// How files of a log are opened.
pub(super) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}
