//! Cohorts: clients that see the same part of a view at the same rate. Their frames are encoded once for all.

use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use super::Sequence;
use super::filter::Selection;
use super::frame::{Frame, GapReason};
use super::mailbox::Mailbox;
use crate::value::Text;
use crate::value::numbered::HasKey;

/// The clients of one cohort.
#[derive(Debug)]
pub struct Cohort {
    pub s: u64,
    pub selection: Selection,
    /// identifies run, definition, parameters and claims
    pub epoch: Text,
    /// the division of its parts; `None`: it sees nothing
    pub division: Option<usize>,
    pub parts: SmallVec<[u32; 1]>,
    pub members: Slab<Member>,
    /// number of cuts that changed its part
    pub cuts: u64,
    /// the last cut that marked it: each cut marks it only once
    pub marked: Sequence,
    /// with a rate: whether there is something to send at the next tick
    pub due: bool,
    /// ticks so far
    pub ticks: u64,
    /// the last encoded delta
    pub shared: Option<Box<Shared>>,
    /// the last encoded snapshot
    pub snapshot: Option<(i64, Arc<Snapshot>)>,
}

impl HasKey for Cohort {
    type Key = Selection;

    fn key(&self) -> &Selection {
        &self.selection
    }
}

/// A delta for all members that hold the cut where it begins.
#[derive(Debug)]
pub struct Shared {
    pub from: Sequence,
    /// the previous cut that the delta names: between it and `from` the part did not change
    pub prev: Sequence,
    /// the cut after the delta
    pub to: Sequence,
    /// number of cuts of the part up to `to`
    pub cuts: u64,
    /// the tick at which it was made
    pub tick: u64,
    pub frame: Frame,
}

/// A snapshot that was encoded in one turn.
#[derive(Debug)]
pub struct Snapshot {
    pub sequence: Sequence,
    pub cuts: u64,
    /// `snapshot`, `rows`, `ready`
    pub frames: Vec<Frame>,
}

/// The subscription of one client.
#[derive(Debug)]
pub struct Member {
    pub mailbox: Arc<Mailbox>,
    /// its number among the subscriptions of its socket
    pub slot: u32,
    /// its slot is in the mailbox, or its client is fetching
    pub called: bool,
    /// with a rate: a tick has passed since its last fetch
    pub due: bool,
    /// the cut that it holds, or a later one until which its part did not change
    pub holds: Sequence,
    /// number of cuts of its part that it holds
    pub cuts: u64,
    /// the sequence number of the last cursor that was sent to it
    pub sent_cursor: Sequence,
    /// since when it has lacked changes, ms
    pub behind_since: Option<i64>,
    pub phase: Phase,
}

/// What a member is sent next. Every member has one of these, so large variants are boxed.
#[derive(Clone, Debug)]
pub enum Phase {
    /// deltas
    Follow,
    /// a notice that its cursor cannot resume, then a snapshot
    Gap { from: Box<str>, why: GapReason },
    /// the view was redefined: a gap, the subscription, a snapshot
    Redefined { from: Box<str> },
    /// the subscription, then a snapshot
    Resubscribe,
    /// a snapshot
    Start,
    /// the frames of a snapshot, from this one on
    Snapshot { snapshot: Arc<Snapshot>, next: usize },
    /// rows of a snapshot too large for one turn, from this entry on
    Scan { next: u32, count: usize },
    /// rows of a delta too large for one turn
    CatchUp(Box<CatchUp>),
    /// it has rows of different cuts: one more delta brings them to the same cut
    Settle,
    /// it has a cut without a cursor: the next delta has one
    Complete,
    /// the view is gone
    Gone,
}

/// A delta that is sent as its client reads.
#[derive(Clone, Debug)]
pub struct CatchUp {
    /// entries with changes
    pub keys: Arc<[u32]>,
    /// the first of them that was not sent
    pub next: usize,
    /// later changes are missing in it
    pub upto: Sequence,
}

impl Cohort {
    /// Notifies the members that have not been notified yet.
    pub fn call_all(&mut self, now: i64) {
        for (_, member) in &mut self.members {
            member.due = true;
            member.behind_since.get_or_insert(now);
            member.call();
        }
    }
}

impl Member {
    /// Puts its slot in the mailbox, once.
    pub fn call(&mut self) {
        if !self.called {
            self.called = true;
            self.mailbox.put(self.slot);
        }
    }

    /// Whether it is being sent something other than deltas.
    pub fn is_busy(&self) -> bool {
        !matches!(self.phase, Phase::Follow)
    }
}
