//! Locks: one for steps in memory, and one for work that waits, by the names of what it is about.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::value::Text;

/// Takes a lock that is held for single steps only: a panic elsewhere leaves what is behind it usable.
pub fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lock for each name that somebody works on: two never open one stream twice, and none reads a stream that is being
/// closed. Who works on other names goes on. Nothing is kept of names that nobody works on.
#[derive(Default)]
pub struct KeyedLock(Mutex<HashMap<Text, Weak<tokio::sync::Mutex<()>>>>);

impl KeyedLock {
    /// Waits until these names are free; they are the caller's until the answer is dropped.
    pub async fn pass(&self, names: impl Iterator<Item = &Text>) -> Vec<OwnedMutexGuard<()>> {
        // Everybody takes them in one order, so that no two wait for each other.
        let names: BTreeSet<Text> = names.cloned().collect();
        let gates: Vec<Arc<tokio::sync::Mutex<()>>> = {
            let mut known = locked(&self.0);
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
