//! Slices: overlapping windows share their common parts.
//!
//! A window of length 60 that starts every 5 consists of twelve slices of 5, each filled once. The newest slices are
//! merged as they close; for each older one, the merged content of it and all later ones is kept, so that a window
//! costs two merges, however many slices it has (the two stacks of Tangwongsan, Hirzel, Schneider: "Low-latency
//! sliding-window aggregation in worst-case constant time", 2017, section 2). If contents keep rows or lists, merging
//! ahead would copy them repeatedly; then the slices are merged when a window closes.

use std::collections::VecDeque;

use jiff::tz::TimeZone;

use crate::dataflow::state::checkpoint::{CheckpointError, CheckpointReader, StateParts};
use crate::time::{Alignment, Unit};

use super::content::Content;

/// Slices that are closed, in order.
pub struct Slices {
    /// whether contents are small regardless of their content
    merge_ahead: bool,
    /// oldest last: each merged with all later ones up to the newest of these
    front: Vec<(i64, Content)>,
    /// later ones, oldest first
    back: VecDeque<(i64, Content)>,
    /// all of `back`, if contents are merged ahead
    back_merged: Content,
}

impl Slices {
    /// No slices. `merge_ahead`: the size of contents does not depend on the number of rows.
    pub fn new(merge_ahead: bool) -> Self {
        Slices { merge_ahead, front: Vec::new(), back: VecDeque::new(), back_merged: Content::default() }
    }

    /// Adds the state to a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        to.put(&(&self.front, &self.back, &self.back_merged))
    }

    /// Restores the state of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]; the value must not be used then.
    pub fn restore(&mut self, from: &mut CheckpointReader<'_>) -> Result<(), CheckpointError> {
        (self.front, self.back, self.back_merged) = from.take()?;
        Ok(())
    }

    /// The start of the newest slice.
    pub fn last(&self) -> Option<i64> {
        self.back.back().or(self.front.first()).map(|(start, _)| *start)
    }

    /// Whether contents are merged before they are needed.
    pub fn merges_ahead(&self) -> bool {
        self.merge_ahead
    }

    /// Drops the oldest quarter of each slice's groups or rows; returns how many.
    pub fn evict(&mut self) -> usize {
        let slices = self.front.iter_mut().chain(&mut self.back).map(|(_, content)| content);
        slices.chain([&mut self.back_merged]).map(Content::evict).sum()
    }

    /// Adds the next slice; `start` is after that of all earlier ones.
    pub fn push(&mut self, start: i64, content: Content) {
        if self.merge_ahead {
            self.back_merged.append(&content);
        }
        self.back.push_back((start, content));
    }

    /// What the slices that start at or after `start` hold, some of it merged.
    pub fn since(&self, start: i64) -> impl Iterator<Item = &Content> + Clone {
        let front = self.front.iter().rev().find(|(first, _)| *first >= start).map(|(_, content)| content);
        let whole = self.merge_ahead && self.back.front().is_some_and(|(first, _)| *first >= start);
        let merged = whole.then_some(&self.back_merged);
        let single = self.back.iter().filter(move |(first, _)| !whole && *first >= start).map(|(_, content)| content);
        front.into_iter().chain(merged).chain(single)
    }

    /// Removes slices that start before `start`.
    pub fn drop_before(&mut self, start: i64) {
        while self.front.last().is_some_and(|(first, _)| *first < start) {
            self.front.pop();
        }
        if self.front.is_empty() && self.back.front().is_some_and(|(first, _)| *first < start) {
            if self.merge_ahead {
                self.turn(start);
            } else {
                while self.back.front().is_some_and(|(first, _)| *first < start) {
                    self.back.pop_front();
                }
            }
        }
    }

    /// Moves the slices at the back to the front, without those that start before `start`.
    fn turn(&mut self, start: i64) {
        self.back_merged = Content::default();
        while let Some((first, mut content)) = self.back.pop_back() {
            if first < start {
                self.back.clear();
                break;
            }
            if let Some((_, after)) = self.front.last() {
                content.append(after);
            }
            self.front.push((first, content));
        }
    }

    /// All slices merged.
    pub fn merged(&self) -> Content {
        let mut merged = match self.front.last() {
            Some((_, content)) => content.clone(),
            None => Content::default(),
        };
        if self.merge_ahead {
            merged.append(&self.back_merged);
        } else {
            self.back.iter().for_each(|(_, content)| merged.append(content));
        }
        merged
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.front.is_empty() && self.back.is_empty()
    }
}

/// The slices of windows of `length` units that begin every `hop` units.
pub fn slices_of(unit: Unit, length: u64, hop: u64, zone: &TimeZone) -> Alignment {
    Alignment::new(unit, gcd(length, hop), zone.clone())
}

/// The greatest common divisor, at least 1: the longest slice that divides a window's length and hop.
pub fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}
