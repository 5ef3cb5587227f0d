//! Parses a test from its file, once. Every error has its place.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value as Json;

use super::compare::Matching;
use crate::property::duration;
use crate::text::document::{Document, Member, Node, Place, Problem, Value};
use crate::text::suggest;
use crate::time;

/// The start of a test that does not set one: later than any recorded event, so that every recorded event is in the
/// past.
const START: &str = "2030-01-01T00:00:00Z";

/// The members of a test.
const MEMBERS: &[&str] = &[
    "name",
    "rule",
    "view",
    "action",
    "input",
    "output",
    "outputs",
    "errors",
    "unordered",
    "subset",
    "any",
    "start",
    "timezone",
];

/// One test.
#[derive(Debug)]
pub struct Case {
    /// its description of the rules
    pub name: String,
    /// its place in the file
    pub place: Place,
    /// its start, ms since the epoch
    pub start: i64,
    /// the time zone of windows and dates
    pub zone: TimeZone,
    pub steps: Vec<Step>,
    /// the expected results
    pub expected: Vec<Expected>,
    /// how results are compared
    pub matching: Matching,
    /// the place of the first member's key: further members are written in its column
    pub members_at: Place,
}

#[derive(Debug)]
pub struct Step {
    /// its place in the file
    pub place: Place,
    pub action: Action,
}

/// The kinds of steps.
#[derive(Debug)]
pub enum Action {
    /// a message arrives
    Message {
        /// the stream or table
        stream: String,
        /// its content: a text is the message itself, anything else is JSON
        message: Json,
        /// the values that `meta()` returns for it
        meta: Option<Json>,
        /// the bytes of a binary message, which the file has in base64
        binary: Option<Vec<u8>>,
    },
    /// time passes, ms
    Wait(i64),
    /// the lines of a file arrive one after the other
    Feed {
        /// the file
        file: String,
        /// the stream; `None`: the only one
        stream: Option<String>,
    },
    /// the input ends: windows that time closes are sent
    End,
}

/// The expected results of a rule or view.
#[derive(Debug)]
pub struct Expected {
    /// the rule or view; `None`: the file's only one
    pub of: Option<String>,
    /// the kind of results
    pub what: What,
    /// the place of the key before the list
    pub place: Place,
    /// the list; `None`: the test does not have one yet
    pub list: Option<Node>,
    /// The test names errors and no output: none is expected.
    pub implied: bool,
}

/// The kinds of expected results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// the messages of a rule's action, or the rows of a view
    Output(ActionChoice),
    /// the errors of a rule
    Errors,
    /// errors are ignored
    AnyErrors,
}

/// The choice of one of a rule's actions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ActionChoice {
    /// the first one
    #[default]
    First,
    /// the one with this number, from 1
    Number(usize),
    /// the first one of this kind
    Kind(String),
}

impl Expected {
    /// The entries of the list with their places.
    pub fn entries(&self) -> impl Iterator<Item = (Json, Place)> {
        let nodes = match self.list.as_ref().map(|list| &list.value) {
            Some(Value::List(nodes)) => nodes.as_slice(),
            _ => &[],
        };
        nodes.iter().map(|node| (node.json(), node.place))
    }
}

/// Parses the tests in a document's member `tests`.
pub(super) fn read(document: &Document, tests: &Node, problems: &mut Vec<Problem>) -> Vec<Case> {
    let Value::List(nodes) = &tests.value else {
        let message = format!("tests is {}, expected a list of tests", tests.kind());
        problems.push(document.error(tests.place, "", message));
        return Vec::new();
    };
    let mut cases: Vec<Case> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let subject = match node.member("name").and_then(|member| member.node.text()) {
            Some(name) => format!("test {name}"),
            None => format!("test {}", index + 1),
        };
        let mut reader = Reader { document, subject, problems: &mut *problems };
        if let Some(case) = reader.case(node, index) {
            cases.push(case);
        }
    }
    cases
}

struct Reader<'a> {
    document: &'a Document,
    subject: String,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn error(&mut self, place: Place, message: impl Into<String>) {
        self.problems.push(self.document.error(place, self.subject.as_str(), message));
    }

    fn expected(&mut self, node: &Node, name: &str, expected: &str) {
        let written = match &node.value {
            Value::Text(_) | Value::Number(_) | Value::Bool(_) => node.json().to_string(),
            _ => node.kind().to_owned(),
        };
        self.error(node.place, format!("{name} is {written}, expected {expected}"));
    }

    fn case(&mut self, node: &Node, index: usize) -> Option<Case> {
        let Value::Map(members) = &node.value else {
            self.error(node.place, format!("a test is an object with name, input and output, this is {}", node.kind()));
            return None;
        };
        for member in members.iter().filter(|member| !MEMBERS.contains(&member.key.as_str())) {
            let hint = suggest::did_you_mean(&member.key, MEMBERS.iter().copied());
            let message = format!("unknown member {}", member.key);
            let problem = self.document.error(member.place, self.subject.as_str(), message);
            self.problems.push(problem.with_hint(hint));
        }
        let find = |name: &str| members.iter().find(|member| member.key == name);
        let name = find("name").and_then(|member| self.text(&member.node, "name"));
        let start = find("start").map_or_else(default_start, |member| self.start(&member.node));
        let zone = find("timezone").map_or(TimeZone::UTC, |member| self.zone(&member.node));
        let steps = find("input").map(|member| self.steps(&member.node)).unwrap_or_default();
        let matching = Matching {
            unordered: find("unordered").is_some_and(|member| self.flag(&member.node, "unordered")),
            subset: find("subset").is_some_and(|member| self.flag(&member.node, "subset")),
            any: find("any").map(|member| self.names(&member.node)).unwrap_or_default(),
        };
        let members_at = members.first().map_or(node.place, |member| member.place);
        let expected = self.expectations(node, members, members_at);
        let name = name.unwrap_or_else(|| format!("test {}", index + 1));
        Some(Case { name, place: node.place, start, zone, steps, expected, matching, members_at })
    }

    fn expectations(&mut self, node: &Node, members: &[Member], at: Place) -> Vec<Expected> {
        let find = |name: &str| members.iter().find(|member| member.key == name);
        let rule = find("rule").or_else(|| find("view"));
        if let (Some(_), Some(view)) = (find("rule"), find("view")) {
            self.error(view.place, "a test names a rule or a view; for several use outputs");
        }
        let of = rule.and_then(|member| self.text(&member.node, &member.key));
        let action = find("action").map(|member| self.action(&member.node)).unwrap_or_default();
        let mut expected = Vec::new();
        let mut add = |reader: &mut Self, of: Option<String>, what: What, member: &Member| match &member.node.value {
            Value::List(_) => {
                let list = Some(member.node.clone());
                expected.push(Expected { of, what, place: member.place, list, implied: false });
            }
            Value::Text(text) if text == "any" && what == What::Errors => {
                let (place, list) = (member.place, None);
                expected.push(Expected { of, what: What::AnyErrors, place, list, implied: false });
            }
            _ => {
                let list = if what == What::Errors { "a list of texts, or any" } else { "a list of messages" };
                reader.expected(&member.node, &member.key, list);
            }
        };
        if let Some(member) = find("output") {
            add(self, of.clone(), What::Output(action.clone()), member);
        }
        if let Some(member) = find("errors") {
            add(self, of.clone(), What::Errors, member);
        }
        if let Some(outputs) = find("outputs") {
            if outputs.node.members().is_empty() {
                self.expected(&outputs.node, "outputs", "an object of lists by rule or view");
            }
            for member in outputs.node.members() {
                add(self, Some(member.key.clone()), What::Output(ActionChoice::First), member);
            }
        }
        if find("output").is_none() && find("outputs").is_none() {
            let implied = find("errors").is_some();
            expected.push(Expected { of, what: What::Output(action), place: at, list: None, implied });
        }
        if find("input").is_none() {
            self.error(node.place, "the test has no input: give it a list of messages and waits");
        }
        expected
    }

    fn steps(&mut self, input: &Node) -> Vec<Step> {
        let Value::List(nodes) = &input.value else {
            self.expected(input, "input", "a list such as [{stream: {a: 1}}, {wait: 5s}]");
            return Vec::new();
        };
        let steps: Vec<Step> =
            nodes.iter().filter_map(|node| self.step(node).map(|action| Step { place: node.place, action })).collect();
        let end = steps.iter().position(|step| matches!(step.action, Action::End));
        if let Some(after) = end.and_then(|end| steps.get(end + 1)) {
            self.error(after.place, "end must be the last input");
        }
        steps
    }

    fn step(&mut self, node: &Node) -> Option<Action> {
        if node.text() == Some("end") {
            return Some(Action::End);
        }
        let members = node.members();
        if let [member] = members {
            match member.key.as_str() {
                "wait" => {
                    let millis = duration::parse(&member.node.json())
                        .and_then(|duration| i64::try_from(duration.as_millis()).ok())
                        .filter(|millis| *millis <= MAX_WAIT);
                    if millis.is_none() {
                        self.expected(&member.node, "wait", "a duration of up to ten years such as 5s");
                    }
                    return millis.map(Action::Wait);
                }
                "feed" => {
                    let written = self.text(&member.node, "feed")?;
                    let (file, stream) = match written.rsplit_once('@') {
                        Some((file, stream)) => (file.to_owned(), Some(stream.to_owned())),
                        None => (written, None),
                    };
                    return Some(Action::Feed { file, stream });
                }
                _ => {}
            }
        }
        let beside = |name: &str| members.iter().find(|member| member.key == name && members.len() > 1);
        let (meta, encoding) = (beside("meta"), beside("encoding"));
        let is_beside = |member: &&Member| [meta, encoding].iter().flatten().any(|beside| beside.key == member.key);
        let mut streams = members.iter().filter(|member| !is_beside(member));
        match (streams.next(), streams.next()) {
            (Some(member), None) => {
                let meta = meta.map(|meta| meta.node.json());
                let binary = match encoding {
                    None => None,
                    Some(encoding) => Some(self.binary(&encoding.node, &member.node)?),
                };
                Some(Action::Message { stream: member.key.clone(), message: member.node.json(), meta, binary })
            }
            _ => {
                self.error(
                    node.place,
                    "an input is {stream: message}, {wait: duration}, {feed: FILE@STREAM} or the word end",
                );
                None
            }
        }
    }

    /// Decodes a message in base64.
    fn binary(&mut self, encoding: &Node, message: &Node) -> Option<Vec<u8>> {
        if encoding.text() != Some("base64") {
            self.expected(encoding, "encoding", "base64");
            return None;
        }
        let bytes = message.text().and_then(|text| BASE64_STANDARD.decode(text.trim()).ok());
        if bytes.is_none() {
            self.expected(message, "the message", "text in base64");
        }
        bytes
    }

    fn action(&mut self, node: &Node) -> ActionChoice {
        match &node.value {
            Value::Number(number) => match number.as_u64().and_then(|number| usize::try_from(number).ok()) {
                Some(number @ 1..) => return ActionChoice::Number(number),
                _ => self.expected(node, "action", "a number from 1, or a kind such as websocket"),
            },
            Value::Text(kind) => return ActionChoice::Kind(kind.clone()),
            _ => self.expected(node, "action", "a number from 1, or a kind such as websocket"),
        }
        ActionChoice::First
    }

    fn text(&mut self, node: &Node, name: &str) -> Option<String> {
        let text = node.text().filter(|text| !text.is_empty()).map(str::to_owned);
        if text.is_none() {
            self.expected(node, name, "a text");
        }
        text
    }

    fn flag(&mut self, node: &Node, name: &str) -> bool {
        match node.value {
            Value::Bool(flag) => flag,
            _ => {
                self.expected(node, name, "true or false");
                false
            }
        }
    }

    fn names(&mut self, node: &Node) -> Vec<String> {
        match &node.value {
            Value::Text(name) => vec![name.clone()],
            Value::List(nodes) => nodes.iter().filter_map(|node| self.text(node, "any")).collect(),
            _ => {
                self.expected(node, "any", "a list of names of fields");
                Vec::new()
            }
        }
    }

    fn start(&mut self, node: &Node) -> i64 {
        let time = match &node.value {
            Value::Number(number) => number.as_i64(),
            Value::Text(text) => text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond),
            _ => None,
        };
        if time.is_none() {
            self.expected(node, "start", "a time such as 2025-01-31T12:00:00Z, or milliseconds since 1970");
        }
        time.unwrap_or_else(default_start)
    }

    fn zone(&mut self, node: &Node) -> TimeZone {
        let zone = node.text().and_then(|name| time::zone(Some(name)).ok());
        if zone.is_none() {
            self.expected(node, "timezone", "a time zone such as Europe/Berlin");
        }
        zone.unwrap_or(TimeZone::UTC)
    }
}

/// The longest wait, ms: clocks must stay within the calendar.
const MAX_WAIT: i64 = 10 * 365 * 86_400_000;

/// The start of a test that does not set one, ms since the epoch.
pub fn default_start() -> i64 {
    START.parse::<Timestamp>().map_or(0, Timestamp::as_millisecond)
}
