//! Divides the state of a rule by key: which worker has the state of which keys, how large each part is, and whether
//! all rows that were sent to these workers have arrived.
//!
//! If the rule has windows, the owners of keys send their part of a slice to one worker, home, once the slice is over
//! for them. Home makes the results. To the other workers, its part is a separate rule (`at_home`).

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::FixedState;

use crate::sync::Count;
use crate::value::Value;
use crate::value::key::KeyPart;

/// The bit that marks the key of a rule's part at home.
const AT_HOME: u64 = 1 << 63;

/// The key of the part of a rule that has its windows at home.
pub fn at_home(rule: u64) -> u64 {
    rule | AT_HOME
}

/// The rule that a key belongs to, whichever part the key is for.
pub fn rule_of(key: u64) -> u64 {
    key & !AT_HOME
}

/// The division of a rule's state. Clones share it; each process has its own.
#[derive(Clone, Debug)]
pub struct Division(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    owners: Box<[usize]>,
    home: Option<usize>,
    /// The size of each owner's state, bytes; the last one is that of home.
    sizes: Box<[AtomicU64]>,
    /// Letters with rows that have arrived at the owners, from workers of this process and from others.
    near: Count,
    far: Count,
}

impl Division {
    /// Divides the keys among these workers. `home`: the worker that puts windows together, if the rule has some.
    pub fn new(owners: impl IntoIterator<Item = usize>, home: Option<usize>) -> Division {
        let owners: Box<[usize]> = owners.into_iter().collect();
        let sizes = (0..=owners.len()).map(|_| AtomicU64::new(0)).collect();
        Division(Arc::new(Shared { owners, home, sizes, near: Count::default(), far: Count::default() }))
    }

    /// The worker that makes the results of windows, if the rule has some.
    pub fn home(&self) -> Option<usize> {
        self.0.home
    }

    /// The workers that own keys; their indexes are their numbers as owners.
    pub fn owners(&self) -> &[usize] {
        &self.0.owners
    }

    /// The number of a worker as an owner, if it is one.
    pub fn owner(&self, worker: usize) -> Option<usize> {
        self.0.owners.iter().position(|owner| *owner == worker)
    }

    /// The owner of a row's key, which consists of the slots `key`.
    pub fn owner_of(&self, row: &[Value], key: &[usize]) -> usize {
        self.owner_of_parts(key.iter().map(|slot| KeyPart::of(&row[*slot])))
    }

    /// The owner of a key: the same in all processes.
    pub fn owner_of_parts(&self, key: impl Iterator<Item = impl std::borrow::Borrow<KeyPart>>) -> usize {
        let mut hasher = FixedState::default().build_hasher();
        key.for_each(|part| part.borrow().hash(&mut hasher));
        // The upper bits: maps of keys use the lower ones.
        ((u128::from(hasher.finish()) * self.0.owners.len() as u128) >> 64) as usize
    }

    /// Records the size of an owner's state, bytes, or of home's (`None`). Returns the sum of all.
    pub fn measured(&self, owner: Option<usize>, bytes: u64) -> u64 {
        let place = owner.unwrap_or(self.0.owners.len());
        self.0.sizes[place].store(bytes, Ordering::Relaxed);
        self.0.sizes.iter().map(|size| size.load(Ordering::Relaxed)).sum()
    }

    /// The number of parts that share the limit of the state: the owners, and home if it has windows.
    pub fn parts(&self) -> u64 {
        (self.0.owners.len() + usize::from(self.0.home.is_some())) as u64
    }

    /// Counts a letter with rows that has arrived. `near`: from a worker of this process.
    pub fn letter_came(&self, near: bool) {
        let count = if near { &self.0.near } else { &self.0.far };
        count.grow();
    }

    /// Waits until this many letters with rows have arrived at the owners. One caller at a time.
    pub async fn have_come(&self, near: u64, far: u64) {
        self.0.near.reaches(near).await;
        self.0.far.reaches(far).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::key::GroupKey;

    #[test]
    fn equal_keys_have_one_owner_and_keys_are_spread() {
        let division = Division::new([4, 5, 6], None);
        let mut counts = [0; 3];
        for key in 0..3000 {
            let row = [Value::from("x"), Value::Int(key), Value::Float(key as f64)];
            let owner = division.owner_of(&row, &[1]);
            assert_eq!(owner, division.owner_of(&row, &[2]), "1 and 1.0 are one key");
            assert_eq!(owner, division.owner_of_parts(GroupKey::from_values([&row[1]]).parts().iter()));
            counts[owner] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        assert_eq!((division.owner(5), division.owner(3)), (Some(1), None));
        assert_eq!((division.measured(Some(0), 10), division.measured(None, 5)), (10, 15));
    }

    #[tokio::test]
    async fn letters_are_awaited_by_where_they_come_from() {
        let division = Division::new([0, 1], None);
        let awaited = tokio::spawn({
            let division = division.clone();
            async move { division.have_come(2, 1).await }
        });
        [true, false, true].into_iter().for_each(|near| division.letter_came(near));
        awaited.await.expect("no panic");
    }
}
