//! Topics with readers and writers, without rules.

use super::*;
use crate::io::queue::{self, FrameReceiver, INBOUND_BATCHES, Received};
use crossbeam_channel::Receiver;
use tokio::sync::Notify;

struct Stream {
    signal: Signal,
    raised: Receiver<usize>,
    receiver: FrameReceiver,
    sender: FrameSender,
}

fn stream(slot: usize) -> Stream {
    let (ready, raised) = crossbeam_channel::unbounded();
    let signal = Signal::new(slot, ready, Arc::new(Notify::new()));
    let (sender, receiver) = queue::inbound(signal.clone());
    Stream { signal, raised, receiver, sender }
}

impl Stream {
    fn take(&self) -> Vec<Arc<RowFrame>> {
        let mut rows = Vec::new();
        while let Received::Batch(batch) = self.receiver.receive() {
            rows.extend(batch.frames.into_iter().filter_map(|frame| match frame {
                Frame::Row(row) => Some(row),
                _ => None,
            }));
        }
        rows
    }
}

fn source(topic: &str) -> MemorySource {
    MemorySource::new(topic, &Map::new()).expect("the topic is right").0
}

fn sink(props: Json) -> Result<MemorySink, String> {
    let Json::Object(props) = props else { return Err("no object".to_owned()) };
    MemorySink::new(&props).map(|(sink, _)| sink).map_err(|error| error.to_string())
}

fn to(topic: &str) -> MemorySink {
    sink(serde_json::json!({ "topic": topic })).expect("the topic is right")
}

/// Makes a reader that has begun.
fn read(topics: &Topics, topic: &str, stream: &Stream) -> MemoryReader {
    let reader = topics.read(source(topic), stream.sender.clone());
    drop(reader.begin());
    reader
}

fn row(id: i64) -> Row {
    vec![("id".into(), Value::Int(id))]
}

fn write(writer: &MemoryWriter, rows: Vec<Row>) -> Vec<String> {
    let mut errors = Vec::new();
    writer.send(rows, None, &mut |error| errors.push(error));
    errors
}

#[test]
fn wildcards() {
    for (topic, written, reads) in [
        ("a", "a", true),
        ("a", "a/b", false),
        ("a/b", "a/b", true),
        ("a/b", "a", false),
        ("+", "a", true),
        ("+", "a/b", false),
        ("home/+/temp", "home/bath/temp", true),
        ("home/+/temp", "home/bath/hum", false),
        ("home/+/temp", "home/temp", false),
        ("home/+/temp", "home/a/b/temp", false),
        ("home/#", "home/x", true),
        ("home/#", "home/x/y/z", true),
        ("home/#", "home", false),
        ("home/#", "homely/x", false),
        ("#", "a/b", true),
        ("+/b/#", "a/b/c", true),
        ("+/b/#", "a/c/c", false),
    ] {
        assert_eq!(source(topic).reads(written), reads, "{topic} {written}");
    }
    assert_eq!(
        MemorySource::new("a/#/b", &Map::new()).err().map(|error| error.to_string()).as_deref(),
        Some("invalid topic a/#/b: # must at the last level")
    );
    assert!(MemorySource::new("", &Map::new()).is_err());
}

#[test]
fn properties_of_a_sink() {
    use serde_json::json;
    for (props, part) in [
        (json!({}), "property topic is the topic of a memory sink"),
        (json!({"topic": 5}), "property topic"),
        (json!({"topic": "a/+"}), "invalid topic a/+"),
        (json!({"topic": "a", "keyField": 1}), "property keyField is 1, expected a text"),
        (json!({"topic": "a", "rowkindField": "op"}), "rowkindField needs keyField"),
    ] {
        let error = sink(props.clone()).expect_err("it is wrong");
        assert!(error.contains(part), "{props}: {error}");
    }
    let Json::Object(props) = json!({"topic": "a", "keyfield": "id", "rowKind": "x"}) else { unreachable!() };
    let (sink, warnings) = MemorySink::new(&props).expect("the properties are right");
    assert_eq!(sink.key_field.as_deref(), Some("id"));
    assert_eq!(warnings.len(), 1);
}

#[test]
fn all_readers_of_a_topic_get_all_rows_of_all_writers() {
    let topics = Topics::default();
    let (one, two, other) = (stream(1), stream(2), stream(3));
    let first = read(&topics, "t/a", &one);
    let _second = read(&topics, "t/#", &two);
    let _third = read(&topics, "u", &other);
    let feed = stream(4);
    let (a, b) = (topics.write(to("t/a"), feed.signal.clone()), topics.write(to("t/b"), feed.signal.clone()));
    write(&a, vec![row(1), row(2)]);
    write(&b, vec![row(3)]);
    let ids = |stream: &Stream| -> Vec<String> {
        stream.take().iter().map(|frame| format!("{} {:?}", frame.topic, frame.row[0].1)).collect()
    };
    assert_eq!(ids(&one), ["t/a Int(1)", "t/a Int(2)"]);
    assert_eq!(ids(&two), ["t/a Int(1)", "t/a Int(2)", "t/b Int(3)"]);
    assert_eq!(ids(&other), Vec::<String>::new());
    assert_eq!((first.status().messages, a.status().messages, topics.movement()), (2, 2, (5, 0)));
    drop(first);
    write(&a, vec![row(4)]);
    assert_eq!((ids(&one).len(), ids(&two).len()), (0, 1));
}

#[test]
fn a_row_may_say_its_topic() {
    let topics = Topics::default();
    let (exact, wild) = (stream(1), stream(2));
    let _readers = [read(&topics, "dev/1", &exact), read(&topics, "dev/#", &wild)];
    let feed = stream(3);
    let writer = topics.write(to("dev/{{.id}}"), feed.signal.clone());
    let errors = write(&writer, vec![row(1), row(2), row(1), vec![("id".into(), "+".into())]]);
    assert_eq!(errors.len(), 1, "{errors:?}");
    let written = |stream: &Stream| stream.take().iter().map(|frame| frame.topic.to_string()).collect::<Vec<_>>();
    assert_eq!(written(&exact), ["dev/1", "dev/1"]);
    assert_eq!(written(&wild), ["dev/1", "dev/2", "dev/1"]);
    assert!(topics.feeds(3, 1) && topics.feeds(3, 2) && !topics.feeds(1, 2));
    assert!(sink(serde_json::json!({"topic": "dev/{{.id"})).is_err());
}

#[test]
fn a_row_says_what_it_does_to_a_table() {
    let sink = sink(serde_json::json!({"topic": "t", "keyField": "id", "rowkindField": "op"})).unwrap();
    let frame = |op: Option<Value>| {
        let mut row = row(1);
        row.extend(op.map(|op| (Text::from("op"), op)));
        sink.frame(row).map(|frame| frame.change)
    };
    for (op, change) in [
        (None, Ok(Change::Put)),
        (Some(Value::Null), Ok(Change::Put)),
        (Some("insert".into()), Ok(Change::Put)),
        (Some("update".into()), Ok(Change::Put)),
        (Some("upsert".into()), Ok(Change::Put)),
        (Some("delete".into()), Ok(Change::Delete)),
        (Some("remove".into()), Err("sink memory: invalid rowkind remove: insert, update, upsert or delete")),
        (Some(Value::Int(1)), Err("sink memory: invalid rowkind bigint: insert, update, upsert or delete")),
    ] {
        assert_eq!(frame(op.clone()), change.map_err(str::to_owned), "{op:?}");
    }
    let error = sink.frame(vec![("x".into(), Value::Int(1))]).expect_err("there is no key");
    assert_eq!(error, "sink memory: the row has no field id, which is the keyField");
}

#[test]
fn a_slow_reader_makes_the_writer_wait_and_loses_nothing() {
    let topics = Topics::default();
    let (feed, slow) = (stream(1), stream(2));
    let _reader = read(&topics, "t", &slow);
    let writer = topics.write(to("t"), feed.signal.clone());
    let mut written = 0;
    while writer.ready() {
        write(&writer, vec![row(written)]);
        written += 1;
    }
    assert_eq!(written as usize, INBOUND_BATCHES + 1);
    write(&writer, vec![row(written), row(written + 1)]);
    let status = writer.status();
    assert_eq!((status.queued, status.peers, topics.movement().1), (3, 1, 3));
    assert!(feed.raised.is_empty());
    let mut rows = slow.take();
    assert_eq!(feed.raised.try_iter().collect::<Vec<_>>(), [1]);
    assert!(writer.ready());
    rows.extend(slow.take());
    let ids: Vec<_> = rows.iter().map(|frame| frame.row[0].1.as_f64().unwrap() as i64).collect();
    assert_eq!(ids, (0..written + 2).collect::<Vec<_>>());
    assert_eq!(topics.movement().1, 0);
}

#[test]
fn a_cycle_does_not_wait_for_itself() {
    let topics = Topics::default();
    let (a, b) = (stream(1), stream(2));
    let _readers = [read(&topics, "a", &a), read(&topics, "b", &b)];
    let (from_a, from_b) = (topics.write(to("b"), a.signal.clone()), topics.write(to("a"), b.signal.clone()));
    // Both queues fill, and neither rule waits for the other.
    for _ in 0..2 * INBOUND_BATCHES {
        assert!(from_a.ready());
        write(&from_a, vec![row(0)]);
    }
    for _ in 0..2 * INBOUND_BATCHES {
        assert!(from_b.ready());
        write(&from_b, vec![row(0)]);
    }
    let status = from_b.status();
    assert_eq!((status.queued, status.dropped), (INBOUND_BATCHES, Vec::new()));
    for _ in 0..CYCLE_ROWS / 512 {
        write(&from_b, vec![row(0); 512]);
    }
    assert_eq!(from_b.status().dropped, [("cycle full", 512)]);
    b.take();
    assert!(from_a.ready());
}

#[test]
fn a_reader_that_goes_frees_the_writer() {
    let topics = Topics::default();
    let (feed, gone) = (stream(1), stream(2));
    let reader = read(&topics, "t", &gone);
    let writer = topics.write(to("t"), feed.signal.clone());
    while writer.ready() {
        write(&writer, vec![row(0)]);
    }
    drop((reader, gone));
    assert_eq!(feed.raised.try_iter().collect::<Vec<_>>(), [1]);
    assert!(writer.ready());
    assert_eq!(topics.movement().1, 0);
}
