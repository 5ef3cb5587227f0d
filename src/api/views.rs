//! Live views: `/views`, `/views/{name}` and the paths below.

use std::fmt::Write as _;

use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::details::Asked;
use super::error::accepted;
use super::query::Params;
use super::{ApiError, ErrorContext, looks, read, tap, to_end};
use crate::service::{Service, ServiceError, ViewReport, check_id};
use crate::value::Text;

/// The prefix of errors for refused statements.
const COMMAND: &str = "View command error";

/// The routes of views.
pub fn routes() -> Router<Service> {
    Router::new()
        .route("/views", get(list).post(create))
        .route("/views/{name}", get(describe).put(replace).delete(drop_one))
        .route("/views/{name}/status", get(status))
        .route("/views/{name}/clients", get(clients))
        .route("/views/{name}/rows", get(rows))
        .route("/views/{name}/explain", get(explain))
        .route("/views/{name}/tap", get(tap::of_view))
}

#[derive(Deserialize)]
struct Statement {
    #[serde(default)]
    sql: String,
}

async fn list(State(service): State<Service>) -> Response {
    super::json(Json::from(service.views()).to_string())
}

fn statement(body: &Bytes) -> Result<String, ApiError> {
    let Statement { sql } = read(body, "Invalid body: Error decoding the statement descriptor")?;
    Ok(sql)
}

/// The response to a statement; if it was refused, with its errors.
fn respond<T>(service: &Service, sql: &str, done: Result<T, ServiceError>) -> Result<T, ApiError> {
    let wrong = matches!(done, Err(ServiceError::Statement(_) | ServiceError::Plan(_)));
    let explain = |error: ApiError| error.with_problems(&service.problems_of_view(sql));
    done.context(COMMAND).map_err(|error| if wrong { explain(error) } else { error })
}

async fn create(
    State(service): State<Service>,
    Extension(asked): Extension<Asked>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let sql = statement(&body)?;
    let created = {
        let (service, sql) = (service.clone(), sql.clone());
        to_end(async move { service.create_view(&sql).await }).await
    };
    let name = respond(&service, &sql, created)?;
    let warnings = if asked.0 { service.warnings_of_view(&sql) } else { Vec::new() };
    Ok(accepted(StatusCode::CREATED, format!("View {name} is created.\n"), &warnings))
}

async fn replace(
    State(service): State<Service>,
    Extension(asked): Extension<Asked>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, ApiError> {
    check_id(&name)?;
    let sql = statement(&body)?;
    let replaced = {
        let (service, name, sql) = (service.clone(), name.clone(), sql.clone());
        to_end(async move { service.replace_view(&name, &sql).await }).await
    };
    respond(&service, &sql, replaced)?;
    let warnings = if asked.0 { service.warnings_of_view(&sql) } else { Vec::new() };
    Ok(accepted(StatusCode::OK, format!("View {name} is replaced.\n"), &warnings))
}

#[derive(Deserialize)]
struct Force {
    #[serde(default)]
    force: Option<String>,
}

async fn drop_one(
    State(service): State<Service>,
    Path(name): Path<String>,
    Params(force): Params<Force>,
) -> Result<String, ApiError> {
    check_id(&name)?;
    let force = force.force.is_some_and(|force| ["1", "t", "true"].iter().any(|yes| force.eq_ignore_ascii_case(yes)));
    let dropped = {
        let name = name.clone();
        to_end(async move { service.drop_view(&name, force).await }).await
    };
    dropped.context("delete view error")?;
    Ok(format!("View {name} is dropped.\n"))
}

async fn describe(State(service): State<Service>, Path(name): Path<String>) -> Result<Response, ApiError> {
    check_id(&name)?;
    let (view, plan) = service.describe_view(&name).context("describe view error")?;
    let about = &plan.about;
    let columns: Vec<Json> = about
        .columns
        .iter()
        .map(|column| json!({"name": column.name.as_str(), "type": column.ty.to_string()}))
        .collect();
    let mut body = json!({
        "name": about.name.as_str(),
        "sql": &*view.sql,
        "key": names(about.key.iter()),
        "columns": columns,
        "params": names(about.parts.iter().filter(|part| part.is_param).map(|part| &part.name)),
        "path": about.path,
        "retain": about.retain,
        "maxRows": plan.max_rows,
    });
    let mut put = |name: &str, value: Json| body[name] = value;
    let claims: Map<String, Json> = about
        .parts
        .iter()
        .filter_map(|part| Some((part.name.to_string(), Json::from(part.claim.as_deref()?))))
        .collect();
    if !claims.is_empty() {
        put("claims", Json::Object(claims));
    }
    if !about.order.is_empty() {
        let key = |(name, descending): &(Text, bool)| json!([name.as_str(), if *descending { "desc" } else { "asc" }]);
        put("order", about.order.iter().map(key).collect());
    }
    if let Some(limit) = about.limit {
        put("limit", limit.into());
    }
    if let Some(expire) = plan.expire {
        put("expire", expire.into());
    }
    if let Some(checkpoint) = plan.checkpoint {
        put("checkpoint", checkpoint.into());
    }
    Ok(super::json(body.to_string()))
}

fn names<'a>(names: impl Iterator<Item = &'a Text>) -> Vec<&'a str> {
    names.map(Text::as_str).collect()
}

async fn explain(State(service): State<Service>, Path(name): Path<String>) -> Result<String, ApiError> {
    check_id(&name)?;
    service.explain_view(&name).context("explain view error")
}

async fn status(State(service): State<Service>, Path(name): Path<String>) -> Result<Response, ApiError> {
    check_id(&name)?;
    let report = service.view_status(&name).await.context("get view status error")?;
    Ok(super::json(Json::Object(report_json(&report)).to_string()))
}

/// A view's status.
fn report_json(report: &ViewReport) -> Map<String, Json> {
    let mut body = Map::new();
    for (name, _, _, value) in FIELDS {
        body.insert((*name).to_owned(), value(report).into());
    }
    let ViewReport { view, engine, stopped, diagnosis, .. } = report;
    body.insert(
        "gaps".to_owned(),
        json!({"expired": view.gaps_expired, "changed": view.gaps_changed, "restart": view.gaps_restart}),
    );
    let last_error = engine.as_ref().and_then(|engine| engine.last_error.as_ref());
    body.insert("lastError".to_owned(), last_error.map_or(Json::Null, |(_, text)| text.as_str().into()));
    body.insert("stopped".to_owned(), stopped.as_deref().map_or(Json::Null, Json::from));
    let sources = engine.iter().flat_map(|engine| &engine.sources);
    body.insert("sources".to_owned(), sources.map(looks::source).collect());
    body.insert("diagnosis".to_owned(), diagnosis.iter().map(looks::finding).collect());
    body
}

async fn clients(State(service): State<Service>, Path(name): Path<String>) -> Result<Response, ApiError> {
    check_id(&name)?;
    let clients = service.view_clients(&name).await.context("get view clients error")?;
    let clients: Vec<Json> = clients
        .into_iter()
        .map(|client| {
            json!({
                "peer": client.peer,
                "s": client.s,
                "params": client.params,
                "every": client.every,
                "lagChanges": client.lag_changes,
                "lagMs": client.lag_ms,
                "waitingBytes": client.waiting_bytes,
            })
        })
        .collect();
    Ok(super::json(Json::Array(clients).to_string()))
}

async fn rows(
    State(service): State<Service>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    check_id(&name)?;
    let (mut params, mut limit): (Vec<(Text, Vec<Json>)>, Option<usize>) = (Vec::new(), None);
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        match &*name {
            "_limit" => {
                let rows = value.parse().map_err(|_| ApiError::bad("_limit must be a number of rows"))?;
                limit = Some(rows);
            }
            name if name.starts_with('_') || name == "details" => {
                if name.starts_with('_') {
                    return Err(ApiError::bad(format!("unknown parameter {name}: there is _limit")));
                }
            }
            name => {
                let value = Json::from(value.into_owned());
                match params.iter_mut().find(|(known, _)| known == name) {
                    Some((_, values)) => values.push(value),
                    None => params.push((name.into(), vec![value])),
                }
            }
        }
    }
    let found = service.view_rows(&name, &params, limit).await.context("get view rows error")?;
    let mut body = format!("{{\"at\":\"{}\",\"ts\":{},\"rows\":[", found.at, found.ts).into_bytes();
    for (place, row) in found.rows.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        body.extend_from_slice(row);
    }
    body.extend_from_slice(b"]}");
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// A number in a view's status: its name, the type and meaning of the metric, and its value.
type Field = (&'static str, &'static str, &'static str, fn(&ViewReport) -> u64);

const FIELDS: &[Field] = &[
    ("rows", "gauge", "Rows that are there", |report| report.view.rows as u64),
    ("messages", "counter", "Messages that came from its stream", |report| {
        report.engine.as_ref().map_or(0, |engine| engine.rows_in)
    }),
    ("changes", "counter", "Changes of rows", |report| report.view.changes),
    ("changesPerSecond", "gauge", "Changes of rows in the last second", |report| report.view.changes_per_second),
    ("inserts", "counter", "Rows that came", |report| report.view.inserts),
    ("updates", "counter", "Rows that changed", |report| report.view.updates),
    ("deletes", "counter", "Rows that left", |report| report.view.deletes),
    ("evicted", "counter", "Rows that left beyond MAX_ROWS", |report| report.view.operator.evicted),
    ("expired", "counter", "Rows that left by EXPIRE", |report| report.view.operator.expired),
    ("late", "counter", "Messages behind the watermark", |report| {
        report.engine.as_ref().map_or(0, |engine| engine.late)
    }),
    ("errors", "counter", "Messages and rows lost to errors", |report| {
        report.engine.as_ref().map_or(0, |engine| engine.errors)
    }),
    ("stateBytes", "gauge", "Bytes of rows, lives and accumulators", |report| report.view.state_bytes as u64),
    ("endedLives", "gauge", "Ended lives that are kept for cursors", |report| report.view.ended_lives as u64),
    ("dataThread", "gauge", "The number of the data thread that has its state", |report| report.thread as u64),
    ("subscriptions", "gauge", "Subscriptions", |report| report.view.subscriptions as u64),
    ("cohorts", "gauge", "Parts and rates that clients subscribe to", |report| report.view.cohorts as u64),
    ("clients", "gauge", "Sockets with a subscription", |report| report.view.clients as u64),
    ("laggingClients", "gauge", "Sockets that lack a change", |report| report.view.lagging_clients as u64),
    ("resumed", "counter", "Subscriptions that went on from a cursor", |report| report.view.resumed),
    ("deltasSent", "counter", "Deltas sent", |report| report.view.deltas),
    ("cutsMerged", "counter", "Cuts that were folded into others for clients", |report| report.view.merged),
    ("snapshotRows", "counter", "Rows of snapshots that were encoded", |report| report.view.snapshot_rows),
];

/// The metrics of all views.
pub async fn metrics(service: &Service) -> String {
    let mut views = Vec::new();
    for name in service.views() {
        // A view that was dropped in the meantime is left out.
        if let Ok(status) = service.view_status(&name).await {
            views.push((name, status));
        }
    }
    let mut text = String::new();
    if views.is_empty() {
        return text;
    }
    // Writing to a String cannot fail.
    for (name, kind, help, value) in FIELDS {
        let total = if *kind == "counter" { "_total" } else { "" };
        let name = format!("plutino_view_{}{total}", snake_case(name));
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (view, status) in &views {
            let _ = writeln!(text, "{name}{{view=\"{view}\"}} {}", value(status));
        }
    }
    let name = "plutino_view_gaps_total";
    let _ = writeln!(text, "# HELP {name} Cursors that did not resume, by cause\n# TYPE {name} counter");
    for (view, status) in &views {
        for (why, count) in [
            ("expired", status.view.gaps_expired),
            ("changed", status.view.gaps_changed),
            ("restart", status.view.gaps_restart),
        ] {
            let _ = writeln!(text, "{name}{{view=\"{view}\",why=\"{why}\"}} {count}");
        }
    }
    text
}

fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}
