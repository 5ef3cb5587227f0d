//! Unreliable feeds: what is reported about peers that close repeatedly, and about those that are unreachable.

use futures_util::StreamExt;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::process::Plutino;
use crate::process::serve::free_port;

/// A feed that closes each connection.
async fn closing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(mut socket) = accept_async(socket).await else { continue };
            let _ = socket.close(Some(CloseFrame { code: CloseCode::Policy, reason: "no hb".into() })).await;
            while let Some(Ok(_)) = socket.next().await {}
        }
    });
    address
}

/// An address at which nobody listens.
fn dead() -> String {
    format!("127.0.0.1:{}", free_port())
}

#[tokio::test]
async fn mirrors_that_fail_again_and_again_are_told_each_by_itself() {
    let (closing, dead) = (closing().await, dead());
    let props = json!({
        "addr": [closing, dead], "mode": "mirror", "reconnect": {"initial": "100ms", "max": "200ms"},
    });
    let extra = props.to_string().replace('"', "\\\"");
    let rules = json!({
        "streams": [format!("CREATE STREAM s () WITH (TYPE=\"websocket\", DATASOURCE=\"/feed\", FORMAT=\"json\", EXTRA=\"{extra}\")")],
        "rules": [{"id": "r", "sql": "SELECT * FROM s", "actions": [{"websocket": {"path": "/out"}}]}],
    });
    let mut plutino = Plutino::run("unsteady", &rules, &[]).await;
    plutino.says_all(&["WARN", &closing, "closed 4 times, last: 1008 no hb"]).await;
    plutino.says_all(&[&format!("    ws://{closing}/feed: closed "), " times, last: 1008 no hb"]).await;
    plutino.says_all(&[&format!("    ws://{dead}/feed: not reached "), " times, last: "]).await;
}
