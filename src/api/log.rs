//! `/log`: the last lines of the log.

use axum::Router;
use axum::response::Response;
use axum::routing::get;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::query::Params;
use crate::logging;
use crate::service::Service;

/// The routes of the log.
pub fn routes() -> Router<Service> {
    Router::new().route("/log", get(lines))
}

/// The parameters of a request for log lines.
#[derive(Deserialize)]
struct Wanted {
    /// only lines after the one with this number
    #[serde(default)]
    after: u64,
    /// only lines that contain this text, regardless of case
    #[serde(default)]
    filter: String,
}

async fn lines(Params(wanted): Params<Wanted>) -> Response {
    let (lines, last) = logging::recent(wanted.after);
    let filter = wanted.filter.to_lowercase();
    let holds = |text: &str| filter.is_empty() || text.to_lowercase().contains(&filter);
    let lines: Json = lines
        .into_iter()
        .filter(|(_, text)| holds(text))
        .map(|(number, text)| json!({"number": number, "text": text}))
        .collect();
    super::json(json!({"lines": lines, "last": last}).to_string())
}
