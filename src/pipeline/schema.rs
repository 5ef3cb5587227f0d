//! The JSON Schema of rule files: `plutino schema rules`. Options and properties come from their tables.

use serde_json::{Map, Value as Json, json};

use crate::definition::rule;
use crate::io::connector;
use crate::property::{Place, schema};

pub fn rules() -> Json {
    let text_or = |schema: Json| json!({"anyOf": [{"type": "string"}, schema]});
    let statement = text_or(json!({
        "type": "object", "properties": {"sql": {"type": "string"}}, "required": ["sql"]
    }));
    let statements = |what: &str| {
        json!({
            "description": format!("{what} statements: one, a list, or an object of them by name"),
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"$ref": "#/$defs/statement"}},
                {"type": "object", "additionalProperties": {"$ref": "#/$defs/statement"}}
            ]
        })
    };
    let sources: Map<String, Json> = connector::sources()
        .into_iter()
        .map(|kind| {
            let key = Json::Object(schema::object(&connector::properties(kind), Some(Place::Source)));
            (kind.to_owned(), json!({"type": "object", "additionalProperties": key}))
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Plutino rule file",
        "anyOf": [
            {"$ref": "#/$defs/file"},
            {"$ref": "#/$defs/rule"},
            {"type": "array", "items": {"$ref": "#/$defs/rule"}}
        ],
        "$defs": {
            "file": {
                "type": "object",
                "not": {"anyOf": [{"required": ["sql"]}, {"required": ["actions"]}]},
                "properties": {
                    "streams": statements("CREATE STREAM"),
                    "tables": statements("CREATE TABLE"),
                    "views": statements("CREATE VIEW"),
                    "rules": {
                        "description": "A list of rules, or an object of them by id",
                        "anyOf": [
                            {"type": "array", "items": {"$ref": "#/$defs/rule"}},
                            {"type": "object", "additionalProperties": {"anyOf": [
                                {"type": "string"}, {"$ref": "#/$defs/rule"}
                            ]}}
                        ]
                    },
                    "sources": {
                        "description": "Conf keys of sources, which streams name with CONF_KEY",
                        "type": "object",
                        "properties": sources,
                        "additionalProperties": false
                    },
                    "tests": {
                        "description": "Tests of the rules: plutino test",
                        "type": "array",
                        "items": {"$ref": "#/$defs/test"}
                    }
                }
            },
            "statement": statement,
            "rule": rule_schema(),
            "action": actions(),
            "test": test(),
            (schema::VARIABLE): schema::variable()
        }
    })
}

fn rule_schema() -> Json {
    json!({
        "type": "object",
        "required": ["sql", "actions"],
        "properties": {
            "id": {"type": "string", "description": "Letters, digits, - and _"},
            "name": {"type": "string", "description": "A name for people; the id where it is not given"},
            "sql": {"type": "string", "description": "One SELECT"},
            "actions": {
                "type": "array",
                "minItems": 1,
                "description": "Where the results go",
                "items": {"$ref": "#/$defs/action"}
            },
            "options": schema::object(&rule::options::entries(), None),
            "triggered": {"type": "boolean", "description": "false: it does not start by itself", "default": true},
            "temp": {"type": "boolean", "description": "true: it is not stored"},
            "version": {"type": ["string", "number"]},
            "tags": {"type": ["array", "null"], "items": {"type": "string"}},
            "description": {"type": "string"},
            "graph": {"type": "object", "deprecated": true}
        },
        "additionalProperties": false
    })
}

/// An action has one member, named by its kind.
fn actions() -> Json {
    let common = schema::members(&rule::sink_entries(), Some(Place::Sink));
    let kinds: Map<String, Json> = connector::sinks()
        .into_iter()
        .map(|kind| {
            let mut members = schema::members(&connector::properties(kind), Some(Place::Sink));
            members.extend(common.clone());
            members.insert("resourceId".to_owned(), json!({"type": "string", "description": "A conf key of the sink"}));
            let kind_schema = json!({"type": ["object", "null"], "properties": members, "additionalProperties": false});
            (kind.to_owned(), kind_schema)
        })
        .collect();
    json!({
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": kinds,
        "additionalProperties": false
    })
}

fn test() -> Json {
    let messages = json!({"type": "array", "description": "Messages in order; the text any stands for any value"});
    json!({
        "type": "object",
        "required": ["input"],
        "properties": {
            "name": {"type": "string", "description": "What the test says about the rules"},
            "rule": {"type": "string", "description": "The rule that is tested"},
            "view": {"type": "string", "description": "The view that is tested"},
            "action": {"type": ["integer", "string"], "description": "Which action: a number from 1, or a kind"},
            "input": {
                "type": "array",
                "description": "{stream: message}, {wait: 5s}, {feed: FILE@STREAM}, end",
                "items": {"anyOf": [{"const": "end"}, {"type": "object", "minProperties": 1}]}
            },
            "output": messages.clone(),
            "outputs": {"type": "object", "additionalProperties": messages},
            "errors": {"anyOf": [{"const": "any"}, {"type": "array", "items": {"type": "string"}}]},
            "unordered": {"type": "boolean", "description": "Messages and rows may come in any order"},
            "subset": {"type": "boolean", "description": "Objects may have more members than expected"},
            "any": {
                "description": "Names of members that may have any value",
                "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
            },
            "start": {"type": ["string", "integer"], "description": "When the test begins: 2025-01-31T12:00:00Z"},
            "timezone": {"type": "string", "description": "The time zone of windows and dates", "default": "UTC"}
        },
        "additionalProperties": false
    })
}
