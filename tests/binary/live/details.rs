//! Details of the page about live views: each statement has an example.

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use super::client::{Live, connect, frame, say};
use crate::process::serve::Folder;
use crate::process::{Plutino, send, stream};

async fn run(name: &str, streams: &[String], views: &[&str]) -> Plutino {
    Plutino::run(name, &json!({"streams": streams, "views": views, "rules": []}), &[]).await
}

fn ids(rows: &std::collections::BTreeMap<String, Value>) -> Vec<String> {
    rows.keys().cloned().collect()
}

/// The next delta: heartbeats may come before it.
async fn delta(live: &mut Live) -> Value {
    loop {
        let message = live.apply().await;
        if message["t"] == "delta" {
            return message;
        }
    }
}

#[tokio::test]
async fn numbers_and_nulls_match_however_they_are_written() {
    let view = "CREATE VIEW points WITH (KEY=\"id\", PARAMS=\"id,x,tag\") AS SELECT id, x, tag FROM points_in";
    let streams = [stream("points_in", "id BIGINT, x FLOAT, tag STRING", "")];
    let plutino = run("live-values", &streams, &[view]).await;
    let mut feed = plutino.connect("/points_in").await;
    let mut all = Live::open(plutino.port, "/live/points").await;
    for (id, x) in [(1, "1e21"), (2, "0.000001"), (3, "2.5"), (4, "7.0"), (5, "1e-9")] {
        send(&mut feed, format!("{{\"id\":{id},\"x\":{x},\"tag\":\"t{id}\"}}")).await;
    }
    send(&mut feed, r#"{"id":6,"x":1}"#).await;
    all.until(|rows| rows.len() == 6).await;
    for (query, found) in [
        ("x=1e21", vec!["[1]"]),
        ("x=1000000000000000000000", vec!["[1]"]),
        ("x=0.000001&x=1e-9", vec!["[2]", "[5]"]),
        ("x=2.50", vec!["[3]"]),
        ("x=7&x=7.0", vec!["[4]"]),
        ("tag=t1&tag=t3&x=2.5", vec!["[3]"]),
        ("id=1&id=1.0", vec!["[1]"]),
    ] {
        let live = Live::open(plutino.port, &format!("/live/points?{query}")).await;
        assert_eq!(ids(&live.rows), found, "{query}");
    }
    // By message, null matches null; values are sorted and without duplicates.
    let mut socket = connect(plutino.port, "/live").await;
    let params = json!({"tag": null, "id": [6.0, "6", 5]});
    say(&mut socket, &json!({"t":"subscribe","view":"points","params":params})).await;
    let subscribed = frame(&mut socket).await.unwrap();
    assert_eq!(subscribed["params"], json!({"id": [5, 6], "tag": null}));
    while frame(&mut socket).await.unwrap()["t"] != "rows" {}
    assert_eq!(frame(&mut socket).await.unwrap()["count"], 1);
}

#[tokio::test]
async fn a_row_that_stays_equal_is_no_change_and_counts_as_touched() {
    let views = [
        "CREATE VIEW few WITH (KEY=\"id\", MAX_ROWS=\"2\") AS SELECT id, t FROM telemetry",
        "CREATE VIEW first WITH (KEY=\"id\", MAX_ROWS=\"2\") AS SELECT id, t FROM telemetry ORDER BY t DESC LIMIT 1",
        "CREATE VIEW counts WITH (MAX_ROWS=\"2\") AS SELECT id, count(*) AS n FROM telemetry GROUP BY id",
    ];
    let folder = Folder::new("live-touched");
    let service = folder.serve();
    service.asks("POST", "/streams", &json!({"sql": stream("telemetry", "", "")})).await.done();
    for sql in views {
        service.asks("POST", "/views", &json!({"sql": sql})).await.done();
    }
    let mut feed = tokio_tungstenite::connect_async(service.data_url("/telemetry")).await.unwrap().0;
    let mut few = Live::open(service.data_port, "/live/few").await;
    let mut first = Live::open(service.data_port, "/live/first").await;
    let mut counts = Live::open(service.data_port, "/live/counts").await;
    for (id, t) in [(1, 9), (2, 5), (1, 9)] {
        send(&mut feed, json!({"id":id,"t":t}).to_string()).await;
    }
    few.until(|rows| rows.len() == 2).await;
    counts.until(|rows| rows.len() == 2 && rows["[1]"]["n"] == 2).await;
    // 1 was touched after 2, though its row is the same.
    send(&mut feed, r#"{"id":3,"t":1}"#).await;
    few.until(|rows| ids(rows) == ["[1]", "[3]"]).await;
    counts.until(|rows| ids(rows) == ["[1]", "[3]"]).await;
    // Rows that limits keep beyond the first ones are evicted too: without 1, the first row is 3 and not 2.
    first.until(|rows| ids(rows) == ["[1]"]).await;
    send(&mut feed, r#"{"id":3,"t":1}"#).await;
    send(&mut feed, r#"{"id":4,"t":0}"#).await;
    first.until(|rows| ids(rows) == ["[3]"]).await;
    // An evicted row starts again.
    send(&mut feed, r#"{"id":1,"t":9}"#).await;
    counts.until(|rows| rows.get("[1]").is_some_and(|row| row["n"] == 1)).await;
    first.until(|rows| ids(rows) == ["[1]"]).await;
    few.until(|rows| ids(rows) == ["[1]", "[4]"]).await;
    let status = service.asks("GET", "/views/few/status", &Value::Null).await.json();
    // Inserts of 1, 2, 3, 4 and 1 again; messages that repeat a row are not changes.
    assert_eq!((&status["inserts"], &status["updates"], &status["evicted"]), (&json!(5), &json!(0), &json!(3)));
}

#[tokio::test]
async fn expired_rows_keep_their_age_over_a_restart() {
    let folder = Folder::new("live-age");
    let mut service = folder.serve();
    service.asks("POST", "/streams", &json!({"sql": stream("telemetry", "", "")})).await.done();
    let views = [
        "CREATE VIEW present WITH (KEY=\"id\", EXPIRE=\"3s\", CHECKPOINT=\"50ms\") AS SELECT id FROM telemetry",
        "CREATE VIEW newest WITH (KEY=\"id\", EXPIRE=\"3s\", CHECKPOINT=\"50ms\") AS SELECT id FROM telemetry \
         WHERE row_number() OVER (ORDER BY id DESC) <= 1",
        "CREATE VIEW counts WITH (EXPIRE=\"3s\", CHECKPOINT=\"50ms\") AS SELECT id, count(*) AS n FROM telemetry \
         GROUP BY id",
        "CREATE VIEW lasting WITH (KEY=\"id\", EXPIRE=\"1h\", CHECKPOINT=\"50ms\") AS SELECT id FROM telemetry",
    ];
    for sql in views {
        service.asks("POST", "/views", &json!({"sql": sql})).await.done();
    }
    let mut feed = tokio_tungstenite::connect_async(service.data_url("/telemetry")).await.unwrap().0;
    for id in [1, 2] {
        send(&mut feed, json!({"id":id}).to_string()).await;
    }
    let mut live = Live::open(service.data_port, "/live/lasting").await;
    live.until(|rows| rows.len() == 2).await;
    service.terminate();
    drop(service);
    let service = folder.serve();
    let rows = async |view: &str| {
        let answer = service.asks("GET", &format!("/views/{view}/rows"), &Value::Null).await.json();
        answer["rows"].as_array().expect("rows").len()
    };
    assert_eq!(rows("lasting").await, 2);
    // No more messages arrive: the earlier rows leave by their age.
    for view in ["present", "newest", "counts"] {
        while rows(view).await > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    assert_eq!(rows("lasting").await, 2);
}

#[tokio::test]
async fn a_limit_comes_before_parameters() {
    let views = [
        "CREATE VIEW best WITH (KEY=\"id\", PARAMS=\"site\", PATH=\"/boards/best\") AS SELECT id, site, t FROM telemetry \
         ORDER BY t DESC LIMIT 2",
        "CREATE VIEW mixed WITH (KEY=\"id\") AS SELECT id, t FROM telemetry ORDER BY t LIMIT 3",
    ];
    let plutino = run("live-limits", &[stream("telemetry", "", "")], &views).await;
    let mut feed = plutino.connect("/telemetry").await;
    let mut all = Live::open(plutino.port, "/boards/best").await;
    let mut mine = Live::open(plutino.port, "/boards/best?site=b").await;
    for (id, site, t) in [(1, "a", 9), (2, "a", 8), (3, "b", 7)] {
        send(&mut feed, json!({"id":id,"site":site,"t":t}).to_string()).await;
    }
    all.until(|rows| rows.len() == 2).await;
    assert!(mine.rows.is_empty());
    send(&mut feed, r#"{"id":2,"site":"a","t":1}"#).await;
    mine.until(|rows| ids(rows) == ["[3]"]).await;
    // Booleans before numbers before text, nulls last, equal values by key.
    for (id, t) in [(11, json!("z")), (12, json!(null)), (13, json!(false)), (14, json!(-5)), (15, json!(-5))] {
        send(&mut feed, json!({"id":id,"t":t}).to_string()).await;
    }
    let mut mixed = Live::open(plutino.port, "/live/mixed").await;
    mixed.until(|rows| ids(rows) == ["[13]", "[14]", "[15]"]).await;
}

#[tokio::test]
async fn sessions_that_merge_are_one_delta() {
    let view = "CREATE VIEW visits WITH (EVENT_TIME=\"true\", LATE_TOLERANCE=\"60s\") AS \
                SELECT user, count(*) AS n FROM trades GROUP BY user, SESSIONWINDOW(ss, 1000, 10)";
    let plutino = run("live-merge", &[stream("trades", "", ", TIMESTAMP=\"ts\"")], &[view]).await;
    let mut feed = plutino.connect("/trades").await;
    let mut visits = Live::open(plutino.port, "/live/visits").await;
    for ts in [100_000, 115_000] {
        send(&mut feed, json!({"user":"u","ts":ts}).to_string()).await;
    }
    visits.until(|rows| rows.len() == 2).await;
    send(&mut feed, r#"{"user":"u","ts":95000}"#).await;
    let moved = delta(&mut visits).await;
    assert_eq!(moved["delete"], json!([{"user":"u","window_start":100000}]), "{moved}");
    assert_eq!(moved["insert"], json!([{"user":"u","n":2,"window_start":95000}]), "{moved}");
    send(&mut feed, r#"{"user":"u","ts":107000}"#).await;
    let merged = delta(&mut visits).await;
    assert_eq!(merged["delete"], json!([{"user":"u","window_start":115000}]), "{merged}");
    assert_eq!(merged["update"], json!([{"user":"u","n":4,"window_start":95000}]), "{merged}");
}

#[tokio::test]
async fn what_breaks_the_websocket_is_told_by_its_close_code() {
    let view = "CREATE VIEW fleet WITH (KEY=\"id\") AS SELECT id FROM telemetry";
    let plutino = run("live-broken", &[stream("telemetry", "", "")], &[view]).await;
    let close = |message: Option<Result<Message, _>>| match message {
        Some(Ok(Message::Close(frame))) => frame.map(|frame| u16::from(frame.code)),
        other => panic!("no close frame: {other:?}"),
    };
    let mut polite = connect(plutino.port, "/live").await;
    polite.send(Message::Ping(vec![7, 8].into())).await.unwrap();
    let answer = futures_util::StreamExt::next(&mut polite).await;
    assert!(matches!(&answer, Some(Ok(Message::Pong(payload))) if payload[..] == [7, 8]), "{answer:?}");
    polite.close(None).await.unwrap();
    assert!(matches!(futures_util::StreamExt::next(&mut polite).await, Some(Ok(Message::Close(_)))));
    // A text in two frames is one message.
    let mut parts = connect(plutino.port, "/live").await;
    let (begin, end) = (r#"{"t":"subscribe","vi"#, r#"ew":"fleet"}"#);
    let part = |text: &'static str, kind: Data, last: bool| {
        Message::Frame(Frame::message(text.as_bytes(), OpCode::Data(kind), last))
    };
    parts.send(part(begin, Data::Text, false)).await.unwrap();
    parts.send(part(end, Data::Continue, true)).await.unwrap();
    assert_eq!(frame(&mut parts).await.unwrap()["t"], "subscribed");
    for (kind, last, code) in [(Data::Reserved(3), true, 1002), (Data::Continue, true, 1002)] {
        let mut socket = connect(plutino.port, "/live").await;
        socket.send(part("x", kind, last)).await.unwrap();
        assert_eq!(close(futures_util::StreamExt::next(&mut socket).await), Some(code));
    }
    let mut socket = connect(plutino.port, "/live").await;
    let invalid = Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true);
    socket.send(Message::Frame(invalid)).await.unwrap();
    assert_eq!(close(futures_util::StreamExt::next(&mut socket).await), Some(1007));
}

#[tokio::test]
async fn times_match_however_they_are_written() {
    let view = "CREATE VIEW visits WITH (KEY=\"id\", PARAMS=\"id,day\") AS SELECT id, day FROM visits_in";
    let by_day = "CREATE VIEW days AS SELECT day, count(*) AS n FROM visits_in GROUP BY day";
    let streams = [stream("visits_in", "id BIGINT, day DATETIME", "")];
    let plutino = run("live-times", &streams, &[view, by_day]).await;
    let mut feed = plutino.connect("/visits_in").await;
    let mut all = Live::open(plutino.port, "/live/visits").await;
    for (id, day) in [
        (1, json!("2026-01-01T00:00:00Z")),
        (2, json!("2026-01-01T01:00:00+01:00")),
        (3, json!(1_767_225_600_000_i64)),
        (4, json!("2026-01-02T00:00:00Z")),
        (5, Value::Null),
    ] {
        send(&mut feed, json!({"id": id, "day": day}).to_string()).await;
    }
    all.until(|rows| rows.len() == 5).await;
    for query in ["day=2026-01-01T00:00:00Z", "day=2026-01-01T02:00:00%2B02:00", "day=1767225600000"] {
        let live = Live::open(plutino.port, &format!("/live/visits?{query}")).await;
        assert_eq!(ids(&live.rows), ["[1]", "[2]", "[3]"], "{query}");
    }
    // Groups are shown a moment later.
    let mut days = Live::open(plutino.port, "/live/days?day=2026-01-01T00:00:00Z").await;
    days.until(|rows| rows.len() == 3).await;
}

/// The output of a verb on a rule file.
fn on_file(verb: &str, name: &str, rules: &Value) -> String {
    let folder = Folder::new(name);
    let path = folder.write("rules.json", &rules.to_string());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_plutino")).arg(verb).arg(&path).output().unwrap();
    String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout)
}

#[tokio::test]
async fn a_view_without_a_window_is_explained_without_one() {
    let views = ["CREATE VIEW sites AS SELECT site, count(*) AS n FROM telemetry GROUP BY site"];
    let rules = json!({"streams": [stream("telemetry", "", "")], "views": views, "rules": []});
    let said = on_file("explain", "explained", &rules);
    assert!(said.contains("group by site") && said.contains("all rows") && !said.contains("window"), "{said}");
}

#[tokio::test]
async fn a_view_with_the_name_of_a_stream_is_the_only_error() {
    let views = [
        "CREATE VIEW telemetry WITH (KEY=\"id\") AS SELECT id FROM telemetry",
        "CREATE VIEW fleet WITH (KEY=\"id\") AS SELECT id FROM telemetry",
    ];
    let rules = json!({"streams": [stream("telemetry", "", "")], "views": views, "rules": []});
    let said = on_file("check", "taken", &rules);
    assert!(said.contains("telemetry is the name of a stream or table"), "{said}");
    assert_eq!(said.matches("error").count(), 1, "{said}");
}

#[tokio::test]
async fn rows_that_expire_together_leave_in_several_cuts() {
    const ROWS: usize = 20_000;
    let view = "CREATE VIEW seen WITH (EVENT_TIME=TRUE, EXPIRE=\"10s\", PARAMS=\"id\") AS SELECT id, count(*) AS n \
                FROM pings GROUP BY id, TUMBLINGWINDOW(ss, 10)";
    let plutino = run("live-together", &[stream("pings", "", ", TIMESTAMP=\"ts\"")], &[view]).await;
    let mut feed = plutino.connect("/pings").await;
    let mut live = Live::open(plutino.port, "/live/seen").await;
    for id in 0..ROWS {
        send(&mut feed, json!({"id": id, "ts": 1_000}).to_string()).await;
    }
    live.until(|rows| rows.len() == ROWS).await;
    let sequence = |live: &Live| -> u64 {
        let cursor = live.cursor.as_deref().and_then(|cursor| cursor.rsplit_once('.'));
        cursor.and_then(|(_, sequence)| sequence.parse().ok()).expect("it has a cut")
    };
    let before = sequence(&live);
    send(&mut feed, r#"{"id":0,"ts":25000}"#).await;
    live.until(|rows| rows.len() == 1 && rows.contains_key("[0,20000]")).await;
    assert!(sequence(&live) >= before + 3, "{} after {before}", sequence(&live));
}
