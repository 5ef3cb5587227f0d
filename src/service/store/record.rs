//! The form of records on disk: each with a checksum, and a count and sum over all of them.
//!
//! The database checks its pages after a crash, but not when they are read, and a disk may change a bit at any time. A
//! checksum of name and content detects a changed record; count and sum detect a missing one.

use super::{Change, RecordKind, Target};

/// The first byte of a key.
fn letter(kind: RecordKind) -> u8 {
    match kind {
        RecordKind::Stream => b's',
        RecordKind::Table => b't',
        RecordKind::Rule => b'r',
        RecordKind::ConfKey => b'k',
        RecordKind::Connection => b'c',
        RecordKind::View => b'v',
    }
}

/// The first byte of the keys of states.
const STATE: u8 = b'm';

/// The key of a change's record; `None` if it is not about one.
pub(super) fn key_of(change: &Change) -> Option<Vec<u8>> {
    let letter = match change.target {
        Target::Record(kind) => letter(kind),
        Target::State => STATE,
        Target::Import => return None,
    };
    Some(key(letter, &change.name))
}

pub(super) fn record_key(kind: RecordKind, name: &str) -> Vec<u8> {
    key(letter(kind), name)
}

/// The key of a rule's state.
pub(super) fn state_key(rule: &str) -> Vec<u8> {
    key(STATE, rule)
}

fn key(letter: u8, name: &str) -> Vec<u8> {
    [&[letter], name.as_bytes()].concat()
}

/// The range of the keys of states, end exclusive.
pub(super) const STATES: ([u8; 1], [u8; 1]) = ([STATE], [STATE + 1]);

/// The target of a key and its name, as far as they are readable; `None` for an unknown kind.
pub(super) fn named(key: &[u8]) -> (Option<Target>, String) {
    let Some((first, name)) = key.split_first() else { return (None, String::new()) };
    let target = match *first {
        STATE => Some(Target::State),
        first => RecordKind::ALL.into_iter().find(|kind| letter(*kind) == first).map(Target::Record),
    };
    (target, String::from_utf8_lossy(name).into_owned())
}

/// The stored form of a content: the checksum of key and content comes first.
pub(super) fn sealed(key: &[u8], content: &[u8]) -> Vec<u8> {
    [&checksum(key, content).to_le_bytes()[..], content].concat()
}

/// The content of a stored value; `None` if key or content have changed.
pub(super) fn opened<'a>(key: &[u8], stored: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, content) = stored.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == checksum(key, content)).then_some(content)
}

fn checksum(key: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    // The length comes first, so that a byte cannot move from the name to the content unnoticed.
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key);
    hasher.update(content);
    hasher.finalize()
}

/// The number of records, and the sum of their checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub count: u64,
    pub sum: u64,
}

impl Total {
    /// Adds a record in its stored form.
    pub fn add(&mut self, stored: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.sum = self.sum.wrapping_add(weight(stored));
    }

    /// Removes a record in its stored form.
    pub fn remove(&mut self, stored: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(weight(stored));
    }
}

fn weight(stored: &[u8]) -> u64 {
    stored.first_chunk::<4>().map_or(0, |sum| u64::from(u32::from_le_bytes(*sum)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_bit_is_seen() {
        let key = record_key(RecordKind::Rule, "r1");
        let stored = sealed(&key, b"{\"id\": \"r1\"}");
        assert_eq!(opened(&key, &stored), Some(&b"{\"id\": \"r1\"}"[..]));
        for bit in 0..stored.len() * 8 {
            let mut changed = stored.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(opened(&key, &changed), None, "bit {bit}");
        }
        for bit in 0..key.len() * 8 {
            let mut changed = key.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(opened(&changed, &stored), None, "bit {bit} of the key");
        }
        assert_eq!(opened(&key, &[1, 2]), None);
    }

    #[test]
    fn keys_say_what_they_are_of() {
        for kind in RecordKind::ALL {
            assert_eq!(named(&record_key(kind, "ä/b")), (Some(Target::Record(kind)), "ä/b".to_owned()));
        }
        assert_eq!(named(&state_key("r")), (Some(Target::State), "r".to_owned()));
        assert_eq!(named(b"?x").0, None);
        assert_eq!(named(b"").0, None);
    }
}
