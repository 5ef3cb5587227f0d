//! The order of result rows: ORDER BY, LIMIT, row_number().
//!
//! With a limit only the first rows are kept, so a thousand of a million rows need the memory of a few thousand. An
//! error loses the row with the wrong key: one that cannot be computed, or one that cannot be compared with those of
//! most other rows.

use std::cmp::Ordering;

use indexmap::IndexMap;

use crate::expr::function::CallContext;
use crate::expr::{Comparison, EvalError, Scope, compare_at};
use crate::plan::physical::{OrderBy, RowNumber};
use crate::value::Value;
use crate::value::key::GroupKey;

use super::row::KeyHasher;

/// Receives the errors of lost rows.
pub type Lost<'a> = &'a mut dyn FnMut(EvalError);

/// A result row with its time.
pub type ResultRow = (i64, Vec<Value>);

/// Rows beyond the limit that are kept before cutting, so that cutting is rare.
const SLACK: usize = 1024;

/// The context with a row's own time.
pub fn at<'a>(context: &CallContext<'a>, time: i64) -> CallContext<'a> {
    CallContext { event_time: time, ..context.clone() }
}

/// Items to be sorted by the keys of their rows.
#[derive(Debug)]
pub struct Sorter<T> {
    things: Vec<T>,
    /// The keys, row by row.
    keys: Vec<Value>,
    /// The number of wanted items.
    wanted: Option<usize>,
}

impl<T> Sorter<T> {
    /// With `wanted`, only this many of the first items are returned.
    pub fn new(wanted: Option<usize>) -> Sorter<T> {
        Sorter { things: Vec::new(), keys: Vec::new(), wanted }
    }

    /// Adds the item for this row.
    ///
    /// # Errors
    /// A key cannot be computed; then the item is not added.
    pub fn push(
        &mut self,
        thing: T,
        time: i64,
        row: &[Value],
        order: &[OrderBy],
        context: &CallContext<'_>,
    ) -> Result<(), EvalError> {
        self.push_keys(time, row, order, context)?;
        self.keep(thing, order, context);
        Ok(())
    }

    fn push_keys(
        &mut self,
        time: i64,
        row: &[Value],
        order: &[OrderBy],
        context: &CallContext<'_>,
    ) -> Result<(), EvalError> {
        let scope = Scope { slots: row, context: &at(context, time) };
        let before = self.keys.len();
        for key in order {
            match key.expr.eval(&scope) {
                Ok(value) => self.keys.push(value.into_owned()),
                Err(error) => {
                    self.keys.truncate(before);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Adds an item whose keys were added.
    fn keep(&mut self, thing: T, order: &[OrderBy], context: &CallContext<'_>) {
        self.things.push(thing);
        if let Some(wanted) = self.wanted
            && self.things.len() >= wanted.saturating_mul(2).saturating_add(SLACK)
            && comparable(&self.keys, order.len())
        {
            self.cut(wanted, order, context);
        }
    }

    /// Keeps only the first items, in the order of their arrival.
    fn cut(&mut self, wanted: usize, order: &[OrderBy], context: &CallContext<'_>) {
        let mut places = sorted(&self.keys, order, Some(wanted), context);
        places.sort_unstable();
        let width = order.len();
        let mut kept = places.into_iter().map(|place| place as usize).peekable();
        let (mut number, mut to) = (0, 0);
        self.things.retain(|_| {
            let stays = kept.next_if_eq(&number).is_some();
            if stays {
                for key in 0..width {
                    self.keys.swap(to * width + key, number * width + key);
                }
                to += 1;
            }
            number += 1;
            stays
        });
        self.keys.truncate(to * width);
    }

    /// The items in order; equal ones in the order of their arrival. Items whose keys cannot be compared with the
    /// others' are reported as `lost`.
    pub fn finish(mut self, order: &[OrderBy], context: &CallContext<'_>, lost: Lost<'_>) -> Vec<T> {
        if order.is_empty() {
            return self.things;
        }
        let strangers = strangers(&self.keys, order.len(), context, lost);
        if !strangers.is_empty() {
            let (mut number, width) = (0, order.len());
            self.things.retain(|_| {
                number += 1;
                !strangers[number - 1]
            });
            let mut key = 0;
            self.keys.retain(|_| {
                key += 1;
                !strangers[(key - 1) / width]
            });
        }
        let places = sorted(&self.keys, order, self.wanted, context);
        let mut things: Vec<Option<T>> = self.things.into_iter().map(Some).collect();
        places.into_iter().filter_map(|place| things[place as usize].take()).collect()
    }
}

impl Sorter<ResultRow> {
    /// Adds a result row.
    ///
    /// # Errors
    /// A key cannot be computed; then the row is not added.
    pub fn push_row(
        &mut self,
        time: i64,
        row: Vec<Value>,
        order: &[OrderBy],
        context: &CallContext<'_>,
    ) -> Result<(), EvalError> {
        self.push_keys(time, &row, order, context)?;
        self.keep((time, row), order, context);
        Ok(())
    }
}

/// Writes row_number() into `slot`, within each partition and in its order. Rows whose keys have errors are lost.
pub fn number(rows: &mut Vec<ResultRow>, number: &RowNumber, slot: usize, context: &CallContext<'_>, lost: Lost<'_>) {
    let mut partitions: IndexMap<GroupKey, Sorter<usize>, KeyHasher> = IndexMap::default();
    for (index, (time, row)) in rows.iter().enumerate() {
        let scope = Scope { slots: row, context: &at(context, *time) };
        let mut key = GroupKey::default();
        let found = number.partition.iter().try_for_each(|expr| expr.eval(&scope).map(|value| key.push(&value)));
        let entered = found.and_then(|()| {
            let partition = partitions.entry(key).or_insert_with(|| Sorter::new(None));
            partition.push(index, *time, row, &number.order, context)
        });
        if let Err(error) = entered {
            lost(error);
        }
    }
    let mut numbered = vec![false; rows.len()];
    for partition in partitions.into_values() {
        for (place, member) in partition.finish(&number.order, context, lost).into_iter().enumerate() {
            rows[member].1[slot] = Value::Int(place as i64 + 1);
            numbered[member] = true;
        }
    }
    let mut index = 0;
    rows.retain(|_| {
        index += 1;
        numbered[index - 1]
    });
}

/// The indexes of the rows in order, the first `wanted` or all. `keys` has the keys, row by row.
fn sorted(keys: &[Value], order: &[OrderBy], wanted: Option<usize>, context: &CallContext<'_>) -> Vec<u32> {
    let width = order.len();
    let mut by_keys = |left: &u32, right: &u32| {
        let of = |place: u32| &keys[place as usize * width..][..width];
        for (key, (left, right)) in order.iter().zip(of(*left).iter().zip(of(*right))) {
            match compared(left, right, key.descending, context) {
                Ordering::Equal => {}
                ordering => return ordering,
            }
        }
        // Equal rows stay in their order.
        left.cmp(right)
    };
    let mut places: Vec<u32> = (0..(keys.len() / width.max(1)) as u32).collect();
    if let Some(wanted) = wanted.filter(|wanted| *wanted < places.len()) {
        if wanted > 0 {
            places.select_nth_unstable_by(wanted, &mut by_keys);
        }
        places.truncate(wanted);
    }
    places.sort_unstable_by(&mut by_keys);
    places
}

/// Whether the values of each key are of one kind that has an order, or nothing.
fn comparable(keys: &[Value], width: usize) -> bool {
    (0..width).all(|key| {
        let mut kinds = keys.iter().skip(key).step_by(width).filter(|value| !value.is_null()).map(place);
        let first = kinds.next();
        first != Some(UNORDERED) && kinds.all(|kind| Some(kind) == first)
    })
}

/// Marks rows with a key that cannot be compared with those of most rows, and reports each; empty if there are none.
fn strangers(keys: &[Value], width: usize, context: &CallContext<'_>, lost: Lost<'_>) -> Vec<bool> {
    if comparable(keys, width) {
        return Vec::new();
    }
    let mut strangers = vec![false; keys.len() / width];
    for key in 0..width {
        let column = || keys.iter().skip(key).step_by(width).enumerate().filter(|(_, value)| !value.is_null());
        let mut counts = [0; UNORDERED as usize + 1];
        column().for_each(|(_, value)| counts[place(value) as usize] += 1);
        // Values without an order decide only if there are no others.
        let ordered = &counts[..UNORDERED as usize];
        let most = ordered.iter().max().filter(|most| **most > 0);
        let kind = most.and_then(|most| {
            let kinds = column().map(|(_, value)| place(value));
            kinds.filter(|kind| *kind != UNORDERED).find(|kind| counts[*kind as usize] == *most)
        });
        let measure = column().find(|(_, value)| kind.is_none_or(|kind| place(value) == kind));
        let Some((first, measure)) = measure else { continue };
        for (row, value) in column() {
            if row == first || strangers[row] || (place(value) == place(measure) && place(value) != UNORDERED) {
                continue;
            }
            if let Err(error) = compare_at(value, Comparison::Less, measure, context) {
                strangers[row] = true;
                lost(error);
            }
        }
    }
    strangers
}

/// The rank of kinds of values without an order.
const UNORDERED: u8 = 4;

fn place(value: &Value) -> u8 {
    match value {
        Value::Int(_) | Value::Unsigned(_) | Value::Float(_) => 0,
        Value::Text(_) => 1,
        Value::Bool(_) => 2,
        Value::DateTime(_) => 3,
        _ => UNORDERED,
    }
}

fn is_nan(value: &Value) -> bool {
    matches!(value, Value::Float(number) if number.is_nan())
}

/// The order of two values of a key. Null comes last in both directions. Contradictory comparisons could make a sort
/// panic, so kinds have an order too, and values that cannot be compared are equal.
fn compared(left: &Value, right: &Value, descending: bool, context: &CallContext<'_>) -> Ordering {
    match (left.is_null(), right.is_null()) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let holds = |op| compare_at(left, op, right, context).unwrap_or(false);
    let ordering = match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Int(left), Value::Int(right)) => left.cmp(right),
        (Value::Text(left), Value::Text(right)) => left.cmp(right),
        // NaN follows all numbers, and equals itself.
        _ if is_nan(left) || is_nan(right) => is_nan(left).cmp(&is_nan(right)),
        _ if place(left) != place(right) => place(left).cmp(&place(right)),
        _ if place(left) == UNORDERED => Ordering::Equal,
        _ if holds(Comparison::Less) => Ordering::Less,
        _ if holds(Comparison::Equal) => Ordering::Equal,
        _ => Ordering::Greater,
    };
    if descending { ordering.reverse() } else { ordering }
}
