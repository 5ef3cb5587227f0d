//! Information about the process, and its liveness.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;

use super::ApiError;
use super::console;
use super::process::Usage;
use crate::memory;
use crate::service::Service;
use crate::time::clock_steps;

/// The routes that every process has.
pub fn routes_of_process() -> Router<Service> {
    Router::new().route("/", get(info_or_console).post(info)).route("/ping", get(|| async { StatusCode::OK }))
}

/// The routes of the process itself.
pub fn routes() -> Router<Service> {
    routes_of_process()
        .route("/stop", get(stop_by_get).post(stop))
        .route("/rules/usage/cpu", get(|| async { "cpu usage not enabled" }))
        .route("/metrics/dump/check", get(|| async { "disabled" }))
        .route("/metrics/dump", get(|| async { ApiError::bad("metrics dump not enabled") }))
}

/// Redirects browsers to the console.
async fn info_or_console(service: State<Service>, headers: HeaderMap) -> Response {
    if console::wants_page(&headers) { console::to_console().await } else { info(service).await }
}

async fn info(State(service): State<Service>) -> Response {
    let memory = used_memory();
    // The CPU use since the start, in percent of one core.
    let up = service.up_time().as_secs_f64().max(0.001);
    let cpu = Usage::now().map_or_else(|| "0%".to_owned(), |usage| format!("{:.2}%", usage.cpu_seconds / up * 100.0));
    super::json(
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "os": std::env::consts::OS,
            "arch": std::env::consts::ARCH,
            "upTimeSeconds": service.up_time().as_secs(),
            "cpuUsage": cpu,
            "memoryUsed": memory.0,
            "memoryTotal": memory.1,
            "memoryBudget": memory::budget().to_string(),
            "memoryPressure": memory::level().name(),
            "clockSteps": clock_steps(),
        })
        .to_string(),
    )
}

/// Stops the service by GET, as scripts do. A page could do so too with an image, whose request has no origin, if the
/// service has a name that browsers do not treat as secure; so requests of browsers are refused.
async fn stop_by_get(service: State<Service>, headers: HeaderMap) -> Response {
    let agent = headers.get(header::USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    if agent.starts_with(b"Mozilla/") {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    stop(service).await.into_response()
}

/// The service ends after the response, since pending requests are answered first.
async fn stop(State(service): State<Service>) -> &'static str {
    service.ask_to_end(0);
    "stop success"
}

/// Memory of this process and of the machine, bytes as text; 0 if unknown.
fn used_memory() -> (String, String) {
    let field = |file: &str, name: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some((kib * 1024).to_string())
    };
    let known = |value: Option<String>| value.unwrap_or_else(|| "0".to_owned());
    (known(field("/proc/self/status", "VmRSS:")), known(field("/proc/meminfo", "MemTotal:")))
}
