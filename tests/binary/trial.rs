//! Trials, the query shell and the options of rules, over REST against the real binary.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::serve::{DATA_PORT, Folder, LIMIT, Served};

/// A service with its own folder.
struct Service {
    served: Served,
    folder: Folder,
}

impl Service {
    fn start(name: &str) -> Service {
        let folder = Folder::new(&format!("trial-{name}"));
        Service { served: folder.serve(), folder }
    }

    /// With this port for the data server.
    fn start_with(name: &str, port: u16) -> Service {
        let folder = Folder::new(&format!("trial-{name}"));
        let mut command = folder.command();
        command.env(DATA_PORT, port.to_string());
        Service { served: Served::start(command), folder }
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let answer = self.served.ask(method, path, body);
        (answer.status, answer.body)
    }

    fn post(&self, path: &str, body: Value) -> Value {
        let (status, text) = self.ask("POST", path, &body);
        assert!((200..300).contains(&status), "{path} {body}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }

    /// The message of a refused request.
    fn refused(&self, path: &str, body: Value) -> String {
        let (status, text) = self.ask("POST", path, &body);
        assert_eq!(status, 400, "{path} {body}: {text}");
        let said: Value = serde_json::from_str(&text).expect("errors are JSON");
        said["message"].as_str().unwrap_or_default().to_owned()
    }

    fn stream(&self, name: &str) {
        let sql = format!("CREATE STREAM {name} () WITH (DATASOURCE=\"{name}\", TYPE=\"memory\", FORMAT=\"json\")");
        self.post("/streams", json!({ "sql": sql }));
    }

    fn status(&self, rule: &str) -> Value {
        let (_, text) = self.ask("GET", &format!("/rules/{rule}/status"), &Value::Null);
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Waits until a rule's status has this state; returns its message.
    fn reaches(&self, rule: &str, state: &str) -> String {
        let begun = Instant::now();
        loop {
            let status = self.status(rule);
            if status["status"] == state {
                return status["message"].as_str().unwrap_or_default().to_owned();
            }
            assert!(begun.elapsed() < LIMIT, "{rule} never is {state}: {status}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Opens the results of a trial; the data of its events come line by line.
    fn events(&self, trial: &Value) -> impl Iterator<Item = Value> + use<> {
        let (port, id) = (&trial["port"], trial["id"].as_str().unwrap_or_default());
        let agent = ureq::Agent::config_builder().timeout_global(Some(LIMIT)).build();
        let answer = ureq::Agent::from(agent).get(format!("http://127.0.0.1:{port}/test/{id}")).call();
        let answer = answer.expect("the results are there");
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        assert_eq!(header("content-type").as_deref(), Some("text/event-stream"));
        assert_eq!(header("access-control-allow-origin").as_deref(), None);
        let lines = BufReader::new(answer.into_body().into_reader()).lines();
        lines.map_while(Result::ok).filter_map(|line| {
            let data = line.strip_prefix("data: ")?;
            Some(serde_json::from_str(data).unwrap_or_else(|_| Value::String(data.to_owned())))
        })
    }
}

#[test]
fn a_trial_runs_on_its_own_rows() {
    let service = Service::start("rows");
    service.stream("demo");
    let rule = json!({"id": "real", "sql": "SELECT * FROM demo", "actions": [{"nop": {}}]});
    service.post("/rules", rule);
    let rows = json!({"demo": {"data": [{"id": 1}, {"id": "x"}, {"id": 3}], "interval": 5, "loop": false}});
    let trial = json!({"id": "t", "sql": "SELECT id * 2 AS d FROM demo", "mockSource": rows,
        "sinkProps": {"sendSingle": true}});
    let made = service.post("/ruletest", trial);
    let mut events = service.events(&made);
    assert_eq!(service.post("/ruletest/t/start", Value::Null), "Test rule t was started");
    assert_eq!(events.next(), Some(json!({"d": 2})));
    let error = events.next().expect("errors are sent, too").to_string();
    assert!(error.contains("int") || error.contains("operation"), "{error}");
    assert_eq!(events.next(), Some(json!({"d": 6})));
    // A rule on the real stream has received nothing, and a trial is not a rule.
    let status = service.status("real");
    assert_eq!(status["source_demo_0_records_in_total"], 0, "{status}");
    assert_eq!(service.status("t")["error"], 1002);
    assert_eq!(service.ask("DELETE", "/ruletest/t", &Value::Null), (200, "Test rule t was stopped.".to_owned()));
    assert_eq!(events.next(), None);
    assert_eq!(service.ask("DELETE", "/ruletest/t", &Value::Null).0, 200);
}

#[test]
fn a_trial_loops_counts_windows_and_is_replaced() {
    let service = Service::start("loop");
    service.stream("demo");
    let trial = json!({"id": "t", "sql": "SELECT count(*) AS n FROM demo GROUP BY COUNTWINDOW(4)",
        "mockSource": {"demo": {"data": [{"id": 1}], "interval": 1, "loop": true}}});
    let made = service.post("/ruletest", trial.clone());
    let mut first = service.events(&made);
    service.post("/ruletest/t/start", Value::Null);
    assert_eq!((first.next(), first.next()), (Some(json!([{"n": 4}])), Some(json!([{"n": 4}]))));
    service.post("/ruletest", trial);
    // The stream of the previous trial ends, whatever still waits in it.
    assert!(first.all(|row| row == json!([{"n": 4}])));
}

#[test]
fn wrong_trials_are_refused() {
    let service = Service::start("wrong");
    service.stream("demo");
    let trial = |sql: &str| json!({"id": "t", "sql": sql, "mockSource": {}, "sinkProps": {}});
    for (sql, said) in [
        ("SELEC", "fail to run rule t: SQL SELEC is not a select statement."),
        ("SELECT nosuch(1) FROM demo", "fail to run rule t: "),
        ("SELECT * FROM none", "fail to run rule t: fail to get stream none"),
    ] {
        let message = service.refused("/ruletest", trial(sql));
        assert!(message.starts_with(said), "{message}");
    }
    let message = service.refused("/ruletest", json!({"id": "t", "sql": 5}));
    assert!(message.starts_with("fail to parse rule definition "), "{message}");
    let big = json!({"id": "t", "sql": "SELECT * FROM demo",
        "mockSource": {"demo": {"data": [{"a": "x".repeat(2 << 20)}]}}});
    assert!(service.refused("/ruletest", big).contains("give it fewer"));
    let message = service.refused("/ruletest/nosuch/start", Value::Null);
    assert_eq!(message, "start rule error: try to start test rule nosuch but it is not found");
}

#[test]
fn trials_are_bounded() {
    let service = Service::start("many");
    service.stream("demo");
    let trial = |id: usize| json!({"id": format!("t{id}"), "sql": "SELECT * FROM demo"});
    for id in 0..64 {
        service.post("/ruletest", trial(id));
    }
    assert!(service.refused("/ruletest", trial(64)).contains("there are 64 trials already"));
    service.ask("DELETE", "/ruletest/t0", &Value::Null);
    service.post("/ruletest", trial(64));
}

#[test]
fn the_shell_prints_results_and_points_at_mistakes() {
    let service = Service::start("shell");
    service.folder.write("data/rows.json", r#"[{"id": 7}, {"id": 8}]"#);
    service.post("/streams", json!({"sql": "CREATE STREAM demo () WITH (DATASOURCE=\"rows.json\", TYPE=\"file\")"}));
    let mut shell = Command::new(env!("CARGO_BIN_EXE_plutino"))
        .args(["query", "--url", &service.served.url("")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut input = shell.stdin.take().expect("stdin is a pipe");
    let mut lines = BufReader::new(shell.stdout.take().expect("stdout is a pipe")).lines().map_while(Result::ok);
    input.write_all(b"SELECT id FORM demo\nSELECT id FROM none\nSELECT id FROM demo;\n").expect("it reads");
    assert_eq!(lines.next().as_deref(), Some(r#"[{"id":7}]"#));
    assert_eq!(lines.next().as_deref(), Some(r#"[{"id":8}]"#));
    input.write_all(b"quit\n").expect("it reads");
    assert_eq!(lines.next(), None);
    let mut said = String::new();
    shell.stderr.take().expect("stderr is a pipe").read_to_string(&mut said).expect("errors are text");
    // Two statements of the pipe were refused.
    assert_eq!(shell.wait().expect("it ends").code(), Some(1));
    assert!(said.contains("1:11 | SELECT id FORM demo\n     |           ^^^^\nhint: did you mean FROM?"), "{said}");
    assert!(said.contains("fail to get stream none"), "{said}");
}

/// The results that a trial with these options sends for these rows.
fn results(service: &Service, sql: &str, options: Value, rows: Value, want: &Value) {
    let trial = json!({"id": "t", "sql": sql, "options": options, "sinkProps": {"sendSingle": true},
        "mockSource": {"demo": {"data": rows, "interval": 1}}});
    let made = service.post("/ruletest", trial);
    let events = service.events(&made);
    service.post("/ruletest/t/start", Value::Null);
    let count = want.as_array().map_or(0, Vec::len);
    let got: Vec<Value> = events.take(count).collect();
    assert_eq!(Value::Array(got), *want, "{sql} {options}");
}

#[test]
fn options_change_results() {
    let service = Service::start("results");
    let sql = "CREATE STREAM demo () WITH (DATASOURCE=\"demo\", TYPE=\"memory\", TIMESTAMP=\"ts\")";
    service.post("/streams", json!({ "sql": sql }));
    let rows = json!([{"ts": 1}, {"ts": 2, "a": 5}]);
    results(
        &service,
        "SELECT a FROM demo",
        json!({"sendNilField": true}),
        rows.clone(),
        &json!([{"a": null}, {"a": 5}]),
    );
    results(&service, "SELECT ts, a FROM demo", json!({}), rows, &json!([{"ts": 1}, {"ts": 2, "a": 5}]));
    let window = "SELECT count(*) AS n, window_start() AS s FROM demo GROUP BY TUMBLINGWINDOW(ss, 1)";
    let rows = json!([{"ts": 100}, {"ts": 1200}, {"ts": 200}, {"ts": 2200}, {"ts": 3400}]);
    let event_time = |late: Value| json!({"isEventTime": true, "lateTolerance": late});
    let want = json!([{"n": 1, "s": 0}, {"n": 1, "s": 1000}]);
    results(&service, window, event_time(json!(0)), rows.clone(), &want);
    let want = json!([{"n": 2, "s": 0}, {"n": 1, "s": 1000}]);
    results(&service, window, event_time(json!("1s")), rows, &want);
}

#[test]
fn options_change_the_life_of_a_rule() {
    let service = Service::start("life");
    service.stream("demo");
    let rule = |id: &str, more: Value| {
        let mut rule = json!({"id": id, "sql": "SELECT * FROM demo", "actions": [{"nop": {}}]});
        for (name, value) in more.as_object().into_iter().flatten() {
            rule[name] = value.clone();
        }
        service.post("/rules", rule);
    };
    rule("brief", json!({"options": {"duration": "50ms"}}));
    let begun = Instant::now();
    while service.status("brief")["message"] != "duration terminated" {
        assert!(begun.elapsed() < LIMIT, "{}", service.status("brief"));
        std::thread::sleep(Duration::from_millis(10));
    }
    let past = json!([{"begin": "2020-01-01 00:00:00", "end": "2020-01-02 00:00:00"}]);
    rule("past", json!({"options": {"cronDatetimeRange": past}}));
    service.reaches("past", "stopped: waiting for next schedule.");
    rule("cron", json!({"options": {"cron": "0 0 29 2 *", "duration": "1s"}}));
    service.reaches("cron", "stopped: waiting for next schedule.");
    assert!(service.status("cron")["nextStartTimestamp"].as_i64().is_some_and(|next| next > 0));
    rule("waits", json!({"triggered": false}));
    assert_eq!(service.status("waits")["status"], "stopped");
    rule("temp", json!({"temp": true, "tags": ["x"]}));
    service.reaches("temp", "running");
    assert_eq!(service.ask("GET", "/rules/temp", &Value::Null).0, 404);
    let (_, list) = service.ask("GET", "/rules", &Value::Null);
    let list: Value = serde_json::from_str(&list).expect("a list");
    let temp = list.as_array().into_iter().flatten().find(|rule| rule["id"] == "temp");
    assert_eq!(temp.map(|rule| &rule["tags"]), Some(&json!(["x"])));
    // Tuning options of eKuiper's engine are accepted, and change nothing.
    let tuned = json!({"bufferLength": 5, "concurrency": 2, "debug": true, "logFilename": "r.log",
        "disableBufferFullDiscard": true, "sendMetaToSink": true});
    rule("tuned", json!({ "options": tuned }));
    service.reaches("tuned", "running");
}

#[test]
fn wrong_options_are_refused() {
    let service = Service::start("options");
    service.stream("demo");
    for (options, said) in [
        (json!({"bufferLength": -1}), "invalidBufferLength:"),
        (json!({"concurrency": "x"}), "invalidConcurrency:"),
        (json!({"lateTolerance": -1}), "invalidLateTol:"),
        (json!({"isEventTime": 5}), "invalidIsEventTime:"),
        (json!({"sendError": "x"}), "invalidSendError:"),
        (json!({"debug": "x"}), "invalidDebug:"),
        (json!({"disableBufferFullDiscard": 5}), "invalidDisableBufferFullDiscard:"),
        (json!({"logFilename": "../x"}), "invalidLogFilename:"),
        (json!({"logFilename": 5}), "invalidLogFilename:"),
        (json!({"restartStrategy": {"attempts": -1}}), "invalidRestartAttempts:"),
        (json!({"restartStrategy": {"jitterFactor": 5}}), "invalidRestartJitterFactor:"),
        (json!({"restartStrategy": 5}), "invalidRestartStrategy:"),
        (json!({"cron": "nonsense", "duration": "1s"}), "invalid schedule: cron"),
        (json!({"cron": "0 0 1 1 *"}), "invalid schedule: cron needs a duration"),
        (json!({"duration": "soon"}), "invalidDuration:"),
        (json!({"cronDatetimeRange": [{"begin": "x", "end": "y"}]}), "invalidCronDatetimeRange:"),
    ] {
        let rule = json!({"id": "r", "sql": "SELECT * FROM demo", "actions": [{"nop": {}}], "options": options});
        let message = service.refused("/rules", rule);
        let wanted = format!("invalid rule json: Rule r has invalid options: {said}");
        assert!(message.starts_with(&wanted), "{options}: {message}");
    }
    assert_eq!(service.ask("GET", "/rules", &Value::Null).1, "[]");
}

#[test]
fn a_rule_that_fails_is_started_again() {
    // Another process has the data server's port first.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port();
    let service = Service::start_with("again", port);
    let sql = "CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")";
    service.post("/streams", json!({ "sql": sql }));
    for (id, attempts) in [("never", 0), ("again", 1000)] {
        let strategy =
            json!({"attempts": attempts, "delay": 20, "multiplier": 1, "maxDelay": "50ms", "jitterFactor": 0});
        let rule = json!({"id": id, "sql": "SELECT * FROM demo", "actions": [{"nop": {}}],
            "options": {"restartStrategy": strategy}});
        service.post("/rules", rule);
    }
    let message = service.reaches("never", "stopped by error");
    assert!(message.contains("in use"), "{message}");
    drop(taken);
    service.reaches("again", "running");
    assert_eq!(service.status("never")["status"], "stopped by error");
}
