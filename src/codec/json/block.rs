//! Sixteen bytes of a text, looked at together.
//!
//! The questions that decide the speed of reading JSON are "where does this string end" and "where does this number
//! end". A [`Block`] answers them with a bit for each byte, so no loop runs over single bytes and no branch depends on
//! the length of a string or a number. `wide` maps it to the vector instructions that every processor of the target
//! has (SSE2, NEON), or to plain code.
//!
//! This module must not know what the bytes mean.

use wide::u8x16;

/// How many bytes a block has.
pub(super) const WIDTH: usize = 16;

/// Sixteen bytes.
#[derive(Clone, Copy)]
pub(super) struct Block(u8x16);

/// The block at `at`; behind the end of the text it is filled with zeros, which are neither digits nor text.
#[inline(always)]
pub(super) fn load(text: &[u8], at: usize) -> Block {
    match text.get(at..).and_then(|rest| rest.first_chunk::<WIDTH>()) {
        Some(bytes) => Block::new(bytes),
        None => load_end(text, at),
    }
}

#[inline(never)]
fn load_end(text: &[u8], at: usize) -> Block {
    let mut bytes = [0; WIDTH];
    if let Some(rest) = text.get(at..) {
        for (to, from) in bytes.iter_mut().zip(rest) {
            *to = *from;
        }
    }
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

    /// A bit for each byte that cannot stand in a string as it is: quote, backslash, control character.
    #[inline(always)]
    pub(super) fn stops(self) -> u32 {
        let quote = self.0.simd_eq(u8x16::splat(b'"'));
        let backslash = self.0.simd_eq(u8x16::splat(b'\\'));
        let control = self.0.min(u8x16::splat(0x1f)).simd_eq(self.0);
        (quote | backslash | control).to_bitmask()
    }
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
    }
}
