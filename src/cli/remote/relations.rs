//! The verbs for streams and tables.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::client::escaped;
use super::{Reply, Request, indented, refused};
use crate::cli::Failure;
use crate::sql;

impl Request<'_> {
    pub(super) fn create_relation(&self, object: &str, rest: &[String]) -> Reply {
        let mut output = String::new();
        let definition = match &self.options.file {
            Some(file) => {
                let _ = writeln!(output, "Creating a new {object} from file {file}.");
                let text = std::fs::read_to_string(file)
                    .map_err(|_| refused(format!("The specified {object} defenition file {file} is not existed.")))?;
                // A file may contain the complete statement.
                let words: Vec<String> = text.split_whitespace().take(2).map(str::to_uppercase).collect();
                if words == ["CREATE", &object.to_uppercase()] { text } else { statement("CREATE", object, &[text]) }
            }
            None => statement("CREATE", object, rest),
        };
        let answer = self.service.post(&format!("/{object}s"), &json!({ "sql": definition }).to_string())?;
        if !answer.is_right() {
            let message = answer.message().replacen("Table command error", "Stream command error", 1);
            return Err(refused(answer.explained(output + &message)));
        }
        self.message(output + answer.body.trim_end())
    }

    /// The name in a statement such as `DROP STREAM name`, which may be split over arguments.
    pub(super) fn named(&self, verb: &str, object: &str, rest: &[String]) -> Result<String, Failure> {
        if rest.is_empty() {
            return Err(refused(format!("Stream command error: found \"EOF\", expected {object} name.")));
        }
        match sql::parse_statement(&statement(verb, object, rest)) {
            Ok(sql::ast::Statement::Drop(_, name) | sql::ast::Statement::Describe(_, name)) => {
                Ok(name.name.to_string())
            }
            Ok(_) => Err(refused("Stream command error: a name is expected.")),
            Err(error) => Err(refused(format!("Stream command error: {error}"))),
        }
    }

    pub(super) fn drop_relation(&self, object: &str, rest: &[String]) -> Reply {
        let name = self.named("DROP", object, rest)?;
        let answer = self.service.delete(&format!("/{object}s/{}{}", escaped(&name), self.forced()))?;
        if answer.is_right() {
            return self.message(format!("{} {name} is dropped.", capital(object)));
        }
        let message = answer.message();
        let why = message.split_once("error: ").map_or(message.as_str(), |(_, why)| why);
        Err(refused(format!("Stream command error: Drop {object} fails: {why}.")))
    }

    pub(super) fn describe_relation(&self, object: &str, rest: &[String]) -> Reply {
        let name = self.named("DESCRIBE", object, rest)?;
        let answer = self.service.get(&format!("/{object}s/{}", escaped(&name)))?;
        if !answer.is_right() {
            let message = answer.message();
            let why = message.split_once("error: ").map_or(message.as_str(), |(_, why)| why);
            return Err(refused(format!("Stream command error: {why}")));
        }
        let definition = answer.parsed()?;
        if self.json { indented(&definition) } else { Ok(described(&definition)) }
    }

    pub(super) fn show_relations(&self, objects: &str, rest: &[String]) -> Reply {
        if let Some(more) = rest.first() {
            return Err(refused(format!("Stream command error: found \"{more}\", expected semecolon or EOF.")));
        }
        let answer = self.service.get(&format!("/{objects}"))?;
        if !answer.is_right() || self.json {
            return self.shown(answer);
        }
        let names = answer.parsed()?;
        let names: Vec<&str> = names.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if names.is_empty() {
            let object = objects.trim_end_matches('s');
            return Ok(format!("No {object} definitions are found."));
        }
        Ok(names.join("\n"))
    }
}

/// The statement `CREATE STREAM …`, from arguments that the shell may have split anywhere.
fn statement(verb: &str, object: &str, rest: &[String]) -> String {
    let mut statement = format!("{verb} {}", object.to_uppercase());
    for part in rest {
        statement.push(' ');
        statement.push_str(part);
    }
    statement
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// A readable description of a stream or table: its columns, then its options.
fn described(definition: &Value) -> String {
    let mut text = format!("Fields\n{}\n", "-".repeat(80));
    for field in definition.get("StreamFields").and_then(Value::as_array).into_iter().flatten() {
        let name = field.get("Name").and_then(Value::as_str).unwrap_or_default();
        let _ = writeln!(text, "{name}\t{}", type_text(field.get("FieldType").unwrap_or(&Value::Null)));
    }
    let mut options: Vec<(String, String)> = Vec::new();
    for (name, value) in definition.get("Options").and_then(Value::as_object).into_iter().flatten() {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        options.push((option_name(name), value));
    }
    options.sort_by_key(|(name, _)| ORDER.iter().position(|known| known == name).unwrap_or(ORDER.len()));
    for (name, value) in options {
        let _ = write!(text, "\n{name}: {value}");
    }
    text
}

/// The order in which options are described.
const ORDER: &[&str] = &[
    "DATASOURCE",
    "FORMAT",
    "SCHEMAID",
    "KEY",
    "CONF_KEY",
    "SHARED",
    "STRICT_VALIDATION",
    "TYPE",
    "TIMESTAMP",
    "TIMESTAMP_FORMAT",
    "RETAIN_SIZE",
    "KIND",
    "DELIMITER",
    "JSON_ARRAY",
    "ON_MISMATCH",
    "FRAMING",
    "EVENT_CLOCK",
];

/// `confKey` in the spelling of statements.
fn option_name(name: &str) -> String {
    let written = name.to_uppercase();
    let known = ORDER.iter().find(|known| known.replace('_', "") == written.replace('_', ""));
    known.map_or(written, |known| (*known).to_owned())
}

fn type_text(of: &Value) -> String {
    let named = |key: &str| of.get(key).and_then(Value::as_str);
    match (of, named("Type")) {
        (Value::String(name), _) => name.clone(),
        (_, Some("array")) => format!("array({})", type_text(of.get("ElementType").unwrap_or(&Value::Null))),
        (_, Some("struct")) => {
            let field = |field: &Value| {
                let name = field.get("Name").and_then(Value::as_str).unwrap_or_default();
                format!("{name} {}", type_text(field.get("FieldType").unwrap_or(&Value::Null)))
            };
            let fields = of.get("Fields").and_then(Value::as_array).into_iter().flatten();
            format!("struct({})", fields.map(field).collect::<Vec<_>>().join(", "))
        }
        (other, _) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_may_be_split_over_arguments() {
        let args = ["demo", "()", "WITH", "(TYPE=\"websocket\")"].map(str::to_owned);
        assert_eq!(statement("CREATE", "stream", &args), "CREATE STREAM demo () WITH (TYPE=\"websocket\")");
    }
}
