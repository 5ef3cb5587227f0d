//! Rows in order of time: in event time they wait until the watermark reaches them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::value::Value;

/// Rows that the watermark has not reached.
#[derive(Default, Serialize, Deserialize)]
pub struct Waiting {
    /// by time, then by arrival: the input and its slots
    rows: BTreeMap<(i64, u64), (usize, Vec<Value>)>,
    arrivals: u64,
}

impl Waiting {
    /// Takes a row in, with its slots.
    pub fn push(&mut self, time: i64, input: usize, slots: &mut [Value]) {
        let slots = slots.iter_mut().map(std::mem::take).collect();
        self.rows.insert((time, self.arrivals), (input, slots));
        self.arrivals += 1;
    }

    /// Whether this holds of the input, and of the number of slots, of each row.
    pub fn all(&self, holds: impl Fn(usize, usize) -> bool) -> bool {
        self.rows.values().all(|(input, slots)| holds(*input, slots.len()))
    }

    /// The next row up to `frontier`, inclusive, with its time and input; `None` as frontier: whatever there is.
    pub fn pop(&mut self, frontier: Option<i64>) -> Option<(i64, usize, Vec<Value>)> {
        let first = self.rows.first_entry()?;
        let (time, _) = *first.key();
        if frontier.is_some_and(|frontier| time > frontier) {
            return None;
        }
        let (input, slots) = first.remove();
        Some((time, input, slots))
    }
}
