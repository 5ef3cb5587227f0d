//! A user who may read from the service, and tries to get its credentials for other systems.

use serde_json::{Value, json};

use crate::process::serve::{Folder, Served};

/// A service with secrets in every kind of definition.
fn served(folder: &Folder) -> Served {
    folder.write("etc/sources/websocket.yaml", "filed:\n  addr: 127.0.0.1:9\n  headers: {Authorization: S3CRET}\n");
    let served = folder.serve();
    let peer = json!({"addr": "127.0.0.1:9", "path": "/x?access_token=S3CRET&a=b", "headers": {"Authorization": "S3CRET"},
        "onOpen": [{"op": "login", "key": "S3CRET"}]});
    let extra = peer.to_string().replace('"', "\\\"");
    let sql =
        format!("CREATE STREAM s () WITH (DATASOURCE=\"/x?token=S3CRET\", TYPE=\"websocket\", EXTRA=\"{extra}\")");
    served.done("POST", "/streams", &json!({"sql": sql}));
    served.done("PUT", "/metadata/sources/websocket/confKeys/token", &peer);
    served.done("POST", "/connections", &json!({"id": "c", "typ": "websocket", "props": peer}));
    served.done("POST", "/rules", &json!({"id": "r", "sql": "SELECT * FROM s", "actions": [{"websocket": peer}]}));
    served
}

#[test]
fn secrets_are_shown_nowhere() {
    let folder = Folder::new("secrets");
    let served = served(&folder);
    for (method, path) in [
        ("GET", "/rules"),
        ("GET", "/rules/r"),
        ("GET", "/rules/r/status"),
        ("GET", "/rules/r/explain"),
        ("GET", "/rules/r/topo"),
        ("GET", "/streams/s"),
        ("GET", "/connections"),
        ("GET", "/connections?forceAll=true"),
        ("GET", "/connections/c"),
        ("GET", "/metadata/sources/yaml/websocket"),
        ("GET", "/metadata/resource"),
        ("GET", "/data/export"),
        ("POST", "/ruleset/export"),
        ("GET", "/v2/data/export"),
        ("GET", "/metrics"),
    ] {
        let answer = served.ask(method, path, &Value::Null);
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.body.contains("S3CRET"), "{path}: {}", answer.body);
    }
    let some = served.ask("POST", "/data/export", &json!(["r"]));
    assert!(some.status == 200 && !some.body.contains("S3CRET"), "{}", some.body);
    assert!(!served.has_said().contains("S3CRET"), "{}", served.has_said());
    for (method, path) in [("GET", "/data/export"), ("POST", "/ruleset/export"), ("GET", "/v2/data/export")] {
        let answer = served.ask(method, &format!("{path}?secrets=true"), &Value::Null);
        assert!(answer.body.contains("S3CRET") && !answer.body.contains("***"), "{path}: {}", answer.body);
    }
}

#[test]
fn what_was_hidden_is_kept_when_it_is_sent_back() {
    let folder = Folder::new("sent-back");
    let served = served(&folder);
    let all = |served: &Served| served.ask("GET", "/data/export?secrets=true", &Value::Null).body;
    let before = all(&served);
    let rule = served.get("/rules/r");
    served.done("PUT", "/rules/r", &rule);
    let key = served.get("/metadata/sources/yaml/websocket")["token"].clone();
    served.done("PUT", "/metadata/sources/websocket/confKeys/token", &key);
    let stream = served.ask("POST", "/ruleset/export", &Value::Null).json()["streams"]["s"].clone();
    served.done("PUT", "/streams/s", &json!({"sql": stream}));
    let connection = served.get("/connections/c");
    let props = connection["props"].clone();
    served.done("PUT", "/connections/c", &json!({"typ": "websocket", "props": props}));
    let count = |text: &str| text.matches("S3CRET").count();
    assert_eq!(count(&all(&served)), count(&before), "{}", all(&served));
    // The same for a whole export that replaces everything.
    let masked = served.ask("GET", "/data/export", &Value::Null).body;
    served.done("POST", "/data/import", &json!({"content": masked}));
    assert_eq!(count(&all(&served)), count(&before), "{}", all(&served));

    // Another service has no values to keep.
    let mut other = rule.clone();
    other["id"] = json!("other");
    let refused = served.ask("POST", "/rules", &other);
    assert!(refused.status == 400 && refused.body.contains("write the value"), "{}", refused.body);
    let fresh = Folder::new("fresh");
    let fresh = fresh.serve();
    let refused = fresh.ask("POST", "/data/import", &json!({"content": masked}));
    assert!(refused.status == 400 && refused.body.contains("write the value"), "{}", refused.body);
    assert_eq!(fresh.get("/rules"), json!([]));
}

#[test]
fn the_data_folder_is_its_owners() {
    use std::os::unix::fs::PermissionsExt;

    let folder = Folder::new("modes");
    let served = served(&folder);
    served.done("POST", "/config/uploads", &json!({"name": "x", "content": "y"}));
    let mode = |name: &str| {
        let there = std::fs::metadata(folder.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        there.permissions().mode() & 0o777
    };
    assert_eq!(mode("data"), 0o700);
    assert_eq!(mode("data/plutino.redb"), 0o600);
    assert_eq!(mode("data/uploads/x"), 0o600);
}

#[test]
fn an_open_data_server_is_told_once() {
    let folder = Folder::new("open");
    let mut command = folder.command();
    command.env("KUIPER__SOURCE__HTTPSERVERIP", "0.0.0.0");
    let served = Served::start(command);
    let lines = |served: &Served| served.has_said().lines().filter(|line| line.contains("for anybody")).count();
    assert_eq!(lines(&served), 1, "{}", served.has_said());
    let mut command = Folder::command(&folder);
    command.env("KUIPER__SOURCE__HTTPSERVERIP", "0.0.0.0").env("PLUTINO__SOURCE__HTTPSERVERTOKENS", "[secret]");
    drop(served);
    let served = Served::start(command);
    assert_eq!(lines(&served), 0, "{}", served.has_said());
}
