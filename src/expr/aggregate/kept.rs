//! Aggregates that return values unchanged: lists, first and last values, merged objects, rows without duplicates.

use std::sync::Arc;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{Accumulator, Aggregate, invalid};
use crate::expr::error::EvalError;
use crate::value::json;
use crate::value::key::KeyPart;
use crate::value::{Object, Value};

/// The values in order, with null for rows without a value.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct List(Arc<Vec<Value>>);

impl List {
    pub(super) fn add(&mut self, value: &Value) {
        let value = if matches!(value, Value::Absent) { Value::Null } else { value.clone() };
        Arc::make_mut(&mut self.0).push(value);
    }

    pub(super) fn merge(&mut self, later: &List) {
        Arc::make_mut(&mut self.0).extend_from_slice(&later.0);
    }

    pub(super) fn answer(&self) -> Value {
        Value::Array(self.0.clone())
    }
}

/// The first or the last value; null if its row has none.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct End {
    last: bool,
    value: Option<Value>,
}

impl End {
    pub(super) fn new(last: bool) -> End {
        End { last, value: None }
    }

    pub(super) fn add(&mut self, value: &Value) {
        if self.last || self.value.is_none() {
            self.value = Some(if matches!(value, Value::Absent) { Value::Null } else { value.clone() });
        }
    }

    pub(super) fn merge(&mut self, later: &End) {
        if let Some(value) = &later.value {
            self.add(value);
        }
    }

    pub(super) fn answer(&self) -> Value {
        self.value.clone().unwrap_or(Value::Null)
    }
}

/// The members of all objects in one object. If keys are equal, the later one wins; values that are not objects are
/// ignored.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Merged(Option<Arc<Object>>);

impl Merged {
    pub(super) fn add(&mut self, value: &Value) {
        match value {
            Value::Object(members) => {
                self.members().extend(members.iter().map(|(key, value)| (key.clone(), value.clone())));
            }
            // Only the top level is decoded; nested values stay text.
            Value::Json(text) if text.starts_with('{') => {
                let members = self.members();
                for (key, value) in json::members(text) {
                    members.insert(json::key(key), json::value(value));
                }
            }
            _ => {}
        }
    }

    pub(super) fn merge(&mut self, later: &Merged) {
        if let Some(later) = &later.0 {
            self.members().extend(later.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
    }

    /// Null if there was no object.
    pub(super) fn answer(&self) -> Value {
        self.0.clone().map_or(Value::Null, Value::Object)
    }

    fn members(&mut self) -> &mut Object {
        Arc::make_mut(self.0.get_or_insert_default())
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Last {
    /// whether nulls are skipped
    filled: bool,
    value: Option<Value>,
}

impl Last {
    pub(super) fn new(filled: bool) -> Last {
        Last { filled, value: None }
    }

    pub(super) fn add(&mut self, value: &Value) {
        if !self.filled || !value.is_null() {
            self.value = Some(value.clone());
        }
    }

    pub(super) fn merge(&mut self, later: &Last) {
        if let Some(value) = &later.value {
            self.add(value);
        }
    }

    pub(super) fn answer(&self) -> Value {
        self.value.clone().unwrap_or_default()
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct First {
    /// whether nulls are skipped
    filled: bool,
    value: Option<Value>,
}

impl First {
    pub(super) fn new(filled: bool) -> First {
        First { filled, value: None }
    }

    pub(super) fn add(&mut self, value: &Value) {
        if self.value.is_none() && !(self.filled && value.is_null()) {
            self.value = Some(value.clone());
        }
    }

    pub(super) fn merge(&mut self, later: &First) {
        if let Some(value) = &later.value {
            self.add(value);
        }
    }

    pub(super) fn answer(&self) -> Value {
        self.value.clone().unwrap_or_default()
    }
}

/// The distinct values of an aggregate with DISTINCT, in the order of their first rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Values {
    /// the aggregate, without DISTINCT
    aggregate: Aggregate,
    integral: bool,
    values: IndexMap<KeyPart, Value>,
}

impl Values {
    pub(super) fn new(aggregate: Aggregate, integral: bool) -> Values {
        Values { aggregate, integral, values: IndexMap::new() }
    }

    pub(super) fn check(&self, value: &Value) -> Result<(), EvalError> {
        let takes_numbers = matches!(self.aggregate, Aggregate::Sum | Aggregate::Avg);
        if takes_numbers && !value.is_null() && value.as_f64().is_none() {
            return Err(invalid(self.aggregate, value));
        }
        Ok(())
    }

    pub(super) fn add(&mut self, value: &Value) -> Result<(), EvalError> {
        self.check(value)?;
        let key = KeyPart::of(value);
        if !self.values.contains_key(&key) {
            self.values.insert(key, value.clone());
        }
        Ok(())
    }

    pub(super) fn merge(&mut self, later: &Values) {
        for (key, value) in &later.values {
            if !self.values.contains_key(key) {
                self.values.insert(key.clone(), value.clone());
            }
        }
    }

    pub(super) fn answer(&self) -> Result<Value, EvalError> {
        let mut all = Accumulator::new(self.aggregate, self.integral);
        for value in self.values.values() {
            all.add(Some(value))?;
        }
        all.answer()
    }
}

/// The first row of each value, or the last row if its value is new. Each row is added as an object of `value` and
/// `row`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Distinct {
    /// whether the result has all first rows; otherwise only the last one
    all: bool,
    /// the values in the order of their first rows, with the row if the result needs it
    firsts: IndexMap<KeyPart, Value>,
    /// whether the last row brought a new value
    fresh: bool,
}

impl Distinct {
    /// The key of the value in the objects that are added.
    pub const VALUE: &str = "value";
    /// The key of the row in the objects that are added.
    pub const ROW: &str = "row";

    pub(super) fn new(all: bool) -> Distinct {
        Distinct { all, firsts: IndexMap::new(), fresh: false }
    }

    pub(super) fn add(&mut self, pair: &Value) {
        if let Value::Object(pair) = pair {
            let value = pair.get(Distinct::VALUE).unwrap_or(&Value::Absent);
            let row = pair.get(Distinct::ROW).unwrap_or(&Value::Absent);
            self.fresh = self.first(KeyPart::of(value), row);
        }
    }

    pub(super) fn merge(&mut self, later: &Distinct) {
        for (key, row) in &later.firsts {
            self.fresh = later.fresh & self.first(key.clone(), row);
        }
    }

    /// Null if the value of the last row is not new.
    pub(super) fn answer(&self) -> Value {
        if self.all {
            return Value::array(self.firsts.values().cloned());
        }
        let last = self.firsts.last().filter(|_| self.fresh);
        last.map_or(Value::Null, |(_, row)| row.clone())
    }

    /// Adds the row if its value is new; true if it was.
    fn first(&mut self, key: KeyPart, row: &Value) -> bool {
        if self.firsts.contains_key(&key) {
            return false;
        }
        if !self.all
            && let Some((_, before)) = self.firsts.last_mut()
        {
            *before = Value::Absent;
        }
        self.firsts.insert(key, row.clone());
        true
    }
}
