//! The command line as a user sees it: exit codes, output, signals, and nothing left behind.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use crate::process::folder::Folder;

/// A folder with files, in which the program runs.
struct Place(Folder);

impl Place {
    fn new(name: &str, files: &[(&str, &str)]) -> Place {
        let folder = Folder::new(name);
        for (file, text) in files {
            folder.write(file, text);
        }
        Place(folder)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
        command.args(arguments).current_dir(&self.0.0).stdin(Stdio::null());
        command.env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1").env("KUIPER__SOURCE__HTTPSERVERPORT", "0");
        command.env_remove("PLUTINO_LOG");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs to the end: exit code, stdout and stderr.
    fn outcome(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let output = self.run(arguments);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

/// A program running in parallel with the test; killed when dropped.
struct Running {
    child: Child,
    said: BufReader<std::process::ChildStderr>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Running { child, said }
    }

    /// Reads stderr up to a line with `part`; that line.
    fn says(&mut self, part: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "it ended without {part:?}:\n{all}");
            if line.contains(part) {
                return line;
            }
            all.push_str(&line);
        }
    }

    fn terminate(&self) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Waits for the end: exit status and stdout.
    fn ends(mut self) -> (ExitStatus, String) {
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        (self.child.wait().unwrap(), out)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const RULES: &str = r#"
streams:
  - CREATE STREAM demo () WITH (TYPE="websocket", DATASOURCE="/in", FORMAT="json")
rules:
  - id: r1
    sql: SELECT a, b + 1 AS c FROM demo WHERE a > 1
    actions:
      - log: {sendSingle: true}
      - websocket: {path: /out, sendSingle: true}
"#;

#[test]
fn a_wrong_command_line_ends_with_2() {
    let folder = Place::new("usage", &[("rules.yaml", RULES)]);
    for arguments in [
        &[][..],
        &["fly"],
        &["run"],
        &["run", "rules.yaml", "--workers", "0"],
        &["run", "rules.yaml", "--feed", "-", "--rate", "-1"],
        &["run", "rules.yaml", "--rate", "1"],
        &["run", "rules.yaml", "--feed", "-", "--loop"],
        &["run", "rules.yaml", "--feed", "-", "--feed", "-"],
        &["run", "rules.yaml", "--log", "=="],
        &["feed", "http://localhost/x"],
        &["tail", "localhost"],
        &["tail", "ws://localhost/x", "--header", "none"],
        &["tail", "wss://localhost/x", "--listen"],
    ] {
        let (code, out, err) = folder.outcome(arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}: {err}");
        assert!(!err.is_empty(), "{arguments:?}");
    }
    let (code, out, _) = folder.outcome(&["run", "--help"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("--feed"));
}

#[test]
fn all_mistakes_of_all_files_are_told_at_once() {
    let streams = r#"{"streams": {"demo": "CREATE STREAM demo (a BIGNIT) WITH (DATASOURCE=\"/in\")",
  "other": "CREATE STREAM other () WITH (TYPE=\"websocket\", DATASOURCE=\"/o\")"}}"#;
    let rules = "rules:\n  - id: r1\n    sql: |\n      SELECT a,\n        nosuch(a)\n      FROM other\n    actions: [{log: {}}]\n  \
                 - id: r2\n    sql: SELECT a FROM othre\n    actions: [{lgo: {}}]\n";
    let broken = "{\"rules\": [\n";
    let folder = Place::new("mistakes", &[("streams.json", streams), ("rules.yaml", rules), ("broken.json", broken)]);
    let (code, out, err) = folder.outcome(&["check", "streams.json", "rules.yaml"]);
    assert_eq!((code, out.as_str()), (Some(1), ""));
    for expected in [
        "streams.json:1:45: error: stream demo: found \"BIGNIT\", expect valid stream field types",
        "    1:23 | CREATE STREAM demo (a BIGNIT)",
        "hint: did you mean BIGINT?",
        "rules.yaml:5:9: error: rule r1: ",
        "    2:3 |   nosuch(a)\n        |   ^^^^^^",
        "rules.yaml:9:24: error: rule r2: ",
        "rules.yaml:10:16: error: rule r2: sink lgo is not defined: there are websocket, memory, rest, file, sse, log and nop",
        "hint: did you mean log?",
    ] {
        assert!(err.contains(expected), "{expected}\n{err}");
    }
    let (code, _, err) = folder.outcome(&["run", "rules.yaml", "broken.json", "missing.json"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("broken.json:"), "{err}");
    assert!(err.contains("missing.json: error: cannot read the file: No such file"), "{err}");
}

#[test]
fn files_that_are_right_are_checked_and_explained() {
    let folder = Place::new("right", &[("rules.yaml", RULES)]);
    let (code, out, err) = folder.outcome(&["check", "rules.yaml"]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "ok: 1 stream, 1 rule\n", ""));
    let (code, out, _) = folder.outcome(&["explain", "rules.yaml"]);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("rule r1\n"), "{out}");
    let (code, again, _) = folder.outcome(&["explain", "rules.yaml", "r1"]);
    assert_eq!((code, again), (Some(0), out));
    let (code, _, err) = folder.outcome(&["explain", "rules.yaml", "r2"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("rules.yaml has no rule r2; there are: r1"), "{err}");
}

#[test]
fn a_closed_stdout_ends_quietly() {
    let folder = Place::new("pipe", &[("rules.yaml", RULES)]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    for arguments in [&["explain", "rules.yaml"][..], &["completions", "bash"], &["schema", "rules"], &["--help"]] {
        let closed = writer.try_clone().unwrap();
        let output = folder.command(arguments).stdout(closed).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]), "{arguments:?}");
    }
}

#[test]
fn the_configuration_is_checked() {
    let folder = Place::new(
        "config",
        &[
            ("rules.yaml", RULES),
            ("etc/plutino.yaml", "source:\n  httpServerPort: many\n"),
            ("other/kuiper.yaml", "basic:\n  logLevl: info\n"),
        ],
    );
    let (code, _, err) = folder.outcome(&["check", "rules.yaml"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("etc/plutino.yaml:2:19: error: source.httpServerPort is \"many\", expected a port"), "{err}");
    let (code, _, err) = folder.outcome(&["check", "rules.yaml", "--etc", "other"]);
    assert_eq!(code, Some(0));
    assert!(err.contains("other/kuiper.yaml:2:3: warning: unknown setting basic.logLevl is ignored"), "{err}");
}

#[test]
fn a_configuration_that_is_not_there_is_told_where_it_was_asked_for() {
    let folder = Place::new("noetc", &[("rules.yaml", RULES)]);
    let (code, _, err) = folder.outcome(&["check", "rules.yaml", "--etc", "ect"]);
    assert_eq!(code, Some(0));
    assert!(err.contains("warning: --etc ect: no such folder; using defaults"), "{err}");
    let (_, _, err) = folder.outcome(&["check", "rules.yaml"]);
    assert!(!err.contains("--etc"), "{err}");
}

#[test]
fn a_file_is_fed_through_a_websocket_and_nothing_is_left() {
    let data = "{\"a\": 1, \"b\": 1}\n\n{\"a\": 2, \"b\": 2}\n[{\"a\": 3, \"b\": 3}, {\"a\": 4, \"b\": 4}]\nnonsense\n{\"a\": 5, \"b\": 5}";
    let folder = Place::new("feed", &[("rules.yaml", RULES), ("data.ndjson", data)]);
    for feed in ["data.ndjson", "data.ndjson@demo"] {
        let (code, out, err) = folder.outcome(&["run", "rules.yaml", "--feed", feed]);
        assert_eq!(code, Some(0), "{err}");
        assert_eq!(out, "{\"a\":2,\"c\":3}\n{\"a\":3,\"c\":4}\n{\"a\":4,\"c\":5}\n{\"a\":5,\"c\":6}\n");
        assert!(err.contains("listening on ws://127.0.0.1:"), "{err}");
        assert!(err.contains("errors 1"), "{err}");
        assert!(err.contains("fed 5 messages"), "{err}");
    }
    let mut left: Vec<_> = fs::read_dir(&folder.0.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["data.ndjson", "rules.yaml"]);
}

#[test]
fn feeds_of_uneven_length_into_one_join_end_when_both_are_played() {
    let rules = r#"
streams:
  - CREATE STREAM l () WITH (TYPE="websocket", DATASOURCE="/l", TIMESTAMP="ts")
  - CREATE STREAM r () WITH (TYPE="websocket", DATASOURCE="/r", TIMESTAMP="ts")
rules:
  - id: j
    sql: SELECT count(*) AS pairs FROM l INNER JOIN r ON l.id = r.id GROUP BY TUMBLINGWINDOW(hh, 1)
    actions: [{log: {}}]
    options: {isEventTime: true}
"#;
    let rows = |count: i32| (0..count).map(|id| format!("{{\"id\":{id},\"ts\":{}}}\n", 1000 + id)).collect::<String>();
    let (long, short) = (rows(20), rows(13));
    let folder = Place::new("uneven", &[("rules.yaml", rules), ("long", &long), ("short", &short)]);
    let (code, out, err) = folder.outcome(&["run", "rules.yaml", "--feed", "long@l", "--feed", "short@r"]);
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(out, "[{\"pairs\":13}]\n");
    // It does not wait for the messages of one feed in the stream of the other until the time limit.
    assert!(err.contains("fed 33 messages") && !err.contains("have not reached"), "{err}");
}

#[test]
fn tables_are_read_from_the_folder_that_data_names() {
    let rules = r#"
streams:
  - CREATE STREAM demo () WITH (TYPE="websocket", DATASOURCE="/in")
tables:
  - CREATE TABLE prices (id BIGINT, price FLOAT) WITH (TYPE="file", KIND="lookup", DATASOURCE="prices.json", KEY="id")
rules:
  - id: priced
    sql: SELECT demo.id, prices.price FROM demo INNER JOIN prices ON demo.id = prices.id
    actions: [{log: {}}]
"#;
    let files =
        [("rules.yaml", rules), ("state/prices.json", r#"[{"id": 1, "price": 2.5}]"#), ("feed", "{\"id\": 1}\n")];
    let folder = Place::new("tables", &files);
    let (code, out, err) = folder.outcome(&["run", "rules.yaml", "--feed", "feed", "--data", "state"]);
    assert_eq!((code, out.as_str()), (Some(0), "[{\"id\":1,\"price\":2.5}]\n"), "{err}");
    let (code, _, err) = folder.outcome(&["run", "rules.yaml", "--feed", "feed"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("rule priced: lookup table prices does not exist"), "{err}");
    assert!(!err.contains("rule priced: rule priced"), "{err}");
}

#[test]
fn feeds_that_cannot_be_are_refused() {
    let dialling = RULES.replace("DATASOURCE=\"/in\"", "DATASOURCE=\"/in\", CONF_KEY=\"peer\"")
        + "sources: {websocket: {peer: {addr: \"127.0.0.1:9\"}}}\n";
    let folder = Place::new("refused", &[("rules.yaml", RULES), ("dials.yaml", &dialling), ("data", "{}")]);
    for (file, feed, expected) in [
        ("rules.yaml", "missing", "--feed: cannot read missing: No such file"),
        ("rules.yaml", "data@nobody", "--feed: no rule reads a stream nobody; there are: demo"),
        ("dials.yaml", "data", "no stream takes clients, they dial (demo)"),
        ("dials.yaml", "data@demo", "stream demo dials ws://127.0.0.1:9/in, so it takes no clients"),
    ] {
        let (code, _, err) = folder.outcome(&["run", file, "--feed", feed]);
        assert_eq!(code, Some(1), "{err}");
        assert!(err.contains(expected), "{expected}\n{err}");
    }
}

#[test]
fn a_port_in_use_is_told_with_the_way_out() {
    let folder = Place::new("port", &[("rules.yaml", RULES)]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = folder.command(&["run", "rules.yaml"]).env("KUIPER__SOURCE__HTTPSERVERPORT", &port).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains(&format!("the data server cannot listen on 127.0.0.1:{port}")), "{err}");
    assert!(err.contains("KUIPER__SOURCE__HTTPSERVERPORT"), "{err}");
}

#[test]
fn a_rule_that_check_connection_refuses_does_not_run() {
    let rules = RULES.replace("path: /out,", "path: /out, checkConnection: true,");
    let folder = Place::new("refusal", &[("rules.yaml", &rules)]);
    let (code, _, err) = folder.outcome(&["run", "rules.yaml"]);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("rules.yaml:5:5: error: rule r1: checkConnection: no client is connected"), "{err}");
}

#[test]
fn results_reach_viewers_and_a_signal_ends_all_cleanly() {
    let folder = Place::new("live", &[("rules.yaml", RULES), ("data", "{\"a\":7,\"b\":1}\n{\"a\":8,\"b\":2}\n")]);
    let mut run = Running::start(folder.command(&["run", "rules.yaml"]));
    let line = run.says("/in");
    let address = line.split_whitespace().find(|word| word.starts_with("ws://")).unwrap().replace("/in", "");
    let (source, sink) = (format!("{address}/in"), format!("{address}/out"));

    let mut limited = Running::start(folder.command(&["tail", &sink, "--count", "2"]));
    let mut open = Running::start(folder.command(&["tail", &sink]));
    limited.says("connected");
    open.says("connected");
    let (code, _, err) = folder.outcome(&["feed", &source, "data"]);
    assert_eq!(code, Some(0));
    assert!(err.contains("sent 2 messages"), "{err}");
    let results = "{\"a\":7,\"c\":2}\n{\"a\":8,\"c\":3}\n";
    let (status, out) = limited.ends();
    assert_eq!((status.code(), out.as_str()), (Some(0), results));

    run.terminate();
    let (status, out) = run.ends();
    assert_eq!((status.code(), out.as_str()), (Some(0), results));
    // The close frame of the run ends the other viewer normally.
    let (status, out) = open.ends();
    assert_eq!((status.code(), out.as_str()), (Some(0), results));

    let (code, _, err) = folder.outcome(&["tail", &sink]);
    assert_eq!(code, Some(1));
    assert!(err.contains("cannot connect to"), "{err}");
}

#[test]
fn both_tools_can_be_servers() {
    let folder = Place::new("servers", &[("data", "{\"n\":1}\n{\"n\":2}\n")]);
    let url = |line: &str| line.split_whitespace().find(|word| word.starts_with("ws://")).unwrap().to_owned();
    let mut tail = Running::start(folder.command(&["tail", "--listen", "ws://127.0.0.1:0/x", "--count", "2"]));
    let target = url(&tail.says("listening"));
    let (code, _, err) = folder.outcome(&["feed", &target.replace("/x", "/y"), "data"]);
    assert_eq!(code, Some(1));
    assert!(err.contains("HTTP status 404"), "{err}");
    assert_eq!(folder.outcome(&["feed", &target, "data"]).0, Some(0));
    assert_eq!(tail.ends().1, "{\"n\":1}\n{\"n\":2}\n");

    let mut feed = Running::start(folder.command(&["feed", "--listen", "ws://127.0.0.1:0/x", "data"]));
    let target = url(&feed.says("listening"));
    let (code, out, _) = folder.outcome(&["tail", &target]);
    assert_eq!((code, out.as_str()), (Some(0), "{\"n\":1}\n{\"n\":2}\n"));
    // A client that reconnects, as a rule does, does not get the file twice.
    assert_eq!(feed.ends().0.code(), Some(0));
}

/// The sample pipelines named by the program's help and files exist.
#[test]
fn the_help_names_files_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["examples/telemetry/rules.yaml", "examples/telemetry/data.ndjson", "etc/plutino.yaml"] {
        assert!(root.join(file).is_file(), "{file}");
    }
}

/// `tail --retry` waits for an endpoint that does not exist yet.
#[test]
fn tail_dials_again() {
    let folder = Place::new("again", &[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/x", listener.local_addr().unwrap());
    let tail = folder.command(&["tail", &url, "--retry", "--count", "1"]).stdout(Stdio::piped()).spawn().unwrap();
    // The first handshake is aborted.
    drop(listener.accept().unwrap());
    let (stream, _) = listener.accept().unwrap();
    let mut websocket = tokio_tungstenite::tungstenite::accept(stream).unwrap();
    websocket.send("hello".into()).unwrap();
    let output = tail.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"hello\n"[..]));
    let (code, _, err) = folder.outcome(&["tail", "ws://127.0.0.1:9/x", "--retry", "--listen"]);
    assert_eq!(code, Some(2), "{err}");
}

/// The token of the environment goes to a server that requires one, and to no other.
#[test]
fn the_token_of_the_environment_is_sent_where_it_is_required() {
    let folder = Place::new("data-token", &[("data.ndjson", "{\"n\":1}\n")]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/x", listener.local_addr().unwrap());
    let command = |arguments: &[&str]| {
        let mut command = folder.command(arguments);
        command.env("PLUTINO_DATA_TOKEN", "data-secret").stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    // The next handshake: its head, and the connection.
    let head = || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            std::io::Read::read_exact(&mut stream, &mut byte).unwrap();
            head.push(byte[0]);
        }
        (String::from_utf8(head).unwrap(), stream)
    };
    for arguments in [
        &["feed", &*url, "data.ndjson"][..],
        &["tail", &url, "--count", "1"],
        &["record", &url, "-o", "out.ndjson", "--count", "1"],
    ] {
        let child = command(arguments);
        let (first, mut stream) = head();
        assert!(!first.contains("data-secret"), "{first}");
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").unwrap();
        drop(stream);
        let (second, mut stream) = head();
        assert!(second.contains("Bearer data-secret"), "{second}");
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n").unwrap();
        drop(stream);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains("--data-token"), "{arguments:?}: {said}");
    }
}

#[test]
fn record_sends_texts_first() {
    let folder = Place::new("record-send", &[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/x", listener.local_addr().unwrap());
    let sends = ["--send", "{\"key\": \"${FEED_KEY}\"}", "--send", "more"];
    let arguments = [&["record", &*url, "-o", "out.ndjson", "--count", "1"][..], &sends].concat();
    let record = folder.command(&arguments).env("FEED_KEY", "k\"1").stderr(Stdio::piped()).spawn().unwrap();
    let mut websocket = tokio_tungstenite::tungstenite::accept(listener.accept().unwrap().0).unwrap();
    assert_eq!(websocket.read().unwrap().to_text().unwrap(), "{\"key\": \"k\\\"1\"}");
    assert_eq!(websocket.read().unwrap().to_text().unwrap(), "more");
    websocket.send("hello".into()).unwrap();
    assert_eq!(record.wait_with_output().unwrap().status.code(), Some(0));
    let (code, _, err) = folder.outcome(&["record", &url, "-o", "two.ndjson", "--send", "${NOT_SET_ANYWHERE}"]);
    assert!(code == Some(2) && err.contains("--send: environment variable NOT_SET_ANYWHERE is not set"), "{err}");
}

/// `feed --retry` waits for an endpoint, and continues with the next message after a disconnect.
#[test]
fn feed_dials_again() {
    let folder = Place::new("feed-retry", &[("data.ndjson", "{\"n\":1}\n{\"n\":2}\n")]);
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let url = format!("ws://127.0.0.1:{port}/x");
    let mut feed = Running::start(folder.command(&["feed", &url, "data.ndjson", "--retry"]));
    feed.says("dialling again");
    let tail = folder.command(&["tail", &url, "--listen", "--count", "2"]).stdout(Stdio::piped()).spawn().unwrap();
    feed.says("sent 2 messages");
    let output = tail.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "{\"n\":1}\n{\"n\":2}\n");
}

/// Options of a verb can be at any position; an unknown one is refused before anything is sent.
#[test]
fn options_of_management_verbs_stand_anywhere() {
    let folder = Place::new("remote-options", &[("rule.json", "{}")]);
    // Nothing listens there: every command reports this, with the address.
    let there = "http://127.0.0.1:9/there";
    for words in [
        vec!["drop", "stream", "d", "--url", there],
        vec!["drop", "--url", there, "stream", "d"],
        vec!["drop", "stream", "--url=http://127.0.0.1:9/there", "d"],
        vec!["create", "stream", "d", "() WITH (TYPE=\"websocket\")", "--url", there],
        vec!["create", "rule", "r", "-f", "rule.json", "--url", there],
        vec!["create", "rule", "-f", "rule.json", "--url", there, "--", "r"],
        vec!["describe", "rule", "r", "--url", there, "--token", "t"],
        vec!["describe", "stream", "d", "-json", "--url", there],
        vec!["show", "rules", "--url", there, "--json"],
        vec!["getstatus", "rule", "r", "--url", there],
        vec!["import", "ruleset", "-f", "rule.json", "--url", there],
        vec!["import", "data", "-f", "rule.json", "-s", "true", "-p", "false", "--url", there],
        vec!["export", "data", "-r", "[\"r\"]", "out.json", "--url", there],
        vec!["validate", "rule", "r", "{}", "--url", there],
        vec!["create", "confkey", "websocket", "k", "{}", "--url", there],
        vec!["create", "connection", "k", "{}", "--url", there],
        vec!["explain", "rule", "r", "--url", there],
    ] {
        let (code, out, err) = folder.outcome(&words);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{words:?}: {err}");
        assert!(err.contains("127.0.0.1:9/there"), "{words:?} asked another service: {err}");
    }
    for words in [
        vec!["drop", "stream", "d", "--ulr", there],
        vec!["drop", "stream", "d", "--recursive"],
        vec!["export", "data", "out.json", "-x"],
        vec!["show", "rules", "-f", "rule.json"],
    ] {
        let (code, _, err) = folder.outcome(&words);
        assert_eq!(code, Some(2), "{words:?}: {err}");
        assert!(err.contains("unexpected argument"), "{words:?}: {err}");
    }
    let (code, out, _) = folder.outcome(&["drop", "stream", "--help"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("Usage: plutino drop"), "{out}");
}
