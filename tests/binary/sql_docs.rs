//! Every example of `docs/sql.md` runs and gives the documented results.
//!
//! An example is three fenced blocks: `sql example` (CREATE statements, then the rule, separated by `;`), `json input`
//! (lines `stream <- {…}`) and `json output` (one result message a line). A stream with a TIMESTAMP is read in event
//! time, without tolerance; at the end of the input open windows are sent, so that no example waits for a clock.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

#[test]
fn examples() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sql.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let (mut number, mut wrong) = (0, Vec::new());
    let mut rest = page.as_str();
    while let Some((_, after)) = rest.split_once("```sql example\n") {
        let (sql, after) = after.split_once("```").expect("a block ends");
        let (input, after) = block(after, "json input");
        let (output, after) = block(after, "json output");
        rest = after;
        number += 1;
        let want: Vec<Value> = output.lines().map(parse).collect();
        let have = run(number, sql, input);
        if want != have {
            wrong.push(format!("{sql}want {}\ngot  {}", json!(want), json!(have)));
        }
    }
    assert!(number > 0, "the page has examples");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The text of the next block, which must be of this kind, and the text after it.
fn block<'a>(text: &'a str, kind: &str) -> (&'a str, &'a str) {
    let text = text.trim_start().strip_prefix(&format!("```{kind}\n"));
    text.unwrap_or_else(|| panic!("`{kind}` must follow")).split_once("```").expect("a block ends")
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// The results of one example, in order.
fn run(number: usize, sql: &str, input: &str) -> Vec<Value> {
    let mut statements: Vec<&str> = sql.split(';').map(str::trim).filter(|text| !text.is_empty()).collect();
    let select = statements.pop().expect("an example has a rule");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sql_docs_{number}"));
    std::fs::create_dir_all(&folder).expect("a folder for the example");
    let event_time = statements.iter().any(|create| create.contains("TIMESTAMP="));
    let rules = json!({"streams": statements, "rules": [{
        "id": "example", "sql": select, "actions": [{"log": {}}],
        "options": {"isEventTime": event_time, "lateTolerance": 0},
    }]});
    let file = folder.join("rules.json");
    std::fs::write(&file, rules.to_string()).expect("the rule can be written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_plutino"));
    command.args(["run", "--quiet"]).arg(&file);
    let mut feeds: Vec<(&str, String)> = Vec::new();
    for line in input.lines() {
        let (stream, message) = line.split_once(" <- ").expect("`stream <- {…}`");
        if !feeds.iter().any(|(name, _)| *name == stream) {
            feeds.push((stream, String::new()));
        }
        let feed = feeds.iter_mut().find(|(name, _)| *name == stream).expect("just added");
        feed.1 += &format!("{message}\n");
    }
    for (stream, messages) in feeds {
        let path = folder.join(format!("{stream}.ndjson"));
        std::fs::write(&path, messages).expect("the input can be written");
        command.args(["--feed", &format!("{}@{stream}", path.display())]);
    }
    command.env("KUIPER__SOURCE__HTTPSERVERPORT", "0").env("KUIPER__SOURCE__HTTPSERVERIP", "127.0.0.1");
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{sql}\n{said}");
    String::from_utf8_lossy(&output.stdout).lines().map(parse).collect()
}
