//! The API of a read-only service: nothing can be changed.

use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::ApiError;

/// Passes requests that only read or check.
pub async fn read_only(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let reads = match *request.method() {
        Method::GET | Method::HEAD | Method::OPTIONS => !matches!(path, "/stop" | "/store/backup"),
        Method::POST => matches!(path, "/" | "/validate" | "/rules/validate"),
        _ => false,
    };
    if reads {
        return next.run(request).await;
    }
    let message = "plutino run shows its rules and changes none here: change the rule file, which --watch follows";
    ApiError::with_status(StatusCode::FORBIDDEN, message).into_response()
}
