//! The physical plan of a rule: what a worker builds and runs. It is plain data, `Send` and printable, and it is valid:
//! a worker need not check it.
//!
//! There are no names: a row is a list of slots, and an [`Expr`] reads slots by number. The slots of a row are the
//! columns of [`Scan::columns`], then the values of [`Scan::computed`]; after a window, the results of the aggregates
//! follow.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;

use super::view::ViewPlan;
use crate::definition::stream::{RelationKind, StreamDef};
use crate::expr::aggregate::Aggregate;
use crate::expr::analytic::Analytic;
use crate::expr::function::CallContext;
use crate::expr::set_returning::SetReturning;
use crate::expr::{EvalError, Expr, Scope, compare_at};
use crate::time::Unit;
use crate::value::field_path::FieldPath;
use crate::value::operator::JoinKind;
use crate::value::timestamp_format::TimestampFormat;
use crate::value::types::DataType;
use crate::value::{Text, Value};

pub use crate::expr::Comparison;

#[derive(Clone, Debug)]
pub struct RulePlan {
    /// FROM, then the joined streams and tables. In a joined row the slots of the inputs are side by side, in this
    /// order.
    pub inputs: Vec<Input>,
    pub body: Body,
    /// Absent and null values are sent as null (`sendNilField`).
    pub send_nil: bool,
    /// how many workers may take part in the rule (option `concurrency`); `None`: all
    pub concurrency: Option<NonZeroUsize>,
}

/// One stream or table of a rule.
#[derive(Clone, Debug)]
pub struct Input {
    pub stream: Arc<StreamDef>,
    pub role: Role,
    /// What the rule takes from each message.
    pub scan: Scan,
    /// The slots of its rows in a joined row: those of the scan, then those of [`Stateful::steps`] of this input.
    pub slots: Range<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Its rows make results.
    Stream,
    /// Its last rows (`None`: all) are joined with the rows of streams.
    Table {
        /// The number of rows kept.
        retain: Option<usize>,
    },
    /// Rows are looked up by key; nothing is scanned.
    Lookup,
}

impl RulePlan {
    /// The stream of FROM, or the first joined one if FROM names a table.
    pub fn stream(&self) -> &Arc<StreamDef> {
        let first = self.inputs.iter().find(|input| input.role == Role::Stream);
        &first.unwrap_or(&self.inputs[0]).stream
    }

    /// Whether it is the plan of a live view, or reads one.
    pub fn has_views(&self) -> bool {
        matches!(self.body, Body::View(_)) || self.inputs.iter().any(|input| input.stream.kind == RelationKind::View)
    }
}

/// What a rule takes from each message of its stream.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// The columns, one slot each.
    pub columns: Vec<Column>,
    /// Values that several expressions need (aliases), one slot each, after the columns. Each may read those before it.
    /// The first [`Scan::computed_for_filter`] are computed before the filter, the others only for rows that pass.
    pub computed: Vec<Expr>,
    /// The number of values in `computed` that the filter needs.
    pub computed_for_filter: usize,
    pub filter: Option<Filter>,
    /// Set if the rule is in event time.
    pub event_time: Option<EventTime>,
}

impl Scan {
    /// The number of slots of a row.
    pub fn width(&self) -> usize {
        self.columns.len() + self.computed.len()
    }
}

/// One column that a rule reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The part of the message.
    pub source: ColumnSource,
    /// The declared type, to which values are converted; `None`: values are not converted.
    pub ty: Option<DataType>,
}

/// The part of a message that becomes a column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ColumnSource {
    /// The member with this key.
    Key(Text),
    /// The complete message, for `SELECT *` of a schemaless stream.
    Whole,
    /// The metadata of the message and its connection as an object, for `meta(key)`.
    Meta,
    /// The metadata for `meta(*)` and `sendMetaToSink`: only the topic, since headers may contain credentials.
    Topic,
}

/// A conjunction: first tests of a slot against a constant, which are data, so that the tests of many rules can be
/// indexed; then the rest as an expression.
#[derive(Clone, Debug)]
pub struct Filter {
    /// The tests at the start of the condition, in order.
    pub tests: Vec<Test>,
    /// What follows the tests.
    pub rest: Option<Expr>,
}

impl Filter {
    /// Whether a row passes. Without a filter every row does.
    ///
    /// # Errors
    /// [`EvalError`] of the first test or expression that fails.
    pub fn passes(filter: Option<&Filter>, scope: &Scope<'_>) -> Result<bool, EvalError> {
        let Some(filter) = filter else { return Ok(true) };
        for test in &filter.tests {
            if !test.holds.test(&scope.slots[test.slot], scope.context)? {
                return Ok(false);
            }
        }
        filter.rest.as_ref().map_or(Ok(true), |rest| rest.test(scope))
    }
}

/// A condition on one slot.
#[derive(Clone, Debug)]
pub struct Test {
    pub slot: usize,
    pub holds: Condition,
}

#[derive(Clone, Debug)]
pub enum Condition {
    /// `op constant`: a number or text, or a boolean compared for equality.
    Compare(Comparison, Value),
    /// `IN (constant, …)`: numbers, texts and booleans
    IsOneOf(Box<[Value]>),
}

impl Condition {
    /// Whether this value passes. Null and absent never pass.
    ///
    /// # Errors
    /// The kinds of the two values cannot be compared. IN never fails: there, such values are different.
    #[inline]
    pub fn test(&self, value: &Value, context: &CallContext<'_>) -> Result<bool, EvalError> {
        match self {
            Condition::Compare(op, constant) => compare_at(value, *op, constant, context),
            Condition::IsOneOf(constants) => Ok(constants
                .iter()
                .any(|constant| compare_at(value, Comparison::Equal, constant, context).unwrap_or(false))),
        }
    }
}

#[derive(Clone, Debug)]
pub struct EventTime {
    /// The column that holds the timestamp.
    pub slot: usize,
    /// The path within that column.
    pub path: FieldPath,
    /// `None`: ms since the epoch, or text in a recognised format.
    pub format: Option<TimestampFormat>,
    /// How far the watermark is behind the largest timestamp, ms.
    pub late_tolerance: i64,
    /// Rows further ahead of the clock than this, ms, are dropped.
    pub max_future_skew: i64,
    /// Whether the system's clock decides even if the first rows of the stream are far ahead of it.
    pub follows_wall: bool,
}

/// What happens to the rows that pass the scan.
#[derive(Clone, Debug)]
pub enum Body {
    /// Each row is a result; the scan itself makes it.
    Rows(Projection),
    /// Rows pass through a dataflow of the rule, which has state.
    Stateful(Box<Stateful>),
    /// Rows change the rows of a view.
    View(Box<ViewPlan>),
}

/// A rule with state: the steps from rows to results, in order.
///
/// Slots of a joined row: those of the inputs ([`Input::slots`]), then [`Stateful::computed`]. In a result row these
/// follow: the results of the aggregates, [`Stateful::numbers`], [`Stateful::result_steps`], and the element of
/// [`Stateful::rows_of`].
#[derive(Clone, Debug)]
pub struct Stateful {
    /// Set in event time: rows wait for the watermark.
    pub event_time: Option<Watermark>,
    /// Rows are processed in the order of their times; false if no result depends on the order.
    pub ordered: bool,
    /// Computed for every row before any row is dropped, in order.
    pub steps: Vec<Step>,
    /// FILTER (WHERE …): the condition for rows to enter the window.
    pub admit: Option<Filter>,
    /// WHERE, if it drops rows but does not change which rows count for the window.
    pub filter: Option<Filter>,
    /// The window that groups the rows.
    pub window: WindowSpec,
    /// Joins among the window's rows, left to right.
    pub joins: Vec<Join>,
    /// Values over joined rows that several expressions need.
    pub computed: Vec<Expr>,
    /// WHERE over joined rows.
    pub joined_filter: Option<Expr>,
    /// Keys of the groups. Without keys and aggregates, every row is a result row.
    pub keys: Vec<Expr>,
    /// One result row for each group; without keys, one for the window.
    pub grouped: bool,
    /// Windows keep accumulators for each group instead of rows.
    pub incremental: bool,
    /// Each thread may accumulate its own rows of a window; the groups are merged afterwards.
    pub merges: bool,
    /// The state can be divided by key among threads: for each input, the slots of its scan that make the key. Empty:
    /// it is not divided.
    pub exchange: Vec<Vec<usize>>,
    /// Aggregates of WHERE, over all rows of the window; their results are in the last of `row_slots`.
    pub window_aggregates: Vec<AggregateCall>,
    /// The result of the aggregate `i` is in slot `row_slots + i`.
    pub aggregates: Vec<AggregateCall>,
    /// The number of slots before the aggregates.
    pub row_slots: usize,
    /// The slots of a group's first row that are read after grouping.
    pub kept_slots: Vec<usize>,
    /// HAVING, over a group's first row and its aggregates. Without `grouped` it keeps or drops the whole window.
    pub having: Option<Expr>,
    /// Calls of row_number().
    pub numbers: Vec<RowNumber>,
    pub order: Vec<OrderBy>,
    /// Computed for every result row, with memory of earlier result rows.
    pub result_steps: Vec<Step>,
    /// unnest(): a result row becomes one row for each element.
    pub rows_of: Option<RowsOf>,
    pub projection: Projection,
    /// LIMIT: the most result rows of one window.
    pub limit: Option<u64>,
    /// Whether the rule reads what it has sent so far (`last_hit_count` …).
    pub counts_hits: bool,
    pub state_limit: Option<StateLimit>,
    /// The state is stored (`qos`).
    pub stored: bool,
}

impl Stateful {
    /// A rule whose rows are results, as in [`Body::Rows`].
    pub fn from_rows(projection: Projection, row_slots: usize) -> Stateful {
        Stateful {
            event_time: None,
            ordered: false,
            steps: Vec::new(),
            admit: None,
            filter: None,
            window: WindowSpec::Each,
            joins: Vec::new(),
            computed: Vec::new(),
            joined_filter: None,
            keys: Vec::new(),
            grouped: false,
            incremental: false,
            merges: false,
            exchange: Vec::new(),
            window_aggregates: Vec::new(),
            state_limit: None,
            stored: false,
            aggregates: Vec::new(),
            row_slots,
            kept_slots: Vec::new(),
            having: None,
            numbers: Vec::new(),
            order: Vec::new(),
            result_steps: Vec::new(),
            rows_of: None,
            projection,
            limit: None,
            counts_hits: false,
        }
    }

    /// The number of slots of a result row.
    pub fn result_slots(&self) -> usize {
        self.row_slots
            + self.aggregates.len()
            + self.numbers.len()
            + self.result_steps.len()
            + usize::from(self.rows_of.is_some())
    }

    /// The first slot of the values over joined rows.
    pub fn first_computed(&self) -> usize {
        self.first_window_aggregate() - self.computed.len()
    }

    /// The first slot of the aggregates of WHERE.
    pub fn first_window_aggregate(&self) -> usize {
        self.row_slots - self.window_aggregates.len()
    }

    /// The first slot of the row numbers.
    pub fn first_number(&self) -> usize {
        self.row_slots + self.aggregates.len()
    }

    /// The first slot of the result steps.
    pub fn first_result_step(&self) -> usize {
        self.first_number() + self.numbers.len()
    }

    /// The slot of the element of [`Stateful::rows_of`].
    pub fn element(&self) -> usize {
        self.first_result_step() + self.result_steps.len()
    }
}

/// The limit of a rule's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateLimit {
    /// Estimated bytes.
    pub bytes: u64,
    /// Beyond the limit, the oldest keys and rows are dropped; otherwise the rule fails.
    pub evicts: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// A stream that has been silent for this long, ms, does not hold back the watermark; 0: every stream always does.
    pub idle_timeout: i64,
    /// It stays behind the newest row, so that rows with the same time are processed together.
    pub holds_back: bool,
}

/// A value computed row by row, with memory of earlier rows.
#[derive(Clone, Debug)]
pub struct Step {
    /// The input whose rows it sees.
    pub input: usize,
    /// The slot of the result.
    pub slot: usize,
    pub kind: StepKind,
}

#[derive(Clone, Debug)]
pub enum StepKind {
    /// An expression over earlier steps that several later ones need.
    Compute(Expr),
    Analytic(AnalyticCall),
    /// Replaces the row by one for each element, which later steps and clauses read.
    Elements(RowsOf),
}

/// A call of an analytic function.
#[derive(Clone, Debug)]
pub struct AnalyticCall<S = usize> {
    pub analytic: Analytic,
    pub args: Vec<Expr<S>>,
    /// For changed_cols: the names of the columns whose values are the arguments.
    pub names: Vec<Text>,
    /// An argument is `*`, the row as an object.
    pub over_rows: bool,
    /// PARTITION BY: one memory for each value.
    pub partition: Vec<Expr<S>>,
    pub when: Option<Expr<S>>,
}

#[derive(Clone, Debug)]
pub struct RowNumber<S = usize> {
    /// PARTITION BY.
    pub partition: Vec<Expr<S>>,
    /// ORDER BY.
    pub order: Vec<OrderBy<S>>,
}

/// A key of ORDER BY.
#[derive(Clone, Debug)]
pub struct OrderBy<S = usize> {
    pub expr: Expr<S>,
    pub descending: bool,
}

/// The call that makes several rows from one.
#[derive(Clone, Debug)]
pub struct RowsOf<S = usize> {
    pub function: SetReturning,
    pub arg: Expr<S>,
}

/// A join of the rows so far with one more input.
#[derive(Clone, Debug)]
pub struct Join {
    pub kind: JoinKind,
    pub input: usize,
    /// The equalities of ON: an expression over the left side, and one over the right side. For a lookup table the
    /// latter is a column.
    pub equal: Vec<(Expr, Expr)>,
    /// For a lookup table: the columns of the right sides of `equal`.
    pub columns: Vec<Text>,
    /// Values over joined rows that `rest` reads, and their slots.
    pub computed: Vec<(usize, Expr)>,
    /// The rest of ON.
    pub rest: Option<Expr>,
}

/// How rows are grouped in time. Lengths without a unit are in ms.
#[derive(Clone, Debug)]
pub enum WindowSpec<S = usize> {
    /// No window: each row by itself.
    Each,
    /// Windows of `length` units, one every `hop`, aligned to the epoch in the configured time zone.
    Hopping {
        unit: Unit,
        /// In units.
        length: u64,
        /// In units; equal to `length`: windows do not overlap.
        hop: u64,
    },
    /// The rows from `length` before a row to `delay` after it.
    Sliding {
        /// ms before the row, inclusive.
        length: i64,
        /// ms after the row, exclusive; 0: the window closes at once.
        delay: i64,
        /// OVER (WHEN …): only these rows trigger a window; all rows can be its content.
        when: Option<Expr<S>>,
    },
    /// Rows without a gap longer than `timeout`, cut at ticks every `max` units.
    Session {
        /// The unit of `max`.
        unit: Unit,
        /// The longest session, in units.
        max: u64,
        /// In ms.
        timeout: i64,
    },
    /// Every `interval` rows, the last `length` rows.
    Count {
        /// Rows of a window.
        length: u64,
        /// Rows from one window's end to the next.
        interval: u64,
    },
    /// From a row at which `begin` holds to one at which `end` holds, or to the next `begin`.
    State {
        begin: Expr<S>,
        /// `None`: the next `begin` closes the window.
        end: Option<Expr<S>>,
        /// PARTITION BY: one window for each value.
        partition: Vec<Expr<S>>,
    },
}

impl<S> WindowSpec<S> {
    /// Whether the time of a row alone decides in which windows it is. Then rows may come in any order and be
    /// accumulated in parts.
    pub fn depends_on_times_only(&self) -> bool {
        match self {
            WindowSpec::Hopping { .. } => true,
            WindowSpec::Each
            | WindowSpec::Sliding { .. }
            | WindowSpec::Session { .. }
            | WindowSpec::Count { .. }
            | WindowSpec::State { .. } => false,
        }
    }
}

#[derive(Clone, Debug)]
pub struct AggregateCall<S = usize> {
    pub aggregate: Aggregate,
    /// Over the slots of a row; `None` stands for `*`.
    pub arg: Option<Expr<S>>,
    /// Whether whole numbers in the argument are BIGINT and not JSON numbers: a sum of BIGINTs is an integer.
    pub integral: bool,
}

/// How a result row is made.
#[derive(Clone, Debug)]
pub struct Projection {
    /// The items, in order.
    pub items: Vec<Item>,
    /// False: nothing is sent. In a rule without a window, LIMIT applies to the result of a single row.
    pub sends: bool,
}

/// A message whose members are shown.
#[derive(Clone, Debug)]
pub struct WholeMessage<S = usize> {
    pub slot: S,
    /// Keys that are left out: those of EXCEPT and of other items.
    pub except: Vec<Text>,
}

/// One item of a result row.
#[derive(Clone, Debug)]
pub enum Item {
    /// All members of messages (columns with [`ColumnSource::Whole`]); if keys are equal, the first message counts.
    Star { messages: Vec<WholeMessage> },
    /// The members of an object: changed_cols(), extract(), and unnest() of objects. They replace items of the same
    /// name.
    Spread {
        expr: Expr,
        /// The key of a value that is not an object.
        name: Text,
    },
    Field {
        name: Text,
        expr: Expr,
        /// A column selected by its name: null is written as null.
        plain: bool,
    },
    /// INVISIBLE: evaluated because its errors count, but not sent.
    Hidden { expr: Expr },
}
