//! The description of a view for clients, and how it can be divided.

use std::fmt;

use crate::value::Text;

/// A view as its clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    pub name: Text,
    /// the path of the view on the data server
    pub path: String,
    /// columns that identify a row, in the order of row keys
    pub key: Vec<Text>,
    pub columns: Vec<Column>,
    /// columns that divide the rows into parts of clients
    pub parts: Vec<PartColumn>,
    /// ORDER BY: columns, and whether descending
    pub order: Vec<(Text, bool)>,
    pub limit: Option<u64>,
    /// how long after a row was removed an earlier cursor can resume, ms
    pub retain: i64,
    /// the most lives kept after their end
    pub max_rows: usize,
    /// a hash of the query: cursors of another definition cannot resume
    pub definition: u64,
    /// it reads other views: its first rows come in several cuts, and clients wait until all are there
    pub over_views: bool,
}

/// A selected column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: Text,
    pub ty: ColumnType,
}

/// A column that a parameter or claim of a client can fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartColumn {
    pub name: Text,
    pub ty: ColumnType,
    /// its position in the key, if it is part of it
    pub in_key: Option<usize>,
    /// clients can fix it by a parameter
    pub is_param: bool,
    /// the claim of the token that fixes it
    pub claim: Option<Text>,
}

/// The type of a column, as far as the planner knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// differs from row to row
    #[default]
    Any,
    Bigint,
    Float,
    String,
    Boolean,
    Datetime,
    Bytea,
    Array,
    Struct,
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ColumnType::Any => "any",
            ColumnType::Bigint => "bigint",
            ColumnType::Float => "float",
            ColumnType::String => "string",
            ColumnType::Boolean => "boolean",
            ColumnType::Datetime => "datetime",
            ColumnType::Bytea => "bytea",
            ColumnType::Array => "array",
            ColumnType::Struct => "struct",
        })
    }
}

impl Description {
    /// Whether every part column is a key column, so that the key of a row determines its parts.
    pub fn parts_are_key(&self) -> bool {
        self.parts.iter().all(|part| part.in_key.is_some())
    }

    /// The description for readers that see everything.
    pub fn without_claims(&self) -> Description {
        let parts = self.parts.iter().map(|part| PartColumn { claim: None, ..part.clone() }).collect();
        Description { parts, ..self.clone() }
    }
}
