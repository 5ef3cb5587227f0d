//! The source of looked-up rows: a lookup table, or the rows of a view.

use std::rc::Rc;

use crate::value::{Row, Value};

use super::feed::RowIndex;
use super::table::Index;

/// Rows by the columns that a join compares.
pub enum Lookup {
    Table(Rc<Index>),
    View(Rc<RowIndex>),
}

impl Lookup {
    /// Visits the rows whose columns equal `key`.
    pub fn lookup(&self, key: &[Value], visit: &mut dyn FnMut(&Row)) {
        match self {
            Lookup::Table(index) => index.lookup(key, visit),
            Lookup::View(index) => index.lookup(key, visit),
        }
    }
}
