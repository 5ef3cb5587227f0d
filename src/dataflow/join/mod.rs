//! Joins of a window's rows with each other and with the rows of tables, and lookups.
//!
//! The rows of a closed window do not change, so a join is a hash join that is dropped with the window. Joined rows are
//! made one at a time and never stored: a join of two streams with 10,000 rows each may have 100 million. Until
//! something reads it, a joined row is the numbers of its parts. The rows of a scan table outlive the window, and so
//! does their index.
//!
//! Values of different types do not match, and neither does a pair for which a condition has an error; the error is
//! reported once for each row of the left side.

mod index;
mod table;

use std::collections::HashMap;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::expr::function::CallContext;
use crate::expr::{Comparison, EvalError, Expr, Scope, compare_at};
use crate::plan::physical::{Input, Join, Role};
use crate::value::Value;
use crate::value::key::GroupKey;
use crate::value::operator::JoinKind;

use self::index::Index;
use super::row::KeptRow;
use super::sort::Lost;

pub use self::table::ScanTable;

/// A side without a row.
const NONE: u32 = u32::MAX;

/// The row numbers of a joined row, input by input.
pub type Parts = SmallVec<[u32; 4]>;

/// Receives a joined row: its time, its row numbers, and the slots of all inputs.
pub type Made<'a> = &'a mut dyn FnMut(i64, &Parts, &mut [Value]);

/// Receives the slots of a row of a lookup table.
pub type Give<'a> = &'a mut dyn FnMut(Box<[Value]>);

/// Queries a lookup table: the join, the values of the left sides of its equalities, and the receiver of rows.
pub type Ask<'a> = &'a dyn Fn(&Join, &[Value], Give<'_>);

/// The rows of one input.
enum Side {
    /// Rows of the window.
    Rows(Vec<Rc<KeptRow>>),
    /// Rows of the input's scan table.
    Table,
}

/// What joins need besides the rows of the window.
#[derive(Clone, Copy)]
pub struct Others<'a> {
    pub inputs: &'a [Input],
    /// The joins, left to right.
    pub joins: &'a [Join],
    /// By input.
    pub tables: &'a HashMap<usize, ScanTable>,
    /// Queries lookup tables.
    pub ask: Ask<'a>,
}

/// The joins of a window's rows.
///
/// The joins before the last RIGHT or FULL one are made at once, because that one needs its complete left side. The
/// rest is driven row by row: by the rows of the left side, or of both sides ([`Joined::next`]).
pub struct Joined {
    /// The rows of each input.
    rows: Vec<Side>,
    /// The slots of each input without a row.
    missing: Vec<Box<[Value]>>,
    /// The index of each join's right side; `None` without equalities, or if a table has its own.
    indexes: Vec<Option<Index>>,
    /// The rows that drive the driving join.
    left: Vec<Parts>,
    /// The driving join: the first one that is not made yet.
    driver: usize,
    /// For RIGHT: `left` by the join's key.
    left_index: Option<Index>,
    /// For FULL: which rows of the right side have matched.
    matched: Vec<bool>,
    /// The number of rows that have driven it.
    driven: usize,
}

impl Joined {
    /// Starts to join `rows`, which belong to all inputs in order of arrival, with each other and with scan tables.
    /// `wide` is scratch space for a joined row.
    pub fn new(
        rows: impl Iterator<Item = Rc<KeptRow>>,
        others: &Others<'_>,
        wide: &mut [Value],
        context: &CallContext<'_>,
        lost: Lost<'_>,
    ) -> Joined {
        let Others { inputs, joins, tables, .. } = *others;
        let side = |input| if tables.contains_key(&input) { Side::Table } else { Side::Rows(Vec::new()) };
        let mut joined = Joined {
            rows: (0..inputs.len()).map(side).collect(),
            missing: inputs.iter().map(|input| missing(input, context)).collect(),
            indexes: Vec::new(),
            left: Vec::new(),
            driver: 0,
            left_index: None,
            matched: Vec::new(),
            driven: 0,
        };
        for row in rows {
            // Rows of a table were added to the table already.
            if let Side::Rows(rows) = &mut joined.rows[row.input] {
                rows.push(row);
            }
        }
        for join in joins {
            let index = joined.index(join, others, wide, context, lost);
            joined.indexes.push(index);
        }
        joined.left = (0..joined.len(0, others)).map(|row| Parts::from_slice(&[row])).collect();
        let outer = |join: &Join| matches!(join.kind, JoinKind::Right | JoinKind::Full);
        let last = joins.iter().rposition(outer).unwrap_or(0);
        while joined.driver < last {
            // Up to the next join that needs its complete left side.
            let until = joins.iter().skip(joined.driver + 1).position(outer).map_or(last, |at| joined.driver + 1 + at);
            joined.begin(others, wide, context, lost);
            let mut made = Vec::new();
            while joined.drive(until, others, wide, context, lost, &mut |_, parts, _| made.push(parts.clone())) {}
            joined.left = made;
            joined.driver = until;
        }
        joined.begin(others, wide, context, lost);
        joined
    }

    /// Makes the joined rows of the next driving row; false: there are no more.
    pub fn next(
        &mut self,
        others: &Others<'_>,
        wide: &mut [Value],
        context: &CallContext<'_>,
        lost: Lost<'_>,
        give: Made<'_>,
    ) -> bool {
        self.drive(others.joins.len(), others, wide, context, lost, give)
    }

    /// The time of a joined row: that of its first part.
    pub fn time(&self, parts: &Parts, others: &Others<'_>) -> i64 {
        let mut parts = parts.iter().enumerate();
        parts.find_map(|(input, row)| self.row(input, *row, others)).map_or(0, |row| row.time)
    }

    /// Copies a joined row into the slots of its inputs.
    pub fn fill(&self, parts: &Parts, others: &Others<'_>, wide: &mut [Value]) {
        for (input, &row) in parts.iter().enumerate() {
            self.fill_one(input, row, others, wide);
        }
    }

    fn fill_one(&self, input: usize, row: u32, others: &Others<'_>, wide: &mut [Value]) {
        let slots = &mut wide[others.inputs[input].slots.clone()];
        match self.row(input, row, others) {
            Some(row) => slots.clone_from_slice(&row.slots),
            None => slots.clone_from_slice(&self.missing[input]),
        }
    }

    fn len(&self, input: usize, others: &Others<'_>) -> u32 {
        let len = match &self.rows[input] {
            Side::Rows(rows) => rows.len(),
            Side::Table => others.tables.get(&input).map_or(0, |table| table.rows.len()),
        };
        len as u32
    }

    fn row<'r>(&'r self, input: usize, number: u32, others: &'r Others<'_>) -> Option<&'r KeptRow> {
        let row = match &self.rows[input] {
            Side::Rows(rows) => rows.get(number as usize),
            Side::Table => others.tables.get(&input)?.rows.get(number as usize),
        };
        row.map(Rc::as_ref)
    }

    /// The rows of a join's right side by their keys. Rows without a key match nothing. A RIGHT join has none: it
    /// goes from its right side to an index of its left one.
    fn index(
        &self,
        join: &Join,
        others: &Others<'_>,
        wide: &mut [Value],
        context: &CallContext<'_>,
        lost: Lost<'_>,
    ) -> Option<Index> {
        let own = others.tables.get(&join.input).is_some_and(|table| table.index.is_some());
        if join.kind == JoinKind::Right
            || join.equal.is_empty()
            || own
            || others.inputs[join.input].role == Role::Lookup
        {
            return None;
        }
        let mut index = Index::new(join.equal.len());
        wide.fill(Value::Absent);
        for row in 0..self.len(join.input, others) {
            self.fill_one(join.input, row, others, wide);
            index.add(key(join.equal.iter().map(|(_, right)| right), wide, context, lost));
        }
        Some(index)
    }

    /// Prepares the driving join.
    fn begin(&mut self, others: &Others<'_>, wide: &mut [Value], context: &CallContext<'_>, lost: Lost<'_>) {
        self.driven = 0;
        let Some(join) = others.joins.get(self.driver) else { return };
        let right_rows = self.len(join.input, others) as usize;
        match join.kind {
            JoinKind::Right if join.equal.is_empty() => self.left_index = None,
            JoinKind::Right => {
                let mut index = Index::new(join.equal.len());
                for parts in &self.left {
                    self.fill(parts, others, wide);
                    index.add(key(join.equal.iter().map(|(left, _)| left), wide, context, lost));
                }
                self.left_index = Some(index);
            }
            JoinKind::Full => self.matched = vec![false; right_rows],
            JoinKind::Inner | JoinKind::Left | JoinKind::Cross => {}
        }
    }

    /// Runs the next driving row through the joins before `until`; false: there are no more.
    fn drive(
        &mut self,
        until: usize,
        others: &Others<'_>,
        wide: &mut [Value],
        context: &CallContext<'_>,
        lost: Lost<'_>,
        give: Made<'_>,
    ) -> bool {
        let number = self.driven;
        self.driven += 1;
        let Some(join) = others.joins.get(self.driver) else { return false };
        let missing_left = || smallvec::smallvec![NONE; join.input];
        let after = self.driver + 1;
        match join.kind {
            JoinKind::Right => {
                if number >= self.len(join.input, others) as usize {
                    return false;
                }
                let right = number as u32;
                let lefts = self.left_matches(join, right, others, wide, context, lost);
                if lefts.is_empty() {
                    let mut parts: Parts = missing_left();
                    parts.push(right);
                    self.fill(&parts, others, wide);
                    self.follow(after, until, &mut parts, others, wide, context, lost, give);
                }
                for left in lefts {
                    let mut parts = self.left[left as usize].clone();
                    parts.push(right);
                    self.fill(&parts, others, wide);
                    self.follow(after, until, &mut parts, others, wide, context, lost, give);
                }
                true
            }
            JoinKind::Full if number >= self.left.len() => {
                let right = number - self.left.len();
                let Some(matched) = self.matched.get(right) else { return false };
                if !matched {
                    let mut parts: Parts = missing_left();
                    parts.push(right as u32);
                    self.fill(&parts, others, wide);
                    self.follow(after, until, &mut parts, others, wide, context, lost, give);
                }
                true
            }
            _ => {
                let Some(parts) = self.left.get(number) else { return false };
                let mut parts = parts.clone();
                self.fill(&parts, others, wide);
                self.follow(self.driver, until, &mut parts, others, wide, context, lost, give);
                true
            }
        }
    }

    /// Runs a row, whose slots are filled in, through the joins from number `at`, which need only the row itself.
    #[expect(clippy::too_many_arguments, reason = "what one recursive walk carries along")]
    fn follow(
        &mut self,
        at: usize,
        until: usize,
        parts: &mut Parts,
        others: &Others<'_>,
        wide: &mut [Value],
        context: &CallContext<'_>,
        lost: Lost<'_>,
        give: Made<'_>,
    ) {
        if at == until {
            return give(self.time(parts, others), parts, wide);
        }
        let join = &others.joins[at];
        if others.inputs[join.input].role == Role::Lookup {
            self.look_up(join, others, wide, context, lost);
        }
        // The matches of one join are numbers; the joins after it run for each match before the next.
        let mut matches: SmallVec<[u32; 8]> = SmallVec::new();
        self.matches(at, others, wide, context, lost, &mut |right, _| matches.push(right));
        if join.kind == JoinKind::Full {
            matches.iter().for_each(|right| self.matched[*right as usize] = true);
        }
        if matches.is_empty() && matches!(join.kind, JoinKind::Left | JoinKind::Full) {
            matches.push(NONE);
        }
        for right in matches {
            parts.push(right);
            self.fill_one(join.input, right, others, wide);
            self.follow(at + 1, until, parts, others, wide, context, lost, give);
            parts.pop();
        }
        wide[others.inputs[join.input].slots.clone()].fill(Value::Absent);
    }

    /// Passes the rows of a join's right side that match the row in `wide` to `give`.
    fn matches(
        &self,
        at: usize,
        others: &Others<'_>,
        wide: &mut [Value],
        context: &CallContext<'_>,
        lost: Lost<'_>,
        give: &mut dyn FnMut(u32, &mut [Value]),
    ) {
        let join = &others.joins[at];
        let right_rows = self.len(join.input, others);
        let lookup = others.inputs[join.input].role == Role::Lookup;
        let index = match &self.indexes[at] {
            _ if join.equal.is_empty() || lookup => None,
            Some(index) => Some(index),
            None => others.tables.get(&join.input).and_then(|table| table.index.as_ref()),
        };
        let (mut found, mut each) = (None, true);
        if let Some(index) = index {
            let key = key(join.equal.iter().map(|(left, _)| left), wide, context, lost);
            each = index.crosses_kinds(&key);
            found = (!each).then(|| index.candidates(&key)).flatten();
        }
        let all = if each { 0..right_rows } else { 0..0 };
        let mut failed = None;
        for right in found.into_iter().flatten().chain(all) {
            if !each && join.rest.is_none() {
                give(right, wide);
                continue;
            }
            self.fill_one(join.input, right, others, wide);
            if each && !lookup && !equal(join, wide, context) {
                continue;
            }
            match rest(join, wide, context) {
                Ok(true) => give(right, wide),
                Ok(false) => {}
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failed {
            lost(error);
        }
        wide[others.inputs[join.input].slots.clone()].fill(Value::Absent);
    }

    /// The rows of the left side of a RIGHT join that match a row of its right side.
    fn left_matches(
        &self,
        join: &Join,
        right: u32,
        others: &Others<'_>,
        wide: &mut [Value],
        context: &CallContext<'_>,
        lost: Lost<'_>,
    ) -> Vec<u32> {
        self.fill_one(join.input, right, others, wide);
        let (mut found, mut each) = (None, true);
        if let Some(index) = &self.left_index {
            let key = key(join.equal.iter().map(|(_, right)| right), wide, context, lost);
            each = index.crosses_kinds(&key);
            found = (!each).then(|| index.candidates(&key)).flatten();
        }
        let all = if each { 0..self.left.len() as u32 } else { 0..0 };
        let candidates = found.into_iter().flatten().chain(all);
        if !each && join.rest.is_none() {
            return candidates.collect();
        }
        let (mut matches, mut failed) = (Vec::new(), None);
        for left in candidates {
            self.fill(&self.left[left as usize], others, wide);
            if each && !equal(join, wide, context) {
                continue;
            }
            match rest(join, wide, context) {
                Ok(true) => matches.push(left),
                Ok(false) => {}
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        if let Some(error) = failed {
            lost(error);
        }
        matches
    }

    /// Loads the rows of a lookup table for the row in `wide` as rows of its input.
    fn look_up(&mut self, join: &Join, others: &Others<'_>, wide: &[Value], context: &CallContext<'_>, lost: Lost<'_>) {
        let mut rows = Vec::new();
        let value = |(left, _): &(Expr, Expr)| Ok(left.eval(&Scope { slots: wide, context })?.into_owned());
        match join.equal.iter().map(value).collect::<Result<Vec<Value>, EvalError>>() {
            Ok(values) => (others.ask)(join, &values, &mut |slots| {
                rows.push(Rc::new(KeptRow { time: 0, input: join.input, slots }));
            }),
            Err(error) => lost(error),
        }
        self.rows[join.input] = Side::Rows(rows);
    }
}

/// The key from these expressions. A part with an error is null, and matches nothing; the first error counts for the
/// key.
fn key<'e>(
    exprs: impl Iterator<Item = &'e Expr>,
    wide: &[Value],
    context: &CallContext<'_>,
    lost: Lost<'_>,
) -> GroupKey {
    let scope = Scope { slots: wide, context };
    let mut key = GroupKey::default();
    let mut failed = None;
    for expr in exprs {
        match expr.eval(&scope) {
            Ok(value) => key.push(&value),
            Err(error) => {
                failed.get_or_insert(error);
                key.push(&Value::Absent);
            }
        }
    }
    if let Some(error) = failed {
        lost(error);
    }
    key
}

/// Whether the equalities hold. Values that cannot be compared are different.
fn equal(join: &Join, wide: &[Value], context: &CallContext<'_>) -> bool {
    let scope = Scope { slots: wide, context };
    join.equal.iter().all(|(left, right)| match (left.eval(&scope), right.eval(&scope)) {
        (Ok(left), Ok(right)) => compare_at(&left, Comparison::Equal, &right, context).unwrap_or(false),
        _ => false,
    })
}

/// Whether the rest of ON holds.
fn rest(join: &Join, wide: &mut [Value], context: &CallContext<'_>) -> Result<bool, EvalError> {
    let Some(rest) = &join.rest else { return Ok(true) };
    for (slot, value) in &join.computed {
        wide[*slot] = value.eval(&Scope { slots: wide, context })?.into_owned();
    }
    rest.test(&Scope { slots: wide, context })
}

/// The slots of an input without a row: aliases such as `isNull(r.id) AS lonely` have a value even then. Errors become
/// null, because the row may never be needed.
fn missing(input: &Input, context: &CallContext<'_>) -> Box<[Value]> {
    let mut slots = vec![Value::Absent; input.slots.len()];
    for (index, value) in input.scan.computed.iter().enumerate() {
        let value = value.eval(&Scope { slots: &slots, context }).map_or(Value::Absent, |value| value.into_owned());
        slots[input.scan.columns.len() + index] = value;
    }
    slots.into()
}
