//! Errors of views.

use thiserror::Error;

/// Errors of CREATE VIEW, beyond those of every query.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ViewError {
    #[error("the view needs a KEY: without GROUP BY, no column identifies its rows")]
    NoKey,
    #[error("{option} names {name}, which the view does not select")]
    NotSelected { option: &'static str, name: String },
    #[error("GROUP BY {0} is not selected: the view's rows are identified by it")]
    GroupNotSelected(String),
    #[error("KEY is {found}, but the rows of the view are identified by its GROUP BY columns: {expected}")]
    OtherKey { found: String, expected: String },
    #[error("{option} names {name}, whose values are arrays or objects: a single value is needed")]
    NotScalar { option: &'static str, name: String },
    #[error("{option} is {found}, expected {expected}")]
    Option { option: &'static str, found: String, expected: &'static str },
    #[error("{option} has no effect here: {why}")]
    Useless { option: &'static str, why: &'static str },
    #[error("{0} cannot be the window of a view: its rows have no permanent key")]
    Window(&'static str),
    #[error("stream {0} cannot be joined in a view: a view joins what has a current state")]
    StreamInJoin(String),
    #[error("{0} is a view that cannot be read: its own definition has an error")]
    Unknown(String),
    #[error("table {0} has separate rows in each rule: only tables with KIND=\"lookup\" can be joined in a view")]
    ScanTable(String),
    #[error("{0} is a view: its rows have no time, so they cannot be in a window")]
    WindowOverView(String),
    #[error("{0} depends on the order of rows, and the rows of a view have none")]
    Ordered(String),
    #[error(
        "{0} is selected beside groups of rows that leave again: only GROUP BY columns and aggregates have one value"
    )]
    NotGrouped(String),
    #[error("{0}() changes by itself: a row that was counted with one value could not be removed with another")]
    Volatile(&'static str),
    #[error("meta() reads a message, but {0} is made of rows: use it on a stream")]
    Meta(String),
    #[error("ON of {0} must be equalities with columns of {0}, joined by AND")]
    On(String),
    #[error(
        "KEY must contain {columns} of {source_name}, or ON must equate it: it distinguishes the rows of {source_name}"
    )]
    KeyOfSource { source_name: String, columns: String },
    #[error("table {0} has no KEY: a view cannot tell its rows apart")]
    TableWithoutKey(String),
    #[error("{0}.* beside other sources: its columns are not known")]
    OpenStar(String),
    #[error("a view cannot read itself: {0}")]
    Cycle(String),
    #[error("table {0} cannot be the source of a view: read a stream")]
    Table(String),
    #[error("LIMIT without ORDER BY: the first rows are undefined")]
    LimitWithoutOrder,
    #[error("ORDER BY {0} is not a selected column")]
    OrderNotSelected(String),
    #[error("{0} keeps every value for ever in a view without a window")]
    Unbounded(String),
    #[error("{0} cannot be used in a view: a row of it would not have one key")]
    SeveralRows(String),
    #[error("{0} needs a window: the view has none")]
    NeedsWindow(String),
    #[error("{0} depends on the rows that came before, and a view recomputes its rows when they change")]
    Analytic(String),
    #[error("WHERE of a view tests messages, and cannot hold aggregates")]
    AggregateInWhere,
    #[error("row_number() in WHERE must be compared with a whole number from 1 up: row_number() OVER (…) <= 3")]
    RowNumber,
    #[error("window_start() and window_end() cannot be in GROUP BY or in the arguments of aggregates of a view")]
    WindowBounds,
    #[error("{0} FILTER (WHERE …) cannot be computed in a view: the aggregate includes nulls")]
    Filter(String),
    #[error("duplicate column {0}")]
    Duplicate(String),
}

impl ViewError {
    /// What to write instead.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            ViewError::NoKey => "write WITH (KEY=\"deviceId\") with the columns that identify a row".to_owned(),
            ViewError::NotSelected { name, .. } => format!("add {name} to the select list"),
            ViewError::GroupNotSelected(key) => format!("add {key} to the select list"),
            ViewError::OtherKey { .. } => "leave KEY out".to_owned(),
            ViewError::Window(_) => "views have TUMBLINGWINDOW, HOPPINGWINDOW and SESSIONWINDOW".to_owned(),
            ViewError::StreamInJoin(name) => {
                format!("make a view of it first: CREATE VIEW {name}_now WITH (KEY=\"…\") AS SELECT * FROM {name}")
            }
            ViewError::Table(_) => "CREATE STREAM instead of CREATE TABLE".to_owned(),
            ViewError::LimitWithoutOrder => "add ORDER BY before LIMIT".to_owned(),
            ViewError::OrderNotSelected(key) => format!("select it under a name: {key} AS rank, then ORDER BY rank"),
            ViewError::Unbounded(_) => "put it in a time window, such as GROUP BY …, TUMBLINGWINDOW(mi, 1)".to_owned(),
            ViewError::NeedsWindow(_) => "add a window to GROUP BY, such as TUMBLINGWINDOW(mi, 1)".to_owned(),
            ViewError::AggregateInWhere => "conditions on aggregates belong in HAVING".to_owned(),
            ViewError::ScanTable(_) => "add KIND=\"lookup\" and KEY to CREATE TABLE".to_owned(),
            ViewError::WindowOverView(name) => {
                format!("write a rule that reads FROM {name}: it gets the changes as rows, which windows can hold")
            }
            ViewError::Ordered(_) => {
                "compute it in the view that reads the stream, or take min() or max() of a time".to_owned()
            }
            ViewError::NotGrouped(name) => format!("add {name} to GROUP BY, or take max({name})"),
            ViewError::Volatile(_) => "let the view that reads the stream select it as a column".to_owned(),
            ViewError::On(_) => "put other conditions into WHERE".to_owned(),
            ViewError::KeyOfSource { columns, .. } => format!("select {columns} and add it to KEY"),
            ViewError::TableWithoutKey(_) => "give CREATE TABLE a KEY, or GROUP BY".to_owned(),
            ViewError::OpenStar(_) => "name the columns".to_owned(),
            ViewError::Analytic(_) => {
                "compute it in a rule that writes to a stream, and make the view of that".to_owned()
            }
            _ => return None,
        })
    }
}
