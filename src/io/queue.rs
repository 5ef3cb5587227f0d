//! The queues between sockets and workers: the one place besides `dataflow::worker` that knows both worlds.
//!
//! Inbound, a socket task hands [`FrameBatch`]es to the worker of its stream through a bounded crossbeam channel. A
//! task never blocks its thread: where the channel is full, [`FrameSender::send`] waits (the socket is not read, TCP
//! slows the sender, nothing is lost). A worker never awaits: it takes what is there.
//!
//! Outbound, a worker hands encoded [`MessageBatch`]es to the [`Outlet`]s of a rule. An outlet takes every batch; one
//! that must not lose anything says [`Outlet::ready`] `== false` while it is over its limit, and the worker then takes
//! no further input for the rule's streams until the outlet raises the [`Signal`] it was given. So the queue's bound
//! is its limit and the results of one input batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// One message as it came in.
#[derive(Clone, Debug)]
pub enum Frame {
    /// A text message; its UTF-8 is checked.
    Text(Utf8Bytes),
    /// A binary message.
    Binary(Bytes),
}

impl Frame {
    /// The message's bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Frame::Text(text) => text.as_bytes(),
            Frame::Binary(bytes) => bytes,
        }
    }
}

/// Messages that one socket delivered together, in their order.
#[derive(Clone, Debug)]
pub struct FrameBatch {
    /// the messages
    pub frames: Vec<Frame>,
    /// when the first of them was read; latencies count from here
    pub received: Instant,
}

/// How many messages a socket task gathers into one batch at the most.
pub const BATCH_FRAMES: usize = 512;

/// How many bytes a socket task gathers into one batch, beyond which it adds no message.
pub const BATCH_BYTES: usize = 256 * 1024;

/// How many batches wait for a worker in one stream's channel before its sockets are no longer read.
pub const INBOUND_BATCHES: usize = 16;

/// Tells a worker, from any thread, that one of its slots (a stream's input) has something to do.
#[derive(Clone)]
pub struct Signal {
    shared: Arc<SignalShared>,
    /// raised with it
    others: Option<Arc<[Signal]>>,
}

struct SignalShared {
    slot: usize,
    raised: AtomicBool,
    ready: Sender<usize>,
    wake: Arc<Notify>,
}

impl Signal {
    /// A signal for `slot`. Raised, it puts the slot into `ready` (once until it is lowered) and notifies `wake`.
    pub fn new(slot: usize, ready: Sender<usize>, wake: Arc<Notify>) -> Self {
        Signal { shared: Arc::new(SignalShared { slot, raised: AtomicBool::new(false), ready, wake }), others: None }
    }

    /// Asks the worker to look at the slot. Cheap when it is asked already.
    pub fn raise(&self) {
        if !self.shared.raised.swap(true, Ordering::AcqRel) {
            // The worker is gone only at the end of the process: then nobody needs to be told.
            let _ = self.shared.ready.send(self.shared.slot);
            self.shared.wake.notify_one();
        }
        if let Some(others) = &self.others {
            others.iter().for_each(Signal::raise);
        }
    }

    /// This signal, raising `others` too: for a sink that several streams wait for.
    pub fn with(&self, others: Vec<Signal>) -> Signal {
        Signal { shared: self.shared.clone(), others: (!others.is_empty()).then(|| others.into()) }
    }

    /// Makes the signal ready to be raised again. The worker calls it before it looks, so that what comes while it
    /// looks is not missed.
    pub fn lower(&self) {
        // A swap, not a store: what is looked at next must not be read before this is seen (see `raise`).
        self.shared.raised.swap(false, Ordering::AcqRel);
    }
}

/// Makes the inbound queue of a stream: [`INBOUND_BATCHES`] batches; full, senders wait.
pub fn inbound(signal: Signal) -> (FrameSender, FrameReceiver) {
    let (sender, receiver) = crossbeam_channel::bounded(INBOUND_BATCHES);
    let space = Arc::new(Notify::new());
    (
        FrameSender { channel: sender, space: space.clone(), signal: signal.clone() },
        FrameReceiver { channel: receiver, space, signal },
    )
}

/// The stream is gone: what was sent cannot be delivered.
#[derive(Debug, thiserror::Error)]
#[error("the stream has ended")]
pub struct StreamEnded;

/// The sockets' end of a stream's inbound queue.
#[derive(Clone)]
pub struct FrameSender {
    channel: Sender<FrameBatch>,
    space: Arc<Notify>,
    signal: Signal,
}

impl FrameSender {
    /// Hands a batch over, waiting while the queue is full.
    ///
    /// # Errors
    /// [`StreamEnded`] if the stream was dropped.
    pub async fn send(&self, batch: FrameBatch) -> Result<(), StreamEnded> {
        let mut batch = batch;
        loop {
            // The interest in space is registered before the attempt, so that space made between the two is seen.
            let space = self.space.notified();
            tokio::pin!(space);
            space.as_mut().enable();
            match self.channel.try_send(batch) {
                Ok(()) => {
                    self.signal.raise();
                    return Ok(());
                }
                Err(TrySendError::Disconnected(_)) => return Err(StreamEnded),
                Err(TrySendError::Full(back)) => batch = back,
            }
            // The worker may have been told and be waiting for an outlet: it looks again when that one is ready.
            self.signal.raise();
            space.await;
        }
    }

    /// How many batches wait for the worker.
    pub fn depth(&self) -> usize {
        self.channel.len()
    }
}

/// The worker's end of a stream's inbound queue.
pub struct FrameReceiver {
    channel: Receiver<FrameBatch>,
    space: Arc<Notify>,
    signal: Signal,
}

/// What [`FrameReceiver::receive`] found.
pub enum Received {
    /// the next batch
    Batch(FrameBatch),
    /// nothing now
    Empty,
    /// nothing now and never again: all senders are gone
    Ended,
}

impl FrameReceiver {
    /// Lowers the stream's signal: to be called before taking batches.
    pub fn lower(&self) {
        self.signal.lower();
    }

    /// Takes the next batch, if there is one, and lets a waiting sender go on.
    pub fn receive(&self) -> Received {
        match self.channel.try_recv() {
            Ok(batch) => {
                self.space.notify_waiters();
                Received::Batch(batch)
            }
            Err(TryRecvError::Empty) => Received::Empty,
            Err(TryRecvError::Disconnected) => Received::Ended,
        }
    }

    /// Whether no batch waits.
    pub fn is_empty(&self) -> bool {
        self.channel.is_empty()
    }

    /// The stream's signal: to look again later.
    pub fn signal(&self) -> &Signal {
        &self.signal
    }
}

/// Dropping the receiver ends the stream: senders that wait for space are told.
impl Drop for FrameReceiver {
    fn drop(&mut self) {
        // The channel must be closed before the waiting senders look again.
        let (_, closed) = crossbeam_channel::bounded(0);
        self.channel = closed;
        self.space.notify_waiters();
    }
}

/// Encoded results: many messages in one allocation.
#[derive(Clone, Debug)]
pub struct MessageBatch {
    bytes: Bytes,
    /// where each message ends in `bytes`; the first begins at 0
    ends: Vec<u32>,
    /// whether the messages are text
    pub text: bool,
    /// when the input that led to the batch was read, where one is known
    pub received: Option<Instant>,
}

impl MessageBatch {
    /// A batch of the messages that end at `ends` in `bytes`.
    ///
    /// # Panics
    /// If `ends` does not ascend or goes beyond `bytes`: both come from one encoder.
    pub fn new(bytes: Bytes, ends: Vec<u32>, text: bool, received: Option<Instant>) -> Self {
        assert!(ends.is_sorted() && ends.last().is_none_or(|&end| end as usize <= bytes.len()));
        MessageBatch { bytes, ends, text, received }
    }

    /// How many messages it holds.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it holds no message.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many bytes it keeps alive.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The message at `index`, sharing the batch's bytes.
    ///
    /// # Panics
    /// If there is no such message.
    pub fn message(&self, index: usize) -> Bytes {
        let start = if index == 0 { 0 } else { self.ends[index - 1] as usize };
        self.bytes.slice(start..self.ends[index] as usize)
    }

    /// The messages in order.
    pub fn messages(&self) -> impl Iterator<Item = Bytes> + '_ {
        (0..self.len()).map(|index| self.message(index))
    }
}

/// A rule's way out to one sink. Called by a worker, so it never waits.
pub trait Outlet: Send + Sync {
    /// Takes a batch. What the sink does when it has too much is its documented policy, and it counts what it drops.
    fn send(&self, batch: &Arc<MessageBatch>);

    /// Whether the worker may go on. An outlet that answers `false` raises its rule's signal when that changes.
    fn ready(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn signal() -> (Signal, Receiver<usize>, Arc<Notify>) {
        let (ready, slots) = crossbeam_channel::unbounded();
        let wake = Arc::new(Notify::new());
        (Signal::new(7, ready, wake.clone()), slots, wake)
    }

    fn batch(text: &'static str) -> FrameBatch {
        FrameBatch { frames: vec![Frame::Text(Utf8Bytes::from_static(text))], received: Instant::now() }
    }

    #[test]
    fn a_raised_signal_is_queued_once() {
        let (signal, slots, _) = signal();
        signal.raise();
        signal.raise();
        assert_eq!(slots.try_iter().collect::<Vec<_>>(), [7]);
        signal.lower();
        signal.raise();
        assert_eq!(slots.try_iter().collect::<Vec<_>>(), [7]);
    }

    #[tokio::test]
    async fn a_full_queue_makes_the_sender_wait_and_loses_nothing() {
        let (signal, _slots, _) = signal();
        let (sender, receiver) = inbound(signal);
        for _ in 0..INBOUND_BATCHES {
            sender.send(batch("x")).await.unwrap();
        }
        let mut waiting = tokio_test(sender.send(batch("last")));
        assert!(waiting.poll_once().await.is_none());
        let mut seen = 0;
        while let Received::Batch(_) = receiver.receive() {
            seen += 1;
        }
        assert_eq!(seen, INBOUND_BATCHES);
        waiting.finish().await.unwrap();
        assert!(matches!(receiver.receive(), Received::Batch(_)));
    }

    #[tokio::test]
    async fn senders_learn_that_the_stream_has_ended() {
        let (signal, _slots, _) = signal();
        let (sender, receiver) = inbound(signal);
        for _ in 0..INBOUND_BATCHES {
            sender.send(batch("x")).await.unwrap();
        }
        let mut waiting = tokio_test(sender.send(batch("last")));
        assert!(waiting.poll_once().await.is_none());
        drop(receiver);
        assert!(waiting.finish().await.is_err());
    }

    #[test]
    fn a_batch_slices_its_messages() {
        let batch = MessageBatch::new(Bytes::from_static(b"abcde"), vec![2, 2, 5], true, None);
        let messages: Vec<_> = batch.messages().collect();
        assert_eq!(messages, [&b"ab"[..], b"", b"cde"]);
    }

    /// Polls a future step by step.
    struct Stepped<F>(std::pin::Pin<Box<F>>);

    fn tokio_test<F: Future>(future: F) -> Stepped<F> {
        Stepped(Box::pin(future))
    }

    impl<F: Future> Stepped<F> {
        async fn poll_once(&mut self) -> Option<F::Output> {
            std::future::poll_fn(|cx| {
                std::task::Poll::Ready(match self.0.as_mut().poll(cx) {
                    std::task::Poll::Ready(output) => Some(output),
                    std::task::Poll::Pending => None,
                })
            })
            .await
        }

        async fn finish(self) -> F::Output {
            tokio::time::timeout(Duration::from_secs(5), self.0).await.expect("the future ends")
        }
    }
}
