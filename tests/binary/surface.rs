//! The REST API against recorded facts: the cases of `tests/conformance/surface.json`, `rest.json`, `steps.json` and
//! `peer_steps.json`, step by step.
//!
//! A case is requests with their responses, and what websocket clients send and receive in between. Each has its own
//! service, on free ports and with its own folder. `CASE=text` filters by name; `overruled.json` names cases where a
//! decision overrules the recorded response.
//!
//! A step is one of
//! - `{"method", "path", "body"?, "headers"?, "status", "match", "answer", "answer_headers"?, "ignore"?, "capture"?,
//!   "retry"?}`: a request. `match`: exact, text, subset, keys, has or status;
//! - `{"connect": "c", "path", "refused"?: STATUS}`, `{"send": "c", "text"}`, `{"receive": "c", "messages"}`,
//!   `{"closed": "c", "code"?}`, `{"close": "c"}`: a websocket client;
//! - `{"events": "c", "path"}`: a client of server-sent events on the data server, whose data is received;
//! - `{"wait": MS}`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use plutino::api;
use plutino::config::Config;
use plutino::io::websocket::ServerSettings;
use plutino::service::{Service, ServiceSettings};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::process::serve;

/// How many cases run at a time: most of them mostly wait.
const JOBS: usize = 8;

/// For this long no more messages may arrive after the last expected one.
const QUIET: Duration = Duration::from_millis(150);

/// The longest time to wait for an expected message or answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// No case takes longer.
const LIMIT: Duration = Duration::from_secs(180);

/// Prefixes of the names of cases whose routes or features are not implemented yet.
const PENDING: &[&str] = &[];

#[tokio::test]
async fn surface() {
    suite("surface").await;
}

#[tokio::test]
async fn rest() {
    suite("rest").await;
}

/// Cases from eKuiper's own tests.
#[tokio::test]
async fn peer_steps() {
    suite("peer_steps").await;
}

#[tokio::test]
async fn steps() {
    suite("steps").await;
}

async fn suite(name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).expect("the file is there");
    let cases: Vec<Value> = serde_json::from_str(&read(&format!("{name}.json"))).expect("cases are JSON");
    let overruled: BTreeMap<String, BTreeMap<String, String>> =
        serde_json::from_str(&read("overruled.json")).expect("overruled cases are JSON");
    let overruled = overruled.get(name).cloned().unwrap_or_default();
    let only = std::env::var("CASE").unwrap_or_default();
    let title = |case: &Value| case["name"].as_str().unwrap_or_default().to_owned();
    for known in overruled.keys() {
        assert!(cases.iter().any(|case| title(case) == *known), "overruled, and no case of {name}: {known}");
    }
    let wanted: Vec<&Value> =
        cases.iter().filter(|case| title(case).contains(&only) && !overruled.contains_key(&title(case))).collect();
    let count = wanted.len();
    let run = |case: &Value| {
        let case = case.clone();
        async move {
            let title = case["name"].as_str().unwrap_or_default().to_owned();
            let ended = timeout(LIMIT, Run::through(case)).await;
            (title, ended.unwrap_or_else(|_| Err("does not end".to_owned())))
        }
    };
    let outcomes: Vec<(String, Result<(), String>)> =
        futures_util::stream::iter(wanted.into_iter().map(run)).buffer_unordered(JOBS).collect().await;
    let (mut failed, mut pending) = (Vec::new(), 0);
    for (title, outcome) in outcomes {
        let awaited = PENDING.iter().any(|start| title.starts_with(start));
        match outcome {
            Ok(()) => {}
            Err(why) if awaited => {
                pending += 1;
                println!("pending {name} · {title}: {why}");
            }
            Err(why) => failed.push(format!("{title}: {why}")),
        }
    }
    println!("{name}: {} of {count} passed, {pending} pending", count - pending - failed.len());
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}

/// A websocket client.
struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// messages that came while something else was awaited
    early: VecDeque<Message>,
}

impl Client {
    /// The next message, except the answer to a ping of [`Client::arrives`].
    async fn next(&mut self) -> Option<Result<Message, tungstenite::Error>> {
        match self.early.pop_front() {
            Some(message) => Some(Ok(message)),
            None => self.socket.next().await,
        }
    }

    /// Waits until the service has read everything that was sent: it answers a ping after that. It has one data thread,
    /// so messages that other clients send later come later.
    async fn arrives(&mut self) -> Result<(), String> {
        self.socket.send(Message::Ping(MARK.into())).await.map_err(|error| error.to_string())?;
        loop {
            match timeout(PATIENCE, self.socket.next()).await {
                Ok(Some(Ok(Message::Pong(payload)))) if payload[..] == *MARK => return Ok(()),
                Ok(Some(Ok(message))) => {
                    let ends = message.is_close();
                    self.early.push_back(message);
                    // What the service refuses ends its connection.
                    if ends {
                        return Ok(());
                    }
                }
                Ok(Some(Err(_)) | None) => return Ok(()),
                Err(_) => return Err("a ping is not answered".to_owned()),
            }
        }
    }
}

/// The payload of pings.
const MARK: &[u8] = b"mark";

/// One case in progress.
struct Run {
    service: Service,
    rest: SocketAddr,
    known: BTreeMap<String, String>,
    clients: HashMap<String, Client>,
    events: HashMap<String, Lines<BufReader<TcpStream>>>,
    _data: tempfile::TempDir,
}

/// An answer.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    text: String,
}

impl Run {
    async fn through(case: Value) -> Result<(), String> {
        let data = tempfile::tempdir().expect("a temporary folder");
        let server = ServerSettings { ip: "127.0.0.1".to_owned(), port: 0, ..ServerSettings::default() };
        let config = Config { server, ..Config::default() };
        let settings = ServiceSettings { config, data: data.path().to_owned(), workers: 1, cluster: None };
        let service = Service::open(settings).await.map_err(|error| error.to_string())?;
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| error.to_string())?;
        let rest = listener.local_addr().map_err(|error| error.to_string())?;
        let server = tokio::spawn(std::future::IntoFuture::into_future(axum::serve(
            listener,
            api::app(service.clone(), None, false),
        )));
        let known = BTreeMap::from([("rest".to_owned(), format!("http://{rest}"))]);
        let mut run = Run { service, rest, known, clients: HashMap::new(), events: HashMap::new(), _data: data };
        let outcome = run.steps(&case).await;
        server.abort();
        run.clients.clear();
        run.service.stop().await;
        outcome
    }

    async fn steps(&mut self, case: &Value) -> Result<(), String> {
        let mut paused = false;
        for (index, step) in case["steps"].as_array().into_iter().flatten().enumerate() {
            let done =
                if step["method"].is_string() { self.request(step, paused).await } else { self.socket(step).await };
            paused = step["wait"].is_u64();
            done.map_err(|why| {
                let what = step["method"].as_str().unwrap_or_default();
                format!("step {} ({what} {}): {why}", index + 1, step["path"].as_str().unwrap_or_default())
            })?;
        }
        Ok(())
    }

    /// `paused`: the step before was a pause, which may be too short on a busy machine. What is read then is read again
    /// until it is as expected.
    async fn request(&mut self, step: &Value, paused: bool) -> Result<(), String> {
        let again = step["retry"].is_u64() || (paused && step["method"] == "GET");
        let deadline = Instant::now() + if again { PATIENCE } else { Duration::ZERO };
        loop {
            let answer = self.ask(step).await?;
            let verdict = self.judge(step, &answer);
            if verdict.is_err() && Instant::now() < deadline {
                sleep(Duration::from_millis(20)).await;
                continue;
            }
            for (name, key) in step["capture"].as_object().into_iter().flatten() {
                let value: Value = serde_json::from_str(&answer.text).unwrap_or_default();
                let value = &value[key.as_str().unwrap_or_default()];
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                self.known.insert(name.clone(), text);
            }
            return verdict;
        }
    }

    async fn ask(&self, step: &Value) -> Result<Answer, String> {
        let path = self.fill(&step["path"]);
        let mut head = Vec::new();
        let body = match self.fill(&step["body"]) {
            Value::Null => Vec::new(),
            body => {
                let (kind, bytes) = match &body {
                    Value::Object(members) if members.contains_key("multipart") => multipart(&members["multipart"]),
                    Value::String(text) => ("application/json", text.clone().into_bytes()),
                    body => ("application/json", body.to_string().into_bytes()),
                };
                head.push(("content-type".to_owned(), kind.to_owned()));
                bytes
            }
        };
        for (name, value) in self.fill(&step["headers"]).as_object().into_iter().flatten() {
            head.push((name.clone(), value.as_str().unwrap_or_default().to_owned()));
        }
        let method = step["method"].as_str().unwrap_or_default();
        let mut text = format!("{method} {} HTTP/1.1\r\nhost: {}\r\n", path.as_str().unwrap_or_default(), self.rest);
        for (name, value) in head {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()));
        let failed = |error: std::io::Error| error.to_string();
        let mut stream = TcpStream::connect(self.rest).await.map_err(failed)?;
        stream.write_all(text.as_bytes()).await.map_err(failed)?;
        stream.write_all(&body).await.map_err(failed)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map_err(failed)?;
        let serve::Answer { status, headers, body } = serve::parse(&answer).ok_or("no answer")?;
        Ok(Answer { status, headers: headers.into_iter().collect(), text: body })
    }

    fn judge(&self, step: &Value, answer: &Answer) -> Result<(), String> {
        let Answer { status, headers, text } = answer;
        let right = match &step["status"] {
            Value::String(hundred) => *hundred == format!("{}xx", status / 100),
            number => *number == json!(status),
        };
        if !right {
            return Err(format!("status {status}, want {}: {}", step["status"], text.trim()));
        }
        for (name, value) in step["answer_headers"].as_object().into_iter().flatten() {
            let found = headers.iter().find(|(known, _)| *known == name.to_lowercase()).map(|(_, value)| value);
            if found.map(String::as_str) != value.as_str() {
                return Err(format!("header {name} is {found:?}, want {value}"));
            }
        }
        let want = self.fill(&step["answer"]);
        let ignore: Vec<&str> = step["ignore"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let parsed: Option<Value> = serde_json::from_str(text).ok();
        let texts = || want.as_array().into_iter().flatten().filter_map(Value::as_str);
        let agrees = match step["match"].as_str().unwrap_or("status") {
            "status" => true,
            "text" => want.as_str() == Some(text.trim()),
            "has" => texts().all(|part| text.contains(part)),
            "keys" => parsed.as_ref().and_then(Value::as_object).is_some_and(|members| {
                members.len() == texts().count() && texts().all(|key| members.contains_key(key))
            }),
            how => parsed.as_ref().is_some_and(|parsed| same(&want, parsed, &ignore, how == "subset")),
        };
        if agrees { Ok(()) } else { Err(format!("want {want} got {}", text.trim())) }
    }

    async fn socket(&mut self, step: &Value) -> Result<(), String> {
        let name = |key: &str| step[key].as_str().map(str::to_owned);
        if let Some(millis) = step["wait"].as_u64() {
            sleep(Duration::from_millis(millis)).await;
        } else if let Some(client) = name("connect") {
            return self.connect(step, client).await;
        } else if let Some(client) = name("events") {
            return self.open_events(step, client).await;
        } else if let Some(client) = name("send") {
            let text = self.fill(&step["text"]);
            let message = match step["binary"].as_str() {
                Some(hex) => Message::binary(bytes_of(hex)),
                None => Message::text(text.as_str().unwrap_or_default()),
            };
            let client = self.client(&client)?;
            client.socket.send(message).await.map_err(|error| error.to_string())?;
            client.arrives().await?;
        } else if let Some(client) = name("receive") {
            return self.receive(step, &client).await;
        } else if let Some(client) = name("closed") {
            return self.closed(step, &client).await;
        } else if let Some(client) = name("close") {
            let mut client = self.clients.remove(&client).ok_or("no such client")?;
            // The service answers when it has read everything.
            let _ = client.socket.close(None).await;
            while let Ok(Some(Ok(_))) = timeout(PATIENCE, client.next()).await {}
        } else {
            return Err(format!("what is {step}?"));
        }
        Ok(())
    }

    fn client(&mut self, name: &str) -> Result<&mut Client, String> {
        self.clients.get_mut(name).ok_or_else(|| format!("no client {name}"))
    }

    async fn open_events(&mut self, step: &Value, name: String) -> Result<(), String> {
        let path = self.fill(&step["path"]);
        let address = self.service.listening().await.ok_or("nobody listens")?;
        let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let head = format!("GET {} HTTP/1.1\r\nHost: {address}\r\n\r\n", path.as_str().unwrap_or_default());
        stream.write_all(head.as_bytes()).await.map_err(|error| error.to_string())?;
        let mut lines = BufReader::new(stream).lines();
        let first = lines.next_line().await.map_err(|error| error.to_string())?.unwrap_or_default();
        if first != "HTTP/1.1 200 OK" {
            return Err(format!("events are answered by {first}"));
        }
        self.events.insert(name, lines);
        Ok(())
    }

    async fn connect(&mut self, step: &Value, name: String) -> Result<(), String> {
        let path = self.fill(&step["path"]);
        let address = self.service.listening().await.ok_or("nobody listens")?;
        let refused = match connect_async(format!("ws://{address}{}", path.as_str().unwrap_or_default())).await {
            Ok((socket, _)) => {
                self.clients.insert(name, Client { socket, early: VecDeque::new() });
                Value::Null
            }
            Err(tungstenite::Error::Http(answer)) => json!(answer.status().as_u16()),
            Err(error) => return Err(error.to_string()),
        };
        if refused == step["refused"] { Ok(()) } else { Err(format!("connecting answers {refused}")) }
    }

    async fn receive(&mut self, step: &Value, name: &str) -> Result<(), String> {
        let mut want: Vec<Value> = self.fill(&step["messages"]).as_array().cloned().unwrap_or_default();
        let mut got = Vec::new();
        loop {
            let patience = if got.len() < want.len() { PATIENCE } else { QUIET };
            let Ok(Some(bytes)) = timeout(patience, self.message(name)).await else { break };
            let text = || json!({"text": bytes.iter().map(|byte| char::from(*byte)).collect::<String>()});
            got.push(serde_json::from_slice(&bytes).unwrap_or_else(|_| text()));
            if got.len() > want.len() {
                break;
            }
        }
        if step["compare"] == "unordered" {
            want.sort_by_key(Value::to_string);
            got.sort_by_key(Value::to_string);
        }
        let ignore: Vec<&str> = step["ignore"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let (want, got) = (Value::Array(want), Value::Array(got));
        if same(&want, &got, &ignore, false) { Ok(()) } else { Err(format!("{name} received {got}, want {want}")) }
    }

    /// The next message to a client of either kind; `None` at its end.
    async fn message(&mut self, name: &str) -> Option<Vec<u8>> {
        if let Some(lines) = self.events.get_mut(name) {
            loop {
                if let Some(data) = lines.next_line().await.ok()??.strip_prefix("data: ") {
                    return Some(data.as_bytes().to_vec());
                }
            }
        }
        loop {
            match self.clients.get_mut(name)?.next().await?.ok()? {
                Message::Text(text) => return Some(text.as_bytes().to_vec()),
                Message::Binary(bytes) => return Some(bytes.to_vec()),
                _ => {}
            }
        }
    }

    async fn closed(&mut self, step: &Value, name: &str) -> Result<(), String> {
        let client = self.client(name)?;
        let code = loop {
            match timeout(PATIENCE, client.next()).await {
                Ok(Some(Ok(Message::Close(frame)))) => break frame.map_or(1005, |frame| u16::from(frame.code)),
                Ok(Some(Ok(_))) => {}
                Ok(_) => break 1006,
                Err(_) => return Err(format!("{name} is still connected")),
            }
        };
        match step["code"].as_u64() {
            Some(want) if want != u64::from(code) => Err(format!("{name} ended with {code}, want {want}")),
            _ => Ok(()),
        }
    }

    /// A value of a step with `{name}` replaced by the captured value of this name.
    fn fill(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => {
                let mut text = text.clone();
                for (name, known) in &self.known {
                    text = text.replace(&format!("{{{name}}}"), known);
                }
                Value::String(text)
            }
            Value::Array(items) => items.iter().map(|item| self.fill(item)).collect(),
            Value::Object(members) => {
                let members = members.iter().map(|(key, value)| (key.clone(), self.fill(value)));
                Value::Object(members.collect::<Map<_, _>>())
            }
            other => other.clone(),
        }
    }
}

/// Whether `got` is as expected: numbers by value, members in any order; for a subset, the expected members must exist.
fn same(want: &Value, got: &Value, ignore: &[&str], subset: bool) -> bool {
    match (want, got) {
        (Value::Number(want), Value::Number(got)) => {
            let (want, got) = (want.as_f64().unwrap_or(f64::NAN), got.as_f64().unwrap_or(f64::NAN));
            want == got || (want - got).abs() <= 1e-9 * want.abs().max(got.abs())
        }
        (Value::Object(want), Value::Object(got)) => {
            (subset || want.len() == got.len())
                && want.iter().all(|(key, value)| {
                    got.get(key)
                        .is_some_and(|other| ignore.contains(&key.as_str()) || same(value, other, ignore, subset))
                })
        }
        (Value::Array(want), Value::Array(got)) if subset => {
            want.iter().all(|item| got.iter().any(|other| same(item, other, ignore, true)))
        }
        (Value::Array(want), Value::Array(got)) => {
            want.len() == got.len() && want.iter().zip(got).all(|(want, got)| same(want, got, ignore, false))
        }
        (want, got) => want == got,
    }
}

/// A form with files: `{FIELD: [NAME, TEXT]}`.
fn multipart(fields: &Value) -> (&'static str, Vec<u8>) {
    let mut body = String::new();
    for (field, file) in fields.as_object().into_iter().flatten() {
        let part = |index: usize| file[index].as_str().unwrap_or_default().to_owned();
        body.push_str(&format!(
            "--edge\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"{}\"\r\nContent-Type: text/plain\r\n\r\n{}\r\n",
            part(0),
            part(1)
        ));
    }
    body.push_str("--edge--\r\n");
    ("multipart/form-data; boundary=edge", body.into_bytes())
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
    digits.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}
