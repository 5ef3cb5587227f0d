//! The state of a rule with its limit, as a checkpoint and as a size.
//!
//! If the state is divided by key, each thread makes a checkpoint of its own part, and all of them together are the
//! rule's checkpoint. A thread that restores it keeps its own keys, so a rule may continue with a different number of
//! threads.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::dataflow::join::ScanTable;
use crate::dataflow::operate::Progress;
use crate::dataflow::queue::RuleQueue;
use crate::dataflow::state::checkpoint::{self, CheckpointError, CheckpointReader, StateParts, Writer};
use crate::dataflow::state::measure::{Meter, StateSize};
use crate::dataflow::state::quarter;
use crate::dataflow::timers::Alarm;
use crate::dataflow::waiting::Waiting;
use crate::expr::Expr;
use crate::metrics::Place;
use crate::plan::fingerprint::Fingerprint;
use crate::plan::physical::{Step, StepKind};
use crate::value::Value;

use super::tables::{self, scan_tables};
use super::{Memories, Own, RuleOperator, ScannedRow, Windows};

/// A state with a limit is measured after this many rows.
const MEASURED_ROWS: u32 = 1024;

impl RuleOperator {
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// # Errors
    /// [`CheckpointError`]
    pub fn save(&self, plan: &Fingerprint, queue: &RuleQueue) -> Result<Vec<u8>, CheckpointError> {
        let mut to = Writer::new(plan);
        self.waiting.save(&mut to)?;
        self.rest(queue, &mut to)?;
        Ok(to.finish())
    }

    pub fn size(&self, queue: &RuleQueue) -> StateSize {
        let mut meter = Meter::default();
        // Measuring cannot fail.
        let _ = self.rest(queue, &mut meter);
        self.waiting.measure(&mut meter);
        StateSize { bytes: meter.bytes(), windows: self.windows.open() }
    }

    /// The rows of the scan tables, the newest `limit` of each, in the order of the inputs.
    pub(super) fn scanned(&self, limit: usize) -> Vec<ScannedRow> {
        let mut rows = Vec::new();
        for (number, input) in self.inputs.iter().enumerate() {
            let Some(table) = self.tables.scanned.get(&number) else { continue };
            let older = table.rows().count().saturating_sub(limit);
            rows.extend(table.rows().skip(older).map(|row| tables::shown(input, row)));
        }
        rows
    }

    /// The estimated size of the state, bytes. The estimate takes constant time.
    fn bytes(&self) -> u64 {
        let mut meter = Meter::default();
        let _ = self.parts(&mut meter);
        self.waiting.measure(&mut meter);
        meter.bytes()
    }

    /// The same for all parts of a divided state, with the last measurements of the other parts.
    fn bytes_of_all(&self) -> u64 {
        self.record(self.bytes())
    }

    /// Reports the size of this part to the others; returns the size of all.
    fn record(&self, bytes: u64) -> u64 {
        self.own.as_ref().map_or(bytes, |Own { division, owner }| division.measured(*owner, bytes))
    }

    /// Whether the whole state exceeds its limit, and this part its share. A part that exceeds its share drops rows
    /// itself.
    fn has_to_evict(&self, limit: u64) -> bool {
        let bytes = self.bytes();
        let share = self.own.as_ref().map_or(limit, |Own { division, .. }| limit / division.parts());
        self.record(bytes) > limit && bytes > share
    }

    /// Compares the state with its limit, after `more` rows or groups: drops what is oldest, or fails the rule. If the
    /// state is divided, each part drops what exceeds its share.
    pub(super) fn limit_state(&mut self, more: u32) -> Option<Progress> {
        let limit = self.plan.state_limit?;
        self.unmeasured = self.unmeasured.saturating_add(more);
        if self.unmeasured < MEASURED_ROWS {
            return None;
        }
        self.unmeasured = 0;
        let bytes = self.bytes_of_all();
        if bytes <= limit.bytes {
            return None;
        }
        if !limit.evicts {
            return Some(Progress::StateFull(bytes));
        }
        let mut evicted = 0;
        // Each round drops a quarter, so little is left after this many.
        for _ in 0..32 {
            if !self.has_to_evict(limit.bytes) {
                break;
            }
            evicted += self.windows.evict() + self.memories.evict() + self.results.evict();
            evicted += self.tables.scanned.values_mut().map(ScanTable::evict).sum::<usize>();
            for _ in 0..quarter(self.waiting.len()) {
                evicted += usize::from(self.waiting.pop(None, &mut self.narrow).is_some());
            }
        }
        if evicted == 0 {
            return None;
        }
        let text = format!("maxStateBytes is reached: {evicted} of the oldest keys and rows are dropped");
        self.output.borrow_mut().error(Place::Window, text);
        None
    }

    pub fn forget(&mut self) {
        self.waiting = Waiting::new(self.narrow.len());
        self.memories = Memories::new(&self.plan.steps);
        self.windows = Windows::new(&self.plan, &self.context.zone, self.alarm.clone());
        self.results = self.new_results();
        self.tables.scanned = scan_tables(&self.plan, &self.inputs);
        self.inbox.0.clear();
        self.closed.clear();
    }

    /// Everything but the waiting rows, which are put in order first: that takes longer the more there are.
    fn rest(&self, queue: &RuleQueue, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        self.parts(to)?;
        to.put(&self.context.hits.get())?;
        queue.save(to)
    }

    fn parts(&self, to: &mut impl StateParts) -> Result<(), CheckpointError> {
        self.memories.save(to)?;
        self.windows.save(to)?;
        self.results.save(to)?;
        let mut tables: Vec<_> = self.tables.scanned.iter().collect();
        tables.sort_unstable_by_key(|(input, _)| **input);
        for (_, table) in tables {
            table.save(to)?;
        }
        Ok(())
    }

    /// # Errors
    /// [`CheckpointError`]; operator and queue are then unchanged.
    pub fn restore(&mut self, checkpoint: &[u8], plan: &Fingerprint, queue: &RuleQueue) -> Result<(), CheckpointError> {
        let parts = checkpoint::parts(checkpoint)?;
        let readers: Result<Vec<_>, _> = parts.into_iter().map(|part| CheckpointReader::open(part, plan)).collect();
        let readers = readers?;
        // A faulty checkpoint must not stop the other rules of this thread.
        let taken = catch_unwind(AssertUnwindSafe(|| self.take_states(readers, queue)));
        let restored = taken.unwrap_or(Err(CheckpointError::Damaged("its content is not valid")));
        if restored.is_err() {
            self.forget();
            self.context.hits.take();
        }
        restored
    }

    fn take_states(&mut self, parts: Vec<CheckpointReader<'_>>, queue: &RuleQueue) -> Result<(), CheckpointError> {
        let mut parts = parts.into_iter();
        if let Some(first) = parts.next() {
            queue.restore(self.take_state(first)?)?;
        }
        for part in parts {
            let (plan, inputs) = (self.plan.clone(), self.inputs.clone());
            let (context, output, clock) = (self.context.clone(), self.output.clone(), self.clock.clone());
            let none = HashMap::new();
            let mut other = RuleOperator::new(plan, inputs, none, context, output, clock, Alarm::silent());
            queue.restore_more(other.take_state(part)?)?;
            self.memories.absorb(other.memories);
            while let Some((time, input)) = other.waiting.pop(None, &mut other.narrow) {
                self.waiting.push(time, input, &mut other.narrow);
            }
        }
        self.keep_own_keys();
        Ok(())
    }

    /// Returns what remains for the queue.
    fn take_state<'c>(&mut self, mut from: CheckpointReader<'c>) -> Result<CheckpointReader<'c>, CheckpointError> {
        self.waiting.restore(&mut from, self.inputs.len())?;
        self.memories.restore(&mut from)?;
        self.windows.restore(&mut from)?;
        self.results.restore(&mut from)?;
        let mut tables: Vec<_> = self.tables.scanned.iter_mut().collect();
        tables.sort_unstable_by_key(|(input, _)| **input);
        for (_, table) in tables {
            table.restore(&mut from)?;
        }
        self.context.hits.set(from.take()?);
        Ok(from)
    }

    /// Forgets the keys of other threads, where the state is divided.
    fn keep_own_keys(&mut self) {
        let Some(Own { division, owner: Some(owner) }) = &self.own else { return };
        let (steps, inputs, keys) = (&self.plan.steps, &self.inputs, &self.plan.exchange);
        self.memories.retain(|step, memory| {
            let Step { input, kind: StepKind::Analytic(call), .. } = &steps[step] else { return true };
            let place = |slot: &usize| {
                let slot = inputs[*input].slots.start + slot;
                call.partition.iter().position(|expr| matches!(expr, Expr::Slot(read) if *read == slot))
            };
            let key = keys[*input].iter().filter_map(place).filter_map(|place| memory.parts().get(place));
            division.owner_of_parts(key) == *owner
        });
        let mut waiting = std::mem::replace(&mut self.waiting, Waiting::new(self.narrow.len()));
        while let Some((time, input)) = waiting.pop(None, &mut self.narrow) {
            if division.owner_of(&self.narrow, &keys[input]) == *owner {
                self.waiting.push(time, input, &mut self.narrow);
            }
        }
        self.narrow.fill(Value::Absent);
    }
}
