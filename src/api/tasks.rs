//! Background imports: `/async/…`.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::json;

use super::query::Params;
use super::{ApiError, read};
use crate::service::{ImportSource, Service, Task};

/// The routes of tasks.
pub fn routes() -> Router<Service> {
    Router::new()
        .route("/async/data/import", post(import))
        .route("/async/task/{id}", get(task))
        .route("/async/task/{id}/cancel", post(cancel))
}

#[derive(Deserialize)]
struct How {
    partial: Option<String>,
}

async fn import(State(service): State<Service>, Params(how): Params<How>, body: Bytes) -> Result<Response, ApiError> {
    let source = read::<ImportSource>(&body, "Invalid body: Error decoding json")?;
    let id = service.begin_import(source, how.partial.as_deref() == Some("1")).await?;
    Ok(super::json(json!({"id": id}).to_string()))
}

async fn task(State(service): State<Service>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let Task { id, state, message, began, ended, .. } = service.task(&id)?;
    let shown = json!({
        "id": id, "status": state.as_str(), "message": message, "startTimestamp": began, "endTimestamp": ended,
    });
    Ok(super::json(shown.to_string()))
}

async fn cancel(State(service): State<Service>, Path(id): Path<String>) -> Result<(), ApiError> {
    Ok(service.cancel_task(&id)?)
}
