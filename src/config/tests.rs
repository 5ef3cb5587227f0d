//! Tests of layers, and of errors with their places.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value as Json};
use tempfile::TempDir;

use super::*;
use crate::text::document::Problem;

struct Folder(TempDir);

impl Folder {
    fn new(files: &[(&str, &str)]) -> Folder {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (file, text) in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Folder(folder)
    }
}

fn env(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn messages(result: Result<(Config, Vec<Problem>), Vec<Problem>>) -> Vec<String> {
    let problems = result.map_or_else(|problems| problems, |(_, warnings)| warnings);
    problems.iter().map(Problem::to_string).collect()
}

#[test]
fn nothing_needs_to_exist() {
    let (config, warnings) = load(Path::new("/no/such/folder"), env(&[("PATH", "x"), ("A__B", "1")])).unwrap();
    assert!(warnings.is_empty());
    assert_eq!((config.server.ip.as_str(), config.server.port), ("0.0.0.0", 10081));
    assert_eq!(config.sources.properties("websocket", None), Some(Map::new()));
    assert_eq!(config.sources.properties("websocket", Some("x")), None);
}

#[test]
fn the_connectors_file_beats_the_main_one_and_the_environment_both() {
    let main = "basic:\n  timezone: UTC\n  restPort: 1\nsource:\n  httpServerIp: 127.0.0.1\n  httpServerPort: 1\n\
                rule:\n  lateTolerance: 2s\n  qos: 0\nsink:\n  anything: 1\n";
    let connector = "source:\n  httpServerPort: 2\ndefault:\n  addr: a:1\n  scheme: ws\nkey:\n  addr: b:2\n";
    let folder = Folder::new(&[("kuiper.yaml", main), ("sources/websocket.yaml", connector)]);
    let (config, warnings) = load(folder.0.path(), []).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!((config.server.ip.as_str(), config.server.port), ("127.0.0.1", 2));
    assert_eq!(config.rule.late_tolerance, 2000);
    assert_eq!(config.zone, TimeZone::UTC);
    let props = config.sources.properties("websocket", Some("key")).unwrap();
    assert_eq!(Json::Object(props), serde_json::json!({"addr": "b:2", "scheme": "ws"}));

    let variables = [
        ("KUIPER__SOURCE__HTTPSERVERPORT", "3"),
        ("kuiper__rule__senderror", "TRUE"),
        ("WEBSOCKET__KEY__ADDR", "c:3"),
        ("WEBSOCKET__KEY__SUBPROTOCOLS", "[a, b]"),
        ("WEBSOCKET__NEW__REQUESTHEADER__X", "y"),
    ];
    let (config, warnings) = load(folder.0.path(), env(&variables)).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(config.server.port, 3);
    assert!(config.rule.send_error);
    let props = config.sources.properties("websocket", Some("key")).unwrap();
    let expected = serde_json::json!({"addr": "c:3", "scheme": "ws", "subprotocols": ["a", "b"]});
    assert_eq!(Json::Object(props), expected);
    let props = config.sources.properties("websocket", Some("new")).unwrap();
    assert_eq!(props["requestHeader"], serde_json::json!({"X": "y"}));
    let (config, _) = load(folder.0.path(), env(&[("PLUTINO__SOURCE__HTTPSERVERPORT", "4"), variables[0]])).unwrap();
    assert_eq!(config.server.port, 4);
}

#[test]
fn wrong_settings_of_the_log_are_told_with_their_place() {
    let main = "basic:\n  logFormat: xml\n  fileLog: 1\n  rotateTime: -1\n  consoleLog: maybe\n";
    let folder = Folder::new(&[("plutino.yaml", main)]);
    let problems = messages(load(folder.0.path(), []));
    for expected in [
        "plutino.yaml:2:14: error: basic.logFormat is \"xml\", expected text or json",
        "plutino.yaml:3:12: error: basic.fileLog is 1, expected true or false",
        "plutino.yaml:4:15: error: basic.rotateTime is -1, expected a number of hours",
        "plutino.yaml:5:15: error: basic.consoleLog is \"maybe\", expected true or false",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}\n{problems:#?}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    let main = "basic:\n  timezone: Nowhere\n  logLevl: info\nsource:\n  httpServerPort: 70000\n  httpServerTls:\n    \
                certfile: a.pem\nsorce:\n  a: 1\nrule:\n  qos: 5\n";
    let sets = "key: 5\nfeed:\n  addr: 5\n  insecureSkipVerfy: true\n  pingInterval: 100s\n  reconnect:\n    jitter: 7\n\
                other:\n  pingInterval: 100s\n  idleTimeout: 200s\n  certificationPath: nosuch.pem\n";
    let folder = Folder::new(&[("plutino.yaml", main), ("sources/websocket.yaml", sets)]);
    let variables = [("KUIPER__SOURCE__HTTPSERVERPORT", "many"), ("WEBSOCKET__FEED__PINGINTERVAL", "[]")];
    let problems = messages(load(folder.0.path(), env(&variables)));
    for expected in [
        "plutino.yaml:2:13: error: basic.timezone is \"Nowhere\", expected",
        "plutino.yaml:3:3: warning: unknown setting basic.logLevl is ignored\n    hint: did you mean basic.logLevel?",
        "plutino.yaml:5:19: error: source.httpServerPort is 70000, expected a port",
        "plutino.yaml:7:15: error: source.httpServerTls needs both certfile and keyfile",
        "plutino.yaml:8:1: warning: unknown section sorce is ignored\n    hint: did you mean source?",
        "plutino.yaml:11:8: error: section rule: option qos is 5",
        "websocket.yaml:1:6: error: conf key key is a number, expected an object",
        "websocket.yaml:3:9: error: conf key feed: property addr is 5, expected host:port",
        "websocket.yaml:7:13: error: conf key feed: property reconnect.jitter is 7, expected",
        "websocket.yaml:4:3: warning: conf key feed: unknown property insecureSkipVerfy is ignored\n    hint: did you mean",
        "websocket.yaml:5:3: warning: conf key feed: idleTimeout is not above pingInterval",
        "environment variable WEBSOCKET__FEED__PINGINTERVAL: error: property pingInterval is [], expected",
        "environment variable KUIPER__SOURCE__HTTPSERVERPORT: error: source.HTTPSERVERPORT is \"many\"",
    ] {
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}\n{problems:#?}");
    }
    assert_eq!(problems.len(), 13, "{problems:#?}");
}

#[test]
fn debug_is_a_layer_as_any_other() {
    let level = |main: &str, variables: &[(&str, &str)]| {
        let folder = Folder::new(&[("kuiper.yaml", main)]);
        load(folder.0.path(), env(variables)).map(|(config, _)| config.log).map_err(|problems| format!("{problems:?}"))
    };
    let text = |level: &str| Ok(Some(level.to_owned()));
    assert_eq!(level("basic:\n  debug: true\n  logLevel: info\n", &[]), text("debug"));
    assert_eq!(level("basic:\n  debug: true\n  logLevel: trace\n", &[]), text("trace"));
    let off = [("KUIPER__BASIC__DEBUG", "false")];
    assert_eq!(level("basic:\n  logLevel: info\n  debug: true\n", &off), text("info"));
    assert_eq!(level("basic:\n  debug: true\n", &off), Ok(None));
    // eKuiper also has levels that end the process.
    assert_eq!(level("basic:\n  logLevel: fatal\n", &[]), text("error"));
    assert_eq!(level("basic:\n  logLevel: Warning\n", &[]), text("warn"));
}

#[test]
fn half_a_certificate_is_told_where_it_is() {
    let main = "basic:\n  restTls:\n    certfile: a.pem\n    keyfile: a.key\nsource:\n  httpServerTls:\n    \
                certfile: b.pem\n";
    let folder = Folder::new(&[("plutino.yaml", main)]);
    let problems = messages(load(folder.0.path(), []));
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].contains("plutino.yaml:7:15: error: source.httpServerTls needs both"), "{problems:#?}");
}

#[test]
fn an_origin_that_no_page_has_is_refused() {
    for (origins, right) in [
        ("['*']", true),
        ("[https://board.example, 'http://localhost:3000/', 'null', 'app://x']", true),
        ("https://board.example", true),
        ("[]", true),
        ("['']", false),
        ("[board.example]", false),
        ("['https://board.example/page']", false),
        ("['https://']", false),
    ] {
        let folder = Folder::new(&[("plutino.yaml", &format!("source:\n  httpServerOrigins: {origins}\n"))]);
        assert_eq!(load(folder.0.path(), []).is_ok(), right, "{origins}");
    }
}

#[test]
fn a_variable_of_many_brackets_is_a_value_like_another() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    assert!(load(Path::new("/no/such/folder"), env(&[("KUIPER__SOURCE__HTTPSERVERTOKENS", &deep)])).is_ok());
}

#[test]
fn the_hardened_example_is_right() {
    let folder = Folder::new(&[("plutino.yaml", include_str!("../../etc/hardened.yaml"))]);
    let (config, warnings) = load(folder.0.path(), []).expect("it has no mistakes");
    assert!(warnings.is_empty(), "{warnings:#?}");
    assert!(config.authentication && config.rest_audit && config.server.tls.is_some());
    assert_eq!(config.env_allow, ["PLUTINO_FEED_*"]);
}

#[test]
fn who_may_use_the_api_is_named() {
    for (setting, right) in [
        ("restHosts: [plutino.example, '[::1]', localhost]", true),
        ("restHosts: ['plutino.example:80']", false),
        ("restHosts: ['*']", false),
        ("restHosts: ['http://plutino.example']", false),
        ("restOrigins: ['https://Board.example/']", true),
        ("restOrigins: ['*']", false),
        ("restOrigins: [board.example]", false),
        ("fileRoots: [/srv/files]", true),
        ("fileRoots: [files]", false),
        ("envAllow: ['FEED_*', TOKEN, '*']", true),
        ("envAllow: ['F*D']", false),
    ] {
        let folder = Folder::new(&[("plutino.yaml", &format!("basic:\n  {setting}\n"))]);
        assert_eq!(load(folder.0.path(), []).is_ok(), right, "{setting}");
    }
}

#[test]
fn dead_letters_have_no_default() {
    let folder = Folder::new(&[("plutino.yaml", "rule:\n  deadLetter: [{log: {}}]\n")]);
    let problems = load(folder.0.path(), []).expect_err("it is refused");
    let shown = problems[0].to_string();
    assert!(shown.contains("plutino.yaml:2:") && shown.contains("deadLetter has no default"), "{shown}");
    let variables = env(&[("PLUTINO__RULE__DEADLETTER", r#"[{"log": {}}]"#)]);
    assert!(load(Path::new("/no/such/folder"), variables).is_err());
    assert!(schema()["properties"]["rule"]["properties"].get("deadLetter").is_none());
}
