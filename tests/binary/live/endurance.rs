//! What views survive: kills at any moment, clients with many subscriptions, and many clients that connect and
//! disconnect.

use std::collections::BTreeMap;

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Live, connect, frame, say};
use crate::process::serve::{Folder, Served};
use crate::process::{send, stream};

async fn begin(service: &Served, views: &[&str]) {
    service.asks("POST", "/streams", &json!({"sql": stream("telemetry", "", "")})).await.done();
    for sql in views {
        service.asks("POST", "/views", &json!({ "sql": sql })).await.done();
    }
}

async fn rows(service: &Served, view: &str) -> Vec<Value> {
    let answer = service.asks("GET", &format!("/views/{view}/rows"), &Value::Null).await.json();
    answer["rows"].as_array().expect("rows").clone()
}

/// The newest message of each id, as text, after this many messages.
fn newest(messages: &[Value]) -> BTreeMap<String, Value> {
    messages.iter().map(|message| (message["id"].to_string(), message.clone())).collect()
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_a_state_that_was() {
    let folder = Folder::new("live-kills");
    let mut service = folder.serve();
    let views = [
        "CREATE VIEW fleet WITH (KEY=\"id\", CHECKPOINT=\"20ms\") AS SELECT id, site, n FROM telemetry",
        "CREATE VIEW sites AS SELECT site, count(*) AS devices, sum(n) AS total FROM fleet GROUP BY site",
        "CREATE VIEW top WITH (KEY=\"id\") AS SELECT f.id, f.n, s.total FROM fleet AS f \
         INNER JOIN sites AS s ON f.site = s.site ORDER BY n DESC LIMIT 2",
    ];
    begin(&service, &views).await;
    let mut random = fastrand::Rng::with_seed(21);
    // The rows at the start of the service, and the messages sent since.
    let mut start: BTreeMap<String, Value> = BTreeMap::new();
    for _ in 0..4 {
        let mut feed = connect_async(service.data_url("/telemetry")).await.unwrap().0;
        let mut sent: Vec<Value> = start.values().cloned().collect();
        let known = sent.len();
        for n in 0..random.usize(50..400) {
            let site = ["a", "b", "c"][random.usize(0..3)];
            let message = json!({"id": random.u8(0..20), "site": site, "n": n});
            if feed.send(Message::text(message.to_string())).await.is_err() {
                break;
            }
            sent.push(message);
            if n % 40 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(random.u64(0..30))).await;
            }
        }
        service.kill();
        drop(service);
        service = folder.serve();
        let fleet: BTreeMap<String, Value> =
            rows(&service, "fleet").await.into_iter().map(|row| (row["id"].to_string(), row)).collect();
        let was = (known..=sent.len()).any(|count| newest(&sent[..count]) == fleet);
        assert!(was, "{fleet:?} was never the state of {sent:?}");
        // Views over it have the rows of this state, regardless of their earlier rows.
        let mut sites: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for row in fleet.values() {
            let site = sites.entry(row["site"].as_str().unwrap().to_owned()).or_default();
            *site = (site.0 + 1, site.1 + row["n"].as_u64().unwrap());
        }
        let total = |site: &Value| sites[site.as_str().unwrap()].1;
        let shown: BTreeMap<String, (u64, u64)> = rows(&service, "sites")
            .await
            .into_iter()
            .map(|row| {
                let number = |name: &str| row[name].as_u64().unwrap();
                (row["site"].as_str().unwrap().to_owned(), (number("devices"), number("total")))
            })
            .collect();
        assert_eq!(shown, sites);
        let mut top: Vec<Value> =
            fleet.values().map(|row| json!({"id": row["id"], "n": row["n"], "total": total(&row["site"])})).collect();
        top.sort_by_key(|row| (u64::MAX - row["n"].as_u64().unwrap(), row["id"].as_u64()));
        top.truncate(2);
        let mut found = rows(&service, "top").await;
        found.sort_by_key(|row| (u64::MAX - row["n"].as_u64().unwrap(), row["id"].as_u64()));
        assert_eq!(found, top);
        start = fleet;
    }
}

const FLEET: &str = "CREATE VIEW fleet WITH (KEY=\"id\") AS SELECT id, t FROM telemetry";

#[tokio::test]
async fn a_socket_with_a_thousand_subscriptions() {
    let folder = Folder::new("live-thousand");
    let service = folder.serve();
    begin(&service, &[FLEET]).await;
    let mut feed = connect_async(service.data_url("/telemetry")).await.unwrap().0;
    let mut socket = connect(service.data_port, "/live").await;
    let mut ids = BTreeMap::new();
    for id in 0..1_000 {
        say(&mut socket, &json!({"t":"subscribe","id":id,"view":"fleet","params":{"id":id}})).await;
        let mut ready = false;
        while !ready {
            let told = frame(&mut socket).await.expect("the socket is open");
            if told["t"] == "subscribed" {
                ids.insert(told["s"].as_u64().unwrap(), id);
            }
            ready = told["t"] == "ready";
        }
    }
    say(&mut socket, &json!({"t":"subscribe","id":"more","view":"fleet"})).await;
    assert_eq!(frame(&mut socket).await.unwrap()["code"], "too_many_subscriptions");
    for id in (0..1_000).step_by(37) {
        send(&mut feed, json!({"id":id,"t":1}).to_string()).await;
    }
    let mut told: Vec<u64> = Vec::new();
    while told.len() < 28 {
        let delta = frame(&mut socket).await.expect("the socket is open");
        if delta["t"] == "delta" {
            let row = &delta["insert"][0];
            assert_eq!(row["id"].as_u64().unwrap(), ids[&delta["s"].as_u64().unwrap()]);
            told.push(row["id"].as_u64().unwrap());
        }
    }
    drop(socket);
    while service.asks("GET", "/views/fleet/status", &Value::Null).await.json()["subscriptions"] != 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn clients_come_and_go_and_memory_returns() {
    let folder = Folder::new("live-come-and-go");
    let service = folder.serve();
    begin(&service, &["CREATE VIEW fleet WITH (KEY=\"id\", RETAIN=\"0s\") AS SELECT id, t FROM telemetry"]).await;
    let mut feed = connect_async(service.data_url("/telemetry")).await.unwrap().0;
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", service.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let mut memory = Vec::new();
    for round in 0..6 {
        let mut clients = Vec::new();
        for id in 0..200 {
            clients.push(Live::open(service.data_port, &format!("/live/fleet?id={id}&id=x{round}")).await);
        }
        for id in 0..200 {
            send(&mut feed, json!({"id":id,"t":round}).to_string()).await;
        }
        for (id, client) in clients.iter_mut().enumerate() {
            client.until_row(&json!([id]), &json!({"id":id,"t":round})).await;
        }
        drop(clients);
        while service.asks("GET", "/views/fleet/status", &Value::Null).await.json()["clients"] != 0 {
            tokio::task::yield_now().await;
        }
        memory.push(resident());
    }
    let grown = memory[5].saturating_sub(memory[1]);
    assert!(grown < 4_000, "resident KiB after each 200 clients: {memory:?}");
}
