//! Rule files in every form, and every error with its place.

use super::*;

fn problems_of(texts: &[&str]) -> Vec<String> {
    match built(texts) {
        Ok(pipeline) => pipeline.warnings.iter().map(Problem::to_string).collect(),
        Err(problems) => problems.iter().map(Problem::to_string).collect(),
    }
}

fn built(texts: &[&str]) -> Result<Pipeline, Vec<Problem>> {
    let documents =
        texts.iter().enumerate().map(|(i, text)| Document::parse(&format!("f{i}"), (*text).to_owned()).unwrap());
    build(documents.collect(), true, &Config::default(), Vec::new())
}

const DEMO: &str = r#"CREATE STREAM demo () WITH (DATASOURCE=\"/demo\", TYPE=\"websocket\", FORMAT=\"json\")"#;

#[test]
fn every_form_is_read() {
    let lists = format!(
        r#"{{"streams": ["{DEMO}"], "rules": [{{"id": "r1", "sql": "SELECT * FROM demo", "actions": [{{"log": {{}}}}]}}]}}"#
    );
    let ruleset = format!(
        r#"{{"streams": {{"demo": "{DEMO}"}}, "tables": {{}}, "rules": {{
            "r1": "{{\"id\": \"r1\", \"sql\": \"SELECT * FROM demo\", \"actions\": [{{\"log\": {{}}}}]}}",
            "r2": {{"sql": "SELECT * FROM demo", "actions": [{{"log": {{}}}}, {{"websocket": {{"path": "/out"}}}}]}}}}}}"#
    );
    let streams = format!("streams: [\"{DEMO}\"]");
    let single = "id: r1\nsql: |\n  SELECT *\n  FROM demo\nactions:\n  - log:\n";
    for (texts, rules) in [
        (vec![lists.as_str()], vec!["r1"]),
        (vec![ruleset.as_str()], vec!["r1", "r2"]),
        (vec![single, streams.as_str()], vec!["r1"]),
    ] {
        let pipeline = match built(&texts) {
            Ok(pipeline) => pipeline,
            Err(problems) => panic!("{texts:?}\n{problems:#?}"),
        };
        assert_eq!(pipeline.warnings.len(), 0, "{:?}", pipeline.warnings);
        let ids: Vec<&str> = pipeline.rules.iter().map(|rule| rule.spec.id.as_str()).collect();
        assert_eq!(ids, rules);
        assert!(pipeline.sources.contains_key("demo"));
    }
}

#[test]
fn sources_of_the_file_give_the_role() {
    let text = r#"{"streams": ["CREATE STREAM s () WITH (DATASOURCE=\"/x\", CONF_KEY=\"k\", TYPE=\"websocket\")"],
        "sources": {"websocket": {"k": {"addr": "localhost:5", "adr": 1}}},
        "rules": [{"id": "r", "sql": "SELECT * FROM s", "actions": [{"nop": {}}]}]}"#;
    let pipeline = built(&[text]).map_err(|problems| format!("{problems:?}")).unwrap();
    let SourceSpec::Websocket(settings) = &pipeline.sources["s"] else { panic!("another source") };
    assert_eq!(settings.address(), "ws://localhost:5/x");
    assert_eq!(pipeline.warnings.len(), 1);
    assert!(pipeline.warnings[0].to_string().contains("unknown property adr is ignored\n    hint: did you mean addr?"));
}

#[test]
fn all_problems_of_all_files_are_told() {
    let first = "{\"streams\": [\"CREATE STREEM a () WITH ()\",\n  \"CREATE STREAM b (x BIGNIT) WITH (DATASOURCE=\\\"/b\\\")\",\n  \"CREATE STREAM c () WITH (DATASOURCE=\\\"c\\\", TYPE=\\\"websocket\\\")\",\n  \"CREATE STREAM d () WITH (DATASOURCE=\\\"/d\\\", CONF_KEY=\\\"none\\\", TYPE=\\\"websocket\\\")\"],\n\"rules\": [\n  {\"id\": \"r1\", \"sql\": \"SELECT * FROM b\", \"actions\": [{\"log\": {}}]},\n  {\"id\": \"r2\", \"sql\": \"SELECT a FORM c\", \"actions\": [{\"lgo\": {}}]},\n  {\"id\": \"r2\", \"sql\": \"SELECT a FROM c\", \"actions\": [{\"websocket\": {\"path\": \"x\"}}]},\n  {\"id\": \"r4\", \"sql\": \"SELECT a FROM d\", \"actions\": [{\"log\": {}}], \"options\": {\"isEventTime\": 5}}]}";
    let second = "rules: 5\ntables: 7\nstreems: []\n";
    let problems = problems_of(&[first, second]);
    for expected in [
        "f0:1:22: error: stream a: ",
        "f0:2:23: error: stream b: found \"BIGNIT\", expect valid stream field types",
        "f0:3:40: error: stream c: websocket endpoint should start with /",
        "f0:4:57: error: stream d: CONF_KEY none is not defined",
        "f0:7:33: error: rule r2: found \"FORM\"",
        "f0:7:55: error: rule r2: sink lgo is not defined: there are websocket, memory, rest, file, sse, log and nop\n    hint: did you mean log?",
        "f0:8:3: error: rule r2: rule already exists",
        "f0:8:77: error: rule r2: sink websocket: websocket endpoint should start with /",
        "f0:9:95: error: rule r4: option isEventTime is 5, expected true or false",
        "f1:1:8: error: rules is a number, expected a list of rules",
        "f1:2:9: error: tables is a number, expected a list of CREATE TABLE statements",
        "f1:3:1: warning: unknown member streems is ignored\n    hint: did you mean streams?",
    ] {
        assert!(problems.iter().any(|problem| problem.starts_with(expected)), "{expected}\n{problems:#?}");
    }
    assert_eq!(problems.len(), 12, "{problems:#?}");
}

#[test]
fn all_problems_of_one_part_are_told_in_their_place() {
    let text = r#"{"streams": [
"CREATE STREAM a () WITH (DATASOURCE=\"/a\", TYPE=\"websockt\")",
"CREATE STREAM b (n BIGINT DEFAULT \"x\") WITH (DATASOURCE=\"/b\", FORMAT=\"jsn\", EXTRA=\"5\")",
"CREATE STREAM c () WITH (DATASOURCE=\"c\", CONF_KEY=\"k\")",
"CREATE STREAM d (t BIGINT) WITH (DATASOURCE=\"/d\", TIMESTAMP=\"tt\")",
"CREATE STREAM e () WITH (DATASOURCE=\"/e\")"],
"sources": {"websocket": {"k": {"scheme": "x", "adr": "y"}}},
"rules": [
{"id": "a", "sql": "SELECT * FROM a", "actions": [{"nop": {}}]},
{"id": "c", "sql": "SELECT * FROM c", "actions": [{"websocket": {
  "path": "x",
  "addr": "h:99999",
  "slowClient": 1,
  "chekConnection": true}}]},
{"id": "d", "sql": "SELECT * FROM d", "actions": [{"nop": {}}], "options": {"isEventTime": true}},
{"id": "e", "sql": "SELECT * FROM e", "actions": [{"nop": {}}], "options": {"isEventTime": true}},
{"id": "f", "actions": [{"nopp": {}}]},
{"id": "g", "sql": "SELECT n FROM e GROUP BY n, COUNTWINDOW(2) HAVING n > 1", "actions": [{"nop": {}}]}]}"#;
    let problems = problems_of(&[text]);
    for (start, rest) in [
        ("f0:2:51: error: stream a: source type websockt not found", "did you mean websocket?"),
        ("f0:3:19: error: stream b: cannot convert string(x) to int64", ""),
        ("f0:3:75: error: stream b: option 'format=jsn' is invalid", "did you mean json?"),
        ("f0:3:90: error: stream b: invalid extra option", ""),
        ("f0:4:38: error: stream c: websocket endpoint should start with /", ""),
        ("f0:7:43: error: conf key k: property scheme is \"x\", expected ws or wss", ""),
        ("f0:7:48: warning: conf key k: unknown property adr", "did you mean addr?"),
        ("f0:5:64: error: rule d: timestamp field tt not found", "^^^^"),
        ("f0:6:2: error: rule e: preprocessor is set to be event time", "give the stream the option TIMESTAMP"),
        ("f0:11:11: error: rule c: sink websocket: websocket endpoint should start with /", ""),
        ("f0:12:11: error: rule c: sink websocket: property addr is \"h:99999\"", ""),
        ("f0:13:17: error: rule c: sink websocket: property slowClient is 1", ""),
        ("f0:14:3: warning: rule c: sink websocket: unknown property chekConnection", "did you mean checkConnection?"),
        ("f0:17:1: error: rule f: the rule has no sql", ""),
        ("f0:17:26: error: rule f: sink nopp is not defined", "did you mean nop?"),
        ("f0:18:", "HAVING reads aggregates"),
    ] {
        let is_reported = problems.iter().any(|problem| problem.starts_with(start) && problem.contains(rest));
        assert!(is_reported, "{start} … {rest}\n{}", problems.join("\n"));
    }
    assert_eq!(problems.len(), 16, "{}", problems.join("\n"));
}

#[test]
fn a_mistake_in_a_conf_key_is_told_once_where_it_stands() {
    let stream = |name: &str| {
        format!("  - CREATE STREAM {name} () WITH (TYPE=\"websocket\", DATASOURCE=\"/x\", CONF_KEY=\"k\")\n")
    };
    let rule = |name: &str| format!("  - {{id: {name}, sql: SELECT * FROM {name}, actions: [{{nop: {{}}}}]}}\n");
    let text = format!(
        "sources:\n  websocket:\n    k:\n      addr: 127.0.0.1:1\n      reconnect: {{jitter: 7}}\nstreams:\n{}{}rules:\n{}{}",
        stream("a"),
        stream("b"),
        rule("a"),
        rule("b")
    );
    let problems = problems_of(&[&text]);
    assert_eq!(problems.len(), 1, "{problems:#?}");
    assert!(problems[0].starts_with("f0:5:27: error: conf key k: property reconnect.jitter is 7"), "{problems:#?}");
}

#[test]
fn files_that_hold_nothing_are_refused() {
    for (text, expected) in [
        ("", "f0:1:1: error: the file is empty"),
        ("# a rule file\n\n# of comments", "f0:1:1: error: the file has only comments"),
        ("---\n# a rule file\n...\n", "f0:1:1: error: the file has only comments"),
        ("null", "f0:1:1: error: the file holds null"),
        ("[]", "f0:1:1: error: the file holds no rules"),
        ("streams: []", "f0:1:1: error: the file holds no rules"),
    ] {
        let problems = problems_of(&[text]);
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{text:?}: {problems:?}");
    }
    let waits = format!(
        r#"{{"streams": ["{DEMO}"], "rules": [{{"id": "r", "sql": "SELECT * FROM demo", "actions": [{{"nop": {{}}}}], "triggered": false}}]}}"#
    );
    assert!(problems_of(&[&waits]).iter().any(|problem| problem.contains("no rule of the file starts")));
    assert!(problems_of(&["5"])[0].contains("the file holds a number"));
    assert!(problems_of(&["{}"])[0].contains("neither streams nor rules"));
}

#[test]
fn names_have_a_longest_length() {
    let file = |stream: &str, view: &str, rule: &str, key: &str| {
        format!(
            r#"{{"streams": ["CREATE STREAM {stream} () WITH (DATASOURCE=\"/s\", TYPE=\"websocket\", CONF_KEY=\"{key}\")"],
                "sources": {{"websocket": {{"{key}": {{}}}}}},
                "views": ["CREATE VIEW {view} WITH (KEY=\"k\") AS SELECT k FROM {stream}"],
                "rules": [{{"id": "{rule}", "sql": "SELECT * FROM {stream}", "actions": [{{"nop": {{}}}}]}}]}}"#
        )
    };
    let (longest, longer) = ("n".repeat(255), "n".repeat(256));
    assert_eq!(problems_of(&[&file(&longest, &format!("v{}", &longest[1..]), &longest, &longest)]), [""; 0]);
    for (text, what) in [
        (file(&longer, "v", "r", "k"), "stream"),
        (file("s", &longer, "r", "k"), "view"),
        (file("s", "v", &longer, "k"), "rule"),
        (file("s", "v", "r", &longer), "conf key"),
    ] {
        let problems = problems_of(&[&text]);
        let expected = format!("error: {what}: the name {}… has 256 bytes, at most 255 are possible", &longer[..32]);
        assert!(problems.iter().any(|problem| problem.contains(&expected)), "{what}: {problems:?}");
    }
}
