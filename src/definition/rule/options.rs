//! The options of a rule, which a configuration may give other defaults.

use super::{Reader, bytes, field, meant, milliseconds};
use crate::definition::schedule::{Range, RestartStrategy, Schedule};
use crate::text::document::{Node, Value};

/// Options of a rule.
#[derive(Clone, Debug)]
pub struct RuleOptions {
    /// isEventTime
    pub event_time: bool,
    /// lateTolerance, ms
    pub late_tolerance: i64,
    /// idleTimeout, ms: in event time a stream that has brought nothing for this long does not hold back the watermark
    /// of a join; 0: it does for ever
    pub idle_timeout: i64,
    /// maxFutureSkew, ms: in event time rows further ahead of the clock than this are dropped; 0: none are
    pub max_future_skew: i64,
    /// maxStateBytes: what the rule remembers takes no more than this, about; 0: anything
    pub max_state_bytes: u64,
    /// onStateFull is `evict`: the oldest keys and rows go; else the rule fails
    pub evicts: bool,
    /// sendNilField
    pub send_nil: bool,
    /// sendMetaToSink: results have the metadata of their messages
    pub send_meta: bool,
    /// sendError
    pub send_error: bool,
    /// the rule's member `temp`: it may read temporary streams
    pub temporary: bool,
    /// qos: 0 begins anew with each start; with 1 and 2, which mean the same here, state outlives restarts
    pub qos: u8,
    /// checkpointInterval, ms: how often state is kept while the rule runs
    pub checkpoint_interval: i64,
    /// cron, duration, cronDatetimeRange
    pub schedule: Schedule,
    /// restartStrategy
    pub restart: RestartStrategy,
}

impl Default for RuleOptions {
    fn default() -> Self {
        RuleOptions {
            event_time: false,
            late_tolerance: 1000,
            idle_timeout: 60_000,
            max_future_skew: 5 * 60_000,
            max_state_bytes: 0,
            evicts: false,
            send_nil: false,
            send_meta: false,
            send_error: false,
            temporary: false,
            qos: 0,
            checkpoint_interval: 300_000,
            schedule: Schedule::default(),
            restart: RestartStrategy::default(),
        }
    }
}

/// Options of eKuiper that have no meaning here: they are tunings of its engine, or belong to its service.
const FOREIGN_OPTIONS: &[&str] = &[
    "debug",
    "logFilename",
    "concurrency",
    "bufferLength",
    "enableRuleTracer",
    "disableBufferFullDiscard",
    "planOptimizeStrategy",
    "enableSaveStateBeforeStop",
    "forceExitTimeout",
    "notifySub",
    "experiment",
];

impl Reader<'_> {
    pub(super) fn options(&mut self, node: &Node, defaults: &RuleOptions) -> RuleOptions {
        let mut options = defaults.clone();
        if !matches!(node.value, Value::Map(_) | Value::Null) {
            self.expected(node, "options", "an object");
        }
        let (mut cron, mut duration, mut ranges) = (None, None, Vec::new());
        for member in node.members() {
            let (key, value) = (member.key.as_str(), &member.node);
            let is = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(key));
            let name = format!("option {key}");
            if value.is_null() {
                continue;
            }
            if is(&["cron"]) {
                cron = self.text(value, &name).filter(|cron| !cron.is_empty());
            } else if is(&["duration"]) {
                match milliseconds(value) {
                    Some(millis) => duration = Some(millis),
                    None if value.text() == Some("") => {}
                    None => self.expected(value, &name, "a duration such as \"10m\""),
                }
            } else if is(&["cronDatetimeRange"]) {
                ranges = self.ranges(value, &name);
            } else if is(&["restartStrategy"]) {
                options.restart = self.restart(value, &name, &options.restart);
            } else if is(&["isEventTime"]) {
                options.event_time = self.flag(value, &name).unwrap_or_default();
            } else if is(&["sendNilField"]) {
                options.send_nil = self.flag(value, &name).unwrap_or_default();
            } else if is(&["sendMetaToSink"]) {
                options.send_meta = self.flag(value, &name).unwrap_or_default();
            } else if is(&["sendError"]) {
                options.send_error = self.flag(value, &name).unwrap_or_default();
            } else if is(&["lateTolerance"]) {
                match milliseconds(value).filter(|tolerance| *tolerance >= 0) {
                    Some(tolerance) => options.late_tolerance = tolerance,
                    None => self.expected(value, &name, "milliseconds, or a duration such as \"5s\""),
                }
            } else if is(&["idleTimeout"]) {
                match milliseconds(value).filter(|timeout| *timeout >= 0) {
                    Some(timeout) => options.idle_timeout = timeout,
                    None => {
                        self.expected(value, &name, "milliseconds, or a duration such as \"30s\"; 0 waits for ever")
                    }
                }
            } else if is(&["maxFutureSkew"]) {
                match milliseconds(value).filter(|skew| *skew >= 0) {
                    Some(skew) => options.max_future_skew = skew,
                    None => self.expected(value, &name, "milliseconds, or a duration such as \"1h\"; 0 takes any time"),
                }
            } else if is(&["maxStateBytes"]) {
                match bytes(value) {
                    Some(limit) => options.max_state_bytes = limit,
                    None => self.expected(value, &name, "bytes, or a size such as \"64MiB\"; 0 is no limit"),
                }
            } else if is(&["onStateFull"]) {
                match value.text() {
                    Some(text) if text.eq_ignore_ascii_case("fail") => options.evicts = false,
                    Some(text) if text.eq_ignore_ascii_case("evict") => options.evicts = true,
                    _ => self.expected(value, &name, "\"fail\" or \"evict\""),
                }
            } else if is(&["bufferLength", "concurrency"]) {
                // They have no effect, yet a rule that eKuiper refuses is not taken as right.
                if !matches!(&value.value, Value::Number(number) if number.as_u64().is_some()) {
                    self.expected(value, &name, "a whole number that is not negative");
                }
            } else if is(&["debug", "disableBufferFullDiscard"]) {
                self.flag(value, &name);
            } else if is(&["logFilename"]) {
                // Nothing is written there, yet a name that could lead elsewhere is never right.
                let safe = |text: &str| !text.contains(['/', '\\', '\0']) && text != ".." && text != ".";
                if !value.text().is_some_and(safe) {
                    self.expected(value, &name, "the name of a file, without a folder");
                } else if value.text().is_some_and(|text| !text.is_empty()) {
                    let message = "logFilename has no effect: all rules share the log, see basic.fileLog and --log-dir";
                    self.warning(member.place, message.to_owned(), None);
                }
            } else if is(&["qos"]) {
                match &value.value {
                    Value::Number(number) if number.as_u64().is_some_and(|qos| qos <= 2) => {
                        options.qos = number.as_u64().unwrap_or(0) as u8;
                    }
                    _ => self.expected(value, &name, "0, 1 or 2"),
                }
            } else if is(&["checkpointInterval"]) {
                match milliseconds(value).filter(|interval| *interval > 0) {
                    Some(interval) => options.checkpoint_interval = interval,
                    None => self.expected(value, &name, "milliseconds, or a duration such as \"300s\"; more than 0"),
                }
            } else if !is(FOREIGN_OPTIONS) {
                let own = [
                    "isEventTime",
                    "sendNilField",
                    "sendMetaToSink",
                    "sendError",
                    "lateTolerance",
                    "idleTimeout",
                    "maxFutureSkew",
                    "maxStateBytes",
                    "onStateFull",
                    "qos",
                    "checkpointInterval",
                    "cron",
                    "duration",
                    "cronDatetimeRange",
                    "restartStrategy",
                ];
                let names: Vec<&str> = own.iter().chain(FOREIGN_OPTIONS).copied().collect();
                self.warning(member.place, format!("unknown option {key} is ignored"), meant(key, &names));
            }
        }
        match Schedule::new(cron, duration, ranges) {
            Ok(schedule) if schedule.is_always() => {}
            Ok(schedule) => options.schedule = schedule,
            Err(error) => self.error(node.place, format!("invalid schedule: {error}"), None),
        }
        options
    }

    fn ranges(&mut self, node: &Node, name: &str) -> Vec<Range> {
        let Value::List(entries) = &node.value else {
            self.expected(node, name, "a list of objects {begin, end}");
            return Vec::new();
        };
        let mut ranges = Vec::new();
        for entry in entries {
            let end = |name| field(entry, name).and_then(Node::text).unwrap_or_default();
            match Range::new(end("begin"), end("end")) {
                Ok(range) => ranges.push(range),
                Err(error) => self.error(entry.place, format!("{name}: {error}"), None),
            }
        }
        ranges
    }

    fn restart(&mut self, node: &Node, name: &str, defaults: &RestartStrategy) -> RestartStrategy {
        let mut strategy = defaults.clone();
        if !matches!(node.value, Value::Map(_)) {
            self.expected(node, name, "an object {attempts, delay, multiplier, maxDelay, jitterFactor}");
        }
        for member in node.members() {
            let value = &member.node;
            let name = format!("{name}.{}", member.key);
            let number = match &value.value {
                Value::Number(number) => number.as_f64().filter(|number| *number >= 0.0),
                _ => None,
            };
            let lower = member.key.to_ascii_lowercase();
            match (lower.as_str(), number, milliseconds(value).filter(|millis| *millis >= 0)) {
                ("attempts", Some(number), _) => strategy.attempts = number as u64,
                ("multiplier", Some(number), _) => strategy.multiplier = number,
                ("jitterfactor", Some(number), _) if number <= 1.0 => strategy.jitter = number,
                ("delay", _, Some(millis)) => strategy.delay = millis,
                ("maxdelay", _, Some(millis)) => strategy.max_delay = millis,
                ("jitterfactor", ..) => self.expected(value, &name, "a number from 0 to 1"),
                ("delay" | "maxdelay", ..) => {
                    self.expected(value, &name, "milliseconds that are not negative, or a duration such as \"2s\"");
                }
                ("attempts" | "multiplier", ..) => self.expected(value, &name, "a number that is not negative"),
                _ => {
                    let known = ["attempts", "multiplier", "jitterFactor", "delay", "maxDelay"];
                    self.warning(member.place, format!("unknown {name} is ignored"), meant(&member.key, &known));
                }
            }
        }
        strategy
    }
}
