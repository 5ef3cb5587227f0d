//! The baselines: hand-written programs for one workload each, with tokio-tungstenite and serde.
//!
//! A relay receives messages on `/in` and sends results to all clients of `/out`. It runs as a separate process (the
//! benchmark starts itself with `relay KIND PORT`), so that its CPU time is counted exactly like Plutino's. It handles
//! all available frames before it flushes, on one thread, and waits for slow receivers, which slows the sender.

use crate::failure::{Doing, Failure, Outcome, wrong};
use futures_util::stream::{SplitSink, StreamExt};
use futures_util::{FutureExt, SinkExt};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::{LocalSet, spawn_local};
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// Messages handled before the results are flushed; about as many as one read from a busy socket returns.
const BATCH: usize = 512;

/// What a relay does with a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Forwards every second message without parsing it.
    Half,
    /// Forwards every message without parsing it.
    All,
    /// Parses the whole message into a struct; forwards it if the temperature is above 50.
    TypedFilter,
    /// Parses the needed fields into a struct; writes four computed ones.
    TypedProjection,
    /// Parses the needed fields; every second writes average, maximum and count by device.
    TypedWindow,
    /// Answers every second message with five bytes at a fixed position: the result of a rule that reads one field,
    /// without reading it.
    Slice,
    /// Reads one field with serde, which skips the others, and sends it if it is above 50.
    SerdeField,
    /// The same, and forwards the message.
    SerdeFilter,
}

/// Every kind with its name on the hidden command line and in the table.
const KINDS: &[(Kind, &str)] = &[
    (Kind::Half, "raw-relay"),
    (Kind::All, "raw-relay-all"),
    (Kind::TypedFilter, "typed-filter"),
    (Kind::TypedProjection, "typed-projection"),
    (Kind::TypedWindow, "typed-window"),
    (Kind::Slice, "raw-relay-slice"),
    (Kind::SerdeField, "serde-field"),
    (Kind::SerdeFilter, "serde-filter"),
];

impl Kind {
    /// The name.
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// The kind of a name.
    pub fn of(name: &str) -> Outcome<Kind> {
        let found = KINDS.iter().find(|(_, known)| *known == name);
        found.map(|(kind, _)| *kind).ok_or_else(|| Failure::Usage(format!("there is no relay `{name}`")))
    }
}

/// Runs a relay on a port of 127.0.0.1 until the process is ended.
pub fn run(kind: Kind, port: u16) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().doing("starting tokio")?;
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.doing("listening")?;
        let receivers = Rc::new(Receivers::default());
        loop {
            let (stream, _) = listener.accept().await.doing("accepting")?;
            spawn_local(serve(stream, kind, receivers.clone()));
        }
    })
}

type Socket = WebSocketStream<TcpStream>;

/// The clients of `/out`.
#[derive(Default)]
struct Receivers(Mutex<Vec<SplitSink<Socket, Message>>>);

impl Receivers {
    /// Sends all results to all clients, one flush each. A client that fails is removed.
    async fn send(&self, answers: &mut Vec<Message>) {
        let mut clients = self.0.lock().await;
        let mut at = 0;
        while at < clients.len() {
            match feed(&mut clients[at], answers).await {
                Ok(()) => at += 1,
                Err(_) => drop(clients.swap_remove(at)),
            }
        }
        answers.clear();
    }
}

async fn feed(client: &mut SplitSink<Socket, Message>, answers: &[Message]) -> Result<(), WsError> {
    for answer in answers {
        client.feed(answer.clone()).await?;
    }
    client.flush().await
}

/// Records the path of a handshake.
struct Path<'a>(&'a mut String);

impl Callback for Path<'_> {
    fn on_request(self, request: &Request, response: Response) -> Result<Response, ErrorResponse> {
        self.0.push_str(request.uri().path());
        Ok(response)
    }
}

async fn serve(stream: TcpStream, kind: Kind, receivers: Rc<Receivers>) {
    // A connection that cannot be served is dropped: its client, the benchmark, reports it.
    let _ = stream.set_nodelay(true);
    let mut path = String::new();
    let Ok(socket) = accept_hdr_async(stream, Path(&mut path)).await else { return };
    if path == "/out" {
        let (sink, mut source) = socket.split();
        receivers.0.lock().await.push(sink);
        while let Some(Ok(_)) = source.next().await {}
    } else if kind == Kind::TypedWindow {
        windows(socket, receivers).await;
    } else {
        answers(socket, kind, receivers).await;
    }
}

/// Answers message by message.
async fn answers(mut socket: Socket, kind: Kind, receivers: Rc<Receivers>) {
    let mut rule = Rule { kind, odd: false, place: 0 };
    let mut ready = Vec::with_capacity(BATCH);
    while let Some(first) = socket.next().await {
        let mut next = Some(first);
        for _ in 0..BATCH {
            match next {
                Some(Ok(Message::Text(text))) => ready.extend(rule.answer(text)),
                Some(Ok(_)) => {}
                Some(Err(_)) => return,
                None => break,
            }
            next = socket.next().now_or_never().flatten();
        }
        if let Some(Ok(Message::Text(text))) = next {
            ready.extend(rule.answer(text));
        }
        if !ready.is_empty() {
            receivers.send(&mut ready).await;
        }
    }
}

/// The state of a relay that answers message by message.
struct Rule {
    kind: Kind,
    odd: bool,
    /// The position of the temperature in a large message, found in the first one.
    place: usize,
}

impl Rule {
    fn answer(&mut self, text: Utf8Bytes) -> Option<Message> {
        match self.kind {
            Kind::All => Some(Message::Text(text)),
            Kind::Half => self.second().then_some(Message::Text(text)),
            Kind::Slice => {
                if self.place == 0 {
                    self.place = text.find("\"temperature\":")?;
                }
                let field = text.get(self.place..self.place + "\"temperature\":00.00".len())?;
                self.second().then(|| Message::text(format!("{{{field}}}")))
            }
            Kind::TypedFilter => {
                let telemetry: Telemetry = serde_json::from_str(&text).ok()?;
                (telemetry.temperature > 50.0).then_some(Message::Text(text))
            }
            Kind::TypedProjection => {
                let read: Readings = serde_json::from_str(&text).ok()?;
                if read.humidity <= 30.0 {
                    return None;
                }
                let projected = Projected {
                    device: read.device,
                    f: (read.temperature * 1.8 + 32.0).round(),
                    st: read.status.to_uppercase(),
                    h: read.humidity / 100.0,
                };
                serde_json::to_string(&projected).ok().map(Message::text)
            }
            Kind::SerdeFilter => {
                let field: Field = serde_json::from_str(&text).ok()?;
                (field.temperature > 50.0).then_some(Message::Text(text))
            }
            Kind::SerdeField => {
                let field: Field = serde_json::from_str(&text).ok()?;
                if field.temperature <= 50.0 {
                    return None;
                }
                serde_json::to_string(&field).ok().map(Message::text)
            }
            Kind::TypedWindow => None,
        }
    }

    fn second(&mut self) -> bool {
        self.odd = !self.odd;
        !self.odd
    }
}

/// Aggregates by device in windows of a second, aligned to the clock's seconds.
async fn windows(mut socket: Socket, receivers: Rc<Receivers>) {
    let mut devices: HashMap<String, Device> = HashMap::new();
    let mut end = next_second();
    loop {
        let next = tokio::select! {
            biased;
            () = tokio::time::sleep_until(end) => {
                end = next_second();
                let rows: Vec<Row> = devices.iter_mut().filter_map(|(name, device)| device.close(name)).collect();
                if let (false, Ok(text)) = (rows.is_empty(), serde_json::to_string(&rows)) {
                    receivers.send(&mut vec![Message::text(text)]).await;
                }
                continue;
            }
            next = socket.next() => next,
        };
        if next.is_none() {
            return;
        }
        let mut next = next;
        for _ in 0..BATCH {
            match next {
                Some(Ok(Message::Text(text))) => add(&mut devices, &text),
                Some(Ok(_)) => {}
                _ => break,
            }
            next = socket.next().now_or_never().flatten();
        }
        match next {
            Some(Ok(Message::Text(text))) => add(&mut devices, &text),
            Some(Err(_)) => return,
            _ => {}
        }
    }
}

fn next_second() -> tokio::time::Instant {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    tokio::time::Instant::now() + (Duration::from_secs(1) - Duration::from_nanos(u64::from(now.subsec_nanos())))
}

fn add(devices: &mut HashMap<String, Device>, text: &str) {
    let Ok(warmth) = serde_json::from_str::<Warmth>(text) else { return };
    // Looked up by the borrowed name first: only a new device needs an allocation.
    let device = match devices.get_mut(warmth.device) {
        Some(device) => device,
        None => devices.entry(warmth.device.to_owned()).or_default(),
    };
    device.count += 1;
    device.sum += warmth.temperature;
    device.greatest = device.greatest.max(warmth.temperature);
}

struct Device {
    count: u64,
    sum: f64,
    greatest: f64,
}

impl Default for Device {
    fn default() -> Device {
        Device { count: 0, sum: 0.0, greatest: f64::NEG_INFINITY }
    }
}

impl Device {
    fn close<'a>(&mut self, name: &'a str) -> Option<Row<'a>> {
        let Device { count, sum, greatest } = std::mem::take(self);
        (count > 0).then(|| Row { device: name, a: sum / count as f64, m: greatest, n: count })
    }
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "a typed program parses the fields it knows, whether or not this filter reads them")]
struct Telemetry<'a> {
    device: &'a str,
    ts: u64,
    seq: u64,
    temperature: f64,
    humidity: f64,
    pressure: f64,
    status: &'a str,
    location: Location,
    battery: u32,
    site: &'a str,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "see Telemetry")]
struct Location {
    lat: f64,
    lon: f64,
}

#[derive(Deserialize)]
struct Readings<'a> {
    device: &'a str,
    temperature: f64,
    humidity: f64,
    status: &'a str,
}

#[derive(Serialize)]
struct Projected<'a> {
    device: &'a str,
    f: f64,
    st: String,
    h: f64,
}

#[derive(Deserialize)]
struct Warmth<'a> {
    device: &'a str,
    temperature: f64,
}

#[derive(Serialize)]
struct Row<'a> {
    device: &'a str,
    a: f64,
    m: f64,
    n: u64,
}

#[derive(Deserialize, Serialize)]
struct Field {
    temperature: f64,
}

/// The hidden command line `relay KIND PORT`; none if the arguments are not for a relay.
pub fn asked(arguments: &[String]) -> Option<Outcome<()>> {
    match arguments {
        [verb, kind, port] if verb == "relay" => Some(Kind::of(kind).and_then(|kind| match port.parse() {
            Ok(port) => run(kind, port),
            Err(_) => wrong(format!("`{port}` is no port")),
        })),
        _ => None,
    }
}
