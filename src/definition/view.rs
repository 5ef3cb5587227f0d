//! A view as those that read it see it: a relation with columns, whose rows are told apart by a key.

use std::sync::Arc;

use super::stream::{RelationKind, StreamDef};
use crate::text::span::Span;
use crate::value::Text;
use crate::value::types::{ColumnDef, DataType, Ident};

/// What rules and other views need to know of a view.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ViewShape {
    /// columns that identify a row
    pub key: Vec<Text>,
    /// the columns in order; a type is `None` where it is known row by row only
    pub columns: Vec<(Text, Option<DataType>)>,
    /// its rows may have further members: `SELECT *` of a stream without columns
    pub open: bool,
    /// whole numbers are BIGINT, as in the streams that it reads
    pub integers: bool,
    /// clients see rows by their claims only
    pub has_claims: bool,
    /// differs where the query differs, its own or that of a view that it reads
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
            ..StreamDef::of_name(name)
        }
    }
}
