//! Which data thread has the state of a rule: the one that has the fewest.
//!
//! Several processes cannot know of each other's rules, so there names alone decide.

use std::sync::{Arc, Mutex};

use crate::sync::locked;

/// How many rules have their state on each thread. Clones share it.
#[derive(Clone)]
pub(super) struct Homes(Arc<Mutex<Vec<usize>>>);

/// The place of one rule's state; it counts until this is dropped.
pub(super) struct Home {
    homes: Homes,
    thread: usize,
}

impl Homes {
    /// Of so many threads, none of which has any.
    pub fn new(threads: usize) -> Homes {
        Homes(Arc::new(Mutex::new(vec![0; threads])))
    }

    /// The state of a rule is on this thread.
    pub fn on(&self, thread: usize) -> Home {
        locked(&self.0)[thread] += 1;
        Home { homes: self.clone(), thread }
    }

    /// The state of a rule is on the thread with the fewest, on the first of them from this one on.
    pub fn least(&self, from: usize) -> Home {
        let mut states = locked(&self.0);
        let all = states.len();
        let thread = (0..all).map(|step| (from + step) % all).min_by_key(|thread| states[*thread]).unwrap_or(from);
        states[thread] += 1;
        Home { homes: self.clone(), thread }
    }
}

impl Home {
    pub fn thread(&self) -> usize {
        self.thread
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        locked(&self.homes.0)[self.thread] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_with_the_fewest_states_is_next() {
        let homes = Homes::new(3);
        let first = homes.least(1);
        let second = homes.least(1);
        let third = homes.least(1);
        assert_eq!([&first, &second, &third].map(Home::thread), [1, 2, 0]);
        let asked = homes.on(2);
        drop(first);
        assert_eq!(homes.least(0).thread(), 1);
        drop((second, asked));
        assert_eq!(homes.least(0).thread(), 1, "of 1 and 2, which have none, the first one from 0 on");
    }
}
