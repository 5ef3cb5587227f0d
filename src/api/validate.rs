//! `/validate`: checks a statement of any kind while somebody writes it, without executing it.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::error::detail;
use super::{ApiError, read};
use crate::service::Service;

/// The routes of validation.
pub fn routes() -> Router<Service> {
    Router::new().route("/validate", post(validate))
}

#[derive(Deserialize)]
struct Statement {
    #[serde(default)]
    sql: String,
}

async fn validate(State(service): State<Service>, body: Bytes) -> Result<Response, ApiError> {
    let Statement { sql } = read(&body, "Invalid body: Error decoding the statement")?;
    let checked = service.check_statement(&sql);
    let details: Json = checked.problems.iter().map(detail).collect();
    Ok(super::json(
        json!({"valid": checked.is_valid(), "kind": checked.kind, "details": details, "plan": checked.plan})
            .to_string(),
    ))
}
