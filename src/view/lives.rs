//! Lives of rows in the parts of a view.
//!
//! A [`Division`] divides the rows by the values of some columns into [`Part`]s; the division by no columns has one
//! part with all rows. A life records from which cut to which a row was in a part. The lives of a part are ordered by
//! their last change, so the changes since a cut are found by walking from the newest back to that cut.
//!
//! A division of many rows is filled in turns, starting when its first client connects.
//!
//! A division by all key columns has only a few rows per part: its parts are made when a client watches them. Any other
//! division has a part for each existing value, so that a new client finds its rows without a search of all rows. Ended
//! lives are kept only in parts that are watched or were watched within RETAIN.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;

use super::Sequence;
use super::form::Form;
use crate::value::numbered::{HasKey, Numbered};

const NONE: u32 = u32::MAX;

/// A life that has not ended.
const ALIVE: Sequence = Sequence::MAX;

/// The values of the columns of a division.
pub type PartKey = SmallVec<[Form; 2]>;

/// The stay of a row in a part.
#[derive(Debug)]
struct Life {
    entry: u32,
    part: u32,
    born: Sequence,
    /// last cut that began, changed or ended it
    changed: Sequence,
    died: Sequence,
    newer: u32,
    older: u32,
}

/// The rows with the same values in the columns of a division.
#[derive(Debug)]
pub struct Part {
    key: Box<[Form]>,
    newest: u32,
    pub rows: usize,
    /// bytes of the rows
    pub bytes: usize,
    /// the last cut that changed it
    pub changed: Sequence,
    /// cursors before this cut cannot resume: a life that ended then was forgotten
    pub horizon: Sequence,
    /// the cohorts that watch it
    pub cohorts: SmallVec<[u32; 1]>,
    /// until when ended lives are kept without a watching cohort, ms
    until: i64,
}

impl HasKey for Part {
    type Key = [Form];

    fn key(&self) -> &[Form] {
        &self.key
    }
}

/// What a change of a part means for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Insert,
    Update,
    Delete,
}

/// The current life of each row.
#[derive(Debug)]
enum Current {
    /// by entry, in a division whose rows all are in a part; [`NONE`] without a life
    All(Vec<u32>),
    /// in a division of which only watched parts exist
    Some(HashMap<u32, u32, RandomState>),
}

/// The rows divided by the values of some part columns.
#[derive(Debug)]
pub struct Division {
    /// positions among the part columns
    pub columns: SmallVec<[u8; 4]>,
    /// parts are made only when watched
    lazy: bool,
    pub parts: Numbered<Part>,
    lives: Slab<Life>,
    current: Current,
    /// ended lives with the time of their end, ms, oldest first
    ended: VecDeque<(i64, u32)>,
    /// parts without cohorts, with the time until which they are kept
    leaving: VecDeque<(i64, u32)>,
    /// rows with numbers from this one on are not in it yet
    filled: u32,
    /// cohorts on all parts
    pub watchers: usize,
    /// when the division is forgotten if it has no cohorts, ms
    pub until: i64,
}

impl Current {
    fn find(&self, entry: u32) -> Option<u32> {
        match self {
            Current::All(lives) => lives.get(entry as usize).copied().filter(|&life| life != NONE),
            Current::Some(lives) => lives.get(&entry).copied(),
        }
    }

    fn set(&mut self, entry: u32, life: u32) {
        match self {
            Current::All(lives) => {
                let place = entry as usize;
                if place >= lives.len() {
                    lives.resize(place + 1, NONE);
                }
                lives[place] = life;
            }
            Current::Some(lives) if life == NONE => {
                lives.remove(&entry);
            }
            Current::Some(lives) => {
                lives.insert(entry, life);
            }
        }
    }
}

/// The effect of a cut on lives.
#[derive(Debug, Default)]
pub struct Effects {
    /// changed parts that are watched
    pub touched: Vec<u32>,
    /// entries of forgotten lives
    pub released: Vec<u32>,
}

impl Division {
    /// A division without rows.
    pub fn new(columns: SmallVec<[u8; 4]>, lazy: bool) -> Division {
        let current = if lazy { Current::Some(HashMap::default()) } else { Current::All(Vec::new()) };
        Division {
            columns,
            lazy,
            parts: Numbered::default(),
            lives: Slab::new(),
            current,
            ended: VecDeque::new(),
            leaving: VecDeque::new(),
            filled: if lazy { NONE } else { 0 },
            watchers: 0,
            until: i64::MAX,
        }
    }

    /// Whether all rows are in it.
    pub fn is_filled(&self) -> bool {
        self.filled == NONE
    }

    /// Rows with numbers from this one on are not in it yet.
    pub fn filled(&self) -> u32 {
        self.filled
    }

    /// All rows with numbers below this are in it; `None`: all rows.
    pub fn set_filled(&mut self, filled: Option<u32>) {
        self.filled = filled.unwrap_or(NONE);
    }

    /// The number of ended lives that are kept.
    pub fn ended(&self) -> usize {
        self.ended.len()
    }

    /// Bytes of lives and parts.
    pub fn bytes(&self) -> usize {
        let current = match &self.current {
            Current::All(lives) => lives.capacity() * size_of::<u32>(),
            Current::Some(lives) => lives.capacity() * 9,
        };
        self.lives.capacity() * size_of::<Life>() + self.parts.bytes() + current
    }

    /// The part with a key, if it exists.
    pub fn part(&self, key: &PartKey) -> Option<u32> {
        self.parts.find(key)
    }

    /// Whether rows with this key are recorded: their part exists, or is made for them.
    pub fn wants(&self, key: &PartKey) -> bool {
        !self.lazy || self.part(key).is_some()
    }

    /// The part with a key, made if it does not exist; true if it was made. Its contents before this cut are unknown.
    pub fn part_or_insert(&mut self, key: &PartKey, now: Sequence) -> (u32, bool) {
        if let Some(part) = self.part(key) {
            return (part, false);
        }
        let part = self.parts.insert(Part {
            key: key.as_slice().into(),
            newest: NONE,
            rows: 0,
            bytes: 0,
            changed: now,
            horizon: now,
            cohorts: SmallVec::new(),
            until: i64::MIN,
        });
        (part, true)
    }

    /// Makes a cohort watch a part.
    pub fn watch(&mut self, part: u32, cohort: u32) {
        self.parts[part].cohorts.push(cohort);
        self.watchers += 1;
        self.until = i64::MAX;
    }

    /// Stops a cohort from watching. What the part keeps for cursors stays until `until`, ms.
    pub fn unwatch(&mut self, part: u32, cohort: u32, until: i64) {
        let found = &mut self.parts[part];
        found.cohorts.retain(|watching| *watching != cohort);
        self.watchers -= 1;
        if found.cohorts.is_empty() {
            found.until = until;
            self.leaving.push_back((until, part));
        }
        if self.watchers == 0 {
            self.until = until;
        }
    }

    /// Moves a row to the part with this key (`None`: no part), with its size in bytes; its previous size was `was`.
    /// True if the row has one more life than before.
    #[expect(clippy::too_many_arguments, reason = "one call for a row's step in a cut, with all that the cut knows")]
    pub fn moves(
        &mut self,
        entry: u32,
        was: usize,
        to: Option<(&PartKey, usize)>,
        sequence: Sequence,
        now: i64,
        most_ended: usize,
        effects: &mut Effects,
    ) -> bool {
        if entry >= self.filled {
            return false;
        }
        let life = self.current.find(entry);
        // Most rows stay in their part, which is then known without a search for the key.
        if let (Some(life), Some((key, bytes))) = (life, to)
            && let part = self.lives[life as usize].part
            && *self.parts[part].key == **key
        {
            self.lives[life as usize].changed = sequence;
            self.move_to_front(life);
            let found = &mut self.parts[part];
            found.bytes = found.bytes + bytes - was;
            self.touch(part, sequence, effects);
            return false;
        }
        let target = match to {
            Some((key, bytes)) if self.wants(key) => Some((self.part_or_insert(key, sequence).0, bytes)),
            _ => None,
        };
        if let Some(life) = life {
            self.end(life, was, sequence, now, most_ended, effects);
        }
        let Some((part, bytes)) = target else { return false };
        self.begin(entry, part, bytes, sequence);
        self.touch(part, sequence, effects);
        true
    }

    /// Begins a life for a row that already exists, like [`Division::moves`].
    pub fn begin(&mut self, entry: u32, part: u32, bytes: usize, sequence: Sequence) {
        let life = Life { entry, part, born: sequence, changed: sequence, died: ALIVE, newer: NONE, older: NONE };
        let life = self.lives.insert(life) as u32;
        self.current.set(entry, life);
        self.push_front(life);
        let found = &mut self.parts[part];
        found.rows += 1;
        found.bytes += bytes;
    }

    /// The current part of a row.
    pub fn part_of(&self, entry: u32) -> Option<u32> {
        self.current.find(entry).map(|life| self.lives[life as usize].part)
    }

    /// Visits the changes of a part after `since`: the entry, and whether the row existed at `since` and exists now.
    pub fn walk(&self, part: u32, since: Sequence, mut see: impl FnMut(u32, bool, bool)) {
        let mut next = self.parts[part].newest;
        while next != NONE {
            let life = &self.lives[next as usize];
            if life.changed <= since {
                return;
            }
            see(life.entry, life.born <= since, life.died == ALIVE);
            next = life.older;
        }
    }

    /// Visits the rows of a part, the last changed first.
    pub fn rows(&self, part: u32, mut see: impl FnMut(u32)) {
        let mut next = self.parts[part].newest;
        while next != NONE {
            let life = &self.lives[next as usize];
            if life.died == ALIVE {
                see(life.entry);
            }
            next = life.older;
        }
    }

    /// Forgets lives that ended before `before`, ms, and parts that were not watched since.
    pub fn sweep(&mut self, now: i64, before: i64, released: &mut Vec<u32>) {
        while self.ended.front().is_some_and(|(at, _)| *at < before) {
            self.forget_oldest(released);
        }
        while self.leaving.front().is_some_and(|(until, _)| *until <= now) {
            let Some((_, part)) = self.leaving.pop_front() else { return };
            // It may be watched again, or its number may now belong to another part.
            let unwatched = |part: &Part| part.cohorts.is_empty() && part.until <= now && part.until != i64::MIN;
            if !self.parts.get(part).is_some_and(unwatched) {
                continue;
            }
            self.parts[part].until = i64::MIN;
            if self.lazy {
                self.forget_part(part, released);
            } else {
                self.drop_if_empty(part);
            }
        }
    }

    /// Forgets everything and releases the entries of lives.
    pub fn clear(&mut self, released: &mut Vec<u32>) {
        released.extend(self.lives.iter().map(|(_, life)| life.entry));
        *self = Division::new(std::mem::take(&mut self.columns), self.lazy);
    }

    fn touch(&mut self, part: u32, sequence: Sequence, effects: &mut Effects) {
        let found = &mut self.parts[part];
        found.changed = sequence;
        if !found.cohorts.is_empty() {
            effects.touched.push(part);
        }
    }

    fn end(&mut self, life: u32, bytes: usize, sequence: Sequence, now: i64, most_ended: usize, effects: &mut Effects) {
        let Life { entry, part, .. } = self.lives[life as usize];
        self.current.set(entry, NONE);
        let found = &mut self.parts[part];
        found.rows -= 1;
        found.bytes -= bytes;
        let kept = !found.cohorts.is_empty() || found.until > now;
        self.touch(part, sequence, effects);
        if kept {
            let ended = &mut self.lives[life as usize];
            (ended.died, ended.changed) = (sequence, sequence);
            self.move_to_front(life);
            self.ended.push_back((now, life));
            while self.ended.len() > most_ended {
                self.forget_oldest(&mut effects.released);
            }
        } else {
            self.parts[part].horizon = sequence;
            self.unlink(life);
            self.lives.remove(life as usize);
            effects.released.push(entry);
            self.drop_if_empty(part);
        }
    }

    fn forget_oldest(&mut self, released: &mut Vec<u32>) {
        let Some((_, life)) = self.ended.pop_front() else { return };
        let Life { entry, part, died, .. } = self.lives[life as usize];
        let found = &mut self.parts[part];
        found.horizon = found.horizon.max(died);
        self.unlink(life);
        self.lives.remove(life as usize);
        released.push(entry);
        self.drop_if_empty(part);
    }

    /// Forgets a part that is not watched, with its rows.
    fn forget_part(&mut self, part: u32, released: &mut Vec<u32>) {
        let mut next = self.parts[part].newest;
        while next != NONE {
            let Life { entry, died, older, .. } = self.lives[next as usize];
            // Ended lives stay until they expire; the part is removed with the last of them.
            if died == ALIVE {
                self.current.set(entry, NONE);
                self.unlink(next);
                self.lives.remove(next as usize);
                released.push(entry);
            }
            next = older;
        }
        let found = &mut self.parts[part];
        (found.rows, found.bytes) = (0, 0);
        self.parts.hide(part);
        self.drop_if_empty(part);
    }

    /// Forgets a part without lives that is not watched.
    fn drop_if_empty(&mut self, part: u32) {
        let found = &self.parts[part];
        if found.newest != NONE || !found.cohorts.is_empty() || found.until != i64::MIN {
            return;
        }
        self.parts.remove(part);
    }

    fn move_to_front(&mut self, life: u32) {
        if self.lives[life as usize].newer != NONE {
            self.unlink(life);
            self.push_front(life);
        }
    }

    fn push_front(&mut self, life: u32) {
        let part = self.lives[life as usize].part;
        let older = std::mem::replace(&mut self.parts[part].newest, life);
        let found = &mut self.lives[life as usize];
        (found.newer, found.older) = (NONE, older);
        if older != NONE {
            self.lives[older as usize].newer = life;
        }
    }

    fn unlink(&mut self, life: u32) {
        let Life { part, newer, older, .. } = self.lives[life as usize];
        match newer {
            NONE => self.parts[part].newest = older,
            newer => self.lives[newer as usize].older = older,
        }
        if older != NONE {
            self.lives[older as usize].newer = newer;
        }
    }
}
