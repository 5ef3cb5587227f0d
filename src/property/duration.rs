//! Durations as users write them: a number of milliseconds, or text such as `1m30s`.
//!
//! The grammar is that of Go's `time.ParseDuration`, which eKuiper uses, with days added: numbers with units in any
//! order, each with an optional fraction. Neither humantime (no fractions) nor jiff (only descending units, and a
//! fraction only in the last one) parses all of these texts, so the parser is our own.

use std::time::Duration;

use serde_json::Value as Json;

/// The length of one unit in seconds.
const UNITS: &[(&str, f64)] =
    &[("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];

/// Parses a whole number of milliseconds, as a number or as text, or numbers with units. `None` for anything else,
/// including negative durations.
pub fn parse(value: &Json) -> Option<Duration> {
    match value {
        Json::Number(number) => number.as_u64().map(Duration::from_millis),
        Json::String(text) => parse_text(text),
        _ => None,
    }
}

/// The same for a text.
pub fn parse_text(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if let Ok(millis) = rest.parse() {
        return Some(Duration::from_millis(millis));
    }
    if rest.is_empty() {
        return None;
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let is_digit = |c: char| c.is_ascii_digit() || c == '.';
        let (number, tail) = rest.split_at(rest.find(|c| !is_digit(c))?);
        let (unit, tail) = tail.split_at(tail.find(is_digit).unwrap_or(tail.len()));
        let (_, length) = UNITS.iter().find(|(name, _)| *name == unit.trim())?;
        seconds += number.parse::<f64>().ok()? * length;
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).ok()
}

/// Prints a duration as [`parse_text`] parses it, in its largest units: `1m30s`, `250ms`, `0s`.
pub fn display(duration: Duration) -> String {
    let mut nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    let units: [(&str, u128); 7] = [
        ("d", 86_400_000_000_000),
        ("h", 3_600_000_000_000),
        ("m", 60_000_000_000),
        ("s", 1_000_000_000),
        ("ms", 1_000_000),
        ("us", 1_000),
        ("ns", 1),
    ];
    for (unit, length) in units {
        if nanos >= length {
            text.push_str(&format!("{}{unit}", nanos / length));
            nanos %= length;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_a_duration() {
        for (value, micros) in [
            (json!(0), Some(0)),
            (json!(1500), Some(1_500_000)),
            (json!("1500"), Some(1_500_000)),
            (json!(" 10s "), Some(10_000_000)),
            (json!("0"), Some(0)),
            (json!("0s"), Some(0)),
            (json!("1.5s"), Some(1_500_000)),
            (json!(".5s"), Some(500_000)),
            (json!("1.5h30m"), Some(7_200_000_000)),
            (json!("1h1m1s1ms"), Some(3_661_001_000)),
            (json!("1ms1s"), Some(1_001_000)),
            (json!("1d 12h"), Some(129_600_000_000)),
            (json!("250us"), Some(250)),
            (json!("250µs"), Some(250)),
            (json!("9000ns"), Some(9)),
            (json!(1.5), None),
            (json!(-1), None),
            (json!("-1s"), None),
            (json!(""), None),
            (json!("s"), None),
            (json!("1"), Some(1000)),
            (json!("1.5"), None),
            (json!("1x"), None),
            (json!("1S"), None),
            (json!("soon"), None),
            (json!("1..5s"), None),
            (json!("99999999999999999999h"), None),
            (json!(true), None),
            (json!([1]), None),
            (json!(null), None),
        ] {
            assert_eq!(parse(&value).map(|duration| duration.as_micros()), micros, "{value}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for text in ["0s", "1ms", "250ms", "1m30s", "1h", "1d12h", "300ns"] {
            assert_eq!(parse_text(text).map(display).as_deref(), Some(text));
        }
    }
}
