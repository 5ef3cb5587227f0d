//! Settings that can change while the service runs: `PATCH /configs`. A restart restores those of the files.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::patch;
use serde::Deserialize;

use super::{ApiError, read};
use crate::config;
use crate::logging::{self, Level, LogChange};
use crate::service::Service;

/// The routes of settings.
pub fn routes() -> Router<Service> {
    Router::new().route("/configs", patch(change))
}

/// The settings that can be changed; other members are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Change {
    log_level: Option<String>,
    debug: Option<bool>,
    console_log: Option<bool>,
    file_log: Option<bool>,
    timezone: Option<String>,
    metrics_dump_config: Option<MetricsDump>,
}

#[derive(Deserialize)]
struct MetricsDump {
    #[serde(default)]
    enable: bool,
}

/// Changes everything or nothing.
async fn change(State(service): State<Service>, body: Bytes) -> Result<StatusCode, ApiError> {
    let change: Change = read(&body, "Invalid JSON")?;
    let level = match change.log_level.as_deref() {
        None | Some("") => None,
        Some(name) => Some(Level::of(name).ok_or_else(|| {
            ApiError::bad(format!("Invalid logLevel: {name:?} is none of trace, debug, info, warn, error"))
        })?),
    };
    let zone = match change.timezone.as_deref() {
        None | Some("") => None,
        Some(name) => {
            Some(config::zone(name).ok_or_else(|| ApiError::bad(format!("Invalid TZ: unknown time zone {name}")))?)
        }
    };
    if change.metrics_dump_config.is_some_and(|dump| dump.enable) {
        return Err(ApiError::bad("Invalid metricsDumpConfig: dumps of metrics are not part of Plutino"));
    }
    if let Some(zone) = zone {
        service.use_zone(zone).await?;
    }
    let log = LogChange { level, debug: change.debug, console: change.console_log, file: change.file_log };
    if log != LogChange::default() {
        logging::change(&log).map_err(|error| ApiError::bad(format!("Invalid log settings: {error}")))?;
    }
    Ok(StatusCode::NO_CONTENT)
}
