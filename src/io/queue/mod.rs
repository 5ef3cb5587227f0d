//! The queues between sockets and workers: apart from `dataflow::worker`, the only place that knows both.
//!
//! Inbound, a socket task passes [`FrameBatch`]es to the worker of its stream through a bounded crossbeam channel. A
//! task never blocks its thread: while the channel is full, [`FrameSender::send`] waits (the socket is not read, TCP
//! slows the sender, nothing is lost). A worker never awaits: it takes the waiting batches.
//!
//! Outbound, a worker passes encoded [`MessageBatch`]es to the [`Outlet`]s of a rule. An outlet takes every batch. One
//! that must not lose anything returns `false` from [`Outlet::ready`] while it is over its limit; then the worker takes
//! no further input for the rule's streams until the outlet raises its [`Signal`]. The worker asks before each turn,
//! not before each batch. So the queue can hold its limit and the results of one turn, which takes up to 32
//! [`FrameBatch`]es (16,384 messages, or 32 times [`BATCH_BYTES`] and a message each), and the results of the windows
//! that these close.

mod frame;
mod inbound;
mod messages;
mod outlet;
mod signal;

pub use frame::{BATCH_BYTES, BATCH_FRAMES, Change, FeedChecks, Frame, FrameBatch, Origin, RowFrame};
pub use inbound::{Backlog, FrameReceiver, FrameSender, INBOUND_BATCHES, Received, Refused, StreamEnded, inbound};
pub use messages::{Encoded, Form, MessageBatch};
pub use outlet::{Outlet, RowOutlet, SinkHandle};
pub use signal::Signal;

#[cfg(test)]
mod tests;
