//! A database file whose changes stay in memory.
//!
//! The library changes a file when it opens and checks it: it recovers from a crash, rebuilds lists of pages, or takes an
//! older commit. Over this backend the file on disk stays as it is, so a damaged one can be examined and read.
//!
//! The library panics on some damaged pages. [`guarded`] turns a panic into a result, and keeps it off stderr.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use crate::sync::locked;

/// The unit in which changes are kept, bytes.
const BLOCK: usize = 4096;

/// What a database file begins with. The byte after it has flags.
const MAGIC: [u8; 9] = *b"redb\x1a\n\xa9\r\n";

/// Flag: the file was not closed properly. The library then checks all pages, and takes the newest commit that is whole.
const RECOVER: u8 = 2;

/// Flag: the commit before the last one must not be used.
const TWO_PHASES: u8 = 4;

/// A file, open for reading and writing, that is only read and locked.
#[derive(Debug)]
pub(super) struct Overlay {
    file: FileBackend,
    changed: Mutex<Changed>,
}

#[derive(Debug)]
struct Changed {
    /// the length of the storage
    len: u64,
    /// the bytes of the file before this position belong to the storage; those after it are zeros
    visible: u64,
    blocks: BTreeMap<u64, Box<[u8; BLOCK]>>,
}

impl Overlay {
    /// # Errors
    /// Those of the system.
    pub fn new(file: File) -> Result<Overlay, redb::DatabaseError> {
        let len = file.metadata()?.len();
        let changed = Mutex::new(Changed { len, visible: len, blocks: BTreeMap::new() });
        Ok(Overlay { file: FileBackend::new(file)?, changed })
    }

    /// Makes the library recover what it can, if the beginning of the file is damaged.
    ///
    /// # Errors
    /// Those of the system.
    pub fn recover(&self) -> io::Result<()> {
        let mut begin = [0; MAGIC.len() + 1];
        self.read(0, &mut begin)?;
        begin[..MAGIC.len()].copy_from_slice(&MAGIC);
        begin[MAGIC.len()] = (begin[MAGIC.len()] | RECOVER) & !TWO_PHASES;
        self.write(0, &begin)
    }

    /// Reads a block as it is now.
    fn block(&self, changed: &Changed, number: u64) -> io::Result<Box<[u8; BLOCK]>> {
        if let Some(block) = changed.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = Box::new([0; BLOCK]);
        let start = number * BLOCK as u64;
        let there = changed.visible.saturating_sub(start).min(BLOCK as u64) as usize;
        self.file.read(start, &mut block[..there])?;
        Ok(block)
    }
}

/// The parts of a range by block: the block's number, where the part begins in it, and its bytes in the range.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let within = (at % BLOCK as u64) as usize;
        let size = (len - done).min(BLOCK - within);
        done += size;
        (size > 0).then(|| (at / BLOCK as u64, within, done - size..done))
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(locked(&self.changed).len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changed = locked(&self.changed);
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > changed.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let there = changed.visible.saturating_sub(offset).min(out.len() as u64) as usize;
        self.file.read(offset, &mut out[..there])?;
        out[there..].fill(0);
        for (number, within, range) in parts(offset, out.len()) {
            if let Some(block) = changed.blocks.get(&number) {
                let size = range.len();
                out[range].copy_from_slice(&block[within..within + size]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changed = locked(&self.changed);
        if len < changed.len {
            // Bytes beyond the new length are zeros, should it grow again.
            let mut last = self.block(&changed, len / BLOCK as u64)?;
            last[(len % BLOCK as u64) as usize..].fill(0);
            changed.blocks.split_off(&(len / BLOCK as u64));
            changed.blocks.insert(len / BLOCK as u64, last);
            changed.visible = changed.visible.min(len);
        }
        changed.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changed = locked(&self.changed);
        for (number, within, range) in parts(offset, data.len()) {
            let mut block = self.block(&changed, number)?;
            block[within..within + range.len()].copy_from_slice(&data[range]);
            changed.blocks.insert(number, block);
        }
        changed.len = changed.len.max(offset + data.len() as u64);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

thread_local! {
    /// Whether this thread uses the library on pages that may be damaged.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs work that panics on damaged pages; `None`: it did. The panic goes to the log, where it can be distinguished
/// from a fault of this program; the damage itself is reported by the caller.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if GUARDED.try_with(Cell::get).unwrap_or(false) {
                tracing::warn!("the library of the store gave up: {panic}");
            } else {
                usual(panic);
            }
        }));
    });
    let before = GUARDED.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work)).ok();
    GUARDED.set(before);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_stay_in_memory() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("store");
        let content: Vec<u8> = (0..10_000_u32).map(|byte| byte as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let overlay = Overlay::new(file).unwrap();
        let mut expected = content.clone();
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..300 {
            let at = random.usize(..expected.len());
            match random.u8(..10) {
                0 => {
                    let len = random.usize(4000..14_000);
                    expected.resize(len, 0);
                    overlay.set_len(len as u64).unwrap();
                }
                1..6 => {
                    let bytes = vec![random.u8(..); random.usize(..9000)];
                    expected.resize(expected.len().max(at + bytes.len()), 0);
                    expected[at..at + bytes.len()].copy_from_slice(&bytes);
                    overlay.write(at as u64, &bytes).unwrap();
                }
                _ => {
                    let mut read = vec![0; random.usize(..=expected.len() - at)];
                    overlay.read(at as u64, &mut read).unwrap();
                    assert!(read == expected[at..at + read.len()]);
                }
            }
            assert_eq!(overlay.len().unwrap(), expected.len() as u64);
        }
        assert!(overlay.read(expected.len() as u64, &mut [0]).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }

    #[test]
    fn a_panic_is_a_result() {
        assert_eq!(guarded(|| 1), Some(1));
        assert_eq!(guarded(|| -> u8 { panic!("a damaged page") }), None);
    }
}
