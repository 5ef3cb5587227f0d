//! The order of requests when a rule changes its sink, or stops and starts: the next sink sends nothing while the one
//! that the rule has left still sends to the same address.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio_util::task::TaskTracker;

use crate::sync::locked;

/// The order in which the sinks of a process were opened, and those that their rules have left. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Order(Arc<Shared>);

#[derive(Default)]
struct Shared {
    opened: AtomicU64,
    left: Mutex<Vec<Left>>,
}

/// A sink that its rule has left.
struct Left {
    number: u64,
    address: String,
    /// those that send its messages
    tasks: TaskTracker,
}

/// The place of a sink.
#[derive(Clone)]
pub(super) struct Turn {
    order: Order,
    number: u64,
    address: String,
}

impl Order {
    /// A place behind all sinks so far, for a sink with this address.
    pub fn turn(&self, address: &str) -> Turn {
        let number = self.0.opened.fetch_add(1, Ordering::Relaxed);
        Turn { order: self.clone(), number, address: address.to_owned() }
    }
}

impl Turn {
    /// Its rule has left the sink, whose messages these closed `tasks` send.
    pub fn leave(&self, tasks: &TaskTracker) {
        let mut left = locked(&self.order.0.left);
        left.retain(|other| !other.tasks.is_empty() && other.number != self.number);
        left.push(Left { number: self.number, address: self.address.clone(), tasks: tasks.clone() });
    }

    /// Waits until the sinks with its address that were opened and left before have ended.
    pub async fn comes(&self) {
        let first = || {
            let left = locked(&self.order.0.left);
            let is_before =
                |other: &&Left| other.number < self.number && other.address == self.address && !other.tasks.is_empty();
            left.iter().find(is_before).map(|other| other.tasks.clone())
        };
        while let Some(tasks) = first() {
            tasks.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_sink_waits_for_those_that_were_left_before() {
        let order = Order::default();
        let turns = ["a", "b", "a", "a"].map(|address| order.turn(address));
        let sinks = [(); 4].map(|()| TaskTracker::new());
        let ends = [0, 1, 2, 3].map(|sink: usize| {
            let (end, ended) = tokio::sync::oneshot::channel::<()>();
            sinks[sink].spawn(ended);
            sinks[sink].close();
            end
        });
        let waits = || turns.each_ref().map(|turn| turn.comes().now_or_never().is_none());
        assert_eq!(waits(), [false; 4]);
        turns[0].leave(&sinks[0]);
        turns[1].leave(&sinks[1]);
        turns[2].leave(&sinks[2]);
        assert_eq!(waits(), [false, false, true, true]);
        let [first, _second, third, _fourth] = ends;
        drop(first);
        sinks[0].wait().await;
        assert_eq!(waits(), [false, false, false, true]);
        drop(third);
        turns[3].comes().await;
    }
}
