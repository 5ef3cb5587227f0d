//! A rule that runs on a worker, and its state.

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
    /// its dataflow, if it has state
    pub dataflow: Option<usize>,
    /// the queue before that dataflow
    pub queue: Option<Rc<RuleQueue>>,
    /// sends rows to its state, or to the parts of it, on other threads
    pub lanes: Vec<Rc<Forward>>,
    /// how its state is divided, if it is
    pub division: Option<Division>,
    /// sends the content of windows to the thread that makes their results, if this thread has a part of the state
    pub shipping: Option<Rc<Forward>>,
    /// sends its results to other processes, if there are any
    pub relay: Option<Rc<Relay>>,
    /// its state, if it has one
    pub operator: Option<Rc<RefCell<dyn Operate>>>,
    /// the parts of checkpoints
    pub memory: Option<Memory>,
    /// its results and errors
    pub output: Rc<RefCell<Output>>,
    /// whether it runs in event time
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
            shipping: None,
            relay: None,
            operator: None,
            memory: None,
            output,
            event_time: false,
        }
    }

    /// The number of rows that it has read and not processed.
    pub fn unprocessed(&self) -> u64 {
        let waiting = self.queue.as_ref().map_or(0, |queue| queue.waiting() as u64);
        let given = self.operator.as_ref().map_or(0, |operator| operator.borrow().unprocessed());
        waiting + given
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
        // After a panic it may be inconsistent.
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
