//! Named connections and endpoints of `plutino serve`: the real binary, its REST API, and peers over real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async, connect_async};

use crate::process::serve::{self, Folder, free_port};
use crate::process::{Client, LIMIT, arrival, next, send};

/// The file of connections in a folder.
const FILE: &str = "etc/connections/connection.yaml";

/// `plutino serve`.
struct Served(serve::Served);

impl Served {
    fn begin(folder: &Folder) -> Served {
        Served(folder.serve())
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let answer = self.0.asks(method, path, &body).await;
        (answer.status, answer.body)
    }

    /// A request that succeeds.
    async fn does(&self, method: &str, path: &str, body: Value) -> String {
        let (status, text) = self.ask(method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {text}");
        text
    }

    /// A request that is refused, with a text that has this part.
    async fn refuses(&self, method: &str, path: &str, body: Value, part: &str) {
        let (status, text) = self.ask(method, path, body).await;
        assert!((400..500).contains(&status) && text.contains(part), "{method} {path}: {status} {text}, not {part}");
    }

    /// Requests a connection until the condition holds.
    async fn connection(&self, id: &str, right: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let shown: Value =
                serde_json::from_str(&self.does("GET", &format!("/connections/{id}"), json!(null)).await)
                    .expect("an answer is JSON");
            if right(&shown) {
                return shown;
            }
            assert!(Instant::now() < deadline, "the connection stays {shown}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn client(&self, path: &str) -> Client {
        connect_async(self.0.data_url(path)).await.expect("the endpoint is there").0
    }

    async fn runs(&self, rule: &str) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let (_, status) = self.ask("GET", &format!("/rules/{rule}/status"), json!(null)).await;
            if status.contains("\"status\":\"running\"") || status.contains("\"status\": \"running\"") {
                return;
            }
            assert!(Instant::now() < deadline, "the rule does not run: {status}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    fn end(mut self) {
        let code = self.0.terminate().code();
        assert_eq!(code, Some(0));
    }

    /// The output of the command line.
    async fn says(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
        let output =
            command.args(arguments).env("PLUTINO_URL", self.0.url("")).output().await.expect("the binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        text(&output.stdout) + &text(&output.stderr)
    }
}

async fn accept(listener: &TcpListener) -> WebSocketStream<TcpStream> {
    let (stream, _) = timeout(LIMIT, listener.accept()).await.expect("it dials").expect("a socket");
    accept_async(stream).await.expect("a handshake")
}

async fn say(peer: &mut WebSocketStream<TcpStream>, text: &str) {
    futures_util::SinkExt::send(peer, Message::text(text)).await.expect("the socket is open");
}

async fn heard(peer: &mut WebSocketStream<TcpStream>) -> Value {
    loop {
        let message = timeout(LIMIT, peer.next()).await.expect("a message comes").expect("the stream goes on");
        if let Message::Text(text) = message.expect("the socket is whole") {
            return serde_json::from_str(&text).expect("results are JSON");
        }
    }
}

fn select(rule: &str, from: &str, sink: Value) -> Value {
    json!({"id": rule, "sql": format!("SELECT * FROM {from}"), "actions": [{"websocket": sink}]})
}

#[tokio::test]
async fn a_connection_is_shared_by_rules_dialled_again_and_kept() {
    let folder = Folder::new("connections-shared");
    let served = Served::begin(&folder);
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let listener = TcpListener::bind(address).await.expect("the port is free");
    let props =
        json!({"addr": address.to_string(), "path": "/feed", "reconnect": {"initial": "100ms", "max": "100ms"}});
    let created = served.does("POST", "/connections", json!({"id": "c1", "typ": "websocket", "props": props})).await;
    assert_eq!(created, "success");
    let mut peer = accept(&listener).await;
    let shown = served.connection("c1", |shown| shown["status"] == "connected").await;
    assert_eq!(shown, json!({"id": "c1", "typ": "websocket", "props": props, "isNamed": true, "status": "connected"}));

    served.does("PUT", "/metadata/sources/websocket/confKeys/k1", json!({"connectionSelector": "c1"})).await;
    let sql = "CREATE STREAM feed () WITH (DATASOURCE=\"/feed\", TYPE=\"websocket\", CONF_KEY=\"k1\")";
    served.does("POST", "/streams", json!({"sql": sql})).await;
    let sql = "CREATE STREAM orders () WITH (DATASOURCE=\"/orders\", TYPE=\"websocket\")";
    served.does("POST", "/streams", json!({"sql": sql})).await;
    served.does("POST", "/rules", select("reads", "feed", json!({"path": "/out", "sendSingle": true}))).await;
    let writes = select("writes", "orders", json!({"connectionSelector": "c1", "sendSingle": true}));
    served.does("POST", "/rules", writes).await;
    let (mut out, mut orders) = (served.client("/out").await, served.client("/orders").await);
    say(&mut peer, r#"{"n":1}"#).await;
    assert_eq!(next(&mut out).await, Some(json!({"n": 1})));
    send(&mut orders, r#"{"buy":1}"#).await;
    assert_eq!(heard(&mut peer).await, json!({"buy": 1}), "the sink writes to the connection that the stream reads");
    served.connection("c1", |shown| shown["refCount"] == 2).await;
    let used = "connection c1 can't be dropped due to rule references [reads writes]";
    served.refuses("DELETE", "/connections/c1", json!(null), used).await;
    served.refuses("PUT", "/connections/c1", json!({"typ": "websocket", "props": {"path": "/x"}}), used).await;

    // The peer disconnects and comes back.
    drop((peer, listener));
    let lost = served.connection("c1", |shown| shown["status"] == "disconnected").await;
    assert!(lost["err"].as_str().is_some_and(|error| !error.is_empty()), "{lost}");
    let listener = TcpListener::bind(address).await.expect("the port is free again");
    let mut peer = accept(&listener).await;
    served.connection("c1", |shown| shown["status"] == "connected" && shown["err"].is_null()).await;
    say(&mut peer, r#"{"n":2}"#).await;
    assert_eq!(next(&mut out).await, Some(json!({"n": 2})));

    // So does the service.
    served.end();
    let served = Served::begin(&folder);
    let mut peer = accept(&listener).await;
    served.runs("reads").await;
    let mut out = served.client("/out").await;
    say(&mut peer, r#"{"n":3}"#).await;
    assert_eq!(next(&mut out).await, Some(json!({"n": 3})));

    // Rules that were stopped by hand no longer use it.
    for rule in ["reads", "writes"] {
        served.does("POST", &format!("/rules/{rule}/stop"), json!(null)).await;
    }
    assert_eq!(served.does("DELETE", "/connections/c1", json!(null)).await, "success");
    let goodbye = arrival(&mut peer).await;
    assert!(matches!(goodbye, Some(Ok(Message::Close(_)))), "{goodbye:?}");
    served.refuses("GET", "/connections/c1", json!(null), "connection c1 not existed").await;
    served.refuses("POST", "/rules/reads/start", json!(null), "connection c1 not existed").await;
    assert_eq!(served.does("DELETE", "/connections/c1", json!(null)).await, "success");
    served.end();
}

#[tokio::test]
async fn what_cannot_be_is_refused_clearly() {
    let folder = Folder::new("connections-refused");
    let served = Served::begin(&folder);
    let sql = "CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")";
    served.does("POST", "/streams", json!({"sql": sql})).await;
    let unknown = select("r", "demo", json!({"path": "/x", "connectionSelector": "nosuch"}));
    served.refuses("POST", "/rules", unknown, "\"connection nosuch not existed\"").await;
    served.does("PUT", "/metadata/sources/websocket/confKeys/k", json!({"connectionSelector": "nosuch"})).await;
    let sql = "CREATE STREAM other () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\", CONF_KEY=\"k\")";
    served.does("POST", "/streams", json!({"sql": sql})).await;
    let unknown = select("r", "other", json!({"path": "/x"}));
    served.refuses("POST", "/rules", unknown, "\"connection nosuch not existed\"").await;
    for (body, part) in [
        (json!({"id": "c", "typ": "nosuch", "props": {}}), "create connection failed: unknown connection type nosuch"),
        (json!({"id": "c", "props": {}}), "create connection failed: connection id and type should be defined"),
        (json!({"typ": "websocket", "props": {}}), "id cannot be empty"),
        (json!({"id": "c d", "typ": "websocket"}), "id 'c d' contains invalid characters"),
        (json!({"id": "c", "typ": "websocket"}), "websocket endpoint should start with /"),
        (json!({"id": "c", "typ": "websocket", "props": {"addr": "h:1", "scheme": "x"}}), "property scheme is"),
        (json!("x"), "Invalid body"),
    ] {
        served.refuses("POST", "/connections", body, part).await;
    }
    served.does("POST", "/connections", json!({"id": "c", "typ": "websocket", "props": {"path": "/c"}})).await;
    let again = json!({"id": "c", "typ": "websocket", "props": {"path": "/d"}});
    served.refuses("POST", "/connections", again.clone(), "connection c already been created").await;
    served.refuses("PUT", "/connections/d", again, "update connection failed: connection d not existed").await;
    assert_eq!(served.does("GET", "/connections", json!(null)).await.matches("isNamed").count(), 1);

    // An undefined conf key means the default one.
    let sql = "CREATE STREAM third () WITH (DATASOURCE=\"/third\", TYPE=\"websocket\", CONF_KEY=\"nosuch\")";
    served.does("POST", "/streams", json!({"sql": sql})).await;
    served.does("POST", "/rules", select("third", "third", json!({"path": "/out", "sendSingle": true}))).await;
    let (mut source, mut out) = (served.client("/third").await, served.client("/out").await);
    send(&mut source, r#"{"n":1}"#).await;
    assert_eq!(next(&mut out).await, Some(json!({"n": 1})));
    let all = served.does("GET", "/connections?forceAll=true", json!(null)).await;
    for id in ["\"c\"", "\"$$ws//third\"", "\"$$ws//out\""] {
        assert!(all.contains(id), "{id} is not among {all}");
    }
    served.end();
}

#[tokio::test]
async fn endpoints_are_opened_ahead_of_a_rule_that_checks_them() {
    let folder = Folder::new("connections-endpoints");
    let served = Served::begin(&folder);
    let sql = "CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")";
    served.does("POST", "/streams", json!({"sql": sql})).await;
    let endpoint = || json!({"endpoint": "/live"});
    let rule = || select("r", "demo", json!({"path": "/live", "checkConnection": true, "sendSingle": true}));
    let nobody = "no client is connected to the endpoint /live";
    served.refuses("POST", "/connection/websocket", json!({}), "Invalid body: endpoint should be defined").await;
    assert_eq!(served.does("GET", "/connection/websocket", endpoint()).await, "false");
    served.refuses("POST", "/rules", rule(), nobody).await;
    for _ in 0..2 {
        assert_eq!(served.does("POST", "/connection/websocket", endpoint()).await, "");
    }
    assert_eq!(served.does("GET", "/connection/websocket?endpoint=/live", json!(null)).await, "true");
    served.refuses("POST", "/rules", rule(), nobody).await;
    let mut live = served.client("/live").await;
    served.does("POST", "/rules", rule()).await;
    let mut source = served.client("/in").await;
    send(&mut source, r#"{"n":1}"#).await;
    assert_eq!(next(&mut live).await, Some(json!({"n": 1})));

    // After a restart no client can be connected yet: the rule runs anyway.
    served.end();
    let served = Served::begin(&folder);
    served.runs("r").await;
    served.does("POST", "/rules/r/stop", json!(null)).await;
    assert_eq!(served.does("GET", "/connection/websocket", endpoint()).await, "true");
    let mut live = served.client("/live").await;
    assert_eq!(served.does("DELETE", "/connection/websocket", endpoint()).await, "");
    assert_eq!(next(&mut live).await, None);
    assert_eq!(served.does("GET", "/connection/websocket", endpoint()).await, "false");
    served.end();
}

#[tokio::test]
async fn connectivity_is_checked() {
    let folder = Folder::new("connections-checks");
    let served = Served::begin(&folder);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it has an address").to_string();
    let peer = tokio::spawn(async move {
        loop {
            let mut peer = accept(&listener).await;
            tokio::spawn(async move { while let Some(Ok(_)) = peer.next().await {} });
        }
    });
    for class in ["sources", "sinks", "lookups"] {
        let path = format!("/metadata/{class}/connection/websocket");
        for props in [json!({}), json!({"path": "/x"}), json!({"addr": address, "datasource": "/x"})] {
            assert_eq!(served.does("POST", &path, props).await, "");
        }
        let dead = json!({"addr": "127.0.0.1:1", "path": "/x"});
        served.refuses("POST", &path, dead, "cannot connect to ws://127.0.0.1:1/x").await;
        let named = json!({"connectionSelector": "nosuch"});
        served.refuses("POST", &path, named, "connection nosuch not existed").await;
    }
    let other = "/metadata/lookups/connection/memory";
    served.refuses("POST", other, json!({}), "lookup source memory doesn't support ping connection").await;
    peer.abort();
    served.end();
}

#[tokio::test]
async fn the_file_makes_connections_and_changes_over_the_api_stay() {
    let folder = Folder::new("connections-file");
    folder.write(FILE, "websocket:\n  one:\n    path: /one\n  two:\n    path: /two\n");
    let served = Served::begin(&folder);
    let _one = served.client("/one").await;
    served.does("DELETE", "/connections/two", json!(null)).await;
    served.does("POST", "/connections", json!({"id": "own", "typ": "websocket", "props": {"path": "/own"}})).await;
    let export: Value = serde_json::from_str(&served.does("GET", "/data/export", json!(null)).await).expect("JSON");
    let exported = export["connectionConfig"]["websocket"].as_str().expect("a text of JSON");
    assert_eq!(
        serde_json::from_str::<Value>(exported).expect("JSON"),
        json!({"one": {"path": "/one"}, "own": {"path": "/own"}})
    );
    served.end();

    folder.write(FILE, "websocket:\n  one:\n    path: /anew\n  two:\n    path: /two\n  own:\n    path: /file\n");
    let served = Served::begin(&folder);
    let ids = |list: &str| {
        let list: Vec<Value> = serde_json::from_str(list).expect("a list");
        list.iter().map(|one| format!("{}={}", one["id"], one["props"]["path"]).replace('"', "")).collect::<Vec<_>>()
    };
    let list = served.does("GET", "/connections", json!(null)).await;
    assert_eq!(ids(&list), ["one=/anew", "own=/own"], "an entry that has changed counts, but not over the API's");
    // An import that replaces everything restores what was exported.
    let imported = served.does("POST", "/data/import", json!({"content": export.to_string()})).await;
    assert!(imported.contains("\"connectionConfig\":{}") && !imported.contains("rror\":\""), "{imported}");
    assert_eq!(ids(&served.does("GET", "/connections", json!(null)).await), ["one=/one", "own=/own"]);
    served.end();

    folder.write(FILE, "websocket:\n  one:\n    xOperation: delete\n  own:\n    xOperation: delete\n");
    let served = Served::begin(&folder);
    assert_eq!(served.does("GET", "/connections", json!(null)).await, "[]");
    served.end();
}

#[tokio::test]
async fn the_command_line_manages_connections_and_conf_keys() {
    let folder = Folder::new("connections-cli");
    let served = Served::begin(&folder);
    for (arguments, part) in [
        (
            vec!["create", "connection", "c1", r#"{"typ": "websocket", "props": {"path": "/c1"}}"#],
            "Connection c1 is created.",
        ),
        (
            vec!["create", "connection", "c1", r#"{"typ": "websocket", "props": {"path": "/c1"}}"#],
            "already been created",
        ),
        (vec!["create", "connection", "c2", "{}"], "connection id and type should be defined"),
        (vec!["show", "connections"], "\"status\": \"connected\""),
        (vec!["describe", "connection", "c1"], "\"path\": \"/c1\""),
        (vec!["describe", "connection", "c9"], "connection c9 not existed"),
        (vec!["drop", "connection", "c1"], "Connection c1 is dropped."),
        (vec!["show", "connections"], "No connection definitions are found."),
        (vec!["create", "confkey", "websocket", "k1", r#"{"addr": "h:1"}"#], "Conf key k1 of websocket is created."),
        (
            vec!["create", "confkey", "sinks", "websocket", "k2", r#"{"path": "/x"}"#],
            "Conf key k2 of websocket is created.",
        ),
        (vec!["show", "confkeys"], "\"k1\""),
        (vec!["show", "confkeys", "sinks", "websocket"], "\"k2\""),
        (vec!["describe", "confkey", "websocket", "k1"], "\"addr\": \"h:1\""),
        (vec!["describe", "confkey", "websocket", "k9"], "Conf key k9 of websocket is not found."),
        (vec!["drop", "confkey", "websocket", "k1"], "Conf key k1 of websocket is dropped."),
        (vec!["drop", "confkey", "websocket", "k1"], "is not found"),
        (vec!["create", "confkey", "websocket"], "Expect type, key and json"),
    ] {
        let said = served.says(&arguments).await;
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
    served.end();
}
