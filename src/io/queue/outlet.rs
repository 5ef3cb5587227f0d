//! How a worker hands results to sinks.

use std::sync::Arc;
use std::time::Instant;

use super::MessageBatch;
use crate::value::Row;

/// A sink as a worker sees it. Its methods never wait.
pub trait Outlet: Send + Sync {
    /// Takes a batch. If the sink has too much, it follows its documented policy, and counts what it drops.
    fn send(&self, batch: &Arc<MessageBatch>);

    /// Whether the worker may continue. An outlet that returns `false` raises its rule's signal when that changes.
    fn ready(&self) -> bool {
        true
    }

    /// Whether [`Outlet::ready`] can ever return `false`.
    fn may_wait(&self) -> bool {
        true
    }

    /// Whether the sink's clients may be connected to any process of a cluster.
    fn is_everywhere(&self) -> bool {
        false
    }

    /// Takes a batch for the clients in this process, and returns how many of its messages a client received. The
    /// others are not lost yet: a client in another process may receive them.
    fn send_on(&self, batch: &Arc<MessageBatch>) -> usize {
        self.send(batch);
        batch.len()
    }

    /// Counts messages of a batch that no client in any process has received.
    fn finds_nobody(&self, _batch: &MessageBatch, _messages: usize) {}
}

/// A sink that takes rows, as a worker sees it. Its methods never wait.
pub trait RowOutlet: Send + Sync {
    /// Takes rows in order; `received` is when the input that led to them was read, if known. Rows that the sink
    /// refuses are left out, with a call of `error` for each.
    fn send(&self, rows: Vec<Row>, received: Option<Instant>, error: &mut dyn FnMut(String));

    /// As [`Outlet::ready`].
    fn ready(&self) -> bool;
}

/// A worker's handle to a sink of either kind.
#[derive(Clone)]
pub enum SinkHandle {
    /// encoded messages
    Messages(Arc<dyn Outlet>),
    Rows(Arc<dyn RowOutlet>),
}
