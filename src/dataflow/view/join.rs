//! Joins of rows that come and leave.
//!
//! Each join keeps the rows of both of its sides by what ON compares, so a change on either side finds its partners at
//! once. Of LEFT, a left row goes on without a partner while it has none: with the first partner that row leaves, and
//! with the last one it comes back. A row that leaves does so before what takes its place comes, so that what follows a
//! join sees each key once.
//!
//! Differential joins would need a dataflow of their own for each view, with arrangements on both sides and a `reduce` for
//! the unmatched rows of LEFT; here the same is two maps, and a cut is done when this returns.

use std::collections::HashMap;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::dataflow::row::KeyHasher;
use crate::expr::function::CallContext;
use crate::expr::{Expr, Scope};
use crate::plan::physical::{Input, Join};
use crate::value::Value;
use crate::value::key::{GroupKey, KeyPart};
use crate::value::operator::JoinKind;

/// Which rows of its sides a joined row is made of.
type Ids = SmallVec<[u64; 2]>;

/// No row: the right side of an unmatched row.
const NONE: u64 = u64::MAX;

/// What a kept row takes beside its values: its numbers and places in maps, bytes.
const ROW: usize = 96;

/// Rows of one side by what ON compares.
#[derive(Default)]
struct Side {
    by_key: HashMap<GroupKey, HashMap<Ids, Rc<[Value]>, KeyHasher>, KeyHasher>,
    rows: usize,
}

impl Side {
    fn len(&self, key: &GroupKey) -> usize {
        self.by_key.get(key).map_or(0, HashMap::len)
    }

    /// The rows with this key.
    fn rows(&self, key: &GroupKey) -> Vec<(Ids, Rc<[Value]>)> {
        let same = self.by_key.get(key).into_iter().flatten();
        same.map(|(ids, row)| (ids.clone(), row.clone())).collect()
    }

    /// Puts a row in, or takes it out.
    fn change(&mut self, key: &GroupKey, ids: &Ids, row: Option<Rc<[Value]>>) {
        match row {
            Some(row) => {
                let before = self.by_key.entry(key.clone()).or_default().insert(ids.clone(), row);
                self.rows += usize::from(before.is_none());
            }
            None => {
                let Some(same) = self.by_key.get_mut(key) else { return };
                self.rows -= usize::from(same.remove(ids).is_some());
                if same.is_empty() {
                    self.by_key.remove(key);
                }
            }
        }
    }
}

/// Takes a joined row that comes (true) or leaves.
pub type Give<'a> = &'a mut dyn FnMut(&mut [Value], bool);

/// The joins of a view, left to right.
pub struct Joins {
    stages: Vec<Stage>,
}

struct Stage {
    join: Join,
    /// where the slots of the right side are
    right_slots: std::ops::Range<usize>,
    left: Side,
    right: Side,
}

impl Joins {
    pub fn new(joins: Vec<Join>, inputs: &[Input]) -> Joins {
        let stage = |join: Join| {
            let right_slots = inputs[join.input].slots.clone();
            Stage { join, right_slots, left: Side::default(), right: Side::default() }
        };
        Joins { stages: joins.into_iter().map(stage).collect() }
    }

    /// Bytes of what the joins keep, about.
    pub fn bytes(&self) -> usize {
        let of = |side: &Side, width: usize| side.rows * (width * size_of::<Value>() + ROW);
        let of_stage =
            |stage: &Stage| of(&stage.left, stage.right_slots.start) + of(&stage.right, stage.right_slots.len());
        self.stages.iter().map(of_stage).sum()
    }

    /// A row of the first input comes or leaves. Its slots are in `wide`.
    pub fn first(&mut self, id: u64, comes: bool, wide: &mut [Value], context: &CallContext<'_>, give: Give<'_>) {
        left(&mut self.stages, &mut Ids::from_slice(&[id]), comes, wide, context, give);
    }

    /// A row of another input comes or leaves. Its slots are in `wide`.
    pub fn other(
        &mut self,
        input: usize,
        id: u64,
        comes: bool,
        wide: &mut [Value],
        context: &CallContext<'_>,
        give: Give<'_>,
    ) {
        let Some(number) = self.stages.iter().position(|stage| stage.join.input == input) else { return };
        let (here, after) = self.stages[number..].split_at_mut(1);
        let Stage { join, right_slots, left: lefts, right } = &mut here[0];
        let Some(key) = key_of(join.equal.iter().map(|(_, right)| right), wide, context) else { return };
        let slots: Rc<[Value]> = wide[right_slots.clone()].into();
        let before = right.len(&key);
        right.change(&key, &Ids::from_slice(&[id]), comes.then(|| slots.clone()));
        let now = right.len(&key);
        let keeps_left = join.kind == JoinKind::Left;
        for (mut ids, row) in lefts.rows(&key) {
            wide[..row.len()].clone_from_slice(&row);
            if keeps_left && comes && before == 0 {
                unmatched(after, right_slots.clone(), &mut ids, false, wide, context, give);
            }
            wide[..row.len()].clone_from_slice(&row);
            wide[right_slots.clone()].clone_from_slice(&slots);
            ids.push(id);
            left(after, &mut ids, comes, wide, context, give);
            ids.pop();
            if keeps_left && !comes && now == 0 {
                wide[..row.len()].clone_from_slice(&row);
                unmatched(after, right_slots.clone(), &mut ids, true, wide, context, give);
            }
        }
    }
}

/// A joined row comes to the next of these joins, or leaves it.
fn left(
    stages: &mut [Stage],
    ids: &mut Ids,
    comes: bool,
    wide: &mut [Value],
    context: &CallContext<'_>,
    give: Give<'_>,
) {
    let Some((here, after)) = stages.split_first_mut() else { return give(wide, comes) };
    let Stage { join, right_slots, left: lefts, right } = here;
    let start = right_slots.start;
    let row: Rc<[Value]> = wide[..start].into();
    // A row without a key has no partner.
    let mut partners = Vec::new();
    if let Some(key) = key_of(join.equal.iter().map(|(left, _)| left), wide, context) {
        lefts.change(&key, ids, comes.then(|| row.clone()));
        partners = right.rows(&key);
    }
    if partners.is_empty() && join.kind == JoinKind::Left {
        unmatched(after, right_slots.clone(), ids, comes, wide, context, give);
    }
    for (id, slots) in partners {
        wide[..start].clone_from_slice(&row);
        wide[right_slots.clone()].clone_from_slice(&slots);
        ids.push(id[0]);
        left(after, ids, comes, wide, context, give);
        ids.pop();
    }
}

/// A left row comes without a partner, or leaves so.
fn unmatched(
    after: &mut [Stage],
    right_slots: std::ops::Range<usize>,
    ids: &mut Ids,
    comes: bool,
    wide: &mut [Value],
    context: &CallContext<'_>,
    give: Give<'_>,
) {
    wide[right_slots].fill(Value::Absent);
    ids.push(NONE);
    left(after, ids, comes, wide, context, give);
    ids.pop();
}

/// What ON compares; `None` where a value is null or has an error: it is equal to nothing.
fn key_of<'e>(exprs: impl Iterator<Item = &'e Expr>, slots: &[Value], context: &CallContext<'_>) -> Option<GroupKey> {
    let mut key = GroupKey::default();
    for expr in exprs {
        key.push(&*expr.eval(&Scope { slots, context }).ok()?);
    }
    (!key.parts().contains(&KeyPart::Nothing)).then_some(key)
}
