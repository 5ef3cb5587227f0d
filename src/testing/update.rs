//! Writes sent results into the tests, in place: lines that need no change stay as they are, including comments.
//!
//! Block lists are rewritten entry by entry. A list in brackets is rewritten as a block, or within its brackets if it
//! is nested in others (JSON).

use std::path::Path;

use serde_json::Value as Json;

use super::case::{Case, Expected};
use super::compare::{ANY, Line, Matching};
use super::load::Suite;
use super::run::{Compared, Outcome};
use crate::text::document::{Node, Value};

/// A replacement of a part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    start: usize,
    end: usize,
    text: String,
}

/// The edits to a suite's file that make a test expect what was sent.
pub fn edits(outcome: &Outcome, case: &Case, suite: &Suite) -> Vec<Edit> {
    let file = File { text: &suite.document.text, is_json: is_json(&suite.path) };
    let mut edits = Vec::new();
    for compared in outcome.compared.iter().filter(|compared| !compared.is_same()) {
        match compared.expected.map(|index| &case.expected[index]) {
            Some(expected @ Expected { list: Some(list), .. }) => edits.extend(file.rewrite(expected, list, compared)),
            Some(_) => edits.extend(file.add("output", case, compared)),
            None => edits.extend(file.add("errors", case, compared)),
        }
    }
    edits
}

/// Applies the edits, which do not overlap.
pub fn apply(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|edit| (edit.start, edit.end));
    let (mut changed, mut at) = (String::with_capacity(text.len()), 0);
    for edit in edits.iter().filter(|edit| edit.end <= text.len()) {
        if edit.start < at {
            continue;
        }
        changed.push_str(&text[at..edit.start]);
        changed.push_str(&edit.text);
        at = edit.end;
    }
    changed.push_str(&text[at..]);
    changed
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"))
}

struct File<'a> {
    text: &'a str,
    is_json: bool,
}

impl File<'_> {
    /// Replaces the entries of a list.
    fn rewrite(&self, expected: &Expected, list: &Node, compared: &Compared) -> Vec<Edit> {
        let Value::List(nodes) = &list.value else { return Vec::new() };
        let Some(start) = self.offset_of(list) else { return Vec::new() };
        let key = expected.place.offset();
        // A block list begins at its first entry, which may be a list in brackets.
        let is_entry = self.text[self.line_start(start)..start].trim() == "-";
        if is_entry || !self.text[start..].starts_with('[') {
            return self.rewrite_block(key, nodes, compared);
        }
        let Some(end) = self.closing(start) else { return Vec::new() };
        if !self.is_block(key) || new_values(compared).next().is_none() {
            return vec![Edit { start, end, text: self.brackets(compared) }];
        }
        let indent = self.column(key) + 2;
        let entries: String = new_values(compared).map(|value| self.entry(indent, &value)).collect();
        // Also removes the blank before the bracket.
        let start = self.text[..start].trim_end_matches(' ').len();
        vec![Edit { start, end, text: format!("\n{}", entries.trim_end_matches('\n')) }]
    }

    fn rewrite_block(&self, key: usize, nodes: &[Node], compared: &Compared) -> Vec<Edit> {
        let starts: Vec<usize> = nodes.iter().filter_map(|node| self.entry_start(node)).collect();
        let (Some(&first), true) = (starts.first(), starts.len() == nodes.len()) else { return Vec::new() };
        let dash = self.text[first..].len() - self.text[first..].trim_start_matches(' ').len();
        let ends: Vec<usize> = starts
            .iter()
            .enumerate()
            .map(|(index, start)| self.block_end(*start, dash, starts.get(index + 1).copied()))
            .collect();
        let begin = self.line_end(key);
        // The entry including the comments before it.
        let lead = |index: usize| {
            let from = if index == 0 { begin } else { ends[index - 1] };
            &self.text[from..starts[index]]
        };
        let mut text = String::new();
        for line in &compared.lines {
            match line {
                Line::Same { expected, .. } => {
                    text.push_str(lead(*expected));
                    text.push_str(&self.text[starts[*expected]..ends[*expected]]);
                }
                Line::Differs { expected, sent } => {
                    text.push_str(lead(*expected));
                    let value = merged(&compared.entries[*expected].0, &compared.sent[*sent].value, &compared.matching);
                    text.push_str(&self.entry(dash, &value));
                }
                Line::Missing { .. } => {}
                Line::Unexpected { sent } => text.push_str(&self.entry(dash, &compared.sent[*sent].value)),
            }
        }
        let end = ends.last().copied().unwrap_or(begin);
        let mut edits = vec![Edit { start: begin, end, text: text.clone() }];
        if text.trim().is_empty() {
            edits[0].text.clear();
            if let Some(colon) = self.text[key..].find(':').map(|colon| key + colon + 1) {
                edits.push(Edit { start: colon, end: colon, text: " []".to_owned() });
            }
        }
        edits
    }

    /// Adds a member to a test that does not have it.
    fn add(&self, member: &str, case: &Case, compared: &Compared) -> Vec<Edit> {
        let at = case.members_at.offset();
        if at >= self.text.len() {
            return Vec::new();
        }
        if let Some(open) =
            self.text[..at].rfind(|c: char| !c.is_whitespace()).filter(|open| self.text[*open..].starts_with('{'))
        {
            let Some(end) = self.closing(open).map(|end| end - 1) else { return Vec::new() };
            let end = self.text[..end].trim_end().len();
            return vec![Edit { start: end, end, text: format!(", \"{member}\": {}", self.brackets(compared)) }];
        }
        let column = self.column(at);
        let end = self.block_end(self.line_start(at), column.saturating_sub(1), None);
        let blanks = " ".repeat(column);
        let mut text = if self.text[..end].ends_with('\n') { String::new() } else { "\n".to_owned() };
        match new_values(compared).next() {
            None => text.push_str(&format!("{blanks}{member}: []\n")),
            Some(_) => {
                text.push_str(&format!("{blanks}{member}:\n"));
                text.extend(new_values(compared).map(|value| self.entry(column + 2, &value)));
            }
        }
        vec![Edit { start: end, end, text }]
    }

    /// All entries in brackets.
    fn brackets(&self, compared: &Compared) -> String {
        let values: Vec<String> = new_values(compared).map(|value| value.to_string()).collect();
        format!("[{}]", values.join(", "))
    }

    /// An entry of a block list, including the end of its line.
    fn entry(&self, indent: usize, value: &Json) -> String {
        let value = if self.is_json { value.to_string() } else { flow(value) };
        format!("{}- {value}\n", " ".repeat(indent))
    }

    fn offset_of(&self, node: &Node) -> Option<usize> {
        Some(node.place.offset()).filter(|offset| self.text.is_char_boundary(*offset) && *offset < self.text.len())
    }

    /// The beginning of the line with the dash of an entry.
    fn entry_start(&self, node: &Node) -> Option<usize> {
        let mut start = self.line_start(self.offset_of(node)?);
        while !self.text[start..].trim_start_matches(' ').starts_with('-') {
            start = self.line_start(start.checked_sub(1)?);
        }
        Some(start)
    }

    fn line_start(&self, offset: usize) -> usize {
        self.text[..offset].rfind('\n').map_or(0, |end| end + 1)
    }

    /// The position after the end of the line.
    fn line_end(&self, offset: usize) -> usize {
        self.text[offset..].find('\n').map_or(self.text.len(), |end| offset + end + 1)
    }

    /// The number of characters before `offset` in its line.
    fn column(&self, offset: usize) -> usize {
        self.text[self.line_start(offset)..offset].chars().count()
    }

    /// Whether only blanks and dashes precede a key in its line.
    fn is_block(&self, key: usize) -> bool {
        !self.is_json && self.text[self.line_start(key)..key].chars().all(|c| matches!(c, ' ' | '-'))
    }

    /// The position after the last line that is indented further than `indent`, from the line at `start` and before
    /// `limit`. Blank lines and comments at the end belong to the next entry.
    fn block_end(&self, start: usize, indent: usize, limit: Option<usize>) -> usize {
        let limit = limit.unwrap_or(self.text.len());
        let mut end = self.line_end(start);
        let mut at = end;
        while at < limit {
            let next = self.line_end(at);
            let line = &self.text[at..next];
            let content = line.trim_start_matches(' ');
            let is_empty = content.trim().is_empty() || content.starts_with('#');
            if !is_empty {
                if line.len() - content.len() <= indent {
                    break;
                }
                end = next;
            }
            at = next;
        }
        end
    }

    /// The position after the bracket that closes the one at `open`; texts and comments are skipped.
    fn closing(&self, open: usize) -> Option<usize> {
        let (mut depth, mut quote, mut escaped, mut comment, mut before) = (0usize, None, false, false, ' ');
        for (index, c) in self.text[open..].char_indices() {
            match (quote, c) {
                _ if comment => comment = c != '\n',
                (Some('"'), _) if escaped => escaped = false,
                (Some('"'), '\\') => escaped = true,
                (Some(open), c) if open == c => quote = None,
                (Some(_), _) => {}
                (None, '"') => quote = Some('"'),
                // An apostrophe inside a word does not open a text.
                (None, '\'') if matches!(before, ' ' | '[' | '{' | ',' | '\n') => quote = Some('\''),
                (None, '#') if before.is_whitespace() => comment = true,
                (None, '[' | '{') => depth += 1,
                (None, ']' | '}') => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 {
                        return Some(open + index + 1);
                    }
                }
                _ => {}
            }
            before = c;
        }
        None
    }
}

/// The new expectations, in order.
fn new_values(compared: &Compared) -> impl Iterator<Item = Json> {
    compared.lines.iter().filter_map(|line| match line {
        Line::Same { expected, .. } => Some(compared.entries[*expected].0.clone()),
        Line::Differs { expected, sent } => {
            Some(merged(&compared.entries[*expected].0, &compared.sent[*sent].value, &compared.matching))
        }
        Line::Missing { .. } => None,
        Line::Unexpected { sent } => Some(compared.sent[*sent].value.clone()),
    })
}

/// The sent value, but keeping as written whatever the test does not compare.
fn merged(expected: &Json, sent: &Json, how: &Matching) -> Json {
    match (expected, sent) {
        (Json::String(text), _) if text == ANY => expected.clone(),
        (Json::Object(wanted), Json::Object(there)) => {
            let known = wanted.iter().filter_map(|(name, wanted)| {
                let there = there.get(name)?;
                let value = if how.any.contains(name) { wanted.clone() } else { merged(wanted, there, how) };
                Some((name.clone(), value))
            });
            let new = there
                .iter()
                .filter(|(name, _)| !how.subset && !how.any.contains(name) && !wanted.contains_key(*name))
                .map(|(name, value)| (name.clone(), value.clone()));
            Json::Object(known.chain(new).collect())
        }
        (Json::Array(wanted), Json::Array(there)) => {
            let element = |(index, there): (usize, &Json)| match wanted.get(index) {
                Some(wanted) => merged(wanted, there, how),
                None => there.clone(),
            };
            Json::Array(there.iter().enumerate().map(element).collect())
        }
        (_, sent) => sent.clone(),
    }
}

/// A value as one line of YAML, without quotes if they are not needed.
fn flow(value: &Json) -> String {
    match value {
        Json::String(text) if is_plain(text) => text.clone(),
        Json::Array(values) => format!("[{}]", values.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Json::Object(members) => {
            let member = |(name, value): (&String, &Json)| {
                let name = if is_plain(name) { name.clone() } else { Json::from(name.as_str()).to_string() };
                format!("{name}: {}", flow(value))
            };
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Whether YAML reads the text without quotes as the same text.
fn is_plain(text: &str) -> bool {
    const WORDS: &[&str] = &["true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf"];
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let consists = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ' '));
    begins && consists && !text.ends_with(' ') && !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::case;
    use super::super::compare::{align, fits};
    use super::super::run::Sent;
    use super::*;
    use crate::text::document::Document;

    /// The text after its first test expects what was sent.
    fn updated(name: &str, text: &str, sent: Json) -> String {
        let document = Document::parse(name, text.to_owned()).unwrap();
        let mut problems = Vec::new();
        let cases = case::read(&document, &document.root.member("tests").unwrap().node, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        let suite = Suite { document, path: name.into(), rules: Vec::new(), cases };
        let case = &suite.cases[0];
        let entries: Vec<_> = case.expected[0].entries().collect();
        let sent: Vec<Sent> = sent
            .as_array()
            .unwrap()
            .iter()
            .map(|value| Sent { value: value.clone(), text: None, after: None })
            .collect();
        let lines = align(entries.len(), sent.len(), &case.matching, |e, s| {
            fits(&entries[e].0, &sent[s].value, &case.matching)
        });
        let matching = case.matching.clone();
        let compared = Compared {
            expected: Some(0),
            of: "r".into(),
            unit: "message",
            entries,
            sent,
            lines,
            matching,
            is_stated: true,
        };
        let outcome = Outcome { problems: Vec::new(), compared: vec![compared] };
        let changed = apply(&suite.document.text, edits(&outcome, case, &suite));
        // The result must be readable.
        Document::parse(name, changed.clone()).unwrap_or_else(|problem| panic!("{problem}\n{changed}"));
        changed
    }

    #[test]
    fn entries_change_and_comments_stay() {
        let text = "\
tests:
  - name: a  # the first
    input: [end]
    output:
      # what comes first
      - [{a: 1, at: any}]
      # gone
      - [{a: 2}]
      # stays
      - [{a: 3}]   # indeed

    # of the next member
    any: [t]
  - name: b
    input: [end]
";
        let sent = json!([[{"a": 9, "at": 5, "t": 1, "s": "x y: z"}], [{"a": 3}], "text"]);
        let expected = "\
tests:
  - name: a  # the first
    input: [end]
    output:
      # what comes first
      - [{a: 9, at: any, s: \"x y: z\"}]
      # stays
      - [{a: 3}]   # indeed
      - text

    # of the next member
    any: [t]
  - name: b
    input: [end]
";
        assert_eq!(updated("f.yaml", text, sent), expected);
    }

    #[test]
    fn lists_of_every_form_are_rewritten() {
        for (text, sent, expected) in [
            (
                "tests:\n- input: [end]\n  output: []  # none\n",
                json!([[{"a": 1}]]),
                "tests:\n- input: [end]\n  output:\n    - [{a: 1}]  # none\n",
            ),
            (
                "tests:\n- input: [end]\n  output:\n  - [{a: 1}]\n  - [{a: 2}]\n- name: x\n  input: [end]\n",
                json!([]),
                "tests:\n- input: [end]\n  output: []\n- name: x\n  input: [end]\n",
            ),
            (
                "tests:\n- input: [end]\n- name: x\n  input: [end]\n",
                json!([{"a": true}]),
                "tests:\n- input: [end]\n  output:\n    - {a: true}\n- name: x\n  input: [end]\n",
            ),
            (
                "tests: [{input: [end], output: [{a: 'it]s'}]}]\n",
                json!([{"a": 1}]),
                "tests: [{input: [end], output: [{\"a\":1}]}]\n",
            ),
            ("tests: [{input: [end]}]\n", json!([1]), "tests: [{input: [end], \"output\": [1]}]\n"),
            (
                "tests:\n- input: [end]\n  output:\n    - 1\n    - 2",
                json!([1, 3]),
                "tests:\n- input: [end]\n  output:\n    - 1\n    - 3\n",
            ),
        ] {
            assert_eq!(updated("f.yaml", text, sent), expected, "{text}");
        }
        let text = "{\"tests\": [{\"input\": [\"end\"],\n  \"output\": [[1]]}]}";
        assert_eq!(updated("f.json", text, json!([2])), text.replace("[[1]]", "[2]"));
    }

    #[test]
    fn texts_have_quotes_where_yaml_needs_them() {
        for (value, text) in [
            (json!("a b-c"), "a b-c"),
            (json!("yes"), "\"yes\""),
            (json!("1"), "\"1\""),
            (json!(""), "\"\""),
            (json!({"a b": null, "x:": [1.5, "a: b"]}), "{a b: null, \"x:\": [1.5, \"a: b\"]}"),
        ] {
            assert_eq!(flow(&value), text);
        }
    }
}
