//! Joins of the rows of one window, of tables' rows with them, and lookups.
//!
//! Within a window rows do not change any more, so a join is a hash join over what is there, forgotten with the
//! window. A joined row is the numbers of its parts, until something reads it. The rows of a scan table outlive the
//! window, and so does their index.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use smallvec::SmallVec;

use crate::expr::function::CallContext;
use crate::expr::{Comparison, EvalError, Expr, Scope, compare_at};
use crate::plan::physical::{Input, Join};
use crate::value::Value;
use crate::value::key::{GroupKey, KeyPart};
use crate::value::operator::JoinKind;

use super::row::{KeptRow, KeyHasher};
use super::state::checkpoint::{CheckpointError, Reader, StateParts};

/// Where a side has no row.
const NONE: u32 = u32::MAX;

/// The numbers of a joined row's parts, input by input.
type Parts = SmallVec<[u32; 4]>;

/// Takes the slots of a row of a lookup table.
pub type Give<'a> = &'a mut dyn FnMut(Box<[Value]>);

/// Asks a lookup table: the join, the values of its equalities' left sides, and where rows go.
pub type Ask<'a> = &'a dyn Fn(&Join, &[Value], Give<'_>);

/// The last rows of a scan table, by what its join compares.
pub struct ScanTable {
    rows: VecDeque<Rc<KeptRow>>,
    retain: Option<usize>,
    /// `None`: the join compares more than columns of the table, so that only a joined row knows the key
    index: Option<Index>,
    /// the slots that make the key, counted from the first of the table
    key_slots: SmallVec<[usize; 2]>,
}

/// The rows of one input.
enum Side<'t> {
    /// of the window
    Rows(Vec<Rc<KeptRow>>),
    /// of a scan table
    Table(&'t ScanTable),
}

/// The rows of a window, joined.
pub struct Joined<'p> {
    inputs: &'p [Input],
    /// the rows of each input
    rows: Vec<Side<'p>>,
    /// the slots of each input where it has no row
    missing: Vec<Box<[Value]>>,
    joined: Vec<Parts>,
}

impl<'p> Joined<'p> {
    /// Joins `rows`, which are of all inputs in order of arrival, and the rows of scan tables, by input. `wide` is a joined
    /// row to work in, all of it absent.
    ///
    /// # Errors
    /// The first of a condition.
    pub fn new(
        inputs: &'p [Input],
        joins: &[Join],
        rows: impl Iterator<Item = Rc<KeptRow>>,
        tables: &'p HashMap<usize, ScanTable>,
        wide: &mut [Value],
        context: &CallContext<'_>,
        ask: Ask<'_>,
    ) -> Result<Joined<'p>, EvalError> {
        let missing = inputs.iter().map(|input| missing(input, context)).collect();
        let side = |input| tables.get(&input).map_or_else(|| Side::Rows(Vec::new()), Side::Table);
        let mut joined = Joined { inputs, rows: (0..inputs.len()).map(side).collect(), missing, joined: Vec::new() };
        for row in rows {
            joined.rows[row.input].push(row);
        }
        joined.joined = (0..joined.rows[0].len()).map(|row| Parts::from_slice(&[row])).collect();
        for join in joins {
            if joined.inputs[join.input].role == crate::plan::physical::Role::Lookup {
                joined.look_up(join, wide, context, ask)?;
            } else {
                joined.join(join, wide, context)?;
            }
        }
        Ok(joined)
    }

    /// How many joined rows there are.
    pub fn len(&self) -> usize {
        self.joined.len()
    }

    /// Puts a joined row into the slots of its inputs, and gives the time of its first part.
    pub fn fill(&self, number: usize, wide: &mut [Value]) -> i64 {
        self.fill_parts(&self.joined[number], wide);
        let mut parts = self.joined[number].iter().enumerate();
        parts.find_map(|(input, row)| self.rows[input].row(*row)).map_or(0, |row| row.time)
    }

    fn fill_parts(&self, parts: &[u32], wide: &mut [Value]) {
        for (input, &row) in parts.iter().enumerate() {
            self.fill_one(input, row, wide);
        }
    }

    fn fill_one(&self, input: usize, row: u32, wide: &mut [Value]) {
        let slots = &mut wide[self.inputs[input].slots.clone()];
        match self.rows[input].row(row) {
            Some(row) => slots.clone_from_slice(&row.slots),
            None => slots.clone_from_slice(&self.missing[input]),
        }
    }

    fn join(&mut self, join: &Join, wide: &mut [Value], context: &CallContext<'_>) -> Result<(), EvalError> {
        let right_rows = self.rows[join.input].len();
        let made;
        let index = match &self.rows[join.input] {
            _ if join.equal.is_empty() => None,
            Side::Table(ScanTable { index: Some(index), .. }) => Some(index),
            _ => {
                made = self.index(join, wide, context)?;
                Some(&made)
            }
        };
        let mut matches: Vec<(u32, u32)> = Vec::new();
        wide.fill(Value::Absent);
        for left in 0..self.joined.len() {
            self.fill_parts(&self.joined[left], wide);
            let key = key(join.equal.iter().map(|(left, _)| left), wide, context)?;
            let found = index.and_then(|index| index.candidates(&key));
            let each = found.is_none();
            let all = if each { 0..right_rows } else { 0..0 };
            for right in found.into_iter().flatten().chain(all) {
                if !each && join.rest.is_none() {
                    matches.push((left as u32, right));
                    continue;
                }
                self.fill_one(join.input, right, wide);
                if (!each || equal(join, wide, context)?) && rest(join, wide, context)? {
                    matches.push((left as u32, right));
                }
            }
        }
        wide.fill(Value::Absent);
        self.joined = self.outer(join.kind, join.input, &matches, right_rows);
        Ok(())
    }

    /// The joined rows from the pairs that match, in the order of the side that stays.
    fn outer(&self, kind: JoinKind, input: usize, matches: &[(u32, u32)], right_rows: u32) -> Vec<Parts> {
        let pair = |left: u32, right: u32| {
            let mut parts = match self.joined.get(left as usize) {
                Some(parts) => parts.clone(),
                None => smallvec::smallvec![NONE; input],
            };
            parts.push(right);
            parts
        };
        let mut result = Vec::with_capacity(matches.len());
        if kind == JoinKind::Right {
            let mut by_right: Vec<(u32, u32)> = matches.iter().map(|(left, right)| (*right, *left)).collect();
            by_right.sort_unstable();
            let mut next = by_right.into_iter().peekable();
            for right in 0..right_rows {
                let before = result.len();
                while let Some((_, left)) = next.next_if(|(of, _)| *of == right) {
                    result.push(pair(left, right));
                }
                if result.len() == before {
                    result.push(pair(NONE, right));
                }
            }
            return result;
        }
        let keeps_left = matches!(kind, JoinKind::Left | JoinKind::Full);
        let mut next = matches.iter().peekable();
        for left in 0..self.joined.len() as u32 {
            let before = result.len();
            while let Some((_, right)) = next.next_if(|(of, _)| *of == left) {
                result.push(pair(left, *right));
            }
            if keeps_left && result.len() == before {
                result.push(pair(left, NONE));
            }
        }
        if kind == JoinKind::Full {
            let mut matched = vec![false; right_rows as usize];
            matches.iter().for_each(|(_, right)| matched[*right as usize] = true);
            result.extend((0..right_rows).filter(|right| !matched[*right as usize]).map(|right| pair(NONE, right)));
        }
        result
    }

    /// The rows of the right side by their keys. Rows without a key match nothing.
    fn index(&self, join: &Join, wide: &mut [Value], context: &CallContext<'_>) -> Result<Index, EvalError> {
        let mut index = Index::new(join.equal.len());
        wide.fill(Value::Absent);
        for row in 0..self.rows[join.input].len() {
            self.fill_one(join.input, row, wide);
            index.add(key(join.equal.iter().map(|(_, right)| right), wide, context)?);
        }
        Ok(index)
    }

    fn look_up(
        &mut self,
        join: &Join,
        wide: &mut [Value],
        context: &CallContext<'_>,
        ask: Ask<'_>,
    ) -> Result<(), EvalError> {
        let mut matches = Vec::new();
        wide.fill(Value::Absent);
        for left in 0..self.joined.len() {
            self.fill_parts(&self.joined[left], wide);
            let mut values = Vec::with_capacity(join.equal.len());
            for (left, _) in &join.equal {
                values.push(left.eval(&Scope { slots: wide, context })?.into_owned());
            }
            let first = self.rows[join.input].len();
            let rows = &mut self.rows[join.input];
            ask(join, &values, &mut |slots| rows.push(Rc::new(KeptRow { time: 0, input: join.input, slots })));
            for right in first..self.rows[join.input].len() {
                self.fill_one(join.input, right, wide);
                if rest(join, wide, context)? {
                    matches.push((left as u32, right));
                }
            }
        }
        wide.fill(Value::Absent);
        let found = self.rows[join.input].len();
        self.joined = self.outer(join.kind, join.input, &matches, found);
        Ok(())
    }
}

impl Side<'_> {
    fn len(&self) -> u32 {
        let len = match self {
            Side::Rows(rows) => rows.len(),
            Side::Table(table) => table.rows.len(),
        };
        len as u32
    }

    fn row(&self, number: u32) -> Option<&KeptRow> {
        let row = match self {
            Side::Rows(rows) => rows.get(number as usize),
            Side::Table(table) => table.rows.get(number as usize),
        };
        row.map(Rc::as_ref)
    }

    /// Adds a row of the window. Rows of a table come to the table.
    fn push(&mut self, row: Rc<KeptRow>) {
        if let Side::Rows(rows) = self {
            rows.push(row);
        }
    }
}

impl ScanTable {
    /// A table of no rows yet, the right side of `join` if there is one. `retain`: so many rows are kept at most.
    pub fn new(input: &Input, join: Option<&Join>, retain: Option<usize>) -> ScanTable {
        let slot = |(_, right): &(Expr, Expr)| match right {
            Expr::Slot(slot) if input.slots.contains(slot) => Some(slot - input.slots.start),
            _ => None,
        };
        let key_slots: Option<SmallVec<_>> = join.and_then(|join| join.equal.iter().map(slot).collect());
        let index = key_slots.as_ref().map(|slots| Index::new(slots.len()));
        ScanTable { rows: VecDeque::new(), retain, index, key_slots: key_slots.unwrap_or_default() }
    }

    /// Adds the rows to a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        to.put(&self.rows)
    }

    /// Goes on with the rows of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`]
    pub fn restore(&mut self, from: &mut Reader<'_>) -> Result<(), CheckpointError> {
        let rows: Vec<KeptRow> = from.take()?;
        rows.into_iter().for_each(|row| self.push(row));
        Ok(())
    }

    /// Adds a row, and forgets the oldest beyond what is kept.
    pub fn push(&mut self, row: KeptRow) {
        if let Some(index) = &mut self.index {
            index.add(GroupKey::from_values(self.key_slots.iter().map(|&slot| &row.slots[slot])));
        }
        self.rows.push_back(Rc::new(row));
        while self.retain.is_some_and(|retain| self.rows.len() > retain) {
            let Some(row) = self.rows.pop_front() else { break };
            if let Some(index) = &mut self.index {
                index.remove_first(&GroupKey::from_values(self.key_slots.iter().map(|&slot| &row.slots[slot])));
            }
        }
    }
}

/// The rows of a join's right side by what its equalities compare.
struct Index {
    /// their numbers, in order, counted from the first row that there ever was
    rows: HashMap<GroupKey, VecDeque<u32>, KeyHasher>,
    /// how many values of each kind each equality has on the right side
    kinds: SmallVec<[[u32; KINDS]; 2]>,
    /// the number of the first row that is there
    first: u32,
    /// the number of the next row
    next: u32,
}

impl Index {
    fn new(width: usize) -> Index {
        Index { rows: HashMap::default(), kinds: smallvec::smallvec![[0; KINDS]; width], first: 0, next: 0 }
    }

    /// Adds the next row. One without a key matches nothing.
    fn add(&mut self, key: GroupKey) {
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        for (kinds, part) in self.kinds.iter_mut().zip(key.parts()) {
            kind(part).into_iter().for_each(|kind| kinds[kind] += 1);
        }
        if !key.parts().contains(&KeyPart::Nothing) {
            self.rows.entry(key).or_default().push_back(number);
        }
    }

    /// Removes the first row, which had this key.
    fn remove_first(&mut self, key: &GroupKey) {
        self.first = self.first.wrapping_add(1);
        for (kinds, part) in self.kinds.iter_mut().zip(key.parts()) {
            kind(part).into_iter().for_each(|kind| kinds[kind] -= 1);
        }
        if let Some(numbers) = self.rows.get_mut(key) {
            numbers.pop_front();
            if numbers.is_empty() {
                self.rows.remove(key);
            }
        }
    }

    /// The places of the rows with this key; `None` where values of other kinds are on the right side, which a key
    /// cannot compare.
    fn candidates(&self, key: &GroupKey) -> Option<impl Iterator<Item = u32>> {
        let foreign = |(part, kinds): (&KeyPart, &[u32; KINDS])| {
            let kind = kind(part);
            let others = kinds.iter().enumerate().any(|(other, count)| *count > 0 && Some(other) != kind);
            kind.is_some() && (others || kind == Some(NESTED) && kinds[NESTED] > 0)
        };
        if key.parts().iter().zip(&self.kinds).any(foreign) {
            return None;
        }
        Some(self.rows.get(key).into_iter().flatten().map(|number| number.wrapping_sub(self.first)))
    }
}

/// How many kinds of values there are to compare.
const KINDS: usize = 5;

/// Kinds of which values are never compared, but with an error.
const NESTED: usize = 4;

/// The kind of a value; `None` for what equals nothing. Values of one kind compare without an error.
fn kind(part: &KeyPart) -> Option<usize> {
    match part {
        KeyPart::Nothing => None,
        KeyPart::Bool(_) => Some(0),
        KeyPart::Int(_) | KeyPart::Float(_) => Some(1),
        KeyPart::Text(_) => Some(2),
        KeyPart::DateTime(_) => Some(3),
        KeyPart::Array(_) | KeyPart::Object(_) | KeyPart::Bytes(_) => Some(NESTED),
    }
}

/// The key of these expressions.
fn key<'e>(
    exprs: impl Iterator<Item = &'e Expr>,
    wide: &[Value],
    context: &CallContext<'_>,
) -> Result<GroupKey, EvalError> {
    let scope = Scope { slots: wide, context };
    let mut key = GroupKey::default();
    for expr in exprs {
        key.push(&*expr.eval(&scope)?);
    }
    Ok(key)
}

/// Whether the equalities hold, one after the other.
fn equal(join: &Join, wide: &[Value], context: &CallContext<'_>) -> Result<bool, EvalError> {
    let scope = Scope { slots: wide, context };
    for (left, right) in &join.equal {
        if !compare_at(&*left.eval(&scope)?, Comparison::Equal, &*right.eval(&scope)?, context)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether what else ON says holds.
fn rest(join: &Join, wide: &mut [Value], context: &CallContext<'_>) -> Result<bool, EvalError> {
    let Some(rest) = &join.rest else { return Ok(true) };
    for (slot, value) in &join.computed {
        wide[*slot] = value.eval(&Scope { slots: wide, context })?.into_owned();
    }
    rest.test(&Scope { slots: wide, context })
}

/// The slots of an input without a row: aliases such as `isNull(r.id) AS lonely` have a value even then. An error
/// would be one of a row that may never be needed, so it is no value.
fn missing(input: &Input, context: &CallContext<'_>) -> Box<[Value]> {
    let mut slots = vec![Value::Absent; input.slots.len()];
    for (index, value) in input.scan.computed.iter().enumerate() {
        let value = value.eval(&Scope { slots: &slots, context }).map_or(Value::Absent, |value| value.into_owned());
        slots[input.scan.columns.len() + index] = value;
    }
    slots.into()
}
