//! Points in time from text of one written form: the patterns of TIMESTAMP_FORMAT, such as `dd.MM.yyyy HH:mm:ss`.
//!
//! The letters are those of the language; they become a pattern of jiff's once, when the stream is created, so that a
//! message only pays for reading. This module knows text and zones only.

use jiff::Zoned;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;

/// A pattern that texts are read by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimePattern {
    /// the pattern in jiff's directives
    directives: String,
}

impl TimePattern {
    /// The pattern that is written in letters: `yyyy yy MMMM MMM MM M dd d EEEE EEE HH hh h mm m ss s S… a z Z X XX XXX`,
    /// `'text'`, `\x`; other characters stand for themselves. `None` where a letter stands in a number that means
    /// nothing (`yyy`).
    pub fn new(pattern: &str) -> Option<TimePattern> {
        let mut directives = String::with_capacity(pattern.len() * 2);
        let mut rest = pattern.chars().peekable();
        while let Some(letter) = rest.next() {
            match letter {
                '\\' => literal(rest.next()?, &mut directives),
                '\'' => loop {
                    match rest.next()? {
                        '\'' => break,
                        other => literal(other, &mut directives),
                    }
                },
                '.' if rest.peek() == Some(&'S') => {}
                'a'..='z' | 'A'..='Z' => {
                    let mut count = 1;
                    while rest.next_if_eq(&letter).is_some() {
                        count += 1;
                    }
                    match directive(letter, count)? {
                        "" => (0..count).for_each(|_| literal(letter, &mut directives)),
                        known => directives.push_str(known),
                    }
                }
                other => literal(other, &mut directives),
            }
        }
        Some(TimePattern { directives })
    }

    /// The point in time that the text names; without an offset it is in `zone`. What the pattern leaves out is the
    /// first of its kind (day, month, midnight), and the year of 1970. `None` where the text has another form.
    pub fn parse(&self, text: &str, zone: &TimeZone) -> Option<Zoned> {
        let mut time = strtime::parse(&self.directives, text).ok()?;
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

fn literal(character: char, directives: &mut String) {
    if character == '%' {
        directives.push('%');
    }
    directives.push(character);
}

/// jiff's directive for so many of this letter; empty: the letter means itself.
fn directive(letter: char, count: usize) -> Option<&'static str> {
    Some(match (letter, count) {
        ('y' | 'Y', 4) => "%Y",
        ('y' | 'Y', 2) => "%y",
        ('M', 4) => "%B",
        ('M', 3) => "%b",
        ('M', 1 | 2) => "%m",
        ('d', 1 | 2) => "%d",
        ('E', 4) => "%A",
        ('E', 3) => "%a",
        ('H', 1 | 2) => "%H",
        ('h', 1 | 2) => "%I",
        ('m', 1 | 2) => "%M",
        ('s', 1 | 2) => "%S",
        ('S', _) => "%.f",
        ('a', _) => "%p",
        ('z', _) => "%Q",
        ('Z', _) | ('X', 1 | 2) => "%z",
        ('X', 3) => "%:z",
        ('y' | 'Y' | 'M' | 'd' | 'E' | 'H' | 'h' | 'm' | 's' | 'X', _) => return None,
        _ => "",
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
        }
    }
}
