//! The groups of a view with their accumulators, in the order of their last message.

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::expr::aggregate::{Accumulator, Aggregate};
use crate::expr::{EvalError, Scope};
use crate::plan::physical::{AggregateCall, Stateful};
use crate::value::Value;
use crate::value::key::{GroupKey, KeyPart};
use crate::value::numbered::{HasKey, Numbered};
use crate::view::Touched;

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
}

impl HasKey for Held {
    type Key = [KeyPart];

    fn key(&self) -> &[KeyPart] {
        self.key.parts()
    }
}

/// The rows of a group, as far as its results need them.
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
#[derive(Debug, Default)]
pub struct Groups {
    pub held: Numbered<Held>,
    touched: Touched,
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

impl Groups {
    pub fn len(&self) -> usize {
        self.held.len()
    }

    pub fn find(&self, key: &GroupKey) -> Option<u32> {
        self.held.find(key.parts())
    }

    /// The group of a key, made if it does not exist; true if it was made.
    pub fn find_or_insert(&mut self, key: &GroupKey, make: impl FnOnce() -> Held) -> (u32, bool) {
        match self.find(key) {
            Some(number) => (number, false),
            None => (self.held.insert(make()), true),
        }
    }

    /// Removes a group.
    pub fn remove(&mut self, number: u32) -> Option<Held> {
        self.touched.forget(number);
        self.held.remove(number)
    }

    /// Records that the group got a message, by the clock, ms.
    pub fn touch(&mut self, number: u32, now: i64) {
        self.touched.touch(number, now);
    }

    /// The group whose last message is the oldest, and when that came, ms.
    pub fn oldest(&self) -> Option<(u32, i64)> {
        self.touched.oldest()
    }

    /// Bytes of the groups, without what their accumulators allocate.
    pub fn bytes(&self) -> usize {
        self.held.bytes() + self.touched.bytes()
    }

    /// All groups for a checkpoint, those with the oldest last message first.
    pub fn save(&self) -> Vec<Saved> {
        let saved = |(number, touched)| {
            let held = self.held.get(number)?;
            Some(Saved {
                key: held.key.clone(),
                group: held.group.clone(),
                window: held.window,
                timed: held.timed.as_deref().cloned(),
                touched,
            })
        };
        self.touched.iter().filter_map(saved).collect()
    }

    /// Restores a group of a checkpoint; groups must come in the order of [`Groups::save`].
    pub fn restore(&mut self, saved: Saved) -> u32 {
        let Saved { key, group, window, timed, touched } = saved;
        let held = Held { key: key.clone(), group, window, timed: timed.map(Box::new), dirty: false };
        let (number, _) = self.find_or_insert(&key, || held);
        self.touch(number, touched);
        number
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
        Held { key, group: new_group(plan, slots), window, timed, dirty: false }
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
