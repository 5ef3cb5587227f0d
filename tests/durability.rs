//! What was answered is kept: the real binary under `kill -9`, signals, a damaged store, a disk without space, a second
//! service on the same folder, and rules that come and go.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

/// Nothing here takes longer, or it hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// A folder that goes with its value.
struct Folder(PathBuf);

/// `plutino serve` in a folder; killed with its value.
struct Served {
    child: Child,
    rest: String,
}

/// Status and body of an answer.
type Answer = (u16, String);

impl Folder {
    fn new(name: &str) -> Folder {
        let unique = format!("plutino-durability-{name}-{}-{:x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&path).expect("a folder in the temporary folder");
        Folder(path)
    }

    fn store(&self) -> PathBuf {
        self.0.join("data/plutino.redb")
    }

    /// The service, not yet started; `shell` is run before it, in the same process.
    fn command(&self, shell: &str, data_port: u16) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{shell} exec \"$0\" serve --etc etc --data data"), env!("CARGO_BIN_EXE_plutino")])
            .current_dir(&self.0)
            .env("PLUTINO__BASIC__RESTPORT", "0")
            .env("PLUTINO__SOURCE__HTTPSERVERIP", "127.0.0.1")
            .env("PLUTINO__SOURCE__HTTPSERVERPORT", data_port.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    fn serve(&self) -> Served {
        self.serve_with("", 0)
    }

    fn serve_with(&self, shell: &str, data_port: u16) -> Served {
        let mut child = self.command(shell, data_port).spawn().expect("the binary starts");
        let mut said = BufReader::new(child.stderr.take().expect("stderr is a pipe")).lines();
        let (found, address) = mpsc::channel();
        // It is read to its end: the program must not wait for a reader.
        std::thread::spawn(move || {
            let mut all = Vec::new();
            while let Some(Ok(line)) = said.next() {
                if let Some((_, address)) = line.split_once("serves http://") {
                    let _ = found.send(Ok(address.to_owned()));
                }
                all.push(line);
            }
            let _ = found.send(Err(all.join("\n")));
        });
        let rest = address.recv_timeout(LIMIT).expect("it says something").expect("it starts");
        Served { child, rest }
    }

    /// Starts a service that must not start; what it says.
    fn refused(&self) -> String {
        let output = self.command("", 0).output().expect("the binary starts");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("it says text")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Served {
    fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        ask(&self.rest, method, path, body).unwrap_or_else(|| panic!("{method} {path} is not answered"))
    }

    fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, &Value::Null);
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("reads answer with JSON")
    }

    fn done(&self, method: &str, path: &str, body: &Value) {
        let (status, answer) = self.ask(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {answer}");
    }

    /// The states of all rules, once none of them is about to change.
    fn states(&self) -> BTreeMap<String, String> {
        let began = std::time::Instant::now();
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

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    fn ends(&mut self) -> ExitStatus {
        self.child.wait().expect("it can be waited for")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `None`: there was no whole answer.
fn ask(rest: &str, method: &str, path: &str, body: &Value) -> Option<Answer> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!("{method} {path} HTTP/1.1\r\nhost: {rest}\r\nconnection: close");
    let mut socket = TcpStream::connect(rest).ok()?;
    socket.set_read_timeout(Some(LIMIT)).ok()?;
    socket.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

fn stream(name: &str) -> Value {
    json!({"sql": format!("CREATE STREAM {name} () WITH (TYPE=\"websocket\", DATASOURCE=\"/{name}\")")})
}

fn rule(id: &str) -> Value {
    json!({"id": id, "sql": "SELECT a FROM demo", "actions": [{"nop": {}}]})
}

#[test]
fn what_was_answered_survives_kill_9() {
    let folder = Folder::new("kill");
    let mut expected: BTreeMap<String, String> = BTreeMap::new();
    for round in 0..3 {
        let mut served = folder.serve();
        if round == 0 {
            served.done("POST", "/streams", &stream("demo"));
        }
        // A thread's rules are its own, so that it knows what the last answer was; what was asked and not answered may
        // be either way.
        let storms: Vec<_> = (0..4)
            .map(|thread| {
                let rest = served.rest.clone();
                std::thread::spawn(move || {
                    let mut known: BTreeMap<String, Option<&str>> = BTreeMap::new();
                    for step in 0.. {
                        let id = format!("r{round}_{thread}_{}", step / 4);
                        let (method, path, body, then) = match step % 4 {
                            0 => ("POST", "/rules".to_owned(), rule(&id), Some("running")),
                            1 => ("POST", format!("/rules/{id}/stop"), Value::Null, Some("stopped")),
                            2 if step % 8 == 2 => ("POST", format!("/rules/{id}/start"), Value::Null, Some("running")),
                            3 if step % 16 == 3 => ("DELETE", format!("/rules/{id}"), Value::Null, None),
                            _ => continue,
                        };
                        match ask(&rest, method, &path, &body) {
                            Some((200..300, _)) => drop(known.insert(id, then)),
                            Some(other) => panic!("{method} {path}: {other:?}"),
                            None => return (known, id),
                        }
                    }
                    unreachable!("it ends with the service")
                })
            })
            .collect();
        // At any moment, and not at a chosen one.
        std::thread::sleep(Duration::from_millis(300 + fastrand::u64(..400)));
        served.signal("-KILL");
        served.ends();
        let mut open = Vec::new();
        for storm in storms {
            let (known, last) = storm.join().expect("every answer was a good one");
            let there = known.into_iter().filter_map(|(id, state)| Some((id, state?.to_owned())));
            expected.extend(there);
            open.push(last);
        }
        drop(served);

        let served = folder.serve();
        let mut states = served.states();
        for id in open {
            states.remove(&id);
            if let Some((status, _)) = ask(&served.rest, "DELETE", &format!("/rules/{id}"), &Value::Null) {
                assert!(status == 200 || status == 404, "{status}");
            }
            expected.remove(&id);
        }
        let states: BTreeMap<_, _> = states
            .into_iter()
            .map(|(id, state)| (id, if state == "running" { state } else { "stopped".to_owned() }))
            .collect();
        assert_eq!(states, expected, "round {round}");
        assert!(expected.len() > round, "something was answered");
    }
}

#[test]
fn sigterm_ends_cleanly_and_all_comes_back() {
    let folder = Folder::new("term");
    let mut served = folder.serve();
    served.done("POST", "/streams", &stream("demo"));
    served.done("POST", "/rules", &rule("on"));
    served.done("POST", "/rules", &rule("off"));
    served.done("POST", "/rules/off/stop", &Value::Null);
    served.done("PUT", "/metadata/sources/websocket/confKeys/k", &json!({"addr": "127.0.0.1:1"}));
    served.signal("-TERM");
    assert_eq!(served.ends().code(), Some(0));
    let served = folder.serve();
    let states = served.states();
    assert_eq!(states["on"], "running");
    assert!(states["off"].starts_with("stopped"), "{states:?}");
    assert_eq!(served.get("/metadata/sources/yaml/websocket")["k"]["addr"], "127.0.0.1:1");
}

#[test]
fn a_store_that_cannot_be_used_is_left_as_it_is() {
    let folder = Folder::new("damaged");
    let mut served = folder.serve();
    served.done("POST", "/streams", &stream("demo"));
    let second = folder.refused();
    assert!(second.contains("is in use by another process"), "{second}");
    served.done("POST", "/rules", &rule("r"));
    served.signal("-TERM");
    served.ends();
    let whole = std::fs::read(folder.store()).expect("the store is there");
    for damage in [&b"no database at all"[..], &whole[..whole.len() / 2], &[], &[0; 65_536]] {
        std::fs::write(folder.store(), damage).expect("it can be written");
        let said = folder.refused();
        assert!(said.contains("plutino.redb is damaged"), "{} bytes: {said}", damage.len());
        assert!(std::fs::read(folder.store()).expect("it is there") == damage, "it was touched");
    }
    std::fs::write(folder.store(), &whole).expect("it can be written");
    newer(&folder.store());
    let before = std::fs::read(folder.store()).expect("it is there");
    let said = folder.refused();
    assert!(said.contains("has version 99") && said.contains("use a newer Plutino"), "{said}");
    assert!(std::fs::read(folder.store()).expect("it is there") == before, "it was touched");
    std::fs::write(folder.store(), &whole).expect("it can be written");
    assert_eq!(folder.serve().states()["r"], "running");
}

/// Makes a store one of a later version.
fn newer(path: &Path) {
    let database = redb::Database::open(path).expect("it is whole");
    let change = database.begin_write().expect("a change");
    let meta = redb::TableDefinition::<&str, u64>::new("meta");
    change.open_table(meta).expect("the table").insert("version", 99).expect("a version");
    change.commit().expect("it is written");
}

#[test]
fn a_folder_that_cannot_be_written_is_refused() {
    let folder = Folder::new("unusable");
    std::fs::write(folder.0.join("data"), "no folder").expect("it can be written");
    let said = folder.refused();
    assert!(said.contains("cannot open the store data"), "{said}");
    assert_eq!(std::fs::read(folder.0.join("data")).expect("it is there"), b"no folder");
}

/// Files cannot grow over a limit, which is lifted in the end: for the store as a disk that is full for a while.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn without_space_changes_are_refused_until_there_is_some() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        eprintln!("skipped: there is no prlimit");
        return;
    }
    let folder = Folder::new("full");
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
    // The signal of the limit would kill; a disk that is full sends none.
    let served = folder.serve_with("trap '' XFSZ;", free.port());
    served.done("POST", "/streams", &stream("demo"));
    let sink = json!([{"websocket": {"path": "/out", "sendSingle": true}}]);
    served.done("POST", "/rules", &json!({"id": "steady", "sql": "SELECT n FROM demo", "actions": sink}));
    served.done("POST", "/rules", &rule("off"));
    served.done("POST", "/rules/off/stop", &Value::Null);
    let client = async |path: &str| {
        let (client, _) = connect_async(format!("ws://{free}{path}")).await.expect("the endpoint is there");
        client
    };
    let (mut source, mut out) = (client("/demo").await, client("/out").await);
    let mut n = 0;
    let mut runs = async || {
        n += 1;
        source.send(Message::text(json!({"n": n}).to_string())).await.expect("it takes messages");
        let got = tokio::time::timeout(LIMIT, out.next()).await.expect("the rule runs").expect("it is there");
        assert_eq!(got.expect("a message").to_text().expect("text"), json!({"n": n}).to_string());
    };
    runs().await;
    let pid = served.child.id().to_string();
    let limit = |soft: &str| {
        let set = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={soft}:")]).status();
        assert!(set.expect("prlimit runs").success());
    };
    // Not one byte more, and not even those that are there again.
    limit("0");
    let before = (served.get("/rules"), served.get("/streams"), served.get("/data/export"));
    let big = "x".repeat(100_000);
    let mut updated = rule("off");
    updated["sql"] = json!("SELECT b FROM demo");
    for (method, path, body) in [
        ("POST", "/rules", rule(&big[..100])),
        ("POST", "/streams", stream("more")),
        ("POST", "/rules/off/start", Value::Null),
        ("POST", "/rules/off/restart", Value::Null),
        ("PUT", "/rules/off", updated),
        ("PUT", "/rules/off/tags", json!({"tags": ["t"]})),
        ("POST", "/rules/steady/stop", Value::Null),
        ("DELETE", "/rules/steady", Value::Null),
        ("DELETE", "/rules/off", Value::Null),
        ("PUT", "/metadata/sources/websocket/confKeys/k", json!({"requestHeader": {"X": [big]}})),
        ("POST", "/config/uploads", json!({"name": "a.txt", "content": "abc"})),
    ] {
        let (status, answer) = served.ask(method, path, &body);
        assert!(
            (400..600).contains(&status) && answer.contains("File too large"),
            "{method} {path}: {status} {answer}"
        );
        let after = (served.get("/rules"), served.get("/streams"), served.get("/data/export"));
        assert_eq!(after, before, "{method} {path}");
        runs().await;
    }
    limit("unlimited");
    served.done("POST", "/rules", &rule("more"));
    served.done("POST", "/rules/off/start", &Value::Null);
    runs().await;
    served.signal("-KILL");
    drop(served);
    let states = folder.serve().states();
    let states: Vec<(&str, &str)> = states.iter().map(|(id, state)| (id.as_str(), state.as_str())).collect();
    assert_eq!(states, [("more", "running"), ("off", "running"), ("steady", "running")]);
}

/// Memory that a process has in use, KiB.
#[cfg(target_os = "linux")]
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[cfg(target_os = "linux")]
#[test]
fn rules_that_come_and_go_leave_nothing() {
    let folder = Folder::new("come-and-go");
    let served = folder.serve();
    served.done("POST", "/streams", &stream("demo"));
    let mut memory = Vec::new();
    for _ in 0..5 {
        let workers: Vec<_> = (0..8)
            .map(|worker| {
                let rest = served.rest.clone();
                std::thread::spawn(move || {
                    for n in 0..50 {
                        let id = format!("r{worker}_{n}");
                        let mut made = rule(&id);
                        if n % 2 == 0 {
                            made["sql"] = json!("SELECT count(*) FROM demo GROUP BY a, TUMBLINGWINDOW(ss, 10)");
                        }
                        for (method, path, body) in [
                            ("POST", "/rules".to_owned(), made),
                            ("POST", format!("/rules/{id}/stop"), Value::Null),
                            ("POST", format!("/rules/{id}/start"), Value::Null),
                            ("POST", format!("/rules/{id}/stop"), Value::Null),
                            ("DELETE", format!("/rules/{id}"), Value::Null),
                        ] {
                            let (status, answer) = ask(&rest, method, &path, &body).expect("an answer");
                            assert!((200..300).contains(&status), "{method} {path}: {answer}");
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.join().expect("all went well");
        }
        memory.push(resident(served.child.id()));
    }
    assert_eq!(served.get("/rules"), json!([]));
    // 2,000 rules in all, each started twice. Of 1,200 of them more than 1.3 KB each would be seen, a rule's dataflow or
    // queues by far.
    let grown = memory[4].saturating_sub(memory[1]);
    eprintln!("resident KiB after each 400 rules: {memory:?}");
    assert!(grown < 1500, "resident KiB after each 400 rules: {memory:?}");
}

/// What an eKuiper exports that has a stream, a lookup table, rules, a conf key, and plugins that Plutino has not.
#[test]
fn an_export_of_ekuiper_is_imported() {
    let export = json!({
        "streams": {"demo": "CREATE STREAM demo () WITH (DATASOURCE=\"/api/data\", TYPE=\"websocket\", FORMAT=\"json\", CONF_KEY=\"exchange\")"},
        "tables": {"names": "CREATE TABLE names (id BIGINT, name STRING) WITH (DATASOURCE=\"names\", TYPE=\"memory\", KIND=\"lookup\", KEY=\"id\")"},
        "rules": {
            "hot": "{\"triggered\":true,\"id\":\"hot\",\"sql\":\"SELECT * FROM demo WHERE temperature > 75\",\"actions\":[{\"websocket\":{\"path\":\"/hot\",\"sendSingle\":true}}],\"options\":{\"qos\":0,\"bufferLength\":1024,\"restartStrategy\":{\"attempts\":0,\"delay\":1000,\"multiplier\":2,\"maxDelay\":30000,\"jitterFactor\":0.1}}}",
            "named": "{\"triggered\":false,\"id\":\"named\",\"sql\":\"SELECT demo.temperature, names.name FROM demo INNER JOIN names ON demo.id = names.id\",\"actions\":[{\"log\":{}}]}",
            "far": "{\"triggered\":true,\"id\":\"far\",\"sql\":\"SELECT * FROM demo\",\"actions\":[{\"mqtt\":{\"server\":\"tcp://127.0.0.1:1883\",\"topic\":\"t\"}}]}"
        },
        "nativePlugins": {}, "portablePlugins": {},
        "sourceConfig": {"websocket": "{\"exchange\":{\"addr\":\"127.0.0.1:9\"}}"},
        "sinkConfig": {}, "connectionConfig": {}, "Service": {}, "Schema": {}, "uploads": {}, "scripts": {}
    });
    let folder = Folder::new("import");
    let served = folder.serve();
    let (status, answer) = served.ask("POST", "/data/import", &json!({"content": export.to_string()}));
    // What cannot be taken over is told, and the rest is there.
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("far") && answer.contains("mqtt"), "{answer}");
    let states = served.states();
    assert_eq!(states.keys().collect::<Vec<_>>(), ["hot", "named"]);
    assert_eq!(states["hot"], "running");
    served.done("POST", "/rules/named/start", &Value::Null);
    // What is exported again is the same, and a service with nothing takes it.
    let again = served.get("/data/export");
    for part in ["streams", "tables", "sourceConfig"] {
        assert_eq!(again[part], export[part], "{part}");
    }
    let other = Folder::new("import-again");
    let other = other.serve();
    other.done("POST", "/data/import", &json!({"content": again.to_string()}));
    assert_eq!(other.get("/data/export"), again);
}
