//! Views over views: what they read, and what they cannot contain.
//!
//! Their input rows are added and removed again. Everything computed from a row must be the same when it is removed, so
//! nothing may depend on time, chance or the order of arrival. If each joined row gives a row, KEY must identify it by
//! the keys of the joined views, which the equalities of ON may imply.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::ViewError;
use super::{at, tree};
use crate::definition::stream::{Catalog, RelationKind, StreamDef};
use crate::expr::{Expr, function};
use crate::plan::PlanError;
use crate::plan::physical::{ColumnSource, Filter, Input, Item, Join, Stateful};
use crate::sql::ast::{self, CreateView, ExprKind, Field, Ident, Select, Source};
use crate::text::span::Span;
use crate::value::Text;
use crate::value::operator::JoinKind;

/// A view over views and lookup tables.
pub struct Derived {
    /// the catalog, in which everything that the view reads is treated as a view
    pub catalog: Catalog,
    /// its sources by name
    sources: Vec<Arc<StreamDef>>,
    /// their places in the statement
    spans: Vec<Span>,
}

impl Derived {
    /// The sources of a view over views; `None` for a view over a stream.
    ///
    /// # Errors
    /// It reads something without current rows, or has an option that makes sense only for messages.
    pub fn of(create: &CreateView, catalog: &Catalog) -> Result<Option<Derived>, PlanError> {
        let query = &create.query;
        let written: Vec<&Source> =
            std::iter::once(&query.from).chain(query.joins.iter().map(|join| &join.source)).collect();
        let reads_view = written.iter().any(|source| catalog.is_view(&source.name.name));
        if !reads_view && query.joins.is_empty() {
            let name = &query.from.name;
            let is_table = catalog.relation(&name.name).is_some_and(|relation| relation.kind.is_table());
            return if is_table { Err(at(ViewError::Table(name.name.to_string()), name.span)) } else { Ok(None) };
        }
        // The joined ones first: a stream in FROM is reported only if nothing else is wrong.
        for source in written[1..].iter().chain(&written[..1]) {
            check_source(&source.name, catalog)?;
        }
        if written.iter().any(|source| catalog.source(&source.name.name).is_none()) {
            // Planning reports that it does not exist.
            return Ok(None);
        }
        if let Some(window) = &query.window {
            return Err(at(ViewError::WindowOverView(query.from.name.name.to_string()), window.span));
        }
        check_options(create)?;
        let mut catalog = catalog.clone();
        written.iter().for_each(|source| catalog.read_as_view(&source.name.name));
        let sources = written.iter().filter_map(|source| catalog.source(&source.name.name).cloned()).collect();
        Ok(Some(Derived { sources, spans: written.iter().map(|source| source.name.span).collect(), catalog }))
    }

    /// Whether its rows can have members that the query does not name.
    pub fn open(&self) -> bool {
        matches!(&*self.sources, [source] if is_open(source))
    }

    /// Replaces `*` by its columns, if they are known.
    ///
    /// # Errors
    /// They are unknown, and other columns are selected too.
    pub fn name_columns(&self, query: &mut Select) -> Result<(), PlanError> {
        if self.open() {
            return Ok(());
        }
        let mut named: BTreeSet<Text> = query.fields.iter().filter_map(output_name).collect();
        let written: Vec<Source> =
            std::iter::once(&query.from).chain(query.joins.iter().map(|join| &join.source)).cloned().collect();
        let mut fields = Vec::new();
        for field in std::mem::take(&mut query.fields) {
            let Field::Star(star) = field else {
                fields.push(field);
                continue;
            };
            named.extend(star.replace.iter().map(|(_, name)| name.name.clone()));
            for (def, source) in self.sources.iter().zip(&written) {
                let known = source.alias.as_ref().unwrap_or(&source.name);
                if star.stream.as_ref().is_some_and(|stream| stream.name != known.name) {
                    continue;
                }
                if is_open(def) {
                    return Err(at(ViewError::OpenStar(known.name.to_string()), star.span));
                }
                for name in column_names(def) {
                    if star.except.iter().all(|except| except.name != name) && named.insert(name.clone()) {
                        fields.push(column_field(known, &name, star.span));
                    }
                }
            }
            for (expr, alias) in star.replace {
                fields.push(Field::Expr { expr, alias: Some(alias), invisible: false });
            }
        }
        query.fields = fields;
        Ok(())
    }

    /// Checks the plan. `key` has the names of the key columns.
    ///
    /// # Errors
    /// The first part whose value could differ when a row is removed, or a KEY that does not identify rows.
    pub fn check(
        &self,
        inputs: &[Input],
        body: &Stateful,
        items: &[Item],
        key: &[Text],
        grouped: bool,
        query: &Select,
    ) -> Result<(), PlanError> {
        let span = query.from.name.span;
        if !body.steps.is_empty() {
            return Err(at(ViewError::Analytic("an analytic function".to_owned()), span));
        }
        for (input, span) in inputs.iter().zip(&self.spans) {
            if input.scan.columns.iter().any(|column| matches!(column.source, ColumnSource::Meta | ColumnSource::Topic))
            {
                return Err(at(ViewError::Meta(input.stream.name.to_string()), *span));
            }
        }
        for join in &body.joins {
            if join.rest.is_some() {
                return Err(at(ViewError::On(inputs[join.input].stream.name.to_string()), self.spans[join.input]));
            }
        }
        if let Some(call) = body.aggregates.iter().find(|call| call.aggregate.is_ordered()) {
            return Err(at(ViewError::Ordered(call.aggregate.to_string()), span));
        }
        let key_items = items.iter().filter(|item| matches!(item, Item::Field { name, .. } if key.contains(name)));
        let key_exprs = key_items.filter_map(|item| match item {
            Item::Field { expr, .. } => Some(expr),
            _ => None,
        });
        let key_exprs: Vec<&Expr> = key_exprs.collect();
        each_kept(inputs, body, &key_exprs, &mut |expr| match volatile(expr) {
            Some(name) => Err(at(ViewError::Volatile(name), span)),
            None => Ok(()),
        })?;
        if grouped {
            return match not_grouped(query) {
                Some(expr) => Err(at(ViewError::NotGrouped(expr.to_string()), expr.span)),
                None => Ok(()),
            };
        }
        self.check_key(inputs, &body.joins, &key_exprs)
    }

    /// Checks that the key identifies joined rows.
    fn check_key(&self, inputs: &[Input], joins: &[Join], key: &[&Expr]) -> Result<(), PlanError> {
        let mut known = Determined { inputs, columns: BTreeSet::new(), whole: vec![false; inputs.len()] };
        for expr in key {
            if let Expr::Slot(slot) = expr {
                known.columns.extend(known.column(*slot));
            }
        }
        while known.grows(joins) {}
        let Some(number) = known.whole.iter().position(|whole| !whole) else { return Ok(()) };
        let stream = &inputs[number].stream;
        let name = stream.name.to_string();
        let Some(own) = key_of(stream) else { return Err(at(ViewError::TableWithoutKey(name), self.spans[number])) };
        let missing = own.iter().filter(|column| !known.columns.contains(&(number, (*column).clone())));
        let columns = missing.map(Text::as_str).collect::<Vec<_>>().join(", ");
        Err(at(ViewError::KeyOfSource { source_name: name, columns }, self.spans[number]))
    }
}

fn check_source(name: &Ident, catalog: &Catalog) -> Result<(), PlanError> {
    let error = match catalog.source(&name.name).map(|source| source.kind) {
        Some(RelationKind::Stream) => ViewError::StreamInJoin(name.name.to_string()),
        Some(RelationKind::ScanTable { .. }) => ViewError::ScanTable(name.name.to_string()),
        Some(RelationKind::LookupTable | RelationKind::View) | None => return Ok(()),
    };
    Err(at(error, name.span))
}

fn check_options(create: &CreateView) -> Result<(), PlanError> {
    for option in &create.options {
        let why = match option.name {
            "EXPIRE" => "a row of a view over views leaves when the rows that it is made of leave",
            "EVENT_TIME" | "LATE_TOLERANCE" | "IDLE_TIMEOUT" => "the rows of a view have no time",
            "CHECKPOINT" => "a view over views is made anew from the rows of those",
            _ => continue,
        };
        return Err(at(ViewError::Useless { option: option.name, why }, option.span));
    }
    Ok(())
}

/// Whether its rows can have members that the query does not name.
fn is_open(def: &StreamDef) -> bool {
    match &def.view {
        Some(view) => view.open,
        None => def.columns.is_none(),
    }
}

fn column_names(def: &StreamDef) -> Vec<Text> {
    match (&def.columns, &def.view) {
        (Some(columns), _) => columns.iter().map(|column| column.name.name.clone()).collect(),
        (None, Some(view)) => view.columns.iter().map(|(name, _)| name.clone()).collect(),
        (None, None) => Vec::new(),
    }
}

/// The columns that identify its rows; `None` if none do.
fn key_of(def: &StreamDef) -> Option<Vec<Text>> {
    match &def.view {
        Some(view) => Some(view.key.clone()),
        None => def.key.clone().map(|key| vec![key]),
    }
}

fn output_name(field: &Field) -> Option<Text> {
    match field {
        Field::Expr { alias: Some(alias), .. } => Some(alias.name.clone()),
        Field::Expr { expr, .. } => match &expr.kind {
            ExprKind::Column(name) => Some(name.clone()),
            ExprKind::Dot(_, name) => Some(name.name.clone()),
            _ => None,
        },
        Field::Star(_) => None,
    }
}

fn column_field(source: &Ident, name: &Text, span: Span) -> Field {
    let left = ast::Expr { kind: ExprKind::Column(source.name.clone()), span };
    let kind = ExprKind::Dot(Box::new(left), Ident { name: name.clone(), span });
    Field::Expr { expr: ast::Expr { kind, span }, alias: None, invisible: false }
}

/// Visits every expression that decides which rows are counted, and in which group.
fn each_kept(
    inputs: &[Input],
    body: &Stateful,
    key: &[&Expr],
    see: &mut dyn FnMut(&Expr) -> Result<(), PlanError>,
) -> Result<(), PlanError> {
    let of_filter = |filter: &Option<Filter>| filter.as_ref().and_then(|filter| filter.rest.clone());
    let scans = inputs.iter().map(|input| &input.scan);
    for scan in scans {
        scan.computed.iter().chain(&of_filter(&scan.filter)).try_for_each(&mut *see)?;
    }
    body.joins.iter().flat_map(|join| &join.equal).try_for_each(|(left, _)| see(left))?;
    body.computed.iter().chain(&body.joined_filter).chain(&body.keys).try_for_each(&mut *see)?;
    of_filter(&body.filter).iter().try_for_each(&mut *see)?;
    body.aggregates.iter().flat_map(|call| &call.arg).try_for_each(&mut *see)?;
    key.iter().try_for_each(|expr| see(expr))
}

/// A function in the expression whose result does not depend only on its arguments.
fn volatile(expr: &Expr) -> Option<&'static str> {
    let found = std::cell::Cell::new(None);
    expr.any(&|part| match part {
        Expr::Call { function, .. } if !function.deterministic => {
            found.set(Some(function.name));
            true
        }
        _ => false,
    });
    found.get()
}

/// A column of the select list or HAVING that is neither a GROUP BY column nor inside an aggregate.
fn not_grouped(query: &Select) -> Option<ast::Expr> {
    let aliases: Vec<(&Text, &ast::Expr)> = query
        .fields
        .iter()
        .filter_map(|field| match field {
            Field::Expr { expr, alias: Some(alias), .. } => Some((&alias.name, expr)),
            _ => None,
        })
        .collect();
    let is_key = |name: &Text| query.group_by.iter().any(|key| key.kind == ExprKind::Column(name.clone()));
    let exprs = query.fields.iter().filter_map(|field| match field {
        // GROUP BY uses its alias.
        Field::Expr { alias: Some(alias), .. } if is_key(&alias.name) => None,
        Field::Expr { expr, .. } => Some(expr),
        Field::Star(_) => None,
    });
    exprs.chain(&query.having).find_map(|expr| loose_column(expr, query, &aliases))
}

fn loose_column(expr: &ast::Expr, query: &Select, aliases: &[(&Text, &ast::Expr)]) -> Option<ast::Expr> {
    let source = query.from.alias.as_ref().unwrap_or(&query.from.name).name.clone();
    let bare = |expr: &ast::Expr| match &expr.kind {
        ExprKind::Dot(left, name) if left.kind == ExprKind::Column(source.clone()) => {
            ExprKind::Column(name.name.clone())
        }
        kind => kind.clone(),
    };
    let keys: Vec<ExprKind> = query.group_by.iter().map(bare).collect();
    // Skips what is inside keys and aggregates. Spans always compare as equal, so their bounds are compared.
    let mut covered: Vec<(u32, u32)> = Vec::new();
    let mut columns: Vec<ast::Expr> = Vec::new();
    tree::each_mut(&mut expr.clone(), &mut |part| {
        let place = (part.span.start, part.span.end);
        match &part.kind {
            _ if keys.contains(&bare(part)) => covered.push(place),
            ExprKind::Call(call) => {
                let name = &call.name.name;
                if function::lookup(name).is_some_and(|function| tree::is_aggregate(&function.code)) {
                    covered.push(place);
                }
            }
            // An alias is checked where it is defined.
            ExprKind::Column(name) if aliases.iter().any(|(alias, _)| *alias == name) => {}
            ExprKind::Column(_) => columns.push(part.clone()),
            ExprKind::Dot(left, _) if matches!(left.kind, ExprKind::Column(_)) => {
                // The name before the dot is a source, not a column.
                columns.pop();
                columns.push(part.clone());
            }
            _ => {}
        }
    });
    columns
        .into_iter()
        .find(|column| !covered.iter().any(|(start, end)| *start <= column.span.start && column.span.end <= *end))
}

/// Columns of joined rows that are determined by the key.
struct Determined<'a> {
    inputs: &'a [Input],
    columns: BTreeSet<(usize, Text)>,
    /// inputs whose row is determined by the key
    whole: Vec<bool>,
}

impl Determined<'_> {
    /// The input and column of a slot of a joined row.
    fn column(&self, slot: usize) -> Option<(usize, Text)> {
        let input = self.inputs.iter().position(|input| input.slots.contains(&slot))?;
        match &self.inputs[input].scan.columns.get(slot - self.inputs[input].slots.start)?.source {
            ColumnSource::Key(name) => Some((input, name.clone())),
            _ => None,
        }
    }

    fn knows(&self, slot: usize) -> bool {
        let of_whole = self.inputs.iter().position(|input| input.slots.contains(&slot));
        of_whole.is_some_and(|input| self.whole[input])
            || self.column(slot).is_some_and(|column| self.columns.contains(&column))
    }

    /// Takes one further step; true if it added something.
    fn grows(&mut self, joins: &[Join]) -> bool {
        let before = (self.columns.len(), self.whole.iter().filter(|whole| **whole).count());
        for join in joins {
            for (left, right) in &join.equal {
                let Expr::Slot(right) = right else { continue };
                if left.slots().iter().all(|slot| self.knows(*slot)) {
                    self.columns.extend(self.column(*right));
                }
                // In an unmatched row of a LEFT JOIN, the columns equal nothing.
                if let Expr::Slot(left) = left
                    && join.kind == JoinKind::Inner
                    && self.knows(*right)
                {
                    self.columns.extend(self.column(*left));
                }
            }
        }
        for (number, input) in self.inputs.iter().enumerate() {
            let known = |column: &Text| self.columns.contains(&(number, column.clone()));
            let is_whole = key_of(&input.stream).is_some_and(|key| key.iter().all(known));
            self.whole[number] |= is_whole;
        }
        before != (self.columns.len(), self.whole.iter().filter(|whole| **whole).count())
    }
}
