//! Messages that a rule has lost, by part and cause.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use crate::sync::locked;

/// How many causes other processes may name.
const CAUSES: usize = 256;

/// Messages that a rule has lost, by part and cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses(BTreeMap<(&'static str, String, &'static str), u64>);

impl Losses {
    /// Adds what the source of a stream has lost.
    pub fn of_source(&mut self, stream: &str, dropped: &[(&'static str, u64)]) {
        dropped.iter().for_each(|(cause, count)| self.add("source", stream, cause, *count));
    }

    /// Adds what a sink has lost.
    pub fn of_sink(&mut self, number: usize, dropped: &[(&'static str, u64)]) {
        dropped.iter().for_each(|(cause, count)| self.add("sink", &number.to_string(), cause, *count));
    }

    /// Adds what another process has lost.
    pub fn add_named(&mut self, part: &str, name: &str, cause: &str, count: u64) {
        let part = if part == "source" { "source" } else { "sink" };
        self.add(part, name, known_cause(cause), count);
    }

    /// Adds what was lost at another time.
    pub fn merge(&mut self, other: &Losses) {
        other.iter().for_each(|(part, name, cause, count)| self.add(part, name, cause, count));
    }

    /// The counts: source or sink, the name of the stream or the number of the sink, the cause, and how many.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str, &'static str, u64)> {
        self.0.iter().map(|((part, name, cause), count)| (*part, name.as_str(), *cause, *count))
    }

    /// The counts of one part by cause.
    pub fn of(&self, part: &str, name: &str) -> Vec<(&'static str, u64)> {
        let mine = self.iter().filter(|(of, its, ..)| *of == part && *its == name);
        mine.map(|(.., cause, count)| (cause, count)).collect()
    }

    /// The counts by cause.
    pub fn by_cause(&self) -> BTreeMap<&'static str, u64> {
        let mut causes = BTreeMap::new();
        self.0.iter().for_each(|((.., cause), count)| *causes.entry(*cause).or_default() += count);
        causes
    }

    fn add(&mut self, part: &'static str, name: &str, cause: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry((part, name.to_owned(), cause)).or_default() += count;
        }
    }
}

/// A cause that another process names. Its causes are those of this program, so there are few.
pub fn known_cause(cause: &str) -> &'static str {
    static KNOWN: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut known = locked(&KNOWN);
    match known.get(cause) {
        Some(known) => known,
        None if known.len() < CAUSES => {
            let cause: &'static str = Box::leak(cause.into());
            known.insert(cause);
            cause
        }
        None => "other",
    }
}
