//! `plutino serve --hosts`: one catalog for two processes, which run its rules as one.

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use super::process::pair::Pair;
use super::process::serve::Served;
use super::process::{Client, next, send, stream};

/// How long a process may outlive another one that dies: far less, unless the machine is overloaded.
pub const AFTERLIFE: Duration = Duration::from_secs(60);

/// Rules whose states are in both processes: the name decides which one.
pub const SUMS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

pub async fn connect(served: &Served, path: &str) -> Client {
    connect_async(served.data_url(path)).await.expect("the endpoint is there").0
}

pub async fn clients(processes: &[Served; 2], path: &str) -> [Client; 2] {
    [connect(&processes[0], path).await, connect(&processes[1], path).await]
}

/// A request that succeeds.
pub async fn ask(served: &Served, method: &str, path: &str, body: Value) -> String {
    served.asks(method, path, &body).await.done()
}

pub async fn create_stream(served: &Served, name: &str) {
    ask(served, "POST", "/streams", json!({"sql": stream(name, "", "")})).await;
}

/// A rule whose results go to a path of the data server, one a message.
pub fn rule(id: &str, sql: &str, options: Value) -> Value {
    let sink = json!({"path": format!("/{id}"), "sendSingle": true});
    json!({"id": id, "sql": sql, "options": options, "actions": [{"websocket": sink}]})
}

async fn status(served: &Served, id: &str) -> Value {
    let path = format!("/rules/{id}/status?details=true");
    served.asks("GET", &path, &Value::Null).await.json()
}

#[tokio::test]
async fn a_rule_is_made_changed_stopped_and_dropped_in_all_processes() {
    let pair = Pair::new("serve-one");
    let processes = pair.start().await;
    create_stream(&processes[0], "demo").await;
    ask(&processes[0], "POST", "/rules", rule("pass", "SELECT n FROM demo", json!({}))).await;
    let counting = "SELECT count(*) AS c, sum(n) AS s FROM demo GROUP BY COUNTWINDOW(10)";
    ask(&processes[0], "POST", "/rules", rule("counts", counting, json!({}))).await;
    let (mut senders, mut passed) = (clients(&processes, "/demo").await, clients(&processes, "/pass").await);
    let mut counted = clients(&processes, "/counts").await;
    for n in 0..10 {
        send(&mut senders[n % 2], json!({"n": n}).to_string()).await;
    }
    for receiver in &mut passed {
        let mut came = Vec::new();
        while came.len() < 10 {
            came.push(next(receiver).await.expect("it goes on")["n"].as_u64().expect("a number"));
        }
        came.sort_unstable();
        assert_eq!(came, (0..10).collect::<Vec<u64>>());
    }
    for receiver in &mut counted {
        assert_eq!(next(receiver).await, Some(json!({"c": 10, "s": 45})));
    }
    // The counts are those of both processes.
    let shown = status(&processes[0], "counts").await;
    assert_eq!(shown["source_demo_0_records_in_total"], 10, "{shown}");
    let shares: Vec<(&Value, &Value)> = shown["processes"]
        .as_array()
        .expect("there are several")
        .iter()
        .map(|share| (&share["process"], &share["rowsIn"]))
        .collect();
    assert_eq!(shares, [(&json!(0), &json!(5)), (&json!(1), &json!(5))]);
    // So are clients, and the last fields of messages.
    let sink = &shown["sinks"][0];
    let mut at: Vec<&Value> = sink["clients"].as_array().expect("a list").iter().map(|one| &one["process"]).collect();
    at.sort_by_key(|process| process.as_u64());
    assert_eq!((at, &sink["peers"]), (vec![&json!(0), &json!(1)], &json!(2)), "{shown}");
    let seen = processes[0].asks("GET", "/streams/demo/seen", &Value::Null).await.json();
    assert_eq!((&seen["messages"], &seen["fields"][0]["present"]), (&json!(10), &json!(10)), "{seen}");

    // Its clients stay with a new version, and those of both processes get its results.
    ask(&processes[0], "PUT", "/rules/pass", rule("pass", "SELECT n, n * 2 AS twice FROM demo", json!({}))).await;
    for (n, sender) in senders.iter_mut().enumerate() {
        send(sender, json!({"n": n}).to_string()).await;
        for receiver in &mut passed {
            assert_eq!(next(receiver).await, Some(json!({"n": n, "twice": n * 2})));
        }
    }
    // Earlier counts continue in a new version.
    let doubling = "SELECT count(*) AS c, sum(n) AS s FROM demo GROUP BY COUNTWINDOW(10)";
    ask(&processes[0], "PUT", "/rules/counts", rule("counts", doubling, json!({"qos": 1}))).await;

    ask(&processes[0], "POST", "/rules/pass/stop", Value::Null).await;
    for receiver in &mut passed {
        assert_eq!(next(receiver).await, None, "clients get a close frame");
    }
    assert_eq!(status(&processes[1], "pass").await["status"], "stopped");
    ask(&processes[0], "POST", "/rules/pass/start", Value::Null).await;
    assert_eq!(status(&processes[1], "pass").await["status"], "running");
    for id in ["pass", "counts"] {
        ask(&processes[0], "DELETE", &format!("/rules/{id}"), Value::Null).await;
        let gone = processes[1].asks("GET", &format!("/rules/{id}/status"), &Value::Null).await;
        assert_eq!(gone.status, 404, "{}", gone.body);
    }
    ask(&processes[0], "DELETE", "/streams/demo", Value::Null).await;
}

#[tokio::test]
async fn what_only_clients_of_another_process_get_is_delivered() {
    let pair = Pair::new("serve-heard");
    let processes = pair.start().await;
    create_stream(&processes[0], "demo").await;
    // The second sink has no client anywhere.
    let sinks = ["/pass", "/unheard"].map(|path| json!({"websocket": {"path": path, "sendSingle": true}}));
    let rule = json!({"id": "pass", "sql": "SELECT n FROM demo", "actions": sinks});
    ask(&processes[0], "POST", "/rules", rule).await;
    let (mut sender, mut receiver) = (connect(&processes[0], "/demo").await, connect(&processes[1], "/pass").await);
    for n in 0..10 {
        send(&mut sender, json!({"n": n}).to_string()).await;
        assert_eq!(next(&mut receiver).await, Some(json!({"n": n})));
    }
    let began = Instant::now();
    let shown = loop {
        let shown = status(&processes[0], "pass").await;
        if shown["sinks"][1]["dropped"] == json!({"no client": 10}) || began.elapsed() > AFTERLIFE {
            break shown;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let dropped = [0, 1].map(|sink| shown["sinks"][sink]["dropped"].clone());
    assert_eq!(dropped, [json!({}), json!({"no client": 10})], "{shown}");
    let [mut leader, _follower] = processes;
    let end = tokio::task::spawn_blocking(move || {
        leader.terminate();
        leader.has_said()
    });
    assert_eq!(next(&mut receiver).await, None, "the client gets a close frame");
    let said = end.await.expect("it ends");
    assert!(said.contains("delivered 10 messages") && said.contains("lost 10 (10 no client)"), "{said}");
}

#[tokio::test]
async fn a_rule_that_fails_in_one_process_stops_in_all() {
    let pair = Pair::new("serve-fail");
    let processes = pair.start().await;
    create_stream(&processes[0], "demo").await;
    let sql = "SELECT collect(text) AS all_texts FROM demo GROUP BY COUNTWINDOW(1000000)";
    for id in SUMS {
        ask(&processes[0], "POST", "/rules", rule(id, sql, json!({"maxStateBytes": 100_000}))).await;
    }
    let mut sender = connect(&processes[0], "/demo").await;
    let text = json!({"text": "x".repeat(200)}).to_string();
    for _ in 0..3000 {
        // The endpoint may close once all rules have failed.
        if sender.send(Message::text(text.clone())).await.is_err() {
            break;
        }
    }
    for id in SUMS {
        for process in &processes {
            let began = Instant::now();
            while status(process, id).await["status"] == "running" {
                assert!(began.elapsed() < AFTERLIFE, "{id}: {}", status(process, id).await);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let shown = status(&processes[0], id).await;
        assert_eq!(shown["status"], "stopped by error");
        assert!(shown["message"].as_str().is_some_and(|message| message.contains("maxStateBytes")), "{shown}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_that_does_not_answer_is_named() {
    let pair = Pair::new("serve-silent");
    let processes = pair.start().await;
    create_stream(&processes[0], "demo").await;
    ask(&processes[0], "POST", "/rules", rule("pass", "SELECT n FROM demo", json!({}))).await;
    processes[1].signal("-STOP");
    let began = Instant::now();
    let shown = status(&processes[0], "pass").await;
    processes[1].signal("-CONT");
    assert!(began.elapsed() < AFTERLIFE, "{:?}", began.elapsed());
    let silent = shown["silentProcesses"][0].as_str().expect("one is silent");
    assert!(silent.starts_with("process 1 (127.0.0.1:"), "{shown}");
    assert_eq!(shown["processes"][1]["silent"], true);
    let path = "/rules/pass/status?details=true";
    processes[0].answer_when(path, "it answers again", |shown| shown["silentProcesses"].is_null()).await;
}

#[tokio::test]
async fn a_process_without_the_catalog_says_where_it_is() {
    let pair = Pair::new("serve-rest");
    let processes = pair.start().await;
    create_stream(&processes[0], "demo").await;
    ask(&processes[0], "POST", "/rules", rule("pass", "SELECT n FROM demo", json!({}))).await;
    for (method, path) in
        [("GET", "/rules"), ("POST", "/streams?x=1"), ("DELETE", "/rules/pass/status"), ("GET", "/stop")]
    {
        let sent_on = processes[1].asks(method, path, &Value::Null).await;
        assert_eq!(sent_on.status, 307, "{method} {path}");
        assert_eq!(sent_on.headers["location"], processes[0].url(path));
    }
    assert_eq!(processes[1].asks("GET", "/ping", &Value::Null).await.status, 200);
    let about = processes[1].asks("GET", "/", &Value::Null).await.json();
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status(&processes[1], "pass").await["status"], "running");
    let metrics = ask(&processes[1], "GET", "/metrics", Value::Null).await;
    assert!(metrics.contains("rule=\"pass\""), "{metrics}");
    let hostile =
        super::process::serve::ask(&processes[1].rest, "GET", "/rules", "origin: http://evil.example\r\n", "");
    assert_eq!(hostile.expect("an answer").status, 403);
}

#[tokio::test]
async fn verbs_may_name_any_process() {
    let pair = Pair::new("serve-verbs");
    let plutino = |arguments: &[&str], token: &str, url: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_plutino"));
        command.args(arguments).env("PLUTINO_URL", url).env("PLUTINO_TOKEN", token);
        command.current_dir(&pair.folders[0].0).output().expect("the binary starts")
    };
    assert!(plutino(&["token", "key", "ops.key"], "", "").status.success());
    let token = plutino(&["token", "create", "--key", "ops.key"], "", "");
    let token = String::from_utf8(token.stdout).expect("a token");
    for folder in &pair.folders {
        folder.write("etc/plutino.yaml", "basic: {authentication: true}");
        let key = std::fs::read_to_string(pair.folders[0].path("ops.pub")).expect("the public key");
        folder.write("etc/mgmt/ops.pub", &key);
    }
    let processes = pair.start().await;
    let (rule, sql) = (rule("pass", "SELECT n FROM demo", json!({})).to_string(), stream("demo", "", ""));
    for (arguments, says) in [
        (&["create", "stream", "demo", sql.trim_start_matches("CREATE STREAM demo ")][..], "Stream demo is created."),
        (&["create", "rule", "pass", &rule][..], "Rule pass was created"),
        (&["show", "rules"][..], "\"pass\""),
        (&["stop", "rule", "pass"][..], "Rule pass was stopped."),
        (&["drop", "rule", "pass"][..], "Rule pass is dropped."),
    ] {
        let done = plutino(arguments, token.trim(), &processes[1].url(""));
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.contains(says), "{arguments:?}: {done:?}");
    }
}

#[tokio::test]
async fn what_needs_a_single_process_is_refused() {
    let pair = Pair::new("serve-alone");
    let processes = pair.start().await;
    create_stream(&processes[0], "demo").await;
    ask(&processes[0], "POST", "/rules", rule("pass", "SELECT n FROM demo", json!({}))).await;
    let table = "CREATE TABLE t (id BIGINT) WITH (TYPE=\"memory\", DATASOURCE=\"t\", KEY=\"id\", KIND=\"lookup\")";
    let trial = json!({"id": "try", "sql": "SELECT * FROM demo", "sinkProps": {"sendSingle": true}});
    for (method, path, body) in [
        ("POST", "/tables", json!({ "sql": table })),
        ("POST", "/ruletest", trial),
        ("GET", "/streams/demo/messages", Value::Null),
    ] {
        let answer = processes[0].asks(method, path, &body).await;
        assert!(answer.status >= 400, "{path}: {} {}", answer.status, answer.body);
        assert!(answer.body.contains("not possible with several processes"), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn what_another_process_refuses_is_undone() {
    let pair = Pair::new("serve-refuse");
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut second = pair.command(1);
    second.env(super::process::serve::DATA_PORT, busy.local_addr().expect("it is bound").port().to_string());
    let mut processes = pair.start_with([pair.command(0), second]).await;
    // A file that only one machine has.
    pair.folders[0].write("data/t.json", "[{\"id\": 1}]");
    let table = "CREATE TABLE t (id BIGINT) WITH (TYPE=\"file\", DATASOURCE=\"t.json\", KEY=\"id\", KIND=\"lookup\")";
    let answer = processes[0].asks("POST", "/tables", &json!({ "sql": table })).await;
    assert!(answer.status >= 400 && answer.body.contains("process 1 (127.0.0.1:"), "{} {}", answer.status, answer.body);
    assert_eq!(processes[0].asks("GET", "/tables", &Value::Null).await.json(), json!([]));
    pair.folders[1].write("data/t.json", "[{\"id\": 1}]");
    ask(&processes[0], "POST", "/tables", json!({ "sql": table })).await;

    // A port that only one machine lacks: the rule exists, and its status names the process.
    create_stream(&processes[0], "demo").await;
    ask(&processes[0], "POST", "/rules", rule("pass", "SELECT n FROM demo", json!({}))).await;
    let shown = status(&processes[0], "pass").await;
    assert_eq!(shown["status"], "stopped by error", "{shown}");
    let message = shown["message"].as_str().expect("a text");
    assert!(message.starts_with("process 1 (127.0.0.1:") && message.contains("in use"), "{message}");
    drop(busy);
    ask(&processes[0], "POST", "/rules/pass/start", Value::Null).await;
    let (mut sender, mut receiver) = (connect(&processes[0], "/demo").await, connect(&processes[0], "/pass").await);
    send(&mut sender, "{\"n\": 1}").await;
    assert_eq!(next(&mut receiver).await, Some(json!({"n": 1})));
    processes.iter_mut().for_each(Served::kill);
}

#[tokio::test]
async fn a_look_at_rows_shows_those_of_all_processes() {
    let pair = Pair::new("serve-tap");
    let processes = pair.start().await;
    create_stream(&processes[0], "demo").await;
    ask(&processes[0], "POST", "/rules", rule("pass", "SELECT n FROM demo", json!({}))).await;
    let mut senders = clients(&processes, "/demo").await;
    let rest = processes[0].rest.clone();
    let tapped = tokio::task::spawn_blocking(move || {
        super::process::serve::ask(&rest, "GET", "/rules/pass/tap?op=project&limit=2", "", "").expect("it ends")
    });
    // It may begin late: each message is sent until both are seen.
    while !tapped.is_finished() {
        for (n, sender) in senders.iter_mut().enumerate() {
            send(sender, json!({"n": n}).to_string()).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let shown = tapped.await.expect("no panic").done();
    assert_eq!(shown.matches("data: ").count(), 2, "{shown}");
    let rest = processes[0].rest.clone();
    let mut sender = connect(&processes[1], "/demo").await;
    let tapped = tokio::task::spawn_blocking(move || {
        super::process::serve::ask(&rest, "GET", "/rules/pass/tap?op=source&limit=3", "", "").expect("it ends")
    });
    while !tapped.is_finished() {
        send(&mut sender, "{\"n\": 7}").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let shown = tapped.await.expect("no panic").done();
    assert_eq!(shown.matches("\"n\": 7").count(), 3, "only process 1 has messages: {shown}");
}

#[tokio::test]
async fn uploads_are_in_all_processes() {
    let pair = Pair::new("serve-uploads");
    let mut processes = pair.start().await;
    let upload = json!({"name": "t.json", "content": "[{\"id\": 1, \"name\": \"one\"}]"});
    ask(&processes[0], "POST", "/config/uploads", upload).await;
    let table = "CREATE TABLE t (id BIGINT, name STRING) WITH (TYPE=\"file\", DATASOURCE=\"uploads/t.json\", KEY=\"id\", \
                 KIND=\"lookup\")";
    ask(&processes[0], "POST", "/tables", json!({ "sql": table })).await;
    create_stream(&processes[0], "demo").await;
    let joined = "SELECT demo.n, t.name FROM demo INNER JOIN t ON demo.n = t.id";
    ask(&processes[0], "POST", "/rules", rule("joined", joined, json!({}))).await;
    let mut receiver = connect(&processes[1], "/joined").await;
    for sender in &mut clients(&processes, "/demo").await {
        send(sender, "{\"n\": 1}").await;
        assert_eq!(next(&mut receiver).await, Some(json!({"n": 1, "name": "one"})));
    }
    ask(&processes[0], "POST", "/config/uploads", json!({"name": "gone.txt", "content": "x"})).await;
    assert!(pair.folders[1].path("data/uploads/gone.txt").exists());
    ask(&processes[0], "DELETE", "/config/uploads/gone.txt", Value::Null).await;
    assert!(!pair.folders[1].path("data/uploads/gone.txt").exists());
    // A process that was away gets them at the start, and keeps no others.
    processes[0].signal("-TERM");
    for process in &mut processes {
        process.ends();
    }
    std::fs::remove_file(pair.folders[1].path("data/uploads/t.json")).expect("it is there");
    pair.folders[1].write("data/uploads/old.txt", "x");
    let processes = pair.start().await;
    processes[0].states();
    let mut receiver = connect(&processes[0], "/joined").await;
    for sender in &mut clients(&processes, "/demo").await {
        send(sender, "{\"n\": 1}").await;
        assert_eq!(next(&mut receiver).await, Some(json!({"n": 1, "name": "one"})));
    }
    assert!(!pair.folders[1].path("data/uploads/old.txt").exists());
}

#[tokio::test]
async fn many_change_at_once() {
    let pair = Pair::new("serve-many");
    let processes = pair.start().await;
    let leader = &processes[0];
    create_stream(leader, "demo").await;
    let works = (0..12).map(|number| async move {
        let id = format!("r{number}");
        let sql = format!("SELECT n, {number} AS number FROM demo");
        for _ in 0..3 {
            ask(leader, "POST", "/rules", rule(&id, &sql, json!({}))).await;
            ask(leader, "PUT", &format!("/rules/{id}"), rule(&id, &sql, json!({"qos": 1}))).await;
            ask(leader, "DELETE", &format!("/rules/{id}"), Value::Null).await;
        }
        ask(leader, "POST", "/rules", rule(&id, &sql, json!({}))).await;
    });
    join_all(works).await;
    let mut sender = connect(&processes[1], "/demo").await;
    for number in 0..12 {
        let mut receiver = connect(leader, &format!("/r{number}")).await;
        send(&mut sender, "{\"n\": 7}").await;
        assert_eq!(next(&mut receiver).await, Some(json!({"n": 7, "number": number})));
    }
}

#[tokio::test]
async fn conf_keys_connections_and_schedules_are_those_of_process_0() {
    let pair = Pair::new("serve-catalog");
    let mut processes = pair.start().await;
    let limit = json!({"maxMessageSize": 100});
    ask(&processes[0], "PUT", "/metadata/sources/websocket/confKeys/limited", limit).await;
    let sql = stream("demo", "", ", CONF_KEY=\"limited\"");
    ask(&processes[0], "POST", "/streams", json!({ "sql": sql })).await;
    ask(&processes[0], "POST", "/rules", rule("pass", "SELECT n FROM demo", json!({}))).await;
    let connection = json!({"id": "kept", "typ": "websocket", "props": {"datasource": "/kept"}});
    ask(&processes[0], "POST", "/connections", connection).await;
    let brief = rule("brief", "SELECT n FROM demo", json!({"duration": "300ms"}));
    ask(&processes[0], "POST", "/rules", brief).await;
    let began = Instant::now();
    while status(&processes[1], "brief").await["status"] != "stopped" {
        assert!(began.elapsed() < AFTERLIFE, "its time is over");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status(&processes[1], "brief").await["message"], "duration terminated");
    // The same after a restart, when the catalog is handed over.
    for round in 0..2 {
        connect(&processes[1], "/kept").await;
        let mut sender = connect(&processes[1], "/demo").await;
        send(&mut sender, json!({"n": "x".repeat(200)}).to_string()).await;
        let end = futures_util::StreamExt::next(&mut sender).await;
        assert!(!matches!(end, Some(Ok(tokio_tungstenite::tungstenite::Message::Text(_)))), "{end:?}");
        let (mut sender, mut receiver) = (connect(&processes[1], "/demo").await, connect(&processes[1], "/pass").await);
        send(&mut sender, "{\"n\": 1}").await;
        assert_eq!(next(&mut receiver).await, Some(json!({"n": 1})));
        if round == 0 {
            processes[0].signal("-TERM");
            for process in &mut processes {
                process.ends();
            }
            let said = processes[0].has_said();
            assert!(said.contains("stopped 1 rule in"), "{said}");
            processes = pair.start().await;
            processes[0].states();
        }
    }
    ask(&processes[0], "DELETE", "/connections/kept", Value::Null).await;
    assert!(connect_async(processes[1].data_url("/kept")).await.is_err(), "the endpoint is gone everywhere");
}

#[tokio::test]
async fn a_connection_that_one_process_lacks_is_not_connected() {
    let pair = Pair::new("serve-connection");
    let processes = pair.start().await;
    let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = peer.local_addr().expect("it is bound").to_string();
    // Only the first that dials is answered.
    let answering = tokio::spawn(async move {
        let first = tokio_tungstenite::accept_async(peer.accept().await.expect("one dials").0).await;
        loop {
            drop(peer.accept().await.map(|(socket, _)| (socket, &first)));
        }
    });
    let connection = json!({"id": "far", "typ": "websocket", "props": {"datasource": "/far", "addr": address}});
    ask(&processes[0], "POST", "/connections", connection).await;
    let began = Instant::now();
    loop {
        let shown = processes[0].asks("GET", "/connections/far", &Value::Null).await.json();
        if shown["status"] == "disconnected" {
            break;
        }
        assert!(began.elapsed() < AFTERLIFE, "{shown}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answering.abort();
}

#[tokio::test]
async fn a_time_zone_without_a_name_is_refused() {
    let pair = Pair::new("serve-zone");
    let commands = [0, 1].map(|process| {
        let mut command = pair.command(process);
        command.env("TZ", "XYZ-3");
        command
    });
    let processes = pair.start_with(commands).await;
    let answer = processes[0].asks("PATCH", "/configs", &json!({"timezone": "local"})).await;
    assert!(answer.status >= 400, "{}", answer.status);
    assert!(answer.body.contains("without an IANA name"), "{}", answer.body);
}
