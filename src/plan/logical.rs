//! The logical plan: a rule with its names resolved, before planning decides where each part is computed.
//!
//! A slot is a [`SlotRef`] here, which has a meaning: a column of an input, an alias, the result of an aggregate.
//! `rewrite` replaces it by the number of a slot. [`Logical::each_expr`] is the one walk over all expressions of a
//! rule.

use std::sync::Arc;

use super::physical::{
    AggregateCall, AnalyticCall, Column, EventTime, OrderBy, Role, RowNumber, RowsOf, Watermark, WholeMessage,
    WindowSpec,
};
use crate::definition::stream::StreamDef;
use crate::text::span::Span;
use crate::value::Text;
use crate::value::operator::JoinKind;

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SlotRef {
    /// A column of an input.
    Column {
        input: usize,
        column: usize,
    },
    /// An alias, by number.
    Alias(usize),
    /// The result of an aggregate, by number.
    Aggregate(usize),
    /// The result of an analytic call, by number.
    Step(usize),
    /// The result of a call of row_number(), by number.
    Number(usize),
    /// The result of an analytic call over result rows, by number.
    ResultStep(usize),
    Element,
    /// The result of an aggregate of WHERE, by number.
    WindowAggregate(usize),
}

/// An expression whose slots are not numbered yet.
pub type Expr = crate::expr::Expr<SlotRef>;

impl SlotRef {
    /// An expression that reads the slot.
    pub fn expr(self) -> Expr {
        Expr::Slot(self)
    }
}

/// A rule with its names resolved.
#[derive(Clone, Debug)]
pub struct Logical {
    /// The input of FROM comes first.
    pub inputs: Vec<LogicalInput>,
    /// One for each input after the first.
    pub joins: Vec<LogicalJoin>,
    /// Each comes after those that it needs.
    pub aliases: Vec<Alias>,
    /// the select list
    pub fields: Vec<Output>,
    pub filter: Option<Expr>,
    pub window: Option<WindowSpec<SlotRef>>,
    /// FILTER (WHERE …) of the window.
    pub admit: Option<Expr>,
    /// Keys of GROUP BY.
    pub keys: Vec<Expr>,
    pub aggregates: Vec<AggregateCall<SlotRef>>,
    /// Aggregates of WHERE, over all rows of the window.
    pub window_aggregates: Vec<AggregateCall<SlotRef>>,
    /// Whether there is one result row for each group.
    pub grouped: bool,
    pub having: Option<Expr>,
    pub order: Vec<OrderBy<SlotRef>>,
    /// Analytic calls over rows.
    pub steps: Vec<LogicalStep>,
    /// Analytic calls over result rows.
    pub result_steps: Vec<AnalyticCall<SlotRef>>,
    /// Calls of row_number().
    pub numbers: Vec<RowNumber<SlotRef>>,
    /// unnest() or extract().
    pub elements: Option<LogicalElements>,
    pub limit: Option<u64>,
    /// The watermark, in event time.
    pub watermark: Option<Watermark>,
}

/// One stream or table of a rule.
#[derive(Clone, Debug)]
pub struct LogicalInput {
    pub stream: Arc<StreamDef>,
    pub role: Role,
    /// The columns that the rule reads.
    pub columns: Vec<Column>,
    /// Set in event time; its slot is the number of a column.
    pub event_time: Option<EventTime>,
}

/// One analytic call.
#[derive(Clone, Debug)]
pub struct LogicalStep {
    /// The number of aliases that it may read.
    pub aliases: usize,
    pub call: AnalyticCall<SlotRef>,
    pub span: Span,
}

/// The set-returning call of a rule.
#[derive(Clone, Debug)]
pub struct LogicalElements {
    /// The number of aliases that its argument may read.
    pub aliases: usize,
    pub rows: RowsOf<SlotRef>,
    /// Whether clauses other than the select list read its elements: then it runs before them, for each row of its
    /// input.
    pub before: bool,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct LogicalJoin {
    pub kind: JoinKind,
    pub on: Option<Expr>,
    /// As written.
    pub text: String,
    /// The place of the join, or of its right side.
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct Alias {
    pub name: Text,
    pub expr: Expr,
    /// Whether other expressions read the alias's slot.
    pub shared: bool,
}

/// One item of the select list.
#[derive(Clone, Debug)]
pub enum Output {
    /// All members of messages, except some; if keys are equal, the first message counts.
    Star { messages: Vec<WholeMessage<SlotRef>> },
    Field {
        name: Text,
        value: OutputValue,
        /// A column that is passed through by its name.
        plain: bool,
    },
    /// The members of an object.
    Spread {
        expr: Expr,
        /// The key of a value that is not an object.
        name: Text,
    },
    /// Computed but not sent.
    Hidden(OutputValue),
}

/// The source of an item's value.
#[derive(Clone, Debug)]
pub enum OutputValue {
    /// The alias with this index.
    Alias(usize),
    Expr(Expr),
}
