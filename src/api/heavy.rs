//! Limits large responses, such as exports: only a few at a time, until their clients have received them.
//!
//! The complete response for a slow client stays in memory; many of them together must not take all of it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::ApiError;

/// The number of large responses at a time.
const ANSWERS: usize = 8;

/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(20);

static PLACES: Semaphore = Semaphore::const_new(ANSWERS);

/// Runs a request when it is its turn.
pub async fn few(request: Request, next: Next) -> Response {
    let Ok(Ok(place)) = tokio::time::timeout(PATIENCE, PLACES.acquire()).await else {
        let text = format!("{ANSWERS} large answers are being sent: try again later");
        return ApiError::with_status(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    next.run(request).await.map(|body| Body::new(Held { body, _place: place }))
}

/// A body with its place, which is freed when the body has been sent or dropped.
struct Held {
    body: Body,
    _place: SemaphorePermit<'static>,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
