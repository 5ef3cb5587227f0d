//! Expressions: from the tree to what is evaluated, with columns, aliases and aggregates as provisional slots.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::error::{PlanError, PlanErrorKind};
use super::logical::{LogicalStep, Meant};
use super::physical::{AggregateCall, AnalyticCall, Column, ColumnSource, OrderBy, RowNumber};
use crate::catalog::StreamDef;
use crate::expr::aggregate::{Aggregate, Distinct};
use crate::expr::analytic::Analytic;
use crate::expr::function::{self, CallContext, Code, Family, Function, Hits, Param, Returns, check_call};
use crate::expr::{Comparison, Expr, LikePattern, Scope as Row, like};
use crate::sql::ast::{self, BinaryOp, Call, DataType, ExprKind, Ident, InSet, Literal, Span, UnaryOp};
use crate::value::{Text, Value};

/// How high an expression may get by putting aliases of aggregates into others: it is walked by recursion.
const MAX_HEIGHT: u32 = 600;
/// How many nodes may be copied by putting aliases of aggregates into others.
const MAX_COPIED: usize = 10_000;

/// Functions of the window's bounds: they have no answer before the window's end.
const LATE: [&str; 4] = ["window_start", "window_end", "window_trigger", "event_time"];

/// The functions about the rows that were sent, for rules whose results are rows.
const OF_ROWS: [&str; 2] = ["last_hit_count", "last_hit_time"];

/// The functions about the windows that were sent.
const OF_WINDOWS: [&str; 2] = ["last_agg_hit_count", "last_agg_hit_time"];

/// The clause that an expression stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clause {
    /// the select list: everything is possible
    Result,
    /// a clause about result rows, by its name: aggregates are possible
    Groups(&'static str),
    /// a clause about single rows, by its name
    Rows(&'static str),
    /// within an aggregate
    Aggregate,
}

/// What is known of values before they are there.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// declared, or certain by the operator or function
    Known(DataType),
    /// whatever a message holds; its numbers divide as doubles
    Any,
}

/// What an expression reads of finished result rows, the later ones last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Finished {
    /// nothing of them
    No,
    /// a row number, which is there for ORDER BY
    Number,
    /// the answer of an analytic call over result rows, which comes after ORDER BY
    Step,
}

/// A compiled expression with what is known of it.
#[derive(Clone, Debug)]
pub struct Compiled {
    pub expr: Expr,
    pub ty: Type,
    /// contains an aggregate
    pub aggregate: bool,
    /// asks for the window's bounds
    pub late: bool,
    /// reads what result rows alone have
    finished: Finished,
    /// reads the row outside of aggregates
    pub row: bool,
    /// is a literal, with its sign
    written: bool,
    /// how many nodes it has
    pub nodes: usize,
    height: u32,
}

/// An alias that can be referred to.
pub struct Known {
    pub name: Text,
    pub value: Compiled,
    pub shared: bool,
}

/// A stream or table of the rule, with what the rule reads of it.
pub struct Source {
    pub stream: Arc<StreamDef>,
    /// names that mean it before a dot
    pub qualifiers: Vec<Text>,
    pub columns: Vec<Column>,
    columns_by_source: HashMap<ColumnSource, usize>,
}

impl Source {
    pub fn new(stream: Arc<StreamDef>, qualifiers: Vec<Text>) -> Source {
        Source { stream, qualifiers, columns: Vec::new(), columns_by_source: HashMap::new() }
    }

    /// The number of a column; the first to ask for it makes it.
    pub fn column(&mut self, source: ColumnSource, ty: Option<DataType>) -> usize {
        let columns = &mut self.columns;
        *self.columns_by_source.entry(source).or_insert_with_key(|source| {
            columns.push(Column { source: source.clone(), ty });
            columns.len() - 1
        })
    }

    /// The declared type of a column; `Ok(None)` in a schemaless stream, `Err` where it is not declared.
    fn declared(&self, name: &str) -> Result<Option<DataType>, ()> {
        match &self.stream.columns {
            None => Ok(None),
            Some(columns) => match columns.iter().find(|column| column.name.name == name) {
                Some(column) => Ok(Some(column.ty.clone())),
                None => Err(()),
            },
        }
    }
}

/// Compiles expressions over the streams of a rule, collecting columns, aggregates and analytic calls.
pub struct Compiler {
    pub sources: Vec<Source>,
    /// whole numbers of every stream are whole numbers of the language
    integers: bool,
    pub steps: Vec<LogicalStep>,
    pub result_steps: Vec<AnalyticCall>,
    pub numbers: Vec<RowNumber>,
    pub aliases: Vec<Known>,
    pub aliases_by_name: HashMap<Text, usize>,
    /// fields that stand in the expression of the alias that has their name
    shadowed: HashSet<Text>,
    pub aggregates: Vec<AggregateCall>,
    aggregates_by_text: HashMap<String, usize>,
    copied: usize,
    /// the rule has a window or joins, so that a result is not that of one row
    pub gathers: bool,
    /// the sources in the order in which they give the value of a name that several schemaless ones may have
    pub precedence: Vec<usize>,
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
        Compiled { expr, ty, aggregate: false, late: false, finished, row: false, written: false, nodes: 1, height: 1 }
    }

    fn constant(value: Value) -> Compiled {
        let ty = match &value {
            Value::Int(_) => Type::INT,
            Value::Float(_) => Type::FLOAT,
            Value::Text(_) => Type::Known(DataType::String),
            Value::Bool(_) => Type::BOOL,
            _ => Type::Any,
        };
        Compiled { written: true, ..Compiled::leaf(Expr::Constant(value), ty) }
    }

    /// The constant, if it is one.
    pub fn literal(&self) -> Option<&Value> {
        match &self.expr {
            Expr::Constant(value) => Some(value),
            _ => None,
        }
    }
}

/// Gathers what is known of the parts while a node is put together from them.
struct Parts {
    aggregate: bool,
    late: bool,
    finished: Finished,
    row: bool,
    nodes: usize,
    height: u32,
    /// all of them are constants
    constant: bool,
}

impl Parts {
    fn new() -> Parts {
        let finished = Finished::No;
        Parts { aggregate: false, late: false, finished, row: false, nodes: 1, height: 0, constant: true }
    }

    fn take(&mut self, part: Compiled) -> Expr {
        self.aggregate |= part.aggregate;
        self.late |= part.late;
        self.finished = self.finished.max(part.finished);
        self.row |= part.row;
        self.nodes = self.nodes.saturating_add(part.nodes);
        self.height = self.height.max(part.height);
        self.constant &= matches!(part.expr, Expr::Constant(_));
        part.expr
    }

    fn boxed(&mut self, part: Compiled) -> Box<Expr> {
        Box::new(self.take(part))
    }

    /// The node, or its value where all its parts are constants.
    fn node(self, expr: Expr, ty: Type) -> Result<Compiled> {
        match if self.constant { folded(&expr) } else { None } {
            Some(value) => Ok(Compiled::leaf(Expr::Constant(value), ty)),
            None => self.kept(expr, ty),
        }
    }

    /// The node as it is.
    fn kept(self, expr: Expr, ty: Type) -> Result<Compiled> {
        let Parts { aggregate, late, finished, row, nodes, height, constant: _ } = self;
        if height >= MAX_HEIGHT {
            return Err(PlanError::new(PlanErrorKind::TooComplex("they put one expression into another"), None));
        }
        Ok(Compiled { expr, ty, aggregate, late, finished, row, written: false, nodes, height: height + 1 })
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
            copied: 0,
            gathers: false,
            precedence: Vec::new(),
        }
    }

    /// Compiles `expr`. `own` is the name of the alias or REPLACE that it defines: within it the name is the field.
    pub fn expr(&mut self, expr: &ast::Expr, clause: Clause, own: Option<&str>) -> Result<Compiled> {
        let scope = (clause, own);
        match &expr.kind {
            ExprKind::Literal(literal) => Ok(Compiled::constant(value(literal))),
            ExprKind::Column(name) => self.name(name, expr.span, scope),
            ExprKind::Dot(left, member) => self.dot(left, member, scope),
            ExprKind::Member(left, member) => self.member(left, member, scope),
            ExprKind::Index(left, index) => self.index(left, index, scope),
            ExprKind::Slice(left, from, to) => self.slice(left, from.as_deref(), to.as_deref(), expr.span, scope),
            ExprKind::Star => Err(PlanError::at(PlanErrorKind::Star, expr.span)),
            ExprKind::Unary(op, operand) => self.unary(*op, operand, scope),
            ExprKind::Binary(op, left, right) => self.binary(*op, left, right, scope),
            ExprKind::Between { expr, negated, low, high } => self.between([expr, low, high], *negated, scope),
            ExprKind::In { expr, negated, set } => self.is_in(expr, *negated, set, scope),
            ExprKind::Like { expr, negated, pattern } => self.like(expr, *negated, pattern, scope),
            ExprKind::IsNull { expr, negated } => self.is_null(expr, *negated, scope),
            ExprKind::Case { value, branches, otherwise } => {
                self.case(value.as_deref(), branches, otherwise.as_deref(), scope)
            }
            ExprKind::Call(call) => self.call(call, expr.span, scope),
        }
    }

    /// The input that a name before a dot means.
    pub fn qualified(&self, name: &str) -> Option<usize> {
        self.sources.iter().position(|source| source.qualifiers.iter().any(|known| known == name))
    }

    /// All names that mean an input.
    pub fn qualifiers(&self) -> impl Iterator<Item = &Text> {
        self.sources.iter().flat_map(|source| &source.qualifiers)
    }

    /// The column of this input.
    pub fn column_of(&mut self, input: usize, name: &Text, span: Span) -> Result<Compiled> {
        let Ok(ty) = self.sources[input].declared(name) else { return Err(self.unknown(name, span)) };
        let column = self.sources[input].column(ColumnSource::Key(name.clone()), ty.clone());
        let meant = Meant::Column { input, column };
        let mut compiled = Compiled::leaf(meant.expr(), ty.map_or(Type::Any, Type::Known));
        compiled.row = true;
        Ok(compiled)
    }

    /// The column that a name without a stream means: the one that a schema declares, else that of the first message
    /// that has it.
    pub fn column(&mut self, name: &Text, span: Span) -> Result<Compiled> {
        let has_columns = |source: &&Source| source.stream.columns.is_some();
        let mut declared = (0..self.sources.len())
            .filter(|input| has_columns(&&self.sources[*input]) && self.sources[*input].declared(name).is_ok());
        if let Some(input) = declared.next() {
            if declared.next().is_some() {
                return Err(PlanError::at(PlanErrorKind::Ambiguous(name.to_string()), span));
            }
            return self.column_of(input, name, span);
        }
        let schemaless: Vec<usize> =
            self.precedence.iter().copied().filter(|input| !has_columns(&&self.sources[*input])).collect();
        match schemaless.as_slice() {
            [] => Err(self.unknown(name, span)),
            [input] => self.column_of(*input, name, span),
            inputs => {
                let mut parts = Parts::new();
                let mut exprs = Vec::with_capacity(inputs.len());
                for &input in inputs {
                    exprs.push(parts.take(self.column_of(input, name, span)?));
                }
                parts.kept(Expr::FirstPresent(exprs), Type::Any)
            }
        }
    }

    /// The whole messages of a schemaless input, as provisional slot.
    pub fn whole(&mut self, input: usize) -> usize {
        let column = self.sources[input].column(ColumnSource::Whole, None);
        Meant::Column { input, column }.slot()
    }

    /// The row as an object: what `*` is as an argument.
    fn row_object(&mut self, span: Span) -> Result<Compiled> {
        let mut parts = Parts::new();
        let mut wholes = Vec::new();
        let mut members: Vec<(Text, Expr)> = Vec::new();
        for input in 0..self.sources.len() {
            let stream = self.sources[input].stream.clone();
            match &stream.columns {
                None => {
                    wholes.push(Expr::Slot(self.whole(input)));
                    parts.row = true;
                    parts.constant = false;
                }
                Some(columns) => {
                    for column in columns.iter().map(|column| &column.name.name) {
                        if members.iter().all(|(name, _)| name != column) {
                            let value = self.column_of(input, column, span)?;
                            members.push((column.clone(), parts.take(value)));
                        }
                    }
                }
            }
        }
        if let ([_], []) = (wholes.as_slice(), members.as_slice()) {
            return parts.kept(wholes.remove(0), Type::Any);
        }
        parts.constant = false;
        parts.kept(Expr::Object { wholes, members }, Type::Any)
    }

    fn unknown(&self, name: &Text, span: Span) -> PlanError {
        let columns = || self.sources.iter().flat_map(|source| source.stream.columns.iter().flatten());
        let other_case = self.sources.iter().find(|source| {
            source.stream.columns.iter().flatten().any(|column| column.name.name.eq_ignore_ascii_case(name))
        });
        let kind = match other_case {
            Some(source) => PlanErrorKind::FieldCase { name: name.to_string(), stream: source.stream.name.to_string() },
            None => PlanErrorKind::UnknownField(name.to_string()),
        };
        let aliases = self.aliases.iter().map(|alias| alias.name.as_str());
        PlanError::at(kind, span).meant(name, columns().map(|column| column.name.name.as_str()).chain(aliases))
    }

    fn name(&mut self, name: &Text, span: Span, (clause, own): Scope) -> Result<Compiled> {
        // An alias is known by its name only when its own expression is done.
        if own == Some(name) {
            self.shadowed.insert(name.clone());
            return self.column(name, span);
        }
        let Some(&index) = self.aliases_by_name.get(name) else { return self.column(name, span) };
        // `sum(points) AS points, max(points)`: where no aggregate can stand, the field is meant that the alias is
        // made of.
        let groups = matches!(clause, Clause::Result | Clause::Groups(_));
        if self.aliases[index].value.aggregate && !groups && self.shadowed.contains(name) {
            return self.column(name, span);
        }
        self.alias(index, span, clause)
    }

    /// A reference to an alias: its expression again where that costs nothing or where there is no slot for it, else
    /// the slot that all its readers share.
    fn alias(&mut self, index: usize, span: Span, clause: Clause) -> Result<Compiled> {
        let alias = &mut self.aliases[index];
        let value = &alias.value;
        if value.aggregate {
            let name = alias.name.to_string();
            match clause {
                Clause::Result | Clause::Groups(_) => {}
                Clause::Rows(clause) => {
                    return Err(PlanError::at(PlanErrorKind::Aggregate { clause, call: name }, span));
                }
                Clause::Aggregate => return Err(PlanError::at(PlanErrorKind::NestedAggregate(name), span)),
            }
        }
        let there = match clause {
            Clause::Result => Finished::Step,
            Clause::Groups("ORDER BY") => Finished::Number,
            Clause::Groups(_) | Clause::Rows(_) | Clause::Aggregate => Finished::No,
        };
        if value.finished > there {
            return Err(PlanError::at(PlanErrorKind::FinishedRows(alias.name.to_string()), span));
        }
        if matches!(value.expr, Expr::Slot(_) | Expr::Constant(_)) {
            return Ok(value.clone());
        }
        if value.aggregate || value.late {
            self.copied = self.copied.saturating_add(value.nodes);
            if self.copied > MAX_COPIED {
                return Err(PlanError::at(PlanErrorKind::TooComplex("too many copies of aggregates"), span));
            }
            // HAVING may read what the alias of an aggregate reads of the row beside it.
            return Ok(Compiled { row: false, ..value.clone() });
        }
        alias.shared = true;
        let mut compiled = Compiled::leaf(Meant::Alias(index).expr(), value.ty.clone());
        compiled.row = value.row;
        Ok(compiled)
    }

    fn dot(&mut self, left: &ast::Expr, member: &Ident, scope: Scope) -> Result<Compiled> {
        if let ExprKind::Column(name) = &left.kind
            && let Some(input) = self.qualified(name)
        {
            return self.column_of(input, &member.name, left.span.to(member.span));
        }
        self.member(left, member, scope)
    }

    fn member(&mut self, left: &ast::Expr, member: &Ident, (clause, own): Scope) -> Result<Compiled> {
        let left = self.expr(left, clause, own)?;
        let ty = match &left.ty {
            Type::Known(DataType::Struct(members)) => members
                .iter()
                .find(|column| column.name.name == member.name)
                .map_or(Type::Any, |column| Type::Known(column.ty.clone())),
            _ => Type::Any,
        };
        let mut parts = Parts::new();
        let left = parts.boxed(left);
        parts.node(Expr::Member(left, member.name.clone()), ty)
    }

    fn index(&mut self, left: &ast::Expr, index: &ast::Expr, (clause, own): Scope) -> Result<Compiled> {
        let left = self.expr(left, clause, own)?;
        let index = self.expr(index, clause, own)?;
        let ty = match &left.ty {
            Type::Known(DataType::Array(element)) => Type::Known((**element).clone()),
            _ => Type::Any,
        };
        let mut parts = Parts::new();
        let (left, index) = (parts.boxed(left), parts.boxed(index));
        parts.node(Expr::Index(left, index), ty)
    }

    fn slice(
        &mut self,
        left: &ast::Expr,
        from: Option<&ast::Expr>,
        to: Option<&ast::Expr>,
        span: Span,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        let left = self.expr(left, clause, own)?;
        let from = from.map(|from| self.expr(from, clause, own)).transpose()?;
        let to = to.map(|to| self.expr(to, clause, own)).transpose()?;
        let bound = |bound: &Option<Compiled>| match bound.as_ref().and_then(Compiled::literal) {
            Some(Value::Int(bound)) => Some(*bound),
            _ => None,
        };
        // From the end, what is first depends on the array.
        let first = if from.is_none() { Some(0) } else { bound(&from) };
        if let (Some(from), Some(to)) = (first, bound(&to))
            && from >= 0
            && to >= 0
            && from >= to
        {
            return Err(PlanError::at(PlanErrorKind::Slice, span));
        }
        let ty = left.ty.clone();
        let mut parts = Parts::new();
        let left = parts.boxed(left);
        let from = from.map(|from| parts.boxed(from));
        let to = to.map(|to| parts.boxed(to));
        parts.node(Expr::Slice(left, from, to), ty)
    }

    fn unary(&mut self, op: UnaryOp, operand: &ast::Expr, (clause, own): Scope) -> Result<Compiled> {
        let operand = self.expr(operand, clause, own)?;
        let mut parts = Parts::new();
        match (op, operand.literal()) {
            (UnaryOp::Minus, Some(Value::Int(i))) if *i != i64::MIN => Ok(Compiled::constant(Value::Int(-i))),
            (UnaryOp::Minus, Some(Value::Float(f))) => Ok(Compiled::constant(Value::Float(-f))),
            (UnaryOp::Plus, Some(Value::Int(_) | Value::Float(_))) => Ok(operand),
            (UnaryOp::Not, Some(Value::Bool(b))) => Ok(Compiled::constant(Value::Bool(!b))),
            (UnaryOp::Minus, _) => {
                let ty = operand.ty.clone();
                let operand = parts.boxed(operand);
                parts.node(Expr::Negate(operand), ty)
            }
            // A plus says that this is a number and changes nothing: minus twice says the same.
            (UnaryOp::Plus, _) => {
                let ty = operand.ty.clone();
                let operand = parts.boxed(operand);
                parts.height += 1;
                parts.node(Expr::Negate(Box::new(Expr::Negate(operand))), ty)
            }
            (UnaryOp::Not, _) => {
                let operand = parts.boxed(operand);
                parts.node(Expr::Not(operand), Type::BOOL)
            }
        }
    }

    fn binary(&mut self, op: BinaryOp, left: &ast::Expr, right: &ast::Expr, (clause, own): Scope) -> Result<Compiled> {
        let left = self.expr(left, clause, own)?;
        let right = self.expr(right, clause, own)?;
        let typed = left.ty != Type::Any && right.ty != Type::Any;
        // A whole answer of a function that gives floats may be held as a whole number, and is none.
        let fractional = left.ty == Type::FLOAT || right.ty == Type::FLOAT;
        let integral = (typed || self.integers) && !fractional;
        let ty = match op {
            _ if is_logical(op) => Type::BOOL,
            _ if !typed => Type::Any,
            _ if fractional => Type::FLOAT,
            _ => left.ty.clone(),
        };
        let mut parts = Parts::new();
        let (left, right) = (parts.boxed(left), parts.boxed(right));
        parts.node(Expr::Binary { op, left, right, integral }, ty)
    }

    fn between(&mut self, operands: [&ast::Expr; 3], negated: bool, (clause, own): Scope) -> Result<Compiled> {
        let mut parts = Parts::new();
        let [expr, low, high] = operands;
        let expr = parts.take(self.expr(expr, clause, own)?);
        let low = parts.take(self.expr(low, clause, own)?);
        let high = parts.take(self.expr(high, clause, own)?);
        parts.node(Expr::Between { operands: Box::new([expr, low, high]), negated }, Type::BOOL)
    }

    fn is_in(&mut self, expr: &ast::Expr, negated: bool, set: &InSet, (clause, own): Scope) -> Result<Compiled> {
        let mut parts = Parts::new();
        let expr = parts.boxed(self.expr(expr, clause, own)?);
        match set {
            InSet::List(members) => {
                let mut list = Vec::with_capacity(members.len());
                for member in members {
                    list.push(parts.take(self.expr(member, clause, own)?));
                }
                parts.node(Expr::InList { expr, list, negated }, Type::BOOL)
            }
            InSet::Array(array) => {
                let array = parts.boxed(self.expr(array, clause, own)?);
                parts.node(Expr::InArray { expr, array, negated }, Type::BOOL)
            }
        }
    }

    fn like(&mut self, expr: &ast::Expr, negated: bool, written: &ast::Expr, (clause, own): Scope) -> Result<Compiled> {
        let mut parts = Parts::new();
        let expr = parts.boxed(self.expr(expr, clause, own)?);
        let compiled = self.expr(written, clause, own)?;
        let pattern = match compiled.literal() {
            Some(Value::Text(text)) => LikePattern::Literal(Arc::new(like::Pattern::new(text))),
            Some(_) => return Err(PlanError::at(PlanErrorKind::Pattern(written.to_string()), written.span)),
            None => LikePattern::Dynamic(parts.boxed(compiled)),
        };
        parts.node(Expr::Like { expr, pattern, negated }, Type::BOOL)
    }

    fn is_null(&mut self, expr: &ast::Expr, negated: bool, (clause, own): Scope) -> Result<Compiled> {
        let mut parts = Parts::new();
        let expr = parts.boxed(self.expr(expr, clause, own)?);
        parts.node(Expr::IsNull { expr, negated }, Type::BOOL)
    }

    fn case(
        &mut self,
        value: Option<&ast::Expr>,
        branches: &[(ast::Expr, ast::Expr)],
        otherwise: Option<&ast::Expr>,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        let mut parts = Parts::new();
        let value = match value {
            Some(value) => Some(parts.boxed(self.expr(value, clause, own)?)),
            None => None,
        };
        let mut ty = None;
        let mut taken = Vec::with_capacity(branches.len());
        for (when, then) in branches {
            let when = parts.take(self.expr(when, clause, own)?);
            let then = self.expr(then, clause, own)?;
            merge(&mut ty, &then.ty);
            taken.push((when, parts.take(then)));
        }
        let otherwise = match otherwise {
            Some(otherwise) => {
                let otherwise = self.expr(otherwise, clause, own)?;
                merge(&mut ty, &otherwise.ty);
                Some(parts.boxed(otherwise))
            }
            None => None,
        };
        parts.node(Expr::Case { value, branches: taken, otherwise }, ty.unwrap_or(Type::Any))
    }

    fn call(&mut self, call: &Call, span: Span, (clause, own): Scope) -> Result<Compiled> {
        let name = call.name.name.as_str();
        let Some(function) = function::lookup(name) else {
            let error = PlanError::at(PlanErrorKind::UnknownFunction(name.to_owned()), call.name.span);
            return Err(error.meant(name, function::all().map(|function| function.name)));
        };
        if call.over.is_some() && !matches!(function.code, Code::Analytic(_) | Code::RowNumber) {
            return Err(PlanError::at(PlanErrorKind::Over(name.to_owned()), span));
        }
        if call.filter.is_some() && !matches!(function.code, Code::Aggregate(_)) {
            return Err(PlanError::at(PlanErrorKind::Filter(name.to_owned()), span));
        }
        match function.code {
            Code::Aggregate(aggregate) => return self.aggregate(aggregate, function, call, span, (clause, own)),
            Code::Analytic(Analytic::ChangedCols) => {
                return Err(PlanError::at(PlanErrorKind::SelectOnly(name.to_owned()), span));
            }
            Code::Analytic(analytic) => return self.analytic(analytic, function, call, span, (clause, own)),
            Code::RowNumber => return self.row_number(function, call, span, clause),
            Code::SetReturning(_) => {
                let nested = matches!(clause, Clause::Result | Clause::Aggregate);
                return Err(PlanError::at(PlanErrorKind::SetReturning(if nested { NESTED } else { ELSEWHERE }), span));
            }
            Code::Scalar(_) | Code::Prepared(_) => {}
        }
        let mut args = Vec::with_capacity(call.args.len());
        for (index, arg) in call.args.iter().enumerate() {
            args.push(match meta_key(function, index, arg) {
                Some(key) => Compiled::leaf(Expr::Constant(Value::from(key)), Type::Known(DataType::String)),
                None => self.expr(arg, clause, own)?,
            });
        }
        check(function, call, &args)?;
        if function.name == "meta"
            && let [key] = call.args.as_slice()
        {
            return self.meta(key);
        }
        if self.gathers && OF_ROWS.contains(&function.name) {
            return Err(PlanError::at(PlanErrorKind::OfRows(function.name), span));
        }
        let ty = returned(function, &args);
        let prepared = match function.code {
            Code::Prepared(prepare) => {
                let literals: Vec<_> = args.iter().map(Compiled::literal).collect();
                let prepared = prepare(&literals).map_err(|error| {
                    PlanError::at(PlanErrorKind::Literals { function: name.to_owned(), error }, span)
                })?;
                Some(Arc::new(prepared))
            }
            _ => None,
        };
        let mut parts = Parts::new();
        parts.late = LATE.contains(&function.name);
        // What was sent before is one answer for a window, not one for each of its rows.
        parts.aggregate = OF_WINDOWS.contains(&function.name) && matches!(clause, Clause::Result | Clause::Groups(_));
        let args = args.into_iter().map(|arg| parts.take(arg)).collect();
        let call = Expr::Call { function, prepared, args };
        if answers_anywhere(function) { parts.node(call, ty) } else { parts.kept(call, ty) }
    }

    /// `meta(key)`, with `key`, `stream.key`, `key->part` or `*` as its argument. A key without a stream is that of the
    /// first message that has it.
    fn meta(&mut self, key: &ast::Expr) -> Result<Compiled> {
        let mut parts = Parts::new();
        match &key.kind {
            ExprKind::Dot(stream, member) | ExprKind::Member(stream, member) => {
                let stream_of = match &stream.kind {
                    ExprKind::Column(name) => self.qualified(name),
                    _ => None,
                };
                let left = match stream_of {
                    Some(input) => self.metadata(input),
                    None => self.meta(stream)?,
                };
                let left = parts.boxed(left);
                parts.node(Expr::Member(left, member.name.clone()), Type::Any)
            }
            ExprKind::Column(name) => {
                let mut exprs = Vec::with_capacity(self.sources.len());
                for input in 0..self.sources.len() {
                    let metadata = self.metadata(input);
                    exprs.push(Expr::Member(parts.boxed(metadata), name.clone()));
                }
                let expr = if exprs.len() == 1 { exprs.remove(0) } else { Expr::FirstPresent(exprs) };
                parts.node(expr, Type::Any)
            }
            _ => Ok(self.metadata(0)),
        }
    }

    /// What the source tells about the messages of an input.
    pub fn metadata(&mut self, input: usize) -> Compiled {
        let column = self.sources[input].column(ColumnSource::Meta, None);
        Compiled { row: true, ..Compiled::leaf(Meant::Column { input, column }.expr(), Type::Any) }
    }

    fn aggregate(
        &mut self,
        aggregate: Aggregate,
        function: &'static Function,
        call: &Call,
        span: Span,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        match clause {
            Clause::Result | Clause::Groups(_) => {}
            Clause::Rows(clause) => {
                let call = ExprKind::Call(call.clone());
                let call = ast::Expr { kind: call, span }.to_string();
                return Err(PlanError::at(PlanErrorKind::Aggregate { clause, call }, span));
            }
            Clause::Aggregate => {
                return Err(PlanError::at(PlanErrorKind::NestedAggregate(call.name.name.to_string()), span));
            }
        }
        let star = call.args.first().is_some_and(|arg| arg.kind == ExprKind::Star);
        if star && !aggregate.takes_rows() {
            return Err(PlanError::at(PlanErrorKind::Star, call.args[0].span));
        }
        let mut args = Vec::with_capacity(call.args.len());
        if star {
            // Rows are counted without a look at them.
            let counted = aggregate == Aggregate::Count;
            let row =
                if counted { Compiled::leaf(Expr::Constant(Value::Null), Type::Any) } else { self.row_object(span)? };
            args.push(row);
        }
        for arg in &call.args[args.len()..] {
            let arg = self.expr(arg, Clause::Aggregate, own).map_err(|error| match *error.kind {
                PlanErrorKind::NestedAggregate(_) => {
                    PlanError::at(PlanErrorKind::NestedAggregate(call.name.name.to_string()), span)
                }
                _ => error,
            })?;
            args.push(arg);
        }
        check(function, call, &args)?;
        let aggregate = aggregate.with(args.get(1).and_then(Compiled::literal));
        let ty = returned(function, &args);
        // Equal texts mean equal calls, but for the name that means a field here and an alias elsewhere.
        let own = own.filter(|own| call.args.iter().any(|arg| column_names(arg, &[]).iter().any(|name| name == own)));
        let text = format!("{aggregate:?} {own:?} {}", call.args.first().map_or("*".to_owned(), ToString::to_string));
        let arg = match aggregate {
            Aggregate::Count if star => None,
            Aggregate::Deduplicate { .. } => Some(self.with_row(args.swap_remove(0), span)?),
            _ => Some(args.swap_remove(0)),
        };
        let integral = self.integers || arg.as_ref().is_some_and(|arg| arg.ty != Type::Any);
        let calls = &mut self.aggregates;
        let index = *self.aggregates_by_text.entry(text).or_insert_with(|| {
            calls.push(AggregateCall { aggregate, arg: arg.map(|arg| arg.expr), integral });
            calls.len() - 1
        });
        let mut compiled = Compiled::leaf(Meant::Aggregate(index).expr(), ty);
        compiled.aggregate = true;
        Ok(compiled)
    }

    /// A value and its row, as deduplication takes them.
    fn with_row(&mut self, value: Compiled, span: Span) -> Result<Compiled> {
        let mut parts = Parts::new();
        let members = vec![
            (Text::const_new(Distinct::VALUE), parts.take(value)),
            (Text::const_new(Distinct::ROW), parts.take(self.row_object(span)?)),
        ];
        parts.constant = false;
        parts.kept(Expr::Object { wholes: Vec::new(), members }, Type::Any)
    }
}

/// Why unnest() and the like cannot stand where they stand, in the words of eKuiper.
pub const NESTED: &str = "select clause shouldn't has nested set-returning-functions";
const ELSEWHERE: &str = "select statement shouldn't has srf except fields";
pub const MULTIPLE: &str = "select clause shouldn't has multi set-returning-functions";

impl Compiler {
    /// A call of an analytic function: over rows, or over result rows where an argument is an aggregate.
    fn analytic(
        &mut self,
        analytic: Analytic,
        function: &'static Function,
        call: &Call,
        span: Span,
        (clause, own): Scope,
    ) -> Result<Compiled> {
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(match arg.kind {
                ExprKind::Star => self.row_object(arg.span)?,
                _ => self.expr(arg, clause, own)?,
            });
        }
        check(function, call, &args)?;
        let ty = returned(function, &args);
        self.analytic_call(analytic, args, Vec::new(), call, span, ty, clause)
    }

    /// Puts an analytic call where its arguments allow it.
    #[allow(clippy::too_many_arguments)]
    fn analytic_call(
        &mut self,
        analytic: Analytic,
        args: Vec<Compiled>,
        names: Vec<Text>,
        call: &Call,
        span: Span,
        ty: Type,
        clause: Clause,
    ) -> Result<Compiled> {
        let over = call.over.as_ref();
        let mut parts = Parts::new();
        let args: Vec<Expr> = args.into_iter().map(|arg| parts.take(arg)).collect();
        let mut partition = Vec::new();
        for key in over.iter().flat_map(|over| &over.partition_by) {
            partition.push(self.expr(key, Clause::Rows("OVER"), None)?.expr);
        }
        let when = match over.and_then(|over| over.when.as_deref()) {
            Some(when) => Some(self.expr(when, Clause::Rows("OVER"), None)?.expr),
            None => None,
        };
        if let Some(key) = over.and_then(|over| over.order_by.first()) {
            return Err(PlanError::at(PlanErrorKind::OverOrder(call.name.name.to_string()), key.expr.span));
        }
        // changed_cols is about what is sent: rows that WHERE, FILTER or HAVING drops are none of its rows.
        let results = parts.aggregate || parts.late || analytic == Analytic::ChangedCols;
        let over_rows = call.args.iter().any(|arg| arg.kind == ExprKind::Star);
        let call_of_plan = AnalyticCall { analytic, args, names, over_rows, partition, when };
        let mut compiled = if results {
            if clause != Clause::Result {
                return Err(PlanError::at(PlanErrorKind::SelectOnly(call.name.name.to_string()), span));
            }
            self.result_steps.push(call_of_plan);
            Compiled::leaf(Meant::ResultStep(self.result_steps.len() - 1).expr(), ty)
        } else {
            self.steps.push(LogicalStep { aliases: self.aliases.len(), call: call_of_plan, span });
            Compiled::leaf(Meant::Step(self.steps.len() - 1).expr(), ty)
        };
        compiled.aggregate = results && parts.aggregate;
        compiled.late = results;
        compiled.finished = if results { Finished::Step } else { Finished::No };
        compiled.row = !results;
        Ok(compiled)
    }

    /// `changed_cols(prefix, ignoreNull, column, …)` as an item of the select list: the object of what changed, and
    /// the prefix of its keys.
    pub fn changed_cols(&mut self, function: &'static Function, call: &Call, span: Span) -> Result<(Compiled, Text)> {
        if call.over.is_some() {
            return Err(PlanError::at(PlanErrorKind::Over(call.name.name.to_string()), span));
        }
        let mut args = Vec::with_capacity(call.args.len());
        let mut names = Vec::new();
        let mut unnamed = 0;
        for (index, arg) in call.args.iter().enumerate() {
            let star = arg.kind == ExprKind::Star;
            args.push(if star { self.row_object(arg.span)? } else { self.expr(arg, Clause::Result, None)? });
            if index >= 2 {
                names.push(match unnamed {
                    _ if star => Text::const_new("*"),
                    // The first expression without a name has the prefix alone.
                    0 => match default_name(arg, &mut unnamed) {
                        _ if unnamed > 0 => Text::default(),
                        name => name,
                    },
                    _ => default_name(arg, &mut unnamed),
                });
            }
        }
        check(function, call, &args)?;
        let prefix = match args.first().and_then(Compiled::literal) {
            Some(Value::Text(prefix)) => prefix.clone(),
            _ => Text::default(),
        };
        args.remove(0);
        let compiled = self.analytic_call(Analytic::ChangedCols, args, names, call, span, Type::Any, Clause::Result)?;
        Ok((compiled, prefix))
    }

    /// The argument of unnest() and the like as an item of the select list, and whether it has an aggregate.
    pub fn set_returning(&mut self, function: &'static Function, call: &Call) -> Result<(Expr, bool)> {
        if call.over.is_some() {
            return Err(PlanError::at(PlanErrorKind::Over(call.name.name.to_string()), call.name.span));
        }
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.expr(arg, Clause::Result, None)?);
        }
        check(function, call, &args)?;
        let arg = args.into_iter().next().unwrap_or_else(|| Compiled::constant(Value::Null));
        Ok((arg.expr, arg.aggregate))
    }

    /// `row_number() [OVER (…)]`
    fn row_number(&mut self, function: &'static Function, call: &Call, span: Span, clause: Clause) -> Result<Compiled> {
        if clause != Clause::Result {
            return Err(PlanError::at(PlanErrorKind::WindowFunction, span));
        }
        let mut args = Vec::new();
        for arg in &call.args {
            args.push(self.expr(arg, Clause::Result, None)?);
        }
        check(function, call, &args)?;
        let mut number = RowNumber { partition: Vec::new(), order: Vec::new() };
        if let Some(over) = &call.over {
            for key in &over.partition_by {
                number.partition.push(self.expr(key, Clause::Groups("OVER"), None)?.expr);
            }
            number.order = self.order_by(&over.order_by, "OVER")?;
        }
        self.numbers.push(number);
        let mut compiled = Compiled::leaf(Meant::Number(self.numbers.len() - 1).expr(), Type::INT);
        compiled.late = true;
        compiled.finished = Finished::Number;
        Ok(compiled)
    }

    /// Keys of ORDER BY.
    pub fn order_by(&mut self, keys: &[ast::OrderKey], clause: &'static str) -> Result<Vec<OrderBy>> {
        let mut order = Vec::with_capacity(keys.len());
        for key in keys {
            let expr = self.expr(&key.expr, Clause::Groups(clause), None)?.expr;
            order.push(OrderBy { expr, descending: key.descending });
        }
        Ok(order)
    }
}

/// The name of a field without an alias; `unnamed` counts those that have none of their own.
pub fn default_name(expr: &ast::Expr, unnamed: &mut usize) -> Text {
    match &expr.kind {
        ExprKind::Column(name) => name.clone(),
        ExprKind::Dot(left, name) if matches!(left.kind, ExprKind::Column(_)) => name.name.clone(),
        ExprKind::Call(call) => call.name.name.to_ascii_lowercase(),
        _ => {
            *unnamed += 1;
            Text::from(format!("kuiper_field_{}", *unnamed - 1))
        }
    }
}

/// The clause, and the name whose alias or REPLACE is being compiled.
type Scope<'a> = (Clause, Option<&'a str>);

fn value(literal: &Literal) -> Value {
    match literal {
        Literal::Int(i) => Value::Int(*i),
        Literal::Float(f) => Value::Float(*f),
        Literal::Text(text) => Value::Text(text.clone()),
        Literal::Bool(b) => Value::Bool(*b),
    }
}

/// The type of a value that is one of several: untyped if one is.
fn merge(ty: &mut Option<Type>, other: &Type) {
    match ty {
        None => *ty = Some(other.clone()),
        Some(Type::Any) => {}
        Some(_) if *other == Type::Any => *ty = Some(Type::Any),
        Some(_) => {}
    }
}

fn check(function: &'static Function, call: &Call, args: &[Compiled]) -> Result<()> {
    let keys: Vec<_> =
        call.args.iter().enumerate().map(|(index, arg)| meta_key(function, index, arg).is_some()).collect();
    let literals: Vec<_> =
        args.iter().zip(&keys).map(|(arg, key)| arg.literal().filter(|_| arg.written || *key)).collect();
    let kind = |(arg, key): (&Compiled, &bool)| if *key { Some(Param::MetaKey) } else { certain_kind(&arg.expr) };
    let kinds: Vec<_> = args.iter().zip(&keys).map(kind).collect();
    check_call(function, &literals, &kinds).map_err(|error| {
        let span = call.name.span;
        PlanError::at(PlanErrorKind::Call { function: call.name.name.to_string(), error }, span)
    })
}

/// The key of a message's metadata that stands where the function takes one. It is a name and names no column.
fn meta_key(function: &Function, index: usize, arg: &ast::Expr) -> Option<String> {
    let mut name = arg;
    while let ExprKind::Dot(left, _) | ExprKind::Member(left, _) = &name.kind {
        name = left;
    }
    let is_name = matches!(name.kind, ExprKind::Column(_)) || arg.kind == ExprKind::Star;
    (is_name && function.signature.param(index) == Some(Param::MetaKey)).then(|| arg.to_string())
}

/// Whether the operator gives true or false.
fn is_logical(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::And | BinaryOp::Or) || Comparison::of(op).is_some()
}

/// The kind of what can be nothing else, whatever a row holds.
fn certain_kind(expr: &Expr) -> Option<Param> {
    match expr {
        Expr::Binary { op, .. } => is_logical(*op).then_some(Param::Bool),
        Expr::Not(_)
        | Expr::Between { .. }
        | Expr::InList { .. }
        | Expr::InArray { .. }
        | Expr::Like { .. }
        | Expr::IsNull { .. } => Some(Param::Bool),
        _ => None,
    }
}

fn returned(function: &Function, args: &[Compiled]) -> Type {
    let known = match function.returns {
        Returns::Int => DataType::BigInt,
        Returns::Float => DataType::Float,
        Returns::Text => DataType::String,
        Returns::Bool => DataType::Boolean,
        Returns::Bytes => DataType::Bytea,
        Returns::DateTime => DataType::DateTime,
        Returns::SameAs(index) => return args.get(index).map_or(Type::Any, |arg| arg.ty.clone()),
        Returns::Any if function.name == "cast" => match args.get(1).and_then(Compiled::literal) {
            Some(Value::Text(target)) => match target.as_str() {
                "bigint" => DataType::BigInt,
                "float" => DataType::Float,
                "string" => DataType::String,
                "boolean" => DataType::Boolean,
                "datetime" => DataType::DateTime,
                "bytea" => DataType::Bytea,
                _ => return Type::Any,
            },
            _ => return Type::Any,
        },
        Returns::Array | Returns::Object | Returns::Any => return Type::Any,
    };
    Type::Known(known)
}

/// Whether calls may be answered here. Other functions than those of numbers, texts and hashes may ask for the time zone, which
/// the rule's text does not know.
fn answers_anywhere(function: &Function) -> bool {
    function.deterministic && matches!(function.family, Family::Math | Family::Text | Family::Hash)
}

/// The value of an expression over constants. An error is left to the row that meets it: it may be in a branch that no
/// row takes.
fn folded(expr: &Expr) -> Option<Value> {
    let zone = &jiff::tz::TimeZone::UTC;
    let context =
        CallContext { rule: "", rule_started: 0, now: 0, event_time: 0, window: None, zone, hits: Hits::default() };
    expr.eval(&Row { slots: &[], context: &context }).ok().map(|value| value.into_owned())
}

/// The names in an expression that may be aliases.
pub fn column_names<'a>(expr: &'a ast::Expr, qualifiers: &[Text]) -> Vec<&'a Text> {
    let mut names = Vec::new();
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        match &expr.kind {
            ExprKind::Literal(_) | ExprKind::Star => {}
            ExprKind::Column(name) => names.push(name),
            ExprKind::Dot(left, _) => match &left.kind {
                ExprKind::Column(name) if qualifiers.contains(name) => {}
                _ => waiting.push(left),
            },
            ExprKind::Member(left, _) | ExprKind::Unary(_, left) | ExprKind::IsNull { expr: left, .. } => {
                waiting.push(left);
            }
            ExprKind::Index(left, right) | ExprKind::Binary(_, left, right) => waiting.extend([&**left, &**right]),
            ExprKind::Slice(left, from, to) => {
                waiting.push(left);
                waiting.extend(from.as_deref());
                waiting.extend(to.as_deref());
            }
            ExprKind::Between { expr, low, high, .. } => waiting.extend([&**expr, &**low, &**high]),
            ExprKind::In { expr, set, .. } => {
                waiting.push(expr);
                match set {
                    InSet::List(list) => waiting.extend(list),
                    InSet::Array(array) => waiting.push(array),
                }
            }
            ExprKind::Like { expr, pattern, .. } => waiting.extend([&**expr, &**pattern]),
            ExprKind::Case { value, branches, otherwise } => {
                waiting.extend(value.as_deref());
                waiting.extend(branches.iter().flat_map(|(when, then)| [when, then]));
                waiting.extend(otherwise.as_deref());
            }
            ExprKind::Call(call) => waiting.extend(&call.args),
        }
    }
    names
}
