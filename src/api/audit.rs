//! The trail of changes, where `basic.enableRestAuditLog` is on: a line in the log for each request that may change
//! something, with method, path and status.
//!
//! Neither bodies nor queries stand in it, since they can hold secrets. A request that is refused for its token
//! changes nothing and has no line. One whose client goes before it is answered has a line, too: what it asked for is
//! done all the same.

use axum::extract::Request;
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;

/// Answers a request, and writes it to the log if it may have changed something.
pub async fn audit(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return next.run(request).await;
    }
    let mut line = Line { method: request.method().clone(), path: request.uri().path().to_owned(), status: GONE };
    let answer = next.run(request).await;
    line.status = answer.status().as_u16();
    answer
}

/// The status of a request whose client did not wait for the answer, as web servers write it.
const GONE: u16 = 499;

/// What is told of a request, when it is dropped: a client that goes takes the request's future with it.
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
