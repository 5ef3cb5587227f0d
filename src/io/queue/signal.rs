//! Wakes a worker's slot from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::Sender;
use tokio::sync::Notify;

/// Wakes a worker, from any thread, because one of its slots (a stream's input) has something to do.
#[derive(Clone)]
pub struct Signal {
    shared: Arc<SignalShared>,
    /// signals that are raised together with it
    others: Option<Arc<[Signal]>>,
}

struct SignalShared {
    slot: usize,
    raised: AtomicBool,
    ready: Sender<usize>,
    wake: Arc<Notify>,
}

impl Signal {
    /// Makes a signal for `slot`. Raising it puts the slot into `ready` (once until it is lowered) and notifies `wake`.
    pub fn new(slot: usize, ready: Sender<usize>, wake: Arc<Notify>) -> Self {
        Signal { shared: Arc::new(SignalShared { slot, raised: AtomicBool::new(false), ready, wake }), others: None }
    }

    /// Asks the worker to look at the slot. Cheap if the signal is already raised.
    pub fn raise(&self) {
        if !self.shared.raised.swap(true, Ordering::AcqRel) {
            // Only at the end of the process is the worker gone; then nothing needs to be done.
            let _ = self.shared.ready.send(self.shared.slot);
            self.shared.wake.notify_one();
        }
        if let Some(others) = &self.others {
            others.iter().for_each(Signal::raise);
        }
    }

    /// The same signal, which also raises `others`: for a sink that several streams wait for.
    pub fn with(&self, others: Vec<Signal>) -> Signal {
        Signal { shared: self.shared.clone(), others: (!others.is_empty()).then(|| others.into()) }
    }

    /// The slot that it wakes. No two streams of an engine have the same.
    pub(super) fn slot(&self) -> usize {
        self.shared.slot
    }

    /// The slots that it wakes, including those of other signals.
    pub fn slots(&self) -> Vec<usize> {
        let others = self.others.iter().flat_map(|others| others.iter()).flat_map(Signal::slots);
        std::iter::once(self.shared.slot).chain(others).collect()
    }

    /// Whether both are clones of one signal, with the same others.
    pub(super) fn is_same(&self, other: &Signal) -> bool {
        let others = match (&self.others, &other.others) {
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            (mine, theirs) => mine.is_none() && theirs.is_none(),
        };
        others && Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Allows the signal to be raised again. The worker calls it before it looks at the slot, so that nothing that
    /// arrives meanwhile is missed.
    pub fn lower(&self) {
        // A swap and not a store, so that later reads are not moved before it (see `raise`).
        self.shared.raised.swap(false, Ordering::AcqRel);
    }
}
