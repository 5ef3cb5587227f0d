//! Finds tests: in rule files, and in files beside them.
//!
//! Tests are in a rule file's member `tests`, or in a separate file: `rules.test.yaml` tests `rules.yaml`, or the files
//! that its member `files` names. Each file with tests is tested separately, together with the given rule files that
//! have no tests: so `plutino test examples/*/rules.yaml` keeps the examples apart, and `plutino test streams.yaml
//! rules.yaml` reads both together.

use std::path::{Path, PathBuf};

use super::case::{self, Case};
use crate::text::document::{Document, Problem, Severity, Value};

/// The members that make a file a rule file.
const RULE_MEMBERS: &[&str] = &["streams", "tables", "views", "rules", "sources", "sql", "actions"];

/// The members of a file that contains only tests.
const TEST_MEMBERS: &[&str] = &["tests", "files"];

/// Extensions of rule files.
const ENDINGS: &[&str] = &["yaml", "yml", "json"];

/// The tests of one file.
#[derive(Debug)]
pub struct Suite {
    /// the file with the tests
    pub document: Document,
    /// its path
    pub path: PathBuf,
    /// the rule files that they test
    pub rules: Vec<PathBuf>,
    pub cases: Vec<Case>,
}

/// The role of a file.
enum Role {
    /// rules, possibly with tests
    Rules,
    /// only tests
    Tests,
}

/// Reads all tests in these files and in the test files beside them.
///
/// # Errors
/// Every [`Problem`] in all files; one if there are no tests.
pub fn load(files: &[PathBuf]) -> Result<Vec<Suite>, Vec<Problem>> {
    let suites = find(files)?;
    if suites.iter().any(|suite| !suite.cases.is_empty()) {
        return Ok(suites);
    }
    let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let hint = "write a member tests into the rule file, or into a file beside it such as rules.test.yaml";
    let problem = Problem::error(&names.join(", "), None, "", "there are no tests");
    Err(vec![problem.with_hint(Some(hint.to_owned()))])
}

/// As [`load`], but there need not be any tests.
///
/// # Errors
/// Every [`Problem`] in all files.
pub fn find(files: &[PathBuf]) -> Result<Vec<Suite>, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut paths: Vec<PathBuf> = Vec::new();
    for file in files {
        for path in [Some(file.clone()), beside(file)].into_iter().flatten() {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    let (mut suites, mut shared): (Vec<Suite>, Vec<PathBuf>) = (Vec::new(), Vec::new());
    for path in &paths {
        let document = match Document::read(path) {
            Ok(document) => document,
            Err(problem) => {
                problems.push(*problem);
                continue;
            }
        };
        let root = &document.root;
        let tests = root.member("tests").map(|member| member.node.clone()).filter(|tests| !tests.is_null());
        match (role(&document), tests) {
            (Role::Rules, None) => shared.push(path.clone()),
            (Role::Rules, Some(tests)) => {
                let cases = case::read(&document, &tests, &mut problems);
                suites.push(Suite { document, path: path.clone(), rules: vec![path.clone()], cases });
            }
            (Role::Tests, tests) => {
                let rules = tested(&document, path, &mut problems);
                let cases = tests.map(|tests| case::read(&document, &tests, &mut problems)).unwrap_or_default();
                suites.push(Suite { document, path: path.clone(), rules, cases });
            }
        }
    }
    // A rule file with a test file beside it belongs to that one.
    let owned: Vec<PathBuf> = suites.iter().flat_map(|suite| suite.rules.clone()).collect();
    shared.retain(|path| !owned.contains(path));
    for suite in &mut suites {
        let more: Vec<PathBuf> = shared.iter().filter(|path| !suite.rules.contains(path)).cloned().collect();
        suite.rules.extend(more);
    }
    if problems.iter().any(|problem| problem.severity == Severity::Error) {
        return Err(problems);
    }
    Ok(suites)
}

fn role(document: &Document) -> Role {
    let root = &document.root;
    let has = |names: &[&str]| root.members().iter().any(|member| names.contains(&member.key.as_str()));
    match (has(RULE_MEMBERS), has(TEST_MEMBERS)) {
        (false, true) => Role::Tests,
        _ => Role::Rules,
    }
}

/// The test file beside a rule file: `rules.test.yaml` beside `rules.yaml`.
fn beside(file: &Path) -> Option<PathBuf> {
    let stem = file.file_stem()?.to_str()?;
    if stem.ends_with(".test") {
        return None;
    }
    let candidates = ENDINGS.iter().map(|ending| file.with_file_name(format!("{stem}.test.{ending}")));
    candidates.into_iter().find(|path| path.is_file())
}

/// The rule files that a test file is about.
fn tested(document: &Document, path: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let folder = path.parent().unwrap_or(Path::new(""));
    for member in document.root.members().iter().filter(|member| !TEST_MEMBERS.contains(&member.key.as_str())) {
        problems.push(document.error(member.place, "", format!("unknown member {} of a test file", member.key)));
    }
    if let Some(files) = document.root.member("files") {
        let texts: Option<Vec<&str>> = match &files.node.value {
            Value::Text(text) => Some(vec![text]),
            Value::List(nodes) => nodes.iter().map(|node| node.text()).collect(),
            _ => None,
        };
        return match texts {
            Some(texts) => texts.into_iter().map(|text| folder.join(text)).collect(),
            None => {
                let message = format!("files is {}, expected a list of rule files", files.node.kind());
                problems.push(document.error(files.place, "", message));
                Vec::new()
            }
        };
    }
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let tested = stem
        .strip_suffix(".test")
        .map(|stem| ENDINGS.iter().map(|ending| folder.join(format!("{stem}.{ending}"))).find(|path| path.is_file()));
    match tested.flatten() {
        Some(path) => vec![path],
        None => {
            let hint = "name the rule files in a member files, or call this file rules.test.yaml beside rules.yaml";
            let message = "these tests do not name a rule file";
            problems.push(document.error(document.root.place, "", message).with_hint(Some(hint.to_owned())));
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TESTS: &str = "tests:\n  - {name: a, input: [end], output: []}\n";

    #[test]
    fn tests_are_found_in_rule_files_and_beside_them() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("a file can be written");
            path
        };
        let rules = "rules: []\n";
        let (one, two) = (write("one.yaml", &format!("{rules}{TESTS}")), write("two.yaml", rules));
        let (beside, shared) = (write("two.test.yaml", TESTS), write("shared.yaml", rules));
        let other = write("other.yaml", &format!("files: [one.yaml, two.yaml]\n{TESTS}"));
        let names = |files: &[&PathBuf]| -> Vec<(String, Vec<String>)> {
            let files: Vec<PathBuf> = files.iter().map(|file| (*file).clone()).collect();
            let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
            let suites = load(&files).map_err(|problems| problems[0].to_string()).unwrap();
            suites.iter().map(|suite| (name(&suite.path), suite.rules.iter().map(name).collect())).collect()
        };
        let of = |name: &str, rules: &[&str]| (name.to_owned(), rules.iter().map(|rule| (*rule).to_owned()).collect());
        assert_eq!(names(&[&one, &shared]), [of("one.yaml", &["one.yaml", "shared.yaml"])]);
        assert_eq!(names(&[&two]), [of("two.test.yaml", &["two.yaml"])]);
        assert_eq!(names(&[&two, &beside]), [of("two.test.yaml", &["two.yaml"])]);
        assert_eq!(names(&[&beside]), [of("two.test.yaml", &["two.yaml"])]);
        assert_eq!(names(&[&other]), [of("other.yaml", &["one.yaml", "two.yaml"])]);
        let none = load(&[shared]).unwrap_err();
        assert!(none[0].to_string().contains("there are no tests"), "{}", none[0]);
    }

    #[test]
    fn mistakes_in_tests_have_places() {
        let text = "rules: []\ntests:\n  - name: a\n    inputt: []\n    input: [5, {wait: soon}, {a: 1, b: 2}, end, {wait: 1s}]\n    output: 5\n    start: never\n  - 7\n";
        let document = Document::parse("f.yaml", text.to_owned()).unwrap();
        let mut problems = Vec::new();
        case::read(&document, &document.root.member("tests").unwrap().node, &mut problems);
        let messages: Vec<String> = problems.iter().map(Problem::to_string).collect();
        for expected in [
            "f.yaml:4:5: error: test a: unknown member inputt",
            "f.yaml:5:13: error: test a: an input is {stream: message}",
            "f.yaml:5:23: error: test a: wait is \"soon\", expected a duration",
            "f.yaml:5:30: error: test a: an input is",
            "f.yaml:5:49: error: test a: end must be the last input",
            "f.yaml:6:13: error: test a: output is 5, expected a list of messages",
            "f.yaml:7:12: error: test a: start is \"never\", expected a time",
            "f.yaml:8:5: error: test 2: a test is an object",
        ] {
            assert!(messages.iter().any(|message| message.starts_with(expected)), "{expected}\n{messages:#?}");
        }
    }
}
