//! The state of rules across restarts, with the real binary: by the API, by signals, and after a kill.
//!
//! The test listens and the program dials, so that no port must be known in advance and connections are restored
//! automatically.

use futures_util::{SinkExt, StreamExt};
use redb::ReadableTable;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use crate::process::serve::{Folder, LIMIT, Served};

/// Where the program's source and sink connect to.
struct Peer {
    listener: TcpListener,
    port: u16,
}

/// The sockets after one start of the rule.
struct Sockets {
    input: WebSocketStream<TcpStream>,
    output: WebSocketStream<TcpStream>,
}

impl Peer {
    async fn bind() -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        Peer { listener, port }
    }

    /// The next connections to `/in` and to the other path.
    async fn sockets(&self) -> Sockets {
        let (mut input, mut output) = (None, None);
        while input.is_none() || output.is_none() {
            let (path, socket) = self.socket().await;
            *(if path == "/in" { &mut input } else { &mut output }) = Some(socket);
        }
        Sockets { input: input.expect("it is there"), output: output.expect("it is there") }
    }

    /// The next connection, with its path.
    async fn socket(&self) -> (String, WebSocketStream<TcpStream>) {
        let (stream, _) = timeout(LIMIT, self.listener.accept()).await.expect("it dials").expect("it connects");
        let mut path = String::new();
        // The signature is that of the library.
        #[allow(clippy::result_large_err)]
        let see = |request: &Request, response: Response| {
            path = request.uri().path().to_owned();
            Ok(response)
        };
        let socket = tokio_tungstenite::accept_hdr_async(stream, see).await.expect("it is a websocket");
        (path, socket)
    }
}

impl Sockets {
    async fn send(&mut self, text: &str) {
        self.input.send(Message::text(text)).await.expect("the socket is open");
    }

    async fn next(&mut self) -> Value {
        loop {
            let message = timeout(LIMIT, self.output.next()).await.expect("a message comes").expect("it goes on");
            if let Message::Text(text) = message.expect("the socket is whole") {
                return serde_json::from_str(&text).expect("results are JSON");
            }
        }
    }
}

/// A service that logs everything.
fn start(folder: &Folder) -> Served {
    let mut command = folder.command();
    command.args(["--log", "warn,plutino=debug"]);
    Served::start(command)
}

/// Ends it by a signal.
fn ended(served: &mut Served, signal: &str) {
    served.signal(signal);
    served.ends();
}

/// A request that succeeds.
async fn ask(served: &Served, method: &str, path: &str, body: Value) -> String {
    served.asks(method, path, &body).await.done()
}

/// A rule from `/in` to a path of the peer.
fn rule(peer: &Peer, sql: &str, path: &str, interval: &str) -> Value {
    let address = format!("127.0.0.1:{}", peer.port);
    json!({
        "id": "r", "sql": sql, "options": {"qos": 1, "checkpointInterval": interval},
        "actions": [{"websocket": {"addr": address, "path": path, "sendSingle": true}}],
    })
}

/// The stream `demo`, which dials the peer.
async fn create_stream(served: &Served, peer: &Peer) {
    let key = json!({"addr": format!("127.0.0.1:{}", peer.port)});
    ask(served, "PUT", "/metadata/sources/websocket/confKeys/peer", key).await;
    let sql =
        "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\", CONF_KEY=\"peer\", TIMESTAMP=\"ts\")";
    ask(served, "POST", "/streams", json!({ "sql": sql })).await;
}

#[tokio::test]
async fn a_rule_goes_on_after_every_kind_of_restart() {
    const SQL: &str = "SELECT acc_sum(a) AS s, lag(a) AS p FROM demo";
    let (folder, peer) = (Folder::new("checkpoints-kinds"), Peer::bind().await);
    let mut served = start(&folder);
    create_stream(&served, &peer).await;
    ask(&served, "POST", "/rules", rule(&peer, SQL, "/out", "1h")).await;
    let mut sockets = peer.sockets().await;
    sockets.send(r#"{"a": 1}"#).await;
    assert_eq!(sockets.next().await, json!({"s": 1}));
    sockets.send(r#"{"a": 2}"#).await;
    assert_eq!(sockets.next().await, json!({"s": 3, "p": 1}));

    // Its connections stay open.
    ask(&served, "POST", "/rules/r/restart", Value::Null).await;
    sockets.send(r#"{"a": 3}"#).await;
    assert_eq!(sockets.next().await, json!({"s": 6, "p": 2}));

    ask(&served, "POST", "/rules/r/stop", Value::Null).await;
    ask(&served, "POST", "/rules/r/start", Value::Null).await;
    let mut sockets = peer.sockets().await;
    sockets.send(r#"{"a": 4}"#).await;
    assert_eq!(sockets.next().await, json!({"s": 10, "p": 3}));

    // The service ends and starts again.
    ended(&mut served, "-TERM");
    let served = start(&folder);
    let mut sockets = peer.sockets().await;
    sockets.send(r#"{"a": 5}"#).await;
    assert_eq!(sockets.next().await, json!({"s": 15, "p": 4}));

    // Another sink and other names.
    let renamed = "SELECT acc_sum(a) AS total, lag(a) AS p FROM demo";
    ask(&served, "PUT", "/rules/r", rule(&peer, renamed, "/elsewhere", "1h")).await;
    sockets.output = peer.socket().await.1;
    sockets.send(r#"{"a": 6}"#).await;
    assert_eq!(sockets.next().await, json!({"total": 21, "p": 5}));

    // Another query: the state of the old one does not fit it.
    let other = "SELECT acc_sum(a) AS s, lag(a) AS p FROM demo WHERE a > 0";
    ask(&served, "PUT", "/rules/r", rule(&peer, other, "/out", "1h")).await;
    served.will_say(&["starts with empty state", "another plan"]).await;
    sockets.output = peer.socket().await.1;
    sockets.send(r#"{"a": 7}"#).await;
    assert_eq!(sockets.next().await, json!({"s": 7}));

    ask(&served, "PUT", "/rules/r/reset_state", json!({"type": "state"})).await;
    sockets.send(r#"{"a": 8}"#).await;
    assert_eq!(sockets.next().await, json!({"s": 8}));

    // Without qos no state is kept, and the earlier state does not return.
    let mut forgetful = rule(&peer, other, "/out", "1h");
    forgetful["options"]["qos"] = json!(0);
    ask(&served, "PUT", "/rules/r", forgetful).await;
    ask(&served, "PUT", "/rules/r", rule(&peer, other, "/out", "1h")).await;
    sockets.send(r#"{"a": 9}"#).await;
    assert_eq!(sockets.next().await, json!({"s": 9}));
}

#[tokio::test]
async fn after_a_crash_a_rule_goes_on_from_its_last_checkpoint() {
    let (folder, peer) = (Folder::new("checkpoints-crash"), Peer::bind().await);
    let mut served = start(&folder);
    create_stream(&served, &peer).await;
    let sql = "SELECT collect(a) AS l FROM demo GROUP BY COUNTWINDOW(3)";
    ask(&served, "POST", "/rules", rule(&peer, sql, "/out", "20ms")).await;
    let mut sockets = peer.sockets().await;
    sockets.send(r#"{"a": 1}"#).await;
    sockets.send(r#"{"a": 2}"#).await;
    served.will_say(&["its state is on disk", "changes=2"]).await;
    ended(&mut served, "-KILL");

    let mut served = start(&folder);
    let mut sockets = peer.sockets().await;
    sockets.send(r#"{"a": 3}"#).await;
    assert_eq!(sockets.next().await, json!({"l": [1, 2, 3]}));
    sockets.send(r#"{"a": 4}"#).await;
    served.will_say(&["its state is on disk", "changes=3"]).await;
    ended(&mut served, "-TERM");

    // One bit of the checkpoint is flipped.
    {
        let records: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("records");
        let database = redb::Database::open(folder.store()).expect("the store is whole");
        let change = database.begin_write().expect("it can be written");
        {
            let mut table = change.open_table(records).expect("there are records");
            let key = &b"mr"[..];
            let mut state = table.get(key).expect("it can be read").expect("the rule has one").value().to_vec();
            let last = state.len() - 1;
            state[last / 2] ^= 4;
            table.insert(key, state.as_slice()).expect("it can be written");
        }
        change.commit().expect("it can be written");
    }
    let served = start(&folder);
    // It is detected when the store is opened, before the service accepts requests.
    assert!(served.has_said().contains("is damaged; the rule starts with empty state"), "{}", served.has_said());
    let mut sockets = peer.sockets().await;
    for a in 5..8 {
        sockets.send(&json!({ "a": a }).to_string()).await;
    }
    assert_eq!(sockets.next().await, json!({"l": [5, 6, 7]}));
}

/// The last line counts the states that are on disk, and views apart from rules.
#[tokio::test]
async fn the_last_line_counts_states_on_disk() {
    let folder = Folder::new("checkpoints-last");
    let mut served = folder.serve();
    let stream = "CREATE STREAM s () WITH (TYPE=\"websocket\", DATASOURCE=\"/s\")";
    served.asks("POST", "/streams", &json!({"sql": stream})).await.done();
    for (name, with) in [("without", ""), ("kept", ", CHECKPOINT=\"1h\"")] {
        let view = format!("CREATE VIEW {name} WITH (KEY=\"k\"{with}) AS SELECT k FROM s");
        served.asks("POST", "/views", &json!({"sql": view})).await.done();
    }
    let sql = "SELECT acc_count(*) AS n FROM s";
    for (id, qos) in [("counts", 1), ("forgets", 0)] {
        let rule = json!({"id": id, "sql": sql, "actions": [{"nop": {}}], "options": {"qos": qos}});
        served.asks("POST", "/rules", &rule).await.done();
    }
    let (mut client, _) = tokio_tungstenite::connect_async(served.data_url("/s")).await.expect("it is there");
    client.send(Message::text("{\"k\":1}")).await.expect("it is open");
    while served.asks("GET", "/rules/counts/status", &Value::Null).await.json()["source_s_0_records_in_total"] != 1 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(served.terminate().success());
    let said = served.has_said();
    assert!(said.contains("stopped 2 rules and 2 views in") && said.contains(", 2 states on disk, "), "{said}");
}
