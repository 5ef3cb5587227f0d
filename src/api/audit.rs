//! The audit log (`basic.enableRestAuditLog`): one line for each request that may change something, with method, path
//! and status.
//!
//! It contains neither bodies nor queries, which may hold secrets. A request that is refused for its token changes
//! nothing and is not logged. If a client disconnects before the response, its request is logged nevertheless: the
//! change is completed.

use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

/// Runs a request, and logs it if it may have changed something.
pub async fn audit(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return next.run(request).await;
    }
    let mut line = Line { method: request.method().clone(), path: request.uri().path().to_owned(), status: GONE };
    let answer = next.run(request).await;
    line.status = answer.status().as_u16();
    answer
}

/// The status logged for a request whose client did not wait for the response, as in web server logs.
const GONE: u16 = 499;

/// Logs a request when it is dropped: a client that disconnects drops the future of its request.
struct Line {
    method: Method,
    path: String,
    status: u16,
}

impl Drop for Line {
    fn drop(&mut self) {
        let Line { method, path, status } = self;
        tracing::info!(target: crate::logging::AUDIT, %method, path = path.as_str(), status, "change");
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::body::Body;
    use axum::routing::delete;
    use futures_util::FutureExt;
    use tower::ServiceExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_change_has_a_line_even_if_nobody_waits_for_its_answer() {
        let lines = Lines::default();
        let (to, written) = (lines.clone(), || String::from_utf8(lines.0.lock().unwrap().clone()).unwrap());
        let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone()).finish();
        tracing::subscriber::with_default(log, || {
            let never = delete(std::future::pending::<()>);
            let app = Router::new().route("/rules/{id}", never).route_layer(axum::middleware::from_fn(audit));
            let request = Request::delete("/rules/r?a=b").body(Body::empty()).unwrap();
            let mut asked = Box::pin(app.oneshot(request));
            assert!((&mut asked).now_or_never().is_none());
            assert_eq!(written(), "");
            drop(asked);
        });
        let line = written();
        assert!(line.contains("change method=DELETE path=\"/rules/r\" status=499"), "{line}");
        assert_eq!(line.lines().count(), 1);
    }
}
