//! Compares sixteen bytes of a text at once.
//!
//! The speed of reading JSON depends on two questions: "where does this string end" and "where does this number end". A
//! [`Block`] answers them with a bit for each byte, without a loop over single bytes or a branch that depends on
//! lengths. `wide` maps it to the vector instructions that every processor of the target has (SSE2, NEON), or to plain
//! code.
//!
//! This module does not know what the bytes mean.

use wide::u8x16;

/// The number of bytes in a block.
pub(super) const WIDTH: usize = 16;

#[derive(Clone, Copy)]
pub(super) struct Block(u8x16);

/// Loads the block at `at`. Past the end of the text it is filled with zeros, which are neither digits nor text.
#[inline(always)]
pub(super) fn load(text: &[u8], at: usize) -> Block {
    match text.get(at..).and_then(|rest| rest.first_chunk::<WIDTH>()) {
        Some(bytes) => Block::new(bytes),
        None => load_end(text, at),
    }
}

#[inline(never)]
fn load_end(text: &[u8], at: usize) -> Block {
    let rest = text.len().saturating_sub(at);
    let bytes = match text.last_chunk::<WIDTH>() {
        _ if rest == 0 => [0; WIDTH],
        Some(last) => (u128::from_le_bytes(*last) >> ((WIDTH - rest) * 8)).to_le_bytes(),
        None => {
            let mut bytes = [0; WIDTH];
            bytes[..rest].copy_from_slice(&text[at..]);
            bytes
        }
    };
    Block::new(&bytes)
}

impl Block {
    #[inline(always)]
    pub(super) fn new(bytes: &[u8; WIDTH]) -> Self {
        Block(u8x16::new(*bytes))
    }

    /// A bit for each byte that is a digit; the lowest bit is the first byte.
    #[inline(always)]
    pub(super) fn digits(self) -> u32 {
        let value = self.0 - u8x16::splat(b'0');
        value.min(u8x16::splat(9)).simd_eq(value).to_bitmask()
    }

    /// A bit for each byte that must not occur unescaped in a string: quote, backslash, control character.
    #[inline(always)]
    pub(super) fn stops(self) -> u32 {
        let quote = self.0.simd_eq(u8x16::splat(b'"'));
        let backslash = self.0.simd_eq(u8x16::splat(b'\\'));
        let control = self.0.min(u8x16::splat(0x1f)).simd_eq(self.0);
        (quote | backslash | control).to_bitmask()
    }

    #[inline(always)]
    fn at_most(self, byte: u8) -> u32 {
        self.0.min(u8x16::splat(byte)).simd_eq(self.0).to_bitmask()
    }

    /// The same bytes with these bits set in each.
    #[inline(always)]
    fn with(self, bits: u8) -> Block {
        Block(self.0 | u8x16::splat(bits))
    }

    #[inline(always)]
    fn equal(self, byte: u8) -> u32 {
        self.0.simd_eq(u8x16::splat(byte)).to_bitmask()
    }
}

/// The classes of bytes that JSON's grammar needs, for a block of 64: a bit for each byte; the lowest bit is the first
/// byte.
#[derive(Debug, PartialEq)]
pub(super) struct Classes {
    pub(super) quote: u64,
    pub(super) backslash: u64,
    /// A space or a control character.
    pub(super) low: u64,
    pub(super) space: u64,
    pub(super) comma: u64,
    pub(super) colon: u64,
    /// `[` and `{`.
    pub(super) open: u64,
    /// `]` and `}`.
    pub(super) close: u64,
    /// For brackets: set for `{` and `}`. Undefined for other bytes.
    pub(super) brace: u64,
    pub(super) digit: u64,
    /// The digit 0.
    pub(super) zero: u64,
    pub(super) point: u64,
    pub(super) minus: u64,
}

/// The bit that distinguishes `{` and `}` from `[` and `]`.
pub(super) const BRACE: u8 = b'{' ^ b'[';

#[inline(always)]
pub(super) fn classes(bytes: &[u8; 64]) -> Classes {
    let (blocks, _) = bytes.as_chunks::<WIDTH>();
    #[inline(always)]
    fn each(blocks: &[[u8; WIDTH]], test: impl Fn(Block) -> u32) -> u64 {
        blocks.iter().enumerate().fold(0, |bits, (i, block)| bits | (test(Block::new(block)) as u64) << (i * WIDTH))
    }
    Classes {
        quote: each(blocks, |block| block.equal(b'"')),
        backslash: each(blocks, |block| block.equal(b'\\')),
        low: each(blocks, |block| block.at_most(b' ')),
        space: each(blocks, |block| block.equal(b' ')),
        comma: each(blocks, |block| block.equal(b',')),
        colon: each(blocks, |block| block.equal(b':')),
        open: each(blocks, |block| block.with(BRACE).equal(b'{')),
        close: each(blocks, |block| block.with(BRACE).equal(b'}')),
        brace: each(blocks, |block| Block(block.0 & u8x16::splat(BRACE)).equal(BRACE)),
        digit: each(blocks, Block::digits),
        zero: each(blocks, |block| block.equal(b'0')),
        point: each(blocks, |block| block.equal(b'.')),
        minus: each(blocks, |block| block.equal(b'-')),
    }
}

/// Each bit becomes the parity of itself and all lower bits. If the bits are quotes, the result is ones from each
/// opening quote up to just before the closing one.
#[inline(always)]
pub(super) fn parity(mut bits: u64) -> u64 {
    for distance in [1, 2, 4, 8, 16, 32] {
        bits ^= bits << distance;
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_told_apart() {
        for byte in 0..=255u8 {
            for place in 0..WIDTH {
                for fill in [b'x', b'0', 0x80, 0xff] {
                    let mut bytes = [fill; WIDTH];
                    bytes[place] = byte;
                    let of = |test: &dyn Fn(u8) -> bool| {
                        bytes.iter().enumerate().map(|(i, b)| (test(*b) as u32) << i).sum::<u32>()
                    };
                    let block = Block::new(&bytes);
                    assert_eq!(of(&|b| b.is_ascii_digit()), block.digits());
                    assert_eq!(of(&|b| b == b'"' || b == b'\\' || b < 0x20), block.stops());
                }
            }
        }
    }

    #[test]
    fn behind_the_end_are_zeros() {
        assert_eq!(load(b"12", 0).digits(), 0b11);
        assert_eq!(load(b"12", 1).stops(), 0xffff & !1);
        assert_eq!(load(b"12", 7).stops(), 0xffff);
        assert_eq!(load(b"0123456789abcdef012", 16).digits(), 0b111);
    }
}
