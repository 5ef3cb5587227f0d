//! Values with a number each, found by a key that is a part of the value.
//!
//! A map from keys to numbers would store each key twice. Here the index has only numbers, and reads the keys from the
//! values.

use std::hash::{BuildHasher, Hash};
use std::ops::{Index, IndexMut};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;

/// A value with a key.
pub trait HasKey {
    type Key: ?Sized + Eq + Hash;

    /// The key. It must not change while the value can be found by it.
    fn key(&self) -> &Self::Key;
}

/// Values by number and by key. A number is used again after its value was removed.
#[derive(Debug)]
pub struct Numbered<T: HasKey> {
    values: Slab<T>,
    index: HashTable<u32>,
    hasher: RandomState,
}

impl<T: HasKey> Default for Numbered<T> {
    fn default() -> Numbered<T> {
        Numbered { values: Slab::new(), index: HashTable::new(), hasher: RandomState::default() }
    }
}

impl<T: HasKey> Numbered<T> {
    /// The number of the value with a key.
    pub fn find(&self, key: &T::Key) -> Option<u32> {
        let values = &self.values;
        self.index.find(self.hasher.hash_one(key), |&number| values[number as usize].key() == key).copied()
    }

    /// Adds a value whose key is new; returns its number.
    pub fn insert(&mut self, value: T) -> u32 {
        let number = self.values.insert(value) as u32;
        self.show(number);
        number
    }

    /// Makes a value findable by its key again, after [`Numbered::hide`].
    pub fn show(&mut self, number: u32) {
        let (values, hasher) = (&self.values, &self.hasher);
        let hash = |number: u32| hasher.hash_one(values[number as usize].key());
        self.index.insert_unique(hash(number), number, |&number| hash(number));
    }

    /// Removes a value from the index, so that another value may have its key.
    pub fn hide(&mut self, number: u32) {
        let Some(value) = self.values.get(number as usize) else { return };
        let hash = self.hasher.hash_one(value.key());
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == number) {
            entry.remove();
        }
    }

    /// Removes a value.
    pub fn remove(&mut self, number: u32) -> Option<T> {
        self.hide(number);
        self.values.try_remove(number as usize)
    }

    pub fn get(&self, number: u32) -> Option<&T> {
        self.values.get(number as usize)
    }

    pub fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.values.get_mut(number as usize)
    }

    /// All values with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.values.iter().map(|(number, value)| (number as u32, value))
    }

    /// All values with their numbers.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.values.iter_mut().map(|(number, value)| (number as u32, value))
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// All numbers in use are below this.
    pub fn end(&self) -> u32 {
        self.values.capacity() as u32
    }

    /// Bytes of the values themselves and of the index.
    pub fn bytes(&self) -> usize {
        self.values.capacity() * size_of::<T>() + self.index.capacity() * size_of::<u64>()
    }
}

impl<T: HasKey> Index<u32> for Numbered<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.values[number as usize]
    }
}

impl<T: HasKey> IndexMut<u32> for Numbered<T> {
    fn index_mut(&mut self, number: u32) -> &mut T {
        &mut self.values[number as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Named(&'static str, i32);

    impl HasKey for Named {
        type Key = str;

        fn key(&self) -> &str {
            self.0
        }
    }

    #[test]
    fn values_are_found_by_number_and_by_key() {
        let mut all = Numbered::default();
        let numbers: Vec<u32> = ["a", "b", "c"].into_iter().map(|name| all.insert(Named(name, 1))).collect();
        assert_eq!(all.find("b"), Some(numbers[1]));
        assert_eq!(all.remove(numbers[1]), Some(Named("b", 1)));
        assert_eq!((all.find("b"), all.remove(numbers[1]), all.len()), (None, None, 2));
        // Of two values with one key, the one that is not hidden is found.
        all.hide(numbers[0]);
        let other = all.insert(Named("a", 2));
        assert_eq!((all.find("a"), &all[numbers[0]]), (Some(other), &Named("a", 1)));
        all.remove(numbers[0]);
        assert_eq!(all.find("a"), Some(other));
    }
}
