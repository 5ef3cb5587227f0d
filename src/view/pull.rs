//! The next frame for a client, made when its socket has room.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::Sequence;
use super::cohort::{CatchUp, Phase, Shared, Snapshot};
use super::cursor::cursor;
use super::frame::{self, CHUNK, Frame, GapReason, RowsFrame, Span};
use super::lives::Change;
use super::store::{Place, View};
use crate::value::Text;

/// The greatest size of rows, bytes, up to which a snapshot or delta is encoded in one turn.
const ONE_TURN: usize = 1024 * 1024;

/// How long a snapshot of more than [`CHUNK`] bytes is shared among arriving clients, ms.
const SNAPSHOT_SHARED: i64 = 250;

/// The result of asking for a client's next frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Pulled {
    /// nothing now; the view notifies when there is something
    Nothing,
    /// nothing in this turn: the rows of its part are still being gathered
    Later,
    Frame(Frame),
    /// the subscription is sent to the client again
    Resubscribed,
    /// the view, or a column of the subscription, no longer exists
    Gone,
}

/// The changes of a part that a client lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// those between two cuts
    Exact,
    /// also rows that were added and removed in between: the client may have them
    Settling,
}

impl View {
    /// The next frame of a subscription.
    pub fn pull(&mut self, place: Place, now: i64) -> Pulled {
        let Some(cohort) = self.cohorts.get_mut(place.cohort) else { return Pulled::Gone };
        let Some(member) = cohort.members.get_mut(place.member as usize) else { return Pulled::Gone };
        member.called = false;
        let pulled = match member.phase.clone() {
            Phase::Gone => Pulled::Gone,
            Phase::Gap { from, why } => {
                member.phase = Phase::Start;
                Pulled::Frame(Frame::gap(cohort.s, &from, why))
            }
            Phase::Redefined { from } => {
                member.phase = Phase::Resubscribe;
                let frame = Frame::gap(cohort.s, &from, GapReason::Changed);
                self.counters.gap(GapReason::Changed);
                Pulled::Frame(frame)
            }
            Phase::Resubscribe => {
                member.phase = Phase::Start;
                Pulled::Resubscribed
            }
            Phase::Start => self.start(place, now),
            Phase::Snapshot { snapshot, next } => self.snapshot_frame(place, &snapshot, next, now),
            Phase::Scan { next, count } => self.scan(place, next, count),
            Phase::CatchUp(rest) => self.catch_up(place, *rest),
            Phase::Settle => self.settle(place),
            Phase::Complete => self.complete(place),
            Phase::Follow => self.follow(place),
        };
        // The client fetches until there is nothing more.
        if pulled != Pulled::Nothing
            && self.lacks(place)
            && let Some(member) = self.member(place)
        {
            member.called = true;
        }
        pulled
    }

    /// Whether a subscription has something to fetch now.
    pub fn lacks(&self, place: Place) -> bool {
        let Some(cohort) = self.cohorts.get(place.cohort) else { return true };
        let Some(member) = cohort.members.get(place.member as usize) else { return true };
        let waits = cohort.selection.every.is_limited() && !member.due;
        if self.opening {
            return !matches!(member.phase, Phase::Follow | Phase::Start);
        }
        member.is_busy() || !waits && member.holds < self.changed(place.cohort)
    }

    /// The cursor of a subscription that lacks nothing, for telling its client that it is up to date.
    pub fn progress(&mut self, place: Place) -> Option<(u64, Text)> {
        let changed = self.changed(place.cohort);
        let sequence = self.sequence;
        let cohort = self.cohorts.get_mut(place.cohort)?;
        let member = cohort.members.get_mut(place.member as usize)?;
        if member.is_busy() || member.holds < changed {
            return None;
        }
        member.sent_cursor = sequence;
        Some((cohort.s, cursor(&cohort.epoch, sequence)))
    }

    fn set_phase(&mut self, place: Place, phase: Phase) {
        if let Some(member) = self.member(place) {
            member.phase = phase;
        }
    }

    fn member(&mut self, place: Place) -> Option<&mut super::cohort::Member> {
        self.cohorts.get_mut(place.cohort)?.members.get_mut(place.member as usize)
    }

    /// Records that the member now has the cut with this number.
    fn holds(&mut self, place: Place, holds: Sequence, cuts: u64, sent_cursor: Sequence) {
        let changed = self.changed(place.cohort);
        let sequence = self.sequence;
        if let Some(member) = self.member(place) {
            member.holds = holds;
            member.cuts = cuts;
            member.sent_cursor = sent_cursor;
            if holds >= changed || holds >= sequence {
                member.behind_since = None;
            }
        }
    }

    fn start(&mut self, place: Place, now: i64) -> Pulled {
        if self.opening {
            return Pulled::Nothing;
        }
        if !self.fill_parts(place.cohort) {
            return Pulled::Later;
        }
        let (rows, bytes) = self.extent(place.cohort);
        let sequence = self.sequence;
        if bytes + rows <= ONE_TURN {
            let snapshot = self.snapshot(place.cohort, bytes, now);
            return self.snapshot_frame(place, &snapshot, 0, now);
        }
        let cohort = &mut self.cohorts[place.cohort];
        let (s, cuts) = (cohort.s, cohort.cuts);
        self.holds(place, sequence, cuts, sequence);
        self.set_phase(place, Phase::Scan { next: 0, count: 0 });
        Pulled::Frame(Frame::snapshot(s))
    }

    /// The number of rows that a cohort sees, and their size in bytes.
    pub(super) fn extent(&self, cohort: u32) -> (usize, usize) {
        let cohort = &self.cohorts[cohort];
        let Some(division) = cohort.division.map(|place| &self.divisions[place]) else { return (0, 0) };
        let parts = cohort.parts.iter().map(|&part| &division.parts[part]);
        parts.fold((0, 0), |(rows, bytes), part| (rows + part.rows, bytes + part.bytes))
    }

    /// The current snapshot; clients that connect at about the same time share it.
    fn snapshot(&mut self, cohort: u32, bytes: usize, now: i64) -> Arc<Snapshot> {
        let (changed, horizon) = (self.changed(cohort), self.horizon(cohort));
        let sequence = self.sequence;
        let found = &self.cohorts[cohort];
        if let Some((at, snapshot)) = &found.snapshot
            && snapshot.sequence >= horizon
            && (snapshot.sequence >= changed || bytes > CHUNK && now - at < SNAPSHOT_SHARED)
        {
            return snapshot.clone();
        }
        let s = found.s;
        let mut frames = vec![Frame::snapshot(s)];
        let mut rows = RowsFrame::new(s);
        let mut count = 0;
        if let Some(division) = found.division.map(|place| &self.divisions[place]) {
            for &part in &found.parts {
                division.rows(part, |entry| {
                    let Some(row) = self.rows.json(entry) else { return };
                    rows.push(row);
                    count += 1;
                    if rows.is_full() {
                        frames.push(std::mem::replace(&mut rows, RowsFrame::new(s)).finish());
                    }
                });
            }
        }
        if !rows.is_empty() {
            frames.push(rows.finish());
        }
        frames.push(Frame::ready(s, Some(cursor(&found.epoch, sequence)), self.ts, count));
        let snapshot = Arc::new(Snapshot { sequence, cuts: found.cuts, frames });
        self.counters.snapshot_rows += count as u64;
        let cohort = &mut self.cohorts[cohort];
        // A single client has nobody to share with, so nothing is kept.
        if cohort.members.len() > 1 {
            cohort.snapshot = Some((now, snapshot.clone()));
        }
        snapshot
    }

    fn snapshot_frame(&mut self, place: Place, snapshot: &Arc<Snapshot>, next: usize, now: i64) -> Pulled {
        let Some(frame) = snapshot.frames.get(next).cloned() else { return self.follow(place) };
        if next + 1 < snapshot.frames.len() {
            self.set_phase(place, Phase::Snapshot { snapshot: snapshot.clone(), next: next + 1 });
            return Pulled::Frame(frame);
        }
        self.set_phase(place, Phase::Follow);
        self.holds(place, snapshot.sequence, snapshot.cuts, snapshot.sequence);
        let changed = self.changed(place.cohort);
        let cohort = &mut self.cohorts[place.cohort];
        // With a rate, later changes are sent at the next tick.
        cohort.due |= changed > snapshot.sequence;
        if let Some(member) = cohort.members.get_mut(place.member as usize) {
            member.due = false;
            if changed > snapshot.sequence {
                member.behind_since = Some(now);
            }
        }
        Pulled::Frame(frame)
    }

    /// The next rows of a snapshot that is sent at the client's pace.
    ///
    /// Only rows are sent before `ready`; whether the client has fallen beyond the horizon is checked after it.
    fn scan(&mut self, place: Place, next: u32, count: usize) -> Pulled {
        let cohort = &self.cohorts[place.cohort];
        let Some(division) = cohort.division.map(|place| &self.divisions[place]) else { return Pulled::Nothing };
        let (mut next, mut count, s) = (next, count, cohort.s);
        let mut rows = RowsFrame::new(s);
        let end = self.rows.entries.end();
        while next < end && !rows.is_full() {
            if let Some(row) = self.rows.json(next)
                && division.part_of(next).is_some_and(|part| cohort.parts.contains(&part))
            {
                rows.push(row);
                count += 1;
            }
            next += 1;
        }
        if !rows.is_empty() {
            self.set_phase(place, Phase::Scan { next, count });
            return Pulled::Frame(rows.finish());
        }
        self.counters.snapshot_rows += count as u64;
        self.set_phase(place, Phase::Settle);
        Pulled::Frame(Frame::ready(s, None, self.ts, count))
    }

    /// The next rows of a delta that is sent at the client's pace.
    fn catch_up(&mut self, place: Place, rest: CatchUp) -> Pulled {
        let CatchUp { keys, next, upto } = rest;
        if let Some(gap) = self.beyond_horizon(place) {
            return gap;
        }
        let cohort = &self.cohorts[place.cohort];
        let Some(division) = cohort.division.map(|place| &self.divisions[place]) else { return Pulled::Nothing };
        let (mut changes, mut bytes, mut end) = (Vec::new(), 0, next);
        for &entry in &keys[next..] {
            end += 1;
            let here = division.part_of(entry).is_some_and(|part| cohort.parts.contains(&part));
            changes.push((entry, if here { Change::Insert } else { Change::Delete }));
            bytes += self.rows.json(entry).map_or(32, <[u8]>::len);
            if bytes >= CHUNK {
                break;
            }
        }
        let frame = frame::delta(cohort.s, &self.about, &self.rows, self.ts, None, &changes);
        if end < keys.len() {
            self.set_phase(place, Phase::CatchUp(Box::new(CatchUp { keys, next: end, upto })));
        } else {
            if let Some(member) = self.member(place) {
                member.holds = upto;
            }
            self.set_phase(place, Phase::Settle);
        }
        self.counters.deltas += 1;
        Pulled::Frame(frame)
    }

    /// A delta that brings rows of different cuts to the same cut.
    fn settle(&mut self, place: Place) -> Pulled {
        if let Some(gap) = self.beyond_horizon(place) {
            return gap;
        }
        let Some(holds) = self.member(place).map(|member| member.holds) else { return Pulled::Gone };
        let (changes, bytes) = self.changes(place.cohort, holds, Wanted::Settling);
        if bytes > ONE_TURN {
            return self.begin_catch_up(place, &changes);
        }
        let (sequence, cohort) = (self.sequence, &self.cohorts[place.cohort]);
        let cuts = cohort.cuts;
        let frame = frame::delta(cohort.s, &self.about, &self.rows, self.ts, None, &changes);
        self.set_phase(place, Phase::Complete);
        if let Some(member) = self.member(place) {
            (member.holds, member.cuts) = (sequence, cuts);
        }
        if changes.is_empty() {
            return self.complete(place);
        }
        self.counters.deltas += 1;
        Pulled::Frame(frame)
    }

    /// The delta that gives a client its cursor.
    fn complete(&mut self, place: Place) -> Pulled {
        if let Some(gap) = self.beyond_horizon(place) {
            return gap;
        }
        let Some(member) = self.member(place) else { return Pulled::Gone };
        let (holds, had, sent_cursor) = (member.holds, member.cuts, member.sent_cursor);
        let (changes, bytes) = self.changes(place.cohort, holds, Wanted::Exact);
        if bytes > ONE_TURN {
            return self.begin_catch_up(place, &changes);
        }
        if self.sequence == holds {
            // Makes a cut without a change, since a delta must lead to a later cursor.
            self.sequence += 1;
        }
        let (sequence, cohort) = (self.sequence, &self.cohorts[place.cohort]);
        let (cuts, epoch, s) = (cohort.cuts, cohort.epoch.clone(), cohort.s);
        // The frames before had no cursor: it follows the last one that the client got.
        let span = Span {
            prev: cursor(&epoch, holds.min(sent_cursor)),
            at: cursor(&epoch, sequence),
            merged: merged(cuts.saturating_sub(had)),
        };
        let frame = frame::delta(s, &self.about, &self.rows, self.ts, Some(span), &changes);
        self.set_phase(place, Phase::Follow);
        self.holds(place, sequence, cuts, sequence);
        if let Some(member) = self.member(place) {
            member.due = false;
        }
        self.counters.deltas += 1;
        Pulled::Frame(frame)
    }

    fn begin_catch_up(&mut self, place: Place, changes: &[(u32, Change)]) -> Pulled {
        let keys: Arc<[u32]> = changes.iter().map(|(entry, _)| *entry).collect();
        let upto = self.sequence;
        self.catch_up(place, CatchUp { keys, next: 0, upto })
    }

    /// The next delta for a client that has a cut.
    fn follow(&mut self, place: Place) -> Pulled {
        if self.opening {
            return Pulled::Nothing;
        }
        let (changed, sequence) = (self.changed(place.cohort), self.sequence);
        let cohort = &self.cohorts[place.cohort];
        let Some(member) = cohort.members.get(place.member as usize) else { return Pulled::Gone };
        let (from, had, sent_cursor) = (member.holds, member.cuts, member.sent_cursor);
        if from >= changed || cohort.selection.every.is_limited() && !member.due {
            return Pulled::Nothing;
        }
        let fits = |shared: &&Shared| {
            shared.from == from
                && shared.prev <= sent_cursor
                && if cohort.selection.every.is_limited() { shared.tick == cohort.ticks } else { shared.to >= changed }
        };
        if let Some(shared) = cohort.shared.as_deref().filter(fits) {
            let (to, cuts, frame) = (shared.to, shared.cuts, shared.frame.clone());
            return self.give(place, frame, to, cuts, cuts.saturating_sub(had));
        }
        if let Some(gap) = self.beyond_horizon(place) {
            return gap;
        }
        let (changes, bytes) = self.changes(place.cohort, from, Wanted::Exact);
        if bytes > ONE_TURN {
            return self.begin_catch_up(place, &changes);
        }
        let cohort = &mut self.cohorts[place.cohort];
        let (cuts, tick) = (cohort.cuts, cohort.ticks);
        if changes.is_empty() {
            // The new rows were removed again, so the cursor moves with the next delta or heartbeat.
            let sent_cursor = cohort.members[place.member as usize].sent_cursor;
            self.holds(place, changed, cuts, sent_cursor);
            return Pulled::Nothing;
        }
        let folded = cuts.saturating_sub(had);
        // Rows that were added and removed moved the client's cut, but not its cursor.
        let prev = from.min(sent_cursor);
        let span =
            Span { prev: cursor(&cohort.epoch, prev), at: cursor(&cohort.epoch, sequence), merged: merged(folded) };
        let frame = frame::delta(cohort.s, &self.about, &self.rows, self.ts, Some(span), &changes);
        if cohort.members.len() > 1 {
            cohort.shared = Some(Box::new(Shared { from, prev, to: sequence, cuts, tick, frame: frame.clone() }));
        }
        self.give(place, frame, sequence, cuts, folded)
    }

    fn give(&mut self, place: Place, frame: Frame, to: Sequence, cuts: u64, folded: u64) -> Pulled {
        self.holds(place, to, cuts, to);
        let changed = self.changed(place.cohort);
        let cohort = &mut self.cohorts[place.cohort];
        if cohort.selection.every.is_limited() {
            cohort.due |= changed > to;
        }
        if let Some(member) = cohort.members.get_mut(place.member as usize) {
            member.due = false;
        }
        self.counters.deltas += 1;
        self.counters.merged += folded.saturating_sub(1);
        Pulled::Frame(frame)
    }

    /// A gap, if lives that ended after the member's cut have been forgotten.
    fn beyond_horizon(&mut self, place: Place) -> Option<Pulled> {
        let horizon = self.horizon(place.cohort);
        let cohort = self.cohorts.get_mut(place.cohort)?;
        let member = cohort.members.get_mut(place.member as usize)?;
        if member.holds >= horizon {
            return None;
        }
        member.phase = Phase::Start;
        let frame = Frame::gap(cohort.s, &cursor(&cohort.epoch, member.sent_cursor), GapReason::Expired);
        self.counters.gap(GapReason::Expired);
        Some(Pulled::Frame(frame))
    }

    /// The changes in a cohort's part after a cut, each key once, and the size of the rows.
    fn changes(&self, cohort: u32, since: Sequence, wanted: Wanted) -> (Vec<(u32, Change)>, usize) {
        let cohort = &self.cohorts[cohort];
        let Some(division) = cohort.division.map(|place| &self.divisions[place]) else { return (Vec::new(), 0) };
        let mut changes = Vec::new();
        let (mut deaths, mut bytes) = (false, 0);
        let settling = wanted == Wanted::Settling;
        for &part in &cohort.parts {
            division.walk(part, since, |entry, held, alive| {
                deaths |= !alive;
                changes.push((entry, held, alive));
            });
        }
        // A removed key may exist again, possibly in another part that the client sees.
        if deaths {
            let mut lives: HashMap<u32, (bool, bool), RandomState> = HashMap::default();
            let mut order = Vec::with_capacity(changes.len());
            for (entry, held, alive) in changes {
                let life = lives.entry(entry).or_insert_with(|| {
                    order.push(entry);
                    (false, false)
                });
                *life = (life.0 | held, life.1 | alive);
            }
            changes = order.into_iter().map(|entry| (entry, lives[&entry].0, lives[&entry].1)).collect();
        }
        let change = |(entry, held, alive)| {
            let change = match (held, alive) {
                (false, true) => Change::Insert,
                (true, true) => Change::Update,
                (true, false) => Change::Delete,
                (false, false) if settling => Change::Delete,
                (false, false) => return None,
            };
            bytes += self.rows.json(entry).map_or(32, <[u8]>::len);
            Some((entry, change))
        };
        let changes = changes.into_iter().filter_map(change).collect();
        (changes, bytes)
    }
}

fn merged(cuts: u64) -> Option<u64> {
    (cuts > 1).then_some(cuts)
}
