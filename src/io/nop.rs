//! The `nop` sink: discards everything and counts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::future::{self, BoxFuture};

use crate::io::LinkStatus;
use crate::io::queue::{MessageBatch, Outlet, WayOut};
use crate::io::sink::{OpenSink, SinkSettings};
use crate::property::{Property, Type};

/// eKuiper's `nop` can write what it drops to its log.
pub const PROPERTIES: &[Property<()>] = &[Property::without_effect("log", Type::Flag)];

/// The settings: there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopSink;

impl SinkSettings for NopSink {
    fn kind(&self) -> &'static str {
        "nop"
    }
}

/// A sink that discards.
#[derive(Debug)]
pub struct Nop {
    messages: AtomicU64,
    bytes: AtomicU64,
    since: SystemTime,
}

impl NopSink {
    pub fn open(self) -> Arc<Nop> {
        Arc::new(Nop { messages: AtomicU64::new(0), bytes: AtomicU64::new(0), since: SystemTime::now() })
    }
}

impl Outlet for Nop {
    fn send(&self, batch: &Arc<MessageBatch>) {
        self.messages.fetch_add(batch.len() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(batch.byte_len() as u64, Ordering::Relaxed);
    }

    fn may_wait(&self) -> bool {
        false
    }
}

impl OpenSink for Arc<Nop> {
    fn outlet(&self) -> WayOut {
        WayOut::Messages(self.clone())
    }

    fn status(&self) -> LinkStatus {
        LinkStatus {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            ..LinkStatus::local("nop", self.since)
        }
    }

    fn close(&self, _flush: Duration) -> BoxFuture<'_, ()> {
        Box::pin(future::ready(()))
    }
}
