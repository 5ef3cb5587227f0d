//! Regular expressions of the rule language: RE2 syntax, run by the `regex` crate.
//!
//! Both are of one family, linear in the text, without look-around and back-references. Where the same pattern means
//! different things, `translated` writes it so that it means what RE2 says: `\d`, `\w`, `\s`, `\b` are of ASCII,
//! a class has no set operators, `\Q…\E` quotes, a brace that counts nothing is itself, and what RE2 refuses (`a**`,
//! `\u0041`, `(?x)`) is refused.
//!
//! A pattern that a rule writes is compiled once; one that comes with each message is kept in a small [`Cache`], so
//! that a stream of ever new patterns costs time but not memory.

use std::sync::{Arc, Mutex};

use regex::{Regex, RegexBuilder};

use compact_str::CompactString;

/// Bytes that a compiled pattern may take. A pattern may come from a message, so it must not follow its counts
/// (`(a{1000}){1000}`) without a bound.
const COMPILED_BYTES: usize = 4 << 20;

/// Compiles an RE2 pattern. The error is for the user: it shows the place in the pattern.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&translated(pattern)?).size_limit(COMPILED_BYTES).build()
}

/// The most recent patterns of one call, compiled.
#[derive(Default)]
pub struct Cache {
    /// The latest first.
    recent: Mutex<Vec<(CompactString, Arc<Regex>)>>,
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

/// The pattern in the syntax of the `regex` crate. What RE2 has no meaning for is refused here where the crate would
/// give it one of its own; everything else that is wrong, the crate refuses.
fn translated(pattern: &str) -> Result<String, regex::Error> {
    let names = pattern.rfind(":]").map_or(usize::MAX, |last| pattern.len() - last);
    let mut reader = Translator { rest: pattern, out: String::with_capacity(pattern.len()), names };
    reader.whole().map_err(|problem| regex::Error::Syntax(format!("error parsing regexp: {problem}")))?;
    Ok(reader.out)
}

/// A pattern on its way from one syntax to the other.
struct Translator<'p> {
    rest: &'p str,
    out: String,
    /// Bytes left at the end of the last name of a class: there are none behind it.
    names: usize,
}

impl<'p> Translator<'p> {
    /// No repetition counts further in RE2.
    const MOST_REPEATED: u32 = 1000;

    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn take(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn whole(&mut self) -> Result<(), String> {
        // What was read last says how often, and cannot be said to be so often again.
        let mut repeated = false;
        while let Some(c) = self.next() {
            let counts = if c == '{' { counts(self.rest) } else { None };
            let repeats = matches!(c, '*' | '+' | '?') || counts.is_some();
            if repeats && repeated {
                return Err(format!("invalid nested repetition operator: `{c}`"));
            }
            match c {
                '\\' => self.escape(false)?,
                '[' => self.class()?,
                '(' if self.rest.starts_with('?') => self.flags()?,
                '{' => match counts {
                    Some(counts) => {
                        let too_many = |n: &str| n.parse::<u32>().is_ok_and(|n| n > Self::MOST_REPEATED) || n.len() > 9;
                        if counts.split(',').any(too_many) {
                            return Err(format!("invalid repeat count: `{{{counts}}}`"));
                        }
                        self.take(counts);
                        self.take("}");
                        self.out.extend(["{", counts, "}"]);
                    }
                    None => self.out.push_str("\\{"),
                },
                _ => self.out.push(c),
            }
            if repeats && self.take("?") {
                self.out.push('?');
            }
            repeated = repeats;
        }
        Ok(())
    }

    /// What stands behind a backslash.
    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let Some(c) = self.next() else {
            self.out.push('\\');
            return Ok(());
        };
        match c {
            'Q' if !in_class => {
                let quoted = self.rest.split("\\E").next().unwrap_or_default();
                self.out.push_str(&regex::escape(quoted));
                self.take(quoted);
                self.take("\\E");
            }
            // One digit that is not zero would be a reference to a group, which there is not.
            '0'..='7' if c == '0' || self.rest.starts_with(|c: char| c.is_digit(8)) => {
                let mut code = c.to_digit(8).unwrap_or_default();
                for _ in 0..2 {
                    let Some(digit) = self.rest.chars().next().and_then(|c| c.to_digit(8)) else { break };
                    code = code * 8 + digit;
                    self.next();
                }
                self.out.push_str(&format!("\\x{{{code:x}}}"));
            }
            'p' if self.rest.starts_with("{^") => self.negated("\\P{"),
            'P' if self.rest.starts_with("{^") => self.negated("\\p{"),
            'x' | 'p' | 'P' => {
                let braced = if self.rest.starts_with('{') { self.rest.split_inclusive('}').next() } else { None };
                self.out.extend(['\\', c]);
                self.out.push_str(braced.unwrap_or_default());
                self.take(braced.unwrap_or_default());
            }
            'a' | 'f' | 'n' | 'r' | 't' | 'v' => self.out.extend(['\\', c]),
            'A' | 'z' if !in_class => self.out.extend(['\\', c]),
            _ => match of_ascii(c, in_class) {
                Some(written) => self.out.push_str(written),
                None if c.is_ascii() && !c.is_ascii_alphanumeric() => {
                    self.out.push_str(&format!("\\x{{{:x}}}", u32::from(c)));
                }
                None => return Err(format!("invalid escape sequence: `\\{c}`")),
            },
        }
        Ok(())
    }

    /// The name of a class of characters that is said to be all others.
    fn negated(&mut self, opposite: &str) {
        let name = self.rest.split_inclusive('}').next().unwrap_or_default();
        self.out.push_str(opposite);
        self.out.push_str(&name["{^".len()..]);
        self.take(name);
    }

    /// A class, behind its opening bracket.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.take("^") {
            self.out.push('^');
        }
        // A bracket that closes nothing yet is meant as itself.
        if self.take("]") {
            self.out.push_str("\\]");
        }
        while let Some(c) = self.next() {
            match c {
                '\\' => self.escape(true)?,
                ']' => {
                    self.out.push(']');
                    break;
                }
                // The names, `[:alpha:]`, are the same in both.
                '[' if self.rest.starts_with(':') && self.rest.len() > self.names => {
                    let name = self.rest[1..].split(":]").next().unwrap_or_default();
                    let named = &self.rest[..":".len() + name.len() + ":]".len()];
                    if !CLASSES.contains(&name.strip_prefix('^').unwrap_or(name)) {
                        return Err(format!("invalid character class range: `[{named}`"));
                    }
                    self.take(named);
                    self.out.push('[');
                    self.out.push_str(named);
                }
                // A range to the hyphen, where the crate would take one class from the other.
                '-' if self.take("-") => self.out.push_str("-\\-"),
                '[' | '&' | '~' => self.out.extend(['\\', c]),
                _ => self.out.push(c),
            }
        }
        Ok(())
    }

    /// A group that begins with `(?`: its name or flags, up to `>`, `:` or `)`.
    fn flags(&mut self) -> Result<(), String> {
        let named = self.rest.starts_with("?P<") || self.rest.starts_with("?<");
        let end = self.rest.find(if named { ['>', '>'] } else { [':', ')'] });
        let head = end.map_or(self.rest, |end| &self.rest[..=end]);
        let flags = head.trim_start_matches('?').trim_end_matches([':', ')']);
        if !named && !flags.chars().all(|flag| matches!(flag, 'i' | 'm' | 's' | 'U' | '-')) {
            return Err(format!("invalid or unsupported Perl syntax: `({head}`"));
        }
        self.take(head);
        // No flags at all say nothing.
        self.out.push('(');
        self.out.push_str(if head == "?)" { "?:)" } else { head });
        Ok(())
    }
}

/// The names of classes within brackets.
const CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word",
    "xdigit",
];

/// The numbers of a repetition, `n`, `n,` or `n,m`, if the text behind the brace is one: else the brace is itself.
fn counts(behind: &str) -> Option<&str> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let least = digits(behind);
    let most = behind[least..].strip_prefix(',').map_or(0, |most| ",".len() + digits(most));
    let counts = &behind[..least + most];
    (least > 0 && behind[counts.len()..].starts_with('}')).then_some(counts)
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
            (r"^a{,2}$", "a{,2}", true),
            (r"^a{1,b}{2}$", "a{1,b}}", true),
            (r"^a{2}$", "aa", true),
            (r"^[a\-\]]+$", "a-]", true),
            (r"^\<\_\ $", "<_ ", true),
            (r"^\101\0$", "A\0", true),
            (r"^\p{^L}\P{^L}$", "1a", true),
            (r"^(?:)a*?(?U)b+$", "ab", true),
            (r"^[[:^alpha:]a]$", "a", true),
            ("^[[:]+$", "[:", true),
            ("^[[:a]+$", ":a[:", true),
            ("^a{12$", "a{12", true),
            ("^a{1,2,3}$", "a{1,2,3}", true),
        ] {
            let matches = compile(pattern).map(|regex| regex.is_match(text));
            assert_eq!(matches.ok(), Some(expected), "{pattern}");
        }
        for pattern in ["a(?=b)", "(", "[a", r"(a)\1", "(a{1000}){1000}", "[a--b]", "[[:foo:]]", "[[:^^alpha:]]", r"\é"]
        {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
        for (pattern, expected) in [
            ("a**", "error parsing regexp: invalid nested repetition operator: `*`"),
            ("a{2}{3}", "error parsing regexp: invalid nested repetition operator: `{`"),
            ("a{1001}", "error parsing regexp: invalid repeat count: `{1001}`"),
            (r"\u0041", r"error parsing regexp: invalid escape sequence: `\u`"),
            ("(?x)a", "error parsing regexp: invalid or unsupported Perl syntax: `(?x)`"),
        ] {
            assert_eq!(compile(pattern).map_err(|error| error.to_string()).err().as_deref(), Some(expected));
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
        fn no_pattern_panics(pattern in r"[\\\[\]QEdwab^&~:().*+?{},01é|-]{0,16}") {
            let _ = compile(&pattern);
        }
    }
}
