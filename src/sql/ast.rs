//! The statements of the rule language as trees, before names are resolved.
//!
//! The tree covers the whole language, so that every later pass starts from it. It knows names, but not their meaning,
//! which `plan::resolve` determines. Printing a tree (see `print`) gives text that parses to the same tree.

use crate::text::span::Span;
use crate::time::Unit;
use crate::value::Text;

pub use crate::value::operator::{BinaryOp, JoinKind};
pub use crate::value::types::{ColumnDef, DataType, Ident, Literal};

#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// CREATE STREAM, CREATE TABLE
    Create(CreateStream),
    Select(Box<Select>),
    /// SHOW STREAMS, SHOW TABLES
    Show(Relation),
    /// DESCRIBE STREAM name, DESCRIBE TABLE name
    Describe(Relation, Ident),
    /// DROP STREAM name, DROP TABLE name
    Drop(Relation, Ident),
    /// EXPLAIN STREAM name, EXPLAIN TABLE name
    Explain(Relation, Ident),
    /// a statement about views
    View(ViewStatement),
}

/// A statement about views.
#[derive(Clone, Debug, PartialEq)]
pub enum ViewStatement {
    Create(Box<CreateView>),
    /// SHOW VIEWS
    Show,
    Describe(Ident),
    Drop(Ident),
    Explain(Ident),
}

/// `CREATE VIEW name [WITH (options)] AS SELECT …`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateView {
    pub name: Ident,
    /// in the order written, without repetition; names as in [`VIEW_OPTIONS`]
    pub options: Vec<ViewOption>,
    pub query: Select,
}

/// `NAME = "value"`
#[derive(Clone, Debug, PartialEq)]
pub struct ViewOption {
    /// one of [`VIEW_OPTIONS`]
    pub name: &'static str,
    pub value: Text,
    pub span: Span,
}

/// The options of CREATE VIEW.
pub const VIEW_OPTIONS: [&str; 11] = [
    "KEY",
    "PARAMS",
    "CLAIMS",
    "PATH",
    "RETAIN",
    "EXPIRE",
    "MAX_ROWS",
    "EVENT_TIME",
    "LATE_TOLERANCE",
    "IDLE_TIMEOUT",
    "CHECKPOINT",
];

/// Whether a statement is about streams or tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    Stream,
    Table,
}

/// `CREATE STREAM name (columns) WITH (options)`.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateStream {
    /// stream or table
    pub relation: Relation,
    pub name: Ident,
    /// its columns; none: schemaless
    pub columns: Vec<ColumnDef>,
    /// its options, in the order written; names as in [`OPTION_NAMES`]
    pub options: Vec<StreamOption>,
}

/// The options of streams and tables, in upper case. Those of eKuiper come first: [`EKUIPER_OPTIONS`].
pub const OPTION_NAMES: [&str; 20] = [
    "DATASOURCE",
    "FORMAT",
    "KEY",
    "CONF_KEY",
    "SHARED",
    "STRICT_VALIDATION",
    "TYPE",
    "TIMESTAMP",
    "TIMESTAMP_FORMAT",
    "RETAIN_SIZE",
    "SCHEMAID",
    "EXTRA",
    "VERSION",
    "TEMP",
    "KIND",
    "DELIMITER",
    "JSON_ARRAY",
    "ON_MISMATCH",
    "FRAMING",
    "EVENT_CLOCK",
];

/// The number of [`OPTION_NAMES`] that eKuiper has too: its error texts list them.
pub const EKUIPER_OPTIONS: usize = 16;

/// `NAME = "value"`.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamOption {
    /// one of [`OPTION_NAMES`]
    pub name: &'static str,
    /// the text, or `TRUE`, `FALSE`
    pub value: Text,
    /// place of the value
    pub span: Span,
}

/// `SELECT …`.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    /// the select list
    pub fields: Vec<Field>,
    /// the first stream
    pub from: Source,
    /// the joined ones, left to right
    pub joins: Vec<Join>,
    pub filter: Option<Expr>,
    /// keys of GROUP BY, in order
    pub group_by: Vec<Expr>,
    /// the window of GROUP BY
    pub window: Option<Window>,
    pub having: Option<Expr>,
    pub order_by: Vec<OrderKey>,
    pub limit: Option<u64>,
}

/// One item of the select list.
#[derive(Clone, Debug, PartialEq)]
pub enum Field {
    /// `*`, `stream.*`, each with EXCEPT and REPLACE
    Star(Star),
    /// an expression
    Expr {
        /// what to compute
        expr: Expr,
        /// AS name
        alias: Option<Ident>,
        /// INVISIBLE: usable by others, not in the result
        invisible: bool,
    },
}

/// `* EXCEPT(a, b) REPLACE(e AS c)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Star {
    /// the stream whose columns are selected; `None`: all streams
    pub stream: Option<Ident>,
    /// columns that are left out
    pub except: Vec<Ident>,
    /// columns whose values are replaced by expressions
    pub replace: Vec<(Expr, Ident)>,
    /// place of the star
    pub span: Span,
}

/// A stream or table in FROM or JOIN.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    pub name: Ident,
    /// AS name
    pub alias: Option<Ident>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    pub kind: JoinKind,
    /// the right side
    pub source: Source,
    /// ON; without it each row is paired with every row
    pub on: Option<Expr>,
}

/// `e [ASC | DESC]`.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderKey {
    /// what to order by
    pub expr: Expr,
    /// DESC
    pub descending: bool,
}

/// A window of GROUP BY with what follows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    pub kind: WindowKind,
    /// FILTER (WHERE e): the condition that rows must meet to enter the window
    pub filter: Option<Expr>,
    /// OVER (…): WHEN of sliding windows, PARTITION BY of state windows
    pub over: Option<Over>,
    /// its place
    pub span: Span,
}

/// The windows. Lengths are in their unit, as written; `Unit::millis` converts.
#[derive(Clone, Debug, PartialEq)]
pub enum WindowKind {
    /// TUMBLINGWINDOW(unit, length)
    Tumbling {
        /// unit of the length
        unit: Unit,
        length: u64,
    },
    /// HOPPINGWINDOW(unit, length, hop)
    Hopping {
        /// unit of both
        unit: Unit,
        length: u64,
        /// from one window's start to the next's
        hop: u64,
    },
    /// SLIDINGWINDOW(unit, length [, delay])
    Sliding {
        /// unit of both
        unit: Unit,
        /// length before the row
        length: u64,
        /// length after the row; 0 without
        delay: u64,
    },
    /// SESSIONWINDOW(unit, max, timeout)
    Session {
        /// unit of both
        unit: Unit,
        /// a session's greatest length
        max: u64,
        /// the gap that ends it
        timeout: u64,
    },
    /// COUNTWINDOW(length [, interval])
    Count {
        /// rows of the window
        length: u64,
        /// rows from one window's end to the next's; equal to `length` if not given
        interval: u64,
    },
    /// STATEWINDOW(begin [, end])
    State {
        /// opens a window
        begin: Box<Expr>,
        /// closes it
        end: Option<Box<Expr>>,
    },
}

impl WindowKind {
    /// The lengths that must not be 0.
    pub fn lengths(&self) -> Vec<u64> {
        match self {
            WindowKind::Tumbling { length, .. } => vec![*length],
            WindowKind::Hopping { length, hop, .. } => vec![*length, *hop],
            WindowKind::Session { max, timeout, .. } => vec![*max, *timeout],
            WindowKind::Count { length, interval } => vec![*length, *interval],
            // A sliding window may have length 0.
            WindowKind::Sliding { .. } | WindowKind::State { .. } => Vec::new(),
        }
    }
}

/// `OVER ([PARTITION BY e, ...] [ORDER BY e, ...] [WHEN e])`.
#[derive(Clone, Debug, PartialEq)]
pub struct Over {
    /// keys of the partitions
    pub partition_by: Vec<Expr>,
    /// order in which row_number counts
    pub order_by: Vec<OrderKey>,
    /// condition
    pub when: Option<Box<Expr>>,
}

/// An expression with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// what it is
    pub kind: ExprKind,
    /// its place
    pub span: Span,
}

/// The expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    Literal(Literal),
    /// `a`
    Column(Text),
    /// `left.name`: a column of a stream or a member of an object; names are resolved later
    Dot(Box<Expr>, Ident),
    /// `left->name`: a member
    Member(Box<Expr>, Ident),
    /// `left[index]`
    Index(Box<Expr>, Box<Expr>),
    /// `left[from:to]`
    Slice(Box<Expr>, Option<Box<Expr>>, Option<Box<Expr>>),
    Null,
    /// `*`, with EXCEPT and REPLACE, as the argument of a call
    Star(Box<Star>),
    /// `-e`, `+e`, `NOT e`
    Unary(UnaryOp, Box<Expr>),
    /// `left op right`
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `e [NOT] BETWEEN low AND high`
    Between {
        /// what is tested
        expr: Box<Expr>,
        /// NOT
        negated: bool,
        /// lower bound, inclusive
        low: Box<Expr>,
        /// upper bound, inclusive
        high: Box<Expr>,
    },
    /// `e [NOT] IN (a, b)` or `e [NOT] IN array`
    In {
        /// what is looked for
        expr: Box<Expr>,
        /// NOT
        negated: bool,
        set: InSet,
    },
    /// `e [NOT] LIKE pattern`
    Like {
        /// the text
        expr: Box<Expr>,
        /// NOT
        negated: bool,
        pattern: Box<Expr>,
    },
    /// `e IS [NOT] NULL`
    IsNull {
        /// what is tested
        expr: Box<Expr>,
        /// NOT
        negated: bool,
    },
    /// `CASE [value] WHEN … THEN … [ELSE …] END`
    Case {
        /// compared with each WHEN; `None`: each WHEN is a condition
        value: Option<Box<Expr>>,
        /// WHEN and THEN
        branches: Vec<(Expr, Expr)>,
        /// ELSE
        otherwise: Option<Box<Expr>>,
    },
    /// `name(args) [FILTER (WHERE e)] [OVER (…)]`
    Call(Call),
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// its name as written
    pub name: Ident,
    /// its arguments
    pub args: Vec<Expr>,
    /// DISTINCT before the arguments of an aggregate
    pub distinct: bool,
    /// FILTER (WHERE e) of an aggregate
    pub filter: Option<Box<Expr>>,
    /// OVER of an analytic function
    pub over: Option<Over>,
}

/// The right side of IN.
#[derive(Clone, Debug, PartialEq)]
pub enum InSet {
    /// `(a, b)`
    List(Vec<Expr>),
    /// an expression that gives an array
    Array(Box<Expr>),
}

/// Prefix operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOp {
    /// `-`
    Minus,
    /// `+`
    Plus,
    Not,
}
