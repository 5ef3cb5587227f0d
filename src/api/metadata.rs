//! Conf keys under `/metadata`.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, put};
use axum::{Extension, Router};
use serde_json::Value as Json;

use super::details::Asked;
use super::error::accepted;
use super::{ApiError, to_end};
use crate::service::{Code, Service};
use crate::text::document::Problem;
use crate::text::secret;

/// The routes of conf keys.
pub fn routes() -> Router<Service> {
    let mut routes = Router::new();
    for class in ["sources", "sinks", "connections"] {
        routes = routes
            .route(
                &format!("/metadata/{class}/yaml/{{kind}}"),
                get(move |State(service): State<Service>, Path(kind): Path<String>| async move {
                    list(&service, class, &kind)
                }),
            )
            .route(
                &format!("/metadata/{class}/{{kind}}/confKeys/{{key}}"),
                put(move |service, asked, path, body| put_key(service, asked, path, body, class))
                    .delete(move |service, path| delete_key(service, path, class)),
            );
    }
    routes
}

fn list(service: &Service, class: &str, kind: &str) -> Result<Response, ApiError> {
    let mut keys = service.conf_keys(class, kind)?;
    secret::mask_sets(&mut keys);
    Ok(super::json(Json::Object(keys).to_string()))
}

async fn put_key(
    State(service): State<Service>,
    Extension(asked): Extension<Asked>,
    Path((kind, key)): Path<(String, String)>,
    body: Bytes,
    class: &'static str,
) -> Result<Response, ApiError> {
    let props: Json = serde_json::from_slice(&body)
        .map_err(|error| ApiError::new(Code::ConfKey, format!("Type conversion failed:{error}")))?;
    let warnings = match props.as_object().filter(|_| asked.0) {
        Some(props) => service.warnings_of_conf_key(class, &kind, props),
        None => Vec::new(),
    };
    let subject = format!("conf key {key}");
    to_end(async move { service.put_conf_key(class, &kind, &key, props).await }).await?;
    let warnings: Vec<Problem> =
        warnings.into_iter().map(|text| Problem::warning("confkey", None, subject.as_str(), text)).collect();
    Ok(accepted(StatusCode::OK, String::new(), &warnings))
}

async fn delete_key(
    State(service): State<Service>,
    Path((kind, key)): Path<(String, String)>,
    class: &'static str,
) -> Result<(), ApiError> {
    Ok(to_end(async move { service.drop_conf_key(class, &kind, &key).await }).await?)
}
