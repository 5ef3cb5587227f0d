//! `/streams/{name}/messages`: every message of a stream as it arrives, as server-sent events with the lines of a
//! recording.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
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
use crate::io::queue::{Frame, Origin};
use crate::io::recording::{self, Recorded};
use crate::metrics::{MessageReader, StreamMessage};
use crate::service::Service;
use crate::value::{Text, json};

/// How often a silent stream sends a sign of life.
const ALIVE: Duration = Duration::from_secs(5);

/// The most connections that have a number. Beyond it, all connections get new numbers.
const CONNECTIONS: usize = 65_536;

/// The routes of messages.
pub fn routes() -> Router<Service> {
    Router::new().route("/streams/{name}/messages", get(messages))
}

async fn messages(
    State(service): State<Service>,
    Path(name): Path<String>,
    ending: Option<Extension<Ending>>,
) -> Result<Response, ApiError> {
    let reader = service.record_stream(&name).await.context("record stream error")?;
    let events = Events {
        reader,
        reported: 0,
        connections: Connections::default(),
        ending: ending.map(|Extension(ending)| ending),
    };
    // The first line confirms to the client that no message is missed from then on.
    let begun = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b": recording\n\n"))]);
    let body = Body::from_stream(stream::StreamExt::chain(begun, stream::unfold(events, Events::next)));
    Ok(([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")], body).into_response())
}

/// Messages on their way to a client.
struct Events {
    reader: MessageReader,
    /// the number of lost messages that was reported to the client
    reported: u64,
    connections: Connections,
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
            Ok(Some(message)) => format!("data: {}\n\n", recording::line(&self.connections.recorded(message))),
            Err(_) => ":\n\n".to_owned(),
        };
        let lost = self.reader.lost();
        if lost > self.reported {
            text.push_str(&format!("event: lost\ndata: {lost}\n\n"));
            self.reported = lost;
        }
        Some((Ok(Bytes::from(text)), self))
    }
}

/// The connections of a recording: each has a number, by its `meta(client)`.
#[derive(Default)]
struct Connections {
    numbers: HashMap<Text, u64>,
    last: u64,
}

impl Connections {
    /// A message of a recording; the first one of a connection includes the connection's description.
    fn recorded(&mut self, message: StreamMessage) -> Recorded {
        let StreamMessage { at, binary, bytes, meta } = message;
        let frame = match String::from_utf8(bytes) {
            Ok(text) if !binary => Frame::Text(text.into()),
            Ok(text) => Frame::Binary(text.into_bytes().into()),
            Err(error) => Frame::Binary(error.into_bytes().into()),
        };
        let client = meta.as_ref().map(|meta| json::member(meta, "client"));
        let client = Text::from(client.as_ref().and_then(|client| client.as_text()).unwrap_or_default());
        if let Some(&connection) = self.numbers.get(&client) {
            return Recorded { at, connection, frame, origin: None };
        }
        if self.numbers.len() == CONNECTIONS {
            self.numbers.clear();
        }
        self.last += 1;
        self.numbers.insert(client, self.last);
        Recorded { at, connection: self.last, frame, origin: meta.map(|meta| Arc::new(Origin { meta })) }
    }
}
