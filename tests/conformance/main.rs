//! The conformance suite: rules, inputs over real websockets, and the messages that must come out.
//!
//! A case is data (`tests/conformance/*.json`, an array of cases a file). It runs through the library, as it would in
//! the binary: streams into a catalog, SQL through the planner, an engine with its data server on a free port, clients
//! over TCP. A case that needs something which this version refuses with "not supported yet" is *pending*, never
//! passed. Cases that a decision of the project overrules are named in `tests/conformance/overruled.json`, each with
//! its reason.
//!
//! A case has
//!
//! - `name`: one line, unique in its file
//! - `setup`: statements, in order; by default one schemaless JSON stream `demo` at `"@demo"`. `"@x"` is replaced by a
//!   path of the case, and a client is connected to it
//! - `sql`, `options`, `sink`: the rule, its options, further properties of its websocket sink; or `rule`: all of it
//! - `input`: steps: `["x", VALUE]` sends VALUE to `"@x"`, `["x", null, "text"]` sends the text as it is, `{"wait": MS}`,
//!   `{"close": "x"}`
//! - `expect`: the messages of the sink, parsed; `compare`: `exact` (default), `unordered`, `rows`, `rowset`; `ignore`:
//!   keys whose values are not compared; numbers may differ by 1e-9 of their size, unless `exact` is true
//! - `expect_error`: `{"at": "setup" | "rule"}`: where it must be refused
//! - `why`: of a case in `decisions.json` and `forms.json`: what speaks for its answer
//!
//! `CASE=text cargo test --test conformance` runs the cases with this text in their names, with all that they gave.
//! `CASES=file cargo test --test conformance -- --nocapture` runs the cases of another file, too. `WORKERS=3 cargo test
//! --test conformance` runs them on three data threads, `HOSTS=2` in two processes: the answers are the same. Those of
//! a few files always run in these ways, too.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::SinkExt;
use futures_util::stream::{FuturesUnordered, StreamExt};
use plutino::cluster::{self, ClusterError, Introduction, Links, Membership};
use plutino::definition::rule::{self, Rule, RuleOptions};
use plutino::definition::stream::{Catalog, StreamDef};
use plutino::engine::{Engine, EngineSettings, Keeps, RuleSpec, SinkAction, TableSpec};
use plutino::io::connector;
use plutino::io::websocket::ServerSettings;
use plutino::plan;
use plutino::plan::physical::Role;
use plutino::plan::view::Connected;
use plutino::sql;
use plutino::text::document::{Document, Severity};
use regex::Regex;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// How many cases run at a time: most of them mostly wait.
const JOBS: usize = 24;

/// For this long no more messages may arrive after the last expected one.
const QUIET: Duration = Duration::from_millis(150);

/// The longest time to wait for an expected message.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long rows from one data thread or process may take to another one before a row from there is sent.
const CROSSING: Duration = Duration::from_millis(50);

/// Part of every refusal of a feature that is not implemented yet.
const NOT_YET: &str = "not supported yet";

/// Part of every refusal of a feature that needs a single process.
const NEEDS_ONE: &str = "is not possible with several processes";

/// The files whose cases always run on several threads and in several processes, too.
const SHORT: [&str; 2] = ["streaming", "peer"];

/// No case takes longer.
const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn language() {
    file("lang").await;
}

#[tokio::test]
async fn functions() {
    file("functions").await;
}

#[tokio::test]
async fn streaming() {
    file("streaming").await;
}

#[tokio::test]
async fn three_threads() {
    for name in SHORT {
        suite(name, &folder().join(format!("{name}.json")), Shape { workers: 3, hosts: 1 }).await;
    }
}

#[tokio::test]
async fn two_processes() {
    for name in SHORT {
        suite(name, &folder().join(format!("{name}.json")), Shape { workers: 1, hosts: 2 }).await;
    }
}

#[tokio::test]
async fn sinks() {
    file("sink").await;
}

/// Cases from eKuiper's own tests and from feeds: the recorded ones, and the project's own of the same kinds.
#[tokio::test]
async fn peer() {
    file("peer").await;
}

/// Cases of the project's own: operators, types, clauses and functions, a table each.
#[tokio::test]
async fn tables() {
    file("tables").await;
}

/// Cases of the project's own: decisions that differ from eKuiper.
#[tokio::test]
async fn decisions() {
    file("decisions").await;
}

/// Cases of the project's own: the forms of results and the formats of streams.
#[tokio::test]
async fn forms() {
    file("forms").await;
}

#[tokio::test]
async fn cases_of_a_file() {
    if let Ok(path) = std::env::var("CASES") {
        suite("cases", Path::new(&path), Shape::asked()).await;
    }
}

async fn file(name: &str) {
    suite(name, &folder().join(format!("{name}.json")), Shape::asked()).await;
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

/// How a case ended.
enum Verdict {
    Passed,
    /// what this version lacks
    Pending(String),
    Failed(String),
}

/// The outcome of a case's rule.
enum Outcome {
    /// the stage, and the message
    Refused(&'static str, String),
    Messages(Vec<Value>),
}

/// A refused statement or rule: the stage and the message.
type Refusal = (&'static str, String);

/// Where the cases run.
#[derive(Clone, Copy)]
struct Shape {
    /// data threads of each process
    workers: usize,
    /// processes: each an engine of its own, connected with the others over TCP
    hosts: usize,
}

impl Shape {
    /// The shape that the environment variables select.
    fn asked() -> Shape {
        let asked = |name| std::env::var(name).map_or(1, |count| count.parse().expect("a number"));
        Shape { workers: asked("WORKERS"), hosts: asked("HOSTS") }
    }

    async fn engines(self) -> Vec<Engine> {
        let settings = EngineSettings {
            workers: self.workers,
            server: ServerSettings { ip: "127.0.0.1".into(), port: 0, ..ServerSettings::default() },
            zone: jiff::tz::TimeZone::UTC,
            shutdown: Default::default(),
        };
        if self.hosts == 1 {
            return vec![Engine::start(settings).expect("an engine starts")];
        }
        let listeners = (0..self.hosts).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free"));
        let addresses: Vec<String> = listeners
            .collect::<Vec<_>>()
            .iter()
            .map(|listener| listener.local_addr().expect("it is bound").to_string())
            .collect();
        let joining = (0..self.hosts).map(|process| {
            let membership = Membership::new(&addresses.join(","), process, self.workers).expect("the list is right");
            cluster::connect(membership, Introduction::default(), false, |_| ())
        });
        let links = timeout(LIMIT, futures_util::future::join_all(joining)).await.expect("they connect");
        let start = |links: Result<Links, ClusterError>| {
            // When one ends, all end.
            let (_, part) = cluster::start(links.expect("they fit together"), |_| ()).expect("threads");
            Engine::start_in_cluster(settings.clone(), part).expect("an engine starts")
        };
        links.into_iter().map(start).collect()
    }
}

async fn suite(name: &str, path: &Path, shape: Shape) {
    let cases = cases(path);
    let overruled: BTreeMap<String, BTreeMap<String, String>> = read(&folder().join("overruled.json"));
    let overruled = overruled.get(name).cloned().unwrap_or_default();
    for case in overruled.keys() {
        assert!(cases.iter().any(|known| known["name"] == *case), "overruled, and no case of {name}: {case}");
    }
    let only = std::env::var("CASE").unwrap_or_default();
    let verbose = !only.is_empty() || name == "cases";
    let chosen =
        cases.iter().filter(|case| text(case, "name").contains(&only) && !overruled.contains_key(text(case, "name")));
    let engines = shape.engines().await;
    // While a rule of its own runs, the data server keeps its port.
    let keeper = json!({"name": "keeper", "sql": "SELECT * FROM demo"});
    let keeper = Run::new(&engines, shape, name, 0, &keeper);
    keeper.start().await.unwrap_or_else(|(_, why)| panic!("the data server starts: {why}"));

    let (mut passed, mut pending, mut failed) = (0, BTreeMap::<String, usize>::new(), Vec::new());
    let mut waiting = chosen.enumerate();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < JOBS
            && let Some((index, case)) = waiting.next()
        {
            let engines = &engines;
            running.push(async move {
                let tag = format!("{name}{index}");
                let run = Run::new(engines, shape, &tag, index + 1, case);
                let verdict = match timeout(LIMIT, run.outcome()).await {
                    Ok(Ok(outcome)) => judge(case, outcome),
                    Ok(Err(fault)) => Verdict::Failed(fault),
                    Err(_) => Verdict::Failed("does not end".to_owned()),
                };
                for engine in engines {
                    engine.stop_rule(&tag, false).await;
                }
                (case, verdict)
            });
        }
        let Some((case, verdict)) = running.next().await else { break };
        match verdict {
            Verdict::Passed => {
                if verbose {
                    println!("passed {name} · {}", text(case, "name"));
                }
                passed += 1;
            }
            Verdict::Pending(reason) => {
                if verbose {
                    println!("pending {name} · {}: {reason}", text(case, "name"));
                }
                *pending.entry(reason).or_default() += 1;
            }
            Verdict::Failed(why) => failed.push(format!("FAIL {name} · {}: {why}", text(case, "name"))),
        }
    }
    drop(running);
    for engine in engines {
        engine.stop(std::time::Duration::from_secs(10)).await;
    }
    failed.sort();
    for failure in &failed {
        println!("{failure}");
    }
    for (reason, count) in &pending {
        println!("pending {name} · {count} × {reason}");
    }
    let sum = pending.values().sum::<usize>();
    println!("{name}: {passed} passed, {sum} pending, {} failed, {} overruled", failed.len(), overruled.len());
    assert!(failed.is_empty(), "{} cases of {name} fail", failed.len());
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn cases(path: &Path) -> Vec<Value> {
    read(path)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// One case in progress.
struct Run<'a> {
    /// one for each process
    engines: &'a [Engine],
    /// whether rows may cross threads or processes
    spread: bool,
    /// the number of its rule, the same in all processes
    number: usize,
    /// the id of its rule, also part of the names of its paths and streams
    tag: String,
    case: &'a Value,
}

type Client = WebSocketStream<TcpStream>;

impl<'a> Run<'a> {
    fn new(engines: &'a [Engine], shape: Shape, tag: &str, number: usize, case: &'a Value) -> Run<'a> {
        Run { engines, spread: shape.workers > 1 || shape.hosts > 1, number, tag: tag.to_owned(), case }
    }

    /// The process that senders connect to.
    fn input(&self) -> &'a Engine {
        &self.engines[self.number % self.engines.len()]
    }

    /// The process that the receiver connects to: another one, where there are several.
    fn output(&self) -> &'a Engine {
        &self.engines[(self.number + 1) % self.engines.len()]
    }

    /// Runs the case; an error is a failure of the run itself.
    async fn outcome(&self) -> Result<Outcome, String> {
        if let Err((stage, why)) = self.start().await {
            return Ok(Outcome::Refused(stage, why));
        }
        let mut out = self.connect(self.output(), "out").await?;
        let steps = self.case["input"].as_array().cloned().unwrap_or_default();
        let mut clients: HashMap<String, Client> = HashMap::new();
        for step in &steps {
            if let Some(name) = step[0].as_str()
                && !clients.contains_key(name)
            {
                clients.insert(name.to_owned(), self.connect(self.input(), name).await?);
            }
        }
        self.wait_for_peer().await?;
        let mut last: Option<&str> = None;
        for step in &steps {
            // There is no order between connections: what one has sent arrives before something else happens.
            if last.is_some_and(|last| step[0] != last)
                && let Some(client) = last.take().and_then(|last| clients.get_mut(last))
            {
                self.arrives(client).await?;
            }
            if let Some(name) = step[0].as_str() {
                last = Some(name);
                let message = step[2].as_str().map_or_else(|| step[1].to_string(), str::to_owned);
                let client = clients.get_mut(name).ok_or("a step sends to a client that was closed")?;
                client.send(Message::text(message)).await.map_err(|error| format!("sending to {name}: {error}"))?;
            }
            if let Some(pause) = step["wait"].as_u64() {
                sleep(Duration::from_millis(pause)).await;
            }
            if let Some(mut client) = step["close"].as_str().and_then(|name| clients.remove(name)) {
                let _ = client.close(None).await;
            }
        }
        let want = self.case["expect"].as_array().map_or(0, Vec::len);
        let patience = Instant::now() + PATIENCE;
        let mut messages = Vec::new();
        loop {
            let until = if messages.len() >= want { Instant::now() + QUIET } else { patience };
            match timeout_at(until, out.next()).await {
                Ok(Some(Ok(Message::Text(text)))) => messages.push(self.parse(&text)),
                Ok(Some(Ok(Message::Binary(bytes)))) => {
                    messages.push(self.parse(&bytes.iter().map(|byte| char::from(*byte)).collect::<String>()));
                }
                Ok(Some(Ok(_))) => {}
                Ok(Some(Err(_)) | None) | Err(_) => break,
            }
        }
        Ok(Outcome::Messages(messages))
    }

    /// A message as JSON; one that is not JSON as `{"text": …}`. The rule's id in it is replaced by RULE.
    fn parse(&self, message: &str) -> Value {
        let message = message.replace(&self.tag, "RULE");
        serde_json::from_str(&message).unwrap_or_else(|_| json!({ "text": message }))
    }

    async fn connect(&self, engine: &Engine, name: &str) -> Result<Client, String> {
        let address = engine.listening().ok_or("the data server does not listen")?;
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        let url = format!("ws://{address}/{}/{name}", self.tag);
        let (client, _) = tokio_tungstenite::client_async(url, stream)
            .await
            .map_err(|error| format!("connecting to @{name}: {error}"))?;
        Ok(client)
    }

    /// Waits until the sink has its client: a handshake ends before the socket has reached the sink.
    async fn wait_for_peer(&self) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let status = self.output().status().await;
            let rule = status.iter().find(|rule| rule.id == self.tag);
            if rule.is_some_and(|rule| rule.sinks.iter().any(|sink| sink.address.contains("/out") && sink.peers > 0)) {
                return Ok(());
            }
            sleep(Duration::from_millis(2)).await;
        }
        Err("the sink gets no client".to_owned())
    }

    /// Waits until everything that a client has sent was read: a ping is answered after that. One data thread then takes
    /// it before anything that other clients send later; rows may still be on their way from one thread to another.
    async fn arrives(&self, client: &mut Client) -> Result<(), String> {
        let _ = client.send(Message::Ping("mark".into())).await;
        loop {
            match timeout(PATIENCE, client.next()).await {
                Ok(Some(Ok(Message::Pong(payload)))) if payload[..] == *b"mark" => break,
                Ok(Some(Ok(_))) => {}
                // What is refused ends the connection.
                Ok(Some(Err(_)) | None) => break,
                Err(_) => return Err("a ping is not answered".to_owned()),
            }
        }
        if self.spread {
            sleep(CROSSING).await;
        }
        Ok(())
    }

    /// Creates the case's streams and starts its rule, in all processes.
    async fn start(&self) -> Result<(), Refusal> {
        for engine in self.engines {
            self.start_in(engine).await?;
        }
        Ok(())
    }

    async fn start_in(&self, engine: &Engine) -> Result<(), Refusal> {
        let at = |stage| move |error: String| (stage, error);
        let mut catalog = Catalog::default();
        let setup = match &self.case["setup"] {
            Value::Array(statements) => statements.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            _ => vec![r#"CREATE STREAM demo () WITH (DATASOURCE="@demo", FORMAT="json", TYPE="websocket")"#.to_owned()],
        };
        for statement in setup {
            let create = sql::parse_create(&self.paths(&statement)).map_err(|error| ("setup", error.to_string()))?;
            catalog.create(&create).map_err(|errors| ("setup", errors[0].to_string()))?;
        }
        let rule = match &self.case["rule"] {
            Value::Null => {
                let mut sink = json!({"path": "@out"});
                if let (Some(sink), Value::Object(more)) = (sink.as_object_mut(), self.case["sink"].clone()) {
                    sink.extend(more);
                }
                let options = self.case.get("options").cloned().unwrap_or(json!({}));
                json!({"sql": self.case["sql"], "options": options, "actions": [{"websocket": sink}]})
            }
            rule => rule.clone(),
        };
        let Rule { sql, actions, options, .. } = self.rule(rule).map_err(at("rule"))?;
        let mut plan = plan::plan(&sql, &options, &catalog).map_err(|error| error.to_string()).map_err(at("rule"))?;
        let mut sinks = Vec::new();
        for action in actions {
            let (spec, _) =
                connector::sink(&action.kind, &action.props).map_err(|error| error.to_string()).map_err(at("rule"))?;
            sinks.push(SinkAction { spec, format: Arc::new(action.format), dead_letter: action.dead_letter });
        }
        let mut sources = Vec::new();
        for input in &mut plan.inputs {
            let stream = &input.stream;
            let kind = if stream.source.is_empty() { "websocket" } else { stream.source.as_str() };
            let (source, _) = connector::source(kind, &stream.datasource, &stream.extra)
                .map_err(|error| error.to_string())
                .map_err(at("rule"))?;
            // The engine shares streams of one name; each case has its own streams.
            input.stream =
                Arc::new(StreamDef { name: format!("{}_{}", stream.name, self.tag).into(), ..(**stream).clone() });
            if input.role == Role::Lookup {
                let table = TableSpec { def: input.stream.clone(), source };
                engine.create_table(table).await.map_err(|error| ("rule", error.to_string()))?;
                sources.push(None);
            } else {
                sources.push(Some(source));
            }
        }
        let spec = RuleSpec {
            id: self.tag.clone(),
            plan,
            sources,
            sinks,
            send_error: options.send_error,
            keeps: Keeps::Nothing,
            connected: Connected::default(),
        };
        let started = async { engine.prepare_rule_as(spec, self.number as u64, None).await?.start().await };
        started.await.map_err(|error| ("rule", error.to_string()))
    }

    /// The rule as the binary reads it.
    fn rule(&self, mut rule: Value) -> Result<Rule, String> {
        rule["id"] = json!(self.tag);
        let text = self.paths(&rule.to_string());
        let document = Document::parse("case", text).map_err(|problem| problem.message)?;
        let mut found = Vec::new();
        let rule = rule::parse(&document, &document.root, None, &RuleOptions::default(), &mut found);
        let mut problems: Vec<_> = found.into_iter().map(|found| found.problem).collect();
        problems.retain(|problem| problem.severity == Severity::Error);
        // A missing feature is the better reason, whatever else is wrong.
        problems.sort_by_key(|problem| !problem.message.contains(NOT_YET));
        match (problems.into_iter().next(), rule) {
            (Some(problem), _) => Err(problem.message),
            (None, Some(rule)) => Ok(rule),
            (None, None) => Err("the rule cannot be read".to_owned()),
        }
    }

    /// The text with each `"@x"` as a path of this case.
    fn paths(&self, text: &str) -> String {
        // Compiling the pattern takes longer than most cases.
        static PATH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#""@(\w+)""#).expect("the pattern is right"));
        PATH.replace_all(text, format!("\"/{}/$1\"", self.tag)).into_owned()
    }
}

/// Compares the messages with the expected ones.
fn judge(case: &Value, outcome: Outcome) -> Verdict {
    let wanted = case["expect_error"]["at"].as_str();
    let messages = match outcome {
        Outcome::Refused(_, why) if why.contains(NOT_YET) || why.contains(NEEDS_ONE) => return Verdict::Pending(why),
        Outcome::Refused(stage, _) if wanted == Some(stage) => return Verdict::Passed,
        Outcome::Refused(stage, why) => return Verdict::Failed(format!("refused at {stage}: {why}")),
        Outcome::Messages(messages) => messages,
    };
    if let Some(stage) = wanted {
        let message = case["expect_error"]["message"].as_str().unwrap_or_default();
        return Verdict::Failed(format!("accepted, and must be refused at {stage}: {message}"));
    }
    let ignore: Vec<&str> = case["ignore"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let how = case["compare"].as_str().unwrap_or("exact");
    let want = arrange(case["expect"].as_array().cloned().unwrap_or_default(), how, &ignore);
    let have = arrange(messages, how, &ignore);
    let exact = case["exact"] == true;
    if (!exact || want == have) && same(&Value::Array(want.clone()), &Value::Array(have.clone()), &ignore) {
        Verdict::Passed
    } else {
        Verdict::Failed(format!("want {} got {}", Value::Array(want), Value::Array(have)))
    }
}

/// The messages in an order in which they can be compared.
fn arrange(messages: Vec<Value>, how: &str, ignore: &[&str]) -> Vec<Value> {
    let key = |value: &Value| {
        let sorted = match value {
            Value::Object(object) => object.iter().filter(|(key, _)| !ignore.contains(&key.as_str())).collect(),
            _ => BTreeMap::new(),
        };
        if sorted.is_empty() { value.to_string() } else { json!(sorted).to_string() }
    };
    let rows = |message: Value| match message {
        Value::Array(rows) => rows,
        row => vec![row],
    };
    let sorted_rows = |message: Value| match message {
        Value::Array(mut rows) => {
            rows.sort_by_key(key);
            Value::Array(rows)
        }
        row => row,
    };
    match how {
        "rows" => messages.into_iter().flat_map(rows).collect(),
        "rowset" => {
            let mut rows: Vec<Value> = messages.into_iter().flat_map(rows).collect();
            rows.sort_by_key(key);
            rows
        }
        "unordered" => {
            let mut messages: Vec<Value> = messages.into_iter().map(sorted_rows).collect();
            messages.sort_by_key(|message| match message {
                // The row by itself, so that the order of arrival does not matter.
                Value::Array(rows) => format!("[{}]", rows.iter().map(key).collect::<Vec<_>>().join(",")),
                row => key(row),
            });
            messages
        }
        _ => messages,
    }
}

fn same(a: &Value, b: &Value, ignore: &[&str]) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let (Some(x), Some(y)) = (a.as_f64(), b.as_f64()) else { return a == b };
            a == b || (x - y).abs() <= f64::max(1e-9 * f64::max(x.abs(), y.abs()), 1e-12)
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter().all(|(key, value)| {
                    b.get(key).is_some_and(|other| ignore.contains(&key.as_str()) || same(value, other, ignore))
                })
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b, ignore)),
        (a, b) => a == b,
    }
}
