//! A scan with many rules, which finds them by index, against scans with one rule each, which have none.

use proptest::prelude::*;

use super::*;
use crate::io::queue::RowFrame;
use crate::value::Value;

/// A schemaless stream, and one with columns.
const STREAMS: [&str; 2] = ["", "a BIGINT, b STRING, c BOOLEAN, d FLOAT"];

/// A rule on a scan, with all its observable results.
struct Seen {
    queue: Option<Rc<RuleQueue>>,
    kept: Arc<Kept>,
    metrics: Arc<RuleMetrics>,
}

fn catalog(columns: &str) -> Catalog {
    let mut catalog = Catalog::default();
    let create = format!("CREATE STREAM s ({columns}) WITH (TYPE=\"websocket\", DATASOURCE=\"/s\", TIMESTAMP=\"a\")");
    catalog.create(&parse_create(&create).expect("it is right")).expect("it is new");
    catalog
}

/// Adds a rule, if there is a plan for it.
fn add(scan: &mut StreamScan, key: u64, rule: &RuleText, catalog: &Catalog) -> Option<Seen> {
    let options = RuleOptions { event_time: rule.event_time, ..RuleOptions::default() };
    let plan = crate::plan::plan(&rule.sql, &options, catalog).ok()?;
    let kept = Arc::new(Kept::default());
    let metrics = Arc::new(RuleMetrics::default());
    let encoding = Encoding { name: 0, format: Default::default(), outlets: vec![kept.clone()], rows: Vec::new() };
    let output = Rc::new(RefCell::new(Output::new(vec![encoding], false, rule.tells, metrics.clone())));
    let zone = jiff::tz::TimeZone::UTC;
    let context =
        Rc::new(RuleContext { id: "r".into(), started: 0, zone, hits: Default::default(), pause: Default::default() });
    let input = &plan.inputs[0].scan;
    let (target, queue) = match plan.body {
        Body::Rows(projection) => (Target::Results(projection), None),
        Body::Stateful(_) | Body::View(_) => {
            let queue = Rc::new(RuleQueue::new(input.width(), [true], 0, 0));
            (Target::Queue(queue.clone(), 0), Some(queue))
        }
    };
    scan.add(key, input.clone(), context, output, target);
    Some(Seen { queue, kept, metrics })
}

impl Seen {
    fn shown(&self) -> String {
        let rows = self.queue.as_ref().map(|queue| queue.take().values);
        let texts = std::mem::take(&mut *self.kept.0.lock().expect("no panic while it is held"));
        let error = self.metrics.last_error().map(|(_, text)| text);
        format!("{} rows, {} errors, {error:?}, {texts:?}, {rows:?}", self.metrics.rows_in(), self.metrics.errors())
    }
}

#[derive(Clone, Debug)]
struct RuleText {
    sql: String,
    tells: bool,
    event_time: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Add(RuleText),
    Remove(usize),
    Messages(Vec<Message>),
}

#[derive(Clone, Debug)]
enum Message {
    Text(String),
    Row(Vec<(&'static str, Value)>),
}

fn constant() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (-2..4i64).prop_map(|i| i.to_string()),
        2 => prop::sample::select(vec!["0.5", "1.0", "2.0", "9007199254740993", "9007199254740992.0", "1e300"])
            .prop_map(str::to_owned),
        4 => prop::sample::select(vec!["\"x\"", "\"y\"", "\"\"", "\"1\"", "\"2020-01-01T00:00:00Z\""])
            .prop_map(str::to_owned),
        2 => prop::sample::select(vec!["true", "false"]).prop_map(str::to_owned),
        // The limits of whole numbers, values beyond them, NaN, and infinity.
        2 => prop::sample::select(vec![
            "9223372036854775807",
            "-9223372036854775807",
            "9223372036854775807.0",
            "-0.0",
            "acos(2)",
            "power(10, 400)",
            "-power(10, 400)",
            "cast(\"NaN\", \"float\")",
        ]).prop_map(str::to_owned),
    ]
}

fn condition() -> impl Strategy<Value = String> {
    let column = || prop::sample::select(vec!["a", "b", "c", "d"]);
    let op = prop::sample::select(vec!["=", "=", "=", "!=", "<", "<=", ">", ">="]);
    prop_oneof![
        8 => (column(), op, constant()).prop_map(|(column, op, constant)| format!("{column} {op} {constant}")),
        1 => (column(), constant()).prop_map(|(column, constant)| format!("{constant} < {column}")),
        2 => (column(), constant(), constant()).prop_map(|(column, low, high)| format!("{column} BETWEEN {low} AND {high}")),
        2 => (column(), prop::collection::vec(constant(), 1..4))
            .prop_map(|(column, list)| format!("{column} IN ({})", list.join(", "))),
        1 => (column(), constant()).prop_map(|(column, constant)| format!("({column} = {constant} OR {column} IS NULL)")),
        1 => column().prop_map(|column| format!("{column} + 1 > 2")),
    ]
}

fn rule() -> impl Strategy<Value = RuleText> {
    let conditions = prop::collection::vec(condition(), 0..5);
    (conditions, 0..8u8, prop::bool::weighted(0.2), prop::bool::weighted(0.1)).prop_map(
        |(conditions, kind, tells, event_time)| {
            let (fields, rest) = match kind {
                0 => ("count(*) AS n, max(a) AS m", " GROUP BY TUMBLINGWINDOW(ss, 10)"),
                1 => ("a, b", ""),
                2 => ("a + 1 AS e, c", ""),
                _ => ("*", ""),
            };
            let mut sql = format!("SELECT {fields} FROM s");
            if !conditions.is_empty() {
                sql = format!("{sql} WHERE {}", conditions.join(" AND "));
            }
            RuleText { sql: sql + rest, tells, event_time }
        },
    )
}

fn message() -> impl Strategy<Value = Message> {
    let json = prop::sample::select(vec![
        "null",
        "-1",
        "0",
        "1",
        "1.0",
        "2",
        "3",
        "0.5",
        "-0.0",
        "9007199254740993",
        "9007199254740992",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "9223372036854775807.0",
        "1e300",
        "-1e300",
        "\"NaN\"",
        "\"x\"",
        "\"y\"",
        "\"\"",
        "\"1\"",
        "true",
        "false",
        "[1]",
        "{\"x\":1}",
    ]);
    let object = prop::collection::vec(prop::option::weighted(0.8, json), 4).prop_map(|values| {
        let members = ["a", "b", "c", "d"].iter().zip(values).filter_map(|(key, value)| Some((key, value?)));
        let members: Vec<String> = members.map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    });
    let moment: jiff::Zoned = "2020-01-01T00:00:00Z[UTC]".parse().expect("it is right");
    let value = prop::sample::select(vec![
        Value::Int(1),
        Value::Float(f64::NAN),
        Value::Float(-f64::NAN),
        Value::Float(f64::INFINITY),
        Value::Float(f64::NEG_INFINITY),
        Value::Float(-0.0),
        Value::Int(i64::MIN),
        Value::Int(i64::MAX),
        Value::Absent,
        Value::Json("[1]".into()),
        Value::from(vec![120u8]),
        Value::Float(1.0),
        Value::from("x"),
        Value::Bool(true),
        Value::Null,
        Value::DateTime(Arc::new(moment)),
        Value::array([Value::Int(1)]),
    ]);
    let row = prop::collection::vec(value, 4)
        .prop_map(|values| Message::Row(["a", "b", "c", "d"].into_iter().zip(values).collect()));
    prop_oneof![
        12 => object.clone().prop_map(Message::Text),
        2 => prop::collection::vec(object, 0..4).prop_map(|objects| Message::Text(format!("[{}]", objects.join(",")))),
        1 => prop::sample::select(vec!["{", "5", "{\"a\":1}}"]).prop_map(|text| Message::Text(text.to_owned())),
        2 => row,
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => rule().prop_map(Step::Add),
        1 => any::<usize>().prop_map(Step::Remove),
        2 => prop::collection::vec(message(), 1..6).prop_map(Step::Messages),
    ]
}

fn frame(message: &Message) -> Frame {
    match message {
        Message::Text(text) => Frame::Text(text.as_str().into()),
        Message::Row(row) => {
            let row = row.iter().map(|(key, value)| ((*key).into(), value.clone())).collect();
            Frame::Row(Arc::new(RowFrame { row, ..RowFrame::default() }))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_index_changes_nothing(
        stream in 0..STREAMS.len(),
        first in prop::collection::vec(rule(), 5..30),
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let catalog = catalog(STREAMS[stream]);
        let def = match crate::plan::plan("SELECT * FROM s", &RuleOptions::default(), &catalog) {
            Ok(plan) => plan.stream().schema(),
            Err(error) => panic!("{error}"),
        };
        let new = || StreamScan::new(def.clone(), jiff::tz::TimeZone::UTC);
        let mut scan = new();
        // Each rule with its key, in the large scan and on its own.
        let mut rules: Vec<(u64, RuleText, Seen, StreamScan, Seen)> = Vec::new();
        for (key, step) in (0..).zip(first.into_iter().map(Step::Add).chain(steps)) {
            match step {
                Step::Add(rule) => {
                    let mut alone = new();
                    if let Some(seen) = add(&mut scan, key, &rule, &catalog) {
                        let seen_alone = add(&mut alone, key, &rule, &catalog).expect("it is the same rule");
                        rules.push((key, rule, seen, alone, seen_alone));
                    }
                }
                Step::Remove(_) if rules.is_empty() => {}
                Step::Remove(which) => {
                    let (key, rule, seen, mut alone, seen_alone) = rules.remove(which % rules.len());
                    scan.remove(key);
                    alone.remove(key);
                    prop_assert_eq!(seen.shown(), seen_alone.shown(), "{:?} at its end", rule);
                }
                Step::Messages(messages) => {
                    let frames = || messages.iter().map(frame).collect();
                    let batch = || [FrameBatch { frames: frames(), origin: None, received: Instant::now() }];
                    scan.run(&batch(), 0);
                    for (_, rule, seen, alone, seen_alone) in &mut rules {
                        alone.run(&batch(), 0);
                        prop_assert_eq!(seen.shown(), seen_alone.shown(), "{:?} with {:?}", rule, messages);
                    }
                }
            }
        }
    }
}
