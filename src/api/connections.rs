//! Named connections under `/connections`, endpoints under `/connection/websocket`, and connectivity checks under
//! `/metadata/{class}/connection`.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::details::Asked;
use super::error::accepted;
use super::query::Params;
use super::{ApiError, ErrorContext, read, to_end};
use crate::service::{CheckedEnd, ConnectionReport, Service};
use crate::text::secret;

/// eKuiper's response to a change.
const DONE: &str = "success";

/// The routes of connections.
pub fn routes() -> Router<Service> {
    let mut routes = Router::new()
        .route("/connections", get(list).post(create))
        .route("/connections/{id}", get(describe).put(update).delete(drop_one))
        .route("/connection/websocket", get(has_endpoint).post(open_endpoint).delete(close_endpoint));
    for (class, end) in [("sources", CheckedEnd::Source), ("sinks", CheckedEnd::Sink), ("lookups", CheckedEnd::Lookup)]
    {
        routes = routes.route(
            &format!("/metadata/{class}/connection/{{kind}}"),
            post(move |service, kind, body| check(service, kind, body, end)),
        );
    }
    routes
}

/// A connection as posted.
#[derive(Deserialize)]
struct Posted {
    #[serde(default)]
    id: String,
    #[serde(default)]
    typ: String,
    #[serde(default)]
    props: Option<Map<String, Json>>,
}

#[derive(Deserialize)]
struct Which {
    #[serde(rename = "forceAll")]
    force_all: Option<String>,
}

async fn list(State(service): State<Service>, Params(which): Params<Which>) -> Response {
    let all = which.force_all.is_some_and(|all| ["1", "t", "true"].iter().any(|yes| all.eq_ignore_ascii_case(yes)));
    let reports = service.connections_everywhere(all).await;
    super::json(Json::Array(reports.into_iter().map(shown).collect()).to_string())
}

async fn create(
    State(service): State<Service>,
    Extension(asked): Extension<Asked>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let Posted { id, typ, props } = read(&body, "Invalid body")?;
    let props = props.unwrap_or_default();
    let warnings = if asked.0 { service.warnings_of_connection(&id, &typ, &props) } else { Vec::new() };
    let change = async move { service.create_connection(&id, &typ, props).await };
    to_end(change).await.context("create connection failed")?;
    Ok(accepted(StatusCode::CREATED, DONE.to_owned(), &warnings))
}

async fn describe(State(service): State<Service>, Path(id): Path<String>) -> Result<Response, ApiError> {
    Ok(super::json(shown(service.connection_everywhere(&id).await?).to_string()))
}

async fn update(
    State(service): State<Service>,
    Extension(asked): Extension<Asked>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let Posted { typ, props, .. } = read(&body, "Invalid body")?;
    let props = props.unwrap_or_default();
    let warnings = if asked.0 { service.warnings_of_connection(&id, &typ, &props) } else { Vec::new() };
    let change = async move { service.update_connection(&id, &typ, props).await };
    to_end(change).await.context("update connection failed")?;
    Ok(accepted(StatusCode::OK, DONE.to_owned(), &warnings))
}

async fn drop_one(State(service): State<Service>, Path(id): Path<String>) -> Result<&'static str, ApiError> {
    to_end(async move { service.delete_connection(&id).await }).await.context("drop connection failed")?;
    Ok(DONE)
}

fn shown(report: ConnectionReport) -> Json {
    let ConnectionReport { id, kind, props, named, state, error, uses } = report;
    let mut props = Json::Object(props);
    secret::mask(&mut props);
    let mut shown = Map::from_iter([
        ("id".to_owned(), Json::from(secret::masked_url(&id))),
        ("typ".to_owned(), Json::from(kind)),
        ("props".to_owned(), props),
        ("isNamed".to_owned(), Json::from(named)),
        ("status".to_owned(), Json::from(state.name())),
    ]);
    if let Some(error) = error.filter(|error| !error.is_empty()) {
        shown.insert("err".to_owned(), Json::from(error));
    }
    if uses > 0 {
        shown.insert("refCount".to_owned(), Json::from(uses));
    }
    Json::Object(shown)
}

/// The path of an endpoint: in the body, or as a parameter, since clients may not send a body with GET.
#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    endpoint: String,
}

impl Endpoint {
    fn of(body: &[u8], asked: Option<Endpoint>) -> Result<String, ApiError> {
        let Endpoint { endpoint } = match asked.filter(|asked| body.is_empty() && !asked.endpoint.is_empty()) {
            Some(asked) => asked,
            None => read(body, "Invalid body")?,
        };
        if endpoint.is_empty() {
            return Err(ApiError::bad("Invalid body: endpoint should be defined"));
        }
        Ok(endpoint)
    }
}

async fn has_endpoint(
    State(service): State<Service>,
    Params(asked): Params<Endpoint>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let path = Endpoint::of(&body, Some(asked))?;
    Ok(super::json(service.has_endpoint(&path).await.to_string()))
}

async fn open_endpoint(State(service): State<Service>, body: Bytes) -> Result<(), ApiError> {
    let path = Endpoint::of(&body, None)?;
    Ok(to_end(async move { service.open_endpoint(&path).await }).await?)
}

async fn close_endpoint(
    State(service): State<Service>,
    Params(asked): Params<Endpoint>,
    body: Bytes,
) -> Result<(), ApiError> {
    let path = Endpoint::of(&body, Some(asked))?;
    Ok(to_end(async move { service.close_endpoint(&path).await }).await?)
}

async fn check(
    State(service): State<Service>,
    Path(kind): Path<String>,
    body: Bytes,
    end: CheckedEnd,
) -> Result<(), ApiError> {
    let props = read(&body, "Invalid body")?;
    // If the client disconnects, the check may end early, since it changes nothing.
    Ok(service.check_connection(end, &kind, props).await?)
}
