//! The streams that rules can name: their statements as typed definitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::expr::datetime_pattern::TimePattern;
use crate::sql::ast::{ColumnDef, CreateStream, DataType, Literal, Relation, Span};
use crate::value::Text;

/// A stream as it was created.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamDef {
    /// its name
    pub name: Text,
    /// its columns; none: schemaless
    pub columns: Option<Vec<ColumnDef>>,
    /// DATASOURCE: the path of the endpoint; empty if not given
    pub datasource: Text,
    /// TYPE: kind of the source
    pub source: Text,
    /// FORMAT
    pub format: Format,
    /// CONF_KEY: which property set
    pub conf_key: Option<Text>,
    /// TIMESTAMP: the event time field
    pub timestamp: Option<Text>,
    /// TIMESTAMP_FORMAT
    pub timestamp_format: Option<TimePattern>,
    /// STRICT_VALIDATION
    pub strict: bool,
    /// SHARED
    pub shared: bool,
    /// TEMP: for temporary rules only
    pub temporary: bool,
    /// useInt64ForWholeNumber in EXTRA: whole numbers of messages are whole numbers of the language (BIGINT), which
    /// divide as such
    pub integers: bool,
    /// EXTRA: further source properties
    pub extra: Map<String, Json>,
}

/// How messages of a stream are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON
    Json,
}

/// All streams by name.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    streams: BTreeMap<Text, Arc<StreamDef>>,
}

/// Why a stream cannot be created, and the place in its statement: the name, a column or the value of an option.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct CatalogError {
    /// what is wrong
    pub kind: CatalogErrorKind,
    /// where, in bytes of the statement
    pub span: Span,
}

/// The ways in which a statement can be wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogErrorKind {
    /// Streams and tables share the names.
    #[error("Create stream fails: Item {0} already exists.")]
    Exists(String),
    /// A value of an option that it cannot have.
    #[error("option '{option}={value}' is invalid")]
    Option {
        /// name of the option, in small letters
        option: &'static str,
        /// the value
        value: String,
    },
    /// EXTRA is no JSON object.
    #[error("invalid extra option, expect JSON string")]
    Extra,
    /// DEFAULT of another type than its column, in the words of eKuiper.
    #[error("cannot convert {found} to {target}")]
    Default {
        /// type and value of the literal
        found: String,
        /// the type of the column
        target: &'static str,
    },
    /// Something that the language has and this version has not.
    #[error("{0} is not supported yet")]
    NotYet(String),
}

impl Catalog {
    /// Adds the stream of a statement.
    ///
    /// # Errors
    /// All that is wrong with the statement, never nothing; the catalog stays as it was.
    pub fn create(&mut self, create: &CreateStream) -> Result<Arc<StreamDef>, Vec<CatalogError>> {
        let mut errors = Vec::new();
        if self.streams.contains_key(&create.name.name) {
            let kind = CatalogErrorKind::Exists(create.name.name.to_string());
            errors.push(CatalogError { kind, span: create.name.span });
        }
        let stream = definition(create, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        let stream = Arc::new(stream);
        self.streams.insert(stream.name.clone(), stream.clone());
        Ok(stream)
    }

    /// The stream of this name.
    pub fn stream(&self, name: &str) -> Option<&Arc<StreamDef>> {
        self.streams.get(name)
    }

    /// All streams, by name.
    pub fn streams(&self) -> impl Iterator<Item = &Arc<StreamDef>> {
        self.streams.values()
    }
}

/// The definition that a statement gives; what is wrong in it goes to `errors`. Of an option that is written twice the
/// last one counts.
fn definition(create: &CreateStream, errors: &mut Vec<CatalogError>) -> StreamDef {
    if create.relation == Relation::Table {
        let kind = CatalogErrorKind::NotYet("CREATE TABLE".to_owned());
        errors.push(CatalogError { kind, span: create.name.span });
    }
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
    let format = format(value("FORMAT").as_deref().unwrap_or("json")).unwrap_or_else(|kind| {
        refuse("FORMAT", kind);
        Format::Json
    });
    let timestamp_format =
        text("TIMESTAMP_FORMAT").and_then(|text| pattern(&text).map_err(|kind| refuse("TIMESTAMP_FORMAT", kind)).ok());
    let integers = extra.get("useInt64ForWholeNumber").and_then(Json::as_bool).unwrap_or(false);
    StreamDef {
        name: create.name.name.clone(),
        columns: (!create.columns.is_empty()).then(|| create.columns.clone()),
        datasource: value("DATASOURCE").unwrap_or_default(),
        source: value("TYPE").unwrap_or_default(),
        format,
        conf_key: text("CONF_KEY"),
        timestamp: text("TIMESTAMP"),
        timestamp_format,
        strict: flag("STRICT_VALIDATION"),
        shared: flag("SHARED"),
        temporary: flag("TEMP"),
        integers,
        extra,
    }
}

/// DEFAULT is for columns of numbers, text and truth values; a whole number is a float too.
fn check_default(column: &ColumnDef) -> Result<(), CatalogErrorKind> {
    let Some(default) = &column.default else { return Ok(()) };
    let target = match (&column.ty, default) {
        (DataType::BigInt, Literal::Int(_))
        | (DataType::Float, Literal::Int(_) | Literal::Float(_))
        | (DataType::String, Literal::Text(_))
        | (DataType::Boolean, Literal::Bool(_)) => return Ok(()),
        (DataType::BigInt, _) => "int64",
        (DataType::Float, _) => "float64",
        (DataType::String, _) => "string",
        (DataType::Boolean, _) => "bool",
        (DataType::DateTime, _) => "datetime",
        (DataType::Bytea, _) => "bytea",
        (DataType::Array(_), _) => "array",
        (DataType::Struct(_), _) => "struct",
    };
    let found = match default {
        Literal::Int(i) => format!("int64({i})"),
        Literal::Float(x) => format!("float64({x})"),
        Literal::Text(text) => format!("string({text})"),
        Literal::Bool(b) => format!("bool({b})"),
    };
    Err(CatalogErrorKind::Default { found, target })
}

fn pattern(text: &str) -> Result<TimePattern, CatalogErrorKind> {
    TimePattern::new(text)
        .ok_or_else(|| CatalogErrorKind::Option { option: "timestamp_format", value: text.to_string() })
}

fn format(name: &str) -> Result<Format, CatalogErrorKind> {
    match name.to_ascii_lowercase().as_str() {
        "json" => Ok(Format::Json),
        known @ ("binary" | "delimited" | "urlencoded") => Err(CatalogErrorKind::NotYet(format!("format {known}"))),
        _ => Err(CatalogErrorKind::Option { option: "format", value: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse_create;

    fn create(catalog: &mut Catalog, sql: &str) -> Result<Arc<StreamDef>, String> {
        let create = parse_create(sql).map_err(|error| error.to_string())?;
        catalog.create(&create).map_err(|errors| {
            let told = errors.iter().map(|error| {
                let marked = &sql[error.span.start as usize..error.span.end as usize];
                format!("{error} @ {marked}")
            });
            told.collect::<Vec<_>>().join("; ")
        })
    }

    #[test]
    fn options_become_a_definition() {
        let mut catalog = Catalog::default();
        let sql = "CREATE STREAM demo (a BIGINT DEFAULT -1) WITH (DATASOURCE=\"/x\", DATASOURCE=\"/d\", FORMAT=\"JSON\", \
                   TYPE=\"websocket\", TIMESTAMP=\"ts\", STRICT_VALIDATION=\"TRUE\", EXTRA=\"{\\\"k\\\": 1}\")";
        let stream = create(&mut catalog, sql).expect("the statement is correct");
        assert_eq!((stream.datasource.as_str(), stream.source.as_str()), ("/d", "websocket"));
        assert_eq!((stream.timestamp.as_deref(), stream.strict, stream.shared), (Some("ts"), true, false));
        assert_eq!(stream.extra["k"], 1);
        assert_eq!(catalog.stream("demo"), Some(&stream));
        assert_eq!(catalog.streams().count(), 1);
        let schemaless = create(&mut catalog, "CREATE STREAM other () WITH (DATASOURCE=\"/d\")").expect("correct");
        assert_eq!((&schemaless.columns, schemaless.format), (&None, Format::Json));
    }

    #[test]
    fn refusals() {
        let mut catalog = Catalog::default();
        create(&mut catalog, "CREATE STREAM demo () WITH (DATASOURCE=\"/d\")").expect("correct");
        for (rest, message) in [
            ("STREAM demo () WITH (DATASOURCE=\"/d\")", "Create stream fails: Item demo already exists. @ demo"),
            ("STREAM x () WITH (FORMAT=\"toml\")", "option 'format=toml' is invalid @ \"toml\""),
            ("STREAM x () WITH (FORMAT=\"delimited\")", "format delimited is not supported yet @ \"delimited\""),
            ("STREAM x () WITH (EXTRA=\"{oops\")", "invalid extra option, expect JSON string @ \"{oops\""),
            ("STREAM x () WITH (EXTRA=\"[1]\")", "invalid extra option, expect JSON string @ \"[1]\""),
            ("STREAM x (a BIGINT DEFAULT \"x\") WITH (DATASOURCE=\"/d\")", "cannot convert string(x) to int64 @ a"),
            ("TABLE x () WITH (DATASOURCE=\"/d\")", "CREATE TABLE is not supported yet @ x"),
            (
                "STREAM demo (a BIGINT DEFAULT true) WITH (FORMAT=\"toml\", EXTRA=\"5\")",
                "Create stream fails: Item demo already exists. @ demo; cannot convert bool(true) to int64 @ a; invalid \
                 extra option, expect JSON string @ \"5\"; option 'format=toml' is invalid @ \"toml\"",
            ),
        ] {
            assert_eq!(create(&mut catalog, &format!("CREATE {rest}")).err().as_deref(), Some(message), "{rest}");
        }
        assert_eq!(catalog.streams().count(), 1);
    }
}
