//! Checks that a text message is UTF-8, with SIMD.
//!
//! The standard library is as fast for ASCII, but takes a branch for each other character: 16 KiB with some accents take
//! it 9 µs, and simdutf8 1.4 µs.

use bytes::Bytes;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// The text of these bytes, without a copy; `None` if they are not UTF-8.
pub fn checked(bytes: Bytes) -> Option<Utf8Bytes> {
    simdutf8::basic::from_utf8(&bytes).ok()?;
    // SAFETY: these bytes were checked in the line above, and `Bytes` never change.
    #[allow(unsafe_code)]
    Some(unsafe { Utf8Bytes::from_bytes_unchecked(bytes) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text with characters of each length, cut and damaged at each place.
    #[test]
    fn it_accepts_what_the_standard_library_accepts() {
        let text = "0123456789abcdef é ß € ह 𐍈 0123456789abcdef0123456789abcdef0123456789abcdef ".repeat(2);
        let check = |bytes: &[u8]| {
            let checked = checked(Bytes::copy_from_slice(bytes));
            assert_eq!(checked.as_deref(), std::str::from_utf8(bytes).ok(), "{bytes:x?}");
        };
        for place in 0..text.len() {
            check(&text.as_bytes()[..place]);
            check(&text.as_bytes()[place..]);
            for byte in [0x00, 0x7f, 0x80, 0xbf, 0xc0, 0xc3, 0xe0, 0xed, 0xf0, 0xf4, 0xff] {
                let mut damaged = text.clone().into_bytes();
                damaged[place] = byte;
                check(&damaged);
            }
        }
    }
}
