//! The REST API of eKuiper, a thin layer over the [`Service`]: it parses requests, and writes responses in the form
//! that scripts know. The service makes all decisions.
//!
//! [`app`] contains all of it; each module holds the routes of one resource, and `error` makes every error response. To
//! add routes, add a module with `pub fn routes() -> Router<Service>`, and its line in [`app`]. A handler that changes
//! something runs it through [`to_end`].
//!
//! The routes:
//! - `info`: `/`, `/ping`, `/rules/usage/cpu`, `/metrics/dump`, `/metrics/dump/check`
//! - `relations`: `/streams`, `/tables`, `/streamdetails`, `/tabledetails`, `/streams/{id}`, `/streams/{id}/schema`, and
//!   the same of tables
//! - `rules`: `/rules`, `/rules/{id}`, `/rules/{id}/start`, `stop`, `restart`, `status`, `topo`, `explain`,
//!   `schema`, `tags`, `trace/start`, `trace/stop`, `scantables`, `reset_state`, `/rules/validate`, `/rules/status/all`,
//!   `/rules/tags/match`, `/rules/bulkstart`, `/rules/bulkstop`, `/v2/rules/{id}/status`
//! - `tap`: `/rules/{id}/tap`
//! - `messages`: `/streams/{id}/messages`
//! - `overview`, `log`, `validate`: `/overview`, `/log`, `/validate`
//! - `openapi`: `/openapi.json`, made from the table in `openapi/paths.rs`: a new route needs its row there
//! - `console`: `/console/`, pages for a browser
//! - `views`: `/views`, `/views/{name}`, `/views/{name}/status`, `clients`, `rows`, `explain`, `tap`
//! - `ruletest`: `/ruletest`, `/ruletest/{id}`, `/ruletest/{id}/start`
//! - `transfer`: `/ruleset/import`, `/ruleset/export`, `/data/import`, `/data/import/status`, `/data/export`,
//!   `/v2/data/import`, `/v2/data/export`, `/store/backup`
//! - `prometheus`: `/metrics`
//! - `connections`: `/connections`, `/connections/{id}`, `/connection/websocket`,
//!   `/metadata/{sources|sinks|lookups}/connection/{kind}`
//! - `metadata`: `/metadata/{class}/yaml/{kind}`, `/metadata/{class}/{kind}/confKeys/{key}`
//! - `descriptions`: `/metadata/{class}`, `/metadata/{class}/{kind}`, `/metadata/functions`, `operators`, `resources`
//! - `configs`: `/configs`
//! - `uploads`: `/config/uploads`, `/config/uploads/{name}`
//! - `tasks`: `/async/data/import`, `/async/task/{id}`, `/async/task/{id}/cancel`
//! - `trace`: `/trace/{id}`, `/trace/rule/{id}`, `/tracer`
//! - `batch`: `/batch/req`, which runs several requests
//! - `unsupported`: `/plugins/…`, `/schemas/…`, `/services/…`, `/udf/…`
//!
//! A process that takes orders has only a few of them: see `following`.
//!
//! `docs/rest.md` describes each route. Every request passes `guard`, `redirect` and `body`, in this order.

mod audit;
mod auth;
mod batch;
mod body;
mod configs;
mod connections;
mod console;
mod descriptions;
mod details;
mod error;
mod following;
mod guard;
mod heavy;
mod info;
mod listen;
mod log;
mod looks;
mod messages;
mod metadata;
mod openapi;
mod overview;
mod process;
mod prometheus;
mod query;
mod read_only;
mod redirect;
mod relations;
mod rules;
mod ruletest;
mod tap;
mod tasks;
mod trace;
mod transfer;
mod unsupported;
mod uploads;
mod validate;
mod views;

use std::future::Future;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};

pub use auth::Keys;
pub use body::BODY_LIMIT;
pub use error::{ApiError, ErrorContext, explained};
pub use following::following_app;
pub use listen::{Tls, serve};
pub use prometheus::metrics_app;

use crate::service::{Service, ServiceError};
use crate::text::loose;
use guard::Guarded;

/// All routes over a service. With `keys`, requests need a token; with `audit`, changes are logged.
pub fn app(service: Service, keys: Option<Arc<Keys>>, audit: bool) -> Router {
    let guarded = Guarded::new(&service);
    let service_shows = service.is_read_only();
    let routes = Router::new()
        .merge(info::routes())
        .merge(relations::routes())
        .merge(rules::routes())
        .merge(tap::routes())
        .merge(messages::routes())
        .merge(openapi::routes())
        .merge(console::routes())
        .merge(validate::routes())
        .merge(overview::routes())
        .merge(log::routes())
        .merge(views::routes())
        .merge(ruletest::routes())
        .merge(transfer::routes())
        .merge(metadata::routes())
        .merge(connections::routes())
        .merge(descriptions::routes())
        .merge(configs::routes())
        .merge(uploads::routes())
        .merge(tasks::routes())
        .merge(trace::routes())
        .merge(unsupported::routes())
        .merge(prometheus::routes())
        .fallback(|| async { (StatusCode::NOT_FOUND, "404 page not found\n") })
        .method_not_allowed_fallback(|| async { StatusCode::METHOD_NOT_ALLOWED })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(service);
    // Inside batches: each request in a batch asks for details separately, and has its own line in the audit log.
    let routes = routes.route_layer(middleware::from_fn(details::details));
    let routes = match service_shows {
        true => routes.route_layer(middleware::from_fn(read_only::read_only)),
        false => routes,
    };
    let routes = if audit { routes.route_layer(middleware::from_fn(audit::audit)) } else { routes };
    let routes = batch::over(routes);
    // Only existing routes need a token; unknown ones are answered as unknown. A batch is authenticated as a whole.
    let routes = match keys {
        Some(keys) => routes.route_layer(middleware::from_fn_with_state(keys, auth::authenticate)),
        None => routes,
    };
    routes
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn(body::whole))
        .layer(middleware::from_fn(redirect::to_clean))
        .layer(middleware::from_fn(heavy::bounded))
        .layer(middleware::from_fn_with_state(guarded, guard::guard))
}

/// Completes a change even if its client has disconnected: half a change would be neither the old nor the new state.
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

/// Milliseconds since the epoch.
fn millis(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A response with JSON text.
fn json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// A body as text.
///
/// # Errors
/// `what`, a colon, and the reason.
fn text(body: Bytes, what: &str) -> Result<String, ApiError> {
    String::from_utf8(body.into()).map_err(|_| ApiError::bad(format!("{what}: the body is not UTF-8")))
}

/// Parses a JSON body; names of members match regardless of case.
///
/// # Errors
/// `what`, a colon, and the reason.
fn read<T: serde::de::DeserializeOwned>(body: &[u8], what: &str) -> Result<T, ApiError> {
    if body.is_empty() {
        return Err(ApiError::bad(format!("{what}: EOF")));
    }
    loose::from_slice(body).map_err(|error| ApiError::bad(format!("{what}: {error}")))
}
