//! Messages that a rule has lost, by part and cause.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use crate::sync::locked;

/// The most causes that other processes may name.
const CAUSES: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Losses(BTreeMap<(&'static str, String, &'static str), u64>);

impl Losses {
    pub fn of_source(&mut self, stream: &str, dropped: &[(&'static str, u64)]) {
        dropped.iter().for_each(|(cause, count)| self.add("source", stream, cause, *count));
    }

    pub fn of_sink(&mut self, number: usize, dropped: &[(&'static str, u64)]) {
        dropped.iter().for_each(|(cause, count)| self.add("sink", &number.to_string(), cause, *count));
    }

    pub fn add_named(&mut self, part: &str, name: &str, cause: &str, count: u64) {
        let part = if part == "source" { "source" } else { "sink" };
        self.add(part, name, known_cause(cause), count);
    }

    pub fn merge(&mut self, other: &Losses) {
        other.iter().for_each(|(part, name, cause, count)| self.add(part, name, cause, count));
    }

    /// Source or sink, the stream's name or the sink's number, the cause, and the count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str, &'static str, u64)> {
        self.0.iter().map(|((part, name, cause), count)| (*part, name.as_str(), *cause, *count))
    }

    /// The counts of one part, by cause.
    pub fn of(&self, part: &str, name: &str) -> Vec<(&'static str, u64)> {
        let mine = self.iter().filter(|(of, its, ..)| *of == part && *its == name);
        mine.map(|(.., cause, count)| (cause, count)).collect()
    }

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

/// The known cause with this name. Another process uses the causes of the same program, so there are few.
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
