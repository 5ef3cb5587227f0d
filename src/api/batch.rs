//! Several requests in one: `/batch/req`. They run one after the other through the normal routes.
//!
//! These routes do not include `/batch/req`, so that batches cannot be nested.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Uri, header};
use axum::response::Response;
use axum::routing::post;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use tower::ServiceExt;

use super::{ApiError, read};
use crate::text::loose;

/// The most requests of a batch.
const MOST: usize = 1000;

/// The largest total of the responses in a batch, bytes.
const ANSWERS: usize = 64 << 20;

/// Adds the batch route to the routes.
pub fn over(routes: Router) -> Router {
    let inner = routes.clone();
    routes.route("/batch/req", post(move |body: Bytes| run(inner.clone(), body)))
}

/// One request of a batch.
#[derive(Deserialize)]
struct Call {
    #[serde(default)]
    method: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    body: Json,
}

async fn run(routes: Router, body: Bytes) -> Result<Response, ApiError> {
    const WHAT: &str = "Invalid body: Error decoding json";
    let calls: Vec<Json> = read(&body, WHAT)?;
    let calls = calls.into_iter().map(loose::from_value).collect::<Result<Vec<Call>, _>>();
    let calls = calls.map_err(|error| ApiError::bad(format!("{WHAT}: {error}")))?;
    if calls.len() > MOST {
        return Err(ApiError::bad(format!("a batch has at most {MOST} requests, this one has {}", calls.len())));
    }
    let (mut answers, mut left) = (Vec::with_capacity(calls.len()), ANSWERS);
    for call in calls {
        let answer = match call.request() {
            Ok(request) => ask(&routes, request, &mut left).await,
            Err(error) => json!({"code": 400, "error": error}),
        };
        answers.push(answer);
    }
    Ok(super::json(Json::Array(answers).to_string()))
}

impl Call {
    fn request(self) -> Result<Request, String> {
        let Call { method, path, body } = self;
        let method: Method = method.to_ascii_uppercase().parse().map_err(|_| format!("{method:?} is not a method"))?;
        if !path.starts_with('/') {
            return Err(format!("the path {path:?} does not begin with /"));
        }
        let uri: Uri = path.parse().map_err(|error| format!("{path:?} is not a path: {error}"))?;
        if uri.path() == "/batch/req" {
            return Err("a batch cannot hold another one".to_owned());
        }
        let text = match body {
            Json::Null => String::new(),
            Json::String(text) => text,
            other => other.to_string(),
        };
        let mut request = Request::new(Body::from(text));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(request)
    }
}

async fn ask(routes: &Router, request: Request, left: &mut usize) -> Json {
    // Routers cannot fail.
    let answer = routes.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    let (head, body) = answer.into_parts();
    let kind = head.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if kind.starts_with(b"text/event-stream") {
        // Events never end, so the batch would not end either.
        return json!({"code": 400, "error": "a batch cannot hold a stream of events"});
    }
    let mut response = Map::from_iter([("code".to_owned(), head.status.as_u16().into())]);
    match axum::body::to_bytes(body, *left).await {
        Ok(bytes) => {
            *left -= bytes.len();
            // A response without a body has none in the batch either.
            if !bytes.is_empty() {
                response.insert("response".to_owned(), String::from_utf8_lossy(&bytes).into());
            }
        }
        Err(_) => {
            response
                .insert("error".to_owned(), format!("the answers of a batch are larger than {ANSWERS} bytes").into());
        }
    }
    Json::Object(response)
}
