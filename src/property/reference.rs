//! Makes tables of properties for the reference pages.

use serde_json::Value as Json;

use super::{About, Effect, Entry, Noun, Place, Type};

/// A table with one line for each property that has an effect. `ends` adds the column for source and sink.
pub fn table(entries: &[Entry], ends: bool) -> String {
    let head = if ends { "property | where" } else { "property" };
    let rule = if ends { "---|---" } else { "---" };
    let mut page = format!("| {head} | takes | default | meaning |\n|{rule}|---|---|---|\n");
    lines(entries, "", ends, &mut page);
    page
}

/// A table whose first column is headed with `noun`.
pub fn table_of(noun: Noun, entries: &[Entry]) -> String {
    let mut page = format!("| {noun} | takes | default | meaning |\n|---|---|---|---|\n");
    lines(entries, "", false, &mut page);
    page
}

/// The names of the rows without effect, for a sentence: `` `a`, `b` ``.
pub fn without_effect(entries: &[Entry]) -> String {
    let idle = entries.iter().filter(|entry| entry.about.effect == Effect::Nothing);
    idle.map(|entry| format!("`{}`", entry.about.name)).collect::<Vec<_>>().join(", ")
}

fn lines(entries: &[Entry], prefix: &str, ends: bool, page: &mut String) {
    for entry in entries {
        let About { name, aliases, misspelt, ty, place, doc, effect, .. } = entry.about;
        if effect != Effect::Works {
            continue;
        }
        // An object without documentation is only a prefix of its members.
        if doc.is_empty() && !entry.members.is_empty() {
            lines(&entry.members, &format!("{prefix}{name}."), ends, page);
            continue;
        }
        let names: Vec<String> =
            [name].iter().chain(aliases).chain(misspelt).map(|name| format!("`{prefix}{name}`")).collect();
        let place = match (ends, place) {
            (false, _) => "",
            (true, Place::Both) => " both |",
            (true, Place::Source) => " source |",
            (true, Place::Sink) => " sink |",
        };
        let default = match default_text(entry) {
            none if none.is_empty() => "–".to_owned(),
            default => format!("`{default}`"),
        };
        // A bar would end the table cell.
        let doc = doc.replace('|', "\\|");
        page.push_str(&format!("| {} |{place} {} | {default} | {doc} |\n", names.join(", "), takes(ty, entry)));
    }
}

/// The default as users write it.
fn default_text(entry: &Entry) -> String {
    if entry.members.is_empty() {
        return entry.about.default.to_owned();
    }
    let member = |member: &Entry| Some((member.about.name, default_text(member))).filter(|(_, text)| !text.is_empty());
    let members: Vec<String> =
        entry.members.iter().filter_map(member).map(|(name, text)| format!("{name}: {text}")).collect();
    if members.is_empty() { String::new() } else { format!("{{{}}}", members.join(", ")) }
}

/// The type in a word or two.
fn takes(ty: Type, entry: &Entry) -> String {
    match ty {
        Type::Flag => "true or false".to_owned(),
        Type::Text(form) => {
            ["a ", "an ", "the "].iter().find_map(|article| form.strip_prefix(article)).unwrap_or(form).to_owned()
        }
        Type::Choice(words) => super::any_of(&words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>()),
        Type::Duration { .. } => "duration".to_owned(),
        Type::Whole { .. } | Type::Number { .. } => ty.expected().trim_start_matches("a ").to_owned(),
        Type::Size => "size".to_owned(),
        Type::Texts => "list of texts".to_owned(),
        Type::Names => "list of names".to_owned(),
        Type::Object(short) => {
            let names: Vec<&str> = entry.members.iter().map(|member| member.about.name).collect();
            let object = format!("object {{{}}}", names.join(", "));
            let short = short.and_then(|short| entry.members.iter().find(|member| member.about.name == short));
            short.map_or(object.clone(), |short| format!("{}, or {object}", takes(short.about.ty, short)))
        }
        Type::Any { takes, .. } => takes.to_owned(),
    }
}

/// The type of a property as eKuiper's REST metadata names it.
pub fn metadata_type(ty: Type) -> &'static str {
    match ty {
        Type::Flag => "bool",
        Type::Whole { .. } => "int",
        Type::Number { .. } => "float",
        Type::Texts | Type::Names => "list_string",
        Type::Object(None) => "object",
        Type::Any { takes: "object", .. } => "object",
        Type::Text(_)
        | Type::Choice(_)
        | Type::Duration { .. }
        | Type::Size
        | Type::Object(Some(_))
        | Type::Any { .. } => "string",
    }
}

/// The default as in eKuiper's REST metadata: objects and lists are JSON, everything else is text.
pub fn metadata_default(entry: &Entry) -> Json {
    match (metadata_type(entry.about.ty), entry.default_json()) {
        ("bool", Json::Null) => Json::Bool(false),
        ("list_string", Json::Null) => Json::Array(Vec::new()),
        ("object", Json::Null) => Json::Object(serde_json::Map::new()),
        ("string", Json::Null) => "".into(),
        ("string", Json::Object(_)) => default_text(entry).into(),
        (_, default) => default,
    }
}
