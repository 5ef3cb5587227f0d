//! Rows in order of time: in event time they wait until the watermark reaches them.
//!
//! Most rows arrive in order. These form a queue; only rows that arrive after a later one go through a heap. The slots
//! of all rows are in one vector, so that a row needs no allocation.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::value::Value;

use super::state::checkpoint::{CheckpointError, CheckpointReader, StateParts, expect_len};
use super::state::measure::Meter;

/// The capacity that is kept while no rows are waiting.
const SPARE: usize = 16 * 1024;

pub struct Waiting {
    /// Slots of a row.
    width: usize,
    /// Rows that arrived in order.
    queue: VecDeque<Entry>,
    /// Rows that arrived after a later one.
    strays: BinaryHeap<Reverse<Entry>>,
    /// The slots of row `n` start at `n` times the width.
    slots: Vec<Value>,
    /// Free places.
    free: Vec<u32>,
    arrivals: u64,
}

/// A row, ordered by time, then by arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    time: i64,
    arrival: u64,
    input: u16,
    place: u32,
}

impl Waiting {
    /// An empty queue for rows of this many slots.
    pub fn new(width: usize) -> Waiting {
        Waiting {
            width,
            queue: VecDeque::new(),
            strays: BinaryHeap::new(),
            slots: Vec::new(),
            free: Vec::new(),
            arrivals: 0,
        }
    }

    /// Adds the rows to a checkpoint, in their order.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        let mut entries: Vec<Entry> =
            self.queue.iter().copied().chain(self.strays.iter().map(|entry| entry.0)).collect();
        entries.sort_unstable();
        let row =
            |entry: Entry| (entry.time, entry.input, &self.slots[entry.place as usize * self.width..][..self.width]);
        to.put(&entries.into_iter().map(row).collect::<Vec<_>>())
    }

    /// Adds the size of the rows, extrapolated from some of them.
    pub fn measure(&self, meter: &mut Meter) {
        let entries = self.queue.iter().chain(self.strays.iter().map(|Reverse(entry)| entry));
        meter.add_alike(self.queue.len() + self.strays.len(), size_of::<Entry>(), entries, |entry, meter| {
            meter.add(&self.slots[entry.place as usize * self.width..][..self.width]);
        });
    }

    /// Restores the rows of a checkpoint, for a rule with this many inputs.
    ///
    /// # Errors
    /// [`CheckpointError`]; the value must not be used then.
    pub fn restore(&mut self, from: &mut CheckpointReader<'_>, inputs: usize) -> Result<(), CheckpointError> {
        let rows: Vec<(i64, u16, Vec<Value>)> = from.take()?;
        for (time, input, slots) in rows {
            if usize::from(input) >= inputs {
                return Err(CheckpointError::Damaged("a row of it belongs to another plan"));
            }
            self.push(time, usize::from(input), &mut expect_len(slots, self.width)?);
        }
        Ok(())
    }

    /// The number of rows up to `frontier`, inclusive; `None`: of all rows.
    pub fn due(&self, frontier: Option<i64>) -> usize {
        let Some(frontier) = frontier else { return self.len() };
        let in_order = self.queue.partition_point(|entry| entry.time <= frontier);
        let are_due = self.strays.peek().is_some_and(|Reverse(first)| first.time <= frontier);
        let strays = self.strays.iter().take_while(|_| are_due);
        in_order + strays.filter(|Reverse(entry)| entry.time <= frontier).count()
    }

    pub fn len(&self) -> usize {
        self.queue.len() + self.strays.len()
    }

    /// Adds a row, taking its slots.
    pub fn push(&mut self, time: i64, input: usize, slots: &mut [Value]) {
        let taken = slots.iter_mut().map(std::mem::take);
        let place = match self.free.pop() {
            Some(place) => {
                let kept = &mut self.slots[place as usize * self.width..][..self.width];
                kept.iter_mut().zip(taken).for_each(|(kept, slot)| *kept = slot);
                place
            }
            None => {
                self.slots.extend(taken);
                (self.queue.len() + self.strays.len()) as u32
            }
        };
        let entry = Entry { time, arrival: self.arrivals, input: input as u16, place };
        self.arrivals += 1;
        if self.queue.back().is_none_or(|last| last.time <= time) {
            self.queue.push_back(entry);
        } else {
            self.strays.push(Reverse(entry));
        }
    }

    /// Removes the next row up to `frontier`, inclusive (`None`: any row). Returns its time and input; its slots are
    /// moved into `slots`, which is as wide as a row.
    pub fn pop(&mut self, frontier: Option<i64>, slots: &mut [Value]) -> Option<(i64, usize)> {
        let stray = self.strays.peek().map(|Reverse(entry)| entry);
        let from_queue = match (self.queue.front(), stray) {
            (Some(first), Some(stray)) => first < stray,
            (first, _) => first.is_some(),
        };
        let entry = *if from_queue { self.queue.front() } else { stray }?;
        if frontier.is_some_and(|frontier| entry.time > frontier) {
            return None;
        }
        if from_queue {
            self.queue.pop_front();
        } else {
            self.strays.pop();
        }
        let kept = &mut self.slots[entry.place as usize * self.width..][..self.width];
        kept.swap_with_slice(slots);
        kept.fill(Value::Absent);
        self.free.push(entry.place);
        if self.queue.is_empty() && self.strays.is_empty() {
            self.free.clear();
            self.slots.clear();
            self.free.shrink_to(SPARE);
            self.queue.shrink_to(SPARE);
            self.strays.shrink_to(SPARE);
            self.slots.shrink_to(SPARE * self.width);
        }
        Some((entry.time, usize::from(entry.input)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Rows leave in the order of a stable sort by time, however they arrive.
        #[test]
        fn rows_go_on_by_time_and_then_by_arrival(
            rounds in prop::collection::vec((prop::collection::vec(0i64..20, 0..20), 0i64..24), 1..8),
        ) {
            let mut waiting = Waiting::new(2);
            let mut expected: Vec<(i64, i64)> = Vec::new();
            let mut number = 0;
            for (times, frontier) in rounds {
                for time in times {
                    waiting.push(time, number as usize % 3, &mut [Value::Int(number), Value::Int(-number)]);
                    expected.push((time, number));
                    number += 1;
                }
                expected.sort_by_key(|&(time, _)| time);
                let due = expected.partition_point(|&(time, _)| time <= frontier);
                prop_assert_eq!((waiting.due(Some(frontier)), waiting.due(None)), (due, expected.len()));
                for (time, number) in expected.drain(..due) {
                    let mut slots = [Value::Absent, Value::Absent];
                    prop_assert_eq!(waiting.pop(Some(frontier), &mut slots), Some((time, number as usize % 3)));
                    prop_assert!(matches!(slots, [Value::Int(a), Value::Int(b)] if a == number && b == -number), "{slots:?}");
                }
                prop_assert_eq!(waiting.pop(Some(frontier), &mut [Value::Absent, Value::Absent]), None);
            }
            let rest = std::iter::from_fn(|| waiting.pop(None, &mut [Value::Absent, Value::Absent])).count();
            prop_assert_eq!(rest, expected.len());
        }
    }
}
