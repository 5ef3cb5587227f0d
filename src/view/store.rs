//! The rows of a view, their lives, and cuts.

mod subscriptions;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use foldhash::fast::RandomState;
use slab::Slab;
use smallvec::SmallVec;

use super::Sequence;
use super::cohort::{Cohort, Phase};
use super::counters::{Counters, OperatorStatus};
use super::cursor::cursor;
use super::description::{ColumnType, Description};
use super::filter::Filter;
use super::form::{Form, form_in_column};
use super::lives::{Division, Effects, PartKey};
use super::rows::{Entry, Rows};
use super::touched::Touched;
use crate::value::Text;
use crate::value::key::GroupKey;
use crate::value::numbered::Numbered;

/// The number of the first cut of a cohort. It is high, so that a resumed client can lack more cuts than the cohort has
/// seen.
const FIRST_CUT: u64 = 1 << 40;

/// A view, shared by the thread that changes it and those that serve its clients. The lock is held for one step at a
/// time: a cut, or the encoding of one frame.
pub type ViewCell = Mutex<View>;

#[derive(Debug)]
pub struct View {
    pub(super) about: Arc<Description>,
    run: Text,
    /// unique among the views of this run
    incarnation: u64,
    pub(super) rows: Rows,
    /// its rows in the order of their last message, if the store keeps it
    touched: Option<Touched>,
    pub(super) divisions: Slab<Division>,
    staged: Vec<Staged>,
    pub(super) sequence: Sequence,
    /// view time of the last cut, ms
    pub(super) ts: i64,
    pub(super) cohorts: Numbered<Cohort>,
    pub(super) counters: Counters,
    /// the inserts and deletes when it began with its current query
    pub(super) begun: (u64, u64),
    /// counters of its operator
    pub operator: OperatorStatus,
    /// its first rows are being added: clients wait until it has all of them
    pub(super) opening: bool,
    /// it was dropped: clients are notified, and new ones are refused
    pub(super) gone: bool,
    swept: i64,
    /// net changes of cuts, for readers of the rows; `None`: there are no readers
    recorded: Option<Vec<NetChange>>,
}

/// The change of one row by a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetChange {
    /// the number of the row, unique among current rows
    pub entry: u32,
    pub key: GroupKey,
    /// the old row as JSON; `None`: the row is new
    pub old: Option<Box<[u8]>>,
    /// the new row; `None`: the row was removed
    pub new: Option<Box<[u8]>>,
}

/// A row as JSON, and the forms of its part columns.
type NewRow = (Box<[u8]>, Box<[Form]>);

/// A row that the next cut adds or removes.
#[derive(Debug)]
struct Staged {
    entry: u32,
    row: Option<NewRow>,
}

/// The place of a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub cohort: u32,
    pub member: u32,
}

/// A new subscription.
#[derive(Debug)]
pub struct Joined {
    pub place: Place,
    pub s: u64,
    pub resumed: bool,
}

impl View {
    /// A view without rows. If it reads other views, it is opening.
    pub fn new(about: Description, run: Text, incarnation: u64) -> View {
        View {
            opening: about.over_views,
            about: Arc::new(about),
            run,
            incarnation,
            rows: Rows::default(),
            touched: None,
            divisions: Slab::new(),
            staged: Vec::new(),
            sequence: 0,
            ts: 0,
            cohorts: Numbered::default(),
            counters: Counters::default(),
            begun: (0, 0),
            operator: OperatorStatus::default(),
            gone: false,
            swept: i64::MIN,
            recorded: None,
        }
    }

    pub fn about(&self) -> &Arc<Description> {
        &self.about
    }

    /// The number of current rows.
    pub fn len(&self) -> usize {
        self.rows.live
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of the last cut.
    pub fn sequence(&self) -> Sequence {
        self.sequence
    }

    /// Adds a row as JSON, with the forms of the part columns (empty if the key determines them). At the next cut it
    /// replaces the row with this key.
    pub fn put(&mut self, key: &GroupKey, row: Box<[u8]>, forms: Box<[Form]>) {
        let entry = self.rows.find_or_insert(key);
        self.stage(entry, Some((row, forms)));
    }

    /// As [`View::put`], for a row whose message arrived at `at`, ms. From the first such row on, the order of messages
    /// is kept.
    pub fn put_touched(&mut self, key: &GroupKey, row: Box<[u8]>, forms: Box<[Form]>, at: i64) {
        let entry = self.rows.find_or_insert(key);
        self.touched.get_or_insert_default().touch(entry, at);
        self.stage(entry, Some((row, forms)));
    }

    /// Removes the row with this key at the next cut, if it exists.
    pub fn remove(&mut self, key: &GroupKey) {
        if let Some(entry) = self.rows.find(key.parts()) {
            self.remove_entry(entry);
        }
    }

    fn remove_entry(&mut self, entry: u32) {
        if let Some(touched) = &mut self.touched {
            touched.forget(entry);
        }
        self.stage(entry, None);
    }

    /// When the row with the oldest last message got that message, ms.
    pub fn touched_first(&self) -> Option<i64> {
        self.touched.as_ref()?.oldest().map(|(_, at)| at)
    }

    /// The number of rows after the next cut, if the order of messages is kept.
    pub fn touched_len(&self) -> usize {
        self.touched.as_ref().map_or(0, Touched::len)
    }

    /// Removes the row with the oldest last message at the next cut; returns its key.
    pub fn remove_first(&mut self) -> Option<GroupKey> {
        let (entry, _) = self.touched.as_ref()?.oldest()?;
        self.remove_entry(entry);
        Some(self.rows.entries.get(entry)?.key.clone())
    }

    /// Begins to add its first rows, in several cuts that clients see as one. Does nothing if clients see rows already.
    pub fn open(&mut self) {
        self.opening |= self.is_empty() && self.staged.is_empty();
    }

    /// Whether its first rows are being added.
    pub fn is_opening(&self) -> bool {
        self.opening
    }

    /// All its first rows are there: clients get them.
    pub fn opened(&mut self) {
        if std::mem::take(&mut self.opening) {
            for (_, member) in self.cohorts.iter_mut().flat_map(|(_, cohort)| &mut cohort.members) {
                member.due = true;
                member.call();
            }
        }
    }

    /// Ends it if its first rows are being added: no more of them come then.
    pub fn end_opening(&mut self) {
        if self.opening {
            self.end();
        }
    }

    /// Whether it was dropped.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// The number of rows after the next cut.
    pub fn staged_len(&self) -> usize {
        let mut len = self.len();
        for Staged { entry, row } in &self.staged {
            let was = self.rows.entries[*entry].row.is_some();
            len = len + usize::from(row.is_some()) - usize::from(was);
        }
        len
    }

    /// Discards what was added and removed since the last cut.
    pub fn unstage(&mut self) {
        for Staged { entry, .. } in std::mem::take(&mut self.staged) {
            self.rows.entries[entry].staged = 0;
            self.rows.release(entry);
        }
    }

    /// Starts or stops recording the net changes of cuts.
    pub fn record(&mut self, on: bool) {
        self.recorded = on.then(|| self.recorded.take().unwrap_or_default());
    }

    /// The net changes of cuts since the last call.
    pub fn take_changes(&mut self) -> Vec<NetChange> {
        self.recorded.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn stage(&mut self, entry: u32, row: Option<NewRow>) {
        let found = &mut self.rows.entries[entry];
        match found.staged {
            0 => {
                self.staged.push(Staged { entry, row });
                found.staged = self.staged.len() as u32;
            }
            place => self.staged[place as usize - 1].row = row,
        }
    }

    /// Makes a cut of the rows that were added and removed since the last one. `ts` is view time, `now` the clock, ms.
    /// Does nothing if no row has changed.
    pub fn cut(&mut self, ts: i64, now: i64) {
        self.ts = ts;
        let staged = std::mem::take(&mut self.staged);
        let sequence = self.sequence + 1;
        let mut effects: Vec<(usize, Effects)> =
            self.divisions.iter().map(|(place, _)| (place, Effects::default())).collect();
        let mut changed = false;
        for Staged { entry, row } in staged {
            self.rows.entries[entry].staged = 0;
            changed |= self.apply(entry, row, sequence, now, &mut effects);
            self.rows.release(entry);
        }
        if changed {
            self.sequence = sequence;
            self.counters.cuts += 1;
        }
        for (place, effects) in effects {
            self.release(&effects.released);
            for part in effects.touched {
                for watching in 0..self.divisions[place].parts[part].cohorts.len() {
                    let cohort = self.divisions[place].parts[part].cohorts[watching];
                    self.mark(cohort, now);
                }
            }
        }
    }

    /// Applies a staged row; true if it changes something.
    fn apply(
        &mut self,
        entry: u32,
        row: Option<NewRow>,
        sequence: Sequence,
        now: i64,
        effects: &mut [(usize, Effects)],
    ) -> bool {
        let found = &self.rows.entries[entry];
        let was = found.row.as_ref().map(|row| row.len());
        match (&found.row, &row) {
            (None, None) => return false,
            (Some(old), Some((new, _))) if old == new => return false,
            (None, Some(_)) => self.counters.inserts += 1,
            (Some(_), Some(_)) => self.counters.updates += 1,
            (Some(_), None) => self.counters.deletes += 1,
        }
        let (row, forms) = row.map_or_else(Default::default, |(row, forms)| (Some(row), forms));
        let bytes = row.as_ref().map(|row| row.len());
        let new = if self.recorded.is_some() { row.clone() } else { None };
        let old = self.rows.set(entry, row, forms);
        if let Some(recorded) = &mut self.recorded {
            let key = self.rows.entries[entry].key.clone();
            recorded.push(NetChange { entry, key, old, new });
        }
        let about = &*self.about;
        let most_ended = about.max_rows;
        for (place, effects) in effects {
            let division = &mut self.divisions[*place];
            let found = &self.rows.entries[entry];
            let key = bytes.map(|_| part_key(about, &division.columns, found));
            let to = key.as_ref().zip(bytes);
            if division.moves(entry, was.unwrap_or(0), to, sequence, now, most_ended, effects) {
                self.rows.entries[entry].lives += 1;
            }
        }
        true
    }

    /// Marks a cohort whose part is changed by this cut.
    fn mark(&mut self, cohort: u32, now: i64) {
        let sequence = self.sequence;
        let cohort = &mut self.cohorts[cohort];
        if cohort.marked == sequence {
            return;
        }
        cohort.marked = sequence;
        cohort.cuts += 1;
        if cohort.selection.every.is_limited() {
            cohort.due = true;
            for (_, member) in &mut cohort.members {
                member.behind_since.get_or_insert(now);
            }
        } else {
            cohort.call_all(now);
        }
    }

    /// Counts one forgotten life less for each of these entries.
    fn release(&mut self, entries: &[u32]) {
        for &entry in entries {
            self.rows.entries[entry].lives -= 1;
            self.rows.release(entry);
        }
    }

    /// Forgets lives that ended longer than RETAIN ago, and notifies clients with a tick between `from` and `now`, ms.
    pub fn tick(&mut self, from: i64, now: i64) {
        for (_, cohort) in self.cohorts.iter_mut() {
            if cohort.due && cohort.selection.every.ticks_between(from, now) {
                cohort.due = false;
                cohort.ticks += 1;
                cohort.call_all(now);
            }
            // Only clients that connect at about the same time share a snapshot.
            if cohort.snapshot.as_ref().is_some_and(|(at, _)| now - at > 1_000) {
                cohort.snapshot = None;
            }
        }
        self.counters.rate.count(self.counters.changes(), now);
        if now.saturating_sub(self.swept) < 500 {
            return;
        }
        self.swept = now;
        let mut released = Vec::new();
        let before = now - self.about.retain;
        let mut idle = Vec::new();
        for (place, division) in &mut self.divisions {
            division.sweep(now, before, &mut released);
            if division.watchers == 0 && division.until <= now {
                division.clear(&mut released);
                idle.push(place);
            }
        }
        self.release(&released);
        for place in idle {
            self.divisions.remove(place);
        }
    }

    /// Whether it has clients.
    pub fn is_watched(&self) -> bool {
        !self.cohorts.is_empty()
    }

    /// Whether any client has a rate.
    pub fn has_rates(&self) -> bool {
        self.cohorts.iter().any(|(_, cohort)| cohort.selection.every.is_limited())
    }

    /// Starts empty with a new definition. Clients whose parameters still exist get the new rows.
    pub fn redefine(&mut self, about: Description, now: i64) {
        let old: Vec<(u32, Text)> =
            self.cohorts.iter().map(|(number, cohort)| (number, cohort.epoch.clone())).collect();
        old.iter().for_each(|(number, _)| self.cohorts.hide(*number));
        self.opening = about.over_views;
        self.about = Arc::new(about);
        self.staged.clear();
        self.rows = Rows::default();
        self.touched = None;
        self.recorded = None;
        self.divisions = Slab::new();
        self.operator = OperatorStatus::default();
        self.begun = (self.counters.inserts, self.counters.deletes);
        for (number, epoch) in old {
            let about = self.about.clone();
            let cohort = &mut self.cohorts[number];
            (cohort.division, cohort.parts) = (None, SmallVec::new());
            (cohort.shared, cohort.snapshot) = (None, None);
            match cohort.selection.filter.again(&about) {
                Ok(filter) => {
                    cohort.selection.filter = filter;
                    for (_, member) in &mut cohort.members {
                        member.phase = Phase::Redefined { from: cursor(&epoch, member.sent_cursor).as_str().into() };
                        member.call();
                    }
                    let epoch = self.epoch(&self.cohorts[number].selection.filter);
                    self.cohorts[number].epoch = epoch;
                    self.cohorts.show(number);
                    self.attach(number);
                }
                Err(_) => self.end_members(number),
            }
        }
        self.swept = now;
    }

    /// Applies new options of the same definition: rows and clients stay.
    pub fn reconfigure(&mut self, about: Description) {
        self.about = Arc::new(about);
    }

    /// Drops the view and notifies its clients.
    pub fn end(&mut self) {
        self.gone = true;
        let cohorts: Vec<u32> = self.cohorts.iter().map(|(number, _)| number).collect();
        cohorts.into_iter().for_each(|cohort| self.end_members(cohort));
    }

    /// Visits the rows of a part, for a request with one response.
    pub fn each_row(&self, filter: &Filter, mut see: impl FnMut(&[u8]) -> bool) {
        if self.opening {
            return;
        }
        let (columns, keys) = filter.parts(&self.about);
        if fixes_key(&self.about, &columns) {
            for key in &keys {
                for entry in self.candidates(&columns, key) {
                    let found = &self.rows.entries[entry];
                    let is_in = part_key(&self.about, &columns, found) == *key;
                    if is_in && found.row.as_ref().is_some_and(|row| !see(row)) {
                        return;
                    }
                }
            }
            return;
        }
        let keys: HashSet<PartKey, RandomState> = keys.into_iter().collect();
        for (_, entry) in self.rows.entries.iter() {
            let Some(row) = &entry.row else { continue };
            if keys.contains(&part_key(&self.about, &columns, entry)) && !see(row) {
                return;
            }
        }
    }

    /// Visits the keys of all rows.
    pub fn each_key(&self, see: impl FnMut(&GroupKey)) {
        let entries = self.rows.entries.iter().map(|(_, entry)| entry);
        entries.filter(|entry| entry.row.is_some()).map(|entry| &entry.key).for_each(see);
    }

    /// Visits all keys with their rows, the forms of their part columns and the time of their last message, the oldest
    /// first, for checkpoints. Requires that the order of messages is kept.
    pub fn each_touched(&self, mut see: impl FnMut(&GroupKey, &[u8], &[Form], i64)) {
        for (entry, at) in self.touched.iter().flat_map(Touched::iter) {
            if let Some(entry) = self.rows.entries.get(entry)
                && let Some(row) = &entry.row
            {
                see(&entry.key, row, &entry.forms, at);
            }
        }
    }

    /// Visits the rows from a number on, until `see` returns false. Returns the next number; `None` at the end.
    pub fn each_numbered_from(&self, from: u32, mut see: impl FnMut(u32, &[u8]) -> bool) -> Option<u32> {
        for entry in from..self.rows.entries.end() {
            if self.rows.json(entry).is_some_and(|row| !see(entry, row)) {
                return Some(entry + 1);
            }
        }
        None
    }

    /// View time of the last cut, ms.
    pub fn ts(&self) -> i64 {
        self.ts
    }

    /// The cursor of the whole view now. While its first rows are being added, it is that of a view without rows.
    pub fn at(&self) -> Text {
        let sequence = if self.opening { 0 } else { self.sequence };
        cursor(&self.epoch(&Filter::default()), sequence)
    }

    /// Bytes of rows, lives and clients.
    pub fn bytes(&self) -> usize {
        let lives: usize = self.divisions.iter().map(|(_, division)| division.bytes()).sum();
        let touched = self.touched.as_ref().map_or(0, Touched::bytes);
        self.rows.bytes + self.rows.entries.bytes() + touched + lives
    }
}

/// Whether these part columns determine the key, so that rows are found by it. A time does not tell how the message has
/// written it.
fn fixes_key(about: &Description, columns: &[u8]) -> bool {
    let is_fixed = |place: usize| columns.iter().any(|&column| about.parts[column as usize].in_key == Some(place));
    let is_time = |&column: &u8| about.parts[column as usize].ty == ColumnType::Datetime;
    !columns.is_empty() && (0..about.key.len()).all(is_fixed) && !columns.iter().any(is_time)
}

/// The part of a division that contains the row of an entry.
fn part_key(about: &Description, columns: &[u8], entry: &Entry) -> PartKey {
    let form = |&column: &u8| {
        if !entry.forms.is_empty() {
            return entry.forms.get(column as usize).cloned().flatten();
        }
        let part = &about.parts[column as usize];
        // A key cannot contain a list here: that is an error of its row.
        form_in_column(part.ty, entry.key.parts().get(part.in_key?)?).unwrap_or_default()
    };
    columns.iter().map(form).collect()
}
