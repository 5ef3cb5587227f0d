//! A JSON or YAML file as a tree whose nodes know their place, so that errors can point at it.
//!
//! JSON is read as YAML: there is one parser. This module does not know what a file means.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value as Json};
use serde_saphyr::{Location, Spanned};

use crate::text::span::{self, Span};

/// A place in a file: line and column, both from 1; columns count characters. Both are 0 if the place is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub line: u64,
    pub column: u64,
    /// The same place as a byte offset.
    offset: usize,
}

impl Place {
    /// Byte offset in the text; past the end if the place is unknown.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

/// A value in a file, with its place.
#[derive(Clone, Debug)]
pub struct Node {
    pub value: Value,
    pub place: Place,
}

#[derive(Clone, Debug)]
pub enum Value {
    /// null, or an empty value.
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file.
    Map(Vec<Member>),
}

/// One member of an object.
#[derive(Clone, Debug)]
pub struct Member {
    pub key: String,
    /// The place of the key.
    pub place: Place,
    pub node: Node,
}

/// A parsed file.
#[derive(Clone, Debug)]
pub struct Document {
    /// The name in messages.
    pub name: String,
    pub text: String,
    pub root: Node,
    /// If the document is a text inside another document: that document, and the node with the text.
    outer: Option<(Arc<Document>, Box<Node>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    /// The file is usable, but perhaps not as intended.
    Warning,
}

/// A problem in a file, with what a user needs to fix it.
#[derive(Clone, Debug)]
pub struct Problem {
    pub severity: Severity,
    pub file: String,
    pub place: Option<Place>,
    /// What the problem is about: `rule r1`, `stream demo`; may be empty.
    pub subject: String,
    pub message: String,
    /// The place within a statement, if the problem is in one.
    pub in_sql: Option<InSql>,
    /// The SQL with carets under the place.
    pub excerpt: Option<String>,
    pub hint: Option<String>,
}

/// A place in a statement.
#[derive(Clone, Debug)]
pub struct InSql {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

/// `file:line:column: error: rule r1: message`, then the marked SQL and the hint, indented.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(place) = self.place.filter(|place| place.line > 0) {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        f.write_str(if self.severity == Severity::Error { ": error: " } else { ": warning: " })?;
        if !self.subject.is_empty() {
            write!(f, "{}: ", self.subject)?;
        }
        f.write_str(&self.message)?;
        for line in self.excerpt.iter().flat_map(|excerpt| excerpt.lines()) {
            write!(f, "\n    {line}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n    hint: {hint}")?;
        }
        Ok(())
    }
}

impl Problem {
    pub fn error(file: &str, place: Option<Place>, subject: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem {
            severity: Severity::Error,
            file: file.to_owned(),
            place,
            subject: subject.into(),
            message: message.into(),
            in_sql: None,
            excerpt: None,
            hint: None,
        }
    }

    pub fn warning(
        file: &str,
        place: Option<Place>,
        subject: impl Into<String>,
        message: impl Into<String>,
    ) -> Problem {
        Problem { severity: Severity::Warning, ..Problem::error(file, place, subject, message) }
    }

    pub fn with_hint(self, hint: Option<String>) -> Problem {
        Problem { hint, ..self }
    }
}

/// The greatest number of comment lines before a value.
const COMMENTS: usize = 10_000;

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    /// A [`Problem`] if the file cannot be read, or is neither JSON nor YAML.
    pub fn read(path: &Path) -> Result<Document, Box<Problem>> {
        let name = path.display().to_string();
        match std::fs::read(path) {
            Ok(bytes) => match String::from_utf8(bytes) {
                Ok(text) => Document::parse(&name, text),
                Err(error) => {
                    let at = error.utf8_error().valid_up_to();
                    Err(Box::new(Problem::error(&name, None, "", format!("the file is not UTF-8: byte {at} is wrong"))))
                }
            },
            Err(error) => Err(Box::new(Problem::error(&name, None, "", format!("cannot read the file: {error}")))),
        }
    }

    /// Parses a text; `name` is its name in messages.
    ///
    /// # Errors
    /// A [`Problem`] if the text is neither JSON nor YAML.
    pub fn parse(name: &str, text: String) -> Result<Document, Box<Problem>> {
        // The YAML parser would refuse a text without a value.
        if is_blank(&text) {
            let root = Node { value: Value::Null, place: Place { line: 1, column: 1, offset: 0 } };
            return Ok(Document { name: name.to_owned(), text, root, outer: None });
        }
        // A configuration file may be one long comment, and the parser counts each of its lines.
        let budget = serde_saphyr::budget! { max_buffered_comment_events: COMMENTS };
        let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false, budget: budget };
        match serde_saphyr::from_str_with_options::<Spanned<Value>>(&text, options) {
            Ok(root) => Ok(Document { name: name.to_owned(), root: root.into(), text, outer: None }),
            Err(error) => {
                let place = error.location().map(Place::from);
                let message = error.without_snippet().to_string();
                Err(Box::new(unreadable(name, place, message.lines().next().unwrap_or_default())))
            }
        }
    }

    /// Whether it has no value, only comments, or nothing at all.
    pub fn is_blank(&self) -> bool {
        is_blank(&self.text)
    }

    /// Wraps a value that was parsed elsewhere; its places are unknown.
    pub fn from_json(name: &str, json: &Json) -> Document {
        Document { name: name.to_owned(), text: String::new(), root: Node::from_json(json), outer: None }
    }

    /// Parses the text in `node` as a document of its own. Its places are places in this document.
    ///
    /// # Errors
    /// A [`Problem`] if the text is neither JSON nor YAML.
    pub fn nested(self: &Arc<Document>, node: &Node) -> Result<Document, Box<Problem>> {
        match Document::parse(&self.name, node.text().unwrap_or_default().to_owned()) {
            Ok(document) => Ok(Document { outer: Some((self.clone(), Box::new(node.clone()))), ..document }),
            Err(problem) => {
                let offset = problem.place.map_or(0, |place| place.offset);
                Err(Box::new(Problem { place: Some(self.place_in(node, offset)), ..*problem }))
            }
        }
    }

    /// The place of byte `offset` of the text in `node`. Text and source are compared step by step, since only the
    /// source has escapes, quotes, indentation and folded lines. If they do not match, the place of the node.
    pub fn place_in(&self, node: &Node, offset: usize) -> Place {
        let found = self.text.get(node.place.offset..).zip(node.text());
        match found.and_then(|(source, text)| source_offset(source, text, offset)) {
            Some(at) => {
                let offset = node.place.offset + at;
                let (line, column) = span::line_column(&self.text, offset);
                self.resolve(Place { line: line as u64, column: column as u64, offset })
            }
            None => self.resolve(node.place),
        }
    }

    /// An error at a place of this document.
    pub fn error(&self, place: Place, subject: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem::error(&self.name, Some(self.resolve(place)), subject, message)
    }

    /// A warning at a place of this document.
    pub fn warning(&self, place: Place, subject: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem::warning(&self.name, Some(self.resolve(place)), subject, message)
    }

    /// An error in the statement in `node`, with carets under the span; without a span, under the whole statement.
    pub fn sql_error(
        &self,
        node: &Node,
        subject: impl Into<String>,
        message: impl Into<String>,
        span: Option<Span>,
        hint: Option<String>,
    ) -> Problem {
        let sql = node.text().unwrap_or_default();
        let place = self.place_in(node, span.map_or(0, |span| span.start as usize));
        let in_sql = span.map(|span| {
            let (line, column) = span::line_column(sql, span.start as usize);
            InSql { line, column }
        });
        let span = span.unwrap_or(Span { start: 0, end: sql.trim_end().len() as u32 });
        Problem {
            place: Some(place),
            in_sql,
            excerpt: Some(span::mark(sql, span)),
            hint,
            ..self.error(node.place, subject, message)
        }
    }

    /// Converts a place in this document to one in the file.
    fn resolve(&self, place: Place) -> Place {
        match &self.outer {
            Some((document, node)) => document.place_in(node, place.offset),
            None => place,
        }
    }
}

/// Whether a text is an empty YAML document: only blank lines, comments and marks of its begin and end.
fn is_blank(text: &str) -> bool {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().map(str::trim).all(|line| matches!(line, "" | "---" | "...") || line.starts_with('#'))
}

/// The parser's message without the place, which is shown before it, and without hints for programmers.
fn unreadable(name: &str, place: Option<Place>, message: &str) -> Problem {
    let message = message.rsplit_once(" at line ").map_or(message, |(message, _)| message);
    if let Some((_, key)) = message.split_once("duplicate mapping key: ") {
        let key = key.split(", set DuplicateKeyPolicy").next().unwrap_or_default();
        let hint = Some("each name can occur only once in an object".to_owned());
        return Problem::error(name, place, "", format!("{key} occurs twice")).with_hint(hint);
    }
    let hint = [
        ("tabs disallowed", "YAML is indented with spaces"),
        (
            "mapping values are not allowed",
            "put a text with a colon and a blank, such as SQL, in quotes or in a block (sql: >-)",
        ),
        ("expected ',' or", "perhaps a comma is missing before this place"),
        ("expected '-' indicator", "entries of a list, and members of an object, begin in the same column"),
    ]
    .into_iter()
    .find_map(|(part, hint)| message.contains(part).then(|| hint.to_owned()));
    Problem::error(name, place, "", format!("the file is neither JSON nor YAML: {message}")).with_hint(hint)
}

impl Node {
    fn from_json(json: &Json) -> Node {
        let member = |(key, value): (&String, &Json)| Member {
            key: key.clone(),
            place: Place::default(),
            node: Node::from_json(value),
        };
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(flag) => Value::Bool(*flag),
            Json::Number(number) => Value::Number(number.clone()),
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(list) => Value::List(list.iter().map(Node::from_json).collect()),
            Json::Object(members) => Value::Map(members.iter().map(member).collect()),
        };
        Node { value, place: Place::default() }
    }

    /// The member with exactly this name.
    pub fn member(&self, key: &str) -> Option<&Member> {
        self.members().iter().find(|member| member.key == key)
    }

    /// The member with this name. An exact match comes first, then one that differs in case, as Go reads JSON. A null
    /// counts as absent.
    pub fn field(&self, name: &str) -> Option<&Node> {
        let loose = || self.members().iter().find(|member| member.key.eq_ignore_ascii_case(name));
        self.member(name).or_else(loose).map(|member| &member.node).filter(|node| !node.is_null())
    }

    /// The members; empty if this is not an object.
    pub fn members(&self) -> &[Member] {
        match &self.value {
            Value::Map(members) => members,
            _ => &[],
        }
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The kind, for messages: `a text`, `a list`.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }

    /// As JSON, without places.
    pub fn json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::Bool(*value),
            Value::Number(value) => Json::Number(value.clone()),
            Value::Text(value) => Json::String(value.clone()),
            Value::List(nodes) => Json::Array(nodes.iter().map(Node::json).collect()),
            Value::Map(_) => Json::Object(self.json_members()),
        }
    }

    /// The members as a JSON object; empty if this is not an object.
    pub fn json_members(&self) -> Map<String, Json> {
        self.members().iter().map(|member| (member.key.clone(), member.node.json())).collect()
    }
}

impl From<Spanned<Value>> for Node {
    fn from(spanned: Spanned<Value>) -> Node {
        Node { value: spanned.value, place: spanned.defined.into() }
    }
}

impl From<Location> for Place {
    fn from(at: Location) -> Place {
        let offset = at.span().byte_offset().map_or(usize::MAX, |offset| offset as usize);
        Place { line: at.line(), column: at.column(), offset }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        struct Tree;

        impl<'de> Visitor<'de> for Tree {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_none<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(Value::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(Value::Number(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(Value::Number(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(Number::from_f64(value).map_or_else(|| Value::Text(value.to_string()), Value::Number))
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(Value::Text(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Value, E> {
                Ok(Value::Text(value))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut nodes = Vec::new();
                while let Some(node) = list.next_element::<Spanned<Value>>()? {
                    nodes.push(node.into());
                }
                Ok(Value::List(nodes))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut members = Vec::new();
                while let Some((key, node)) = map.next_entry::<Spanned<String>, Spanned<Value>>()? {
                    members.push(Member { key: key.value, place: key.defined.into(), node: node.into() });
                }
                Ok(Value::Map(members))
            }
        }

        deserializer.deserialize_any(Tree)
    }
}

/// Finds byte `offset` of `text` in `source`, which begins with the notation of `text`: plain, quoted or block.
fn source_offset(source: &str, text: &str, offset: usize) -> Option<usize> {
    let quote = source.chars().next().filter(|c| matches!(c, '"' | '\''));
    let mut at = usize::from(quote.is_some());
    if source.starts_with(['|', '>']) {
        at = source.find('\n')? + 1;
    }
    for (index, c) in text.char_indices() {
        if c.is_whitespace() {
            if index >= offset {
                return Some(at);
            }
            // A blank may be a line break, indentation or an escape in the source: it is skipped together with the next
            // character.
            continue;
        }
        let mut found;
        loop {
            let rest = &source[at..];
            let first = rest.chars().next()?;
            found = match (quote, first) {
                (Some('"'), '\\') => escape(rest),
                (Some('\''), '\'') => rest.starts_with("''").then_some(('\'', 2)),
                _ => Some((first, first.len_utf8())),
            };
            match found {
                Some((blank, length)) if blank.is_whitespace() => at += length,
                _ => break,
            }
        }
        let (same, length) = found?;
        if same != c {
            return None;
        }
        if index >= offset {
            return Some(at);
        }
        at += length;
    }
    Some(at)
}

/// The character of an escape sequence in a double-quoted text, and the sequence's length. An escaped line break counts
/// as a blank.
fn escape(rest: &str) -> Option<(char, usize)> {
    let kind = rest.chars().nth(1)?;
    let hex = |digits: usize| -> Option<(char, usize)> {
        let code = u32::from_str_radix(rest.get(2..2 + digits)?, 16).ok()?;
        if (0xd800..0xdc00).contains(&code) {
            let low = u32::from_str_radix(rest.get(8..12)?, 16).ok()?;
            let pair = 0x10000 + ((code - 0xd800) << 10) + low.checked_sub(0xdc00)?;
            return Some((char::from_u32(pair)?, 12));
        }
        Some((char::from_u32(code)?, 2 + digits))
    };
    match kind {
        'x' => hex(2),
        'u' => hex(4),
        'U' => hex(8),
        'n' | 'r' | 't' | '\n' | '\r' | 'f' | 'v' | '_' | 'N' | 'L' | 'P' => Some((' ', 1 + kind.len_utf8())),
        other => Some((other, 1 + other.len_utf8())),
    }
}

#[cfg(test)]
mod tests;
