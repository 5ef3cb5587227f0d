//! The classes of 64 bytes of [`block`], for x86 processors with AVX2.
//!
//! Most machines have AVX2, but programs are compiled for those without it, so the processor is checked at run time.
//! [`container`](super::container) calls these functions from one that is compiled for the same features. They are safe
//! there; those that read pointers say why they may.

use std::arch::x86_64::*;

use super::block::{BRACE, Classes};

/// Whether this processor has the features that `finish_avx2` is compiled for.
pub(super) fn is_available() -> bool {
    // The standard library caches the answers: each costs a load and a test.
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("pclmulqdq")
}

/// As [`block::classes`](super::block::classes).
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn classes(bytes: &[u8; 64]) -> Classes {
    let (halves, _) = bytes.as_chunks();
    let halves = [load(&halves[0]), load(&halves[1])];
    let splat = |byte: u8| _mm256_set1_epi8(byte as i8);
    let mask = |halves: [__m256i; 2]| {
        let [low, high] = halves.map(|half| _mm256_movemask_epi8(half) as u32 as u64);
        low | high << 32
    };
    let equal = |halves: [__m256i; 2], byte: u8| mask(halves.map(|half| _mm256_cmpeq_epi8(half, splat(byte))));
    let at_most = |halves: [__m256i; 2], limit: u8| {
        mask(halves.map(|half| _mm256_cmpeq_epi8(_mm256_min_epu8(half, splat(limit)), half)))
    };
    let braces = halves.map(|half| _mm256_or_si256(half, splat(BRACE)));
    Classes {
        quote: equal(halves, b'"'),
        backslash: equal(halves, b'\\'),
        low: at_most(halves, b' '),
        space: equal(halves, b' '),
        comma: equal(halves, b','),
        colon: equal(halves, b':'),
        open: equal(braces, b'{'),
        close: equal(braces, b'}'),
        brace: equal(halves.map(|half| _mm256_and_si256(half, splat(BRACE))), BRACE),
        digit: at_most(halves.map(|half| _mm256_sub_epi8(half, splat(b'0'))), 9),
        zero: equal(halves, b'0'),
        point: equal(halves, b'.'),
        minus: equal(halves, b'-'),
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the reference is to 32 bytes, and the load needs no alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm256_loadu_si256(bytes.as_ptr().cast())
    }
}

/// As [`block::parity`](super::block::parity), computed as a carry-less product with all ones.
#[inline]
#[target_feature(enable = "pclmulqdq")]
pub(super) fn parity(bits: u64) -> u64 {
    let product = _mm_clmulepi64_si128::<0>(_mm_set_epi64x(0, bits as i64), _mm_set1_epi8(-1));
    _mm_cvtsi128_si64(product) as u64
}

/// How many of the last `length` bytes of `text` fit, as in [`shape`](super::shape). `None`: this processor has no AVX2,
/// or there are fewer than 32 bytes.
#[inline]
pub(super) fn fitting(text: &[u8], least: &[u8], greatest: &[u8], length: usize) -> Option<usize> {
    let enough = length.max(32);
    if text.len() < enough || least.len() < enough || greatest.len() < enough {
        return None;
    }
    if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("bmi1") {
        return None;
    }
    let ends = [text, least, greatest].map(|bytes| bytes.as_ptr_range().end);
    // SAFETY: the lines above have checked the features, and that as many bytes are before each end.
    #[allow(unsafe_code)]
    Some(unsafe { fitting_avx2(ends, length) })
}

/// # Safety
/// At least 32 bytes, and at least `length`, can be read before each of these ends: of the text, and of the least and
/// greatest bytes that fit.
#[inline(never)]
#[target_feature(enable = "avx2,bmi1")]
#[allow(unsafe_code)]
unsafe fn fitting_avx2(ends: [*const u8; 3], length: usize) -> usize {
    // A bit for each of the 32 bytes that begin this far before the ends.
    let fits = |before: usize| {
        // SAFETY: `before` is at least 32, and not above both 32 and `length`.
        let [bytes, least, greatest] = ends.map(|end| unsafe { _mm256_loadu_si256(end.sub(before).cast()) });
        let splat = |byte: u8| _mm256_set1_epi8(byte as i8);
        let special = _mm256_or_si256(_mm256_cmpeq_epi8(bytes, splat(b'"')), _mm256_cmpeq_epi8(bytes, splat(b'\\')));
        let within = _mm256_cmpeq_epi8(_mm256_min_epu8(_mm256_max_epu8(bytes, least), greatest), bytes);
        let misplaced = _mm256_andnot_si256(_mm256_cmpeq_epi8(bytes, least), special);
        _mm256_movemask_epi8(_mm256_andnot_si256(misplaced, within)) as u32
    };
    let mut left = length;
    while left >= 32 {
        let fits = fits(left);
        if fits != u32::MAX {
            return length - left + fits.trailing_ones() as usize;
        }
        left -= 32;
    }
    if left == 0 {
        return length;
    }
    // The last block begins earlier, perhaps before the bytes in question.
    let fits = fits(32) >> (32 - left);
    length - left + (fits.trailing_ones() as usize).min(left)
}

#[cfg(test)]
mod tests {
    use super::super::block;
    use super::*;

    proptest::proptest! {
        #[test]
        fn tells_the_same_apart_as_portable_code(bytes in proptest::array::uniform32(0u8..), word in 0u64..) {
            if is_available() {
                let mut both = [0; 64];
                both[..32].copy_from_slice(&bytes);
                both[32..].copy_from_slice(&bytes.map(|byte| byte.rotate_left(3)));
                // SAFETY: `is_available` has checked the features.
                #[allow(unsafe_code)]
                let (ours, parity) = unsafe { (classes(&both), parity(word)) };
                proptest::prop_assert_eq!(ours, block::classes(&both));
                proptest::prop_assert_eq!(parity, block::parity(word));
            }
        }
    }
}
