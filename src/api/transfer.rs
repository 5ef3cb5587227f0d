//! Complete configurations: `/ruleset/…`, `/data/…`, `/v2/data/…`.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use tokio::io::AsyncReadExt;

use super::details::Asked;
use super::error::{accepted, warning};
use super::heavy::{self, Piped};
use super::query::Params;
use super::{ApiError, read, to_end};
use crate::service::{Everything, Ruleset, Service, ServiceError};
use crate::text::document::Document;

const DECODE: &str = "Invalid body: Error decoding json";

/// The routes of imports and exports.
pub fn routes() -> Router<Service> {
    let exports = Router::new()
        .route("/ruleset/export", post(export_ruleset))
        .route("/data/export", get(export).post(export_rules))
        .route("/v2/data/export", get(export_yaml))
        .route("/store/backup", get(backup))
        .route_layer(middleware::from_fn(heavy::few));
    Router::new()
        .merge(exports)
        .route("/ruleset/import", post(import_ruleset))
        .route("/data/import", post(import))
        .route("/data/import/status", get(last_import))
        .route("/v2/data/import", post(import_yaml))
}

/// The headers of a response that is a file to save.
const FILE: [(header::HeaderName, &str); 2] =
    [(header::CONTENT_TYPE, "application/octet-stream"), (header::CONTENT_DISPOSITION, "Attachment")];

/// JSON as a file to save. It can be large, so it is made on another thread while it is sent.
fn attachment<T: serde::Serialize>(body: impl FnOnce() -> T + Send + 'static) -> Response {
    (FILE, Piped::body(move |out| Ok(serde_json::to_writer(out, &body())?))).into_response()
}

/// The content of an export.
#[derive(Deserialize)]
struct Held {
    /// Whether to include the values of secrets.
    secrets: Option<String>,
}

impl Held {
    fn secrets(&self) -> bool {
        self.secrets.as_deref().is_some_and(|secrets| matches!(secrets, "1" | "true"))
    }

    fn ruleset(&self, ruleset: Ruleset) -> Ruleset {
        if self.secrets() { ruleset } else { ruleset.masked() }
    }

    fn all(&self, all: Everything) -> Everything {
        if self.secrets() { all } else { all.masked() }
    }
}

async fn export_ruleset(State(service): State<Service>, Params(held): Params<Held>) -> Response {
    let ruleset = service.export_ruleset();
    attachment(move || held.ruleset(ruleset))
}

async fn import_ruleset(
    State(service): State<Service>,
    Extension(asked): Extension<Asked>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let text = service.import_text(read(&body, DECODE)?).await?;
    let ruleset: Ruleset = read(text.as_bytes(), "Import ruleset error")?;
    let (known, odd) = (service.clone(), asked.0.then(|| ruleset.clone()));
    let imported = to_end(async move { Ok(service.import_ruleset(ruleset).await) }).await?;
    for (name, error) in &imported.refused.ruleset.rules {
        tracing::warn!("rule {name} was not imported: {error}");
    }
    let warnings = odd.map(|ruleset| known.warnings_of_ruleset(&ruleset)).unwrap_or_default();
    let text =
        format!("imported {} streams, {} tables and {} rules", imported.streams, imported.tables, imported.rules);
    Ok(accepted(StatusCode::OK, text, &warnings))
}

async fn export(State(service): State<Service>, Params(held): Params<Held>) -> Response {
    let all = service.export(None).await;
    attachment(move || held.all(all))
}

async fn export_rules(
    State(service): State<Service>,
    Params(held): Params<Held>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let rules: Vec<String> = read(&body, "Invalid body: Error decoding file json")?;
    let all = service.export(Some(&rules)).await;
    Ok(attachment(move || held.all(all)))
}

/// Only the routes of rule sets distinguish a missing source.
fn whole(error: ServiceError) -> ApiError {
    match error {
        ServiceError::Import(text) => ApiError::bad(text.strip_suffix(": bad request").unwrap_or(&text)),
        error => error.into(),
    }
}

/// The exit code for a restart: not 0, because some supervisors restart only after a failure.
const STARTED_ANEW: u8 = 100;

#[derive(Deserialize)]
struct How {
    partial: Option<String>,
    stop: Option<String>,
}

async fn import(
    State(service): State<Service>,
    Extension(asked): Extension<Asked>,
    Params(how): Params<How>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let text = service.import_text(read(&body, DECODE)?).await.map_err(whole)?;
    let partial = how.partial.as_deref() == Some("1");
    let running = service.clone();
    let (imported, text) = to_end(async move { Ok((service.import(&text, partial).await?, text)) }).await?;
    // The supervisor restarts the process with the imported configuration; the response is sent first.
    if how.stop.as_deref() == Some("1") {
        running.ask_to_end(STARTED_ANEW);
    }
    let refused = response(&imported.refused);
    if imported.is_whole() {
        let mut answer = json!({"ErrorMsg": "", "ConfigResponse": refused});
        let warnings = if asked.0 { running.warnings_of_import(&text) } else { Vec::new() };
        if !warnings.is_empty() {
            answer["warnings"] = warnings.iter().map(warning).collect();
        }
        return Ok(super::json(answer.to_string()));
    }
    Err(ApiError::bad(refused.to_string()))
}

/// The refused items: errors by name, in all sections.
fn response(refused: &Everything) -> Json {
    serde_json::to_value(refused).unwrap_or_default()
}

async fn last_import(State(service): State<Service>) -> Response {
    super::json(response(&service.last_import()).to_string())
}

/// YAML that contains JSON values unchanged.
async fn export_yaml(State(service): State<Service>, Params(held): Params<Held>) -> Response {
    use std::fmt::Write;
    let Ruleset { streams, tables, views, rules } = held.ruleset(service.export_ruleset());
    let mut page = String::new();
    // Writing to a String cannot fail.
    for (section, statements) in [("streams", streams), ("tables", tables), ("views", views)] {
        if section != "streams" && statements.is_empty() {
            continue;
        }
        let _ = writeln!(page, "{section}:{}", if statements.is_empty() { " {}" } else { "" });
        for (name, sql) in statements {
            let _ = writeln!(page, "    {}:\n        sql: {}", scalar(&name), scalar(&sql));
        }
    }
    let _ = writeln!(page, "rules:{}", if rules.is_empty() { " {}" } else { "" });
    for (id, text) in rules {
        let _ = writeln!(page, "    {}:", scalar(&id));
        let rule: Map<String, Json> = serde_json::from_str(&text).unwrap_or_default();
        for (member, value) in rule {
            let value = value.as_str().map_or_else(|| value.to_string(), scalar);
            let _ = writeln!(page, "        {}: {value}", scalar(&member));
        }
    }
    (FILE, page).into_response()
}

/// A text in YAML: without quotes if it cannot be misread.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let bare = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && !text.ends_with([' ', ':'])
        && !text.contains(|c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}'))
        && !text.contains(": ")
        && !text.contains(" #")
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if bare { text.to_owned() } else { Json::from(text).to_string() }
}

async fn import_yaml(State(service): State<Service>, body: Bytes) -> Result<&'static str, ApiError> {
    let text = service.import_text(read(&body, DECODE)?).await?;
    // YAML can be crafted to be slow to parse, so it is parsed on another thread.
    let parsed = tokio::task::spawn_blocking(|| Document::parse("import", text).map_err(|problem| problem.to_string()));
    let document = parsed.await.unwrap_or_else(|error| Err(error.to_string())).map_err(ApiError::bad)?;
    if !document.root.json().is_object() && !document.root.is_null() {
        return Err(ApiError::bad("import failed: the content is not a mapping of streams, tables and rules"));
    }
    let mut ruleset = Ruleset::default();
    for section in document.root.members() {
        let statements = match section.key.as_str() {
            "streams" => &mut ruleset.streams,
            "tables" => &mut ruleset.tables,
            "views" => &mut ruleset.views,
            "rules" => &mut ruleset.rules,
            _ => continue,
        };
        for member in section.node.members() {
            let sql = member.node.member("sql").and_then(|member| member.node.text());
            let text = match section.key.as_str() {
                "rules" => Some(member.node.json().to_string()),
                _ => sql.map(str::to_owned),
            };
            let Some(text) = text else {
                return Err(ApiError::bad(format!("{} {} has no sql", section.key, member.key)));
            };
            statements.insert(member.key.clone(), text);
        }
    }
    let imported = to_end(async move { Ok(service.import_ruleset(ruleset).await) }).await?;
    if imported.is_whole() { Ok("success") } else { Err(ApiError::bad(response(&imported.refused).to_string())) }
}

/// The size of a chunk of a file, bytes.
const PART: usize = 64 << 10;

/// The store as a file, in chunks: it can be large.
async fn backup(State(service): State<Service>) -> Result<Response, ApiError> {
    let file = to_end(async move { service.backup().await }).await?;
    let parts = futures_util::stream::try_unfold(tokio::fs::File::from_std(file), |mut file| async move {
        let mut part = vec![0; PART];
        let read = file.read(&mut part).await?;
        part.truncate(read);
        Ok::<_, std::io::Error>((read > 0).then_some((part, file)))
    });
    Ok((FILE, Body::from_stream(parts)).into_response())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Characters with a meaning in YAML, its keywords, any text, and characters that resemble blanks or line ends.
    const TEXTS: &str = concat!(
        "[a-c \t\n:#'\"{}\\[\\],&*!|>%@`~?-]{0,12}",
        "|[tfnyo][a-z]{1,4}|\\PC{0,8}",
        "|[a\u{85}\u{2028}\u{2029}\u{feff}\u{a0}]{0,4}",
    );

    proptest! {
        /// An exported text is imported unchanged.
        #[test]
        fn exported_yaml_texts_are_imported_unchanged(text in TEXTS) {
            let page = format!("k: {}\n{}:\n    sql: x\n", scalar(&text), scalar(&format!("s{text}")));
            let document = Document::parse("page", page.clone());
            prop_assert!(document.is_ok(), "{page:?}");
            let root = document.expect("it was just looked at").root;
            let [first, second] = root.members() else { panic!("{page:?}") };
            prop_assert_eq!(first.node.text(), Some(text.as_str()), "{:?}", page);
            prop_assert_eq!(&second.key, &format!("s{text}"), "{:?}", page);
        }
    }
}
