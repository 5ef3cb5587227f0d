//! The shape of a member: what may stand at each of its bytes, if it is like the one before.
//!
//! In most feeds, numbers keep their number of digits and texts their length for a while. So a scanner remembers, for a
//! member that it has validated, which bytes would make another one of the same length valid: any digit where a digit
//! was, any character of a text where one was, and otherwise the same byte. Whether the next member is such a one is
//! a comparison of sixteen bytes at a time, whatever is in it: numbers, texts, small objects. A member of another shape
//! is not invalid; it has to be read.
//!
//! This module does not know which member a shape belongs to.

use wide::u8x16;

/// The number of bytes that are compared at once.
const WIDTH: usize = 16;

/// A bit for each of them.
const ALL: u32 = (1 << WIDTH) - 1;

/// The longest shape in bytes. Its memory is twice as long.
pub(super) const LONGEST: usize = 128;

/// The shape of a member, from the comma or brace before its key to the one after its value.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// all but the last bytes
    first: Box<[Part]>,
    /// the last sixteen bytes, some of which are also in `first`; all of a shorter member, and what follows it
    last: Part,
    /// a bit for each byte of `last` that follows a shorter member
    beyond: u32,
    length: usize,
    /// whether a brace follows the value
    pub(super) ends: bool,
}

impl Shape {
    /// The shape of a valid member: `lead` is everything before its value, `end` the byte after it. `None`: other values
    /// of this length may be invalid, or it is too long.
    #[inline(never)]
    pub(super) fn of(lead: &[u8], value: &[u8], end: u8) -> Option<Shape> {
        let length = lead.len() + value.len() + 1;
        if length > LONGEST || !matches!(end, b',' | b'}') {
            return None;
        }
        let mut allowed = Allowed::any();
        for (place, byte) in lead.iter().enumerate() {
            allowed.only(place, *byte);
        }
        let mut before = b' ';
        let mut within = false;
        // Bytes of an escape that follow.
        let mut escape = 0;
        for (index, byte) in value.iter().copied().enumerate() {
            let place = lead.len() + index;
            match byte {
                _ if escape > 0 => {
                    allowed.only(place, byte);
                    escape = if before == b'\\' && byte == b'u' { 4 } else { escape - 1 };
                }
                b'\\' => {
                    allowed.only(place, byte);
                    escape = 1;
                }
                b'"' => {
                    within = !within;
                    allowed.only(place, byte);
                }
                _ if within => allowed.text(place),
                // Another exponent could be beyond the range.
                b'e' | b'E' if before.is_ascii_digit() => return None,
                b'0'..=b'9' => {
                    let begins = !matches!(before, b'0'..=b'9' | b'.');
                    let more = value.get(index + 1).is_some_and(u8::is_ascii_digit);
                    allowed.digit(place, if begins && more { b'1' } else { b'0' });
                }
                _ => allowed.only(place, byte),
            }
            // An escaped backslash begins no escape.
            before = if before == b'\\' { b' ' } else { byte };
        }
        allowed.only(length - 1, end);
        let last = length.saturating_sub(WIDTH);
        let first = (0..last).step_by(WIDTH).map(|place| allowed.part(place)).collect();
        let beyond = if length < WIDTH { ALL & (ALL << length) } else { 0 };
        Some(Shape { first, last: allowed.part(last), beyond, length, ends: end == b'}' })
    }

    /// Its bytes, with those before and after the value.
    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Adds its bounds, a byte each for every byte of the member.
    pub(super) fn append_to(&self, bounds: &mut Bounds) {
        let rest = self.length - self.first.len() * WIDTH;
        let last = (WIDTH - rest) * usize::from(self.length > WIDTH);
        bounds.least.reserve(self.length);
        bounds.greatest.reserve(self.length);
        for (part, range) in self.first.iter().map(|part| (part, 0..WIDTH)).chain([(&self.last, last..last + rest)]) {
            bounds.least.extend_from_slice(&part.least.to_array()[range.clone()]);
            bounds.greatest.extend_from_slice(&part.greatest.to_array()[range]);
        }
    }

    /// Whether a member of this shape starts at `at`: then it is valid. Returns the position of the byte after its value.
    #[inline(always)]
    pub(super) fn fits(&self, text: &[u8], at: usize) -> Option<usize> {
        let bytes = text.get(at..at + self.length.max(WIDTH))?;
        let mut fits = self.last.fits(bytes.last_chunk()?);
        for (part, bytes) in self.first.iter().zip(bytes.as_chunks().0) {
            fits &= part.fits(bytes);
        }
        (fits.to_bitmask() | self.beyond == ALL).then_some(at + self.length - 1)
    }
}

/// What may stand at sixteen places: bytes from `least` to `greatest`. A quote or backslash may stand only where it is
/// the least byte: in a text, that is a space.
#[derive(Clone, Copy, Debug)]
struct Part {
    least: u8x16,
    greatest: u8x16,
}

impl Part {
    /// All ones for each byte that may stand at its place.
    #[inline(always)]
    fn fits(&self, bytes: &[u8; WIDTH]) -> u8x16 {
        let bytes = u8x16::new(*bytes);
        let special = bytes.simd_eq(u8x16::splat(b'"')) | bytes.simd_eq(u8x16::splat(b'\\'));
        let least = bytes.simd_eq(self.least);
        let within = bytes.max(self.least).min(self.greatest).simd_eq(bytes);
        within & (least | !special)
    }
}

/// What may stand at each place of several members, as in a [`Part`].
#[derive(Clone, Debug, Default)]
pub(super) struct Bounds {
    pub(super) least: Vec<u8>,
    pub(super) greatest: Vec<u8>,
}

impl Bounds {
    /// How many bytes of the text from `at` on fit the bounds from `start` on, of which there are `length`.
    #[inline(always)]
    pub(super) fn fitting(&self, start: usize, length: usize, text: &[u8], at: usize) -> usize {
        let length = length.min(text.len().saturating_sub(at));
        let end = start + length;
        match (text.get(..at + length), self.least.get(..end), self.greatest.get(..end)) {
            (Some(text), Some(least), Some(greatest)) => fitting(text, least, greatest, length),
            _ => 0,
        }
    }
}

/// How many of the last `length` bytes of `text` fit, up to the first that does not. The bounds are those at the end of
/// `least` and `greatest`.
#[inline(always)]
fn fitting(text: &[u8], least: &[u8], greatest: &[u8], length: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if let Some(fitting) = super::avx2::fitting(text, least, greatest, length) {
        return fitting;
    }
    by_blocks(text, least, greatest, length)
}

/// The same on every processor.
#[inline(never)]
fn by_blocks(text: &[u8], least: &[u8], greatest: &[u8], length: usize) -> usize {
    let fits = |bytes, least: &[u8; WIDTH], greatest: &[u8; WIDTH]| {
        Part { least: u8x16::new(*least), greatest: u8x16::new(*greatest) }.fits(bytes).to_bitmask()
    };
    let rest = |bytes: &[u8]| bytes.len().saturating_sub(length);
    let blocks = text[rest(text)..].as_chunks().0.iter();
    let bounds = least[rest(least)..].as_chunks().0.iter().zip(greatest[rest(greatest)..].as_chunks().0);
    let mut fitting = 0;
    for (bytes, (least, greatest)) in blocks.zip(bounds) {
        let fits = fits(bytes, least, greatest);
        if fits != ALL {
            return fitting + fits.trailing_ones() as usize;
        }
        fitting += WIDTH;
    }
    let left = length.saturating_sub(fitting);
    if left == 0 {
        return fitting;
    }
    // The last block begins earlier, perhaps before the bytes in question.
    match (text.last_chunk(), least.last_chunk(), greatest.last_chunk()) {
        (Some(bytes), Some(least), Some(greatest)) => {
            let fits = fits(bytes, least, greatest) >> (WIDTH - left);
            fitting + (fits.trailing_ones() as usize).min(left)
        }
        _ => fitting,
    }
}

/// What may stand at each place of a member.
struct Allowed {
    least: [u8; LONGEST],
    greatest: [u8; LONGEST],
}

impl Allowed {
    fn any() -> Allowed {
        Allowed { least: [0; LONGEST], greatest: [u8::MAX; LONGEST] }
    }

    fn only(&mut self, place: usize, byte: u8) {
        (self.least[place], self.greatest[place]) = (byte, byte);
    }

    fn digit(&mut self, place: usize, least: u8) {
        (self.least[place], self.greatest[place]) = (least, b'9');
    }

    /// A byte of a string; the whole text is known to be UTF-8.
    fn text(&mut self, place: usize) {
        self.least[place] = b' ';
    }

    fn part(&self, place: usize) -> Part {
        let of = |bytes: &[u8; LONGEST]| u8x16::new(std::array::from_fn(|i| bytes[place + i]));
        Part { least: of(&self.least), greatest: of(&self.greatest) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::skip;
    use super::*;

    /// A valid member that ends the text's object or goes on, and where its value starts.
    fn member(random: &mut fastrand::Rng) -> (String, usize) {
        let mut text = ["{\"k\":", ",\"k\": ", ", \"a longer key\" :"][random.usize(..3)].to_owned();
        let lead = text.len();
        value(random, &mut text, 2);
        text.push(if random.bool() { ',' } else { '}' });
        (text, lead)
    }

    fn value(random: &mut fastrand::Rng, text: &mut String, depth: usize) {
        match random.u8(..if depth == 0 { 6 } else { 8 }) {
            0 => text.push_str(["true", "false", "null"][random.usize(..3)]),
            1 => text.push_str(
                ["0", "-0", "7", "10", "-12.50", "0.25", "1e5", "2.5E-3", "900719925474099"][random.usize(..9)],
            ),
            2 => *text += &random.i32(-100..2000).to_string(),
            3 => *text += &format!("\"{}\"", ["", "a", "é", "x-17", "\\n", "\\u00e9", "a b"][random.usize(..7)]),
            4 => *text += &format!("{:.2}", random.f64() * 100.0),
            5 => *text += &format!("\"{:x}\"", random.u32(..)),
            kind => {
                text.push(if kind == 6 { '[' } else { '{' });
                for index in 0..random.usize(..3) {
                    text.push_str(if index > 0 { "," } else { "" });
                    text.push_str(if kind == 6 { "" } else { "\"m\":" });
                    value(random, text, depth - 1);
                }
                text.push(if kind == 6 { ']' } else { '}' });
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 20 } else { 20_000 }))]

        #[test]
        fn what_fits_is_valid(seed in any::<u64>(), behind in 0..40usize) {
            let mut random = fastrand::Rng::with_seed(seed);
            let (text, lead) = member(&mut random);
            let bytes = text.as_bytes();
            let end = bytes.len() - 1;
            let Some(shape) = Shape::of(&bytes[..lead], &bytes[lead..end], bytes[end]) else { return Ok(()) };
            let mut other = bytes.to_vec();
            other.resize(bytes.len() + behind, b' ');
            let own = shape.fits(&other, 0);
            prop_assert_eq!(own, (other.len() >= WIDTH).then_some(end), "{}", &text);
            for _ in 0..20 {
                let place = random.usize(..bytes.len());
                other[place] = match random.u8(..4) {
                    0 => b"\"\\{}[],:10-.e \n\x02t"[random.usize(..17)],
                    1 => random.u8(b'0'..=b'9'),
                    _ => random.u8(0x20..0x7f),
                };
                if std::str::from_utf8(&other).is_err() {
                    other[place] = bytes[place];
                    continue;
                }
                if shape.fits(&other, 0).is_some() {
                    prop_assert_eq!(&other[..lead], &bytes[..lead]);
                    let shown = String::from_utf8_lossy(&other);
                    prop_assert_eq!(skip::value(&other, lead, 1).ok(), Some(end), "{} fits {}", shown, &text);
                    prop_assert_eq!(other[end], bytes[end]);
                } else {
                    other[place] = bytes[place];
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 20 } else { 20_000 }))]

        #[test]
        fn bytes_that_fit_are_counted(seed in any::<u64>(), at in 0..40usize, start in 0..40usize, length in 0..150usize) {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut byte = |_| b"\"\\ 09azAZ\x7f\xc3\x00"[random.usize(..12)];
            let text: Vec<u8> = (0..at + length).map(&mut byte).collect();
            let mut bounds = Bounds {
                least: (0..start + length).map(&mut byte).collect(),
                greatest: (0..start + length).map(&mut byte).collect(),
            };
            // Most bytes fit.
            for place in 0..length {
                let byte = text[at + place];
                let (least, greatest) = (&mut bounds.least[start + place], &mut bounds.greatest[start + place]);
                if random.u8(..200) != 0 {
                    *least = if matches!(byte, b'"' | b'\\') { byte } else { byte - random.u8(..=byte.min(9)) };
                    *greatest = byte.saturating_add(3);
                }
                *greatest = *least.max(greatest);
            }
            let fits = |place: &usize| {
                let (byte, least) = (text[at + place], bounds.least[start + place]);
                let within = least <= byte && byte <= bounds.greatest[start + place];
                within && (byte == least || !matches!(byte, b'"' | b'\\'))
            };
            let expected = (0..length).take_while(fits).count();
            let found = by_blocks(&text, &bounds.least, &bounds.greatest, length);
            prop_assert!(found == expected || text.len().min(start + length) < WIDTH && found == 0);
            #[cfg(target_arch = "x86_64")]
            if let Some(found) = super::super::avx2::fitting(&text, &bounds.least, &bounds.greatest, length) {
                prop_assert_eq!(found, expected);
            }
            let found = bounds.fitting(start, length, &text, at);
            prop_assert!(found == expected || text.len().min(start + length) < WIDTH && found == 0);
        }
    }

    #[test]
    fn what_may_change() {
        let fits = |member: &str, other: &str| {
            let bytes = member.as_bytes();
            let (lead, end) = (6, bytes.len() - 1);
            let shape = Shape::of(&bytes[..lead], &bytes[lead..end], bytes[end])?;
            Some(shape.fits(format!("{other}{}", " ".repeat(WIDTH)).as_bytes(), 0).is_some())
        };
        let same = [
            (r#"{"ab":12.50,"#, r#"{"ab":97.03,"#),
            (r#"{"ab":"x-1","#, r#"{"ab":"Y 2","#),
            (r#"{"ab":{"c":[1,"d"]}}"#, r#"{"ab":{"e":[7,"f"]}}"#),
            (r#"{"ab":0.5,"#, r#"{"ab":3.0,"#),
            (r#"{"ab":"\\\n1","#, r#"{"ab":"\\\n2","#),
            (r#"{"ab":"\u00e9a","#, r#"{"ab":"\u00e9b","#),
        ];
        for (member, other) in same {
            assert_eq!(fits(member, other), Some(true), "{member} {other}");
        }
        let different = [
            (r#"{"ab":12.50,"#, r#"{"ab":02.50,"#),
            (r#"{"ab":12.50,"#, r#"{"ab":12.501"#),
            (r#"{"ab":12.50,"#, r#"{"ac":12.50,"#),
            (r#"{"ab":"x-1","#, r#"{"ab":"x\"1","#),
            (r#"{"ab":"x-1","#, "{\"ab\":\"x\n1\","),
            (r#"{"ab":"\n1","#, r#"{"ab":"\q1","#),
            (r#"{"ab":"\u00e9","#, r#"{"ab":"\u00g9","#),
            (r#"{"ab":true,"#, r#"{"ab":trüe,"#),
            (r#"{"ab":1,"#, r#"{"ab":1}"#),
        ];
        for (member, other) in different {
            assert_eq!(fits(member, other), Some(false), "{member} {other}");
        }
        for none in [r#"{"ab":1e5,"#, r#"{"ab":1 "#] {
            assert_eq!(fits(none, none), None, "{none}");
        }
    }
}
