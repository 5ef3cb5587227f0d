//! Checks of a feed: duplicate messages from several connections, and gaps in a sequence of numbers.
//!
//! Both read fields of each message before any rule does. A message without these fields passes and is counted, because
//! a misspelt name must not go unnoticed. The memory is limited, because keys come from outside: beyond the limit, the
//! oldest keys of messages are forgotten, and new keys of sequences are not followed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::BuildHasher;

use smallvec::SmallVec;

use crate::io::queue::FeedChecks;
use crate::metrics::{FeedEvent, OpenGaps, StreamMetrics};
use crate::value::field_path::FieldPath;
use crate::value::{Text, Value, cast};

/// The most message keys that are remembered (`dedupKey`).
const REMEMBERED: usize = 65_536;

/// The most keys whose sequences are followed (`gapKey`).
const FOLLOWED: usize = 65_536;

/// How far a number may lag behind later ones. Beyond this, the feed has restarted, and the sequence starts again.
const REORDERED: i64 = 64;

/// If several connections deliver a feed: how many consecutive numbers must be that far behind to mean a restart.
const RESTARTED: u32 = 4;

/// The most gaps that wait to be filled (`gapWait`), for one sequence and for all.
const OPEN: usize = 64;
const WAITING: usize = 65_536;

/// After this many consecutive messages without a field, a warning names it.
const SUSPECT: u32 = 100;

/// A path into a message, and its start.
pub(super) struct Located {
    pub path: FieldPath,
    pub start: Start,
}

/// The start of a path into a message.
#[derive(Clone, Copy)]
pub(super) enum Start {
    /// At a column of the stream.
    Column(usize),
    /// At the message: `self`.
    Whole,
}

/// The checks of a stream.
pub(super) struct Feed {
    dedup: Option<(Field, Seen)>,
    gap: Option<Gaps>,
}

/// What happens to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It passes; with `gapSequence`, this many numbers before it are missing.
    Passes(Option<u64>),
    /// Another connection has delivered it before.
    Duplicate,
}

/// The values of a property that names fields of a message.
type Key = SmallVec<[Text; 1]>;

/// A property that names fields of a message.
struct Field {
    property: &'static str,
    /// the event that counts messages without it
    missed: FeedEvent,
    parts: Vec<Located>,
    /// the number of messages without it since the last one with it
    in_a_row: u32,
}

impl Field {
    fn new(property: &'static str, missed: FeedEvent, parts: Vec<Located>) -> Field {
        Field { property, missed, parts, in_a_row: 0 }
    }

    /// The values in a message; `None` if one is missing or null, which is counted.
    fn find(&mut self, metrics: &StreamMetrics, value: &mut dyn FnMut(Start) -> Option<Value>) -> Option<Key> {
        let mut found = |at: &Located| {
            let whole = value(at.start)?;
            let found = at.path.find(&whole);
            (!found.is_null()).then(|| cast::text(&found).into())
        };
        let key: Option<Key> = self.parts.iter().map(&mut found).collect();
        match key {
            Some(_) => self.in_a_row = 0,
            None => self.miss(metrics),
        }
        key
    }

    fn miss(&mut self, metrics: &StreamMetrics) {
        metrics.count(self.missed, 1);
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row == SUSPECT {
            let named: Vec<String> = self.parts.iter().map(|part| part.path.to_string()).collect();
            let (property, named) = (self.property, named.join(", "));
            metrics.odd(format!("{property} {named} was in none of the last {SUSPECT} messages"));
        }
    }
}

impl Feed {
    /// The checks of a source; `locate` finds the start of a path. `None`: nothing to check.
    pub fn new(checks: FeedChecks, mut locate: impl FnMut(FieldPath) -> Located) -> Option<Feed> {
        let FeedChecks { dedup, gap_key, gap_sequence, gap_wait } = checks;
        let mut all = |paths: Vec<FieldPath>| paths.into_iter().map(&mut locate).collect::<Vec<_>>();
        let (dedup, gap_key, sequence) = (all(dedup), all(gap_key), all(gap_sequence.into_iter().collect()));
        let dedup =
            (!dedup.is_empty()).then(|| (Field::new("dedupKey", FeedEvent::WithoutDedupKey, dedup), Seen::default()));
        let gap = (!sequence.is_empty()).then(|| Gaps {
            sequence: Field::new("gapSequence", FeedEvent::WithoutGapSequence, sequence),
            key: Field::new("gapKey", FeedEvent::WithoutGapKey, gap_key),
            wait: i64::try_from(gap_wait.as_millis()).unwrap_or(i64::MAX),
            hasher: Hasher::default(),
            sequences: HashMap::new(),
            waiting: VecDeque::new(),
            open: OpenGaps::default(),
        });
        (dedup.is_some() || gap.is_some()).then_some(Feed { dedup, gap })
    }

    /// Checks a message that arrived at `now`, ms since the epoch; `value` reads a part of it, if possible.
    pub fn check(
        &mut self,
        metrics: &StreamMetrics,
        now: i64,
        mut value: impl FnMut(Start) -> Option<Value>,
    ) -> Verdict {
        if let Some((field, seen)) = &mut self.dedup
            && let Some(key) = field.find(metrics, &mut value)
            && !seen.insert(&key)
        {
            metrics.count(FeedEvent::Duplicate, 1);
            return Verdict::Duplicate;
        }
        let Some(gaps) = &mut self.gap else { return Verdict::Passes(None) };
        let Some(number) = gaps.sequence.find(metrics, &mut value) else { return Verdict::Passes(Some(0)) };
        // Some feeds send numbers as text.
        let number = number.first().and_then(|number| number.trim().parse().ok());
        let Some(number) = number else { return Verdict::Passes(Some(0)) };
        let Some(key) = gaps.key.find(metrics, &mut value) else { return Verdict::Passes(Some(0)) };
        Verdict::Passes(Some(gaps.follow(&key, number, now, metrics)))
    }
}

/// Hashes keys with a seed of the process. A key may be as long as a message, so only hashes are remembered.
type Hasher = foldhash::quality::RandomState;

/// The keys of the last messages, as hashes.
#[derive(Default)]
struct Seen {
    hasher: Hasher,
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Seen {
    /// Remembers a key; false if it was already known.
    fn insert(&mut self, key: &Key) -> bool {
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
    sequence: Field,
    /// without parts: there is only one sequence
    key: Field,
    /// how late a missing number may come, ms
    wait: i64,
    hasher: Hasher,
    /// by hash of the key
    sequences: HashMap<u64, Sequence>,
    /// the sequences with open gaps, by the times until which the gaps wait
    waiting: VecDeque<(i64, u64)>,
    /// all numbers of open gaps
    open: OpenGaps,
}

/// The position of a sequence.
struct Sequence {
    /// The largest number.
    last: i64,
    /// Which of the previous numbers have arrived: bit 0 is `last - 1`.
    came: u64,
    /// Numbers that may still arrive.
    open: Vec<Gap>,
    /// Missing numbers that no message has reported yet.
    unreported: u64,
    /// The number of consecutive numbers so far behind that the feed may have restarted.
    far_behind: u32,
}

/// Numbers that have not arrived.
#[derive(Clone, Copy)]
struct Gap {
    first: i64,
    last: i64,
    /// They count as missing from this time, ms since the epoch.
    due: i64,
}

impl Gap {
    fn count(&self) -> u64 {
        u64::try_from(i128::from(self.last) - i128::from(self.first) + 1).unwrap_or(u64::MAX)
    }
}

impl Sequence {
    /// The numbers of its open gaps.
    fn open_numbers(&self) -> u64 {
        self.open.iter().map(Gap::count).fold(0, u64::wrapping_add)
    }

    fn new(last: i64) -> Sequence {
        Sequence { last, came: u64::MAX, open: Vec::new(), unreported: 0, far_behind: 0 }
    }

    /// Whether a number far behind restarts the sequence. If it may come from a slow mirror, only the last of several
    /// consecutive ones does.
    fn restarts(&mut self, wait: i64) -> bool {
        self.far_behind += 1;
        wait == 0 || self.far_behind == RESTARTED
    }

    /// Adds numbers that will not arrive any more to `lost`.
    fn lose(&mut self, gap: Gap, lost: &mut u64) {
        *lost = lost.saturating_add(gap.count());
        self.unreported = self.unreported.saturating_add(gap.count());
    }

    /// Adds the gaps that are due to `lost`.
    fn settle(&mut self, now: i64, lost: &mut u64) {
        let (due, open) = std::mem::take(&mut self.open).into_iter().partition(|gap| gap.due <= now);
        self.open = open;
        let due: Vec<Gap> = due;
        due.into_iter().for_each(|gap| self.lose(gap, lost));
    }

    fn wait_for(&mut self, gap: Gap, lost: &mut u64) {
        if gap.first > gap.last {
            return;
        }
        if self.open.len() == OPEN {
            let oldest = self.open.remove(0);
            self.lose(oldest, lost);
        }
        self.open.push(gap);
    }

    /// Whether a number fills an open gap; the rest of the gap stays open.
    fn fill(&mut self, number: i64, lost: &mut u64) -> bool {
        let fits = |gap: &Gap| gap.first <= number && number <= gap.last;
        let Some(at) = self.open.iter().position(fits) else { return false };
        let gap = self.open.remove(at);
        self.wait_for(Gap { last: number - 1, ..gap }, lost);
        self.wait_for(Gap { first: number + 1, ..gap }, lost);
        true
    }
}

impl Gaps {
    /// Takes the next number of a key; returns how many are missing before it.
    fn follow(&mut self, key: &Key, number: i64, now: i64, metrics: &StreamMetrics) -> u64 {
        let (open, mut lost) = (self.open, 0);
        self.settle(now, &mut lost);
        let missing = self.place(self.hasher.hash_one(key), number, now, &mut lost, metrics);
        if lost > 0 || self.open != open {
            metrics.missing(lost, self.open);
        }
        missing
    }

    /// Finds the place of a number in the sequence of a key, by the key's hash; returns how many are missing before it.
    fn place(&mut self, key: u64, number: i64, now: i64, lost: &mut u64, metrics: &StreamMetrics) -> u64 {
        let Some(sequence) = self.sequences.get_mut(&key) else {
            if self.sequences.len() < FOLLOWED {
                self.sequences.insert(key, Sequence::new(number));
            }
            return 0;
        };
        let ahead = i128::from(number) - i128::from(sequence.last);
        let open = sequence.open_numbers();
        let fills = ahead < 0 && sequence.fill(number, lost);
        match ahead {
            1.. => {
                let shift = u32::try_from(ahead).unwrap_or(u32::MAX);
                let due = now.saturating_add(self.wait);
                let gap = Gap { first: sequence.last.saturating_add(1), last: number - 1, due };
                sequence.far_behind = 0;
                // The last number has arrived again.
                sequence.came =
                    sequence.came.checked_shl(shift).unwrap_or(0) | 1u64.checked_shl(shift - 1).unwrap_or(0);
                sequence.last = number;
                if gap.first <= gap.last {
                    sequence.wait_for(gap, lost);
                    if self.wait == 0 {
                        sequence.settle(now, lost);
                    } else {
                        self.waiting.push_back((gap.due, key));
                        self.open.due = gap.due;
                    }
                }
            }
            0 => metrics.count(FeedEvent::Doubled, 1),
            behind if fills || behind >= -i128::from(REORDERED) || !sequence.restarts(self.wait) => {
                let bit = u32::try_from(-behind - 1).ok().and_then(|back| 1u64.checked_shl(back)).unwrap_or(0);
                let event = if sequence.came & bit == 0 { FeedEvent::Reordered } else { FeedEvent::Doubled };
                sequence.came |= bit;
                metrics.count(event, 1);
            }
            _ => {
                sequence.settle(i64::MAX, lost);
                *sequence = Sequence { unreported: sequence.unreported, ..Sequence::new(number) };
            }
        }
        self.open.numbers = self.open.numbers.wrapping_sub(open).wrapping_add(sequence.open_numbers());
        std::mem::take(&mut sequence.unreported)
    }

    /// Adds the numbers that did not arrive in time to `lost`.
    fn settle(&mut self, now: i64, lost: &mut u64) {
        while self.waiting.len() > WAITING || self.waiting.front().is_some_and(|(due, _)| *due <= now) {
            let Some((due, key)) = self.waiting.pop_front() else { return };
            if let Some(sequence) = self.sequences.get_mut(&key) {
                let open = sequence.open_numbers();
                sequence.settle(due, lost);
                self.open.numbers = self.open.numbers.wrapping_sub(open).wrapping_add(sequence.open_numbers());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::metrics::RuleMetrics;
    use crate::value::json;

    fn feed(dedup: &[&str], gap: Option<(Option<&str>, &str)>) -> (Feed, Arc<StreamMetrics>, RuleMetrics) {
        waiting(dedup, gap, Duration::ZERO)
    }

    fn waiting(
        dedup: &[&str],
        gap: Option<(Option<&str>, &str)>,
        gap_wait: Duration,
    ) -> (Feed, Arc<StreamMetrics>, RuleMetrics) {
        let path = |text: &str| FieldPath::parse(text).expect("a path");
        let checks = FeedChecks {
            dedup: dedup.iter().copied().map(path).collect(),
            gap_key: gap.iter().filter_map(|(key, _)| key.map(path)).collect(),
            gap_sequence: gap.map(|(_, sequence)| path(sequence)),
            gap_wait,
        };
        // In these tests, the message is the only column.
        let feed = Feed::new(checks, |path| Located { path, start: Start::Column(0) }).expect("something is checked");
        let (stream, rule) = (Arc::new(StreamMetrics::default()), RuleMetrics::default());
        rule.join(&stream, true);
        (feed, stream, rule)
    }

    fn counts(rule: &RuleMetrics) -> Vec<(&'static str, u64)> {
        rule.feed().each().map(|(event, count)| (event.name(), count)).collect()
    }

    #[test]
    fn a_message_of_two_connections_counts_once() {
        let (mut feed, stream, rule) = feed(&["m->id"], None);
        let mut check = |text: &str| feed.check(&stream, 0, |_| Some(json::value(text)));
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
        assert_eq!(counts(&rule), [("duplicate", 1), ("without_dedup_key", 3)]);
    }

    #[test]
    fn a_key_of_several_fields_needs_all_of_them() {
        let (mut feed, stream, rule) = feed(&["m->channel", "m->seq"], None);
        let mut check = |text: &str| feed.check(&stream, 0, |_| Some(json::value(text)));
        for (text, passes) in [
            (r#"{"channel":1,"seq":12}"#, true),
            (r#"{"channel":11,"seq":2}"#, true),
            (r#"{"channel":1,"seq":12}"#, false),
            (r#"{"channel":1}"#, true),
            (r#"{"channel":1}"#, true),
        ] {
            assert_eq!(check(text) == Verdict::Passes(None), passes, "{text}");
        }
        assert_eq!(counts(&rule), [("duplicate", 1), ("without_dedup_key", 2)]);
    }

    #[test]
    fn a_field_that_no_message_has_is_named() {
        let (mut feed, stream, rule) = feed(&["m->a", "m->nosuch"], Some((Some("m->alsonot"), "m->n")));
        let mut messages = |from: i64, to: i64| {
            for n in from..to {
                let message = json::value(&format!("{{\"a\":1,\"n\":{n}}}"));
                assert_eq!(feed.check(&stream, 0, |_| Some(message.clone())), Verdict::Passes(Some(0)));
            }
        };
        messages(0, 99);
        assert_eq!(rule.oddities(), Vec::<String>::new());
        messages(99, 500);
        let odd = [
            "dedupKey m->a, m->nosuch was in none of the last 100 messages",
            "gapKey m->alsonot was in none of the last 100 messages",
        ];
        assert_eq!(rule.oddities(), odd);
        assert_eq!(counts(&rule), [("without_dedup_key", 500), ("without_gap_key", 500)]);
    }

    #[test]
    fn a_number_is_missing_once_it_has_not_come_in_time() {
        let (mut feed, stream, rule) = waiting(&[], Some((Some("m->k"), "m->n")), Duration::from_secs(1));
        let mut check = |now: i64, key: &str, number: i64| {
            let message = json::value(&format!("{{\"k\":\"{key}\",\"n\":{number}}}"));
            match feed.check(&stream, now, |_| Some(message.clone())) {
                Verdict::Passes(gap) => gap.unwrap_or(0),
                Verdict::Duplicate => unreachable!("nothing is checked for duplicates"),
            }
        };
        for (now, key, number, missing) in [
            (0, "a", 1, 0),
            // The first mirror loses 2, 4 and 5; the other delivers 2 and 4.
            (1, "a", 3, 0),
            (2, "a", 6, 0),
            (500, "a", 2, 0),
            (501, "a", 4, 0),
            (900, "a", 200, 0),
            // The other mirror is far behind.
            (901, "a", 100, 0),
            (1001, "b", 1, 0),
            (1002, "a", 201, 1),
            (1003, "a", 202, 0),
            // It is too late. 7 to 99 and 101 to 199 do not arrive.
            (1004, "a", 5, 0),
            (2000, "a", 203, 192),
            // The feed restarts.
            (2001, "a", 1, 0),
            (2002, "a", 2, 0),
            (2003, "a", 3, 0),
            (2004, "a", 4, 0),
            (2005, "a", 6, 0),
            (3005, "a", 7, 1),
        ] {
            assert_eq!(check(now, key, number), missing, "{now} {key} {number}");
        }
        assert_eq!(counts(&rule), [("missing", 1 + 93 + 99 + 1), ("reordered", 7)]);
    }

    #[test]
    fn what_is_due_is_missing_without_another_message() {
        let now = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later");
            i64::try_from(since.as_millis()).expect("it fits")
        };
        let hour = Duration::from_secs(3600);
        let (mut feed, stream, rule) = waiting(&[], Some((None, "m->n")), hour);
        let mut check =
            |now: i64, number: i64| feed.check(&stream, now, |_| Some(json::value(&format!("{{\"n\":{number}}}"))));
        check(now(), 1);
        check(now(), 5);
        assert!(counts(&rule).is_empty());
        check(now(), 3);
        assert_eq!(counts(&rule), [("reordered", 1)]);
        // Two hours ago the same would be due by now.
        let before = now() - 2 * 3_600_000;
        let (mut feed, stream, rule) = waiting(&[], Some((None, "m->n")), hour);
        let mut check =
            |now: i64, number: i64| feed.check(&stream, now, |_| Some(json::value(&format!("{{\"n\":{number}}}"))));
        check(before, 1);
        check(before, 5);
        check(before, 3);
        assert_eq!(counts(&rule), [("missing", 2), ("reordered", 1)]);
        // The next message reports them, and they are not counted again.
        assert_eq!(check(now(), 6), Verdict::Passes(Some(2)));
        assert_eq!(counts(&rule), [("missing", 2), ("reordered", 1)]);
    }

    #[test]
    fn numbers_of_a_sequence_are_followed_by_key() {
        let (mut feed, stream, rule) = feed(&[], Some((Some("m->k"), "m->n")));
        let mut check = |key: &str, number: i64| {
            feed.check(&stream, 0, |_| Some(json::value(&format!("{{\"k\":\"{key}\",\"n\":\"{number}\"}}"))))
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
        assert_eq!(feed.check(&stream, 0, |_| None), Verdict::Passes(Some(0)));
    }
}
