//! One file of a log: records one after the other.
//!
//! A damaged record costs itself alone: reading continues with the next whole record. Senders choose what is in messages,
//! and may put forged records there. So the checksums depend on the segment's [`Seal`], which senders do not know.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::record::{self, Lot, Seal, Unreadable};

/// What a disk loses at a time, bytes.
const PAGE: u64 = 4096;

/// After so many lost pages of a file no more of it is read: each may take seconds.
const LOST_PAGES: u32 = 16;

/// See the module.
pub(super) struct Segment {
    /// the number of its first message
    pub first: u64,
    pub path: PathBuf,
    /// bytes
    pub length: u64,
    /// a part cannot be read: nothing is appended, and the file is kept when its messages are done with
    pub damaged: bool,
    seal: Seal,
}

/// Where reading continues in a segment.
pub(super) struct Reader {
    /// the first message of the segment
    pub segment: u64,
    /// the message that comes next
    pub next: u64,
    input: BufReader<File>,
    /// the byte at which the next record begins
    at: u64,
}

impl Segment {
    /// A new one in a folder.
    ///
    /// # Errors
    /// Those of the system.
    pub fn create(folder: &Path, first: u64) -> io::Result<Segment> {
        let seal = Seal::random();
        let path = folder.join(format!("{first:016x}-{seal}.seg"));
        options().create(true).truncate(true).open(&path)?;
        Ok(Segment { first, path, length: 0, damaged: false, seal })
    }

    /// The one in a file of this length; `None` if the file's name is not that of a segment.
    pub fn found(path: PathBuf, length: u64) -> Option<Segment> {
        let name = path.file_name()?.to_str()?.strip_suffix(".seg")?;
        // Without a seal: of an older version.
        let (first, seal) = match name.split_once('-') {
            Some((first, seal)) => (first, Seal::parse(seal)?),
            None => (name, Seal::default()),
        };
        let first = u64::from_str_radix(first, 16).ok()?;
        Some(Segment { first, path, length, damaged: false, seal })
    }

    /// Appends the records of the first lots, up to about `most` bytes; how many lots they are.
    ///
    /// # Errors
    /// Those of the system. Nothing is appended then.
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
            // There may be room later; what is there must stay complete.
            file.set_len(self.length)?;
            return Err(error);
        }
        self.length += bytes.len() as u64;
        Ok(count)
    }

    /// A reader at its beginning.
    ///
    /// # Errors
    /// Those of the system.
    pub fn reader(&self) -> io::Result<Reader> {
        let input = BufReader::new(File::open(&self.path)?);
        Ok(Reader { segment: self.first, next: self.first, input, at: 0 })
    }

    /// Reads on to the first lot that has message `from` or a later one; `None` at the end. Damaged records are skipped.
    ///
    /// # Errors
    /// Those of the system that may pass.
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

    /// Reads all of it, moves a torn end to a file of its own, and gives the number behind its last message.
    ///
    /// # Errors
    /// Those of the system that may pass.
    pub fn mend(&mut self) -> io::Result<u64> {
        let mut reader = self.reader()?;
        loop {
            match reader.read(self.seal) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(reader.next),
                Err(wrong) if wrong.may_pass() => return Err(wrong.into()),
                // What was never whole is not counted.
                Err(Unreadable::Torn) if !self.damaged && self.cut(reader.at, reader.next).is_ok() => {
                    return Ok(reader.next);
                }
                Err(wrong) => {
                    self.spoil(&wrong);
                    let rest = self.bytes_from(reader.at).unwrap_or_default();
                    match record::next_whole(&rest, self.seal, reader.next) {
                        Some(skipped) => reader.seek(reader.at + skipped as u64)?,
                        // What the disk does not give back says nothing: one message is counted.
                        None => return Ok(record::end_of_damage(&rest, self.seal, reader.next)),
                    }
                }
            }
        }
    }

    /// Its bytes from `at` on. Zeros stand for what the disk does not give back.
    fn bytes_from(&self, at: u64) -> io::Result<Vec<u8>> {
        let file = File::open(&self.path)?;
        let (mut bytes, mut lost) = (Vec::new(), 0);
        let mut page = vec![0; PAGE as usize];
        let mut at = at;
        while at < self.length {
            // To the next boundary: a page that is lost costs itself alone.
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

    /// Moves a torn end, from byte `whole` and message `next` on, to a separate file.
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

    /// Records that a part of it is unreadable.
    fn spoil(&mut self, wrong: &Unreadable) {
        if !std::mem::replace(&mut self.damaged, true) {
            let file = self.path.with_extension("damaged");
            let file = file.display();
            tracing::error!("messages that are kept for a peer cannot be read: {wrong}; their file is kept as {file}");
        }
    }

    /// Takes the file away from the log.
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
    /// The next record's lot; `None` at the end. After an error it stands where it stood.
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
