//! Streams and tables: `/streams`, `/tables` and the paths below them.

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use axum::{Extension, Router};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::details::Asked;
use super::error::accepted;
use super::query::Params;
use super::{ApiError, ErrorContext, read, to_end};
use crate::metrics::SeenField;
use crate::service::{Named, Service, ServiceError, check_id, what};
use crate::sql::ast::{ColumnDef, CreateStream, DataType, Literal, Relation};
use crate::text::secret::{masked_json, masked_url};

/// The prefix of a route's error for a refused statement.
fn command(relation: Relation) -> &'static str {
    match relation {
        Relation::Stream => "Stream command error",
        Relation::Table => "Table command error",
    }
}

/// The routes of streams and tables.
pub fn routes() -> Router<Service> {
    of(Relation::Stream).merge(of(Relation::Table))
}

fn of(relation: Relation) -> Router<Service> {
    let base = format!("/{}s", what(relation));
    let list = move |service, kind| list(service, kind, relation);
    let details = move |State(service): State<Service>| async move {
        let details = service.relations(relation, None).iter().map(detail).collect();
        super::json(Json::Array(details).to_string())
    };
    let describe = move |State(service): State<Service>, Path(name): Path<String>| async move {
        describe(&service, relation, &name)
    };
    let schema = move |State(service): State<Service>, Path(name): Path<String>| async move {
        schema(&service, relation, &name)
    };
    Router::new()
        .route(&base, get(list).post(move |service, asked, body| create(service, asked, body, relation)))
        .route(&format!("/{}details", what(relation)), get(details))
        .route(
            &format!("{base}/{{name}}"),
            get(describe)
                .put(move |service, asked, name, body| replace(service, asked, name, body, relation))
                .delete(move |service, name, force| drop_one(service, name, force, relation)),
        )
        .route(&format!("{base}/{{name}}/schema"), get(schema))
        .route(&format!("{base}/{{name}}/seen"), get(move |service, name| seen(service, name, relation)))
}

/// The fields of a stream's last messages, which are collected while a rule reads the stream.
async fn seen(
    State(service): State<Service>,
    Path(name): Path<String>,
    relation: Relation,
) -> Result<Response, ApiError> {
    service.relation(relation, &name).context(&format!("describe {} error", what(relation)))?;
    let seen = service.seen_of_stream(&name).await.unwrap_or_default();
    let field = |field: &SeenField| {
        json!({
            "name": field.name.as_str(), "present": field.present, "types": field.types, "example": field.example,
        })
    };
    let fields: Json = seen.fields.iter().map(field).collect();
    Ok(super::json(json!({"messages": seen.messages, "fields": fields}).to_string()))
}

#[derive(Deserialize)]
struct Statement {
    #[serde(default)]
    sql: String,
}

#[derive(Deserialize)]
struct Which {
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Force {
    force: Option<String>,
}

async fn list(
    State(service): State<Service>,
    Params(which): Params<Which>,
    relation: Relation,
) -> Result<Response, ApiError> {
    let lookup = match which.kind.as_deref().unwrap_or_default() {
        "" => None,
        "lookup" => Some(true),
        "scan" => Some(false),
        other => return Err(ApiError::bad(format!("invalid kind {other}: expected scan or lookup"))),
    };
    let names = service.relations(relation, lookup);
    let names: Vec<Json> = names.iter().map(|named| Json::from(named.def.name.as_str())).collect();
    Ok(super::json(Json::Array(names).to_string()))
}

fn statement(body: &Bytes) -> Result<String, ApiError> {
    let Statement { sql } = read(body, "Invalid body: Error decoding the statement descriptor")?;
    Ok(sql)
}

async fn create(
    State(service): State<Service>,
    Extension(asked): Extension<Asked>,
    body: Bytes,
    relation: Relation,
) -> Result<Response, ApiError> {
    let sql = statement(&body)?;
    let created = {
        let (service, sql) = (service.clone(), sql.clone());
        to_end(async move { service.create_relation(&sql).await }).await
    };
    let named = respond(&service, relation, &sql, created)?;
    let (what, name) = (title(named.create.relation), &named.def.name);
    let warnings = if asked.0 { service.warnings_of_statement(&sql) } else { Vec::new() };
    Ok(accepted(StatusCode::CREATED, format!("{what} {name} is created.\n"), &warnings))
}

async fn replace(
    State(service): State<Service>,
    Extension(asked): Extension<Asked>,
    Path(name): Path<String>,
    body: Bytes,
    relation: Relation,
) -> Result<Response, ApiError> {
    check_id(&name)?;
    let sql = statement(&body)?;
    let replaced = {
        let (service, name, sql) = (service.clone(), name.clone(), sql.clone());
        to_end(async move { service.replace_relation(relation, &name, &sql).await }).await
    };
    respond(&service, relation, &sql, replaced)?;
    let warnings = if asked.0 { service.warnings_of_statement(&sql) } else { Vec::new() };
    Ok(accepted(StatusCode::OK, format!("{} {name} is replaced.\n", title(relation)), &warnings))
}

/// The response to a statement; if it was refused, with its errors.
fn respond<T>(service: &Service, relation: Relation, sql: &str, done: Result<T, ServiceError>) -> Result<T, ApiError> {
    let wrong = matches!(done, Err(ServiceError::Statement(_)));
    let explain = |error: ApiError| error.with_problems(&service.problems_of_statement(sql));
    done.context(command(relation)).map_err(|error| if wrong { explain(error) } else { error })
}

async fn drop_one(
    State(service): State<Service>,
    Path(name): Path<String>,
    Params(force): Params<Force>,
    relation: Relation,
) -> Result<String, ApiError> {
    check_id(&name)?;
    let force = force.force.is_some_and(|force| ["1", "t", "true"].iter().any(|yes| force.eq_ignore_ascii_case(yes)));
    let dropped = {
        let name = name.clone();
        to_end(async move { service.drop_relation(relation, &name, force).await }).await
    };
    match dropped {
        Err(error @ ServiceError::Referenced { .. }) => Err(error.into()),
        dropped => {
            dropped.context(&format!("delete {} error", what(relation)))?;
            Ok(format!("{} {name} is dropped.\n", title(relation)))
        }
    }
}

fn title(relation: Relation) -> &'static str {
    match relation {
        Relation::Stream => "Stream",
        Relation::Table => "Table",
    }
}

fn find(service: &Service, relation: Relation, name: &str, operation: &str) -> Result<Named, ApiError> {
    check_id(name)?;
    service.relation(relation, name).context(&format!("{operation} error"))
}

fn describe(service: &Service, relation: Relation, name: &str) -> Result<Response, ApiError> {
    let named = find(service, relation, name, &format!("describe {}", what(relation)))?;
    let create = &named.create;
    let fields = match create.columns.is_empty() {
        true => Json::Null,
        false => create.columns.iter().map(field).collect(),
    };
    let kind = if relation == Relation::Table { 1 } else { 0 };
    let body = json!({
        "Name": named.def.name.as_str(), "StreamFields": fields, "Options": options(create), "StreamType": kind,
        "Statement": null,
    });
    Ok(super::json(body.to_string()))
}

fn schema(service: &Service, relation: Relation, name: &str) -> Result<Response, ApiError> {
    let named = find(service, relation, name, &format!("get schema of {}", what(relation)))?;
    let columns = &named.create.columns;
    let body = match columns.is_empty() {
        false => properties(columns),
        // Only the rules that read it know its columns.
        true => match service.columns_read(name) {
            read if read.is_empty() => Json::Null,
            read => Json::Object(read.into_iter().map(|column| (column, Json::Null)).collect()),
        },
    };
    Ok(super::json(body.to_string()))
}

fn detail(named: &Named) -> Json {
    let option = |name| option(&named.create, name).unwrap_or_default();
    let format = Some(option("FORMAT")).filter(|format| !format.is_empty()).unwrap_or("json");
    json!({"name": named.def.name.as_str(), "type": option("TYPE"), "format": format})
}

fn option<'a>(create: &'a CreateStream, name: &str) -> Option<&'a str> {
    create.options.iter().rev().find(|option| option.name == name).map(|option| option.value.as_str())
}

/// The options that were given, in the order and with the names of eKuiper's response.
fn options(create: &CreateStream) -> Json {
    const NAMES: [(&str, &str); 20] = [
        ("DATASOURCE", "datasource"),
        ("KEY", "key"),
        ("FORMAT", "format"),
        ("CONF_KEY", "confKey"),
        ("TYPE", "type"),
        ("STRICT_VALIDATION", "strictValidation"),
        ("TIMESTAMP", "timestamp"),
        ("TIMESTAMP_FORMAT", "timestampFormat"),
        ("SHARED", "shared"),
        ("SCHEMAID", "schemaid"),
        ("RETAIN_SIZE", "retainSize"),
        ("EXTRA", "extra"),
        ("DELIMITER", "delimiter"),
        ("VERSION", "version"),
        ("TEMP", "temp"),
        ("KIND", "kind"),
        ("JSON_ARRAY", "jsonArray"),
        ("ON_MISMATCH", "onMismatch"),
        ("FRAMING", "framing"),
        ("EVENT_CLOCK", "eventClock"),
    ];
    let mut options = Map::new();
    for (name, shown) in NAMES {
        let Some(value) = option(create, name) else { continue };
        let value = match name {
            "STRICT_VALIDATION" | "SHARED" | "TEMP" if value.eq_ignore_ascii_case("true") => Json::Bool(true),
            // A false option is left out, as if it were not given.
            "STRICT_VALIDATION" | "SHARED" | "TEMP" => continue,
            "RETAIN_SIZE" => value.parse::<u64>().map_or_else(|_| Json::from(value), Json::from),
            _ if value.is_empty() => continue,
            "KIND" => Json::from(value.to_ascii_lowercase()),
            "EXTRA" => Json::from(masked_json(value)),
            "DATASOURCE" => Json::from(masked_url(value)),
            _ => Json::from(value),
        };
        options.insert(shown.to_owned(), value);
    }
    Json::Object(options)
}

fn field(column: &ColumnDef) -> Json {
    let mut field = json!({"Name": column.name.name.as_str(), "FieldType": field_type(&column.ty)});
    if let Some(default) = &column.default {
        field["DefaultClause"] = Json::from(plain(default));
    }
    field
}

/// A literal as text, without quotes.
fn plain(literal: &Literal) -> String {
    match literal {
        Literal::Text(text) => text.to_string(),
        Literal::Bool(truth) => truth.to_string(),
        other => other.to_string(),
    }
}

fn field_type(ty: &DataType) -> Json {
    match ty {
        DataType::Array(element) => json!({"Type": "array", "ElementType": field_type(element)}),
        DataType::Struct(fields) => json!({"Type": "struct", "Fields": fields.iter().map(field).collect::<Vec<_>>()}),
        plain => Json::from(plain.to_string().to_ascii_lowercase()),
    }
}

fn properties(columns: &[ColumnDef]) -> Json {
    let member = |(index, column): (usize, &ColumnDef)| {
        let mut schema = schema_of(&column.ty);
        if let Json::Object(members) = &mut schema {
            members.insert("index".to_owned(), Json::from(index));
            if let Some(default) = &column.default {
                members.insert("default".to_owned(), Json::from(plain(default)));
            }
        }
        (column.name.name.to_string(), schema)
    };
    Json::Object(columns.iter().enumerate().map(member).collect())
}

/// A type as JSON, including nested types.
pub fn schema_of(ty: &DataType) -> Json {
    match ty {
        DataType::Array(element) => json!({"type": "array", "items": schema_of(element)}),
        DataType::Struct(fields) => json!({"type": "struct", "properties": properties(fields)}),
        plain => json!({"type": plain.to_string().to_ascii_lowercase()}),
    }
}
