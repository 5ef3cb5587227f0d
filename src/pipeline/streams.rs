//! Reads the members `streams` and `tables` of rule files: CREATE statements.

use std::sync::Arc;

use super::{Loader, diagnose};
use crate::definition::name::LongName;
use crate::definition::stream::StreamDef;
use crate::sql::{self, ast::Relation, ast::StreamOption};
use crate::text::document::{Document, Member, Node, Problem, Value};

/// A stream with its statement's place.
pub(super) struct Stream {
    pub(super) def: Arc<StreamDef>,
    pub(super) document: Arc<Document>,
    pub(super) statement: Node,
    pub(super) options: Vec<StreamOption>,
    /// Why its source cannot be used.
    pub(super) faults: Vec<Problem>,
    pub(super) used: bool,
}

impl Loader {
    pub(super) fn read_streams(&mut self, document: &Arc<Document>) {
        let root = &document.root;
        // The statement decides whether it makes a stream or a table, not the member.
        for section in ["streams", "tables"] {
            if let Some(statements) = root.field(section) {
                self.read_statements(document, section, statements);
            }
        }
    }

    fn read_statements(&mut self, document: &Arc<Document>, section: &str, streams: &Node) {
        match &streams.value {
            Value::Text(_) => self.read_stream(document, None, streams),
            Value::List(nodes) => {
                for node in nodes {
                    self.read_stream(document, None, node);
                }
            }
            Value::Map(members) => {
                for member in members {
                    self.read_stream(document, Some(member), &member.node);
                }
            }
            _ => {
                let statement = if section == "tables" { "CREATE TABLE" } else { "CREATE STREAM" };
                let message = format!("{section} is {}, expected a list of {statement} statements", streams.kind());
                self.problems.push(document.error(streams.place, "", message));
            }
        }
    }

    fn read_stream(&mut self, document: &Arc<Document>, key: Option<&Member>, node: &Node) {
        let subject = key.map_or_else(|| "stream".to_owned(), |member| format!("stream {}", member.key));
        let statement = match &node.value {
            Value::Text(_) => Some(node),
            _ => node.field("sql").filter(|sql| sql.text().is_some()),
        };
        let Some(statement) = statement else {
            let message = format!("a stream is a CREATE STREAM statement, this is {}", node.kind());
            let is_statement = |key: &str| key.trim_start().to_ascii_uppercase().starts_with("CREATE ");
            let hint = node.members().first().filter(|member| is_statement(&member.key)).map(|_| {
                "a colon and a blank within the statement make it an object of YAML: put it in quotes or in a block (>-)"
            });
            let problem = document.error(node.place, subject, message);
            self.problems.push(problem.with_hint(hint.map(str::to_owned)));
            return;
        };
        let sql = statement.text().unwrap_or_default();
        let create = match sql::parse_create(sql) {
            Ok(create) => create,
            Err(error) => {
                // The error may be far behind the name; rules that read the stream need no error of their own.
                self.broken.extend(key.map(|member| member.key.clone()));
                self.broken.extend(named(sql));
                let subject = key.map_or_else(
                    || named(sql).map_or(subject.clone(), |name| format!("stream {name}")),
                    |_| subject.clone(),
                );
                diagnose::of_create(document, statement, &subject, &error, &mut self.problems);
                return;
            }
        };
        let name = create.name.name.to_string();
        if let Err(error) = LongName::check(&name) {
            let span = Some(create.name.span);
            let subject = subject_of(create.relation, "").trim_end().to_owned();
            self.problems.push(document.sql_error(statement, &subject, error.to_string(), span, None));
            self.broken.insert(name);
            return;
        }
        let subject = subject_of(create.relation, &name);
        if let Some(key) = key.filter(|member| member.key != name) {
            let message = format!("is listed under the name {}; the name in the statement is used", key.key);
            self.problems.push(document.warning(key.place, &subject, message));
        }
        match self.catalog.create(&create) {
            Ok(def) => {
                let stream = Stream {
                    def,
                    document: document.clone(),
                    statement: statement.clone(),
                    options: create.options,
                    faults: Vec::new(),
                    used: false,
                };
                self.streams.insert(name, stream);
            }
            Err(errors) => {
                self.broken.insert(name);
                diagnose::of_definition(document, statement, &subject, &errors, &mut self.problems);
            }
        }
    }
}

pub(super) fn subject_of(relation: Relation, name: &str) -> String {
    match relation {
        Relation::Stream => format!("stream {name}"),
        Relation::Table => format!("table {name}"),
    }
}

/// The name in a statement that cannot be parsed: the word after CREATE STREAM.
fn named(sql: &str) -> Option<String> {
    let mut words = sql.split_whitespace();
    words.next()?;
    words.next()?;
    let name: String = words.next()?.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-')).collect();
    Some(name).filter(|name| !name.is_empty())
}
