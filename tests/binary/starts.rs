//! Rules that start together: each of them gets the first message of a feed that sends as soon as it is dialled.

use std::collections::BTreeMap;
use std::process::Stdio;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{accept_async, connect_async};

use crate::process::pair::Pair;
use crate::process::serve::{Folder, Served};
use crate::process::{LIMIT, stream};

const RULES: usize = 40;
const MESSAGES: usize = 10;
const STREAMS: [&str; 4] = ["p", "q", "r", "s"];

/// A feed that sends all its messages to each connection at once.
async fn feed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = accept_async(socket).await else { return };
                for n in 0..MESSAGES {
                    let _ = socket.feed(Message::text(json!({"n": n}).to_string())).await;
                }
                let _ = socket.flush().await;
                while let Some(Ok(_)) = socket.next().await {}
            });
        }
    });
    address
}

fn streams(address: &str) -> [String; STREAMS.len()] {
    let extra = json!({"addr": address}).to_string().replace('"', "\\\"");
    // They share a connection.
    STREAMS.map(|name| {
        format!(
            "CREATE STREAM {name} () WITH (TYPE=\"websocket\", DATASOURCE=\"/x\", FORMAT=\"json\", EXTRA=\"{extra}\")"
        )
    })
}

fn rules(action: &Value) -> Vec<Value> {
    let rule = |number: usize| {
        let stream = STREAMS[number % STREAMS.len()];
        json!({"id": format!("r{number}"), "sql": format!("SELECT {number} AS rule FROM {stream}"), "actions": [action]})
    };
    (0..RULES).map(rule).collect()
}

#[tokio::test]
async fn all_rules_of_a_file_see_the_first_messages() {
    let folder = Folder::new("starts");
    let streams = streams(&feed().await);
    let rules = rules(&json!({"log": {"sendSingle": true}}));
    folder.write("rules.json", &json!({"streams": streams, "rules": rules}).to_string());
    let mut child = Command::new(env!("CARGO_BIN_EXE_plutino"))
        .args(["run", "--quiet"])
        .arg(folder.path("rules.json"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
    let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
    let all = async {
        for _ in 0..RULES * MESSAGES {
            let line = lines.next_line().await.expect("stdout is text").expect("it goes on");
            let row: Value = serde_json::from_str(&line).expect("results are JSON");
            *seen.entry(row["rule"].as_i64().expect("a number")).or_default() += 1;
        }
    };
    let came = timeout(LIMIT, all).await;
    assert!(came.is_ok() && seen.values().all(|count| *count == MESSAGES), "{seen:?}");
}

/// The name of the count of messages that a rule has read.
fn read_of(rule: usize) -> String {
    format!("source_{}_0_records_in_total", STREAMS[rule % STREAMS.len()])
}

/// The messages read by each rule, once no more are expected.
async fn read_by_rules(served: &Served) -> Vec<i64> {
    let mut seen = Vec::new();
    let all = async {
        loop {
            seen.clear();
            for number in 0..RULES {
                let status = served.asks("GET", &format!("/rules/r{number}/status"), &Value::Null).await.json();
                seen.push(status[&read_of(number)].as_i64().unwrap_or(0));
            }
            if seen.iter().all(|count| *count == MESSAGES as i64) {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let _ = timeout(LIMIT, all).await;
    seen
}

/// Imports streams of a feed, and all rules.
async fn import_all(served: &Served) {
    let statements = streams(&feed().await);
    let rules = rules(&json!({"nop": {}}));
    let texts = |items: Vec<(String, String)>| items.into_iter().collect::<BTreeMap<_, _>>();
    let ruleset = json!({
        "streams": texts(STREAMS.map(str::to_owned).into_iter().zip(statements).collect()),
        "tables": {},
        "rules": texts(rules.iter().map(|rule| (rule["id"].as_str().expect("an id").to_owned(), rule.to_string())).collect()),
    });
    let answer = served.asks("POST", "/data/import", &json!({"content": ruleset.to_string()})).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

#[tokio::test]
async fn all_rules_that_start_with_the_service_or_an_import_see_the_first_messages() {
    let folder = Folder::new("starts-served");
    let mut served = folder.serve();
    import_all(&served).await;
    assert_eq!(read_by_rules(&served).await, vec![MESSAGES as i64; RULES], "after an import");
    tokio::task::spawn_blocking(move || served.terminate()).await.expect("it ends");
    let served = folder.serve();
    assert_eq!(read_by_rules(&served).await, vec![MESSAGES as i64; RULES], "after a start");
}

#[tokio::test]
async fn all_rules_of_two_processes_see_the_first_messages() {
    let pair = Pair::new("starts-pair");
    let processes = pair.start().await;
    import_all(&processes[0]).await;
    assert_eq!(read_by_rules(&processes[0]).await, vec![MESSAGES as i64; RULES], "after an import");
    let mut elsewhere = 0;
    for number in 0..STREAMS.len() {
        let path = format!("/rules/r{number}/status");
        let status = processes[1].asks("GET", &path, &Value::Null).await.json();
        elsewhere += status[&read_of(number)].as_i64().unwrap_or(0);
    }
    assert!(elsewhere > 0, "process 1 reads some of the streams");
    let [mut leader, mut follower] = processes;
    let end = move || (leader.terminate(), follower.ends());
    tokio::task::spawn_blocking(end).await.expect("they end");
    let processes = pair.start().await;
    assert_eq!(read_by_rules(&processes[0]).await, vec![MESSAGES as i64; RULES], "after a start");
}

#[tokio::test]
async fn an_import_is_undone_while_messages_come() {
    let folder = Folder::new("starts-undone");
    let mut served = folder.serve();
    // Its handshake is not answered.
    let mute = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let on_path = |name: &str| stream(name, "", "").replace(&format!("/{name}"), "/p");
    // The path exists before the import, and no rule reads it.
    let keep = json!({"id": "keep", "sql": "SELECT * FROM more", "actions": [{"websocket": {"path": "/p"}}]});
    served.asks("POST", "/streams", &json!({"sql": stream("more", "", "")})).await.done();
    served.asks("POST", "/rules", &keep).await.done();
    let mut sender = connect_async(served.data_url("/p")).await.expect("the path is there").0;
    let sending = tokio::spawn(async move { while sender.send(Message::text("{}")).await.is_ok() {} });
    let fails = json!({
        "path": "/x", "addr": mute.local_addr().expect("it is bound").to_string(), "checkConnection": true, "handshakeTimeout": "1s",
    });
    let rules = json!({
        "a": json!({"id": "a", "sql": "SELECT * FROM s1", "actions": [{"nop": {}}]}).to_string(),
        "c": json!({"id": "c", "sql": "SELECT * FROM s2", "actions": [{"websocket": fails}]}).to_string(),
    });
    let ruleset = json!({"streams": {"s1": on_path("s1"), "s2": on_path("s2")}, "tables": {}, "rules": rules});
    let answer = served.asks("POST", "/ruleset/import", &json!({"content": ruleset.to_string()})).await;
    assert!(answer.body.contains("and 1 rules"), "{}", answer.body);
    sending.abort();
    tokio::task::spawn_blocking(move || served.terminate()).await.expect("it ends");
}

#[tokio::test]
async fn a_stored_rule_whose_condition_is_never_true_says_so_and_the_others_start() {
    let folder = Folder::new("conditions");
    let mut served = folder.serve();
    let rule = |id: &str, sql: &str| json!({"id": id, "sql": sql, "actions": [{"nop": {}}]});
    served.done("POST", "/streams", &json!({"sql": stream("s", "", "")}));
    served.done("POST", "/rules", &rule("good", "SELECT n FROM s"));
    served.done("POST", "/rules", &rule("filter", "SELECT n FROM s WHERE n"));
    served.done("POST", "/rules", &rule("window", "SELECT n FROM s GROUP BY SLIDINGWINDOW(ss, 1) OVER (WHEN n)"));
    // An earlier version took rules over such a column, too.
    served.done("DELETE", "/streams/s?force=true", &Value::Null);
    served.done("POST", "/streams", &json!({"sql": stream("s", "n BIGINT", "")}));
    assert!(served.terminate().success());
    let served = folder.serve();
    for (id, clause) in [("filter", "WHERE"), ("window", "OVER")] {
        let path = format!("/rules/{id}/status");
        let status = served.answer_when(&path, id, |status| status["status"] == "stopped by error").await;
        let message = status["message"].as_str().expect("a text");
        assert!(message.contains(clause) && message.contains("n is never true or false"), "{message}");
        let found = &status["diagnosis"][0];
        assert!(found["cause"] == "notRunning" && found["message"].as_str().is_some_and(|text| text.contains(message)));
    }
    served.answer_when("/rules/good/status", "it runs", |status| status["status"] == "running").await;
}
