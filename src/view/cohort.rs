//! Clients that see the same part of a view at the same rate: what one of them needs is encoded once for all.

use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use super::Sequence;
use super::filter::Filter;
use super::frame::{Frame, GapReason};
use super::mailbox::Mailbox;
use super::rate::Rate;
use crate::value::Text;

/// The clients of one number `s`.
#[derive(Debug)]
pub struct Cohort {
    pub s: u64,
    pub filter: Filter,
    pub every: Rate,
    /// names run, definition, parameters and claims
    pub epoch: Text,
    /// the division its parts are of; `None`: it sees nothing
    pub division: Option<usize>,
    pub parts: SmallVec<[u32; 1]>,
    pub members: Slab<Member>,
    /// cuts that changed its part
    pub cuts: u64,
    /// the last cut that marked it, so that it is marked once a cut
    pub marked: Sequence,
    /// with a rate: there is something for the next tick
    pub due: bool,
    /// ticks so far
    pub ticks: u64,
    /// the delta that was encoded last
    pub shared: Option<Shared>,
    /// the snapshot that was encoded last
    pub snapshot: Option<(i64, Arc<Snapshot>)>,
}

/// A delta for all members that stand where it begins.
#[derive(Debug)]
pub struct Shared {
    pub from: Sequence,
    /// the cut that it names as the one before: nothing of the part changed between this and `from`
    pub prev: Sequence,
    /// the cut that it leads to
    pub to: Sequence,
    /// cuts of the part up to then
    pub cuts: u64,
    /// the tick at which it was made
    pub tick: u64,
    pub frame: Frame,
}

/// A whole answer that was encoded in one turn.
#[derive(Debug)]
pub struct Snapshot {
    pub sequence: Sequence,
    pub cuts: u64,
    /// `snapshot`, `rows`, `ready`
    pub frames: Vec<Frame>,
}

/// One client's subscription.
#[derive(Debug)]
pub struct Member {
    pub mailbox: Arc<Mailbox>,
    /// its number among the subscriptions of its socket
    pub slot: u32,
    /// its slot is in the mailbox, or its client is pulling
    pub called: bool,
    /// with a rate: a tick came since it was pulled last
    pub due: bool,
    /// the cut that it holds, or a later one up to which its part did not change
    pub holds: Sequence,
    /// cuts of its part that it holds
    pub cuts: u64,
    /// the sequence of the cursor that it was told last
    pub told: Sequence,
    /// since when it lacks something, ms
    pub behind_since: Option<i64>,
    pub phase: Phase,
}

/// What a member gets next.
#[derive(Clone, Debug)]
pub enum Phase {
    /// deltas
    Follow,
    /// that its cursor does not resume, then a snapshot
    Gap { from: Text, why: GapReason },
    /// that the view was defined anew: a gap, what it is subscribed to, a snapshot
    Redefined { from: Text },
    /// what it is subscribed to, then a snapshot
    Resubscribe,
    /// a snapshot
    Start,
    /// the frames of a snapshot from this one on
    Snapshot { snapshot: Arc<Snapshot>, next: usize },
    /// rows of a snapshot that is too large for one turn, from this entry on
    Scan { next: usize, count: usize },
    /// rows of a delta that is too large for one turn; then it lacks what came after `upto`
    CatchUp { keys: Arc<[u32]>, next: usize, upto: Sequence },
    /// it holds rows of different cuts: one delta more makes a cut of them
    Settle,
    /// it holds a cut without a cursor: the next delta has one
    Complete,
    /// the view is gone
    Gone,
}

impl Cohort {
    /// Calls those members that are not called yet.
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

    /// Whether it is served otherwise than by deltas.
    pub fn is_busy(&self) -> bool {
        !matches!(self.phase, Phase::Follow)
    }
}
