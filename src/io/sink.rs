//! The interfaces of all sinks: one for their settings, one for open sinks.
//!
//! A connector implements both traits in its own files. These do not know rules or threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::future::{self, BoxFuture};

use super::LinkStatus;
use super::queue::{MessageBatch, SinkHandle};
use super::reach::{Reach, ReachError, Variables};
use super::spool::CacheSettings;
use super::websocket::ClientStatus;
use crate::format::sink_format::SinkFormat;

/// The settings of a sink.
pub trait SinkSettings {
    /// The kind in rules; empty for sinks that rules cannot name.
    fn kind(&self) -> &'static str;

    /// The format of its messages, which its own properties may change; `has_format`: the user has set `format`.
    ///
    /// # Errors
    /// A contradiction to the properties of every sink.
    fn form(&mut self, format: SinkFormat, _has_format: bool) -> Result<SinkFormat, String> {
        Ok(format)
    }

    /// How messages are stored while the peer is unreachable, and the peer's address; `None`: they are not stored.
    fn cache(&self) -> Option<(CacheSettings, String)> {
        None
    }

    /// Checks that a rule from the network may send to the destination.
    ///
    /// # Errors
    /// [`ReachError`]
    fn check(&self, _reach: &Reach) -> Result<(), ReachError> {
        Ok(())
    }

    /// Limits the variables that files read later may name, because others may write these files.
    fn limit_variables(&mut self, _allowed: &Variables) {}

    /// Whether reading its properties again may give other settings, or an error, because files have changed.
    fn has_files(&self) -> bool {
        true
    }

    /// Whether a rule may be refused because a peer is missing.
    fn has_checks(&self) -> bool {
        false
    }

    /// Allows a rule to start although a peer is missing, because the rule was accepted before.
    fn skip_checks(&mut self) {}
}

/// An open sink. After it is dropped, nothing more is sent.
pub trait OpenSink: Send + Sync {
    /// The handle for workers.
    fn outlet(&self) -> SinkHandle;

    fn status(&self) -> LinkStatus;

    /// Its clients, each with its waiting and lost messages.
    fn clients(&self) -> Vec<ClientStatus> {
        Vec::new()
    }

    /// Its rule leaves it, and the rule's next version may send to another sink with the same peers: what waits here
    /// goes first, also what other processes still send. Must be called before that version sends anything.
    fn go_first(&self) {}

    /// Ends the sink if nothing waits, without waiting for a peer. It must still be closed afterwards.
    fn leave_if_idle(&self) -> BoxFuture<'_, ()> {
        Box::pin(future::ready(()))
    }

    /// Sends waiting messages for up to `flush`, and ends the sink. Its status stays readable.
    fn close(&self, _flush: Duration) -> BoxFuture<'_, ()> {
        Box::pin(future::ready(()))
    }
}

/// The counts of a sink inside this process, and the time of its start.
#[derive(Debug)]
pub struct LocalCounts {
    messages: AtomicU64,
    bytes: AtomicU64,
    since: SystemTime,
}

impl LocalCounts {
    /// Starts counting from 0.
    pub fn begin() -> LocalCounts {
        LocalCounts { messages: AtomicU64::new(0), bytes: AtomicU64::new(0), since: SystemTime::now() }
    }

    pub fn add(&self, batch: &MessageBatch) {
        self.messages.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(batch.byte_len() as u64, Ordering::Relaxed);
    }

    /// The status of the sink with this name.
    pub fn status(&self, name: &str) -> LinkStatus {
        LinkStatus {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            ..LinkStatus::new(name, self.since)
        }
    }
}
