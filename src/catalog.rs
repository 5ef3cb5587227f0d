//! The streams that rules can name: their statements as typed definitions.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

use crate::sql::ast::ColumnDef;
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
    pub timestamp_format: Option<Text>,
    /// STRICT_VALIDATION
    pub strict: bool,
    /// SHARED
    pub shared: bool,
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
