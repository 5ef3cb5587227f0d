//! Uploaded files: `/config/uploads`.

use std::path::Path as FilePath;

use axum::Router;
use axum::extract::{FromRequest, Multipart, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use serde::Deserialize;
use serde_json::Value as Json;

use super::{ApiError, BODY_LIMIT, read};
use crate::service::{ImportSource, Service, Uploads};

/// The form field with the file.
const FIELD: &str = "uploadFile";

/// The routes of uploads.
pub fn routes() -> Router<Service> {
    Router::new().route("/config/uploads", get(list).post(upload)).route("/config/uploads/{name}", delete(remove))
}

async fn list(State(service): State<Service>) -> Result<Response, ApiError> {
    let listed = service.with_uploads(Uploads::list).await;
    let paths = listed.map_err(|error| ApiError::bad(format!("Upload error: {error}")))?;
    let paths = paths.iter().map(|path| Json::from(path.to_string_lossy())).collect();
    Ok(super::json(Json::Array(paths).to_string()))
}

/// Either the content, or the path of a file on the server that is copied.
#[derive(Deserialize)]
struct Upload {
    #[serde(default)]
    name: String,
    #[serde(default)]
    content: String,
    #[serde(default)]
    file: String,
}

async fn upload(State(service): State<Service>, request: Request) -> Result<Response, ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is_form = kind.to_ascii_lowercase().starts_with("multipart/form-data");
    let (name, content) = if is_form { read_form(request).await? } else { read_json(&service, request).await? };
    let failed = |error: &dyn std::fmt::Display| ApiError::bad(format!("Upload error: {error}"));
    let path = tokio::spawn(async move { service.upload(name, content).await }).await;
    let path = path.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    Ok((StatusCode::CREATED, html(&path)).into_response())
}

async fn read_json(service: &Service, request: Request) -> Result<(String, Vec<u8>), ApiError> {
    let body = axum::body::to_bytes(request.into_body(), BODY_LIMIT).await;
    let body = body.map_err(|error| ApiError::bad(format!("Invalid body: {error}")))?;
    let Upload { name, content, file } = read(&body, "Invalid body: Error decoding file json")?;
    let missing =
        |what: &str| Err(ApiError::bad(format!("Invalid body: missing necessary field: invalid body: {what}")));
    if content.is_empty() && file.is_empty() {
        return missing("content or FilePath is required");
    }
    if name.is_empty() {
        return missing("name is required");
    }
    let text = service.import_text(ImportSource::new(content, file)).await?;
    Ok((name, text.into_bytes()))
}

async fn read_form(request: Request) -> Result<(String, Vec<u8>), ApiError> {
    let wrong = |error: &dyn std::fmt::Display| ApiError::bad(format!("Error retrieving the file: {error}"));
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| wrong(&error))?;
    while let Some(field) = form.next_field().await.map_err(|error| wrong(&error.body_text()))? {
        if field.name() == Some(FIELD) {
            let Some(name) = field.file_name().map(str::to_owned) else {
                return Err(wrong(&format!("the field {FIELD} has no filename")));
            };
            let content = field.bytes().await.map_err(|error| wrong(&error.body_text()))?;
            return Ok((name, content.into()));
        }
    }
    Err(wrong(&format!("the form has no field {FIELD}")))
}

async fn remove(State(service): State<Service>, Path(name): Path<String>) -> Result<&'static str, ApiError> {
    let removed = tokio::spawn(async move { service.delete_upload(name).await }).await;
    let removed = removed.map_err(|error| ApiError::bad(format!("Error deleting the file: {error}")))?;
    removed.map_err(|error| ApiError::bad(format!("Error deleting the file: {error}")))?;
    Ok("ok")
}

/// A path escaped for HTML.
fn html(path: &FilePath) -> String {
    let mut shown = String::new();
    for c in path.to_string_lossy().chars() {
        match c {
            '&' => shown.push_str("&amp;"),
            '<' => shown.push_str("&lt;"),
            '>' => shown.push_str("&gt;"),
            '"' => shown.push_str("&#34;"),
            '\'' => shown.push_str("&#39;"),
            c => shown.push(c),
        }
    }
    shown
}
