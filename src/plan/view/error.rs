//! Why a view cannot be made.

use thiserror::Error;

/// What is wrong with a CREATE VIEW, beyond what may be wrong with any query.
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
    #[error("{0} cannot be the window of a view: its rows have no key that stays")]
    Window(&'static str),
    #[error("stream {0} cannot be joined in a view: a view joins what has a current state")]
    StreamInJoin(String),
    #[error("{0} reads the view {1}, and views over views are not supported yet")]
    OverView(&'static str, String),
    #[error("{0} is a view, and rules that read or join views are not supported yet")]
    ReadByRule(String),
    #[error("lookup table {0} cannot be joined in a view yet")]
    Lookup(String),
    #[error("table {0} cannot be the source of a view: read a stream")]
    Table(String),
    #[error("LIMIT needs ORDER BY: without it, the first rows are undefined")]
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
    #[error("the arguments of aggregates and GROUP BY cannot ask for the window's bounds in a view")]
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
            ViewError::Analytic(_) => {
                "compute it in a rule that writes to a stream, and make the view of that".to_owned()
            }
            _ => return None,
        })
    }
}
