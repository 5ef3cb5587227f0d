//! Traces of messages: `/trace/…`, `/tracer`. Plutino records none, so lists are empty; only the mark of
//! `/rules/{id}/trace/start` can be set.

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use super::{ApiError, read};
use crate::service::Service;

/// The routes of traces.
pub fn routes() -> Router<Service> {
    Router::new()
        .route("/trace/{id}", get(|| async { (StatusCode::NOT_FOUND, "Not Found").into_response() }))
        .route("/trace/rule/{id}", get(of_rule))
        .route("/tracer", post(tracer))
}

async fn of_rule() -> Response {
    super::json("[]".to_owned())
}

/// The settings of the trace collector.
#[derive(Deserialize)]
struct Tracer {
    #[serde(default, rename = "enableRemoteCollector")]
    remote: bool,
    #[serde(default, rename = "action")]
    on: bool,
}

/// There is no collector: only turning it off is accepted.
async fn tracer(body: Bytes) -> Result<&'static str, ApiError> {
    let wanted: Tracer = read(&body, "decode body error")?;
    if wanted.remote || wanted.on {
        return Err(ApiError::bad("a remote collector of traces is not part of Plutino"));
    }
    Ok("success")
}
