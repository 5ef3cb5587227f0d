//! The physical plan of a rule: what a worker builds and runs. Plain data, `Send`, printable; a worker never sees a
//! plan that cannot work.
//!
//! Names are gone: a row is a list of slots, and an [`Expr`] reads slots by number. The slots of a row are the columns
//! of [`Scan::columns`], then the values of [`Scan::computed`]; behind a window the answers of the aggregates follow.

use std::ops::Range;
use std::sync::Arc;

use super::view::ViewPlan;
use crate::definition::stream::StreamDef;
use crate::expr::aggregate::Aggregate;
use crate::expr::analytic::Analytic;
use crate::expr::function::CallContext;
use crate::expr::set_returning::SetReturning;
use crate::expr::{EvalError, Expr, compare_at};
use crate::time::Unit;
use crate::value::field_path::FieldPath;
use crate::value::operator::JoinKind;
use crate::value::timestamp_format::TimestampFormat;
use crate::value::types::DataType;
use crate::value::{Text, Value};

pub use crate::expr::Comparison;

/// A rule, ready to run.
#[derive(Clone, Debug)]
pub struct RulePlan {
    /// the streams and tables that it reads: FROM, then the joined ones. The slots of an input's rows stand side by
    /// side in a joined row, in this order.
    pub inputs: Vec<Input>,
    /// what becomes of the rows
    pub body: Body,
    /// absent and null values are written as null (rule option sendNilField)
    pub send_nil: bool,
}

/// One stream or table of a rule.
#[derive(Clone, Debug)]
pub struct Input {
    /// its definition
    pub stream: Arc<StreamDef>,
    /// what kind of input it is
    pub role: Role,
    /// what the rule takes of each of its messages
    pub scan: Scan,
    /// where its rows stand in a joined row: the scan's slots, then those of [`Stateful::steps`] of this input
    pub slots: Range<usize>,
}

/// How a rule reads an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// its rows make results
    Stream,
    /// a scan table: its last rows (`None`: all) are joined to what the streams bring
    Table {
        /// how many rows are kept
        retain: Option<usize>,
    },
    /// a lookup table: rows are asked for by key, nothing is scanned
    Lookup,
}

impl RulePlan {
    /// The stream of FROM, or the first that is joined where a table stands there.
    pub fn stream(&self) -> &Arc<StreamDef> {
        let first = self.inputs.iter().find(|input| input.role == Role::Stream);
        &first.unwrap_or(&self.inputs[0]).stream
    }
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

impl Scan {
    /// How many slots a row has.
    pub fn width(&self) -> usize {
        self.columns.len() + self.computed.len()
    }
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
    /// what is known of the message and its connection, for `meta(key)`: an object
    Meta,
    /// the part of it that `meta(*)` and sendMetaToSink give: the topic alone, since headers may hold credentials
    Topic,
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

/// A condition on one slot.
#[derive(Clone, Debug)]
pub struct Test {
    pub slot: usize,
    /// what must hold of its value
    pub holds: Condition,
}

/// What a test asks of a value.
#[derive(Clone, Debug)]
pub enum Condition {
    /// `op constant`: a number or text, or a boolean that is compared for equality
    Compare(Comparison, Value),
    /// `IN (constant, …)`: numbers, texts and booleans
    IsOneOf(Box<[Value]>),
}

impl Condition {
    /// Whether it holds of this value. Nothing passes no test.
    ///
    /// # Errors
    /// Kinds of values that cannot be compared; IN has none, there such values just differ.
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

/// Event time of a rule.
#[derive(Clone, Debug)]
pub struct EventTime {
    /// the slot of the column in which the timestamp is
    pub slot: usize,
    /// where it is in that column
    pub path: FieldPath,
    /// how it is written; `None`: ms since the epoch, or text that is read by its shape
    pub format: Option<TimestampFormat>,
    /// how far the watermark stays behind the largest timestamp, ms
    pub late_tolerance: i64,
    /// rows whose timestamp is further ahead of the clock than this, ms, are dropped
    pub max_future_skew: i64,
}

/// What becomes of the rows that pass the scan.
#[derive(Clone, Debug)]
pub enum Body {
    /// each row is a result at once, by the scan itself
    Rows(Projection),
    /// rows go through a dataflow of the rule's own, which has state
    Stateful(Box<Stateful>),
    /// rows change those of a view
    View(Box<ViewPlan>),
}

/// A rule with state, from rows to results, in the order in which it happens.
///
/// Slots of a joined row: those of the inputs ([`Input::slots`]), then [`Stateful::computed`]; a result row has behind
/// them the answers of the aggregates, then [`Stateful::numbers`], then [`Stateful::result_steps`], then the element of
/// [`Stateful::rows_of`].
#[derive(Clone, Debug)]
pub struct Stateful {
    /// event time: rows wait for the watermark, and how
    pub event_time: Option<Watermark>,
    /// rows go on in the order of their times; false where no result depends on it
    pub ordered: bool,
    /// what is computed for every row before anything drops it, in order
    pub steps: Vec<Step>,
    /// FILTER (WHERE …): rows that reach the window at all
    pub admit: Option<Filter>,
    /// WHERE where it concerns rows but not whether they count for the window
    pub filter: Option<Filter>,
    /// which rows belong together
    pub window: WindowSpec,
    /// the joins within what belongs together, left to right
    pub joins: Vec<Join>,
    /// values over joined rows that several expressions need
    pub computed: Vec<Expr>,
    /// WHERE over joined rows
    pub joined_filter: Option<Expr>,
    /// keys of the groups; with neither keys nor aggregates every row is a result row of its own
    pub keys: Vec<Expr>,
    /// one result row for each group (or one for the window, without keys)
    pub grouped: bool,
    /// windows keep accumulators for each group and no rows
    pub incremental: bool,
    /// the aggregates of WHERE, over all rows of the window; their answers are in the last of `row_slots`
    pub window_aggregates: Vec<AggregateCall>,
    /// the aggregates; the answer of the i-th is in slot `row_slots + i`
    pub aggregates: Vec<AggregateCall>,
    /// how many slots a row has before the aggregates
    pub row_slots: usize,
    /// the slots of a group's first row that are read after grouping
    pub kept_slots: Vec<usize>,
    /// HAVING, over a group's first row and its aggregates; without `grouped` it keeps or drops the whole window
    pub having: Option<Expr>,
    /// row_number() and the like
    pub numbers: Vec<RowNumber>,
    pub order: Vec<OrderBy>,
    /// what is computed for every result row, with memory of those before
    pub result_steps: Vec<Step>,
    /// unnest(…): a result row becomes one row for each element
    pub rows_of: Option<RowsOf>,
    /// what a result row is
    pub projection: Projection,
    /// LIMIT: result rows of one window
    pub limit: Option<u64>,
    /// whether the rule asks for what it has sent before
    pub counts_hits: bool,
    /// how much the rule may remember
    pub state_limit: Option<StateLimit>,
}

impl Stateful {
    /// Each row by itself, as [`Body::Rows`] has it.
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
            window_aggregates: Vec::new(),
            state_limit: None,
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

    /// Slots of a result row.
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

/// How much a rule may remember.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateLimit {
    /// bytes of memory, estimated
    pub bytes: u64,
    /// beyond it the oldest keys and rows go; else the rule fails
    pub evicts: bool,
}

/// The watermark of a rule in event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// a stream that has brought nothing for this long, ms, does not hold the watermark back; 0: it does
    pub idle_timeout: i64,
    /// it stays behind the newest row, so that rows of one time come together
    pub holds_back: bool,
}

/// Something that is computed row by row with memory of the rows before.
#[derive(Clone, Debug)]
pub struct Step {
    /// the input whose rows it is about
    pub input: usize,
    /// the slot for the answer
    pub slot: usize,
    /// what it is
    pub kind: StepKind,
}

#[derive(Clone, Debug)]
pub enum StepKind {
    /// an expression over steps before it, needed by several others
    Compute(Expr),
    Analytic(AnalyticCall),
    /// the row becomes one for each element, which the steps and clauses behind it read
    Elements(RowsOf),
}

/// A call of an analytic function.
#[derive(Clone, Debug)]
pub struct AnalyticCall<S = usize> {
    pub analytic: Analytic,
    /// its arguments
    pub args: Vec<Expr<S>>,
    /// of changed_cols: the names of the columns whose values are the arguments
    pub names: Vec<Text>,
    /// an argument is `*`, the row as an object
    pub over_rows: bool,
    /// PARTITION BY: a memory for each
    pub partition: Vec<Expr<S>>,
    pub when: Option<Expr<S>>,
}

/// A call of row_number().
#[derive(Clone, Debug)]
pub struct RowNumber<S = usize> {
    /// PARTITION BY: counts for each apart
    pub partition: Vec<Expr<S>>,
    /// ORDER BY: counts in this order
    pub order: Vec<OrderBy<S>>,
}

/// A key of ORDER BY.
#[derive(Clone, Debug)]
pub struct OrderBy<S = usize> {
    /// its value
    pub expr: Expr<S>,
    /// DESC
    pub descending: bool,
}

/// What a row is multiplied by.
#[derive(Clone, Debug)]
pub struct RowsOf<S = usize> {
    pub function: SetReturning,
    /// its argument
    pub arg: Expr<S>,
}

/// A join of what is there with one more input.
#[derive(Clone, Debug)]
pub struct Join {
    pub kind: JoinKind,
    /// the right side
    pub input: usize,
    /// equalities of ON: an expression over what is there, and one over the right side. For a lookup table the right
    /// one is a column.
    pub equal: Vec<(Expr, Expr)>,
    /// of a lookup table: the columns of the right sides of `equal`
    pub columns: Vec<Text>,
    /// values over joined rows that `rest` reads, and their slots
    pub computed: Vec<(usize, Expr)>,
    /// what else ON says
    pub rest: Option<Expr>,
}

/// Which rows belong together. Lengths of time are in ms where no unit stands beside them.
#[derive(Clone, Debug)]
pub enum WindowSpec<S = usize> {
    /// each row is alone
    Each,
    /// windows of `length` units, one beginning every `hop`, aligned to the epoch in the configured zone
    Hopping {
        unit: Unit,
        /// length in units
        length: u64,
        /// from one window's start to the next's, in units; equal to `length`: side by side
        hop: u64,
    },
    /// what came up to `length` before a row, and up to `delay` after it
    Sliding {
        /// ms before the row, inclusive
        length: i64,
        /// ms after the row, exclusive; 0: at once
        delay: i64,
        /// OVER (WHEN …): rows that make a window; the others are content only
        when: Option<Expr<S>>,
    },
    /// rows without a gap longer than `timeout`, cut at ticks every `max` units
    Session {
        /// unit of `max`
        unit: Unit,
        /// a session's greatest length in units
        max: u64,
        /// ms
        timeout: i64,
    },
    /// the last `length` rows, whenever `interval` further ones have come
    Count {
        /// rows of a window
        length: u64,
        /// rows from one window's end to the next's
        interval: u64,
    },
    /// from a row where `begin` holds to one where `end` holds, or to the next begin
    State {
        /// opens
        begin: Expr<S>,
        /// closes; none: `begin` does
        end: Option<Expr<S>>,
        /// PARTITION BY: a window for each
        partition: Vec<Expr<S>>,
    },
}

#[derive(Clone, Debug)]
pub struct AggregateCall<S = usize> {
    pub aggregate: Aggregate,
    /// its argument, over the slots of a row; none: `*`
    pub arg: Option<Expr<S>>,
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
    /// all members of the messages in `slots` (columns with [`ColumnSource::Whole`]), the first of equal keys
    Star {
        /// where the messages are
        slots: Vec<usize>,
        /// keys that are left out: EXCEPT, and what other items define
        except: Vec<Text>,
    },
    /// the members of an object: changed_cols(…), extract(…), and unnest(…) of objects. They replace items of the
    /// same name.
    Spread {
        /// the object
        expr: Expr,
        /// the key of a value that is no object
        name: Text,
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
