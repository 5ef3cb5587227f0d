//! One record of a log: numbered messages.
//!
//! It begins with a prefix that has its own checksum. So a damaged length is noticed before it is used: a record that
//! is too short for its prefix was not written completely, and everything else that does not fit is damage. The
//! checksum of the prefix begins with a number that only the segment's owner knows, its [`Seal`], so bytes that look
//! like a record are one.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::format::address::Address;
use crate::io::queue::MessageBatch;

/// The size of a [`Prefix`], bytes.
pub(super) const PREFIX: usize = 24;

/// The number at the start of the checksums of a segment's prefixes. The default is the number that older versions
/// used; it is not secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seal(Option<u32>);

impl Seal {
    pub fn random() -> Seal {
        Seal(Some(rand::random()))
    }

    /// Parses what [`Seal::fmt`] has written.
    pub fn parse(text: &str) -> Option<Seal> {
        u32::from_str_radix(text, 16).ok().map(|number| Seal(Some(number)))
    }

    fn sum(self, bytes: &[u8]) -> u32 {
        let mut hasher = crc32fast::Hasher::new_with_initial(self.0.unwrap_or_default());
        hasher.update(bytes);
        hasher.finalize()
    }

    /// Whether senders do not know the seal, so that every valid prefix is genuine.
    fn is_secret(self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Display for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0.unwrap_or_default())
    }
}

/// The start of a record, after the prefix's own checksum.
struct Prefix {
    /// the checksum of head and body
    sum: u32,
    head_length: u32,
    body_length: u32,
    /// the number after the last message
    end: u64,
}

/// Messages, with the number of the first one.
#[derive(Clone, Debug)]
pub(super) struct Lot {
    pub first: u64,
    pub batch: Arc<MessageBatch>,
}

impl Lot {
    /// The number after its last message.
    pub fn end(&self) -> u64 {
        self.first + self.batch.len() as u64
    }
}

/// The description of a record's body.
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
    #[error("a record is damaged")]
    Damaged,
    #[error(transparent)]
    System(io::Error),
}

impl Unreadable {
    /// Whether it may be readable later, because the disk has not reported a loss.
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

impl Prefix {
    fn bytes(&self, seal: Seal) -> [u8; PREFIX] {
        let mut bytes = [0; PREFIX];
        bytes[4..8].copy_from_slice(&self.sum.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.head_length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.body_length.to_le_bytes());
        bytes[16..].copy_from_slice(&self.end.to_le_bytes());
        let own = seal.sum(&bytes[4..]);
        bytes[..4].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    /// `None`: the bytes are not a prefix.
    fn parse(bytes: &[u8; PREFIX], seal: Seal) -> Option<Prefix> {
        let number = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let end = u64::from(number(16)) | u64::from(number(20)) << 32;
        let prefix = Prefix { sum: number(4), head_length: number(8), body_length: number(12), end };
        (seal.sum(&bytes[4..]) == number(0)).then_some(prefix)
    }

    /// The size of head and body.
    fn size(&self) -> u64 {
        u64::from(self.head_length) + u64::from(self.body_length)
    }
}

/// Appends the record of a lot.
pub(super) fn put(out: &mut Vec<u8>, lot: &Lot, seal: Seal) {
    let batch = &lot.batch;
    let body = batch.bytes();
    let addresses = (0..batch.len()).filter_map(|index| batch.address(index).cloned()).collect();
    let head = Head { first: lot.first, text: batch.text, ends: batch.ends().to_vec(), addresses };
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    // Writing to a vector cannot fail.
    let mut whole = postcard::to_extend(&head, std::mem::take(out)).unwrap_or_default();
    let content = start + PREFIX;
    let head_length = (whole.len() - content) as u32;
    whole.extend_from_slice(body);
    let sum = crc32fast::hash(&whole[content..]);
    let prefix = Prefix { sum, head_length, body_length: body.len() as u32, end: lot.end() };
    whole[start..content].copy_from_slice(&prefix.bytes(seal));
    *out = whole;
}

/// The next record and its size; `None` at the end.
///
/// # Errors
/// [`Unreadable`]
pub(super) fn read(input: &mut impl Read, seal: Seal) -> Result<Option<(Lot, u64)>, Unreadable> {
    let mut bytes = [0; PREFIX];
    let mut there = 0;
    while there < PREFIX {
        match input.read(&mut bytes[there..]) {
            Ok(0) if there == 0 => return Ok(None),
            Ok(0) => return Err(Unreadable::Torn),
            Ok(read) => there += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Unreadable::System(error)),
        }
    }
    let prefix = Prefix::parse(&bytes, seal).ok_or(Unreadable::Damaged)?;
    let size = prefix.size();
    let mut rest = Vec::new();
    input.take(size).read_to_end(&mut rest).map_err(Unreadable::System)?;
    if rest.len() as u64 != size {
        return Err(Unreadable::Torn);
    }
    if crc32fast::hash(&rest) != prefix.sum {
        return Err(Unreadable::Damaged);
    }
    let rest = Bytes::from(rest);
    let head = postcard::from_bytes(&rest[..prefix.head_length as usize]);
    let head: Head = head.map_err(|_| Unreadable::Damaged)?;
    let body = rest.slice(prefix.head_length as usize..);
    let fits = head.ends.is_sorted() && head.ends.last().is_none_or(|&end| end as usize <= body.len());
    let addressed = head.addresses.is_empty() || head.addresses.len() == head.ends.len();
    if !fits || !addressed || head.ends.is_empty() {
        return Err(Unreadable::Damaged);
    }
    let batch = MessageBatch::new(body, head.ends, head.text, None);
    let batch = if head.addresses.is_empty() { batch } else { batch.addressed(head.addresses) };
    Ok(Some((Lot { first: head.first, batch: Arc::new(batch) }, PREFIX as u64 + size)))
}

/// The position of the first complete record in bytes that begin with a damaged one, whose first message should be
/// `next`.
pub(super) fn next_whole(bytes: &[u8], seal: Seal, next: u64) -> Option<usize> {
    let mut at = 0;
    while let Some(first) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let prefix = Prefix::parse(first, seal);
        let is_whole = || matches!(read(&mut &bytes[at..], seal), Ok(Some((lot, _))) if lot.first >= next);
        if prefix.is_some() && at > 0 && is_whole() {
            return Some(at);
        }
        at += match prefix {
            Some(prefix) => PREFIX + usize::try_from(prefix.size()).ok()?,
            None if seal.is_secret() => 1,
            // A message may begin here, and its sender may have put a forged record into it.
            None => return None,
        };
    }
    None
}

/// The number after the last message in damaged bytes, which should begin with message `next`, as far as the prefixes
/// in them show. At least one message counts as lost.
///
/// There cannot be more messages than bytes: in segments of older versions, senders may have put forged prefixes into
/// messages.
pub(super) fn end_of_damage(bytes: &[u8], seal: Seal, next: u64) -> u64 {
    let mut end = next + 1;
    let mut rest = bytes;
    while let Some(first) = rest.first_chunk() {
        let prefix = Prefix::parse(first, seal);
        let prefix = prefix.filter(|prefix| (next..=next + bytes.len() as u64).contains(&prefix.end));
        end = end.max(prefix.as_ref().map_or(0, |prefix| prefix.end));
        // If no record begins here, one may begin at the next byte.
        let step = prefix.map_or(1, |prefix| (PREFIX as u64 + prefix.size()).min(rest.len() as u64) as usize);
        rest = &rest[step..];
    }
    end
}
