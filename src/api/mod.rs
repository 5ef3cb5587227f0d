//! The REST API of eKuiper, as a thin face of the [`Service`]: it reads requests, and writes answers in the form that
//! scripts know. What is decided is decided in the service.
//!
//! [`app`] is the whole of it; one module holds the routes of one resource, `error` maps every refusal to its answer.
//! To add routes: a module with `pub fn routes() -> Router<Service>`, and its line in [`app`]. A handler that changes
//! something runs it through [`to_end`].
//!
//! Routes that are there:
//! - `info`: `/`, `/ping`, `/rules/usage/cpu`, `/metrics/dump`, `/metrics/dump/check`
//! - `relations`: `/streams`, `/tables`, `/streamdetails`, `/tabledetails`, `/streams/{id}`, `/streams/{id}/schema`, and
//!   the same of tables
//! - `rules`: `/rules`, `/rules/{id}`, `/rules/{id}/start`, `stop`, `restart`, `status`, `topo`, `explain`,
//!   `tags`, `trace/start`, `trace/stop`, `scantables`, `reset_state`, `/rules/validate`, `/rules/status/all`,
//!   `/rules/tags/match`, `/rules/bulkstart`, `/rules/bulkstop`, `/v2/rules/{id}/status`
//! - `transfer`: `/ruleset/import`, `/ruleset/export`, `/data/import`, `/data/import/status`, `/data/export`,
//!   `/v2/data/import`, `/v2/data/export`
//! - `prometheus`: `/metrics`
//! - `connections`: `/connections`, `/connections/{id}`, `/connection/websocket`,
//!   `/metadata/{sources|sinks|lookups}/connection/{kind}`
//! - `metadata`: `/metadata/{class}/yaml/{kind}`, `/metadata/{class}/{kind}/confKeys/{key}`

mod auth;
mod connections;
mod cors;
mod error;
mod info;
mod metadata;
mod prometheus;
mod relations;
mod rules;
mod tls;
mod transfer;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};

pub use auth::Keys;
pub use error::{ApiError, Doing};
pub use prometheus::metrics_app;
pub use tls::TlsPort;

use crate::service::{Service, ServiceError};

/// The largest body, in bytes, of any request.
pub const BODY_LIMIT: usize = 16 << 20;

/// All routes over a service. With `keys`, whoever asks must show a token.
pub fn app(service: Service, keys: Option<Arc<Keys>>) -> Router {
    let routes = Router::new()
        .merge(info::routes())
        .merge(relations::routes())
        .merge(rules::routes())
        .merge(transfer::routes())
        .merge(metadata::routes())
        .merge(connections::routes())
        .merge(prometheus::routes());
    // Only routes that are there ask for a token: an unknown one is answered as such.
    let routes = match keys {
        Some(keys) => routes.route_layer(middleware::from_fn_with_state(keys, auth::authenticate)),
        None => routes,
    };
    routes
        .fallback(|| async { (StatusCode::NOT_FOUND, "404 page not found\n") })
        .method_not_allowed_fallback(|| async { StatusCode::METHOD_NOT_ALLOWED })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn(cors::cors))
        .with_state(service)
}

/// Runs a change to its end, even if the one who asked for it has gone: half a change would be neither the old nor the
/// new state.
pub async fn to_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, ServiceError>> + Send + 'static,
) -> Result<T, ServiceError> {
    match tokio::spawn(change).await {
        Ok(done) => done,
        Err(error) => {
            tracing::error!("a change ended early: {error}");
            Err(ServiceError::Stopping)
        }
    }
}

/// A text of JSON as an answer.
fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// A body as text.
///
/// # Errors
/// `what` and a colon before why not.
fn text(body: Bytes, what: &str) -> Result<String, ApiError> {
    String::from_utf8(body.into()).map_err(|_| ApiError::bad(format!("{what}: the body is not UTF-8")))
}

/// A body as JSON of a known shape.
///
/// # Errors
/// `what` and a colon before why not.
fn read<T: serde::de::DeserializeOwned>(body: &[u8], what: &str) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|error| ApiError::bad(format!("{what}: {error}")))
}
