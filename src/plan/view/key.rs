//! The columns that identify the rows of a view.

use super::error::ViewError;
use super::options::ViewOptions;
use super::{at, tree};
use crate::plan::{PlanError, default_name};
use crate::sql::ast::{self, ExprKind, Field, Select};
use crate::value::Text;

/// The key columns by GROUP BY; `window_start` is added if it is not selected.
pub fn group_key(query: &mut Select, options: &ViewOptions) -> Result<Vec<Text>, PlanError> {
    let mut unnamed = 0;
    let mut named: Vec<(Text, ast::Expr)> = Vec::new();
    for field in &query.fields {
        if let Field::Expr { expr, alias, invisible } = field {
            let name = match alias {
                Some(alias) => alias.name.clone(),
                None => default_name(expr, &mut unnamed),
            };
            if !invisible {
                named.push((name, expr.clone()));
            }
        }
    }
    let source = query.from.alias.as_ref().unwrap_or(&query.from.name).name.clone();
    let bare = |expr: &ast::Expr| match &expr.kind {
        ExprKind::Dot(left, name) if left.kind == ExprKind::Column(source.clone()) => {
            ExprKind::Column(name.name.clone())
        }
        kind => kind.clone(),
    };
    let mut key = Vec::new();
    for group in &query.group_by {
        let wanted = bare(group);
        let by_expr = named.iter().find(|(_, expr)| bare(expr) == wanted);
        let by_alias = || named.iter().find(|(name, _)| wanted == ExprKind::Column(name.clone()));
        let Some((name, _)) = by_expr.or_else(by_alias) else {
            return Err(at(ViewError::GroupNotSelected(group.to_string()), group.span));
        };
        key.push(name.clone());
    }
    if let Some(window) = &query.window {
        let is_start = |expr: &ast::Expr| match &expr.kind {
            ExprKind::Call(call) => call.name.name.eq_ignore_ascii_case("window_start"),
            _ => false,
        };
        match named.iter().find(|(_, expr)| is_start(expr)) {
            Some((name, _)) => key.push(name.clone()),
            None => {
                query.fields.push(tree::call_field("window_start", window.span));
                key.push("window_start".into());
            }
        }
    }
    if let Some(given) = &options.key {
        let sorted = |names: &[Text]| {
            let mut names = names.to_vec();
            names.sort_unstable();
            names
        };
        let without_window: Vec<Text> = key[..query.group_by.len()].to_vec();
        if sorted(&given.names) != sorted(&key) && sorted(&given.names) != sorted(&without_window) {
            let (found, expected) = (given.names.join(", "), key.join(", "));
            return Err(at(ViewError::OtherKey { found, expected }, given.span));
        }
    }
    Ok(key)
}

pub fn newest_key(options: &ViewOptions) -> Vec<Text> {
    options.key.as_ref().map(|key| key.names.clone()).unwrap_or_default()
}

/// For `SELECT *` from a schemaless stream, the columns in the options of the view are read by name.
pub fn name_members(query: &mut Select, key: &[Text], options: &ViewOptions) {
    let Some(star) = query.fields.iter().position(|field| matches!(field, Field::Star(_))) else { return };
    let (Field::Star(found), span) = (&query.fields[star], query.from.name.span) else { return };
    let hidden: Vec<Text> = found.except.iter().map(|except| except.name.clone()).collect();
    let params = options.params.iter().flat_map(|params| &params.names);
    let claims = options.claims.iter().map(|(column, _)| column);
    let mut wanted: Vec<Text> = Vec::new();
    for name in key.iter().chain(params).chain(claims) {
        let selected = query.fields.iter().any(|field| match field {
            Field::Expr { expr, alias: None, .. } => expr.kind == ExprKind::Column(name.clone()),
            Field::Expr { alias: Some(alias), .. } => alias.name == *name,
            Field::Star(_) => false,
        });
        if !selected && !hidden.contains(name) && !wanted.contains(name) {
            wanted.push(name.clone());
        }
    }
    let field = |name: Text| Field::Expr {
        expr: ast::Expr { kind: ExprKind::Column(name), span },
        alias: None,
        invisible: false,
    };
    query.fields.splice(star..star, wanted.into_iter().map(field));
}
