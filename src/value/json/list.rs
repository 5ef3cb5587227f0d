//! Validates an array whose elements are alike, element by element.
//!
//! Long lists in messages are often lists of small objects or arrays of one shape: readings, points, orders. An element
//! of a known [`Shape`] is a few comparisons, whatever is in it. Other elements are read token by token; if there are
//! too many of them, [`container`] goes on with the rest of the array, which is then faster.
//!
//! As `container`, this module answers yes or no.

use super::container;
use super::shape::{LONGEST, Shape};
use super::skip::{self, blanks, byte};

/// With less text than this from the start of an array on, learning a shape costs more than it saves.
pub(super) const LARGE: usize = 1024;

/// Other elements are tolerated up to this number, and then up to one in [`ALIKE`] elements.
const OTHERS: u32 = 4;
const ALIKE: u32 = 8;

/// The position after the array that starts at `at`, with `outer` more arrays and objects open around it. `None`: it is
/// invalid, or its elements are not small objects or arrays.
pub(super) fn end(text: &[u8], at: usize, outer: usize) -> Option<usize> {
    let mut at = blanks(text, at + 1);
    if !matches!(byte(text, at), b'[' | b'{') {
        return None;
    }
    let mut shape: Option<Shape> = None;
    let (mut alike, mut others, mut length) = (0, 0, 0);
    loop {
        // An element starts here.
        if let Some(shape) = &shape {
            while let Some(end) = shape.fits(text, at) {
                at = end + 1;
                alike += 1;
            }
        }
        others += 1;
        // An element that is longer than a shape is not read twice.
        let near = &text[..text.len().min(at + LONGEST)];
        let Ok(end) = skip::tokens(near, blanks(near, at), outer + 1) else {
            return if alike > 0 { container::end_of_rest(text, at, outer) } else { None };
        };
        match byte(text, end) {
            b',' => {}
            b']' => return Some(end + 1),
            _ => {
                let after = blanks(text, end);
                return (byte(text, after) == b']').then_some(after + 1);
            }
        }
        if others > OTHERS + alike / ALIKE {
            return container::end_of_rest(text, end + 1, outer);
        }
        if end - at == length {
            shape = Shape::of(&[], &text[at..end], b',').or(shape);
        }
        length = end - at;
        at = end + 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A list of objects or arrays; `same` in 16 elements have the same lengths.
    fn list(random: &mut fastrand::Rng, same: u8) -> String {
        let form = random.u8(..4);
        let count = random.usize(..60);
        let space = if random.bool() { " " } else { "" };
        let element = |random: &mut fastrand::Rng| {
            let number = if random.u8(..16) < same { random.u32(100..1000) } else { random.u32(..) };
            match form {
                0 => format!("[{number},{space}1013.25]"),
                1 => format!("{{\"at\":{number},\"note\":\"\\\"n\\\" \\u00e9 é {number}\",\"ok\":null}}"),
                2 => format!("{{\"a\":{{\"b\":[{number}]}}}}"),
                _ => ["[]", "{}", "null", "[[1,2],[3]]", "\"text\""][number as usize % 5].to_owned(),
            }
        };
        let elements: Vec<String> = (0..count).map(|_| element(random)).collect();
        format!("[{}]", elements.join(&format!(",{space}")))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 10 } else { 5_000 }))]

        #[test]
        fn the_same_is_valid_as_token_by_token(seed in any::<u64>(), same in 8..=16u8, faults in 0..3usize) {
            let mut random = fastrand::Rng::with_seed(seed);
            let text = list(&mut random, same);
            let mut chars: Vec<char> = text.chars().collect();
            for _ in 0..faults {
                let at = random.usize(1..chars.len());
                match random.u8(..3) {
                    0 if chars.len() > 2 => drop(chars.remove(at)),
                    1 => chars.insert(at, char::from(b"\"\\{}[],:10-.e \n\x02t"[random.usize(..17)])),
                    _ => chars.swap(at, 1.max(at / 2)),
                }
            }
            let mut text: String = chars.into_iter().collect();
            text.push_str(["", ",\"x\":1}", "]", "                        "][random.usize(..4)]);
            let expected = skip::tokens(text.as_bytes(), 0, 1).ok();
            let found = end(text.as_bytes(), 0, 1);
            prop_assert!(found.is_none() || found == expected, "{:?}, not {:?}: {}", found, expected, text);
        }
    }

    #[test]
    fn lists_of_small_elements_are_read() {
        let list = |element: &str| format!("[{}{element}]", format!("{element},").repeat(50));
        for element in ["[100,1013.25]", r#"{"a":1,"b":"x"}"#, "{}"] {
            let text = list(element);
            assert_eq!(end(text.as_bytes(), 0, 0), Some(text.len()), "{element}");
        }
        for other in ["1", "\"x\"", &list("12345")] {
            let text = list(other);
            assert_eq!(end(text.as_bytes(), 0, 0), None, "{other}");
        }
    }

    #[test]
    fn the_rest_is_read_in_another_way() {
        let mut text = "[".to_owned();
        for number in 0..100u64 {
            text += &format!("{{\"n\":{}}},", 3u64.pow(number as u32 % 30));
        }
        text += "{}]";
        assert_eq!(end(text.as_bytes(), 0, 0), Some(text.len()));
        text.insert(text.len() - 2, ',');
        assert_eq!(end(text.as_bytes(), 0, 0), None);
    }
}
