//! Functions of dates and times.
//!
//! A time is any value that `cast(x, "datetime")` accepts: a datetime, ms since 1970, or text in one of many formats.
//! Its parts are taken in its own zone: the offset in the text, otherwise the configured zone. Results that are text in
//! eKuiper are text here too.

use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, Zoned};

use super::{
    Args, CallContext, Code, Family, Function, FunctionError, FunctionResult, Param, PreparedFn, Returns, domain,
};
use crate::value::Value;
use crate::value::cast::{int, text, to_datetime};
use crate::value::datetime_pattern::{PatternError, TimeFormat};

const TIME: &[(&str, Param)] = &[("time", Param::DateTime)];
const PRECISION: &[(&str, Param)] = &[("precision", Param::IntLiteral)];

const fn of(name: &'static str, params: &'static [(&'static str, Param)], returns: Returns, code: Code) -> Function {
    Function::new(name, Family::DateTime, params, returns, code)
}

/// A function of a time that returns a whole number.
const fn part(name: &'static str, code: super::ScalarFn) -> Function {
    of(name, TIME, Returns::Int, Code::Scalar(code))
}

/// A function of a time that returns text.
const fn name_of(name: &'static str, code: super::ScalarFn) -> Function {
    of(name, TIME, Returns::Text, Code::Scalar(code))
}

/// A function that returns the current time, with the given number of fractional digits.
const fn clock(name: &'static str, code: super::ScalarFn) -> Function {
    of(name, PRECISION, Returns::Text, Code::Scalar(code)).required(0).check(precision).not_deterministic()
}

pub(super) static FUNCTIONS: &[Function] = &[
    of(
        "cur_date",
        &[],
        Returns::Text,
        Code::Scalar(|_, context| written("%Y-%m-%d", &moment(context.now, context.zone)?)),
    )
    .aliases(&["current_date"])
    .not_deterministic()
    .doc("Today as text, `yyyy-MM-dd`, in the configured zone.", &[]),
    clock("cur_time", |args, context| now_as("%H:%M:%S", args, context)).aliases(&["current_time"]).doc(
        "The time of day as text, `HH:mm:ss`, in the configured zone; with a precision of 1 to 6, that many digits \
         of the second's fraction are added.",
        &[],
    ),
    of(
        "date_calc",
        &[("time", Param::DateTimeOrText), ("duration", Param::TextLiteral)],
        Returns::Text,
        Code::Prepared(date_calc),
    )
    .doc(
        "The time plus a duration, as text `yyyy-MM-dd HH:mm:ss`. A duration consists of numbers with units, such as \
         `1h30m`, `-24h`, `1.5s`; units are `h`, `m`, `s`, `ms`, `us` or `µs`, and `ns`.",
        &[
            ("date_calc(\"2019-01-01\", \"1h30m\")", "\"2019-01-01 01:30:00\""),
            ("date_calc(\"2024-03-01 00:30:00\", \"-24h\")", "\"2024-02-29 00:30:00\""),
            ("date_calc(\"2024-01-01 00:00:00.6\", \"500ms\")", "\"2024-01-01 00:00:01\""),
        ],
    ),
    of("date_diff", &[("from", Param::DateTime), ("to", Param::DateTime)], Returns::Int, Code::Scalar(date_diff)).doc(
        "The nanoseconds from the first time to the second; negative if the second is earlier.",
        &[("date_diff(cast(\"2024-01-01\", \"datetime\"), cast(\"2024-01-03\", \"datetime\"))", "172800000000000")],
    ),
    part("day_of_month", |args, context| Ok(Value::from(i64::from(time(args, context)?.day()))))
        .aliases(&["day"])
        .doc("The day of the month, from 1.", &[("day(cast(\"2024-02-29\", \"datetime\"))", "29")]),
    name_of("day_name", |args, context| written("%A", &*time(args, context)?)).doc(
        "The English name of the day of the week.",
        &[("day_name(cast(\"2024-02-29\", \"datetime\"))", "\"Thursday\"")],
    ),
    part("day_of_week", |args, context| {
        Ok(Value::from(i64::from(time(args, context)?.weekday().to_sunday_zero_offset())))
    })
    .doc("The day of the week: 0 is Sunday, 6 Saturday.", &[("day_of_week(cast(\"2024-09-01\", \"datetime\"))", "0")]),
    part("day_of_year", |args, context| Ok(Value::from(i64::from(time(args, context)?.day_of_year()))))
        .doc("The day of the year, from 1.", &[("day_of_year(cast(\"2024-12-31\", \"datetime\"))", "366")]),
    of(
        "format_time",
        &[("time", Param::DateTime), ("pattern", Param::Text)],
        Returns::Text,
        Code::Prepared(format_time),
    )
    .doc(
        "The time as text by a pattern. Letters: `yyyy yy` year, `M MM MMM MMMM` month (number or name), `d dd` day, \
         `EEE EEEE` day of the week, `HH` hour, `h hh` hour from 1 to 12, `a` AM or PM, `m mm` minute, `s ss` second, \
         `S…` the decimal point and this many digits of the second (`ssSSS` and `ss.SSS` are the same), `z` the \
         zone's name, `Z` and `XX` its offset as +0900, `X` as +09, `XXX` as +09:00, `G` AD. `YYYY` and `YY` mean \
         `yyyy` and `yy`. `'text'`, `\\x` and all other characters are copied; `''` is a quote.",
        &[
            ("format_time(cast(1709210096789, \"datetime\"), \"yyyy-MM-dd HH:mm:ss\")", "\"2024-02-29 12:34:56\""),
            (
                "format_time(cast(1709210096789, \"datetime\"), \"EEE, d MMM yy h:mm:ssSSS a\")",
                "\"Thu, 29 Feb 24 12:34:56.789 PM\"",
            ),
            ("format_time(cast(\"2024-02-29T12:34:56+08:00\", \"datetime\"), \"HH 'at' XXX\")", "\"12 at +08:00\""),
        ],
    ),
    of("from_days", &[("days", Param::Int)], Returns::Text, Code::Scalar(from_days)).doc(
        "The date of a day number, as text `yyyy-MM-dd`: 1 is 1970-01-01. 0 gives null.",
        &[("from_days(366)", "\"1971-01-01\""), ("from_days(-1)", "\"1969-12-30\""), ("from_days(0)", "")],
    ),
    of("from_unix_time", &[("seconds", Param::Int)], Returns::Text, Code::Scalar(from_unix_time)).doc(
        "Converts seconds since 1970 (UTC) to a time, as text `yyyy-MM-dd HH:mm:ss` in the configured zone.",
        &[
            ("from_unix_time(1700000000)", "\"2023-11-14 22:13:20\""),
            ("from_unix_time(0)", "\"1970-01-01 00:00:00\""),
            ("from_unix_time(-1)", "\"1969-12-31 23:59:59\""),
        ],
    ),
    part("hour", |args, context| Ok(Value::from(i64::from(time(args, context)?.hour()))))
        .doc("The hour, from 0 to 23.", &[("hour(cast(\"2024-02-29 12:34:56\", \"datetime\"))", "12")]),
    name_of("last_day", |args, context| {
        let at = time(args, context)?;
        let last = at.date().last_of_month();
        Ok(last.to_string().into())
    })
    .doc(
        "The last day of the time's month, as text `yyyy-MM-dd`.",
        &[("last_day(cast(\"2024-02-01\", \"datetime\"))", "\"2024-02-29\"")],
    ),
    part("microsecond", |args, context| Ok(Value::from(i64::from(time(args, context)?.subsec_nanosecond() / 1000))))
        .doc(
            "The fraction of the second in µs, from 0 to 999999.",
            &[("microsecond(cast(1709210096789, \"datetime\"))", "789000")],
        ),
    part("minute", |args, context| Ok(Value::from(i64::from(time(args, context)?.minute()))))
        .doc("The minute, from 0 to 59.", &[("minute(cast(\"2024-02-29 12:34:56\", \"datetime\"))", "34")]),
    part("month", |args, context| Ok(Value::from(i64::from(time(args, context)?.month()))))
        .doc("The month, from 1 to 12.", &[("month(cast(\"2024-02-29\", \"datetime\"))", "2")]),
    name_of("month_name", |args, context| written("%B", &*time(args, context)?))
        .doc("The English name of the month.", &[("month_name(cast(\"2024-02-29\", \"datetime\"))", "\"February\"")]),
    clock("now", |args, context| now_as("%Y-%m-%d %H:%M:%S", args, context))
        .aliases(&["current_timestamp", "local_time", "local_timestamp"])
        .doc(
            "The current time as text, `yyyy-MM-dd HH:mm:ss`, in the configured zone; with a precision of 1 to 6, \
             that many digits of the second's fraction are added. The clock is read to the millisecond.",
            &[],
        ),
    part("second", |args, context| Ok(Value::from(i64::from(time(args, context)?.second()))))
        .doc("The second, from 0 to 59.", &[("second(cast(\"2024-02-29 12:34:56\", \"datetime\"))", "56")]),
];

fn date_calc(literals: &[Option<&Value>]) -> Result<PreparedFn, FunctionError> {
    // An invalid duration is an error of the rows, like one that leads outside the calendar.
    let known = literals.get(1).copied().flatten().map(|literal| duration(&text(literal)));
    Ok(Box::new(move |args, context| {
        let at = time(args, context)?;
        let by = known.clone().unwrap_or_else(|| duration(&text(&args[1])))?;
        let moved =
            at.timestamp().checked_add(by).map_err(|_| domain("the time is beyond the years that are known"))?;
        written("%Y-%m-%d %H:%M:%S", &moved.to_zoned(at.time_zone().clone()))
    }))
}

fn date_diff(args: &Args<'_>, context: &CallContext<'_>) -> FunctionResult {
    let nanoseconds = |value| to_datetime(value, context.zone, context.now).map(|at| at.timestamp().as_nanosecond());
    let (from, to) = (nanoseconds(&args[0])?, nanoseconds(&args[1])?);
    match i64::try_from(to - from) {
        Ok(difference) => Ok(Value::Int(difference)),
        Err(_) => {
            Err(domain("the difference in nanoseconds is beyond 64 bits: the times are more than 292 years apart"))
        }
    }
}

fn format_time(literals: &[Option<&Value>]) -> Result<PreparedFn, FunctionError> {
    let known = literals.get(1).copied().flatten().map(|literal| TimeFormat::new(&text(literal)));
    let invalid = |error: &PatternError| domain(error.to_string());
    Ok(Box::new(move |args, context| {
        let at = time(args, context)?;
        let made;
        let format = match &known {
            Some(known) => known.as_ref().map_err(invalid)?,
            None => {
                made = TimeFormat::new(&text(&args[1])).map_err(|error| invalid(&error))?;
                &made
            }
        };
        format.text(&at).map(Value::from).map_err(|error| domain(error.to_string()))
    }))
}

fn from_days(args: &Args<'_>, _: &CallContext<'_>) -> FunctionResult {
    let days = int(&args[0])?;
    if days == 0 {
        return Ok(Value::Null);
    }
    let date = days.checked_sub(1).and_then(|after| {
        let after = jiff::Span::new().try_days(after).ok()?;
        jiff::civil::date(1970, 1, 1).checked_add(after).ok()
    });
    match date {
        Some(date) => Ok(date.to_string().into()),
        None => Err(domain(format!("day {days} is beyond the years that are known"))),
    }
}

fn from_unix_time(args: &Args<'_>, context: &CallContext<'_>) -> FunctionResult {
    let seconds = int(&args[0])?;
    match Timestamp::from_second(seconds) {
        Ok(at) => written("%Y-%m-%d %H:%M:%S", &at.to_zoned(context.zone.clone())),
        Err(_) => Err(domain(format!("{seconds} seconds after 1970 are beyond the supported years"))),
    }
}

/// The first argument as a time.
fn time(args: &Args<'_>, context: &CallContext<'_>) -> Result<std::sync::Arc<Zoned>, FunctionError> {
    Ok(to_datetime(&args[0], context.zone, context.now)?)
}

/// The time this many ms after 1970.
fn moment(ms: i64, zone: &TimeZone) -> Result<Zoned, FunctionError> {
    match Timestamp::from_millisecond(ms) {
        Ok(at) => Ok(at.to_zoned(zone.clone())),
        Err(_) => Err(domain("the clock is beyond the years that are known")),
    }
}

/// The current time in a format of jiff that ends with seconds, and as many fractional digits as the first argument
/// says.
fn now_as(directives: &str, args: &Args<'_>, context: &CallContext<'_>) -> FunctionResult {
    let now = moment(context.now, context.zone)?;
    let digits = if args.is_empty() { 0 } else { int(&args[0])?.clamp(0, 6) };
    if digits == 0 { written(directives, &now) } else { written(&format!("{directives}%.{digits}f"), &now) }
}

/// The time in a format of jiff.
fn written(directives: &str, at: &Zoned) -> FunctionResult {
    strtime::format(directives, at).map(Value::from).map_err(|error| domain(error.to_string()))
}

fn precision(literals: &[Option<&Value>]) -> Result<(), String> {
    match literals {
        [] | [Some(Value::Int(0..=6))] => Ok(()),
        [Some(Value::Int(_))] => Err("Expect a precision from 0 to 6.".to_owned()),
        [_] => Err("Expect int type for parameter 1".to_owned()),
        _ => Err("too many arguments".to_owned()),
    }
}

/// Parses a duration: a sign, then numbers with units, such as `-1h30m` or `1.5s`. `0` needs no unit.
fn duration(written: &str) -> Result<SignedDuration, FunctionError> {
    let invalid = || domain(format!("invalid duration \"{written}\""));
    let (negative, mut rest) = match written.as_bytes().first() {
        Some(b'-') => (true, &written[1..]),
        Some(b'+') => (false, &written[1..]),
        _ => (false, written),
    };
    if rest == "0" {
        return Ok(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut nanoseconds = 0_i128;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), digits);
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let end = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let unit: i128 = match &after[..end] {
            "ns" => 1,
            // The micro sign exists as two code points.
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(invalid()),
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| invalid())? };
        // Even of an hour, further digits are less than a nanosecond.
        let fraction = &fraction[..fraction.len().min(18)];
        let parts: i128 = if fraction.is_empty() { 0 } else { fraction.parse().map_err(|_| invalid())? };
        let scale = 10_i128.pow(fraction.len() as u32);
        nanoseconds = whole
            .checked_mul(unit)
            .and_then(|whole| nanoseconds.checked_add(whole)?.checked_add(parts * unit / scale))
            .ok_or_else(invalid)?;
        rest = &after[end..];
    }
    let nanoseconds = i64::try_from(if negative { -nanoseconds } else { nanoseconds }).map_err(|_| invalid())?;
    Ok(SignedDuration::from_nanos(nanoseconds))
}

/// The leading digits of a text, and the rest.
fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::super::examples::{answer, gives};
    use super::super::{check_call, lookup};
    use super::*;
    use proptest::prelude::*;

    const PARTS: [&str; 11] = [
        "day",
        "day_name",
        "day_of_month",
        "day_of_week",
        "day_of_year",
        "hour",
        "last_day",
        "microsecond",
        "minute",
        "month_name",
        "second",
    ];

    #[test]
    fn parts_are_of_the_zone_that_the_text_names() {
        let time = Value::from("2024-03-01T01:02:03.004005+08:00");
        let parts = ["1", "\"Friday\"", "1", "5", "61", "1", "\"2024-03-31\"", "4005", "2", "\"March\"", "3"];
        for (name, expected) in PARTS.into_iter().zip(parts) {
            gives(name, std::slice::from_ref(&time), expected);
        }
        gives("microsecond", &[Value::Int(-1)], "999000");
        gives("last_day", &["2023-2-1".into()], "\"2023-02-28\"");
    }

    #[test]
    fn what_is_no_time_is_an_error_and_null_is_null() {
        for name in PARTS {
            for bad in ["soon".into(), Value::Bool(true), Value::array([1.into()]), 1e300.into(), f64::NAN.into()] {
                assert!(answer(name, std::slice::from_ref(&bad)).is_err(), "{name} {bad:?}");
            }
            gives(name, &[Value::Null], "");
        }
        gives("date_diff", &[Value::Null, 0.into()], "");
        gives("date_diff", &[0.into(), Value::Absent], "");
        gives("date_calc", &[Value::Null, "1h".into()], "");
        gives("from_unix_time", &[Value::Null], "");
        gives("from_days", &[Value::Null], "");
    }

    #[test]
    fn differences() {
        gives("date_diff", &[0.into(), 1.into()], "1000000");
        gives("date_diff", &["2024-01-03".into(), "2024-01-01".into()], "-172800000000000");
        gives("date_diff", &["2024-01-01T00:00:00+08:00".into(), "2024-01-01T00:00:00Z".into()], "28800000000000");
        assert!(answer("date_diff", &["0001-01-01".into(), "2024-01-01".into()]).is_err());
        assert!(answer("date_diff", &["x".into(), 0.into()]).is_err());
    }

    #[test]
    fn days_and_seconds() {
        gives("from_days", &[1.0.into()], "\"1970-01-01\"");
        for bad in [Value::from(1.5), "1".into(), i64::MAX.into(), i64::MIN.into(), 10_000_000.into()] {
            assert!(answer("from_days", std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
        for bad in [Value::from(1.5), "1".into(), i64::MAX.into(), i64::MIN.into()] {
            assert!(answer("from_unix_time", std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn patterns_from_fields() {
        gives("format_time", &[1_709_210_096_789.into(), "HH:mm".into()], "\"12:34\"");
        let refused = answer("format_time", &[0.into(), "yyy".into()]).err().map(|error| error.to_string());
        assert_eq!(refused.as_deref(), Some("invalid time format yyy for Y/y"));
    }

    #[test]
    fn the_clock_is_told() {
        // The clock of the tests is at 2023-11-14T22:13:20Z.
        gives("now", &[], "\"2023-11-14 22:13:20\"");
        gives("NOW", &[0.into()], "\"2023-11-14 22:13:20\"");
        gives("current_timestamp", &[3.into()], "\"2023-11-14 22:13:20.000\"");
        gives("cur_date", &[], "\"2023-11-14\"");
        gives("cur_time", &[], "\"22:13:20\"");
        gives("current_time", &[6.into()], "\"22:13:20.000000\"");
    }

    #[test]
    fn refusals() {
        let (field, whole, word) = (None, Some(Value::Int(3)), Some(Value::from("3")));
        for (name, args, expected) in [
            ("now", vec![], None),
            ("now", vec![whole.clone()], None),
            ("now", vec![Some(Value::Int(7))], Some("Expect a precision from 0 to 6.")),
            ("now", vec![word.clone()], Some("Expect int type for parameter 1")),
            ("cur_time", vec![field.clone()], Some("Expect int type for parameter 1")),
            ("local_time", vec![whole.clone(), whole.clone()], Some("too many arguments")),
            ("cur_date", vec![whole.clone()], Some("Expect 0 arguments but found 1.")),
            ("hour", vec![word.clone()], Some("Expect datetime type for parameter 1")),
            ("hour", vec![Some(Value::Bool(true))], Some("Expect datetime type for parameter 1")),
            ("date_calc", vec![word.clone(), word.clone()], None),
            ("date_calc", vec![whole.clone(), word.clone()], Some("Expect datetime type for parameter 1")),
            ("date_calc", vec![field.clone(), field.clone()], Some("Expect string type for parameter 2")),
            ("date_diff", vec![field.clone(), word.clone()], Some("Expect datetime type for parameter 2")),
            ("format_time", vec![field.clone(), whole.clone()], Some("Expect string type for parameter 2")),
            ("from_days", vec![word.clone()], Some("Expect int type for parameter 1")),
            ("from_unix_time", vec![whole.clone()], None),
        ] {
            let literals: Vec<_> = args.iter().map(Option::as_ref).collect();
            let function = lookup(name).expect("the function exists");
            let refusal = check_call(function, &literals, &vec![None; args.len()]).err();
            assert_eq!(refusal.map(|error| error.to_string()).as_deref(), expected, "{name} {args:?}");
        }
    }

    #[test]
    fn durations() {
        for (written, nanoseconds) in [
            ("1h", Some(3_600_000_000_000)),
            ("-1.5h", Some(-5_400_000_000_000)),
            ("+1h2m3s4ms5us6ns", Some(3_723_004_005_006)),
            ("1\u{b5}s", Some(1_000)),
            ("1\u{3bc}s", Some(1_000)),
            (".5s", Some(500_000_000)),
            ("5.s", Some(5_000_000_000)),
            ("0.1234567891s", Some(123_456_789)),
            ("1h1h", Some(7_200_000_000_000)),
            ("0", Some(0)),
            ("-0", Some(0)),
            ("", None),
            ("-", None),
            ("1", None),
            ("1d", None),
            ("h", None),
            (".s", None),
            ("1 h", None),
            ("1h-1m", None),
            ("--1h", None),
            ("9999999h", None),
            ("99999999999999999999999999999999999999h", None),
            ("999999999999999999999999999999999999999999999h", None),
        ] {
            assert_eq!(duration(written).ok().map(|by| by.as_nanos()), nanoseconds, "{written}");
        }
    }

    proptest! {
        #[test]
        fn no_duration_panics(written in "[-+.0-9hmsnuµd]{0,60}") {
            let _ = duration(&written);
        }
    }
}
