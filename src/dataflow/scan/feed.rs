//! Checks of a feed: duplicate messages from several connections, and gaps in a sequence of numbers.
//!
//! Both look at a field of each message before any rule does. A message without the field passes. What is remembered
//! is bounded, since keys come from outside: beyond the bound the oldest keys of messages are forgotten, and new keys
//! of sequences are not followed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;

use crate::io::queue::FeedChecks;
use crate::metrics::{FeedEvent, StreamMetrics};
use crate::value::field_path::FieldPath;
use crate::value::{Text, Value, cast};

/// The most message keys that are remembered (`dedupKey`).
const REMEMBERED: usize = 65_536;

/// The most keys whose sequences are followed (`gapKey`).
const FOLLOWED: usize = 65_536;

/// How far a number may lag behind later ones. Beyond this the sequence starts again: the feed has restarted.
const REORDERED: i64 = 64;

/// A path into a message, with the stream's column that it begins with.
pub(super) struct Located {
    pub path: FieldPath,
    pub column: usize,
}

/// The checks of a stream.
pub(super) struct Feed {
    dedup: Option<(Located, Seen)>,
    gap: Option<Gaps>,
}

/// What happens to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It passes; with `gapSequence`, this many numbers are missing before it.
    Passes(Option<u64>),
    /// Another connection has delivered it before.
    Duplicate,
}

impl Feed {
    /// The checks of a source; `locate` turns a path into a stream's column. `None`: nothing to check.
    pub fn new(checks: FeedChecks, mut locate: impl FnMut(FieldPath) -> Located) -> Option<Feed> {
        let FeedChecks { dedup, gap_key, gap_sequence } = checks;
        let dedup = dedup.map(|path| (locate(path), Seen::default()));
        let gap = gap_sequence.map(|sequence| Gaps {
            sequence: locate(sequence),
            key: gap_key.map(locate),
            sequences: HashMap::new(),
        });
        (dedup.is_some() || gap.is_some()).then_some(Feed { dedup, gap })
    }

    /// Checks a message; `value` reads a column of it, if it can be read.
    pub fn check(&mut self, metrics: &StreamMetrics, mut value: impl FnMut(usize) -> Option<Value>) -> Verdict {
        let mut found = |at: &Located| {
            let column = value(at.column)?;
            let found = at.path.find(&column).into_owned();
            (!found.is_null()).then_some(found)
        };
        if let Some((at, seen)) = &mut self.dedup
            && let Some(key) = found(at)
            && !seen.insert(&cast::text(&key))
        {
            metrics.count(FeedEvent::Duplicate, 1);
            return Verdict::Duplicate;
        }
        let Some(gaps) = &mut self.gap else { return Verdict::Passes(None) };
        let Some(number) = found(&gaps.sequence).as_ref().and_then(whole) else { return Verdict::Passes(Some(0)) };
        let key = gaps.key.as_ref().and_then(found).unwrap_or(Value::Absent);
        Verdict::Passes(Some(gaps.follow(&cast::text(&key), number, metrics)))
    }
}

/// A number of a sequence; some feeds write them as text.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::Text(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The keys of the last messages, as hashes with a seed of the process.
#[derive(Default)]
struct Seen {
    hasher: foldhash::quality::RandomState,
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Seen {
    /// Remembers a key; false if it was known.
    fn insert(&mut self, key: &str) -> bool {
        let hash = self.hasher.hash_one(key);
        if !self.known.insert(hash) {
            return false;
        }
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(hash);
        true
    }
}

/// The sequences of a feed, one for each key.
struct Gaps {
    sequence: Located,
    key: Option<Located>,
    sequences: HashMap<Text, Sequence>,
}

/// The position of a sequence.
struct Sequence {
    /// The largest number.
    last: i64,
    /// Which of the numbers before it have arrived: bit 0 is `last - 1`.
    came: u64,
}

impl Gaps {
    /// Takes the next number of a key; returns how many are missing before it.
    fn follow(&mut self, key: &str, number: i64, metrics: &StreamMetrics) -> u64 {
        let Some(sequence) = self.sequences.get_mut(key) else {
            if self.sequences.len() < FOLLOWED {
                self.sequences.insert(key.into(), Sequence { last: number, came: u64::MAX });
            }
            return 0;
        };
        let ahead = i128::from(number) - i128::from(sequence.last);
        match ahead {
            1.. => {
                let shift = u32::try_from(ahead).unwrap_or(u32::MAX);
                // The last number again.
                sequence.came =
                    sequence.came.checked_shl(shift).unwrap_or(0) | 1u64.checked_shl(shift - 1).unwrap_or(0);
                sequence.last = number;
                let missing = u64::try_from(ahead - 1).unwrap_or(u64::MAX);
                if missing > 0 {
                    metrics.count(FeedEvent::Missing, missing);
                }
                missing
            }
            0 => {
                metrics.count(FeedEvent::Doubled, 1);
                0
            }
            behind if behind >= -i128::from(REORDERED) => {
                let bit = 1u64 << (-behind - 1);
                let event = if sequence.came & bit == 0 { FeedEvent::Reordered } else { FeedEvent::Doubled };
                sequence.came |= bit;
                metrics.count(event, 1);
                0
            }
            _ => {
                *sequence = Sequence { last: number, came: u64::MAX };
                0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::metrics::RuleMetrics;
    use crate::value::json;

    fn feed(dedup: Option<&str>, gap: Option<(Option<&str>, &str)>) -> (Feed, Arc<StreamMetrics>, RuleMetrics) {
        let path = |text: &str| FieldPath::parse(text).expect("a path");
        let checks = FeedChecks {
            dedup: dedup.map(path),
            gap_key: gap.and_then(|(key, _)| key.map(path)),
            gap_sequence: gap.map(|(_, sequence)| path(sequence)),
        };
        // In the tests there is one column: the message.
        let feed = Feed::new(checks, |path| Located { path, column: 0 }).expect("something is checked");
        let (stream, rule) = (Arc::new(StreamMetrics::default()), RuleMetrics::default());
        rule.join(&stream, true);
        (feed, stream, rule)
    }

    fn counts(rule: &RuleMetrics) -> Vec<(&'static str, u64)> {
        rule.feed().each().map(|(event, count)| (event.name(), count)).collect()
    }

    #[test]
    fn a_message_of_two_connections_counts_once() {
        let (mut feed, stream, rule) = feed(Some("m->id"), None);
        let mut check = |text: &str| feed.check(&stream, |_| Some(json::value(text)));
        for (text, passes) in [
            (r#"{"id":1}"#, true),
            (r#"{"id":"a"}"#, true),
            (r#"{"id":1}"#, false),
            ("{}", true),
            ("{}", true),
            (r#"{"id":null}"#, true),
        ] {
            assert_eq!(check(text) == Verdict::Passes(None), passes, "{text}");
        }
        // The oldest keys are forgotten.
        (0..REMEMBERED).for_each(|id| {
            check(&format!("{{\"id\":{}}}", id + 10));
        });
        assert_eq!(check(r#"{"id":1}"#), Verdict::Passes(None));
        assert_eq!(counts(&rule), [("duplicate", 1)]);
    }

    #[test]
    fn numbers_of_a_sequence_are_followed_by_key() {
        let (mut feed, stream, rule) = feed(None, Some((Some("m->k"), "m->n")));
        let mut check = |key: &str, number: i64| {
            feed.check(&stream, |_| Some(json::value(&format!("{{\"k\":\"{key}\",\"n\":\"{number}\"}}"))))
        };
        for (key, number, missing) in [
            ("a", 5, 0),
            ("b", 100, 0),
            ("a", 6, 0),
            ("a", 9, 2),
            ("b", 101, 0),
            ("a", 9, 0),
            ("a", 8, 0),
            ("a", 8, 0),
            ("a", 6, 0),
            ("a", 10, 0),
            // The feed has restarted.
            ("b", 1, 0),
            ("b", 2, 0),
            ("b", i64::MAX, u64::MAX >> 1),
        ] {
            let missing = if number == i64::MAX { (i64::MAX - 3) as u64 } else { missing };
            assert_eq!(check(key, number), Verdict::Passes(Some(missing)), "{key} {number}");
        }
        let wanted = [("missing", 2 + (i64::MAX - 3) as u64), ("doubled", 3), ("reordered", 1)];
        assert_eq!(counts(&rule), wanted);
        assert_eq!(feed.check(&stream, |_| None), Verdict::Passes(Some(0)));
    }
}
