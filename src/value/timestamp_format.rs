//! TIMESTAMP_FORMAT: how the times of a stream are written, either as text in a pattern or as a count since the epoch.

use jiff::Timestamp;

use super::Value;
use super::datetime_pattern::TimePattern;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimestampFormat {
    /// text in this form; other text is read by its shape, and numbers are ms since the epoch
    Pattern(TimePattern),
    /// a count since the epoch, as a number or as a text of digits
    Epoch(EpochUnit),
}

/// The unit of a count since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochUnit {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

/// The names of the units in TIMESTAMP_FORMAT.
const EPOCHS: [(&str, EpochUnit); 4] = [
    ("epoch_s", EpochUnit::Seconds),
    ("epoch_ms", EpochUnit::Millis),
    ("epoch_us", EpochUnit::Micros),
    ("epoch_ns", EpochUnit::Nanos),
];

impl TimestampFormat {
    /// Parses the option's value; `None` for an invalid pattern.
    pub fn new(text: &str) -> Option<TimestampFormat> {
        match EPOCHS.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)) {
            Some((_, unit)) => Some(TimestampFormat::Epoch(*unit)),
            None => TimePattern::new(text).map(TimestampFormat::Pattern),
        }
    }
}

impl EpochUnit {
    /// The name in TIMESTAMP_FORMAT.
    pub fn name(self) -> &'static str {
        EPOCHS.iter().find(|(_, unit)| *unit == self).map_or("", |(name, _)| name)
    }

    /// The likely unit of a count that is probably not in milliseconds, if it is a time around the present. `None` if
    /// it may be milliseconds, or is too small to decide.
    pub fn guess(count: i64) -> Option<EpochUnit> {
        match count.unsigned_abs() {
            // 2001 to 2128 in the guessed unit.
            1_000_000_000..=4_999_999_999 => Some(EpochUnit::Seconds),
            1_000_000_000_000_000..=4_999_999_999_999_999 => Some(EpochUnit::Micros),
            1_000_000_000_000_000_000..=4_999_999_999_999_999_999 => Some(EpochUnit::Nanos),
            _ => None,
        }
    }

    /// The point in time of a number, or of a text that is a number.
    pub fn timestamp(self, count: &Value) -> Option<Timestamp> {
        let nanos = match count {
            Value::Int(count) => self.nanos_of(*count)?,
            Value::Float(count) => self.nanos_of_float(*count)?,
            Value::Text(text) => match text.trim().parse() {
                Ok(count) => self.nanos_of(count)?,
                Err(_) => self.nanos_of_float(text.trim().parse().ok()?)?,
            },
            Value::DateTime(at) => return Some(at.timestamp()),
            _ => return None,
        };
        Timestamp::from_nanosecond(nanos).ok()
    }

    fn nanos(self) -> i64 {
        match self {
            EpochUnit::Seconds => 1_000_000_000,
            EpochUnit::Millis => 1_000_000,
            EpochUnit::Micros => 1_000,
            EpochUnit::Nanos => 1,
        }
    }

    fn nanos_of(self, count: i64) -> Option<i128> {
        i128::from(count).checked_mul(self.nanos().into())
    }

    fn nanos_of_float(self, count: f64) -> Option<i128> {
        // Beyond this, jiff has no times.
        if count.is_nan() || count.abs() * self.nanos() as f64 > 1e21 {
            return None;
        }
        // A double near the present has no digits below a microsecond; anything there is noise.
        let fraction = (count.fract() * self.nanos() as f64 / 1e3).round() * 1e3;
        Some(count.trunc() as i128 * i128::from(self.nanos()) + fraction as i128)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_times() {
        for (format, count, ms) in [
            ("epoch_s", Value::Int(1_700_000_000), Some(1_700_000_000_000)),
            ("EPOCH_S", Value::Float(1_700_000_000.25), Some(1_700_000_000_250)),
            ("epoch_s", "1534614057.321".into(), Some(1_534_614_057_321)),
            ("epoch_ms", "1597026383085".into(), Some(1_597_026_383_085)),
            ("epoch_us", Value::Int(1_700_000_000_123_456), Some(1_700_000_000_123)),
            ("epoch_ns", Value::Int(1_700_000_000_123_456_789), Some(1_700_000_000_123)),
            ("epoch_s", "soon".into(), None),
            ("epoch_s", Value::Int(i64::MAX), None),
            ("epoch_s", Value::Float(f64::NAN), None),
            ("epoch_s", Value::Bool(true), None),
        ] {
            let Some(TimestampFormat::Epoch(unit)) = TimestampFormat::new(format) else { panic!("{format}") };
            assert_eq!(unit.timestamp(&count).map(Timestamp::as_millisecond), ms, "{format} {count:?}");
        }
        assert!(matches!(TimestampFormat::new("yyyy-MM-dd"), Some(TimestampFormat::Pattern(_))));
        assert_eq!(TimestampFormat::new("yyy"), None);
    }

    #[test]
    fn units_are_guessed_for_the_present_alone() {
        for (count, unit) in [
            (1_700_000_000, Some("epoch_s")),
            (1_700_000_000_000, None),
            (1_700_000_000_000_000, Some("epoch_us")),
            (1_700_000_000_000_000_000, Some("epoch_ns")),
            (1000, None),
        ] {
            assert_eq!(EpochUnit::guess(count).map(EpochUnit::name), unit, "{count}");
        }
    }
}
