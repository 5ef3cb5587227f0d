//! sprig's functions of dates. Layouts are Go's: they show the time 2006-01-02 15:04:05.

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

use super::{Function, int, made, print, text};
use crate::value::Value;

pub const FUNCTIONS: &[Function] = &[
    Function::new("now", (0, 0), |_| {
        Ok(Value::DateTime(std::sync::Arc::new(Zoned::now().with_time_zone(TimeZone::UTC))))
    }),
    Function::new("date", (2, 2), |args| made(written(&text(&args[0]), &at(&args[1])?))),
    Function::new("dateInZone", (3, 3), |args| {
        let zone = TimeZone::get(&text(&args[2])).unwrap_or(TimeZone::UTC);
        made(written(&text(&args[0]), &at(&args[1])?.with_time_zone(zone)))
    }),
    Function::new("htmlDateInZone", (2, 2), |args| {
        let zone = TimeZone::get(&text(&args[1])).unwrap_or(TimeZone::UTC);
        made(written("2006-01-02", &at(&args[0])?.with_time_zone(zone)))
    }),
    Function::new("dateModify", (2, 2), |args| {
        let (by, of) = (text(&args[0]), at(&args[1])?);
        let by: SignedDuration = by.parse().map_err(|_| format!("time: invalid duration {by:?}"))?;
        let moved = of.checked_add(by).map_err(|error| error.to_string())?;
        Ok(Value::DateTime(std::sync::Arc::new(moved)))
    }),
    Function::new("ago", (1, 1), |args| {
        made(duration(Timestamp::now().as_second().saturating_sub(at(&args[0])?.timestamp().as_second())))
    }),
    Function::new("htmlDate", (1, 1), |args| made(written("2006-01-02", &at(&args[0])?))),
    Function::new("unixEpoch", (1, 1), |args| made(at(&args[0])?.timestamp().as_second().to_string())),
    Function::new("duration", (1, 1), |args| made(duration(int(&args[0])))),
];

/// A point in time: a datetime, or seconds since the epoch.
fn at(value: &Value) -> Result<Zoned, String> {
    match value {
        Value::DateTime(at) => Ok((**at).clone()),
        Value::Int(_) | Value::Float(_) => {
            let at = Timestamp::from_second(int(value)).map_err(|error| error.to_string())?;
            Ok(at.to_zoned(TimeZone::UTC))
        }
        Value::Text(text) => {
            let at: Timestamp = text.parse().map_err(|_| format!("{text:?} is not a point in time"))?;
            Ok(at.to_zoned(TimeZone::UTC))
        }
        other => Err(format!("{} is not a point in time", print::type_name(other))),
    }
}

/// `toDate layout text`.
pub fn parsed(args: &[Value]) -> Result<Value, String> {
    let (format, of) = (strftime(&text(&args[0])), text(&args[1]));
    let parsed = jiff::fmt::strtime::parse(&format, &of).map_err(|error| error.to_string())?;
    let at = match parsed.to_zoned() {
        Ok(at) => at,
        Err(_) => {
            let date = parsed.to_date().map_err(|error| error.to_string())?;
            let time = parsed.to_time().unwrap_or_default();
            date.to_datetime(time).to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?
        }
    };
    Ok(Value::DateTime(std::sync::Arc::new(at)))
}

fn written(layout: &str, at: &Zoned) -> String {
    if at.offset() == jiff::tz::Offset::UTC {
        // A layout whose zone begins with Z writes UTC as that letter.
        let layout = layout.replace("Z07:00", "Z").replace("Z0700", "Z");
        return jiff::fmt::strtime::format(strftime(&layout), at).unwrap_or_default();
    }
    jiff::fmt::strtime::format(strftime(layout), at).unwrap_or_default()
}

/// Translates one of Go's layouts to strftime.
fn strftime(layout: &str) -> String {
    const PARTS: &[(&str, &str)] = &[
        ("January", "%B"),
        ("Jan", "%b"),
        ("Monday", "%A"),
        ("Mon", "%a"),
        ("MST", "%Z"),
        ("2006", "%Y"),
        ("-07:00", "%:z"),
        ("-0700", "%z"),
        ("Z07:00", "%:z"),
        ("Z0700", "%z"),
        (".000000000", "%.9f"),
        (".000000", "%.6f"),
        (".000", "%.3f"),
        (".999999999", "%.f"),
        (".999", "%.f"),
        ("002", "%j"),
        ("01", "%m"),
        ("02", "%d"),
        ("03", "%I"),
        ("04", "%M"),
        ("05", "%S"),
        ("06", "%y"),
        ("15", "%H"),
        ("PM", "%p"),
        ("pm", "%P"),
        ("_2", "%e"),
        ("1", "%-m"),
        ("2", "%-d"),
        ("3", "%-I"),
        ("4", "%-M"),
        ("5", "%-S"),
        ("%", "%%"),
    ];
    let mut format = String::with_capacity(layout.len() * 2);
    let mut rest = layout;
    while let Some(first) = rest.chars().next() {
        match PARTS.iter().find(|(part, _)| rest.starts_with(part)) {
            Some((part, percent)) => {
                format.push_str(percent);
                rest = &rest[part.len()..];
            }
            None => {
                format.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
    }
    format
}

/// Writes seconds as Go writes durations: `1h2m3s`.
fn duration(seconds: i64) -> String {
    let (sign, all) = (if seconds < 0 { "-" } else { "" }, seconds.unsigned_abs());
    let (hours, minutes, seconds) = (all / 3600, all / 60 % 60, all % 60);
    match (hours, minutes) {
        (0, 0) => format!("{sign}{seconds}s"),
        (0, _) => format!("{sign}{minutes}m{seconds}s"),
        _ => format!("{sign}{hours}h{minutes}m{seconds}s"),
    }
}
