//! As [`container`](super::container), 512 bytes at a time, for processors with AVX-512.
//!
//! The words of `container` are vectors of eight words here, and its arithmetic is the same. Three things differ:
//! - Classes come from the eight bits of each byte: a few instructions turn 512 bytes into eight vectors, and each class
//!   is arithmetic on these.
//! - A colon, or a value without a key, is carried to the next bracket. That bracket tells in which kind of bracket it
//!   is: a closing one by itself, an opening one by whether it follows a colon.
//! - Whether brackets match is decided 64 at a time ([`nesting`](super::nesting)).

use std::arch::x86_64::*;

use super::DEPTH_LIMIT;
use super::avx512::{
    BYTES, Bits, add, and, any, behind, ending, full_words, has_last, less, load, none, not, of_words, or, or3, parity,
    planes, settle, store, words, xor,
};
use super::container::{Last, escaped, singles, through};
use super::nesting::{self, Brackets, LEVELS, Matched, Nesting, low};

/// So many arrays and objects may be open around the text: with them, no text that is found valid is nested too deeply.
pub(super) const MOST_OUTER: usize = DEPTH_LIMIT - (LEVELS + nesting::MOST) as usize;

/// The end of the outermost array or object of `nesting`, as [`container::end`](super::container::end). `last` is the
/// state before `base`.
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,pclmulqdq")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vbmi,avx512vbmi2,gfni,vpclmulqdq")]
pub(super) fn end(text: &[u8], mut base: usize, mut nesting: Nesting, last: &Last) -> Option<usize> {
    let mut in_string = last.in_string as u8;
    let (mut escape, mut single) = (last.escaped, last.single);
    // A fraction or a key continues.
    let mut run = (last.fraction | last.key) as u32;
    let mut last = Before {
        scalar: ending(last.scalar),
        digit: ending(last.digit),
        minus: ending(last.minus),
        point: ending(last.point),
        leading_zero: ending(last.leading_zero),
        value_end: ending(last.value_end),
        key_end: ending(last.key_end),
        open: ending(last.open),
        comma: ending(last.comma),
    };
    // Positions after blanks that continue.
    let mut over = [0; 4];
    let (mut value_before, mut member_before) = (0, 0);
    let mut found = [0; BYTES + 64];
    let mut padded;
    while base < text.len() {
        let bytes = match text[base..].first_chunk::<BYTES>() {
            Some(bytes) => bytes,
            None => {
                padded = [b' '; BYTES];
                padded[..text.len() - base].copy_from_slice(&text[base..]);
                &padded
            }
        };
        let [b0, b1, b2, b3, b4, b5, b6, b7] = planes(bytes);
        let low_half = not(or(b7, b6));
        let control = less(low_half, b5);
        // 0x2_, 0x3_; 0x5_ and 0x7_; those that end with 101_ and 110_.
        let (x2, x3) = (less(and(low_half, b5), b4), and(and(low_half, b5), b4));
        let x57 = less(and(b6, b4), b7);
        let (ends_101, ends_110) = (less(and(b3, b1), b2), less(and(b3, b2), b1));
        let quote = less(and(x2, b1), or3(b3, b2, b0));
        let backslash = less(and(x57, ends_110), or(b5, b0));

        // Strings, including the opening quote and excluding the closing one.
        let mut quotes = quote;
        let mut wrong = none();
        if escape != 0 || any(backslash) {
            let behind_backslash = behind(backslash, &mut none());
            let (x6, x7) = (less(and(b6, b5), or(b7, b4)), less(and(b6, b5), less(b7, b4)));
            let x7 = and(less(x7, b7), b4);
            let slash = and(and(x2, b3), and(and(b2, b1), b0));
            let b_or_f = less(and(x6, b1), or(b3, b0));
            let n = less(and(and(x6, b3), and(b2, b1)), b0);
            let r_or_t = less(and(x7, xor(b2, b1)), or(b3, b0));
            let simple = or(or3(quote, backslash, slash), or3(b_or_f, n, r_or_t));
            let is_simple = escape == 0
                && !any(and(backslash, behind_backslash))
                && !any(less(behind_backslash, simple))
                && !has_last(backslash);
            if is_simple {
                quotes = less(quotes, behind_backslash);
            } else {
                let (mut all, mut wrongs) = ([0; 8], [0; 8]);
                for (i, backslash) in words(backslash).into_iter().enumerate() {
                    if backslash | escape != 0 {
                        all[i] = escaped(text, base + i * 64, backslash, &mut escape, &mut wrongs[i]);
                    }
                }
                quotes = less(quotes, of_words(all));
                wrong = of_words(wrongs);
            }
        }
        let in_string = parity(quotes, &mut in_string);
        let outside = not(or(in_string, quotes));
        let (opening, closing) = (and(quotes, in_string), less(quotes, in_string));
        let space = less(x2, or(or(b3, b2), or(b1, b0)));
        let blank = and(or(control, space), outside);
        // Line breaks and tabs: 0x09, 0x0a, 0x0d.
        let ends_001_010_101 = or(less(xor(b1, b0), b2), less(and(b2, b0), b1));
        let white = less(and(and(control, b3), ends_001_010_101), b4);
        wrong = or(wrong, less(control, less(white, in_string)));
        let comma = and(less(and(x2, ends_110), b0), outside);
        let colon = and(less(and(x3, ends_101), b0), outside);
        let open = and(and(and(x57, ends_101), b0), outside);
        let close = and(and(and(x57, ends_110), b0), outside);

        // Numbers and literals.
        let scalar = less(outside, or(or3(blank, comma, colon), or(open, close)));
        let behind_scalar = behind(scalar, &mut last.scalar);
        let start = less(scalar, behind_scalar);
        let digits = less(x3, and(b3, or(b2, b1)));
        let points = less(and(and(x2, b3), and(b2, b1)), b0);
        let minuses = and(and(x2, ends_110), b0);
        let mut other = less(scalar, or3(digits, points, minuses));
        let mut number = scalar;
        if any(other) {
            let (literal, broken) = literals([b0, b1, b2, b3, b4, b5, b6, b7], scalar, start);
            wrong = or(wrong, broken);
            number = less(number, literal);
            other = less(other, literal);
        }
        if single != 0 || any(other) {
            let (mut all, mut wrongs) = ([0; 8], [0; 8]);
            let starts = words(start);
            for (i, other) in words(other).into_iter().enumerate() {
                all[i] = std::mem::take(&mut single);
                if other & !all[i] != 0 {
                    all[i] |= singles(text, base + i * 64, other & !all[i], starts[i], &mut single, &mut wrongs[i]);
                }
            }
            number = less(number, of_words(all));
            wrong = or(wrong, of_words(wrongs));
        }
        let (digit, point, minus) = (and(digits, number), and(points, number), and(minuses, number));
        let behind_minus = behind(minus, &mut last.minus);
        let behind_point = behind(point, &mut last.point);
        let behind_digit = behind(digit, &mut last.digit);
        let leading_zero = less(and(or(start, behind_minus), digit), or(or(b3, b2), or(b1, b0)));
        wrong = or3(wrong, less(minus, start), and(or(start, not(behind_digit)), point));
        wrong = or3(wrong, less(or(behind_minus, behind_point), digits), full_words(scalar));
        wrong = or(wrong, and(behind(leading_zero, &mut last.leading_zero), digit));

        // The rules of order that do not depend on which bracket is open.
        let mut after_value = or(behind(or(closing, close), &mut last.value_end), less(behind_scalar, scalar));
        let mut after_open = behind(open, &mut last.open);
        let mut after_comma = behind(comma, &mut last.comma);
        let spaced = over != [0; 4] || any(blank);
        if spaced {
            after_value = settle(after_value, blank, &mut over[0]);
            after_open = settle(after_open, blank, &mut over[1]);
            after_comma = settle(after_comma, blank, &mut over[2]);
        }
        let after_separator = or(after_open, after_comma);
        // Fractions and keys have no position in common, so one addition carries both to their ends.
        let begins = or(and(behind_point, digit), and(opening, after_separator));
        let carried = add(or(digit, in_string), begins, &mut run);
        let mut after_key = behind(and(carried, closing), &mut last.key_end);
        if spaced {
            after_key = settle(after_key, blank, &mut over[3]);
        }
        wrong = or3(wrong, less(and(carried, point), digit), and(or3(opening, start, open), after_value));
        wrong = or3(wrong, less(or3(comma, colon, less(close, after_open)), after_value), less(colon, after_key));

        // The rules that depend on it.
        let bracket = or(open, close);
        let between = not(bracket);
        let member = less(open, after_separator);
        let in_object = or(member, and(close, b5));
        let value = or(less(after_key, colon), and(start, after_separator));
        let after_some_value = or(add(and(value, between), between, &mut value_before), value);
        let after_some_member = add(colon, between, &mut member_before);
        wrong = or(wrong, and(bracket, or(and(after_some_value, in_object), less(after_some_member, in_object))));

        // Brackets, the members among them with the highest bit set.
        let brackets = words(bracket);
        let (blocks, _) = bytes.as_chunks::<64>();
        let mut count = 0;
        for (i, member) in words(member).into_iter().enumerate() {
            let block = load(&blocks[i]);
            let marked = _mm512_mask_add_epi8(block, member, block, _mm512_set1_epi8(i8::MIN));
            // There are at most `BYTES`.
            if let Some(place) = found[count..].first_chunk_mut() {
                store(place, _mm512_maskz_compress_epi8(brackets[i], marked));
            }
            count += brackets[i].count_ones() as usize;
        }
        let mut matched = 0;
        while matched < count
            && let Some(some) = found[matched..].first_chunk()
        {
            let some = load(some);
            let count = (count - matched).min(64) as u32;
            let with = |bit: u8| _mm512_test_epi8_mask(some, _mm512_set1_epi8(bit as i8)) & low(count);
            let (opens, braces) = (with(OPENS), with(BRACE));
            let around = braces & !opens | with(MEMBER);
            match nesting.take(Brackets { count, opens, braces, around }, |bits, places| _pext_u64(bits, places)) {
                Matched::All => matched += 64,
                Matched::Closed(last) => return closed(base, words(wrong), brackets, matched as u32 + last),
                Matched::Wrong => return None,
            }
        }
        if any(wrong) {
            return None;
        }
        base += BYTES;
    }
    None
}

/// The positions of true, false and null, and of those that are wrong in them. Not of those that begin among the last
/// bytes, where they may not be complete.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi2")]
fn literals([b0, b1, b2, b3, b4, b5, b6, b7]: [Bits; 8], scalar: Bits, start: Bits) -> (Bits, Bits) {
    let start =
        and(start, of_words([u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX >> 5]));
    let letter = less(and(b6, b5), b7);
    let (x6, x7) = (less(letter, b4), and(letter, b4));
    let a = less(and(x6, b0), or3(b3, b2, b1));
    let e = less(and(x6, and(b2, b0)), or(b3, b1));
    let f = less(and(x6, and(b2, b1)), or(b3, b0));
    let l = less(and(x6, and(b3, b2)), or(b1, b0));
    let n = less(and(x6, and(b3, and(b2, b1))), b0);
    let r = less(and(x7, b1), or3(b3, b2, b0));
    let s = less(and(x7, and(b1, b0)), or(b3, b2));
    let t = less(and(x7, b2), or3(b3, b1, b0));
    let u = less(and(x7, and(b2, b0)), or(b3, b1));
    let next = |bits: Bits| behind(bits, &mut none());
    let (t0, f0, n0) = (and(t, start), and(f, start), and(n, start));
    let (t1, f1, n1) = (next(t0), next(f0), next(n0));
    let (t2, f2, n2) = (next(t1), next(f1), next(n1));
    let (t3, f3, n3) = (next(t2), next(f2), next(n2));
    let f4 = next(f3);
    let wrong = or3(less(t1, r), less(f1, a), less(n1, u));
    let wrong = or3(wrong, less(t2, u), less(or(f2, n2), l));
    let wrong = or3(wrong, less(or(t3, f4), e), less(f3, s));
    let wrong = or3(wrong, less(n3, l), and(next(or3(t3, f4, n3)), scalar));
    (or(or3(or3(t0, f0, n0), or3(t1, f1, n1), or3(t2, f2, n2)), or(or3(t3, f3, n3), f4)), wrong)
}

/// The bits that tell brackets apart, and the one that is added.
const OPENS: u8 = 0x02;
const BRACE: u8 = 0x20;
const MEMBER: u8 = 0x80;

/// The bits before those of a group; only the last one is read.
struct Before {
    scalar: Bits,
    digit: Bits,
    minus: Bits,
    point: Bits,
    leading_zero: Bits,
    value_end: Bits,
    key_end: Bits,
    open: Bits,
    comma: Bits,
}

/// The position after the bracket with this number in the group, if nothing is wrong before it.
fn closed(base: usize, wrong: [u64; 8], brackets: [u64; 8], number: u32) -> Option<usize> {
    let mut rest = number;
    for (i, mut here) in brackets.into_iter().enumerate() {
        let count = here.count_ones();
        if rest >= count {
            if wrong[i] != 0 {
                return None;
            }
            rest -= count;
            continue;
        }
        for _ in 0..rest {
            here &= here - 1;
        }
        let last = here & here.wrapping_neg();
        return (wrong[i] & through(last) == 0).then(|| base + i * 64 + last.trailing_zeros() as usize + 1);
    }
    None
}
