//! The results of a rule come in order, also to a client that reads slowly while the rule changes its sinks, stops and
//! starts.

use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio_tungstenite::{MaybeTlsStream, client_async};

use super::process::serve::{Folder, Served};
use super::process::{Client, next, send, stream};

/// Versions of each rule.
const VERSIONS: usize = 20;

/// Messages to each version: together with those of a few other versions they fill the buffers of a socket, so that
/// several versions have results that wait.
const MESSAGES: usize = 6;

/// Bytes of a message.
const SIZE: usize = 192 * 1024;

/// A client whose kernel takes little.
async fn slow(served: &Served, path: &str) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("the option is known");
    let address = format!("127.0.0.1:{}", served.data_port).parse().expect("an address");
    let socket = socket.connect(address).await.expect("the data server listens");
    let opened = client_async(served.data_url(path), MaybeTlsStream::Plain(socket)).await;
    opened.expect("the endpoint is there").0
}

/// A rule that passes messages on, and one that counts them.
const RULES: [(&str, &str); 2] =
    [("pass", "SELECT n, text FROM demo"), ("counts", "SELECT acc_count(*) AS n, text FROM demo")];

/// A version of a rule, whose sink is not that of the version before.
fn version(id: &str, sql: &str, number: usize) -> Value {
    let queue = json!({"messages": 10_000 + number, "bytes": 1 << 30});
    let sink = json!({"path": format!("/{id}"), "sendSingle": true, "clientQueue": queue});
    json!({"id": id, "sql": sql, "actions": [{"websocket": sink}], "options": {"qos": 1}})
}

async fn order(name: &str, workers: &str) {
    let folder = Folder::new(name);
    let mut command = folder.command();
    command.args(["--workers", workers]);
    let served = Served::start(command);
    served.asks("POST", "/streams", &json!({"sql": stream("demo", "", "")})).await.done();
    for (id, sql) in RULES {
        served.asks("POST", "/rules", &version(id, sql, 0)).await.done();
    }
    let mut sender = served.connect("/demo").await;
    let mut clients = [slow(&served, "/pass").await, slow(&served, "/counts").await];
    let (mut came, mut sent) = ([Vec::new(), Vec::new()], 0);
    let text = "x".repeat(SIZE);
    for number in 1..=VERSIONS {
        for _ in 0..MESSAGES {
            send(&mut sender, json!({"n": sent, "text": text}).to_string()).await;
            sent += 1;
        }
        for (id, sql) in RULES {
            if number % 4 == 0 {
                served.asks("POST", &format!("/rules/{id}/stop"), &Value::Null).await.done();
                served.asks("POST", &format!("/rules/{id}/start"), &Value::Null).await.done();
            } else {
                served.asks("PUT", &format!("/rules/{id}"), &version(id, sql, number)).await.done();
            }
        }
        for (client, came) in clients.iter_mut().zip(&mut came) {
            let row = next(client).await.expect("the sink stays");
            came.push(row["n"].as_u64().expect("a number"));
        }
    }
    send(&mut sender, json!({"n": sent, "text": "last"}).to_string()).await;
    for (((id, _), mut client), mut came) in RULES.into_iter().zip(clients).zip(came) {
        loop {
            let row = next(&mut client).await.expect("the sink stays");
            came.push(row["n"].as_u64().expect("a number"));
            if row["text"] == "last" {
                break;
            }
        }
        // What a client has not received a while after its version has ended is lost, so that numbers may be missing.
        assert!(came.is_sorted_by(|one, next| one < next), "{id}: {came:?}");
    }
}

#[tokio::test]
async fn a_slow_client_gets_the_results_of_all_versions_in_order() {
    order("order", "1").await;
}

#[tokio::test]
async fn so_it_does_from_three_data_threads() {
    order("order-three", "3").await;
}
