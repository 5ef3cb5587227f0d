//! Recordings: replayed at any pace they give the same results, and two rule files can be compared by them.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::process::folder::Folder;

fn plutino(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
    command.args(arguments).current_dir(folder).stdin(Stdio::null());
    command.env("KUIPER__SOURCE__HTTPSERVERPORT", "0").env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1");
    let output = command.output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it is text");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The stream dials a peer that does not exist: a recording needs no peer.
const RULES: &str = r#"
sources: {websocket: {feed: {addr: "127.0.0.1:9"}}}
streams: ['CREATE STREAM s () WITH (TYPE="websocket", DATASOURCE="/s", CONF_KEY="feed", TIMESTAMP="ts")']
rules:
  - id: clock
    sql: SELECT count(*) AS n, window_start() AS start FROM s GROUP BY TUMBLINGWINDOW(ms, 100)
    actions: [{log: {sendSingle: true}}]
  - id: event
    sql: SELECT count(*) AS events, window_start() AS start FROM s GROUP BY TUMBLINGWINDOW(ms, 200)
    actions: [{log: {sendSingle: true}}]
    options: {isEventTime: true, lateTolerance: 0}
"#;

/// Two messages each 50 ms, from 1000 ms on.
fn recording() -> String {
    let mut text = "{\"plutino\":\"recording\",\"version\":1,\"of\":\"ws://x\"}\n".to_owned();
    for number in 0..8 {
        let at = 1000 + 50 * number;
        for connection in [1, 2] {
            text += &format!("{{\"at\":{at},\"connection\":{connection},\"text\":\"{{\\\"ts\\\":{at}}}\"}}\n");
        }
    }
    text
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn a_recording_gives_the_same_results_at_any_pace() {
    let folder = Folder::new("pace");
    folder.write("rules.yaml", RULES);
    folder.write("feed.ndjson", &recording());
    let expected: Vec<String> = [1000, 1100, 1200, 1300]
        .iter()
        .map(|start| format!("{{\"n\":4,\"start\":{start}}}"))
        .chain([1000, 1200].iter().map(|start| format!("{{\"events\":8,\"start\":{start}}}")))
        .collect();
    for pace in ["max", "10x", "original"] {
        let arguments = ["run", "rules.yaml", "--quiet", "--feed", "feed.ndjson", "--pace", pace];
        let (code, out, err) = plutino(folder.0.path(), &arguments);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{pace}");
        assert_eq!(sorted(&out), sorted(&expected.join("\n")), "{pace}");
    }
    folder.write("lines.ndjson", "{\"ts\":1}\n");
    let (code, _, err) = plutino(folder.0.path(), &["run", "rules.yaml", "--feed", "lines.ndjson", "--pace", "max"]);
    assert!(code == Some(2) && err.contains("--pace is for recordings"), "{err}");
    let (code, _, err) = plutino(folder.0.path(), &["run", "rules.yaml", "--feed", "feed.ndjson", "--rate", "5"]);
    assert!(code == Some(2) && err.contains("a recording is replayed once"), "{err}");
}

#[test]
fn two_rule_files_are_compared() {
    let folder = Folder::new("diff");
    folder.write("old.yaml", RULES);
    folder.write("new.yaml", &RULES.replace("(ms, 200)", "(ms, 400)"));
    folder.write("feed.ndjson", &recording());
    let (code, out, _) = plutino(folder.0.path(), &["diff", "old.yaml", "old.yaml", "--feed", "feed.ndjson"]);
    assert_eq!((code, out.as_str()), (Some(0), "rule clock: the same 4 messages\nrule event: the same 2 messages\n"));
    let (code, out, _) = plutino(folder.0.path(), &["diff", "old.yaml", "new.yaml", "--feed", "feed.ndjson@s"]);
    assert_eq!(code, Some(1));
    assert!(
        out.starts_with(
            "rule clock: the same 4 messages\nrule event: 2 messages before, 2 after: 1 changed, 0 removed, 0 added"
        ),
        "{out}"
    );
    assert!(out.contains("  - {\"events\":8,\"start\":1000}\n  + {\"events\":8,\"start\":800}\n"), "{out}");
}

#[test]
fn what_is_known_of_connections_is_replayed() {
    let folder = Folder::new("meta");
    let rules = r#"
streams: ['CREATE STREAM s () WITH (TYPE="websocket", DATASOURCE="/s/{id}")']
rules:
  - {id: r, sql: 'SELECT n, meta(path_id) AS id, meta(client) AS client FROM s', actions: [{log: {sendSingle: true}}]}
"#;
    folder.write("rules.yaml", rules);
    folder.write("new.yaml", &rules.replace("SELECT n,", "SELECT n * 10 AS n,"));
    folder.write(
        "feed.ndjson",
        r#"{"plutino":"recording","version":1,"of":"s"}
{"at":1000,"connection":1,"text":"{\"n\":1}","meta":{"client":"a","path_id":"7"}}
{"at":1000,"connection":2,"text":"{\"n\":2}","meta":{"client":"b","path_id":"8"}}
{"at":1001,"connection":1,"text":"{\"n\":3}"}
{"at":1002,"connection":3,"text":"{\"n\":4}"}
"#,
    );
    let (code, out, err) = plutino(folder.0.path(), &["run", "rules.yaml", "--quiet", "--feed", "feed.ndjson"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let expected = r#"{"n":1,"id":"7","client":"a"}
{"n":2,"id":"8","client":"b"}
{"n":3,"id":"7","client":"a"}
{"n":4,"client":"3"}
"#;
    assert_eq!(out, expected);
    let (_, out, _) = plutino(folder.0.path(), &["diff", "rules.yaml", "new.yaml", "--feed", "feed.ndjson"]);
    assert!(out.contains(r#"+ {"n":30,"id":"7","client":"a"}"#), "{out}");
}

#[tokio::test]
async fn a_stream_of_a_service_is_recorded_whole() {
    use std::io::{BufRead, BufReader, Read};

    use futures_util::SinkExt;
    use serde_json::{Value, json};
    use tokio_tungstenite::tungstenite::Message;

    let folder = crate::process::serve::Folder::new("record-stream");
    let served = folder.serve();
    let stream = json!({"sql": "CREATE STREAM s () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")"});
    served.asks("POST", "/streams", &stream).await.done();
    let record = |file: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
        command.args(["record", "--stream", "s", "-o", file, "--count", "4", "--url", &served.url("")]);
        command.current_dir(&folder.0).stdin(Stdio::null()).stderr(Stdio::piped());
        command.spawn().expect("the program starts")
    };
    let mut early = record("early.ndjson");
    assert_eq!(early.wait().expect("it ends").code(), Some(1));
    let mut said = String::new();
    early.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert!(said.contains("no running rule reads it"), "{said}");
    assert!(!folder.path("early.ndjson").exists());

    let rule = json!({"id": "r", "sql": "SELECT * FROM s WHERE a > 100", "actions": [{"nop": {}}]});
    served.asks("POST", "/rules", &rule).await.done();
    let mut recording = record("feed.ndjson");
    let mut said = BufReader::new(recording.stderr.take().expect("a pipe"));
    let mut line = String::new();
    said.read_line(&mut line).expect("it says something");
    assert_eq!(line, "recording stream s\n");
    let mut sender = tokio_tungstenite::connect_async(served.data_url("/in")).await.expect("the endpoint is there").0;
    let large = json!({"a": 2, "text": "x".repeat(100_000)}).to_string();
    let messages = [
        Message::text(r#"{"a":1}"#),
        Message::text(large.clone()),
        Message::text("{broken\n"),
        Message::binary(vec![0xff, 0x00]),
    ];
    for message in messages {
        sender.send(message).await.expect("it is taken");
    }
    let ended = tokio::task::spawn_blocking(move || recording.wait()).await.expect("it can be waited for");
    assert_eq!(ended.expect("it ends").code(), Some(0));
    let text = std::fs::read_to_string(folder.path("feed.ndjson")).expect("it was written");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(lines[0]["of"].as_str().is_some_and(|of| of.ends_with("/streams/s")), "{}", lines[0]);
    assert_eq!(
        lines[1]["meta"]["remote"].as_str().map(|remote| remote.starts_with("127.0.0.1:")),
        Some(true),
        "{}",
        lines[1]
    );
    assert!(lines[2..].iter().all(|line| line["meta"].is_null() && line["connection"] == 1), "{text}");
    let kept: Vec<&Value> =
        lines[1..].iter().map(|line| if line["text"].is_null() { &line["binary"] } else { &line["text"] }).collect();
    assert_eq!(kept, [&json!("{\"a\":1}"), &json!(large), &json!("{broken\n"), &json!("/wA=")]);
    assert!(lines[1]["at"].as_i64().is_some_and(|at| at > 1_700_000_000_000), "{}", lines[1]);
}
