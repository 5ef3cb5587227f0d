//! Why a rule cannot be planned: what is wrong, where, and what was perhaps meant.

use thiserror::Error;

use super::view::ViewError;
use crate::expr::function::{CallError, FunctionError};
use crate::sql::SyntaxError;
use crate::sql::ast::JoinKind;
use crate::text::span::Span;
use crate::text::suggest::did_you_mean;

/// How many mistakes of a statement are told: to look for what each of thousands was meant to be would cost.
pub(super) const MAX_ERRORS: usize = 20;

/// Why a rule cannot be planned. Its text is the one that users of eKuiper know, without words before it. It is the
/// first of what is wrong; the others, which do not follow from it, come with it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{kind}")]
pub struct PlanError {
    /// what is wrong
    pub kind: Box<PlanErrorKind>,
    span: Option<Span>,
    hint: Option<String>,
    others: Vec<PlanError>,
}

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanErrorKind {
    /// The text is no SELECT.
    #[error("{0}")]
    Syntax(SyntaxError),
    /// FROM names no stream.
    #[error("fail to get stream {0}, please check if stream is created")]
    UnknownStream(String),
    /// FROM names a stream for temporary rules.
    #[error("temp stream {0} can only be used by temp rules")]
    TemporaryStream(String),
    /// A name is no column of a stream with columns.
    #[error("unknown field {0}")]
    UnknownField(String),
    /// A name is a column in another case.
    #[error("field {name} not found in stream {stream}")]
    FieldCase {
        /// the name as written
        name: String,
        stream: String,
    },
    /// No function has this name.
    #[error("function {0} not found")]
    UnknownFunction(String),
    /// A call that cannot work.
    #[error("validate function {function} error: {error}")]
    Call {
        /// its name as written
        function: String,
        /// why
        error: CallError,
    },
    /// A call whose literals the function refuses.
    #[error("validate function {function} error: {error}")]
    Literals {
        /// its name as written
        function: String,
        /// why
        error: FunctionError,
    },
    /// An aggregate within an aggregate.
    #[error("invalid argument for func {0}: aggregate argument is not allowed")]
    NestedAggregate(String),
    /// DISTINCT in a call that knows none.
    #[error("DISTINCT is allowed in count, sum, avg and collect only, not in {0}")]
    Distinct(String),
    /// A WHEN that is never true or false.
    #[error("invalid CASE expression, WHEN expression must be a bool condition")]
    CaseCondition,
    /// An operator over declared columns that it is not for.
    #[error("{written} can never be computed: {operation}")]
    Types {
        /// the expression
        written: String,
        /// the operator with the types
        operation: String,
    },
    /// An aggregate in WHERE of a rule without a window, or in FILTER.
    #[error("Not allowed to call aggregate functions in {clause} clause: {call}")]
    Aggregate { clause: &'static str, call: String },
    /// HAVING reads a column of a row.
    #[error("Not allowed to call non-aggregate functions in HAVING clause: {0}")]
    Having(String),
    /// The rows that were sent before, where windows or joined rows are.
    #[error("function {0} is not allowed in an aggregate query, last_agg_hit_count and last_agg_hit_time are")]
    OfRows(&'static str),
    #[error("select stmt group by should be used with window")]
    GroupByWithoutWindow,
    /// Two fields of the result have one name.
    #[error("duplicate field definition {0}")]
    DuplicateField(String),
    /// Two aliases have one name.
    #[error("duplicate alias {0}")]
    DuplicateAlias(String),
    /// Aliases that need each other.
    #[error("select fields have cycled alias")]
    AliasCycle,
    /// OVER after a function that knows no rows before.
    #[error("Found OVER after non analytic function {0}")]
    Over(String),
    /// `[3:1]`
    #[error("colon start value can't be greater than end value")]
    Slice,
    /// A constant that is no condition.
    #[error("{clause} needs a condition, and {found} is never true or false")]
    Condition {
        clause: &'static str,
        /// the constant
        found: String,
    },
    /// LIKE with a pattern that is no text.
    #[error("the pattern of LIKE must be text, not {0}")]
    Pattern(String),
    /// The pattern of LIKE is too large.
    #[error("the pattern of LIKE cannot be used: {0}")]
    PatternSize(String),
    /// `*` where a value belongs.
    #[error("* is allowed in the select list, count, collect, merge_agg and last_value only")]
    Star,
    /// Event time without TIMESTAMP.
    #[error("preprocessor is set to be event time but stream option TIMESTAMP not found")]
    NoTimestamp,
    /// TIMESTAMP names no column.
    #[error("timestamp field {0} not found")]
    UnknownTimestamp(String),
    /// A name that two typed streams of a join have.
    #[error("ambiguous field {0}")]
    Ambiguous(String),
    /// Two sources of a join with one name.
    #[error("{0} stands for two streams of the rule: give each its own name with AS")]
    SameSource(String),
    /// Streams are joined without a window.
    #[error("a time window or count window is required to join multiple streams")]
    JoinWithoutWindow,
    /// FROM names a table.
    #[error("cannot run window for TABLE sources")]
    TableAlone,
    /// A lookup table is joined otherwise than by INNER or LEFT.
    #[error("a lookup table is looked up for rows of a stream: join {table} with INNER or LEFT, not {kind}")]
    LookupJoin { kind: JoinKind, table: String },
    /// A lookup table is joined without an equality.
    #[error("join condition {0} is invalid, at least one equi-join predicate is required")]
    LookupEquality(String),
    /// OVER after a window that knows none, or with a part that it does not know.
    #[error(
        "{0} cannot stand after this window: OVER (WHEN …) is for SLIDINGWINDOW, OVER (PARTITION BY …) for STATEWINDOW"
    )]
    WindowOver(&'static str),
    /// ORDER BY in the OVER of an analytic function.
    #[error("{0} runs in the order of the rows: ORDER BY cannot stand in its OVER")]
    OverOrder(String),
    /// An analytic call reads several streams.
    #[error("an analytic function runs over the rows of one stream; {0} reads several")]
    AnalyticInputs(String),
    /// FILTER after a function.
    #[error("found \"FILTER\", expected FROM.")]
    Filter(String),
    /// A function that gives several columns, or looks at result rows, elsewhere than in the select list.
    #[error("function {0} can only be used inside the select clause")]
    SelectOnly(String),
    /// row_number() elsewhere than in the select list.
    #[error("window functions can only be in select fields")]
    WindowFunction,
    /// The alias of row_number(), or of an analytic call over result rows, in a clause that comes before them.
    #[error("window functions can only be in select fields: {0} is known only when the result's rows are made")]
    FinishedRows(String),
    /// unnest() and the like where they cannot stand.
    #[error("{0}")]
    SetReturning(&'static str),
    /// A window of no length.
    #[error("Invalid parameter value 0.")]
    EmptyWindow,
    /// Aliases that repeat each other until the expression is beyond measure.
    #[error("the aliases of the rule are nested too deeply: {0}")]
    TooComplex(&'static str),
    /// More streams and tables than a rule can read.
    #[error("the rule reads {found} streams and tables, at most {most} are possible: join them in several rules")]
    TooManySources {
        /// how many it reads
        found: usize,
        /// how many it may
        most: usize,
    },
    /// A view that cannot be made.
    #[error("{0}")]
    View(ViewError),
    /// Something that the language has and this version has not.
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

    /// With the name that was perhaps meant, if one of `names` is near to `written`.
    pub(super) fn meant<'a>(mut self, written: &str, names: impl IntoIterator<Item = &'a str>) -> PlanError {
        self.hint = did_you_mean(written, names);
        self
    }

    /// With a hint, where there is none yet.
    pub(super) fn with_hint(mut self, hint: String) -> PlanError {
        self.hint.get_or_insert(hint);
        self
    }

    /// Notes a mistake, unless there are so many that further ones help nobody: then it is not even made.
    pub(super) fn note(errors: &mut Vec<PlanError>, make: impl FnOnce() -> PlanError) {
        if errors.len() < MAX_ERRORS {
            errors.push(make());
        }
    }

    /// The first of these errors with the others beside it, in the order of their places; `None` if there is none.
    pub(super) fn of_all(errors: Vec<PlanError>) -> Option<PlanError> {
        // Spans are equal to each other, wherever they are.
        let start = |error: &PlanError| error.span().map(|span| span.start);
        let mut errors = errors.into_iter().take(MAX_ERRORS);
        let mut first = errors.next()?;
        for error in errors {
            // What is compiled twice is wrong once.
            if first.each().all(|known| known.kind != error.kind || start(known) != start(&error)) {
                first.others.push(error);
            }
        }
        first.others.sort_by_key(start);
        Some(first)
    }

    /// This one and the others of the same statement.
    pub fn each(&self) -> impl Iterator<Item = &PlanError> {
        std::iter::once(self).chain(&self.others)
    }

    /// The place in the rule's SQL, where there is one.
    pub fn span(&self) -> Option<Span> {
        match &*self.kind {
            PlanErrorKind::Syntax(error) => Some(error.span()),
            _ => self.span,
        }
    }

    /// What was perhaps meant.
    pub fn hint(&self) -> Option<String> {
        match &*self.kind {
            PlanErrorKind::Syntax(error) => error.hint(),
            PlanErrorKind::Having(_) => Some(
                "HAVING reads aggregates, such as count(*) > 1; conditions on rows and grouped columns belong in WHERE"
                    .to_owned(),
            ),
            PlanErrorKind::Types { .. } => self
                .hint
                .clone()
                .or_else(|| Some("convert one side, as in cast(x, \"float\") or cast(x, \"string\")".to_owned())),
            PlanErrorKind::View(error) => self.hint.clone().or_else(|| error.hint()),
            _ => self.hint.clone(),
        }
    }

    /// Whether eKuiper finds this while it reads the SQL, and says `Parse SQL … error: ` before it. Other errors are
    /// found later and stand alone.
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
