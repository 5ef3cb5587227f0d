//! Subscriptions of a view: which clients watch which part at which rate.
//!
//! Clients with the same parameters, claims and rate are a cohort. A cohort watches the parts of a division, whose
//! lives are kept only while they are watched.

use std::sync::Arc;

use slab::Slab;
use smallvec::SmallVec;

use super::{FIRST_CUT, Joined, Place, View, fixes_key, part_key};
use crate::value::Text;
use crate::view::Sequence;
use crate::view::cohort::{Cohort, Member, Phase};
use crate::view::cursor;
use crate::view::filter::{Filter, Selection};
use crate::view::form::Form;
use crate::view::frame::GapReason;
use crate::view::lives::{Division, Part, PartKey};
use crate::view::mailbox::Mailbox;

/// The most rows whose lives begin in one turn, which takes a few milliseconds.
const FILLED_AT_ONCE: u32 = 8 * 1024;

impl View {
    /// The number of an existing subscription.
    pub(in crate::view) fn number(&self, selection: &Selection) -> Option<u64> {
        Some(self.cohorts[self.cohorts.find(selection)?].s)
    }

    /// The parameters of a subscription, for its client.
    pub(in crate::view) fn params(&self, place: Place) -> serde_json::Map<String, serde_json::Value> {
        self.cohorts.get(place.cohort).map(|cohort| cohort.selection.filter.params_json()).unwrap_or_default()
    }

    /// Adds a subscription. `number` gives a number `s` that no other subscription has.
    pub fn subscribe(
        &mut self,
        selection: Selection,
        from: Option<&str>,
        mailbox: &Arc<Mailbox>,
        slot: u32,
        number: impl FnOnce() -> u64,
        now: i64,
    ) -> Joined {
        let cohort = self.cohort(selection, number);
        let (epoch, last) = (self.cohorts[cohort].epoch.clone(), self.changed(cohort));
        let (holds, phase) = match from.map(|from| (from, cursor::resume(from, &epoch))) {
            None => (0, Phase::Start),
            Some((from, Err(why))) => (0, Phase::Gap { from: from.into(), why }),
            // The cursor claims a later cut than any of this run.
            Some((from, Ok(at))) if at > self.sequence => {
                (0, Phase::Gap { from: from.into(), why: GapReason::Restart })
            }
            Some((from, Ok(at))) if at < self.horizon(cohort) || !self.is_filled(cohort) => {
                (0, Phase::Gap { from: from.into(), why: GapReason::Expired })
            }
            Some((_, Ok(at))) => (if at >= last { last } else { at }, Phase::Follow),
        };
        let resumed = matches!(phase, Phase::Follow);
        match &phase {
            Phase::Follow => self.counters.resumed += 1,
            Phase::Gap { why, .. } => self.counters.gap(*why),
            _ => {}
        }
        let sent_cursor = if resumed { from.map_or(0, |from| cursor::resume(from, &epoch).unwrap_or(0)) } else { 0 };
        let found = &mut self.cohorts[cohort];
        let lacks = !resumed || holds < last;
        let mut member = Member {
            mailbox: mailbox.clone(),
            slot,
            called: false,
            due: true,
            holds,
            // It is unknown how many cuts the resumed client lacks: at most all of them.
            cuts: found.cuts - last.saturating_sub(holds).min(FIRST_CUT),
            sent_cursor,
            behind_since: lacks.then_some(now),
            phase,
        };
        member.call();
        let member = found.members.insert(member) as u32;
        Joined { place: Place { cohort, member }, s: found.s, resumed }
    }

    /// Removes a subscription.
    pub fn unsubscribe(&mut self, place: Place, now: i64) {
        let Some(cohort) = self.cohorts.get_mut(place.cohort) else { return };
        cohort.members.try_remove(place.member as usize);
        if cohort.members.is_empty() {
            self.drop_cohort(place.cohort, now);
        }
    }

    pub(super) fn drop_cohort(&mut self, number: u32, now: i64) {
        let Some(cohort) = self.cohorts.remove(number) else { return };
        if let Some(division) = cohort.division.and_then(|place| self.divisions.get_mut(place)) {
            for part in cohort.parts {
                division.unwatch(part, number, now + self.about.retain);
            }
        }
    }

    fn cohort(&mut self, selection: Selection, number: impl FnOnce() -> u64) -> u32 {
        if let Some(cohort) = self.cohorts.find(&selection) {
            return cohort;
        }
        let new = Cohort {
            s: number(),
            epoch: self.epoch(&selection.filter),
            selection,
            division: None,
            parts: SmallVec::new(),
            members: Slab::with_capacity(1),
            cuts: FIRST_CUT,
            marked: 0,
            due: false,
            ticks: 0,
            shared: None,
            snapshot: None,
        };
        let cohort = self.cohorts.insert(new);
        self.attach(cohort);
        cohort
    }

    pub(super) fn epoch(&self, filter: &Filter) -> Text {
        cursor::epoch(&self.run, &(self.about.name.as_str(), self.incarnation, self.about.definition, filter))
    }

    /// Finds or makes the parts that a cohort watches.
    pub(super) fn attach(&mut self, cohort: u32) {
        let about = self.about.clone();
        let (columns, keys) = self.cohorts[cohort].selection.filter.parts(&about);
        if keys.is_empty() {
            return;
        }
        let place = self.division(&columns);
        let sequence = self.sequence;
        let mut parts = SmallVec::new();
        for key in &keys {
            let (part, made) = self.divisions[place].part_or_insert(key, sequence);
            if made {
                self.populate(place, part, key);
            }
            self.divisions[place].watch(part, cohort);
            parts.push(part);
        }
        let cohort = &mut self.cohorts[cohort];
        (cohort.division, cohort.parts) = (Some(place), parts);
    }

    /// The division by these columns, made if it does not exist.
    fn division(&mut self, columns: &SmallVec<[u8; 4]>) -> usize {
        if let Some((place, _)) = self.divisions.iter().find(|(_, division)| division.columns == *columns) {
            return place;
        }
        // Its parts find their rows by the key.
        let lazy = fixes_key(&self.about, columns);
        let place = self.divisions.insert(Division::new(columns.clone(), lazy));
        self.fill(place);
        place
    }

    /// Begins the lives of more rows in a division, if any are missing.
    fn fill(&mut self, place: usize) {
        let about = self.about.clone();
        let division = &mut self.divisions[place];
        let (from, end) = (division.filled(), self.rows.entries.end());
        if division.is_filled() {
            return;
        }
        let to = end.min(from.saturating_add(FILLED_AT_ONCE));
        for number in from..to {
            let Some(entry) = self.rows.entries.get_mut(number) else { continue };
            let Some(bytes) = entry.row.as_ref().map(|row| row.len()) else { continue };
            let key = part_key(&about, &division.columns, entry);
            let (part, _) = division.part_or_insert(&key, self.sequence);
            division.begin(number, part, bytes, self.sequence);
            entry.lives += 1;
        }
        division.set_filled((to < end).then_some(to));
    }

    /// Fills the division of a cohort for one turn; true if it has all rows.
    pub(in crate::view) fn fill_parts(&mut self, cohort: u32) -> bool {
        if let Some(place) = self.cohorts[cohort].division {
            self.fill(place);
        }
        self.is_filled(cohort)
    }

    fn is_filled(&self, cohort: u32) -> bool {
        self.cohorts[cohort].division.is_none_or(|place| self.divisions[place].is_filled())
    }

    /// The rows that may be in the part with this key. Its columns determine the key of the view.
    pub(super) fn candidates(&self, columns: &[u8], key: &PartKey) -> Vec<u32> {
        let mut wanted: Vec<Form> = vec![None; self.about.key.len()];
        for (&column, form) in columns.iter().zip(key) {
            if let Some(place) = self.about.parts[column as usize].in_key {
                wanted[place] = form.clone();
            }
        }
        self.rows.candidates(&wanted)
    }

    /// Begins the lives of rows in a new part of the division by the key.
    fn populate(&mut self, place: usize, part: u32, key: &PartKey) {
        let about = self.about.clone();
        for entry in self.candidates(&self.divisions[place].columns, key) {
            let found = &self.rows.entries[entry];
            let Some(row) = &found.row else { continue };
            if part_key(&about, &self.divisions[place].columns, found) != *key {
                continue;
            }
            let bytes = row.len();
            self.divisions[place].begin(entry, part, bytes, self.sequence);
            self.rows.entries[entry].lives += 1;
        }
    }

    /// The last cut that changed the part of a cohort.
    pub(in crate::view) fn changed(&self, cohort: u32) -> Sequence {
        self.over_parts(cohort, |part| part.changed)
    }

    /// Cursors before this cut cannot resume.
    pub(in crate::view) fn horizon(&self, cohort: u32) -> Sequence {
        self.over_parts(cohort, |part| part.horizon)
    }

    fn over_parts(&self, cohort: u32, of: impl Fn(&Part) -> Sequence) -> Sequence {
        let cohort = &self.cohorts[cohort];
        let Some(division) = cohort.division.map(|place| &self.divisions[place]) else { return 0 };
        cohort.parts.iter().map(|&part| of(&division.parts[part])).max().unwrap_or(0)
    }

    pub(super) fn end_members(&mut self, cohort: u32) {
        for (_, member) in &mut self.cohorts[cohort].members {
            member.phase = Phase::Gone;
            member.call();
        }
    }
}
