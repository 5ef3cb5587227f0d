//! The trail of changes, where `basic.enableRestAuditLog` is on: a line in the log for each request that may change
//! something, with method, path and status.
//!
//! Neither bodies nor queries stand in it, since they can hold secrets. A request that is refused for its token
//! changes nothing and has no line.

use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

/// Answers a request, and writes it to the log if it may have changed something.
pub async fn audit(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return next.run(request).await;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = next.run(request).await;
    tracing::info!(target: crate::logging::AUDIT, %method, path, status = answer.status().as_u16(), "change");
    answer
}
