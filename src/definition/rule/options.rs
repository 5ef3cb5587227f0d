//! The options of a rule, one row each. The section `rule` of the configuration sets other defaults.

use std::num::NonZeroUsize;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use crate::definition::schedule::{Range, RestartStrategy, Schedule, ScheduleError};
use crate::property::{self, Entry, Findings, Noun, Property, Type, Warning, Wrong, reference};

/// Options of a rule. Times are ms.
#[derive(Clone, Debug, PartialEq)]
pub struct RuleOptions {
    pub event_time: bool,
    pub late_tolerance: i64,
    /// A stream that has been silent for this long does not hold back a join's watermark; 0: every stream always does.
    pub idle_timeout: i64,
    /// In event time, rows further ahead of the clock than this are dropped; 0: no limit.
    pub max_future_skew: i64,
    /// How many data threads may take part in the rule; `None`: all.
    pub concurrency: Option<NonZeroUsize>,
    /// Approximate limit of the rule's state, bytes; 0: no limit.
    pub max_state_bytes: u64,
    /// A full state drops its oldest keys and rows; otherwise the rule fails.
    pub evicts: bool,
    pub send_nil: bool,
    pub send_meta: bool,
    pub send_error: bool,
    /// The rule's member `temp`: the rule may read temporary streams.
    pub temporary: bool,
    /// 0: each start begins with empty state. 1 and 2: state survives restarts.
    pub qos: u8,
    pub checkpoint_interval: i64,
    pub schedule: Schedule,
    pub restart: RestartStrategy,
}

/// The option values before they are combined.
struct Draft {
    options: RuleOptions,
    cron: Option<String>,
    duration: Option<i64>,
    ranges: Vec<Range>,
    names_log: bool,
}

type Row = Property<Draft>;

const OPTIONS: &[Row] = &[
    Row::flag("isEventTime", |draft, on| draft.options.event_time = on)
        .default("false")
        .doc("Windows use the stream's TIMESTAMP"),
    Row::duration("lateTolerance", |draft, time| draft.options.late_tolerance = millis(time))
        .default("1s")
        .doc("How late rows may be in event time"),
    Row::duration("idleTimeout", |draft, time| draft.options.idle_timeout = millis(time))
        .default("1m")
        .doc("A stream that has been silent for this long does not hold back a join's watermark; `0`: every stream \
         always does"),
    Row::duration("maxFutureSkew", |draft, time| draft.options.max_future_skew = millis(time))
        .default("5m")
        .doc("In event time, rows further ahead of the clock than this are dropped and counted, with a warning; `0`: \
         no limit. A stream with `EVENT_CLOCK=\"data\"`, or whose first three rows are all further ahead \
         (simulated data), is exempt"),
    Row::whole("concurrency", 0, u64::MAX, |draft, threads| {
        draft.options.concurrency = NonZeroUsize::new(usize::try_from(threads).unwrap_or(usize::MAX));
    })
    .default("0")
    .doc("The number of data threads (`--workers`) that take part in the rule; `0`: all. Above 1, results of \
     different keys may change their order. See [scaling](scaling.md)"),
    Row::size("maxStateBytes", |draft, bytes| draft.options.max_state_bytes = bytes)
        .default("0")
        .doc("The largest state of the rule, in windows, groups, analytic functions and tables, measured every 1,024 \
         rows; `0`: no limit"),
    Row::choice("onStateFull", &["fail", "evict"], |draft, word| draft.options.evicts = word == "evict")
        .default("fail")
        .doc("What happens beyond `maxStateBytes`. `fail`: the rule fails. `evict`: it drops its oldest keys and rows and counts an error each time"),
    Row::flag("sendNilField", |draft, on| draft.options.send_nil = on)
        .default("false")
        .doc("Columns that are absent are sent as null"),
    Row::flag("sendMetaToSink", |draft, on| draft.options.send_meta = on)
        .default("false")
        .doc("Results have `__meta`, the metadata of their message"),
    Row::flag("sendError", |draft, on| draft.options.send_error = on)
        .default("false")
        .doc("Errors of rows go to the sinks, too"),
    Row::any("deadLetter", "list of objects {SINK: properties}", "a list of sinks such as [{\"log\": {}}]", |_, sinks| {
        // The rule reads this list together with its other sinks.
        if sinks.is_array() { Ok(()) } else { Err(Wrong::Value) }
    })
    .doc("Each failed message or row is sent to these sinks, with the error, the operator and the time: see \
     [failures](#failures)"),
    Row::text("cron", |draft, cron| draft.cron = Some(cron.to_owned()).filter(|cron| !cron.is_empty()))
        .doc("When the rule starts, in five fields: see [schedules](#schedules)"),
    Row::duration("duration", |draft, time| draft.duration = Some(millis(time)))
        .doc("How long the rule runs each time"),
    Row::any("cronDatetimeRange", "list of objects {begin, end}", "a list of objects {begin, end}", set_ranges)
        .doc("The rule runs only within these ranges"),
    Row::object("restartStrategy", &[
        Row::whole("attempts", 0, u64::MAX, |draft, times| draft.options.restart.attempts = times).default("0"),
        Row::duration("delay", |draft, wait| draft.options.restart.delay = millis(wait)).default("1s"),
        Row::number("multiplier", 0.0, f64::INFINITY, |draft, factor| draft.options.restart.multiplier = factor)
            .default("2"),
        Row::duration("maxDelay", |draft, wait| draft.options.restart.max_delay = millis(wait)).default("30s"),
        Row::number("jitterFactor", 0.0, 1.0, |draft, share| draft.options.restart.jitter = share).default("0.1"),
    ])
    .doc("When a rule that failed starts again: see [failures](#failures)"),
    Row::whole("qos", 0, 2, |draft, qos| draft.options.qos = qos as u8)
        .default("0")
        .doc("`0`: each start begins with empty state. `1` and `2`: state outlives restarts, see [operations](operations.md)"),
    Row::duration("checkpointInterval", |draft, time| draft.options.checkpoint_interval = millis(time))
        .within(Duration::from_millis(1), Duration::from_secs(365 * 86_400))
        .default("5m")
        .doc("How often the state of a rule with `qos` 1 or 2 is stored"),
    // Accepted for compatibility. Types are checked, since eKuiper refuses wrong ones too.
    Row::parsed("logFilename", "the name of a file, without a folder", |draft, name| {
        draft.names_log = !name.is_empty();
        let plain = !name.contains(['/', '\\', '\0']) && name != ".." && name != ".";
        if plain { Ok(()) } else { Err(Wrong::Value) }
    })
    .doc("No effect (with a warning): all rules share the log"),
    Row::without_effect("debug", Type::Flag),
    Row::without_effect("bufferLength", COUNT),
    Row::without_effect("disableBufferFullDiscard", Type::Flag),
    Row::without_effect("enableRuleTracer", Type::ANY),
    Row::without_effect("planOptimizeStrategy", Type::ANY),
    Row::without_effect("enableSaveStateBeforeStop", Type::ANY),
    Row::without_effect("forceExitTimeout", Type::ANY),
    Row::without_effect("notifySub", Type::ANY),
    Row::without_effect("experiment", Type::ANY),
];

const COUNT: Type = Type::Whole { least: 0, most: u64::MAX };

/// Options of the schedule that cannot work together.
#[derive(Debug, thiserror::Error)]
#[error("invalid schedule: {0}")]
struct InvalidSchedule(ScheduleError);

impl Default for RuleOptions {
    /// The options of a rule that sets none.
    fn default() -> RuleOptions {
        let mut draft = Draft::new(RuleOptions::unset());
        property::set_defaults(OPTIONS, &mut draft);
        draft.options
    }
}

impl RuleOptions {
    /// The values before the defaults of the rows are applied.
    fn unset() -> RuleOptions {
        RuleOptions {
            event_time: false,
            late_tolerance: 0,
            idle_timeout: 0,
            max_future_skew: 0,
            concurrency: None,
            max_state_bytes: 0,
            evicts: false,
            send_nil: false,
            send_meta: false,
            send_error: false,
            temporary: false,
            qos: 0,
            checkpoint_interval: 0,
            schedule: Schedule::default(),
            restart: RestartStrategy::default(),
        }
    }

    /// Reads the options of a rule, or of the configuration's section `rule`. `defaults` are the values of options that
    /// are not set.
    pub fn read(values: &Map<String, Json>, defaults: &RuleOptions) -> (RuleOptions, Findings) {
        let mut draft = Draft::new(defaults.clone());
        let mut found = property::read(OPTIONS, Noun::Option, values, &mut draft);
        found.unknown(Noun::Option, values, OPTIONS, []);
        let Draft { mut options, cron, duration, ranges, names_log } = draft;
        if names_log && !found.has_fault("logFilename") {
            let message = "logFilename has no effect: all rules share the log, see basic.fileLog and --log-dir";
            found.warnings.push(Warning::other("logFilename", message));
        }
        match Schedule::new(cron, duration, ranges) {
            Ok(schedule) if schedule.is_always() => {}
            Ok(schedule) => options.schedule = schedule,
            Err(error) => found.refuse("", InvalidSchedule(error)),
        }
        (options, found)
    }
}

impl Draft {
    fn new(options: RuleOptions) -> Draft {
        Draft { options, cron: None, duration: None, ranges: Vec::new(), names_log: false }
    }
}

/// Every option with its documentation.
pub fn entries() -> Vec<Entry> {
    property::entries(OPTIONS)
}

/// The table of `docs/rules.md`.
pub fn table() -> String {
    reference::table_of(Noun::Option, &entries())
}

fn set_ranges(draft: &mut Draft, value: &Json) -> Result<(), Wrong> {
    let entries = value.as_array().ok_or(Wrong::Value)?;
    let text = |entry: &Json, name: &str| {
        let members = entry.as_object().into_iter().flatten();
        let member = members.filter(|(key, _)| key.eq_ignore_ascii_case(name)).find_map(|(_, value)| value.as_str());
        member.unwrap_or_default().to_owned()
    };
    for entry in entries {
        let range = Range::new(&text(entry, "begin"), &text(entry, "end"));
        draft.ranges.push(range.map_err(|error| Wrong::because(format!("option cronDatetimeRange: {error}")))?);
    }
    Ok(())
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
