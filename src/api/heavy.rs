//! Limits the memory of large responses until clients have received them.
//!
//! The complete response to a slow client stays in memory; many of them together must not exhaust it. Exports and
//! metrics, which take long to make, wait for a place ([`few`]). All others share a number of bytes ([`bounded`]). A
//! response in parts frees each part when it is sent ([`Parts`]), or is made while its client receives it ([`Piped`]).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::ApiError;

/// The number of large responses at a time.
const ANSWERS: usize = 8;

/// How long a request waits for its turn.
const PATIENCE: Duration = Duration::from_secs(20);

/// The size of the parts of a body that is written while it is sent, bytes.
const PART: usize = 64 << 10;

/// The most parts that wait for the client.
const PIPED: usize = 4;

static PLACES: Semaphore = Semaphore::const_new(ANSWERS);

/// A response larger than this, bytes, takes part of [`OUTSTANDING_KIB`].
const LARGE: u64 = 64 << 10;

/// The most KiB of large responses that clients have not received yet.
const OUTSTANDING_KIB: u32 = 64 << 10;

static OUTSTANDING: Semaphore = Semaphore::const_new(OUTSTANDING_KIB as usize);

/// Marks a response that has a place.
#[derive(Clone, Copy)]
struct Placed;

/// Runs a request when there is a place for it.
pub async fn few(request: Request, next: Next) -> Response {
    let Ok(Ok(place)) = tokio::time::timeout(PATIENCE, PLACES.acquire()).await else {
        let text = format!("{ANSWERS} large answers are being sent: try again later");
        return ApiError::with_status(StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let mut response = next.run(request).await.map(|body| Body::new(Held { body, _place: place }));
    response.extensions_mut().insert(Placed);
    response
}

/// Limits the bytes of large responses.
pub async fn bounded(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let size = response.body().size_hint().lower();
    if size <= LARGE || response.extensions().get::<Placed>().is_some() {
        return response;
    }
    let kib = u32::try_from(size.div_ceil(1024)).unwrap_or(u32::MAX).min(OUTSTANDING_KIB);
    match OUTSTANDING.try_acquire_many(kib) {
        Ok(place) => response.map(|body| Body::new(Held { body, _place: place })),
        Err(_) => {
            let text = "many large answers wait for clients that do not read them: try again later";
            ApiError::with_status(StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
    }
}

/// A body in parts.
pub struct Parts {
    parts: VecDeque<Bytes>,
    left: u64,
}

impl Parts {
    /// A body of these texts, one after the other.
    pub fn body(texts: Vec<String>) -> Body {
        let left = texts.iter().map(|text| text.len() as u64).sum();
        Body::new(Parts { parts: texts.into_iter().map(Bytes::from).collect(), left })
    }
}

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.parts.pop_front();
        self.left -= part.as_ref().map_or(0, |part| part.len() as u64);
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// A body that is written while it is sent, so its source need not be in memory as one text.
pub struct Piped {
    parts: mpsc::Receiver<io::Result<Bytes>>,
}

impl Piped {
    /// A body that `write` writes on another thread, which waits for the client. An error breaks the connection, so
    /// that no client takes a part for the whole.
    pub fn body(write: impl FnOnce(&mut dyn io::Write) -> io::Result<()> + Send + 'static) -> Body {
        let (pipe, parts) = mpsc::channel(PIPED);
        tokio::task::spawn_blocking(move || {
            let mut out = io::BufWriter::with_capacity(PART, Pipe(pipe.clone()));
            if let Err(error) = write(&mut out).and_then(|()| out.flush()) {
                // A client that has left needs no error.
                let _ = pipe.blocking_send(Err(error));
            }
        });
        Body::new(Piped { parts })
    }
}

/// The writing end of a [`Piped`] body.
struct Pipe(mpsc::Sender<io::Result<Bytes>>);

impl io::Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl HttpBody for Piped {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.parts.poll_recv(context).map(|part| part.map(|part| part.map(Frame::data)))
    }
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_is_made_as_it_is_taken() {
        let text = "x".repeat(10 * PART);
        let written = text.clone();
        let body = Piped::body(move |out| out.write_all(written.as_bytes()));
        assert_eq!(body.collect().await.expect("it is whole").to_bytes(), text);
        let body = Piped::body(|out| out.write_all(b"half").and(Err(io::ErrorKind::Other.into())));
        assert!(body.collect().await.is_err());
        // A client that leaves early stops the writer.
        let (ended, end) = tokio::sync::oneshot::channel();
        let mut body = Piped::body(move |out| {
            let _ended = ended;
            loop {
                out.write_all(&[b'x'; 1024])?;
            }
        });
        assert!(body.frame().await.is_some());
        drop(body);
        let _: Result<(), _> = end.await;
    }
}
