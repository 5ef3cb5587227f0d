//! The types that columns are declared with.
//!
//! The parser makes them, the planner checks against them, and decoders convert to them, so all three depend on this
//! module. How they are written in SQL is in `sql::print`.

use super::Text;
use crate::text::span::Span;

/// A name and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ident {
    /// without backticks
    pub name: Text,
    /// spans compare equal, so two equal names are equal wherever they are
    pub span: Span,
}

/// `column type [DEFAULT literal]`.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDef {
    /// the key in a message
    pub name: Ident,
    /// the type that its values are converted to
    pub ty: DataType,
    /// the value that STRICT_VALIDATION uses where the column is absent
    pub default: Option<Literal>,
}

/// The type of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum DataType {
    /// whole number, 64 bits
    BigInt,
    /// double
    Float,
    /// text
    String,
    /// point in time
    DateTime,
    /// true, false
    Boolean,
    /// bytes
    Bytea,
    Array(Box<DataType>),
    /// STRUCT(column type, …)
    Struct(Vec<ColumnDef>),
}

/// A constant as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `1`
    Int(i64),
    /// a whole number from 2^63 to 2^64 − 1
    Unsigned(u64),
    /// `1.5`
    Float(f64),
    /// `"text"`
    Text(Text),
    /// TRUE, FALSE
    Bool(bool),
}
