//! `plutino run --hosts`: two processes with the same rules give the results of one, and neither outlives the other.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::process::folder::Folder;
use super::process::serve::{ask, free_port};
use super::process::{Client, LIMIT, Plutino, next, send, stream};

/// How long a process may outlive another one that dies: far less, unless the machine is overloaded.
const AFTERLIFE: Duration = Duration::from_secs(60);

fn hosts() -> String {
    format!("127.0.0.1:{},127.0.0.1:{}", free_port(), free_port())
}

/// Ends one process, and with it the other.
async fn end(processes: &mut [Plutino; 2]) {
    processes[0].terminate();
    assert_eq!(processes[0].exit_code().await, Some(0));
    assert_eq!(processes[1].exit_code().await, Some(4));
}

/// Two processes with these rules.
async fn pair(name: &str, rules: &Value, workers: &str) -> [Plutino; 2] {
    let hosts = hosts();
    let names = [format!("{name}-0"), format!("{name}-1")];
    let arguments = |process| ["--hosts", &hosts, "--process", process, "--workers", workers].map(str::to_owned);
    let (first, second) = (arguments("0"), arguments("1"));
    let (first, second) = (first.each_ref().map(String::as_str), second.each_ref().map(String::as_str));
    let (first, second) = tokio::join!(Plutino::run(&names[0], rules, &first), Plutino::run(&names[1], rules, &second));
    [first, second]
}

async fn clients(processes: &[Plutino; 2], path: &str) -> [Client; 2] {
    [processes[0].connect(path).await, processes[1].connect(path).await]
}

/// Rules without state, with state, and with an order over all rows.
fn rules() -> Value {
    let event_time = ", TIMESTAMP=\"at\"";
    json!({
        "streams": [stream("pass", "", ""), stream("sums", "", event_time), stream("counts", "", "")],
        "rules": [
            {"id": "pass", "sql": "SELECT n FROM pass", "actions": [{"websocket": {"path": "/passed", "sendSingle": true}}]},
            {
                "id": "sums",
                "sql": "SELECT k, count(*) AS c, sum(v) AS s FROM sums GROUP BY k, TUMBLINGWINDOW(ss, 10) ORDER BY k",
                "options": {"isEventTime": true, "lateTolerance": 20000},
                "actions": [{"websocket": {"path": "/summed"}}]
            },
            {"id": "seen", "sql": "SELECT v FROM sums", "actions": [{"websocket": {"path": "/seen", "sendSingle": true}}]},
            {
                "id": "counts",
                "sql": "SELECT count(*) AS c FROM counts GROUP BY COUNTWINDOW(10)",
                "actions": [{"websocket": {"path": "/counted", "sendSingle": true}}]
            }
        ]
    })
}

async fn one_answer(name: &str, workers: &str) {
    let mut processes = pair(name, &rules(), workers).await;
    // Results without state reach the clients of both processes, whichever made them.
    let (mut senders, mut receivers) = (clients(&processes, "/pass").await, clients(&processes, "/passed").await);
    for n in 0..20 {
        send(&mut senders[n % 2], json!({"n": n}).to_string()).await;
    }
    for receiver in &mut receivers {
        let mut came = Vec::new();
        while came.len() < 20 {
            came.push(next(receiver).await.expect("it goes on")["n"].as_u64().expect("a number"));
        }
        let (even, odd): (Vec<u64>, Vec<u64>) = came.iter().partition(|n| *n % 2 == 0);
        assert!(even.is_sorted() && odd.is_sorted(), "each sender's messages stay in order: {came:?}");
        came.sort_unstable();
        assert_eq!(came, (0..20).collect::<Vec<u64>>());
    }
    // Windows contain the rows of both processes, and close once both have passed their end.
    let (mut senders, mut receivers) = (clients(&processes, "/sums").await, clients(&processes, "/summed").await);
    let mut seen = clients(&processes, "/seen").await;
    for n in 0..40_u64 {
        let row = json!({"k": format!("k{}", n % 4 / 2), "v": n, "at": 1_000_000_000_000_u64 + n * 100});
        send(&mut senders[(n % 2) as usize], row.to_string()).await;
    }
    // The window ends only when all rows are in it, as a second rule shows.
    for seen in &mut seen {
        for _ in 0..40 {
            next(seen).await.expect("it goes on");
        }
    }
    for sender in &mut senders {
        send(sender, json!({"k": "end", "v": 0, "at": 1_000_000_060_000_u64}).to_string()).await;
    }
    let sum = |group: u64| (0..40).filter(|n| n % 4 / 2 == group).sum::<u64>();
    let expected = json!([{"k": "k0", "c": 20, "s": sum(0)}, {"k": "k1", "c": 20, "s": sum(1)}]);
    for receiver in &mut receivers {
        assert_eq!(next(receiver).await, Some(expected.clone()));
    }
    // One count over the rows of both.
    let (mut senders, mut receivers) = (clients(&processes, "/counts").await, clients(&processes, "/counted").await);
    for n in 0..30 {
        send(&mut senders[usize::from(n % 3 == 0)], "{}").await;
    }
    for receiver in &mut receivers {
        for _ in 0..3 {
            assert_eq!(next(receiver).await, Some(json!({"c": 10})));
        }
    }
    end(&mut processes).await;
}

#[tokio::test]
async fn two_processes_give_one_answer() {
    one_answer("cluster-one", "1").await;
}

#[tokio::test]
async fn so_do_two_processes_of_two_threads() {
    one_answer("cluster-two", "2").await;
}

/// Messages of many rows with few keys: each process accumulates what it receives, and groups go to the other one.
#[tokio::test]
async fn processes_send_groups_for_windows_that_both_have_rows_of() {
    let sql = "SELECT k, count(*) AS c, sum(v) AS s, avg(v) AS a, min(t) AS lo, max(t) AS hi, stddev(v) AS d, \
               count(DISTINCT v) AS n, window_end() AS e FROM grouped GROUP BY k, HOPPINGWINDOW(ss, 10, 5) \
               HAVING count(*) > 100 ORDER BY k LIMIT 3";
    let options = json!({"isEventTime": true, "lateTolerance": 20000});
    let rule = |id: &str, options: Value| json!({"id": id, "sql": sql, "options": options, "actions": [{"websocket": {"path": format!("/{id}")}}]});
    let rules = json!({
        "streams": [stream("grouped", "", ", TIMESTAMP=\"at\"")],
        "rules": [
            rule("groups", options),
            {"id": "rows", "sql": "SELECT v FROM grouped", "actions": [{"websocket": {"path": "/rows", "sendSingle": true}}]}
        ]
    });
    let mut processes = pair("cluster-groups", &rules, "2").await;
    let (mut senders, mut seen) = (clients(&processes, "/grouped").await, clients(&processes, "/rows").await);
    let mut receivers = clients(&processes, "/groups").await;
    let start = 1_000_000_000_000_u64;
    let row = |n: u64| json!({"k": n % 4, "v": n % 50, "t": format!("t{}", n % 7), "at": start + n * 10});
    let (messages, rows) = (40, 50);
    for message in 0..messages {
        let all: Vec<Value> = (0..rows).map(|number| row(message * rows + number)).collect();
        send(&mut senders[(message % 2) as usize], json!(all).to_string()).await;
    }
    for _ in 0..messages * rows {
        next(&mut seen[0]).await.expect("it goes on");
    }
    for sender in &mut senders {
        send(sender, json!({"k": 9, "v": 0, "t": "", "at": start + 100_000}).to_string()).await;
    }
    // The windows are [-5 s, 5 s), [0, 10 s) …; each key has a quarter of the rows.
    let expected = |from: u64, to: u64, end: u64| {
        let group = |k: u64| {
            let v: Vec<f64> = (from..to).filter(|n| n % 4 == k).map(|n| (n % 50) as f64).collect();
            let mean = v.iter().sum::<f64>() / v.len() as f64;
            let spread = v.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / v.len() as f64;
            (k, v.len(), v.iter().sum::<f64>(), mean, spread.sqrt(), start + end)
        };
        (0..3).map(group).collect::<Vec<_>>()
    };
    for receiver in &mut receivers {
        for (from, to, end) in [(0, 500, 5_000), (0, 1_000, 10_000), (500, 1_500, 15_000), (1_000, 2_000, 20_000)] {
            let window = next(receiver).await.expect("a window");
            let groups = window.as_array().expect("a list of groups");
            assert_eq!(groups.len(), 3, "{window}");
            for (group, (k, count, sum, mean, spread, end)) in groups.iter().zip(expected(from, to, end)) {
                assert_eq!((&group["k"], &group["c"], &group["e"]), (&json!(k), &json!(count), &json!(end)));
                assert_eq!((&group["lo"], &group["hi"], &group["n"]), (&json!("t0"), &json!("t6"), &json!(25)));
                let near = |name: &str, expected: f64| {
                    let found = group[name].as_f64().expect("a number");
                    assert!((found - expected).abs() < 1e-6, "{name} of {group} is not {expected}");
                };
                near("s", sum);
                near("a", mean);
                near("d", spread);
            }
        }
    }
    end(&mut processes).await;
}

#[tokio::test]
async fn a_slow_client_of_another_process_holds_the_engine_up_where_it_may() {
    let rules = json!({
        "streams": [stream("wide", "", "")],
        "rules": [{
            "id": "wide", "sql": "SELECT n, text FROM wide",
            "actions": [{"websocket": {
                "path": "/widened", "sendSingle": true, "slowClient": "block", "clientQueue": {"messages": 100}
            }}]
        }]
    });
    let processes = pair("cluster-block", &rules, "1").await;
    let mut receiver = processes[1].connect("/widened").await;
    let mut sender = processes[0].connect("/wide").await;
    let text = "x".repeat(10_000);
    let sending = tokio::spawn(async move {
        for n in 0..5_000 {
            send(&mut sender, json!({"n": n, "text": text}).to_string()).await;
        }
        sender
    });
    for n in 0..5_000 {
        assert_eq!(next(&mut receiver).await.expect("it goes on")["n"], n);
    }
    drop(sending.await.expect("all is sent"));
}

/// A rule that fails in one process closes its clients there at once, and its streams continue in the other.
#[tokio::test]
async fn a_rule_that_one_process_ends_holds_nobody_up() {
    // Homes follow from names: some are in each process.
    let ids = ["a", "b", "c", "d"];
    let counts = ids.map(|id| {
        json!({
            "id": id, "sql": "SELECT collect(text) AS texts FROM demo GROUP BY COUNTWINDOW(1000000)",
            "options": {"maxStateBytes": 20_000}, "actions": [{"websocket": {"path": format!("/{id}")}}]
        })
    });
    let pass = json!({"id": "pass", "sql": "SELECT n FROM demo", "actions": [{"websocket": {"path": "/passed", "sendSingle": true}}]});
    let rules: Vec<Value> = counts.into_iter().chain([pass]).collect();
    let rules = json!({"streams": [stream("demo", "", "")], "rules": rules});
    let mut processes = pair("cluster-ends", &rules, "1").await;
    let (mut senders, mut passed) = (clients(&processes, "/demo").await, clients(&processes, "/passed").await);
    // More than may be on their way to a rule.
    for n in 0..40_000 {
        send(&mut senders[n % 2], json!({"n": n, "text": "x".repeat(50)}).to_string()).await;
        if n % 100 == 99 {
            for receiver in &mut passed {
                for _ in 0..100 {
                    next(receiver).await.expect("it goes on");
                }
            }
        }
    }
    end(&mut processes).await;
}

#[tokio::test]
async fn a_process_that_is_killed_ends_the_other() {
    let [mut first, mut second] = pair("cluster-kill", &rules(), "1").await;
    let mut receiver = second.connect("/passed").await;
    first.child.start_kill().expect("it runs");
    let killed = Instant::now();
    let said = second.says("process 0").await;
    assert!(said.contains("is gone: its connection was closed") && said.contains("restart all processes"), "{said}");
    assert_eq!(second.exit_code().await, Some(4));
    assert!(killed.elapsed() < AFTERLIFE, "{:?}", killed.elapsed());
    let end = timeout(LIMIT, receiver.next()).await.expect("its clients notice");
    assert!(!matches!(end, Some(Ok(Message::Text(_)))), "{end:?}");
}

#[tokio::test]
async fn a_process_that_ends_by_intention_says_so() {
    let [mut first, mut second] = pair("cluster-leave", &rules(), "1").await;
    let mut receiver = second.connect("/passed").await;
    first.terminate();
    assert_eq!(first.exit_code().await, Some(0));
    assert_eq!(next(&mut receiver).await, None, "clients of the other get a close frame");
    let said = second.says("process 0").await;
    assert!(said.contains(") has ended in order. This process ends too; start all processes again."), "{said}");
    assert_eq!(second.exit_code().await, Some(4));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_that_hangs_is_found() {
    let [first, mut second] = pair("cluster-hang", &rules(), "1").await;
    let pid = first.child.id().expect("it runs").to_string();
    assert!(std::process::Command::new("kill").args(["-STOP", &pid]).status().expect("kill runs").success());
    let said = second.says("process 0").await;
    assert!(said.contains("is gone: it was silent for 10 s"), "{said}");
    assert_eq!(second.exit_code().await, Some(4));
}

/// The end of a process that does not start: its exit code and its output.
async fn refusal(rules: &Value, name: &str, arguments: &[&str]) -> (Option<i32>, String) {
    refusal_at(0, rules, name, arguments).await
}

/// The same with this port of the data server.
async fn refusal_at(port: u16, rules: &Value, name: &str, arguments: &[&str]) -> (Option<i32>, String) {
    refusal_with(&[("KUIPER__SOURCE__HTTPSERVERPORT", &port.to_string())], rules, name, arguments).await
}

/// The same with these variables of the environment.
async fn refusal_with(
    variables: &[(&str, &str)],
    rules: &Value,
    name: &str,
    arguments: &[&str],
) -> (Option<i32>, String) {
    let folder = Folder::new(name);
    let path = folder.write("rules.json", &rules.to_string());
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_plutino"))
        .arg("run")
        .arg(&path)
        .args(arguments)
        .env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1")
        .env("KUIPER__SOURCE__HTTPSERVERPORT", "0")
        .envs(variables.iter().copied())
        .kill_on_drop(true)
        .output();
    let output = timeout(LIMIT, output).await.expect("it ends").expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test]
async fn a_process_whose_port_is_in_use_is_blamed() {
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = busy.local_addr().expect("it is bound").port();
    let (hosts, rules) = (hosts(), rules());
    let (zero, one) = (["--hosts", &hosts, "--process", "0"], ["--hosts", &hosts, "--process", "1"]);
    let (first, second) = tokio::join!(refusal(&rules, "blames", &zero), refusal_at(port, &rules, "blamed", &one));
    assert_eq!((first.0, second.0), (Some(4), Some(1)), "{first:?} {second:?}");
    assert!(first.1.contains("waiting for process 1 at 127.0.0.1:"), "{}", first.1);
    assert!(first.1.contains("process 1 (127.0.0.1:") && first.1.contains("cannot continue: "), "{}", first.1);
    assert!(first.1.contains(&port.to_string()) && second.1.contains(&port.to_string()), "{first:?} {second:?}");
}

#[tokio::test]
async fn processes_with_different_rules_refuse_each_other() {
    let (hosts, ours) = (hosts(), rules());
    let mut theirs = rules();
    theirs["rules"][0]["sql"] = json!("SELECT n AS m FROM pass");
    let (zero, one) = (["--hosts", &hosts, "--process", "0"], ["--hosts", &hosts, "--process", "1"]);
    let (first, second) = tokio::join!(refusal(&ours, "first", &zero), refusal(&theirs, "second", &one));
    for (code, said) in [&first, &second] {
        assert_eq!(*code, Some(1), "{said}");
        assert!(said.contains("differs in the rule files: it has "), "{said}");
    }
    let (code, said) = refusal(&ours, "outside", &["--hosts", &hosts, "--process", "2"]).await;
    assert_eq!(code, Some(2));
    assert!(said.contains("--process 2: --hosts names 2 processes, numbered from 0 to 1"), "{said}");
    let public = ["--hosts", "0.0.0.0:2101,127.0.0.1:2102", "--process", "0"];
    let (code, said) = refusal(&ours, "public", &public).await;
    assert_eq!(code, Some(1));
    assert!(said.contains("a public address") && said.contains("--allow-public"), "{said}");
}

/// A client may choose any process, so all must admit the same ones.
#[tokio::test]
async fn processes_with_different_tokens_refuse_each_other() {
    let (hosts, rules) = (hosts(), rules());
    let (zero, one) = (["--hosts", &hosts, "--process", "0"], ["--hosts", &hosts, "--process", "1"]);
    let token = [("KUIPER__SOURCE__HTTPSERVERTOKENS", "[very-secret]")];
    let (first, second) =
        tokio::join!(refusal_with(&token, &rules, "tokens-0", &zero), refusal_with(&[], &rules, "tokens-1", &one));
    for (code, said) in [&first, &second] {
        assert_eq!(*code, Some(1), "{said}");
        assert!(said.contains("differs in source.httpServerTokens: it has "), "{said}");
        assert!(said.contains("none") && said.contains("1 (sha256 "), "{said}");
        assert!(!said.contains("very-secret") && !said.contains("does not come from"), "{said}");
    }
}

#[tokio::test]
async fn a_host_that_cannot_be_resolved_is_named() {
    let folder = Folder::new("unresolved");
    let path = folder.write("rules.json", &rules().to_string());
    let hosts = format!("127.0.0.1:{},nosuchhost.invalid:2102", free_port());
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_plutino"))
        .arg("run")
        .arg(&path)
        .args(["--hosts", &hosts, "--process", "0"])
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let mut said = BufReader::new(child.stderr.take().expect("stderr is a pipe")).lines();
    let named = async {
        loop {
            let line = said.next_line().await.expect("stderr is text").expect("it waits");
            if line.contains("waiting for process 1 at nosuchhost.invalid:2102 (cannot resolve nosuchhost.invalid: ") {
                break;
            }
        }
    };
    timeout(LIMIT, named).await.expect("it says what it waits for");
}

/// `--console` in all processes: process 0 shows the sums over all, the others lead there.
#[tokio::test]
async fn the_console_of_process_0_shows_all_processes() {
    let ports = [free_port(), free_port()];
    let hosts = hosts();
    let run = async |process: usize| {
        let (number, console) = (process.to_string(), format!("--console={}", ports[process]));
        let arguments = ["--hosts", &*hosts, "--process", &number, &console];
        Plutino::run(&format!("cluster-console-{process}"), &rules(), &arguments).await
    };
    let (first, second) = tokio::join!(run(0), run(1));
    let mut processes = [first, second];
    let request = async |process: usize, path: &str| {
        let (at, path) = (format!("127.0.0.1:{}", ports[process]), path.to_owned());
        let asked = tokio::task::spawn_blocking(move || ask(&at, "GET", &path, "", ""));
        asked.await.expect("a request ends").expect("it is answered")
    };
    let mut sender = processes[1].connect("/pass").await;
    let mut receiver = processes[1].connect("/passed").await;
    for n in 0..3 {
        send(&mut sender, json!({"n": n}).to_string()).await;
        next(&mut receiver).await.expect("it goes on");
    }
    let status: Value = serde_json::from_str(&request(0, "/rules/pass/status?details").await.body).expect("JSON");
    assert_eq!(status["sources"][0]["messages"], 3, "{status}");
    assert_eq!(status["processes"].as_array().map(Vec::len), Some(2), "{status}");
    assert_eq!(status["diagnosis"], json!([]), "{status}");
    let overview: Value = serde_json::from_str(&request(0, "/overview").await.body).expect("JSON");
    assert_eq!(overview["in"], 3, "{overview}");
    // The other one knows its own share, and leads to process 0 for everything else.
    let share: Value = serde_json::from_str(&request(1, "/rules/pass/status").await.body).expect("JSON");
    assert_eq!(share["shareOf"], 1, "{share}");
    let elsewhere = request(1, "/overview").await;
    assert_eq!(elsewhere.status, 307, "{}", elsewhere.body);
    end(&mut processes).await;
}

#[tokio::test]
async fn a_console_is_in_all_processes_or_in_none() {
    let (hosts, rules) = (hosts(), rules());
    let (zero, one) = (["--hosts", &hosts, "--process", "0", "--console=0"], ["--hosts", &hosts, "--process", "1"]);
    let (first, second) = tokio::join!(refusal(&rules, "shown", &zero), refusal(&rules, "unshown", &one));
    for (code, said) in [&first, &second] {
        assert_eq!(*code, Some(1), "{said}");
        assert!(said.contains("differs in the option --console: it has "), "{said}");
    }
}
