//! Points in time in one written form, such as `dd.MM.yyyy HH:mm:ss`: TIMESTAMP_FORMAT parses text by such a pattern,
//! `format_time` writes by one.
//!
//! The letters are those of the rule language. They become one of jiff's patterns when the stream or rule is made, so a
//! message only costs the parsing or writing. This module knows only text and zones.

use jiff::Zoned;
use jiff::fmt::strtime;
use jiff::tz::{Offset, TimeZone};

/// A pattern without a meaning: `yyy`, or a quote that is not closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("invalid time format {pattern} for {letters}")]
    Letters {
        pattern: String,
        /// the letter and its number, `Y/y` for years
        letters: String,
    },
    /// The pattern ends inside quotes or after `\`.
    #[error("invalid time format {pattern}: it ends where more text must come")]
    Open { pattern: String },
}

/// A pattern for parsing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimePattern {
    /// the pattern in jiff's directives
    directives: String,
    /// the same with the text `Z`, which stands for UTC, in place of the offset; `None` if the pattern has no offset
    zulu: Option<String>,
}

impl TimePattern {
    /// Makes a pattern of letters: `yyyy yy MMMM MMM MM M dd d EEEE EEE HH H hh h mm m ss s S… a z Z X XX XXX`,
    /// `'text'`, `''`, `\x`; other characters are literal. `None` if a letter is repeated a number of times that has no
    /// meaning (`yyy`).
    pub fn new(pattern: &str) -> Option<TimePattern> {
        let read = directives(pattern, read_by).ok()?;
        let zulu = directives(pattern, read_zulu_by).ok().filter(|zulu| *zulu != read);
        Some(TimePattern { directives: read, zulu })
    }

    /// Parses a point in time; without an offset it is in `zone`. Missing parts are the first possible ones (first day,
    /// January, midnight), a missing year is 1970. `Z` is the offset of UTC. `None` if the text does not match.
    pub fn parse(&self, text: &str, zone: &TimeZone) -> Option<Zoned> {
        let mut time = match (strtime::parse(&self.directives, text), &self.zulu) {
            (Ok(time), _) => time,
            (Err(_), None) => return None,
            (Err(_), Some(zulu)) => {
                let mut time = strtime::parse(zulu, text).ok()?;
                time.set_offset(Some(Offset::UTC));
                time
            }
        };
        if time.year().is_none() {
            time.set_year(Some(1970)).ok()?;
        }
        if time.month().is_none() {
            time.set_month(Some(1)).ok()?;
        }
        if time.day().is_none() {
            time.set_day(Some(1)).ok()?;
        }
        if time.hour().is_none() {
            time.set_hour(Some(0)).ok()?;
        }
        let at = time.to_datetime().ok()?;
        let zone = match (time.offset(), time.iana_time_zone()) {
            (Some(offset), _) => TimeZone::fixed(offset),
            (None, Some(name)) => TimeZone::get(name).ok()?,
            (None, None) => zone.clone(),
        };
        at.to_zoned(zone).ok()
    }
}

/// A pattern for writing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormat {
    /// the pattern in jiff's directives
    directives: String,
    /// the same for zones that are a bare offset: `z` writes the offset there
    unnamed: String,
}

impl TimeFormat {
    /// Makes a pattern of letters: those of [`TimePattern`] and `G`, but hours of the day are `HH` only.
    ///
    /// # Errors
    /// A letter is repeated a number of times that has no meaning, or a quote is not closed.
    pub fn new(pattern: &str) -> Result<TimeFormat, PatternError> {
        let offset_for_name =
            |letter, count| if letter == 'z' { written_by('Z', count) } else { written_by(letter, count) };
        Ok(TimeFormat { directives: directives(pattern, written_by)?, unnamed: directives(pattern, offset_for_name)? })
    }

    /// The text of a point in time, in its own zone.
    ///
    /// # Errors
    /// jiff cannot write it; no known pattern causes this.
    pub fn text(&self, at: &Zoned) -> Result<String, jiff::Error> {
        let zone = at.time_zone();
        let unnamed = zone.iana_name().is_none() && zone.to_fixed_offset().is_ok_and(|offset| offset != Offset::UTC);
        strtime::format(if unnamed { &self.unnamed } else { &self.directives }, at)
    }
}

/// The directive of jiff for a run of a letter.
enum Directive {
    Known(&'static str),
    /// the point and this many digits of the second
    Fraction(usize),
    /// the letters themselves
    Literal,
    /// the letter has no meaning when repeated this often
    Invalid,
}

/// Translates the pattern to jiff's directives; `directive` translates a run of letters.
fn directives(pattern: &str, directive: fn(char, usize) -> Directive) -> Result<String, PatternError> {
    let open = || PatternError::Open { pattern: pattern.to_owned() };
    let mut directives = String::with_capacity(pattern.len() * 2);
    let mut rest = pattern.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '\\' => literal(rest.next().ok_or_else(open)?, &mut directives),
            '\'' if rest.next_if_eq(&'\'').is_some() => literal('\'', &mut directives),
            '\'' => loop {
                match rest.next().ok_or_else(open)? {
                    '\'' => break,
                    other => literal(other, &mut directives),
                }
            },
            // The point is part of the fraction, which writes it or not.
            '.' if rest.peek() == Some(&'S') => {}
            'a'..='z' | 'A'..='Z' => {
                let mut count = 1;
                while rest.next_if_eq(&letter).is_some() {
                    count += 1;
                }
                match directive(letter, count) {
                    Directive::Known(known) => directives.push_str(known),
                    // Digits below nanoseconds do not exist.
                    Directive::Fraction(digits) => directives.push_str(&format!("%.{}f", digits.min(9))),
                    Directive::Literal => (0..count).for_each(|_| literal(letter, &mut directives)),
                    Directive::Invalid => {
                        let letters = if matches!(letter, 'y' | 'Y') { "Y/y".to_owned() } else { letter.to_string() };
                        return Err(PatternError::Letters { pattern: pattern.to_owned(), letters });
                    }
                }
            }
            other => literal(other, &mut directives),
        }
    }
    Ok(directives)
}

fn literal(character: char, directives: &mut String) {
    if character == '%' {
        directives.push('%');
    }
    directives.push(character);
}

/// The directive that parses this run of a letter. Numbers may have fewer digits.
fn read_by(letter: char, count: usize) -> Directive {
    match (letter, count) {
        ('H', 1) => Directive::Known("%H"),
        ('S', _) => Directive::Known("%.f"),
        ('z', _) => Directive::Known("%Q"),
        ('G', _) => Directive::Literal,
        _ => written_by(letter, count),
    }
}

/// As [`read_by`], for texts with `Z` in place of an offset.
fn read_zulu_by(letter: char, count: usize) -> Directive {
    match (letter, read_by(letter, count)) {
        ('Z' | 'X', Directive::Known(_)) => Directive::Known("Z"),
        (_, other) => other,
    }
}

/// The directive that writes this run of a letter.
fn written_by(letter: char, count: usize) -> Directive {
    Directive::Known(match (letter, count) {
        ('y' | 'Y', 4) => "%Y",
        ('y' | 'Y', 2) => "%y",
        ('M', 4) => "%B",
        ('M', 3) => "%b",
        ('M', 2) => "%m",
        ('M', 1) => "%-m",
        ('d', 2) => "%d",
        ('d', 1) => "%-d",
        ('E', 4) => "%A",
        ('E', 3) => "%a",
        ('H', 2) => "%H",
        ('h', 2) => "%I",
        ('h', 1) => "%-I",
        ('m', 2) => "%M",
        ('m', 1) => "%-M",
        ('s', 2) => "%S",
        ('s', 1) => "%-S",
        ('S', digits) => return Directive::Fraction(digits),
        ('a', _) => "%p",
        ('z', _) => "%Z",
        ('Z', _) | ('X', 2) => "%z",
        ('X', 1) => "%:::z",
        ('X', 3) => "%:z",
        // The language has no text for years before the first.
        ('G', _) => "AD",
        ('y' | 'Y' | 'M' | 'd' | 'E' | 'H' | 'h' | 'm' | 's' | 'X', _) => return Directive::Invalid,
        _ => return Directive::Literal,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_by_their_pattern() {
        for (pattern, text, expected) in [
            ("dd.MM.yyyy HH:mm:ss", "14.11.2023 22:13:20", Some("2023-11-14T22:13:20+01:00")),
            ("d.M.yyyy H:m", "4.1.2023 2:03", Some("2023-01-04T02:03:00+01:00")),
            ("yyyyMMddHHmmss", "20231114221320", Some("2023-11-14T22:13:20+01:00")),
            ("yyyy-MM-dd'T'HH:mm:ssSSS", "2023-11-14T22:13:20.125", Some("2023-11-14T22:13:20.125+01:00")),
            ("yyyy-MM-ddTHH:mm:ss.SSS", "2023-11-14T22:13:20.125", Some("2023-11-14T22:13:20.125+01:00")),
            ("yyyy-MM-dd HH:mm:ss Z", "2023-11-14 22:13:20 +0900", Some("2023-11-14T22:13:20+09:00")),
            ("yyyy-MM-dd HH:mm:ssXXX", "2023-11-14 22:13:20-03:30", Some("2023-11-14T22:13:20-03:30")),
            ("dd.MM.yyyy HH:mm:ss X", "19.09.2019 18:55:15 +07", Some("2019-09-19T18:55:15+07:00")),
            ("dd.MM.yyyy HH:mm:ss X", "19.09.2019 18:55:15 -11", Some("2019-09-19T18:55:15-11:00")),
            ("yyyy-MM-ddTHH:mm:ssX", "2023-11-14T22:13:20Z", Some("2023-11-14T22:13:20+00:00")),
            ("yyyy-MM-ddTHH:mm:ss.SSSXXX", "2023-11-14T22:13:20.125Z", Some("2023-11-14T22:13:20.125+00:00")),
            ("yyyy-MM-dd HH:mm:ss Z", "2023-11-14 22:13:20 Z", Some("2023-11-14T22:13:20+00:00")),
            ("yyyy-MM-dd HH:mm:ss", "2023-11-14 22:13:20Z", None),
            ("MMM d, yyyy h:mm a", "Nov 14, 2023 10:13 PM", Some("2023-11-14T22:13:00+01:00")),
            ("EEE, dd MMMM yy", "Tue, 14 November 23", Some("2023-11-14T00:00:00+01:00")),
            ("yyyy", "2023", Some("2023-01-01T00:00:00+01:00")),
            ("100% yyyy", "100% 2023", Some("2023-01-01T00:00:00+01:00")),
            ("dd.MM.yyyy", "30.02.2023", None),
            ("dd.MM.yyyy", "14.11.2023 and more", None),
            ("dd.MM.yyyy", "", None),
        ] {
            let zone = TimeZone::get("Europe/Berlin").unwrap();
            let read = TimePattern::new(pattern).unwrap().parse(text, &zone);
            let read = read.map(|at| at.strftime("%Y-%m-%dT%H:%M:%S%.f%:z").to_string());
            assert_eq!(read.as_deref(), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn times_are_written_by_their_pattern() {
        let at = |text: &str| crate::value::datetime_text::parse(text, &TimeZone::UTC, 0).unwrap();
        let zoned = |zone: &str| at("2024-02-29T12:34:56.789Z").with_time_zone(TimeZone::get(zone).unwrap());
        for (pattern, time, expected) in [
            ("yyyy YYYY yy YY", at("2024"), "2024 2024 24 24"),
            ("M MM MMM MMMM", at("2024-02-09"), "2 02 Feb February"),
            ("d dd EEE EEEE", at("2024-02-08"), "8 08 Thu Thursday"),
            ("HH h hh a", at("2024-02-08T00:05:09Z"), "00 12 12 AM"),
            ("HH h hh a", at("2024-02-08T15:05:09Z"), "15 3 03 PM"),
            ("m mm s ss", at("2024-02-08T00:05:09Z"), "5 05 9 09"),
            ("ssS ssSS ssSSS", at("2024-02-08T00:05:09.789Z"), "09.7 09.78 09.789"),
            ("ssSSSSSS", at("2024-02-08T00:05:09.789Z"), "09.789000"),
            ("ss.SSS", at("2024-02-08T00:05:09.7896Z"), "09.789"),
            ("ssSSS", at("2024-02-08T00:05:09Z"), "09.000"),
            ("ssSSSSSSSSSSSS", at("2024-02-08T00:05:09.7Z"), "09.700000000"),
            ("z Z X XX XXX", zoned("Asia/Tokyo"), "JST +0900 +09 +0900 +09:00"),
            ("z Z X XX XXX", at("2024-02-08T00:05:09Z"), "UTC +0000 +00 +0000 +00:00"),
            ("z", at("2024-02-08T00:05:09+08:00"), "+0800"),
            ("z Z XXX", at("2024-02-08T00:05:09-03:30"), "-0330 -0330 -03:30"),
            ("G", at("2024"), "AD"),
            ("yyyy-MM-ddTHH:mm:ss\\Z", at("2024-02-29T12:34:56Z"), "2024-02-29T12:34:56Z"),
            ("'day' d 'o''clock' ''", at("2024-02-29T12:34:56Z"), "day 29 oclock '"),
            ("100% \\y é", at("2024"), "100% y é"),
            ("", at("2024"), ""),
        ] {
            assert_eq!(TimeFormat::new(pattern).unwrap().text(&time).unwrap(), expected, "{pattern}");
        }
        for (pattern, letters) in [("y", "Y/y"), ("yyyyy", "Y/y"), ("H:mm", "H"), ("EE", "E"), ("XXXX", "X")] {
            let error = TimeFormat::new(pattern).unwrap_err().to_string();
            assert_eq!(error, format!("invalid time format {pattern} for {letters}"));
        }
        assert!(TimeFormat::new("'open").is_err());
    }

    #[test]
    fn patterns_that_mean_nothing_are_refused() {
        for pattern in ["yyy", "EE", "'open", "ddd", "hhh", "\\"] {
            assert_eq!(TimePattern::new(pattern), None, "{pattern}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_pattern_and_no_text_is_too_much(pattern in ".{0,40}", text in ".{0,40}") {
            if let Some(pattern) = TimePattern::new(&pattern) {
                let _ = pattern.parse(&text, &TimeZone::UTC);
            }
            if let Ok(format) = TimeFormat::new(&pattern) {
                proptest::prop_assert!(format.text(&jiff::Timestamp::UNIX_EPOCH.to_zoned(TimeZone::UTC)).is_ok());
            }
        }
    }
}
