//! A live client that reads the protocol strictly: it refuses every frame that is not exact.

use std::collections::BTreeMap;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::process::{Client, LIMIT};

/// One subscription over its own socket.
pub struct Live {
    pub socket: Client,
    /// rows by the text of their key
    pub rows: BTreeMap<String, Value>,
    pub cursor: Option<String>,
    pub subscribed: Value,
    pub s: u64,
    pub ts: i64,
    key: Vec<String>,
    loading: Option<BTreeMap<String, Value>>,
    more: bool,
}

/// The next frame of a socket; `None` when it is closed.
pub async fn frame(socket: &mut Client) -> Option<Value> {
    loop {
        let message = timeout(LIMIT, socket.next()).await.expect("a frame comes in time")?;
        match message {
            Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).expect("a frame is JSON")),
            Ok(Message::Close(_)) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// Connects to a path of a data server, and reads `hello`.
pub async fn connect(port: u16, path: &str) -> Client {
    let mut socket = connect_async(format!("ws://127.0.0.1:{port}{path}")).await.expect("the path is there").0;
    assert_eq!(frame(&mut socket).await, Some(json!({"t": "hello", "v": 1, "heartbeat": 15000})));
    socket
}

pub async fn say(socket: &mut Client, message: &Value) {
    socket.send(Message::text(message.to_string())).await.expect("the socket is open");
}

impl Live {
    /// Subscribes by the URL, and reads up to `ready`, or up to `subscribed` when it resumes.
    pub async fn open(port: u16, path: &str) -> Live {
        let socket = connect(port, path).await;
        let mut live = Live {
            socket,
            rows: BTreeMap::new(),
            cursor: None,
            subscribed: Value::Null,
            s: 0,
            ts: 0,
            key: Vec::new(),
            loading: None,
            more: false,
        };
        live.apply().await;
        assert_eq!(live.subscribed["t"], "subscribed");
        while live.subscribed["resumed"] != true && live.cursor.is_none() {
            live.apply().await;
        }
        live
    }

    /// Resumes from the cursor over a new socket.
    pub async fn resume(self, port: u16, path: &str) -> Live {
        let Live { rows, cursor, key, .. } = self;
        let sign = if path.contains('?') { '&' } else { '?' };
        let path = format!("{path}{sign}_cursor={}", cursor.clone().expect("it has a cursor"));
        let socket = connect(port, &path).await;
        let mut live =
            Live { socket, rows, cursor, subscribed: Value::Null, s: 0, ts: 0, key, loading: None, more: false };
        live.apply().await;
        live
    }

    fn key_of(&self, row: &Value) -> String {
        let parts: Vec<&Value> = self.key.iter().map(|name| row.get(name).expect("a row has its key")).collect();
        serde_json::to_string(&parts).expect("a key is JSON")
    }

    /// Reads a frame, applies it, and returns it.
    pub async fn apply(&mut self) -> Value {
        let message = frame(&mut self.socket).await.expect("the socket is open");
        let list = |name: &str| message[name].as_array().cloned().unwrap_or_default();
        match message["t"].as_str().expect("a frame has a kind") {
            "subscribed" => {
                self.s = message["s"].as_u64().expect("a number");
                let key = message["key"].as_array().expect("a key").iter();
                self.key = key.map(|name| name.as_str().expect("a name").to_owned()).collect();
                self.subscribed = message.clone();
            }
            "snapshot" => {
                assert!(self.loading.is_none());
                (self.loading, self.cursor) = (Some(BTreeMap::new()), None);
            }
            "rows" => {
                for row in list("rows") {
                    let key = self.key_of(&row);
                    let twice = self.loading.as_mut().expect("rows are of a snapshot").insert(key, row);
                    assert!(twice.is_none(), "twice: {message}");
                }
            }
            "ready" => {
                self.rows = self.loading.take().expect("ready ends a snapshot");
                assert_eq!(message["count"], self.rows.len());
                self.more = message["more"] == true;
                self.cursor = message["at"].as_str().map(str::to_owned);
                self.ts = message["ts"].as_i64().expect("a time");
            }
            "delta" => {
                assert_eq!(message["s"], self.s);
                assert!(self.loading.is_none());
                let more = message["more"] == true;
                self.more |= more;
                // The one that completes a cut is exact, too.
                let strict = !more;
                for (name, known) in [("insert", false), ("update", true)] {
                    for row in list(name) {
                        let before = self.rows.insert(self.key_of(&row), row);
                        assert!(before.is_some() == known || !strict, "{name}: {message}");
                    }
                }
                for row in list("delete") {
                    let before = self.rows.remove(&self.key_of(&row));
                    assert!(before.is_some() || !strict, "delete: {message}");
                }
                if let Some(at) = message["at"].as_str() {
                    let number = |cursor: &str| cursor.rsplit_once('.').expect("a cursor").1.parse::<u64>().unwrap();
                    if let Some(cursor) = self.cursor.as_deref() {
                        let prev = message["prev"].as_str().expect("a delta has prev");
                        assert!(number(prev) <= number(cursor) && number(cursor) < number(at), "{cursor}: {message}");
                    }
                    self.cursor = Some(at.to_owned());
                    self.more = false;
                }
                self.ts = message["ts"].as_i64().expect("a time");
            }
            "progress" => {
                for (s, at) in message["at"].as_object().expect("cursors") {
                    assert_eq!(*s, self.s.to_string());
                    self.cursor = at.as_str().map(str::to_owned);
                }
            }
            "gap" | "unsubscribed" => {}
            other => panic!("{other}: {message}"),
        }
        message
    }

    /// As [`Live::apply`], without the frames of heartbeats: they come at any time.
    pub async fn apply_change(&mut self) -> Value {
        loop {
            let message = self.apply().await;
            if message["t"] != "progress" {
                return message;
            }
        }
    }

    /// Reads until the rows satisfy a condition.
    pub async fn until(&mut self, is: impl Fn(&BTreeMap<String, Value>) -> bool) {
        while !is(&self.rows) {
            self.apply().await;
        }
    }

    /// Reads until the row with this key has this value; null means that the row is absent.
    pub async fn until_row(&mut self, key: &Value, row: &Value) {
        let key = key.to_string();
        self.until(|rows| rows.get(&key).unwrap_or(&Value::Null) == row).await;
    }
}
