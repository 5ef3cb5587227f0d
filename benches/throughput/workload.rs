//! The messages, the rules, and the expected results.
//!
//! A workload is one row of [`WORKLOADS`]; the messages are made from a fixed seed, so that every candidate and every
//! run sees the same bytes. All messages of a workload have one length, which lets the generator find the n-th frame by
//! a multiplication. Nothing here depends on the candidates.

use crate::relay::Kind;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;

/// Devices that the telemetry comes from, and so the groups of a window.
const DEVICES: u64 = 1_000;
/// Length of a large message, in bytes.
const LARGE: usize = 16 * 1024;
/// Masks the frames. Not zero, so that unmasking is real work for the process under test.
const MASK: [u8; 4] = [0x5a, 0x13, 0xc7, 0x9e];

/// One workload: the rule, its input, its baselines and Plutino's aims.
pub struct Workload {
    /// Short name, as in `--only`.
    pub id: &'static str,
    /// What it shows, for the table.
    pub title: &'static str,
    /// The rule.
    pub sql: &'static str,
    /// What a message looks like.
    pub payload: Payload,
    /// The kind of results.
    pub answer: Answer,
    /// Clients that receive the results.
    pub receivers: usize,
    /// Messages per second, each sent separately; none: as fast as they are accepted.
    pub rate: Option<u64>,
    /// Messages in a round by default.
    pub messages: u64,
    /// Hand-written competitors; ratios are against the first.
    pub baselines: &'static [Kind],
    /// Plutino's aims.
    pub aims: &'static [Aim],
}

/// Shape and size of the messages.
#[derive(Clone, Copy, PartialEq)]
pub enum Payload {
    /// About 200 bytes of telemetry; every second one is warmer than 50 degrees.
    Telemetry,
    /// The same, and every one is warmer than 50 degrees.
    WarmTelemetry,
    /// 16 KiB of nested JSON with the temperature in the middle; every second one is warmer than 50 degrees.
    Large,
}

/// The results of a rule.
#[derive(Clone, Copy, PartialEq)]
pub enum Answer {
    /// The message itself, if it is warmer than 50 degrees.
    Message,
    /// Four computed columns, if the humidity is above 30.
    Projection,
    /// Average, maximum and count of the temperature by device, every second.
    Groups,
    /// Only the temperature, if it is above 50.
    Temperature,
}

/// One aim: a measure of Plutino against the same measure of a baseline in the same round.
pub struct Aim {
    /// The baseline.
    pub against: Kind,
    /// The limit.
    pub limit: Limit,
}

/// The bound of an [`Aim`].
pub enum Limit {
    /// CPU time per message, as a multiple of the baseline's.
    CpuTimes(f64),
    /// Median latency, as microseconds above the baseline's.
    MedianPlusMicros(f64),
}

const FILTER: &str = "SELECT * FROM telemetry WHERE temperature > 50";

/// All workloads, in the order in which they run.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        id: "W1",
        title: "filter, half of the messages pass",
        sql: FILTER,
        payload: Payload::Telemetry,
        answer: Answer::Message,
        receivers: 1,
        rate: None,
        messages: 1_000_000,
        baselines: &[Kind::Half, Kind::TypedFilter],
        aims: &[Aim { against: Kind::Half, limit: Limit::CpuTimes(1.8) }],
    },
    Workload {
        id: "W2",
        title: "projection with expressions and functions",
        sql: "SELECT device, round(temperature * 1.8 + 32) AS f, upper(status) AS st, humidity / 100 AS h \
              FROM telemetry WHERE humidity > 30",
        payload: Payload::Telemetry,
        answer: Answer::Projection,
        receivers: 1,
        rate: None,
        messages: 700_000,
        baselines: &[Kind::TypedProjection],
        aims: &[Aim { against: Kind::TypedProjection, limit: Limit::CpuTimes(2.0) }],
    },
    Workload {
        id: "W3",
        title: "tumbling 1 s, avg/max/count of 1,000 devices",
        sql: "SELECT device, avg(temperature) AS a, max(temperature) AS m, count(*) AS n \
              FROM telemetry GROUP BY device, TUMBLINGWINDOW(ss, 1)",
        payload: Payload::Telemetry,
        answer: Answer::Groups,
        receivers: 1,
        rate: None,
        messages: 2_000_000,
        baselines: &[Kind::TypedWindow],
        aims: &[Aim { against: Kind::TypedWindow, limit: Limit::CpuTimes(3.0) }],
    },
    Workload {
        id: "W4",
        title: "W1 with 100 receiving clients",
        sql: FILTER,
        payload: Payload::Telemetry,
        answer: Answer::Message,
        receivers: 100,
        rate: None,
        messages: 100_000,
        baselines: &[Kind::Half],
        aims: &[Aim { against: Kind::Half, limit: Limit::CpuTimes(1.2) }],
    },
    Workload {
        id: "W7@1k",
        title: "latency at 1,000 single messages/s",
        sql: FILTER,
        payload: Payload::WarmTelemetry,
        answer: Answer::Message,
        receivers: 1,
        rate: Some(1_000),
        messages: 2_000,
        baselines: &[Kind::All],
        aims: &[],
    },
    Workload {
        id: "W7@10k",
        title: "latency at 10,000 single messages/s",
        sql: FILTER,
        payload: Payload::WarmTelemetry,
        answer: Answer::Message,
        receivers: 1,
        rate: Some(10_000),
        messages: 20_000,
        baselines: &[Kind::All],
        aims: &[
            Aim { against: Kind::All, limit: Limit::CpuTimes(1.6) },
            Aim { against: Kind::All, limit: Limit::MedianPlusMicros(100.0) },
        ],
    },
    Workload {
        id: "W8@field",
        title: "16 KiB messages, one field read and sent",
        sql: "SELECT temperature FROM telemetry WHERE temperature > 50",
        payload: Payload::Large,
        answer: Answer::Temperature,
        receivers: 1,
        rate: None,
        messages: 30_000,
        baselines: &[Kind::Slice, Kind::SerdeField],
        aims: &[
            Aim { against: Kind::Slice, limit: Limit::CpuTimes(1.5) },
            Aim { against: Kind::SerdeField, limit: Limit::CpuTimes(0.5) },
        ],
    },
    Workload {
        id: "W8@whole",
        title: "16 KiB messages, one field read and half of the messages passed on",
        sql: FILTER,
        payload: Payload::Large,
        answer: Answer::Message,
        receivers: 1,
        rate: None,
        messages: 30_000,
        baselines: &[Kind::Half, Kind::SerdeFilter],
        aims: &[
            Aim { against: Kind::Half, limit: Limit::CpuTimes(1.5) },
            Aim { against: Kind::SerdeFilter, limit: Limit::CpuTimes(0.5) },
        ],
    },
];

/// The figures of one message, from which its text and its results are made. Fractions are kept as whole hundredths
/// that do not end in zero, so that each has one decimal form of a fixed width.
struct Telemetry {
    number: u64,
    device: u64,
    temperature: u64,
    humidity: u64,
    pressure: u64,
    status: &'static str,
    latitude: u64,
    longitude: u64,
    battery: u64,
}

/// A sequence of messages that is sent repeatedly: the encoded frames, and their expected results.
pub struct Block {
    payload: Payload,
    answer: Answer,
    messages: Vec<Telemetry>,
    /// Indices of the messages that lead to a result, in order; empty for groups.
    passing: Vec<u32>,
    /// All messages as masked client frames, one after the other.
    pub frames: Vec<u8>,
    /// Bytes of one frame.
    pub frame_length: usize,
}

impl Block {
    /// Makes the messages of a workload, always the same ones.
    pub fn of(workload: &Workload) -> Block {
        let count = if workload.payload == Payload::Large { 1_000 } else { 50_000 };
        let mut random = Random(0x706c_7574_696e_6f00);
        let messages: Vec<Telemetry> =
            (0..count).map(|number| Telemetry::make(number, workload.payload, &mut random)).collect();
        let mut frames = Vec::new();
        let mut frame_length = 0;
        let mut text = String::new();
        for message in &messages {
            text.clear();
            message.write(workload.payload, &mut text);
            let before = frames.len();
            write_frame(text.as_bytes(), &mut frames);
            assert!(frame_length == 0 || frame_length == frames.len() - before, "all messages have one length");
            frame_length = frames.len() - before;
        }
        let passing = match workload.answer {
            Answer::Groups => Vec::new(),
            answer => (0u32..).zip(&messages).filter(|(_, m)| m.passes(answer)).map(|(index, _)| index).collect(),
        };
        Block { payload: workload.payload, answer: workload.answer, messages, passing, frames, frame_length }
    }

    /// Messages in the block.
    pub fn len(&self) -> u64 {
        self.messages.len() as u64
    }

    /// The number of results of the first `messages` messages of an endlessly repeated block.
    pub fn results(&self, messages: u64) -> u64 {
        let rest = messages % self.len();
        messages / self.len() * self.passing.len() as u64
            + self.passing.partition_point(|&i| u64::from(i) < rest) as u64
    }

    /// The least even number of messages with a result among them. Even, so that a relay that forwards each second
    /// message is in step again after it.
    pub fn probe(&self) -> u64 {
        let first = self.passing.first().map_or(0, |&index| u64::from(index));
        (first + 2) / 2 * 2
    }

    /// Compares the `index`-th result of an endlessly repeated block with the received one; describes the difference.
    pub fn check(&self, index: u64, got: &[u8]) -> Result<(), String> {
        let message = &self.messages[self.passing[(index % self.passing.len() as u64) as usize] as usize];
        let want = message.answer(self.payload, self.answer);
        let value: Value = serde_json::from_slice(got).map_err(|e| format!("result {index} is no JSON: {e}"))?;
        if same(&want, &value) {
            return Ok(());
        }
        let mut got = String::from_utf8_lossy(got).into_owned();
        got.truncate(300);
        Err(format!("result {index} should be {want:.300} and is {got}"))
    }

    /// The expected totals of all windows after `messages` messages: by device, count, sum and maximum temperature.
    pub fn groups(&self, messages: u64) -> HashMap<String, Group> {
        let mut groups: HashMap<String, Group> = HashMap::new();
        for (index, message) in (0..).zip(&self.messages) {
            let times = messages / self.len() + u64::from(index < messages % self.len());
            if times > 0 {
                let temperature = hundredths(message.temperature);
                groups.entry(message.name()).or_default().add(times, temperature * times as f64, temperature);
            }
        }
        groups
    }
}

/// The totals of one device over all windows.
#[derive(Debug, Default, Clone, Copy)]
pub struct Group {
    /// Messages.
    pub count: u64,
    /// Sum of the temperatures.
    pub sum: f64,
    /// Greatest temperature; they are all above zero.
    pub greatest: f64,
}

impl Group {
    /// Adds the row of one window.
    pub fn add(&mut self, count: u64, sum: f64, greatest: f64) {
        self.count += count;
        self.sum += sum;
        self.greatest = self.greatest.max(greatest);
    }

    /// Whether both hold the same, but for rounding of the sums.
    pub fn agrees(&self, other: &Group) -> bool {
        self.count == other.count && self.greatest == other.greatest && close(self.sum, other.sum, 1e-6)
    }
}

impl Telemetry {
    fn make(number: u64, payload: Payload, random: &mut Random) -> Telemetry {
        let warm = payload == Payload::WarmTelemetry || number % 2 == 1;
        Telemetry {
            number,
            device: random.below(DEVICES),
            temperature: if warm { random.fraction(5_000, 9_999) } else { random.fraction(1_000, 4_999) },
            humidity: random.fraction(1_000, 9_999),
            pressure: random.fraction(100_000, 109_999),
            status: ["good", "warn", "fail", "idle"][random.below(4) as usize],
            latitude: random.fraction(4_000, 5_999),
            longitude: random.fraction(1_000, 1_999),
            battery: 10 + random.below(90),
        }
    }

    fn name(&self) -> String {
        format!("dev-{:04}", self.device)
    }

    fn passes(&self, answer: Answer) -> bool {
        match answer {
            Answer::Message | Answer::Temperature => self.temperature > 5_000,
            Answer::Projection => self.humidity > 3_000,
            Answer::Groups => true,
        }
    }

    fn answer(&self, payload: Payload, answer: Answer) -> Value {
        let temperature = hundredths(self.temperature);
        match answer {
            Answer::Message => {
                let mut text = String::new();
                self.write(payload, &mut text);
                serde_json::from_str(&text).expect("own messages are JSON")
            }
            Answer::Projection => json!({
                "device": self.name(),
                "f": (temperature * 1.8 + 32.0).round(),
                "st": self.status.to_uppercase(),
                "h": hundredths(self.humidity) / 100.0,
            }),
            Answer::Temperature => json!({ "temperature": temperature }),
            Answer::Groups => unreachable!("groups are checked as a whole"),
        }
    }

    fn write(&self, payload: Payload, out: &mut String) {
        let Telemetry { number, device, battery, status, .. } = self;
        let ts = 1_760_000_000_000 + number;
        let seq = 1_000_000_000 + number;
        let [temperature, humidity, pressure, latitude, longitude] =
            [self.temperature, self.humidity, self.pressure, self.latitude, self.longitude].map(decimal);
        let mut put = |text: std::fmt::Arguments| out.write_fmt(text).expect("a String takes everything");
        put(format_args!(r#"{{"device":"dev-{device:04}","ts":{ts},"seq":{seq},"#));
        if payload == Payload::Large {
            put(format_args!(r#""readings":["#));
            for index in 0..110 {
                put(format_args!(
                    r#"{{"at":{},"value":{humidity},"unit":"hPa","note":"\"n\" é {index:03}"}},"#,
                    ts + index
                ));
            }
            put(format_args!("null],"));
        }
        put(format_args!(
            r#""temperature":{temperature},"humidity":{humidity},"pressure":{pressure},"status":"{status}","#
        ));
        put(format_args!(r#""location":{{"lat":{latitude},"lon":{longitude}}},"battery":{battery},"site":"hall-07""#));
        if payload == Payload::Large {
            put(format_args!(r#","trace":["#));
            for index in 100..600 {
                put(format_args!("[{index},{pressure}],"));
            }
            put(format_args!(r#"[]],"pad":""#));
            let missing = LARGE - 2 - out.len();
            out.extend(std::iter::repeat_n('.', missing));
            out.push('"');
        }
        out.push('}');
    }
}

/// A small generator of well-mixed numbers (splitmix64): the same on every machine and in every version.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Hundredths from `low` to `high` that do not end in zero.
    fn fraction(&mut self, low: u64, high: u64) -> u64 {
        let tens = low / 10 + self.below(high / 10 - low / 10 + 1);
        tens * 10 + 1 + self.below(9)
    }
}

/// Appends a masked text frame of a client.
fn write_frame(payload: &[u8], out: &mut Vec<u8>) {
    out.push(0x81);
    match u16::try_from(payload.len()).expect("messages are shorter than 64 KiB") {
        short @ 0..126 => out.push(0x80 | short as u8),
        long => {
            out.push(0x80 | 126);
            out.extend_from_slice(&long.to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

fn decimal(hundredths: u64) -> String {
    format!("{}.{:02}", hundredths / 100, hundredths % 100)
}

/// The number that a reader of the decimal form gets.
fn hundredths(value: u64) -> f64 {
    value as f64 / 100.0
}

/// Whether two results are the same: objects in any order, numbers by value, with tolerance in the last digit of a
/// fraction.
fn same(want: &Value, got: &Value) -> bool {
    match (want, got) {
        (Value::Number(want), Value::Number(got)) => match (want.as_f64(), got.as_f64()) {
            (Some(want), Some(got)) => close(want, got, 1e-12),
            _ => false,
        },
        (Value::Array(want), Value::Array(got)) => {
            want.len() == got.len() && want.iter().zip(got).all(|(want, got)| same(want, got))
        }
        (Value::Object(want), Value::Object(got)) => {
            want.len() == got.len() && want.iter().all(|(key, want)| got.get(key).is_some_and(|got| same(want, got)))
        }
        _ => want == got,
    }
}

fn close(want: f64, got: f64, tolerance: f64) -> bool {
    (want - got).abs() <= tolerance * want.abs().max(1.0)
}
