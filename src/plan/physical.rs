//! The physical plan of a rule: what a worker builds and runs. Plain data, `Send`, printable; a worker never sees a
//! plan that cannot work.
//!
//! Names are gone: a row is a list of slots, and an [`Expr`] reads slots by number. The slots of a row are the columns
//! of [`Scan::columns`], then the values of [`Scan::computed`]; behind a window the answers of the aggregates follow.

use std::sync::Arc;

use crate::catalog::StreamDef;
use crate::expr::Expr;
use crate::expr::aggregate::Aggregate;
use crate::expr::datetime_pattern::TimePattern;
use crate::sql::ast::{DataType, Unit};
use crate::value::{Text, Value};

pub use crate::expr::Comparison;

/// A rule, ready to run.
#[derive(Clone, Debug)]
pub struct RulePlan {
    /// the stream it reads
    pub stream: Arc<StreamDef>,
    /// what it takes of each message
    pub scan: Scan,
    /// what becomes of the rows
    pub body: Body,
    /// absent and null values are written as null (rule option sendNilField)
    pub send_nil: bool,
}

/// What a rule takes of each message of its stream.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// the columns, slot by slot
    pub columns: Vec<Column>,
    /// values that several expressions need (aliases), slot by slot after the columns; each may read those before it.
    /// The first [`Scan::computed_for_filter`] are computed before the filter, the others for rows that pass.
    pub computed: Vec<Expr>,
    /// how many of `computed` the filter needs
    pub computed_for_filter: usize,
    /// rows that do not pass go no further
    pub filter: Option<Filter>,
    /// event time, where the rule runs in event time
    pub event_time: Option<EventTime>,
}

/// One column that a rule reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// what it is of the message
    pub source: ColumnSource,
    /// what the stream declares it to be; values are converted; none: as they come
    pub ty: Option<DataType>,
}

/// Which part of a message a column is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ColumnSource {
    /// the member with this key
    Key(Text),
    /// the whole message, for `SELECT *` of a schemaless stream
    Whole,
}

/// A condition as a conjunction: first tests of a slot against a constant, as data so that the tests of many rules
/// can be indexed, then the rest.
#[derive(Clone, Debug)]
pub struct Filter {
    /// tests that stand at the front of the condition, in order
    pub tests: Vec<Test>,
    /// what follows them
    pub rest: Option<Expr>,
}

/// `slot op constant`.
#[derive(Clone, Debug)]
pub struct Test {
    /// the slot
    pub slot: usize,
    /// the comparison
    pub op: Comparison,
    /// the constant: a number or text
    pub constant: Value,
}

/// Event time of a rule.
#[derive(Clone, Debug)]
pub struct EventTime {
    /// the slot that holds the timestamp
    pub slot: usize,
    /// its format where it is text; texts of another form are read by their shape
    pub format: Option<TimePattern>,
    /// how far the watermark stays behind the largest timestamp, ms
    pub late_tolerance: i64,
}

/// What becomes of the rows that pass the scan.
#[derive(Clone, Debug)]
pub enum Body {
    /// each row is a result; in event time in the order of their times
    Rows(Projection),
    /// rows are gathered in windows
    Window(Box<WindowPlan>),
}

/// A window with all that happens in it.
#[derive(Clone, Debug)]
pub struct WindowPlan {
    /// which rows belong together
    pub window: WindowSpec,
    /// FILTER (WHERE …): rows that reach the window at all
    pub admit: Option<Filter>,
    /// WHERE where it must be applied to the window's content (a count window counts rows before WHERE)
    pub filter: Option<Filter>,
    /// keys of the groups; with neither keys nor aggregates every row is a result row of its own
    pub keys: Vec<Expr>,
    /// one result row for each group (or one for the window, without keys)
    pub grouped: bool,
    /// the aggregates; the answer of the i-th is in slot `row_slots + i`
    pub aggregates: Vec<AggregateCall>,
    /// how many slots a row has before the aggregates
    pub row_slots: usize,
    /// the slots of a group's first row that `having` or `projection` read
    pub kept_slots: Vec<usize>,
    /// HAVING, over a group's first row and its aggregates; without `grouped` it keeps or drops the whole window
    pub having: Option<Expr>,
    /// what a result row is
    pub projection: Projection,
    /// LIMIT: result rows of one window
    pub limit: Option<u64>,
}

/// Which rows belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WindowSpec {
    /// windows of `length` units, side by side, aligned to the epoch in the configured zone
    Tumbling {
        /// unit
        unit: Unit,
        /// length in units
        length: u64,
    },
    /// the last `length` rows, whenever `interval` further ones have come
    Count {
        /// rows of a window
        length: u64,
        /// rows from one window's end to the next's
        interval: u64,
    },
}

/// One call of an aggregate.
#[derive(Clone, Debug)]
pub struct AggregateCall {
    /// which
    pub aggregate: Aggregate,
    /// its argument, over the slots of a row; none: `*`
    pub arg: Option<Expr>,
    /// whether whole numbers in the argument are whole numbers of the language (BIGINT) and not just JSON numbers:
    /// the sum of the former is an integer
    pub integral: bool,
}

/// A result row.
#[derive(Clone, Debug)]
pub struct Projection {
    /// its members, in order
    pub items: Vec<Item>,
    /// LIMIT of a rule without a window counts within one row's result: false sends nothing
    pub sends: bool,
}

/// One item of a result row.
#[derive(Clone, Debug)]
pub enum Item {
    /// all members of the message in `slot` (a column with [`ColumnSource::Whole`])
    Star {
        /// where the message is
        slot: usize,
        /// keys that are left out: EXCEPT, and what other items define
        except: Vec<Text>,
    },
    /// one member
    Field {
        /// its key
        name: Text,
        /// its value
        expr: Expr,
        /// a field passed through by its name: null is written as null
        plain: bool,
    },
    /// INVISIBLE: evaluated, since its errors count, but not sent
    Hidden {
        /// what is evaluated
        expr: Expr,
    },
}
