//! Rows on their way to a rule's dataflow, and groups that other threads have accumulated.

use std::collections::VecDeque;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::value::Value;

use super::window::Partial;

/// Rows in one vector of values, all with the same number of slots, so that a row needs no allocation.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RowBatch {
    /// The number of slots of a row; rows of inputs with fewer slots are padded.
    pub width: usize,
    /// The slots of all rows, row by row.
    pub values: Vec<Value>,
    /// ms since the epoch.
    pub times: Vec<i64>,
    /// The input of each row.
    pub inputs: Vec<u16>,
    /// When the oldest row was read. It is not sent to other processes, because their clocks differ.
    #[serde(skip)]
    pub received: Option<Instant>,
    /// The clock stepped back before these rows: earlier windows are over.
    pub stepped_back: bool,
    /// Groups that another thread has accumulated, each with the number of the row that follows it.
    pub partials: VecDeque<(usize, Partial)>,
    /// The weight of the partials, in rows.
    partial_weight: usize,
}

impl RowBatch {
    /// An empty batch for rows of this many slots.
    pub fn of_width(width: usize) -> RowBatch {
        RowBatch { width, ..RowBatch::default() }
    }

    /// Whether there are neither rows nor partials.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty() && self.partials.is_empty()
    }

    /// The weight of everything, in rows.
    pub fn weight(&self) -> usize {
        self.times.len() + self.partial_weight
    }

    /// Appends accumulated groups.
    pub fn push_partial(&mut self, partial: Partial) {
        self.partial_weight += partial.weight;
        self.partials.push_back((self.times.len(), partial));
    }

    /// Adds a row of an input, taking its slots.
    pub fn push(&mut self, input: u16, time: i64, received: Instant, slots: &mut [Value]) {
        self.values.extend(slots.iter_mut().map(std::mem::take));
        let full = self.times.len() + 1;
        self.values.resize(full * self.width, Value::Absent);
        self.times.push(time);
        self.inputs.push(input);
        self.received.get_or_insert(received);
    }

    /// Appends rows of the same width.
    pub fn append(&mut self, rows: RowBatch) {
        if self.is_empty() {
            let received = self.received.or(rows.received);
            *self = RowBatch { received, ..rows };
            return;
        }
        self.received = self.received.or(rows.received);
        let before = self.times.len();
        self.partials.extend(rows.partials.into_iter().map(|(row, partial)| (before + row, partial)));
        self.partial_weight += rows.partial_weight;
        self.values.extend(rows.values);
        self.times.extend(rows.times);
        self.inputs.extend(rows.inputs);
    }

    /// Removes the rows with these indexes, which are in ascending order.
    pub fn remove(&mut self, rows: &[usize]) {
        let mut going = rows.iter().copied().peekable();
        let mut kept = 0;
        for row in 0..self.times.len() {
            if going.next_if_eq(&row).is_some() {
                continue;
            }
            self.times.swap(kept, row);
            self.inputs.swap(kept, row);
            for slot in 0..self.width {
                self.values.swap(kept * self.width + slot, row * self.width + slot);
            }
            kept += 1;
        }
        self.times.truncate(kept);
        self.inputs.truncate(kept);
        self.values.truncate(kept * self.width);
    }

    /// Removes all rows and partials, and keeps the allocation.
    pub fn clear(&mut self) {
        self.clear_rows();
        self.partials.clear();
        self.partial_weight = 0;
    }

    /// Removes all rows, and keeps the allocation; partials stay.
    pub fn clear_rows(&mut self) {
        self.values.clear();
        self.times.clear();
        self.inputs.clear();
        self.received = None;
        self.partials.iter_mut().for_each(|(row, _)| *row = 0);
    }

    /// Takes the next partial, if it comes before the row with this number.
    pub fn pop_partial(&mut self, row: usize) -> Option<Partial> {
        if self.partials.front().is_none_or(|(before, _)| *before > row) {
            return None;
        }
        let (_, partial) = self.partials.pop_front()?;
        self.partial_weight = self.partial_weight.saturating_sub(partial.weight);
        Some(partial)
    }

    /// Removes the partials for which `keep` is false.
    pub fn retain_partials(&mut self, keep: impl Fn(&Partial) -> bool) {
        self.partials.retain(|(_, partial)| keep(partial));
        self.partial_weight = self.partials.iter().map(|(_, partial)| partial.weight).sum();
    }

    /// Sets the time of each row to `now`, the time of its arrival, unless the row is from later.
    pub fn arrive_at(&mut self, now: i64) {
        self.times.iter_mut().for_each(|time| *time = (*time).max(now));
        self.partials.iter_mut().for_each(|(_, partial)| partial.times = (now, now));
    }

    /// Limits the times of rows to `now`, because the clock has stepped back.
    pub fn step_back(&mut self, now: i64) {
        self.stepped_back = true;
        self.times.iter_mut().for_each(|time| *time = (*time).min(now));
        let partials = self.partials.iter_mut().map(|(_, partial)| &mut partial.times);
        partials.for_each(|times| *times = (times.0.min(now), times.1.min(now)));
    }

    /// Calls `see` with the time, input and slots of each row, in order; it may take the slots.
    pub fn each(&mut self, mut see: impl FnMut(i64, usize, &mut [Value])) {
        // A row without slots (count(*)) is an empty slice.
        for (row, (&time, &input)) in self.times.iter().zip(&self.inputs).enumerate() {
            see(time, usize::from(input), &mut self.values[row * self.width..][..self.width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partial(start: i64, weight: usize) -> Partial {
        Partial { times: (start, start + 5), end: i64::MAX, weight, ..Partial::default() }
    }

    fn row(batch: &mut RowBatch, time: i64) {
        batch.push(0, time, Instant::now(), &mut [Value::Int(time)]);
    }

    #[test]
    fn partials_keep_their_place_among_rows() {
        let (mut first, mut second) = (RowBatch::of_width(1), RowBatch::of_width(1));
        (1..=2).for_each(|time| row(&mut first, time));
        first.push_partial(partial(3, 10));
        second.push_partial(partial(4, 20));
        row(&mut second, 5);
        second.push_partial(partial(6, 30));
        first.append(second);
        assert_eq!(first.weight(), 3 + 60);
        let mut taken = Vec::new();
        let mut next = 0;
        loop {
            while let Some(partial) = first.pop_partial(next) {
                taken.push(partial.times.0);
            }
            let Some(time) = first.times.get(next) else { break };
            taken.push(*time);
            next += 1;
        }
        assert_eq!(taken, [1, 2, 3, 4, 5, 6]);
        assert_eq!(first.weight(), 3);
    }

    #[test]
    fn partials_stay_when_rows_are_taken() {
        let mut batch = RowBatch::of_width(1);
        row(&mut batch, 1);
        batch.push_partial(partial(2, 7));
        batch.clear_rows();
        row(&mut batch, 3);
        assert_eq!(batch.pop_partial(0).map(|partial| partial.times.0), Some(2));
        batch.push_partial(partial(4, 1));
        assert!(batch.pop_partial(0).is_none(), "the row comes first");
        batch.clear();
        assert!(batch.is_empty() && batch.weight() == 0);
    }

    #[test]
    fn rows_by_the_clock_are_of_the_time_of_their_arrival() {
        let mut batch = RowBatch::of_width(1);
        (10..=20).step_by(10).for_each(|time| row(&mut batch, time));
        batch.push_partial(partial(12, 1));
        batch.arrive_at(15);
        assert_eq!((&batch.times[..], batch.partials[0].1.times), (&[15, 20][..], (15, 15)));
        batch.step_back(13);
        assert_eq!((&batch.times[..], batch.partials[0].1.times), (&[13, 13][..], (13, 13)));
        assert!(batch.stepped_back);
    }
}
