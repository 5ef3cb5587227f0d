//! What all connections of the process share: counts of why they ended, and a memory budget for incomplete messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::protocol::ReadError;

/// Why a connection ended without a close frame from either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// the peer accepted no bytes for `writeTimeout`
    WriteTimeout,
    /// the peer was silent for `idleTimeout`
    IdleTimeout,
    /// `slowClient: disconnect`
    SlowClient,
    /// a message above `maxMessageSize`
    MessageSize,
    /// a compressed message larger than `maxMessageSize` after decompression
    Bomb,
    /// incomplete messages of all connections took too much memory
    Memory,
    /// the peer broke the protocol
    Protocol,
    /// a text message that is not UTF-8
    Utf8,
    /// the network or the peer's system ended it
    Broken,
}

/// Every cause with its name in the metrics, in the order of the variants.
const CAUSES: [(Cause, &str); 9] = [
    (Cause::WriteTimeout, "write timeout"),
    (Cause::IdleTimeout, "idle timeout"),
    (Cause::SlowClient, "slow client"),
    (Cause::MessageSize, "message size"),
    (Cause::Bomb, "inflated size"),
    (Cause::Memory, "memory"),
    (Cause::Protocol, "protocol"),
    (Cause::Utf8, "utf-8"),
    (Cause::Broken, "broken"),
];

impl Cause {
    pub fn of(error: &ReadError) -> Cause {
        match error {
            ReadError::Size { .. } => Cause::MessageSize,
            ReadError::Bomb { .. } => Cause::Bomb,
            ReadError::Budget { .. } => Cause::Memory,
            ReadError::Utf8 => Cause::Utf8,
            ReadError::Reset | ReadError::Io(_) => Cause::Broken,
            _ => Cause::Protocol,
        }
    }
}

#[derive(Debug)]
pub(super) struct Totals {
    ended: [AtomicU64; CAUSES.len()],
    /// bytes of incomplete messages
    unfinished: AtomicUsize,
    unfinished_limit: usize,
}

impl Totals {
    /// Makes the totals. `unfinished_limit`: the most bytes of all incomplete messages together.
    pub fn new(unfinished_limit: usize) -> Totals {
        Totals { ended: Default::default(), unfinished: AtomicUsize::new(0), unfinished_limit }
    }

    /// Counts the end of a connection.
    pub fn count(&self, cause: Cause) {
        self.ended[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of incomplete messages.
    pub fn unfinished_bytes(&self) -> usize {
        self.unfinished.load(Ordering::Relaxed)
    }

    /// How many connections ended, by cause.
    pub fn disconnects(&self) -> Vec<(&'static str, u64)> {
        CAUSES.iter().zip(&self.ended).map(|((_, name), count)| (*name, count.load(Ordering::Relaxed))).collect()
    }
}

impl Default for Totals {
    fn default() -> Totals {
        Totals::new(usize::MAX)
    }
}

/// Incomplete messages up to this size are never refused: each connection has a read buffer of more than this.
const FREE: usize = 8 * 1024;

/// Incomplete messages up to this size have a reserve: those of others that are large do not end them.
const SMALL: usize = 64 * 1024;

/// The reserve is this share of the budget.
const RESERVE: usize = 8;

/// The share of one connection's incomplete message in the budget; freed when this is dropped.
pub(super) struct Held {
    totals: Arc<Totals>,
    bytes: usize,
}

impl Held {
    pub fn new(totals: &Arc<Totals>) -> Held {
        Held { totals: totals.clone(), bytes: 0 }
    }

    /// Replaces its share by `bytes`. False, and unchanged, if the budget does not allow it.
    pub fn set(&mut self, bytes: usize) -> bool {
        let unfinished = &self.totals.unfinished;
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            let limit = if bytes <= FREE {
                usize::MAX
            } else if bytes <= SMALL {
                self.limit().saturating_add(self.limit() / RESERVE)
            } else {
                self.limit()
            };
            if unfinished.fetch_add(more, Ordering::Relaxed) + more > limit {
                unfinished.fetch_sub(more, Ordering::Relaxed);
                return false;
            }
        } else if bytes < self.bytes {
            unfinished.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
        true
    }

    pub fn limit(&self) -> usize {
        self.totals.unfinished_limit
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_counted_under_its_own_name() {
        for (place, (cause, name)) in CAUSES.into_iter().enumerate() {
            assert_eq!(cause as usize, place, "{name}");
        }
    }

    #[test]
    fn a_budget_is_shared_and_given_back() {
        let unit = SMALL;
        let totals = Arc::new(Totals::new(100 * unit));
        let (mut one, mut two) = (Held::new(&totals), Held::new(&totals));
        assert!(one.set(60 * unit) && two.set(40 * unit) && !two.set(41 * unit));
        assert!(one.set(59 * unit) && two.set(41 * unit));
        drop(one);
        assert!(two.set(100 * unit) && !two.set(101 * unit));
    }

    #[test]
    fn small_messages_count_and_have_a_reserve() {
        let totals = Arc::new(Totals::new(8 * SMALL));
        let mut large = Held::new(&totals);
        assert!(large.set(8 * SMALL) && !large.set(8 * SMALL + 1));
        let mut small: Vec<Held> = (0..3).map(|_| Held::new(&totals)).collect();
        assert!(small[0].set(SMALL / 2) && small[1].set(SMALL / 2));
        assert!(!small[2].set(FREE + 1), "the reserve is limited, too");
        assert_eq!(totals.unfinished_bytes(), 9 * SMALL);
        assert!(small[2].set(FREE), "others cannot end the connection of one that sends little");
        assert_eq!(totals.unfinished_bytes(), 9 * SMALL + FREE);
    }
}
