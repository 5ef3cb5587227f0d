//! Chooses the data thread for the state of a rule: the one with the fewest states.
//!
//! Processes of a cluster do not know each other's rules, so there the name decides.

use std::sync::{Arc, Mutex};

use crate::sync::locked;

/// The number of rules with their state on each thread. Clones share it.
#[derive(Clone)]
pub(super) struct Homes(Arc<Mutex<Vec<usize>>>);

/// The place of one rule's state; it is counted until this is dropped.
pub(super) struct Home {
    homes: Homes,
    thread: usize,
}

impl Homes {
    /// This many threads without states.
    pub fn new(threads: usize) -> Homes {
        Homes(Arc::new(Mutex::new(vec![0; threads])))
    }

    /// Puts the state of a rule on this thread.
    pub fn on(&self, thread: usize) -> Home {
        locked(&self.0)[thread] += 1;
        Home { homes: self.clone(), thread }
    }

    /// Puts the state of a rule on the thread with the fewest; among equals on the first one from `from` on.
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
