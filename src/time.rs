//! Clocks, the timestamps of the dataflow, and the bounds of windows.
//!
//! Times are milliseconds since the Unix epoch, signed. Nothing here waits.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{Timestamp, Zoned};

/// Units of time of windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// DD
    Day,
    /// HH
    Hour,
    /// MI
    Minute,
    /// SS
    Second,
    /// MS
    Millisecond,
}

impl Unit {
    /// Milliseconds in one unit; a day counts as 24 hours.
    pub fn millis(self) -> u64 {
        match self {
            Unit::Day => 86_400_000,
            Unit::Hour => 3_600_000,
            Unit::Minute => 60_000,
            Unit::Second => 1_000,
            Unit::Millisecond => 1,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Day => "dd",
            Unit::Hour => "hh",
            Unit::Minute => "mi",
            Unit::Second => "ss",
            Unit::Millisecond => "ms",
        })
    }
}

/// The clock of a worker.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The system clock.
    #[default]
    System,
    /// Set by a test, ms since the epoch.
    Manual(Arc<AtomicI64>),
    /// Set by a test, which can step the time of day independently of the elapsed time; both are ms.
    Stepping {
        /// ms since the epoch.
        wall: Arc<AtomicI64>,
        /// ms since an arbitrary moment; never goes back.
        monotonic: Arc<AtomicI64>,
    },
}

static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The steps of the system clock. Each one is counted once, however many threads see it.
static STEPS: Mutex<Steps> = Mutex::new(Steps { count: 0, offset: None });

struct Steps {
    count: u64,
    /// the difference between the time of day and the elapsed time after the last step, ms
    offset: Option<i64>,
}

impl Steps {
    /// Counts a step; false if it is counted already. A step that leads to within `STEP` of the last one is the same
    /// step.
    fn count(&mut self, wall: i64, monotonic: i64) -> bool {
        let offset = wall.saturating_sub(monotonic);
        if self.offset.is_some_and(|last| offset.saturating_sub(last).saturating_abs() <= STEP) {
            return false;
        }
        *self = Steps { count: self.count + 1, offset: Some(offset) };
        true
    }
}

/// Counts a step of the system clock to this time of day, at this monotonic time; false if another thread has counted
/// it.
pub fn count_step(wall: i64, monotonic: i64) -> bool {
    STEPS.lock().unwrap_or_else(PoisonError::into_inner).count(wall, monotonic)
}

/// Steps of the system clock since the start.
pub fn clock_steps() -> u64 {
    STEPS.lock().unwrap_or_else(PoisonError::into_inner).count
}

/// A jump of the time of day beyond this is a step of the clock, ms: the clock was set.
pub const STEP: i64 = 1000;

/// The difference between the time of day and the elapsed time.
#[derive(Debug)]
pub struct Anchor {
    /// the time of day when the monotonic clock was 0, ms since the epoch
    offset: i64,
}

impl Anchor {
    /// The current difference.
    pub fn new(clock: &Clock) -> Anchor {
        Anchor { offset: clock.now().saturating_sub(clock.monotonic()) }
    }

    /// How far the time of day has stepped since the last call, ms. Smaller corrections than [`STEP`] are ignored.
    pub fn stepped(&mut self, clock: &Clock) -> Option<i64> {
        let offset = clock.now().saturating_sub(clock.monotonic());
        let by = offset.saturating_sub(std::mem::replace(&mut self.offset, offset));
        (by.saturating_abs() > STEP).then_some(by)
    }
}

impl Clock {
    /// Now, ms since the epoch.
    pub fn now(&self) -> i64 {
        match self {
            Clock::System => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64),
            Clock::Manual(now) | Clock::Stepping { wall: now, .. } => now.load(Ordering::Relaxed),
        }
    }

    /// Whether the time changes only when it is set.
    pub fn is_manual(&self) -> bool {
        !matches!(self, Clock::System)
    }

    /// Elapsed time since an arbitrary moment, ms. It never goes back, even if the time of day does.
    pub fn monotonic(&self) -> i64 {
        match self {
            Clock::System => i64::try_from(BEGIN.elapsed().as_millis()).unwrap_or(i64::MAX),
            Clock::Manual(now) | Clock::Stepping { monotonic: now, .. } => now.load(Ordering::Relaxed),
        }
    }
}

/// A time as a timestamp of the dataflow. Timely's timestamps are unsigned; the order is kept.
pub fn stamp(ms: i64) -> u64 {
    (ms as u64) ^ (1 << 63)
}

pub fn unstamp(stamp: u64) -> i64 {
    (stamp ^ (1 << 63)) as i64
}

/// Adjacent windows, aligned to the epoch in a time zone.
///
/// Days, hours and minutes follow the wall clock: windows begin at multiples of their length from the epoch's local
/// midnight, and a window that contains a clock change is longer or shorter by the change. One exception: windows that
/// fit into the change a whole number of times keep their length while the clock repeats an hour. Seconds and
/// milliseconds are fixed lengths: their windows are cut at a clock change. Windows never overlap and leave no gap.
#[derive(Clone, Debug)]
pub struct Alignment {
    zone: TimeZone,
    unit: Unit,
    length: i64,
}

impl Alignment {
    /// Windows of `length` units. A length of 0 counts as 1.
    pub fn new(unit: Unit, length: u64, zone: TimeZone) -> Self {
        let longest = i64::MAX as u64 / 4 / unit.millis();
        Alignment { zone, unit, length: length.clamp(1, longest) as i64 }
    }

    /// Start and end (exclusive) of the window that contains `t`.
    pub fn bounds(&self, t: i64) -> (i64, i64) {
        // Times outside the calendar's range have no zone; they are aligned as in UTC.
        let Ok(at) = Timestamp::from_millisecond(t) else { return grid(t, self.millis(), 0) };
        match self.unit {
            Unit::Day => self.days(at).unwrap_or_else(|| grid(t, self.millis(), 0)),
            Unit::Hour | Unit::Minute => self.by_wall_clock(at, t),
            Unit::Second | Unit::Millisecond => self.parts_of_days(at, t),
        }
    }

    /// The time `units` of the unit before a bound: days by the calendar, hours and minutes by the wall clock, others
    /// by their length.
    pub fn before(&self, bound: i64, units: u64) -> i64 {
        let millis = i64::try_from(units.saturating_mul(self.unit.millis())).unwrap_or(i64::MAX);
        let by_length = bound.saturating_sub(millis);
        match self.unit {
            Unit::Day => {}
            Unit::Hour | Unit::Minute => {
                let Ok(at) = Timestamp::from_millisecond(bound) else { return by_length };
                let local = bound.saturating_add(self.offset(at)).saturating_sub(millis);
                let [first, second] = self.times_of(local);
                return [second, first].into_iter().flatten().find(|time| *time < bound).unwrap_or(by_length);
            }
            Unit::Second | Unit::Millisecond => return by_length,
        }
        let by_calendar = || {
            let date = Timestamp::from_millisecond(bound).ok()?.to_zoned(self.zone.clone()).date();
            let earlier = date.checked_sub(jiff::Span::new().try_days(i64::try_from(units).ok()?).ok()?).ok()?;
            Some(earlier.to_zoned(self.zone.clone()).ok()?.timestamp().as_millisecond())
        };
        by_calendar().unwrap_or(by_length)
    }

    fn millis(&self) -> i64 {
        self.length.saturating_mul(self.unit.millis() as i64)
    }

    fn days(&self, at: Timestamp) -> Option<(i64, i64)> {
        let date = at.to_zoned(self.zone.clone()).date();
        let epoch = jiff::civil::date(1970, 1, 1);
        let day = i64::from(epoch.until(date).ok()?.get_days());
        let first = day.div_euclid(self.length) * self.length;
        let midnight = |day: i64| -> Option<i64> {
            let date = epoch.checked_add(jiff::Span::new().try_days(day).ok()?).ok()?;
            Some(date.to_zoned(self.zone.clone()).ok()?.timestamp().as_millisecond())
        };
        Some((midnight(first)?, midnight(first.checked_add(self.length)?)?))
    }

    /// The zone's offset, ms.
    fn offset(&self, at: Timestamp) -> i64 {
        i64::from(self.zone.to_offset(at).seconds()) * 1000
    }

    /// The last bound at or before `t`, and the first one after it.
    fn by_wall_clock(&self, at: Timestamp, t: i64) -> (i64, i64) {
        let length = self.millis();
        let (by_length, next) = grid(t, length, self.offset(at));
        // Far from a clock change, which is almost always, bounds are equally spaced.
        let near = length.saturating_add(2 * 86_400_000);
        let Ok(from) = Timestamp::from_millisecond(t.saturating_sub(near)) else { return (by_length, next) };
        let change = self.zone.following(from).next().map(|change| change.timestamp().as_millisecond());
        if change.is_none_or(|change| change > t.saturating_add(near)) {
            return (by_length, next);
        }
        let local = t.saturating_add(self.offset(at));
        let here = local.div_euclid(length).saturating_mul(length);
        // After the clock was set back, it shows times again: earlier bounds count, too. No change is larger than a
        // day.
        let reach = 86_400_000 / length + 1;
        let mut start = None;
        let mut end = None;
        for step in -reach..=reach {
            for bound in self.times_of(here.saturating_add(step.saturating_mul(length))).into_iter().flatten() {
                if bound <= t {
                    start = start.max(Some(bound));
                } else {
                    end = Some(end.map_or(bound, |end: i64| end.min(bound)));
                }
            }
        }
        (start.unwrap_or(by_length), end.unwrap_or(next))
    }

    /// The times at which the clock shows this local time, a bound. If the clock skips it: the time of the change. If
    /// the clock shows it twice: the first time, or both if windows of this length fit into the change.
    fn times_of(&self, local: i64) -> [Option<i64>; 2] {
        let time = || {
            let date = Timestamp::from_millisecond(local).ok()?.to_zoned(TimeZone::UTC).datetime();
            let at = |offset: Offset| local - i64::from(offset.seconds()) * 1000;
            Some(match self.zone.to_ambiguous_zoned(date).offset() {
                AmbiguousOffset::Unambiguous { offset } => [Some(at(offset)), None],
                AmbiguousOffset::Gap { before, .. } => {
                    // One second later, since the search would miss a change at this very moment.
                    let after = Timestamp::from_millisecond(at(before).checked_add(1000)?).ok()?;
                    let change = self.zone.preceding(after).next()?.timestamp().as_millisecond();
                    [Some(change), None]
                }
                AmbiguousOffset::Fold { before, after } => {
                    let change = i64::from(before.seconds() - after.seconds()) * 1000;
                    let fits = self.millis() < change && change % self.millis() == 0;
                    [Some(at(before)), fits.then(|| at(after))]
                }
            })
        };
        time().unwrap_or_default()
    }

    fn parts_of_days(&self, at: Timestamp, t: i64) -> (i64, i64) {
        let offset = self.offset(at);
        let (mut start, mut end) = grid(t, self.millis(), offset);
        // Clock changes inside the window cut it, before or after `t`. UTC and fixed offsets have none.
        let Ok(before) = Timestamp::from_millisecond(start) else { return (start, end) };
        for change in self.zone.following(before) {
            let change = change.timestamp().as_millisecond();
            if change >= end {
                break;
            }
            if change <= t {
                start = change;
            } else {
                end = change;
                break;
            }
        }
        (start, end)
    }
}

fn grid(t: i64, length: i64, offset: i64) -> (i64, i64) {
    let local = t.saturating_add(offset);
    let start = local.div_euclid(length).saturating_mul(length).saturating_sub(offset);
    (start, start.saturating_add(length))
}

/// The configured zone; `None`, `""` and `Local` mean the system's.
///
/// # Errors
/// The name is unknown.
pub fn zone(name: Option<&str>) -> Result<TimeZone, jiff::Error> {
    match name {
        None | Some("" | "Local") => Ok(Zoned::now().time_zone().clone()),
        Some(name) => TimeZone::get(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().expect("a timestamp").as_millisecond()
    }

    #[test]
    fn stamps_keep_the_order_of_times() {
        assert!(stamp(-5) < stamp(0) && stamp(0) < stamp(7));
        assert_eq!(unstamp(stamp(-5)), -5);
    }

    #[test]
    fn each_step_is_counted_once_however_soon_the_next_one_comes() {
        let mut steps = Steps { count: 0, offset: None };
        let seen = [(3_605_000, 5_000, true), (3_605_001, 5_000, false), (3_700_400, 100_000, false)];
        // The clock is set back a second later, and then a day ahead.
        let more = [(101_000, 101_000, true), (101_500, 101_500, false), (86_502_000, 102_000, true)];
        for (wall, monotonic, counted) in seen.into_iter().chain(more) {
            assert_eq!(steps.count(wall, monotonic), counted, "{wall} {monotonic}");
        }
        assert_eq!(steps.count, 3);
    }

    #[test]
    fn windows_align_to_the_epoch_whatever_their_length() {
        let seven = Alignment::new(Unit::Second, 7, TimeZone::UTC);
        assert_eq!(seven.bounds(6_999), (0, 7_000));
        assert_eq!(seven.bounds(7_000), (7_000, 14_000));
        assert_eq!(seven.bounds(-1), (-7_000, 0));
    }

    #[test]
    fn days_begin_at_local_midnight_also_where_the_clock_changes() {
        let berlin = TimeZone::get("Europe/Berlin").expect("the zone");
        let day = Alignment::new(Unit::Day, 1, berlin.clone());
        // 31 March 2024 has 23 hours in Berlin.
        assert_eq!(day.bounds(ms("2024-03-31T12:00:00Z")), (ms("2024-03-30T23:00:00Z"), ms("2024-03-31T22:00:00Z")));
        let hours = Alignment::new(Unit::Hour, 2, berlin);
        // The window 02:00–04:00 is an hour shorter.
        assert_eq!(hours.bounds(ms("2024-03-31T01:30:00Z")), (ms("2024-03-31T01:00:00Z"), ms("2024-03-31T02:00:00Z")));
        assert_eq!(hours.bounds(ms("2024-03-31T00:30:00Z")), (ms("2024-03-30T23:00:00Z"), ms("2024-03-31T01:00:00Z")));
    }

    #[test]
    fn hours_and_minutes_follow_the_wall_clock() {
        let berlin = TimeZone::get("Europe/Berlin").expect("the zone");
        // At 01:00 UTC on 27 October 2024 the clock goes back from 03:00 to 02:00.
        for (unit, length, at, start, end) in [
            (Unit::Hour, 2, "2024-10-27T00:30:00Z", "2024-10-27T00:00:00Z", "2024-10-27T03:00:00Z"),
            (Unit::Hour, 2, "2024-10-27T01:30:00Z", "2024-10-27T00:00:00Z", "2024-10-27T03:00:00Z"),
            (Unit::Hour, 2, "2024-10-27T03:00:00Z", "2024-10-27T03:00:00Z", "2024-10-27T05:00:00Z"),
            (Unit::Hour, 1, "2024-10-27T00:30:00Z", "2024-10-27T00:00:00Z", "2024-10-27T02:00:00Z"),
            (Unit::Hour, 1, "2024-10-27T01:30:00Z", "2024-10-27T00:00:00Z", "2024-10-27T02:00:00Z"),
            (Unit::Minute, 60, "2024-10-27T01:30:00Z", "2024-10-27T00:00:00Z", "2024-10-27T02:00:00Z"),
            (Unit::Hour, 6, "2024-10-27T01:30:00Z", "2024-10-26T22:00:00Z", "2024-10-27T05:00:00Z"),
            (Unit::Hour, 24, "2024-10-27T12:30:00Z", "2024-10-26T22:00:00Z", "2024-10-27T23:00:00Z"),
            (Unit::Minute, 1, "2024-10-27T01:30:30Z", "2024-10-27T01:30:00Z", "2024-10-27T01:31:00Z"),
            (Unit::Minute, 30, "2024-10-27T00:45:00Z", "2024-10-27T00:30:00Z", "2024-10-27T01:00:00Z"),
            // At 01:00 UTC on 31 March 2024 the clock goes from 02:00 to 03:00.
            (Unit::Hour, 1, "2024-03-31T01:30:00Z", "2024-03-31T01:00:00Z", "2024-03-31T02:00:00Z"),
            (Unit::Hour, 6, "2024-03-31T01:30:00Z", "2024-03-30T23:00:00Z", "2024-03-31T04:00:00Z"),
            (Unit::Minute, 45, "2024-03-31T01:05:00Z", "2024-03-31T01:00:00Z", "2024-03-31T01:45:00Z"),
        ] {
            let windows = Alignment::new(unit, length, berlin.clone());
            assert_eq!(windows.bounds(ms(at)), (ms(start), ms(end)), "{length} {unit} {at}");
        }
        let hours = Alignment::new(Unit::Hour, 1, berlin.clone());
        assert_eq!(hours.before(ms("2024-10-27T03:00:00Z"), 2), ms("2024-10-27T00:00:00Z"));
        assert_eq!(hours.before(ms("2024-03-31T02:00:00Z"), 2), ms("2024-03-31T01:00:00Z"));
        assert_eq!(hours.before(ms("2024-03-31T01:00:00Z"), 1), ms("2024-03-31T00:00:00Z"));
        let minutes = Alignment::new(Unit::Minute, 1, berlin);
        assert_eq!(minutes.before(ms("2024-10-27T01:10:00Z"), 5), ms("2024-10-27T01:05:00Z"));
    }

    #[test]
    fn windows_leave_no_gap_over_a_year() {
        let zone = TimeZone::get("Australia/Lord_Howe").expect("the zone");
        for (unit, length) in [(Unit::Hour, 5), (Unit::Minute, 90), (Unit::Minute, 7), (Unit::Hour, 1), (Unit::Day, 3)]
        {
            let windows = Alignment::new(unit, length, zone.clone());
            let mut t = ms("2024-01-01T00:00:00Z");
            while t < ms("2025-01-01T00:00:00Z") {
                let (start, end) = windows.bounds(t);
                assert!(start <= t && t < end, "{start} {t} {end}");
                assert_eq!(windows.bounds(end).0, end);
                t = end;
            }
        }
    }
}
