//! permessage-deflate over real sockets: the negotiation, and that messages arrive, in both roles.

use plutino::io::sink::OpenSink;
use plutino::io::websocket::Settings;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::websocket::{LIMIT, batch, hub, props, signal, sink, source, stream, until};

/// A client that offers `extensions`, without a websocket library; returns the head of the response.
async fn raw(address: std::net::SocketAddr, path: &str, extensions: &str) -> (TcpStream, String) {
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: {extensions}\r\n\r\n"
    );
    client.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(LIMIT, client.read_u8()).await.unwrap().unwrap());
    }
    (client, String::from_utf8(head).unwrap().to_ascii_lowercase())
}

#[tokio::test]
async fn a_sink_compresses_once_for_clients_that_offer_it() {
    let hub = hub();
    let link = hub.open_sink(sink(json!({"path": "/x"})), 0, signal().0).await.unwrap();
    let address = hub.listening().unwrap();
    let (mut one, head) = raw(address, "/x", "permessage-deflate; client_max_window_bits").await;
    let agreed =
        "sec-websocket-extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n";
    assert!(head.contains(agreed), "{head}");
    let (mut two, _) = raw(address, "/x", "permessage-deflate").await;
    let (mut plain, head) = raw(address, "/x", "permessage-bzip2").await;
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
    until(|| link.status().peers == 3).await;
    let message = "{\"a\": 1}, ".repeat(1000);
    link.messages().send(&batch(&[&message, "short"]));
    let mut got = Vec::new();
    for client in [&mut one, &mut two] {
        let mut frames = vec![0; 2];
        timeout(LIMIT, client.read_exact(&mut frames)).await.unwrap().unwrap();
        assert_eq!(frames[0], 0xc1, "text, compressed");
        assert!(frames[1] < 126, "it is much shorter");
        // The second message is below the threshold, and is sent uncompressed.
        frames.resize(usize::from(frames[1]) + 2 + 7, 0);
        timeout(LIMIT, client.read_exact(&mut frames[2..])).await.unwrap().unwrap();
        assert!(frames.ends_with(b"\x81\x05short"));
        got.push(frames);
    }
    assert_eq!(got[0], got[1]);
    let mut head = [0; 4];
    timeout(LIMIT, plain.read_exact(&mut head)).await.unwrap().unwrap();
    assert_eq!(head, [0x81, 126, (message.len() >> 8) as u8, message.len() as u8]);
}

#[tokio::test]
async fn compressed_messages_come_through_both_ways() {
    for (ours, theirs) in [
        (json!("on"), json!("on")),
        (json!({"contextTakeover": false}), json!({"contextTakeover": true})),
        (
            json!({"contextTakeover": true, "threshold": 0, "level": 9}),
            json!({"contextTakeover": true, "threshold": 0}),
        ),
        (json!({"windowBits": 10}), json!({"windowBits": 9, "contextTakeover": true})),
        (json!("off"), json!("on")),
        (json!("on"), json!("off")),
    ] {
        let hub = hub();
        let with = |mut settings: Value, deflate: &Value| {
            settings["perMessageDeflate"] = deflate.clone();
            settings
        };
        // The server role on /x receives and sends; the client role is connected to it.
        let (frames, mut taken) = stream();
        let _source = hub.open_source(source("/x", with(json!({}), &theirs)), 0, frames).await.unwrap();
        let sends = hub.open_sink(sink(with(json!({"path": "/x"}), &theirs)), 0, signal().0).await.unwrap();
        let address = hub.listening().unwrap().to_string();
        let dialled = json!({"addr": address, "path": "/x"});
        let (frames, mut got) = stream();
        let _dialled = hub.open_source(source("/x", with(dialled.clone(), &ours)), 1, frames).await.unwrap();
        let writes = hub.open_sink(sink(with(dialled, &ours)), 1, signal().0).await.unwrap();
        until(|| sends.status().peers == 1 && writes.status().peers == 1).await;
        let texts: Vec<String> =
            (0..50).map(|n| format!("{{\"n\": {n}, \"text\": \"{}\"}}", "grüße ".repeat(n * 7))).collect();
        for text in &texts {
            sends.messages().send(&batch(&[text]));
            writes.messages().send(&batch(&[text]));
        }
        for text in &texts {
            assert_eq!((&got.next().await, &taken.next().await), (text, text), "{ours} {theirs}");
        }
    }
}

#[test]
fn the_property_is_checked() {
    for wrong in [json!("maybe"), json!({"level": 0}), json!({"windowBits": 8}), json!({"treshold": 1}), json!(1)] {
        let error = Settings::sink(&props(json!({"path": "/x", "perMessageDeflate": wrong}))).unwrap_err().to_string();
        assert!(error.contains("perMessageDeflate"), "{error}");
    }
}

#[tokio::test]
async fn a_bomb_closes_with_1009_and_is_counted() {
    let hub = hub();
    let (frames, _stream) = stream();
    let settings = json!({"perMessageDeflate": "on", "maxMessageSize": 1000});
    let _source = hub.open_source(source("/x", settings), 0, frames).await.unwrap();
    let (mut client, _) = raw(hub.listening().unwrap(), "/x", "permessage-deflate").await;
    // 1,032 bytes for each byte of zeros.
    let mut packer = flate2::Compress::new(flate2::Compression::best(), false);
    let mut packed = Vec::with_capacity(4096);
    packer.compress_vec(&[0; 100_000], &mut packed, flate2::FlushCompress::Sync).unwrap();
    packed.truncate(packed.len() - 4);
    let mut bytes = vec![0xc2, 0x80 | 126, (packed.len() >> 8) as u8, packed.len() as u8, 0, 0, 0, 0];
    bytes.extend(packed);
    client.write_all(&bytes).await.unwrap();
    let mut close = [0; 4];
    timeout(LIMIT, client.read_exact(&mut close)).await.unwrap().unwrap();
    assert_eq!((close[0], u16::from_be_bytes([close[2], close[3]])), (0x88, 1009));
    until(|| hub.disconnects().contains(&("inflated size", 1))).await;
}

#[tokio::test]
async fn unfinished_messages_of_all_connections_have_a_budget() {
    let hub = crate::websocket::hub_with(|settings| settings.unfinished_bytes = 1 << 20);
    let (frames, mut stream) = stream();
    let _source = hub.open_source(source("/x", json!({})), 0, frames).await.unwrap();
    let address = hub.listening().unwrap();
    // Each of them begins a message of 10 MiB, and sends 400 KB of it.
    let mut clients = Vec::new();
    for _ in 0..4 {
        let (mut client, _) = raw(address, "/x", "none").await;
        let mut bytes = [&[0x82, 0xff][..], &(10u64 << 20).to_be_bytes(), &[0; 4]].concat();
        bytes.resize(400 << 10, 0);
        let _ = client.write_all(&bytes).await;
        clients.push(client);
    }
    until(|| hub.disconnects().contains(&("memory", 2))).await;
    // Clients that send small messages are not affected.
    let mut good = crate::websocket::client(address, "/x").await;
    futures_util::SinkExt::send(&mut good, "small".into()).await.unwrap();
    assert_eq!(stream.next().await, "small");
    drop(clients);
}

#[tokio::test]
async fn small_unfinished_messages_count_too() {
    const EACH: usize = 20_000;
    let hub = crate::websocket::hub_with(|settings| settings.unfinished_bytes = 10 * EACH);
    let (frames, mut stream) = stream();
    let _source = hub.open_source(source("/x", json!({})), 0, frames).await.unwrap();
    let address = hub.listening().unwrap();
    let begin = async || {
        let (mut client, _) = raw(address, "/x", "none").await;
        let mut bytes = [&[0x82, 0xfe][..], &60_000_u16.to_be_bytes(), &[0; 4]].concat();
        bytes.resize(EACH, 0);
        client.write_all(&bytes).await.unwrap();
        client
    };
    let mut clients = Vec::new();
    for held in 1..=11 {
        clients.push(begin().await);
        until(|| hub.unfinished_bytes() == held * EACH).await;
    }
    // There is no room for a further one; the others stay.
    clients.push(begin().await);
    until(|| hub.disconnects().contains(&("memory", 1))).await;
    clients.truncate(6);
    until(|| hub.unfinished_bytes() == 6 * EACH).await;
    clients[0].write_all(&vec![0; 60_000 + 8 - EACH]).await.unwrap();
    assert_eq!(stream.next().await.len(), 60_000);
    drop(clients);
    until(|| hub.unfinished_bytes() == 0).await;
}
