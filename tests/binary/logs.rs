//! The log of `plutino serve` in files: their names, how many are kept, and that they contain the last line.
#![cfg(unix)]

use std::io::Write;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::process::serve::{Folder, LIMIT, Served};

/// The names of the log's files, in order.
fn files(folder: &Folder) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path("log")).into_iter().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("it can be listed").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn text(folder: &Folder) -> String {
    let read = |name: &String| std::fs::read_to_string(folder.path("log").join(name)).expect("it is text");
    files(folder).iter().map(read).collect()
}

fn stream(name: &str) -> Value {
    json!({"sql": format!("CREATE STREAM {name} () WITH (DATASOURCE=\"/{name}\", TYPE=\"websocket\")")})
}

/// Whether a name is `plutino.DATE.log`, with the hour if files change hourly.
fn is_dated(name: &str, hourly: bool) -> bool {
    let date = name.strip_prefix("plutino.").and_then(|rest| rest.strip_suffix(".log")).unwrap_or_default();
    let shape: String = date.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    shape == if hourly { "0000-00-00-00" } else { "0000-00-00" }
}

#[test]
fn old_files_go_and_new_ones_are_called_by_their_time() {
    for (hours, hourly, kept) in [(24, false, 2), (1, true, 3)] {
        let folder = Folder::new("rotation");
        folder.write(
            "etc/plutino.yaml",
            &format!(
                "basic:\n  fileLog: true\n  enableRestAuditLog: true\n  rotateTime: {hours}\n  rotateCount: {kept}\n"
            ),
        );
        let time = if hourly { "-07" } else { "" };
        for day in 1..=6 {
            folder.write(&format!("log/plutino.2020-01-0{day}{time}.log"), "old\n");
        }
        folder.write("log/of-others.log", "kept\n");
        let mut served = folder.serve();
        served.ask("POST", "/streams", &stream("demo")).done();
        assert!(served.terminate().success());
        let names = files(&folder);
        assert_eq!(names.first().map(String::as_str), Some("of-others.log"), "{names:?}");
        let own: Vec<&String> = names.iter().filter(|name| name.starts_with("plutino.")).collect();
        assert_eq!(own.len(), kept, "{names:?}");
        assert!(own.iter().all(|name| is_dated(name, hourly)), "{names:?}");
        assert!(text(&folder).contains("path=\"/streams\""), "{}", text(&folder));
    }
}

#[test]
fn files_that_are_switched_on_later_are_as_configured() {
    let folder = Folder::new("later");
    folder.write("etc/plutino.yaml", "basic:\n  enableRestAuditLog: true\n  rotateTime: 1\n  rotateCount: 2\n");
    for hour in 1..=5 {
        folder.write(&format!("log/plutino.2020-01-01-0{hour}.log"), "old\n");
    }
    let mut served = folder.serve();
    served.ask("POST", "/streams", &stream("before")).done();
    assert_eq!(files(&folder).len(), 5, "nothing is touched before");
    served.ask("PATCH", "/configs", &json!({"fileLog": true})).done();
    served.ask("POST", "/streams", &stream("after")).done();
    served.ask("PATCH", "/configs", &json!({"fileLog": false})).done();
    served.ask("DELETE", "/streams/before", &Value::Null).done();
    assert!(served.terminate().success());
    let names = files(&folder);
    assert!(names.len() == 2 && names.iter().all(|name| is_dated(name, true)), "{names:?}");
    let text = text(&folder);
    assert!(text.contains("path=\"/streams\"") && !text.contains("/streams/before"), "{text}");
}

#[test]
fn files_that_cannot_be_written_change_nothing() {
    let folder = Folder::new("no-log");
    // A file in the place of the folder: no user can write there.
    folder.write("log", "no folder");
    let served = folder.serve();
    let refused = served.ask("PATCH", "/configs", &json!({"fileLog": true, "logLevel": "debug"}));
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert!(refused.body.contains("the log cannot be written into"), "{}", refused.body);
    served.ask("POST", "/streams", &stream("demo")).done();
    assert!(!served.has_said().contains("DEBUG"), "the level stays, too: {}", served.has_said());
    drop(served);
    folder.write("etc/plutino.yaml", "basic:\n  fileLog: true\n");
    let output = folder.command().output().expect("the binary starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the log cannot be written into") && said.contains("--log-dir"), "{said}");
}

/// The first signal waits for a request in progress; the second does not.
#[test]
fn a_second_signal_loses_no_line() {
    let folder = Folder::new("second-signal");
    folder.write("etc/plutino.yaml", "basic:\n  fileLog: true\n  enableRestAuditLog: true\n");
    folder.write("data/rows.json", "[{\"a\": 1}]");
    let mut served: Served = folder.serve();
    // A result waits for a peer that is away: the end takes seconds, enough for a second signal on a busy machine.
    served.done(
        "POST",
        "/streams",
        &json!({"sql": "CREATE STREAM rows () WITH (DATASOURCE=\"rows.json\", TYPE=\"file\")"}),
    );
    let away = json!({"websocket": {"addr": "127.0.0.1:1", "path": "/away"}});
    served.done("POST", "/rules", &json!({"id": "waits", "sql": "SELECT * FROM rows", "actions": [away]}));
    let begun = std::time::Instant::now();
    while served.get("/rules/waits/status")["sink_websocket_0_0_buffer_length"] != 1 {
        assert!(begun.elapsed() < LIMIT, "the result waits");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let mut held = TcpStream::connect(&served.rest).expect("the API listens");
    held.write_all(b"POST /streams HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{").expect("it takes it");
    // These are answered after the request that is held was started.
    for number in 0..50 {
        served.ask("POST", "/streams", &stream(&format!("s{number}"))).done();
    }
    served.signal("-TERM");
    let begun = std::time::Instant::now();
    while TcpStream::connect(&served.rest).is_ok() {
        assert!(begun.elapsed() < LIMIT, "it goes on to listen");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    served.signal("-TERM");
    assert_eq!(served.ends().code(), Some(130));
    let lines = text(&folder);
    let written = lines.lines().filter(|line| line.contains("path=\"/streams\"") && line.contains("201")).count();
    assert_eq!(written, 51, "{lines}");
}

/// A service whose stderr is a pipe that is not read continues, and counts the lines that it loses.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let folder = Folder::new("unread");
    folder.write("etc/plutino.yaml", "basic:\n  enableRestAuditLog: true\n");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a port is free");
    let mut child = folder.command();
    child.env("KUIPER__BASIC__RESTPORT", port.port().to_string());
    let mut child = child.spawn().expect("the binary starts");
    let unread = child.stderr.take().expect("stderr is a pipe");
    let rest = port.to_string();
    let ask = |method: &str, path: &str, body: &str| crate::process::serve::ask(&rest, method, path, "", body);
    let began = std::time::Instant::now();
    while ask("GET", "/", "").is_none() {
        assert!(began.elapsed() < LIMIT, "it serves");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    // Each request is a line of the audit log: far more than the pipe (64 KiB) and the queue (1,024 lines) hold.
    let lost = || {
        let page = ask("GET", "/metrics", "").expect("it answers").body;
        let count = page.lines().find_map(|line| line.strip_prefix("plutino_log_lost_lines_total "));
        count.expect("it is counted").parse::<u64>().expect("a number")
    };
    let long = "x".repeat(200);
    while lost() == 0 {
        assert!(began.elapsed() < LIMIT, "lines are lost");
        for _ in 0..200 {
            let answer = ask("DELETE", &format!("/streams/{long}"), "").expect("it answers");
            assert!(answer.status >= 400);
        }
    }
    assert_eq!(ask("POST", "/stop", "").expect("it answers").status, 200);
    let began = std::time::Instant::now();
    let ended = loop {
        match child.try_wait().expect("it can be asked") {
            Some(ended) => break ended,
            None if began.elapsed() < LIMIT => std::thread::sleep(std::time::Duration::from_millis(20)),
            None => {
                let _ = child.kill();
                panic!("it does not end");
            }
        }
    };
    assert!(ended.success(), "{ended}");
    drop(unread);
}
