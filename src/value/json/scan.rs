//! Finds the wanted fields of a message in one pass that also validates the whole message.
//!
//! The messages of one feed usually have the same keys in the same order. So for each key the scanner remembers what
//! followed it last time, as raw bytes from the comma before the next key to the start of its value. If the same bytes
//! come again, one comparison replaces reading separator, key and colon, and looking the key up. Bytes that were valid
//! once are valid again, so validation stays strict. The scanner also remembers the shape of the whole member
//! ([`shape`](super::shape)): if the next one has the same, nothing of it is read byte by byte. Shapes of members that
//! follow each other are compared as one ([`layout`](super::layout)).
//!
//! This module does not know what the values are for.

use std::collections::HashMap;
use std::ops::Range;

use super::known::{FIRST, Known, UNKNOWN, UNWANTED};
use super::layout::NOWHERE;
use super::skip::{self, blanks, byte};
use super::{JsonError, Problem, decode};
use crate::value::Text;

/// The keys to look for in a stream's messages. Built once, when rules come or go.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    keys: Vec<Text>,
    columns: HashMap<Text, u32>,
}

impl Wanted {
    /// Makes a set of keys. A key's column is its position among them; repeated keys are left out.
    pub fn new(keys: impl IntoIterator<Item = Text>) -> Wanted {
        let mut wanted = Wanted::default();
        for key in keys {
            let column = wanted.keys.len() as u32;
            if let std::collections::hash_map::Entry::Vacant(entry) = wanted.columns.entry(key.clone()) {
                entry.insert(column);
                wanted.keys.push(key);
            }
        }
        wanted
    }

    /// The keys, each at its column.
    pub fn keys(&self) -> &[Text] {
        &self.keys
    }

    /// The column of a key whose text between the quotes is `raw`.
    fn column(&self, raw: &str) -> Option<u32> {
        if raw.contains('\\') {
            self.columns.get(&decode::unescape(raw)).copied()
        } else {
            self.columns.get(raw).copied()
        }
    }
}

/// The positions of the wanted values of one object in the message. Reused for each object.
#[derive(Clone, Debug, Default)]
pub struct Spans {
    /// Start and end by column; an end of zero means that the key is absent.
    places: Vec<(u32, u32)>,
}

impl Spans {
    /// No columns.
    pub fn new() -> Self {
        Spans::default()
    }

    /// This many columns, all absent.
    pub(super) fn absent(columns: usize) -> Self {
        Spans { places: vec![(0, 0); columns] }
    }

    /// Makes all columns absent.
    pub(super) fn clear(&mut self) {
        self.places.fill((0, 0));
    }

    /// Sets the position of a column; the text is shorter than 4 GiB.
    pub(super) fn set(&mut self, column: usize, span: Range<usize>) {
        self.places[column] = (span.start as u32, span.end as u32);
    }

    /// The position of the column's value in the scanned text; `None` if the object does not have the key, or if there
    /// is no such column.
    #[inline]
    pub fn span(&self, column: usize) -> Option<Range<usize>> {
        match self.places.get(column) {
            Some(&(start, end)) if end != 0 => Some(start as usize..end as usize),
            _ => None,
        }
    }
}

/// Finds the wanted values in message after message. It learns the order of the keys.
#[derive(Clone, Debug)]
pub struct Scanner {
    wanted: Wanted,
    spans: Spans,
    known: Known,
    /// the most objects of an array
    most: usize,
}

impl Scanner {
    pub fn new(wanted: Wanted) -> Self {
        let spans = Spans::absent(wanted.keys.len());
        Scanner { wanted, spans, known: Known::default(), most: usize::MAX }
    }

    pub fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Sets how many objects an array may have; a longer one is refused.
    pub fn limit(&mut self, most: usize) {
        self.most = most;
    }

    /// Validates the message and calls `row` for its object, or for each object of its array in order, with the
    /// object's position and those of the wanted values. Returns the number of objects.
    ///
    /// Everything is validated before the first call, so an invalid message gives no rows.
    pub fn scan(&mut self, text: &str, mut row: impl FnMut(Range<usize>, &Spans)) -> Result<usize, JsonError> {
        let text = text.as_bytes();
        if u32::try_from(text.len()).is_err() {
            return Err(JsonError::new(0, Problem::TooLong));
        }
        let start = blanks(text, 0);
        match byte(text, start) {
            b'{' => {
                let end = self.object(text, start, 1)?;
                only_blanks(text, end)?;
                row(start..end, &self.spans);
                Ok(1)
            }
            b'[' => self.array(text, start, row),
            _ => Err(JsonError::new(start, Problem::NotObject)),
        }
    }

    /// Scans an array of objects. The first is scanned at once, since it is usually the only one; later ones are
    /// validated first and scanned afterwards.
    fn array(
        &mut self,
        text: &[u8],
        start: usize,
        mut row: impl FnMut(Range<usize>, &Spans),
    ) -> Result<usize, JsonError> {
        let first = blanks(text, start + 1);
        if byte(text, first) == b']' {
            only_blanks(text, first + 1)?;
            return Ok(0);
        }
        expect_object(text, first)?;
        let first_end = self.object(text, first, 2)?;
        let (mut at, mut elements) = (first_end, 1);
        while let Some(element) = next_element(text, at)? {
            elements += 1;
            if elements > self.most {
                return Err(JsonError::new(element, Problem::TooMany));
            }
            expect_object(text, element)?;
            at = skip::value(text, element, 1)?;
        }
        only_blanks(text, blanks(text, at) + 1)?;

        row(first..first_end, &self.spans);
        let mut rows = 1;
        at = first_end;
        while let Some(element) = next_element(text, at)? {
            at = self.object(text, element, 2)?;
            row(element..at, &self.spans);
            rows += 1;
        }
        Ok(rows)
    }

    /// Scans the object that starts at `start`, and returns the position after it. `depth` counts the open arrays and
    /// objects, including this one.
    #[inline]
    fn object(&mut self, text: &[u8], start: usize, depth: usize) -> Result<usize, JsonError> {
        self.spans.clear();
        self.known.begin();
        let mut at = start;
        let mut previous = FIRST;
        let mut next = self.known.first;
        // The place in the layout of a member that is known not to fit.
        let mut broken = NOWHERE;
        loop {
            // At this point the position is a brace or comma before a member.
            let Known { leads, layout, .. } = &mut self.known;
            let mut lead = leads.get_mut(next as usize);
            if let Some(lead) = &mut lead
                && let Some(shape) = &lead.shape
            {
                if lead.place != NOWHERE {
                    if lead.place != broken
                        && let Some(run) = layout.run(lead.place, text, at, &mut self.spans.places)
                    {
                        if run.ends {
                            return Ok(run.end + 1);
                        }
                        (previous, at, broken) = (run.last, run.end, run.broken);
                        next = leads.get(previous as usize).map_or(UNKNOWN, |lead| lead.next);
                        continue;
                    }
                } else if let Some(end) = shape.fits(text, at) {
                    let ends = shape.ends;
                    lead.hit();
                    if let Some(place) = self.spans.places.get_mut(lead.column as usize) {
                        *place = (at as u32 + lead.length, end as u32);
                    }
                    if ends {
                        return Ok(end + 1);
                    }
                    (previous, next, at) = (next, lead.next, end);
                    continue;
                }
            }
            let before = at;
            let mut missed = None;
            let (value, column) = if let Some(lead) = lead
                && lead.stands_at(text, at)
            {
                missed = Some(next);
                previous = next;
                next = lead.next;
                // The remembered bytes end with the colon, so white space may come before the value.
                (blanks(text, at + lead.length as usize), lead.column)
            } else if let Some(other) = self.known.other(previous, text, at) {
                self.known.follow(previous, other);
                next = other;
                continue;
            } else if let Some(found) = self.unexpected(text, at, &mut previous)? {
                next = self.known.leads.get(previous as usize).map_or(UNKNOWN, |lead| lead.next);
                found
            } else {
                return Ok(blanks(text, at + 1) + 1);
            };
            at = skip::value(text, value, depth)?;
            if let Some(place) = self.spans.places.get_mut(column as usize) {
                *place = (value as u32, at as u32);
            }
            if let Some(number) = missed
                && let Some(lead) = self.known.leads.get_mut(number as usize)
                && lead.fails()
            {
                self.known.missed(number, text, before, value, at);
            }
            if byte(text, at) != b',' {
                at = blanks(text, at);
                match byte(text, at) {
                    b',' => {}
                    b'}' => return Ok(at + 1),
                    _ => return Err(JsonError::new(at, Problem::CommaOrBrace)),
                }
            }
        }
    }

    /// Reads an unexpected member: the brace or comma at `at`, a key, a colon. Returns the start of the value and its
    /// column, or `None` for the empty object.
    #[inline(never)]
    fn unexpected(&mut self, text: &[u8], at: usize, previous: &mut u32) -> Result<Option<(usize, u32)>, JsonError> {
        let quote = blanks(text, at + 1);
        if byte(text, quote) == b'}' && byte(text, at) == b'{' {
            return Ok(None);
        }
        let value = skip::key(text, quote)?;
        let lead = &text[at..value];
        let found = match self.known.find(lead) {
            Some(found) => found,
            None => {
                let end = skip::string(text, quote + 1)? - 1;
                // The whole text is valid UTF-8, and a quote is never part of a longer character.
                let raw = std::str::from_utf8(&text[quote + 1..end]).unwrap_or_default();
                let column = self.wanted.column(raw).unwrap_or(UNWANTED);
                match self.known.learn(lead, column) {
                    Some(new) => new,
                    None => {
                        *previous = UNKNOWN;
                        return Ok(Some((value, column)));
                    }
                }
            }
        };
        self.known.follow(*previous, found);
        *previous = found;
        Ok(Some((value, self.known.leads[found as usize].column)))
    }
}

/// The start of the element after a comma, or `None` at the closing bracket. `at` is the end of an element.
fn next_element(text: &[u8], at: usize) -> Result<Option<usize>, JsonError> {
    let at = blanks(text, at);
    match byte(text, at) {
        b',' => Ok(Some(blanks(text, at + 1))),
        b']' => Ok(None),
        _ => Err(JsonError::new(at, Problem::CommaOrBracket)),
    }
}

fn expect_object(text: &[u8], at: usize) -> Result<(), JsonError> {
    if byte(text, at) == b'{' { Ok(()) } else { Err(JsonError::new(at, Problem::NotObject)) }
}

/// Only white space may follow the message's value.
pub(super) fn only_blanks(text: &[u8], at: usize) -> Result<(), JsonError> {
    let at = blanks(text, at);
    if at < text.len() { Err(JsonError::new(at, Problem::Trailing)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(keys: &[&str], text: &str) -> Result<Vec<Vec<Option<String>>>, JsonError> {
        let mut scanner = Scanner::new(Wanted::new(keys.iter().map(|key| Text::new(key))));
        // Twice, so that the second pass uses remembered keys.
        let mut results = (0..2).map(|_| {
            let mut rows = Vec::new();
            scanner.scan(text, |_, spans| {
                rows.push((0..keys.len()).map(|i| spans.span(i).map(|span| text[span].to_owned())).collect());
            })?;
            Ok(rows)
        });
        let (first, second) = (results.next(), results.next());
        assert_eq!(first, second);
        first.unwrap_or_else(|| Ok(Vec::new()))
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(if cfg!(miri) { 5 } else { 300 }))]

        #[test]
        fn what_was_learned_changes_no_result(seed in proptest::prelude::any::<u64>(), faults in 0..2u8) {
            let mut random = fastrand::Rng::with_seed(seed);
            let wanted = || Wanted::new(["a", "b", "c"].map(Text::new));
            let mut scanner = Scanner::new(wanted());
            for _ in 0..200 {
                let digits = random.u32(1..4);
                let number = random.u32(1..10u32.pow(digits));
                let text = ["x", "y1", "\\n", "é"][random.usize(..4)];
                let truth = random.u8(..8) != 0;
                let mut message = format!(
                    r#"{{"a":{number}.5,"b":"{text}-{number:03}","k":{{"a":[{number},"{text}"]}},"c":{truth}}}"#
                );
                if faults > 0 && random.u8(..4) == 0 {
                    let at = random.usize(..message.len());
                    let byte = char::from(b"\"\\{}[],:10-.e \n\x02t"[random.usize(..17)]);
                    if message.is_char_boundary(at) && message.is_char_boundary(at + 1) {
                        message.replace_range(at..at + 1, byte.encode_utf8(&mut [0; 4]));
                    }
                }
                let places = |scanner: &mut Scanner| {
                    let mut found = Vec::new();
                    let rows = scanner.scan(&message, |object, spans| found.push((object, [0, 1, 2].map(|i| spans.span(i)))));
                    rows.map(|_| found)
                };
                proptest::prop_assert_eq!(places(&mut scanner), places(&mut Scanner::new(wanted())), "{}", message);
            }
        }
    }

    /// Messages of a feed: some of two kinds, with members that come and go and change their lengths.
    struct Feed {
        random: fastrand::Rng,
        digits: [u32; 8],
        steady: u8,
    }

    impl Feed {
        fn message(&mut self) -> String {
            let random = &mut self.random;
            let kind = if random.u8(..4) == 0 { "z" } else { "a" };
            let mut text = String::from("{");
            for (place, digits) in self.digits.iter_mut().enumerate() {
                if random.u8(..32) >= self.steady {
                    if random.bool() {
                        *digits = random.u32(1..6);
                    } else {
                        continue;
                    }
                }
                let key = if place == 0 { kind } else { &"abcdefgh"[place..=place] };
                let number = random.u32(10u32.pow(*digits - 1)..10u32.pow(*digits));
                let value = match place % 4 {
                    0 => format!("{number}"),
                    1 => format!("\"é{number}\""),
                    2 => format!("{{\"x\":[{number},true],\"y\":\"\\n\"}}"),
                    _ => format!("-{number}.25"),
                };
                let space = if random.u8(..64) >= self.steady * 2 { " " } else { "" };
                let comma = if text.len() > 1 { "," } else { "" };
                text.push_str(&format!("{comma}\"{key}\":{space}{value}{space}"));
            }
            text.push('}');
            text
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 500 }))]

        #[test]
        fn what_was_learned_from_a_feed_changes_no_result(
            seed in proptest::prelude::any::<u64>(), steady in 24..=32u8, faulty in proptest::prelude::any::<bool>(),
        ) {
            let mut feed = Feed { random: fastrand::Rng::with_seed(seed), digits: [1, 2, 3, 4, 5, 4, 3, 2], steady };
            let wanted = || Wanted::new(["a", "c", "h", "d", "x"].map(Text::new));
            let mut scanner = Scanner::new(wanted());
            for _ in 0..if cfg!(miri) { 20 } else { 300 } {
                let mut message = feed.message();
                if feed.random.u8(..16) == 0 {
                    message = format!("[{message},{},{}]", feed.message(), feed.message());
                }
                if faulty && feed.random.u8(..4) == 0 {
                    let at = feed.random.usize(..message.len());
                    let byte = char::from(b"\"\\{}[],:10-.e \n\x02t"[feed.random.usize(..17)]);
                    if message.is_char_boundary(at) && message.is_char_boundary(at + 1) {
                        message.replace_range(at..at + 1, byte.encode_utf8(&mut [0; 4]));
                    }
                    if feed.random.u8(..4) == 0 {
                        let end = (0..at).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
                        message.truncate(end);
                    }
                }
                let places = |scanner: &mut Scanner| {
                    let mut found = Vec::new();
                    let row = |object, spans: &Spans| found.push((object, [0, 1, 2, 3, 4].map(|i| spans.span(i))));
                    scanner.scan(&message, row).map(|_| found)
                };
                proptest::prop_assert_eq!(places(&mut scanner), places(&mut Scanner::new(wanted())), "{}", message);
            }
        }
    }

    #[test]
    fn spans_of_wanted_keys() {
        let some = |text: &str| Some(text.to_owned());
        let text = r#" {"a" : 1 , "b":[1,{"a":2}],"c":"x\"","\u0061": 3e2,"d":null} "#;
        let found = rows(&["a", "b", "e", "c", "d"], text);
        assert_eq!(found, Ok(vec![vec![some("3e2"), some(r#"[1,{"a":2}]"#), None, some(r#""x\"""#), some("null")]]));
        assert_eq!(rows(&["a"], r#"[{"a":1},{}, {"a":2}]"#), Ok(vec![vec![some("1")], vec![None], vec![some("2")]]));
        assert_eq!(rows(&["a"], r#"{"a":1,"b":2,"a": 3}"#), Ok(vec![vec![some("3")]]));
        assert_eq!(rows(&["a"], "[ ]"), Ok(vec![]));
        assert_eq!(rows(&["a"], " { } "), Ok(vec![vec![None]]));
    }
}
