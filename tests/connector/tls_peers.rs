//! All four roles over TLS against websocket libraries that are not ours: Python `websockets` and Node `ws`.
//!
//! If a peer is missing its test is skipped with a message; with PLUTINO_REQUIRE_PEERS=1 it fails instead.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plutino::io::queue::{MessageBatch, Received, Signal, inbound};
use plutino::io::sink::OpenSink;
use plutino::io::source::OpenSource;
use plutino::io::websocket::{ServerSettings, ServerTls, Settings, Websockets};
use serde_json::{Value, json};
use tokio::sync::Notify;

struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn missing(program: &str, probe: &[&str]) -> bool {
    let found = Command::new(program).args(probe).stderr(Stdio::null()).current_dir("tests/peers").status();
    let missing = !found.is_ok_and(|status| status.success());
    if missing {
        assert!(std::env::var("PLUTINO_REQUIRE_PEERS").as_deref() != Ok("1"), "{program} or its library is missing");
        eprintln!("skipped: {program} or its websocket library is missing");
    }
    missing
}

/// Starts a peer and returns its first line.
fn start(program: &str, script: &str, args: [&str; 3]) -> (Peer, String) {
    let mut child = Command::new(program).arg(script).args(args).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (Peer(child), line.trim().to_owned())
}

async fn all_roles(program: &'static str, script: &'static str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (cert.to_str().unwrap().to_owned(), key.to_str().unwrap().to_owned());

    let data = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let handle = data.handle().clone();
    // It ends with the process.
    std::thread::spawn(move || data.block_on(std::future::pending::<()>()));
    let tls = Some(ServerTls { certfile: cert.clone(), keyfile: key.clone(), ..ServerTls::default() });
    let settings = ServerSettings { ip: "127.0.0.1".into(), port: 0, tls, ..ServerSettings::default() };
    let hub = Websockets::new(settings, vec![handle]);

    let (_server, port) = start(program, script, ["server", &cert, &key]);
    let dialled = json!({"path": "/x", "addr": format!("localhost:{port}"), "scheme": "wss", "rootCaPath": cert});
    round(&hub, dialled, || None).await;

    let url_hub = hub.clone();
    round(&hub, json!({"path": "/y"}), move || {
        let url = format!("wss://localhost:{}/y", url_hub.listening().unwrap().port());
        Some(start(program, script, ["client", &cert, &url]).0)
    })
    .await;
}

/// A message is sent by the sink, returned by the peer, and received by the source.
async fn round(hub: &Websockets, props: Value, peer: impl FnOnce() -> Option<Peer> + Send + 'static) {
    let props = props.as_object().unwrap().clone();
    let (ready, _slots) = crossbeam_channel::unbounded();
    let wake = Arc::new(Notify::new());
    let signal = Signal::new(0, ready, wake.clone());
    let (frames, receiver) = inbound(signal.clone());
    let source = hub.open_source(Settings::source("", &props).unwrap().0, 0, frames).await.unwrap();
    let sink = hub.open_sink(Settings::sink(&props).unwrap().0, 0, signal).await.unwrap();
    let _peer = tokio::task::spawn_blocking(peer).await.unwrap();
    let message = MessageBatch::new(Bytes::from_static("grüß".as_bytes()), vec![6], true, None);
    sink.messages().send(&Arc::new(message));
    let text = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            receiver.lower();
            match receiver.receive() {
                Received::Batch(batch) => return String::from_utf8(batch.frames[0].bytes().to_vec()).unwrap(),
                Received::Empty => wake.notified().await,
                Received::Ended => panic!("the stream has ended"),
            }
        }
    });
    assert_eq!(text.await.unwrap_or_else(|_| panic!("no echo: {:?}", source.status())), "grüß");
    source.close().await;
    sink.close(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn python_websockets() {
    if !missing("python3", &["-c", "import websockets"]) {
        all_roles("python3", "tests/peers/echo.py").await;
    }
}

#[tokio::test]
async fn node_ws() {
    if !missing("node", &["-e", "require('ws')"]) {
        all_roles("node", "tests/peers/echo.mjs").await;
    }
}
