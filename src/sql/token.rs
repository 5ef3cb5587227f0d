//! Text to tokens.
//!
//! Tokens are made one at a time, so that a statement's memory depends on its tree and not on its text. A token that
//! cannot be read is not an error yet: it becomes [`Token::Bad`], and the parser, which knows what it expected there,
//! makes the message. This module knows nothing of the grammar.

use crate::text::span::Span;
use crate::value::Text;

/// The reserved words, in capitals: names that are spelt like one need backticks.
///
/// Units of time (`ss`, `ms`, …) are not among them: they have a meaning only as the first argument of a window.
pub const RESERVED: [&str; 38] = [
    "SELECT",
    "AS",
    "FROM",
    "WHERE",
    "AND",
    "OR",
    "GROUP",
    "HAVING",
    "ORDER",
    "BY",
    "DESC",
    "ASC",
    "FILTER",
    "INNER",
    "LEFT",
    "RIGHT",
    "FULL",
    "CROSS",
    "JOIN",
    "ON",
    "CASE",
    "WHEN",
    "THEN",
    "DEFAULT",
    "ELSE",
    "END",
    "IN",
    "NOT",
    "BETWEEN",
    "LIKE",
    "OVER",
    "PARTITION",
    "REPLACE",
    "EXCEPT",
    "INVISIBLE",
    "TRUE",
    "FALSE",
    "LIMIT",
];

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A reserved word, in capitals: one of [`RESERVED`].
    Keyword(&'static str),
    /// A name without backticks.
    Name(Text),
    /// A name in backticks.
    Quoted(Text),
    /// Digits.
    Int,
    /// A number with a point or an exponent.
    Float,
    /// A text, its escapes resolved.
    Text {
        /// the text after escapes are resolved
        value: Text,
        /// whether the quotes are `"` rather than `'`
        double: bool,
    },
    /// An operator or punctuation.
    Symbol(&'static str),
    /// Something that is not a token.
    Bad(Fault),
    /// The end of the statement.
    End,
}

/// What is wrong with a bad token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// a character that begins no token
    Character,
    /// `/*` without `*/`
    Comment,
    /// a text without a closing quote
    UnclosedText,
    /// a line break in a text
    LineBreak,
    /// a backslash without a valid escape after it, or escapes that give invalid text
    Escape,
    /// a name without the second backtick
    UnclosedName,
    /// digits that are not a number
    Number,
}

/// Reads the token that begins at or after byte `from`, which must be a character's first byte.
pub fn next(text: &str, from: usize) -> (Token, Span) {
    let start = match skip_blanks(text, from) {
        Ok(start) => start,
        Err(start) => return (Token::Bad(Fault::Comment), span(start, text.len())),
    };
    let rest = &text[start..];
    let Some(first) = rest.chars().next() else { return (Token::End, span(start, start)) };
    let (token, length) = match first {
        'a'..='z' | 'A'..='Z' | '_' => word(rest),
        '0'..='9' => number(rest),
        '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => number(rest),
        '"' | '\'' => quoted_text(rest, first),
        '`' => match rest[1..].find('`') {
            Some(end) => (Token::Quoted(Text::from(&rest[1..=end])), end + 2),
            None => (Token::Bad(Fault::UnclosedName), rest.len()),
        },
        _ => symbol(rest).unwrap_or((Token::Bad(Fault::Character), first.len_utf8())),
    };
    (token, span(start, start + length))
}

/// Whether a name needs no backticks.
pub fn is_plain_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(is_name)
        && keyword(name).is_none()
        && !is_null(name)
        // At the start of the arguments, DISTINCT is a keyword.
        && !name.eq_ignore_ascii_case("DISTINCT")
}

/// Whether a word without backticks is the literal NULL in an expression.
pub fn is_null(word: &str) -> bool {
    word.eq_ignore_ascii_case("NULL")
}

fn span(start: usize, end: usize) -> Span {
    Span { start: start as u32, end: end as u32 }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn keyword(word: &str) -> Option<&'static str> {
    RESERVED.into_iter().find(|k| k.eq_ignore_ascii_case(word))
}

/// The position of the next byte that is neither blank nor comment; `Err` has the place of an unclosed comment.
fn skip_blanks(text: &str, mut at: usize) -> Result<usize, usize> {
    loop {
        let rest = &text[at..];
        let blanks = rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n']).len();
        if blanks > 0 {
            at += blanks;
        } else if rest.starts_with("--") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if let Some(comment) = rest.strip_prefix("/*") {
            at += 2 + comment.find("*/").ok_or(at)? + 2;
        } else {
            return Ok(at);
        }
    }
}

fn word(rest: &str) -> (Token, usize) {
    let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
    let word = &rest[..length];
    (keyword(word).map_or_else(|| Token::Name(Text::from(word)), Token::Keyword), length)
}

fn number(rest: &str) -> (Token, usize) {
    let bytes = rest.as_bytes();
    let digits_from = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let mut end = digits_from(0);
    let mut points = 0;
    while bytes.get(end) == Some(&b'.') {
        points += 1;
        end = digits_from(end + 1);
    }
    if points > 1 {
        return (Token::Bad(Fault::Number), end);
    }
    let mut is_float = points == 1;
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let digits = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if bytes.get(digits).is_some_and(u8::is_ascii_digit) {
            is_float = true;
            end = digits_from(digits);
        }
    }
    (if is_float { Token::Float } else { Token::Int }, end)
}

fn symbol(rest: &str) -> Option<(Token, usize)> {
    const SYMBOLS: [&str; 26] = [
        "::", "->", ">=", "<=", "!=", "<>", "+", "-", "*", "/", "%", "&", "|", "^", "=", "<", ">", "[", "]", "(", ")",
        ",", ".", ":", ";", "!",
    ];
    let found = SYMBOLS.into_iter().find(|s| rest.starts_with(s))?;
    // Like eKuiper, allows blanks between the characters of a comparison.
    if let Some(spaced) = match found {
        ">" => Some(">="),
        "<" => Some("<="),
        "!" => Some("!="),
        _ => None,
    } {
        let after = rest[1..].trim_start_matches([' ', '\t', '\r', '\n']);
        if after.starts_with('=') {
            return Some((Token::Symbol(spaced), rest.len() - after.len() + 1));
        }
    }
    match found {
        "!" => None,
        "<>" => Some((Token::Symbol("!="), 2)),
        _ => Some((Token::Symbol(found), found.len())),
    }
}

/// Reads a text in `"` or `'`. Escapes are those of Go; escapes for bytes must give valid UTF-8.
fn quoted_text(rest: &str, quote: char) -> (Token, usize) {
    let mut value: Vec<u8> = Vec::new();
    let mut fault = None;
    let mut at = 1;
    loop {
        let Some(c) = rest[at..].chars().next() else { return (Token::Bad(Fault::UnclosedText), rest.len()) };
        at += c.len_utf8();
        if c == quote {
            break;
        }
        match c {
            '\n' | '\r' => fault = fault.or(Some(Fault::LineBreak)),
            '\\' => match escape(&rest[at..], quote, &mut value) {
                Some(length) => at += length,
                None => {
                    fault = fault.or(Some(Fault::Escape));
                    // An escaped character never ends the text.
                    at += rest[at..].chars().next().map_or(0, char::len_utf8);
                }
            },
            _ => value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    let token = match (fault, std::str::from_utf8(&value)) {
        (Some(fault), _) => Token::Bad(fault),
        (None, Ok(value)) => Token::Text { value: Text::from(value), double: quote == '"' },
        (None, Err(_)) => Token::Bad(Fault::Escape),
    };
    (token, at)
}

/// Resolves the escape after a backslash. Returns how many bytes it takes, `None` if it is not an escape.
fn escape(rest: &str, quote: char, value: &mut Vec<u8>) -> Option<usize> {
    let first = rest.chars().next()?;
    let numeric = |from: usize, digits: usize, radix: u32| {
        let part = rest.get(from..from + digits)?;
        part.bytes().all(|b| char::from(b).is_digit(radix)).then(|| u32::from_str_radix(part, radix).ok())?
    };
    let byte = match first {
        'n' => b'\n',
        't' => b'\t',
        'r' => b'\r',
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'v' => 11,
        '\\' => b'\\',
        '"' => b'"',
        '\'' if quote == '\'' => b'\'',
        'x' => {
            value.push(numeric(1, 2, 16)? as u8);
            return Some(3);
        }
        '0'..='7' => {
            value.push(u8::try_from(numeric(0, 3, 8)?).ok()?);
            return Some(3);
        }
        'u' | 'U' => {
            let digits = if first == 'u' { 4 } else { 8 };
            let c = char::from_u32(numeric(1, digits, 16)?)?;
            value.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(1 + digits);
        }
        _ => return None,
    };
    value.push(byte);
    Some(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<Token> {
        let (mut at, mut all) = (0, Vec::new());
        loop {
            let (token, span) = next(text, at);
            at = span.end as usize;
            if token == Token::End {
                return all;
            }
            all.push(token);
        }
    }

    fn text(value: &str) -> Token {
        Token::Text { value: Text::from(value), double: true }
    }

    #[test]
    fn texts_and_their_escapes() {
        for (written, meant) in [
            (r#""a\n\t\r\\\"""#, "a\n\t\r\\\""),
            (r#""\x41\101\u00e9\U0001F600""#, "AAé😀"),
            (r#""\xc3\xa9""#, "é"),
            ("\"\traw tab, ünï\"", "\traw tab, ünï"),
            (r#""it's""#, "it's"),
            (r#""50\\%""#, r"50\%"),
        ] {
            assert_eq!(tokens(written), [text(meant)], "{written}");
        }
        assert_eq!(tokens(r"'it\'s'"), [Token::Text { value: "it's".into(), double: false }]);
        for (written, fault) in [
            (r#""a\qb""#, Fault::Escape),
            (r#""it\'s""#, Fault::Escape),
            (r#""\ud800""#, Fault::Escape),
            (r#""\xff""#, Fault::Escape),
            (r#""\x4""#, Fault::Escape),
            (r#""\777""#, Fault::Escape),
            ("\"a\nb\"", Fault::LineBreak),
            ("\"a", Fault::UnclosedText),
            ("\"a\\", Fault::UnclosedText),
            ("`a", Fault::UnclosedName),
            ("1.2.3", Fault::Number),
            ("#", Fault::Character),
            ("é", Fault::Character),
            ("/* a", Fault::Comment),
        ] {
            assert_eq!(tokens(written), [Token::Bad(fault)], "{written}");
        }
    }

    #[test]
    fn numbers_symbols_and_comments() {
        use Token::{Float, Int, Keyword, Name, Symbol};
        let name = |n: &str| Name(n.into());
        for (written, meant) in [
            ("1 .5 2. 1e3 1.5E-3 007", vec![Int, Float, Float, Float, Float, Int]),
            ("1e 1e+x", vec![Int, name("e"), Int, name("e"), Symbol("+"), name("x")]),
            ("a--1\nb", vec![name("a"), name("b")]),
            ("a - -1", vec![name("a"), Symbol("-"), Symbol("-"), Int]),
            ("a/* - */b", vec![name("a"), name("b")]),
            ("> = <  = ! = <> ->", vec![Symbol(">="), Symbol("<="), Symbol("!="), Symbol("!="), Symbol("->")]),
            ("_id sElEcT ss", vec![name("_id"), Keyword("SELECT"), name("ss")]),
            ("`a.b` ``", vec![Token::Quoted("a.b".into()), Token::Quoted("".into())]),
        ] {
            assert_eq!(tokens(written), meant, "{written}");
        }
    }
}
