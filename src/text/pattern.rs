//! Regular expressions of the rule language: RE2 syntax, run by the `regex` crate.
//!
//! Both have linear running time and no look-around or back-references. Where one pattern means different things to
//! them, `translated` rewrites it to RE2's meaning: `\d`, `\w`, `\s` and `\b` are ASCII only, a class has no set
//! operators, `\Q…\E` quotes, a brace without a count is literal, and what RE2 refuses (`a**`, `\u0041`, `(?x)`) is
//! refused.
//!
//! A pattern in a rule's text is compiled once. One that comes with each message is kept in a small [`Cache`], so that
//! a stream of new patterns costs time but not memory.

use std::sync::{Arc, Mutex};

use regex::{Regex, RegexBuilder};

use compact_str::CompactString;

/// The greatest size of a compiled pattern, bytes. A pattern may come from a message, so counts such as
/// `(a{1000}){1000}` must not take memory without a limit.
const COMPILED_BYTES: usize = 4 << 20;

/// Compiles an RE2 pattern. The error is written for users: it shows the place in the pattern.
pub fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&translated(pattern)?).size_limit(COMPILED_BYTES).build()
}

/// Recently compiled patterns of one call.
#[derive(Default)]
pub struct Cache {
    /// The most recent first.
    recent: Mutex<Vec<(CompactString, Arc<Regex>)>>,
}

impl Cache {
    const KEPT: usize = 8;

    /// Returns the compiled pattern, from the cache or anew. Patterns with errors are not kept.
    pub fn compiled(&self, pattern: &str) -> Result<Arc<Regex>, regex::Error> {
        // A panic cannot leave the list half changed, so a poisoned lock is usable.
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

/// The pattern in the syntax of the `regex` crate. Refuses what only the crate would accept; the crate refuses all
/// other errors.
fn translated(pattern: &str) -> Result<String, regex::Error> {
    let names = pattern.rfind(":]").map_or(usize::MAX, |last| pattern.len() - last);
    let mut reader = Translator { rest: pattern, out: String::with_capacity(pattern.len()), names };
    reader.whole().map_err(|problem| regex::Error::Syntax(format!("error parsing regexp: {problem}")))?;
    Ok(reader.out)
}

/// Translates one pattern.
struct Translator<'p> {
    rest: &'p str,
    out: String,
    /// Bytes left behind the last `:]`: no class name follows it.
    names: usize,
}

impl<'p> Translator<'p> {
    /// The highest repetition count in RE2.
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
        // Whether the previous item is a repetition, which must not be repeated again.
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

    /// Translates what follows a backslash.
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
            // A single digit other than zero would be a back-reference, which RE2 does not have.
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

    /// Writes a negated class `\p{^Name}` as `opposite` and the name: `\P{Name}`.
    fn negated(&mut self, opposite: &str) {
        let name = self.rest.split_inclusive('}').next().unwrap_or_default();
        self.out.push_str(opposite);
        self.out.push_str(&name["{^".len()..]);
        self.take(name);
    }

    /// Translates a character class, after its opening bracket.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.take("^") {
            self.out.push('^');
        }
        // A closing bracket in first position is literal.
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
                // Names such as `[:alpha:]` are the same in both syntaxes.
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
                // A range up to a hyphen; the crate would read `--` as set difference.
                '-' if self.take("-") => self.out.push_str("-\\-"),
                '[' | '&' | '~' => self.out.extend(['\\', c]),
                _ => self.out.push(c),
            }
        }
        Ok(())
    }

    /// Translates the start of a group that begins with `(?`: its name or flags, up to `>`, `:` or `)`.
    fn flags(&mut self) -> Result<(), String> {
        let named = self.rest.starts_with("?P<") || self.rest.starts_with("?<");
        let end = self.rest.find(if named { ['>', '>'] } else { [':', ')'] });
        let head = end.map_or(self.rest, |end| &self.rest[..=end]);
        let flags = head.trim_start_matches('?').trim_end_matches([':', ')']);
        if !named && !flags.chars().all(|flag| matches!(flag, 'i' | 'm' | 's' | 'U' | '-')) {
            return Err(format!("invalid or unsupported Perl syntax: `({head}`"));
        }
        self.take(head);
        // Empty flags have no effect.
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

/// The counts `n`, `n,` or `n,m` after a brace; `None` if there are none, so that the brace is literal.
fn counts(behind: &str) -> Option<&str> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let least = digits(behind);
    let most = behind[least..].strip_prefix(',').map_or(0, |most| ",".len() + digits(most));
    let counts = &behind[..least + most];
    (least > 0 && behind[counts.len()..].starts_with('}')).then_some(counts)
}

/// The ASCII form of a class that RE2 restricts to ASCII.
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
