//! Joins of the rows of one window, of tables' rows with them, and lookups.
//!
//! Within a window rows do not change any more, so a join is a hash join over what is there, forgotten with the
//! window. A joined row is the numbers of its parts, until something reads it.

use std::collections::HashMap;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::expr::function::CallContext;
use crate::expr::group::{GroupKey, KeyPart};
use crate::expr::{EvalError, Expr, Scope};
use crate::plan::physical::{Input, Join};
use crate::sql::ast::JoinKind;
use crate::value::Value;

use super::window::{KeptRow, KeyHasher};

/// Where a side has no row.
const NONE: u32 = u32::MAX;

/// The numbers of a joined row's parts, input by input.
type Parts = SmallVec<[u32; 4]>;

/// Takes the slots of a row of a lookup table.
pub type Give<'a> = &'a mut dyn FnMut(Box<[Value]>);

/// Asks a lookup table: the join, the values of its equalities' left sides, and where rows go.
pub type Ask<'a> = &'a dyn Fn(&Join, &[Value], Give<'_>);

/// The rows of a window, joined.
pub struct Joined<'p> {
    inputs: &'p [Input],
    /// the rows of each input
    rows: Vec<Vec<Rc<KeptRow>>>,
    joined: Vec<Parts>,
}

impl<'p> Joined<'p> {
    /// Joins `rows`, which are of all inputs in order of arrival. `wide` is a joined row to work in, all of it absent.
    ///
    /// # Errors
    /// The first of a condition.
    pub fn new(
        inputs: &'p [Input],
        joins: &[Join],
        rows: impl Iterator<Item = Rc<KeptRow>>,
        wide: &mut [Value],
        context: &CallContext<'_>,
        ask: Ask<'_>,
    ) -> Result<Joined<'p>, EvalError> {
        let mut joined = Joined { inputs, rows: vec![Vec::new(); inputs.len()], joined: Vec::new() };
        for row in rows {
            joined.rows[row.input].push(row);
        }
        joined.joined = (0..joined.rows[0].len()).map(|row| Parts::from_slice(&[row as u32])).collect();
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
        parts.find(|(_, row)| **row != NONE).map_or(0, |(input, row)| self.rows[input][*row as usize].time)
    }

    fn fill_parts(&self, parts: &[u32], wide: &mut [Value]) {
        for (input, &row) in parts.iter().enumerate() {
            self.fill_one(input, row, wide);
        }
    }

    fn fill_one(&self, input: usize, row: u32, wide: &mut [Value]) {
        let slots = &mut wide[self.inputs[input].slots.clone()];
        match self.rows[input].get(row as usize) {
            Some(row) => slots.clone_from_slice(&row.slots),
            None => slots.fill(Value::Absent),
        }
    }

    fn join(&mut self, join: &Join, wide: &mut [Value], context: &CallContext<'_>) -> Result<(), EvalError> {
        let right_rows = self.rows[join.input].len() as u32;
        let by_key = if join.equal.is_empty() { None } else { Some(self.index(join, wide, context)?) };
        let mut matches: Vec<(u32, u32)> = Vec::new();
        let all: Vec<u32> = if by_key.is_none() { (0..right_rows).collect() } else { Vec::new() };
        wide.fill(Value::Absent);
        for left in 0..self.joined.len() {
            self.fill_parts(&self.joined[left], wide);
            let candidates: &[u32] = match &by_key {
                None => &all,
                Some(index) => {
                    let key = key(join.equal.iter().map(|(left, _)| left), wide, context)?;
                    key.and_then(|key| index.get(&key)).map_or(&[], Vec::as_slice)
                }
            };
            for &right in candidates {
                if let Some(rest) = &join.rest {
                    self.fill_one(join.input, right, wide);
                    if !rest.test(&Scope { slots: wide, context })? {
                        continue;
                    }
                }
                matches.push((left as u32, right));
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
    fn index(
        &self,
        join: &Join,
        wide: &mut [Value],
        context: &CallContext<'_>,
    ) -> Result<HashMap<GroupKey, Vec<u32>, KeyHasher>, EvalError> {
        let mut index: HashMap<GroupKey, Vec<u32>, KeyHasher> = HashMap::default();
        wide.fill(Value::Absent);
        for row in 0..self.rows[join.input].len() as u32 {
            self.fill_one(join.input, row, wide);
            if let Some(key) = key(join.equal.iter().map(|(_, right)| right), wide, context)? {
                index.entry(key).or_default().push(row);
            }
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
            let first = self.rows[join.input].len() as u32;
            let rows = &mut self.rows[join.input];
            ask(join, &values, &mut |slots| rows.push(Rc::new(KeptRow { time: 0, input: join.input, slots })));
            for right in first..self.rows[join.input].len() as u32 {
                if let Some(rest) = &join.rest {
                    self.fill_one(join.input, right, wide);
                    if !rest.test(&Scope { slots: wide, context })? {
                        continue;
                    }
                }
                matches.push((left as u32, right));
            }
        }
        wide.fill(Value::Absent);
        let found = self.rows[join.input].len() as u32;
        self.joined = self.outer(join.kind, join.input, &matches, found);
        Ok(())
    }
}

/// The key of these expressions; none if one of them is null, which equals nothing.
fn key<'e>(
    exprs: impl Iterator<Item = &'e Expr>,
    wide: &[Value],
    context: &CallContext<'_>,
) -> Result<Option<GroupKey>, EvalError> {
    let scope = Scope { slots: wide, context };
    let mut key = GroupKey::default();
    for expr in exprs {
        key.push(&*expr.eval(&scope)?);
    }
    Ok((!key.parts().contains(&KeyPart::Nothing)).then_some(key))
}
