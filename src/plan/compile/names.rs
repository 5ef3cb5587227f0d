//! Resolves the names in an expression: columns of the rule's streams, aliases, `*` and metadata.
//!
//! This is the only place where names become slots. It does not know what is done with the values.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::{Clause, Compiled, Compiler, Finished, Parts, Result, Scope, Type};
use crate::definition::stream::StreamDef;
use crate::plan::error::{MAX_ERRORS, PlanError, PlanErrorKind};
use crate::plan::logical::{Expr, SlotRef};
use crate::plan::physical::{Column, ColumnSource};
use crate::sql::ast::{self, DataType, ExprKind, Ident, InSet, Star};
use crate::text::span::Span;
use crate::value::Text;

/// How many nodes may be copied by expanding aliases of aggregates.
const MAX_COPIED: usize = 10_000;

/// A stream or table of the rule, and what the rule reads from it.
pub struct Source {
    pub stream: Arc<StreamDef>,
    /// names that stand for it before a dot
    pub qualifiers: Vec<Text>,
    pub columns: Vec<Column>,
    columns_by_source: HashMap<ColumnSource, usize>,
}

impl Source {
    pub fn new(stream: Arc<StreamDef>, qualifiers: Vec<Text>) -> Source {
        Source { stream, qualifiers, columns: Vec::new(), columns_by_source: HashMap::new() }
    }

    /// The number of a column, which is added if it is new.
    pub fn column(&mut self, source: ColumnSource, ty: Option<DataType>) -> usize {
        let columns = &mut self.columns;
        *self.columns_by_source.entry(source).or_insert_with_key(|source| {
            columns.push(Column { source: source.clone(), ty });
            columns.len() - 1
        })
    }

    /// The declared type of a column; `Ok(None)` in a schemaless stream, `Err` if it is not declared.
    fn declared(&self, name: &str) -> Result<Option<DataType>, ()> {
        match (&self.stream.columns, &self.stream.view) {
            (Some(columns), _) => match columns.iter().find(|column| column.name.name == name) {
                Some(column) => Ok(Some(column.ty.clone())),
                None => Err(()),
            },
            (None, Some(view)) => match view.columns.iter().find(|(column, _)| column == name) {
                Some((_, ty)) => Ok(ty.clone()),
                None if view.open => Ok(None),
                None => Err(()),
            },
            (None, None) => Ok(None),
        }
    }

    /// Whether the names of its columns are known.
    fn names_columns(&self) -> bool {
        self.stream.columns.is_some() || self.stream.view.as_ref().is_some_and(|view| !view.open)
    }

    /// The known names of its columns.
    fn column_names(&self) -> impl Iterator<Item = &Text> {
        let declared = self.stream.columns.iter().flatten().map(|column| &column.name.name);
        let of_view = self.stream.view.iter().flat_map(|view| view.columns.iter().map(|(name, _)| name));
        declared.chain(of_view)
    }
}

impl Compiler {
    /// The input that a name before a dot stands for.
    pub fn qualified(&self, name: &str) -> Option<usize> {
        self.sources.iter().position(|source| source.qualifiers.iter().any(|known| known == name))
    }

    /// The input that a name before a dot must stand for.
    ///
    /// # Errors
    /// No stream of the rule has the name.
    pub fn stream_named(&self, name: &str, span: Span) -> Result<usize> {
        self.qualified(name).ok_or_else(|| {
            let error = PlanError::at(PlanErrorKind::UnknownField(name.to_owned()), span);
            error.suggest(name, self.qualifiers().map(Text::as_str))
        })
    }

    /// All names that stand for an input.
    pub fn qualifiers(&self) -> impl Iterator<Item = &Text> {
        self.sources.iter().flat_map(|source| &source.qualifiers)
    }

    /// Resolves a column of this input.
    pub fn column_of(&mut self, input: usize, name: &Text, span: Span) -> Result<Compiled> {
        let Ok(ty) = self.sources[input].declared(name) else { return Err(self.unknown(name, span)) };
        let column = self.sources[input].column(ColumnSource::Key(name.clone()), ty.clone());
        let meant = SlotRef::Column { input, column };
        let declared = ty.is_some();
        let mut compiled = Compiled::leaf(meant.expr(), ty.map_or(Type::Any, Type::Known));
        compiled.row = true;
        compiled.declared = declared;
        Ok(compiled)
    }

    /// Resolves a column without a stream: the one that a schema declares, otherwise that of the first message that has
    /// it.
    pub fn column(&mut self, name: &Text, span: Span) -> Result<Compiled> {
        let mut declared = (0..self.sources.len())
            .filter(|input| self.sources[*input].names_columns() && self.sources[*input].declared(name).is_ok());
        if let Some(input) = declared.next() {
            if declared.next().is_some() {
                return Err(PlanError::at(PlanErrorKind::Ambiguous(name.to_string()), span));
            }
            return self.column_of(input, name, span);
        }
        let schemaless: Vec<usize> =
            self.precedence.iter().copied().filter(|input| !self.sources[*input].names_columns()).collect();
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

    /// The complete messages of a schemaless input.
    pub fn whole(&mut self, input: usize) -> SlotRef {
        let column = self.sources[input].column(ColumnSource::Whole, None);
        SlotRef::Column { input, column }
    }

    /// The value of `meta(*)` for an input.
    pub fn topic(&mut self, input: usize) -> Compiled {
        let column = self.sources[input].column(ColumnSource::Topic, None);
        Compiled { row: true, ..Compiled::leaf(SlotRef::Column { input, column }.expr(), Type::Any) }
    }

    /// The metadata of an input's messages and their connections.
    pub fn metadata(&mut self, input: usize) -> Compiled {
        let column = self.sources[input].column(ColumnSource::Meta, None);
        Compiled { row: true, ..Compiled::leaf(SlotRef::Column { input, column }.expr(), Type::Any) }
    }

    /// The row, or what one stream has of it, as an object: `[stream.]* [EXCEPT (…)] [REPLACE (…)]` as an argument.
    pub(super) fn star_object(&mut self, star: &Star, clause: Clause) -> Result<Compiled> {
        let inputs = self.inputs_of(star)?;
        let mut replaced = Vec::with_capacity(star.replace.len());
        for (expr, name) in &star.replace {
            // Inside its own REPLACE, a name is the field.
            replaced.push((name.name.clone(), self.expr(expr, clause, Some(&name.name))?));
        }
        let except: Vec<Text> = star.except.iter().map(|name| name.name.clone()).collect();
        self.row_object(inputs, star.span, except, replaced)
    }

    /// A value that is absent where a joined row has no row of the star's stream, for `count(stream.*)`; `None` if
    /// every row counts.
    pub(super) fn presence(&mut self, star: &Star) -> Result<Option<Compiled>> {
        let inputs = self.inputs_of(star)?;
        if star.stream.is_none() || self.sources.len() == 1 {
            return Ok(None);
        }
        let mut parts = Parts::new();
        let mut found = Vec::new();
        for input in inputs {
            match self.sources[input].stream.clone().columns.as_deref() {
                None => {
                    parts.row = true;
                    parts.constant = false;
                    found.push(Expr::Slot(self.whole(input)));
                }
                Some(columns) => {
                    for column in columns {
                        let value = self.column_of(input, &column.name.name, star.span)?;
                        found.push(parts.take(value));
                    }
                }
            }
        }
        parts.kept(Expr::FirstPresent(found), Type::Any).map(Some)
    }

    fn inputs_of(&self, star: &Star) -> Result<Range<usize>> {
        match &star.stream {
            None => Ok(0..self.sources.len()),
            Some(stream) => self.stream_named(&stream.name, stream.span).map(|input| input..input + 1),
        }
    }

    /// What `inputs` have of the row as an object without some members, and with others replaced.
    pub(super) fn row_object(
        &mut self,
        inputs: Range<usize>,
        span: Span,
        mut except: Vec<Text>,
        replaced: Vec<(Text, Compiled)>,
    ) -> Result<Compiled> {
        let mut parts = Parts::new();
        parts.declared = false;
        except.extend(replaced.iter().map(|(name, _)| name.clone()));
        let mut wholes = Vec::new();
        let mut members: Vec<(Text, Expr)> = Vec::new();
        for input in inputs {
            let stream = self.sources[input].stream.clone();
            match &stream.columns {
                None => {
                    wholes.push(Expr::Slot(self.whole(input)));
                    parts.row = true;
                    parts.constant = false;
                }
                Some(columns) => {
                    for column in columns.iter().map(|column| &column.name.name) {
                        if members.iter().all(|(name, _)| name != column) && !except.contains(column) {
                            let value = self.column_of(input, column, span)?;
                            members.push((column.clone(), parts.take(value)));
                        }
                    }
                }
            }
        }
        for (name, value) in replaced {
            members.push((name, parts.take(value)));
        }
        if let ([_], [], []) = (wholes.as_slice(), members.as_slice(), except.as_slice()) {
            return parts.kept(wholes.remove(0), Type::Any);
        }
        parts.constant = false;
        parts.kept(Expr::Object { wholes, except, members }, Type::Any)
    }

    fn unknown(&self, name: &Text, span: Span) -> PlanError {
        let columns = || self.sources.iter().flat_map(Source::column_names);
        let other_case =
            self.sources.iter().find(|source| source.column_names().any(|column| column.eq_ignore_ascii_case(name)));
        let kind = match other_case {
            Some(source) => PlanErrorKind::FieldCase { name: name.to_string(), stream: source.stream.name.to_string() },
            None => PlanErrorKind::UnknownField(name.to_string()),
        };
        if self.errors.len() >= MAX_ERRORS {
            return PlanError::at(kind, span);
        }
        let aliases = self.aliases.iter().map(|alias| alias.name.as_str());
        PlanError::at(kind, span).suggest(name, columns().map(Text::as_str).chain(aliases))
    }

    pub(super) fn name(&mut self, name: &Text, span: Span, (clause, own): Scope) -> Result<Compiled> {
        // Inside its own expression, an alias is the field.
        if own == Some(name) {
            self.shadowed.insert(name.clone());
            return self.column(name, span);
        }
        let Some(&index) = self.aliases_by_name.get(name) else { return self.column(name, span) };
        // `sum(points) AS points, max(points)`: where an aggregate is not allowed, the name is the field and not the
        // alias. The rows of a window come before its aggregates.
        let groups = matches!(clause, Clause::Result | Clause::Groups(_));
        if self.aliases[index].value.aggregate && !groups && (self.shadowed.contains(name) || self.in_window) {
            return self.column(name, span);
        }
        self.alias(index, span, clause)
    }

    /// A reference to an alias: a copy of its expression if that is cheap or if it cannot have a slot; otherwise the
    /// slot that all readers share.
    fn alias(&mut self, index: usize, span: Span, clause: Clause) -> Result<Compiled> {
        let alias = &mut self.aliases[index];
        let value = &alias.value;
        if value.aggregate {
            let name = alias.name.to_string();
            match clause {
                Clause::Result | Clause::Groups(_) => {}
                Clause::Rows("WHERE") if self.windowed && alias.written.is_some() => {
                    let written = alias.written.clone().expect("it was just seen");
                    let own = alias.name.clone();
                    return self.expr(&written, clause, Some(&own));
                }
                Clause::Rows(clause) => {
                    return Err(PlanError::at(PlanErrorKind::Aggregate { clause, call: name }, span));
                }
                Clause::Aggregate => return Err(PlanError::at(PlanErrorKind::NestedAggregate(name), span)),
            }
        }
        let there = match clause {
            Clause::Result => Finished::Element,
            Clause::Groups("ORDER BY") => Finished::Number,
            Clause::Groups(_) | Clause::Rows(_) | Clause::Aggregate => Finished::No,
        };
        if value.finished > there {
            return Err(PlanError::at(PlanErrorKind::FinishedRows(alias.name.to_string()), span));
        }
        if value.element && clause != Clause::Result {
            // Other clauses than the select list read the element, so each element must be a separate row for them.
            self.elements.iter_mut().for_each(|elements| elements.before = true);
        }
        if matches!(value.expr, Expr::Slot(_) | Expr::Constant(_)) {
            return Ok(value.clone());
        }
        // Elements have no slot that exists for all rows, and what was sent before changes with each result.
        if value.aggregate || value.late || value.element || value.hits {
            self.copied = self.copied.saturating_add(value.nodes);
            if self.copied > MAX_COPIED {
                return Err(PlanError::at(PlanErrorKind::TooComplex("too many copies of aggregates"), span));
            }
            // HAVING may read row values inside the alias of an aggregate.
            let row = value.row && !(value.aggregate || value.late);
            return Ok(Compiled { row, ..value.clone() });
        }
        alias.shared = true;
        let mut compiled = Compiled::leaf(SlotRef::Alias(index).expr(), value.ty.clone());
        compiled.row = value.row;
        compiled.declared = value.declared;
        Ok(compiled)
    }

    pub(super) fn dot(
        &mut self,
        left: &ast::Expr,
        member: &Ident,
        written: &ast::Expr,
        scope: Scope,
    ) -> Result<Compiled> {
        if let ExprKind::Column(name) = &left.kind
            && let Some(input) = self.qualified(name)
        {
            return self.column_of(input, &member.name, left.span.to(member.span));
        }
        self.member(left, member, written, scope)
    }
}

/// The name of a field without an alias. `unnamed` counts fields that have no name of their own.
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

/// The names in an expression that could be aliases.
pub fn column_names<'a>(expr: &'a ast::Expr, qualifiers: &[Text]) -> Vec<&'a Text> {
    let mut names = Vec::new();
    let mut waiting = vec![expr];
    while let Some(expr) = waiting.pop() {
        match &expr.kind {
            ExprKind::Literal(_) | ExprKind::Null => {}
            ExprKind::Star(star) => waiting.extend(star.replace.iter().map(|(expr, _)| expr)),
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
