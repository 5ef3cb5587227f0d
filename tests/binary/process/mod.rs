//! The real binary in parallel with a test: rules to run, sockets to talk to it, its output, and its end.

// Each test program uses only a part of this.
#![allow(dead_code)]

pub mod folder;
pub mod http;
pub mod pair;
pub mod serve;

use std::process::Stdio;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use folder::Folder;

/// A websocket to the program.
pub type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Nothing here takes longer, unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(120);

/// The file of the rules, in their folder.
const RULES: &str = "rules.json";

/// `plutino run` with these rules, on a free port.
pub struct Plutino {
    pub child: Child,
    said: Lines<BufReader<ChildStderr>>,
    pub port: u16,
    folder: Folder,
}

impl Plutino {
    pub async fn run(name: &str, rules: &Value, arguments: &[&str]) -> Plutino {
        let folder = Folder::new(name);
        let path = folder.write(RULES, &rules.to_string());
        let mut child = Command::new(env!("CARGO_BIN_EXE_plutino"))
            .arg("run")
            .arg(&path)
            .args(arguments)
            .env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1")
            .env("KUIPER__SOURCE__HTTPSERVERPORT", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let stderr = child.stderr.take().expect("stderr is a pipe");
        let mut plutino = Plutino { child, said: BufReader::new(stderr).lines(), port: 0, folder };
        plutino.listens().await;
        plutino
    }

    /// Waits until it reports where it listens.
    pub async fn listens(&mut self) {
        let line = self.says("listening on").await;
        let address = line.split("ws://").nth(1).and_then(|rest| rest.split('/').next()).expect("an address");
        self.port = address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    }

    /// Writes other rules into its file.
    pub fn rewrite(&self, rules: &Value) {
        self.folder.write(RULES, &rules.to_string());
    }

    /// Reads its output up to a line with all the parts.
    pub async fn says_all(&mut self, parts: &[&str]) -> String {
        let mut all = String::new();
        let read = async {
            loop {
                let line = self.said.next_line().await.expect("stderr is text")?;
                if parts.iter().all(|part| line.contains(part)) {
                    return Some(line);
                }
                all.push_str(&line);
                all.push('\n');
            }
        };
        let found = timeout(LIMIT, read).await.ok().flatten();
        found.unwrap_or_else(|| panic!("it never said {parts:?}, but:\n{all}"))
    }

    pub async fn says(&mut self, part: &str) -> String {
        self.says_all(&[part]).await
    }

    pub async fn connect(&self, path: &str) -> Client {
        connect_async(format!("ws://127.0.0.1:{}{path}", self.port)).await.expect("the endpoint is there").0
    }

    pub fn terminate(&self) {
        let pid = self.child.id().expect("it runs").to_string();
        assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    }

    pub async fn exit_code(&mut self) -> Option<i32> {
        timeout(LIMIT, self.child.wait()).await.expect("it ends").expect("it can be waited for").code()
    }
}

pub fn stream(name: &str, columns: &str, options: &str) -> String {
    format!("CREATE STREAM {name} ({columns}) WITH (TYPE=\"websocket\", DATASOURCE=\"/{name}\"{options})")
}

pub async fn send(client: &mut Client, text: impl Into<String>) {
    client.send(Message::text(text.into())).await.expect("the socket is open");
}

/// What comes next, except pings: in a test that takes long they come at any moment.
pub async fn arrival<S>(socket: &mut WebSocketStream<S>) -> Option<Result<Message, Error>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let message = timeout(LIMIT, socket.next()).await.expect("a message comes");
        if !matches!(message, Some(Ok(Message::Ping(_) | Message::Pong(_)))) {
            return message;
        }
    }
}

/// The next message; `None` for the close frame 1001.
pub async fn next(client: &mut Client) -> Option<Value> {
    match arrival(client).await.expect("the stream goes on").expect("the socket is whole") {
        Message::Text(text) => Some(serde_json::from_str(&text).expect("results are JSON")),
        Message::Close(frame) => {
            assert_eq!(frame.expect("a code is said").code, CloseCode::Away);
            None
        }
        other => panic!("{other:?}"),
    }
}

/// Ticks of CPU used by a process.
#[cfg(target_os = "linux")]
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let behind_name = stat.rsplit(')').next().expect("the name ends");
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    fields[11].parse::<u64>().expect("a number") + fields[12].parse::<u64>().expect("a number")
}
