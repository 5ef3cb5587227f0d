//! The lanes of a peer: what all kinds of lanes have in common, the order in which their messages are written, and the
//! batches on their way to the socket.
//!
//! Lanes take turns, so that a busy sink does not starve the others. A lane with a place goes before them: its rule has
//! left its sink, and may send to another one by now.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::io::batch_queue::Rest;
use crate::io::queue::MessageBatch;

/// The messages of one sink that wait for one peer.
pub(super) trait Lane: Send + Sync {
    /// Takes the next batch, and returns whether more waits; if not, the lane is listed again with its next message.
    fn take(self: Arc<Self>) -> (Option<Flight>, bool);

    /// Accounts for a batch that was taken.
    fn land(self: Arc<Self>, landing: &Landing<'_>);

    /// Whether nothing waits.
    fn is_empty(&self) -> bool;

    /// Its place among the lanes that go before all others; `None`: it takes turns with others.
    fn place(&self) -> Option<u64> {
        None
    }

    /// The peer has left.
    fn close(&self);
}

/// A lane that keeps its messages until a pong proves that the peer has read them.
pub(super) trait Proving: Lane {
    /// Whether any sent message is unproven.
    fn wants_proof(&self) -> bool;

    /// A ping with this number is being sent, after everything sent so far.
    fn probe(&self, number: u64);

    /// The ping with this number was answered.
    fn prove(&self, number: u64);

    /// A connection begins.
    fn reconnects(self: Arc<Self>);
}

/// The lanes of a peer: one for each sink; thousands of rules may send to one endpoint.
#[derive(Default)]
pub(super) struct Lanes {
    pub all: Vec<Arc<dyn Lane>>,
    /// the lanes whose messages must be proven
    pub proving: Vec<Arc<dyn Proving>>,
    /// the lanes with waiting messages, without repetition, so that a busy one does not starve the others
    waiting: VecDeque<Arc<dyn Lane>>,
    /// those of them that go first, by their places
    first: VecDeque<Arc<dyn Lane>>,
    /// the peer has left: nothing waits for it any more
    pub left: bool,
}

impl Lanes {
    /// Those of a peer that has left.
    pub fn left() -> Lanes {
        Lanes { left: true, ..Lanes::default() }
    }

    /// Adds a lane to those with waiting messages.
    pub fn list(&mut self, lane: Arc<dyn Lane>) {
        match lane.place() {
            None => self.waiting.push_back(lane),
            Some(place) => {
                let before = self.first.partition_point(|other| other.place().is_some_and(|other| other < place));
                self.first.insert(before, lane);
            }
        }
    }

    /// Takes the next lane with waiting messages.
    pub fn next(&mut self) -> Option<Arc<dyn Lane>> {
        self.first.pop_front().or_else(|| self.waiting.pop_front())
    }

    /// Moves a lane that has got a place to it, if the lane has waiting messages.
    pub fn move_up(&mut self, lane: &Arc<dyn Lane>) {
        let at = self.waiting.iter().position(|other| is_same(other, lane));
        if let Some(lane) = at.and_then(|at| self.waiting.remove(at)) {
            self.list(lane);
        }
    }

    /// Removes a lane.
    pub fn remove(&mut self, lane: &Arc<dyn Lane>) {
        self.all.retain(|other| !is_same(other, lane));
        self.waiting.retain(|other| !is_same(other, lane));
        self.first.retain(|other| !is_same(other, lane));
        self.proving.retain(|other| !std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(lane)));
    }
}

fn is_same(one: &Arc<dyn Lane>, other: &Arc<dyn Lane>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(one), Arc::as_ptr(other))
}

/// What happened to a batch that was taken.
#[derive(Clone, Copy)]
pub(super) struct Landing<'f> {
    /// as it was taken
    pub rest: &'f Rest,
    /// the lane's number for it
    pub ticket: u64,
    /// the number of its messages that went into the socket
    pub out: usize,
    /// their size
    pub bytes: usize,
    /// whether the kernel has them
    pub flushed: bool,
}

/// A batch on its way to a socket. When it is dropped it is accounted for: messages taken from it were sent if they
/// were flushed, and are lost otherwise (some may have reached the peer; unless they are stored, they are not sent
/// twice). The remaining ones go back.
pub(super) struct Flight {
    lane: Arc<dyn Lane>,
    /// as it was taken from the lane
    rest: Rest,
    ticket: u64,
    next: usize,
    bytes: usize,
    flushed: bool,
}

impl Flight {
    /// Made by a lane, which identifies it by its ticket.
    pub fn new(lane: Arc<dyn Lane>, rest: Rest, ticket: u64) -> Flight {
        Flight { lane, next: rest.next, rest, ticket, bytes: 0, flushed: false }
    }

    /// The messages that were taken have been flushed.
    pub fn arrive(mut self) {
        self.flushed = true;
    }

    /// The batch, and the index of its first message that was not taken.
    pub fn rest(&self) -> (&MessageBatch, usize) {
        (&self.rest.batch, self.next)
    }

    /// Takes the next `count` messages.
    pub fn take(&mut self, count: usize) {
        self.bytes += self.rest.batch.byte_len_of(self.next, count);
        self.next += count;
    }

    /// Bytes taken so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let out = self.next - self.rest.next;
        let landing = Landing { rest: &self.rest, ticket: self.ticket, out, bytes: self.bytes, flushed: self.flushed };
        self.lane.clone().land(&landing);
    }
}
