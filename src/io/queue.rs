//! The queues between sockets and workers: the one place besides `dataflow::worker` that knows both worlds.
//!
//! Inbound, a socket task hands [`FrameBatch`]es to the worker of its stream through a bounded crossbeam channel. A
//! task never blocks its thread: where the channel is full, [`FrameSender::send`] waits (the socket is not read, TCP
//! slows the sender, nothing is lost). A worker never awaits: it takes what is there.
//!
//! Outbound, a worker hands encoded [`MessageBatch`]es to the [`Outlet`]s of a rule. An outlet takes every batch; one
//! that must not lose anything says [`Outlet::ready`] `== false` while it is over its limit, and the worker then takes
//! no further input for the rule's streams until the outlet raises the [`Signal`] it was given. It looks before each
//! turn, not before each batch: the queue's bound is its limit and the results of one turn, which takes up to 32
//! [`FrameBatch`]es (16,384 messages, or 32 times [`BATCH_BYTES`] and a message each), and of the windows that these close.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};
use serde::{Deserialize, Serialize};
use smallvec::{SmallVec, smallvec};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use crate::format::address::Address;
use crate::sync::locked;
use crate::value::field_path::FieldPath;
use crate::value::{Row, Text, Value};

/// One message as it came in.
#[derive(Clone, Debug)]
pub enum Frame {
    /// A text message; its UTF-8 is checked.
    Text(Utf8Bytes),
    /// A binary message.
    Binary(Bytes),
    /// A row of another rule, by way of memory.
    Row(Arc<RowFrame>),
}

impl Frame {
    /// The message's bytes; a row has none.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Frame::Text(text) => text.as_bytes(),
            Frame::Binary(bytes) => bytes,
            Frame::Row(_) => &[],
        }
    }

    /// Whether it may take long to read.
    pub fn is_large(&self) -> bool {
        const LARGE: usize = 64 << 10;
        self.bytes().len() > LARGE
    }
}

/// A row as a rule made it: values keep their types, since nothing is encoded between two rules.
#[derive(Clone, Debug, Default)]
pub struct RowFrame {
    /// the topic it was written to
    pub topic: Text,
    /// its columns
    pub row: Row,
    /// what it does to a table
    pub change: Change,
    /// the value of the writer's keyField: which row of a table it is about; `None`: the table's KEY says it
    pub key: Option<Value>,
}

/// What a row does to a table that takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Change {
    /// It becomes the row of its key, whether there was one or not: insert, update and upsert are one.
    #[default]
    Put,
    /// The row of its key goes.
    Delete,
}

/// What a source asks to be checked of each message, before any rule sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedChecks {
    /// `dedupKey`: messages with a key that has come before are dropped
    pub dedup: Vec<FieldPath>,
    /// `gapKey`: whose sequence a message is of; empty: there is one sequence
    pub gap_key: Vec<FieldPath>,
    /// `gapSequence`: the number in the sequence
    pub gap_sequence: Option<FieldPath>,
    /// `gapWait`: how long a number may take to come before it is missing
    pub gap_wait: Duration,
}

/// What a source tells about the messages of one connection: the object that `meta(…)` reads.
#[derive(Clone, Debug)]
pub struct Origin {
    pub meta: Value,
}

/// Messages that one socket delivered together, in their order.
#[derive(Clone, Debug)]
pub struct FrameBatch {
    /// the messages
    pub frames: Vec<Frame>,
    /// the connection that they came on; `None`: nothing is known about it
    pub origin: Option<Arc<Origin>>,
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

    /// The slots that it is for: no two streams of an engine have the same.
    pub fn slots(&self) -> Vec<usize> {
        let others = self.others.iter().flat_map(|others| others.iter()).flat_map(Signal::slots);
        std::iter::once(self.shared.slot).chain(others).collect()
    }

    fn is_same(&self, other: &Signal) -> bool {
        let others = match (&self.others, &other.others) {
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            (mine, theirs) => mine.is_none() && theirs.is_none(),
        };
        others && Arc::ptr_eq(&self.shared, &other.shared)
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
    let space = Arc::new(Space::default());
    (
        FrameSender { channel: sender, space: space.clone(), signal: signal.clone() },
        FrameReceiver { channel: receiver, space, signal },
    )
}

/// Who is told that a stream's queue has space again.
#[derive(Default)]
struct Space {
    tasks: Notify,
    workers: Mutex<Vec<Signal>>,
    /// whether any worker is to be told: looked at for each batch
    asked: AtomicBool,
    /// messages that wait for the worker; counted once a batch
    waiting: AtomicI64,
    /// messages that the worker has taken
    taken: AtomicU64,
}

impl Space {
    /// Asks for `worker` to be told, once.
    fn ask(&self, worker: &Signal) {
        let mut workers = locked(&self.workers);
        if !workers.iter().any(|signal| signal.is_same(worker)) {
            workers.push(worker.clone());
        }
        self.asked.store(true, Ordering::SeqCst);
    }

    /// Notes messages that were handed over.
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

/// Why [`FrameSender::offer`] did not hand a batch over.
#[derive(Debug)]
pub enum Refused {
    /// The queue is full: the batch comes back.
    Full(FrameBatch),
    /// The stream was dropped.
    Ended,
}

/// The stream is gone: what was sent cannot be delivered.
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
    /// Hands a batch over, waiting while the queue is full.
    ///
    /// # Errors
    /// [`StreamEnded`] if the stream was dropped.
    pub async fn send(&self, batch: FrameBatch) -> Result<(), StreamEnded> {
        let mut batch = batch;
        loop {
            // The interest in space is registered before the attempt, so that space made between the two is seen.
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
            // The worker may have been told and be waiting for an outlet: it looks again when that one is ready.
            self.signal.raise();
            space.await;
        }
    }

    /// Hands a batch over if there is space, for senders that cannot wait. Where there is none, `later` is raised once
    /// there is some, or when the stream ends.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn offer(&self, batch: FrameBatch, later: &Signal) -> Result<(), Refused> {
        let messages = batch.frames.len();
        let batch = match self.channel.try_send(batch) {
            Err(TrySendError::Full(batch)) => batch,
            other => return self.offered(other, messages),
        };
        // Asked before the second attempt, so that space made between the two is not missed.
        self.space.ask(later);
        self.offered(self.channel.try_send(batch), messages)
    }

    fn offered(&self, sent: Result<(), TrySendError<FrameBatch>>, messages: usize) -> Result<(), Refused> {
        match sent {
            Err(TrySendError::Disconnected(_)) => return Err(Refused::Ended),
            // The worker may have been told and be waiting for an outlet: it looks again when that one is ready.
            Err(TrySendError::Full(batch)) => {
                self.signal.raise();
                return Err(Refused::Full(batch));
            }
            Ok(()) => self.space.count(messages),
        }
        self.signal.raise();
        Ok(())
    }

    /// The slot of the stream's signal: names the stream.
    pub fn slot(&self) -> usize {
        self.signal.shared.slot
    }

    /// How much waits for the worker: to be asked at any time, without keeping the stream alive.
    pub fn backlog(&self) -> Backlog {
        Backlog(smallvec![self.space.clone()])
    }
}

/// What waits in the inbound queues of a stream.
#[derive(Clone, Default)]
pub struct Backlog(SmallVec<[Arc<Space>; 1]>);

impl Backlog {
    /// That of several queues together.
    pub fn of_all(parts: impl IntoIterator<Item = Backlog>) -> Backlog {
        Backlog(parts.into_iter().flat_map(|part| part.0).collect())
    }

    /// How many messages wait for the workers.
    pub fn messages(&self) -> u64 {
        // A worker may have taken a batch that its sender has not counted yet.
        self.0.iter().map(|space| u64::try_from(space.waiting.load(Ordering::Relaxed)).unwrap_or(0)).sum()
    }

    /// How many messages the workers have taken.
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
                self.space.waiting.fetch_sub(batch.frames.len() as i64, Ordering::Relaxed);
                self.space.taken.fetch_add(batch.frames.len() as u64, Ordering::AcqRel);
                self.space.tell();
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

    /// How many batches wait.
    pub fn len(&self) -> usize {
        self.channel.len()
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
        self.space.tell();
    }
}

/// A form of a batch's messages that is made once for all clients of a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// as frames of a websocket server
    Framed,
    /// the same, compressed
    Deflated,
}

/// A batch's messages in a [`Form`].
#[derive(Clone, Debug)]
pub struct Encoded {
    pub bytes: Bytes,
    /// where each message ends in `bytes`
    pub ends: Vec<usize>,
}

/// Encoded results: many messages in one allocation. Sent to another process, it loses what is of this one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MessageBatch {
    #[serde(with = "whole_bytes")]
    bytes: Bytes,
    /// where each message ends in `bytes`; the first begins at 0
    ends: Vec<u32>,
    /// where each message goes; empty: all go to the same place
    addresses: Vec<Address>,
    /// whether the messages are text
    pub text: bool,
    /// when the input that led to the batch was read, where one is known
    #[serde(skip)]
    pub received: Option<Instant>,
    /// made by the first client that is written to
    #[serde(skip)]
    forms: [OnceLock<Encoded>; 2],
}

impl MessageBatch {
    /// A batch of the messages that end at `ends` in `bytes`.
    ///
    /// # Panics
    /// If `ends` does not ascend or goes beyond `bytes`: both come from one encoder.
    pub fn new(bytes: Bytes, ends: Vec<u32>, text: bool, received: Option<Instant>) -> Self {
        assert!(ends.is_sorted() && ends.last().is_none_or(|&end| end as usize <= bytes.len()));
        MessageBatch { bytes, ends, addresses: Vec::new(), text, received, forms: Default::default() }
    }

    /// The same messages, each with its address.
    ///
    /// # Panics
    /// If there is not one address for each message.
    pub fn addressed(self, addresses: Vec<Address>) -> Self {
        assert_eq!(addresses.len(), self.len());
        MessageBatch { addresses, ..self }
    }

    /// The address of the message at `index`; `None`: all go to the same place.
    pub fn address(&self, index: usize) -> Option<&Address> {
        self.addresses.get(index)
    }

    /// Where messages have addresses: each as a batch of its own, with its address.
    pub fn by_address(&self) -> Option<impl Iterator<Item = (&Address, MessageBatch)>> {
        let single = |(index, address)| {
            let bytes = self.message(index);
            let ends = vec![u32::try_from(bytes.len()).unwrap_or(u32::MAX)];
            (address, MessageBatch::new(bytes, ends, self.text, self.received))
        };
        (!self.addresses.is_empty()).then(|| self.addresses.iter().enumerate().map(single))
    }

    /// The `count` messages from `start` on, as a batch of their own that shares the bytes.
    pub fn part(&self, start: usize, count: usize) -> MessageBatch {
        let first = if start == 0 { 0 } else { self.ends[start - 1] };
        let ends: Vec<u32> = self.ends[start..start + count].iter().map(|end| end - first).collect();
        let bytes = self.bytes.slice(first as usize..(first + ends.last().copied().unwrap_or(0)) as usize);
        let addresses =
            if self.addresses.is_empty() { Vec::new() } else { self.addresses[start..start + count].to_vec() };
        MessageBatch { addresses, ..MessageBatch::new(bytes, ends, self.text, self.received) }
    }

    /// How many messages it holds.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it holds no message.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The bytes of all messages.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Where each message ends in [`MessageBatch::bytes`].
    pub fn ends(&self) -> &[u32] {
        &self.ends
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

    /// How many bytes the `count` messages from `start` on have.
    pub fn byte_len_of(&self, start: usize, count: usize) -> usize {
        let end = |messages: usize| if messages == 0 { 0 } else { self.ends[messages - 1] as usize };
        end(start + count) - end(start)
    }

    /// The bytes of the messages from `start` on, in order.
    pub fn messages_from(&self, start: usize) -> impl Iterator<Item = &[u8]> {
        let first = if start == 0 { 0 } else { self.ends[start - 1] as usize };
        self.ends[start..].iter().scan(first, |from, &end| {
            let message = &self.bytes[*from..end as usize];
            *from = end as usize;
            Some(message)
        })
    }

    /// The batch in a form, which `make` makes if no client has asked for it before.
    pub fn form(&self, form: Form, make: impl FnOnce() -> Encoded) -> &Encoded {
        self.forms[form as usize].get_or_init(make)
    }

    /// The messages in order.
    pub fn messages(&self) -> impl Iterator<Item = Bytes> + '_ {
        (0..self.len()).map(|index| self.message(index))
    }
}

/// Bytes for serde, as one piece.
mod whole_bytes {
    use std::fmt;

    use bytes::Bytes;
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_byte_buf(Whole)
    }

    struct Whole;

    impl Visitor<'_> for Whole {
        type Value = Bytes;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("bytes")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
            Ok(Bytes::copy_from_slice(bytes))
        }

        fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
            Ok(bytes.into())
        }
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

    /// Whether [`Outlet::ready`] can ever answer `false`.
    fn may_wait(&self) -> bool {
        true
    }

    /// Whether the sink's clients may be connected to any process of a cluster.
    fn is_everywhere(&self) -> bool {
        false
    }

    /// Takes a batch for the clients in this process, and returns how many of its messages found one. The others may find
    /// theirs elsewhere: they are no loss yet.
    fn send_on(&self, batch: &Arc<MessageBatch>) -> usize {
        self.send(batch);
        batch.len()
    }

    /// Counts messages of a batch that have found no client in any process.
    fn finds_nobody(&self, _batch: &MessageBatch, _messages: usize) {}
}

/// A rule's way out to a sink that takes rows as they are. Called by a worker, so it never waits.
pub trait RowOutlet: Send + Sync {
    /// Takes rows, in their order; `received` is when the input that led to them was read, where that is known. A row
    /// that the sink cannot take is told to `error` and left out.
    fn send(&self, rows: Vec<Row>, received: Option<Instant>, error: &mut dyn FnMut(String));

    /// As [`Outlet::ready`].
    fn ready(&self) -> bool;
}

/// A rule's way out to one sink of either kind.
#[derive(Clone)]
pub enum WayOut {
    /// encoded messages
    Messages(Arc<dyn Outlet>),
    Rows(Arc<dyn RowOutlet>),
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
        let frames = vec![Frame::Text(Utf8Bytes::from_static(text))];
        FrameBatch { frames, origin: None, received: Instant::now() }
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
    fn a_worker_that_found_the_queue_full_is_told_of_space_once() {
        let (reads, _slots, _) = signal();
        let (ready, told) = crossbeam_channel::unbounded();
        let writes = Signal::new(9, ready, Arc::new(Notify::new()));
        let (sender, receiver) = inbound(reads);
        for _ in 0..INBOUND_BATCHES {
            sender.offer(batch("x"), &writes).expect("there is space");
        }
        for _ in 0..2 {
            assert!(matches!(sender.offer(batch("y"), &writes), Err(Refused::Full(_))));
        }
        assert!(told.is_empty());
        receiver.receive();
        receiver.receive();
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [9]);
        writes.lower();
        sender.offer(batch("y"), &writes).expect("there is space");
        sender.offer(batch("y"), &writes).expect("there is space");
        assert!(matches!(sender.offer(batch("y"), &writes), Err(Refused::Full(_))));
        drop(receiver);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [9]);
        assert!(matches!(sender.offer(batch("y"), &writes), Err(Refused::Ended)));
    }

    #[test]
    fn a_batch_slices_its_messages() {
        let batch = MessageBatch::new(Bytes::from_static(b"abcde"), vec![2, 2, 5], true, None);
        let messages: Vec<_> = batch.messages().collect();
        assert_eq!(messages, [&b"ab"[..], b"", b"cde"]);
        assert_eq!((batch.byte_len_of(0, 1), batch.byte_len_of(1, 2), batch.byte_len_of(3, 0)), (2, 3, 0));
        assert_eq!(batch.messages_from(1).collect::<Vec<_>>(), [&b""[..], b"cde"]);
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
