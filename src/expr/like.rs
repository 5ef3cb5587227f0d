//! LIKE patterns: `%` matches any characters, `_` exactly one, a backslash makes the next character literal, and
//! everything else matches itself. The pattern must match the whole text, including its case.
//!
//! Most patterns are plain text with `%` at one end; comparing bytes is many times faster than a regular expression
//! there. The general matcher remembers only the last `%`: it needs no memory, and its time is at most the product of
//! both lengths.

use std::fmt;

use crate::value::Text;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub struct Pattern {
    written: Text,
    form: Form,
}

/// Kinds of patterns, by the positions of their wildcards.
#[derive(Clone, Debug, PartialEq)]
enum Form {
    /// no wildcard
    Equals(Text),
    /// `text%`
    Prefix(Text),
    /// `%text`
    Suffix(Text),
    /// `%text%`
    Contains(Text),
    /// everything else
    General,
}

/// One step of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    /// `%`
    Run,
    /// `_`
    One,
    /// this character
    Char(char),
}

impl Pattern {
    /// Compiles a pattern. Every text is valid; a backslash at the end matches itself.
    pub fn new(pattern: &str) -> Pattern {
        Pattern { written: pattern.into(), form: Form::of(pattern) }
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// Whether the whole text matches.
    #[inline]
    pub fn matches(&self, text: &str) -> bool {
        match &self.form {
            Form::Equals(all) => text == all,
            Form::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Form::Suffix(suffix) => text.ends_with(suffix.as_str()),
            Form::Contains(part) => text.contains(part.as_str()),
            Form::General => matches(&self.written, text),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl Form {
    fn of(pattern: &str) -> Form {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some((token, behind)) = next(rest) {
            tokens.push(token);
            rest = behind;
        }
        let (inner, starts) = match tokens.split_first() {
            Some((Token::Run, inner)) => (inner, true),
            _ => (tokens.as_slice(), false),
        };
        let (inner, ends) = match inner.split_last() {
            Some((Token::Run, inner)) => (inner, true),
            _ => (inner, false),
        };
        let mut text = Text::default();
        for token in inner {
            match token {
                Token::Char(c) => text.push(*c),
                _ => return Form::General,
            }
        }
        match (starts, ends) {
            (false, false) => Form::Equals(text),
            (false, true) => Form::Prefix(text),
            (true, false) => Form::Suffix(text),
            (true, true) => Form::Contains(text),
        }
    }
}

/// Whether the whole text matches a pattern that is used only once.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (mut pattern, mut text) = (pattern, text);
    // The rest of the pattern after the last `%`, and the text where it was last tried.
    let mut retry: Option<(&str, &str)> = None;
    loop {
        match (next(pattern), first(text)) {
            (Some((Token::Run, behind)), _) => {
                pattern = behind;
                retry = Some((behind, text));
                continue;
            }
            (Some((Token::One, behind)), Some((_, rest))) => {
                (pattern, text) = (behind, rest);
                continue;
            }
            (Some((Token::Char(wanted), behind)), Some((c, rest))) if c == wanted => {
                (pattern, text) = (behind, rest);
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        // No match: let the last `%` match one character more.
        let Some((behind, tried)) = retry else { return false };
        let Some((_, rest)) = first(tried) else { return false };
        (pattern, text) = (behind, rest);
        retry = Some((behind, rest));
    }
}

fn first(text: &str) -> Option<(char, &str)> {
    let mut chars = text.chars();
    chars.next().map(|c| (c, chars.as_str()))
}

/// The first step of a pattern, and the rest.
fn next(pattern: &str) -> Option<(Token, &str)> {
    let (c, behind) = first(pattern)?;
    Some(match c {
        '%' => (Token::Run, behind),
        '_' => (Token::One, behind),
        '\\' => first(behind).map_or((Token::Char('\\'), behind), |(c, behind)| (Token::Char(c), behind)),
        c => (Token::Char(c), behind),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("%", "", true),
            ("%", "a\nb", true),
            ("a%b", "a\nb", true),
            ("a_b", "a\nb", true),
            ("_", "世", true),
            ("_", "", false),
            ("__", "世", false),
            ("a%", "abc", true),
            ("a%", "ba", false),
            ("%c", "abc", true),
            ("%b%", "abc", true),
            ("%b", "abc", false),
            ("abc", "abc", true),
            ("abc", "ABC", false),
            ("a.c", "abc", false),
            ("a+(b)[%", "a+(b)[c", true),
            (r"50\%", "50%", true),
            (r"50\%", "50x", false),
            (r"a\_b%", "a_bc", true),
            (r"a\_b", "axb", false),
            (r"a\\%", r"a\b", true),
            (r"a\", r"a\", true),
            ("%ab%ab", "abaa", false),
            ("%ab%ab", "abxab", true),
            ("a%b%c", "a1b2b3c", true),
            ("%%a%%", "xax", true),
            ("%_", "", false),
            ("%_%", "x", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{text:?} LIKE {pattern:?}");
            assert_eq!(Pattern::new(pattern).matches(text), expected, "prepared {text:?} LIKE {pattern:?}");
        }
    }

    /// The pattern as a regular expression, for comparison.
    fn regex(pattern: &str) -> String {
        let mut out = String::from("(?s)^");
        let mut rest = pattern;
        while let Some((token, behind)) = next(rest) {
            match token {
                Token::Run => out.push_str(".*"),
                Token::One => out.push('.'),
                Token::Char(c) => out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            }
            rest = behind;
        }
        // `$` would also match before a line break at the end.
        out + r"\z"
    }

    proptest! {
        #[test]
        fn patterns_agree_with_regular_expressions(pattern in r"[ab世%_\\\n]{0,8}", text in r"[ab世%_\\\n]{0,10}") {
            let expected = regex::Regex::new(&regex(&pattern)).map(|regex| regex.is_match(&text)).ok();
            prop_assert_eq!(Some(matches(&pattern, &text)), expected);
            prop_assert_eq!(Some(Pattern::new(&pattern).matches(&text)), expected);
        }
    }
}
