//! When a rule runs: its schedule, and its restarts after failures.
//!
//! Nothing here waits or runs: for a point in time, a schedule answers whether its rule should run, and until when.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// The options `cron`, `duration` and `cronDatetimeRange`. Without any of them a rule always runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    cron: Option<String>,
    /// In ms.
    duration: Option<i64>,
    ranges: Vec<Range>,
}

/// One range of `cronDatetimeRange`; the end is exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    begin: DateTime,
    end: DateTime,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    #[error(
        "cron {cron:?} is not a schedule: {reason}; a schedule has five fields: minute, hour, day of month, month, day of week"
    )]
    Cron { cron: String, reason: String },
    /// `cron` determines when a rule starts, not when it stops.
    #[error("cron needs a duration: how long the rule runs each time")]
    NoDuration,
    #[error("duration must be longer than 0")]
    Duration,
    #[error("{0:?} is not a time such as 2006-01-02 15:04:05")]
    Time(String),
    #[error("cronDatetimeRange ends at {0}, before it begins")]
    Range(String),
}

/// A schedule's answer for a point in time. Times are ms since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Run without an end.
    Always,
    /// Run until this time.
    Run(i64),
    /// Do not run before this time; `None`: never again.
    Wait(Option<i64>),
    /// The duration is over.
    Over,
}

impl Range {
    /// Parses both ends.
    ///
    /// # Errors
    /// [`ScheduleError`]
    pub fn new(begin: &str, end: &str) -> Result<Range, ScheduleError> {
        let time = |text: &str| {
            DateTime::strptime("%Y-%m-%d %H:%M:%S", text).map_err(|_| ScheduleError::Time(text.to_owned()))
        };
        let range = Range { begin: time(begin)?, end: time(end)? };
        if range.begin < range.end { Ok(range) } else { Err(ScheduleError::Range(end.to_owned())) }
    }
}

impl Schedule {
    /// Checks the options; `duration` in ms.
    ///
    /// # Errors
    /// [`ScheduleError`]
    pub fn new(cron: Option<String>, duration: Option<i64>, ranges: Vec<Range>) -> Result<Schedule, ScheduleError> {
        let schedule = Schedule { cron, duration, ranges };
        if duration.is_some_and(|duration| duration <= 0) {
            return Err(ScheduleError::Duration);
        }
        if let Some(cron) = &schedule.cron {
            crontab(cron, &TimeZone::UTC)?;
            if duration.is_none() {
                return Err(ScheduleError::NoDuration);
            }
        }
        Ok(schedule)
    }

    /// Whether the rule always runs.
    pub fn is_always(&self) -> bool {
        *self == Schedule::default()
    }

    /// The answer for the time `now` in this time zone. `started` is when a rule with a `duration` but no `cron` was
    /// started.
    pub fn turn(&self, now: i64, zone: &TimeZone, started: Option<i64>) -> Turn {
        let local = |time: DateTime| zone.to_ambiguous_zoned(time).compatible().map(|time| time.timestamp());
        let ends =
            |range: &Range| Some((local(range.begin).ok()?.as_millisecond(), local(range.end).ok()?.as_millisecond()));
        let ranges: Vec<(i64, i64)> = self.ranges.iter().filter_map(ends).collect();
        let within = ranges.iter().find(|(begin, end)| (*begin..*end).contains(&now));
        match (&self.cron, self.duration) {
            (Some(cron), Some(duration)) => {
                let next = |after: i64| {
                    let after = Timestamp::from_millisecond(after).ok()?;
                    // A rule that starts within a minute after a cron time counts as started at that time.
                    let found = crontab(cron, zone).ok()?.find_next(after).ok()?;
                    Some(found.timestamp().as_millisecond())
                };
                let began = next(now - duration).filter(|began| *began <= now);
                match began {
                    Some(began) if ranges.is_empty() || within.is_some() => {
                        let end = began + duration;
                        Turn::Run(within.map_or(end, |(_, last)| end.min(*last)))
                    }
                    _ => {
                        // Before the first range, look from its first minute on. Otherwise take the next cron time.
                        let from = match (within, ranges.iter().map(|(begin, _)| *begin).filter(|at| *at > now).min()) {
                            (None, Some(begin)) => Some(begin - 60_000),
                            (None, None) if !ranges.is_empty() => None,
                            _ => Some(now),
                        };
                        Turn::Wait(from.and_then(next))
                    }
                }
            }
            _ if !ranges.is_empty() => match within {
                Some((_, end)) => Turn::Run(*end),
                None => Turn::Wait(ranges.iter().map(|(begin, _)| *begin).filter(|begin| *begin > now).min()),
            },
            (None, Some(duration)) => match started.unwrap_or(now) + duration {
                end if end > now => Turn::Run(end),
                _ => Turn::Over,
            },
            _ => Turn::Always,
        }
    }
}

/// Parses a cron line in this time zone.
fn crontab(cron: &str, zone: &TimeZone) -> Result<cronexpr::Crontab, ScheduleError> {
    let wrong = |reason: String| ScheduleError::Cron { cron: cron.to_owned(), reason };
    let fields = cron.split_whitespace().count();
    if fields != 5 {
        return Err(wrong(format!("it has {fields} fields")));
    }
    let named = zone.iana_name().map(|name| format!("{cron} {name}"));
    let mut options = cronexpr::ParseOptions::default();
    options.fallback_timezone_option = cronexpr::FallbackTimezoneOption::System;
    let text = |error: cronexpr::Error| wrong(error.to_string().lines().last().unwrap_or_default().trim().to_owned());
    cronexpr::parse_crontab_with(named.as_deref().unwrap_or(cron), options).map_err(text)
}

/// When a rule that failed is started again. Times are ms.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestartStrategy {
    /// The greatest number of retries; 0: none.
    pub attempts: u64,
    /// The first wait, ms.
    pub delay: i64,
    /// The factor by which each further wait grows.
    pub multiplier: f64,
    /// The longest wait, ms.
    pub max_delay: i64,
    /// The random share of a wait, 0 to 1: a wait becomes up to this much shorter or longer.
    pub jitter: f64,
}

impl RestartStrategy {
    /// The wait before the next retry, ms, after `tries` retries; `None`: no more retries. `chance` is from 0 to 1.
    pub fn wait(&self, tries: u64, chance: f64) -> Option<i64> {
        if tries >= self.attempts {
            return None;
        }
        let grown = self.delay as f64 * self.multiplier.max(1.0).powf(tries.min(1_000) as f64);
        let wait = grown.min(self.max_delay as f64);
        Some((wait * (1.0 + self.jitter * (2.0 * chance - 1.0))).max(0.0) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_millisecond()
    }

    #[test]
    fn a_cron_runs_for_its_duration() {
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let schedule = Schedule::new(Some("30 6 * * *".into()), Some(600_000), Vec::new()).unwrap();
        for (now, turn) in [
            ("2026-01-05T05:29:59Z", Turn::Wait(Some(at("2026-01-05T05:30:00Z")))),
            ("2026-01-05T05:30:00Z", Turn::Run(at("2026-01-05T05:40:00Z"))),
            ("2026-01-05T05:39:59.999Z", Turn::Run(at("2026-01-05T05:40:00Z"))),
            ("2026-01-05T05:40:00Z", Turn::Wait(Some(at("2026-01-06T05:30:00Z")))),
        ] {
            assert_eq!(schedule.turn(at(now), &zone, None), turn, "{now}");
        }
    }

    #[test]
    fn ranges_and_lone_durations() {
        let zone = TimeZone::UTC;
        let range = |begin, end| Range::new(begin, end).unwrap();
        let ranges = vec![
            range("2026-01-01 00:00:00", "2026-01-02 00:00:00"),
            range("2026-02-01 00:00:00", "2026-02-02 00:00:00"),
        ];
        let schedule = Schedule::new(None, None, ranges).unwrap();
        for (now, turn) in [
            ("2025-12-31T23:00:00Z", Turn::Wait(Some(at("2026-01-01T00:00:00Z")))),
            ("2026-01-01T00:00:00Z", Turn::Run(at("2026-01-02T00:00:00Z"))),
            ("2026-01-02T00:00:00Z", Turn::Wait(Some(at("2026-02-01T00:00:00Z")))),
            ("2026-02-02T00:00:00Z", Turn::Wait(None)),
        ] {
            assert_eq!(schedule.turn(at(now), &zone, None), turn, "{now}");
        }
        let lone = Schedule::new(None, Some(1000), Vec::new()).unwrap();
        assert_eq!(lone.turn(5000, &zone, None), Turn::Run(6000));
        assert_eq!(lone.turn(6000, &zone, Some(5000)), Turn::Over);
        assert_eq!(Schedule::default().turn(0, &zone, None), Turn::Always);
    }

    #[test]
    fn what_can_never_work_is_refused() {
        let cron = |text: &str, duration| Schedule::new(Some(text.into()), duration, Vec::new()).is_err();
        assert!(cron("nonsense", Some(1)) && cron("0 0 1 1 *", None) && cron("99 0 1 1 *", Some(1)));
        assert!(Schedule::new(None, Some(0), Vec::new()).is_err());
        assert!(Range::new("2026-01-02 00:00:00", "2026-01-01 00:00:00").is_err());
        assert!(Range::new("soon", "2026-01-01 00:00:00").is_err());
    }

    #[test]
    fn tries_wait_longer_each_time() {
        let strategy = RestartStrategy { attempts: 4, delay: 1000, multiplier: 2.0, max_delay: 3000, jitter: 0.0 };
        let waits: Vec<_> = (0..5).map(|tries| strategy.wait(tries, 0.5)).collect();
        assert_eq!(waits, [Some(1000), Some(2000), Some(3000), Some(3000), None]);
        assert_eq!(RestartStrategy::default().wait(0, 0.5), None);
    }
}
