//! Inspecting a rule with the real binary: why it is silent, its operators and errors, its rows, and the verbs that
//! show them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::{Duration, sleep};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::process::serve::{Folder, LIMIT, Served, free_port};
use crate::process::{Client, arrival};

const STREAM: &str = "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")";

/// A service with a stream at `/in` and one rule.
async fn serving(name: &str, rule: Value) -> (Folder, Served) {
    serving_with(name, "1", rule).await
}

async fn serving_with(name: &str, workers: &str, rule: Value) -> (Folder, Served) {
    let folder = Folder::new(&format!("looks-{name}"));
    let mut command = folder.command();
    command.args(["--workers", workers]);
    let served = Served::start(command);
    for (path, body) in [("/streams", json!({"sql": STREAM})), ("/rules", rule)] {
        let answer = served.asks("POST", path, &body).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    (folder, served)
}

fn rule(sql: &str, options: Value) -> Value {
    json!({"id": "r", "sql": sql, "actions": [{"websocket": {"path": "/out"}}], "options": options})
}

async fn client(served: &Served, path: &str) -> Client {
    connect_async(served.data_url(path)).await.expect("the endpoint is there").0
}

async fn send(client: &mut Client, rows: &[Value]) {
    for row in rows {
        client.send(Message::text(row.to_string())).await.expect("it is taken");
    }
}

/// The status, once it is as expected.
async fn status(served: &Served, wanted: impl Fn(&Value) -> bool) -> Value {
    served.answer_when("/rules/r/status?details", "the status", wanted).await
}

/// The first finding with this cause.
async fn finding(served: &Served, cause: &str) -> String {
    let found = status(served, |status| status["diagnosis"][0]["cause"] == cause).await;
    found["diagnosis"][0]["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_misspelt_field_is_named_with_the_one_that_was_meant() {
    misspelt_field("absent", "1").await;
}

/// Threads without messages know no fields.
#[tokio::test]
async fn so_it_is_when_other_threads_get_no_messages() {
    misspelt_field("absent-threads", "3").await;
}

async fn misspelt_field(name: &str, workers: &str) {
    let rule = rule("SELECT * FROM demo WHERE temperatur > 20", json!({}));
    let (_folder, served) = serving_with(name, workers, rule).await;
    let text = finding(&served, "noClient").await;
    assert!(text.contains("/in"), "{text}");
    let mut sender = client(&served, "/in").await;
    let text = finding(&served, "noMessages").await;
    assert!(text.contains("1 client"), "{text}");
    send(&mut sender, &(0..100).map(|n| json!({"temperature": n, "device": "a"})).collect::<Vec<_>>()).await;
    let found = status(&served, |status| status["operators"][2]["in"] == 100).await;
    let operators = found["operators"].as_array().expect("a list");
    let filter = &operators[2];
    assert_eq!((&filter["op"], &filter["in"], &filter["out"]), (&json!("filter"), &json!(100), &json!(0)));
    let first = &found["diagnosis"][0];
    assert_eq!((&first["operator"], &first["cause"]), (&json!("filter"), &json!("absentField")), "{found}");
    let text = first["message"].as_str().unwrap_or_default();
    assert!(text.contains("temperatur ") && text.contains("did you mean temperature?"), "{text}");
    // eKuiper's status has no details, but has the diagnosis.
    let plain = served.asks("GET", "/rules/r/status", &Value::Null).await.json();
    assert!(plain["operators"].is_null() && plain["diagnosis"] == found["diagnosis"], "{plain}");
    let seen = served.asks("GET", "/streams/demo/seen", &Value::Null).await.json();
    assert_eq!(seen["messages"], 100);
    assert_eq!(seen["fields"][0], json!({"name": "temperature", "present": 100, "types": ["bigint"], "example": "0"}));
}

#[tokio::test]
async fn a_condition_that_is_never_true_says_so_and_one_that_is_true_says_nothing() {
    let (_folder, served) = serving("never", rule("SELECT * FROM demo WHERE a > 100", json!({}))).await;
    let mut sender = client(&served, "/in").await;
    send(&mut sender, &[json!({"a": 1}), json!({"a": 2})]).await;
    let found = status(&served, |status| {
        status["diagnosis"][0]["message"].as_str().is_some_and(|text| text.contains("2 rows"))
    });
    let found = found.await["diagnosis"][0].clone();
    assert!(found["cause"] == "neverTrue" && found["message"].to_string().contains("a > 100"), "{found}");
    send(&mut sender, &[json!({"a": 101})]).await;
    // Now the result has no receiver.
    let text = finding(&served, "noReceiver").await;
    assert!(text.contains("/out"), "{text}");
    let mut receiver = client(&served, "/out").await;
    send(&mut sender, &[json!({"a": 102})]).await;
    assert!(arrival(&mut receiver).await.is_some());
    status(&served, |status| status["diagnosis"] == json!([])).await;
}

#[tokio::test]
async fn clients_at_a_path_like_it_are_told_of() {
    let (_folder, served) = serving("near", rule("SELECT * FROM demo", json!({}))).await;
    assert!(connect_async(served.data_url("/inn")).await.is_err());
    let found =
        status(&served, |status| status["diagnosis"][0]["message"].as_str().is_some_and(|text| text.contains("/inn")));
    let text = found.await["diagnosis"][0]["message"].to_string();
    assert!(text.contains("1 handshake") && text.contains("paths are exact"), "{text}");
}

#[tokio::test]
async fn wrong_units_and_late_rows_are_found() {
    let folder = Folder::new("looks-late");
    let served = folder.serve();
    let sql = "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\", TIMESTAMP=\"ts\")";
    served.asks("POST", "/streams", &json!({"sql": sql})).await;
    let sql = "SELECT count(*) AS n FROM demo GROUP BY TUMBLINGWINDOW(ss, 1)";
    let answer = served.asks("POST", "/rules", &rule(sql, json!({"isEventTime": true, "lateTolerance": 0}))).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let mut sender = client(&served, "/in").await;
    send(&mut sender, &[json!({"ts": 1_700_000_000_000_i64})]).await;
    let text = finding(&served, "openWindow").await;
    assert!(text.contains("1 row"), "{text}");
    send(&mut sender, &[json!({"ts": 1_700_000_005_000_i64})]).await;
    let found = status(&served, |status| {
        status["operators"].to_string().contains("\"window\"")
            && status["diagnosis"][0]["cause"] == "noReceiver"
            && status["state"]["openWindows"] == 1
    });
    let found = found.await;
    let operators = found["operators"].as_array().expect("a list");
    let window = operators.iter().find(|operator| operator["op"] == "window").expect("a window");
    assert_eq!((&window["in"], &window["out"]), (&json!(2), &json!(1)), "{window}");
}

#[tokio::test]
async fn a_peer_that_is_away_and_a_stream_that_is_silent_are_named() {
    let folder = Folder::new("looks-silent");
    let served = folder.serve();
    // A port at which no process listens any more.
    let gone = format!("127.0.0.1:{}", free_port());
    let extra = json!({"addr": gone}).to_string().replace('"', "\\\"");
    let with = |name: &str, more: &str| json!({"sql": format!("CREATE STREAM {name} () WITH (TYPE=\"websocket\", DATASOURCE=\"/{name}\"{more})")});
    for stream in [
        with("away", &format!(", EXTRA=\"{extra}\"")),
        with("one", ", TIMESTAMP=\"ts\""),
        with("two", ", TIMESTAMP=\"ts\""),
    ] {
        served.asks("POST", "/streams", &stream).await.done();
    }
    served.asks("POST", "/rules", &rule("SELECT * FROM away", json!({}))).await.done();
    let found = status(&served, |status| {
        let first = &status["diagnosis"][0];
        first["cause"] == "notConnected" && first["message"].to_string().contains("refused")
    });
    let text = found.await["diagnosis"][0]["message"].to_string();
    assert!(text.contains(&format!("away is not connected to ws://{gone}/away")), "{text}");

    let join = "SELECT count(*) AS n FROM one INNER JOIN two ON one.id = two.id GROUP BY TUMBLINGWINDOW(ss, 1)";
    let options = json!({"isEventTime": true, "idleTimeout": 3_600_000});
    let mut joins = rule(join, options);
    joins["id"] = "joins".into();
    served.asks("POST", "/rules", &joins).await.done();
    let mut sender = client(&served, "/one").await;
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later").as_millis() as i64;
    send(&mut sender, &[json!({"id": 1, "ts": now - 9000}), json!({"id": 1, "ts": now})]).await;
    let begun = Instant::now();
    loop {
        let status = served.asks("GET", "/rules/joins/status", &Value::Null).await.json();
        let all = status["diagnosis"].to_string();
        if all.contains("The watermark waits for two") {
            assert!(all.contains("idleStream"), "{all}");
            break;
        }
        assert!(begun.elapsed() < LIMIT, "{all}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn errors_keep_their_rows() {
    let (_folder, served) = serving("errors", rule("SELECT a * 2 AS d FROM demo", json!({}))).await;
    let mut sender = client(&served, "/in").await;
    let rows: Vec<Value> = (0..12).map(|n| json!({"a": format!("x{n}"), "n": n})).collect();
    send(&mut sender, &rows).await;
    sender.send(Message::text("{broken")).await.expect("it is taken");
    let found =
        status(&served, |status| status["operators"][1]["errors"] == 1 && status["operators"][2]["errors"] == 12);
    let found = found.await;
    let errors = |at: usize| found["operators"][at]["lastErrors"].as_array().cloned().unwrap_or_default();
    assert_eq!(errors(1)[0]["message"], "{broken");
    assert_eq!(errors(2).len(), 10);
    assert_eq!(errors(2)[9]["message"], json!({"a": "x11", "n": 11}).to_string());
    assert_eq!(found["diagnosis"][0]["cause"], "errors", "{found}");
}

#[tokio::test]
async fn failed_messages_go_to_the_dead_letter_sinks() {
    let dead = json!([{"websocket": {"path": "/dead", "sendSingle": true}}]);
    let (_folder, served) = serving("dead", rule("SELECT a * 2 AS d FROM demo", json!({"deadLetter": dead}))).await;
    let mut sender = client(&served, "/in").await;
    let (mut receiver, mut letters) = (client(&served, "/out").await, client(&served, "/dead").await);
    send(&mut sender, &[json!({"a": "x", "n": 1})]).await;
    sender.send(Message::text("{broken")).await.expect("it is taken");
    send(&mut sender, &[json!({"a": 4})]).await;
    let next = async |client: &mut Client| -> Value {
        let message = arrival(client).await.expect("a message").expect("the socket is whole");
        serde_json::from_str(message.to_text().expect("text")).expect("JSON")
    };
    let first = next(&mut letters).await;
    assert_eq!((&first["operator"], &first["message"]), (&json!("project"), &json!({"a": "x", "n": 1})), "{first}");
    assert!(first["error"].as_str().is_some_and(|error| error.contains("run Select error")), "{first}");
    assert!(first["time"].as_i64().is_some_and(|time| time > 1_600_000_000_000), "{first}");
    let second = next(&mut letters).await;
    assert_eq!((&second["operator"], &second["message"]), (&json!("decoder"), &json!("{broken")), "{second}");
    assert_eq!(next(&mut receiver).await, json!([{"d": 8}]), "results go on, and errors do not go there");
    let wrong = rule("SELECT a FROM demo", json!({"deadLetter": {"log": {}}}));
    let refused = served.asks("PUT", "/rules/r", &wrong).await;
    assert!(refused.status == 400 && refused.body.contains("deadLetter"), "{}", refused.body);
}

/// The rows that `plutino tap` prints; it ends by itself.
fn tap(served: &Served, arguments: &[&str]) -> (std::process::Child, BufReader<std::process::ChildStdout>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_plutino"))
        .arg("tap")
        .args(arguments)
        .env("PLUTINO_URL", served.url(""))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // After this line, no row is missed.
    let mut said = String::new();
    BufReader::new(child.stderr.as_mut().expect("a pipe")).read_line(&mut said).expect("it says something");
    assert!(said.starts_with("tapping"), "{said}");
    let rows = BufReader::new(child.stdout.take().expect("a pipe"));
    (child, rows)
}

#[tokio::test]
async fn taps_show_the_rows_between_operators() {
    let sql = "SELECT a * 2 AS d FROM demo WHERE a > 1";
    let (_folder, served) = serving("tap", rule(sql, json!({}))).await;
    let mut sender = client(&served, "/in").await;
    let (mut child, all) = tap(&served, &["r", "--limit", "8"]);
    let (mut filtered, rows) = tap(&served, &["r:filter", "--limit", "1"]);
    send(&mut sender, &[json!({"a": 1, "b": "x"}), json!({"a": 2})]).await;
    sender.send(Message::text("{broken")).await.expect("it is taken");
    send(&mut sender, &[json!({"a": 0})]).await;
    let lines: Vec<String> = all.lines().map_while(Result::ok).collect();
    child.wait().expect("it ends");
    let wanted = [
        r#"source  {"a":1,"b":"x"}"#,
        r#"decode  {"a":1,"b":"x"}"#,
        r#"source  {"a":2}"#,
        r#"decode  {"a":2}"#,
        r#"filter  {"a":2}"#,
        r#"project {"d":4}"#,
    ];
    assert_eq!(lines[..6], wanted, "{lines:?}");
    assert!(
        lines.contains(&"source  {broken".to_owned()) || lines.contains(&r#"sink    [{"d":4}]"#.to_owned()),
        "{lines:?}"
    );
    assert_eq!(rows.lines().map_while(Result::ok).collect::<Vec<_>>(), [r#"{"a":2}"#]);
    filtered.wait().expect("it ends");
    let refused = served.asks("GET", "/rules/r/tap?op=nosuch", &Value::Null).await;
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("source, decode, filter"), "{}", refused.body);
    assert_eq!(served.asks("GET", "/rules/nosuch/tap", &Value::Null).await.status, 404);
}

#[tokio::test]
async fn a_tap_ends_with_its_rule_and_one_that_reads_nothing_slows_nobody() {
    let (_folder, served) = serving("slow-tap", rule("SELECT a FROM demo", json!({}))).await;
    let mut sender = client(&served, "/in").await;
    let mut receiver = client(&served, "/out").await;
    // It never reads.
    let (mut stuck, mut rows) = tap(&served, &["r"]);
    let filler = "x".repeat(4096);
    for n in 0..2000 {
        send(&mut sender, &[json!({"a": n, "b": filler})]).await;
    }
    let mut last = Value::Null;
    while last[0]["a"] != 1999 {
        let message = receiver.next().await.expect("the stream goes on").expect("the socket is whole");
        last = serde_json::from_str(message.to_text().unwrap_or_default()).unwrap_or_default();
    }
    served.asks("POST", "/rules/r/stop", &Value::Null).await;
    let mut line = String::new();
    while rows.read_line(&mut line).expect("a pipe") > 0 {
        line.clear();
    }
    assert!(stuck.wait().expect("it ends").success());
}

#[tokio::test]
async fn a_tap_ends_with_the_service() {
    let (_folder, mut served) = serving("ending-tap", rule("SELECT a FROM demo", json!({}))).await;
    let (mut child, _rows) = tap(&served, &["r"]);
    assert!(served.terminate().success());
    assert!(child.wait().expect("it ends").success());
}

#[tokio::test]
async fn results_that_nobody_receives_are_in_the_list_of_all_rules() {
    let (_folder, served) = serving("unheard", rule("SELECT * FROM demo", json!({}))).await;
    let text = printed(&served, &["status", "r"]);
    assert!(text.contains("/out: listening, 0 clients"), "{text}");
    let mut sender = client(&served, "/in").await;
    send(&mut sender, &[json!({"a": 1})]).await;
    status(&served, |status| status["diagnosis"][0]["cause"] == "noReceiver").await;
    let text = printed(&served, &["status"]);
    assert!(text.contains("r: sink: 1 result had no receiver"), "{text}");
}

/// The output of a verb.
fn printed(served: &Served, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
    let output = command.args(arguments).env("PLUTINO_URL", served.url("")).output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

#[tokio::test]
async fn verbs_show_rules_to_people_and_to_programs() {
    let (_folder, served) = serving("verbs", rule("SELECT * FROM demo WHERE temperatur > 20", json!({}))).await;
    let mut sender = client(&served, "/in").await;
    send(&mut sender, &[json!({"temperature": 30})]).await;
    status(&served, |status| status["diagnosis"][0]["cause"] == "absentField").await;
    let text = printed(&served, &["status", "r"]);
    for part in ["r: running for", "op_3_filter", "source demo", "diagnosis:", "did you mean temperature?"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = printed(&served, &["status"]);
    assert!(text.starts_with("RULE") && text.contains("did you mean temperature?"), "{text}");
    let top: Value =
        serde_json::from_str(&printed(&served, &["top", "--once", "--json", "--every", "100"])).expect("JSON");
    assert_eq!((&top[0]["rule"], &top[0]["in"], &top[0]["status"]), (&json!("r"), &json!(1), &json!("running")));
    let overview = served.asks("GET", "/overview", &Value::Null).await.json();
    assert_eq!((&overview["states"]["running"], &overview["in"]), (&json!(1), &json!(1)));
}

#[tokio::test]
async fn statements_are_checked_and_nothing_is_made() {
    let (_folder, served) = serving("validate", rule("SELECT * FROM demo", json!({}))).await;
    let check = async |sql: &str| served.asks("POST", "/validate", &json!({"sql": sql})).await.json();
    let right = check("SELECT a FROM demo").await;
    assert_eq!((&right["valid"], &right["kind"]), (&json!(true), &json!("rule")));
    assert!(right["plan"].as_str().is_some_and(|plan| plan.contains("ProjectPlan")), "{right}");
    let wrong = check("SELECT a, nosuch(b)\nFROM demo").await;
    assert_eq!(wrong["valid"], false);
    assert_eq!((&wrong["details"][0]["line"], &wrong["details"][0]["column"]), (&json!(1), &json!(11)), "{wrong}");
    assert_eq!(check("CREATE STREAM other () WITH (TYPE=\"websocket\", DATASOURCE=\"/o\")").await["valid"], true);
    assert_eq!(check("CREATE STREAM other (a NOSUCH) WITH (TYPE=\"websocket\")").await["valid"], false);
    assert_eq!(check("CREATE VIEW v AS SELECT nosuch(a) FROM demo").await["kind"], "view");
    assert_eq!(served.asks("GET", "/streams", &Value::Null).await.json(), json!(["demo"]));
}

/// A sink that has delivered before is named, too, when its peer is gone.
#[tokio::test]
async fn a_sink_whose_peer_has_left_is_named() {
    let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = peer.local_addr().expect("it is bound").to_string();
    let sink = json!({"addr": address, "path": "/x", "sendSingle": true});
    let sends = json!({"id": "r", "sql": "SELECT * FROM demo", "actions": [{"websocket": sink}]});
    let (_folder, served) = serving("sink", sends).await;
    let mut sender = client(&served, "/in").await;
    let stream = peer.accept().await.expect("it dials").0;
    let mut socket = tokio_tungstenite::accept_async(stream).await.expect("it is a websocket");
    send(&mut sender, &[json!({"n": 1})]).await;
    socket.next().await.expect("it comes").expect("it is whole");
    drop((socket, peer));
    send(&mut sender, &[json!({"n": 2})]).await;
    let text = finding(&served, "notConnected").await;
    assert!(text.contains(&format!("The sink is not connected to ws://{address}/x")), "{text}");
    let overview = served.asks("GET", "/overview", &Value::Null).await.json();
    let rule = &overview["rules"][0];
    assert_eq!((&rule["unconnected"], &rule["clients"]), (&json!(1), &json!(1)), "{rule}");
    let shown = printed(&served, &["status"]);
    assert!(shown.contains("WAITING") && shown.contains("r: sink: The sink is not connected"), "{shown}");
}

#[tokio::test]
async fn top_is_told_what_to_do_through_a_pipe() {
    let (_folder, served) = serving("top", rule("SELECT * FROM demo", json!({}))).await;
    let mut top = Command::new(env!("CARGO_BIN_EXE_plutino"))
        .args(["top", "--json", "--sort", "OUT/S", "--every", "60000", "--url", &served.url("")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let words = "nosuch\nERRORS/S\nq\n";
    std::io::Write::write_all(&mut top.stdin.take().expect("a pipe"), words.as_bytes()).expect("it reads");
    let output = top.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("there is no column nosuch; there are rule, state, in, out,"), "{said}");
    assert!(!said.contains("ERRORS/S"), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 2, "one table for each word but q");
}
