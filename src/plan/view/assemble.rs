//! Assembles a view: its key, the columns that partition it, its order and its limits.

use std::sync::Arc;

use super::error::ViewError;
use super::options::ViewOptions;
use super::{Limits, Top, ViewItem, ViewKind, ViewPlan, at};
use crate::definition::stream::StreamDef;
use crate::definition::view::ViewShape;
use crate::plan::PlanError;
use crate::plan::columns::ResultColumn;
use crate::plan::default_name;
use crate::plan::physical::{Item, Stateful, WindowSpec};
use crate::sql::ast::{self, CreateView, ExprKind, Field, OrderKey, Select};
use crate::text::span::Span;
use crate::time::Unit;
use crate::value::Text;
use crate::value::types::DataType;
use crate::view::{Column, ColumnType, Description, PartColumn};

/// The input for assembling a view.
pub struct Assembled<'a> {
    pub create: &'a CreateView,
    pub options: ViewOptions,
    pub key: Vec<Text>,
    pub result_columns: Vec<ResultColumn>,
    /// whether rows can have members that the query does not name: those of a stream without columns
    pub open: bool,
    /// its sources, as in the catalog
    pub sources: Vec<Arc<StreamDef>>,
    pub limits: Limits,
}

impl Assembled<'_> {
    /// The view.
    ///
    /// # Errors
    /// An option names a column that is not selected, or one that cannot be a key or parameter.
    pub fn finish(
        self,
        kind: ViewKind,
        body: Stateful,
        items: Vec<Item>,
        query: &Select,
    ) -> Result<ViewPlan, PlanError> {
        let Assembled { create, options, key, result_columns, open, sources, limits } = self;
        let name_span = create.name.span;
        let selected =
            |name: &Text| items.iter().any(|item| matches!(item, Item::Field { name: known, .. } if known == name));
        let ty = |name: &Text| column_type(data_type(&result_columns, name).as_ref());
        let mut parts: Vec<PartColumn> = Vec::new();
        let params = options.params.as_ref().map_or(&key, |params| &params.names);
        let claimed = options.claims.iter().map(|(column, _)| column);
        let check = |option: &'static str, name: &Text, span: Span| {
            if !selected(name) {
                let names = result_columns.iter().map(|column| column.name.as_str());
                let error = ViewError::NotSelected { option, name: name.to_string() };
                return Err(at(error, span).suggest(name, names));
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
        let mut items: Vec<ViewItem> = items
            .into_iter()
            .map(|item| {
                let name = match &item {
                    Item::Field { name, .. } => Some(name),
                    _ => None,
                };
                let key = key.iter().position(|known| Some(known) == name);
                let part = parts.iter().position(|part| Some(&part.name) == name);
                ViewItem { item, key, part, sort: None }
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
        number_sort_values(&mut items, &mut tops);
        let name_of = |place: usize| match &items[place].item {
            Item::Field { name, .. } => name.clone(),
            _ => Text::default(),
        };
        let whole = items.iter().any(|item| matches!(item.item, Item::Star { .. })) && open;
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
        let definition = definition(create, &sources);
        let shape = ViewShape {
            key: key.clone(),
            columns: items
                .iter()
                .filter_map(|item| item.name())
                .map(|name| (name.clone(), data_type(&result_columns, name)))
                .collect(),
            open: whole,
            integers: sources.iter().all(|source| source.integers),
            has_claims: !options.claims.is_empty(),
            definition,
        };
        Ok(ViewPlan {
            about: Description {
                name: create.name.name.clone(),
                path: options.path,
                columns: columns.collect(),
                order: order.iter().map(|(place, descending)| (name_of(*place), *descending)).collect(),
                limit: limits.limit,
                retain: options.retain,
                max_rows: options.max_rows,
                definition,
                key,
                parts,
                over_views: matches!(kind, ViewKind::Derived { .. }),
            },
            kind,
            body,
            items,
            tops,
            expire,
            max_rows: options.max_rows,
            checkpoint: options.checkpoint,
            shape: Arc::new(shape),
            warnings: warnings(create, &sources),
        })
    }
}

/// Numbers the members by which rows are ordered and limited, and lets `tops` name them by these numbers.
fn number_sort_values(items: &mut [ViewItem], tops: &mut [Top]) {
    let mut count = 0;
    let mut number = |member: &mut usize| {
        let Some(item) = items.get_mut(*member) else { return };
        *member = *item.sort.get_or_insert_with(|| {
            count += 1;
            count - 1
        });
    };
    for top in tops {
        top.partition.iter_mut().chain(top.order.iter_mut().map(|(member, _)| member)).for_each(&mut number);
    }
}

fn data_type(columns: &[ResultColumn], name: &Text) -> Option<DataType> {
    columns.iter().find(|column| column.name == *name).and_then(|column| column.ty.clone())
}

/// The selected column for an expression.
fn place_of(expr: &ast::Expr, items: &[ViewItem], query: &Select) -> Option<usize> {
    let named =
        |wanted: &Text| items.iter().position(|item| matches!(&item.item, Item::Field { name, .. } if name == wanted));
    let mut unnamed = 0;
    let mut by_expr = None;
    for field in &query.fields {
        if let Field::Expr { expr: selected, alias, .. } = field {
            let name = match alias {
                Some(alias) => alias.name.clone(),
                None => default_name(selected, &mut unnamed),
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

/// The length of a window, ms: its rows stay this long after its end.
fn window_length(window: &WindowSpec) -> Option<i64> {
    let ms = |unit: Unit, length: u64| i64::try_from(unit.millis().saturating_mul(length)).unwrap_or(i64::MAX);
    match window {
        WindowSpec::Hopping { unit, length, .. } => Some(ms(*unit, *length)),
        WindowSpec::Session { unit, max, .. } => Some(ms(*unit, *max)),
        WindowSpec::Each | WindowSpec::Sliding { .. } | WindowSpec::Count { .. } | WindowSpec::State { .. } => None,
    }
}

/// Warnings about a view that is valid.
fn warnings(create: &CreateView, sources: &[Arc<StreamDef>]) -> Vec<String> {
    let timeless = create.query.window.is_none();
    let of_time = |option: &&ast::ViewOption| ["EVENT_TIME", "LATE_TOLERANCE", "IDLE_TIMEOUT"].contains(&option.name);
    let idle = create.options.iter().filter(|option| timeless && of_time(option));
    let idle = idle.map(|option| format!("{} has no effect: the view has no window", option.name));
    let claims = sources.iter().filter(|source| source.view.as_ref().is_some_and(|view| view.has_claims));
    let claims = claims.map(|source| {
        format!("the CLAIMS of view {} do not apply here: clients of this view see all of its rows", source.name)
    });
    idle.chain(claims).collect()
}

/// A hash that changes if the query, the columns that identify or partition rows, or a view that is read change: then
/// the state cannot be kept.
fn definition(create: &CreateView, sources: &[Arc<StreamDef>]) -> u64 {
    use std::hash::BuildHasher;
    let mut text = create.query.to_string();
    for option in &create.options {
        if ["KEY", "PARAMS", "CLAIMS", "EVENT_TIME"].contains(&option.name) {
            text.push_str(&format!(" {}={}", option.name, option.value));
        }
    }
    for view in sources.iter().filter_map(|source| source.view.as_ref()) {
        text.push_str(&format!(" {:x}", view.definition));
    }
    foldhash::quality::FixedState::with_seed(1).hash_one(text)
}
