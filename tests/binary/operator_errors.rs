//! One bad row and every operator that can drop it, with the real binary: the error is counted where it occurred and
//! nowhere else, the rest of the rule continues, and other rules are not affected. And the metrics of their states.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::process::serve::{Folder, LIMIT, Served};
use crate::process::{Client, arrival, send};

/// The rule that can process every row.
const STEADY: &str = "steady";

/// Rules with their additional sink properties, the part in which the row is dropped, and the reported error. Each
/// sends the `n` of each good row.
const RULES: &[(&str, &str, &str, &str, &str)] = &[
    ("decoder", "SELECT n, a FROM typed", r#"{"fields": ["n"]}"#, "op_2_decoder_0", "a"),
    ("filter", "SELECT n FROM demo WHERE a + 1 > 0", "{}", "op_3_filter_0", "run Where error"),
    ("analytic", "SELECT n, acc_sum(a) AS s FROM demo", r#"{"fields": ["n"]}"#, "op_3_analytic_0", "run Select error"),
    (
        "window",
        "SELECT last_value(n, true) AS n FROM demo GROUP BY COUNTWINDOW(1) FILTER(WHERE a + 1 > 0)",
        "{}",
        "op_3_window_0",
        "run Window Filter error",
    ),
    ("join", "SELECT n FROM demo INNER JOIN known ON demo.a + 0 = known.one", "{}", "join_0", "run Join error"),
    // The row counts in no aggregate; its error is that of the select list that needs the sum.
    (
        "sum",
        "SELECT last_value(n, true) AS n, sum(a) AS s FROM demo GROUP BY COUNTWINDOW(1)",
        r#"{"fields": ["n"]}"#,
        "op_4_project_0",
        "run sum function error",
    ),
    (
        "aggregate",
        "SELECT n, sum(a) AS s FROM demo INNER JOIN known ON demo.n = known.one GROUP BY n, COUNTWINDOW(1)",
        r#"{"fields": ["n"]}"#,
        "aggregate_0",
        "run Select error",
    ),
    (
        "having",
        "SELECT last_value(n, true) AS n FROM demo GROUP BY COUNTWINDOW(1) HAVING last_value(a, true) + 1 > 0",
        "{}",
        "having_0",
        "run Having error",
    ),
    ("project", "SELECT n, a * 2 AS d FROM demo", r#"{"fields": ["n"]}"#, "op_3_project_0", "run Select error"),
    (
        "sink",
        "SELECT n, a FROM demo",
        r#"{"dataTemplate": "{{if eq (toString .a) \"x\"}}{{index .a 5 6}}{{end}}{\"n\": {{.n}}}"}"#,
        "op_websocket_0_1_encode_0",
        "",
    ),
];

async fn client(served: &Served, path: &str) -> Client {
    connect_async(served.data_url(path)).await.expect("the endpoint is there").0
}

/// The `n` of the next message.
async fn next_n(client: &mut Client) -> Value {
    loop {
        let message = timeout(LIMIT, client.next()).await.expect("a message comes").expect("the stream goes on");
        if let Message::Text(text) = message.expect("the socket is whole") {
            return serde_json::from_str::<Value>(&text).expect("results are JSON")["n"].clone();
        }
    }
}

/// A service with these rules, a stream on `/demo`, and a client for each rule's results.
async fn with_rules(folder: &Folder) -> (Served, Vec<Client>) {
    folder.write("data/known.json", r#"[{"one": 1}, {"one": 2}, {"one": 3}, {"one": 4}, {"one": 6}]"#);
    let served = folder.serve();
    for sql in [
        "CREATE STREAM demo () WITH (DATASOURCE=\"/demo\", TYPE=\"websocket\")",
        "CREATE STREAM typed (n BIGINT, a BIGINT) WITH (DATASOURCE=\"/demo\", TYPE=\"websocket\", STRICT_VALIDATION=\"true\")",
    ] {
        served.asks("POST", "/streams", &json!({ "sql": sql })).await.done();
    }
    let table = "CREATE TABLE known () WITH (DATASOURCE=\"known.json\", TYPE=\"file\")";
    served.asks("POST", "/tables", &json!({ "sql": table })).await.done();
    let mut clients = Vec::new();
    let steady = (STEADY, "SELECT n FROM demo", "{}", "", "");
    for (id, sql, more, ..) in RULES.iter().chain([&steady]) {
        let mut sink: Value = serde_json::from_str(more).expect("properties are JSON");
        sink["path"] = json!(format!("/{id}"));
        sink["sendSingle"] = json!(true);
        let rule = json!({"id": id, "sql": sql, "actions": [{"websocket": sink}]});
        served.asks("POST", "/rules", &rule).await.done();
        clients.push(client(&served, &format!("/{id}")).await);
    }
    (served, clients)
}

#[tokio::test]
async fn an_error_is_counted_where_it_happens_and_disturbs_nothing_else() {
    let folder = Folder::new("operator-errors");
    let (served, mut clients) = with_rules(&folder).await;
    let mut source = client(&served, "/demo").await;
    for row in [json!({"n": 1, "a": 1}), json!({"n": 2, "a": "x"}), json!({"n": 3, "a": 3}), json!({"n": 4, "a": 4})] {
        send(&mut source, row.to_string()).await;
    }
    let (steady, others) = clients.split_last_mut().expect("there are rules");
    for n in 1..=4 {
        assert_eq!(next_n(steady).await, n);
    }
    for ((id, ..), client) in RULES.iter().zip(others) {
        for n in [1, 3, 4] {
            assert_eq!(next_n(client).await, n, "{id}");
        }
    }
    for (id, _, _, part, says) in RULES.iter().chain([&(STEADY, "", "", "", "")]) {
        let status = served.asks("GET", &format!("/rules/{id}/status"), &Value::Null).await.json();
        assert_eq!(status["status"], "running", "{id}: {status}");
        for (name, value) in status.as_object().expect("an object") {
            let Some(here) = name.strip_suffix("_exceptions_total") else { continue };
            let mine = !part.is_empty() && here.ends_with(part);
            assert_eq!(*value, u64::from(mine), "{id}: {name} in {status:#}");
            if mine {
                let last = status[format!("{here}_last_exception")].as_str().unwrap_or_default();
                assert!(!last.is_empty() && last.contains(says), "{id}: {last}");
                assert!(status[format!("{here}_last_exception_time")].as_i64().is_some_and(|time| time > 0));
            }
        }
    }

    // An unreadable message is dropped for every rule, each at its decoder.
    send(&mut source, "{\"n\": 5").await;
    send(&mut source, json!({"n": 6, "a": 4}).to_string()).await;
    for client in &mut clients {
        assert_eq!(next_n(client).await, 6);
    }
    for id in RULES.iter().map(|(id, ..)| *id).chain([STEADY]) {
        let status = served.asks("GET", &format!("/rules/{id}/status"), &Value::Null).await.json();
        let all = status.as_object().expect("an object").iter();
        let errors = |(name, value): (&String, &Value)| {
            name.ends_with("_decoder_0_exceptions_total").then(|| value.as_u64()).flatten()
        };
        let errors: u64 = all.filter_map(errors).sum();
        assert_eq!(errors, if id == "decoder" { 2 } else { 1 }, "{id}: {status:#}");
    }
}

/// The value of a series.
fn sample(page: &str, series: &str) -> Option<u64> {
    page.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok())
}

#[tokio::test]
async fn metrics_measure_states_windows_tables_and_queues() {
    let folder = Folder::new("measured");
    let served = folder.serve();
    let demo = "CREATE STREAM demo () WITH (DATASOURCE=\"/demo\", TYPE=\"websocket\")";
    served.asks("POST", "/streams", &json!({ "sql": demo })).await.done();
    let table = "CREATE TABLE t () WITH (DATASOURCE=\"t\", TYPE=\"memory\", KIND=\"lookup\", KEY=\"k\")";
    served.asks("POST", "/tables", &json!({ "sql": table })).await.done();
    let nop = json!([{"nop": {}}]);
    for (id, sql, actions) in [
        ("plain", "SELECT k FROM demo", json!([{"websocket": {"path": "/seen", "sendSingle": true}}])),
        ("groups", "SELECT k, sum(n) AS s FROM demo GROUP BY k, TUMBLINGWINDOW(hh, 1)", nop.clone()),
        ("rows", "SELECT collect(*) AS l FROM demo GROUP BY COUNTWINDOW(1000)", nop.clone()),
        ("states", "SELECT k FROM demo GROUP BY STATEWINDOW(n >= 0, n < 0) OVER (PARTITION BY k)", nop.clone()),
        ("memory", "SELECT lag(n) OVER (PARTITION BY k) AS l FROM demo", nop),
        ("table", "SELECT k, n FROM demo", json!([{"memory": {"topic": "t"}}])),
    ] {
        served.asks("POST", "/rules", &json!({"id": id, "sql": sql, "actions": actions})).await.done();
    }
    let (mut source, mut seen) = (client(&served, "/demo").await, client(&served, "/seen").await);
    for n in 0..100 {
        send(&mut source, json!({"k": format!("key {n}"), "n": n}).to_string()).await;
    }
    for _ in 0..100 {
        arrival(&mut seen).await.expect("the stream goes on").expect("the socket is whole");
    }
    // The table gets its rows a moment after the rule on the same stream has its results.
    let until = Instant::now() + LIMIT;
    let page = loop {
        let page = served.asks("GET", "/metrics", &Value::Null).await.done();
        if sample(&page, "plutino_table_rows{table=\"t\"}") == Some(100) {
            break page;
        }
        assert!(Instant::now() < until, "{page}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let of = |series: &str, rule: &str| sample(&page, &format!("plutino_rule_{series}{{rule=\"{rule}\"}}"));
    assert_eq!((of("state_bytes", "plain"), of("open_windows", "plain")), (None, None));
    for (rule, windows) in [("groups", Some(1)), ("rows", Some(1)), ("states", Some(100)), ("memory", None)] {
        assert_eq!(of("open_windows", rule), windows, "{rule}: {page}");
        let bytes = of("state_bytes", rule).expect("it has state");
        // A hundred keys with a value each.
        assert!((2_000..200_000).contains(&bytes), "{rule}: {bytes}");
    }
    let bytes = sample(&page, "plutino_table_state_bytes{table=\"t\"}").expect("the table is measured");
    assert!((5_000..200_000).contains(&bytes), "{bytes}");
    assert_eq!(sample(&page, "plutino_stream_queue_messages{stream=\"demo\",thread=\"0\"}"), Some(0), "{page}");
}
