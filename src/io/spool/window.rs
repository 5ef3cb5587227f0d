//! The numbers of a store's messages: which are done, which are in memory, and which come next. Plain data.
//!
//! Messages are taken in their order, at the cursor. With [`Resend`] out of order there are two places after each new
//! connection: the cursor, at messages that waited for the connection, and another one at messages that come since
//! then. When the cursor has reached that other place, the order is the usual one again.

use std::collections::VecDeque;
use std::sync::Arc;

use super::log::{HOLES, Page};
use super::ranges::Ranges;
use super::record::Lot;
use crate::io::batch_queue::QueueLimit;
use crate::io::queue::MessageBatch;

#[derive(Debug, Default)]
pub(super) struct Window {
    /// the messages before this number are done: delivered or dropped
    first: u64,
    /// the number of the next message
    next: u64,
    /// done messages after `first`
    holes: Ranges,
    /// the messages before this number are on disk, unless they are done
    written: u64,
    /// the next message to be taken
    cursor: u64,
    /// the messages before this number existed when the connection began: they are repeated or late
    resent: u64,
    /// with [`Resend`] out of order: the next message that came since then; messages from `cursor` to here are late
    live: Option<u64>,
    /// messages after `cursor` that were taken before their turn
    ahead: Ranges,
    /// whether the next message is a late one
    late_next: bool,
    /// the most recent messages, in order
    recent: VecDeque<Lot>,
    /// the number of messages in `recent`
    messages: usize,
    bytes: usize,
    /// messages from the cursor on that were read from disk
    loaded: VecDeque<Lot>,
    /// whether messages are being read
    loading: bool,
    /// messages lost in damaged records since the last call of [`Window::damage`]
    damaged: u64,
    /// whether a rule waits for room in memory
    awaited: bool,
}

/// What comes first after a new connection: messages that waited for it, which are late, or those that come since then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resend {
    /// late ones first: all messages keep their order
    #[default]
    InOrder,
    /// late ones first, but others while the late ones pause or are read from disk
    LateFirst,
    /// in turn
    InTurn,
    /// late ones while there are no others
    NewFirst,
}

/// How many times new messages that have left memory can become late ones; after that they wait until the late ones are
/// sent.
const LEAPS: usize = 64;

/// The messages that were taken at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::io) struct Taken {
    /// all messages below this number
    below: u64,
    /// and the messages in these ranges
    ahead: Ranges,
}

/// The limits of memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// beyond it, messages that are on disk leave memory, and rules wait
    pub usual: QueueLimit,
    /// beyond it, messages that are not on disk are dropped
    pub most: QueueLimit,
}

/// A batch from the cursor on.
#[derive(Debug)]
pub(in crate::io) struct Portion {
    pub batch: Arc<MessageBatch>,
    /// the position of its first wanted message
    pub next: usize,
    /// the number of that message
    pub number: u64,
    /// whether it existed before the connection
    pub resent: bool,
}

/// Messages dropped because they do not fit, by limit.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Excess {
    /// beyond the limit of the store
    pub kept: u64,
    /// beyond the limit of memory, while the disk accepts nothing
    pub memory: u64,
}

impl Window {
    /// A window over the messages on disk: from `first` to `next`, exclusive, without the done ones.
    pub fn new(first: u64, next: u64, holes: Ranges) -> Window {
        let mut window = Window { first, next, written: next, cursor: first, resent: next, ..Window::default() };
        holes.iter().for_each(|(start, end)| _ = window.punch(start.max(first), end.min(next)));
        window.settle();
        window
    }

    /// Adds messages; those that do not fit into `capacity` or memory are dropped.
    pub fn push(&mut self, batch: &Arc<MessageBatch>, capacity: u64, room: Room) -> Excess {
        let lot = Lot { first: self.next, batch: batch.clone() };
        self.next = lot.end();
        self.messages += batch.len();
        self.bytes += batch.byte_len();
        self.recent.push_back(lot);
        let kept = self.queued().saturating_sub(capacity);
        self.drop_oldest(kept);
        Excess { kept, memory: self.make_room(room) }
    }

    /// The number of stored messages.
    pub fn queued(&self) -> u64 {
        self.next - self.first - self.holes.total()
    }

    /// The number of the first message that is not done.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Done messages after [`Window::first`].
    pub fn holes(&self) -> &Ranges {
        &self.holes
    }

    /// The messages that are taken at this time, for [`Window::prove`].
    pub fn taken(&self) -> Taken {
        Taken { below: self.cursor, ahead: self.ahead.clone() }
    }

    /// Whether any message that was taken is not done.
    pub fn has_unproven(&self) -> bool {
        let waits = |(start, end): (u64, u64)| end > self.first && !self.holes.covers(start.max(self.first), end);
        self.cursor > self.first || self.ahead.iter().any(waits)
    }

    /// Returns the messages from `number` on, which will be taken again. If `number` was taken before its turn, no
    /// other message is returned.
    pub fn back(&mut self, number: u64) {
        if self.live.is_some() && self.ahead.end_of(number).is_some() {
            self.ahead.cut_from(number);
            self.live = Some(number);
            return;
        }
        self.cursor = self.cursor.min(number).max(self.first);
        // Some messages may have left memory: they are read again.
        if self.loaded.front().is_some_and(|lot| lot.first > self.cursor) {
            self.loaded.clear();
        }
    }

    /// A connection begins: all messages that are not done are taken again, and count as late.
    pub fn rewind(&mut self, resend: Resend) {
        self.cursor = self.first;
        self.ahead.cut_from(0);
        self.loaded.clear();
        self.live = None;
        self.turn(resend);
    }

    /// The peer is back: all messages that were not taken count as late.
    pub fn turn(&mut self, resend: Resend) {
        self.resent = self.next;
        self.live = (resend != Resend::InOrder && self.cursor < self.next).then_some(self.next);
        if self.live.is_none() {
            self.ahead.cut_from(0);
        }
    }

    /// The next messages; `None`: there are none, or they must be read from disk first ([`Window::wants_disk`]). While
    /// late ones are `paused`, they are not taken.
    pub fn take(&mut self, resend: Resend, paused: bool) -> Option<Portion> {
        let new_first = match resend {
            Resend::InOrder | Resend::LateFirst => false,
            Resend::InTurn => !self.late_next,
            Resend::NewFirst => true,
        };
        let portion = match new_first {
            true => self.take_new().or_else(|| self.take_next(paused)),
            false => self.take_next(paused).or_else(|| self.take_new()),
        };
        self.late_next = portion.as_ref().is_some_and(|portion| !portion.resent);
        self.settle();
        portion
    }

    /// The messages at the cursor.
    fn take_next(&mut self, paused: bool) -> Option<Portion> {
        let lot = self.upcoming()?;
        let number = self.cursor.max(lot.first);
        let resent = number < self.resent || self.live.is_some();
        if paused && resent {
            return None;
        }
        self.cursor = lot.end();
        let next = (number - lot.first) as usize;
        Some(Portion { batch: lot.batch, next, number, resent })
    }

    /// The messages that arrived after the connection began.
    fn take_new(&mut self) -> Option<Portion> {
        let lot = self.new_lot()?;
        let number = self.live.unwrap_or_default().max(lot.first);
        self.ahead.add(number, lot.end());
        self.live = Some(lot.end());
        let next = (number - lot.first) as usize;
        Some(Portion { batch: lot.batch, next, number, resent: false })
    }

    fn new_lot(&mut self) -> Option<Lot> {
        let live = self.live?.max(self.in_memory());
        if Some(live) != self.live {
            // Some have left memory. They become late messages.
            if self.ahead.len() >= LEAPS {
                return None;
            }
            self.live = Some(live);
        }
        let at = self.recent.partition_point(|lot| lot.end() <= live);
        self.recent.get(at).cloned()
    }

    /// The number of damaged messages that [`Window::take`] has found since the last call.
    pub fn damage(&mut self) -> u64 {
        std::mem::take(&mut self.damaged)
    }

    /// The number of the first message in memory.
    fn in_memory(&self) -> u64 {
        self.recent.front().map_or(self.next, |lot| lot.first)
    }

    /// The lot at the cursor. Messages that are missing before it are done, or were damaged on disk.
    fn upcoming(&mut self) -> Option<Lot> {
        loop {
            self.skip();
            let lot = self.lot_at_cursor()?;
            if lot.first <= self.cursor {
                return Some(lot);
            }
            self.damaged += self.punch(self.cursor, lot.first);
            self.cursor = lot.first;
        }
    }

    fn lot_at_cursor(&mut self) -> Option<Lot> {
        let cursor = self.cursor;
        if cursor < self.in_memory().min(self.written) {
            while self.loaded.front().is_some_and(|lot| lot.end() <= cursor) {
                self.loaded.pop_front();
            }
            return self.loaded.front().cloned();
        }
        let at = self.recent.partition_point(|lot| lot.end() <= cursor);
        self.recent.get(at).cloned()
    }

    /// Moves the cursor past done messages, and past those that were taken before their turn.
    fn skip(&mut self) {
        while let Some(end) = self.holes.end_of(self.cursor).or_else(|| self.ahead.end_of(self.cursor)) {
            self.cursor = end;
        }
        if self.live.is_some_and(|live| live <= self.cursor) {
            self.live = None;
            self.ahead.cut_from(0);
        }
    }

    /// Whether something can be taken now; late ones that are `paused` cannot.
    pub fn has_more(&mut self, paused: bool) -> bool {
        let next = self.upcoming().is_some() && !(paused && (self.cursor < self.resent || self.live.is_some()));
        next || self.new_lot().is_some()
    }

    /// Whether new messages are taken before their turn.
    pub fn is_split(&self) -> bool {
        self.live.is_some()
    }

    /// Whether the next messages must be read from disk and the writer was not asked to; then the caller must ask it.
    pub fn wants_disk(&mut self) -> bool {
        self.skip();
        let wants = !self.loading && self.cursor < self.in_memory().min(self.written) && self.upcoming().is_none();
        self.loading |= wants;
        wants
    }

    /// Where to continue reading, if reading was asked for.
    pub fn load_from(&self) -> Option<u64> {
        self.loading.then_some(self.cursor)
    }

    /// Reading has failed: it will be asked for again.
    pub fn load_failed(&mut self) {
        self.loading = false;
    }

    /// Takes what was read from `from` on; returns the number of messages lost to damage.
    pub fn loads(&mut self, from: u64, page: Page) -> u64 {
        self.loading = false;
        // If the cursor has moved in the meantime, they are read again.
        if self.cursor != from {
            return 0;
        }
        let end = page.lots.first().map_or(self.in_memory().min(self.written), |lot| lot.first);
        // The log returns everything it has: missing messages are lost.
        let lost = self.punch(from, end.max(from));
        self.cursor = self.cursor.max(end);
        self.loaded.extend(page.lots);
        self.settle();
        lost
    }

    /// The messages that must be appended to the log. Those that are done with need not go to disk, if the log knows
    /// that they are: it records [`Window::first`] and the first [`HOLES`] of [`Window::holes`]. It must record them
    /// before it appends: otherwise, after a kill, messages that are missing in the log would count as damaged.
    pub fn unwritten(&self) -> Vec<Lot> {
        let start = self.recent.partition_point(|lot| lot.end() <= self.written);
        let unrecorded = self.holes.iter().nth(HOLES).map_or(u64::MAX, |(start, _)| start);
        let is_known = |lot: &Lot| lot.first < unrecorded && self.is_done(lot);
        self.recent.range(start..).filter(|lot| !is_known(lot)).cloned().collect()
    }

    /// The messages before this number are in the log.
    pub fn wrote(&mut self, end: u64, room: Room) -> u64 {
        self.written = self.written.max(end);
        self.make_room(room)
    }

    /// Whether rules may add messages; if not, [`Window::relieved`] reports when they may.
    pub fn is_ready(&mut self, room: Room) -> bool {
        let exceeds = self.exceeds(room.usual);
        // Stays set until `relieved` has notified the callers that wait.
        self.awaited |= exceeds;
        !exceeds
    }

    /// Whether waiting rules may continue, always if `in_any_case`; reported only once.
    pub fn relieved(&mut self, room: Room, in_any_case: bool) -> bool {
        let relieved = self.awaited && (in_any_case || !self.exceeds(room.usual));
        self.awaited &= !relieved;
        relieved
    }

    /// Whether memory exceeds the limit; a single batch never does.
    fn exceeds(&self, limit: QueueLimit) -> bool {
        self.recent.len() > 1 && (self.messages > limit.messages || self.bytes > limit.bytes)
    }

    /// Marks the messages before `end` as done; returns how many were not before.
    pub fn forget(&mut self, end: u64) -> u64 {
        let end = end.clamp(self.first, self.next);
        let count = self.punch(self.first, end);
        self.settle();
        count
    }

    /// The peer has received the messages that were taken at that time; returns how many were not done before.
    pub fn prove(&mut self, taken: &Taken) -> u64 {
        let ahead: u64 =
            taken.ahead.iter().map(|(start, end)| self.punch(start.max(self.first), end.min(self.next))).sum();
        ahead + self.forget(taken.below)
    }

    fn is_done(&self, lot: &Lot) -> bool {
        lot.end() <= self.first || self.holes.covers(lot.first.max(self.first), lot.end())
    }

    /// Marks these messages as done; returns how many were not before.
    pub fn finish(&mut self, number: u64, messages: u64) -> u64 {
        let count = self.punch(number.max(self.first), (number + messages).min(self.next));
        self.settle();
        count
    }

    /// Marks a range as done; returns how many messages were not before.
    fn punch(&mut self, start: u64, end: u64) -> u64 {
        self.holes.add(start, end)
    }

    /// Moves `first` past the ranges that are done.
    fn settle(&mut self) {
        if let Some(end) = self.holes.end_of(self.first) {
            self.first = end;
            self.holes.cut_below(end);
        }
        self.cursor = self.cursor.max(self.first);
        while let Some(front) = self.recent.front().filter(|lot| self.is_done(lot)) {
            self.messages -= front.batch.len();
            self.bytes -= front.batch.byte_len();
            self.recent.pop_front();
        }
        while self.loaded.front().is_some_and(|lot| lot.end() <= self.first) {
            self.loaded.pop_front();
        }
    }

    fn drop_oldest(&mut self, count: u64) {
        let mut left = count;
        while left > 0 {
            let hole = self.holes.iter().next().map_or(self.next, |(start, _)| start);
            let end = hole.min(self.first + left);
            left -= end - self.first;
            self.forget(end);
        }
    }

    /// Removes messages that are on disk from memory. Of the others, drops the oldest beyond `room.most`; returns their
    /// number.
    fn make_room(&mut self, room: Room) -> u64 {
        let mut lost = 0;
        while let Some(front) = self.recent.front() {
            let is_written = front.end() <= self.written;
            if !self.exceeds(if is_written { room.usual } else { room.most }) {
                break;
            }
            let Some(front) = self.recent.pop_front() else { break };
            self.messages -= front.batch.len();
            self.bytes -= front.batch.byte_len();
            if !is_written {
                lost += self.punch(front.first.max(self.first).max(self.written), front.end());
            }
        }
        self.settle();
        lost
    }
}

#[cfg(test)]
mod tests;
