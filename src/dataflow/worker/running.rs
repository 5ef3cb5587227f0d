//! A rule that runs on a worker, and what it remembers.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::metrics::RuleMetrics;
use crate::plan::fingerprint::Fingerprint;

use super::super::command::{Mark, Saved, StateAnswer, StreamKey};
use super::super::division::Division;
use super::super::feed::Feed;
use super::super::forward::Forward;
use super::super::operate::Operate;
use super::super::output::Output;
use super::super::queue::RuleQueue;
use super::super::relay::Relay;

/// A rule on its worker.
pub(super) struct RunningRule {
    pub streams: Box<[StreamKey]>,
    /// The views whose changes it reads.
    pub feeds: Vec<Rc<Feed>>,
    pub slot: usize,
    /// its dataflow, where it has state
    pub dataflow: Option<usize>,
    /// the queue before that dataflow
    pub queue: Option<Rc<RuleQueue>>,
    /// the ways to its state, or to the parts of it, that other threads have
    pub lanes: Vec<Rc<Forward>>,
    /// how its state is divided, where it is
    pub division: Option<Division>,
    /// the way of its results to other processes, where there are some
    pub relay: Option<Rc<Relay>>,
    /// its state, where it has some
    pub operator: Option<Rc<RefCell<dyn Operate>>>,
    /// what checkpoints are made of
    pub memory: Option<Memory>,
    /// its results and errors
    pub output: Rc<RefCell<Output>>,
    /// whether its time is in its rows
    pub event_time: bool,
}

impl RunningRule {
    /// A rule without streams and state.
    pub fn new(slot: usize, output: Rc<RefCell<Output>>) -> RunningRule {
        RunningRule {
            streams: Box::default(),
            feeds: Vec::new(),
            slot,
            dataflow: None,
            queue: None,
            lanes: Vec::new(),
            division: None,
            relay: None,
            operator: None,
            memory: None,
            output,
            event_time: false,
        }
    }
}

/// The state of a rule that keeps it.
pub(super) struct Memory {
    pub id: String,
    pub plan: Fingerprint,
    pub operator: Rc<RefCell<dyn Operate>>,
    pub metrics: Arc<RuleMetrics>,
}

impl Memory {
    pub fn restore(&self, checkpoint: &[u8], queue: &RuleQueue) {
        let begun = Instant::now();
        let (rule, bytes) = (&self.id, checkpoint.len());
        match self.operator.borrow_mut().restore(checkpoint, &self.plan, queue) {
            Ok(()) => tracing::debug!(rule, bytes, took = ?begun.elapsed(), "continues with its stored state"),
            Err(error) => tracing::warn!(rule, "its stored state cannot be used, it starts with empty state: {error}"),
        }
    }

    pub fn save(&self, queue: &RuleQueue, since: Mark) -> StateAnswer {
        // A panic may have left it half changed.
        if self.metrics.has_failed() {
            return None;
        }
        let begun = Instant::now();
        let operator = self.operator.borrow();
        let mark = operator.changes() + queue.changes();
        if mark == since {
            return None;
        }
        Some(operator.save(&self.plan, queue).map(|bytes| {
            tracing::debug!(rule = self.id, bytes = bytes.len(), took = ?begun.elapsed(), "checkpoint");
            Saved { bytes, mark }
        }))
    }
}
