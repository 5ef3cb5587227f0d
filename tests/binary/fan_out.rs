//! Clients of one sink on several data threads: each gets all results, in order, and the end is the same.

use serde_json::json;

use super::process::{Client, Plutino, next, send, stream};

const CLIENTS: usize = 12;

async fn fan_out(slow_client: &str) {
    let rules = json!({
        "streams": [stream("fan_in", "", "")],
        "rules": [{
            "id": "copy", "sql": "SELECT n FROM fan_in",
            "actions": [{"websocket": {"path": "/fan_out", "sendSingle": true, "slowClient": slow_client}}]
        }]
    });
    let mut plutino = Plutino::run(&format!("fan-out-{slow_client}"), &rules, &["--workers", "3"]).await;
    let mut receivers: Vec<Client> = Vec::new();
    for _ in 0..CLIENTS {
        receivers.push(plutino.connect("/fan_out").await);
    }
    let mut sender = plutino.connect("/fan_in").await;
    for n in 0..300 {
        send(&mut sender, json!({"n": n}).to_string()).await;
    }
    for receiver in &mut receivers {
        for n in 0..300 {
            assert_eq!(next(receiver).await, Some(json!({"n": n})));
        }
    }
    // Some disconnect, others connect: each gets what is sent from then on.
    receivers.truncate(CLIENTS / 2);
    receivers.push(plutino.connect("/fan_out").await);
    for n in 300..600 {
        send(&mut sender, json!({"n": n}).to_string()).await;
    }
    assert_eq!(next(&mut receivers[0]).await, Some(json!({"n": 300})));
    let last = async |receiver: &mut Client| while next(receiver).await != Some(json!({"n": 599})) {};
    last(&mut receivers[0]).await;
    // The messages that wait for the others are sent before the end.
    plutino.terminate();
    assert_eq!(next(&mut receivers[0]).await, None);
    for receiver in &mut receivers[1..] {
        for n in 300..600 {
            assert_eq!(next(receiver).await, Some(json!({"n": n})));
        }
        assert_eq!(next(receiver).await, None);
    }
    assert_eq!(plutino.exit_code().await, Some(0));
}

#[tokio::test]
async fn clients_on_three_threads_get_the_same() {
    fan_out("dropOldest").await;
}

#[tokio::test]
async fn clients_on_three_threads_may_hold_the_engine_up() {
    fan_out("block").await;
}
