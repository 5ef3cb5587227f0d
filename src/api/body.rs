//! Reads the bodies of requests completely before a handler runs, with limits on size, time and total memory.
//!
//! Small bodies, such as statements and rules, are read at once. Only a few large ones, such as imports, are read at a
//! time, so that many clients together cannot use up the memory.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::ApiError;

/// The largest body, bytes.
pub const BODY_LIMIT: usize = 16 << 20;

/// How long a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// Bodies larger than this, bytes, need one of the [`LARGE`] places.
const SMALL: usize = 256 << 10;

/// The number of large bodies at a time; further ones wait within their time.
static LARGE: Semaphore = Semaphore::const_new(8);

/// A body that is too large is read and discarded up to this size, bytes: most clients read the response only after
/// they have sent everything.
const PATIENCE: usize = 8 * BODY_LIMIT;

/// Reads the body and passes the request on.
pub async fn whole(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    let length =
        head.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let place = match tokio::time::timeout(BODY_TIME, read(body, length)).await {
        Ok(Ok(place)) => place,
        Ok(Err(refusal)) => return refusal.into_response(),
        Err(_) => {
            let text = format!("the body did not arrive within {} s", BODY_TIME.as_secs());
            return ApiError::with_status(StatusCode::REQUEST_TIMEOUT, text).into_response();
        }
    };
    let (bytes, _place) = place;
    next.run(Request::from_parts(head, Body::from(bytes))).await
}

async fn read(body: Body, length: Option<usize>) -> Result<(Bytes, Option<SemaphorePermit<'static>>), ApiError> {
    let too_large = || {
        let text = format!("the body is larger than {BODY_LIMIT} bytes");
        ApiError::with_status(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    if length.is_some_and(|length| length > PATIENCE) {
        return Err(too_large());
    }
    let (mut all, mut place, mut size) = (Vec::new(), None, 0_usize);
    let mut parts = body.into_data_stream();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|error| ApiError::bad(format!("the body cannot be read: {error}")))?;
        size += part.len();
        if size > PATIENCE {
            return Err(too_large());
        }
        if size > BODY_LIMIT {
            (all, place) = (Vec::new(), None);
            continue;
        }
        if size > SMALL && place.is_none() {
            // The semaphore is never closed.
            place = LARGE.acquire().await.ok();
        }
        all.extend_from_slice(&part);
    }
    if size > BODY_LIMIT { Err(too_large()) } else { Ok((all.into(), place)) }
}
