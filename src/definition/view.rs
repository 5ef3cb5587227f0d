//! A view as its readers see it: a relation with columns and a key that identifies each row.

use std::sync::Arc;

use super::stream::{RelationKind, StreamDef};
use crate::text::span::Span;
use crate::value::Text;
use crate::value::types::{ColumnDef, DataType, Ident};

/// The columns and key of a view, for rules and views that read it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ViewShape {
    /// columns that identify a row
    pub key: Vec<Text>,
    /// The columns in order; a type is `None` if it varies from row to row.
    pub columns: Vec<(Text, Option<DataType>)>,
    /// Rows may have further members, as with `SELECT *` of a stream without columns.
    pub open: bool,
    /// Whole numbers are BIGINT, as in the streams that the view reads.
    pub integers: bool,
    /// Clients see only the rows that match their claims.
    pub has_claims: bool,
    /// A hash of the view's query and of the queries of all views that it reads.
    pub definition: u64,
}

impl ViewShape {
    /// The view as a relation that queries can name.
    pub fn relation(self: &Arc<ViewShape>, name: Text) -> StreamDef {
        let typed = |(name, ty): &(Text, Option<DataType>)| {
            let name = Ident { name: name.clone(), span: Span::default() };
            Some(ColumnDef { name, ty: ty.clone()?, default: None })
        };
        StreamDef {
            kind: RelationKind::View,
            columns: if self.open { None } else { self.columns.iter().map(typed).collect() },
            source: Text::const_new("view"),
            integers: self.integers,
            view: Some(self.clone()),
            ..StreamDef::schemaless(name)
        }
    }
}
