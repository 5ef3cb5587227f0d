//! Matches up to 64 brackets at a time.
//!
//! Neighbours that open and close the same array or object are removed, all at once, until none are left. What remains
//! are brackets that close what earlier ones have opened, then brackets that stay open. Most texts need two rounds,
//! however many brackets there are, where a loop over brackets costs a branch for each that no processor can predict.
//!
//! This module does not know where brackets are in the text.

use super::skip::Open;

/// The open arrays and objects.
pub(super) struct Nesting {
    /// One bit each, ones are objects; the innermost is the lowest bit.
    kinds: u64,
    depth: u32,
}

/// The most open arrays and objects.
pub(super) const LEVELS: u32 = 62;

/// The brackets that one call matches.
pub(super) const MOST: u32 = 64;

/// Brackets in order, a bit for each in each word.
#[derive(Clone, Copy, Debug)]
pub(super) struct Brackets {
    pub(super) count: u32,
    pub(super) opens: u64,
    pub(super) braces: u64,
    /// The kind of bracket that must be around each one; a set bit is an object. A closing bracket is inside of the
    /// pair that it closes; an opening one after a colon is a member of an object.
    pub(super) around: u64,
}

/// The result of [`Nesting::take`].
#[derive(Debug, PartialEq)]
pub(super) enum Matched {
    All,
    /// The bracket with this number, from 0, closes the outermost array or object.
    Closed(u32),
    /// Two brackets do not match, something stands in the wrong kind of bracket, or there are more than [`LEVELS`].
    Wrong,
}

impl Nesting {
    /// `None`: there are more than [`LEVELS`].
    pub(super) fn new(open: &Open) -> Option<Nesting> {
        let depth = u32::try_from(open.depth).ok().filter(|depth| *depth <= LEVELS)?;
        let (mut rest, mut kinds) = (open.clone(), 0);
        for level in 0..depth {
            kinds |= (rest.object as u64) << level;
            rest.pop();
        }
        Some(Nesting { kinds, depth })
    }

    /// Matches the next brackets. At least one array or object is open before.
    ///
    /// `gather` moves the bits of its first argument that are at the ones of the second to the lowest places: [`gather`],
    /// or an instruction.
    #[inline(always)]
    pub(super) fn take(&mut self, brackets: Brackets, gather: impl Fn(u64, u64) -> u64) -> Matched {
        let Brackets { mut count, mut opens, mut braces, mut around } = brackets;
        let mut within = low(count);
        let mut wrong = opens & (braces ^ (around >> 1)) & (within >> 1) | (around ^ self.kinds) & within & 1;
        // What is around pairs at the end: bit 0 for an array, bit 1 for an object.
        let mut at_end = 0;
        loop {
            let pairs = opens & !(opens >> 1) & (within >> 1);
            if pairs == 0 {
                break;
            }
            // The same is around what comes after a pair as around the pair.
            wrong |= pairs & (around ^ (around >> 2)) & (within >> 2);
            at_end |= (pairs >> (count - 2) & 1) << (around >> (count - 2) & 1);
            let rest = within & !(pairs | pairs << 1);
            opens = gather(opens, rest);
            braces = gather(braces, rest);
            around = gather(around, rest);
            count = rest.count_ones();
            within = low(count);
        }
        let closes = opens.trailing_zeros().min(count);
        if closes >= self.depth {
            return self.close(brackets);
        }
        let more = count - closes;
        self.depth = self.depth - closes + more;
        if self.depth > LEVELS {
            return Matched::Wrong;
        }
        wrong |= (around ^ self.kinds) & within & low(closes + 1);
        let opened = braces >> closes;
        let opened = if more <= 1 { opened } else { opened.reverse_bits() >> (64 - more) };
        self.kinds = self.kinds >> closes << more | opened;
        wrong |= at_end & (2 >> (self.kinds & 1));
        if wrong == 0 { Matched::All } else { Matched::Wrong }
    }

    /// Matches brackets of which one closes the outermost array or object.
    #[inline(never)]
    fn close(&mut self, brackets: Brackets) -> Matched {
        for place in 0..brackets.count {
            let [opens, brace, in_object] =
                [brackets.opens, brackets.braces, brackets.around].map(|bits| bits >> place & 1);
            if in_object != self.kinds & 1 {
                return Matched::Wrong;
            }
            if opens == 1 {
                self.depth += 1;
                if self.depth > LEVELS {
                    return Matched::Wrong;
                }
                self.kinds = self.kinds << 1 | brace;
            } else {
                self.depth -= 1;
                self.kinds >>= 1;
                if self.depth == 0 {
                    return Matched::Closed(place);
                }
            }
        }
        Matched::Wrong
    }
}

/// The lowest `count` bits.
#[inline(always)]
pub(super) fn low(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// Moves the bits that are at the ones of `places` to the lowest places.
#[cfg(test)]
fn gather(bits: u64, mut places: u64) -> u64 {
    let (mut gathered, mut count) = (0, 0);
    while places != 0 {
        gathered |= (bits >> places.trailing_zeros() & 1) << count;
        places &= places - 1;
        count += 1;
    }
    gathered
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The same, one by one; `open` has the kinds, the innermost last.
    fn expected(open: &mut Vec<bool>, brackets: Brackets) -> Matched {
        for place in 0..brackets.count {
            let [opens, brace, in_object] =
                [brackets.opens, brackets.braces, brackets.around].map(|bits| bits >> place & 1 == 1);
            if open.last() != Some(&in_object) {
                return Matched::Wrong;
            }
            if opens {
                open.push(brace);
                continue;
            }
            open.pop();
            if open.is_empty() {
                return Matched::Closed(place);
            }
        }
        if open.len() > LEVELS as usize { Matched::Wrong } else { Matched::All }
    }

    /// Brackets, most of which match.
    fn brackets(random: &mut fastrand::Rng, open: &[bool], faults: bool) -> Brackets {
        let mut open = open.to_vec();
        let count = random.u32(..=MOST);
        let mut brackets = Brackets { count, opens: 0, braces: 0, around: 0 };
        let deep = random.u32(1..6);
        for place in 0..count {
            let around = open.last().copied().unwrap_or(false);
            let opens = random.u32(..10) < deep + 2 || open.is_empty();
            let brace = if opens { random.bool() } else { around };
            if opens {
                open.push(brace);
            } else {
                open.pop();
            }
            let flip = |random: &mut fastrand::Rng| faults && random.u8(..60) == 0;
            brackets.opens |= ((opens ^ flip(random)) as u64) << place;
            brackets.braces |= ((brace ^ flip(random)) as u64) << place;
            brackets.around |= ((around ^ flip(random)) as u64) << place;
        }
        // A closing bracket is inside of the pair that it closes.
        brackets.around = brackets.around & brackets.opens | brackets.braces & !brackets.opens;
        brackets
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 20 } else { 5_000 }))]

        #[test]
        fn the_same_as_one_by_one(seed in any::<u64>(), faults in any::<bool>()) {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut open, mut stack) = (Open::new(), Vec::new());
            for level in 0..random.usize(1..8) {
                let object = random.bool();
                open.push(object, 0, level).expect("it is not deep");
                stack.push(object);
            }
            let mut nesting = Nesting::new(&open).expect("it is not deep");
            for _ in 0..4 {
                let some = brackets(&mut random, &stack, faults);
                let found = nesting.take(some, gather);
                let expected = expected(&mut stack, some);
                prop_assert_eq!(&found, &expected, "{:b}", some.opens);
                if found != Matched::All {
                    break;
                }
            }
        }
    }

    #[test]
    fn levels_are_bounded() {
        let mut open = Open::new();
        for _ in 0..LEVELS {
            open.push(false, 0, 0).expect("it is not deep");
        }
        let opens = |count| Brackets { count, opens: low(count), braces: 0, around: 0 };
        assert_eq!(Nesting::new(&open).expect("just enough").take(opens(1), gather), Matched::Wrong);
        open.pop();
        assert_eq!(Nesting::new(&open).expect("enough").take(opens(1), gather), Matched::All);
        assert_eq!(Nesting::new(&open).expect("enough").take(opens(64), gather), Matched::Wrong);
        open.push(false, 0, 0).expect("it is not deep");
        open.push(false, 0, 0).expect("it is not deep");
        assert!(Nesting::new(&open).is_none());
    }
}
