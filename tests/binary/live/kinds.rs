//! The rows of each kind of view while messages arrive.

use serde_json::{Value, json};

use super::client::Live;
use crate::process::folder::Folder;
use crate::process::{Plutino, send, stream};

#[tokio::test]
async fn the_newest_message_of_each_key() {
    let views = [
        "CREATE VIEW fleet WITH (KEY=\"deviceId\", PARAMS=\"deviceId,site\") AS \
         SELECT deviceId, site, t FROM telemetry WHERE t < 100",
        "CREATE VIEW whole WITH (KEY=\"deviceId\") AS SELECT * FROM telemetry",
    ];
    let plutino = Plutino::run(
        "live-newest",
        &json!({"streams": [stream("telemetry", "", "")], "views": views, "rules": []}),
        &[],
    )
    .await;
    let mut feed = plutino.connect("/telemetry").await;
    let mut all = Live::open(plutino.port, "/live/fleet").await;
    assert_eq!(all.subscribed["key"], json!(["deviceId"]));
    assert_eq!(all.subscribed["retain"], 60_000);
    send(&mut feed, r#"{"deviceId":7,"site":"n1","t":20,"more":{"a":1}}"#).await;
    all.until_row(&json!([7]), &json!({"deviceId":7,"site":"n1","t":20})).await;
    // 7.0 is written as 7; a missing column is null.
    send(&mut feed, r#"{"deviceId":7.0,"t":21}"#).await;
    all.until_row(&json!([7]), &json!({"deviceId":7,"site":null,"t":21})).await;
    let mut whole = Live::open(plutino.port, "/live/whole").await;
    assert_eq!(whole.subscribed["columns"], json!([{"name":"deviceId","type":"any"}]));
    assert_eq!(whole.rows["[7]"], json!({"deviceId":7,"t":21}));
    let mut north = Live::open(plutino.port, "/live/fleet?site=n2&site=n3").await;
    assert_eq!(north.subscribed["params"], json!({"site":["n2","n3"]}));
    send(&mut feed, r#"{"deviceId":8,"site":"n2","t":1}"#).await;
    north.until_row(&json!([8]), &json!({"deviceId":8,"site":"n2","t":1})).await;
    assert_eq!(north.rows.len(), 1);
    // A message that does not pass removes the row of its key; one with an error changes nothing.
    send(&mut feed, r#"{"deviceId":7,"t":"warm"}"#).await;
    send(&mut feed, r#"{"deviceId":[7],"t":1}"#).await;
    send(&mut feed, r#"{"deviceId":8,"site":"n2","t":200}"#).await;
    all.until_row(&json!([8]), &Value::Null).await;
    assert_eq!(all.rows.keys().collect::<Vec<_>>(), ["[7]"]);
    north.until(|rows| rows.is_empty()).await;
    whole.until(|rows| rows.len() == 2).await;
}

#[tokio::test]
async fn aggregates_without_a_window() {
    let views = [
        "CREATE VIEW stats AS SELECT site, count(*) AS n, sum(t) AS total, min(t) AS low, max(t) AS high, \
         first_value(t) AS first, last_value(t, true) AS last, count(*) FILTER (WHERE t > 10) AS hot \
         FROM typed WHERE t >= 0 GROUP BY site HAVING count(*) < 4",
        "CREATE VIEW total AS SELECT count(*) AS n, sum(t) * 2 AS twice FROM typed",
    ];
    let streams = [stream("typed", "id BIGINT, site STRING, t FLOAT", "")];
    let plutino = Plutino::run("live-groups", &json!({"streams": streams, "views": views, "rules": []}), &[]).await;
    let mut feed = plutino.connect("/typed").await;
    let mut stats = Live::open(plutino.port, "/live/stats").await;
    let columns = &stats.subscribed["columns"];
    assert_eq!(columns[0], json!({"name":"site","type":"string"}));
    assert_eq!(columns[1], json!({"name":"n","type":"bigint"}));
    let mut total = Live::open(plutino.port, "/live/total").await;
    assert_eq!((total.rows.len(), total.subscribed["key"].clone()), (0, json!([])));
    for t in [5, 20, -3, 7] {
        send(&mut feed, json!({"id":1,"site":"a","t":t}).to_string()).await;
    }
    let row = json!({"site":"a","n":3,"total":32,"low":5,"high":20,"first":5,"last":7,"hot":1});
    stats.until_row(&json!(["a"]), &row).await;
    total.until_row(&json!([]), &json!({"n":4,"twice":58})).await;
    // HAVING no longer passes the row.
    send(&mut feed, r#"{"id":1,"site":"a","t":1}"#).await;
    stats.until(|rows| rows.is_empty()).await;
    // A value that an aggregate cannot take drops only its message.
    send(&mut feed, r#"{"id":1,"site":"b","t":"x"}"#).await;
    send(&mut feed, r#"{"id":1,"site":"b","t":2}"#).await;
    stats.until(|rows| rows.get("[\"b\"]").is_some_and(|row| row["n"] == 1)).await;
}

#[tokio::test]
async fn the_open_window_is_live_in_event_time() {
    let views = ["CREATE VIEW candles WITH (EVENT_TIME=\"true\", LATE_TOLERANCE=\"5s\", EXPIRE=\"10s\") AS \
         SELECT symbol, first_value(price) AS open, max(price) AS high, min(price) AS low, \
         last_value(price) AS close, count(*) AS n, window_end() AS till \
         FROM trades GROUP BY symbol, TUMBLINGWINDOW(ss, 10)"];
    let plutino = run_trades("live-candles", &views).await;
    let mut feed = plutino.connect("/trades").await;
    let mut candles = Live::open(plutino.port, "/live/candles?symbol=A").await;
    assert_eq!(candles.subscribed["key"], json!(["symbol", "window_start"]));
    for (ts, price) in [(1_000, 10), (3_000, 30), (2_000, 20), (500, 5)] {
        send(&mut feed, json!({"symbol":"A","ts":ts,"price":price}).to_string()).await;
    }
    let row = json!({"symbol":"A","open":5,"high":30,"low":5,"close":30,"n":4,"till":10000,"window_start":0});
    candles.until_row(&json!(["A", 0]), &row).await;
    // The watermark passes the end: only time changes, and late messages are dropped.
    send(&mut feed, r#"{"symbol":"A","ts":16000,"price":1}"#).await;
    send(&mut feed, r#"{"symbol":"A","ts":9000,"price":99}"#).await;
    send(&mut feed, r#"{"symbol":"A","ts":16000,"price":2}"#).await;
    candles.until(|rows| rows.get("[\"A\",10000]").is_some_and(|row| row["n"] == 2)).await;
    assert_eq!(candles.rows["[\"A\",0]"], row);
    assert!(candles.ts >= 10_000, "{}", candles.ts);
    // Ten seconds after its end it is removed.
    send(&mut feed, r#"{"symbol":"A","ts":26000,"price":2}"#).await;
    candles.until_row(&json!(["A", 0]), &Value::Null).await;
}

async fn run_trades(name: &str, views: &[&str]) -> Plutino {
    let streams = [stream("trades", "", ", TIMESTAMP=\"ts\"")];
    Plutino::run(name, &json!({"streams": streams, "views": views, "rules": []}), &[]).await
}

#[tokio::test]
async fn sessions_merge_and_begin_earlier() {
    let views = ["CREATE VIEW visits WITH (EVENT_TIME=\"true\", LATE_TOLERANCE=\"60s\") AS \
         SELECT user, count(*) AS n FROM trades GROUP BY user, SESSIONWINDOW(ss, 1000, 10)"];
    let plutino = run_trades("live-sessions", &views).await;
    let mut feed = plutino.connect("/trades").await;
    let mut visits = Live::open(plutino.port, "/live/visits").await;
    for ts in [100_000, 115_000] {
        send(&mut feed, json!({"user":"u","ts":ts}).to_string()).await;
    }
    visits.until(|rows| rows.len() == 2).await;
    // Between the two: they are merged.
    send(&mut feed, r#"{"user":"u","ts":107000}"#).await;
    visits.until(|rows| rows.len() == 1).await;
    assert_eq!(visits.rows["[\"u\",100000]"]["n"], 3);
    // Before: it starts earlier, under another key.
    send(&mut feed, r#"{"user":"u","ts":95000}"#).await;
    visits.until(|rows| rows.contains_key("[\"u\",95000]")).await;
    assert_eq!((visits.rows.len(), &visits.rows["[\"u\",95000]"]["n"]), (1, &json!(4)));
}

#[tokio::test]
async fn the_first_rows_in_an_order() {
    let views = [
        "CREATE VIEW top WITH (KEY=\"id\") AS SELECT id, site, t FROM telemetry ORDER BY t DESC LIMIT 2",
        "CREATE VIEW each_site WITH (KEY=\"id\") AS SELECT id, site, t FROM telemetry \
         WHERE t >= 0 AND row_number() OVER (PARTITION BY site ORDER BY t DESC) <= 1",
        "CREATE VIEW sorted WITH (KEY=\"id\") AS SELECT id, t FROM telemetry ORDER BY t",
    ];
    let streams = [stream("telemetry", "", "")];
    let plutino = Plutino::run("live-top", &json!({"streams": streams, "views": views, "rules": []}), &[]).await;
    let mut feed = plutino.connect("/telemetry").await;
    let mut top = Live::open(plutino.port, "/live/top").await;
    assert_eq!((&top.subscribed["order"], &top.subscribed["limit"]), (&json!([["t", "desc"]]), &json!(2)));
    let mut each = Live::open(plutino.port, "/live/each_site").await;
    let sorted = Live::open(plutino.port, "/live/sorted").await;
    assert_eq!((&sorted.subscribed["order"], sorted.subscribed.get("limit")), (&json!([["t", "asc"]]), None));
    for (id, site, t) in [(1, "a", 10), (2, "a", 20), (3, "b", 15)] {
        send(&mut feed, json!({"id":id,"site":site,"t":t}).to_string()).await;
    }
    let ids = |rows: &std::collections::BTreeMap<String, Value>| rows.keys().cloned().collect::<Vec<_>>();
    top.until(|rows| ids(rows) == ["[2]", "[3]"]).await;
    each.until(|rows| ids(rows) == ["[2]", "[3]"]).await;
    // The row that moves up appears again; a negative one makes room for the next of its site.
    send(&mut feed, r#"{"id":2,"site":"a","t":-1}"#).await;
    top.until(|rows| ids(rows) == ["[1]", "[3]"]).await;
    each.until(|rows| ids(rows) == ["[1]", "[3]"]).await;
}

#[tokio::test]
async fn rows_expire_and_the_oldest_leave() {
    let views = [
        "CREATE VIEW present WITH (KEY=\"id\", EXPIRE=\"2s\") AS SELECT id FROM telemetry",
        "CREATE VIEW few WITH (KEY=\"id\", MAX_ROWS=2) AS SELECT id FROM telemetry",
    ];
    let streams = [stream("telemetry", "", "")];
    let plutino = Plutino::run("live-expire", &json!({"streams": streams, "views": views, "rules": []}), &[]).await;
    let mut feed = plutino.connect("/telemetry").await;
    let mut present = Live::open(plutino.port, "/live/present").await;
    let mut few = Live::open(plutino.port, "/live/few").await;
    send(&mut feed, r#"{"id":1}"#).await;
    present.until(|rows| rows.len() == 1).await;
    present.until(|rows| rows.is_empty()).await;
    few.until(|rows| rows.len() == 1).await;
    for id in [2, 1, 3] {
        send(&mut feed, json!({"id":id}).to_string()).await;
    }
    // 1 was updated after 2.
    few.until(|rows| rows.keys().cloned().collect::<Vec<_>>() == ["[1]", "[3]"]).await;
}

#[tokio::test]
async fn mistakes_point_and_suggest() {
    let rules = json!({"streams": [stream("telemetry", "", "")], "views": [
        "CREATE VIEW a AS SELECT id FROM telemetry",
        "CREATE VIEW b AS SELECT count(*) AS n FROM telemetry GROUP BY site",
        "CREATE VIEW c WITH (KEY=\"id\", PARAMS=\"devise\") AS SELECT id, device FROM telemetry",
        "CREATE VIEW d WITH (KEY=\"id\") AS SELECT telemetry.id FROM telemetry INNER JOIN telemetry AS u ON telemetry.id = u.id",
        "CREATE VIEW e WITH (KEY=\"id\") AS SELECT id FROM telemetry LIMIT 3",
        "CREATE VIEW f AS SELECT site, collect(t) AS all FROM telemetry GROUP BY site",
        "CREATE VIEW g AS SELECT site, count(*) AS n FROM telemetry GROUP BY site, COUNTWINDOW(3)",
        "CREATE VIEW h WITH (KEY=\"id\") AS SELECT id FROM b",
        "CREATE VIEW i WITH (KEY=\"id\") AS SELECT id FROM telemetry ORDER BY t LIMIT 3",
        "CREATE VIEW j WITH (KEY=\"id\", RETAIN=\"soon\") AS SELECT id FROM telemetry",
    ], "rules": []});
    let folder = Folder::new("mistakes");
    let path = folder.write("rules.json", &rules.to_string());
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_plutino")).arg("check").arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{said}");
    for part in [
        "the view needs a KEY",
        "write WITH (KEY=\"deviceId\")",
        "GROUP BY site is not selected",
        "PARAMS names devise, which the view does not select",
        "did you mean device?",
        "stream telemetry cannot be joined in a view",
        "make a view of it first",
        "LIMIT without ORDER BY",
        "collect keeps every value for ever",
        "COUNTWINDOW cannot be the window of a view",
        "ORDER BY t is not a selected column",
        "RETAIN is soon, expected",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
}
