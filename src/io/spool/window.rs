//! Numbers a store's messages: which are done, which are in memory, which come next. Plain data.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::log::Page;
use super::record::Lot;
use crate::io::batch_queue::QueueLimit;
use crate::io::queue::MessageBatch;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// messages below are done with: delivered, or dropped
    first: u64,
    /// the number of the next message
    next: u64,
    /// ranges behind `first` that are done with, and how many messages they are
    holes: BTreeMap<u64, u64>,
    missing: u64,
    /// messages below are on disk, unless they are done with
    written: u64,
    /// the next message to be taken
    cursor: u64,
    /// messages below were there when the connection began: they are sent again, or late
    resent: u64,
    /// the last messages, in their order
    recent: VecDeque<Lot>,
    /// how much these are
    messages: usize,
    bytes: usize,
    /// messages from the cursor on that were read from disk
    loaded: VecDeque<Lot>,
    /// those are being read
    loading: bool,
    /// messages that damaged records have cost since [`Window::damage`]
    damaged: u64,
    /// a rule waits until there is room in memory
    awaited: bool,
}

/// What may be in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// beyond it, what is on disk leaves memory, and rules wait
    pub usual: QueueLimit,
    /// beyond it, what is not on disk is dropped
    pub most: QueueLimit,
}

/// A batch from the cursor on.
#[derive(Debug)]
pub(in crate::io) struct Portion {
    pub batch: Arc<MessageBatch>,
    /// its first message that is wanted
    pub next: usize,
    /// the number of that message
    pub number: u64,
    /// it was there before the connection
    pub resent: bool,
}

/// Messages that do not fit, by where they would have been.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Excess {
    /// beyond what is kept
    pub kept: u64,
    /// beyond what is in memory, while the disk takes nothing
    pub memory: u64,
}

impl Window {
    /// Of what is on disk: messages from `first` on, before `next`.
    pub fn new(first: u64, next: u64) -> Window {
        Window { first, next, written: next, cursor: first, resent: next, ..Window::default() }
    }

    /// Adds messages; what does not fit into `capacity` and into memory is dropped.
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

    /// The messages that are kept.
    pub fn queued(&self) -> u64 {
        self.next - self.first - self.missing
    }

    /// Messages below are done with.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The next message to be taken.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Whether messages were taken that are not done with.
    pub fn has_unproven(&self) -> bool {
        self.cursor > self.first
    }

    /// What was taken from `number` on is taken again.
    pub fn back(&mut self, number: u64) {
        self.cursor = self.cursor.min(number).max(self.first);
        // What was taken before may have left memory: it is read again.
        if self.loaded.front().is_some_and(|lot| lot.first > self.cursor) {
            self.loaded.clear();
        }
    }

    /// All that is not done with is taken again.
    pub fn rewind(&mut self) {
        (self.cursor, self.resent) = (self.first, self.next);
        self.loaded.clear();
    }

    /// The next messages; `None`: there are none, or they must be read from disk first ([`Window::wants_disk`]).
    pub fn take(&mut self) -> Option<Portion> {
        let lot = self.upcoming()?;
        let number = self.cursor.max(lot.first);
        // What is missing before it is done with already, or was damaged on disk.
        self.damaged += self.punch(self.cursor, number);
        self.cursor = lot.end();
        self.settle();
        let next = (number - lot.first) as usize;
        Some(Portion { batch: lot.batch, next, number, resent: number < self.resent })
    }

    /// Messages that [`Window::take`] found to be damaged since this was last asked.
    pub fn damage(&mut self) -> u64 {
        std::mem::take(&mut self.damaged)
    }

    /// Where memory begins.
    fn in_memory(&self) -> u64 {
        self.recent.front().map_or(self.next, |lot| lot.first)
    }

    fn upcoming(&mut self) -> Option<Lot> {
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

    /// Whether something can be taken now.
    pub fn has_more(&mut self) -> bool {
        self.upcoming().is_some()
    }

    /// Whether what comes next has to be read from disk, and nobody was asked for it; then somebody is.
    pub fn wants_disk(&mut self) -> bool {
        let wants = !self.loading && self.cursor < self.in_memory().min(self.written) && self.upcoming().is_none();
        self.loading |= wants;
        wants
    }

    /// Where to read on, if somebody is asked.
    pub fn load_from(&self) -> Option<u64> {
        self.loading.then_some(self.cursor)
    }

    /// Reading has failed: it is asked for again.
    pub fn load_failed(&mut self) {
        self.loading = false;
    }

    /// Takes in what was read from `from` on; how many messages damage has cost.
    pub fn loads(&mut self, from: u64, page: Page) -> u64 {
        self.loading = false;
        // Where the cursor has moved meanwhile, it is read again.
        if self.cursor != from {
            return 0;
        }
        let end = page.lots.first().map_or(self.in_memory().min(self.written), |lot| lot.first);
        // The log gives all that it has: what is missing is lost.
        let lost = self.punch(from, end.max(from));
        self.cursor = self.cursor.max(end);
        self.loaded.extend(page.lots);
        self.settle();
        lost
    }

    /// What has to be appended to the log.
    pub fn unwritten(&self) -> Vec<Lot> {
        let start = self.recent.partition_point(|lot| lot.end() <= self.written);
        // What the peer has already needs no disk.
        self.recent.range(start..).filter(|lot| lot.end() > self.first).cloned().collect()
    }

    /// Messages below are in the log.
    pub fn wrote(&mut self, end: u64, room: Room) -> u64 {
        self.written = self.written.max(end);
        self.make_room(room)
    }

    /// Whether rules may add messages; if not, [`Window::relieved`] tells when.
    pub fn is_ready(&mut self, room: Room) -> bool {
        let exceeds = self.exceeds(room.usual);
        // Who waits already is told by `relieved`, whoever asks in between.
        self.awaited |= exceeds;
        !exceeds
    }

    /// Whether rules that wait may go on, in any case if they are not to wait; it is told once.
    pub fn relieved(&mut self, room: Room, in_any_case: bool) -> bool {
        let relieved = self.awaited && (in_any_case || !self.exceeds(room.usual));
        self.awaited &= !relieved;
        relieved
    }

    /// Whether more is in memory; a single batch never is too much.
    fn exceeds(&self, limit: QueueLimit) -> bool {
        self.recent.len() > 1 && (self.messages > limit.messages || self.bytes > limit.bytes)
    }

    /// Messages below `end` are done with; how many were not before.
    pub fn forget(&mut self, end: u64) -> u64 {
        let end = end.clamp(self.first, self.next);
        let count = self.punch(self.first, end);
        self.settle();
        count
    }

    /// These messages are done with; how many were not before.
    pub fn finish(&mut self, number: u64, messages: u64) -> u64 {
        let count = self.punch(number.max(self.first), (number + messages).min(self.next));
        self.settle();
        count
    }

    /// Makes a hole, and says how many messages it has swallowed.
    fn punch(&mut self, start: u64, end: u64) -> u64 {
        if start >= end {
            return 0;
        }
        let (mut from, mut to, mut known) = (start, end, 0);
        // Holes that it touches become one with it.
        while let Some((&hole, &hole_end)) =
            self.holes.range(..=to).next_back().filter(|(_, hole_end)| **hole_end >= from)
        {
            known += hole_end.min(end).saturating_sub(hole.max(start));
            from = from.min(hole);
            to = to.max(hole_end);
            self.holes.remove(&hole);
        }
        let count = end - start - known;
        self.missing += count;
        self.holes.insert(from, to);
        count
    }

    /// Moves the beginning behind a hole that is there.
    fn settle(&mut self) {
        if let Some(hole) = self.holes.first_entry().filter(|hole| *hole.key() <= self.first) {
            let (start, end) = (*hole.key(), *hole.get());
            hole.remove();
            self.missing -= end - start;
            self.first = self.first.max(end);
        }
        self.cursor = self.cursor.max(self.first);
        while let Some(front) = self.recent.front().filter(|lot| lot.end() <= self.first) {
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
            let hole = self.holes.first_key_value().map_or(self.next, |(&start, _)| start);
            let end = hole.min(self.first + left);
            left -= end - self.first;
            self.forget(end);
        }
    }

    /// Lets what is on disk leave memory. Of what is not, the oldest messages beyond `room.most` are dropped; how many.
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
mod tests {
    use bytes::Bytes;

    use super::*;

    const PLENTY: Room = room(1000);

    const fn room(messages: usize) -> Room {
        let limit = QueueLimit { messages, bytes: 1 << 20 };
        Room { usual: limit, most: limit }
    }

    fn batch(messages: usize) -> Arc<MessageBatch> {
        let ends = (1..=messages as u32).collect();
        Arc::new(MessageBatch::new(Bytes::from(vec![b'x'; messages]), ends, true, None))
    }

    fn taken(window: &mut Window) -> Vec<(u64, usize)> {
        std::iter::from_fn(|| window.take().map(|portion| (portion.number, portion.batch.len() - portion.next)))
            .collect()
    }

    #[test]
    fn what_is_not_proven_is_taken_again() {
        let mut window = Window::new(0, 0);
        window.push(&batch(3), 100, PLENTY);
        window.push(&batch(2), 100, PLENTY);
        assert_eq!(taken(&mut window), [(0, 3), (3, 2)]);
        assert_eq!((window.forget(4), window.has_unproven()), (4, true));
        window.rewind();
        let portion = window.take().expect("one is left");
        assert_eq!((portion.number, portion.next, portion.resent), (4, 1, true));
        window.push(&batch(1), 100, PLENTY);
        assert!(!window.take().expect("a new one").resent);
        window.back(4);
        assert_eq!(window.cursor(), 4);
        assert_eq!((window.forget(99), window.queued(), window.has_unproven()), (2, 0, false));
    }

    #[test]
    fn the_oldest_go_beyond_the_capacity() {
        let mut window = Window::new(0, 0);
        assert_eq!(window.push(&batch(4), 6, PLENTY), Excess::default());
        assert_eq!(window.push(&batch(4), 6, PLENTY), Excess { kept: 2, memory: 0 });
        assert_eq!((window.queued(), window.first()), (6, 2));
        assert_eq!(taken(&mut window), [(2, 2), (4, 4)]);
        // What was done with in between does not count.
        assert_eq!(window.finish(4, 2), 2);
        assert_eq!(window.queued(), 4);
        assert_eq!(window.push(&batch(3), 4, PLENTY), Excess { kept: 3, memory: 0 });
        assert_eq!((window.queued(), window.first()), (4, 7));
    }

    #[test]
    fn what_is_on_disk_leaves_memory_and_is_read_again() {
        let small = room(2);
        let mut window = Window::new(0, 0);
        (0..3).for_each(|_| _ = window.push(&batch(1), 100, PLENTY));
        assert_eq!(window.unwritten().len(), 3);
        assert_eq!(window.wrote(3, small), 0);
        assert!(
            window.unwritten().is_empty() && window.take().is_none() && window.wants_disk() && !window.wants_disk()
        );
        assert_eq!(window.load_from(), Some(0));
        let page = Page { lots: vec![Lot { first: 0, batch: batch(1) }], damaged: 0 };
        assert_eq!(window.loads(0, page), 0);
        assert_eq!(taken(&mut window), [(0, 1), (1, 1), (2, 1)]);
        window.rewind();
        assert!(window.wants_disk());
        // All that is read is damaged: memory goes on.
        assert_eq!(window.loads(0, Page { lots: Vec::new(), damaged: 9 }), 1);
        assert_eq!((taken(&mut window), window.queued()), (vec![(1, 1), (2, 1)], 2));
    }

    #[test]
    fn damage_within_a_page_is_counted_and_does_not_stay() {
        let mut window = Window::new(0, 10);
        assert!(window.take().is_none() && window.wants_disk());
        let lots = [(2, 1), (5, 2)].map(|(first, messages)| Lot { first, batch: batch(messages) });
        assert_eq!(window.loads(0, Page { lots: lots.into(), damaged: 0 }), 2);
        assert_eq!((taken(&mut window), window.damage(), window.damage()), (vec![(2, 1), (5, 2)], 2, 0));
        // What was taken is not sent: it is read again, and is not taken for damage.
        window.back(2);
        assert!(window.take().is_none() && window.wants_disk());
        assert_eq!(window.loads(2, Page { lots: vec![Lot { first: 2, batch: batch(1) }], damaged: 0 }), 0);
        assert_eq!((taken(&mut window), window.damage()), (vec![(2, 1)], 0));
        assert_eq!((window.forget(7), window.first(), window.queued()), (3, 7, 3));
        // Nothing of the rest can be read.
        assert!(window.wants_disk());
        assert_eq!(window.loads(window.cursor(), Page::default()), 3);
        assert_eq!((window.first(), window.queued()), (10, 0));
    }

    #[test]
    fn a_disk_that_takes_nothing_costs_the_oldest_in_memory() {
        let small = room(2);
        let mut window = Window::new(0, 2);
        assert_eq!(window.queued(), 2);
        (0..2).for_each(|_| assert_eq!(window.push(&batch(1), 100, small), Excess::default()));
        assert_eq!(window.push(&batch(1), 100, small), Excess { kept: 0, memory: 1 });
        assert_eq!(window.queued(), 4);
        assert!(window.take().is_none() && window.wants_disk());
        let page = Page { lots: vec![Lot { first: 0, batch: batch(2) }], damaged: 0 };
        window.loads(0, page);
        assert_eq!(taken(&mut window), [(0, 2), (3, 1), (4, 1)]);
        assert_eq!((window.forget(5), window.queued()), (4, 0));
    }

    #[test]
    fn rules_wait_before_anything_is_dropped() {
        let tight = Room { most: room(4).most, ..room(2) };
        let mut window = Window::new(0, 0);
        for (waits, lost) in [(false, 0), (false, 0), (true, 0), (true, 0), (true, 1)] {
            assert_eq!(window.push(&batch(1), 100, tight), Excess { kept: 0, memory: lost });
            assert_eq!(window.is_ready(tight), !waits);
        }
        assert!(!window.relieved(tight, false));
        assert_eq!(window.wrote(3, tight), 0);
        assert_eq!(
            (window.relieved(tight, false), window.relieved(tight, true), window.is_ready(tight)),
            (true, false, true)
        );
        assert_eq!((window.queued(), window.unwritten().len()), (4, 2));
    }

    #[test]
    fn who_waits_is_told_though_another_asks_first() {
        let tight = Room { most: room(4).most, ..room(2) };
        let mut window = Window::new(0, 0);
        (0..3).for_each(|_| _ = window.push(&batch(1), 100, tight));
        assert!(!window.is_ready(tight));
        assert_eq!(window.wrote(3, tight), 0);
        assert!(window.is_ready(tight), "another thread finds room");
        assert_eq!((window.relieved(tight, false), window.relieved(tight, false)), (true, false));
    }

    #[test]
    fn holes_grow_together() {
        let mut window = Window::new(0, 100);
        for (number, messages, new) in [(10, 5, 5), (20, 5, 5), (12, 10, 5), (5, 1, 1), (0, 5, 5), (0, 100, 79)] {
            assert_eq!(window.finish(number, messages), new, "{number}");
        }
        assert_eq!((window.queued(), window.first()), (0, 100));
    }
}
