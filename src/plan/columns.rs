//! The columns of a query's results, as far as they are known before the first message: their names, and their types if
//! streams declare columns.

use std::collections::HashMap;
use std::sync::Arc;

use super::default_name;
use crate::definition::stream::{Catalog, StreamDef};
use crate::expr::function::{self, Returns};
use crate::sql::ast::{BinaryOp, DataType, Expr, ExprKind, Field, Literal, Select, Star, UnaryOp};
use crate::value::Text;

/// A column of a rule's results.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultColumn {
    pub name: Text,
    /// `None`: known only at run time.
    pub ty: Option<DataType>,
}

/// What names stand for in expressions.
struct Names {
    /// Streams by their names in the SQL.
    sources: Vec<(Text, Arc<StreamDef>)>,
    /// Types of the aliases so far.
    aliases: HashMap<Text, Option<DataType>>,
}

/// The columns of a query's results, in the order of the select list.
pub fn columns(select: &Select, catalog: &Catalog) -> Vec<ResultColumn> {
    let named = std::iter::once(&select.from).chain(select.joins.iter().map(|join| &join.source));
    let sources = named
        .filter_map(|source| {
            let name = source.alias.as_ref().unwrap_or(&source.name);
            Some((name.name.clone(), catalog.source(&source.name.name)?.clone()))
        })
        .collect();
    let mut names = Names { sources, aliases: HashMap::new() };
    let (mut found, mut unnamed): (Vec<ResultColumn>, usize) = (Vec::new(), 0);
    for field in &select.fields {
        match field {
            Field::Expr { expr, alias, invisible } => {
                let ty = type_of(expr, &names);
                let name = alias.as_ref().map(|alias| alias.name.clone());
                // Inside its own expression, an alias is the column with that name.
                names.aliases.extend(name.clone().map(|name| (name, ty.clone())));
                let name = name.unwrap_or_else(|| default_name(expr, &mut unnamed));
                if !invisible {
                    put(&mut found, name, ty);
                }
            }
            Field::Star(star) => expand(star, &names, &mut found),
        }
    }
    found
}

/// Expands a star to the declared columns; those of a schemaless stream are unknown.
fn expand(star: &Star, names: &Names, found: &mut Vec<ResultColumn>) {
    let meant = |name: &Text| star.stream.as_ref().is_none_or(|stream| stream.name == *name);
    for (_, stream) in names.sources.iter().filter(|(name, _)| meant(name)) {
        for (name, ty) in columns_of(stream) {
            if star.except.iter().any(|except| except.name == *name) {
                continue;
            }
            let replaced = star.replace.iter().find(|(_, replaced)| replaced.name == *name);
            let ty = replaced.map_or_else(|| ty.cloned(), |(expr, _)| type_of(expr, names));
            put(found, name.clone(), ty);
        }
    }
    for (expr, name) in &star.replace {
        put(found, name.name.clone(), type_of(expr, names));
    }
}

/// The known columns of a stream, table or view, with their types if these are known.
fn columns_of(stream: &StreamDef) -> impl Iterator<Item = (&Text, Option<&DataType>)> {
    let of_view = stream.view.iter().filter(|_| stream.columns.is_none()).flat_map(|view| &view.columns);
    let declared = stream.columns.iter().flatten().map(|column| (&column.name.name, Some(&column.ty)));
    declared.chain(of_view.map(|(name, ty)| (name, ty.as_ref())))
}

/// If columns have the same name, the first counts.
fn put(found: &mut Vec<ResultColumn>, name: Text, ty: Option<DataType>) {
    if !found.iter().any(|column| column.name == name) {
        found.push(ResultColumn { name, ty });
    }
}

fn type_of(expr: &Expr, names: &Names) -> Option<DataType> {
    use BinaryOp as B;
    let declared = |stream: &StreamDef, name: &Text| {
        columns_of(stream).find(|(known, _)| *known == name).and_then(|(_, ty)| ty.cloned())
    };
    match &expr.kind {
        ExprKind::Literal(literal) => Some(match literal {
            Literal::Int(_) | Literal::Unsigned(_) => DataType::BigInt,
            Literal::Float(_) => DataType::Float,
            Literal::Text(_) => DataType::String,
            Literal::Bool(_) => DataType::Boolean,
        }),
        ExprKind::Column(name) => match names.aliases.get(name) {
            Some(ty) => ty.clone(),
            None => names.sources.iter().find_map(|(_, stream)| declared(stream, name)),
        },
        ExprKind::Dot(left, name) => match &left.kind {
            ExprKind::Column(stream) if names.sources.iter().any(|(known, _)| known == stream) => {
                let named = names.sources.iter().find(|(known, _)| known == stream);
                named.and_then(|(_, stream)| declared(stream, &name.name))
            }
            _ => member(type_of(left, names)?, &name.name),
        },
        ExprKind::Member(left, name) => member(type_of(left, names)?, &name.name),
        ExprKind::Index(left, _) => match type_of(left, names)? {
            DataType::Array(element) => Some(*element),
            _ => None,
        },
        ExprKind::Slice(left, ..) => type_of(left, names),
        ExprKind::Unary(UnaryOp::Not, _)
        | ExprKind::Between { .. }
        | ExprKind::In { .. }
        | ExprKind::Like { .. }
        | ExprKind::IsNull { .. } => Some(DataType::Boolean),
        ExprKind::Unary(_, inner) => type_of(inner, names),
        ExprKind::Binary(op, left, right) => match op {
            B::Multiply | B::Divide | B::Modulo | B::Add | B::Subtract => {
                match (type_of(left, names)?, type_of(right, names)?) {
                    (DataType::BigInt, DataType::BigInt) => Some(DataType::BigInt),
                    (DataType::BigInt | DataType::Float, DataType::BigInt | DataType::Float) => Some(DataType::Float),
                    _ => None,
                }
            }
            B::BitAnd | B::BitOr | B::BitXor => Some(DataType::BigInt),
            _ => Some(DataType::Boolean),
        },
        ExprKind::Call(call) => match function::lookup(&call.name.name)?.returns {
            Returns::Int => Some(DataType::BigInt),
            Returns::Float => Some(DataType::Float),
            Returns::Text => Some(DataType::String),
            Returns::Bool => Some(DataType::Boolean),
            Returns::Bytes => Some(DataType::Bytea),
            Returns::DateTime => Some(DataType::DateTime),
            Returns::SameAs(index) => type_of(call.args.get(index)?, names),
            Returns::Array | Returns::Object | Returns::Any => None,
        },
        ExprKind::Null | ExprKind::Star(_) | ExprKind::Case { .. } => None,
    }
}

fn member(of: DataType, name: &Text) -> Option<DataType> {
    match of {
        DataType::Struct(fields) => fields.into_iter().find(|field| field.name.name == *name).map(|field| field.ty),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{parse_create, parse_select};

    #[test]
    fn an_alias_is_what_it_was_made_of() {
        let mut catalog = Catalog::default();
        let create = "CREATE STREAM s (a BIGINT, f FLOAT, t STRING) WITH (TYPE=\"websocket\", DATASOURCE=\"/s\")";
        catalog.create(&parse_create(create).unwrap()).unwrap();
        let shown = |sql: &str| {
            let columns = columns(&parse_select(sql).unwrap(), &catalog);
            let shown = columns.iter().map(|column| match &column.ty {
                Some(ty) => format!("{} {ty}", column.name),
                None => column.name.to_string(),
            });
            shown.collect::<Vec<_>>().join(", ").to_lowercase()
        };
        for (sql, expected) in [
            ("SELECT *, a + 1 AS n FROM s", "a bigint, f float, t string, n bigint"),
            ("SELECT f AS a, a + 1 AS c FROM s", "a float, c float"),
            ("SELECT a + 1 AS a, s.f AS g, g + a AS h FROM s", "a bigint, g float, h float"),
            ("SELECT t AS x INVISIBLE, x AS y, x->z AS w FROM s", "y string, w"),
            (
                "SELECT nosuch, CASE WHEN a = 1 THEN 1 END AS c, a = 1, upper(t) FROM s",
                "nosuch, c, kuiper_field_0 boolean, upper string",
            ),
        ] {
            assert_eq!(shown(sql), expected, "{sql}");
        }
    }
}
