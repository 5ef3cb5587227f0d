//! `/streams/{name}/messages`: each message of a stream as it comes, as server-sent events with lines of a recording.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream;

use super::listen::{self, Ending};
use super::{ApiError, ErrorContext};
use crate::io::queue::Frame;
use crate::io::recording::{self, Recorded};
use crate::metrics::{MessageReader, StreamMessage};
use crate::service::Service;

/// How often a silent stream says that it is alive.
const ALIVE: Duration = Duration::from_secs(5);

/// The routes of messages.
pub fn routes() -> Router<Service> {
    Router::new().route("/streams/{name}/messages", get(messages))
}

async fn messages(
    State(service): State<Service>,
    Path(name): Path<String>,
    ending: Option<Extension<Ending>>,
) -> Result<Response, ApiError> {
    let reader = service.record_stream(&name).await.doing("record stream error")?;
    let events = Events { reader, told: 0, ending: ending.map(|Extension(ending)| ending) };
    // The first line tells whoever waits for it that no message is missed from then on.
    let begun = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b": recording\n\n"))]);
    let body = Body::from_stream(stream::StreamExt::chain(begun, stream::unfold(events, Events::next)));
    Ok(([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")], body).into_response())
}

/// Messages on their way to a client.
struct Events {
    reader: MessageReader,
    /// lost messages that the client has been told of
    told: u64,
    ending: Option<Ending>,
}

impl Events {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Events)> {
        let message = tokio::select! {
            message = tokio::time::timeout(ALIVE, self.reader.next()) => message,
            () = listen::begun(&mut self.ending) => return None,
        };
        let mut text = match message {
            Ok(None) => return None,
            Ok(Some(message)) => format!("data: {}\n\n", recording::line(&recorded(message))),
            Err(_) => ":\n\n".to_owned(),
        };
        let lost = self.reader.lost();
        if lost > self.told {
            text.push_str(&format!("event: lost\ndata: {lost}\n\n"));
            self.told = lost;
        }
        Some((Ok(Bytes::from(text)), self))
    }
}

/// A message of a recording. Which connection it came on is not known any more: all have the same.
fn recorded(message: StreamMessage) -> Recorded {
    let StreamMessage { at, binary, bytes } = message;
    let frame = match String::from_utf8(bytes) {
        Ok(text) if !binary => Frame::Text(text.into()),
        Ok(text) => Frame::Binary(text.into_bytes().into()),
        Err(error) => Frame::Binary(error.into_bytes().into()),
    };
    Recorded { at, connection: 1, frame }
}
