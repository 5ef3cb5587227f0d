//! Regular expressions of the rule language: RE2 syntax, run by the `regex` crate.
//!
//! Both are of one family, linear in the text, without look-around and back-references. Where the same pattern means
//! different things, `translated` writes it so that it means what RE2 says: `\d`, `\w`, `\s`, `\b` are of ASCII,
//! a class has no set operators, `\Q…\E` quotes.
//!
//! A pattern that a rule writes is compiled once; one that comes with each message is kept in a small [`Cache`], so
//! that a stream of ever new patterns costs time but not memory.

use std::sync::{Arc, Mutex};

use regex::{Regex, RegexBuilder};

use crate::value::Text;

/// Bytes that a compiled pattern may take. A pattern may come from a message, so it must not follow its counts
/// (`(a{1000}){1000}`) without a bound.
const COMPILED_BYTES: usize = 4 << 20;

/// Compiles an RE2 pattern. The error is for the user: it shows the place in the pattern.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&translated(pattern)).size_limit(COMPILED_BYTES).build()
}

/// The most recent patterns of one call, compiled.
#[derive(Default)]
pub struct Cache {
    /// The latest first.
    recent: Mutex<Vec<(Text, Arc<Regex>)>>,
}

impl Cache {
    /// Enough for a rule that picks among a few patterns.
    const KEPT: usize = 8;

    /// The pattern compiled, now or before. Patterns with errors are not kept.
    pub fn compiled(&self, pattern: &str) -> Result<Arc<Regex>, regex::Error> {
        // A panic while the lock is held leaves a whole list behind, so a poisoned lock is as good as any.
        let mut recent = self.recent.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(at) = recent.iter().position(|(kept, _)| kept == pattern) {
            recent[..=at].rotate_right(1);
            return Ok(recent[0].1.clone());
        }
        let regex = Arc::new(compile(pattern)?);
        recent.truncate(Self::KEPT - 1);
        recent.insert(0, (pattern.into(), regex.clone()));
        Ok(regex)
    }
}

/// The pattern in the syntax of the `regex` crate.
fn translated(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars().peekable();
    let mut in_class = false;
    while let Some(c) = chars.next() {
        match (c, in_class) {
            ('\\', _) => match chars.next() {
                None => out.push('\\'),
                Some('Q') => {
                    let rest: String = chars.clone().collect();
                    let quoted = rest.split("\\E").next().unwrap_or_default();
                    out.push_str(&regex::escape(quoted));
                    // The quote and, where it is written, its end.
                    for _ in 0..quoted.chars().count() + 2 {
                        chars.next();
                    }
                }
                Some(class) => match of_ascii(class, in_class) {
                    Some(written) => out.push_str(written),
                    None => out.extend(['\\', class]),
                },
            },
            ('[', false) => {
                in_class = true;
                out.push('[');
                if chars.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
                // A bracket that closes nothing yet is meant as itself.
                if chars.next_if_eq(&']').is_some() {
                    out.push_str("\\]");
                }
            }
            ('[', true) if chars.peek() == Some(&':') => {
                out.push('[');
                // The name up to its own bracket, `[:alpha:]`, is the same in both.
                for c in chars.by_ref() {
                    out.push(c);
                    if c == ']' {
                        break;
                    }
                }
            }
            ('[' | '&' | '~', true) => out.extend(['\\', c]),
            (']', true) => {
                in_class = false;
                out.push(']');
            }
            _ => out.push(c),
        }
    }
    out
}

/// How a class that RE2 restricts to ASCII is written.
fn of_ascii(class: char, in_class: bool) -> Option<&'static str> {
    Some(match class {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        's' => r"[\t\n\f\r ]",
        'S' => r"[^\t\n\f\r ]",
        'b' if !in_class => r"(?-u:\b)",
        'B' if !in_class => r"(?-u:\B)",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_mean_what_re2_says() {
        for (pattern, text, expected) in [
            (r"^\w+$", "ab_1", true),
            (r"^\w+$", "é", false),
            (r"^\W$", "é", true),
            (r"^\d$", "٣", false),
            (r"^[\d-]+$", "1-2", true),
            (r"^[^\d]$", "x", true),
            (r"^[[]$", "[", true),
            (r"^[]a]+$", "]a", true),
            (r"^[a&&b]+$", "&ab", true),
            (r"^[[:alpha:]0]+$", "a0", true),
            (r"^\Qa.b\E.$", "a.bc", true),
            (r"^\Qa.b\E$", "axb", false),
            (r"\bx\b", "éxé", true),
            (r"^a\B", "ab", true),
            (r"^\p{Han}+$", "世界", true),
            (r"(?i)^É$", "é", true),
            (r"^.$", "世", true),
        ] {
            let matches = compile(pattern).map(|regex| regex.is_match(text));
            assert_eq!(matches.ok(), Some(expected), "{pattern}");
        }
        for pattern in ["a(?=b)", "(", "[a", r"(a)\1", "(a{1000}){1000}"] {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn the_cache_keeps_a_few() {
        let cache = Cache::default();
        for pattern in ["a", "b", "a", "c", "d", "e", "f", "g", "h", "i", "a", "("] {
            assert_eq!(cache.compiled(pattern).is_ok(), pattern != "(");
        }
        let kept: Vec<_> = match cache.recent.lock() {
            Ok(recent) => recent.iter().map(|(pattern, _)| pattern.to_string()).collect(),
            Err(_) => Vec::new(),
        };
        assert_eq!(kept, ["a", "i", "h", "g", "f", "e", "d", "c"]);
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in r"[\\\[\]QEdwab^&~:().*é|-]{0,16}") {
            let _ = compile(&pattern);
        }
    }
}
