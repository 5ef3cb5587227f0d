//! The forms of real feeds: arrays as rows, several messages in a frame, messages of another shape, and nested event
//! time.

use super::*;
use crate::dataflow::timers::Turn;
use crate::format::compress::Method;
use crate::io::queue::FeedChecks;
use crate::metrics::FeedEvent;
use crate::value::field_path::FieldPath;

/// A rule over one stream `s` with these columns and options.
struct Feed {
    scan: StreamScan,
    queue: Option<Rc<RuleQueue>>,
    kept: Arc<Kept>,
    metrics: Arc<RuleMetrics>,
}

impl Feed {
    fn new(columns: &str, with: &str, sql: &str, options: &RuleOptions) -> Feed {
        let create = format!("CREATE STREAM s ({columns}) WITH (TYPE=\"websocket\", DATASOURCE=\"/s\", {with})");
        let mut catalog = Catalog::default();
        catalog.create(&parse_create(&create).expect("it is right")).expect("it is new");
        let plan = crate::plan::plan(sql, options, &catalog).unwrap_or_else(|error| panic!("{sql}: {error}"));
        let (kept, metrics): (Arc<Kept>, Arc<RuleMetrics>) = Default::default();
        let encoding = Encoding { name: 0, format: Default::default(), outlets: vec![kept.clone()], rows: Vec::new() };
        let output = Rc::new(RefCell::new(Output::new(vec![encoding], false, false, metrics.clone())));
        let zone = jiff::tz::TimeZone::UTC;
        let context = Rc::new(RuleContext {
            id: "r".into(),
            started: 0,
            zone: zone.clone(),
            hits: Default::default(),
            pause: Default::default(),
        });
        let input = &plan.inputs[0];
        let mut scan = StreamScan::new(input.stream.schema(), zone);
        let (target, queue) = match plan.body.clone() {
            Body::Rows(projection) => (Target::Results(projection), None),
            Body::View(_) => unreachable!("a rule is not a view"),
            Body::Stateful(_) => {
                let queue = Rc::new(RuleQueue::new(input.scan.width(), [true], 0, 0));
                (Target::Queue(queue.clone(), 0), Some(queue))
            }
        };
        scan.add(1, input.scan.clone(), context, output, target);
        Feed { scan, queue, kept, metrics }
    }

    fn checking(self, dedup: &str) -> Feed {
        let dedup = vec![FieldPath::parse(dedup).expect("a path")];
        Feed { scan: self.scan.checking(FeedChecks { dedup, ..FeedChecks::default() }), ..self }
    }

    /// The results of the rule for these messages.
    fn run(&mut self, messages: &[&str]) -> Vec<String> {
        self.frames(messages.iter().map(|message| Frame::Text((*message).into())).collect())
    }

    fn frames(&mut self, frames: Vec<Frame>) -> Vec<String> {
        self.scan.run(&[FrameBatch { frames, origin: None, received: Instant::now() }], 0);
        let kept = std::mem::take(&mut *self.kept.0.lock().expect("no panic while it is held"));
        // Each result is a list of one row.
        kept.iter().map(|text| text[1..text.len() - 1].to_owned()).collect()
    }

    fn error(&self) -> String {
        self.metrics.last_error().map(|(_, error)| error).unwrap_or_default()
    }

    fn skipped(&self) -> u64 {
        self.metrics.feed().each().filter(|(event, _)| *event == FeedEvent::Mismatched).map(|(_, count)| count).sum()
    }
}

#[test]
fn an_array_is_a_row_by_position() {
    let columns = "channel BIGINT, data ARRAY(FLOAT), name STRING, pair STRING";
    let by_clock = by_clock();
    let mut feed = Feed::new(columns, "JSON_ARRAY=\"row\"", "SELECT pair, data[0] AS price, name FROM s", &by_clock);
    let rows = feed.run(&[r#"[340, ["5541.2", 1], "trade", "XBT/USD", 9]"#, r#"[340,[5541.5,1],"trade","XBT/USD"]"#]);
    assert_eq!(rows, [r#"{"pair":"XBT/USD","price":5541.5,"name":"trade"}"#]);
    assert!(feed.error().starts_with("data has wrong type"), "{}", feed.error());
    assert_eq!(feed.run(&["[1,[7]]"]), [r#"{"price":7}"#], "missing elements are absent");
    let mut all = Feed::new("a BIGINT, b STRING", "JSON_ARRAY=\"row\"", "SELECT * FROM s", &by_clock);
    assert_eq!(all.run(&[r#"[1,"x",2]"#]), [r#"{"a":1,"b":"x"}"#]);
}

#[test]
fn an_array_without_columns_is_self() {
    let with = "JSON_ARRAY=\"row\", ON_MISMATCH=\"skip\"";
    let mut feed = Feed::new("", with, "SELECT self[0] AS id, self[1]->c[0] AS close FROM s", &by_clock());
    let rows = feed.run(&[r#" [340, {"c":["5541.2","0.1"]}] "#, r#"{"event":"heartbeat"}"#, "pong", "7"]);
    assert_eq!(rows, [r#"{"id":340,"close":"5541.2"}"#]);
    assert_eq!((feed.skipped(), feed.error().as_str()), (3, ""));
    assert_eq!(feed.run(&["[1,"]), Vec::<String>::new(), "a broken array is an error all the same");
    assert!(feed.error().contains("cannot parse JSON"), "{}", feed.error());
    let mut all = Feed::new("", "JSON_ARRAY=\"row\"", "SELECT * FROM s", &by_clock());
    assert_eq!(all.run(&[r#"[1, [2]]"#, "{}"]), [r#"{"self":[1, [2]]}"#]);
    assert!(all.error().contains("expected an array"), "{}", all.error());
    assert_eq!(all.skipped(), 0);
}

#[test]
fn other_shapes_are_skipped_where_rows_are_objects() {
    let mut feed = Feed::new("", "ON_MISMATCH=\"skip\"", "SELECT a FROM s", &by_clock());
    assert_eq!(feed.run(&["pong", "[1,2]", r#"[{"a":1}]"#, r#"{"a":2}"#, "null"]), [r#"{"a":1}"#, r#"{"a":2}"#]);
    assert_eq!((feed.skipped(), feed.error().as_str()), (3, ""));
    let mut strict = Feed::new("", "FORMAT=\"json\"", "SELECT a FROM s", &by_clock());
    strict.run(&["pong"]);
    assert!(strict.error().contains("cannot parse JSON"), "{}", strict.error());
}

#[test]
fn values_that_do_not_fit_their_columns_are_skipped_where_that_is_asked_for() {
    let columns = "channel BIGINT, seq BIGINT, kind STRING";
    let with = "JSON_ARRAY=\"row\", ON_MISMATCH=\"skip\"";
    let messages = [r#"[101,"hb"]"#, r#"[101,7,"tu"]"#, "[102]", r#"{"event":"info"}"#];
    // The rule reads no column that does not fit.
    let mut feed = Feed::new(columns, with, "SELECT channel FROM s", &by_clock());
    assert_eq!(feed.run(&messages), [r#"{"channel":101}"#, r#"{"channel":102}"#]);
    assert_eq!((feed.skipped(), feed.error().as_str()), (2, ""));
    let mut strict = Feed::new(columns, "JSON_ARRAY=\"row\"", "SELECT seq FROM s", &by_clock());
    assert_eq!(strict.run(&messages[..2]), [r#"{"seq":7}"#]);
    assert_eq!((strict.skipped(), strict.error().as_str()), (0, "seq has wrong type:string, expect:bigint"));
    // For a list, each row separately.
    let mut rows = Feed::new("a BIGINT, b BIGINT", "ON_MISMATCH=\"skip\"", "SELECT a FROM s", &by_clock());
    assert_eq!(rows.run(&[r#"[{"a":1},{"a":2,"b":"x"},{"a":3,"b":3}]"#]), [r#"{"a":1}"#, r#"{"a":3}"#]);
    assert_eq!((rows.skipped(), rows.error().as_str()), (1, ""));
}

#[test]
fn self_names_the_whole_message_in_checks() {
    for (columns, with, first, second) in [
        ("", "FORMAT=\"json\"", r#"{"a":1,"b":2}"#, r#"{"a":1,"b":3}"#),
        ("a BIGINT", "FORMAT=\"json\"", r#"{"a":1,"b":2}"#, r#"{"a":1,"b":3}"#),
        ("", "JSON_ARRAY=\"row\"", "[1,2]", "[1,3]"),
        ("a BIGINT", "JSON_ARRAY=\"row\"", "[1,2]", "[1,3]"),
        ("a BIGINT, b BIGINT", "FORMAT=\"delimited\"", "1,2", "1,3"),
    ] {
        let mut feed = Feed::new(columns, with, "SELECT 1 AS n FROM s", &by_clock()).checking("self");
        assert_eq!(feed.run(&[first, second, first]), [r#"{"n":1}"#, r#"{"n":1}"#], "{columns} {with}");
    }
    for (columns, with, path, first, second) in [
        ("a BIGINT", "FORMAT=\"json\"", "self->b", r#"{"a":1,"b":2}"#, r#"{"a":2,"b":2}"#),
        ("a BIGINT", "JSON_ARRAY=\"row\"", "self[1]", "[1,2]", "[3,2]"),
        ("self BIGINT", "FORMAT=\"json\"", "self", r#"{"a":1,"self":2}"#, r#"{"a":2,"self":2}"#),
    ] {
        let mut feed = Feed::new(columns, with, "SELECT 1 AS n FROM s", &by_clock()).checking(path);
        assert_eq!(feed.run(&[first, second]), [r#"{"n":1}"#], "{columns} {with}");
    }
}

#[test]
fn each_line_of_a_frame_is_a_message() {
    let text = "{\"a\":1}\n\r\n {\"a\":2}\r\n{\"a\":\n[{\"a\":3},{\"a\":4}]\n";
    for binary in [false, true] {
        let mut feed = Feed::new("", "FRAMING=\"lines\"", "SELECT a FROM s", &by_clock());
        let frame = if binary { Frame::Binary(text.as_bytes().to_vec().into()) } else { Frame::Text(text.into()) };
        let rows = feed.frames(vec![frame]);
        assert_eq!(rows, [r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":3}"#, r#"{"a":4}"#]);
        assert_eq!(feed.metrics.errors(), 1, "the broken line alone is lost");
    }
    let with = "FRAMING=\"lines\", FORMAT=\"delimited\", DELIMITER=\" \"";
    let mut feed = Feed::new("a STRING, b BIGINT", with, "SELECT * FROM s", &by_clock());
    assert_eq!(feed.run(&["x 1\ny 2\n"]), [r#"{"a":"x","b":1}"#, r#"{"a":"y","b":2}"#]);
}

#[test]
fn event_time_is_where_the_path_says() {
    let options = RuleOptions { max_future_skew: 0, ..event_time(0) };
    for (with, message, expected) in [
        ("TIMESTAMP=\"data->T\"", r#"{"data":{"T":1700000000123}}"#, 1_700_000_000_123),
        (
            "TIMESTAMP=\"data->t[1]\", TIMESTAMP_FORMAT=\"epoch_s\"",
            r#"{"data":{"t":[0,"1700000000.5"]}}"#,
            1_700_000_000_500,
        ),
        ("TIMESTAMP=\"t\", TIMESTAMP_FORMAT=\"epoch_us\"", r#"{"t":1700000000123456}"#, 1_700_000_000_123),
        ("TIMESTAMP=\"t\", TIMESTAMP_FORMAT=\"epoch_ns\"", r#"{"t":"1700000000123456789"}"#, 1_700_000_000_123),
        ("TIMESTAMP=\"t\"", r#"{"t":"2023-11-14T22:13:20.123Z"}"#, 1_700_000_000_123),
        ("TIMESTAMP=\"t\"", r#"{"t":"2023-11-14T23:13:20.123456+01:00"}"#, 1_700_000_000_123),
        ("TIMESTAMP=\"self[2]\", JSON_ARRAY=\"row\"", "[1,2,1700000000123]", 1_700_000_000_123),
    ] {
        let mut feed = Feed::new("", with, "SELECT count(*) FROM s GROUP BY TUMBLINGWINDOW(ss, 1)", &options);
        feed.run(&[message]);
        let queue = feed.queue.as_ref().expect("the rule has state");
        assert_eq!((queue.watermark(), feed.error().as_str()), (expected, ""), "{with} {message}");
    }
}

#[test]
fn a_wrong_time_is_named_with_its_value() {
    let options = RuleOptions { max_future_skew: 0, ..event_time(0) };
    for (with, message, expected) in [
        (
            "TIMESTAMP=\"data->T\"",
            r#"{"data":{"T":"soon"}}"#,
            "timestamp: field data->T is string(soon), which is not a time",
        ),
        ("TIMESTAMP=\"data->T\"", r#"{"data":7}"#, "the message has no usable timestamp: field data->T is not in it"),
        (
            "TIMESTAMP=\"t\", TIMESTAMP_FORMAT=\"epoch_s\"",
            r#"{"t":true}"#,
            "field t is boolean(true), which is not a time as epoch_s",
        ),
    ] {
        let mut feed = Feed::new("", with, "SELECT count(*) FROM s GROUP BY TUMBLINGWINDOW(ss, 1)", &options);
        feed.run(&[message]);
        assert!(feed.error().contains(expected), "{}", feed.error());
    }
}

#[test]
fn a_row_with_a_wrong_value_does_not_move_the_watermark() {
    let options = RuleOptions { max_future_skew: 0, ..event_time(0) };
    let sql = "SELECT sum(v) FROM s WHERE ts > 0 GROUP BY TUMBLINGWINDOW(ss, 1)";
    let mut feed = Feed::new("ts BIGINT, v BIGINT, w BIGINT", "TIMESTAMP=\"ts\"", sql, &options);
    feed.run(&[r#"{"ts":1000,"v":1}"#, r#"{"ts":9000,"v":"x"}"#]);
    let watermark = |feed: &Feed| feed.queue.as_ref().expect("the rule has state").watermark();
    assert_eq!((watermark(&feed), feed.error().as_str()), (1000, "v has wrong type:string, expect:bigint"));
    feed.run(&[r#"{"ts":2000,"v":1,"w":"no rule reads it"}"#]);
    assert_eq!(watermark(&feed), 2000);
}

#[test]
fn messages_that_take_long_are_left_when_the_turn_is_over() {
    let packed = Method::Zlib.pack(br#"{"n":1}"#).expect("it can be packed");
    let large = format!(r#"{{"n":1,"more":"{}"}}"#, "x".repeat(70_000));
    for (with, message, left) in [
        (r#"EXTRA="{\"decompression\": \"zlib\"}""#, Frame::Binary(packed.into()), 2),
        ("FORMAT=\"json\"", Frame::Text(large.into()), 2),
        ("FORMAT=\"json\"", Frame::Text(r#"{"n":1}"#.into()), 0),
    ] {
        let mut feed = Feed::new("", with, "SELECT n FROM s", &RuleOptions::default());
        let batch =
            |frames| FrameBatch { frames: vec![message.clone(); frames], origin: None, received: Instant::now() };
        let mut batches = vec![batch(2), batch(1)];
        let turn = Turn::begin();
        while !turn.is_over() {
            std::hint::spin_loop();
        }
        let waiting = |batches: &[FrameBatch]| batches.iter().map(|batch| batch.frames.len()).sum::<usize>();
        feed.scan.run_for(&mut batches, 0, &turn);
        assert_eq!(waiting(&batches), left, "{with}");
        // The following turns run all of them, each once.
        while !batches.is_empty() {
            feed.scan.run_for(&mut batches, 0, &turn);
        }
        assert_eq!(feed.kept.0.lock().expect("no panic while it is held").len(), 3, "{with}");
    }
}

#[test]
fn a_message_of_a_stranger_has_so_many_rows() {
    use crate::dataflow::decode::MOST_ROWS;

    let rows = |count: usize| format!("[{}]", vec!["{}"; count].join(","));
    let lines = |count: usize| "{}\n".repeat(count);
    for (with, text) in [("FORMAT=\"json\"", rows as fn(usize) -> String), ("FRAMING=\"lines\"", lines)] {
        for (count, from_socket, taken) in
            [(MOST_ROWS, true, true), (MOST_ROWS + 1, true, false), (MOST_ROWS + 1, false, true)]
        {
            let mut feed = Feed::new("", with, "SELECT n FROM s WHERE n = 1", &RuleOptions::default());
            let origin = from_socket.then(|| Arc::new(crate::io::queue::Origin { meta: crate::value::Value::Null }));
            let frames = vec![Frame::Text(text(count).into())];
            feed.scan.run(&[FrameBatch { frames, origin, received: Instant::now() }], 0);
            assert_eq!(feed.error().is_empty(), taken, "{with} {count} {from_socket}: {}", feed.error());
        }
    }
    for (with, separator) in [("FORMAT=\"delimited\"", ","), ("FORMAT=\"urlencoded\"", "&")] {
        let mut feed = Feed::new("", with, "SELECT * FROM s", &RuleOptions::default());
        feed.run(&[&separator.repeat(70_000)]);
        assert!(feed.error().contains("at most 65536 values"), "{}", feed.error());
    }
}
