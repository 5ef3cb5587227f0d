//! Answered changes are kept: the real binary under `kill -9`, signals, a damaged store, a full disk, a second service
//! on the same folder, and rules that are created and dropped.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::Message;

use crate::process::arrival;
use crate::process::serve::{self, Answer, Folder, LIMIT, Served};

/// `None`: there was no complete response.
fn ask(rest: &str, method: &str, path: &str, body: &Value) -> Option<(u16, String)> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    serve::ask(rest, method, path, "", &body).map(|answer| (answer.status, answer.body))
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
        let answered = Arc::new(AtomicUsize::new(0));
        // Each thread has its own rules, so that it knows the last response; an unanswered request may or may not have
        // taken effect.
        let storms: Vec<_> = (0..4)
            .map(|thread| {
                let (rest, answered) = (served.rest.clone(), answered.clone());
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
                            Some((200..300, _)) => {
                                known.insert(id, then);
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                            Some(other) => panic!("{method} {path}: {other:?}"),
                            None => return (known, id),
                        }
                    }
                    unreachable!("it ends with the service")
                })
            })
            .collect();
        // At any moment after some responses.
        let deadline = Instant::now() + LIMIT;
        while answered.load(Ordering::Relaxed) < 40 {
            assert!(Instant::now() < deadline, "changes are answered");
            std::thread::sleep(Duration::from_millis(1));
        }
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

/// Gives a store the version of a later release.
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
    std::fs::write(folder.path("data"), "no folder").expect("it can be written");
    let said = folder.refused();
    assert!(said.contains("cannot open the store data"), "{said}");
    assert_eq!(std::fs::read(folder.path("data")).expect("it is there"), b"no folder");
}

/// A command for an unprivileged user, if the test is run by root.
fn unprivileged(folder: &Folder) -> Option<Command> {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    if !is_root {
        return Some(folder.command());
    }
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut works = Command::new("setpriv");
    works.args(nobody).args([env!("CARGO_BIN_EXE_plutino"), "--version"]);
    let works = works.output().is_ok_and(|output| output.status.success());
    works.then(|| folder.command_by("setpriv", &nobody))
}

/// Permissions replace a read-only mount, which only root can make, and not everywhere.
#[test]
fn a_read_only_folder_is_refused_and_left_as_it_is() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("read-only");
    let Some(command) = unprivileged(&folder) else {
        eprintln!("skipped: there is no setpriv, or nobody else may run the binary");
        return;
    };
    let mut served = folder.serve();
    served.done("POST", "/streams", &stream("demo"));
    served.done("POST", "/rules", &rule("r"));
    assert!(served.terminate().success());
    let before = std::fs::read(folder.store()).expect("it is there");
    let count = || std::fs::read_dir(folder.path("data")).expect("it can be listed").count();
    let files = count();
    let allow = |folder_mode: u32, file_mode: u32| {
        let set = |path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
        set(folder.store(), file_mode).and_then(|()| set(folder.path("data"), folder_mode)).expect("it is ours");
    };
    allow(0o555, 0o444);
    let said = serve::refused(command);
    assert!(said.contains("cannot open the store data") && said.contains("denied"), "{said}");
    assert!(std::fs::read(folder.store()).expect("it is there") == before && count() == files);
    allow(0o755, 0o644);
    assert_eq!(folder.serve().states()["r"], "running");
}

#[test]
fn where_files_cannot_be_kept_the_rest_goes_on() {
    let folder = Folder::new("no-uploads");
    folder.write("data/uploads", "no folder");
    let served = folder.serve();
    let upload = json!({"name": "a.txt", "content": "abc"});
    for (method, path, body) in [
        ("POST", "/config/uploads", &upload),
        ("GET", "/config/uploads", &Value::Null),
        ("DELETE", "/config/uploads/a.txt", &Value::Null),
    ] {
        let refused = served.ask(method, path, body);
        assert!(refused.status == 400 && refused.body.contains("move away what is there"), "{}", refused.body);
    }
    served.done("POST", "/streams", &stream("demo"));
    served.done("POST", "/rules", &rule("r"));
    assert!(served.get("/data/export")["rules"]["r"].is_string());
    assert_eq!(std::fs::read(folder.path("data/uploads")).expect("it is there"), b"no folder");
}

/// A limit on the size of files, lifted at the end: to the store it looks like a disk that is full for a while.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn without_space_changes_are_refused_until_there_is_some() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        eprintln!("skipped: there is no prlimit");
        return;
    }
    let folder = Folder::new("full");
    // The signal of the limit would kill; a full disk sends none.
    let served = Served::start(folder.command_by("sh", &["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]));
    served.done("POST", "/streams", &stream("demo"));
    let sink = json!([{"websocket": {"path": "/out", "sendSingle": true}}]);
    served.done("POST", "/rules", &json!({"id": "steady", "sql": "SELECT n FROM demo", "actions": sink}));
    served.done("POST", "/rules", &rule("off"));
    served.done("POST", "/rules/off/stop", &Value::Null);
    let client = async |path: &str| {
        let (client, _) = connect_async(served.data_url(path)).await.expect("the endpoint is there");
        client
    };
    let (mut source, mut out) = (client("/demo").await, client("/out").await);
    let mut n = 0;
    let mut runs = async || {
        n += 1;
        source.send(Message::text(json!({"n": n}).to_string())).await.expect("it takes messages");
        let got = arrival(&mut out).await.expect("it is there");
        assert_eq!(got.expect("a message").to_text().expect("text"), json!({"n": n}).to_string());
    };
    runs().await;
    let pid = served.child.id().to_string();
    let limit = |soft: &str| {
        let set = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={soft}:")]).status();
        assert!(set.expect("prlimit runs").success());
    };
    // Not one byte more, not even for bytes that existed before.
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
        ("PUT", "/metadata/sources/websocket/confKeys/k", json!({"requestHeader": {"X": [big]}})),
        ("POST", "/config/uploads", json!({"name": "a.txt", "content": "abc"})),
    ] {
        let Answer { status, body: answer, .. } = served.ask(method, path, &body);
        assert!(
            (400..600).contains(&status) && answer.contains("File too large"),
            "{method} {path}: {status} {answer}"
        );
        let after = (served.get("/rules"), served.get("/streams"), served.get("/data/export"));
        assert_eq!(after, before, "{method} {path}");
        runs().await;
    }
    // These changes must be possible, and are on disk as soon as there is space.
    served.done("POST", "/rules/steady/stop", &Value::Null);
    served.done("DELETE", "/rules/off", &Value::Null);
    limit("unlimited");
    served.done("POST", "/rules", &rule("more"));
    served.signal("-KILL");
    drop(served);
    let states = folder.serve().states();
    let states: Vec<(&str, &str)> = states.iter().map(|(id, state)| (id.as_str(), state.as_str())).collect();
    assert_eq!(states, [("more", "running"), ("steady", "stopped")]);
}

/// Memory in use by a process, in KiB.
#[cfg(target_os = "linux")]
pub fn resident(pid: u32) -> u64 {
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
    // 2,000 rules in total, each started twice. For 1,200 of them, more than 1.3 KB each would be noticed; a rule's
    // dataflow or queues are far larger.
    let grown = memory[4].saturating_sub(memory[1]);
    eprintln!("resident KiB after each 400 rules: {memory:?}");
    assert!(grown < 1500, "resident KiB after each 400 rules: {memory:?}");
}

/// An export of eKuiper with a stream, a lookup table, rules, a conf key, and plugins, which Plutino does not have.
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
    let Answer { status, body: answer, .. } =
        served.ask("POST", "/data/import", &json!({"content": export.to_string()}));
    // What cannot be imported is reported, and the rest exists.
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("far") && answer.contains("mqtt"), "{answer}");
    let states = served.states();
    assert_eq!(states.keys().collect::<Vec<_>>(), ["hot", "named"]);
    assert_eq!(states["hot"], "running");
    served.done("POST", "/rules/named/start", &Value::Null);
    // A second export is the same, and an empty service accepts it.
    let again = served.get("/data/export");
    for part in ["streams", "tables", "sourceConfig"] {
        assert_eq!(again[part], export[part], "{part}");
    }
    let other = Folder::new("import-again");
    let other = other.serve();
    other.done("POST", "/data/import", &json!({"content": again.to_string()}));
    assert_eq!(other.get("/data/export"), again);
}
