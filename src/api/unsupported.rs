//! Features of eKuiper that Plutino does not have: plugins, schemas, external services, scripts.
//!
//! Lists exist and are empty, since scripts and pages read them. Requests for a single item get 404; creating one is
//! refused.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};

use super::ApiError;
use crate::service::{Code, Service};

/// The kinds of plugins and of the functions in them.
const PLUGINS: [&str; 4] = ["sources", "sinks", "functions", "portables"];

/// The kinds of schemas that eKuiper has.
const SCHEMAS: [&str; 2] = ["protobuf", "custom"];

/// The routes of unsupported features.
pub fn routes() -> Router<Service> {
    let mut routes = Router::new()
        .route("/plugins/udfs", get(nothing))
        .route("/plugins/udfs/{name}", get(none_of_functions))
        .route("/plugins/functions/{name}/register", post(|| refused("plugins")))
        .route("/plugins/portables/{name}/status", get(|Path(name): Path<String>| none("portable plugin", name)))
        .route("/schemas/{kind}", get(schemas).post(|| refused("schemas")))
        .route("/schemas/{kind}/{name}", get(schema).put(|| refused("schemas")).delete(no_schema_to_drop))
        .route("/services", get(nothing).post(|| refused("external services")))
        .route("/services/functions", get(nothing))
        .route("/services/functions/{name}", get(|Path(name): Path<String>| none("function", name)))
        .route(
            "/services/{name}",
            get(|Path(name): Path<String>| none("service", name))
                .put(|Path(name): Path<String>| {
                    not_there(format!("service update command error: {} is not found", shown(&name)))
                })
                .delete(|Path(name): Path<String>| {
                    not_there(format!("delete service {0} error: {0} is not found", shown(&name)))
                }),
        )
        .route("/udf/javascript", get(nothing).post(|| refused("functions in JavaScript")))
        .route(
            "/udf/javascript/{name}",
            get(|Path(name): Path<String>| none("udf", name))
                .put(|| refused("functions in JavaScript"))
                .delete(|Path(name): Path<String>| none("udf", name)),
        );
    for kind in PLUGINS {
        let what = match kind {
            "sources" => "source plugin",
            "sinks" => "sink plugin",
            "functions" => "function plugin",
            _ => "portable plugin",
        };
        routes = routes
            .route(&format!("/plugins/{kind}"), get(nothing).post(|| refused("plugins")))
            .route(&format!("/plugins/{kind}/prebuild"), get(prebuilt))
            .route(
                &format!("/plugins/{kind}/{{name}}"),
                get(move |Path(name): Path<String>| none(what, name))
                    .put(|| refused("plugins"))
                    .delete(move |Path(name): Path<String>| none(what, name)),
            );
    }
    routes
}

async fn nothing() -> Response {
    super::json("[]".to_owned())
}

async fn prebuilt() -> Response {
    super::json("{}".to_owned())
}

async fn refused(what: &str) -> ApiError {
    ApiError::with_status(StatusCode::BAD_REQUEST, format!("{what} are not part of Plutino"))
}

async fn none(what: &str, name: String) -> ApiError {
    ApiError::new(Code::NotFound, format!("describe {what} {} error: not found", shown(&name)))
}

async fn not_there(message: String) -> ApiError {
    ApiError::new(Code::NotFound, message)
}

async fn none_of_functions(Path(name): Path<String>) -> ApiError {
    ApiError::new(Code::NotFound, format!("describe udf {} error: not found", shown(&name)))
}

async fn schemas(Path(kind): Path<String>) -> Result<Response, ApiError> {
    known(&kind)?;
    Ok(nothing().await)
}

async fn schema(Path((kind, name)): Path<(String, String)>) -> Result<(), ApiError> {
    known(&kind)?;
    Err(ApiError::bad(format!("schema type {kind} id {} not found in registry", shown(&name))))
}

async fn no_schema_to_drop(Path((kind, name)): Path<(String, String)>) -> Result<(), ApiError> {
    known(&kind)?;
    let (kind, name) = (shown(&kind), shown(&name));
    Err(ApiError::bad(format!("delete {kind} schema {name} error: schema {kind}.{name} not found")))
}

fn known(kind: &str) -> Result<(), ApiError> {
    if SCHEMAS.contains(&kind) {
        return Ok(());
    }
    Err(ApiError::bad(format!("schema type {} not found", shown(kind))))
}

/// A long name is truncated in the response.
fn shown(name: &str) -> String {
    name.chars().take(256).collect()
}
