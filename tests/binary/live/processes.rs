//! Views of several processes: clients of all processes see the same rows, made of the messages that arrive at any
//! process.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::connect_async;

use super::client::{Live, frame};
use crate::process::pair::Pair;
use crate::process::serve::{Served, free_port};
use crate::process::{Client, Plutino, next, send, stream};

const TOTALS: &str = "CREATE VIEW totals WITH (CHECKPOINT=\"1h\") AS SELECT site, count(*) AS n, sum(v) AS total FROM demo GROUP BY site";
const NEWEST: &str = "CREATE VIEW newest WITH (KEY=\"id\", PARAMS=\"site,id\") AS SELECT id, site, v FROM demo";
const SITES: &str = "CREATE VIEW sites AS SELECT w.site, count(*) AS ids, max(t.n) AS n FROM newest AS w \
                     INNER JOIN totals AS t ON w.site = t.site GROUP BY w.site";

async fn make(served: &Served, path: &str, statements: &[&str]) {
    for sql in statements {
        served.asks("POST", path, &json!({"sql": sql})).await.done();
    }
}

async fn create_rule(served: &Served, id: &str, sql: &str) {
    let sink = json!({"websocket": {"path": format!("/{id}"), "sendSingle": true}});
    served.asks("POST", "/rules", &json!({"id": id, "sql": sql, "actions": [sink]})).await.done();
}

async fn connect(served: &Served, path: &str) -> Client {
    connect_async(served.data_url(path)).await.expect("the endpoint is there").0
}

async fn live(processes: &[Served; 2], path: &str) -> [Live; 2] {
    [Live::open(processes[0].data_port, path).await, Live::open(processes[1].data_port, path).await]
}

fn message(id: u64, site: &str, v: u64) -> String {
    json!({"id": id, "site": site, "v": v}).to_string()
}

async fn rows_are(clients: &mut [Live; 2], rows: &[Value], key: &str) {
    for client in clients {
        let expected = rows.iter().map(|row| (json!([row[key]]).to_string(), row.clone())).collect();
        client.until(|rows| *rows == expected).await;
    }
}

async fn all_processes_show_the_rows(name: &str, workers: usize) {
    let pair = Pair::new(name).with_workers(workers);
    let mut processes = pair.start().await;
    make(&processes[0], "/streams", &[&stream("demo", "", "")]).await;
    make(&processes[0], "/views", &[TOTALS, NEWEST]).await;
    let (mut totals, mut newest) =
        (live(&processes, "/live/totals").await, live(&processes, "/live/newest?site=b").await);
    let mut senders = [connect(&processes[0], "/demo").await, connect(&processes[1], "/demo").await];
    for n in 0..20_u64 {
        let site = if n < 10 { "a" } else { "b" };
        send(&mut senders[(n % 2) as usize], message(n % 12, site, n)).await;
    }
    let row = |site: &str, n: u64, total: u64| json!({"site": site, "n": n, "total": total});
    rows_are(&mut totals, &[row("a", 10, 45), row("b", 10, 145)], "site").await;
    for client in &mut newest {
        client.until(|rows| rows.len() == 10 && rows["[7]"]["v"] == 19).await;
    }
    // Process 0 has the rows; others send there.
    let rows = processes[0].asks("GET", "/views/totals/rows", &Value::Null).await.json();
    assert_eq!(rows["rows"].as_array().map(Vec::len), Some(2), "{rows}");
    let sent_on = processes[1].asks("GET", "/views/totals/rows", &Value::Null).await;
    assert_eq!(sent_on.headers["location"], processes[0].url("/views/totals/rows"));
    // Clients are known by their own addresses.
    let clients = processes[0].asks("GET", "/views/totals/clients", &Value::Null).await.json();
    let peers: Vec<&str> =
        clients.as_array().expect("a list").iter().filter_map(|peer| peer["peer"].as_str()).collect();
    assert_eq!(peers.len(), 2, "{clients}");
    for client in &totals {
        let own = match client.socket.get_ref() {
            tokio_tungstenite::MaybeTlsStream::Plain(socket) => socket.local_addr().expect("it is open").to_string(),
            _ => unreachable!("it is not TLS"),
        };
        assert!(peers.contains(&own.as_str()), "{own}: {clients}");
    }
    // Views over views that are created together, and rules that read views: their results go to clients of all
    // processes.
    make(&processes[0], "/views", &[SITES]).await;
    let mut sites = live(&processes, "/live/sites").await;
    rows_are(&mut sites, &[json!({"site": "a", "n": 10, "ids": 2}), json!({"site": "b", "n": 10, "ids": 10})], "site")
        .await;
    create_rule(&processes[0], "changes", "SELECT site, n FROM totals").await;
    create_rule(&processes[0], "joined", "SELECT d.v, t.site FROM demo AS d INNER JOIN newest AS t ON d.id = t.id")
        .await;
    let mut changes = [connect(&processes[0], "/changes").await, connect(&processes[1], "/changes").await];
    let mut joined = [connect(&processes[0], "/joined").await, connect(&processes[1], "/joined").await];
    for (n, sender) in senders.iter_mut().enumerate() {
        send(sender, message(3, "b", 100)).await;
        for receiver in &mut changes {
            assert_eq!(next(receiver).await, Some(json!({"site": "b", "n": 11 + n})));
        }
        for receiver in &mut joined {
            assert_eq!(next(receiver).await.map(|row| row["v"].clone()), Some(json!(100)));
        }
    }
    rows_are(&mut totals, &[row("a", 10, 45), row("b", 12, 345)], "site").await;
    // Another version with the same query: rows and clients stay, and its path moves in all processes.
    let moved = TOTALS.replace("CHECKPOINT", "PATH=\"/sums\", CHECKPOINT");
    processes[0].asks("PUT", "/views/totals", &json!({"sql": moved})).await.done();
    send(&mut senders[1], message(4, "a", 5)).await;
    rows_are(&mut totals, &[row("a", 11, 50), row("b", 12, 345)], "site").await;
    let mut again = live(&processes, "/sums").await;
    rows_are(&mut again, &[row("a", 11, 50), row("b", 12, 345)], "site").await;
    for process in &processes {
        assert!(connect_async(process.data_url("/live/totals")).await.is_err());
    }
    // After a restart, the stored rows are there.
    processes[0].signal("-TERM");
    for process in &mut processes {
        process.ends();
    }
    let processes = pair.start().await;
    processes[0].states();
    let mut totals = live(&processes, "/sums").await;
    rows_are(&mut totals, &[row("a", 11, 50), row("b", 12, 345)], "site").await;
    let mut sender = connect(&processes[1], "/demo").await;
    send(&mut sender, message(1, "c", 1)).await;
    rows_are(&mut totals, &[row("a", 11, 50), row("b", 12, 345), row("c", 1, 1)], "site").await;
    // A view that is dropped is gone everywhere.
    for rule in ["changes", "joined"] {
        processes[0].asks("DELETE", &format!("/rules/{rule}"), &Value::Null).await.done();
    }
    for view in ["sites", "totals"] {
        processes[0].asks("DELETE", &format!("/views/{view}"), &Value::Null).await.done();
    }
    for client in &mut totals {
        let end = loop {
            match frame(&mut client.socket).await {
                Some(frame) if frame["t"] == "unsubscribed" => break frame,
                Some(_) => {}
                None => panic!("clients are told"),
            }
        };
        assert_eq!(end["why"], "dropped");
    }
    for process in &processes {
        assert!(connect_async(process.data_url("/sums")).await.is_err());
    }
}

#[tokio::test]
async fn views_are_seen_in_all_processes() {
    all_processes_show_the_rows("live-processes", 1).await;
}

#[tokio::test]
async fn so_they_are_in_processes_of_two_threads() {
    all_processes_show_the_rows("live-processes-two", 2).await;
}

#[tokio::test]
async fn events_of_a_view_are_read_at_any_process() {
    let pair = Pair::new("live-processes-events");
    let processes = pair.start().await;
    make(&processes[0], "/streams", &[&stream("demo", "", "")]).await;
    make(&processes[0], "/views", &[TOTALS]).await;
    let mut sender = connect(&processes[0], "/demo").await;
    let mut socket = TcpStream::connect(("127.0.0.1", processes[1].data_port)).await.expect("it listens");
    let request = "GET /live/totals HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    socket.write_all(request.as_bytes()).await.expect("it reads");
    let mut came = String::new();
    let mut read = async |part: &str| {
        let mut bytes = [0; 4096];
        while !came.contains(part) {
            let count = tokio::time::timeout(crate::process::LIMIT, socket.read(&mut bytes)).await.expect("in time");
            let count = count.expect("the socket is whole");
            assert!(count > 0, "{came}");
            came.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    read("\"t\":\"ready\"").await;
    send(&mut sender, message(1, "a", 7)).await;
    read("\"total\":7").await;
}

#[tokio::test]
async fn claims_of_a_client_go_with_it() {
    let pair = Pair::new("live-processes-claims");
    let plutino = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_plutino"));
        let done = command.args(arguments).current_dir(&pair.folders[0].0).output().expect("the binary starts");
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).expect("text").trim().to_owned()
    };
    plutino(&["token", "key", "own.key"]);
    let key = std::fs::read_to_string(pair.folders[0].path("own.pub")).expect("the public key");
    for folder in &pair.folders {
        folder.write("etc/mgmt/own.pub", &key);
        folder.write("etc/plutino.yaml", "source: {httpServerJwt: {keys: [etc/mgmt/own.pub]}}");
    }
    let token = |site: &str| plutino(&["token", "create", "--key", "own.key", "--subject", site]);
    let processes = pair.start().await;
    make(&processes[0], "/streams", &[&stream("demo", "", "")]).await;
    make(
        &processes[0],
        "/views",
        &["CREATE VIEW own WITH (KEY=\"id\", CLAIMS=\"site=sub\") AS SELECT id, site, v FROM demo"],
    )
    .await;
    for process in &processes {
        assert!(connect_async(process.data_url("/live/own")).await.is_err(), "without a token nobody is let in");
    }
    let mut sender = connect(&processes[1], &format!("/demo?access_token={}", token("a"))).await;
    let mut clients = Vec::new();
    for (process, site) in [(0, "a"), (1, "a"), (1, "b")] {
        let path = format!("/live/own?access_token={}", token(site));
        clients.push((site, Live::open(processes[process].data_port, &path).await));
    }
    for (id, site) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        send(&mut sender, message(id, site, id)).await;
    }
    for (site, client) in &mut clients {
        client.until(|rows| rows.len() == 2).await;
        assert!(client.rows.values().all(|row| row["site"] == *site), "{:?}", client.rows);
    }
}

#[tokio::test]
async fn a_rule_file_with_views_runs_in_two_processes() {
    let rules = json!({
        "streams": [stream("demo", "", "")],
        "views": [TOTALS.replace(" WITH (CHECKPOINT=\"1h\")", ""), NEWEST, SITES],
        "rules": [{
            "id": "changes", "sql": "SELECT site, n FROM totals",
            "actions": [{"websocket": {"path": "/changes", "sendSingle": true}}]
        }]
    });
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", free_port(), free_port());
    let arguments = |process| ["--hosts", &hosts, "--process", process, "--workers", "2"];
    let (first, second) = (arguments("0"), arguments("1"));
    let (first, second) =
        tokio::join!(Plutino::run("live-run-0", &rules, &first), Plutino::run("live-run-1", &rules, &second));
    let mut senders = [first.connect("/demo").await, second.connect("/demo").await];
    let mut changes = [first.connect("/changes").await, second.connect("/changes").await];
    let mut totals = [Live::open(first.port, "/live/totals").await, Live::open(second.port, "/live/totals").await];
    for n in 0..10_u64 {
        send(&mut senders[(n % 2) as usize], message(n, "a", n)).await;
        for receiver in &mut changes {
            assert_eq!(next(receiver).await, Some(json!({"site": "a", "n": n + 1})));
        }
    }
    rows_are(&mut totals, &[json!({"site": "a", "n": 10, "total": 45})], "site").await;
    let mut sites = [Live::open(first.port, "/live/sites").await, Live::open(second.port, "/live/sites").await];
    rows_are(&mut sites, &[json!({"site": "a", "n": 10, "ids": 10})], "site").await;
}

/// A client that reads nothing at another process does not delay others, and nothing grows.
#[tokio::test]
async fn a_client_that_reads_nothing_holds_nobody_up() {
    let pair = Pair::new("live-processes-slow");
    let processes = pair.start().await;
    make(&processes[0], "/streams", &[&stream("demo", "", "")]).await;
    make(&processes[0], "/views", &[NEWEST]).await;
    let _silent = connect(&processes[1], "/live/newest").await;
    let mut live = Live::open(processes[1].data_port, "/live/newest").await;
    let mut sender = connect(&processes[1], "/demo").await;
    let wide = "x".repeat(10_000);
    for n in 0..3_000_u64 {
        send(&mut sender, json!({"id": n % 500, "site": wide, "v": n}).to_string()).await;
    }
    live.until(|rows| rows.len() == 500 && rows["[499]"]["v"] == 2999).await;
}
