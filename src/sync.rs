//! Locks: one for short steps in memory, and one by name for work that waits. Also a count that can be awaited, and values
//! that many owners share.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::Hash;
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

/// Values that are often equal: each is kept once, for all of its owners. A value without owners stays until new values
/// need its place.
pub struct Shared<T>(Mutex<HashSet<Arc<T>>>);

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Shared(Mutex::default())
    }
}

impl<T: Eq + Hash> Shared<T> {
    /// The known value that equals this one, or else this one.
    pub fn share(&self, value: T) -> Arc<T> {
        let mut known = locked(&self.0);
        if let Some(same) = known.get(&value) {
            return same.clone();
        }
        if known.len() == known.capacity() {
            known.retain(|value| Arc::strong_count(value) > 1);
            // As many new values come before the next search as this one has found.
            let found = known.len();
            known.reserve(found);
        }
        let value = Arc::new(value);
        known.insert(value.clone());
        value
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_kept_once_and_unused_ones_go() {
        let shared = Shared::default();
        let kept = shared.share("a".to_owned());
        assert!(Arc::ptr_eq(&kept, &shared.share("a".to_owned())));
        (0..1000).for_each(|number| drop(shared.share(number.to_string())));
        assert!(Arc::ptr_eq(&kept, &shared.share("a".to_owned())));
        assert!(locked(&shared.0).len() < 8);
    }
}
