//! Locks: one for short steps in memory, and one by name for work that waits. Also a count that can be awaited.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, OwnedMutexGuard};

use crate::value::Text;

/// Takes a lock that is held for single steps only. A poisoned lock is taken anyway: its data is consistent between
/// steps.
pub fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A count that grows, and that one caller at a time can await.
#[derive(Debug, Default)]
pub struct Count {
    count: AtomicU64,
    grown: Notify,
}

impl Count {
    pub fn grow(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
        self.grown.notify_one();
    }

    /// Waits until the count is at least this number.
    pub async fn reaches(&self, number: u64) {
        while self.count.load(Ordering::Acquire) < number {
            self.grown.notified().await;
        }
    }
}

/// A lock for each name in use: a stream is never opened twice at a time, nor read while it closes. Work on other names
/// goes on. Unused names take no memory.
#[derive(Default)]
pub struct KeyedLock(Mutex<HashMap<Text, Weak<tokio::sync::Mutex<()>>>>);

impl KeyedLock {
    /// Waits until these names are free, and holds them until the guard is dropped.
    pub async fn pass(&self, names: impl Iterator<Item = &Text>) -> Vec<OwnedMutexGuard<()>> {
        // All callers lock in the same order, so no two wait for each other.
        let names: BTreeSet<Text> = names.cloned().collect();
        let locks: Vec<Arc<tokio::sync::Mutex<()>>> = {
            let mut known = locked(&self.0);
            known.retain(|_, lock| lock.strong_count() > 0);
            let mut lock = |name: Text| {
                let lock = known.get(&name).and_then(Weak::upgrade).unwrap_or_default();
                known.insert(name, Arc::downgrade(&lock));
                lock
            };
            names.into_iter().map(&mut lock).collect()
        };
        let mut passed = Vec::with_capacity(locks.len());
        for lock in locks {
            passed.push(lock.lock_owned().await);
        }
        passed
    }
}
