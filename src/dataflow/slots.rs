//! The names of a row's slots, to show rows in errors and taps. Plans know slots only by number.

use crate::plan::physical::{ColumnSource, Input};
use crate::value::{Row, Text, Value};

use super::project::shown;

/// The names of the slots of a joined row, for slots that are columns.
#[derive(Debug, Default)]
pub struct SlotNames(Box<[Option<Text>]>);

impl SlotNames {
    /// The names of the columns of these inputs; with several inputs, each follows the name of its stream.
    pub fn of(inputs: &[Input]) -> SlotNames {
        let width = inputs.iter().map(|input| input.slots.end).max().unwrap_or(0);
        let mut names = vec![None; width];
        for input in inputs {
            let stream = &input.stream.name;
            let places = names.iter_mut().skip(input.slots.start);
            for (place, column) in places.zip(&input.scan.columns) {
                *place = match &column.source {
                    ColumnSource::Key(key) if inputs.len() == 1 => Some(key.clone()),
                    ColumnSource::Key(key) => Some(format!("{stream}.{key}").into()),
                    ColumnSource::Whole => Some(stream.clone()),
                    ColumnSource::Meta | ColumnSource::Topic => None,
                };
            }
        }
        SlotNames(names.into())
    }

    /// A row as JSON.
    pub fn shown(&self, slots: &[Value]) -> String {
        let named = self.0.iter().zip(slots).filter_map(|(name, value)| Some((name.clone()?, value.clone())));
        let row: Row = named.filter(|(_, value)| !matches!(value, Value::Absent)).collect();
        shown(&row)
    }
}
