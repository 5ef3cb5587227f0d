//! Describes connectors with their properties, and functions, for pages that offer them.
//!
//! Everything is generated from the tables of connectors and functions, so the descriptions match what exists. Texts
//! are English under both languages of eKuiper's responses.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::ApiError;
use super::query::Params;
use crate::expr::function::{self, Family, Function};
use crate::format::sink_format;
use crate::io::connector;
use crate::property::{Effect, Entry, Place, reference};
use crate::service::{Code, LOOKUP_SOURCES, Service};
use crate::text::secret;

/// The kinds of connections that can be named.
const CONNECTIONS: &[&str] = &["websocket"];

/// The routes of descriptions.
pub fn routes() -> Router<Service> {
    Router::new()
        .route("/metadata/sources", get(sources))
        .route("/metadata/sinks", get(|| async { list(&connector::sinks(), "sink") }))
        .route("/metadata/connections", get(|| async { list(CONNECTIONS, "connection") }))
        .route("/metadata/functions", get(functions))
        .route("/metadata/operators", get(|| async { super::json("[]".to_owned()) }))
        .route("/metadata/sources/{kind}", get(source))
        .route("/metadata/sinks/{kind}", get(sink))
        .route("/metadata/connections/{kind}", get(connection))
        .route("/metadata/resource", get(resource))
        .route("/metadata/resources", get(resources))
}

#[derive(Deserialize)]
struct Which {
    kind: Option<String>,
    #[serde(rename = "sourceType")]
    source: Option<String>,
}

async fn sources(Params(which): Params<Which>) -> Response {
    let lookup = which.kind.is_some_and(|kind| kind.eq_ignore_ascii_case("lookup"));
    if lookup { list(LOOKUP_SOURCES, "source") } else { list(&connector::sources(), "source") }
}

fn list(kinds: &[&str], what: &str) -> Response {
    let mut kinds = kinds.to_vec();
    kinds.sort_unstable();
    let one = |kind: &&str| json!({"name": kind, "about": about(kind, what), "type": "internal"});
    super::json(Json::Array(kinds.iter().map(one).collect()).to_string())
}

async fn source(Path(kind): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    known(&connector::sources(), &kind, &headers)?;
    let path = json!({
        "name": "datasource", "default": "", "optional": false, "connection_related": true, "control": "text",
        "type": "string", "hint": both("DATASOURCE: the path, topic or name of the file"), "label": both("datasource"),
    });
    Ok(super::json(
        json!({
            "about": about(&kind, "source"), "libs": [], "type": "internal", "dataSource": path,
            "properties": {"default": properties(&kind, Place::Source)}, "node": node("source", &kind),
        })
        .to_string(),
    ))
}

async fn sink(Path(kind): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    known(&connector::sinks(), &kind, &headers)?;
    let mut all = properties(&kind, Place::Sink);
    let common = sink_format::entries().into_iter().filter(|entry| entry.about.effect == Effect::Works);
    all.extend(common.map(|entry| described(&entry, false)));
    Ok(super::json(
        json!({
            "about": about(&kind, "sink"), "libs": [], "type": "internal", "properties": all, "node": node("sink", &kind),
        })
        .to_string(),
    ))
}

async fn connection(Path(kind): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    known(CONNECTIONS, &kind, &headers)?;
    Ok(super::json(
        json!({
            "about": about(&kind, "connection"), "libs": [],
            "properties": {"default": properties(&kind, Place::Both)}, "node": node("connection", &kind),
        })
        .to_string(),
    ))
}

/// The properties of a connector at this end; with `Both`, only those that belong to both ends.
fn properties(kind: &str, place: Place) -> Vec<Json> {
    let here = |entry: &&Entry| {
        let about = &entry.about;
        about.effect == Effect::Works && (about.place == Place::Both || about.place == place)
    };
    let one = |entry: &Entry| {
        let name = entry.about.name;
        let of_sink = matches!(name, "path" | "checkConnection" | "clientQueue" | "slowClient" | "onOpen");
        described(entry, kind == "websocket" && !of_sink)
    };
    connector::properties(kind).iter().filter(here).map(one).collect()
}

fn described(entry: &Entry, connection_related: bool) -> Json {
    let about = &entry.about;
    let (ty, default) = (reference::metadata_type(about.ty), reference::metadata_default(entry));
    field(about.name, ty, default, about.doc, connection_related)
}

fn field(name: &str, ty: &str, default: Json, doc: &str, related: bool) -> Json {
    let control = match ty {
        "bool" => "radio",
        "object" | "list_string" => "list",
        _ => "text",
    };
    json!({
        "name": name, "default": default, "optional": true, "connection_related": related, "control": control,
        "type": ty, "hint": both(doc), "label": both(name),
    })
}

fn about(kind: &str, what: &str) -> Json {
    json!({
        "trial": false, "installed": true,
        "author": {"name": "Plutino", "email": "", "company": "", "website": ""},
        "helpUrl": both("docs/connectors.md"), "description": both(&format!("the {kind} {what}")),
    })
}

fn node(category: &str, kind: &str) -> Json {
    json!({"category": category, "icon": "iconPath", "label": both(kind)})
}

/// The same text for both languages, under both names that eKuiper has for each.
fn both(text: &str) -> Json {
    json!({"en_US": text, "zh_CN": text, "en": text, "zh": text})
}

fn known(kinds: &[&str], kind: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    if kinds.contains(&kind) {
        return Ok(());
    }
    let language =
        headers.get(header::CONTENT_LANGUAGE).and_then(|language| language.to_str().ok()).unwrap_or_default();
    let text = match language.to_ascii_lowercase().starts_with("zh") {
        true => "没有找到这个插件：",
        false => "This plugin was not found:",
    };
    let shown: String = kind.chars().take(256).collect();
    Err(ApiError::new(Code::ConfKey, format!("{text}{shown}")))
}

/// Functions by family.
async fn functions() -> Response {
    let mut all: Vec<&Function> = function::all().collect();
    all.sort_by_key(|function| (function.family, function.name));
    let one = |function: &&Function| {
        let takes: Vec<&str> = function.signature.params.iter().map(|(name, _)| *name).collect();
        json!({
            "name": function.name, "example": format!("{}({})", function.name, takes.join(", ")),
            "hint": both(function.doc), "aggregate": function.family == Family::Aggregate,
        })
    };
    let families = all.chunk_by(|a, b| a.family == b.family).map(|functions| {
        let name = functions[0].family.to_string();
        json!({
            "about": about(&name, "of the language"), "name": name,
            "functions": functions.iter().map(one).collect::<Vec<_>>(),
        })
    });
    super::json(Json::Array(families.collect()).to_string())
}

/// The conf keys of all kinds of sources, or of one.
async fn resource(State(service): State<Service>, Params(which): Params<Which>) -> Result<Response, ApiError> {
    let wanted = |kind: &&str| which.source.as_deref().is_none_or(|source| source.is_empty() || source == *kind);
    let mut all = Map::new();
    for kind in connector::sources().into_iter().filter(wanted) {
        let mut keys = service.conf_keys("sources", kind)?;
        secret::mask_sets(&mut keys);
        if !keys.is_empty() {
            all.insert(kind.to_owned(), Json::Object(keys));
        }
    }
    Ok(super::json(Json::Object(all).to_string()))
}

/// All conf keys: key and kind; null if there are none, as in eKuiper.
async fn resources(State(service): State<Service>) -> Result<Response, ApiError> {
    let of = |class: &str, kinds: &[&str]| -> Result<Json, ApiError> {
        let mut found = Vec::new();
        for kind in kinds {
            found.extend(service.conf_keys(class, kind)?.into_iter().map(|(key, _)| json!({key: kind})));
        }
        Ok(if found.is_empty() { Json::Null } else { Json::Array(found) })
    };
    let (sinks, sources) = (of("sinks", &connector::sinks())?, of("sources", &connector::sources())?);
    Ok(super::json(json!({"sinks": sinks, "sources": sources}).to_string()))
}
