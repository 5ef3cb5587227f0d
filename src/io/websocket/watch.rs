//! Supervises a dialled connection: keep-alive messages, silence, and age.
//!
//! The connection handles pings and pongs of the protocol. This module is for peers that need messages (`keepAlive`),
//! and for the time without a message, even if the peer sends pongs (`dataTimeout`). Nothing here reads or writes a
//! socket.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use super::client_queue::Peer;
use super::config::Settings;
use crate::sync::locked;

/// The property `keepAlive`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeepAlive {
    /// `{{now}}` in it is replaced by the time in ms since the epoch
    pub message: String,
    pub every: Duration,
    pub when: KeepAliveWhen,
}

/// When a message of `keepAlive` is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeepAliveWhen {
    /// after this time without a message from the peer
    #[default]
    Quiet,
    /// also while the peer sends
    Always,
}

impl KeepAlive {
    fn text(&self) -> String {
        if !self.message.contains("{{now}}") {
            return self.message.clone();
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.message.replace("{{now}}", &now.as_millis().to_string())
    }
}

/// When messages of a peer were last delivered.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<HeardAt>);

#[derive(Debug, Default)]
struct HeardAt {
    last: Option<Instant>,
    /// batches that wait for the engine: meanwhile the peer is not read
    waiting: usize,
}

impl Heard {
    /// Messages arrived; they are being delivered until the result is dropped.
    pub fn begin(&self) -> Hearing<'_> {
        let mut heard = locked(&self.0);
        heard.last = Some(Instant::now());
        heard.waiting += 1;
        Hearing(self)
    }

    /// A connection begins.
    pub fn reset(&self) {
        locked(&self.0).last = Some(Instant::now());
    }

    fn last(&self) -> Option<Instant> {
        let heard = locked(&self.0);
        if heard.waiting > 0 { Some(Instant::now()) } else { heard.last }
    }
}

/// Ends the delivery when dropped: see [`Heard::begin`].
pub(super) struct Hearing<'h>(&'h Heard);

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        let mut heard = locked(&self.0.0);
        heard.last = Some(Instant::now());
        heard.waiting -= 1;
    }
}

/// Why a connection must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// no message arrived for `dataTimeout`
    Silent,
    /// it has reached `maxConnectionAge`
    Old,
}

/// Sends the messages of `keepAlive` until the connection must end. `opened` is when it was opened.
pub(super) async fn watch(peer: &Peer, terms: &Settings, opened: Instant) -> Due {
    let mut last_sent = opened;
    loop {
        let heard = peer.heard.last().map_or(opened, |last| last.max(opened));
        let silent = terms.data_timeout.map(|limit| heard + limit);
        let old = terms.max_connection_age.map(|age| opened + age);
        let beat = terms.keep_alive.as_ref().map(|keep| match keep.when {
            KeepAliveWhen::Always => last_sent + keep.every,
            KeepAliveWhen::Quiet => last_sent.max(heard) + keep.every,
        });
        let Some(next) = [silent, old, beat].into_iter().flatten().min() else { return std::future::pending().await };
        let now = Instant::now();
        if next > now {
            tokio::time::sleep_until(next.into()).await;
            continue;
        }
        if silent.is_some_and(|at| at <= now) {
            return Due::Silent;
        }
        if old.is_some_and(|at| at <= now) {
            return Due::Old;
        }
        if let Some(keep) = &terms.keep_alive {
            last_sent = now;
            peer.say(&[keep.text()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn terms(keep: Option<KeepAliveWhen>, data_timeout: u64, age: u64) -> Settings {
        let limit = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
        let keep_alive =
            keep.map(|when| KeepAlive { message: "ping".to_owned(), every: Duration::from_millis(30), when });
        let mut terms = Settings::default();
        (terms.keep_alive, terms.data_timeout, terms.max_connection_age) =
            (keep_alive, limit(data_timeout), limit(age));
        terms
    }

    #[tokio::test]
    async fn a_connection_is_kept_alive_until_it_is_due() {
        let peer = Peer::new("p".to_owned(), Arc::default(), 0);
        let sent = || std::iter::from_fn(|| peer.next_first()).count();
        // Tests must not depend on speed, so they wait only for what must happen.
        assert_eq!(watch(&peer, &terms(Some(KeepAliveWhen::Always), 0, 200), Instant::now()).await, Due::Old);
        assert!(sent() >= 1);
        assert_eq!(watch(&peer, &terms(Some(KeepAliveWhen::Quiet), 200, 0), Instant::now()).await, Due::Silent);
        assert!(sent() >= 1);
        // The engine has taken the waiting batch.
        let hearing = peer.heard.begin();
        assert_eq!(watch(&peer, &terms(Some(KeepAliveWhen::Quiet), 20, 100), Instant::now()).await, Due::Old);
        assert_eq!(sent(), 0);
        drop(hearing);
        assert_eq!(watch(&peer, &terms(None, 20, 10_000), Instant::now()).await, Due::Silent);
    }

    #[test]
    fn the_time_is_put_in() {
        let keep = KeepAlive { message: "{\"t\":{{now}}}".to_owned(), ..KeepAlive::default() };
        let time: i64 = keep.text()[5..].trim_end_matches('}').parse().expect("a number");
        assert!(time > 1_700_000_000_000);
    }
}
