//! Runs one test.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use serde_json::Value as Json;

use super::case::{Action, ActionChoice, Case, Expected, Step, What};
use super::compare::{Line, Matching, align, fits};
use super::load::Suite;
use super::stage::{Stage, StageSettings};
use crate::config::Config;
use crate::io::queue::Frame;
use crate::io::reach::FileRoots;
use crate::pipeline;
use crate::text::document::{Place, Problem};

#[derive(Debug, Default)]
pub struct Outcome {
    /// why the test could not run as written
    pub problems: Vec<Problem>,
    /// the expected and the sent results
    pub compared: Vec<Compared>,
}

/// An expected list and the sent one.
#[derive(Debug)]
pub struct Compared {
    /// the number of the test's expectation; `None`: the implicit one that a rule has no errors
    pub expected: Option<usize>,
    /// the rule or view
    pub of: String,
    /// the kind of entries: `message`, `error`, `row`
    pub unit: &'static str,
    /// the expected entries, with their places
    pub entries: Vec<(Json, Place)>,
    /// the sent entries
    pub sent: Vec<Sent>,
    /// the alignment of both
    pub lines: Vec<Line>,
    /// how they were compared
    pub matching: Matching,
    /// whether the test states its expectation
    pub is_stated: bool,
}

/// One result.
#[derive(Clone, Debug)]
pub struct Sent {
    /// as JSON; a message that is not JSON is a text
    pub value: Json,
    /// as text, if it differs from the JSON
    pub text: Option<String>,
    /// the place of the input that caused it
    pub after: Option<Place>,
}

/// How a test failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// it could not run
    Error,
    /// its results are not as expected
    Differs,
}

impl Outcome {
    /// How the test failed, if it did.
    pub fn failure(&self) -> Option<Failure> {
        if !self.problems.is_empty() {
            return Some(Failure::Error);
        }
        let differs = self.compared.iter().any(|compared| !compared.is_same());
        differs.then_some(Failure::Differs)
    }
}

impl Compared {
    /// Whether all results match.
    pub fn is_same(&self) -> bool {
        self.is_stated && self.lines.iter().all(|line| matches!(line, Line::Same { .. }))
    }
}

/// Something that a test watches, with its results so far.
struct Watched<'a> {
    expected: Option<(usize, &'a Expected)>,
    of: String,
    what: Watching,
    sent: Vec<Sent>,
    /// the number of errors seen: those of the rule, then those of each lookup table that it reads
    errors: Vec<u64>,
}

enum Watching {
    Messages(ActionChoice),
    Errors,
    Rows,
}

/// Runs a test of a suite on its own engine. `data` is the folder of the files that tables name.
pub async fn run(case: &Case, suite: &Suite, config: &Config, data: &Path) -> Outcome {
    let mut outcome = Outcome::default();
    let pipeline = match pipeline::load(&suite.rules, config) {
        Ok(pipeline) => pipeline,
        Err(problems) => return Outcome { problems, ..outcome },
    };
    let fed: BTreeSet<&str> = case.steps.iter().filter_map(named).collect();
    let files = FileRoots::new(data.to_owned()).with(&config.file_roots);
    let settings = StageSettings { start: case.start, zone: case.zone.clone(), files };
    let stage = match Stage::open(pipeline, settings, &fed).await {
        Ok(stage) => stage,
        Err(problems) => return Outcome { problems, ..outcome },
    };
    let mut played = Player { case, suite, stage: &stage, problems: Vec::new() };
    let mut watched = played.watched();
    if played.problems.is_empty() {
        played.look(&mut watched, None).await;
        for step in &case.steps {
            if !played.step(step).await {
                break;
            }
            played.look(&mut watched, Some(step.place)).await;
        }
        played.rows(&mut watched).await;
    }
    outcome.problems = played.problems;
    outcome.compared = watched.into_iter().map(|watched| compared(watched, case)).collect();
    stage.close().await;
    outcome
}

/// The stream or table that a step names.
fn named(step: &Step) -> Option<&str> {
    match &step.action {
        Action::Message { stream, .. } | Action::Feed { stream: Some(stream), .. } => Some(stream),
        _ => None,
    }
}

struct Player<'a> {
    case: &'a Case,
    suite: &'a Suite,
    stage: &'a Stage,
    problems: Vec<Problem>,
}

impl<'a> Player<'a> {
    fn error(&mut self, place: Place, message: impl Into<String>) {
        let subject = format!("test {}", self.case.name);
        self.problems.push(self.suite.document.error(place, subject, message));
    }

    /// What the test watches: its expectations, and the errors of rules that it does not mention, which must have none.
    fn watched(&mut self) -> Vec<Watched<'a>> {
        let mut watched = Vec::new();
        let mut mentioned: BTreeSet<String> = BTreeSet::new();
        for (index, expected) in self.case.expected.iter().enumerate() {
            // A wrong name of the rule was already reported for its errors.
            if expected.implied && !self.problems.is_empty() {
                continue;
            }
            let Some(of) = self.subject(expected) else { continue };
            let is_view = self.stage.views().contains(&of);
            let what = match &expected.what {
                What::Output(_) if is_view => Watching::Rows,
                What::Output(action) => {
                    if self.stage.take(&of, action).is_none() {
                        let message = match action {
                            ActionChoice::Kind(kind) => format!("rule {of} has no action {kind}"),
                            ActionChoice::Number(number) => format!("rule {of} has no action number {number}"),
                            ActionChoice::First => format!("rule {of} has no action"),
                        };
                        self.error(expected.place, message);
                        continue;
                    }
                    Watching::Messages(action.clone())
                }
                What::Errors => {
                    mentioned.insert(of.clone());
                    Watching::Errors
                }
                What::AnyErrors => {
                    mentioned.insert(of);
                    continue;
                }
            };
            watched.push(Watched { expected: Some((index, expected)), of, what, sent: Vec::new(), errors: Vec::new() });
        }
        let silent: BTreeSet<String> = watched.iter().map(|watched| watched.of.clone()).collect();
        for of in silent.into_iter().filter(|of| !mentioned.contains(of) && !self.stage.views().contains(of)) {
            watched.push(Watched { expected: None, of, what: Watching::Errors, sent: Vec::new(), errors: Vec::new() });
        }
        watched
    }

    /// The rule or view that an expectation is about.
    fn subject(&mut self, expected: &Expected) -> Option<String> {
        let rules: Vec<String> = self.stage.rules().into_iter().map(str::to_owned).collect();
        let all: Vec<&String> = rules.iter().chain(self.stage.views()).collect();
        let names = all.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        match (&expected.of, all.as_slice()) {
            (Some(of), all) if all.contains(&of) => Some(of.clone()),
            (Some(of), _) => {
                self.error(expected.place, format!("there is no rule or view {of} that starts; there are: {names}"));
                None
            }
            (None, [only]) => Some((*only).clone()),
            (None, _) => {
                self.error(expected.place, format!("name the rule that is tested: rule is one of {names}"));
                None
            }
        }
    }

    /// Executes a step; false: it is not possible.
    async fn step(&mut self, step: &Step) -> bool {
        match &step.action {
            Action::Wait(millis) => {
                self.stage.move_clock(self.stage.now().saturating_add(*millis)).await;
                true
            }
            Action::End => {
                self.stage.end().await;
                true
            }
            Action::Message { stream, message, meta, binary } => {
                let read = self.stage.message(stream, frame(message, binary.as_deref()), meta.as_ref()).await;
                if !read {
                    self.unread(step.place, stream);
                }
                read
            }
            Action::Feed { file, stream } => self.feed(step.place, file, stream.as_deref()).await,
        }
    }

    fn unread(&mut self, place: Place, stream: &str) {
        let names = self.stage.streams().collect::<Vec<_>>().join(", ");
        self.error(place, format!("no rule reads a stream {stream}; there are: {names}"));
    }

    async fn feed(&mut self, place: Place, file: &str, stream: Option<&str>) -> bool {
        let streams: Vec<&str> = self.stage.streams().collect();
        let stream = match (stream, streams.as_slice()) {
            (Some(stream), _) => stream,
            (None, [only]) => only,
            (None, several) => {
                self.error(place, format!("say which stream, FILE@STREAM: there are {}", several.join(", ")));
                return false;
            }
        };
        let path = self.suite.path.parent().unwrap_or(Path::new("")).join(file);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                self.error(place, format!("cannot read {}: {error}", path.display()));
                return false;
            }
        };
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if !self.stage.message(stream, Frame::Text(line.into()), None).await {
                self.unread(place, stream);
                return false;
            }
        }
        true
    }

    /// Collects the results of the last step.
    async fn look(&self, watched: &mut [Watched<'_>], after: Option<Place>) {
        for watched in watched {
            match &watched.what {
                Watching::Messages(action) => {
                    let messages = self.stage.take(&watched.of, action).unwrap_or_default();
                    watched.sent.extend(messages.iter().map(|message| sent(message, after)));
                }
                Watching::Errors => {
                    for (index, (errors, last)) in self.stage.errors(&watched.of).await.into_iter().enumerate() {
                        let before = watched.errors.get(index).copied().unwrap_or(0);
                        let sent = Sent { value: Json::from(last), text: None, after };
                        watched.sent.extend((before..errors).map(|_| sent.clone()));
                        watched.errors.resize(watched.errors.len().max(index + 1), 0);
                        watched.errors[index] = errors;
                    }
                }
                Watching::Rows => {}
            }
        }
    }

    async fn rows(&mut self, watched: &mut [Watched<'_>]) {
        for watched in watched.iter_mut().filter(|watched| matches!(watched.what, Watching::Rows)) {
            let rows = self.stage.rows(&watched.of).unwrap_or_default();
            watched.sent = rows.into_iter().map(|value| Sent { value, text: None, after: None }).collect();
            if let Some(error) = self.stage.view_error(&watched.of).await {
                let place = watched.expected.map_or(self.case.place, |(_, expected)| expected.place);
                self.error(place, format!("view {}: {error}", watched.of));
            }
        }
    }
}

/// A message as a socket delivers it: a text is the message itself, anything else is JSON.
fn frame(message: &Json, binary: Option<&[u8]>) -> Frame {
    match (binary, message) {
        (Some(bytes), _) => Frame::Binary(Bytes::copy_from_slice(bytes)),
        (None, Json::String(text)) => Frame::Text(text.as_str().into()),
        (None, json) => Frame::Text(json.to_string().into()),
    }
}

/// Converts a sent message.
fn sent(message: &Bytes, after: Option<Place>) -> Sent {
    let text = String::from_utf8_lossy(message).into_owned();
    match serde_json::from_slice(message) {
        Ok(value) => Sent { value, text: Some(text), after },
        Err(_) => Sent { value: Json::from(text), text: None, after },
    }
}

fn compared(watched: Watched<'_>, case: &Case) -> Compared {
    let entries: Vec<(Json, Place)> =
        watched.expected.map(|(_, expected)| expected.entries().collect()).unwrap_or_default();
    let sent = watched.sent;
    // A view is a table: its rows have no order.
    let unordered = case.matching.unordered || matches!(watched.what, Watching::Rows);
    let matching = Matching { unordered, ..case.matching.clone() };
    let same = |e: usize, s: usize| match &watched.what {
        // An expected error matches if it is part of the text.
        Watching::Errors => match (entries[e].0.as_str(), sent[s].value.as_str()) {
            (Some(part), Some(text)) => part == super::compare::ANY || text.contains(part),
            _ => false,
        },
        _ => {
            let as_text = entries[e].0.as_str().is_some_and(|text| sent[s].text.as_deref() == Some(text));
            as_text || fits(&entries[e].0, &sent[s].value, &case.matching)
        }
    };
    let lines = align(entries.len(), sent.len(), &matching, same);
    let is_stated = watched.expected.is_none_or(|(_, expected)| expected.list.is_some() || expected.implied);
    let unit = match watched.what {
        Watching::Messages(_) => "message",
        Watching::Errors => "error",
        Watching::Rows => "row",
    };
    Compared {
        expected: watched.expected.map(|(index, _)| index),
        of: watched.of,
        unit,
        entries,
        sent,
        lines,
        matching,
        is_stated,
    }
}
