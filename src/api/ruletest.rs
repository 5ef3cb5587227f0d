//! Trials: `/ruletest` and the paths below it. Their results are events of the data server, not of this API.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{delete, post};
use serde_json::json;

use super::{ApiError, ErrorContext, text, to_end};
use crate::service::{Service, ServiceError};

/// The routes of trials.
pub fn routes() -> Router<Service> {
    Router::new()
        .route("/ruletest", post(create))
        .route("/ruletest/{id}/start", post(start))
        .route("/ruletest/{id}", delete(end))
}

async fn create(State(service): State<Service>, body: Bytes) -> Result<Response, ApiError> {
    let body = text(body, "fail to parse rule definition")?;
    let made = {
        let (service, body) = (service.clone(), body.clone());
        to_end(async move { service.create_trial(&body).await }).await
    };
    let trial = made.map_err(|error| {
        let wrong = matches!(error, ServiceError::Trial { .. });
        let error = ApiError::from(error);
        if wrong { error.with_problems(&service.problems_of_rule(&body, None, false)) } else { error }
    })?;
    Ok(super::json(json!({"id": trial.id, "port": trial.port}).to_string()))
}

async fn start(State(service): State<Service>, Path(id): Path<String>) -> Result<String, ApiError> {
    let done = format!("Test rule {id} was started");
    to_end(async move { service.start_trial(&id).await }).await.context("start rule error")?;
    Ok(done)
}

async fn end(State(service): State<Service>, Path(id): Path<String>) -> Result<String, ApiError> {
    let done = format!("Test rule {id} was stopped.");
    to_end(async move {
        service.end_trial(&id).await;
        Ok(())
    })
    .await?;
    Ok(done)
}
