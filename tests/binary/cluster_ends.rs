//! `plutino serve --hosts`: how two processes start and end, and what survives.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use super::cluster_service::{AFTERLIFE, SUMS, ask, clients, connect, create_stream, rule};
use super::process::pair::Pair;
use super::process::serve::{Served, refused};
use super::process::{next, send};

async fn create_sums(served: &Served, interval: &str) {
    create_stream(served, "demo").await;
    let window = "SELECT count(*) AS c, sum(n) AS s FROM demo GROUP BY COUNTWINDOW(4)";
    let options = json!({"qos": 1, "checkpointInterval": interval});
    ask(served, "POST", "/rules", rule("window", window, options)).await;
    for id in SUMS {
        let options = json!({"qos": 1, "checkpointInterval": interval});
        ask(served, "POST", "/rules", rule(id, "SELECT acc_sum(n) AS s FROM demo", options)).await;
    }
}

/// Sends numbers to both processes, and reads the sums until they are this one.
async fn sums_become(processes: &[Served; 2], numbers: [u64; 2], sum: u64) {
    let mut receivers = Vec::new();
    for (number, id) in SUMS.into_iter().enumerate() {
        receivers.push(connect(&processes[number % 2], &format!("/{id}")).await);
    }
    let mut senders = clients(processes, "/demo").await;
    for (sender, number) in senders.iter_mut().zip(numbers) {
        send(sender, json!({"n": number}).to_string()).await;
    }
    for receiver in &mut receivers {
        next(receiver).await.expect("it goes on");
        assert_eq!(next(receiver).await, Some(json!({"s": sum})));
    }
}

#[tokio::test]
async fn sums_go_on_after_a_kill() {
    let pair = Pair::new("serve-kill");
    let [mut first, mut second] = {
        let processes = pair.start().await;
        create_sums(&processes[0], "100ms").await;
        sums_become(&processes, [1, 2], 3).await;
        let reports = SUMS.into_iter().chain(["window"]).map(|id| format!("rule=\"{id}\"")).collect::<Vec<_>>();
        // The states include everything that was received before they were requested.
        let began = Instant::now();
        while !reports.iter().all(|rule| {
            let said = processes[0].has_said();
            said.lines()
                .any(|line| line.contains("its state is on disk") && line.contains(rule) && line.contains("changes=2"))
        }) {
            assert!(began.elapsed() < Duration::from_secs(60), "{}", processes[0].has_said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        processes
    };
    second.kill();
    let killed = Instant::now();
    let said = first.will_say(&["process 1"]).await;
    assert!(said.contains("is gone: its connection was closed"), "{said}");
    assert_eq!(first.ends().code(), Some(4));
    assert!(killed.elapsed() < AFTERLIFE, "{:?}", killed.elapsed());

    let processes = pair.start().await;
    processes[0].states();
    let mut windows = clients(&processes, "/window").await;
    sums_become(&processes, [10, 20], 33).await;
    for receiver in &mut windows {
        assert_eq!(next(receiver).await, Some(json!({"c": 4, "s": 33})));
    }
}

#[tokio::test]
async fn all_end_in_order_when_one_is_asked_to() {
    let pair = Pair::new("serve-end");
    for (ended, code, sum) in [(1, [4, 0], 3), (0, [0, 4], 6)] {
        let mut processes = pair.start().await;
        if sum == 3 {
            create_sums(&processes[0], "1h").await;
        }
        processes[0].states();
        sums_become(&processes, [1, 2], sum).await;
        processes[ended].signal("-TERM");
        let codes = processes.each_mut().map(|process| process.ends().code());
        let said = [processes[0].has_said(), processes[1].has_said()];
        assert_eq!(codes, code.map(Some), "{said:?}");
        assert!(said[0].contains("7 states on disk"), "{}", said[0]);
        if ended == 0 {
            assert!(
                said[1].contains("has ended in order, and process 0 has stored the states of rules"),
                "{}",
                said[1]
            );
        }
    }
}

#[tokio::test]
async fn a_rule_that_is_being_opened_elsewhere_does_not_delay_the_end() {
    let pair = Pair::new("serve-opening");
    let mut processes = pair.start().await;
    create_stream(&processes[0], "demo").await;
    let peer = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = peer.local_addr().expect("it is bound").to_string();
    let sink = json!({"path": "/x", "addr": address, "checkConnection": true, "handshakeTimeout": "60s"});
    let rule = json!({"id": "slow", "sql": "SELECT * FROM demo", "actions": [{"websocket": sink}]});
    let ending = async {
        // Process 0 dials first; process 1 gets no answer.
        let first = tokio_tungstenite::accept_async(peer.accept().await.expect("process 0 dials").0).await;
        let second = peer.accept().await.expect("process 1 dials");
        processes[0].signal("-TERM");
        (first, second, Instant::now())
    };
    let (answer, (_first, _second, began)) = tokio::join!(processes[0].asks("POST", "/rules", &rule), ending);
    assert_ne!(answer.status, 201, "{}", answer.body);
    assert!(processes[0].ends().success(), "{}", processes[0].has_said());
    assert!(began.elapsed() < AFTERLIFE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn states_of_a_process_that_does_not_answer_at_the_end_are_named() {
    let pair = Pair::new("serve-late");
    let mut processes = pair.start().await;
    // Homes follow from names: some are in each process.
    for name in ["p", "q", "r", "s"] {
        create_stream(&processes[0], name).await;
        let options = json!({"qos": 1, "checkpointInterval": "1h"});
        let sql = format!("SELECT acc_count(*) AS c FROM {name}");
        ask(&processes[0], "POST", "/rules", rule(&format!("counts-{name}"), &sql, options)).await;
    }
    processes[1].signal("-STOP");
    let began = Instant::now();
    processes[0].signal("-TERM");
    processes[0].ends();
    processes[1].signal("-CONT");
    assert!(began.elapsed() < AFTERLIFE, "{:?}", began.elapsed());
    let said = processes[0].has_said();
    assert!(said.contains("its last state was not stored in time"), "{said}");
}

#[tokio::test]
async fn processes_that_differ_refuse_each_other() {
    let pair = Pair::new("serve-differ");
    let mut second = pair.command(1);
    second.env("KUIPER__RULE__QOS", "1");
    let first = pair.command(0);
    let said = [first, second].map(|command| tokio::task::spawn_blocking(move || refused(command)));
    for said in join_all(said).await {
        let said = said.expect("it ends");
        assert!(said.contains("differs in rule.qos: it has "), "{said}");
    }
}

#[tokio::test]
async fn a_process_that_waits_says_so_and_one_that_fails_says_why() {
    let pair = Pair::new("serve-wait");
    // A store that cannot be opened.
    pair.folders[0].write("data", "this is not a folder");
    let first = pair.command(0);
    let first = tokio::task::spawn_blocking(move || refused(first));
    let mut second = pair.command(1);
    let second = tokio::task::spawn_blocking(move || second.output().expect("the binary starts"));
    let second = second.await.expect("it ends");
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(4), "{said}");
    assert!(said.contains("waiting for process 0 at 127.0.0.1:"), "{said}");
    assert!(
        said.contains("process 0 (127.0.0.1:") && said.contains("cannot continue: cannot open the store"),
        "{said}"
    );
    let said = first.await.expect("it ends");
    assert!(said.contains("cannot open the store"), "{said}");
}
