//! A set of numbers as disjoint ranges. Plain data.

use std::collections::BTreeMap;

/// A set of numbers. The end of a range is exclusive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::io) struct Ranges {
    ends: BTreeMap<u64, u64>,
    /// how many numbers are in all ranges
    total: u64,
}

impl Ranges {
    /// How many numbers are in the set.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The number of ranges.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The ranges in order: start and end.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ends.iter().map(|(&start, &end)| (start, end))
    }

    /// Adds a range; returns how many of its numbers are new.
    pub fn add(&mut self, start: u64, end: u64) -> u64 {
        if start >= end {
            return 0;
        }
        let (mut from, mut to, mut known) = (start, end, 0);
        // Ranges that it touches are merged with it.
        while let Some((&other, &other_end)) =
            self.ends.range(..=to).next_back().filter(|(_, other_end)| **other_end >= from)
        {
            known += other_end.min(end).saturating_sub(other.max(start));
            from = from.min(other);
            to = to.max(other_end);
            self.ends.remove(&other);
        }
        self.ends.insert(from, to);
        let added = end - start - known;
        self.total += added;
        added
    }

    /// The end of the range that contains this number.
    pub fn end_of(&self, number: u64) -> Option<u64> {
        self.ends.range(..=number).next_back().map(|(_, &end)| end).filter(|end| *end > number)
    }

    /// Whether all numbers from `start` to `end`, exclusive, are in the set.
    pub fn covers(&self, start: u64, end: u64) -> bool {
        self.end_of(start).is_some_and(|covered| covered >= end)
    }

    /// Removes the numbers below this one.
    pub fn cut_below(&mut self, number: u64) {
        while let Some(first) = self.ends.first_entry().filter(|first| *first.key() < number) {
            let (start, end) = first.remove_entry();
            self.total -= end.min(number) - start;
            if end > number {
                self.ends.insert(number, end);
            }
        }
    }

    /// Removes this number and all greater ones.
    pub fn cut_from(&mut self, number: u64) {
        while let Some(last) = self.ends.last_entry().filter(|last| *last.get() > number) {
            let (start, end) = last.remove_entry();
            self.total -= end - start.max(number);
            if start < number {
                self.ends.insert(start, number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_grow_together_and_are_cut() {
        let mut ranges = Ranges::default();
        for (start, end, new) in
            [(10, 15, 5), (20, 25, 5), (12, 22, 5), (5, 6, 1), (0, 5, 5), (30, 30, 0), (0, 100, 79)]
        {
            assert_eq!(ranges.add(start, end), new, "{start}");
        }
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(0, 100)]);
        ranges.cut_below(10);
        ranges.cut_from(90);
        ranges.add(95, 99);
        assert_eq!(
            (ranges.total(), ranges.len(), ranges.iter().collect::<Vec<_>>()),
            (84, 2, vec![(10, 90), (95, 99)])
        );
        assert_eq!([9, 10, 89, 90, 95].map(|number| ranges.end_of(number)), [None, Some(90), Some(90), None, Some(99)]);
        assert!(ranges.covers(10, 90) && !ranges.covers(10, 91));
        ranges.cut_from(0);
        assert!(ranges.len() == 0 && ranges.total() == 0);
    }
}
