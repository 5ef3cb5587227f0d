//! `plutino serve` as a process: in its own folder, on free ports, with its responses and output.
//!
//! Functions that wait exist twice: for tests that may block, and for those whose own sockets must run meanwhile.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

use super::Client;
pub use super::folder::Folder;

/// Nothing here takes longer, unless it hangs.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A service in a folder; killed when dropped.
pub struct Served {
    pub child: Child,
    /// host and port of the REST API
    pub rest: String,
    /// the port of its data server, which it opens once a rule or connection needs it
    pub data_port: u16,
    said: Arc<Said>,
}

/// The stderr of a process so far.
#[derive(Default)]
struct Said {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Default)]
struct Lines {
    all: Vec<String>,
    /// how many lines were checked
    seen: usize,
    ended: bool,
}

/// An HTTP response.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    /// names in lower case
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Folder {
    pub fn serve(&self) -> Served {
        Served::start(self.command())
    }

    /// The same; its log tells what a test may wait for.
    pub fn serve_logging(&self) -> Served {
        let mut command = self.command();
        command.args(["--log", "warn,plutino=debug"]);
        Served::start(command)
    }

    /// The service in this folder, on free ports, not yet started.
    pub fn command(&self) -> Command {
        self.set_up(Command::new(env!("CARGO_BIN_EXE_plutino")))
    }

    /// The same, started by another program that executes it.
    pub fn command_by(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).arg(env!("CARGO_BIN_EXE_plutino"));
        self.set_up(command)
    }

    /// Starts a service that must not start; returns its output.
    pub fn refused(&self) -> String {
        refused(self.command())
    }

    /// The file of the store.
    pub fn store(&self) -> PathBuf {
        self.path("data/plutino.redb")
    }

    fn set_up(&self, mut command: Command) -> Command {
        std::fs::create_dir_all(self.path("etc")).expect("a folder can be made");
        command
            .args(["serve", "--etc", "etc", "--data", "data"])
            .current_dir(&self.0)
            .env("NO_COLOR", "1")
            .env("KUIPER__BASIC__RESTIP", "127.0.0.1")
            .env("KUIPER__BASIC__RESTPORT", "0")
            .env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1")
            .env(DATA_PORT, free_port().to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

/// Runs a service that must not start; returns its output.
pub fn refused(mut command: Command) -> String {
    let output = command.output().expect("the binary starts");
    let said = String::from_utf8(output.stderr).expect("it says text");
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// Sets the port of the data server.
pub const DATA_PORT: &str = "KUIPER__SOURCE__HTTPSERVERPORT";

impl Served {
    /// Starts a service, and waits until it accepts requests.
    pub fn start(mut command: Command) -> Served {
        let ports = command.get_envs().find(|(name, _)| *name == DATA_PORT);
        let data_port = ports.and_then(|(_, port)| port?.to_str()?.parse().ok()).expect("a port of the data server");
        let mut child = command.spawn().expect("the binary starts");
        let stderr = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        let said = Arc::new(Said::default());
        let listener = said.clone();
        // Read to the end, so that the program does not block on a full pipe.
        std::thread::spawn(move || listener.listen(stderr));
        let mut served = Served { child, rest: String::new(), data_port, said };
        let line = served.says(&[" serves http"]);
        served.rest = line.rsplit("//").next().expect("an address").trim().to_owned();
        served
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.rest)
    }

    /// The address of this path on its data server.
    pub fn data_url(&self, path: &str) -> String {
        format!("ws://127.0.0.1:{}{path}", self.data_port)
    }

    /// Reads its output, from the last position, up to a line with all the parts.
    pub fn says(&self, parts: &[&str]) -> String {
        self.said.wait_for(parts)
    }

    /// The same, while other tasks run.
    pub async fn will_say(&self, parts: &[&str]) -> String {
        let (said, parts) = (self.said.clone(), parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>());
        let read = move || said.wait_for(&parts.iter().map(String::as_str).collect::<Vec<_>>());
        tokio::task::spawn_blocking(read).await.expect("it says that")
    }

    /// Its output so far.
    pub fn has_said(&self) -> String {
        self.said.lines.lock().expect("no panic while it is held").all.join("\n")
    }

    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        ask(&self.rest, method, path, "", &text_of(body)).unwrap_or_else(|| panic!("{method} {path} is not answered"))
    }

    /// The same, while other tasks run.
    pub async fn asks(&self, method: &str, path: &str, body: &Value) -> Answer {
        let (rest, method, path, body) = (self.rest.clone(), method.to_owned(), path.to_owned(), text_of(body));
        let asked = tokio::task::spawn_blocking(move || {
            ask(&rest, &method, &path, "", &body).unwrap_or_else(|| panic!("{method} {path} is not answered"))
        });
        asked.await.expect("a request ends")
    }

    /// Waits until the status of the rule `r` is as expected.
    pub async fn status_when(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        self.answer_when("/rules/r/status", what, holds).await
    }

    /// Waits until the response of a path is as expected.
    pub async fn answer_when(&self, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let answer = self.asks("GET", path, &Value::Null).await.json();
            if holds(&answer) {
                return answer;
            }
            assert!(began.elapsed() < LIMIT, "{what}: {answer:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Connects to a path of the data server, once it exists.
    pub async fn connect(&self, path: &str) -> Client {
        let began = Instant::now();
        loop {
            match tokio_tungstenite::connect_async(self.data_url(path)).await {
                Ok((client, _)) => return client,
                Err(error) => assert!(began.elapsed() < LIMIT, "{path} does not exist: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The response to a GET request.
    pub fn get(&self, path: &str) -> Value {
        self.ask("GET", path, &Value::Null).json()
    }

    /// A change that succeeds.
    pub fn done(&self, method: &str, path: &str, body: &Value) {
        let answer = self.ask(method, path, body);
        assert!((200..300).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.body);
    }

    /// The states of all rules, once none of them is changing.
    pub fn states(&self) -> BTreeMap<String, String> {
        let began = Instant::now();
        loop {
            let rules = self.get("/rules");
            let rules = rules.as_array().expect("a list").iter();
            let text = |rule: &Value, name: &str| rule[name].as_str().unwrap_or_default().to_owned();
            let states: BTreeMap<String, String> = rules.map(|rule| (text(rule, "id"), text(rule, "status"))).collect();
            if states.values().all(|state| state == "running" || state.starts_with("stopped")) {
                return states;
            }
            assert!(began.elapsed() < LIMIT, "{states:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// Waits until it has ended and all its output was read.
    pub fn ends(&mut self) -> ExitStatus {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it can be waited for") {
                break status;
            }
            assert!(begun.elapsed() < LIMIT, "it does not end:\n{}", self.has_said());
            std::thread::sleep(Duration::from_millis(10));
        };
        let lines = self.said.lines.lock().expect("no panic while it is held");
        drop(self.said.more.wait_timeout_while(lines, LIMIT, |lines| !lines.ended));
        status
    }

    /// Ends it with a signal.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("-TERM");
        self.ends()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Said {
    fn listen(&self, stderr: impl BufRead) {
        for line in stderr.lines().map_while(Result::ok) {
            self.lines.lock().expect("no panic while it is held").all.push(line);
            self.more.notify_all();
        }
        self.lines.lock().expect("no panic while it is held").ended = true;
        self.more.notify_all();
    }

    fn wait_for(&self, parts: &[&str]) -> String {
        let until = Instant::now() + LIMIT;
        let mut lines = self.lines.lock().expect("no panic while it is held");
        loop {
            while lines.seen < lines.all.len() {
                lines.seen += 1;
                let line = &lines.all[lines.seen - 1];
                if parts.iter().all(|part| line.contains(part)) {
                    return line.clone();
                }
            }
            let left = until.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                let all = lines.all.join("\n");
                drop(lines);
                panic!("it never said {parts:?}, but:\n{all}");
            }
            lines = self.more.wait_timeout(lines, left).expect("no panic while it is held").0;
        }
    }
}

impl Answer {
    /// The body of a successful response.
    pub fn done(self) -> String {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.body);
        self.body
    }

    /// The JSON of a successful response.
    pub fn json(self) -> Value {
        serde_json::from_str(&self.done()).expect("an answer of JSON")
    }
}

/// A free port. On Linux no other program gets it while this test program runs: a socket that does not listen holds it,
/// and only a socket that names the port can be bound beside it. Elsewhere, the port is free at this moment.
pub fn free_port() -> u16 {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("the option is known");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port is free");
    let port = socket.local_addr().expect("it is bound").as_socket().expect("an address of IP").port();
    if cfg!(target_os = "linux") {
        std::mem::forget(socket);
    }
    port
}

/// Sends a request with further `headers`, each with its line end; `None`: there was no complete response.
pub fn ask(rest: &str, method: &str, path: &str, headers: &str, body: &str) -> Option<Answer> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {rest}\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
        body.len()
    );
    raw(rest, &[head.as_bytes(), body.as_bytes()].concat())
}

/// Sends bytes, and reads until the other side closes; `None`: the received bytes are not an HTTP response.
pub fn raw(rest: &str, bytes: &[u8]) -> Option<Answer> {
    let mut socket = TcpStream::connect(rest).ok()?;
    socket.set_read_timeout(Some(LIMIT)).ok()?;
    // It may close the connection before it has read everything.
    let _ = socket.write_all(bytes);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    parse(&answer)
}

/// Parses an HTTP response; `None` if it is invalid or incomplete.
pub fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 4..]);
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_lowercase(), value.to_owned()));
    let headers: BTreeMap<String, String> = lines.filter_map(header).collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok());
    if length.is_some_and(|length: usize| body.len() < length) {
        return None;
    }
    let body = match headers.get("transfer-encoding").map(String::as_str) {
        Some("chunked") => unchunked(body)?,
        _ => body.to_vec(),
    };
    Some(Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() })
}

/// A body without the sizes of its chunks; `None`: its end is missing.
fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|bytes| bytes == b"\r\n")?;
        let size = usize::from_str_radix(str::from_utf8(&rest[..end]).ok()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(end + 2..end + 2 + size)?);
        rest = rest.get(end + 2 + size + 2..)?;
    }
}

fn text_of(body: &Value) -> String {
    match body {
        Value::Null => String::new(),
        // Text is sent as it is.
        Value::String(text) => text.clone(),
        body => body.to_string(),
    }
}
