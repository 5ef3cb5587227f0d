//! The recipes of `docs/feeds.md`: each file of `examples/feeds/` runs against a small simulation of its feed.
//!
//! A simulation is a script: what the feed sends, and what it must receive. The recipes name real feeds; FEED, SCHEME
//! and EVERY in the environment direct them here.

mod recipes;

use std::collections::HashMap;
use std::io::Write;
use std::process::Stdio;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use crate::process::serve::free_port;
use crate::process::{LIMIT, Plutino, arrival};
use recipes::{RECIPES, Recipe, Step};

#[tokio::test]
async fn recipes() {
    let mut wrong = Vec::new();
    for recipe in RECIPES {
        if let Err(error) = run(recipe).await {
            wrong.push(format!("{}: {error}", recipe.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_recipe_has_its_test_and_its_place_in_the_page() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/feeds.md")).expect("the page is there");
    for entry in std::fs::read_dir(root.join("examples/feeds")).expect("the recipes are there") {
        let file = entry.expect("an entry").path();
        let name = file.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        // These two have tests of their own.
        let has_test = matches!(name.as_str(), "ocpp" | "proxy") || RECIPES.iter().any(|recipe| recipe.name == name);
        assert!(has_test, "{name} has no test");
        assert!(page.contains(&format!("examples/feeds/{name}.yaml")), "docs/feeds.md does not name {name}");
        let recipe: Value = serde_saphyr::from_str(&std::fs::read_to_string(&file).expect("it is text")).expect("YAML");
        let rules = recipe["rules"].as_object().expect("rules by their ids");
        for sql in rules.values().filter_map(|rule| rule["sql"].as_str()) {
            assert!(words(&page).contains(&words(sql)), "docs/feeds.md shows another statement of {name}: {sql}");
        }
    }
    for name in ["key", "ocpp"] {
        let recipe = std::fs::read_to_string(root.join(format!("examples/feeds/{name}.yaml"))).expect("it is there");
        let begin = recipe.find("\nsources:").expect("it has sources") + 1;
        let end = recipe.find("\ntests:").expect("it has tests");
        assert!(page.contains(recipe[begin..end].trim_end()), "docs/feeds.md shows another {name}.yaml");
    }
}

/// A text on one line.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The recipe's process, and the lines that its log sink writes.
fn start(name: &str, port: u16) -> (Child, Lines<BufReader<ChildStdout>>) {
    run_file(&format!("{}/examples/feeds/{name}.yaml", env!("CARGO_MANIFEST_DIR")), port)
}

/// A process with streams that dial `props`, and a rule for each that writes its rows to stdout.
fn run_streams(name: &str, props: &[Value]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let file = folder.join(format!("feeds_{name}.json"));
    let keys: serde_json::Map<String, Value> =
        props.iter().enumerate().map(|(number, props)| (format!("k{number}"), props.clone())).collect();
    let stream =
        |key: &String| format!("CREATE STREAM {key} () WITH (DATASOURCE=\"/\", CONF_KEY=\"{key}\", FORMAT=\"json\")");
    let rule = |key: &String| json!({"id": format!("r{key}"), "sql": format!("SELECT n FROM {key}"), "actions": [{"log": {"sendSingle": true}}]});
    let streams: Vec<String> = keys.keys().map(stream).collect();
    let rules: Vec<Value> = keys.keys().map(rule).collect();
    let rules = json!({"sources": {"websocket": keys}, "streams": streams, "rules": rules});
    std::fs::write(&file, rules.to_string()).expect("it can be written");
    run_file(&file.to_string_lossy(), 1)
}

fn run_file(file: &str, port: u16) -> (Child, Lines<BufReader<ChildStdout>>) {
    run_file_through(file, port, "")
}

/// The same, for a recipe with a proxy.
fn run_file_through(file: &str, port: u16, proxy: &str) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_plutino"))
        .args(["run", "--quiet", file])
        .env("FEED", format!("127.0.0.1:{port}"))
        .env("SCHEME", "ws")
        .env("EVERY", "100ms")
        .env("HASS_TOKEN", "a \"secret\"")
        .env("AIS_KEY", "key")
        .env("FEED_KEY", "key")
        .env("FEED2", "127.0.0.1:1")
        .env("PROXY", proxy)
        .env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1")
        .env("KUIPER__SOURCE__HTTPSERVERPORT", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let lines = BufReader::new(child.stdout.take().expect("stdout is a pipe")).lines();
    (child, lines)
}

async fn run(recipe: &Recipe) -> Result<(), String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    let (_child, mut lines) = start(recipe.name, port);
    let played = timeout(LIMIT, play(&listener, recipe)).await;
    let _feed = played.map_err(|_| "the recipe does not do what the feed waits for")??;
    for result in recipe.results {
        let line = timeout(LIMIT, lines.next_line()).await.map_err(|_| format!("no result, but {result}"))?;
        let line = line.expect("stdout is text").ok_or("it has ended")?;
        if parsed(&line) != parsed(result) {
            return Err(format!("{line}, but should be {result}"));
        }
    }
    Ok(())
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

/// Plays the script to the first connection.
async fn play(listener: &TcpListener, recipe: &Recipe) -> Result<WebSocketStream<TcpStream>, String> {
    let (stream, _) = listener.accept().await.expect("a connection");
    let mut asked = String::new();
    #[allow(clippy::result_large_err, reason = "the signature is tungstenite's")]
    let accepts = |request: &Request, mut response: Response| {
        asked = request.uri().to_string();
        if let Some(name) = recipe.subprotocol {
            response.headers_mut().insert("sec-websocket-protocol", name.parse().expect("a header"));
        }
        Ok(response)
    };
    let mut feed = tokio_tungstenite::accept_hdr_async(stream, accepts).await.map_err(|error| error.to_string())?;
    if asked != recipe.path {
        return Err(format!("it asks for {asked}"));
    }
    for step in recipe.script {
        match step {
            Step::Says(text) => feed.send(Message::text(*text)).await.map_err(|error| error.to_string())?,
            Step::Packs(text) => {
                let mut packed = GzEncoder::new(Vec::new(), Compression::default());
                packed.write_all(text.as_bytes()).expect("it is packed");
                let packed = packed.finish().expect("it is packed");
                feed.send(Message::binary(packed)).await.map_err(|error| error.to_string())?;
            }
            Step::Hears(expected) => {
                let heard = hear(&mut feed).await?;
                if parsed(&heard) != parsed(expected) {
                    return Err(format!("it says {heard}, but should say {expected}"));
                }
            }
            Step::HearsStart(start) => {
                let heard = hear(&mut feed).await?;
                if !heard.starts_with(start) {
                    return Err(format!("it says {heard}, but should say {start}…"));
                }
            }
        }
    }
    Ok(feed)
}

async fn hear(feed: &mut WebSocketStream<TcpStream>) -> Result<String, String> {
    loop {
        match feed.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            other => return Err(format!("instead of a message came {other:?}")),
        }
    }
}

#[tokio::test]
async fn chargers_are_answered_each_by_itself() {
    let file = format!("{}/examples/feeds/ocpp.yaml", env!("CARGO_MANIFEST_DIR"));
    let rules = std::fs::read_to_string(file).expect("the recipe is there");
    let rules: Value = serde_saphyr::from_str(&rules).expect("it is YAML");
    let plutino = Plutino::run("ocpp", &rules, &[]).await;
    let mut chargers = HashMap::new();
    for name in ["CP1", "CP%202"] {
        let mut request =
            format!("ws://127.0.0.1:{}/ocpp/{name}", plutino.port).into_client_request().expect("a request");
        request.headers_mut().insert("sec-websocket-protocol", "ocpp2.0, ocpp1.6".parse().expect("a header"));
        let (socket, response) = tokio_tungstenite::connect_async(request).await.expect("it is accepted");
        assert_eq!(response.headers().get("sec-websocket-protocol").expect("one is chosen"), "ocpp1.6");
        chargers.insert(name, socket);
    }
    for (number, (name, charger)) in chargers.iter_mut().enumerate() {
        let boot = format!(r#"[2,"{number}","BootNotification",{{"chargePointModel":"{name}"}}]"#);
        charger.send(Message::text(boot)).await.expect("it is sent");
    }
    for (number, charger) in chargers.values_mut().enumerate() {
        let answer = arrival(charger).await.expect("it is open");
        let Message::Text(answer) = answer.expect("it is whole") else { panic!("a text") };
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer[1], number.to_string(), "each gets its own answer");
    }
}

/// A feed on a free port.
async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    (listener, address)
}

async fn accept(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let accepted = timeout(LIMIT, listener.accept()).await.expect("it is dialled").expect("a connection");
    tokio_tungstenite::accept_async(accepted.0).await.expect("a websocket")
}

async fn say(feed: &mut WebSocketStream<TcpStream>, text: &str) {
    feed.send(Message::text(text)).await.expect("it is sent");
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    timeout(LIMIT, lines.next_line()).await.expect("a result comes").expect("it is text").expect("it goes on")
}

#[tokio::test]
async fn streams_that_say_different_things_have_connections_of_their_own() {
    let (listener, address) = listen().await;
    let props = |says: &str| json!({"addr": address, "onOpen": says});
    let _process = run_streams("identity", &[props("a"), props("b"), props("a")]);
    let mut said = Vec::new();
    for _ in 0..2 {
        let mut feed = accept(&listener).await;
        said.push(timeout(LIMIT, hear(&mut feed)).await.expect("it says something").expect("a text"));
    }
    said.sort();
    assert_eq!(said, ["a", "b"]);
}

#[tokio::test]
async fn a_connection_without_messages_is_dialled_again() {
    let (listener, address) = listen().await;
    let props = json!({"addr": address, "dataTimeout": "2s", "reconnect": {"initial": "100ms"}});
    let (_child, mut lines) = run_streams("silent", &[props]);
    let first = accept(&listener).await;
    let mut second = accept(&listener).await;
    say(&mut second, "{\"n\":1}").await;
    assert_eq!(line(&mut lines).await, "{\"n\":1}");
    drop(first);
}

#[tokio::test]
async fn an_old_connection_is_replaced_by_one_that_is_up() {
    let (listener, address) = listen().await;
    let props = json!({
        "addr": address, "maxConnectionAge": "4s", "overlap": "3s", "dedupKey": "n", "onOpen": "subscribe",
    });
    let (_child, mut lines) = run_streams("age", &[props]);
    let mut old = accept(&listener).await;
    assert_eq!(timeout(LIMIT, hear(&mut old)).await.expect("it subscribes"), Ok("subscribe".to_owned()));
    say(&mut old, "{\"n\":1}").await;
    let mut new = accept(&listener).await;
    assert_eq!(timeout(LIMIT, hear(&mut new)).await.expect("it subscribes"), Ok("subscribe".to_owned()));
    // The old connection is still open, and both deliver the same.
    say(&mut old, "{\"n\":2}").await;
    say(&mut new, "{\"n\":2}").await;
    say(&mut new, "{\"n\":3}").await;
    let results = [line(&mut lines).await, line(&mut lines).await, line(&mut lines).await];
    assert_eq!(results, ["{\"n\":1}", "{\"n\":2}", "{\"n\":3}"]);
    let end = timeout(LIMIT, hear(&mut old)).await.expect("it ends");
    assert!(end.expect_err("a close frame").contains("Close"));
}

#[tokio::test]
async fn another_address_is_dialled_where_one_fails_and_redirects_are_followed() {
    let dead_address = format!("127.0.0.1:{}", free_port());
    let (redirecting, redirecting_address) = listen().await;
    let (listener, address) = listen().await;
    let props = json!({"addr": [dead_address, redirecting_address], "headers": {"Authorization": "Bearer t"}});
    let (_child, mut lines) = run_streams("failover", &[props]);
    let (mut asking, _) = timeout(LIMIT, redirecting.accept()).await.expect("it is dialled").expect("a connection");
    let mut request = [0; 1024];
    let length = asking.read(&mut request).await.expect("a request");
    assert!(String::from_utf8_lossy(&request[..length]).to_lowercase().contains("authorization: bearer t"));
    let answer = format!("HTTP/1.1 302 Found\r\nLocation: ws://{address}/\r\nContent-Length: 0\r\n\r\n");
    asking.write_all(answer.as_bytes()).await.expect("it is sent");
    let mut feed = accept(&listener).await;
    say(&mut feed, "{\"n\":1}").await;
    assert_eq!(line(&mut lines).await, "{\"n\":1}");
}

/// A proxy that requires credentials and forwards the traffic, and a receiver of the heads of its requests.
async fn proxy() -> (String, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (listener, address) = listen().await;
    let (heads, asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let Ok((mut near, _)) = listener.accept().await else { return };
            let heads = heads.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(near.read_u8().await.expect("a head"));
                }
                let head = String::from_utf8(head).expect("a head is text");
                let _ = heads.send(head.clone());
                if !head.to_lowercase().contains("proxy-authorization: basic dxnlcjpwyxnz") {
                    let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
                    let _ = near.write_all(refusal.as_bytes()).await;
                    return;
                }
                let target = head.split(' ').nth(1).expect("a target").to_owned();
                let mut far = TcpStream::connect(target).await.expect("the feed is there");
                near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.expect("it is read");
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (address, asked)
}

#[tokio::test]
async fn a_feed_behind_a_proxy_is_reached_with_its_credentials() {
    let (listener, address) = listen().await;
    let (proxy, mut asked) = proxy().await;
    let port = listener.local_addr().expect("an address").port();
    let file = format!("{}/examples/feeds/proxy.yaml", env!("CARGO_MANIFEST_DIR"));
    let (_child, mut lines) = run_file_through(&file, port, &proxy);
    let mut feed = accept(&listener).await;
    let head = timeout(LIMIT, asked.recv()).await.expect("the proxy is asked").expect("a head");
    assert!(head.starts_with(&format!("CONNECT {address} HTTP/1.1\r\n")), "{head}");
    assert_eq!(timeout(LIMIT, hear(&mut feed)).await.expect("it says it"), Ok("hello".to_owned()));
    say(&mut feed, "{\"n\":1}").await;
    assert_eq!(line(&mut lines).await, "{\"n\":1}");
    // After a disconnect it dials again, through the proxy too.
    drop(feed.into_inner());
    let mut feed = accept(&listener).await;
    timeout(LIMIT, asked.recv()).await.expect("the proxy is asked").expect("a head");
    assert_eq!(timeout(LIMIT, hear(&mut feed)).await.expect("it says it"), Ok("hello".to_owned()));
}

#[tokio::test]
async fn two_mirrors_of_a_feed_bring_each_message_once() {
    let ((one, first), (two, second)) = (listen().await, listen().await);
    let props = json!({
        "addr": [first, second], "mode": "mirror", "dedupKey": "n", "onOpen": "subscribe",
        "reconnect": {"initial": "50ms", "max": "100ms"},
    });
    let (_child, mut lines) = run_streams("mirror", &[props]);
    let (mut left, mut right) = (accept(&one).await, accept(&two).await);
    for feed in [&mut left, &mut right] {
        assert_eq!(timeout(LIMIT, hear(feed)).await.expect("it subscribes"), Ok("subscribe".to_owned()));
    }
    say(&mut left, "{\"n\":1}").await;
    assert_eq!(line(&mut lines).await, "{\"n\":1}");
    say(&mut right, "{\"n\":1}").await;
    say(&mut right, "{\"n\":2}").await;
    assert_eq!(line(&mut lines).await, "{\"n\":2}");
    // One of them is disconnected: the other continues, and the first reconnects.
    drop(left.into_inner());
    say(&mut right, "{\"n\":3}").await;
    assert_eq!(line(&mut lines).await, "{\"n\":3}");
    let mut left = accept(&one).await;
    assert_eq!(timeout(LIMIT, hear(&mut left)).await.expect("it subscribes"), Ok("subscribe".to_owned()));
    say(&mut left, "{\"n\":3}").await;
    say(&mut left, "{\"n\":4}").await;
    assert_eq!(line(&mut lines).await, "{\"n\":4}");
}

#[tokio::test]
async fn messages_that_keep_a_connection_alive_are_sent_when_they_are_due() {
    let (listener, address) = listen().await;
    let keep = json!({"message": "{\"op\":\"ping\",\"at\":{{now}}}", "every": "100ms", "when": "always"});
    let (_child, mut lines) = run_streams("alive", &[json!({"addr": address, "keepAlive": keep})]);
    let mut feed = accept(&listener).await;
    for n in 0..3 {
        // Regardless of what the feed sends meanwhile.
        say(&mut feed, &json!({"n": n}).to_string()).await;
        let heard = timeout(LIMIT, hear(&mut feed)).await.expect("it is sent").expect("a text");
        let heard: Value = serde_json::from_str(&heard).expect("it is JSON");
        assert!(heard["op"] == "ping" && heard["at"].as_i64().is_some_and(|at| at > 1_700_000_000_000), "{heard}");
        assert_eq!(line(&mut lines).await, json!({"n": n}).to_string());
    }
    // Only a quiet feed receives it.
    let (listener, address) = listen().await;
    let keep = json!({"message": "ping", "every": "400ms"});
    let (_child, _lines) = run_streams("quiet", &[json!({"addr": address, "keepAlive": keep})]);
    let mut feed = accept(&listener).await;
    assert_eq!(timeout(LIMIT, hear(&mut feed)).await.expect("it is sent"), Ok("ping".to_owned()));
}
