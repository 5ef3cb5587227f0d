//! One record of a log: messages with their numbers, and a checksum over both.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::format::address::Address;
use crate::io::queue::MessageBatch;

/// The largest record, bytes: lengths above it are damage.
const LARGEST: u32 = 512 << 20;

/// Checksum, and the lengths of head and body.
pub(super) const PREFIX: usize = 12;

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

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("its last record is incomplete")]
    Torn,
    /// what was read is behind the record
    #[error("a record has another checksum")]
    Damaged,
    #[error(transparent)]
    System(io::Error),
}

impl Unreadable {
    /// Whether it may be readable later: the disk has not said that it lost it.
    pub fn may_pass(&self) -> bool {
        match self {
            Unreadable::Torn | Unreadable::Damaged => false,
            Unreadable::System(error) => {
                !matches!(error.raw_os_error(), Some(libc::EIO | libc::EBADMSG | libc::EUCLEAN | libc::ENODATA))
            }
        }
    }
}

impl From<Unreadable> for io::Error {
    fn from(wrong: Unreadable) -> io::Error {
        match wrong {
            Unreadable::System(error) => error,
            wrong => io::Error::new(io::ErrorKind::InvalidData, wrong),
        }
    }
}

/// Appends the record of a lot.
pub(super) fn put(out: &mut Vec<u8>, lot: &Lot) {
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
///
/// # Errors
/// [`Unreadable`]
pub(super) fn read(input: &mut impl Read) -> Result<Option<(Lot, u64)>, Unreadable> {
    let mut prefix = [0; PREFIX];
    let mut there = 0;
    while there < PREFIX {
        match input.read(&mut prefix[there..]) {
            Ok(0) if there == 0 => return Ok(None),
            Ok(0) => return Err(Unreadable::Torn),
            Ok(read) => there += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Unreadable::System(error)),
        }
    }
    let number = |at: usize| u32::from_le_bytes([prefix[at], prefix[at + 1], prefix[at + 2], prefix[at + 3]]);
    let (sum, head_length, body_length) = (number(0), number(4), number(8));
    let size = u64::from(head_length) + u64::from(body_length);
    if head_length > LARGEST || body_length > LARGEST {
        return Err(Unreadable::Damaged);
    }
    // Memory grows with what is there, not with what a damaged length says.
    let mut rest = Vec::new();
    input.take(size).read_to_end(&mut rest).map_err(Unreadable::System)?;
    if rest.len() as u64 != size {
        return Err(Unreadable::Torn);
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&prefix[4..]);
    hasher.update(&rest);
    if hasher.finalize() != sum {
        return Err(Unreadable::Damaged);
    }
    let rest = Bytes::from(rest);
    let head = postcard::from_bytes(&rest[..head_length as usize]);
    let head: Head = head.map_err(|_| Unreadable::Damaged)?;
    let body = rest.slice(head_length as usize..);
    let fits = head.ends.is_sorted() && head.ends.last().is_none_or(|&end| end as usize <= body.len());
    let addressed = head.addresses.is_empty() || head.addresses.len() == head.ends.len();
    if !fits || !addressed || head.ends.is_empty() {
        return Err(Unreadable::Damaged);
    }
    let batch = MessageBatch::new(body, head.ends, head.text, None);
    let batch = if head.addresses.is_empty() { batch } else { batch.addressed(head.addresses) };
    Ok(Some((Lot { first: head.first, batch: Arc::new(batch) }, PREFIX as u64 + size)))
}
