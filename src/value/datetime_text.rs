//! Parses points in time in the many forms that devices and servers write.
//!
//! There is no single format: the shape of the text decides. Texts of digits are distinguished by their separators
//! (`2024-2-29`, `2/28/2024`, `20240229`, `12:30`), texts with names of months by their words, in any order. A date
//! that does not exist is refused.
//!
//! This module knows only text and zones.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

/// Parses a point in time. A text with an offset keeps it, other texts are in `zone`. A time without a date is today's,
/// a date without a year this year's; `now` is in ms since the epoch. Plain digits are a year, a date or an hour, never
/// ms since the epoch: those come as numbers.
pub fn parse(text: &str, zone: &TimeZone, now: i64) -> Option<Zoned> {
    let today = || Timestamp::from_millisecond(now).ok().map(|now| now.to_zoned(zone.clone()).date());
    let moment = if text.is_ascii() {
        digits_form(text, today).or_else(|| words_form(text, today))?
    } else {
        return None;
    };
    let (at, offset) = moment;
    at.to_zoned(offset.map_or_else(|| zone.clone(), TimeZone::fixed)).ok()
}

/// The content of a text: date and time, and the offset if it is written.
type Moment = (DateTime, Option<Offset>);

/// The position in a text, which is ASCII.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// Consumes the digits that come next.
    fn digits(&mut self) -> &'a str {
        let end = self.rest.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        self.rest = rest;
        digits
    }

    /// Consumes a number of one or two digits.
    fn small(&mut self) -> Option<i8> {
        let digits = self.digits();
        if digits.len() > 2 { None } else { digits.parse().ok() }
    }

    /// Consumes the character if it comes next.
    fn eat(&mut self, wanted: char) -> bool {
        match self.rest.strip_prefix(wanted) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn ended(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Parses texts without names.
fn digits_form(text: &str, today: impl Fn() -> Option<Date>) -> Option<Moment> {
    let mut cursor = Cursor { rest: text };
    let first = cursor.digits();
    let date_alone = |date: Date| Some((date.to_datetime(Time::midnight()), None));
    match (first.len(), cursor.rest.bytes().next()) {
        (4, None) => date_alone(Date::new(first.parse().ok()?, 1, 1).ok()?),
        (8, None) => {
            date_alone(Date::new(first[..4].parse().ok()?, first[4..6].parse().ok()?, first[6..].parse().ok()?).ok()?)
        }
        (4, Some(separator @ (b'-' | b'.' | b'/'))) => {
            let separator = char::from(separator);
            cursor.eat(separator);
            let month = cursor.small()?;
            let year = first.parse().ok()?;
            if cursor.ended() && separator == '-' {
                return date_alone(Date::new(year, month, 1).ok()?);
            }
            if !cursor.eat(separator) {
                return None;
            }
            let day_at = cursor.rest;
            let date = Date::new(year, month, cursor.small()?).ok()?;
            // Dates with slashes need two digits for month and day, and so do dates with a `T`.
            let padded = text.len() - day_at.len() == "yyyy-mm-".len() && day_at.len() - cursor.rest.len() == 2;
            if !padded && (separator == '/' || cursor.rest.starts_with('T')) {
                return None;
            }
            time_after(&mut cursor, date, separator)
        }
        (1 | 2, Some(b'/')) => {
            cursor.eat('/');
            let (month, day) = (first.parse().ok()?, cursor.small()?);
            let year = if cursor.eat('/') { cursor.digits() } else { "" };
            if year.len() != 4 {
                return None;
            }
            time_after(&mut cursor, Date::new(year.parse().ok()?, month, day).ok()?, '/')
        }
        (1 | 2, Some(b'-')) => {
            cursor.eat('-');
            let (month, day) = (first.parse().ok()?, cursor.small()?);
            if cursor.ended() { date_alone(Date::new(today()?.year(), month, day).ok()?) } else { None }
        }
        (1 | 2, Some(b':')) => {
            let time = clock(text)?;
            Some((today()?.to_datetime(time), None))
        }
        (1 | 2, None) if first.parse::<i8>().is_ok_and(|hour| hour < 24) => {
            Some((today()?.at(first.parse().ok()?, 0, 0, 0), None))
        }
        _ => None,
    }
}

/// Parses the time that may follow a date. After a `T` it must be complete, and an offset may follow directly; after a
/// blank, an offset and the name of its zone are separate words. Only dates with hyphens can have offsets, and
/// incomplete times cannot.
fn time_after(cursor: &mut Cursor<'_>, date: Date, separator: char) -> Option<Moment> {
    if cursor.ended() {
        return Some((date.to_datetime(Time::midnight()), None));
    }
    let iso = separator == '-';
    let joined = iso && cursor.eat('T');
    if !joined && !cursor.eat(' ') {
        return None;
    }
    let time = if joined { cursor.rest } else { cursor.rest.trim_start_matches(' ') };
    let end = time.bytes().position(|byte| !matches!(byte, b'0'..=b'9' | b':' | b'.' | b','));
    let (time, zone) = time.split_at(end.unwrap_or(time.len()));
    if (joined || !iso) && time.matches(':').count() != 2 {
        return None;
    }
    let at = date.to_datetime(clock(time)?);
    let written = match zone {
        "" => None,
        // After a `T`, the only name of a zone is Z.
        zone if joined && (zone == "Z" || !is_zone_name(zone)) => Some(offset(zone)?),
        zone if iso && !joined => {
            let (digits, name) = zone.strip_prefix(' ')?.split_once(' ')?;
            // The name of the zone repeats the offset, so it is ignored.
            if is_zone_name(digits) || !is_zone_name(name) {
                return None;
            }
            Some(offset(digits)?)
        }
        _ => return None,
    };
    Some((at, written))
}

/// Parses a time of day: `H`, `H:m`, `H:m:s`, with a fraction of seconds, or with `AM` or `PM` at its end.
fn clock(text: &str) -> Option<Time> {
    let half = if text.ends_with("AM") {
        Some(0)
    } else if text.ends_with("PM") {
        Some(12)
    } else {
        None
    };
    let mut cursor = Cursor { rest: if half.is_some() { &text[..text.len() - 2] } else { text } };
    let mut hour = cursor.small()?;
    if let Some(half) = half {
        hour = if (1..=12).contains(&hour) { hour % 12 + half } else { return None };
    }
    let minute = if cursor.eat(':') { cursor.small()? } else { 0 };
    let second = if cursor.eat(':') { cursor.small()? } else { 0 };
    let mut nanos = 0;
    if cursor.eat('.') || cursor.eat(',') {
        let digits = cursor.digits();
        if digits.is_empty() {
            return None;
        }
        let shown = &digits[..digits.len().min(9)];
        nanos = shown.parse::<i32>().ok()? * 10_i32.pow(9 - shown.len() as u32);
    }
    if cursor.ended() { Time::new(hour, minute, second, nanos).ok() } else { None }
}

/// Parses an offset: `Z`, `+08`, `+0800`, `+08:00`, or a zone's abbreviation. Abbreviations are ambiguous and count as
/// UTC.
fn offset(word: &str) -> Option<Offset> {
    if is_zone_name(word) {
        return Some(Offset::UTC);
    }
    let negative = word.starts_with('-');
    let digits = word.strip_prefix(['+', '-'])?;
    let (hours, minutes) = match digits.len() {
        2 => (digits, "0"),
        4 => digits.split_at(2),
        5 => digits.split_once(':')?,
        _ => return None,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b':') {
        return None;
    }
    let (hours, minutes) = (hours.parse::<i32>().ok()?, minutes.parse::<i32>().ok()?);
    let seconds = (hours * 60 + minutes) * 60;
    if hours > 23 || minutes > 59 { None } else { Offset::from_seconds(if negative { -seconds } else { seconds }).ok() }
}

/// Whether this looks like the abbreviation of a zone: `Z`, `UTC`, `CEST`.
fn is_zone_name(word: &str) -> bool {
    word == "Z" || ((3..=5).contains(&word.len()) && word.bytes().all(|byte| byte.is_ascii_uppercase()))
}

/// Parses texts with the name of a month: those of mail, HTTP, `date` and logs.
fn words_form(text: &str, today: impl Fn() -> Option<Date>) -> Option<Moment> {
    let (mut year, mut month, mut day, mut time, mut zone) = (None, None, None, None, None);
    for word in text.split([' ', ',']).filter(|word| !word.is_empty()) {
        let starts_with_digit = word.as_bytes()[0].is_ascii_digit();
        if word.contains(':') && starts_with_digit && time.is_none() {
            time = Some(clock(word)?);
        } else if starts_with_digit && word.contains('-') && day.is_none() && month.is_none() {
            let mut parts = word.split('-');
            day = Some(parts.next()?.parse::<i8>().ok()?);
            month = Some(month_named(parts.next()?)?);
            year = Some(year_of(parts.next()?)?);
            if parts.next().is_some() {
                return None;
            }
        } else if starts_with_digit {
            if word.len() <= 2 && day.is_none() {
                day = Some(word.parse::<i8>().ok()?);
            } else if year.is_none() {
                year = Some(year_of(word)?);
            } else {
                return None;
            }
        } else if let (None, Some(named)) = (month, month_named(word)) {
            month = Some(named);
        } else if let (None, Some(written)) = (zone, offset(word)) {
            zone = Some(written);
        } else if !is_weekday(word) {
            return None;
        }
    }
    let year = match year {
        Some(year) => year,
        None => today()?.year(),
    };
    let date = Date::new(year, month?, day?).ok()?;
    Some((date.to_datetime(time?), zone))
}

/// Parses a year of four digits, or of two: 69 to 99 belong to the 20th century.
fn year_of(digits: &str) -> Option<i16> {
    let year: i16 = digits.parse().ok()?;
    match digits.len() {
        4 => Some(year),
        2 => Some(if year >= 69 { 1900 + year } else { 2000 + year }),
        _ => None,
    }
}

/// The number of a month, by its English name or its first three letters.
fn month_named(word: &str) -> Option<i8> {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    let index = MONTHS.iter().position(|month| named(word, month))?;
    Some(index as i8 + 1)
}

/// Whether this is an English day of the week. It is not checked against the date.
fn is_weekday(word: &str) -> bool {
    ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"].iter().any(|day| named(word, day))
}

/// Whether the word is the name, or its first three letters, regardless of case.
fn named(word: &str, name: &str) -> bool {
    word.eq_ignore_ascii_case(name) || word.eq_ignore_ascii_case(&name[..3])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 2023-11-14T22:13:20Z
    const NOW: i64 = 1_700_000_000_000;

    fn read(text: &str) -> Option<String> {
        parse(text, &TimeZone::UTC, NOW).map(|at| crate::value::cast::rfc3339(&at))
    }

    #[test]
    fn every_form_is_read() {
        for (text, expected) in [
            ("2024", "2024-01-01T00:00:00Z"),
            ("2024-2", "2024-02-01T00:00:00Z"),
            ("2024-2-9", "2024-02-09T00:00:00Z"),
            ("2024-02-29 12", "2024-02-29T12:00:00Z"),
            ("2024-02-29 12:34", "2024-02-29T12:34:00Z"),
            ("2024-02-29 12:34:56.5", "2024-02-29T12:34:56.5Z"),
            ("2024-02-29T12:34:56", "2024-02-29T12:34:56Z"),
            ("2024-02-29T12:34:56.123456Z", "2024-02-29T12:34:56.123456Z"),
            ("2024-02-29T12:34:56+08:00", "2024-02-29T12:34:56+08:00"),
            ("2024-02-29T12:34:56-0530", "2024-02-29T12:34:56-05:30"),
            ("2024-02-29T12:34:56+08", "2024-02-29T12:34:56+08:00"),
            ("1970-01-01 00:00:00 +0000 UTC", "1970-01-01T00:00:00Z"),
            ("2024.2.9", "2024-02-09T00:00:00Z"),
            ("2024.02.29 01:02:03", "2024-02-29T01:02:03Z"),
            ("2024/02/29 01:02:03", "2024-02-29T01:02:03Z"),
            ("2/28/2024", "2024-02-28T00:00:00Z"),
            ("2/28/2024 1:2:3", "2024-02-28T01:02:03Z"),
            ("20240229", "2024-02-29T00:00:00Z"),
            ("3-7", "2023-03-07T00:00:00Z"),
            ("12:34:56", "2023-11-14T12:34:56Z"),
            ("7:05", "2023-11-14T07:05:00Z"),
            ("7", "2023-11-14T07:00:00Z"),
            ("3:04PM", "2023-11-14T15:04:00Z"),
            ("12:04AM", "2023-11-14T00:04:00Z"),
            ("1:2:3 Feb 9, 2024 UTC", "2024-02-09T01:02:03Z"),
            ("Thu Feb 29 12:34:56 2024", "2024-02-29T12:34:56Z"),
            ("Thu Feb 29 12:34:56 UTC 2024", "2024-02-29T12:34:56Z"),
            ("Thu Feb 29 12:34:56 +0100 2024", "2024-02-29T12:34:56+01:00"),
            ("29 Feb 24 12:34 UTC", "2024-02-29T12:34:00Z"),
            ("29 Feb 24 12:34 -0700", "2024-02-29T12:34:00-07:00"),
            ("Thursday, 29-Feb-24 12:34:56 UTC", "2024-02-29T12:34:56Z"),
            ("Thu, 29 Feb 2024 12:34:56 GMT", "2024-02-29T12:34:56Z"),
            ("Thu, 29 Feb 2024 12:34:56 +0000", "2024-02-29T12:34:56Z"),
            ("Feb  9 12:34:56.789", "2023-02-09T12:34:56.789Z"),
            ("2024-02-29  12:34:56", "2024-02-29T12:34:56Z"),
            ("2024-02-29T1:02:03Z", "2024-02-29T01:02:03Z"),
            ("2024-02-29 12:34:56.5 -0700 MST", "2024-02-29T12:34:56.5-07:00"),
        ] {
            assert_eq!(read(text).as_deref(), Some(expected), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "yesterday",
            "2023-02-30",
            "2024-02-29 25:00:00",
            "2024-13",
            "28/2/2024",
            "20240230",
            "2024-02-29x",
            "2024-02-29 12:34:56 yes",
            "13:04PM",
            "12:34:56.",
            "Feb 30 12:00:00",
            "2024-02-29T12:00:00+99:99",
            "2024-02-29T12:00:00+24:00",
            "2024-02-29T12:00:00 Z",
            "2024-02-29T12:00:00UTC",
            "2024-02-29T12:00",
            "2024-02-29T12",
            "2024-2-29T12:00:00Z",
            "2024-02-29 12:00:00Z",
            "2024-02-29 12:00:00+08:00",
            "2024-02-29 12:00:00 +0800",
            "2024-02-29 12:00:00 UTC",
            "2024.02.29T12:00:00",
            "2024.02.29 12:00",
            "2024/02/29 12",
            "2024/2/9",
            "202402",
            "1700000000000",
            "-1000",
            "٣",
            "99999999999999999999",
        ] {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-+0-9 :.,/TZAPMJaneb]{0,24}") {
            let _ = read(&text);
        }
    }
}
