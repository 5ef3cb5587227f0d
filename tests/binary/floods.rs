//! Peers of a running service that send pings without end and read nothing: the service's memory does not grow.
#![cfg(target_os = "linux")]

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::connect_async;

use crate::durability::resident;
use crate::process::serve::{Folder, LIMIT};

/// The size for each peer; the pongs to all of it would take as much.
const FLOOD: usize = 32 << 20;
const GROWTH_KIB: u64 = 24 << 10;

/// Sends pings of 125 bytes, and reads nothing.
async fn flood(mut peer: TcpStream, masked: bool) {
    let mut ping = vec![0x89, if masked { 0x80 | 125 } else { 125 }];
    ping.resize(if masked { 6 } else { 2 }, 0);
    ping.extend_from_slice(&[b'p'; 125]);
    let pings = ping.repeat(512);
    let mut sent = 0;
    while sent < FLOOD {
        match timeout(LIMIT, peer.write(&pings[sent % pings.len()..])).await.expect("the connection ends") {
            Ok(count) => sent += count,
            Err(_) => break,
        }
    }
}

#[tokio::test]
async fn floods_of_pings_cost_no_memory_in_any_role() {
    let folder = Folder::new("floods");
    let served = folder.serve();
    let hostile = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let peer = json!({"addr": hostile.local_addr().expect("it has one").to_string(), "writeTimeout": "1s"});
    let conf = served.asks("PUT", "/metadata/sources/websocket/confKeys/hostile", &peer).await;
    assert_eq!(conf.status, 200, "{}", conf.body);
    let conf = served.asks("PUT", "/metadata/sources/websocket/confKeys/short", &json!({"writeTimeout": "1s"})).await;
    assert_eq!(conf.status, 200, "{}", conf.body);
    for (name, path, key) in [("mine", "/in", "short"), ("theirs", "/feed", "hostile")] {
        let sql =
            format!("CREATE STREAM {name} () WITH (DATASOURCE=\"{path}\", TYPE=\"websocket\", CONF_KEY=\"{key}\")");
        let made = served.asks("POST", "/streams", &json!({"sql": sql})).await;
        assert_eq!(made.status, 201, "{}", made.body);
        let sink = json!([{"websocket": {"path": format!("/{name}"), "writeTimeout": "1s"}}]);
        let rule = json!({"id": name, "sql": format!("SELECT * FROM {name}"), "actions": sink});
        let made = served.asks("POST", "/rules", &rule).await;
        assert_eq!(made.status, 201, "{}", made.body);
    }
    let dialled = timeout(LIMIT, hostile.accept()).await.expect("it is dialled").expect("a connection").0;
    let dialled = tokio_tungstenite::accept_async(dialled).await.expect("a handshake").into_inner();
    let mut floods = vec![tokio::spawn(flood(dialled, false))];
    for path in ["/in", "/mine", "/mine"] {
        let (client, _) = connect_async(served.data_url(path)).await.expect("an endpoint");
        let tokio_tungstenite::MaybeTlsStream::Plain(client) = client.into_inner() else { panic!("no TLS here") };
        floods.push(tokio::spawn(flood(client, true)));
    }
    let before = resident(served.child.id());
    let mut most = before;
    while !floods.iter().all(|flood| flood.is_finished()) {
        most = most.max(resident(served.child.id()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(most < before + GROWTH_KIB, "memory grew from {before} to {most} KiB");
    for flood in floods {
        flood.await.expect("no panic");
    }
}
