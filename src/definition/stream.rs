//! Streams and tables: their CREATE statements as typed definitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::view::ViewShape;
use crate::format::compress::Method;
use crate::sql::ast::{CreateStream, Relation};
use crate::text::span::Span;
use crate::value::Text;
use crate::value::cast;
use crate::value::field_path::FieldPath;
use crate::value::timestamp_format::TimestampFormat;
use crate::value::types::{ColumnDef, DataType, Literal};

/// A stream or table as it was created.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamDef {
    pub name: Text,
    pub kind: RelationKind,
    /// `None`: schemaless
    pub columns: Option<Vec<ColumnDef>>,
    /// DATASOURCE: the path of the endpoint; empty if not given
    pub datasource: Text,
    /// TYPE: the kind of the source
    pub source: Text,
    pub format: Format,
    pub framing: Framing,
    pub json_array: JsonArray,
    pub on_mismatch: OnMismatch,
    /// `decompression` in EXTRA: how messages are compressed
    pub compression: Option<Method>,
    /// CONF_KEY: the property set of the source
    pub conf_key: Option<Text>,
    /// KEY: a lookup table holds the last row for each value of this column
    pub key: Option<Text>,
    /// TIMESTAMP: where the event time is
    pub timestamp: Option<FieldPath>,
    pub timestamp_format: Option<TimestampFormat>,
    /// EVENT_CLOCK: the clock that the times of rows follow
    pub clock: EventClock,
    /// STRICT_VALIDATION
    pub strict: bool,
    pub shared: bool,
    /// TEMP: for temporary rules only
    pub temporary: bool,
    /// useInt64ForWholeNumber in EXTRA: whole numbers of messages are BIGINT, which divide as integers
    pub integers: bool,
    /// Further source properties from EXTRA.
    pub extra: Map<String, Json>,
    /// Set if this is a view, or is read like one.
    pub view: Option<Arc<ViewShape>>,
}

impl StreamDef {
    pub fn schema(&self) -> StreamSchema {
        StreamSchema {
            name: self.name.clone(),
            format: self.format.clone(),
            compression: self.compression,
            columns: self.columns.clone(),
            key: self.key.clone(),
            timestamp_format: self.timestamp_format.clone(),
            strict: self.strict,
            framing: self.framing,
            json_array: self.json_array,
            on_mismatch: self.on_mismatch,
        }
    }

    /// A schemaless stream with this name and no options.
    pub fn schemaless(name: Text) -> StreamDef {
        StreamDef {
            name,
            kind: RelationKind::Stream,
            columns: None,
            datasource: Text::default(),
            source: Text::default(),
            format: Format::Json,
            framing: Framing::default(),
            json_array: JsonArray::default(),
            on_mismatch: OnMismatch::default(),
            compression: None,
            conf_key: None,
            key: None,
            timestamp: None,
            timestamp_format: None,
            clock: EventClock::default(),
            strict: false,
            shared: false,
            temporary: false,
            integers: false,
            extra: Map::new(),
            view: None,
        }
    }
}

/// How messages are read: everything that a data thread knows of a stream or table.
#[derive(Clone, Debug)]
pub struct StreamSchema {
    pub name: Text,
    pub format: Format,
    pub compression: Option<Method>,
    /// `None`: schemaless.
    pub columns: Option<Vec<ColumnDef>>,
    /// A lookup table holds the last row for each value of this column.
    pub key: Option<Text>,
    /// Used for event times and for DATETIME columns.
    pub timestamp_format: Option<TimestampFormat>,
    /// STRICT_VALIDATION: a value that does not fit its column is an error.
    pub strict: bool,
    pub framing: Framing,
    pub json_array: JsonArray,
    pub on_mismatch: OnMismatch,
}

/// The kinds of relations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    Stream,
    /// A table without KIND="lookup": each rule keeps the last rows since the rule's start.
    ScanTable {
        /// RETAIN_SIZE; `None`: all rows. Default: 1, for a file all.
        retain: Option<usize>,
    },
    /// KIND="lookup": the last row for each key since the table was created. All rules share it.
    LookupTable,
    /// A live view: FROM reads its changes, JOIN its current rows.
    View,
}

impl RelationKind {
    /// Whether this is a table of either kind.
    pub fn is_table(self) -> bool {
        matches!(self, RelationKind::ScanTable { .. } | RelationKind::LookupTable)
    }
}

/// The kinds of sources that a lookup table can have.
pub const LOOKUP_SOURCES: &[&str] = &["memory", "file"];

/// How messages of a stream are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    /// The message's bytes become the value of the column with this name.
    Binary {
        column: Text,
    },
    Delimited {
        delimiter: Text,
        /// The first line of a message names the columns; each further line is a row.
        header: bool,
    },
    UrlEncoded,
}

/// FRAMING: what a websocket message contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// One message of FORMAT.
    #[default]
    Message,
    /// One message of FORMAT in each line; empty lines are skipped.
    Lines,
}

/// JSON_ARRAY: how a JSON array is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum JsonArray {
    /// An array of objects, one row each.
    #[default]
    Rows,
    /// One row: its elements are the declared columns by position, or the array is the column `self`.
    Row,
}

/// ON_MISMATCH: what happens to a message that cannot be a row: JSON of another shape, or no JSON at all (`pong`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnMismatch {
    #[default]
    Error,
    /// Skipped and counted.
    Skip,
}

/// EVENT_CLOCK: the clock that the times of rows follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventClock {
    /// The system's clock, unless the first rows are all far ahead of it.
    #[default]
    Guessed,
    /// The system's clock, whatever the first rows are.
    Wall,
    /// Their own clock: they are not compared with the system's.
    Data,
}

/// Streams, tables and views by name. They share one name space.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    definitions: BTreeMap<Text, Arc<StreamDef>>,
    /// `None`: the name is reserved for a view that is not planned yet.
    views: BTreeMap<Text, Option<Arc<StreamDef>>>,
}

/// Why a stream or table cannot be created. The span is the name, a column or the value of an option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct CatalogError {
    pub kind: CatalogErrorKind,
    pub span: Span,
}

/// The errors in a statement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogErrorKind {
    #[error("Create {} fails: Item {name} already exists.", if *table { "table" } else { "stream" })]
    Exists {
        name: String,
        /// The statement was for a table.
        table: bool,
    },
    #[error("option '{option}={value}' is invalid")]
    Option {
        /// The option's name in lower case.
        option: &'static str,
        value: String,
    },
    #[error("{0}")]
    Combination(&'static str),
    #[error("{0}")]
    BinaryColumn(&'static str),
    #[error("invalid extra option, expect JSON string")]
    Extra,
    /// A lookup table with a memory source has no key.
    #[error("Option \"key\" is required for memory lookup table.")]
    LookupKey,
    #[error("lookup source type {0} not found.")]
    LookupSource(String),
    /// The DEFAULT has another type than its column. The text is eKuiper's.
    #[error("cannot convert {found} to {target}")]
    Default {
        /// Type and value of the literal, such as `int64(5)`.
        found: String,
        /// The type of the column.
        target: &'static str,
    },
    /// The DEFAULT of a column whose type has no literals.
    #[error("DEFAULT clause is not supported for {0}")]
    NoDefault(&'static str),
    /// A feature that this version lacks.
    #[error("{0} is not supported yet")]
    NotYet(String),
}

impl Catalog {
    /// Reserves a name for a view that is not planned yet.
    pub fn add_view(&mut self, name: &str) {
        self.views.entry(name.into()).or_default();
    }

    /// Sets the columns and key of a view, so that queries can read it.
    pub fn define_view(&mut self, name: &str, shape: &Arc<ViewShape>) {
        self.views.insert(name.into(), Some(Arc::new(shape.relation(name.into()))));
    }

    /// Makes queries read this stream or table as if it were a view.
    pub fn read_as_view(&mut self, name: &str) {
        if let Some(def) = self.definitions.remove(name) {
            self.views.insert(name.into(), Some(Arc::new(StreamDef { kind: RelationKind::View, ..(*def).clone() })));
        }
    }

    /// Frees the name of a view.
    pub fn remove_view(&mut self, name: &str) {
        self.views.remove(name);
    }

    pub fn is_view(&self, name: &str) -> bool {
        self.views.contains_key(name)
    }

    /// The view with this name, if it is planned.
    pub fn view(&self, name: &str) -> Option<&Arc<StreamDef>> {
        self.views.get(name)?.as_ref()
    }

    /// All planned views, by name.
    pub fn views(&self) -> impl Iterator<Item = &Arc<StreamDef>> {
        self.views.values().flatten()
    }

    /// The stream, table or view of this name.
    pub fn source(&self, name: &str) -> Option<&Arc<StreamDef>> {
        self.relation(name).or_else(|| self.view(name))
    }

    /// Adds the stream or table that a statement creates.
    ///
    /// # Errors
    /// Every error in the statement, at least one; the catalog is unchanged.
    pub fn create(&mut self, create: &CreateStream) -> Result<Arc<StreamDef>, Vec<CatalogError>> {
        let mut errors = Vec::new();
        let name = &create.name.name;
        if self.definitions.contains_key(name) {
            let kind = CatalogErrorKind::Exists { name: name.to_string(), table: create.relation == Relation::Table };
            errors.push(CatalogError { kind, span: create.name.span });
        }
        let def = definition(create, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let def = Arc::new(def);
        self.definitions.insert(def.name.clone(), def.clone());
        Ok(def)
    }

    /// The stream or table with this name.
    pub fn relation(&self, name: &str) -> Option<&Arc<StreamDef>> {
        self.definitions.get(name)
    }

    /// The stream of this name.
    pub fn stream(&self, name: &str) -> Option<&Arc<StreamDef>> {
        self.relation(name).filter(|def| !def.kind.is_table())
    }

    /// The table of this name.
    pub fn table(&self, name: &str) -> Option<&Arc<StreamDef>> {
        self.relation(name).filter(|def| def.kind.is_table())
    }

    /// All streams, by name.
    pub fn streams(&self) -> impl Iterator<Item = &Arc<StreamDef>> {
        self.definitions.values().filter(|def| !def.kind.is_table())
    }

    /// All tables, by name.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<StreamDef>> {
        self.definitions.values().filter(|def| def.kind.is_table())
    }

    /// Replaces the definition with the same name. Trials do this in their own catalog.
    pub fn replace(&mut self, def: StreamDef) {
        self.definitions.insert(def.name.clone(), Arc::new(def));
    }

    /// Removes a stream or table. Rules that read it keep the definition.
    pub fn remove(&mut self, name: &str) -> Option<Arc<StreamDef>> {
        self.definitions.remove(name)
    }
}

/// Makes the definition from a statement; errors are added to `errors`. If an option is written twice, the last one
/// counts.
fn definition(create: &CreateStream, errors: &mut Vec<CatalogError>) -> StreamDef {
    for column in &create.columns {
        if let Err(kind) = check_default(column) {
            errors.push(CatalogError { kind, span: column.name.span });
        }
    }
    let option = |name: &str| create.options.iter().rev().find(|option| option.name == name);
    let value = |name: &str| option(name).map(|option| option.value.clone());
    let text = |name: &str| value(name).filter(|value| !value.is_empty());
    let flag = |name: &str| value(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let mut refuse = |name: &str, kind| {
        let span = option(name).map_or(create.name.span, |option| option.span);
        errors.push(CatalogError { kind, span });
    };
    let extra = value("EXTRA").map_or_else(Map::new, |text| {
        serde_json::from_str(&text).unwrap_or_else(|_| {
            refuse("EXTRA", CatalogErrorKind::Extra);
            Map::new()
        })
    });
    let named = value("FORMAT").unwrap_or(Text::const_new("json"));
    let format = format(&named, text("DELIMITER"), &create.columns, &extra).unwrap_or_else(|kind| {
        refuse("FORMAT", kind);
        Format::Json
    });
    let compression = compression(&extra).unwrap_or_else(|kind| {
        refuse("EXTRA", kind);
        None
    });
    let invalid = |option, value: &str| CatalogErrorKind::Option { option, value: value.to_owned() };
    let timestamp = text("TIMESTAMP").and_then(|text| {
        let path = FieldPath::parse(&text);
        if path.is_none() {
            refuse("TIMESTAMP", invalid("timestamp", &text));
        }
        path
    });
    let timestamp_format = text("TIMESTAMP_FORMAT").and_then(|text| {
        let format = TimestampFormat::new(&text);
        if format.is_none() {
            refuse("TIMESTAMP_FORMAT", invalid("timestamp_format", &text));
        }
        format
    });
    let mut choice = |name, option, choices: [&str; 2]| {
        let Some(text) = text(name) else { return false };
        let chosen = choices.iter().position(|choice| text.eq_ignore_ascii_case(choice));
        if chosen.is_none() {
            refuse(name, invalid(option, &text));
        }
        chosen == Some(1)
    };
    let lines = choice("FRAMING", "framing", ["message", "lines"]);
    let row = choice("JSON_ARRAY", "json_array", ["rows", "row"]);
    let skip = choice("ON_MISMATCH", "on_mismatch", ["error", "skip"]);
    let clock = match choice("EVENT_CLOCK", "event_clock", ["wall", "data"]) {
        true => EventClock::Data,
        false if text("EVENT_CLOCK").is_some() => EventClock::Wall,
        false => EventClock::Guessed,
    };
    if matches!((create.relation, &format), (Relation::Table, Format::Binary { .. })) {
        refuse("FORMAT", CatalogErrorKind::BinaryColumn("'binary' format is not supported for table"));
    }
    if row && format != Format::Json {
        refuse("JSON_ARRAY", CatalogErrorKind::Combination("JSON_ARRAY=\"row\" needs FORMAT=\"json\""));
    }
    if lines && matches!(format, Format::Delimited { header: true, .. }) {
        const HEADER: &str = "FRAMING=\"lines\" makes each line a message, so that hasHeader would leave no rows";
        refuse("FRAMING", CatalogErrorKind::Combination(HEADER));
    }
    let integers = extra.get("useInt64ForWholeNumber").and_then(Json::as_bool).unwrap_or(false);
    let source = value("TYPE").unwrap_or_else(|| match create.relation {
        Relation::Stream => Text::default(),
        // A table without TYPE reads a file.
        Relation::Table => Text::const_new("file"),
    });
    let key = text("KEY");
    let kind = match create.relation {
        Relation::Stream => RelationKind::Stream,
        Relation::Table => {
            table_kind(text("KIND"), text("RETAIN_SIZE"), &source, key.is_some()).unwrap_or_else(|(option, kind)| {
                refuse(option, kind);
                RelationKind::LookupTable
            })
        }
    };
    StreamDef {
        name: create.name.name.clone(),
        kind,
        columns: (!create.columns.is_empty()).then(|| create.columns.clone()),
        datasource: value("DATASOURCE").unwrap_or_default(),
        source,
        format,
        framing: if lines { Framing::Lines } else { Framing::Message },
        json_array: if row { JsonArray::Row } else { JsonArray::Rows },
        on_mismatch: if skip { OnMismatch::Skip } else { OnMismatch::Error },
        compression,
        conf_key: text("CONF_KEY"),
        key,
        timestamp,
        timestamp_format,
        clock,
        strict: flag("STRICT_VALIDATION"),
        shared: flag("SHARED"),
        temporary: flag("TEMP"),
        integers,
        extra,
        view: None,
    }
}

/// The kind of a table, or an error with the name of the wrong option.
fn table_kind(
    kind: Option<Text>,
    retain: Option<Text>,
    source: &str,
    has_key: bool,
) -> Result<RelationKind, (&'static str, CatalogErrorKind)> {
    let invalid = |option, value: Text| CatalogErrorKind::Option { option, value: value.to_string() };
    match kind {
        None => {}
        Some(kind) if kind.eq_ignore_ascii_case("scan") => {}
        Some(kind) if !kind.eq_ignore_ascii_case("lookup") => return Err(("KIND", invalid("kind", kind))),
        Some(_) if !LOOKUP_SOURCES.contains(&source) => {
            return Err(("TYPE", CatalogErrorKind::LookupSource(source.to_owned())));
        }
        Some(_) if source == "memory" && !has_key => return Err(("KIND", CatalogErrorKind::LookupKey)),
        Some(_) => return Ok(RelationKind::LookupTable),
    }
    let retain = match retain {
        // A file contains the whole table. Of arriving rows, only the last one is kept.
        None => (source != "file").then_some(1),
        Some(text) => match text.parse::<u32>() {
            Ok(rows) => Some((rows as usize).max(1)),
            Err(_) => return Err(("RETAIN_SIZE", invalid("retain_size", text))),
        },
    };
    Ok(RelationKind::ScanTable { retain })
}

/// Checks that a DEFAULT fits its column. Columns of numbers, text and booleans can have one, in any form that messages
/// may use: an integer fits a float column, and every literal fits a text column.
fn check_default(column: &ColumnDef) -> Result<(), CatalogErrorKind> {
    let Some(default) = &column.default else { return Ok(()) };
    let target = match (&column.ty, default) {
        (DataType::BigInt, Literal::Int(_))
        | (DataType::Float, Literal::Int(_) | Literal::Float(_))
        | (DataType::String, _)
        | (DataType::Boolean, Literal::Bool(_) | Literal::Int(_)) => return Ok(()),
        (DataType::Boolean, Literal::Text(text)) if cast::truth_of_text(text).is_some() => return Ok(()),
        (DataType::BigInt, _) => "int64",
        (DataType::Float, _) => "float64",
        (DataType::Boolean, _) => "bool",
        (DataType::DateTime, _) => return Err(CatalogErrorKind::NoDefault("datetime")),
        (DataType::Bytea, _) => return Err(CatalogErrorKind::NoDefault("bytea")),
        (DataType::Array(_), _) => return Err(CatalogErrorKind::NoDefault("array")),
        (DataType::Struct(_), _) => return Err(CatalogErrorKind::NoDefault("struct")),
    };
    let found = match default {
        Literal::Int(i) => format!("int64({i})"),
        Literal::Unsigned(u) => format!("uint64({u})"),
        Literal::Float(x) => format!("float64({x})"),
        Literal::Text(text) => format!("string({text})"),
        Literal::Bool(b) => format!("bool({b})"),
    };
    Err(CatalogErrorKind::Default { found, target })
}

/// The method of the property `decompression` in EXTRA.
fn compression(extra: &Map<String, Json>) -> Result<Option<Method>, CatalogErrorKind> {
    let name = match extra.get("decompression") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::String(name)) if name.is_empty() => return Ok(None),
        Some(Json::String(name)) => name.clone(),
        Some(other) => other.to_string(),
    };
    Method::of(&name).map(Some).ok_or(CatalogErrorKind::Option { option: "decompression", value: name })
}

fn format(
    name: &str,
    delimiter: Option<Text>,
    columns: &[ColumnDef],
    extra: &Map<String, Json>,
) -> Result<Format, CatalogErrorKind> {
    match name.to_ascii_lowercase().as_str() {
        "" | "json" => Ok(Format::Json),
        "delimited" => {
            let header = match extra.get("hasHeader") {
                Some(Json::String(text)) => text.eq_ignore_ascii_case("true"),
                header => header.and_then(Json::as_bool).unwrap_or(false),
            };
            Ok(Format::Delimited { delimiter: delimiter.unwrap_or(Text::const_new(",")), header })
        }
        "urlencoded" => Ok(Format::UrlEncoded),
        "binary" => match columns {
            [] => Ok(Format::Binary { column: Text::const_new("self") }),
            [column] if column.ty == DataType::Bytea => Ok(Format::Binary { column: column.name.name.clone() }),
            [_] => Err(CatalogErrorKind::BinaryColumn("'binary' format stream can have only 'bytea' type field")),
            _ => Err(CatalogErrorKind::BinaryColumn("'binary' format stream can have only one field")),
        },
        _ => Err(CatalogErrorKind::Option { option: "format", value: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests;
