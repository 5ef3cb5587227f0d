//! The plan of a view: its query is planned as a rule's is, in parts, and the view's own parts stand beside.
//!
//! What a rule does when a window closes, a view does with each row: so a query with GROUP BY is planned as if it had a
//! window, whose length nobody looks at. ORDER BY, LIMIT and row_number() in WHERE become [`Top`]s, which keep the first
//! rows while others come and go.

mod error;
mod key;
mod options;
mod tree;

use super::columns::{self, ResultColumn};
use super::explain;
use super::physical::{Body, Input, Item, RulePlan, Stateful, Step, StepKind, WindowSpec};
use super::{PlanError, PlanErrorKind, of_select, resolve, rewrite};
use crate::definition::stream::{Catalog, RelationKind};
use crate::expr::Expr;
use crate::expr::aggregate::Aggregate;
use crate::expr::function::Code;
use crate::sql::ast::{self, CreateView, ExprKind, Field, OrderKey, Select, Window, WindowKind};
use crate::text::span::Span;
use crate::time::Unit;
use crate::value::Text;
use crate::value::types::DataType;
use crate::view::{Column, ColumnType, Description, PartColumn};

use key::{group_key, name_members, newest_key};

pub use error::ViewError;
pub use options::ViewOptions;

/// A view, ready to run.
#[derive(Clone, Debug)]
pub struct ViewPlan {
    /// what clients are told of it
    pub about: Description,
    pub kind: ViewKind,
    /// steps, window, keys and aggregates; its own projection, order and limit are those below
    pub body: Stateful,
    /// the members of a row, in order
    pub items: Vec<ViewItem>,
    /// what keeps the first rows only, one after the other
    pub tops: Vec<Top>,
    /// ms
    pub expire: Option<i64>,
    pub max_rows: usize,
    /// ms
    pub checkpoint: Option<i64>,
}

/// How a view's rows come about.
#[derive(Clone, Debug)]
pub enum ViewKind {
    /// the newest message of each key, if it passes
    Newest { filter: Option<Expr> },
    /// a row for each group of all messages
    Groups,
    /// a row for each group of a window's messages
    Windows,
}

/// One member of a row.
#[derive(Clone, Debug)]
pub struct ViewItem {
    pub item: Item,
    /// its place in the row's key
    pub key: Option<usize>,
    /// its place among the part columns
    pub part: Option<usize>,
}

/// The first rows in an order, of each group apart.
#[derive(Clone, Debug)]
pub struct Top {
    /// members of the row that make the groups; none: all rows together
    pub partition: Vec<usize>,
    /// members, and whether descending
    pub order: Vec<(usize, bool)>,
    pub rows: usize,
}

/// Plans a view over the streams of the catalog. The plan's body is [`Body::View`].
///
/// # Errors
/// The first thing that cannot work, with its place and what to write instead.
pub fn plan_view(create: &CreateView, catalog: &Catalog) -> Result<RulePlan, PlanError> {
    let options = ViewOptions::read(create)?;
    let mut query = create.query.clone();
    check_sources(&query, catalog)?;
    let limits = Limits::take(&mut query)?;
    tree::in_words_of_rules(&mut query)?;
    let grouped = is_grouped(&query);
    if !grouped && options.key.is_none() {
        return Err(at(ViewError::NoKey, create.name.span));
    }
    let key = if grouped { group_key(&mut query, &options)? } else { newest_key(&options) };
    let schemaless = catalog.relation(&query.from.name.name).is_some_and(|stream| stream.columns.is_none());
    if schemaless {
        name_members(&mut query, &key, &options);
    }
    let told = columns::columns(&query, catalog);
    let filter = if grouped { None } else { query.filter.take() };
    let windowless = query.window.is_none();
    if let Some(filter) = &filter {
        if tree::calls(filter, tree::is_aggregate) {
            return Err(at(ViewError::AggregateInWhere, filter.span));
        }
        query.fields.push(Field::Expr { expr: filter.clone(), alias: Some(hidden(filter.span)), invisible: false });
    }
    if let Some(filter) = query.filter.as_ref().filter(|filter| tree::calls(filter, tree::is_aggregate)) {
        return Err(at(ViewError::AggregateInWhere, filter.span));
    }
    if windowless {
        refuse_bounds(&query)?;
        if grouped {
            query.window = Some(nominal_window(create.name.span));
        }
    }
    let plan = of_select(&query, &options.rule_options(), catalog)?;
    let (inputs, mut body) = body_of(plan);
    check_body(&body, grouped, windowless, &query)?;
    let mut items = std::mem::take(&mut body.projection.items);
    let kind = match (grouped, windowless) {
        (false, _) => ViewKind::Newest { filter: filter.is_some().then(|| take_filter(&mut items)).flatten() },
        (true, true) => ViewKind::Groups,
        (true, false) => ViewKind::Windows,
    };
    let assembled = Assembled { create, options, key, told, schemaless, limits };
    let view = assembled.finish(kind, body, items, &query)?;
    Ok(RulePlan { inputs, body: Body::View(Box::new(view)), send_nil: true })
}

/// The plan of a view as text, for people.
///
/// # Errors
/// As [`plan_view`].
pub fn explain_view(create: &CreateView, catalog: &Catalog) -> Result<String, PlanError> {
    let plan = plan_view(create, catalog)?;
    let Body::View(view) = &plan.body else { return Ok(String::new()) };
    let options = ViewOptions::read(create)?;
    let mut query = create.query.clone();
    Limits::take(&mut query)?;
    tree::in_words_of_rules(&mut query)?;
    if is_grouped(&query) && query.window.is_none() {
        query.window = Some(nominal_window(create.name.span));
    }
    let logical = resolve::resolve(&query, &options.rule_options(), catalog)?;
    let rule = rewrite::rewrite(&logical, &options.rule_options())?;
    let about = &view.about;
    let kind = match &view.kind {
        ViewKind::Newest { .. } => "the newest message of each key",
        ViewKind::Groups => "a row for each group, changed by each message",
        ViewKind::Windows => "a row for each group and window, changed by each message",
    };
    let listed = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let params = about.parts.iter().filter(|part| part.is_param).map(|part| part.name.as_str()).collect();
    let mut text = format!(
        "view {}: {kind}\n  key: {}\n  parameters: {}\n  clients: {}\n",
        about.name,
        listed(about.key.iter().map(Text::as_str).collect()),
        listed(params),
        about.path
    );
    for top in &view.tops {
        let of = if top.partition.is_empty() { "" } else { " of each group" };
        text.push_str(&format!("  keeps the first {}{of}\n", top.rows));
    }
    text.push_str(&explain::explain(&logical, &rule));
    Ok(text)
}

fn at(error: ViewError, span: Span) -> PlanError {
    PlanError::at(PlanErrorKind::View(error), span)
}

/// ORDER BY, LIMIT and row_number() of a query.
struct Limits {
    order: Vec<OrderKey>,
    limit: Option<u64>,
    each: Option<tree::FirstOfEach>,
}

impl Limits {
    fn take(query: &mut Select) -> Result<Limits, PlanError> {
        let each = tree::take_first_of_each(query)?;
        let (order, limit) = (std::mem::take(&mut query.order_by), query.limit.take());
        if limit.is_some() && order.is_empty() {
            return Err(at(ViewError::LimitWithoutOrder, query.from.name.span));
        }
        Ok(Limits { order, limit, each })
    }
}

fn check_sources(query: &Select, catalog: &Catalog) -> Result<(), PlanError> {
    for join in &query.joins {
        let name = &join.source.name;
        let error = match catalog.relation(&name.name).map(|relation| relation.kind) {
            Some(RelationKind::Stream) => ViewError::StreamInJoin(name.name.to_string()),
            Some(_) => ViewError::Lookup(name.name.to_string()),
            None if catalog.is_view(&name.name) => ViewError::OverView("JOIN", name.name.to_string()),
            None => continue,
        };
        return Err(at(error, name.span));
    }
    let name = &query.from.name;
    match catalog.relation(&name.name).map(|relation| relation.kind) {
        Some(RelationKind::Stream) => Ok(()),
        Some(_) => Err(at(ViewError::Table(name.name.to_string()), name.span)),
        None if catalog.is_view(&name.name) => Err(at(ViewError::OverView("FROM", name.name.to_string()), name.span)),
        // Planning says so.
        None => Ok(()),
    }
}

/// Whether the view has a row for each group.
fn is_grouped(query: &Select) -> bool {
    let fields = query.fields.iter().any(|field| match field {
        Field::Expr { expr, .. } => tree::calls(expr, tree::is_aggregate),
        Field::Star(_) => false,
    });
    fields || !query.group_by.is_empty() || query.window.is_some() || query.having.is_some()
}

/// The name under which WHERE is computed: no column can have it.
const WHERE: &str = "\u{0}where";

fn hidden(span: Span) -> ast::Ident {
    ast::Ident { name: WHERE.into(), span }
}

fn take_filter(items: &mut Vec<Item>) -> Option<Expr> {
    let place = items.iter().position(|item| matches!(item, Item::Field { name, .. } if name == WHERE))?;
    match items.remove(place) {
        Item::Field { expr, .. } => Some(expr),
        _ => None,
    }
}

fn nominal_window(span: Span) -> Window {
    Window { kind: WindowKind::Tumbling { unit: Unit::Day, length: 1 }, filter: None, over: None, span }
}

/// Without a window nothing has bounds.
fn refuse_bounds(query: &Select) -> Result<(), PlanError> {
    let mut found = None;
    tree::each_of_select(&mut query.clone(), &mut |expr| {
        if let ExprKind::Call(call) = &expr.kind
            && ["window_start", "window_end", "window_trigger"]
                .iter()
                .any(|name| call.name.name.eq_ignore_ascii_case(name))
        {
            found.get_or_insert(at(ViewError::NeedsWindow(call.name.name.to_string()), expr.span));
        }
    });
    found.map_or(Ok(()), Err)
}

fn body_of(plan: RulePlan) -> (Vec<Input>, Stateful) {
    match plan.body {
        Body::Stateful(body) => (plan.inputs, *body),
        Body::Rows(projection) => {
            let row_slots = plan.inputs[0].scan.width();
            (plan.inputs, Stateful::from_rows(projection, row_slots))
        }
        // A query is planned to one of the two.
        Body::View(view) => (plan.inputs, view.body),
    }
}

fn check_body(body: &Stateful, grouped: bool, windowless: bool, query: &Select) -> Result<(), PlanError> {
    let span = query.from.name.span;
    let makes_rows = |step: &Step| matches!(step.kind, StepKind::Elements(_));
    if body.rows_of.is_some()
        || body.steps.iter().any(makes_rows)
        || body.projection.items.iter().any(|item| matches!(item, Item::Spread { .. }))
    {
        return Err(at(ViewError::SeveralRows("unnest, or a function that gives several columns,".to_owned()), span));
    }
    if let Some(field) = query.fields.iter().find_map(|field| match field {
        Field::Expr { expr, .. } if tree::calls(expr, |code| matches!(code, Code::RowNumber)) => Some(expr),
        _ => None,
    }) {
        return Err(at(ViewError::Analytic("row_number() in the select list".to_owned()), field.span));
    }
    if !body.result_steps.is_empty() || !body.numbers.is_empty() {
        return Err(at(ViewError::Analytic("an analytic function over aggregates".to_owned()), span));
    }
    if body.counts_hits {
        return Err(at(ViewError::Analytic("last_hit_count, or a function like it,".to_owned()), span));
    }
    if !grouped {
        return Ok(());
    }
    if !windowless {
        let window_span = query.window.as_ref().map_or(span, |window| window.span);
        let kind = match &body.window {
            WindowSpec::Hopping { .. } | WindowSpec::Session { .. } => None,
            WindowSpec::Sliding { .. } => Some("SLIDINGWINDOW"),
            WindowSpec::Count { .. } => Some("COUNTWINDOW"),
            WindowSpec::State { .. } => Some("STATEWINDOW"),
            WindowSpec::Each => Some("this"),
        };
        if let Some(kind) = kind {
            return Err(at(ViewError::Window(kind), window_span));
        }
    } else if let Some(call) = body.aggregates.iter().find(|call| is_unbounded(call.aggregate)) {
        return Err(at(ViewError::Unbounded(call.aggregate.to_string()), span));
    }
    if !body.grouped || body.projection.items.iter().any(|item| matches!(item, Item::Star { .. })) {
        let error = ViewError::SeveralRows("SELECT * with GROUP BY or a window".to_owned());
        return Err(at(error, span));
    }
    if !body.incremental {
        return Err(at(ViewError::WindowBounds, span));
    }
    Ok(())
}

/// Whether an aggregate keeps every row. What keeps different values only is bounded by how many there are.
fn is_unbounded(aggregate: Aggregate) -> bool {
    !aggregate.is_small() && !aggregate.is_distinct() || aggregate == Aggregate::CollectDistinct
}

/// What a view is put together of.
struct Assembled<'a> {
    create: &'a CreateView,
    options: ViewOptions,
    key: Vec<Text>,
    told: Vec<ResultColumn>,
    /// the stream has no columns
    schemaless: bool,
    limits: Limits,
}

impl Assembled<'_> {
    fn finish(self, kind: ViewKind, body: Stateful, items: Vec<Item>, query: &Select) -> Result<ViewPlan, PlanError> {
        let Assembled { create, options, key, told, schemaless, limits } = self;
        let name_span = create.name.span;
        let selected =
            |name: &Text| items.iter().any(|item| matches!(item, Item::Field { name: known, .. } if known == name));
        let ty = |name: &Text| {
            let column = told.iter().find(|column| column.name == *name);
            column.map_or(ColumnType::Any, |column| column_type(column.ty.as_ref()))
        };
        let mut parts: Vec<PartColumn> = Vec::new();
        let params = options.params.as_ref().map_or(&key, |params| &params.names);
        let claimed = options.claims.iter().map(|(column, _)| column);
        let check = |option: &'static str, name: &Text, span: Span| {
            if !selected(name) {
                let names = told.iter().map(|column| column.name.as_str());
                let error = ViewError::NotSelected { option, name: name.to_string() };
                return Err(at(error, span).meant(name, names));
            }
            if matches!(ty(name), ColumnType::Array | ColumnType::Struct) {
                return Err(at(ViewError::NotScalar { option, name: name.to_string() }, span));
            }
            Ok(())
        };
        for name in &key {
            check("KEY", name, options.key.as_ref().map_or(name_span, |key| key.span))?;
        }
        for name in params {
            check("PARAMS", name, options.params.as_ref().map_or(name_span, |params| params.span))?;
        }
        for name in claimed {
            check("CLAIMS", name, options.claims_span)?;
        }
        let claim =
            |name: &Text| options.claims.iter().find(|(column, _)| column == name).map(|(_, claim)| claim.clone());
        let others = options.claims.iter().map(|(column, _)| column).filter(|column| !params.contains(column));
        for name in params.iter().chain(others) {
            parts.push(PartColumn {
                name: name.clone(),
                ty: ty(name),
                in_key: key.iter().position(|known| known == name),
                is_param: params.contains(name),
                claim: claim(name),
            });
        }
        let items: Vec<ViewItem> = items
            .into_iter()
            .map(|item| {
                let name = match &item {
                    Item::Field { name, .. } => Some(name),
                    _ => None,
                };
                let key = key.iter().position(|known| Some(known) == name);
                let part = parts.iter().position(|part| Some(&part.name) == name);
                ViewItem { item, key, part }
            })
            .collect();
        let place = |expr: &ast::Expr| place_of(expr, &items, query);
        let sorted = |keys: &[OrderKey]| {
            let key = |key: &OrderKey| {
                let place = place(&key.expr);
                let place =
                    place.ok_or_else(|| at(ViewError::OrderNotSelected(key.expr.to_string()), key.expr.span))?;
                Ok((place, key.descending))
            };
            keys.iter().map(key).collect::<Result<Vec<_>, PlanError>>()
        };
        let mut tops = Vec::new();
        if let Some(each) = &limits.each {
            let partition = each.partition.iter().map(|expr| {
                let error = || at(ViewError::OrderNotSelected(expr.to_string()), expr.span);
                place(expr).ok_or_else(error)
            });
            let rows = usize::try_from(each.rows).unwrap_or(usize::MAX);
            tops.push(Top { partition: partition.collect::<Result<_, _>>()?, order: sorted(&each.order)?, rows });
        }
        let order = sorted(&limits.order)?;
        if let Some(limit) = limits.limit {
            let rows = usize::try_from(limit).unwrap_or(usize::MAX);
            tops.push(Top { partition: Vec::new(), order: order.clone(), rows });
        }
        let name_of = |place: usize| match &items[place].item {
            Item::Field { name, .. } => name.clone(),
            _ => Text::default(),
        };
        let whole = items.iter().any(|item| matches!(item.item, Item::Star { .. })) && schemaless;
        let is_named = |name: &Text| {
            key.contains(name)
                || create.query.fields.iter().any(|field| match field {
                    Field::Expr { alias: Some(alias), .. } => alias.name == *name,
                    Field::Expr { expr, .. } => expr.kind == ExprKind::Column(name.clone()),
                    Field::Star(_) => false,
                })
        };
        let columns = items.iter().filter_map(|item| match &item.item {
            Item::Field { name, .. } if !whole || is_named(name) => Some(Column { name: name.clone(), ty: ty(name) }),
            _ => None,
        });
        let windowed = matches!(kind, ViewKind::Windows);
        let expire = options.expire.or_else(|| if windowed { window_length(&body.window) } else { None });
        Ok(ViewPlan {
            about: Description {
                name: create.name.name.clone(),
                path: options.path,
                columns: columns.collect(),
                order: order.iter().map(|(place, descending)| (name_of(*place), *descending)).collect(),
                limit: limits.limit,
                retain: options.retain,
                max_rows: options.max_rows,
                definition: definition(create),
                key,
                parts,
            },
            kind,
            body,
            items,
            tops,
            expire,
            max_rows: options.max_rows,
            checkpoint: options.checkpoint,
        })
    }
}

/// The selected column that an expression is.
fn place_of(expr: &ast::Expr, items: &[ViewItem], query: &Select) -> Option<usize> {
    let named =
        |wanted: &Text| items.iter().position(|item| matches!(&item.item, Item::Field { name, .. } if name == wanted));
    let mut unnamed = 0;
    let mut by_expr = None;
    for field in &query.fields {
        if let Field::Expr { expr: selected, alias, .. } = field {
            let name = match alias {
                Some(alias) => alias.name.clone(),
                None => super::default_name(selected, &mut unnamed),
            };
            if selected == expr {
                by_expr = by_expr.or_else(|| named(&name));
            }
        }
    }
    match &expr.kind {
        ExprKind::Column(name) => named(name).or(by_expr),
        _ => by_expr,
    }
}

fn column_type(ty: Option<&DataType>) -> ColumnType {
    match ty {
        None => ColumnType::Any,
        Some(DataType::BigInt) => ColumnType::Bigint,
        Some(DataType::Float) => ColumnType::Float,
        Some(DataType::String) => ColumnType::String,
        Some(DataType::Boolean) => ColumnType::Boolean,
        Some(DataType::DateTime) => ColumnType::Datetime,
        Some(DataType::Bytea) => ColumnType::Bytea,
        Some(DataType::Array(_)) => ColumnType::Array,
        Some(DataType::Struct(_)) => ColumnType::Struct,
    }
}

/// The length of a window, ms: how long its rows stay after its end.
fn window_length(window: &WindowSpec) -> Option<i64> {
    let ms = |unit: Unit, length: u64| i64::try_from(unit.millis().saturating_mul(length)).unwrap_or(i64::MAX);
    match window {
        WindowSpec::Hopping { unit, length, .. } => Some(ms(*unit, *length)),
        WindowSpec::Session { unit, max, .. } => Some(ms(*unit, *max)),
        _ => None,
    }
}

/// Differs where the query, or what identifies and divides rows, differs: then state cannot go on.
fn definition(create: &CreateView) -> u64 {
    use std::hash::BuildHasher;
    let mut text = create.query.to_string();
    for option in &create.options {
        if ["KEY", "PARAMS", "CLAIMS", "EVENT_TIME"].contains(&option.name) {
            text.push_str(&format!(" {}={}", option.name, option.value));
        }
    }
    foldhash::quality::FixedState::with_seed(1).hash_one(text)
}
