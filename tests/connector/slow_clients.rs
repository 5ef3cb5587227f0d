//! What happens to clients that do not read: the three policies of `slowClient`, and the end of the sink.

use std::sync::Arc;
use std::time::Duration;

use plutino::io::sink::OpenSink;
use plutino::io::websocket::{SinkLink, Websockets};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::websocket::{Client, LIMIT, batch, client, close_code, hub, signal, sink, text};

/// A sink with this policy, a client that will not read, and one that does.
async fn slow(hub: &Websockets, policy: &str) -> (SinkLink, Client, Client, Arc<Notify>) {
    let (signal, wake) = signal();
    let settings = sink(json!({"path": "/out", "slowClient": policy, "clientQueue": {"messages": 100}}));
    let link = hub.open_sink(settings, 0, signal).await.unwrap();
    let addr = hub.listening().unwrap();
    let (slow, quick) = (client(addr, "/out").await, client(addr, "/out").await);
    (link, slow, quick, wake)
}

/// A message large enough to fill a socket's buffers quickly.
fn large() -> String {
    "x".repeat(64 * 1024)
}

#[tokio::test]
async fn drop_oldest_delays_neither_other_clients_nor_the_close() {
    let hub = hub();
    let (link, _slow, mut quick, _) = slow(&hub, "dropOldest").await;
    let large = large();
    for _ in 0..1000 {
        link.messages().send(&batch(&[&large]));
        assert_eq!(text(&mut quick).await.len(), large.len());
    }
    assert!(link.messages().ready());
    let status = link.status();
    assert!(matches!(status.dropped[..], [("slow client", n)] if n > 0), "{:?}", status.dropped);
    assert!(status.queued <= 200);
    let lost: u64 = link.clients().iter().map(|client| client.dropped).sum();
    assert_eq!(status.dropped[0].1, lost);
    drop(quick);
    timeout(LIMIT, link.close(Duration::from_millis(10)))
        .await
        .expect("a client that never reads does not delay the close");
}

#[tokio::test]
async fn disconnect_closes_the_connection_of_a_slow_client() {
    let hub = hub();
    let (link, _slow, mut quick, _) = slow(&hub, "disconnect").await;
    let large = large();
    timeout(LIMIT, async {
        while link.status().peers == 2 {
            link.messages().send(&batch(&[&large]));
            assert_eq!(text(&mut quick).await.len(), large.len());
        }
    })
    .await
    .expect("the slow client goes");
    assert!(link.status().last_error.unwrap().1.contains("too slow"));
}

#[tokio::test]
async fn block_makes_the_engine_wait_and_loses_nothing() {
    let hub = hub();
    let (link, mut slow, mut quick, wake) = slow(&hub, "block").await;
    let large = large();
    let outlet = link.messages();
    let mut sent = 0;
    while outlet.ready() {
        outlet.send(&batch(&[&large]));
        assert_eq!(text(&mut quick).await.len(), large.len());
        sent += 1;
    }
    for _ in 0..sent {
        assert_eq!(text(&mut slow).await.len(), large.len());
    }
    timeout(LIMIT, wake.notified()).await.expect("the signal is raised");
    assert!(outlet.ready());
    assert!(link.status().dropped.is_empty());
}

/// While it reads, it answers the ping that follows every few thousand messages.
#[tokio::test]
async fn a_client_that_lags_behind_the_end_loses_nothing() {
    const MESSAGES: usize = 5000;
    let hub = hub();
    let (signal, _) = signal();
    let link = hub.open_sink(sink(json!({"path": "/out"})), 0, signal).await.unwrap();
    let mut late = client(hub.listening().unwrap(), "/out").await;
    let message = "x".repeat(200);
    for _ in 0..MESSAGES {
        link.messages().send(&batch(&[&message]));
    }
    timeout(LIMIT, link.close(LIMIT)).await.expect("the close frame is not answered");
    for _ in 0..MESSAGES {
        assert_eq!(text(&mut late).await.len(), message.len());
    }
    assert_eq!(close_code(&mut late).await, CloseCode::Away);
}
