//! The rows of a view: JSON, with the forms by which clients select them and the values by which they are ordered.

use serde::{Deserialize, Serialize};

use crate::expr::{EvalError, Scope};
use crate::plan::physical::{Item, WholeMessage};
use crate::plan::view::{ViewItem, ViewPlan};
use crate::value::key::{GroupKey, KeyPart};
use crate::value::{Value, json};
use crate::view::{ColumnType, Form, NotScalar, form_in_column, write_part};

/// A row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Made {
    pub json: Box<[u8]>,
    /// forms of the part columns; none if the key determines them
    pub forms: Box<[Form]>,
    /// the values by which rows are ordered and limited
    pub sort: Box<[KeyPart]>,
    /// when its last message came, ms; 0 if nothing depends on it
    #[serde(skip)]
    pub touched: i64,
}

/// Why a row cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RowError {
    #[error("run Select error: {0}")]
    Eval(#[from] EvalError),
    #[error("run Select error: {0}")]
    Encode(#[from] json::EncodeError),
    #[error("run Select error: {0}")]
    Key(#[from] NotScalar),
}

/// The maker of the rows of a view.
pub struct RowMaker {
    items: Vec<ViewItem>,
    /// the types of the part columns
    parts: Vec<ColumnType>,
    parts_are_key: bool,
    /// number of sort values
    sorted: usize,
    json: Vec<u8>,
}

impl RowMaker {
    pub fn new(plan: &ViewPlan) -> RowMaker {
        RowMaker {
            items: plan.items.clone(),
            parts: plan.about.parts.iter().map(|part| part.ty).collect(),
            parts_are_key: plan.about.parts_are_key(),
            sorted: plan.items.iter().filter(|item| item.sort.is_some()).count(),
            json: Vec::new(),
        }
    }

    /// The key of a row whose key columns are selected columns.
    ///
    /// # Errors
    /// [`RowError`]
    pub fn key(&self, scope: &Scope<'_>, key: &mut GroupKey) -> Result<(), RowError> {
        key.clear();
        let width = self.items.iter().filter(|item| item.key.is_some()).count();
        for place in 0..width {
            let column = self.items.iter().find(|item| item.key == Some(place));
            if let Some(Item::Field { expr, .. }) = column.map(|column| &column.item) {
                let value = expr.eval(scope)?;
                key.push(&value);
            }
        }
        check_key(key)
    }

    /// The row of a key.
    ///
    /// # Errors
    /// [`RowError`]
    pub fn row(&mut self, key: &GroupKey, scope: &Scope<'_>) -> Result<Made, RowError> {
        self.json.clear();
        self.json.push(b'{');
        let mut forms: Vec<Form> = vec![None; if self.parts_are_key { 0 } else { self.parts.len() }];
        let mut sort = vec![KeyPart::Nothing; self.sorted];
        for ViewItem { item, key: in_key, part, sort: in_sort } in &self.items {
            match item {
                Item::Field { name, expr, .. } => {
                    separate(&mut self.json);
                    json::write_key(&mut self.json, name);
                    self.json.push(b':');
                    let place = part.and_then(|part| forms.get_mut(part).zip(self.parts.get(part)));
                    if let Some(known) = in_key.and_then(|in_key| key.parts().get(in_key)) {
                        write_part(&mut self.json, known);
                        if let Some((form, ty)) = place {
                            *form = form_in_column(*ty, known)?;
                        }
                        if let Some(sorted) = in_sort.and_then(|in_sort| sort.get_mut(in_sort)) {
                            *sorted = known.clone();
                        }
                        continue;
                    }
                    let value = expr.eval(scope)?;
                    json::write_value(&mut self.json, &value)?;
                    if let Some((form, ty)) = place {
                        *form = form_in_column(*ty, &KeyPart::of(&value))?;
                    }
                    if let Some(sorted) = in_sort.and_then(|in_sort| sort.get_mut(in_sort)) {
                        *sorted = KeyPart::of(&value);
                    }
                }
                Item::Star { messages } => {
                    for WholeMessage { slot, except } in messages {
                        let hidden = |name: &str| except.iter().any(|except| except == name);
                        write_members(&mut self.json, &scope.slots[*slot], &hidden)?;
                    }
                }
                Item::Hidden { expr } => {
                    expr.eval(scope)?;
                }
                // Views have none of these.
                Item::Spread { .. } => {}
            }
        }
        self.json.push(b'}');
        json::replace_unpaired(&mut self.json);
        Ok(Made { json: self.json.as_slice().into(), forms: forms.into(), sort: sort.into(), touched: 0 })
    }
}

/// A key of single values.
fn check_key(key: &GroupKey) -> Result<(), RowError> {
    if key.parts().iter().any(|part| matches!(part, KeyPart::Array(_) | KeyPart::Object(_))) {
        return Err(NotScalar.into());
    }
    Ok(())
}

/// Checks the key of a group.
///
/// # Errors
/// [`RowError::Key`]
pub fn check_group(key: &GroupKey) -> Result<(), RowError> {
    check_key(key)
}

/// Appends the members of a message; if names are equal, the last one counts.
fn write_members(out: &mut Vec<u8>, message: &Value, hidden: &dyn Fn(&str) -> bool) -> Result<(), json::EncodeError> {
    match &*json::expand(message) {
        Value::Object(members) => {
            for (name, value) in members.iter().filter(|(name, _)| !hidden(name)) {
                separate(out);
                json::write_key(out, name);
                out.push(b':');
                json::write_value(out, value)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn separate(out: &mut Vec<u8>) {
    if !out.ends_with(b"{") {
        out.push(b',');
    }
}
