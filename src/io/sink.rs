//! What all sinks have in common: what their settings decide, and what the engine asks of an open one.
//!
//! A connector implements both traits in its own files. It must not know rules or threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::future::{self, BoxFuture};

use super::LinkStatus;
use super::queue::{MessageBatch, WayOut};
use super::reach::{Reach, ReachError, Variables};
use super::spool::CacheSettings;
use super::websocket::ClientStatus;
use crate::format::sink_format::SinkFormat;

/// The settings of a sink.
pub trait SinkSettings {
    /// The kind, as rules name it; empty for sinks that no rule names.
    fn kind(&self) -> &'static str;

    /// The format of its messages, which its own properties may change; `has_format`: the user has set `format`.
    ///
    /// # Errors
    /// What contradicts the common properties.
    fn form(&mut self, format: SinkFormat, _has_format: bool) -> Result<SinkFormat, String> {
        Ok(format)
    }

    /// How messages are kept for a peer that is away, and the address of that peer; `None`: they are not kept.
    fn cache(&self) -> Option<(CacheSettings, String)> {
        None
    }

    /// Checks that a rule which came over the network may send there.
    ///
    /// # Errors
    /// [`ReachError`]
    fn check(&self, _reach: &Reach) -> Result<(), ReachError> {
        Ok(())
    }

    /// Files that are read later may name only these variables: they may be written by others.
    fn limit_variables(&mut self, _allowed: &Variables) {}

    /// Lets a rule start although a peer is missing: the rule was accepted before.
    fn skip_checks(&mut self) {}
}

/// An open sink. Dropped, it sends nothing more.
pub trait OpenSink: Send + Sync {
    /// Where results go.
    fn outlet(&self) -> WayOut;

    fn status(&self) -> LinkStatus;

    /// Its clients, each with what waits for it and what it lost.
    fn clients(&self) -> Vec<ClientStatus> {
        Vec::new()
    }

    /// Ends if nothing waits, without waiting for a peer. It must be closed all the same.
    fn leave_if_idle(&self) -> BoxFuture<'_, ()> {
        Box::pin(future::ready(()))
    }

    /// Sends what waits, for up to `flush`, and ends. The status stays readable.
    fn close(&self, _flush: Duration) -> BoxFuture<'_, ()> {
        Box::pin(future::ready(()))
    }
}

/// What a sink within this process has taken, and since when.
#[derive(Debug)]
pub struct LocalCounts {
    messages: AtomicU64,
    bytes: AtomicU64,
    since: SystemTime,
}

impl LocalCounts {
    /// Nothing so far, from now on.
    pub fn begin() -> LocalCounts {
        LocalCounts { messages: AtomicU64::new(0), bytes: AtomicU64::new(0), since: SystemTime::now() }
    }

    pub fn add(&self, batch: &MessageBatch) {
        self.messages.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(batch.byte_len() as u64, Ordering::Relaxed);
    }

    /// The status of the sink under this name.
    pub fn status(&self, name: &str) -> LinkStatus {
        LinkStatus {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            ..LinkStatus::local(name, self.since)
        }
    }
}
