//! Rules as users write them: JSON of eKuiper's form, made into typed rules once.
//!
//! Every mistake is told with its place. SQL is only text here, and sinks are only kinds with properties.

mod options;

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::format::compress::Method;
use crate::format::sink_format::{OutputFormat, SinkFormat};
use crate::format::template::Template;
use crate::text::document::{Document, Node, Place, Problem, Value};
use crate::text::suggest;
use crate::value::Text;

pub use self::options::RuleOptions;

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// its id
    pub id: String,
    /// a name for people; empty if not given
    pub name: String,
    /// its SQL
    pub sql: String,
    /// where its results go
    pub actions: Vec<Action>,
    /// its options
    pub options: RuleOptions,
    /// whether it starts by itself
    pub triggered: bool,
}

/// One sink of a rule.
#[derive(Clone, Debug)]
pub struct Action {
    /// kind of the sink
    pub kind: String,
    /// the properties that its connector reads, as written
    pub props: Map<String, Json>,
    /// all of its properties
    pub written: Map<String, Json>,
    /// where it stands in its document
    pub place: Place,
    /// what its messages are like
    pub shape: SinkFormat,
}

/// The members of a rule.
const MEMBERS: &[&str] =
    &["id", "name", "sql", "actions", "options", "triggered", "version", "tags", "temp", "graph", "description"];

/// The rows that a sink gathers at most for one message: they wait in memory.
const MAX_BATCH: u64 = 1_000_000;

/// Properties of every sink that would change its messages, and that are not there yet. They are refused, since
/// without them the messages would silently be others.
const MISSING_PROPERTIES: &[&str] = &["schemaId", "encryption"];

/// Properties of every sink that tune eKuiper's engine.
const FOREIGN_PROPERTIES: &[&str] = &[
    "encProps",
    "concurrency",
    "bufferLength",
    "enableCache",
    "memoryCacheThreshold",
    "maxDiskCache",
    "bufferPageSize",
    "resendInterval",
    "cleanCacheAtStop",
    "resendAlterQueue",
    "resendPriority",
    "resendIndicatorField",
    "resendDestination",
    "retryInterval",
    "retryCount",
    "runAsync",
];

/// What a property is that only eKuiper's engine has.
#[derive(Clone, Copy)]
enum Foreign {
    Number,
    /// a number that is not negative
    Size,
    /// ms or a duration
    Time,
    Flag,
    Text,
}

/// The kinds of [`FOREIGN_PROPERTIES`], where they have one.
const FOREIGN_KINDS: [(&str, Foreign); 11] = [
    ("concurrency", Foreign::Number),
    ("bufferLength", Foreign::Size),
    ("enableCache", Foreign::Flag),
    ("memoryCacheThreshold", Foreign::Size),
    ("maxDiskCache", Foreign::Size),
    ("bufferPageSize", Foreign::Size),
    ("resendInterval", Foreign::Time),
    ("cleanCacheAtStop", Foreign::Flag),
    ("resendAlterQueue", Foreign::Flag),
    ("resendPriority", Foreign::Number),
    ("resendIndicatorField", Foreign::Text),
];

/// Reads the rule in `node`. `key` is its id where the rules are members of an object; `defaults` are the options that
/// it does not set. What is wrong goes to `problems`; `None` if it is no rule
/// at all. What is missing or wrong is left empty, so that the rest can be checked too.
pub fn parse(
    document: &Document,
    node: &Node,
    key: Option<&str>,
    defaults: &RuleOptions,
    problems: &mut Vec<Problem>,
) -> Option<Rule> {
    let subject = key.map_or_else(|| "rule".to_owned(), |key| format!("rule {key}"));
    let mut reader = Reader { document, subject, problems };
    let Value::Map(members) = &node.value else {
        reader.error(
            node.place,
            format!("a rule is an object with id, sql and actions, this is {}", node.kind()),
            None,
        );
        return None;
    };
    let id = match field(node, "id") {
        Some(id) => reader.text(id, "id"),
        None => key.map(str::to_owned),
    };
    match (&id, key) {
        (Some(id), Some(key)) if id != key => {
            reader.error(node.place, format!("RuleId is not consistent with rule id: the rule says {id:?}"), None);
        }
        _ if id.as_ref().map_or(field(node, "id").is_none(), String::is_empty) => {
            let hint = "give the rule a name of its own: \"id\": \"rule1\"";
            reader.error(node.place, "Missing rule id.", Some(hint.to_owned()));
        }
        _ => {}
    }
    if let (Some(id), None) = (&id, key)
        && !id.is_empty()
    {
        reader.subject = format!("rule {id}");
    }
    for member in members {
        if !MEMBERS.iter().any(|known| known.eq_ignore_ascii_case(&member.key)) {
            let hint = meant(&member.key, MEMBERS);
            reader.warning(member.place, format!("unknown member {} is ignored", member.key), hint);
        }
    }
    if let Some(graph) = field(node, "graph").filter(|graph| !graph.members().is_empty()) {
        let hint = Some("say it in SQL".to_owned());
        reader.error(graph.place, "rules as graphs are not supported yet", hint);
    }
    let sql = match field(node, "sql") {
        Some(sql) => reader.text(sql, "sql").filter(|sql| {
            let empty = sql.trim().is_empty();
            if empty {
                reader.error(node.place, "the rule's sql is empty", None);
            }
            !empty
        }),
        None => {
            reader.error(node.place, "the rule has no sql", None);
            None
        }
    };
    let name = field(node, "name").and_then(|name| reader.text(name, "name")).unwrap_or_default();
    let triggered = field(node, "triggered").and_then(|node| reader.flag(node, "triggered")).unwrap_or(true);
    let actions = reader.actions(node);
    let mut options = match field(node, "options") {
        Some(node) => reader.options(node, defaults),
        None => defaults.clone(),
    };
    options.temporary = field(node, "temp").and_then(|node| reader.flag(node, "temp")).unwrap_or(false);
    let (id, sql) = (id.unwrap_or_default(), sql.unwrap_or_default());
    Some(Rule { id, name, sql, actions, options, triggered })
}

/// Reads options, of a rule or of the configuration's `rule` section. What is wrong goes to `problems`.
pub fn parse_options(
    document: &Document,
    node: &Node,
    subject: &str,
    defaults: &RuleOptions,
    problems: &mut Vec<Problem>,
) -> RuleOptions {
    Reader { document, subject: subject.to_owned(), problems }.options(node, defaults)
}

/// The member of this name in whatever case, as Go reads JSON; the exact name comes first.
pub fn field<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    let loose = || node.members().iter().find(|member| member.key.eq_ignore_ascii_case(name));
    node.member(name).or_else(loose).map(|member| &member.node).filter(|node| !node.is_null())
}

/// A hint with the name that was probably meant.
pub fn meant(written: &str, names: &[&str]) -> Option<String> {
    suggest::did_you_mean(written, names.iter().copied())
}

/// A number of bytes: a number, or a text with a unit.
pub fn bytes(node: &Node) -> Option<u64> {
    let text = match &node.value {
        Value::Number(number) => return number.as_u64(),
        Value::Text(text) => text.trim(),
        _ => return None,
    };
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" | "k" | "kb" => 1 << 10,
        "mib" | "m" | "mb" => 1 << 20,
        "gib" | "g" | "gb" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// Milliseconds of a number or of a text such as `5s`, `1m30s`, `100ms`.
pub fn milliseconds(node: &Node) -> Option<i64> {
    match &node.value {
        Value::Number(number) => number.as_i64(),
        Value::Text(text) => duration_ms(text),
        _ => None,
    }
}

/// A number of ms, or a duration such as `1m30s`.
pub fn duration_ms(text: &str) -> Option<i64> {
    let mut rest = text.trim();
    if let Ok(number) = rest.parse() {
        return Some(number);
    }
    if rest.is_empty() {
        return None;
    }
    let mut sum = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let letters = unit.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(unit.len());
        sum += number
            * match &unit[..letters] {
                "ns" => 1e-6,
                "us" | "µs" => 1e-3,
                "ms" => 1.0,
                "s" => 1e3,
                "m" => 60e3,
                "h" => 3_600e3,
                _ => return None,
            };
        rest = &unit[letters..];
    }
    (sum < i64::MAX as f64).then_some(sum as i64)
}

/// Reads one rule and notes what is wrong.
struct Reader<'a> {
    document: &'a Document,
    subject: String,
    problems: &'a mut Vec<Problem>,
}

impl Reader<'_> {
    fn error(&mut self, place: Place, message: impl Into<String>, hint: Option<String>) {
        self.problems.push(self.document.error(place, &self.subject, message).with_hint(hint));
    }

    fn warning(&mut self, place: Place, message: impl Into<String>, hint: Option<String>) {
        self.problems.push(self.document.warning(place, &self.subject, message).with_hint(hint));
    }

    fn expected(&mut self, node: &Node, name: &str, expected: &str) {
        let mut is = node.json().to_string();
        if is.len() > 60 {
            is = node.kind().to_owned();
        }
        self.error(node.place, format!("{name} is {is}, expected {expected}"), None);
    }

    fn text(&mut self, node: &Node, name: &str) -> Option<String> {
        match &node.value {
            Value::Text(text) => Some(text.clone()),
            // YAML reads an id such as 1 as a number; it is meant as text.
            Value::Number(number) if name != "sql" => Some(number.to_string()),
            _ => {
                self.expected(node, name, "a text");
                None
            }
        }
    }

    fn flag(&mut self, node: &Node, name: &str) -> Option<bool> {
        match &node.value {
            Value::Bool(value) => Some(*value),
            Value::Text(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::Text(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => {
                self.expected(node, name, "true or false");
                None
            }
        }
    }

    fn actions(&mut self, rule: &Node) -> Vec<Action> {
        let hint = || Some("give it at least one sink: \"actions\": [{\"log\": {}}]".to_owned());
        let node = match field(rule, "actions") {
            Some(node) => node,
            None => {
                self.error(rule.place, "Missing rule actions.", hint());
                return Vec::new();
            }
        };
        let entries = match &node.value {
            Value::List(entries) if !entries.is_empty() => entries,
            Value::List(_) => {
                self.error(node.place, "Missing rule actions.", hint());
                return Vec::new();
            }
            _ => {
                self.expected(node, "actions", "a list of sinks such as [{\"log\": {}}]");
                return Vec::new();
            }
        };
        let mut actions = Vec::new();
        for entry in entries {
            if entry.members().is_empty() {
                self.expected(entry, "an action", "an object with the sink's name, such as {\"log\": {}}");
            }
            let before = self.problems.len();
            for member in entry.members() {
                let kind = &member.key;
                match &member.node.value {
                    Value::Map(_) | Value::Null => actions.push(self.action(kind, member.place, &member.node)),
                    _ => self.expected(&member.node, &format!("sink {kind}"), "an object with its properties"),
                }
            }
            self.problems[before..].iter_mut().for_each(|problem| problem.of_sink = true);
        }
        actions
    }

    fn action(&mut self, kind: &str, place: Place, node: &Node) -> Action {
        let mut action = Action {
            kind: kind.to_owned(),
            props: Map::new(),
            written: node.json_members(),
            place,
            shape: SinkFormat::default(),
        };
        let shape = &mut action.shape;
        let (mut format, mut delimiter, mut header) = (None, Text::const_new(","), false);
        for member in node.members() {
            let is = |name: &str| name.eq_ignore_ascii_case(&member.key);
            let one_of = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(&member.key));
            let (node, name) = (&member.node, format!("sink {kind}: {}", member.key));
            if is("sendSingle") {
                shape.send_single = self.flag(node, &name).unwrap_or_default();
            } else if is("omitIfEmpty") {
                shape.omit_if_empty = self.flag(node, &name).unwrap_or_default();
            } else if is("dataTemplate") {
                shape.template = self.template(node, &name);
            } else if is("to") {
                shape.to = self.template(node, &name);
            } else if is("dataField") {
                shape.data_field = self.optional_text(node, &name).filter(|field| !field.is_empty());
            } else if is("fields") {
                shape.fields = self.names(node, &name);
            } else if is("excludeFields") {
                shape.excluded = self.names(node, &name);
            } else if is("format") {
                format = self
                    .optional_text(node, &name)
                    .filter(|format| !format.is_empty())
                    .map(|format| (format, node.place));
            } else if is("delimiter") {
                delimiter = self.optional_text(node, &name).filter(|text| !text.is_empty()).unwrap_or(delimiter);
            } else if is("hasHeader") {
                header = self.flag(node, &name).unwrap_or_default();
            } else if is("batchSize") {
                shape.batch_size = self.batch_size(node, &name);
            } else if is("lingerInterval") {
                match milliseconds(node).filter(|linger| *linger >= 0) {
                    Some(linger) => shape.linger = linger,
                    None => self.expected(node, &name, "milliseconds, or a duration such as \"500ms\""),
                }
            } else if is("compression") {
                let Some(method) = self.optional_text(node, &name).filter(|method| !method.is_empty()) else {
                    continue;
                };
                shape.compression = Method::of(&method);
                if shape.compression.is_none() {
                    let message = format!("get compressor {method} fail with error: unsupported compressor: {method}");
                    self.error(node.place, message, Some("there are gzip, zlib, flate and zstd".to_owned()));
                }
            } else if one_of(MISSING_PROPERTIES) {
                if !unset(node) {
                    let message = format!("sink {kind}: property {} is not supported yet", member.key);
                    self.error(member.place, message, None);
                }
            } else if one_of(FOREIGN_PROPERTIES) {
                self.foreign(node, &member.key, &name);
            } else {
                action.props.insert(member.key.clone(), node.json());
            }
        }
        if shape.to.is_some() && shape.gathers() {
            let message = format!("sink {kind}: to gives each row a message of its own, so that there are no batches");
            self.error(place, message, Some("leave out batchSize and lingerInterval".to_owned()));
        }
        if !shape.fields.is_empty() && !shape.excluded.is_empty() {
            self.error(place, "field and excludeFields cannot both be set".to_owned(), None);
        }
        if let Some((format, place)) = format {
            match format.to_ascii_lowercase().as_str() {
                "json" => {}
                "delimited" => shape.format = OutputFormat::Delimited { delimiter, header },
                "urlencoded" => shape.format = OutputFormat::UrlEncoded,
                "binary" => shape.format = OutputFormat::Binary,
                _ => {
                    let hint = Some("there are json, delimited, urlencoded and binary".to_owned());
                    self.error(place, format!("format type {format} not supported"), hint);
                }
            }
        }
        action
    }

    /// A property that does nothing here: what eKuiper would refuse is a mistake all the same.
    fn foreign(&mut self, node: &Node, key: &str, name: &str) {
        let Some((_, kind)) = FOREIGN_KINDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(key)) else { return };
        let (fits, expected) = match (kind, &node.value) {
            (_, Value::Null) => return,
            (Foreign::Number, value) => (matches!(value, Value::Number(_)), "a number"),
            (Foreign::Size, Value::Number(size)) => (size.as_f64().is_some_and(|size| size >= 0.0), "0 or more"),
            (Foreign::Size, _) => (false, "a number"),
            (Foreign::Time, _) => (milliseconds(node).is_some(), "milliseconds, or a duration such as \"500ms\""),
            (Foreign::Flag, value) => (matches!(value, Value::Bool(_)), "true or false"),
            (Foreign::Text, value) => (matches!(value, Value::Text(_)), "a text"),
        };
        if !fits {
            self.expected(node, name, expected);
        }
    }

    /// A text, or none where the property is not set. Unlike an id, it is not meant where a number stands.
    fn optional_text(&mut self, node: &Node, name: &str) -> Option<Text> {
        match &node.value {
            Value::Null => None,
            Value::Text(text) => Some(text.into()),
            _ => {
                self.expected(node, name, "a text");
                None
            }
        }
    }

    fn template(&mut self, node: &Node, name: &str) -> Option<(Text, Arc<Template>)> {
        let text = self.optional_text(node, name).filter(|text| !text.is_empty())?;
        match Template::new(&text) {
            Ok(template) => Some((text, Arc::new(template))),
            Err(error) => {
                self.error(node.place, error.to_string(), None);
                None
            }
        }
    }

    /// A list of names.
    fn names(&mut self, node: &Node, name: &str) -> Vec<Text> {
        match &node.value {
            Value::Null => Vec::new(),
            Value::List(names) => names.iter().filter_map(|each| self.optional_text(each, name)).collect(),
            _ => {
                self.expected(node, name, "a list of names, such as [\"id\"]");
                Vec::new()
            }
        }
    }

    fn batch_size(&mut self, node: &Node, name: &str) -> usize {
        match &node.value {
            Value::Number(number) if number.as_i64().is_some_and(|size| size < 0) => {
                let message = format!("fail to parse sink configuration: invalid batchSize {number}");
                self.error(node.place, message, None);
                0
            }
            Value::Number(number) if number.as_u64().is_some_and(|size| size <= MAX_BATCH) => {
                number.as_u64().unwrap_or(0) as usize
            }
            _ => {
                self.expected(node, name, "a number of rows, at most 1000000");
                0
            }
        }
    }
}

/// Whether a property's value is as good as none.
fn unset(node: &Node) -> bool {
    match &node.value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Text(text) => text.is_empty(),
        Value::List(nodes) => nodes.is_empty(),
        Value::Map(members) => members.is_empty(),
        Value::Bool(true) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Option<Rule>, Vec<String>) {
        let document = Document::parse("r.json", text.to_owned()).unwrap();
        let mut problems = Vec::new();
        let rule = parse(&document, &document.root, None, &RuleOptions::default(), &mut problems);
        (rule, problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn a_whole_rule() {
        let (rule, problems) = read(
            r#"{"id": "r1", "Name": "n", "sql": "SELECT * FROM demo", "triggered": false,
                "actions": [{"log": {}}, {"websocket": {"path": "/x", "sendSingle": true, "omitIfEmpty": true,
                    "format": "json", "bufferLength": 10, "dataTemplate": ""}}, {"nop": null}],
                "options": {"isEventTime": true, "lateTolerance": "1m30s", "sendNilField": true, "sendError": "true",
                    "bufferLength": 1024, "qos": 0}}"#,
        );
        assert_eq!(problems, Vec::<String>::new());
        let rule = rule.unwrap();
        assert_eq!((rule.id.as_str(), rule.name.as_str(), rule.triggered), ("r1", "n", false));
        let actions: Vec<_> = rule
            .actions
            .iter()
            .map(|a| (a.kind.as_str(), a.props.len(), a.shape.send_single, a.shape.omit_if_empty))
            .collect();
        assert_eq!(actions, [("log", 0, false, false), ("websocket", 1, true, true), ("nop", 0, false, false)]);
        let options = rule.options;
        assert_eq!(
            (options.event_time, options.late_tolerance, options.send_nil, options.send_error),
            (true, 90_000, true, true)
        );
    }

    #[test]
    fn each_mistake_is_told() {
        let cases = [
            (r#"[1]"#, "r.json:1:1: error: rule: a rule is an object"),
            (r#"{"sql": "s", "actions": [{"log": {}}]}"#, "error: rule: Missing rule id."),
            (r#"{"id": "", "sql": "s", "actions": [{"log": {}}]}"#, "error: rule: Missing rule id."),
            (r#"{"id": "r", "actions": [{"log": {}}]}"#, "error: rule r: the rule has no sql"),
            (r#"{"id": "r", "sql": "s"}"#, "error: rule r: Missing rule actions."),
            (r#"{"id": "r", "sql": "s", "actions": []}"#, "error: rule r: Missing rule actions."),
            (r#"{"id": "r", "sql": 5, "actions": [{"log": {}}]}"#, "sql is 5, expected a text"),
            (r#"{"id": "r", "sql": "s", "actions": {"log": {}}}"#, "expected a list of sinks"),
            (r#"{"id": "r", "sql": "s", "actions": [{"log": 5}]}"#, "sink log is 5, expected an object"),
            (
                r#"{"id": "r", "sql": "s", "actions": [{"log": {"dataTemplate": "{{nosuch .}}"}}]}"#,
                "error: rule r: template: sink:1: function \"nosuch\" not defined",
            ),
            (
                r#"{"id": "r", "sql": "s", "actions": [{"log": {"fields": ["a"], "excludeFields": ["b"]}}]}"#,
                "field and excludeFields cannot both be set",
            ),
            (r#"{"id": "r", "sql": "s", "actions": [{"log": {"fields": "a"}}]}"#, "expected a list of names"),
            (r#"{"id": "r", "sql": "s", "actions": [{"log": {"batchSize": -1}}]}"#, "invalid batchSize -1"),
            (r#"{"id": "r", "sql": "s", "actions": [{"log": {"compression": "rar"}}]}"#, "unsupported compressor: rar"),
            (
                r#"{"id": "r", "sql": "s", "actions": [{"log": {"dataTemplate": 5}}]}"#,
                "sink log: dataTemplate is 5, expected a text",
            ),
            (r#"{"id": "r", "sql": "s", "actions": [{"log": {"batchSize": "x"}}]}"#, "expected a number of rows"),
            (r#"{"id": "r", "sql": "s", "actions": [{"log": {"lingerInterval": "x"}}]}"#, "expected milliseconds"),
            (
                r#"{"id": "r", "sql": "s", "actions": [{"log": {"format": "protobuf"}}]}"#,
                "format type protobuf not supported",
            ),
            (
                r#"{"id": "r", "sql": "s", "actions": [{"log": {"sendSingle": 1}}]}"#,
                "sink log: sendSingle is 1, expected true or false",
            ),
            (
                r#"{"id": "r", "sql": "s", "actions": [{"log": {}}], "options": {"lateTolerance": "soon"}}"#,
                "option lateTolerance is \"soon\", expected milliseconds",
            ),
            (
                r#"{"id": "r", "sql": "s", "actions": [{"log": {}}], "options": {"lateTolerence": 1}}"#,
                "warning: rule r: unknown option lateTolerence is ignored\n    hint: did you mean lateTolerance?",
            ),
            (
                r#"{"id": "r", "sql": "s", "actions": [{"log": {}}], "options": {"cron": "* * * * *"}}"#,
                "cron needs a duration",
            ),
            (
                r#"{"id": "r", "sql": "s", "actions": [{"log": {}}], "options": {"qos": 3}}"#,
                "option qos is 3, expected 0, 1 or 2",
            ),
            (
                r#"{"id": "r", "sql": "s", "actions": [{"log": {}}], "options": {"checkpointInterval": 0}}"#,
                "option checkpointInterval is 0, expected milliseconds",
            ),
            (r#"{"id": "r", "sql": "s", "actions": [{"log": {}}], "acts": 1}"#, "unknown member acts is ignored"),
        ];
        for (text, expected) in cases {
            let (_, problems) = read(text);
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert!(problems[0].contains(expected), "{text}: {}", problems[0]);
        }
    }

    #[test]
    fn durations() {
        let ms = |text: &str| milliseconds(&Document::parse("t", text.to_owned()).unwrap().root);
        assert_eq!(ms("1500"), Some(1500));
        assert_eq!(ms("\"1500\""), Some(1500));
        assert_eq!(ms("1.5s"), Some(1500));
        assert_eq!(ms("1h1m1s1ms"), Some(3_661_001));
        assert_eq!(ms("1x"), None);
        assert_eq!(ms("s"), None);
        assert_eq!(ms("\"\""), None);
        assert_eq!(ms("[]"), None);
        assert_eq!(ms("-5"), Some(-5));
        assert_eq!(ms("99999999999999999999h"), None);
    }
}
