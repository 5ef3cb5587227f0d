//! Compiles expressions: columns, aliases and aggregates become provisional slots.

mod calls;
mod names;
mod operators;
mod over_rows;
mod types;

pub use names::{Source, column_names, default_name};

use std::collections::{HashMap, HashSet};

use super::error::{PlanError, PlanErrorKind};
use super::logical::{Expr, LogicalStep, SlotRef};
use super::physical::{AggregateCall, AnalyticCall, OrderBy, RowNumber, RowsOf};
use crate::expr::Scope as Row;
use crate::expr::function::{CallContext, Hits};
use crate::sql::ast::{self, DataType, ExprKind, Literal};
use crate::text::span::Span;
use crate::value::{Text, Value};

/// The greatest height of an expression after aliases of aggregates are expanded: expressions are walked by recursion.
const MAX_HEIGHT: u32 = 600;

/// The clause that an expression is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clause {
    /// The select list: everything is allowed.
    Result,
    /// A clause about result rows, with its name: aggregates are allowed.
    Groups(&'static str),
    /// A clause about single rows, with its name.
    Rows(&'static str),
    /// Within an aggregate.
    Aggregate,
}

/// What planning knows about a value's type.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Declared, or certain because of the operator or function.
    Known(DataType),
    /// Unknown: it depends on the message. Numbers divide as doubles.
    Any,
}

/// What an expression reads of finished result rows, ordered by when it becomes available.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Finished {
    /// Nothing.
    No,
    /// A row number, available for ORDER BY.
    Number,
    /// The result of an analytic call over result rows, available after ORDER BY.
    Step,
    /// The element of an array computed from result rows, available last.
    Element,
}

/// A compiled expression and its properties.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub expr: Expr,
    pub ty: Type,
    /// Contains an aggregate.
    pub aggregate: bool,
    /// Reads the bounds of the window.
    pub late: bool,
    /// Reads what only result rows have.
    finished: Finished,
    /// Reads the row outside of aggregates.
    pub row: bool,
    /// Reads what was sent before. Its value changes with each result, so it is computed where it is read.
    pub hits: bool,
    /// Reads the element of unnest().
    element: bool,
    /// Its type is the same for every message: it consists of declared columns, literals and operators.
    declared: bool,
    /// It is a literal, possibly with a sign.
    written: bool,
    /// Number of nodes.
    pub nodes: usize,
    height: u32,
}

pub struct Known {
    pub name: Text,
    pub value: Compiled,
    pub shared: bool,
    /// As written, if it contains an aggregate.
    pub written: Option<ast::Expr>,
}

/// The set-returning call of a rule: unnest() or extract().
pub struct Elements {
    /// The number of aliases that its argument may read.
    pub aliases: usize,
    pub rows: RowsOf<SlotRef>,
    pub span: Span,
    /// Clauses other than the select list read its elements, so it runs before them.
    pub before: bool,
}

/// Compiles expressions over the streams of a rule, collecting columns, aggregates and analytic calls.
pub struct Compiler {
    pub sources: Vec<Source>,
    /// Whole numbers are BIGINT in every stream.
    integers: bool,
    pub steps: Vec<LogicalStep>,
    pub result_steps: Vec<AnalyticCall<SlotRef>>,
    pub numbers: Vec<RowNumber<SlotRef>>,
    pub aliases: Vec<Known>,
    pub aliases_by_name: HashMap<Text, usize>,
    /// While an alias is compiled, the field that has the alias's name.
    shadowed: HashSet<Text>,
    pub aggregates: Vec<AggregateCall<SlotRef>>,
    aggregates_by_text: HashMap<String, usize>,
    /// Aggregates of WHERE, over all rows of the window.
    pub window_aggregates: Vec<AggregateCall<SlotRef>>,
    /// The rule has a window.
    pub windowed: bool,
    /// Whether a condition of the window is being compiled.
    pub in_window: bool,
    /// The number of CASEs around the current expression: rows may never reach their branches.
    open_cases: usize,
    /// The set-returning call.
    pub elements: Option<Elements>,
    copied: usize,
    /// Whether the rule has a window or joins, so that a result is made from several rows.
    pub gathers: bool,
    /// The sources in the order in which they provide a name that several schemaless ones could have.
    pub precedence: Vec<usize>,
    /// The errors so far.
    pub errors: Vec<PlanError>,
}

type Result<T, E = PlanError> = std::result::Result<T, E>;

impl Type {
    const BOOL: Type = Type::Known(DataType::Boolean);
    const INT: Type = Type::Known(DataType::BigInt);
    const FLOAT: Type = Type::Known(DataType::Float);
}

impl Compiled {
    fn leaf(expr: Expr, ty: Type) -> Compiled {
        let finished = Finished::No;
        Compiled {
            expr,
            ty,
            aggregate: false,
            late: false,
            finished,
            row: false,
            hits: false,
            element: false,
            declared: false,
            written: false,
            nodes: 1,
            height: 1,
        }
    }

    fn constant(value: Value) -> Compiled {
        let ty = match &value {
            Value::Int(_) | Value::Unsigned(_) => Type::INT,
            Value::Float(_) => Type::FLOAT,
            Value::Text(_) => Type::Known(DataType::String),
            Value::Bool(_) => Type::BOOL,
            _ => Type::Any,
        };
        Compiled { written: true, declared: true, ..Compiled::leaf(Expr::Constant(value), ty) }
    }

    /// The constant, if it is a literal.
    pub fn literal(&self) -> Option<&Value> {
        match &self.expr {
            Expr::Constant(value) => Some(value),
            _ => None,
        }
    }
}

/// Collects the properties of the parts of a node.
struct Parts {
    aggregate: bool,
    late: bool,
    finished: Finished,
    row: bool,
    hits: bool,
    element: bool,
    declared: bool,
    nodes: usize,
    height: u32,
    /// Whether all parts are constants.
    constant: bool,
}

impl Parts {
    fn new() -> Parts {
        let finished = Finished::No;
        Parts {
            aggregate: false,
            late: false,
            finished,
            row: false,
            hits: false,
            element: false,
            declared: true,
            nodes: 1,
            height: 0,
            constant: true,
        }
    }

    fn take(&mut self, part: Compiled) -> Expr {
        self.aggregate |= part.aggregate;
        self.late |= part.late;
        self.finished = self.finished.max(part.finished);
        self.row |= part.row;
        self.hits |= part.hits;
        self.element |= part.element;
        self.declared &= part.declared;
        self.nodes = self.nodes.saturating_add(part.nodes);
        self.height = self.height.max(part.height);
        self.constant &= matches!(part.expr, Expr::Constant(_));
        part.expr
    }

    fn boxed(&mut self, part: Compiled) -> Box<Expr> {
        Box::new(self.take(part))
    }

    /// Makes the node, or its value if all its parts are constants.
    fn node(self, expr: Expr, ty: Type) -> Result<Compiled> {
        match if self.constant { folded(&expr) } else { None } {
            Some(value) => Ok(Compiled { declared: self.declared, ..Compiled::leaf(Expr::Constant(value), ty) }),
            None => self.kept(expr, ty),
        }
    }

    fn kept(self, expr: Expr, ty: Type) -> Result<Compiled> {
        let Parts { aggregate, late, finished, row, hits, element, declared, nodes, height, constant: _ } = self;
        if height >= MAX_HEIGHT {
            return Err(PlanError::new(PlanErrorKind::TooComplex("they put one expression into another"), None));
        }
        let height = height + 1;
        Ok(Compiled {
            expr,
            ty,
            aggregate,
            late,
            finished,
            row,
            hits,
            element,
            declared,
            written: false,
            nodes,
            height,
        })
    }
}

impl Compiler {
    pub fn new(sources: Vec<Source>) -> Compiler {
        Compiler {
            integers: sources.iter().all(|source| source.stream.integers),
            sources,
            steps: Vec::new(),
            result_steps: Vec::new(),
            numbers: Vec::new(),
            aliases: Vec::new(),
            aliases_by_name: HashMap::new(),
            shadowed: HashSet::new(),
            aggregates: Vec::new(),
            aggregates_by_text: HashMap::new(),
            window_aggregates: Vec::new(),
            windowed: false,
            in_window: false,
            open_cases: 0,
            elements: None,
            copied: 0,
            gathers: false,
            precedence: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Whether the value is the same for a whole group or window, which then gives one result row.
    pub fn is_of_group(&self, value: &Compiled) -> bool {
        value.aggregate || (value.hits && self.gathers)
    }

    /// The placeholder for a value that cannot be compiled.
    pub fn unknown_value(&self) -> Compiled {
        Compiled::leaf(SlotRef::Element.expr(), Type::Any)
    }

    /// Records an error and continues without the value.
    pub fn noted<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.note(error)).ok()
    }

    /// Records an error, up to a limit.
    pub fn note(&mut self, error: PlanError) {
        PlanError::note(&mut self.errors, || error);
    }

    /// Compiles `expr`. `own` is the name of the alias or REPLACE that it defines: in its own expression, this name is
    /// the field.
    ///
    /// Records errors, and returns a placeholder for a wrong expression, so that the rest of the statement is checked
    /// too. Errors that could follow from a wrong part are not reported.
    pub fn expr(&mut self, expr: &ast::Expr, clause: Clause, own: Option<&str>) -> Result<Compiled> {
        let before = self.errors.len();
        match self.expr_of(expr, clause, own) {
            // The enclosing aggregate reports the error with its own name.
            Err(error) if clause == Clause::Aggregate && matches!(*error.kind, PlanErrorKind::NestedAggregate(_)) => {
                Err(error)
            }
            Err(error) => {
                if self.errors.len() == before {
                    self.note(error);
                }
                Ok(self.unknown_value())
            }
            compiled => compiled,
        }
    }

    fn expr_of(&mut self, expr: &ast::Expr, clause: Clause, own: Option<&str>) -> Result<Compiled> {
        let scope = (clause, own);
        match &expr.kind {
            ExprKind::Literal(literal) => Ok(Compiled::constant(value(literal))),
            ExprKind::Column(name) => self.name(name, expr.span, scope),
            ExprKind::Dot(left, member) => self.dot(left, member, expr, scope),
            ExprKind::Member(left, member) => self.member(left, member, expr, scope),
            ExprKind::Index(left, index) => self.index(left, index, expr, scope),
            ExprKind::Slice(left, from, to) => self.slice(left, from.as_deref(), to.as_deref(), expr, scope),
            ExprKind::Null => Ok(Compiled::constant(Value::Null)),
            ExprKind::Star(_) => Err(PlanError::at(PlanErrorKind::Star, expr.span)),
            ExprKind::Unary(op, operand) => self.unary(*op, operand, expr, scope),
            ExprKind::Binary(op, left, right) => self.binary(*op, left, right, expr, scope),
            ExprKind::Between { expr: value, negated, low, high } => {
                self.between([value, low, high], *negated, expr, scope)
            }
            ExprKind::In { expr, negated, set } => self.is_in(expr, *negated, set, scope),
            ExprKind::Like { expr, negated, pattern } => self.like(expr, *negated, pattern, scope),
            ExprKind::IsNull { expr, negated } => self.is_null(expr, *negated, scope),
            ExprKind::Case { value, branches, otherwise } => {
                self.case(value.as_deref(), branches, otherwise.as_deref(), scope)
            }
            ExprKind::Call(call) => self.call(call, expr.span, scope),
        }
    }

    /// Checks ORDER BY without a window as if there were one, although it then sorts only one row and has no effect.
    pub fn check_order(&mut self, keys: &[ast::OrderKey]) -> Result<()> {
        let lengths = (self.steps.len(), self.result_steps.len(), self.numbers.len(), self.aggregates.len());
        self.order_by(keys, "ORDER BY")?;
        self.steps.truncate(lengths.0);
        self.result_steps.truncate(lengths.1);
        self.numbers.truncate(lengths.2);
        self.aggregates.truncate(lengths.3);
        self.aggregates_by_text.retain(|_, index| *index < lengths.3);
        Ok(())
    }

    pub fn order_by(&mut self, keys: &[ast::OrderKey], clause: &'static str) -> Result<Vec<OrderBy<SlotRef>>> {
        let mut order = Vec::with_capacity(keys.len());
        for key in keys {
            let expr = self.expr(&key.expr, Clause::Groups(clause), None)?.expr;
            order.push(OrderBy { expr, descending: key.descending });
        }
        Ok(order)
    }
}

/// The clause, and the name of the alias or REPLACE that is being compiled.
type Scope<'a> = (Clause, Option<&'a str>);

fn value(literal: &Literal) -> Value {
    match literal {
        Literal::Int(i) => Value::Int(*i),
        Literal::Unsigned(u) => Value::whole(*u),
        Literal::Float(f) => Value::Float(*f),
        Literal::Text(text) => Value::Text(text.clone()),
        Literal::Bool(b) => Value::Bool(*b),
    }
}

/// The value of an expression over constants. An error is left to the rows that reach it, since it may be in a branch
/// that no row takes.
fn folded(expr: &Expr) -> Option<Value> {
    let zone = &jiff::tz::TimeZone::UTC;
    let context = CallContext {
        rule: "",
        rule_started: 0,
        now: 0,
        event_time: 0,
        window: None,
        zone,
        hits: Hits::default(),
        pause: None,
    };
    // Constants have no slots.
    expr.map(&mut |_| 0).eval(&Row { slots: &[], context: &context }).ok().map(|value| value.into_owned())
}
