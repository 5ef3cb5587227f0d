//! The `nop` sink: discards everything and counts it.

use std::sync::Arc;

use crate::io::LinkStatus;
use crate::io::queue::{MessageBatch, Outlet, SinkHandle};
use crate::io::sink::{LocalCounts, OpenSink, SinkSettings};
use crate::property::{Property, Type};

/// eKuiper's `nop` can write what it drops to its log.
pub const PROPERTIES: &[Property<()>] = &[Property::without_effect("log", Type::Flag)];

/// The settings: there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NopSink;

impl SinkSettings for NopSink {
    fn has_files(&self) -> bool {
        false
    }

    fn kind(&self) -> &'static str {
        "nop"
    }
}

/// A sink that discards.
#[derive(Debug)]
pub struct Nop(LocalCounts);

impl NopSink {
    pub fn open(self) -> Arc<Nop> {
        Arc::new(Nop(LocalCounts::begin()))
    }
}

impl Outlet for Nop {
    fn send(&self, batch: &Arc<MessageBatch>) {
        self.0.add(batch);
    }

    fn may_wait(&self) -> bool {
        false
    }
}

impl OpenSink for Arc<Nop> {
    fn outlet(&self) -> SinkHandle {
        SinkHandle::Messages(self.clone())
    }

    fn status(&self) -> LinkStatus {
        self.0.status("nop")
    }
}
