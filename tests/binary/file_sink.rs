//! The `file` sink: the content of the files, across kills and while they cannot be written.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::serve::{Folder, LIMIT, Served};
use crate::process::{Client, send};

async fn rule(served: &Served, props: Value) -> Client {
    let stream = json!({"sql": "CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/in\")"});
    served.asks("POST", "/streams", &stream).await.done();
    let rule = json!({"id": "r", "sql": "SELECT * FROM demo", "actions": [{"file": props}]});
    served.asks("POST", "/rules", &rule).await.done();
    served.connect("/in").await
}

/// Waits until a condition about the folder holds.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LIMIT, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The files of a folder whose names have this prefix, in the order of their names.
fn files(folder: &Path, begin: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin))).collect();
    files.sort();
    files
}

#[tokio::test]
async fn lines_go_on_after_a_kill_and_a_torn_one_is_mended() {
    let folder = Folder::new("file-kill");
    let mut served = folder.serve();
    let path = folder.path("data/out/results.jsonl");
    let mut client = rule(&served, json!({"path": "out/results.jsonl", "sendSingle": true})).await;
    for n in 0..500 {
        send(&mut client, json!({"n": n}).to_string()).await;
    }
    until("all are in the file", || text(&path).lines().count() == 500).await;
    served.kill();
    // The result of a kill in the middle of a write.
    std::fs::write(&path, text(&path) + "{\"n\":5").expect("it can be written");
    let served = folder.serve();
    let mut client = served.connect("/in").await;
    send(&mut client, "{\"n\":500}").await;
    until("it goes on", || text(&path).ends_with("{\"n\":500}\n")).await;
    let numbers: Vec<i64> = text(&path)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("each line is whole")["n"].as_i64().expect("n"))
        .collect();
    assert_eq!(numbers, (0..=500).collect::<Vec<_>>());
}

#[tokio::test]
async fn files_roll_and_what_cannot_be_written_waits() {
    let folder = Folder::new("file-roll");
    let served = folder.serve();
    // There is a file in the place of the folder.
    std::fs::write(folder.path("data/out"), "x").expect("it can be written");
    let props = json!({
        "path": "out/{{.k}}.csv", "fileType": "csv", "format": "delimited", "hasHeader": true, "sendSingle": true,
        "rollingCount": 2, "rollingNamePattern": "suffix", "queue": 10,
    });
    let mut client = rule(&served, props).await;
    for n in 0..20 {
        send(&mut client, json!({"k": "a", "n": n}).to_string()).await;
    }
    let status = || async { served.asks("GET", "/rules/r/status", &Value::Null).await.json() };
    let began = Instant::now();
    let away = loop {
        let status = status().await;
        let waits = status["sink_file_0_0_buffer_length"].as_u64().unwrap_or_default();
        let lost = status["sink_file_0_0_dropped"]["queue full"].as_u64().unwrap_or_default();
        if waits + lost == 20 && status["sink_file_0_0_connection_status"] == -1 {
            break status;
        }
        assert!(began.elapsed() < LIMIT, "{status:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(
        away["sink_file_0_0_last_exception"].as_str().expect("a text").contains("cannot open out/a.csv"),
        "{away:#}"
    );
    let lost = away["sink_file_0_0_dropped"]["queue full"].as_u64().unwrap_or_default();
    std::fs::remove_file(folder.path("data/out")).expect("it is there");
    let lines = || {
        files(&folder.path("data/out"), "a-").iter().map(|path| text(path).lines().count() - 1).sum::<usize>() as u64
    };
    until("what waited is written", || lines() == 20 - lost).await;
    for file in files(&folder.path("data/out"), "a-") {
        let text = text(&file);
        assert!(text.starts_with("k,n\na,") && text.lines().count() <= 3, "{text}");
    }
    let began = Instant::now();
    while status().await["sink_file_0_0_connection_status"] != 1 {
        assert!(began.elapsed() < LIMIT, "the error goes away by itself");
    }
}

#[tokio::test]
async fn only_allowed_folders_are_written_to() {
    let folder = Folder::new("file-outside");
    let elsewhere = folder.path("elsewhere");
    std::fs::create_dir_all(&elsewhere).expect("a folder can be made");
    folder.write("etc/plutino.yaml", &format!("basic: {{fileRoots: ['{}']}}\n", elsewhere.display()));
    let served = folder.serve();
    let inside = elsewhere.join("a.jsonl");
    let mut client = rule(&served, json!({"path": inside.to_str(), "sendSingle": true})).await;
    send(&mut client, "{\"n\":1}").await;
    until("it is written", || text(&inside) == "{\"n\":1}\n").await;
    for path in ["/tmp/plutino-no", "../no", "plutino.redb", "data/plutino.redb", "uploads/x", "cache/x"] {
        let rule = json!({"id": "no", "sql": "SELECT * FROM demo", "actions": [{"file": {"path": path}}]});
        let answer = served.asks("POST", "/rules", &rule).await;
        assert!(answer.status == 400 && answer.body.contains("basic.fileRoots"), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_list_is_whole_at_any_time_and_packed_files_at_the_end() {
    let folder = Folder::new("file-json");
    let mut served = folder.serve();
    let list = folder.path("data/list.json");
    let mut client = rule(&served, json!({"path": "list.json", "fileType": "json", "sendSingle": true})).await;
    let packed = json!({"id": "p", "sql": "SELECT * FROM demo", "actions": [
        {"file": {"path": "packed.gz", "compression": "gzip", "sendSingle": true}}]});
    served.asks("POST", "/rules", &packed).await.done();
    for n in 0..3 {
        send(&mut client, json!({"n": n}).to_string()).await;
        until("it is whole with each", || {
            serde_json::from_str::<Value>(&text(&list))
                .is_ok_and(|list| list.as_array().is_some_and(|list| list.len() == n + 1))
        })
        .await;
    }
    tokio::task::spawn_blocking(move || assert!(served.terminate().success())).await.expect("it ends");
    let bytes = std::fs::read(folder.path("data/packed.gz")).expect("it is there");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(bytes.as_slice()), &mut text).expect("gzip");
    assert_eq!(text, "{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n");
}

#[tokio::test]
async fn two_processes_do_not_write_one_file() {
    let folder = Folder::new("file-twice");
    let served = folder.serve();
    let path = folder.path("data/shared.jsonl");
    let mut client = rule(&served, json!({"path": "shared.jsonl", "sendSingle": true})).await;
    send(&mut client, "{\"n\":1}").await;
    until("it is in the file", || text(&path) == "{\"n\":1}\n").await;
    let other = Folder::new("file-other");
    other.write("etc/plutino.yaml", &format!("basic: {{fileRoots: ['{}']}}\n", folder.path("data").display()));
    let second = other.serve();
    let mut client = rule(&second, json!({"path": path, "sendSingle": true})).await;
    send(&mut client, "{\"n\":2}").await;
    let began = Instant::now();
    loop {
        let status = second.asks("GET", "/rules/r/status", &Value::Null).await.json();
        let last = status["sink_file_0_0_last_exception"].as_str().unwrap_or_default();
        if last.contains(&format!("{} is written by another process", path.display())) {
            break;
        }
        assert!(began.elapsed() < LIMIT, "{status:#}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(text(&path), "{\"n\":1}\n");
    // A lock does not outlive its process.
    drop(served);
    until("its turn comes", || text(&path) == "{\"n\":1}\n{\"n\":2}\n").await;
}

/// The data folder has secrets: whoever creates it keeps others out.
#[tokio::test]
async fn a_data_folder_that_a_file_makes_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("file-mode");
    let rules = json!({
        "streams": ["CREATE STREAM demo () WITH (TYPE=\"websocket\", DATASOURCE=\"/demo\")"],
        "rules": [{"id": "r", "sql": "SELECT * FROM demo", "actions": [{"file": {"path": "out/results.jsonl"}}]}]
    });
    let data = folder.path("data");
    let named = data.to_string_lossy().into_owned();
    let mut plutino = crate::process::Plutino::run("file-mode", &rules, &["--data", &named]).await;
    let mut client = plutino.connect("/demo").await;
    send(&mut client, "{\"n\":1}").await;
    until("it is in the file", || text(&data.join("out/results.jsonl")).contains("\"n\":1")).await;
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    plutino.terminate();
    assert_eq!(plutino.exit_code().await, Some(0));
}
