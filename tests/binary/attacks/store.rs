//! Whatever happens to the disk or the process: the store is intact, or reports what is damaged.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::serve::{Folder, Served, ask, refused};

fn stream() -> Value {
    json!({"sql": "CREATE STREAM demo () WITH (DATASOURCE=\"/in\", TYPE=\"websocket\")"})
}

fn rule(id: &str, text: &str) -> Value {
    json!({"id": id, "sql": "SELECT * FROM demo", "name": text, "actions": [{"nop": {}}]})
}

fn store(folder: &Folder, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
    command.arg("store").args(arguments).current_dir(&folder.0).env("NO_COLOR", "1");
    command.output().expect("the binary starts")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Flips a bit of a text wherever it occurs in a file.
fn flip(file: &Path, text: &str) {
    let mut bytes = std::fs::read(file).expect("the file is there");
    let places: Vec<usize> =
        (0..bytes.len() - text.len()).filter(|at| &bytes[*at..*at + text.len()] == text.as_bytes()).collect();
    assert!(!places.is_empty());
    places.into_iter().for_each(|at| bytes[at] ^= 1);
    std::fs::write(file, bytes).expect("the file can be written");
}

#[test]
fn a_damaged_record_stops_neither_the_service_nor_the_other_rules() {
    let folder = Folder::new("damaged");
    let mut served = folder.serve();
    served.done("POST", "/streams", &stream());
    for id in ["a", "b", "c"] {
        served.done("POST", "/rules", &rule(id, &format!("the-text-of-{id}")));
    }
    served.terminate();
    flip(&folder.store(), "the-text-of-b");

    let mut served = folder.serve();
    assert_eq!(served.states().into_keys().collect::<Vec<_>>(), ["a", "c"]);
    assert!(served.has_said().contains("the rule b is damaged"), "{}", served.has_said());
    for (method, path, body) in [
        ("POST", "/rules", rule("d", "d")),
        ("DELETE", "/rules/a", Value::Null),
        ("POST", "/data/import", json!({"content": "{\"rules\": {}}"})),
    ] {
        let answer = served.ask(method, path, &body);
        assert!(answer.status == 500 && answer.body.contains("plutino store repair"), "{path}: {}", answer.body);
    }
    assert_eq!(served.states().len(), 2);
    let metrics = served.ask("GET", "/metrics", &Value::Null).body;
    assert!(metrics.contains("plutino_store_damage 1"), "{metrics}");
    assert!(said(&store(&folder, &["check"])).contains("in use by another process"));
    served.terminate();

    let checked = store(&folder, &["check"]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(
        said(&checked).contains("1 streams, 0 tables, 2 rules") && said(&checked).contains("the rule b is damaged")
    );
    assert!(store(&folder, &["export", "all.json"]).status.success());
    let exported: Value =
        serde_json::from_slice(&std::fs::read(folder.path("all.json")).expect("it is there")).expect("it is JSON");
    assert!(exported["rules"]["a"].is_string() && exported["rules"]["b"].is_null());
    let repaired = store(&folder, &["repair"]);
    assert!(repaired.status.success() && said(&repaired).contains("plutino.redb.damaged-"), "{}", said(&repaired));
    assert!(store(&folder, &["check"]).status.success());

    let served = folder.serve();
    served.done("POST", "/rules", &rule("d", "d"));
    assert_eq!(served.states().into_keys().collect::<Vec<_>>(), ["a", "c", "d"]);
    let fresh = Folder::new("damaged-import");
    let fresh = fresh.serve();
    fresh.done("POST", "/data/import", &json!({"content": exported.to_string()}));
    assert_eq!(fresh.states().into_keys().collect::<Vec<_>>(), ["a", "c"]);
}

/// A bit of the file is flipped while the service is down: it refuses to start and says why, or serves what is right
/// and names the damage, or finds nothing wrong. It never panics, and never answers something else.
#[test]
fn a_flipped_bit_is_named_and_nothing_else_is_served() {
    let folder = Folder::new("flipped");
    let mut served = folder.serve();
    served.done("POST", "/streams", &stream());
    for n in 0..30 {
        served.done("POST", "/rules", &rule(&format!("r{n}"), &"x".repeat(500)));
    }
    served.done("DELETE", "/rules/r0", &Value::Null);
    served.terminate();
    let whole = std::fs::read(folder.store()).expect("it is there");
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let mut random = fastrand::Rng::with_seed(11);
    for round in 0..24 {
        let at = if round % 3 == 0 { random.usize(..320) } else { used[random.usize(..used.len())] };
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << random.u8(..8);
        std::fs::write(folder.store(), &bytes).expect("it can be written");
        let checked = store(&folder, &["check"]);
        let damaged = !checked.status.success();
        assert!(!said(&checked).contains("panicked"), "byte {at}: {}", said(&checked));
        if said(&checked).contains("It was not changed") {
            let refused = folder.refused();
            assert!(refused.contains("is damaged") && !refused.contains("panicked"), "byte {at}: {refused}");
            continue;
        }
        let mut served = folder.serve();
        for (id, state) in served.states() {
            assert!(state == "running" && id != "r0", "byte {at}: {id} {state}");
            assert_eq!(served.get(&format!("/rules/{id}"))["name"], "x".repeat(500), "byte {at}");
        }
        assert!(damaged || served.states().len() == 29, "byte {at}");
        let changed = served.ask("POST", "/rules", &rule("new", "new"));
        match damaged {
            false => assert_eq!(changed.status, 201, "byte {at}: {}", changed.body),
            true => assert!(
                changed.status == 500
                    && changed.body.contains("plutino store repair")
                    && changed.body.contains("damaged"),
                "byte {at}: {}",
                changed.body
            ),
        }
        let exported = served.ask("GET", "/data/export", &Value::Null);
        assert_eq!(exported.status, 200, "byte {at}: {}", exported.body);
        assert!(served.terminate().success(), "byte {at}: {}", served.has_said());
        assert!(!served.has_said().contains("panicked"), "byte {at}: {}", served.has_said());
    }
}

/// The ids of the rules all have the same prefix: it tells which configuration is present.
fn which(served: &Served) -> (String, usize) {
    let rules = served.get("/rules");
    let ids: Vec<&str> = rules.as_array().expect("a list").iter().filter_map(|rule| rule["id"].as_str()).collect();
    let first = ids.first().map_or("", |id| &id[..3]);
    assert!(ids.iter().all(|id| id.starts_with(first)), "{ids:?}");
    (first.to_owned(), ids.len())
}

#[test]
fn a_replacing_import_that_is_killed_leaves_all_of_the_old_or_all_of_the_new() {
    const RULES: usize = 150;
    // One file of both configurations, and one that only this one has.
    let uploads = |name: &str| json!({"shared": name, name: name});
    let all = |name: &str| {
        let rules: serde_json::Map<String, Value> = (0..RULES)
            .map(|n| format!("{name}{n}"))
            .map(|id| (id.clone(), rule(&id, "x").to_string().into()))
            .collect();
        let streams = json!({"demo": stream()["sql"]});
        json!({"content": json!({"streams": streams, "rules": rules, "uploads": uploads(name)}).to_string()})
    };
    let folder = Folder::new("import-killed");
    let served = folder.serve();
    served.done("POST", "/data/import", &all("old"));
    drop(served);
    for (round, wait) in [5_u64, 40, 80, 160].into_iter().enumerate() {
        let mut served = folder.serve();
        let (before, _) = which(&served);
        let next = if before == "old" { "new" } else { "old" };
        let (rest, body) = (served.rest.clone(), all(next).to_string());
        let asked =
            std::thread::spawn(move || ask(&rest, "POST", "/data/import", "", &body).map(|answer| answer.status));
        std::thread::sleep(Duration::from_millis(wait));
        served.kill();
        let answered = asked.join().expect("it ends");
        let served = folder.serve();
        let (after, count) = which(&served);
        assert_eq!(count, RULES, "round {round}: {after}");
        assert_eq!(served.get("/data/export")["uploads"], uploads(&after), "round {round}");
        assert!(answered != Some(200) || after == next, "round {round}: what was answered is there");
    }
}

#[test]
fn two_replacing_imports_at_once_do_not_mix() {
    let folder = Folder::new("import-twice");
    let served = folder.serve();
    let all = |name: &str| {
        let named = |n: usize| format!("{name}{n}");
        let rules: serde_json::Map<String, Value> =
            (0..20).map(named).map(|id| (id.clone(), rule(&id, "x").to_string().into())).collect();
        let uploads: serde_json::Map<String, Value> = (0..20).map(named).map(|file| (file, name.into())).collect();
        let streams = json!({"demo": stream()["sql"]});
        json!({"content": json!({"streams": streams, "rules": rules, "uploads": uploads}).to_string()}).to_string()
    };
    for round in 0..3 {
        let import = |name: &str| {
            let (rest, body) = (served.rest.clone(), all(name));
            std::thread::spawn(move || ask(&rest, "POST", "/data/import", "", &body).map(|answer| answer.status))
        };
        let both = [import("old"), import("new")];
        assert_eq!(both.map(|asked| asked.join().expect("it ends")), [Some(200), Some(200)], "round {round}");
        let (last, count) = which(&served);
        assert_eq!(count, 20, "round {round}");
        let export = served.get("/data/export");
        let uploads = export["uploads"].as_object().expect("an object");
        assert!(uploads.len() == 20 && uploads.values().all(|text| *text == last.as_str()), "{last}: {uploads:?}");
    }
}

#[test]
fn a_running_store_is_backed_up() {
    let folder = Folder::new("backup");
    let served = folder.serve();
    served.done("POST", "/streams", &stream());
    served.done("POST", "/rules", &rule("r", "x"));
    let backed = store(&folder, &["backup", "--url", &served.url(""), "copy.redb"]);
    assert!(backed.status.success(), "{}", said(&backed));
    let again = store(&folder, &["backup", "--url", &served.url(""), "copy.redb"]);
    assert!(said(&again).contains("File exists"), "{}", said(&again));
    served.done("DELETE", "/rules/r", &Value::Null);
    let left: Vec<String> = std::fs::read_dir(folder.path("data"))
        .expect("it is there")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains("backup"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let other = Folder::new("restored");
    other.write("data/none", "");
    std::fs::copy(folder.path("copy.redb"), other.store()).expect("it can be copied");
    assert_eq!(other.serve().states().len(), 1);
}

#[test]
fn a_first_start_without_space_leaves_nothing() {
    let folder = Folder::new("no-space");
    let said = refused(folder.command_by("sh", &["-c", "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\""]));
    assert!(said.contains("cannot write to the new store") || said.contains("cannot open the store"), "{said}");
    assert!(!folder.path("data").exists());
    folder.serve().done("POST", "/streams", &stream());
}

#[test]
fn every_verb_of_the_store_works_after_kill_9() {
    let folder = Folder::new("verbs");
    let mut served = folder.serve();
    served.done("POST", "/streams", &stream());
    // All three exist before the first backup.
    (0..3).for_each(|storm| served.done("POST", "/rules", &rule(&format!("r{storm}"), "0 0")));
    for round in 0..3 {
        let storms: Vec<_> = (0..3)
            .map(|storm| {
                let rest = served.rest.clone();
                std::thread::spawn(move || {
                    let mut answered = 0;
                    for step in 0.. {
                        let body = rule(&format!("r{storm}"), &format!("{round} {step}")).to_string();
                        match ask(&rest, "PUT", &format!("/rules/r{storm}"), "", &body) {
                            Some(answer) => assert!((200..300).contains(&answer.status), "{}", answer.body),
                            None => return answered,
                        }
                        answered = step;
                    }
                    answered
                })
            })
            .collect();
        let url = format!("http://{}", served.rest);
        let backup = store(&folder, &["backup", "--url", &url, &format!("backup{round}.redb")]);
        assert!(backup.status.success(), "{}", said(&backup));
        std::thread::sleep(Duration::from_millis(100));
        served.kill();
        let answered: Vec<usize> = storms.into_iter().map(|storm| storm.join().expect("no panic")).collect();
        // In the store of the killed service, and in the copy made meanwhile.
        let copy = Folder::new("verbs-copy");
        std::fs::create_dir_all(copy.path("data")).expect("a folder can be made");
        std::fs::copy(folder.path(format!("backup{round}.redb")), copy.store()).expect("it is there");
        for place in [&folder, &copy] {
            let checked = store(place, &["check"]);
            assert!(checked.status.success(), "{}", said(&checked));
            let file = format!("export{round}.json");
            assert!(store(place, &["export", &file]).status.success());
            let exported = std::fs::read(place.path(file)).expect("it is there");
            let exported: Value = serde_json::from_slice(&exported).expect("it is JSON");
            assert_eq!(exported["rules"].as_object().expect("rules").len(), 3, "{exported}");
        }
        let repaired = store(&folder, &["repair"]);
        assert!(repaired.status.success(), "{}", said(&repaired));
        served = folder.serve();
        for (storm, answered) in answered.into_iter().enumerate() {
            let known = served.get(&format!("/rules/r{storm}"));
            let name = known["name"].as_str().expect("a name");
            let step: usize = name.rsplit(' ').next().and_then(|step| step.parse().ok()).expect("a step");
            assert!(step >= answered, "{name}: {answered} was answered");
        }
    }
}
