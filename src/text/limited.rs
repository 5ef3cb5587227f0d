//! Text that is put together up to a limit. A short argument can be repeated often enough to exhaust the memory, so
//! functions check the size before the text grows.

use regex::Regex;

/// The text would be larger than its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// A text that does not grow beyond a limit.
pub struct Limited {
    text: String,
    /// bytes
    largest: usize,
}

impl Limited {
    /// An empty text of at most `largest` bytes.
    pub fn new(largest: usize) -> Limited {
        Limited { text: String::new(), largest }
    }

    /// Appends to the text.
    ///
    /// # Errors
    /// [`TooLarge`]; the text is unchanged then.
    pub fn push(&mut self, part: &str) -> Result<(), TooLarge> {
        if part.len() > self.largest - self.text.len() {
            return Err(TooLarge);
        }
        self.text.push_str(part);
        Ok(())
    }

    /// The whole text.
    pub fn into_text(self) -> String {
        self.text
    }
}

/// Replaces every match. In the replacement, `$1`, `${1}` and `${name}` are the matches of groups, and `$$` is a dollar
/// sign.
///
/// # Errors
/// [`TooLarge`] if the text would be larger than `largest` bytes.
pub fn replace_all(regex: &Regex, within: &str, replacement: &str, largest: usize) -> Result<String, TooLarge> {
    let mut replaced = Limited::new(largest);
    let mut copied = 0;
    let mut expanded = String::new();
    let inserts = replacement.matches('$').count();
    for captures in regex.captures_iter(within) {
        let Some(whole) = captures.get(0) else { continue };
        // Each reference inserts at most the whole match.
        if inserts.saturating_mul(whole.len()).saturating_add(replacement.len()) > largest {
            return Err(TooLarge);
        }
        replaced.push(&within[copied..whole.start()])?;
        expanded.clear();
        captures.expand(replacement, &mut expanded);
        replaced.push(&expanded)?;
        copied = whole.end();
    }
    replaced.push(&within[copied..])?;
    Ok(replaced.into_text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_within_its_limit() {
        let mut text = Limited::new(3);
        assert_eq!(text.push("ab"), Ok(()));
        assert_eq!(text.push("cd"), Err(TooLarge));
        assert_eq!(text.push("c"), Ok(()));
        assert_eq!(text.into_text(), "abc");
    }

    #[test]
    fn replacements_stay_within_their_limit() {
        let regex = Regex::new("b+").expect("a pattern");
        assert_eq!(replace_all(&regex, "abba", "[$0]", 6), Ok("a[bb]a".to_owned()));
        assert_eq!(replace_all(&regex, "abba", "[$0]", 5), Err(TooLarge));
        assert_eq!(replace_all(&regex, "abba", "$0$0$0", 5), Err(TooLarge));
    }
}
