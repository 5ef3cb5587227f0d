//! A rule that has left its thread while other processes still send results to its sinks.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::oneshot;

use super::super::output::Output;
use super::super::relay::Relay;

/// A rule that has left its thread, until the other processes have left it and have received its results.
pub struct Leaver {
    pub relay: Rc<Relay>,
    /// its sinks, which get the results of the others
    pub output: Rc<RefCell<Output>>,
    /// the number of processes that have not left yet
    pub awaited: usize,
    /// notified when nothing is in flight
    pub done: oneshot::Sender<()>,
}

impl Leaver {
    /// Whether its sinks are still open.
    pub fn listens(&self) -> bool {
        !self.done.is_closed()
    }

    /// Whether nothing is in flight any more.
    pub fn is_over(&self) -> bool {
        self.awaited == 0 && self.relay.is_settled()
    }
}
