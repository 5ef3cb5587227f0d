//! Plans views: a view's query is planned like a rule's, in parts, and completed with the view's own parts.
//!
//! A view does for each row what a rule does when a window closes. So a query with GROUP BY is planned as if it had a
//! window, whose length is ignored. ORDER BY, LIMIT and row_number() in WHERE become [`Top`]s, which keep the first
//! rows while rows come and go.
//!
//! A view over views is planned like a rule that reads the first of them as a stream and looks up the others. `derived`
//! checks what such a view cannot contain, because its rows are also removed.

mod assemble;
mod derived;
mod error;
mod key;
mod options;
mod reads;
mod tree;

use std::sync::Arc;

use super::columns;
use super::explain;
use super::physical::{Body, Input, Item, RulePlan, Stateful, Step, StepKind, WindowSpec};
use super::{PlanError, PlanErrorKind, of_select, resolve, rewrite, spread};
use crate::definition::stream::Catalog;
use crate::definition::view::ViewShape;
use crate::expr::Expr;
use crate::expr::aggregate::Aggregate;
use crate::expr::function::Code;
use crate::sql::ast::{self, CreateView, ExprKind, Field, OrderKey, Select, Window, WindowKind};
use crate::text::span::Span;
use crate::time::Unit;
use crate::value::Text;
use crate::view::Description;

use assemble::Assembled;
use derived::Derived;
use key::{group_key, name_members, newest_key};

pub use error::ViewError;
pub use options::ViewOptions;
pub use reads::{Connected, check_cycle, connected, in_order, over, reads};

/// A view, ready to run.
#[derive(Clone, Debug)]
pub struct ViewPlan {
    /// the description for clients
    pub about: Description,
    pub kind: ViewKind,
    /// steps, window, keys and aggregates; the projection, order and limit are those below
    pub body: Stateful,
    /// the members of a row, in order
    pub items: Vec<ViewItem>,
    /// the limits to first rows, applied one after the other
    pub tops: Vec<Top>,
    /// ms
    pub expire: Option<i64>,
    pub max_rows: usize,
    /// ms
    pub checkpoint: Option<i64>,
    /// the view as rules and other views read it
    pub shape: Arc<ViewShape>,
    pub warnings: Vec<String>,
}

/// What a row of a view represents.
#[derive(Clone, Debug)]
pub enum ViewKind {
    /// the newest message of each key that passes the filter
    Newest { filter: Option<Expr> },
    /// a row for each group of all messages
    Groups,
    /// a row for each group of a window's messages
    Windows,
    /// joined rows of other views and of lookup tables
    Derived {
        /// a row for each group instead of one for each joined row
        grouped: bool,
    },
}

/// One member of a row.
#[derive(Clone, Debug)]
pub struct ViewItem {
    pub item: Item,
    /// its position in the row's key
    pub key: Option<usize>,
    /// its position among the part columns
    pub part: Option<usize>,
    /// its position among the values by which rows are ordered and limited
    pub sort: Option<usize>,
}

impl ViewItem {
    /// The name, unless the item is `*`.
    pub fn name(&self) -> Option<&Text> {
        match &self.item {
            Item::Field { name, .. } => Some(name),
            _ => None,
        }
    }
}

/// Keeps the first rows in an order, within each group.
#[derive(Clone, Debug)]
pub struct Top {
    /// sort values ([`ViewItem::sort`]) that form the groups; empty: all rows are one group
    pub partition: Vec<usize>,
    /// sort values, each with whether it is descending
    pub order: Vec<(usize, bool)>,
    pub rows: usize,
}

/// Plans a view over the streams, views and lookup tables of the catalog. The plan's body is [`Body::View`].
///
/// # Errors
/// The first error, with its place and a hint.
pub fn plan_view(create: &CreateView, catalog: &Catalog) -> Result<RulePlan, PlanError> {
    let options = ViewOptions::read(create)?;
    let mut query = create.query.clone();
    let derived = Derived::of(create, catalog)?;
    let catalog = derived.as_ref().map_or(catalog, |derived| &derived.catalog);
    let limits = prepare(&mut query, derived.as_ref())?;
    let grouped = is_grouped(&query);
    if !grouped && options.key.is_none() {
        return Err(at(ViewError::NoKey, create.name.span));
    }
    let key = if grouped { group_key(&mut query, &options)? } else { newest_key(&options) };
    let open = match &derived {
        Some(derived) => derived.open(),
        None => catalog.relation(&query.from.name.name).is_some_and(|stream| stream.columns.is_none()),
    };
    if open {
        name_members(&mut query, &key, &options);
    }
    let result_columns = columns::columns(&query, catalog);
    let filter = if grouped || derived.is_some() { None } else { query.filter.take() };
    let windowless = query.window.is_none();
    for filter in filter.iter().chain(&query.filter) {
        if tree::calls(filter, tree::is_aggregate) {
            return Err(at(ViewError::AggregateInWhere, filter.span));
        }
    }
    if let Some(filter) = &filter {
        query.fields.push(Field::Expr { expr: filter.clone(), alias: Some(hidden(filter.span)), invisible: false });
    }
    if windowless {
        refuse_bounds(&query)?;
        if grouped {
            query.window = Some(nominal_window(create.name.span));
        }
    }
    let plan = of_select(&query, &options.rule_options(), catalog)?;
    let (inputs, mut body) = body_of(plan);
    check_body(&body, grouped, windowless, derived.is_some(), &query)?;
    let mut items = std::mem::take(&mut body.projection.items);
    let kind = match (&derived, grouped, windowless) {
        (Some(derived), ..) => {
            derived.check(&inputs, &body, &items, &key, grouped, &query)?;
            ViewKind::Derived { grouped }
        }
        (None, false, _) => ViewKind::Newest { filter: filter.is_some().then(|| take_filter(&mut items)).flatten() },
        (None, true, true) => ViewKind::Groups,
        (None, true, false) => ViewKind::Windows,
    };
    let sources = inputs.iter().map(|input| input.stream.clone()).collect();
    let view =
        Assembled { create, options, key, result_columns, open, sources, limits }.finish(kind, body, items, &query)?;
    Ok(RulePlan { inputs, body: Body::View(Box::new(view)), send_nil: true, concurrency: None })
}

/// Rewrites a query for the planner of rules. Returns what that planner does not support.
fn prepare(query: &mut Select, derived: Option<&Derived>) -> Result<Limits, PlanError> {
    let limits = Limits::take(query)?;
    tree::in_words_of_rules(query)?;
    if let Some(derived) = derived {
        derived.name_columns(query)?;
    }
    Ok(limits)
}

/// The plan of a view as text.
///
/// # Errors
/// As [`plan_view`].
pub fn explain_view(create: &CreateView, catalog: &Catalog) -> Result<String, PlanError> {
    let plan = plan_view(create, catalog)?;
    let Body::View(view) = &plan.body else { return Ok(String::new()) };
    let options = ViewOptions::read(create)?;
    let mut query = create.query.clone();
    let derived = Derived::of(create, catalog)?;
    let catalog = derived.as_ref().map_or(catalog, |derived| &derived.catalog);
    prepare(&mut query, derived.as_ref())?;
    let windowless = query.window.is_none();
    if is_grouped(&query) && windowless {
        query.window = Some(nominal_window(create.name.span));
    }
    let mut logical = resolve::resolve(&query, &options.rule_options(), catalog)?;
    let rule = rewrite::rewrite(&logical, &options.rule_options())?;
    if windowless {
        logical.window = None;
    }
    let about = &view.about;
    let kind = match &view.kind {
        ViewKind::Newest { .. } => "the newest message of each key",
        ViewKind::Groups => "a row for each group, changed by each message",
        ViewKind::Windows => "a row for each group and window, changed by each message",
        ViewKind::Derived { grouped: false } => "a row for each row that it reads, changed with it",
        ViewKind::Derived { grouped: true } => "a row for each group of the rows that it reads, changed with them",
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
    text.push_str(&explain::explain(&logical, &rule, spread::of(&plan)));
    Ok(text)
}

fn at(error: ViewError, span: Span) -> PlanError {
    PlanError::at(PlanErrorKind::View(error), span)
}

/// ORDER BY, LIMIT and row_number() of a query.
pub struct Limits {
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

/// Whether the view has a row for each group.
fn is_grouped(query: &Select) -> bool {
    let fields = query.fields.iter().any(|field| match field {
        Field::Expr { expr, .. } => tree::calls(expr, tree::is_aggregate),
        Field::Star(_) => false,
    });
    fields || !query.group_by.is_empty() || query.window.is_some() || query.having.is_some()
}

/// The name of the column that computes WHERE; no user's column can have it.
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

/// Refuses the functions of window bounds if there is no window.
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
        // A query's plan has one of these two bodies.
        Body::View(view) => (plan.inputs, view.body),
    }
}

fn check_body(
    body: &Stateful,
    grouped: bool,
    windowless: bool,
    derived: bool,
    query: &Select,
) -> Result<(), PlanError> {
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
    } else if let Some(call) = body.aggregates.iter().find(|call| !derived && is_unbounded(call.aggregate)) {
        return Err(at(ViewError::Unbounded(call.aggregate.to_string()), span));
    }
    if !body.grouped || body.projection.items.iter().any(|item| matches!(item, Item::Star { .. })) {
        let error = ViewError::SeveralRows("SELECT * with GROUP BY or a window".to_owned());
        return Err(at(error, span));
    }
    if !body.incremental && !derived {
        return Err(at(ViewError::WindowBounds, span));
    }
    Ok(())
}

/// Whether an aggregate keeps every row. One that keeps distinct values is bounded by their number.
fn is_unbounded(aggregate: Aggregate) -> bool {
    !aggregate.is_small() && !aggregate.is_distinct() || aggregate == Aggregate::CollectDistinct
}
