//! Describes why a test failed: each difference, with the line of the expectation and the line of the input that led to
//! it.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::compare::{Line, Matching, differences};
use super::load::Suite;
use super::run::{Compared, Outcome, Sent};
use crate::text::document::Place;

/// The most characters of a message that are shown.
const SHOWN: usize = 2000;

/// The most differences within one message that are listed.
const LISTED: usize = 10;

/// The most messages that are listed.
const LINES: usize = 50;

/// Describes the failures in indented lines; empty if there are none.
pub fn report(outcome: &Outcome, suite: &Suite) -> String {
    let mut text = String::new();
    for problem in &outcome.problems {
        for line in problem.to_string().lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    if !outcome.problems.is_empty() {
        return text;
    }
    for compared in outcome.compared.iter().filter(|compared| !compared.is_same()) {
        if !compared.is_stated {
            let _ = writeln!(
                text,
                "    {}: the test does not say what is expected: give it an output, or let --update write it",
                compared.of
            );
        }
        let differing = compared.lines.iter().filter(|line| !matches!(line, Line::Same { .. }));
        for (number, line) in differing.enumerate() {
            if number == LINES {
                let _ = writeln!(text, "    … and more");
                break;
            }
            describe(&mut text, compared, line, suite);
        }
    }
    text
}

fn describe(text: &mut String, compared: &Compared, line: &Line, suite: &Suite) {
    let (of, unit) = (&compared.of, compared.unit);
    let at = |place: Place| format!("{}:{}", suite.path.display(), place.line);
    let entry = |index: usize| {
        let (value, place) = &compared.entries[index];
        (value, format!("expected at {}", at(*place)))
    };
    let after = |sent: &Sent| sent.after.map(|place| format!("sent after the input at {}", at(place)));
    // Writing to a String cannot fail.
    match line {
        Line::Same { .. } => {}
        Line::Differs { expected, sent } => {
            let (wanted, expected_at) = entry(*expected);
            let there = &compared.sent[*sent];
            let places: Vec<String> = [Some(expected_at), after(there)].into_iter().flatten().collect();
            let _ = writeln!(text, "    {of}: {unit} {} differs ({})", sent + 1, places.join(", "));
            let _ = writeln!(text, "      - {}\n      + {}", shown(wanted), shown(&there.value));
            if unit != "error" {
                list(text, wanted, &there.value, &compared.matching);
            }
        }
        Line::Missing { expected } => {
            let (wanted, expected_at) = entry(*expected);
            let _ = writeln!(text, "    {of}: {unit} {} is missing ({expected_at})", expected + 1);
            let _ = writeln!(text, "      - {}", shown(wanted));
        }
        Line::Unexpected { sent } => {
            let there = &compared.sent[*sent];
            let place = after(there).map(|place| format!(" ({place})")).unwrap_or_default();
            let _ = writeln!(text, "    {of}: {unit} {} was not expected{place}", sent + 1);
            let _ = writeln!(text, "      + {}", shown(&there.value));
        }
    }
}

/// Lists the differences within a message.
fn list(text: &mut String, expected: &Json, sent: &Json, matching: &Matching) {
    let found = differences(expected, sent, matching);
    for difference in found.iter().take(LISTED).filter(|difference| !difference.path.is_empty()) {
        let path = &difference.path;
        let _ = match (&difference.expected, &difference.sent) {
            (Some(expected), Some(sent)) => {
                writeln!(text, "      {path} is {}, expected {}", shown(sent), shown(expected))
            }
            (Some(expected), None) => writeln!(text, "      {path} is absent, expected {}", shown(expected)),
            (_, sent) => {
                writeln!(text, "      {path} is {}, expected nothing", sent.as_ref().map(shown).unwrap_or_default())
            }
        };
    }
}

fn shown(value: &Json) -> String {
    let mut text = value.to_string();
    if let Some((cut, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(cut);
        text.push('…');
    }
    text
}
