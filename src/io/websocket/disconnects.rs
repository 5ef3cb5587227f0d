//! Why connections end, counted by cause: for the metrics, of all endpoints together.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a connection ended, where it was not a close frame of either side that ended it in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// the peer took no bytes for `writeTimeout`
    WriteTimeout,
    /// nothing was heard of the peer for `idleTimeout`
    IdleTimeout,
    /// `slowClient: disconnect`
    SlowClient,
    /// a message above `maxMessageSize`
    MessageSize,
    /// the peer broke the protocol
    Protocol,
    /// a text message that is not UTF-8
    Utf8,
    /// the network or the peer's system ended it
    Broken,
}

/// Every cause with its name in the metrics, in the order of the variants.
const CAUSES: [(Cause, &str); 7] = [
    (Cause::WriteTimeout, "write timeout"),
    (Cause::IdleTimeout, "idle timeout"),
    (Cause::SlowClient, "slow client"),
    (Cause::MessageSize, "message size"),
    (Cause::Protocol, "protocol"),
    (Cause::Utf8, "utf-8"),
    (Cause::Broken, "broken"),
];

/// How many connections ended, by cause.
#[derive(Debug, Default)]
pub(super) struct Disconnects([AtomicU64; CAUSES.len()]);

impl Disconnects {
    pub fn count(&self, cause: Cause) {
        self.0[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// All counts with the names of their causes.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        CAUSES.iter().zip(&self.0).map(|((_, name), count)| (*name, count.load(Ordering::Relaxed))).collect()
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
}
