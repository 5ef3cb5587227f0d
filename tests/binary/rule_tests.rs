//! `plutino test`: what it runs, how it reports, and what it writes.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::process::folder::Folder;

fn test(folder: &Folder, arguments: &[&str]) -> (Option<i32>, String, String) {
    parts(&plutino(folder.0.path(), arguments))
}

fn plutino(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
    command.arg("test").args(arguments).current_dir(folder).stdin(Stdio::null());
    // Rule files of feeds name secrets; nothing is dialled, so any value will do.
    command.env("AIS_KEY", "k").env("FEED_KEY", "k").env("HASS_TOKEN", "t");
    command.output().expect("the program starts")
}

fn parts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it is text");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn every_example_passes_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in std::fs::read_dir(root.join("examples")).expect("there are examples").flatten() {
        let Ok(entries) = std::fs::read_dir(folder.path()) else { continue };
        let rules = entries.flatten().map(|entry| entry.path());
        files.extend(rules.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")));
    }
    assert!(files.len() > 15, "{files:?}");
    for file in &files {
        let text = std::fs::read_to_string(file).expect("it can be read");
        assert!(text.contains("\ntests:\n"), "{} has no tests", file.display());
    }
    let names: Vec<&str> = files.iter().filter_map(|file| file.to_str()).collect();
    let (code, out, err) = parts(&plutino(root, &names));
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with(" 0 failed\n"), "{out}");
}

#[test]
fn the_page_about_tests_is_right() {
    let page = include_str!("../../docs/testing.md");
    let block = |start: &str| page.split(start).nth(1).and_then(|rest| rest.split("```").next()).expect("a block");
    let folder = Folder::new("page");
    folder.write("rules.yaml", block("```yaml\n"));
    let console = block("$ plutino test rules.yaml\n");
    assert_eq!(test(&folder, &["rules.yaml"]), (Some(0), console.to_owned(), String::new()));
    folder.write("rules.yaml", &block("```yaml\n").replace("fahrenheit: 176", "fahrenheit: 177"));
    let (code, out, _) = test(&folder, &["rules.yaml"]);
    let shown = block("input that led to it:\n\n```\n");
    assert!(code == Some(1) && out.starts_with(shown), "{out}");
}

const RULES: &str = r#"
streams:
  - CREATE STREAM clicks () WITH (TYPE="websocket", DATASOURCE="/clicks", TIMESTAMP="at")
  - CREATE STREAM large () WITH (TYPE="memory", DATASOURCE="large")
tables:
  - CREATE TABLE users (id BIGINT, name STRING) WITH (TYPE="file", KIND="lookup", DATASOURCE="users.json", KEY="id")
rules:
  - id: first
    sql: SELECT user, amount FROM clicks WHERE amount > 10
    actions: [{memory: {topic: large}}, {log: {sendSingle: true}}]
  - id: second
    sql: SELECT users.name, large.amount FROM large INNER JOIN users ON large.user = users.id
    actions: [{log: {}}]
  - id: minutes
    sql: SELECT user, count(*) AS n FROM clicks GROUP BY user, TUMBLINGWINDOW(mi, 1)
    actions: [{websocket: {path: /minutes}}]
  - id: sessions
    sql: SELECT count(*) AS n FROM clicks GROUP BY SESSIONWINDOW(ss, 60, 5)
    actions: [{log: {}}]
    options: {isEventTime: true, lateTolerance: 0}
  - id: roots
    sql: SELECT sqrt(amount) / user AS root FROM clicks
    actions: [{log: {sendSingle: true}}]
  - id: paused
    sql: SELECT delay(5000, user) AS user FROM clicks
    actions: [{log: {sendSingle: true}}]
views:
  - CREATE VIEW totals AS SELECT user, sum(amount) AS amount FROM clicks GROUP BY user
"#;

#[test]
fn rows_that_a_lookup_table_refuses_are_errors_of_a_test() {
    let folder = Folder::new("refused");
    folder.write("rules.yaml", RULES);
    folder.write("data/users.json", r#"[{"id": "seven", "name": "ada"}, {"id": 8, "name": "eve"}]"#);
    let tests = r#"
tests:
  - name: silent
    rule: second
    input: [{large: {user: 8, amount: 5}}]
    output: [[{name: eve, amount: 5}]]
"#;
    folder.write("rules.test.yaml", tests);
    let (code, out, err) = test(&folder, &["rules.yaml"]);
    assert!(code == Some(1) && out.contains("second: error 1 was not expected"), "{out}{err}");
    assert!(out.contains("table users: "), "{out}");
    folder.write("rules.test.yaml", &format!("{tests}    errors: [\"table users\"]\n"));
    let (code, out, err) = test(&folder, &["rules.yaml"]);
    assert_eq!(code, Some(0), "{out}{err}");
}

#[test]
fn rules_tables_views_and_both_times_are_tested() {
    let folder = Folder::new("all");
    folder.write("rules.yaml", RULES);
    folder.write("data/users.json", r#"[{"id": 1, "name": "ada"}]"#);
    folder.write("clicks.ndjson", "{\"user\": 1, \"amount\": 11}\n\n{\"user\": 2, \"amount\": 12}\n");
    let tests = r#"
tests:
  - name: rules read each other and a file
    outputs:
      first: [[{user: 1, amount: 11}], [{user: 3, amount: 12}]]
      second: [[{name: ada, amount: 11}]]
    input:
      - clicks: {user: 1, amount: 11}
      - clicks: {user: 3, amount: 12}
  - name: the rows of a table are those of the test
    rule: second
    input:
      - users: {id: 3, name: bob}
      - clicks: {user: 3, amount: 12}
      - large: {user: 3, amount: 5}
    output: [[{name: bob, amount: 5}]]
  - name: the second action
    rule: first
    action: 2
    input: [{clicks: {user: 1, amount: 11}}]
    output: [{user: 1, amount: 11}]
  - name: minutes of the clock
    rule: minutes
    unordered: true
    start: 2025-01-01T12:00:30Z
    input:
      - clicks: {user: 1}
      - clicks: {user: 2}
      - wait: 29s
      - clicks: {user: 1}
      - wait: 10m
      - clicks: {user: 2}
      - wait: 900ms
    output: [[{user: 2, n: 1}, {user: 1, n: 2}]]
  - name: sessions of event time
    rule: sessions
    input:
      - clicks: {at: 1000}
      - clicks: {at: 4000}
      - wait: 1h
      - clicks: {at: 20000}
      - end
    output: [[{n: 2}], [{n: 1}]]
  - name: errors are expected by a part of their text
    rule: roots
    subset: true
    input:
      - clicks: {user: 1, amount: 4}
      - clicks: {user: 1, amount: four}
      - clicks: "no JSON"
    output: [{root: 2}]
    errors: [four, invalid]
  - name: a pause waits for the clock
    rule: paused
    input: [{clicks: {user: 1}}, {wait: 4999ms}]
    output: []
  - name: a pause is over
    rule: paused
    input: [{clicks: {user: 1}}, {wait: 5s}]
    output: [{user: any}]
  - name: the rows of a view
    view: totals
    input: [{feed: clicks.ndjson@clicks}, {clicks: {user: 1, amount: 1}}]
    output: [{user: 2, amount: 12}, {user: 1, amount: 12}]
"#;
    folder.write("rules.test.yaml", tests);
    let (code, out, err) = test(&folder, &["rules.yaml"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.ends_with("9 tests: 9 passed, 0 failed\n"), "{out}");
    let (code, out, _) = test(&folder, &["--only", "pause", "rules.test.yaml"]);
    assert!(code == Some(0) && out.ends_with("2 tests: 2 passed, 0 failed\n"), "{out}");
}

#[test]
fn what_fails_is_told_and_written() {
    let folder = Folder::new("fails");
    let rules = r#"# the rules
streams:
  s: CREATE STREAM s () WITH (TYPE="websocket", DATASOURCE="/s")
rules:
  - {id: r, sql: SELECT a / b AS c FROM s, actions: [{log: {sendSingle: true}}]}
tests:
  - name: quotients   # of two numbers
    input:
      - s: {a: 4, b: 2}
      - s: {a: 9, b: 3}
      - s: {a: x, b: 3}
    output:
      # the first
      - {c: 2}
      - {c: 4}
      - {c: 5}
  - name: nobody reads it
    input: [{t: {a: 1}}]
    output: []
"#;
    folder.write("rules.yaml", rules);
    let (code, out, err) = test(&folder, &["--junit", "junit.xml", "rules.yaml"]);
    assert_eq!((code, err.as_str()), (Some(1), ""));
    for line in [
        "FAILED  rules.yaml:7: quotients",
        "    r: message 2 differs (expected at rules.yaml:15, sent after the input at rules.yaml:10)",
        "      - {\"c\":4}",
        "      + {\"c\":3}",
        "      c is 3, expected 4",
        "    r: message 3 is missing (expected at rules.yaml:16)",
        "    r: error 1 was not expected (sent after the input at rules.yaml:11)",
        "    rules.yaml:18:13: error: test nobody reads it: no rule reads a stream t; there are: s",
        "2 tests: 0 passed, 2 failed",
    ] {
        assert!(out.lines().any(|found| found == line), "{line}\n{out}");
    }
    // A test of errors alone expects no message.
    let errors_only = "{name: errors, input: [{s: {a: 4, b: 2}}, {s: {a: x, b: 3}}], errors: [x]}";
    folder.write("errors.yaml", &format!("{}tests:\n  - {errors_only}\n", rules.split("tests:").next().unwrap_or("")));
    let (code, out, _) = test(&folder, &["errors.yaml"]);
    assert!(code == Some(1) && out.contains("r: message 1 was not expected"), "{out}");
    assert_eq!(test(&folder, &["--update", "errors.yaml"]).0, Some(0));
    assert!(folder.read("errors.yaml").contains("{\"c\":2}"), "{}", folder.read("errors.yaml"));
    let junit = folder.read("junit.xml");
    assert!(junit.contains("<testsuites tests=\"2\" failures=\"1\" errors=\"1\""), "{junit}");
    let (code, out, err) = test(&folder, &["--update", "--only", "quotients", "rules.yaml"]);
    assert_eq!((code, err.as_str()), (Some(0), "rules.yaml is updated: review it in the diff\n"), "{out}");
    let updated = folder.read("rules.yaml");
    assert!(updated.starts_with(&rules[..rules.find("      - {c: 4}").expect("it is there")]), "{updated}");
    assert!(updated.contains("      - {c: 2}\n      - {c: 3}\n    errors:\n      - "), "{updated}");
    let (code, out, _) = test(&folder, &["--only", "quotients", "rules.yaml"]);
    assert_eq!(code, Some(0), "{out}");
}

#[test]
fn files_and_arguments_that_are_wrong_are_refused() {
    let folder = Folder::new("wrong");
    let stream = "streams: ['CREATE STREAM s () WITH (TYPE=\"websocket\", DATASOURCE=\"/s\")']\n";
    folder.write("none.yaml", &format!("{stream}rules: [{{id: r, sql: SELECT a FROM s, actions: [{{log: {{}}}}]}}]\n"));
    folder.write("tests.yaml", &format!("{}tests: [{{name: a, inptu: []}}]\n", folder.read("none.yaml")));
    folder.write(
        "sql.yaml",
        &format!("{}tests: [{{input: [end], output: []}}]\n", folder.read("none.yaml").replace("SELECT a", "SELECT")),
    );
    for (arguments, code, said) in [
        (&["none.yaml"][..], 1, "none.yaml: error: there are no tests\n"),
        (&["tests.yaml"], 1, "error: test a: unknown member inptu\n    hint: did you mean input?\n"),
        (&["missing.yaml"], 1, "missing.yaml: error: cannot read the file"),
        (&["--only", "zzz", "sql.yaml"], 1, "--only: no test has a name that contains \"zzz\""),
        (&[], 2, "required arguments"),
    ] {
        let (found, _, err) = test(&folder, arguments);
        assert!(found == Some(code) && err.contains(said), "{arguments:?}: {found:?} {err}");
    }
    let (code, out, _) = test(&folder, &["sql.yaml"]);
    assert!(code == Some(1) && out.contains("sql.yaml:2:") && out.contains("error: rule r: found"), "{out}");
}
