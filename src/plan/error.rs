//! Why a rule cannot be planned: the problem, its place, and a hint.

use thiserror::Error;

use super::view::ViewError;
use crate::expr::function::{CallError, FunctionError};
use crate::sql::SyntaxError;
use crate::sql::ast::JoinKind;
use crate::text::span::Span;
use crate::text::suggest::did_you_mean;

/// The most errors reported for a statement: hints for thousands of errors would take long.
pub(super) const MAX_ERRORS: usize = 20;

/// Why a rule cannot be planned. The text is eKuiper's if it has one. Contains the first error and the others that are
/// independent of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{kind}")]
pub struct PlanError {
    pub kind: Box<PlanErrorKind>,
    span: Option<Span>,
    hint: Option<String>,
    others: Vec<PlanError>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanErrorKind {
    #[error("{0}")]
    Syntax(SyntaxError),
    #[error("fail to get stream {0}, please check if stream is created")]
    UnknownStream(String),
    #[error("temp stream {0} can only be used by temp rules")]
    TemporaryStream(String),
    /// A stream with declared columns has no such column.
    #[error("unknown field {0}")]
    UnknownField(String),
    #[error("field {name} not found in stream {stream}")]
    FieldCase {
        /// As written.
        name: String,
        stream: String,
    },
    #[error("function {0} not found")]
    UnknownFunction(String),
    #[error("validate function {function} error: {error}")]
    Call { function: String, error: CallError },
    #[error("validate function {function} error: {error}")]
    Literals { function: String, error: FunctionError },
    #[error("invalid argument for func {0}: aggregate argument is not allowed")]
    NestedAggregate(String),
    #[error("DISTINCT is allowed in count, sum, avg and collect only, not in {0}")]
    Distinct(String),
    #[error("invalid CASE expression, WHEN expression must be a bool condition")]
    CaseCondition,
    /// An operator over declared columns or literals of the wrong types.
    #[error("{written} can never be computed: {operation}")]
    Types {
        written: String,
        /// The operator with the types of its operands.
        operation: String,
    },
    /// An aggregate in FILTER, or in WHERE of a rule without a window.
    #[error("Not allowed to call aggregate functions in {clause} clause: {call}")]
    Aggregate { clause: &'static str, call: String },
    #[error("Not allowed to call non-aggregate functions in HAVING clause: {0}")]
    Having(String),
    /// A function about sent rows, in a rule with a window or joins.
    #[error("function {0} is not allowed in an aggregate query, last_agg_hit_count and last_agg_hit_time are")]
    OfRows(&'static str),
    #[error("select stmt group by should be used with window")]
    GroupByWithoutWindow,
    #[error("duplicate field definition {0}")]
    DuplicateField(String),
    #[error("duplicate alias {0}")]
    DuplicateAlias(String),
    #[error("select fields have cycled alias")]
    AliasCycle,
    #[error("Found OVER after non analytic function {0}")]
    Over(String),
    /// `[3:1]`
    #[error("colon start value can't be greater than end value")]
    Slice,
    #[error("{clause} needs a condition, and {found} is never true or false")]
    Condition { clause: &'static str, found: String },
    #[error("the pattern of LIKE must be text, not {0}")]
    Pattern(String),
    #[error("the pattern of LIKE cannot be used: {0}")]
    PatternSize(String),
    /// `*` where a value is needed.
    #[error(
        "* is allowed in the select list, and in functions of whole rows: count, collect, merge_agg, first_value, last_value, lag, latest, changed_col, changed_cols, had_changed"
    )]
    Star,
    #[error("preprocessor is set to be event time but stream option TIMESTAMP not found")]
    NoTimestamp,
    #[error("timestamp field {0} not found")]
    UnknownTimestamp(String),
    /// A name that two streams of a join declare.
    #[error("ambiguous field {0}")]
    Ambiguous(String),
    #[error("{0} names two streams of the rule: give each its own name with AS")]
    SameSource(String),
    #[error("a time window or count window is required to join multiple streams")]
    JoinWithoutWindow,
    #[error("cannot run window for TABLE sources")]
    TableAlone,
    /// A lookup table in a join that is neither INNER nor LEFT.
    #[error("a lookup table is looked up for rows of a stream: join {table} with INNER or LEFT, not {kind}")]
    LookupJoin { kind: JoinKind, table: String },
    #[error("join condition {0} is invalid, at least one equi-join predicate is required")]
    LookupEquality(String),
    /// OVER after a window that cannot have one, or with a part that the window does not support.
    #[error(
        "{0} is not allowed after this window: OVER (WHEN …) is for SLIDINGWINDOW, OVER (PARTITION BY …) for STATEWINDOW"
    )]
    WindowOver(&'static str),
    #[error("{0} runs in the order of the rows: ORDER BY is not allowed in its OVER")]
    OverOrder(String),
    #[error("an analytic function runs over the rows of one stream; {0} reads several")]
    AnalyticInputs(String),
    #[error("found \"FILTER\", expected FROM.")]
    Filter(String),
    /// A function that returns several columns or reads result rows, outside the select list.
    #[error("function {0} can only be used inside the select clause")]
    SelectOnly(String),
    #[error("window functions can only be in select fields")]
    WindowFunction,
    /// In a clause that runs earlier: the alias of row_number(), or of an analytic call over result rows.
    #[error("window functions can only be in select fields: {0} is known only when the result's rows are made")]
    FinishedRows(String),
    #[error("{0}")]
    SetReturning(&'static str),
    #[error("Invalid parameter value 0.")]
    EmptyWindow,
    /// Nested aliases that expand to too large an expression.
    #[error("the aliases of the rule are nested too deeply: {0}")]
    TooComplex(&'static str),
    #[error("the rule reads {found} streams and tables, at most {most} are possible: join them in several rules")]
    TooManySources { found: usize, most: usize },
    #[error("{0}")]
    View(ViewError),
    #[error("{0} is not supported yet")]
    NotYet(String),
}

impl PlanError {
    pub(super) fn new(kind: PlanErrorKind, span: Option<Span>) -> PlanError {
        PlanError { kind: Box::new(kind), span, hint: None, others: Vec::new() }
    }

    pub(super) fn at(kind: PlanErrorKind, span: Span) -> PlanError {
        PlanError::new(kind, Some(span))
    }

    /// Adds a hint with the nearest of `names`, if one resembles `written`.
    pub(super) fn suggest<'a>(mut self, written: &str, names: impl IntoIterator<Item = &'a str>) -> PlanError {
        self.hint = did_you_mean(written, names);
        self
    }

    /// Adds a hint, unless there is one.
    pub(super) fn with_hint(mut self, hint: String) -> PlanError {
        self.hint.get_or_insert(hint);
        self
    }

    /// Adds the error that `make` makes, unless the limit is reached.
    pub(super) fn note(errors: &mut Vec<PlanError>, make: impl FnOnce() -> PlanError) {
        if errors.len() < MAX_ERRORS {
            errors.push(make());
        }
    }

    /// The first of these errors, with the others in the order of their places; `None` if there are none.
    pub(super) fn from_all(errors: Vec<PlanError>) -> Option<PlanError> {
        // Spans always compare as equal, so their starts are compared.
        let start = |error: &PlanError| error.span().map(|span| span.start);
        let mut errors = errors.into_iter().take(MAX_ERRORS);
        let mut first = errors.next()?;
        for error in errors {
            // An expression that is compiled twice reports its errors once.
            if first.each().all(|known| known.kind != error.kind || start(known) != start(&error)) {
                first.others.push(error);
            }
        }
        first.others.sort_by_key(start);
        Some(first)
    }

    /// This error and the others of the statement.
    pub fn each(&self) -> impl Iterator<Item = &PlanError> {
        std::iter::once(self).chain(&self.others)
    }

    /// The place in the rule's SQL, if it has one.
    pub fn span(&self) -> Option<Span> {
        match &*self.kind {
            PlanErrorKind::Syntax(error) => Some(error.span()),
            _ => self.span,
        }
    }

    pub fn hint(&self) -> Option<String> {
        match &*self.kind {
            PlanErrorKind::Syntax(error) => error.hint(),
            PlanErrorKind::Having(_) => Some(
                "HAVING reads aggregates, such as count(*) > 1; conditions on rows and grouped columns belong in WHERE"
                    .to_owned(),
            ),
            PlanErrorKind::View(error) => self.hint.clone().or_else(|| error.hint()),
            _ => self.hint.clone(),
        }
    }

    /// Whether eKuiper finds this error while parsing: then `Parse SQL … error: ` precedes it. Later errors have no
    /// prefix.
    pub fn is_of_parser(&self) -> bool {
        matches!(
            *self.kind,
            PlanErrorKind::Syntax(_)
                | PlanErrorKind::UnknownFunction(_)
                | PlanErrorKind::Call { .. }
                | PlanErrorKind::Literals { .. }
                | PlanErrorKind::Aggregate { .. }
                | PlanErrorKind::Over(_)
                | PlanErrorKind::Filter(_)
                | PlanErrorKind::SelectOnly(_)
                | PlanErrorKind::WindowFunction
                | PlanErrorKind::SetReturning(_)
                | PlanErrorKind::CaseCondition
        )
    }
}

impl From<SyntaxError> for PlanError {
    fn from(error: SyntaxError) -> PlanError {
        PlanError::new(PlanErrorKind::Syntax(error), None)
    }
}
