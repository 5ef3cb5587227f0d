//! JSON Schemas of tables of properties, so that editors can complete and check what users write.
//!
//! A schema is looser than the reader: there names are matched regardless of case, and a text such as `${NAME}` may
//! stand for any value. The reader may refuse what the schema accepts; what the schema refuses is refused by the reader
//! or has no effect.

use serde_json::{Map, Value as Json, json};

use super::{Effect, Entry, Place, Type};

/// The name of the definition for texts that stand for an environment variable.
pub const VARIABLE: &str = "variable";

/// The schema of a text that stands for an environment variable.
pub fn variable() -> Json {
    json!({
        "description": "The value of an environment variable, such as ${NAME} or ${NAME:-default}",
        "type": "string",
        "pattern": "\\$\\{"
    })
}

/// The schema of an object with these members. `place` leaves out those of the connector's other end.
pub fn object(entries: &[Entry], place: Option<Place>) -> Map<String, Json> {
    let members = members(entries, place);
    Map::from_iter([
        ("type".to_owned(), json!("object")),
        ("properties".to_owned(), Json::Object(members)),
        ("additionalProperties".to_owned(), json!(false)),
    ])
}

/// The schemas of the members, under all spellings.
pub fn members(entries: &[Entry], place: Option<Place>) -> Map<String, Json> {
    let mut members = Map::new();
    for entry in entries {
        let about = &entry.about;
        let elsewhere = place.is_some_and(|place| about.place != Place::Both && about.place != place);
        if elsewhere || about.effect == Effect::Unsupported {
            continue;
        }
        let schema = described(entry, place);
        members.insert(about.name.to_owned(), schema);
        for alias in about.aliases {
            members.entry((*alias).to_owned()).or_insert_with(
                || json!({"description": format!("The same as {}", about.name), "$comment": about.name}),
            );
        }
    }
    members
}

/// The schema of a property with its documentation.
fn described(entry: &Entry, place: Option<Place>) -> Json {
    let about = &entry.about;
    let mut schema = match about.ty {
        Type::Object(short) => {
            let object = Json::Object(object(&entry.members, place));
            match short {
                // A plain value sets one of the members.
                Some(_) => json!({"anyOf": [object, {"type": ["string", "number", "boolean"]}]}),
                None => object,
            }
        }
        ty => of_type(ty),
    };
    if let Some(schema) = schema.as_object_mut() {
        let doc = match about.effect {
            Effect::Nothing => "Accepted, and without effect",
            _ => about.doc,
        };
        if !doc.is_empty() {
            schema.insert("description".to_owned(), json!(doc));
        }
        let default = entry.default_json();
        if !default.is_null() && default != json!({}) {
            schema.insert("default".to_owned(), default);
        }
        if about.effect == Effect::Nothing {
            schema.insert("deprecated".to_owned(), json!(true));
        }
    }
    schema
}

fn of_type(ty: Type) -> Json {
    let or_variable = |schema: Json| json!({"anyOf": [schema, {"$ref": format!("#/$defs/{VARIABLE}")}]});
    match ty {
        Type::Flag => or_variable(json!({"type": "boolean"})),
        Type::Text(_) => json!({"type": "string"}),
        Type::Choice(words) => or_variable(json!({"enum": words})),
        Type::Duration { .. } => json!({"type": ["integer", "string"]}),
        Type::Whole { least, most } => {
            let mut schema = json!({"type": "integer", "minimum": least});
            if most < u64::MAX {
                schema["maximum"] = json!(most);
            }
            or_variable(schema)
        }
        Type::Number { least, most } => {
            let mut schema = json!({"type": "number"});
            for (name, bound) in [("minimum", least), ("maximum", most)] {
                if bound.is_finite() {
                    schema[name] = json!(bound);
                }
            }
            or_variable(schema)
        }
        Type::Size => json!({"type": ["integer", "string"]}),
        Type::Texts => json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
        Type::Names => json!({"type": "array", "items": {"type": "string"}}),
        Type::Any { takes: "object", .. } => or_variable(json!({"type": "object"})),
        Type::Object(_) | Type::Any { .. } => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Property, entries};
    use super::*;

    #[derive(Default)]
    struct Target;

    type Row = Property<Target>;

    const ROWS: &[Row] = &[
        Row::flag("on", |_, _| {}).default("true").alias(&["enabled"]).doc("Whether it is on"),
        Row::whole("size", 1, 9, |_, _| {}).of_sink(),
        Row::choice("mode", &["a", "b"], |_, _| {}).of_source(),
        Row::object("within", &[Row::text("name", |_, _| {})]),
        Row::without_effect("old", Type::Flag),
        Row::unsupported("never"),
    ];

    #[test]
    fn properties_become_members() {
        let schema = Json::Object(object(&entries(ROWS), Some(Place::Sink)));
        let variable = json!({"$ref": "#/$defs/variable"});
        assert_eq!(
            schema,
            json!({"type": "object", "additionalProperties": false, "properties": {
                "on": {"anyOf": [{"type": "boolean"}, variable], "description": "Whether it is on", "default": true},
                "enabled": {"description": "The same as on", "$comment": "on"},
                "size": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 9}, variable]},
                "within": {"type": "object", "additionalProperties": false, "properties": {"name": {"type": "string"}}},
                "old": {"anyOf": [{"type": "boolean"}, variable], "description": "Accepted, and without effect", "deprecated": true},
            }})
        );
    }
}
