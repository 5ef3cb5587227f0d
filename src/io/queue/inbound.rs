//! The bounded queue from a stream's sockets to its worker.
//!
//! A sender waits while the queue is full, so nothing is lost; a worker takes the waiting batches and never waits.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use smallvec::{SmallVec, smallvec};
use tokio::sync::Notify;

use super::{FrameBatch, Signal};
use crate::sync::locked;

/// The most batches in one stream's channel. While it is full, the stream's sockets are not read.
pub const INBOUND_BATCHES: usize = 16;

/// Makes the inbound queue of a stream. It holds [`INBOUND_BATCHES`] batches; while it is full, senders wait.
pub fn inbound(signal: Signal) -> (FrameSender, FrameReceiver) {
    let (sender, receiver) = crossbeam_channel::bounded(INBOUND_BATCHES);
    let space = Arc::new(Space::default());
    (
        FrameSender { channel: sender, space: space.clone(), signal: signal.clone() },
        FrameReceiver { channel: receiver, space, signal },
    )
}

/// The tasks and workers that wait for space in a stream's queue, and its counters.
#[derive(Default)]
struct Space {
    tasks: Notify,
    workers: Mutex<Vec<Signal>>,
    /// whether `workers` is not empty; read for each batch
    asked: AtomicBool,
    /// messages that wait for the worker; counted once a batch
    waiting: AtomicI64,
    /// messages that the worker has taken
    taken: AtomicU64,
}

impl Space {
    /// Registers a worker, to be woken once.
    fn ask(&self, worker: &Signal) {
        let mut workers = locked(&self.workers);
        if !workers.iter().any(|signal| signal.is_same(worker)) {
            workers.push(worker.clone());
        }
        self.asked.store(true, Ordering::SeqCst);
    }

    /// Counts messages that were put into the queue.
    fn count(&self, messages: usize) {
        self.waiting.fetch_add(messages as i64, Ordering::Relaxed);
    }

    fn tell(&self) {
        self.tasks.notify_waiters();
        if self.asked.load(Ordering::SeqCst) {
            let mut workers = locked(&self.workers);
            self.asked.store(false, Ordering::SeqCst);
            workers.drain(..).for_each(|signal| signal.raise());
        }
    }
}

/// Why [`FrameSender::offer`] did not deliver a batch.
#[derive(Debug)]
pub enum Refused {
    /// The queue is full; the batch is returned.
    Full(FrameBatch),
    /// The stream was dropped.
    Ended,
}

/// The stream was dropped, so nothing can be delivered.
#[derive(Debug, thiserror::Error)]
#[error("the stream has ended")]
pub struct StreamEnded;

/// The sockets' end of a stream's inbound queue.
#[derive(Clone)]
pub struct FrameSender {
    channel: Sender<FrameBatch>,
    space: Arc<Space>,
    signal: Signal,
}

impl FrameSender {
    /// Delivers a batch, and waits while the queue is full.
    ///
    /// # Errors
    /// [`StreamEnded`] if the stream was dropped.
    pub async fn send(&self, batch: FrameBatch) -> Result<(), StreamEnded> {
        let mut batch = batch;
        loop {
            // Registered before the attempt, so that space that appears in between is not missed.
            let space = self.space.tasks.notified();
            tokio::pin!(space);
            space.as_mut().enable();
            let messages = batch.frames.len();
            match self.channel.try_send(batch) {
                Ok(()) => {
                    self.space.count(messages);
                    self.signal.raise();
                    return Ok(());
                }
                Err(TrySendError::Disconnected(_)) => return Err(StreamEnded),
                Err(TrySendError::Full(back)) => batch = back,
            }
            // The worker may have been notified and be waiting for an outlet: it checks again when that one is ready.
            self.signal.raise();
            space.await;
        }
    }

    /// Delivers a batch if there is space, for senders that cannot wait. Otherwise `later` is raised when there is
    /// space, or when the stream ends.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn offer(&self, batch: FrameBatch, later: &Signal) -> Result<(), Refused> {
        let messages = batch.frames.len();
        let batch = match self.channel.try_send(batch) {
            Err(TrySendError::Full(batch)) => batch,
            other => return self.offered(other, messages),
        };
        // Registered before the second attempt, so that space that appears in between is not missed.
        self.space.ask(later);
        self.offered(self.channel.try_send(batch), messages)
    }

    fn offered(&self, sent: Result<(), TrySendError<FrameBatch>>, messages: usize) -> Result<(), Refused> {
        match sent {
            Err(TrySendError::Disconnected(_)) => return Err(Refused::Ended),
            // The worker may have been notified and be waiting for an outlet: it checks again when that one is ready.
            Err(TrySendError::Full(batch)) => {
                self.signal.raise();
                return Err(Refused::Full(batch));
            }
            Ok(()) => self.space.count(messages),
        }
        self.signal.raise();
        Ok(())
    }

    /// The slot of the stream's signal, which identifies the stream.
    pub fn slot(&self) -> usize {
        self.signal.slot()
    }

    /// The messages that wait for the worker. It can be queried at any time, and does not keep the stream alive.
    pub fn backlog(&self) -> Backlog {
        Backlog(smallvec![self.space.clone()])
    }
}

/// The messages that wait in the inbound queues of a stream.
#[derive(Clone, Default)]
pub struct Backlog(SmallVec<[Arc<Space>; 1]>);

impl Backlog {
    /// The sum over several queues.
    pub fn sum(parts: impl IntoIterator<Item = Backlog>) -> Backlog {
        Backlog(parts.into_iter().flat_map(|part| part.0).collect())
    }

    /// The number of messages that wait for the workers.
    pub fn messages(&self) -> u64 {
        // A worker may have taken a batch that its sender has not counted yet.
        self.0.iter().map(|space| u64::try_from(space.waiting.load(Ordering::Relaxed)).unwrap_or(0)).sum()
    }

    /// The number of messages that the workers have taken.
    pub fn taken(&self) -> u64 {
        self.0.iter().map(|space| space.taken.load(Ordering::Acquire)).sum()
    }
}

/// The worker's end of a stream's inbound queue.
pub struct FrameReceiver {
    channel: Receiver<FrameBatch>,
    space: Arc<Space>,
    signal: Signal,
}

/// The result of [`FrameReceiver::receive`].
pub enum Received {
    /// the next batch
    Batch(FrameBatch),
    /// nothing now
    Empty,
    /// nothing, and never again: all senders are gone
    Ended,
}

impl FrameReceiver {
    /// Lowers the stream's signal. Must be called before batches are taken.
    pub fn lower(&self) {
        self.signal.lower();
    }

    /// Takes the next batch, if there is one, and wakes waiting senders.
    pub fn receive(&self) -> Received {
        match self.channel.try_recv() {
            Ok(batch) => {
                self.space.waiting.fetch_sub(batch.frames.len() as i64, Ordering::Relaxed);
                self.space.taken.fetch_add(batch.frames.len() as u64, Ordering::AcqRel);
                self.space.tell();
                Received::Batch(batch)
            }
            Err(TryRecvError::Empty) => Received::Empty,
            Err(TryRecvError::Disconnected) => Received::Ended,
        }
    }

    /// Whether no batch is waiting.
    pub fn is_empty(&self) -> bool {
        self.channel.is_empty()
    }

    /// The number of waiting batches.
    pub fn len(&self) -> usize {
        self.channel.len()
    }

    /// The stream's signal, for checking again later.
    pub fn signal(&self) -> &Signal {
        &self.signal
    }
}

/// Dropping the receiver ends the stream, and wakes senders that wait for space.
impl Drop for FrameReceiver {
    fn drop(&mut self) {
        // The channel must be closed before the senders try again.
        let (_, closed) = crossbeam_channel::bounded(0);
        self.channel = closed;
        self.space.tell();
    }
}
