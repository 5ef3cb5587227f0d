//! Joins of rows that are added and removed.
//!
//! Each join keeps the rows of both sides by the columns that ON compares, so a change of either side finds its
//! partners directly. A left row of a LEFT JOIN appears without a partner as long as it has none: the first partner
//! removes that row, and removing the last one adds it again. A row is removed before its replacement is added, so that
//! the next step sees each key only once.
//!
//! Differential joins would need a dataflow for each view, with arrangements on both sides and a `reduce` for the
//! unmatched rows of LEFT. Here two maps do the same, and a cut is complete when the function returns.

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

/// The rows of both sides that make a joined row.
type Ids = SmallVec<[u64; 2]>;

/// No row, for the right side of an unmatched row.
const NONE: u64 = u64::MAX;

/// The overhead of a kept row: numbers and places in maps, bytes.
const ROW: usize = 96;

/// The rows of one side by the columns that ON compares.
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

    /// Adds or removes a row.
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

/// Receives a joined row that is added (true) or removed.
pub type Give<'a> = &'a mut dyn FnMut(&mut [Value], bool);

/// The joins of a view, left to right.
pub struct Joins {
    stages: Vec<Stage>,
}

struct Stage {
    join: Join,
    /// start of the slots of the right side
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

    /// The approximate size of the joins, bytes.
    pub fn bytes(&self) -> usize {
        let of = |side: &Side, width: usize| side.rows * (width * size_of::<Value>() + ROW);
        let of_stage =
            |stage: &Stage| of(&stage.left, stage.right_slots.start) + of(&stage.right, stage.right_slots.len());
        self.stages.iter().map(of_stage).sum()
    }

    /// Adds or removes a row of the first input. Its slots are in `wide`.
    pub fn first(&mut self, id: u64, comes: bool, wide: &mut [Value], context: &CallContext<'_>, give: Give<'_>) {
        left(&mut self.stages, &mut Ids::from_slice(&[id]), comes, wide, context, give);
    }

    /// Adds or removes a row of another input. Its slots are in `wide`.
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

/// Adds or removes a joined row at the next of these joins.
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

/// Adds or removes a left row without a partner.
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

/// The values that ON compares; `None` if one is null or an error, which equals nothing.
fn key_of<'e>(exprs: impl Iterator<Item = &'e Expr>, slots: &[Value], context: &CallContext<'_>) -> Option<GroupKey> {
    let mut key = GroupKey::default();
    for expr in exprs {
        key.push(&*expr.eval(&Scope { slots, context }).ok()?);
    }
    (!key.parts().contains(&KeyPart::Nothing)).then_some(key)
}
