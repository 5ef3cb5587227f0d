//! How many clients the data server accepts, and that silent ones do not block others.

use std::time::{Duration, Instant};

use futures_util::SinkExt;
use plutino::io::source::OpenSource;
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Error;

use crate::websocket::{LIMIT, client, hub_with, source, stream, try_client, until};

fn refused(hub: &plutino::io::websocket::Websockets, cause: &str) -> u64 {
    hub.refused().into_iter().find(|(name, _)| *name == cause).expect("it is a cause").1
}

#[tokio::test]
async fn clients_above_the_limits_get_503() {
    for (total, each, cause) in [(3, 0, "connections"), (0, 3, "connections of an address")] {
        let hub = hub_with(|settings| (settings.max_connections, settings.max_connections_per_ip) = (total, each));
        let (frames, _stream) = stream();
        let link = hub.open_source(source("/x", json!({})), 0, frames).await.unwrap();
        let address = hub.listening().unwrap();
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(client(address, "/x").await);
        }
        let Err(Error::Http(answer)) = try_client(address, "/x").await else { panic!("it is refused") };
        assert_eq!(answer.status(), 503);
        assert_eq!(refused(&hub, cause), 1);
        // A released place is used again.
        clients.pop().unwrap().close(None).await.unwrap();
        until(|| link.status().peers == 2).await;
        let again = async {
            while try_client(address, "/x").await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LIMIT, again).await.unwrap();
    }
}

#[tokio::test]
async fn silent_clients_keep_nobody_out() {
    let hub = hub_with(|_| ());
    let (frames, mut stream) = stream();
    let _link = hub.open_source(source("/x", json!({})), 0, frames).await.unwrap();
    let address = hub.listening().unwrap();
    // As many as descriptors allow here and in the server: more than may be in their handshakes at a time.
    let mut silent = Vec::new();
    let mut waits = Vec::new();
    for n in 0..1500 {
        let Ok(Ok(socket)) = timeout(LIMIT, TcpStream::connect(address)).await else { break };
        silent.push(socket);
        if n % 100 == 99 {
            let began = Instant::now();
            client(address, "/x").await.send(n.to_string().into()).await.unwrap();
            assert_eq!(stream.next().await, n.to_string());
            waits.push(began.elapsed());
        }
    }
    // Without limits it is the time-out of handshakes, 10 s, for almost all. The machine may be busy for a while.
    waits.sort_unstable();
    assert!(waits.get(waits.len() / 2).is_none_or(|usual| *usual < Duration::from_secs(8)), "{waits:?}");
    if silent.len() > 1100 {
        assert!(refused(&hub, "handshakes") > 0);
        let mut first = silent.swap_remove(0);
        assert!(matches!(timeout(LIMIT, first.read(&mut [0])).await.unwrap(), Ok(0) | Err(_)));
    }
}
