//! `/rules/{id}/tap` and `/views/{name}/tap`: the rows between the operators of a running rule or view, as server-sent
//! events.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream;
use serde::Deserialize;

use super::listen::{self, Ending};
use super::query::Params;
use super::{ApiError, ErrorContext};
use crate::metrics::{Point, TapReader, TapSettings, TappedRow};
use crate::service::{Service, check_id};

/// How often a silent tap sends a sign of life.
const ALIVE: Duration = Duration::from_secs(5);

/// The routes of taps.
pub fn routes() -> Router<Service> {
    Router::new().route("/rules/{id}/tap", get(tap))
}

/// The points at which a view can be tapped: its messages, its decoded messages, and its new and changed rows.
const OF_VIEW: [Point; 3] = [Point::Source, Point::Decode, Point::Project];

/// The parameters of a tap.
#[derive(Deserialize)]
pub struct Asked {
    /// operators, separated by commas; `None`: all
    op: Option<String>,
    /// the tap ends after this many rows
    limit: Option<u64>,
    /// at most one row of each operator in this many ms
    every: Option<u64>,
}

async fn tap(
    State(service): State<Service>,
    Path(id): Path<String>,
    Params(asked): Params<Asked>,
    ending: Option<Extension<Ending>>,
) -> Result<Response, ApiError> {
    let settings = asked.settings(&Point::ALL)?;
    let reader = service.tap_rule(&id, &settings).await.context("get rule tap error")?;
    Ok(events(reader, &settings, &asked, ending))
}

/// Taps the rows of a view.
pub async fn of_view(
    State(service): State<Service>,
    Path(name): Path<String>,
    Params(asked): Params<Asked>,
    ending: Option<Extension<Ending>>,
) -> Result<Response, ApiError> {
    check_id(&name)?;
    let settings = asked.settings(&OF_VIEW)?;
    let reader = service.tap_view(&name, &settings).await.context("get view tap error")?;
    Ok(events(reader, &settings, &asked, ending))
}

impl Asked {
    /// The settings of a tap, for something that can be tapped at these points.
    fn settings(&self, known: &[Point]) -> Result<TapSettings, ApiError> {
        let points = match self.op.as_deref().filter(|op| !op.is_empty()) {
            None => known.to_vec(),
            Some(names) => names.split(',').map(|name| point(name.trim(), known)).collect::<Result<Vec<_>, _>>()?,
        };
        Ok(TapSettings { points, every: self.every.filter(|every| *every > 0).map(Duration::from_millis) })
    }
}

fn events(reader: TapReader, settings: &TapSettings, asked: &Asked, ending: Option<Extension<Ending>>) -> Response {
    let (named, left) = (settings.points.len() > 1, asked.limit.unwrap_or(u64::MAX));
    let events = Events { reader, named, left, reported: 0, ending: ending.map(|Extension(ending)| ending) };
    // The first line confirms to the client that the tap is open.
    let begun = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b": tapped\n\n"))]);
    let rows = stream::unfold(events, Events::next);
    let body = Body::from_stream(stream::StreamExt::chain(begun, rows));
    ([(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")], body).into_response()
}

fn point(name: &str, known: &[Point]) -> Result<Point, ApiError> {
    Point::of(name).filter(|point| known.contains(point)).ok_or_else(|| {
        let names = known.iter().map(|point| point.as_str()).collect::<Vec<_>>().join(", ");
        ApiError::bad(format!(
            "get tap error: {name:?} is not an operator whose rows can be seen: expected one of {names}"
        ))
    })
}

/// A tap's rows on their way to a client.
struct Events {
    reader: TapReader,
    /// whether each row names its operator
    named: bool,
    left: u64,
    /// the number of skipped rows that was reported to the client
    reported: u64,
    /// the end of the API, which does not wait for taps
    ending: Option<Ending>,
}

impl Events {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Events)> {
        if self.left == 0 {
            return None;
        }
        let mut text = String::new();
        let row = tokio::select! {
            row = tokio::time::timeout(ALIVE, self.reader.next()) => row,
            () = listen::begun(&mut self.ending) => return None,
        };
        match row {
            Ok(None) => return None,
            Ok(Some(row)) => {
                self.left -= 1;
                self.event(&mut text, &row);
            }
            Err(_) => text.push_str(":\n\n"),
        }
        let skipped = self.reader.skipped();
        if skipped > self.reported {
            // Writing to a String cannot fail.
            let _ = write!(text, "event: skipped\ndata: {skipped}\n\n");
            self.reported = skipped;
        }
        Some((Ok(Bytes::from(text)), self))
    }

    fn event(&self, text: &mut String, row: &TappedRow) {
        if self.named {
            let _ = writeln!(text, "event: {}", row.point.as_str());
        }
        for line in row.text.split(['\n', '\r']) {
            let _ = writeln!(text, "data: {line}");
        }
        text.push('\n');
    }
}
