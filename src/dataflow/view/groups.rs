//! The groups of a view with their accumulators, in the order of their last message.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use serde::{Deserialize, Serialize};
use slab::Slab;
use smallvec::SmallVec;

use crate::expr::aggregate::{Accumulator, Aggregate};
use crate::expr::{EvalError, Scope};
use crate::plan::physical::{AggregateCall, Stateful};
use crate::value::Value;
use crate::value::key::GroupKey;

const NONE: u32 = u32::MAX;

/// A key with its accumulators.
#[derive(Debug)]
pub struct Held {
    pub key: GroupKey,
    pub group: Group,
    /// start and end of its window
    pub window: (i64, i64),
    /// in event time: the state that depends on the order of rows
    pub timed: Option<Box<Timed>>,
    /// whether its row must be made again
    pub dirty: bool,
    /// by the clock, ms
    pub touched: i64,
    newer: u32,
    older: u32,
}

/// What is known of a group's rows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Group {
    /// The kept slots of the group's first row.
    pub first: Vec<Value>,
    /// One for each aggregate.
    pub accumulators: Vec<Accumulator>,
}

/// State of a group that depends on event time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Timed {
    /// time of the row of [`Group::first`]
    first: i64,
    /// for each aggregate of a first or last value, the time of its row
    last: Vec<Option<i64>>,
    /// the arguments of aggregates that make lists, ordered by time
    log: Vec<(i64, Vec<Value>)>,
}

/// The groups of a view.
#[derive(Debug)]
pub struct Groups {
    pub held: Slab<Held>,
    index: HashTable<u32>,
    hasher: RandomState,
    newest: u32,
    oldest: u32,
}

/// One group of a checkpoint.
#[derive(Serialize, Deserialize)]
pub struct Saved {
    pub key: GroupKey,
    group: Group,
    window: (i64, i64),
    timed: Option<Timed>,
    touched: i64,
}

impl Default for Groups {
    fn default() -> Groups {
        Groups {
            held: Slab::new(),
            index: HashTable::new(),
            hasher: RandomState::default(),
            newest: NONE,
            oldest: NONE,
        }
    }
}

impl Groups {
    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn find(&self, key: &GroupKey) -> Option<u32> {
        let hash = self.hasher.hash_one(key.parts());
        self.index.find(hash, |&number| self.held[number as usize].key == *key).copied()
    }

    /// The group of a key, made if it does not exist; true if it was made.
    pub fn find_or_insert(&mut self, key: &GroupKey, make: impl FnOnce() -> Held) -> (u32, bool) {
        if let Some(number) = self.find(key) {
            return (number, false);
        }
        let number = self.held.insert(make()) as u32;
        let hash = self.hasher.hash_one(key.parts());
        let (held, hasher) = (&self.held, &self.hasher);
        self.index.insert_unique(hash, number, |&number| hasher.hash_one(held[number as usize].key.parts()));
        self.push_newest(number);
        (number, true)
    }

    /// Removes a group.
    pub fn remove(&mut self, number: u32) -> Option<Held> {
        let hash = self.hasher.hash_one(self.held.get(number as usize)?.key.parts());
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == number) {
            entry.remove();
        }
        self.unlink(number);
        self.held.try_remove(number as usize)
    }

    /// Records that the group got a message.
    pub fn touch(&mut self, number: u32, now: i64) {
        self.held[number as usize].touched = now;
        if self.newest != number {
            self.unlink(number);
            self.push_newest(number);
        }
    }

    /// The group whose last message is the oldest.
    pub fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// All groups for a checkpoint, those with the oldest last message first.
    pub fn save(&self) -> Vec<Saved> {
        let mut saved = Vec::with_capacity(self.len());
        let mut next = self.oldest;
        while next != NONE {
            let held = &self.held[next as usize];
            saved.push(Saved {
                key: held.key.clone(),
                group: held.group.clone(),
                window: held.window,
                timed: held.timed.as_deref().cloned(),
                touched: held.touched,
            });
            next = held.newer;
        }
        saved
    }

    /// Restores a group of a checkpoint; groups must come in the order of [`Groups::save`].
    pub fn restore(&mut self, saved: Saved) -> u32 {
        let key = saved.key.clone();
        let held = || Held {
            key: saved.key,
            group: saved.group,
            window: saved.window,
            timed: saved.timed.map(Box::new),
            dirty: false,
            touched: saved.touched,
            newer: NONE,
            older: NONE,
        };
        self.find_or_insert(&key, held).0
    }

    fn push_newest(&mut self, number: u32) {
        let older = std::mem::replace(&mut self.newest, number);
        let held = &mut self.held[number as usize];
        (held.newer, held.older) = (NONE, older);
        match older {
            NONE => self.oldest = number,
            older => self.held[older as usize].newer = number,
        }
    }

    fn unlink(&mut self, number: u32) {
        let Held { newer, older, .. } = self.held[number as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.held[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.held[older as usize].newer = newer,
        }
    }
}

/// The arguments of the aggregates for a row; `None` is `*`.
pub type Arguments = SmallVec<[Option<Value>; 4]>;

/// Evaluates the arguments for a row. An error affects only this row.
pub fn arguments(plan: &Stateful, scope: &Scope<'_>) -> Result<Arguments, EvalError> {
    let argument = |call: &AggregateCall| match &call.arg {
        None => Ok(None),
        Some(arg) => Ok(Some(arg.eval(scope)?.into_owned())),
    };
    plan.aggregates.iter().map(argument).collect()
}

impl Held {
    /// A group without rows. These are the slots of its first row.
    pub fn new(key: GroupKey, window: (i64, i64), plan: &Stateful, slots: &[Value], time: Option<i64>) -> Held {
        let timed =
            time.map(|first| Box::new(Timed { first, last: vec![None; plan.aggregates.len()], log: Vec::new() }));
        Held { key, group: new_group(plan, slots), window, timed, dirty: false, touched: 0, newer: NONE, older: NONE }
    }

    /// Adds a row. In event time, `time` is its place among the others.
    ///
    /// # Errors
    /// An argument that an aggregate cannot take: the row counts in no aggregate.
    pub fn add(&mut self, plan: &Stateful, slots: &[Value], arguments: &Arguments, time: i64) -> Result<(), EvalError> {
        for (accumulator, value) in self.group.accumulators.iter().zip(arguments) {
            accumulator.check(value.as_ref())?;
        }
        let Some(timed) = self.timed.as_deref_mut() else {
            for (accumulator, value) in self.group.accumulators.iter_mut().zip(arguments) {
                accumulator.add(value.as_ref())?;
            }
            return Ok(());
        };
        if time < timed.first {
            timed.first = time;
            self.group.first = kept(plan, slots);
        }
        let logged = plan.aggregates.iter().any(|call| makes_list(call.aggregate));
        let place = timed.log.partition_point(|(known, _)| *known <= time);
        let in_order = place == timed.log.len();
        if logged {
            let row = arguments.iter().map(|value| value.clone().unwrap_or_default()).collect();
            timed.log.insert(place, (time, row));
        }
        for (number, (call, value)) in plan.aggregates.iter().zip(arguments).enumerate() {
            let accumulator = &mut self.group.accumulators[number];
            match call.aggregate {
                Aggregate::LastValue { filled } => {
                    let counts = !filled || value.as_ref().is_none_or(|value| !value.is_null());
                    if counts && timed.last[number].is_none_or(|last| time >= last) {
                        timed.last[number] = Some(time);
                        accumulator.add(value.as_ref())?;
                    }
                }
                Aggregate::FirstValue { filled } => {
                    let counts = !filled || value.as_ref().is_none_or(|value| !value.is_null());
                    // If times are equal, the earlier arrival is kept.
                    if counts && timed.last[number].is_none_or(|first| time < first) {
                        timed.last[number] = Some(time);
                        *accumulator = Accumulator::new(call.aggregate, call.integral);
                        accumulator.add(value.as_ref())?;
                    }
                }
                aggregate if makes_list(aggregate) && !in_order => {
                    *accumulator = Accumulator::new(aggregate, call.integral);
                    for (_, row) in &timed.log {
                        accumulator.add(row.get(number))?;
                    }
                }
                _ => accumulator.add(value.as_ref())?,
            }
        }
        Ok(())
    }
}

fn new_group(plan: &Stateful, slots: &[Value]) -> Group {
    Group {
        first: kept(plan, slots),
        accumulators: plan.aggregates.iter().map(|call| Accumulator::new(call.aggregate, call.integral)).collect(),
    }
}

fn kept(plan: &Stateful, slots: &[Value]) -> Vec<Value> {
    plan.kept_slots.iter().map(|&slot| slots[slot].clone()).collect()
}

/// Whether the result depends on all values in order.
fn makes_list(aggregate: Aggregate) -> bool {
    use Aggregate::{Collect, CollectDistinct, Deduplicate, Merge};
    matches!(aggregate, Collect | CollectDistinct | Merge | Deduplicate { .. })
}
