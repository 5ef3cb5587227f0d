//! Rules: `/rules` and the paths below it.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{MethodRouter, get, post, put};
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::details::{self, Asked};
use super::error::{accepted, warning};
use super::relations::schema_of;
use super::{ApiError, ErrorContext, looks, millis, read, text, to_end};
use crate::io::LinkStatus;
use crate::metrics::Failure;
use crate::plan::PlanErrorKind;
use crate::service::{Counters, NotShown, OperatorReport, RuleReport, Service, ServiceError, Share, SinkClient};
use crate::text::document::Problem;
use crate::text::secret::masked_json;
use crate::value::json::{write_str, write_value};

/// The routes for the status of rules, which every process of a cluster has.
pub fn status_routes() -> Router<Service> {
    Router::new().route("/rules/{id}/status", get(status)).route("/v2/rules/{id}/status", get(status))
}

/// The routes of rules.
pub fn routes() -> Router<Service> {
    status_routes()
        .route("/rules", get(list).post(create))
        .route("/rules/validate", of_word("validate").post(validate))
        .route("/rules/status/all", get(status_of_all))
        .route("/rules/tags/match", get(tagged))
        .route("/rules/bulkstart", of_word("bulkstart").post(|service, body| bulk(service, body, true)))
        .route("/rules/bulkstop", of_word("bulkstop").post(|service, body| bulk(service, body, false)))
        .route("/rules/{id}", get(describe).put(update).delete(delete))
        .route("/rules/{id}/start", post(start))
        .route("/rules/{id}/stop", post(stop))
        .route("/rules/{id}/restart", post(restart))
        .route("/rules/{id}/topo", get(topology))
        .route("/rules/{id}/explain", get(explain))
        .route("/rules/{id}/schema", get(schema))
        .route("/rules/{id}/tags", put(set_tags).patch(add_tags).delete(remove_tags))
        .route("/rules/{id}/trace/start", post(start_trace))
        .route("/rules/{id}/trace/stop", post(|service, id| trace(service, id, false)))
        .route("/rules/{id}/scantables", get(scan_tables))
        .route("/rules/{id}/reset_state", put(reset_state))
}

async fn list(State(service): State<Service>) -> Response {
    let rules: Vec<Json> = service
        .rules()
        .into_iter()
        .map(|rule| {
            json!({
                "id": rule.id, "name": rule.name, "status": rule.phase.as_str(), "version": rule.version,
                "trace": rule.trace, "tags": rule.tags,
            })
        })
        .collect();
    super::json(Json::Array(rules).to_string())
}

async fn create(
    State(service): State<Service>,
    Extension(asked): Extension<Asked>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body = text(body, "invalid rule json")?;
    let created = {
        let (service, body) = (service.clone(), body.clone());
        to_end(async move { service.create_rule(&body).await }).await
    };
    let id = created.map_err(|error| {
        let wrong = is_of_rule(&error);
        refused(&service, error.into(), wrong, &body, None, true)
    })?;
    let warnings = if asked.0 { service.warnings_of_rule(&body, None) } else { Vec::new() };
    Ok(accepted(StatusCode::CREATED, format!("Rule {id} was created successfully."), &warnings))
}

/// The routes for a rule whose id equals the word of another route.
fn of_word(word: &'static str) -> MethodRouter<Service> {
    let id = || Path(word.to_owned());
    get(move |service| describe(service, id()))
        .put(move |service, asked, body| update(service, asked, id(), body))
        .delete(move |service| delete(service, id()))
}

/// Whether an error is about the rule's definition.
fn is_of_rule(error: &ServiceError) -> bool {
    matches!(error, ServiceError::RuleJson(_) | ServiceError::Plan(_) | ServiceError::Connector(_))
}

/// The error, with the rule's problems if it is about its definition.
fn refused(service: &Service, error: ApiError, wrong: bool, rule: &str, id: Option<&str>, sinks: bool) -> ApiError {
    if wrong { error.with_problems(&service.problems_of_rule(rule, id, sinks)) } else { error }
}

async fn validate(State(service): State<Service>, Extension(asked): Extension<Asked>, body: Bytes) -> Response {
    let body = String::from_utf8_lossy(&body);
    match service.validate_rule(&body) {
        Ok(sources) => {
            let mut valid = json!({"sources": sources, "valid": true});
            let warnings = if asked.0 { service.warnings_of_rule(&body, None) } else { Vec::new() };
            if !warnings.is_empty() {
                valid["warnings"] = warnings.iter().map(warning).collect();
            }
            super::json(valid.to_string())
        }
        Err(error) => {
            let unknown = match &error {
                ServiceError::Plan(error) => match &*error.kind {
                    PlanErrorKind::UnknownStream(name) => Some(format!("{name} is not found")),
                    _ => None,
                },
                _ => None,
            };
            let text = ApiError::bad(unknown.unwrap_or_else(|| error.to_string()));
            refused(&service, text, is_of_rule(&error), &body, None, false).into_text(StatusCode::UNPROCESSABLE_ENTITY)
        }
    }
}

async fn describe(State(service): State<Service>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let text = service.rule_text(&id).context("Describe rule error")?;
    Ok(super::json(masked_json(&text).into_owned()))
}

async fn update(
    State(service): State<Service>,
    Extension(asked): Extension<Asked>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let body = text(body, "Update rule error: Invalid rule json")?;
    let updated = {
        let (service, id, body) = (service.clone(), id.clone(), body.clone());
        to_end(async move { service.update_rule(&id, &body).await }).await
    };
    let wrong = updated.as_ref().is_err_and(is_of_rule);
    let updated = match updated {
        Err(ServiceError::RuleJson(text)) => {
            Err(ApiError::bad(format!("Update rule error: Invalid rule json: {text}")))
        }
        updated => updated.context("Update rule error"),
    };
    updated.map_err(|error| refused(&service, error, wrong, &body, Some(&id), true))?;
    let warnings = if asked.0 { service.warnings_of_rule(&body, Some(&id)) } else { Vec::new() };
    Ok(accepted(StatusCode::OK, format!("Rule {id} was updated successfully."), &warnings))
}

async fn delete(State(service): State<Service>, Path(id): Path<String>) -> Result<String, ApiError> {
    let done = format!("Rule {id} is dropped.");
    to_end(async move { service.delete_rule(&id).await }).await.context("Delete rule error")?;
    Ok(done)
}

async fn start(State(service): State<Service>, Path(id): Path<String>) -> Result<String, ApiError> {
    let started = {
        let (service, id) = (service.clone(), id.clone());
        to_end(async move { service.start_rule(&id).await }).await
    };
    respond(&service, &id, started, "start rule error")?;
    Ok(format!("Rule {id} was started"))
}

async fn stop(State(service): State<Service>, Path(id): Path<String>) -> Result<String, ApiError> {
    let done = format!("Rule {id} was stopped.");
    to_end(async move { service.stop_rule(&id).await }).await.context("stop rule error")?;
    Ok(done)
}

async fn restart(State(service): State<Service>, Path(id): Path<String>) -> Result<String, ApiError> {
    let restarted = {
        let (service, id) = (service.clone(), id.clone());
        to_end(async move { service.restart_rule(&id).await }).await
    };
    respond(&service, &id, restarted, "restart rule error")?;
    Ok(format!("Rule {id} was restarted"))
}

/// The response to starting an existing rule.
fn respond(service: &Service, id: &str, done: Result<(), ServiceError>, operation: &str) -> Result<(), ApiError> {
    let wrong = done.as_ref().is_err_and(is_of_rule);
    done.context(operation).map_err(|error| match service.rule_text(id) {
        Ok(text) => refused(service, error, wrong, &text, Some(id), true),
        Err(_) => error,
    })
}

async fn status(
    State(service): State<Service>,
    Extension(asked): Extension<Asked>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let report = service.rule_report(&id).await.context("get rule status error")?;
    let mut shown = report_json(&report);
    shown["diagnosis"] = service.diagnosis(&id, &report).await.iter().map(looks::finding).collect();
    put_shares(&mut shown, &report.shares, asked.0);
    // A process that takes orders knows its own share.
    if let Some(process) = service.is_share_of() {
        shown["shareOf"] = json!(process);
    }
    if asked.0 {
        let operators = service.operators(&id, &report);
        shown["operators"] = operators.iter().map(operator).collect();
        let clients = service.clients_of(&id, &report).await;
        put_look(&mut shown, &report, &clients);
        put_threads(&mut shown, &report);
        if let Some(state) = service.state_of(&id).await {
            shown["state"] = json!({"bytes": state.bytes, "openWindows": state.windows});
        }
    }
    // A temporary rule has no stored text.
    if let (true, Ok(text)) = (asked.0, service.rule_text(&id)) {
        let mut warnings = service.warnings_of_rule(&text, Some(&id));
        let odd = report.engine.iter().flat_map(|engine| &engine.oddities);
        warnings.extend(odd.map(|odd| Problem::warning("rule", None, format!("rule {id}"), odd.clone())));
        if !warnings.is_empty() {
            shown["warnings"] = warnings.iter().map(warning).collect();
        }
    }
    Ok(super::json(shown.to_string()))
}

/// Adds the processes whose counts are missing; with details, the counts of each process.
fn put_shares(shown: &mut Json, shares: &[Share], details: bool) {
    let silent = shares.iter().filter(|share| share.counts.is_none());
    let silent: Vec<Json> = silent.map(|share| format!("process {} ({})", share.process, share.host).into()).collect();
    if !silent.is_empty() {
        shown["silentProcesses"] = silent.into();
    }
    if details && !shares.is_empty() {
        let share = |share: &Share| match &share.counts {
            Some(counts) => json!({
                "process": share.process, "host": share.host, "rowsIn": counts.rows_in, "rowsOut": counts.rows_out,
                "errors": counts.errors, "dropped": counts.dropped,
            }),
            None => json!({"process": share.process, "host": share.host, "silent": true}),
        };
        shown["processes"] = shares.iter().map(share).collect();
    }
}

/// One operator with its last errors.
fn operator(operator: &OperatorReport) -> Json {
    let error = |failure: &Arc<Failure>| json!({"time": millis(failure.time), "error": failure.text, "message": failure.message});
    json!({
        "name": operator.name, "op": operator.kind, "in": operator.records_in, "out": operator.records_out,
        "errors": operator.errors, "lastErrors": operator.recent.iter().map(error).collect::<Json>(),
        "tap": operator.tap.map(|point| point.as_str()), "to": operator.to,
    })
}

/// Adds what eKuiper's status does not have: links, clients, latency.
fn put_look(shown: &mut Json, report: &RuleReport, clients: &[SinkClient]) {
    let Some(engine) = &report.engine else { return };
    let sink = |(number, sink): (usize, &LinkStatus)| {
        let mut shown = looks::link(sink);
        let of_sink = clients.iter().filter(|client| client.sink == number);
        let client = |SinkClient { process, status: client, .. }: &SinkClient| {
            let mut shown = json!({
                "address": client.address, "since": millis(client.since), "queued": client.queued,
                "dropped": client.dropped,
            });
            if let Some(process) = process {
                shown["process"] = (*process).into();
            }
            shown
        };
        shown["clients"] = of_sink.map(client).collect();
        shown
    };
    shown["sources"] = engine.sources.iter().map(looks::source).collect();
    shown["sinks"] = engine.sinks.iter().enumerate().map(sink).collect();
    if let Some(latency) = &engine.latency {
        shown["latency"] = json!({"p50Us": latency.p50_us, "p99Us": latency.p99_us});
    }
    if let Some(lag) = report.watermark_lag {
        shown["watermarkLagMs"] = lag.into();
        shown["watermark"] = engine.watermark.into();
    }
}

/// Adds how a rule uses the data threads, and the rows of its streams on each.
fn put_threads(shown: &mut Json, report: &RuleReport) {
    let Some(engine) = &report.engine else { return };
    let rows = |(thread, rows): &(usize, u64)| json!({"thread": thread, "rows": rows});
    shown["threads"] = json!({
        "plan": engine.spread.to_string(), "home": engine.home,
        "rows": engine.work.threads.iter().map(rows).collect::<Json>(),
    });
}

/// A rule's status under eKuiper's names: `KIND_NAME_INSTANCE_METRIC`.
pub fn report_json(report: &RuleReport) -> Json {
    let mut all = Map::new();
    all.insert("status".to_owned(), report.phase.as_str().into());
    all.insert("message".to_owned(), report.message.as_str().into());
    all.insert("lastStartTimestamp".to_owned(), report.last_start.into());
    all.insert("lastStopTimestamp".to_owned(), report.last_stop.into());
    all.insert("nextStartTimestamp".to_owned(), report.next_start.into());
    if let Some(engine) = &report.engine {
        all.insert("lateRows".to_owned(), engine.late.into());
        all.insert("futureRows".to_owned(), engine.future.into());
        let lost = report.losses.by_cause().into_iter().map(|(cause, count)| (cause.to_owned(), Json::from(count)));
        all.insert("lost".to_owned(), Json::Object(lost.collect()));
    }
    for (part, counters) in &report.parts {
        put_counters(&mut all, part, counters);
    }
    for (event, count) in report.engine.iter().flat_map(|engine| engine.feed.each()) {
        all.insert(format!("feed_{}_total", event.name()), count.into());
    }
    Json::Object(all)
}

fn put_counters(all: &mut Map<String, Json>, part: &str, counters: &Counters) {
    let (time, exception) = counters.last_exception.clone().unwrap_or_default();
    let mut put = |metric: &str, value: Json| {
        all.insert(format!("{part}_0_{metric}"), value);
    };
    put("records_in_total", counters.records_in.into());
    put("records_out_total", counters.records_out.into());
    put("messages_processed_total", counters.processed.into());
    put("process_latency_us", counters.latency_us.into());
    put("buffer_length", counters.queued.into());
    put("last_invocation", counters.last_invocation.into());
    put("exceptions_total", counters.exceptions.into());
    put("last_exception", exception.into());
    put("last_exception_time", time.into());
    if let Some(link) = &counters.link {
        let dropped = counters.dropped.iter().map(|(cause, count)| ((*cause).to_owned(), Json::from(*count)));
        put("dropped", Json::Object(dropped.collect()));
        put("connection_status", link.state.into());
        put("connection_last_connected_time", link.connected.into());
        put("connection_last_disconnected_time", link.disconnected.into());
        put("connection_last_disconnected_message", link.message.as_str().into());
        put("connection_last_try_time", link.tried.into());
    }
}

async fn status_of_all(State(service): State<Service>) -> Response {
    let mut all = Map::new();
    for (id, report) in service.rule_reports().await {
        let status = json!({
            "status": report.phase.as_str(), "last_exception": report.last_exception,
            "exceptions_total": report.exceptions,
        });
        all.insert(id, status);
    }
    super::json(Json::Object(all).to_string())
}

async fn topology(State(service): State<Service>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let nodes = service.rule_nodes(&id).context("get rule topo error")?;
    let (sources, edges) = nodes.topology();
    let edges: Map<String, Json> = edges.into_iter().map(|(from, to)| (from, to.into())).collect();
    Ok(super::json(json!({"sources": sources, "edges": edges}).to_string()))
}

async fn explain(
    State(service): State<Service>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<String, ApiError> {
    let in_full = query.is_some_and(|query| details::asks(&query));
    let plan = if in_full { service.explain_rule_in_full(&id) } else { service.explain_rule(&id) };
    plan.context("explain rules error")
}

async fn schema(State(service): State<Service>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let columns = service.rule_schema(&id).context("get rule schema error")?;
    let columns = columns.into_iter().enumerate().map(|(index, column)| {
        let mut shown = Map::from_iter([("hasIndex".to_owned(), true.into()), ("index".to_owned(), index.into())]);
        if let Some(Json::Object(of_type)) = column.ty.as_ref().map(schema_of) {
            shown.extend(of_type);
        }
        (column.name.to_string(), Json::Object(shown))
    });
    Ok(super::json(Json::Object(columns.collect()).to_string()))
}

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    tags: Vec<String>,
}

const DECODE: &str = "decode body error";

async fn set_tags(state: State<Service>, id: Path<String>, body: Bytes) -> Result<(), ApiError> {
    change_tags(state, id, &body, |_, new| new).await
}

async fn add_tags(state: State<Service>, id: Path<String>, body: Bytes) -> Result<(), ApiError> {
    change_tags(state, id, &body, |old, new| old.into_iter().chain(new).collect()).await
}

async fn remove_tags(state: State<Service>, id: Path<String>, body: Bytes) -> Result<(), ApiError> {
    change_tags(state, id, &body, |old, gone| old.into_iter().filter(|tag| !gone.contains(tag)).collect()).await
}

async fn change_tags(
    State(service): State<Service>,
    Path(id): Path<String>,
    body: &Bytes,
    change: fn(Vec<String>, Vec<String>) -> Vec<String>,
) -> Result<(), ApiError> {
    let Tags { tags } = read(body, DECODE)?;
    service.rule_text(&id).context("Get rule error")?;
    to_end(async move { service.tag_rule(&id, |old| change(old, tags)).await }).await.context("Get rule error")
}

async fn tagged(State(service): State<Service>, body: Bytes) -> Result<Response, ApiError> {
    let Tags { tags } = read(&body, DECODE)?;
    let rules = service.tagged_rules(&tags);
    let body = if rules.is_empty() { json!({}) } else { json!({"rules": rules}) };
    Ok(super::json(body.to_string()))
}

/// Which rules to start or stop. For starting, an empty object means all, as in eKuiper; for stopping, or with a
/// misspelt member, it does not.
#[derive(Deserialize)]
struct Tagged {
    tags: Option<Vec<String>>,
    #[serde(flatten)]
    others: Map<String, Json>,
}

/// The rules that a body names. serde reads a flattened type as a map, whose names match only exactly.
fn tagged_of(body: &[u8]) -> Result<Tagged, ApiError> {
    // `null` would count as an object without members, and so mean all rules.
    let Json::Object(members) = read(body, DECODE)? else {
        return Err(ApiError::bad(format!("{DECODE}: expected an object")));
    };
    let lower = |name: String| if name.eq_ignore_ascii_case("tags") { "tags".to_owned() } else { name };
    let members: Map<String, Json> = members.into_iter().map(|(name, value)| (lower(name), value)).collect();
    serde_json::from_value(Json::Object(members)).map_err(|error| ApiError::bad(format!("{DECODE}: {error}")))
}

async fn bulk(State(service): State<Service>, body: Bytes, start: bool) -> Result<Response, ApiError> {
    let Tagged { tags, others } = tagged_of(&body)?;
    let Some(tags) = tags.or_else(|| others.is_empty().then(Vec::new)) else {
        return Err(ApiError::bad(format!("{DECODE}: missing field `tags`")));
    };
    let done = to_end(async move { service.bulk(&tags, start).await }).await;
    let done = done.context(if start { "bulk start failed" } else { "bulk stop failed" })?;
    let one = |rule: crate::service::Bulk| match rule.outcome {
        Ok(()) => json!({"ruleId": rule.id, "success": true}),
        Err(error) => json!({"ruleId": rule.id, "success": false, "error": error.to_string()}),
    };
    Ok(super::json(Json::Array(done.into_iter().map(one).collect()).to_string()))
}

/// Which messages to trace: ignored, because none are.
#[derive(Deserialize)]
struct Strategy {}

async fn start_trace(state: State<Service>, id: Path<String>, body: Bytes) -> Result<(), ApiError> {
    read::<Strategy>(&body, "Invalid body: Error decoding json")?;
    trace(state, id, true).await
}

async fn trace(State(service): State<Service>, Path(id): Path<String>, on: bool) -> Result<(), ApiError> {
    Ok(service.trace_rule(&id, on)?)
}

async fn scan_tables(State(service): State<Service>, Path(id): Path<String>) -> Result<Response, ApiError> {
    service.rule_nodes(&id).context(&format!("failed to get topology for rule {id}"))?;
    let rows = service.scanned_rows(&id).await.map_err(|error| match error {
        NotShown::NoTable => ApiError::bad(format!("scan table error: join node is not found for {id}")),
        NotShown::Busy => {
            let text = format!("the data thread of rule {id} is busy: try again later");
            ApiError::with_status(StatusCode::SERVICE_UNAVAILABLE, text)
        }
    })?;
    let mut body = b"[".to_vec();
    for row in rows {
        let start = body.len();
        body.extend_from_slice(if start > 1 { b",{\"emitter\":" } else { b"{\"emitter\":" });
        write_str(&mut body, &row.table);
        body.extend_from_slice(b",\"content\":");
        match write_value(&mut body, &row.content) {
            Ok(()) => body.push(b'}'),
            // JSON has no such number.
            Err(_) => body.truncate(start),
        }
    }
    body.push(b']');
    Ok(super::json(String::from_utf8_lossy(&body).into_owned()))
}

#[derive(Deserialize)]
struct Reset {
    #[serde(default, rename = "type")]
    kind: What,
}

/// What to reset: one of eKuiper's numbers, or Plutino's `state`.
#[derive(Deserialize)]
#[serde(untagged)]
enum What {
    Number(i64),
    Name(String),
}

impl Default for What {
    fn default() -> What {
        What::Number(0)
    }
}

/// Type 1 means the offsets of sources, which websockets do not have. `state` is the rule's state.
async fn reset_state(
    State(service): State<Service>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<&'static str, ApiError> {
    let kind = read::<Reset>(&body, DECODE)?.kind;
    let known = || service.rule_text(&id).context("Get rule error");
    match kind {
        What::Number(1) => known().map(|_| "success"),
        What::Name(name) if name == "state" => {
            known()?;
            to_end(async move { service.reset_rule(&id).await }).await.context("reset state error")?;
            Ok("success")
        }
        What::Number(other) => Err(ApiError::bad(format!("unknown stateType:{other}"))),
        What::Name(other) => Err(ApiError::bad(format!("unknown stateType:{other}"))),
    }
}
