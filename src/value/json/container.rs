//! Validates a large array or object 64 bytes at a time, and finds its end.
//!
//! Going from token to token costs a branch for each, which no processor can predict. Here each class of bytes is a
//! word with one bit a byte, and the grammar is arithmetic on these words. The classes are those of stage 1 of simdjson
//! (Langdale and Lemire, "Parsing Gigabytes of JSON per Second", 2019). In addition, the form of numbers and the order
//! of tokens are checked for all 64 bytes together; only brackets, escapes, literals and exponents are visited one by
//! one.
//!
//! This module answers yes or no. [`skip`] checks the same grammar token by token, and tells where and why a text is
//! invalid. Where the processor has AVX-512, [`group`](super::group) goes on 512 bytes at a time. The tests compare all
//! of them.

use std::sync::LazyLock;

use super::block::{self, Classes};
#[cfg(target_arch = "x86_64")]
use super::nesting::Nesting;
use super::skip::{self, Open, byte};
use super::{DEPTH_LIMIT, number};

/// From this length on, bytes, this is faster than going from token to token.
pub(super) const LARGE: usize = 128;

/// After this many bytes, and if as many are left, groups are faster than blocks.
const GROUPS_FROM: usize = 256;

/// The instructions that a function is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The highest level that this processor has.
static LEVEL: LazyLock<Level> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    if super::avx2::is_available() {
        return if super::avx512::is_available() { Level::Avx512 } else { Level::Avx2 };
    }
    Level::Portable
});

/// Returns the position after the array or object that starts at `at`, with `outer` more open around it. `None`: it is
/// invalid, or it has a number of 64 characters or more, which only [`skip`] can check.
pub(super) fn end(text: &[u8], at: usize, outer: usize) -> Option<usize> {
    end_at(*LEVEL, text, at, outer)
}

/// The same for the rest of an array from `at`, the position after a comma between two of its elements.
pub(super) fn end_of_rest(text: &[u8], at: usize, outer: usize) -> Option<usize> {
    let mut walk = Walk::new(text, outer);
    walk.open.push(false, outer, at).ok()?;
    walk.last.comma = 1 << 63;
    finish(*LEVEL, walk, at)
}

/// The same; `level` is at most [`LEVEL`].
fn end_at(level: Level, text: &[u8], at: usize, outer: usize) -> Option<usize> {
    finish(level, Walk::new(text, outer), at)
}

/// Goes on from `at` to the end.
fn finish(level: Level, walk: Walk<'_>, at: usize) -> Option<usize> {
    match level {
        Level::Portable => walk_on(walk, at, block::classes, block::parity, |_, _| None),
        // SAFETY: `LEVEL` has checked that the processor has each feature that the function is compiled for.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Level::Avx2 => unsafe { finish_avx2(walk, at) },
        // SAFETY: as before.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Level::Avx512 => unsafe { finish_avx512(walk, at) },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,pclmulqdq")]
fn finish_avx2(walk: Walk<'_>, at: usize) -> Option<usize> {
    walk_on(walk, at, |bytes| super::avx2::classes(bytes), |bits| super::avx2::parity(bits), |_, _| None)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512vbmi2,gfni,vpclmulqdq")]
fn finish_avx512(walk: Walk<'_>, at: usize) -> Option<usize> {
    let groups = |walk: &Walk<'_>, base| {
        let nesting = Nesting::new(&walk.open).filter(|_| walk.outer <= super::group::MOST_OUTER)?;
        Some(super::group::end(walk.text, base, nesting, &walk.last))
    };
    walk_on(walk, at, |bytes| super::avx2::classes(bytes), |bits| super::avx2::parity(bits), groups)
}

/// `classes` and `parity` are the variants of [`block`]'s functions for this processor. `groups` goes on to the end from
/// a position, if it can. Everything is inlined into one function, so that all of it is compiled for the same features.
#[inline(always)]
fn walk_on(
    mut walk: Walk<'_>,
    at: usize,
    classes: impl Fn(&[u8; 64]) -> Classes,
    parity: impl Fn(u64) -> u64,
    groups: impl Fn(&Walk<'_>, usize) -> Option<Option<usize>>,
) -> Option<usize> {
    let text = walk.text;
    let mut base = at;
    while base < text.len() {
        if base == at + GROUPS_FROM
            && text.len() - base >= GROUPS_FROM
            && let Some(end) = groups(&walk, base)
        {
            return end;
        }
        let classes = match text.get(base..).and_then(|rest| rest.first_chunk::<64>()) {
            Some(bytes) => classes(bytes),
            None => {
                let mut bytes = [b' '; 64];
                bytes[..text.len() - base].copy_from_slice(&text[base..]);
                classes(&bytes)
            }
        };
        match walk.block(base, classes, &parity) {
            Step::Next => base += 64,
            Step::Ends(end) => return Some(end),
            Step::Wrong => return None,
        }
    }
    None
}

enum Step {
    Next,
    /// The array or object ends before this position.
    Ends(usize),
    Wrong,
}

struct Walk<'a> {
    text: &'a [u8],
    outer: usize,
    open: Open,
    last: Last,
}

/// What carries over from one block to the next: words of the previous block, whose highest bit counts.
#[derive(Default)]
pub(super) struct Last {
    /// all ones inside a string
    pub(super) in_string: u64,
    /// 1: the first byte of this block is escaped
    pub(super) escaped: u64,
    /// the first bytes that belong to a literal or a number with an exponent, already validated
    pub(super) single: u64,
    /// 1: a fraction continues
    pub(super) fraction: u64,
    /// 1: a key continues
    pub(super) key: u64,
    pub(super) scalar: u64,
    pub(super) digit: u64,
    pub(super) minus: u64,
    pub(super) point: u64,
    pub(super) leading_zero: u64,
    pub(super) value_end: u64,
    pub(super) key_end: u64,
    pub(super) open: u64,
    pub(super) comma: u64,
}

/// Moves each bit to the next position. `last` has the bits of the previous block, and is set to those of this one.
#[inline(always)]
fn behind(bits: u64, last: &mut u64) -> u64 {
    let behind = bits << 1 | *last >> 63;
    *last = bits;
    behind
}

/// Moves each bit that is on a blank to the first position after the blanks; a bit that leaves the block becomes the
/// highest bit of `last`.
#[inline(always)]
fn settle(bits: u64, blank: u64, last: &mut u64) -> u64 {
    let (moved, over) = (bits & blank).overflowing_add(blank);
    *last |= (over as u64) << 63;
    (moved | bits) & !blank
}

impl<'a> Walk<'a> {
    fn new(text: &'a [u8], outer: usize) -> Walk<'a> {
        Walk { text, outer, open: Open::new(), last: Last::default() }
    }

    #[inline(always)]
    fn block(&mut self, base: usize, classes: Classes, parity: impl Fn(u64) -> u64) -> Step {
        let last = &mut self.last;
        let mut wrong = 0;

        // Strings, including the opening quote and excluding the closing one.
        let mut quotes = classes.quote;
        if classes.backslash | last.escaped != 0 {
            quotes &= !escaped(self.text, base, classes.backslash, &mut last.escaped, &mut wrong);
        }
        let control = classes.low & !classes.space;
        if quotes == 0 && last.in_string != 0 {
            // The whole block is inside a string.
            return if wrong | control != 0 { Step::Wrong } else { Step::Next };
        }
        let in_string = parity(quotes) ^ last.in_string;
        last.in_string = ((in_string as i64) >> 63) as u64;
        let outside = !(in_string | quotes);
        let (opening, closing) = (quotes & in_string, quotes & !in_string);
        let blank = classes.low & outside;
        if control != 0 {
            wrong |= control & in_string | not_blanks(self.text, base, control & outside);
        }
        let (comma, colon) = (classes.comma & outside, classes.colon & outside);
        let (open, close) = (classes.open & outside, classes.close & outside);

        // Numbers and literals.
        let scalar = outside & !(classes.low | comma | colon | open | close);
        let behind_scalar = behind(scalar, &mut last.scalar);
        let start = scalar & !behind_scalar;
        let mut single = std::mem::take(&mut last.single);
        let other = scalar & !(classes.digit | classes.point | classes.minus | single);
        if other != 0 {
            single |= singles(self.text, base, other, start, &mut last.single, &mut wrong);
        }
        let number = scalar & !single;
        let (digit, point, minus) = (classes.digit & number, classes.point & number, classes.minus & number);
        let behind_minus = behind(minus, &mut last.minus);
        let behind_point = behind(point, &mut last.point);
        let first = (start | behind_minus) & digit;
        let behind_digit = behind(digit, &mut last.digit);
        // Adding the first digit of each fraction carries to the position after the fraction.
        let (sum, over) = digit.overflowing_add(behind_point & digit);
        let (sum, over_too) = sum.overflowing_add(last.fraction);
        last.fraction = (over | over_too) as u64;
        wrong |= minus & !start
            | (start | !behind_digit | sum & !digit) & point
            | (behind_minus | behind_point) & !classes.digit
            | behind(first & classes.zero, &mut last.leading_zero) & digit
            // A number that fills a block is left to the caller.
            | (scalar == u64::MAX) as u64;

        // The rules of order that do not depend on which bracket is open.
        let mut after_value = behind(closing | close, &mut last.value_end) | behind_scalar & !scalar;
        let mut after_open = behind(open, &mut last.open);
        let mut after_comma = behind(comma, &mut last.comma);
        if blank != 0 {
            after_value = settle(after_value, blank, &mut last.value_end);
            after_open = settle(after_open, blank, &mut last.open);
            after_comma = settle(after_comma, blank, &mut last.comma);
        }
        let (sum, over) = in_string.overflowing_add(opening & (after_open | after_comma));
        let (sum, over_too) = sum.overflowing_add(last.key);
        last.key = (over | over_too) as u64;
        let mut after_key = behind(sum & closing, &mut last.key_end);
        if blank != 0 {
            after_key = settle(after_key, blank, &mut last.key_end);
        }
        wrong |= (opening | start | open) & after_value
            | (comma | colon | close & !after_open) & !after_value
            | colon & !after_key;

        // The rules that depend on whether an object or an array is open.
        let wrong_in_object = wrong | after_key & !colon | after_comma & !opening | after_open & !(opening | close);
        let wrong_in_array = wrong | colon;
        // Bits at which an object is open, from the highest bracket so far on.
        let mut objects = if self.open.object { u64::MAX } else { 0 };
        let mut brackets = open | close;
        while brackets != 0 {
            let bracket = brackets & brackets.wrapping_neg();
            let rest = brackets ^ bracket;
            let object = classes.brace & bracket != 0;
            if open & bracket != 0 {
                let next = rest & rest.wrapping_neg();
                let same = close & next != 0 && (classes.brace & next != 0) == object;
                if same && self.open.depth > 0 && self.open.depth + self.outer < DEPTH_LIMIT {
                    // Nothing is nested in it, and it ends within this block.
                    let within = through(next) & !through(bracket);
                    objects = if object { objects | within } else { objects & !within };
                    brackets = rest ^ next;
                    continue;
                }
                if self.open.push(object, self.outer, base).is_err() {
                    return Step::Wrong;
                }
            } else {
                if self.open.depth == 0 || self.open.object != object {
                    return Step::Wrong;
                }
                self.open.pop();
                if self.open.depth == 0 {
                    let wrong = wrong_in_object & objects | wrong_in_array & !objects;
                    let end = base + bracket.trailing_zeros() as usize + 1;
                    return if wrong & through(bracket) == 0 { Step::Ends(end) } else { Step::Wrong };
                }
            }
            let above = !through(bracket);
            objects = if self.open.object { objects | above } else { objects & !above };
            brackets = rest;
        }
        let wrong = wrong_in_object & objects | wrong_in_array & !objects;
        if wrong == 0 { Step::Next } else { Step::Wrong }
    }
}

/// The bit and all lower bits.
#[inline(always)]
pub(super) fn through(bit: u64) -> u64 {
    bit | (bit - 1)
}

/// Checks each literal and each number with an exponent: those scalars that have one of the bytes `other`. Returns the
/// positions of the valid ones; positions in the next block go into `next`.
#[inline(never)]
pub(super) fn singles(text: &[u8], base: usize, mut other: u64, start: u64, next: &mut u64, wrong: &mut u64) -> u64 {
    let mut single = 0;
    while other != 0 {
        let place = other.trailing_zeros();
        let starts = start & below(place as usize + 1);
        let first = match starts {
            0 => base - text[..base].iter().rev().take(64).take_while(|byte| in_scalar(**byte)).count(),
            _ => base + 63 - starts.leading_zeros() as usize,
        };
        let end = match byte(text, first) {
            b'-' | b'0'..=b'9' => number::end(text, first),
            _ => skip::literal(text, first),
        };
        match end {
            Ok(end) if end > base + place as usize && end < base + 128 && !in_scalar(byte(text, end)) => {
                let through = below(end - base);
                single |= through & !below(first.saturating_sub(base));
                *next = below(end.saturating_sub(base + 64));
                other &= !through;
            }
            _ => {
                *wrong |= 1 << place;
                other &= other - 1;
            }
        }
    }
    single
}

/// Whether a byte outside strings continues the number or literal before it.
fn in_scalar(byte: u8) -> bool {
    !matches!(byte, 0..=b' ' | b',' | b':' | b'[' | b']' | b'{' | b'}' | b'"')
}

/// The lowest `count` bits.
#[inline(always)]
fn below(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// The positions that a backslash escapes; those of invalid escapes go into `wrong`.
#[inline(never)]
pub(super) fn escaped(text: &[u8], base: usize, mut backslash: u64, carry: &mut u64, wrong: &mut u64) -> u64 {
    let mut escaped = std::mem::take(carry);
    backslash &= !escaped;
    while backslash != 0 {
        let place = backslash.trailing_zeros();
        let at = base + place as usize;
        if !matches!(byte(text, at + 1), b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') {
            *wrong |= (skip::escape(text, at).is_err() as u64) << place;
        }
        let next = (1 << place) << 1;
        *carry = (next == 0) as u64;
        escaped |= next;
        backslash &= (backslash - 1) & !next;
    }
    escaped
}

/// Which of these control characters outside strings are not white space.
#[inline(never)]
fn not_blanks(text: &[u8], base: usize, mut control: u64) -> u64 {
    let mut wrong = 0;
    while control != 0 {
        let place = control.trailing_zeros();
        if !matches!(byte(text, base + place as usize), b'\n' | b'\t' | b'\r') {
            wrong |= 1 << place;
        }
        control &= control - 1;
    }
    wrong
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Tokens for random texts; many are wrong wherever they stand.
    #[rustfmt::skip]
    const TOKENS: [&str; 40] = [
        "{", "}", "[", "]", ",", ":", "\"a\"", "\"\"", "\"x\\\"y\"", "\"\\u12ab\"", "\"\\u12g\"", "\"\\q\"", "\"\n\"", "\"é\"", "1",
        "0", "-", "1.5", "01", "1.", "-0.5", ".5", "1e5", "1E+5", "-2e-07", "1e", "1e999", "true", "fals", "null", " ", "  ",
        "\n", "\t", "\u{1}", "é", "\\", "1.2.3", "-1-2",
        "\"a text that is longer than a block of sixty-four bytes, with [brackets], {braces}, 1.5\"",
    ];

    struct Generator {
        random: fastrand::Rng,
        /// one position in this many has white space; 0: none
        blanks: usize,
        text: String,
    }

    impl Generator {
        fn pick<'a>(&mut self, choice: &[&'a str]) -> &'a str {
            choice[self.random.usize(..choice.len())]
        }

        fn blank(&mut self) {
            if self.blanks > 0 && self.random.usize(..self.blanks) == 0 {
                for _ in 0..self.random.usize(..4) {
                    let blank = self.pick(&[" ", "\n", "\t", "\r"]);
                    self.text.push_str(blank);
                }
            }
        }

        fn value(&mut self, depth: usize) {
            match self.random.u8(..if depth > 4 { 6 } else { 10 }) {
                0 => self.text.push_str(&self.random.i32(..).to_string()),
                1 => self.text.push_str(&(self.random.i32(..) as f64 / 100.0).to_string()),
                2 => {
                    let literal = self.pick(&["true", "false", "null", "0", "-0.5"]);
                    self.text.push_str(literal);
                }
                3 => self.text.push_str(&format!("{:e}", self.random.f64() * 1e20)),
                4 | 5 => {
                    self.text.push('"');
                    for _ in 0..self.random.usize(..30) {
                        let part =
                            self.pick(&["a", "\\n", "\\\"", "\\\\", "é", "{", "]", ",", ":", " ", "\\u00e9", "0"]);
                        self.text.push_str(part);
                    }
                    self.text.push('"');
                }
                kind => self.container(kind < 8, depth + 1),
            }
        }

        fn container(&mut self, object: bool, depth: usize) {
            self.text.push(if object { '{' } else { '[' });
            self.blank();
            for i in 0..self.random.usize(..6) {
                if i > 0 {
                    self.text.push(',');
                    self.blank();
                }
                if object {
                    let key = self.pick(&["\"k\"", "\"key\\\"\"", "\"\"", "\"a long key, with: {things} in it\""]);
                    self.text.push_str(key);
                    self.blank();
                    self.text.push(':');
                    self.blank();
                }
                self.value(depth);
                self.blank();
            }
            self.text.push(if object { '}' } else { ']' });
        }

        /// A valid array or object, or one with a few characters changed.
        fn nearly_valid(&mut self) {
            let start = self.text.len();
            let object = self.random.bool();
            self.container(object, 0);
            if self.random.bool() {
                let mut chars: Vec<char> = self.text.split_off(start).chars().collect();
                for _ in 0..self.random.usize(1..3) {
                    let at = self.random.usize(1..chars.len());
                    match self.random.u8(..3) {
                        0 if chars.len() > 2 => drop(chars.remove(at)),
                        1 => chars.insert(at, *b"\"\\{}[],:10-.e \n\x02t".map(char::from).get(at % 17).unwrap_or(&'x')),
                        _ => chars.swap(at, 1.max(at / 2)),
                    }
                }
                self.text.extend(chars);
            }
            let rest = self.pick(&["", ",\"x\":1}", "]", " ,", "\"", "x"]);
            self.text.push_str(rest);
        }

        /// Tokens in random order.
        fn tokens(&mut self) {
            self.text.push_str(if self.random.bool() { "{" } else { "[" });
            for _ in 0..self.random.usize(1..15) {
                let token = self.pick(&TOKENS);
                self.text.push_str(token);
            }
        }
    }

    /// The levels that this processor has.
    fn available() -> impl Iterator<Item = Level> {
        let all = [
            Level::Portable,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512,
        ];
        all.into_iter().filter(|level| *level <= *LEVEL)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 20 } else { 20_000 }))]

        #[test]
        fn the_same_is_valid_as_token_by_token(seed in any::<u64>(), at in 0..70usize, blanks in 0..4usize, form in any::<bool>()) {
            let mut generator = Generator { random: fastrand::Rng::with_seed(seed), blanks, text: " ".repeat(at) };
            if form { generator.nearly_valid() } else { generator.tokens() }
            let text = generator.text.as_bytes();
            let expected = skip::tokens(text, at, 1).ok();
            for level in available() {
                prop_assert_eq!(end_at(level, text, at, 1), expected, "{:?}: {}", level, &generator.text);
            }
        }
    }

    proptest! {
        // The texts are ten times as long.
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 1_000 }))]

        #[test]
        fn long_texts_too(seed in any::<u64>(), at in 0..70usize, blanks in 0..4usize, count in 0..60usize) {
            let mut generator = Generator { random: fastrand::Rng::with_seed(seed), blanks, text: " ".repeat(at) };
            generator.text.push('[');
            for _ in 0..count {
                let object = generator.random.bool();
                generator.container(object, 2);
                generator.text.push(',');
            }
            generator.nearly_valid();
            generator.text.push(']');
            let text = generator.text.as_bytes();
            let expected = skip::tokens(text, at, 1).ok();
            for level in available() {
                prop_assert_eq!(end_at(level, text, at, 1), expected, "{:?}: {}", level, &generator.text);
            }
        }
    }

    #[test]
    fn values_at_the_end_of_a_group() {
        #[rustfmt::skip]
        let values = [
            "true", "false", "null", "tru", "truee", "fals", "falsey", "nul", "nulll", "t", "nan", "True", "true1", "1true",
            "1.5e10", "1.5e", "-0.5", "-", "01", "1.", "12345678", r#""\n""#, r#""\""#, r#""\u00e9""#, r#""\u00e""#, r#""é\\""#,
            "[[]]", "[{}]", "{}", r#"{"a":[]}"#, r#"{"a" :1}"#, r#"{"a"}"#, "[1:2]", "{1}", "]", "[}",
        ];
        // Groups begin at 256, so one ends at 768.
        for (place, value) in (744..770).flat_map(|place| values.map(|value| (place, value))) {
            let text = format!("[{}{}{value} , {}0]", "1,".repeat(360), " ".repeat(place - 721), "[2],".repeat(80));
            let expected = skip::tokens(text.as_bytes(), 0, 1).ok();
            for level in available() {
                assert_eq!(end_at(level, text.as_bytes(), 0, 1), expected, "{level:?}: {value} at {place}");
            }
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        for (levels, outer) in [(DEPTH_LIMIT, 0), (DEPTH_LIMIT - 3, 3), (DEPTH_LIMIT + 1, 0), (DEPTH_LIMIT - 2, 3)] {
            let text = nested(levels);
            let expected = (levels + outer <= DEPTH_LIMIT).then_some(text.len());
            assert_eq!(skip::tokens(text.as_bytes(), 0, outer).ok(), expected);
            assert_eq!(end_at(Level::Portable, text.as_bytes(), 0, outer), expected, "{levels} in {outer}");
            for found in available().map(|level| end_at(level, text.as_bytes(), 0, outer)) {
                assert!(found.is_none() || found == expected, "{levels} in {outer}");
            }
        }
    }

    #[test]
    fn long_numbers_are_left_to_others() {
        for digits in [63, 64, 200, 400] {
            let text = format!("[{}{}]", "1,".repeat(200), "9".repeat(digits));
            for found in available().map(|level| end_at(level, text.as_bytes(), 0, 0)) {
                assert!(found.is_none() || found == Some(text.len()), "{digits}");
                assert!(digits < 309 || found.is_none());
            }
        }
    }
}
