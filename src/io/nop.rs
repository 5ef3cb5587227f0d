//! The `nop` sink: discards everything and counts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::io::queue::{MessageBatch, Outlet};

/// A sink that discards.
#[derive(Debug, Default)]
pub struct Nop {
    pub messages: AtomicU64,
    /// their bytes
    pub bytes: AtomicU64,
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
