//! The logical plan: what a rule means, with names resolved, before it is decided where each part is computed.
//!
//! A slot is a [`SlotRef`] here, which says what is meant: a column of an input, an alias, the answer of an aggregate.
//! `rewrite` turns it into the number of a slot. [`Logical::each_expr`] is the one walk over all expressions of a rule.

use std::sync::Arc;

use super::physical::{
    AggregateCall, AnalyticCall, Column, EventTime, OrderBy, Role, RowNumber, RowsOf, Watermark, WindowSpec,
};
use crate::definition::stream::StreamDef;
use crate::text::span::Span;
use crate::value::Text;
use crate::value::operator::JoinKind;

/// What a slot stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotRef {
    /// the column with this number of the input with that number
    Column { input: usize, column: usize },
    /// the alias with this number
    Alias(usize),
    /// the answer of the aggregate with this number
    Aggregate(usize),
    /// the answer of the analytic call with this number
    Step(usize),
    /// the answer of this call of row_number()
    Number(usize),
    /// the answer of the analytic call over result rows with this number
    ResultStep(usize),
    /// the element of unnest()
    Element,
    /// the answer of the aggregate of WHERE with this number
    WindowAggregate(usize),
}

/// An expression over what its slots mean.
pub type Expr = crate::expr::Expr<SlotRef>;

impl SlotRef {
    /// An expression that reads it.
    pub fn expr(self) -> Expr {
        Expr::Slot(self)
    }
}

/// A rule with its names resolved.
#[derive(Clone, Debug)]
pub struct Logical {
    /// the streams and tables it reads, FROM first
    pub inputs: Vec<LogicalInput>,
    /// how each input after the first is joined
    pub joins: Vec<LogicalJoin>,
    /// the aliases, each after those that it needs
    pub aliases: Vec<Alias>,
    /// the select list
    pub fields: Vec<Output>,
    pub filter: Option<Expr>,
    pub window: Option<WindowSpec<SlotRef>>,
    /// FILTER (WHERE …) of the window
    pub admit: Option<Expr>,
    /// keys of GROUP BY
    pub keys: Vec<Expr>,
    pub aggregates: Vec<AggregateCall<SlotRef>>,
    /// the aggregate calls of WHERE, over all rows of the window
    pub window_aggregates: Vec<AggregateCall<SlotRef>>,
    /// whether there is one result row for each group
    pub grouped: bool,
    pub having: Option<Expr>,
    pub order: Vec<OrderBy<SlotRef>>,
    /// the analytic calls over rows
    pub steps: Vec<LogicalStep>,
    /// the analytic calls over result rows
    pub result_steps: Vec<AnalyticCall<SlotRef>>,
    /// the calls of row_number()
    pub numbers: Vec<RowNumber<SlotRef>>,
    /// unnest(…) and the like
    pub elements: Option<LogicalElements>,
    pub limit: Option<u64>,
    /// the watermark, where the rule runs in event time
    pub watermark: Option<Watermark>,
}

/// One stream or table of a rule.
#[derive(Clone, Debug)]
pub struct LogicalInput {
    /// its definition
    pub stream: Arc<StreamDef>,
    /// what it is for the rule
    pub role: Role,
    /// the columns that are read somewhere
    pub columns: Vec<Column>,
    /// event time; its slot is the number of a column
    pub event_time: Option<EventTime>,
}

/// One analytic call.
#[derive(Clone, Debug)]
pub struct LogicalStep {
    /// how many of the aliases it may read
    pub aliases: usize,
    /// what is called
    pub call: AnalyticCall<SlotRef>,
    /// its place
    pub span: Span,
}

/// The set-returning call of a rule.
#[derive(Clone, Debug)]
pub struct LogicalElements {
    /// how many of the aliases its argument may read
    pub aliases: usize,
    /// what is called
    pub rows: RowsOf<SlotRef>,
    /// other clauses than the select list read its elements: it runs before them, for each row of its input
    pub before: bool,
    /// its place
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct LogicalJoin {
    pub kind: JoinKind,
    pub on: Option<Expr>,
    /// the same as it is written
    pub text: String,
    /// its place, or that of the right side
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct Alias {
    pub name: Text,
    /// its value
    pub expr: Expr,
    /// whether others read its slot
    pub shared: bool,
}

/// One item of the select list.
#[derive(Clone, Debug)]
pub enum Output {
    /// all members of the messages, without some
    Star {
        /// where the messages are
        slots: Vec<SlotRef>,
        /// keys that are left out
        except: Vec<Text>,
    },
    /// a member
    Field {
        /// its key
        name: Text,
        value: OutputValue,
        /// passed through by its name
        plain: bool,
    },
    /// the members of an object
    Spread {
        /// the object
        expr: Expr,
        /// the key of a value that is no object
        name: Text,
    },
    /// computed and not sent
    Hidden(OutputValue),
}

/// Where the value of an item comes from.
#[derive(Clone, Debug)]
pub enum OutputValue {
    /// the alias with this index
    Alias(usize),
    /// an expression of its own
    Expr(Expr),
}
