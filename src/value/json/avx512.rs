//! 512 bits at once, for x86 processors with AVX-512: a bit for each byte of eight [`block`](super::block)s.
//!
//! The functions are safe in others that are compiled for the same features: they read no pointers.

use std::arch::x86_64::*;

/// A bit for each byte; the lowest bit of the first word is the first byte.
pub(super) type Bits = __m512i;

/// The number of bytes that [`Bits`] describe.
pub(super) const BYTES: usize = 512;

/// Whether this processor has the features of this module, and those of `group`.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("gfni")
        && is_x86_feature_detected!("vpclmulqdq")
        && is_x86_feature_detected!("popcnt")
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn and(a: Bits, b: Bits) -> Bits {
    _mm512_and_si512(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn or(a: Bits, b: Bits) -> Bits {
    _mm512_or_si512(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn or3(a: Bits, b: Bits, c: Bits) -> Bits {
    or(or(a, b), c)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn xor(a: Bits, b: Bits) -> Bits {
    _mm512_xor_si512(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn not(a: Bits) -> Bits {
    xor(a, all())
}

/// Those of `a` that are not in `b`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn less(a: Bits, b: Bits) -> Bits {
    _mm512_andnot_si512(b, a)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn all() -> Bits {
    _mm512_set1_epi64(-1)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn none() -> Bits {
    _mm512_setzero_si512()
}

/// Bits of which only the last word will be read.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn ending(word: u64) -> Bits {
    _mm512_set1_epi64(word as i64)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn any(a: Bits) -> bool {
    _mm512_test_epi64_mask(a, a) != 0
}

/// Whether the last byte's bit is set.
#[inline]
#[target_feature(enable = "avx512dq")]
pub(super) fn has_last(a: Bits) -> bool {
    _mm512_movepi64_mask(a) >> 7 == 1
}

/// Words without a zero.
#[inline]
#[target_feature(enable = "avx512dq")]
pub(super) fn full_words(a: Bits) -> Bits {
    _mm512_movm_epi64(_mm512_cmpeq_epi64_mask(a, all()))
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn words(a: Bits) -> [u64; 8] {
    let half = |half: __m256i| {
        [
            _mm256_extract_epi64::<0>(half) as u64,
            _mm256_extract_epi64::<1>(half) as u64,
            _mm256_extract_epi64::<2>(half) as u64,
            _mm256_extract_epi64::<3>(half) as u64,
        ]
    };
    let ([a, b, c, d], [e, f, g, h]) = (half(_mm512_castsi512_si256(a)), half(_mm512_extracti64x4_epi64::<1>(a)));
    [a, b, c, d, e, f, g, h]
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn of_words(words: [u64; 8]) -> Bits {
    // The compiler turns four loads into one.
    let half = |first: usize| {
        let word = |i: usize| words[first + i] as i64;
        _mm256_set_epi64x(word(3), word(2), word(1), word(0))
    };
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(half(0)), half(4))
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(bytes: &[u8; 64]) -> __m512i {
    let (words, _) = bytes.as_chunks::<8>();
    of_words([0, 1, 2, 3, 4, 5, 6, 7].map(|i| u64::from_le_bytes(words[i])))
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(bytes: &mut [u8; 64], from: __m512i) {
    let (places, _) = bytes.as_chunks_mut::<8>();
    for (place, word) in places.iter_mut().zip(words(from)) {
        *place = word.to_le_bytes();
    }
}

/// Moves each bit to the next position. `last` has the bits before these, and is set to these.
#[inline]
#[target_feature(enable = "avx512vbmi2")]
pub(super) fn behind(bits: Bits, last: &mut Bits) -> Bits {
    let before = _mm512_alignr_epi64::<7>(bits, *last);
    *last = bits;
    _mm512_shldi_epi64::<1>(bits, before)
}

/// Adds two numbers of 512 bits, and the carry, which is 0 or 1.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn add(a: Bits, b: Bits, carry: &mut u32) -> Bits {
    let sum = _mm512_add_epi64(a, b);
    let over = _mm512_cmplt_epu64_mask(sum, a) as u32;
    let full = _mm512_cmpeq_epi64_mask(sum, all()) as u32;
    // Adding a carry to a word that is full makes another one: this is an addition, too.
    let carries = (over << 1 | *carry) + full;
    *carry = carries >> 8;
    _mm512_mask_sub_epi64(sum, (carries ^ full) as u8, sum, all())
}

/// Moves each bit that is on a blank to the first position after the blanks.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn settle(bits: Bits, blank: Bits, carry: &mut u32) -> Bits {
    less(or(add(and(bits, blank), blank, carry), bits), blank)
}

/// As [`block::parity`](super::block::parity). `odd` is all ones if the number of bits before is odd.
#[inline]
#[target_feature(enable = "avx512dq,vpclmulqdq")]
pub(super) fn parity(bits: Bits, odd: &mut u8) -> Bits {
    let even_words = _mm512_clmulepi64_epi128::<0x00>(bits, all());
    let odd_words = _mm512_clmulepi64_epi128::<0x01>(bits, all());
    let each = _mm512_unpacklo_epi64(even_words, odd_words);
    let mut through = _mm512_movepi64_mask(each);
    through ^= through << 1;
    through ^= through << 2;
    through ^= through << 4;
    let flipped = through << 1 ^ *odd;
    *odd ^= (through as i8 >> 7) as u8;
    _mm512_mask_xor_epi64(each, flipped, each, all())
}

/// The eight bits of each byte, the lowest first. Classes of bytes are arithmetic on these.
#[inline]
#[target_feature(enable = "avx512bw,avx512vbmi,gfni")]
pub(super) fn planes(bytes: &[u8; BYTES]) -> [Bits; 8] {
    let (blocks, _) = bytes.as_chunks::<64>();
    // Each 8 bytes are a matrix of bits, which a product with a diagonal one turns. It counts rows from the last.
    let diagonal = _mm512_set1_epi64(0x8040_2010_0804_0201_u64 as i64);
    let last_first =
        _mm512_set4_epi64(0x0809_0a0b_0c0d_0e0f, 0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f, 0x0001_0203_0405_0607);
    let plane = |plane: i64| 0x3830_2820_1810_0800 + plane * 0x0101_0101_0101_0101;
    let by_plane = of_words([0, 1, 2, 3, 4, 5, 6, 7].map(|i| plane(i) as u64));
    let rows = [0, 1, 2, 3, 4, 5, 6, 7].map(|i| {
        let turned = _mm512_gf2p8affine_epi64_epi8::<0>(diagonal, _mm512_shuffle_epi8(load(&blocks[i]), last_first));
        _mm512_permutexvar_epi8(by_plane, turned)
    });
    // Row i has word i of each plane: this turns the matrix of words.
    let pair = |i: usize| (_mm512_unpacklo_epi64(rows[i], rows[i + 1]), _mm512_unpackhi_epi64(rows[i], rows[i + 1]));
    let four = |a: Bits, b: Bits| (_mm512_shuffle_i64x2::<0x88>(a, b), _mm512_shuffle_i64x2::<0xdd>(a, b));
    let pairs = [pair(0), pair(2), pair(4), pair(6)];
    let (low04, low26) = four(pairs[0].0, pairs[1].0);
    let (low15, low37) = four(pairs[0].1, pairs[1].1);
    let (high04, high26) = four(pairs[2].0, pairs[3].0);
    let (high15, high37) = four(pairs[2].1, pairs[3].1);
    let (p0, p4) = four(low04, high04);
    let (p2, p6) = four(low26, high26);
    let (p1, p5) = four(low15, high15);
    let (p3, p7) = four(low37, high37);
    [p0, p1, p2, p3, p4, p5, p6, p7]
}
