//! `/overview`: the service with all its rules and views in one response, for `plutino top` and the console. It has
//! totals since the start; clients compute rates from two responses.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value as Json, json};

use super::looks;
use super::process::Usage;
use crate::io::LinkState;
use crate::service::{Phase, RuleReport, Service, ViewReport};

/// The routes of the overview.
pub fn routes() -> Router<Service> {
    Router::new().route("/overview", get(overview))
}

async fn overview(State(service): State<Service>) -> Response {
    let mut rules = Vec::new();
    let mut states: BTreeMap<&str, u64> = BTreeMap::new();
    let mut lost: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut messages_in, mut messages_out, mut clients) = (0, 0, 0);
    let names: BTreeMap<String, String> = service.rules().into_iter().map(|rule| (rule.id, rule.name)).collect();
    for (id, report) in service.rule_reports().await {
        *states.entry(state(report.phase)).or_default() += 1;
        for (cause, count) in report.losses.by_cause() {
            *lost.entry(cause).or_default() += count;
        }
        let shown = of_rule(&id, names.get(&id).map_or("", String::as_str), &report);
        messages_in += shown["in"].as_u64().unwrap_or(0);
        messages_out += shown["out"].as_u64().unwrap_or(0);
        clients += shown["clients"].as_u64().unwrap_or(0);
        rules.push(shown);
    }
    let mut views = Vec::new();
    for name in service.views() {
        // The same for views.
        let Ok(report) = service.view_status(&name).await else { continue };
        views.push(of_view(&name, &report));
    }
    let usage = Usage::now();
    let refused: BTreeMap<&str, u64> = service.refused_everywhere().await.into_iter().collect();
    let away = service.turned_away().await;
    let away = away.iter().rev().map(|away| {
        json!({
            "path": away.path, "cause": away.cause, "reason": away.reason, "count": away.count, "peer": away.peer,
            "time": super::millis(away.time),
        })
    });
    super::json(
        json!({
            "time": super::millis(std::time::SystemTime::now()),
            "version": env!("CARGO_PKG_VERSION"),
            "readOnly": service.is_read_only(),
            "upTimeSeconds": service.up_time().as_secs(),
            "cpuSeconds": usage.map(|usage| usage.cpu_seconds),
            "memoryBytes": usage.map(|usage| usage.resident_bytes),
            "dataServer": service.listening().await.map(|address| address.to_string()),
            "dataServerTls": service.config().server.tls.is_some(),
            "states": states,
            "in": messages_in, "out": messages_out, "clients": clients, "lost": lost,
            "refusedHandshakes": refused, "turnedAway": away.collect::<Json>(),
            "rules": rules, "views": views,
        })
        .to_string(),
    )
}

fn of_rule(id: &str, name: &str, report: &RuleReport) -> Json {
    let engine = report.engine.as_ref();
    let links =
        || engine.into_iter().flat_map(|engine| engine.sources.iter().map(|(_, link)| link).chain(&engine.sinks));
    // Only endpoints of the data server have clients; files and dialled peers do not count.
    let clients: usize = links().filter(|link| link.serves()).map(|link| link.peers).sum();
    let waiting: usize = engine.map_or(0, |engine| engine.sinks.iter().map(|sink| sink.queued + sink.stored).sum());
    let unconnected = links().filter(|link| !link.serves() && link.state != LinkState::Connected).count();
    let latency = engine.and_then(|engine| engine.latency);
    json!({
        "id": id, "name": name, "status": state(report.phase), "message": report.message,
        "started": report.last_start,
        "in": engine.map_or(0, |engine| engine.rows_in), "out": engine.map_or(0, |engine| engine.rows_out),
        "errors": report.exceptions, "lastError": report.last_exception,
        "lost": report.losses.by_cause().values().sum::<u64>(), "clients": clients,
        "waiting": waiting, "unconnected": unconnected,
        "p50Us": latency.map(|latency| latency.p50_us), "p99Us": latency.map(|latency| latency.p99_us),
        "watermarkLagMs": report.watermark_lag,
    })
}

fn of_view(name: &str, report: &ViewReport) -> Json {
    let (view, engine) = (&report.view, report.engine.as_ref());
    let last_error = engine.and_then(|engine| engine.last_error.as_ref());
    json!({
        "name": name, "status": if report.stopped.is_some() { "stopped" } else { "running" },
        "message": report.stopped, "in": engine.map_or(0, |engine| engine.rows_in), "rows": view.rows,
        "changes": view.changes, "changesPerSecond": view.changes_per_second, "clients": view.clients,
        "errors": engine.map_or(0, |engine| engine.errors), "lastError": last_error.map(|(_, text)| text),
        "diagnosis": report.diagnosis.iter().map(looks::finding).collect::<Json>(),
    })
}

/// A state as one word.
fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Stopped => "stopped",
        Phase::Starting => "starting",
        Phase::Running => "running",
        Phase::Stopping => "stopping",
        Phase::Scheduled => "scheduled",
        Phase::Failed => "failed",
    }
}
