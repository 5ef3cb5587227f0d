//! A stream's queues: one for each data thread that reads it.
//!
//! A message goes into the queue of the thread whose socket has read it, so it does not cross threads. If that thread
//! does not read the stream, the message always goes into the same other queue, so that messages of one connection stay
//! in order.

use std::sync::Arc;

use crate::io::queue::FrameSender;

/// The queues of one stream, each with its data thread. Clones share them.
#[derive(Clone)]
pub struct ThreadQueues(Arc<[(usize, FrameSender)]>);

impl ThreadQueues {
    /// The queues of these threads.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(senders: Vec<(usize, FrameSender)>) -> ThreadQueues {
        assert!(!senders.is_empty(), "a stream has a queue");
        ThreadQueues(senders.into())
    }

    /// The queue for messages from a socket on this data thread.
    pub fn of(&self, thread: usize) -> &FrameSender {
        let own = self.0.iter().find(|(of, _)| *of == thread);
        let (_, sender) = own.unwrap_or(&self.0[thread % self.0.len()]);
        sender
    }

    /// The first queue, for sources that are not on a data thread.
    pub fn first(&self) -> FrameSender {
        self.0[0].1.clone()
    }

    /// Whether several data threads read the stream.
    pub fn is_spread(&self) -> bool {
        self.0.len() > 1
    }
}

impl From<FrameSender> for ThreadQueues {
    fn from(sender: FrameSender) -> ThreadQueues {
        ThreadQueues::new(vec![(0, sender)])
    }
}
