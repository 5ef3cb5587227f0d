//! Clients that occupy the REST API without using it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::serve::{Folder, Served};

/// A request that must be answered, however busy the machine is.
fn answers(served: &Served) {
    let asked = (0..3).map(|_| {
        let begun = Instant::now();
        assert_eq!(served.ask("GET", "/ping", &Value::Null).status, 200);
        begun.elapsed()
    });
    let shortest = asked.min().unwrap_or_default();
    assert!(shortest < Duration::from_secs(8), "it took {shortest:?}");
}

#[test]
fn silent_clients_keep_nobody_out() {
    let folder = Folder::new("silent");
    let served = folder.serve();
    let mut silent = Vec::new();
    for _ in 0..700 {
        let mut socket = TcpStream::connect(&served.rest).expect("it is accepted");
        // Half a request and nothing more.
        let _ = socket.write_all(b"GET /rules HTTP/1.1\r\nHost: localhost\r\n");
        silent.push(socket);
    }
    answers(&served);
    assert_eq!(served.get("/rules"), json!([]));
}

#[test]
fn clients_that_do_not_read_keep_nobody_out() {
    let folder = Folder::new("unread");
    let served = folder.serve();
    served.done("POST", "/streams", &json!({"sql": "CREATE STREAM s () WITH (DATASOURCE=\"/s\", TYPE=\"websocket\")"}));
    // An export of some megabytes: more than the socket buffers hold.
    for number in 0..4 {
        let name = "x".repeat(1 << 20);
        served.done(
            "POST",
            "/rules",
            &json!({"id": format!("r{number}"), "name": name, "sql": "SELECT * FROM s", "actions": [{"nop": {}}]}),
        );
    }
    let mut unread = Vec::new();
    for _ in 0..30 {
        let mut socket = TcpStream::connect(&served.rest).expect("it is accepted");
        let _ = socket.write_all(b"GET /data/export HTTP/1.1\r\nHost: localhost\r\n\r\n");
        unread.push(socket);
    }
    answers(&served);
    // Clients that read nothing are disconnected, so that others are served.
    let whole = served.ask("GET", "/data/export", &Value::Null);
    assert!(whole.status == 200 || whole.status == 503, "{}", whole.status);
    for mut socket in unread {
        let _ = socket.set_read_timeout(Some(Duration::from_millis(1)));
        let _ = socket.read(&mut [0; 16]);
    }
    answers(&served);
}

#[test]
fn viewers_leave_descriptors_for_the_api() {
    let folder = Folder::new("descriptors");
    let served = Served::start(folder.command_by("sh", &["-c", "ulimit -n 150; exec \"$0\" \"$@\""]));
    served.done("POST", "/streams", &json!({"sql": "CREATE STREAM s () WITH (DATASOURCE=\"/s\", TYPE=\"websocket\")"}));
    let rule = json!({"id": "r", "sql": "SELECT * FROM s", "actions": [{"websocket": {"path": "/out"}}]});
    served.done("POST", "/rules", &rule);
    let mut viewers = Vec::new();
    for _ in 0..300 {
        let Ok(mut socket) = TcpStream::connect(("127.0.0.1", served.data_port)) else { break };
        let _ = socket.write_all(b"GET /out HTTP/1.1\r\nHost: localhost\r\n");
        viewers.push(socket);
    }
    for _ in 0..40 {
        answers(&served);
    }
    assert_eq!(served.states().len(), 1);
}
