//! Who may open and close a stream: one rule at a time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, Weak};

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::value::Text;

/// A lock for each stream that a rule is being started or stopped on: two rules do not open one stream twice, and none
/// reads a stream that is being closed. Rules on other streams go on.
#[derive(Default)]
pub(super) struct Gates(std::sync::Mutex<HashMap<Text, Weak<Mutex<()>>>>);

impl Gates {
    /// Waits until the streams of these names are free; they are the caller's until the answer is dropped.
    pub(super) async fn pass(&self, names: impl Iterator<Item = &Text>) -> Vec<OwnedMutexGuard<()>> {
        // Everybody takes them in one order, so that no two wait for each other.
        let names: BTreeSet<Text> = names.cloned().collect();
        let gates: Vec<Arc<Mutex<()>>> = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            known.retain(|_, gate| gate.strong_count() > 0);
            let mut gate = |name: Text| {
                let gate = known.get(&name).and_then(Weak::upgrade).unwrap_or_default();
                known.insert(name, Arc::downgrade(&gate));
                gate
            };
            names.into_iter().map(&mut gate).collect()
        };
        let mut passed = Vec::with_capacity(gates.len());
        for gate in gates {
            passed.push(gate.lock_owned().await);
        }
        passed
    }
}
