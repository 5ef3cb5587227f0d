//! `${NAME}` in properties: the value of an environment variable, so that secrets stay out of files and statements.
//!
//! `${NAME:-default}` has a default for a variable that is unset or empty, `$${` stands for `${`. In a JSON text the
//! value is escaped as the content of a JSON string, so that a quote in a secret cannot change the message. Anything
//! else between the braces is left unchanged.
//!
//! Other code decides which variables a property may use.

use std::borrow::Cow;

use serde_json::{Map, Value};

/// Properties with their own template language, in which `${` has no such meaning.
const TEMPLATES: &[&str] = &["dataTemplate"];

/// A variable without a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("environment variable {name} is not set: set it, or give a default as in ${{{name}:-default}}")]
pub struct UnsetVariable {
    pub name: String,
}

/// The properties with variables without a value.
pub type Unset = Vec<(String, UnsetVariable)>;

/// Replaces the variables in properties. Properties with variables without a value are left out.
pub fn expand_properties(props: &Map<String, Value>) -> (Cow<'_, Map<String, Value>>, Unset) {
    if !props.values().any(has_variable) {
        return (Cow::Borrowed(props), Unset::new());
    }
    let (mut expanded, mut unset) = (props.clone(), Unset::new());
    for (name, value) in &mut expanded {
        if TEMPLATES.iter().any(|template| template.eq_ignore_ascii_case(name)) {
            continue;
        }
        if let Err(error) = expand_value(value, &variable) {
            unset.push((name.clone(), error));
        }
    }
    expanded.retain(|name, _| !unset.iter().any(|(wrong, _)| wrong == name));
    (Cow::Owned(expanded), unset)
}

/// Replaces the variables in a text.
///
/// # Errors
/// [`UnsetVariable`]
pub fn expand(text: &str) -> Result<Cow<'_, str>, UnsetVariable> {
    expand_by(text, &variable)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn has_variable(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains("${"),
        Value::Array(items) => items.iter().any(has_variable),
        Value::Object(members) => members.values().any(has_variable),
        _ => false,
    }
}

type Lookup<'l> = &'l dyn Fn(&str) -> Option<String>;

fn expand_value(value: &mut Value, lookup: Lookup<'_>) -> Result<(), UnsetVariable> {
    match value {
        Value::String(text) => {
            if let Cow::Owned(expanded) = expand_by(text, lookup)? {
                *text = expanded;
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| expand_value(item, lookup)),
        Value::Object(members) => members.values_mut().try_for_each(|member| expand_value(member, lookup)),
        _ => Ok(()),
    }
}

fn expand_by<'t>(text: &'t str, lookup: Lookup<'_>) -> Result<Cow<'t, str>, UnsetVariable> {
    if !text.contains("${") {
        return Ok(Cow::Borrowed(text));
    }
    let is_json = text.trim_start().starts_with(['{', '[']);
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${") {
        if let Some(before) = rest[..start].strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = &rest[start + 2..];
            continue;
        }
        expanded.push_str(&rest[..start]);
        let inside = &rest[start + 2..];
        let Some((placeholder, behind)) = inside.split_once('}') else {
            expanded.push_str(&rest[start..]);
            return Ok(Cow::Owned(expanded));
        };
        let (name, default) = match placeholder.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (placeholder, None),
        };
        if !is_name(name) {
            expanded.push_str("${");
            rest = inside;
            continue;
        }
        let value = match (lookup(name), default) {
            (Some(value), None) => Cow::Owned(value),
            (Some(value), Some(_)) if !value.is_empty() => Cow::Owned(value),
            (_, Some(default)) => Cow::Borrowed(default),
            (None, None) => return Err(UnsetVariable { name: name.to_owned() }),
        };
        if is_json {
            let quoted = Value::from(&*value).to_string();
            expanded.push_str(&quoted[1..quoted.len() - 1]);
        } else {
            expanded.push_str(&value);
        }
        rest = behind;
    }
    expanded.push_str(rest);
    Ok(Cow::Owned(expanded))
}

fn is_name(name: &str) -> bool {
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn known(name: &str) -> Option<String> {
        match name {
            "TOKEN" => Some("a\"b\\c".to_owned()),
            "HOST" => Some("feed.example".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        }
    }

    #[test]
    fn variables_have_their_values() {
        for (text, expected) in [
            ("plain", "plain"),
            ("wss://${HOST}/x", "wss://feed.example/x"),
            ("${HOST}${HOST}", "feed.examplefeed.example"),
            ("Bearer ${TOKEN}", "Bearer a\"b\\c"),
            ("{\"t\": \"${TOKEN}\"}", "{\"t\": \"a\\\"b\\\\c\"}"),
            ("${NONE:-x:-y}", "x:-y"),
            ("${EMPTY:-x}", "x"),
            ("[${EMPTY}]", "[]"),
            ("${HOST:-x}", "feed.example"),
            ("$${HOST}", "${HOST}"),
            ("cost $5 ${ {.a} ${1} ${HOST", "cost $5 ${ {.a} ${1} ${HOST"),
        ] {
            assert_eq!(expand_by(text, &known).as_deref(), Ok(expected), "{text}");
        }
        let error = expand_by("a ${NONE}", &known).expect_err("it is not set");
        assert_eq!(
            error.to_string(),
            "environment variable NONE is not set: set it, or give a default as in ${NONE:-default}"
        );
    }

    #[test]
    fn variables_are_found_anywhere_in_properties() {
        let mut value = json!({"headers": {"A": ["x", "${HOST}"]}, "onOpen": [{"t": "${TOKEN}"}], "n": 1});
        expand_value(&mut value, &known).expect("all are set");
        assert_eq!(value, json!({"headers": {"A": ["x", "feed.example"]}, "onOpen": [{"t": "a\"b\\c"}], "n": 1}));
        let (one, template) = ("${PLUTINO_TEST_NOT_SET}", "${PLUTINO_TEST_NOT_SET}");
        let props = json!({"a": one, "dataTemplate": template, "b": "${PLUTINO_TEST_NOT_SET:-1}"});
        let (expanded, unset) = expand_properties(props.as_object().expect("an object"));
        assert_eq!(unset.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a"]);
        let expected = json!({"dataTemplate": template, "b": "1"});
        assert_eq!(Some(&*expanded), expected.as_object(), "an unset variable does not affect other properties");
    }
}
