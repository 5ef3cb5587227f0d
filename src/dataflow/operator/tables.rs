//! The tables that a rule joins with the rows of its streams.

use std::collections::HashMap;

use crate::dataflow::join::{Give, ScanTable};
use crate::dataflow::lookup::Lookup;
use crate::dataflow::row::{KeptRow, ScannedRow};
use crate::plan::physical::{Column, ColumnSource, Input, Join, Role, Stateful};
use crate::value::Value;

/// The tables that are joined with the rows of streams.
pub struct Tables {
    /// scan tables, by the number of their input
    pub scanned: HashMap<usize, ScanTable>,
    /// lookup tables, by the number of their input
    pub lookups: HashMap<usize, Lookup>,
}

impl Tables {
    /// Passes the slots of the lookup table's rows with this key to `give`.
    pub fn ask(&self, inputs: &[Input], join: &Join, key: &[Value], give: Give<'_>) {
        let Some(index) = self.lookups.get(&join.input) else { return };
        let columns = &inputs[join.input].scan.columns;
        index.lookup(key, &mut |row| {
            let slot = |column: &Column| match &column.source {
                ColumnSource::Key(wanted) => {
                    row.iter().find(|(key, _)| key == wanted).map(|(_, value)| value.clone()).unwrap_or_default()
                }
                ColumnSource::Whole => Value::object(row.iter().cloned()),
                ColumnSource::Meta | ColumnSource::Topic => Value::object([]),
            };
            give(columns.iter().map(slot).collect());
        });
    }
}

/// A row of a scan table with the names of its columns.
pub fn shown(input: &Input, row: &KeptRow) -> ScannedRow {
    let mut members = Vec::new();
    for (column, value) in input.scan.columns.iter().zip(&row.slots) {
        match (&column.source, value) {
            (_, Value::Absent) => {}
            (ColumnSource::Key(name), value) => members.push((name.clone(), value.clone())),
            (ColumnSource::Whole, Value::Object(all)) => {
                members.extend(all.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
            (ColumnSource::Whole | ColumnSource::Meta | ColumnSource::Topic, _) => {}
        }
    }
    ScannedRow { table: input.stream.name.clone(), content: Value::object(members) }
}

/// Empty scan tables for a rule, by input.
pub fn scan_tables(plan: &Stateful, inputs: &[Input]) -> HashMap<usize, ScanTable> {
    let table = |(number, input): (usize, &Input)| match input.role {
        Role::Table { retain } => {
            let join = plan.joins.iter().find(|join| join.input == number);
            Some((number, ScanTable::new(input, join, retain)))
        }
        _ => None,
    };
    inputs.iter().enumerate().filter_map(table).collect()
}
