//! Compressed and binary messages are sent in binary frames, and can be read again.

use futures_util::SinkExt;
use plutino::config::Config;
use plutino::engine::{Engine, EngineSettings};
use plutino::format::compress::Method;
use plutino::io::websocket::ServerSettings;
use plutino::pipeline;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::websocket::receive;

async fn connect(engine: &Engine, path: &str) -> WebSocketStream<TcpStream> {
    let address = engine.listening().expect("the data server listens");
    let stream = TcpStream::connect(address).await.expect("it takes connections");
    tokio_tungstenite::client_async(format!("ws://{address}{path}"), stream).await.expect("the path is there").0
}

/// Waits until every rule's sink has its client.
async fn settled(engine: &Engine) {
    while !engine.status().await.iter().all(|rule| rule.sinks.iter().all(|sink| sink.peers > 0)) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn packed_messages_and_bytes_are_binary_frames_both_ways() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("rules.json");
    let stream = |name: &str, more: &str| {
        format!("CREATE STREAM {name} () WITH (DATASOURCE=\"/{name}\", TYPE=\"websocket\"{more})")
    };
    let rule = |id: &str, stream: &str, sink: serde_json::Value| json!({"id": id, "sql": format!("SELECT * FROM {stream}"), "actions": [{"websocket": sink}]});
    let rules = json!({
        "streams": [
            stream("plain", ""),
            stream("packed", ", EXTRA=\"{\\\"decompression\\\": \\\"gzip\\\"}\""),
            stream("bytes", ", FORMAT=\"binary\""),
        ],
        "rules": [
            rule("pack", "plain", json!({"path": "/pack", "compression": "gzip"})),
            rule("unpack", "packed", json!({"path": "/unpack", "sendSingle": true})),
            rule("bytes", "bytes", json!({"path": "/out", "format": "binary"})),
        ],
    });
    std::fs::write(&file, rules.to_string()).expect("a file can be written");
    let planned = pipeline::load(std::slice::from_ref(&file), &Config::default());
    let planned = planned.map_err(|problems| format!("{problems:?}")).expect("the rules are right");
    let server = ServerSettings { ip: "127.0.0.1".into(), port: 0, ..ServerSettings::default() };
    let engine = Engine::start(EngineSettings {
        workers: 1,
        server,
        zone: jiff::tz::TimeZone::UTC,
        shutdown: Default::default(),
    })
    .expect("it starts");
    for rule in planned.rules {
        engine.start_rule(rule.spec).await.expect("the rule starts");
    }
    let (mut pack, mut unpack, mut out) =
        (connect(&engine, "/pack").await, connect(&engine, "/unpack").await, connect(&engine, "/out").await);
    settled(&engine).await;

    let mut plain = connect(&engine, "/plain").await;
    plain.send(Message::text(r#"{"a":1}"#)).await.expect("it takes messages");
    let Message::Binary(packed) = receive(&mut pack).await else { panic!("a packed message is a binary frame") };
    assert_eq!(Method::Gzip.unpack(&packed).expect("it is gzip"), br#"[{"a":1}]"#);

    let mut source = connect(&engine, "/packed").await;
    // An uncompressed message is an error of that message alone.
    source.send(Message::text("no gzip")).await.expect("it takes messages");
    source.send(Message::Binary(packed)).await.expect("it takes messages");
    assert_eq!(receive(&mut unpack).await, Message::text(r#"{"a":1}"#));
    let status = engine.status().await;
    assert_eq!(status.iter().map(|rule| rule.errors).collect::<Vec<_>>(), [0, 1, 0]);

    let mut source = connect(&engine, "/bytes").await;
    let bytes: &[u8] = &[0, 159, 255, 10];
    source.send(Message::binary(bytes)).await.expect("it takes messages");
    assert_eq!(receive(&mut out).await, Message::binary(bytes));
    engine.stop(std::time::Duration::from_secs(10)).await;
}
