//! The event time of a row: the value that TIMESTAMP names, as ms since the epoch.

use jiff::tz::TimeZone;

use crate::plan::physical::EventTime;
use crate::value::Value;
use crate::value::cast::{self, described};
use crate::value::timestamp_format::{EpochUnit, TimestampFormat};

/// The time of a row whose timestamp column has this value, ms since the epoch. `now` completes a text that contains
/// only a time of day.
///
/// # Errors
/// A text with the field and its value.
pub(super) fn read(event_time: &EventTime, column: &Value, zone: &TimeZone, now: i64) -> Result<i64, String> {
    let EventTime { path, format, .. } = event_time;
    let value = path.find(column);
    let at = match (&*value, format) {
        (Value::Absent | Value::Null, _) => {
            return Err(format!("the message has no usable timestamp: field {path} is not in it, or null"));
        }
        (Value::Int(ms), None | Some(TimestampFormat::Pattern(_))) => Some(*ms),
        (Value::Float(ms), None | Some(TimestampFormat::Pattern(_))) => Some(*ms as i64),
        (value, Some(TimestampFormat::Epoch(unit))) => unit.timestamp(value).map(jiff::Timestamp::as_millisecond),
        (value @ (Value::Text(_) | Value::DateTime(_)), format) => {
            let at = cast::to_datetime_by(format.as_ref(), value, zone, now);
            at.ok().map(|at| at.timestamp().as_millisecond())
        }
        _ => None,
    };
    at.ok_or_else(|| {
        let how = match format {
            Some(TimestampFormat::Epoch(unit)) => format!("a time as {}", unit.name()),
            _ => "a time: a number is ms since the epoch, other forms need TIMESTAMP_FORMAT".to_owned(),
        };
        format!("timestamp: field {path} is {}, which is not {how}", described(&value))
    })
}

/// The probable unit of times in a stream without TIMESTAMP_FORMAT, if it is not ms.
pub(super) fn other_unit(event_time: &EventTime, column: &Value) -> Option<&'static str> {
    match &*event_time.path.find(column) {
        Value::Int(count) if event_time.format.is_none() => EpochUnit::guess(*count).map(EpochUnit::name),
        _ => None,
    }
}
