//! Row numbers and the order of result rows: ORDER BY, LIMIT, row_number().

use std::cmp::Ordering;

use indexmap::IndexMap;

use crate::expr::function::CallContext;
use crate::expr::{Comparison, EvalError, Scope, compare_at};
use crate::plan::physical::{OrderBy, RowNumber};
use crate::value::Value;
use crate::value::key::GroupKey;

use super::row::KeyHasher;

/// The context with a row's own time.
pub fn at<'a>(context: &CallContext<'a>, time: i64) -> CallContext<'a> {
    CallContext { event_time: time, ..context.clone() }
}

/// Writes the numbers of row_number() into `slot`: within each partition, in its order.
pub fn number(
    rows: &mut [(i64, Vec<Value>)],
    number: &RowNumber,
    slot: usize,
    context: &CallContext<'_>,
) -> Result<(), EvalError> {
    let mut partitions: IndexMap<GroupKey, Vec<usize>, KeyHasher> = IndexMap::default();
    for (index, (time, row)) in rows.iter().enumerate() {
        let scope = Scope { slots: row, context: &at(context, *time) };
        let mut key = GroupKey::default();
        for expr in &number.partition {
            key.push(&*expr.eval(&scope)?);
        }
        partitions.entry(key).or_default().push(index);
    }
    for members in partitions.into_values() {
        let places = if number.order.is_empty() {
            (0..members.len() as u32).collect()
        } else {
            let mut all = Vec::with_capacity(members.len() * number.order.len());
            for &index in &members {
                let (time, row) = &rows[index];
                keys(*time, row, &number.order, context, &mut all)?;
            }
            sorted(&all, &number.order, None, context)?
        };
        for (place, member) in places.into_iter().enumerate() {
            rows[members[member as usize]].1[slot] = Value::Int(place as i64 + 1);
        }
    }
    Ok(())
}

/// Sorts rows; equal ones stay as they are. With `wanted`, only so many first ones are left.
pub fn sort(
    rows: &mut Vec<(i64, Vec<Value>)>,
    order: &[OrderBy],
    wanted: Option<usize>,
    context: &CallContext<'_>,
) -> Result<(), EvalError> {
    if order.is_empty() {
        return Ok(());
    }
    let mut all = Vec::with_capacity(rows.len() * order.len());
    for (time, row) in rows.iter() {
        keys(*time, row, order, context, &mut all)?;
    }
    let places = sorted(&all, order, wanted, context)?;
    *rows = places.into_iter().map(|place| std::mem::take(&mut rows[place as usize])).collect();
    Ok(())
}

/// Appends a row's values of the keys.
pub fn keys(
    time: i64,
    row: &[Value],
    order: &[OrderBy],
    context: &CallContext<'_>,
    to: &mut Vec<Value>,
) -> Result<(), EvalError> {
    let scope = Scope { slots: row, context: &at(context, time) };
    for key in order {
        to.push(key.expr.eval(&scope)?.into_owned());
    }
    Ok(())
}

/// The places of rows in order, the `wanted` first ones or all. `all` has the keys, one row after the other.
pub fn sorted(
    all: &[Value],
    order: &[OrderBy],
    wanted: Option<usize>,
    context: &CallContext<'_>,
) -> Result<Vec<u32>, EvalError> {
    let width = order.len();
    let mut failed = None;
    let mut by_keys = |left: &u32, right: &u32| {
        let of = |place: u32| &all[place as usize * width..][..width];
        for (key, (left, right)) in order.iter().zip(of(*left).iter().zip(of(*right))) {
            match compared(left, right, key.descending, context) {
                Ok(Ordering::Equal) => {}
                Ok(ordering) => return ordering,
                // A sort whose comparisons contradict each other may panic, so kinds have an order even then.
                Err(error) => {
                    failed.get_or_insert(error);
                    match place(left).cmp(&place(right)) {
                        Ordering::Equal => {}
                        ordering => return ordering,
                    }
                }
            }
        }
        // Equal rows stay in the order in which they are.
        left.cmp(right)
    };
    let mut places: Vec<u32> = (0..(all.len() / width) as u32).collect();
    // Values that cannot be compared are an error wherever they stand, so then every one is compared.
    match wanted {
        Some(wanted) if wanted < places.len() && comparable(all, width) => {
            places.select_nth_unstable_by(wanted, &mut by_keys);
            places.truncate(wanted);
        }
        _ => {}
    }
    places.sort_unstable_by(&mut by_keys);
    failed.map_or(Ok(places), Err)
}

/// Whether the values of each key are of one kind that has an order, or nothing.
fn comparable(all: &[Value], width: usize) -> bool {
    (0..width).all(|key| {
        let mut kinds = all.iter().skip(key).step_by(width).filter(|value| !value.is_null()).map(place);
        let first = kinds.next();
        first != Some(UNORDERED) && kinds.all(|kind| Some(kind) == first)
    })
}

/// The place of kinds of values that have no order.
const UNORDERED: u8 = 4;

/// The order of kinds of values.
fn place(value: &Value) -> u8 {
    match value {
        Value::Int(_) | Value::Float(_) => 0,
        Value::Text(_) => 1,
        Value::Bool(_) => 2,
        Value::DateTime(_) => 3,
        _ => UNORDERED,
    }
}

fn is_nan(value: &Value) -> bool {
    matches!(value, Value::Float(number) if number.is_nan())
}

/// The order of two values of a key. Nothing comes last in both directions.
fn compared(left: &Value, right: &Value, descending: bool, context: &CallContext<'_>) -> Result<Ordering, EvalError> {
    match (left.is_null(), right.is_null()) {
        (true, true) => return Ok(Ordering::Equal),
        (true, false) => return Ok(Ordering::Greater),
        (false, true) => return Ok(Ordering::Less),
        (false, false) => {}
    }
    let ordering = match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Int(left), Value::Int(right)) => left.cmp(right),
        (Value::Text(left), Value::Text(right)) => left.cmp(right),
        // What is no number stands behind all numbers, and equals itself.
        _ if is_nan(left) || is_nan(right) => is_nan(left).cmp(&is_nan(right)),
        _ if place(left) != place(right) => {
            compare_at(left, Comparison::Less, right, context)?;
            place(left).cmp(&place(right))
        }
        _ if compare_at(left, Comparison::Less, right, context)? => Ordering::Less,
        _ if compare_at(left, Comparison::Equal, right, context)? => Ordering::Equal,
        _ => Ordering::Greater,
    };
    Ok(if descending { ordering.reverse() } else { ordering })
}
