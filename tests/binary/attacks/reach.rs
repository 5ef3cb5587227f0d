//! A user of the REST API who tries to reach other things on the machine: its files, and the environment of the
//! process.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::http::HttpServer;
use crate::process::serve::{Answer, Folder, Served};

/// A service with a secret next to its data folder and in its environment.
fn served(folder: &Folder) -> Served {
    folder.write("secret.pem", "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n");
    folder.write("data/own.pem", "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n");
    folder.write("extra/list.json", "{\"a\": 1}");
    let root = folder.path("extra");
    folder.write("etc/plutino.yaml", &format!("basic:\n  fileRoots: ['{}']\n", root.display()));
    let mut command = folder.command();
    command.env("SECRET", "s3cret").env("PLUTINO_TOKEN_OF_FEED", "t");
    Served::start(command)
}

/// All ways to name a file.
fn ways(served: &Served, file: &str) -> Vec<(&'static str, Answer)> {
    let stream = |name: &str, options: &str| json!({"sql": format!("CREATE STREAM {name} () WITH (DATASOURCE=\"/s\", TYPE=\"websocket\"{options})")});
    served.ask("POST", "/streams", &stream("plain", ""));
    let peer = json!({"addr": "127.0.0.1:9", "scheme": "wss", "path": "/x", "rootCaPath": file});
    let rule = json!({"id": "r", "sql": "SELECT * FROM plain", "actions": [{"websocket": peer}]});
    let mut wild = peer.clone();
    wild["rootCAPATH"] = wild["rootCaPath"].take();
    let mut asked = vec![
        ("upload", served.ask("POST", "/config/uploads", &json!({"name": "x", "file": file}))),
        (
            "upload by URL",
            served.ask("POST", "/config/uploads", &json!({"name": "x", "file": format!("file://{file}")})),
        ),
        ("import", served.ask("POST", "/data/import", &json!({"file": file}))),
        ("ruleset", served.ask("POST", "/ruleset/import", &json!({"file": file}))),
        ("yaml", served.ask("POST", "/v2/data/import", &json!({"file": file}))),
        ("later", served.ask("POST", "/async/data/import", &json!({"file": file}))),
        ("conf key", served.ask("PUT", "/metadata/sources/websocket/confKeys/k", &peer)),
        ("sink key", served.ask("PUT", "/metadata/sinks/websocket/confKeys/k", &wild)),
        ("connection", served.ask("POST", "/connections", &json!({"id": "c", "typ": "websocket", "props": peer}))),
        ("check", served.ask("POST", "/metadata/sinks/connection/websocket", &wild)),
        ("rule", served.ask("POST", "/rules", &rule)),
    ];
    let extra = peer.to_string().replace('"', "\\\"");
    served.ask("POST", "/streams", &stream("extra", &format!(", EXTRA=\"{extra}\"")));
    let rule = json!({"id": "e", "sql": "SELECT * FROM extra", "actions": [{"nop": {}}]});
    asked.push(("EXTRA", served.ask("POST", "/rules", &rule)));
    served.ask("DELETE", "/streams/extra", &Value::Null);
    asked
}

#[test]
fn files_elsewhere_are_neither_read_nor_looked_for() {
    let folder = Folder::new("files");
    let served = served(&folder);
    std::os::unix::fs::symlink(folder.path("secret.pem"), folder.path("data/link.pem")).expect("a link can be made");
    let secret = folder.path("secret.pem").display().to_string();
    let link = folder.path("data/link.pem").display().to_string();
    let out = folder.path("data/../secret.pem").display().to_string();
    for file in [secret.as_str(), &link, &out, "/etc/passwd", "/no/such/file", "/proc/self/environ", "/dev/zero"] {
        for (way, answer) in ways(&served, file) {
            assert_eq!(answer.status, 400, "{way} of {file}: {}", answer.body);
            assert!(answer.body.contains("basic.fileRoots"), "{way} of {file}: {}", answer.body);
        }
    }
    assert_eq!(served.get("/config/uploads"), json!([]));
    assert_eq!(served.get("/connections"), json!([]));
}

#[test]
fn files_in_the_folders_are_read() {
    let folder = Folder::new("own-files");
    let served = served(&folder);
    let own = folder.path("data/own.pem").display().to_string();
    for (way, answer) in ways(&served, &own) {
        assert!(!answer.body.contains("basic.fileRoots"), "{way}: {}", answer.body);
    }
    let listed = folder.path("extra/list.json").display().to_string();
    served.done("POST", "/config/uploads", &json!({"name": "list", "file": listed}));
    served.done(
        "POST",
        "/tables",
        &json!({"sql": format!("CREATE TABLE t (a BIGINT) WITH (DATASOURCE=\"{listed}\", TYPE=\"file\", KIND=\"lookup\", KEY=\"a\")")}),
    );
}

#[test]
fn a_pipe_holds_nobody_up() {
    let folder = Folder::new("pipe");
    let served = served(&folder);
    let pipe = folder.path("data/pipe").display().to_string();
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let begun = Instant::now();
    for (way, answer) in ways(&served, &pipe) {
        assert_ne!(answer.status, 0, "{way}");
    }
    let refused = served.ask("POST", "/config/uploads", &json!({"name": "x", "file": pipe}));
    assert!(refused.status == 400 && refused.body.contains("not a regular file"), "{}", refused.body);
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(served.ask("GET", "/ping", &Value::Null).status, 200);
}

#[test]
fn the_environment_is_not_sent_to_a_peer() {
    let folder = Folder::new("environment");
    let served = served(&folder);
    served.done("POST", "/streams", &json!({"sql": "CREATE STREAM s () WITH (DATASOURCE=\"/s\", TYPE=\"websocket\")"}));
    for hidden in [
        json!({"onOpen": "${SECRET}"}),
        json!({"onOpen": [{"op": "login", "key": "${SECRET}"}]}),
        json!({"headers": {"Authorization": "Bearer ${SECRET}"}}),
        json!({"path": "/${SECRET}"}),
        json!({"path": "/${SECRET:-x}"}),
    ] {
        let mut peer = json!({"addr": "127.0.0.1:9", "path": "/x"});
        for (name, value) in hidden.as_object().expect("an object") {
            peer[name] = value.clone();
        }
        let rule = json!({"id": "r", "sql": "SELECT * FROM s", "actions": [{"websocket": peer}]});
        for (method, path, body) in [
            ("PUT", "/metadata/sources/websocket/confKeys/k", peer.clone()),
            ("POST", "/connections", json!({"id": "c", "typ": "websocket", "props": peer})),
            ("POST", "/metadata/sources/connection/websocket", peer.clone()),
            ("POST", "/rules", rule),
        ] {
            let answer = served.ask(method, path, &body);
            assert_eq!(answer.status, 400, "{path} {hidden}");
            assert!(answer.body.contains("SECRET is not allowed here: add it to basic.envAllow"), "{}", answer.body);
        }
    }
    let allowed = json!({"addr": "127.0.0.1:9", "onOpen": "${PLUTINO_TOKEN_OF_FEED}"});
    served.done("PUT", "/metadata/sources/websocket/confKeys/k", &allowed);
}

#[test]
fn a_file_of_opening_messages_does_not_show_the_environment() {
    let folder = Folder::new("opening");
    let served = served(&folder);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let peer = listener.local_addr().expect("it is bound").to_string();
    served.done("POST", "/config/uploads", &json!({"name": "login.json", "content": "{\"key\": \"${SECRET}\"}"}));
    let file = folder.path("data/uploads/login.json").display().to_string();
    let key = json!({"addr": peer, "onOpen": {"file": file}});
    served.done("PUT", "/metadata/sources/websocket/confKeys/k", &key);
    let stream = "CREATE STREAM feed () WITH (DATASOURCE=\"/s\", TYPE=\"websocket\", CONF_KEY=\"k\")";
    served.done("POST", "/streams", &json!({ "sql": stream }));
    let rule = json!({"id": "r", "sql": "SELECT * FROM feed", "actions": [{"nop": {}}]});
    served.done("POST", "/rules", &rule);
    let begun = Instant::now();
    loop {
        let status = served.get("/rules/r/status");
        let last = status["source_feed_0_last_exception"].as_str().unwrap_or_default();
        if last.contains("the variable SECRET is not allowed here: add it to basic.envAllow") {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{status}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// All ways to make the service dial a peer.
fn dials(served: &Served, props: &Value) -> Vec<(&'static str, Answer)> {
    let stream = |name: &str, options: &str| json!({"sql": format!("CREATE STREAM {name} () WITH (DATASOURCE=\"/x\", TYPE=\"websocket\"{options})")});
    served.ask("POST", "/streams", &stream("plain", ""));
    let rule = json!({"id": "r", "sql": "SELECT * FROM plain", "actions": [{"websocket": props}]});
    let connection = json!({"id": "c", "typ": "websocket", "props": props});
    let mut asked = vec![
        ("sink", served.ask("POST", "/rules", &rule)),
        ("connection", served.ask("POST", "/connections", &connection)),
        ("check of a sink", served.ask("POST", "/metadata/sinks/connection/websocket", props)),
        ("check of a source", served.ask("POST", "/metadata/sources/connection/websocket", props)),
    ];
    let extra = props.to_string().replace('"', "\\\"");
    served.ask("POST", "/streams", &stream("extra", &format!(", EXTRA=\"{extra}\"")));
    let rule = json!({"id": "e", "sql": "SELECT * FROM extra", "actions": [{"nop": {}}]});
    asked.push(("source", served.ask("POST", "/rules", &rule)));
    for path in ["/rules/r", "/rules/e", "/connections/c", "/streams/extra"] {
        served.ask("DELETE", path, &Value::Null);
    }
    asked
}

#[test]
fn websockets_do_not_reach_what_hands_out_credentials() {
    let folder = Folder::new("dials");
    let served = folder.serve();
    let peer = |addr: &str| json!({"addr": addr, "path": "/x"});
    let proxied = json!({"addr": "feed.example:80", "path": "/x", "proxy": "http://169.254.169.254:80"});
    let addresses = ["169.254.169.254:80", "[fe80::1]:80", "100.100.100.200:80", "[::ffff:169.254.169.254]:80"];
    for props in addresses.iter().map(|addr| peer(addr)).chain([proxied]) {
        for (way, answer) in dials(&served, &props) {
            assert_eq!(answer.status, 400, "{way} {props}: {}", answer.body);
            assert!(answer.body.contains("add it to basic.egressAllow"), "{way} {props}: {}", answer.body);
        }
    }
    let here = peer("127.0.0.1:9");
    let refused = |served: &Served| {
        let asked = dials(served, &here);
        asked.iter().filter(|(_, answer)| answer.body.contains("basic.egressAllow")).count()
    };
    assert_eq!(refused(&served), 0, "peers on this machine are dialled");
    drop(served);
    folder.write("etc/plutino.yaml", "basic: {dialLoopback: false}\n");
    let served = folder.serve();
    assert_eq!(refused(&served), 5);
}

#[test]
fn what_a_server_of_this_machine_answers_to_a_dial_is_not_shown() {
    let folder = Folder::new("dial-answer");
    let served = folder.serve();
    let server = HttpServer::answering(|_| (403, String::new(), "the secret".to_owned()));
    let props = json!({"addr": server.address.to_string(), "path": "/private"});
    for (way, answer) in dials(&served, &props) {
        assert!(!answer.body.contains("the secret"), "{way}: {}", answer.body);
    }
    let connection = json!({"id": "c", "typ": "websocket", "props": props});
    served.done("POST", "/connections", &connection);
    server.until("it is dialled", |requests| requests.iter().any(|request| request.path == "/private"));
    let begun = Instant::now();
    loop {
        let shown = served.ask("GET", "/connections/c", &Value::Null).body;
        assert!(!shown.contains("the secret"), "{shown}");
        if shown.contains("HTTP status 403") {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{shown}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn where_a_server_of_this_machine_redirects_to_is_not_shown() {
    let folder = Folder::new("dial-redirect");
    let served = folder.serve();
    for (way, location) in [
        ("ftp", "ftp://s3cret.example/s3cret"),
        ("round", "/s3cret"),
        ("closed", "http://127.0.0.1:1/s3cret"),
        ("unknown", "http://s3cret.invalid/s3cret"),
        ("refused", "http://169.254.169.254/s3cret"),
        ("not a URL", "http://[s3cret"),
    ] {
        let server = HttpServer::answering(move |_| (302, format!("location: {location}\r\n"), String::new()));
        let props = json!({"addr": server.address.to_string(), "path": "/private"});
        let answer = served.ask("POST", "/metadata/sinks/connection/websocket", &props);
        assert!(answer.status == 400 && answer.body.contains("redirects, which is not followed"), "{}", answer.body);
        let shown = ["s3cret", "169.254"].iter().any(|hidden| answer.body.contains(hidden));
        assert!(!shown, "{way}: {}", answer.body);
    }
}

#[test]
fn what_is_answered_through_a_proxy_of_this_machine_is_not_shown() {
    let folder = Folder::new("dial-proxy");
    let served = folder.serve();
    // A tunnel to itself: the proxy resolves the name to this machine.
    let server = HttpServer::answering(|request| match request.method.as_str() {
        "CONNECT" => (200, String::new(), String::new()),
        _ => (403, String::new(), "the secret".to_owned()),
    });
    let props = json!({"addr": "inner.example:80", "path": "/private", "proxy": server.url("")});
    let answer = served.ask("POST", "/metadata/sinks/connection/websocket", &props);
    assert!(answer.body.contains("HTTP status 403") && !answer.body.contains("the secret"), "{}", answer.body);
}
