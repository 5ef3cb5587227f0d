//! SIGHUP at a service: what it applies while it runs, what it does not, and that it keeps running.

use tokio::net::TcpStream;

use crate::process::serve::{Folder, Served};
use crate::secure::{RULE, STREAM, ask, certificates, data_address, request, shake};

const READ: &str = "the configuration was read again";

/// The status of a handshake with this token.
async fn let_in(served: &Served, token: &str) -> u16 {
    let stream = TcpStream::connect(data_address(served)).await.unwrap();
    shake(stream, "/out", &format!("Authorization: Bearer {token}\r\n")).await
}

#[tokio::test]
async fn lists_and_tokens_are_read_again() {
    let folder = Folder::new("reload-lists");
    folder.write("etc/plutino.yaml", "source: {httpServerTokens: [one]}");
    let mut served = folder.serve();
    assert_eq!(ask(&served, "POST", "/streams", "", STREAM).await.0, 201);
    assert_eq!(ask(&served, "POST", "/rules", "", RULE).await.0, 201);
    assert_eq!([let_in(&served, "one").await, let_in(&served, "two").await], [101, 401]);
    let asked_as = async |host: &str| {
        let stream = TcpStream::connect(&served.rest).await.unwrap();
        request(stream, "GET", "/ping", &format!("X: y\r\nOrigin: http://{host}\r\n"), "").await.0
    };
    assert_eq!(asked_as("board.example").await, 403);

    folder.write(
        "etc/plutino.yaml",
        "basic: {restOrigins: ['http://board.example'], fileRoots: [/srv]}\nsource: {httpServerTokens: [two], \
         endpointLinger: 1s}",
    );
    folder.write("etc/connections/connection.yaml", "websocket: {peer: {path: /peer}}");
    served.signal("-HUP");
    let line = served.says(&[READ]);
    assert!(line.ends_with("keys: basic.restOrigins, source.httpServerTokens"), "{line}");
    let waits = "changed, needs a restart: basic.fileRoots, source.endpointLinger, connections of files";
    served.says(&[waits]);
    assert_eq!([let_in(&served, "one").await, let_in(&served, "two").await], [401, 101]);
    assert_eq!(asked_as("board.example").await, 200);

    // Changes that need a restart are reported again, and only new ones are applied.
    folder.write("etc/plutino.yaml", "source: {httpServerTokens: [three], endpointLinger: 1s}");
    served.signal("-HUP");
    served.says(&[READ, "keys: basic.restOrigins, source.httpServerTokens"]);
    served.says(&["changed, needs a restart: source.endpointLinger, connections of files"]);
    assert_eq!([let_in(&served, "two").await, let_in(&served, "three").await], [401, 101]);

    for wrong in [
        "source: {httpServerTokens: [four], httpServerPort: high}",
        "source: {httpServerTokens: [four], httpServerJwt: {keys: [nowhere.pem]}}",
        "source: {httpServerTokens: [four], httpServerTls: {certfile: no.pem, keyfile: no.key}}",
        "not: [closed",
    ] {
        folder.write("etc/plutino.yaml", wrong);
        served.signal("-HUP");
        served.says(&["ERROR", "the old one stays in effect"]);
        assert_eq!([let_in(&served, "three").await, let_in(&served, "four").await], [101, 401], "{wrong}");
    }
    assert_eq!(served.terminate().code(), Some(0));
}

#[tokio::test]
async fn a_file_that_is_gone_opens_nothing() {
    let folder = Folder::new("reload-gone");
    folder.write("etc/plutino.yaml", "source: {httpServerTokens: [one]}");
    let mut command = folder.command();
    command.env("KUIPER__SOURCE__HTTPSERVERIP", "0.0.0.0");
    let served = Served::start(command);
    let open = "the data server listens on 0.0.0.0:";
    assert!(!served.has_said().contains(open), "{}", served.has_said());
    assert_eq!(ask(&served, "POST", "/streams", "", STREAM).await.0, 201);
    assert_eq!(ask(&served, "POST", "/rules", "", RULE).await.0, 201);
    std::fs::remove_file(folder.path("etc/plutino.yaml")).unwrap();
    served.signal("-HUP");
    served.says(&["ERROR", "the old one stays in effect", "etc/plutino.yaml is gone"]);
    assert_eq!([let_in(&served, "one").await, let_in(&served, "two").await], [101, 401]);

    // A file that was cut off opens nothing either.
    folder.write("etc/plutino.yaml", "\n");
    served.signal("-HUP");
    served.says(&["ERROR", "the old one stays in effect", "etc/plutino.yaml is empty"]);
    assert_eq!([let_in(&served, "one").await, let_in(&served, "two").await], [101, 401]);

    folder.write("etc/plutino.yaml", "source:\n  httpServerTokens:\n");
    served.signal("-HUP");
    served.says(&["ERROR", "source.httpServerTokens has no value"]);
    served.says(&["ERROR", "the old one stays in effect"]);
    assert_eq!([let_in(&served, "one").await, let_in(&served, "two").await], [101, 401]);

    // A file without tokens means that none is needed. The log warns about this; it is not an error.
    folder.write("etc/plutino.yaml", "nothing: {}");
    served.signal("-HUP");
    let line = served.says(&["unknown section nothing is ignored"]);
    assert!(line.contains(" WARN "), "{line}");
    let line = served.says(&[READ, "source.httpServerTokens"]);
    assert!(line.contains(" INFO "), "{line}");
    served.says(&["WARN", open, "for anybody"]);
    assert_eq!(let_in(&served, "two").await, 101);
}

#[tokio::test]
async fn a_data_server_that_does_not_listen_yet_begins_with_the_new_tokens() {
    let folder = Folder::new("reload-early");
    folder.write("etc/plutino.yaml", "source: {httpServerTokens: [one]}");
    let served = folder.serve();
    folder.write("etc/plutino.yaml", "source: {httpServerTokens: [two]}");
    for _ in 0..10 {
        served.signal("-HUP");
    }
    served.says(&[READ, "source.httpServerTokens"]);
    assert_eq!(ask(&served, "POST", "/streams", "", STREAM).await.0, 201);
    assert_eq!(ask(&served, "POST", "/rules", "", RULE).await.0, 201);
    assert_eq!([let_in(&served, "one").await, let_in(&served, "two").await], [401, 101]);
}

#[tokio::test]
async fn certificates_are_read_again_and_connections_stay() {
    let folder = Folder::new("reload-tls");
    let old = certificates(&folder);
    let tls = "{certfile: server.pem, keyfile: server.key}";
    folder.write("etc/plutino.yaml", &format!("basic: {{restTls: {tls}}}\nsource: {{httpServerTls: {tls}}}"));
    let served = folder.serve();
    let rest = async |method: &str, path: &str, body: &str| {
        request(old.connect(&served.rest, false).await.unwrap(), method, path, "", body).await.0
    };
    assert_eq!([rest("POST", "/streams", STREAM).await, rest("POST", "/rules", RULE).await], [201, 201]);
    let data = data_address(&served);
    let connected = old.connect(&data, false).await.unwrap();
    let early = old.connect(&served.rest, false).await.unwrap();

    let new = certificates(&folder);
    served.signal("-HUP");
    served.says(&[READ]);
    for address in [&served.rest, &data] {
        assert!(old.connect(address, false).await.is_err(), "{address} has its old certificate");
        assert!(new.connect(address, false).await.is_ok(), "{address} has not its new certificate");
    }
    assert_eq!(shake(connected, "/out", "").await, 101);
    assert_eq!(request(early, "GET", "/ping", "", "").await.0, 200);

    folder.write("server.key", "not a key");
    served.signal("-HUP");
    served.says(&["ERROR", "the old one stays in effect", "server.key"]);
    assert!(new.connect(&served.rest, false).await.is_ok());
}

#[tokio::test]
async fn the_level_of_the_log_follows_the_file_until_the_command_line_says_it() {
    let folder = Folder::new("reload-level");
    folder.write("etc/plutino.yaml", "basic: {logLevel: error}");
    let served = folder.serve();
    folder.write("etc/plutino.yaml", "basic: {logLevel: info}");
    served.signal("-HUP");
    served.says(&[READ, "basic.logLevel"]);
    assert_eq!(ask(&served, "POST", "/streams", "", STREAM).await.0, 201);
    assert_eq!(ask(&served, "POST", "/rules", "", RULE).await.0, 201);
    served.says(&["INFO", "the data server is listening"]);
}

#[test]
fn a_hangup_does_not_disturb_the_end() {
    let folder = Folder::new("reload-end");
    let mut served = folder.serve();
    served.signal("-TERM");
    let pid = served.child.id().to_string();
    // It may have ended meanwhile.
    let _ = std::process::Command::new("kill").args(["-HUP", &pid]).stderr(std::process::Stdio::null()).status();
    assert_eq!(served.ends().code(), Some(0));
    assert!(served.has_said().contains("stopped 0 rules"), "{}", served.has_said());
}
