//! Every example runs as its comments say and gives the results in the file next to it, on one data thread and on two.
//!
//! `UPDATE_EXAMPLES=1` writes the results again; review them in the diff.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

/// Runs `examples/NAME/rules.yaml` with files of its folder.
fn run(name: &str, feeds: &[&str]) {
    let feeds: Vec<String> = feeds.iter().map(|feed| format!("examples/{name}/{feed}")).collect();
    run_file(&format!("examples/{name}/rules.yaml"), &feeds, &format!("examples/{name}/expected.ndjson"));
}

/// Runs a file of `examples/recipes`.
fn recipe(name: &str, feed: &str) {
    let path = format!("examples/recipes/{name}");
    run_file(&format!("{path}.yaml"), &[format!("examples/{feed}")], &format!("{path}.expected.ndjson"));
}

fn run_file(rules: &str, feeds: &[String], expected: &str) {
    for workers in ["1", "2"] {
        run_with(rules, feeds, expected, workers);
    }
}

fn run_with(rules: &str, feeds: &[String], expected: &str, workers: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
    command.args(["run", "--quiet", "--workers", workers, rules]);
    for feed in feeds {
        command.args(["--feed", feed]);
    }
    // Any free port, so that tests do not conflict.
    command.env("KUIPER__SOURCE__HTTPSERVERPORT", "0").env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1");
    let output = command.current_dir(root).stdin(Stdio::null()).output().expect("the program starts");
    let reported = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {reported}", output.status);
    assert_eq!(reported, "", "stderr stays empty");

    let found = String::from_utf8(output.stdout).expect("results are UTF-8");
    let path = root.join(expected);
    if std::env::var_os("UPDATE_EXAMPLES").is_some_and(|value| value == "1") {
        std::fs::write(&path, &found).expect("the results can be written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    let (found, expected) = (by_rule(&found), by_rule(&expected));
    assert!(!found.is_empty(), "there are results");
    assert_eq!(found, expected);
}

/// The lines of each rule in order. Lines of different rules may come in any order; a rule is recognised by the names
/// of its first row's members.
fn by_rule(text: &str) -> BTreeMap<String, Vec<Value>> {
    let mut rules: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in text.lines() {
        let result: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let row = result.get(0).unwrap_or(&result);
        let names: Vec<&str> = row.as_object().expect("a row is an object").keys().map(String::as_str).collect();
        rules.entry(names.join(" ")).or_default().push(result);
    }
    rules
}

#[test]
fn telemetry() {
    run("telemetry", &["data.ndjson"]);
}

#[test]
fn market() {
    run("market", &["trades.ndjson@trades", "quotes.ndjson@quotes"]);
}

#[test]
fn game() {
    run("game", &["data.ndjson"]);
}

#[test]
fn dashboard() {
    run("dashboard", &["data.ndjson"]);
}

#[test]
fn candles() {
    recipe("candles", "market/trades.ndjson");
}

#[test]
fn incidents() {
    recipe("incidents", "telemetry/data.ndjson");
}

#[test]
fn top() {
    recipe("top", "dashboard/data.ndjson");
}
