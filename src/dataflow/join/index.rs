//! The rows of a join's right side by their keys.

use std::collections::{HashMap, VecDeque};

use smallvec::SmallVec;

use crate::dataflow::row::KeyHasher;
use crate::value::key::{GroupKey, KeyPart};

/// The numbers of a join's right rows by the values that its equalities compare.
pub(super) struct Index {
    /// In order, counted from the first row ever.
    rows: HashMap<GroupKey, VecDeque<u32>, KeyHasher>,
    /// For each equality, the number of values of each kind on the right side.
    kinds: SmallVec<[[u32; KINDS]; 2]>,
    /// The number of the first existing row.
    first: u32,
    /// The number of the next row.
    next: u32,
}

impl Index {
    pub(super) fn new(width: usize) -> Index {
        Index { rows: HashMap::default(), kinds: smallvec::smallvec![[0; KINDS]; width], first: 0, next: 0 }
    }

    /// Adds the next row. A row without a key matches nothing.
    pub(super) fn add(&mut self, key: GroupKey) {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        for (kinds, part) in self.kinds.iter_mut().zip(key.parts()) {
            kind(part).into_iter().for_each(|kind| kinds[kind] += 1);
        }
        if !key.parts().contains(&KeyPart::Nothing) {
            self.rows.entry(key).or_default().push_back(number);
        }
    }

    /// Removes the first row, which had this key.
    pub(super) fn remove_first(&mut self, key: &GroupKey) {
        self.first = self.first.wrapping_add(1);
        for (kinds, part) in self.kinds.iter_mut().zip(key.parts()) {
            kind(part).into_iter().for_each(|kind| kinds[kind] -= 1);
        }
        if let Some(numbers) = self.rows.get_mut(key) {
            numbers.pop_front();
            if numbers.is_empty() {
                self.rows.remove(key);
            }
        }
    }

    /// Whether a part of the key may equal values of another kind, as datetimes equal numbers and texts. Their keys
    /// differ, so each row must be compared.
    pub(super) fn crosses_kinds(&self, key: &GroupKey) -> bool {
        key.parts().iter().zip(&self.kinds).any(|(part, kinds)| match kind(part) {
            Some(TIME) => kinds.iter().enumerate().any(|(other, count)| other != TIME && *count > 0),
            Some(_) => kinds[TIME] > 0,
            None => false,
        })
    }

    /// The indexes of the rows with this key. Arrays, objects and bytes equal nothing.
    pub(super) fn candidates<'i>(&'i self, key: &GroupKey) -> Option<impl Iterator<Item = u32> + use<'i>> {
        if key.parts().iter().any(|part| kind(part) == Some(NESTED)) {
            return None;
        }
        Some(self.rows.get(key)?.iter().map(|number| number.wrapping_sub(self.first)))
    }
}

/// The number of comparable kinds.
const KINDS: usize = 5;

/// Points in time.
const TIME: usize = 3;

/// Kinds of values that cannot be compared.
const NESTED: usize = 4;

/// The kind of a value; `None` if it equals nothing. Values of the same kind compare without an error.
fn kind(part: &KeyPart) -> Option<usize> {
    match part {
        KeyPart::Nothing => None,
        KeyPart::Bool(_) => Some(0),
        KeyPart::Int(_) | KeyPart::Unsigned(_) | KeyPart::Float(_) => Some(1),
        KeyPart::Text(_) => Some(2),
        KeyPart::DateTime(_) => Some(TIME),
        KeyPart::Array(_) | KeyPart::Object(_) | KeyPart::Bytes(_) => Some(NESTED),
    }
}
